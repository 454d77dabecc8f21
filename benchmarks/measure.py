"""Run two sides in turns and compute the figures."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.memory import resident

ROOT = Path(__file__).resolve().parent.parent
# Pairs of one row; each pair's blocks follow each other at once, and every other pair runs in the other order.
FULL_PAIRS = 11
QUICK_PAIRS = 5
GEVENT_CLIENTS = ("green", "pure", "raw", "base")


class LeftOut(Exception):
    """A side cannot be measured on this machine; the text is the reason."""


@dataclass
class Side:
    """One side of a row: which worker makes which calls.

    Attributes:
        client: green, pure (without the compiled core), raw, base (pegasus_green at the commit of peers.BASELINE),
            pypegasus or redis.
        scenario: What its worker knows under this name.
        calls: Calls in one block.
        label: For people.
        rows_per_request: Rows that one request brings, where rows are what is counted.
        spec: More for the worker: callers, tables, block, listener.
    """

    client: str
    scenario: str
    calls: int
    label: str
    rows_per_request: int = 1
    spec: dict[str, Any] = field(default_factory=dict)


@dataclass
class Samples:
    """The measured pairs of a row, in the row's unit.

    Attributes:
        ours: Figures of the first side.
        theirs: Figures of the second side; empty where the goal is an absolute one.
        notes: Remarks for the report.
        responder: CPU share of a core that the responder used while the first side ran.
        memory: Resident MiB of a process of the first side, then of one of the second side; empty: not measured.
    """

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    responder: float | None = None
    memory: list[float] = field(default_factory=list)


def cores() -> tuple[set[int], set[int]]:
    """Return the cores of the clients and those of the servers.

    Where the scheduler moves both to one core, an exchange costs a third of what it costs across cores; left to
    chance, the figures of a single caller jump between the two. Where there is one core, everything shares it.
    """
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()
    usable = sorted(os.sched_getaffinity(0))
    return (set(usable[:-1]), {usable[-1]}) if len(usable) > 1 else (set(usable), set(usable))


CLIENT_CORES, SERVER_CORES = cores()


class Process:
    """A process that gets commands over a pipe and runs on some cores only."""

    def __init__(
        self, command: list[str], on: set[int], cwd: str | None = None, tree: Path = ROOT, *, pure: bool = False
    ) -> None:
        env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"}
        if pure:
            env["PEGASUS_GREEN_PURE"] = "1"
        self.command = command
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=cwd or tree
        )
        if on:
            os.sched_setaffinity(self.process.pid, on)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def line(self) -> str:
        """Return the next line that the process writes."""
        line = self.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command[1:])} ended with status {self.process.wait()}")
        return line.strip()

    def ask(self, command: Any) -> dict[str, Any]:
        """Send a command and return the answer.

        Raises:
            RuntimeError: The answer is an error.
        """
        self.stdin.write(json.dumps(command) + "\n")
        self.stdin.flush()
        answer: dict[str, Any] = json.loads(self.line())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def end(self) -> None:
        """Close its stdin, which ends the process. Kill it if it does not end."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.stdout.close()


class Bench:
    """The responder, the workers, and the sizes of the blocks."""

    def __init__(self, peers: dict[str, str | LeftOut], pairs: int, scale: float, python: str = sys.executable) -> None:
        """Start the responder.

        Args:
            peers: Interpreter by client name, or why there is none.
            pairs: Interleaved pairs of a row.
            scale: Blocks are this much of their full size.
            python: Interpreter of pegasus_green and of the responder.
        """
        self.peers, self.pairs, self.scale, self.python = peers, pairs, scale, python
        self.responder = Process([python, "-m", "benchmarks.responder"], SERVER_CORES)
        self.meta = self.responder.line()
        self.workers: dict[str, Process] = {}
        self.scratch = tempfile.TemporaryDirectory()
        self.redis_port: int | None = None
        self.sizes: dict[str, list[float]] = {}

    def end_workers(self) -> None:
        """End all workers; the next row starts new ones."""
        while self.workers:
            self.workers.popitem()[1].end()

    def close(self) -> None:
        """End all processes that were started."""
        self.end_workers()
        self.responder.end()
        self.scratch.cleanup()

    def stats(self) -> dict[str, Any]:
        """Return the counters of the responder."""
        return self.responder.ask("stats")

    def start(self, client: str) -> Process:
        """Start a worker of a client.

        Raises:
            LeftOut: This machine does not have the client.
        """
        python = self.peers.get(client, self.python)
        if isinstance(python, LeftOut):
            raise python
        kind = "gevent" if client in GEVENT_CLIENTS else client
        # The baseline is a source tree, run by the same interpreter.
        tree, python = (Path(python), self.python) if client == "base" else (ROOT, python)
        target = str(self.redis_port) if kind == "redis" else self.meta
        command = [python, "-m", f"benchmarks.{kind}_worker", target]
        # pypegasus3 opens a log file in the working directory.
        cwd = self.scratch.name if kind == "pypegasus" else None
        return Process(command, CLIENT_CORES, cwd, tree, pure=client == "pure")

    def open(self, side: Side, instance: str = "") -> Callable[[int], dict[str, Any]]:
        """Open a side in the worker of its client, which is started once; return what runs a number of its calls.

        Raises:
            LeftOut: This machine does not have the client.
        """
        # Our client and the raw socket share a worker, see gevent_worker.py.
        name = ("green" if side.client == "raw" else side.client) + instance
        if name not in self.workers:
            self.workers[name] = self.start(side.client)
        return self.opened(self.workers[name], side)

    @staticmethod
    def opened(worker: Process, side: Side) -> Callable[[int], dict[str, Any]]:
        """Open a side in a worker and return what runs a number of its calls."""
        command = {
            "do": "open",
            "client": "raw" if side.client == "raw" else "green",
            "scenario": side.scenario,
            **side.spec,
        }
        number = worker.ask(command)["id"]
        return lambda calls: worker.ask({"do": "run", "id": number, "calls": calls})

    def block(self, side: Side) -> int:
        """Return the calls of one block, whole requests and at least one for each caller."""
        unit = max(side.rows_per_request, side.spec.get("callers", 1), side.spec.get("block", 1))
        unit = max(unit, side.spec.get("unit", 1))
        return max(unit, round(side.calls * self.scale / unit) * unit)

    def memory(self, *sides: Side) -> list[float]:
        """Return the MiB that each side has resident after a block of its calls, in a process of its own.

        Rows with the same side share the result.
        """
        for side in sides:
            if repr(side) not in self.sizes:
                worker = self.start(side.client)
                try:
                    self.opened(worker, side)(self.block(side))
                    self.sizes[repr(side)] = resident(worker.process.pid)
                finally:
                    worker.end()
        return [size for side in sides for size in self.sizes[repr(side)]]

    def counted(self) -> tuple[float, int]:
        """Return the CPU seconds of the responder and the number of data requests that it has answered."""
        stats = self.stats()
        other = ("query_cfg", "clear_scanner")
        return stats["cpu"], sum(count for name, count in stats["requests"].items() if name not in other)

    def paired(self, ours: Side, theirs: Side, figure: Callable[[dict[str, Any]], float]) -> Samples:
        """Measure two sides in turns, after a warm-up of each; return the figure of every block.

        Raises:
            LeftOut: One of the sides cannot be measured on this machine.
            RuntimeError: The number of requests at the responder differs from the number of calls.
        """
        first, second = self.open(ours), self.open(theirs)
        sides = ((ours, first), (theirs, second))
        for side, run in sides:
            run(self.block(side))
        samples = Samples()
        busy: list[float] = []
        for pair in range(self.pairs):
            figures = {}
            for side, run in sides if pair % 2 == 0 else sides[::-1]:
                cpu, before = self.counted()
                used = run(self.block(side))
                cpu_after, after = self.counted()
                if side.client != "redis" and (after - before) * side.rows_per_request != used["calls"]:
                    seen = (after - before) * side.rows_per_request
                    raise RuntimeError(f"{side.label}: {used['calls']} calls said, {seen} seen by the responder")
                if side is ours:
                    busy.append((cpu_after - cpu) / used["wall"])
                figures[side is ours] = figure(used)
            samples.ours.append(figures[True])
            samples.theirs.append(figures[False])
        samples.responder = statistics.median(busy)
        samples.memory = self.memory(ours, theirs)
        return samples


def microseconds(used: dict[str, Any]) -> float:
    """Return the CPU time of one call."""
    return float(used["cpu"]) / int(used["calls"]) * 1e6


def middle(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: list[float]) -> tuple[float, float]:
    """Return the quartiles; the extremes of fewer than four values."""
    if len(values) < 4:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
