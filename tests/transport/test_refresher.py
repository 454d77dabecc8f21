"""Test when routes are queried again, and what a new answer changes."""

from __future__ import annotations

from itertools import pairwise
from time import monotonic
from typing import Any

import gevent
import pytest

from pegasus_green import Listener, RetryPolicy, errors
from pegasus_green.protocol.framing import Request
from tests.transport.fakes import FakeServer, Link, Stage, answer, connection_of, dead_address, key_for
from tests.waiting import Stopwatch, wait_until


def ends(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        return error


class Changes(Listener):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, int]] = []

    def routes_changed(self, table: str, app_id: int, partition_count: int, changed: int) -> None:
        self.seen.append((table, app_id, partition_count, changed))


def test_refresh_requests_are_coalesced_and_keep_the_minimum_interval(stage: Stage) -> None:
    """A thousand failing calls a second cause one query at a time, at the minimum interval."""
    stage.server(lambda link, request: link.reply(request, error="ERR_INVALID_STATE"))
    table = stage.table(refresh_interval=0.2, retry=RetryPolicy(base=0.001, cap=0.002))
    table.warm_up()
    watch = Stopwatch()
    callers = [gevent.spawn(ends, table.get, f"h{n}", "s", timeout=1.1) for n in range(100)]
    gevent.joinall(callers)
    gaps = [later - earlier for earlier, later in pairwise(stage.meta.queries)]
    busy = watch.elapsed - watch.seconds
    assert 2 <= len(gaps) <= 1 + watch.elapsed / 0.2
    # The arrival times, not the send times: if one query arrives late, the gap after it is short.
    assert sorted(gaps)[1] >= 0.18 - busy


def test_no_second_query_is_sent_during_a_slow_one(stage: Stage) -> None:
    """Requests during a query cause one query after it."""
    stage.server(lambda link, request: link.reply(request, error="ERR_INVALID_STATE"))
    table = stage.table(refresh_interval=0.01, retry=RetryPolicy(base=0.001, cap=0.002))
    table.warm_up()
    stage.meta.delay = 0.3
    answer_meta = stage.meta.handler
    # In a greenlet of its own: the next query is noted when it comes, not after the answer to this one.
    stage.meta.handler = lambda link, request: gevent.spawn(answer_meta, link, request)
    before = len(stage.meta.queries)
    watch = Stopwatch()
    gevent.joinall([gevent.spawn(ends, table.get, f"h{n}", "s", timeout=0.8) for n in range(50)])
    assert 2 <= len(stage.meta.queries) - before <= 1 + watch.elapsed / 0.3


def test_periodic_queries_have_jitter(stage: Stage) -> None:
    stage.server()
    table = stage.table(refresh_period=0.1, refresh_interval=0.01)
    table.warm_up()
    wait_until(lambda: len(stage.meta.queries) >= 10)
    gaps = sorted(later - earlier for earlier, later in pairwise(stage.meta.queries))
    # If one query arrives late, the gap after it is short. Half of the gaps are hardly longer than the period.
    assert gaps[2] >= 0.075
    assert gaps[4] <= 0.4
    assert max(gaps) - min(gaps) > 0.01, "no jitter"


def test_without_a_period_there_are_no_periodic_queries(stage: Stage) -> None:
    stage.server()
    table = stage.table(refresh_period=0.0)
    table.warm_up()
    gevent.sleep(0.3)
    assert len(stage.meta.queries) == 1


def test_a_refresh_closes_no_connection_and_fails_no_call(stage: Stage) -> None:
    """Calls in flight continue while the routes change."""
    old = stage.server(lambda link, request: gevent.spawn_later(0.3, answer, link, request))
    other, new = stage.server(), stage.extra(FakeServer())
    client = stage.client(refresh_interval=0.01)
    changes = Changes()
    client.add_listener(changes)
    table = client.table("temp")
    table.warm_up()
    mine, theirs = key_for(0, 2), key_for(1, 2)
    in_flight = [gevent.spawn(table.set, mine, str(n), b"v") for n in range(20)]
    wait_until(lambda: len(old.requests) == 20)
    stage.meta.primaries = [new.address, other.address]
    stage.meta.ballots = {0: 4}
    table._dispatcher.routes.request()
    wait_until(lambda: len(changes.seen) == 2)
    table.set(theirs, "s", b"v")
    table.set(mine, "new", b"v")
    gevent.joinall(in_flight, raise_error=True)
    assert changes.seen == [("temp", 7, 2, 2), ("temp", 7, 2, 1)]
    assert len(new.requests) == 1
    assert [len(old.alive), len(other.links), len(new.links)] == [1, 1, 1]


def test_answers_with_an_older_ballot_are_ignored(stage: Stage) -> None:
    """A meta server that lags names an older primary; the newer ballot is kept."""
    server, old = stage.server(), stage.extra(FakeServer())
    stage.meta.ballots = {0: 9}
    table = stage.table(refresh_interval=0.01)
    table.warm_up()
    stage.meta.primaries, stage.meta.ballots = [old.address], {0: 8}
    before = len(stage.meta.queries)
    table._dispatcher.routes.request()
    wait_until(lambda: len(stage.meta.queries) > before)
    gevent.sleep(0.02)
    table.set("a", "b", b"c")
    assert len(server.requests) == 1
    assert not old.requests


def test_calls_use_the_routes_of_a_cluster_made_anew(stage: Stage) -> None:
    """It has the same addresses and table ids, and its ballots begin again. The old primary refuses all calls."""
    new = stage.extra(FakeServer())
    stage.server(lambda link, request: link.reply(request, error="ERR_INVALID_STATE"))
    stage.meta.ballots = {0: 9}
    table = stage.table(refresh_interval=0.1)
    table.warm_up()
    stage.meta.primaries, stage.meta.ballots = [new.address], {0: 1}
    table.set("a", "b", b"c", timeout=5.0)
    assert len(new.requests) == 1


def test_calls_use_the_new_routes_of_a_table_created_again(stage: Stage) -> None:
    """The table has another id and may have fewer partitions."""

    def strict(link: Link, request: Request) -> None:
        if request.app_id == stage.meta.app_id:
            answer(link, request)
        else:
            link.reply(request, error="ERR_OBJECT_NOT_FOUND")

    servers = [stage.server(strict) for _ in range(3)]
    table = stage.table(refresh_interval=0.05)
    table.set("a", "b", b"c")
    stage.meta.app_id = 8
    stage.meta.primaries = [servers[0].address, servers[1].address]
    stage.meta.ballots = {0: 1, 1: 1}
    for number in range(20):
        table.set(f"h{number}", "s", b"v", timeout=10.0)
    table_now = table._dispatcher.routes.table
    assert (table_now.app_id, table_now.count) == (8, 2)


def test_a_dropped_and_recalled_table_is_missing_and_then_found(stage: Stage) -> None:
    def strict(link: Link, request: Request) -> None:
        if request.app_id == stage.meta.app_id and stage.meta.table == "temp":
            answer(link, request)
        else:
            link.reply(request, error="ERR_OBJECT_NOT_FOUND")

    stage.server(strict)
    table = stage.table(refresh_interval=0.05)
    table.set("a", "b", b"c")
    stage.meta.table = "another"
    error = ends(table.get, "a", "b")
    assert isinstance(error, errors.TableNotFound)
    for _ in range(3):
        assert isinstance(ends(table.get, "a", "b"), errors.TableNotFound)
    stage.meta.table, stage.meta.app_id = "temp", 9
    assert table.get("a", "b") == b"c"


@pytest.mark.parametrize(("before", "after"), [(4, 8), (8, 4), (1, 2), (3, 5), (5, 1)])
def test_a_changed_partition_count_is_used(stage: Stage, before: int, after: int) -> None:
    server = stage.server()
    stage.meta.primaries = [server.address] * before
    changes = Changes()
    client = stage.client(refresh_interval=0.01)
    client.add_listener(changes)
    table = client.table("temp")
    table.warm_up()
    stage.meta.primaries = [server.address] * after
    table._dispatcher.routes.request()
    wait_until(lambda: len(changes.seen) == 2)
    for number in range(after):
        table.set(key_for(number, after), "s", b"v")
    assert [request.partition_index for request in server.requests] == list(range(after))
    assert changes.seen[-1] == ("temp", 7, after, after)
    assert len(server.links) == 1


def test_partition_without_a_primary_is_waited_for(stage: Stage) -> None:
    server = stage.server()
    stage.meta.primaries = [server.address, ""]
    table = stage.table(refresh_interval=0.05)
    key = key_for(1, 2)
    table.set(key_for(0, 2), "s", b"v")
    caller = gevent.spawn(table.set, key, "s", b"v", timeout=10.0)
    gevent.sleep(0.2)
    watch = Stopwatch()
    stage.meta.primaries, stage.meta.ballots = [server.address] * 2, {1: 4}
    caller.get()
    assert watch.seconds < 2.0


def test_a_lost_connection_requests_routes_without_a_call(stage: Stage) -> None:
    """Only the routes of tables on the lost connection are queried."""
    server = stage.server()
    table = stage.table(refresh_interval=0.01)
    table.warm_up()
    before = len(stage.meta.queries)
    server.stop()
    wait_until(lambda: len(stage.meta.queries) > before)


def test_failed_queries_keep_the_old_routes(stage: Stage) -> None:
    """No meta server answers; calls succeed as long as the replica servers answer."""
    server = stage.server()
    client = stage.client(refresh_period=0.05, refresh_interval=0.01)
    table = client.table("temp")
    table.set("a", "b", b"c")
    stage.meta.stop()
    for _ in range(20):
        assert table.get("a", "b") == b"c"
        gevent.sleep(0.01)
    assert table._dispatcher.routes.table is not None
    assert len(server.links) == 1


def test_calls_recover_within_a_second_of_the_new_route(stage: Stage) -> None:
    """A server dies, there is no primary for a while, then a new one: no restart, few dials, few queries."""
    old, new = stage.server(), stage.extra(FakeServer())
    client = stage.client(timeout=10.0)
    table = client.table("temp")
    table.warm_up()
    done: list[float] = []

    def work(number: int) -> None:
        for step in range(15):
            table.set(f"h{number}", str(step), b"v")
            done.append(monotonic())
            gevent.sleep(0.02)

    workers = [gevent.spawn(work, number) for number in range(50)]
    gevent.sleep(0.3)
    old.stop()
    gevent.sleep(0.7)
    before = len(stage.meta.queries)
    watch = Stopwatch()
    stage.meta.primaries, stage.meta.ballots = [new.address], {0: 4}
    wait_until(lambda: new.requests)
    assert watch.seconds < 1.0
    gevent.joinall(workers, raise_error=True)
    figures = client.stats()["servers"]
    assert figures[old.address]["dials"] <= 12
    assert figures[new.address]["dials"] == 1
    assert len(stage.meta.queries) - before <= 5
    assert connection_of(client, old.address) is None


def test_a_dead_server_delays_only_its_own_callers(stage: Stage) -> None:
    healthy = stage.server()
    stage.meta.primaries = [healthy.address, dead_address()]
    table = stage.table(timeout=3.0)
    mine, theirs = key_for(0, 2), key_for(1, 2)
    table.set(mine, "s", b"v")
    stuck = [gevent.spawn(ends, table.get, theirs, str(n), timeout=0.7) for n in range(200)]
    spans = []
    while not all(caller.dead for caller in stuck):
        watch = Stopwatch()
        table.get(mine, "s")
        spans.append(watch.seconds)
    spans.sort()
    assert len(spans) > 10
    assert spans[len(spans) // 2] < 0.05
    # One pause of the machine is tolerated.
    assert spans[-2] < 0.3


@pytest.mark.parametrize("verb", ["get", "get_many", "get_async", "scan"])
def test_a_refused_call_requests_routes_even_if_it_is_not_repeated(stage: Stage, verb: str) -> None:
    """The refused call fails because of its policy; the next call uses the new routes."""
    stage.server(lambda link, request: link.reply(request, error="ERR_INVALID_STATE"))
    other = stage.extra(FakeServer())
    table = stage.table(refresh_interval=0.05)
    table.warm_up()
    stage.meta.primaries = [other.address]
    calls: dict[str, Any] = {
        "get": lambda: table.get("h", "s", retry=None),
        "get_many": lambda: table.get_many([("h", "s")], retry=None),
        "get_async": lambda: table.get_async("h", "s", retry=None).get(),
        "scan": lambda: next(table.scan(retry=None)),
    }
    with pytest.raises(errors.NotServing):
        calls[verb]()
    wait_until(lambda: table._dispatcher.routes.servers() == {other.address})
    assert table.get("h", "s", retry=None) is None
    assert len(stage.meta.queries) == 2


def under_another_name(stage: Stage, table: Any) -> None:
    """Let the routes use another name for the connected server."""
    table.warm_up()
    stage.meta.primaries = [f"localhost:{stage.servers[0].port}"]
    table._dispatcher.routes.request()
    wait_until(lambda: stage.meta.primaries[0] in table._dispatcher.routes.servers())
    assert len(stage.meta.queries) == 2
    assert table.get("h", "s") is None


def test_a_silent_server_is_left_under_all_its_names(stage: Stage) -> None:
    """The routes use another name than the dialled one: one connection has two names, and both are silent."""
    silent_now: list[bool] = []

    def handler(link: Link, request: Request) -> None:
        if not silent_now:
            answer(link, request)

    stage.server(handler)
    new = stage.extra(FakeServer())
    table = stage.table(timeout=6.0)
    under_another_name(stage, table)
    assert len(table.client._cluster.pool.connections) == 2  # with that of the meta server
    silent_now.append(True)
    stage.meta.primaries = [new.address]
    watch = Stopwatch()
    assert table.get("h", "s") is None
    assert watch.seconds < 2.0


def test_a_lost_connection_requests_the_routes_of_all_its_names(stage: Stage) -> None:
    old = stage.server()
    table = stage.table(refresh_interval=0.05)
    under_another_name(stage, table)
    old.links[0].close()
    wait_until(lambda: len(stage.meta.queries) == 3)


@pytest.mark.parametrize(
    ("handler", "hint"),
    [
        (lambda link, _: link.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "is not the expected Pegasus server"),
        (lambda link, request: link.reply(request, error="ERR_HANDLER_NOT_FOUND"), "this is a replica server"),
    ],
    ids=["http", "replica server"],
)
def test_a_connection_knows_the_dialled_name_and_the_peer_address(stage: Stage, handler: Any, hint: str) -> None:
    wrong = stage.extra(FakeServer(handler))
    with pytest.raises(errors.MetaUnreachable) as caught:
        stage.client([wrong.address], timeout=1.0).table("temp").get("h", "s")
    assert f"returned the routes of the table in time; asked {wrong.address} [table=temp" in str(caught.value)
    assert hint in str(caught.value)
