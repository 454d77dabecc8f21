"""Test one client with many greenlets: correct replies on one connection per server, and nothing left behind."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from pegasus_green import Client, Pegasus
from pegasus_green.onebox import Onebox
from tests.conftest import Cluster
from tests.transport.test_threads import in_thread

GREENLETS, CALLS = 1000, 100
ESTABLISHED = "01"


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Return the real cluster, or an embedded one as a process of its own: it shares no hub with the client."""
    metas = [meta for meta in request.config.getoption("--real-meta").split(",") if meta]
    if metas:
        yield Cluster(metas, request.config.getoption("--real-table"), is_real=True)
        return
    with Onebox(replicas=3, tables={"temp": 8}, process=True) as box:
        yield Cluster(list(box.meta_addresses), "temp", is_real=False, box=box)


def resolved(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return str(socket.getaddrinfo(host.strip("[]"), int(port), socket.AF_INET, socket.SOCK_STREAM)[0][4][0]), int(port)


def _decoded(text: str) -> tuple[str, int]:
    """Return an address of /proc/net/tcp: words of four bytes in the machine's order."""
    host, _, port = text.partition(":")
    raw = b"".join(struct.pack("=I", int(host[i : i + 8], 16)) for i in range(0, len(host), 8))
    return socket.inet_ntoa(raw[-4:]), int(port, 16)  # of an IPv4 address in IPv6 the last word


def sockets_to(servers: set[tuple[str, int]]) -> Counter[tuple[str, int]]:
    """Count the established TCP connections of this process to each server in the table of the kernel."""
    own = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            own.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    # By inode, from two readings, since the table may change while it is read and show a socket twice or not at all.
    found: dict[str, tuple[str, int]] = {}
    for table in ("tcp", "tcp6") * 2:
        path = Path("/proc/self/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            remote = _decoded(fields[2])
            if fields[3] == ESTABLISHED and remote in servers and f"socket:[{fields[9]}]" in own:
                found[fields[9]] = remote
    return Counter(found.values())


def servers_in_use(client: Client, table: str) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """Return the primaries' addresses and those of all meta servers that the client knows."""
    routes = client._cluster.tables[table].routes.table
    assert routes is not None
    return {resolved(route.primary) for route in routes.routes}, set(map(resolved, client._cluster.meta.addresses))


def assert_idle(client: Client) -> None:
    for address, server in client.stats()["servers"].items():
        assert (server["in_flight"], server["queued_bytes"], server["late"]) == (0, 0, 0), address
    for connection in client._cluster.pool.connections:
        assert not connection.in_flight


def assert_one_connection_each(client: Client, table: str) -> None:
    primaries, metas = servers_in_use(client, table)
    assert len(client._cluster.pool.connections) == len(primaries) + 1
    if sys.platform == "linux":
        found = sockets_to(primaries | metas)
        assert {server: found[server] for server in primaries - metas} == dict.fromkeys(primaries - metas, 1)
        assert sum(found.values()) == len(primaries) + 1


def test_a_thousand_greenlets_share_a_client(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas, timeout=20.0) as client:
        table = client.table(cluster.table)
        checked = 0

        def work(number: int) -> None:
            nonlocal checked
            key = hash_key + b"/%d" % number
            for turn in range(CALLS // 2):
                mine = b"%d of %d" % (turn, number)
                table.set(key, b"mark", mine)
                assert table.get(key, b"mark") == mine
                checked += 1

        for greenlet in [gevent.spawn(work, number) for number in range(GREENLETS)]:
            greenlet.get(timeout=60)
        assert checked == GREENLETS * CALLS // 2
        assert_idle(client)
        assert_one_connection_each(client, cluster.table)
        for number in range(GREENLETS):
            table.remove(hash_key + b"/%d" % number, b"mark")
        stats = client.stats()
        assert stats["tables"][cluster.table]["calls"] == GREENLETS * (CALLS + 1)
        assert all(server["dials"] <= 1 for server in stats["servers"].values())


def test_several_tables_handles_and_greenlets_share_connections(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas) as client:
        greenlets = [gevent.spawn(client.table(cluster.table).get, hash_key, b"%d" % n) for n in range(100)]
        assert [greenlet.get(timeout=10) for greenlet in greenlets] == [None] * 100
        assert client.table(cluster.table).warm_up() >= 1
        assert_one_connection_each(client, cluster.table)


def test_the_documented_api_shares_connections_too(cluster: Cluster, hash_key: bytes) -> None:
    pegasus = Pegasus(cluster.metas, cluster.table)
    assert pegasus.init()
    greenlets = [gevent.spawn(pegasus.get, hash_key, b"%d" % n) for n in range(200)]
    assert {greenlet.get(timeout=10)[1] for greenlet in greenlets} == {b""}
    client = pegasus._client
    assert client is not None
    assert_idle(client)
    assert_one_connection_each(client, cluster.table)
    pegasus.close()


def test_the_count_of_sockets_detects_a_second_connection(cluster: Cluster) -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel's table is read from /proc")
    server = resolved(cluster.metas[0])
    before = sockets_to({server})[server]
    with socket.create_connection(server, timeout=5):
        assert sockets_to({server})[server] == before + 1
    assert sockets_to({server})[server] == before


@pytest.mark.onebox_only
def test_only_the_connection_to_the_leading_meta_server_stays(hash_key: bytes) -> None:
    with Onebox(metas=3, process=True) as box:
        box.set_leader(2)
        # Only the forward leads to the leader, however late the first answer is.
        with Client(box.meta_addresses, meta_stagger=60.0) as client:
            client.table("temp").warm_up()
            assert client.table("temp").get(hash_key, b"none") is None
            assert_one_connection_each(client, "temp")


def test_the_repr_counts_the_connections_of_all_threads(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas) as client:
        table = client.table(cluster.table)
        table.set(hash_key, b"s", b"v")
        mine = len(client._cluster.pool.connections)

        def use() -> tuple[int, str]:
            table.get(hash_key, b"s")
            return len(client._threads.here().pool.connections), repr(client)

        theirs, shown = in_thread(use)
        assert theirs > 0
        assert shown == f"<Client {','.join(client._cluster.meta.addresses)} connections={mine + theirs}>"
