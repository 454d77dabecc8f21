"""Rows that need more than two sides in turns: new processes, memory, ageing, latency at scheduled times."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.measure import ROOT, Bench, Samples, Side, microseconds, middle
from benchmarks.memory import resident
from benchmarks.payload import table_name

# The scripts print the milliseconds that they measure, and their resident memory.
IMPORT = """
import time
began = time.process_time()
{}
took = time.process_time() - began
from benchmarks.memory import resident
print(took * 1e3, *resident())
"""
CONNECT = """
import sys, time
from pegasus_green import open_table
began = time.perf_counter()
table = open_table(sys.argv[1])
value = table.get(b"user0001", b"name")
took = time.perf_counter() - began
assert len(value) == 100, value
table.client.close()
from benchmarks.memory import resident
print(took * 1e3, *resident())
"""
MANY = 10_000
AGE = 1_000_000


def fresh(bench: Bench, *command: str) -> list[float]:
    """Run a fresh interpreter and return the numbers that it prints."""
    # Byte code is written and read as for an installed package, but in another directory.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": bench.scratch.name}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [bench.python, *command], capture_output=True, text=True, timeout=180, check=False, cwd=ROOT, env=environment
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed without a word"])[-1])
    return [float(number) for number in done.stdout.split()]


def oneshot(bench: Bench, *command: str) -> float:
    """Run one measurement of ``benchmarks.oneshot``."""
    return fresh(bench, "-m", "benchmarks.oneshot", *command)[0]


def importing(ours: str) -> Callable[[Bench], Samples]:
    """Return a function that measures the CPU milliseconds of our import and of gevent's, each in a new process."""

    def measure(bench: Bench) -> Samples:
        sides = [scripts(bench, IMPORT.format(line)) for line in (ours, "import gevent")]
        samples = Samples()
        for (mine, my_memory), (other, memory) in zip(*sides):
            samples.ours.append(mine)
            samples.theirs.append(other)
            samples.memory = my_memory + memory
        return samples

    return measure


def scripts(bench: Bench, code: str, *arguments: str) -> Iterator[tuple[float, list[float]]]:
    """Run a script in a new process for each pair; yield its milliseconds and its resident memory."""
    for number in range(bench.pairs + 1):
        milliseconds, *memory = fresh(bench, "-c", code, *arguments)
        if number:  # the first one may have compiled
            yield milliseconds, memory


def connecting(bench: Bench) -> Samples:
    """Measure the wall-clock milliseconds from connect() to the first value, in new processes."""
    url = f"pegasus://{bench.meta}/{table_name()}"
    figures, memory = zip(*scripts(bench, CONNECT, url))
    return Samples([*figures], memory=memory[-1])


def waiting(bench: Bench) -> Samples:
    """Measure KiB of each of 10,000 greenlets, waiting in get or for an Event."""
    samples = Samples()
    for _ in range(min(bench.pairs, 5)):
        table = table_name(silent=True)
        samples.ours.append(oneshot(bench, "waiting", "green", bench.meta, table, str(MANY)))
        samples.theirs.append(oneshot(bench, "waiting", "event", bench.meta, table, str(MANY)))
    return samples


def idle(bench: Bench) -> Samples:
    """Measure KiB of each of 100 connections after replies of 1 MiB."""
    table = table_name(value=1024 * 1024, partitions=100, servers=100)
    return Samples([oneshot(bench, "idle", bench.meta, table, "100") for _ in range(min(bench.pairs, 5))])


def peak(what: str) -> Any:
    """Return a function that measures copies: the peak of tracemalloc divided by the size of the payload."""

    def measure(bench: Bench) -> Samples:
        table = table_name(value=64 * 1024)
        return Samples([oneshot(bench, "peak", what, bench.meta, table) for _ in range(min(bench.pairs, 3))])

    return measure


def aged(bench: Bench) -> Samples:
    """Measure a get after 10^6 calls against one of a young process.

    Two processes differ by some percent from the start, for the way their memory happens to be laid out; that
    difference, measured before, is taken out.
    """
    side = Side("green", "get", 25_600, "get", 1, {"callers": 64, "tables": [table_name()]})
    young, old = bench.open(side, "-young"), bench.open(side, "-old")
    block = bench.block(side)
    turns = (old, young)

    def rounds() -> list[tuple[float, float]]:
        figures = []
        for number in range(bench.pairs):
            order = turns if number % 2 == 0 else turns[::-1]
            found = {run: microseconds(run(block)) for run in order}
            figures.append((found[old], found[young]))
        return figures

    for run in turns:
        run(block)
    before = middle([mine / other for mine, other in rounds()])
    old(AGE)
    after = rounds()
    notes = [f"the two processes differed by {before - 1:+.1%} before; taken out"]
    memory = [size for name in ("-old", "-young") for size in resident(bench.workers[f"green{name}"].process.pid)]
    return Samples([mine / before for mine, _ in after], [other for _, other in after], notes, memory=memory)


def latency(*, spin: bool) -> Any:
    """Return a function that measures p99 in milliseconds at half of our top rate, as for the raw socket."""
    return lambda bench: paced(bench, spin=spin)


def paced(bench: Bench, *, spin: bool) -> Samples:
    """Measure p99 with a timer of one millisecond, or with a loop that never sleeps."""
    spec = {"callers": 64, "tables": [table_name()]}
    top = bench.open(Side("green", "get", 0, "top rate", 1, spec))
    top(6_400)
    blocks = [top(25_600) for _ in range(3)]
    rate = statistics.median(used["calls"] / used["wall"] for used in blocks) / 2
    scheduled = {**spec, "rate": rate, "spin": spin}
    ours = bench.open(Side("green", "paced", 0, "paced", 1, scheduled))
    raw = bench.open(Side("raw", "get", 0, "raw socket, paced", 1, scheduled))
    samples = Samples()
    halves: dict[str, list[float]] = {"ours": [], "raw": []}
    seconds = 1.0 * bench.scale
    for number in range(bench.pairs + 1):
        turns = (("ours", ours), ("raw", raw))
        for name, run in turns if number % 2 == 0 else turns[::-1]:
            used = run(int(rate * seconds))
            if number:
                (samples.ours if name == "ours" else samples.theirs).append(used["p99"])
                halves[name].append(used["p50"])
        time.sleep(0.05)
    medians = ", ".join(f"{name} {middle(values):.3f} ms" for name, values in halves.items())
    samples.notes.append(f"at {rate:,.0f} calls/s; medians of the latency: {medians}")
    return samples


def top_rate(bench: Bench) -> Samples:
    """Measure the calls per second of 1 KB gets from 150 callers, in wall-clock time."""
    side = Side("green", "get", 60_000, "get of 1 KB", 1, {"callers": 150, "tables": [table_name(value=1000)]})
    run = bench.open(side)
    run(bench.block(side))
    samples = Samples()
    busy = []
    for _ in range(bench.pairs):
        cpu, _ = bench.counted()
        used = run(bench.block(side))
        busy.append((bench.counted()[0] - cpu) / used["wall"])
        samples.ours.append(used["calls"] / used["wall"])
    samples.responder = middle(busy)
    samples.notes.append(f"best block {max(samples.ours):,.0f}/s")
    samples.memory = bench.memory(side)
    return samples
