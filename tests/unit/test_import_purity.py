"""Test that importing the package and constructing objects has no side effects, each in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

# CODE runs between the two snapshots of the process.
PROBE = """
import gc, json, logging, os, signal, sys, threading

def fds():
    found = {}
    for fd in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        try:
            found[fd] = os.readlink("/proc/self/fd/" + fd)
        except OSError:
            pass
    return found

before_fds, before_handlers = fds(), list(logging.root.handlers)
before_signals = {s: signal.getsignal(s) for s in signal.valid_signals()}
CODE
from greenlet import getcurrent, greenlet
from gevent._hub_local import get_hub_if_exists
logger = logging.getLogger("pegasus_green")
print(json.dumps({
    "hub": repr(get_hub_if_exists()),
    "greenlets": [repr(o) for o in gc.get_objects() if isinstance(o, greenlet) and o is not getcurrent()],
    "threads": [t.name for t in threading.enumerate()],
    "tasks": len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1,
    "fds": sorted(what for fd, what in fds().items() if before_fds.get(fd) != what),
    "root_handlers": [repr(h) for h in logging.root.handlers if h not in before_handlers],
    "own_handlers": [type(h).__name__ for h in logger.handlers],
    "other_handlers": sorted(
        name for name, other in logging.root.manager.loggerDict.items()
        if name != "pegasus_green" and name.startswith("pegasus") and getattr(other, "handlers", None)
    ),
    "level": logger.level,
    "signals": [int(s) for s, h in before_signals.items() if signal.getsignal(s) is not h],
    "modules": sorted(sys.modules),
}))
"""

CLEAN = {
    "hub": "None",
    "greenlets": [],
    "threads": ["MainThread"],
    "tasks": 1,
    "fds": [],
    "root_handlers": [],
    "own_handlers": ["NullHandler"],
    "other_handlers": [],
    "level": 0,
    "signals": [],
}
FOREIGN = ("thrift", "sortedcontainers", "zstandard", "pytest")
HEAVY = (*FOREIGN, "pegasus_green.onebox", "pegasus_green.cli")

CASES = {
    "import": "import pegasus_green",
    "import of every public name": "from pegasus_green import *",
    # 192.0.2.0/24 is reserved for documentation: a dial would hang, and a name lookup would start a thread.
    "Client": "import pegasus_green\nkeep = pegasus_green.Client(['192.0.2.1:34601', 'no-such-name.invalid:34601'])",
    "Table": "import pegasus_green\nkeep = pegasus_green.Client(['192.0.2.1:34601']).table('temp')",
    "Pegasus": "import pegasus_green\nkeep = pegasus_green.Pegasus(['192.0.2.1:34601'], 'temp')",
    "connect": "import pegasus_green\nkeep = pegasus_green.connect('pegasus://192.0.2.1:34601/temp?timeout=2')",
}


def probe(code: str) -> dict[str, Any]:
    """Run the code in a new process and return what it left behind; stderr must be empty."""
    command = [sys.executable, "-W", "error", "-c", PROBE.replace("CODE", code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("code", CASES.values(), ids=CASES.keys())
def test_importing_and_constructing_have_no_side_effects(code: str) -> None:
    state = probe(code)
    assert {key: state[key] for key in CLEAN} == CLEAN


def test_import_does_not_load_optional_modules() -> None:
    modules = probe(CASES["import"])["modules"]
    assert [name for name in HEAVY if name in modules] == []
