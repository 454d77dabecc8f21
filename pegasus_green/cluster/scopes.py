"""The deadlines of ``client.deadline()``: which scope applies to which code.

A scope bounds the calls that are made inside the frames of its ``with`` block. A generator can be suspended inside the
block, and may continue in another greenlet. So its scope is stored for its frame. It bounds a call if this frame is on
the stack of the call.

A plain function leaves its ``with`` block before it ends. So its scope is stored for its greenlet, and other greenlets
need not look at their stacks. The frame must be on the stack here, too: if an interruption keeps a scope from ending,
it bounds nothing after its frame, even if a traceback still references the frame. Code that calls ``__enter__`` without
``with``, for example in hooks of a web framework, has no such frame. Then the scope bounds its greenlet until it ends.

Context variables are not suitable: a generator shares the context of its consumer, and a token cannot be reset in
another context.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import weakref
from contextlib import AbstractContextManager
from itertools import islice
from opcode import opmap
from time import monotonic
from types import FrameType
from typing import Any

from greenlet import getcurrent

_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
# Both functions enter a scope on behalf of their caller.
_MANAGER_ENTER = contextlib._GeneratorContextManager.__enter__.__code__
_STACK_ENTER = contextlib.ExitStack.enter_context.__code__

# The opcodes that call __enter__ for a with statement.
_WITH = {opmap.get("SETUP_WITH"), opmap.get("BEFORE_WITH")}

# By id of the scope: the scope, its deadline, the id of the frame of its block (0: none), and its greenlet.
_Bounds = dict[int, tuple[Any, float, int, Any]]


class Scopes(dict[int, Any]):
    """The open scopes of one client, by their ids; usable from any thread.

    It holds no frame and no scope, only weak references. So an abandoned generator is collected as usual, and its scope
    ends with it. Each step is one dict operation, so a finalizer may end another scope between two steps.

    Attributes:
        greenlets: The scopes that belong to a greenlet, by its id.
        frames: The scopes that belong to a generator, by the id of its frame.
    """

    __slots__ = ("greenlets", "frames")

    def __init__(self) -> None:
        """Start without scopes."""
        super().__init__()
        self.greenlets: dict[int, _Bounds] = {}
        self.frames: dict[int, _Bounds] = {}

    def earliest(self, deadline: float) -> float:
        """Return the earliest of a deadline and those of the scopes that bound the calling code."""
        caller = getcurrent()
        here: dict[int, float] = {}
        # The ids may have belonged to a greenlet, a frame or a scope that has ended.
        for scope, at, block, owner in self.greenlets.get(id(caller), {}).copy().values():
            if at < deadline and owner() is caller and scope() is not None:
                if block:
                    here[block] = min(at, here.get(block, at))
                else:
                    deadline = at
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and (here or self.frames):
            deadline = min(deadline, here.pop(id(frame), deadline))
            for scope, at, _, _ in self.frames.get(id(frame), {}).copy().values():
                if at < deadline and scope() is not None:
                    deadline = at
            frame = frame.f_back
        return deadline

    def sweep(self) -> None:
        """Remove up to two of the oldest entries if their scopes ended in an interrupted finalizer."""
        # One step: the collector can run finalizers during list(self.items()), which makes tuples.
        for key, scope in islice(self.copy().items(), 2):
            if scope() is None:
                self.pop(key, None)


class Scope(AbstractContextManager[None]):
    """One ``with client.deadline(...)``. It may end in any order, in any greenlet, or by garbage collection.

    Dropping a scope ends it.
    """

    # For the finalizer of a scope whose ``__init__`` was interrupted.
    _place: tuple[dict[int, _Bounds], int] | None = None

    # No __slots__: a scope is referenced weakly, and since Python 3.13 its base class has no place for that either.

    def __init__(self, scopes: Scopes, seconds: float) -> None:
        """Prepare the scope; it bounds calls after ``__enter__``."""
        self._scopes = scopes
        self._seconds = seconds

    def __enter__(self) -> None:
        """Start to bound the calls of the caller's frame.

        Raises:
            RuntimeError: The scope was entered before.
        """
        if self._place is not None:
            raise RuntimeError("this deadline was entered before: call client.deadline() for each block")
        frame = _owner(sys._getframe(1))
        owner, block = None, id(frame) if frame is not None and _enters(frame) else 0
        if frame is not None and frame.f_code.co_flags & _SUSPENDABLE:
            places, key = self._place = self._scopes.frames, id(frame)
        else:
            greenlet = getcurrent()
            owner = weakref.ref(greenlet)
            places, key = self._place = self._scopes.greenlets, id(greenlet)
        self._scopes.sweep()
        known = self._scopes[id(self)] = weakref.ref(self)
        at = monotonic() + self._seconds
        while True:
            bounds = places.setdefault(key, {})
            bounds[id(self)] = known, at, block, owner
            if places.get(key) is bounds:
                return
            # Between the two steps, a finalizer has ended the last other scope of this place and removed the place.

    def __exit__(self, *_error: object) -> None:
        """Stop bounding calls."""
        self._leave()

    def __del__(self) -> None:
        """End an abandoned scope, for example that of a generator that was not finished."""
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
        # Last: if an earlier step is interrupted, the rest is done when the scope is dropped.
        self._place = None


def _enters(frame: FrameType) -> bool:
    """Tell whether a frame is at the beginning of a ``with`` statement."""
    return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] in _WITH


def _owner(frame: FrameType | None) -> FrameType | None:
    """Return the frame whose ``with`` block the scope belongs to."""
    while frame is not None:
        back = frame.f_back
        entered_for_caller = frame.f_code is _STACK_ENTER or frame.f_code.co_name == "__enter__"
        if not entered_for_caller and (back is None or back.f_code is not _MANAGER_ENTER):
            break
        frame = back
    return frame
