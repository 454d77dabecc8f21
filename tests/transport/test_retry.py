"""Test the effect of each frame error on a call: attempts, route queries, exception and code."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from pegasus_green import RetryPolicy, bulk, errors
from pegasus_green.operations import base, many, multi
from pegasus_green.protocol.framing import Request
from pegasus_green.protocol.rpc import BY_NAME
from pegasus_green.protocol.rrdb import BatchGetResponse, UpdateResponse
from tests.transport.fakes import Link, Stage, answer, key_for, silent
from tests.waiting import Stopwatch, wait_until

FAST = RetryPolicy(base=0.01, cap=0.04)

# Name, whether it is repeated, whether it requests routes, and the class that is raised at once or at the deadline.
TABLE = [
    ("ERR_OBJECT_NOT_FOUND", True, True, errors.RequestTimeout),
    ("ERR_INVALID_STATE", True, True, errors.RequestTimeout),
    ("ERR_INACTIVE_STATE", True, True, errors.RequestTimeout),
    ("ERR_PARENT_PARTITION_MISUSED", True, True, errors.RequestTimeout),
    ("ERR_TRY_AGAIN", True, True, errors.RequestTimeout),
    ("ERR_NOT_ENOUGH_MEMBER", True, False, errors.NotEnoughReplicas),
    ("ERR_CAPACITY_EXCEEDED", True, False, errors.NotEnoughReplicas),
    ("ERR_BUSY", True, False, errors.Busy),
    ("ERR_SPLITTING", True, False, errors.Splitting),
    ("ERR_DISK_INSUFFICIENT", False, False, errors.WriteRejected),
    ("ERR_DISK_IO_ERROR", False, False, errors.WriteRejected),
    ("ERR_OPERATION_DISABLED", False, False, errors.WriteRejected),
    ("ERR_INVALID_DATA", False, False, errors.WriteRejected),
    ("ERR_ACL_DENY", False, False, errors.AccessDenied),
    ("ERR_UNAUTHENTICATED", False, False, errors.AccessDenied),
    ("ERR_HANDLER_NOT_FOUND", False, False, errors.ServerError),
    ("ERR_INVALID_PARAMETERS", False, False, errors.ServerError),
    ("ERR_NO_SUCH_THING", False, False, errors.ServerError),
]
ROWS = pytest.mark.parametrize(("name", "repeated", "refresh", "kind"), TABLE, ids=[row[0] for row in TABLE])


def ends(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        return error


class Refusing:
    """Answers with an error the first times, then correctly."""

    def __init__(self, name: str, times: int = 1_000_000) -> None:
        self.name, self.times, self.seen = name, times, 0

    def __call__(self, link: Link, request: Request) -> None:
        self.seen += 1
        if self.seen <= self.times:
            link.reply(request, error=self.name)
        else:
            answer(link, request)


@pytest.mark.parametrize("name", ["ERR_BUSY", "ERR_INVALID_STATE"])
def test_no_pause_goes_past_the_deadline(stage: Stage, name: str) -> None:
    stage.server(Refusing(name))
    table = stage.table(retry=RetryPolicy(base=20.0, cap=20.0), refresh_interval=0.05)
    table.warm_up()
    watch = Stopwatch()
    with pytest.raises(errors.PegasusError) as caught:
        table.get("a", "b", timeout=0.2)
    assert watch.seconds < 2.0
    assert caught.value.attempts >= 1


@ROWS
def test_each_error_is_repeated_until_the_deadline_or_raised(
    stage: Stage, name: str, repeated: bool, refresh: bool, kind: type[errors.PegasusError]
) -> None:
    refusing = Refusing(name)
    stage.server(refusing)
    table = stage.table(retry=FAST, refresh_interval=0.05)
    table.warm_up()
    before = len(stage.meta.queries)
    watch = Stopwatch()
    with pytest.raises(errors.PegasusError) as caught:
        table.incr("a", "b", timeout=0.6 if repeated else 20.0)
    elapsed, took = watch.elapsed, watch.seconds
    error = caught.value
    if isinstance(error, errors.RequestTimeout) and error.sent:
        # On a busy machine the last attempt may be sent just before the deadline; then the previous one counts.
        assert isinstance(error.last_error, errors.PegasusError)
        assert error.last_error.code == name
        return
    assert type(error) is kind
    # An attempt without time for sending counts, too.
    assert error.attempts - refusing.seen in (0, 1)
    assert (error.table, error.operation) == ("temp", "incr")
    # These errors are sent before the write is replicated, so the outcome is known.
    assert not error.outcome_unknown
    if repeated:
        assert refusing.seen >= 3
        assert elapsed >= 0.4
        assert took < 1.5
        named = error if error.code == name else error.last_error
        assert isinstance(named, errors.PegasusError)
        assert named.code == name
    else:
        assert refusing.seen == 1
        assert error.code == name
        assert took < 5.0
    assert (len(stage.meta.queries) > before) == refresh


def test_a_call_succeeds_after_a_transient_error(stage: Stage) -> None:
    server = stage.server()
    for name, repeated, _, kind in TABLE:
        server.handler = refusing = Refusing(name, times=1)
        client = stage.client(retry=FAST)
        table = client.table("temp")
        if repeated:
            assert table.incr(name, "b") == 1
            assert refusing.seen == 2
            assert client.stats()["tables"]["temp"]["retries"] == {name: 1}
        else:
            error = ends(table.incr, name, "b")
            assert type(error) is kind
            assert error.code == name
            assert refusing.seen == 1


def test_retry_none_tries_once(stage: Stage) -> None:
    server = stage.server()
    table = stage.table()
    for name, *_ in TABLE:
        server.handler = refusing = Refusing(name)
        error = ends(table.get, "a", "b", retry=None)
        assert isinstance(error, errors.ServerError)
        assert error.code == name
        assert refusing.seen == error.attempts == 1


def test_retry_none_for_the_whole_client(stage: Stage) -> None:
    refusing = Refusing("ERR_BUSY")
    stage.server(refusing)
    table = stage.table(retry=None)
    with pytest.raises(errors.Busy):
        table.get("a", "b")
    assert refusing.seen == 1


def test_max_attempts(stage: Stage) -> None:
    refusing = Refusing("ERR_NOT_ENOUGH_MEMBER")
    stage.server(refusing)
    table = stage.table(retry=RetryPolicy(base=0.001, cap=0.001, max_attempts=4))
    with pytest.raises(errors.NotEnoughReplicas) as caught:
        table.set("a", "b", "c")
    assert refusing.seen == caught.value.attempts == 4


def test_a_busy_server_is_asked_again_with_pauses(stage: Stage) -> None:
    def three_attempts(name: str) -> Stopwatch:
        refusing = Refusing(name)
        stage.servers[0].handler = refusing
        watch = Stopwatch()
        with pytest.raises(errors.ServerError):
            table.get("a", "b", timeout=20.0)
        assert refusing.seen == 3
        return watch.stop()

    stage.server()
    table = stage.table(retry=RetryPolicy(base=0.1, cap=5.0, max_attempts=3))
    table.warm_up()
    # Five times longer pauses: 0.5 and 1 s against 0.1 and 0.2 s. The jitter makes them up to half as long.
    assert three_attempts("ERR_BUSY").elapsed >= 0.74
    assert three_attempts("ERR_CAPACITY_EXCEEDED").seconds < 0.7


def test_busy_with_a_body_is_busy(stage: Stage) -> None:
    from pegasus_green.protocol.rrdb import ReadResponse

    stage.server(lambda link, request: link.reply(request, ReadResponse(value=b"no"), error="ERR_BUSY"))
    with pytest.raises(errors.Busy):
        stage.table().get("a", "b", timeout=20.0, retry=None)


@pytest.mark.parametrize("verb", ["set", "incr", "remove"])
def test_ok_without_a_result_is_a_rejected_write(stage: Stage, verb: str) -> None:
    server = stage.server(lambda link, request: link.reply(request))
    table = stage.table()
    with pytest.raises(errors.WriteRejected) as caught:
        {
            "set": lambda: table.set("a", "b", "c"),
            "incr": lambda: table.incr("a", "b"),
            "remove": lambda: table.remove("a", "b"),
        }[verb]()
    assert caught.value.code == "ERR_OK"
    assert not caught.value.outcome_unknown
    assert len(server.requests) == 1


def test_ok_without_a_result_of_a_read_is_a_protocol_error(stage: Stage) -> None:
    stage.server(lambda link, request: link.reply(request))
    with pytest.raises(errors.ProtocolError):
        stage.table().get("a", "b")


def test_after_parent_partition_misused_the_index_is_computed_again(stage: Stage) -> None:
    """The hash gives partition 2 or 3 of four, not 0 or 1 of two."""
    key = key_for(2, 4)

    def parent(link: Link, request: Request) -> None:
        if request.partition_index < 2 and len(stage.meta.primaries) == 4:
            link.reply(request, error="ERR_PARENT_PARTITION_MISUSED")
        else:
            answer(link, request)

    server = stage.server(parent)
    stage.meta.primaries = [server.address] * 2
    table = stage.table(refresh_interval=0.02)
    table.set(key, "b", "old")
    assert server.requests[-1].partition_index == 0
    stage.meta.primaries = [server.address] * 4
    table.set(key, "b", "new")
    assert [request.partition_index for request in server.requests][-2:] == [0, 2]
    assert len(server.links) == 1


def test_child_that_is_not_ready_is_served_by_its_parent(stage: Stage) -> None:
    key = key_for(3, 4)
    server = stage.server()
    stage.meta.primaries = [server.address, server.address, "", ""]
    stage.meta.ballots = {2: -1, 3: -1}
    table = stage.table()
    table.set(key, "b", "c")
    assert server.requests[-1].partition_index == 1


@pytest.mark.parametrize("verb", ["get", "set", "incr"])
def test_a_connection_lost_after_sending_repeats_only_idempotent_calls(stage: Stage, verb: str) -> None:
    """Reads and idempotent writes are repeated; incr raises with an unknown outcome and is sent once."""
    lost: list[Request] = []

    def lose_first(link: Link, request: Request) -> None:
        if not lost:
            lost.append(request)
            link.close(reset=True)
        else:
            answer(link, request)

    server = stage.server(lose_first)
    table = stage.table()
    if verb == "incr":
        with pytest.raises(errors.ConnectionLost) as caught:
            table.incr("a", "b")
        assert caught.value.outcome_unknown
        assert caught.value.sent
        assert caught.value.attempts == 1
    else:
        table.get("a", "b") if verb == "get" else table.set("a", "b", "c")
    wait_until(lambda: len(server.requests) == (1 if verb == "incr" else 2))


def test_timeout_of_a_sent_write_is_unknown_and_of_a_read_is_not(stage: Stage) -> None:
    stage.server(silent)
    table = stage.table()
    table.warm_up()
    for call, unknown in (
        (lambda: table.incr("a", "b", timeout=0.4), True),
        (lambda: table.get("a", timeout=0.4), False),
    ):
        with pytest.raises(errors.RequestTimeout) as caught:
            call()
        assert caught.value.sent
        assert caught.value.attempts == 1
        assert caught.value.outcome_unknown is unknown


def test_an_unknown_outcome_stays_unknown_after_a_repeat(stage: Stage) -> None:
    """The first copy of a set may have been executed, whatever the answer to its repeat is."""
    seen: list[Request] = []

    def first_lost_then_busy(link: Link, request: Request) -> None:
        seen.append(request)
        if len(seen) == 1:
            link.close(reset=True)
        else:
            link.reply(request, error="ERR_DISK_INSUFFICIENT")

    stage.server(first_lost_then_busy)
    with pytest.raises(errors.WriteRejected) as caught:
        stage.table().set("a", "b", "c")
    assert caught.value.outcome_unknown
    assert caught.value.attempts == 2
    assert isinstance(caught.value.last_error, errors.ConnectionLost)


def test_header_carries_the_time_that_is_left(stage: Stage) -> None:
    refusing = Refusing("ERR_NOT_ENOUGH_MEMBER", times=3)
    server = stage.server(refusing)
    table = stage.table(retry=RetryPolicy(base=0.03, cap=0.03))
    table.warm_up()
    table.get("a", "b", timeout=8.0)
    left = [request.timeout_ms for request in server.requests]
    assert len(left) == 4
    assert 7000 < left[0] <= 8000
    assert all(earlier - later >= 14 for earlier, later in pairwise(left))
    server.handler = silent
    with pytest.raises(errors.RequestTimeout):
        table.get("a", "b", timeout=0.0009)
    assert all(request.timeout_ms >= 1 for request in server.requests)


@pytest.mark.parametrize(("name", "kind"), [("ERR_DISK_INSUFFICIENT", errors.WriteRejected), ("ERR_BUSY", errors.Busy)])
def test_a_call_sent_without_a_reply_is_reported_as_sent(
    stage: Stage, name: str, kind: type[errors.PegasusError]
) -> None:
    """The first attempt is lost and the second refused; the outcome of the first is unknown."""

    def handler(link: Link, request: Request) -> None:
        if len(server.requests) == 1:
            link.close()
        else:
            link.reply(request, error=name)

    server = stage.server(handler)
    with pytest.raises(kind) as caught:
        stage.table(timeout=1.0).set("h", "s", b"v")
    assert (caught.value.sent, caught.value.outcome_unknown) == (True, True)


def test_a_timeout_error_reports_attempts_and_outcome(stage: Stage) -> None:
    stage.server(silent)
    table = stage.table()
    table.warm_up()
    where = f"table=temp, operation=get, server={stage.servers[0].address}"
    with pytest.raises(errors.RequestTimeout) as caught:
        table.get("h", "s", timeout=0.3)
    assert str(caught.value).startswith(f"no reply in time [{where}, timeout=0.3 s, sent=yes, attempts=1]")
    with pytest.raises(errors.RequestTimeout) as caught, table.client.deadline(0.4):
        table.get("h", "s")
    # The timeout of the call is what is left of the 0.4 s when the call begins.
    assert caught.value.timeout is not None
    assert 0 < caught.value.timeout <= 0.4
    assert f"timeout={caught.value.timeout:.3g} s" in str(caught.value)


@pytest.mark.parametrize("verb", ["set", "multi_set", "set_many", "incr"])
def test_a_repeated_set_keeps_the_expiry_time(stage: Stage, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """An hour passes between the attempts; the record expires at the time that the caller gave."""
    clock = [1_800_000_000.0]
    for module in (base, bulk, many, multi):
        monkeypatch.setattr(module, "time", lambda: clock[0])

    def handler(link: Link, request: Request) -> None:
        clock[0] += 3600
        if len(server.requests) == 1:
            link.reply(request, error="ERR_BUSY")
        elif verb == "multi_set":
            link.reply(request, UpdateResponse(app_id=request.app_id))
        else:
            answer(link, request)

    server = stage.server(handler)
    table = stage.table()
    calls: dict[str, Any] = {
        "set": lambda: table.set("h", "s", b"1", ttl=60),
        "multi_set": lambda: table.multi_set("h", {"s": "1"}, ttl=60),
        "set_many": lambda: table.set_many([("h", "s", b"1")], ttl=60),
        "incr": lambda: table.incr("h", "s", ttl=60),
    }
    calls[verb]()
    sent: list[Any] = [BY_NAME[one.name].decode_argument(one.data, one.offset) for one in server.requests]
    assert [argument.expire_ts_seconds for argument in sent] == [1_800_000_060 - base.EPOCH] * 2


# ------------------------------------------------------------------------------------- batch_get and wrong partitions
class Misplaced:
    """Answers batch_get for a partition that has none of the keys, the first times or always."""

    def __init__(self, times: int = 1_000_000) -> None:
        self.times, self.seen = times, 0

    def __call__(self, link: Link, request: Request) -> None:
        self.seen += 1
        index = 1 if self.seen <= self.times else 0
        link.reply(request, BatchGetResponse(error=0, data=[], app_id=request.app_id, partition_index=index))


@pytest.mark.parametrize("retry", [FAST, None])
def test_batch_get_pauses_while_a_wrong_partition_answers(stage: Stage, retry: RetryPolicy | None) -> None:
    server = stage.server(Misplaced())
    stage.meta.primaries = [server.address] * 2
    table = stage.table(refresh_interval=0.1)
    keys = [(key_for(0, 2), str(number)) for number in range(4)]
    late = ends(table.batch_get, keys, timeout=0.6, retry=retry)
    assert isinstance(late, errors.RequestTimeout)
    assert late.timeout == pytest.approx(0.6)
    # The pauses are 5 ms or longer and grow to 20 ms or longer. New routes can end about six of them.
    assert 2 <= len(server.requests) <= 60
    assert len(stage.meta.queries) >= 2


def test_batch_get_succeeds_when_the_right_partition_answers(stage: Stage) -> None:
    misplaced = Misplaced(times=3)
    server = stage.server(misplaced)
    stage.meta.primaries = [server.address] * 2
    table = stage.table(retry=FAST)
    assert table.batch_get([(key_for(0, 2), "s")], default="absent") == ["absent"]
    assert misplaced.seen == 4
