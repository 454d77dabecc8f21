"""The state of one connection at either end, without I/O: bytes go in, matched replies or requests come out.

``ClientSession`` assigns sequence ids, stores the pending requests and matches replies to them. ``ServerSession`` cuts
requests out of the stream. Both store at most one incomplete frame. Its memory grows with the bytes that have arrived,
not with the announced length.
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
# A chunk that begins with a frame of this size is not copied as a whole before its frames are cut out.
LARGE_FRAME = 16 * 1024
# An incomplete frame above this size has its own buffer. The bytes of a smaller one are prepended to the next chunk.
COLLECT_FROM = 16 * 1024
FIRST_RESERVE = 1024 * 1024


# The bytes after the length of a reply without an error: length and text of the frame error, message begin. The length
# of the name follows.
_OK = b"\0\0\0\6ERR_OK" + struct.pack(">I", REPLY_HEAD)


@cache
def _heads(name_size: int) -> tuple[Any, bytes, int]:
    """Return the reader of a reply's head, its constant result for a usual reply, and the minimum size of such a reply.

    It reads the frame length, all bytes up to the name, and the sequence id after the name.
    """
    return struct.Struct(f">i18s{name_size}xi").unpack_from, _OK + name_size.to_bytes(4, "big"), 26 + name_size


class ClientSession:
    """Sequence ids and pending requests of a client connection.

    Attributes:
        pending: Entries of requests that wait for a reply, by sequence id. The session does not read the entries. The
            user of ``feed`` removes the entry of each reply; if the entry was removed before, the reply is dropped.
        ids: Returns the next id in one atomic step; ``free_id`` is used if that id cannot be used.
        fresh: Ids up to this one were never used; for other ids ``free_id`` checks this.
        received: Number of reply frames cut out of the stream.
        large: The beginning of a large incomplete reply, see ``buffer``; None: there is none.
        broken: Why the stream cannot continue after the last returned replies; the next ``feed`` raises it.
    """

    __slots__ = (
        "pending",
        "ids",
        "fresh",
        "received",
        "broken",
        "max_frame",
        "_tail",
        "large",
        "_filled",
        "_size",
        "_heads",
    )

    def __init__(self, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        """Start without pending requests.

        Args:
            max_frame: Largest reply in bytes. A larger one ends the connection before memory is allocated for it.
        """
        self.pending: dict[int, Any] = {}
        self.ids = count(1)
        self.fresh = MAX_SEQID
        self.received = 0
        self.broken: ProtocolError | None = None
        self.max_frame = max_frame
        self._tail = b""
        self.large: bytearray | None = None
        self._filled = 0
        self._size = 0
        self._heads = _heads(len("RPC_RRDB_RRDB_GET_ACK"))

    def free_id(self, seqid: int = 0) -> int:
        """Return the next sequence id that is not pending; seqid: an id from ``ids`` to try first."""
        while not seqid or seqid > MAX_SEQID or seqid in self.pending:
            if seqid > MAX_SEQID:
                self.go_on_behind(0)
            seqid = next(self.ids)
        return seqid

    def go_on_behind(self, seqid: int) -> None:
        """Continue with the ids after this one."""
        self.fresh = 0
        self.ids = count(seqid + 1)

    @property
    def issued(self) -> int:
        """The newest sequence id; ids go from 1 to 2^31-1 and start again."""
        # The state of itertools.count is visible only in its repr.
        return int(repr(self.ids)[6:-1]) - 1

    def buffer(self) -> memoryview | None:
        """Return the memory for the rest of a large incomplete frame; None: read a chunk and ``feed`` it."""
        large = self.large
        if large is None:
            return None
        if self._filled == len(large):
            # Double the memory as bytes arrive: an announced length alone must not allocate memory.
            large.extend(bytes(min(len(large), self._size - len(large))))
        return memoryview(large)[self._filled :]

    def missing(self) -> int:
        """Return the number of missing bytes of a large incomplete frame. Bytes of other frames may follow them."""
        return self._size - self._filled

    def filled(self, size: int, behind: Buffer = b"") -> list[tuple[int, Buffer]]:
        """Process size bytes that were read into ``buffer()``, and the bytes after the end of the frame.

        Returns:
            The complete replies, as from ``feed``.
        """
        self._filled += size
        if self.large is None or self._filled < self._size:
            return []
        frame = memoryview(self.large)
        self.large = None
        return self.feed(behind, [(parse_reply(frame).seqid, frame)])

    @property
    def at_rest(self) -> bool:
        """Whether the next byte is the first of a reply."""
        return not self._tail and self.large is None and self.broken is None

    def feed(  # noqa: C901 - it runs for every read
        self, data: Buffer, frames: list[tuple[int, Buffer]] | None = None
    ) -> list[tuple[int, Buffer]]:
        """Take the next bytes of the stream and return the complete replies in them as (sequence id, frame).

        The session keeps no reference to a memoryview, so its content may change later. Only the envelope is read. The
        user checks whether the sequence id is pending and whether the body can be read.

        Args:
            data: The bytes.
            frames: Earlier replies, to which these are appended.

        Raises:
            ProtocolError: The stream is invalid, and the connection must be closed. Complete replies before the invalid
                one are returned first, and ``broken`` is set.
        """
        if self.broken is not None:
            raise self.broken
        if frames is None:
            head, mark, shape = self._heads
            if not self._tail and shape <= len(data) < LARGE_FRAME:
                # With one caller, a read brings exactly one reply, a usual one.
                size, found, seqid = head(data)
                if found == mark and size == len(data) <= self.max_frame:
                    self.received += 1
                    return [(seqid, data.tobytes() if type(data) is memoryview else bytes(data))]
            frames = []
        if self._tail:
            data = self._tail + data
            self._tail = b""
        elif type(data) is not bytes and (len(data) < LARGE_FRAME or _I32.unpack_from(data)[0] < LARGE_FRAME):
            # The method is twice as fast as bytes(), but other buffers do not have it.
            data = data.tobytes() if type(data) is memoryview else bytes(data)
        known, largest = len(frames), self.max_frame
        pos, end = 0, len(data)
        try:
            while pos < end:
                if core and type(data) is bytes:
                    pos = core.cut(data, pos, largest, frames)
                else:
                    # Optimized, because it runs once for every reply: the sequence id is read at the offset that the
                    # length of the previous reply's name gives, and read again if this name has another length.
                    head, mark, shape = self._heads
                    last = end - shape
                    while pos <= last:
                        size, found, seqid = head(data, pos)
                        stop = pos + size
                        if stop > end or size < shape or size > largest:
                            break
                        if found == mark:
                            frames.append((seqid, data[pos:stop]))
                            pos = stop
                        elif self._has_other_name(found, size):
                            head, mark, shape = self._heads
                            last = end - shape
                        else:
                            break
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

    def _has_other_name(self, found: bytes, size: int) -> bool:
        """Tell whether these bytes begin a usual reply whose name has another length; prepare to read such replies."""
        name_size = int.from_bytes(found[-4:], "big")
        usual = found.startswith(_OK) and 0 < name_size <= min(size - 26, MAX_NAME)
        if usual:
            self._heads = _heads(name_size)
        return usual

    def _feed_any(self, data: Buffer, pos: int, end: int, frames: list[tuple[int, Buffer]]) -> int:
        """Cut one reply of any kind, or keep it if it is incomplete; return the position after it."""
        size = _I32.unpack_from(data, pos)[0] if end - pos >= 4 else MIN_REPLY
        if size > self.max_frame:
            raise FrameTooLarge(f"a reply of {size} bytes; the limit is {self.max_frame}")
        if size < MIN_REPLY:
            raise ProtocolError(f"a reply of {size} bytes; a reply has at least {MIN_REPLY}")
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
        """Keep the beginning of a reply of that size: before the next chunk, or in its own buffer if it is large."""
        have = len(data) - pos
        if have >= 8:
            # Garbage often begins with a plausible length. To wait for its end would swallow all replies.
            read_name_size(data, pos + 4, "frame error")
        if size <= COLLECT_FROM or have < 8:
            self._tail = bytes(data[pos:])
            return
        self._size, self._filled = size, have
        self.large = bytearray(min(size, max(FIRST_RESERVE, have)))
        self.large[:have] = memoryview(data)[pos:]


class ServerSession:
    """Cuts requests out of a client's byte stream."""

    __slots__ = ("max_frame", "_chunks", "_have", "_want")

    def __init__(self, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        """Start at the beginning of a stream. A request above max_frame bytes ends it."""
        self.max_frame = max_frame
        self._chunks: list[bytes] = []
        self._have = 0
        self._want = 4

    def feed(self, data: bytes) -> list[Request]:
        """Take the next bytes and return the complete requests in them.

        Raises:
            ProtocolError: The stream is not the THFT protocol, or a request is invalid; close the connection.
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
        # Below 4 bytes the magic cannot be checked. An incomplete frame is checked again when it is complete.
        self._want = max(size or 0, 4 if self._have < 4 else self._have + 1)
        return requests
