"""Test one client in many native threads: each thread has its own connections, which end with it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent._hub_local import get_hub_if_exists, set_hub
from gevent.hub import Hub
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from pegasus_green import Client, Pegasus, ScanOptions, Table, errors
from pegasus_green.cluster import threads
from pegasus_green.onebox import Onebox
from pegasus_green.recipes import Leader, Once, RateLimiter, Singleflight
from pegasus_green.transport import connection, notices
from tests.leaks import descriptors
from tests.transport.fakes import FakeServer, Stage, answer, silent
from tests.transport.scripts import run_script
from tests.waiting import wait_until


def in_thread(act: Callable[..., Any], *args: Any) -> Any:
    """Return what act returns or raises in a native thread; this thread's hub goes on meanwhile."""

    def run() -> Any:
        try:
            return act(*args)
        except Exception as error:  # handed over to the other thread
            return error

    pool = ThreadPool(1)
    try:
        return pool.spawn(run).get(timeout=20)
    finally:
        pool.kill()


def in_native_thread(act: Callable[[], Any]) -> Any:
    """Return what act returns or raises in the main greenlet of a thread without a hub.

    There the compiled core makes calls, too.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(act())
        except Exception as error:  # handed over to the other thread
            results.append(error)

    get_original("_thread", "start_new_thread")(run, ())
    wait_until(lambda: results)
    return results[0]


VERBS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "get": (lambda table: table.get("a", "b"), b"c"),
    "set": (lambda table: table.set("x", "y", b"z"), None),
    "get_many": (lambda table: table.get_many([("a", "b")]), [b"c"]),
    "get_async": (lambda table: table.get_async("a", "b").get(), b"c"),
    "warm_up": (lambda table: table.warm_up(), 1),
    "ping": (lambda table: table.client.ping() > 0, True),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_works_in_another_thread(stage: Stage, verb: str) -> None:
    stage.server()
    table = stage.table()
    table.set("a", "b", b"c")
    run, expected = VERBS[verb]
    assert in_thread(run, table) == expected
    assert table.get("a", "b") == b"c"


def test_several_threads_use_one_client_at_the_same_time(stage: Stage) -> None:
    """Four threads with fifty greenlets get their own values, and stats() counts all calls."""
    server = stage.server()
    client = stage.client()
    table = client.table("temp")
    table.set("a", "b", b"c")

    def job(number: int) -> int:
        for step in range(20):
            table.set(f"h{number}", str(step), b"%d/%d" % (number, step))
        return sum(table.get(f"h{number}", str(step)) == b"%d/%d" % (number, step) for step in range(20))

    pool = ThreadPool(4)
    try:
        jobs = [pool.spawn(job, number) for number in range(8)]
        callers = [gevent.spawn(table.set, f"main{n}", "s", b"v") for n in range(50)]
        assert [result.get(timeout=20) for result in jobs] == [20] * 8
        gevent.joinall(callers, raise_error=True)
        assert client.stats()["tables"]["temp"]["calls"] == 1 + 8 * 40 + 50
    finally:
        pool.kill()
    assert 2 <= len(server.links) <= 5


def test_a_new_thread_asks_no_meta_server(stage: Stage) -> None:
    stage.server()
    table = stage.table()
    table.set("a", "b", b"c")
    before = len(stage.meta.requests)
    assert in_thread(table.get, "a", "b") == b"c"
    assert len(stage.meta.requests) == before


def test_the_variant_of_a_handle_in_another_thread_is_kept_between_calls(stage: Stage) -> None:
    stage.server()
    table = stage.client().table("temp", max_rate=1000.0)
    table.get("h")

    def kept() -> bool:
        variant = weakref.ref(table._dispatcher)
        table.get("h")
        return variant() is table._dispatcher is not table._home

    assert in_thread(kept) is True


def test_short_lived_threads_leave_no_connection_and_no_hub(stage: Stage) -> None:
    """gevent alone leaves two descriptors for each thread."""
    server = stage.server()
    table = stage.table()
    table.set("a", "b", b"c")
    assert in_thread(table.get, "a", "b") == b"c"
    before = len(descriptors())
    for _ in range(30):
        assert in_thread(table.get, "a", "b") == b"c"
    gc.collect()
    wait_until(lambda: len(server.alive) == 1)
    assert len(descriptors()) <= before + 4
    assert len(table.client._threads.all) == 1
    assert table.client.stats()["tables"]["temp"]["calls"] == 32


@pytest.mark.leaks_ok  # gevent leaves descriptors of the loops of the application
@pytest.mark.parametrize("ends", ["by itself", "after the application destroyed its hub", "with a hub of gevent"])
def test_short_lived_threads_leave_no_memory(stage: Stage, ends: str) -> None:
    """gevent frees neither a hub that has ended nor its watchers, so the client's objects must not depend on them."""
    stage.server()
    table = stage.table()
    table.set("a", "b", b"c")

    def use() -> bytes | None:
        if ends == "by itself":
            return table.get("a", "b")
        gevent.sleep(0)
        found = table.get("a", "b")
        if ends == "after the application destroyed its hub":
            gevent.get_hub().destroy(destroy_loop=True)
        return found

    run = in_thread if ends == "with a hub of gevent" else in_native_thread

    def level() -> tuple[int, int, int]:
        for _ in range(8):
            assert run(use) == b"c"
        wait_until(lambda: len(table.client._threads.all) == 1)
        gc.collect()
        kept = [type(kept) for kept in gc.get_objects()]
        buffers = sum(chunk() is not None for chunk in connection._chunks.values())
        return kept.count(Hub) if ends == "by itself" else 0, kept.count(connection.Connection), buffers

    before = level()
    after = level()
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)


RECIPES: dict[str, Callable[[Table[Any]], Any]] = {
    "hit": lambda table: RateLimiter(table, "l", limit=10**6, period=60, algorithm="sliding_window").hit(),
    "once": lambda table: Once(table, "o").run("key", lambda: b"v"),
    "singleflight": lambda table: Singleflight(table, "f", ttl=60).get("key", lambda: b"v"),
    "leader": lambda table: Leader(table, "e", sleep=0.01).run(lambda: b"v"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_makes_no_hub_that_outlives_its_thread(recipe: str) -> None:
    """The client destroys the hubs that it has made, so it must make the hub before gevent does."""

    def run() -> bool:
        RECIPES[recipe](table)
        owned = threads._owned_hub()
        return owned is not None and owned.hub is get_hub_if_exists()

    with Onebox(tables={"temp": 1}) as box, Client(box.meta_addresses) as client:
        table = client.table("temp")
        assert in_native_thread(run) is True


def test_the_close_of_a_scanner_in_another_thread_makes_no_hub() -> None:
    with Onebox(tables={"temp": 1}) as box, Client(box.meta_addresses) as client:
        table = client.table("temp")
        table.multi_set("a", {"1": b"v", "2": b"w"})
        rows = table.scan(batch_size=1)
        assert next(rows).value == b"v"

        def close() -> Any:
            rows.close()
            return get_hub_if_exists()

        assert in_native_thread(close) is None


def test_a_thread_that_gets_routes_from_another_thread_forgets_servers(stage: Stage) -> None:
    old, new = stage.server(), stage.extra(FakeServer())
    table = stage.table(refresh_period=0.2, refresh_interval=0.01)
    table.get("a", "b")

    def run() -> bool:
        assert table.get("a", "b") is None
        peers = table.client._threads.here().pool.peers
        stage.meta.primaries = [new.address]
        wait_until(lambda: new.address in peers)
        assert table.get("a", "b") is None
        wait_until(lambda: old.address not in peers)
        return new.address in peers

    pool = ThreadPool(1)
    try:
        other = pool.spawn(run)
        while not other.ready():
            # The queries of this thread make those of the other one unnecessary.
            table._dispatcher.routes.request()
            gevent.sleep(0.02)
        assert other.get()
    finally:
        pool.kill()
    wait_until(lambda: not old.alive)


@pytest.mark.parametrize("kind", ["a new thread", "a thread that has called before"])
def test_a_call_uses_the_routes_that_another_thread_has_learnt(stage: Stage, kind: str) -> None:
    """Meanwhile the first thread blocks, so its event loop takes no routes."""
    old, new = stage.server(silent), stage.extra(FakeServer())
    client = stage.client(refresh_interval=0.01, silence=0.1)
    table = client.table("temp")
    block = get_original("_thread", "allocate_lock")()
    ends: list[Any] = []

    def first() -> None:
        table.client._threads.here().bind()
        old.handler = answer
        table.set("a", "b", b"old")
        old.handler = silent
        ends.append("ready")
        # A blocked thread: its event loop does not run.
        block.acquire()
        if kind != "a new thread":
            ends.append(table.incr("a", "n", timeout=5.0))

    block.acquire()
    get_original("_thread", "start_new_thread")(first, ())
    wait_until(lambda: ends)
    stage.meta.primaries, stage.meta.ballots = [new.address], {0: 4}
    assert in_thread(lambda: table.get("a", "b", timeout=5.0)) is None
    queries = len(stage.meta.queries)
    if kind == "a new thread":
        assert in_native_thread(lambda: table.incr("a", "n", timeout=5.0)) is not None
        block.release()
    else:
        block.release()
        wait_until(lambda: len(ends) == 2)
    assert new.names()["incr"] == 1
    assert old.names()["incr"] == 0
    assert len(stage.meta.queries) == queries


def test_the_event_loop_after_a_destroyed_one_ends_with_its_thread(stage: Stage) -> None:
    """The client has made it, like the first one."""
    stage.server()
    table = stage.table()

    def run() -> Any:
        table.set("a", "b", b"c")
        gevent.get_hub().destroy(destroy_loop=True)
        assert table.get("a", "b") == b"c"
        return get_hub_if_exists()

    loop = in_native_thread(run).loop
    wait_until(lambda: loop is None or not getattr(loop, "ptr", None))


@pytest.mark.parametrize("leave", ["break", "with", "close", "close and drain", "destroy", "end of the thread"])
def test_no_scan_context_stays_on_a_server_when_a_scan_and_its_client_or_thread_end(leave: str) -> None:
    with Onebox(tables={"temp": 4}) as box, Client(box.meta_addresses) as other:
        other.table("temp").set_many([(f"k{n}", "s", "v") for n in range(200)])

        def contexts() -> int:
            replicas = [replica for server in box.servers for replica in server.replicas.values()]
            return sum(len(replica.engine.contexts._live) for replica in replicas)

        def run() -> None:
            client = other if leave == "end of the thread" else Client(box.meta_addresses)
            table = client.table("temp")
            if leave == "with":
                with table.scan(batch_size=5) as rows:
                    next(rows)
            elif leave.startswith("close"):
                rows = table.scan(batch_size=5)
                next(rows)
                rows.close()
            else:
                for _ in table.scan(batch_size=5):
                    break
            if leave == "destroy":
                gevent.get_hub().destroy(destroy_loop=True)
            elif client is not other:
                client.close(drain=1.0 if "drain" in leave else 0.0)

        before = contexts()
        in_native_thread(run)
        wait_until(lambda: contexts() == before)


@pytest.mark.parametrize("ends", ["the thread", "the event loop"])
def test_requests_that_will_never_be_sent_leave_their_turns_to_others(stage: Stage, ends: str) -> None:
    stage.server()
    client = stage.client(timeout=30.0)
    table = client.table("temp", max_rate=2.0)
    client.table("temp").set("a", "b", b"c")

    def fill() -> None:
        # The client makes the event loop, and ends it with the thread.
        client.table("temp").get("a", "b")
        for _ in range(20):
            gevent.spawn(table.get, "a", "b")
        gevent.sleep(0.01)
        if ends == "the event loop":
            gevent.get_hub().destroy(destroy_loop=True)

    in_native_thread(fill)
    wait_until(lambda: len(client._threads.all) == 1 or ends == "the event loop")
    assert table.get("a", "b", timeout=4.0) == b"c"


def test_a_dead_server_is_a_warning_once_for_all_threads(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    server = stage.server()
    table = stage.client().table("temp")
    table.warm_up()
    server.stop()
    with caplog.at_level("INFO", "pegasus_green.connection"):
        for _ in range(5):
            assert isinstance(in_native_thread(lambda: table.get("a", "b", timeout=0.1)), errors.PegasusError)
        lines = [record for record in caplog.records if "cannot connect" in record.getMessage()]
        assert [record.levelname for record in lines].count("WARNING") == 1
        assert len(lines) <= notices.BURST + 1


def test_log_lines_of_a_thread_that_ends_are_written(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.server()
    table = stage.table()

    def work() -> None:
        table.get("a", "b")
        table._dispatcher.notices.warning("kind", "a line of a thread that ends")

    assert in_native_thread(work) is None
    wait_until(lambda: "a line of a thread that ends" in caplog.messages)


def test_close_from_another_thread(stage: Stage) -> None:
    """close() returns at once; the waiting calls of this thread get ClientClosed."""
    server = stage.server(silent)
    client = stage.client()
    table = client.table("temp")

    def call(number: int) -> Any:
        try:
            return table.get(f"h{number}", "s", timeout=20.0)
        except errors.ClientClosed as error:
            return type(error)

    callers = [gevent.spawn(call, number) for number in range(20)]
    wait_until(lambda: len(server.requests) == 20)
    assert in_thread(client.close) is None
    gevent.joinall(callers, timeout=10)
    assert [caller.value for caller in callers] == [errors.ClientClosed] * 20
    assert isinstance(in_thread(table.get, "a", "b"), errors.ClientClosed)
    with pytest.raises(errors.ClientClosed):
        table.get("a", "b")


def test_drain_from_another_thread_waits_for_calls_of_all_threads(stage: Stage) -> None:
    server = stage.server(lambda link, request: gevent.spawn_later(1.0, link.value, request, b"c"))
    client = stage.client()
    table = client.table("temp")
    callers = [gevent.spawn(table.get, f"h{n}", "s") for n in range(20)]
    wait_until(lambda: len(server.requests) == 20)
    assert in_thread(lambda: client.close(drain=10.0)) is None
    gevent.joinall(callers, raise_error=True)
    assert [caller.value for caller in callers] == [b"c"] * 20


def test_drain_from_a_thread_without_a_hub_makes_none(stage: Stage) -> None:
    """Nobody would destroy this hub at the end of the thread."""
    server = stage.server(lambda link, request: gevent.spawn_later(0.1, link.value, request, b"c"))
    client = stage.client()
    caller = gevent.spawn(client.table("temp").get, "h", "s")
    wait_until(lambda: server.requests)

    def drain() -> Any:
        client.close(drain=10.0)
        return get_hub_if_exists()

    assert in_native_thread(drain) is None
    assert caller.get() == b"c"


def test_handles_and_scanners_belong_to_a_thread(stage: Stage) -> None:
    stage.server(silent)
    table = stage.table()
    table.warm_up()
    handle = table.get_async("a", "b", timeout=5.0)
    error = in_thread(handle.get)
    assert isinstance(error, errors.WrongThread)
    assert isinstance(error, RuntimeError)
    assert "HINT: clients, tables and mappings work in any thread" in str(error)
    assert isinstance(in_thread(next, table.scan()), errors.WrongThread)


def test_another_thread_gets_no_result_and_no_row_that_has_arrived() -> None:
    with Onebox(tables={"temp": 1}) as box, Client(box.meta_addresses) as client:
        table = client.table("temp")
        table.multi_set("a", {"1": b"v", "2": b"w", "3": b"x"})
        handle = table.get_async("a", "1")
        gevent.wait([handle])
        assert isinstance(in_thread(handle.get), errors.WrongThread)
        assert isinstance(in_thread(handle.rawlink, print), errors.WrongThread)
        assert isinstance(in_thread(gevent.wait, [handle]), errors.WrongThread)
        assert handle.get() == b"v"
        for rows in (
            table.scan(batch_size=2),
            table.scan(batch_size=2, parallel=2),
            table.scanners(1, batch_size=2)[0],
        ):
            assert next(rows).value == b"v"
            assert isinstance(in_thread(next, rows), errors.WrongThread)
            assert isinstance(in_thread(list, rows), errors.WrongThread)
            assert [row.value for row in rows] == [b"w", b"x"]
            assert isinstance(in_thread(next, rows), errors.WrongThread)


def test_another_thread_gets_no_row_of_a_scanner_of_the_documented_api() -> None:
    with Onebox(tables={"temp": 1}) as box:
        client = Pegasus(box.meta_addresses, "temp")
        assert client.init()
        client.multi_set("a", {"1": b"v", "2": b"w"})
        for rows in (
            client.get_scanner("a", "", "", ScanOptions()),
            client.get_unordered_scanners(1, ScanOptions())[0],
        ):
            assert rows.get_next() == ((b"a", b"1"), b"v")
            assert isinstance(in_thread(rows.get_next), errors.WrongThread)
            assert rows.get_next() == ((b"a", b"2"), b"w")
        client.close()


def test_a_handle_whose_event_loop_is_destroyed_ends(stage: Stage) -> None:
    """The handle of a call with a greenlet, and of one without, in a thread of its own."""
    stage.server(silent)
    client = stage.client()

    def use() -> list[type]:
        table = client.table("temp")
        table.warm_up()
        handles: list[Any] = [table.get_async("a", "b", timeout=60.0), table.multi_get_async("a", ["b"], timeout=60.0)]
        gevent.sleep(0.05)
        gevent.get_hub().destroy()
        ended = []
        for handle in handles:
            with pytest.raises(errors.PegasusError) as raised:
                handle.get(timeout=15.0)
            ended.append(type(raised.value))
        return ended

    assert in_thread(use) == [errors.PegasusError, errors.PegasusError]


def test_repr_and_stats_are_allowed_in_every_thread(stage: Stage) -> None:
    stage.server()
    client = stage.client()
    client.table("temp").set("a", "b", b"c")
    assert in_thread(client.stats) == client.stats()
    assert in_thread(repr, client) == repr(client)


def test_a_thousand_threads_cause_no_warning(stage: Stage) -> None:
    """The threads are native threads of the standard library; stderr stays empty."""
    stage.server()
    out = run_script(
        """
        import os, sys, threading
        from pegasus_green import Client
        client = Client([sys.argv[1]])
        table = client.table("temp")
        table.set("a", "b", b"c")
        good = []
        def use():
            good.append(table.get("a", "b") == b"c")
        def rounds(count):
            for _ in range(count):
                started = [threading.Thread(target=use) for _ in range(10)]
                [thread.start() for thread in started]
                [thread.join() for thread in started]
        rounds(2)
        before = len(os.listdir("/proc/self/fd"))
        rounds(98)
        print(len(good), all(good), len(os.listdir("/proc/self/fd")) - before)
        client.close()
        """,
        stage.meta.address,
        patched=False,
    )
    assert out == "1000 True 0\n"


def test_a_thread_that_ends_creates_no_second_hub(stage: Stage) -> None:
    """Its hub ends inside the callback that reads replies, which must not look for another hub to query routes."""
    server = stage.server()
    table = stage.table()

    alone: list[bool] = []

    def use() -> None:
        table.set("a", "b", b"c")
        # Python has ended the thread-local of gevent first.
        set_hub(None)  # type: ignore[arg-type]
        del threads._owned_hubs.hub
        alone.append(get_hub_if_exists() is None)

    get_original("_thread", "start_new_thread")(use, ())
    wait_until(lambda: bool(alone))
    assert alone == [True]
    wait_until(lambda: not server.alive)
    assert len(table.client._threads.all) == 1


@pytest.mark.skipif(not descriptors(), reason="the system does not list the descriptors of a process")
def test_short_threads_that_resolve_names_leave_no_descriptor_open(stage: Stage) -> None:
    """gevent waits at the end of a hub for the threads that resolve its names. That must not make another hub."""
    server = stage.server()
    stage.meta.primaries = [f"localhost:{server.port}"]
    table = stage.table()
    table.set("a", "b", b"c")

    def level() -> int:
        for _ in range(5):
            assert in_native_thread(lambda: table.get("a", "b")) == b"c"
        wait_until(lambda: len(server.alive) == 1)
        return len(descriptors())

    before = level()
    assert level() < before + 5


@pytest.mark.parametrize("hub_of_the_thread", ["none", "destroyed"])
def test_a_thread_without_free_descriptors_for_its_loop_gets_an_error(stage: Stage, hub_of_the_thread: str) -> None:
    """libev would try again for ever, and block the thread."""
    stage.server()
    out = run_script(
        """
        import _thread, gevent, os, resource, sys, time
        from gevent.monkey import get_original
        from pegasus_green import Client, PegasusError
        client = Client([sys.argv[1]])
        table = client.table("temp")
        table.set("a", "b", b"c")
        seen = []
        def use():
            if sys.argv[2] == "destroyed":
                table.get("a", "b")
                gevent.get_hub().destroy(destroy_loop=True)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 9, limits[1]))
            taken = []
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
            try:
                table.get("a", "b", timeout=0.5)
            except PegasusError as error:
                seen.append(f"{type(error).__name__}: {error}".split("[")[0])
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in taken:
                os.close(descriptor)
            seen.append(table.get("a", "b"))
            hub = gevent.get_hub()
            if sys.argv[2] == "destroyed":
                hub.destroy(destroy_loop=True)
        get_original("_thread", "start_new_thread")(use, ())
        # The interpreter must not end while the thread destroys its hub: greenlet crashes if it does.
        while len(seen) < 2 or len(os.listdir("/proc/self/task")) > 1:
            gevent.sleep(0.01)
        print(*seen)
        client.close()
        """,
        stage.meta.address,
        hub_of_the_thread,
    )
    assert out == "ConnectFailed: no free descriptors for the event loop of this thread:  b'c'\n"
