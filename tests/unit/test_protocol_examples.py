"""Test frames byte by byte, in both directions."""

from __future__ import annotations

from typing import Any

import pytest

from pegasus_green.protocol import meta, rpc, rrdb
from pegasus_green.protocol.framing import encode_reply, encode_request, parse_reply, parse_request, thread_hash
from pegasus_green.protocol.session import ClientSession, ServerSession

# Table id 2, 8 partitions; the row b"hello" / b"name" is in partition 7.
GET_REQ_V0 = bytes.fromhex(
    "5448465400000000000000300000000000000030000000000000000200000007000003e800003de53377857006524257"
    "80010001000000115250435f525244425f525244425f474554000000010c00010000000b000568656c6c6f6e616d6500"
)
GET_REQ_V1 = bytes.fromhex(
    "544846540000000100000025000000300800010000000208000200000007080003000003e80a00043377857006524257"
    "020005000080010001000000115250435f525244425f525244425f474554000000010c00010000000b000568656c6c6f"
    "6e616d6500"
)
GET_RESP = bytes.fromhex(
    "0000006b000000064552525f4f4b80010002000000155250435f525244425f525244425f4745545f41434b000000010c"
    "0000080001000000000c000200000005416c69636508000300000002080004000000070b00060000000f3132372e302e"
    "302e313a33343830310000"
)
GET_RESP_NOTFOUND = bytes.fromhex(
    "00000066000000064552525f4f4b80010002000000155250435f525244425f525244425f4745545f41434b000000010c"
    "0000080001000000010c00020000000008000300000002080004000000070b00060000000f3132372e302e302e313a33"
    "343830310000"
)
PUT_REQ_V0 = bytes.fromhex(
    "5448465400000000000000300000000000000047000000000000000200000007000003e800003de53377857006524257"
    "80010001000000115250435f525244425f525244425f505554000000020c00010c00010000000b000568656c6c6f6e61"
    "6d650c000200000005416c696365080003000000000000"
)
PUT_RESP = bytes.fromhex(
    "0000006a000000064552525f4f4b80010002000000155250435f525244425f525244425f5055545f41434b000000020c"
    "00000800010000000008000200000002080003000000070a0004000000000000002a0b00050000000f3132372e302e30"
    "2e313a33343830310000"
)
QCFG_REQ_V0 = bytes.fromhex(
    "544846540000000000000030000000000000004a000000000000000000000000000003e8000000000000000000000000"
    "80010001000000265250435f434d5f51554552595f504152544954494f4e5f434f4e4649475f42595f494e4445580000"
    "00030c00010b00010000000474656d700f000208000000000000"
)
QCFG_RESP = bytes.fromhex(
    "000000cb000000064552525f4f4b800100020000002a5250435f434d5f51554552595f504152544954494f4e5f434f4e"
    "4649475f42595f494e4445585f41434b000000030c00000c0001000000064552525f4f4b080002000000020800030000"
    "0001020004010f00050c000000010c000100000000000000020a00020000000000000003080003000000030c00047f00"
    "000187f100010f00050c000000027f00000187f200017f00000187f300010f00060c000000000a000700000000000000"
    "0008000800000000000000"
)
QCFG_RESP_HP = bytes.fromhex(
    "0000010e000000064552525f4f4b800100020000002a5250435f434d5f51554552595f504152544954494f4e5f434f4e"
    "4649475f42595f494e4445585f41434b000000030c00000c0001000000064552525f4f4b080002000000020800030000"
    "0001020004010f00050c000000010c000100000000000000020a00020000000000000003080003000000030c00047f00"
    "000187f100010f00050c000000027f00000187f200017f00000187f300010f00060c000000000a000700000000000000"
    "00080008000000000c0009000000096c6f63616c686f737487f1010f000a0c00000002000000096c6f63616c686f7374"
    "87f201000000096c6f63616c686f737487f3010f000b0c00000000000000"
)
GET_ERR = bytes.fromhex(
    "0000003d000000144552525f4f424a4543545f4e4f545f464f554e4480010002000000155250435f525244425f525244"
    "425f4745545f41434b00000001"
)
CLEAR = bytes.fromhex(
    "5448465400000000000000300000000000000033000000000000000200000007000003e800003de53377857006524257"
    "800100040000001b5250435f525244425f525244425f434c4541525f5343414e4e4552000000040a0001000000000000"
    "123400"
)

KEY = b"\0\5helloname"
PLACE: dict[str, Any] = {"app_id": 2, "partition_index": 7, "partition_hash": 0x3377857006524257, "timeout_ms": 1000}
SERVER = "127.0.0.1:34801"
PARTITION: dict[str, Any] = {
    "pid": meta.make_gpid(2, 0),
    "ballot": 3,
    "max_replica_count": 3,
    "primary": meta.make_address("127.0.0.1", 34801),
    "secondaries": [meta.make_address("127.0.0.1", 34802), meta.make_address("127.0.0.1", 34803)],
}
HOST_PORTS: dict[str, Any] = {
    "hp_primary": "localhost:34801",
    "hp_secondaries": ["localhost:34802", "localhost:34803"],
    "hp_last_drops": [],
}


def routes(**more: Any) -> meta.QueryCfgResponse:
    partition = meta.PartitionConfiguration(**PARTITION, **more)
    return meta.QueryCfgResponse(app_id=2, partition_count=1, is_stateful=True, partitions=[partition])


REQUESTS = {
    "get v0": (GET_REQ_V0, rpc.GET, 1, KEY, {**PLACE, "version": 0}),
    "get v1": (GET_REQ_V1, rpc.GET, 1, KEY, {**PLACE, "version": 1}),
    "put v0": (PUT_REQ_V0, rpc.PUT, 2, rrdb.UpdateRequest(KEY, b"Alice"), {**PLACE, "version": 0}),
    "query_cfg v0": (QCFG_REQ_V0, rpc.QUERY_CFG, 3, meta.QueryCfgRequest("temp"), {"timeout_ms": 1000, "version": 0}),
    "clear_scanner v0": (CLEAR, rpc.CLEAR_SCANNER, 4, 0x1234, {**PLACE, "version": 0}),
}
REPLIES = {
    "get": (GET_RESP, rpc.GET, 1, rrdb.ReadResponse(0, b"Alice", 2, 7, SERVER)),
    "get, not found": (GET_RESP_NOTFOUND, rpc.GET, 1, rrdb.ReadResponse(1, b"", 2, 7, SERVER)),
    "put": (PUT_RESP, rpc.PUT, 2, rrdb.UpdateResponse(0, 2, 7, 42, SERVER)),
    "query_cfg of 2.5": (QCFG_RESP, rpc.QUERY_CFG, 3, routes()),
    "query_cfg of 2.6": (QCFG_RESP_HP, rpc.QUERY_CFG, 3, routes(**HOST_PORTS)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_equal_the_example_bytes(name: str) -> None:
    frame, row, seqid, argument, header = REQUESTS[name]
    assert encode_request(row, seqid, row.encode_argument(argument), **header) == frame
    request = parse_request(frame)
    assert (request.name, request.seqid, request.version) == (row.name, seqid, header["version"])
    assert request.oneway == (row is rpc.CLEAR_SCANNER)
    assert row.decode_argument(request.data, request.offset) == argument
    app, index, hashed = (header.get(key, 0) for key in ("app_id", "partition_index", "partition_hash"))
    assert (request.app_id, request.partition_index, request.partition_hash) == (app, index, hashed)
    assert (request.timeout_ms, request.backup) == (1000, False)
    assert request.thread_hash == (thread_hash(app, index) if request.version == 0 else None)
    assert ServerSession().feed(frame) == [request]


def test_the_thread_hash_of_the_examples() -> None:
    assert thread_hash(2, 7) == 0x3DE5 == parse_request(GET_REQ_V0).thread_hash


@pytest.mark.parametrize("name", REPLIES)
def test_replies_equal_the_example_bytes(name: str) -> None:
    frame, row, seqid, response = REPLIES[name]
    assert encode_reply(row.name, seqid, result=response.encode()) == frame
    reply = parse_reply(frame)
    assert reply == ("ERR_OK", row.name + "_ACK", seqid, row.body_offset)
    assert row.response is type(response)
    assert row.response.decode_reply(frame, row.body_offset) == response
    assert row.response.decode(frame, row.body_offset) == (response, len(frame) - 1)
    assert ClientSession().feed(frame) == [(seqid, frame)]


def test_a_rejection_has_no_body() -> None:
    assert encode_reply(rpc.GET.name, 1, "ERR_OBJECT_NOT_FOUND") == GET_ERR
    assert parse_reply(GET_ERR) == ("ERR_OBJECT_NOT_FOUND", rpc.GET.name + "_ACK", 1, None)
    assert ClientSession().feed(GET_ERR) == [(1, GET_ERR)]


def test_routes_without_host_ports_have_none() -> None:
    (partition,) = meta.QueryCfgResponse.decode_reply(QCFG_RESP, rpc.QUERY_CFG.body_offset).partitions
    assert (partition.hp_primary, partition.hp_secondaries, partition.hp_last_drops) == (None, None, None)
    assert meta.format_address(partition.primary) == "127.0.0.1:34801"
