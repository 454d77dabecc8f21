"""Find other Python interpreters of this machine that run, for the lanes and the peer test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
# gunicorn's gevent worker refuses older ones.
OLDEST_FOR_GUNICORN = (24, 10, 1)


def find(version: str) -> str | None:
    """Return the path of a working interpreter of that version ("3.11"), else None."""
    places = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    places += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"), reverse=True)
    for place in places:
        candidate = place / f"python{version}"
        probe = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
        try:
            done = subprocess.run([candidate, "-c", probe], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.stdout.strip() == version:
            return str(candidate)
    return None


def build_core(python: str, source: Path, library: Path) -> str | None:
    """Compile the core with the headers of an interpreter; return why that was not possible, None when it is done."""
    question = "import sysconfig; print(sysconfig.get_paths()['include'])"
    headers = subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout.strip()
    compiler = shutil.which("cc")
    if compiler is None:
        return "there is no C compiler"
    if not Path(headers, "Python.h").exists():
        return f"{python} has no headers"
    command = [compiler, "-O1", "-shared", "-fPIC", f"-I{headers}", str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr


def make_venv(python: str, place: Path, *requirements: str, constraints: Path | None = None) -> str:
    """Make the environment once and return its interpreter; a CalledProcessError has the stderr of pip.

    Made anew when the requirements or the constraints differ from those of the last time.
    """
    interpreter, stamp = place / "bin" / "python", place / ".ready"
    wanted = "\n".join([python, *requirements, constraints.read_text() if constraints else ""])
    if stamp.exists() and stamp.read_text() == wanted:
        return str(interpreter)
    options = ["--constraint", str(constraints)] if constraints else []
    pip = [str(interpreter), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    for command in (
        [python, "-m", "venv", "--clear", str(place)],
        [*pip, "--upgrade", "pip", "setuptools", "wheel"],
        [*pip, *options, *requirements],
    ):
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    stamp.write_text(wanted)
    return str(interpreter)


def last_words(error: subprocess.CalledProcessError) -> str:
    """Return the line of a failed command that names the reason."""
    lines = [line for line in (error.stderr or error.stdout or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else str(error)


def gevent_version() -> tuple[int, ...]:
    """Return the numbers of gevent's version; its own ``version_info`` does not follow its releases."""
    return tuple(int(number) for number in re.findall(r"\d+", metadata.version("gevent"))[:3])
