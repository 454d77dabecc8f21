"""The verbs that go through a whole range of one hash key, however long it is, and the mapping over a hash key."""

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

# Rows that the server hands out, or looks at, in one reply.
PAGE = 1000


def _page(batch_size: int) -> int:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InvalidArgument(f"batch_size must be a whole number above 0, not {batch_size!r}")
    return batch_size


class IterOptions(TypedDict, total=False):
    """What multi_get_iter takes besides, for the overloads that checkers read."""

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
        """Iterate over all records of a range, from its beginning or from its end, page by page.

        Forward, it is ``hash_scan``. In reverse, each page is a ``multi_get`` that ends before the last row of the page
        before, because servers do not scan in reverse. Rows that are written meanwhile may or may not appear.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            start: First sort key of the range; None or empty: from the beginning.
            stop: End of the range; None or empty: to the end of the hash key.
            start_inclusive: Whether start itself belongs to the range.
            stop_inclusive: Whether stop itself does.
            prefix: Only sort keys that begin with this.
            filter: Only sort keys that pass this filter.
            reverse: Descend from the end of the range.
            no_value: Omit the values: they are ``b""``.
            batch_size: Rows of one page; more than 1,000 have no advantage, and the server returns 3,000 at most.
            timeout: Seconds for each page with its attempts; None: the client's default.
            retry: Retry policy of each page; None never repeats.

        Returns:
            An iterator of rows (sort_key, value), as ``hash_scan`` gives them.

        Raises:
            InvalidArgument: An argument of a wrong type or size; nothing was sent.
            Incomplete: In reverse, if a page has no row because the server read only expired rows and rows that the
                filter omits: the position is then unknown. ``last_key`` is the key of the last row.
            PegasusError: A page could not be read.

        Retries: safe.
        Greenlets: an iterator is for one greenlet; a killed one harms no other call.

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
        # What can be wrong is told now, not when the first row is asked for.
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
                text = "the server stopped without a row and does not say how far it came"
                raise self._complete(Incomplete(text, last_key=last_key), MULTI_GET)
            last_key = stop = page.last_key
            stop_inclusive = False
            if stop == selection["start"]:
                # Nothing is before it, and an empty one would mean "to the end" again.
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
        """Remove all records of a range: scan their sort keys, remove them batch by batch. Not atomic.

        Rows that are written while it runs may or may not be removed. After an error, call it again, or continue with
        ``start=error.last_key``.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            start: First sort key of the range; None or empty: from the beginning.
            stop: End of the range; None or empty: to the end of the hash key.
            start_inclusive: Whether start itself belongs to the range.
            stop_inclusive: Whether stop itself does.
            prefix: Only sort keys that begin with this.
            filter: Only sort keys that pass this filter.
            on_progress: Called after each batch with the number of rows removed so far and the last one's sort key.
            batch_size: Rows that are removed at a time; readers see each batch disappear as one.
            timeout: Seconds for each request, not for all of it: ``client.deadline`` bounds that. None: the client's
                default.
            retry: Retry policy of each request; None never repeats.

        Returns:
            The number of rows removed.

        Raises:
            InvalidArgument: An argument of a wrong type or size; nothing was sent.
            PegasusError: A request failed. Its attributes tell what was done before: ``deleted`` rows, up to
                ``last_key`` (None: nothing). If ``outcome_unknown`` is set, some rows after it may be removed, too.

        Retries: safe, as for ``multi_del``.
        Greenlets: a killed one leaves a part of the range.

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
        deleted, last_key, keys = 0, None, []
        with rows:
            try:
                while keys := [key for key, _ in islice(rows, size)]:
                    deleted += self.multi_del(hash_key, keys, split=True, timeout=timeout, retry=retry)
                    last_key = keys[-1]
                    if on_progress is not None:
                        on_progress(deleted, last_key)
            except PegasusError as error:
                done = error.done
                error.deleted = deleted + done
                error.last_key = keys[done - 1] if done else last_key
                raise
        return deleted

    del_range_async = later(
        '>>> table.multi_set("log:7", {"2026-11-01": "a", "2026-12-01": "b"})',
        '>>> table.del_range_async("log:7", prefix="2026-11-").get()',
        "1",
    )(del_range)
