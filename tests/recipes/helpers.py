"""What the tests of the recipes share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent

from pegasus_green import Table
from tests.integration.helpers import no_client_bugs

__all__ = ["LateCopies", "no_client_bugs", "until"]


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for a condition; fail when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        gevent.sleep(0.01)


class LateCopies:
    """A table whose writes can be sent once more, as a network does that delivers a copy late."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._table, name)
        if name not in ("check_and_set", "check_and_mutate"):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return method(*args, **kwargs)

        return call

    def deliver(self, number: int) -> Any:
        """Send a write once more."""
        name, args, kwargs = self.calls[number]
        return getattr(self._table, name)(*args, **kwargs)
