"""Test writes: requests share one write, the write watcher sends the rest; large frames in both directions; limits."""

from __future__ import annotations

import gc
import os
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import get_hub

from pegasus_green import errors
from pegasus_green.accelerate import core
from pegasus_green.protocol.framing import Request
from pegasus_green.protocol.rpc import GET
from pegasus_green.transport import outbox as outbox_module
from pegasus_green.transport.connection import Connection
from tests.transport.fakes import Link, Stage, answer, connection_of, key_for, key_of, silent
from tests.transport.scripts import run_script
from tests.waiting import Stopwatch, sleeping, wait_until

KIB, MIB = 1024, 1024 * 1024


def ends(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        # Without its traceback, which would keep every argument alive.
        return error.with_traceback(None)


def echo(link: Link, request: Request) -> None:
    """Answer a get with its own key."""
    link.value(request, key_of(request))


class Counting:
    """Replaces the system calls of the outbox and the compiled core: counts writes, and limits the accepted bytes."""

    def __init__(self, most: Callable[[], int] | None = None) -> None:
        self.sizes: list[int] = []
        self._most = most

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the system calls until the test ends."""
        monkeypatch.setattr(outbox_module, "os", self)
        if core:
            core.write_by(self.write)

    def write(self, fd: int, data: Any) -> int:
        return self._write(fd, [data])

    def writev(self, fd: int, some: Any) -> int:
        return self._write(fd, some)

    def _write(self, fd: int, some: Any) -> int:
        if self._most is None:
            size = os.writev(fd, some)
        else:
            most = self._most()
            if most == 0:
                raise BlockingIOError
            size = os.write(fd, b"".join(bytes(one) for one in some)[:most])
        self.sizes.append(size)
        return size


@pytest.fixture(autouse=True)
def kernel() -> Iterator[None]:
    """Restore the system calls after a test."""
    yield
    if core:
        core.write_by(None)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    counting.install(monkeypatch)
    return counting


# -------------------------------------------------------------------------------------------------- coalescing
def test_requests_of_a_hundred_callers_are_sent_with_few_writes(stage: Stage, counting: Counting) -> None:
    """The first goes at once, since nothing else is under way; the others by one flush for each pass of the hub.

    The hub starts 50 greenlets in a pass, and on a slow machine the first reply comes between two passes.
    """
    server = stage.server()
    table = stage.table()
    table.warm_up()
    before = len(counting.sizes)
    callers = [gevent.spawn(table.set, f"h{n}", "s", b"v" * 100) for n in range(100)]
    gevent.joinall(callers, raise_error=True)
    assert len(server.requests) == 100
    assert len(counting.sizes) - before <= 4


def test_requests_made_on_replies_share_one_write(stage: Stage, counting: Counting) -> None:
    """Callers that call again on their reply share the write at the end of the reader's pass."""
    server = stage.server()
    table = stage.table()
    table.warm_up()
    before = len(counting.sizes)

    def work(number: int) -> None:
        for _ in range(50):
            table.get(f"h{number}", "s")

    gevent.joinall([gevent.spawn(work, number) for number in range(40)], raise_error=True)
    writes = len(counting.sizes) - before
    assert len(server.requests) == 2000
    assert writes <= 250, writes
    # The server reads whole batches, so few segments arrive.
    assert len(server.links[0].chunks) <= 250


def test_a_write_comes_after_the_replies_that_are_here(stage: Stage, counting: Counting) -> None:
    """A caller whose reply has arrived continues first, so its next request shares the write."""

    def serve(link: Link, request: Request) -> None:
        if len(server.requests) > 1:
            echo(link, request)

    server = stage.server(serve)
    table = stage.table()
    table.warm_up()
    caller = gevent.spawn(lambda: [table.get("h1", "s"), table.get("h2", "s")])
    wait_until(lambda: len(server.requests) == 1)
    before = len(counting.sizes)
    echo(server.links[0], server.requests[0])
    table.get("h3", "s")
    caller.get()
    assert len(counting.sizes) - before == 1


def test_requests_of_get_many_are_sent_with_few_writes(stage: Stage, counting: Counting) -> None:
    stage.server()
    table = stage.table()
    table.warm_up()
    before = len(counting.sizes)
    table.get_many([(f"h{n}", "s") for n in range(2000)], concurrency=500)
    assert len(counting.sizes) - before <= 30


def test_a_lone_call_costs_one_write(stage: Stage, counting: Counting) -> None:
    stage.server()
    table = stage.table()
    table.warm_up()
    before = len(counting.sizes)
    for number in range(10):
        table.get(f"h{number}", "s")
    assert len(counting.sizes) - before == 10


# -------------------------------------------------------------------------------------------------- partial writes
@pytest.mark.parametrize("seed", range(4))
def test_the_stream_stays_whole_with_partial_writes(stage: Stage, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The kernel accepts a few bytes at a time, and callers are killed and timed out meanwhile."""
    draw = random.Random(seed)
    counting = Counting(lambda: draw.choice((0, 1, 7, 50, 133, 1000)))
    server = stage.server()
    table = stage.table(timeout=20.0)
    table.warm_up()
    counting.install(monkeypatch)
    stored: dict[str, bytes] = {}

    def work(number: int) -> None:
        for step in range(8):
            value = draw.randbytes(draw.choice((0, 10, 300, 2000)))
            table.set(f"h{number}", str(step), value)
            stored[f"h{number}/{step}"] = value
            assert table.get(f"h{number}", str(step)) == value

    workers = [gevent.spawn(work, number) for number in range(25)]
    victims = [gevent.spawn(ends, table.get, f"v{n}", "s", timeout=draw.choice((0.001, 0.02, 5.0))) for n in range(60)]
    for victim in victims[::2]:
        gevent.sleep(draw.choice((0, 0.001)))
        victim.kill(block=False)
    gevent.joinall(workers, raise_error=True)
    gevent.joinall(victims)
    assert len(stored) == 200
    assert len(server.links) == 1
    assert connection_of(table.client, server.address).pending == {}
    assert connection_of(table.client, server.address).queued_bytes == 0


def test_withdrawn_requests_do_not_affect_the_other_requests(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait after a blocked one are killed in every order; the others are sent whole and answered."""
    draw = random.Random(7)
    closed = True
    counting = Counting(lambda: 0 if closed else draw.choice((3, 40, 200)))
    server = stage.server()
    table = stage.table(timeout=20.0)
    table.warm_up()
    counting.install(monkeypatch)
    for _ in range(10):
        closed = True
        callers = [gevent.spawn(ends, table.set, f"h{n}", "s", str(n).encode()) for n in range(40)]
        gevent.sleep(0.005)
        dead = draw.sample(range(40), 25)
        for number in dead:
            callers[number].kill(block=False)
            if draw.random() < 0.3:
                gevent.sleep(0)
        gevent.sleep(0.005)
        before = len(server.requests)
        closed = False
        alive = [caller for number, caller in enumerate(callers) if number not in dead]
        gevent.joinall(alive, timeout=10)
        assert [caller.value for caller in alive] == [None] * 15
        # No killed request had begun to be sent, so none is sent.
        assert len(server.requests) - before == 15


class Nobody:
    """Receives outcomes and does nothing."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []

    def switch(self, outcome: Any) -> None:
        self.outcomes.append(outcome)


@pytest.mark.parametrize("seed", range(6))
def test_withdrawn_before_during_and_after_a_flush(stage: Stage, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Requests are started and abandoned in any order while the kernel takes any number of bytes: those that were not
    abandoned arrive whole, once and in order, and of the others only those that had begun to leave."""
    draw = random.Random(seed)
    server = stage.server(silent)
    table = stage.table()
    table.warm_up()
    connection = connection_of(table.client, server.address)
    route = table._dispatcher.routes.table.routes[0]
    counting = Counting(lambda: draw.choice((0, 0, 20, 100, 300)))
    counting.install(monkeypatch)
    deadline = monotonic() + 60
    started: list[int] = []
    gone: set[int] = set()
    for _ in range(60):
        for _ in range(draw.randrange(8)):
            argument = GET.encode_argument(b"\0\1h" + b"s" * draw.choice((0, 30, 200)))
            started.append(connection.start(GET, route, 0, argument, deadline, 1000, Nobody(), None))
        alive = [seqid for seqid in started if seqid in connection.pending]
        for seqid in draw.sample(alive, min(len(alive), draw.randrange(6))):
            connection.abandon(seqid)
            gone.add(seqid)
        if draw.random() < 0.5:
            gevent.sleep(draw.choice((0, 0, 0.002)))
    kept = [seqid for seqid in started if seqid not in gone]
    wait_until(lambda: len({request.seqid for request in server.requests} - gone) == len(kept))
    came = [request.seqid for request in server.requests]
    assert came == sorted(set(came))
    assert [seqid for seqid in came if seqid not in gone] == kept
    assert len(gone) > 30
    assert connection.queued_bytes == 0
    for seqid in kept:
        connection.abandon(seqid)


def test_unsent_requests_are_reported_as_unsent(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel accepts one and a half requests, then the connection is reset."""
    server = stage.server(silent)
    table = stage.table()
    table.warm_up()
    portions: list[int] = []
    counting = Counting(lambda: portions.pop() if portions else 0)
    counting.install(monkeypatch)
    callers: list[Any] = [gevent.spawn(ends, table.incr, f"h{n}", "s", retry=None) for n in range(6)]
    gevent.sleep(0.01)
    size = len(next(iter(connection_of(table.client, server.address)._backlog.values())))
    portions += [size // 2, size]
    wait_until(lambda: server.requests)
    server.links[0].close(reset=True)
    gevent.joinall(callers)
    assert [caller.value.sent for caller in callers] == [True, True, False, False, False, False]
    assert [caller.value.outcome_unknown for caller in callers] == [True, True, False, False, False, False]


# -------------------------------------------------------------------------------------------------- big frames
@pytest.mark.parametrize("size", [64 * KIB - 1, 64 * KIB, 257 * KIB, MIB, 5 * MIB, 20 * MIB])
def test_big_frames_both_ways(stage: Stage, size: int) -> None:
    stage.server()
    table = stage.table(max_write_bytes=None, timeout=20.0)
    value = random.Random(size).randbytes(size)
    table.set("a", "b", value)
    assert table.get("a", "b") == value


def test_large_frames_leave_after_an_interrupted_flush(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    server = stage.server(lambda link, request: gevent.spawn_later(0.05, answer, link, request))
    table = stage.table(timeout=5.0)
    table.set("h", "first", b"x")
    write = Connection._write
    struck: list[int] = []

    def strike(self: Connection, frames: Any, *more: Any) -> None:
        if len(more) == 2 and more[1] and not struck:
            struck.append(len(frames))
            raise KeyError("interrupted")
        write(self, frames, *more)

    monkeypatch.setattr(Connection, "_write", strike)
    monkeypatch.setattr(get_hub(), "NOT_ERROR", (KeyError,))
    # The first one leaves at once. The others are sent together after it.
    sets = [gevent.spawn(table.set, "h", f"large{number}", bytes(100 * KIB)) for number in range(4)]
    gevent.joinall(sets, raise_error=True)
    assert struck == [3]
    assert len(server.links) == 1


def test_big_and_small_frames_mixed(stage: Stage) -> None:
    server = stage.server()
    table = stage.table(max_write_bytes=None, timeout=30.0)
    draw = random.Random(3)

    def work(number: int) -> None:
        for step in range(3):
            value = draw.randbytes(draw.choice((0, 100, 16 * KIB - 60, 16 * KIB, 70 * KIB, 900 * KIB, 3 * MIB)))
            table.set(f"h{number}", str(step), value)
            assert table.get(f"h{number}", str(step)) == value

    gevent.joinall([gevent.spawn(work, number) for number in range(20)], raise_error=True)
    assert len(server.links) == 1


def test_a_slow_server_receives_everything(stage: Stage) -> None:
    """The server reads 1 MiB at a time with pauses; order and contents are kept."""

    def lazy(link: Link, request: Request) -> None:
        answer(link, request)
        if len(link.requests) % 4 == 0:
            gevent.sleep(0.01)

    server = stage.server(lazy)
    table = stage.table(timeout=30.0)
    table.warm_up()
    connection = connection_of(table.client, server.address)
    most = 0

    def watch() -> None:
        nonlocal most
        while True:
            most = max(most, connection.queued_bytes)
            gevent.sleep(0.001)

    watching = gevent.spawn(watch)
    values = {f"h{n}": bytes([n]) * (500 * KIB) for n in range(60)}
    gevent.joinall([gevent.spawn(table.set, key, "s", value) for key, value in values.items()], raise_error=True)
    watching.kill()
    assert most > MIB, "nothing was ever left for the write watcher"
    for key, value in values.items():
        assert table.get(key, "s") == value


def test_one_big_write_does_not_hold_the_hub(stage: Stage) -> None:
    """Thousands of large requests are not joined into one write, so a ticker continues."""
    server = stage.server(reads=False)
    table = stage.table(timeout=1.0, max_write_bytes=None)
    table.warm_up()
    gaps = []

    def ticker() -> None:
        while True:
            watch = Stopwatch()
            gevent.sleep(0.001)
            gaps.append(watch.seconds)

    ticking = gevent.spawn(ticker)
    gevent.sleep(0.02)
    value = b"v" * (64 * KIB)
    table.set_many([(f"h{n}", "s", value) for n in range(800)], concurrency=800, return_errors=True, timeout=0.5)
    ticking.kill()
    assert server.links
    print(f"the longest gap of a 1 ms ticker while 50 MiB were handed over: {max(gaps) * 1000:.0f} ms")
    assert max(gaps) < 0.25


# -------------------------------------------------------------------------------------------------- bounds
def test_callers_above_the_in_flight_limit_wait_for_room(stage: Stage) -> None:
    in_flight, most = 0, 0

    def slow(link: Link, request: Request) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)

        def later() -> None:
            nonlocal in_flight
            in_flight -= 1
            answer(link, request)

        gevent.spawn_later(0.01, later)

    server = stage.server(slow)
    table = stage.table(max_in_flight=10, timeout=10.0)
    table.warm_up()
    callers = [gevent.spawn(table.set, f"h{n}", "s", b"v") for n in range(300)]
    gevent.joinall(callers, raise_error=True)
    assert len(server.requests) == 300
    assert most == 10


@pytest.mark.parametrize("verb", ["set", "set_async", "set_many"])
def test_calls_that_find_no_room_fail_at_their_deadline_with_the_reason(stage: Stage, verb: str) -> None:
    server = stage.server(silent)
    table = stage.table(max_in_flight=10, retry=None)
    table.warm_up()

    def call(number: int) -> Any:
        if number < 10:
            return ends(table.get, f"h{number}", "s", timeout=1.0)
        if verb == "set_many":
            return table.set_many([(f"h{number}", "s", b"v")], timeout=0.3, return_errors=True)[0]
        if verb == "set_async":
            return ends(table.set_async(f"h{number}", "s", b"v", timeout=0.3).get)
        return ends(table.set, f"h{number}", "s", b"v", timeout=0.3)

    watch = Stopwatch()
    callers: list[Any] = [gevent.spawn(call, n) for n in range(50)]
    gevent.joinall(callers)
    assert watch.elapsed >= 1.0
    assert watch.seconds < 2.0
    found = [caller.value for caller in callers]
    assert all(isinstance(error, errors.RequestTimeout) for error in found)
    crowded = [error for error in found if "no room on the connection: 10 calls in flight" in str(error)]
    assert len(crowded) == 40
    assert not any(error.sent or error.outcome_unknown for error in crowded)
    assert len(server.requests) == 10
    # When the other calls have timed out there is room again.
    server.handler = answer
    table.set("a", "b", b"c")


def test_a_server_that_reads_nothing_is_replaced_within_bounded_memory(stage: Stage) -> None:
    """Callers fail at their deadlines."""
    server = stage.server(reads=False)
    other = stage.server()
    client = stage.client(max_queued_bytes=8 * MIB, silent_window=60.0, silence=0.3, retry=None, path_timeout=None)
    table = client.table("temp")
    table.warm_up()
    connection = connection_of(client, server.address)
    mine, theirs = key_for(0, 2), key_for(1, 2)
    value = b"v" * (256 * KIB)
    most_queued = 0
    healthy: list[float] = []
    early: list[float] = []
    late: list[float] = []
    controls: list[float] = []
    until = monotonic() + 1.2

    def push() -> None:
        nonlocal most_queued
        while monotonic() < until:
            watch = Stopwatch()
            error = ends(table.set, mine, "s", value, timeout=0.3)
            assert isinstance(error, errors.RequestTimeout), error
            early.append(watch.elapsed - 0.3)
            late.append(watch.seconds - 0.3)
            most_queued = max(most_queued, connection.queued_bytes)

    def control() -> None:
        while monotonic() < until:
            controls.append(sleeping(Stopwatch(), 0.3) - 0.3)

    def others() -> None:
        while monotonic() < until:
            watch = Stopwatch()
            table.set(theirs, "s", b"v", timeout=5)
            healthy.append(watch.seconds)
            gevent.sleep(0.001)

    tracemalloc.start()
    try:
        workers = [*(gevent.spawn(push) for _ in range(200)), gevent.spawn(others), gevent.spawn(control)]
        gevent.joinall(workers, raise_error=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 200 callers send 50 MiB to a connection that may queue 8 MiB; each caller also keeps its own argument.
    assert most_queued <= 8 * MIB + 2 * len(value)
    assert peak < 8 * MIB + 200 * 2.2 * len(value)
    assert min(early) >= 0.0
    assert median(late) < 0.1 + max(controls)
    # A few milliseconds on an idle machine. A call that waits for the others takes as long as their timeout.
    assert median(healthy) < 0.3
    assert len(other.links) == 1
    # When the connection was silent for the window and a deadline has passed, it is closed and replaced.
    assert connection.lost is None
    connection._options = replace(connection._options, silent_window=1.5)
    for _ in range(200):
        ends(table.set, mine, "s", b"v", timeout=0.1)
        if connection.lost is not None:
            break
    assert "nothing arrived" in str(connection.lost)
    server.reads = True
    wait_until(lambda: not isinstance(ends(table.set, mine, "s", b"v", timeout=0.5), errors.PegasusError))


def test_calls_work_with_very_small_limits(stage: Stage) -> None:
    stage.server()
    table = stage.table(max_queued_bytes=1, max_in_flight=1, timeout=10.0)
    gevent.joinall([gevent.spawn(table.set, f"h{n}", "s", b"v" * 1000) for n in range(50)], raise_error=True)
    assert table.get_many([(f"h{n}", "s") for n in range(50)]) == [b"v" * 1000] * 50


def test_skipped_sequence_ids_do_not_affect_the_queue(stage: Stage) -> None:
    """The queued calls skip the id of an old call; one of them times out and is not sent, all others are."""
    server = stage.server(reads=False)
    table = stage.table(timeout=20.0, retry=None)
    table.warm_up()
    connection = connection_of(table.client, server.address)
    bigs = [gevent.spawn(ends, table.set, "h", f"big{n}", b"x" * 900_000) for n in range(12)]
    gevent.sleep(0.05)
    assert connection.queued_bytes
    # As after a wrap: from there on an id may be in use, so each one is checked.
    connection.session.go_on_behind(connection.session.issued)
    taken = connection.session.issued + 4
    connection.pending[taken] = (gevent.Greenlet(), monotonic() + 60.0, None, None)
    calls = [gevent.spawn(ends, table.incr, "h", f"c{n}", timeout=0.4 if n == 2 else 20.0) for n in range(6)]
    error = calls[2].get()
    assert (type(error), error.sent, error.outcome_unknown) == (errors.RequestTimeout, False, False)
    del connection.pending[taken]
    server.reads = True
    gevent.joinall([*bigs, *calls], timeout=20.0)
    assert [call.value for call in calls if call is not calls[2]] == [1] * 5
    assert sorted(key for key in map(key_of, server.requests) if key.startswith(b"c")) == [
        b"c0",
        b"c1",
        b"c3",
        b"c4",
        b"c5",
    ]


def test_an_abandoned_half_sent_request_does_not_keep_the_loop_running(stage: Stage) -> None:
    """Its call has timed out, so gevent.wait() returns."""
    stage.server(reads=False)
    out = run_script(
        """
        import gevent, sys
        from pegasus_green import Client, RequestTimeout
        client = Client([sys.argv[1]], refresh_period=0, max_write_bytes=None)
        table = client.table("temp")
        table.warm_up()
        try:
            table.set("h", "s", b"x" * 20_000_000, timeout=0.3)
        except RequestTimeout as error:
            print(error.sent, gevent.wait(timeout=20.0))
        client.close()
        """,
        stage.meta.address,
    )
    assert out == "True True\n"


# ------------------------------------------------------------------------------------------------- the compiled core
@pytest.mark.skipif(core is None, reason="the compiled core is not in use")
def test_a_finalizer_that_runs_after_a_part_of_a_frame_was_sent_makes_a_call(stage: Stage) -> None:
    """Before Python 3.12 the collector can run in any function of C that makes a container."""

    class Finalized:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            found.append(table.get("h", "inner"))

    def write(fd: int, data: bytes) -> int:
        if writes:
            return os.write(fd, data)
        writes.append(len(data))
        # Empty the lists of unused containers, because the collector runs only for a new one.
        containers.extend(([], {}, (number, None, None)) for number in range(3000))
        Finalized()
        sent = os.write(fd, data[:10])
        gc.set_threshold(1)
        gc.enable()
        return sent

    stage.server(echo)
    table = stage.table()
    found: list[Any] = []
    writes: list[int] = []
    containers: list[Any] = []
    assert table.get("h", "first") == b"first"
    before = gc.get_threshold()
    gc.collect()
    # Leave the hub's pass that delivered the first reply: in it, the hub would make the system call.
    gevent.sleep(0.01)
    gc.disable()
    core.write_by(write)
    try:
        assert table.get("h", "outer") == b"outer"
    finally:
        core.write_by(None)
        gc.set_threshold(*before)
        gc.enable()
    gc.collect()
    assert found == [b"inner"]
    assert table.client.stats()["servers"][stage.servers[0].address]["losses"] == 0


def test_a_key_of_two_gigabytes_is_not_sent(stage: Stage) -> None:
    """The header could not express its size. The error leaves the connection to the other calls."""
    stage.server(echo)
    table = stage.table()
    assert table.get("h", "first") == b"first"
    with pytest.raises((OverflowError, struct.error)):
        table.get("h", bytes(2**31))
    assert table.get("h", "second") == b"second"
    assert len(stage.servers[0].links) == 1
