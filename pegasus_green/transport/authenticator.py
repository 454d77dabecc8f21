"""The credentials of one client: acquired by one job at a time, renewed before they end, used by every negotiation.

What a mechanism does may wait for a KDC in C code and would stop the hub for so long, so it runs in native threads.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gevent import get_hub
from gevent.event import Event

from ..errors import AuthenticationFailed, copy_of
from . import fork
from .notices import Notices
from .threads import Threads

if TYPE_CHECKING:
    from ..auth import Authentication, Exchange, Identity

T = TypeVar("T")

# Credentials are renewed when this share of their life has passed, or up to so much of it earlier: the clients of a
# cluster that were started together are not to ask the KDC together.
RENEW_AT = 0.8
JITTER = 0.05
# Pause before credentials are asked for again, doubling up to the cap, with jitter.
RETRY_BASE = 0.25
RETRY_CAP = 5.0
# The pauses of a renewal go on to this: the old credentials are still good.
RENEWAL_CAP = 60.0
# Credentials that end so soon are not begun with.
LEAST_LIFE = 0.5
FOREVER = float("inf")


class Authenticator:
    """Whom the connections of one client stand for.

    Attributes:
        name: The mechanism's name.
        user: The name that the servers know the client by; None before credentials were acquired.
        acquired: Times that credentials were acquired; renewals: those of them that replaced others.
        failures: Attempts that failed; error: the newest failure, None after a success.
        negotiated: Connections that were authenticated; refused: negotiations that failed.
    """

    def __init__(self, auth: Authentication, spawn: Callable[..., Any]) -> None:
        """Know a mechanism; no I/O.

        Args:
            auth: The value of the option.
            spawn: Runs a function in a greenlet that the client's ``close`` ends.

        Raises:
            AuthenticationFailed: The mechanism cannot work here, as its library is missing.
        """
        self._mechanism = auth.mechanism()
        self.name = self._mechanism.name
        self.user: str | None = None
        self.acquired = self.renewals = self.failures = 0
        self.negotiated = self.refused = 0
        self.error: AuthenticationFailed | None = None
        self._spawn = spawn
        self._notices = Notices("auth")
        self._closed = False
        self._ends = 0.0
        self._life = 0.0
        self._failed_in_a_row = 0
        self._cool_until = 0.0
        self._job: Event | None = None
        self._threads = Threads()
        self._timer: Any = None
        self._generation = fork.generation()

    def __repr__(self) -> str:
        """Show the user and how long the credentials are good for."""
        return f"<Authenticator {self.name} user={self.user or 'unknown'} {self._left()}>"

    def _left(self) -> str:
        left = self._ends - monotonic()
        return "no credentials" if left <= 0 else "no end" if left == FOREVER else f"ends in {left:.0f} s"

    def describe(self) -> dict[str, Any]:
        """Return the counters as plain values."""
        left = self._ends - monotonic()
        return {
            "mechanism": self.name,
            "user": self.user,
            "acquired": self.acquired,
            "renewals": self.renewals,
            "failures": self.failures,
            "last_error": None if self.error is None else str(self.error.args[0]),
            "ends_in": None if left == FOREVER else max(left, 0.0),
            "negotiated": self.negotiated,
            "refused": self.refused,
        }

    # ------------------------------------------------------------------------------------------------- what dials use
    def ready(self) -> None:
        """Return once there are credentials; waits for whoever acquires them, who is one for the whole client.

        Raises:
            AuthenticationFailed: There are none, with the reason; an instance of the caller's own.
        """
        self._look_for_fork()
        mine = self._generation
        while self._ends - monotonic() < LEAST_LIFE:
            if self._closed:
                raise AuthenticationFailed("the client is closed")
            if self._job is None:
                if self.error is not None and monotonic() < self._cool_until:
                    if self._ends > monotonic():
                        return
                    raise cast(AuthenticationFailed, copy_of(self.error))
                self._begin_job()
            job, before = self._job, self.failures
            assert job is not None
            job.wait()
            if mine != fork.generation():
                raise AuthenticationFailed("the process forked meanwhile", passing=True)
            if self._ends > monotonic():
                # However short its life is: nothing better is to be had.
                return
            if self.failures > before and self.error is not None:
                raise cast(AuthenticationFailed, copy_of(self.error))

    def begin(self) -> tuple[Exchange, bytes]:
        """Return a new exchange and its first token; yields.

        Raises:
            AuthenticationFailed: The mechanism has no token.
        """
        self.ready()
        try:
            return self._in_thread(self._first_step)
        except AuthenticationFailed as error:
            if error.reason not in ("expired", "no_ticket"):
                raise
        # Somebody has emptied the ticket cache, or the machine slept: what is there counts, not what we remember.
        self._ends = 0.0
        self.ready()
        return self._in_thread(self._first_step)

    def _first_step(self) -> tuple[Exchange, bytes]:
        exchange = self._mechanism.begin()
        return exchange, exchange.initial()

    # ----------------------------------------------------------------------------------------------------- credentials
    def _begin_job(self) -> None:
        self._job = Event()
        self._spawn(self._acquire, self._job)

    def _acquire(self, job: Event) -> None:
        """Get credentials, in a greenlet of its own: those who asked may have left when they come."""
        generation = self._generation
        known_until = self._ends
        try:
            identity = self._in_thread(self._mechanism.acquire)
        except AuthenticationFailed as error:
            if generation == fork.generation():
                self._note_failure(error)
        else:
            if generation == fork.generation():
                self._take_over(identity, known_until)
        finally:
            if generation == fork.generation():
                if self._job is job:
                    self._job = None
                job.set()

    def _take_over(self, identity: Identity, known_until: float) -> None:
        now = monotonic()
        ends = FOREVER if identity.seconds is None else now + identity.seconds
        self.user = identity.user
        # Kerberos counts whole seconds: the same ticket seems to end up to one second later when it is read again.
        if self.acquired and known_until > now and ends < known_until + min(1.5, self._life / 5):
            self._ends = min(ends, known_until)
            text = "the ticket has not been replaced yet; it ends in %.0f s"
            self._note_failure(AuthenticationFailed(text % (ends - now), reason="expired", passing=True))
            return
        self.acquired += 1
        if self.acquired > 1:
            self.renewals += 1
        self._ends = ends
        self._life = ends - now
        self.error = None
        self._failed_in_a_row = 0
        self._cool_until = 0.0
        self._notices.info("acquired", "credentials of %s acquired, %s", identity.user, self._left())
        if identity.seconds is not None:
            self._plan(identity.seconds * (RENEW_AT - JITTER * random.random()))

    def _note_failure(self, error: AuthenticationFailed) -> None:
        self.failures += 1
        self.error = error
        self._failed_in_a_row += 1
        left = self._ends - monotonic()
        pause = min(RETRY_BASE * 2 ** min(self._failed_in_a_row - 1, 12), RETRY_CAP if left <= 0 else RENEWAL_CAP)
        if left > 0:
            pause = min(pause, max(left / 4, RETRY_BASE))
        pause *= 0.5 + random.random() / 2
        self._cool_until = monotonic() + pause
        self._notices.warning("failed", "no new credentials: %s; %s", error.args[0], self._left())
        if left > 0:
            # Renewals go on by themselves; without credentials it is the next dial that asks again.
            self._plan(pause)

    def _plan(self, seconds: float) -> None:
        """Renew after so many seconds, by a timer that does not keep the loop alive."""
        self._stop_timer()
        if not self._closed:
            self._timer = get_hub().loop.timer(max(seconds, 0.05), ref=False)
            self._timer.start(self._due)

    def _due(self) -> None:
        """Begin a renewal, in the hub."""
        self._stop_timer()
        if not self._closed and self._job is None and self._generation == fork.generation():
            self._begin_job()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    # --------------------------------------------------------------------------------------------------------- threads
    def _in_thread(self, work: Callable[[], T]) -> T:
        """Run what may block in a thread and return its result; yields.

        Raises:
            AuthenticationFailed: It said so, or it failed in another way, which is told without its text.
        """
        try:
            return self._threads.run(work)
        except AuthenticationFailed:
            raise
        except Exception as error:
            raise AuthenticationFailed(f"the mechanism {self.name} failed with {type(error).__name__}") from None

    def _look_for_fork(self) -> None:
        """Begin anew in the child of a fork: timer and job are the parent's, and so are its credentials."""
        if self._generation != fork.generation():
            self._generation = fork.generation()
            self._job = self._timer = None
            self._ends = self._cool_until = 0.0
            self.error = None

    def close(self) -> None:
        """End the renewals, and the threads as soon as they have nothing to do; never yields."""
        self._closed = True
        if self._generation == fork.generation():
            self._stop_timer()
        self._threads.close()
