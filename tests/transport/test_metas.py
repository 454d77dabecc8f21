"""Test the set of meta servers while several native threads change it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from pegasus_green.cluster.metas import MAX_LEARNT, Metas

CONFIGURED, LEARNT, OTHER = "10.0.0.1:34601", "10.0.0.2:34601", "10.0.0.3:34601"
Step = Callable[[Metas], object]


def between(step: Step, at: int, other: Step, metas: Metas) -> bool:
    """Run a step, and another one before its line number ``at``; return whether it has so many lines.

    The set has no state of threads, so the other step may run in the same thread.
    """
    lines = 0

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.endswith("metas.py"):
            return None
        if event == "line":
            lines += 1
            if lines == at:
                sys.settrace(None)
                other(metas)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        step(metas)
    finally:
        sys.settrace(before)
    return lines >= at


STEPS: dict[str, Step] = {
    "failed": lambda metas: metas.failed(LEARNT),
    "answered": lambda metas: metas.answered(CONFIGURED),
    "answered itself": lambda metas: metas.answered(LEARNT),
    "learned": lambda metas: metas.learn(LEARNT, ""),
    "other learned": lambda metas: metas.learn(OTHER, ""),
    "many learned": lambda metas: [metas.learn(f"10.0.1.{number}:34601", "") for number in range(MAX_LEARNT)],
    "listed": Metas.all,
}


@pytest.mark.parametrize("other", STEPS)
@pytest.mark.parametrize("step", STEPS)
def test_threads_change_the_set_between_each_others_steps(step: str, other: str) -> None:
    at = 1
    while True:
        metas = Metas([CONFIGURED])
        metas.learn(LEARNT, "")
        metas.failed(LEARNT)
        went = between(STEPS[step], at, STEPS[other], metas)
        # Whatever was left behind, later answers and forwards have their effect.
        metas.answered(CONFIGURED)
        metas.learn(OTHER, "")
        metas.answered(OTHER)
        assert metas.all()[0] == CONFIGURED
        assert metas.all()[-1] == OTHER
        assert len(metas.all()) == len(set(metas.all())) <= 1 + MAX_LEARNT
        metas.failed(OTHER)
        metas.answered(CONFIGURED)
        assert OTHER not in metas.all()
        if not went:
            break
        at += 1
    assert at > 1


def test_the_newest_forwards_are_remembered_in_their_order() -> None:
    metas = Metas([CONFIGURED])
    servers = [f"10.0.1.{number}:34601" for number in range(MAX_LEARNT + 1)]
    assert [metas.learn(server, "") for server in servers] == [True] * len(servers)
    assert not metas.learn(servers[1], "")
    assert metas.known() == [CONFIGURED, *servers[2:], servers[1]]
