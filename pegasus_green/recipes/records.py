"""Common parts of the recipes: a handle without codec, record names, a compare-and-swap of one record."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from gevent import get_hub, sleep
from gevent.lock import BoundedSemaphore

from ..client import Table
from ..errors import InvalidArgument, PegasusError, RequestTimeout
from ..keys import Key, to_bytes
from ..model import CheckType


def plain(table: Table[Any]) -> Table[bytes]:
    """Return a handle on the same table without a codec.

    Raises:
        InvalidArgument: table is not a Table.
    """
    if not isinstance(table, Table):
        raise InvalidArgument(f"table must be a Table, not {type(table).__name__}")
    return table if table.codec is None else table.client.table(table.name)


def hash_key_of(kind: str, *names: Key) -> bytes:
    """Return ``kind:name`` or ``kind:name:key`` as a hash key.

    Raises:
        InvalidArgument: A name is empty, or neither bytes nor str.
    """
    parts = [to_bytes(name, "name") for name in names]
    if not all(parts):
        raise InvalidArgument("a name must not be empty")
    return b":".join([kind.encode(), *parts])


def above_zero(value: float, name: str) -> float:
    """Check and return a number of seconds.

    Raises:
        InvalidArgument: It is not a number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InvalidArgument(f"{name} must be a number above 0, not {value!r}")
    return float(value)


def whole(value: int, name: str, most: int) -> int:
    """Check and return a whole number from 1 to a limit.

    Raises:
        InvalidArgument: It is not such a number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidArgument(f"{name} must be a whole number from 1 to {most:,}, not {value!r}")
    return value


def new_token() -> bytes:
    """Return a unique text. No other call of any process gets the same."""
    return uuid4().hex.encode()


def doze(seconds: float) -> None:
    """Wait for about this long. The time is random, so that callers that failed together do not return together."""
    sleep(seconds * random.uniform(0.5, 1.0))


class Turns:
    """Lets one greenlet of a thread at a time work on a key, so that their compare-and-swaps do not conflict."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[tuple[int, bytes], BoundedSemaphore] = WeakValueDictionary()

    def of(self, key: bytes) -> AbstractContextManager[Any]:
        """Return the lock of a key for the calling thread. It exists while it is used."""
        place = (id(get_hub()), key)
        turn = self._turns.get(place)
        if turn is None:
            turn = self._turns[place] = BoundedSemaphore(1)
        return turn


def swap(
    table: Table[Any],
    hash_key: bytes,
    sort_key: bytes,
    decide: Callable[[bytes | None], tuple[bytes | None, Any]],
    *,
    ttl: float | None,
    timeout: float | None = None,
) -> Any:
    """Change one record atomically, also if others change it at the same time.

    Args:
        table: A handle without a codec.
        hash_key: Hash key of the record.
        sort_key: Sort key of the record.
        decide: Takes the record's value (None: absent), and returns the new value (None: do not write) and the result.
            It is called again if another caller has changed the record meanwhile. It must not wait.
        ttl: Seconds that the record lives after the change; None: no expiry.
        timeout: Seconds for all requests together; None: the client's default for each request.

    Returns:
        The result of the last call of ``decide``.

    Retries: if the reply to a change is lost, the change may or may not have been applied. ``decide`` is called again
        with the current value. So the change is applied at least once, and more often if replies are lost.
    """
    until = None if timeout is None else monotonic() + timeout

    def left() -> float | None:
        if until is None:
            return None
        seconds = until - monotonic()
        if seconds <= 0:
            raise RequestTimeout("no time left for the next request", table=table.name)
        return seconds

    found = table.get(hash_key, sort_key, timeout=left())
    lost = 0
    while True:
        new, result = decide(found)
        if new is None:
            return result
        check = CheckType.NOT_EXIST if found is None else CheckType.BYTES_EQUAL
        try:
            done = table.check_and_set(
                hash_key, sort_key, check, found, value=new, ttl=ttl, return_check_value=True, timeout=left()
            )
        except PegasusError as error:
            if not error.outcome_unknown:
                raise
            # If this read fails, too, its error ends the call.
            found = table.get(hash_key, sort_key, timeout=left())
            continue
        if done:
            return result
        found = done.raw_check_value
        lost += 1
        if lost > 3:
            doze(0.002 * min(lost, 20))
