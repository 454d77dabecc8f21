"""Authentication in one thread of a client: acquire and renew credentials, and start negotiations.

The credentials belong to the client, see ``credentials``. A mechanism may wait for a KDC in C code, which would block
the hub. So it runs in native threads.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gevent import get_hub

from ..errors import AuthenticationFailed, copy_of
from . import fork
from .credentials import Credentials
from .handover import FOREVER
from .notices import Notices
from .outbox import delay, is_active, reference, stop
from .threads import Threads
from .waits import LOOK_FOR_LOST, TooSlow, wait

if TYPE_CHECKING:
    from ..auth import Exchange

T = TypeVar("T")

# First pause before another attempt to acquire credentials; it doubles up to the cap, with jitter.
RETRY_BASE = 0.25
RETRY_CAP = 5.0
# Cap of the pauses of a renewal. It is longer, because the old credentials are still valid.
RENEWAL_CAP = 60.0
# No negotiation starts with credentials that end within this many seconds.
LEAST_LIFE = 0.5
# The timer of renewals repeats after this many seconds, in case an exception ends its callback or the renewal.
LOOK_AGAIN = 5.0
# Shortest delay of a renewal.
SOONEST = 0.05


class Authenticator:
    """Authentication of the connections of one client in one thread.

    Attributes:
        credentials: The client's credentials.
        failures: Failed attempts to acquire them; error: the newest failure, None after a success.
        negotiated: Authenticated connections; refused: failed negotiations.
    """

    def __init__(self, credentials: Credentials, spawn: Callable[..., Any], notices: Notices) -> None:
        """Store the credentials; no I/O.

        Args:
            credentials: The client's credentials.
            spawn: Runs a function in a greenlet that the client's ``close`` kills.
            notices: The log lines of all threads of the client.
        """
        self.credentials = credentials
        self.failures = 0
        self.negotiated = self.refused = 0
        self.error: AuthenticationFailed | None = None
        self._spawn = spawn
        self._notices = notices
        self._closed = False
        self._failed_in_a_row = 0
        self._cool_until = 0.0
        # The greenlet that acquires credentials. It may end at any step, so only its end shows that it does not run.
        self._job: Any = None
        self._threads = Threads()
        self._timer: Any = None
        self._generation = fork.generation()

    def __repr__(self) -> str:
        """Show the user and the validity of the credentials."""
        return f"<Authenticator {self.name} user={self.user or 'unknown'} {self.credentials.left()}>"

    @property
    def name(self) -> str:
        """The mechanism's name."""
        return self.credentials.name

    @property
    def user(self) -> str | None:
        """The name that servers use for the client; None before credentials are acquired."""
        return self.credentials.user

    def inherit(self, other: Authenticator) -> None:
        """Add the counters of a thread that has ended."""
        self.failures += other.failures
        self.negotiated += other.negotiated
        self.refused += other.refused

    # -------------------------------------------------------------------------------------------------- used by dials
    def ready(self, until: float) -> None:
        """Wait until there are credentials. One greenlet of the whole client acquires them.

        Args:
            until: End of the wait on the clock of ``monotonic``.

        Raises:
            AuthenticationFailed: There are none; the error has the reason. Each caller gets its own instance.
            TooSlow: They did not come in time.
        """
        self._look_for_fork()
        mine = self._generation
        while (known_until := self.credentials.ends) - monotonic() < LEAST_LIFE:
            if self._closed:
                raise AuthenticationFailed("the client is closed")
            job = self._job
            if job is None or job.ready():
                if self.error is not None and monotonic() < self._cool_until:
                    if self.credentials.ends > monotonic():
                        return
                    raise cast(AuthenticationFailed, copy_of(self.error))
                job = self._begin_job(known_until)
            before = self.failures
            while not wait(job, min(until - monotonic(), LOOK_FOR_LOST)) and mine == fork.generation():
                if monotonic() >= until:
                    raise TooSlow("the credentials did not come in time")
            if mine != fork.generation():
                raise AuthenticationFailed("the process forked meanwhile", passing=True)
            if self.credentials.ends > monotonic():
                # Use them although they end soon: there are no better ones.
                break
            if self.failures > before and self.error is not None:
                raise cast(AuthenticationFailed, copy_of(self.error))
        if not is_active(self._timer) and not self._is_acquiring():
            # Another thread has acquired them, and may end before they do. Or the greenlet here was interrupted.
            self._plan_renewal()

    def begin(self, until: float) -> tuple[Exchange, bytes]:
        """Return a new exchange and its first token; yields.

        Args:
            until: End of the wait on the clock of ``monotonic``.

        Raises:
            AuthenticationFailed: The mechanism has no token.
            TooSlow: The token did not come in time.
        """
        self.ready(until)
        used = self.credentials.ends
        try:
            return self._in_thread(self.credentials.first_step, until)
        except AuthenticationFailed as error:
            if error.reason not in ("expired", "no_ticket"):
                raise
        # The ticket cache was emptied, or the machine slept. Read the credentials again.
        self.credentials.forget(used)
        self.ready(until)
        return self._in_thread(self.credentials.first_step, until)

    # ----------------------------------------------------------------------------------------------------- credentials
    def _begin_job(self, known_until: float) -> Any:
        """Start to acquire credentials in place of those that end at this time."""
        job = self._job = self._spawn(self._acquire, known_until)
        return job

    def _is_acquiring(self) -> bool:
        return self._job is not None and not self._job.ready()

    def _acquire(self, known_until: float) -> None:
        """Acquire credentials; runs in its own greenlet. The greenlets that asked may have left meanwhile."""
        generation = self._generation
        try:
            asked = self._in_thread(lambda: self.credentials.acquire(known_until))
        except AuthenticationFailed as error:
            if generation == fork.generation():
                self._note_failure(error)
        else:
            if generation == fork.generation():
                self._note_success(asked)

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
        self._notices.warning("failed", "no new credentials: %s; old ones: %s", error.args[0], self.credentials.left())
        if left > 0:
            # Renewals continue by themselves. Without credentials, the next dial asks again.
            self._plan(pause)
        else:
            self._stop_timer()

    def _plan_renewal(self) -> None:
        if self.credentials.renew_at != FOREVER:
            self._plan(self.credentials.renew_at - monotonic())
        else:
            self._stop_timer()

    def _plan(self, seconds: float) -> None:
        """Schedule a renewal after this many seconds, on a timer that does not keep the loop alive.

        The previous timer is stopped last, so that an interruption leaves at least one.
        """
        if not self._closed:
            timer = reference(get_hub().loop.timer(delay(max(seconds, SOONEST)), LOOK_AGAIN), wanted=False)
            timer.start(self._due, timer)
            before, self._timer = self._timer, timer
            stop(before)

    def _due(self, timer: Any) -> None:
        """Start a renewal, in the hub. If another thread has renewed already, schedule the next renewal instead.

        The timer repeats until the renewal has scheduled the next one.
        """
        # Read before the check: if another thread renews them after it, the job finds that they were replaced.
        known_until = self.credentials.ends
        if timer is not self._timer or self._closed or self._generation != fork.generation():
            stop(timer)
        elif self.error is None and monotonic() < self.credentials.renew_at:
            self._plan_renewal()
        elif not self._is_acquiring():
            self._begin_job(known_until)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        stop(timer)

    # --------------------------------------------------------------------------------------------------------- threads
    def _in_thread(self, work: Callable[[], T], until: float = FOREVER) -> T:
        """Run a blocking function in a native thread and return its result; yields.

        Raises:
            AuthenticationFailed: The function raised it, or raised another error, whose text is not repeated.
            TooSlow: The time has passed. The thread continues.
        """
        try:
            return self._threads.run(work, until)
        except (AuthenticationFailed, TooSlow):
            raise
        except Exception as error:
            raise AuthenticationFailed(f"the mechanism {self.name} failed with {type(error).__name__}") from None

    def _look_for_fork(self) -> None:
        """Start again in a forked child: timer, job and credentials belong to the parent."""
        if self._generation != fork.generation():
            self._job = self._timer = None
            self._cool_until = 0.0
            self.error = None
            # Last: after an interruption, the next call does all of this again.
            self._generation = fork.generation()

    def leave_dead_hub(self) -> None:
        """Forget timer and job of a hub that was destroyed. The next caller's hub gets its own."""
        self._timer = self._job = None

    def close(self) -> None:
        """Stop renewals. A thread that waits for the KDC ends by itself. Never yields."""
        self._closed = True
        if self._generation == fork.generation():
            self._stop_timer()
