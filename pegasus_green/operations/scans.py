"""Scans of one hash key and of the whole table, and the count of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from time import time
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from ..errors import InvalidArgument
from ..keys import Key, to_bytes
from ..model import NO_FILTER, Filter
from ..results import HashRow, HashRowWithTtl, Row, RowWithTtl, V
from ..retry import RetryPolicy
from ..scanner import MAX_BATCH, Parallel, Query, Scanner, Sequential, Start, Token, Work, decode
from .asynchronous import later
from .base import DEFAULT, EPOCH, TableBase, only_hash_key

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TableScanOptions(TypedDict, total=False):
    """More keywords of scans of the whole table, for the overloads that type checkers read."""

    hash_key_filter: Filter | None
    sort_key_filter: Filter | None
    batch_size: int
    timeout: float | None
    retry: RetryPolicy | None


class ScanOptions(TableScanOptions, total=False):
    """More keywords of ``scan``."""

    limit: int | None
    parallel: int
    resume: str | None
    partitions: Iterable[int] | None


class HashScanOptions(TypedDict, total=False):
    """More keywords of ``hash_scan``."""

    start_inclusive: bool
    stop_inclusive: bool
    prefix: Key | None
    filter: Filter | None
    limit: int | None
    batch_size: int
    timeout: float | None
    retry: RetryPolicy | None
    resume: str | None


class ScanOperations(TableBase[V]):
    """Iteration over records, and counting."""

    __slots__ = ()

    @overload
    def hash_scan(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        no_value: Literal[False] = False,
        with_ttl: Literal[False] = False,
        **options: Unpack[HashScanOptions],
    ) -> Scanner[HashRow[V]]: ...

    @overload
    def hash_scan(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        no_value: Literal[False] = False,
        with_ttl: Literal[True],
        **options: Unpack[HashScanOptions],
    ) -> Scanner[HashRowWithTtl[V]]: ...

    @overload
    def hash_scan(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        no_value: Literal[True],
        with_ttl: Literal[False] = False,
        **options: Unpack[HashScanOptions],
    ) -> Scanner[HashRow[bytes]]: ...

    @overload
    def hash_scan(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        no_value: Literal[True],
        with_ttl: Literal[True],
        **options: Unpack[HashScanOptions],
    ) -> Scanner[HashRowWithTtl[bytes]]: ...

    @overload
    def hash_scan(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        no_value: bool,
        with_ttl: Literal[False] = False,
        **options: Unpack[HashScanOptions],
    ) -> Scanner[HashRow[V | bytes]]: ...

    @overload
    def hash_scan(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        no_value: bool = False,
        with_ttl: bool,
        **options: Unpack[HashScanOptions],
    ) -> Scanner[HashRow[V | bytes] | HashRowWithTtl[V | bytes]]: ...

    def hash_scan(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        start_inclusive: bool = True,
        stop_inclusive: bool = False,
        prefix: Key | None = None,
        filter: Filter | None = None,  # noqa: A002
        no_value: bool = False,
        with_ttl: bool = False,
        limit: int | None = None,
        batch_size: int = MAX_BATCH,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        resume: str | None = None,
    ) -> Scanner[Any]:
        """Iterate over the records of one hash key, ascending by sort key.

        The first ``next`` sends the first request. The iterator is also a context manager. If the ``with`` block ends
        early or the iterator is dropped, the client tells the server to free the scan context, which is the server's
        memory of an open scan.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            start: First sort key; None or empty: from the beginning.
            stop: End of the range; None or empty: to the end of the hash key.
            start_inclusive: Whether the range includes start.
            stop_inclusive: Whether the range includes stop.
            prefix: Only sort keys that begin with this. The server reads no others.
            filter: Only sort keys that match this filter. The server also reads the other sort keys of the range, but
                does not send them. With a prefix filter it does not read them.
            no_value: Return ``b""`` instead of the values.
            with_ttl: Add the remaining time to live to each row, in seconds.
            limit: Maximum number of rows; None: all.
            batch_size: Rows in one reply, at most 1,000 (the default). The client asks for fewer if the rows are large
                or if it does not know their size yet.
            timeout: Seconds for one batch with its attempts; None: the client's default.
            retry: Retry policy of each batch, by default the client's; None: no retry.
            resume: The ``token()`` of an earlier scan of this hash key: continue after its last row. The token contains
                the range, the filters, no_value and with_ttl of that scan. So these arguments can be omitted; if they
                are given, they must be the same.

        Returns:
            A ``Scanner``: an iterator of named tuples ``HashRow(sort_key, value)``, or with ``with_ttl`` of
            ``HashRowWithTtl(sort_key, value, ttl)``. ``ttl`` is in whole seconds, ``math.inf`` if there is no expiry.

        Raises:
            InvalidArgument: An argument has a wrong type or size, the hash key is empty, or the token belongs to
                another scan.
            PegasusError: Raised by ``next`` if a batch cannot be read in time. Another ``next`` tries again.

        Retries: safe. After a failure the scan continues after the last row, so no row is lost or returned twice.
        Greenlets: several may take rows from one scanner; a killed greenlet affects no other.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
            >>> for sort_key, value in table.hash_scan("user:7", prefix="n"):
            ...     print(sort_key, value)
            b'name' b'Ada'
            b'nick' b'al'
        """
        query = Query(
            hash_key=only_hash_key(hash_key),
            start=b"" if start is None else to_bytes(start, "start"),
            stop=b"" if stop is None else to_bytes(stop, "stop"),
            start_inclusive=bool(start_inclusive),
            stop_inclusive=bool(stop_inclusive),
            prefix=b"" if prefix is None else to_bytes(prefix, "prefix"),
            sort_key_filter=_filter(filter, "filter"),
            no_value=bool(no_value),
            with_ttl=bool(with_ttl),
        )
        token = self._resumed(resume, query, Query(hash_key=query.hash_key))
        return self._scanner(token or Token(self.name, 0, query, None), limit, 1, batch_size, timeout, retry)

    @overload
    def scan(
        self,
        *,
        no_value: Literal[False] = False,
        with_ttl: Literal[False] = False,
        **options: Unpack[ScanOptions],
    ) -> Scanner[Row[V]]: ...

    @overload
    def scan(
        self,
        *,
        no_value: Literal[False] = False,
        with_ttl: Literal[True],
        **options: Unpack[ScanOptions],
    ) -> Scanner[RowWithTtl[V]]: ...

    @overload
    def scan(
        self,
        *,
        no_value: Literal[True],
        with_ttl: Literal[False] = False,
        **options: Unpack[ScanOptions],
    ) -> Scanner[Row[bytes]]: ...

    @overload
    def scan(
        self,
        *,
        no_value: Literal[True],
        with_ttl: Literal[True],
        **options: Unpack[ScanOptions],
    ) -> Scanner[RowWithTtl[bytes]]: ...

    @overload
    def scan(
        self,
        *,
        no_value: bool,
        with_ttl: Literal[False] = False,
        **options: Unpack[ScanOptions],
    ) -> Scanner[Row[V | bytes]]: ...

    @overload
    def scan(
        self,
        *,
        no_value: bool = False,
        with_ttl: bool,
        **options: Unpack[ScanOptions],
    ) -> Scanner[Row[V | bytes] | RowWithTtl[V | bytes]]: ...

    def scan(
        self,
        *,
        hash_key_filter: Filter | None = None,
        sort_key_filter: Filter | None = None,
        no_value: bool = False,
        with_ttl: bool = False,
        limit: int | None = None,
        batch_size: int = MAX_BATCH,
        parallel: int = 1,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        resume: str | None = None,
        partitions: Iterable[int] | None = None,
    ) -> Scanner[Any]:
        """Iterate over the records of the whole table.

        The client reads the partitions one after the other, by index, unless ``parallel`` is above 1. Within a
        partition, rows are ordered by the length of the hash key, then by its bytes, then by sort key. Without
        ``parallel``, the rows of a hash key follow one another, also if the table splits meanwhile. The empty hash key
        is an exception: its rows are in all partitions. The first ``next`` sends the first request.

        Args:
            hash_key_filter: Only hash keys that match this filter.
            sort_key_filter: Only sort keys that match this filter.
            no_value: Return ``b""`` instead of the values.
            with_ttl: Add the remaining time to live to each row, in seconds.
            limit: Maximum number of rows; None: all.
            batch_size: Rows in one reply, at most 1,000 (the default). The client asks for fewer if the rows are large
                or if it does not know their size yet.
            parallel: Number of partitions that are read at the same time, each by one greenlet; by default 1. Above 1,
                the batches of different partitions come in any order. Up to ``2 * parallel + 1`` batches are in memory.
            timeout: Seconds for one batch with its attempts; None: the client's default.
            retry: Retry policy of each batch, by default the client's; None: no retry.
            resume: The ``token()`` of an earlier scan of this table: continue after its last rows. The token contains
                the filters, no_value and with_ttl of that scan. So these arguments can be omitted; if they are given,
                they must be the same.
            partitions: Only these partitions, by index; None: all.

        Returns:
            A ``Scanner``: an iterator of named tuples ``Row(hash_key, sort_key, value)``, or with ``with_ttl`` of
            ``RowWithTtl(hash_key, sort_key, value, ttl)``. ``ttl`` is in whole seconds, ``math.inf`` if there is no
            expiry.

        Raises:
            InvalidArgument: An argument has a wrong type or size, or the token belongs to another scan. Raised by
                ``next`` if a partition does not exist.
            PegasusError: Raised by ``next`` if a batch cannot be read in time. Another ``next`` tries again.

        Retries: safe. After a failure the scan continues after the last row, so no row is lost or returned twice, also
            if the table splits meanwhile.
        Greenlets: several may take rows from one scanner; a killed greenlet affects no other.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> for hash_key, sort_key, value in table.scan(hash_key_filter=Filter.prefix("user:7"), parallel=4):
            ...     print(hash_key, sort_key, value)
            b'user:7' b'name' b'Ada'
        """
        query = _table_query(hash_key_filter, sort_key_filter, no_value=no_value, with_ttl=with_ttl)
        token = self._resumed(resume, query, Query())
        if token is not None and partitions is not None:
            raise InvalidArgument("resume and partitions cannot be combined: the token contains the partitions")
        fresh = Token(self.name, 0, query, None, _indices(partitions))
        return self._scanner(token or fresh, limit, parallel, batch_size, timeout, retry)

    @overload
    def scanners(
        self,
        n: int,
        *,
        no_value: Literal[False] = False,
        with_ttl: Literal[False] = False,
        **options: Unpack[TableScanOptions],
    ) -> list[Scanner[Row[V]]]: ...

    @overload
    def scanners(
        self,
        n: int,
        *,
        no_value: Literal[False] = False,
        with_ttl: Literal[True],
        **options: Unpack[TableScanOptions],
    ) -> list[Scanner[RowWithTtl[V]]]: ...

    @overload
    def scanners(
        self,
        n: int,
        *,
        no_value: Literal[True],
        with_ttl: Literal[False] = False,
        **options: Unpack[TableScanOptions],
    ) -> list[Scanner[Row[bytes]]]: ...

    @overload
    def scanners(
        self,
        n: int,
        *,
        no_value: Literal[True],
        with_ttl: Literal[True],
        **options: Unpack[TableScanOptions],
    ) -> list[Scanner[RowWithTtl[bytes]]]: ...

    @overload
    def scanners(
        self,
        n: int,
        *,
        no_value: bool,
        with_ttl: Literal[False] = False,
        **options: Unpack[TableScanOptions],
    ) -> list[Scanner[Row[V | bytes]]]: ...

    @overload
    def scanners(
        self,
        n: int,
        *,
        no_value: bool = False,
        with_ttl: bool,
        **options: Unpack[TableScanOptions],
    ) -> list[Scanner[Row[V | bytes] | RowWithTtl[V | bytes]]]: ...

    def scanners(
        self,
        n: int,
        *,
        hash_key_filter: Filter | None = None,
        sort_key_filter: Filter | None = None,
        no_value: bool = False,
        with_ttl: bool = False,
        batch_size: int = MAX_BATCH,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> list[Scanner[Any]]:
        """Divide the table among several scanners, one for each greenlet or process. It waits for the routes.

        Args:
            n: Maximum number of scanners; the result has at most one for each partition.
            hash_key_filter: Only hash keys that match this filter.
            sort_key_filter: Only sort keys that match this filter.
            no_value: Return ``b""`` instead of the values.
            with_ttl: Add the remaining time to live to each row, in seconds.
            batch_size: Rows in one reply, at most 1,000 (the default).
            timeout: Seconds for one batch with its attempts, and for the routes; None: the client's default.
            retry: Retry policy of each batch, by default the client's; None: no retry.

        Returns:
            Scanners like those of ``scan``. Together they return every row once. Another process can continue a
            scanner: it passes the scanner's ``token()`` to ``scan(resume=...)``.

        Raises:
            InvalidArgument: n is below 1, or an argument has a wrong type.
            TableNotFound: The meta servers do not know the table.
            PegasusError: The client cannot get the routes.

        Retries: safe, as for ``scan``.
        Greenlets: one or several may use each scanner.

        Example:
            >>> import gevent
            >>> table.set("user:1", "name", "Ada"), table.set("user:2", "name", "Grace")
            (None, None)
            >>> scanners = table.scanners(4, hash_key_filter=Filter.prefix("user:"))
            >>> jobs = [gevent.spawn(list, scanner) for scanner in scanners]
            >>> sorted(row.value for job in gevent.joinall(jobs) for row in job.get())
            [b'Ada', b'Grace']
        """
        n = _whole(n, "n")
        query = _table_query(hash_key_filter, sort_key_filter, no_value=no_value, with_ttl=with_ttl)
        fresh = Token(self.name, 0, query, None)
        number = min(n, len(self._work(fresh, batch_size, timeout, retry).plan()))
        start = Start()
        scanners = [
            self._scanner(fresh, None, 1, batch_size, timeout, retry, (start, first, number)) for first in range(number)
        ]
        for scanner in scanners:
            # Now, because the token of a scanner has to contain its share.
            scanner._work.plan()
        return scanners

    def count(
        self,
        *,
        hash_key_filter: Filter | None = None,
        sort_key_filter: Filter | None = None,
        parallel: int = 1,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        partitions: Iterable[int] | None = None,
    ) -> int:
        """Return the number of records in the whole table that are not expired. The servers count them.

        Servers before 2.5 cannot count, so they send the keys, and the client counts them. The same happens if the
        table was split, or if the client cannot rule out a split: after a split, the servers count some rows twice for
        a while.

        Args:
            hash_key_filter: Only hash keys that match this filter.
            sort_key_filter: Only sort keys that match this filter.
            parallel: Number of partitions that are counted at the same time; by default 1.
            timeout: Seconds for each request with its attempts; a request counts up to 1,000 records. None: the
                client's default. ``client.deadline`` bounds the whole call.
            retry: Retry policy of each request, by default the client's; None: no retry.
            partitions: Only these partitions, by index; None: all.

        Raises:
            InvalidArgument: An argument has a wrong type, or a partition does not exist.
            PegasusError: A partition cannot be counted.

        Retries: safe. If a server loses the count of a partition, the client starts it again. After the second loss the
            client reads and counts the keys, because a scan of keys can continue after the last key.
        Greenlets: a killed caller affects no other call.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            >>> table.count(hash_key_filter=Filter.prefix("user:7"))
            2
        """
        found = self._counts(
            hash_key_filter=hash_key_filter,
            sort_key_filter=sort_key_filter,
            parallel=parallel,
            timeout=timeout,
            retry=retry,
            partitions=partitions,
        )
        return sum(found.values())

    count_async = later(
        '>>> table.set("user:7", "name", "Ada")',
        '>>> table.count_async(hash_key_filter=Filter.prefix("user:7")).get()',
        "1",
    )(count)

    # ---------------------------------------------------------------------------------------------------- internal
    def _resumed(self, text: str | None, query: Query, plain: Query) -> Token | None:
        """Return a token that fits the arguments of the call. An equal query or a default query fits."""
        if text is None:
            return None
        token = decode(text)
        if token.table != self.name:
            raise InvalidArgument(f"the token belongs to table {token.table!r}, not to {self.name!r}")
        if token.query.hash_key != query.hash_key:
            raise InvalidArgument(
                "the token belongs to another hash key, or scan() got a token of hash_scan(),"
                " or hash_scan() got a token of scan()"
            )
        if query not in (plain, token.query):
            names = [field.name for field in fields(query)]
            pairs = ((name, getattr(token.query, name), getattr(query, name)) for name in names)
            others = [f"its {name} is {old!r}, not {new!r}" for name, old, new in pairs if old != new]
            raise InvalidArgument(f"the token belongs to a scan with other arguments: {', '.join(others)}")
        return token

    def _counts(
        self,
        *,
        hash_key_filter: Filter | None,
        sort_key_filter: Filter | None,
        parallel: int,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        partitions: Iterable[int] | None,
    ) -> dict[int, int]:
        """Return the numbers of rows by partition.

        If a split finishes meanwhile, the child is added, also if only its parent was chosen. The rows that were
        counted before that are in the number of the parent.
        """
        query = _table_query(hash_key_filter, sort_key_filter, no_value=True, count_only=True)
        width = _whole(parallel, "parallel")
        work = self._work(Token(self.name, 0, query, None, _indices(partitions)), MAX_BATCH, timeout, retry)
        source = Sequential(work) if width == 1 else Parallel(work, width)
        found: dict[int, int] = {}
        batch = None
        try:
            while (batch := source.next(batch)) is not None:
                if batch.final:
                    index, _ = batch.key
                    found[index] = batch.counted
        finally:
            work.release_now()
        return found

    def _work(
        self,
        token: Token,
        batch_size: int,
        timeout: float | None,
        retry: RetryPolicy | None,
        share: tuple[Start, int, int] | None = None,
    ) -> Work:
        return Work(
            self._dispatcher,
            token.query,
            batch_size=_whole(batch_size, "batch_size"),
            timeout=timeout,
            retry=retry,
            parts=token.parts,
            only=token.only,
            app_id=token.app_id,
            share=share,
        )

    def _scanner(
        self,
        token: Token,
        limit: int | None,
        parallel: int,
        batch_size: int,
        timeout: float | None,
        retry: RetryPolicy | None,
        share: tuple[Start, int, int] | None = None,
    ) -> Scanner[Any]:
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise InvalidArgument(f"limit must be a whole number of rows or None, not {limit!r}")
        rows = min(_whole(batch_size, "batch_size"), limit or MAX_BATCH)
        work = self._work(token, rows, timeout, retry, share)
        return Scanner(work, parallel=_whole(parallel, "parallel"), limit=limit, shape=self._shape(token.query))

    def _shape(self, query: Query) -> Any:
        """Return the tuple class of the rows, or a function that converts a row of a server."""
        whole_table, with_ttl = query.hash_key is None, query.with_ttl
        kind: Any
        if with_ttl:
            kind = RowWithTtl if whole_table else HashRowWithTtl
        else:
            kind = Row if whole_table else HashRow
        decode_value = None if self.codec is None or query.no_value else self.codec.decode
        if decode_value is None and not with_ttl:
            return kind
        at = 2 if whole_table else 1

        def shape(row: tuple[Any, ...]) -> tuple[Any, ...]:
            value = row[at] if decode_value is None else decode_value(row[at])
            rest = (value, _seconds_left(row[at + 1])) if with_ttl else (value,)
            return tuple.__new__(kind, (*row[:at], *rest))

        return shape


def with_expiry(scanner: Scanner[Any]) -> Scanner[tuple[Any, ...]]:
    """Make a scanner with ``with_ttl`` return the stored expiry: seconds since EPOCH, 0 for none."""
    scanner._shape = tuple  # no row has been read yet
    return scanner


def _seconds_left(expire_ts: int) -> float:
    # Servers compare unsigned numbers. A row that the server sent is not expired, so it has at least 1 s left.
    return max((expire_ts & 0xFFFFFFFF) + EPOCH - int(time()), 1) if expire_ts else math.inf


def _filter(wanted: Filter | None, name: str) -> Filter:
    if wanted is None:
        return NO_FILTER
    if not isinstance(wanted, Filter):
        raise InvalidArgument(f"{name} must be a Filter, for example Filter.postfix(b'x'), not {wanted!r}")
    # An empty pattern is the same as no filter.
    return wanted if wanted.type and wanted.pattern else NO_FILTER


def _table_query(
    hash_key_filter: Filter | None,
    sort_key_filter: Filter | None,
    *,
    no_value: bool = False,
    with_ttl: bool = False,
    count_only: bool = False,
) -> Query:
    return Query(
        hash_key_filter=_filter(hash_key_filter, "hash_key_filter"),
        sort_key_filter=_filter(sort_key_filter, "sort_key_filter"),
        no_value=bool(no_value),
        with_ttl=bool(with_ttl),
        count_only=count_only,
    )


def _whole(value: int, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidArgument(f"{name} must be a whole number above 0, not {value!r}")
    return value


def _indices(partitions: Iterable[int] | None) -> tuple[int, ...] | None:
    if partitions is None:
        return None
    found = tuple(partitions)
    if any(not isinstance(index, int) or isinstance(index, bool) for index in found):
        raise InvalidArgument(f"partitions must be whole numbers, not {found!r}")
    return found
