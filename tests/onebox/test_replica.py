"""Test the replica servers: the requests that they serve, refuse or leave unanswered."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import socket

from pegasus_green.keys import crc64, encode_key
from pegasus_green.onebox import Onebox
from pegasus_green.protocol import meta, rrdb
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol.binary import BLOB_TYPE
from pegasus_green.protocol.framing import encode_request, parse_reply
from pegasus_green.protocol.rpc import Rpc
from tests.onebox.raw import Raw, Routed, decode, sleep
from tests.waiting import Stopwatch

Make = Callable[..., Onebox]
KEY = encode_key(b"user1", b"name")  # hash of user1: partition 0 of 8
HASH = crc64(b"user1")
ROUTE: dict[str, Any] = {"app_id": 1, "partition_index": 0, "partition_hash": HASH}


# -------------------------------------------------------------------------------------------------------------- framing
def test_both_headers_mixed_and_any_sequence_id(raw: Raw) -> None:
    for seqid, version in ((1, 0), (-5, 1), (0, 0), (2**31 - 1, 1)):
        put = rrdb.UpdateRequest(KEY, b"%d" % seqid)
        error, answer = raw.call(rpcs.PUT, put, version=version, seqid=seqid, **ROUTE)
        assert (error, answer.error, answer.app_id, answer.partition_index) == ("ERR_OK", 0, 1, 0)
        error, answer = raw.call(rpcs.GET, KEY, version=1 - version, seqid=seqid, **ROUTE)
        assert (error, answer.error, answer.value) == ("ERR_OK", 0, b"%d" % seqid)
    assert answer.server.startswith("127.0.0.1:")


def test_requests_in_pieces_of_any_size_are_answered(raw: Raw) -> None:
    requests = b"".join(
        encode_request(rpcs.GET, seqid, rpcs.GET.encode_argument(KEY), version=seqid % 2, **ROUTE) for seqid in range(6)
    )
    for size in (1, 3, 7, 50, 51, 1000):
        for start in range(0, len(requests), size):
            raw.sock.sendall(requests[start : start + size])
            if size < 8:
                gevent.sleep(0)
        assert sorted(raw.reply()[0].seqid for _ in range(6)) == list(range(6))


def body_of(kind: str, name: str, seqid: int, argument: bytes) -> bytes:
    raw = name.encode()
    if kind == "loose":
        return struct.pack(">i", len(raw)) + raw + b"\1" + struct.pack(">i", seqid) + argument
    head = {"call": 0x80010001, "oneway": 0x80010004, "reply": 0x80010002}[kind]
    return struct.pack(">Ii", head, len(raw)) + raw + struct.pack(">i", seqid) + argument


def v0(body: bytes, app_id: int = 1, index: int = 0, size: int | None = None, thread: int = 7919) -> bytes:
    head = b"THFT" + struct.pack(">iii", 0, 48, 0) + struct.pack(">ii", len(body) if size is None else size, 0)
    return head + struct.pack(">iiiiQ", app_id, index, 1000, thread, HASH) + body


@pytest.mark.parametrize("kind", ["loose", "oneway", "call"])
def test_kinds_of_message_begin(raw: Raw, kind: str) -> None:
    argument = rpcs.GET.encode_argument(KEY)
    raw.sock.sendall(v0(body_of(kind, "RPC_RRDB_RRDB_GET", 9, argument + b"trailing bytes are ignored")))
    reply, frame = raw.reply()
    assert (reply.error, reply.seqid, decode(rpcs.GET, reply, frame).error) == ("ERR_OK", 9, 1)


def test_absent_meta_fields_are_zero(raw: Raw) -> None:
    body = body_of("call", "RPC_RRDB_RRDB_GET", 3, rpcs.GET.encode_argument(KEY))
    raw.sock.sendall(b"THFT" + struct.pack(">III", 1, 8, len(body)) + b"\x08\0\1\0\0\0\1\0" + body)
    reply, _ = raw.reply()
    assert reply.error == "ERR_OK"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"THFT" + struct.pack(">iii", 2, 48, 0),
        b"THFT" + struct.pack(">iii", 0, 47, 0) + bytes(36),
        v0(body_of("reply", "RPC_RRDB_RRDB_GET", 1, b"")),
        v0(b"", size=100_000_000),
    ],
    ids=["ssh", "version", "header length", "reply", "too long"],
)
def test_garbage_closes_the_connection(box: Onebox, raw: Raw, data: bytes) -> None:
    raw.sock.sendall(data)
    with pytest.raises((EOFError, ConnectionResetError)):
        raw.reply()
    assert box.client_bugs == []


@pytest.mark.parametrize("body", [b"", b"\x80\1\0", body_of("call", "RPC_RRDB_RRDB_GET", 1, b"")[:-3]])
def test_cut_message_begin_is_a_client_bug(box: Onebox, raw: Raw, body: bytes) -> None:
    raw.sock.sendall(v0(body))
    with pytest.raises((EOFError, ConnectionResetError)):
        raw.reply()
    assert len(box.client_bugs) == 1


def test_a_half_closed_connection_is_closed(raw: Raw, table: Routed) -> None:
    raw.send(rpcs.PUT, rrdb.UpdateRequest(KEY, b"v"), **ROUTE)
    raw.sock.shutdown(socket.SHUT_WR)
    sleep(0.05)
    # A fast answer may arrive; the connection ends in any case, and the write is executed.
    while not raw.is_over():
        raw.frame()
    assert table.get(b"user1", b"name") == b"v"


def test_reads_may_overtake_writes(raw: Raw) -> None:
    put = encode_request(rpcs.PUT, 1, rpcs.PUT.encode_argument(rrdb.UpdateRequest(KEY, b"new")), **ROUTE)
    get = encode_request(rpcs.GET, 2, rpcs.GET.encode_argument(KEY), **ROUTE)
    raw.sock.sendall(put + get)
    first, frame = raw.reply()
    assert (first.seqid, decode(rpcs.GET, first, frame).error) == (2, 1)
    assert raw.reply()[0].seqid == 1


# -------------------------------------------------------------------------------------------------------------- routing
@pytest.mark.parametrize(("app_id", "index"), [(1, 999), (1, -1), (998, 0)])
def test_requests_for_partitions_of_other_servers_are_refused(raw: Raw, app_id: int, index: int) -> None:
    for rpc, argument in ((rpcs.GET, KEY), (rpcs.PUT, rrdb.UpdateRequest(KEY, b"v"))):
        route = {"app_id": app_id, "partition_index": index, "partition_hash": HASH}
        assert raw.call(rpc, argument, **route) == ("ERR_OBJECT_NOT_FOUND", None)


def test_unknown_rpc_names_are_refused(box: Onebox, raw: Raw) -> None:
    unknown = Rpc("RPC_RRDB_NO_SUCH", BLOB_TYPE, None, label="x")
    assert raw.call(unknown, b"", app_id=1) == ("ERR_HANDLER_NOT_FOUND", None)
    for app_id in (0, -1):
        assert raw.call(rpcs.GET, KEY, app_id=app_id) == ("ERR_HANDLER_NOT_FOUND", None)
    assert raw.call(rpcs.LIST_APPS, meta.ListAppsRequest()) == ("ERR_HANDLER_NOT_FOUND", None)
    raw.send(Rpc("N" * 60, BLOB_TYPE, None, label="x"), b"")
    assert raw.reply()[0].name == "N" * 47
    assert box.client_bugs == []
    assert raw.call(rpcs.LIST_APPS, meta.ListAppsRequest(), app_id=1) == ("ERR_HANDLER_NOT_FOUND", None)
    assert len(box.client_bugs) == 1


def test_a_secondary_serves_flagged_reads_only(box: Onebox, table: Routed) -> None:
    table.put(b"user1", b"name", b"v")
    box.settle()
    secondary = table.raw(box.partitions("temp")[0]["secondaries"][0])
    for version in (0, 1):
        assert secondary.call(rpcs.GET, KEY, version=version, **ROUTE) == ("ERR_INVALID_STATE", None)
    assert secondary.call(rpcs.GET, KEY, backup=True, **ROUTE)[1].value == b"v"
    assert secondary.call(rpcs.TTL, KEY, backup=True, **ROUTE)[1].ttl_seconds == -1
    for backup in (False, True):
        put = rrdb.UpdateRequest(KEY, b"w")
        assert secondary.call(rpcs.PUT, put, backup=backup, **ROUTE) == ("ERR_INVALID_STATE", None)
    primary = table.raw(box.partitions("temp")[0]["primary"])
    assert primary.call(rpcs.GET, KEY, backup=True, **ROUTE)[1].value == b"v"


def test_clear_scanner_is_never_answered(box: Onebox, raw: Raw) -> None:
    for route in (ROUTE, {"app_id": 99}, {"app_id": 0}):
        raw.send(rpcs.CLEAR_SCANNER, 5, **route)
    assert raw.is_silent(0.05)


# -------------------------------------------------------------------------------------------------------- limits, bugs
def test_write_bodies_are_limited_to_the_exact_byte(box: Onebox, raw: Raw) -> None:
    empty = len(body_of("call", "RPC_RRDB_RRDB_PUT", 1, rpcs.PUT.encode_argument(rrdb.UpdateRequest(KEY, b""))))
    fits = rrdb.UpdateRequest(KEY, bytes(1024 * 1024 - empty))
    for version in (0, 1):
        assert raw.call(rpcs.PUT, fits, version=version, **ROUTE)[0] == "ERR_OK"
        above = rrdb.UpdateRequest(KEY, fits.value + b"x")
        assert raw.call(rpcs.PUT, above, version=version, **ROUTE) == ("ERR_INVALID_DATA", None)
    assert box.executions(KEY) == 2


def test_hashes_that_abort_a_real_server(box: Onebox, raw: Raw) -> None:
    put = rrdb.UpdateRequest(KEY, b"v")
    wrong = {**ROUTE, "partition_hash": HASH + 8}
    assert raw.call(rpcs.PUT, put, **wrong) == ("ERR_PARENT_PARTITION_MISUSED", None)
    assert raw.call(rpcs.REMOVE, KEY, **wrong) == ("ERR_PARENT_PARTITION_MISUSED", None)
    assert len(box.client_bugs) == 2
    assert raw.call(rpcs.PUT, put, **{**ROUTE, "partition_hash": 0})[0] == "ERR_OK"
    assert raw.call(rpcs.GET, KEY, **wrong)[0] == "ERR_OK"
    raw.sock.sendall(v0(body_of("call", "RPC_RRDB_RRDB_PUT", 77, rpcs.PUT.encode_argument(put)), thread=1))
    assert raw.reply()[0].error == "ERR_INVALID_PARAMETERS"
    assert len(box.client_bugs) == 3
    raw.sock.sendall(v0(body_of("call", "RPC_RRDB_RRDB_GET", 78, rpcs.GET.encode_argument(KEY)), thread=1))
    assert raw.reply()[0].error == "ERR_OK"
    assert len(box.client_bugs) == 3
    # The wrong thread hash is found at any partition.
    secondary = Raw(box.partitions("temp")[0]["secondaries"][0])
    secondary.sock.sendall(v0(body_of("call", "RPC_RRDB_RRDB_PUT", 79, rpcs.PUT.encode_argument(put)), thread=1))
    assert secondary.reply()[0].error == "ERR_INVALID_PARAMETERS"
    assert len(box.client_bugs) == 4


def test_a_put_with_an_internal_operation_is_never_answered(box: Onebox, raw: Raw) -> None:
    first = raw.call(rpcs.PUT, rrdb.UpdateRequest(KEY, b"v"), **ROUTE)[1].decree
    for kind in (1, 2, 3):
        raw.send(rpcs.PUT, rrdb.UpdateRequest(KEY, b"w", type=kind), **ROUTE)
    assert raw.is_silent(0.05)
    assert len(box.client_bugs) == 3
    plain = rrdb.UpdateRequest(KEY, b"x", type=0, check_value_returned=False, check_value_exist=False, check_value=b"")
    assert raw.call(rpcs.PUT, plain, **ROUTE)[1].decree == first + 4
    assert raw.call(rpcs.GET, KEY, **ROUTE)[1].value == b"x"
    assert len(box.client_bugs) == 3


def test_undecodable_arguments(box: Onebox, raw: Raw, table: Routed) -> None:
    cut = b"\x0c\0\1\0\0\1\0abc"
    raw.sock.sendall(v0(body_of("call", "RPC_RRDB_RRDB_GET", 1, cut)))
    assert raw.reply()[0].error == "ERR_INVALID_DATA"
    before = raw.call(rpcs.PUT, rrdb.UpdateRequest(KEY, b"v"), **ROUTE)[1].decree
    raw.sock.sendall(v0(body_of("call", "RPC_RRDB_RRDB_PUT", 2, cut[:3] + cut)))
    assert raw.is_silent(0.05)
    assert raw.call(rpcs.PUT, rrdb.UpdateRequest(KEY, b"v"), **ROUTE)[1].decree == before + 2
    assert len(box.client_bugs) == 2
    # A node that is not primary answers without decoding.
    secondary = table.raw(box.partitions("temp")[0]["secondaries"][0])
    secondary.sock.sendall(v0(body_of("call", "RPC_RRDB_RRDB_GET", 3, cut)))
    assert secondary.reply()[0].error == "ERR_INVALID_STATE"


@pytest.mark.parametrize("key", [b"", b"\0", b"\0\x05abc"])
def test_malformed_keys(box: Onebox, raw: Raw, key: bytes) -> None:
    route = {**ROUTE, "partition_hash": 0}
    assert raw.call(rpcs.GET, key, **route)[1].error == 4
    assert raw.call(rpcs.PUT, rrdb.UpdateRequest(key, b"v"), **route)[1].error == 4
    assert len(box.client_bugs) == 2


def test_strict_mode_records_every_wrong_hash(make_box: Make) -> None:
    box = make_box(strict=True)
    with Raw(box.partitions("temp")[0]["primary"]) as raw:
        for rpc, argument in (
            (rpcs.GET, KEY),
            (rpcs.TTL, KEY),
            (rpcs.SORTKEY_COUNT, b"user1"),
            (rpcs.MULTI_GET, rrdb.MultiGetRequest(b"user1")),
            (rpcs.BATCH_GET, rrdb.BatchGetRequest([rrdb.FullKey(b"user1", b"name")])),
            (rpcs.INCR, rrdb.IncrRequest(KEY, 1)),
            (rpcs.MULTI_PUT, rrdb.MultiPutRequest(b"user1", [rrdb.KeyValue(b"a", b"b")])),
        ):
            raw.call(rpc, argument, **ROUTE)
            assert box.client_bugs == [], rpc
            raw.call(rpc, argument, **{**ROUTE, "partition_hash": 8})
            assert len(box.client_bugs) == 1, rpc
            box.client_bugs.clear()


# ---------------------------------------------------------------------------------------------------- denial, throttles
def timed(call: Callable[[], Any]) -> tuple[Any, Stopwatch]:
    watch = Stopwatch()
    return call(), watch.stop()


def test_denied_requests_have_their_error_codes(box: Onebox, raw: Raw) -> None:
    put = rrdb.UpdateRequest(KEY, b"v")
    box.set_envs("temp", {"replica.deny_client_request": "reconfig*write"})
    assert raw.call(rpcs.PUT, put, **ROUTE)[0] == "ERR_INVALID_STATE"
    assert raw.call(rpcs.GET, KEY, **ROUTE)[0] == "ERR_OK"
    box.set_envs("temp", {"replica.deny_client_request": "timeout*all"})
    raw.send(rpcs.PUT, put, **ROUTE)
    raw.send(rpcs.GET, KEY, **ROUTE)
    assert raw.is_silent(0.05)
    box.set_envs("temp", {"replica.deny_client_request": None})
    assert raw.call(rpcs.PUT, put, **ROUTE)[0] == "ERR_OK"


def test_throttling_by_requests(box: Onebox, raw: Raw) -> None:
    # 8 partitions: each gets 8 / 8 + 1 = 2 requests per second.
    box.set_envs("temp", {"replica.write_throttling": "8*reject*300", "replica.read_throttling": "8*delay*300"})
    put = rrdb.UpdateRequest(KEY, b"v")
    box.clock.skipped += 1 - time.time() % 1  # begin with a whole second
    assert [raw.call(rpcs.PUT, put, **ROUTE)[0] for _ in range(2)] == ["ERR_OK"] * 2
    (error, body), watch = timed(lambda: raw.call(rpcs.PUT, put, **ROUTE))
    assert (error, body) == ("ERR_BUSY", None)
    assert watch.elapsed > 0.25
    assert watch.seconds < 1.0
    _, watch = timed(lambda: raw.call(rpcs.PUT, put, timeout_ms=20, **ROUTE))
    assert watch.seconds < 0.25
    assert [raw.call(rpcs.GET, KEY, **ROUTE)[0] for _ in range(2)] == ["ERR_OK"] * 2
    (error, body), watch = timed(lambda: raw.call(rpcs.GET, KEY, **ROUTE))
    assert (error, body.value) == ("ERR_OK", b"v")
    assert watch.elapsed > 0.25
    assert watch.seconds < 1.0
    box.advance(1)
    assert raw.call(rpcs.PUT, put, **ROUTE)[0] == "ERR_OK"


def test_throttling_by_size(make_box: Make) -> None:
    box = make_box(tables={"temp": 1})
    table = Routed(box)
    table.put(b"k", b"small", bytes(800))
    table.put(b"k", b"large", bytes(3000))
    box.set_envs("temp", {"replica.read_throttling_by_size": "2000"})
    address, route = table.route(b"k")
    raw = table.raw(address)
    for _ in range(5):
        assert raw.call(rpcs.GET, encode_key(b"k", b"large"), **route)[0] == "ERR_OK"
    for _ in range(3):
        assert raw.call(rpcs.GET, encode_key(b"k", b"small"), **route)[0] == "ERR_OK"
    # 2,424 bytes were read. For the next 0.2 s every request is refused at once, with a body of defaults.
    error, body = raw.call(rpcs.GET, encode_key(b"k", b"small"), **route)
    assert (error, body.value, body.app_id, body.server) == ("ERR_BUSY", b"", 1, address)
    box.advance(1)
    assert raw.call(rpcs.MULTI_GET, rrdb.MultiGetRequest(b"k"), **route)[0] == "ERR_OK"
    table.close()


def test_throttled_backup_reads_get_no_answer(box: Onebox, table: Routed) -> None:
    box.set_envs("temp", {"replica.backup_request_throttling": "8*reject*0"})
    box.clock.skipped += 1 - time.time() % 1
    secondary = table.raw(box.partitions("temp")[0]["secondaries"][0])
    assert [secondary.call(rpcs.GET, KEY, backup=True, **ROUTE)[0] for _ in range(2)] == ["ERR_OK"] * 2
    secondary.send(rpcs.GET, KEY, backup=True, **ROUTE)
    assert secondary.is_silent(0.05)


def test_backpressure(make_box: Make) -> None:
    box = make_box(tables={"temp": 1})
    table = Routed(box)
    table.put(b"k", b"s", bytes(1000_000))
    address, route = table.route(b"k")
    with Raw(address) as raw:
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        argument = rpcs.GET.encode_argument(encode_key(b"k", b"s"))
        raw.sock.sendall(b"".join(encode_request(rpcs.GET, i, argument, **route) for i in range(100)))
        sleep(0.1)
        [connection] = [c for s in box.servers for c in s.connections if c.unsent]
        assert 4_000_000 < connection.unsent < 10_000_000
        assert sorted(parse_reply(raw.frame()).seqid for _ in range(100)) == list(range(100))
        assert connection.unsent == 0
    table.close()


def test_throttling_is_checked_before_the_role_of_the_replica(box: Onebox, table: Routed) -> None:
    box.set_envs("temp", {"replica.read_throttling": "8*reject*0"})
    box.clock.skipped += 1 - time.time() % 1
    secondary = table.raw(box.partitions("temp")[0]["secondaries"][0])
    assert [secondary.call(rpcs.GET, KEY, **ROUTE)[0] for _ in range(3)] == ["ERR_INVALID_STATE"] * 2 + ["ERR_BUSY"]


def test_default_ttl_is_known_to_every_replica_at_once(box: Onebox, table: Routed) -> None:
    """Also to replicas without later writes; deleting the env resets none of them."""
    box.set_envs("temp", {"default_ttl": "100"})
    box.set_envs("temp", {"default_ttl": None})
    table.put(b"user1", b"name", b"v")
    _, route = table.route(b"user1")
    assert table.call(rpcs.TTL, b"user1", KEY)[1].ttl_seconds in (99, 100)
    box.move_primary("temp", route["partition_index"], 1)
    table.put(b"user1", b"name", b"w")
    assert table.call(rpcs.TTL, b"user1", KEY)[1].ttl_seconds in (99, 100)
