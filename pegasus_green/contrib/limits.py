"""A storage of ``limits``, and so of Flask-Limiter, with all three strategies.

Importing this module makes the scheme ``pegasus`` known to ``limits``::

    import pegasus_green.contrib.limits
    limiter = Limiter(get_remote_address, app=app, storage_uri="pegasus://10.0.0.1:34601,10.0.0.2:34601/limits")

One client serves all storages of a process with the same URL.

Records of a key of ``limits`` (such as ``LIMITER/10.0.0.7/100/1/minute``), hash key ``limits:KEY``; all of them expire
some seconds after they have ended:

==============  =========================================  ==============================================
sort key        value                                      strategy
==============  =========================================  ==============================================
``window``      ``START END``, unix milliseconds           fixed window, begins with the first hit
``count:START`` hits                                       fixed window
``moving``      ``TIME:HITS TIME:HITS ...``, newest first  moving window; unix microseconds
``sliding``     ``NUMBER BEFORE HITS``                     sliding window counter, windows by the clock
==============  =========================================  ==============================================

A hit whose reply was lost counts as a hit, and is counted once more. It may use up two of the limit, and the limit is
never exceeded. Time is the clock of this machine: run NTP.
"""

from __future__ import annotations

from math import floor
from time import time
from typing import Any

from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.storage.base import TimestampedSlidingWindow

from ..errors import PegasusError
from ..model import Filter
from ..recipes.records import Turns, swap
from ..shared import shared_table

_WINDOW, _MOVING, _SLIDING = b"window", b"moving", b"sliding"
# TTLs are whole seconds, and clocks differ a little: a record outlives what it says.
_SPARE = 3
# Hits of a moving window that are kept one by one.
_STEPS = 1000
# Windows of so many keys are remembered, which saves a request for each hit.
_REMEMBERED = 10_000


class PegasusStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """Counts hits in a Pegasus table.

    Fixed windows cost one ``incr`` for a hit, which callers never have to repeat because of others. The other
    strategies replace one record if it has not changed; callers of one process take turns at a key.

    A moving window remembers the time of each hit. Of more than 1,000 hits those that lie within a thousandth of the
    window become one entry, and count until the newest of them ends.

    Args:
        uri: ``pegasus://host:port,host:port/table``; options of the client stand in it (``?timeout=0.5``).
        wrap_exceptions: Whether errors are raised as ``limits.errors.StorageError``.
        prefix: What the hash keys begin with.

    Example:
        >>> from limits import parse, storage, strategies
        >>> store = storage.storage_from_string("pegasus://127.0.0.1:34601/temp")
        >>> limiter = strategies.FixedWindowRateLimiter(store)
        >>> _ = store.reset()
        >>> [limiter.hit(parse("2/hour"), "ada") for _ in range(3)]
        [True, True, False]
    """

    STORAGE_SCHEME = ["pegasus"]  # noqa: RUF012 - what limits asks for

    def __init__(self, uri: str, wrap_exceptions: bool = False, *, prefix: str = "limits") -> None:  # noqa: FBT001, FBT002 - theirs
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._table = shared_table(uri)
        self._prefix = f"{prefix}:".encode()
        self._turns = Turns()
        self._windows: dict[bytes, tuple[int, int]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        """What ``limits`` wraps or swallows."""
        return PegasusError

    def check(self) -> bool:
        """Tell whether the meta servers answer."""
        try:
            self._table.client.ping()
        except PegasusError:
            return False
        return True

    def _key(self, key: str) -> bytes:
        return self._prefix + key.encode()

    # ---------------------------------------------------------------------------------------------------- fixed windows
    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count hits in the key's window, which begins with the first one; return the hits in it."""
        hash_key, now = self._key(key), _now()
        window = self._windows.get(hash_key)
        if window is None or not window[0] <= now < window[1]:
            window = self._window(hash_key, expiry)
        count, ttl = b"count:%d" % window[0], (window[1] - now) / 1000 + _SPARE
        try:
            return self._table.incr(hash_key, count, amount, ttl=ttl)
        except PegasusError as error:
            if not error.outcome_unknown:
                raise
            return self._table.incr(hash_key, count, amount, ttl=ttl)

    def _window(self, hash_key: bytes, expiry: int) -> tuple[int, int]:
        """Return the present window, begun now if there is none."""

        def decide(found: bytes | None) -> tuple[bytes | None, tuple[int, int]]:
            now = _now()
            window = _pair(found)
            if window[1] > now:
                return None, window
            window = (now, now + expiry * 1000)
            return b"%d %d" % window, window

        with self._turns.of(hash_key):
            window: tuple[int, int] = swap(self._table, hash_key, _WINDOW, decide, ttl=expiry + _SPARE)
        if len(self._windows) >= _REMEMBERED:
            self._windows.clear()
        self._windows[hash_key] = window
        return window

    def get(self, key: str) -> int:
        """Return the hits in the key's present window."""
        rows = self._table.multi_get(self._key(key))
        start, end = _pair(rows.get(_WINDOW))
        return int(rows.get(b"count:%d" % start, 0)) if end > _now() else 0

    def get_expiry(self, key: str) -> float:
        """Return when the key's window ends, in unix seconds; now when there is none."""
        end = _pair(self._table.get(self._key(key), _WINDOW))[1]
        return max(end / 1000, time())

    def clear(self, key: str) -> None:
        """Forget the hits of a key; a window that other processes count in goes on."""
        hash_key = self._key(key)
        counted = [name for name in self._table.multi_get_sort_keys(hash_key) if name not in (_WINDOW, _SLIDING)]
        if counted:
            self._table.multi_del(hash_key, counted)

    def reset(self) -> int:
        """Forget everything under the prefix, by a scan of the whole table; return the number of keys."""
        rows = self._table.scan(hash_key_filter=Filter.prefix(self._prefix), no_value=True)
        keys = {row[0] for row in rows}
        for hash_key in keys:
            self._table.del_range(hash_key)
        self._windows.clear()
        return len(keys)

    # --------------------------------------------------------------------------------------------------- moving windows
    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count hits if the last ``expiry`` seconds have room for them; tell whether they had."""
        if amount > limit:
            return False

        def decide(found: bytes | None) -> tuple[bytes | None, bool]:
            entries = _entries(found)
            now = max(_micros(), entries[0][0] if entries else 0)
            entries = [entry for entry in entries if entry[0] >= now - expiry * 1_000_000]
            if sum(hits for _, hits in entries) + amount > limit:
                return None, False
            entries.insert(0, (now, amount))
            if len(entries) > _STEPS:
                entries = _merged(entries, expiry * 1_000_000 // _STEPS)
            return b" ".join(b"%d:%d" % entry for entry in entries), True

        return self._swapped(key, _MOVING, decide, expiry)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return the time of the oldest hit of the last ``expiry`` seconds, and how many there are."""
        now = _micros()
        entries = _entries(self._table.get(self._key(key), _MOVING))
        entries = [entry for entry in entries if entry[0] >= now - expiry * 1_000_000]
        if not entries:
            return now / 1e6, 0
        return entries[-1][0] / 1e6, sum(hits for _, hits in entries)

    # -------------------------------------------------------------------------------------------------- sliding windows
    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count hits if the weighted windows have room for them; tell whether they had."""
        if amount > limit:
            return False

        def decide(found: bytes | None) -> tuple[bytes | None, bool]:
            number, before, hits, passed = _sliding(found, expiry)
            if floor(before * (1 - passed) + hits) + amount > limit:
                return None, False
            return b"%d %d %d" % (number, before, hits + amount), True

        return self._swapped(key, _SLIDING, decide, 2 * expiry)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return hits and seconds left of the window before, and of the present one."""
        _, before, hits, passed = _sliding(self._table.get(self._key(key), _SLIDING), expiry)
        left = (1 - passed) * expiry
        return before, left if before else 0.0, hits, left + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget the hits of both windows of a key."""
        self._table.remove(self._key(key), _SLIDING)

    def _swapped(self, key: str, sort_key: bytes, decide: Any, seconds: float) -> bool:
        hash_key = self._key(key)
        with self._turns.of(hash_key):
            return bool(swap(self._table, hash_key, sort_key, decide, ttl=seconds + _SPARE))


def _now() -> int:
    """Return unix milliseconds."""
    return int(time() * 1000)


def _micros() -> int:
    """Return unix microseconds."""
    return int(time() * 1e6)


def _pair(found: bytes | None) -> tuple[int, int]:
    if found is None:
        return 0, 0
    start, end = map(int, found.split())
    return start, end


def _entries(found: bytes | None) -> list[tuple[int, int]]:
    """Return (unix microseconds, hits), newest first."""
    pairs = (entry.split(b":") for entry in (found or b"").split())
    return [(int(at), int(hits)) for at, hits in pairs]


def _merged(entries: list[tuple[int, int]], step: int) -> list[tuple[int, int]]:
    """Return the entries with those of the same step as one, at the time of the newest: none counts for too short."""
    merged = entries[:1]
    for at, hits in entries[1:]:
        newest, before = merged[-1]
        if newest - at < step:
            merged[-1] = (newest, before + hits)
        else:
            merged.append((at, hits))
    return merged


def _sliding(found: bytes | None, expiry: int) -> tuple[int, int, int, float]:
    """Return the present window's number, hits in the one before and in it, and which share of it has passed."""
    now = time()
    number, before, hits = map(int, found.split()) if found is not None else (0, 0, 0)
    present = int(now / expiry)
    if present > number:
        before, hits, number = (hits if present == number + 1 else 0), 0, present
    return number, before, hits, min(max(now / expiry - number, 0.0), 1.0)
