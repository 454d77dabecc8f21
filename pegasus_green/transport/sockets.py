"""Connected sockets with the options that connections need."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from gevent import get_hub
from gevent import socket as gsocket

from . import fork
from .outbox import fork_watcher, stop


def is_same(fd: int, inode: int) -> bool:
    """Tell whether a descriptor still belongs to the socket with this inode: numbers are reused."""
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False


def let_go(plain: Any, inode: int) -> None:
    """Close a plain socket in a forked child. The child may have closed its descriptor and reused the number."""
    if is_same(plain.fileno(), inode):
        plain.close()
    else:
        plain.detach()


class Copy:
    """A gevent socket of a connection that is not open yet. A forked child must not use its copy."""

    __slots__ = ("_sock", "_inode", "__weakref__")

    def __init__(self, sock: Any) -> None:
        """Make a forked child cut off its copy, while this object exists."""
        self._sock = sock
        self._inode = os.fstat(sock.fileno()).st_ino
        fork.register(self)

    def poison(self) -> None:
        """Close the copy and wake the greenlet that waits for it; must not yield."""
        sock = self._sock
        if sock._sock.fileno() < 0:
            return
        let_go(sock._sock, self._inode)
        loop = getattr(sock.hub, "loop", None)
        if loop is not None:
            for watcher in (sock._read_event, sock._write_event):
                # hub.cancel_wait stops a watcher in a callback, and a loop with many callbacks runs some of them later.
                # But the loop aborts the process when it checks descriptors and a watched one is closed.
                waiter = getattr(watcher.callback, "__self__", None)
                watcher.stop()
                if waiter is not None:
                    loop.run_callback(waiter.throw, OSError("the process forked meanwhile"))


def dial(sockaddr: tuple[Any, ...], family: int, timeout: float, opened: Callable[[Any], object]) -> Any:
    """Return a connected gevent socket; yields.

    Args:
        sockaddr: The server's socket address.
        family: The address family.
        timeout: Seconds for the connection.
        opened: Called with the plain socket inside the gevent socket, before it connects.

    Raises:
        OSError: Refused, unreachable or not answered within timeout seconds.
    """
    sock = gsocket.socket(family, gsocket.SOCK_STREAM)
    forks: Any = None
    try:
        copy = Copy(sock)
        # For a fork that runs no hooks of Python.
        forks = fork_watcher(get_hub().loop)
        if forks is not None:
            forks.start(fork.after_in_child)
        opened(sock._sock)  # type: ignore[attr-defined]
        sock.settimeout(timeout)
        sock.connect(sockaddr)
        sock.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_NODELAY, 1)
        sock.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    finally:
        stop(forks)
    del copy
    return sock


# The largest values that Linux accepts: seconds between probes, and milliseconds until packets are acknowledged.
MAX_PROBE = 32767
MAX_LIMIT = 2**31 - 1


def notice_dead_paths(sock: Any, seconds: float | None) -> None:
    """Make the kernel end a connection whose packets are not acknowledged (a firewall or cable failed)."""
    if seconds is None:
        return
    probe = min(max(int(seconds / 3), 1), MAX_PROBE)
    # On systems without TCP_KEEPIDLE it is called TCP_KEEPALIVE.
    idle = "TCP_KEEPIDLE" if hasattr(gsocket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    # Linux checks the limit when a probe or retransmission is due, and counts from the first retransmission.
    limit = min(int((seconds - probe) * 1000), MAX_LIMIT)
    wanted = {idle: probe, "TCP_KEEPINTVL": probe, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": limit}
    for name, value in wanted.items():
        option = getattr(gsocket, name, None)
        if option is not None:
            try:
                sock.setsockopt(gsocket.IPPROTO_TCP, option, value)
            except OSError:
                # Python knows the option and the system does not, or this is not a TCP socket.
                continue
