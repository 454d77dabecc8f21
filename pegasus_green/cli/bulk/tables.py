"""Tables as source and target of many rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent.pool import Pool

from ...errors import InvalidArgument, PegasusError, TableError
from ...model import CheckType
from ...operations.base import EPOCH, MAX_EXPIRE
from ...operations.scans import with_expiry
from ..text import counted
from .formats import Row

if TYPE_CHECKING:
    from ...client import Table

_T = TypeVar("_T")

CHUNK_ROWS, CHUNK_BYTES = 500, 2 * 1024 * 1024
# Requests of a long command have a longer timeout than those of an interactive one. Failed ones are repeated.
TIMEOUT = 10.0
PAUSES = (1.0, 2.0, 5.0, 10.0)
# Servers can store times of expiry after 2084: clients whose sum of TTL and time overflows write them. Files have 32
# bits for the Unix time. This client writes no expiry after January 2084. It computes the expiry from a TTL when it
# sends the row, so LAST_WRITTEN is a minute before its limit.
LAST_IN_FILES = 2**32 - 1
LAST_WRITTEN = EPOCH + MAX_EXPIRE - 60


def is_final(error: PegasusError) -> bool:
    """Tell whether a repetition is useless."""
    return isinstance(error, (InvalidArgument, TableError))


def patient(rows: Iterator[_T], note: Callable[[str], object]) -> Iterator[_T]:
    """Yield the rows of a scanner. After an error the scan continues after a pause, until it fails five times in a row.

    Raises:
        PegasusError: It has failed too often, or a repetition is useless.
    """
    failures = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except PegasusError as error:
            if is_final(error) or failures == len(PAUSES):
                raise
            note(f"{str(error).splitlines()[0]}; continues in {PAUSES[failures]:g} s")
            gevent.sleep(PAUSES[failures])
            failures += 1
            continue
        failures = 0
        yield row


def chunks(rows: Iterable[tuple[Any, ...]], most: int) -> Iterator[tuple[list[Any], int]]:
    """Yield lists of at most this number of rows, or of 2 MiB, with their size in bytes."""
    found: list[Any] = []
    size = 0
    for row in rows:
        found.append(row)
        size += len(row[0]) + len(row[1]) + len(row[2])
        if len(found) >= most or size >= CHUNK_BYTES:
            yield found, size
            found, size = [], 0
    if found:
        yield found, size


class Source:
    """The rows of a table with the Unix time of their expiry, and a token to resume from."""

    def __init__(self, table: Table[bytes], note: Callable[[str], object], **selection: Any) -> None:
        """Read a table; ``selection`` is for ``Table.scan``. Nothing is sent."""
        self._scanner = with_expiry(table.scan(with_ttl=True, timeout=TIMEOUT, **selection))
        self._note = note

    def rows(self) -> Iterator[Row]:
        """Yield the rows.

        Raises:
            PegasusError: The table cannot be read.
        """
        for first, second, value, expires in patient(self._scanner, self._note):
            at = min((expires & 0xFFFFFFFF) + EPOCH, LAST_IN_FILES) if expires else 0
            yield first, second, value, at

    def token(self) -> str:
        """Return a token that continues after the last row."""
        return self._scanner.token()

    def close(self) -> None:
        """End the scan."""
        self._scanner.close()


class Target:
    """Writes rows into a table, many at once.

    Attributes:
        skipped: Number of rows that existed already or had expired.
    """

    def __init__(
        self,
        table: Table[bytes],
        *,
        concurrency: int,
        note: Callable[[str], object],
        refuse: Callable[[tuple[bytes, bytes], PegasusError], object],
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> None:
        """Write to a table.

        Args:
            table: The table.
            concurrency: Maximum number of requests in flight.
            note: Gets a message about each failure that is repeated.
            refuse: Gets the key of each row that can never be stored, for example because it is too large.
            if_absent: Do not change existing rows.
            ttl: Seconds to live for all rows; None: those of each row.
        """
        self._table, self._concurrency, self._if_absent = table, concurrency, if_absent
        self._note, self._refuse = note, refuse
        self._ttl = ttl
        self.skipped = 0

    def write(self, rows: list[Row]) -> None:
        """Write rows; return after all are stored. If rows have the same key, the last one counts.

        Raises:
            PegasusError: Rows could not be stored after several attempts; other rows may be stored.
        """
        wanted: dict[tuple[bytes, bytes], tuple[bytes, int]] = {
            (first, second): (value, expires) for first, second, value, expires in rows
        }
        for pause in (*PAUSES, None):
            failed = self._put(wanted)
            if not failed:
                return
            for key in [key for key, error in failed.items() if isinstance(error, InvalidArgument)]:
                self._refuse(key, failed.pop(key))
            if not failed:
                return
            error = next(iter(failed.values()))
            if pause is None or any(map(is_final, failed.values())):
                raise next(filter(is_final, failed.values()), error)
            self._note(f"{counted(len(failed), 'row')}: {str(error).splitlines()[0]}; repeated in {pause:g} s")
            gevent.sleep(pause)
            wanted = {key: wanted[key] for key in failed}

    def _put(self, rows: dict[tuple[bytes, bytes], tuple[bytes, int]]) -> dict[Any, PegasusError]:
        """Send rows once, except expired ones; return the errors by key."""
        failed: dict[Any, PegasusError] = {}
        now = int(time())
        living = [(key, found) for key, found in rows.items() if not found[1] or found[1] > now]
        self.skipped += len(rows) - len(living)
        if self._if_absent:
            pool = Pool(self._concurrency)
            for key, found in pool.imap_unordered(self._put_if_absent, living):
                if isinstance(found, PegasusError):
                    failed[key] = found
                elif not found:
                    self.skipped += 1
            return failed
        begin = self._table.set_async
        for at in range(0, len(living), self._concurrency):
            handles = []
            for key, (value, expires) in living[at : at + self._concurrency]:
                try:
                    handles.append((key, begin(key[0], key[1], value, ttl=self._left(expires), timeout=TIMEOUT)))
                except InvalidArgument as error:
                    failed[key] = error
            _settle(handles, failed)
        return failed

    def _left(self, expires: int) -> float | None:
        """Return the TTL of a row that is sent now. It counts from the current second."""
        if self._ttl is not None:
            return self._ttl
        return max(min(expires, LAST_WRITTEN) - int(time()), 1) if expires else None

    def _put_if_absent(self, row: tuple[tuple[bytes, bytes], tuple[bytes, int]]) -> tuple[Any, Any]:
        (first, second), (value, expires) = row
        table, ttl = self._table, self._left(expires)
        try:
            if first:
                found: Any = table.check_and_set(
                    first, second, CheckType.NOT_EXIST, value=value, ttl=ttl, timeout=TIMEOUT
                )
            elif not table.exist(first, second, timeout=TIMEOUT):
                # Servers cannot check a row with the empty hash key.
                table.set(first, second, value, ttl=ttl, timeout=TIMEOUT)
                found = True
            else:
                found = False
        except PegasusError as error:
            return row[0], error
        return row[0], bool(found)

    def remove(self, keys: list[tuple[bytes, bytes]]) -> None:
        """Remove rows; return after all are removed.

        Raises:
            PegasusError: Rows could not be removed after several attempts.
        """
        for pause in (*PAUSES, None):
            failed: dict[Any, PegasusError] = {}
            for at in range(0, len(keys), self._concurrency):
                part = keys[at : at + self._concurrency]
                _settle([(key, self._table.remove_async(*key, timeout=TIMEOUT)) for key in part], failed)
            if not failed:
                return
            error = next(iter(failed.values()))
            if pause is None or is_final(error):
                raise error
            self._note(f"{counted(len(failed), 'row')}: {str(error).splitlines()[0]}; repeated in {pause:g} s")
            gevent.sleep(pause)
            keys = list(failed)


def _settle(handles: list[tuple[Any, Any]], failed: dict[Any, PegasusError]) -> None:
    for key, handle in handles:
        try:
            handle.get()
        except PegasusError as error:
            failed[key] = error
