"""The deadline of a call that consists of several requests."""

from __future__ import annotations

from time import monotonic
from typing import Any

from ..errors import RequestTimeout
from .base import TableBase


class Series:
    """The time that the requests of one call have together."""

    __slots__ = ("deadline", "_table", "_operation")

    def __init__(self, table: TableBase[Any], operation: str, timeout: float | None) -> None:
        """Begin now; a timeout of None is the client's default.

        Raises:
            InvalidArgument: timeout is not a number above 0.
        """
        self.deadline = table._dispatcher.cluster.deadline(timeout, monotonic())
        self._table, self._operation = table.name, operation

    def left(self) -> float:
        """Return the seconds that are left for the next request.

        Raises:
            RequestTimeout: There are none.
        """
        left = self.deadline - monotonic()
        if left <= 0:
            raise RequestTimeout("no time left for the next request", table=self._table, operation=self._operation)
        return left
