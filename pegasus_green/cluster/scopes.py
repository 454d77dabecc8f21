"""The bounds that ``client.deadline()`` puts on calls: which scope is open for whom.

A scope bounds the calls that are made inside the frames of its ``with`` block. A plain function can only leave its
``with`` block by ending it, so its scope belongs to the greenlet until then. A generator can be suspended inside the
block, and its consumer must not be bounded meanwhile; it can also go on in another greenlet. Its scope belongs to the
generator's frame, and bounds a call that has this frame on its stack.

Context variables fit neither case: a generator shares its consumer's context, and a token cannot be reset in another.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import weakref
from contextlib import AbstractContextManager
from time import monotonic
from types import FrameType
from typing import Any

from greenlet import getcurrent

_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
# Both enter a scope for the function that calls them.
_MANAGER_ENTER = contextlib._GeneratorContextManager.__enter__.__code__
_STACK_ENTER = contextlib.ExitStack.enter_context.__code__

# By id of the scope: its deadline, and the greenlet that it bounds (None: the frame decides).
_Bounds = dict[int, tuple[float, Any]]


class Scopes(dict[int, float]):
    """The open scopes of one client: the deadline of each by its id; any thread.

    It holds no frame and no scope, so an abandoned generator is collected as usual, and its scope ends with it. Each
    step is one operation on a dict: a finalizer that ends another scope between two steps does no harm.

    Attributes:
        greenlets: The scopes that bound a greenlet, by its id.
        frames: The scopes that bound a generator, by the id of its frame.
    """

    __slots__ = ("greenlets", "frames")

    def __init__(self) -> None:
        """Start without any."""
        super().__init__()
        self.greenlets: dict[int, _Bounds] = {}
        self.frames: dict[int, _Bounds] = {}

    def earliest(self, deadline: float) -> float:
        """Return the earliest among a deadline and those of the scopes that bound the calling code."""
        caller = getcurrent()
        bounds = self.greenlets.get(id(caller))
        if bounds:
            for at, owner in bounds.copy().values():
                # The id may have been that of a greenlet that has ended.
                if at < deadline and owner() is caller:
                    deadline = at
        if self.frames:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None:
                bounds = self.frames.get(id(frame))
                if bounds:
                    deadline = min(deadline, *(at for at, _ in bounds.copy().values()))
                frame = frame.f_back
        return deadline


class Scope(AbstractContextManager[None]):
    """One ``with client.deadline(...)``; may be left in any order, in any greenlet, or by the garbage collector.

    Dropping a scope leaves it.
    """

    __slots__ = ("_scopes", "_seconds", "_place")

    def __init__(self, scopes: Scopes, seconds: float) -> None:
        """Prepare; it bounds nothing before it is entered."""
        self._scopes = scopes
        self._seconds = seconds
        self._place: tuple[dict[int, _Bounds], int] | None = None

    def __enter__(self) -> None:
        """Begin to bound the calls of the caller's frame.

        Raises:
            RuntimeError: It is entered already.
        """
        if self._place is not None:
            raise RuntimeError("this deadline is entered already: call client.deadline() for each block")
        frame = _owner(sys._getframe(1))
        owner = None
        if frame is not None and frame.f_code.co_flags & _SUSPENDABLE:
            places, key = self._place = self._scopes.frames, id(frame)
        else:
            greenlet = getcurrent()
            owner = weakref.ref(greenlet)
            places, key = self._place = self._scopes.greenlets, id(greenlet)
        at = self._scopes[id(self)] = monotonic() + self._seconds
        while True:
            bounds = places.setdefault(key, {})
            bounds[id(self)] = at, owner
            if places.get(key) is bounds:
                return
            # A finalizer has ended the last other scope of that place between the two steps, and the place with it.

    def __exit__(self, *_error: object) -> None:
        """Bound nothing any more."""
        self._leave()

    def __del__(self) -> None:
        """Leave a scope that was abandoned, such as that of a generator that did not end."""
        self._leave()

    def _leave(self) -> None:
        if self._place is None:
            return
        places, key = self._place
        bounds = places.get(key)
        if bounds is not None:
            bounds.pop(id(self), None)
            if not bounds:
                places.pop(key, None)
        self._scopes.pop(id(self), None)
        # Last: what interrupts a step before leaves the rest to be done when the scope is dropped.
        self._place = None


def _owner(frame: FrameType | None) -> FrameType | None:
    """Return the frame whose ``with`` block a scope is entered for."""
    while frame is not None:
        back = frame.f_back
        entered_for_caller = frame.f_code is _STACK_ENTER or frame.f_code.co_name == "__enter__"
        if not entered_for_caller and (back is None or back.f_code is not _MANAGER_ENTER):
            break
        frame = back
    return frame
