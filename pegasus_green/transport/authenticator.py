"""Authentication in one thread of a client: it has credentials acquired and renewed, and begins each negotiation.

The credentials are the client's, see ``credentials``. What a mechanism does may wait for a KDC in C code and would stop
the hub for so long, so it runs in native threads.
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
from .credentials import Credentials
from .handover import FOREVER
from .notices import Notices
from .outbox import stop
from .threads import Threads

if TYPE_CHECKING:
    from ..auth import Exchange

T = TypeVar("T")

# Pause before credentials are asked for again, doubling up to the cap, with jitter.
RETRY_BASE = 0.25
RETRY_CAP = 5.0
# The pauses of a renewal go on to this: the old credentials are still good.
RENEWAL_CAP = 60.0
# Credentials that end so soon are not begun with.
LEAST_LIFE = 0.5


class Authenticator:
    """How the connections of one client in one thread authenticate.

    Attributes:
        credentials: The client's.
        failures: Attempts to acquire them that failed; error: the newest failure, None after a success.
        negotiated: Connections that were authenticated; refused: negotiations that failed.
    """

    def __init__(self, credentials: Credentials, spawn: Callable[..., Any]) -> None:
        """Use credentials; no I/O.

        Args:
            credentials: Those of the client.
            spawn: Runs a function in a greenlet that the client's ``close`` ends.
        """
        self.credentials = credentials
        self.failures = 0
        self.negotiated = self.refused = 0
        self.error: AuthenticationFailed | None = None
        self._spawn = spawn
        self._notices = Notices("auth")
        self._closed = False
        self._failed_in_a_row = 0
        self._cool_until = 0.0
        self._job: Event | None = None
        self._threads = Threads()
        self._timer: Any = None
        self._generation = fork.generation()

    def __repr__(self) -> str:
        """Show the user and how long the credentials are good for."""
        return f"<Authenticator {self.name} user={self.user or 'unknown'} {self.credentials.left()}>"

    @property
    def name(self) -> str:
        """The mechanism's name."""
        return self.credentials.name

    @property
    def user(self) -> str | None:
        """The name that the servers know the client by; None before credentials were acquired."""
        return self.credentials.user

    def inherit(self, other: Authenticator) -> None:
        """Add the counters of a thread that has ended."""
        self.failures += other.failures
        self.negotiated += other.negotiated
        self.refused += other.refused

    # ------------------------------------------------------------------------------------------------- what dials use
    def ready(self) -> None:
        """Return once there are credentials; waits for whoever acquires them, who is one for the whole client.

        Raises:
            AuthenticationFailed: There are none, with the reason; an instance of the caller's own.
        """
        self._look_for_fork()
        mine = self._generation
        while self.credentials.ends - monotonic() < LEAST_LIFE:
            if self._closed:
                raise AuthenticationFailed("the client is closed")
            if self._job is None:
                if self.error is not None and monotonic() < self._cool_until:
                    if self.credentials.ends > monotonic():
                        return
                    raise cast(AuthenticationFailed, copy_of(self.error))
                self._begin_job()
            job, before = self._job, self.failures
            assert job is not None
            job.wait()
            if mine != fork.generation():
                raise AuthenticationFailed("the process forked meanwhile", passing=True)
            if self.credentials.ends > monotonic():
                # However short its life is: nothing better is to be had.
                break
            if self.failures > before and self.error is not None:
                raise cast(AuthenticationFailed, copy_of(self.error))
        if self._timer is None and self._job is None:
            # Another thread has acquired them, which may end before they do.
            self._plan_renewal()

    def begin(self) -> tuple[Exchange, bytes]:
        """Return a new exchange and its first token; yields.

        Raises:
            AuthenticationFailed: The mechanism has no token.
        """
        self.ready()
        used = self.credentials.ends
        try:
            return self._in_thread(self.credentials.first_step)
        except AuthenticationFailed as error:
            if error.reason not in ("expired", "no_ticket"):
                raise
        # Somebody has emptied the ticket cache, or the machine slept: what is there counts, not what we remember.
        self.credentials.forget(used)
        self.ready()
        return self._in_thread(self.credentials.first_step)

    # ----------------------------------------------------------------------------------------------------- credentials
    def _begin_job(self) -> None:
        self._job = Event()
        self._spawn(self._acquire, self._job)

    def _acquire(self, job: Event) -> None:
        """Get credentials, in a greenlet of its own: those who asked may have left when they come."""
        generation = self._generation
        known_until = self.credentials.ends
        try:
            asked = self._in_thread(lambda: self.credentials.acquire(known_until))
        except AuthenticationFailed as error:
            if generation == fork.generation():
                self._note_failure(error)
        else:
            if generation == fork.generation():
                self._note_success(asked)
        finally:
            if generation == fork.generation():
                if self._job is job:
                    self._job = None
                job.set()

    def _note_success(self, asked: bool) -> None:
        self.error = None
        self._failed_in_a_row = 0
        self._cool_until = 0.0
        if asked:
            self._notices.info("acquired", "credentials of %s acquired, %s", self.user, self.credentials.left())
        self._plan_renewal()

    def _note_failure(self, error: AuthenticationFailed) -> None:
        self.failures += 1
        self.error = error
        self._failed_in_a_row += 1
        left = self.credentials.ends - monotonic()
        pause = min(RETRY_BASE * 2 ** min(self._failed_in_a_row - 1, 12), RETRY_CAP if left <= 0 else RENEWAL_CAP)
        if left > 0:
            pause = min(pause, max(left / 4, RETRY_BASE))
        pause *= 0.5 + random.random() / 2
        self._cool_until = monotonic() + pause
        self._notices.warning("failed", "no new credentials: %s; %s", error.args[0], self.credentials.left())
        if left > 0:
            # Renewals go on by themselves; without credentials it is the next dial that asks again.
            self._plan(pause)

    def _plan_renewal(self) -> None:
        if self.credentials.renew_at != FOREVER:
            self._plan(self.credentials.renew_at - monotonic())

    def _plan(self, seconds: float) -> None:
        """Renew after so many seconds, by a timer that does not keep the loop alive."""
        self._stop_timer()
        if not self._closed:
            self._timer = get_hub().loop.timer(max(seconds, 0.05), ref=False)
            self._timer.start(self._due)

    def _due(self) -> None:
        """Begin a renewal, in the hub; one that another thread has done already is waited for anew."""
        self._stop_timer()
        if self._closed or self._job is not None or self._generation != fork.generation():
            return
        if self.error is None and monotonic() < self.credentials.renew_at:
            self._plan_renewal()
        else:
            self._begin_job()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        stop(timer)

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
            self._cool_until = 0.0
            self.error = None

    def leave_dead_hub(self) -> None:
        """Forget timer and job of a hub that was destroyed; the next caller's hub has its own."""
        self._timer = self._job = None

    def close(self) -> None:
        """End the renewals; a thread that waits for the KDC ends by itself. Never yields."""
        self._closed = True
        if self._generation == fork.generation():
            self._stop_timer()
