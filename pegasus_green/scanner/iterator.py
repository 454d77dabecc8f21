"""The iterator over the rows of a scan."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from itertools import repeat
from operator import length_hint
from time import monotonic
from typing import Any, NoReturn, TypeVar

from greenlet import GreenletExit

from ..errors import RequestTimeout, WrongThread
from ..options import MAX_TIMEOUT
from ..transport.fork import thread_id
from ..turns import Turn
from .batch import Batch
from .parts import Ledger
from .sources import Parallel, Sequential
from .token import Token
from .work import Planned, Work

R = TypeVar("R")
Shape = Callable[[Any], R]
_new: Any = tuple.__new__


class _Shaped(Iterator[R]):
    """Converts rows with a function of Python.

    A row is converted before it is taken. So an exception that interrupts the function, for example one of a signal
    handler, loses no row.
    """

    __slots__ = ("_shape", "_rows", "_raw")

    def __init__(self, shape: Shape[R], rows: list[Any], raw: Any) -> None:
        """Convert the rest of the rows; raw is an iterator over the rows."""
        self._shape, self._rows, self._raw = shape, rows, raw

    def __next__(self) -> R:
        raw = self._raw
        while left := length_hint(raw):
            at = len(self._rows) - left
            row = self._rows[at]
            try:
                shaped = self._shape(row)
            except Exception:
                if self._is_bad(row) and length_hint(raw) == left:
                    # The next call continues after it.
                    next(raw, None)
                raise
            try:
                for taken in raw:
                    # While a signal handler waited, another greenlet may have taken the row.
                    return shaped if taken is row else self._shape(taken)
            except BaseException:
                if length_hint(raw) == left - 1:
                    raw.__setstate__(at)
                raise
        raise StopIteration

    def _is_bad(self, row: Any) -> bool:
        """Tell whether a row cannot be converted. A signal handler may have raised the exception of the first try."""
        try:
            self._shape(row)
        except Exception:
            return True
        return False


class Scanner(Iterator[R]):
    """An iterator over rows. It is also a context manager; the end of the ``with`` block ends the scan.

    A server keeps a context for each open scan, in memory and for a limited time. Every row that exists during the
    whole scan is returned exactly once, also if servers fail, primaries move, contexts expire or the table splits
    meanwhile. Rows that are written or removed meanwhile may or may not be returned.

    ``next`` raises a PegasusError if a batch cannot be read in time. Another ``next`` continues after the last row. The
    client tells the servers to free their contexts when the ``with`` block ends, ``close`` is called or the scanner is
    dropped.

    ``table.hash_scan``, ``table.scan`` and ``table.scanners`` make scanners. The first ``next`` sends the first
    request. In a native thread that did not make the scanner, ``next`` raises WrongThread.

    Greenlets: several may share one scanner; each row goes to one of them. A killed greenlet affects no other.

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
        "_limit",
        "_rows",
        "_now",
        "_ledger",
        "_ended",
        "_turn",
        "_thread",
        "_finalizer",
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
        """Iterate over the rows of a scan; use the methods of a table to make a scanner.

        Args:
            work: The scan.
            parallel: Number of parts that are read at the same time.
            limit: Maximum number of rows; None: all.
            shape: The tuple class of the rows, or a function that converts a row of the server to a row of the
                application. If the function raises, the next call continues after that row.
        """
        self._work = work
        self._source = Sequential(work) if parallel == 1 else Parallel(work, parallel)
        self._shape = shape
        self._limit = limit
        # These change in one step: the newest batch, the rest of its rows in the server's form, the same batch from the
        # source, and the number of rows up to now. Only this rest has a length.
        self._now: tuple[Batch | None, Iterator[Any], Batch | None, int] = None, iter(()), None, 0
        # The rest of the rows in the form of the application.
        self._rows: Iterator[R] = iter(())
        # The ledger of a plan. If the scan was planned again, nothing of the earlier plan was returned.
        self._ledger: tuple[Planned, Ledger] | None = None
        self._ended = limit == 0
        # The turn of the greenlet that fetches the next batch.
        self._turn: Turn | None = None
        self._thread = thread_id()
        # It must not reference the scanner. It can run in any thread or greenlet, so the hub does the work.
        self._finalizer = weakref.finalize(self, Work.release_soon, work)
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        """Show table and progress."""
        state = "ended" if self._ended and not length_hint(self._raw) else "open"
        _, raw, _, count = self._now
        return f"<Scanner {self._work.dispatcher.routes.name} {state} rows={count - length_hint(raw)}>"

    def __reduce__(self) -> NoReturn:
        """Refuse pickling."""
        raise TypeError("a scanner cannot be pickled or copied: pass its token() to resume= of another scan")

    def __enter__(self) -> Scanner[R]:
        """Return the scanner."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the scanner."""
        self.close()

    def __iter__(self) -> Scanner[R]:
        """Return the scanner."""
        return self

    def __next__(self) -> R:
        """Return the next row.

        Raises:
            StopIteration: There are no more rows.
            PegasusError: The next batch cannot be read. The next call tries again, after the last row.
            WrongThread: Another native thread made the scanner.
            RuntimeError: A signal handler or a finalizer has interrupted a ``next`` of this scanner and calls it again.
        """
        if thread_id() != self._thread:
            raise WrongThread("a scanner can be used only in the thread that made it")
        while True:
            for row in self._rows:
                return row
            self._advance()

    def _advance(self) -> None:
        """Get the next batch with rows. Only one greenlet at a time does this."""
        until = 0.0
        while True:
            other = self._turn
            if other is None or not other.lasts:
                turn = self._turn = Turn()
                if turn.run(self._fill, turn):
                    return
                continue
            if other.mine:
                raise RuntimeError("a signal handler or finalizer cannot use a scanner whose next() it has interrupted")
            until = until or self._work.dispatcher.cluster.deadline(MAX_TIMEOUT, monotonic())
            if not other.wait(until):
                text = "another greenlet waits for the next batch"
                raise RequestTimeout(text, table=self._work.dispatcher.routes.name)

    def _fill(self, turn: Turn) -> bool:
        """Get the next batch with rows, in a turn. False: a signal handler took the turn first.

        An exception can occur between any two steps. So each step can be repeated, and a batch counts as taken only
        after its rows are stored.
        """
        if self._turn is not turn:
            return False
        try:
            # Another greenlet may have read a batch meanwhile, and may have been interrupted after that.
            while not length_hint(self._raw):
                if self._ended:
                    raise StopIteration
                self._work.dispatcher.cluster.bind()
                self._work.plan()
                self._settle()
                batch = self._source.next(self._now[2])
                if batch is None:
                    self._end()
                else:
                    self._take(batch)
            if isinstance(self._shape, type):
                # This costs a third of a call of the class, whose __new__ is Python code.
                self._rows = map(_new, repeat(self._shape), self._raw)
            elif self._now[0] is not None:
                self._rows = _Shaped(self._shape, self._now[0].rows, self._raw)
            if self._now[3] == self._limit:
                self._end()
        except GreenletExit:
            # A greenlet that this error ended keeps its stack, and so this scanner, alive while it is referenced.
            self._work.suspend()
            raise
        return True

    def _take(self, batch: Batch) -> None:
        taken, rows, count = batch, batch.rows, self._now[3]
        if self._limit is not None and len(rows) > self._limit - count:
            rows = rows[: self._limit - count]
            batch = batch._replace(final=False)
        self._now = batch._replace(rows=rows), iter(rows), taken, count + len(rows)

    def _end(self) -> None:
        self._ended = True
        self._work.release_now()
        # Last: if this is interrupted before, the finalizer releases it.
        self._finalizer.detach()

    def _settle(self) -> None:
        """Record in the ledger what has been returned."""
        planned, known = self._work.planned, self._ledger
        if known is not None and known[0] is planned:
            self._write_down(known[1])
        else:
            ledger = self._position()
            self._ledger = None if ledger is None else (planned, ledger)

    def _position(self) -> Ledger | None:
        """Return what has been returned so far; None if the parts are not known yet."""
        planned, known = self._work.planned, self._ledger
        if planned.waiting is None:
            return None
        ledger = Ledger(known[1].parts() if known is not None and known[0] is planned else planned.parts)
        self._write_down(ledger)
        return ledger

    def _write_down(self, ledger: Ledger) -> None:
        """Add the returned rows of the newest batch to a ledger."""
        batch, raw, _, _ = self._now
        if batch is not None:
            left = length_hint(raw)
            if batch.final and not left:
                ledger.finish(*batch.key)
            elif left < len(batch.rows):
                ledger.advance(*batch.key, self._work.query.key_of(batch.rows[len(batch.rows) - left - 1]))

    @property
    def _raw(self) -> Iterator[Any]:
        return self._now[1]

    @property
    def finished(self) -> bool:
        """Whether every row has been returned. It is False if ``limit`` or ``close`` ended the scan early.

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
        """Return a token. A scan with ``resume=token`` continues after the last returned row.

        The token is text. It contains the range, the filters, no_value and with_ttl of the scan, the number of
        partitions and the last key of each unfinished partition. It stays valid after the process ends and after a
        partition split. It can be taken at any time: inside a loop, after an error, after ``close`` or ``limit``.

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
        """End the scan: free its contexts on servers and kill its greenlets. It does not wait. It can be called again.

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
        self._now, self._rows = (None, iter(()), None, self._now[3]), iter(())
        self._end()
