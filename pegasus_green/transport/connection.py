"""One connection to one server: many calls in flight, matched by sequence id.

Who runs what:

* A *caller* registers itself under a sequence id, appends its frame to the outgoing list and switches to the hub. It
  touches the socket only to send its own whole frame at once when nothing else is under way, without waiting.
* The *hub* does the rest in callbacks that never wait: the read watcher cuts replies out of what the kernel holds and
  switches straight into the callers; one flush per hub pass sends what has gathered; a write watcher sends the rest
  when the kernel had no room; one timer looks after the deadlines.

So a caller may be killed or timed out at its only yield point without harm: it takes its entry away, and its late
reply finds nobody. Callers whose connection is lost get an error of their own, from the hub, in batches.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from gevent import socket as gsocket
from gevent.event import Event
from gevent.exceptions import InvalidSwitchError
from greenlet import getcurrent

from ..errors import ClientClosed, ConnectionLost, ForkedConnection, PegasusError, ProtocolError, RequestTimeout
from ..protocol.binary import Buffer
from ..protocol.framing import V1_HASH_FIELD, V1_START, encode_request
from ..protocol.rpc import META_END_BACKUP, Rpc
from ..protocol.session import MAX_SEQID
from . import fork
from .negotiation import DEMANDS_AUTH
from .outbox import Outbox

if TYPE_CHECKING:
    from ..options import ClientOptions
    from .pool import Peer

_log = logging.getLogger("pegasus_green.connection")

READ_SIZE = 256 * 1024
LEAST_READ = 4 * 1024
# What a read fills: one buffer for all connections of a hub, since none keeps anything in it. Not one for all hubs:
# their threads read at the same time.
_chunks: weakref.WeakKeyDictionary[Any, memoryview] = weakref.WeakKeyDictionary()
# A pass of the reader ends after this many replies or seconds, so that one busy connection cannot hold the hub.
FRAMES_A_PASS = 256
SECONDS_A_PASS = 0.002
# What came before the deadline is read for at most this long before the deadline fails a call.
SECONDS_A_RESCUE = 0.01
FRAMES_A_CHECK = 32
# Waking 20,000 callers at once would hold the hub for a quarter of a second.
FAILURES_A_PASS = 256
# How often the timer looks for silence while calls wait; also the longest time it sleeps then.
TICK = 0.25
LEAST_TICK = 0.005
FOREVER = float("inf")

Outcome: TypeAlias = "bytes | memoryview | PegasusError"


def left_ms(deadline: float, now: float) -> int:
    """Return the time left as a header carries it: whole milliseconds, never 0."""
    return max(int((deadline - now) * 1000), 1)


class Taker(Protocol):
    """Who takes an outcome: a greenlet, or anything with such a method."""

    def switch(self, outcome: Outcome) -> object:
        """Take the outcome."""


class Moved(PegasusError):
    """Internal: the partition has another primary now; the call is to be sent there. Never reaches an application."""


class Target:
    """What a connection must know of a partition: the constant part of the header, and the ids for header v0."""

    __slots__ = ("app_id", "index", "header_part")

    def __init__(self, app_id: int, index: int, header_part: bytes) -> None:
        """Describe a partition; (0, 0) stands for a meta server."""
        self.app_id, self.index, self.header_part = app_id, index, header_part


class Connection(Outbox):
    """A connected socket with the calls that wait on it.

    Attributes:
        peer: The server, with the counters that outlive a connection.
        hub: The hub of the thread that dialled.
        lost: Why the connection ended; None while it is open.
        heard: Monotonic time of the newest bytes.
        pending: Requests that wait, by sequence id: taker, deadline, target if the call may move.
        silent_since: Monotonic time since when requests are out and nothing came in; 0.0 when nothing is owed.
    """

    __slots__ = (
        "_chunk",
        "silent_since",
        "born",
        "heard",
        "sockaddr",
        "_socket",
        "_reader",
        "_timer",
        "_wake_at",
        "_referenced",
        "_undelivered",
        "_has_moved",
        "_share",
        "_version",
        "_options",
        "__weakref__",
    )

    def __init__(self, sock: Any, peer: Peer, options: ClientOptions) -> None:
        """Take over a connected gevent socket of the current hub."""
        super().__init__(sock.fileno(), peer, options)
        self._chunk = _chunks.get(self.hub) or _chunks.setdefault(self.hub, memoryview(bytearray(READ_SIZE)))
        self.silent_since = 0.0
        self.born = self.heard = monotonic()
        self.sockaddr = sock.getpeername()
        self._socket = sock
        # ref=False: an idle connection does not keep the loop alive; while calls wait the reader is referenced.
        self._reader: Any = self.hub.loop.io(self._fd, 1, ref=False)
        self._timer: Any = None
        self._wake_at = FOREVER
        self._referenced = False
        self._undelivered: list[tuple[int, Buffer]] = []
        self._has_moved: Callable[[Target], bool] | None = None
        self._share = READ_SIZE
        self._version = options.header_version
        self._options = options
        self._reader.start(self._readable)
        fork.register(self)

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
        """Seconds for which replies have been owed and nothing came in."""
        return monotonic() - self.silent_since if self.silent_since else 0.0

    # ------------------------------------------------------------------ callers

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

        Yields to the hub once, and before that while the connection is crowded. Whatever the application throws into
        the waiting greenlet passes through; the request is then simply nobody's any more.

        Args:
            rpc: What to call.
            target: The partition, or the meta servers' (0, 0).
            partition_hash: Unsigned hash for the header.
            argument: The encoded argument struct.
            deadline: Monotonic time after which the outcome is a RequestTimeout.
            now: Monotonic time of now.
            movable: The target again when the call may go to another primary while it waits, else None.
            backup: Set the backup flag.
        """
        while True:
            seqid = self.start(
                rpc,
                target,
                partition_hash,
                argument,
                deadline,
                left_ms(deadline, now),
                getcurrent(),
                movable,
                backup,
            )
            if seqid:
                return self.wait(seqid)
            refusal = self.wait_for_room(deadline, movable)
            if refusal is not None:
                return refusal
            now = monotonic()

    def wait(self, seqid: int) -> Outcome:
        """Wait for the outcome of a request that was started with the current greenlet as its taker."""
        try:
            outcome = self.hub.switch()
        except BaseException:
            self.abandon(seqid)
            raise
        return self.checked(outcome, seqid)

    def checked(self, outcome: Outcome, seqid: int) -> Outcome:
        """Return what a waiting greenlet was switched with.

        Raises:
            InvalidSwitchError: Somebody else than this connection woke it: its reply, when it comes, is nobody's.
        """
        if type(outcome) is bytes or isinstance(outcome, (memoryview, PegasusError)):
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
        backup: bool = False,
    ) -> int:
        """Send a request without waiting; the hub hands its outcome to the taker, once, unless it is abandoned first.

        Args:
            rpc: As for ``call``, like what is not described here.
            target: The partition.
            partition_hash: Unsigned hash for the header.
            argument: The encoded argument struct.
            deadline: Monotonic time.
            milliseconds: The time left until the deadline, at least 1, for the header.
            taker: Its ``switch`` is called in the hub with a frame or an error: a greenlet that waits (and nothing
                else may wake it), or an object whose method does not yield, raise or take long.
            movable: The target again, or None.
            backup: Set the backup flag.

        Returns:
            The sequence id; 0 when the connection is lost or full, see ``wait_for_room``.
        """
        pending = self.pending
        if self._crowded or len(pending) >= self._max_in_flight:
            return 0
        session = self.session
        seqid = session.issued + 1
        if seqid in pending or seqid > MAX_SEQID:
            seqid = self._pass_over()
        if self._version == 1:
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
        # From here on nothing can fail: every issued id has its frame, in the same order (see _withdraw).
        session.issued = seqid
        pending[seqid] = (taker, deadline, movable)
        if not self._referenced:
            self._referenced = self._reader.ref = True
            self.silent_since = self.silent_since or monotonic()
        if deadline < self._wake_at:
            self._wake(deadline, monotonic())
        if self._in_pass or self._flush_due:
            # The reader's pass ends with a flush.
            self._out.append(frame)
            self._out_bytes += len(frame)
            if self._out_bytes + self._backlog_bytes > self._max_queued:
                self._crowded = True
        else:
            self._send(frame)
        return seqid

    def send_oneway(self, rpc: Rpc, target: Target, partition_hash: int, argument: bytes) -> None:
        """Send a request that is never answered; nothing happens when the connection is lost."""
        if self.lost is None:
            seqid = self._pass_over()
            frame = encode_request(
                rpc,
                seqid,
                argument,
                app_id=target.app_id,
                partition_index=target.index,
                partition_hash=partition_hash,
                version=self._version,
            )
            self.session.issued = seqid
            # At once where possible: nobody waits for it, so the client may be closed in the same breath.
            self._send(frame, at_once=True)

    def abandon(self, seqid: int) -> None:
        """Give up a started request: it is not sent if it has not begun to leave, else its reply will be dropped."""
        if self.pending.pop(seqid, None) is not None:
            self._withdraw(seqid)

    def wait_for_room(self, deadline: float, movable: Target | None = None) -> PegasusError | None:
        """Wait until another request can be started.

        Returns:
            None when there is room; the error when the deadline or the connection's end came first; Moved when a
            movable request has another primary now.
        """
        known = self._has_moved
        while self.lost is None:
            if not self._crowded and len(self.pending) < self._max_in_flight:
                return None
            if movable is not None and self._has_moved is not known:
                known = self._has_moved
                if known is not None and known(movable):
                    return Moved("another primary", address=self.peer.address)
            if self._room is None:
                self._room = Event()
            now = monotonic()
            # Silence is looked for also where nothing is pending but half a request that does not leave.
            self._wake(deadline, now)
            if not self._room.wait(max(deadline - now, 0)):
                what = f"{len(self.pending)} calls in flight and {self.queued_bytes} bytes queued"
                if self.silence >= self._options.silent_window:
                    self.close(ConnectionLost(f"nothing arrived for {self.silence:.1f} s", address=self.peer.address))
                return RequestTimeout(f"no room on the connection: {what}", address=self.peer.address)
        return self._closed_error(False)

    # ------------------------------------------------------------------ receiving

    def _readable(self) -> bool:
        """Take what the kernel holds, within the budget of one pass, and wake the callers, in the hub.

        Returns:
            Whether there was anything to take.
        """
        if self.lost is not None:
            self._end_of_fork()
            return False
        heard = self.heard
        self._in_pass = True
        try:
            frames = self._undelivered
            if frames:
                self._undelivered = []
            else:
                frames = self._read()
            self._deliver(frames)
            if self.session.broken is not None and not self._undelivered:
                raise self.session.broken
        except Exception as error:
            # Not only a ProtocolError: whatever goes wrong here must end this connection, not leave its callers.
            if not isinstance(error, ProtocolError):
                _log.exception("%r: reading failed", self)
            self.close(ProtocolError(f"the replies cannot be understood: {error}", address=self.peer.address))
        finally:
            self._in_pass = False
        if self.lost is not None:
            return False
        if self.heard != heard:
            # A late reply to calls that were given up ends a silence too.
            self.silent_since = self.heard if self.pending else 0.0
            if self._referenced and not self.pending:
                self._referenced = self._reader.ref = False
        if self._room is not None:
            self._make_room()
        if self._out:
            if len(self._out) >= len(frames) - len(self._undelivered):
                self._flush()
            elif not self._flush_due:
                # Some of the callers went on to other servers, whose replies may be here, too: one write for all.
                self._flush_soon()
        return bool(frames) or self.heard != heard

    def _read(self) -> list[tuple[int, Buffer]]:
        """Read once without waiting; end of stream and errors close the connection."""
        session = self.session
        large, chunk = session.buffer(), self._chunk[: self._share]
        try:
            if large is None:
                size = os.readv(self._fd, [chunk])
            else:
                # Behind the rest of a large reply the next ones may have come.
                size = os.readv(self._fd, [large, chunk] if len(large) == session.missing() else [large])
        except BlockingIOError:
            return []
        except OSError as error:
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
        # To cut 10,000 tiny replies out of one chunk takes longer than a pass may last: the next one reads less.
        if len(frames) > FRAMES_A_PASS:
            self._share = max(size * FRAMES_A_PASS // len(frames), LEAST_READ)
        elif size == self._share < READ_SIZE:
            self._share = min(2 * size, READ_SIZE)
        return frames

    def _deliver(self, frames: list[tuple[int, Buffer]]) -> None:
        """Hand over replies until the pass has had its share; the others stay pending, so none is met too late."""
        started = monotonic()
        take = self.pending.pop  # bound once: see poison
        for begin in range(0, len(frames), FRAMES_A_CHECK):
            if begin and (begin >= FRAMES_A_PASS or monotonic() - started > SECONDS_A_PASS):
                if self.lost is None:
                    self._undelivered = frames[begin:]
                    self._in_next_pass(self._readable)
                return
            if begin == FRAMES_A_CHECK == len(self._out) and len(frames) < FRAMES_A_PASS:
                # The server works on these while the others are handed over: a fifth more calls a second. Where more
                # waits than a pass may take it is busy anyway.
                self._flush()
            self._deliver_some(frames[begin : begin + FRAMES_A_CHECK], take)

    def _deliver_some(self, frames: list[tuple[int, Buffer]], take: Callable[[int, None], Any]) -> None:
        for seqid, frame in frames:
            entry = take(seqid, None)
            if entry is None:
                self.peer.late += 1
                continue
            try:
                entry[0].switch(frame)
            except BaseException:
                # A raw greenlet that dies of an error hands it to us, its parent's running callback.
                self.hub.handle_error(self, *sys.exc_info())

    # ------------------------------------------------------------------ time

    def _wake(self, at: float, now: float) -> None:
        """Have the timer fire at a time, or earlier to look for silence."""
        at = min(at, now + TICK)
        if at >= self._wake_at:
            return
        self._wake_at = at
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        self._timer = self.hub.loop.timer(max(at - now, 0.0), ref=False)
        self._timer.start(self._tick)

    def _tick(self) -> None:
        """Look at deadlines and silence, in the hub."""
        self._wake_at = FOREVER
        if self.lost is not None:
            return
        try:
            self._look()
        except Exception as error:
            # Without its timer a connection would let its callers wait for ever.
            _log.exception("%r: looking at the deadlines failed", self)
            self.close(ConnectionLost(f"internal error: {error}", address=self.peer.address))

    def _look(self) -> None:
        """Fail the calls whose deadline has passed, after reading what has come for them; look for silence."""
        # The application may have computed for a while: the replies are often in the kernel already.
        until = monotonic() + SECONDS_A_RESCUE
        while self.pending and self._readable() and monotonic() < until:
            pass
        now = monotonic()
        if self.lost is not None:
            return
        expired, earliest = self._past(now)
        silent = self.silence
        condemned = bool(expired) and silent >= self._options.silent_window
        if condemned:
            # Those who are told now may call again at once: not on this connection.
            self._crowded = True
        take = self.pending.pop  # bound once: see poison
        for seqid in expired:
            entry = take(seqid, None)
            if entry is not None:
                self.peer.timeouts += 1
                sent = not self._withdraw(seqid)
                late = RequestTimeout("no reply in time", address=self.peer.address, sent=sent)
                if self.peer.demands_auth:
                    late.hint = DEMANDS_AUTH
                self._hand_over(entry[0], late)
        if self.lost is not None:
            return
        if condemned:
            self.close(ConnectionLost(f"nothing arrived for {silent:.1f} s", address=self.peer.address))
            return
        if silent >= self._options.silence:
            self.peer.silent(self)
        if self.pending or self._room is not None:
            self._wake(max(earliest, now + LEAST_TICK), now)
        elif self._referenced:
            # The calls were given up, but the server still owes their replies: silence goes on counting.
            self._referenced = self._reader.ref = False
        if self._out and not self._backlog:
            self._flush()
        self._make_room()

    def _past(self, now: float) -> tuple[list[int], float]:
        """Return the ids whose deadline has passed, some of them if there are many, and when to look again."""
        earliest = FOREVER
        expired = []
        for seqid, (_, deadline, _) in self.pending.items():
            if deadline <= now:
                expired.append(seqid)
            elif deadline < earliest:
                earliest = deadline
        if self._undelivered:
            # What is here already counts as in time. A flood of frames that nobody waits for holds no deadline up.
            here = {seqid for seqid, _ in self._undelivered}
            return [seqid for seqid in expired if seqid not in here][:FAILURES_A_PASS], now
        return expired[:FAILURES_A_PASS], now if len(expired) > FAILURES_A_PASS else earliest

    def move(self, has_moved: Callable[[Target], bool]) -> int:
        """Hand repeatable calls whose partition has another primary back to be sent there; runs in the hub."""
        moved = 0
        waiting = self.pending  # bound once: see poison
        for seqid, entry in list(waiting.items()):
            if entry[2] is not None and seqid in waiting and has_moved(entry[2]):
                del waiting[seqid]
                moved += 1
                sent = not self._withdraw(seqid)
                self._hand_over(entry[0], Moved("another primary", address=self.peer.address, sent=sent))
        if self._room is not None and self.lost is None:
            # Those who wait for room ask for themselves.
            self._has_moved = has_moved
            self._room.set()
            self._room = None
        return moved

    # ------------------------------------------------------------------ the end

    def close(self, reason: PegasusError) -> None:
        """End the connection, once; every waiting caller gets an error of its own from the hub. Never yields."""
        if self.lost is not None:
            return
        self.lost = reason
        self._has_moved = None
        self._crowded = True
        for watcher in (self._reader, self._writer, self._timer):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        # Which requests had not left must be known before the queues go.
        unsent = self._unsent()
        self._out, self._out_bytes, self._undelivered = [], 0, []
        self._backlog.clear()
        self._backlog_bytes = 0
        self._fd = -1
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
        if self._room is not None:
            self._room.set()
        if self.pending:
            self.hub.loop.run_callback(self._fail_pending, unsent)
        # Last, since it leads to the application's listeners.
        self.peer.connection_lost(self, reason)

    def _fail_pending(self, unsent: int) -> None:
        """Give up to 256 waiting callers their error, in the hub, and come back for the others."""
        issued = self.session.issued
        for seqid in list(self.pending)[:FAILURES_A_PASS]:
            entry = self.pending.pop(seqid, None)
            if entry is not None:
                self._hand_over(entry[0], self._closed_error((issued - seqid) % MAX_SEQID >= unsent))
        if self.pending:
            self._in_next_pass(self._fail_pending, unsent)

    def _in_next_pass(self, run: Callable[..., object], *args: Any) -> None:
        """Have the hub call something once timers and the sockets of others had their turn.

        A callback would not do: gevent runs 50 of them, new ones included, before it looks at the clock.
        """
        timer = self.hub.loop.timer(0.0)
        timer.start(self._run_and_close, timer, run, args)

    @staticmethod
    def _run_and_close(timer: Any, run: Callable[..., object], args: tuple[Any, ...]) -> None:
        timer.close()
        run(*args)

    def _hand_over(self, taker: Taker, outcome: Outcome) -> None:
        try:
            taker.switch(outcome)
        except BaseException:
            self.hub.handle_error(self, *sys.exc_info())

    def _closed_error(self, sent: bool) -> PegasusError:
        """Return a new error for one caller."""
        reason = self.lost
        kind = type(reason) if isinstance(reason, (ForkedConnection, ClientClosed)) else ConnectionLost
        text = str(reason.args[0]) if reason is not None else "the connection is lost"
        error = kind(text, address=self.peer.address, sent=sent)
        if isinstance(reason, ProtocolError):
            error.hint = "what answers there is not such a server of Pegasus: check host and port"
        return error

    def poison(self, dead_fd: int) -> None:
        """Cut this process's copy off the parent's connection, right after a fork; must not yield.

        The descriptor now leads to a closed socket: nothing that this process does reaches the server, and nothing
        that the server sends is taken from the parent. The copies of the waiting callers get their error when the hub
        of this process sees the end of that socket; where the connection was lost before, when their turn comes.
        """
        lost, self.lost = self.lost, ForkedConnection("the process forked while the call waited; the parent goes on")
        if lost is not None:
            return
        os.dup2(dead_fd, self._fd)
        self._crowded = True
        self._out, self._out_bytes, self._undelivered = [], 0, []
        self._backlog.clear()
        self._backlog_bytes = 0
        # Forked in a caller that has just been woken? The rest of that round, in the child, finds nobody in the old
        # dict: neither a reply nor an error that would be repeated here.
        waiting = self.pending
        self.pending = self.session.pending = dict(waiting)
        waiting.clear()
        self.peer.pool.forget(self)

    def _end_of_fork(self) -> None:
        if self._socket is not None and isinstance(self.lost, ForkedConnection):
            reason, self.lost = self.lost, None
            self.close(reason)


def dial(sockaddr: tuple[Any, ...], family: int, timeout: float) -> Any:
    """Return a connected gevent socket; yields.

    Raises:
        OSError: Refused, unreachable or not answered within timeout seconds.
    """
    sock = gsocket.socket(family, gsocket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(sockaddr)
        sock.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_NODELAY, 1)
        sock.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock
