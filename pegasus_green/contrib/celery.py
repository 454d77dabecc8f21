"""Celery's results in a Pegasus table.

::

    app = Celery("shop", broker="redis://10.0.0.9", backend="pegasus://10.0.0.1:34601,10.0.0.2:34601/celery?timeout=2")

The package registers the scheme ``pegasus`` as an entry point of Celery.

Key layout: the hash key is Celery's own key as UTF-8 (``celery-task-meta-<id>``, ``celery-taskset-meta-<id>`` for a
group, ``chord-unlock-<id>`` for a chord's counter, each behind ``global_keyprefix`` where that is set); the sort key is
empty. Values are what Celery's ``result_serializer`` makes (JSON unless it is changed); nothing is pickled here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import BackendStoreError, ImproperlyConfigured

from ..errors import AccessDenied, InvalidArgument, PegasusError, TableNotFound
from ..shared import bounded_ttl, shared_table


class PegasusBackend(KeyValueStoreBackend):
    """A result backend for the pools gevent, prefork, threads and solo; a process has one client for a URL.

    Results expire after ``result_expires``, in the servers. A chord counts its finished parts by ``incr``, which is
    atomic. Results are polled: ``AsyncResult.get`` looks every ``interval`` seconds.

    Raises:
        ImproperlyConfigured: Not such a URL.
    """

    implements_incr = True
    supports_native_join = True
    supports_autoexpire = True

    def __init__(self, app: Any = None, url: str | None = None, **options: Any) -> None:
        """Look at the URL; the client is looked up, or made, with the first call, in the process that makes it."""
        super().__init__(app, url=url, **options)
        try:
            self._table = shared_table(url or "")
        except InvalidArgument as error:
            raise ImproperlyConfigured(str(error)) from error

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Pickle by URL."""
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires, "url": self.url})

    def as_uri(self, include_password: bool = True) -> str:  # noqa: FBT001, FBT002 - Celery's signature
        """Return the URL; there is no password in it, and several hosts, which Celery cannot parse."""
        return str(self.url)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Tell whether Celery may repeat a call, for ``result_backend_always_retry``."""
        return isinstance(exc, PegasusError) and not isinstance(exc, (InvalidArgument, TableNotFound, AccessDenied))

    def _ttl(self, seconds: float | None) -> float | None:
        return bounded_ttl(seconds) if seconds else None

    def get(self, key: str | bytes) -> Any:
        """Return a stored value, None when there is none."""
        return self._table.get(key, b"")

    def mget(self, keys: Iterable[str | bytes]) -> list[Any]:
        """Return stored values in the order of the keys, read side by side."""
        return self._table.get_many([(key, b"") for key in keys])

    def set(self, key: str | bytes, value: Any) -> None:
        """Store a value, which expires after ``result_expires``."""
        try:
            self._table.set(key, b"", value, ttl=self._ttl(self.expires))
        except InvalidArgument as error:
            raise BackendStoreError(str(error)) from error

    def delete(self, key: str | bytes) -> None:
        """Remove a value; an absent one is fine."""
        self._table.remove(key, b"")

    def incr(self, key: str | bytes) -> int:
        """Count one more finished part of a chord.

        It is not repeated once its outcome is unknown: a part that is counted twice would start the chord's body before
        all parts have ended, and one that is not counted leaves the chord waiting. The error is raised.
        """
        return int(self._table.incr(key, b"", 1, ttl=self._ttl(self.expires)))

    def expire(self, key: str | bytes, value: float | None) -> bool:
        """Have a key expire in so many seconds; None or 0: never. Tell whether it is there."""
        return bool(self._table.touch(key, b"", self._ttl(value)))
