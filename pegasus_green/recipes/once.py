"""Once and Singleflight: one of many callers runs a function, and all get its result."""

from __future__ import annotations

import copy
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, overload

from gevent import getcurrent

from ..client import Table
from ..errors import PegasusError, RequestTimeout, copy_of
from ..keys import Key, to_bytes
from ..operations.base import D
from ..options import MAX_TIMEOUT
from ..results import V
from ..turns import Turn
from .errors import AlreadyRunning, LockNotOwnedError
from .leases import ROUNDING, Hold, Places, lease_seconds
from .locks import Leased
from .records import above_zero, doze, hash_key_of, hub_of, new_token, plain

_RESULT, _OWNER = b"result", b"owner"


class _Run(Leased):
    """One run of a function by the holder of the key's lease."""

    def __init__(self, places: Places, timeout: float) -> None:
        super().__init__(places.table, b"run", places=[_OWNER], timeout=timeout, sleep=1.0)
        self._places = places
        self.name = places.hash_key

    def begin(self) -> bytes | None:
        """Take the lease and return None; or return the stored result, or b"" while another caller runs."""
        taken: Hold | dict[bytes, bytes] = {}
        try:
            taken = self._places.acquire(new_token())
            if isinstance(taken, Hold):
                self._begin(taken)
                return None
            return taken.get(_RESULT, b"")
        except BaseException:
            if isinstance(taken, Hold):
                self._drop(taken)
            raise

    def store(self, value: bytes, ttl: float | None) -> bool:
        """Store the result and release the lease in one step; False if the lease had ended."""
        hold = self._owned()
        try:
            self._end()
            return self._places.release(hold.token, hold.place, put=(_RESULT, value, ttl))
        except PegasusError:
            raise  # the lease expires by itself
        except BaseException:
            self._drop(hold)
            raise

    def give_up(self, error: BaseException) -> None:
        """Release the lease without a result, if it is still held. A killed caller does not wait for this."""
        if self._held() is not None:
            self.__exit__(type(error))


class _Results:
    """Results by key in a table: hash key ``kind:name:key``, sort keys ``result``, ``owner`` and ``fence``."""

    def __init__(
        self, kind: str, table: Table[Any], name: Key, ttl: float | None, timeout: float, sleep: float
    ) -> None:
        self.table, self.codec = plain(table), table.codec
        self.kind, self.name = kind, to_bytes(name, "name")
        self.ttl = None if ttl is None else above_zero(ttl, "ttl")
        self.timeout, self.sleep = lease_seconds(timeout), above_zero(sleep, "sleep")

    def key(self, key: Key) -> bytes:
        return hash_key_of(self.kind, self.name, key)

    def run(self, hash_key: bytes) -> _Run:
        # The fence must not expire before the last request that has read it and can still be applied.
        kept = None if self.ttl is None else self.ttl + 2 * (self.timeout + ROUNDING)
        return _Run(Places(self.table, hash_key, [_OWNER], self.timeout, [_RESULT], kept), self.timeout)

    def encode(self, result: Any) -> bytes:
        if result is None:
            return b"-"
        return b"=" + (to_bytes(result, "the function's result") if self.codec is None else self.codec.encode(result))

    def decode(self, raw: bytes) -> Any:
        if raw[:1] == b"-":
            return None
        return raw[1:] if self.codec is None else self.codec.decode(raw[1:])

    def forget(self, hash_key: bytes, timeout: float | None) -> None:
        self.table.multi_del(hash_key, [_RESULT, _OWNER], timeout=timeout)


class Once(Generic[V]):
    """Runs a function once for each key and returns its result to all callers, for example for idempotency keys.

    The first caller of a key runs the function. One atomic step stores the result and ends the run. Callers that come
    meanwhile wait for the result (or get AlreadyRunning). Later callers get the stored result.

    What "once" means if something fails:

    - The function raises: nothing is stored. Its caller gets the error, and the next caller runs the function again.
    - The process dies or stalls for longer than ``timeout``: the lease expires after at most ``timeout`` + 2 seconds.
      The next caller runs the function again, although the first run may have done nearly all of its work. If the first
      process continues, its result is not stored, and its caller gets LockNotOwnedError.
    - A reply of Pegasus is lost: the next step reads what was applied. No run is lost or repeated.

    So the function runs at least once. It runs again if it raised, or if its result was not stored: the process died or
    stalled, or the servers could not be reached. If an effect of the function must not happen twice even then, the
    function needs its own check for it.

    Records: hash key ``once:NAME:KEY``; sort key "result": ``=`` and the value, or ``-`` for None; ``owner`` and
    ``fence`` as for ``Lock``.

    Args:
        table: Any table. Results go through its codec; without one they are bytes, str (read back as bytes) or None.
        name: Name of this kind of work; bytes or str.
        ttl: Seconds that a result is kept; None: forever.
        timeout: Seconds until the lease of a run ends without renewal, 1 s to 30 days. A greenlet renews it.
        wait: Whether a caller waits while another caller runs the function.
        sleep: Maximum seconds between two reads of a caller that waits.

    Example:
        >>> charge = Once(table, "charge", ttl=86400)
        >>> charge.forget("order-7")
        >>> charge.run("order-7", lambda: b"receipt 1"), charge.run("order-7", lambda: b"receipt 2")
        (b'receipt 1', b'receipt 1')
    """

    def __init__(
        self,
        table: Table[V],
        name: Key,
        *,
        ttl: float | None = 86400.0,
        timeout: float = 30.0,
        wait: bool = True,
        sleep: float = 0.1,
    ) -> None:
        self._results = _Results("once", table, name, ttl, timeout, sleep)
        self._wait = wait
        # By greenlet and hash key. Interruptions may leave turns here that are over.
        self._running: dict[tuple[int, bytes], Turn] = {}

    def __repr__(self) -> str:
        """Show the name."""
        return f"<Once {self._results.name.decode('utf-8', 'replace')}>"

    @overload
    def run(self, key: Key, function: Callable[..., V], *args: object) -> V: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def run(self: Once[bytes], key: Key, function: Callable[..., Key], *args: object) -> bytes: ...

    @overload
    def run(self, key: Key, function: Callable[..., V | None], *args: object) -> V | None: ...

    @overload
    def run(self: Once[bytes], key: Key, function: Callable[..., Key | None], *args: object) -> bytes | None: ...

    def run(self, key: Key, function: Callable[..., object], *args: object) -> object:
        """Return the result for the key: the stored one, or that of a run now.

        Args:
            key: Key of the work; bytes or str.
            function: The function to run.
            *args: Its arguments.

        Returns:
            The result as it is stored. All callers get the same.

        Raises:
            AlreadyRunning: Another caller runs the function, and ``wait`` is False.
            LockNotOwnedError: The lease ended while the function ran; the result was not stored.
            PegasusError: The records could not be read or written. If the function has run, its result may be lost, and
                the next caller runs it again after the lease ends.
            RuntimeError: The function itself, or a signal handler inside ``run``, has called ``run`` for the same key.
                The inner call would wait for its own greenlet.

        Retries: as for ``Lock.acquire``.
        Greenlets: any number may call at once. After a kill the next caller runs the function. The function runs in a
            copy of the caller's context variables.

        Example:
            >>> Once(table, "welcome").run("ada", lambda: None) is None
            True
        """
        hub_of(self._results.table)  # the turn uses it
        own = (id(getcurrent()), self._results.key(key))
        interrupted = self._running.get(own)
        nested = interrupted is not None and interrupted.lasts
        turn = Turn()
        return turn.run(self._run, turn, own, nested, key, function, args)

    def _run(
        self,
        turn: Turn,
        own: tuple[int, bytes],
        nested: bool,  # noqa: FBT001 - private
        key: Key,
        function: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> Any:
        results = self._results
        run: _Run | None = None
        try:
            if not nested:
                self._running[own] = turn
            while True:
                run = results.run(own[1])
                found = run.begin()
                if found is None:
                    break
                if found:
                    return results.decode(found)
                if not self._wait:
                    raise AlreadyRunning(
                        f"{self!r}: another caller runs the function for {key!r}", table=results.table.name
                    )
                if nested:
                    raise RuntimeError(f"{self!r}: this greenlet is already inside run() for {key!r}")
                doze(results.sleep)
            raw = results.encode(function(*args))
            if not run.store(raw, results.ttl):
                raise LockNotOwnedError(
                    f"{self!r}: the lease of {key!r} ended before the function did; the result was not stored",
                    table=results.table.name,
                )
            return results.decode(raw)
        except BaseException as error:
            if run is not None:
                run.give_up(error)
            raise
        finally:
            if self._running.get(own) is turn:
                self._running.pop(own, None)

    @overload
    def result(self, key: Key, default: V | None = None, *, timeout: float | None = None) -> V | None: ...

    @overload
    def result(self, key: Key, default: D, *, timeout: float | None = None) -> V | D | None: ...

    def result(self, key: Key, default: object = None, *, timeout: float | None = None) -> object:
        """Return the stored result of a key, or the default.

        Args:
            key: As for ``run``.
            default: Result if there is no stored one.
            timeout: Seconds; None: the client's default.

        Raises:
            PegasusError: The record could not be read.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> Once(table, "charge").result("order-8", default="not yet")
            'not yet'
        """
        raw = self._results.table.get(self._results.key(key), _RESULT, timeout=timeout)
        return default if raw is None else self._results.decode(raw)

    def forget(self, key: Key, *, timeout: float | None = None) -> None:
        """Forget a result. The next caller runs the function. A run in progress then stores nothing.

        Args:
            key: As for ``run``.
            timeout: Seconds; None: the client's default.

        Raises:
            PegasusError: The records could not be removed.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> Once(table, "charge").forget("order-7")
        """
        self._results.forget(self._results.key(key), timeout)


class _Flight(Turn):
    """A computation that several greenlets of this process wait for.

    Attributes:
        raw: The value as it is stored.
        error: A copy of the error without traceback. The frames of a traceback hold the flight, which would be a cycle.
    """

    __slots__ = ("raw", "error")

    def __init__(self) -> None:
        super().__init__()
        self.raw: bytes | None = None
        self.error: Exception | None = None


def _copied(error: Exception) -> Exception | None:
    """Return a copy of an error for another caller; None if it cannot be copied."""
    if isinstance(error, PegasusError):
        return copy_of(error)
    try:
        # This calls the class with the arguments that are stored in the error. They may be others than it takes.
        made = copy.copy(error)
        if type(made) is type(error) and str(made) == str(error):
            return made
    except Exception:
        pass  # the class raised it
    try:
        made = type(error).__new__(type(error), *error.args)
        vars(made).update(vars(error))
        return made
    except Exception:
        return None


class Singleflight(Generic[V]):
    """Returns a stored value or computes it. One greenlet of one process computes; all others wait for the value.

    Without it, all callers that miss a value at the same time compute it (the dogpile effect, a cache stampede).

    The greenlets of one thread share one read and one computation. Of several threads and processes, one gets a lease;
    the others read again every ``sleep`` seconds. If the computing process dies or stalls for longer than ``timeout``,
    its lease expires, and another one computes. A result that comes after that is returned to its callers and not
    stored. The same applies if the key is deleted during the computation. If the computation raises, all greenlets that
    wait in that thread get a copy of the error without traceback; the other threads and processes compute again.

    Records: hash key ``flight:NAME:KEY``; sort keys as for ``Once``.

    Args:
        table: Any table. Values go through its codec; without one they are bytes, str (read back as bytes) or None.
        name: Name of this kind of value; bytes or str.
        ttl: Seconds that a value is kept.
        timeout: Seconds until the lease of a computation ends without renewal, 1 s to 30 days. A greenlet renews it.
        sleep: Maximum seconds between two reads while another process computes.

    Example:
        >>> pages = Singleflight(table, "pages", ttl=60)
        >>> pages.delete("/index")
        >>> pages.get("/index", lambda: b"made"), pages.get("/index", lambda: b"made again")
        (b'made', b'made')
    """

    def __init__(self, table: Table[V], name: Key, *, ttl: float, timeout: float = 30.0, sleep: float = 0.05) -> None:
        self._results = _Results("flight", table, name, above_zero(ttl, "ttl"), timeout, sleep)
        self._flights: dict[tuple[int, bytes], _Flight] = {}

    def __repr__(self) -> str:
        """Show the name and the number of running computations."""
        return f"<Singleflight {self._results.name.decode('utf-8', 'replace')} under_way={len(self._flights)}>"

    @overload
    def get(self, key: Key, compute: Callable[..., V], *args: object) -> V: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def get(self: Singleflight[bytes], key: Key, compute: Callable[..., Key], *args: object) -> bytes: ...

    @overload
    def get(self, key: Key, compute: Callable[..., V | None], *args: object) -> V | None: ...

    @overload
    def get(self: Singleflight[bytes], key: Key, compute: Callable[..., Key | None], *args: object) -> bytes | None: ...

    def get(self, key: Key, compute: Callable[..., object], *args: object) -> object:
        """Return the value of a key. Compute it if it is absent.

        Args:
            key: Bytes or str.
            compute: Computes the value.
            *args: Its arguments.

        Returns:
            The value as it is stored. All callers get equal values.

        Raises:
            PegasusError: The records could not be read or written. If a value has been computed, the callers get it,
                and a failure to store it is no error.
            RequestTimeout: ``client.deadline()`` ended the wait for another greenlet.
            RuntimeError: The computation itself, or a signal handler inside ``get``, has called ``get`` for the same
                key. The inner call would wait for its own greenlet.

        Retries: as for ``Lock.acquire``.
        Greenlets: any number may call at once. If the computing greenlet is killed, one of the waiting ones computes.
            The computation runs in a copy of the caller's context variables.

        Example:
            >>> Singleflight(table, "pages", ttl=60).get("/about", lambda: "text")
            b'text'
        """
        results = self._results
        place = (id(hub_of(results.table)), results.key(key))
        while (flight := self._flights.get(place)) is not None and flight.lasts:
            if flight.mine:
                raise RuntimeError(f"{self!r}: this greenlet is already inside get() for {key!r}")
            if not flight.wait(results.table.client._cluster.deadline(MAX_TIMEOUT, monotonic())):
                raise RequestTimeout("another greenlet computes the value", table=results.table.name)
            if flight.error is not None:
                raise _copied(flight.error) or flight.error
            if flight.raw is not None:
                return results.decode(flight.raw)
        flight = _Flight()
        return results.decode(flight.run(self._fly, flight, place, compute, args))

    def _fly(
        self, flight: _Flight, place: tuple[int, bytes], compute: Callable[..., Any], args: tuple[Any, ...]
    ) -> bytes:
        try:
            self._flights[place] = flight
            flight.raw = raw = self._find(place[1], compute, args)
            return raw
        except Exception as error:
            flight.error = _copied(error)
            raise
        finally:
            if self._flights.get(place) is flight:
                self._flights.pop(place, None)

    def _find(self, hash_key: bytes, compute: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
        results = self._results
        found: bytes | None = results.table.get(hash_key, _RESULT)
        if found is not None:
            return found
        run: _Run | None = None
        try:
            while True:
                run = results.run(hash_key)
                found = run.begin()
                if found is None:
                    break
                if found:
                    return found
                doze(results.sleep)
            raw = results.encode(compute(*args))
            try:
                run.store(raw, results.ttl)
            except PegasusError:
                return raw  # the callers get the value; a later caller computes it again
            return raw
        except BaseException as error:
            if run is not None:
                run.give_up(error)
            raise

    def delete(self, key: Key, *, timeout: float | None = None) -> None:
        """Remove a value. A value that is being computed is not stored.

        Args:
            key: As for ``get``.
            timeout: Seconds; None: the client's default.

        Raises:
            PegasusError: The records could not be removed.

        Retries: safe.
        Greenlets: any number may call at once. If this greenlet calls ``get`` afterwards, it does not share a
            computation that began before.

        Example:
            >>> Singleflight(table, "pages", ttl=60).delete("/index")
        """
        hash_key = self._results.key(key)
        self._results.forget(hash_key, timeout)
        self._flights.pop((id(hub_of(self._results.table)), hash_key), None)
