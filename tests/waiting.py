"""Wait for other greenlets and processes in tests."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import gevent


def wait_until(condition: Callable[[], object], seconds: float = 60.0, step: float = 0.005) -> float:
    """Wait until a condition holds and return the seconds; fail after the time limit."""
    begin = monotonic()
    while not condition():
        assert monotonic() - begin < seconds, f"not within {seconds} s"
        gevent.sleep(step)
    return monotonic() - begin


def seconds_queued() -> float:
    """Return how long this thread has waited for a processor, or 0.0 if the system does not report it."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0


def sleeping(watch: Stopwatch, seconds: float) -> float:
    """Sleep in gevent until a watch shows so many seconds; return what it shows then: a control for other timers."""
    gevent.sleep(max(seconds - watch.elapsed, 0.0))
    return watch.seconds


class Stopwatch:
    """Measures a duration in this thread without the time in which other processes used the processor."""

    def __init__(self) -> None:
        self._begin, self._queued = monotonic(), seconds_queued()
        self._end: tuple[float, float] | None = None

    def stop(self) -> Stopwatch:
        """Stop the watch and return it."""
        self._end = self._now()
        return self

    def _now(self) -> tuple[float, float]:
        return self._end or (monotonic() - self._begin, seconds_queued() - self._queued)

    @property
    def elapsed(self) -> float:
        """Seconds of wall-clock time."""
        return self._now()[0]

    @property
    def seconds(self) -> float:
        """Seconds of wall-clock time without the time in which this thread waited for a processor."""
        elapsed, queued = self._now()
        return elapsed - queued
