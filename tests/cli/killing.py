"""Export, import and copy commands that are killed and resumed, for any number of rows."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess

from pegasus_green import Client, Table
from pegasus_green.onebox import OneboxProcess
from pegasus_green.operations.scans import with_expiry
from tests.cli.conftest import Tool

MEMORY_LIMIT = 150 * 1024 * 1024


def fill(table: Table, count: int) -> None:
    """Store rows of about 100 bytes, three for each hash key. A third expires in a day; some have unusual bytes."""
    for begin in range(0, count, 6000):
        numbers = range(begin, min(begin + 6000, count))
        for rest in range(3):
            rows = [(f"user:{n // 3:07d}", f"field{n % 3}", f"{n:010d}" * 8) for n in numbers if n % 3 == rest]
            table.set_many(rows, ttl=86400 if rest == 0 else None, timeout=30)
    odd = [(b"", b"\x00\xff", bytes(range(256))), (b"\\x00", b" a ", b""), ("Zürich".encode(), b"\n", b'",\\')]
    table.set_many(odd, timeout=30)


def rows_of(table: Table) -> dict[tuple[bytes, bytes], tuple[bytes, int]]:
    """Return all rows with the second of their expiry."""
    scanner = with_expiry(table.scan(with_ttl=True, parallel=4, timeout=30))
    return {(first, second): (value, expires) for first, second, value, expires in scanner}


def differences(left: Any, right: Any) -> list[Any]:
    """Return the first differences of two tables. Expiry times may differ by a second."""
    wrong: list[Any] = list(left.keys() ^ right.keys())
    for key in left.keys() & right.keys():
        (value, expires), (other, until) = left[key], right[key]
        if value != other or abs(expires - until) > 1 or bool(expires) != bool(until):
            wrong.append((key, left[key], right[key]))
    return wrong[:5]


def watch(process: Any) -> tuple[int, int, float]:
    """Wait for a process; return its status, its peak memory (bytes) and its CPU time (seconds)."""
    memory, cpu, tick = 0, 0.0, os.sysconf("SC_CLK_TCK")
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            memory = int(status.split("VmHWM:")[1].split()[0]) * 1024 if "VmHWM:" in status else memory
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / tick
        gevent.sleep(0.02)
    return process.returncode, memory, cpu


def run_with_kill(tool: Tool, words: list[str], state: Path, rows: int, log: Callable[[str], object] = print) -> None:
    """Run a command, kill it when its state file reports some rows, and resume it to the end."""
    slow = ["--rows-per-second", str(max(rows // 2, 1)), "--checkpoint", "0.1"]
    process: Any = tool.start(*words, *slow, "--quiet", table="source", popen=subprocess.Popen, stderr=None)
    # Only for a process that hangs; on a busy machine a onebox stores some hundred rows a second.
    deadline = time.monotonic() + 120 + rows / 1000
    done = 0
    try:
        while done < rows // 10:
            assert process.poll() is None, f"{words} ended before it was killed"
            assert time.monotonic() < deadline, f"{words}: {done:,} rows"
            gevent.sleep(0.02)
            if state.exists():
                done = json.loads(state.read_text())["done"]["rows"]
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
    assert done < rows

    began = time.monotonic()
    words = [*words, "--resume", "--quiet", "-o", "json"]
    process = tool.start(*words, table="source", popen=subprocess.Popen, stderr=None)
    status, memory, cpu = watch(process)
    out = process.stdout.read()
    process.stdout.close()
    assert (status, json.loads(out)["errors"]) == (0, 0)
    assert json.loads(out)["rows"] >= rows
    assert not state.exists()
    assert 0 < memory < MEMORY_LIMIT
    seconds, left = time.monotonic() - began, rows - done
    log(
        f"{' '.join(words[:2])}: killed after {done:,} rows; the other {left:,} took {seconds:.1f} s"
        f" ({left / seconds:,.0f} rows/s, {cpu / left * 1e6:.0f} us of CPU a row, {memory / 2**20:.0f} MiB)"
    )


def export_and_import(box: OneboxProcess, folder: Path, rows: int, name: str = "rows.jsonl") -> None:
    """Export with a kill, import with a kill, and compare both tables."""
    tool = Tool(list(box.meta_addresses))
    path, state = folder / name, folder / f"{name}.state"
    with Client(box.meta_addresses, timeout=10) as client:
        before = rows_of(client.table("source"))
        run_with_kill(tool, ["export", str(path)], state, rows)
        run_with_kill(tool, ["import", str(path), "-t", "target", "--state", str(state)], state, rows)
        assert differences(before, rows_of(client.table("target"))) == []


def copy_under_faults(box: OneboxProcess, folder: Path, rows: int, seed: int = 1) -> None:
    """Copy with a kill, while primaries move and both tables split."""
    tool = Tool(list(box.meta_addresses))
    chance = random.Random(seed)
    state = folder / "copy.state"
    stop = False

    def cause_faults() -> None:
        for table in ("source", "copied"):
            box.split(table, seconds=0.5)
        while not stop:
            gevent.sleep(0.1)
            for table in ("source", "copied"):
                box.move_primary(table, chance.randrange(4), chance.randrange(3))

    with Client(box.meta_addresses, timeout=10) as client:
        before = rows_of(client.table("source"))
        job = gevent.spawn(cause_faults)
        try:
            run_with_kill(tool, ["copy", "--to-table", "copied", "--state", str(state)], state, rows)
        finally:
            stop = True
            job.join(10)
        assert job.successful(), job.exception
        for table in ("source", "copied"):
            assert client.admin.table_info(table).partition_count == 8
        assert differences(before, rows_of(client.table("copied"))) == []
