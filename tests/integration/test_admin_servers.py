"""Test administration of single servers and partitions: remote commands, disks, proposals, and jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import pytest

from pegasus_green import (
    BalanceKind,
    Client,
    ConnectFailed,
    HotKeyAction,
    HotKeyKind,
    InvalidArgument,
    MetaError,
    PegasusError,
    ProposalKind,
    ServerError,
    TableNotFound,
)
from pegasus_green.cli.metrics import read_metrics
from pegasus_green.onebox import Onebox
from tests.conftest import Cluster


def test_remote_commands_return_their_output(client: Client, cluster: Cluster) -> None:
    servers = [cluster.metas[0], *(node.address for node in client.admin.nodes())]
    for server in servers:
        assert '"version"' in client.admin.remote_command(server, "server-info")
        assert "server-stat" in client.admin.remote_command(server, "help", timeout=5)
        assert "server-info" in client.admin.remote_command(server, "help", ["server-info"])
        assert "unknown command" in client.admin.remote_command(server, "no-such-command", ["x", "y"])


@pytest.fixture
def unknown_names() -> Iterator[Client]:
    """The client of a cluster whose host names cannot be resolved here; answers also have the IPv4 addresses."""
    box = Onebox(tables={"temp": 2}, metas=1, release="2.6", advertise="replica-7f3a.invalid").start()
    try:
        with Client(box.meta_addresses, timeout=5.0) as client:
            yield client
    finally:
        box.stop()


def test_servers_with_unknown_host_names_are_reached_by_their_addresses(unknown_names: Client) -> None:
    admin = unknown_names.admin
    # This client has not seen any name yet.
    primary = admin.partitions("temp")[0].primary
    assert primary.startswith("replica-7f3a.invalid:")
    assert '"version"' in admin.remote_command(primary, "server-info")
    assert admin.nodes()[0].is_alive
    for node in admin.nodes(alive=True):
        assert admin.disks(node.address)
    assert admin.nodes(alive=False) == []


def test_pages_of_servers_with_unknown_host_names_are_read(unknown_names: Client) -> None:
    node = unknown_names.admin.partitions("temp")[0].primary
    # At first the client does not know the address, then it does.
    for _ in range(2):
        found = read_metrics(unknown_names, node)
        assert (found.error, found.node) == ("", node)
        assert found.at


def test_a_server_that_the_meta_servers_do_not_name_stays_unreachable(unknown_names: Client) -> None:
    with pytest.raises(ConnectFailed, match="cannot connect"):
        unknown_names.admin.remote_command("replica-8e5b.invalid:34801", "server-info")
    assert read_metrics(unknown_names, "replica-8e5b.invalid:34801").error


def test_a_missing_server_is_an_error(client: Client) -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1\b"):
        client.admin.remote_command("127.0.0.1:1", "help", timeout=1)
    with pytest.raises(InvalidArgument, match="port"):
        client.admin.remote_command("host:0", "help")


def test_a_request_to_the_wrong_kind_of_server_is_refused(client: Client, cluster: Cluster) -> None:
    with pytest.raises(ServerError, match="another kind of server or another release") as caught:
        client.admin.disks(cluster.metas[0])
    assert caught.value.code == "ERR_HANDLER_NOT_FOUND"


def test_disks_of_a_server(client: Client, cluster: Cluster) -> None:
    partitions = client.admin.partitions(cluster.table)
    app_id = client.admin.table_info(cluster.table).app_id
    for node in client.admin.nodes(alive=True):
        disks = client.admin.disks(node.address, cluster.table)
        assert all(disk.capacity_mb >= disk.available_mb > 0 for disk in disks)
        held = [index for disk in disks for index in disk.primaries.get(app_id, ())]
        assert sorted(held) == [part.index for part in partitions if part.primary == node.address]
        held = [index for disk in disks for index in disk.secondaries.get(app_id, ())]
        assert sorted(held) == [part.index for part in partitions if node.address in part.secondaries]
        with pytest.raises(ServerError, match="ERR_OBJECT_NOT_FOUND"):
            client.admin.disks(node.address, "no.such.table")


@pytest.mark.onebox_only
def test_a_primary_is_moved(client: Client, cluster: Cluster) -> None:
    first = client.admin.partitions(cluster.table)[0]
    target = first.secondaries[0]
    client.admin.balance(cluster.table, 0, BalanceKind.MOVE_PRIMARY, first.primary, target)
    with gevent.Timeout(20):
        while client.admin.partitions(cluster.table)[0].primary != target:
            gevent.sleep(0.05)


@pytest.mark.onebox_only
def test_proposals(client: Client, cluster: Cluster) -> None:
    part = client.admin.partitions(cluster.table)[1]
    gone = part.secondaries[0]
    kind = ProposalKind.DOWNGRADE_TO_INACTIVE
    client.admin.propose(cluster.table, 1, kind, part.primary, gone)
    with gevent.Timeout(20):
        while client.admin.partitions(cluster.table)[1].ballot == part.ballot:
            gevent.sleep(0.02)
    assert gone not in client.admin.partitions(cluster.table)[1].secondaries
    client.admin.propose(cluster.table, 1, ProposalKind.ADD_SECONDARY, part.primary, gone, force=True)
    client.admin.wait_until_healthy(cluster.table)
    with pytest.raises(InvalidArgument, match="below 8"):
        client.admin.propose(cluster.table, 8, kind, part.primary, gone)
    with pytest.raises(InvalidArgument, match="ProposalKind"):
        client.admin.propose(cluster.table, 1, 99, part.primary, gone)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="BalanceKind"):
        client.admin.balance(cluster.table, 1, 99, part.primary, gone)  # type: ignore[arg-type]
    with pytest.raises(TableNotFound):
        client.admin.propose("no.such.table", 0, kind, part.primary, gone)


def test_lost_partitions_are_diagnosed(client: Client, cluster: Cluster) -> None:
    assert client.admin.lost_partitions() == []
    assert client.admin.lost_partitions(cluster.table) == []


@pytest.mark.onebox_only
def test_jobs(client: Client, cluster: Cluster) -> None:
    assert client.admin.bulk_load_status(cluster.table) is None
    with pytest.raises(TableNotFound):
        client.admin.bulk_load_status("no.such.table")
    with pytest.raises(MetaError, match="no backup service") as caught:
        client.admin.backups(cluster.table)
    assert caught.value.code == "ERR_SERVICE_NOT_ACTIVE"


@pytest.mark.onebox_only
@pytest.mark.parametrize(
    "call",
    [
        lambda admin, table: admin.backups(table),
        lambda admin, table: admin.hot_keys(table, 0, HotKeyKind.WRITE, HotKeyAction.QUERY),
    ],
    ids=["backups", "hot_keys"],
)
def test_all_requests_of_a_call_have_one_deadline(
    client: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, call: Callable[[Any, str], object]
) -> None:
    """A call that first asks for routes and then a server ends within its timeout, not within twice that."""
    started: list[float | None] = []
    admin, begin = client.admin, type(client.admin)._deadline

    def count(self: Any, timeout: float | None) -> float:
        started.append(timeout)
        return begin(self, timeout)

    monkeypatch.setattr(type(admin), "_deadline", count)
    with suppress(PegasusError):
        call(admin, cluster.table)
    assert len(started) == 1


@pytest.mark.onebox_only
def test_hot_key_detection_is_started_queried_and_stopped(client: Client, cluster: Cluster) -> None:
    search = (cluster.table, 0, HotKeyKind.WRITE)
    assert client.admin.hot_keys(*search, HotKeyAction.START) is None
    with pytest.raises(ServerError, match="runs already"):
        client.admin.hot_keys(*search, HotKeyAction.START)
    with pytest.raises(ServerError, match="nothing found yet") as caught:
        client.admin.hot_keys(*search, HotKeyAction.QUERY)
    assert caught.value.code == "ERR_BUSY"
    assert client.admin.hot_keys(*search, HotKeyAction.STOP) is None
    with pytest.raises(InvalidArgument, match="below 8"):
        client.admin.hot_keys(cluster.table, 8, HotKeyKind.READ, HotKeyAction.QUERY)
