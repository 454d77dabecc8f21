"""Test client.check(), which reads at each server of a table and reports which ones answer."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from pegasus_green import (
    Client,
    InvalidArgument,
    MetaUnreachable,
    ProtocolError,
    RequestTimeout,
    TableNotFound,
    TableUnavailable,
)
from pegasus_green.onebox import Onebox
from tests.waiting import Stopwatch

pytestmark = pytest.mark.onebox_only


@pytest.fixture
def box() -> Iterator[Onebox]:
    with Onebox(replicas=3, tables={"temp": 8, "one": 1}, strict=True, failover_delay=60.0) as box:
        yield box
        assert not box.client_bugs


@pytest.fixture
def client(box: Onebox) -> Iterator[Client]:
    with Client(box.meta_addresses) as client:
        yield client


def test_a_healthy_table_has_an_answer_of_every_server(client: Client) -> None:
    assert client.check("temp", timeout=10.0) == {}
    assert client.check("one") == {}


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_server_that_does_not_answer_is_named(box: Onebox, client: Client, how: str) -> None:
    assert client.check("temp", timeout=10.0) == {}
    (box.kill if how == "killed" else box.pause)(1)
    watch = Stopwatch()
    found = client.check("temp", timeout=1.0)
    assert watch.seconds < 5.0
    assert list(found) == [box.replica_addresses[1]]
    assert isinstance(found[box.replica_addresses[1]], TimeoutError)
    # The meta servers have not noticed it yet.
    assert client.ping() < 5.0
    (box.restart if how == "killed" else box.resume)(1)
    assert client.check("temp", timeout=20.0) == {}


def test_a_limit_of_requests_does_not_count_against_the_servers(box: Onebox) -> None:
    with Client(box.meta_addresses, max_rate=0.01) as client:
        client.table("temp").get("takes the only turn for", "100 seconds")
        assert client.check("temp", timeout=10.0) == {}
        with pytest.raises(RequestTimeout, match="max_rate"):
            client.table("temp").get("h", "s", timeout=0.3)


def test_a_server_whose_answer_cannot_be_read_is_named(box: Onebox, client: Client) -> None:
    bad = box.replica_addresses[1]
    rule = box.fault("corrupt", rpc="ttl", server=bad)
    found = client.check("temp", timeout=5.0)
    rule.remove()
    assert list(found) == [bad]
    assert isinstance(found[bad], ProtocolError)
    assert client.check("temp", timeout=10.0) == {}


def test_only_servers_of_the_table_are_asked(box: Onebox, client: Client) -> None:
    primary = box.partitions("one")[0]["primary"]
    other = next(address for address in box.replica_addresses if address != primary)
    box.kill(other)
    assert client.check("one", timeout=10.0) == {}


def test_a_partition_without_a_primary(box: Onebox, client: Client) -> None:
    box.clear_primary("temp", 3, seconds=2.5)
    found = client.check("temp", timeout=1.0)
    assert list(found) == ["no primary"]
    assert isinstance(found["no primary"], (TableUnavailable, TimeoutError))


def test_a_table_under_a_split(box: Onebox, client: Client) -> None:
    box.split("temp", stepwise=True)
    assert client.check("temp", timeout=10.0) == {}
    box.finish_split("temp")
    assert client.check("temp", timeout=10.0) == {}


def test_wrong_arguments_and_missing_tables_or_clusters_raise(box: Onebox, client: Client) -> None:
    with pytest.raises(TableNotFound):
        client.check("nothing", timeout=5.0)
    with pytest.raises(InvalidArgument):
        client.check("temp", timeout=0)
    with pytest.raises(InvalidArgument):
        client.check()
    with Client(["127.0.0.1:1"]) as nobody, pytest.raises(MetaUnreachable):
        nobody.check("temp", timeout=0.2)


def test_check_can_be_killed_and_obeys_a_surrounding_deadline(box: Onebox, client: Client) -> None:
    client.check("temp", timeout=10.0)
    box.pause(0)
    caller = gevent.spawn(client.check, "temp", timeout=60.0)
    gevent.sleep(0.05)
    caller.kill()
    assert not any(connection.pending for connection in client._cluster.pool.connections)
    with client.deadline(1.0):
        assert list(client.check("temp", timeout=60.0)) == [box.replica_addresses[0]]
