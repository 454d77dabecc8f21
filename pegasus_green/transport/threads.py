"""Native threads for work that blocks in a C library, and a short wait of fork() for it.

These are not the threads of the hub, which resolve names, because a silent KDC holds a thread for 54 s. Each thread
ends with its work, and the end of the process does not wait for it. Of a hub they use only
``loop.run_callback_threadsafe``.

A fork copies the memory of the library as it is. If a thread is changing a structure at that moment, the structure is
inconsistent in the child, whose next call into the library may crash or hang. So ``fork()`` waits for such work for up
to a fifth of a second. Work that takes longer waits for the network, and then no structure is inconsistent.
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
# Period of a timer that keeps the loop alive while a greenlet waits for a thread.
KEEP_SECONDS = 3600.0

_start_new_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
# The work that runs now in threads of this process.
_under_way: set[object] = set()


def _run(work: Callable[[], T], then: Callable[[tuple[T | None, Exception | None]], object]) -> None:
    """Run work in a native thread, and then call ``then`` there with its result or error."""
    mark = object()
    _under_way.add(mark)
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    except BaseException as error:
        # The waiting greenlet must get an error, and must not be ended by this exception.
        failure = RuntimeError(f"{type(error).__name__} in a native thread")
    finally:
        _under_way.discard(mark)
    then((result, failure))
    hub = get_hub_if_exists()
    if hub is not None:
        # Work that used gevent has created a hub. gevent would leave it open.
        hub.destroy(destroy_loop=True)


def _tell(loop: Any, call: Callable[..., object], *args: object) -> None:
    """Make the loop of another thread call a function; do nothing if the loop was destroyed."""
    try:
        loop.run_callback_threadsafe(call, *args)
    except (ValueError, AttributeError, TypeError):
        # The loops of gevent raise different errors after they are destroyed.
        return


class Threads:
    """Up to two native threads of one hub at a time. Further work waits for a free one."""

    def __init__(self) -> None:
        """Start without threads."""
        self._begin_anew(None)

    def _begin_anew(self, loop: Any) -> None:
        self._pid, self._loop = os.getpid(), loop
        self._busy = 0
        self._queue: deque[tuple[Callable[[], Any], Any]] = deque()

    def run(self, work: Callable[[], T]) -> T:
        """Run work in a thread and return its result, or raise its error; yields.

        If the caller is killed, the work continues. Its thread counts until it ends.
        """
        hub = get_hub()
        _have_forks_wait()
        if self._pid != os.getpid() or self._loop is not hub.loop:
            # The threads of a parent process do not exist here. Those of a destroyed hub report to nobody.
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
        """Deliver an outcome, in the hub."""
        self._busy -= 1
        self._begin()
        waiter.switch(outcome)


@cache
def _have_forks_wait() -> None:
    # The real sleep: with gevent's, other greenlets would run in the middle of a fork.
    sleep = get_original("time", "sleep")

    def wait() -> None:
        until = monotonic() + FORK_SECONDS
        while _under_way and monotonic() < until:
            sleep(FORK_STEP)

    os.register_at_fork(before=wait, after_in_child=_under_way.clear)
