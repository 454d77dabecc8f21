"""Break the code rule by rule in a copy of the tree, and run the tests that must fail.

    python tests/mutations/run.py [--only NAME[,NAME]] [--list] [--no-baseline]

NAME is a mutation's name or the beginning of it. Ends with status 1 when a mutant survives, is out of date, or when its
tests fail without it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.mutations.mutation import Mutation  # noqa: E402
from tests.mutations.rules import MUTATIONS  # noqa: E402
from tests.pythons import build_core  # noqa: E402

COPIED = ("pegasus_green", "tests", "examples", "benchmarks", "docs")
FILES = ("pyproject.toml", "requirements.txt", "setup.py", "README.md", "CHANGELOG.md", "LICENSE", "Makefile")
# A mutant that hangs counts as killed.
TEST_SECONDS = 120
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
PASSED, FAILED, NOTHING = 0, 1, 5


def copy_tree(target: Path) -> None:
    """Copy what the tests need."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=IGNORED)
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, target / name)


def run_tests(root: Path, tests: tuple[str, ...], *, compiled: bool = False) -> tuple[int | None, str]:
    """Return the exit status of pytest (None when it hangs) and the end of its output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    # Without the compiled core, which would run instead of the mutated Python code.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
    environment["PEGASUS_GREEN_PURE"] = "" if compiled else "1"
    for name in ("PEGASUS_META", "PEGASUS_TABLE"):
        environment.pop(name, None)
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TEST_SECONDS)
    except subprocess.TimeoutExpired:
        # Also kill the servers that the tests have started.
        os.killpg(process.pid, 9)
        process.communicate()
        return None, ""
    return process.returncode, output


def build(root: Path) -> str | None:
    """Compile the core of a tree; return why that failed."""
    package = root / "pegasus_green"
    return build_core(sys.executable, package / "_core.c", package / "_core.abi3.so")


def judge(root: Path, mutation: Mutation) -> tuple[str, str]:
    """Return "killed", "survived" or "broken", and a message."""
    path = root / "pegasus_green" / mutation.path
    try:
        before = mutation.apply(root)
    except LookupError as error:
        return "broken", str(error)
    try:
        refusal = build(root) if mutation.compiled else None
        if refusal is not None:
            return "broken", refusal
        status, output = run_tests(root, mutation.tests, compiled=mutation.compiled)
    finally:
        path.write_text(before)
    if status is None:
        return "killed", "its tests hang"
    if status < 0:
        return "killed", f"the process ends by signal {-status}"
    if status == FAILED:
        failures = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "killed", failures[0].split(" - ")[0] if failures else ""
    if status == PASSED:
        return "survived", " ".join(mutation.tests)
    return "broken", f"pytest ended with status {status}: {output[-400:]}"


def main() -> int:
    """Run the selected mutations."""
    parser = argparse.ArgumentParser(description="break the code rule by rule; every mutation must fail a test")
    parser.add_argument("--only", default="", help="names, or their beginnings, separated by commas")
    parser.add_argument("--list", action="store_true", help="list the mutations and end")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a mutation first")
    arguments = parser.parse_args()
    only = tuple(filter(None, arguments.only.split(",")))
    chosen = [mutation for mutation in MUTATIONS if not only or mutation.name.startswith(only)]
    if arguments.list:
        for mutation in chosen:
            print(f"{mutation.name:32} {mutation.rule}")
        return 0
    begin = monotonic()
    counts = {"killed": 0, "survived": 0, "broken": 0}
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        root = Path(directory)
        copy_tree(root)
        if any(mutation.compiled for mutation in chosen) and (refusal := build(root)) is not None:
            print(f"mutations of the compiled core are left out: {refusal}")
            chosen = [mutation for mutation in chosen if not mutation.compiled]
        if not arguments.no_baseline:
            for tests, compiled in dict.fromkeys((mutation.tests, mutation.compiled) for mutation in chosen):
                status, output = run_tests(root, tests, compiled=compiled)
                if status != PASSED:
                    # Tests that measure time may fail once on a busy machine.
                    status, output = run_tests(root, tests, compiled=compiled)
                if status != PASSED:
                    print(f"without any mutation, {' '.join(tests)} ends with status {status}\n{output[-2000:]}")
                    counts["broken"] += 1
        for mutation in chosen:
            verdict, why = judge(root, mutation)
            counts[verdict] += 1
            print(f"{verdict:9}{mutation.name:32} {mutation.rule}\n{'':9}{why}", flush=True)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"{len(chosen)} mutations: {summary} in {monotonic() - begin:.0f} s")
    return 0 if counts["killed"] == len(chosen) and not counts["broken"] else 1


if __name__ == "__main__":
    sys.exit(main())
