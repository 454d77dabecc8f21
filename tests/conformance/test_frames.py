"""Test recorded frames: every field decodes to the recorded value, and encoding gives the same bytes again."""

from __future__ import annotations

from typing import Any

import pytest

from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol.binary import BLOB_TYPE
from pegasus_green.protocol.framing import encode_reply, encode_request, parse_reply, parse_request
from pegasus_green.protocol.message import Message
from pegasus_green.protocol.rpc import Rpc
from pegasus_green.protocol.session import ClientSession, ServerSession
from tests.conformance.replay import Builder, Tally, expected, load

ROWS = list(load("frames.jsonl"))
# Not in the table: a name that no server has.
NO_SUCH = Rpc("RPC_RRDB_NO_SUCH", BLOB_TYPE, None)
RPCS = {**rpcs.BY_NAME, NO_SUCH.name: NO_SUCH}


def plain(value: Any) -> Any:
    """Return a decoded value as the recordings write it."""
    if isinstance(value, Message):
        fields = {declared.name: getattr(value, declared.name) for declared in value.FIELDS}
        return {name: plain(item) for name, item in fields.items() if item is not None}
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_the_recording_has_fifty_frames() -> None:
    assert len(ROWS) == 50


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_a_recorded_frame_decodes_and_encodes_to_the_same_bytes(row: dict[str, Any], tallies: dict[str, Tally]) -> None:
    tally = tallies.setdefault("frames, decoded and encoded again", Tally())
    try:
        check_request(row)
        check_reply(row)
    except BaseException:
        tally.add("frames", 1, 1)
        raise
    tally.add("frames", 1, 0)


def check_request(row: dict[str, Any]) -> None:
    frame, header, rpc = bytes.fromhex(row["request"]), row["header"], RPCS[row["rpc"]]
    request = parse_request(frame)
    assert ServerSession().feed(frame) == [request]
    assert (request.name, request.seqid, request.version) == (rpc.name, row["seqid"], header["version"])
    assert (request.app_id, request.partition_index) == (header["app_id"], header["partition_index"])
    assert (request.partition_hash, request.timeout_ms) == (int(header["partition_hash"]), header["timeout_ms"])
    argument: Any = rpc.decode_argument(request.data, request.offset)
    assert_carries(plain(argument), expected(row["argument"]))
    assert sent(request, rpc, argument) == frame
    assert sent(request, rpc, built(rpc, row["argument"])) == frame


def assert_carries(got: Any, wanted: Any) -> None:
    """Compare with a recorded argument, which names the fields that were sent; the others have their defaults."""
    if isinstance(wanted, dict):
        for name, value in wanted.items():
            assert_carries(got[name], value)
        assert not [name for name, value in got.items() if name not in wanted and value]
    elif isinstance(wanted, list):
        assert len(got) == len(wanted)
        for item, value in zip(got, wanted, strict=True):
            assert_carries(item, value)
    else:
        assert got == wanted


def built(rpc: Rpc, raw: Any) -> Any:
    return Builder(None, 0).value(rpc.argument, raw)  # type: ignore[arg-type]


def sent(request: Any, rpc: Rpc, argument: Any) -> bytes:
    frame = encode_request(
        rpc,
        request.seqid,
        rpc.encode_argument(argument),
        app_id=request.app_id,
        partition_index=request.partition_index,
        partition_hash=request.partition_hash,
        timeout_ms=request.timeout_ms,
        version=request.version,
        backup=request.backup,
    )
    # The recorder used the message type "call" where this client uses "oneway"; servers ignore the difference.
    kind = frame.index(b"\x80\x01\x00") + 3
    return frame[:kind] + (b"\x04" if request.oneway else b"\x01") + frame[kind + 1 :]


def check_reply(row: dict[str, Any]) -> None:
    if row["reply"] is None:
        assert row["decoded"] is None
        assert RPCS[row["rpc"]].response is None
        return
    frame, wanted = bytes.fromhex(row["reply"]), row["decoded"]
    reply = parse_reply(frame)
    assert (reply.error, reply.name, reply.seqid) == (wanted["frame_error"], wanted["name"], wanted["seq"])
    session = ClientSession()
    session.pending[reply.seqid] = "caller"
    [(_, cut)] = session.feed(frame + b"\0\0")
    assert cut == frame
    result = None
    if reply.offset is None:
        assert "result" not in wanted
    else:
        response = RPCS[row["rpc"]].response
        assert response is not None
        message, end = response.decode(frame, reply.offset)
        assert end == len(frame) - 1
        assert plain(message) == expected(wanted["result"])
        result = message.encode()
        assert response(**vars(message)).encode() == result
    assert encode_reply(row["rpc"], reply.seqid, reply.error, result) == frame
