"""Fast encoders and decoders for the usual layouts of real servers and clients.

The general codec is the fallback of each function. A reply with another layout (fields in another order, missing or
additional) is decoded by ``Message.decode_reply``, with the same result. Tests compare both.
"""

from __future__ import annotations

import struct
from typing import Any

from ..accelerate import core
from ..errors import ProtocolError
from .binary import Buffer
from .framing import RESULT_HEAD
from .rpc import GET, PUT, Rpc

_BLOB_IN_ONE = struct.Struct(">3siH")
_PUT = struct.Struct(">6siH")
EXPIRY = struct.Struct(">3si2s").pack
_EXPIRY_END = struct.Struct(">i2s")
# The head of a whole request, see Rpc.head, together with the beginning of its argument up to the keys.
GET_HEAD = struct.Struct(GET.head.format + "3siH").pack
PUT_HEAD = struct.Struct(PUT.head.format + "6siH").pack
_MAX_I32 = 2**31 - 1
_NO_EXPIRY = b"\x08\0\3\0\0\0\0\0\0"
# From this size on, a copy of the value costs more than sending it in parts.
LARGE = 48 * 1024
_I32 = struct.Struct(">i")
VALUE_HEAD = struct.Struct(">3si").pack
_I32_AT = _I32.unpack_from
# Status 0 and the head of the value. The value's bytes begin after its length.
_OK_VALUE = RESULT_HEAD + b"\x08\0\1\0\0\0\0\x0c\0\2"
# The same after the head of a reply to get, from the end of the frame's length on.
_GET_REPLY = struct.Struct(f">{len(GET.ok_head)}s4x{len(_OK_VALUE)}sI").unpack_from
_BODY_AT = GET.body_offset - 3
_VALUE_AT = GET.body_offset + 14
_FIELD_1_STRUCT = b"\x0c\0\1"
_FIELD_2_BLOB = b"\x0c\0\2"
_FIELD_3_I32 = b"\x08\0\3"


def key_argument(hash_key: bytes, sort_key: bytes) -> bytes:
    """Return the argument of get, ttl and remove: the encoded key as a blob."""
    size = len(hash_key)
    return _BLOB_IN_ONE.pack(_FIELD_1_STRUCT, 2 + size + len(sort_key), size) + hash_key + sort_key + b"\0"


if core:
    key_argument = core.argument


class Parts:
    """Bytes in parts, for a large value that should not be copied on its way to the socket.

    It is used in place of an argument. With a header before it (``header + argument``) it is a whole frame.
    """

    __slots__ = ("parts", "size")

    def __init__(self, *parts: bytes) -> None:
        """Store the parts."""
        self.parts = parts
        self.size = sum(map(len, parts))

    def __len__(self) -> int:
        """Return the size in bytes."""
        return self.size

    def __radd__(self, head: bytes) -> Parts:
        """Return the parts with a header before the first one."""
        first, *others = self.parts
        return Parts(head + first, *others)

    def join(self) -> bytes:
        """Return all parts as one bytes object."""
        return b"".join(self.parts)


def put_argument(hash_key: bytes, sort_key: bytes, value: bytes, expire_ts: int) -> bytes:
    """Return the argument of put: an update_request of key, value and expiry."""
    size, length = len(hash_key), len(value)
    if core and length < LARGE:
        return core.argument(hash_key, sort_key, value, expire_ts)  # type: ignore[no-any-return]
    head = _PUT.pack(b"\x0c\0\1\x0c\0\1", 2 + size + len(sort_key), size) + hash_key + sort_key
    head += _FIELD_2_BLOB + _I32.pack(length)
    tail = EXPIRY(_FIELD_3_I32, expire_ts, b"\0\0") if expire_ts else _NO_EXPIRY
    if length >= LARGE:
        # Its users take the length and prepend a header, which works as with bytes.
        return Parts(head, value, tail)  # type: ignore[return-value]
    return head + value + tail


def postpone(argument: bytes, seconds: int) -> bytes:
    """Return the argument of a put or multi_put with its expiry this many seconds later; unchanged if it has none."""
    parts = argument.parts if isinstance(argument, Parts) else (argument,)
    expiry, end = _EXPIRY_END.unpack_from(parts[-1], len(parts[-1]) - _EXPIRY_END.size)
    if not expiry or not seconds:
        return argument
    tail = parts[-1][: -_EXPIRY_END.size] + _EXPIRY_END.pack(min(max(expiry + seconds, 1), _MAX_I32), end)
    return Parts(*parts[:-1], tail) if isinstance(argument, Parts) else tail


# The bytes after the value (app_id, partition, server, two STOPs) are the same in all replies of a replica. An ending
# that the general decoder has accepted once is not checked again.
_known_endings: set[bytes] = set()
# The same for replies to updates with status 0, before and after the decree, the only part that always differs.
_known_update_heads: set[bytes] = set()
_known_update_ends: set[bytes] = set()
# Offset of the decree in the body: after status, app_id, partition and its own field head.
_DECREE = 24
_MOST_ENDINGS = 10_000
_LONGEST_ENDING = 300


def usual_value(frame: Buffer) -> bytes | None:
    """Return the value of a reply to get with status 0 and the usual layout; None otherwise (see ``read_value``)."""
    if type(frame) is bytes:
        try:
            start, head, size = _GET_REPLY(frame, 4)
        except struct.error:
            return None
        if head == _OK_VALUE and start == GET.ok_head:
            end = _VALUE_AT + size
            if frame[end:] in _known_endings:
                return frame[_VALUE_AT:end]
    return None


if core:
    # It also returns None for an absent record, and a tuple for another layout.
    usual_value = core.value


def read_value(frame: Buffer) -> tuple[int, bytes]:
    """Return status and value of any reply to get, also of large ones, with another status, or with a new ending.

    Raises:
        ProtocolError: The body cannot be read.
    """
    found = usual_value(frame)
    if type(found) is bytes:
        return 0, found
    usual = len(frame) > _VALUE_AT and frame[_BODY_AT : _VALUE_AT - 4] == _OK_VALUE
    end = _VALUE_AT + _I32_AT(frame, _VALUE_AT - 4)[0] if usual else -1
    if end >= _VALUE_AT and bytes(frame[end : end + _LONGEST_ENDING + 1]) in _known_endings:
        return 0, bytes(frame[_VALUE_AT:end])
    response = decode(GET, frame)
    value, response.value = response.value, b""
    ending = bytes(frame[end : end + _LONGEST_ENDING + 1])
    # Remember an ending only if it encodes to the same bytes, so it has no unknown field.
    if usual and len(ending) <= _LONGEST_ENDING and response.encode()[14:] + b"\0" == ending:
        if len(_known_endings) >= _MOST_ENDINGS:
            _known_endings.clear()
        _known_endings.add(ending)
    return response.error, value


def is_usual_update(rpc: Rpc, frame: Buffer) -> bool:
    """Tell whether a reply to put, remove or multi_put has status 0 and a layout that was decoded before."""
    start = rpc.body_offset
    return (
        type(frame) is bytes
        and frame[start - 3 : start + _DECREE] in _known_update_heads
        and frame[start + _DECREE + 8 :] in _known_update_ends
    )


def read_status(rpc: Rpc, frame: Buffer) -> int:
    """Return the status of a reply to put, remove or multi_put.

    Raises:
        ProtocolError: The body cannot be read.
    """
    return 0 if is_usual_update(rpc, frame) else _read_any_status(rpc, frame)


def _read_any_status(rpc: Rpc, frame: Buffer) -> int:
    """Read a reply that is not yet known to ``read_status``."""
    response = decode(rpc, frame)
    start = rpc.body_offset
    if response.error == 0 and response.encode() + b"\0" == bytes(frame[start:]):
        for known in (_known_update_heads, _known_update_ends):
            if len(known) >= _MOST_ENDINGS:
                known.clear()
        _known_update_heads.add(bytes(frame[start - 3 : start + _DECREE]))
        _known_update_ends.add(bytes(frame[start + _DECREE + 8 :]))
    return int(response.error)


def decode(rpc: Rpc, frame: Buffer) -> Any:
    """Return the result struct of a reply, by the general decoder.

    Raises:
        ProtocolError: The body cannot be read.
    """
    start = rpc.body_offset
    has_head = rpc.bare or frame[start - 3 : start] == RESULT_HEAD
    if rpc.response is None or len(frame) <= start or not has_head:
        raise ProtocolError(f"{rpc.label}: no result in the reply")
    return rpc.response.decode_reply(frame, start)
