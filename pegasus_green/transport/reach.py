"""From the names of a server to a connected socket: names are resolved, and the ways are tried beside each other."""

from __future__ import annotations

# The real one, which never waits where the host stands in digits.
from _socket import getaddrinfo
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeAlias

import gevent
from gevent import socket as gsocket
from gevent.event import Event

from . import fork
from .outbox import delay

# The next name of a server is tried when one has been silent for so long (seconds); the first goes on meanwhile.
STAGGER = 0.25

# From socket address, family and seconds to a connected socket.
Dial: TypeAlias = Callable[[tuple[Any, ...], int, float], Any]


class TooLong(OSError):
    """The time for all names and addresses of a server has passed."""


def resolve(address: str) -> list[Any]:
    """Return what ``getaddrinfo`` says of "host:port"; yields for a name.

    Digits do not go through gevent's few resolver threads, which a name server that does not answer may keep busy.

    Raises:
        OSError: The name cannot be resolved.
        UnicodeError: No resolver takes such a name.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        return getaddrinfo(host, int(port), 0, gsocket.SOCK_STREAM, 0, gsocket.AI_NUMERICHOST)
    except gsocket.gaierror:
        return list(gsocket.getaddrinfo(host, int(port), 0, gsocket.SOCK_STREAM))


def in_digits(address: str) -> bool:
    """Tell whether the host of "host:port" is an address and not a name; never yields."""
    host, _, port = address.rpartition(":")
    try:
        getaddrinfo(host.strip("[]"), int(port), 0, gsocket.SOCK_STREAM, 0, gsocket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def addresses_of(address: str) -> list[str]:
    """Return the addresses in digits that the name in "host:port" stands for; yields.

    Raises:
        OSError, UnicodeError: As ``resolve``.
    """
    found = [sockaddr[:2] for _, _, _, _, sockaddr in resolve(address)]
    return list(dict.fromkeys(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found))


class _Race:
    """Several names of one server, tried beside each other until one of them gives a socket."""

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
        count = len(self._names)
        next_at = monotonic()
        try:
            while not self._sockets and len(self._errors) < count:
                self._news.clear()
                now = monotonic()
                if self._names and (now >= next_at or len(self._errors) == len(self._running)):
                    self._running.append(gevent.spawn(self._try, self._names.popleft()))
                    next_at = now + STAGGER
                self._news.wait(delay(next_at - monotonic()) if self._names else None)
            if self._sockets:
                return self._sockets.pop()
            raise OSError("; ".join(f"{name}: {error}" for name, error in self._errors.items()))
        finally:
            self._over = True
            gevent.killall(self._running, block=False)
            for _, sock in self._sockets:
                sock.close()

    def _try(self, name: str) -> None:
        """Try one name, in a greenlet of its own."""
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
    """Return the name that led to a server, and a connected socket; yields for limit seconds at most.

    Args:
        names: "host:port" in the order of preference; all of them are names of one server.
        limit: Seconds for everything.
        dial: Connects to one socket address; yields.

    Raises:
        OSError: None of them leads to a connection in time.
        UnicodeError: The only one is no name that a resolver takes.
    """
    with gevent.Timeout(limit, TooLong(f"no connection within {limit:.2f} s")):
        if len(names) == 1:
            return names[0], _reach_one(names[0], limit, dial)
        return _Race(names, limit, dial).run()


def _reach_one(name: str, limit: float, dial: Dial) -> Any:
    """Resolve a name, off the hub, and dial its addresses in turn."""
    mine = fork.generation()
    found = resolve(name)
    if mine != fork.generation():
        raise OSError("the process forked meanwhile; it dials when it needs a connection itself")
    error: OSError = OSError("the name has no address")
    for family, _, _, _, sockaddr in found:
        try:
            return dial(sockaddr, family, limit / len(found))
        except TooLong:
            raise
        except OSError as failed:
            error = failed
    raise error
