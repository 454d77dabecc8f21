"""A storage for ``limits``, and so for Flask-Limiter, with all three strategies.

The import of this module registers the scheme ``pegasus`` with ``limits``::

    import pegasus_green.contrib.limits
    limiter = Limiter(get_remote_address, app=app, storage_uri="pegasus://10.0.0.1:34601,10.0.0.2:34601/limits")

All storages of a process with the same URL share one client.

The records of a key of ``limits`` (such as ``LIMITER/10.0.0.7/100/1/minute``) have the hash key ``limits:KEY``. Each
record expires some seconds after its window has ended:

===============  =========================================  ==============================================
sort key         value                                      strategy
===============  =========================================  ==============================================
``window``       ``START END``, unix milliseconds           fixed window, begins with the first hit
``count:START``  hits                                       fixed window
``moving``       ``TIME:HITS TIME:HITS ...``, newest first  moving window; unix microseconds
``sliding``      ``NUMBER BEFORE HITS``                     sliding window counter, windows by the clock
===============  =========================================  ==============================================

If the reply to a hit is lost, the storage counts it again. So one hit may count several times, but lost replies never
let more hits pass. The storage uses the clock of this machine: run NTP.
"""

from __future__ import annotations

from math import floor
from time import time
from typing import Any

from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.storage.base import TimestampedSlidingWindow

from ..errors import PegasusError
from ..model import Filter
from ..recipes.errors import is_doubtful
from ..recipes.records import Turns
from ..shared import shared_table

_WINDOW, _MOVING, _SLIDING = b"window", b"moving", b"sliding"
# TTLs are whole seconds, and clocks differ a little, so records live some seconds longer.
_SPARE = 3
# Maximum number of entries of a moving window.
_STEPS = 1000
# Maximum number of keys whose window is cached. This saves a request for each hit.
_REMEMBERED = 10_000


class PegasusStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """Counts hits in a Pegasus table.

    In a fixed window a hit costs one ``incr``, which never fails because of other callers. The other strategies replace
    one record if it has not changed. Greenlets of one thread do this one after the other.

    A moving window stores the time of each hit. With more than 1,000 hits, the hits of each thousandth of the
    window become one entry, which counts until its newest hit is out of the window.

    Args:
        uri: ``pegasus://host:port,host:port/table``, with options of the client after ``?`` (``?timeout=0.5``).
        wrap_exceptions: Whether errors are raised as ``limits.errors.StorageError``.
        prefix: Prefix of the hash keys.

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
        """The exceptions that ``limits`` wraps or ignores."""
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
        """Count hits in the key's window, which begins with the first hit; return the number of hits in it."""
        hash_key, now = self._key(key), _now()
        window = self._windows.get(hash_key)
        if window is None or not window[0] <= now < window[1]:
            window = self._window(hash_key, expiry)
        count, ttl = b"count:%d" % window[0], (window[1] - now) / 1000 + _SPARE
        try:
            return self._table.incr(hash_key, count, amount, ttl=ttl)
        except PegasusError as error:
            if not is_doubtful(error):
                raise
            return self._table.incr(hash_key, count, amount, ttl=ttl)

    def _window(self, hash_key: bytes, expiry: int) -> tuple[int, int]:
        """Return the current window. Begin one now if there is none."""

        def decide(found: bytes | None) -> tuple[bytes | None, tuple[int, int]]:
            now = _now()
            window = _pair(found)
            if window[1] > now:
                return None, window
            window = (now, now + expiry * 1000)
            return b"%d %d" % window, window

        window: tuple[int, int] = self._turns.swap(self._table, hash_key, _WINDOW, decide, ttl=expiry + _SPARE)
        if len(self._windows) >= _REMEMBERED:
            self._windows.clear()
        self._windows[hash_key] = window
        return window

    def get(self, key: str) -> int:
        """Return the number of hits in the key's current window."""
        rows = self._table.multi_get(self._key(key))
        start, end = _pair(rows.get(_WINDOW))
        return int(rows.get(b"count:%d" % start, 0)) if end > _now() else 0

    def get_expiry(self, key: str) -> float:
        """Return the end of the key's window in unix seconds; the current time if there is none."""
        end = _pair(self._table.get(self._key(key), _WINDOW))[1]
        return max(end / 1000, time())

    def clear(self, key: str) -> None:
        """Forget the hits of a key, except those of sliding windows.

        The current fixed window continues, because other processes count in it.
        """
        hash_key = self._key(key)
        counted = [name for name in self._table.multi_get_sort_keys(hash_key) if name not in (_WINDOW, _SLIDING)]
        if counted:
            self._table.multi_del(hash_key, counted)

    def reset(self) -> int:
        """Remove the hits of all keys with the prefix, by a scan of the whole table; return the number of keys.

        The current fixed windows continue, because other processes count in them.
        """
        counted: dict[bytes, list[bytes]] = {}
        for hash_key, sort_key, _ in self._table.scan(hash_key_filter=Filter.prefix(self._prefix), no_value=True):
            if sort_key != _WINDOW:
                counted.setdefault(hash_key, []).append(sort_key)
        for hash_key, names in counted.items():
            self._table.multi_del(hash_key, names)
        return len(counted)

    # --------------------------------------------------------------------------------------------------- moving windows
    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count hits if the last ``expiry`` seconds have room for them; return whether they were counted."""
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
        """Return the time of the oldest hit in the last ``expiry`` seconds, and the number of hits."""
        now = _micros()
        entries = _entries(self._table.get(self._key(key), _MOVING))
        entries = [entry for entry in entries if entry[0] >= now - expiry * 1_000_000]
        if not entries:
            return now / 1e6, 0
        return entries[-1][0] / 1e6, sum(hits for _, hits in entries)

    # -------------------------------------------------------------------------------------------------- sliding windows
    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count hits if the weighted windows have room for them; return whether they were counted."""
        if amount > limit:
            return False

        def decide(found: bytes | None) -> tuple[bytes | None, bool]:
            number, before, hits, passed = _sliding(found, expiry)
            if floor(before * (1 - passed) + hits) + amount > limit:
                return None, False
            return b"%d %d %d" % (number, before, hits + amount), True

        return self._swapped(key, _SLIDING, decide, 2 * expiry)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return hits and seconds left of the previous window, and of the current one."""
        _, before, hits, passed = _sliding(self._table.get(self._key(key), _SLIDING), expiry)
        left = (1 - passed) * expiry
        return before, left if before else 0.0, hits, left + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget the hits of both windows of a key."""
        self._table.remove(self._key(key), _SLIDING)

    def _swapped(self, key: str, sort_key: bytes, decide: Any, seconds: float) -> bool:
        return bool(self._turns.swap(self._table, self._key(key), sort_key, decide, ttl=seconds + _SPARE))


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
    """Merge the entries of the same step into one at the time of the newest, so that no hit expires too early."""
    merged = entries[:1]
    for at, hits in entries[1:]:
        newest, before = merged[-1]
        if newest - at < step:
            merged[-1] = (newest, before + hits)
        else:
            merged.append((at, hits))
    return merged


def _sliding(found: bytes | None, expiry: int) -> tuple[int, int, int, float]:
    """Return the current window's number, hits in the previous and current one, and the elapsed share of it."""
    now = time()
    number, before, hits = map(int, found.split()) if found is not None else (0, 0, 0)
    present = int(now / expiry)
    if present > number:
        before, hits, number = (hits if present == number + 1 else 0), 0, present
    return number, before, hits, min(max(now / expiry - number, 0.0), 1.0)
