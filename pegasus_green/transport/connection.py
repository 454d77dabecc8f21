"""One connection to one server: many calls in flight, matched by sequence id.

Work of callers and of the hub:

* A *caller* registers itself under a sequence id, appends its frame to the outgoing frames and switches to the hub. It
  uses the socket only to send its own whole frame at once, without waiting, if nothing else is in progress.
* The *hub* does the rest in callbacks that never wait. The read watcher cuts replies out of the received bytes and
  switches directly into the callers. One flush per hub pass sends the collected frames. A write watcher sends the rest
  if the kernel had no room. One repeating timer checks the deadlines.

``handover.py`` delivers outcomes to their callers, and ``outbox.py`` sends requests. If a callback of the hub is
interrupted and it is unknown which bytes were received, the connection ends. The exception goes to gevent's
``handle_error``.
"""

from __future__ import annotations

import os
import weakref

# The plain socket, which knows no hub.
from _socket import socket
from contextvars import Context
from itertools import repeat
from time import monotonic
from typing import Any

from gevent._waiter import Waiter
from gevent.event import Event
from gevent.exceptions import HubDestroyed, InvalidSwitchError

from ..accelerate import core
from ..errors import FORKED, ConnectionLost, ForkedConnection, PegasusError, ProtocolError, RequestTimeout
from ..events import Lifetime
from ..options import ClientOptions
from ..protocol.binary import Buffer
from ..protocol.framing import encode_request
from ..protocol.rpc import META_END_BACKUP, V1_HASH_FIELD, V1_START, Rpc
from . import fork
from .handover import FAILURES_A_PASS, FOREVER, Handover, Moved, Outcome, Taker, Target, left_ms, why_interrupted
from .outbox import COMPILED_WATCHERS, Server, delay, fork_watcher, is_foreign, reference, stop
from .sockets import is_same, let_go, notice_dead_paths
from .waits import wait

READ_SIZE = 256 * 1024
LEAST_READ = 4 * 1024
# The read buffer: one for all connections of a hub, because none keeps data in it. Each hub has its own, because their
# threads read at the same time. It ends with the connections, because gevent does not free every hub that has ended.
_chunks: weakref.WeakKeyDictionary[Any, weakref.ref[memoryview]] = weakref.WeakKeyDictionary()
# A pass of the reader ends after this many replies or seconds, so that a busy connection cannot block the hub.
FRAMES_A_PASS = 256
SECONDS_A_PASS = 0.002
# Before a deadline fails calls, the received bytes are read for at most this long.
SECONDS_A_RESCUE = 0.01
FRAMES_A_CHECK = 32
# Interval of the checks for silence while calls wait; the timer sleeps at most this long.
TICK = 0.25
LEAST_TICK = 0.005
_page = fork.page


class Connection(Handover):
    """A connected socket with the calls that wait on it.

    Attributes:
        peer: The server, with the counters that outlive a connection.
        hub: The hub of the thread that dialled.
        lost: Why the connection ended; None while it is open.
        heard: Monotonic time of the newest bytes.
        lifetime: What the listeners have heard of it.
        pending: Requests that wait, by sequence id: taker, deadline, target if the call may move, context or None.
        silent_since: Monotonic time since when requests wait and nothing arrives; 0.0 if no reply is owed. While no
            request waits, it can be below 0: it is then minus the seconds of silence so far, and the silence of the
            next request is added to these seconds.
    """

    __slots__ = (
        "_view",
        "_space",
        "_receive",
        "born",
        "sockaddr",
        "_socket",
        "_ended",
        "_inode",
        "_reader",
        "_forks",
        "_timer",
        "_reading",
        "_undelivered",
        "_options",
        "lifetime",
        "__weakref__",
    )

    def __init__(self, sock: Any, peer: Server, options: ClientOptions) -> None:
        """Prepare a connected gevent socket of the current hub; ``open`` takes it over.

        Raises:
            OSError: The socket is no longer connected.
        """
        self.sockaddr = sock.getpeername()
        self._socket: socket | None = None
        self._inode = os.fstat(sock.fileno()).st_ino
        super().__init__(sock.fileno(), peer, options)
        known = _chunks.get(self.hub)
        self._view = (known and known()) or memoryview(bytearray(READ_SIZE))
        _chunks[self.hub] = weakref.ref(self._view)
        self._chunk = self._view.obj
        self.silent_since = 0.0
        self.born = self.heard = monotonic()
        # An idle connection does not keep the loop alive. While calls wait, the reader is referenced.
        self._reader: Any = reference(self.hub.loop.io(self._fd, 1), wanted=False)
        self._forks: Any = None
        # If one step of C sets its reference, the compiled core may set it.
        self._keeper = self._reader if type(self._reader).__module__ == COMPILED_WATCHERS else None
        self._timer: Any = None
        self._timer_at = FOREVER
        self._referenced = False
        # Whether the compiled core may read: no bytes of an earlier read are left.
        self._plain = True
        self._max_frame = options.max_frame
        # True during a pass of the reader. An interrupted pass leaves it True.
        self._reading = False
        self._ended = False
        self._undelivered: list[tuple[int, Buffer]] = []
        self._space = [self._view]
        self._receive = map(os.readv, self._valid, repeat(self._space))
        self._share = READ_SIZE
        self._version = options.header_version
        self._options = options
        self.lifetime = Lifetime(peer.address)

    def open(self, sock: Any, generation: int) -> None:
        """Take over the descriptor of the gevent socket and start to read.

        Args:
            sock: The socket.
            generation: The fork generation in which it was dialled.

        Raises:
            ForkedConnection: The process forked since then, for example in a signal handler, and this is the child.
        """
        try:
            fork.register(self)
            # The plain socket can be closed in one step and without a hub.
            self._socket = socket(sock.family, sock.type, sock.proto, sock.detach())
            notice_dead_paths(self._socket, self._options.path_timeout)
            self._forks = fork_watcher(self.hub.loop)
            if self._forks is not None:
                self._forks.start(fork.after_in_child)
            self._reader.start(self.arrived)
            if generation != fork.generation():
                # The fork may have come before any of these steps, which are undone here.
                self._ended = False
                self.poison()
                raise ForkedConnection("the process forked while it connected", address=self.peer.address)
        except BaseException:
            if self._socket is None and sock.fileno() < 0 and is_same(self._fd, self._inode):
                os.close(self._fd)
            raise

    def __repr__(self) -> str:
        """Show address, state and load."""
        state = f"lost ({self.lost})" if self.lost else "open"
        return (
            f"<Connection {self.peer.address} {state} in_flight={len(self.pending)} sent={self.session.issued}"
            f" age={monotonic() - self.born:.0f}s>"
        )

    @property
    def in_flight(self) -> int:
        """Requests that wait for a reply."""
        return len(self.pending)

    @property
    def silence(self) -> float:
        """Seconds during which requests have waited and nothing arrived; 0.0 if no request waits."""
        waits = self.silent_since > 0.0 and (self.pending or self._backlog)
        return monotonic() - self.silent_since if waits else 0.0

    def call(
        self,
        rpc: Rpc,
        target: Target,
        partition_hash: int,
        argument: bytes,
        deadline: float,
        now: float,
        movable: Target | None,
        backup: bool = False,
    ) -> Outcome:
        """Send a request and wait for its outcome: a reply frame, or an error as a value.

        It yields to the hub once, and before that while the connection has no room. An exception that the application
        throws into the waiting greenlet passes through; the request is then abandoned.

        Args:
            rpc: The RPC.
            target: The partition; (0, 0) for meta servers.
            partition_hash: Unsigned hash for the header.
            argument: The encoded argument struct.
            deadline: Monotonic time after which the outcome is a RequestTimeout.
            now: The current monotonic time.
            movable: The target again if the call may move to another primary while it waits; else None.
            backup: Set the backup flag.

        Raises:
            InvalidSwitchError: Other code than this connection switched into the greenlet.
        """
        while True:
            waiter: Any = Waiter(self.hub)
            seqid = 0
            try:
                try:
                    seqid = self.start(
                        rpc,
                        target,
                        partition_hash,
                        argument,
                        deadline,
                        left_ms(deadline, now),
                        waiter,
                        movable,
                        None,
                        backup,
                    )
                    if seqid:
                        return self.checked(waiter.get(), seqid)
                except BaseException:
                    self.abandon(seqid, waiter)
                    raise
            except BaseException:
                # Do this even if the clean-up itself is interrupted.
                self.abandon(seqid, waiter)
                raise
            refusal = self.wait_for_room(deadline, movable)
            if refusal is not None:
                return refusal
            now = monotonic()

    def checked(self, outcome: Any, seqid: int) -> Outcome:
        """Check and return the value that a waiting greenlet was switched with.

        Raises:
            InvalidSwitchError: Other code than this connection switched into it. Its reply will be dropped.
        """
        if seqid not in self.pending and isinstance(outcome, (bytes, bytearray, memoryview, PegasusError)):
            return outcome
        self.abandon(seqid)
        raise InvalidSwitchError(f"{outcome!r} was switched into a greenlet that waits for a reply")

    def start(
        self,
        rpc: Rpc,
        target: Target,
        partition_hash: int,
        argument: bytes,
        deadline: float,
        milliseconds: int,
        taker: Taker,
        movable: Target | None,
        context: Context | None = None,
        backup: bool = False,
    ) -> int:
        """Send a request without waiting. The hub delivers its outcome to the taker once, if it is not abandoned.

        If it is interrupted, ``abandon`` with the taker or the context undoes it.

        Args:
            rpc: The RPC.
            target: The partition.
            partition_hash: Unsigned hash for the header.
            argument: The encoded argument struct.
            deadline: Monotonic time.
            milliseconds: The remaining time for the header, at least 1.
            taker: The hub calls its ``switch`` with a frame or an error. It is a greenlet, or an object whose method
                is fast, does not yield, and ignores a second call.
            movable: As for ``call``.
            context: A new context; the greenlet then switches to the hub inside its ``run``. None for an object.
            backup: Set the backup flag.

        Returns:
            The sequence id; 0 if the connection is lost or full, see ``wait_for_room``.
        """
        pending = self.pending
        if self._crowded or len(pending) >= self._max_in_flight:
            return 0
        session = self.session
        seqid = next(session.ids)
        if seqid > session.fresh:
            seqid = session.free_id(seqid)
        if self._version:
            frame = (
                rpc.head.pack(
                    V1_START,
                    rpc.body_base + len(argument),
                    target.header_part,
                    milliseconds,
                    V1_HASH_FIELD,
                    partition_hash,
                    META_END_BACKUP + rpc.call_tail if backup else rpc.v1_tail,
                    seqid,
                )
                + argument
            )
        else:
            frame = encode_request(
                rpc,
                seqid,
                argument,
                app_id=target.app_id,
                partition_index=target.index,
                partition_hash=partition_hash,
                timeout_ms=milliseconds,
                version=0,
            )
        # The entry first: the code that abandons it finds the frame by its id.
        pending[seqid] = (taker, deadline, movable, context)
        self.begin(pending, seqid, deadline, frame)
        return seqid

    if core is None:
        # Sends a usual request in the core; its arguments are the first of ``start``. False: nothing was sent.
        post = start

    def send_oneway(self, rpc: Rpc, target: Target, partition_hash: int, argument: bytes) -> None:
        """Send a request that is never answered. Nothing happens if the connection is lost."""
        if self.lost is None:
            seqid = self.session.free_id()
            frame = encode_request(
                rpc,
                seqid,
                argument,
                app_id=target.app_id,
                partition_index=target.index,
                partition_hash=partition_hash,
                version=self._version,
            )
            # At once if possible: nobody waits for it, so the client may be closed right after this.
            self._send(seqid, frame, at_once=True)

    def wait_for_room(self, deadline: float, movable: Target | None = None) -> PegasusError | None:
        """Wait until another request can be started.

        Returns:
            None if there is room; an error if the deadline or the end of the connection is earlier; Moved if a movable
            request has a new primary.
        """
        known = self._has_moved
        while self.lost is None:
            if not self._crowded and len(self.pending) < self._max_in_flight:
                return None
            if movable is not None and self._has_moved is not known:
                known = self._has_moved
                if known is not None and known(movable):
                    return Moved("another primary", address=self.peer.address)
            now = monotonic()
            if now >= deadline:
                what = f"{len(self.pending)} calls in flight and {self.queued_bytes} bytes queued"
                if self.silence >= self._options.silent_window:
                    self.close(ConnectionLost(f"nothing arrived for {self.silence:.1f} s", address=self.peer.address))
                return RequestTimeout(f"no room on the connection: {what}", address=self.peer.address)
            room = self._room
            if room is None or room.is_set():
                room = self._room = Event()
            # Silence is also checked if nothing is pending except the rest of a request that cannot be sent.
            self._wake(deadline, now)
            # If an interrupted callback loses a wake-up, the caller waits only a moment longer.
            wait(room, min(deadline - now, TICK))
        return self._closed_error(False)

    # ------------------------------------------------------------------ receiving

    def _readable(self, came: int | None = None) -> bool:  # noqa: C901 - it runs for every read
        """Read the received bytes, within the budget of one pass, and wake the callers; runs in the hub.

        Args:
            came: Number of bytes that the compiled core has read into the chunk, or the negative errno of its read.

        Returns:
            Whether there was anything to read.
        """
        if not _page[0]:
            fork.notice()
        if self.lost is not None:
            return False
        try:
            if self._reading:  # the previous pass and the close after it were interrupted
                self.interrupted()
                return False
            self._reading = self._in_pass = True
            self._plain = False
            heard, frames = self.heard, self._undelivered
            try:
                if frames:
                    self._undelivered = []
                else:
                    frames = self._read(came)
                if len(frames) <= FRAMES_A_CHECK:
                    self.deliver(frames, self.pending)
                else:
                    self._deliver(frames)
                if not self._undelivered:
                    if self.session.broken is not None:
                        raise self.session.broken
                    # Only the core needs to know.
                    self._plain = core is not None and self.session.at_rest
            except ProtocolError as error:
                reason = f"the replies cannot be understood: {error}"
                self.close(ProtocolError(reason, address=self.peer.address))
            finally:
                self._in_pass = False
            self._reading = False
            if self.lost is not None:
                return False
            if self.heard != heard:
                # A late reply to an abandoned call also ends a silence.
                self.silent_since = self.heard if self.pending else 0.0
                if self._referenced and not self.pending:
                    self._unreference()
            if self._room is not None:
                self._make_room()
            if self._out:
                if frames and len(self._out) >= len(frames) - len(self._undelivered):
                    self._flush()
                else:
                    # Some callers continued at other servers, whose replies may be here, too: one write for all.
                    self._has_read = True
                    self._flush_soon()
            return self.heard != heard or bool(frames)
        except BaseException as error:
            self.interrupted(error)
            raise

    if core is None:
        arrived = _readable

    def interrupted(self, struck: BaseException | None = None) -> None:
        """End a connection if it is unknown which bytes were received or sent."""
        # If the hub is being destroyed, its destruction closes the connection.
        if not isinstance(struck, HubDestroyed):
            self.close(why_interrupted(self.hub, self.peer.address))

    def _read(self, came: int | None) -> list[tuple[int, Buffer]]:
        """Read once without waiting, unless the core has read; end of stream and errors close the connection."""
        session, chunk = self.session, self._space[0]
        # Without a large reply, which is the usual case, this saves a call for each read.
        large = session.buffer() if session.large is not None else None
        try:
            if came is not None:
                size = came
                if size < 0:
                    raise OSError(-size, os.strerror(-size))
            elif large is None:
                size = next(self._receive)
            else:
                # Further replies may have arrived after the rest of a large one.
                buffers = [large, chunk] if len(large) == session.missing() else [large]
                size = next(map(os.readv, self._valid, [buffers]))
        except OSError as error:
            fork.after_in_child()
            if is_foreign(error, os.readv):
                raise
            if isinstance(error, BlockingIOError):
                return []
            self.close(ConnectionLost(f"receiving failed: {error}", address=self.peer.address))
            return []
        if not size:
            self.close(ConnectionLost("the server closed the connection", address=self.peer.address))
            return []
        self.heard = monotonic()
        self.peer.bytes_received += size
        if large is not None:
            rest = min(size, len(large))
            return session.filled(rest, chunk[: size - rest])
        frames = session.feed(chunk[:size])
        # To cut 10,000 tiny replies out of one chunk takes longer than a pass may last, so the next pass reads less.
        if len(frames) > FRAMES_A_PASS:
            self._read_up_to(max(size * FRAMES_A_PASS // len(frames), LEAST_READ))
        elif size == self._share < READ_SIZE:
            self._read_up_to(min(2 * size, READ_SIZE))
        return frames

    def _read_up_to(self, size: int) -> None:
        self._share = size
        self._space[0] = self._view[:size]

    def _deliver(self, frames: list[tuple[int, Buffer]]) -> None:
        """Deliver replies until the pass has used its budget; the others stay pending, so no call times out."""
        pending = self.pending  # read once: see poison
        started = monotonic()
        for begin in range(0, len(frames), FRAMES_A_CHECK):
            if begin and (begin >= FRAMES_A_PASS or monotonic() - started > SECONDS_A_PASS):
                if self.lost is None:
                    self._undelivered = frames[begin:]
                    self._in_next_pass(self._readable)
                return
            if begin == FRAMES_A_CHECK == len(self._out) and len(frames) < FRAMES_A_PASS:
                # The server works on these while other replies are delivered: a fifth more calls per second. If more
                # replies wait than a pass delivers, the server is busy anyway.
                self._flush()
            self.deliver(frames[begin : begin + FRAMES_A_CHECK], pending)

    # ------------------------------------------------------------------ time

    def _wake(self, at: float, now: float) -> None:
        """Make the timer fire at a time, or earlier to check for silence; keep the loop alive meanwhile."""
        if self.lost is not None:
            self._fail_soon()
            return
        if self.pending and self.silent_since <= 0.0:
            self.silent_since += now
        if not self._referenced:
            reference(self._reader, wanted=True)
            self._referenced = True
        at = min(at, now + TICK)
        if self._timer is None or at < self._timer_at:
            # The timer repeats, so a callback that is interrupted at its first step runs again.
            timer = reference(self.hub.loop.timer(delay(at - now), TICK), wanted=False)
            timer.start(self._look, timer)
            old, self._timer = self._timer, timer
            self._timer_at = at
            stop(old)
        # Last: if this is interrupted before, the next call runs it again.
        self._wake_at = self._timer_at

    def _look(self, timer: Any) -> None:
        """Read the received bytes, fail the calls whose deadline has passed, check for silence; runs in the hub."""
        if not _page[0]:
            fork.notice()
        if timer is not self._timer:
            stop(timer)
            return
        if self.lost is not None:
            self.close(self.lost)
            stop(timer)
            return
        now = monotonic()
        if self.silent_since > 0.0 and now > self._timer_at + TICK:
            # The application computed, and the hub did not run. That is no silence of the server.
            self.silent_since = min(self.silent_since + now - self._timer_at, now)
        self._timer_at = self._wake_at = now + TICK
        # If the application has computed for a while, the replies are often in the kernel already.
        until = now + SECONDS_A_RESCUE
        while self.pending and self._readable() and monotonic() < until:
            pass
        now = monotonic()
        if self.lost is not None:
            return
        pending, (expired, earliest) = self.pending, self._past(now)  # read once: see poison
        silent = self.silence
        condemned = bool(expired) and silent >= self._options.silent_window
        if condemned:
            # Failed callers may call again at once, but not on this connection.
            self._crowded = True
        for seqid in expired:
            if seqid in pending:
                self.deliver([(seqid, self._late(seqid))], pending)
        if self.lost is not None:
            return
        if condemned:
            self.close(ConnectionLost(f"nothing arrived for {silent:.1f} s", address=self.peer.address))
            return
        if silent >= self._options.silence:
            self.peer.silent(self)
        self._flush()
        self._make_room()
        if self.pending or self._room is not None or self._out or self._undelivered:
            self._wake(max(earliest, now + LEAST_TICK), now)
            if self._referenced and not self.is_awaited:
                self._unreference()
        else:
            self._rest()

    def _past(self, now: float) -> tuple[list[int], float]:
        """Return the ids whose deadline has passed (some of them if there are many), and the time of the next check."""
        earliest = FOREVER
        expired = []
        for seqid, (_, deadline, _, _) in self.pending.copy().items():
            if deadline <= now:
                expired.append(seqid)
            elif deadline < earliest:
                earliest = deadline
        if self._undelivered or self._parked:
            # Replies that are here count as in time. A flood of frames without callers delays no deadline.
            here = {seqid for seqid, _ in self._undelivered}.union(self._parked)
            expired = [seqid for seqid in expired if seqid not in here]
            if self._undelivered:
                return expired[:FAILURES_A_PASS], now
        return expired[:FAILURES_A_PASS], now if len(expired) > FAILURES_A_PASS else earliest

    def _unreference(self) -> None:
        """Let the loop end: the server may owe replies, but nobody waits for them."""
        # First, so that the next call references the connection again.
        self._wake_at = FOREVER
        self._referenced = False
        reference(self._reader, wanted=False)
        if self.pending and self.is_awaited:
            # A signal handler has started a call meanwhile.
            self._wake(FOREVER, monotonic())

    def _rest(self) -> None:
        """Stop the timer until the next call. The idle time does not count as silence."""
        if self.silent_since > 0.0:
            self.silent_since -= monotonic()
        self._unreference()
        timer, self._timer = self._timer, None
        self._timer_at = FOREVER
        stop(timer)
        if self.pending:
            self._wake(FOREVER, monotonic())

    # ------------------------------------------------------------------ the end

    def close(self, reason: PegasusError) -> None:
        """End the connection, once. Every waiting caller gets its own error from the hub. Never yields.

        If the close is interrupted repeatedly, the timer of the deadlines or the next call completes it.
        """
        if self._ended:
            return
        try:
            self._end(reason)
        except BaseException:
            # Every step can be repeated.
            self._end(reason)
            raise

    def _end(self, reason: PegasusError) -> None:
        if self.lost is None:
            self._send_last(reason)
            self.lost = reason
        self._crowded = True
        # A call in progress reaches _wake.
        self._wake_at = FOREVER
        self._has_moved = None
        if self._unsent_at_end is None:
            # Determine the unsent requests before the queues are dropped.
            self._unsent_at_end = self._unsent()
        if self.pending:
            # Before the watchers are stopped, because they keep the loop alive.
            self._fail_soon()
        stop(self._forks)
        stop(self._reader)
        stop(self._writer)
        self._drop_queues()
        if self._socket is not None:
            self._socket.close()
        if self._room is not None and self.hub.loop is not None:
            self._room.set()
        # Near the end, because it calls the listeners of the application.
        self.peer.connection_lost(self, reason)
        self._ended = True
        stop(self._timer)

    def _drop_queues(self) -> None:
        self._descriptors[1] = -1
        self._out, self._out_bytes, self._undelivered = {}, 0, []
        self._backlog.clear()
        self._backlog_bytes = 0

    def poison(self) -> None:
        """Cut off this process's copy of the parent's connection, right after a fork; must not yield.

        This process then sends nothing to the server and takes no reply from the parent. The copies of the waiting
        callers get their error when the hub of this process runs. Every step can be repeated.
        """
        self.lost = ForkedConnection(FORKED)
        # If a caller that was just woken has forked, the rest of that delivery in the child finds an empty dict. So no
        # reply or error is delivered a second time.
        waiting = self.pending
        if self.session.pending is waiting:
            self.session.pending = dict(waiting)
        waiting.clear()
        self.pending = self.session.pending
        self._parked.clear()
        if self._ended:
            return
        self._crowded = True
        self._wake_at = FOREVER
        for watcher in (self._forks, self._reader, self._writer, self._timer):
            stop(watcher)
        self._drop_queues()
        self._unsent_at_end = frozenset()
        if self._socket is not None:
            let_go(self._socket, self._inode)
        self.peer.forget(self)
        self._ended = True
        if self.pending:
            self._fail_soon()
