"""Handing outcomes to the callers that wait on a connection.

An outcome belongs to the call, not to the greenlet. Any exception, and any call that a signal handler or finalizer
makes, may come between two steps of a caller, so "this greenlet waits" is no fact that a caller can note. What the hub
checks instead becomes true and false by single steps of C: a greenlet waits inside ``Context.run`` of a context that
only this call has, and the hub switches into it only while ``greenlet.gr_context`` is that one. Otherwise the outcome
is parked until it is. Callers in other places wait in a gevent Waiter of their own, which does the same for more time.

So a caller may be killed or interrupted anywhere: it takes its entry away, and its late reply finds nobody. A callback
of the hub that is interrupted hands over what it held before it passes on what interrupted it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import Any, Protocol, TypeAlias

from gevent._hub_local import get_hub_if_exists

from ..errors import ClientClosed, ConnectionLost, ForkedConnection, PegasusError, ProtocolError
from ..options import ClientOptions
from ..protocol.binary import Buffer
from .outbox import Outbox, Server, stop

# Waking 20,000 callers at once would hold the hub for a quarter of a second.
FAILURES_A_PASS = 256
SECONDS_BETWEEN_FAILURES = 0.001
# Parked outcomes are tried again this often: their callers are in a signal handler that waits for something else.
SECONDS_PARKED = 0.005
FOREVER = float("inf")

Outcome: TypeAlias = "Buffer | PegasusError"
# See Outbox.pending.
Entry: TypeAlias = "tuple[Any, float, Any, Context | None]"


def left_ms(deadline: float, now: float) -> int:
    """Return the time left as a header carries it: whole milliseconds, never 0."""
    return max(int((deadline - now) * 1000), 1)


def why_interrupted(hub: Any, address: str) -> PegasusError:
    """Return why a callback of a hub was interrupted: at the end of its thread the hub is ended, wherever it is."""
    if get_hub_if_exists() is hub:
        return ConnectionLost("interrupted while replies were read", address=address)
    return ClientClosed("the hub or its thread has ended", address=address)


class Taker(Protocol):
    """Who takes an outcome: a greenlet that waits in its call's context, or an object with such a method."""

    def switch(self, outcome: Any) -> object:
        """Take the outcome, in the hub.

        An object may be told the same again, where it is unknown whether it was told: that is to do nothing.
        """


class Moved(PegasusError):
    """Internal: the partition has another primary now; the call is to be sent there. Never reaches an application."""


class Target:
    """What a connection must know of a partition: the constant part of the header, and the ids for header v0."""

    __slots__ = ("app_id", "index", "header_part")

    def __init__(self, app_id: int, index: int, header_part: bytes) -> None:
        """Describe a partition; (0, 0) stands for a meta server."""
        self.app_id, self.index, self.header_part = app_id, index, header_part


class Handover(Outbox):
    """The calls that wait on a connection, and what gives them their outcomes."""

    __slots__ = ("_parked", "_has_moved", "_unsent_at_end")

    def __init__(self, fd: int, peer: Server, options: ClientOptions) -> None:
        """Begin with nobody waiting."""
        super().__init__(fd, peer, options)
        self._parked: dict[int, Outcome] = {}
        self._has_moved: Callable[[Target], bool] | None = None
        self._unsent_at_end: frozenset[int] | None = None
        self._wake_at = FOREVER

    def _wake(self, at: float, now: float) -> None:
        """Have the deadlines looked at."""
        raise NotImplementedError

    def abandon(self, seqid: int, owner: object = None) -> None:
        """Give up a started request: it is not sent if it has not begun to leave, else its reply will be dropped.

        May be called again. Where ``start`` was interrupted its id is not known (0): the requests of the owner, its
        taker or context, are looked for then.
        """
        if not seqid and owner is not None:
            for known, entry in list(self.pending.items()):
                if entry[0] is owner or entry[3] is owner:
                    self.abandon(known)
            return
        # The frame first: interrupted in between, an entry without a frame is dropped at its deadline.
        self.withdraw(seqid)
        self.pending.pop(seqid, None)

    def leave(self, seqid: int, entry: Entry) -> None:
        """Have somebody else take the reply to a started request, in place of the caller that gives it up."""
        if self.lost is None:
            self.pending[seqid] = entry
            if entry[1] < self._wake_at:
                self._wake(entry[1], monotonic())

    def _hand_over(self, pending: dict[int, Entry], seqid: int, outcome: Outcome) -> None:
        """Hand an outcome to whoever waits under an id, in the hub; nobody may wait there any more."""
        entry = pending.get(seqid)
        if entry is None:
            return
        try:
            taker, _, _, context = entry
            if context is None or taker.gr_context is context:
                pending.pop(seqid, None)
                taker.switch(outcome)
            else:
                self._park(seqid, outcome)
        except BaseException:
            self._hand_again(seqid, entry, outcome, sys.exc_info())

    def _hand_again(self, seqid: int, entry: Entry, outcome: Outcome, failure: tuple[Any, ...]) -> None:
        """Finish a handing over that was interrupted, and tell the hub.

        A raw greenlet that dies of an error hands it to us, too, its parent's running callback.
        """
        taker, _, _, context = entry
        if context is None or taker.gr_context is context:
            self.pending.pop(seqid, None)
            # Whoever has it already takes no notice.
            taker.switch(outcome)
        self.hub.handle_error(self, *failure)

    def _park(self, seqid: int, outcome: Outcome) -> None:
        """Keep an outcome whose caller is not where it waits for it: in a signal handler that waits, say."""
        if seqid not in self._parked:
            timer = self.hub.loop.timer(SECONDS_PARKED, SECONDS_PARKED)
            timer.start(self._unpark, timer, seqid)
            self._parked[seqid] = outcome

    def _unpark(self, timer: Any, seqid: int) -> None:
        """Hand a parked outcome over once its caller waits for it, in the hub."""
        outcome, entry = self._parked.get(seqid), self.pending.get(seqid)
        if outcome is not None and entry is not None:
            taker, deadline, movable, context = entry
            if context is not None and taker.gr_context is not context and not taker.dead:
                if monotonic() < deadline:
                    return
                # Late: does the call still run, or was its cleaning up interrupted? Its frame holds the context.
                known = weakref.ref(context)
                del self.pending[seqid], entry, context
                context = known()
                if context is not None:
                    self.pending[seqid] = taker, deadline, movable, context
                    return
        stop(timer)
        self._parked.pop(seqid, None)
        if outcome is not None:
            self._hand_over(self.pending, seqid, outcome)

    def move(self, has_moved: Callable[[Target], bool]) -> int:
        """Hand repeatable calls whose partition has another primary back to be sent there; runs in the hub."""
        moved = 0
        waiting = self.pending  # bound once: see poison
        for seqid, (_, _, movable, _) in list(waiting.items()):
            if movable is not None and seqid in waiting and seqid not in self._parked and has_moved(movable):
                moved += 1
                sent = not self.withdraw(seqid)
                self._hand_over(waiting, seqid, Moved("another primary", address=self.peer.address, sent=sent))
        if self._room is not None and self.lost is None:
            # Those who wait for room ask for themselves.
            self._has_moved = has_moved
            room, self._room = self._room, None
            room.set()
        return moved

    def _fail_soon(self) -> None:
        """Have the hub fail what waits, once timers and the sockets of others had their turn."""
        loop = self.hub.loop
        # Nobody can be woken any more where the hub was destroyed.
        if loop is not None:
            timer = loop.timer(0.0, SECONDS_BETWEEN_FAILURES)
            timer.start(self._fail_pending, timer)

    def _fail_pending(self, timer: Any) -> None:
        """Give up to 256 waiting callers their error, in the hub; the timer comes back for the others."""
        pending, parked, unsent = self.pending, self._parked, self._unsent_at_end or ()
        some = [seqid for seqid in pending if seqid not in parked][:FAILURES_A_PASS]
        if not some:
            stop(timer)
        for seqid in some:
            self._hand_over(pending, seqid, self._closed_error(seqid not in unsent))

    def _closed_error(self, sent: bool) -> PegasusError:
        """Return a new error for one caller."""
        reason = self.lost
        kind = type(reason) if isinstance(reason, (ForkedConnection, ClientClosed)) else ConnectionLost
        text = str(reason.args[0]) if reason is not None else "the connection is lost"
        error = kind(text, address=self.peer.address, sent=sent)
        if isinstance(reason, ProtocolError):
            error.hint = "what answers there is not such a server of Pegasus: check host and port"
        return error
