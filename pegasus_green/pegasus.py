"""The documented API of the Pegasus Python client, with calls that block the greenlet instead of being yielded.

Names, parameters, defaults and return shapes are those of the official documentation; below is ``Table``. What the
cluster answers comes back as a code, an int of ``error_types``, and never as an exception.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from math import isnan
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .client import Client, Metas, Table
from .errors import (
    ClientClosed,
    ConnectFailed,
    InvalidArgument,
    PegasusError,
    TableUnavailable,
    WrongThread,
)
from .keys import Key, Values, to_bytes
from .model import Filter
from .options import ClientOptions
from .pegasus_types import MultiGetOptions, ScanOptions, error_types, filter_type, name_of

if TYPE_CHECKING:
    from .results import MultiGetResult
    from .scanner import Scanner

__all__ = ["MultiGetOptions", "Pegasus", "PegasusScanner", "ScanOptions", "error_types", "filter_type"]

_log = logging.getLogger("pegasus_green.pegasus")
_T = TypeVar("_T")


OK = error_types.ERR_OK.value
UNKNOWN = error_types.ERR_UNKNOWN.value
NOT_ACTIVE = error_types.ERR_SERVICE_NOT_ACTIVE.value
ABSENT = error_types.ERR_OBJECT_NOT_FOUND.value
INVALID_PARAMETERS = error_types.ERR_INVALID_PARAMETERS.value
INVALID_DATA = error_types.ERR_INVALID_DATA.value
INCOMPLETE = error_types.ERR_INCOMPLETE_DATA.value
_NUMBERS = {name: member.value for name, member in error_types.__members__.items()}
# One line a second at most for each name that has no number.
LOG_SECONDS = 1.0
MAX_LOGGED = 100


def _seconds(milliseconds: float) -> float | None:
    """Return a timeout of this API in seconds; None stands for the client's default."""
    if not isinstance(milliseconds, bool) and isinstance(milliseconds, (int, float)):
        try:
            if not isnan(milliseconds):
                return milliseconds / 1000 if milliseconds > 0 else None
        except OverflowError:
            raise InvalidArgument("timeout is too large a number of milliseconds") from None
    raise InvalidArgument(f"timeout must be a number of milliseconds, not {milliseconds!r}")


def _sort_keys(keys: Iterable[Key] | None) -> list[Key]:
    if isinstance(keys, (str, bytes, bytearray, memoryview)):
        raise InvalidArgument(f"sortkey_set must be several keys, such as a set, not one {type(keys).__name__}")
    if keys is not None and not isinstance(keys, Iterable):
        raise InvalidArgument(f"sortkey_set must be an iterable of keys or None, not {keys!r}")
    return [] if keys is None else list(keys)


def _rows(found: MultiGetResult[bytes]) -> tuple[int, dict[bytes, bytes]]:
    return OK if found.complete else INCOMPLETE, dict(found)


def _reach(table: Table[bytes]) -> None:
    """Learn the routes and connect; servers that cannot be reached are no failure while there are others."""
    try:
        if not table.warm_up():
            raise TableUnavailable("no partition has a primary now", table=table.name)
    except ConnectFailed as error:
        routes = table._dispatcher.routes.table
        if routes is None or not any(route.peer is not None and route.peer.connection for route in routes.routes):
            raise
        _log.warning("a server of table %s cannot be reached now: %s", table.name, error)


def _filter(kind: int, pattern: Key) -> Filter | None:
    # Filter itself refuses what is none.
    return Filter(kind, pattern) if kind else None  # type: ignore[arg-type]


class Pegasus:
    """A client of one table, in the shape that the documentation of the Python client describes.

    Making one does no I/O. Before ``init`` and after ``close`` every operation answers ERR_SERVICE_NOT_ACTIVE.

    Args:
        meta_addrs: Meta servers, a list of "host:port".
        table_name: The table's name.
        timeout: Milliseconds that a call may take with all its attempts, where the call itself does not say.

    Returns of operations: a tuple of a code, the int of an ``error_types`` member, and the result. On an error the
    result is of the same type, but empty: ``b""``, ``{}``, 0, or None where it means nothing.

    Raises of operations: InvalidArgument (a ValueError) for arguments that cannot be sent: an unsuitable type, an
    empty hash key for operations on several sort keys, a hash key over 65,534 bytes, a negative TTL. What the cluster
    answers is never raised.

    Retries: as those of ``Table``: what is safe to repeat is repeated until the timeout.
    Greenlets: any number may share one object; a call blocks only its own greenlet.

    In the examples of the methods ``c`` is the client of this one.

    Example:
        >>> c = Pegasus(["127.0.0.1:34601"], "temp")
        >>> c.init()
        True
        >>> c.set("hkey1", "skey1", "value", 0, 500)
        (0, None)
        >>> c.get("hkey1", "skey1")
        (0, b'value')
        >>> c.close()
    """

    def __init__(self, meta_addrs: Metas | None = None, table_name: str | bytes = "", timeout: float = 2000) -> None:
        """Remember where the table is; no I/O."""
        if meta_addrs is not None and not isinstance(meta_addrs, Iterable):
            raise InvalidArgument(f'meta_addrs must be a list of "host:port", not {meta_addrs!r}')
        self._metas = meta_addrs if isinstance(meta_addrs, str) else list(meta_addrs or [])
        self._name = table_name
        self._timeout = timeout
        self._client: Client | None = None
        self._table: Table[bytes] | None = None
        self._closings = 0
        self._logged: dict[str, float] = {}

    def __repr__(self) -> str:
        """Show table and client."""
        return f"<Pegasus {self._name!r} {self._client or 'not initialized'}>"

    def __reduce__(self) -> NoReturn:
        """Refuse pickling."""
        raise TypeError("a client cannot be pickled or copied: make one in each process from its addresses")

    # --------------------------------------------------------------------------------------------------- life
    def init(self) -> bool:
        """Find the table and connect to its servers, within the constructor's ``timeout``.

        Returns:
            True when calls can be made. False when not: the reason is in the log, under ``pegasus_green.pegasus``.
            It may be called again then. A server that cannot be reached while others can is logged as a warning: the
            cluster moves its partitions.

        Example:
            >>> Pegasus(["127.0.0.1:34601"], "no such table", timeout=1000).init()
            False
        """
        if self._table is not None:
            return True
        closings = self._closings
        client: Client | None = None
        try:
            seconds = _seconds(self._timeout)
            options = ClientOptions() if seconds is None else ClientOptions(timeout=seconds)
            client = Client(self._metas, options=options)
            table = client.table(self._name)
            _reach(table)
            if self._table is None and closings == self._closings:
                self._client, self._table, client = client, table, None
        except PegasusError as error:
            _log.error("init of table %r at %s failed: %s", self._name, self._metas, error)
        finally:
            # Still ours: it failed, was killed, or close() or another init() came in between.
            if client is not None:
                client.close()
        return self._table is not None

    def close(self) -> None:
        """Close all connections; idempotent. Calls in flight answer ERR_SERVICE_NOT_ACTIVE.

        Example:
            >>> c = Pegasus(["127.0.0.1:34601"], "temp")
            >>> c.close()
            >>> c.get("user:7", "name") == (error_types.ERR_SERVICE_NOT_ACTIVE.value, b"")
            True
        """
        self._closings += 1
        client, self._client, self._table = self._client, None, None
        if client is not None:
            client.close()

    def _answer(self, empty: _T, verb: Callable[[Table[bytes]], tuple[int, _T]]) -> tuple[int, _T]:
        """Return what the verb answers, or the code of its error and the empty result."""
        table = self._table
        if table is None:
            return NOT_ACTIVE, empty
        try:
            return verb(table)
        except InvalidArgument as error:
            if error.code != "ERR_INVALID_DATA":  # which is a write over max_write_bytes
                raise
            return INVALID_DATA, empty
        except WrongThread:
            raise
        except PegasusError as error:
            return self._code(error), empty

    def _code(self, error: PegasusError) -> int:
        """Return the number of an error; one that has none is UNKNOWN and logged."""
        name = name_of(error)
        number = _NUMBERS.get(name, UNKNOWN)
        if number == UNKNOWN:
            now = monotonic()
            if now >= self._logged.get(name, now):
                if len(self._logged) >= MAX_LOGGED:
                    self._logged.clear()
                self._logged[name] = now + LOG_SECONDS
                _log.warning("an error without a number of its own: %s %s", name, error)
        return number

    # --------------------------------------------------------------------------------------------------- one row
    def ttl(self, hash_key: Key, sort_key: Key, timeout: float = 0) -> tuple[int, int]:
        """Return how long a row has to live.

        Args:
            hash_key: May be empty.
            sort_key: May be empty.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and seconds left, -1 without expiry; ERR_OBJECT_NOT_FOUND when absent.

        Example:
            >>> c.set("user:7", "name", "Ada", 60)
            (0, None)
            >>> code, seconds = c.ttl("user:7", "name")
            >>> code, 50 < seconds <= 60
            (0, True)
        """

        def verb(table: Table[bytes]) -> tuple[int, int]:
            left = table.ttl(hash_key, sort_key, timeout=_seconds(timeout))
            return (ABSENT, 0) if left is None else (OK, -1 if left == math.inf else int(left))

        return self._answer(0, verb)

    def exist(self, hash_key: Key, sort_key: Key, timeout: float = 0) -> tuple[int, None]:
        """Tell whether a row is there.

        Args:
            hash_key: May be empty.
            sort_key: May be empty.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            ERR_OK or ERR_OBJECT_NOT_FOUND, and None.

        Example:
            >>> c.exist("nobody", "name") == (error_types.ERR_OBJECT_NOT_FOUND.value, None)
            True
        """

        def verb(table: Table[bytes]) -> tuple[int, None]:
            return OK if table.exist(hash_key, sort_key, timeout=_seconds(timeout)) else ABSENT, None

        return self._answer(None, verb)

    def get(self, hash_key: Key, sort_key: Key, timeout: float = 0) -> tuple[int, bytes]:
        """Return the value of a row.

        Args:
            hash_key: May be empty.
            sort_key: May be empty.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and value as bytes; ERR_OBJECT_NOT_FOUND and ``b""`` when absent.

        Example:
            >>> c.set("user:7", "name", "Ada")
            (0, None)
            >>> c.get("user:7", "name", timeout=500)
            (0, b'Ada')
        """

        def verb(table: Table[bytes]) -> tuple[int, bytes]:
            value = table.get(hash_key, sort_key, timeout=_seconds(timeout))
            return (ABSENT, b"") if value is None else (OK, value)

        return self._answer(b"", verb)

    def set(self, hash_key: Key, sort_key: Key, value: Key, ttl: float = 0, timeout: float = 0) -> tuple[int, None]:
        """Store a value, replacing any previous one with its expiry.

        Args:
            hash_key: May be empty.
            sort_key: May be empty.
            value: May be empty.
            ttl: Seconds to live; 0: no expiry.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and None.

        Example:
            >>> c.set("user:7", "name", "Ada", ttl=3600)
            (0, None)
            >>> c.get("user:7", "name")
            (0, b'Ada')
        """

        def verb(table: Table[bytes]) -> tuple[int, None]:
            table.set(hash_key, sort_key, value, ttl=ttl, timeout=_seconds(timeout))
            return OK, None

        return self._answer(None, verb)

    def remove(self, hash_key: Key, sort_key: Key, timeout: float = 0) -> tuple[int, None]:
        """Remove a row; one that is absent is no error.

        Args:
            hash_key: May be empty.
            sort_key: May be empty.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and None.

        Example:
            >>> c.remove("user:7", "name")
            (0, None)
            >>> c.get("user:7", "name") == (error_types.ERR_OBJECT_NOT_FOUND.value, b"")
            True
        """

        def verb(table: Table[bytes]) -> tuple[int, None]:
            table.remove(hash_key, sort_key, timeout=_seconds(timeout))
            return OK, None

        return self._answer(None, verb)

    # --------------------------------------------------------------------------------------------------- several rows
    def multi_set(
        self, hash_key: Key, sortkey_value_dict: Values, ttl: float = 0, timeout: float = 0
    ) -> tuple[int, None]:
        """Store several values of one hash key, all or none.

        Args:
            hash_key: Not empty.
            sortkey_value_dict: Values by sort key.
            ttl: Seconds to live, for all of them; 0: no expiry.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and None; ERR_INVALID_PARAMETERS without values.

        Example:
            >>> c.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            (0, None)
            >>> c.get("user:7", "mail")
            (0, b'a@b')
        """

        def verb(table: Table[bytes]) -> tuple[int, None]:
            if not sortkey_value_dict:
                return INVALID_PARAMETERS, None
            table.multi_set(hash_key, sortkey_value_dict, ttl=ttl, timeout=_seconds(timeout))
            return OK, None

        return self._answer(None, verb)

    def multi_get(
        self,
        hash_key: Key,
        sortkey_set: Iterable[Key] | None,
        max_kv_count: int = 100,
        max_kv_size: int = 1000000,
        no_value: bool = False,
        timeout: float = 0,
    ) -> tuple[int, dict[bytes, bytes]]:
        """Return several values of one hash key.

        Args:
            hash_key: Not empty.
            sortkey_set: Sort keys; None or empty: all of the hash key.
            max_kv_count: Rows at most; 0 or less: no limit but the server's own of 3,000 rows visited.
            max_kv_size: Bytes of sort keys and values, of which the last row may exceed the limit; 0 or less: no limit
                but the server's own of 30 MiB.
            no_value: Leave the values out; they are ``b""``.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and values by sort key; ERR_INCOMPLETE_DATA with what came when there is more.

        Example:
            >>> c.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            (0, None)
            >>> c.multi_get("user:7", {"name", "nick"})
            (0, {b'name': b'Ada'})
        """

        def verb(table: Table[bytes]) -> tuple[int, dict[bytes, bytes]]:
            keys = _sort_keys(sortkey_set)
            return _rows(
                table.multi_get(
                    hash_key,
                    keys or None,
                    max_count=max_kv_count,
                    max_bytes=max_kv_size,
                    no_value=no_value,
                    timeout=_seconds(timeout),
                )
            )

        return self._answer({}, verb)

    def multi_get_opt(
        self,
        hash_key: Key,
        start_sort_key: Key,
        stop_sort_key: Key,
        multi_get_options: MultiGetOptions | None,
        max_kv_count: int = 100,
        max_kv_size: int = 1000000,
        timeout: float = 0,
    ) -> tuple[int, dict[bytes, bytes]]:
        """Return the values of a range of sort keys.

        Args:
            hash_key: Not empty.
            start_sort_key: First sort key; empty: from the first one there is.
            stop_sort_key: End of the range; empty: up to the last one there is.
            multi_get_options: Which ends belong to the range, filter, order; None: the defaults.
            max_kv_count: As for ``multi_get``; in reverse the rows at the end of the range are the first.
            max_kv_size: As for ``multi_get``.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and values by sort key, ascending; ERR_INCOMPLETE_DATA with what came when there is more.

        Example:
            >>> c.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
            (0, None)
            >>> options = MultiGetOptions()
            >>> options.stop_inclusive = True
            >>> c.multi_get_opt("user:7", "mail", "name", options)
            (0, {b'mail': b'a@b', b'name': b'Ada'})
        """

        def verb(table: Table[bytes]) -> tuple[int, dict[bytes, bytes]]:
            options = MultiGetOptions() if multi_get_options is None else multi_get_options
            return _rows(
                table.multi_get(
                    hash_key,
                    start=start_sort_key or None,
                    stop=stop_sort_key or None,
                    start_inclusive=options.start_inclusive,
                    stop_inclusive=options.stop_inclusive,
                    filter=_filter(options.sortkey_filter_type, options.sortkey_filter_pattern),
                    reverse=options.reverse,
                    max_count=max_kv_count,
                    max_bytes=max_kv_size,
                    no_value=options.no_value,
                    timeout=_seconds(timeout),
                )
            )

        return self._answer({}, verb)

    def multi_del(self, hash_key: Key, sortkey_set: Iterable[Key] | None, timeout: float = 0) -> tuple[int, int]:
        """Remove several rows of one hash key, all or none.

        Args:
            hash_key: Not empty.
            sortkey_set: Sort keys.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and the number of keys that were named, whether they were there or not; ERR_INVALID_PARAMETERS without
            keys.

        Example:
            >>> c.multi_del("user:7", {"mail", "name"})
            (0, 2)
        """

        def verb(table: Table[bytes]) -> tuple[int, int]:
            keys = _sort_keys(sortkey_set)
            if not keys:
                return INVALID_PARAMETERS, 0
            return OK, table.multi_del(hash_key, keys, timeout=_seconds(timeout))

        return self._answer(0, verb)

    def sort_key_count(self, hash_key: Key, timeout: float = 0) -> tuple[int, int]:
        """Count the rows of a hash key.

        Args:
            hash_key: Not empty.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and count; ERR_INCOMPLETE_DATA when the server gave up counting.

        Example:
            >>> c.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            (0, None)
            >>> c.sort_key_count("user:7")
            (0, 2)
        """
        return self._answer(0, lambda table: (OK, table.sort_key_count(hash_key, timeout=_seconds(timeout))))

    def get_sort_keys(
        self, hash_key: Key, max_kv_count: int = 100, max_kv_size: int = 1000000, timeout: float = 0
    ) -> tuple[int, dict[bytes, bytes]]:
        """Return the sort keys of a hash key.

        Args:
            hash_key: Not empty.
            max_kv_count: As for ``multi_get``.
            max_kv_size: As for ``multi_get``.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and ``b""`` by sort key; ERR_INCOMPLETE_DATA with what came when there is more.

        Example:
            >>> c.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            (0, None)
            >>> c.get_sort_keys("user:7")
            (0, {b'mail': b'', b'name': b''})
        """
        return self.multi_get(hash_key, None, max_kv_count, max_kv_size, True, timeout)

    # --------------------------------------------------------------------------------------------------- scans
    def get_scanner(
        self, hash_key: Key, start_sort_key: Key, stop_sort_key: Key, scan_options: ScanOptions
    ) -> PegasusScanner:
        """Return a scanner over a range of one hash key; nothing is sent before its first ``get_next``.

        Args:
            hash_key: Not empty.
            start_sort_key: First sort key; empty: from the first one there is.
            stop_sort_key: End of the range; empty: up to the last one there is.
            scan_options: See ``ScanOptions``; None: the defaults.

        Returns:
            A scanner; of a client that is not ready one that raises.

        Raises:
            InvalidArgument: Also for a filter on hash keys: there is only one, and a real server can die of it.

        Example:
            >>> c.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            (0, None)
            >>> scanner = c.get_scanner("user:7", "n", "", ScanOptions())
            >>> scanner.get_next(), scanner.get_next()
            (((b'user:7', b'name'), b'Ada'), None)
        """
        if self._table is None:
            return PegasusScanner(None)
        options = ScanOptions() if scan_options is None else scan_options
        if options.hashkey_filter_type and options.hashkey_filter_pattern:
            raise InvalidArgument("hashkey_filter_type has no use in a scan of one hash key")
        rows = self._table.hash_scan(
            hash_key,
            start=start_sort_key,
            stop=stop_sort_key,
            start_inclusive=options.start_inclusive,
            stop_inclusive=options.stop_inclusive,
            filter=_filter(options.sortkey_filter_type, options.sortkey_filter_pattern),
            batch_size=_batch_size(options),
            timeout=_seconds(options.timeout_millis),
        )
        return PegasusScanner(rows, to_bytes(hash_key, "hash_key"))

    def get_unordered_scanners(self, max_split_count: int, scan_options: ScanOptions | None) -> list[PegasusScanner]:
        """Split the table among scanners, which together deliver every row once.

        Args:
            max_split_count: Most scanners; 0 or less: none.
            scan_options: See ``ScanOptions``; None: the defaults. The options of ranges have no meaning here.

        Returns:
            Scanners, never more than partitions; of a client that is not ready, or that gets no routes, one whose
            ``get_next`` raises.

        Raises:
            InvalidArgument: Options of a wrong type.

        Example:
            >>> c.set("user:7", "name", "Ada")
            (0, None)
            >>> options = ScanOptions()
            >>> options.hashkey_filter_type, options.hashkey_filter_pattern = filter_type.FT_MATCH_PREFIX, "user:"
            >>> scanners = c.get_unordered_scanners(3, options)
            >>> [row for scanner in scanners for row in iter(scanner.get_next, None)]
            [((b'user:7', b'name'), b'Ada')]
        """
        if not isinstance(max_split_count, int):
            raise InvalidArgument(f"max_split_count must be a whole number, not {max_split_count!r}")
        if max_split_count <= 0:
            return []
        table = self._table
        if table is None:
            return [PegasusScanner(None)]
        options = ScanOptions() if scan_options is None else scan_options
        choice: dict[str, Any] = {
            "hash_key_filter": _filter(options.hashkey_filter_type, options.hashkey_filter_pattern),
            "sort_key_filter": _filter(options.sortkey_filter_type, options.sortkey_filter_pattern),
            "batch_size": _batch_size(options),
            "timeout": _seconds(options.timeout_millis),
        }
        try:
            return [PegasusScanner(rows) for rows in table.scanners(max_split_count, **choice)]
        except InvalidArgument:
            raise
        except PegasusError:
            # Without routes the table cannot be split: its only scanner raises in get_next, and tries again.
            return [PegasusScanner(table.scan(**choice))]


def _batch_size(options: ScanOptions) -> int:
    if not isinstance(options.batch_size, int):
        raise InvalidArgument(f"batch_size must be a whole number, not {options.batch_size!r}")
    return options.batch_size if options.batch_size > 0 else ScanOptions().batch_size


class PegasusScanner:
    """Delivers the rows of a scan, one by one; made by ``get_scanner`` and ``get_unordered_scanners``.

    Greenlets: several may share one scanner, each row goes to one of them.

    Example:
        >>> scanner = c.get_scanner("hkey1", "", "", ScanOptions())
        >>> while (row := scanner.get_next()) is not None:
        ...     (hash_key, sort_key), value = row
        >>> scanner.close()
    """

    def __init__(self, rows: Scanner[Any] | None, hash_key: bytes | None = None) -> None:
        """Deliver the rows of a scan, those of a hash key with it; None raises in place of rows."""
        self._rows = rows
        self._hash_key = hash_key
        self._ended = self._closed = False

    def __repr__(self) -> str:
        """Show the scan."""
        return f"<PegasusScanner of {self._rows!r}{' closed' if self._closed else ''}>"

    def get_next(self) -> tuple[tuple[bytes, bytes], bytes] | None:
        """Return the next row.

        Returns:
            ((hash key, sort key), value), or None at the end. Sort keys ascend within a hash key.

        Raises:
            PegasusError: The next batch cannot be had within ``timeout_millis``, or the client or the scanner was
                closed. The next call goes on behind the last row that was delivered.

        Example:
            >>> c.set("user:7", "name", "Ada")
            (0, None)
            >>> c.get_scanner("user:7", "", "", ScanOptions()).get_next()
            ((b'user:7', b'name'), b'Ada')
        """
        if self._ended:
            return None
        if self._rows is None:
            raise ClientClosed("the scanner was made when its client was not initialized, or closed")
        if self._closed:
            raise ClientClosed("the scanner was closed")
        row = next(self._rows, None)
        if row is None:
            # Another greenlet may have closed it meanwhile, which is not the end.
            if self._closed:
                raise ClientClosed("the scanner was closed")
            self._ended = True
            return None
        if self._hash_key is None:
            return (row[0], row[1]), row[2]
        return (self._hash_key, row[0]), row[1]

    def close(self) -> None:
        """End the scan and free what the server keeps for it; idempotent.

        Example:
            >>> c.get_scanner("user:7", "", "", ScanOptions()).close()
        """
        self._closed = True
        if self._rows is not None:
            self._rows.close()
