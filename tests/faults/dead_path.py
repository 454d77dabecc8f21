"""Runs in a network namespace of its own, whose loopback it takes down.

    python -m tests.faults.dead_path WHAT SECONDS

WHAT is "slow": a server answers after so many seconds; or "dead": the path dies. It prints a JSON object. Status 77
says that this process may not have a namespace.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import socket
import struct
import sys
from time import monotonic
from typing import Any

import gevent

from pegasus_green import Client
from pegasus_green.onebox import Onebox

NEW_NET = 0x40000000
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1
NOT_ALLOWED = 77


def set_loopback(up: bool) -> None:
    """Take the loopback interface of this namespace up or down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, GET_FLAGS, request), 16)
        flags = flags | UP if up else flags & ~UP
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", flags))


def slow(client: Client, box: Any, seconds: float) -> dict[str, Any]:
    """Let a server answer late."""
    box.fault("delay", rpc="get", seconds=seconds)
    begin = monotonic()
    value = client.table("temp").get("k", "s")
    return {
        "value": repr(value),
        "seconds": monotonic() - begin,
        "losses": sum(server["losses"] for server in client.stats()["servers"].values()),
    }


def dead(client: Client, box: Any, seconds: float) -> dict[str, Any]:
    """Let the path die with idle connections, a waiting call, and an unsent request."""
    table = client.table("temp")
    box.fault("delay", rpc="get", seconds=60.0, count=1)
    waiting: Any = gevent.spawn(table.get, "k", "s")
    gevent.sleep(0.2)
    noticed: dict[Any, float] = {}
    connections = client._cluster.pool.connections
    set_loopback(False)
    begin = monotonic()
    leaving: Any = gevent.spawn(table.ttl, "k", "s")
    while len(noticed) < len(connections) and monotonic() < begin + seconds:
        gevent.sleep(0.01)
        for connection in connections:
            if connection.lost is not None:
                noticed.setdefault(connection, monotonic() - begin)
    set_loopback(True)
    gevent.joinall([waiting, leaving])
    return {
        "connections": len(connections),
        "noticed": sorted(noticed.values()),
        "value": repr(waiting.value),
        "ttl": repr(leaving.value),
        "reasons": sorted({str(connection.lost) for connection in connections}),
    }


def main() -> int:
    """Make the namespace and run the requested case."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NET) != 0:
        return NOT_ALLOWED
    set_loopback(True)
    box: Any = Onebox(tables={"temp": 4}, process=True).start()
    with Client(box.meta_addresses, timeout=30.0, refresh_period=0.0) as client:
        client.table("temp").set("k", "s", "value")
        client.table("temp").warm_up()
        found = {"slow": slow, "dead": dead}[sys.argv[1]](client, box, float(sys.argv[2]))
    box.stop()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
