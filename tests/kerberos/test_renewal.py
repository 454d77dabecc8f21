"""Test tickets that expire while calls run, and a KDC that stops, becomes silent and comes back."""

from __future__ import annotations

import glob
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import gevent.subprocess
import pytest

from pegasus_green import AuthenticationFailed, Client, Kerberos, MetaUnreachable, PegasusError
from pegasus_green.onebox import Onebox
from pegasus_green.onebox.kdc import Kdc
from tests.kerberos.conftest import cut, kerberos, keytab, secure, use
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
LOAD_SECONDS = 60.0
CUT_EVERY = 5.0
CALLERS = 20


@pytest.fixture(scope="module")
def short_realm(new_realm: Callable[..., Kdc]) -> Kdc:
    """A realm whose tickets live 20 s; clocks may differ by 1 s."""
    kdc = new_realm(realm="SHORT.TEST", ticket_life=20, clockskew=1)
    for user in ("alice", "bob"):
        kdc.add(user)
    return kdc


@pytest.fixture
def short(short_realm: Kdc, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kdc]:
    use(short_realm, monkeypatch)
    yield short_realm
    short_realm.resume()


@pytest.mark.watchdog(150)
def test_no_call_fails_when_tickets_expire_under_load(short: Kdc) -> None:
    """Tickets live 20 s, the load lasts 60 s, and every connection is cut every 5 s: three renewals are counted."""
    with Onebox(auth=secure(short)) as box, Client(box.meta_addresses, auth=kerberos(short), timeout=10.0) as client:
        table = client.table("temp")
        counts = dict.fromkeys(range(CALLERS), 0)
        until = monotonic() + LOAD_SECONDS

        def work(number: int) -> None:
            while monotonic() < until:
                value = b"%d" % counts[number]
                table.set(f"h{number}", "s", value)
                assert table.get(f"h{number}", "s") == value
                counts[number] += 1
                gevent.sleep(random.uniform(0.001, 0.01))

        workers = [gevent.spawn(work, number) for number in range(CALLERS)]
        cuts = 0
        while monotonic() < until:
            gevent.sleep(min(CUT_EVERY, max(until - monotonic(), 0.0)))
            cuts += cut(box)
        gevent.joinall(workers, raise_error=True)
        figures = client.stats()["auth"]
        assert figures["renewals"] >= 3
        assert figures["failures"] == figures["refused"] == 0
        assert figures["negotiated"] >= 11
        assert cuts >= 11
        assert min(counts.values()) > 20
        assert client.stats()["tables"]["temp"]["errors"] == {}
        assert (box.client_bugs, box.errors) == ([], [])


def test_an_expired_ticket_in_a_cache_fails_new_connections_only(short: Kdc, tmp_path: Path) -> None:
    """New connections fail with the reason, the open connection works, and kinit makes new connections work again."""
    cache = short.ticket("alice", keytab(short, "alice"), str(tmp_path / "ccache"), life=2)
    auth = Kerberos(service_fqdn=short.service_fqdn, ccache=cache)
    with Onebox(auth=secure(short)) as box, Client(box.meta_addresses, auth=auth, timeout=1.0) as client:
        table = client.table("temp")
        table.set("h", "s", b"v")
        until = time.time() + 4.0
        while time.time() < until:
            assert table.get("h", "s") == b"v", "an open connection goes on after the ticket's end"
            gevent.sleep(0.2)
        assert "auth" in client.stats()
        assert client.stats()["auth"]["last_error"] is not None
        with Client(box.meta_addresses, auth=auth, timeout=1.0) as late:
            with pytest.raises(AuthenticationFailed) as caught:
                late.table("temp").get("h", "s")
            assert caught.value.reason == "expired"
            assert "kinit" in caught.value.hint
        cut(box)
        with pytest.raises(PegasusError):
            table.get("h", "s")
        short.ticket("alice", keytab(short, "alice"), cache)
        wait_until(lambda: not isinstance(outcome(table), PegasusError))
        assert client.stats()["auth"]["last_error"] is None


def outcome(table: Any) -> Any:
    try:
        return table.get("h", "s")
    except PegasusError as error:
        return error


def test_a_refreshed_cache_is_read_in_time(short: Kdc, tmp_path: Path) -> None:
    cache = short.ticket("alice", keytab(short, "alice"), str(tmp_path / "ccache"), life=8)
    auth = Kerberos(service_fqdn=short.service_fqdn, ccache=cache)
    with Onebox(auth=secure(short)) as box, Client(box.meta_addresses, auth=auth) as client:
        client.table("temp").get("h", "s")
        short.ticket("alice", keytab(short, "alice"), cache)
        wait_until(lambda: client.stats()["auth"]["renewals"] == 1)
        assert client.stats()["auth"]["ends_in"] > 8
        assert client.stats()["auth"]["failures"] == 0


def test_calls_fail_without_a_kdc_and_succeed_when_it_is_back(short: Kdc) -> None:
    with Onebox(auth=secure(short)) as box, Client(box.meta_addresses, auth=kerberos(short), timeout=5.0) as client:
        table = client.table("temp")
        table.set("h", "s", b"v")
        short.kill()
        for _ in range(3):
            cut(box)
            assert table.get("h", "s") == b"v", "the tickets that are there need no KDC"
        with Client(box.meta_addresses, auth=kerberos(short, "bob"), timeout=1.0) as other:
            with pytest.raises(PegasusError) as caught:
                other.table("temp").get("h", "s")
            assert "Cannot contact any KDC" in str(caught.value)
            waiting = gevent.spawn(other.table("temp").get, "h", "s", timeout=30.0)
            gevent.sleep(0.3)
            assert len(box.metas[0].connections) == 1, "no server is troubled"
            short.resume()
            assert waiting.get(timeout=30.0) == b"v"
        wait_until(lambda: client.stats()["auth"]["renewals"] >= 1)


def test_calls_end_at_their_deadline_while_the_kdc_is_silent(short: Kdc) -> None:
    """A thread waits for the KDC; when it answers, the next call succeeds."""
    with Onebox(auth=secure(short)) as box, Client(box.meta_addresses, auth=kerberos(short)) as client:
        table = client.table("temp")
        short.pause()
        begin = monotonic()
        with pytest.raises(PegasusError):
            table.get("h", "s", timeout=1.0)
        assert 0.9 < monotonic() - begin < 5.0
        short.resume()
        assert table.get("h", "s", timeout=30.0) is None
        assert client.stats()["auth"]["acquired"] == 1


def test_a_silent_kdc_does_not_block_the_event_loop(short: Kdc) -> None:
    """In the best of three runs the longest gap of a ticker is at most 20 ms above that of a control ticker."""
    gaps = []
    for _ in range(3):
        control = ticker(lambda: None)
        with Onebox(auth=secure(short)) as box, Client(box.meta_addresses, auth=kerberos(short)) as client:
            short.pause()
            calls = [gevent.spawn(outcome, client.table("temp")) for _ in range(10)]
            gaps.append(ticker(lambda: None) - control)
            short.resume()
            gevent.joinall(calls)
        if gaps[-1] <= 0.02:
            break
    assert min(gaps) <= 0.02, gaps


def ticker(_work: Callable[[], object], seconds: float = 1.0) -> float:
    """Return the longest time between two wake-ups of a greenlet that sleeps a millisecond at a time."""
    last, longest, until = monotonic(), 0.0, monotonic() + seconds
    while last < until:
        gevent.sleep(0.001)
        now = monotonic()
        longest, last = max(longest, now - last), now
    return longest


FAKETIME = [path for path in glob.glob("/usr/lib/*/faketime/libfaketime.so.1") if os.path.exists(path)]


@pytest.mark.skipif(not FAKETIME, reason="needs the Debian package faketime")
@pytest.mark.parametrize("shift", ["-2h", "+2h"])
def test_a_kdc_with_a_wrong_clock_is_reported(
    new_realm: Callable[..., Kdc], monkeypatch: pytest.MonkeyPatch, shift: str
) -> None:
    """The library accepts the tickets, the servers are silent; the error has a hint about clocks."""
    kdc = new_realm(realm="SKEWED.TEST")
    use(kdc, monkeypatch)
    kdc.add("alice")
    kdc.kill()
    with monkeypatch.context() as shifted:
        for name, value in (("LD_PRELOAD", FAKETIME[0]), ("FAKETIME", shift), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")):
            shifted.setenv(name, value)
        kdc.resume()
    with Onebox(auth=secure(kdc)) as box, Client(box.meta_addresses, auth=kerberos(kdc), auth_timeout=1.5) as client:
        with pytest.raises(MetaUnreachable) as caught:
            client.table("temp").get("h", "s", timeout=1.0)
        assert "service_fqdn and the clock" in caught.value.hint
        with pytest.raises(MetaUnreachable) as caught:
            client.table("temp").get("h", "s", timeout=4.0)
        last: BaseException | None = caught.value
        while isinstance(last, MetaUnreachable):
            last = last.last_error
        assert isinstance(last, AuthenticationFailed)
        assert (last.reason, last.passing, last.costly) == ("silent", True, True)
        assert "INITIATE" in str(last)
        assert box.client_bugs == []
        kdc.kill()
        kdc.resume()
    with Onebox(auth=secure(kdc)) as box, Client(box.meta_addresses, auth=kerberos(kdc)) as client:
        assert client.table("temp").get("h", "s", timeout=10.0) is None, "with the clock set right"
    kdc.stop()


def test_a_process_ends_at_once_while_a_thread_waits_for_the_kdc(short: Kdc) -> None:
    script = """
import sys, gevent
from pegasus_green import Client, Kerberos
auth = Kerberos(service_fqdn=sys.argv[1], principal="alice", keytab=sys.argv[2])
client = Client(["127.0.0.1:1"], timeout=0.5, auth=auth)
try:
    client.table("temp").get("h", "s")
except Exception as error:
    print(type(error).__name__, flush=True)
"""
    short.pause()
    begin = monotonic()
    command = [sys.executable, "-c", script, short.service_fqdn, keytab(short, "alice")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["MetaUnreachable"]), done.stderr
    assert monotonic() - begin < 20.0, "a silent KDC would have held it for 54 s"


FORK = """
import os, sys, gevent
from pegasus_green import Client, ForkedConnection, Kerberos
from tests.fork.forking import fork
metas, fqdn, keytab, way, when = sys.argv[1:]
client = Client(metas.split(","), timeout=20.0, auth=Kerberos(service_fqdn=fqdn, principal="alice", keytab=keytab))
table = client.table("temp")

mine = os.getpid()

def work():
    try:
        table.set("parent", "s", b"v")
    except ForkedConnection:
        # The copy of this greenlet in the child.
        assert os.getpid() != mine

def child():
    assert table.get("parent", "s", timeout=20.0) in (None, b"v")
    table.set("child", "s", str(os.getpid()))
    figures = client.stats()["auth"]
    print("child", figures["negotiated"] >= 2, figures["user"])
    client.close()

if when == "open":
    table.set("parent", "s", b"v")
    join = fork(way, child)
else:
    call = gevent.spawn(work)
    gevent.sleep(float(when))
    join = fork(way, child)
    call.get(timeout=20.0)
assert table.get("parent", "s") == b"v"
status = join()
assert status == 0, status
print("parent", table.get("child", "s") != str(os.getpid()).encode(), client.stats()["auth"]["acquired"])
client.close()
"""


@pytest.mark.parametrize("way", ["os.fork", "gevent.os.fork"])
@pytest.mark.parametrize("when", ["open", "0.002", "0.004", "0.008", "0.016", "0.032"])
def test_a_fork_during_the_negotiation_leaves_parent_and_child_working(short: Kdc, way: str, when: str) -> None:
    """The fork may be at any step; the child acquires credentials and negotiates by itself."""
    with Onebox(auth=secure(short)) as box:
        arguments = [",".join(box.meta_addresses), short.service_fqdn, keytab(short, "alice"), way, when]
        command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", FORK, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = gevent.subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
        )
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), out + err
        assert out.splitlines() == ["child True alice", "parent True 1"]
        assert (box.client_bugs, box.errors) == ([], [])
