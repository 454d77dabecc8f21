"""Test gunicorn --preload -k gevent: the application uses the client before the workers are forked."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from typing import Any

import gevent
import pytest
from gevent import socket, subprocess

from pegasus_green.onebox import Onebox
from tests.pythons import OLDEST_FOR_GUNICORN, ROOT, gevent_version
from tests.transport.fakes import dead_address
from tests.waiting import wait_until

pytest.importorskip("gunicorn")
pytestmark = pytest.mark.skipif(
    gevent_version() < OLDEST_FOR_GUNICORN, reason="gunicorn's gevent worker refuses gevent before 24.10.1"
)
CONFIG = ROOT / "tests" / "gunicorn_conf.py"


def fetch(address: str, path: str) -> dict[str, Any]:
    """Return the JSON of a page, over a connection of its own."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=15) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
        data = b""
        while chunk := sock.recv(65536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], data
    return dict(json.loads(body))


def answers(address: str) -> bool:
    try:
        fetch(address, "/")
    except OSError:
        return False
    return True


def test_workers_use_a_preloaded_client_with_calls_in_flight() -> None:
    with Onebox(replicas=2, tables={"temp": 4}) as box:
        box.fault("delay", rpc="incr", seconds=0.4)
        address = dead_address()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "-c", str(CONFIG), "--bind", address),
                *("--workers", "3", "tests.fork.gunicorn_app:application"),
            ],
            cwd=ROOT,
            env={**os.environ, "PEGASUS_META": ",".join(box.meta_addresses), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        try:
            wait_until(lambda: answers(address))
            pages = [gevent.spawn(fetch, address, f"/?mark=worker-{number}.") for number in range(60)]
            gevent.joinall(pages, raise_error=True)
            # The master's greenlets finish in the master.
            wait_until(
                lambda: box.execution_counts(rb"master-done-\d+") == {b"master-done-%d" % n: 1 for n in range(10)}
            )
            accepted = box.stats()["accepted"]
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Traceback" not in err, err
        facts: list[Any] = [page.value for page in pages]
        assert all((one["new"], one["boot"]) == (1, "loaded") for one in facts)
        # Copies of the calls of the master ended with ForkedConnection and made no further step.
        assert {end for one in facts for end in one["ends"]} == {"ForkedConnection"}
        workers = {one["pid"] for one in facts}
        assert 1 <= len(workers) <= 3
        counts = Counter(box.execution_counts(rb"(?:master|worker)-\d+(?:-\d+)?\."))
        assert set(counts.values()) == {1}
        assert len(counts) == 60 + 30
        # The connections of the master, and at most a meta server and two replica servers for each worker.
        assert accepted <= 3 * (1 + 3)
        assert not box.client_bugs
