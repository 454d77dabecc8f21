"""The time of an embedded cluster: the system's time plus the time that tests have skipped."""

from __future__ import annotations

import time


class Clock:
    """A callable that returns unix seconds. ``advance`` moves it forward; the system's clock is not changed."""

    __slots__ = ("skipped",)

    def __init__(self) -> None:
        """Start with the current time."""
        self.skipped = 0.0

    def __call__(self) -> float:
        """Return the current time in unix seconds."""
        return time.time() + self.skipped

    def monotonic(self) -> float:
        """Return seconds that never decrease, with skipped time."""
        return time.monotonic() + self.skipped


def local_time(seconds: float) -> str:
    """Return a time (unix seconds) as text in the time zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
