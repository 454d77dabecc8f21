"""The backends for frameworks against the frameworks: `python -m tests.contrib.run [LANE...] [-- PYTEST OPTION...]`.

Two lanes, each with an environment of its own beside the project: `new` has the newest releases (.venv-contrib-new),
`old` has those of November 2025 (.venv-contrib-old), which year_old.txt pins. Both use the newest Python found. An
environment is made once, and made anew when what it has to hold changes; the sdists with the makers' own suites are
fetched at that time. In each lane the tests run unpatched and under monkey.patch_all().

year_old.txt is what this printed in 2026-11:
pip install --dry-run --ignore-installed --report - --uploaded-prior-to 2025-11-28 -r tests/contrib/requirements.txt
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

from tests.lanes import PYTHONS
from tests.pythons import ROOT, find, last_words, make_venv

HERE = Path(__file__).parent
LANES = ("new", "old")
MODES = {"unpatched": [], "patched": ["-p", "tests.patched"]}
# Their sdists contain the suites that run against the backends.
SUITES = ("cachelib", "django", "limits", "requests-cache")
# The packages that the header names.
SHOWN = (
    *("gevent", "cachelib", "celery", "django", "dogpile.cache", "flask", "flask-caching", "flask-limiter"),
    *("flask-session", "limits", "locust", "opentelemetry-sdk", "prometheus-client", "requests-cache", "gunicorn"),
    *("redis", "waitress"),
)
# Programs of the system, and the tests that are skipped without them.
PROGRAMS = {
    "redis-server": "Celery's workers, and the comparison of speed with the Redis backends",
    "prometheus": "the scrape by a real Prometheus",
}
# Deprecation warnings of the frameworks are ignored.
WARNINGS = "default\nignore::DeprecationWarning\nignore::PendingDeprecationWarning"


def requirements() -> list[str]:
    """Return the lines of requirements.txt that name a package."""
    lines = (line.split("#")[0].strip() for line in (HERE / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def pip(interpreter: str, *arguments: str) -> None:
    """Run pip without an isolated build environment: the builders are in the environment already."""
    command = [interpreter, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)


def prepare(lane: str, python: str) -> str:
    """Make the environment of the lane if it is missing or out of date, and return its interpreter."""
    place = ROOT / f".venv-contrib-{lane}"
    constraints = HERE / "year_old.txt" if lane == "old" else None
    packages = [*requirements(), "-r", "requirements.txt"]
    interpreter = make_venv(python, place, *packages, constraints=constraints)
    _install_project(interpreter, place)
    _fetch_suites(interpreter, place)
    if lane == "new":
        _install_uwsgi(interpreter)
    return interpreter


def _install_project(interpreter: str, place: Path) -> None:
    """Install the project as editable, again when its entry points or its compiled core may have changed."""
    stamp = place / ".project"
    sources = (ROOT / "pyproject.toml", ROOT / "setup.py", ROOT / "pegasus_green" / "_core.c")
    wanted = sha256(b"".join(path.read_bytes() for path in sources if path.exists())).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        pip(interpreter, "install", "--no-deps", "--no-build-isolation", "--editable", ".")
        stamp.write_text(wanted)


def _install_uwsgi(interpreter: str) -> None:
    """Install uWSGI if it can be built; test_uwsgi.py is skipped without it."""
    if (Path(interpreter).parent / "uwsgi").exists():
        return
    print("building uWSGI, which takes a minute", flush=True)
    try:
        pip(interpreter, "install", "--no-build-isolation", "uwsgi")
    except subprocess.CalledProcessError as error:
        print(f"uWSGI cannot be built here: {last_words(error)}")


def _fetch_suites(interpreter: str, place: Path) -> None:
    """Download and unpack the sdist of each installed release that contains a test suite."""
    installed = versions(interpreter)
    for name in SUITES:
        target = place / "suites" / f"{name}-{installed[name]}"
        if target.exists():
            continue
        scratch = place / "suites" / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        wanted = f"{name}=={installed[name]}"
        source = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation")
        pip(interpreter, "download", *source, "--dest", str(scratch), wanted)
        (archive,) = scratch.glob("*.tar.gz")
        shutil.unpack_archive(archive, scratch, filter="data")
        (tree,) = (path for path in scratch.iterdir() if path.is_dir())
        tree.rename(target)
        shutil.rmtree(scratch)


def versions(interpreter: str) -> dict[str, str]:
    """Return the versions of the packages that the environment has."""
    program = f"from importlib.metadata import version\nfor name in {SHOWN}: print(name, version(name))"
    done = subprocess.run([interpreter, "-c", program], check=True, capture_output=True, text=True)
    return dict(line.split() for line in done.stdout.splitlines())


def run(lane: str, python: str, arguments: list[str]) -> list[str]:
    """Run one lane in both modes; return a line for each result, which begins with FAILED where it failed."""
    started = time.monotonic()
    try:
        interpreter = prepare(lane, python)
    except subprocess.CalledProcessError as error:
        return [f"FAILED {lane}: cannot be installed: {last_words(error)}\n{error.stderr}"]
    made = time.monotonic() - started
    named = ", ".join(f"{name} {version}" for name, version in versions(interpreter).items())
    print(f"== contrib, {lane}: Python {python}, {named}; prepared in {made:.0f} s", flush=True)
    started = time.monotonic()
    # At the same time, since both mostly wait for servers and timeouts.
    runs = {mode: _start(interpreter, lane, mode, arguments) for mode in MODES}
    results = []
    for mode, (process, log) in runs.items():
        status = process.wait()
        took = time.monotonic() - started
        print(f"== contrib, {lane}, {mode}\n{log.read_text()}", flush=True)
        results.append(f"{'FAILED' if status else 'passed'} {lane}, {mode}, in {took:.0f} s")
    if lane == "new" and not arguments:  # a report that does not change the exit status
        subprocess.run(["timeout", "120", interpreter, "-m", "tests.contrib.speed"], cwd=ROOT, check=False)
    return results


def _start(interpreter: str, lane: str, mode: str, arguments: list[str]) -> tuple[subprocess.Popen[bytes], Path]:
    """Start the tests of one lane in one mode; return the process and the file of its output."""
    log = ROOT / f".venv-contrib-{lane}" / f"{mode}.log"
    command = [interpreter, "-m", "pytest", "-q", "-p", "no:httpbin", "-o", f"filterwarnings={WARNINGS}", *MODES[mode]]
    command += ["-o", f"cache_dir=.pytest_cache/contrib-{lane}-{mode}", *(arguments or ["tests/contrib"])]
    environment = {**os.environ, "PEGASUS_GREEN_CONTRIB": lane}
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT), log


def main(arguments: list[str]) -> int:
    """Run the named lanes, or both; return the exit status."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    lanes, rest = arguments[:at], arguments[at + 1 :]
    if unknown := [lane for lane in lanes if lane not in LANES]:
        print(f"no such lane: {', '.join(unknown)}; there are {', '.join(LANES)}", file=sys.stderr)
        return 2
    python = next(filter(None, map(find, reversed(PYTHONS))))
    for program, what in PROGRAMS.items():
        if shutil.which(program) is None:
            print(f"{program} is not installed; skipped: {what}")
    results = [line for lane in lanes or LANES for line in run(lane, python, rest)]
    print(*results, sep="\n")
    return int(any(line.startswith("FAILED") for line in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
