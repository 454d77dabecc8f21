"""Test route queries of one client in several native threads: each serves all threads, and they keep their interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from pegasus_green import errors
from tests.transport.fakes import Stage
from tests.transport.test_threads import VERBS, in_thread
from tests.waiting import Stopwatch, wait_until


def ends(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a call returns or raises."""
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        return error.with_traceback(None)


@pytest.mark.parametrize("verb", ["get", "get_many"])
def test_another_thread_refreshes_routes_when_the_first_one_ends(stage: Stage, verb: str) -> None:
    """The next thread that makes a call refreshes the routes periodically, also if it knows them all."""
    server = stage.server()
    table = stage.client(refresh_period=0.2).table("temp")
    assert in_thread(table.set, "a", "b", b"c") is None
    wait_until(lambda: not server.alive)
    assert VERBS[verb][0](table) == VERBS[verb][1]
    assert len(server.alive) == 1
    queries = len(stage.meta.queries)
    wait_until(lambda: len(stage.meta.queries) >= queries + 3)


def test_threads_that_start_together_ask_for_routes_once(stage: Stage) -> None:
    stage.server()
    stage.meta.delay = 0.1
    table = stage.client(refresh_interval=5.0).table("temp")
    pool = ThreadPool(10)
    try:
        calls = [pool.spawn(table.get, "a", "b", timeout=20.0) for _ in range(10)]
        assert [call.get(timeout=20) for call in calls] == [None] * 10
    finally:
        pool.kill()
    # Two threads may begin in the same moment.
    assert len(stage.meta.queries) <= 2


def test_the_interval_of_demanded_queries_holds_for_all_threads_together(stage: Stage) -> None:
    """The servers refuse all calls, so each thread demands newer routes again and again."""
    server = stage.server()
    table = stage.client(refresh_interval=0.3).table("temp")
    table.warm_up()
    server.handler = lambda link, request: link.reply(request, error="ERR_INVALID_STATE")
    watch = Stopwatch()
    before = len(stage.meta.queries)
    pool = ThreadPool(10)
    try:
        calls = [pool.spawn(ends, table.get, "a", "b", timeout=1.5) for _ in range(10)]
        assert {type(call.get(timeout=20)) for call in calls} == {errors.RequestTimeout}
    finally:
        pool.kill()
    assert len(stage.meta.queries) - before <= watch.elapsed / 0.3 + 3


def test_a_query_fulfils_the_demands_of_all_threads(stage: Stage) -> None:
    stage.server()
    client = stage.client(refresh_interval=0.5)
    table = client.table("temp")
    gate = get_original("_thread", "allocate_lock")()
    gate.acquire()
    ready: list[bool] = []

    def demand() -> None:
        table.get("a", "b")
        ready.append(True)
        gate.acquire()
        gate.release()
        client._threads.here().table("temp").routes.request()
        gevent.sleep(2.0)

    pool = ThreadPool(8)
    try:
        demands = [pool.spawn(demand) for _ in range(8)]
        wait_until(lambda: len(ready) == 8)
        before = len(stage.meta.queries)
        gate.release()
        for one in demands:
            one.get(timeout=20)
    finally:
        pool.kill()
    # The first thread asks at once. Half a second later, another one asks for all that demanded after that.
    assert 1 <= len(stage.meta.queries) - before <= 3


def demand_again(client: Any) -> None:
    while True:
        client._threads.here().table("temp").routes.request()
        gevent.sleep(0.01)


def test_a_thread_asks_by_itself_if_the_query_of_another_one_gets_no_answer(stage: Stage) -> None:
    """The first thread blocks while its query is in progress."""
    stage.server()
    client = stage.client(refresh_interval=0.2)
    table = client.table("temp")
    block = get_original("_thread", "allocate_lock")()
    block.acquire()
    began: list[bool] = []

    def first() -> None:
        client._threads.here().bind()
        gevent.spawn(ends, table.get, "a", "b", timeout=20.0)
        gevent.sleep(0.05)
        began.append(True)
        block.acquire()

    stage.meta.delay = 0.3
    get_original("_thread", "start_new_thread")(first, ())
    wait_until(lambda: began)
    # Further demands do not make it wait longer.
    demands = gevent.spawn(demand_again, client)
    assert table.get("a", "b", timeout=20.0) is None
    demands.kill()
    block.release()
