"""A result backend that stores Celery's results in a Pegasus table.

::

    app = Celery("shop", broker="redis://10.0.0.9", backend="pegasus://10.0.0.1:34601,10.0.0.2:34601/celery?timeout=2")

The package registers the scheme ``pegasus`` as an entry point of Celery.

Keys: the hash key is Celery's own key as UTF-8: ``celery-task-meta-<id>``, ``celery-taskset-meta-<id>`` for a group,
``chord-unlock-<id>`` for the counter of a chord, each with ``global_keyprefix`` before it if that is set. The sort key
is empty. Values are in the format of Celery's ``result_serializer`` (JSON by default). This module pickles nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import BackendStoreError, ImproperlyConfigured

from ..errors import AccessDenied, InvalidArgument, PegasusError, TableNotFound
from ..shared import bounded_ttl, shared_table


class PegasusBackend(KeyValueStoreBackend):
    """A result backend for the pools gevent, prefork, threads and solo. A process has one client for each URL.

    The servers expire results after ``result_expires``. A chord counts its finished parts with ``incr``, which is
    atomic. Results are polled: ``AsyncResult.get`` reads every ``interval`` seconds.

    Celery makes the backend. It passes the application as ``app`` and the setting ``result_backend`` as ``url``.

    Raises:
        ImproperlyConfigured: The URL is wrong.
    """

    implements_incr = True
    supports_native_join = True
    supports_autoexpire = True

    def __init__(self, app: Any = None, url: str | None = None, **options: Any) -> None:
        """Check the URL. The first call gets or makes the client, in its own process."""
        super().__init__(app, url=url, **options)
        try:
            self._table = shared_table(url or "")
        except InvalidArgument as error:
            raise ImproperlyConfigured(str(error)) from error

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Pickle the URL."""
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires, "url": self.url})

    def as_uri(self, include_password: bool = True) -> str:  # noqa: FBT001, FBT002 - Celery's signature
        """Return the URL. It has no password. It can have several hosts, so Celery's own method cannot parse it."""
        return str(self.url)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Tell whether Celery may repeat a call, for the setting ``result_backend_always_retry``."""
        return isinstance(exc, PegasusError) and not isinstance(exc, (InvalidArgument, TableNotFound, AccessDenied))

    def _ttl(self, seconds: float | None) -> float | None:
        return bounded_ttl(seconds) if seconds else None

    def get(self, key: str | bytes) -> Any:
        """Return a stored value; None if there is none."""
        return self._table.get(key, b"")

    def mget(self, keys: Iterable[str | bytes]) -> list[Any]:
        """Return stored values in the order of the keys, read in parallel."""
        return self._table.get_many([(key, b"") for key in keys])

    def set(self, key: str | bytes, value: Any) -> None:
        """Store a value, which expires after ``result_expires``."""
        try:
            self._table.set(key, b"", value, ttl=self._ttl(self.expires))
        except InvalidArgument as error:
            raise BackendStoreError(str(error)) from error

    def delete(self, key: str | bytes) -> None:
        """Remove a value. It is no error if it is absent."""
        self._table.remove(key, b"")

    def incr(self, key: str | bytes) -> int:
        """Count one more finished part of a chord.

        The call is not repeated if its outcome is unknown; the error is raised. If a part were counted twice, the body
        of the chord would start before all parts have ended. If a part is not counted, the chord does not end.
        """
        return int(self._table.incr(key, b"", 1, ttl=self._ttl(self.expires)))

    def expire(self, key: str | bytes, value: float | None) -> bool:
        """Make a key expire after this many seconds; None or 0: never. Return whether it exists."""
        return bool(self._table.touch(key, b"", self._ttl(value)))
