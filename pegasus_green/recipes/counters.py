"""Counter: a number that many callers increment at the same time."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from typing import Any

from ..client import Table
from ..errors import InvalidArgument
from ..keys import Key
from .records import hash_key_of, plain, whole

_SORT_KEY = b"count"


class Counter:
    """A counter in several records, so that the additions are spread over partitions.

    An addition is one ``Table.incr`` of a random shard. The value is the sum of all shards.

    Records: hash keys ``counter:NAME:000``, ``counter:NAME:001``, ..., sort key ``count``, decimal text.

    Args:
        table: Any table; its codec is not used.
        name: Name of the counter; bytes or str.
        shards: Number of records, 1 to 1,000. It may grow later. With a lower number than before, the value does not
            include the other shards.
        ttl: Seconds after the last addition to a shard until that shard expires; None: never.

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
        """Show the key of the first shard and the number of shards."""
        return f"<Counter {self._keys[0].decode('utf-8', 'replace')} shards={len(self._keys)}>"

    def incr(self, amount: int = 1, *, timeout: float | None = None) -> None:
        """Add to the counter. The sum is not returned, because it would take a request for each shard.

        Args:
            amount: The number to add; a negative number subtracts.
            timeout: Seconds; None: the client's default.

        Raises:
            RequestTimeout, ConnectionLost: If ``outcome_unknown`` is set, the amount may or may not have been added. If
                the caller tries again, the amount may count twice. If it does not, the amount may be lost.
            PegasusError: Any other failure; nothing was added.

        Retries: the client does not repeat the request if its outcome is unknown.
        Greenlets: any number may call at once. After a kill the amount may or may not have been added.

        Example:
            >>> Counter(table, "views:/index").incr()
        """
        self._table.incr(random.choice(self._keys), _SORT_KEY, amount, ttl=self._ttl, timeout=timeout)

    def decr(self, amount: int = 1, *, timeout: float | None = None) -> None:
        """Subtract from the counter; otherwise the same as ``incr``.

        Args:
            amount: The number to subtract.
            timeout: Seconds; None: the client's default.

        Example:
            >>> Counter(table, "views:/index").decr(2)
        """
        if not isinstance(amount, int):
            raise InvalidArgument(f"amount must be an integer, not {amount!r}")
        self.incr(-amount, timeout=timeout)

    def value(self, *, timeout: float | None = None) -> int:
        """Return the sum of all shards.

        Each shard is read by its own request. Additions that are made meanwhile may or may not be included.

        Args:
            timeout: Seconds for all shards; None: the client's default.

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
        with self._within(timeout):
            found = self._table.get_many([(key, _SORT_KEY) for key in self._keys], timeout=timeout)
        return sum(int(value) for value in found if value is not None)

    def reset(self, *, timeout: float | None = None) -> None:
        """Set the counter to 0. Additions that are made meanwhile may be lost.

        Args:
            timeout: Seconds for all shards; None: the client's default.

        Raises:
            PegasusError: A shard could not be removed.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> Counter(table, "votes").reset()
        """
        with self._within(timeout):
            self._table.remove_many([(key, _SORT_KEY) for key in self._keys], timeout=timeout)

    def _within(self, timeout: float | None) -> AbstractContextManager[None]:
        """Return a scope that ends the requests of all shards at the same time."""
        client = self._table.client
        return client.deadline(client._cluster.timeout if timeout is None else timeout)
