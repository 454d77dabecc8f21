"""Listeners: what a client tells about itself while it works."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("pegasus_green.events")


class Listener:
    """Base of listeners: override what is wanted.

    Calls come synchronously, with plain arguments, in the greenlet in which the thing happens; connection and route
    events may come from the event loop itself, so a listener must never block. An exception in a listener is logged
    once per event and listener and hurts nobody.
    """

    def call_started(self, table: str, operation: str) -> None:
        """Tell that a call begins."""

    def call_finished(
        self, table: str, operation: str, seconds: float, error: BaseException | None, attempts: int, hedged: bool
    ) -> None:
        """Tell that a call ended; error is None when it succeeded, hedged when a secondary answered."""

    def connection_opened(self, address: str) -> None:
        """Tell that a connection to a server is open."""

    def connection_lost(self, address: str, reason: str) -> None:
        """Tell that a connection ended, or could not be made."""

    def routes_changed(self, table: str, app_id: int, partition_count: int, changed: int) -> None:
        """Tell that the routes of a table changed in this many partitions."""


class Listeners:
    """The listeners of one client; true when there are any."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Start with none; on_change is called when that changes."""
        self._on_change = on_change
        self._all: list[Listener] = []
        self._complained: set[tuple[int, str]] = set()

    def __bool__(self) -> bool:
        """Tell whether anybody listens."""
        return bool(self._all)

    def add(self, listener: Listener) -> None:
        """Add a listener."""
        self._all = [*self._all, listener]
        self._on_change()

    def remove(self, listener: Listener) -> None:
        """Remove a listener; unknown ones are ignored."""
        self._all = [known for known in self._all if known is not listener]
        self._on_change()

    def emit(self, event: str, *details: Any) -> None:
        """Call the method named event of every listener."""
        for listener in self._all:
            try:
                getattr(listener, event)(*details)
            except Exception:
                if (id(listener), event) not in self._complained:
                    self._complained.add((id(listener), event))
                    _log.exception("listener %r failed in %s; further failures are not logged", listener, event)
