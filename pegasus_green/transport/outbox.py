"""The unsent requests of a connection: they are collected, sent together, and withdrawn when their callers end.

Between any two steps of Python there can be an exception, or a call of a signal handler or finalizer. So a frame is
stored under its sequence id, and dicts change in single steps. The step of C that makes a system call also stores how
many bytes it sent (``list.extend`` of a ``map``). The next code that runs can then complete the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from itertools import islice, repeat
from types import BuiltinFunctionType
from typing import Any, Protocol

from gevent import get_hub
from gevent.event import Event

from ..accelerate import Books, core
from ..errors import ClientClosed, ConnectionLost, PegasusError
from ..options import ClientOptions
from ..protocol.binary import Buffer
from ..protocol.fast import LARGE, Parts
from ..protocol.session import ClientSession
from . import fork

# Frames above this size are passed to the kernel separately; it is cheaper to join smaller ones. Small ones are joined
# up to a megabyte, because a system call takes a limited number of pieces.
GATHER_FROM = LARGE
JOIN_UP_TO = 1024 * 1024
# A frame has up to three pieces, and the kernel takes at most 1,024 in one call.
MAX_GATHER = 340
# Frames above this size are counted one by one when they are collected.
MOST_UNCOUNTED = 4096

COMPILED_WATCHERS = "gevent.libev.corecext"

if core and (_made := core.page()) is not None:
    # The core and the Python code notice a fork by the same page.
    fork.look_at(_made)
_in_process = fork.page.__getitem__


class Server(Protocol):
    """The facts about its server that a connection needs.

    Attributes:
        address: "host:port" from the routes.
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
        """Record the end of a connection; must not yield."""

    def silent(self, connection: Any) -> None:
        """Record that requests wait and nothing arrives."""

    def forget(self, connection: Any) -> None:
        """Forget a connection; must not yield."""


def delay(seconds: float) -> float:
    """Return a timer's delay: 0, or at least a millisecond, the resolution of libuv. gevent warns about less."""
    return max(seconds, 0.001) if seconds > 0.0 else 0.0


def reference(watcher: Any, *, wanted: bool) -> Any:
    """Make a watcher keep the loop alive, or not; return the watcher.

    gevent's watchers for libuv ignore ``ref=`` in their constructor. An object that watches a descriptor only refers to
    the watcher of libuv.
    """
    (getattr(watcher, "_watcher_ref", None) or watcher).ref = wanted
    return watcher


def fork_watcher(loop: Any) -> Any:
    """Return a watcher with which a loop notices a fork before it uses its copies of descriptors in a child.

    Otherwise the loop aborts the process if the child has closed a watched descriptor. The caller stores the watcher,
    and then starts it with ``fork.after_in_child``. The result is None for libuv: it does not check descriptors, and
    its watcher of forks would keep the loop alive.
    """
    return reference(loop.fork(), wanted=False) if type(loop).__module__ == COMPILED_WATCHERS else None


def stop(watcher: Any) -> None:
    """Stop a watcher; None is ignored. If its loop was destroyed, it has stopped already, and libuv would abort.

    gevent never frees a watcher that was active when its loop was destroyed. So this function at least frees the
    callback.
    """
    if watcher is None:
        return
    if _is_alive(getattr(watcher, "_watcher_ref", None) or watcher):
        try:
            watcher.stop()
            watcher.close()
            return
        except ValueError as error:
            if not _tells_end(error):
                raise
    watcher.callback = watcher.args = None


def _tells_end(error: ValueError) -> bool:
    """Tell whether libev raised an error because the loop was destroyed. A signal handler can raise other errors."""
    return "destroyed loop" in str(error)


def is_foreign(error: BaseException, call: object) -> bool:
    """Tell whether a signal handler raised an error that a system call could have raised, for example TimeoutError.

    Python runs handlers right after the system call, in a frame of their own. A function of C has no frame. If a
    function of Python replaces the system call, nobody can tell.
    """
    traceback = error.__traceback__
    return isinstance(call, BuiltinFunctionType) and traceback is not None and traceback.tb_next is not None


def is_active(watcher: Any) -> bool:
    """Tell whether a watcher is started; False for None."""
    try:
        return watcher is not None and bool(watcher.active)
    except ValueError as error:
        if not _tells_end(error):
            raise
        return False


def _is_alive(watcher: Any) -> bool:
    loop = getattr(watcher, "loop", None)
    return loop is None or bool(getattr(loop, "ptr", True))


def pieces(frames: Collection[Any]) -> list[Buffer]:
    """Return the buffers of these frames for the kernel."""
    flat: list[Buffer] = []
    for frame in frames:
        if isinstance(frame, Parts):
            flat += frame.parts
        else:
            flat.append(frame)
    return flat


def rest(frame: Any, done: int) -> memoryview:
    """Return the rest of a frame that was partly sent."""
    return memoryview(frame.join() if isinstance(frame, Parts) else frame)[done:]


class Outbox(Books):
    """The sending half of a connection.

    If nothing else is in progress, the caller passes a frame to the kernel at once, without waiting. Other frames
    collect until the hub's pass ends, and one write sends them. The bytes that the kernel does not accept are the
    backlog; a write watcher sends it.

    Attributes:
        peer: The server, with the counters that outlive a connection.
        hub: The hub of the thread that dialled.
        lost: Why the connection ended; None while it is open.
        session: Sequence ids and the stream of replies.
        pending: Requests that wait, by sequence id: taker, deadline, target if the call may move, and the context in
            which a greenlet waits (None if the taker is an object, which stores an early outcome; a weak reference if
            the reply is here, the deadline has passed, and the greenlet is elsewhere).
    """

    __slots__ = ("hub", "_backlog_bytes", "_writer", "_max_queued", "_descriptors", "_valid")

    def __init__(self, fd: int, peer: Server, options: ClientOptions) -> None:
        """Start without frames; fd is a connected non-blocking socket of the current hub."""
        self.peer = peer
        self.hub: Any = get_hub()
        self.lost: PegasusError | None = None
        self.session = ClientSession(options.max_frame)
        self.pending = self.session.pending
        self._fd = fd
        # By the first byte of the page of the forks. The second item becomes -1 when the connection ends.
        self._descriptors = [-1, fd]
        # Its next item is the descriptor, or -1 if this is a forked process or the connection has ended. A map of a
        # system call over it asks for the item and makes the call in one step: a signal handler that runs before it can
        # fork, or close the connection so that another one gets the descriptor.
        self._valid = map(self._descriptors.__getitem__, map(_in_process, repeat(0)))
        self._out: dict[int, bytes] = {}
        self._out_bytes = 0
        # A frame that was partly sent is a view of its rest.
        self._backlog: dict[int, Buffer] = {}
        self._backlog_bytes = 0
        # A waiting call keeps the loop alive. The rest of a request without a caller does not.
        self._writer: Any = reference(self.hub.loop.io(fd, 2), wanted=False)
        self._in_pass = self._has_read = False
        # The current system call: frames by id, its argument until it is made, and its result.
        self._leaving: tuple[dict[int, Any], list[Any], list[int]] | None = None
        self._flush_callback: Any = None
        self._crowded = False
        self._room: Event | None = None
        self._max_in_flight = options.max_in_flight
        self._max_queued = options.max_queued_bytes
        # Frames up to this size are not counted: max_in_flight of them cannot exceed max_queued_bytes.
        self._small = min(options.max_queued_bytes // options.max_in_flight, MOST_UNCOUNTED)

    def close(self, reason: PegasusError) -> None:
        """End the connection."""
        raise NotImplementedError

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return sum(map(len, list(self._out.values()))) + self._backlog_bytes

    def _make_room(self) -> None:
        # Withdrawn requests make room, too, even if the socket accepts nothing.
        if self._crowded and self.lost is None and self.queued_bytes <= self._max_queued // 2:
            self._crowded = False
        if self._room is not None and not self._crowded and len(self.pending) < self._max_in_flight:
            room, self._room = self._room, None
            room.set()

    def _send(self, seqid: int, frame: bytes, at_once: bool = False) -> None:
        """Send a frame now if nothing else is in progress; otherwise collect it."""
        if self._leaving is not None and not self._in_pass:
            # This runs in a signal handler, during the system call of another caller.
            self._settle()
        if not (self._in_pass or self._out or self._backlog or self.lost is not None) and (
            at_once or len(self.pending) <= 1
        ):
            # Nothing else is in progress: send the frame now, which saves a hub callback. It never waits.
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
        """Handle a frame that was added to the collected frames while a signal handler let the hub flush them."""
        if out is self._out:
            self._flush_soon()
        elif (frame := out.pop(seqid, None)) is not None:
            # It was not flushed: a flush empties the dict.
            self._send(seqid, frame)

    def _flush_soon(self) -> None:
        """Make the hub flush after it has read what has arrived, here and on other connections."""
        due = self._flush_callback
        # Ask the loop itself, because a flag could be stale after an interruption. The hub may have been destroyed.
        if (due is None or not due.pending) and self.hub.loop is not None:
            self._flush_callback = self.hub.loop.run_callback(self.flush if self._has_read else self._read_and_flush)

    def _read_and_flush(self) -> None:
        """Read once, then let the hub flush: the callers that it wakes often send more, also to other servers."""
        self._flush_callback = self.hub.loop.run_callback(self.flush)
        if self.pending and self.lost is None:
            self.arrived()

    def _in_next_pass(self, run: Callable[[], object]) -> None:
        """Make the hub call a function after timers and other sockets had their turn.

        A callback is not suitable: gevent runs 50 callbacks, also new ones, before it checks the clock.
        """
        timer = self.hub.loop.timer(0.0)
        timer.start(self._run_and_close, timer, run)

    @staticmethod
    def _run_and_close(timer: Any, run: Callable[[], object]) -> None:
        timer.close()
        run()

    def _flush(self) -> None:
        """Send all collected frames, in the hub; the write watcher sends the rest."""
        self._has_read = False
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
                # Interrupted before the frames were recorded as leaving.
                self._out.update(out)
                out.clear()
                self._out_bytes = self.queued_bytes - self._backlog_bytes
            self._flush_soon()
            raise
        if self._out:
            self._flush_soon()
        if self._crowded:
            self._make_room()

    if core is None:
        flush = _flush

    def _send_last(self, reason: PegasusError) -> None:
        """If the client closes the connection, send the collected requests that have no callers.

        They free the contexts of scans on the server. The hub may never run again.
        """
        if not isinstance(reason, ClientClosed) or self._backlog or self._leaving is not None:
            return
        last = [frame for seqid, frame in self._out.copy().items() if seqid not in self.pending]
        if last:
            try:
                # The socket accepts all of these few bytes, or they are lost.
                list(map(os.write, self._valid, [b"".join(pieces(last))]))
            except OSError as error:
                if is_foreign(error, os.write):
                    raise

    def _write(self, frames: dict[int, Any], data: Any, taken: dict[int, Any] | None = None) -> None:
        """Make the system call for these frames; the bytes that it does not accept become the backlog.

        Args:
            frames: Frames by id.
            data: Their bytes for the kernel: one bytes object, or a list of pieces.
            taken: The dict where they were collected. It is emptied when they are recorded as leaving. The code that
                adds a frame to it later must handle that frame, see ``_send``.
        """
        argument = [data]
        sizes: list[int] = []
        whole = type(data) is bytes
        call = os.write if whole else os.writev
        try:
            try:
                leaving = self._leaving = frames, argument, sizes
                if taken:
                    taken.clear()
                # One atomic step: nothing runs between the system call and the storage of its result. Code that
                # settles this before the call empties the argument.
                sizes.extend(map(call, self._valid, argument))
                if whole and self._leaving is leaving and (sent := sizes[0]) == len(data) and not self._backlog:
                    # The usual case of _settle, which a nested call of a signal handler may have run: all was sent.
                    self._leaving = None
                    self.peer.bytes_sent += sent
                    return
            except BlockingIOError as error:
                if is_foreign(error, call):
                    raise
                sizes.append(0)
            self._settle()
        except OSError as error:
            fork.after_in_child()
            self._settle()
            if is_foreign(error, call):
                raise
            self.close(ConnectionLost(f"sending failed: {error}", address=self.peer.address))
        except BaseException:
            self._settle()
            raise

    def _settle(self) -> None:
        """Record what a system call has sent. If it was not made, collect the frames again. May be called again."""
        leaving = self._leaving
        if leaving is None:
            return
        frames, argument, sizes = leaving
        backlog = self._backlog
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
        """Return the ids of the requests of which no byte was sent."""
        waiting = [seqid for seqid, frame in self._backlog.copy().items() if not isinstance(frame, memoryview)]
        return frozenset((*self._out, *waiting))

    def withdraw(self, seqid: int) -> bool:
        """Take a request back if no byte of it was sent; return whether that was possible."""
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
