"""RateLimiter: a maximum number of hits in a period, for all processes together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Any

from ..client import Table
from ..errors import InvalidArgument, PegasusError
from ..keys import Key, to_bytes
from .errors import is_doubtful
from .records import Turns, above_zero, hash_key_of, plain, whole


@dataclass(frozen=True)
class Allowance:
    """The limiter's answer to a hit. It is true if the hit is allowed.

    Attributes:
        allowed: Whether the hit is within the limit.
        remaining: Number of further hits of cost 1 that would be allowed now.
        retry_after: Seconds until this hit would be allowed if there are no other hits; 0.0 if it is allowed.
    """

    allowed: bool
    remaining: int
    retry_after: float

    def __bool__(self) -> bool:
        """Tell whether the hit is allowed."""
        return self.allowed


# Seconds, 10 years. The client sends no expiry after January 2084.
_MOST_SECONDS = 10 * 365 * 86400

_Decision = Callable[["bytes | None"], "tuple[bytes | None, Allowance]"]


class RateLimiter:
    """Allows at most ``limit`` hits in ``period`` seconds, for each key.

    Three algorithms:

    - ``fixed_window``: time is divided into windows of ``period`` seconds, each with a counter. A hit is one ``incr``,
      which never fails because of other callers, so this is the cheapest algorithm. Around the end of a window, up to
      twice ``limit`` hits can pass in ``period`` seconds. Denied hits with a cost of 1 count, too.
    - ``sliding_window``: counts the hits of the current window, and a part of the hits of the previous one. If 30 % of
      the previous window are within the last ``period`` seconds, 30 % of its hits count. Denied hits do not count.
    - ``token_bucket``: a bucket of ``burst`` tokens. It is refilled with ``limit`` tokens per ``period``. A hit takes
      tokens. Denied hits do not count.

    The last two read a record and replace it in one atomic step if it has not changed (``check_and_set``). Greenlets
    of one thread do this one after the other. Callers in other threads and processes may have to repeat the step.

    If the reply to a hit is lost, the limiter counts it again. So one hit may count several times, but lost replies
    never let more hits pass.

    The limiter uses this machine's clock. If the clocks of two machines differ by d seconds, their fixed windows begin
    d seconds apart. In the other algorithms, a machine whose clock is behind uses the newest time in the record.

    Records: hash key ``limit:NAME:KEY``; sort key ``window:NUMBER`` (a count), ``sliding`` (number of the window, hits
    before, hits in it) or ``bucket`` (tokens, unix time). They expire when they no longer matter.

    Args:
        table: Any table; its codec is not used.
        name: Name of the limit; bytes or str.
        limit: Number of hits, 1 to 1,000,000,000.
        period: Seconds. Two periods, or the time in which an empty bucket is filled, last at most 10 years.
        algorithm: ``fixed_window``, ``sliding_window`` or ``token_bucket``.
        burst: Size of the bucket; None: ``limit``. Only with ``token_bucket``.

    Example:
        >>> limiter = RateLimiter(table, "login", limit=2, period=3600, algorithm="token_bucket")
        >>> limiter.reset("ada")
        >>> [bool(limiter.hit("ada")) for _ in range(3)]
        [True, True, False]
    """

    def __init__(
        self,
        table: Table[Any],
        name: Key,
        *,
        limit: int,
        period: float,
        algorithm: str = "fixed_window",
        burst: int | None = None,
    ) -> None:
        self._table = plain(table)
        self._name = to_bytes(name, "name")
        self.limit = whole(limit, "limit", 10**9)
        self.period = above_zero(period, "period")
        self.algorithm = algorithm
        deciders = {"fixed_window": None, "sliding_window": self._sliding, "token_bucket": self._bucket}
        if algorithm not in deciders:
            raise InvalidArgument(f"algorithm must be one of {', '.join(deciders)}, not {algorithm!r}")
        if burst is not None and algorithm != "token_bucket":
            raise InvalidArgument("burst can be used only with token_bucket")
        self.burst = self.limit if burst is None else whole(burst, "burst", 10**9)
        self._decide = deciders[algorithm]
        self._sort_key = {"sliding_window": b"sliding", "token_bucket": b"bucket"}.get(algorithm, b"")
        filled = self.burst * self.period / self.limit
        # One second more because expiries are whole seconds, and one for a small difference of clocks.
        self._ttl = (filled if algorithm == "token_bucket" else 2 * self.period) + 2
        if self._ttl > _MOST_SECONDS:
            what = "the time to fill a bucket (burst * period / limit)" if algorithm == "token_bucket" else "2 * period"
            raise InvalidArgument(f"{what} must be at most {_MOST_SECONDS - 2:,} seconds, not {self._ttl - 2:,.0f}")
        self._turns = Turns()

    def __repr__(self) -> str:
        """Show the limit."""
        name = self._name.decode("utf-8", "replace")
        return f"<RateLimiter {name} {self.algorithm} {self.limit} in {self.period:g} s>"

    def hit(self, key: Key = b"all", *, cost: int = 1, timeout: float | None = None) -> Allowance:
        """Count a hit and tell whether it is allowed.

        Args:
            key: Key of the limit, for example a user; bytes or str.
            cost: Number of hits that this one counts as; at most the limit, or the size of the bucket.
            timeout: Seconds for the whole call, with the wait for other greenlets. With ``fixed_window``: seconds for
                each request. None: the wait and each request may take the client's default time.

        Raises:
            InvalidArgument: The cost can never be allowed, or an argument has a wrong type.
            PegasusError: The hit could not be counted. The caller decides whether to allow it.

        Retries: if a reply was lost, the hit is counted again, so it may count more than once. With ``fixed_window``
            the recipe repeats it once, with the other algorithms twice.
        Greenlets: any number may call at once. After a kill the hit may or may not count. A signal handler may call it
            inside another hit.

        Example:
            >>> limiter = RateLimiter(table, "mail", limit=100, period=60)
            >>> bool(limiter.hit("ada"))
            True
        """
        cost = whole(cost, "cost", self.burst)
        hash_key = hash_key_of("limit", self._name, key)
        if self._decide is None:
            return self._fixed(hash_key, cost, timeout)
        return self._swap(hash_key, cost, timeout, self._decide)

    def peek(self, key: Key = b"all", *, cost: int = 1, timeout: float | None = None) -> Allowance:
        """Tell whether a hit would be allowed, without counting it.

        Args:
            key: As for ``hit``.
            cost: As for ``hit``.
            timeout: Seconds; None: the client's default.

        Raises:
            PegasusError: The record could not be read.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> limiter = RateLimiter(table, "sms", limit=5, period=60)
            >>> limiter.reset("ada")
            >>> limiter.peek("ada").remaining
            5
        """
        cost = whole(cost, "cost", self.burst)
        hash_key = hash_key_of("limit", self._name, key)
        if self._decide is None:
            sort_key, left = self._window()
            used = int(self._table.get(hash_key, sort_key, timeout=timeout) or 0)
            return self._verdict(used + cost <= self.limit, self.limit - used, left)
        found = self._table.get(hash_key, self._sort_key, timeout=timeout)
        verdict = self._decide(cost)(found)[1]
        return Allowance(verdict.allowed, verdict.remaining + cost * verdict.allowed, verdict.retry_after)

    def reset(self, key: Key = b"all", *, timeout: float | None = None) -> None:
        """Forget the hits of a key.

        Args:
            key: As for ``hit``.
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: The records could not be removed.

        Retries: safe.
        Greenlets: any number may call at once. Hits that are made meanwhile may be forgotten, too.

        Example:
            >>> RateLimiter(table, "sms", limit=5, period=60).reset("ada")
        """
        self._table.del_range(hash_key_of("limit", self._name, key), timeout=timeout)

    # ------------------------------------------------------------------------------------------------------ algorithms
    def _window(self) -> tuple[bytes, float]:
        """Return the key of the current window's counter and the seconds until the next window."""
        now = time()
        number = int(now // self.period)
        return b"window:%d" % number, (number + 1) * self.period - now

    def _fixed(self, hash_key: bytes, cost: int, timeout: float | None) -> Allowance:
        sort_key, left = self._window()
        try:
            used = self._table.incr(hash_key, sort_key, cost, ttl=self._ttl, timeout=timeout)
        except PegasusError as error:
            if not is_doubtful(error):
                raise
            used = self._table.incr(hash_key, sort_key, cost, ttl=self._ttl, timeout=timeout)
        if used <= self.limit:
            return self._verdict(True, self.limit - used, left)
        if cost > 1 and used - cost < self.limit:
            # A smaller hit may still fit. If this request is lost, fewer hits are allowed, not more.
            used = self._table.incr(hash_key, sort_key, -cost, ttl=self._ttl, timeout=timeout)
        return self._verdict(False, self.limit - used, left)

    def _verdict(self, allowed: bool, remaining: float, wait: float) -> Allowance:  # noqa: FBT001 - private
        return Allowance(allowed, max(0, int(remaining)), 0.0 if allowed else max(0.0, wait))

    def _swap(self, hash_key: bytes, cost: int, timeout: float | None, decide: Callable[[int], _Decision]) -> Allowance:
        verdict: Allowance = self._turns.swap(
            self._table, hash_key, self._sort_key, decide(cost), ttl=self._ttl, timeout=timeout
        )
        return verdict

    def _sliding(self, cost: int) -> _Decision:
        def decide(found: bytes | None) -> tuple[bytes | None, Allowance]:
            now = time()
            number, before, here = _numbers(found, (0, 0, 0))
            present = int(now // self.period)
            if present > number:
                before, here = (here if present == number + 1 else 0), 0
                number = present
            passed = min(max(now - number * self.period, 0.0), self.period)
            used = before * (1 - passed / self.period) + here
            if used + cost <= self.limit:
                value = b"%d %d %d" % (number, before, here + cost)
                return value, self._verdict(True, self.limit - used - cost, 0.0)
            return None, self._verdict(False, self.limit - used, self._until_fits(before, here, passed, cost))

        return decide

    def _until_fits(self, before: int, here: int, passed: float, cost: int) -> float:
        """Return the seconds until a hit fits. The weight of a window's hits decreases during the window after it."""
        room = self.limit - cost
        if here <= room:  # when the weight of the previous window is low enough
            return self.period * (1 - (room - here) / before) - passed
        return self.period - passed + self.period * (1 - room / here)

    def _bucket(self, cost: int) -> _Decision:
        rate = self.limit / self.period

        def decide(found: bytes | None) -> tuple[bytes | None, Allowance]:
            now = time()
            tokens, at = _floats(found, (float(self.burst), now))
            now = max(now, at)
            tokens = min(self.burst, tokens + (now - at) * rate)
            if tokens >= cost:
                return b"%r %r" % (tokens - cost, now), self._verdict(True, tokens - cost, 0.0)
            return None, self._verdict(False, tokens, (cost - tokens) / rate)

        return decide


def _numbers(found: bytes | None, absent: tuple[int, int, int]) -> tuple[int, int, int]:
    if found is None:
        return absent
    number, before, here = map(int, found.split())
    return number, before, here


def _floats(found: bytes | None, absent: tuple[float, float]) -> tuple[float, float]:
    if found is None:
        return absent
    tokens, at = map(float, found.split())
    return tokens, at
