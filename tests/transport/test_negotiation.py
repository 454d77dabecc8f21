"""Test the negotiation on a new connection: its order, its failures, and the calls that wait for it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from time import monotonic
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import monkey

from pegasus_green import (
    AuthenticationFailed,
    Client,
    ClientClosed,
    MetaUnreachable,
    RequestTimeout,
    RetryPolicy,
    errors,
)
from pegasus_green.keys import crc64, encode_key
from pegasus_green.protocol.codes import SaslStatus
from pegasus_green.protocol.framing import Request, encode_reply, encode_request
from pegasus_green.protocol.meta import Negotiation, QueryCfgRequest
from pegasus_green.protocol.rpc import GET, NEGOTIATION, QUERY_CFG
from pegasus_green.transport import authenticator, negotiation, pool
from tests.transport.fakes import FakeMeta, FakeServer, Link, Stage, answer, silent
from tests.transport.secured import STEPS, FakeAuth, FakeExchange, Sasl, said, say, secure_stage
from tests.waiting import Stopwatch, wait_until

# Blocks its thread, patched or not.
block = monkey.get_original("time", "sleep") if monkey.is_module_patched("time") else time.sleep


def ends(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the error that a call ends with."""
    with pytest.raises(errors.PegasusError) as caught:
        call(*args, **kwargs)
    return caught.value


def failed(reason: str, *, passing: bool = False) -> AuthenticationFailed:
    return AuthenticationFailed(f"this is {reason}", reason=reason, passing=passing)


def last_of(error: Any) -> AuthenticationFailed:
    """Return the failure that an error contains."""
    found = error if isinstance(error, AuthenticationFailed) else error.last_error
    assert isinstance(found, AuthenticationFailed), repr(error)
    return found


# ------------------------------------------------------------------------------------------------------------ in order
@pytest.mark.parametrize("version", [0, 1])
def test_the_client_sends_five_messages_in_order(stage: Stage, version: int) -> None:
    """Five messages with app_id 0, each sent after the previous answer; then the requests. Also on meta connections."""
    sasl = secure_stage(stage)
    auth = FakeAuth()
    client = stage.client(auth=auth, header_version=version)
    assert client.table("temp").get("h", "s") is None
    for server in (stage.meta, stage.servers[0]):
        (link,) = server.links
        assert said(link) == [step[:2] for step in STEPS]
        assert [request.seqid for request in link.requests[:5]] == [1, 2, 3, 4, 5]
        assert {(r.version, r.app_id, r.partition_index, r.partition_hash) for r in link.requests[:5]} == {
            (version, 0, 0, 0)
        }
        assert link.requests[5].name != NEGOTIATION.name
        assert len(link.chunks) == len(link.requests), "each in a piece of its own"
    assert sasl.broken == stage.meta.handler.broken == []  # type: ignore[attr-defined]
    assert (auth.acquired, auth.at_once) == (1, 1)
    assert client.stats()["auth"]["negotiated"] == 2


def test_the_exchange_ends_when_the_mechanism_is_complete(stage: Stage) -> None:
    """The number of rounds is not fixed; the mechanism says when it is complete."""
    secure_stage(stage)

    def offer(link: Link, request: Request) -> None:
        link.authenticated = 4  # type: ignore[attr-defined]
        say(link, request, SaslStatus.CHALLENGE, b"offer")

    def handler(link: Link, request: Request) -> None:
        if getattr(link, "authenticated", 0) == 4 and request.name == NEGOTIATION.name:
            link.authenticated = 5  # type: ignore[attr-defined]
            say(link, request, SaslStatus.SUCC)
        else:
            sasl(link, request)

    sasl = Sasl(step2=offer)
    stage.servers[0].handler = handler
    assert stage.table(auth=FakeAuth()).get("h", "s") is None


def test_a_list_of_mechanisms(stage: Stage) -> None:
    secure_stage(stage, step0=lambda link, request: say(link, request, SaslStatus.LIST_RESP, b"PLAIN, GSSAPI"))
    assert stage.table(auth=FakeAuth()).get("h", "s") is None


def test_answers_that_arrive_in_pieces_are_read(stage: Stage) -> None:
    def dribble(link: Link, request: Request) -> None:
        frame = encode_reply(
            request.name, request.seqid, "ERR_OK", Negotiation(SaslStatus.LIST_RESP, b"GSSAPI").encode()
        )
        for at in range(len(frame)):
            link.send(frame[at : at + 1])
            gevent.sleep(0)

    secure_stage(stage, step0=dribble)
    assert stage.table(auth=FakeAuth()).get("h", "s") is None


# ------------------------------------------------------------------------------------------------------------ failures
@pytest.mark.parametrize("step", range(5))
def test_silence_at_each_step_closes_the_connection_after_auth_timeout(stage: Stage, step: int) -> None:
    """The next attempt waits, since each attempt costs the server a socket."""
    secure_stage(stage, **{f"step{step}": silent})
    client = stage.client(auth=FakeAuth(), auth_timeout=0.5, timeout=1.2)
    watch = Stopwatch()
    error = ends(client.table("temp").get, "h", "s")
    assert isinstance(error, RequestTimeout)
    last = last_of(error)
    assert (last.reason, last.passing, last.costly) == ("silent", True, True)
    assert STEPS[step][0].name in str(last)
    assert ("service_fqdn" in error.hint) == (step > 0)
    assert watch.seconds < 5.0
    # The last attempt may still run when the call ends.
    wait_until(lambda: client.stats()["servers"][stage.servers[0].address]["state"] == "down")
    wait_until(lambda: all(link.closed for link in stage.servers[0].links))
    assert [len(link.requests) for link in stage.servers[0].links] in ([step + 1], [step + 1] * 2), "nothing follows"
    assert client.stats()["auth"]["refused"] == len(stage.servers[0].links)


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_ends_at_any_step_is_dialled_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, step: int, reset: bool
) -> None:
    """A restarted server is dialled again as soon as one without authentication."""
    # The pause after a refusal would be longer than the timeout.
    monkeypatch.setattr(pool, "RENEGOTIATE_BASE", 60.0)
    monkeypatch.setattr(pool, "RENEGOTIATE_CAP", 60.0)
    ended: list[Link] = []

    def end(link: Link, request: Request) -> None:
        ended.append(link)
        if len(ended) == 1:
            link.close(reset=reset)
        else:
            say(link, request, *STEPS[step][2:])

    secure_stage(stage, **{f"step{step}": end})
    assert stage.table(auth=FakeAuth(), timeout=20.0).get("h", "s") is None
    assert len(ended) == 2


def reply_with(**changes: Any) -> Callable[[Link, Request], None]:
    """Return a handler that answers step 1 wrongly in one way."""

    def handler(link: Link, request: Request) -> None:
        facts: dict[str, Any] = {
            "name": request.name,
            "seqid": request.seqid,
            "error": "ERR_OK",
            "status": SaslStatus.SELECT_RESP,
        }
        facts |= changes
        body = None if facts["status"] is None else Negotiation(facts["status"]).encode()
        link.send(encode_reply(facts["name"], facts["seqid"], facts["error"], body))

    return handler


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (reply_with(seqid=9), "message 9"),
        (reply_with(name="RPC_OTHER"), "RPC_OTHER"),
        (reply_with(error="ERR_BUSY"), "ERR_BUSY"),
        (reply_with(status=None), "RPC_NEGOTIATION"),
        (reply_with(status=SaslStatus.CHALLENGE), "sent CHALLENGE"),
        (reply_with(status=77), "sent 77"),
        (reply_with(status=-1), "sent -1"),
        (lambda link, _request: link.send(b"\x7f\xff\xff\xff"), "2147483647 bytes"),
        (lambda link, _request: link.send(b"\0\0\0\0"), "0 bytes"),
        (lambda link, _request: link.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10), "bytes"),
        (lambda link, _request: link.send(b"\0\0\0\x10" + b"\xff" * 12), "SELECT"),
    ],
)
def test_invalid_answers_are_protocol_errors(stage: Stage, handler: Any, words: str) -> None:
    secure_stage(stage, step1=handler)
    error = ends(stage.table(auth=FakeAuth(), timeout=20.0).get, "h", "s", retry=None)
    last = last_of(error)
    assert (last.reason, last.passing, last.costly) == ("protocol", True, True)
    assert words in str(last)
    wait_until(lambda: stage.servers[0].links[0].closed)


@pytest.mark.parametrize(
    ("at", "reason", "words"),
    [
        ({"step0": lambda link, request: say(link, request, SaslStatus.LIST_RESP, b"PLAIN")}, "mechanism", "'PLAIN'"),
        ({"step2": lambda link, request: say(link, request, SaslStatus.AUTH_FAIL)}, "refused", "refuses the client"),
        ({"step2": lambda link, request: say(link, request, SaslStatus.SUCC)}, "refused", "before it had proved"),
        ({"step3": lambda link, request: say(link, request, SaslStatus.SUCC)}, "refused", "before it had proved"),
        ({"step2": lambda link, request: say(link, request, SaslStatus.CHALLENGE, b"x")}, "refused", "wrong challenge"),
    ],
)
def test_permanent_failures_end_a_call_at_once(stage: Stage, at: Any, reason: str, words: str) -> None:
    """SUCC before the exchange is complete proves nothing: a server without the key can send it."""
    secure_stage(stage, **at)
    watch = Stopwatch()
    error = ends(stage.table(auth=FakeAuth(), timeout=20.0).get, "h", "s")
    assert watch.seconds < 5.0
    assert isinstance(error, AuthenticationFailed)
    assert (error.reason, error.passing, error.costly) == (reason, False, True)
    assert words in str(error)
    assert (error.table, error.operation, error.address) == ("temp", "get", stage.servers[0].address)
    assert len(stage.servers[0].links) == 1


def test_a_challenge_after_the_last_step_is_a_protocol_error(stage: Stage) -> None:
    secure_stage(stage, step4=lambda link, request: say(link, request, SaslStatus.CHALLENGE, b"offer"))
    error = ends(stage.table(auth=FakeAuth(), timeout=20.0).get, "h", "s", retry=None)
    assert last_of(error).reason == "protocol"


# --------------------------------------------------------------------------------------------------------- no downgrade
def disabled(link: Link, request: Request) -> None:
    say(link, request, SaslStatus.AUTH_DISABLE)


def unknown(link: Link, request: Request) -> None:
    link.reply(request, error="ERR_HANDLER_NOT_FOUND")


@pytest.mark.parametrize("how", [disabled, unknown])
def test_a_server_without_authentication_is_refused_if_it_is_mandatory(stage: Stage, how: Any) -> None:
    secure_stage(stage)

    def handler(link: Link, request: Request) -> None:
        how(link, request) if request.name == NEGOTIATION.name else answer(link, request)

    stage.servers[0].handler = handler
    error = ends(stage.table(auth=FakeAuth(), timeout=20.0).get, "h", "s")
    assert isinstance(error, AuthenticationFailed)
    assert (error.reason, error.passing) == ("disabled", False)
    assert "auth_required=False" in error.hint
    table = stage.table(auth=FakeAuth(), auth_required=False)
    assert table.get("h", "s") is None
    link = stage.servers[0].links[-1]
    assert said(link) == [(SaslStatus.LIST, b"")]


def test_with_optional_authentication_a_server_without_it_needs_no_credentials(stage: Stage) -> None:
    def no_ticket() -> None:
        raise failed("no_ticket")

    inner = stage.meta.handler
    stage.meta.handler = lambda link, request: (
        disabled(link, request) if request.name == NEGOTIATION.name else inner(link, request)
    )
    secured = FakeServer(Sasl())
    plain = FakeServer()
    stage.extra(secured)
    stage.extra(plain)
    stage.meta.primaries = [plain.address]
    plain_inner = plain.handler
    plain.handler = lambda link, request: (
        disabled(link, request) if request.name == NEGOTIATION.name else plain_inner(link, request)
    )
    auth = FakeAuth(work=no_ticket)
    assert stage.table(auth=auth, auth_required=False).get("h", "s") is None
    assert auth.acquired == 0
    stage.meta.primaries = [secured.address]
    error = ends(stage.table(auth=auth, auth_required=False).get, "h", "s")
    assert last_of(error).reason == "no_ticket"


# ---------------------------------------------------------------------------------------------------------- credentials
def test_without_credentials_no_server_is_dialled(stage: Stage) -> None:
    def no_ticket() -> None:
        raise failed("no_ticket")

    secure_stage(stage)
    client = stage.client(auth=FakeAuth(work=no_ticket), timeout=20.0)
    for call in (lambda: client.table("temp").get("h", "s"), client.ping, client.admin.list_tables):
        watch = Stopwatch()
        error = ends(call)
        assert watch.seconds < 5.0
        assert isinstance(error, AuthenticationFailed), repr(error)
        assert error.reason == "no_ticket"
        assert "this is no_ticket" in str(error)
    assert stage.meta.links == stage.servers[0].links == []
    figures = client.stats()["auth"]
    assert figures["last_error"] == "this is no_ticket"
    assert (figures["acquired"], figures["user"], figures["ends_in"]) == (0, None, 0.0)
    assert figures["failures"] >= 1


def test_transient_failures_are_repeated_until_the_deadline(stage: Stage) -> None:
    tries: list[float] = []

    def twice() -> None:
        tries.append(monotonic())
        if len(tries) < 3:
            raise failed("kdc_unreachable", passing=True)

    secure_stage(stage)
    assert stage.table(auth=FakeAuth(work=twice), timeout=20.0).get("h", "s") is None
    assert len(tries) == 3
    client = stage.client(auth=FakeAuth(work=lambda: (_ for _ in ()).throw(failed("clock", passing=True))), timeout=1.0)
    error = ends(client.table("temp").get, "h", "s")
    assert "this is clock" in str(error)


def test_a_foreign_exception_is_reported_without_its_text(stage: Stage) -> None:
    """The text of a foreign exception may hold a secret."""

    def bug() -> None:
        raise RuntimeError("the key is 4711")

    secure_stage(stage)
    error = ends(stage.table(auth=FakeAuth(work=bug)).get, "h", "s")
    assert "RuntimeError" in str(error)
    assert "4711" not in str(error)


def test_a_foreign_exception_in_a_step_is_reported_without_its_text(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def bug(_exchange: FakeExchange, _challenge: bytes) -> bytes:
        raise ValueError("the key is 4711")

    monkeypatch.setattr(FakeExchange, "step", bug)
    secure_stage(stage)
    error = ends(stage.table(auth=FakeAuth()).get, "h", "s")
    assert "ValueError" in str(last_of(error))
    assert "4711" not in repr(error) + repr(last_of(error)) + caplog.text + capfd.readouterr().err


@pytest.mark.parametrize("seconds", [0.0, -5.0, float("nan")])
def test_credentials_that_have_expired_are_not_acquired_again_at_once(stage: Stage, seconds: float) -> None:
    secure_stage(stage)
    auth = FakeAuth(seconds=seconds)
    assert last_of(ends(stage.table(auth=auth).get, "h", "s")).reason == "expired"
    assert auth.acquired <= 3


def test_expired_credentials_are_acquired_again(stage: Stage) -> None:
    secure_stage(stage)
    auth = FakeAuth(seconds=3600.0, begin_errors=[failed("expired")])
    assert stage.table(auth=auth).get("h", "s") is None
    assert auth.acquired == 2


def test_many_callers_share_one_acquisition_of_credentials(stage: Stage) -> None:
    secure_stage(stage)
    other = stage.extra(FakeMeta(stage.meta.primaries))
    other.handler = Sasl(other.handler)
    auth = FakeAuth(work=lambda: block(0.2))
    # Two meta servers are dialled while the credentials are acquired.
    client = stage.client([stage.meta.address, other.address], auth=auth, timeout=20.0, meta_stagger=0.01)
    table = client.table("temp")
    callers = [gevent.spawn(table.get, "h", str(number)) for number in range(200)]
    gevent.joinall(callers, raise_error=True)
    assert (auth.acquired, auth.at_once) == (1, 1)
    assert len(stage.servers[0].links) == 1


def test_a_blocking_mechanism_does_not_block_the_loop(stage: Stage) -> None:
    """It runs in native threads, and waiting calls end at their own deadlines."""
    import threading

    secure_stage(stage)
    # Reading a pipe blocks a thread, patched or not.
    reading, writing = os.pipe()
    auth = FakeAuth(work=lambda: os.read(reading, 1))
    client = stage.client(auth=auth, timeout=0.3)
    try:
        error = ends(client.table("temp").get, "h", "s")
        assert isinstance(error, errors.MetaUnreachable)
        for _ in range(20):
            gevent.sleep(0.001)
        assert auth.running == 1
    finally:
        os.close(writing)
    assert client.table("temp").get("h", "s", timeout=20.0) is None
    assert auth.acquired == 1
    assert threading.get_ident() not in auth.threads
    os.close(reading)


def test_the_error_names_a_silent_kdc(stage: Stage) -> None:
    secure_stage(stage)
    auth = FakeAuth(work=lambda: block(1.5))
    error = ends(stage.table(auth=auth, timeout=1.0, auth_timeout=0.2).get, "h", "s")
    assert "the KDC does not answer" in str(error)
    assert last_of(error).reason == "kdc_unreachable"
    assert stage.meta.links == []


def test_short_lived_credentials_are_not_acquired_for_every_call(stage: Stage) -> None:
    """They are used and not acquired repeatedly."""
    secure_stage(stage)
    auth = FakeAuth(seconds=0.4)
    client = stage.client(auth=auth, timeout=20.0)
    begin = monotonic()
    for number in range(100):
        assert client.table("temp").get("h", str(number)) is None
    # One for each of the two dials, and renewals in between.
    assert auth.acquired <= 6 + (monotonic() - begin) / 0.2


def test_credentials_are_renewed_without_calls(stage: Stage) -> None:
    """Open connections stay in use."""
    secure_stage(stage)
    auth = FakeAuth(seconds=1.0)
    client = stage.client(auth=auth)
    table = client.table("temp")
    begin = monotonic()
    table.get("h", "s")
    wait_until(lambda: auth.acquired >= 3)
    assert monotonic() - begin > 1.4, "at 75 to 80 % of a second each"
    table.get("h", "s")
    assert len(stage.servers[0].links) == 1
    wait_until(lambda: client.stats()["auth"]["renewals"] >= 2)


def test_a_renewal_that_fails_is_repeated(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # Short pauses, so that it is repeated several times before the credentials end.
    monkeypatch.setattr(authenticator, "RETRY_BASE", 0.02)
    works = [True]

    def sometimes() -> None:
        if not works[0]:
            raise failed("kdc_unreachable", passing=True)

    secure_stage(stage)
    auth = FakeAuth(seconds=3.0, work=sometimes)
    client = stage.client(auth=auth)
    client.table("temp").get("h", "s")
    works[0] = False
    wait_until(lambda: client.stats()["auth"]["failures"] >= 2)
    figures = client.stats()["auth"]
    assert (figures["last_error"], figures["renewals"]) == ("this is kdc_unreachable", 0)
    works[0] = True
    # A native thread renews and then informs the hub of the call.
    wait_until(lambda: client.stats()["auth"]["renewals"] >= 1 and client.stats()["auth"]["last_error"] is None)


def test_an_old_ticket_in_the_cache_is_reported_as_not_renewed(stage: Stage) -> None:
    """The ticket cache is read again; the client reports it while the old ticket is in it."""
    secure_stage(stage)
    ends_at = monotonic() + 2.0
    auth = FakeAuth(seconds=2.0)
    auth.work = lambda: setattr(auth, "seconds", ends_at - monotonic())
    client = stage.client(auth=auth)
    client.table("temp").get("h", "s")
    wait_until(lambda: client.stats()["auth"]["failures"] >= 1)
    assert "has not been replaced" in client.stats()["auth"]["last_error"]
    ends_at += 3600.0
    wait_until(lambda: client.stats()["auth"]["renewals"] == 1)
    assert client.stats()["auth"]["ends_in"] > 3000.0


# ------------------------------------------------------------------------------------------------- waiting and the end
@pytest.mark.parametrize("step", range(5))
def test_a_slow_negotiation_continues_after_the_deadline_of_a_call(stage: Stage, step: int) -> None:
    """It then serves the next call."""
    held: list[tuple[Link, Request]] = []
    secure_stage(stage, **{f"step{step}": lambda link, request: held.append((link, request))})
    client = stage.client(auth=FakeAuth(), auth_timeout=10.0)
    table = client.table("temp")
    killed = gevent.spawn(table.get, "h", "s", timeout=20.0)
    wait_until(lambda: held)
    watch = Stopwatch()
    error = ends(table.get, "h", "s", timeout=0.3)
    assert watch.elapsed > 0.29
    assert watch.seconds < 5.0
    assert STEPS[step][0].name in str(error)
    assert client.stats()["servers"][stage.servers[0].address]["state"] == "negotiating"
    waiting = gevent.spawn(table.get, "h", "s", timeout=20.0)
    gevent.sleep(0.01)
    killed.kill()
    ((link, request),) = held
    say(link, request, *STEPS[step][2:])
    assert waiting.get(timeout=20.0) is None
    assert len(stage.servers[0].links) == 1


@pytest.mark.parametrize("step", range(5))
def test_close_at_each_step(stage: Stage, step: int) -> None:
    secure_stage(stage, **{f"step{step}": silent})
    client = stage.client(auth=FakeAuth(seconds=3600.0), auth_timeout=10.0)
    call = gevent.spawn(ends, client.table("temp").get, "h", "s", timeout=20.0)
    wait_until(lambda: bool(stage.servers[0].links) and len(stage.servers[0].links[0].requests) == step + 1)
    client.close()
    assert isinstance(call.get(timeout=5.0), ClientClosed)
    wait_until(lambda: stage.servers[0].links[0].closed)


def test_close_while_credentials_are_acquired(stage: Stage) -> None:
    secure_stage(stage)
    auth = FakeAuth(work=lambda: block(0.5))
    client = stage.client(auth=auth)
    call = gevent.spawn(ends, client.table("temp").get, "h", "s", timeout=20.0)
    wait_until(lambda: auth.acquired == 1)
    client.close()
    assert isinstance(call.get(timeout=5.0), ClientClosed)
    wait_until(lambda: not auth.running)


def test_the_connect_timeout_does_not_bound_the_negotiation(stage: Stage) -> None:
    """``auth_timeout`` bounds the negotiation, and a silent server counts as one that refuses."""
    secure_stage(stage, step2=silent)
    client = stage.client(auth=FakeAuth(), connect_timeout=0.1, auth_timeout=0.5, timeout=3.0)
    last = last_of(ends(client.table("temp").get, "h", "s"))
    assert (last.reason, last.passing, last.costly) == ("silent", True, True)
    assert "INITIATE" in str(last)
    assert len(stage.servers[0].links) <= 3


def test_an_answer_may_take_longer_than_the_connect_timeout(stage: Stage) -> None:
    def late(link: Link, request: Request) -> None:
        gevent.spawn_later(1.0, say, link, request, *STEPS[2][2:])

    secure_stage(stage, step2=late)
    client = stage.client(auth=FakeAuth(), connect_timeout=0.5, auth_timeout=10.0, timeout=20.0)
    assert client.table("temp").get("h", "s") is None
    assert len(stage.servers[0].links) == 1


def test_a_lost_timeout_does_not_keep_a_negotiation(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the hub can end the callback of a gevent.Timeout. The wait for an answer has its own limit."""
    monkeypatch.setattr(negotiation, "GRACE", 0.05)
    monkeypatch.setattr(pool, "RENEGOTIATE_BASE", 0.05)
    monkeypatch.setattr(negotiation, "gevent", SimpleNamespace(Timeout=lambda *_args: contextlib.nullcontext()))
    sasl = secure_stage(stage, step2=silent)
    client = stage.client(auth=FakeAuth(), auth_timeout=0.5, timeout=1.2)
    assert "INITIATE" in str(last_of(ends(client.table("temp").get, "h", "s")))
    sasl.at.clear()
    assert client.table("temp").get("h", "s", timeout=10.0) is None
    assert sasl.broken == []


def test_a_timeout_during_the_negotiation_with_a_meta_server_has_a_hint(stage: Stage) -> None:
    stage.meta.handler = Sasl(stage.meta.handler, step2=silent)
    error = ends(stage.client(auth=FakeAuth(), auth_timeout=10.0).table("temp").get, "h", "s", timeout=1.0)
    assert isinstance(error, MetaUnreachable)
    assert "service_fqdn and the clock" in error.hint


def test_failed_negotiations_are_repeated_with_growing_pauses(stage: Stage) -> None:
    secure_stage(stage, step2=silent)
    client = stage.client(auth=FakeAuth(), auth_timeout=0.3, timeout=2.8, retry=RetryPolicy(base=0.001, cap=0.01))
    client.ping(20.0)
    callers = [gevent.spawn(ends, client.table("temp").get, "h", str(number)) for number in range(50)]
    gevent.joinall(callers)
    # The first pauses are 0.5 to 1 s and 1 to 2 s.
    assert 2 <= len(stage.servers[0].links) <= 4


# --------------------------------------------------------------------------------------------------------- without auth
def test_without_the_option_nothing_is_negotiated(stage: Stage) -> None:
    stage.server()
    client = stage.client()
    client.table("temp").get("h", "s")
    assert [request.name for link in (*stage.meta.links, *stage.servers[0].links) for request in link.requests] == [
        "RPC_CM_QUERY_PARTITION_CONFIG_BY_INDEX",
        "RPC_RRDB_RRDB_GET",
    ]
    assert "auth" not in client.stats()


@pytest.mark.parametrize("version", [0, 1])
def test_without_the_option_only_the_bytes_of_calls_are_sent(stage: Stage, version: int) -> None:
    stage.server()
    client = stage.client(header_version=version)
    client.table("temp").get("h", "s")
    ((query,), (get,)) = (link.requests for link in (*stage.meta.links, *stage.servers[0].links))
    asked = QUERY_CFG.encode_argument(QueryCfgRequest("temp"))
    for request, rpc, argument in ((query, QUERY_CFG, asked), (get, GET, GET.encode_argument(encode_key(b"h", b"s")))):
        assert request.data == encode_request(
            rpc,
            1,
            argument,
            app_id=request.app_id,
            partition_index=request.partition_index,
            partition_hash=0 if rpc is QUERY_CFG else crc64(b"h"),
            timeout_ms=request.timeout_ms,
            version=version,
        )


def test_a_server_that_demands_authentication_is_recognized(stage: Stage) -> None:
    """After silence on a connection that never answered, the client probes once on another connection."""
    sasl = secure_stage(stage)
    stage.meta.handler = stage.meta.handler.inner  # type: ignore[attr-defined]
    client = stage.client(timeout=3.0)
    error = ends(client.table("temp").get, "h", "s")
    assert isinstance(error, RequestTimeout)
    assert "auth=Kerberos" in error.hint
    assert [said(link) for link in stage.servers[0].links] == [[], [(SaslStatus.LIST, b"")]]
    wait_until(lambda: stage.servers[0].links[1].closed)
    assert "auth=Kerberos" in ends(client.table("temp").get, "h", "s", timeout=2.0).hint
    assert len(stage.servers[0].links) == 2
    assert len(sasl.broken) == 2


def test_a_server_that_answers_again_is_not_reported_as_demanding_authentication(stage: Stage) -> None:
    """Its authentication was turned off."""
    secure_stage(stage)
    stage.meta.handler = stage.meta.handler.inner  # type: ignore[attr-defined]
    table = stage.table(timeout=3.0)
    assert "auth=Kerberos" in ends(table.get, "h", "s").hint
    stage.servers[0].handler = answer
    assert table.get("h", "s") is None
    stage.servers[0].handler = silent
    assert ends(table.get, "h", "s", timeout=0.5).hint == ""


def test_a_silent_server_is_not_reported_as_demanding_authentication(stage: Stage) -> None:
    stage.server(silent)
    error = ends(stage.client(timeout=3.0).table("temp").get, "h", "s")
    assert isinstance(error, RequestTimeout)
    assert error.hint == ""


def test_a_server_that_has_answered_is_not_probed(stage: Stage) -> None:
    answers = [True]

    def once(link: Link, request: Request) -> None:
        if answers:
            answers.pop()
            link.value(request)

    stage.server(once)
    table = stage.table(timeout=2.5)
    table.get("h", "s")
    ends(table.get, "h", "s")
    assert len(stage.servers[0].links) == 1


def test_without_the_option_its_modules_are_not_loaded(stage: Stage) -> None:
    from tests.transport.scripts import run_script

    stage.server()
    out = run_script(
        """
import sys
from pegasus_green import Client
with Client(sys.argv[1]) as client:
    client.table("temp").get("h", "s")
    names = ("gssapi", "pegasus_green.auth", "pegasus_green.transport.authenticator",
             "pegasus_green.transport.credentials", "gevent.threadpool")
    print([name for name in names if name in sys.modules])
""",
        stage.meta.address,
    )
    assert out.split() == ["[]"]


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from pegasus_green import Kerberos

    monkeypatch.setitem(sys.modules, "gssapi", None)
    with pytest.raises(AuthenticationFailed) as caught:
        Client(["127.0.0.1:1"], auth=Kerberos(service_fqdn="h"))
    assert caught.value.reason == "library"
    for word in ("pip install gssapi", "libkrb5-dev", "krb5-devel", "compiler"):
        assert word in caught.value.hint
    monkeypatch.setitem(sys.modules, "gssapi", type(sys)("gssapi"))
    monkeypatch.setitem(sys.modules, "gssapi.exceptions", type(sys)("gssapi.exceptions"))
    with pytest.raises(AuthenticationFailed, match="python-gssapi, for example"):
        Client(["127.0.0.1:1"], auth=Kerberos(service_fqdn="h"))
