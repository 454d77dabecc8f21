"""A ``requests-cache`` backend, for crawlers that share a cache.

::

    cache = PegasusCache("pegasus://10.0.0.1:34601/http?timeout=2", namespace="crawler")
    session = requests_cache.CachedSession(backend=cache, expire_after=3600)

Keys: the hash key is ``namespace:responses:key`` or ``namespace:redirects:key`` as UTF-8, where ``key`` is the key of
requests-cache for a request; the sort key is empty. Responses are stored as JSON. ``serializer="pickle"`` is smaller
and faster. With it, a writer of the table can run code in the processes that read it.
"""

from __future__ import annotations

import logging
from collections.abc import ItemsView, Iterable, Iterator, ValuesView
from typing import Any

from requests_cache.backends import BaseCache, BaseStorage

from ..errors import InvalidArgument
from ..model import CheckType, Filter
from ..operations.atomic import Mutations
from ..shared import bounded_ttl, remove_prefix, shared_table

logger = logging.getLogger(__name__)


class PegasusCache(BaseCache):
    """A cache for ``CachedSession(backend=...)``; all instances with one URL in a process share one client.

    Args:
        url: ``pegasus://host:port,host:port/table``, with options of the client after ``?``.
        namespace: Prefix of the hash keys. ``clear`` removes the keys with this prefix.
        serializer: As for the other backends of requests-cache; None: "json".
        ttl: True: the server removes a response ``ttl_offset`` seconds after its expiry. False: it never does.
        ttl_offset: Seconds that an expired response stays, for conditional requests and for use if a site fails.
        **options: Options that every backend of requests-cache takes.

    Raises:
        InvalidArgument: The URL is wrong.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "http_cache",
        *,
        serializer: Any = None,
        ttl: bool = True,
        ttl_offset: int = 3600,
        **options: Any,
    ) -> None:
        """Get or make the client of the URL; no I/O."""
        super().__init__(cache_name=namespace, **options)
        self.responses = PegasusDict(
            url, namespace, "responses", serializer=serializer or "json", ttl=ttl, ttl_offset=ttl_offset, **options
        )
        self.redirects = PegasusDict(url, namespace, "redirects", serializer=None, ttl=False)


class PegasusDict(BaseStorage):
    """The responses, or the redirects, of one namespace as a mutable mapping.

    Iteration and ``len`` are slow, because the servers read the whole table for them.

    Args:
        url: As for ``PegasusCache``.
        namespace: As for ``PegasusCache``.
        collection_name: "responses" or "redirects": a part of the hash keys.
        serializer: As for ``PegasusCache``.
        ttl: As for ``PegasusCache``.
        ttl_offset: As for ``PegasusCache``.
        **options: As for ``PegasusCache``.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "http_cache",
        collection_name: str = "responses",
        *,
        serializer: Any = "json",
        ttl: bool = True,
        ttl_offset: int = 3600,
        **options: Any,
    ) -> None:
        """Get or make the client of the URL; no I/O."""
        super().__init__(serializer=serializer, **options)
        self._table = shared_table(url)
        self._prefix = f"{namespace}:{collection_name}:"
        # A text serializer gets a str, a binary one gets bytes.
        self._is_text = serializer is None or not getattr(self.serializer, "is_binary", True)
        self.ttl = ttl
        self.ttl_offset = ttl_offset

    def _key(self, key: Any) -> str:
        return f"{self._prefix}{key}"

    def _load(self, key: str, raw: bytes) -> Any:
        return self.deserialize(key, raw.decode() if self._is_text else raw)

    def __contains__(self, key: object) -> bool:
        """Tell whether a key exists, without transferring its value."""
        return bool(self._table.exist(self._key(key), b""))

    def __getitem__(self, key: str) -> Any:
        """Return a value."""
        raw = self._table.get(self._key(key), b"")
        if raw is None:
            raise KeyError(key)
        return self._load(key, raw)

    def __setitem__(self, key: str, item: Any) -> None:
        """Store a value. A response that is too large for the table is not cached; a warning is logged."""
        seconds = getattr(item, "expires_delta", None)
        expiry = None
        if self.ttl and seconds is not None:
            # A response can have expired longer ago than the offset. It gets one second, so it does not stay for ever.
            expiry = bounded_ttl(max(seconds + self.ttl_offset, 1))
        raw = self.serialize(item)
        try:
            self._table.set(self._key(key), b"", raw, ttl=expiry)
        except InvalidArgument as error:
            # For a small response the reason is the key or the TTL. That is an error.
            if len(raw) <= (self._table.client.options.max_write_bytes or 0) // 2:
                raise
            logger.warning("a response is not cached: %s", error)

    def __delitem__(self, key: str) -> None:
        """Remove a value and check that it exists, in one atomic step."""
        removal = Mutations().delete(b"")
        if not self._table.check_and_mutate(self._key(key), b"", CheckType.EXIST, mutations=removal):
            raise KeyError(key)

    def _rows(self, *, no_value: bool) -> Iterator[tuple[str, bytes]]:
        wanted = Filter.prefix(self._prefix)
        cut = len(self._prefix.encode())
        for hash_key, sort_key, *rest in self._table.scan(hash_key_filter=wanted, no_value=no_value):
            if sort_key == b"":
                yield hash_key[cut:].decode(), rest[0] if rest else b""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys, in no particular order."""
        return (key for key, _ in self._rows(no_value=True))

    def __len__(self) -> int:
        """Count the keys; the servers count."""
        return int(self._table.count(hash_key_filter=Filter.prefix(self._prefix)))

    def items(self) -> ItemsView[str, Any]:
        """Return a view of keys and values; each iteration is one scan."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Return a view of the values; each iteration is one scan."""
        return _Values(self)

    def bulk_delete(self, keys: Iterable[str]) -> None:
        """Remove many values in parallel. It is no error if one is absent."""
        self._table.remove_many([(self._key(key), b"") for key in keys])

    def clear(self) -> None:
        """Remove all values of this namespace and collection. Slow: the servers read the whole table."""
        remove_prefix(self._table, self._prefix)


class _Items(ItemsView[str, Any]):
    """Keys and values by one scan. The view of the base class would read each value by itself."""

    _mapping: PegasusDict

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        mapping = self._mapping
        return ((key, mapping._load(key, raw)) for key, raw in mapping._rows(no_value=False))


class _Values(ValuesView[Any]):
    """Values by one scan."""

    _mapping: PegasusDict

    def __iter__(self) -> Iterator[Any]:
        mapping = self._mapping
        return (mapping._load(key, raw) for key, raw in mapping._rows(no_value=False))
