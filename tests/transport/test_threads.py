"""One client belongs to one thread: any other gets WrongThread, at once, and nobody's loop is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.threadpool import ThreadPool

from pegasus_green import Client, errors
from tests.transport.fakes import Stage, silent, wait_until
from tests.transport.scripts import run_script


def in_thread(act: Callable[..., Any], *args: Any) -> Any:
    """Return what act returns or raises in a native thread; this thread's hub goes on meanwhile."""

    def run() -> Any:
        try:
            return act(*args)
        except Exception as error:  # handed over, and looked at there
            return error

    pool = ThreadPool(1)
    try:
        return pool.spawn(run).get(timeout=10)
    finally:
        pool.kill()


VERBS: dict[str, Callable[[Any], Any]] = {
    "get": lambda table: table.get("a", "b"),
    "set": lambda table: table.set("a", "b", b"c"),
    "incr": lambda table: table.incr("n", "n"),
    "get_many": lambda table: table.get_many([("a", "b")]),
    "get_async": lambda table: table.get_async("a", "b"),
    "multi_get": lambda table: table.multi_get("a"),
    "scan": lambda table: list(table.scan()),
    "warm_up": lambda table: table.warm_up(),
    "ping": lambda table: table.client.ping(),
    "close": lambda table: table.client.close(),
    "drain": lambda table: table.client.close(drain=1.0),
}


@pytest.mark.parametrize("verb", VERBS)
def test_another_thread_gets_wrong_thread(stage: Stage, verb: str) -> None:
    server = stage.server()
    client = stage.client()
    table = client.table("temp")
    table.set("a", "b", b"c")
    before = len(server.requests)
    error = in_thread(VERBS[verb], table)
    assert isinstance(error, errors.WrongThread)
    assert isinstance(error, RuntimeError)
    assert "HINT: a gevent hub belongs to one thread" in str(error)
    # Nothing was sent, nothing is left, and the owner goes on.
    assert len(server.requests) == before
    assert table.get("a", "b") == b"c"
    assert all(connection.in_flight == 0 for connection in client._cluster.pool.connections)


def test_calls_in_flight_while_another_thread_tries(stage: Stage) -> None:
    server = stage.server(lambda link, request: gevent.spawn_later(0.3, link.value, request, b"c"))
    client = stage.client()
    table = client.table("temp")
    callers = [gevent.spawn(table.get, f"h{n}", "s") for n in range(50)]
    wait_until(lambda: len(server.requests) == 50)
    for verb in ("get", "close", "get_many"):
        assert isinstance(in_thread(VERBS[verb], table), errors.WrongThread)
    gevent.joinall(callers, raise_error=True)
    assert [caller.value for caller in callers] == [b"c"] * 50


def test_looking_is_allowed_from_everywhere(stage: Stage) -> None:
    stage.server()
    client = stage.client()
    client.table("temp").set("a", "b", b"c")
    assert in_thread(client.stats) == client.stats()
    assert in_thread(repr, client) == repr(client)


def test_first_call_decides_whose_it_is(stage: Stage) -> None:
    """Made here, used there: it is the other thread's, which must close it."""
    stage.server()
    client = stage.client()
    table = client.table("temp")

    def use() -> Any:
        table.set("a", "b", b"c")
        try:
            return table.get("a", "b")
        finally:
            client.close()

    assert in_thread(use) == b"c"
    with pytest.raises(errors.ClientClosed):
        table.get("a", "b")


def test_a_client_of_its_own_in_each_thread(stage: Stage) -> None:
    """The recipe of docs/fork-and-threads.md: work that blocks goes to a threadpool, with a client for each job."""
    server = stage.server()
    metas = [stage.meta.address]
    table = stage.table()

    def job(number: int) -> int:
        with Client(metas) as client:
            own = client.table("temp")
            for step in range(20):
                own.set(f"h{number}", str(step), b"v")
            return sum(own.get(f"h{number}", str(step)) == b"v" for step in range(20))

    pool = ThreadPool(4)
    try:
        jobs = [pool.spawn(job, number) for number in range(8)]
        callers = [gevent.spawn(table.set, f"main{n}", "s", b"v") for n in range(50)]
        assert [result.get(timeout=20) for result in jobs] == [20] * 8
        gevent.joinall(callers, raise_error=True)
    finally:
        pool.kill()
    wait_until(lambda: len(server.alive) == 1)
    assert len(server.links) == 9


def test_thread_that_ends_without_close(stage: Stage) -> None:
    """Its loop is gone with it: dropping the client then warns, and neither fails nor hangs."""
    stage.server(silent)
    out = run_script(
        """
        import gc, os, sys, time, warnings
        from gevent.threadpool import ThreadPool
        from pegasus_green import Client, RequestTimeout
        kept = []
        def use():
            client = Client([sys.argv[1]])
            kept.append(client)
            client.table("temp").warm_up()
            try:
                client.table("temp").get("a", "b", timeout=0.1)
            except RequestTimeout:
                return "timeout"
        pool = ThreadPool(1)
        print(pool.spawn(use).get())
        pool.kill()
        # greenlet crashes when a thread with a hub is still ending while the interpreter ends.
        while os.path.isdir("/proc/self/task") and len(os.listdir("/proc/self/task")) > 1:
            time.sleep(0.01)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del kept[:]
            gc.collect()
        print([str(warning.message) for warning in caught])
        """,
        stage.meta.address,
        warn="",
    )
    assert out == "timeout\n['a pegasus_green client was dropped without close()']\n"


def test_native_threads_beside_the_owner(stage: Stage) -> None:
    """Twenty threads try for a second while the owner works; the process ends well."""
    stage.server()
    out = run_script(
        """
        import gevent, sys, time
        from gevent import monkey
        from pegasus_green import Client, WrongThread
        start = monkey.get_original("_thread", "start_new_thread")
        sleep = monkey.get_original("time", "sleep")
        client = Client([sys.argv[1]])
        table = client.table("temp")
        table.set("a", "b", b"c")
        wrong, other, done = [], [], []
        def intrude():
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                for call in (table.get, table.set_async, client.close):
                    try:
                        call(*{"get": ("a", "b"), "close": ()}.get(call.__name__, ("a", "b", b"c")))
                    except WrongThread:
                        wrong.append(1)
                    except BaseException as error:
                        other.append(repr(error))
                    else:
                        other.append("no error")
                sleep(0.01)
            done.append(1)
        for _ in range(20):
            start(intrude, ())
        good = 0
        while len(done) < 20:
            good += table.get("a", "b") == b"c"
            gevent.sleep(0.001)
        print(bool(wrong), other[:3], good > 50)
        client.close()
        """,
        stage.meta.address,
        warn="",
    )
    assert out == "True [] True\n"
