"""Test that the first call succeeds within its deadline while some servers are dead, silent or moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent import socket

from pegasus_green import Client, ClientOptions, MetaUnreachable, TableNotFound
from pegasus_green.cluster.routing import build
from pegasus_green.events import Listeners
from pegasus_green.keys import partition_hash
from pegasus_green.onebox import Onebox
from pegasus_green.protocol.meta import PartitionConfiguration, QueryCfgResponse, make_address
from pegasus_green.transport.pool import Pool
from tests.faults.tools import Ended, primary_of
from tests.waiting import Stopwatch

pytestmark = [pytest.mark.onebox_only]

CONNECT_TIMEOUT = 3.0
# The ways in which a meta server is dead: nothing listens, it does not answer, it does not accept.
DEATHS: dict[str, Callable[[Any, int], None]] = {
    "refused": lambda box, meta: box.kill_meta(meta),
    "silent": lambda box, meta: box.pause_meta(meta),
    "full backlog": lambda box, meta: box.pause_meta(meta, accept=False),
}


@pytest.fixture
def metas() -> Iterator[Any]:
    """Serve with three meta servers, of which the last one leads and stays leader."""
    with Onebox(replicas=3, metas=3, meta_loading=0.0, meta_failover_delay=60.0) as box:
        box.set_leader(2)
        with Client([box.meta_addresses[2]]) as client:
            client.table("temp").set(b"key", b"", b"value")
        yield box


def _first_get(addresses: list[str], timeout: float = 10.0, **options: Any) -> Stopwatch:
    """Return the duration of the first call of a new client."""
    with Client(addresses, timeout=timeout, connect_timeout=CONNECT_TIMEOUT, **options) as client:
        watch = Stopwatch()
        assert client.table("temp").get(b"key") == b"value"
        return watch.stop()


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("death", DEATHS)
def test_one_dead_meta_server_of_three_delays_the_start_by_less_than_a_connect_timeout(
    metas: Any, death: str, position: int
) -> None:
    """The dead server may be at any place in the list, and may be dead in any way."""
    follower, dead, leader = metas.meta_addresses
    DEATHS[death](metas, 1)
    addresses = [follower, leader]
    addresses.insert(position, dead)
    seconds = _first_get(addresses).seconds
    print(f"{seconds:.3f} s")
    assert seconds < CONNECT_TIMEOUT


@pytest.mark.both_modes
@pytest.mark.parametrize("death", DEATHS)
def test_the_only_living_meta_server_of_three_is_found(metas: Any, death: str) -> None:
    """The other two are dead."""
    DEATHS[death](metas, 0)
    DEATHS[death](metas, 1)
    assert _first_get(metas.meta_addresses).seconds < 2 * CONNECT_TIMEOUT


def test_a_leader_that_is_not_configured_is_found_by_a_forward(metas: Any) -> None:
    """The client follows the forward of a follower to an address that is not configured, and remembers it."""
    follower, _, leader = metas.meta_addresses
    with Client([follower], timeout=10.0, connect_timeout=CONNECT_TIMEOUT) as client:
        assert client.table("temp").get(b"key") == b"value"
        # From here on the follower is not needed.
        metas.kill_meta(0)
        assert client.ping(timeout=10.0) < CONNECT_TIMEOUT
        assert client._cluster.meta.leader == leader


REQUESTS: dict[str, Callable[[Client], object]] = {
    "ping": lambda client: client.ping(),
    "list_tables": lambda client: client.admin.list_tables(),
    "partitions": lambda client: client.admin.partitions("temp"),
    "set_envs": lambda client: client.admin.set_envs("temp", {"replica.slow_query_threshold": "100"}),
    "create_table": lambda client: client.admin.create_table("new", partitions=1),
    "count": lambda client: client.table("temp").count(),
}


@pytest.mark.both_modes
@pytest.mark.parametrize("state", ["from the start", "after a change"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_every_request_finds_a_leader_that_is_not_configured(metas: Any, request_: str, state: str) -> None:
    """The follower names the leader only in answers to route queries."""
    follower, other, leader = metas.meta_addresses
    with Client([follower], timeout=10.0, connect_timeout=CONNECT_TIMEOUT) as client:
        if state == "after a change":
            client.admin.list_tables()
            assert client._cluster.meta.leader == leader
            metas.set_leader(1)
        watch = Stopwatch()
        REQUESTS[request_](client)
        assert watch.seconds < CONNECT_TIMEOUT
        assert client._cluster.meta.leader == (leader if state == "from the start" else other)


def test_a_new_client_creates_a_table_while_a_meta_server_is_silent(metas: Any) -> None:
    """A creation is sent to one server only, so the client finds out who leads before."""
    metas.pause_meta(0)
    with Client(metas.meta_addresses, timeout=10.0, connect_timeout=CONNECT_TIMEOUT) as client:
        watch = Stopwatch()
        client.admin.create_table("new", partitions=1)
        assert watch.seconds < CONNECT_TIMEOUT


def test_followers_without_a_known_leader_are_asked_in_turn(metas: Any) -> None:
    """A follower that names no leader leads to the next server."""
    metas.set_leader(2, known=False)
    assert _first_get(metas.meta_addresses).seconds < CONNECT_TIMEOUT


def test_a_call_waits_until_a_new_leader_is_elected(metas: Any) -> None:
    """The client asks again until a leader exists and has loaded its state, within one deadline."""
    metas.configure(meta_loading=0.3)
    metas.set_leader(None)
    call = Ended(_first_get, metas.meta_addresses)
    gevent.sleep(0.4)
    metas.set_leader(1)
    assert call.join().error is None, call.error
    assert call.value.elapsed > 0.6
    assert call.value.seconds < 5.0


@pytest.mark.parametrize("state", ["loading", "recovering"])
def test_a_leader_that_is_loading_its_state_is_asked_again(metas: Any, state: str) -> None:
    """The client asks the same server until it has loaded its state, for every kind of request."""
    metas.set_meta_state(state, 2)
    with Client(metas.meta_addresses, timeout=5.0) as client:
        calls = [Ended(client.ping), Ended(client.admin.list_tables), Ended(client.table("temp").get, b"key")]
        gevent.sleep(0.3)
        metas.set_meta_state("active", 2)
        assert [call.join().error for call in calls] == [None] * 3
        assert min(call.watch.elapsed for call in calls) >= 0.3
        assert max(call.watch.seconds for call in calls) < 3.0


@pytest.mark.parametrize("death", DEATHS)
def test_a_running_client_survives_the_death_of_the_leader(metas: Any, death: str) -> None:
    """The client finds the next leader."""
    metas.configure(meta_failover_delay=0.3, failover_delay=0.3)
    with Client(metas.meta_addresses, timeout=6.0) as client:
        table = client.table("temp")
        assert table.get(b"key") == b"value"
        DEATHS[death](metas, 2)
        # A new route is needed: the primary moves while there is no leader.
        metas.kill(primary_of(client, b"key 0"))
        rows = [Ended(table.get, b"key %d" % number) for number in range(20)]
        assert [row.join().error for row in rows] == [None] * 20
        assert max(row.watch.seconds for row in rows) < 4.5


def test_with_all_meta_servers_dead_a_call_fails_at_its_deadline(metas: Any) -> None:
    """The call raises MetaUnreachable at its deadline and not earlier, since servers may come back."""
    for meta, death in enumerate(DEATHS.values()):
        death(metas, meta)
    with Client(metas.meta_addresses, timeout=0.8) as client:
        watch = Stopwatch()
        with pytest.raises(MetaUnreachable) as caught:
            client.table("temp").get(b"key")
        assert watch.elapsed >= 0.8
        assert watch.seconds < 2.0
        assert isinstance(caught.value, TimeoutError)
        # When they come back, the same client works.
        metas.restart_meta(0)
        metas.set_leader(0)
        watch = Stopwatch()
        assert client.table("temp").get(b"key", timeout=10.0) == b"value"
        assert watch.seconds < 3.0


@pytest.mark.parametrize("death", DEATHS)
def test_a_new_leader_is_found_while_the_old_one_is_silent(metas: Any, death: str) -> None:
    """The client asks the other servers again, since they learn of the new leader only later."""
    metas.configure(meta_failover_delay=1.0)
    DEATHS[death](metas, 2)
    with Client(metas.meta_addresses) as client:
        watch = Stopwatch()
        client.ping(20.0)
        watch.stop()
    print(f"{watch.elapsed:.3f} s")
    assert watch.elapsed > 0.9
    assert watch.seconds < 5.0


def test_a_missing_table_fails_at_once(metas: Any) -> None:
    """The error says that the table is missing, not the servers."""
    metas.kill_meta(0)
    with Client(metas.meta_addresses, timeout=10.0, connect_timeout=CONNECT_TIMEOUT) as client:
        watch = Stopwatch()
        with pytest.raises(TableNotFound, match="nothing here"):
            client.table("nothing here").get(b"key")
        assert watch.seconds < CONNECT_TIMEOUT


# ----------------------------------------------------------------------------------------------------------------- DNS
def test_a_host_name_is_preferred_to_the_ipv4_address_in_a_route() -> None:
    """The client uses the name that a newer server sends with an IPv4 address, and the address of an older server."""
    address = make_address("10.0.0.1", 34801)
    named = PartitionConfiguration(pid=1, ballot=1, primary=address, hp_primary="replica.test:34801")
    plain = PartitionConfiguration(pid=1 | 1 << 32, ballot=1, primary=address)
    reply = QueryCfgResponse(app_id=1, partition_count=2, partitions=[named, plain])
    options = ClientOptions()
    routes = build(reply, Pool(options, Listeners(lambda: None)).peer, None).routes
    assert [route.primary for route in routes] == ["replica.test:34801", "10.0.0.1:34801"]


@contextmanager
def _names(monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]) -> Iterator[list[str]]:
    """Resolve some names here; a value is a list of addresses or an error. Yields the names that were looked up."""
    asked: list[str] = []
    plain = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in names:
            return plain(host, port, *args, **kwargs)
        asked.append(host)
        gevent.sleep(0.01)
        found = names[host]
        if isinstance(found, Exception):
            raise found
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address.split(":")[0], int(address.split(":")[1])))
            for address in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked


@pytest.mark.both_modes
def test_a_name_with_only_a_dead_address_is_resolved_again(metas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call uses the new address of the name."""
    names = {"meta.test": [metas.meta_addresses[0]]}
    metas.kill_meta(0)
    with _names(monkeypatch, names) as asked:
        call = Ended(_first_get, ["meta.test:34601"])
        gevent.sleep(0.3)
        names["meta.test"] = [metas.meta_addresses[2]]
        assert call.join().error is None, call.error
        assert call.value.seconds < 4.0
        assert asked.count("meta.test") >= 2


@pytest.mark.both_modes
def test_a_running_client_resolves_the_new_addresses_of_meta_servers(
    metas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the old addresses are gone, the client finds the new ones without a restart."""
    metas.configure(failover_delay=0.3)
    names = {"meta.test": [metas.meta_addresses[2]]}
    with (
        _names(monkeypatch, names),
        Client(["meta.test:34601"], timeout=6.0, connect_timeout=CONNECT_TIMEOUT) as client,
    ):
        table = client.table("temp")
        assert table.get(b"key") == b"value"
        metas.kill_meta(2)
        metas.set_leader(1)
        names["meta.test"] = [metas.meta_addresses[1]]
        metas.kill(primary_of(client, b"key 0"))
        rows = [Ended(table.get, b"key %d" % number) for number in range(20)]
        assert [row.join().error for row in rows] == [None] * 20
        assert client.ping(timeout=10.0) < CONNECT_TIMEOUT


@pytest.mark.both_modes
def test_the_second_address_of_a_name_is_used_when_the_first_is_dead(
    metas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client dials all addresses of a name in turn."""
    metas.kill_meta(0)
    with _names(monkeypatch, {"meta.test": [metas.meta_addresses[0], metas.meta_addresses[2]]}):
        assert _first_get(["meta.test:34601"]).seconds < CONNECT_TIMEOUT


@pytest.mark.both_modes
def test_a_name_is_resolved_again_until_the_deadline(metas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks the name server again within the deadline; other meta servers answer meanwhile."""
    names: dict[str, Any] = {"meta.test": socket.gaierror(-2, "Name or service not known")}
    with _names(monkeypatch, names):
        assert _first_get(["meta.test:34601", metas.meta_addresses[2]]).seconds < CONNECT_TIMEOUT
        call = Ended(_first_get, ["meta.test:34601"])
        gevent.sleep(0.3)
        names["meta.test"] = [metas.meta_addresses[2]]
        assert call.join().error is None, call.error
        assert call.value.seconds < 4.0


# ----------------------------------------------------------------------------------------------------- replica servers
@pytest.mark.parametrize("way", ["killed", "silent", "full backlog"])
def test_a_new_client_is_served_while_a_replica_server_is_dead(way: str) -> None:
    """The first calls to the dead server succeed after the failover, calls to other partitions at once."""
    with Onebox(replicas=3, failover_delay=2.0) as box:
        with Client(box.meta_addresses) as client:
            table = client.table("temp")
            for number in range(20):
                table.set(b"key %d" % number, b"", b"value")
        dead = box.replica_addresses[0]
        if way == "killed":
            box.kill(0)
        else:
            box.pause(0, accept=way == "silent")
        with Client(box.meta_addresses, timeout=10.0) as client:
            table = client.table("temp")
            rows = {b"key %d" % number: Ended(table.get, b"key %d" % number) for number in range(20)}
            lost = {key for key in rows if _primary(box, key) == dead}
            for key, row in rows.items():
                assert row.join().error is None, row.error
                assert row.watch.seconds < (4.5 if key in lost else 1.5), (key in lost, row.watch.seconds)
            assert lost


def _primary(box: Any, key: bytes) -> str:
    return str(box.partitions("temp")[partition_hash(key) % 8]["primary"])
