"""The whole suite in two lanes beside each other: `python -m tests.suite [--again] [--load N]`.

Most tests wait for deadlines and faults, so two lanes use two cores better than one does. Every line of a lane is
printed as it comes, behind the lane's name. With --again the tests that failed run once more when both lanes have
ended, and the second result counts. With --load so many busy processes run beside the lanes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from tests.pythons import ROOT

# The embedded cluster serves, whatever the caller's environment names.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PEGASUS_META", "PEGASUS_TABLE")}
TESTS_FAILED = 1
BUSY = "while True: pass"


@dataclass(frozen=True)
class Run:
    """One run of pytest.

    Attributes:
        name: What its lines begin with.
        arguments: What pytest gets.
        pure: Whether the compiled core is left out.
    """

    name: str
    arguments: tuple[str, ...]
    pure: bool = False

    def execute(self, *more: str) -> int:
        """Run it, print every line behind its name, and return pytest's exit status."""
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


LANES = (
    (Run("unpatched", ("--ignore=tests/faults", "--ignore=tests/kerberos")),),
    (
        # Patched and pure in one: the four combinations differ in nothing that a test of its own would find.
        Run("patched-pure", ("-p", "tests.patched", "-m", "both_modes"), pure=True),
        Run("faults", ("tests/faults",)),
        Run("protocol-pure", ("-m", "pure", "tests/unit"), pure=True),
    ),
)


def run_lane(lane: tuple[Run, ...], statuses: dict[Run, int]) -> None:
    """Run the parts of a lane one after the other."""
    for run in lane:
        started = time.monotonic()
        statuses[run] = run.execute()
        print(f"[{run.name}] status {statuses[run]} after {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    """Run everything; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="run what failed once more; the second result counts")
    parser.add_argument("--load", type=int, default=0, metavar="N", help="busy processes beside the lanes")
    asked = parser.parse_args()
    load = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(asked.load)]
    statuses: dict[Run, int] = {}
    try:
        lanes = [threading.Thread(target=run_lane, args=(lane, statuses)) for lane in LANES]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        failed = [run for run, status in statuses.items() if status]
        if asked.again:
            failed = [run for run in failed if statuses[run] != TESTS_FAILED or run.execute("--lf", "--lfnf=none") != 0]
    finally:
        for process in load:
            process.kill()
            process.wait()
    print(f"suite: {', '.join(run.name for run in failed)} FAILED" if failed else "suite: all lanes passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
