"""What fork() does to connections.

The child inherits the descriptors, the greenlets and the hub. A reader in the child would take replies that belong to
the parent (a naive one steals about half of them). So the child cuts its copies of all connections off before it reads
or writes anything: their watchers are stopped, its copies of the descriptors closed, and the pools forget them. It
dials anew when it first needs a connection. Nothing here yields, logs, locks or makes a hub.

Two ways lead here. Importing the package registers a hook with ``os.register_at_fork``. A fork in C that runs no hooks
of Python (uWSGI's, that of an embedding program), and a hook of the application that runs before ours, is noticed by
the first byte of ``page``: the kernel fills that page with zeros in every child. Whoever is about to use a socket or
to begin a call looks at it; that costs 35 ns.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

# MADV_WIPEONFORK of Linux 4.14, for which the mmap module has no name.
_WIPE_ON_FORK = 18

_connections: weakref.WeakSet[Any] = weakref.WeakSet()
_generation = 0


class _ByPid:
    """Stands in for the page where the system cannot wipe one: compares the process id."""

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


# Its first item is 1, and 0 in a child that has not called notice().
page = _make_page()


def generation() -> int:
    """Return how many forks lie between this process and the first; greenlets end when it is not theirs any more."""
    if not page[0]:
        notice()
    return _generation


def look_at(other: Any) -> None:
    """Use a page that somebody else has made; before anybody has taken ``page``."""
    global page
    page = other


def register(connection: Any) -> None:
    """Have connection.poison called in a forked child."""
    _connections.add(connection)


def notice() -> None:
    """Cut this process's copies of the parent's connections off.

    Every step may be done twice: a signal handler that makes a call here comes here, too.
    """
    global _generation
    _generation += 1
    connections = list(_connections)
    for connection in connections:
        connection.poison()
        _connections.discard(connection)
    page[0] = 1


def _after_in_child() -> None:
    # A hook of the application that ran earlier may have made a call, and this process connections of its own.
    if not page[0]:
        notice()


os.register_at_fork(after_in_child=_after_in_child)
