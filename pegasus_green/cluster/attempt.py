"""The attempts of one call: where the next goes, what its outcome asks for, and how long to wait before another."""

from __future__ import annotations

from time import monotonic
from typing import Any, NoReturn, Protocol

from ..errors import (
    AccessDenied,
    AuthenticationFailed,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    ForkedConnection,
    InvalidArgument,
    MetaUnreachable,
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

# Means "the client's policy", where None means "never".
DEFAULT: Any = type("Default", (), {"__repr__": lambda _self: "DEFAULT"})()


class Shared(Protocol):
    """What the tables of one client share."""

    @property
    def options(self) -> ClientOptions:
        """The client's options."""

    @property
    def pool(self) -> Pool:
        """Its servers."""


class Owner(Protocol):
    """The table that a call is for."""

    @property
    def cluster(self) -> Shared:
        """What it shares with other tables."""

    @property
    def routes(self) -> TableRoutes:
        """Its routes."""

    @property
    def stats(self) -> TableStats:
        """Its counters."""

    @property
    def notices(self) -> Notices:
        """Its log lines."""

    @property
    def hedge(self) -> HedgePolicy | None:
        """When its reads are hedged."""

    @property
    def limiters(self) -> tuple[RequestLimiter, ...]:
        """What limits its requests per second."""


def may_repeat(policy: RetryPolicy | None, number: int) -> bool:
    """Tell whether a policy allows another attempt after so many.

    Raises:
        InvalidArgument: It is none.
    """
    if policy is not None and not isinstance(policy, RetryPolicy):
        raise InvalidArgument(f"retry must be a RetryPolicy or None (off), not {policy!r}")
    return policy is not None and (policy.max_attempts is None or number < policy.max_attempts)


def await_turn(owner: Owner, deadline: float) -> RequestTimeout | None:
    """Wait as long as a table's limits of requests per second demand; yields.

    Returns:
        The error of a request that has no turn before the deadline; None: it may be sent.
    """
    for limiter in owner.limiters:
        if not limiter.wait_for_turn(owner.cluster.pool.ended, deadline):
            return RequestTimeout(f"max_rate={limiter.rate:g} leaves no turn before the deadline")
    return None


class Attempt:
    """The state of one call over its attempts.

    Attributes:
        number: Attempts made.
        sent_to: Where the newest attempt went; None: nowhere.
        unanswered: Whether an attempt left that no answer is known for.
        hedged: Whether the outcome came from a secondary.
        last: The error of the newest attempt.
        timeout: Seconds that the call has, for the error at its end.
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
        """Begin a call, or go on with one."""
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
        """Make one attempt and return its outcome; waits for routes and connection as long as the deadline allows."""
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
        """Return where to send the call now, or why that is not known."""
        if self._generation != fork.generation():
            return ForkedConnection("the process forked while the call waited; the parent goes on with it")
        table = self.owner.routes.get(self.deadline)
        if isinstance(table, PegasusError):
            return table
        route = table.target(self.hash)
        return self.no_primary(route) if route.peer is None else route

    def no_primary(self, route: Route) -> PegasusError:
        """Return the error for a partition that nobody serves now."""
        return TableUnavailable(f"partition {route.index} has no primary now", code="ERR_INVALID_STATE")

    def decide(self, outcome: Outcome) -> Buffer | None:
        """Return the frame of a success, None when another attempt is to be made.

        Raises:
            PegasusError: The call has failed for good.
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
            # Also where this call is not repeated: the next one is to find its way.
            self.owner.routes.request()
        if what is not None and what.retry and may_repeat(self.retry, self.number):
            self.last = error
            self._next = what
            owner, code = self.owner, error.code or type(error).__name__
            owner.stats.retries[code] += 1
            text = "%s of table %s is repeated after %s from %s"
            owner.notices.info(code, text, self.rpc.label, owner.routes.name, code, error.address or "no server")
            return None
        try:
            if (what is None or not what.retry) and isinstance(error, RequestTimeout) and not error.sent and self.last:
                # The deadline came before the next attempt could leave: the last one tells more.
                error = None
                self.give_up()
            raise self._final(error)
        finally:
            # The traceback holds this frame: with the error in it they would be a cycle.
            error = outcome = None  # type: ignore[assignment]

    def _refusal(self, frame: Buffer) -> PegasusError | None:
        """Return the error that a frame stands for, None for a result."""
        rpc = self.rpc
        try:
            reply = parse_reply(frame)
        except ProtocolError as error:
            return self._unreadable(str(error.args[0]))
        if reply.error != "ERR_OK":
            return server_error(reply.error)
        if reply.name != rpc.name + "_ACK":
            return self._unreadable(f"a reply to {reply.name}")
        if reply.offset is None:
            if rpc.is_write:
                return WriteRejected(
                    "the server said ERR_OK without a result: the write was not applied", code="ERR_OK"
                )
            return ProtocolError("a reply without a result", sent=True, code="ERR_OK")
        return None

    def _unreadable(self, why: str) -> ProtocolError:
        return ProtocolError(why, sent=True)

    def _reaction(self, error: PegasusError) -> Reaction | None:
        """Return what an error asks for; None: nothing helps."""
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
        """Complete an error before it is raised to the caller."""
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
        """Wait before the next attempt: for the back-off's time, or until there are new routes where that helps.

        Raises:
            RequestTimeout: The deadline comes first.
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
            # A try after the deadline is no use, but news may come before it.
            if what.refresh and routes.wait_for_news(left):
                return
            if not what.refresh:
                wait(self.owner.cluster.pool.ended, left)
        # It may be what is raised, and the traceback holds this frame: see decide.
        last = None
        self.give_up()

    def give_up(self) -> NoReturn:
        """Raise the error at the deadline."""
        try:
            raise self.too_late()
        finally:
            # It may be what is raised, and the traceback holds this attempt.
            self.last = None

    def too_late(self) -> PegasusError:
        """Return the error at the deadline: the server's refusal as itself when it throttles, else a timeout."""
        last = self.last
        assert last is not None
        if last.code in ("ERR_BUSY", "ERR_SPLITTING", "ERR_NOT_ENOUGH_MEMBER", "ERR_CAPACITY_EXCEEDED"):
            return self._final(last)
        late = RequestTimeout("no success before the deadline", last_error=last, address=last.address)
        late.sent = self.unanswered
        if isinstance(last, AuthenticationFailed) and last.hint:
            late.hint = last.hint
        return self._final(late)
