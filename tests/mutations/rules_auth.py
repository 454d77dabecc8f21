"""Section 12: authentication."""

from __future__ import annotations

from .mutation import Mutation

NEGOTIATION = "tests/transport/test_negotiation.py"
AUTH_INTERRUPTED = "tests/faults/test_authentication_interruptions.py"

AUTH = (
    Mutation(
        "12-no-downgrade",
        "a server without authentication is refused if authentication is mandatory",
        "transport/negotiation.py",
        "if options.auth_required:\n            text",
        "if False:\n            text",
        (NEGOTIATION, "-k", "without_authentication"),
    ),
    Mutation(
        "12-proof",
        "a success before the proof of the server is invalid",
        "transport/negotiation.py",
        "if not exchange.complete:\n        # The sender",
        "if False:\n        # The sender",
        (NEGOTIATION, "-k", "permanent_failures"),
    ),
    Mutation(
        "12-pauses",
        "attempts that cost the server a socket have pauses",
        "transport/pool.py",
        "(RENEGOTIATE_BASE, RENEGOTIATE_CAP) if costly else",
        "(RENEGOTIATE_BASE, RENEGOTIATE_CAP) if False else",
        (NEGOTIATION, "-k", "growing_pauses"),
    ),
    Mutation(
        "12-one-acquisition",
        "credentials are acquired once for all waiting calls of all threads",
        "transport/credentials.py",
        "            if before != known_until and before > monotonic():\n",
        "            if False:\n",
        ("tests/transport/test_negotiation_threads.py", "-k", "one_acquisition"),
    ),
    Mutation(
        "12-credentials-first",
        "without credentials no server is dialled",
        "transport/pool.py",
        "            self.pool.prepare()\n",
        "",
        (NEGOTIATION, "-k", "no_server_is_dialled"),
    ),
    Mutation(
        "12-auth-timeout",
        "a server has auth_timeout for its answers, not the time of the dial",
        "transport/negotiation.py",
        "        self._socket.settimeout(left)\n",
        "",
        (NEGOTIATION, "-k", "longer_than_the_connect_timeout"),
    ),
    Mutation(
        "12-ended-acquisition",
        "credentials are being acquired only while the greenlet runs that acquires them",
        "transport/authenticator.py",
        "            if job is None or job.ready():\n",
        "            if job is not None and job.exception is not None:\n                raise TooSlow\n"
        "            if job is None or job.ready():\n",
        (AUTH_INTERRUPTED, "-k", "after_the_end_of"),
    ),
    Mutation(
        "12-lost-wake-up",
        "a greenlet finds the result of its thread if the hub does not wake it",
        "transport/threads.py",
        "wait(task.told, min(until - monotonic(), LOOK_FOR_LOST))",
        "wait(task.told, min(until - monotonic(), 3600.0))",
        (AUTH_INTERRUPTED, "-k", "after_the_end_of"),
    ),
    Mutation(
        "12-thread-that-never-began",
        "a thread that ended before its first step is replaced",
        "transport/threads.py",
        "                self.thread = None\n",
        "                pass\n",
        (AUTH_INTERRUPTED, "-k", "after_the_end_of"),
    ),
    Mutation(
        "12-thread-without-result",
        "the end of a thread without a result ends the wait for it",
        "transport/threads.py",
        "            if self.began:\n",
        "            if False:\n",
        (AUTH_INTERRUPTED, "-k", "without_a_result"),
    ),
    Mutation(
        "12-turn-of-an-ended-thread",
        "a thread that ended in its turn to call the mechanism does not block other threads",
        "transport/credentials.py",
        "        while self._thread() is not None:\n",
        "        while True:\n",
        (AUTH_INTERRUPTED, "-k", "keeps_its_turn"),
    ),
    Mutation(
        "12-lost-renewal",
        "the timer of renewals repeats",
        "transport/authenticator.py",
        "delay(max(seconds, SOONEST)), LOOK_AGAIN)",
        "delay(max(seconds, SOONEST)))",
        (AUTH_INTERRUPTED, "-k", "lost_renewal"),
    ),
    Mutation(
        "12-lost-timeout",
        "the wait for each answer of a negotiation has its own limit",
        "transport/negotiation.py",
        "        self._socket.settimeout(left)\n",
        "        self._socket.settimeout(None)\n",
        (NEGOTIATION, "-k", "lost_timeout"),
    ),
    Mutation(
        "12-reset-after-fork",
        "an interrupted reset of the authentication in a forked child is repeated",
        "transport/authenticator.py",
        "        if self._generation != fork.generation():\n            self._job",
        "        if self._generation != fork.generation():\n            self._generation = fork.generation()\n"
        "            self._job",
        (AUTH_INTERRUPTED, "-k", "in_a_forked_child"),
    ),
    Mutation(
        "12-dial-after-fork",
        "an interrupted reset of a server's dial in a forked child is repeated",
        "transport/pool.py",
        "            self._dialling, self._cool_until, self._dialogue = None, 0.0, None\n",
        "            self._generation = fork.generation()\n"
        "            self._dialling, self._cool_until, self._dialogue = None, 0.0, None\n",
        (AUTH_INTERRUPTED, "-k", "in_a_forked_child"),
    ),
    Mutation(
        "12-keytab-after-interruption",
        "an interrupted reset of the Kerberos mechanism is repeated",
        "auth/gss.py",
        "        # Kept, not freed, for the same reason.\n",
        "        self._pid = os.getpid()\n        # Kept, not freed, for the same reason.\n",
        (AUTH_INTERRUPTED, "-k", "reset_of_the_mechanism"),
    ),
    Mutation(
        "12-stale-dialogue",
        "a server is negotiating only while a dial runs",
        "transport/pool.py",
        '        if self._is_dialling():\n            return "nego',
        '        if self._is_dialling() or self._dialogue is not None:\n            return "nego',
        (AUTH_INTERRUPTED, "-k", "interrupted_dial"),
    ),
    Mutation(
        "12-interrupted-attempt",
        "an attempt to connect that was interrupted does not delay the result of the others",
        "transport/reach.py",
        "                elif all_ended:\n",
        "                elif len(self._errors) == len(self._running):\n",
        (AUTH_INTERRUPTED, "-k", "interrupted_attempt"),
    ),
    Mutation(
        "12-query-after-fork",
        "an interrupted reset of a route query in a forked child is repeated",
        "cluster/refresher.py",
        "            # Running queries belong to the parent process.\n",
        "            self._generation = fork.generation()\n",
        (AUTH_INTERRUPTED, "-k", "in_a_forked_child"),
    ),
    Mutation(
        "12-lookups-after-fork",
        "an interrupted reset of the look-ups of meta servers in a forked child is repeated",
        "cluster/meta.py",
        "            self._resolving.clear()\n            self._generation",
        "            self._generation = fork.generation()\n"
        "            self._resolving.clear()\n            self._generation",
        (AUTH_INTERRUPTED, "-k", "in_a_forked_child"),
    ),
)
