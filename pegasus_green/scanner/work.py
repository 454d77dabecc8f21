"""What belongs to one scan, whoever reads for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any

from gevent import get_hub

from ..cluster.attempt import DEFAULT
from ..cluster.dispatcher import Dispatcher
from ..cluster.routing import Route, RoutingTable
from ..errors import PegasusError, TableError
from ..retry import RetryPolicy
from .ownership import holds_no_foreign_rows
from .parts import Part, key_part, plan
from .query import MAX_BATCH, Query

# A reply above the one makes the batches smaller, so that they come to about the other; much smaller ones let them
# grow again (bytes).
LARGE_REPLY = 4 * 1024 * 1024
GOOD_REPLY = 1024 * 1024


class Work:
    """What belongs to one scan and is shared by everybody who reads for it; it does not know the iterator.

    Attributes:
        waiting: Parts that nobody reads now; None: nothing was planned yet.
        active: Parts that are being read.
        max_rows: Most rows to be asked for in one reply.
        rows_a_batch: Rows to be asked for now.
        app_id: The table's id, 0 while it is not known.
        initial_count: The partition count that the table was created with; 0: unknown.
        closed: Whether nothing is to be read any more.
        workers: Greenlets that read for this scan.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        query: Query,
        *,
        batch_size: int,
        timeout: float | None,
        retry: RetryPolicy | None = DEFAULT,
        parts: Iterable[tuple[int, int, bytes | None]] | None = None,
        only: tuple[int, ...] | None = None,
        app_id: int = 0,
    ) -> None:
        """Describe a scan; no I/O."""
        self.dispatcher, self.query = dispatcher, query
        self.max_rows = self.rows_a_batch = min(batch_size, MAX_BATCH)
        self.timeout, self.retry, self.only, self.app_id = timeout, retry, only, app_id
        self.initial_count = 0
        self.waiting: deque[Part] | None = None
        self.active: set[Part] = set()
        self.closed = False
        self.workers: set[Any] = set()
        dispatcher.cluster.deadline(timeout, 0.0)  # refuses what is no timeout
        if query.hash_key is not None:
            afters = [None] if parts is None else [after for _, _, after in parts]
            self.waiting = deque(key_part(query.hash_key, after) for after in afters)
        elif parts is not None:
            self.waiting = deque(Part(index, modulus, after) for index, modulus, after in parts)

    def plan(self) -> deque[Part]:
        """Return the parts that wait, planning them if that has not been done; that may wait for the routes.

        Raises:
            InvalidArgument: A partition was chosen that does not exist.
            PegasusError: The routes cannot be had.
        """
        if self.waiting is None:
            cluster = self.dispatcher.cluster
            cluster.bind()
            deadline = cluster.deadline(self.timeout, monotonic())
            table = self.dispatcher.routes.get(deadline)
            if isinstance(table, PegasusError):
                table.table, table.operation = self.dispatcher.routes.name, "scan"
                try:
                    raise table
                finally:
                    del table  # its traceback holds this frame
            if self.waiting is None:
                self.waiting = deque(plan(table, self.only))
                self.app_id = table.app_id
                self._learn_initial_count(table, deadline)
        return self.waiting

    def _learn_initial_count(self, table: RoutingTable, deadline: float) -> None:
        """Find out what may save a look at each row.

        A count asks the meta servers: they save it to have all keys sent. Rows cost less than a question.
        """
        asks = self.query.count_only and not holds_no_foreign_rows(table.count, 0)
        self.initial_count = self.dispatcher.routes.initial_count(table.app_id, deadline if asks else None)

    def is_pure(self, part: Part) -> bool:
        """Tell whether a part's partition holds no rows of other partitions, for certain."""
        return not part.modulus or holds_no_foreign_rows(part.modulus, self.initial_count)

    def narrow(self, part: Part, table: RoutingTable) -> Route | PegasusError:
        """Return the partition that serves a part now; what a split has taken off it joins the parts that wait.

        An error says that it is another table, or that its partition count cannot come from a split. Newer routes may
        tell otherwise: the token of a process that had them already may be resumed here.
        """
        assert self.waiting is not None
        name = self.dispatcher.routes.name
        if self.app_id != table.app_id and self.app_id:
            return TableError(f"table {name!r} was dropped and created anew while it was scanned", table=name)
        if table.count % part.modulus:
            what = f"the table has {table.count} partitions now, where the scan has to go on with {part.modulus}"
            return TableError(what, table=name)
        self.waiting.extendleft(part.narrow(table))
        return table.routes[part.index]

    def adapt(self, asked: int, rows: int, size: int) -> bool:
        """Adapt the batches to the rows' size; tell whether a scan that asked for so many rows is to be opened anew.

        A server counts rows, not bytes: 1,000 of 64 KiB are a reply of 64 MiB, which takes memory and keeps the hub
        busy.

        Args:
            asked: Rows that the open scan asks for.
            rows: Rows that a reply had.
            size: Its bytes.
        """
        if size > LARGE_REPLY:
            wanted = max(rows * GOOD_REPLY // size, 1)
        elif rows >= asked and size < GOOD_REPLY // 4:
            wanted = min(4 * asked, self.max_rows)
        else:
            return False
        self.rows_a_batch = wanted
        return wanted != asked

    def suspend(self) -> None:
        """End greenlets and contexts, so that nothing goes on until somebody reads again. Never yields."""
        # Those killed put their parts back and take themselves off the list.
        for worker in self.workers:
            worker.kill(block=False)
        for part in (*self.active, *(self.waiting or ())):
            part.clear()

    def release(self) -> None:
        """End everything. Never yields; runs in the client's thread."""
        self.closed = True
        self.suspend()

    def release_soon(self) -> None:
        """Have the hub do ``release``; may be called from anywhere, as the garbage collector does."""
        hub = self.dispatcher.cluster.hub
        if hub is not None and hub.loop is not None and (self.workers or self.active or self.waiting):
            hub.loop.run_callback_threadsafe(self.release)

    def release_now(self) -> None:
        """Do ``release``, at once where that is possible."""
        self.closed = True
        if get_hub() is self.dispatcher.cluster.hub:
            self.release()
        else:
            self.release_soon()
