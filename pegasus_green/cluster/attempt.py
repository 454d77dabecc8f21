"""The attempts of one call: choose the target, classify the outcome, wait before the next attempt."""

from __future__ import annotations

from time import monotonic
from typing import Any, NoReturn, Protocol

from ..errors import (
    FORKED,
    AccessDenied,
    AuthenticationFailed,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    ForkedConnection,
    InvalidArgument,
    MetaUnreachable,
    NotServing,
    PegasusError,
    ProtocolError,
    RequestTimeout,
    TableError,
    TableNotFound,
    TableUnavailable,
    WriteRejected,
    server_error,
)
from ..options import ClientOptions, HedgePolicy
from ..protocol.binary import Buffer
from ..protocol.framing import parse_reply
from ..protocol.rpc import Rpc
from ..retry import Reaction, RetryPolicy, reaction
from ..transport import fork
from ..transport.handover import Moved, Outcome
from ..transport.notices import Notices
from ..transport.pool import Pool
from ..transport.waits import wait
from .hedging import HEDGED, Race
from .limiter import RequestLimiter
from .refresher import TableRoutes
from .routing import Route
from .stats import TableStats

# Default of ``retry``: the client's policy. None means "never repeat".
DEFAULT: Any = type("Default", (), {"__repr__": lambda _self: "DEFAULT"})()


class Shared(Protocol):
    """The parts that all tables of a client share."""

    @property
    def options(self) -> ClientOptions:
        """The client's options."""

    @property
    def pool(self) -> Pool:
        """The client's servers."""


class Owner(Protocol):
    """The table of a call."""

    @property
    def cluster(self) -> Shared:
        """The parts that it shares with other tables."""

    @property
    def routes(self) -> TableRoutes:
        """Its routes."""

    @property
    def stats(self) -> TableStats:
        """Its counters."""

    @property
    def notices(self) -> Notices:
        """The writer of its log lines."""

    @property
    def hedge(self) -> HedgePolicy | None:
        """The hedge policy of its reads."""

    @property
    def limiters(self) -> tuple[RequestLimiter, ...]:
        """The limiters of its requests per second."""


def may_repeat(policy: RetryPolicy | None, number: int) -> bool:
    """Tell whether a policy allows another attempt after this many.

    Raises:
        InvalidArgument: The argument is not a policy.
    """
    if policy is not None and not isinstance(policy, RetryPolicy):
        raise InvalidArgument(f"retry must be a RetryPolicy or None (off), not {policy!r}")
    return policy is not None and (policy.max_attempts is None or number < policy.max_attempts)


def await_turn(owner: Owner, deadline: float) -> RequestTimeout | None:
    """Wait for a turn, if the table's limits of requests per second require it; yields.

    Returns:
        The error of a request that gets no turn before the deadline; None: the request may be sent.
    """
    for limiter in owner.limiters:
        if not limiter.wait_for_turn(owner.cluster.pool.ended, deadline):
            return RequestTimeout(f"max_rate={limiter.rate:g} gives the request no turn before its deadline")
    return None


class Attempt:
    """The state of one call during its attempts.

    Attributes:
        number: Number of attempts so far.
        sent_to: Route of the newest attempt; None: it was not sent.
        unanswered: Whether an attempt was sent and no answer to it is known.
        hedged: Whether the outcome came from a secondary.
        last: The error of the newest attempt.
        timeout: Seconds of the whole call, for the error at its end.
    """

    __slots__ = (
        "owner",
        "rpc",
        "hash",
        "argument",
        "deadline",
        "retry",
        "number",
        "sent_to",
        "unanswered",
        "hedged",
        "last",
        "timeout",
        "_next",
        "_generation",
        "__weakref__",
    )

    def __init__(
        self,
        owner: Owner,
        rpc: Rpc,
        partition_hash: int,
        argument: bytes,
        deadline: float,
        retry: RetryPolicy | None,
        timeout: float,
    ) -> None:
        """Start a call, or continue one."""
        self.owner, self.rpc, self.hash, self.argument = owner, rpc, partition_hash, argument
        self.deadline = deadline
        self.retry = owner.cluster.options.retry if retry is DEFAULT else retry
        self.number = 0
        self.sent_to: Route | None = None
        self.unanswered = False
        self.hedged = False
        self.last: PegasusError | None = None
        self.timeout = timeout
        self._next: Reaction | None = None
        self._generation = fork.generation()

    def send(self) -> Outcome:
        """Make one attempt and return its outcome. It waits for routes and connection until the deadline."""
        self.number += 1
        self.sent_to = None
        if self.owner.limiters and (refusal := await_turn(self.owner, self.deadline)) is not None:
            return refusal
        route = self.route()
        if isinstance(route, PegasusError):
            return route
        assert route.peer is not None
        self.sent_to = route
        connection = route.peer.connect(self.deadline)
        if isinstance(connection, PegasusError):
            return connection
        movable = route if self.rpc.repeatable and may_repeat(self.retry, self.number) else None
        now = monotonic()
        if now >= self.deadline:
            return RequestTimeout("no time left to send the request", address=route.primary)
        hedge = self.owner.hedge
        if hedge is None or self.rpc not in HEDGED:
            return connection.call(self.rpc, route, self.hash, self.argument, self.deadline, now, movable)
        self.owner.stats.hedgeable += 1
        race = Race(self.owner.stats, self.owner.cluster.pool, hedge)
        outcome, self.hedged = race.run(connection, self.rpc, route, self.hash, self.argument, self.deadline, movable)
        return outcome

    def route(self) -> Route | PegasusError:
        """Return the current route of the call, or the reason why it is unknown."""
        if self._generation != fork.generation():
            return ForkedConnection(FORKED)
        table = self.owner.routes.get(self.deadline)
        if isinstance(table, PegasusError):
            return table
        route = table.target(self.hash)
        return self.no_primary(route) if route.peer is None else route

    def no_primary(self, route: Route) -> PegasusError:
        """Return the error for a partition without a primary."""
        return TableUnavailable(f"partition {route.index} has no primary now", code="ERR_INVALID_STATE")

    def decide(self, outcome: Outcome) -> Buffer | None:
        """Return the frame of a success; None if another attempt is to be made.

        Raises:
            PegasusError: The call has finally failed.
        """
        error = outcome if isinstance(outcome, PegasusError) else self._refusal(outcome)
        if error is None:
            return outcome  # type: ignore[return-value]
        if error.address is None and self.sent_to is not None:
            error.address = self.sent_to.primary
        if error.sent:
            self.unanswered = True
        what = self._reaction(error)
        if what is not None and what.refresh:
            # Also if this call is not repeated: the next call needs the new routes.
            self.owner.routes.request()
            if self.sent_to is not None:
                self.sent_to.failed_at = monotonic()
                if isinstance(error, NotServing):
                    self.sent_to.refused = True
        if what is not None and what.retry and may_repeat(self.retry, self.number):
            self.last = error
            self._next = what
            owner, code = self.owner, error.code or type(error).__name__
            owner.stats.retries[code] += 1
            text = "repeating %s of table %s after %s from %s"
            table, server = owner.routes.name, error.address or "no server"
            owner.notices.info(f"{code} {table}", text, self.rpc.label, table, code, server)
            return None
        try:
            if (what is None or not what.retry) and isinstance(error, RequestTimeout) and not error.sent and self.last:
                # The deadline ended this attempt before it was sent. The error of the previous one says more.
                error = None
                self.give_up()
            raise self._final(error)
        finally:
            # The traceback holds this frame. Without this, frame and error would form a cycle.
            error = outcome = None  # type: ignore[assignment]

    def _refusal(self, frame: Buffer) -> PegasusError | None:
        """Return the error in a frame; None for a result."""
        rpc = self.rpc
        try:
            reply = parse_reply(frame)
        except ProtocolError as error:
            return self._unreadable(str(error.args[0]))
        if reply.error != "ERR_OK":
            return server_error(reply.error)
        if reply.name != rpc.name + "_ACK":
            return self._unreadable(f"the server sent a reply to {reply.name} instead of {rpc.name}_ACK")
        if reply.offset is None:
            if rpc.is_write:
                return WriteRejected(
                    "the server answered ERR_OK without a result: the write was not applied", code="ERR_OK"
                )
            return ProtocolError("the server sent a reply without a result", sent=True, code="ERR_OK")
        return None

    def _unreadable(self, why: str) -> ProtocolError:
        return ProtocolError(why, sent=True)

    def _reaction(self, error: PegasusError) -> Reaction | None:
        """Return the reaction to an error; None: the call cannot be repeated."""
        if isinstance(error, Moved):
            return Reaction(retry=True)
        if isinstance(error, (ClientClosed, ForkedConnection, ProtocolError, TableNotFound)):
            return None
        if isinstance(error, (RequestTimeout, MetaUnreachable)):
            return None
        if isinstance(error, AuthenticationFailed) and not error.passing:
            return None
        if isinstance(error, ConnectFailed):
            return Reaction(retry=True, refresh=True)
        if isinstance(error, ConnectionLost):
            return Reaction(retry=self.rpc.repeatable or not error.sent, refresh=True)
        if isinstance(error, TableError):
            return Reaction(retry=True, refresh=True)
        return reaction(error.code)

    def _final(self, error: PegasusError) -> PegasusError:
        """Add the facts of the call to an error before it is raised."""
        error.table = self.owner.routes.name
        error.operation = self.rpc.label
        error.attempts = self.number
        if isinstance(error, RequestTimeout):
            error.timeout = self.timeout
        if isinstance(error, AccessDenied):
            error.user = self.owner.cluster.pool.user
        error.last_error = error.last_error or (self.last if self.last is not error else None)
        error.sent = error.sent or self.unanswered
        error.outcome_unknown = self.unanswered and self.rpc.is_write
        return error

    def pause(self) -> None:
        """Wait before the next attempt: for the back-off time, or until there are new routes if they can help.

        Raises:
            RequestTimeout: The deadline is earlier.
        """
        what, last, policy = self._next, self.last, self.retry
        assert what is not None
        assert last is not None
        assert policy is not None
        routes = self.owner.routes
        left = self.deadline - monotonic()
        delay = 0.0 if isinstance(last, Moved) else policy.delay(self.number, what.slow)
        if delay < left:
            if what.refresh:
                routes.wait_for_news(delay)
            elif delay:
                wait(self.owner.cluster.pool.ended, delay)
            return
        if left > 0:
            # There is no time for another attempt after the back-off, but new routes may come before the deadline.
            if what.refresh and routes.wait_for_news(left):
                return
            if not what.refresh:
                wait(self.owner.cluster.pool.ended, left)
        # The raised error may be this one, and its traceback holds this frame: see decide.
        last = None
        self.give_up()

    def give_up(self) -> NoReturn:
        """Raise the error of the deadline."""
        try:
            raise self.too_late()
        finally:
            # The raised error may be this one, and its traceback holds this attempt.
            self.last = None

    def too_late(self) -> PegasusError:
        """Return the error of the deadline: the server's refusal itself if it throttles, else a timeout."""
        last = self.last
        assert last is not None
        if last.code in ("ERR_BUSY", "ERR_SPLITTING", "ERR_NOT_ENOUGH_MEMBER", "ERR_CAPACITY_EXCEEDED"):
            return self._final(last)
        late = RequestTimeout("no success before the deadline", last_error=last, address=last.address)
        late.sent = self.unanswered
        if isinstance(last, AuthenticationFailed) and last.hint:
            late.hint = last.hint
        return self._final(late)
