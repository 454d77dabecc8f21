"""Test dialling: one attempt for all waiting calls, growing pauses, names, addresses of both families."""

from __future__ import annotations

import socket as stdlib_socket
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import monkey, socket
from gevent.event import Event

from pegasus_green import Client, Listener, RetryPolicy, errors
from pegasus_green.onebox.kdc import free_port
from pegasus_green.transport import pool
from tests.transport.fakes import (
    BlackHole,
    FakeMeta,
    FakeServer,
    Link,
    Stage,
    answer,
    connection_of,
    dead_address,
    key_for,
)
from tests.waiting import Stopwatch, sleeping, wait_until


def _drop_all(server: FakeServer) -> None:
    for link in server.links:
        link.close()


class Recorder(Listener):
    """Remembers connection events."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.lost: list[tuple[str, str]] = []

    def connection_opened(self, address: str) -> None:
        self.opened.append(address)

    def connection_lost(self, address: str, reason: str) -> None:
        self.lost.append((address, reason))


def test_constructor_and_table_do_not_connect(stage: Stage) -> None:
    server = stage.server()
    client = stage.client()
    client.table("temp")
    gevent.sleep(0.05)
    assert not server.links
    assert not stage.meta.links
    assert not client._cluster.pool._greenlets


def test_hundred_callers_dial_once(stage: Stage) -> None:
    server = stage.server()
    table = stage.table(meta_stagger=60.0)
    callers = [gevent.spawn(table.set, f"h{number}", "s", b"v") for number in range(100)]
    gevent.joinall(callers, raise_error=True)
    assert len(server.links) == 1
    assert len(stage.meta.links) == 1
    assert len(stage.meta.queries) == 1
    assert table.client.stats()["servers"][server.address]["dials"] == 1


def test_the_dial_continues_when_its_first_caller_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    server = stage.server()
    stage.meta.primaries = [f"localhost:{server.port}"]
    real = socket.getaddrinfo
    killed = Event()

    def lookup(host: str, *rest: Any) -> Any:
        if host == "localhost":
            killed.wait()
        return real(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    table = stage.table(connect_timeout=10.0, timeout=20.0)
    callers = [gevent.spawn(table.set, f"h{number}", "s", b"v") for number in range(5)]
    wait_until(lambda: table.client._cluster.pool.peers.get(stage.meta.primaries[0]))
    assert table.client._cluster.pool.peer(stage.meta.primaries[0]).state == "dialling"
    callers[0].kill()
    killed.set()
    gevent.joinall(callers)
    assert [caller.successful() and caller.exception is None for caller in callers] == [True] * 5
    assert isinstance(callers[0].value, gevent.GreenletExit)
    assert len(server.links) == 1


def test_ten_servers_one_connection_each(stage: Stage) -> None:
    for _ in range(10):
        stage.server()
    table = stage.table()
    assert table.warm_up() == 10
    callers = [gevent.spawn(table.set, f"h{number}", "s", b"v") for number in range(200)]
    gevent.joinall(callers, raise_error=True)
    assert [len(server.links) for server in stage.servers] == [1] * 10


def test_refused_is_retried_within_the_deadline_with_pauses(stage: Stage) -> None:
    address = dead_address()
    stage.meta.primaries = [address]
    client = stage.client()
    watch = Stopwatch()
    with pytest.raises(errors.RequestTimeout) as caught:
        client.table("temp").get("a", "b", timeout=1.0)
    assert watch.elapsed >= 0.9
    assert watch.seconds < 2.0
    assert isinstance(caught.value.last_error, errors.ConnectFailed)
    assert "refused" in str(caught.value.last_error)
    assert not caught.value.sent
    # 20, 40, 80, 160, 320, 500 ms less jitter: a handful of dials, not hundreds.
    assert 3 <= client.stats()["servers"][address]["dials"] <= 10


def test_pauses_between_dials_grow_for_all_callers_together(stage: Stage) -> None:
    address = dead_address()
    stage.meta.primaries = [address]
    client = stage.client(timeout=0.2)
    table = client.table("temp")

    def churn(number: int) -> None:
        until = monotonic() + 1.0
        while monotonic() < until:
            with pytest.raises(errors.PegasusError):
                table.get(f"h{number}", "s", timeout=0.1)

    gevent.joinall([gevent.spawn(churn, number) for number in range(50)], raise_error=True)
    assert client.stats()["servers"][address]["dials"] <= 11


def test_an_unexpected_error_is_a_failed_dial(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The calls get its text, the next dials wait, and gevent reports it."""
    server = stage.server()
    client = stage.client()
    client.ping()
    failing = True

    def adopt(*arguments: Any, real: Any = client._cluster.pool.adopt) -> None:
        if failing:
            raise TypeError("a fault of the client")
        real(*arguments)

    monkeypatch.setattr(client._cluster.pool, "adopt", adopt)
    table = client.table("temp")
    with pytest.raises(errors.RequestTimeout, match="a fault of the client") as caught:
        table.get("a", "b", timeout=0.6)
    assert not caught.value.sent
    assert 2 <= client.stats()["servers"][server.address]["dials"] <= 9
    assert "TypeError: a fault of the client" in capsys.readouterr().err
    failing = False
    table.set("a", "b", "c")


def test_refused_with_retry_none_fails_at_once(stage: Stage) -> None:
    stage.meta.primaries = [dead_address()]
    table = stage.table()
    watch = Stopwatch()
    with pytest.raises(errors.ConnectFailed) as caught:
        table.incr("a", "b", retry=None)
    assert watch.seconds < 1.5
    assert not caught.value.outcome_unknown


def test_each_caller_gets_an_error_of_its_own(stage: Stage) -> None:
    stage.meta.primaries = [dead_address()]
    table = stage.table()
    callers = [gevent.spawn(table.get, f"h{number}", "s", retry=None) for number in range(20)]
    gevent.joinall(callers)
    found = [caller.exception for caller in callers]
    assert all(isinstance(error, errors.ConnectFailed) for error in found)
    assert len({id(error) for error in found}) == 20


def test_dial_takes_half_of_the_time_left_at_most(stage: Stage) -> None:
    hole = stage.extra(BlackHole())
    stage.meta.primaries = [hole.address]
    client = stage.client(connect_timeout=5.0)
    client.ping()
    begin = monotonic()
    gone: list[float] = []

    def ask() -> None:
        with pytest.raises(errors.ConnectFailed):
            client.table("temp").get("a", "b", timeout=2.0, retry=None)
        gone.append(monotonic() - begin)

    gevent.joinall([gevent.spawn(ask)])
    (seconds,) = gone
    assert 0.95 <= seconds < 1.6
    with pytest.raises(errors.RequestTimeout) as caught:
        client.table("temp").get("a", "b", timeout=1.0)
    assert caught.value.attempts >= 2
    assert client.stats()["servers"][hole.address]["dials"] == 1


def test_server_that_comes_back_is_used_within_the_call(stage: Stage) -> None:
    port = free_port()
    stage.server(port=port).stop()
    table = stage.table()
    caller = gevent.spawn(table.set, "a", "b", b"c", timeout=20.0)
    gevent.sleep(0.3)
    again = stage.extra(FakeServer(port=port))
    caller.get()
    assert len(again.requests) == 1


def test_a_server_that_accepts_and_closes_is_dialled_with_pauses(stage: Stage) -> None:
    server = stage.server(on_accept=lambda link: link.close())
    client = stage.client()
    table = client.table("temp")

    def persist(number: int) -> None:
        with pytest.raises(errors.PegasusError):
            table.get(f"h{number}", "s", timeout=2.0)

    gevent.joinall([gevent.spawn(persist, number) for number in range(100)], raise_error=True)
    assert 3 <= len(server.links) <= 12


def test_lost_idle_connection_is_dialled_anew_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # A pause would be longer than the timeout.
    monkeypatch.setattr(pool, "REDIAL_BASE", 60.0)
    server = stage.server()
    table = stage.table()
    table.set("a", "b", b"c")
    gevent.sleep(0.55)  # older than what counts as accepted and closed
    _drop_all(server)
    wait_until(lambda: connection_of(table.client, server.address) is None)
    monkeypatch.setattr(pool, "REDIAL_CAP", 60.0)
    assert table.get("a", "b") == b"c"
    assert len(server.links) == 2
    assert table.client.stats()["servers"][server.address]["losses"] == 1


def test_ipv6_addresses_are_dialled(stage: Stage) -> None:
    try:
        server = stage.extra(FakeServer(host="::1"))
        meta = stage.extra(FakeMeta([server.address], host="::1"))
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    client = stage.client([meta.address])
    table = client.table("temp")
    table.set("a", "b", b"c")
    assert table.get("a", "b") == b"c"
    assert meta.address.startswith("[::1]:")
    assert set(client.stats()["servers"]) == {meta.address, server.address}


def test_host_names_are_dialled(stage: Stage) -> None:
    server = stage.server()
    stage.meta.primaries = [f"localhost:{server.port}"]
    client = stage.client([f"localhost:{stage.meta.port}"])
    client.table("temp").set("a", "b", b"c")
    assert server.rows
    assert set(client.stats()["servers"]) == {f"localhost:{server.port}", stage.meta.address}


def test_two_names_of_one_server_share_a_connection(stage: Stage) -> None:
    server = stage.server()
    stage.meta.primaries = [f"localhost:{server.port}", server.address]
    table = stage.table()
    first, second = key_for(0, 2), key_for(1, 2)
    table.set(first, "b", b"1")
    table.set(second, "b", b"2")
    assert (table.get(first, "b"), table.get(second, "b")) == (b"1", b"2")
    wait_until(lambda: len(server.alive) == 1)
    shared = connection_of(table.client, server.address)
    assert shared is connection_of(table.client, f"localhost:{server.port}")
    # Both names are dialled again when it is lost.
    _drop_all(server)
    wait_until(lambda: connection_of(table.client, server.address) is None)
    assert connection_of(table.client, f"localhost:{server.port}") is None
    assert (table.get(first, "b"), table.get(second, "b")) == (b"1", b"2")


def test_name_that_changes_its_address(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dial resolves the name, so the second one reaches the new address."""
    old, new = stage.server(), stage.extra(FakeServer())
    stage.meta.primaries = ["replica.example:34801"]
    addresses = {"replica.example": old.port}
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *rest: Any) -> Any:
        return real("127.0.0.1", addresses[host], *rest) if host in addresses else real(host, port, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    table = stage.table()
    table.set("a", "b", b"c")
    addresses["replica.example"] = new.port
    old.stop()
    table.set("a", "b", b"d")
    assert len(new.requests) == 1


def test_name_with_a_dead_address_first(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    server = stage.server()
    dead = int(dead_address().rpartition(":")[2])
    stage.meta.primaries = ["replica.example:34801"]
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *rest: Any) -> Any:
        if host != "replica.example":
            return real(host, port, *rest)
        return real("127.0.0.1", dead, *rest) + real("127.0.0.1", server.port, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    table = stage.table()
    table.set("a", "b", b"c")
    assert server.rows


def test_a_slow_resolver_does_not_block_other_servers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = stage.server()
    stage.meta.primaries = [healthy.address, "slow.example:34801"]
    real = socket.getaddrinfo

    def lookup(host: str, *rest: Any) -> Any:
        if host == "slow.example":
            gevent.sleep(5.0)
            raise stdlib_socket.gaierror("no such name")
        return real(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    table = stage.table()
    waiting = gevent.spawn(table.get, key_for(1, 2), "s", timeout=0.5)
    gevent.sleep(0.05)
    watch = Stopwatch()
    table.set(key_for(0, 2), "s", b"v")
    assert watch.seconds < 1.5
    with pytest.raises(errors.RequestTimeout):
        waiting.get()
    assert watch.seconds < 3.0


def test_a_name_that_does_not_exist_is_reported(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(host: str, *rest: Any) -> Any:
        raise stdlib_socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    client = stage.client(["nowhere.example:34601"], timeout=1.0)
    with pytest.raises(errors.MetaUnreachable) as caught:
        client.ping()
    assert "Name or service not known" in str(caught.value)
    assert "nowhere.example" in str(caught.value)


def test_warm_up_names_the_server_that_cannot_be_reached(stage: Stage) -> None:
    healthy = stage.server()
    stage.meta.primaries = [healthy.address, dead_address()]
    table = stage.table()
    with pytest.raises(errors.ConnectFailed) as caught:
        table.warm_up(timeout=1.0)
    assert caught.value.address == stage.meta.primaries[1]
    # The healthy server is connected.
    assert connection_of(table.client, healthy.address) is not None


def test_one_connection_is_shared_by_tables(stage: Stage) -> None:
    server = stage.server()
    client = stage.client()
    tables = [client.table("temp") for _ in range(3)]
    for number, table in enumerate(tables):
        table.set(f"h{number}", "s", b"v")
    assert len(server.links) == 1


def test_connection_events(stage: Stage) -> None:
    server = stage.server()
    client = stage.client()
    recorder = Recorder()
    client.add_listener(recorder)
    client.table("temp").set("a", "b", b"c")
    assert recorder.opened == [stage.meta.address, server.address]
    _drop_all(server)
    wait_until(lambda: recorder.lost)
    assert recorder.lost == [(server.address, "the server closed the connection")]
    client.close()
    assert recorder.lost[1:] == [(stage.meta.address, "the client was closed")]


def test_repeated_death_while_callers_go_on(stage: Stage) -> None:
    """Forty losses under load: no reply reaches another caller, every call ends, one connection at a time."""

    def sometimes_lost(link: Link, request: Any) -> None:
        if len(link.requests) % 50 == 0:
            link.close(reset=True)
        else:
            answer(link, request)

    server = stage.server(sometimes_lost)
    table = stage.table(timeout=10.0, retry=RetryPolicy(base=0.001, cap=0.01))

    def work(number: int) -> None:
        for step in range(40):
            value = f"{number}-{step}".encode()
            table.set(f"h{number}", "s", value)
            assert table.get(f"h{number}", "s") == value

    gevent.joinall([gevent.spawn(work, number) for number in range(20)], raise_error=True)
    assert len(server.links) >= 30
    assert isinstance(table.client, Client)
    assert all(connection.in_flight == 0 for connection in table.client._cluster.pool.connections)


def test_deadline_of_a_call_that_waits_for_the_next_dial(stage: Stage) -> None:
    """The call first waits for the pause after a failed dial, so half of its timeout is more than the rest."""
    hole = BlackHole()
    stage.meta.primaries = [hole.address]
    table = stage.table(connect_timeout=0.3)
    late = []
    try:
        for _ in range(8):
            watch = Stopwatch()
            control = gevent.spawn(sleeping, watch, 0.4)
            with pytest.raises(errors.PegasusError):
                table.get("h", "s", timeout=0.4)
            took = watch.seconds
            late.append(took - max(0.4, control.get()))
    finally:
        hole.stop()
    # A pause of the machine also delays the control timer, unless it comes between the two timers.
    assert sorted(late)[-2] < 0.04


def test_addresses_in_digits_need_no_resolver(stage: Stage) -> None:
    """All resolver threads of gevent are busy with names that no name server answers."""
    server = stage.server()
    table = stage.table()
    assert table.get("h", "s") is None
    threads = gevent.get_hub().threadpool
    busy = [threads.spawn(monkey.get_original("time", "sleep"), 1.5) for _ in range(threads.maxsize)]
    try:
        server.links[0].close()
        watch = Stopwatch()
        assert table.get("h", "s") is None
        assert watch.seconds < 1.0
    finally:
        for one in busy:
            one.get()
    assert len(server.links) == 2


def test_all_addresses_of_a_name_share_the_connect_timeout(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    holes = [BlackHole() for _ in range(3)]
    real = socket.getaddrinfo

    def slow(host: str, port: int, *args: Any) -> Any:
        if host != "many.example":
            return real(host, port, *args)
        gevent.sleep(0.8)
        return [row for hole in holes for row in real("127.0.0.1", int(hole.address.rpartition(":")[2]), *args)]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    stage.meta.primaries = ["many.example:1"]
    table = stage.table(retry=None, connect_timeout=1.0)
    table._dispatcher.routes.request()
    wait_until(lambda: stage.meta.queries and table._dispatcher.routes.table is not None)
    watch = Stopwatch()
    try:
        with pytest.raises(errors.ConnectFailed, match=r"no connection within 1\.00 s"):
            table.get("h", "s", timeout=5.0)
    finally:
        for hole in holes:
            hole.stop()
    assert watch.seconds < 1.6


def test_a_lost_wake_up_delays_warm_up_only_for_a_moment(stage: Stage) -> None:
    """A signal handler that makes a call can lose it: the hub then wakes the handler's call."""
    stage.server()
    client = stage.client()
    peer = client._cluster.pool.peer(stage.servers[0].address)
    error = errors.ConnectFailed("lost")

    def end() -> errors.PegasusError:
        gevent.sleep(0.05)
        return error

    dial: Any = gevent.spawn(end)
    caller = gevent.spawn(pool.outcome_of, dial, peer)
    gevent.sleep(0.01)
    dial.unlink_all()
    assert caller.get(timeout=10.0) is error
