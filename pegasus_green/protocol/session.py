"""The state of one connection at either end, without I/O: bytes in, matched replies or requests out.

``ClientSession`` gives out sequence ids, keeps what waits for a reply and matches replies to it. ``ServerSession``
cuts requests out of the stream. Neither ever holds more than one incomplete frame, and that grows with the bytes that
have really come, never with what a length word promises.
"""

from __future__ import annotations

import struct
from functools import cache
from itertools import count
from typing import Any

from ..accelerate import core
from ..errors import FrameTooLarge, ProtocolError
from .binary import Buffer
from .framing import (
    DEFAULT_MAX_FRAME,
    MAX_NAME,
    MIN_REPLY,
    Request,
    parse_reply,
    parse_request,
    read_name_size,
    request_size,
)
from .rpc import REPLY_HEAD

_I32 = struct.Struct(">i")
MAX_SEQID = 0x7FFFFFFF
# A chunk that begins with a frame of this size is not copied as a whole before its frames are cut out of it.
LARGE_FRAME = 16 * 1024
# An incomplete frame above this size is collected in its own buffer; below, its bytes go in front of the next chunk.
COLLECT_FROM = 16 * 1024
FIRST_RESERVE = 1024 * 1024


# Behind the length of a reply without an error: length and text of the frame error, message begin; then comes the
# length of the name.
_OK = b"\0\0\0\6ERR_OK" + struct.pack(">I", REPLY_HEAD)


@cache
def _heads(name_size: int) -> tuple[Any, bytes, int]:
    """Return the reader of a reply's head, what it finds where nothing is wrong, and the least size of such a reply.

    It reads the frame length, all up to the name, and behind the name the sequence id.
    """
    return struct.Struct(f">i18s{name_size}xi").unpack_from, _OK + name_size.to_bytes(4, "big"), 26 + name_size


class ClientSession:
    """Sequence ids and pending requests of a client's connection.

    Attributes:
        pending: What waits for a reply, by sequence id. The session does not look into the entries; whoever takes a
            reply out of ``feed`` also takes its entry out of here, so an entry that was given up meanwhile is not met.
        ids: Gives out the next id by one step, whatever comes in between; ``free_id`` where that one cannot be used.
        fresh: An id up to this one was never used before; of others ``free_id`` knows.
        received: Reply frames cut out of the stream so far.
        broken: Why the stream cannot go on behind the replies handed out last; the next ``feed`` raises it.
    """

    __slots__ = (
        "pending",
        "ids",
        "fresh",
        "received",
        "broken",
        "max_frame",
        "_tail",
        "_large",
        "_filled",
        "_size",
        "_heads",
    )

    def __init__(self, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        """Start with nothing pending.

        Args:
            max_frame: Largest reply in bytes; a larger one ends the connection before memory is taken for it.
        """
        self.pending: dict[int, Any] = {}
        self.ids = count(1)
        self.fresh = MAX_SEQID
        self.received = 0
        self.broken: ProtocolError | None = None
        self.max_frame = max_frame
        self._tail = b""
        self._large: bytearray | None = None
        self._filled = 0
        self._size = 0
        self._heads = _heads(len("RPC_RRDB_RRDB_GET_ACK"))

    def free_id(self, seqid: int = 0) -> int:
        """Return the sequence id to issue next, passing over those that still wait; seqid: one from ``ids`` to try."""
        while not seqid or seqid > MAX_SEQID or seqid in self.pending:
            if seqid > MAX_SEQID:
                self.go_on_behind(0)
            seqid = next(self.ids)
        return seqid

    def go_on_behind(self, seqid: int) -> None:
        """Issue the ids behind this one next."""
        self.fresh = 0
        self.ids = count(seqid + 1)

    @property
    def issued(self) -> int:
        """The newest sequence id; ids run from 1 to 2^31-1 and around."""
        # A counter tells its state only in its text.
        return int(repr(self.ids)[6:-1]) - 1

    def buffer(self) -> memoryview | None:
        """Return where the rest of a large incomplete frame is to be read to; None: read a chunk and ``feed`` it."""
        large = self._large
        if large is None:
            return None
        if self._filled == len(large):
            # Grow by doubling as the bytes arrive: a promised length alone never makes us take memory.
            large.extend(bytes(min(len(large), self._size - len(large))))
        return memoryview(large)[self._filled :]

    def missing(self) -> int:
        """Return how many bytes of a large incomplete frame are still to come; more may be on their way behind it."""
        return self._size - self._filled

    def filled(self, size: int, behind: Buffer = b"") -> list[tuple[int, Buffer]]:
        """Take note of size bytes read into ``buffer()``, and of what was read behind the end of the frame.

        Returns:
            The replies that are complete, as ``feed`` does.
        """
        self._filled += size
        if self._large is None or self._filled < self._size:
            return []
        frame = memoryview(self._large)
        self._large = None
        return self._cut(behind, [(parse_reply(frame).seqid, frame)])

    @property
    def at_rest(self) -> bool:
        """Whether the next byte begins a reply."""
        return not self._tail and self._large is None and self.broken is None

    def feed(self, data: Buffer) -> list[tuple[int, Buffer]]:
        """Take the next bytes of the stream and return the whole replies in them as (sequence id, frame).

        Of a view nothing is kept: what it looks at may change afterwards. Only the envelope is looked at; whether a
        sequence id waits, and whether the body can be read, is found out by those who take the replies.

        Raises:
            ProtocolError: The stream cannot be understood any more; the connection has to end. Whole replies in front
                of the bad one are returned first, and ``broken`` is set.
        """
        if self.broken is not None:
            raise self.broken
        return self._cut(data, [])

    def _cut(self, data: Buffer, frames: list[tuple[int, Buffer]]) -> list[tuple[int, Buffer]]:
        """Append the whole replies in data to frames."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        elif type(data) is not bytes and (len(data) < LARGE_FRAME or _I32.unpack_from(data)[0] < LARGE_FRAME):
            data = bytes(data)
        known = len(frames)
        pos, end = 0, len(data)
        try:
            while pos < end:
                pos = self._feed_usual(data, pos, end, frames)
                if pos < end:
                    pos = self._feed_any(data, pos, end, frames)
        except ProtocolError as error:
            if not frames:
                raise
            self.broken = error
        self.received += len(frames)
        if type(data) is not bytes:
            frames[known:] = [(seqid, bytes(frame)) for seqid, frame in frames[known:]]
        return frames

    def _feed_usual(self, data: Buffer, pos: int, end: int, frames: list[tuple[int, Buffer]]) -> int:
        """Take replies with frame error ERR_OK; return where another kind, or an incomplete one, begins."""
        largest = self.max_frame
        if core and type(data) is bytes:
            return core.cut(data, pos, largest, frames)  # type: ignore[no-any-return]
        head, mark, shape = self._heads
        # Written for speed, since it runs once for every reply: the sequence id is read at the place where the last
        # reply's name put it, and again when this name turns out to have another length.
        while end - pos >= shape:
            size, found, seqid = head(data, pos)
            stop = pos + size
            if stop > end or size < shape or size > largest:
                break
            if found != mark:
                name_size = int.from_bytes(found[-4:], "big")
                if not found.startswith(_OK) or not 0 < name_size <= min(size - 26, MAX_NAME):
                    break
                head, mark, shape = self._heads = _heads(name_size)
                continue
            frames.append((seqid, data[pos:stop]))
            pos = stop
        return pos

    def _feed_any(self, data: Buffer, pos: int, end: int, frames: list[tuple[int, Buffer]]) -> int:
        """Take one reply of any kind, or keep it when it is incomplete; return the position behind it."""
        size = _I32.unpack_from(data, pos)[0] if end - pos >= 4 else MIN_REPLY
        if size > self.max_frame:
            raise FrameTooLarge(f"a reply of {size} bytes; the limit is {self.max_frame}")
        if size < MIN_REPLY:
            raise ProtocolError(f"a reply of {size} bytes; the smallest possible has {MIN_REPLY}")
        stop = pos + size
        if stop > end:
            self._keep(data, pos, size)
            return end
        frame = data[pos:stop]
        reply = parse_reply(frame)
        frames.append((reply.seqid, frame))
        if reply.error == "ERR_OK":
            self._heads = _heads(len(reply.name))
        return stop

    def _keep(self, data: Buffer, pos: int, size: int) -> None:
        """Keep the beginning of a reply of that size: in front of the next chunk, or in its own buffer if large."""
        have = len(data) - pos
        if have >= 8:
            # Garbage often begins with a length that a reply might have: waiting for its end would swallow all replies.
            read_name_size(data, pos + 4, "frame error")
        if size <= COLLECT_FROM or have < 8:
            self._tail = bytes(data[pos:])
            return
        self._size, self._filled = size, have
        self._large = bytearray(min(size, max(FIRST_RESERVE, have)))
        self._large[:have] = memoryview(data)[pos:]


class ServerSession:
    """Cuts requests out of a client's byte stream."""

    __slots__ = ("max_frame", "_chunks", "_have", "_want")

    def __init__(self, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        """Start at the beginning of a stream; a request above max_frame bytes ends it."""
        self.max_frame = max_frame
        self._chunks: list[bytes] = []
        self._have = 0
        self._want = 4

    def feed(self, data: bytes) -> list[Request]:
        """Take the next bytes and return the whole requests in them.

        Raises:
            ProtocolError: Not the THFT protocol, or a request that cannot be understood; close the connection.
        """
        self._chunks.append(data)
        self._have += len(data)
        if self._have < self._want:
            return []
        data = b"".join(self._chunks)
        requests, pos, end = [], 0, len(data)
        while True:
            size = request_size(data, end, pos, self.max_frame)
            if size is None or pos + size > end:
                break
            requests.append(parse_request(memoryview(data)[pos : pos + size]))
            pos += size
        self._chunks = [data[pos:]] if pos < end else []
        self._have = end - pos
        # Below 4 bytes the magic cannot be checked yet; an incomplete frame is looked at again when it is whole.
        self._want = max(size or 0, 4 if self._have < 4 else self._have + 1)
        return requests
