"""Byte streams in pieces."""

from __future__ import annotations

import itertools
import random

from pegasus_green.protocol.session import ClientSession


class Piecewise:
    """A client's session fed as a connection does it: large frames are read into the session's own buffer."""

    def __init__(self) -> None:
        self.session = ClientSession()
        self.frames: list[tuple[int, bytes]] = []

    def feed(self, data: bytes) -> None:
        while data:
            room = self.session.buffer()
            if room is None:
                found = self.session.feed(data)
                data = b""
            else:
                size = min(len(room), len(data))
                room[:size] = data[:size]
                room.release()
                found = self.session.filled(size)
                data = data[size:]
            self.frames += [(seqid, bytes(frame)) for seqid, frame in found]


def pieces(data: bytes) -> list[bytes]:
    """Cut data at places that depend on nothing but data."""
    chance = random.Random(data)
    cuts = sorted({0, len(data), *(chance.randint(0, len(data)) for _ in range(chance.randint(0, 6)))})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]
