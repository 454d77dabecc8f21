"""RateLimiter: at most so many hits in so many seconds, for all processes together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Any

from ..client import Table
from ..errors import InvalidArgument, PegasusError
from ..keys import Key, to_bytes
from .records import Turns, above_zero, hash_key_of, plain, swap, whole


@dataclass(frozen=True)
class Allowance:
    """What a limiter says of a hit; true when it is allowed.

    Attributes:
        allowed: Whether the hit is within the limit.
        remaining: How many more hits (of cost 1) would be allowed now.
        retry_after: Seconds after which this hit would be allowed if nobody else hits; 0.0 when it is allowed.
    """

    allowed: bool
    remaining: int
    retry_after: float

    def __bool__(self) -> bool:
        """Tell whether the hit is allowed."""
        return self.allowed


_Decision = Callable[["bytes | None"], "tuple[bytes | None, Allowance]"]


class RateLimiter:
    """Allows at most ``limit`` hits in ``period`` seconds for each key.

    Three algorithms:

    - ``fixed_window``: time is cut into windows of ``period`` seconds; each has a counter. One ``incr`` for each hit,
      which never fails because of other callers: the cheapest. Around the end of a window up to twice the limit passes
      within ``period`` seconds. Denied hits with a cost of 1 count, too.
    - ``sliding_window``: counts the hits of this window, and a share of the hits of the window before, namely the share
      of that window that lies within the last ``period`` seconds. Denied hits do not count.
    - ``token_bucket``: a bucket of ``burst`` tokens that fills up with ``limit`` tokens in ``period`` seconds; a hit
      takes tokens out. Denied hits do not count.

    The last two read a record and replace it in one step if it has not changed (``check_and_set``); callers of one
    process take turns at a key, callers of several may have to repeat it.

    A hit whose reply was lost counts as a hit, and the limiter counts it once more. It may use up two of the limit, and
    the limit is never exceeded.

    Time is this machine's clock. If the clocks of two machines differ by d seconds, their fixed windows are shifted by
    d. In the other algorithms a machine whose clock is behind takes the newest time that the record holds.

    Records: hash key ``limit:NAME:KEY``; sort key ``window:NUMBER`` (a count), ``sliding`` (number of the window, hits
    before, hits in it) or ``bucket`` (tokens, unix time). They expire when they no longer matter.

    Args:
        table: Any table; its codec is not used.
        name: Of this limit; bytes or str.
        limit: Hits, 1 to 1,000,000,000.
        period: Seconds.
        algorithm: ``fixed_window``, ``sliding_window`` or ``token_bucket``.
        burst: Size of the bucket; None: ``limit``. Only for ``token_bucket``.

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
            raise InvalidArgument("burst is for token_bucket only")
        self.burst = self.limit if burst is None else whole(burst, "burst", 10**9)
        self._decide = deciders[algorithm]
        self._sort_key = {"sliding_window": b"sliding", "token_bucket": b"bucket"}.get(algorithm, b"")
        filled = self.burst * self.period / self.limit
        # The wire counts whole seconds, so one more is room for that, and one for a small difference of clocks.
        self._ttl = (filled if algorithm == "token_bucket" else 2 * self.period) + 2
        self._turns = Turns()

    def __repr__(self) -> str:
        """Show the limit."""
        name = self._name.decode("utf-8", "replace")
        return f"<RateLimiter {name} {self.algorithm} {self.limit} in {self.period:g} s>"

    def hit(self, key: Key = b"all", *, cost: int = 1, timeout: float | None = None) -> Allowance:
        """Count a hit and tell whether it is allowed.

        Args:
            key: Whose hit; bytes or str.
            cost: How much of the limit it takes; at most the limit (of a bucket: its size).
            timeout: Seconds for all requests; None: the client's default for each.

        Raises:
            InvalidArgument: A cost that can never be allowed, or an argument of a wrong type.
            PegasusError: It could not be counted. Whether to let the hit pass then is the caller's decision.

        Retries: once more when a reply was lost; the hit may then count twice.
        Greenlets: any number may call at once; after a kill the hit may count or not.

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
        """Tell whether a hit would be allowed, and count nothing.

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
            timeout: Seconds; None: the client's default.

        Raises:
            PegasusError: The records could not be removed.

        Retries: safe.
        Greenlets: any number may call at once; hits made meanwhile may be forgotten, too.

        Example:
            >>> RateLimiter(table, "sms", limit=5, period=60).reset("ada")
        """
        self._table.del_range(hash_key_of("limit", self._name, key), timeout=timeout)

    # ------------------------------------------------------------------------------------------------------ algorithms
    def _window(self) -> tuple[bytes, float]:
        """Return the counter of the present window and the seconds until the next one."""
        now = time()
        number = int(now // self.period)
        return b"window:%d" % number, (number + 1) * self.period - now

    def _fixed(self, hash_key: bytes, cost: int, timeout: float | None) -> Allowance:
        sort_key, left = self._window()
        try:
            used = self._table.incr(hash_key, sort_key, cost, ttl=self._ttl, timeout=timeout)
        except PegasusError as error:
            if not error.outcome_unknown:
                raise
            used = self._table.incr(hash_key, sort_key, cost, ttl=self._ttl, timeout=timeout)
        if used <= self.limit:
            return self._verdict(True, self.limit - used, left)
        if cost > 1 and used - cost < self.limit:
            # A smaller hit may still fit. Should this be lost, fewer hits are allowed, not more.
            used = self._table.incr(hash_key, sort_key, -cost, ttl=self._ttl, timeout=timeout)
        return self._verdict(False, self.limit - used, left)

    def _verdict(self, allowed: bool, remaining: float, wait: float) -> Allowance:  # noqa: FBT001 - private
        return Allowance(allowed, max(0, int(remaining)), 0.0 if allowed else max(0.0, wait))

    def _swap(self, hash_key: bytes, cost: int, timeout: float | None, decide: Callable[[int], _Decision]) -> Allowance:
        with self._turns.of(hash_key):
            result: Any = swap(self._table, hash_key, self._sort_key, decide(cost), ttl=self._ttl, timeout=timeout)
        verdict: Allowance = result
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
        """Return the seconds until a hit fits, while the hits of a window fade during the one after it."""
        room = self.limit - cost
        if here <= room:  # as soon as enough of the window before has faded
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
