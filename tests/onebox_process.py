"""Run a onebox in its own process, for tests that must not share a hub with it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.pythons import ROOT


@contextmanager
def onebox_process(*options: str, start_seconds: float = 30.0) -> Iterator[tuple[list[str], subprocess.Popen[str]]]:
    """Run `python -m pegasus_green onebox --port 0 OPTIONS`; yield meta addresses and process; end it by SIGTERM."""
    command = [sys.executable, "-m", "pegasus_green", "onebox", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    guard = threading.Timer(start_seconds, process.kill)  # readline() below has no timeout
    guard.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready meta="):
                break
        else:
            raise RuntimeError(f"onebox ended with status {process.wait()} before it was ready")
        guard.cancel()
        yield line.removeprefix("ready meta=").split()[0].split(","), process
    finally:
        guard.cancel()
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
