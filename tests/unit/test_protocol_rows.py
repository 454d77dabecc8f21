"""Test that the fast reader of rows gives the results and errors of the general decoder for all bytes."""

from __future__ import annotations

import struct
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pegasus_green.errors import ProtocolError
from pegasus_green.keys import decode_key, encode_key
from pegasus_green.protocol import fast, rows
from pegasus_green.protocol.framing import encode_reply
from pegasus_green.protocol.rows import Rows, read_full_rows, read_rows
from pegasus_green.protocol.rpc import GET_SCANNER, MULTI_GET, SCAN, Rpc
from pegasus_green.protocol.rrdb import KeyValue, MultiGetResponse, ScanResponse

I32 = st.integers(-(2**31), 2**31 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.builds(encode_key, st.binary(max_size=20), st.binary(max_size=20))
SERVER = st.text(max_size=20)


def pairs(keys: st.SearchStrategy[bytes], expiry: st.SearchStrategy[int | None]) -> st.SearchStrategy[list[KeyValue]]:
    return st.lists(st.builds(KeyValue, key=keys, value=st.binary(max_size=40), expire_ts_seconds=expiry), max_size=8)


# Every row with an expiry, no row with one, and a mixture that no server sends.
EXPIRIES = (st.none(), I32, st.none() | I32)
SCANS = st.one_of(
    *(
        st.builds(
            ScanResponse,
            error=I32,
            kvs=pairs(KEYS, expiry),
            context_id=I64,
            app_id=I32,
            partition_index=I32,
            server=SERVER,
            kv_count=st.none() | I32,
        )
        for expiry in EXPIRIES
    )
)
MULTI_GETS = st.builds(
    MultiGetResponse,
    error=I32,
    kvs=pairs(st.binary(max_size=30), st.none() | I32),
    app_id=I32,
    partition_index=I32,
    server=SERVER,
)


def frame_of(rpc: Rpc, response: Any) -> bytes:
    return encode_reply(rpc.name, 7, result=bytes(response.encode()))


def expected(response: Any, skip: int | None, with_expiry: bool) -> Rows:
    found = []
    for kv in response.kvs:
        key = decode_key(kv.key) if skip is None else (kv.key[skip:],)
        found.append((*key, kv.value, kv.expire_ts_seconds or 0) if with_expiry else (*key, kv.value))
    context_id = getattr(response, "context_id", 0)
    return Rows(response.error, found, context_id, getattr(response, "kv_count", None))


def outcome(read: Any, *args: Any) -> Any:
    try:
        return read(*args)
    except ProtocolError:
        return ProtocolError


@given(SCANS, st.booleans(), st.sampled_from([SCAN, GET_SCANNER]))
def test_full_rows_equal_the_general_decoder(response: ScanResponse, with_expiry: bool, rpc: Rpc) -> None:
    assert read_full_rows(rpc, frame_of(rpc, response), with_expiry) == expected(response, None, with_expiry)


@given(SCANS, st.booleans(), st.sampled_from([bytes, bytearray, memoryview]))
def test_rows_of_a_scan(response: ScanResponse, with_expiry: bool, kind: Any) -> None:
    assert read_rows(SCAN, kind(frame_of(SCAN, response)), 2, with_expiry) == expected(response, 2, with_expiry)


@given(MULTI_GETS)
def test_rows_of_multi_get(response: MultiGetResponse) -> None:
    assert read_rows(MULTI_GET, frame_of(MULTI_GET, response)) == expected(response, 0, False)


@pytest.mark.parametrize("with_expiry", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 1000])
def test_the_usual_layout_never_needs_the_general_decoder(
    count: int, with_expiry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast reader that always used the general decoder would pass every other test."""
    kvs = [KeyValue(encode_key(b"h%d" % i, b"s"), b"v" * (i % 300), 5 if with_expiry else None) for i in range(count)]
    scan = ScanResponse(error=0, kvs=kvs, context_id=-7, app_id=1, partition_index=2, server="a:1")
    counted = ScanResponse(error=0, kvs=kvs, context_id=-7, app_id=1, partition_index=2, server="a:1", kv_count=3)
    many = MultiGetResponse(error=7, kvs=kvs, app_id=1, partition_index=2, server="a:1")
    monkeypatch.setattr(rows, "_general", None)
    assert read_full_rows(SCAN, frame_of(SCAN, scan), with_expiry) == expected(scan, None, with_expiry)
    assert read_rows(SCAN, frame_of(SCAN, counted), 2, with_expiry) == expected(counted, 2, with_expiry)
    assert read_rows(MULTI_GET, frame_of(MULTI_GET, many), 0, with_expiry) == expected(many, 0, with_expiry)


def general(rpc: Rpc, frame: bytes, skip: int | None, with_expiry: bool) -> Rows:
    """Return the result of the general decoder for a frame."""
    response = fast.decode(rpc, frame)
    for kv in response.kvs:
        if skip is not None and len(kv.key) < skip:
            raise ProtocolError("short")
        try:
            decode_key(kv.key) if skip is None else None
        except ValueError:
            raise ProtocolError("no encoded key") from None
    return expected(response, skip, with_expiry)


def fast_read(rpc: Rpc, frame: bytes, skip: int | None, with_expiry: bool) -> Rows:
    return read_full_rows(rpc, frame, with_expiry) if skip is None else read_rows(rpc, frame, skip, with_expiry)


@given(SCANS, st.booleans(), st.sampled_from([None, 2, 7]))
def test_rows_truncated_at_any_offset_raise_like_the_general_decoder(
    response: ScanResponse, with_expiry: bool, skip: int | None
) -> None:
    frame = frame_of(SCAN, response)
    for size in range(SCAN.body_offset, len(frame) + 1):
        cut = frame[:size]
        assert outcome(fast_read, SCAN, cut, skip, with_expiry) == outcome(general, SCAN, cut, skip, with_expiry)


@given(MULTI_GETS)
def test_truncation_of_multi_get(response: MultiGetResponse) -> None:
    frame = frame_of(MULTI_GET, response)
    for size in range(MULTI_GET.body_offset, len(frame) + 1):
        cut = frame[:size]
        assert outcome(fast_read, MULTI_GET, cut, 0, False) == outcome(general, MULTI_GET, cut, 0, False)


@given(SCANS, st.data(), st.booleans(), st.sampled_from([None, 2]))
def test_a_changed_byte_gives_the_result_of_the_general_decoder(
    response: ScanResponse, data: st.DataObject, with_expiry: bool, skip: int | None
) -> None:
    response.server = ""  # the fast reader does not look into the server's name, the general one refuses bad UTF-8
    frame = bytearray(frame_of(SCAN, response))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(SCAN.body_offset, len(frame) - 1))] = data.draw(st.integers(0, 255))
    slow = outcome(general, SCAN, bytes(frame), skip, with_expiry)
    quick = outcome(fast_read, SCAN, bytes(frame), skip, with_expiry)
    if quick != slow:
        # The only difference: invalid UTF-8 in the server name.
        assert slow is ProtocolError
        with pytest.raises(ProtocolError, match="UTF-8"):
            general(SCAN, bytes(frame), skip, with_expiry)


# Sizes of hash key, sort key and value, and the number of rows in a row that have them.
RUNS = st.lists(st.tuples(*[st.integers(0, 2)] * 3, st.integers(1, 6)), max_size=6)


def scan_of_runs(runs: list[tuple[int, ...]]) -> ScanResponse:
    """Return a batch whose rows have these sizes, and different contents."""
    sizes = [run[:3] for run in runs for _ in range(run[3])]
    contents = [[bytes([number % 256]) * size for size in three] for number, three in enumerate(sizes)]
    kvs = [KeyValue(encode_key(hash_key, sort_key), value) for hash_key, sort_key, value in contents]
    return ScanResponse(error=0, kvs=kvs, context_id=-1, app_id=1, partition_index=2, server="a:1")


@given(RUNS, st.data(), st.integers(0, 3))
def test_rows_of_equal_sizes_that_are_read_together(runs: Any, data: st.DataObject, alike: int) -> None:
    """Whole, with a changed byte and truncated, the frame gives the result of the general decoder."""
    response = scan_of_runs(runs)
    frame = bytearray(frame_of(SCAN, response))
    with mock.patch.object(rows, "ALIKE", alike):
        with mock.patch.object(rows, "_general", None):
            assert read_full_rows(SCAN, bytes(frame)) == expected(response, None, False)
        frame[data.draw(st.integers(SCAN.body_offset, len(frame) - 8))] = data.draw(st.integers(0, 255))
        for some in (bytes(frame), bytes(frame[: data.draw(st.integers(SCAN.body_offset, len(frame)))])):
            assert outcome(fast_read, SCAN, some, None, False) == outcome(general, SCAN, some, None, False)


@pytest.mark.parametrize("more", [0, 1, 2, 40])
def test_a_run_of_equal_rows_ends_at_any_row(more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    response = scan_of_runs([(2, 3, 5, rows.ALIKE + more), (2, 3, 6, 3), (2, 3, 5, 2 * rows.ALIKE), (1, 4, 5, 2)])
    monkeypatch.setattr(rows, "_general", None)
    assert read_full_rows(SCAN, frame_of(SCAN, response)) == expected(response, None, False)


@given(st.binary(max_size=200))
@example(b"\x08\0\1\0\0\0\0\x0f\0\2\x0c\xff\xff\xff\xff")
@example(b"\x08\0\1\0\0\0\0\x0f\0\2\x0c\x7f\xff\xff\xff\x0c\0\1\xff\xff\xff\xff")
def test_random_bytes_raise_like_the_general_decoder(body: bytes) -> None:
    frame = frame_of(SCAN, ScanResponse())[: SCAN.body_offset] + body
    assert outcome(fast_read, SCAN, frame, None, False) == outcome(general, SCAN, frame, None, False)


@given(SCANS)
def test_fields_of_newer_servers(response: ScanResponse) -> None:
    """Unknown fields before STOP and inside the rows are read by the general decoder."""
    body = bytes(response.encode())
    longer = encode_reply(SCAN.name, 7, result=body[:-1] + struct.pack(">BHi", 8, 90, 5) + b"\0")
    assert read_full_rows(SCAN, longer) == expected(response, None, False)


def test_a_key_shorter_than_what_comes_before_the_sort_key() -> None:
    frame = frame_of(SCAN, ScanResponse(kvs=[KeyValue(b"\0\1a", b"v")], context_id=-1))
    with pytest.raises(ProtocolError, match="3 bytes"):
        read_rows(SCAN, frame, 4)
    with pytest.raises(ProtocolError, match="hash key"):
        read_full_rows(SCAN, frame_of(SCAN, ScanResponse(kvs=[KeyValue(b"\0\2a", b"v")])))
