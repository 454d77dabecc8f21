"""Test a real uWSGI with its gevent loop: it loads the application before the fork, with calls in flight."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from gevent import monkey

from pegasus_green import Client
from pegasus_green.onebox import OneboxProcess
from pegasus_green.onebox.kdc import free_port
from tests.contrib.servers import running, wait_for_port
from tests.pythons import ROOT

# pip installs the program in the directory of the interpreter.
UWSGI = Path(sys.prefix) / "bin" / "uwsgi"
KEYS = [f"key-{number}" for number in range(100)]
REQUESTS, WORKERS = 600, 2

pytestmark = [
    pytest.mark.watchdog(120),
    pytest.mark.skipif(
        not UWSGI.exists(), reason="uWSGI is not in this environment; its build needs a C compiler and Python's headers"
    ),
    pytest.mark.skipif(
        monkey.is_module_patched("socket"),
        reason="the server is a process of its own, which is the same in either mode",
    ),
]


@pytest.mark.parametrize("reinit", [False, True], ids=["without reinit", "with reinit"])
def test_no_write_in_flight_at_the_fork_is_made_twice(own_onebox: OneboxProcess, tmp_path: Path, reinit: bool) -> None:
    """Each copy of a call gets an error, and both workers get their own replies."""
    metas, port = own_onebox.meta_addresses, free_port()
    with Client(metas) as client:
        table = client.table("temp")
        table.set_many([(key, "s", f"value of {key}") for key in KEYS])
        own_onebox.fault("delay", rpc="incr", seconds=2.0)
        command = [
            *(str(UWSGI), "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", str(WORKERS)),
            *("--gevent", "50", "--die-on-term", "--need-app", "--virtualenv", sys.prefix, "--pythonpath", str(ROOT)),
            *("--module", "tests.contrib.uwsgi_app:application"),
        ]
        log = tmp_path / "uwsgi.log"
        with running(command, log, METAS=",".join(metas), REINIT="1" if reinit else "") as process:
            wait_for_port(port, process)
            try:
                answers = load(port)
            except OSError as error:
                raise AssertionError(log.read_text()[-4000:]) from error
        assert {answer["loaded_by"] for answer in answers}.isdisjoint({answer["pid"] for answer in answers})
        for key, answer in zip(KEYS * (REQUESTS // len(KEYS)), answers):
            assert answer["found"] == f"value of {key}"
        copies = {answer["pid"]: set(answer["found"]) for answer in answers[REQUESTS:]}
        assert list(copies.values()) == [{"ForkedConnection"}] * WORKERS, copies
        # The process that loaded the application sent each of them once.
        own_onebox.clear_faults()
        assert [table.get("in flight", str(number)) for number in range(20)] == [b"1"] * 20


def load(port: int) -> list[dict[str, Any]]:
    """Send concurrent requests; then return the results of the copied calls from both workers."""

    def get(path: str) -> dict[str, Any]:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return dict(json.load(answer))

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(get, [f"/get?{key}" for key in KEYS * (REQUESTS // len(KEYS))]))
        copies: dict[int, dict[str, Any]] = {}
        while len(copies) < WORKERS:
            copies.update({answer["pid"]: answer for answer in pool.map(get, ["/copies"] * 20)})
    return answers + list(copies.values())
