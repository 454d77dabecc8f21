"""Raise or make a nested call at the n-th line or opcode that runs inside the package.

``Interruption`` counts the trace events of the package: in the greenlet of the caller, in callbacks of the hub, or in
the greenlets that the client starts. At the n-th event it runs an action, as a signal handler or a finalizer may do
between any two steps of Python.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from gevent import get_hub
from greenlet import getcurrent

import pegasus_green

PACKAGE = str(Path(pegasus_green.__file__).parent)
# The embedded cluster runs in the same process in some tests. It is not interrupted.
EXCLUDED = str(Path(PACKAGE) / "onebox")
_NOP = dis.opmap["NOP"]
_RETURNS = [code for name, code in dis.opmap.items() if name.startswith("RETURN_")]


@cache
def _nops(code: CodeType) -> frozenset[int]:
    """Return the places where nothing happens, as at a nested ``try``: only a trace function can raise there.

    The compiler leaves them out of the range that an enclosing ``try`` covers.
    """
    raw = code.co_code
    return frozenset(at for at in range(0, len(raw), 2) if raw[at] == _NOP)


class Interrupted(BaseException):
    """The exception that interruptions raise, besides KeyboardInterrupt."""


class Interruption:
    """Runs an action at the n-th step; with n=0 it only counts steps.

    Attributes:
        count: Steps so far.
        fired: Whether the action has run.
        where: File, line and function of the step.
        offset: Bytes of code of that function before the step.
        returning: Whether the step is the return of that function; a ``try`` around ``return`` does not cover it.
        seen: Called with the number and the frame of each step.
    """

    def __init__(
        self,
        n: int,
        action: Callable[[], Any],
        *,
        place: str,
        opcodes: bool,
        within: Collection[str] = (),
        files: tuple[str, ...] = (PACKAGE,),
    ) -> None:
        """Prepare an interruption.

        Args:
            n: The number of the step; 0: only count.
            action: What to do.
            place: "caller", "hub" or "helpers", the greenlets that the client starts.
            opcodes: Steps are opcodes, not lines.
            within: Only functions with these names are interrupted; empty: all.
            files: Beginnings of the paths of the files whose functions are interrupted.
        """
        self.n, self.action, self.place, self.opcodes = n, action, place, opcodes
        self.within, self.files = within, files
        self.count = 0
        self.fired = False
        self.where, self.offset, self.returning = "", 0, False
        self.seen: Callable[[int, FrameType], object] = lambda _number, _frame: None
        self._is_ours: Callable[[Any], bool] = lambda _greenlet: False
        # CPython 3.11 calls the trace function without a reference of its own, also after the function has removed
        # itself. So it must not be the last reference: the call of a freed object crashes.
        self._hook = self._call

    @contextmanager
    def armed(self, others: Collection[Any] = ()) -> Iterator[Interruption]:
        """Count the steps of the current greenlet, of the hub, or of the greenlets that the client starts.

        Args:
            others: Greenlets of the test itself.
        """
        caller, hub = getcurrent(), get_hub()
        not_helpers = (caller, hub, hub.parent, *others)
        self._is_ours = {
            "caller": lambda greenlet: greenlet is caller,
            "hub": lambda greenlet: greenlet is hub,
            "helpers": lambda greenlet: all(greenlet is not other for other in not_helpers),
        }[self.place]
        before = sys.gettrace()
        sys.settrace(self._hook)
        try:
            yield self
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(self.files) or name.startswith(EXCLUDED) or self.fired:
            return None
        if self.within and frame.f_code.co_name not in self.within:
            return None
        frame.f_trace_opcodes = self.opcodes
        self._step(frame)
        return self._local

    def _local(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == ("opcode" if self.opcodes else "line"):
            self._step(frame)
        return self._local

    def _step(self, frame: FrameType) -> None:
        if self.fired or not self._is_ours(getcurrent()):
            return
        if self.opcodes and frame.f_lasti in _nops(frame.f_code):
            return
        self.count += 1
        self.seen(self.count, frame)
        if self.count == self.n:
            self.fired = True
            self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
            self.offset = max(frame.f_lasti, 0)
            self.returning = frame.f_code.co_code[self.offset] in _RETURNS
            sys.settrace(None)
            self.action()
