"""The requests of a connection that have not left yet: gathered, sent together, withdrawn with their callers.

An exception, or a call that a signal handler or finalizer makes, may come between any two steps of Python. So a frame
is kept under its sequence id, dicts change by single steps, and how much a system call has sent is noted by the same
step of C that makes the call (``list.extend`` of a ``map``). Whoever comes next can settle the rest then.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from itertools import islice
from typing import Any, Protocol

from gevent import get_hub
from gevent.event import Event

from ..accelerate import Books, core
from ..errors import ConnectionLost, PegasusError
from ..options import ClientOptions
from ..protocol.binary import Buffer
from ..protocol.fast import LARGE, Parts
from ..protocol.session import ClientSession
from . import fork

# Above this many bytes frames go to the kernel as they are; below, joining them is cheaper. Many small ones are joined
# up to a megabyte, as one system call takes a limited number of pieces.
GATHER_FROM = LARGE
JOIN_UP_TO = 1024 * 1024
# A frame has up to three pieces, and the kernel takes 1,024 at a time.
MAX_GATHER = 340
# Frames above this many bytes are counted one by one where they are gathered.
MOST_UNCOUNTED = 4096

COMPILED_WATCHERS = "gevent.libev.corecext"

if core and (_made := core.page()) is not None:
    # Core and Python notice a fork by the same page.
    fork.look_at(_made)
_page = fork.page


class Server(Protocol):
    """What a connection must know of the server that it leads to.

    Attributes:
        address: "host:port" as the routes name it.
        bytes_sent, bytes_received, late, timeouts: Counters that outlive a connection.
        demands_auth: Whether it ignored requests of a client without authentication.
    """

    address: str
    bytes_sent: int
    bytes_received: int
    late: int
    timeouts: int
    demands_auth: bool

    def connection_lost(self, connection: Any, reason: PegasusError) -> None:
        """Take note of the end of a connection; must not yield."""

    def silent(self, connection: Any) -> None:
        """Take note that requests are out and nothing comes in."""

    def forget(self, connection: Any) -> None:
        """Have nothing to do with a connection any more; must not yield."""


def delay(seconds: float) -> float:
    """Return a timer's delay: none, or at least the millisecond that libuv knows. gevent warns of less there."""
    return max(seconds, 0.001) if seconds > 0.0 else 0.0


def reference(watcher: Any, *, wanted: bool) -> Any:
    """Have a watcher keep the loop alive, or not; return it.

    gevent's watchers for libuv ignore ``ref=`` when they are made, and what watches a descriptor only stands for the
    one that libuv knows.
    """
    real = getattr(watcher, "_watcher_ref", None)
    (watcher if real is None else real).ref = wanted
    return watcher


def watch_forks(loop: Any) -> Any:
    """Have a loop notice a fork before it touches its copies of descriptors in a child; return the started watcher.

    It aborts the process if the child has closed a descriptor that is watched. None for libuv, which does not look at
    them, and whose watcher of forks keeps the loop alive.
    """
    if type(loop).__module__ != COMPILED_WATCHERS:
        return None
    watcher = reference(loop.fork(), wanted=False)
    watcher.start(fork.after_in_child)
    return watcher


def stop(watcher: Any) -> None:
    """Stop a watcher for good; None is none, and one whose loop was destroyed has ended with it: libuv aborts there."""
    if watcher is not None and _is_alive(getattr(watcher, "_watcher_ref", None) or watcher):
        try:
            watcher.stop()
            watcher.close()
        except ValueError:
            # As libev says that the loop was destroyed.
            return


def _is_alive(watcher: Any) -> bool:
    loop = getattr(watcher, "loop", None)
    return loop is None or bool(getattr(loop, "ptr", True))


def pieces(frames: Collection[Any]) -> list[Buffer]:
    """Return what the kernel is given for these frames."""
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


class Outbox(Books):
    """The sending half of a connection.

    A frame that finds nothing else under way goes to the kernel at once, from the caller, without waiting. Others
    gather until the hub's pass ends and leave by one write; what the kernel does not take is the backlog, which a
    write watcher sends.

    Attributes:
        peer: The server, with the counters that outlive a connection.
        hub: The hub of the thread that dialled.
        lost: Why the connection ended; None while it is open.
        session: Sequence ids and the stream of replies.
        pending: Requests that wait, by sequence id: taker, deadline, target if the call may move, and the context in
            which a greenlet waits (None where the taker is an object that stores what comes too early).
    """

    __slots__ = ("hub", "_backlog_bytes", "_writer", "_max_queued")

    def __init__(self, fd: int, peer: Server, options: ClientOptions) -> None:
        """Begin with nothing to send; fd is a connected socket of the current hub that does not block."""
        self.peer = peer
        self.hub: Any = get_hub()
        self.lost: PegasusError | None = None
        self.session = ClientSession(options.max_frame)
        self.pending = self.session.pending
        self._fd = fd
        self._out: dict[int, bytes] = {}
        self._out_bytes = 0
        # A frame that has begun to leave is a view of its rest.
        self._backlog: dict[int, Buffer] = {}
        self._backlog_bytes = 0
        # What keeps the loop alive is a call that waits, not half a request that nobody waits for.
        self._writer: Any = reference(self.hub.loop.io(fd, 2), wanted=False)
        self._in_pass = False
        # What a system call is to send: frames by id, its argument while it is to be made, and what it returned.
        self._leaving: tuple[dict[int, Any], list[Any], list[int]] | None = None
        self._flush_callback: Any = None
        self._crowded = False
        self._room: Event | None = None
        self._max_in_flight = options.max_in_flight
        self._max_queued = options.max_queued_bytes
        # As many frames of this size as may be in flight are no more than may be queued: these are not counted.
        self._small = min(options.max_queued_bytes // options.max_in_flight, MOST_UNCOUNTED)

    def close(self, reason: PegasusError) -> None:
        """End the connection."""
        raise NotImplementedError

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return sum(map(len, list(self._out.values()))) + self._backlog_bytes

    def _make_room(self) -> None:
        # Requests that were withdrawn make room too, where the socket takes nothing.
        if self._crowded and self.lost is None and self.queued_bytes <= self._max_queued // 2:
            self._crowded = False
        if self._room is not None and not self._crowded and len(self.pending) < self._max_in_flight:
            room, self._room = self._room, None
            room.set()

    def _send(self, seqid: int, frame: bytes, at_once: bool = False) -> None:
        """Send a frame now where nothing else is under way, else gather it."""
        if self._leaving is not None and not self._in_pass:
            # We run in a signal handler, in the middle of somebody's system call.
            self._settle()
        if not (self._in_pass or self._out or self._backlog or self.lost is not None) and (
            at_once or len(self.pending) <= 1
        ):
            # Nothing else is under way: the frame goes out now, which saves a hub callback. It never waits.
            self._write({seqid: frame}, frame if type(frame) is bytes else pieces([frame]))
            if self._out:
                self._flush_soon()
            return
        out = self._out
        out[seqid] = frame
        if out is not self._out:
            self._catch_up(out, seqid)
            return
        if len(frame) > self._small:
            self._out_bytes += len(frame)
            if self._out_bytes + self._backlog_bytes > self._max_queued:
                self._crowded = True
        if not self._in_pass and not self._backlog:
            self._flush_soon()

    def _catch_up(self, out: dict[int, bytes], seqid: int) -> None:
        """See to a frame that was put into a dict of gathered frames while a signal handler let the hub flush."""
        if out is self._out:
            self._flush_soon()
        elif (frame := out.pop(seqid, None)) is not None:
            # It was not flushed: that empties the dict.
            self._send(seqid, frame)

    def _flush_soon(self) -> None:
        """Have the hub flush when the sockets that are ready now have been read."""
        due = self._flush_callback
        # The loop's own word for it: a flag of ours could be left behind.
        if due is None or not due.pending:
            self._flush_callback = self.hub.loop.run_callback(getattr(self, "flush", self._flush))

    def _flush(self) -> None:
        """Send everything that has gathered, in the hub; the rest is left to the write watcher."""
        if self._leaving is not None:
            self._settle()
        if not self._out or self._backlog or self.lost is not None:
            return
        out = self._out
        try:
            self._out = {}
            size, self._out_bytes = self._out_bytes, 0
            frames = out.copy()
            if size < GATHER_FROM or (len(frames) > MAX_GATHER and size < JOIN_UP_TO):
                data: Any = b"".join(pieces(frames.values()) if size else frames.values())
            else:
                data = pieces([*islice(frames.values(), MAX_GATHER)])
            self._write(frames, data, out)
        except BaseException:
            if out is not self._out:
                # Interrupted before it was noted that they leave.
                self._out.update(out)
                out.clear()
            self._flush_soon()
            raise
        if self._out:
            self._flush_soon()
        if self._crowded:
            self._make_room()

    def _write(self, frames: dict[int, Any], data: Any, taken: dict[int, Any] | None = None) -> None:
        """Make the system call for these frames; what it does not take becomes the backlog.

        Args:
            frames: Frames by id.
            data: What the kernel is given: their bytes in one, or a list of pieces.
            taken: Where they were gathered; emptied once they are noted as leaving. A frame that comes into it after
                that is seen by whoever puts it there, see ``_send``.
        """
        if not _page[0]:
            fork.notice()
            return
        argument = [data]
        sizes: list[int] = []
        try:
            try:
                self._leaving = frames, argument, sizes
                if taken:
                    taken.clear()
                # One step: nothing comes between the system call and the note of what it sent. Whoever settles this
                # before it was made empties the argument.
                sizes.extend(map(os.write if type(data) is bytes else os.writev, (self._fd,), argument))
            except BlockingIOError:
                sizes.append(0)
            self._settle()
        except OSError as error:
            self._settle()
            self.close(ConnectionLost(f"sending failed: {error}", address=self.peer.address))
        except BaseException:
            self._settle()
            raise

    def _settle(self) -> None:
        """Note what a system call has sent; where it was not made, the frames gather again. May be called again."""
        leaving = self._leaving
        if leaving is None:
            return
        frames, argument, sizes = leaving
        backlog = self._backlog
        if sizes and not backlog and type(argument[0]) is bytes and sizes[0] == len(argument[0]):
            # Nearly always: all of it.
            self._leaving = None
            self.peer.bytes_sent += sizes[0]
            return
        if sizes:
            done = sizes[0]
            for seqid, frame in frames.items():
                if done >= len(frame):
                    backlog.pop(seqid, None)
                else:
                    backlog[seqid] = rest(frame, done) if done > 0 else frame
                done -= len(frame)
        else:
            argument.clear()
            for seqid, frame in frames.items():
                if seqid not in backlog:
                    self._out[seqid] = frame
                    if len(frame) > self._small:
                        self._out_bytes += len(frame)
        self._backlog_bytes = sum(map(len, backlog.values()))
        self._leaving = None
        if sizes:
            self.peer.bytes_sent += sizes[0]
        if self.lost is not None:
            return
        if backlog:
            if self.queued_bytes > self._max_queued:
                self._crowded = True
            self._writer.start(self._writable)
        elif self._out:
            self._flush_soon()

    def _writable(self) -> None:
        """Send from the backlog, in the hub."""
        if self._leaving is not None:
            self._settle()
        if self.lost is not None:
            return
        backlog = self._backlog
        if backlog:
            some = dict(islice(backlog.items(), MAX_GATHER))
            self._write(some, pieces(some.values()))
        if not backlog:
            self._writer.stop()
            self._flush()
        if self._crowded:
            self._make_room()

    def _unsent(self) -> frozenset[int]:
        """Return the ids of the requests that have not begun to leave."""
        waiting = [seqid for seqid, frame in self._backlog.items() if not isinstance(frame, memoryview)]
        return frozenset((*self._out, *waiting))

    def withdraw(self, seqid: int) -> bool:
        """Take a request back that has not begun to leave; tell whether that was still possible."""
        frame: Buffer | None = self._out.pop(seqid, None)
        if frame is not None:
            if len(frame) > self._small:
                self._out_bytes -= len(frame)
            return True
        frame = self._backlog.get(seqid)
        if frame is None or isinstance(frame, memoryview) or self._leaving is not None:
            return False
        del self._backlog[seqid]
        self._backlog_bytes -= len(frame)
        return True
