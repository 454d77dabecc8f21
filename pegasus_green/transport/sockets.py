"""Connected sockets with the options that connections need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import socket as gsocket


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
    try:
        opened(sock._sock)  # type: ignore[attr-defined]
        sock.settimeout(timeout)
        sock.connect(sockaddr)
        sock.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_NODELAY, 1)
        sock.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def notice_dead_paths(sock: Any, seconds: float | None) -> None:
    """Make the kernel end a connection whose packets are not acknowledged (a firewall or cable failed)."""
    if seconds is None:
        return
    probe = max(int(seconds / 3), 1)
    # On systems without TCP_KEEPIDLE it is called TCP_KEEPALIVE.
    idle = "TCP_KEEPIDLE" if hasattr(gsocket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    # Linux checks the limit when a probe or retransmission is due, and counts from the first retransmission.
    limit = int((seconds - probe) * 1000)
    wanted = {idle: probe, "TCP_KEEPINTVL": probe, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": limit}
    for name, value in wanted.items():
        option = getattr(gsocket, name, None)
        if option is not None:
            try:
                sock.setsockopt(gsocket.IPPROTO_TCP, option, value)
            except OSError:
                # Python knows the option and the system does not, or this is not a TCP socket.
                continue
