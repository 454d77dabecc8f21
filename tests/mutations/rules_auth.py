"""Section 12: authentication."""

from __future__ import annotations

from .mutation import Mutation

NEGOTIATION = "tests/transport/test_negotiation.py"

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
        "        sock.settimeout(None)\n",
        "",
        (NEGOTIATION, "-k", "connect_timeout"),
    ),
)
