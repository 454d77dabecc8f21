"""SASL on a new connection, before it carries requests. Each message is sent after the answer to the previous one.

A server that refuses a message does not answer: it keeps the socket open and ignores further messages. So every
negotiation has a time limit and closes the connection at its end. Each failed negotiation costs the server a socket, so
the pause before the next attempt is longer than after a failed dial.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent

from ..errors import AuthenticationFailed, ProtocolError
from ..protocol.codes import ERR_HANDLER_NOT_FOUND, ERR_OK, SaslStatus
from ..protocol.framing import encode_request, parse_reply
from ..protocol.meta import Negotiation
from ..protocol.rpc import NEGOTIATION
from .sockets import Copy
from .waits import TooSlow

if TYPE_CHECKING:
    from ..options import ClientOptions
    from .authenticator import Authenticator

# Tokens have some hundred bytes, or some ten thousand if they contain the groups of a Windows domain.
MAX_ANSWER = 256 * 1024
# A gevent.Timeout bounds a negotiation. A signal handler that raises in the hub can prevent it, so the wait for each
# answer ends by itself this many seconds later.
GRACE = 0.5

SILENT_HINT = (
    "a server that refuses does not answer: compare service_name, service_fqdn and the clock with the server's section "
    "[security], its keytab and its clock"
)
DISABLED_HINT = "for a cluster without authentication, omit auth=, or set auth_required=False"


class Dialogue:
    """Messages and answers on one socket.

    Attributes:
        waits_for: The expected answer, as text for errors.
        said: Number of messages sent.
    """

    __slots__ = ("waits_for", "said", "_socket", "_version", "_milliseconds", "_until", "_copy")

    def __init__(self, sock: Any, options: ClientOptions) -> None:
        """Wrap a connected gevent socket. The caller closes it."""
        self.waits_for = ""
        self.said = 0
        self._socket = sock
        # The limit of the dial does not apply. The caller sets a limit for the negotiation.
        self._until = monotonic() + options.auth_timeout + GRACE
        self._version = options.header_version
        self._milliseconds = max(int(options.auth_timeout * 1000), 1)
        # In a forked child, a copy of this greenlet would take the answers from the parent.
        self._copy = Copy(sock)

    def ask(self, status: SaslStatus, message: bytes = b"") -> Negotiation:
        """Send a message and return its answer; yields.

        Raises:
            OSError: The connection ended.
            TooSlow: The answer did not come in time.
            AuthenticationFailed: The answer is invalid.
        """
        self.said += 1
        self.waits_for = f"the answer to {status.name} of the negotiation"
        argument = NEGOTIATION.encode_argument(Negotiation(status, message))
        # app_id is always 0: another one crashes a meta server.
        frame = encode_request(
            NEGOTIATION,
            self.said,
            argument,
            app_id=0,
            partition_index=0,
            partition_hash=0,
            timeout_ms=self._milliseconds,
            version=self._version,
        )
        self._limit()
        self._socket.sendall(frame)
        head = self._exactly(4)
        size = int.from_bytes(head, "big")
        if not 8 <= size <= MAX_ANSWER:
            raise self._wrong(f"an answer of {size} bytes")
        try:
            return self._read(head + self._exactly(size - 4))
        except ProtocolError as error:
            raise self._wrong(str(error.args[0])) from None

    def _read(self, frame: bytes) -> Negotiation:
        reply = parse_reply(frame)
        if reply.seqid != self.said:
            raise self._wrong(f"an answer to message {reply.seqid} instead of {self.said}")
        if reply.error == ERR_HANDLER_NOT_FOUND:
            # Very old servers, which do not know authentication.
            return Negotiation(SaslStatus.AUTH_DISABLE)
        if reply.error != ERR_OK or reply.offset is None or reply.name != NEGOTIATION.name + "_ACK":
            raise self._wrong(f"{reply.error} for {reply.name}")
        answer = NEGOTIATION.response.decode_reply(frame, reply.offset)  # type: ignore[union-attr]
        assert isinstance(answer, Negotiation)
        return answer

    def _exactly(self, size: int) -> bytes:
        """Read exactly this many bytes: the bytes after them do not belong to the negotiation."""
        data = b""
        while len(data) < size:
            self._limit()
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionError(f"the server closed the connection instead of {self.waits_for}")
            data += more
        return data

    def _limit(self) -> None:
        """Bound the next step of the socket."""
        left = self._until - monotonic()
        if left <= 0:
            raise TooSlow(f"{self.waits_for} did not come in time")
        self._socket.settimeout(left)

    def _wrong(self, what: str) -> AuthenticationFailed:
        text = f"the server sent {what} as {self.waits_for}"
        return AuthenticationFailed(text, reason="protocol", passing=True, costly=True)


def have_credentials(who: Authenticator, options: ClientOptions) -> None:
    """Wait until there are credentials, so that no socket of a server is used without them; yields.

    Raises:
        AuthenticationFailed: There are none, or they did not come within ``auth_timeout`` seconds.
    """
    try:
        who.ready(monotonic() + options.auth_timeout)
    except TooSlow:
        text = f"no credentials within {options.auth_timeout:.3g} s: the KDC does not answer"
        raise AuthenticationFailed(text, reason="kdc_unreachable", passing=True) from None


def authenticate(who: Authenticator, options: ClientOptions, dialogue: Dialogue) -> None:
    """Negotiate on a new connection; yields, for at most ``auth_timeout`` seconds.

    Raises:
        AuthenticationFailed: The connection is not authenticated and must be closed.
        OSError: The connection ended.
    """
    try:
        with gevent.Timeout(options.auth_timeout, TooSlow):
            _negotiate(who, options, dialogue, monotonic() + options.auth_timeout + GRACE)
    except (TooSlow, TimeoutError):
        who.refused += 1
        raise _silence(dialogue, options.auth_timeout) from None
    except (AuthenticationFailed, OSError):
        who.refused += 1
        raise
    who.negotiated += 1


def _silence(dialogue: Dialogue, seconds: float) -> AuthenticationFailed:
    waited = dialogue.waits_for or "the first token of the mechanism (is the KDC silent?)"
    error = AuthenticationFailed(
        f"{waited} did not come within {seconds:.3g} s", reason="silent", passing=True, costly=dialogue.said > 0
    )
    if dialogue.said > 1:
        error.hint = SILENT_HINT
    return error


def _negotiate(who: Authenticator, options: ClientOptions, dialogue: Dialogue, until: float) -> None:
    """Run the exchange. If authentication is required, the first token is made before the first message is sent."""
    begun = who.begin(until) if options.auth_required else None
    answer = dialogue.ask(SaslStatus.LIST)
    if answer.status == SaslStatus.AUTH_DISABLE:
        if options.auth_required:
            text = "the server runs without authentication, so it does not prove its identity"
            error = AuthenticationFailed(text, reason="disabled")
            error.hint = DISABLED_HINT
            raise error
        return
    _expect(answer, SaslStatus.LIST_RESP, dialogue)
    offered = answer.msg.decode("ascii", "replace")
    if who.name not in [name.strip() for name in offered.split(",")]:
        text = f"the server does not offer the mechanism {who.name}, but {offered[:200]!r}"
        raise AuthenticationFailed(text, reason="mechanism", costly=True)
    exchange, token = begun or who.begin(until)
    _expect(dialogue.ask(SaslStatus.SELECT, who.name.encode()), SaslStatus.SELECT_RESP, dialogue)
    answer = dialogue.ask(SaslStatus.INITIATE, token)
    while answer.status == SaslStatus.CHALLENGE:
        if exchange.complete:
            raise _unexpected(answer, dialogue)
        try:
            token = exchange.step(answer.msg)
        except AuthenticationFailed as error:
            error.costly = True
            raise
        except Exception as error:
            # Its text may hold a secret.
            text = f"the mechanism {who.name} failed with {type(error).__name__}"
            raise AuthenticationFailed(text, costly=True) from None
        answer = dialogue.ask(SaslStatus.CHALLENGE_RESP, token)
    if answer.status == SaslStatus.AUTH_FAIL:
        raise AuthenticationFailed("the server refuses the client", reason="refused", costly=True)
    _expect(answer, SaslStatus.SUCC, dialogue)
    if not exchange.complete:
        # The sender of this answer has not proved that it knows the service's key.
        text = "the server ended the negotiation before it had proved its identity"
        raise AuthenticationFailed(text, reason="refused", costly=True)


def _expect(answer: Negotiation, status: SaslStatus, dialogue: Dialogue) -> None:
    if answer.status != status:
        raise _unexpected(answer, dialogue)


def _unexpected(answer: Negotiation, dialogue: Dialogue) -> AuthenticationFailed:
    known = answer.status in SaslStatus._value2member_map_
    name = SaslStatus(answer.status).name if known else str(answer.status)
    text = f"the server sent {name} as {dialogue.waits_for}"
    return AuthenticationFailed(text, reason="protocol", passing=True, costly=True)


def demands_authentication(sock: Any, options: ClientOptions) -> bool:
    """Ask a server for its mechanisms, on a separate connection that carries nothing else; yields.

    Raises:
        OSError: The connection ended, or the answer is invalid.
    """
    return Dialogue(sock, options).ask(SaslStatus.LIST).status == SaslStatus.LIST_RESP
