"""Fast decoder of the rows in replies to multi_get, get_scanner and scan.

Decoding batches of 1,000 rows takes most of a client's time. So the layout that servers write (all fields, in the order
of their ids) is decoded directly. A reply with another layout goes to the general decoder, with the same result or the
same error. Tests compare both.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from ..accelerate import core
from ..errors import ProtocolError
from ..keys import decode_key
from . import fast
from .binary import Buffer
from .rpc import MULTI_GET, Rpc

# Status, head of the list of structs, number of rows.
_START = struct.Struct(">3si4sI")
# A row is read together with the byte before it: the STOP of the previous row, or the last byte of the count.
_KEY = struct.Struct(">II")
_FULL_KEY = struct.Struct(">IIH")
_EXPIRY = struct.Struct(">3si")
# From the last row's STOP to the length of the server's name.
_SCAN_END = struct.Struct(">4sq3si3si3sI")
_MULTI_GET_END = struct.Struct(">4si3si3sI")
_KV_COUNT = struct.Struct(">3si")
# The STOPs of the response and of the result around it.
_END = b"\0\0"
# The STOP of the previous row, and the head of field 1; the same without the STOP. Field 2: its type is 12, its id 2.
_NEXT_ROW, _FIRST_ROW = 0x000C0001, 0x0C0001
_BLOB, _FIELD_2 = 0x0C00, 2
# After this many rows of equal sizes, rows are read together while their sizes stay equal.
ALIKE = 32
_FIELD_3_I32 = b"\x08\0\3"


class Rows(NamedTuple):
    """The content of a reply.

    Attributes:
        status: The storage status.
        rows: Tuples of bytes, see the functions that return them.
        context_id: The context of a scan; -1: the scan is finished, 0: no context. 0 for multi_get.
        kv_count: Rows of this batch of a count-only scan; None: the server does not support count-only scans.
    """

    status: int
    rows: list[Any]
    context_id: int
    kv_count: int | None


def read_rows(rpc: Rpc, frame: Buffer, skip: int = 0, with_expiry: bool = False) -> Rows:
    """Return a reply's rows as (key without its first ``skip`` bytes, value).

    Args:
        rpc: MULTI_GET, GET_SCANNER or SCAN.
        frame: The whole reply.
        skip: Bytes to omit from every key: 0 for a bare sort key; 2 plus the length of the hash key for an encoded key,
            of which the sort key remains.
        with_expiry: Return rows (key, value, expire_ts); 0 means no expiry.

    Raises:
        ProtocolError: The body cannot be read, or a key is shorter than ``skip``.
    """
    data = frame if type(frame) is bytes else bytes(frame)
    found = _usual(rpc, data, skip, with_expiry)
    return found if found is not None else _general(rpc, data, skip, with_expiry)


def read_full_rows(rpc: Rpc, frame: Buffer, with_expiry: bool = False) -> Rows:
    """Return a reply's rows as (hash key, sort key, value), split from encoded keys.

    Args:
        rpc: GET_SCANNER or SCAN.
        frame: The whole reply.
        with_expiry: Return rows (hash key, sort key, value, expire_ts); 0 means no expiry.

    Raises:
        ProtocolError: The body cannot be read, or a key is not an encoded key.
    """
    data = frame if type(frame) is bytes else bytes(frame)
    found = _usual(rpc, data, None, with_expiry)
    return found if found is not None else _general(rpc, data, None, with_expiry)


def _usual(rpc: Rpc, data: bytes, skip: int | None, with_expiry: bool) -> Rows | None:
    """Read the usual layout; None if the layout differs or the data is damaged."""
    try:
        field_1, status, field_2, count = _START.unpack_from(data, rpc.body_offset)
        if field_1 != b"\x08\0\1" or field_2 != b"\x0f\0\2\x0c":
            return None
        pos = rpc.body_offset + _START.size - 1
        rows: list[Any] = []
        if count:
            # A wrong count does no harm: each turn uses at least 15 bytes, and the loops end with the data.
            if core:
                pos = core.cut_rows(data, pos, min(count, len(data)), -1 if skip is None else skip, with_expiry, rows)
            elif skip is None:
                pos = _cut_full_rows(data, pos, count, with_expiry, rows)
            else:
                pos = _cut_rows(data, pos, count, skip, with_expiry, rows)
            if pos < 0:
                return None
        if rpc is MULTI_GET:
            return _multi_get_end(data, pos, status, rows)
        return _scan_end(data, pos, status, rows)
    except (struct.error, IndexError):
        return None


@lru_cache(1024)
def _key_and_value_head(format_: str, first: int, second: int) -> Callable[[bytes, int], tuple[Any, ...]]:
    """Return a reader of the two parts of a key, and of the field head and the length of the value after it.

    The keys of a table have few different lengths.
    """
    return struct.Struct(format_ % (first, second)).unpack_from


@lru_cache(64)
def _whole_row(first: int, second: int, length: int) -> tuple[Callable[[memoryview], Any], int]:
    """Return a reader of rows of these sizes, and the size of a row with the STOP before it.

    The reader returns the bytes up to the hash key, both keys, the bytes up to the value, and the value.
    """
    row = struct.Struct(f">10s{first}s{second}s7s{length}s")
    return row.iter_unpack, row.size


def _cut_rows(data: bytes, pos: int, count: int, skip: int, with_expiry: bool, rows: list[Any]) -> int:
    """Append the rows after pos. Return the position of the last row's STOP, or -1 for an unusual layout."""
    add, key_head, known = rows.append, _KEY.unpack_from, -1
    for _ in range(count):
        mark, size = key_head(data, pos)
        if size != known:
            rest, known = _key_and_value_head(">%dx%dsHBI", skip, size - skip), size
        key, kind, number, size = rest(data, pos + 8)
        value = pos + 15 + known
        pos = value + size
        if number != _FIELD_2 or kind != _BLOB or (mark != _NEXT_ROW and (rows or mark & 0xFFFFFF != _FIRST_ROW)):
            return -1
        if with_expiry:
            field, expire = _EXPIRY.unpack_from(data, pos)
            if field != _FIELD_3_I32:
                return -1
            add((key, data[value:pos], expire))
            pos += 7
        else:
            add((key, data[value:pos]))
    return pos


def _cut_full_rows(data: bytes, pos: int, count: int, with_expiry: bool, rows: list[Any]) -> int:
    """Do the same as ``_cut_rows`` for encoded keys, which begin with the length of the hash key."""
    add, key_head, known, known_middle, known_length = rows.append, _FULL_KEY.unpack_from, -1, -1, -1
    alike = 0
    while len(rows) < count:
        for _ in range(count - len(rows)):
            mark, size, middle = key_head(data, pos)
            if size != known or middle != known_middle:
                rest = _key_and_value_head(">%ds%dsHBI", middle, size - 2 - middle)
                known, known_middle, alike = size, middle, 0
            hash_key, sort_key, kind, number, length = rest(data, pos + 10)
            value = pos + 15 + known
            pos = value + length
            if number != _FIELD_2 or kind != _BLOB or (mark != _NEXT_ROW and (rows or mark & 0xFFFFFF != _FIRST_ROW)):
                return -1
            if with_expiry:
                field, expire = _EXPIRY.unpack_from(data, pos)
                if field != _FIELD_3_I32:
                    return -1
                add((hash_key, sort_key, data[value:pos], expire))
                pos += 7
                continue
            add((hash_key, sort_key, data[value:pos]))
            if length != known_length:
                known_length, alike = length, 0
            elif alike == ALIKE:
                break
            else:
                alike += 1
        if alike == ALIKE:
            alike = 0
            pos = _cut_run(data, pos, middle, size - 2 - middle, length, count, rows)
    return pos


def _cut_run(data: bytes, pos: int, first: int, second: int, length: int, count: int, rows: list[Any]) -> int:
    """Append the next rows while they have the sizes of the last one; return the position after them."""
    read, size = _whole_row(first, second, length)
    head, middle = data[pos - size : pos - size + 10], data[pos - length - 7 : pos - length]
    most = min(count - len(rows), (len(data) - pos) // size)
    add = rows.append
    for start, hash_key, sort_key, field, value in read(memoryview(data)[pos : pos + most * size]):
        if start != head or field != middle:
            break
        add((hash_key, sort_key, value))
        pos += size
    return pos


def _multi_get_end(data: bytes, pos: int, status: int, rows: list[Any]) -> Rows | None:
    """Read the fields after the rows of a multi_get."""
    mark, _, field_4, _, field_6, size = _MULTI_GET_END.unpack_from(data, pos)
    pos += _MULTI_GET_END.size + size
    if mark != b"\0\x08\0\3" or field_4 != b"\x08\0\4" or field_6 != b"\x0b\0\6" or data[pos:] != _END:
        return None
    return Rows(status, rows, 0, None)


def _scan_end(data: bytes, pos: int, status: int, rows: list[Any]) -> Rows | None:
    """Read the fields after the rows of a scan."""
    mark, context_id, field_4, _, field_5, _, field_6, size = _SCAN_END.unpack_from(data, pos)
    if mark != b"\0\x0a\0\3" or field_4 != b"\x08\0\4" or field_5 != b"\x08\0\5" or field_6 != b"\x0b\0\6":
        return None
    pos += _SCAN_END.size + size
    if data[pos:] == _END:
        return Rows(status, rows, context_id, None)
    field_7, kv_count = _KV_COUNT.unpack_from(data, pos)
    if field_7 != b"\x08\0\7" or data[pos + _KV_COUNT.size :] != _END:
        return None
    return Rows(status, rows, context_id, kv_count)


def _general(rpc: Rpc, data: bytes, skip: int | None, with_expiry: bool) -> Rows:
    """Read any layout."""
    response = fast.decode(rpc, data)
    rows: list[Any] = []
    for row in response.kvs:
        tail = (row.value, row.expire_ts_seconds or 0) if with_expiry else (row.value,)
        if skip is None:
            try:
                rows.append((*decode_key(row.key), *tail))
            except ValueError as error:
                raise ProtocolError(f"{rpc.label}: {error}") from None
        elif len(row.key) < skip:
            raise ProtocolError(f"{rpc.label}: a key of {len(row.key)} bytes; {skip} bytes precede the sort key")
        else:
            rows.append((row.key[skip:], *tail))
    return Rows(response.error, rows, getattr(response, "context_id", 0), getattr(response, "kv_count", None))
