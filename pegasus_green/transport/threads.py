"""Native threads for work that blocks in a C library, and forks that wait a moment for it.

They are not the hub's, where names are resolved: a KDC that is silent holds one for 54 s. Each ends with its work, and
nobody waits for them when the process ends. They touch nothing of a hub but ``loop.run_callback_threadsafe``.

A fork copies the library's memory as it is. What a thread was about to change stays half changed in the child, whose
next call into the library may crash or hang. So ``fork()`` lets such work end first, for a fifth of a second at most:
work that takes longer waits for the network, where libraries have nothing half changed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from time import monotonic
from typing import Any, TypeVar, cast

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent._waiter import Waiter
from gevent.monkey import get_original

from .outbox import stop

T = TypeVar("T")

THREADS = 2
FORK_SECONDS = 0.2
FORK_STEP = 0.001
# A timer of this period keeps the loop going while a greenlet waits for a thread.
KEEP_SECONDS = 3600.0

_start_new_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
# The work that is under way in threads of this process.
_under_way: set[object] = set()


def _run(work: Callable[[], T], then: Callable[[tuple[T | None, Exception | None]], object]) -> None:
    """Run work in a native thread, and there ``then`` with its result or error."""
    mark = object()
    _under_way.add(mark)
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    except BaseException as error:
        # Whoever waits must hear of it, and is not to be ended by it.
        failure = RuntimeError(f"{type(error).__name__} in a native thread")
    finally:
        _under_way.discard(mark)
    then((result, failure))
    hub = get_hub_if_exists()
    if hub is not None:
        # Work that used gevent has made one, which gevent would leave open.
        hub.destroy(destroy_loop=True)


def _tell(loop: Any, call: Callable[..., object], *args: object) -> None:
    """Have the loop of another thread call a function; a loop that was destroyed does not."""
    try:
        loop.run_callback_threadsafe(call, *args)
    except (ValueError, AttributeError, TypeError):
        # gevent has several loops, which raise different errors once they are destroyed.
        return


class Threads:
    """Up to two native threads of one hub at a time; more work waits for its turn."""

    def __init__(self) -> None:
        """Start none."""
        self._begin_anew(None)

    def _begin_anew(self, loop: Any) -> None:
        self._pid, self._loop = os.getpid(), loop
        self._busy = 0
        self._queue: deque[tuple[Callable[[], Any], Any]] = deque()

    def run(self, work: Callable[[], T]) -> T:
        """Run work in a thread and return its result, or raise what it raises; yields.

        A caller that is killed leaves the work to itself; its thread counts until it ends.
        """
        hub = get_hub()
        _have_forks_wait()
        if self._pid != os.getpid() or self._loop is not hub.loop:
            # The threads of a parent process are not here; those of a hub that was destroyed tell nobody.
            self._begin_anew(hub.loop)
        waiter: Any = Waiter(hub)
        task = work, waiter
        keep = hub.loop.timer(KEEP_SECONDS, KEEP_SECONDS)
        try:
            keep.start(int)
            self._queue.append(task)
            self._begin()
            result, error = waiter.get()
        finally:
            stop(keep)
            if task in self._queue:
                self._queue.remove(task)
        if error is not None:
            raise error
        return cast(T, result)

    def _begin(self) -> None:
        while self._queue and self._busy < THREADS:
            work, waiter = self._queue.popleft()
            self._busy += 1
            try:
                _start_new_thread(_run, (work, partial(_tell, self._loop, self._ended, waiter)))
            except RuntimeError as error:
                self._loop.run_callback(self._ended, waiter, (None, error))

    def _ended(self, waiter: Any, outcome: tuple[Any, Exception | None]) -> None:
        """Hand an outcome over, in the hub."""
        self._busy -= 1
        self._begin()
        waiter.switch(outcome)


@cache
def _have_forks_wait() -> None:
    # The real one: a greenlet that slept would let others run in the middle of a fork.
    sleep = get_original("time", "sleep")

    def wait() -> None:
        until = monotonic() + FORK_SECONDS
        while _under_way and monotonic() < until:
            sleep(FORK_STEP)

    os.register_at_fork(before=wait, after_in_child=_under_way.clear)
