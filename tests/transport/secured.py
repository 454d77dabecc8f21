"""A mechanism of authentication without a KDC, and servers whose negotiation steps a test can replace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pegasus_green.auth import Identity
from pegasus_green.errors import AuthenticationFailed
from pegasus_green.protocol.codes import SaslStatus
from pegasus_green.protocol.framing import Request
from pegasus_green.protocol.meta import Negotiation
from pegasus_green.protocol.rpc import NEGOTIATION
from tests.transport.fakes import Handler, Link, answer

# The messages of the client and the answers of the server, in order.
STEPS = (
    (SaslStatus.LIST, b"", SaslStatus.LIST_RESP, b"GSSAPI"),
    (SaslStatus.SELECT, b"GSSAPI", SaslStatus.SELECT_RESP, b""),
    (SaslStatus.INITIATE, b"token", SaslStatus.CHALLENGE, b"proof"),
    (SaslStatus.CHALLENGE_RESP, b"", SaslStatus.CHALLENGE, b"offer"),
    (SaslStatus.CHALLENGE_RESP, b"choice", SaslStatus.SUCC, b""),
)


class FakeExchange:
    """The side of the client: a token, an empty message after the proof of the server, a choice after its offer."""

    def __init__(self, auth: FakeAuth) -> None:
        self.auth = auth
        self.complete = False

    def initial(self) -> bytes:
        self.auth.threads.add(threading.get_ident())
        if self.auth.begin_errors:
            raise self.auth.begin_errors.pop(0)
        return b"token"

    def step(self, challenge: bytes) -> bytes:
        if challenge == b"proof":
            return b""
        if challenge != b"offer":
            raise AuthenticationFailed("a wrong challenge", reason="refused")
        self.complete = True
        return b"choice"


@dataclass
class FakeAuth:
    """The value of the option ``auth``, and the mechanism of the one client that has it.

    Attributes:
        seconds: How long credentials live, None: for ever.
        work: Called by each ``acquire``, in its thread; may block or raise.
        begin_errors: What the first steps raise, one after the other.
        acquired: Calls of ``acquire``; at_once: the most that ran at the same time.
        threads: Where the blocking parts ran.
    """

    seconds: float | None = None
    work: Callable[[], object] = field(default=lambda: None)
    begin_errors: list[AuthenticationFailed] = field(default_factory=list)
    acquired: int = 0
    running: int = 0
    at_once: int = 0
    threads: set[int] = field(default_factory=set)
    name: str = "GSSAPI"

    def mechanism(self) -> Any:
        return self

    def acquire(self) -> Identity:
        self.threads.add(threading.get_ident())
        self.acquired += 1
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        try:
            self.work()
        finally:
            self.running -= 1
        return Identity("alice", self.seconds)

    def begin(self) -> FakeExchange:
        return FakeExchange(self)


def read(request: Request) -> tuple[int, bytes]:
    """Return status and message of a request of the negotiation."""
    argument: Any = NEGOTIATION.decode_argument(request.data, request.offset)
    return argument.status, argument.msg


def said(link: Link) -> list[tuple[int, bytes]]:
    """Return the messages of a client in its negotiation."""
    return [read(request) for request in link.requests if request.name == NEGOTIATION.name]


def say(link: Link, request: Request, status: int, message: bytes = b"") -> None:
    """Answer a request of the negotiation."""
    link.reply(request, Negotiation(status, message))


class Sasl:
    """A handler that negotiates first. After any other request it ignores the connection, like a real server.

    Attributes:
        at: By step, from 0 on: what is called instead of the answer.
        broken: What clients did wrong.
    """

    def __init__(self, inner: Handler = answer, **at: Callable[[Link, Request], object]) -> None:
        self.inner = inner
        self.at = {int(name.removeprefix("step")): handler for name, handler in at.items()}
        self.broken: list[str] = []

    def __call__(self, link: Link, request: Request) -> None:
        done = getattr(link, "authenticated", 0)
        if done == len(STEPS):
            if request.name == NEGOTIATION.name:
                self.broken.append("a negotiation after its end")
            else:
                self.inner(link, request)
            return
        if request.name != NEGOTIATION.name or request.app_id or read(request) != STEPS[done][:2]:
            self.broken.append(f"step {done}: {request.name} {request.app_id}")
            return
        if request.seqid != done + 1 or len(link.requests) != done + 1:
            self.broken.append(f"step {done}: sequence id {request.seqid}, {len(link.requests)} requests")
        special = self.at.get(done)
        link.authenticated = done + 1  # type: ignore[attr-defined]
        if special is not None:
            special(link, request)
        else:
            say(link, request, *STEPS[done][2:])


def secure_stage(stage: Any, **at: Callable[[Link, Request], object]) -> Sasl:
    """Let the meta server of a stage negotiate normally, and add a replica server with special steps."""
    stage.meta.handler = Sasl(stage.meta.handler)
    sasl = Sasl(**at)
    stage.server(sasl)
    return sasl
