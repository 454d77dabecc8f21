"""The verbs that read or remove a whole range of one hash key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, starmap
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from ..errors import Incomplete, InvalidArgument, PegasusError
from ..keys import Key, to_bytes
from ..model import Filter
from ..protocol.rpc import MULTI_GET
from ..results import HashRow, V
from ..retry import RetryPolicy
from .asynchronous import later
from .base import DEFAULT, only_hash_key
from .multi import MultiOperations, key_filter
from .scans import ScanOperations

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Maximum number of rows that the server returns or reads for one reply.
PAGE = 1000


def _page(batch_size: int) -> int:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InvalidArgument(f"batch_size must be a whole number above 0, not {batch_size!r}")
    return batch_size


class IterOptions(TypedDict, total=False):
    """More keywords of multi_get_iter, for the overloads that type checkers read."""

    start_inclusive: bool
    stop_inclusive: bool
    prefix: Key | None
    filter: Filter | None
    reverse: bool
    batch_size: int
    timeout: float | None
    retry: RetryPolicy | None


class RangeOperations(MultiOperations[V], ScanOperations[V]):
    """Operations on ranges of one hash key."""

    __slots__ = ()

    @overload
    def multi_get_iter(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        no_value: Literal[False] = False,
        **options: Unpack[IterOptions],
    ) -> Iterator[HashRow[V]]: ...

    @overload
    def multi_get_iter(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        no_value: Literal[True],
        **options: Unpack[IterOptions],
    ) -> Iterator[HashRow[bytes]]: ...

    @overload
    def multi_get_iter(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        no_value: bool,
        **options: Unpack[IterOptions],
    ) -> Iterator[HashRow[V | bytes]]: ...

    def multi_get_iter(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        start_inclusive: bool = True,
        stop_inclusive: bool = False,
        prefix: Key | None = None,
        filter: Filter | None = None,  # noqa: A002
        reverse: bool = False,
        no_value: bool = False,
        batch_size: int = PAGE,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> Iterator[HashRow[Any]]:
        """Iterate over all records of a range, page by page, from its beginning or from its end.

        Forward, it is the same as ``hash_scan``. Servers cannot scan in reverse. So in reverse each page is a reverse
        ``multi_get`` of the sort keys that are smaller than those of the previous page. Rows that are written meanwhile
        may or may not appear.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            start: First sort key of the range; None or empty: from the beginning.
            stop: End of the range; None or empty: to the end of the hash key.
            start_inclusive: Whether the range includes start.
            stop_inclusive: Whether the range includes stop.
            prefix: Only sort keys that begin with this.
            filter: Only sort keys that match this filter.
            reverse: Iterate from the end of the range to its beginning.
            no_value: Return ``b""`` instead of the values.
            batch_size: Rows of one page, by default 1,000; at most 1,000 forward and 3,000 in reverse. Larger pages are
                not faster.
            timeout: Seconds for each page with its attempts; None: the client's default.
            retry: Retry policy of each page, by default the client's; None: no retry.

        Returns:
            An iterator of rows (sort_key, value), the same as those of ``hash_scan``.

        Raises:
            InvalidArgument: An argument has a wrong type or size; nothing was sent.
            Incomplete: In reverse, the server found only expired or filtered rows before it reached its limit. So the
                client does not know where to continue. ``last_key`` is the sort key of the last returned row.
            PegasusError: A page could not be read.

        Retries: safe.
        Greenlets: an iterator is for one greenlet. A killed greenlet affects no other call.

        Example:
            >>> table.multi_set("log:7", {"2026-11-01": "a", "2026-11-02": "b", "2026-11-03": "c"})
            >>> rows = table.multi_get_iter("log:7", reverse=True)
            >>> next(rows)
            HashRow(sort_key=b'2026-11-03', value=b'c')
        """
        if not reverse:
            return self.hash_scan(
                hash_key,
                start=start,
                stop=stop,
                start_inclusive=start_inclusive,
                stop_inclusive=stop_inclusive,
                prefix=prefix,
                filter=filter,
                no_value=no_value,
                batch_size=_page(batch_size),
                timeout=timeout,
                retry=retry,
            )
        # Wrong arguments raise here, not at the first row.
        key_filter(filter)
        selection = {
            "start": b"" if start is None else to_bytes(start, "start"),
            "start_inclusive": start_inclusive,
            "prefix": None if prefix is None else to_bytes(prefix, "prefix"),
            "filter": filter,
            "no_value": no_value,
            "max_count": _page(batch_size),
            "timeout": timeout,
            "retry": retry,
        }
        end = b"" if stop is None else to_bytes(stop, "stop")
        return self._reversed(only_hash_key(hash_key), end, selection, stop_inclusive=stop_inclusive)

    def _reversed(
        self, hash_key: bytes, stop: bytes, selection: dict[str, Any], *, stop_inclusive: bool
    ) -> Iterator[HashRow[Any]]:
        last_key: bytes | None = None
        while True:
            page = self.multi_get(hash_key, reverse=True, stop=stop, stop_inclusive=stop_inclusive, **selection)
            yield from starmap(HashRow, reversed(page.items()))
            if page.complete:
                return
            if page.last_key is None:
                text = "the server stopped at its limit without a row, so the position is unknown"
                raise self._complete(Incomplete(text, last_key=last_key), MULTI_GET)
            last_key = stop = page.last_key
            stop_inclusive = False
            if stop == selection["start"]:
                # There is no smaller key, and an empty stop would mean "to the end".
                return

    def del_range(
        self,
        hash_key: Key,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        start_inclusive: bool = True,
        stop_inclusive: bool = False,
        prefix: Key | None = None,
        filter: Filter | None = None,  # noqa: A002
        on_progress: Callable[[int, bytes], object] | None = None,
        batch_size: int = PAGE,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> int:
        """Remove all records of a range: scan their sort keys and remove them in batches. Not atomic.

        Rows that are written meanwhile may or may not be removed. After an error, repeat the call, or continue with
        ``start=error.last_key`` if that is not None.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            start: First sort key of the range; None or empty: from the beginning.
            stop: End of the range; None or empty: to the end of the hash key.
            start_inclusive: Whether the range includes start.
            stop_inclusive: Whether the range includes stop.
            prefix: Only sort keys that begin with this.
            filter: Only sort keys that match this filter.
            on_progress: Called after each batch with the number of rows removed so far and the last removed sort key.
            batch_size: Maximum number of rows in one batch, by default 1,000. The server removes a batch in one atomic
                step if the request fits into ``max_write_bytes``.
            timeout: Seconds for each request, not for the whole call; ``client.deadline`` bounds the whole call. None:
                the client's default.
            retry: Retry policy of each request, by default the client's; None: no retry.

        Returns:
            The number of rows removed.

        Raises:
            InvalidArgument: An argument has a wrong type or size; nothing was sent.
            PegasusError: A request failed. ``deleted`` is the number of rows removed before the error. ``last_key`` is
                the last removed sort key (None: no row was removed). If ``outcome_unknown`` is set, more rows may have
                been removed.

        Retries: safe, as for ``multi_del``.
        Greenlets: any number may call at once. After a kill, the rest of the range remains; the batch in flight may
            or may not have been removed.

        Example:
            >>> table.multi_set("log:7", {"2026-11-01": "a", "2026-11-02": "b", "2026-12-01": "c"})
            >>> table.del_range("log:7", prefix="2026-11-")
            2
        """
        size = _page(batch_size)
        rows = self.hash_scan(
            hash_key,
            start=start,
            stop=stop,
            start_inclusive=start_inclusive,
            stop_inclusive=stop_inclusive,
            prefix=prefix,
            filter=filter,
            no_value=True,
            batch_size=min(size, PAGE),
            timeout=timeout,
            retry=retry,
        )
        deleted, last_key, keys = 0, None, list[bytes]()
        with rows:
            while True:
                try:
                    keys = [key for key, _ in islice(rows, size)]
                    if not keys:
                        return deleted
                    deleted += self.multi_del(hash_key, keys, split=True, timeout=timeout, retry=retry)
                except PegasusError as error:
                    done = error.done
                    error.deleted = deleted + done
                    error.last_key = keys[done - 1] if done else last_key
                    raise
                last_key = keys[-1]
                if on_progress is not None:
                    on_progress(deleted, last_key)

    del_range_async = later(
        '>>> table.multi_set("log:7", {"2026-11-01": "a", "2026-12-01": "b"})',
        '>>> table.del_range_async("log:7", prefix="2026-11-").get()',
        "1",
        writes=True,
    )(del_range)
