"""Test the web examples under gunicorn with gevent workers: 1,000 requests while a replica server dies, no HTTP 5xx."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from gevent import monkey

from pegasus_green.onebox import OneboxProcess
from pegasus_green.onebox.kdc import free_port
from tests.contrib.conftest import url_of
from tests.contrib.servers import running, wait_for_port
from tests.pythons import ROOT

REQUESTS, CALLERS = 1000, 20

pytestmark = [
    pytest.mark.watchdog(300),
    pytest.mark.skipif(
        monkey.is_module_patched("socket"),
        reason="the server is a process of its own, which is patched in either mode",
    ),
]


class Site:
    """A web server that was started."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, cookie: str = "") -> tuple[int, str, str]:
        """Return status, text and cookie."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), (answer.getheader("Set-Cookie") or cookie).split(";")[0]


def load(site: Site, paths: list[str], box: OneboxProcess) -> Counter[int]:
    """Send requests from several threads, each with a session of its own; return how often each status came.

    A replica server is killed after half of them.
    """
    sent = iter(range(REQUESTS))
    statuses: Counter[int] = Counter()
    half = threading.Event()

    def caller() -> None:
        cookie = ""
        for number in sent:
            if number == REQUESTS // 2:
                half.set()
            status, _, cookie = site.get(paths[number % len(paths)], cookie)
            statuses[status] += 1

    with ThreadPoolExecutor(CALLERS) as pool:
        jobs = [pool.submit(caller) for _ in range(CALLERS)]
        assert half.wait(60)
        box.kill(box.replica_addresses[0])
        for job in jobs:
            job.result()
    return statuses


def serve(
    application: str, directory: Path, box: OneboxProcess, scratch: Path, **environment: str
) -> tuple[int, AbstractContextManager[subprocess.Popen[bytes]]]:
    """Start gunicorn with two gevent workers."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "2", "-b", f"127.0.0.1:{port}", application]
    return port, running(
        command, scratch / "gunicorn.log", cwd=directory, PEGASUS_URL=f"{url_of(box)}?timeout=5", **environment
    )


def test_flask_answers_every_request_while_a_replica_server_dies(own_onebox: OneboxProcess, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    port, server = serve(
        "flask_app:app",
        ROOT / "examples",
        own_onebox,
        tmp_path,
        LIMIT="5/hour",
        PROMETHEUS_MULTIPROC_DIR=str(metrics),
    )
    with server as process:
        wait_for_port(port, process)
        site = Site(port)
        _, text, cookie = site.get("/visits")
        assert [text, site.get("/visits", cookie)[1]] == ["visit 1", "visit 2"]
        assert [site.get("/limited")[0] for _ in range(7)] == [200] * 5 + [429] * 2
        statuses = load(site, ["/visits", "/page", "/visits", "/limited"], own_onebox)
        log = (tmp_path / "gunicorn.log").read_text()
        assert set(statuses) == {200, 429}, f"{statuses}\n{log[-3000:]}"
        assert statuses[429] == REQUESTS // 4
        assert site.get("/health")[0] == 200
        assert 'pegasus_calls_total{operation="get",table="temp"}' in site.get("/metrics")[1]


def test_django_answers_every_request_while_a_replica_server_dies(own_onebox: OneboxProcess, tmp_path: Path) -> None:
    port, server = serve("shop.wsgi", ROOT / "examples" / "django_project", own_onebox, tmp_path)
    with server as process:
        wait_for_port(port, process)
        site = Site(port)
        _, text, cookie = site.get("/visits")
        assert [text, site.get("/visits", cookie)[1]] == ["visit 1", "visit 2"]
        statuses = load(site, ["/visits", "/page", "/hits"], own_onebox)
        log = (tmp_path / "gunicorn.log").read_text()
        assert set(statuses) == {200}, f"{statuses}\n{log[-3000:]}"
        assert site.get("/health")[0] == 200
        for rpc in ("check_and_set", "incr"):
            rule = own_onebox.fault("cut", rpc=rpc, when="after", count=1)
            assert site.get("/hits")[0] == 200, (tmp_path / "gunicorn.log").read_text()[-3000:]
            assert rule.hits == 1
        # Each hit was counted at most once; those at the dead server may be missing.
        assert REQUESTS // 3 - CALLERS <= int(site.get("/hits")[1].split()[-1]) <= REQUESTS // 3 + 2
