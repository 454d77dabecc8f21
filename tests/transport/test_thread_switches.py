"""Test what native threads do to each other between two steps of the client. Each test forces the thread switch."""

from __future__ import annotations

import gc
import linecache
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pegasus_green import errors
from pegasus_green.cluster.threads import Threads
from tests.transport.fakes import Stage, silent
from tests.transport.scripts import run_script
from tests.transport.test_threads import in_thread
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


def lines_of(function: Any) -> list[int]:
    return sorted({line for _, _, line in function.__code__.co_lines() if line} - {function.__code__.co_firstlineno})


def test_a_call_within_the_first_call_of_a_thread(stage: Stage) -> None:
    """A signal handler or a finalizer makes it, before any line of the join. The thread stays in the client."""
    stage.server()
    for line in lines_of(Threads.here):
        table = stage.table()
        with Before(Threads.here, lambda table=table: table.set("n", "s", b"v"), line=line):
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
        wait_until(lambda table=table: len(table.client._threads.all) == 1)
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
        return [before.ran, [cluster.pool.connections for cluster in client._threads.all[1:]]]

    assert in_thread(use) == [True, [[]]]
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
        self.loop = Ending(hub.loop)


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
