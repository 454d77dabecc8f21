"""How tests wait for what another greenlet or process does."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import gevent


def wait_until(condition: Callable[[], object], seconds: float = 60.0, step: float = 0.005) -> float:
    """Wait until a condition holds and return the seconds it took; fail when it does not."""
    begin = monotonic()
    while not condition():
        assert monotonic() - begin < seconds, f"not within {seconds} s"
        gevent.sleep(step)
    return monotonic() - begin
