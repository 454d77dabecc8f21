"""The verbs for many records of one hash key: multi_get, multi_set, multi_del and similar ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from time import time
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ..errors import CountUnknown, InvalidArgument, PegasusError, ProtocolError
from ..keys import Key, crc64, next_key, to_bytes
from ..model import NO_FILTER, Filter, FilterType
from ..protocol.batches import KEY_SIZE, ROW_SIZE, multi_put_argument, multi_remove_argument
from ..protocol.binary import Buffer
from ..protocol.fast import postpone
from ..protocol.rows import read_rows
from ..protocol.rpc import MULTI_GET, MULTI_PUT, MULTI_REMOVE, SORTKEY_COUNT, Rpc
from ..protocol.rrdb import MultiGetRequest
from ..results import MultiGetResult, SortKeys, V
from ..retry import RetryPolicy
from .asynchronous import later
from .base import DEFAULT, CallInfo, CallOptions, Records, TableBase, expire_ts, listed, only_hash_key, parts_of
from .series import Series

if TYPE_CHECKING:
    from typing_extensions import Unpack

_T = TypeVar("_T")

_MAX_I32 = 2**31 - 1
_OK, _INCOMPLETE = 0, 7
# Tables for which this process has logged that a server's limit cut a multi_get.
_WARNED: set[str] = set()
# If max_write_bytes is None, split=True uses the server's default limit.
_SERVERS_MAX_BODY = 1024 * 1024


def key_filter(filter: Filter | None) -> Filter:  # noqa: A002
    """Return the filter; None becomes the filter that accepts every key.

    Raises:
        InvalidArgument: The argument is not a filter.
    """
    if filter is None:
        return NO_FILTER
    if not isinstance(filter, Filter):
        raise InvalidArgument(f"filter must be a Filter, for example Filter.postfix(b'x'), not {filter!r}")
    return filter


def multi_get_request(
    hash_key: bytes, sort_keys: Iterable[Key] | None, bounds: Mapping[str, Any]
) -> MultiGetRequest | None:
    """Return the request for some sort keys or for a range; None if no request is needed.

    Args:
        hash_key: The hash key.
        sort_keys: As for ``multi_get``.
        bounds: start, stop, start_inclusive, stop_inclusive, prefix, filter and reverse of ``multi_get``; the defaults
            apply to missing ones.

    Raises:
        InvalidArgument: An argument has a wrong type, or there are sort keys and a range.
    """
    start, stop, prefix = bounds.get("start"), bounds.get("stop"), bounds.get("prefix")
    chosen = key_filter(bounds.get("filter"))
    request = MultiGetRequest(
        hash_key=hash_key,
        start_sortkey=b"" if start is None else to_bytes(start, "start"),
        stop_sortkey=b"" if stop is None else to_bytes(stop, "stop"),
        # Always sent: a server takes a missing field as False and then omits the record with an empty sort key.
        start_inclusive=bool(bounds.get("start_inclusive", True)),
        stop_inclusive=bool(bounds.get("stop_inclusive", False)),
        sort_key_filter_type=int(chosen.type),
        sort_key_filter_pattern=chosen.pattern,
        reverse=bool(bounds.get("reverse", False)),
    )
    if prefix is not None:
        _narrow(request, to_bytes(prefix, "prefix"))
    if sort_keys is None:
        return request
    given = any(bounds.get(name) is not None for name in ("start", "stop", "prefix", "filter"))
    if given or request.reverse or request.stop_inclusive or not request.start_inclusive:
        # The server would silently ignore the range.
        raise InvalidArgument(
            "sort_keys cannot be combined with start, stop, start_inclusive, stop_inclusive, prefix, filter or reverse"
        )
    request.sort_keys = sort_key_list(sort_keys)
    return request if request.sort_keys else None


def _narrow(request: MultiGetRequest, prefix: bytes) -> None:
    """Narrow a range to a prefix: with a filter, or with the bounds if there is already a filter."""
    if request.sort_key_filter_type == FilterType.NO_FILTER:
        request.sort_key_filter_type, request.sort_key_filter_pattern = int(FilterType.MATCH_PREFIX), prefix
        return
    if request.start_sortkey < prefix:
        request.start_sortkey, request.start_inclusive = prefix, True
    end = next_key(prefix)
    if end and (not request.stop_sortkey or end <= request.stop_sortkey):
        request.stop_sortkey, request.stop_inclusive = end, False


def sort_key_list(sort_keys: Iterable[Key]) -> list[bytes]:
    """Return the sort keys as bytes.

    Raises:
        InvalidArgument: The argument is not an iterable, or it is a single key.
    """
    if isinstance(sort_keys, (str, bytes, bytearray, memoryview)) or not isinstance(sort_keys, Iterable):
        raise InvalidArgument(f"sort_keys must be an iterable of keys, not {type(sort_keys).__name__}")
    return [key if type(key) is bytes else to_bytes(key, "sort_key") for key in sort_keys]


def _limit(value: int | None, name: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidArgument(f"{name} must be a whole number or None, not {value!r}")
    return min(max(value, 0), _MAX_I32)


class MultiGetOptions(CallOptions, total=False):
    """More keywords of multi_get, for the overloads that type checkers read."""

    start: Key | None
    stop: Key | None
    start_inclusive: bool
    stop_inclusive: bool
    prefix: Key | None
    filter: Filter | None
    reverse: bool
    max_count: int | None
    max_bytes: int | None


class MultiOperations(TableBase[V]):
    """Operations on several records of one hash key. One partition has all of them."""

    __slots__ = ()

    @overload
    def multi_get(
        self,
        hash_key: Key,
        sort_keys: Iterable[Key] | None = None,
        *,
        no_value: Literal[False] = False,
        **options: Unpack[MultiGetOptions],
    ) -> MultiGetResult[V]: ...

    @overload
    def multi_get(
        self,
        hash_key: Key,
        sort_keys: Iterable[Key] | None = None,
        *,
        no_value: Literal[True],
        **options: Unpack[MultiGetOptions],
    ) -> MultiGetResult[bytes]: ...

    @overload
    def multi_get(
        self,
        hash_key: Key,
        sort_keys: Iterable[Key] | None = None,
        *,
        no_value: bool,
        **options: Unpack[MultiGetOptions],
    ) -> MultiGetResult[V | bytes]: ...

    def multi_get(
        self,
        hash_key: Key,
        sort_keys: Iterable[Key] | None = None,
        *,
        start: Key | None = None,
        stop: Key | None = None,
        start_inclusive: bool = True,
        stop_inclusive: bool = False,
        prefix: Key | None = None,
        filter: Filter | None = None,  # noqa: A002
        reverse: bool = False,
        no_value: bool = False,
        max_count: int | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> MultiGetResult[Any]:
        """Return several records of one hash key in one reply: those of some sort keys, or those of a range.

        The result can be incomplete: see its attribute ``complete``. The reasons are ``max_count``, ``max_bytes`` and
        the limits of the server. By default, a server returns at most 3,000 rows and 30 MiB. In a range it reads at
        most 3,000 rows, including the expired and filtered ones, and for at most 30 s. ``multi_get_iter`` reads a range
        to its end.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            sort_keys: The sort keys. The result omits absent ones. An empty list returns an empty result without a
                request. None: read a range.
            start: First sort key of the range; None or empty: from the beginning.
            stop: End of the range; None or empty: to the end of the hash key.
            start_inclusive: Whether the range includes start.
            stop_inclusive: Whether the range includes stop.
            prefix: Only sort keys that begin with this. The server reads no others.
            filter: Only sort keys that match this filter.
            reverse: Read from the end of the range, so that a limit omits rows at its beginning. The result is
                ascending in any case.
            no_value: Return ``b""`` instead of the values.
            max_count: Maximum number of rows; None or below 1: only the server's limit.
            max_bytes: The server stops after the row that brings the total size of sort keys and values to this number
                of bytes. None or below 1: only the server's limit.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Returns:
            A ``MultiGetResult``: values by sort key, with the attributes ``complete`` and ``last_key``, the position to
            continue from. The rows of a range are ascending. With ``sort_keys`` the rows are in the order of the
            request. If a reverse read reaches a limit exactly at the first row of the range, ``complete`` may be False
            although no row is left.

        Raises:
            InvalidArgument: An argument has a wrong type or size, the hash key is empty, or there are sort keys and a
                range; nothing was sent.
            RequestTimeout: No success in time.
            PegasusError: Any other failure.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> table.multi_set("user:7", {"a1": "x", "a2": "y", "b1": "z"})
            >>> table.multi_get("user:7", ["b1", "a1"])
            MultiGetResult({b'b1': b'z', b'a1': b'x'}, complete=True)
            >>> table.multi_get("user:7", prefix="a", max_count=1)
            MultiGetResult({b'a1': b'x'}, complete=False)
        """
        hash_key = only_hash_key(hash_key)
        bounds = {
            "start": start,
            "stop": stop,
            "start_inclusive": start_inclusive,
            "stop_inclusive": stop_inclusive,
            "prefix": prefix,
            "filter": filter,
            "reverse": reverse,
        }
        request = multi_get_request(hash_key, sort_keys, bounds)
        if request is None:
            return MultiGetResult()
        request.no_value = bool(no_value)
        request.max_kv_count, request.max_kv_size = _limit(max_count, "max_count"), _limit(max_bytes, "max_bytes")
        frame = self._call(MULTI_GET, crc64(hash_key), MULTI_GET.encode_argument(request), timeout, retry, info)
        if info is not None:
            self._decode(MULTI_GET, frame, info)
        return self._found(frame, request)

    multi_get_async = later(
        '>>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada"})',
        '>>> table.multi_get_async("user:7", ["name"]).get()',
        "MultiGetResult({b'name': b'Ada'}, complete=True)",
    )(multi_get)

    def _found(self, frame: Buffer, request: MultiGetRequest) -> MultiGetResult[V]:
        """Return the result from the reply to a multi_get."""
        try:
            found = read_rows(MULTI_GET, frame)
        except ProtocolError as error:
            raise self._unreadable(error, MULTI_GET) from None
        if found.status not in (_OK, _INCOMPLETE):
            raise self._storage_error(MULTI_GET, found.status, frame)
        rows = found.rows
        if found.status == _INCOMPLETE and request.max_kv_count < 1 and request.max_kv_size < 1:
            self._warn_of_limit(len(rows))
        last_key = (rows[0] if request.reverse else rows[-1])[0] if rows else None
        if self.codec is not None and not request.no_value:
            rows = [(key, self._plain(value)) for key, value in rows]
        return MultiGetResult(rows, complete=found.status == _OK, last_key=last_key)

    def _warn_of_limit(self, rows: int) -> None:
        """Log once per table that a server's limit cut a result. Code that ignores ``complete`` loses rows."""
        if self.name in _WARNED:
            return
        if self._dispatcher.notices.warning(
            f"cut {self.name}",
            "a multi_get of table %s without limits is incomplete after %d rows because of the server's limit; "
            "check result.complete, or use hash_scan. This is logged once for each table.",
            self.name,
            rows,
        ):
            _WARNED.add(self.name)

    def multi_get_sort_keys(
        self,
        hash_key: Key,
        *,
        start: Key | None = None,
        stop: Key | None = None,
        start_inclusive: bool = True,
        stop_inclusive: bool = False,
        prefix: Key | None = None,
        filter: Filter | None = None,  # noqa: A002
        reverse: bool = False,
        max_count: int | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> SortKeys:
        """Return the sort keys of one hash key in one reply, without the values.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            start: First sort key of the range; None or empty: from the beginning.
            stop: End of the range; None or empty: to the end of the hash key.
            start_inclusive: Whether the range includes start.
            stop_inclusive: Whether the range includes stop.
            prefix: Only sort keys that begin with this.
            filter: Only sort keys that match this filter.
            reverse: Read from the end of the range. The result is ascending in any case.
            max_count: Maximum number of keys; None or below 1: only the server's limit, see ``multi_get``.
            max_bytes: The server stops after the sort key that brings the total size to this number of bytes. None or
                below 1: only the server's limit.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Returns:
            A ``SortKeys``: a list of the sort keys, ascending, with the attributes ``complete`` and ``last_key``.

        Raises:
            InvalidArgument: An argument has a wrong type or size; nothing was sent.
            RequestTimeout: No success in time.
            PegasusError: Any other failure.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> table.multi_set("user:7", {"a1": "x", "a2": "y", "b1": "z"})
            >>> table.multi_get_sort_keys("user:7", prefix="a")
            SortKeys([b'a1', b'a2'], complete=True)
        """
        found = self.multi_get(
            hash_key,
            start=start,
            stop=stop,
            start_inclusive=start_inclusive,
            stop_inclusive=stop_inclusive,
            prefix=prefix,
            filter=filter,
            reverse=reverse,
            no_value=True,
            max_count=max_count,
            max_bytes=max_bytes,
            timeout=timeout,
            retry=retry,
            info=info,
        )
        return SortKeys(found, complete=found.complete, last_key=found.last_key)

    multi_get_sort_keys_async = later(
        '>>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada"})',
        '>>> table.multi_get_sort_keys_async("user:7").get()',
        "SortKeys([b'mail', b'name'], complete=True)",
    )(multi_get_sort_keys)

    @overload
    def multi_set(
        self,
        hash_key: Key,
        values: Records[V],
        *,
        ttl: float | None = None,
        split: bool = False,
        **options: Unpack[CallOptions],
    ) -> None: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def multi_set(
        self: MultiOperations[bytes],
        hash_key: Key,
        values: Records[Key],
        *,
        ttl: float | None = None,
        split: bool = False,
        **options: Unpack[CallOptions],
    ) -> None: ...

    def multi_set(
        self,
        hash_key: Key,
        values: object,
        *,
        ttl: float | None = None,
        split: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> None:
        """Store several records of one hash key, all or none.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            values: Values by sort key, or (sort key, value) pairs; not empty. If a key occurs twice, the last value
                counts.
            ttl: Seconds until all of them expire, rounded up; None, 0 or ``math.inf``: never, unless the table has a
                default TTL.
            split: If the request body is larger than ``max_write_bytes``, send several requests, one after the other.
                The call is then not atomic: readers can see some of the rows before the others, and if a request fails,
                the rows of the requests before it stay.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call; with ``split``, about its last request.

        Raises:
            InvalidArgument: An argument has a wrong type, there are no values, or the body is over ``max_write_bytes``
                without ``split``; nothing was sent.
            RequestTimeout: No success in time; ``outcome_unknown`` tells whether the write may have been applied.
            PegasusError: Any other failure. With ``split``, ``done`` is the number of rows stored before the error.

        Retries: safe, as for ``set``.
        Greenlets: any number may call at once. After a kill all rows may have been stored, or none, or with ``split`` a
            part of them.

        Example:
            >>> table.multi_set("user:7", {"name": "Ada", "born": "1815"}, ttl=3600)
        """
        hash_key = only_hash_key(hash_key)
        rows = self._rows(values)
        second = int(time())
        at = expire_ts(ttl, second)
        parts = self._parts(
            MULTI_PUT,
            len(multi_put_argument(hash_key, (), at)),
            [ROW_SIZE + len(key) + len(value) for key, value in rows],
            split,
        )

        def send(begin: int, end: int, seconds: float | None) -> None:
            argument = postpone(multi_put_argument(hash_key, rows[begin:end], at), int(time()) - second)
            self._done(MULTI_PUT, self._call(MULTI_PUT, crc64(hash_key), argument, seconds, retry, info), info)

        self._send_parts(MULTI_PUT, parts, send, timeout)

    multi_set_async = later(
        '>>> table.multi_set_async("user:7", {"name": "Ada"}).get()',
        '>>> table.get("user:7", "name")',
        "b'Ada'",
        writes=True,
    )(multi_set)

    def multi_del(
        self,
        hash_key: Key,
        sort_keys: Iterable[Key],
        *,
        split: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> int:
        """Remove several records of one hash key, all or none.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            sort_keys: At least one sort key. It is no error if there is no such record.
            split: If the request body is larger than ``max_write_bytes``, send several requests, one after the other.
                The call is then not atomic.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call; with ``split``, about its last request.

        Returns:
            The number of sort keys in the call. The server does not tell which of them existed.

        Raises:
            InvalidArgument: An argument has a wrong type, there are no keys, or the body is over ``max_write_bytes``
                without ``split``; nothing was sent.
            RequestTimeout: No success in time; ``outcome_unknown`` tells whether the removal may have been applied.
            PegasusError: Any other failure. With ``split``, ``done`` is the number of keys removed before the error.

        Retries: safe, as for ``remove``.
        Greenlets: as for ``multi_set``.

        Example:
            >>> table.multi_del("user:7", ["name", "no such key"])
            2
        """
        hash_key = only_hash_key(hash_key)
        keys = sort_key_list(sort_keys)
        if not keys:
            raise InvalidArgument("sort_keys must not be empty")
        parts = self._removals(hash_key, keys, split)

        def send(begin: int, end: int, seconds: float | None) -> int:
            argument = multi_remove_argument(hash_key, keys[begin:end])
            return self._removed(self._call(MULTI_REMOVE, crc64(hash_key), argument, seconds, retry, info), info)

        return sum(self._send_parts(MULTI_REMOVE, parts, send, timeout))

    multi_del_async = later(
        '>>> table.multi_del_async("user:7", ["name", "mail"]).get()',
        "2",
        writes=True,
    )(multi_del)

    def sort_key_count(
        self,
        hash_key: Key,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> int:
        """Return the number of records of a hash key. The server reads all of them.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Returns:
            The number of records that have not expired; 0 for an unknown hash key.

        Raises:
            CountUnknown: The server stopped at its time limit (30 s by default).
            InvalidArgument: The hash key has a wrong type or size, or is empty; nothing was sent.
            RequestTimeout: No success in time.
            PegasusError: Any other failure.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> table.sort_key_count("nobody")
            0
        """
        hash_key = only_hash_key(hash_key)
        argument = SORTKEY_COUNT.encode_argument(hash_key)
        frame = self._call(SORTKEY_COUNT, crc64(hash_key), argument, timeout, retry, info)
        response = self._decode(SORTKEY_COUNT, frame, info)
        if response.error:
            raise self._storage_error(SORTKEY_COUNT, response.error, frame)
        if response.count < 0:
            error = CountUnknown("the server stopped counting at its time limit", status=_OK)
            raise self._answered(error, SORTKEY_COUNT, frame)
        return int(response.count)

    sort_key_count_async = later(
        '>>> table.sort_key_count_async("nobody").get()',
        "0",
    )(sort_key_count)

    def _rows(self, values: object) -> list[tuple[bytes, bytes]]:
        """Return the rows of a multi_set as bytes.

        Raises:
            InvalidArgument: There are none, or an item is not a pair.
        """
        rows = []
        pairs: Iterable[object] = values.items() if isinstance(values, Mapping) else listed(values, "values")
        for pair in pairs:
            key, value = pair if type(pair) is tuple and len(pair) == 2 else parts_of(pair, "sort key, value")
            rows.append((to_bytes(key, "sort_key"), self._value(value)))
        if not rows:
            raise InvalidArgument("values must not be empty")
        return rows

    def _removals(self, hash_key: bytes, keys: list[bytes], split: bool) -> list[tuple[int, int]]:  # noqa: FBT001
        """Return (begin, end) of the sort keys of each request of a multi_del; see ``_parts``."""
        sizes = [KEY_SIZE + len(key) for key in keys]
        return self._parts(MULTI_REMOVE, len(multi_remove_argument(hash_key, ())), sizes, split)

    def _removed(self, frame: Buffer, info: CallInfo | None = None) -> int:
        """Return the number of sort keys from the reply to a multi_del."""
        response = self._decode(MULTI_REMOVE, frame, info)
        if response.error:
            raise self._storage_error(MULTI_REMOVE, response.error, frame)
        return int(response.count)

    def _parts(self, rpc: Rpc, fixed: int, sizes: list[int], split: bool) -> list[tuple[int, int]]:  # noqa: FBT001
        """Return (begin, end) of the rows of each request, for rows of these sizes.

        Raises:
            InvalidArgument: The body is too large for one request and split is not set, or one row is too large.
        """
        fixed += rpc.body_base
        most = self._max_argument
        limit = _SERVERS_MAX_BODY if split and math.isinf(most) else most
        if fixed + sum(sizes) <= limit:
            return [(0, len(sizes))]
        if not split:
            raise InvalidArgument(
                f"{rpc.label}: the request body has {fixed + sum(sizes)} bytes; max_write_bytes is {most}. With"
                " split=True the call sends several requests, which are not one atomic step",
                code="ERR_INVALID_DATA",  # the server would answer the same code
            )
        parts = []
        begin, body = 0, fixed
        for index, size in enumerate(sizes):
            if fixed + size > most:
                raise InvalidArgument(
                    f"{rpc.label}: row {index} alone makes a body of {fixed + size} bytes; max_write_bytes is {most}",
                    code="ERR_INVALID_DATA",
                )
            if body + size > limit and index > begin:
                parts.append((begin, index))
                begin, body = index, fixed
            body += size
        return [*parts, (begin, len(sizes))]

    def _send_parts(
        self,
        rpc: Rpc,
        parts: list[tuple[int, int]],
        send: Callable[[int, int, float | None], _T],
        timeout: float | None,
    ) -> list[_T]:
        """Send the requests one after the other within one deadline; ``done`` of an error counts the rows before it."""
        if len(parts) == 1:
            # The usual case needs no second reading of the clock.
            return [send(*parts[0], timeout)]
        results = []
        with Series(self, rpc.label, timeout) as series:
            for begin, end in parts:
                try:
                    results.append(send(begin, end, series.left()))
                except PegasusError as error:
                    error.done = begin
                    raise
        return results
