"""Test servers whose host name leads to another machine that accepts connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from pegasus_green import Client, errors
from pegasus_green.onebox import Onebox
from pegasus_green.protocol.framing import Request
from pegasus_green.transport import pool as pool_module
from pegasus_green.transport.elsewhere import find_elsewhere
from tests.transport.fakes import FakeServer, Handler, Link, Stage, answer, connection_of, key_for, silent
from tests.transport.test_names import NAME, Names, ends
from tests.transport.test_names import names as names
from tests.waiting import Stopwatch, wait_until


def refuse(code: str) -> Handler:
    return lambda link, request: link.reply(request, error=code)


def speak_http(link: Link, _request: Request) -> None:
    link.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    link.close()


def refuse_and_hold(waiting: list[tuple[Link, Request]]) -> Handler:
    """Refuse the calls of partition 0. Hold the first one of other partitions, and answer those after it."""

    def handle(link: Link, request: Request) -> None:
        if request.partition_index == 0:
            link.reply(request, error="ERR_OBJECT_NOT_FOUND")
        elif not waiting:
            waiting.append((link, request))
        else:
            answer(link, request)

    return handle


WRONG: dict[str, Handler] = {
    "another server": refuse("ERR_OBJECT_NOT_FOUND"),
    "a secondary": refuse("ERR_INVALID_STATE"),
    "closes": lambda link, _request: link.close(),
    "http": speak_http,
    "silent": silent,
}


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options with which a client doubts its connections soon."""
    monkeypatch.setattr(pool_module, "DOUBT_INTERVAL", 0.05)
    monkeypatch.setattr(pool_module, "PROBE_SILENCE", 0.3)
    return {"refresh_interval": 0.02, "silence": 0.2, "silent_window": 3600.0, "timeout": 10.0}


def until_served(call: Callable[[], Any]) -> None:
    wait_until(lambda: not isinstance(ends(call), errors.PegasusError))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_server_is_found_by_its_address_while_its_name_leads_to_another_machine(
    stage: Stage, names: Names, eager: dict[str, Any], wrong: str
) -> None:
    other, server = stage.extra(FakeServer(WRONG[wrong])), stage.server()
    stage.meta.primaries, stage.meta.digits = [NAME], {NAME: server.address}
    names.known["replica-1.example"] = [other.address]
    table = stage.table(**eager)
    if wrong == "silent":
        # The calls that wait there fail.
        until_served(lambda: table.get("h", "s", timeout=0.5))
    assert table.get("h", "s") is None
    # From then on the address is dialled first.
    before = len(other.links)
    wait_until(lambda: not other.alive)
    server.links[-1].close()
    wait_until(lambda: connection_of(table.client, NAME) is None)
    assert table.get("h", "s") is None
    assert len(other.links) == before


@pytest.mark.parametrize("wrong", ["another server", "silent"])
def test_a_server_is_found_when_its_name_leads_to_it_again(
    stage: Stage, names: Names, eager: dict[str, Any], wrong: str
) -> None:
    other, server = stage.extra(FakeServer(WRONG[wrong])), stage.server()
    stage.meta.primaries = [NAME]
    names.known["replica-1.example"] = [other.address]
    table = stage.table(**eager)
    assert isinstance(ends(table.get, "h", "s", timeout=0.4), errors.RequestTimeout)
    names.known["replica-1.example"] = [server.address]
    until_served(lambda: table.get("h", "s", timeout=0.5))
    assert table.client.stats()["servers"][NAME]["state"] == "open"


def test_a_server_is_found_that_has_moved_while_another_one_took_its_address(
    stage: Stage, names: Names, eager: dict[str, Any]
) -> None:
    old, new = stage.server(), stage.extra(FakeServer())
    stage.meta.primaries, stage.meta.digits = [NAME], {NAME: old.address}
    names.known["replica-1.example"] = [old.address]
    table = stage.table(**eager)
    assert table.get("h", "s") is None
    old.handler = WRONG["another server"]
    names.known["replica-1.example"], stage.meta.digits = [new.address], {NAME: new.address}
    assert table.get("h", "s") is None
    wait_until(lambda: not old.alive)


@pytest.mark.parametrize("address", ["of the server", *WRONG])
def test_a_server_that_refuses_for_a_while_keeps_its_connection(
    stage: Stage, names: Names, eager: dict[str, Any], address: str
) -> None:
    """It opens a replica, for example. No other address of its name serves the partition."""
    waiting: list[tuple[Link, Request]] = []

    server = stage.server(refuse_and_hold(waiting))
    other = server if address == "of the server" else stage.extra(FakeServer(WRONG[address]))
    stage.meta.primaries, stage.meta.digits = [NAME, NAME], {NAME: other.address}
    names.known["replica-1.example"] = [server.address]
    table = stage.table(**eager)
    first = gevent.spawn(ends, table.get, key_for(1, 2), "s")
    wait_until(lambda: len(waiting) == 1)
    connection = connection_of(table.client, NAME)
    watch = Stopwatch()
    while watch.elapsed < 0.5:
        assert isinstance(ends(table.get, key_for(0, 2), "s", timeout=0.1), errors.RequestTimeout)
        assert table.get(key_for(1, 2), "s") is None
    waiting[0][0].value(waiting[0][1], b"late")
    assert first.get() == b"late"
    assert connection_of(table.client, NAME) is connection
    assert len(server.links) == 1
    # One look for each interval, and the one that runs.
    assert len(names.asked) <= 2 + watch.elapsed / 0.05
    if other is not server:
        assert 1 <= len(other.links) <= 1 + watch.elapsed / 0.05


@pytest.mark.parametrize("shared", [False, True])
def test_calls_in_flight_stay_on_a_connection_that_the_client_leaves(
    stage: Stage, names: Names, eager: dict[str, Any], shared: bool
) -> None:
    """The wrong machine may be another server of the cluster, which has calls of its own."""
    waiting: list[tuple[Link, Request]] = []

    wrong, right = stage.extra(FakeServer(refuse_and_hold(waiting))), stage.extra(FakeServer())
    stage.meta.primaries = [NAME, wrong.address if shared else NAME]
    names.known["replica-1.example"] = [wrong.address]
    client = stage.client(**eager)
    table = client.table("temp")
    assert isinstance(ends(table.get, key_for(0, 2), "s", retry=None), errors.NotServing)
    caller = gevent.spawn(ends, table.get, key_for(1, 2), "s")
    wait_until(lambda: len(waiting) == 1)
    old = connection_of(client, NAME)
    assert old.peer.address == NAME
    names.known["replica-1.example"] = [right.address]
    assert table.get(key_for(0, 2), "s") is None
    assert connection_of(client, NAME) is not old
    waiting[0][0].value(waiting[0][1], b"late")
    assert caller.get() == b"late"
    if not shared:
        # Nothing waits there any more.
        wait_until(lambda: not wrong.alive)
        assert len(client._cluster.pool.connections) == 2
        return
    assert connection_of(client, wrong.address) is old
    wait_until(lambda: old.peer.address == wrong.address)
    waiting[0][0].close()
    wait_until(lambda: connection_of(client, wrong.address) is None)
    assert connection_of(client, NAME) is not None
    assert client.stats()["servers"][wrong.address]["losses"] == 1


def test_close_while_the_client_looks_for_a_server_leaves_no_socket(
    stage: Stage, names: Names, eager: dict[str, Any]
) -> None:
    wrong, slow = stage.extra(FakeServer(WRONG["another server"])), stage.extra(FakeServer(silent))
    stage.meta.primaries, stage.meta.digits = [NAME], {NAME: slow.address}
    names.known["replica-1.example"] = [wrong.address]
    client = stage.client(**eager)
    caller = gevent.spawn(ends, client.table("temp").get, "h", "s")
    wait_until(lambda: bool(slow.requests))
    client.close()
    assert isinstance(caller.get(), errors.ClientClosed)
    wait_until(lambda: not slow.alive and not wrong.alive)


@pytest.mark.parametrize("header_version", [0, 1])
def test_only_the_primary_serves_a_partition(header_version: int) -> None:
    with (
        Onebox(replicas=3, tables={"temp": 8}) as box,
        Client(box.meta_addresses, header_version=header_version) as client,
    ):
        client.table("temp").warm_up()
        cluster = client._cluster
        routes = cluster.table("temp").routes.table
        assert routes is not None
        for route in routes.routes:
            for address in box.replica_addresses:
                found = find_elsewhere(
                    [address], ("", 0), route, cluster.options, cluster.pool.dial, None, lambda: True
                )
                assert (found is not None) == (address == route.primary)
                if found is not None:
                    found[1].close()
