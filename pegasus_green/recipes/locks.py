"""Lock and Semaphore: one holder, or a limited number of holders, among all processes."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import gevent
from gevent import Greenlet

from ..client import Table
from ..errors import PegasusError
from ..keys import Key, to_bytes
from .errors import LockError, LockNotOwnedError
from .leases import Hold, Places, lease_seconds
from .records import above_zero, doze, hash_key_of, longest_wait, new_token, plain, whole

_log = logging.getLogger("pegasus_green.recipes")
_L = TypeVar("_L", bound="Leased")


class Leased:
    """Common base of Lock and Semaphore: one lease at a time, renewed while it is held."""

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
        """Store the arguments; nothing is sent."""
        self.name = to_bytes(name, "name")
        self.timeout = lease_seconds(timeout)
        self.sleep = above_zero(sleep, "sleep")
        self.blocking = blocking
        self.blocking_timeout = longest_wait(blocking_timeout)
        self.renew = renew
        self.on_lost = on_lost
        self.identity = to_bytes(identity, "identity")
        self._places = Places(plain(table), hash_key_of(self._kind, self.name), places, self.timeout)
        self._hold: Hold | None = None
        self._renewal: Greenlet[..., None] | None = None

    def __repr__(self) -> str:
        """Show name and state."""
        hold = self._held()
        state = "not held" if hold is None else f"held for {hold.left():.1f} s fence={hold.fence}"
        return f"<{type(self).__name__} {self.name.decode('utf-8', 'replace')} {state}>"

    def __enter__(self: _L) -> _L:
        """Acquire the lease with the arguments of the constructor.

        Raises:
            LockError: Others held it during the whole wait.
        """
        token = new_token()
        try:
            if not self._acquire(token, self.blocking, self.blocking_timeout):
                raise LockError(f"{self!r} could not be acquired: others hold it", table=self._places.table.name)
            return self
        except BaseException:
            self._undo(token)
            raise

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Release the lease. A lost lease raises LockNotOwnedError, unless the block has raised.

        If the block was killed or timed out, the release continues in the background, because clean-up must not wait.
        """
        hold: Hold | None = None
        try:
            hold = self._held()
            if kind is not None and not issubclass(kind, Exception):
                self._abandon()
                return
            try:
                self.release()
            except PegasusError as error:
                if kind is None:
                    raise
                _log.warning("%r was not released: %s", self, error)
        except PegasusError:
            raise
        except BaseException:
            hold = hold or self._held()
            if hold is not None and self._hold is hold:
                self._drop(hold)
            raise

    def acquire(self, *, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """Acquire the lease. Wait for it if ``blocking`` is set.

        Args:
            blocking: Whether to wait while others hold it; None: the argument of the constructor.
            blocking_timeout: Maximum seconds to wait; None: the argument of the constructor, where None means no limit.
                The timeouts of the requests are added to it.

        Returns:
            True if this object holds the lease now. False if others hold it, also after the wait.

        Raises:
            LockError: The lease has already ended: the server's clock is ahead, or this machine stalled.
            PegasusError: The records could not be read or written. A grant whose reply was lost is released in the
                background. If that fails, too, the lock stays taken without a holder for at most ``timeout`` + 2
                seconds.

        Retries: if the reply to a request is lost, the recipe reads the records. They show whether it was applied. If
            not, the recipe repeats it up to twice.
        Greenlets: any number may call at once, also of one object: one gets the lease, the others wait. A killed
            caller does not hold it. A second call in the greenlet of the holder waits, too: the lease is not reentrant.

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
        token = new_token()
        try:
            return self._acquire(token, blocking, wait)
        except BaseException:
            self._undo(token)
            raise

    def _acquire(self, token: bytes, blocking: bool, wait: float | None) -> bool:  # noqa: FBT001 - private
        wait = longest_wait(wait)
        until = None if wait is None else monotonic() + wait
        taken: Hold | dict[bytes, bytes] = {}
        try:
            while True:
                taken = self._places.acquire(token, self.identity)
                if isinstance(taken, Hold):
                    self._begin(taken)
                    return True
                left = self.sleep if until is None else min(until - monotonic(), self.sleep)
                if not blocking or left <= 0:
                    return False
                doze(left)
        except BaseException:
            if isinstance(taken, Hold):
                self._drop(taken)
            raise

    def _undo(self, token: bytes) -> None:
        """Release the lease of a caller that got an exception instead of the lease. It must not be renewed."""
        hold = self._held()
        if hold is not None and hold.token == token:
            self._drop(hold)

    def _holds(self, token: bytes) -> bool:
        hold = self._held()
        return hold is not None and hold.token == token

    def _begin(self, hold: Hold) -> None:
        self._hold = hold
        if self.renew:
            owner = weakref.ref(self)
            renewal = self._renewal = Greenlet(_keep, owner, hold)
            # An exception can end the greenlet at any step, also at its first one.
            renewal.rawlink(partial(_kept, owner, hold))
            renewal.start()

    def release(self) -> None:
        """Release the lease, if this object still holds it.

        Raises:
            LockNotOwnedError: The lease had ended before: it expired (the process stalled, or could not reach the
                servers), and another process may have held it since.
            LockError: This object has not acquired it, or the parent of this forked process has.
            PegasusError: The release failed. The lease expires by itself.

        Retries: safe. The recipe repeats the request if its reply is lost. The request removes only the token of this
            grant.
        Greenlets: any greenlet may release the lease, as with ``threading.Lock``. After a kill the lease may last until
            its expiry.

        Example:
            >>> lock = Lock(table, "report:7")
            >>> lock.acquire()
            True
            >>> lock.release()
            >>> lock.locked()
            False
        """
        hold: Hold | None = None
        try:
            hold = self._held()
            if hold is None:
                raise LockError(f"{self!r} cannot be released: it is not held by this object", table=self._table_name)
            self._end()
            if not self._places.release(hold.token, hold.place):
                raise LockNotOwnedError(f"the lease of {self!r} had ended before the release", table=self._table_name)
        except PegasusError:
            raise  # the lease expires by itself
        except BaseException:
            hold = hold or self._held()
            if hold is not None:
                self._drop(hold)
            raise

    def _end(self) -> None:
        renewal, self._renewal, self._hold = self._renewal, None, None
        if renewal is not None and renewal is not gevent.getcurrent() and renewal.parent is gevent.get_hub():
            # A renewal in flight may still be applied, but not after the release: its check fails then. A greenlet of
            # another thread must not be touched. It ends when it wakes next.
            renewal.kill(block=False)

    def _abandon(self) -> None:
        """Release it in the background, if it is held."""
        hold = self._held()
        if hold is not None:
            self._drop(hold)

    def _drop(self, hold: Hold) -> None:
        """Release a lease in the background; another lease of this object stays."""
        if self._hold is hold:
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
        """Ask the server whether this object still holds the lease.

        The lease may end right after the answer. Use ``fencing_token`` to protect an operation that must not run twice.

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
        """Ask the server whether ``acquire`` would have to wait. The holder can also be this object.

        Example:
            >>> with Lock(table, "report:7"):
            ...     Lock(table, "report:7").locked()
            True
        """
        return not self._places.free(self._places.look())

    def remaining(self) -> float:
        """Return the seconds for which the lease certainly lasts; 0.0 if it may have ended. No request is sent.

        The time counts from the start of the request that took or renewed the lease, so the result is never too high. A
        stall of the process after the return can still outlast the lease.

        Example:
            >>> with Lock(table, "report:7", timeout=10) as lock:
            ...     8 < lock.remaining() <= 10
            True
        """
        hold = self._held()
        return 0.0 if hold is None else hold.left()

    @property
    def fencing_token(self) -> int:
        """The number of this grant. It is greater than the number of every earlier grant of this name.

        Pass it to the resource that the lock protects. The resource must refuse a number that is lower than the highest
        one it has received. This protects the resource from a holder that stalls for longer than its lease and writes
        afterwards. A lock with an expiry alone cannot do that.

        Raises:
            LockError: This object does not hold the lease.

        Example:
            >>> with Lock(table, "report:7") as lock:
            ...     first = lock.fencing_token
            >>> with Lock(table, "report:7") as lock:
            ...     lock.fencing_token > first
            True
        """
        return self._owned().fence

    def extend(self, additional_time: float, *, replace_ttl: bool = False) -> bool:
        """Extend the lease.

        Args:
            additional_time: Seconds to add to the remaining time.
            replace_ttl: Let the lease end ``additional_time`` seconds from now instead.

        Returns:
            True.

        Raises:
            LockNotOwnedError: The lease has ended.
            LockError: This object does not hold the lease.
            PegasusError: The request failed. The lease ends at its old end or at the new one.

        Retries: the client does not repeat the request if its reply is lost. It is safe to call ``extend`` again.
        Greenlets: any number may call at once.

        Example:
            >>> with Lock(table, "report:7", timeout=10) as lock:
            ...     lock.extend(60)
            True
        """
        hold = self._owned()
        seconds = above_zero(additional_time, "additional_time")
        if not self._places.renew(hold, lambda: seconds if replace_ttl else seconds + hold.left()):
            raise LockNotOwnedError(f"{self!r} cannot be extended: its lease has ended", table=self._table_name)
        return True

    def reacquire(self) -> bool:
        """Let the lease end ``timeout`` seconds from now; otherwise the same as ``extend``.

        Example:
            >>> with Lock(table, "report:7", timeout=10) as lock:
            ...     lock.reacquire()
            True
        """
        return self.extend(self.timeout, replace_ttl=True)


def _keep(owner: weakref.ref[Leased], hold: Hold) -> None:
    """Renew a lease while its lock exists and holds it; report its loss."""
    leased = owner()
    if leased is None:
        return
    timeout, pause, places = leased.timeout, leased.timeout / 3, leased._places
    retry = min(pause, max(timeout / 20, 0.05))
    wait = pause
    while True:
        del leased  # do not keep an unreferenced lock alive; its lease expires
        gevent.sleep(wait)
        leased = owner()
        if leased is None or leased._held() is not hold:
            return
        try:
            # Try even if the time seems to be over: the record may still exist.
            kept = places.renew(hold, lambda: max(timeout, hold.left()))
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


def _kept(owner: weakref.ref[Leased], hold: Hold, _renewal: object) -> None:
    """Report the loss of a lease that nobody renews any more; runs in the hub after the end of ``_keep``."""
    leased = owner()
    if leased is not None and leased._held() is hold and not hold.told:
        gevent.spawn(_lose, leased, hold)


def _lose(leased: Leased, hold: Hold) -> None:
    hold.until = float("-inf")
    _log.warning("the lease of %r was lost: it was not renewed in time", leased)
    try:
        if leased.on_lost is not None:
            leased.on_lost(leased)
    except Exception:
        hold.told = True
        raise
    # An interruption before this step leads to a second call.
    hold.told = True


class Lock(Leased):
    """A lock with one holder among all processes, and with an expiry: if the holder dies, others get the lock.

    Its methods have the names of redis-py's Lock. In addition, it has fencing tokens, and it renews its lease.

    While it is held, a greenlet renews the lease every third of ``timeout``. If the holder's process ends, others can
    get the lock at most ``timeout`` + 2 seconds later. If the process stalls for longer than that (a stopped virtual
    machine, code that lets no other greenlet run), the lease ends, and others get the lock. The holder learns this from
    ``on_lost``, ``remaining()`` or LockNotOwnedError when it runs again. It may write before that. Only a resource that
    checks ``fencing_token`` can refuse such writes.

    Clocks: the client sends the expiry as this machine's time plus ``timeout``. The server compares it with its own
    clock. So the lease ends too early if the server's clock is ahead. ``acquire`` asks the server for the remaining
    time. The lock subtracts the missing seconds from ``remaining()``, also after renewals. If no time is left,
    ``acquire`` raises LockError.

    Records: hash key ``lock:NAME``, sort keys ``fence`` and ``owner``. ``docs/recipes.md`` describes their values.

    Args:
        table: Any table; its codec is not used.
        name: Name of the lock; bytes or str.
        timeout: Seconds until the lease ends without renewal, 1 s to 30 days. The expiry of the record is rounded up
            to whole seconds.
        sleep: Maximum seconds between two attempts while ``acquire`` waits; the minimum is half of it.
        blocking: Whether ``acquire`` waits.
        blocking_timeout: Maximum seconds that it waits; None: no limit.
        renew: Whether a greenlet renews the lease.
        on_lost: Called with the lock in a greenlet of its own, if the lease could not be renewed in time, or if an
            exception (of a signal handler, for example) has ended the renewal.
        identity: Text that is stored with the token, for people who read the records.

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
        on_lost: Callable[[Lock], object] | None = None,
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
    """At most ``value`` holders among all processes; otherwise the same as ``Lock``.

    One object holds one place; make one object for each holder. All processes must pass the same ``value``. A process
    with a lower value uses fewer places.

    Records: hash key ``semaphore:NAME``, sort keys ``fence`` and ``owner:0000``, ``owner:0001``, ...

    Args:
        table: Any table; its codec is not used.
        name: Name of the semaphore; bytes or str.
        value: Number of places, 1 to 1,000.
        timeout: As for ``Lock``.
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
        on_lost: Callable[[Semaphore], object] | None = None,
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
