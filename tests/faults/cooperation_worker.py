"""Run one client under load and measure the passes of its hub. test_cooperation runs this; it prints a line of JSON.

python -m tests.faults.cooperation_worker META SECONDS [--patched]
"""

from __future__ import annotations

import sys

if "--patched" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

import _socket
import json
import time
from time import monotonic, thread_time
from typing import Any

import gevent

from pegasus_green import Client, Table

CALLERS = 500
ROWS, ROWS_A_KEY = 100_000, 1_000
VALUE = b"v" * 65536
DNS_SECONDS = 1.0
BLOCK_SECONDS = 1.0


class Ticker:
    """Wakes every millisecond and keeps the longest wall time and CPU time between two passes."""

    def __init__(self) -> None:
        self.passes = 0
        self.wall = self.cpu = 0.0
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        wall, cpu = monotonic(), thread_time()
        while True:
            gevent.sleep(0.001)
            now, used = monotonic(), thread_time()
            self.wall, self.cpu = max(self.wall, now - wall), max(self.cpu, used - cpu)
            wall, cpu = now, used
            self.passes += 1

    def stop(self) -> dict[str, float]:
        self._greenlet.kill()
        return {"passes": self.passes, "wall": self.wall, "cpu": self.cpu}


def slow_dns(meta: str) -> list[str]:
    """Make the name resolution of the system slow, in C, where it blocks its thread; return names to resolve."""
    plain = _socket.getaddrinfo
    host, _, port = meta.rpartition(":")

    def getaddrinfo(name: Any, *args: Any, **kwargs: Any) -> Any:
        if name in ("slow.test", b"slow.test"):
            time_sleep(DNS_SECONDS)
            name = host
        return plain(name, *args, **kwargs)

    _socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    return [f"slow.test:{port}"]


# The original time.sleep, which blocks its thread; patching replaces it.
time_sleep = (
    time.sleep if "--patched" not in sys.argv else __import__("gevent.monkey").monkey.get_original("time", "sleep")
)


def store_rows(table: Table) -> None:
    def store(number: int) -> None:
        table.multi_set(b"rows %d" % number, {b"%08d" % row: b"row" for row in range(ROWS_A_KEY)}, timeout=20)

    gevent.joinall([gevent.spawn(store, number) for number in range(ROWS // ROWS_A_KEY)], raise_error=True)


def load(table: Table, seconds: float) -> tuple[list[int], int]:
    """Let 500 callers move large values while the whole table is scanned; return calls of each and rows scanned."""
    until = monotonic() + seconds
    done = [0] * CALLERS

    def call(number: int) -> None:
        key = b"large %d" % number
        while monotonic() < until:
            table.set(key, b"", VALUE, timeout=20)
            assert len(table.get(key, default=b"", timeout=20)) == len(VALUE)
            done[number] += 2

    callers = [gevent.spawn(call, number) for number in range(CALLERS)]
    rows = sum(1 for _ in table.scan(no_value=True, timeout=20))
    gevent.joinall(callers, raise_error=True)
    return done, rows


def main() -> None:
    meta, seconds = sys.argv[1], float(sys.argv[2])
    ticker = Ticker()
    gevent.sleep(0.5)
    result: dict[str, Any] = {"idle": ticker.stop()}
    # On a busy machine the servers can stand still for seconds, with full buffers.
    with Client(slow_dns(meta), path_timeout=None) as client:
        table = client.table("temp")
        ticker = Ticker()
        table.warm_up(timeout=10)
        result["dns"] = ticker.stop()
        store_rows(table)
        ticker = Ticker()
        done, result["rows"] = load(table, seconds)
        result["busy"] = ticker.stop()
        result["calls"] = {"sum": sum(done), "least": min(done), "median": sorted(done)[len(done) // 2]}
    print("now the control: the monitor must find this", file=sys.stderr, flush=True)
    time_sleep(BLOCK_SECONDS)
    gevent.sleep(0.1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
