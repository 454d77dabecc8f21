"""What fork() does to connections.

The child inherits the descriptors, the greenlets and the hub. A reader in the child would take replies that belong to
the parent (a naive one steals about half of them). So right after the fork, before any greenlet of the child can run,
every inherited descriptor is pointed at a dead socket, and the pools forget their connections: the child dials anew
when it first needs one. The hook never yields, logs, locks or makes a hub.
"""

from __future__ import annotations

import os
import weakref

# The real one: under monkey patching `socket.socketpair` would make gevent sockets, and with them a hub.
from _socket import AF_UNIX, SOCK_STREAM, socketpair
from typing import Any

_connections: weakref.WeakSet[Any] = weakref.WeakSet()
_generation = 0
# A socket whose other end is closed. Made before any fork: in the child there may be no descriptor left for one.
_dead_fd = -1


def generation() -> int:
    """Return how many forks lie between this process and the first; greenlets end when it is not theirs any more."""
    return _generation


def register(connection: Any) -> None:
    """Have connection.poison called in a forked child; the hook is installed with the first one."""
    global _dead_fd
    if _dead_fd < 0:
        dead, other = socketpair(AF_UNIX, SOCK_STREAM)
        other.close()
        _dead_fd = dead.detach()
        os.register_at_fork(after_in_child=_after_in_child)
    _connections.add(connection)


def _after_in_child() -> None:
    global _generation
    _generation += 1
    connections = list(_connections)
    _connections.clear()
    for connection in connections:
        connection.poison(_dead_fd)
