"""Listeners: objects that a client calls at events."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .errors import InvalidArgument

_log = logging.getLogger("pegasus_green.events")
# The reason of an attempt to connect that failed begins with this.
CANNOT_CONNECT = "cannot connect: "


class Listener:
    """Base class of listeners: override the methods of the events that you need.

    The client calls a listener in the greenlet in which the event happens, and waits until the method returns. Events
    of connections and routes, and the end of a call that an ``*_async`` verb started, can happen in the event loop. So
    a listener must never block. If a signal handler or a finalizer makes a call, a method can run inside another one of
    the same thread. So a lock that the methods take must be reentrant. If a listener raises an Exception, the client
    logs it once for each event and listener, and the call continues. Any other exception ends the call, for example a
    KeyboardInterrupt.

    ``operation`` is the request's short name in Pegasus: "get", "put" for a set, "scan" for each batch of a scan.

    Example:
        >>> class Losses(Listener):
        ...     def connection_lost(self, address, reason):
        ...         print(f"lost {address}: {reason}")
        >>> client.add_listener(Losses())
    """

    def call_started(self, table: str, operation: str) -> None:
        """Hear that a call begins.

        Args:
            table: The table's name.
            operation: The request's short name in Pegasus.
        """

    def call_finished(
        self,
        table: str,
        operation: str,
        seconds: float,
        error: BaseException | None,
        attempts: int,
        hedged: bool,
        server: str,
    ) -> None:
        """Hear that a call has ended. The context variables are those of the greenlet that made the call.

        Args:
            table: The table's name.
            operation: As for ``call_started``.
            seconds: Duration of the call with all attempts.
            error: The error of the call, or the exception that was thrown into the caller. None: the server returned
                a result. The verb can still raise an error for this result (NotAnInteger, a StorageError). Such
                an error is passed only for ``*_many`` verbs, ``batch_get``, scans, ``get_async``, ``set_async`` and
                ``remove_async``.
            attempts: Number of attempts.
            hedged: Whether the answer of a secondary was used.
            server: "host:port" of the primary of the newest attempt; "" if there was none. For ``*_many`` verbs and
                ``batch_get``, it is also "" if the routes have changed since the attempt.
        """

    def connection_opened(self, address: str) -> None:
        """Hear that a connection to a server is open.

        When the client or the server ends the connection, ``connection_lost`` follows for the same address. These are
        the exceptions:

        * The end of a process ends its connections without an event.
        * A forked child closes its copies of the parent's connections without an event.
        * A client that is garbage-collected without ``close()`` closes its connections in its event loops. If an event
          loop no longer runs, no event comes for its connections.

        The end of a native thread and ``hub.destroy()`` end the connections of the thread. The thread itself cannot
        report this safely. ``connection_lost`` then comes in the event loop of another thread that uses the client. If
        there is none, it comes when the client dials the next time, or at ``close()``.

        Args:
            address: "host:port" of the server.
        """

    def connection_lost(self, address: str, reason: str) -> None:
        """Hear that a connection has ended or could not be made.

        Args:
            address: "host:port" of the server.
            reason: What happened, as text for people. It begins with "cannot connect: " if the connection could not be
                made, and only then. In this case there was no ``connection_opened``.
        """

    def routes_changed(self, table: str, app_id: int, partition_count: int, changed: int) -> None:
        """Hear that routes of a table have changed.

        Args:
            table: The table's name.
            app_id: The table's id.
            partition_count: Number of partitions of the table.
            changed: Number of partitions whose routes have changed.
        """


def _nobody(*_details: object) -> None:
    return None


class Lifetime:
    """What the listeners have heard of one connection.

    Attributes:
        address: "host:port" of the server.
        pid: The process that made the connection.
        opened: Whether they have heard that it is open.
        reason: Why it has ended; None while it is open.
        owed: Not empty if they have not heard of the end. A list, because pop is atomic.
    """

    __slots__ = ("address", "pid", "opened", "reason", "owed")

    def __init__(self, address: str) -> None:
        self.address, self.pid = address, os.getpid()
        self.opened = False
        self.reason: str | None = None
        self.owed = ["connection_lost"]


EVENTS = ("call_started", "call_finished", "connection_opened", "connection_lost", "routes_changed")


def _owner(method: Callable[..., object]) -> object:
    """Return the listener of a method, or the function that a listener has in its place."""
    return getattr(method, "__self__", method)


class Listeners:
    """The listeners of one client; true if there are any."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Start without listeners; on_change is called whenever the set of listeners changes."""
        self.on_change = on_change
        self._all: list[Listener] = []
        self._takers: dict[str, tuple[Callable[..., object], ...]] = dict.fromkeys(EVENTS, ())
        # The listeners whose failures were logged, by event and id. They are kept, so that no other one gets their ids.
        self._complained: dict[tuple[str, int], object] = {}
        # Beginnings (None) and ends (the reason) of connections that the listeners have not heard of yet.
        self._noted: deque[tuple[Lifetime, str | None]] = deque()

    def __bool__(self) -> bool:
        """Tell whether there is a listener."""
        return bool(self._all)

    def add(self, listener: Listener) -> None:
        """Add a listener; raise InvalidArgument if it lacks a method."""
        if missing := [event for event in EVENTS if not callable(getattr(listener, event, None))]:
            raise InvalidArgument(f"a listener must have the methods of Listener; {listener!r} has no {missing[0]}")
        self._change([*self._all, listener])

    def remove(self, listener: Listener) -> None:
        """Remove a listener; ignore an unknown one."""
        self._change([known for known in self._all if known is not listener])

    def _change(self, listeners: list[Listener]) -> None:
        """Collect the methods of each event, without those of the base class, which do nothing."""
        self._all = listeners
        for event in EVENTS:
            idle = getattr(Listener, event)
            methods = [getattr(listener, event) for listener in listeners]
            self._takers[event] = tuple(m for m in methods if getattr(m, "__func__", m) is not idle)
        present = {(event, id(_owner(getattr(listener, event)))) for event in EVENTS for listener in listeners}
        self._complained = {key: who for key, who in self._complained.copy().items() if key in present}
        self.on_change()

    def hear(self, *events: str) -> bool:
        """Tell whether any listener overrides the method of one of these events."""
        return any(self._takers[event] for event in events)

    def of_calls(self) -> tuple[Callable[..., object], Callable[..., object]]:
        """Return the functions for the start and the end of a call. If there is one listener, they are its methods.

        The caller passes exceptions of these functions to ``complain``.
        """
        return self._teller("call_started"), self._teller("call_finished")

    def _teller(self, event: str) -> Callable[..., object]:
        takers = self._takers[event]
        return takers[0] if len(takers) == 1 else partial(self.emit, event) if takers else _nobody

    def emit(self, event: str, *details: Any) -> None:
        """Call all listeners that override the event's method."""
        self._emit(event, iter(self._takers[event]), details)

    def _emit(self, event: str, takers: Iterator[Callable[..., object]], details: tuple[Any, ...]) -> None:
        for take in takers:
            try:
                take(*details)
            except Exception as error:
                self.complain(event, take, error)
            except BaseException:
                if event != "call_started":
                    # The other listeners hear of an end or a change, too.
                    self._emit(event, takers, details)
                raise

    @property
    def behind(self) -> bool:
        """Whether ``tell_noted`` has something to tell the listeners."""
        return bool(self._noted and self._all)

    def note_opened(self, connection: Lifetime) -> None:
        """Note that a connection is open, for ``tell_noted``."""
        self._noted.append((connection, None))

    def note_lost(self, connection: Lifetime, reason: str) -> None:
        """Note that a connection has ended, for ``tell_noted``. Finalizers may use it; may be repeated."""
        if connection.pid == os.getpid():
            self._noted.append((connection, reason))

    def tell_noted(self) -> None:
        """Call the listeners for what was noted: for each connection at most one beginning, and then one end.

        A signal handler, a finalizer or another thread can note an end before the beginning. Then they hear neither.
        """
        while self._noted:
            try:
                connection, reason = self._noted.popleft()
            except IndexError:
                # Another thread has taken it.
                return
            if connection.pid != os.getpid():
                # It belongs to the parent of this forked process.
                continue
            if reason is not None:
                connection.reason = reason
                self._tell_end(connection)
            elif connection.reason is None:
                try:
                    self.emit("connection_opened", connection.address)
                finally:
                    # Last: another thread or a signal handler may read the end while the listeners are called.
                    connection.opened = True
                    self._tell_end(connection)

    def _tell_end(self, connection: Lifetime) -> None:
        """Call the listeners if a connection has ended and they have heard of its beginning only."""
        if connection.opened and connection.reason is not None:
            try:
                event = connection.owed.pop()
            except IndexError:
                return
            self.emit(event, connection.address, connection.reason)

    def complain(self, event: str, take: Callable[..., object], error: Exception) -> None:
        """Log the exception of a listener, the first time it fails at an event."""
        who = _owner(take)
        if (event, id(who)) not in self._complained:
            self._complained[event, id(who)] = who
            try:
                _log.error("listener %r failed in %s; further failures are not logged", who, event, exc_info=error)
            except Exception:
                # A log handler that waits raises in the event loop. This must not affect the call either.
                return
