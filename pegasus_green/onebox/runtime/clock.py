"""The time of an embedded cluster: the system's, plus what tests have skipped."""

from __future__ import annotations

import time


class Clock:
    """A callable that returns unix seconds, moved ahead by ``advance``; the system's own clock stays as it is."""

    __slots__ = ("skipped",)

    def __init__(self) -> None:
        """Start with the present."""
        self.skipped = 0.0

    def __call__(self) -> float:
        """Return the present, in unix seconds."""
        return time.time() + self.skipped

    def monotonic(self) -> float:
        """Return seconds that never go back, skipped ones included."""
        return time.monotonic() + self.skipped


def local_time(seconds: float) -> str:
    """Return a moment (unix seconds) as people read it, in the time zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
