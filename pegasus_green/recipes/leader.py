"""Leader: one of all candidates runs a function."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent import Greenlet

from ..client import Table
from ..errors import InvalidArgument, PegasusError
from ..keys import Key, to_bytes
from ..turns import Turn, join
from .errors import LockError, LockNotOwnedError
from .locks import Leased, Lock
from .records import hub_of, new_token

_log = logging.getLogger("pegasus_green.recipes")
_T = TypeVar("_T")


class _LeaderLock(Lock):
    _kind = "leader"


class Leader:
    """An election: one of all candidates for a name is the leader.

    It is a ``Lock`` (hash key ``leader:NAME``). Its holder runs a function. If the lease is lost, the function is
    killed. The notes of ``Lock`` about stalls and clocks apply.

    Args:
        table: Any table; its codec is not used.
        name: Name of the election.
        identity: Name of this candidate, for ``current()`` and for people; None: ``HOST:PID``.
        timeout: Seconds without renewal after which another candidate can become the leader; 1 s to 30 days.
        sleep: Maximum seconds between two attempts of a candidate that waits.

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
        self._identity = None if identity is None else to_bytes(identity, "identity")
        if self._identity == b"":
            raise InvalidArgument("identity must not be empty")
        # Each run sets the identity of the lock.
        self._lock = _LeaderLock(table, name, timeout=timeout, sleep=sleep, on_lost=self._depose)
        self._work: Greenlet[..., Any] | None = None
        self._deposed = False
        self._turn: Turn | None = None

    def __repr__(self) -> str:
        """Show the candidate and its lock."""
        return f"<Leader {self._lock!r} identity={self.identity.decode('utf-8', 'replace')}>"

    @property
    def identity(self) -> bytes:
        """Name of this candidate. By default it is ``HOST:PID`` of the calling process, also after a fork.

        Example:
            >>> Leader(table, "cleaner", identity="web1").identity
            b'web1'
        """
        return self._identity or to_bytes(f"{os.uname().nodename}:{os.getpid()}", "identity")

    @property
    def is_leader(self) -> bool:
        """Whether this object is the leader, without asking the server.

        Example:
            >>> Leader(table, "cleaner").is_leader
            False
        """
        return self._lock.remaining() > 0

    @property
    def fencing_token(self) -> int:
        """The number of this term, like ``Lock.fencing_token``. A term lasts from the election to the end of the lease.

        Example:
            >>> leader = Leader(table, "cleaner")
            >>> leader.run(lambda: leader.fencing_token) > 0
            True
        """
        return self._lock.fencing_token

    def current(self) -> bytes | None:
        """Ask the server for the leader's identity; None if there is no leader.

        Example:
            >>> Leader(table, "cleaner").current() is None
            True
        """
        places = self._lock._places
        value = places.table.get(places.hash_key, b"owner")
        return None if value is None else value.split(b" ", 3)[3]

    def run(self, function: Callable[..., _T], *args: object, blocking_timeout: float | None = None) -> _T:
        """Wait until this object is the leader, call the function, and resign when it returns.

        Args:
            function: The leader's work. It runs in its own greenlet.
            *args: Its arguments.
            blocking_timeout: Maximum seconds to wait; None: no limit.

        Returns:
            The result of the function.

        Raises:
            LockNotOwnedError: The lease was lost while the function ran, and the function was killed.
            LockError: Others were leaders during the whole wait.
            PegasusError: The records could not be reached.
            BaseException: Any exception of the function, also gevent.Timeout and GreenletExit.
            RuntimeError: The function itself, or a signal handler inside ``run``, has called ``run`` again.

        Retries: as for ``Lock.acquire``.
        Greenlets: one call at a time for each object. A kill of the caller kills the function and ends the term. If the
        process forks meanwhile, the copy of the function in the child continues, too; ``is_leader`` is False there.

        Example:
            >>> Leader(table, "cleaner").run(lambda: "cleaned")
            'cleaned'
        """
        hub_of(self._lock._places.table)  # the turn uses it
        turn, work = self._turn, self._work
        if (turn is not None and turn.lasts and turn.mine) or (work is not None and work is gevent.getcurrent()):
            raise RuntimeError(f"{self!r}: this greenlet is already inside run()")
        turn = self._turn = Turn()
        result: _T = turn.run(self._rule, function, args, blocking_timeout)
        return result

    def _rule(self, function: Callable[..., _T], args: tuple[Any, ...], blocking_timeout: float | None) -> _T:
        token = new_token()
        work: Greenlet[..., Any] = Greenlet(_attempt, function, args)
        try:
            self._lock.identity = self.identity
            if not self._lock._acquire(token, True, blocking_timeout):
                raise LockError(f"{self!r}: another candidate is the leader", table=self._lock._table_name)
            self._deposed = False
            self._work = work
            work.start()
            join(work)
            self._work = None
            result, error = _outcome(work)
            self._resign(quietly=error is not None or self._deposed)
            if self._deposed:
                raise LockNotOwnedError(f"{self!r}: lost the lease", table=self._lock._table_name) from error
        except BaseException:
            if work.started or self._lock._holds(token):
                gevent.spawn(self._end_term, work, token)
            raise
        if error is not None:
            try:
                raise error
            finally:
                # The traceback holds this frame.
                del error, work
        return result  # type: ignore[no-any-return]

    def _end_term(self, work: Greenlet[..., Any], token: bytes) -> None:
        """Kill the function after its caller was killed, then resign. No other candidate is the leader before that."""
        work.kill()
        if self._work is work:
            self._work = None
        self._lock._undo(token)

    def _resign(self, *, quietly: bool) -> None:
        try:
            self._lock.release()
        except PegasusError as error:
            if isinstance(error, LockNotOwnedError) and not quietly:
                raise
            _log.warning("%r: the leader's lock could not be released: %s", self, error)

    def _depose(self, _lock: Leased) -> None:
        self._deposed = True
        if self._work is not None:
            self._work.kill(block=False)


def _attempt(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Return the function's result and exception, of any kind. gevent would print an exception of a greenlet."""
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


def _outcome(work: Greenlet[..., Any]) -> tuple[Any, BaseException | None]:
    """Return what ``_attempt`` has returned, or the exception that ended its greenlet before or after it."""
    # A kill is the value of its greenlet.
    return work.value if isinstance(work.value, tuple) else (None, work.exception or work.value)
