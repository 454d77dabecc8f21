"""Many independent calls from one greenlet: a slot on the connection for each, no greenlet.

A slot costs a few microseconds where a greenlet costs fifteen. The calling greenlet sends as long as the window has
room, sleeps until half of it is free, and takes care of what has to be repeated in rounds.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, NamedTuple

import gevent
from greenlet import getcurrent

from .cluster.dispatcher import DEFAULT, Attempt, Dispatcher, may_repeat
from .cluster.routing import Route
from .errors import ForkedConnection, PegasusError, RequestTimeout
from .protocol.binary import Buffer
from .protocol.rpc import Rpc
from .retry import RetryPolicy
from .transport import fork
from .transport.connection import Connection, Outcome, left_ms
from .transport.pool import Peer


class Request(NamedTuple):
    """One call: what, where, with what, and how its reply becomes a result."""

    rpc: Rpc
    partition_hash: int
    argument: bytes


class _Slot:
    """Takes the outcome of one request, in the hub."""

    __slots__ = ("window", "index")

    def __init__(self, window: Window, index: int) -> None:
        self.window, self.index = window, index

    def switch(self, outcome: Outcome) -> None:
        window = self.window
        window.outcomes[self.index] = outcome
        window.open -= 1
        if window.open <= window.wake_at and window.sleeper is not None:
            sleeper, window.sleeper = window.sleeper, None
            try:
                sleeper.switch()
            except BaseException:
                window.hub.handle_error(window, *sys.exc_info())


class Window:
    """The requests of one call of ``run`` that are in flight.

    Attributes:
        outcomes: By index: a frame or error once it is there.
        open: Requests that wait for an outcome.
        wake_at: The sleeping caller is woken when no more than this many are open.
    """

    def __init__(self, hub: Any, size: int) -> None:
        """Begin with nothing in flight."""
        self.hub = hub
        self.outcomes: list[Outcome | None] = [None] * size
        self.open = 0
        self.wake_at = 0
        self.sleeper: Any = None
        self.started: list[tuple[Connection, int, int]] = []

    def sleep_until(self, at_most: int) -> None:
        """Yield until no more than at_most requests are open."""
        while self.open > at_most:
            self.wake_at = at_most
            self.sleeper = getcurrent()
            try:
                self.hub.switch()
            finally:
                self.sleeper = None

    def abandon(self) -> None:
        """Give up what is still open; never yields."""
        if self.open:
            for connection, seqid, index in self.started:
                if self.outcomes[index] is None:
                    connection.abandon(seqid)


class Bulk:
    """One run of many requests.

    Args:
        dispatcher: The table's.
        requests: What to send, in order.
        finish: Turns request index and reply frame into a result; may raise PegasusError.
        timeout: Seconds for each request from when it is first sent, with its repetitions.
        retry: Policy, as for single calls.
        concurrency: Requests in flight at most.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        requests: list[Request],
        finish: Callable[[int, Buffer], Any],
        timeout: float | None,
        retry: RetryPolicy | None,
        concurrency: int,
    ) -> None:
        """Prepare; nothing is sent yet."""
        self._dispatcher = dispatcher
        self._requests = requests
        self._finish = finish
        self._timeout = timeout
        self._retry = dispatcher.cluster.options.retry if retry is DEFAULT else retry
        self._concurrency = concurrency
        self._deadlines = [0.0] * len(requests)
        self._begun = [0.0] * len(requests)
        self._attempts: dict[int, Attempt] = {}
        self._results: list[Any] = [None] * len(requests)
        self._generation = fork.generation()

    def run(self) -> list[Any]:
        """Return the results in the order of the requests; a failed one's result is its PegasusError."""
        cluster = self._dispatcher.cluster
        cluster.bind()
        cluster.running += 1
        try:
            todo: Iterable[int] = range(len(self._requests))
            while todo:
                window = Window(cluster.hub, len(self._requests))
                try:
                    self._send_all(window, todo)
                    window.sleep_until(0)
                finally:
                    window.abandon()
                again = self._settle(window, todo)
                todo = self._pause(again) if again else ()
        finally:
            cluster.running -= 1
        return self._results

    def _send_all(self, window: Window, todo: Iterable[int]) -> None:
        """Send every request of the round; those whose server has no connection yet come last."""
        waiting: dict[Peer, list[tuple[int, Route]]] = {}
        routes = self._dispatcher.routes
        for index in todo:
            self._wait_for_turn(window)
            deadline = self._deadlines[index] or self._begin(index)
            table = routes.table or routes.get(deadline)
            if isinstance(table, PegasusError):
                window.outcomes[index] = table
                continue
            route = table.target(self._requests[index].partition_hash)
            if route.peer is None:
                window.outcomes[index] = self._attempt(index).no_primary(route)
            elif route.peer.connection is None:
                waiting.setdefault(route.peer, []).append((index, route))
            else:
                self._send(window, index, route, route.peer.connection)
        for peer, connection in self._dial(waiting):
            for index, route in waiting[peer]:
                if isinstance(connection, PegasusError):
                    # To each its own instance.
                    window.outcomes[index] = copy.copy(connection)
                else:
                    self._wait_for_turn(window)
                    self._send(window, index, route, connection)

    def _begin(self, index: int) -> float:
        """Let a request's time begin; return its deadline."""
        now = self._begun[index] = monotonic()
        cluster = self._dispatcher.cluster
        if cluster.listeners:
            cluster.listeners.emit("call_started", self._dispatcher.routes.name, self._requests[index].rpc.label)
        deadline = self._deadlines[index] = cluster.deadline(self._timeout, now)
        return deadline

    def _wait_for_turn(self, window: Window) -> None:
        """Wait while as many are in flight as may be."""
        if window.open >= self._concurrency:
            window.sleep_until(self._concurrency // 2)
        if self._generation != fork.generation():
            raise ForkedConnection("the process forked while the calls waited; the parent goes on with them")

    def _dial(self, waiting: dict[Peer, list[tuple[int, Route]]]) -> Iterator[tuple[Peer, Connection | PegasusError]]:
        """Yield each server with its connection, or why there is none, as they come: none waits for a dead one."""
        # A greenlet for each server, not for each request.
        dials = {
            gevent.spawn(peer.connect, max(self._deadlines[index] for index, _ in calls)): peer
            for peer, calls in waiting.items()
        }
        try:
            for dial in gevent.iwait(list(dials)):
                yield dials[dial], dial.get()
        finally:
            gevent.killall(list(dials), block=False)

    def _send(self, window: Window, index: int, route: Route, connection: Connection) -> None:
        rpc, partition_hash, argument = self._requests[index]
        deadline = self._deadlines[index]
        attempt = self._attempts.get(index)
        number = attempt.number + 1 if attempt is not None else 1
        movable = route if rpc.repeatable and may_repeat(self._retry, number) else None
        slot = _Slot(window, index)
        while (now := monotonic()) < deadline:
            seqid = connection.start(
                rpc, route, partition_hash, argument, deadline, left_ms(deadline, now), slot, movable
            )
            if seqid:
                window.open += 1
                window.started.append((connection, seqid, index))
                return
            refusal = connection.wait_for_room(deadline)
            if refusal is not None:
                window.outcomes[index] = refusal
                return
        window.outcomes[index] = RequestTimeout("no time left to send the request", address=route.primary)

    def _attempt(self, index: int) -> Attempt:
        attempt = self._attempts.get(index)
        if attempt is None:
            rpc, partition_hash, argument = self._requests[index]
            attempt = self._attempts[index] = Attempt(
                self._dispatcher, rpc, partition_hash, argument, self._deadlines[index], self._retry
            )
        return attempt

    def _settle(self, window: Window, todo: Iterable[int]) -> list[int]:
        """Turn outcomes into results; return those that are to be sent again."""
        again = []
        for index in todo:
            outcome = window.outcomes[index]
            assert outcome is not None
            try:
                rpc = self._requests[index].rpc
                # ERR_OK without a result is a rejected write, so the length counts too.
                if type(outcome) is bytes and len(outcome) > rpc.body_offset and outcome.startswith(rpc.ok_head, 4):
                    self._end(index, self._finish(index, outcome))
                    continue
                attempt = self._attempt(index)
                attempt.number += 1
                frame = attempt.decide(outcome)
                if frame is None:
                    again.append(index)
                else:
                    self._end(index, self._finish(index, frame))
            except PegasusError as error:
                self._end(index, error)
        return again

    def _end(self, index: int, result: Any) -> None:
        """Take note of a result."""
        self._results[index] = result
        dispatcher = self._dispatcher
        error = result if isinstance(result, PegasusError) else None
        if error is not None:
            dispatcher.stats.errors[type(error).__name__] += 1
        else:
            dispatcher.stats.bulk += 1
        if dispatcher.cluster.listeners:
            attempt, label = self._attempts.get(index), self._requests[index].rpc.label
            number = attempt.number if attempt is not None else 1
            seconds, name = monotonic() - self._begun[index], dispatcher.routes.name
            dispatcher.cluster.listeners.emit("call_finished", name, label, seconds, error, number, False)

    def _pause(self, again: list[int]) -> list[int]:
        """Wait once for all that failed; return those to send again, the others have no time left."""
        attempts = self._attempts
        longest = max(again, key=lambda index: self._deadlines[index])
        if any(attempts[index].wants_routes for index in again):
            self._dispatcher.routes.request()
        try:
            attempts[longest].pause()
        except PegasusError as error:
            self._end(longest, error)
            again.remove(longest)
        now = monotonic()
        for index in again:
            if self._deadlines[index] <= now:
                self._end(index, attempts[index].too_late())
        return [index for index in again if self._deadlines[index] > now]
