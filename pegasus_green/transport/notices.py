"""Rate-limited log lines, written outside the event loop: a few lines of a kind, then only their number.

A log handler of the application may wait for a disk, a socket, or a lock that a suspended greenlet holds. In a callback
of the hub this is an error, and in a caller's greenlet it is a point where the caller can be killed. So a separate
greenlet writes the lines. If it cannot run any more, they are written at the end of their thread or of the process.
They contain addresses, table names, counts and reasons, but no keys and no values.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections import deque
from functools import cache
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
# The topics of this process with lines that are not written yet.
_unwritten: dict[Notices, None] = {}


@cache
def _write_at_exit() -> None:
    def write() -> None:
        for notices in list(_unwritten):
            notices.write()

    atexit.register(write)


class Logs:
    """The log lines of one client, by topic. All its threads share them, so a line of each kind counts once."""

    def __init__(self) -> None:
        """Start without topics."""
        self._topics: dict[str, Notices] = {}

    def topic(self, name: str) -> Notices:
        """Return the lines of a topic; its logger is ``pegasus_green.NAME``."""
        return self._topics.setdefault(name, Notices(name))

    def write(self) -> None:
        """Write the waiting lines now: a thread ends."""
        for notices in list(self._topics.values()):
            notices.write()


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
        # With the process to which a line belongs. A forked child does not write the lines of its parent.
        self._waiting: deque[tuple[int, int, str, tuple[object, ...]]] = deque(maxlen=MAX_WAITING)
        # The writing greenlet.
        self._writer: Any = None

    def info(self, kind: str, text: str, *details: object) -> None:
        """Log a line at INFO; never yields, never raises."""
        self._note(logging.INFO, kind, text, details)

    def warning(self, kind: str, text: str, *details: object) -> bool:
        """Log a line at WARNING; never yields, never raises. Return whether the logger takes lines of this level."""
        return self._note(logging.WARNING, kind, text, details)

    def debug(self, kind: str, text: str, *details: object) -> None:
        """Log a line at DEBUG; never yields, never raises."""
        self._note(logging.DEBUG, kind, text, details)

    def _note(self, level: int, kind: str, text: str, details: tuple[object, ...]) -> bool:
        if not self._log.isEnabledFor(level):
            return False
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
            return True
        self._waiting.append((os.getpid(), level, text, details))
        _unwritten[self] = None
        _write_at_exit()
        writer = self._writer
        # A greenlet of a hub that was destroyed never ends. A client can also go over to the hub of another thread.
        if writer is None or writer.ready() or writer.parent is not get_hub_if_exists():
            self._writer = gevent.spawn(self.write)
        return True

    def write(self) -> None:
        """Write the waiting lines; the log handlers of the application run here."""
        # First: a line that another thread adds meanwhile is noted again.
        _unwritten.pop(self, None)
        while self._waiting:
            try:
                pid, level, text, details = self._waiting.popleft()
                if pid == os.getpid():
                    self._log.log(level, text, *details)
            except Exception:
                # A failing handler belongs to the application, and must not keep the other lines back. Another thread
                # may have taken the last line.
                continue
        # If the hub of the greenlet has ended, nothing else frees the greenlet.
        self._writer = None
