"""Run the test suites of the frameworks, which `make test-contrib` unpacks into the environment of the lane."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from gevent import monkey

from tests.pythons import ROOT

MAKERS = Path(__file__).parent / "makers"


def suite(name: str) -> Path:
    """Return the unpacked sdist of the release that is installed."""
    place = Path(sys.prefix) / "suites" / f"{name}-{metadata.version(name)}"
    assert place.is_dir(), f"{place.name} was not fetched: `make test-contrib` does that"
    return place


# Under monkey patching the threads of an executor for processes are greenlets, which its forked workers do not have.
NEEDS_PROCESSES = "ProcessPoolExecutor"


def run_suite(module: str, *arguments: str, path: Path | None = None, url: str, timeout: float = 240.0) -> str:
    """Run makers/MODULE.py by pytest in a process of its own, in the mode of this one; return what it printed.

    Args:
        module: The module's name; it finds the table's URL in SUITE_URL.
        *arguments: More for pytest.
        path: A directory of the sdist that goes on sys.path; the project does not, as both may have a package `tests`.
        url: The table.
        timeout: Seconds until it is ended.
    """
    patched = monkey.is_module_patched("socket")
    with tempfile.TemporaryDirectory() as scratch:
        # Outside of the project, whose configuration and fixtures are not those of the suite.
        shutil.copy(MAKERS / f"{module}.py", scratch)
        command = [sys.executable, *(["-m", "gevent.monkey", "--module"] if patched else ["-m"]), "pytest"]
        command += ["-q", "-rs", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull, "-W", "ignore"]
        command += ["-k", f"not {NEEDS_PROCESSES}"] if patched else []
        return _run([*command, *arguments, f"{module}.py"], path or scratch, url, timeout, cwd=scratch)


def run_pytest(*arguments: str, cwd: Path, timeout: float = 240.0, **environment: str) -> str:
    """Run pytest in a directory, in a process of its own and in the mode of this one, with the project importable."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs"]
    command += ["-p", "tests.patched"] if monkey.is_module_patched("socket") else []
    path = os.pathsep.join([str(ROOT), environment.pop("PYTHONPATH", "")])
    return _run([*command, *arguments], path, "", timeout, cwd=cwd, **environment)


def run_program(module: str, *arguments: str, url: str, timeout: float = 240.0) -> str:
    """Run makers/MODULE.py as a program in a process of its own, in the mode of this one; return what it printed."""
    command = [sys.executable, "-m", *(["gevent.monkey", "--module"] if monkey.is_module_patched("socket") else [])]
    return _run([*command, f"tests.contrib.makers.{module}", *arguments], ROOT, url, timeout, cwd=ROOT)


def _run(command: list[str], path: Path | str, url: str, timeout: float, cwd: Path | str, **more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path), "SUITE_URL": url, **more}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout + done.stderr
