"""A table: everything that can be done with its records."""

from __future__ import annotations

from .operations.asynchronous import AsyncOperations
from .operations.atomic import AtomicOperations
from .operations.batch import BatchOperations
from .operations.many import ManyOperations
from .operations.ranges import RangeOperations
from .operations.single import SingleOperations


class Table(SingleOperations, RangeOperations, AtomicOperations, BatchOperations, ManyOperations, AsyncOperations):
    """A handle on one table."""

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
            ConnectFailed: A primary could not be reached.
        """
        return self._dispatcher.warm_up(timeout)
