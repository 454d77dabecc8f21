"""Test one module-global client in threaded web servers: 1,000 requests, no error, no growing number of descriptors.

``flask run`` and ``runserver`` start a thread for each request, gthread and waitress have pools of threads, and the
gevent worker has greenlets.
"""

from __future__ import annotations

import http.client
import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from gevent import monkey

from pegasus_green.onebox.kdc import free_port
from pegasus_green.shared import shared_table
from tests.contrib.servers import running, wait_for_port
from tests.pythons import ROOT

REQUESTS, CALLERS, WARM = 1000, 10, 50
# Client connections that the server has not closed yet, and the descriptor of the listing.
SLACK = 4
# A limit only for hangs: descriptors of the last threads are closed when these threads end.
SETTLE_SECONDS = 20.0

SITES = ROOT / "tests" / "contrib" / "sites"
GUNICORN = ["-m", "gunicorn", "-w", "1", "-b", "127.0.0.1:{port}"]
SERVERS = {
    "flask run": ["-m", "flask", "--app", "flask_site", "run", "--port", "{port}"],
    "runserver": ["django_site.py", "runserver", "--noreload", "127.0.0.1:{port}"],
    "gunicorn gthread": [*GUNICORN, "-k", "gthread", "--threads", "8", "flask_site:app"],
    "gunicorn gevent": [*GUNICORN, "-k", "gevent", "flask_site:app"],
    "waitress": ["-m", "waitress", "--listen", "127.0.0.1:{port}", "--threads", "8", "flask_site:app"],
}

pytestmark = [
    pytest.mark.watchdog(200),
    pytest.mark.skipif(
        monkey.is_module_patched("socket"),
        reason="the server is a process of its own, which is patched in either mode",
    ),
]


def fetch(port: int, path: str) -> tuple[int, str]:
    """Return status and text of a page, over a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def load(port: int, requests: int, pause: float = 0) -> Counter[tuple[int, str]]:
    """Send requests from several threads; return how often each answer came."""
    with ThreadPoolExecutor(CALLERS) as pool:
        return Counter(pool.map(lambda _: fetch(port, f"/visit?pause={pause}"), range(requests)))


def lowest(port: int) -> int:
    """Return the number of the server's descriptors when the threads of earlier requests have ended."""
    seen = []
    for _ in range(10):
        seen.append(int(fetch(port, "/descriptors")[1]))
        time.sleep(0.1)
    return min(seen)


def settled(port: int, at_most: int) -> int:
    """Wait some seconds until the server has at most that many descriptors; return the number."""
    until = time.monotonic() + SETTLE_SECONDS
    while (now := int(fetch(port, "/descriptors")[1])) > at_most and time.monotonic() < until:
        time.sleep(0.1)
    return now


@pytest.mark.parametrize("server", SERVERS)
def test_a_thousand_requests_cause_no_error_and_no_new_descriptors(server: str, url: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "server.log"
    command = [sys.executable, *(part.format(port=port) for part in SERVERS[server])]
    environment = {"PEGASUS_URL": f"{url}?timeout=10", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    with running(command, log, cwd=SITES, **environment) as process:
        wait_for_port(port, process)
        # After this every thread of a pool has made a call.
        answers = load(port, WARM, pause=0.1)
        before = lowest(port)
        answers += load(port, REQUESTS)
        assert answers == {(200, "True"): WARM + REQUESTS}, log.read_text()[-3000:]
        assert settled(port, before + SLACK) <= before + SLACK
    said = log.read_text()
    # The listener of gunicorn is made before it patches; some releases leave its closing to the garbage collector.
    faults = re.findall(r"Traceback|WrongThread|ResourceWarning: unclosed (?!<socket\.socket)", said)
    assert not faults, said[-3000:]
    assert shared_table(url).get("page", "visits") == b"%d" % (WARM + REQUESTS)
