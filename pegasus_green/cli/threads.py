"""Blocking work in a thread of the hub's pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gevent

T = TypeVar("T")


def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a thread and return its result; only the calling greenlet waits.

    Raises:
        BaseException: What the function raises. The pool itself would also print it.
    """

    def run() -> tuple[Any, BaseException | None]:
        try:
            return function(*arguments), None
        except BaseException as error:  # it is raised in the waiting greenlet
            return None, error

    found: tuple[T, BaseException | None] = gevent.get_hub().threadpool.apply(run)
    result, error = found
    if error is not None:
        raise error
    return result
