"""The CPU time of the embedded cluster for a request."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import gevent

from benchmarks.measure import Bench, Samples
from benchmarks.memory import resident
from pegasus_green import Client, Table
from pegasus_green.onebox import OneboxProcess

CALLERS = 64
GETS, KEYS, SCANNED, SCANS = 12_800, 200, 10_000, 4


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that the threads of a process have used, on Linux."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) * 1e-9


def _gets(table: Table[bytes], calls: int) -> int:
    def caller(first: int) -> None:
        for number in range(first, calls, CALLERS):
            assert len(table.get(b"user%04d" % (number % KEYS), b"name") or b"") == 100

    gevent.joinall([gevent.spawn(caller, first) for first in range(CALLERS)], raise_error=True)
    return calls


def _scan(table: Table[bytes], _calls: int) -> int:
    return sum(1 for _ in range(SCANS) for _ in table.scan())


def gets(bench: Bench) -> Samples:
    """Measure microseconds of the onebox's CPU for each get of 64 callers."""
    return _measure(bench, _gets, KEYS, "gets")


def scans(bench: Bench) -> Samples:
    """Measure microseconds of the onebox's CPU for each row of a scan of a whole table."""
    return _measure(bench, _scan, SCANNED, "rows")


def _measure(bench: Bench, work: Callable[[Table[bytes], int], int], rows: int, what: str) -> Samples:
    samples, rates = Samples(), []
    calls = int(GETS * bench.scale)
    with OneboxProcess(tables={"temp": 8}, seed=1) as box, Client(box.meta_addresses, timeout=60) as client:
        table = client.table("temp")
        for number in range(rows):
            table.set(b"user%04d" % number, b"name", b"v" * 100)
        work(table, calls)
        for _ in range(bench.pairs):
            cpu, began = cpu_seconds(box.process.pid), time.perf_counter()
            done = work(table, calls)
            rates.append(done / (time.perf_counter() - began))
            samples.ours.append((cpu_seconds(box.process.pid) - cpu) / done * 1e6)
        samples.memory = resident(box.process.pid)
    samples.notes.append(f"best block {max(rates):,.0f} {what}/s")
    return samples
