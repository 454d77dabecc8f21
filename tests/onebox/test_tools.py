"""Test the requests of operators' tools: remote commands, disks, proposals, diagnosis, HTTP pages, hints."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import socket

from pegasus_green.onebox import Onebox
from pegasus_green.onebox.replication import groups
from pegasus_green.protocol import meta, remote
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol.framing import encode_request
from tests.onebox.raw import OPEN, Raw, Routed, ask, sleep

Make = Callable[..., Onebox]


def command(address: str, name: str, *arguments: str) -> str:
    """Run a remote command, the request and the reply as plain bytes."""

    def text(value: str) -> bytes:
        return struct.pack(">i", len(value)) + value.encode()

    inner = b"\x0b\0\1" + text(name) + b"\x0f\0\2\x0b" + struct.pack(">i", len(arguments))
    inner += b"".join(map(text, arguments)) + b"\0"
    body = struct.pack(">I", 0x80010001) + text("RPC_CLI_CLI_CALL") + struct.pack(">i", 7) + b"\x0c\0\1" + inner + b"\0"
    head = struct.pack(">4siiiIiiiiiQ", b"THFT", 0, 48, 0, len(body), 0, 0, 0, 1000, 0, 0)
    with Raw(address) as raw:
        raw.sock.sendall(head + body)
        frame = raw.frame()
    start = text("ERR_OK") + struct.pack(">I", 0x80010002) + text("RPC_CLI_CLI_CALL_ACK") + struct.pack(">i", 7)
    assert frame[4:].startswith(start + b"\x0b\0\0")
    rest = frame[4 + len(start) + 3 :]
    (size,) = struct.unpack_from(">i", rest)
    assert rest[4 + size :] == b"\0"
    return rest[4 : 4 + size].decode()


def http(address: str, *targets: str, chunk: int = 65536) -> list[tuple[int, dict[str, str], str]]:
    """Ask for pages over one connection; return status, headers and body of each."""
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=5)
    OPEN.append(sock)
    sent = "".join(f"GET {target} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n\r\n" for target in targets).encode()
    for pos in range(0, len(sent), chunk):
        sock.sendall(sent[pos : pos + chunk])
        gevent.sleep(0)
    stream, found = sock.makefile("rb"), []
    for _ in targets:
        line, headers = stream.readline().decode().split(" ", 2), {}
        while (header := stream.readline().decode().strip()) != "":
            name, _, value = header.partition(": ")
            headers[name] = value
        found.append((int(line[1]), headers, stream.read(int(headers["Content-Length"])).decode()))
    return found


def body(address: str, target: str) -> Any:
    [(status, headers, text)] = http(address, target)
    assert (status, headers["Content-Type"]) == (200, "text/plain")
    return json.loads(text)


# ------------------------------------------------------------------------------------------------------ remote commands
@pytest.mark.parametrize("kind", ["meta", "replica"])
def test_remote_commands(box: Onebox, kind: str) -> None:
    address = box.meta_addresses[0] if kind == "meta" else box.replica_addresses[1]
    info = json.loads(command(address, "server-info"))
    assert list(info) == ["build_type", "git_SHA", "start_time", "version"]
    assert info["version"] == "2.6.0"
    lines = command(address, "help").splitlines()
    assert "help|h|H|Help - Display help information" in lines
    assert any(line.startswith("meta.live_percentage - ") for line in lines) == (kind == "meta")
    assert command(address, "help", "server-info") == "server-info - Query server information\nserver-info \n"
    assert command(address, "nosuch", "x") == "unknown command 'nosuch'"
    assert command(address, "server-stat").startswith(f"{kind}*onebox*connections=")
    assert box.client_bugs == []


def test_a_command_that_only_meta_servers_know(box: Onebox) -> None:
    answer = '{\n  "error": "ok",\n  "meta.live_percentage": "65"\n}'
    assert command(box.meta_addresses[0], "meta.live_percentage") == answer
    assert command(box.replica_addresses[0], "meta.live_percentage") == "unknown command 'meta.live_percentage'"


def test_the_older_release_reports_its_version_as_text(make_box: Make) -> None:
    box = make_box(release="2.5")
    assert command(box.meta_addresses[0], "server-info").startswith(
        "Pegasus Server 2.5.0 (onebox) Release, Started at "
    )


def test_faults_reach_remote_commands(box: Onebox) -> None:
    box.fault("error", rpc="remote_command", error="ERR_ACL_DENY")
    with Raw(box.meta_addresses[0]) as raw:
        assert raw.call(rpcs.CLI_CALL, remote.CommandRequest("help"))[0] == "ERR_ACL_DENY"


# ---------------------------------------------------------------------------------------------------------------- disks
def test_disk_info(box: Onebox) -> None:
    def query(server: int, name: str = "") -> Any:
        with Raw(box.replica_addresses[server]) as raw:
            error, answer = raw.call(rpcs.QUERY_DISK_INFO, remote.QueryDiskInfoRequest(app_name=name))
        assert error == "ERR_OK"
        return answer

    box.create_table("other", 2)
    for name, apps in (("", {1, 2}), ("temp", {1}), ("other", {2})):
        primaries: set[int] = set()
        for server in range(3):
            answer = query(server, name)
            [disk] = answer.disk_infos
            assert answer.err == "ERR_OK"
            assert 0 < disk.disk_available_mb <= disk.disk_capacity_mb == answer.total_capacity_mb
            found = disk.holding_primary_replicas
            assert set(found) <= apps
            primaries.update(gpid for gpids in found.values() for gpid in gpids)
            assert set(disk.holding_secondary_replicas) == apps
        wanted = {(1, index) for index in range(8)} | {(2, 0), (2, 1)}
        assert {meta.split_gpid(gpid) for gpid in primaries} == {gpid for gpid in wanted if gpid[0] in apps}
    assert query(0, "nope").err == "ERR_OBJECT_NOT_FOUND"
    with Raw(box.meta_addresses[0]) as raw:
        assert raw.call(rpcs.QUERY_DISK_INFO, remote.QueryDiskInfoRequest())[0] == "ERR_HANDLER_NOT_FOUND"


# ------------------------------------------------------------------------------------------------------------ proposals
def raw_of(address: str) -> int:
    host, _, port = address.rpartition(":")
    return meta.make_address(host, int(port))


def propose(box: Onebox, index: int, *steps: tuple[int, str, str], **options: Any) -> str:
    actions = [
        remote.ProposalAction(raw_of(target) if target else 0, raw_of(node), kind) for kind, target, node in steps
    ]
    return ask(box, rpcs.PROPOSE_BALANCER, remote.BalancerRequest(meta.make_gpid(1, index), actions, **options)).err


def becomes(box: Onebox, index: int, primary: str, secondaries: set[str]) -> None:
    with gevent.Timeout(10):
        while True:
            part = box.partitions("temp")[index]
            if (part["primary"], set(part["secondaries"])) == (primary, secondaries):
                return
            gevent.sleep(0.01)


def test_a_proposal_moves_a_primary(make_box: Make) -> None:
    box = make_box(tables={"temp": 2}, assign_delay=0.02)
    Routed(box).put(b"user1", b"name", b"v")
    part = box.partitions("temp")[0]
    old: str = part["primary"]
    new, other = part["secondaries"]
    assert propose(box, 0, (5, old, old), (2, new, new)) == "ERR_OK"
    assert propose(box, 0, (5, old, old), (2, new, new)) == "ERR_INVALID_PARAMETERS", "one at a time"
    becomes(box, 0, new, {old, other})
    assert box.row_count("temp") == 1


def test_a_proposal_copies_replicas(make_box: Make) -> None:
    box = make_box(replicas=4, tables={"temp": 1}, assign_delay=0.02)
    [part] = box.partitions("temp")
    [free] = set(box.replica_addresses) - {part["primary"], *part["secondaries"]}
    gone, stays = part["secondaries"]
    assert propose(box, 0, (8, "", free), (6, "", gone)) == "ERR_OK"
    becomes(box, 0, part["primary"], {stays, free})
    assert propose(box, 0, (8, part["primary"], gone), (5, *[part["primary"]] * 2), (2, gone, gone)) == "ERR_OK"
    becomes(box, 0, gone, {part["primary"], stays, free})


def test_invalid_proposals_are_refused_or_have_no_effect(make_box: Make) -> None:
    box = make_box(replicas=1, tables={"temp": 1}, assign_delay=0.01, failover_delay=0.02)
    [address] = box.replica_addresses
    assert propose(box, 1, (2, address, address)) == "ERR_INVALID_PARAMETERS"
    request = remote.BalancerRequest(meta.make_gpid(9, 0), [])
    assert ask(box, rpcs.PROPOSE_BALANCER, request).err == "ERR_INVALID_PARAMETERS"
    assert propose(box, 0, (2, "127.0.0.1:1", "127.0.0.1:1"), (3, address, address)) == "ERR_OK"
    sleep(0.05)
    becomes(box, 0, address, set())
    box.kill(0)
    with gevent.Timeout(10):
        while box.partitions("temp")[0]["primary"] is not None:
            gevent.sleep(0.01)
    assert propose(box, 0, (3, "", address)) == "ERR_INVALID_PARAMETERS"
    lost = ask(box, rpcs.DIAGNOSE, remote.DiagnoseRequest(meta.make_gpid(-1, -1))).partitions
    assert [(meta.split_gpid(item.config.pid), len(item.dropped)) for item in lost] == [((1, 0), 1)]
    assert not lost[0].dropped[0].is_alive
    assert ask(box, rpcs.DIAGNOSE, remote.DiagnoseRequest(meta.make_gpid(2, -1))).partitions == []
    assert box.errors == []


def test_a_cluster_at_level_lively_balances_itself(make_box: Make) -> None:
    box = make_box(tables={"temp": 3}, assign_delay=0.01)
    for index in range(3):
        box.move_primary("temp", index, 0)
    moves = json.loads(ask(box, rpcs.CLUSTER_INFO, meta.ClusterInfoRequest()).values[5])
    assert moves["move_pri"] == moves["total"] > 0
    assert ask(box, rpcs.CONTROL_META, meta.MetaControlRequest(500)).old_level == 400
    with gevent.Timeout(10):
        while len({part["primary"] for part in box.partitions("temp")}) < 3:
            gevent.sleep(0.01)


# ---------------------------------------------------------------------------------------------------------------- pages
def test_http_pages_of_both_kinds_of_servers(box: Onebox) -> None:
    for address in (box.meta_addresses[0], box.replica_addresses[0]):
        assert body(address, "/version") == {"Version": "2.6.0", "GitCommit": "onebox"}
        assert body(address, "/updateConfig?a=b") == {"update_status": "ERR_OBJECT_NOT_FOUND: a is not found"}
        [(status, _, text)] = http(address, "/nosuch")
        assert (status, text) == (404, 'service not found for "nosuch"')
        [(status, _, text)] = http(address, "/metrics?entities=x")
        assert (status, text) == (400, '{\n    "error_message": "unknown field entities=x"\n}')
    assert body(box.meta_addresses[0], "/updateConfig?failover_delay=0.5") == {"update_status": "ERR_OK"}
    assert box.settings.failover_delay == 0.5
    answer = body(box.meta_addresses[0], "/updateConfig?failover_delay=soon")
    assert answer["update_status"].startswith("ERR_INVALID_PARAMETERS: failover_delay must be a number")
    assert (box.client_bugs, box.errors) == ([], [])


def test_http_pages_of_meta_servers(box: Onebox) -> None:
    address = box.meta_addresses[0]
    general = {"app_name": "temp", "app_id": "1", "partition_count": "8", "max_replica_count": "3"}
    assert body(address, "/meta/app?name=temp") == {"general": general}
    detail = body(address, "/meta/app?name=temp&detail")
    assert detail["general"] == general
    assert detail["replicas"]["0"]["primary"] == box.partitions("temp")[0]["primary"]
    assert detail["healthy"]["fully_healthy_partition_count"] == "8"
    assert http(address, "/meta/app?name=nosuch")[0][::2] == (404, 'table not found: "nosuch"')
    row = body(address, "/meta/apps")["general_info"]["1"]
    assert list(row) == [
        "app_id", "status", "app_name", "app_type", "partition_count", "replica_count", "is_stateful", "create_time",
        "drop_time", "drop_expire", "envs_count",
    ]  # fmt: skip
    assert (row["status"], row["drop_time"]) == ("AVAILABLE", "-")
    facts = body(address, "/meta/cluster")
    assert facts["primary_meta_server"] == address
    assert json.loads(facts["balance_operation_count"]) == {"copy_pri": 0, "copy_sec": 0, "move_pri": 0, "total": 0}
    box.kill(2)
    with gevent.Timeout(10):
        while body(address, "/meta/nodes")["summary"]["unalive_node_count"] != "1":
            gevent.sleep(0.01)
    assert body(address, "/meta/nodes")["details"][box.replica_addresses[2]]["status"] == "UNALIVE"
    assert http(box.replica_addresses[0], "/meta/nodes")[0][0] == 404


def test_settings_are_the_configuration_of_both_kinds(box: Onebox) -> None:
    for address, section in ((box.meta_addresses[0], "meta_server"), (box.replica_addresses[0], "replication")):
        found = body(address, "/configs")
        assert sorted(found) == sorted(box.settings.__dataclass_fields__)
        one = body(address, "/config?name=failover_delay")
        assert one == found["failover_delay"]
        assert list(one) == ["name", "section", "type", "tags", "description", "value"]
        assert (one["section"], one["type"], one["tags"]) == (section, "FV_DOUBLE", "flag_tag::FT_MUTABLE")
        assert one["description"].startswith("From the death or silence of a replica server")
        assert float(one["value"]) == box.settings.failover_delay
        assert (found["strict"]["type"], found["strict"]["value"]) == ("FV_BOOL", "false")
        assert (found["min_replicas"]["value"], found["max_connections"]["type"]) == ("null", "FV_INT64")
        assert http(address, "/config?name=nosuch")[0][::2] == (200, "ERR_OBJECT_NOT_FOUND: nosuch is not found")
        assert [http(address, target)[0][0] for target in ("/configs?a=b", "/config?nosuch=x")] == [400, 400]
        several = body(address, "/updateConfig?strict=true&max_connections=1")["update_status"]
        assert several == "ERR_INVALID_PARAMETERS: there should be exactly one config to be updated once"
        assert list(body(address, "/recentStartTime")) == ["RecentStartTime"]
    body(box.meta_addresses[0], "/updateConfig?max_connections=1000")
    assert body(box.replica_addresses[0], "/config?name=max_connections")["value"] == "1000"


def test_the_index_page_lists_all_pages(box: Onebox) -> None:
    metas, replicas = body(box.meta_addresses[0], "/"), body(box.replica_addresses[0], "/")
    assert set(metas) - set(replicas) == {
        *("/envs/list", "/meta/app", "/meta/app_envs", "/meta/apps", "/meta/cluster", "/meta/nodes")
    }
    for address, pages in ((box.meta_addresses[0], metas), (box.replica_addresses[0], replicas)):
        assert all(pages.values())
        assert 404 not in [http(address, page)[0][0] for page in pages if page != "/meta/app"]
    assert body(box.meta_addresses[0], "//meta///apps/") == body(box.meta_addresses[0], "/meta/apps")


def test_the_health_of_tables_and_nodes(box: Onebox) -> None:
    address = box.meta_addresses[0]
    box.create_table("gone", 2)
    box.drop_table("gone")
    page = body(address, "/meta/apps?detail")
    health = {"fully_healthy": "8", "unhealthy": "0", "write_unhealthy": "0", "read_unhealthy": "0"}
    assert page["healthy_info"] == {"1": {"app_id": "1", "app_name": "temp", "partition_count": "8", **health}}
    assert (page["summary"]["total_app_count"], page["summary"]["fully_healthy_app_count"]) == ("1", "1")
    nodes = body(address, "/meta/app?name=temp&detail")["nodes"]
    assert nodes["total"] == {"node": "total", "primary": "8", "secondary": "16", "total": "24"}
    details = body(address, "/meta/nodes?detail")["details"]
    assert {row["replica_count"] for row in details.values()} == {"8"}
    assert sum(int(row["primary_count"]) for row in details.values()) == 8
    box.kill(1)
    box.kill(2)
    with gevent.Timeout(10):
        while (found := body(address, "/meta/apps?detail")["healthy_info"]["1"])["write_unhealthy"] != "8":
            gevent.sleep(0.01)
    assert (found["fully_healthy"], found["unhealthy"]) == ("0", "8")
    for target in ("/meta/apps?x", "/meta/nodes?x", "/meta/app?name=temp&x"):
        assert http(address, target)[0][0] == 400


def test_http_pages_show_envs(box: Onebox) -> None:
    address = box.meta_addresses[0]
    box.set_envs("temp", {"default_ttl": "7"})
    assert body(address, "/meta/app_envs?name=temp") == {"default_ttl": "7"}
    assert body(address, "/meta/app_envs?name=nosuch") == {}
    assert http(address, "/meta/app_envs")[0][::2] == (400, "app name shouldn't be empty")
    known = body(address, "/envs/list")
    assert known["replica.slow_query_threshold"] == {"limitation": ">= 20", "sample": "1000", "type": "unsigned int64"}
    assert known["manual_compact.disabled"] == {"limitation": "true | false", "sample": "true", "type": "bool"}


def test_followers_redirect_http_requests_to_the_leader(make_box: Make) -> None:
    box = make_box(metas=2)
    [(status, headers, _)] = http(box.meta_addresses[1], "/meta/cluster")
    assert (status, headers["Location"]) == (307, f"http://{box.meta_addresses[0]}/meta/cluster")
    [(_, headers, _)] = http(box.meta_addresses[1], "/meta/app?name=temp&detail")
    assert headers["Location"] == f"http://{box.meta_addresses[0]}/meta/app?name=temp&detail="
    assert http(box.meta_addresses[1], "/version")[0][0] == 200
    box.set_leader(None)
    assert http(box.meta_addresses[1], "/meta/cluster")[0][0] == 404


def test_metrics(box: Onebox) -> None:
    Routed(box).put(b"user1", b"name", b"v")
    box.settle()
    page = body(box.replica_addresses[0], "/metrics")
    assert (page["cluster"], page["role"], page["port"]) == ("onebox", "replica", box.servers[0].port)
    replicas = [entity for entity in page["entities"] if entity["type"] == "replica"]
    assert len(replicas) == 8
    keys = [row["value"] for e in replicas for row in e["metrics"] if row["name"] == "rdb_estimated_keys"]
    assert sum(keys) == 1
    some = body(box.replica_addresses[0], "/metrics?types=replica&ids=replica@1.0&metrics=rdb_estimated_keys")
    [entity] = some["entities"]
    assert (entity["id"], entity["attributes"]) == ("replica@1.0", {"partition_id": "0", "table_id": "1"})
    assert [row["name"] for row in entity["metrics"]] == ["rdb_estimated_keys"]


def test_pipelined_http_requests_are_answered_in_order(box: Onebox) -> None:
    targets = ("/version", "/nosuch", "/meta/nodes")
    for chunk in (1, 7, 4096):
        assert [status for status, *_ in http(box.meta_addresses[0], *targets, chunk=chunk)] == [200, 404, 200]


@pytest.mark.parametrize(
    "data", [b"GET / HT\r\n\r\n", b"GET /" + b"x" * 20_000, b"GET / HTTP/1.1\r\n\r\nPOST / x\r\n\r\n"]
)
def test_bytes_that_are_not_http_close_the_connection(box: Onebox, data: bytes) -> None:
    with Raw(box.meta_addresses[0]) as raw:
        raw.sock.sendall(data)
        received = b""
        while not raw.is_over():
            received, raw._data = received + raw._data, b""
    assert received.count(b"HTTP/1.1 400 Bad Request\r\n") == 1
    assert (box.client_bugs, box.errors) == ([], [])


# ---------------------------------------------------------------------------------------------------------------- hints
HINTS: list[tuple[Any, Any, str, str]] = [
    (rpcs.RENAME_APP, meta.RenameAppRequest("no", "x"), "ERR_APP_NOT_EXIST", "ERROR: app(no) not exist!"),
    (
        rpcs.RENAME_APP, meta.RenameAppRequest("temp", "temp"), "ERR_INVALID_PARAMETERS",
        "ERROR: app(temp) already exist!",
    ),
    (
        rpcs.UPDATE_APP_ENV, meta.UpdateAppEnvRequest("no", 1, ["business.info"], ["x"]), "ERR_APP_NOT_EXIST",
        "app cannot be found",
    ),
    (rpcs.UPDATE_APP_ENV, meta.UpdateAppEnvRequest("temp", 2, ["a"]), "ERR_OK", "no key needs to be deleted"),
    (rpcs.START_MANUAL_COMPACT, meta.StartManualCompactRequest("no"), "ERR_APP_NOT_EXIST", "app no is not existed"),
    (
        rpcs.START_MANUAL_COMPACT, meta.StartManualCompactRequest("temp", target_level=-2), "ERR_INVALID_PARAMETERS",
        "invalid target_level(-2), should in range of [-1, num_levels]",
    ),
    (
        rpcs.QUERY_MANUAL_COMPACT, meta.AppNameRequest("temp"), "ERR_INVALID_STATE",
        "app temp is not manual compaction",
    ),
    (rpcs.START_SPLIT, meta.StartSplitRequest("no", 2), "ERR_APP_NOT_EXIST", "app not existed"),
    (
        rpcs.START_SPLIT, meta.StartSplitRequest("temp", 5), "ERR_INVALID_PARAMETERS",
        "wrong partition_count, should be 16",
    ),
    (rpcs.QUERY_SPLIT, meta.AppNameRequest("no"), "ERR_APP_NOT_EXIST", "app(no) not existed"),
    (rpcs.QUERY_SPLIT, meta.AppNameRequest("temp"), "ERR_INVALID_STATE", "app(temp) is not splitting"),
    (
        rpcs.CONTROL_SPLIT, meta.ControlSplitRequest("temp", 0, 1), "ERR_INVALID_STATE",
        "app(temp) is not splitting",
    ),
    (
        rpcs.SET_MAX_REPLICA_COUNT, meta.SetMaxReplicaCountRequest("temp", 9), "ERR_INVALID_PARAMETERS",
        "requested replica count(9) must be within the range of [min=1, max=5]",
    ),
    (
        rpcs.SET_MAX_REPLICA_COUNT, meta.SetMaxReplicaCountRequest("temp", 5), "ERR_INVALID_PARAMETERS",
        "there are not enough alive replica servers(3) for the requested replica count(5)",
    ),
    (
        rpcs.SET_MAX_REPLICA_COUNT, meta.SetMaxReplicaCountRequest("temp", 3), "ERR_OK",
        "no need to update max_replica_count since it's not changed",
    ),
    (rpcs.GET_MAX_REPLICA_COUNT, meta.AppNameRequest("no"), "ERR_APP_NOT_EXIST", "app(no) does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("rpc", "request_", "error", "hint"), HINTS, ids=lambda value: getattr(value, "label", ""))
def test_hints_are_those_of_a_real_server(box: Onebox, rpc: Any, request_: Any, error: str, hint: str) -> None:
    answer = ask(box, rpc, request_)
    text = answer.hint_message if hasattr(answer, "hint_message") else answer.hint_msg
    assert (answer.err, text) == (error, hint)


def test_hints_about_a_running_split(make_box: Make) -> None:
    box = make_box(tables={"temp": 4}, split_seconds=60, split_control_delay=60)
    box.split("temp", stepwise=True)

    def control(kind: int, parent: int, old: int | None = None) -> tuple[str, str | None]:
        answer = ask(box, rpcs.CONTROL_SPLIT, meta.ControlSplitRequest("temp", kind, parent, old))
        return answer.err, answer.hint_msg

    assert control(0, 9) == ("ERR_INVALID_PARAMETERS", "invalid parent partition index(9)")
    assert control(1, 1) == ("ERR_INVALID_STATE", "partition[1] wrong split_status(SPLITTING)")
    assert control(2, -1, 3) == ("ERR_INVALID_PARAMETERS", "wrong partition_count, should be 4")
    box.split_step("temp", 0)
    box.split_step("temp", 0)
    assert control(0, 0) == ("ERR_CHILD_REGISTERED", "partition[0] is not splitting")
    assert control(2, -1, 4) == ("ERR_CHILD_REGISTERED", "some partitions have already finished split")
    assert control(0, -1) == ("ERR_OK", None)
    answer = ask(box, rpcs.START_SPLIT, meta.StartSplitRequest("temp", 16))
    assert (answer.err, answer.hint_message) == ("ERR_BUSY", "app(temp) is already executing partition split")


def test_envs_that_were_deleted_are_named(box: Onebox) -> None:
    request = meta.UpdateAppEnvRequest("temp", 1, ["business.info", "default_ttl"], ["x", "7"])
    assert ask(box, rpcs.UPDATE_APP_ENV, request).hint_message == ""
    answer = ask(box, rpcs.UPDATE_APP_ENV, meta.UpdateAppEnvRequest("temp", 3, clear_prefix=""))
    assert answer.hint_message == "deleted keys:\n    business.info\n    default_ttl"


def test_cluster_info_of_the_older_release(make_box: Make) -> None:
    box = make_box(release="2.5", advertise="localhost")
    info = ask(box, rpcs.CLUSTER_INFO, meta.ClusterInfoRequest())
    facts = dict(zip(info.keys, info.values))
    assert facts["balance_operation_count"] == "move_pri=0,copy_pri=0,copy_sec=0,total=0"
    assert facts["primary_meta_server"].startswith("127.0.0.1:")
    box = make_box(advertise="localhost")
    info = ask(box, rpcs.CLUSTER_INFO, meta.ClusterInfoRequest())
    assert dict(zip(info.keys, info.values))["meta_servers"].startswith("localhost:")


# --------------------------------------------------------------------------------------------------------- odd requests
def test_an_rpc_name_that_is_not_utf8_is_refused(box: Onebox) -> None:
    name = b"RPC_\xff\xfe"
    frame = encode_request(rpcs.LIST_NODES, 3, rpcs.LIST_NODES.encode_argument(meta.ListNodesRequest()), version=0)
    raw_name = rpcs.LIST_NODES.name.encode()
    changed = frame.replace(struct.pack(">i", len(raw_name)) + raw_name, struct.pack(">i", len(name)) + name)
    changed = changed[:16] + struct.pack(">I", len(changed) - 48) + changed[20:]
    for address in (box.meta_addresses[0], box.replica_addresses[0]):
        with Raw(address) as raw:
            raw.sock.sendall(changed)
            reply = raw.frame()
            assert reply[4:].startswith(b"\0\0\0\x15ERR_HANDLER_NOT_FOUND")
            assert name + b"_ACK" in reply
            assert raw.call(rpcs.NEGOTIATION, meta.Negotiation(1))[0] == "ERR_OK"


def test_a_create_request_with_millions_of_partitions_is_refused(box: Onebox) -> None:
    options = meta.CreateAppOptions(2_000_000, 3)
    assert ask(box, rpcs.CREATE_APP, meta.CreateAppRequest("huge", options)).err == "ERR_INVALID_PARAMETERS"


def test_others_are_served_while_a_large_table_is_made(make_box: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "PARTITIONS_PER_PASS", 2)
    box = make_box(tables={"temp": 1}, assign_delay=0.01)
    options = meta.CreateAppOptions(256, 3)
    assert ask(box, rpcs.CREATE_APP, meta.CreateAppRequest("large", options)).err == "ERR_OK"
    seen = set()
    with gevent.Timeout(60):
        while True:
            parts = ask(box, rpcs.QUERY_CFG, meta.QueryCfgRequest("large")).partitions
            seen.add(sum(len(part.secondaries) for part in parts))
            if all(len(part.secondaries) == 2 for part in parts):
                break
    assert len(seen) > 2, "in several passes, requests are answered in between"
