"""Routes on their way from the thread that has learnt them to the hub of another thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..transport import fork
from ..transport.threads import tell
from .routing import RoutingTable


class Offers:
    """The newest routes of each table that one hub has not taken yet.

    A hub does not run while its thread works or blocks. So not more than one callback per table waits for it.
    """

    def __init__(self, take: Callable[[str, RoutingTable, int], object]) -> None:
        """Start empty.

        Args:
            take: Called in the hub with a table's name, its routes, and the fork generation in which they were offered.
        """
        self._take = take
        self._newest: dict[str, tuple[RoutingTable, int]] = {}
        # The loops that are going to take them.
        self._told: dict[str, Any] = {}

    def __bool__(self) -> bool:
        """Tell whether there are routes to take."""
        return bool(self._newest)

    def offer(self, loop: Any, name: str, table: RoutingTable) -> None:
        """Make a loop take routes; runs in any thread."""
        self._newest[name] = table, fork.generation()
        if self._told.get(name) is not loop:
            self._told[name] = loop
            try:
                tell(loop, self._accept, name)
            except BaseException:
                self._told.pop(name, None)
                raise

    def accept(self) -> None:
        """Take all routes before a call: the hub has not run since they were offered."""
        for name in list(self._newest):
            self._accept(name)

    def _accept(self, name: str) -> None:
        """Take the newest routes, in the hub."""
        # First, so that routes that are offered meanwhile are taken by this callback or by another one.
        self._told.pop(name, None)
        newest = self._newest.pop(name, None)
        if newest is not None:
            self._take(name, *newest)
