"""Lock, Semaphore and Leader: what one of many, or some of many, may do at a time."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

import gevent
from gevent import Greenlet

from ..client import Table
from ..errors import InvalidArgument, PegasusError
from ..keys import Key, to_bytes
from .errors import LockError, LockNotOwnedError
from .leases import Hold, Places, lease_seconds
from .records import above_zero, doze, hash_key_of, new_token, plain, whole

_log = logging.getLogger("pegasus_green.recipes")
_T = TypeVar("_T")
_L = TypeVar("_L", bound="Leased")


class Leased:
    """What Lock and Semaphore have in common: one lease at a time, renewed while it is held."""

    _kind = ""
    _places: Places

    def __init__(
        self,
        table: Table[Any],
        name: Key,
        *,
        places: list[bytes],
        timeout: float,
        sleep: float,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        renew: bool = True,
        on_lost: Callable[[Any], object] | None = None,
        identity: Key = b"",
    ) -> None:
        """Describe it; nothing is sent."""
        self.name = to_bytes(name, "name")
        self.timeout = lease_seconds(timeout)
        self.sleep = above_zero(sleep, "sleep")
        self.blocking = blocking
        self.blocking_timeout = None if blocking_timeout is None else float(blocking_timeout)
        self.renew = renew
        self.on_lost = on_lost
        self.identity = to_bytes(identity, "identity")
        self._places = Places(plain(table), hash_key_of(self._kind, self.name), places, self.timeout)
        self._hold: Hold | None = None
        self._renewal: Greenlet[..., None] | None = None

    def __repr__(self) -> str:
        """Show name and state."""
        hold = self._held()
        state = "free" if hold is None else f"held for {hold.left():.1f} s fence={hold.fence}"
        return f"<{type(self).__name__} {self.name.decode('utf-8', 'replace')} {state}>"

    def __enter__(self: _L) -> _L:
        """Acquire it as the constructor says.

        Raises:
            LockError: It could not be had in time.
        """
        if not self.acquire():
            raise LockError(f"{self!r} could not be acquired: all places are taken", table=self._places.table.name)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Release it. That it was lost is raised, unless the block has raised already.

        Where the block was killed or timed out, the release goes on in the background: cleaning up does not wait.
        """
        if kind is not None and not issubclass(kind, Exception):
            self._abandon()
            return
        try:
            self.release()
        except PegasusError as error:
            if kind is None:
                raise
            _log.warning("%r was not released: %s", self, error)

    def acquire(self, *, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """Take it; wait for it where that is wanted.

        Args:
            blocking: Whether to wait while others hold it; None: as the constructor says.
            blocking_timeout: Seconds to wait at most; None: as the constructor says, where None is for ever. The
                requests' own timeouts come on top.

        Returns:
            True when it is held now; False when others hold it (and still did at the end of the wait).

        Raises:
            LockError: The clocks of this machine and of the server differ by more than the lease.
            PegasusError: The records could not be read or written. A grant whose reply was lost is given back in the
                background. If that fails, too, the lock stays taken by nobody for at most ``timeout`` + 2 seconds.

        Retries: a request whose reply was lost is followed by a read, which tells whether it was applied.
        Greenlets: any number may call at once, also of one object: one of them gets it, the others wait. After a kill
            it is not held.

        Example:
            >>> lock = Lock(table, "report:7", timeout=10)
            >>> lock.acquire(blocking=False)
            True
            >>> Lock(table, "report:7").acquire(blocking=False)
            False
            >>> lock.release()
        """
        blocking = self.blocking if blocking is None else blocking
        wait = self.blocking_timeout if blocking_timeout is None else blocking_timeout
        until = None if wait is None else monotonic() + wait
        token = new_token()
        while True:
            taken = self._places.acquire(token, self.identity)
            if isinstance(taken, Hold):
                self._begin(taken)
                return True
            left = self.sleep if until is None else min(until - monotonic(), self.sleep)
            if not blocking or left <= 0:
                return False
            doze(left)

    def _begin(self, hold: Hold) -> None:
        self._hold = hold
        if self.renew:
            self._renewal = gevent.spawn(_keep, weakref.ref(self), hold)

    def release(self) -> None:
        """Give it back, if it is still this object's.

        Raises:
            LockNotOwnedError: The lease had ended before: it expired (the process stalled, or could not reach the
                servers), and somebody else may have held it since.
            LockError: It was not acquired, or by the parent of this forked process.
            PegasusError: It could not be released; it expires by itself.

        Retries: repeated where the reply was lost, which is harmless: only this grant's token is removed.
        Greenlets: any greenlet may release what another one acquired, as with ``threading.Lock``. A kill may leave it
            to expire.

        Example:
            >>> lock = Lock(table, "report:7")
            >>> lock.acquire()
            True
            >>> lock.release()
            >>> lock.locked()
            False
        """
        hold = self._held()
        if hold is None:
            raise LockError(f"{self!r} cannot be released: it is not held by this object", table=self._table_name)
        self._end()
        if not self._places.release(hold.token, hold.place):
            raise LockNotOwnedError(f"the lease of {self!r} had ended before the release", table=self._table_name)

    def _end(self) -> None:
        renewal, self._renewal, self._hold = self._renewal, None, None
        if renewal is not None and renewal is not gevent.getcurrent() and renewal.parent is gevent.get_hub():
            # One that is under way may still be applied, but not after the release: its check fails then. Another
            # thread's greenlet must not be touched; it ends when it next wakes.
            renewal.kill(block=False)

    def _abandon(self) -> None:
        """Give it back in the background, if it is held."""
        hold = self._held()
        if hold is not None:
            self._end()
            self._places.abandon(hold.token)

    def _held(self) -> Hold | None:
        hold = self._hold
        return hold if hold is not None and hold.pid == os.getpid() else None

    @property
    def _table_name(self) -> str:
        return self._places.table.name

    def _owned(self) -> Hold:
        hold = self._held()
        if hold is None:
            raise LockError(f"{self!r} is not held by this object", table=self._table_name)
        return hold

    def owned(self) -> bool:
        """Ask the server whether this object's lease is still there.

        The lease may end right after the answer. Use ``fencing_token`` to guard what must not be done twice.

        Example:
            >>> with Lock(table, "report:7") as lock:
            ...     lock.owned()
            True
        """
        hold = self._held()
        if hold is None:
            return False
        found = self._places.table.get(self._places.hash_key, hold.place)
        return found is not None and found.startswith(hold.token + b" ")

    def locked(self) -> bool:
        """Ask the server whether an ``acquire`` would have to wait, whoever holds it.

        Example:
            >>> with Lock(table, "report:7"):
            ...     Lock(table, "report:7").locked()
            True
        """
        return not self._places.free(self._places.look())

    def remaining(self) -> float:
        """Return for how many seconds it certainly is still held; 0.0 if it may have ended. Sends nothing.

        The time counts from before the request that took or renewed the lease, so the result is never too high. A stall
        that begins after the return can still outlast the lease.

        Example:
            >>> with Lock(table, "report:7", timeout=10) as lock:
            ...     8 < lock.remaining() <= 10
            True
        """
        hold = self._held()
        return 0.0 if hold is None else hold.left()

    @property
    def fencing_token(self) -> int:
        """The number of this grant: greater than that of every earlier grant of this name.

        Pass it to the resource that the lock guards, and let the resource refuse a number lower than the highest one it
        has seen. That protects the resource from a holder that stalled for longer than its lease and writes afterwards.
        A lock with an expiry cannot do that by itself.

        Raises:
            LockError: It is not held by this object.

        Example:
            >>> with Lock(table, "report:7") as lock:
            ...     first = lock.fencing_token
            >>> with Lock(table, "report:7") as lock:
            ...     lock.fencing_token > first
            True
        """
        return self._owned().fence

    def extend(self, additional_time: float, *, replace_ttl: bool = False) -> bool:
        """Let the lease end later.

        Args:
            additional_time: Seconds to add to what remains.
            replace_ttl: Let it end so many seconds from now instead.

        Returns:
            True.

        Raises:
            LockNotOwnedError: It has ended.
            LockError: It is not held by this object.
            PegasusError: The request failed; the lease ends when it would have, or later.

        Retries: a renewal is not repeated when its reply is lost; calling again is harmless.
        Greenlets: any number may call at once.

        Example:
            >>> with Lock(table, "report:7", timeout=10) as lock:
            ...     lock.extend(60)
            True
        """
        hold = self._owned()
        seconds = above_zero(additional_time, "additional_time") + (0.0 if replace_ttl else hold.left())
        if not self._places.renew(hold, seconds):
            raise LockNotOwnedError(f"{self!r} cannot be extended: its lease has ended", table=self._table_name)
        return True

    def reacquire(self) -> bool:
        """Let the lease end ``timeout`` seconds from now; otherwise like ``extend``.

        Example:
            >>> with Lock(table, "report:7", timeout=10) as lock:
            ...     lock.reacquire()
            True
        """
        return self.extend(self.timeout, replace_ttl=True)


def _keep(owner: weakref.ref[Leased], hold: Hold) -> None:
    """Renew a lease as long as its holder wants it; tell when it is lost."""
    leased = owner()
    if leased is None:
        return
    pause, places = leased.timeout / 3, leased._places
    retry = min(pause, max(leased.timeout / 20, 0.05))
    wait = pause
    while True:
        del leased  # a lock that nobody refers to any more is not kept alive: its lease expires
        gevent.sleep(wait)
        leased = owner()
        if leased is None or leased._held() is not hold:
            return
        try:
            # Also when its time seems to be over: the record decides, and it may still be there.
            kept = places.renew(hold, max(leased.timeout, hold.left()))
        except PegasusError as error:
            if hold.left() > 0:
                _log.info("the lease of %r could not be renewed yet: %s", leased, error)
                wait = min(retry, hold.left())
                continue
            kept = False
        if leased._held() is not hold:
            return
        if not kept:
            _lose(leased, hold)
            return
        wait = pause


def _lose(leased: Leased, hold: Hold) -> None:
    hold.until = float("-inf")
    _log.warning("the lease of %r was lost: it could not be renewed in time", leased)
    if leased.on_lost is not None:
        leased.on_lost(leased)


class Lock(Leased):
    """A lock that one holder among all processes has, with an expiry: a holder that dies does not keep it.

    The methods and their names are those of redis-py's Lock. Besides it renews itself, and it has fencing tokens.

    While it is held, a greenlet renews the lease each third of ``timeout``. If the holder's process ends, others get
    the lock at most ``timeout`` + 2 seconds later. If the process stalls for longer than that (a stopped virtual
    machine, code that blocks the hub), the lease ends and others get the lock, while the holder does not know yet: it
    learns of it by ``on_lost``, ``remaining()`` or LockNotOwnedError as soon as it runs again. Until then it may go on
    writing. Only ``fencing_token`` lets the resource refuse such writes.

    Time: the client sends the expiry as this machine's time plus ``timeout``. The server compares it with its own
    clock. ``acquire`` asks the server how much time is left, and takes the difference into account from then on. If no
    time is left, it raises LockError.

    Records: hash key ``lock:NAME``, sort keys ``fence`` and ``owner``; see ``pegasus_green.recipes.leases``.

    Args:
        table: Any table; its codec is not used.
        name: What is locked; bytes or str.
        timeout: Seconds that a lease lives without renewal, 1 to 30 days; rounded up to whole ones on the wire.
        sleep: Seconds between two looks while ``acquire`` waits, at most; half of it at least.
        blocking: Whether ``acquire`` waits.
        blocking_timeout: Seconds that it waits at most; None: for ever.
        renew: Whether a greenlet renews the lease.
        on_lost: Called with the lock, in the renewing greenlet, once the lease could not be renewed in time.
        identity: A text that is stored beside the token, for people who look at the records.

    Example:
        >>> with Lock(table, "report:7", timeout=10) as lock:
        ...     lock.owned()
        True
    """

    _kind = "lock"

    def __init__(
        self,
        table: Table[Any],
        name: Key,
        *,
        timeout: float = 30.0,
        sleep: float = 0.1,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        renew: bool = True,
        on_lost: Callable[[Any], object] | None = None,
        identity: Key = b"",
    ) -> None:
        super().__init__(
            table,
            name,
            places=[b"owner"],
            timeout=timeout,
            sleep=sleep,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            renew=renew,
            on_lost=on_lost,
            identity=identity,
        )


class Semaphore(Leased):
    """At most ``value`` holders among all processes at a time; otherwise like ``Lock``.

    One object holds one place; make an object for each holder. All processes must pass the same ``value``: with a lower
    one a process sees fewer places.

    Records: hash key ``semaphore:NAME``, sort keys ``fence`` and ``owner:0000``, ``owner:0001``, ...

    Args:
        table: Any table; its codec is not used.
        name: What is counted; bytes or str.
        value: Places, 1 to 1,000.
        timeout: As for ``Lock``, like all that follow.
        sleep: As for ``Lock``.
        blocking: As for ``Lock``.
        blocking_timeout: As for ``Lock``.
        renew: As for ``Lock``.
        on_lost: As for ``Lock``.
        identity: As for ``Lock``.

    Example:
        >>> first, second, third = (Semaphore(table, "exports", value=2, blocking=False) for _ in range(3))
        >>> first.acquire(), second.acquire(), third.acquire()
        (True, True, False)
        >>> first.release()
        >>> third.acquire()
        True
        >>> second.release(), third.release()
        (None, None)
    """

    _kind = "semaphore"

    def __init__(
        self,
        table: Table[Any],
        name: Key,
        *,
        value: int = 1,
        timeout: float = 30.0,
        sleep: float = 0.1,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        renew: bool = True,
        on_lost: Callable[[Any], object] | None = None,
        identity: Key = b"",
    ) -> None:
        self.value = whole(value, "value", 1000)
        super().__init__(
            table,
            name,
            places=[b"owner:%04d" % index for index in range(self.value)],
            timeout=timeout,
            sleep=sleep,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            renew=renew,
            on_lost=on_lost,
            identity=identity,
        )


class _LeaderLock(Lock):
    _kind = "leader"


class Leader:
    """An election: of all processes that stand for a name, one leads at a time.

    It is a ``Lock`` (hash key ``leader:NAME``) whose holder runs a function, and which stops that function once the
    lease is lost. All that is said there of stalls and clocks holds here.

    Args:
        table: Any table; its codec is not used.
        name: The office.
        identity: Who stands, for ``current()`` and for people; None: ``HOST:PID``.
        timeout: Seconds without renewal after which another one may lead; 1 to 30 days.
        sleep: Seconds between two looks of those who wait, at most.

    Example:
        >>> leader = Leader(table, "cleaner", identity="web1")
        >>> leader.run(lambda: leader.current())
        b'web1'
        >>> leader.current() is None
        True
    """

    def __init__(
        self, table: Table[Any], name: Key, *, identity: Key | None = None, timeout: float = 10.0, sleep: float = 1.0
    ) -> None:
        self.identity = to_bytes(f"{os.uname().nodename}:{os.getpid()}" if identity is None else identity, "identity")
        if not self.identity:
            raise InvalidArgument("identity must not be empty")
        self._lock = _LeaderLock(
            table, name, timeout=timeout, sleep=sleep, on_lost=self._depose, identity=self.identity
        )
        self._work: Greenlet[..., Any] | None = None
        self._deposed = False

    def __repr__(self) -> str:
        """Show who stands for what."""
        return f"<Leader {self._lock!r} identity={self.identity.decode('utf-8', 'replace')}>"

    @property
    def is_leader(self) -> bool:
        """Whether this object leads, as far as it can know without asking.

        Example:
            >>> Leader(table, "cleaner").is_leader
            False
        """
        return self._lock.remaining() > 0

    @property
    def fencing_token(self) -> int:
        """The number of this term of office, as ``Lock.fencing_token``.

        Example:
            >>> leader = Leader(table, "cleaner")
            >>> leader.run(lambda: leader.fencing_token) > 0
            True
        """
        return self._lock.fencing_token

    def current(self) -> bytes | None:
        """Ask the server who leads; None: nobody.

        Example:
            >>> Leader(table, "cleaner").current() is None
            True
        """
        places = self._lock._places
        value = places.table.get(places.hash_key, b"owner")
        return None if value is None else value.split(b" ", 3)[3]

    def run(self, function: Callable[..., _T], *args: Any, blocking_timeout: float | None = None) -> _T:
        """Wait until this one leads, call the function, and give the office back when it returns.

        Args:
            function: What the leader does. It runs in a greenlet of its own.
            *args: Its arguments.
            blocking_timeout: Seconds to wait for the office; None: for ever.

        Returns:
            What the function returned.

        Raises:
            LockNotOwnedError: The lease was lost while the function ran, and the function was killed.
            LockError: Others led all the time.
            PegasusError: The records could not be reached.

        Retries: as for ``Lock.acquire``.
        Greenlets: one call at a time for each object. A kill of the caller ends the function and the office.

        Example:
            >>> Leader(table, "cleaner").run(lambda: "cleaned")
            'cleaned'
        """
        if not self._lock.acquire(blocking_timeout=blocking_timeout):
            raise LockError(f"{self!r}: somebody else leads", table=self._lock._table_name)
        self._deposed = False
        work = self._work = gevent.spawn(_attempt, function, args)
        try:
            work.join()
        except BaseException:
            gevent.spawn(self._end_term, work)
            raise
        self._work = None
        result, error = work.value if work.successful() and isinstance(work.value, tuple) else (None, None)
        self._resign(quietly=error is not None and not self._deposed)
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def _end_term(self, work: Greenlet[..., Any]) -> None:
        """End what the caller of ``run``, who was killed, does not wait for; nobody else leads before that."""
        work.kill()
        self._work = None
        self._lock._abandon()

    def _resign(self, *, quietly: bool) -> None:
        try:
            self._lock.release()
        except PegasusError as error:
            if isinstance(error, LockNotOwnedError) and not quietly:
                raise
            _log.warning("%r: the office could not be given back: %s", self, error)

    def _depose(self, _lock: Leased) -> None:
        self._deposed = True
        if self._work is not None:
            self._work.kill(block=False)


def _attempt(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """Return what a function returned or raised; gevent would print what a greenlet raises."""
    try:
        return function(*args), None
    except Exception as error:
        return None, error
