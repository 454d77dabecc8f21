"""Test the fast codecs against the general codec: the same bytes and the same results."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pegasus_green.errors import ProtocolError
from pegasus_green.keys import encode_key
from pegasus_green.protocol import fast, rpc, rrdb
from pegasus_green.protocol.batches import multi_put_argument
from pegasus_green.protocol.framing import encode_reply
from tests.fuzz import idl

BYTES = st.binary(max_size=20)
I32 = st.integers(-(2**31), 2**31 - 1)
UPDATES = (rpc.PUT, rpc.REMOVE, rpc.MULTI_PUT)


@given(BYTES | st.sampled_from([b"k" * 65534]), BYTES)
def test_key_arguments_equal_the_general_codec(hash_key: bytes, sort_key: bytes) -> None:
    raw = fast.key_argument(hash_key, sort_key)
    for row in (rpc.GET, rpc.TTL, rpc.REMOVE):
        assert raw == row.encode_argument(encode_key(hash_key, sort_key))


@given(BYTES, BYTES, BYTES, I32)
def test_put_arguments_equal_the_general_codec(hash_key: bytes, sort_key: bytes, value: bytes, expire_ts: int) -> None:
    request = rrdb.UpdateRequest(encode_key(hash_key, sort_key), value, expire_ts)
    assert fast.put_argument(hash_key, sort_key, value, expire_ts) == rpc.PUT.encode_argument(request)


@pytest.mark.parametrize("size", [0, 3, fast.LARGE])
@given(I32, I32)
def test_a_later_expiry_equals_a_new_argument(size: int, expiry: int, seconds: int) -> None:
    after = min(max(expiry + seconds, 1), 2**31 - 1) if expiry else 0

    def put(expiry: int) -> bytes:
        return fast.put_argument(b"h", b"s", bytes(size), expiry)

    def multi_put(expiry: int) -> bytes:
        return multi_put_argument(b"h", [(b"s", bytes(size))], expiry)

    for make in (put, multi_put):
        found, wanted = fast.postpone(make(expiry), seconds), make(after if seconds else expiry)
        assert type(found) is type(wanted)
        assert len(found) == len(wanted)
        assert b"" + found == wanted if isinstance(wanted, bytes) else found.join() == wanted.join()


@settings(max_examples=200)
@given(idl.values("ReadResponse"), st.sampled_from([0, 1, 13, -1]))
def test_values_equal_the_general_codec(value: dict[str, Any], status: int) -> None:
    frame = encode_reply(rpc.GET.name, 1, result=idl.encode("ReadResponse", value | {"error": status}))
    for shape in (frame, memoryview(frame), bytearray(frame)):
        found = fast.read_value(shape)
        assert found == (status, value["value"])
        assert type(found[1]) is bytes


@settings(max_examples=100)
@given(idl.values("UpdateResponse"), st.sampled_from(UPDATES))
def test_statuses_equal_the_general_codec(value: dict[str, Any], row: rpc.Rpc) -> None:
    frame = encode_reply(row.name, 1, result=idl.encode("UpdateResponse", value))
    assert fast.read_status(row, frame) == fast.read_status(row, memoryview(frame)) == value["error"]


@settings(max_examples=100)
@given(st.data())
def test_replies_with_another_field_layout(data: st.DataObject) -> None:
    """Reordered, missing and additional fields give the result of the general codec."""
    for row, kind in ((rpc.GET, "ReadResponse"), (rpc.PUT, "UpdateResponse")):
        value = data.draw(idl.values(kind))
        fields = [
            idl.encode(kind, {name: value[name]})[:-1]
            for name in data.draw(st.lists(st.sampled_from(sorted(value)), unique=True))
        ]
        extra = struct.pack(">BHi", 8, 99, 5)
        fields.insert(data.draw(st.integers(0, len(fields))), extra * data.draw(st.integers(0, 1)))
        frame = encode_reply(row.name, 1, result=b"".join(fields) + b"\0")
        assert row.response is not None
        response: Any = row.response.decode_reply(frame, row.body_offset)
        if row is rpc.GET:
            assert fast.read_value(frame) == (response.error, response.value)
        else:
            assert fast.read_status(row, frame) == response.error
        assert fast.decode(row, frame) == response


@pytest.mark.parametrize("tail", [b"", b"\0", b"\x0c", b"\x0c\0\0", b"\x0c\0\0\x0c"])
def test_replies_without_a_result(tail: bytes) -> None:
    for row in (rpc.GET, rpc.PUT, rpc.TTL):
        frame = encode_reply(row.name, 1) + tail
        with pytest.raises(ProtocolError):
            fast.decode(row, frame)
    with pytest.raises(ProtocolError):
        fast.read_value(encode_reply(rpc.GET.name, 1) + tail)
    with pytest.raises(ProtocolError):
        fast.read_status(rpc.PUT, encode_reply(rpc.PUT.name, 1) + tail)


def outcome(act: Callable[..., Any], *args: Any) -> Any:
    try:
        return act(*args)
    except ProtocolError:
        return ProtocolError


def test_wrong_value_sizes_and_truncated_replies_equal_the_general_codec() -> None:
    whole = encode_reply(rpc.GET.name, 1, result=rrdb.ReadResponse(0, b"value", 1, 2, "host:1").encode())
    fast.read_value(whole)  # the cache of the fast reader must not affect a damaged reply
    start = rpc.GET.body_offset
    for size in (*range(-2, len(whole)), 2**31 - 1, -(2**31)):
        for status in (0, 1):
            head = struct.pack(">3si3si", b"\x08\0\1", status, b"\x0c\0\2", size)
            frame = whole[:start] + head + whole[start + 14 :]
            for end in range(start, len(frame) + 1):
                general = outcome(rrdb.ReadResponse.decode_reply, frame[:end], start)
                expected = general if general is ProtocolError else (general.error, general.value)
                assert outcome(fast.read_value, frame[:end]) == expected


def test_statuses_of_truncated_replies_equal_the_general_codec() -> None:
    frame = encode_reply(rpc.PUT.name, 1, result=rrdb.UpdateResponse(0, 1, 2, 3, "host:1").encode())
    start = rpc.PUT.body_offset
    assert fast.read_status(rpc.PUT, frame) == 0
    for end in range(start, len(frame) + 1):
        general = outcome(rrdb.UpdateResponse.decode_reply, frame[:end], start)
        expected = general if general is ProtocolError else general.error
        assert outcome(fast.read_status, rpc.PUT, frame[:end]) == expected
