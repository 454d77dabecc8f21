"""Log lines that may repeat: a few of a kind at once, then their number, and never written by the event loop.

A handler of the application may wait: for a disk, a socket, or a lock that a suspended greenlet holds. In a callback
of the hub that is an error, and in a caller's greenlet a place to be killed at. So lines are handed to a greenlet of
their own. They hold addresses, table names, counts and reasons; keys and values are not for logs.
"""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic
from typing import Any

import gevent

# Lines of one kind that are written in a period; the others are counted.
BURST = 5
PERIOD = 10.0
# Kinds that are remembered; a cluster has fewer servers and tables than this.
MAX_KINDS = 1000
MAX_WAITING = 1000


class Notices:
    """Writes the log lines of one concern.

    Attributes:
        dropped: Lines that were counted instead of written, since the start.
    """

    def __init__(self, name: str) -> None:
        """Write to the logger ``pegasus_green.NAME``."""
        self.dropped = 0
        self._log = logging.getLogger(f"pegasus_green.{name}")
        # By kind: begin of the period, lines in it.
        self._kinds: dict[str, list[float]] = {}
        self._waiting: deque[tuple[int, str, tuple[object, ...]]] = deque(maxlen=MAX_WAITING)
        # Whether it still writes is its own word.
        self._writer: Any = None

    def info(self, kind: str, text: str, *details: object) -> None:
        """Have a line written at INFO; never yields, never raises."""
        self._note(logging.INFO, kind, text, details)

    def warning(self, kind: str, text: str, *details: object) -> None:
        """Have a line written at WARNING; never yields, never raises."""
        self._note(logging.WARNING, kind, text, details)

    def debug(self, kind: str, text: str, *details: object) -> None:
        """Have a line written at DEBUG; never yields, never raises."""
        self._note(logging.DEBUG, kind, text, details)

    def _note(self, level: int, kind: str, text: str, details: tuple[object, ...]) -> None:
        if not self._log.isEnabledFor(level):
            return
        now = monotonic()
        period = self._kinds.get(kind)
        if period is None or now - period[0] >= PERIOD:
            unwritten = int(period[1]) - BURST if period is not None else 0
            if unwritten > 0:
                text, details = text + " (%d more like it were not logged)", (*details, unwritten)
            if period is None and len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            period = self._kinds[kind] = [now, 0]
        period[1] += 1
        if period[1] > BURST:
            self.dropped += 1
            return
        self._waiting.append((level, text, details))
        if self._writer is None or self._writer.ready():
            self._writer = gevent.spawn(self._write)

    def _write(self) -> None:
        while self._waiting:
            level, text, details = self._waiting.popleft()
            try:
                self._log.log(level, text, *details)
            except Exception:
                # A handler that fails is the application's; it must not end this greenlet with lines left.
                continue
