"""A cache for cachelib, and so for Flask-Session and Flask-Caching.

::

    cache = PegasusCache("pegasus://10.0.0.1:34601/flask?timeout=0.5", key_prefix="app:")

    app.config["SESSION_TYPE"] = "cachelib"           # Flask-Session
    app.config["SESSION_CACHELIB"] = cache

    app.config["CACHE_TYPE"] = "pegasus_green.contrib.cachelib.flask_cache"       # Flask-Caching
    app.config["CACHE_OPTIONS"] = {"url": "pegasus://10.0.0.1:34601/flask", "key_prefix": "page:"}

Keys: the hash key is the prefix and the key, as UTF-8; the sort key is empty. Values: an ``int`` is stored as decimal
text, so that ``inc`` and ``dec`` are atomic. **All other values are pickled**, in the format of cachelib's Redis cache:
``!``, then the pickle. So a writer of the table can run code in the processes that read it. The attribute
``serializer`` of an instance can be set to another serializer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from cachelib.base import BaseCache
from cachelib.serializers import RedisSerializer

from ..errors import IntegerOverflow, InvalidArgument, NotAnInteger, PegasusError
from ..model import CheckType
from ..operations.atomic import Mutations
from ..shared import bounded_ttl, remove_prefix, shared_table

logger = logging.getLogger(__name__)


class PegasusSerializer(RedisSerializer):
    """The format of cachelib's Redis cache. An int is always decimal text; cachelib before 0.14 pickles it."""

    def dumps(self, value: Any, *arguments: Any, **options: Any) -> bytes:
        """Return the bytes to store."""
        if type(value) is int:
            return b"%d" % value
        raw: bytes = super().dumps(value, *arguments, **options)
        return raw


class PegasusCache(BaseCache):
    """A cachelib cache in a Pegasus table; all instances with one URL in a process share one client.

    Args:
        url: ``pegasus://host:port,host:port/table``, with options of the client after ``?``.
        default_timeout: Seconds (or a timedelta) for values that are stored without a timeout; 0: they never expire.
        key_prefix: Text before every key, or a function that returns it. ``clear`` removes the keys with this prefix.
        ignore_delete_many_errors: True: the result of ``delete_many`` omits a key that could not be removed. False:
            ``delete_many`` raises the error, unless ``ignore_errors`` is set.
        ignore_errors: If Pegasus does not answer, behave like an empty cache: the error is logged as a warning, and a
            method returns what cachelib documents for an error of the backend (None, False or 0 keys).

    Raises:
        InvalidArgument: The URL is wrong.
    """

    serializer: Any = PegasusSerializer()

    def __init__(
        self,
        url: str,
        default_timeout: int | timedelta = 300,
        key_prefix: str | Callable[[], str] | None = None,
        *,
        ignore_delete_many_errors: bool = True,
        ignore_errors: bool = False,
    ) -> None:
        """Get or make the client of the URL; no I/O."""
        super().__init__(_seconds(default_timeout))
        self.ignore_delete_many_errors = ignore_delete_many_errors
        self.key_prefix = key_prefix or ""
        self.ignore_errors = ignore_errors
        self._table = shared_table(url)

    def _prefix(self) -> str:
        return self.key_prefix() if callable(self.key_prefix) else self.key_prefix

    def _ttl(self, timeout: int | timedelta | None) -> float | None:
        """Return the TTL in seconds; None for no expiry; below 0 for a value that has already expired."""
        seconds = self.default_timeout if timeout is None else _seconds(timeout)
        return bounded_ttl(seconds) or None

    def _check_ignorable(self, error: PegasusError, operation: str) -> None:
        """Log an error if it is to be ignored; raise any other."""
        if not self.ignore_errors or isinstance(error, (InvalidArgument, IntegerOverflow, NotAnInteger)):
            raise error
        logger.warning("cache %s failed and is ignored: %s", operation, error)

    def get(self, key: str) -> Any:
        """Return the value; None if there is none."""
        try:
            raw = self._table.get(f"{self._prefix()}{key}", b"")
        except PegasusError as error:
            self._check_ignorable(error, "get")
            raw = None
        return None if raw is None else self.serializer.loads(raw)

    def get_many(self, *keys: str) -> list[Any]:
        """Return the values in the order of the keys, read in parallel; None for absent keys."""
        prefix = self._prefix()
        try:
            found = self._table.get_many([(f"{prefix}{key}", b"") for key in keys], return_errors=self.ignore_errors)
        except PegasusError as error:
            self._check_ignorable(error, "get_many")
            return [None] * len(keys)
        for result in found:
            if isinstance(result, PegasusError):
                self._check_ignorable(result, "get_many")
        return [self.serializer.loads(raw) if isinstance(raw, bytes) else None for raw in found]

    def set(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value and return True. A timeout of 0 means no expiry; a negative one removes the key."""
        return bool(self.set_many({key: value}, timeout))

    def add(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value if the key is absent, in one atomic step; return whether it was stored.

        If an error has ``outcome_unknown``, the value may have been stored. The call is not repeated.
        """
        hash_key, raw, ttl = f"{self._prefix()}{key}", self.serializer.dumps(value), self._ttl(timeout)
        if ttl is not None and ttl < 0:
            return not self.has(key)
        try:
            return bool(self._table.check_and_set(hash_key, b"", CheckType.NOT_EXIST, value=raw, ttl=ttl))
        except PegasusError as error:
            self._check_ignorable(error, "add")
            return False

    def set_many(self, mapping: dict[str, Any], timeout: int | timedelta | None = None) -> list[str]:
        """Store many values in parallel and return the keys that were stored."""
        prefix, ttl = self._prefix(), self._ttl(timeout)
        items = [(f"{prefix}{key}", b"", self.serializer.dumps(value)) for key, value in mapping.items()]
        try:
            if ttl is not None and ttl < 0:
                results = self._table.remove_many([item[:2] for item in items], return_errors=self.ignore_errors)
            elif len(items) == 1:
                self._table.set(*items[0], ttl=ttl)
                return list(mapping)
            else:
                results = self._table.set_many(items, ttl=ttl, return_errors=self.ignore_errors)
        except PegasusError as error:
            self._check_ignorable(error, "set")
            return []
        return self._succeeded(list(mapping), results, "set")

    def _succeeded(self, keys: list[str], results: list[PegasusError | None], operation: str) -> list[str]:
        for error in results:
            if error is not None:
                self._check_ignorable(error, operation)
        return [key for key, error in zip(keys, results) if error is None]

    def delete(self, key: str) -> bool:
        """Remove a key and return whether it existed, in one atomic step."""
        removal = Mutations().delete(b"")
        try:
            return bool(self._table.check_and_mutate(f"{self._prefix()}{key}", b"", CheckType.EXIST, mutations=removal))
        except PegasusError as error:
            self._check_ignorable(error, "delete")
            return False

    def delete_many(self, *keys: str) -> list[str]:
        """Remove many keys in parallel and return the keys that are absent now, also those that did not exist."""
        prefix = self._prefix()
        try:
            results = self._table.remove_many([(f"{prefix}{key}", b"") for key in keys], return_errors=True)
        except PegasusError as error:
            self._check_ignorable(error, "delete_many")
            return []
        for result in results:
            if result is not None and not (self.ignore_errors or self.ignore_delete_many_errors):
                raise result
        return [key for key, result in zip(keys, results) if result is None]

    def has(self, key: str) -> bool:
        """Tell whether a key exists, without transferring its value."""
        try:
            return bool(self._table.exist(f"{self._prefix()}{key}", b""))
        except PegasusError as error:
            self._check_ignorable(error, "has")
            return False

    def clear(self) -> bool:
        """Remove all keys with this prefix; without a prefix, all keys of the table.

        Slow: the servers read the whole table. A key that is stored meanwhile may or may not be removed.
        """
        try:
            remove_prefix(self._table, self._prefix())
        except PegasusError as error:
            self._check_ignorable(error, "clear")
            return False
        return True

    def inc(self, key: str, delta: int = 1) -> int | None:
        """Add to an int atomically and return the sum. An absent key counts as 0, and then has no timeout.

        Raises:
            NotAnInteger: The value is not a 64-bit int.
            PegasusError: If ``outcome_unknown`` is set, the number may have been added. The call is not repeated.
        """
        try:
            return self._table.incr(f"{self._prefix()}{key}", b"", delta)
        except PegasusError as error:
            self._check_ignorable(error, "inc")
            return None

    def dec(self, key: str, delta: int = 1) -> int | None:
        """Subtract from an int; otherwise the same as ``inc``."""
        return self.inc(key, -delta)


def _seconds(timeout: float | timedelta) -> int:
    """Return a timeout in whole seconds, rounded up."""
    return math.ceil(timeout.total_seconds() if isinstance(timeout, timedelta) else timeout)


def flask_cache(*arguments: Any, **options: Any) -> PegasusCache:
    """Make the cache for a Flask-Caching extension; use it as ``CACHE_TYPE``.

    Releases up to 2.3 pass application, configuration, arguments and options. Later releases pass only the arguments
    and options.
    """
    if len(arguments) == 4:
        _, _, arguments, options = arguments
    return PegasusCache(*arguments, **options)
