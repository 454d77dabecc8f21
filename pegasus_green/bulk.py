"""Many independent calls from one greenlet. Each has a slot on the connection and no greenlet.

A slot costs a few microseconds, a greenlet about 15. The calling greenlet sends while the window has room, and sleeps
until half of it is free. It repeats failed requests in rounds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice, repeat
from time import monotonic, time
from typing import Any, TypeAlias

import gevent
from gevent._waiter import Waiter

from .cluster.attempt import DEFAULT, Attempt, await_turn, may_repeat
from .cluster.dispatcher import Dispatcher
from .cluster.routing import Route, RoutingTable
from .errors import PegasusError, RequestTimeout, without_traceback
from .options import MAX_TIMEOUT
from .protocol import fast
from .protocol.binary import Buffer
from .protocol.rpc import Rpc
from .retry import RetryPolicy
from .transport import fork
from .transport.connection import Connection
from .transport.handover import FOREVER, Outcome, left_ms
from .transport.outbox import stop
from .transport.pool import Peer, outcome_of
from .transport.waits import LOOK_FOR_LOST

# One call: RPC, partition hash, argument.
Request: TypeAlias = tuple[Rpc, int, bytes]
# The clock is read once for this many requests that are sent in a row.
REQUESTS_A_MOMENT = 64


class _Slot(tuple["Window", int]):
    """Receives the outcome of one request, in the hub. It is a tuple because thousands are made at once."""

    __slots__ = ()

    def switch(self, outcome: Outcome) -> None:
        window, index = self
        outcomes = window.outcomes
        # If an outcome comes twice, the first one stays.
        outcomes.setdefault(index, outcome)
        if len(outcomes) >= window.wake_at:
            window.wake()


class Window:
    """The requests in flight of one call of ``run``.

    Attributes:
        outcomes: Frame or error by index.
        begun: Number of requests that were sent, or got an outcome without being sent.
        lost: Number of requests without an outcome, because its delivery was interrupted repeatedly.
        wake_at: The sleeping caller is woken when there are this many outcomes.
    """

    def __init__(self, hub: Any) -> None:
        """Start without requests in flight."""
        self.hub = hub
        self.outcomes: dict[int, Outcome] = {}
        self.begun = 0
        self.lost = 0
        self.wake_at = FOREVER
        self._sleeper: Any = None

    @property
    def open(self) -> int:
        """Number of requests that wait for an outcome."""
        return self.begun - len(self.outcomes) - self.lost

    def put(self, index: int, outcome: Outcome) -> None:
        """Store the outcome of a request that was not sent."""
        self.begun += 1
        self.outcomes[index] = outcome

    def wake(self) -> None:
        """Make the caller check again; runs in the hub."""
        sleeper = self._sleeper
        if sleeper is not None:
            sleeper.switch(None)

    def sleep_until(self, at_most: int, latest: float) -> None:
        """Yield until no more than at_most requests are open.

        Args:
            at_most: Maximum number of open requests.
            latest: The latest deadline of the sent requests. Requests that are still open some time after it are lost.
        """
        silent_at = -1
        while self.open > at_most:
            sleeper = self._sleeper = Waiter(self.hub)
            timer = self.hub.loop.timer(LOOK_FOR_LOST)
            try:
                self.wake_at = self.begun - self.lost - at_most
                # An outcome that came before _sleeper was set has woken nobody.
                if self.open > at_most:
                    timer.start(sleeper.switch, None)
                    sleeper.get()
            finally:
                self.wake_at = FOREVER
                self._sleeper = None
                stop(timer)
            if monotonic() > latest + LOOK_FOR_LOST:
                # Two late checks without a new outcome: the hub has run in between, so no outcome is on its way.
                if silent_at == len(self.outcomes):
                    self.lost += max(self.open, 0)
                silent_at = len(self.outcomes)

    def abandon(self, connections: list[Connection]) -> None:
        """Abandon the open requests on these connections; never yields, may be called again."""
        for connection in connections:
            for seqid, entry in connection.pending.copy().items():
                taker = entry[0]
                if isinstance(taker, _Slot) and taker[0] is self:
                    connection.abandon(seqid)


class Bulk:
    """One run of many requests.

    Args:
        dispatcher: The table's dispatcher.
        requests: The requests, in order.
        finish: Converts request index and reply frame to a result; may raise PegasusError.
        timeout: Seconds for each request with its retries, from the first time it is sent.
        retry: Retry policy, as for single calls.
        concurrency: Maximum number of requests in flight.
        second: The Unix time in whole seconds from which the expiries in the requests count. If a request is sent for
            the first time in a later second, its expiry is made later by the difference. None: the arguments do not
            depend on the time.
        limited: Whether the limits of requests per second apply.
        usual: Reads the reply to a request of the usual kind. If it returns bytes, they are the result; other outcomes
            go to ``finish``. None: there is no such function.

    Attributes:
        failed: Whether any request has finally failed.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        requests: list[Request],
        finish: Callable[[int, Buffer], Any],
        timeout: float | None,
        retry: RetryPolicy | None,
        concurrency: int,
        second: int | None = None,
        *,
        limited: bool = True,
        usual: Callable[[Any], object] | None = None,
    ) -> None:
        """Prepare the run; nothing is sent."""
        self._dispatcher = dispatcher
        self._requests = requests
        self._finish = finish
        self._usual = usual
        self._timeout = timeout
        self._retry = dispatcher.cluster.options.retry if retry is DEFAULT else retry
        self._concurrency = concurrency
        self._second = second
        self._limiters = dispatcher.limiters if limited else ()
        self._deadlines = [0.0] * len(requests)
        self._listeners = dispatcher.cluster.listeners
        self._observed = dispatcher.cluster.observed
        self._begun = [0.0] * len(requests)
        self._moment = 0.0
        self._latest = 0.0
        self._attempts: dict[int, Attempt] = {}
        self._table: RoutingTable | None = None
        self._results: list[Any] = [None] * len(requests)
        self.failed = False
        self._generation = fork.generation()

    def run(self) -> list[Any]:
        """Return the results in the order of the requests. The result of a failed one is its PegasusError."""
        cluster = self._dispatcher.cluster
        cluster.bind(waits=bool(self._requests))
        try:
            cluster.running.add(self)
            todo: Iterable[int]
            for todo in self._parts():
                while todo:
                    outcomes = self._round(todo)
                    again = self._settle(outcomes, todo)
                    todo = self._pause(again) if again else ()
        except BaseException as error:
            self._interrupted(error)
            raise
        finally:
            cluster.running.discard(self)
        return self._results

    def _parts(self) -> list[range]:
        """Return the parts of the run: one part, or parts of as many requests as a limit allows in half a timeout."""
        limiters, many, now = self._limiters, len(self._requests), monotonic()
        if not limiters:
            return [range(many)]
        seconds = self._dispatcher.cluster.deadline(self._timeout, now) - now
        size = max(1, int(min(limiter.rate for limiter in limiters) * seconds / 2))
        return [range(begin, min(begin + size, many)) for begin in range(0, many, size)]

    def _round(self, todo: Iterable[int]) -> dict[int, Outcome]:
        """Send requests and return the outcome of each."""
        cluster = self._dispatcher.cluster
        window = Window(cluster.hub)
        try:
            try:
                self._send_all(window, todo)
                self._table = self._dispatcher.routes.table
                window.sleep_until(0, self._latest)
                return self._all_of(window, todo)
            except BaseException:
                window.abandon(cluster.pool.connections)
                raise
        except BaseException:
            # Do this even if the clean-up itself is interrupted.
            window.abandon(cluster.pool.connections)
            raise

    @staticmethod
    def _all_of(window: Window, todo: Iterable[int]) -> dict[int, Outcome]:
        """Return the outcomes. A lost one becomes a RequestTimeout."""
        outcomes = window.outcomes
        if window.lost:
            for index in todo:
                if index not in outcomes:
                    outcomes[index] = RequestTimeout("no reply in time", sent=True)
        return outcomes

    def _send_all(self, window: Window, todo: Iterable[int]) -> None:
        """Send every request of the round. Those to servers without a connection come last."""
        waiting: dict[Peer, list[tuple[int, Route]]] = {}
        again = any(self._deadlines[index] for index in islice(todo, 1))
        if self._limiters:
            self._send_limited(window, todo, again=again)
        elif again:
            self._send_again(window, todo, waiting)
        else:
            self._send_first(window, waiting)
        for peer, connected in self._dial(waiting):
            for index, route in waiting[peer]:
                if isinstance(connected, PegasusError):
                    # Each request gets its own instance.
                    window.put(index, copy.copy(connected))
                else:
                    self._wait_for_room(window)
                    if not again:
                        # Its timeout starts now, because it may have waited for a dial and for other replies.
                        self._deadlines[index] = self._look_at_clock()[0]
                        self._renew(index)
                    self._send(window, index, route, connected)

    def _send_first(self, window: Window, waiting: dict[Peer, list[tuple[int, Route]]]) -> None:
        """Send all requests for the first time; optimized like the dispatcher's fast path."""
        routes, deadlines = self._dispatcher.routes, self._deadlines
        repeats, observed, concurrency = may_repeat(self._retry, 1), self._observed, self._concurrency
        deadline, milliseconds, outcomes = 0.0, 1, window.outcomes
        look_at, late = 0, False
        slots = map(_Slot, zip(repeat(window), count()))
        for index, slot, (rpc, partition_hash, argument) in zip(count(), slots, self._requests):
            if window.begun - len(outcomes) >= concurrency:
                self._wait_for_room(window)
                look_at = index
            if index >= look_at:
                look_at = index + REQUESTS_A_MOMENT
                deadline, milliseconds = self._look_at_clock()
                late = self._is_late()
            deadlines[index] = deadline
            if observed:
                self._begin(index)
            table = routes.table
            if table is None:
                found = routes.get(deadline)
                if isinstance(found, PegasusError):
                    self._no_routes(window, range(index, len(self._requests)), deadline, found)
                    return
                table = found
            route = table.targets[partition_hash % table.count]
            peer = route.peer
            if peer is None:
                window.put(index, self._attempt(index).no_primary(route))
                continue
            connection = peer.connection
            if connection is None:
                waiting.setdefault(peer, []).append((index, route))
                continue
            if late:
                argument = self._renew(index)
            if deadline > self._moment and connection.post(
                rpc,
                route,
                partition_hash,
                argument,
                deadline,
                milliseconds,
                slot,
                route if repeats and rpc.repeatable else None,
            ):
                window.begun += 1
            else:
                self._send(window, index, route, connection)
                look_at = index

    def _no_routes(self, window: Window, rest: range, deadline: float, error: PegasusError) -> None:
        """Fail the unsent requests with the error about missing routes. The run waits for the routes only once."""
        for index in rest:
            if self._observed and index > rest.start:
                self._begin(index)
            self._deadlines[index] = deadline
            window.put(index, copy.copy(error))

    def _send_again(self, window: Window, todo: Iterable[int], waiting: dict[Peer, list[tuple[int, Route]]]) -> None:
        """Send the failed requests again."""
        routes = self._dispatcher.routes
        failure: PegasusError | None = None
        for index in todo:
            self._wait_for_room(window)
            table = routes.table or failure or routes.get(self._deadlines[index])
            if isinstance(table, PegasusError):
                failure = table
                window.put(index, copy.copy(table))
                continue
            route = table.target(self._requests[index][1])
            if route.peer is None:
                window.put(index, self._attempt(index).no_primary(route))
            elif route.peer.connection is None:
                waiting.setdefault(route.peer, []).append((index, route))
            else:
                self._send(window, index, route, route.peer.connection)

    def _send_limited(self, window: Window, todo: Iterable[int], *, again: bool) -> None:
        """Send the requests one by one, each at its turn. Each failing server is waited for once per round."""
        dispatcher, failures = self._dispatcher, dict[object, PegasusError]()
        routes, deadlines = dispatcher.routes, self._deadlines
        for index in todo:
            self._wait_for_room(window)
            now = monotonic()
            refusal: PegasusError | None = None
            if routes not in failures:
                # The timeout of a first request starts at its turn. Only a scope bounds the wait for the turn.
                until = deadlines[index] if again else dispatcher.cluster.deadline(MAX_TIMEOUT, now)
                refusal = await_turn(dispatcher, until)
                fork.check(self._generation)
            if not again:
                deadlines[index] = self._look_at_clock()[0]
                self._renew(index)
                if self._observed:
                    self._begin(index)
            if refusal is not None:
                window.put(index, refusal)
                continue
            table = failures.get(routes) or routes.get(deadlines[index])
            if isinstance(table, PegasusError):
                failures[routes] = table
                window.put(index, copy.copy(table))
                continue
            route = table.target(self._requests[index][1])
            if route.peer is None:
                window.put(index, self._attempt(index).no_primary(route))
                continue
            connection = failures.get(route.peer) or route.peer.connect(deadlines[index])
            if isinstance(connection, PegasusError):
                failures[route.peer] = connection
                window.put(index, copy.copy(connection))
            else:
                self._send(window, index, route, connection)

    def _look_at_clock(self) -> tuple[float, int]:
        """Return the deadline, and the milliseconds until then, of requests that start now."""
        now = self._moment = monotonic()
        deadline = self._dispatcher.cluster.deadline(self._timeout, now)
        self._latest = max(self._latest, deadline)
        return deadline, left_ms(deadline, now)

    def _is_late(self) -> bool:
        """Tell whether the expiries of the requests count from an earlier second."""
        return self._second is not None and self._second != int(time())

    def _renew(self, index: int) -> bytes:
        """Make the expiry of a request count from now, when it is sent for the first time; return the argument."""
        rpc, partition_hash, argument = self._requests[index]
        if self._second is not None:
            argument = fast.postpone(argument, int(time()) - self._second)
            self._requests[index] = rpc, partition_hash, argument
        return argument

    def _begin(self, index: int) -> None:
        """Call the listeners at the start of a request."""
        self._begun[index] = self._moment
        self._listeners.emit("call_started", self._dispatcher.routes.name, self._requests[index][0].label)

    def _wait_for_room(self, window: Window) -> None:
        """Wait while the maximum number of requests is in flight."""
        if window.open >= self._concurrency:
            window.sleep_until(self._concurrency // 2, self._latest)
        fork.check(self._generation)

    def _dial(self, waiting: dict[Peer, list[tuple[int, Route]]]) -> Iterator[tuple[Peer, Connection | PegasusError]]:
        """Yield each server with its connection or error, as dials end: a dead server does not delay the others."""
        # One greenlet per server, not per request.
        dials = {
            self._dispatcher.cluster.pool.spawn(peer.connect, max(self._deadlines[index] for index, _ in calls)): peer
            for peer, calls in waiting.items()
        }
        try:
            for dial in gevent.iwait(list(dials)):
                yield dials[dial], outcome_of(dial, dials[dial])
        finally:
            gevent.killall(list(dials), block=False)

    def _send(self, window: Window, index: int, route: Route, connection: Connection) -> None:
        rpc, partition_hash, argument = self._requests[index]
        deadline = self._deadlines[index]
        attempt = self._attempts.get(index)
        number = attempt.number + 1 if attempt is not None else 1
        movable = route if rpc.repeatable and may_repeat(self._retry, number) else None
        slot = _Slot((window, index))
        while (now := monotonic()) < deadline:
            seqid = connection.start(
                rpc, route, partition_hash, argument, deadline, left_ms(deadline, now), slot, movable
            )
            if seqid:
                window.begun += 1
                return
            refusal = connection.wait_for_room(deadline, movable)
            if refusal is not None:
                window.put(index, refusal)
                return
        window.put(index, RequestTimeout("no time left to send the request", address=route.primary))

    def _attempt(self, index: int) -> Attempt:
        attempt = self._attempts.get(index)
        if attempt is None:
            rpc, partition_hash, argument = self._requests[index]
            attempt = self._attempts[index] = Attempt(
                self._dispatcher,
                rpc,
                partition_hash,
                argument,
                self._deadlines[index],
                self._retry,
                self._timeout or self._dispatcher.cluster.timeout,
            )
        return attempt

    def _settle(self, outcomes: dict[int, Outcome], todo: Iterable[int]) -> list[int]:
        """Convert outcomes to results; return the indices of the requests to send again."""
        again = []
        requests, results, finish, usual = self._requests, self._results, self._finish, self._usual
        observed = self._observed
        done = 0
        for index in todo:
            outcome = outcomes[index]
            rpc = requests[index][0]
            try:
                if usual is not None and type(value := usual(outcome)) is bytes:
                    results[index] = value
                # ERR_OK without a result is a rejected write, so the length is checked, too.
                elif type(outcome) is bytes and len(outcome) > rpc.body_offset and outcome.startswith(rpc.ok_head, 4):
                    results[index] = finish(index, outcome)
                elif (frame := self._decide(index, outcome)) is None:
                    again.append(index)
                    continue
                else:
                    results[index] = finish(index, frame)
            except PegasusError as error:
                self._fail(index, error)
                continue
            done += 1
            if observed:
                self._tell(index, None)
        self._dispatcher.stats.bulk += done
        return again

    def _decide(self, index: int, outcome: Outcome) -> Buffer | None:
        """Return the frame of a success; None if the request is to be sent again."""
        attempt = self._attempt(index)
        attempt.number += 1
        table = self._dispatcher.routes.table
        # Targets are not stored per request, so after a change of routes it is unknown which server refused.
        attempt.sent_to = table.target(attempt.hash) if table is not None and table is self._table else None
        return attempt.decide(outcome)

    def _fail(self, index: int, error: PegasusError) -> None:
        """Store a final error."""
        self.failed = True
        # The frames of its traceback hold this run, which holds the error. Without the traceback there is no cycle.
        self._results[index] = without_traceback(error)
        self._dispatcher.stats.errors[type(error).__name__] += 1
        if self._observed:
            self._tell(index, error)

    def _tell(self, index: int, error: BaseException | None) -> None:
        """Call the listeners at the end of a request."""
        attempt, label = self._attempts.get(index), self._requests[index][0].label
        number = attempt.number if attempt is not None else 1
        seconds = monotonic() - self._begun[index]
        table = self._dispatcher.routes.table
        # As in _decide: after a change of routes it is unknown which server answered.
        known = table is not None and table is self._table
        server = table.target(self._requests[index][1]).primary if table is not None and known else ""
        name = self._dispatcher.routes.name
        self._begun[index] = 0.0
        self._listeners.emit("call_finished", name, label, seconds, error, number, False, server)

    def _interrupted(self, error: BaseException) -> None:
        """Call the listeners at the end of the requests that an exception interrupts."""
        newest = None
        for index, begun in enumerate(self._begun):
            if begun:
                try:
                    self._tell(index, error)
                except BaseException as failure:
                    newest = failure
        if newest is not None:
            try:
                raise newest
            finally:
                del newest  # the traceback of the error holds this frame

    def _pause(self, again: list[int]) -> list[int]:
        """Wait once for all failed requests; return those to send again. The others have no time left."""
        attempts = self._attempts
        longest = max(again, key=lambda index: self._deadlines[index])
        try:
            attempts[longest].pause()
        except PegasusError as error:
            self._fail(longest, error)
            again.remove(longest)
        now = monotonic()
        for index in again:
            if self._deadlines[index] <= now:
                self._fail(index, attempts[index].too_late())
        return [index for index in again if self._deadlines[index] > now]
