"""A table: everything that can be done with its records."""

from __future__ import annotations

from .operations.asynchronous import AsyncOperations
from .operations.atomic import AtomicOperations
from .operations.batch import BatchOperations
from .operations.many import ManyOperations
from .operations.ranges import RangeOperations
from .operations.single import SingleOperations


class Table(SingleOperations, RangeOperations, AtomicOperations, BatchOperations, ManyOperations, AsyncOperations):
    """A handle on one table: all operations on its records. Made by ``client.table(name)``.

    Keys are bytes, or str as UTF-8. Values are bytes or str, or what the table's codec encodes; they come back as
    bytes, or as it decodes them. Times are seconds, as int or float. Every verb that sends a request can raise
    ClientClosed and WrongThread, and with a codec CodecError, besides what it says itself.

    Attributes:
        client: The client.
        name: The table's name.
        codec: How values are turned into bytes and back; None: bytes as they are.
    """

    __slots__ = ()

    def warm_up(self, timeout: float | None = None) -> int:
        """Learn the routes and connect to every server that is primary of a partition, before traffic comes.

        Args:
            timeout: Seconds for all of it; None: the client's default.

        Returns:
            The number of servers connected to.

        Raises:
            TableNotFound: The meta servers do not know the table.
            MetaUnreachable: No meta server answered in time.
            RequestTimeout: The table cannot serve yet.
            ConnectFailed: A primary could not be reached; all the others were dialled nevertheless.

        Retries: the meta servers are asked until the timeout, each primary is dialled once.
        Greenlets: spawns one for each server until it returns. Any number may call at once: they share the dials, which
            go on when a caller is killed.

        Example:
            >>> table.warm_up(timeout=2.0)
            3
        """
        return self._dispatcher.warm_up(timeout)
