"""Test partition splits: what clients see at each stage, and the rows that a wrong scan loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from pegasus_green.keys import crc64, encode_key
from pegasus_green.onebox import Onebox
from pegasus_green.protocol import meta, rrdb
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol.rpc import Rpc
from tests.onebox.raw import Routed, ask, sleep
from tests.waiting import wait_until

Make = Callable[..., Onebox]
ROWS = 200


@pytest.fixture
def box(make_box: Make) -> Onebox:
    return make_box(tables={"temp": 4})


@pytest.fixture
def table(box: Onebox) -> Iterator[Routed]:
    routed = Routed(box)
    for number in range(ROWS):
        assert routed.put(b"k%d" % number, b"s", b"%d" % number) == "ERR_OK"
    yield routed
    routed.close()


def start(box: Onebox, count: int, name: str = "temp") -> str:
    return ask(box, rpcs.START_SPLIT, meta.StartSplitRequest(name, count)).err


def query(box: Onebox) -> meta.QuerySplitResponse:
    return ask(box, rpcs.QUERY_SPLIT, meta.AppNameRequest("temp"))


def control(box: Onebox, kind: int, parent: int = -1, old: int | None = None) -> str:
    return ask(box, rpcs.CONTROL_SPLIT, meta.ControlSplitRequest("temp", kind, parent, old)).err


def all_there(table: Routed) -> bool:
    return all(table.get(b"k%d" % number, b"s") == b"%d" % number for number in range(ROWS))


def test_a_split_starts_or_is_refused(make_box: Make) -> None:
    box = make_box(tables={"temp": 4}, split_seconds=5.0)
    assert start(box, 8, "nope") == "ERR_APP_NOT_EXIST"
    assert [start(box, count) for count in (4, 6, 16)] == ["ERR_INVALID_PARAMETERS"] * 3
    assert query(box).err == control(box, 0) == "ERR_INVALID_STATE"
    assert start(box, 8) == "ERR_OK"
    assert start(box, 8) == "ERR_INVALID_PARAMETERS"
    assert start(box, 16) == "ERR_BUSY"
    answer = ask(box, rpcs.QUERY_CFG, meta.QueryCfgRequest("temp"))
    assert answer.partition_count == 8
    for child in answer.partitions[4:]:
        assert (child.ballot, child.primary, child.secondaries) == (-1, 0, [])
        assert (child.hp_primary, child.hp_secondaries, child.hp_last_drops) == (None, None, None)
    assert (query(box).new_partition_count, query(box).status) == (8, dict.fromkeys(range(4), 1))
    [info] = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos
    assert info.envs == {"replica.split.validate_partition_hash": "true"}
    assert (info.partition_count, info.init_partition_count) == (8, 4)
    request = meta.DropAppRequest("temp", meta.DropAppOptions())
    assert ask(box, rpcs.DROP_APP, request).err == "ERR_SPLITTING"


def test_a_splitting_table_is_only_dropped_for_good(box: Onebox, table: Routed) -> None:
    """A dropped table has no split, so after a recall its parents and children would stay unfinished."""
    box.split("temp", stepwise=True)
    assert box.split_step("temp", 0) == "window"
    with pytest.raises(ValueError, match="'temp' is splitting: finish or cancel the split, or set reserve_seconds=0"):
        box.drop_table("temp")
    box.finish_split("temp")
    box.drop_table("temp")
    assert ask(box, rpcs.RECALL_APP, meta.RecallAppRequest(1, "temp")).err == "ERR_OK"
    wait_until(lambda: all(part["primary"] for part in box.partitions("temp")))
    assert all_there(table)
    box.split("temp", stepwise=True)
    assert box.split_step("temp", 0) == "window"
    box.drop_table("temp", reserve_seconds=0)
    assert not box.has_table("temp")
    assert ask(box, rpcs.RECALL_APP, meta.RecallAppRequest(1, "temp")).err == "ERR_APP_NOT_EXIST"


def test_each_stage_of_a_split_as_clients_see_it(box: Onebox, table: Routed) -> None:
    key = next(b"k%d" % number for number in range(ROWS) if crc64(b"k%d" % number) % 8 == 5)
    stay = next(b"k%d" % number for number in range(ROWS) if crc64(b"k%d" % number) % 8 == 1)
    parent_ballot = box.partitions("temp")[1]["ballot"]
    box.split("temp", stepwise=True)
    # Clients with the old and with the new partition count work.
    parent = {"app_id": 1, "partition_index": 1, "partition_hash": crc64(key)}
    address = box.partitions("temp")[1]["primary"]
    assert table.raw(address).call(rpcs.GET, encode_key(key, b"s"), **parent)[1].error == 0
    assert all_there(table)
    assert box.split_step("temp", 1) == "window"
    put = rrdb.UpdateRequest(encode_key(key, b"s"), b"new")
    for rpc, argument in ((rpcs.GET, encode_key(stay, b"s")), (rpcs.PUT, put)):
        assert table.raw(address).call(rpc, argument, **parent) == ("ERR_SPLITTING", None)
    assert table.get(b"k0", b"s") == b"0" or crc64(b"k0") % 4 == 1
    assert box.split_step("temp", 1) == "ready"
    assert sorted(box.split_status("temp")) == [0, 2, 3]
    child = box.partitions("temp")[5]
    assert (child["ballot"], child["primary"]) == (parent_ballot + 1, address)
    assert len(child["secondaries"]) == 2
    assert box.partitions("temp")[1]["ballot"] == parent_ballot
    # The parent refuses keys of the child, for every RPC.
    requests: tuple[tuple[Rpc, Any], ...] = (
        (rpcs.GET, encode_key(key, b"s")),
        (rpcs.PUT, put),
        (rpcs.SORTKEY_COUNT, key),
        (rpcs.BATCH_GET, rrdb.BatchGetRequest([rrdb.FullKey(key, b"s")])),
        (rpcs.SCAN, rrdb.ScanRequest(1)),
    )
    for rpc, argument in requests:
        assert table.raw(address).call(rpc, argument, **parent) == ("ERR_PARENT_PARTITION_MISUSED", None)
    assert all_there(table)
    assert table.put(key, b"s", b"new") == "ERR_OK"
    assert table.get(key, b"s") == b"new"
    box.finish_split("temp")
    assert box.split_status("temp") == {}
    assert box.split_step("temp") == "done"
    assert {part["ballot"] for part in box.partitions("temp")} == {3, 4}
    assert query(box).err == "ERR_INVALID_STATE"


def test_a_split_runs_without_steps(make_box: Make) -> None:
    box = make_box(tables={"temp": 4}, split_seconds=0.15, split_window=0.05)
    table = Routed(box)
    assert start(box, 8) == "ERR_OK"
    windows, ready = 0, set()
    for _ in range(4000):
        answers = {table.put(b"k%d" % number, b"s", b"v") for number in range(4)}
        assert answers <= {"ERR_OK", "ERR_SPLITTING"}
        windows += "ERR_SPLITTING" in answers
        gevent.sleep(0.001)
        ready.add(len(box.split_status("temp")))
        if not box.split_status("temp"):
            break
    assert ready == {0, 1, 2, 3, 4}
    assert windows
    assert start(box, 16) == "ERR_OK"
    table.close()


def scan_all(table: Routed, index: int, hashed: int, steps: list[Callable[[], None]]) -> list[bytes]:
    """Scan a partition in batches of 10; run a step after the first batch."""
    request = rrdb.GetScannerRequest(
        b"\0\0", b"\xff\xff", True, False, 10, validate_partition_hash=True, full_scan=True
    )
    route = {"app_id": 1, "partition_index": index, "partition_hash": hashed}
    raw = table.raw(table.box.partitions("temp")[index]["primary"])
    error, answer = raw.call(rpcs.GET_SCANNER, request, **route)
    keys = []
    while True:
        if error != "ERR_OK":
            raise RuntimeError(error)
        keys += [kv.key for kv in answer.kvs]
        if answer.context_id == -1:
            return keys
        if steps:
            steps.pop()()
        error, answer = raw.call(rpcs.SCAN, rrdb.ScanRequest(answer.context_id), **route)


def test_a_scan_with_the_bare_partition_index_loses_rows(box: Onebox, table: Routed) -> None:
    def split() -> None:
        box.split("temp", stepwise=True)
        box.finish_split("temp")

    steps = [split]
    seen = sorted(key for index in range(4) for key in scan_all(table, index, index, steps))
    assert len(seen) == len(set(seen)) < ROWS
    # Scans of all present partitions are complete, and parent and child have no rows of each other.
    seen = [key for index in range(8) for key in scan_all(table, index, index, [])]
    assert len(seen) == len(set(seen)) == ROWS


def test_a_scan_with_index_plus_count_is_refused(box: Onebox, table: Routed) -> None:
    assert len(scan_all(table, 0, 4, [])) > 20
    box.split("temp", stepwise=True)
    assert len(scan_all(table, 0, 4, [])) > 20
    with pytest.raises(RuntimeError, match="ERR_PARENT_PARTITION_MISUSED"):
        scan_all(table, 0, 4, [lambda: box.finish_split("temp")])


def test_a_split_is_paused_restarted_and_cancelled(make_box: Make) -> None:
    box = make_box(tables={"temp": 4}, split_seconds=60, split_control_delay=0.2)
    table = Routed(box)
    table.put(b"k", b"s", b"v")
    start(box, 8)
    assert [control(box, 0, parent) for parent in (4, 7)] == ["ERR_INVALID_PARAMETERS"] * 2
    assert control(box, 9) == "ERR_INVALID_PARAMETERS"
    assert control(box, 1) == "ERR_OK"
    assert control(box, 1, 1) == "ERR_INVALID_STATE"
    assert control(box, 0, 2) == "ERR_OK"
    assert query(box).status == {0: 1, 1: 1, 2: 2, 3: 1}
    assert control(box, 0) == "ERR_OK"
    sleep(0.25)
    assert set(query(box).status.values()) == {3}
    assert control(box, 0) == "ERR_OK"
    assert control(box, 0, 3) == "ERR_INVALID_STATE"
    assert control(box, 1, 3) == "ERR_OK"
    assert query(box).status[3] == 1
    assert [control(box, 2, -1, old) for old in (8, 2, None)] == ["ERR_INVALID_PARAMETERS"] * 3
    assert control(box, 2, -1, 4) == "ERR_OK"
    assert set(query(box).status.values()) == {4}
    assert len(box.partitions("temp")) == 8
    sleep(0.25)
    assert len(box.partitions("temp")) == 4
    assert ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos[0].envs != {}
    assert table.get(b"k", b"s") == b"v"
    box.split("temp", stepwise=True)
    box.split_step("temp", 0)
    box.split_step("temp", 0)
    assert control(box, 2, -1, 4) == "ERR_CHILD_REGISTERED"
    assert (control(box, 0, 0), control(box, 1, 0)) == ("ERR_CHILD_REGISTERED", "ERR_INVALID_STATE")
    table.close()


@pytest.mark.parametrize("end", ["pause", "step", "step of another parent"])
def test_a_split_continues_however_a_window_ends(make_box: Make, end: str) -> None:
    box = make_box(tables={"temp": 4}, split_control_delay=0.01)
    box.split("temp", seconds=0.05, window=60.0)
    split = box.tables.get("temp").split
    assert split is not None
    if end == "step of another parent":
        assert box.split_step("temp", 3) == "window"
        gevent.sleep(0.1)
        assert split.windows == {3}
    else:
        wait_until(lambda: split.windows == {0})
    # The first window is long, so only this test ends it. The other windows are short.
    split.window = 0.01
    if end == "pause":
        box.control_split("temp", "pause", 0)
    else:
        assert box.split_step("temp") == "ready"
    left = {0: 3} if end == "pause" else {}
    wait_until(lambda: box.split_status("temp") == left, 20.0)
    assert split.windows == set()


def test_a_split_continues_after_a_failover(box: Onebox, table: Routed) -> None:
    box.split("temp", stepwise=True)
    assert box.split_step("temp", 0) == "window"
    box.kill(box.partitions("temp")[0]["primary"])
    assert box.split_step("temp", 0) == "blocked"
    sleep(0.15)
    assert box.split_step("temp", 0) == "ready"
    box.finish_split("temp")
    table.close()
    assert all_there(table)
    for server in range(3):
        box.restart(server) if not box.replica_server(server).alive else None
    sleep(0.1)
    assert all(len(part["secondaries"]) == 2 for part in box.partitions("temp"))
    assert all_there(table)


def test_a_compaction_removes_foreign_rows(box: Onebox, table: Routed) -> None:
    box.split("temp", stepwise=True)
    box.finish_split("temp")
    assert box.row_count("temp") == 2 * ROWS
    box.configure(compaction_seconds=0)
    ask(box, rpcs.START_MANUAL_COMPACT, meta.StartManualCompactRequest("temp"))
    assert box.row_count("temp") == ROWS
    assert all_there(table)
