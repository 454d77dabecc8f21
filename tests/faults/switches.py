"""Enumerating where a greenlet can be killed: every switch to the hub, and every step of what it waits for.

``AtSwitch`` raises in place of the victim's k-th switch to the hub: that is what being killed first thing there looks
like to the code, without depending on what else the hub has to do. ``AtStep`` watches the switches of all greenlets
with ``greenlet.settrace`` and throws into the suspended victim after the k-th one: so the dial or the route query that
the victim waits for is at a different point each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import greenlet
from gevent import GreenletExit, get_hub, getcurrent
from gevent.hub import Hub

from pegasus_green.cluster import dispatcher, usual

Thrown = Callable[[], BaseException]
# Exceptions that an application throws into its greenlets: kill() and a foreign Timeout.
THROWN: dict[str, Thrown] = {"kill": GreenletExit, "timeout": gevent.Timeout}


class AtSwitch:
    """Throws at the victim's k-th switch; k=0 only counts."""

    def __init__(self, k: int, error: BaseException | None) -> None:
        self.k, self.error = k, error
        self.victim: Any = None
        self.count = 0
        self.fired = False

    @contextmanager
    def armed(self) -> Iterator[AtSwitch]:
        """Patch the switch of the hub, which the compiled waits of gevent use, too, and those of calls in Python."""
        plain, short = Hub.switch, dispatcher._switch

        def switch(hub: Hub) -> Any:
            if getcurrent() is self.victim:
                self.count += 1
                if self.count == self.k:
                    self.fired = True
                    assert self.error is not None
                    raise self.error
            return plain(hub)

        Hub.switch = switch  # type: ignore[method-assign,assignment]
        dispatcher._switch = usual._switch = switch
        try:
            yield self
        finally:
            dispatcher._switch = usual._switch = short
            del Hub.switch
            assert Hub.switch is plain


class AtStep:
    """Throws into the suspended victim after the k-th switch of any greenlet since it began."""

    def __init__(self, k: int, error: BaseException | None) -> None:
        self.k, self.error = k, error
        self.victim: Any = None
        self.count = 0
        self.fired = False

    @contextmanager
    def armed(self) -> Iterator[AtStep]:
        before = greenlet.settrace(self._trace)
        try:
            yield self
        finally:
            greenlet.settrace(before)

    def _trace(self, event: str, args: Any) -> None:
        if event not in ("switch", "throw") or self.victim is None or not self.victim:
            return
        self.count += 1
        if self.count == self.k and self.error is not None:
            # A switch is not possible here, so the hub throws at the beginning of its next pass of callbacks.
            get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self.victim and getcurrent() is not self.victim:
            self.fired = True
            self.victim.throw(self.error)


Injection = AtSwitch | AtStep


class Outcome:
    """How an operation ended, and the result of the next operation of the same greenlet."""

    value: Any = None
    error: BaseException | None = None
    afterwards: Any = None


def inject(
    injection: Injection,
    operation: Callable[[], Any],
    bystanders: Callable[[], Callable[[], None]],
    afterwards: Callable[[], Any],
) -> Outcome:
    """Run an operation under an injection in a greenlet, which then runs another operation.

    Args:
        injection: Where to throw what.
        operation: What to run.
        bystanders: Called right after it began; what it returns is called at the end to check them.
        afterwards: What the greenlet does when it has caught whatever was thrown.
    """
    outcome = Outcome()

    def run() -> None:
        try:
            outcome.value = operation()
        except BaseException as error:
            # Without its traceback, which would keep the iterators of the operation alive.
            outcome.error = error.with_traceback(None)
        finally:
            injection.victim = None
        outcome.afterwards = afterwards()

    with injection.armed():
        victim = gevent.spawn(run)
        injection.victim = victim
        others = bystanders()
        victim.join(10)
        assert victim.dead, f"hangs after switch {injection.k}"
    others()
    return outcome
