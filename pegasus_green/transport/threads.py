"""Native threads for work that blocks in a C library, and forks that wait a moment for it.

They are not the hub's, where names are resolved: a KDC that is silent holds one for 54 s. Nobody waits for them when
the process ends.

A fork copies the library's memory as it is. What a thread was about to change stays half changed in the child, whose
next call into the library may crash or hang. So ``fork()`` lets such work end first, for a fifth of a second at most:
work that takes longer waits for the network, where libraries have nothing half changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from time import monotonic
from typing import Any, TypeVar, cast

from gevent import get_hub
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

T = TypeVar("T")

THREADS = 2
# A thread without work ends after so many seconds.
IDLE_SECONDS = 10
FORK_SECONDS = 0.2
FORK_STEP = 0.001

# The work that is under way in threads of this process.
_under_way: set[object] = set()


class Threads:
    """Up to two native threads of one hub."""

    def __init__(self) -> None:
        """Start none."""
        self._pool: Any = None
        self._pid = 0
        self._inherited: list[Any] = []

    def run(self, work: Callable[[], T]) -> T:
        """Run work in a thread and return its result, or raise what it raises; yields."""
        hub = get_hub()
        if self._pool is None or self._pool.hub is not hub or self._pid != os.getpid():
            _have_forks_wait()
            # The threads of a parent process are not here; what they held is not to be freed either.
            self._inherited.append(self._pool)
            self._pid = os.getpid()
            self._pool = ThreadPool(THREADS, hub, idle_task_timeout=IDLE_SECONDS)
        # An exception is returned, since gevent would print it besides raising it here.
        result, error = self._pool.spawn(_outcome, work).get()
        if error is not None:
            raise error
        return cast(T, result)

    def close(self) -> None:
        """Let the threads end as soon as they have nothing to do; never yields."""
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid() and pool.hub is not None and pool.hub.loop is not None:
            # In the hub ``kill`` waits for nobody.
            pool.hub.loop.run_callback(pool.kill)


def _outcome(work: Callable[[], object]) -> tuple[object, Exception | None]:
    mark = object()
    _under_way.add(mark)
    try:
        return work(), None
    except Exception as error:
        return None, error
    finally:
        _under_way.discard(mark)


@cache
def _have_forks_wait() -> None:
    # The real one: a greenlet that slept would let others run in the middle of a fork.
    sleep = get_original("time", "sleep")

    def wait() -> None:
        until = monotonic() + FORK_SECONDS
        while _under_way and monotonic() < until:
            sleep(FORK_STEP)

    os.register_at_fork(before=wait, after_in_child=_under_way.clear)
