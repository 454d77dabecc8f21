"""Interruptions at a known step of a call: an exception or a nested call in the middle of a request; steps that fail.

tests/faults/test_interruptions.py interrupts at any step. These tests interrupt at the step that a rule is about.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import get_hub, socket

from pegasus_green import CheckType, Client, HedgePolicy, Mutations, Table, bulk, errors
from pegasus_green.cluster.meta import MetaClient
from pegasus_green.operations import asynchronous
from pegasus_green.protocol.framing import Request
from pegasus_green.protocol.session import ClientSession
from pegasus_green.transport.connection import Connection
from pegasus_green.transport.outbox import stop
from pegasus_green.transport.pool import Peer
from pegasus_green.transport.reach import in_digits
from pegasus_green.transport.sockets import notice_dead_paths
from tests.faults.interruptions import Interruption
from tests.faults.tools import at_rest
from tests.fork.forking import end_of
from tests.leaks import descriptors
from tests.transport.fakes import Link, Stage, answer, connection_of, dead_address, key_of, silent
from tests.waiting import Stopwatch, wait_until


class Interrupted(BaseException):
    """The exception that an interruption raises."""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # They are intended: gevent is not to print each of them.
    monkeypatch.setattr(get_hub(), "NOT_ERROR", (*get_hub().NOT_ERROR, Interrupted))


def echo(link: Link, request: Request) -> None:
    """Answer a get with its own key."""
    link.value(request, key_of(request))


def once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, do: Callable[..., Any]) -> None:
    """Call ``do`` after the first call of a function."""
    usual = getattr(owner, name)

    def first(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, usual)
        result = usual(*args, **kwargs)
        do(*args)
        return result

    monkeypatch.setattr(owner, name, first)


def interrupt(*_args: Any) -> None:
    raise Interrupted


def gather(table: Any) -> None:
    """Have another call wait, so that the next request is gathered: both ways do that by a method of Python."""
    gevent.spawn(table.get, "h", "other")
    gevent.sleep(0)


# The compiled core's way, and Python's.
WAYS: dict[str, dict[str, Any]] = {"short way": {}, "long way": {"retry": None}}


# ------------------------------------------------------------------------------------------- an outcome is its call's
@pytest.mark.parametrize("way", WAYS)
def test_the_reply_to_an_interrupted_call_is_dropped(stage: Stage, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    server = stage.server(echo)
    table = stage.table(timeout=30.0)

    def calls() -> None:
        assert table.get("h", "first") == b"first"
        gather(table)
        once(monkeypatch, Connection, "_flush_soon", interrupt)
        with pytest.raises(Interrupted):
            table.get("h", "interrupted", **WAYS[way])
        assert connection_of(table.client, server.address).in_flight == 1, "the other call"
        for number in range(20):
            assert table.get("h", f"k{number}", **WAYS[way]) == b"k%d" % number

    # In a greenlet, as calls of a server are.
    gevent.spawn(calls).get()
    assert not at_rest(table.client)


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_call_abandons_no_call_with_the_same_id(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """After 2^31 calls, the next id can be that of a call that still waits."""
    server = stage.server(echo)
    table = stage.table(timeout=5.0)

    def calls() -> None:
        assert table.get("h", "first") == b"first"
        other = gevent.spawn(table.get, "h", "other")
        gevent.sleep(0)
        connection = connection_of(table.client, server.address)
        (seqid,) = connection.pending
        connection.session.go_on_behind(seqid - 1)
        once(monkeypatch, ClientSession, "free_id", interrupt)
        with pytest.raises(Interrupted):
            table.get("h", "interrupted", **WAYS[way])
        assert other.get() == b"other"

    gevent.spawn(calls).get()
    assert not at_rest(table.client)


@pytest.mark.parametrize("way", WAYS)
def test_a_nested_call_gets_its_own_reply(stage: Stage, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A signal handler makes a call after a request is sent and before the wait for its reply."""
    stage.server(echo)
    table = stage.table(timeout=5.0)
    found: list[Any] = []

    def calls() -> None:
        assert table.get("h", "first") == b"first"
        gather(table)
        once(monkeypatch, Connection, "_flush_soon", lambda *_args: found.append(table.get("h", "inner", **WAYS[way])))
        assert table.get("h", "outer", **WAYS[way]) == b"outer"

    gevent.spawn(calls).get()
    assert found == [b"inner"]
    assert not at_rest(table.client)


def test_an_interrupted_deadline_check_is_repeated(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer of a connection repeats, so the next check finds the deadlines."""
    stage.server(silent)
    table = stage.table()
    table.warm_up()
    usual, looks = Connection._look, []

    def interrupted(self: Any, timer: Any) -> None:
        looks.append(1)
        if len(looks) == 1:
            raise Interrupted
        usual(self, timer)

    monkeypatch.setattr(Connection, "_look", interrupted)
    watch = Stopwatch()
    call: Any = gevent.spawn(ends, table.get, "h", "s", timeout=0.1)
    call.join(20.0)
    assert len(looks) > 1
    assert isinstance(call.value, errors.RequestTimeout)
    assert watch.seconds < 2.0


def ends(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        return error


# -------------------------------------------------------------------------------------------- interrupted twice or more
def test_an_outcome_survives_two_interruptions(stage: Stage) -> None:
    """Neither the first attempt nor the second one reaches the caller: the end of the connection does."""
    stage.server(echo)
    table = stage.table(timeout=3.0)

    def calls() -> list[Any]:
        return [handle.get() for handle in [table.get_async("h", f"k{number}") for number in range(3)]]

    assert calls() == [b"k0", b"k1", b"k2"]
    with pytest.MonkeyPatch.context() as patches:

        def twice(*_args: Any) -> None:
            patches.undo()
            raise Interrupted

        patches.setattr(asynchronous._Slot, "switch", interrupt)
        patches.setattr(Connection, "_hand_again", twice)
        watch = Stopwatch()
        caller: Any = gevent.spawn(ends, calls)
        caller.join(10.0)
    assert caller.value == [b"k0", b"k1", b"k2"]
    assert watch.seconds < 2.5, "it is repeated, and waits for no deadline"
    assert not at_rest(table.client)


class Asked:
    """The callback of a loop that runs Python code for ``pending``, as gevent's loop for libuv does."""

    @property
    def pending(self) -> bool:
        raise Interrupted


@pytest.mark.parametrize("way", WAYS)
def test_an_interruption_while_the_loop_is_asked_reaches_the_caller(stage: Stage, way: str) -> None:
    server = stage.server(silent)
    table = stage.table(timeout=3.0)
    table.warm_up()
    waiting = gevent.spawn(ends, lambda: [table.get("h", "first")])
    connection = connection_of(table.client, server.address)
    wait_until(lambda: connection.in_flight == 1)
    connection._flush_callback = Asked()
    caller: Any = gevent.spawn(table.get, "h", "second", **WAYS[way])
    caller.join(2.0)
    connection._flush_callback = None
    assert isinstance(caller.exception, Interrupted)
    assert connection.in_flight == 1
    assert not connection.queued_bytes
    waiting.kill()


@pytest.mark.parametrize("way", WAYS)
def test_a_greenlet_that_cannot_clean_up_leaves_nothing(stage: Stage, way: str) -> None:
    """Where the stack is full, nothing of the cleaning up succeeds. What is left goes with the reply."""
    stage.server(echo)
    table = stage.table(timeout=5.0)
    table.warm_up()
    with pytest.MonkeyPatch.context() as patches:
        gather(table)
        once(patches, Connection, "_flush_soon", interrupt)
        patches.setattr(Connection, "abandon", interrupt)
        caller: Any = gevent.spawn(table.get, "h", "s", **WAYS[way])
        caller.join(5.0)
    assert isinstance(caller.exception, Interrupted)
    assert not at_rest(table.client)


def lose_everything(client: Client) -> None:
    """Lose what waits for replies, as three interrupts in a row may."""
    for connection in client._cluster.pool.connections:
        connection.pending.clear()


@pytest.mark.parametrize("concurrency", [100, 4])
def test_a_bulk_run_ends_after_a_lost_outcome(stage: Stage, concurrency: int) -> None:
    stage.server(silent)
    table = stage.table()
    table.warm_up()
    keys = [("h", str(number)) for number in range(6)]
    run: Any = gevent.spawn(table.get_many, keys, timeout=1.0, concurrency=concurrency, return_errors=True)
    gevent.sleep(0.05)
    lose_everything(table.client)
    run.join(10.0)
    assert [type(error) for error in run.value] == 6 * [errors.RequestTimeout]
    assert all(error.sent for error in run.value)


def test_the_first_outcome_of_a_bulk_request_stays_and_wakes_its_caller(stage: Stage) -> None:
    """If a delivery is interrupted, the same request can get another outcome."""
    server = stage.server(echo)
    table = stage.table()
    table.warm_up()
    connection, window = connection_of(table.client, server.address), bulk.Window(get_hub())
    woken: list[int] = []
    window._sleeper = SimpleNamespace(switch=lambda _nothing: woken.append(len(window.outcomes)))
    window.wake_at = 3
    for seqid, (index, frame) in enumerate(
        [(0, b"first"), (0, b"again"), (1, b"second"), (2, b"third"), (2, b"again")], 900
    ):
        connection.pending[seqid] = (bulk._Slot((window, index)), float("inf"), None, None)
        connection.deliver([(seqid, frame)], connection.pending)
    assert window.outcomes == {0: b"first", 1: b"second", 2: b"third"}
    assert woken == [3, 3]


@pytest.mark.parametrize(("verb", "arguments"), [("get", ()), ("set", ("v",))])
def test_a_handle_ends_after_a_lost_outcome(stage: Stage, verb: str, arguments: tuple[str, ...]) -> None:
    stage.server(silent)
    table = stage.table()
    table.warm_up()
    handle = getattr(table, f"{verb}_async")("h", "s", *arguments, timeout=1.0)
    lose_everything(table.client)
    waiting: Any = gevent.spawn(ends, handle.get)
    waiting.join(10.0)
    assert isinstance(waiting.value, errors.PegasusError)
    assert waiting.value.outcome_unknown == waiting.value.sent == (verb == "set")


# The arguments of a call of each verb that has a handle.
READS: dict[str, tuple[Any, ...]] = {
    "batch_get": ([("h", "s")],),
    "count": (),
    "exist": ("h", "s"),
    "get": ("h", "s"),
    "get_many": ([("h", "s")],),
    "multi_get": ("h",),
    "multi_get_many": (["h"],),
    "multi_get_sort_keys": ("h",),
    "sort_key_count": ("h",),
    "ttl": ("h", "s"),
}
WRITES: dict[str, tuple[Any, ...]] = {
    "check_and_mutate": ("h", "s", CheckType.NO_CHECK),
    "check_and_set": ("h", "s", CheckType.NO_CHECK),
    "compare_exchange": ("h", "s", None, "v"),
    "del_range": ("h",),
    "incr": ("h", "s"),
    "multi_del": ("h", ["s"]),
    "multi_del_many": ([("h", ["s"])],),
    "multi_set": ("h", {"s": "v"}),
    "multi_set_many": ([("h", {"s": "v"})],),
    "remove": ("h", "s"),
    "remove_many": ([("h", "s")],),
    "remove_stream": ([("h", "s")],),
    "set": ("h", "s", "v"),
    "set_many": ([("h", "s", "v")],),
    "set_stream": ([("h", "s", "v")],),
    "touch": ("h", "s", 60),
    "truncate": (),
}
MORE: dict[str, dict[str, Any]] = {
    "check_and_set": {"value": "v"},
    "check_and_mutate": {"mutations": Mutations().put("s", "v")},
}


@pytest.mark.parametrize("verb", [*READS, *WRITES])
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
def test_the_outcome_of_a_write_whose_greenlet_is_killed_is_unknown(stage: Stage, verb: str, *, begun: bool) -> None:
    stage.meta.delay = 60.0
    table = stage.table(timeout=30.0)
    handle = getattr(table, f"{verb}_async")(*{**READS, **WRITES}[verb], **MORE.get(verb, {}))
    if begun:
        gevent.sleep(0)
    handle._job.kill(block=False)
    with pytest.raises(errors.PegasusError, match=r"killed|interrupted") as caught:
        handle.get(timeout=5.0)
    assert caught.value.outcome_unknown == caught.value.sent == (verb in WRITES)


def test_every_verb_with_a_handle_is_a_read_or_a_write() -> None:
    assert {f"{verb}_async" for verb in [*READS, *WRITES]} == {name for name in dir(Table) if name.endswith("_async")}


def test_a_handle_ends_after_a_lost_end_of_its_greenlet(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.server(silent)
    table = stage.table()
    monkeypatch.setattr(asynchronous, "_leave", interrupt)
    monkeypatch.setattr(asynchronous, "_run", interrupt)
    waiting: Any = gevent.spawn(ends, table.get_many_async([("h", "s")]).get)
    waiting.join(10.0)
    assert isinstance(waiting.value, errors.PegasusError)


def test_a_bulk_run_repeats_a_dial_that_GreenletExit_ended(stage: Stage) -> None:  # noqa: N802
    """A signal handler can raise it: gevent takes it for what the greenlet returns."""
    stage.server(echo)
    table = stage.table(timeout=5.0)
    table.partition_of("h")
    with pytest.MonkeyPatch.context() as patches:

        def leave(*_args: Any) -> None:
            patches.undo()
            raise gevent.GreenletExit

        patches.setattr(Peer, "connect", leave)
        assert table.get_many([("h", "a"), ("h", "b")]) == [b"a", b"b"]


# -------------------------------------------------------------------------------------- greenlets that are interrupted
def test_an_interrupted_meta_query_is_repeated_soon(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The greenlet of the query ends without an answer; another one asks again."""
    client = stage.client()
    client.ping()
    once(monkeypatch, MetaClient, "_outcome", interrupt)
    watch = Stopwatch()
    assert client.ping(timeout=5.0) > 0
    assert watch.seconds < 2.0


def test_an_interrupted_name_lookup_is_repeated(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The greenlet of the lookup ends at its first step."""
    asked: list[str] = []

    def look_up(self: MetaClient, name: str) -> None:
        asked.append(name)
        if len(asked) == 1:
            raise Interrupted
        self.metas.resolved(name, [stage.meta.address, dead_address()])
        for answers in list(self._calls):
            answers.wake()

    monkeypatch.setattr(MetaClient, "_look_up", look_up)
    client = stage.client(["meta.test:34601"])
    assert client.ping(timeout=5.0) > 0
    assert len(asked) >= 2


# ------------------------------------------------------------------------------------ what was started and then failed
class Refusing(dict[Any, Any]):
    """A dict that takes nothing."""

    def __setitem__(self, _key: Any, _value: Any) -> None:
        raise Interrupted


def test_the_watcher_of_an_unusable_connection_is_removed(stage: Stage) -> None:
    """Otherwise its watcher would read from the next file with the same descriptor number."""
    server = stage.server(echo)
    client = stage.client(timeout=0.3)
    client.ping()
    pool: Any = client._cluster.pool
    before = len(descriptors())
    kept, pool._by_sockaddr = pool._by_sockaddr, Refusing()
    with pytest.raises(errors.PegasusError):
        client.table("temp").get("h", "s", retry=None)
    pool._by_sockaddr = kept
    wait_until(lambda: server.links and not server.alive)
    assert len(descriptors()) <= before + 2, "the listener's side has ended, too"
    mine, other = socket.socketpair()
    gevent.spawn_later(0.02, other.sendall, b"hello")
    mine.settimeout(5.0)
    assert mine.recv(100) == b"hello"
    for sock in (mine, other):
        sock.close()
    assert client.table("temp").get("h", "works", timeout=5.0) == b"works"


# ---------------------------------------------------------------------------------------------------- paths that die
LINUX = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the options are Linux's")


def kernel_options(client: Client, server: str) -> list[int]:
    sock = socket.socket(fileno=os.dup(connection_of(client, server)._fd))
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    try:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
    finally:
        sock.close()


@LINUX
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (3.0, [1, 1, 2, 2000]),
        (12.5, [4, 4, 2, 8500]),
        # From here on the system does not accept longer times.
        (100_000.0, [32767, 32767, 2, 67_233_000]),
        (1e300, [32767, 32767, 2, 2**31 - 1]),
    ],
)
def test_the_kernel_closes_a_connection_without_acknowledgements(
    stage: Stage, seconds: float, expected: list[int]
) -> None:
    server = stage.server(echo)
    client = stage.client(path_timeout=seconds)
    client.table("temp").warm_up()
    assert kernel_options(client, server.address) == expected


@LINUX
def test_by_default_a_path_is_dead_after_three_seconds(stage: Stage) -> None:
    server = stage.server(echo)
    client = stage.client()
    client.table("temp").warm_up()
    assert kernel_options(client, server.address)[3] == 2000


@LINUX
def test_without_a_path_timeout_the_settings_of_the_system_hold(stage: Stage) -> None:
    server = stage.server(echo)
    client = stage.client(path_timeout=None)
    client.table("temp").warm_up()
    idle, _, _, user_timeout = kernel_options(client, server.address)
    assert idle > 60
    assert user_timeout == 0


def test_a_socket_that_is_not_tcp_is_not_changed() -> None:
    mine, other = socket.socketpair()
    notice_dead_paths(mine, 3.0)
    for sock in (mine, other):
        sock.close()


# -------------------------------------------------------------------- errors that the client expects of a system call
def strikes(act: Callable[[], object], error: Exception, within: str) -> None:
    """Raise an error at each opcode of a function; it must reach the caller."""
    n, fired = 1, True

    def strike() -> None:
        raise error

    while fired:
        interruption = Interruption(n, strike, place="caller", opcodes=True, within=[within])
        with interruption.armed():
            ends = None
            try:
                act()
            except Exception as raised:
                ends = raised
        fired = interruption.fired
        assert ends is (error if fired else None), (interruption.where, ends)
        n += 1
    assert n > 10 or sys.version_info >= (3, 12), "this Python reports no opcodes of a function that runs once"


def test_a_time_limit_of_the_application_is_not_taken_for_an_error_of_the_resolver() -> None:
    strikes(lambda: in_digits("127.0.0.1:34601"), TimeoutError("of a signal handler"), "in_digits")
    assert not in_digits("name.example:34601")


def test_an_error_of_a_signal_handler_is_not_taken_for_the_end_of_the_loop() -> None:
    """The watcher would stay on a descriptor that becomes the application's."""

    def make_and_stop() -> None:
        watcher = gevent.get_hub().loop.io(1, 1)
        try:
            stop(watcher)
        finally:
            watcher.close()

    strikes(make_and_stop, ValueError("of a signal handler"), "stop")


# --------------------------------------------------------------------------------------------- the limit of recursion
@pytest.mark.parametrize("verb", ["get", "incr", "ttl", "hedged get", "get with a timeout"])
def test_a_call_at_the_limit_of_the_recursion_leaves_nothing(stage: Stage, verb: str) -> None:
    stage.server(answer)
    client = stage.client(timeout=30.0, hedge=HedgePolicy() if verb == "hedged get" else None)
    table = client.table("temp")
    table.incr("h", "n")

    def call() -> object:
        if verb == "incr":
            return table.incr("h", "n")
        if verb == "ttl":
            return table.ttl("h", "s")
        return table.get("h", "s", timeout=30.0) if verb == "get with a timeout" else table.get("h", "s")

    def deep(levels: int) -> object:
        return deep(levels - 1) if levels else call()

    def room(levels: int) -> int:
        try:
            return room(levels + 1)
        except RecursionError:
            return levels

    struck = 0
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        most: Any = gevent.spawn(room, 0)
        most.join()
        for left in range(3, 40):
            for connection in client._cluster.pool.connections:
                # As after a moment without calls: the timer does not run.
                while connection.pending:
                    gevent.sleep(0.001)
                connection._rest()
            job: Any = gevent.spawn(end_of, deep, most.value - left)
            job.join()
            struck += job.value == "RecursionError"
            # The reply may still be on its way, but no caller waits for it.
            assert not any(connection.is_awaited for connection in client._cluster.pool.connections), left
    finally:
        sys.setrecursionlimit(limit)
    assert 0 < struck < 37
