"""Many independent calls from one greenlet: a slot on the connection for each, no greenlet.

A slot costs a few microseconds where a greenlet costs fifteen. The calling greenlet sends as long as the window has
room, sleeps until half of it is free, and takes care of what has to be repeated in rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, NamedTuple

from greenlet import getcurrent

from .cluster.dispatcher import Attempt, Dispatcher
from .cluster.routing import Route
from .errors import PegasusError
from .protocol.binary import Buffer
from .protocol.rpc import Rpc
from .retry import RetryPolicy
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
        self._retry = retry
        self._concurrency = concurrency
        self._deadlines = [0.0] * len(requests)
        self._attempts: dict[int, Attempt] = {}

    def run(self) -> list[Any]:
        """Return the results in the order of the requests; a failed one's result is its PegasusError."""
        cluster = self._dispatcher.cluster
        cluster.bind()
        results: list[Any] = [None] * len(self._requests)
        todo: Iterable[int] = range(len(self._requests))
        self._dispatcher.stats.bulk += len(self._requests)
        while todo:
            window = Window(cluster.hub, len(self._requests))
            try:
                self._send_all(window, todo)
                window.sleep_until(0)
            finally:
                window.abandon()
            todo = self._settle(window, todo, results)
            if todo:
                self._pause(todo, results)
                todo = [index for index in todo if results[index] is None]
        return results

    def _send_all(self, window: Window, todo: Iterable[int]) -> None:
        """Send every request of the round; those whose server has no connection yet come last."""
        waiting: list[tuple[int, Route, Peer]] = []
        routes = self._dispatcher.routes
        for index in todo:
            if window.open >= self._concurrency:
                window.sleep_until(self._concurrency // 2)
            now = monotonic()
            deadline = self._deadlines[index]
            if not deadline:
                deadline = self._deadlines[index] = self._dispatcher.cluster.deadline(self._timeout, now)
            table = routes.table or routes.get(deadline)
            if isinstance(table, PegasusError):
                window.outcomes[index] = table
                continue
            route = table.target(self._requests[index].partition_hash)
            if route.peer is None:
                window.outcomes[index] = self._attempt(index).no_primary(route)
            elif route.peer.connection is None:
                waiting.append((index, route, route.peer))
            else:
                self._send(window, index, route, route.peer.connection, now)
        for index, route, peer in waiting:
            connection = peer.connect(self._deadlines[index])
            if isinstance(connection, PegasusError):
                window.outcomes[index] = connection
            else:
                self._send(window, index, route, connection, monotonic())

    def _send(self, window: Window, index: int, route: Route, connection: Connection, now: float) -> None:
        rpc, partition_hash, argument = self._requests[index]
        deadline = self._deadlines[index]
        movable = route if rpc.repeatable and self._retry is not None else None
        slot = _Slot(window, index)
        while True:
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
            now = monotonic()

    def _attempt(self, index: int) -> Attempt:
        attempt = self._attempts.get(index)
        if attempt is None:
            rpc, partition_hash, argument = self._requests[index]
            attempt = self._attempts[index] = Attempt(
                self._dispatcher, rpc, partition_hash, argument, self._deadlines[index], self._retry
            )
        return attempt

    def _settle(self, window: Window, todo: Iterable[int], results: list[Any]) -> list[int]:
        """Turn outcomes into results; return those that are to be sent again."""
        again = []
        for index in todo:
            outcome = window.outcomes[index]
            assert outcome is not None
            try:
                rpc = self._requests[index].rpc
                # ERR_OK without a result is a rejected write, so the length counts too.
                if type(outcome) is bytes and len(outcome) > rpc.body_offset and outcome.startswith(rpc.ok_head, 4):
                    results[index] = self._finish(index, outcome)
                    continue
                attempt = self._attempt(index)
                attempt.number += 1
                frame = attempt.decide(outcome)
                if frame is None:
                    again.append(index)
                else:
                    results[index] = self._finish(index, frame)
            except PegasusError as error:
                results[index] = error
        return again

    def _pause(self, again: list[int], results: list[Any]) -> None:
        """Wait once for all that failed; those without time left get their errors."""
        longest = max(again, key=lambda index: self._deadlines[index])
        try:
            self._attempts[longest].pause()
        except PegasusError as error:
            results[longest] = error
        now = monotonic()
        for index in again:
            if results[index] is None and self._deadlines[index] <= now:
                results[index] = self._attempts[index].too_late()
