"""The deadline of a call that sends several requests."""

from __future__ import annotations

from time import monotonic
from typing import Any

from ..errors import RequestTimeout
from .base import TableBase


class Series:
    """The common deadline of all requests of one call."""

    __slots__ = ("deadline", "_table", "_operation")

    def __init__(self, table: TableBase[Any], operation: str, timeout: float | None) -> None:
        """Start the clock. A timeout of None means the client's default.

        Raises:
            InvalidArgument: timeout is not a number above 0.
        """
        self.deadline = table._dispatcher.cluster.deadline(timeout, monotonic())
        self._table, self._operation = table.name, operation

    def left(self) -> float:
        """Return the seconds left for the next request.

        Raises:
            RequestTimeout: No time is left.
        """
        left = self.deadline - monotonic()
        if left <= 0:
            raise RequestTimeout("no time left for the next request", table=self._table, operation=self._operation)
        return left
