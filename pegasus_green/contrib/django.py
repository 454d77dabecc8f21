"""A cache backend for Django, and so for Django's sessions.

::

    CACHES = {
        "default": {
            "BACKEND": "pegasus_green.contrib.django.PegasusCache",
            "LOCATION": "pegasus://10.0.0.1:34601,10.0.0.2:34601/django?timeout=0.5",
        }
    }
    SESSION_ENGINE = "django.contrib.sessions.backends.cache"

Keys: the hash key is the result of Django's ``make_key``, ``prefix:version:key``, as UTF-8; the sort key is empty.
Values: an ``int`` is stored as decimal text, so that ``incr`` is atomic. **All other values are pickled**. So a writer
of the table can run code in the processes that read it. ``OPTIONS["serializer"]`` sets another serializer.
"""

from __future__ import annotations

import logging
import math
import pickle
import re
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..errors import IntegerOverflow, InvalidArgument, NotAnInteger, PegasusError
from ..keys import MAX_HASH_KEY
from ..model import CheckType
from ..operations.atomic import Mutations
from ..shared import bounded_ttl, remove_prefix, shared_table

logger = logging.getLogger(__name__)

# clear() passes this as key to KEY_FUNCTION, to find the common prefix of all keys.
_PROBE = "\N{REPLACEMENT CHARACTER}"
_INTEGER = re.compile(rb"-?[0-9]+")
_EQUAL = CheckType.BYTES_EQUAL
_OPTIONS = {"serializer", "IGNORE_EXCEPTIONS", "MAX_ENTRIES", "CULL_FREQUENCY"}


class PickleSerializer:
    """The default serializer: an int is decimal text, all other values are pickles.

    Its interface is that of the serializers of Django's Redis backend.
    """

    def dumps(self, value: Any) -> bytes:
        """Return the bytes to store. A bool is pickled, because it would come back as an int otherwise."""
        if type(value) is int:
            return b"%d" % value
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    def loads(self, raw: bytes) -> Any:
        """Return the value. No pickle looks like an integer."""
        try:
            return int(raw)
        except ValueError:
            return pickle.loads(raw)


class PegasusCache(BaseCache):
    """A cache backend for ``CACHES``. All instances in a process with one URL share one client.

    Settings:
        LOCATION: ``pegasus://host:port,host:port/table``, with options of the client after ``?``.
        TIMEOUT, KEY_PREFIX, VERSION, KEY_FUNCTION: As for every Django backend.
        OPTIONS: ``serializer``: a class, an instance or a dotted name, with ``dumps`` and ``loads``.
            ``IGNORE_EXCEPTIONS``: if it is True and Pegasus does not answer, the backend behaves like an empty cache:
            it logs the error as a warning and returns the result for an absent key. ``MAX_ENTRIES`` and
            ``CULL_FREQUENCY`` have no effect: the servers remove expired records, and no others.

    Raises:
        ImproperlyConfigured: LOCATION is not such a URL, or an option is unknown.
    """

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        """Get or make the client of the URL; no I/O."""
        super().__init__(params)
        options = params.get("OPTIONS", {})
        if unknown := sorted(set(options) - _OPTIONS):
            raise ImproperlyConfigured(f"unknown OPTIONS {', '.join(unknown)}; known: {', '.join(sorted(_OPTIONS))}")
        try:
            self._table = shared_table(location)
        except InvalidArgument as error:
            raise ImproperlyConfigured(f"LOCATION: {error}") from error
        serializer = options.get("serializer", PickleSerializer)
        serializer = import_string(serializer) if isinstance(serializer, str) else serializer
        self._serializer = serializer() if callable(serializer) else serializer
        self._ignore = bool(options.get("IGNORE_EXCEPTIONS", False))

    def _key(self, key: Any, version: int | None) -> bytes:
        text = self.make_and_validate_key(key, version=version)
        raw: bytes = text.encode()
        if not 0 < len(raw) <= MAX_HASH_KEY:
            raise InvalidCacheKey(f"a cache key has 1 to {MAX_HASH_KEY} bytes with prefix and version, not {len(raw)}")
        return raw

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Return the TTL in seconds: None for no expiry, 0 for a value that is not stored."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else bounded_ttl(max(0, timeout))

    def _check_ignorable(self, error: PegasusError, operation: str) -> None:
        """Log an error if it is to be ignored; raise any other."""
        if not self._ignore or isinstance(error, (InvalidArgument, IntegerOverflow)):
            raise error
        logger.warning("cache %s failed and is ignored: %s", operation, error)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the value, or the default if there is none."""
        try:
            raw = self._table.get(self._key(key, version), b"")
        except PegasusError as error:
            self._check_ignorable(error, "get")
            raw = None
        return default if raw is None else self._serializer.loads(raw)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value; a timeout of 0 or less removes the key."""
        hash_key, raw, ttl = self._key(key, version), self._serializer.dumps(value), self.get_backend_timeout(timeout)
        try:
            if ttl == 0:
                self._table.remove(hash_key, b"")
            else:
                self._table.set(hash_key, b"", raw, ttl=ttl)
        except PegasusError as error:
            self._check_ignorable(error, "set")

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value if the key is absent, in one atomic step; return whether it was stored.

        If an error has ``outcome_unknown``, the value may have been stored. The call is not repeated.
        """
        hash_key, raw, ttl = self._key(key, version), self._serializer.dumps(value), self.get_backend_timeout(timeout)
        try:
            if ttl == 0:
                return not self._table.exist(hash_key, b"")
            return bool(self._table.check_and_set(hash_key, b"", CheckType.NOT_EXIST, value=raw, ttl=ttl))
        except PegasusError as error:
            self._check_ignorable(error, "add")
            return False

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Set another timeout on a key and return whether the key exists. A timeout of 0 or less removes it.

        Pegasus has no such operation: the client reads the value and writes it back if it has not changed.
        """
        ttl = self.get_backend_timeout(timeout)
        if ttl == 0:
            return self.delete(key, version=version)
        try:
            return bool(self._table.touch(self._key(key, version), b"", ttl))
        except PegasusError as error:
            self._check_ignorable(error, "touch")
            return False

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Remove a key and return whether it existed, in one atomic step."""
        hash_key, removal = self._key(key, version), Mutations().delete(b"")
        try:
            return bool(self._table.check_and_mutate(hash_key, b"", CheckType.EXIST, mutations=removal))
        except PegasusError as error:
            self._check_ignorable(error, "delete")
            return False

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Tell whether the key exists, without transferring its value."""
        try:
            return bool(self._table.exist(self._key(key, version), b""))
        except PegasusError as error:
            self._check_ignorable(error, "has_key")
            return False

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to an int atomically and return the sum. The timeout does not change.

        If the key is deleted right before the addition, it starts again at 0, with the rest of its timeout.

        Raises:
            ValueError: The key is absent, or Pegasus does not answer and exceptions are ignored. If the key expires
                right before the addition, Pegasus creates it, and it expires again after a second.
            TypeError: The value is not a 64-bit int.
            PegasusError: If ``outcome_unknown`` is set, the number may have been added. The call is not repeated.
        """
        hash_key = self._key(key, version)
        try:
            total = self._incr(hash_key, delta)
        except NotAnInteger:
            raise TypeError(f"the value of key {key!r} is not a 64-bit integer") from None
        except PegasusError as error:
            self._check_ignorable(error, "incr")
            raise ValueError(f"Key {key!r} not found: {error}") from error
        if total is None:
            raise ValueError(f"Key {key!r} not found")
        return total

    def _incr(self, hash_key: bytes, delta: int) -> int | None:
        """Add to a number and return the sum; None: there is no such key."""
        begun = monotonic()
        left = self._table.ttl(hash_key, b"")
        if left is None:
            return None
        # The addition itself keeps the expiry. A compare-and-set would store a new one, by the clock of this machine:
        # with a clock that is ahead, a number that is often incremented would never expire.
        total = self._table.incr(hash_key, b"", delta)
        if total == delta and left != math.inf:
            # Servers round the seconds up. A key that cannot have expired was deleted.
            expired = monotonic() - begun > left - 1
            if self._was_created(hash_key, 1 if expired else left) and expired:
                return None
        return total

    def _was_created(self, hash_key: bytes, seconds: float) -> bool:
        """Tell whether the addition has created the key, which then has no expiry. If so, it gets this timeout."""
        created = False
        while self._table.ttl(hash_key, b"") == math.inf:
            created = True
            raw = self._table.get(hash_key, b"")
            # Another caller may have changed it meanwhile. If it is not a number, another caller has stored it.
            if raw is None or not _INTEGER.fullmatch(raw):
                break
            if self._table.check_and_set(hash_key, b"", _EQUAL, raw, value=raw, ttl=seconds):
                break
        return created

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return the values of the keys that exist, read in parallel."""
        names = {self._key(key, version): key for key in keys}
        try:
            found = self._table.get_many([(raw, b"") for raw in names], return_errors=self._ignore)
        except PegasusError as error:
            self._check_ignorable(error, "get_many")
            return {}
        values = {}
        for key, raw in zip(names.values(), found):
            if isinstance(raw, PegasusError):
                self._check_ignorable(raw, "get_many")
            elif raw is not None:
                values[key] = self._serializer.loads(raw)
        return values

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Store many values in parallel. Return the keys that failed if exceptions are ignored, else an empty list."""
        items = [(self._key(key, version), b"", self._serializer.dumps(value)) for key, value in data.items()]
        ttl = self.get_backend_timeout(timeout)
        try:
            if ttl == 0:
                results = self._table.remove_many([item[:2] for item in items], return_errors=self._ignore)
            else:
                results = self._table.set_many(items, ttl=ttl, return_errors=self._ignore)
        except PegasusError as error:
            self._check_ignorable(error, "set_many")
            return list(data)
        failed = []
        for key, result in zip(data, results):
            if result is not None:
                self._check_ignorable(result, "set_many")
                failed.append(key)
        return failed

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Remove many keys in parallel."""
        pairs = [(self._key(key, version), b"") for key in keys]
        try:
            for result in self._table.remove_many(pairs, return_errors=self._ignore):
                if result is not None:
                    self._check_ignorable(result, "delete_many")
        except PegasusError as error:
            self._check_ignorable(error, "delete_many")

    def clear(self) -> bool:
        """Remove every key with this cache's KEY_PREFIX, in all versions. Other keys in the table stay.

        Slow: the servers read the whole table. A key that is stored meanwhile may or may not be removed.

        Raises:
            NotImplementedError: KEY_FUNCTION makes keys without a common prefix.
        """
        beginning = self._beginning()
        try:
            remove_prefix(self._table, beginning)
        except PegasusError as error:
            self._check_ignorable(error, "clear")
            return False
        return True

    def _beginning(self) -> str:
        """Return the common prefix of all keys of this cache."""
        made: str = self.key_func(_PROBE, self.key_prefix, _PROBE)
        beginning, found, _ = made.partition(_PROBE)
        if not found or not beginning:
            raise NotImplementedError("clear() cannot find this cache's keys: KEY_FUNCTION gives them no common prefix")
        return beginning
