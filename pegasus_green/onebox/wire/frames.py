"""Fast server side of the protocol: usual requests are cut out of a stream without the general codec.

Other requests go through ``protocol.framing``, which client and server share. The results are the same.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

from ...errors import ProtocolError
from ...protocol.framing import DEFAULT_MAX_FRAME, RESULT_HEAD, V0_HEADER, parse_request, request_size
from ...protocol.rpc import BY_NAME, GET, Rpc

_I32 = struct.Struct(">i")
# Magic, version 0, header length 48, both checksums; then the variable fields.
_V0_FIXED = struct.Struct(">12s4xi4xiiiiQ")
_V0_START = b"THFT" + struct.pack(">ii", 0, 48)
# A v1 header with all five meta fields in ascending order, as all known clients send it.
_V1_FIXED = struct.Struct(">12sI3si3si3si3sQ3sBB")
_V1_START = b"THFT" + struct.pack(">II", 1, 37)
_V1_HEADS = (b"\x08\0\1", b"\x08\0\2", b"\x08\0\3", b"\x0a\0\4", b"\x02\0\5", 0)
_FAST_HEADER = {_V0_START: 48, _V1_START: 53}
_BY_TAIL: dict[bytes, Rpc] = {rpc.call_tail: rpc for rpc in BY_NAME.values()}
# The server keeps this many bytes of a name, with the "_ACK" of the reply.
MAX_NAME = 47


class Target(Protocol):
    """The server of a request, as the fault rules see it."""

    alive: bool
    faults: list[Any]

    @property
    def public(self) -> str:
        """The address for clients."""
        ...

    def dispatch(self, call: Call) -> None:
        """Serve a request that no fault has taken."""
        ...


class Peer(Protocol):
    """The connection of a request, as its handlers see it.

    ``gate`` is None if clients need not authenticate.
    """

    closed: bool
    gate: Any

    @property
    def server(self) -> Target:
        """The server at this end."""
        ...

    def send(self, frame: bytes) -> None:
        """Queue a reply."""
        ...

    def hold(self, frame: bytes, replies: int, seconds: float) -> None:
        """Queue a reply after later ones."""
        ...

    def trickle(self, data: bytes, step: int, seconds: float) -> None:
        """Send a reply in pieces."""
        ...

    def end_after_flush(self, reset: bool = False) -> None:
        """Send the queued bytes, then close."""
        ...

    def close(self, reset: bool = False) -> None:
        """Close at once."""
        ...


class Call:
    """One request, until it is answered.

    Attributes:
        connection: The connection that it came from.
        rpc: The entry in the RPC table; None for an unknown name.
        frame: The whole request.
        offset: Offset of the argument struct.
        body: Bytes after the header, which the limit of write requests counts.
        faults: Faults to apply to the answer; None: none.
        delayed: Whether throttling has delayed it already.
    """

    __slots__ = (
        "connection",
        "rpc",
        "name",
        "seqid",
        "app_id",
        "index",
        "partition_hash",
        "timeout_ms",
        "thread_hash",
        "backup",
        "frame",
        "offset",
        "body",
        "faults",
        "delayed",
    )

    connection: Peer
    rpc: Rpc | None
    name: str
    seqid: int
    app_id: int
    index: int
    partition_hash: int
    timeout_ms: int
    thread_hash: int | None
    backup: bool
    frame: bytes
    offset: int
    body: int
    faults: list[Any] | None
    delayed: bool

    def __repr__(self) -> str:
        """Show RPC, partition and sequence id."""
        return f"<Call {self.name} {self.app_id}.{self.index} seqid={self.seqid}>"

    def argument(self) -> Any:
        """Return the decoded argument.

        Raises:
            ProtocolError: It cannot be decoded.
        """
        assert self.rpc is not None
        return self.rpc.decode_argument(self.frame, self.offset)


class Cutter:
    """Cuts calls out of the bytes of a connection. It keeps an incomplete frame, which grows as its bytes arrive."""

    __slots__ = ("connection", "max_frame", "rest", "_chunks", "_have", "_want")

    def __init__(self, connection: Peer, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        """Start at the beginning of a stream."""
        self.connection = connection
        self.max_frame = max_frame
        # The bytes after the last complete request, if an error ends the connection.
        self.rest = b""
        self._chunks: list[bytes] = []
        self._have = 0
        self._want = 4

    @property
    def incomplete(self) -> int:
        """Bytes of an incomplete request."""
        return self._have

    def feed(self, data: bytes) -> tuple[list[Call], ProtocolError | None]:
        """Take the next bytes; return the complete requests, and the error that ends the connection, if any."""
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._want:
                return [], None
            data = b"".join(self._chunks)
        calls: list[Call] = []
        pos, end, size = 0, len(data), None
        try:
            while True:
                size = request_size(data, end, pos, self.max_frame) if end - pos < 24 else self._size(data, pos, end)
                if size is None or pos + size > end:
                    break
                calls.append(self._call(data[pos : pos + size]))
                pos += size
        except ProtocolError as error:
            self.rest = data[pos:]
            return calls, error
        self._chunks = [data[pos:]] if pos < end else []
        self._have = end - pos
        # An incomplete frame is checked again when it is complete, or when its size is known.
        self._want = max(size or 0, 4 if self._have < 4 else self._have + 1)
        return calls, None

    def _size(self, data: bytes, pos: int, end: int) -> int | None:
        header = _FAST_HEADER.get(data[pos : pos + 12])
        if header is None:
            return request_size(data, end, pos, self.max_frame)
        size: int = header + _I32.unpack_from(data, pos + (16 if header == 48 else 12))[0]
        if header <= size <= self.max_frame:
            return size
        return request_size(data, end, pos, self.max_frame)

    def _call(self, frame: bytes) -> Call:
        call = Call()
        call.connection = self.connection
        call.faults = None
        call.delayed = False
        call.frame = frame
        start = frame[:12]
        header = _FAST_HEADER.get(start)
        if header == 53 and len(frame) >= 69:
            _, size, h1, app, h2, index, h3, timeout, h4, hashed, h5, backup, stop = _V1_FIXED.unpack_from(frame)
            if (h1, h2, h3, h4, h5, stop) != _V1_HEADS:
                return self._general(call)
            call.thread_hash, call.backup = None, backup != 0
        elif header == 48 and len(frame) >= 64:
            _, size, app, index, timeout, thread, hashed = _V0_FIXED.unpack_from(frame)
            call.thread_hash, call.backup = thread, False
        else:
            return self._general(call)
        end = header + 8 + _I32.unpack_from(frame, header + 4)[0]
        rpc = _BY_TAIL.get(frame[header:end])
        if rpc is None or end + 4 > len(frame):
            return self._general(call)
        call.rpc, call.name = rpc, rpc.name
        call.app_id, call.index, call.timeout_ms, call.partition_hash = app, index, timeout, hashed
        call.seqid = _I32.unpack_from(frame, end)[0]
        call.offset = end + 4
        call.body = size
        return call

    @staticmethod
    def _general(call: Call) -> Call:
        request = parse_request(call.frame)
        call.rpc, call.name = BY_NAME.get(request.name), request.name
        call.app_id, call.index, call.timeout_ms = request.app_id, request.partition_index, request.timeout_ms
        call.partition_hash, call.thread_hash, call.backup = request.partition_hash, request.thread_hash, request.backup
        call.seqid, call.offset = request.seqid, request.offset
        frame = call.frame
        if request.version == 0:
            call.body = V0_HEADER.unpack_from(frame)[4]
        else:
            call.body = _I32.unpack_from(frame, 12)[0]
        return call


def ok_reply(rpc: Rpc, seqid: int, body: bytes) -> bytes:
    """Return a reply frame with frame error ERR_OK around an encoded result struct."""
    head = rpc.ok_head
    return b"%b%b%b%b%b\0" % (_I32.pack(len(head) + len(body) + 12), head, _I32.pack(seqid), RESULT_HEAD, body)


def bare_reply(rpc: Rpc, seqid: int, result: bytes) -> bytes:
    """Return a reply frame with frame error ERR_OK and this result struct."""
    head = rpc.ok_head
    return b"%b%b%b%b" % (_I32.pack(len(head) + len(result) + 8), head, _I32.pack(seqid), result)


def reply_frame(call: Call, error: str, body: bytes | None = None) -> bytes:
    """Return a reply with any frame error; without a body if it is None."""
    name = call.name.encode("utf-8", "surrogateescape") + b"_ACK"
    if call.rpc is None:
        name = name[:MAX_NAME]
    raw = error.encode()
    head = b"%b%b\x80\1\0\2%b%b%b" % (_I32.pack(len(raw)), raw, _I32.pack(len(name)), name, _I32.pack(call.seqid))
    if body is not None:
        head += b"%b%b\0" % (RESULT_HEAD, body)
    return _I32.pack(len(head) + 4) + head


def default_body(call: Call, app_id: int, index: int, server: str) -> bytes:
    """Return a result struct with default values, except for the fields that name its origin."""
    assert call.rpc is not None
    assert call.rpc.response is not None
    response: Any = call.rpc.response()
    response.app_id, response.partition_index, response.server = app_id, index, server
    return bytes(response.encode())


def get_key(call: Call) -> bytes | None:
    """Return the key of a get with the usual layout; None for any other argument."""
    frame, pos = call.frame, call.offset
    if call.rpc is GET and frame[pos : pos + 3] == b"\x0c\0\1":
        end: int = pos + 7 + _I32.unpack_from(frame, pos + 3)[0]
        if end + 1 == len(frame) and pos + 7 <= end:
            return frame[pos + 7 : end]
    return None


class ReplyMaker:
    """Encodes the most frequent results of one replica without the general codec."""

    __slots__ = ("read_tail", "update_middle", "update_tail")

    _READ = struct.Struct(">3si3si")
    _PLACE = struct.Struct(">3si3si3si")

    def __init__(self, app_id: int, index: int, server: str) -> None:
        """Prepare the constant parts of its replies."""
        raw = server.encode()
        self.read_tail = self._PLACE.pack(b"\x08\0\3", app_id, b"\x08\0\4", index, b"\x0b\0\6", len(raw)) + raw + b"\0"
        self.update_middle = struct.pack(">3si3si3s", b"\x08\0\2", app_id, b"\x08\0\3", index, b"\x0a\0\4")
        self.update_tail = struct.pack(">3si", b"\x0b\0\5", len(raw)) + raw + b"\0"

    def read(self, status: int, value: bytes) -> bytes:
        """Return an encoded ReadResponse."""
        return self._READ.pack(b"\x08\0\1", status, b"\x0c\0\2", len(value)) + value + self.read_tail

    def update(self, status: int, decree: int) -> bytes:
        """Return an encoded UpdateResponse."""
        return b"\x08\0\1%b%b%b%b" % (
            _I32.pack(status),
            self.update_middle,
            decree.to_bytes(8, "big", signed=True),
            self.update_tail,
        )
