"""Run the whole suite as several runs of pytest, five at a time: `python -m tests.suite [--again] [--load N]`.

Every line of a run is printed at once, after the name of the run. With --again failed tests run once more after all
runs, and the second result counts. With --load N busy processes run at the same time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.pythons import ROOT

# The tests use the embedded cluster, independent of the caller's environment.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PEGASUS_META", "PEGASUS_TABLE")}
# A busy loop that ends with this process, even if it is killed.
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


@dataclass(frozen=True)
class Run:
    """One run of pytest.

    Attributes:
        name: The beginning of its lines.
        arguments: The arguments of pytest.
        pure: Whether it runs without the compiled core.
    """

    name: str
    arguments: tuple[str, ...]
    pure: bool = False

    def execute(self, *more: str) -> int:
        """Run pytest, print every line after the name of the run, and return the exit status."""
        cache = ("-o", f"cache_dir=.pytest_cache/{self.name}")
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", *cache, *self.arguments, *more],
            cwd=ROOT,
            env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1", "PEGASUS_GREEN_PURE": "1" if self.pure else ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(f"[{self.name}] {line}", end="", flush=True)
        return process.returncode


PROGRAMS = ("tests/cli", "tests/console", "tests/examples", "tests/website")
VERBS = ("tests/integration", "tests/recipes")
CALLS = ("tests/fork", "tests/transport")
PATCHED = ("-p", "tests.patched", "-m", "both_modes")


def without(*paths: str) -> tuple[str, ...]:
    """Return the arguments that ignore these directories."""
    return tuple(f"--ignore={path}" for path in paths)


# The longest runs first, so that all runs end at about the same time.
RUNS = (
    Run("faults", ("tests/faults",)),
    # Patched and pure in one run: the four combinations would find nothing more.
    Run("patched-pure", (*PATCHED, *without(*VERBS)), pure=True),
    Run("rest", without("tests/faults", "tests/kerberos", "tests/onebox", *PROGRAMS, *VERBS, *CALLS)),
    Run("programs", PROGRAMS),
    Run("calls", CALLS),
    Run("patched-pure-verbs", (*PATCHED, *VERBS), pure=True),
    Run("verbs", VERBS),
    Run("onebox", ("tests/onebox",)),
    Run("protocol-pure", ("-m", "pure", "tests/unit"), pure=True),
)
# Most tests wait for deadlines and faults, so five runs keep two cores busy.
AT_ONCE = 5


def run_all() -> list[Run]:
    """Execute all runs, five at a time; return the failed ones."""
    started = time.monotonic()

    def execute(run: Run) -> int:
        status = run.execute()
        print(f"[{run.name}] status {status} after {time.monotonic() - started:.0f} s of the suite", flush=True)
        return status

    with ThreadPoolExecutor(AT_ONCE) as workers:
        statuses = list(workers.map(execute, RUNS))
    return [run for run, status in zip(RUNS, statuses, strict=True) if status]


def main() -> int:
    """Run everything; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="run failed tests once more; the second result counts")
    parser.add_argument("--load", type=int, default=0, metavar="N", help="number of busy processes during the runs")
    asked = parser.parse_args()
    load = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(asked.load)]
    try:
        failed = run_all()
        if asked.again:
            failed = [run for run in failed if run.execute("--lf", "--lfnf=none")]
    finally:
        for process in load:
            process.kill()
            process.wait()
    print(f"suite: {', '.join(run.name for run in failed)} FAILED" if failed else "suite: all runs passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
