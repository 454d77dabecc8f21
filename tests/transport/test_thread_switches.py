"""Test what native threads do to each other between two steps of the client. Each test forces the thread switch."""

from __future__ import annotations

import gc
import linecache
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest

from pegasus_green import Client, Listener, errors
from pegasus_green.cluster.dispatcher import Cluster
from pegasus_green.cluster.offers import Offers
from pegasus_green.cluster.threads import Threads
from pegasus_green.shared import shared_client
from tests.transport.fakes import Stage, silent
from tests.transport.scripts import run_script
from tests.transport.test_threads import in_native_thread, in_thread
from tests.waiting import wait_until


class Before:
    """Runs a function once in this thread, before a line of another function is executed."""

    def __init__(self, function: Any, act: Callable[[], object], *, line: int = 0, text: str = "") -> None:
        self._code, self._act, self._line, self._text = function.__code__, act, line, text
        self.ran = False

    def __enter__(self) -> None:
        self._known = sys.gettrace()
        sys.settrace(self._enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._known)

    def _enter(self, frame: Any, _event: str, _argument: object) -> Any:
        return self._step if frame.f_code is self._code else None

    def _step(self, frame: Any, event: str, _argument: object) -> Any:
        here = self._text and self._text in linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not self.ran and (here or frame.f_lineno == self._line):
            self.ran = True
            sys.settrace(None)
            self._act()
        return self._step


def has_one(threads: Any) -> bool:
    """Tell whether one thread is left in a client."""
    return len(threads.all) == 1


def lines_of(function: Any) -> list[int]:
    return sorted({line for _, _, line in function.__code__.co_lines() if line} - {function.__code__.co_firstlineno})


def test_a_call_within_the_first_call_of_a_thread(stage: Stage) -> None:
    """A signal handler or a finalizer makes it, before any line of the join. The thread stays in the client."""
    stage.server()
    for line in lines_of(Threads.here):
        table = stage.table()
        with Before(Threads.here, partial(table.set, "n", "s", b"v"), line=line):
            table.set("a", "b", b"c")
        gc.collect()
        for _ in range(2):
            assert in_thread(table.get, "a", "b") == b"c"
            assert table.get("a", "b") == b"c"
        table.client.close()


def test_a_call_within_the_first_call_of_a_second_thread(stage: Stage) -> None:
    """As before, in a thread whose hub the client makes."""
    stage.server()
    for line in lines_of(Threads.here):
        table = stage.table()
        table.set("a", "b", b"c")

        def use(table: Any = table, line: int = line) -> list[Any]:
            with Before(Threads.here, lambda: table.get("n", "s"), line=line):
                table.get("a", "b")
            return [table.get("a", "b"), len(table.client._threads.all)]

        assert in_thread(use) == [b"c", 2]
        threads = table.client._threads
        wait_until(partial(has_one, threads))
        assert table.get("a", "b") == b"c"
        table.client.close()


FINALIZERS = """
    import os, sys, threading, time
    from pegasus_green import Client
    client = Client([sys.argv[1]], refresh_period=0)
    table = client.table("temp")
    table.set("a", "b", b"c")
    joined = []
    class Late:
        def __del__(self):
            joined.append(getattr(client._threads._local, "member", None) is None and table.get("a", "b"))
    local, first = threading.local(), sys.argv[2] == "first"
    natives = []
    def use():
        natives.append(threading.get_native_id())
        if first: local.late = Late()
        table.get("a", "b")
        if not first: local.late = Late()
    def run():
        thread = threading.Thread(target=use)
        thread.start(); thread.join()
        while os.path.exists("/proc/self/task/%d" % natives[-1]):
            time.sleep(0.001)
    count = lambda: len(os.listdir("/proc/self/fd"))
    alone = count()
    run()
    one = count()
    for _ in range(10): run()
    print(joined == [b"c"] * 11, count() - one, len(client._threads.all) <= 2)
    client.close()
    print(count() < alone, client.stats()["tables"]["temp"]["calls"])
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs the thread directory of Linux")
@pytest.mark.parametrize("order", ["first", "last"])
def test_calls_of_finalizers_after_their_thread_has_left(stage: Stage, order: str) -> None:
    """The hub and the connections that such a call makes are closed when the next thread joins, and by close()."""
    stage.server()
    out = run_script(FINALIZERS, stage.meta.address, order, patched=False)
    assert out == "True 0 True\nTrue 23\n"


@pytest.mark.parametrize("text", ["_local.__dict__", "seat = _Seat(", "self._drop_ended()"])
def test_close_while_another_thread_joins(stage: Stage, text: str) -> None:
    """The new thread's cluster is closed, too."""
    server = stage.server()
    client = stage.client()
    table = client.table("temp")
    table.set("a", "b", b"c")

    def use() -> list[Any]:
        before = Before(Threads.here, client.close, text=text)
        with before, pytest.raises(errors.ClientClosed):
            table.get("a", "b")
        with pytest.raises(errors.ClientClosed):
            table.get("a", "b")
        return [before.ran, all(cluster.pool.closed for cluster in client._threads.all)]

    assert in_thread(use) == [True, True]
    wait_until(lambda: not server.alive)


class Ending:
    """A loop that is destroyed between the look at it and its use."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        if name == "run_callback_threadsafe":
            return self._refuse
        return getattr(self._loop, name)

    def _refuse(self, *_: object) -> None:
        raise ValueError("operation on destroyed loop")


class Hub:
    """A hub with such a loop."""

    dead = False

    def __init__(self, hub: Any) -> None:
        self.loop: Any = Ending(hub.loop)


def test_close_while_another_thread_ends(stage: Stage) -> None:
    """A loop that has just been destroyed does not keep close() from the clusters after it."""
    server = stage.server(silent)
    client = stage.client()
    table = client.table("temp")
    table.warm_up()

    def end() -> list[Any]:
        table.warm_up()
        client._threads.first.hub = Hub(client._threads.first.hub)
        client.close()
        return [cluster.pool.connections for cluster in client._threads.all]

    assert in_thread(end) == [[], []]
    wait_until(lambda: not server.alive)


def test_new_routes_while_another_thread_ends(stage: Stage) -> None:
    """A query does not fail if its routes cannot be passed to that thread."""
    stage.server()
    table = stage.table()
    table.set("a", "b", b"c")
    threads = table.client._threads

    def query() -> None:
        table.get("a", "b")
        hub, threads.first.hub = threads.first.hub, Hub(threads.first.hub)
        threads._learnt(threads.here(), "temp")
        threads.first.hub = hub

    assert in_thread(query) is None


def test_a_handle_is_dropped_after_its_hub(stage: Stage) -> None:
    """Nothing is printed."""
    stage.server()
    out = run_script(
        """
        import gc, sys, gevent
        from pegasus_green import Client
        client = Client([sys.argv[1]])
        client.table("temp").set("a", "b", b"c")
        handle = client.table("temp").get_many_async([("a", "b")])
        gevent.get_hub().destroy(destroy_loop=True)
        del handle
        gc.collect()
        client.close()
        """,
        stage.meta.address,
        patched=False,
    )
    assert out == ""


def test_a_fork_in_another_thread(stage: Stage) -> None:
    """The child keeps only the cluster of the forking thread, with its connection, and a drain waits for nobody."""
    stage.server()
    out = run_script(
        """
        import os, sys, threading, gevent
        from pegasus_green import Client
        client = Client([sys.argv[1]], refresh_period=0)
        table = client.table("temp")
        table.set("a", "b", b"c")
        class Call: pass
        running = Call()
        client._threads.first.running.add(running)
        def forks():
            table.get("a", "b")
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                return
            try:
                table.get("a", "b")
                mine = client._threads.here()
                known = mine.pool.connections
                other = threading.Thread(target=table.get, args=("a", "b"))
                other.start(); other.join()
                # On a busy machine, a query for routes may still run.
                while any(connection.in_flight for connection in mine.pool.connections):
                    gevent.sleep(0.01)
                print(mine.pool.connections == known != [], mine.hub is gevent.get_hub(), mine.is_busy)
                client._threads.drain(0.0)
                print(any(cluster.is_busy for cluster in client._threads.all))
            finally:
                sys.stdout.flush()
                os._exit(0)
        thread = threading.Thread(target=forks)
        thread.start(); thread.join()
        client.close()
        """,
        stage.meta.address,
        patched=False,
        warn="ignore",
    )
    assert out == "True True False\nFalse\n"


class Running:
    """Stands for a call that runs."""


def test_a_drain_does_not_wait_for_the_calls_of_an_ended_thread(stage: Stage) -> None:
    """The application keeps the greenlet of such a call."""
    stage.server()
    client = stage.client()
    table = client.table("temp")
    call = Running()
    clusters: list[Cluster] = []

    def use() -> None:
        table.set("a", "b", b"c")
        clusters.append(client._threads.here())
        clusters[0].running.add(call)

    in_thread(use)
    wait_until(lambda: clusters[0].hub is None)
    assert clusters == client._threads.all
    assert not clusters[0].is_busy


def test_a_drain_does_not_wait_for_the_calls_of_a_dead_hub(stage: Stage) -> None:
    """Its thread has made another hub."""
    stage.server()
    client = stage.client()
    table = client.table("temp")
    call = Running()

    def use() -> bool:
        table.set("a", "b", b"c")
        cluster = client._threads.here()
        cluster.running.add(call)
        gevent.get_hub().destroy(destroy_loop=True)
        table.set("a", "b", b"c")
        busy = cluster.is_busy
        gevent.get_hub().destroy(destroy_loop=True)
        return busy

    assert in_native_thread(use) is False


class Counting:
    """A loop that runs its callbacks on demand."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def run_callback_threadsafe(self, *call: Any) -> None:
        self.calls.append(call)

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for function, *arguments in calls:
            function(*arguments)


def test_routes_for_a_hub_that_does_not_run() -> None:
    """One callback per table waits for it, with the newest routes."""
    taken: list[Any] = []
    offers, loop = Offers(lambda name, table, _generation: taken.append((name, table))), Counting()
    tables: list[Any] = [object() for _ in range(100)]
    for table in tables:
        offers.offer(loop, "temp", table)
    offers.offer(loop, "other", tables[0])
    assert len(loop.calls) == 2
    loop.run()
    assert taken == [("temp", tables[-1]), ("other", tables[0])]
    # The hub takes the next ones, too.
    offers.offer(loop, "temp", tables[0])
    assert len(loop.calls) == 1
    # It is destroyed before that, and its thread has another one.
    another = Counting()
    offers.offer(another, "temp", tables[1])
    another.run()
    assert taken[2:] == [("temp", tables[1])]


def test_the_threads_offer_routes_by_these_callbacks(stage: Stage) -> None:
    stage.server()
    table = stage.table()
    table.set("a", "b", b"c")
    threads = table.client._threads

    def query() -> list[int]:
        table.get("a", "b")
        hub, stopped = threads.first.hub, Hub(threads.first.hub)
        stopped.loop = Counting()
        threads.first.hub = stopped
        for _ in range(10):
            threads._learnt(threads.here(), "temp")
        threads.first.hub = hub
        return [len(stopped.loop.calls)]

    assert in_thread(query) == [1]


def test_a_listener_is_added_while_another_thread_begins_to_close(stage: Stage) -> None:
    """No new call passes during the drain, at any line."""
    stage.server()
    refused = 0
    for line in lines_of(Cluster.reopen):
        client = stage.client()
        table = client.table("temp")
        table.set("a", "b", b"c")
        with Before(Cluster.reopen, client._threads.refuse_calls, line=line):
            client.add_listener(Listener())
        if client._threads.first.pool.draining:
            with pytest.raises(errors.ClientClosed):
                table.get("a", "b")
            refused += 1
        client.close()
    assert refused > 5


def test_a_thread_that_joins_during_a_drain(stage: Stage) -> None:
    """Its calls are refused like those of the other threads."""
    stage.server()
    client = stage.client()
    table = client.table("temp")
    table.set("a", "b", b"c")
    client._threads.refuse_calls()
    assert isinstance(in_thread(table.get, "a", "b"), errors.ClientClosed)


def test_a_shared_client_has_one_successor(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that find a closed client get the same new one."""
    url = f"pegasus://{stage.meta.address}/temp"
    make = Client.from_url
    others: list[Client] = []

    def come_between(known: str) -> Client:
        monkeypatch.setattr(Client, "from_url", make)
        others.append(in_thread(shared_client, url))
        return make(known)

    clients = []
    for _ in range(3):
        monkeypatch.setattr(Client, "from_url", come_between)
        clients.append(shared_client(url))
        assert clients[-1] is others[-1] is shared_client(url)
        clients[-1].close()
    assert len(set(map(id, clients))) == 3
