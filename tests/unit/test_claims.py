"""Test how the greenlets of a parallel scan claim its parts."""

from __future__ import annotations

from collections import deque
from typing import Any

import gevent

from pegasus_green.scanner.work import Planned, Work


def work_with(*parts: Any) -> Any:
    work: Any = Work.__new__(Work)
    work.planned = Planned(0, (), deque(parts), {})
    return work


def test_a_part_that_another_greenlet_is_claiming_is_not_claimed() -> None:
    """A signal handler lets this greenlet run after the other one's claim, before the part leaves the waiting ones."""
    work, reader = work_with("first", "second"), gevent.Greenlet()
    work.active["first"] = reader
    assert work.claim() == "second"
    assert work.claim() is None
    assert work.active == {"first": reader, "second": gevent.getcurrent()}


def test_a_part_that_another_greenlet_has_finished_is_not_claimed() -> None:
    """A signal handler lets the other greenlet claim and finish the part after this one has seen it waiting."""
    work = work_with("first")

    class Finished(dict[Any, Any]):
        def setdefault(self, key: Any, default: Any = None) -> Any:
            work.waiting.clear()
            return super().setdefault(key, default)

    work.planned = work.planned._replace(active=Finished())
    assert work.claim() is None
    assert work.active == {}
