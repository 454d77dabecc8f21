"""Helpers of the recipe tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pegasus_green import Table
from tests.integration.helpers import no_client_bugs

__all__ = ["LateCopies", "no_client_bugs"]


class LateReply:
    """A table that calls a function before it returns the result of its first check_and_set."""

    def __init__(self, table: Table, meanwhile: Callable[[], object]) -> None:
        self._table = table
        self._meanwhile: Callable[[], object] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def check_and_set(self, *args: Any, **kwargs: Any) -> Any:
        done = self._table.check_and_set(*args, **kwargs)
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return done


class LateCopies:
    """A table whose writes can be sent again, like late copies in a network."""

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
        """Send a write again."""
        name, args, kwargs = self.calls[number]
        return getattr(self._table, name)(*args, **kwargs)
