"""Calls at scheduled times, and their latency from the scheduled time on.

The schedules of 64 callers, interleaved, are one schedule of the whole rate: call k is due at ``start + k / rate`` and
belongs to caller ``k % 64``. One timer, every millisecond, releases what is due; 64 greenlets that sleep for themselves
would use more CPU than the calls. It is a timer of the kernel: one of the event loop would begin each period after the
work of the one before, because the loop sleeps for whole milliseconds. A finer look, without that millisecond in both
figures: a hook in every pass of a loop that never sleeps. A caller that is behind its schedule goes on at once, and the
wait that this causes counts (no coordinated omission).
"""

from __future__ import annotations

import ctypes
import os
import time
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent
from gevent.event import Event
from greenlet import getcurrent

from benchmarks.pipe import Stopwatch

# The first calls do not count: schedule and connection warm up.
SETTLE = 0.1
TICK = 1_000_000  # nanoseconds


def percentile(values: list[float], share: float) -> float:
    """Return a percentile."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Clock:
    """Runs a function every millisecond (on Linux), or in every pass of the loop, which then never sleeps."""

    def __init__(self, work: Callable[[], Any], *, spin: bool) -> None:
        loop: Any = gevent.get_hub().loop
        self.work = work
        self.ticks: int | None = None
        if spin:
            self.watchers = [(loop.prepare(), work), (loop.idle(), int)]
            return
        libc = ctypes.CDLL(None)
        self.ticks = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        # The interval and the first time, each in seconds and nanoseconds.
        libc.timerfd_settime(self.ticks, 0, (ctypes.c_long * 4)(0, TICK, 0, TICK), None)
        self.watchers = [(loop.io(self.ticks, 1), self.tick)]

    def tick(self) -> None:
        assert self.ticks is not None
        os.read(self.ticks, 8)
        self.work()

    def __enter__(self) -> None:
        for watcher, work in self.watchers:
            watcher.start(work)

    def __exit__(self, *_error: object) -> None:
        for watcher, _ in self.watchers:
            watcher.stop()
            watcher.close()
        if self.ticks is not None:
            os.close(self.ticks)


def result(watch: Stopwatch, late: list[float], calls: int) -> dict[str, Any]:
    """Return the percentiles of a block in milliseconds."""
    late = late[int(len(late) * SETTLE) :]
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    return watch.stop(calls, **{name: percentile(late, share) * 1e3 for name, share in shares.items()})


def pace_callers(call: Callable[[int], Any], callers: int, rate: float, calls: int, *, spin: bool) -> dict[str, Any]:
    """Make calls from greenlets at the scheduled times; ``call(k)`` makes one call and waits for its answer."""
    late: list[float] = []
    waiting: dict[int, Any] = {}
    each = calls // callers
    hub: Any = gevent.get_hub()
    start = perf_counter() + 0.005
    released = 0

    def release() -> None:
        nonlocal released
        upto = min(int((perf_counter() - start) * rate), each * callers)
        while released < upto:
            switch = waiting.pop(released, None)
            released += 1
            if switch is not None:
                switch()

    def caller(number: int) -> None:
        for k in range(number, each * callers, callers):
            if k >= released:
                waiting[k] = getcurrent().switch
                hub.switch()
            call(k)
            late.append(perf_counter() - (start + k / rate))

    watch = Stopwatch()
    greenlets = [gevent.spawn(caller, number) for number in range(callers)]
    with Clock(release, spin=spin):
        gevent.joinall(greenlets, raise_error=True)
    return result(watch, late, each * callers)


def pace_socket(sock: Any, requests: list[bytes], reply: int, rate: float, calls: int, *, spin: bool) -> dict[str, Any]:
    """Send requests on one socket at the same scheduled times, all due ones together; replies come in their order."""
    late: list[float] = []
    owed: deque[float] = deque()
    many = len(requests)
    wake = Event()
    start = perf_counter() + 0.005
    sent = 0

    def due() -> None:
        if sent < min(int((perf_counter() - start) * rate), calls):
            wake.set()

    def send() -> None:
        nonlocal sent
        while sent < calls:
            # Also if more is due already: without this, the replies would be read late.
            wake.clear()
            wake.wait()
            upto = min(int((perf_counter() - start) * rate), calls)
            owed.extend(start + k / rate for k in range(sent, upto))
            block = b"".join([requests[k % many] for k in range(sent, upto)])
            sent = upto
            sock.sendall(block)

    def receive() -> None:
        got = answered = 0
        while answered < calls:
            data = sock.recv(256 * 1024)
            if not data:
                raise ConnectionError("the responder hung up")
            got += len(data)
            now = perf_counter()
            while got >= reply:
                got -= reply
                answered += 1
                late.append(now - owed.popleft())

    watch = Stopwatch()
    with Clock(due, spin=spin):
        gevent.joinall([gevent.spawn(send), gevent.spawn(receive)], raise_error=True)
    return result(watch, late, calls)
