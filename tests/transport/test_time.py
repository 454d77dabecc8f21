"""Test deadlines, late replies, silence, and calls that move to another primary."""

from __future__ import annotations

import os
import random
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent._waiter import Waiter
from gevent.event import Event

from pegasus_green import Client, RetryPolicy, errors
from pegasus_green.protocol.framing import Request, encode_reply
from pegasus_green.protocol.rpc import GET, INCR
from pegasus_green.protocol.rrdb import ReadResponse
from pegasus_green.protocol.session import MAX_SEQID
from pegasus_green.transport import connection as connection_module
from pegasus_green.transport.handover import FAILURES_A_PASS
from pegasus_green.transport.waits import wait
from tests.transport.fakes import BlackHole, FakeServer, Link, Stage, answer, connection_of, key_for, silent
from tests.waiting import Stopwatch, sleeping, wait_until


def busy(seconds: float) -> None:
    """Compute without yielding, as an application may."""
    until = monotonic() + seconds
    while monotonic() < until:
        pass


def ends(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        return error


# ------------------------------------------------------------------------------------------------------------ deadlines
def test_calls_fail_never_before_and_at_most_20_ms_after_their_deadline(stage: Stage) -> None:
    stage.server(silent)
    table = stage.table()
    table.warm_up()
    early, later = [], []

    def call(number: int) -> None:
        timeout = 0.05 + number * 0.003
        watch = Stopwatch()
        control = gevent.spawn(sleeping, watch, timeout)
        with pytest.raises(errors.RequestTimeout):
            table.get(f"h{number}", "s", timeout=timeout)
        early.append(watch.elapsed - timeout)
        took = watch.seconds
        later.append(took - max(timeout, control.get()))

    gevent.joinall([gevent.spawn(call, number) for number in range(150)], raise_error=True)
    later.sort()
    assert min(early) >= 0.0
    # A pause of the machine also delays the control timer, unless it comes between the two timers.
    assert later[len(later) * 9 // 10] <= 0.020
    assert later[-4] <= 0.100


def test_the_timeout_of_the_client_bounds_a_call(stage: Stage) -> None:
    stage.server(silent)
    table = stage.table(timeout=0.2)
    table.warm_up()
    watch = Stopwatch()
    with pytest.raises(errors.RequestTimeout):
        table.get(b"h", b"s")
    assert watch.elapsed >= 0.2
    assert watch.seconds < 1.0


def test_the_end_of_the_stream_fails_a_waiting_call_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is repeated on a new connection."""
    server = stage.server(lambda link, request: answer(link, request) if len(server.requests) > 1 else link.close())
    # The timer would notice it, too, but only at the deadline.
    monkeypatch.setattr(connection_module, "TICK", 60.0)
    table = stage.table(timeout=20.0)
    table.warm_up()
    watch = Stopwatch()
    table.get(b"h", b"s")
    assert len(server.requests) == 2
    assert watch.seconds < 5.0


@pytest.mark.parametrize("where", ["meta", "dial", "back-off", "room"])
def test_a_deadline_holds_wherever_the_call_waits(stage: Stage, where: str) -> None:
    stage.server(silent)
    options: dict[str, Any] = {}
    if where == "meta":
        stage.meta.delay = 30.0
    elif where == "dial":
        stage.meta.primaries = [stage.extra(BlackHole()).address]
    elif where == "back-off":
        stage.servers[0].handler = lambda link, request: link.reply(request, error="ERR_BUSY")
        options["retry"] = RetryPolicy(base=10.0, cap=10.0)
    else:
        options["max_in_flight"] = 1
    table = stage.table(**options)
    others: list[Any] = [gevent.spawn(ends, table.get, "first", "s", timeout=1.5)] if where == "room" else []
    if others:
        wait_until(lambda: stage.servers[0].requests)
    watch = Stopwatch()
    with pytest.raises(errors.PegasusError) as caught:
        table.get("a", "b", timeout=0.2)
    assert watch.elapsed >= 0.2
    assert watch.seconds < 0.8
    assert isinstance(caught.value, errors.Busy if where == "back-off" else TimeoutError)
    gevent.joinall(others)


def test_a_wait_that_begins_late_in_a_pass_of_the_loop_is_not_short() -> None:
    """The time of the loop is then behind: it is the time when the pass began."""
    reading, writing = os.pipe()
    waiter: Any = Waiter()
    watcher: Any = gevent.get_hub().loop.io(reading, 1)

    def pass_time() -> None:
        busy(0.05)
        waiter.switch(None)

    try:
        os.write(writing, b"x")
        watcher.start(pass_time)
        waiter.get()
        begun = monotonic()
        wait(Event(), 0.1)
        assert monotonic() - begun >= 0.099
    finally:
        watcher.stop()
        watcher.close()
        os.close(reading)
        os.close(writing)


def test_five_thousand_timeouts_at_once_do_not_hold_the_hub(stage: Stage) -> None:
    """The errors are delivered in portions."""
    server = stage.server(silent)
    table = stage.table()
    table.warm_up()
    gaps = []
    ended, portions = 0, []

    def ticker() -> None:
        while True:
            watch, before = Stopwatch(), ended
            gevent.sleep(0.001)
            gaps.append(watch.seconds)
            portions.append(ended - before)

    def call(number: int) -> Any:
        nonlocal ended
        try:
            return ends(table.get, f"h{number}", "s", timeout=6.0)
        finally:
            ended += 1

    callers: list[Any] = [gevent.spawn(call, number) for number in range(5000)]
    wait_until(lambda: len(server.requests) == 5000)
    ticking = gevent.spawn(ticker)
    gevent.joinall(callers)
    ticking.kill()
    assert all(isinstance(caller.value, errors.RequestTimeout) for caller in callers)
    assert table.client.stats()["servers"][server.address]["timeouts"] == 5000
    # Two portions may end in one pass of the loop after a pause of the machine.
    assert max(portions) <= 2 * FAILURES_A_PASS
    gaps.sort()
    assert gaps[-3] < 0.15, gaps[-5:]


def test_a_reply_in_the_kernel_is_read_before_a_deadline_fails_its_call(stage: Stage) -> None:
    """Before a deadline fails a call, the received bytes in the kernel are read."""
    taken: list[tuple[Link, Request]] = []
    server = stage.server(lambda link, request: taken.append((link, request)))
    table = stage.table()
    table.warm_up()
    for _ in range(3):
        taken.clear()
        begun = monotonic()
        caller = gevent.spawn(ends, table.get, "a", "b", timeout=0.4)
        wait_until(lambda: taken)
        link, request = taken[0]
        link.value(request, b"here")
        busy(begun + 0.45 - monotonic())  # no yield between the reply and the deadline
        assert caller.get() == b"here"
    assert server.requests
    assert table.client.stats()["servers"][server.address]["timeouts"] == 0


# --------------------------------------------------------------------------------------------------------- late replies
def test_late_replies_are_dropped_and_counted(stage: Stage) -> None:
    held: list[tuple[Link, Request]] = []
    server = stage.server(lambda link, request: held.append((link, request)))
    client = stage.client()
    table = client.table("temp")
    table.warm_up()
    callers: list[Any] = [gevent.spawn(ends, table.get, f"h{n}", "s", timeout=0.5) for n in range(30)]
    gevent.joinall(callers)
    assert all(isinstance(caller.value, errors.RequestTimeout) for caller in callers)
    server.handler = answer
    for link, request in held:
        link.value(request, b"late")
    for number in range(30):
        table.set(f"h{number}", "s", str(number).encode())
        assert table.get(f"h{number}", "s") == str(number).encode()
    figures = client.stats()["servers"][server.address]
    assert figures["late"] == 30
    assert figures["timeouts"] == 30
    assert figures["received"] == figures["sent"] == 90
    assert len(server.links) == 1


def test_reordered_duplicated_and_unknown_replies(stage: Stage) -> None:
    waiting: list[tuple[Link, Request]] = []

    def shuffled(link: Link, request: Request) -> None:
        waiting.append((link, request))
        if len(waiting) >= 10:
            random.shuffle(waiting)
            batch = list(waiting)
            waiting.clear()
            out = b""
            for _, one in batch:
                value = ReadResponse(value=one.data[-40:]).encode()
                out += encode_reply(one.name, one.seqid, result=value)
                out += encode_reply(one.name, one.seqid, result=ReadResponse(value=b"twice").encode())
                out += encode_reply(one.name, -one.seqid - 7, result=ReadResponse(value=b"nobody's").encode())
            link.send(out)

    server = stage.server(shuffled)
    table = stage.table()

    def work(number: int) -> None:
        for step in range(20):
            mark = f"{number:04}-{step:04}".encode()
            assert mark in table.get(b"h" * 30 + mark, b"")

    gevent.joinall([gevent.spawn(work, number) for number in range(100)], raise_error=True)
    figures = table.client.stats()["servers"][server.address]
    assert figures["late"] == 2 * 2000
    assert len(server.links) == 1


def test_sequence_ids_wrap_around(stage: Stage) -> None:
    """After 2^31-1 they begin at 1 and skip the ids of pending calls."""
    held: list[tuple[Link, Request]] = []

    def hold_slow(link: Link, request: Request) -> None:
        if b"slow" in request.data:
            held.append((link, request))
        else:
            answer(link, request)

    server = stage.server(hold_slow)
    table = stage.table(timeout=10.0)
    table.warm_up()
    session = connection_of(table.client, server.address).session
    slow = [gevent.spawn(table.get, f"slow{n}", "s") for n in range(3)]
    wait_until(lambda: len(held) == 3)
    session.go_on_behind(MAX_SEQID - 5)
    callers: list[Any] = [gevent.spawn(table.set, f"h{n}", "s", str(n).encode()) for n in range(20)]
    gevent.joinall(callers, raise_error=True)
    assert [table.get(f"h{n}", "s") for n in range(20)] == [str(n).encode() for n in range(20)]
    ids = [request.seqid for request in server.requests]
    assert max(ids) == MAX_SEQID
    assert min(ids) == 1
    assert len(set(ids)) == len(ids)
    assert {1, 2, 3} == {request.seqid for _, request in held}
    for link, request in held:
        link.value(request, b"at last")
    gevent.joinall(slow, raise_error=True)
    assert [caller.value for caller in slow] == [b"at last"] * 3


def test_sequence_ids_in_use_are_skipped(stage: Stage) -> None:
    """An id is used again only if no call is pending with it, anywhere in the range."""
    held: dict[int, tuple[Link, Request]] = {}

    def hold_some(link: Link, request: Request) -> None:
        if b"slow" in request.data:
            held[request.seqid] = (link, request)
        else:
            answer(link, request)

    server = stage.server(hold_some)
    table = stage.table(timeout=10.0)
    table.warm_up()
    connection = connection_of(table.client, server.address)
    session = connection.session
    waiting = (1, 4, 7)
    slow: list[Any] = []
    for seqid in waiting:
        session.go_on_behind(seqid - 1)
        slow.append(gevent.spawn(table.get, f"slow{seqid}", "s"))
        wait_until(lambda: len(held) == len(slow))
    assert set(connection.pending) == set(waiting)
    session.go_on_behind(MAX_SEQID - 1)
    before = len(server.requests)
    for number in range(12):
        table.set(f"h{number}", "s", b"v")
        assert set(connection.pending) == set(waiting)
    issued = [request.seqid for request in server.requests[before:]]
    assert issued == [MAX_SEQID, 2, 3, 5, 6, *range(8, 15)]
    for seqid, (link, request) in held.items():
        link.value(request, b"for %d" % seqid)
    gevent.joinall(slow, raise_error=True)
    assert [caller.value for caller in slow] == [b"for 1", b"for 4", b"for 7"]


def test_sent_and_unsent_calls_are_distinguished_across_the_wrap(stage: Stage) -> None:
    server = stage.server(silent)
    table = stage.table()
    table.warm_up()
    connection_of(table.client, server.address).session.go_on_behind(MAX_SEQID - 3)
    callers: list[Any] = [gevent.spawn(ends, table.incr, f"h{n}", "s", timeout=0.5) for n in range(8)]
    gevent.joinall(callers)
    assert [caller.value.sent for caller in callers] == [True] * 8
    callers = [gevent.spawn(ends, table.incr, f"h{n}", "s") for n in range(8)]
    wait_until(lambda: len(server.requests) == 16)
    server.links[0].close()
    gevent.joinall(callers)
    assert [caller.value.outcome_unknown for caller in callers] == [True] * 8


# -------------------------------------------------------------------------------------------------------------- silence
def test_a_silent_connection_requests_routes(stage: Stage) -> None:
    stage.server(silent)
    table = stage.table(silence=0.3, refresh_interval=0.1, timeout=3.0)
    table.warm_up()
    begin, before = monotonic(), len(stage.meta.queries)
    callers: list[Any] = [gevent.spawn(ends, table.get, f"h{n}", "s", timeout=2.0) for n in range(200)]
    gevent.joinall(callers)
    asked = [moment - begin for moment in stage.meta.queries[before:]]
    # From 0.3 s on, at the pace of the timer (0.25 s), not once for each of the calls.
    assert asked
    assert asked[0] >= 0.3
    assert asked[0] < 1.5
    assert len(asked) <= 20


def test_a_connection_with_other_replies_is_not_silent(stage: Stage) -> None:
    server = stage.server(lambda link, request: None if b"slow" in request.data else answer(link, request))
    table = stage.table(silence=1.0, refresh_interval=0.05)
    table.warm_up()
    before = len(stage.meta.queries)
    slow: Any = gevent.spawn(ends, table.get, "slow", "s", timeout=1.8)
    while not slow.dead:
        table.set("a", "b", b"c")
        gevent.sleep(0.02)
    assert isinstance(slow.value, errors.RequestTimeout)
    assert len(stage.meta.queries) == before
    assert len(server.links) == 1


def test_repeatable_calls_of_a_silent_server_move_to_the_new_primary(stage: Stage) -> None:
    """They move before their deadline; the connection to the silent server is kept."""
    old, new = stage.server(silent), stage.extra(FakeServer())
    stage.meta.primaries = [old.address]
    client = stage.client(silence=0.2, refresh_interval=0.1, timeout=3.0)
    table = client.table("temp")
    reads: list[Any] = [gevent.spawn(table.get, f"h{n}", "s") for n in range(20)]
    writes: list[Any] = [gevent.spawn(table.set, f"w{n}", "s", b"v") for n in range(20)]
    counts: list[Any] = [gevent.spawn(ends, table.incr, f"n{n}", "s", timeout=1.2) for n in range(5)]
    handle = table.get_async("a", "b", default=b"none")
    many: Any = gevent.spawn(table.get_many, [(f"h{n}", "s") for n in range(20)], default=0)
    wait_until(lambda: len(old.requests) == 66)
    watch = Stopwatch()
    stage.meta.primaries = [new.address]
    stage.meta.ballots = {0: 4}
    gevent.joinall([*reads, *writes, many], raise_error=True)
    assert watch.seconds < 2.0
    assert handle.get(1.0) == b"none"
    assert many.value == [0] * 20
    gevent.joinall(counts)
    assert all(caller.value.outcome_unknown and caller.value.attempts == 1 for caller in counts)
    assert new.names() == {"get": 41, "put": 20}
    assert client.stats()["tables"]["temp"]["retries"] == {"Moved": 61}
    assert len(old.alive) == 1


def test_moved_write_that_fails_later_is_unknown(stage: Stage) -> None:
    old = stage.server(silent)
    new = stage.extra(FakeServer(lambda link, request: link.reply(request, error="ERR_DISK_INSUFFICIENT")))
    table = stage.table(silence=0.2, refresh_interval=0.1, timeout=3.0)
    caller: Any = gevent.spawn(ends, table.set, "a", "b", b"c")
    wait_until(lambda: old.requests)
    stage.meta.primaries, stage.meta.ballots = [new.address], {0: 4}
    error = caller.get()
    assert isinstance(error, errors.WriteRejected)
    assert error.outcome_unknown


@pytest.mark.parametrize("level", ["client", "call", "one attempt"])
def test_calls_that_are_not_to_be_repeated_do_not_move(stage: Stage, level: str) -> None:
    old, new = stage.server(silent), stage.extra(FakeServer())
    once = RetryPolicy(max_attempts=1)
    retry: Any = {"client": None, "call": None, "one attempt": once}[level]
    client = stage.client(silence=0.2, refresh_interval=0.1, **({"retry": retry} if level != "call" else {}))
    table = client.table("temp")
    table.warm_up()
    call = {"timeout": 0.7} if level != "call" else {"timeout": 0.7, "retry": None}
    callers: list[Any] = [
        gevent.spawn(ends, table.get, "a", "b", **call),
        gevent.spawn(ends, table.set, "a", "b", b"c", **call),
        gevent.spawn(ends, table.get_many, [("a", "b")], **call),
        gevent.spawn(ends, lambda: table.get_async("a", "b", **call).get()),
    ]
    wait_until(lambda: len(old.requests) == 4)
    stage.meta.primaries, stage.meta.ballots = [new.address], {0: 4}
    gevent.joinall(callers)
    assert [type(caller.value) for caller in callers] == [errors.RequestTimeout] * 4
    assert not new.requests


def test_calls_do_not_move_between_two_names_of_a_silent_server(stage: Stage) -> None:
    server = stage.server(silent)
    stage.meta.primaries = [server.address, f"localhost:{server.port}"]
    table = stage.table(silence=0.2, refresh_interval=0.1)
    table.warm_up()
    callers: list[Any] = [gevent.spawn(ends, table.get, key_for(n, 2), "s", timeout=0.7) for n in range(2)]
    gevent.joinall(callers)
    assert len(server.requests) == 2


def test_a_call_made_at_once_after_a_loss_uses_a_new_connection(stage: Stage) -> None:
    stage.server(silent)
    client = stage.client(silent_window=0.3, silence=0.1)
    table = client.table("temp")
    table.warm_up()
    begin = monotonic()
    while monotonic() - begin < 10.0:
        error = ends(table.incr, "a", "b", timeout=0.1, retry=None)
        if isinstance(error, errors.ConnectionLost):
            break
    assert isinstance(error, errors.ConnectionLost)
    assert not error.sent
    assert not error.outcome_unknown


def test_silent_connection_is_replaced_after_the_window(stage: Stage) -> None:
    """Nothing arrived for longer than the window, and the deadline of a call has passed; not earlier."""
    server = stage.server(silent)
    client = stage.client(silent_window=0.8, silence=0.3)
    table = client.table("temp")
    table.warm_up()
    connection = connection_of(client, server.address)
    long: Any = gevent.spawn(ends, table.incr, "long", "s", timeout=20.0)
    gevent.sleep(0)
    begin = monotonic()
    watch = Stopwatch()
    while monotonic() - begin < 10:
        error = ends(table.get, "a", "b", timeout=0.1, retry=None)
        if connection.lost is not None:
            break
        assert isinstance(error, errors.RequestTimeout)
    # A caller that gets a timeout at the end of the window and calls again at once must not use the dying connection.
    assert not (isinstance(error, errors.ConnectionLost) and error.sent)
    assert watch.elapsed >= 0.8
    assert watch.seconds < 2.5
    assert isinstance(long.get(timeout=5), errors.ConnectionLost)
    assert long.value.outcome_unknown
    assert "nothing arrived" in str(long.value)
    server.handler = answer
    table.set("a", "b", b"c")
    assert len(server.links) == 2


def test_a_slow_single_call_does_not_replace_the_connection(stage: Stage) -> None:
    """Its deadline has not passed; a server may take longer than the window."""
    server = stage.server(lambda link, request: gevent.spawn_later(0.8, link.value, request, b"slow but there"))
    table = stage.table(silent_window=0.3, silence=0.2)
    assert table.get("a", "b", timeout=4.0) == b"slow but there"
    assert len(server.links) == 1


def test_a_late_reply_ends_the_silence_of_a_connection(stage: Stage) -> None:
    """The silence of the next call begins after the late reply."""
    held: list[tuple[Link, Request]] = []
    server = stage.server(lambda link, request: held.append((link, request)))
    client = stage.client(silent_window=1.0, silence=0.8, refresh_interval=0.01)
    table = client.table("temp")
    table.warm_up()
    with pytest.raises(errors.RequestTimeout):
        table.get("a", "b", timeout=0.3)
    wait_until(lambda: held)
    held[0][0].value(held[0][1], b"late")
    wait_until(lambda: client.stats()["servers"][server.address]["late"] == 1)
    gevent.sleep(1.1)
    before = len(stage.meta.queries)
    with pytest.raises(errors.RequestTimeout):
        table.get("a", "b", timeout=0.15)
    gevent.sleep(0.05)  # the caller is woken before the connection is judged
    assert connection_of(client, server.address) is not None
    assert len(stage.meta.queries) == before
    assert GET.name == held[0][1].name


@pytest.mark.parametrize("pause", [gevent.sleep, busy], ids=["idle", "computing"])
def test_the_time_between_two_calls_is_no_silence(stage: Stage, pause: Any) -> None:
    """A short call that times out later does not end the calls that were sent at the same time."""

    def counts_slowly(link: Link, request: Request) -> None:
        if request.name == INCR.name:
            gevent.spawn_later(0.3, answer, link, request)

    server = stage.server(counts_slowly)
    client = stage.client(silent_window=0.8, silence=0.3)
    table = client.table("temp")
    table.warm_up()
    assert isinstance(ends(table.get, "a", "b", timeout=0.1), errors.RequestTimeout)
    pause(1.0)
    assert client.stats()["servers"][server.address]["state"] == "open"
    counter: Any = gevent.spawn(ends, table.incr, "long", "s", timeout=5.0)
    assert isinstance(ends(table.get, "a", "b", timeout=0.1), errors.RequestTimeout)
    assert counter.get(timeout=5) == 1
    assert len(server.links) == 1


def test_the_silence_before_a_pause_counts(stage: Stage) -> None:
    """Each call is shorter than the window, and the client is idle after each of them."""
    server = stage.server(silent)
    client = stage.client(silent_window=0.65, silence=0.2)
    table = client.table("temp")
    table.warm_up()
    for _ in range(20):
        assert isinstance(ends(table.get, "a", "b", timeout=0.1), errors.RequestTimeout)
        gevent.sleep(0.3)
        if client.stats()["servers"][server.address]["losses"]:
            break
    assert 2 <= len(server.requests) <= 7
    assert len(server.links) == 1


def test_killed_callers_leave_no_timer_and_no_reference(stage: Stage) -> None:
    server = stage.server(silent)
    client: Client = stage.client()
    table = client.table("temp")
    table.warm_up()
    connection = connection_of(client, server.address)
    callers: list[Any] = [gevent.spawn(table.get, f"h{n}", "s") for n in range(50)]
    wait_until(lambda: len(server.requests) == 50)
    gevent.killall(callers)
    assert connection.pending == {}
    wait_until(lambda: not connection._referenced)
