"""Test the meta servers with raw frames: routes, leaders, tables, envs, nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from pegasus_green.onebox import Onebox
from pegasus_green.protocol import meta
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol.binary import BLOB_TYPE
from pegasus_green.protocol.meta import format_address, split_gpid
from pegasus_green.protocol.rpc import Rpc
from tests.onebox.raw import Raw, Routed, ask, sleep

Make = Callable[..., Onebox]


def query(box: Onebox, name: str = "temp", indices: list[int] | None = None, server: int = 0) -> meta.QueryCfgResponse:
    return ask(box, rpcs.QUERY_CFG, meta.QueryCfgRequest(name, indices or []), server)


def create(box: Onebox, name: str, partitions: int = 4, replicas: int = 3, **more: Any) -> meta.CreateAppResponse:
    options = meta.CreateAppOptions(partitions, replicas, **more)
    return ask(box, rpcs.CREATE_APP, meta.CreateAppRequest(name, options))


def drop(box: Onebox, name: str, missing_ok: bool = False, reserve: int | None = None) -> str:
    request = meta.DropAppRequest(name, meta.DropAppOptions(missing_ok, reserve))
    return ask(box, rpcs.DROP_APP, request).err


def set_env(
    box: Onebox, keys: list[str] | None, values: list[str] | None, op: int = 1, **more: Any
) -> meta.HintResponse:
    return ask(box, rpcs.UPDATE_APP_ENV, meta.UpdateAppEnvRequest("temp", op, keys, values, **more))


# ------------------------------------------------------------------------------------------------------------ query_cfg
def test_routes_name_servers_in_both_forms(box: Onebox) -> None:
    answer = query(box)
    assert (answer.err, answer.app_id, answer.partition_count, answer.is_stateful) == ("ERR_OK", 1, 8, True)
    assert [split_gpid(part.pid) for part in answer.partitions] == [(1, index) for index in range(8)]
    for part in answer.partitions:
        assert (part.ballot, part.max_replica_count, part.last_drops, part.partition_flags) == (3, 3, [], 0)
        assert format_address(part.primary) == part.hp_primary
        assert [format_address(raw) for raw in part.secondaries] == part.hp_secondaries
        assert sorted([part.hp_primary, *part.hp_secondaries]) == sorted(box.replica_addresses)
        assert part.hp_last_drops == []
    primaries = [part.hp_primary for part in answer.partitions]
    assert all(primaries.count(address) in (2, 3) for address in box.replica_addresses)


def test_release_2_5_sends_no_host_names(make_box: Make) -> None:
    box = make_box(release="2.5", metas=2)
    for part in query(box).partitions:
        assert (part.hp_primary, part.hp_secondaries, part.hp_last_drops) == (None, None, None)
        assert format_address(part.primary) in box.replica_addresses
    [forward] = query(box, server=1).partitions
    assert forward.hp_primary is None
    [app] = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest(0, "nothing", 1)).infos
    assert app.atomic_idempotent is None
    assert all(node.hp_node is None for node in ask(box, rpcs.LIST_NODES, meta.ListNodesRequest()).infos)
    with Raw(box.meta_addresses[0]) as raw:
        assert raw.call(rpcs.GET_ATOMIC_IDEMPOTENT, meta.AppNameRequest("temp")) == ("ERR_HANDLER_NOT_FOUND", None)


@pytest.mark.parametrize(
    ("asked", "given"),
    [([1, 2], [1, 2]), ([2, 1, 2], [2, 1, 2]), ([1, 99], [1]), ([-1, 3], [3]), ([99, -1], list(range(8)))],
)
def test_query_cfg_returns_the_requested_partitions(box: Onebox, asked: list[int], given: list[int]) -> None:
    answer = query(box, indices=asked)
    assert [split_gpid(part.pid)[1] for part in answer.partitions] == given
    assert answer.partition_count == 8


def test_unknown_table(box: Onebox) -> None:
    assert query(box, "nope") == meta.QueryCfgResponse(err="ERR_OBJECT_NOT_FOUND")


def test_tables_of_any_partition_count_on_few_servers(make_box: Make) -> None:
    box = make_box(replicas=2, tables={"one": 1, "three": 3, "many": 64})
    for name, count in (("one", 1), ("three", 3), ("many", 64)):
        answer = query(box, name)
        assert answer.partition_count == len(answer.partitions) == count
        assert {part.max_replica_count for part in answer.partitions} == {2}
        table = Routed(box, name)
        assert table.put(b"k", b"s", b"v") == "ERR_OK"
        assert table.get(b"k", b"s") == b"v"
        table.close()


# -------------------------------------------------------------------------------------------------------------- leaders
def test_followers_forward_and_only_query_cfg_names_the_leader(make_box: Make) -> None:
    box = make_box(metas=3)
    for server in (1, 2):
        answer = query(box, "no such table", server=server)
        assert (answer.err, answer.partition_count) == ("ERR_FORWARD_TO_OTHERS", 0)
        [forward] = answer.partitions
        assert format_address(forward.primary) == forward.hp_primary == box.meta_addresses[0]
        assert (forward.hp_secondaries, forward.hp_last_drops) == (None, None)
        listed = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest(), server)
        assert (listed.err, listed.infos) == ("ERR_FORWARD_TO_OTHERS", [])


def test_the_states_of_a_leader_have_their_error_codes(make_box: Make) -> None:
    box = make_box(metas=2, meta_loading=0.3)
    box.set_leader(1, known=False)
    assert query(box).partitions == []
    assert query(box, server=1).err == "ERR_SERVICE_NOT_ACTIVE"
    sleep(0.35)
    assert query(box, server=1).err == "ERR_OK"
    box.set_meta_state("recovering", 1)
    assert query(box, server=1).err == "ERR_UNDER_RECOVERY"
    box.set_leader(None)
    assert [query(box, server=server).err for server in (0, 1)] == ["ERR_FORWARD_TO_OTHERS"] * 2


def test_another_meta_server_leads_after_the_death_of_the_leader(make_box: Make) -> None:
    box = make_box(metas=3, meta_failover_delay=0.3, meta_loading=0.0)
    box.kill_meta(0)
    with pytest.raises(ConnectionRefusedError):
        query(box)
    [forward] = query(box, server=1).partitions
    assert forward.hp_primary == box.meta_addresses[0]
    sleep(0.4)
    assert query(box, server=1).err == "ERR_OK"
    [forward] = query(box, server=2).partitions
    assert forward.hp_primary == box.meta_addresses[1]
    box.restart_meta(0)
    assert query(box).err == "ERR_FORWARD_TO_OTHERS"


def test_a_lone_meta_server_comes_back(make_box: Make) -> None:
    box = make_box(meta_loading=0.0)
    box.kill_meta()
    sleep(0.05)
    box.restart_meta()
    assert query(box).err == "ERR_OK"


def test_a_paused_leader_is_replaced_and_answers_late(make_box: Make) -> None:
    box = make_box(metas=2, meta_failover_delay=0.02, meta_loading=0.0)
    with Raw(box.meta_addresses[0]) as raw:
        box.pause_meta(0)
        raw.send(rpcs.QUERY_CFG, meta.QueryCfgRequest("temp"))
        assert raw.is_silent()
        assert query(box, server=1).err == "ERR_OK"
        box.resume_meta(0)
        reply, _ = raw.reply()
        assert reply.error == "ERR_OK"


def test_negotiation_is_not_needed(box: Onebox) -> None:
    for address in (*box.meta_addresses, *box.replica_addresses):
        with Raw(address) as raw:
            error, answer = raw.call(rpcs.NEGOTIATION, meta.Negotiation(1))
            assert (error, answer.status, answer.msg) == ("ERR_OK", 9, b"")


def test_requests_for_replica_servers_are_refused(box: Onebox) -> None:
    with Raw(box.meta_addresses[0]) as raw:
        assert raw.call(rpcs.GET, b"\0\1ab") == ("ERR_HANDLER_NOT_FOUND", None)
        assert raw.call(Rpc("RPC_CM_NO_SUCH", BLOB_TYPE, None, label="x"), b"")[0] == "ERR_HANDLER_NOT_FOUND"
        assert raw.call(rpcs.LIST_APPS, meta.ListAppsRequest(), app_id=-1)[0] == "ERR_OK"
        assert box.client_bugs == []
        assert raw.call(rpcs.GET, b"\0\1ab", app_id=1) == ("ERR_HANDLER_NOT_FOUND", None)
        assert len(box.client_bugs) == 1


# --------------------------------------------------------------------------------------------------------------- tables
def test_a_created_table_is_served_after_a_moment(make_box: Make) -> None:
    box = make_box(tables={}, assign_delay=0.3)
    assert create(box, "t", 3) == meta.CreateAppResponse(appid=1)
    answer = query(box, "t")
    assert [(part.primary, part.ballot, part.secondaries) for part in answer.partitions] == [(0, 0, [])] * 3
    assert {part.hp_primary for part in answer.partitions} == {None}
    assert [part.hp_secondaries for part in answer.partitions] == [[]] * 3
    states: list[list[tuple[int, int]]] = []
    with gevent.Timeout(30):
        while not states or states[-1] != [(2, 3)] * 3:
            state = [(len(part.secondaries), part.ballot) for part in query(box, "t").partitions]
            if state not in states:
                states.append(state)
            gevent.sleep(0.01)
    assert states == [[(0, 0)] * 3, [(0, 1)] * 3, [(2, 3)] * 3]


def test_create_errors(box: Onebox) -> None:
    assert create(box, "temp", 8).err == "ERR_APP_EXIST"
    assert create(box, "temp", 8, success_if_exist=True) == meta.CreateAppResponse(appid=1)
    assert create(box, "temp", 4, success_if_exist=True).err == "ERR_INVALID_PARAMETERS"
    assert (
        create(box, "t", 0).err == create(box, "t", 4, 4).err == create(box, "t", 4, 0).err == "ERR_INVALID_PARAMETERS"
    )
    assert create(box, "t", envs={"rocksdb.num_levels": "99"}).err == "ERR_INVALID_PARAMETERS"
    assert create(box, "t", envs={"no.such": "x"}).err == "ERR_OK"
    assert box.client_bugs == []
    assert create(box, "u", envs={"default_ttl": "0"}).err == "ERR_INVALID_PARAMETERS"
    assert len(box.client_bugs) == 1
    assert create(box, "u", envs={"default_ttl": "abc"}).err == "ERR_OK"
    assert create(box, "u", envs={"default_ttl": "1"}).err == "ERR_APP_EXIST"
    assert len(box.client_bugs) == 1
    assert create(box, "").err == "ERR_OK"
    box.kill(0)
    sleep(0.15)
    assert create(box, "v", 4, 2).err == "ERR_STATE_FREEZED"


def test_drop_and_recall(box: Onebox) -> None:
    table = Routed(box)
    table.put(b"k", b"s", b"v")
    old_address, old_route = table.route(b"k")
    assert drop(box, "temp") == "ERR_OK"
    assert drop(box, "temp") == "ERR_APP_NOT_EXIST"
    assert drop(box, "temp", missing_ok=True) == "ERR_OK"
    assert query(box).err == "ERR_OBJECT_NOT_FOUND"
    assert table.raw(old_address).call(rpcs.GET, b"\0\1ks", **old_route) == ("ERR_OBJECT_NOT_FOUND", None)
    [info] = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos
    assert (info.status, info.app_id, info.expire_second - info.drop_second) == (6, 1, 604800)
    assert create(box, "temp", 2).appid == 2
    assert recall(box, 1).err == "ERR_INVALID_PARAMETERS"
    assert recall(box, 7).err == "ERR_APP_NOT_EXIST"
    assert recall(box, 2).err == "ERR_APP_EXIST"
    answer = recall(box, 1, "back")
    assert (answer.err, answer.info.app_name, answer.info.partition_count) == ("ERR_OK", "back", 8)
    routes = query(box, "back").partitions
    assert all(part.primary == 0 and part.ballot > 3 for part in routes)
    sleep(0.2)
    table.name = "back"
    assert table.get(b"k", b"s") == b"v"
    assert all(len(part["secondaries"]) == 2 for part in box.partitions("back"))
    table.close()


def recall(box: Onebox, app_id: int, name: str = "") -> meta.RecallAppResponse:
    return ask(box, rpcs.RECALL_APP, meta.RecallAppRequest(app_id, name))


def test_recall_after_the_reserve_time_or_before_there_were_replicas(box: Onebox) -> None:
    assert drop(box, "temp", reserve=10) == "ERR_OK"
    box.advance(11)
    assert ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos == []
    assert recall(box, 1).err == "ERR_APP_NOT_EXIST"
    assert create(box, "new").appid == 2
    assert drop(box, "new") == "ERR_OK"
    refused = recall(box, 2)
    assert refused.err == "ERR_INVALID_PARAMETERS"
    # Fields with a default in the IDL are sent even without a table.
    assert (refused.info.duplicating, refused.info.atomic_idempotent) == (False, False)
    assert len(box.client_bugs) == 1


def test_a_reserve_time_of_zero_means_the_default(box: Onebox) -> None:
    assert drop(box, "temp", reserve=0) == "ERR_OK"
    box.advance(1000)
    assert recall(box, 1).err == "ERR_OK"


def test_rename(box: Onebox) -> None:
    def rename(old: str, new: str) -> str:
        return ask(box, rpcs.RENAME_APP, meta.RenameAppRequest(old, new)).err

    box.create_table("other", 2)
    assert rename("nope", "x") == "ERR_APP_NOT_EXIST"
    assert rename("temp", "other") == rename("temp", "temp") == "ERR_INVALID_PARAMETERS"
    assert rename("temp", "new") == "ERR_OK"
    assert (query(box, "temp").err, query(box, "new").app_id) == ("ERR_OBJECT_NOT_FOUND", 1)


def test_list_apps(box: Onebox) -> None:
    def names(status: int = 0, pattern: str | None = None, kind: int | None = None) -> list[str]:
        answer = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest(status, pattern, kind))
        assert answer.err == "ERR_OK"
        return [info.app_name for info in answer.infos]

    box.create_table("template", 1)
    box.create_table("contempt", 1)
    box.drop_table("contempt")
    assert names() == ["temp", "template", "contempt"]
    assert (names(1), names(6)) == (["temp", "template"], ["contempt"])
    assert names(0, "temp", 1) == names(0, "", 2) == names(0, "temp") == names()
    assert (names(0, "temp", 2), names(0, "plate", 5), names(1, "emp", 3)) == (["temp"], ["template"], names(1))
    assert names(0, "tem", 4) == ["temp", "template"]
    for kind in (0, 6, 99):
        answer = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest(0, "t", kind))
        assert (answer.err, bool(answer.hint_message)) == ("ERR_NOT_IMPLEMENTED", True)
    info = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos[0]
    assert (info.status, info.app_type, info.is_stateful, info.max_replica_count) == (1, "pegasus", True, 3)
    assert (info.init_partition_count, info.atomic_idempotent, info.duplicating) == (-1, False, False)


def test_nodes_and_cluster_info(box: Onebox) -> None:
    box.kill(1)
    sleep(0.15)
    nodes = ask(box, rpcs.LIST_NODES, meta.ListNodesRequest()).infos
    assert [node.status for node in nodes] == [1, 1, 2]
    assert nodes[2].hp_node == format_address(nodes[2].node) == box.replica_addresses[1]
    assert len(ask(box, rpcs.LIST_NODES, meta.ListNodesRequest(2)).infos) == 1
    info = ask(box, rpcs.CLUSTER_INFO, meta.ClusterInfoRequest())
    facts = dict(zip(info.keys, info.values, strict=True))
    assert list(facts) == [
        "meta_servers", "primary_meta_server", "zookeeper_hosts", "zookeeper_root", "meta_function_level",
        "balance_operation_count", "primary_replica_count_stddev", "total_replica_count_stddev", "cluster_name",
    ]  # fmt: skip
    assert (facts["primary_meta_server"], facts["meta_function_level"]) == (box.meta_addresses[0], "steady")
    assert ask(box, rpcs.CONTROL_META, meta.MetaControlRequest(300)) == meta.MetaControlResponse(old_level=400)
    assert create(box, "t", 1, 1).err == "ERR_STATE_FREEZED"


# ----------------------------------------------------------------------------------------------------------------- envs
def test_envs(box: Onebox) -> None:
    def envs() -> dict[str, str]:
        return ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos[0].envs

    assert set_env(box, ["default_ttl", "business.info"], ["7", "x"]).err == "ERR_OK"
    assert envs() == {"business.info": "x", "default_ttl": "7"}
    for keys, values, hinted in (
        (["no.such"], ["1"], True),
        (["default_ttl"], ["abc"], True),
        (["default_ttl"], [], False),
        ([], [], False),
        (None, None, False),
    ):
        answer = set_env(box, keys, values)
        assert (answer.err, bool(answer.hint_message)) == ("ERR_INVALID_PARAMETERS", hinted), keys
    assert set_env(box, ["default_ttl"], None, op=2).err == "ERR_OK"
    gone = set_env(box, ["default_ttl"], None, op=2)
    assert (gone.err, bool(gone.hint_message)) == ("ERR_OK", True)
    set_env(box, ["manual_compact.disabled", "replica.slow_query_threshold"], ["true", "20"])
    assert set_env(box, None, None, op=3).err == "ERR_INVALID_PARAMETERS"
    assert set_env(box, None, None, op=3, clear_prefix="manual_compact").err == "ERR_OK"
    assert envs() == {"business.info": "x", "replica.slow_query_threshold": "20"}
    assert set_env(box, None, None, op=3, clear_prefix="").err == "ERR_OK"
    assert envs() == {}
    assert set_env(box, ["x"], ["y"], op=0).err == "ERR_INVALID_PARAMETERS"
    request = meta.UpdateAppEnvRequest("nope", 1, ["default_ttl"], ["1"])
    assert ask(box, rpcs.UPDATE_APP_ENV, request).err == "ERR_APP_NOT_EXIST"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("replica.slow_query_threshold", ("20",), ("19", "x", "")),
        ("replica.deny_client_request", ("timeout*all", "reconfig*read"), ("timeout", "all", "timeout*x", "")),
        (
            "replica.write_throttling",
            ("100*delay*10,200*reject*0", "5K*reject*1"),
            ("100", "1*x*2", "1*delay*2,1*delay*2"),
        ),
        (
            "replica.read_throttling_by_size",
            ("2000", "20K", "1M", "5*delay*1", "5*delay*1,9*reject*2"),
            ("x", "1G", "-1", "0", "0*reject*1"),
        ),
        ("replica.split.validate_partition_hash", ("true", "false"), ("1", "True")),
        ("default_ttl", ("0", "2147483647"), ("-1", "2147483648", "1.5", "1_0")),
        ("rocksdb.usage_scenario", ("bulk_load",), ("fast",)),
        ("manual_compact.periodic.trigger_time", ("3:00,21:30", "soon"), ()),
        ("manual_compact.once.target_level", ("-1", "1", "80"), ("0", "-2")),
    ],
)
def test_values_of_envs(box: Onebox, name: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    assert [set_env(box, [name], [value]).err for value in good] == ["ERR_OK"] * len(good)
    assert [set_env(box, [name], [value]).err for value in bad] == ["ERR_INVALID_PARAMETERS"] * len(bad)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("not_exist_env", "500", "app_env 'not_exist_env' is not supported"),
        ("replica.write_throttling", "20A*delay*100", "'20A' should be an unsigned integer"),
        ("replica.write_throttling", "", "The value shouldn't be empty"),
        ("replica.write_throttling", "20A*delay", "The field count of '20A*delay' separated by '*' must be 3"),
        ("replica.write_throttling", "20K*pass*100", "'pass' should be 'delay' or 'reject'"),
        ("replica.write_throttling", "20K*delay*-100", "'-100' should be an unsigned integer"),
        ("replica.write_throttling", "2K*delay*1,3K*delay*1", "duplicate 'delay' config"),
        ("replica.write_throttling", f"{1 << 60}K*delay*1", f"'{1 << 60}' result is overflow"),
        ("replica.read_throttling_by_size", "0*reject*1", "reject value should be greater than 0"),
        ("replica.slow_query_threshold", "19", "invalid value '19', should be '>= 20'"),
        ("replica.slow_query_threshold", "x", "invalid value 'x', should be an 64 bits integer"),
        ("default_ttl", "2147483648", "invalid value '2147483648', should be an 32 bits integer"),
        ("rocksdb.write_buffer_size", "100", "invalid value '100', should be 'In range [16777216, 536870912]'"),
        ("rocksdb.usage_scenario", "fast", "bulk_load | normal | prefer_write"),
        ("manual_compact.disabled", "1", "invalid value '1', should be a boolean"),
        ("manual_compact.once.bottommost_level_compaction", "x", "force | skip"),
    ],
)
def test_hints_about_envs(box: Onebox, name: str, value: str, hint: str) -> None:
    answer = set_env(box, [name], [value])
    assert (answer.err, answer.hint_message) == ("ERR_INVALID_PARAMETERS", hint)


def test_envs_reach_the_replica_servers_after_a_delay(make_box: Make) -> None:
    box = make_box(env_delay=0.3)
    table = Routed(box)
    set_env(box, ["replica.deny_client_request"], ["reconfig*all"])
    assert table.get(b"k", b"s") is None
    sleep(0.4)
    assert table.get(b"k", b"s") == "ERR_INVALID_STATE"
    table.close()


# ------------------------------------------------------------------------------------------- compaction, replica counts
def test_compaction(box: Onebox) -> None:
    def state(name: str = "temp") -> tuple[str, int | None]:
        answer = ask(box, rpcs.QUERY_MANUAL_COMPACT, meta.AppNameRequest(name))
        return answer.err, answer.progress

    assert (state(), state("nope")) == (("ERR_INVALID_STATE", None), ("ERR_APP_NOT_EXIST", None))
    assert ask(box, rpcs.START_MANUAL_COMPACT, meta.StartManualCompactRequest("nope")).err == "ERR_APP_NOT_EXIST"
    request = meta.StartManualCompactRequest("temp", target_level=-2)
    assert ask(box, rpcs.START_MANUAL_COMPACT, request).err == "ERR_INVALID_PARAMETERS"
    set_env(box, ["manual_compact.disabled"], ["true"])
    request = meta.StartManualCompactRequest("temp")
    assert ask(box, rpcs.START_MANUAL_COMPACT, request).err == "ERR_OPERATION_DISABLED"
    set_env(box, ["manual_compact.disabled"], ["false"])
    box.configure(compaction_seconds=600)
    assert ask(box, rpcs.START_MANUAL_COMPACT, request).err == "ERR_OK"
    assert state() == ("ERR_OK", 0)
    box.configure(compaction_seconds=0.06)
    ask(box, rpcs.START_MANUAL_COMPACT, request)
    with gevent.Timeout(20):
        while (seen := state()) != ("ERR_OK", 100):
            assert seen in [("ERR_OK", progress) for progress in (0, 33, 66)]
            gevent.sleep(0.005)
    box.configure(compaction_seconds=0)
    ask(box, rpcs.START_MANUAL_COMPACT, request)
    assert state() == ("ERR_OK", 100)


def test_a_compaction_of_a_table_with_missing_replicas_has_no_known_state(make_box: Make) -> None:
    box = make_box(replicas=3, rejoin_delay=60, heal_delay=60)
    box.kill(0)
    sleep(0.4)
    answer = ask(box, rpcs.QUERY_MANUAL_COMPACT, meta.AppNameRequest("temp"))
    assert (answer.err, answer.progress) == ("ERR_OK", 0)


def test_replica_count(box: Onebox) -> None:
    def change(count: int, name: str = "temp") -> tuple[str, int]:
        answer = ask(box, rpcs.SET_MAX_REPLICA_COUNT, meta.SetMaxReplicaCountRequest(name, count))
        return answer.err, answer.old_max_replica_count

    assert ask(box, rpcs.GET_MAX_REPLICA_COUNT, meta.AppNameRequest("temp")).max_replica_count == 3
    assert change(1) == ("ERR_OK", 3)
    assert [len(part["secondaries"]) for part in box.partitions("temp")] == [0] * 8
    assert change(2) == ("ERR_OK", 1)
    assert [len(part["secondaries"]) for part in box.partitions("temp")] == [1] * 8
    assert [change(count)[0] for count in (0, 4)] == ["ERR_INVALID_PARAMETERS"] * 2
    assert change(1, "nope")[0] == "ERR_APP_NOT_EXIST"


def test_atomic_idempotent(box: Onebox) -> None:
    answer = ask(box, rpcs.SET_ATOMIC_IDEMPOTENT, meta.SetAtomicIdempotentRequest("temp", True))
    assert answer == meta.SetAtomicIdempotentResponse(old_atomic_idempotent=False)
    assert ask(box, rpcs.GET_ATOMIC_IDEMPOTENT, meta.AppNameRequest("temp")).atomic_idempotent is True
    assert ask(box, rpcs.GET_ATOMIC_IDEMPOTENT, meta.AppNameRequest("nope")).err == "ERR_APP_NOT_EXIST"


def test_host_names_are_sent_in_the_fields_that_exist_for_them(make_box: Make) -> None:
    box = make_box(metas=2, tables={"temp": 1}, advertise="localhost")
    [part] = query(box).partitions
    assert part.hp_primary == f"localhost:{part.primary >> 16 & 0xFFFF}"
    assert format_address(part.primary).startswith("127.0.0.1:")
    [forward] = query(box, server=1).partitions
    assert str(forward.hp_primary).startswith("localhost:")
    table = Routed(box)
    assert table.call(rpcs.GET, b"k", b"\0\1ks")[1].server == part.hp_primary
    box = make_box(release="2.5", advertise="localhost")
    assert Routed(box).call(rpcs.GET, b"k", b"\0\1ks")[1].server.startswith("127.0.0.1:")


def test_connections_above_the_limit_are_closed(make_box: Make) -> None:
    box = make_box(max_connections=2)
    first, second = Raw(box.meta_addresses[0]), Raw(box.meta_addresses[0])
    assert [raw.call(rpcs.LIST_NODES, meta.ListNodesRequest())[0] for raw in (first, second)] == ["ERR_OK"] * 2
    with pytest.raises((EOFError, ConnectionResetError)):
        Raw(box.meta_addresses[0]).frame()
