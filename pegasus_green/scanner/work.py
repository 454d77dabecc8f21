"""The state of one scan that all its readers share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from gevent._hub_local import get_hub_if_exists
from greenlet import getcurrent

from ..cluster.attempt import DEFAULT
from ..cluster.dispatcher import Dispatcher
from ..cluster.routing import Route, RoutingTable
from ..errors import InvalidArgument, PegasusError, TableError
from ..retry import RetryPolicy
from ..transport.threads import tell
from .ownership import holds_no_foreign_rows
from .parts import Part, key_part, plan
from .query import MAX_BATCH, Query

# Bytes; a small max_frame lowers it. A larger reply makes the batches smaller, so that replies have about a quarter of
# this size. If replies have less than an eighth of this size, the batches grow again.
LARGE_REPLY = 4 * 1024 * 1024
# Bytes. While the size of the rows is unknown, a batch fits into max_frame if no row is larger than this. MAX_ROW is
# the default limit of servers. MAX_KEYS is for rows without values.
MAX_ROW = 1024 * 1024
MAX_KEYS = 64 * 1024
# A batch has at most this many times the rows of the last one. The first batch of a scan fits into max_frame even if
# its rows are this many times as large as those of earlier scans of the table.
GROWTH = 16

Position = tuple[int, int, "bytes | None"]


class Replanned(Exception):
    """The part of a request belongs to an earlier plan; another plan has replaced it."""


class Planned(NamedTuple):
    """The plan of a scan and its state. Another plan replaces it in one step.

    Attributes:
        app_id: The table's id; 0 if it is not known yet.
        parts: Index, modulus and last returned key of each part when the scan began.
        waiting: See ``Work``.
        active: See ``Work``.
    """

    app_id: int
    parts: tuple[Position, ...]
    waiting: deque[Part] | None
    active: dict[Part, Any]


class Start:
    """What scans that divide a table have in common: all of them read the same table.

    Attributes:
        plan: Id and parts of the table; all the scans together read these parts.
        read: Id of the table that one of the scans has got a batch of; 0: none has.
    """

    __slots__ = ("plan", "read")

    def __init__(self) -> None:
        """Begin without a plan."""
        self.plan: tuple[int, tuple[Position, ...]] = 0, ()
        self.read = 0


class Work:
    """The state of one scan that all its readers share. It does not know the iterator.

    Attributes:
        planned: The plan. ``waiting``, ``active`` and ``app_id`` are its fields.
        waiting: Parts that nobody reads now; None: the scan is not planned yet.
        active: Parts that are being read, with the greenlets that read them. At any interruption a part is in at least
            one of the two places. If it is in both, its greenlet reads it, or has ended. A part in neither is finished,
            or belongs to an earlier plan.
        begun: Whether the plan is final: the scan has got a batch, was resumed, or reads one hash key. Until then, the
            plan follows the routes.
        max_rows: Maximum number of rows in one reply.
        rows_a_batch: Number of rows that requests ask for now.
        good_reply: Bytes that a reply should have. A reply above max_frame ends the connection with all calls on it.
        closed: Whether the scan has ended.
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
        parts: Iterable[Position] | None = None,
        only: tuple[int, ...] | None = None,
        app_id: int = 0,
        share: tuple[Start, int, int] | None = None,
    ) -> None:
        """Describe a scan; no I/O.

        Args:
            dispatcher: The table.
            query: The selection.
            batch_size: Maximum number of rows in one reply.
            timeout: Seconds for one batch.
            retry: Retry policy of each batch.
            parts: The parts to read; None: the whole table or ``only``.
            only: The chosen partitions; None: all.
            app_id: The id of the table that ``parts`` belong to.
            share: For one of several scans that divide the table: what they have in common, the number of this scan,
                and how many there are.
        """
        self.dispatcher, self.query = dispatcher, query
        self._max_frame = dispatcher.cluster.options.max_frame
        self.good_reply = min(LARGE_REPLY, self._max_frame // 8) // 4
        self.max_rows = min(batch_size, MAX_BATCH)
        self.rows_a_batch = min(self._fitting_rows(), self.max_rows)
        self.timeout, self.retry, self.only = timeout, retry, only
        self._share = share
        # The plan of a resumed scan does not follow the routes.
        self.begun = parts is not None or query.hash_key is not None
        self.closed = False
        self.workers: set[Any] = set()
        dispatcher.cluster.deadline(timeout, 0.0)  # raises for an invalid timeout
        known: tuple[Position, ...] | None = None if parts is None else tuple(parts)
        waiting: deque[Part] | None = None
        if query.hash_key is not None:
            known = ((0, 0, None),) if known is None else known
            waiting = deque(key_part(query.hash_key, after) for _, _, after in known)
        elif known is not None:
            waiting = deque(Part(*one) for one in known)
        self.planned = Planned(app_id, known or (), waiting, {})
        # Whether a count asks for the initial partition count again if the client has forgotten it.
        self._asks = False

    @property
    def waiting(self) -> deque[Part] | None:
        """See the class."""
        return self.planned.waiting

    @property
    def active(self) -> dict[Part, Any]:
        """See the class."""
        return self.planned.active

    @property
    def app_id(self) -> int:
        """The table's id; 0 if it is not known yet."""
        return self.planned.app_id

    def plan(self) -> deque[Part]:
        """Return the waiting parts. The first call plans them and may wait for the routes.

        Raises:
            InvalidArgument: A chosen partition does not exist.
            PegasusError: The client cannot get the routes.
        """
        if self.waiting is None:
            cluster = self.dispatcher.cluster
            cluster.bind()
            deadline = cluster.deadline(self.timeout, monotonic())
            with suppress(InvalidArgument):
                self._plan_with(self.dispatcher.routes.get(deadline), deadline)
            if self.waiting is None:
                # A split may have added the chosen partition since the routes were learned.
                self._plan_with(self.dispatcher.routes.renew(deadline), deadline)
        assert self.waiting is not None
        return self.waiting

    def _plan_with(self, table: RoutingTable | PegasusError, deadline: float) -> None:
        """Plan the scan with these routes, or raise the error in their place."""
        if isinstance(table, PegasusError):
            table.table, table.operation = self.dispatcher.routes.name, "scan"
            try:
                raise table
            finally:
                del table  # the traceback of the error holds this frame
        if self.waiting is None:
            self._divide(table, deadline)

    def _positions(self, table: RoutingTable) -> tuple[Position, ...]:
        """Return the parts of a table that this scan reads if it begins now.

        Raises:
            InvalidArgument: A chosen partition does not exist.
        """
        if self._share is None:
            return tuple((part.index, part.modulus, None) for part in plan(table, self.only))
        start, first, step = self._share
        if start.plan[0] != table.app_id:
            start.plan = table.app_id, tuple((part.index, part.modulus, None) for part in plan(table))
        return start.plan[1][first::step]

    def _divide(self, table: RoutingTable, deadline: float) -> None:
        """Plan the scan with these routes, unless another greenlet plans it meanwhile.

        For a count, the client asks the meta servers for the initial partition count, because this saves the transfer
        of all keys. For a scan of rows, the check of each row costs less than the request.
        """
        before, parts = self.planned, self._positions(table)
        asks = self.query.count_only and not holds_no_foreign_rows(table.count, 0)
        self._asks = asks and self.dispatcher.routes.initial_count(table.app_id, deadline) > 0
        if self.planned is before:
            self.planned = Planned(table.app_id, parts, deque(Part(*part) for part in parts), {})

    def ask_again(self, deadline: float) -> None:
        """Ask again for an initial partition count that was forgotten because a connection was lost."""
        if self._asks:
            self._asks = self.dispatcher.routes.initial_count(self.app_id, deadline) > 0

    def _is_outdated(self, table: RoutingTable) -> bool:
        """Tell whether the scan has read nothing, and its plan does not fit the newest routes.

        Then the plan is from the time before a split, or from an earlier table of this name.
        """
        if self.begun or (self._share is not None and self._share[0].read not in (0, table.app_id)):
            return False
        return table.app_id != self.app_id or self._positions(table) != self.planned.parts

    def has_read(self, part: Part) -> bool:
        """Record that a part got a batch. False: the part belongs to an earlier plan, and the batch does not count."""
        if part not in self.active:
            return False
        if self._share is not None:
            self._share[0].read = self.app_id
        self.begun = True
        return True

    def claim(self) -> Part | None:
        """Return a waiting part that the calling greenlet is to read; None: there is none.

        A signal handler or a finalizer that makes a call lets other greenlets run at any step. So the claim is one
        step.
        """
        reader, waiting = getcurrent(), self.waiting or deque()
        for part in waiting.copy():
            if self.active.setdefault(part, reader) is reader:
                if part in waiting:
                    waiting.remove(part)
                    return part
                # Another greenlet has finished it since the copy.
                self.active.pop(part, None)
        return None

    def reclaim(self) -> None:
        """Put the parts back whose greenlets have ended at an interruption."""
        for part, reader in self.active.copy().items():
            if reader not in self.workers:
                if self.waiting is not None and part not in self.waiting:
                    self.waiting.appendleft(part)
                self.active.pop(part, None)

    def is_pure(self, part: Part) -> bool:
        """Tell whether a part's partition certainly holds no rows of other partitions."""
        initial_count = self.dispatcher.routes.initial_count(self.app_id)
        return not part.modulus or holds_no_foreign_rows(part.modulus, initial_count)

    def narrow(self, part: Part, table: RoutingTable, deadline: float) -> Route | PegasusError:
        """Return the route of the partition that serves a part. Parts that a split adds join the waiting parts.

        An error means that it is another table, or that the partition count is not the result of a split. Newer routes
        may remove the error, unless the table ``is_gone``: the token can come from a process that had them already.

        Raises:
            Replanned: The scan has read nothing, and was planned again with these routes.
        """
        if part in self.active and self._is_outdated(table):
            self._divide(table, deadline)
        if part not in self.active:
            raise Replanned
        assert self.waiting is not None
        name = self.dispatcher.routes.name
        if self.app_id != table.app_id and self.app_id:
            return TableError(f"table {name!r} was dropped and created again during the scan", table=name)
        if table.count % part.modulus:
            what = f"the table has {table.count} partitions now; the scan was planned for {part.modulus}"
            return TableError(what, table=name)
        part.narrow(table, self.waiting)
        return table.routes[part.index]

    def is_gone(self) -> bool:
        """Tell whether the table of the scan certainly does not exist any more. The ids of new tables are higher."""
        table = self.dispatcher.routes.table
        return table is not None and 0 < self.app_id < table.app_id

    def _fitting_rows(self) -> int:
        """Return a number of rows that fit into max_frame, as far as one can know before the first reply."""
        if self.query.count_only:
            return MAX_BATCH
        if self.query.no_value:
            return max(self._max_frame // MAX_KEYS, 1)
        known = self.dispatcher.stats.row_size or MAX_ROW
        return max(self._max_frame // (GROWTH * known), self._max_frame // MAX_ROW, 1)

    def adapt(self, asked: int, rows: int, size: int) -> bool:
        """Adapt the batch size to the size of the rows. Return whether the open scan should be opened again.

        A server limits rows, not bytes. 1,000 rows of 64 KiB are a reply of 64 MiB, which takes memory and keeps the
        hub busy.

        Args:
            asked: Number of rows that the open scan asks for.
            rows: Number of rows in the reply.
            size: Bytes of the reply.
        """
        stats = self.dispatcher.stats
        # The rows of a batch that is not full, such as the only row of a hash key, do not show that all rows are small.
        known = rows >= asked or (rows and stats.row_size)
        if known and not self.query.no_value and not self.query.count_only:
            # A few large rows do not tell much about the other rows.
            stats.row_size = max(stats.row_size, size // max(rows, GROWTH))
        good = rows * self.good_reply // size
        if size > 4 * self.good_reply:
            wanted = max(good, 1)
        elif rows >= asked and size < self.good_reply // 2:
            wanted = min(good, GROWTH * asked, self.max_rows)
        else:
            return False
        self.rows_a_batch = wanted
        return wanted != asked

    def shrink(self, asked: int) -> None:
        """Ask for fewer rows, because a reply was probably above max_frame.

        The next reply fits if no row is larger than ``MAX_ROW`` and ``max_frame`` is not below it.
        """
        surely, fewer = self._max_frame // MAX_ROW, max(asked // 8, 1)
        self.rows_a_batch = max(min(surely, fewer), 1)
        self.max_rows = min(self.max_rows, max(surely, fewer))

    def suspend(self) -> None:
        """End greenlets and contexts, so that nothing runs until somebody reads again. Never yields."""
        hub = self.dispatcher.cluster.hub
        if hub is not None and hub.loop is not None:
            # A killed greenlet puts its part back and removes itself from the list.
            for worker in self.workers.copy():
                worker.kill(block=False)
        for part in (*self.active, *(self.waiting or ())):
            part.clear()

    def release(self) -> None:
        """End the scan. Never yields; runs in the client's thread."""
        self.closed = True
        self.suspend()
        self.dispatcher.cluster.dropped_scans.pop(self, None)

    def release_soon(self) -> None:
        """Schedule ``release`` in the hub. Any thread and the garbage collector may call it."""
        hub = self.dispatcher.cluster.hub
        if hub is not None and (self.workers or self.active or self.waiting):
            self.dispatcher.cluster.dropped_scans[self] = None
            tell(hub.loop, self.release)

    def release_now(self) -> None:
        """Run ``release``, at once if possible."""
        self.closed = True
        hub = self.dispatcher.cluster.hub
        if hub is not None and hub is get_hub_if_exists():
            self.release()
        else:
            self.release_soon()
