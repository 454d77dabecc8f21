"""Test that a silently dead network path is noticed, and that the connection to a slow server is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.faults.dead_path import NOT_ALLOWED
from tests.pythons import ROOT

pytestmark = [
    pytest.mark.onebox_only,
    pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's"),
]
# The default of path_timeout, and the tolerance for kernel timers and a busy machine.
PATH_TIMEOUT, LATE = 3.0, 3.0


def start(what: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.dead_path", what, str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the findings of the process; skip the test if it may not have a namespace."""
    out, errors = process.communicate(timeout=100)
    if process.returncode == NOT_ALLOWED:
        pytest.skip("a network namespace needs root, or the capability CAP_SYS_ADMIN")
    assert process.returncode == 0, errors[-4000:]
    return dict(json.loads(out))


def check(answer_after: float) -> None:
    running = [start("slow", answer_after), start("dead", 30.0)]
    slow, dead = map(result, running)
    assert slow["value"] == repr(b"value")
    assert slow["seconds"] >= answer_after
    assert slow["losses"] == 0, "a server that takes its time is alive"
    # One to the meta server and one to each of three replica servers.
    assert dead["connections"] >= 2
    assert len(dead["noticed"]) == dead["connections"], dead
    assert max(dead["noticed"]) < PATH_TIMEOUT + LATE, dead
    assert min(dead["noticed"]) > 0.5, "a packet that is lost is sent again"
    # When the path works again, the calls succeed.
    assert dead["value"] == repr(b"value")
    assert dead["ttl"] == "inf"


def test_a_dead_path_closes_the_connection_and_a_slow_server_does_not() -> None:
    check(answer_after=4.5)


@pytest.mark.soak
@pytest.mark.skipif("PEGASUS_GREEN_SOAK_SECONDS" not in os.environ, reason="it takes ten seconds: make soak")
def test_a_server_that_answers_after_nine_seconds_keeps_its_connection() -> None:
    check(answer_after=9.0)
