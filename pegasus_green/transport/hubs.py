"""Make and destroy the hub of a thread, where gevent alone would spin or leave descriptors open.

Also refuse calls in the callbacks of the hub.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import gevent
from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.exceptions import BlockingSwitchOutError
from gevent.monkey import get_original
from greenlet import error as greenlet_error
from greenlet import getcurrent

from ..errors import ConnectFailed

# Interval of the checks whether the threads of a pool have ended, in seconds.
_STEP = 0.001
# The real sleep: gevent's would make a hub.
_sleep: Callable[[float], None] = get_original("time", "sleep")


def this_hub() -> Any:
    """Return this thread's hub; make it if there is none.

    Raises:
        ConnectFailed: Too few descriptors are free for a new loop.
    """
    hub = get_hub_if_exists()
    if hub is None:
        _check_descriptors()
        hub = get_hub()
    return hub


def sleep(seconds: float) -> None:
    """Wait. A thread without a hub blocks: a hub that was made for this wait would never be destroyed."""
    (_sleep if get_hub_if_exists() is None else gevent.sleep)(seconds)


def refuse_callback(hub: Any) -> None:
    """Raise BlockingSwitchOutError if the caller is the hub: its callbacks must not wait, so nothing may be sent."""
    if getcurrent() is hub:
        raise BlockingSwitchOutError("a call cannot wait in a callback of the event loop: spawn a greenlet for it")


class _User(Protocol):
    """An object that uses a hub."""

    def hub_has_ended(self) -> None:
        """Clean up if the hub was destroyed."""


class _Destroy:
    """The method ``destroy`` of one hub, which also tells the users of the hub.

    By default gevent keeps the loop of the main thread for the next hub. The watchers of a connection would continue in
    this loop, and switch into greenlets of the destroyed hub. When such a greenlet ends, the main greenlet wakes up
    before the event that it waits for. So the users stop their watchers when the hub is destroyed. The read watcher
    then needs no check at each pass.
    """

    __slots__ = ("_hub", "users")

    def __init__(self, hub: Any) -> None:
        # A weak reference, so that a hub is freed at once.
        self._hub = weakref.ref(hub)
        self.users: weakref.WeakSet[_User] = weakref.WeakSet()

    def __call__(self, destroy_loop: bool | None = None) -> None:
        hub: Any = self._hub()
        type(hub).destroy(hub, destroy_loop)
        for user in list(self.users):
            user.hub_has_ended()


def tell_end(hub: Any, user: _User) -> None:
    """Tell an object when a hub is destroyed; the hub does not keep it."""
    kept: dict[str, Any] = vars(hub)
    destroy = kept.setdefault("destroy", _Destroy(hub))
    # The application may have replaced the method. Then the next call notices the end.
    if isinstance(destroy, _Destroy):
        destroy.users.add(user)


def _check_descriptors() -> None:
    # A new loop opens up to four descriptors. Without them, libev tries again for ever and blocks the thread.
    opened: list[int] = []
    try:
        opened += os.pipe()
        opened += os.pipe()
    except OSError as error:
        raise ConnectFailed(f"no free descriptors for the event loop of this thread: {error}") from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def destroy(hub: Any) -> None:
    """Destroy a hub and its loop; runs in its thread or after the end of the thread.

    ``hub.destroy`` waits with ``gevent.sleep`` until the threads that resolve names for the hub have ended. At the end
    of a thread gevent has already forgotten the hub, so this would make another hub, which nobody would destroy. So
    these threads end before. This takes as long as the system's resolver takes: its threads cannot be interrupted.

    ``hub.destroy`` also leaves the hub's greenlet suspended, in a cycle that is never freed. So this function ends it.
    """
    pool = hub._threadpool
    if pool is not None and pool.pid != os.getpid():
        # A fork does not copy them.
        hub._threadpool = pool = None
    while pool is not None and pool.size:
        for _ in range(pool.size - len(pool)):
            pool.task_queue.put(None)
        _sleep(_STEP)
    hub.destroy(destroy_loop=True)
    if not hub.dead:
        # The thread may have ended. Then no other thread can end its greenlets.
        with suppress(greenlet_error):
            hub.throw()
