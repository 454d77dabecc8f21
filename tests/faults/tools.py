"""Helpers of the fault tests: what is still under way in a client, and greenlets with a recorded result."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent

from pegasus_green import Client
from pegasus_green.keys import partition_hash
from tests.waiting import Stopwatch


def unfinished(client: Client) -> list[str]:
    """Return what is still under way in a client; nothing for a client at rest."""
    cluster: Any = client._cluster
    found = []
    for connection in cluster.pool.connections:
        if connection.pending:
            found.append(f"{len(connection.pending)} pending on {connection!r}")
        if connection.queued_bytes:
            found.append(f"{connection.queued_bytes} bytes queued on {connection!r}")
        due = connection._flush_callback
        if connection._undelivered or connection._crowded or connection._parked or (due is not None and due.pending):
            found.append(f"{connection!r} undelivered, crowded or about to flush")
    found += [f"{peer!r} dialling" for peer in cluster.pool.peers.values() if peer._is_dialling()]
    for name, dispatcher in cluster.tables.items():
        if dispatcher.routes._is_querying():
            found.append(f"routes of {name} are being queried")
    found += [f"greenlet {greenlet!r}" for greenlet in cluster.pool._greenlets]
    if cluster.scopes:
        found.append(f"{len(cluster.scopes)} deadline scopes")
    return found


def at_rest(client: Client, seconds: float = 3.0) -> list[str]:
    """Wait until nothing is under way in a client; return what is left after a while."""
    return settled(lambda: unfinished(client), seconds)


def settled(look: Callable[[], list[str]], seconds: float = 3.0) -> list[str]:
    """Wait until a check finds nothing; return what it finds after a while."""
    until = monotonic() + seconds
    while (found := look()) and monotonic() < until:
        gevent.sleep(0.002)
    return found


def primary_of(client: Client, hash_key: bytes) -> str:
    """Return the address of the primary of a hash key in table temp, as the client knows it."""
    table = client._cluster.tables["temp"].routes.table
    assert table is not None
    return table.target(partition_hash(hash_key)).primary


class Ended:
    """A greenlet that runs a function and keeps its result or exception."""

    def __init__(self, run: Callable[..., Any], *args: Any) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.watch = Stopwatch()
        self.greenlet = gevent.spawn(self._run, run, args)

    def _run(self, run: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.watch = Stopwatch()
        try:
            self.value = run(*args)
        except BaseException as error:
            self.error = error
        finally:
            self.watch.stop()

    def join(self, seconds: float = 10.0) -> Ended:
        self.greenlet.join(seconds)
        assert self.greenlet.dead, "it hangs"
        return self


def timers() -> int:
    """Return how many timers are running in this process' loops."""
    gc.collect()
    return sum(1 for item in gc.get_objects() if type(item).__name__ == "timer" and getattr(item, "active", False))


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def large_bytes() -> int:
    """Return the bytes of objects above 512 bytes, or 0 if the C library does not report them."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return int(info.uordblks)
