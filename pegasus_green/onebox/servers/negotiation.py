"""SASL negotiation as real servers do it, and the user of each connection.

A server that refuses a message does not answer: the connection stays open, and all further messages are ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ...errors import ProtocolError
from ...protocol.codes import SaslStatus
from ...protocol.meta import Negotiation
from ...protocol.rpc import NEGOTIATION
from ..runtime.auth import OneboxAuth
from ..wire import connection as wire
from ..wire.frames import Call, ok_reply
from ..wire.server import Server

log = logging.getLogger("pegasus_green.onebox")

ALLOWED_USERS = "replica_access_controller.allowed_users"
MECHANISM = b"GSSAPI"
# The server offers only the layer "none", for messages of any size.
OFFER = b"\x01\0\0\0"


# The states of a connection, by the message that it expects next.
LIST, SELECT, INITIATE, PROVEN, LAYER, DONE = "list", "select", "initiate", "proven", "layer", "done"
_EXPECTED = {
    LIST: SaslStatus.LIST,
    SELECT: SaslStatus.SELECT,
    INITIATE: SaslStatus.INITIATE,
    PROVEN: SaslStatus.CHALLENGE_RESP,
    LAYER: SaslStatus.CHALLENGE_RESP,
}


class Gate:
    """The permissions of one connection to a secured server.

    Attributes:
        user: The name of the client after a negotiation; "" before it or without one.
        dead: Whether all further messages are ignored.
    """

    __slots__ = ("user", "dead", "_security", "_stage", "_context", "_answered")

    def __init__(self, security: Security) -> None:
        """Start with a client that has sent nothing."""
        self.user = ""
        self.dead = False
        self._security = security
        self._stage = LIST
        self._context: Any = None
        self._answered = False

    def begin_read(self) -> None:
        """Record that the following messages were sent later than the earlier ones."""
        self._answered = False

    def lets(self, call: Call) -> bool:
        """Tell whether a request is handled. If not, further requests are silently ignored."""
        if self.dead:
            return False
        if self._answered:
            # It was sent right after a message, before the answer to it.
            self.dead = True
        elif call.rpc is not NEGOTIATION and self._stage != DONE:
            # If authentication is optional, a client that has not started a negotiation is served without a user.
            self.dead = self._security.auth.mandatory or self._stage != LIST
        return not self.dead

    def answer(self, request: Negotiation) -> Negotiation | None:
        """Return the answer to a message of the negotiation; None: no answer."""
        answer = None
        self._answered = True
        if request.status == _EXPECTED.get(self._stage):
            try:
                answer = self._step(request.msg)
            except self._security.gssapi.exceptions.GSSError as error:
                # Like a real server, log the reason and do not answer.
                log.info("a client's token is refused: %s", error)
        if answer is None:
            self.dead = True
        return answer

    def _step(self, message: bytes) -> Negotiation | None:
        stage = self._stage
        if stage == LIST:
            self._stage = SELECT
            return Negotiation(SaslStatus.LIST_RESP, MECHANISM)
        if stage == SELECT:
            self._stage = INITIATE
            return Negotiation(SaslStatus.SELECT_RESP) if message == MECHANISM else None
        if stage == INITIATE and message:
            self._stage = PROVEN
            self._context = self._security.accept()
            token = self._context.step(message)
            # A client without mutual authentication gets the offer at once.
            return Negotiation(SaslStatus.CHALLENGE, token) if token else self._offer()
        if stage == PROVEN:
            return self._offer() if not message else None
        return self._finish(message) if stage == LAYER else None

    def _offer(self) -> Negotiation:
        self._stage = LAYER
        return Negotiation(SaslStatus.CHALLENGE, self._context.wrap(OFFER, False).message)

    def _finish(self, message: bytes) -> Negotiation | None:
        """Take the client's answer: the layer "none", the size of its buffer, and optionally an authorization name."""
        choice = self._context.unwrap(message).message
        user = short_name(str(self._context.initiator_name))
        if len(choice) < len(OFFER) or choice[0] != OFFER[0] or choice[4:] not in (b"", user.encode()):
            return None
        self._stage = DONE
        self.user = user
        return Negotiation(SaslStatus.SUCC)


def short_name(principal: str) -> str:
    """Return the user name: the principal up to the last @, then up to the first /."""
    return (principal.rpartition("@")[0] or principal).partition("/")[0]


def negotiate(server: Server, call: Call) -> None:
    """Answer a message of the negotiation, or ignore it."""
    if call.app_id:
        server.box.client_bug(f"{call.name} with app_id {call.app_id}")
        call.connection.close()
        return
    gate = call.connection.gate
    if gate is None:
        # The cluster needs no authentication.
        answer: Negotiation | None = Negotiation(SaslStatus.AUTH_DISABLE)
    else:
        try:
            request = call.argument()
        except ProtocolError:
            request = Negotiation(SaslStatus.INVALID)
        answer = gate.answer(request)
    if answer is not None:
        server.send(call, ok_reply(NEGOTIATION, call.seqid, answer.encode()))


class Protected(Protocol):
    """A server as far as its protection needs it."""

    security: Security | None
    new_gate: Callable[[], wire.Gate | None]


class Security:
    """The parts that the servers of a secured cluster share: their key, and the permissions of users."""

    def __init__(self, auth: OneboxAuth) -> None:
        """Store the settings; ``load`` reads the key."""
        self.auth = auth
        self.gssapi: Any = None
        self._credentials: Any = None
        self._on = auth.enable_acl
        self._super_users = frozenset(auth.super_users)
        self._allow_list = frozenset(auth.meta_allow_list)

    def load(self) -> None:
        """Load the library and the servers' key.

        Raises:
            RuntimeError: The package gssapi is missing, or the keytab cannot be used.
        """
        try:
            import gssapi
        except ImportError as error:
            text = f"OneboxAuth needs the package gssapi (pip install gssapi): {error}"
            raise RuntimeError(text) from None
        self.gssapi = gssapi
        auth = self.auth
        try:
            service = gssapi.Name(f"{auth.service_name}@{auth.service_fqdn}", gssapi.NameType.hostbased_service)
            self._credentials = gssapi.Credentials(usage="accept", name=service, store={"keytab": auth.keytab})
        except gssapi.exceptions.GSSError as error:
            raise RuntimeError(f"the keytab {auth.keytab} cannot be used: {error}") from None

    def accept(self) -> Any:
        """Return a new context for one client."""
        context = self.gssapi.SecurityContext(creds=self._credentials, usage="accept")
        # With deferred errors, a refused token would be answered with another one. cyrus-sasl does not answer.
        context.__DEFER_STEP_ERRORS__ = False
        return context

    def protect(self, server: Protected) -> None:
        """Make a server check its clients from now on."""
        server.security = self
        server.new_gate = self.new_gate

    def new_gate(self) -> Gate:
        """Return the object that checks the requests of a new connection."""
        return Gate(self)

    def may_ask_meta(self, call: Call) -> bool:
        """Tell whether the user of a request may send it to a meta server."""
        return not self._on or call.name in self._allow_list or call.connection.gate.user in self._super_users

    def may_use(self, call: Call, envs: Mapping[str, str]) -> bool:
        """Tell whether the user of a request may use a table with these envs."""
        listed = envs.get(ALLOWED_USERS, "") if self._on else ""
        user = call.connection.gate.user
        return not listed or user in self._super_users or user in [name.strip() for name in listed.split(",")]
