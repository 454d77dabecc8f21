"""The credentials of one client, for all its native threads. One thread acquires them, and all use them.

``acquire`` blocks, so it runs in a native thread of its own, never in a hub. One thread at a time calls the mechanism.
Threads that have waited for their turn find the new credentials and do not call the mechanism.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent.monkey import get_original

from ..errors import AuthenticationFailed
from . import fork
from .handover import FOREVER
from .waits import LOOK_FOR_LOST

if TYPE_CHECKING:
    from ..auth import Authentication, Exchange, Mechanism

# Credentials are renewed at a random time up to this share of their lifetime. Without jitter, the clients of a cluster
# that started together would ask the KDC together.
RENEW_AT = 0.8
JITTER = 0.05

# A native lock, also under monkey patching, because native threads wait for it.
_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_local: Any = get_original("_thread", "_local")()


class _Life:
    """An object that ends with the native thread that made it: only the thread's own storage refers to it."""

    __slots__ = ("__weakref__",)


class _Turn:
    """The turn of one thread to call the mechanism. It is over when its lock is free, or when its thread has ended.

    An exception can end a thread before it frees the lock. The last step of a thread, in C, ends its ``_Life``.
    """

    __slots__ = ("lock", "_thread", "_next")

    def __init__(self) -> None:
        self.lock = _allocate_lock()
        self.lock.acquire()
        self._thread = weakref.ref(_local.__dict__.setdefault("life", _Life()))
        self._next: dict[None, _Turn] = {}

    def after(self, mine: _Turn) -> _Turn:
        """Wait until this turn is over. Then return the next one: ``mine``, or that of a thread that was faster."""
        while self._thread() is not None:
            if self.lock.acquire(True, LOOK_FOR_LOST):
                # For other threads that wait here.
                self.lock.release()
                break
        return self._next.setdefault(None, mine)


class Credentials:
    """The credentials of one client's connections.

    Attributes:
        name: The mechanism's name.
        user: The name that servers use for the client; None before credentials are acquired.
        acquired: How often credentials were acquired; renewals: how often they replaced older ones.
        renew_at: Time of the next renewal on the clock of ``monotonic``; ``FOREVER``: never.
    """

    def __init__(self, auth: Authentication) -> None:
        """Make the mechanism; no I/O.

        Raises:
            AuthenticationFailed: The mechanism cannot work here, for example because its library is missing.
        """
        self._mechanism: Mechanism = auth.mechanism()
        self.name = self._mechanism.name
        self.user: str | None = None
        self.acquired = self.renewals = 0
        self.renew_at = FOREVER
        self._ends = 0.0
        self._life = 0.0
        self._generation = fork.generation()
        # By generation: in a child, the parent's turn may belong to a thread that does not exist.
        self._turns: dict[int, _Turn] = {}

    def __repr__(self) -> str:
        """Show the user and the validity of the credentials."""
        return f"<Credentials {self.name} user={self.user or 'unknown'} {self.left()}>"

    @property
    def ends(self) -> float:
        """End of the credentials on the clock of ``monotonic``; 0 if there are none. Those of a parent do not count."""
        return self._ends if self._generation == fork.generation() else 0.0

    def left(self) -> str:
        """Return the validity as text."""
        left = self.ends - monotonic()
        return "not valid" if left <= 0 else "valid forever" if left == FOREVER else f"valid for {left:.0f} s"

    def forget(self, ends: float) -> None:
        """Discard the credentials that end at this time, so that new ones are acquired."""
        if self._ends == ends:
            self._ends = 0.0

    def acquire(self, known_until: float) -> bool:
        """Acquire credentials, unless those that end at ``known_until`` were replaced meanwhile; blocks.

        Returns:
            Whether the mechanism was called.

        Raises:
            AuthenticationFailed: There are none, or they are still the old ones with the old end.
        """
        generation = fork.generation()
        mine = _Turn()
        turn = self._turns.setdefault(generation, mine)
        while turn is not mine:
            turn = turn.after(mine)
        # Those before it are over.
        self._turns[generation] = mine
        try:
            before = self.ends
            if before != known_until and before > monotonic():
                return False
            identity = self._mechanism.acquire()
            if identity.seconds is not None and not identity.seconds > 0:
                raise AuthenticationFailed("the new credentials have expired already", reason="expired")
            now = monotonic()
            ends = FOREVER if identity.seconds is None else now + identity.seconds
            # Kerberos counts whole seconds. Read again, the same ticket can seem to end up to one second later.
            replaced = not (before > now and ends < before + min(1.5, self._life / 5))
            self.user = identity.user
            self._generation = generation
            if not replaced:
                self._ends = min(ends, before)
                text = f"the ticket has not been replaced yet; it ends in {ends - now:.0f} s"
                raise AuthenticationFailed(text, reason="expired", passing=True)
            self.renewals += self.acquired > 0
            self.acquired += 1
            self._life = ends - now
            share = RENEW_AT - JITTER * random.random()
            self.renew_at = FOREVER if identity.seconds is None else now + identity.seconds * share
            self._ends = ends
            return True
        finally:
            mine.lock.release()

    def first_step(self) -> tuple[Exchange, bytes]:
        """Return a new exchange and its first token; blocks."""
        exchange = self._mechanism.begin()
        return exchange, exchange.initial()
