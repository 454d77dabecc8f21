"""The verbs for any number of records in bounded memory: streams, and truncate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from math import inf
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any, overload

from ..errors import InvalidArgument, PegasusError
from ..keys import Key
from ..model import Filter
from ..options import MAX_TIMEOUT
from ..results import V
from ..retry import RetryPolicy
from ..transport import fork
from ..transport.waits import wait
from .asynchronous import later
from .base import DEFAULT, ManyOptions, TableBase, listed
from .many import CONCURRENCY, ManyOperations
from .ranges import PAGE, RangeOperations

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Maximum number of records of a stream in memory.
BATCH = 10_000
# A stream with a rate limit sends in steps of this many seconds.
STEP = 0.1


class _Pace:
    """Limits the number of records per second."""

    def __init__(self, table: TableBase[Any], rate: float | None, batch: int) -> None:
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < inf):
            raise InvalidArgument(f"rate must be a number of records per second above 0, or None, not {rate!r}")
        self._table, self._rate = table, rate
        self._next = monotonic()
        # Compared first, because an int can be too large for a float.
        self.batch = batch if rate is None or rate >= batch / STEP else max(1, int(rate * STEP))

    def wait(self, records: int) -> None:
        """Wait until this many more records may be sent.

        A closed client and the end of ``client.deadline`` end the wait; the next request raises the error.

        Raises:
            ForkedConnection: The process forked meanwhile, and this is the child.
        """
        if self._rate is None:
            return
        now = monotonic()
        begin = max(self._next, now)
        self._next = begin + records / self._rate
        cluster, generation = self._table._dispatcher.cluster, fork.generation()
        until, ended = min(begin, cluster.deadline(MAX_TIMEOUT, now)), cluster.pool.ended
        while (left := until - monotonic()) > 0 and not ended.ready():
            wait(ended, left)
        fork.check(generation)


class StreamOperations(RangeOperations[V], ManyOperations[V]):
    """Operations on the records of an iterable or of the whole table."""

    __slots__ = ()

    @overload
    def set_stream(
        self,
        items: Iterable[tuple[Key, Key, V] | tuple[Key, Key, V, float | None]],
        *,
        ttl: float | None = None,
        rate: float | None = None,
        on_progress: Callable[[int], object] | None = None,
        **options: Unpack[ManyOptions],
    ) -> int: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def set_stream(
        self: StreamOperations[bytes],
        items: Iterable[tuple[Key, Key, Key] | tuple[Key, Key, Key, float | None]],
        *,
        ttl: float | None = None,
        rate: float | None = None,
        on_progress: Callable[[int], object] | None = None,
        **options: Unpack[ManyOptions],
    ) -> int: ...

    def set_stream(
        self,
        items: Iterable[tuple[Any, ...]],
        *,
        ttl: float | None = None,
        rate: float | None = None,
        on_progress: Callable[[int], object] | None = None,
        concurrency: int = CONCURRENCY,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> int:
        """Store the records of an iterable in batches of at most 10,000; a generator of millions takes little memory.

        Args:
            items: (hash key, sort key, value) or (hash key, sort key, value, ttl) of each record.
            ttl: As for ``set_many``.
            rate: Maximum number of records per second; None: no limit.
            on_progress: Called after each batch with the number of records stored so far.
            concurrency: Maximum number of requests in flight; by default 1,000.
            timeout: Seconds for each record with all attempts; None: the client's default.
            retry: Retry policy, by default the client's; None: no retry.

        Returns:
            The number of records stored.

        Raises:
            InvalidArgument: An item cannot be sent. The batches before it are stored.
            PegasusError: A record could not be stored. ``done`` is the number of items in the finished batches. Some
                items of the failed batch may be stored, too.

        Retries: safe, as for ``set``.
        Greenlets: the requests need no greenlets. A killed caller abandons its requests in flight.

        Example:
            >>> table.set_stream(("log:7", f"{n:06}", "a line", 3600) for n in range(2500))
            2500
        """

        def store(batch: list[Any]) -> object:
            return self.set_many(batch, ttl=ttl, concurrency=concurrency, timeout=timeout, retry=retry)

        return _run(listed(items, "items"), store, _Pace(self, rate, BATCH), on_progress)

    set_stream_async = later(
        '>>> table.set_stream_async([("user:1", "name", "Ada")]).get()',
        "1",
        writes=True,
    )(set_stream)

    def remove_stream(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        rate: float | None = None,
        on_progress: Callable[[int], object] | None = None,
        concurrency: int = CONCURRENCY,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> int:
        """Remove the records that an iterable names, in batches of at most 10,000. It is no error if one is absent.

        Args:
            keys: (hash key, sort key) of each record.
            rate: Maximum number of records per second; None: no limit.
            on_progress: Called after each batch with the number of records removed so far.
            concurrency: Maximum number of requests in flight; by default 1,000.
            timeout: Seconds for each record with all attempts; None: the client's default.
            retry: Retry policy, by default the client's; None: no retry.

        Returns:
            The number of keys.

        Raises:
            InvalidArgument: A key cannot be sent. The records of the batches before it are removed.
            PegasusError: As for ``set_stream``.

        Retries: safe, as for ``remove``.
        Greenlets: the requests need no greenlets. A killed caller abandons its requests in flight.

        Example:
            >>> table.remove_stream(("log:7", f"{n:06}") for n in range(2500))
            2500
        """

        def remove(batch: list[Any]) -> object:
            return self.remove_many(batch, concurrency=concurrency, timeout=timeout, retry=retry)

        return _run(listed(keys, "keys"), remove, _Pace(self, rate, BATCH), on_progress)

    remove_stream_async = later(
        '>>> table.remove_stream_async([("user:1", "name")]).get()',
        "1",
        writes=True,
    )(remove_stream)

    def get_stream(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        rate: float | None = None,
        concurrency: int = CONCURRENCY,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> Iterator[V | None]:
        """Iterate over the values of the records that an iterable names, in the order of the iterable.

        The iterator reads batches of at most 10,000 records.

        Args:
            keys: (hash key, sort key) of each record.
            rate: Maximum number of records per second; None: no limit.
            concurrency: Maximum number of requests in flight; by default 1,000.
            timeout: Seconds for each record with all attempts; None: the client's default.
            retry: Retry policy, by default the client's; None: no retry.

        Returns:
            An iterator of values; None for absent and expired records.

        Raises:
            InvalidArgument: An argument has a wrong type. Raised by ``next`` if a key cannot be sent.
            PegasusError: Raised by ``next`` if a record cannot be read.

        Retries: safe.
        Greenlets: an iterator is for one greenlet.

        Example:
            >>> table.set("user:1", "name", "Ada")
            >>> list(table.get_stream((f"user:{n}", "name") for n in (1, 2)))
            [b'Ada', None]
        """
        keys, pace = listed(keys, "keys"), _Pace(self, rate, BATCH)

        def values() -> Iterator[V | None]:
            for batch in _batches(keys, pace.batch):
                pace.wait(len(batch))
                yield from self.get_many(batch, concurrency=concurrency, timeout=timeout, retry=retry)

        return values()

    def truncate(
        self,
        *,
        hash_key_filter: Filter | None = None,
        sort_key_filter: Filter | None = None,
        rate: float | None = None,
        on_progress: Callable[[int, str], object] | None = None,
        parallel: int = 1,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        resume: str | None = None,
    ) -> int:
        """Remove all records of the table: scan their keys and remove them in batches. Not atomic.

        Records that are written meanwhile may or may not be removed. The table, its settings and routes stay, unlike
        after ``client.admin.drop_table``.

        Args:
            hash_key_filter: Only hash keys that match this filter.
            sort_key_filter: Only sort keys that match this filter.
            rate: Maximum number of records per second; None: no limit.
            on_progress: Called after each batch with the number of records removed so far and a token. A call with
                ``resume=token`` continues after these records, also in another process.
            parallel: Number of partitions that are read at the same time; by default 1.
            timeout: Seconds for each request, not for the whole call; ``client.deadline`` bounds the whole call. None:
                the client's default.
            retry: Retry policy of each request, by default the client's; None: no retry.
            resume: The token of an earlier call with the same filters: continue after the records that it removed.

        Returns:
            The number of records removed.

        Raises:
            InvalidArgument: An argument has a wrong type, or the token belongs to another table or other filters;
                nothing was sent.
            PegasusError: A request failed. ``deleted`` is the number of records in the finished batches. ``token`` is
                the newest token for ``resume`` (None: start from the beginning).

        Retries: safe, as for ``multi_del``.
        Greenlets: any number may call at once. After a kill, the rest of the table remains; the batches in flight may
            or may not have been removed.

        Example:
            >>> table.multi_set("user:1", {"name": "Ada", "mail": "a@b"})
            >>> table.truncate(hash_key_filter=Filter.prefix("user:1"))
            2
            >>> table.get("user:1", "name") is None
            True
        """
        pace = _Pace(self, rate, PAGE)
        rows = self.scan(
            hash_key_filter=hash_key_filter,
            sort_key_filter=sort_key_filter,
            no_value=True,
            batch_size=pace.batch,
            parallel=parallel,
            timeout=timeout,
            retry=retry,
            resume=resume,
        )
        deleted, token = 0, resume
        with rows:
            while True:
                try:
                    batch = [(row[0], row[1]) for row in islice(rows, pace.batch)]
                    if not batch:
                        return deleted
                    pace.wait(len(batch))
                    self.multi_del_many(self._groups(batch), timeout=timeout, retry=retry)
                    self.remove_many((key for key in batch if not key[0]), timeout=timeout, retry=retry)
                except PegasusError as error:
                    error.deleted, error.token = deleted, token
                    raise
                deleted += len(batch)
                token = rows.token()
                if on_progress is not None:
                    on_progress(deleted, token)

    def _groups(self, keys: list[tuple[bytes, bytes]]) -> list[tuple[bytes, list[bytes]]]:
        """Return (hash key, sort keys) of adjacent keys; each fits into one request. Empty hash keys are left out."""
        groups = []
        for hash_key, rows in groupby(keys, itemgetter(0)):
            if hash_key:
                sort_keys = [sort_key for _, sort_key in rows]
                groups += [(hash_key, sort_keys[begin:end]) for begin, end in self._removals(hash_key, sort_keys, True)]
        return groups

    truncate_async = later(
        '>>> table.set("user:1", "name", "Ada")',
        '>>> table.truncate_async(hash_key_filter=Filter.prefix("user:1")).get()',
        "1",
        writes=True,
    )(truncate)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut an iterable into lists of at most this many items."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def _run(
    items: Iterable[Any],
    run: Callable[[list[Any]], object],
    pace: _Pace,
    on_progress: Callable[[int], object] | None,
) -> int:
    """Call a function for each batch of an iterable, within the rate limit; return the number of items."""
    done = 0
    batches = _batches(items, pace.batch)
    while True:
        try:
            # The iterable may make calls, too.
            batch = next(batches, None)
            if batch is None:
                return done
            pace.wait(len(batch))
            run(batch)
        except PegasusError as error:
            error.done = done
            raise
        done += len(batch)
        if on_progress is not None:
            on_progress(done)
