"""Test locks and single computations in several processes while a replica server dies and comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid

import gevent
import pytest

from pegasus_green import Client
from pegasus_green.onebox import Onebox
from tests.pythons import ROOT

PROCESSES, TURNS = 3, 25


@pytest.mark.slow
def test_processes_take_turns_while_a_server_dies() -> None:
    name = uuid.uuid4().hex
    with Onebox(replicas=3, tables={"temp": 8}, process=True) as box, Client(box.meta_addresses) as client:
        command = [sys.executable, "-m", "tests.recipes.holder", ",".join(box.meta_addresses), name, str(TURNS)]
        processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
        table = client.table("temp")
        while int(table.get(name, "number", timeout=20.0) or 0) < 10:
            gevent.sleep(0.02)
            assert all(process.poll() in (None, 0) for process in processes)
        # It is the primary of the lock's records, too.
        box.kill(0)
        gevent.sleep(0.5)
        box.restart(0)
        box.kill(1)
        gevent.sleep(0.5)
        box.restart(1)
        reports = [json.loads(process.communicate(timeout=100)[0]) for process in processes]
        assert [process.returncode for process in processes] == [0] * PROCESSES
        assert int(table.get(name, "number") or 0) == PROCESSES * TURNS, "two held the lock at the same time"
    tokens = [token for report in reports for token in report["tokens"]]
    assert len(set(tokens)) == PROCESSES * TURNS
    assert all(report["tokens"] == sorted(report["tokens"]) for report in reports)
    computed = sorted(turn for report in reports for turn in report["computed"])
    assert computed == list(range(TURNS)), "each value is computed by one process"
