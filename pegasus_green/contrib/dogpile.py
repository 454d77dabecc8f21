"""A ``dogpile.cache`` backend with a distributed lock.

::

    region = make_region().configure(
        "pegasus_green",
        expiration_time=300,
        arguments={"url": "pegasus://10.0.0.1:34601/cache?timeout=0.5", "ttl": 3600, "distributed_lock": True},
    )

The package registers the name ``pegasus_green`` as an entry point of ``dogpile.cache``.

Keys: the hash key is the key after the region's ``key_mangler``, as UTF-8; the sort key is empty. Values are the bytes
from the region's serializer. **dogpile's default serializer is pickle**. So a writer of the table can run code in the
processes that read it. ``make_region(serializer=..., deserializer=...)`` sets other functions. A lock is a
``pegasus_green.recipes.Lock`` in the same table, with the key as its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dogpile.cache.api import NO_VALUE, BytesBackend

from ..errors import InvalidArgument
from ..recipes import Lock
from ..shared import bounded_ttl, shared_table


class PegasusBackend(BytesBackend):
    """A backend that stores the serialized values in a Pegasus table.

    Settings are the keys of ``arguments``. The defaults are ttl=None, distributed_lock=False, lock_timeout=30.0,
    lock_sleep=0.1 and lock_blocking_timeout=None.

    Settings:
        url: ``pegasus://host:port,host:port/table``, with options of the client after ``?``.
        ttl: Seconds until the server expires a value, rounded up; use more than the region's ``expiration_time``. None:
            never.
        distributed_lock: Whether one caller of all processes creates a value while the others wait. If not, dogpile
            uses a lock of the process.
        lock_timeout: Seconds until a lock ends after its holder has died. A living holder renews it in a greenlet. If
            the holder computes for longer than this without letting other greenlets run, it loses the lock.
        lock_sleep: Maximum seconds between two attempts while others hold the lock.
        lock_blocking_timeout: Maximum seconds to wait for the lock; None: no limit.

    Raises:
        InvalidArgument: The URL is missing or wrong. Unknown arguments are ignored, as dogpile requires.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        """Get or make the client of the URL; no I/O."""
        if "url" not in arguments:
            raise InvalidArgument("arguments must contain the key url, pegasus://host:port/table")
        self._table = shared_table(arguments["url"])
        self._ttl: float | None = arguments.get("ttl")
        self._distributed: bool = arguments.get("distributed_lock", False)
        self._lock_options = {
            "timeout": arguments.get("lock_timeout", 30.0),
            "sleep": arguments.get("lock_sleep", 0.1),
            "blocking_timeout": arguments.get("lock_blocking_timeout"),
        }

    def _expiry(self) -> float | None:
        return None if self._ttl is None else bounded_ttl(self._ttl)

    def get_mutex(self, key: str) -> Mutex | None:
        """Return the lock of a key, or None if dogpile is to use a lock of the process."""
        return Mutex(Lock(self._table, key, **self._lock_options)) if self._distributed else None

    def get_serialized(self, key: str) -> Any:
        """Return the stored bytes, or NO_VALUE."""
        return self._table.get(key, b"", default=NO_VALUE)

    def get_serialized_multi(self, keys: Iterable[str]) -> list[Any]:
        """Return the stored bytes in the order of the keys, read in parallel; NO_VALUE for absent keys."""
        return self._table.get_many([(key, b"") for key in keys], default=NO_VALUE)

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store bytes."""
        self._table.set(key, b"", value, ttl=self._expiry())

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Store many values in parallel."""
        self._table.set_many([(key, b"", value) for key, value in mapping.items()], ttl=self._expiry())

    def delete(self, key: str) -> None:
        """Remove a value. It is no error if it is absent."""
        self._table.remove(key, b"")

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Remove many values in parallel."""
        self._table.remove_many([(key, b"") for key in keys])


class Mutex:
    """A lock with the methods that dogpile calls."""

    def __init__(self, lock: Lock) -> None:
        """Wrap the lock; nothing is sent."""
        self._lock = lock

    def acquire(self, wait: bool = True) -> bool:  # noqa: FBT001, FBT002 - dogpile's signature
        """Acquire the lock and return True. Without ``wait``, return False if another caller holds it."""
        return self._lock.acquire(blocking=wait)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def locked(self) -> bool:
        """Tell whether it is held."""
        return self._lock.locked()
