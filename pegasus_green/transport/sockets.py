"""Connected sockets, with the options that a connection wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import socket as gsocket


def dial(sockaddr: tuple[Any, ...], family: int, timeout: float, opened: Callable[[Any], object]) -> Any:
    """Return a connected gevent socket; yields.

    Args:
        sockaddr: The server.
        family: The address family.
        timeout: Seconds for the connection.
        opened: Called with the plain socket below the gevent socket before it is connected.

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
    """Have the kernel end a connection whose packets nobody acknowledges: a firewall forgot it, a cable is out."""
    if seconds is None:
        return
    probe = max(int(seconds / 3), 1)
    # TCP_KEEPALIVE is TCP_KEEPIDLE where that is missing.
    idle = "TCP_KEEPIDLE" if hasattr(gsocket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    # Linux compares it when a probe or a repetition is due, and counts from the first repetition of a request.
    limit = int((seconds - probe) * 1000)
    wanted = {idle: probe, "TCP_KEEPINTVL": probe, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": limit}
    for name, value in wanted.items():
        option = getattr(gsocket, name, None)
        if option is not None:
            try:
                sock.setsockopt(gsocket.IPPROTO_TCP, option, value)
            except OSError:
                # Known to Python and not to the system, or no TCP socket.
                continue
