"""Work that would block the hub, in a thread of the hub's pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gevent

T = TypeVar("T")


def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Return what a function returns in a thread; only the calling greenlet waits.

    Raises:
        BaseException: What the function raises. The pool would print it besides.
    """

    def run() -> tuple[Any, BaseException | None]:
        try:
            return function(*arguments), None
        except BaseException as error:  # it belongs to the greenlet that waits
            return None, error

    found: tuple[T, BaseException | None] = gevent.get_hub().threadpool.apply(run)
    result, error = found
    if error is not None:
        raise error
    return result
