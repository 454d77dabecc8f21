"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.measure import FULL_PAIRS, QUICK_PAIRS, ROOT, Bench, LeftOut, Samples
from benchmarks.report import HEAD, Line, markdown, summary, text, write_json
from benchmarks.rows import ROWS_OF_TABLE, Row

RESULTS = ROOT / "benchmarks" / "results"
QUICK_SCALE = 0.25
# Seconds. After the first, a quick run takes only three pairs for a row; after the second, it leaves rows out.
HURRY = 35
ENOUGH = 53


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description="pegasus_green beside its peers")
    parser.add_argument("--quick", action="store_true", help="less than a minute: fewer pairs, smaller blocks")
    parser.add_argument("--only", metavar="ROW[,ROW]", help="these rows; see --list")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--pairs", type=int, help=f"interleaved pairs (default {FULL_PAIRS}, quick {QUICK_PAIRS})")
    parser.add_argument(
        "--markdown", action="store_true", help="print the table of the latest whole run; measure nothing"
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args(arguments)
    known = {row.key: row for row in ROWS_OF_TABLE}
    usual = [row.key for row in ROWS_OF_TABLE if row.quick or not options.quick]
    names = options.only.split(",") if options.only else usual
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    options.rows = [known[name] for name in names]
    return options


def measure(bench: Bench, row: Row) -> Line:
    """Measure one row. A row that cannot be measured has the reason in its result."""
    try:
        return Line(row, row.measure(bench))
    except LeftOut as reason:
        return Line(row, Samples(), str(reason), left_out=True)
    except Exception as error:
        # A worker may have ended, or may still be at work.
        bench.end_workers()
        return Line(row, Samples(), f"{type(error).__name__}: {error}")


def main(arguments: list[str] | None = None) -> int:
    """Run the rows that the arguments name. Return 1 if a row failed; a missing peer is not a failure."""
    options = parse(arguments)
    if options.markdown:
        print(markdown(json.loads((RESULTS / "latest.json").read_text(encoding="utf-8"))))
        return 0
    if options.list:
        for row in ROWS_OF_TABLE:
            print(f"{row.key:12} {row.title}{' against ' + row.against if row.against else ''}")
        return 0
    wants_redis = any(row.key.startswith("redis") for row in options.rows)
    whole = not options.quick and not options.only
    needs_base = any("base" in row.key or row.key.startswith("pure") for row in options.rows)
    python_of: dict[str, str | LeftOut] = {"pypegasus": peers.pypegasus()}
    python_of["base"] = peers.baseline() if needs_base else LeftOut("not asked for")
    bench_python = peers.bench_python() if wants_redis or whole else LeftOut("not asked for")
    python_of["redis"] = bench_python if wants_redis else LeftOut("not asked for")
    machine = peers.machine()
    about: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "machine": machine,
        "versions": peers.versions(python_of),
        "pairs": options.pairs or (QUICK_PAIRS if options.quick else FULL_PAIRS),
    }
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; load before {machine['load before']}")
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    print(f"{about['pairs']} interleaved pairs a row; us: CPU time of the client process (user + system) a call\n")
    print(HEAD, flush=True)
    began = time.monotonic()
    lines = []
    with peers.running_redis() if wants_redis else peers.no_redis() as redis:
        if isinstance(redis, LeftOut):
            python_of["redis"] = redis
        bench = Bench(python_of, about["pairs"], QUICK_SCALE if options.quick else 1.0)
        bench.redis_port = redis if isinstance(redis, int) else None
        try:
            for row in options.rows:
                elapsed = time.monotonic() - began
                if options.quick and elapsed > HURRY:
                    bench.pairs = min(bench.pairs, 3)
                if options.quick and not options.only and elapsed > ENOUGH:
                    lines.append(Line(row, Samples(), "the minute is over", left_out=True))
                else:
                    lines.append(measure(bench, row))
                print(text(lines[-1]), flush=True)
        finally:
            bench.close()
    about["seconds"] = round(time.monotonic() - began)
    about["load after"] = f"{os.getloadavg()[0]:.2f}"
    print(f"\n{summary(lines)}; {about['seconds']} s, load after {about['load after']}")
    if options.json:
        write_json(options.json, lines, about)
    if whole:
        write_json(RESULTS / "latest.json", lines, about)
        draw(bench_python)
    return int(any(line.failed and not line.left_out for line in lines))


def draw(python: str | LeftOut) -> None:
    """Draw the picture of the latest results, PNG and SVG."""
    if isinstance(python, LeftOut):
        print(f"no picture: {python}")
        return
    command = [python, "-m", "benchmarks.picture", str(RESULTS / "latest.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(peers.VENV / "matplotlib")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"no picture: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
