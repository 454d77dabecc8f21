"""Test the bytes of the negotiation in both directions against the recorded exchange of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from pegasus_green import Client
from pegasus_green.onebox import Onebox
from pegasus_green.onebox.kdc import Kdc
from pegasus_green.protocol.codes import SaslStatus
from pegasus_green.protocol.framing import encode_request, parse_reply, parse_request
from pegasus_green.protocol.meta import Negotiation
from pegasus_green.protocol.rpc import NEGOTIATION, QUERY_CFG
from tests.kerberos.conftest import kerberos, secure

# Status and length of the messages, client and server in turn. A pair is a range: names and keys vary, and the answer
# to INITIATE holds two integers in DER: the microseconds of the client's clock (1 to 3 bytes) and a random sequence
# number (1 to 4 bytes). In the first 33 ms of each second the microseconds have 2 bytes, and the answer has 155.
TABLE: tuple[Any, ...] = (
    (SaslStatus.LIST, 0, SaslStatus.LIST_RESP, 6),
    (SaslStatus.SELECT, 6, SaslStatus.SELECT_RESP, 0),
    (SaslStatus.INITIATE, (600, 800), SaslStatus.CHALLENGE, (151, 156)),
    (SaslStatus.CHALLENGE_RESP, 0, SaslStatus.CHALLENGE, 32),
    (SaslStatus.CHALLENGE_RESP, 32, SaslStatus.SUCC, 0),
)


class Tap:
    """Forwards the bytes of one server in both directions and records them."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def _serve(self, client: Any, _peer: Any) -> None:
        server = socket.create_connection(self._to)
        back = gevent.spawn(self._pass_on, server, client, self.received)
        self._pass_on(client, server, self.sent)
        back.kill()
        server.close()

    def _pass_on(self, source: Any, target: Any, notes: list[bytes]) -> None:
        while data := source.recv(65536):
            notes.append(data)
            target.sendall(data)

    def stop(self) -> None:
        self._server.stop(timeout=1)


@pytest.fixture
def tap(box: Onebox) -> Iterator[Tap]:
    tap = Tap(box.meta_addresses[0])
    yield tap
    tap.stop()


def fits(size: int, wanted: int | tuple[int, int]) -> bool:
    return size == wanted if isinstance(wanted, int) else wanted[0] <= size <= wanted[1]


@pytest.mark.parametrize("version", [0, 1])
def test_the_bytes_of_an_exchange(tap: Tap, realm: Kdc, version: int) -> None:
    with Client([tap.address], auth=kerberos(realm), header_version=version) as client:
        client.ping()
    assert len(tap.sent) == len(tap.received) == 6, "one message at a time"
    for number, (status, size, answer_status, answer_size) in enumerate(TABLE):
        request = parse_request(tap.sent[number])
        asked: Any = NEGOTIATION.decode_argument(request.data, request.offset)
        assert asked.status == status
        assert fits(len(asked.msg), size), len(asked.msg)
        # The whole frame, with the library's token in its place.
        timeout = request.timeout_ms
        assert tap.sent[number] == encode_request(
            NEGOTIATION,
            number + 1,
            NEGOTIATION.encode_argument(Negotiation(status, asked.msg)),
            app_id=0,
            partition_index=0,
            partition_hash=0,
            timeout_ms=timeout,
            version=version,
        )
        reply = parse_reply(tap.received[number])
        assert (reply.error, reply.name, reply.seqid) == ("ERR_OK", "RPC_NEGOTIATION_ACK", number + 1)
        assert reply.offset is not None
        answer: Any = Negotiation.decode_reply(tap.received[number], reply.offset)
        assert answer.status == answer_status
        assert fits(len(answer.msg), answer_size), len(answer.msg)
        # Field 2 is always present; then the ends of the struct and of the result.
        assert tap.received[number].endswith(len(answer.msg).to_bytes(4, "big") + answer.msg + b"\0\0")
    assert tap.received[0].endswith(b"GSSAPI\0\0")
    first: Any = NEGOTIATION.decode_argument(parse_request(tap.sent[1]).data, parse_request(tap.sent[1]).offset)
    assert first.msg == b"GSSAPI"


# ------------------------------------------------------------------------------------------ what the onebox answers
class Raw:
    """A client whose messages the test chooses."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.seqid = 0

    def send(self, status: int, message: bytes = b"", app_id: int = 0) -> None:
        self.seqid += 1
        argument = NEGOTIATION.encode_argument(Negotiation(status, message))
        frame = encode_request(
            NEGOTIATION, self.seqid, argument, app_id=app_id, partition_index=0, partition_hash=0, version=1
        )
        self.socket.sendall(frame)

    def query(self) -> None:
        self.seqid += 1
        argument = QUERY_CFG.encode_argument(QUERY_CFG.argument.cls("temp"))  # type: ignore[attr-defined]
        frame = encode_request(
            QUERY_CFG, self.seqid, argument, app_id=0, partition_index=0, partition_hash=0, version=1
        )
        self.socket.sendall(frame)

    def take(self, seconds: float = 10.0) -> bytes | None:
        """Return the next reply, b"" at the end of the stream, None in silence."""
        self.socket.settimeout(seconds)
        try:
            head = self.socket.recv(4)
            return head + self.socket.recv(int.from_bytes(head, "big") - 4) if head else b""
        except TimeoutError:
            return None

    def ask(self, status: int, message: bytes = b"") -> tuple[int, bytes] | None:
        """Return status and message of the answer, None in silence."""
        self.send(status, message)
        frame = self.take(0.3 if status is None else 10.0)
        if not frame:
            return None
        reply = parse_reply(frame)
        assert reply.offset is not None
        answer: Any = Negotiation.decode_reply(frame, reply.offset)
        return answer.status, answer.msg

    def is_dead(self) -> bool:
        """Tell whether the server is silent to whatever follows, on a socket that stays open."""
        for _ in range(2):
            if self.take(0.15) is not None:
                return False
            self.query()
        self.send(SaslStatus.LIST)
        return self.take(0.15) is None


class Hand:
    """The steps of a client, one by one, with real tokens."""

    def __init__(self, raw: Raw, realm: Kdc, user: str = "alice") -> None:
        self.raw = raw
        mechanism: Any = kerberos(realm, user).mechanism()
        mechanism.acquire()
        self.exchange = mechanism.begin()

    def go(self, steps: int) -> bytes:
        """Go so many steps of five; return what the server said last."""
        said: tuple[int, bytes] | None = (0, b"")
        for step in range(steps):
            if step == 0:
                said = self.raw.ask(SaslStatus.LIST)
            elif step == 1:
                said = self.raw.ask(SaslStatus.SELECT, b"GSSAPI")
            elif step == 2:
                said = self.raw.ask(SaslStatus.INITIATE, self.exchange.initial())
            else:
                assert said is not None
                said = self.raw.ask(SaslStatus.CHALLENGE_RESP, self.exchange.step(said[1]))
        assert said is not None
        return said[1]


@pytest.fixture
def raw(box: Onebox) -> Iterator[Raw]:
    raw = Raw(box.meta_addresses[0])
    yield raw
    raw.socket.close()


WRONG = [
    (0, SaslStatus.SELECT, b"GSSAPI"),
    (0, SaslStatus.INITIATE, b"x"),
    (0, SaslStatus.INVALID, b""),
    (0, 77, b""),
    (1, SaslStatus.LIST, b""),
    (1, SaslStatus.SELECT, b"PLAIN"),
    (1, SaslStatus.SELECT, b""),
    (2, SaslStatus.INITIATE, b""),
    (2, SaslStatus.INITIATE, b"no token"),
    (2, SaslStatus.CHALLENGE_RESP, b""),
    (3, SaslStatus.CHALLENGE_RESP, b"not empty"),
    (4, SaslStatus.CHALLENGE_RESP, b""),
    (4, SaslStatus.CHALLENGE_RESP, b"not wrapped"),
    (5, SaslStatus.LIST, b""),
    (5, SaslStatus.CHALLENGE_RESP, b""),
]


@pytest.mark.parametrize(("steps", "status", "message"), WRONG)
def test_the_server_does_not_answer_an_invalid_message(
    raw: Raw, realm: Kdc, steps: int, status: int, message: bytes
) -> None:
    Hand(raw, realm).go(steps)
    raw.send(status, message)
    assert raw.is_dead()


@pytest.mark.parametrize(
    ("choice", "good"),
    [
        (b"\1\0\0\0", True),
        (b"\1\0\xff\xff", True),
        (b"\1\0\0\0alice", True),
        (b"\2\0\0\0", False),
        (b"\4\0\0\0", False),
        (b"\1", False),
        (b"\1\0\0\0bob", False),
        (b"\1\0\0\0alice@PEGASUS.TEST", False),
    ],
)
def test_the_choice_of_a_layer(raw: Raw, realm: Kdc, choice: bytes, good: bool) -> None:
    hand = Hand(raw, realm)
    hand.go(4)
    wrapped = hand.exchange._context.wrap(choice, False).message
    if good:
        assert raw.ask(SaslStatus.CHALLENGE_RESP, wrapped) == (SaslStatus.SUCC, b"")
        raw.query()
        assert raw.take() not in (None, b"")
    else:
        raw.send(SaslStatus.CHALLENGE_RESP, wrapped)
        assert raw.is_dead()


def test_the_offer_is_signed_and_not_encrypted(raw: Raw, realm: Kdc) -> None:
    hand = Hand(raw, realm)
    offer = hand.go(4)
    unwrapped = hand.exchange._context.unwrap(offer)
    assert (unwrapped.message, unwrapped.encrypted) == (b"\1\0\0\0", False)


def test_a_query_during_the_negotiation_is_dropped(raw: Raw) -> None:
    raw.query()
    assert raw.is_dead()


def test_a_query_sent_before_the_last_answer_closes_the_connection(raw: Raw, realm: Kdc) -> None:
    hand = Hand(raw, realm)
    offer = hand.go(4)
    sent: list[bytes] = []
    plain, raw.socket = raw.socket, type("Gather", (), {"sendall": lambda _self, data: sent.append(data)})()
    raw.send(SaslStatus.CHALLENGE_RESP, hand.exchange.step(offer))
    raw.query()
    raw.socket = plain
    raw.socket.sendall(b"".join(sent))
    frame = raw.take(0.3)
    assert frame is not None, "the answer to the last message"
    assert raw.is_dead()


def test_app_id_other_than_0_is_a_client_bug(realm: Kdc) -> None:
    with Onebox(auth=secure(realm)) as box:
        raw = Raw(box.meta_addresses[0])
        raw.send(SaslStatus.LIST, app_id=1)
        assert raw.take() == b""
        raw.socket.close()
        assert len(box.client_bugs) == 1
        assert "app_id 1" in box.client_bugs[0]


def test_without_authentication_the_server_answers_every_message_with_disabled() -> None:
    with Onebox() as box:
        for address in (box.meta_addresses[0], box.replica_addresses[0]):
            raw = Raw(address)
            for status in (SaslStatus.LIST, SaslStatus.CHALLENGE_RESP, 77):
                assert raw.ask(status) == (SaslStatus.AUTH_DISABLE, b"")
            raw.socket.close()


def test_a_failed_negotiation_closes_the_connection_also_without_mandatory_authentication(realm: Kdc) -> None:
    with Onebox(auth=secure(realm, mandatory=False)) as box:
        raw = Raw(box.meta_addresses[0])
        raw.query()
        assert raw.take() not in (None, b"")
        raw.socket.close()
        raw = Raw(box.meta_addresses[0])
        assert raw.ask(SaslStatus.LIST) == (SaslStatus.LIST_RESP, b"GSSAPI")
        raw.send(SaslStatus.LIST)
        assert raw.is_dead()
        raw.socket.close()
