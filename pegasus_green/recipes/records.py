"""Common parts of the recipes: a handle without codec, record names, a compare-and-swap of one record."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any
from uuid import uuid4

from gevent import get_hub, getcurrent, sleep

from ..client import Table
from ..errors import ForkedConnection, InvalidArgument, PegasusError, RequestTimeout
from ..keys import Key, to_bytes
from ..model import CheckType
from ..operations.base import MAX_EXPIRE
from ..turns import Turn
from .errors import MOST_DOUBTFUL, is_doubtful


def plain(table: Table[Any]) -> Table[bytes]:
    """Return a handle on the same table without a codec, with the same hedge policy and limit.

    Raises:
        InvalidArgument: table is not a Table.
    """
    if not isinstance(table, Table):
        raise InvalidArgument(f"table must be a Table, not {type(table).__name__}")
    if table.codec is None:
        return table
    handle: Table[bytes] = table.client.table(table.name)
    handle._home, handle._call, handle._lane = table._home, table._call, table._lane
    return handle


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
        InvalidArgument: It is not a number above 0, or it is too large for an expiry at any time.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_EXPIRE:
        raise InvalidArgument(f"{name} must be a number above 0, at most {MAX_EXPIRE:,}, not {value!r}")
    return float(value)


def longest_wait(seconds: float | None) -> float | None:
    """Check and return the maximum seconds that a caller waits.

    Raises:
        InvalidArgument: It is neither None nor a number.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not -inf <= seconds <= inf:
        raise InvalidArgument(f"blocking_timeout must be a number of seconds or None, not {seconds!r}")
    return float(max(0, min(seconds, MAX_EXPIRE)))


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


def hub_of(table: Table[Any]) -> Any:
    """Return the hub of the calling thread, before anything else asks gevent for it.

    If the thread has no hub, the client makes one, and destroys it when the thread ends. It would not destroy a hub
    that gevent has made.

    Raises:
        ConnectFailed: Too few descriptors are free for the hub.
    """
    table.client._cluster.here()
    return get_hub()


def doze(seconds: float) -> None:
    """Wait for a random time, from half of these seconds to all. So callers that failed together return one by one.

    Raises:
        ForkedConnection: The process has forked meanwhile. The caller continues in the parent.
    """
    mine = os.getpid()
    sleep(seconds * random.uniform(0.5, 1.0))
    if mine != os.getpid():
        raise ForkedConnection("the process forked while the caller waited; it continues in the parent")


class _Queued(Turn):
    """A turn that begins with a wait for the turn before it.

    Attributes:
        before: The turn that it waits for; None: it has begun its work.
    """

    __slots__ = ("before",)

    def __init__(self) -> None:
        super().__init__()
        self.before: _Queued | None = None


class Turns:
    """Lets one greenlet of a thread at a time work on a key, so that their compare-and-swaps do not conflict.

    The swaps are also correct without turns. A signal handler that swaps the same key inside a swap would wait for its
    own greenlet, so its swap does not wait for a turn.
    """

    __slots__ = ("_last", "_own")

    def __init__(self) -> None:
        # By hub and key: the newest turn. By greenlet and key: the turn of the greenlet. Interruptions may leave turns
        # here that are over.
        self._last: dict[tuple[int, bytes], _Queued] = {}
        self._own: dict[tuple[int, bytes], _Queued] = {}

    def swap(
        self,
        table: Table[Any],
        hash_key: bytes,
        sort_key: bytes,
        decide: Callable[[bytes | None], tuple[bytes | None, Any]],
        *,
        ttl: float | None,
        timeout: float | None = None,
    ) -> Any:
        """Call ``swap`` when the other greenlets of this thread do not swap a record of the same hash key.

        Args:
            table: As for ``swap``.
            hash_key: As for ``swap``.
            sort_key: As for ``swap``.
            decide: As for ``swap``.
            ttl: As for ``swap``.
            timeout: Seconds for the wait and all requests together; None: the wait and each request may take the
                client's default time.

        Raises:
            RequestTimeout: Others were at work during the whole timeout. Nothing was sent.
        """
        until = table.client._cluster.deadline(timeout, monotonic())

        def work() -> Any:
            left = None if timeout is None else until - monotonic()
            return swap(table, hash_key, sort_key, decide, ttl=ttl, timeout=left)

        place, own = (id(hub_of(table)), hash_key), (id(getcurrent()), hash_key)
        interrupted = self._own.get(own)
        if interrupted is not None and interrupted.lasts:
            return work()
        turn = _Queued()
        try:
            return turn.run(self._take, turn, place, own, table, until, work)
        finally:
            # Not before the end of the turn: until then, others may wait for it.
            if self._own.get(own) is turn:
                self._own.pop(own, None)

    def _take(
        self,
        turn: _Queued,
        place: tuple[int, bytes],
        own: tuple[int, bytes],
        table: Table[Any],
        until: float,
        work: Callable[[], Any],
    ) -> Any:
        try:
            # First: a signal handler must not wait for a turn that waits for this one.
            self._own[own] = turn
            turn.before = self._last.get(place)
            self._last[place] = turn
            while (before := turn.before) is not None:
                if not before.wait(until):
                    raise RequestTimeout("other greenlets were changing the same record", table=table.name)
                # A call that ended while it waited leaves the turn before it.
                turn.before = before.before
            return work()
        finally:
            if self._last.get(place) is turn:
                if turn.before is not None and turn.before.lasts:
                    self._last[place] = turn.before
                else:
                    self._last.pop(place, None)


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
        with the current value. So the change is applied at least once, and perhaps more often if replies are lost. The
        error of the third lost reply ends the call.
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
    lost = doubtful = 0
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
            doubtful += 1
            if doubtful == MOST_DOUBTFUL or not is_doubtful(error):
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
