"""The requests of a connection that have not left yet: gathered, sent together, withdrawn with their callers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gevent import get_hub
from gevent.event import Event

from ..errors import ConnectionLost, PegasusError
from ..protocol.binary import Buffer
from ..protocol.fast import LARGE, Parts
from ..protocol.session import MAX_SEQID, ClientSession

if TYPE_CHECKING:
    from ..options import ClientOptions
    from .pool import Peer

# Above this many bytes frames go to the kernel as they are; below, joining them is cheaper. Many small ones are joined
# up to a megabyte, as one system call takes a limited number of pieces.
GATHER_FROM = LARGE
JOIN_UP_TO = 1024 * 1024
# A frame has up to three pieces, and the kernel takes 1,024 at a time.
MAX_GATHER = 340


def pieces(frames: Sequence[Any]) -> Sequence[Buffer]:
    """Return what the kernel is given for these frames."""
    if not any(isinstance(frame, Parts) for frame in frames):
        return frames
    flat: list[Buffer] = []
    for frame in frames:
        if isinstance(frame, Parts):
            flat += frame.parts
        else:
            flat.append(frame)
    return flat


def rest(frame: Any, done: int) -> memoryview:
    """Return what is left of a frame that has begun to leave."""
    return memoryview(frame.join() if isinstance(frame, Parts) else frame)[done:]


class Outbox:
    """The sending half of a connection.

    A frame that finds nothing else under way goes to the kernel at once, from the caller, without waiting. Others
    gather until the hub's pass ends and leave by one write; what the kernel does not take is the backlog, which a
    write watcher sends. The newest sequence ids belong to the frames that wait, in their order.

    Attributes:
        peer: The server, with the counters that outlive a connection.
        hub: The hub of the thread that dialled.
        lost: Why the connection ended; None while it is open.
        session: Sequence ids and the stream of replies.
        pending: Requests that wait, by sequence id: taker, deadline, target if the call may move.
    """

    __slots__ = (
        "peer",
        "hub",
        "lost",
        "session",
        "pending",
        "_fd",
        "_out",
        "_out_bytes",
        "_backlog",
        "_backlog_bytes",
        "_writer",
        "_in_pass",
        "_flush_due",
        "_crowded",
        "_room",
        "_max_in_flight",
        "_max_queued",
    )

    def __init__(self, fd: int, peer: Peer, options: ClientOptions) -> None:
        """Begin with nothing to send; fd is a connected socket of the current hub that does not block."""
        self.peer = peer
        self.hub: Any = get_hub()
        self.lost: PegasusError | None = None
        self.session = ClientSession(options.max_frame)
        self.pending = self.session.pending
        self._fd = fd
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._backlog: deque[Buffer] = deque()
        self._backlog_bytes = 0
        # ref=False: what keeps the loop alive is a call that waits, not half a request that nobody waits for.
        self._writer: Any = self.hub.loop.io(fd, 2, ref=False)
        self._in_pass = False
        self._flush_due = False
        self._crowded = False
        self._room: Event | None = None
        self._max_in_flight = options.max_in_flight
        self._max_queued = options.max_queued_bytes

    def close(self, reason: PegasusError) -> None:
        """End the connection."""
        raise NotImplementedError

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self._out_bytes + self._backlog_bytes

    def _pass_over(self) -> int:
        """Return the next id where the one behind the newest still waits, or ids begin anew.

        Ids that are passed over have their place in the queue, too: see _withdraw.
        """
        issued, seqid = self.session.issued, self.session.free_id()
        if self._out or self._backlog:
            self._out.extend([b""] * ((seqid - issued) % MAX_SEQID - 1))
        return seqid

    def _make_room(self) -> None:
        # Requests that were withdrawn make room too, where the socket takes nothing.
        if self._crowded and self.lost is None and self.queued_bytes <= self._max_queued // 2:
            self._crowded = False
        if self._room is not None and not self._crowded and len(self.pending) < self._max_in_flight:
            self._room.set()
            self._room = None

    def _send(self, frame: bytes, at_once: bool = False) -> None:
        out = self._out
        if not out and not self._backlog and (at_once or (not self._in_pass and len(self.pending) <= 1)):
            # Nothing else is under way: the frame goes out now, which saves a hub callback. It never waits.
            try:
                size = os.write(self._fd, frame) if type(frame) is bytes else os.writev(self._fd, pieces([frame]))
            except BlockingIOError:
                size = 0
            except OSError as error:
                out.append(frame)
                self.close(ConnectionLost(f"sending failed: {error}", address=self.peer.address))
                return
            self.peer.bytes_sent += size
            if size < len(frame):
                self._keep_rest([frame], size)
            return
        out.append(frame)
        self._out_bytes += len(frame)
        if self._out_bytes + self._backlog_bytes > self._max_queued:
            self._crowded = True
        if not self._flush_due and not self._in_pass and not self._backlog:
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Have the hub flush when the sockets that are ready now have been read."""
        self._flush_due = True
        self.hub.loop.run_callback(self._flush)

    def _flush(self) -> None:
        """Send everything that has gathered, in the hub; the rest is left to the write watcher."""
        self._flush_due = False
        out = self._out
        if not out or self._backlog or self.lost is not None:
            return
        size = self._out_bytes
        self._out, self._out_bytes = [], 0
        try:
            if size < GATHER_FROM or (len(out) > MAX_GATHER and size < JOIN_UP_TO):
                done = os.write(self._fd, out[0] if len(out) == 1 else b"".join(pieces(out)))
            else:
                done = os.writev(self._fd, pieces(out[:MAX_GATHER]))
        except BlockingIOError:
            done = 0
        except OSError as error:
            self._out = out + self._out
            self.close(ConnectionLost(f"sending failed: {error}", address=self.peer.address))
            return
        self.peer.bytes_sent += done
        if done < size:
            self._keep_rest(out, done)
        elif self._crowded:
            self._make_room()

    def _keep_rest(self, frames: list[bytes], done: int) -> None:
        """Put what the kernel did not take into the backlog; whole frames stay whole, so their callers are unsent."""
        first = 0
        while done >= len(frames[first]):
            done -= len(frames[first])
            first += 1
        self._backlog.append(rest(frames[first], done) if done else frames[first])
        # Empty ones too: see _withdraw.
        self._backlog.extend(frames[first + 1 :])
        self._backlog_bytes += sum(map(len, frames[first:])) - done
        if self.queued_bytes > self._max_queued:
            self._crowded = True
        self._writer.start(self._writable)

    def _writable(self) -> None:
        """Send from the backlog, in the hub."""
        backlog = self._backlog
        backlog.extend(self._out)
        self._backlog_bytes += self._out_bytes
        self._out, self._out_bytes = [], 0
        some = [backlog[index] for index in range(min(len(backlog), MAX_GATHER))]
        try:
            done = os.writev(self._fd, pieces(some))
        except BlockingIOError:
            return
        except OSError as error:
            self.close(ConnectionLost(f"sending failed: {error}", address=self.peer.address))
            return
        self.peer.bytes_sent += done
        self._backlog_bytes -= done
        while backlog and done >= len(backlog[0]):
            done -= len(backlog.popleft())
        if done:
            backlog[0] = rest(backlog[0], done)
        if not backlog:
            self._writer.stop()
        if self._crowded:
            self._make_room()

    def _unsent(self) -> int:
        """Return how many of the newest requests have not begun to leave."""
        backlog = self._backlog
        begun = 1 if backlog and isinstance(backlog[0], memoryview) else 0
        return len(self._out) + len(backlog) - begun

    def _withdraw(self, seqid: int) -> bool:
        """Take a request back that has not begun to leave; tell whether that was still possible.

        The newest ids belong to the frames that wait, in order; ids wrap, so they are compared as a circle.
        """
        newer = (self.session.issued - seqid) % MAX_SEQID
        queue: list[bytes] | deque[Buffer] = self._out
        if newer >= self._unsent():
            return False
        if newer >= len(self._out):
            newer -= len(self._out)
            queue = self._backlog
            self._backlog_bytes -= len(queue[-1 - newer])
        else:
            self._out_bytes -= len(queue[-1 - newer])
        # An empty frame keeps the count of frames and ids in step.
        queue[-1 - newer] = b""
        return True
