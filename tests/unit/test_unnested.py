"""Test that no function runs inside another one of its thread, whatever interrupts it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from pegasus_green.turns import Turn, Unnested


@contextmanager
def handling(handler: Any) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_function_of_a_signal_handler_runs_after_the_interrupted_one() -> None:
    unnested = Unnested()
    steps: list[str] = []

    def outer() -> None:
        steps.append("outer begins")
        signal.raise_signal(signal.SIGUSR1)
        steps.append("outer ends")

    def handler() -> None:
        for name in ("first", "second"):
            unnested.run(steps.append, name)

    with handling(handler):
        unnested.run(outer)
    assert steps == ["outer begins", "outer ends", "first", "second"]
    unnested.run(steps.append, "later")
    assert steps[-1] == "later"


def test_while_a_signal_handler_waits_the_functions_of_other_greenlets_wait_too() -> None:
    unnested = Unnested()
    steps: list[str] = []
    other = gevent.spawn(unnested.run, steps.append, "other")

    def outer() -> None:
        signal.raise_signal(signal.SIGUSR1)
        assert other.ready()
        steps.append("outer ends")

    with handling(other.join):
        unnested.run(outer)
    assert steps == ["outer ends", "other"]


def test_threads_do_not_wait_for_each_other() -> None:
    unnested, ended = Unnested(), get_original("_thread", "allocate_lock")()
    ended.acquire()

    def outer() -> None:
        get_original("_thread", "start_new_thread")(unnested.run, (ended.release,))
        assert ended.acquire(timeout=20), "the function of the other thread waits for this one"

    unnested.run(outer)


@pytest.mark.parametrize("error", [ZeroDivisionError, RuntimeError, KeyboardInterrupt, gevent.GreenletExit])
def test_an_exception_reaches_the_caller_and_ends_nothing_else(error: type[BaseException]) -> None:
    unnested = Unnested()
    steps: list[str] = []

    def outer() -> None:
        unnested.run(steps.append, "nested")
        raise error

    with pytest.raises(error):
        unnested.run(outer)
    unnested.run(steps.append, "next")
    assert steps == ["nested", "next"]


def test_a_function_sees_no_context_variable_of_another_caller() -> None:
    unnested, variable, seen = Unnested(), ContextVar("variable", default="none"), []
    variable.set("mine")
    unnested.run(lambda: seen.append(variable.get()))
    assert seen == ["none"]


def test_greenlets_do_not_wait_for_each_other() -> None:
    """In both of them, a signal handler waits for the turn of the other one."""
    turns: dict[str, Turn] = {}
    until = monotonic() + 20.0

    def act(mine: str, other: str) -> str:
        turn = turns[mine] = Turn()

        def inside() -> str:
            while other not in turns:
                gevent.sleep(0.001)
            try:
                return str(turns[other].wait(until))
            except RuntimeError:
                return "refused"

        return turn.run(inside)

    callers = [gevent.spawn(act, "a", "b"), gevent.spawn(act, "b", "a")]
    assert sorted(caller.get(timeout=10.0) for caller in callers) == ["True", "refused"]
