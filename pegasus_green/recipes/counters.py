"""Counter: a number that many callers add to at the same time."""

from __future__ import annotations

import random
from typing import Any

from ..client import Table
from ..errors import InvalidArgument
from ..keys import Key
from .records import hash_key_of, plain, whole

_SORT_KEY = b"count"


class Counter:
    """A counter in several records, so that no single partition has to take all additions.

    An addition is one ``incr`` of a shard chosen at random; the value is the sum of all shards.

    Records: hash keys ``counter:NAME:000``, ``counter:NAME:001``, ..., sort key ``count``, decimal text.

    Args:
        table: Any table; its codec is not used.
        name: What is counted; bytes or str.
        shards: Records, 1 to 1,000. It may grow later; with fewer, what the others hold is missing.
        ttl: Seconds after the last addition to a shard when that shard expires; None: never.

    Example:
        >>> views = Counter(table, "views:/index", shards=8)
        >>> views.reset()
        >>> views.incr(), views.incr(10)
        (None, None)
        >>> views.value()
        11
    """

    def __init__(self, table: Table[Any], name: Key, *, shards: int = 16, ttl: float | None = None) -> None:
        self._table = plain(table)
        self._keys = [hash_key_of("counter", name, f"{shard:03}") for shard in range(whole(shards, "shards", 1000))]
        self._ttl = ttl

    def __repr__(self) -> str:
        """Show the first shard's key and how many there are."""
        return f"<Counter {self._keys[0].decode('utf-8', 'replace')} shards={len(self._keys)}>"

    def incr(self, amount: int = 1, *, timeout: float | None = None) -> None:
        """Add to it. The sum is not returned: it would take a request for each shard.

        Args:
            amount: What to add; negative to take away.
            timeout: Seconds; None: the client's default.

        Raises:
            RequestTimeout, ConnectionLost: Where ``outcome_unknown`` is set, it may have been added or not: a caller
                that tries again may count twice, one that does not may count too little.
            PegasusError: Any other failure; nothing was added.

        Retries: not repeated once its outcome is unknown.
        Greenlets: any number may call at once; after a kill it may have been added or not.

        Example:
            >>> Counter(table, "views:/index").incr()
        """
        self._table.incr(random.choice(self._keys), _SORT_KEY, amount, ttl=self._ttl, timeout=timeout)

    def decr(self, amount: int = 1, *, timeout: float | None = None) -> None:
        """Take away from it; otherwise like ``incr``.

        Example:
            >>> Counter(table, "views:/index").decr(2)
        """
        if not isinstance(amount, int):
            raise InvalidArgument(f"amount must be an integer, not {amount!r}")
        self.incr(-amount, timeout=timeout)

    def value(self, *, timeout: float | None = None) -> int:
        """Return the sum of all shards.

        They are read one after another: additions made meanwhile may be in it or not.

        Args:
            timeout: Seconds for all of them; None: the client's default.

        Raises:
            PegasusError: A shard could not be read.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> counter = Counter(table, "votes")
            >>> counter.reset()
            >>> counter.value()
            0
        """
        found = self._table.get_many([(key, _SORT_KEY) for key in self._keys], timeout=timeout)
        return sum(int(value) for value in found if value is not None)

    def reset(self, *, timeout: float | None = None) -> None:
        """Begin at 0 again. Additions made meanwhile may be lost.

        Args:
            timeout: Seconds for all shards; None: the client's default.

        Raises:
            PegasusError: A shard could not be removed.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> Counter(table, "votes").reset()
        """
        self._table.remove_many([(key, _SORT_KEY) for key in self._keys], timeout=timeout)
