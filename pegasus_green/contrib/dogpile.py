"""A ``dogpile.cache`` backend with a lock over all processes.

::

    region = make_region().configure(
        "pegasus_green",
        expiration_time=300,
        arguments={"url": "pegasus://10.0.0.1:34601/cache?timeout=0.5", "ttl": 3600, "distributed_lock": True},
    )

The package registers the name ``pegasus_green`` as an entry point of ``dogpile.cache``.

Key layout: the hash key is the key after the region's ``key_mangler``, as UTF-8; the sort key is empty. Values are the
bytes that the region's serializer makes. **dogpile's own serializer is pickle**: whoever can write to the table can run
code in the processes that read it; ``make_region(serializer=..., deserializer=...)`` takes another one. A lock is the
recipe ``pegasus_green.recipes.Lock`` with the key as its name, in the same table.
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

    Arguments, as keys of ``arguments``:
        url: ``pegasus://host:port,host:port/table``, with options of the client behind ``?``.
        ttl: Seconds until the server drops a value, rounded up; it should be above the region's ``expiration_time``.
            None: never.
        distributed_lock: Have one caller of all processes create a value while the others wait. Without it dogpile
            uses a lock of the process.
        lock_timeout: Seconds until a lock ends whose holder has died; a living holder renews it. The holder must let
            gevent run for that: one that computes without a pause for longer than this loses the lock.
        lock_sleep: Seconds between two looks at a lock that others hold.
        lock_blocking_timeout: Seconds that a caller waits for the lock at most; None: for ever.

    Raises:
        InvalidArgument: No URL, or not such a URL. Unknown arguments are ignored, as dogpile asks of backends.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        """Look the client up, or make it; no I/O."""
        if "url" not in arguments:
            raise InvalidArgument("arguments must name a url, pegasus://host:port/table")
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
        """Return the lock of a key, or None to have dogpile use one of the process."""
        return Mutex(Lock(self._table, key, **self._lock_options)) if self._distributed else None

    def get_serialized(self, key: str) -> Any:
        """Return the stored bytes, or NO_VALUE."""
        return self._table.get(key, b"", default=NO_VALUE)

    def get_serialized_multi(self, keys: Iterable[str]) -> list[Any]:
        """Return the stored bytes in the order of the keys, read side by side, NO_VALUE for those that are absent."""
        return self._table.get_many([(key, b"") for key in keys], default=NO_VALUE)

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store bytes."""
        self._table.set(key, b"", value, ttl=self._expiry())

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Store many values side by side."""
        self._table.set_many([(key, b"", value) for key, value in mapping.items()], ttl=self._expiry())

    def delete(self, key: str) -> None:
        """Remove a value; an absent one is fine."""
        self._table.remove(key, b"")

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Remove many values side by side."""
        self._table.remove_many([(key, b"") for key in keys])


class Mutex:
    """A lock with the methods that dogpile calls."""

    def __init__(self, lock: Lock) -> None:
        """Wrap the lock; nothing is sent."""
        self._lock = lock

    def acquire(self, wait: bool = True) -> bool:  # noqa: FBT001, FBT002 - dogpile's signature
        """Take it; tell whether that succeeded."""
        return self._lock.acquire(blocking=wait)

    def release(self) -> None:
        """Give it back."""
        self._lock.release()

    def locked(self) -> bool:
        """Tell whether anybody holds it."""
        return self._lock.locked()
