"""One batch of one part: read from the server's open context, or from a new one after the last key."""

from __future__ import annotations

from math import frexp
from time import monotonic
from typing import Any, NamedTuple

from gevent._waiter import Waiter

from ..cluster.attempt import Attempt, await_turn, may_repeat
from ..cluster.routing import Route
from ..errors import (
    Incomplete,
    PegasusError,
    ProtocolError,
    RequestTimeout,
    StorageError,
    TableError,
    storage_error,
)
from ..protocol.binary import Buffer
from ..protocol.rows import Rows, read_rows
from ..protocol.rpc import GET_SCANNER, SCAN, Rpc
from ..protocol.rrdb import ScanRequest
from ..retry import Reaction
from ..transport import fork
from ..transport.connection import Connection
from ..transport.handover import Orphan, Outcome, left_ms
from .ownership import own_rows
from .parts import COMPLETED, NONE, Part, free_context
from .work import Replanned, Work

# If a count is lost this often, the client reads the keys, because it can then continue after the last key.
MAX_LOST_COUNTS = 2
# The reply to a scan if the server does not know the context: status 1 in the usual layout.
_STATUS_1 = b"\x08\0\1\0\0\0\1"


class Batch(NamedTuple):
    """Rows of one reply.

    Attributes:
        key: Index and modulus of the part.
        rows: As ``Query.read`` returns them; may be empty.
        final: Whether the part ends with this batch.
        counted: In the final batch of a count: the number of rows of the whole part.
    """

    key: tuple[int, int]
    rows: list[Any]
    final: bool
    counted: int


def _is_result(rpc: Rpc, frame: Buffer) -> bool:
    """Tell whether a reply has the frame error ERR_OK and a body."""
    return bytes(frame[4 : rpc.body_offset - 7]) == rpc.ok_head and len(frame) > rpc.body_offset


class _Orphan(Orphan):
    """Receives the reply to an abandoned request and frees its context.

    If the server refused the request, it has not used up the context that the request named.
    """

    __slots__ = ("_rpc", "_connection", "_route", "_used")

    def __init__(self, rpc: Rpc, connection: Connection, route: Route, used: int) -> None:
        self._rpc, self._connection, self._route, self._used = rpc, connection, route, used

    def switch(self, outcome: Outcome) -> None:
        """Receive the outcome; runs in the hub."""
        context = self._used
        if not isinstance(outcome, PegasusError) and _is_result(self._rpc, outcome):
            try:
                context = read_rows(self._rpc, outcome).context_id
            except ProtocolError:
                return
        free_context(self._connection, self._route, context)


class BatchCall(Attempt):
    """The attempts at one batch.

    Attributes:
        rows: The rows of the successful reply.
    """

    __slots__ = ("work", "part", "rows", "_connection", "_route", "_size", "_left", "_used")

    def __init__(self, work: Work, part: Part, begin: float) -> None:
        """Start the call for a batch."""
        deadline = work.dispatcher.cluster.deadline(work.timeout, begin)
        super().__init__(work.dispatcher, GET_SCANNER, part.hash, b"", deadline, work.retry, deadline - begin)
        self.work, self.part = work, part
        self.rows: Rows | None = None
        self._connection: Connection | None = None
        self._route: Route | None = None
        self._size = 0
        self._left = False
        self._used = NONE

    def route(self) -> Route | PegasusError:
        """Return the route of the part's partition. If the table has split, a table scan is planned again here."""
        if not self.part.modulus or self._generation != fork.generation():
            return super().route()
        table = self.owner.routes.get(self.deadline)
        if isinstance(table, PegasusError):
            return table
        route = self.work.narrow(self.part, table, self.deadline)
        if isinstance(route, PegasusError):
            return route
        self.hash = self.part.hash
        return self.no_primary(route) if route.peer is None else route

    def send(self) -> Outcome:
        """Make one attempt: a scan with the open context, or a get_scanner if the server has none or has lost it."""
        self.number += 1
        self.sent_to = None
        if self.owner.limiters and (refusal := await_turn(self.owner, self.deadline)) is not None:
            return refusal
        route = self.route()
        if isinstance(route, PegasusError):
            return route
        self.sent_to = route
        part = self.part
        if part.context is not None:
            if part.is_at(route):
                outcome = self._scan(route)
                if outcome is not None:
                    return outcome
            else:
                # The primary has moved or was dialled again. The context is unreachable or belongs to another server.
                part.clear()
            part.lose()
        self._used = NONE
        self.work.ask_again(self.deadline)
        assert route.peer is not None
        connection = route.peer.connect(self.deadline)
        if isinstance(connection, PegasusError):
            return connection
        # A server may count rows of other partitions, too. The client can filter keys.
        as_rows = part.breaks >= MAX_LOST_COUNTS or not self.work.is_pure(part)
        part.asked, part.partial = self.work.rows_a_batch, 0
        argument = self.work.query.open(part.after, part.asked, as_rows=as_rows)
        return self._ask(GET_SCANNER, connection, route, argument)

    def _scan(self, route: Route) -> Outcome | None:
        """Use the context. None: the server does not know it any more."""
        part = self.part
        context, connection = part.take(), part.connection
        assert context is not None
        assert connection is not None
        self._used = context
        try:
            outcome = self._ask(SCAN, connection, route, SCAN.encode_argument(ScanRequest(context_id=context)))
        except BaseException:
            if not self._left:
                # Killed before the request used the context.
                part.clear(context)
            raise
        if isinstance(outcome, PegasusError) or not _is_result(SCAN, outcome):
            # Refused, or outcome unknown. A context that is not freed would hold its snapshot for five minutes.
            part.clear(context)
            part.lose()
            return outcome
        return None if bytes(outcome[SCAN.body_offset : SCAN.body_offset + 7]) == _STATUS_1 else outcome

    def _ask(self, rpc: Rpc, connection: Connection, route: Route, argument: bytes) -> Outcome:
        """Send a request and wait for its outcome.

        If the caller leaves before the reply, an orphan takes the reply and frees its context.
        """
        self.rpc, self._connection, self._route, self._left = rpc, connection, route, False
        movable = route if may_repeat(self.retry, self.number) else None
        while (now := monotonic()) < self.deadline:
            waiter: Any = Waiter(connection.hub)
            seqid = 0
            try:
                try:
                    milliseconds = left_ms(self.deadline, now)
                    seqid = connection.start(
                        rpc, route, self.hash, argument, self.deadline, milliseconds, waiter, movable
                    )
                    if seqid:
                        self._left = True
                        outcome = connection.checked(waiter.get(), seqid)
                except BaseException:
                    self._give_up(connection, seqid, waiter)
                    raise
            except BaseException:
                # Do this even if the clean-up itself is interrupted.
                self._give_up(connection, seqid, waiter)
                raise
            if not seqid:
                refusal = connection.wait_for_room(self.deadline, movable)
                if refusal is not None:
                    return refusal
                continue
            if isinstance(outcome, (bytes, bytearray, memoryview)):
                self._size = len(outcome)
            elif isinstance(connection.lost, ProtocolError):
                # Probably the batch was larger than max_frame. The same batch would end the next connection, too.
                self.work.shrink(self.part.asked)
            elif isinstance(outcome, PegasusError) and outcome.sent:
                # The call ended or moves to another primary. The slow server may still answer, so wait as long again.
                orphan = _Orphan(rpc, connection, route, self._used)
                connection.leave(seqid, (orphan, monotonic() + self.timeout, None, None))
            return outcome
        return RequestTimeout("no time left to send the request", address=route.primary)

    def _give_up(self, connection: Connection, seqid: int, waiter: Any) -> None:
        """Take the request back, or let an orphan wait for the reply in the caller's place; may be called again."""
        if not seqid:
            # Interrupted before it was known whether the request left. Its reply may never come, so nothing waits.
            connection.abandon(0, waiter)
            return
        entry = connection.pending.get(seqid)
        if entry is None or entry[0] is not waiter:
            return
        if connection.withdraw(seqid):
            connection.abandon(seqid)
            self._left = False
        else:
            assert self._route is not None
            orphan = _Orphan(self.rpc, connection, self._route, self._used)
            connection.leave(seqid, (orphan, self.deadline, None, None))

    def _refusal(self, frame: Buffer) -> PegasusError | None:
        error = super()._refusal(frame)
        if error is not None:
            return error
        try:
            found = self.work.query.read(self.rpc, frame)
        except ProtocolError as unreadable:
            return unreadable
        if found.status == 7 and not found.rows:
            # The server's time ended without a row, so there is no key to continue after.
            self.part.lose()
            return Incomplete("the server found no row within its time limit", last_key=self.part.after)
        if found.status == 7:
            self.rows = found
            return None
        if found.status:
            return storage_error(found.status)
        if found.context_id == NONE and (found.rows or self.rpc is SCAN):
            return ProtocolError("the batch is not the last one and has no context to continue with")
        self.rows = found
        return None

    def _reaction(self, error: PegasusError) -> Reaction | None:
        if isinstance(error, StorageError):
            # Not a frame error of the same name. Status 1 of a scan: the server does not know the context.
            again = isinstance(error, Incomplete) or (error.status == 1 and self.rpc is SCAN)
            return Reaction(retry=True) if again else None
        if type(error) is TableError and self.work.is_gone():
            return None
        return super()._reaction(error)

    def finish(self) -> Batch:
        """Record the rows, and return them."""
        part, found = self.part, self.rows
        assert found is not None
        assert self._connection is not None
        assert self._route is not None
        query = self.work.query
        rows, after, counted, partial = found.rows, part.after, part.counted, part.partial
        if rows:
            after = query.key_of(rows[-1])
            if not self.work.is_pure(part):
                rows = own_rows(rows, part.index, part.modulus)
        if found.kv_count is not None and not found.rows:
            partial += found.kv_count
        else:
            # Counted rows are final: a lost context does not change their number.
            counted, partial = counted + partial + len(rows), 0
        final = found.context_id in (COMPLETED, NONE)
        if found.status == 7:
            final = query.range.behind(after).is_empty
        batch = Batch(part.key, rows, final, counted + partial)
        # One step: an exception between any two steps loses no rows.
        part.fetched = batch, after, counted, partial
        part.settle()
        counts = self.work.has_read(part)
        adapted = self.work.adapt(part.asked, len(found.rows), self._size)
        if not final and found.status == 0:
            part.opened(found.context_id, self._connection, self._route)
            if self.work.closed or adapted or not counts:
                part.clear()
        return batch


def fetch(work: Work, part: Part) -> Batch:
    """Return a part's next batch, which may be empty. After a failure it reads again after the last key.

    If the scan is planned again meanwhile, the batch is empty and the part is not among the active parts any more.

    Raises:
        PegasusError: The batch cannot be read, or not in time. ``fetch`` may be called again for the part.
    """
    if work.query.range.behind(part.after).is_empty:
        part.clear()
        batch = Batch(part.key, [], True, part.counted)
        part.fetched = batch, part.after, part.counted, part.partial
        return batch
    dispatcher = work.dispatcher
    cluster, listeners, stats = dispatcher.cluster, dispatcher.cluster.listeners, dispatcher.stats
    cluster.bind()
    begin = monotonic()
    call = BatchCall(work, part, begin)
    failure: BaseException | None = None
    if listeners:
        listeners.emit("call_started", dispatcher.routes.name, "scan")
    try:
        cluster.running.add(call)
        while call.decide(call.send()) is None:
            call.pause()
        stats.histogram[frexp(monotonic() - begin)[1]] += 1
        return call.finish()
    except Replanned:
        return Batch(part.key, [], False, 0)
    except BaseException as error:
        failure = error
        if isinstance(error, PegasusError):
            stats.errors[type(error).__name__] += 1
        raise
    finally:
        cluster.running.discard(call)
        if listeners:
            seconds = monotonic() - begin
            server = call.sent_to.primary if call.sent_to is not None else ""
            listeners.emit(
                "call_finished", dispatcher.routes.name, "scan", seconds, failure, call.number, False, server
            )
        # The traceback of an error holds this frame. Without this, frame and error would form a cycle.
        failure = None
