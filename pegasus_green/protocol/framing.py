"""Whole frames: requests with header v0 or v1, replies, and limits against hostile input.

A request is ``THFT``, a header, a Thrift message begin and the argument struct. A reply is its length, the name of the
frame error, a message begin, and the result struct, unless a replica server rejected the request.
"""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple

from ..errors import FrameTooLarge, ProtocolError
from .binary import I32, STRUCT, Buffer, read_binary, read_i32, read_text
from .message import Message, boolean, i32, i64
from .rpc import CALL_HEAD, MAGIC, META_END_BACKUP, ONEWAY_HEAD, REPLY_HEAD, V1_HASH_FIELD, V1_START, Rpc

V0_HEADER = struct.Struct(">4siiiIiiiiiQ")
V1_HEADER = struct.Struct(">4sIII")
_U32 = struct.Struct(">I")
_GPID_PART = struct.Struct(">BHiBHiBH")
# Length, error name and message name of at least one character each, message begin, sequence id.
MIN_REPLY = 4 + 4 + 1 + 8 + 1 + 4
DEFAULT_MAX_FRAME = 64 * 1024 * 1024
# Real names are shorter than 48 characters. A longer one than this is garbage.
MAX_NAME = 255
RESULT_HEAD = struct.pack(">BH", STRUCT, 0)


class RequestMeta(Message):
    """The meta struct of header v1."""

    app_id: int = i32(1)
    partition_index: int = i32(2)
    client_timeout: int = i32(3)
    partition_hash: int = i64(4)
    is_backup_request: bool = boolean(5)


def gpid_part(app_id: int, partition_index: int) -> bytes:
    """Return the 17 bytes of a v1 meta struct that depend only on the partition."""
    return _GPID_PART.pack(I32, 1, app_id, I32, 2, partition_index, I32, 3)


def thread_hash(app_id: int, partition_index: int) -> int:
    """Return the thread hash of header v0. It determines the server's write thread; a wrong one crashes the server."""
    value = (app_id * 7919 + partition_index) & 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def encode_request(
    rpc: Rpc,
    seqid: int,
    argument: bytes,
    *,
    app_id: int = 0,
    partition_index: int = 0,
    partition_hash: int = 0,
    timeout_ms: int = 1000,
    version: int = 1,
    backup: bool = False,
) -> bytes:
    """Return a whole request frame.

    Args:
        rpc: The RPC.
        seqid: Signed 32-bit number that the reply repeats.
        argument: The argument struct, from ``rpc.encode_argument``.
        app_id: The table's id; 0 for meta servers.
        partition_index: The partition; 0 for meta servers.
        partition_hash: Unsigned hash of the key; 0 for meta servers.
        timeout_ms: Remaining milliseconds, at least 1.
        version: Header version, 0 or 1.
        backup: The request is a possibly stale read at a secondary; header v1 only.

    Raises:
        ValueError: A backup request with header v0, or an unknown version.
    """
    if version == 1:
        return (
            rpc.head.pack(
                V1_START,
                rpc.body_base + len(argument),
                gpid_part(app_id, partition_index),
                timeout_ms,
                V1_HASH_FIELD,
                partition_hash,
                META_END_BACKUP + rpc.call_tail if backup else rpc.v1_tail,
                seqid,
            )
            + argument
        )
    if version != 0:
        raise ValueError(f"header version {version} does not exist")
    if backup:
        raise ValueError("backup requests need header v1")
    header = V0_HEADER.pack(
        MAGIC,
        0,
        48,
        0,
        rpc.body_base + len(argument),
        0,
        app_id,
        partition_index,
        timeout_ms,
        thread_hash(app_id, partition_index),
        partition_hash,
    )
    return header + rpc.call_tail + struct.pack(">i", seqid) + argument


class Request(NamedTuple):
    """A request for a server. The argument struct begins at ``offset`` of ``data``."""

    version: int
    app_id: int
    partition_index: int
    timeout_ms: int
    partition_hash: int
    thread_hash: int | None
    backup: bool
    name: str
    seqid: int
    oneway: bool
    data: bytes
    offset: int


class Reply(NamedTuple):
    """The envelope of a reply. The result struct begins at ``offset`` of the frame; None: there is no body.

    If the body does not begin with a result, the offset is the frame's end, so that decoding it raises ProtocolError.
    """

    error: str
    name: str
    seqid: int
    offset: int | None


def parse_body(data: Buffer, pos: int = 0) -> tuple[str, int, bool, int]:
    """Read the message begin of a request, strict or not.

    Returns:
        Name, sequence id, whether it is T_ONEWAY, position of the argument struct.

    Raises:
        ProtocolError: The message is not a call.
    """
    word, pos = read_i32(data, pos)
    if word < 0:
        word &= 0xFFFFFFFF
        if word not in (CALL_HEAD, ONEWAY_HEAD):
            raise ProtocolError(f"message begin 0x{word:08x} is not a call")
        raw, pos = read_binary(data, pos)
        kind = word & 0xFF
    else:
        raw, pos = read_binary(data, pos - 4)
        if pos >= len(data):
            raise ProtocolError("truncated message begin")
        kind = data[pos]
        pos += 1
        if kind not in (1, 4):
            raise ProtocolError(f"message type {kind} is not a call")
    seqid, pos = read_i32(data, pos)
    # A server accepts any bytes as a name, and answers that it has no handler for them.
    return raw.decode("utf-8", "surrogateescape"), seqid, kind == 4, pos


def parse_request(frame: Buffer) -> Request:
    """Read one whole request frame.

    Raises:
        ProtocolError: The data is not a request. A server then closes the connection.
    """
    data = bytes(frame)
    size = request_size(data, len(data), max_frame=sys.maxsize)
    if size is None or size != len(data):
        raise ProtocolError(f"{len(data)} bytes are not exactly one request frame")
    if data[7] == 0:
        fields = V0_HEADER.unpack_from(data)
        app_id, index, timeout, thread, hashed = fields[6:11]
        start, backup, checked = 48, False, thread
    else:
        meta_size = V1_HEADER.unpack_from(data)[2]
        meta, _ = RequestMeta.decode(data[16 : 16 + meta_size])
        app_id, index, timeout = meta.app_id, meta.partition_index, meta.client_timeout
        hashed, backup, checked = meta.partition_hash & 0xFFFFFFFFFFFFFFFF, meta.is_backup_request, None
        start = 16 + meta_size
    name, seqid, oneway, pos = parse_body(data, start)
    version = 0 if checked is not None else 1
    return Request(version, app_id, index, timeout, hashed, checked, backup, name, seqid, oneway, data, pos)


def request_size(data: Buffer, end: int, pos: int = 0, max_frame: int = DEFAULT_MAX_FRAME) -> int | None:
    """Return the size of the request frame at pos; None if there are too few bytes to know it.

    Raises:
        ProtocolError: Wrong magic, version or header length.
        FrameTooLarge: The frame would be larger than max_frame bytes.
    """
    have = end - pos
    if have >= 4 and bytes(data[pos : pos + 4]) != MAGIC:
        raise ProtocolError(f"not a Pegasus request: it starts with {bytes(data[pos : pos + 4])!r}")
    version = _U32.unpack_from(data, pos + 4)[0] if have >= 8 else 0
    if version > 1:
        raise ProtocolError(f"header version {version} does not exist")
    # The length of the body is the last word that is needed: at offset 12 in header v1, at 16 in v0.
    if have < (20 if version == 0 else 16):
        return None
    _, _, second, third = V1_HEADER.unpack_from(data, pos)
    if version == 1:
        size = 16 + int(second) + int(third)
    elif second == 48:
        size = 48 + int(_U32.unpack_from(data, pos + 16)[0])
    else:
        raise ProtocolError(f"a v0 header must have 48 bytes, not {second}")
    if size > max_frame:
        raise FrameTooLarge(f"a request of {size} bytes; the limit is {max_frame}")
    return size


def encode_reply(name: str, seqid: int, error: str = "ERR_OK", result: bytes | None = None) -> bytes:
    """Return a reply frame.

    Args:
        name: The RPC name of the request; the name of the reply is this + "_ACK".
        seqid: The request's sequence id.
        error: The frame error.
        result: The encoded result struct; None: no body, as in a rejection by a replica server.
    """
    raw_error, raw_name = error.encode(), name.encode("utf-8", "surrogateescape") + b"_ACK"
    head = b"%b%b%b%b%b" % (
        struct.pack(">i", len(raw_error)),
        raw_error,
        struct.pack(">Ii", REPLY_HEAD, len(raw_name)),
        raw_name,
        struct.pack(">i", seqid),
    )
    if result is not None:
        head = b"%b%b%b\0" % (head, RESULT_HEAD, result)
    return struct.pack(">i", len(head) + 4) + head


def parse_reply(frame: Buffer) -> Reply:
    """Read a reply's envelope.

    Raises:
        ProtocolError: Frame error, message begin or sequence id cannot be read. The connection must be closed.
    """
    error, pos = _read_name(frame, 4, "frame error")
    word, pos = read_i32(frame, pos)
    if word & 0xFFFFFFFF != REPLY_HEAD:
        raise ProtocolError(f"message begin 0x{word & 0xFFFFFFFF:08x} is not a reply")
    name, pos = _read_name(frame, pos, "message name")
    seqid, pos = read_i32(frame, pos)
    # None means that the request was rejected and not applied. A damaged body must not be taken for that.
    if bytes(frame[pos : pos + 2]) in (b"", b"\0"):
        return Reply(error, name, seqid, None)
    offset = pos + 3 if bytes(frame[pos : pos + 3]) == RESULT_HEAD else len(frame)
    return Reply(error, name, seqid, offset)


def read_name_size(data: Buffer, pos: int, what: str) -> int:
    """Return the length of a name.

    Raises:
        ProtocolError: The length is not that of a name.
    """
    size, _ = read_i32(data, pos)
    if not 0 < size <= MAX_NAME:
        raise ProtocolError(f"{what} of {size} bytes; it must have 1 to {MAX_NAME}")
    return size


def _read_name(data: Buffer, pos: int, what: str) -> tuple[str, int]:
    read_name_size(data, pos, what)
    return read_text(data, pos)
