"""From the names of a server to a connected socket: resolve the names, and try several of them in parallel."""

from __future__ import annotations

# The real function. It never waits for an IP address.
from _socket import getaddrinfo
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeAlias

import gevent
from gevent import socket as gsocket
from gevent.event import Event

from . import fork
from .outbox import is_foreign
from .waits import LOOK_FOR_LOST, wait

# If a name gives no connection within this many seconds, the next one is tried, too; the first attempt continues.
STAGGER = 0.25

# Takes socket address, family and seconds; returns a connected socket.
Dial: TypeAlias = Callable[[tuple[Any, ...], int, float], Any]


class TooLong(OSError):
    """The time limit for all names and addresses of a server has passed."""


def resolve(address: str) -> list[Any]:
    """Return the result of ``getaddrinfo`` for "host:port"; yields for a name.

    IP addresses do not use gevent's few resolver threads, which a silent name server may keep busy.

    Raises:
        OSError: The name cannot be resolved.
        UnicodeError: The resolver rejects the name.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        return getaddrinfo(host, int(port), 0, gsocket.SOCK_STREAM, 0, gsocket.AI_NUMERICHOST)
    except gsocket.gaierror:
        return list(gsocket.getaddrinfo(host, int(port), 0, gsocket.SOCK_STREAM))


def in_digits(address: str) -> bool:
    """Tell whether the host of "host:port" is an IP address; never yields."""
    host, _, port = address.rpartition(":")
    try:
        getaddrinfo(host.strip("[]"), int(port), 0, gsocket.SOCK_STREAM, 0, gsocket.AI_NUMERICHOST)
    except UnicodeError:
        return False
    except OSError as error:
        if is_foreign(error, getaddrinfo):
            raise
        return False
    return True


def addresses_of(address: str) -> list[str]:
    """Return the IP addresses of the name in "host:port"; yields.

    Raises:
        OSError, UnicodeError: As for ``resolve``.
    """
    found = [(_host(sockaddr), sockaddr[1]) for _, _, _, _, sockaddr in resolve(address)]
    return list(dict.fromkeys(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found))


def _host(sockaddr: tuple[Any, ...]) -> str:
    """Return the IP address of a socket address, with its scope if it has one: a link-local address needs it."""
    host: str = sockaddr[0]
    return f"{host}%{sockaddr[3]}" if len(sockaddr) == 4 and sockaddr[3] and "%" not in host else host


class _Race:
    """Several names of one server, tried in parallel until one of them gives a socket."""

    def __init__(self, names: Sequence[str], limit: float, dial: Dial) -> None:
        self._dial = dial
        self._names = deque(names)
        self._limit = limit
        self._sockets: list[tuple[str, Any]] = []
        self._errors: dict[str, Exception] = {}
        self._running: list[Any] = []
        self._news = Event()
        self._over = False

    def run(self) -> tuple[str, Any]:
        next_at = monotonic()
        try:
            while not self._sockets:
                self._news.clear()
                now = monotonic()
                # An attempt that was interrupted has neither a socket nor an error.
                all_ended = all(attempt.ready() for attempt in self._running)
                if self._names and (now >= next_at or all_ended):
                    self._running.append(gevent.spawn(self._try, self._names.popleft()))
                    next_at = now + STAGGER
                elif all_ended:
                    break
                wait(self._news, min(next_at - monotonic(), LOOK_FOR_LOST) if self._names else LOOK_FOR_LOST)
            if self._sockets:
                return self._sockets.pop()
            raise OSError("; ".join(f"{name}: {error}" for name, error in self._errors.items()))
        finally:
            self._over = True
            gevent.killall(self._running, block=False)
            for _, sock in self._sockets:
                sock.close()

    def _try(self, name: str) -> None:
        """Try one name; runs in its own greenlet."""
        try:
            sock = _reach_one(name, self._limit, self._dial)
        except (OSError, UnicodeError) as error:
            self._errors[name] = error
        else:
            if self._over:
                sock.close()
            else:
                self._sockets.append((name, sock))
        self._news.set()


def reach(names: Sequence[str], limit: float, dial: Dial) -> tuple[str, Any]:
    """Return the name that worked, and a connected socket; yields, for at most ``limit`` seconds.

    Args:
        names: "host:port" in the order of preference, all of the same server.
        limit: Seconds for all attempts.
        dial: Connects to one socket address; yields.

    Raises:
        OSError: None of them gives a connection in time.
        UnicodeError: There is only one name, and the resolver rejects it.
    """
    with gevent.Timeout(limit, TooLong(f"no connection within {limit:.2f} s")):
        if len(names) == 1:
            return names[0], _reach_one(names[0], limit, dial)
        return _Race(names, limit, dial).run()


def _reach_one(name: str, limit: float, dial: Dial) -> Any:
    """Resolve a name without blocking the hub, and dial its addresses one after the other."""
    mine = fork.generation()
    found = resolve(name)
    error: OSError = OSError("the name has no address")
    for family, _, _, _, sockaddr in found:
        if mine != fork.generation():
            raise OSError("the process forked meanwhile; the child dials when it needs a connection")
        try:
            return dial(sockaddr, family, limit / len(found))
        except TooLong:
            raise
        except OSError as failed:
            error = failed
    raise error
