"""The layouts that real servers and clients use nearly always, coded in one step.

Each function has the general codec behind it: a reply that is laid out in any other way (fields in another order, left
out, added) is decoded by ``Message.decode_reply``, with the same result. The tests hold the two against each other.
"""

from __future__ import annotations

import struct
from typing import Any

from ..errors import ProtocolError
from .binary import Buffer
from .rpc import GET, Rpc

_BLOB_IN_ONE = struct.Struct(">3siH")
_PUT = struct.Struct(">6siH")
_VALUE = struct.Struct(">3si")
_EXPIRY = struct.Struct(">3si2s")
# Status, app_id, partition, decree and the length of the server's name.
_UPDATE = struct.Struct(">3si3s4x3s4x3s8x3si")
_UPDATE_TAGS = (b"\x08\0\1", b"\x08\0\2", b"\x08\0\3", b"\x0a\0\4", b"\x0b\0\5")
_I32 = struct.Struct(">i")
_I32_AT = _I32.unpack_from
# Status 0 and the head of the value; the value's bytes begin behind its length.
_OK_VALUE = b"\x08\0\1\0\0\0\0\x0c\0\2"
_VALUE_AT = GET.body_offset + 14
_FIELD_1_STRUCT = b"\x0c\0\1"
_FIELD_2_BLOB = b"\x0c\0\2"
_FIELD_3_I32 = b"\x08\0\3"


def key_argument(hash_key: bytes, sort_key: bytes) -> bytes:
    """Return the argument of get, ttl and remove: the encoded key as a blob."""
    size = len(hash_key)
    return _BLOB_IN_ONE.pack(_FIELD_1_STRUCT, 2 + size + len(sort_key), size) + hash_key + sort_key + b"\0"


def put_argument(hash_key: bytes, sort_key: bytes, value: bytes, expire_ts: int) -> bytes:
    """Return the argument of put: an update_request of key, value and expiry."""
    size = len(hash_key)
    return b"%b%b%b%b%b%b" % (
        _PUT.pack(b"\x0c\0\1\x0c\0\1", 2 + size + len(sort_key), size),
        hash_key,
        sort_key,
        _VALUE.pack(_FIELD_2_BLOB, len(value)),
        value,
        _EXPIRY.pack(_FIELD_3_I32, expire_ts, b"\0\0"),
    )


# What stands behind the value (app_id, partition, server, two STOPs) is the same for every reply of a replica: an
# ending that the general decoder has accepted once need not be looked at again.
_known_endings: set[bytes] = set()
_MOST_ENDINGS = 10_000
_LONGEST_ENDING = 300


def read_value(frame: Buffer) -> tuple[int, bytes]:
    """Return status and value of a reply to get.

    Raises:
        ProtocolError: The body cannot be read.
    """
    if type(frame) is bytes and len(frame) > _VALUE_AT and frame.startswith(_OK_VALUE, GET.body_offset):
        end = _VALUE_AT + _I32_AT(frame, _VALUE_AT - 4)[0]
        if end >= _VALUE_AT and frame[end:] in _known_endings:
            return 0, frame[_VALUE_AT:end]
    return _read_any_value(frame)


def _read_any_value(frame: Buffer) -> tuple[int, bytes]:
    """Read what ``read_value`` does not know yet: large frames, other statuses, new endings."""
    usual = len(frame) > _VALUE_AT and frame[GET.body_offset : _VALUE_AT - 4] == _OK_VALUE
    end = _VALUE_AT + _I32_AT(frame, _VALUE_AT - 4)[0] if usual else -1
    if end >= _VALUE_AT and bytes(frame[end : end + _LONGEST_ENDING + 1]) in _known_endings:
        return 0, bytes(frame[_VALUE_AT:end])
    response = decode(GET, frame)
    value, response.value = response.value, b""
    ending = bytes(frame[end : end + _LONGEST_ENDING + 1])
    # Only what encodes back to the same bytes is an ending without surprises, such as an unknown field.
    if usual and len(ending) <= _LONGEST_ENDING and response.encode()[14:] + b"\0" == ending:
        if len(_known_endings) >= _MOST_ENDINGS:
            _known_endings.clear()
        _known_endings.add(ending)
    return response.error, value


def read_status(rpc: Rpc, frame: Buffer) -> int:
    """Return the status of a reply to put, remove or multi_put.

    Raises:
        ProtocolError: The body cannot be read.
    """
    start = rpc.body_offset
    if len(frame) >= start + _UPDATE.size:
        tag1, status, tag2, tag3, tag4, tag5, size = _UPDATE.unpack_from(frame, start)
        if (
            (tag1, tag2, tag3, tag4, tag5) == _UPDATE_TAGS
            and size == len(frame) - start - _UPDATE.size - 2
            and frame[-2:] == b"\0\0"
        ):
            return int(status)
    return int(decode(rpc, frame).error)


def decode(rpc: Rpc, frame: Buffer) -> Any:
    """Return the result struct of a reply by the general decoder.

    Raises:
        ProtocolError: The body cannot be read.
    """
    if rpc.response is None or len(frame) <= rpc.body_offset:
        raise ProtocolError(f"{rpc.label}: no result in the reply")
    return rpc.response.decode_reply(frame, rpc.body_offset)
