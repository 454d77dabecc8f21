"""Django's cache on Pegasus, and through it Django's sessions.

::

    CACHES = {
        "default": {
            "BACKEND": "pegasus_green.contrib.django.PegasusCache",
            "LOCATION": "pegasus://10.0.0.1:34601,10.0.0.2:34601/django?timeout=0.5",
        }
    }
    SESSION_ENGINE = "django.contrib.sessions.backends.cache"

Key layout: the hash key is what Django's ``make_key`` returns, ``prefix:version:key`` as UTF-8, and the sort key is
empty. Values: an ``int`` is stored as decimal text, so that ``incr`` is atomic; **everything else is pickled**, which
means that whoever can write to the table can run code in the processes that read it. ``OPTIONS["serializer"]`` names
another serializer.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Iterable, Mapping
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

# Stands for a key and a version when clear() asks KEY_FUNCTION how its keys begin.
_PROBE = "\N{REPLACEMENT CHARACTER}"
_OPTIONS = {"serializer", "IGNORE_EXCEPTIONS", "MAX_ENTRIES", "CULL_FREQUENCY"}


class PickleSerializer:
    """The default serializer: an int as decimal text, everything else by pickle.

    Its interface is that of the serializers of Django's Redis backend.
    """

    def dumps(self, value: Any) -> bytes:
        """Return the bytes to store; a bool is pickled, since an int would come back."""
        if type(value) is int:
            return b"%d" % value
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    def loads(self, raw: bytes) -> Any:
        """Return the value; no pickle looks like an integer."""
        try:
            return int(raw)
        except ValueError:
            return pickle.loads(raw)


class PegasusCache(BaseCache):
    """A cache backend for ``CACHES``; all instances in a process share one client.

    Settings:
        LOCATION: ``pegasus://host:port,host:port/table``, with options of the client behind ``?``.
        TIMEOUT, KEY_PREFIX, VERSION, KEY_FUNCTION: As for every backend of Django.
        OPTIONS: ``serializer``: a class, an instance or a dotted name, with ``dumps`` and ``loads``.
            ``IGNORE_EXCEPTIONS``: True makes a Pegasus that does not answer look like an empty cache: the error is
            logged as a warning, and the method returns what it returns for an absent key. ``MAX_ENTRIES`` and
            ``CULL_FREQUENCY`` have no effect: expired records take no room, and nothing else is removed.

    Raises:
        ImproperlyConfigured: LOCATION is no such URL, or an option is unknown.
    """

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        """Look the client up, or make it; no I/O."""
        super().__init__(params)
        options = params.get("OPTIONS", {})
        if unknown := sorted(set(options) - _OPTIONS):
            raise ImproperlyConfigured(f"unknown OPTIONS {', '.join(unknown)}; there are {', '.join(sorted(_OPTIONS))}")
        try:
            self._table = shared_table(location)
        except InvalidArgument as error:
            raise ImproperlyConfigured(f"LOCATION: {error}") from error
        serializer = options.get("serializer", PickleSerializer)
        serializer = import_string(serializer) if isinstance(serializer, str) else serializer
        self._serializer = serializer() if callable(serializer) else serializer
        self._ignore = bool(options.get("IGNORE_EXCEPTIONS", False))
        # A key with less than this many seconds left may expire while incr() is under way.
        self._brink = self._table.client.options.timeout + 2

    def _key(self, key: Any, version: int | None) -> bytes:
        text = self.make_and_validate_key(key, version=version)
        raw: bytes = text.encode()
        if not 0 < len(raw) <= MAX_HASH_KEY:
            raise InvalidCacheKey(f"a cache key has 1 to {MAX_HASH_KEY} bytes with prefix and version, not {len(raw)}")
        return raw

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Return the TTL in seconds: None for no expiry, 0 for what is not to be stored at all."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else bounded_ttl(max(0, timeout))

    def _check_ignorable(self, error: PegasusError, operation: str) -> None:
        """Log an error that is to be ignored; raise any other."""
        if not self._ignore or isinstance(error, (InvalidArgument, IntegerOverflow)):
            raise error
        logger.warning("cache %s failed and is ignored: %s", operation, error)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the value, or the default when there is none."""
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
        """Store a value if the key is absent, in one step; tell whether it was stored.

        An error with ``outcome_unknown`` means that it may have been stored; it is not repeated.
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
        """Give a key another timeout and tell whether it is there; 0 or less removes it.

        Pegasus has no such operation: the value is read and written back if it is still the same.
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
        """Remove a key and tell whether it was there, in one step."""
        return self._delete_raw(self._key(key, version), CheckType.EXIST)

    def _delete_raw(self, hash_key: bytes, check: CheckType, operand: bytes | None = None) -> bool:
        try:
            removal = Mutations().delete(b"")
            return bool(self._table.check_and_mutate(hash_key, b"", check, operand, mutations=removal))
        except PegasusError as error:
            self._check_ignorable(error, "delete")
            return False

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Tell whether the key is there; the value does not travel."""
        try:
            return bool(self._table.exist(self._key(key, version), b""))
        except PegasusError as error:
            self._check_ignorable(error, "has_key")
            return False

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to an int and return the sum, atomically; the timeout stays as it is.

        Raises:
            ValueError: The key is absent (or Pegasus does not answer and exceptions are ignored).
            TypeError: The value is no int of 64 bits.
            PegasusError: With ``outcome_unknown`` it may have been added; it is not repeated.
        """
        hash_key = self._key(key, version)
        try:
            left = self._table.ttl(hash_key, b"")
            if left is None:
                raise ValueError(f"Key {key!r} not found")
            total = self._table.incr(hash_key, b"", delta)
            # Pegasus creates an absent record, without an expiry. Either sign makes it worth a look.
            if (total == delta or left < self._brink) and self._was_created(hash_key, left):
                raise ValueError(f"Key {key!r} not found")
        except NotAnInteger:
            raise TypeError(f"the value of key {key!r} is no integer of 64 bits") from None
        except PegasusError as error:
            self._check_ignorable(error, "incr")
            raise ValueError(f"Key {key!r} not found: {error}") from error
        return total

    def _was_created(self, hash_key: bytes, left: float) -> bool:
        """Tell whether a key with a timeout ended right before it was added to, and remove what was created then."""
        while left != math.inf and self._table.ttl(hash_key, b"") == math.inf:
            # Whoever else counted on it in the meantime sees the same, and whoever stored a value of his own keeps it.
            raw = self._table.get(hash_key, b"")
            if raw is None or not raw.lstrip(b"-").isdigit() or self._delete_raw(hash_key, CheckType.BYTES_EQUAL, raw):
                return True
        return False

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return the values of those keys that are there, read side by side."""
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
        """Store many values side by side; return the keys that failed when exceptions are ignored, else none."""
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
        """Remove many keys side by side."""
        pairs = [(self._key(key, version), b"") for key in keys]
        try:
            for result in self._table.remove_many(pairs, return_errors=self._ignore):
                if result is not None:
                    self._check_ignorable(result, "delete_many")
        except PegasusError as error:
            self._check_ignorable(error, "delete_many")

    def clear(self) -> bool:
        """Remove every key of this cache's KEY_PREFIX, in all versions; others in the table stay.

        Slow: the servers look through the whole table. A key that is stored meanwhile may stay or go.

        Raises:
            NotImplementedError: KEY_FUNCTION makes keys that do not begin alike.
        """
        beginning = self._beginning()
        try:
            remove_prefix(self._table, beginning)
        except PegasusError as error:
            self._check_ignorable(error, "clear")
            return False
        return True

    def _beginning(self) -> str:
        """Return what all keys of this cache begin with."""
        made: str = self.key_func(_PROBE, self.key_prefix, _PROBE)
        beginning, found, _ = made.partition(_PROBE)
        if not found or not beginning:
            raise NotImplementedError(
                "clear() cannot tell this cache's keys from others: KEY_FUNCTION gives them no common beginning"
            )
        return beginning
