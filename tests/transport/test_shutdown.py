"""Test the end of a client: close() at every moment, deletion, exit of the process, Ctrl-C."""

from __future__ import annotations

import gc
import re
import signal
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from pegasus_green import Client, Listener, RetryPolicy, errors
from pegasus_green.onebox.kdc import free_port
from pegasus_green.protocol.framing import Request, encode_reply
from pegasus_green.protocol.rrdb import ReadResponse
from tests.transport.fakes import (
    BlackHole,
    FakeServer,
    Link,
    Stage,
    answer,
    connection_of,
    dead_address,
    silent,
)
from tests.transport.scripts import finish, interrupt, run_script, start_script
from tests.waiting import Stopwatch, wait_until


def ends(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the result or the exception of a call, so that gevent prints no traceback."""
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        return error


def callers_of(call: Callable[..., Any], count: int = 20) -> list[Any]:
    return [gevent.spawn(ends, call, f"h{number}", "s") for number in range(count)]


def assert_all_closed(callers: list[Any], seconds: float = 1.5) -> None:
    """Check that every caller ends soon with its own ClientClosed."""
    watch = Stopwatch()
    gevent.joinall(callers, timeout=5)
    assert watch.seconds < seconds
    assert [type(caller.value) for caller in callers] == [errors.ClientClosed] * len(callers)
    assert len({id(caller.value) for caller in callers}) == len(callers)


@pytest.mark.parametrize("verb", ["get", "incr"])
def test_close_with_calls_in_flight(stage: Stage, verb: str) -> None:
    server = stage.server(silent)
    client = stage.client()
    table = client.table("temp")
    callers = callers_of(getattr(table, verb), 300)
    wait_until(lambda: len(server.requests) == 300)
    client.close()
    assert_all_closed(callers)
    for caller in callers:
        error = caller.value
        assert error.sent
        assert error.outcome_unknown is (verb == "incr")
        assert (error.table, error.operation) == ("temp", verb)


def test_the_outcome_of_an_unsent_call_is_known(stage: Stage) -> None:
    server = stage.server(silent)
    client = stage.client()
    table = client.table("temp")
    table.warm_up()
    caller: Any = gevent.spawn(ends, table.incr, "a", "b")
    other: Any = gevent.spawn(ends, table.incr, "c", "d")
    gevent.sleep(0)
    # The requests were appended in this pass of the hub and are not flushed yet; only the first was sent.
    client.close()
    gevent.joinall([caller, other])
    assert [caller.value.sent, caller.value.outcome_unknown] == [True, True]
    assert [other.value.sent, other.value.outcome_unknown] == [False, False]
    assert len(server.requests) <= 1


def test_close_twice_and_calls_after_it(stage: Stage) -> None:
    stage.server()
    client = stage.client()
    table = client.table("temp")
    table.set("a", "b", b"c")
    client.close()
    client.close()
    client.close(drain=1.0)
    for call in (
        lambda: table.get("a", "b"),
        lambda: table.get_many([("a", "b")]),
        lambda: table.get_async("a", "b"),
        table.warm_up,
        client.ping,
    ):
        with pytest.raises(errors.ClientClosed):
            call()
    assert repr(client) == f"<Client {stage.meta.address} closed>"


def test_close_before_first_use(stage: Stage) -> None:
    client = stage.client()
    client.close()
    with pytest.raises(errors.ClientClosed):
        client.table("temp").get("a")


def test_close_during_a_dial(stage: Stage) -> None:
    hole = stage.extra(BlackHole())
    stage.meta.primaries = [hole.address]
    client = stage.client(timeout=10.0, connect_timeout=5.0)
    callers = callers_of(client.table("temp").get)
    wait_until(lambda: client._cluster.pool.peers.get(hole.address))
    gevent.sleep(0.05)
    client.close()
    assert_all_closed(callers)


def test_close_in_the_pass_in_which_a_dial_was_spawned(stage: Stage) -> None:
    """A greenlet that is killed before it ran cannot wake its waiters."""
    stage.server()
    client = stage.client(timeout=10.0)
    client.ping()
    table = client.table("temp")
    caller: Any = gevent.spawn(ends, table.get, "a", "b")
    while not any(peer.state == "dialling" for peer in client._cluster.pool.peers.values()):
        assert not caller.dead
        gevent.sleep(0)
    client.close()
    assert_all_closed([caller])


def test_close_during_the_pause_after_a_failed_dial(stage: Stage) -> None:
    stage.meta.primaries = [dead_address()]
    client = stage.client(timeout=10.0, retry=RetryPolicy(base=5.0, cap=5.0))
    callers = callers_of(client.table("temp").get)
    gevent.sleep(0.1)
    client.close()
    assert_all_closed(callers)


def test_close_during_a_back_off(stage: Stage) -> None:
    server = stage.server(lambda link, request: link.reply(request, error="ERR_BUSY"))
    client = stage.client(timeout=20.0, retry=RetryPolicy(base=5.0, cap=5.0))
    callers = callers_of(client.table("temp").get)
    wait_until(lambda: len(server.requests) == 20)
    gevent.sleep(0.02)
    client.close()
    assert_all_closed(callers)


@pytest.mark.parametrize("meta", ["silent", "black hole", "dead"])
def test_close_during_a_refresh(stage: Stage, meta: str) -> None:
    stage.meta.delay = 30.0
    address = {"silent": lambda: stage.meta.address, "dead": dead_address}.get(
        meta, lambda: stage.extra(BlackHole()).address
    )()
    client = stage.client([address], timeout=10.0, connect_timeout=5.0)
    callers = callers_of(client.table("temp").get)
    pinger = gevent.spawn(ends, client.ping)
    gevent.sleep(0.1)
    client.close()
    assert_all_closed([*callers, pinger])


def test_close_while_waiting_for_room(stage: Stage) -> None:
    server = stage.server(silent)
    client = stage.client(max_in_flight=5, timeout=10.0)
    callers = callers_of(client.table("temp").incr)
    wait_until(lambda: len(server.requests) == 5)
    client.close()
    assert_all_closed(callers)
    assert sum(caller.value.outcome_unknown for caller in callers) == 5


def test_close_from_a_caller_and_from_the_listener(stage: Stage) -> None:
    server = stage.server(silent)
    client = stage.client(timeout=5.0)
    table = client.table("temp")
    callers = callers_of(table.get)
    wait_until(lambda: len(server.requests) == 20)

    class Closing(Listener):
        def connection_lost(self, address: str, reason: str) -> None:
            client.close()

    client.add_listener(Closing())
    server.links[0].close()
    gevent.joinall(callers, timeout=2)
    assert all(isinstance(caller.value, errors.ClientClosed) for caller in callers)


def test_close_in_the_middle_of_many(stage: Stage) -> None:
    server = stage.server(silent)
    client = stage.client(timeout=5.0)
    table = client.table("temp")
    runner: Any = gevent.spawn(ends, table.set_many, [(f"h{n}", "s", b"v") for n in range(500)], concurrency=100)
    collector: Any = gevent.spawn(table.get_many, [(f"h{n}", "s") for n in range(50)], return_errors=True)
    handle = None

    def begin() -> None:
        nonlocal handle
        handle = table.get_async("a", "b")

    wait_until(lambda: len(server.requests) >= 150)
    begin()
    client.close()
    gevent.joinall([runner, collector], timeout=3.0)
    assert isinstance(runner.value, errors.ClientClosed)
    assert all(isinstance(error, errors.ClientClosed) for error in collector.value)
    assert handle is not None
    with pytest.raises(errors.ClientClosed):
        handle.get(1.0)


# ---------------------------------------------------------------------------------------------------------------- drain
def slow(seconds: float) -> Callable[[Link, Request], None]:
    """Answer each request after its own delay."""

    def handler(link: Link, request: Request) -> None:
        gevent.spawn_later(seconds, answer, link, request)

    return handler


def test_drain_lets_calls_finish(stage: Stage) -> None:
    held: list[tuple[Link, Request]] = []
    server = stage.server(lambda link, request: held.append((link, request)))
    client = stage.client(timeout=20.0)
    table = client.table("temp")
    callers: list[Any] = [gevent.spawn(table.set, f"h{n}", "s", b"v") for n in range(20)]
    wait_until(lambda: len(server.requests) == 20)
    closing = gevent.spawn(client.close, drain=30.0)
    gevent.sleep(0)
    with pytest.raises(errors.ClientClosed):
        table.get("new")
    gevent.sleep(0.1)
    assert not closing.dead
    for link, request in held:
        answer(link, request)
    # It does not use the whole time.
    closing.get(timeout=10.0)
    gevent.joinall(callers, raise_error=True)


def test_drain_ends_calls_that_take_longer(stage: Stage) -> None:
    server = stage.server(silent)
    client = stage.client(timeout=5.0)
    callers = callers_of(client.table("temp").get)
    wait_until(lambda: len(server.requests) == 20)
    watch = Stopwatch()
    client.close(drain=0.2)
    assert watch.elapsed >= 0.2
    assert watch.seconds < 1.5
    assert_all_closed(callers)


def test_drain_counts_calls_that_are_between_two_attempts(stage: Stage) -> None:
    seen: list[Request] = []

    def busy_once(link: Link, request: Request) -> None:
        seen.append(request)
        if len(seen) == 1:
            link.reply(request, error="ERR_NOT_ENOUGH_MEMBER")
        else:
            answer(link, request)

    stage.server(busy_once)
    client = stage.client(retry=RetryPolicy(base=0.2, cap=0.2))
    caller: Any = gevent.spawn(client.table("temp").incr, "a", "b")
    wait_until(lambda: seen)
    gevent.sleep(0.02)
    client.close(drain=20.0)
    assert caller.get() == 1


def test_drain_counts_calls_that_wait_for_a_dial(stage: Stage) -> None:
    server = stage.server(port=free_port())
    server.stop()
    client = stage.client(timeout=20.0)
    caller: Any = gevent.spawn(client.table("temp").set, "a", "b", b"c")
    gevent.sleep(0.1)
    closing = gevent.spawn(client.close, drain=20.0)
    stage.extra(FakeServer(port=server.port))
    caller.get()
    closing.get()


def test_drain_that_is_killed_can_be_called_again(stage: Stage) -> None:
    server = stage.server(silent)
    client = stage.client(timeout=5.0)
    callers = callers_of(client.table("temp").get)
    wait_until(lambda: len(server.requests) == 20)
    closing = gevent.spawn(client.close, drain=10.0)
    gevent.sleep(0.02)
    closing.kill()
    with pytest.raises(errors.ClientClosed):
        client.table("temp").get("a")
    client.close()
    assert_all_closed(callers)


def test_drain_does_not_wait_for_an_abandoned_scan(stage: Stage) -> None:
    server = stage.server(silent)
    client = stage.client()
    scan: Any = gevent.spawn(next, client.table("temp").hash_scan("a", timeout=30))
    wait_until(lambda: server.requests)
    scan.kill()
    assert connection_of(client, server.address).in_flight == 1, "the reply will name a context, which is then freed"
    watch = Stopwatch()
    client.close(drain=20)
    assert watch.seconds < 2


def test_drain_of_an_idle_client_takes_no_time(stage: Stage) -> None:
    stage.server()
    client = stage.client()
    client.table("temp").set("a", "b", b"c")
    watch = Stopwatch()
    client.close(drain=5.0)
    assert watch.seconds < 1.0


# -------------------------------------------------------------------------------------------------- dropped, idle, loop
def test_dropped_client_closes_its_connections(stage: Stage) -> None:
    server = stage.server()
    client = Client([stage.meta.address], refresh_period=0.0)
    client.table("temp").set("a", "b", b"c")
    known = weakref.ref(client)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del client
        gc.collect()
        wait_until(lambda: all(link.closed for link in server.links))
    assert known() is None
    assert any("dropped without close" in str(warning.message) for warning in caught)


def test_a_dropped_unused_client_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Client(["127.0.0.1:1"])
        gc.collect()


def test_waiting_call_keeps_its_client(stage: Stage) -> None:
    stage.server(slow(0.1))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")

        def call() -> Any:
            return Client([stage.meta.address]).table("temp").get("a", "b", default=7)

        caller = gevent.spawn(call)
        for _ in range(10):
            gevent.sleep(0.01)
            gc.collect()
        assert caller.get() == 7
        gc.collect()
        gevent.sleep(0.05)


@pytest.mark.parametrize("loop", ["libev-cext", "libuv"])
def test_gevent_wait_returns_with_an_idle_client(stage: Stage, loop: str) -> None:
    """Also after abandoned calls."""
    script = """
    import gevent, sys
    from pegasus_green import Client, RequestTimeout
    from tests.waiting import Stopwatch
    client = Client([sys.argv[1]], refresh_period=0.5)
    table = client.table("temp")
    table.warm_up()
    watch = Stopwatch()
    assert gevent.wait(timeout=5), "it waited for a connection that was never used"
    table.set("a", "b", b"c")
    assert gevent.wait(timeout=5), "it waited"
    caller = gevent.spawn(table.get, "silent", "x", timeout=3)
    gevent.sleep(0.05)
    caller.kill()
    assert gevent.wait(timeout=2), "it waited for the killed call"
    assert watch.seconds < 1.5, watch.seconds
    assert table.get("a", "b") == b"c"

    scan = gevent.spawn(next, table.hash_scan("silent", timeout=30))
    gevent.sleep(0.05)
    scan.kill()
    assert gevent.wait(timeout=5), "it waited for the killed scan"
    gevent.sleep(0.6)
    assert table.get("a", "b") == b"c", "the call does not keep the loop alive"
    try:
        next(table.hash_scan("silent", timeout=1))
    except RequestTimeout:
        assert gevent.wait(timeout=0.8), "it waited for the scan that timed out"
    else:
        raise AssertionError("the scan has ended")
    """

    def choosy(link: Link, request: Request) -> None:
        if b"silent" not in request.data:
            answer(link, request)

    if loop == "libuv":
        pytest.importorskip("cffi", reason="gevent needs it for libuv")
    stage.server(choosy)
    # gevent warns of its own watchers there.
    run_script(script, stage.meta.address, warn="" if loop == "libuv" else "error", GEVENT_LOOP=loop)


# ---------------------------------------------------------------------------------------------------------- processes
def test_exit_without_close(stage: Stage) -> None:
    """The client is idle, and its refresh timer runs."""
    stage.server()
    out = run_script(
        """
        import sys
        from pegasus_green import Client
        client = Client([sys.argv[1]], refresh_period=0.2)
        client.table("temp").set("a", "b", b"c")
        print(client.table("temp").get("a", "b"))
        """,
        stage.meta.address,
        warn="",
    )
    assert out == "b'c'\n"


def test_exit_with_global_handles(stage: Stage) -> None:
    """The interpreter frees them after it has begun to finalize greenlets."""
    stage.server()
    out = run_script(
        """
        import sys
        from pegasus_green import Client
        client = Client([sys.argv[1]])
        handles = [client.table("temp").incr_async("a", str(number)) for number in range(3)]
        print([handle.get() for handle in handles])
        """,
        stage.meta.address,
        warn="",
    )
    assert out == "[1, 1, 1]\n"


def test_exit_with_calls_in_flight(stage: Stage) -> None:
    """Greenlets wait for replies, a dial, a refresh and a pause when the main greenlet ends."""
    stage.server(lambda link, request: None if b"silent" in request.data else answer(link, request))
    run_script(
        """
        import gevent, sys
        from pegasus_green import Client
        client = Client([sys.argv[1]])
        table = client.table("temp")
        table.set("a", "b", b"c")
        waiting = [gevent.spawn(table.get, f"silent{n}", "s") for n in range(50)]
        waiting += [gevent.spawn(Client([sys.argv[2]]).table("temp").get, "a", "b") for n in range(3)]
        handles = [table.get_async(f"silent{n}", "s") for n in range(5)]
        many = gevent.spawn(table.get_many, [(f"silent{n}", "s") for n in range(5)])
        gevent.sleep(0.1)
        """,
        stage.meta.address,
        dead_address(),
        warn="",
    )


def test_exit_by_sys_exit_in_a_greenlet_and_by_an_error(stage: Stage) -> None:
    stage.server(silent)
    status, _, err = finish(
        start_script(
            """
            import gevent, sys
            from pegasus_green import Client
            table = Client([sys.argv[1]]).table("temp")
            gevent.spawn_later(0.2, sys.exit, 7)
            table.get("a", "b", timeout=10)
            """,
            stage.meta.address,
            warn="",
        )
    )
    assert (status, err) == (7, "")


@pytest.mark.parametrize("where", ["main", "greenlets", "dial", "refresh", "many"])
def test_ctrl_c_raises_in_the_main_greenlet_and_ends_cleanly(stage: Stage, where: str) -> None:
    """KeyboardInterrupt is raised and caught in the main greenlet."""
    stage.server(silent)
    if where == "dial":
        stage.meta.primaries = [stage.extra(BlackHole()).address]
    if where == "refresh":
        stage.meta.delay = 30.0
    process = start_script(
        """
        import gevent, sys
        from pegasus_green import Client, PegasusError
        def ends(*keys):
            try:
                table.get(*keys)
            except PegasusError as error:
                return error
        with Client([sys.argv[1]], timeout=30, connect_timeout=20) as client:
            table = client.table("temp")
            others = [gevent.spawn(ends, f"h{n}", "s") for n in range(10)]
            try:
                print("waiting", flush=True)
                if sys.argv[2] == "greenlets":
                    gevent.joinall(others)
                elif sys.argv[2] == "many":
                    table.get_many([(f"h{n}", "s") for n in range(10)])
                else:
                    table.get("a", "b")
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            if where := [c.in_flight for c in client._cluster.pool.connections if c.in_flight > 11]:
                print("left behind", where)
        gevent.joinall(others, timeout=2)
        print(sorted({type(other.value).__name__ for other in others}))
        """,
        stage.meta.address,
        where,
    )
    interrupt(process)
    status, out, err = finish(process)
    assert (status, out.splitlines()) == (0, ["interrupted", "['ClientClosed']"]), (out, err)
    # gevent prints the interrupt, with a traceback if it came while a greenlet ran.
    assert re.search(r"^KeyboardInterrupt\n[-0-9TZ:]+", err, re.MULTILINE), err
    assert not re.search(r"^\w+(?:Error|Exception)\b", err, re.MULTILINE), err


def test_an_uncaught_ctrl_c_prints_one_traceback(stage: Stage) -> None:
    """The exit status is that of Ctrl-C."""
    stage.server(silent)
    process = start_script(
        """
        import gevent, sys
        from pegasus_green import Client
        table = Client([sys.argv[1]]).table("temp")
        others = [gevent.spawn(table.get, f"h{n}", "s", timeout=30) for n in range(10)]
        print("waiting", flush=True)
        table.get("a", "b", timeout=30)
        """,
        stage.meta.address,
        warn="",
    )
    interrupt(process)
    status, _, err = finish(process)
    assert status == -signal.SIGINT
    assert err.count("Traceback") == 1, err
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert "LoopExit" not in err


def test_closed_client_leaves_no_pending_entry(stage: Stage) -> None:
    server = stage.server(silent)
    client = stage.client()
    callers = callers_of(client.table("temp").get, 600)
    wait_until(lambda: len(server.requests) == 600)
    connection = connection_of(client, server.address)
    client.close()
    gevent.joinall(callers)
    assert connection.pending == {}
    assert not client._cluster.pool.connections
    assert not client._cluster.pool._greenlets


def test_drain_waits_for_handles_that_have_no_connection_yet(stage: Stage) -> None:
    stage.server()
    client = stage.client()
    table = client.table("temp")
    handles = [table.set_async("h", str(n), b"v") for n in range(3)]
    client.close(drain=2.0)
    assert [handle.get() for handle in handles] == [None] * 3


def test_close_ends_a_call_that_was_refused_in_the_same_pass(stage: Stage) -> None:
    """Otherwise it would wait for new routes, which never arrive."""
    held: list[Request] = []

    def handler(link: Link, request: Request) -> None:
        held.append(request)
        if len(held) == 2:
            refusal = encode_reply(held[1].name, held[1].seqid, "ERR_INVALID_STATE")
            link.send(encode_reply(held[0].name, held[0].seqid, result=ReadResponse(value=b"x").encode()) + refusal)

    stage.server(handler)
    client = stage.client(timeout=5.0, retry=RetryPolicy(base=2.0, cap=4.0))
    table = client.table("temp")
    table.warm_up()

    def first() -> None:
        table.get("h", "a")
        client.close()

    watch = Stopwatch()
    callers: list[Any] = [gevent.spawn(first), gevent.spawn(ends, table.get, "h", "b")]
    gevent.joinall(callers)
    assert isinstance(callers[1].value, errors.ClientClosed)
    assert watch.seconds < 1.0
