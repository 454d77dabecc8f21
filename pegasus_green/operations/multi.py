"""The verbs of many records under one hash key: multi_get, multi_set, multi_del and their kin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ..errors import CountUnknown, InvalidArgument, PegasusError, ProtocolError
from ..keys import Key, crc64, next_key, to_bytes
from ..model import NO_FILTER, Filter, FilterType
from ..protocol.batches import KEY_SIZE, ROW_SIZE, multi_put_argument, multi_remove_argument
from ..protocol.binary import Buffer
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
# Tables whose multi_gets were cut by a server's limit, in this process.
_WARNED: set[str] = set()
# Where the client leaves the size of writes to the server, its default is what split=True goes by.
_SERVERS_MAX_BODY = 1024 * 1024


def key_filter(filter: Filter | None) -> Filter:  # noqa: A002
    """Return the filter that is meant.

    Raises:
        InvalidArgument: It is none.
    """
    if filter is None:
        return NO_FILTER
    if not isinstance(filter, Filter):
        raise InvalidArgument(f"filter must be a Filter, as Filter.postfix(b'x'), not {filter!r}")
    return filter


def multi_get_request(
    hash_key: bytes, sort_keys: Iterable[Key] | None, bounds: Mapping[str, Any]
) -> MultiGetRequest | None:
    """Return the request for some sort keys, or for a range; None: there is nothing to ask for.

    Args:
        hash_key: The hash key.
        sort_keys: As for ``multi_get``, like the bounds.
        bounds: start, stop, start_inclusive, stop_inclusive, prefix, filter and reverse; what is left out has its
            default.

    Raises:
        InvalidArgument: A wrong type, or sort keys together with a range.
    """
    start, stop, prefix = bounds.get("start"), bounds.get("stop"), bounds.get("prefix")
    chosen = key_filter(bounds.get("filter"))
    request = MultiGetRequest(
        hash_key=hash_key,
        start_sortkey=b"" if start is None else to_bytes(start, "start"),
        stop_sortkey=b"" if stop is None else to_bytes(stop, "stop"),
        # Never left out: where it is absent the server excludes the start, and the row without sort key is lost.
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
        # The server would ignore the range without a word.
        raise InvalidArgument("sort_keys excludes start, stop, prefix, filter, reverse: these select a range")
    request.sort_keys = sort_key_list(sort_keys)
    return request if request.sort_keys else None


def _narrow(request: MultiGetRequest, prefix: bytes) -> None:
    """Make a range as narrow as a prefix asks for, by a filter, or by its bounds where there is one already."""
    if request.sort_key_filter_type == FilterType.NO_FILTER:
        request.sort_key_filter_type, request.sort_key_filter_pattern = int(FilterType.MATCH_PREFIX), prefix
        return
    if request.start_sortkey < prefix:
        request.start_sortkey, request.start_inclusive = prefix, True
    end = next_key(prefix)
    if end and (not request.stop_sortkey or end <= request.stop_sortkey):
        request.stop_sortkey, request.stop_inclusive = end, False


def sort_key_list(sort_keys: Iterable[Key]) -> list[bytes]:
    """Return sort keys as bytes.

    Raises:
        InvalidArgument: No iterable, or a single key, whose characters are hardly meant.
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
    """What multi_get takes besides, for the overloads that checkers read."""

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
    """Operations on several records of one hash key, which lie in one partition."""

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
        """Return several records of one hash key in one reply: those of some sort keys, or of a range.

        The result may be incomplete and says so: besides ``max_count`` and ``max_bytes`` the server hands out at most
        3,000 rows and 30 MiB, and looks at no more than 3,000 rows of a range (expired ones and those that the filter
        leaves out included) and for no longer than 30 s. ``multi_get_iter`` goes on by itself.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            sort_keys: The sort keys wanted, absent ones are left out; an empty list gets an empty result. None: a
                range.
            start: First sort key of the range; None or empty: from the beginning.
            stop: End of the range; None or empty: to the end of the hash key.
            start_inclusive: Whether start itself belongs to the range.
            stop_inclusive: Whether stop itself does.
            prefix: Only sort keys that begin with this; the range becomes as narrow as that.
            filter: Only sort keys that pass this filter.
            reverse: Read from the end of the range, so that limits cut at its beginning; rows ascend all the same.
            no_value: Omit the values: they are ``b""``.
            max_count: Most rows; None or below 1: no limit but the server's.
            max_bytes: Stop after the row with which sort keys and values reach this size; None or below 1: as above.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call; None never repeats.
            info: Filled with facts about the call.

        Returns:
            Values by sort key, in a dict that also says whether it is ``complete`` and what the ``last_key`` is, from
            where to go on. Ranges ascend; sort keys come in the order asked for. In reverse, the server may take the
            result for incomplete when a limit is reached exactly at the first row of the range.

        Raises:
            InvalidArgument: An argument of a wrong type or size, an empty hash key, or sort keys together with a range;
                nothing was sent.
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
        """Return what the reply to a multi_get says."""
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
        """Log once for each table that a server's limit has cut a result: code that ignores ``complete`` loses rows."""
        if self.name in _WARNED:
            return
        _WARNED.add(self.name)
        self._dispatcher.notices.warning(
            "cut",
            "a multi_get of table %s without limits came back incomplete after %d rows, at the server's own limit; "
            "look at result.complete, or use hash_scan. This is logged once for each table.",
            self.name,
            rows,
        )

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
            start_inclusive: Whether start itself belongs to the range.
            stop_inclusive: Whether stop itself does.
            prefix: Only sort keys that begin with this.
            filter: Only sort keys that pass this filter.
            reverse: Read from the end of the range; the keys ascend all the same.
            max_count: Most keys; None or below 1: no limit but the server's, see ``multi_get``.
            max_bytes: Stop after the key with which they reach this size; None or below 1: as above.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call; None never repeats.
            info: Filled with facts about the call.

        Returns:
            The keys, ascending, in a list that also says whether it is ``complete`` and what the ``last_key`` is.

        Raises:
            InvalidArgument: An argument of a wrong type or size; nothing was sent.
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

    # Without a codec text is stored as UTF-8.
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
            values: Values by sort key, or (sort key, value) pairs, of which the last one of a key counts; not empty.
            ttl: Seconds until all of them expire, rounded up; None or 0: never (a table may have a default).
            split: Send as many requests, one behind another, as ``max_write_bytes`` asks for. Then it is no longer
                atomic: readers see a part of it, and so it may stay when a request fails.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call; None never repeats.
            info: Filled with facts about the call, the last request's when it was split.

        Raises:
            InvalidArgument: A wrong type, no values, or a body over ``max_write_bytes`` without ``split``; nothing was
                sent.
            RequestTimeout: No success in time; ``outcome_unknown`` tells whether it may have been applied.
            PegasusError: Any other failure. With ``split``, its attribute ``done`` is the number of rows stored before.

        Retries: safe, as for ``set``.
        Greenlets: any number may call at once; after a kill all of it may have happened, or nothing, or with ``split``
            a part.

        Example:
            >>> table.multi_set("user:7", {"name": "Ada", "born": "1815"}, ttl=3600)
        """
        hash_key = only_hash_key(hash_key)
        rows = self._rows(values)
        at = expire_ts(ttl)
        parts = self._parts(
            MULTI_PUT,
            len(multi_put_argument(hash_key, (), at)),
            [ROW_SIZE + len(key) + len(value) for key, value in rows],
            split,
        )

        def send(begin: int, end: int, seconds: float | None) -> None:
            argument = multi_put_argument(hash_key, rows[begin:end], at)
            self._done(MULTI_PUT, self._call(MULTI_PUT, crc64(hash_key), argument, seconds, retry, info), info)

        self._send_parts(MULTI_PUT, parts, send, timeout)

    multi_set_async = later(
        '>>> table.multi_set_async("user:7", {"name": "Ada"}).get()',
        '>>> table.get("user:7", "name")',
        "b'Ada'",
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
            sort_keys: Sort keys, not none; absent ones are fine.
            split: Send as many requests, one behind another, as ``max_write_bytes`` asks for; no longer atomic.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call; None never repeats.
            info: Filled with facts about the call, the last request's when it was split.

        Returns:
            The number of sort keys that were given: which of them existed, the server does not tell.

        Raises:
            InvalidArgument: A wrong type, no keys, or a body over ``max_write_bytes`` without ``split``; nothing was
                sent.
            RequestTimeout: No success in time; ``outcome_unknown`` tells whether it may have been applied.
            PegasusError: Any other failure. With ``split``, its attribute ``done`` is the number of keys done before.

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
        sizes = [KEY_SIZE + len(key) for key in keys]
        parts = self._parts(MULTI_REMOVE, len(multi_remove_argument(hash_key, ())), sizes, split)

        def send(begin: int, end: int, seconds: float | None) -> int:
            argument = multi_remove_argument(hash_key, keys[begin:end])
            return self._removed(self._call(MULTI_REMOVE, crc64(hash_key), argument, seconds, retry, info), info)

        return sum(self._send_parts(MULTI_REMOVE, parts, send, timeout))

    multi_del_async = later(
        '>>> table.multi_del_async("user:7", ["name", "mail"]).get()',
        "2",
    )(multi_del)

    def sort_key_count(
        self,
        hash_key: Key,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> int:
        """Return how many records a hash key has; the server reads them all for it.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call; None never repeats.
            info: Filled with facts about the call.

        Returns:
            The number of records that have not expired; 0 for an unknown hash key.

        Raises:
            CountUnknown: The server gave up after its time limit (30 s by default).
            InvalidArgument: A wrong type or size, or an empty hash key; nothing was sent.
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
            error = CountUnknown("the server gave up counting after its time limit", status=_OK)
            raise self._answered(error, SORTKEY_COUNT, frame)
        return int(response.count)

    sort_key_count_async = later(
        '>>> table.sort_key_count_async("nobody").get()',
        "0",
    )(sort_key_count)

    def _rows(self, values: object) -> list[tuple[bytes, bytes]]:
        """Return the rows of a multi_set as bytes.

        Raises:
            InvalidArgument: There are none, or they are no pairs.
        """
        rows = []
        pairs: Iterable[object] = values.items() if isinstance(values, Mapping) else listed(values, "values")
        for pair in pairs:
            key, value = pair if type(pair) is tuple and len(pair) == 2 else parts_of(pair, "sort key, value")
            rows.append((to_bytes(key, "sort_key"), self._value(value)))
        if not rows:
            raise InvalidArgument("values must not be empty")
        return rows

    def _removed(self, frame: Buffer, info: CallInfo | None = None) -> int:
        """Return how many sort keys a multi_del had."""
        response = self._decode(MULTI_REMOVE, frame, info)
        if response.error:
            raise self._storage_error(MULTI_REMOVE, response.error, frame)
        return int(response.count)

    def _parts(self, rpc: Rpc, fixed: int, sizes: list[int], split: bool) -> list[tuple[int, int]]:  # noqa: FBT001
        """Return from where to where rows of these sizes go into one request each.

        Raises:
            InvalidArgument: The body is too large for one request, or for any.
        """
        fixed += rpc.body_base
        most = self._max_argument
        limit = _SERVERS_MAX_BODY if split and math.isinf(most) else most
        if fixed + sum(sizes) <= limit:
            return [(0, len(sizes))]
        if not split:
            raise InvalidArgument(
                f"{rpc.label}: the request body has {fixed + sum(sizes)} bytes; max_write_bytes is {most}. split=True"
                " sends several requests, which are not atomic together",
                code="ERR_INVALID_DATA",  # what the server answers to it
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
        """Send one request after another within one deadline; an error tells how many rows were done before it."""
        if len(parts) == 1:
            # The usual case, without a second look at the clock.
            return [send(*parts[0], timeout)]
        series = Series(self, rpc.label, timeout)
        results = []
        for begin, end in parts:
            try:
                results.append(send(begin, end, series.left()))
            except PegasusError as error:
                error.done = begin
                raise
        return results
