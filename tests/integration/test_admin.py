"""Test administration: the effect of each verb, the arguments that it refuses, and its errors."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from pegasus_green import (
    Client,
    ClientClosed,
    InvalidArgument,
    MetaError,
    MetaUnreachable,
    PegasusError,
    RequestTimeout,
    TableExists,
    TableInfo,
    TableNotFound,
    TableStatus,
    TableUnavailable,
)
from pegasus_green.admin import Admin
from pegasus_green.admin.model import MetaLevel
from pegasus_green.onebox import Onebox
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs, refused
from tests.waiting import Stopwatch, wait_until

__all__ = ["no_client_bugs"]


FACTS = [
    "meta_servers",
    "primary_meta_server",
    "zookeeper_hosts",
    "zookeeper_root",
    "meta_function_level",
    "balance_operation_count",
    "primary_replica_count_stddev",
    "total_replica_count_stddev",
    "cluster_name",
]


@pytest.fixture
def admin(client: Client) -> Admin:
    return client.admin


@pytest.fixture
def name(admin: Admin) -> Iterator[str]:
    """Return an unused table name, and drop the table of that name after the test."""
    name = "test_" + uuid.uuid4().hex
    yield name
    admin.drop_table(name, missing_ok=True, reserve=1)


@pytest.fixture
def box() -> Iterator[Onebox]:
    """Serve a cluster of the test's own, with two tables and three meta servers."""
    with Onebox(replicas=4, metas=3, tables={"temp": 8, "odd": 3}) as box:
        yield box
        assert box.client_bugs == []
        assert box.errors == []


@pytest.fixture
def boss(box: Onebox) -> Iterator[Admin]:
    with Client(box.meta_addresses) as client:
        yield client.admin


# --------------------------------------------------------------------------------------------------------------- create
def test_create_waits_until_the_table_is_whole(client: Client, admin: Admin, name: str) -> None:
    app_id = admin.create_table(name, 4, 3, envs={"replica.slow_query_threshold": 100})
    partitions = admin.partitions(name)
    assert [partition.index for partition in partitions] == [0, 1, 2, 3]
    assert all(partition.is_healthy and partition.ballot > 0 for partition in partitions)
    assert admin.is_healthy(name)
    info = admin.table_info(name)
    assert (info.app_id, info.name, info.status, info.partition_count, info.replica_count) == (app_id, name, 1, 4, 3)
    assert info.envs["replica.slow_query_threshold"] == "100"
    assert info.created > 1_500_000_000
    assert info in admin.list_tables()
    table = client.table(name)
    table.set("h", "s", "v")
    assert table.get("h", "s") == b"v"


@pytest.mark.onebox_only
def test_create_without_waiting(cluster: Cluster, admin: Admin, name: str) -> None:
    cluster.box.configure(assign_delay=2.5)
    try:
        watch = Stopwatch()
        admin.create_table(name, 2, wait=False, timeout=20.0)
        assert watch.seconds < 1.5
        assert not admin.is_healthy(name)
        assert any(not partition.primary for partition in admin.partitions(name))
        with pytest.raises(RequestTimeout, match="2 of 2 partitions"):
            admin.wait_until_healthy(name, timeout=0.5)
        admin.wait_until_healthy(name)
        assert admin.is_healthy(name)
    finally:
        cluster.box.configure(assign_delay=0.05)


@pytest.mark.onebox_only
@pytest.mark.parametrize("silent", [False, True])
def test_create_fails_at_the_deadline_when_replicas_are_missing(
    cluster: Cluster, admin: Admin, name: str, *, silent: bool
) -> None:
    """The error is the same if the deadline ends the last query."""
    cluster.box.configure(assign_delay=1.5)
    try:
        if silent:
            cluster.box.fault("drop", rpc="query_cfg", after=2)
        with pytest.raises(RequestTimeout, match="is not healthy") as caught:
            admin.create_table(name, 2, timeout=0.8)
        assert caught.value.table == name
        cluster.box.clear_faults()
        admin.wait_until_healthy(name)
        assert admin.create_table(name, 2, exist_ok=True) == admin.table_info(name).app_id
    finally:
        cluster.box.configure(assign_delay=0.05)


def test_create_of_an_existing_table_raises_unless_exist_ok(cluster: Cluster, admin: Admin) -> None:
    info = admin.table_info(cluster.table)
    with pytest.raises(TableExists) as caught:
        admin.create_table(cluster.table, info.partition_count)
    assert (caught.value.code, caught.value.table) == ("ERR_APP_EXIST", cluster.table)
    again = admin.create_table(
        cluster.table, info.partition_count, info.replica_count, envs={"rocksdb.num_levels": 5}, exist_ok=True
    )
    assert again == info.app_id
    assert admin.table_info(cluster.table) == info
    with pytest.raises(TableExists):
        admin.create_table(cluster.table, info.partition_count * 2, info.replica_count, exist_ok=True)


@pytest.mark.onebox_only
def test_a_default_ttl_is_set_after_the_create_request(cluster: Cluster, client: Client, name: str) -> None:
    """It is set when every replica exists; the embedded cluster would record the other order as a client bug."""
    box, admin = cluster.box, client.admin
    states: list[bool] = []
    change = box.change_envs

    def spy(table: Any, envs: Any) -> None:
        states.append(all(len(partition.members) == 3 for partition in table.partitions))
        change(table, envs)

    box.change_envs = spy
    try:
        admin.create_table(name, 2, envs={"default_ttl": 60, "rocksdb.num_levels": "5"})
    finally:
        del box.change_envs
    assert states == [True]
    assert admin.get_envs(name) == {"default_ttl": "60", "rocksdb.num_levels": "5"}
    client.table(name).set("h", "s", "v")
    assert client.table(name).ttl("h", "s") in (59, 60)


@pytest.mark.onebox_only
def test_a_default_ttl_is_set_only_where_all_replicas_exist(cluster: Cluster, admin: Admin, name: str) -> None:
    cluster.box.configure(assign_delay=1.5)
    try:
        admin.create_table(name, 2, wait=False)
        with pytest.raises(RequestTimeout):
            admin.set_envs(name, {"default_ttl": 5}, timeout=0.5)
        assert admin.get_envs(name) == {}
        admin.set_envs(name, {"default_ttl": 5})
        assert admin.is_healthy(name)
        assert admin.get_envs(name) == {"default_ttl": "5"}
    finally:
        cluster.box.configure(assign_delay=0.05)


def test_create_requests_that_a_server_refuses(admin: Admin, name: str) -> None:
    with pytest.raises(MetaError) as caught:
        admin.create_table(name, 2, 9)
    assert (caught.value.code, caught.value.operation) == ("ERR_INVALID_PARAMETERS", "create_table")
    with pytest.raises(MetaError, match="ERR_INVALID_PARAMETERS"):
        admin.create_table(name, 2, envs={"rocksdb.num_levels": "many"})
    with pytest.raises(TableNotFound):
        admin.table_info(name)


@pytest.mark.onebox_only
def test_changes_are_refused_by_a_frozen_cluster(cluster: Cluster, admin: Admin, name: str) -> None:
    assert admin.set_meta_level(MetaLevel.FREEZED) == MetaLevel.STEADY
    try:
        assert admin.cluster_info()["meta_function_level"] == "freezed"
        with pytest.raises(MetaError) as caught:
            admin.create_table(name)
        assert caught.value.code == "ERR_STATE_FREEZED"
    finally:
        assert admin.set_meta_level(MetaLevel.STEADY) == MetaLevel.FREEZED


@pytest.mark.onebox_only
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_change_with_unknown_outcome_is_not_repeated(cluster: Cluster, admin: Admin, name: str, when: str) -> None:
    admin.nodes()
    rule = cluster.box.fault("cut", rpc="create_table", when=when)
    with pytest.raises(PegasusError) as caught:
        admin.create_table(name, 2, timeout=2)
    assert caught.value.outcome_unknown
    assert rule.hits == 1
    cluster.box.clear_faults()
    rule = cluster.box.fault("drop", rpc="drop_table", when=when)
    admin.create_table(name, 2, exist_ok=True)
    with pytest.raises(PegasusError) as caught:
        admin.drop_table(name, timeout=1.0)
    assert caught.value.outcome_unknown
    assert (caught.value.table, caught.value.operation) == (name, "drop_table")
    assert rule.hits == 1
    cluster.box.clear_faults()


# ------------------------------------------------------------------------------------------- drop, recall, rename, list
def eventually(call: Callable[[], object], kind: type[PegasusError], seconds: float = 120.0) -> None:
    """Call until an error of that kind is raised; a server of a real cluster may learn of a change later."""
    until = monotonic() + seconds
    while monotonic() < until:
        try:
            call()
        except kind:
            return
        gevent.sleep(0.05)
    raise AssertionError(f"no {kind.__name__} within {seconds} s")


@pytest.fixture(params=["at once", "for a while"])
def remembered(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[None]:
    """Set whether drops and renames take effect at once, or after a delay as in a real cluster."""
    if request.param == "for a while":
        if cluster.is_real:
            pytest.skip("a real cluster has its own times")
        cluster.box.configure(drop_delay=0.2, rename_delay=0.2)
    yield
    if not cluster.is_real:
        cluster.box.configure(drop_delay=0.0, rename_delay=0.0)


@pytest.mark.usefixtures("remembered")
def test_drop_and_recall(client: Client, admin: Admin, name: str) -> None:
    app_id = admin.create_table(name, 2)
    table = client.table(name)
    table.set("h", "s", "v")
    assert admin.drop_table(name) == app_id
    with pytest.raises(TableNotFound):
        admin.partitions(name)
    # A replica server serves the table until it learns of the drop.
    eventually(lambda: table.get("h", "s", timeout=5), TableNotFound)
    dropped = [info for info in admin.list_tables(TableStatus.DROPPED) if info.app_id == app_id]
    assert dropped[0].name == name
    assert dropped[0].expires > dropped[0].dropped > 0
    info = admin.recall_table(app_id, name + ".new")
    assert (info.app_id, info.name, info.partition_count) == (app_id, name + ".new", 2)
    assert admin.is_healthy(name + ".new")
    assert client.table(name + ".new").get("h", "s") == b"v"
    with pytest.raises(TableExists) as caught:
        admin.recall_table(app_id, force=True)
    assert caught.value.code == "ERR_APP_EXIST"
    admin.rename_table(name + ".new", name)


def test_drop_of_a_missing_table(admin: Admin, name: str) -> None:
    with pytest.raises(TableNotFound) as caught:
        admin.drop_table(name)
    assert caught.value.table == name
    assert admin.drop_table(name, missing_ok=True) is None
    with pytest.raises(TableNotFound):
        admin.drop_table(name, force=True)
    assert admin.drop_table(name, force=True, missing_ok=True) is None


@pytest.mark.onebox_only
def test_drop_waits_for_the_primaries(cluster: Cluster, admin: Admin, name: str) -> None:
    """On a real cluster, a table that was dropped before its replicas existed crashes a server when it is recalled."""
    cluster.box.configure(assign_delay=1.5)
    try:
        app_id = admin.create_table(name, 2, wait=False)
        with pytest.raises(RequestTimeout, match="has no primary"):
            admin.drop_table(name, timeout=0.5)
        assert admin.table_info(name).app_id == app_id
        assert admin.drop_table(name) == app_id
        admin.recall_table(app_id)
        assert admin.drop_table(name) == app_id
        other = admin.create_table(name, 2, wait=False)
        assert admin.drop_table(name, force=True) == other
        refused_before = len(cluster.box.client_bugs)
        with pytest.raises(ValueError, match="force=True"):
            admin.recall_table(other)
        assert len(cluster.box.client_bugs) == refused_before
    finally:
        cluster.box.configure(assign_delay=0.05)


def test_recall_of_what_another_client_dropped_needs_force(cluster: Cluster, admin: Admin, name: str) -> None:
    app_id = admin.create_table(name, 2)
    with Client(cluster.metas) as other:
        other.admin.drop_table(name)
    with pytest.raises(ValueError, match=f"this client did not drop table {app_id}"):
        admin.recall_table(app_id)
    assert admin.recall_table(app_id, force=True).name == name
    admin.drop_table(name)
    admin.recall_table(app_id)
    # After another client has dropped the table again, force is needed again.
    with Client(cluster.metas) as other:
        other.admin.drop_table(name)
    with pytest.raises(ValueError, match="this client did not drop table"):
        admin.recall_table(app_id)


def test_recall_requests_that_a_server_refuses(cluster: Cluster, admin: Admin, name: str) -> None:
    with pytest.raises(TableNotFound):
        admin.recall_table(2**31 - 1, force=True)
    app_id = admin.create_table(name, 1)
    admin.drop_table(name)
    with pytest.raises(TableExists) as caught:
        admin.recall_table(app_id, cluster.table)
    assert caught.value.code == "ERR_INVALID_PARAMETERS"
    admin.recall_table(app_id)


@pytest.mark.onebox_only
def test_a_dropped_table_cannot_be_recalled_after_the_reserve_time(cluster: Cluster, admin: Admin, name: str) -> None:
    app_id = admin.create_table(name, 1)
    admin.drop_table(name, reserve=100)
    cluster.box.advance(99)
    admin.recall_table(app_id)
    admin.drop_table(name, reserve=100)
    cluster.box.advance(101)
    with pytest.raises(TableNotFound):
        admin.recall_table(app_id)
    assert app_id not in [info.app_id for info in admin.list_tables(None)]


@pytest.mark.usefixtures("remembered")
def test_rename(cluster: Cluster, client: Client, admin: Admin, name: str) -> None:
    app_id = admin.create_table(name, 1)
    client.table(name).set("h", "s", "v")
    admin.rename_table(name, name + ":2")
    assert admin.table_info(name + ":2").app_id == app_id
    assert client.table(name + ":2").get("h", "s") == b"v"

    def rename_again() -> None:
        # For a moment the old name is still valid.
        admin.rename_table(name, name + ":3")
        admin.rename_table(name + ":3", name + ":2")

    eventually(rename_again, TableNotFound)
    for old, new, kind in (
        (name + ":2", cluster.table, TableExists),
        (name + ":2", name + ":2", TableExists),
    ):
        with pytest.raises(kind):
            admin.rename_table(old, new)
    admin.rename_table(name + ":2", name)


def test_list_tables_by_status(cluster: Cluster, admin: Admin, name: str) -> None:
    app_id = admin.create_table(name, 1)
    admin.drop_table(name)
    available, dropped, every = (
        admin.list_tables(status) for status in (TableStatus.AVAILABLE, TableStatus.DROPPED, None)
    )
    assert cluster.table in [info.name for info in available]
    assert app_id not in [info.app_id for info in available]
    assert app_id in [info.app_id for info in dropped]
    assert {info.app_id for info in every} >= {info.app_id for info in (*available, *dropped)}
    assert [info.app_id for info in every] == sorted(info.app_id for info in every)
    assert all(isinstance(info, TableInfo) for info in every)
    assert all(info.status == TableStatus.DROPPED and info.dropped > 0 for info in dropped)


# ------------------------------------------------------------------------------------------------------------- cluster
def test_nodes_and_cluster_info(cluster: Cluster, admin: Admin) -> None:
    nodes = admin.nodes()
    assert len(nodes) >= 3
    assert all(":" in node.address for node in nodes)
    assert admin.nodes(alive=True) == [node for node in nodes if node.is_alive]
    assert admin.nodes(alive=False) == [node for node in nodes if not node.is_alive]
    facts = admin.cluster_info()
    assert list(facts) == FACTS
    members = {node.address for node in nodes}
    for partition in admin.partitions(cluster.table):
        assert partition.primary in members
        assert members.issuperset(partition.secondaries)
    assert repr(admin) == f"<Admin of {','.join(cluster.metas)}>"


@pytest.mark.onebox_only
def test_partitions_show_the_new_primary_after_a_failover(box: Onebox, boss: Admin) -> None:
    expected = box.partitions("temp")
    found = boss.partitions("temp")
    assert [(p.index, p.ballot, p.primary, list(p.secondaries)) for p in found] == [tuple(p.values()) for p in expected]
    box.kill(0)
    dead = box.replica_addresses[0]
    wait_until(lambda: all(p.primary and p.primary != dead for p in boss.partitions("temp")))
    assert dead in [node.address for node in boss.nodes(alive=False)]
    after = boss.partitions("temp")
    assert all(p.primary and p.primary != dead for p in after)
    assert any(dead in p.last_drops for p in after)
    assert any(new.ballot > old.ballot for new, old in zip(after, found))


@pytest.mark.onebox_only
@pytest.mark.parametrize("release", ["2.5", "2.6"])
def test_admin_works_with_both_server_releases(release: str) -> None:
    """Release 2.5 sends only IPv4 addresses and has fewer fields."""
    with Onebox(release=release) as box, Client(box.meta_addresses) as client:
        admin = client.admin
        assert {node.address for node in admin.nodes()} == set(box.replica_addresses)
        assert {p.primary for p in admin.partitions("temp")} <= set(box.replica_addresses)
        info = admin.table_info("temp")
        admin.create_table("made", 2, atomic_idempotent=True)
        if release == "2.6":
            assert info.atomic_idempotent is False
            assert admin.get_atomic_idempotent("made") is True
            assert admin.set_atomic_idempotent("made", False) is True
            assert admin.table_info("made").atomic_idempotent is False
            with pytest.raises(TableNotFound):
                admin.get_atomic_idempotent("none")
        else:
            assert info.atomic_idempotent is None
            with pytest.raises(MetaError, match="too old") as caught:
                admin.get_atomic_idempotent("made", timeout=1.0)
            assert caught.value.code == "ERR_HANDLER_NOT_FOUND"


@pytest.mark.onebox_only
@pytest.mark.parametrize("known", [0, 1, 2])
def test_one_known_meta_server_is_enough(box: Onebox, known: int) -> None:
    """Followers name the leader only in answers to route queries."""
    with Client([box.meta_addresses[known]]) as client:
        watch = Stopwatch()
        assert len(client.admin.nodes()) == 4
        assert client.admin.create_table("made", 2) > 2
        assert watch.seconds < 10


@pytest.mark.onebox_only
def test_admin_finds_the_next_leader(box: Onebox, boss: Admin) -> None:
    assert len(boss.nodes()) == 4
    box.kill_meta(0)
    assert len(boss.nodes()) == 4
    assert boss.create_table("made", 2) > 2
    box.set_leader(2)
    assert boss.table_info("made").partition_count == 2


@pytest.mark.onebox_only
def test_the_replica_count_of_a_table_is_read_and_set(box: Onebox, boss: Admin) -> None:
    assert boss.get_replica_count("temp") == 3
    assert boss.set_replica_count("temp", 4) == 3
    assert boss.get_replica_count("temp") == boss.table_info("temp").replica_count == 4
    boss.wait_until_healthy("temp")
    assert all(len(p.secondaries) == 3 for p in boss.partitions("temp"))
    with pytest.raises(MetaError, match=r"not enough alive replica servers\(4\) for the requested replica count\(5\)"):
        boss.set_replica_count("temp", 5)


# ---------------------------------------------------------------------------------------------------------------- envs
def test_envs_are_set_read_and_cleared(admin: Admin, name: str) -> None:
    admin.create_table(name, 1)
    assert admin.get_envs(name) == {}
    admin.set_envs(name, {"replica.slow_query_threshold": "50", "manual_compact.disabled": "false"})
    admin.set_envs(name, {"replica.slow_query_threshold": 70, "default_ttl": 100})
    assert admin.get_envs(name) == {
        "replica.slow_query_threshold": "70",
        "manual_compact.disabled": "false",
        "default_ttl": "100",
    }
    admin.delete_envs(name, ["manual_compact.disabled", "business.info"])
    admin.delete_envs(name, iter(["business.info"]))
    assert admin.get_envs(name) == {"replica.slow_query_threshold": "70", "default_ttl": "100"}
    admin.clear_envs(name, "replica")
    assert admin.get_envs(name) == {"default_ttl": "100"}
    admin.clear_envs(name, "none")
    admin.clear_envs(name, "")
    assert admin.get_envs(name) == {}
    for bad in ({"no.such.env": "1"}, {"default_ttl": "soon"}, {"default_ttl": -1}):
        with pytest.raises(MetaError) as caught:
            admin.set_envs(name, bad)
        assert caught.value.code == "ERR_INVALID_PARAMETERS"
        assert caught.value.args[0] != "the meta server answered ERR_INVALID_PARAMETERS"
    assert admin.get_envs(name) == {}


def test_verbs_on_a_missing_table_raise(admin: Admin, name: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: admin.get_envs(name),
        lambda: admin.set_envs(name, {"business.info": "x"}),
        lambda: admin.set_envs(name, {"default_ttl": 1}),
        lambda: admin.delete_envs(name, ["business.info"]),
        lambda: admin.clear_envs(name, ""),
        lambda: admin.table_info(name),
        lambda: admin.partitions(name),
        lambda: admin.is_healthy(name),
        lambda: admin.wait_until_healthy(name),
        lambda: admin.get_replica_count(name),
        lambda: admin.set_replica_count(name, 2),
        lambda: admin.start_compaction(name),
        lambda: admin.compaction_progress(name),
        lambda: admin.start_split(name, 2),
        lambda: admin.split_status(name),
        lambda: admin.pause_split(name),
        lambda: admin.resume_split(name),
        lambda: admin.cancel_split(name),
    ]
    for call in calls:
        with pytest.raises(TableNotFound) as caught:
            call()
        assert caught.value.table == name
        assert isinstance(caught.value, LookupError)


# ---------------------------------------------------------------------------------------------------------- compaction
def test_a_manual_compaction_is_started_and_watched(admin: Admin, client: Client, name: str) -> None:
    admin.create_table(name, 1)
    assert admin.compaction_progress(name) == 0
    client.table(name).set("h", "s", "v")
    admin.start_compaction(name, bottommost=True, target_level=-1, max_running=2)
    assert 0 <= admin.compaction_progress(name) <= 100
    assert client.table(name).get("h", "s") == b"v"
    assert any(key.startswith("manual_compact.once.") for key in admin.get_envs(name))
    admin.set_envs(name, {"manual_compact.disabled": "true"})
    with pytest.raises(MetaError) as caught:
        admin.start_compaction(name)
    assert caught.value.code == "ERR_OPERATION_DISABLED"


# ---------------------------------------------------------------------------------------------------- being unavailable
@pytest.mark.onebox_only
@pytest.mark.parametrize("error", ["ERR_BUSY_CREATING", "ERR_BUSY_DROPPING"])
def test_a_table_in_a_transient_state_is_reported_as_unavailable(cluster: Cluster, admin: Admin, error: str) -> None:
    cluster.box.fault("error", error=error, rpc=("query_cfg", "update_envs"), server="meta")
    for call in (
        lambda: admin.partitions(cluster.table),
        lambda: admin.set_envs(cluster.table, {"business.info": "x"}),
    ):
        with pytest.raises(TableUnavailable) as caught:
            call()
        assert caught.value.code == error
    assert admin.is_healthy(cluster.table) is False
    with pytest.raises(RequestTimeout, match=error):
        admin.wait_until_healthy(cluster.table, timeout=1.0)


@pytest.mark.onebox_only
def test_silence_before_a_change_is_sent_has_a_known_outcome(
    cluster: Cluster, admin: Admin, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the query for the leader was sent, so nothing was executed."""
    monkeypatch.setattr(admin._cluster.meta, "leader", None)
    rule = cluster.box.fault("drop", rpc="query_cfg", server="meta")
    with pytest.raises(MetaUnreachable) as caught:
        admin.create_table(name, timeout=0.3)
    assert (caught.value.outcome_unknown, caught.value.operation) == (False, "create_table")
    assert rule.hits
    cluster.box.clear_faults()


@pytest.mark.onebox_only
def test_without_a_meta_server_admin_calls_raise(box: Onebox) -> None:
    with Client(box.meta_addresses) as client:
        for index in range(3):
            box.kill_meta(index)
        with pytest.raises(MetaError) as caught:
            client.admin.nodes(timeout=0.3)
        assert isinstance(caught.value, TimeoutError)


def test_admin_calls_of_a_closed_client_raise(cluster: Cluster) -> None:
    client = Client(cluster.metas)
    admin = client.admin
    assert admin is client.admin
    client.close()
    with pytest.raises(ClientClosed):
        admin.nodes()


@pytest.mark.parametrize(
    "call",
    [
        lambda admin: admin.create_table(""),
        lambda admin: admin.create_table("no-dash"),
        lambda admin: admin.create_table("no dot or sp ce"),
        lambda admin: admin.create_table(7),
        lambda admin: admin.create_table("t", 0),
        lambda admin: admin.create_table("t", 2.0),
        lambda admin: admin.create_table("t", True),
        lambda admin: admin.create_table("t", 2, 0),
        lambda admin: admin.create_table("t", envs={"a": None}),
        lambda admin: admin.create_table("t", envs={"a": True}),
        lambda admin: admin.create_table("t", envs={"default_ttl": 1}, wait=False),
        lambda admin: admin.create_table("t", timeout=0),
        lambda admin: admin.drop_table(7),
        lambda admin: admin.drop_table("t", reserve=-1),
        lambda admin: admin.drop_table("t", reserve=0),
        lambda admin: admin.drop_table("t", reserve=float("nan")),
        lambda admin: admin.drop_table("t", reserve=float("inf")),
        lambda admin: admin.drop_table("t", reserve=2**31),
        lambda admin: admin.drop_table("t", reserve="1"),
        lambda admin: admin.recall_table("t", force=True),
        lambda admin: admin.set_envs("t", None),
        lambda admin: admin.create_table("t", envs=["business.info"]),
        lambda admin: admin.hot_keys("t", 0, "read", 0),
        lambda admin: admin.hot_keys("t", 0, 0, 9),
        lambda admin: admin.remote_command("127.0.0.1:1", "help", "server-info"),
        lambda admin: admin.recall_table(0, force=True),
        lambda admin: admin.recall_table(1, "no-dash", force=True),
        lambda admin: admin.recall_table(1),
        lambda admin: admin.rename_table("t", "no-dash"),
        lambda admin: admin.rename_table("t", ""),
        lambda admin: admin.list_tables(99),
        lambda admin: admin.set_meta_level(450),
        lambda admin: admin.set_envs("t", {}),
        lambda admin: admin.set_envs("t", {"a": 1.5}),
        lambda admin: admin.delete_envs("t", []),
        lambda admin: admin.delete_envs("t", "name"),
        lambda admin: admin.delete_envs("t", [1]),
        lambda admin: admin.clear_envs("t", None),
        lambda admin: admin.set_replica_count("t", 0),
        lambda admin: admin.start_compaction("t", target_level=-2),
        lambda admin: admin.start_compaction("t", max_running=-1),
        lambda admin: admin.start_split("t", 1),
        lambda admin: admin.start_split("t", None),
        lambda admin: admin.pause_split("t", -1),
        lambda admin: admin.nodes(timeout=-1),
    ],
    ids=itertools.count(),
)
def test_bad_arguments_are_not_sent(cluster: Cluster, call: Callable[[Admin], Any]) -> None:
    with Client(cluster.metas) as client, pytest.raises(InvalidArgument):
        call(client.admin)
    assert client._cluster.pool.peers == {}


def test_a_refused_create_does_not_connect(client: Client) -> None:
    refused(client, lambda: client.admin.create_table(""))
