"""The verbs that make thousands of independent calls from one greenlet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import time
from typing import TYPE_CHECKING, Any, Literal, overload

from ..bulk import Bulk, Request
from ..errors import InvalidArgument, PegasusError, raise_first
from ..keys import Key, crc64
from ..protocol import fast
from ..protocol.batches import multi_put_argument, multi_remove_argument
from ..protocol.binary import Buffer
from ..protocol.rpc import GET, MULTI_GET, MULTI_PUT, MULTI_REMOVE, PUT, REMOVE
from ..protocol.rrdb import MultiGetRequest
from ..results import MultiGetResult, V
from ..retry import RetryPolicy
from .asynchronous import later
from .base import DEFAULT, D, ManyOptions, Records, expire_ts, key_pair, listed, only_hash_key, parts_of
from .multi import MultiOperations, multi_get_request, sort_key_list

if TYPE_CHECKING:
    from typing_extensions import Unpack

CONCURRENCY = 1000


class ManyOperations(MultiOperations[V]):
    """Verbs for many records at once. A call is not atomic; its results are in the order of the arguments."""

    __slots__ = ()

    @overload
    def get_many(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: None = None,
        return_errors: Literal[False] = False,
        **options: Unpack[ManyOptions],
    ) -> list[V | None]: ...

    # As for get: the default of a Table[Any] can be an empty list or dict.
    @overload
    def get_many(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: V,
        return_errors: Literal[False] = False,
        **options: Unpack[ManyOptions],
    ) -> list[V]: ...

    @overload
    def get_many(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: D,
        return_errors: Literal[False] = False,
        **options: Unpack[ManyOptions],
    ) -> list[V | D]: ...

    @overload
    def get_many(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: None = None,
        return_errors: bool,
        **options: Unpack[ManyOptions],
    ) -> list[V | PegasusError | None]: ...

    @overload
    def get_many(
        self, keys: Iterable[tuple[Key, Key]], *, default: V, return_errors: bool, **options: Unpack[ManyOptions]
    ) -> list[V | PegasusError]: ...

    @overload
    def get_many(
        self, keys: Iterable[tuple[Key, Key]], *, default: D, return_errors: bool, **options: Unpack[ManyOptions]
    ) -> list[V | D | PegasusError]: ...

    def get_many(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: object = None,
        concurrency: int = CONCURRENCY,
        return_errors: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> list[Any]:
        """Return the values of many records. Each is read by its own request; many are in flight at once.

        Args:
            keys: (hash key, sort key) of each record.
            default: Result for a record that is absent or expired.
            concurrency: Maximum number of requests in flight; by default 1,000.
            return_errors: Put errors into the results in place of values. False: after all calls have ended, raise the
                first error in the order of keys, with the whole list in its attribute ``results``.
            timeout: Seconds for each record with all attempts, from its first attempt; None: the client's default.
            retry: Retry policy, by default the client's; None: no retry.

        Returns:
            Values in the order of keys.

        Raises:
            InvalidArgument: A key has a wrong type or size; nothing was sent.
            PegasusError: The first error in the order of the arguments, unless return_errors is set.

        Retries: safe; only failed requests are repeated.
        Greenlets: the requests need no greenlets. A killed caller abandons its requests and affects no other call.

        Example:
            >>> table.set("user:1", "name", "Ada")
            >>> table.get_many([("user:1", "name"), ("user:2", "name")])
            [b'Ada', None]
        """
        requests = []
        for pair in listed(keys, "keys"):
            hash_key, sort_key = (
                pair if type(pair) is tuple and len(pair) == 2 else parts_of(pair, "hash key, sort key")
            )
            if type(hash_key) is not bytes or type(sort_key) is not bytes or len(hash_key) > 65534:
                hash_key, sort_key = key_pair(hash_key, sort_key)
            requests.append((GET, crc64(hash_key or sort_key), fast.key_argument(hash_key, sort_key)))

        def finish(_index: int, frame: Buffer) -> object:
            return self._value_or(default, frame)

        usual = fast.usual_value if self.codec is None else None
        return self._run(requests, finish, concurrency, timeout, retry, return_errors=return_errors, usual=usual)

    get_many_async = later(
        '>>> table.set("user:1", "name", "Ada")',
        '>>> table.get_many_async([("user:1", "name"), ("nobody", "name")]).get()',
        "[b'Ada', None]",
    )(get_many)

    @overload
    def set_many(
        self,
        items: Iterable[tuple[Key, Key, V] | tuple[Key, Key, V, float | None]],
        *,
        ttl: float | None = None,
        return_errors: bool = False,
        **options: Unpack[ManyOptions],
    ) -> list[PegasusError | None]: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def set_many(
        self: ManyOperations[bytes],
        items: Iterable[tuple[Key, Key, Key] | tuple[Key, Key, Key, float | None]],
        *,
        ttl: float | None = None,
        return_errors: bool = False,
        **options: Unpack[ManyOptions],
    ) -> list[PegasusError | None]: ...

    def set_many(
        self,
        items: Iterable[tuple[Key, Key, object] | tuple[Key, Key, object, float | None]],
        *,
        ttl: float | None = None,
        concurrency: int = CONCURRENCY,
        return_errors: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> list[PegasusError | None]:
        """Store many records, each by its own request.

        Args:
            items: (hash key, sort key, value) or (hash key, sort key, value, ttl) of each record. If a key occurs
                twice, the order of its writes is undefined.
            ttl: Seconds from the first attempt until a record without its own TTL expires, rounded up; None, 0 or
                ``math.inf``: never, unless the table has a default TTL.
            concurrency: Maximum number of requests in flight; by default 1,000.
            return_errors: As for ``get_many``.
            timeout: Seconds for each record; None: the client's default.
            retry: Retry policy, by default the client's; None: no retry.

        Returns:
            For each record, in order: None if it was stored; with return_errors, the error if it was not.

        Raises:
            InvalidArgument: An item has a wrong type or size, for example above ``max_write_bytes``; nothing was sent.
            PegasusError: The first error, unless return_errors is set. Other records may have been stored.

        Retries: safe, as for ``set``.
        Greenlets: as for ``get_many``.

        Example:
            >>> table.set_many([("user:1", "name", "Ada"), ("user:2", "name", "Grace")])
            [None, None]
        """
        second = int(time())
        at = expire_ts(ttl, second)
        requests = []
        for item in listed(items, "items"):
            hash_key, sort_key, value, own = parts_of(item, "hash key, sort key, value", "ttl")
            expires = at if own is None else expire_ts(own, second)
            hash_key, sort_key = key_pair(hash_key, sort_key)
            argument = fast.put_argument(hash_key, sort_key, self._value(value), expires)
            self._check_size(PUT, argument)
            requests.append((PUT, crc64(hash_key or sort_key), argument))

        def finish(_index: int, frame: Buffer) -> None:
            self._done(PUT, frame)

        return self._run(requests, finish, concurrency, timeout, retry, return_errors=return_errors, second=second)

    set_many_async = later(
        '>>> table.set_many_async([("user:1", "name", "Ada")]).get()',
        "[None]",
        writes=True,
    )(set_many)

    def remove_many(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        concurrency: int = CONCURRENCY,
        return_errors: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> list[PegasusError | None]:
        """Remove many records, each by its own request. It is no error if a record is absent.

        Args:
            keys: (hash key, sort key) of each record.
            concurrency: Maximum number of requests in flight; by default 1,000.
            return_errors: As for ``get_many``.
            timeout: Seconds for each record; None: the client's default.
            retry: Retry policy, by default the client's; None: no retry.

        Returns:
            For each record, in order: None if it was removed; with return_errors, the error if it was not.

        Raises:
            InvalidArgument: A key has a wrong type or size; nothing was sent.
            PegasusError: The first error, unless return_errors is set. Other records may have been removed.

        Retries: safe, as for ``remove``.
        Greenlets: as for ``get_many``.

        Example:
            >>> table.remove_many([("user:1", "name"), ("user:2", "name")])
            [None, None]
        """
        requests = []
        for pair in listed(keys, "keys"):
            hash_key, sort_key = key_pair(*parts_of(pair, "hash key, sort key"))
            requests.append((REMOVE, crc64(hash_key or sort_key), fast.key_argument(hash_key, sort_key)))

        def finish(_index: int, frame: Buffer) -> None:
            self._done(REMOVE, frame)

        return self._run(requests, finish, concurrency, timeout, retry, return_errors=return_errors)

    remove_many_async = later(
        '>>> table.remove_many_async([("user:1", "name")]).get()',
        "[None]",
        writes=True,
    )(remove_many)

    @overload
    def multi_get_many(
        self,
        requests: Iterable[Key | tuple[Key, Iterable[Key] | None]],
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[ManyOptions],
    ) -> list[MultiGetResult[V]]: ...

    @overload
    def multi_get_many(
        self,
        requests: Iterable[Key | tuple[Key, Iterable[Key] | None]],
        *,
        return_errors: bool,
        **options: Unpack[ManyOptions],
    ) -> list[MultiGetResult[V] | PegasusError]: ...

    def multi_get_many(
        self,
        requests: Iterable[Key | tuple[Key, Iterable[Key] | None]],
        *,
        concurrency: int = CONCURRENCY,
        return_errors: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> list[Any]:
        """Read several records of each of many hash keys, with a ``multi_get`` for each.

        Args:
            requests: Hash keys (all their records, within the limits of one ``multi_get``), or pairs of a hash key and
                its sort keys.
            concurrency: Maximum number of requests in flight; by default 1,000.
            return_errors: As for ``get_many``.
            timeout: Seconds for each hash key; None: the client's default.
            retry: Retry policy, by default the client's; None: no retry.

        Returns:
            The ``MultiGetResult`` of each hash key, in order; with return_errors, the error if it could not be read.
            The attribute ``complete`` of a result tells whether it has all rows.

        Raises:
            InvalidArgument: A key has a wrong type or size; nothing was sent.
            PegasusError: The first error in the order of the arguments, unless return_errors is set.

        Retries: safe.
        Greenlets: as for ``get_many``.

        Example:
            >>> table.multi_set("user:1", {"name": "Ada"})
            >>> table.multi_get_many(["user:1", ("user:2", ["name"])])
            [MultiGetResult({b'name': b'Ada'}, complete=True), MultiGetResult({}, complete=True)]
        """
        asked = []
        wanted: list[MultiGetRequest | None] = []
        for item in listed(requests, "requests"):
            hash_key, sort_keys = parts_of(item, "hash key, sort keys") if isinstance(item, tuple) else (item, None)
            raw = only_hash_key(hash_key)
            request = multi_get_request(raw, sort_keys, {})
            wanted.append(request)
            if request is not None:
                asked.append((MULTI_GET, crc64(raw), MULTI_GET.encode_argument(request)))
        sent = [request for request in wanted if request is not None]

        def finish(index: int, frame: Buffer) -> MultiGetResult[V]:
            return self._found(frame, sent[index])

        found = iter(self._run(asked, finish, concurrency, timeout, retry, return_errors=True))
        results = [MultiGetResult() if request is None else next(found) for request in wanted]
        if not return_errors:
            raise_first(results)
        return results

    multi_get_many_async = later(
        '>>> table.multi_get_many_async(["nobody"]).get()',
        "[MultiGetResult({}, complete=True)]",
    )(multi_get_many)

    @overload
    def multi_set_many(
        self,
        items: Iterable[tuple[Key, Records[V]] | tuple[Key, Records[V], float | None]],
        *,
        ttl: float | None = None,
        return_errors: bool = False,
        **options: Unpack[ManyOptions],
    ) -> list[PegasusError | None]: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def multi_set_many(
        self: ManyOperations[bytes],
        items: Iterable[tuple[Key, Records[Key]] | tuple[Key, Records[Key], float | None]],
        *,
        ttl: float | None = None,
        return_errors: bool = False,
        **options: Unpack[ManyOptions],
    ) -> list[PegasusError | None]: ...

    def multi_set_many(
        self,
        items: Iterable[tuple[Key, object] | tuple[Key, object, float | None]],
        *,
        ttl: float | None = None,
        concurrency: int = CONCURRENCY,
        return_errors: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> list[PegasusError | None]:
        """Store several records of each of many hash keys, with one ``multi_set`` for each: atomic per hash key.

        Args:
            items: (hash key, values) or (hash key, values, ttl), like the arguments of ``multi_set``; each must fit
                into ``max_write_bytes``.
            ttl: Seconds from the first attempt until a record without its own TTL expires, rounded up; None, 0 or
                ``math.inf``: never, unless the table has a default TTL.
            concurrency: Maximum number of requests in flight; by default 1,000.
            return_errors: As for ``get_many``.
            timeout: Seconds for each hash key; None: the client's default.
            retry: Retry policy, by default the client's; None: no retry.

        Returns:
            For each hash key, in order: None if it was stored; with return_errors, the error if it was not.

        Raises:
            InvalidArgument: An item has a wrong type or size; nothing was sent.
            PegasusError: The first error, unless return_errors is set. Other hash keys may have been stored.

        Retries: safe, as for ``set``.
        Greenlets: as for ``get_many``.

        Example:
            >>> table.multi_set_many([("user:1", {"name": "Ada"}), ("user:2", {"name": "Grace"}, 3600)])
            [None, None]
        """
        second = int(time())
        at = expire_ts(ttl, second)
        requests = []
        for item in listed(items, "items"):
            hash_key, values, own = parts_of(item, "hash key, values", "ttl")
            expires = at if own is None else expire_ts(own, second)
            hash_key = only_hash_key(hash_key)
            argument = multi_put_argument(hash_key, self._rows(values), expires)
            self._check_size(MULTI_PUT, argument)
            requests.append((MULTI_PUT, crc64(hash_key), argument))

        def finish(_index: int, frame: Buffer) -> None:
            self._done(MULTI_PUT, frame)

        return self._run(requests, finish, concurrency, timeout, retry, return_errors=return_errors, second=second)

    multi_set_many_async = later(
        '>>> table.multi_set_many_async([("user:1", {"name": "Ada"})]).get()',
        "[None]",
        writes=True,
    )(multi_set_many)

    @overload
    def multi_del_many(
        self,
        items: Iterable[tuple[Key, Iterable[Key]]],
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[ManyOptions],
    ) -> list[int]: ...

    @overload
    def multi_del_many(
        self, items: Iterable[tuple[Key, Iterable[Key]]], *, return_errors: bool, **options: Unpack[ManyOptions]
    ) -> list[int | PegasusError]: ...

    def multi_del_many(
        self,
        items: Iterable[tuple[Key, Iterable[Key]]],
        *,
        concurrency: int = CONCURRENCY,
        return_errors: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> list[Any]:
        """Remove several records of each of many hash keys, with one ``multi_del`` for each: atomic per hash key.

        Args:
            items: (hash key, sort keys), like the arguments of ``multi_del``; each must fit into ``max_write_bytes``.
            concurrency: Maximum number of requests in flight; by default 1,000.
            return_errors: As for ``get_many``.
            timeout: Seconds for each hash key; None: the client's default.
            retry: Retry policy, by default the client's; None: no retry.

        Returns:
            For each item, in order: the number of its sort keys; with return_errors, the error if it failed.

        Raises:
            InvalidArgument: An item has a wrong type or size; nothing was sent.
            PegasusError: The first error, unless return_errors is set. Other hash keys' records may have been removed.

        Retries: safe, as for ``remove``.
        Greenlets: as for ``get_many``.

        Example:
            >>> table.multi_del_many([("user:1", ["name"]), ("user:2", ["name", "no such key"])])
            [1, 2]
        """
        requests = []
        for item in listed(items, "items"):
            hash_key, sort_keys = parts_of(item, "hash key, sort keys")
            hash_key, keys = only_hash_key(hash_key), sort_key_list(sort_keys)
            if not keys:
                raise InvalidArgument("sort_keys must not be empty")
            argument = multi_remove_argument(hash_key, keys)
            self._check_size(MULTI_REMOVE, argument)
            requests.append((MULTI_REMOVE, crc64(hash_key), argument))

        def finish(_index: int, frame: Buffer) -> int:
            return self._removed(frame)

        return self._run(requests, finish, concurrency, timeout, retry, return_errors=return_errors)

    multi_del_many_async = later(
        '>>> table.multi_del_many_async([("user:1", ["name"])]).get()',
        "[1]",
        writes=True,
    )(multi_del_many)

    def _run(
        self,
        requests: list[Request],
        finish: Callable[[int, Buffer], Any],
        concurrency: int,
        timeout: float | None,
        retry: RetryPolicy | None,
        *,
        return_errors: bool,
        second: int | None = None,
        usual: Callable[[Any], object] | None = None,
    ) -> list[Any]:
        if not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidArgument(f"concurrency must be a whole number above 0, not {concurrency!r}")
        bulk = Bulk(self._dispatcher, requests, finish, timeout, retry, concurrency, second, usual=usual)
        results = bulk.run()
        if bulk.failed and not return_errors:
            raise_first(results)
        return results
