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


def in_threads(number: int, act: Callable[[], Any], meanwhile: Callable[[], object] = lambda: None) -> list[Any]:
    """Return what act returns in this number of native threads at the same time."""
    pool = ThreadPool(number)
    try:
        calls = [pool.spawn(act) for _ in range(number)]
        meanwhile()
        return [call.get(timeout=20) for call in calls]
    finally:
        pool.kill()


def closed_gate() -> Any:
    """Return a native lock that is held."""
    gate = get_original("_thread", "allocate_lock")()
    gate.acquire()
    return gate


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
    assert in_threads(10, lambda: table.get("a", "b", timeout=20.0)) == [None] * 10
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
    outcomes = in_threads(10, lambda: ends(table.get, "a", "b", timeout=1.5))
    assert set(map(type, outcomes)) == {errors.RequestTimeout}
    assert len(stage.meta.queries) - before <= watch.elapsed / 0.3 + 3


def test_a_query_fulfils_the_demands_of_all_threads(stage: Stage) -> None:
    stage.server()
    client = stage.client(refresh_interval=0.5)
    table = client.table("temp")
    gate = closed_gate()
    ready: list[bool] = []
    before: list[int] = []

    def demand() -> None:
        table.get("a", "b")
        ready.append(True)
        gate.acquire()
        gate.release()
        client._threads.here().table("temp").routes.request()
        gevent.sleep(2.0)

    def let_through() -> None:
        wait_until(lambda: len(ready) == 8)
        before.append(len(stage.meta.queries))
        gate.release()

    in_threads(8, demand, let_through)
    # The first thread asks at once. Half a second later, another one asks for all that demanded after that.
    assert 1 <= len(stage.meta.queries) - before[0] <= 3


def demand_again(client: Any) -> None:
    while True:
        client._threads.here().table("temp").routes.request()
        gevent.sleep(0.01)


def test_a_thread_asks_by_itself_if_the_query_of_another_one_gets_no_answer(stage: Stage) -> None:
    """The first thread blocks while its query is in progress."""
    stage.server()
    client = stage.client(refresh_interval=0.2)
    table = client.table("temp")
    block = closed_gate()
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
