"""The peers and their environments: pypegasus3 in .venv-peer, redis-py and matplotlib in .venv-bench, redis-server.

Nothing is installed on the machine: Debian's packages of redis-server are unpacked next to the environment.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import greenlet

import pegasus_green
from benchmarks.measure import ROOT, SERVER_CORES, LeftOut
from tests.peer.run import peer_python
from tests.pythons import last_words, make_venv

VENV = ROOT / ".venv-bench"
REQUIREMENTS = (f"gevent=={gevent.__version__}", "redis>=5", "hiredis>=3", "matplotlib>=3.8")
TELL = """
import platform, sys
from importlib.metadata import version
print(platform.python_version(), *map(version, sys.argv[1:]))
"""
# redis-server and the packages that it needs and a minimal Debian lacks.
PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1")


# The commit that calls are compared with, so that no change makes them slower unnoticed.
BASELINE = "8b3ce43"


def baseline() -> str | LeftOut:
    """Return a source tree of the commit BASELINE, or why there is none."""
    tree = ROOT / ".bench-base"
    command = ["git", "worktree", "add", "--force", "--detach", str(tree), BASELINE]
    if (tree / "pegasus_green").is_dir():
        command = ["git", "-C", str(tree), "checkout", "--quiet", "--detach", BASELINE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return LeftOut(f"no commit {BASELINE} here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return str(tree)


def pypegasus() -> str | LeftOut:
    """Return the interpreter that has pypegasus3, or why there is none."""
    return peer_python() or LeftOut("pypegasus3 needs Python 3.11 and a package index")


def bench_python() -> str | LeftOut:
    """Return the interpreter that has redis-py and matplotlib, or why there is none."""
    try:
        return make_venv(sys.executable, VENV, *REQUIREMENTS)
    except subprocess.CalledProcessError as error:
        return LeftOut(f"redis-py and matplotlib cannot be installed: {last_words(error)}")


def redis_server() -> tuple[str, dict[str, str]] | LeftOut:
    """Return the command of redis-server and its environment: the machine's, else the unpacked packages of Debian."""
    found = shutil.which("redis-server")
    if found:
        return found, {}
    place = VENV / "redis"
    command = place / "usr" / "bin" / "redis-server"
    if not command.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            return LeftOut("no redis-server here, and no apt-get to fetch it")
        place.mkdir(parents=True, exist_ok=True)
        done = fetch(place)
        if done.returncode and os.geteuid() == 0:
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False, timeout=120)
            done = fetch(place)
        if done.returncode:
            return LeftOut(f"redis-server cannot be fetched: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        for package in place.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(place)], check=True, capture_output=True)
    libraries = {str(path.parent) for path in place.glob("usr/lib/**/*.so*")}
    environment = {"LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries))}
    probe = subprocess.run(
        [command, "--version"], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if probe.returncode:
        return LeftOut(f"redis-server does not run here: {probe.stderr.strip()}")
    return str(command), environment


def fetch(place: Path) -> subprocess.CompletedProcess[str]:
    """Download Debian's packages to a folder."""
    command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *PACKAGES]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=120)


@contextlib.contextmanager
def running_redis() -> Iterator[int | LeftOut]:
    """Run a redis-server without persistence on a free port while the block runs."""
    server = redis_server()
    if isinstance(server, LeftOut):
        yield server
        return
    command, environment = server
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(
        [command, *options], env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if SERVER_CORES:
        os.sched_setaffinity(process.pid, SERVER_CORES)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def no_redis() -> Iterator[LeftOut]:
    """Stand in for ``running_redis`` where no row needs it."""
    yield LeftOut("not asked for")


def versions(peers: dict[str, str | LeftOut]) -> dict[str, str]:
    """Return the versions of all programs that took part, by name."""
    found = {
        "pegasus_green": pegasus_green.__version__,
        "Python": platform.python_version(),
        "gevent": gevent.__version__,
        "greenlet": greenlet.__version__,
    }
    scripts = {
        "pypegasus": ("pypegasus3", "Twisted"),
        "redis": ("redis", "hiredis"),
    }
    for peer, names in scripts.items():
        python = peers.get(peer)
        if isinstance(python, str):
            done = subprocess.run([python, "-c", TELL, *names], capture_output=True, text=True, check=True)
            running, *numbers = done.stdout.split()
            found.update(zip(names, numbers))
            found[f"Python of {names[0]}"] = running
    server = redis_server() if isinstance(peers.get("redis"), str) else None
    if isinstance(server, tuple):
        done = subprocess.run(
            [server[0], "--version"], env={**os.environ, **server[1]}, capture_output=True, text=True, check=False
        )
        found["redis-server"] = done.stdout.partition("v=")[2].split(" ")[0]
    return found


def machine() -> dict[str, str]:
    """Return a description of the machine."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return {"cpu": model, "cores": str(os.cpu_count()), "system": platform.platform(), "load before": load}
