"""Run scripts in their own interpreters while the servers of this process serve them."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import gevent
from gevent import monkey, subprocess

from tests.pythons import ROOT


def start_script(
    script: str | Path, *arguments: str, patched: bool | None = None, warn: str = "error", **environment: str
) -> Any:
    """Start a script, in this run's mode unless told otherwise, with every warning an error."""
    if isinstance(script, Path):
        command = [str(script)]
    else:
        command = ["-c", textwrap.dedent(script)]
    if monkey.is_module_patched("socket") if patched is None else patched:
        command = ["-m", "gevent.monkey", *command] if isinstance(script, Path) else [*command]
        if not isinstance(script, Path):
            command[1] = "from gevent import monkey; monkey.patch_all()\n" + command[1]
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *(["-W", warn] if warn else []), *command, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def finish(process: Any, seconds: float = 30.0) -> tuple[int, str, str]:
    """Wait for a process; return status, stdout, stderr."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler shows where it hangs
        out, err = process.communicate()
        raise AssertionError(f"it hangs\n{out}\n{err}") from None
    return process.returncode, out, err


def run_script(script: str | Path, *arguments: str, **options: Any) -> str:
    """Run a script that must end with status 0 and an empty stderr; return its output."""
    status, out, err = finish(start_script(script, *arguments, **options))
    assert (status, err) == (0, ""), (status, out, err)
    return str(out)


def interrupt(process: Any) -> None:
    """Send SIGINT to a script when it has printed "waiting" and sleeps."""
    line = process.stdout.readline()
    assert line == "waiting\n", (line, process.communicate())
    asleep = 0
    while asleep < 10:
        gevent.sleep(0.03)
        asleep = asleep + 1 if sleeps(process.pid) else 0
    process.send_signal(signal.SIGINT)


def sleeps(pid: int) -> bool:
    """Return whether a process neither runs nor waits for a processor; True if the system does not report it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    except OSError:
        return True
