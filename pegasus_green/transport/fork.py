"""Connections at fork().

The child inherits the descriptors, the greenlets and the hub. A reader in the child would take replies that belong to
the parent (a naive one takes about half of them). So before the child reads or writes anything, it cuts off its copies
of all connections: it stops their watchers, closes its copies of the descriptors, and the pools forget them. The child
dials when it first needs a connection. Nothing here yields, logs, locks or makes a hub.

There are two ways to notice a fork. The import of the package registers a hook with ``os.register_at_fork``. Some forks
run no Python hooks (uWSGI, embedding programs), and a hook of the application can run before ours. For these cases
there is the first byte of ``page``: the kernel fills this page with zeros in every child. Code that is about to use a
socket or to start a call checks it, which costs 35 ns. The loop of a connection checks it, too, when it runs for the
first time in a child, before it touches a descriptor.
"""

from __future__ import annotations

import _thread
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

# MADV_WIPEONFORK of Linux 4.14; the mmap module has no name for it.
_WIPE_ON_FORK = 18

_connections: weakref.WeakSet[Any] = weakref.WeakSet()
_generation = 0
# gevent is not loaded here. If it is there and has patched the module, its identifiers are those of greenlets.
_monkey: Any = sys.modules.get("gevent.monkey")
thread_id: Callable[[], int] = _thread.get_ident if _monkey is None else _monkey.get_original("_thread", "get_ident")
# The thread that forked, the only one that continues in this process. None: no fork, or the thread is unknown.
_survivor: int | None = None


class _ByPid:
    """Replaces the page on systems that cannot wipe one: it compares the process id."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, _index: int) -> int:
        return int(self._pid == os.getpid())

    def __setitem__(self, _index: int, _value: int) -> None:
        self._pid = os.getpid()


def _make_page() -> Any:
    try:
        made = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        made.madvise(_WIPE_ON_FORK)
    except (AttributeError, OSError, ValueError):
        return _ByPid()
    made[0] = 1
    return made


# Item 0 is 1. In a child it is 0 until notice() is called.
page = _make_page()


def generation() -> int:
    """Return the number of forks between this process and the first one. A greenlet of an older one must end."""
    if not page[0]:
        notice()
    return _generation


def check(mine: int) -> None:
    """End the copy of a call in a child; a call does this after it has waited.

    Args:
        mine: The generation in which the call began.

    Raises:
        ForkedConnection: The process has forked since.
    """
    if mine != generation():
        # Importing the package loads this module only.
        from ..errors import FORKED, ForkedConnection

        raise ForkedConnection(FORKED)


def look_at(other: Any) -> None:
    """Use a page that another module has made. Call it before any code reads ``page``."""
    global page
    page = other


def register(connection: Any) -> None:
    """Make a forked child call connection.poison."""
    _connections.add(connection)


def _main_thread() -> int | None:
    """Return the calling thread if it is the main thread, which on Linux has the identifier of the process; else None.

    Python's list of threads may still contain the parent's, so it must not be read.
    """
    return thread_id() if _thread.get_native_id() == os.getpid() else None


def notice() -> None:
    """Cut off this process's copies of the parent's connections.

    Every step may run twice: a signal handler that makes a call during this function calls it, too.
    """
    global _generation, _survivor
    _survivor = _main_thread()
    _generation += 1
    connections = list(_connections)
    for connection in connections:
        connection.poison()
        _connections.discard(connection)
    page[0] = 1


def after_in_child() -> None:
    """Cut the copies of the parent's connections off, once; called by Python's hook and by the loops."""
    # An earlier hook of the application may have made a call, so this process may have its own connections already.
    if not page[0]:
        notice()


def is_survivor(thread: int) -> bool | None:
    """Tell whether a thread of an earlier generation continues in this process; None: unknown.

    After a fork without hooks only a call of the main thread can tell.
    """
    survivor = _main_thread() if _survivor is None else _survivor
    return None if survivor is None else thread == survivor


def _in_child() -> None:
    """Run in the thread that forked, after every fork that runs Python's hooks."""
    global _survivor
    after_in_child()
    _survivor = thread_id()


os.register_at_fork(after_in_child=_in_child)
