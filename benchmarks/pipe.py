"""The protocol between the benchmark and its workers: one line of JSON for each command and each answer.

A worker stays alive and keeps its clients and callers, so that the blocks of two sides can alternate within
milliseconds; between them it sleeps in the read of the next command and uses no CPU.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class Stopwatch:
    """CPU time (user + system) of this process and wall time since the object was created."""

    def __init__(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.system = usage.ru_stime
        self.wall = time.perf_counter()
        self.cpu = time.process_time()  # in nanoseconds; os.times() counts hundredths of a second

    def stop(self, calls: int, **more: Any) -> dict[str, Any]:
        """Return the CPU time and the wall time since the start."""
        cpu = time.process_time() - self.cpu
        wall = time.perf_counter() - self.wall
        system = resource.getrusage(resource.RUSAGE_SELF).ru_stime - self.system
        return {"calls": calls, "cpu": cpu, "wall": wall, "system": system, **more}


class Replies:
    """The worker's end: commands from stdin, answers to the original stdout. Output of libraries goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def next(self) -> dict[str, Any] | None:
        """Wait for a command and block the whole process; return None at the end."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def send(self, answer: dict[str, Any]) -> None:
        """Write an answer."""
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()

    def serve(self, handler: Handler) -> None:
        """Answer commands until stdin ends. The answer to a command that fails is its exception."""
        while (command := self.next()) is not None:
            try:
                answer = handler(command)
            except Exception as error:
                if os.environ.get("BENCH_TRACE"):
                    traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            self.send(answer)
