"""The credentials of one client, for all its native threads: one of them acquires, the others use what it got.

``acquire`` blocks and runs in a native thread of a threadpool, never in a hub. A lock lets one call of it at a time ask
the mechanism; those that waited for the lock find the new credentials and ask nobody.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent.monkey import get_original

from ..errors import AuthenticationFailed
from . import fork
from .handover import FOREVER

if TYPE_CHECKING:
    from ..auth import Authentication, Exchange, Mechanism

# Credentials are renewed when this share of their life has passed, or up to so much of it earlier: the clients of a
# cluster that were started together are not to ask the KDC together.
RENEW_AT = 0.8
JITTER = 0.05

# A native lock also under monkey patching: those who wait for it are native threads.
_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")


class Credentials:
    """What the connections of one client prove who they are with.

    Attributes:
        name: The mechanism's name.
        user: The name that the servers know the client by; None before credentials were acquired.
        acquired: Times that credentials were acquired; renewals: those of them that replaced others.
        renew_at: When they are to be renewed, on the clock of ``monotonic``; ``FOREVER``: never.
    """

    def __init__(self, auth: Authentication) -> None:
        """Make the mechanism; no I/O.

        Raises:
            AuthenticationFailed: The mechanism cannot work here, as its library is missing.
        """
        self._mechanism: Mechanism = auth.mechanism()
        self.name = self._mechanism.name
        self.user: str | None = None
        self.acquired = self.renewals = 0
        self.renew_at = FOREVER
        self._ends = 0.0
        self._life = 0.0
        self._generation = fork.generation()
        # By process: the parent's lock may be held by a thread that a child does not have.
        self._locks: dict[int, Any] = {}

    def __repr__(self) -> str:
        """Show the user and how long the credentials are good for."""
        return f"<Credentials {self.name} user={self.user or 'unknown'} {self.left()}>"

    @property
    def ends(self) -> float:
        """When they end, on the clock of ``monotonic``; 0: there are none. Those of a parent process do not count."""
        return self._ends if self._generation == fork.generation() else 0.0

    def left(self) -> str:
        """Tell how long they are good for, for people."""
        left = self.ends - monotonic()
        return "no credentials" if left <= 0 else "no end" if left == FOREVER else f"ends in {left:.0f} s"

    def forget(self, ends: float) -> None:
        """Have credentials acquired anew, unless others have replaced those that end then."""
        if self._ends == ends:
            self._ends = 0.0

    def acquire(self, known_until: float) -> bool:
        """Acquire credentials, unless somebody has replaced those that end at ``known_until``; blocks.

        Returns:
            Whether the mechanism was asked.

        Raises:
            AuthenticationFailed: There are none; or they are still the old ones, which end as they did.
        """
        generation = fork.generation()
        with self._locks.setdefault(generation, _allocate_lock()):
            before = self.ends
            if before != known_until and before > monotonic():
                return False
            identity = self._mechanism.acquire()
            now = monotonic()
            ends = FOREVER if identity.seconds is None else now + identity.seconds
            # Kerberos counts whole seconds: the same ticket seems to end up to one second later when it is read again.
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

    def first_step(self) -> tuple[Exchange, bytes]:
        """Return a new exchange and its first token; blocks."""
        exchange = self._mechanism.begin()
        return exchange, exchange.initial()
