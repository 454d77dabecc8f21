"""Test the fast codecs of many rows against the general codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pegasus_green.errors import ProtocolError
from pegasus_green.protocol import batches, rpc, rrdb
from pegasus_green.protocol.framing import encode_reply

BYTES = st.binary(max_size=12)
ROWS = st.lists(st.tuples(BYTES, BYTES), max_size=6)
I32 = st.integers(-(2**31), 2**31 - 1)


@given(BYTES, ROWS, I32)
def test_multi_put_bytes_equal_the_general_codec(
    hash_key: bytes, rows: list[tuple[bytes, bytes]], expire_ts: int
) -> None:
    request = rrdb.MultiPutRequest(hash_key, [rrdb.KeyValue(key, value) for key, value in rows], expire_ts)
    raw = batches.multi_put_argument(hash_key, rows, expire_ts)
    assert raw == rpc.MULTI_PUT.encode_argument(request)
    size = sum(batches.ROW_SIZE + len(key) + len(value) for key, value in rows)
    assert len(raw) == len(batches.multi_put_argument(hash_key, (), expire_ts)) + size


@given(BYTES, st.lists(BYTES, max_size=6))
def test_multi_remove_bytes_equal_the_general_codec(hash_key: bytes, keys: list[bytes]) -> None:
    raw = batches.multi_remove_argument(hash_key, keys)
    assert raw == rpc.MULTI_REMOVE.encode_argument(rrdb.MultiRemoveRequest(hash_key, keys, 0))
    size = sum(batches.KEY_SIZE + len(key) for key in keys)
    assert len(raw) == len(batches.multi_remove_argument(hash_key, ())) + size


@given(ROWS)
def test_batch_get_bytes_equal_the_general_codec(keys: list[tuple[bytes, bytes]]) -> None:
    request = rrdb.BatchGetRequest([rrdb.FullKey(hash_key, sort_key) for hash_key, sort_key in keys])
    assert batches.batch_get_argument(keys) == rpc.BATCH_GET.encode_argument(request)


def _reply(rows: list[tuple[bytes, bytes, bytes]], status: int = 0, index: int = 3) -> bytes:
    data = [rrdb.FullData(*row) for row in rows]
    response = rrdb.BatchGetResponse(error=status, data=data, app_id=2, partition_index=index, server="a:1")
    return bytes(encode_reply(rpc.BATCH_GET.name, 1, result=response.encode()))


@given(st.lists(st.tuples(BYTES, BYTES, BYTES), max_size=5), st.sampled_from([0, 4, -1]), st.integers(0, 2**31 - 1))
def test_a_batch_reply_is_read_by_the_fast_codec(
    rows: list[tuple[bytes, bytes, bytes]], status: int, index: int
) -> None:
    frame = _reply(rows, status, index)
    found = (status, {(row[0], row[1]): row[2] for row in rows}, index)
    assert batches.read_batch(frame) == batches.read_batch(memoryview(frame)) == found
    assert batches._usual_batch(frame) == found
    for key, value in batches.read_batch(memoryview(frame))[1].items():
        assert {type(key[0]), type(key[1]), type(value)} <= {bytes}


def test_a_batch_with_another_field_layout() -> None:
    """A missing and an additional field give the result of the general codec."""
    row = b"\x0c\0\2\0\0\0\1s\x0c\0\1\0\0\0\1h\x0c\0\3\0\0\0\1v\x02\0\x09\1\0"
    result = b"\x0f\0\2\x0c\0\0\0\1" + row + b"\x08\0\4\0\0\0\7\0"
    frame = encode_reply(rpc.BATCH_GET.name, 1, result=result)
    assert batches._usual_batch(frame) is None
    assert batches.read_batch(frame) == (0, {(b"h", b"s"): b"v"}, 7)


@settings(max_examples=60)
@given(st.data())
def test_a_truncated_or_changed_batch_raises_or_equals_the_general_codec(data: st.DataObject) -> None:
    """It raises only errors of the package, and gives only results of the general codec."""
    frame = bytearray(_reply([(b"h", b"s", b"v" * 20), (b"h", b"t", b"")]))
    start = rpc.BATCH_GET.body_offset
    if data.draw(st.booleans()):
        del frame[data.draw(st.integers(start, len(frame) - 1)) :]
    else:
        frame[data.draw(st.integers(start, len(frame) - 1))] = data.draw(st.integers(0, 255))

    def outcome(read: Callable[[Any], Any]) -> Any:
        try:
            return read(bytes(frame))
        except ProtocolError:
            return ProtocolError

    def general(raw: bytes) -> Any:
        response: Any = rrdb.BatchGetResponse.decode_reply(raw, start)
        rows = {(row.hash_key, row.sort_key): row.value for row in response.data}
        return response.error, rows, response.partition_index

    quick = batches._usual_batch(bytes(frame))
    found = outcome(batches.read_batch)
    assert found == (quick or outcome(general))


def test_a_huge_count_allocates_nothing() -> None:
    frame = encode_reply(rpc.BATCH_GET.name, 1, result=b"\x08\0\1\0\0\0\0\x0f\0\2\x0c\x7f\xff\xff\xff\0")
    with pytest.raises(ProtocolError):
        batches.read_batch(frame)
