"""Rate-limited log lines, written outside the event loop: a few lines of a kind, then only their number.

A log handler of the application may wait for a disk, a socket, or a lock that a suspended greenlet holds. In a callback
of the hub this is an error, and in a caller's greenlet it is a point where the caller can be killed. So a separate
greenlet writes the lines. They contain addresses, table names, counts and reasons, but no keys and no values.
"""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic
from typing import Any

import gevent
from gevent._hub_local import get_hub_if_exists

# Lines of one kind that are written per period. Further lines are counted.
BURST = 5
PERIOD = 10.0
# Maximum number of kinds in memory. A cluster has fewer servers and tables.
MAX_KINDS = 1000
MAX_WAITING = 1000


class Notices:
    """Writes the log lines of one topic.

    Attributes:
        dropped: Number of lines that were counted and not written, since the start.
    """

    def __init__(self, name: str) -> None:
        """Use the logger ``pegasus_green.NAME``."""
        self.dropped = 0
        self._log = logging.getLogger(f"pegasus_green.{name}")
        # By kind: start of the period, number of lines in it.
        self._kinds: dict[str, list[float]] = {}
        self._waiting: deque[tuple[int, str, tuple[object, ...]]] = deque(maxlen=MAX_WAITING)
        # The writing greenlet.
        self._writer: Any = None

    def info(self, kind: str, text: str, *details: object) -> None:
        """Log a line at INFO; never yields, never raises."""
        self._note(logging.INFO, kind, text, details)

    def warning(self, kind: str, text: str, *details: object) -> None:
        """Log a line at WARNING; never yields, never raises."""
        self._note(logging.WARNING, kind, text, details)

    def debug(self, kind: str, text: str, *details: object) -> None:
        """Log a line at DEBUG; never yields, never raises."""
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
        writer = self._writer
        # A greenlet of a hub that was destroyed never ends. A client can also go over to the hub of another thread.
        if writer is None or writer.ready() or writer.parent is not get_hub_if_exists():
            self._writer = gevent.spawn(self._write)

    def _write(self) -> None:
        while self._waiting:
            level, text, details = self._waiting.popleft()
            try:
                self._log.log(level, text, *details)
            except Exception:
                # A failing handler belongs to the application. It must not end this greenlet while lines are left.
                continue
