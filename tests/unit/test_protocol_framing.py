"""Test headers, message begins and streams: any division of the bytes gives the same frames."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer

from pegasus_green.errors import FrameTooLarge, ProtocolError
from pegasus_green.protocol import rpc, rrdb
from pegasus_green.protocol.framing import (
    MIN_REPLY,
    Request,
    RequestMeta,
    encode_reply,
    encode_request,
    gpid_part,
    parse_body,
    parse_reply,
    parse_request,
    request_size,
    thread_hash,
)
from pegasus_green.protocol.session import MAX_SEQID, ClientSession, ServerSession
from tests.fuzz import idl
from tests.fuzz.streams import Piecewise

CALL, REPLY, EXCEPTION, ONEWAY = 1, 2, 3, 4
I32 = st.integers(-(2**31), 2**31 - 1)
U64 = st.integers(0, 2**64 - 1)
NAMES = st.sampled_from(sorted(idl.RPCS))


def body(name: str, kind: int, seqid: int, argument: bytes, strict: bool = True) -> bytes:
    buffer = TMemoryBuffer()
    TBinaryProtocol(buffer, strictWrite=strict).writeMessageBegin(name, kind, seqid)
    return bytes(buffer.getvalue()) + argument


# ------------------------------------------------------------------------------------------------------------- requests
@settings(max_examples=200)
@given(NAMES, I32, I32, I32, U64, I32, st.binary(max_size=20), st.sampled_from([(0, False), (1, False), (1, True)]))
def test_request_bytes_equal_thrift_and_the_header_tables(
    name: str, seqid: int, app: int, index: int, hashed: int, timeout: int, argument: bytes, how: tuple[int, bool]
) -> None:
    version, backup = how
    row = rpc.BY_NAME[name]
    frame = encode_request(
        row,
        seqid,
        argument,
        app_id=app,
        partition_index=index,
        partition_hash=hashed,
        timeout_ms=timeout,
        version=version,
        backup=backup,
    )
    rest = body(name, ONEWAY if row.response is None else CALL, seqid, argument)
    signed = struct.unpack(">i", struct.pack(">I", (app * 7919 + index) & 0xFFFFFFFF))[0]
    if version == 0:
        head = struct.pack(">4sIIIIIiiiiQ", b"THFT", 0, 48, 0, len(rest), 0, app, index, timeout, signed, hashed)
    else:
        fields = {
            "app_id": app,
            "partition_index": index,
            "client_timeout": timeout,
            "partition_hash": hashed - (1 << 64) if hashed >> 63 else hashed,
            "is_backup_request": backup,
        }
        raw = idl.encode("RequestMeta", fields)
        assert raw.startswith(gpid_part(app, index))
        head = b"THFT" + struct.pack(">III", 1, len(raw), len(rest)) + raw
    assert frame == head + rest
    request = parse_request(frame)
    assert request == Request(
        version,
        app,
        index,
        timeout,
        hashed,
        signed if version == 0 else None,
        backup,
        name,
        seqid,
        row.response is None,
        frame,
        len(frame) - len(argument),
    )
    assert request_size(frame, len(frame)) == len(frame)


def test_header_versions_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="header version 2 does not exist"):
        encode_request(rpc.GET, 1, b"", version=2)
    with pytest.raises(ValueError, match="backup requests need header v1"):
        encode_request(rpc.GET, 1, b"", version=0, backup=True)


@settings(max_examples=50)
@given(st.sets(st.sampled_from([name for _, name, *_ in idl.STRUCTS["RequestMeta"]])), st.binary(max_size=5))
def test_absent_meta_fields_are_0_and_the_body_begins_where_the_header_says(present: set[str], padding: bytes) -> None:
    values: dict[str, Any] = {
        "app_id": 5,
        "partition_index": 6,
        "client_timeout": 7,
        "partition_hash": -8,
        "is_backup_request": True,
    }
    raw = idl.encode("RequestMeta", {name: values[name] for name in present}) + padding
    rest = body("RPC_X", CALL, 9, b"argument")
    request = parse_request(b"THFT" + struct.pack(">III", 1, len(raw), len(rest)) + raw + rest)
    assert request.app_id == ("app_id" in present and 5)
    assert request.partition_index == ("partition_index" in present and 6)
    assert request.timeout_ms == ("client_timeout" in present and 7)
    assert request.partition_hash == ("partition_hash" in present and 2**64 - 8)
    assert request.backup == ("is_backup_request" in present)
    assert (request.name, request.seqid, request.data[request.offset :]) == ("RPC_X", 9, b"argument")


@given(st.text(st.characters(codec="ascii"), max_size=60), I32, st.sampled_from([CALL, ONEWAY]), st.booleans())
def test_message_begins_strict_or_not(name: str, seqid: int, kind: int, strict: bool) -> None:
    raw = body(name, kind, seqid, b"", strict)
    assert parse_body(b"12" + raw, 2) == (name, seqid, kind == ONEWAY, 2 + len(raw))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", [0, REPLY, EXCEPTION, 5, 127])
def test_messages_that_are_not_calls_are_refused(kind: int, strict: bool) -> None:
    with pytest.raises(ProtocolError, match="is not a call"):
        parse_body(body("RPC_X", kind, 1, b"", strict))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HT", "it starts with b'GET '"),
        (b"RDSN", "it starts with b'RDSN'"),
        (b"THFT\0\0\0\2", "version 2 does not exist"),
        (b"THFT\xff\xff\xff\xff", "version 4294967295 does not exist"),
        (b"THFT" + struct.pack(">iiii", 0, 47, 0, 0), "must have 48 bytes, not 47"),
    ],
)
def test_wrong_headers_are_refused_before_the_body_arrives(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        ServerSession().feed(data)
    session = ServerSession()
    assert session.feed(data[:3]) == []
    with pytest.raises(ProtocolError, match=words):
        assert [session.feed(bytes([byte])) for byte in data[3:]] == []


def test_a_request_is_exactly_one_frame() -> None:
    frame = encode_request(rpc.GET, 1, rpc.GET.encode_argument(b"\0\0"))
    for wrong in (b"", frame[:15], frame[:-1], frame + b"\0"):
        with pytest.raises(ProtocolError, match="not exactly one request frame"):
            parse_request(wrong)


# -------------------------------------------------------------------------------------------------------------- replies
@given(st.sampled_from(["ERR_OK", "ERR_BUSY", "ERR_NEVER_HEARD_OF"]), NAMES, I32, st.none() | st.binary(max_size=30))
def test_reply_bytes_equal_thrift(error: str, name: str, seqid: int, result: bytes | None) -> None:
    frame = encode_reply(name, seqid, error, result)
    rest = struct.pack(">i", len(error)) + error.encode() + body(name + "_ACK", REPLY, seqid, b"")
    if result is not None:
        rest += b"\x0c\0\0" + result + b"\0"
    assert frame == struct.pack(">i", len(rest) + 4) + rest
    offset = None if result is None else len(frame) - len(result) - 1
    assert parse_reply(frame) == (error, name + "_ACK", seqid, offset)
    row = rpc.BY_NAME[name]
    assert frame.startswith(row.ok_head, 4) == (error == "ERR_OK")
    if error == "ERR_OK" and result is not None and not row.bare:
        assert offset == row.body_offset


@pytest.mark.parametrize("tail", [b"", b"\0"], ids=["nothing", "an empty result"])
def test_a_reply_without_a_result_is_distinguished(tail: bytes) -> None:
    head = encode_reply("RPC_X", 1)
    assert parse_reply(head + tail).offset is None


@pytest.mark.parametrize("tail", [b"\x08\0\0\0\0\0\0\0", b"\x0c\0\1\0\0", b"\0\0", b"\xff", b"\x0c\0"])
def test_a_body_without_a_result_struct_is_an_error(tail: bytes) -> None:
    # It must not be read as "no body", which means that a write was not applied.
    frame = encode_reply("RPC_X", 1) + tail
    offset = parse_reply(frame).offset
    assert offset is not None
    with pytest.raises(ProtocolError):
        rrdb.UpdateResponse.decode_reply(frame, offset)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"", "truncated"),
        (b"\0\0\0\x20\0\0\0\0", "frame error of 0 bytes"),
        (b"\0\0\0\x20\xff\xff\xff\xff", "frame error of -1 bytes"),
        (b"\0\0\0\x20\0\0\1\0", "frame error of 256 bytes"),
        (b"\0\0\0\x20\0\0\0\2\xff\xfe", "not UTF-8"),
        (encode_reply("X", 1)[:14] + b"\x80\1\0\1" + b"\0\0\0\1X\0\0\0\1", "message begin 0x80010001 is not a reply"),
        (encode_reply("X", 1)[:14] + b"\x80\1\0\3" + b"\0\0\0\1X\0\0\0\1", "message begin 0x80010003 is not a reply"),
        (encode_reply("X", 1)[:14] + b"\x80\1\0\2" + b"\0\0\0\0\0\0\0\1", "message name of 0 bytes"),
        (encode_reply("X", 1)[:14] + b"\x80\1\0\2" + b"\x7f\xff\xff\xff", "message name of 2147483647 bytes"),
    ],
)
def test_envelopes_that_cannot_be_read(frame: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        parse_reply(frame)


@settings(max_examples=200)
@given(
    st.sampled_from(
        [b"ERR_OK", b"ERR_OK", b"ERR_OK", b"ERR_OK2", b"ERR_O", b"ERR_BUSY", b"", b"\xff\xfe", b"E" * 255, b"E" * 256]
    ),
    st.sampled_from([0x80010002, 0x80010002, 0x80010002, 0x80010001, 0x80010003, 0x80010004, 0x80020002, 2, 0]),
    st.sampled_from([b"RPC_RRDB_RRDB_GET_ACK", b"X", b"", b"N" * 47, b"N" * 255, b"N" * 256]),
    I32,
    st.sampled_from([b"", b"\x0c\0\0\0\0", b"x" * 20_000]),
    st.just(0) | st.integers(-40, -1),
)
@example(b"ERR_OK", 0x80010002, b"N" * 255, 5, b"", -1)
@example(b"ERR_OK", 0x80010002, b"RPC_RRDB_RRDB_GET_ACK", 5, b"", -2)
@example(b"ERR_OK", 0x80010002, b"", 5, b"12345", 0)
@example(b"ERR_OK\x80\1\0\2\0\0\0\1X\0\0\0\5", 0x80010002, b"X", 5, b"", 0)
def test_a_frame_in_a_stream_is_read_like_a_single_frame(
    error: bytes, word: int, name: bytes, seqid: int, rest: bytes, more: int
) -> None:
    """The lengths of its parts may be right or wrong."""
    raw = struct.pack(">i", len(error)) + error + struct.pack(">Ii", word, len(name)) + name
    raw += struct.pack(">i", seqid) + rest
    size = max(len(raw) + 4 + more, MIN_REPLY)
    frame = (struct.pack(">i", size) + raw)[:size].ljust(size, b"\0")
    try:
        expected = [(parse_reply(frame).seqid, frame)] * 2
    except ProtocolError:
        behind = encode_reply("RPC_X", 1, result=bytes(500))[:300]
        for stream in (frame, frame + behind):
            with pytest.raises(ProtocolError):
                ClientSession().feed(stream)
        # The bytes before it have arrived.
        session, good = ClientSession(), encode_reply("X", 1)
        assert session.feed(good + frame + behind) == [(1, good)]
        assert session.broken is not None
        with pytest.raises(ProtocolError):
            session.feed(b"")
    else:
        assert [(one, bytes(found)) for one, found in ClientSession().feed(frame * 2)] == expected


# -------------------------------------------------------------------------------------------------------------- streams
def request_stream() -> list[bytes]:
    get, put = rpc.GET.encode_argument(b"\0\1ab"), rpc.PUT.encode_argument(rrdb.UpdateRequest(b"\0\1ab", b"x" * 40))
    place: dict[str, Any] = {"app_id": 2, "partition_index": 1, "partition_hash": 2**64 - 1}
    return [
        encode_request(rpc.GET, 1, get, **place, version=0),
        encode_request(rpc.GET, -2, get, **place, version=1, backup=True),
        encode_request(rpc.PUT, 3, put, **place, version=1),
        encode_request(rpc.CLEAR_SCANNER, 4, rpc.CLEAR_SCANNER.encode_argument(-7), **place, version=0),
        encode_request(rpc.CLUSTER_INFO, 5, b"\0", version=1),
    ]


def reply_stream() -> list[bytes]:
    value = rrdb.ReadResponse(0, b"v" * 20, 2, 1, "host:1").encode()
    return [
        encode_reply(rpc.GET.name, 1, result=value),
        encode_reply(rpc.GET.name, -2, "ERR_OBJECT_NOT_FOUND"),
        encode_reply(rpc.PUT.name, MAX_SEQID),
        encode_reply("X", 4, "E"),
        encode_reply(rpc.TTL.name, 5, result=rrdb.TtlResponse().encode()),
    ]


SEQIDS = [1, -2, MAX_SEQID, 4, 5]


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_requests_are_the_same_in_pieces_of_any_size(step: int) -> None:
    frames = request_stream()
    stream = b"".join(frames)
    session = ServerSession()
    found = [one for at in range(0, len(stream), step) for one in session.feed(stream[at : at + step])]
    assert [request.data for request in found] == frames
    assert found == [parse_request(frame) for frame in frames]


def test_requests_are_the_same_cut_at_every_offset() -> None:
    frames = request_stream()
    stream = b"".join(frames)
    for at in range(len(stream) + 1):
        session = ServerSession()
        found = session.feed(stream[:at]) + session.feed(stream[at:])
        assert [request.data for request in found] == frames, at


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_replies_are_the_same_in_pieces_of_any_size(step: int) -> None:
    frames = reply_stream()
    session = Piecewise()
    for at in range(0, len(b"".join(frames)), step):
        session.feed(b"".join(frames)[at : at + step])
    assert session.frames == list(zip(SEQIDS, frames, strict=True))
    assert session.session.received == len(frames)


def test_replies_are_the_same_cut_at_every_offset() -> None:
    frames = reply_stream()
    stream = b"".join(frames)
    for at in range(len(stream) + 1):
        session = Piecewise()
        session.feed(stream[:at])
        session.feed(stream[at:])
        assert session.frames == list(zip(SEQIDS, frames, strict=True)), at


@settings(max_examples=60)
@given(st.data())
def test_large_and_small_replies_are_the_same_however_they_are_cut(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.sampled_from([0, 30, 16_290, 16_300, 16_400, 40_000, 1_100_000]), max_size=5))
    frames = [encode_reply("RPC_X", number, result=bytes([number]) * size) for number, size in enumerate(sizes)]
    stream = b"".join(frames)
    near = [at for frame in frames for at in (len(frame) - 1, len(frame), 16 * 1024, 22, 4)]
    cuts = data.draw(st.lists(st.integers(0, len(stream)) | st.sampled_from([0, *near]), max_size=6))
    session = Piecewise()
    points = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    for start, end in itertools.pairwise(points):
        session.feed(stream[start:end])
    assert session.frames == list(enumerate(frames))


@settings(max_examples=60)
@given(st.data())
def test_large_and_small_requests_are_the_same_however_they_are_cut(data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.tuples(st.sampled_from([0, 30, 70_000]), st.integers(0, 1)), max_size=5))
    frames = [
        encode_request(rpc.PUT, number, bytes([number]) * size, version=version, partition_hash=number)
        for number, (size, version) in enumerate(shapes)
    ]
    stream = b"".join(frames)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    session, found = ServerSession(), []
    points = sorted({0, len(stream), *cuts})
    for start, end in itertools.pairwise(points):
        found += session.feed(stream[start:end])
    assert [request.data for request in found] == frames
    assert [request.version for request in found] == [version for _, version in shapes]


def test_one_byte_at_a_time_through_a_large_reply() -> None:
    frame = encode_reply("RPC_X", 6, result=b"r" * 20_000)
    session = Piecewise()
    for byte in frame * 2:
        session.feed(bytes([byte]))
    assert session.frames == [(6, frame)] * 2


def test_a_large_reply_before_garbage_is_delivered() -> None:
    large, small = encode_reply("RPC_X", 6, result=b"r" * 50_000), encode_reply("RPC_X", 7, result=b"s")
    session = Piecewise()
    session.feed(large[:40_000])
    session.feed(large[40_000:] + small + b"\xff" * 10)
    assert session.frames == [(6, large), (7, small)]
    with pytest.raises(ProtocolError):
        session.session.feed(b"x")


# ------------------------------------------------------------------------------------------------------------- limits
@pytest.mark.parametrize("size", [0, 1, MIN_REPLY - 1, -1, -(2**31)])
def test_replies_too_short_to_be_one(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"a reply of {size} bytes") as caught:
        ClientSession().feed(struct.pack(">i", size))
    assert not isinstance(caught.value, FrameTooLarge)


def test_the_limit_of_replies() -> None:
    frame = encode_reply("RPC_X", 1, result=b"x" * 100)
    assert ClientSession(max_frame=len(frame)).feed(frame) == [(1, frame)]
    for data in (frame, frame[:4], frame[:30]):
        with pytest.raises(FrameTooLarge, match=f"a reply of {len(frame)} bytes; the limit is {len(frame) - 1}"):
            ClientSession(max_frame=len(frame) - 1).feed(data)


@pytest.mark.parametrize("version", [0, 1])
def test_the_limit_of_requests(version: int) -> None:
    frame = encode_request(rpc.GET, 1, b"x" * 100, version=version)
    assert len(ServerSession(max_frame=len(frame)).feed(frame)) == 1
    for data in (frame, frame[:20]):
        with pytest.raises(FrameTooLarge, match=f"a request of {len(frame)} bytes; the limit is {len(frame) - 1}"):
            ServerSession(max_frame=len(frame) - 1).feed(data)


def test_the_limit_of_requests_can_be_above_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pegasus_green.protocol.framing.DEFAULT_MAX_FRAME", 50)
    frame = encode_request(rpc.GET, 1, b"x" * 100)
    assert len(ServerSession(max_frame=1000).feed(frame)) == 1


def test_lengths_are_unsigned_in_headers() -> None:
    for head in (struct.pack(">III", 1, 0xFFFFFFFF, 0xFFFFFFFF), struct.pack(">IIII", 0, 48, 0, 0xFFFFFFFF)):
        with pytest.raises(FrameTooLarge):
            ServerSession().feed(b"THFT" + head)


# ------------------------------------------------------------------------------------------------------- sequence ids
def test_sequence_ids_wrap_around_and_skip_pending_ones() -> None:
    session = ClientSession()

    assert [session.free_id() for _ in range(3)] == [1, 2, 3]
    assert session.issued == 3
    session.go_on_behind(MAX_SEQID - 1)
    session.pending = dict.fromkeys((1, 2, 4), "waits")
    assert [session.free_id() for _ in range(3)] == [MAX_SEQID, 3, 5]


def test_replies_without_a_pending_request_are_delivered() -> None:
    session = ClientSession()
    frame = encode_reply("RPC_X", 77)
    assert session.feed(frame * 2) == [(77, frame)] * 2
    assert (session.pending, session.received) == ({}, 2)


def test_meta_structs_of_requests_have_37_bytes() -> None:
    assert len(RequestMeta().encode()) == 37
    assert thread_hash(2**31 - 1, 5) == struct.unpack(">i", struct.pack(">I", ((2**31 - 1) * 7919 + 5) % 2**32))[0]
