"""The documented API of pypegasus, the official Python client. Calls block the greenlet; they need no ``yield``.

Names, parameters, defaults and return values are those of the official documentation. The module is a thin layer over
``Table``. An error of the cluster comes back as a code, an int of ``error_types``. Only ``PegasusScanner.get_next``
raises it.
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
from .operations.base import listed
from .options import ClientOptions
from .pegasus_types import (
    MultiGetOptions,
    ScanOptions,
    batch_size,
    error_types,
    filter_type,
    name_of,
    sort_keys,
    whole,
)

if TYPE_CHECKING:
    from .results import HashRow, MultiGetResult, Row
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
# At most one log line per second for each error name that has no number.
LOG_SECONDS = 1.0
MAX_LOGGED = 100


def _seconds(milliseconds: float) -> float | None:
    """Return a timeout of this API in seconds; None means the client's default."""
    if not isinstance(milliseconds, bool) and isinstance(milliseconds, (int, float)):
        try:
            if not isnan(milliseconds):
                return milliseconds / 1000 if milliseconds > 0 else None
        except OverflowError:
            raise InvalidArgument("timeout is too large a number of milliseconds") from None
    raise InvalidArgument(f"timeout must be a number of milliseconds, not {milliseconds!r}")


def _rows(found: MultiGetResult[bytes]) -> tuple[int, dict[bytes, bytes]]:
    return OK if found.complete else INCOMPLETE, dict(found)


def _reach(table: Table[bytes]) -> None:
    """Query the routes and connect. An unreachable server is an error only if no server can be reached."""
    try:
        if not table.warm_up():
            raise TableUnavailable("no partition has a primary now", table=table.name)
    except ConnectFailed as error:
        routes = table._dispatcher.routes.table
        if routes is None or not any(route.peer is not None and route.peer.connection for route in routes.routes):
            raise
        _log.warning("a server of table %s cannot be reached now: %s", table.name, error)


def _filter(kind: int, pattern: Key) -> Filter | None:
    # Filter refuses an invalid kind.
    return Filter(kind, pattern) if kind else None  # type: ignore[arg-type]


class Pegasus:
    """A client of one table, with the API that the documentation of pypegasus, the official client, describes.

    The constructor does no I/O. Before ``init`` and after ``close`` every operation returns ERR_SERVICE_NOT_ACTIVE.

    Args:
        meta_addrs: Meta servers, a list of "host:port".
        table_name: The table's name.
        timeout: Milliseconds for one call with all its attempts, unless the call has its own timeout.

    Each operation on rows returns a tuple of a code and the result. The code is the int of an ``error_types`` member.
    On an error the result has the same type and is empty: ``b""``, ``{}``, 0, or None for operations without a result.
    The methods for scans return scanners.

    Operations never raise errors of the cluster; only ``get_next`` of a scanner raises them. Operations raise
    InvalidArgument (a ValueError) for arguments that cannot be sent: a wrong type, an empty hash key for operations on
    several sort keys, a hash key over 65,534 bytes, a negative TTL.

    Retries: as for ``Table``. The client repeats a request until the timeout if that is safe.
    Greenlets: any number may share one object. A call blocks only its own greenlet.

    In the examples of the methods ``c`` is the client of the example below.

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
        """Store the addresses and the name; no I/O."""
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
        """Find the table and connect to its servers, within the ``timeout`` of the constructor.

        Returns:
            True if calls can be made. After False, the log of the logger ``pegasus_green.pegasus`` has the reason, and
            ``init`` may be called again. If only some of the servers can be reached, ``init`` logs a warning and
            returns True, because the cluster moves the partitions of a dead server to the others.

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
            # client is not None if init failed, was killed, or another close() or init() ran meanwhile.
            if client is not None:
                client.close()
        return self._table is not None

    def close(self) -> None:
        """Close all connections; idempotent. Calls in flight return ERR_SERVICE_NOT_ACTIVE.

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
        """Return the verb's result, or the code of its error with the empty result."""
        table = self._table
        if table is None:
            return NOT_ACTIVE, empty
        try:
            return verb(table)
        except InvalidArgument as error:
            if error.code != "ERR_INVALID_DATA":  # this code means a write over max_write_bytes
                raise
            return INVALID_DATA, empty
        except WrongThread:
            raise
        except PegasusError as error:
            return self._code(error), empty

    def _code(self, error: PegasusError) -> int:
        """Return the number of an error. An error without a number is logged and becomes UNKNOWN."""
        name = name_of(error)
        number = _NUMBERS.get(name, UNKNOWN)
        if number == UNKNOWN:
            now = monotonic()
            if now >= self._logged.get(name, now):
                if len(self._logged) >= MAX_LOGGED:
                    self._logged.clear()
                self._logged[name] = now + LOG_SECONDS
                _log.warning("error without a number in error_types: %s %s", name, error)
        return number

    # --------------------------------------------------------------------------------------------------- one row
    def ttl(self, hash_key: Key, sort_key: Key, timeout: float = 0) -> tuple[int, int]:
        """Return the remaining time to live of a row.

        Args:
            hash_key: May be empty.
            sort_key: May be empty.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and seconds left; -1 if the row never expires. ERR_OBJECT_NOT_FOUND if there is no such row.

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
        """Tell whether a row exists.

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
            Code and value as bytes; ERR_OBJECT_NOT_FOUND and ``b""`` if there is no such row.

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
        """Store a value. It replaces the old value and its expiry.

        Args:
            hash_key: May be empty.
            sort_key: May be empty.
            value: May be empty.
            ttl: Seconds to live; 0: no expiry, unless the table has a default TTL.
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
        """Remove a row. It is no error if there is no such row.

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
            ttl: Seconds to live, for all of them; 0: no expiry, unless the table has a default TTL.
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
            listed(sortkey_value_dict, "sortkey_value_dict")
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
            sortkey_set: Sort keys; None or empty: all rows of the hash key.
            max_kv_count: Maximum number of rows. 0 or less: only the server's limit; it reads at most 3,000 rows.
            max_kv_size: Maximum bytes of sort keys and values; the last row may exceed it. 0 or less: only the server's
                limit of 30 MiB.
            no_value: Return ``b""`` instead of the values.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and values by sort key. If there are more rows: ERR_INCOMPLETE_DATA and the rows that were read.

        Example:
            >>> c.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            (0, None)
            >>> c.multi_get("user:7", {"name", "nick"})
            (0, {b'name': b'Ada'})
        """

        def verb(table: Table[bytes]) -> tuple[int, dict[bytes, bytes]]:
            keys = sort_keys(sortkey_set)
            return _rows(
                table.multi_get(
                    hash_key,
                    keys or None,
                    max_count=whole(max_kv_count or 0, "max_kv_count"),
                    max_bytes=whole(max_kv_size or 0, "max_kv_size"),
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
            start_sort_key: First sort key; empty: the first one of the hash key.
            stop_sort_key: End of the range; empty: the range includes the last sort key of the hash key.
            multi_get_options: Ends of the range, filter and direction; None: the defaults.
            max_kv_count: As for ``multi_get``. In reverse, the limit omits rows at the beginning of the range.
            max_kv_size: As for ``multi_get``.
            timeout: Milliseconds; 0 or less: the client's default.

        Returns:
            Code and values by sort key, ascending. If there are more rows: ERR_INCOMPLETE_DATA and the rows that were
            read.

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
                    start=to_bytes(start_sort_key or b"", "start_sort_key") or None,
                    stop=to_bytes(stop_sort_key or b"", "stop_sort_key") or None,
                    start_inclusive=options.start_inclusive,
                    stop_inclusive=options.stop_inclusive,
                    filter=_filter(options.sortkey_filter_type, options.sortkey_filter_pattern),
                    reverse=options.reverse,
                    max_count=whole(max_kv_count or 0, "max_kv_count"),
                    max_bytes=whole(max_kv_size or 0, "max_kv_size"),
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
            Code and the number of sort keys in the call, including those that have no row; ERR_INVALID_PARAMETERS
            without keys.

        Example:
            >>> c.multi_del("user:7", {"mail", "name"})
            (0, 2)
        """

        def verb(table: Table[bytes]) -> tuple[int, int]:
            keys = sort_keys(sortkey_set)
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
            Code and count; ERR_INCOMPLETE_DATA if the server stopped counting at its time limit.

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
            Code and ``b""`` by sort key. If there are more: ERR_INCOMPLETE_DATA and the sort keys that were read.

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
        """Return a scanner over a range of one hash key. The first ``get_next`` sends the first request.

        Args:
            hash_key: Not empty.
            start_sort_key: First sort key; empty: the first one of the hash key.
            stop_sort_key: End of the range; empty: the range includes the last sort key of the hash key.
            scan_options: See ``ScanOptions``; None: the defaults.

        Returns:
            A scanner. If the client is not initialized, its ``get_next`` raises.

        Raises:
            InvalidArgument: An argument is wrong, or scan_options has a filter on hash keys, which can crash a real
                server in a scan of one hash key.

        Example:
            >>> c.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            (0, None)
            >>> scanner = c.get_scanner("user:7", "n", "", ScanOptions())
            >>> scanner.get_next(), scanner.get_next()
            (((b'user:7', b'name'), b'Ada'), None)
        """
        table = self._table  # another thread may close the client
        if table is None:
            return PegasusScanner(None)
        options = ScanOptions() if scan_options is None else scan_options
        if options.hashkey_filter_type and options.hashkey_filter_pattern:
            raise InvalidArgument("hashkey_filter_type cannot be used in a scan of one hash key")
        rows = table.hash_scan(
            hash_key,
            start=start_sort_key and to_bytes(start_sort_key, "start_sort_key"),
            stop=stop_sort_key and to_bytes(stop_sort_key, "stop_sort_key"),
            start_inclusive=options.start_inclusive,
            stop_inclusive=options.stop_inclusive,
            filter=_filter(options.sortkey_filter_type, options.sortkey_filter_pattern),
            batch_size=batch_size(options),
            timeout=_seconds(options.timeout_millis),
        )
        return PegasusScanner(rows, to_bytes(hash_key, "hash_key"))

    def get_unordered_scanners(self, max_split_count: int, scan_options: ScanOptions | None) -> list[PegasusScanner]:
        """Divide the table among several scanners. Together they return every row once.

        Args:
            max_split_count: Maximum number of scanners; 0 or less: the result is an empty list.
            scan_options: See ``ScanOptions``; None: the defaults. ``start_inclusive`` and ``stop_inclusive`` are
                ignored.

        Returns:
            Scanners, at most one for each partition. If the client is not initialized or has no routes: one scanner
            whose ``get_next`` raises.

        Raises:
            InvalidArgument: An option has a wrong type.

        Example:
            >>> c.set("user:7", "name", "Ada")
            (0, None)
            >>> options = ScanOptions()
            >>> options.hashkey_filter_type, options.hashkey_filter_pattern = filter_type.FT_MATCH_PREFIX, "user:"
            >>> scanners = c.get_unordered_scanners(3, options)
            >>> [row for scanner in scanners for row in iter(scanner.get_next, None)]
            [((b'user:7', b'name'), b'Ada')]
        """
        if whole(max_split_count, "max_split_count") <= 0:
            return []
        table = self._table
        if table is None:
            return [PegasusScanner(None)]
        options = ScanOptions() if scan_options is None else scan_options
        choice: dict[str, Any] = {
            "hash_key_filter": _filter(options.hashkey_filter_type, options.hashkey_filter_pattern),
            "sort_key_filter": _filter(options.sortkey_filter_type, options.sortkey_filter_pattern),
            "batch_size": batch_size(options),
            "timeout": _seconds(options.timeout_millis),
        }
        try:
            return [PegasusScanner(rows) for rows in table.scanners(max_split_count, **choice)]
        except InvalidArgument:
            raise
        except PegasusError:
            # The table cannot be split without routes. The only scanner raises in get_next; the next call tries again.
            return [PegasusScanner(table.scan(**choice))]


class PegasusScanner:
    """An iterator over the rows of a scan. ``get_scanner`` and ``get_unordered_scanners`` make it.

    Greenlets: several may share one scanner; each row goes to one of them.

    Example:
        >>> scanner = c.get_scanner("hkey1", "", "", ScanOptions())
        >>> while (row := scanner.get_next()) is not None:
        ...     (hash_key, sort_key), value = row
        >>> scanner.close()
    """

    def __init__(
        self, rows: Scanner[Row[bytes]] | Scanner[HashRow[bytes]] | None, hash_key: bytes | None = None
    ) -> None:
        """Wrap a scan; hash_key completes the rows of a hash scan. With rows=None every ``get_next`` raises."""
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
            PegasusError: The next batch did not arrive within ``timeout_millis``, or the client or the scanner was
                closed. After an error the next call continues after the last returned row.
            WrongThread: Another native thread made the scanner.

        Example:
            >>> c.set("user:7", "name", "Ada")
            (0, None)
            >>> c.get_scanner("user:7", "", "", ScanOptions()).get_next()
            ((b'user:7', b'name'), b'Ada')
        """
        if self._ended:
            return None
        if self._rows is None:
            raise ClientClosed("the client was not initialized, or was closed, when this scanner was made")
        if self._closed:
            raise ClientClosed("the scanner was closed")
        # Not next(): signal handlers run at the end of that call. An exception that one raises would lose the row.
        for row in self._rows:
            return (row[0] if self._hash_key is None else self._hash_key, row[-2]), row[-1]
        # Another greenlet may have closed the scanner meanwhile. That is not the end of the rows.
        if self._closed:
            raise ClientClosed("the scanner was closed")
        self._ended = True
        return None

    def close(self) -> None:
        """End the scan and free the scan context on the server; idempotent.

        Example:
            >>> c.get_scanner("user:7", "", "", ScanOptions()).close()
        """
        self._closed = True
        if self._rows is not None:
            self._rows.close()
