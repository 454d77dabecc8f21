"""The makers' own suites, which `make test-contrib` unpacks beside the environment of the lane."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from gevent import monkey

from tests.pythons import ROOT


def suite(name: str) -> Path:
    """Return the unpacked sdist of the release that is installed."""
    place = Path(sys.prefix) / "suites" / f"{name}-{metadata.version(name)}"
    assert place.is_dir(), f"{place.name} was not fetched: `make test-contrib` does that"
    return place


def run_pytest(*arguments: str, cwd: Path, timeout: float = 240.0, **environment: str) -> str:
    """Run pytest in a process of its own, in the mode of this one, with the project importable; return what it said.

    What it runs has configuration and fixtures of its own; ours would not fit.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs"]
    command += ["-p", "tests.patched"] if monkey.is_module_patched("socket") else []
    paths = os.pathsep.join([str(ROOT), environment.pop("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env={**os.environ, **environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout
