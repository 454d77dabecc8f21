"""Delivery of outcomes to the callers that wait on a connection.

An outcome belongs to a call, not to a greenlet. Between two steps of a caller there can be an exception, or a call of a
signal handler or finalizer. So a caller cannot store "this greenlet waits" as a fact. Instead the hub checks a
condition that changes in single steps of C: a greenlet waits inside ``Context.run`` of a context that only this call
has, and the hub switches into it only while ``greenlet.gr_context`` is that context. Otherwise the outcome is parked
and tried again. Callers in other places wait in their own gevent Waiter, which has the same property at a higher cost.

So a caller can be killed or interrupted anywhere. It removes its entry, and a late reply finds no entry. If a callback
of the hub is interrupted, it first delivers the outcomes that it holds and then passes on the interruption.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from time import monotonic
from typing import Any, Protocol, TypeAlias

from gevent._hub_local import get_hub_if_exists

from ..accelerate import core
from ..errors import (
    DEMANDS_AUTH,
    FORKED,
    ClientClosed,
    ConnectionLost,
    ForkedConnection,
    PegasusError,
    ProtocolError,
    RequestTimeout,
)
from ..options import ClientOptions
from ..protocol.binary import Buffer
from .fork import notice
from .fork import page as _page
from .outbox import Outbox, Server, stop

# To wake 20,000 callers at once would block the hub for a quarter of a second.
FAILURES_A_PASS = 256
SECONDS_BETWEEN_FAILURES = 0.001
# Interval of attempts to deliver parked outcomes. Their callers are in a signal handler that waits for something else.
SECONDS_PARKED = 0.005
FOREVER = float("inf")
# A reason why a connection has ended.
HUB_ENDED = "the hub or its thread has ended"

Outcome: TypeAlias = "Buffer | PegasusError"
# See Outbox.pending.
Entry: TypeAlias = "tuple[Any, float, Any, Context | weakref.ref[Context] | None]"


def left_ms(deadline: float, now: float) -> int:
    """Return the remaining time for a header: whole milliseconds, never 0."""
    return max(int((deadline - now) * 1000), 1)


def why_interrupted(hub: Any, address: str) -> PegasusError:
    """Return the reason why a callback of a hub was interrupted. The end of its thread ends the hub at any point."""
    if get_hub_if_exists() is hub:
        return ConnectionLost("interrupted while replies were read", address=address)
    return ClientClosed(HUB_ENDED, address=address)


class Taker(Protocol):
    """A receiver of an outcome: a greenlet that waits in the call's context, or an object with this method."""

    def switch(self, outcome: Any) -> object:
        """Receive the outcome, in the hub.

        An object may get the same outcome again, if it is unknown whether it has received it. It must ignore that.
        """


class Orphan:
    """Base of the takers that take a reply in place of a caller that has left: nobody waits for them."""

    __slots__ = ()


class Moved(PegasusError):
    """Internal: the partition has a new primary, and the call must be sent there. Applications never get it."""


class Target:
    """Facts about a partition that a connection needs: the constant part of the header, and the ids for header v0."""

    __slots__ = ("app_id", "index", "header_part")

    def __init__(self, app_id: int, index: int, header_part: bytes) -> None:
        """Describe a partition; (0, 0) means a meta server."""
        self.app_id, self.index, self.header_part = app_id, index, header_part


class Handover(Outbox):
    """The calls that wait on a connection, and the delivery of their outcomes."""

    __slots__ = ("_parked", "_has_moved", "_unsent_at_end")

    def __init__(self, fd: int, peer: Server, options: ClientOptions) -> None:
        """Start without waiting calls."""
        super().__init__(fd, peer, options)
        self._parked: dict[int, Outcome] = {}
        self._has_moved: Callable[[Target], bool] | None = None
        self._unsent_at_end: frozenset[int] | None = None
        self._wake_at = FOREVER

    def _wake(self, at: float, now: float) -> None:
        """Make the timer check the deadlines."""
        raise NotImplementedError

    @property
    def is_awaited(self) -> bool:
        """Whether callers wait for replies; an orphan is no caller."""
        return any(not isinstance(taker, Orphan) for taker, _, _, _ in list(self.pending.values()))

    def _has_lost_hub(self) -> bool:
        """Tell whether the hub was destroyed. If its loop goes on in the next hub, nobody must be woken there."""
        return self.hub.loop is None

    def begin(self, pending: dict[int, Entry], seqid: int, deadline: float, frame: bytes) -> None:
        """Send the frame of a request whose entry was stored, and watch its deadline: the end of ``start``."""
        if deadline < self._wake_at:
            if pending is not self.pending:
                # A signal handler has forked, and this is the child.
                raise ForkedConnection(FORKED, address=self.peer.address)
            self._wake(deadline, monotonic())
        if self._in_pass and len(frame) <= self._small:
            # The pass ends with a flush. This is Outbox._send for nearly every frame.
            out = self._out
            out[seqid] = frame
            if not self._in_pass or out is not self._out:
                self._catch_up(out, seqid)
            return
        self._send(seqid, frame)

    def abandon(self, seqid: int, owner: object = None) -> None:
        """Give up a request: it is not sent if no byte of it was sent; otherwise its reply will be dropped.

        May be called again. If ``start`` was interrupted, the sequence id is unknown (0). Then the requests of the
        owner, its taker or context, are searched.
        """
        found = [seqid]
        if not seqid and owner is not None:
            for known, entry in self.pending.copy().items():
                if entry[0] is owner or entry[3] is owner:
                    found.append(known)
        for known in found:
            # The frame first. If this is interrupted in between, the entry without a frame is dropped at its deadline.
            # Without a frame, this function calls no other one, because it may run at the limit of the recursion.
            if known in self._out or known in self._backlog:
                self.withdraw(known)
            self.pending.pop(known, None)

    def leave(self, seqid: int, entry: Entry) -> None:
        """Give the reply to an orphan, in place of the caller that gives the request up."""
        if self.lost is None:
            self.pending[seqid] = entry
            if entry[1] < self._wake_at:
                self._wake(entry[1], monotonic())

    # For the core.
    notice_fork = staticmethod(notice)

    if core is None:

        def deliver(self, outcomes: Sequence[tuple[int, Outcome]], pending: dict[int, Entry]) -> None:
            """Deliver outcomes to the receivers of their sequence ids, in the hub. One without a receiver is late."""
            for seqid, outcome in outcomes:
                if not _page[0]:
                    # The caller that was woken last has forked in C, and this is the child.
                    notice()
                entry = pending.get(seqid)
                if entry is None:
                    self.peer.late += 1
                    continue
                try:
                    try:
                        taker, _, _, context = entry
                        if context is None or taker.gr_context is context:
                            del pending[seqid]
                            taker.switch(outcome)
                        else:
                            self._park(seqid, outcome)
                    except BaseException:
                        self._hand_again(seqid, entry, outcome, sys.exc_info())
                except BaseException:
                    # Interrupted twice: the end of the connection, or the check of deadlines, will notify the taker.
                    pending[seqid] = entry
                    raise

    def _hand_again(self, seqid: int, entry: Entry, outcome: Outcome, failure: tuple[Any, ...]) -> None:
        """Finish an interrupted delivery, and tell the hub.

        A raw greenlet that ends with an error also raises it in its parent, which is this running callback.
        """
        taker, _, _, context = entry
        if context is None or taker.gr_context is context:
            self.pending.pop(seqid, None)
            # A receiver that already has it ignores it.
            taker.switch(outcome)
        self.hub.handle_error(self, *failure)

    def _park(self, seqid: int, outcome: Outcome) -> None:
        """Keep an outcome whose caller is elsewhere, for example in a signal handler that waits."""
        if seqid not in self._parked:
            timer = self.hub.loop.timer(SECONDS_PARKED, SECONDS_PARKED)
            timer.start(self._unpark, timer, seqid)
            self._parked[seqid] = outcome

    def _unpark(self, timer: Any, seqid: int) -> None:
        """Deliver a parked outcome when its caller waits for it; runs in the hub. An interrupted run is repeated."""
        outcome, entry = self._parked.get(seqid), self.pending.get(seqid)
        if outcome is not None and entry is not None and not self._has_lost_hub():
            taker, deadline, movable, held = entry
            context = held() if type(held) is weakref.ref else held
            if held is not None and (context is None or taker.dead):
                # The call has ended, and its clean-up was interrupted.
                self.pending.pop(seqid, None)
            elif context is not None and taker.gr_context is not context:
                if held is context and monotonic() >= deadline:
                    # Late. Either the call still runs, or its clean-up was interrupted. Its frame holds the context.
                    self.pending[seqid] = taker, deadline, movable, weakref.ref(context)
                return
            else:
                self.pending[seqid] = taker, deadline, movable, context
                self.deliver([(seqid, outcome)], self.pending)
        self._parked.pop(seqid, None)
        stop(timer)

    def move(self, has_moved: Callable[[Target], bool]) -> int:
        """Return repeatable calls to their callers if their partition has a new primary; runs in the hub."""
        moved = 0
        waiting = self.pending  # read once: see poison
        for seqid, (_, _, movable, _) in waiting.copy().items():
            if movable is not None and seqid in waiting and seqid not in self._parked and has_moved(movable):
                moved += 1
                sent = not self.withdraw(seqid)
                moved_on = Moved("another primary", address=self.peer.address, sent=sent)
                self.deliver([(seqid, moved_on)], waiting)
        if self._room is not None and self.lost is None:
            # Callers that wait for room check this themselves.
            self._has_moved = has_moved
            room, self._room = self._room, None
            room.set()
        return moved

    def _late(self, seqid: int) -> RequestTimeout:
        """Return the error of a request whose deadline has passed, and take the request back if it was not sent."""
        self.peer.timeouts += 1
        late = RequestTimeout("no reply in time", address=self.peer.address, sent=not self.withdraw(seqid))
        if self.peer.demands_auth and not self.session.received:
            late.hint = DEMANDS_AUTH
        return late

    def _fail_soon(self) -> None:
        """Make the hub fail the waiting calls, after timers and other sockets had their turn."""
        loop = self.hub.loop
        # If the hub was destroyed, nobody can be woken.
        if loop is not None:
            timer = loop.timer(0.0, SECONDS_BETWEEN_FAILURES)
            timer.start(self._fail_pending, timer)

    def _fail_pending(self, timer: Any) -> None:
        """Give up to 256 waiting callers their error, in the hub. The timer repeats for the others."""
        pending, parked, unsent = self.pending, self._parked, self._unsent_at_end or ()
        some = [seqid for seqid in pending if seqid not in parked][:FAILURES_A_PASS]
        if not some or self._has_lost_hub():
            stop(timer)
            return
        for seqid in some:
            if seqid in pending:
                self.deliver([(seqid, self._closed_error(seqid not in unsent))], pending)

    def _closed_error(self, sent: bool) -> PegasusError:
        """Return a new error for one caller."""
        reason = self.lost
        kind = type(reason) if isinstance(reason, (ForkedConnection, ClientClosed)) else ConnectionLost
        text = str(reason.args[0]) if reason is not None else "the connection is lost"
        error = kind(text, address=self.peer.address, sent=sent)
        if isinstance(reason, ProtocolError):
            error.hint = "the peer is not the expected Pegasus server: check host and port"
        return error
