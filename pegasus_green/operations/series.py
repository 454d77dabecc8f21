"""The deadline of a call that sends several requests."""

from __future__ import annotations

from time import monotonic
from typing import Any

from ..errors import RequestTimeout
from .base import TableBase


class Series:
    """The common deadline of all requests of one call.

    It is a context manager: a RequestTimeout that leaves the block has the timeout of the whole call.
    """

    __slots__ = ("deadline", "_timeout", "_table", "_operation")

    def __init__(self, table: TableBase[Any], operation: str, timeout: float | None) -> None:
        """Start the clock. A timeout of None means the client's default.

        Raises:
            InvalidArgument: timeout is not a number above 0.
        """
        now = monotonic()
        self.deadline = table._dispatcher.cluster.deadline(timeout, now)
        self._timeout = self.deadline - now
        self._table, self._operation = table.name, operation

    def __enter__(self) -> Series:  # noqa: PYI034 - Self is not in Python 3.10
        """Return the series."""
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Complete an error."""
        self.complete(error)

    def complete(self, error: BaseException | None) -> None:
        """Replace the timeout of one request in an error by that of the whole call."""
        if isinstance(error, RequestTimeout):
            error.timeout = self._timeout

    def left(self) -> float:
        """Return the seconds left for the next request.

        Raises:
            RequestTimeout: No time is left.
        """
        left = self.deadline - monotonic()
        if left <= 0:
            raise RequestTimeout("no time left for the next request", table=self._table, operation=self._operation)
        return left
