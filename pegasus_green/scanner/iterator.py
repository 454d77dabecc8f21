"""The iterator over the rows of a scan."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from operator import length_hint
from time import monotonic
from typing import Any, NoReturn, TypeVar

from gevent.lock import Semaphore
from greenlet import GreenletExit

from ..errors import RequestTimeout
from .batch import Batch
from .parts import Ledger
from .sources import Parallel, Sequential
from .token import Token
from .work import Work

R = TypeVar("R")
Shape = Callable[[Any], R]


class Scanner(Iterator[R]):
    """An iterator over rows, and a context manager that ends the scan when the block is left.

    Every row that is there during the whole scan is delivered exactly once, also when servers die, primaries move,
    the server's contexts expire or the table splits meanwhile. Rows that are written or removed meanwhile may be
    delivered or not.

    An error in the middle is raised by ``next``; calling it again goes on behind the last row. Leaving the loop,
    ``close`` or dropping the scanner frees what the server keeps for it.

    Made by ``table.hash_scan``, ``table.scan`` and ``table.scanners``; nothing is read before the first ``next``.

    Greenlets: several may share one scanner, each row goes to one of them. A killed one harms no other.

    Example:
        >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
        >>> with table.hash_scan("user:7") as rows:
        ...     for sort_key, value in rows:
        ...         if value == b"Ada":
        ...             print(sort_key)
        ...             break
        b'name'
    """

    __slots__ = (
        "_work",
        "_source",
        "_shape",
        "_left",
        "_rows",
        "_raw",
        "_batch",
        "_ledger",
        "_ended",
        "_lock",
        "_finalizer",
        "_delivered",
        "__weakref__",
    )

    def __init__(
        self,
        work: Work,
        *,
        parallel: int = 1,
        limit: int | None = None,
        shape: Shape[R],
    ) -> None:
        """Iterate over what a piece of work gives; use the methods of a table.

        Args:
            work: The scan.
            parallel: How many parts are read at the same time.
            limit: Most rows; None: all.
            shape: Makes the application's row of the server's; where it fails, the next call goes on behind that row.
        """
        self._work = work
        self._source = Sequential(work) if parallel == 1 else Parallel(work, parallel)
        self._shape = shape
        self._left = limit
        # What is left of the batch, as the server sent it and as the application gets it; the first can be counted.
        self._raw: Iterator[Any] = iter(())
        self._rows: Iterator[R] = iter(())
        self._batch: Batch | None = None
        self._ledger: Ledger | None = None
        self._delivered = 0
        self._ended = limit == 0
        self._lock = Semaphore()
        # It must not know the scanner, and it runs wherever the last reference goes: the hub does the work.
        self._finalizer = weakref.finalize(self, Work.release_soon, work)
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        """Show table and progress."""
        state = "ended" if self._ended and not length_hint(self._raw) else "open"
        return f"<Scanner {self._work.dispatcher.routes.name} {state} rows={self._delivered - length_hint(self._raw)}>"

    def __reduce__(self) -> NoReturn:
        """Refuse pickling."""
        raise TypeError("a scanner cannot be pickled or copied: resume another one from its token()")

    def __enter__(self) -> Scanner[R]:
        """Return the scanner."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        self.close()

    def __iter__(self) -> Scanner[R]:
        """Return the scanner."""
        return self

    def __next__(self) -> R:
        """Return the next row.

        Raises:
            StopIteration: There are no more.
            PegasusError: The next batch cannot be had; the next call tries again, behind the last row.
        """
        while True:
            for row in self._rows:
                return row
            self._advance()

    def _advance(self) -> None:
        """Get the next batch with rows; only one greenlet does that at a time."""
        cluster = self._work.dispatcher.cluster
        now = monotonic()
        if not self._lock.acquire(timeout=max(cluster.deadline(86400.0, now) - now, 0.0)):
            raise RequestTimeout("another greenlet waits for the next batch", table=self._work.dispatcher.routes.name)
        try:
            # Another greenlet may have been here meanwhile.
            while not length_hint(self._raw):
                if self._ended:
                    raise StopIteration
                cluster.bind()
                self._work.plan()
                self._settle()
                batch = self._source.next()
                if batch is None:
                    self._end()
                else:
                    self._take(batch)
        except GreenletExit:
            # The dead greenlet keeps its stack, and so this scanner, for as long as somebody keeps the greenlet.
            self._work.suspend()
            raise
        finally:
            self._lock.release()

    def _take(self, batch: Batch) -> None:
        rows = batch.rows
        if self._left is not None:
            if len(rows) > self._left:
                rows = rows[: self._left]
                batch = batch._replace(final=False)
            self._left -= len(rows)
        self._batch = batch._replace(rows=rows)
        self._delivered += len(rows)
        self._raw = iter(rows)
        self._rows = map(self._shape, self._raw)
        if self._left == 0:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._finalizer.detach()
        self._work.release_now()

    def _settle(self) -> None:
        """Write down what has been delivered."""
        if self._ledger is None:
            self._ledger = self._position()
        else:
            self._write_down(self._ledger)
        self._batch = None

    def _position(self) -> Ledger | None:
        """Return what has been delivered; None: the parts are not known yet."""
        if self._ledger is None:
            waiting = self._work.waiting
            # Before the first batch, what waits is all there is.
            return None if waiting is None else Ledger((part.index, part.modulus, part.after) for part in waiting)
        ledger = Ledger(self._ledger.parts())
        self._write_down(ledger)
        return ledger

    def _write_down(self, ledger: Ledger) -> None:
        """Add to a ledger what has been delivered of the newest batch."""
        batch = self._batch
        if batch is not None:
            left = length_hint(self._raw)
            if batch.final and not left:
                ledger.finish(*batch.key)
            elif left < len(batch.rows):
                ledger.advance(*batch.key, self._work.query.key_of(batch.rows[len(batch.rows) - left - 1]))

    @property
    def finished(self) -> bool:
        """Whether every row has been delivered; False after a limit or ``close`` stopped the scan before.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            >>> rows = table.hash_scan("user:7")
            >>> next(rows), rows.finished
            (HashRow(sort_key=b'mail', value=b'a@b'), False)
            >>> next(rows), rows.finished
            (HashRow(sort_key=b'name', value=b'Ada'), True)
        """
        ledger = self._position()
        return ledger is not None and not ledger.after

    def token(self) -> str:
        """Return a text from which ``resume=`` goes on behind the last row that was delivered.

        It holds the selection, the partition count and the last key of each unfinished partition, so it outlives the
        process, and a partition split. It is good at any time: in the middle of a loop, after an error, after ``close``
        or a limit.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
            >>> with table.hash_scan("user:7", limit=2) as page:
            ...     [row.sort_key for row in page]
            [b'mail', b'name']
            >>> [row.sort_key for row in table.hash_scan("user:7", resume=page.token())]
            [b'nick']
        """
        work = self._work
        ledger = self._position()
        parts = None if ledger is None else ledger.parts()
        return Token(work.dispatcher.routes.name, work.app_id, work.query, parts, work.only).encode()

    def close(self) -> None:
        """End the scan: free the server's contexts and the greenlets; never yields, idempotent.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            >>> rows = table.hash_scan("user:7")
            >>> next(rows)
            HashRow(sort_key=b'mail', value=b'a@b')
            >>> rows.close()
            >>> list(rows)
            []
        """
        if self._ledger is not None:
            self._settle()
        self._raw, self._rows = iter(()), iter(())
        self._end()
