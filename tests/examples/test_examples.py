"""Test that every example runs and does what its description says."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pegasus_green.onebox import Onebox
from pegasus_green.onebox.kdc import free_port
from tests.pythons import OLDEST_FOR_GUNICORN, ROOT, gevent_version

EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def box() -> Iterator[Any]:
    with Onebox(replicas=3, tables={"temp": 8}, process=True) as box:
        yield box


@pytest.fixture
def meta(box: Any) -> str:
    return ",".join(box.meta_addresses)


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, in this thread."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def run(*arguments: str, status: int = 0, seconds: float = 60) -> tuple[str, str]:
    """Run an example to its end; return what it wrote to stdout and to stderr."""
    command = [sys.executable, str(EXAMPLES / arguments[0]), *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=ENVIRONMENT, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


@contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command during the test; kill it at the end if it still runs."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**ENVIRONMENT, **environment}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_for(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Read the process's output up to a line that matches."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"ended with {process.wait()} and without {pattern!r}: {''.join(lines)}")


def request(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, str]:
    """Make one HTTP request; return status, body and the cookie that was set."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), (answer.getheader("Set-Cookie") or "").partition(";")[0]
    finally:
        connection.close()


def is_closed(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


# ----------------------------------------------------------------------------------------------------------- quickstart
def test_quickstart_with_its_own_cluster() -> None:
    out, err = run("quickstart.py")
    assert err == ""
    found = re.search(r"meta server (\S+), 3 replica servers", out)
    assert found is not None
    assert is_closed(found[1]), "the embedded cluster still runs"
    assert re.search(r"100,000 calls in [\d.]+ s: [\d,]+ calls/s", out)
    in_flight = re.search(r"most in flight at once: ([\d,]+)", out)
    assert in_flight is not None
    assert int(in_flight[1].replace(",", "")) > 500
    assert "TCP connections: 4," in out


def test_quickstart_with_a_given_cluster(box: Any, meta: str) -> None:
    before = box.row_count("temp")
    out, err = run("quickstart.py", "--meta", meta, "--table", "temp")
    assert err == ""
    assert "Started" not in out
    assert box.row_count("temp") == before, "it removes what it wrote"


def test_quickstart_reports_a_missing_cluster() -> None:
    _, err = run("quickstart.py", "--meta", "127.0.0.1:1", status=1)
    assert "connect pegasus server failed" in err
    assert re.search(r"^ERROR:pegasus_green.pegasus:init of table 'temp' .*127\.0\.0\.1:1", err, re.MULTILINE)


def test_quickstart_reports_a_missing_table(meta: str) -> None:
    _, err = run("quickstart.py", "--meta", meta, "--table", "nope", status=1)
    assert re.search(r"^ERROR:pegasus_green.pegasus:init of table 'nope' .*does not exist", err, re.MULTILINE)


# ---------------------------------------------------------------------------------------------------------- web servers
def test_web_pywsgi_counts_pages(meta: str) -> None:
    with running(sys.executable, str(EXAMPLES / "web_pywsgi.py"), meta, "temp", "0") as server:
        address = wait_for(server, r"ready http://([^/]+)/")[1]
        answers: list[tuple[int, bytes, str]] = []
        threads = [threading.Thread(target=lambda: answers.append(request(address, "GET", "/a"))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == sorted((200, b"/a was read %d times\n" % n, "") for n in range(1, 21))
        assert request(address, "GET", "/b%C3%A4")[:2] == (200, "/bä was read 1 times\n".encode())
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert server.stdout is not None
        assert server.stdout.read() == ""


def test_web_pywsgi_health_page_reports_whether_the_cluster_answers() -> None:
    with Onebox(tables={"temp": 4}, process=True) as own:
        meta = ",".join(own.meta_addresses)
        with running(sys.executable, str(EXAMPLES / "web_pywsgi.py"), meta, "temp", "0") as server:
            address = wait_for(server, r"ready http://([^/]+)/")[1]
            assert request(address, "GET", "/health")[:2] == (200, b"ok\n")
            # Calls and the health check work without the meta servers.
            own.pause_meta(0)
            assert request(address, "GET", "/health")[0] == 200
            own.resume_meta(0)
            for server_index in range(3):
                own.pause(server_index)
            assert request(address, "GET", "/health")[:2] == (503, b"RequestTimeout\n")
            for server_index in range(3):
                own.resume(server_index)
            assert request(address, "GET", "/health")[0] == 200


def test_web_pywsgi_finishes_requests_before_it_exits(box: Any, meta: str) -> None:
    with running(sys.executable, str(EXAMPLES / "web_pywsgi.py"), meta, "temp", "0") as server:
        address = wait_for(server, r"ready http://([^/]+)/")[1]
        assert request(address, "GET", "/last")[0] == 200
        fault = box.fault("delay", rpc="incr", seconds=1.5)
        answers: list[tuple[int, bytes, str]] = []
        threads = [threading.Thread(target=lambda: answers.append(request(address, "GET", "/last"))) for _ in range(20)]
        for thread in threads:
            thread.start()
        until(lambda: fault.hits >= 20)
        server.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        fault.remove()
        assert sorted(answers) == sorted((200, b"/last was read %d times\n" % n, "") for n in range(2, 22))
        assert server.wait(60) == 0
        assert is_closed(address)
        assert server.stdout is not None
        assert server.stdout.read() == ""


def test_web_pywsgi_fails_no_request_while_a_replica_server_restarts(box: Any, meta: str) -> None:
    with running(sys.executable, str(EXAMPLES / "web_pywsgi.py"), meta, "temp", "0") as server:
        address = wait_for(server, r"ready http://([^/]+)/")[1]
        answers: list[tuple[int, bytes, str]] = []
        stop = threading.Event()

        def load(number: int) -> None:
            while not stop.is_set():
                answers.append(request(address, "GET", f"/load/{number % 5}"))

        threads = [threading.Thread(target=load, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        restart_servers(box)
        until(lambda: len(answers) > 200)
        stop.set()
        for thread in threads:
            thread.join()
        assert {status for status, _, _ in answers} == {200}
        about = sum(b" about " in body for _, body, _ in answers)
        last = [request(address, "GET", f"/load/{number}")[1] for number in range(5)]
        total = sum(int(re.findall(rb"read (\d+) times", body)[0]) - 1 for body in last)
        assert len(answers) - about <= total <= len(answers), "a view was lost, or counted twice"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def restart_servers(box: Any) -> None:
    """Kill two replica servers, one after another, and start them again."""
    for victim in (0, 1):
        dead = box.replica_addresses[victim]
        box.kill(victim)
        until(lambda: all(one["primary"] not in (None, dead) for one in box.partitions("temp")))  # noqa: B023 - at once
        time.sleep(0.3)
        box.restart(victim)
        until(lambda: all(len(one["secondaries"]) == 2 for one in box.partitions("temp")))
        time.sleep(0.3)


@pytest.fixture
def gunicorn(meta: str, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    pytest.importorskip("gunicorn")
    if gevent_version() < OLDEST_FOR_GUNICORN:
        pytest.skip("gunicorn's gevent worker refuses gevent before 24.10.1")
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "gunicorn", "-c", str(EXAMPLES / "web_gunicorn" / "gunicorn.conf.py")]
    environment = {"PEGASUS_META": meta, "PEGASUS_TABLE": "temp", "BIND": address, "HOME": str(tmp_path)}
    with running(*command, "app:application", **environment) as server:
        for _ in range(2):
            wait_for(server, "Booting worker")
        while is_closed(address):
            time.sleep(0.05)
        yield address, server


def read_on(server: subprocess.Popen[str]) -> list[str]:
    """Read the output of the server into a list, so that the server never blocks; return the list."""
    assert server.stdout is not None
    lines: list[str] = []
    threading.Thread(target=lambda stream=server.stdout: lines.extend(stream), daemon=True).start()
    return lines


def test_web_gunicorn_serves_pages_sessions_and_health(gunicorn: tuple[str, subprocess.Popen[str]]) -> None:
    address, server = gunicorn
    assert request(address, "GET", "/health")[:2] == (200, b"ok\n")
    assert request(address, "GET", "/pages/none")[0] == 404
    assert request(address, "PUT", "/pages/one", b"the text")[0] == 204
    for _ in range(10):  # by either worker
        assert request(address, "GET", "/pages/one")[:2] == (200, b"the text")
    status, body, cookie = request(address, "POST", "/session", b"Ada")
    assert (status, body) == (200, b"Ada, last seen never\n")
    for _ in range(10):
        status, body, _ = request(address, "GET", "/session", Cookie=cookie)
        assert (status, body[:15]) == (200, b"Ada, last seen ")
        assert b"never" not in body
    assert request(address, "GET", "/session", Cookie="session=chosen")[2] != "session=chosen"
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0


@pytest.mark.slow
def test_web_gunicorn_loses_no_request_while_a_replica_server_restarts(
    box: Any, gunicorn: tuple[str, subprocess.Popen[str]]
) -> None:
    address, server = gunicorn
    said = read_on(server)
    answers: list[tuple[int, bytes]] = []
    stop = threading.Event()

    def load(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            path, text = f"/pages/{number}-{turn % 50}", b"%d of %d" % (turn, number)
            answers.append((request(address, "PUT", path, text)[0], b""))
            status, body, _ = request(address, "GET", path)
            answers.append((status, body if body != text else b""))

    threads = [threading.Thread(target=load, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    restart_servers(box)
    until(lambda: len(answers) > 200)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200, 204}
    assert {body for _, body in answers} == {b""}, "another page's text, or an old one"
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
    assert "Traceback" not in "".join(said)


@pytest.mark.slow
def test_web_gunicorn_finishes_requests_before_it_exits(box: Any, gunicorn: tuple[str, subprocess.Popen[str]]) -> None:
    address, server = gunicorn
    said = read_on(server)
    assert request(address, "PUT", "/pages/slow", b"text")[0] == 204
    fault = box.fault("delay", rpc="get", seconds=1.5)
    answers: list[tuple[int, bytes, str]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(request(address, "GET", "/pages/slow"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    until(lambda: fault.hits >= 20)
    server.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    fault.remove()
    assert answers == [(200, b"text", "")] * 20
    assert server.wait(60) == 0
    assert is_closed(address)
    assert "Traceback" not in "".join(said)


# -------------------------------------------------------------------------------------------------------------- crawler
@contextmanager
def site(pages: int) -> Iterator[tuple[str, Callable[[], dict[str, int]]]]:
    """Run the web server of the example; yield the URL of the first page and a function that counts the requests."""
    command = [sys.executable, str(EXAMPLES / "crawler.py"), "serve", str(pages), "--port", "0"]
    with running(*command) as server:
        url = wait_for(server, r"ready (\S+)")[1]
        address = url.split("/")[2]
        yield url, lambda: json.loads(request(address, "GET", "/hits")[1])


def test_crawler_fetches_every_page_exactly_once(meta: str) -> None:
    with site(2500) as (url, hits):
        out, err = run("crawler.py", "crawl", "--meta", meta, "--url", url, "--name", "once")
        assert err == ""
        assert "with 2000 greenlets" in out
        counts = hits()
    assert len(counts) == 2500
    assert set(counts.values()) == {1}
    most = re.search(r"2500 pages, .* at most (\d+) in flight", out)
    assert most is not None
    assert 50 < int(most[1]) <= 400, "two at once for each of 200 sites"


@pytest.mark.slow
def test_crawler_resumes_after_kill_9(meta: str) -> None:
    with site(2500) as (url, hits):
        arguments = ("crawl", "--meta", meta, "--url", url, "--name", "killed")
        with running(sys.executable, str(EXAMPLES / "crawler.py"), *arguments) as first:
            wait_for(first, "crawling")
            while len(hits()) < 100:
                time.sleep(0.02)
            first.send_signal(signal.SIGKILL)
            first.wait()
        assert len(hits()) < 2500
        out, err = run("crawler.py", *arguments)
        assert err == ""
        after = hits()
        found = re.search(r"resumed: (\d+) done, (\d+) to do, (\d+) taken over", out)
        assert found is not None
        done, todo, busy = map(int, found.groups())
        assert done > 0
        assert todo > 0
        assert f"done: {2500 - done} pages" in out, "what was done is not done again"
        # Once each, except for the pages that the dead crawler was fetching.
        assert len(after) == 2500
        assert set(after.values()) <= {1, 2}
        assert sum(after.values()) - 2500 <= busy
        again, _ = run("crawler.py", *arguments)
        assert "done: 0 pages" in again
        assert hits() == after


# --------------------------------------------------------------------------------------------------------------- legacy
def test_legacy_works_when_patched_first(meta: str) -> None:
    _, err = run("legacy_patched.py", meta, "temp")
    assert "stored pages: code 0, 200 of 200, 0 failures" in err
    assert "Warning" not in err


def test_legacy_warns_and_works_when_patched_late(meta: str) -> None:
    _, err = run("legacy_patched.py", meta, "temp", "--late")
    assert "stored pages: code 0, 200 of 200, 0 failures" in err
    assert "RuntimeWarning: sleep was imported before monkey.patch_all()" in err


# ------------------------------------------------------------------------------------------------------------------ all
# What a framework's own program runs; `make test-contrib` runs them so.
IN_CONTRIB = ("celery_app.py", "django_project", "flask_app.py", "locustfile.py")


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in IN_CONTRIB))
def test_every_example_prints_its_help(name: str) -> None:
    out, err = run(name, "--help")
    assert out.startswith(f"usage: {name}")
    assert err == ""


@pytest.mark.parametrize("name", ["web_pywsgi.py", "legacy_patched.py"])
def test_a_missing_package_is_named(name: str) -> None:
    _, err = run(name, status=2)
    assert err.startswith(f"usage: {name}")
    assert err.endswith("the following arguments are required: meta, table\n")


def test_every_example_is_tested() -> None:
    here = Path(__file__).read_text()
    names = {path.relative_to(EXAMPLES).parts[0] for path in EXAMPLES.rglob("*.py")}
    for name in names - set(IN_CONTRIB):
        assert f'"{name}"' in here, f"no test runs {name}"
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "contrib").glob("test_*.py"))
    for name in IN_CONTRIB:
        assert f'"{Path(name).stem}' in tests, f"no test runs {name}"
