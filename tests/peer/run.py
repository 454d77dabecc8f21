"""pypegasus3, the client on PyPI, against the embedded cluster: `python -m tests.peer.run`.

It pins Twisted 21.2 and thrift 0.13, so it gets an environment of its own, .venv-peer, under Python 3.11. Where there
is none, or its dependencies cannot be installed, it is left out and said to be. `--python` only makes the environment
and prints its interpreter (status 3 when left out): the benchmark uses it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from tests.onebox_process import onebox_process
from tests.pythons import ROOT, find, last_words, make_venv

VENV = ROOT / ".venv-peer"
REQUIREMENTS = ("pypegasus3==0.0.1.1",)
LEFT_OUT = 3


def peer_python() -> str | None:
    """Return an interpreter with pypegasus3, made if needed; or print the reason to stderr and return None."""
    python = find("3.11")
    if python is None:
        print("pypegasus3 left out: no Python 3.11 here", file=sys.stderr)
        return None
    try:
        return make_venv(python, VENV, *REQUIREMENTS)
    except subprocess.CalledProcessError as error:
        print(f"pypegasus3 left out: it cannot be installed here: {last_words(error)}", file=sys.stderr)
        return None


def check(python: str) -> int:
    """Run the check against a onebox without host_port fields: pypegasus3's decoder cannot skip them."""
    with (
        onebox_process("--replicas", "3", "--table", "temp:8", "--release", "2.5") as (metas, _),
        tempfile.TemporaryDirectory() as scratch,  # pypegasus3 opens a log file in the working directory on import
    ):
        command = [python, str(ROOT / "tests" / "peer" / "peer_check.py"), ",".join(metas), "temp"]
        # Its Twisted warns of an optional TLS package at import, which is irrelevant here.
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        return subprocess.run(command, cwd=scratch, env=environment, timeout=120, check=False).returncode


def main(arguments: list[str]) -> int:
    """Do what the arguments say and return the exit status."""
    python = peer_python()
    if "--python" in arguments:
        print(python or "")
        return 0 if python else LEFT_OUT
    return check(python) if python else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
