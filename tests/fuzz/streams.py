"""Split byte streams into pieces."""

from __future__ import annotations

import itertools
import random

from pegasus_green.protocol.session import ClientSession


class Piecewise:
    """A client session that is fed like by a connection: the next read overwrites the buffer."""

    def __init__(self) -> None:
        self.session = ClientSession()
        self.frames: list[tuple[int, bytes]] = []

    def feed(self, data: bytes) -> None:
        while data:
            room = self.session.buffer()
            if room is None:
                chunk, data = bytearray(data), b""
                found = self.session.feed(memoryview(chunk))
            else:
                size = min(len(room), len(data))
                room[:size] = data[:size]
                whole = len(room) == self.session.missing()
                room.release()
                chunk, data = (bytearray(data[size:]), b"") if whole else (bytearray(), data[size:])
                found = self.session.filled(size, memoryview(chunk))
            chunk[:] = b"\xee" * len(chunk)
            self.frames += [(seqid, bytes(frame)) for seqid, frame in found]


def pieces(data: bytes) -> list[bytes]:
    """Cut data at places that depend only on data."""
    chance = random.Random(data)
    cuts = sorted({0, len(data), *(chance.randint(0, len(data)) for _ in range(chance.randint(0, 6)))})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]
