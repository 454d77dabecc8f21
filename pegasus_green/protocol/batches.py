"""Fast encoders for requests with many rows, and a fast decoder for batch_get. Tests compare them with Message."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from .binary import Buffer
from .fast import decode
from .rpc import BATCH_GET

_HEAD = struct.Struct(">3si")
_LIST = struct.Struct(">4si")
_LENGTH = struct.Struct(">i")
_EXPIRY = struct.Struct(">3si2s")
_MAX_COUNT = struct.Struct(">3sq2s")
_STATUS_AND_LIST = struct.Struct(">3si4si")
_IDS = struct.Struct(">3si3si")
_FIELD_1_STRUCT = b"\x0c\0\1"
_FIELD_2_BLOB = b"\x0c\0\2"
_FIELD_3_BLOB = b"\x0c\0\3"
_FIELD_1_I32 = b"\x08\0\1"
_FIELD_3_I32 = b"\x08\0\3"
_FIELD_3_I64 = b"\x0a\0\3"
_FIELD_1_STRUCTS = b"\x0f\0\1\x0c"
_FIELD_2_STRUCTS = b"\x0f\0\2\x0c"
# Bytes of a row in a multi_put besides its data (two blob fields, STOP), and of a key in a multi_remove.
ROW_SIZE = 15
KEY_SIZE = 4


def multi_put_argument(hash_key: bytes, rows: Iterable[tuple[bytes, bytes]], expire_ts: int) -> bytes:
    """Return the argument of multi_put. Rows are (sort key, value); all have the same expiry."""
    head = _HEAD.pack
    parts = [b"", b""]
    add = parts.extend
    for key, value in rows:
        add((head(_FIELD_1_STRUCT, len(key)), key, head(_FIELD_2_BLOB, len(value)), value, b"\0"))
    parts[0] = _FIELD_1_STRUCT + head(_FIELD_1_STRUCT, len(hash_key)) + hash_key
    parts[1] = _LIST.pack(_FIELD_2_STRUCTS, (len(parts) - 2) // 5)
    parts.append(_EXPIRY.pack(_FIELD_3_I32, expire_ts, b"\0\0"))
    return b"".join(parts)


def multi_remove_argument(hash_key: bytes, sort_keys: Iterable[bytes]) -> bytes:
    """Return the argument of multi_remove."""
    size = _LENGTH.pack
    parts = [b"", b""]
    for key in sort_keys:
        parts += (size(len(key)), key)
    parts[0] = _FIELD_1_STRUCT + _HEAD.pack(_FIELD_1_STRUCT, len(hash_key)) + hash_key
    parts[1] = _LIST.pack(_FIELD_2_STRUCTS, (len(parts) - 2) // 2)
    parts.append(_MAX_COUNT.pack(_FIELD_3_I64, 0, b"\0\0"))
    return b"".join(parts)


def batch_get_argument(keys: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the argument of batch_get for (hash key, sort key) pairs."""
    head = _HEAD.pack
    parts = [b""]
    add = parts.extend
    for hash_key, sort_key in keys:
        add((head(_FIELD_1_STRUCT, len(hash_key)), hash_key, head(_FIELD_2_BLOB, len(sort_key)), sort_key, b"\0"))
    parts[0] = _FIELD_1_STRUCT + _LIST.pack(_FIELD_1_STRUCTS, (len(parts) - 1) // 5)
    parts.append(b"\0\0")
    return b"".join(parts)


def read_batch(frame: Buffer) -> tuple[int, dict[tuple[bytes, bytes], bytes], int]:
    """Return status, values by (hash key, sort key), and the partition that answered a batch_get.

    Raises:
        ProtocolError: The body cannot be read.
    """
    found = _usual_batch(frame)
    if found is not None:
        return found
    response = decode(BATCH_GET, frame)
    rows = {(row.hash_key, row.sort_key): row.value for row in response.data}
    return response.error, rows, response.partition_index


def _usual_batch(frame: Buffer) -> tuple[int, dict[tuple[bytes, bytes], bytes], int] | None:
    """Read the layout that servers write; None if the layout differs or the data is damaged."""
    unpack = _HEAD.unpack_from
    fields = (_FIELD_1_STRUCT, _FIELD_2_BLOB, _FIELD_3_BLOB)
    rows: dict[tuple[bytes, bytes], bytes] = {}
    try:
        first, status, second, count = _STATUS_AND_LIST.unpack_from(frame, BATCH_GET.body_offset)
        pos = BATCH_GET.body_offset + _STATUS_AND_LIST.size
        if first != _FIELD_1_I32 or second != _FIELD_2_STRUCTS or count < 0:
            return None
        # A wrong count does no harm: each turn uses 22 bytes, and the loop ends with the data.
        for _ in range(count):
            row = []
            for field in fields:
                head, size = unpack(frame, pos)
                if head != field or size < 0:
                    return None
                row.append(bytes(frame[pos + 7 : pos + 7 + size]))
                pos += 7 + size
            if frame[pos]:
                return None
            pos += 1
            rows[row[0], row[1]] = row[2]
        third, _, fourth, index = _IDS.unpack_from(frame, pos)
    except (struct.error, IndexError):
        return None
    return (status, rows, index) if third == _FIELD_3_I32 and fourth == b"\x08\0\4" else None
