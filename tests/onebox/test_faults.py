"""Test fault rules: their effect on the wire, and whether the request was executed."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from pegasus_green.errors import ProtocolError
from pegasus_green.keys import crc64, encode_key
from pegasus_green.onebox import Onebox
from pegasus_green.protocol import meta, rrdb
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol.framing import parse_reply
from tests.onebox.raw import Raw, Routed, ask, decode
from tests.waiting import Stopwatch

Make = Callable[..., Onebox]
KEY = encode_key(b"user1", b"name")
ROUTE = {"app_id": 1, "partition_index": 0, "partition_hash": crc64(b"user1")}
INCR = rrdb.IncrRequest(KEY, 1)


def value(box: Onebox) -> int:
    """Return how often the counter was incremented."""
    box.clear_faults()
    table = Routed(box)
    found = table.get(b"user1", b"name")
    table.close()
    return int(found or 0)


def ends(raw: Raw) -> bool:
    try:
        raw.frame()
    except (EOFError, ConnectionResetError):
        return True
    return False


@pytest.mark.parametrize(("when", "executed"), [("before", 0), ("after", 1)])
def test_a_drop_rule_leaves_requests_unanswered(box: Onebox, raw: Raw, when: str, executed: int) -> None:
    rule = box.fault("drop", rpc="incr", when=when, count=1)
    raw.send(rpcs.INCR, INCR, **ROUTE)
    assert raw.is_silent(0.05)
    assert (box.executions(KEY), rule.hits) == (executed, 1)
    assert raw.call(rpcs.INCR, INCR, **ROUTE)[1].new_value == executed + 1


@pytest.mark.parametrize(("when", "executed"), [("before", 0), ("during", 0), ("after", 1)])
@pytest.mark.parametrize("reset", [True, False])
def test_a_cut_rule_closes_the_connection(box: Onebox, raw: Raw, when: str, executed: int, reset: bool) -> None:
    box.fault("cut", rpc="incr", when=when, reset=reset)
    raw.send(rpcs.INCR, INCR, **ROUTE)
    raw.send(rpcs.INCR, INCR, **ROUTE)
    with pytest.raises(ConnectionResetError if reset else (EOFError, ConnectionResetError)):
        raw.frame()
    # No later request was executed before the cut; with "after" the second one was already read.
    assert value(box) in (executed, 2 * executed)


def test_a_cut_while_a_request_is_half_read(box: Onebox, raw: Raw) -> None:
    rule = box.fault("cut", when="during", server=box.partitions("temp")[0]["primary"], count=1)
    raw.sock.sendall(b"THFT" + struct.pack(">III", 1, 37, 100) + b"half")
    assert ends(raw)
    assert rule.hits == 1


@pytest.mark.parametrize("size", [0x7FFFFFFF, 3])
def test_a_reply_is_cut_in_the_middle(box: Onebox, raw: Raw, size: int) -> None:
    box.fault("half", rpc="incr", size=size, reset=False)
    raw.send(rpcs.INCR, INCR, **ROUTE)
    data = b""
    while piece := raw.sock.recv(65536):
        data += piece
    whole = struct.unpack(">i", data[:4])[0] if size > 4 else 0
    assert len(data) == (whole // 2 if size > 4 else 3)
    assert value(box) == 1


@pytest.mark.parametrize(("when", "executed"), [("before", 0), ("after", 1)])
@pytest.mark.parametrize("body", [False, True])
def test_an_error_rule_answers_with_the_error(box: Onebox, raw: Raw, when: str, executed: int, body: bool) -> None:
    box.fault("error", error="ERR_NO_SUCH_THING", rpc="write", when=when, body=body)
    error, answer = raw.call(rpcs.INCR, INCR, **ROUTE)
    assert error == "ERR_NO_SUCH_THING"
    assert (answer is not None) is body
    if body:
        assert (answer.new_value, answer.app_id) == (0, 1)
    assert value(box) == executed


@pytest.mark.parametrize(("when", "executed"), [("before", 0), ("after", 1)])
def test_an_ok_reply_without_a_body(box: Onebox, raw: Raw, when: str, executed: int) -> None:
    box.fault("no_body", rpc=["incr", "put"], when=when)
    assert raw.call(rpcs.INCR, INCR, **ROUTE) == ("ERR_OK", None)
    assert value(box) == executed


def test_duplicates_and_unknown_ids(box: Onebox, raw: Raw) -> None:
    rule = box.fault("duplicate", rpc="get")
    seqid = raw.send(rpcs.GET, KEY, **ROUTE)
    assert [raw.reply()[0].seqid for _ in range(2)] == [seqid] * 2
    rule.remove()
    rule = box.fault("unknown_id")
    seqid = raw.send(rpcs.GET, KEY, **ROUTE)
    first, second = raw.reply()[0], raw.reply()[0]
    assert first.seqid < 0
    assert (second.seqid, second.name, first.name) == (seqid, "RPC_RRDB_RRDB_GET_ACK", "RPC_RRDB_RRDB_GET_ACK")
    box.remove_fault(rule.id)
    box.fault("unknown_id", instead=True)
    raw.send(rpcs.GET, KEY, **ROUTE)
    assert raw.reply()[0].seqid < 0
    assert raw.is_silent(0.02)


def test_a_reorder_rule_changes_the_order_of_replies(box: Onebox, raw: Raw) -> None:
    box.fault("reorder", rpc="get", count=1, replies=2, seconds=5)
    for _ in range(4):
        raw.send(rpcs.GET, KEY, **ROUTE)
    assert [raw.reply()[0].seqid for _ in range(4)] == [2, 3, 1, 4]
    box.fault("reorder", rpc="get", count=1, replies=99, seconds=0.05)
    raw.send(rpcs.GET, KEY, **ROUTE)
    assert raw.reply()[0].seqid == 5


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_delayed_reply_does_not_delay_other_replies(box: Onebox, raw: Raw, when: str) -> None:
    box.fault("delay", rpc="incr", seconds=0.5, when=when, count=1)
    watch = Stopwatch()
    raw.send(rpcs.INCR, INCR, **ROUTE)
    gevent.sleep(0.02)
    assert box.executions(KEY) == (when == "after")
    raw.send(rpcs.TTL, KEY, **ROUTE)
    assert [raw.reply()[0].seqid for _ in range(2)] == [2, 1]
    assert watch.elapsed > 0.45
    assert watch.seconds < 1.5


def test_rules_that_damage_or_trickle_replies(box: Onebox) -> None:
    def answer(action: str, **options: Any) -> tuple[Raw, int]:
        box.clear_faults()
        box.fault(action, rpc="get", count=1, **options)
        raw = Raw(box.partitions("temp")[0]["primary"])
        return raw, raw.send(rpcs.GET, KEY, **ROUTE)

    raw, _ = answer("garbage", data=b"not a frame at all")
    assert raw.sock.recv(100) == b"not a frame at all"
    raw, _ = answer("garbage")
    assert len(raw.sock.recv(100)) == 64
    raw, _ = answer("oversize")
    assert raw.sock.recv(4) == b"\x7f\xff\xff\xff"
    raw, seqid = answer("corrupt")
    reply, frame = raw.reply()
    assert (reply.seqid, reply.error) == (seqid, "ERR_OK")
    with pytest.raises(ProtocolError):
        decode(rpcs.GET, reply, frame)
    raw, seqid = answer("trickle", size=10, seconds=0.002)
    later = raw.send(rpcs.TTL, KEY, **ROUTE)
    assert [raw.reply()[0].seqid for _ in range(2)] == [seqid, later]


def test_two_trickled_replies_are_not_interleaved(box: Onebox, raw: Raw) -> None:
    box.fault("trickle", rpc="get", size=10, seconds=0.002)
    raw.call(rpcs.TTL, KEY, **ROUTE)
    seqids = [raw.send(rpcs.GET, KEY, **ROUTE) for _ in range(3)]
    assert [raw.reply()[0].seqid for _ in seqids] == seqids


def test_rules_apply_under_their_conditions(box: Onebox, raw: Raw) -> None:
    def hits(**options: Any) -> int:
        box.clear_faults()
        rule = box.fault("error", **options)
        table = Routed(box)
        for number in range(40):
            table.get(b"k%d" % number, b"s")
        table.close()
        return rule.hits

    assert hits() == hits(rpc="get") == hits(rpc="read") == hits(table="temp") == hits(server="replica") == 40
    assert hits(rpc="put") == hits(table="other") == hits(server="meta") == hits(rpc="write") == 0
    assert sum(hits(server=index) for index in range(3)) == sum(hits(partition=index) for index in range(8)) == 40
    assert hits(contains=b"k7s") == 1
    assert hits(count=3) == 3
    assert hits(after=35) == 5
    assert 5 < hits(probability=0.5) < 35
    assert hits(server=[0, "replica:1", box.replica_addresses[2]], rpc=rpcs.GET.name) == 40
    with pytest.raises(ValueError, match="nonsense"):
        box.fault("nonsense")
    with pytest.raises(ValueError, match="no RPC"):
        box.fault("drop", rpc="nope")
    with pytest.raises(LookupError):
        box.fault("drop", server=7)
    [facts] = box.list_faults()
    assert (facts["action"], facts["when"], facts["hits"], facts["seen"]) == ("error", "before", 40, 40)


def test_several_rules_apply_to_one_reply(box: Onebox, raw: Raw) -> None:
    box.fault("error", error="ERR_BUSY", rpc="get", when="after")
    box.fault("duplicate", rpc="get")
    raw.send(rpcs.GET, KEY, **ROUTE)
    assert [raw.reply()[0].error for _ in range(2)] == ["ERR_BUSY"] * 2
    assert box.executions(KEY) == 1


def test_faults_of_meta_servers(make_box: Make) -> None:
    box = make_box(metas=2)
    box.fault("error", error="ERR_SERVICE_NOT_ACTIVE", server="meta:0", count=1)
    assert ask(box, rpcs.QUERY_CFG, meta.QueryCfgRequest("temp")).err == "ERR_SERVICE_NOT_ACTIVE"
    assert ask(box, rpcs.QUERY_CFG, meta.QueryCfgRequest("temp")).err == "ERR_OK"
    rule = box.fault("error", error="ERR_ACL_DENY", rpc="query_cfg", table="temp")
    assert ask(box, rpcs.QUERY_CFG, meta.QueryCfgRequest("other")).err == "ERR_OBJECT_NOT_FOUND"
    assert ask(box, rpcs.QUERY_CFG, meta.QueryCfgRequest("temp")).err == "ERR_ACL_DENY"
    assert rule.hits == 1
    box.clear_faults()
    box.fault("delay", rpc="meta", when="before", seconds=0.05)
    start = time.monotonic()
    assert ask(box, rpcs.LIST_NODES, meta.ListNodesRequest()).err == "ERR_OK"
    assert time.monotonic() - start >= 0.045


# --------------------------------------------------------------------------------------------------------- what is seen
def test_executions_are_counted_by_mark(box: Onebox, table: Routed) -> None:
    for number in range(5):
        table.put(b"k", b"mark-%d;" % (number % 3), b"v")
    assert [box.executions(f"mark-{number};") for number in range(4)] == [2, 2, 1, 0]
    assert box.execution_counts(rb"mark-\d") == {b"mark-0": 2, b"mark-1": 2, b"mark-2": 1}
    box.forget_executions()
    assert box.executions(b"mark") == 0


def test_the_number_of_remembered_executions_is_limited(make_box: Make) -> None:
    box = make_box(keep_executions=10_000)
    table = Routed(box)
    for _ in range(100):
        table.put(b"k", b"s", bytes(1000))
    assert 5 < box.executions(b"RPC_RRDB_RRDB_PUT") < 10
    table.close()


def test_drop_scan_contexts_makes_contexts_unknown(box: Onebox, raw: Raw) -> None:
    for number in range(3):
        raw.call(rpcs.PUT, rrdb.UpdateRequest(KEY + b"%d" % number, b"v"), **ROUTE)
    request = rrdb.GetScannerRequest(b"\0\0", b"\xff\xff", True, False, 1, full_scan=True)
    context = raw.call(rpcs.GET_SCANNER, request, **ROUTE)[1].context_id
    context = raw.call(rpcs.SCAN, rrdb.ScanRequest(context), **ROUTE)[1].context_id
    box.drop_scan_contexts("temp")
    assert raw.call(rpcs.SCAN, rrdb.ScanRequest(context), **ROUTE)[1].error == 1
    context = raw.call(rpcs.GET_SCANNER, request, **ROUTE)[1].context_id
    box.advance(301)
    assert raw.call(rpcs.SCAN, rrdb.ScanRequest(context), **ROUTE)[1].error == 1


def test_advance_moves_the_clock(box: Onebox, raw: Raw) -> None:
    expire = int(time.time()) - 1451606400 + 100
    raw.call(rpcs.PUT, rrdb.UpdateRequest(KEY, b"v", expire), **ROUTE)
    assert 98 <= raw.call(rpcs.TTL, KEY, **ROUTE)[1].ttl_seconds <= 100
    box.advance(50)
    assert 48 <= raw.call(rpcs.TTL, KEY, **ROUTE)[1].ttl_seconds <= 50
    box.advance(51)
    assert raw.call(rpcs.GET, KEY, **ROUTE)[1].error == 1


def test_stats(box: Onebox, table: Routed) -> None:
    for number in range(30):
        table.put(b"k%d" % number, b"s", b"v")
    ask(box, rpcs.QUERY_CFG, meta.QueryCfgRequest("temp"))
    stats = box.stats()
    assert (stats["queries"], stats["accepted"], stats["errors"], stats["client_bugs"]) == (1, 4, 0, 0)
    assert [server["kind"] for server in stats["servers"]] == ["meta", "replica", "replica", "replica"]
    assert sum(server["requests"].get("RPC_RRDB_RRDB_PUT", 0) for server in stats["servers"]) == 30
    assert sum(server["primaries"] for server in stats["servers"]) == 8
    assert box.row_count("temp") == box.row_count("temp", 0) == 30 or box.row_count("temp", 0) < 30
    box.settle()
    assert box.row_count("temp", 0) == 30


def test_a_cut_delivers_whole_frames_except_the_last(box: Onebox, raw: Raw) -> None:
    """After a cut in the middle of many replies only the last frame may be incomplete."""
    box.fault("half", rpc="get", after=50, count=1, reset=False)
    for _ in range(100):
        raw.send(rpcs.GET, KEY, **ROUTE)
    assert {parse_reply(raw.frame()).error for _ in range(50)} == {"ERR_OK"}
    assert ends(raw)


# -------------------------------------------------------------------------------------- several rules for one request
@pytest.mark.parametrize("order", [("delay", "error"), ("error", "delay")])
def test_a_delayed_error_does_not_depend_on_the_order_of_rules(box: Onebox, raw: Raw, order: tuple[str, ...]) -> None:
    options: dict[str, dict[str, Any]] = {"delay": {"seconds": 0.1}, "error": {"error": "ERR_BUSY"}}
    rules = [box.fault(action, rpc="incr", count=1, **options[action]) for action in order]
    start = time.monotonic()
    assert raw.call(rpcs.INCR, INCR, **ROUTE)[0] == "ERR_BUSY"
    assert time.monotonic() - start >= 0.09
    assert ([rule.hits for rule in rules], box.executions(KEY)) == ([1, 1], 0)


def test_a_request_with_a_delayed_error_is_not_executed(box: Onebox, raw: Raw) -> None:
    box.fault("delay", rpc="incr", when="before", seconds=0.05)
    box.fault("error", rpc="incr", error="ERR_BUSY")
    assert raw.call(rpcs.INCR, INCR, **ROUTE)[0] == "ERR_BUSY"
    assert value(box) == 0


@pytest.mark.parametrize("order", [("delay", "duplicate"), ("duplicate", "delay"), ("reorder", "duplicate")])
def test_other_rules_apply_to_a_delayed_reply(box: Onebox, raw: Raw, order: tuple[str, ...]) -> None:
    for action in order:
        box.fault(action, rpc="incr", count=1, seconds=0.03)
    raw.send(rpcs.INCR, INCR, **ROUTE)
    assert raw.frame() == raw.frame()
    assert value(box) == 1


def test_a_rule_after_a_drop_rule_is_not_counted(box: Onebox, raw: Raw) -> None:
    box.fault("drop", rpc="incr", when="before", count=1)
    rule = box.fault("error", rpc="incr", count=1)
    raw.send(rpcs.INCR, INCR, **ROUTE)
    assert raw.is_silent(0.05)
    assert rule.hits == 0
    assert raw.call(rpcs.INCR, INCR, **ROUTE)[0] == "ERR_BUSY"
