"""Test invalid bytes: they raise a ProtocolError at once, and announced lengths take no memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pegasus_green.errors import FrameTooLarge, ProtocolError
from pegasus_green.protocol import meta, rpc, rrdb
from pegasus_green.protocol.binary import MAX_DEPTH
from pegasus_green.protocol.framing import encode_reply, encode_request, parse_reply, parse_request
from pegasus_green.protocol.message import Message
from pegasus_green.protocol.session import COLLECT_FROM, FIRST_RESERVE, ClientSession, ServerSession
from tests.fuzz import idl

KINDS = sorted(idl.STRUCTS)
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x000F4240, 0x0C000100)
BYTES = (0, 1, 2, 3, 4, 6, 8, 10, 11, 12, 13, 14, 15, 0x7F, 0x80, 0xFF)


def tolerated(act: Callable[..., Any], *args: Any) -> Any:
    """Return the result of act, or None for the only error that it may raise."""
    try:
        return act(*args)
    except ProtocolError:
        return None


def damaged(raw: bytes, step: int = 1) -> Iterator[bytes]:
    """Yield raw with one byte, or four bytes, replaced by the worst values, at every offset or every step-th one."""
    for at in range(0, len(raw), step):
        for byte in BYTES:
            yield raw[:at] + bytes([byte]) + raw[at + 1 :]
    for at in range(0, len(raw) - 3, step):
        for number in NUMBERS:
            yield raw[:at] + struct.pack(">I", number) + raw[at + 4 :]


def peak_of(act: Callable[..., Any], *args: Any) -> int:
    """Return the most bytes that were allocated at a time while act ran."""
    tolerated(act, *args)
    tracemalloc.start()
    try:
        tolerated(act, *args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ----------------------------------------------------------------------------------------------------------- truncation
@pytest.mark.parametrize("kind", KINDS)
def test_every_struct_cut_at_every_offset_is_a_protocol_error(kind: str) -> None:
    raw = idl.encode(kind, idl.sample(kind))
    for end in range(len(raw)):
        for decode in (idl.CLASSES[kind].decode, idl.CLASSES[kind].decode_reply):
            with pytest.raises(ProtocolError):
                decode(raw[:end])


@pytest.mark.parametrize("name", sorted(idl.RPCS))
def test_every_reply_cut_at_every_offset_is_an_error(name: str) -> None:
    row = rpc.BY_NAME[name]
    if row.response is None:
        return
    kind = row.response.__name__
    result = idl.encode(kind, idl.sample(kind))
    frame = encode_reply(name, 5) + result if row.bare else encode_reply(name, 5, result=result)
    envelope = row.body_offset - (0 if row.bare else 3)
    for end in range(len(frame)):
        reply = tolerated(parse_reply, frame[:end])
        assert (reply is None) == (end < envelope)
        if reply is not None:
            assert (reply.offset is None) == (end == envelope)
        if reply is not None and reply.offset is not None and end < len(frame) - 1:
            with pytest.raises(ProtocolError):
                row.response.decode_reply(frame[:end], row.body_offset if row.bare else reply.offset)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("name", sorted(idl.RPCS))
def test_every_request_cut_at_every_offset_is_an_error(name: str, version: int) -> None:
    row = rpc.BY_NAME[name]
    kind = idl.RPCS[name].split()[0]
    argument = row.encode_argument(idl.build(kind, idl.sample(kind)))
    frame = encode_request(row, 5, argument, version=version)
    for end in range(len(frame)):
        with pytest.raises(ProtocolError):
            parse_request(frame[:end])
        assert ServerSession().feed(frame[:end]) == []
    header = len(frame) - row.body_base - len(argument)
    for end in range(len(frame) - header):
        # The body is cut and the header has the new length: present fields are read, a missing one is an error.
        short = frame[: header + end]
        size_at = 16 if version == 0 else 12
        short = short[:size_at] + struct.pack(">I", end) + short[size_at + 4 :]
        if end < row.body_base:
            with pytest.raises(ProtocolError):
                parse_request(short)
        else:
            request = parse_request(short)
            assert tolerated(row.decode_argument, short, request.offset) is None or end == len(frame) - header - 1


# --------------------------------------------------------------------------------------------------------------- damage
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_struct_gives_a_message_or_a_protocol_error(kind: str) -> None:
    cls = idl.CLASSES[kind]
    whole = idl.encode(kind, idl.sample(kind))
    # The structs inside a long one are tried at every offset by themselves.
    for raw in damaged(whole, step=1 + len(whole) // 200):
        found = tolerated(cls.decode, raw)
        if found is not None:
            assert 0 < found[1] <= len(raw)
        tolerated(cls.decode_reply, raw)


@pytest.mark.parametrize("version", [0, 1])
def test_a_damaged_request_gives_a_request_or_a_protocol_error(version: int) -> None:
    argument = rpc.MULTI_PUT.encode_argument(idl.build("MultiPutRequest", idl.sample("MultiPutRequest")))
    for frame in damaged(encode_request(rpc.MULTI_PUT, 5, argument, version=version)):
        for request in tolerated(ServerSession().feed, frame) or ():
            row = rpc.BY_NAME.get(request.name)
            if row is not None:
                tolerated(row.decode_argument, request.data, request.offset)


def test_a_damaged_reply_gives_a_reply_or_a_protocol_error() -> None:
    raw = idl.encode("ScanResponse", idl.sample("ScanResponse"))
    for frame in damaged(encode_reply(rpc.SCAN.name, 5, result=raw)):
        for _, found in tolerated(ClientSession().feed, frame) or ():
            reply = tolerated(parse_reply, found)
            if reply is not None and reply.offset is not None:
                tolerated(rrdb.ScanResponse.decode_reply, found, reply.offset)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.sampled_from(KINDS))
def test_random_bytes_are_decoded_or_a_protocol_error(data: bytes, kind: str) -> None:
    cls = idl.CLASSES[kind]
    for act in (cls.decode, cls.decode_reply, parse_reply, parse_request, rpc.GET.decode_argument):
        tolerated(act, data)
    for session in (ClientSession(), ServerSession()):
        tolerated(session.feed, data)
    tolerated(ServerSession().feed, b"THFT" + data)
    tolerated(ClientSession().feed, struct.pack(">i", len(data) + 4) + data)


def test_the_damaged_field_is_named() -> None:
    raw = rrdb.MultiGetResponse(kvs=[rrdb.KeyValue(b"key", b"value")]).encode()
    short = raw.replace(b"\0\0\0\5value", b"\x7f\xff\xff\xffvalue")
    with pytest.raises(ProtocolError, match=r"^MultiGetResponse\.kvs: KeyValue\.value: truncated: 2147483647 bytes"):
        rrdb.MultiGetResponse.decode_reply(short)


@pytest.mark.parametrize("size", [-1, -(2**31), 2**31 - 1, 100])
def test_blobs_and_texts_of_wrong_lengths(size: int) -> None:
    for head, cls in (
        (b"\x0c\0\2", rrdb.ReadResponse),
        (b"\x0b\0\6", rrdb.ReadResponse),
        (b"\x0b\0\x63", rrdb.ReadResponse),
    ):
        with pytest.raises(ProtocolError):
            cls.decode_reply(head + struct.pack(">i", size) + b"0123456789\0")


def test_invalid_utf8_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match=r"ReadResponse\.server: a text of 2 bytes is not UTF-8"):
        rrdb.ReadResponse.decode_reply(b"\x0b\0\6\0\0\0\2\xff\xfe\0")


@pytest.mark.parametrize("code", [1, 5, 7, 9, 16, 0x7F, 0xFF])
def test_type_bytes_that_do_not_exist(code: int) -> None:
    with pytest.raises(ProtocolError, match=f"type byte {code} does not exist"):
        rrdb.ReadResponse.decode_reply(bytes([code, 0, 99]) + b"\0" * 20)


# -------------------------------------------------------------------------------------------------- depth, counts, time
@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 10_000, 200_000])
@pytest.mark.parametrize("unit", [b"\x0f\0\0\0\1", b"\x0e\0\0\0\1", b"\x0d\2\0\0\0\1"], ids=["lists", "sets", "maps"])
def test_deep_nesting_is_refused(unit: bytes, depth: int) -> None:
    data = unit[:1] + b"\0\x63" + (unit[1:] + unit[:1]) * depth + b"\0" * 40
    # The element type of the last unit must be first: lists of lists of lists...
    data = data.replace(b"\0\x63\0\0\0\1", b"\0\x63" + unit[:1] + b"\0\0\0\1")
    with pytest.raises(ProtocolError):
        rrdb.ReadResponse.decode_reply(data)


def test_nesting_up_to_the_bound_is_skipped() -> None:
    for depth in range(1, MAX_DEPTH):
        data = b"\x0f\0\x63" + b"\x0f\0\0\0\1" * depth + b"\x08\0\0\0\1\0\0\0\1" + b"\x08\0\1\0\0\0\5\0"
        assert rrdb.ReadResponse.decode_reply(data).error == 5


ZEROS = bytes(1_000_000)
MANY = {
    "structs of one byte": b"\x0f\0\2\x0c\0\x0f\x42\x40" + ZEROS,
    "structs of one byte, almost": b"\x0f\0\2\x0c\0\x03\x0d\x41" + ZEROS,
    "structs that are not there": b"\x0f\0\2\x0c\x7f\xff\xff\xff",
    "a negative count": b"\x0f\0\2\x0c\xff\xff\xff\xff" + ZEROS,
    "unknown strings": b"\x0f\0\x63\x0b\0\x0f\x42\x40" + ZEROS,
    "unknown numbers, cut": b"\x0f\0\x63\x08\0\x0f\x42\x40" + ZEROS,
    "unknown bytes": b"\x0f\0\x63\x03\0\x0f\x42\x40" + ZEROS,
    "unknown lists": b"\x0f\0\x63\x0f\0\x0f\x42\x40" + ZEROS,
    "unknown nothing": b"\x0f\0\x63\x01\0\x0f\x42\x40" + ZEROS,
    "unknown stops": b"\x0f\0\x63\x00\0\x0f\x42\x40" + ZEROS,
    "unknown map": b"\x0d\0\x63\x03\x0b\0\x0f\x42\x40" + ZEROS,
    "a text of everything": b"\x0b\0\6\x7f\xff\xff\xff" + ZEROS,
}


@pytest.mark.parametrize("what", MANY)
def test_false_counts_cost_neither_time_nor_memory(what: str) -> None:
    data = MANY[what]
    started = time.process_time()
    tolerated(rrdb.MultiGetResponse.decode_reply, data)
    assert time.process_time() - started < 1.0
    assert peak_of(rrdb.MultiGetResponse.decode_reply, data[:200_000]) < 50_000


def test_elements_without_a_field_are_read_when_there_are_few() -> None:
    raw = b"\x0f\0\1\x0c\0\0\4\0" + bytes(1024) + b"\0"
    assert rrdb.BatchGetRequest.decode(raw)[0].keys == [rrdb.FullKey()] * 1024
    raw = b"\x0f\0\1\x0c\0\0\4\1" + bytes(1025) + b"\0"
    with pytest.raises(ProtocolError, match=r"BatchGetRequest\.keys: a list of 1025 elements"):
        rrdb.BatchGetRequest.decode(raw)


# Field number of the list, and the elements that are largest in memory for their size on the wire.
SHORTEST: dict[str, tuple[type[Message], int, bytes]] = {
    "key_value": (rrdb.MultiGetResponse, 2, b"\x0c\0\1\0\0\0\0\0"),
    "full_key": (rrdb.BatchGetRequest, 1, b"\x02\0\x63\1" * 2 + b"\0"),
    "full_data": (rrdb.BatchGetResponse, 2, b"\x02\0\x63\1" * 3 + b"\0"),
    "mutate": (rrdb.CheckAndMutateRequest, 5, b"\x08\0\1\0\0\0\1" * 2 + b"\0"),
    "partition": (meta.QueryCfgResponse, 5, b"\x02\0\x63\1" * 9 + b"\0"),
    "app": (meta.ListAppsResponse, 2, b"\x02\0\x63\1" * 13 + b"\0"),
    "node": (meta.ListNodesResponse, 2, b"\x02\0\x63\1" * 2 + b"\0"),
    "blob": (rrdb.MultiRemoveRequest, 2, b"\0\0\0\0"),
}


@pytest.mark.parametrize("what", SHORTEST)
def test_memory_is_proportional_to_the_received_bytes(what: str) -> None:
    cls, number, element = SHORTEST[what]
    count = 5_000
    data = struct.pack(">BHBi", 15, number, 12, count) + element * count + b"\0"
    assert cls.decode(data)[1] == len(data)
    # At most 12 times; Python 3.10 gives every instance a whole dict and takes up to 36.
    assert peak_of(cls.decode, data) < 45 * len(data)


@pytest.mark.parametrize("kind", ["QueryCfgResponse", "ScanResponse", "ListAppsResponse", "ClusterInfoResponse"])
def test_damaged_lengths_take_no_memory(kind: str) -> None:
    raw = idl.encode(kind, idl.sample(kind))
    cls = idl.CLASSES[kind]
    tracemalloc.start()
    try:
        for at in range(len(raw) - 3):
            for number in NUMBERS:
                data = raw[:at] + struct.pack(">I", number) + raw[at + 4 :]
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                tolerated(cls.decode_reply, data)
                assert tracemalloc.get_traced_memory()[1] - before < 50_000, (at, number)
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------- promises of a stream
def test_an_announced_reply_takes_no_memory_before_its_bytes_arrive() -> None:
    promise = struct.pack(">i", 64 * 1024 * 1024)
    assert peak_of(lambda: ClientSession().feed(promise)) < FIRST_RESERVE + 10_000
    assert peak_of(lambda: ClientSession().feed(struct.pack(">i", COLLECT_FROM) + b"1234")) < 10_000


def test_the_buffer_of_a_large_reply_grows_with_the_received_bytes() -> None:
    size = 64 * 1024 * 1024

    def half() -> None:
        session = ClientSession()
        session.feed(struct.pack(">i", size) + b"\0\0\0\6ERR_OK")
        for _ in range(40):
            room = session.buffer()
            assert room is not None
            taken = min(len(room), 64 * 1024)
            room.release()
            session.filled(taken)

    # 40 x 64 KiB have come: 2.5 MiB. Doubling holds 4 MiB, and both halves of a copy for a moment.
    assert peak_of(half) < 9 * 1024 * 1024


@pytest.mark.parametrize("version", [0, 1])
def test_an_announced_request_takes_no_memory_before_its_bytes_arrive(version: int) -> None:
    size = 60 * 1024 * 1024
    head = struct.pack(">iiii", 0, 48, 0, size) if version == 0 else struct.pack(">iii", 1, 37, size)
    assert peak_of(lambda: ServerSession().feed(b"THFT" + head + bytes(100))) < 10_000


@pytest.mark.parametrize("size", [64 * 1024 * 1024 + 1, 2**31 - 1])
def test_too_large_replies_are_refused_from_their_first_four_bytes(size: int) -> None:
    with pytest.raises(FrameTooLarge):
        ClientSession().feed(struct.pack(">i", size))


def test_an_error_of_one_message_leaves_the_class_as_it_was() -> None:
    before = {cls: cls.decode(b"\0")[0] for cls in idl.CLASSES.values()}
    for cls in idl.CLASSES.values():
        for raw in (b"\x0c", b"\x0f\0\2\x0c\0\0\0\1", b"\x0d\0\6\x0b\x0b\0\0\0\1\0\0\0\0\0\0\0\0"):
            tolerated(cls.decode_reply, raw)
    assert {cls: cls.decode(b"\0")[0] for cls in idl.CLASSES.values()} == before
    assert all(isinstance(message, Message) for message in before.values())
