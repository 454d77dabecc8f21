"""SeenSet and Frontier: what was met before, and what is still to be done."""

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
from .records import hash_key_of, new_token, plain, whole


class _Rows:
    """Items as sort keys under hash keys ``kind:name:SHARD``, the shard by CRC-32 of the item."""

    def __init__(self, kind: str, table: Table[Any], name: Key, shards: int, ttl: float | None) -> None:
        self.table, self.ttl = plain(table), ttl
        digits = len(str(whole(shards, "shards", 10_000) - 1))
        self.keys = [hash_key_of(kind, name, f"{shard:0{max(digits, 2)}}") for shard in range(shards)]
        # Whoever writes a row knows it again by this; process, because a fork copies it.
        self._writer, self._pid, self._steps = b"", 0, count()

    def key(self, item: bytes) -> bytes:
        return self.keys[zlib.crc32(item) % len(self.keys)]

    def mark(self) -> bytes:
        """Return a text that no other step of any process has."""
        if self._pid != os.getpid():
            self._writer, self._pid = new_token()[:16], os.getpid()
        return b"%s.%d" % (self._writer, next(self._steps))

    def write(self, item: bytes, value: bytes, check: CheckType, operand: bytes | None, timeout: float | None) -> bool:
        """Write a row if it passes a check; False: it did not. No two calls may write the same value.

        Where a reply is lost the request is repeated. Then the row itself tells which of the two was applied.
        """
        doubt = False
        for last in (False, False, True):
            key = self.key(item)
            try:
                done = self.table.check_and_set(
                    key, item, check, operand, value=value, ttl=self.ttl, return_check_value=True, timeout=timeout
                )
            except PegasusError as error:
                if last or not error.outcome_unknown:
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
    """A set in which exactly one of all callers, of all processes, learns that an item is new.

    Records: hash key ``seen:NAME:SHARD`` with the shard as CRC-32 of the item modulo ``shards``, sort key the item,
    value the mark of who added it.

    Args:
        table: Any table; its codec is not used.
        name: Of the set; bytes or str.
        shards: Hash keys that it is spread over, 1 to 10,000. It must not change later.
        ttl: Seconds after which an item is forgotten; None: never.

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
        """Add an item; True: it is new, and only this caller was told so.

        Args:
            item: Bytes or str, not empty.
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: Where ``outcome_unknown`` is set, it may have been added: then nobody is told that it is new.

        Retries: repeated twice when the reply was lost; each call writes a mark of its own and knows its row again.
        Greenlets: any number may call at once. After a kill it may have been added, and nobody is told.

        Example:
            >>> isinstance(SeenSet(table, "mails").add("c@d"), bool)
            True
        """
        return self._rows.write(_item(item), self._rows.mark(), CheckType.NOT_EXIST, None, timeout)

    def __contains__(self, item: object) -> bool:
        """Ask whether an item is in it."""
        if not isinstance(item, (bytes, str)) or not item:
            return False
        raw = _item(item)
        return self._rows.table.exist(self._rows.key(raw), raw)

    def discard(self, item: Key, *, timeout: float | None = None) -> None:
        """Forget an item, if it is there.

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
        """Read all items: a scan of each shard."""
        for key in self._rows.keys:
            for item, _ in self._rows.table.hash_scan(key, no_value=True):
                yield item

    def clear(self, *, timeout: float | None = None) -> None:
        """Forget all items. Those added meanwhile may stay.

        Args:
            timeout: Seconds for each shard; None: the client's default.

        Raises:
            PegasusError: A shard could not be cleared.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> SeenSet(table, "mails").clear()
        """
        self._rows.clear(timeout)


class Job(NamedTuple):
    """An item that one caller has to work on.

    Attributes:
        item: The item.
        value: The row as this caller knows it.
    """

    item: bytes
    value: bytes


_TODO, _BUSY, _DONE = b"todo", b"busy", b"done"


class Frontier:
    """Work that is found while it is done, each item exactly once, over any number of processes and their deaths.

    One row for each item is to-do list and seen-set at once. Its value begins with the state, and every change of the
    state is one step that only one caller can do::

        absent --add--> todo --claim--> busy --done--> done
                                        busy --again--> todo

    Whoever adds an item that is new has it in a queue in memory, for the greenlets of this process: the cluster is not
    asked what is next. When a process dies, its items stay in the table as todo or busy, and ``resume`` queues them in
    another process. Those that were busy may have been worked on already: only they may be done twice.

    Its queue belongs to the thread that made it: make one in each thread, as in each process.

    Records: hash key ``frontier:NAME:SHARD`` as in ``SeenSet``, sort key the item, value ``STATE MARK UNIXTIME``.

    Args:
        table: Any table; its codec is not used.
        name: Of the work; bytes or str.
        shards: Hash keys that it is spread over, 1 to 10,000. It must not change later.
        ttl: Seconds after its last change when an item is forgotten; None: never.

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
        self._open = 0
        self._hands: set[bytes] = set()  # values of the rows that callers of this process work on

    def __repr__(self) -> str:
        """Show the first hash key and what is open here."""
        return f"<Frontier {self._rows.keys[0].decode('utf-8', 'replace')} open={self._open}>"

    @property
    def open(self) -> int:
        """Items of this process that are queued, or taken and neither done nor given back.

        Example:
            >>> Frontier(table, "crawl").open
            0
        """
        return self._open

    def add(self, item: Key, *, timeout: float | None = None) -> bool:
        """Add an item; if it is new, queue it here and return True.

        Args:
            item: Bytes or str, not empty.
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: Where ``outcome_unknown`` is set, it may have been added: ``resume`` finds it then.

        Retries: as for ``SeenSet.add``.
        Greenlets: any number may call at once; after a kill ``resume`` finds what was added.

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
        """Return a job that is this caller's alone; waits while the queue is empty. None: the end was announced.

        Args:
            timeout: Seconds for each request; None: the client's default. Waiting for the queue is not limited.

        Raises:
            PegasusError: The job could not be claimed; ``resume`` finds it again.

        Retries: as for ``SeenSet.add``.
        Greenlets: any number may call at once. After a kill ``resume`` finds the job again.

        Example:
            >>> frontier = Frontier(table, "crawl")
            >>> frontier.stop()
            >>> frontier.take() is None
            True
        """
        while True:
            job = self._queue.get()
            if job is None:
                return None
            value = self._value(_BUSY)
            try:
                claimed = self._rows.write(job.item, value, CheckType.BYTES_EQUAL, job.value, timeout)
            except BaseException:
                self._open -= 1
                raise
            if claimed:
                self._hands.add(value)
                return Job(job.item, value)
            self._open -= 1  # another process has taken it over

    def done(self, job: Job, *, timeout: float | None = None) -> bool:
        """Say that a job is done; False: another process has taken it over, and does it again.

        Args:
            job: From ``take``.
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: It could not be noted; ``resume`` finds the job again.

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
        try:
            return self._rows.write(job.item, self._value(_DONE), CheckType.BYTES_EQUAL, job.value, timeout)
        finally:
            self._let_go(job)

    def again(self, job: Job, *, timeout: float | None = None) -> bool:
        """Give a job back to be done later, by this process; False: another process has taken it over.

        Args:
            job: From ``take``.
            timeout: Seconds for each request; None: the client's default.

        Raises:
            PegasusError: It could not be noted; ``resume`` finds the job again.

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
        value = self._value(_TODO)
        try:
            if not self._rows.write(job.item, value, CheckType.BYTES_EQUAL, job.value, timeout):
                return False
            self._enqueue(Job(job.item, value))
            return True
        finally:
            self._let_go(job)

    def stop(self, takers: int = 1) -> None:
        """Have so many callers of ``take`` get None, after what is queued.

        Example:
            >>> Frontier(table, "crawl").stop(100)
        """
        for _ in range(takers):
            self._queue.put(None)

    def resume(self, *, busy_for: float = 0.0) -> dict[str, int]:
        """Queue what other processes left; return how many items there are in each state.

        Args:
            busy_for: Take over busy items only after so many seconds, by this machine's clock, so that those which
                living processes work on are left to them. Items to do are queued always: of several processes that
                queue one, one can claim it.

        Raises:
            PegasusError: A shard could not be read.

        Retries: safe.
        Greenlets: call it once at the start, and from time to time where processes may die.

        Example:
            >>> sorted(Frontier(table, "crawl").resume())
            ['busy', 'done', 'todo']
        """
        states: Counter[str] = Counter(todo=0, busy=0, done=0)
        now = time()
        for item, value in self._all():
            state, _, at = value.split()
            states[state.decode()] += 1
            taken = value in self._hands or now - int(at) < busy_for
            if state == _TODO or (state == _BUSY and not taken):
                self._enqueue(Job(item, value))
        return dict(states)

    def states(self) -> dict[str, int]:
        """Read all rows; return how many items there are in each state.

        Example:
            >>> isinstance(Frontier(table, "crawl").states(), dict)
            True
        """
        return dict(Counter(value.split()[0].decode() for _, value in self._all()))

    def clear(self, *, timeout: float | None = None) -> None:
        """Forget all items, of all processes. Those added meanwhile may stay.

        Args:
            timeout: Seconds for each shard; None: the client's default.

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

    def _let_go(self, job: Job) -> None:
        if job.value in self._hands:
            self._hands.remove(job.value)
            self._open -= 1

    def _enqueue(self, job: Job) -> None:
        self._open += 1
        self._queue.put(job)

    def _all(self) -> Iterable[tuple[bytes, bytes]]:
        for key in self._rows.keys:
            yield from self._rows.table.hash_scan(key)
