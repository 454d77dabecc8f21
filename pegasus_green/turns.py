"""Turns: code of one greenlet that other greenlets of the same thread wait for.

A flag that says "somebody does this" stays set if an exception interrupts the step that clears it. All others then wait
for ever. So a turn has a ``Context`` of its own, and lasts as long as code runs inside the ``run`` of this context. The
interpreter leaves ``run`` in one step, whatever ends the code.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, TypeVar

from gevent import get_hub
from gevent.event import Event
from gevent.monkey import get_original
from greenlet import getcurrent

from .transport.waits import LOOK_FOR_LOST, is_entered, wait
from .transport.waits import join as join  # noqa: PLC0414 - for the recipes

_T = TypeVar("_T")
_native_local: Any = get_original("_thread", "_local")


# The turns that greenlets wait for, by the greenlet's id.
_awaited: dict[int, Turn] = {}


class Turn:
    """One run of a function that others can wait for. It belongs to the greenlet that makes it.

    It can run only once: after the first run it is over, and a wait for a second run would not yield.
    """

    __slots__ = ("_context", "_greenlet", "_hub", "_pid", "_over")

    def __init__(self) -> None:
        """Prepare a turn of the calling greenlet. Its thread has a hub already, which the client or gevent has made."""
        self._context = copy_context()
        self._greenlet = id(getcurrent())
        # The greenlets of another hub, or of the parent of a forked process, may never continue.
        self._hub = weakref.ref(get_hub())
        self._pid = os.getpid()
        self._over = Event()

    def run(self, function: Callable[..., _T], *args: Any) -> _T:
        """Call the function in a copy of the caller's context variables; the turn lasts until it ends."""
        try:
            return self._context.run(function, *args)
        finally:
            self._over.set()

    @property
    def lasts(self) -> bool:
        """Whether the function runs, in this thread and process."""
        return is_entered(self._context) and self._hub() is get_hub() and self._pid == os.getpid()

    @property
    def mine(self) -> bool:
        """Whether it belongs to the calling greenlet. While it lasts, the caller cannot wait for its end."""
        return self._greenlet == id(getcurrent())

    def wait(self, until: float) -> bool:
        """Wait until the turn is over, or until a time of the monotonic clock; return whether it is over.

        Raises:
            RuntimeError: The greenlet of the turn waits for a turn of the caller.
        """
        me = id(getcurrent())
        before = _awaited.get(me)
        _awaited[me] = self
        try:
            self._refuse_circle(me)
            begun = now = monotonic()
            while self.lasts:
                if now >= until:
                    return False
                # If the end of a turn is interrupted, it wakes nobody. The checks become rarer, because many may wait.
                wait(self._over, min(until - now, max(LOOK_FOR_LOST, (now - begun) / 4)))
                now = monotonic()
            return True
        finally:
            if before is None:
                _awaited.pop(me, None)
            else:
                _awaited[me] = before

    def _refuse_circle(self, me: int) -> None:
        """Raise RuntimeError if greenlets would wait for each other. A signal handler can make a call inside a turn."""
        turn: Turn | None = self
        for _ in range(len(_awaited)):
            if turn is None or not turn.lasts:
                return
            if turn._greenlet == me:
                raise RuntimeError("a signal handler or finalizer waits for a greenlet that waits for this one")
            turn = _awaited.get(turn._greenlet)


class Unnested:
    """Runs functions one at a time in each native thread; no function runs inside another one.

    A signal handler or a finalizer can interrupt a function that holds a lock, and run another function that needs the
    same lock. If this function ran at once, the thread would wait for itself for ever. The same would happen if another
    greenlet of the thread ran such a function while the handler waits.
    """

    __slots__ = ("_local",)

    def __init__(self) -> None:
        """Start with nothing to run."""
        # For each native thread, also under monkey patching.
        self._local: Any = _native_local()

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Call the function now, or right after the one that the thread is running. Never yields.

        It runs in a context of its own, without the caller's context variables. If a function raises an exception, the
        functions that wait for its end run at the next call of this method.
        """
        try:
            waiting, context = self._local.state
        except AttributeError:
            waiting, context = self._local.__dict__.setdefault("state", (deque(), Context()))
        waiting.append((function, args))
        # A function that comes after the last step in the context finds the context free, and runs at once.
        while waiting:
            try:
                context.run(_run_all, waiting)
            except RuntimeError:
                if not is_entered(context):
                    raise
                # The thread is running another function. Its run() continues with this one.
                return


def _run_all(waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]]) -> None:
    while waiting:
        function, args = waiting.popleft()
        function(*args)
