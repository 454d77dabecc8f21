"""SeenSet and Frontier: items that were seen, and items that still have to be processed."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from time import time
from typing import Any, NamedTuple

from gevent.queue import Queue

from ..client import Table
from ..errors import InvalidArgument, PegasusError
from ..keys import Key, to_bytes
from ..model import CheckType
from .errors import is_doubtful
from .records import hash_key_of, new_token, plain, whole


class _Rows:
    """Items as sort keys under the hash keys ``kind:name:SHARD``. The CRC-32 of the item determines the shard."""

    def __init__(self, kind: str, table: Table[Any], name: Key, shards: int, ttl: float | None) -> None:
        self.table, self.ttl = plain(table), ttl
        digits = len(str(whole(shards, "shards", 10_000) - 1))
        self.keys = [hash_key_of(kind, name, f"{shard:0{max(digits, 2)}}") for shard in range(shards)]
        # Identifies the writer of a row. The pid is stored because a fork copies the object.
        self._writer, self._pid, self._steps = b"", 0, count()

    def key(self, item: bytes) -> bytes:
        return self.keys[zlib.crc32(item) % len(self.keys)]

    def mark(self) -> bytes:
        """Return a unique text. No other step of any process gets the same."""
        if self._pid != os.getpid():
            self._writer, self._pid = new_token()[:16], os.getpid()
        return b"%s.%d" % (self._writer, next(self._steps))

    def write(self, item: bytes, value: bytes, check: CheckType, operand: bytes | None, timeout: float | None) -> bool:
        """Write a row if it passes a check; False if it does not pass. No two calls may write the same value.

        If a reply is lost, the request is repeated. The row then shows whether the first request was applied.
        """
        doubt = False
        for last in (False, False, True):
            key = self.key(item)
            try:
                done = self.table.check_and_set(
                    key, item, check, operand, value=value, ttl=self.ttl, return_check_value=True, timeout=timeout
                )
            except PegasusError as error:
                if last or not is_doubtful(error):
                    raise
                doubt = True
                continue
            return bool(done) or (doubt and done.raw_check_value == value)
        raise AssertionError("not reached")

    def clear(self, timeout: float | None) -> None:
        for key in self.keys:
            self.table.del_range(key, timeout=timeout)


def _item(item: Key) -> bytes:
    raw = to_bytes(item, "item")
    if not raw:
        raise InvalidArgument("an item must not be empty")
    return raw


class SeenSet:
    """A set. If several callers add the same item, exactly one of all processes gets the answer that it is new.

    Records: hash key ``seen:NAME:SHARD``, where the shard is the CRC-32 of the item modulo ``shards``; sort key: the
    item; value: a mark of the caller that added it.

    Args:
        table: Any table; its codec is not used.
        name: Name of the set; bytes or str.
        shards: Number of hash keys, 1 to 10,000. It must not change later.
        ttl: Seconds until an item is forgotten; None: never.

    Example:
        >>> seen = SeenSet(table, "mails")
        >>> seen.clear()
        >>> seen.add("a@b"), seen.add("a@b"), "a@b" in seen
        (True, False, True)
    """

    def __init__(self, table: Table[Any], name: Key, *, shards: int = 64, ttl: float | None = None) -> None:
        self._rows = _Rows("seen", table, name, shards, ttl)

    def __repr__(self) -> str:
        """Show the first hash key."""
        return f"<SeenSet {self._rows.keys[0].decode('utf-8', 'replace')} shards={len(self._rows.keys)}>"

    def add(self, item: Key, *, timeout: float | None = None) -> bool:
        """Add an item; return True if it is new. Only one caller gets True for an item.

        Args:
            item: Bytes or str, not empty.
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: If ``outcome_unknown`` is set, the item may have been added. If it was, no caller gets True
                for it.

        Retries: up to twice if the reply was lost. Each call writes a mark of its own, which shows whether the row
            comes from this call.
        Greenlets: any number may call at once. After a kill the item may have been added although no caller got True.

        Example:
            >>> isinstance(SeenSet(table, "mails").add("c@d"), bool)
            True
        """
        return self._rows.write(_item(item), self._rows.mark(), CheckType.NOT_EXIST, None, timeout)

    def __contains__(self, item: object) -> bool:
        """Tell whether an item is in the set."""
        if not isinstance(item, (bytes, str)) or not item:
            return False
        raw = _item(item)
        return self._rows.table.exist(self._rows.key(raw), raw)

    def discard(self, item: Key, *, timeout: float | None = None) -> None:
        """Remove an item. It is no error if it is absent.

        Args:
            item: Bytes or str, not empty.
            timeout: Seconds; None: the client's default.

        Raises:
            PegasusError: The row could not be removed.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> SeenSet(table, "mails").discard("a@b")
        """
        raw = _item(item)
        self._rows.table.remove(self._rows.key(raw), raw, timeout=timeout)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over all items: a scan of each shard."""
        for key in self._rows.keys:
            for item, _ in self._rows.table.hash_scan(key, no_value=True):
                yield item

    def clear(self, *, timeout: float | None = None) -> None:
        """Remove all items. Items that are added meanwhile may stay.

        Args:
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: A shard could not be cleared.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> SeenSet(table, "mails").clear()
        """
        self._rows.clear(timeout)


class Job(NamedTuple):
    """An item that one caller has to process.

    Attributes:
        item: The item.
        value: The last known value of the row.
    """

    item: bytes
    value: bytes


_TODO, _BUSY, _DONE = b"todo", b"busy", b"done"


class Frontier:
    """A list of work that grows while it is processed. Any number of processes share it; each item is processed once.

    Each item has one row, which serves as to-do list and as set of seen items. Its value begins with the state. Each
    change of the state is one atomic step, and only one caller succeeds in it::

        absent --add--> todo --claim--> busy --done--> done
                                        busy --again--> todo

    A caller that adds a new item puts it into a queue in memory, for the greenlets of this process. So no request is
    needed to find the next item. If a process dies, its items stay in the table as todo or busy. ``resume`` puts them
    into the queue of another process. The busy ones may have been processed already; only they can be processed twice.

    The queue belongs to the thread that made it: make one object for each thread and process.

    Records: hash key ``frontier:NAME:SHARD`` as in ``SeenSet``, sort key the item, value ``STATE MARK UNIXTIME``.

    Args:
        table: Any table; its codec is not used.
        name: Name of the list; bytes or str.
        shards: Number of hash keys, 1 to 10,000. It must not change later.
        ttl: Seconds from the last change of an item until it is forgotten; None: never.

    Example:
        >>> frontier = Frontier(table, "crawl")
        >>> frontier.clear()
        >>> frontier.add("http://example.org/"), frontier.add("http://example.org/")
        (True, False)
        >>> job = frontier.take()
        >>> frontier.done(job)
        True
        >>> frontier.open, sorted(frontier.states().items())
        (0, [('done', 1)])
    """

    def __init__(self, table: Table[Any], name: Key, *, shards: int = 64, ttl: float | None = None) -> None:
        self._rows = _Rows("frontier", table, name, shards, ttl)
        self._queue: Queue[Job | None] = Queue()
        self._queued: set[bytes] = set()  # values of the rows in the queue
        self._hands: set[bytes] = set()  # values of the rows that this process is claiming or working on

    def __repr__(self) -> str:
        """Show the first hash key and the number of open items of this process."""
        return f"<Frontier {self._rows.keys[0].decode('utf-8', 'replace')} open={self.open}>"

    @property
    def open(self) -> int:
        """Number of items of this process that are queued, or taken and not yet done or given back.

        Example:
            >>> Frontier(table, "crawl").open
            0
        """
        return len(self._queued) + len(self._hands)

    def add(self, item: Key, *, timeout: float | None = None) -> bool:
        """Add an item. If it is new, put it into the queue of this process and return True.

        Args:
            item: Bytes or str, not empty.
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: If ``outcome_unknown`` is set, the item may have been added; ``resume`` then finds it.

        Retries: as for ``SeenSet.add``.
        Greenlets: any number may call at once. After a kill, ``resume`` finds an item that was added.

        Example:
            >>> isinstance(Frontier(table, "crawl").add("http://example.org/a"), bool)
            True
        """
        raw = _item(item)
        value = self._value(_TODO)
        if not self._rows.write(raw, value, CheckType.NOT_EXIST, None, timeout):
            return False
        self._enqueue(Job(raw, value))
        return True

    def take(self, *, timeout: float | None = None) -> Job | None:
        """Return the next job, for this caller alone. Wait while the queue is empty. After ``stop``, return None.

        Args:
            timeout: Seconds for each request; None: the client's default. The wait for the queue has no limit.

        Raises:
            PegasusError: The job could not be claimed; ``resume`` finds it again.

        Retries: as for ``SeenSet.add``.
        Greenlets: any number may call at once. After a kill, ``resume`` finds the job again.

        Example:
            >>> frontier = Frontier(table, "crawl")
            >>> frontier.stop()
            >>> frontier.take() is None
            True
        """
        while True:
            job, value = None, self._value(_BUSY)
            try:
                job = self._queue.get()
                if job is None:
                    return None
                self._hands.add(value)
                self._queued.discard(job.value)
                if self._rows.write(job.item, value, CheckType.BYTES_EQUAL, job.value, timeout):
                    return Job(job.item, value)
                # Another process has taken it over.
                self._hands.discard(value)
            except BaseException:
                # The caller does not get it, so that `resume` has to find it.
                self._hands.discard(value)
                self._recount()
                raise

    def done(self, job: Job, *, timeout: float | None = None) -> bool:
        """Mark a job as done. Return False if another process has taken the job over; that process does it again.

        Args:
            job: From ``take``.
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: The state could not be stored; ``resume`` finds the job again.

        Retries: as for ``SeenSet.add``.
        Greenlets: any number may call at once.

        Example:
            >>> frontier = Frontier(table, "crawl")
            >>> frontier.clear()
            >>> frontier.add("http://example.org/b")
            True
            >>> frontier.done(frontier.take())
            True
        """
        return self._finish(job, _DONE, timeout)

    def again(self, job: Job, *, timeout: float | None = None) -> bool:
        """Put a job back into the queue of this process. Return False if another process has taken the job over.

        Args:
            job: From ``take``.
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: The state could not be stored; ``resume`` finds the job again.

        Retries: as for ``SeenSet.add``.
        Greenlets: any number may call at once.

        Example:
            >>> frontier = Frontier(table, "crawl")
            >>> frontier.clear()
            >>> frontier.add("http://example.org/c")
            True
            >>> frontier.again(frontier.take()), frontier.open
            (True, 1)
        """
        return self._finish(job, _TODO, timeout)

    def stop(self, takers: int = 1) -> None:
        """Make this many callers of ``take`` return None, after the queued items.

        Args:
            takers: Number of callers.

        Example:
            >>> Frontier(table, "crawl").stop(100)
        """
        for _ in range(takers):
            self._queue.put(None)

    def resume(self, *, busy_for: float = 0.0) -> dict[str, int]:
        """Queue the items that other processes left; return the number of items in each state.

        Items that are in the queue of this process already are not queued again.

        Args:
            busy_for: Take over a busy item only if it has been busy for at least this many seconds, by this machine's
                clock; 0 takes over all. Use more than the longest processing time, so that an item stays with a living
                process that works on it. Items in the state todo are always taken over. If several processes queue the
                same item, only one can claim it.

        Raises:
            PegasusError: A shard could not be read.

        Retries: safe.
        Greenlets: call it once at the start, and regularly if processes may die.

        Example:
            >>> sorted(Frontier(table, "crawl").resume())
            ['busy', 'done', 'todo']
        """
        states: Counter[str] = Counter(todo=0, busy=0, done=0)
        now = time()
        self._recount()
        for item, value in self._all():
            state, _, at = value.split()
            states[state.decode()] += 1
            taken = value in self._hands or now - int(at) < busy_for
            if state == _TODO or (state == _BUSY and not taken):
                self._enqueue(Job(item, value))
        return dict(states)

    def states(self) -> dict[str, int]:
        """Read all rows; return the number of items in each state.

        Example:
            >>> isinstance(Frontier(table, "crawl").states(), dict)
            True
        """
        return dict(Counter(value.split()[0].decode() for _, value in self._all()))

    def clear(self, *, timeout: float | None = None) -> None:
        """Remove all items, also those of other processes. Items that are added meanwhile may stay.

        Args:
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: A shard could not be cleared.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> Frontier(table, "crawl").clear()
        """
        self._rows.clear(timeout)

    def _value(self, state: bytes) -> bytes:
        return b"%s %s %d" % (state, self._rows.mark(), int(time()))

    def _finish(self, job: Job, state: bytes, timeout: float | None) -> bool:
        """Store the new state of a job that this process has taken."""
        try:
            value = self._value(state)
            stored = self._rows.write(job.item, value, CheckType.BYTES_EQUAL, job.value, timeout)
            if stored and state == _TODO:
                self._enqueue(Job(job.item, value))
            self._hands.discard(job.value)
        except BaseException:
            self._hands.discard(job.value)
            raise
        return stored

    def _enqueue(self, job: Job) -> None:
        if job.value not in self._queued:
            # First: while a signal handler waits after put(), another greenlet can finish the job.
            self._queued.add(job.value)
            self._queue.put(job)

    def _recount(self) -> None:
        """Make the set equal to the queue. An interruption may come between the changes of the two."""
        self._queued = {job.value for job in self._queue.queue.copy() if job is not None}

    def _all(self) -> Iterable[tuple[bytes, bytes]]:
        for key in self._rows.keys:
            yield from self._rows.table.hash_scan(key)
