"""Test thousands of calls from one greenlet: order, errors, the limit of calls in flight, kills."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Iterator
from time import monotonic
from typing import Any, NamedTuple

import gevent
import pytest
from greenlet import greenlet

from pegasus_green import Client, InvalidArgument, JsonCodec, PegasusError, Table, errors
from pegasus_green.keys import crc64
from pegasus_green.onebox import Onebox
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs
from tests.waiting import Stopwatch

__all__ = ["no_client_bugs"]


@pytest.fixture
def box(onebox: Onebox) -> Iterator[Onebox]:
    try:
        yield onebox
    finally:
        onebox.clear_faults()
        onebox.configure(max_write_bytes=1024 * 1024)


def keys_of(hash_key: bytes, count: int) -> list[tuple[bytes, bytes]]:
    return [(hash_key + b"-%d" % number, b"s") for number in range(count)]


class Watch:
    """The maximum number of calls in flight, read in each pass of the hub."""

    def __init__(self, client: Client) -> None:
        self.most = 0
        self._client = client
        self._greenlet = gevent.spawn(self._look)

    def _look(self) -> None:
        while True:
            flying = sum(connection.in_flight for connection in self._client._cluster.pool.connections)
            self.most = max(self.most, flying)
            gevent.sleep(0.001)

    def stop(self) -> int:
        self._greenlet.kill()
        return self.most


def nothing_pending(client: Client) -> bool:
    return all(connection.in_flight == 0 for connection in client._cluster.pool.connections)


# ------------------------------------------------------------------------------------------------ results
@pytest.mark.parametrize("concurrency", [1, 2, 7, 1000, 100_000])
def test_results_are_in_the_order_of_the_arguments(table: Table, hash_key: bytes, concurrency: int) -> None:
    keys = keys_of(hash_key, 300)
    items = [(*key, b"value-%d" % number) for number, key in enumerate(keys)]
    assert table.set_many(items, concurrency=concurrency) == [None] * 300
    order = list(range(300))
    random.Random(concurrency).shuffle(order)
    found = table.get_many([keys[number] for number in order], concurrency=concurrency)
    assert found == [b"value-%d" % number for number in order]
    assert table.remove_many(keys[::2], concurrency=concurrency) == [None] * 150
    assert table.get_many(keys, default="gone", concurrency=concurrency)[:4] == ["gone", b"value-1", "gone", b"value-3"]


def test_empty_arguments_give_empty_results(table: Table) -> None:
    assert table.get_many([]) == []
    assert table.set_many([]) == []
    assert table.remove_many(iter(())) == []


def test_any_iterable_and_any_kind_of_key(table: Table, hash_key: bytes) -> None:
    text = hash_key.decode()
    table.set_many((text, str(number), f"v{number}") for number in range(5))
    found = table.get_many((bytearray(hash_key), memoryview(b"%d" % number)) for number in range(6))
    assert found == [b"v0", b"v1", b"v2", b"v3", b"v4", None]


def test_the_same_key_many_times(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, b"s", b"v")
    assert table.get_many([(hash_key, b"s")] * 50) == [b"v"] * 50


def test_ttl_and_codec(client: Client, cluster: Cluster, hash_key: bytes) -> None:
    table = client.table(cluster.table, codec=JsonCodec())
    table.set_many([(hash_key, str(number), {"n": number}) for number in range(5)], ttl=100)
    assert table.get_many([(hash_key, str(number)) for number in range(5)]) == [{"n": n} for n in range(5)]
    left = table.ttl(hash_key, "0")
    assert left is not None
    assert 90 < left <= 100


def test_large_values(table: Table, hash_key: bytes) -> None:
    items = [(hash_key + b"%d" % number, b"s", bytes([number]) * 200_000) for number in range(40)]
    table.set_many(items)
    assert table.get_many([item[:2] for item in items]) == [item[2] for item in items]


def test_one_invalid_argument_keeps_all_requests_from_being_sent(table: Table, hash_key: bytes) -> None:
    refused: list[list[Any]] = [
        [(hash_key, b"s", b"v"), (hash_key, 7, b"v")],
        [(hash_key, b"s", b"v"), (b"h" * 65535, b"s", b"v")],
        [(hash_key, b"s", b"v"), (hash_key, b"t", b"v" * 1024 * 1024)],
        [(hash_key, b"s", b"v"), (hash_key, b"t", None)],
    ]
    for items in refused:
        with pytest.raises(errors.InvalidArgument):
            table.set_many(items)
    with pytest.raises(errors.InvalidArgument):
        table.get_many([(hash_key, b"s")], concurrency=0)
    with pytest.raises(errors.InvalidArgument):
        table.get_many([(hash_key, b"s")], timeout=0)
    assert table.get(hash_key, b"s") is None


# ------------------------------------------------------------------------------------------------ errors
@pytest.mark.onebox_only
def test_first_error_in_order_is_raised_after_all_have_ended(table: Table, box: Onebox, hash_key: bytes) -> None:
    keys = keys_of(hash_key, 60)
    for number in (37, 11, 45):
        box.fault("error", rpc="put", contains=keys[number][0] + b"s", error="ERR_DISK_INSUFFICIENT")
    with pytest.raises(errors.WriteRejected) as caught:
        table.set_many([(*key, b"v") for key in keys])
    results = caught.value.results
    # A copy is raised, since an error inside its own results would be a reference cycle.
    assert (type(results[11]), results[11].args) == (type(caught.value), caught.value.args)
    assert [number for number, result in enumerate(results) if result is not None] == [11, 37, 45]
    assert caught.value.table == "temp"
    assert caught.value.operation == "put"
    box.clear_faults()
    found = table.get_many(keys)
    assert [number for number, value in enumerate(found) if value is None] == [11, 37, 45]


@pytest.mark.onebox_only
def test_errors_are_collected_when_asked_for(table: Table, box: Onebox, hash_key: bytes) -> None:
    keys = keys_of(hash_key, 60)
    table.set_many([(*key, b"v") for key in keys])
    box.fault("error", rpc="get", contains=keys[3][0] + b"s", error="ERR_ACL_DENY")
    box.fault("corrupt", rpc="get", contains=keys[5][0] + b"s")
    results = table.get_many(keys, return_errors=True)
    assert [type(result) for result in results[:7]] == [bytes] * 3 + [
        errors.AccessDenied,
        bytes,
        errors.ProtocolError,
        bytes,
    ]
    assert isinstance(results[5], PegasusError)
    assert (results[5].table, results[5].operation) == ("temp", "get")


@pytest.mark.onebox_only
def test_only_what_failed_is_repeated(table: Table, box: Onebox, hash_key: bytes) -> None:
    keys = keys_of(hash_key, 100)
    fault = box.fault("error", rpc="put", error="ERR_NOT_ENOUGH_MEMBER", probability=0.3, count=60)
    table.set_many([(*key, b"v") for key in keys])
    counts = box.execution_counts(hash_key + rb"-\d+s")
    assert set(counts.values()) == {1}
    assert len(counts) == 100
    assert fault.hits > 10
    assert table.client.stats()["tables"]["temp"]["retries"]["ERR_NOT_ENOUGH_MEMBER"] == fault.hits


@pytest.mark.onebox_only
def test_lost_connections_in_the_middle(table: Table, box: Onebox, hash_key: bytes) -> None:
    keys = keys_of(hash_key, 500)
    table.warm_up()
    box.fault("cut", rpc="put", probability=0.02, count=5)
    table.set_many([(*key, b"v") for key in keys], concurrency=50, timeout=10.0)
    assert table.get_many(keys) == [b"v"] * 500


@pytest.mark.onebox_only
def test_retry_none_repeats_nothing(table: Table, box: Onebox, hash_key: bytes) -> None:
    keys = keys_of(hash_key, 20)
    fault = box.fault("error", rpc="put", error="ERR_BUSY", count=5)
    results = table.set_many([(*key, b"v") for key in keys], return_errors=True, retry=None)
    assert sum(isinstance(result, errors.Busy) for result in results) == 5
    assert fault.hits == 5


@pytest.mark.onebox_only
def test_the_timeout_of_a_record_begins_when_its_request_is_sent(table: Table, box: Onebox, hash_key: bytes) -> None:
    """So later records have their whole timeout, too."""
    keys = keys_of(hash_key, 60)
    box.fault("delay", rpc="put", seconds=0.25)
    begin = monotonic()
    table.set_many([(*key, b"v") for key in keys], concurrency=10, timeout=0.8)
    assert monotonic() - begin > 1.2


@pytest.mark.onebox_only
def test_timeouts_are_per_record(table: Table, box: Onebox, hash_key: bytes) -> None:
    keys = keys_of(hash_key, 30)
    table.set_many([(*key, b"v") for key in keys])
    box.fault("drop", rpc="get", contains=keys[4][0] + b"s")
    watch = Stopwatch()
    results = table.get_many(keys, timeout=0.7, return_errors=True)
    assert watch.elapsed >= 0.7
    assert watch.seconds < 1.5
    assert isinstance(results[4], errors.RequestTimeout)
    assert [result for number, result in enumerate(results) if number != 4] == [b"v"] * 29
    assert nothing_pending(table.client)


@pytest.mark.onebox_only
def test_an_unreachable_server_does_not_delay_connections_to_others(box: Onebox, hash_key: bytes) -> None:
    """One of three servers does not accept connections; the records of the others arrive at once."""
    keys = keys_of(hash_key, 300)
    box.configure(failover_delay=60.0)
    try:
        with Client(box.meta_addresses) as client:
            client.table("temp").set_many([(*key, b"v") for key in keys])
        box.pause(0, accept=False)
        dead = box.stats()["servers"][1]["address"]
        mine = {part["index"] for part in box.partitions("temp") if part["primary"] == dead}
        with Client(box.meta_addresses, timeout=1.0) as client:
            table = client.table("temp")
            began = monotonic()
            ended: list[float] = []
            healthy = gevent.spawn(table.get_many, keys, return_errors=True)
            healthy.rawlink(lambda _: ended.append(monotonic() - began))
            gevent.sleep(0.4)
            # The other servers answer long before the dial of the dead one fails.
            received = sum(server["received"] for server in client.stats()["servers"].values())
            theirs = [number for number, key in enumerate(keys) if crc64(key[0]) % 8 not in mine]
            assert received >= len(theirs)
            results = healthy.get()
            assert all(results[number] == b"v" for number in theirs)
            late = [result for number, result in enumerate(results) if number not in set(theirs)]
            assert all(isinstance(result, errors.RequestTimeout) for result in late)
            assert len({id(result) for result in late}) == len(late)
    finally:
        box.resume(0)
        box.configure(failover_delay=0.3)


# ------------------------------------------------------------------------------------------------ several of each key
def test_multi_set_many_and_multi_del_many(table: Table, hash_key: bytes) -> None:
    mine = [hash_key + b"-%d" % number for number in range(60)]
    items = [(key, {b"%d" % step: b"%d of %d" % (step, n) for step in range(3)}) for n, key in enumerate(mine)]
    assert table.multi_set_many(items, ttl=100, concurrency=7) == [None] * 60
    order = list(range(60))
    random.Random(6).shuffle(order)
    found = table.multi_get_many([mine[number] for number in order])
    assert found == [items[number][1] for number in order]
    left = table.ttl(mine[0], b"0")
    assert left is not None
    assert 90 < left <= 100
    # Each result belongs to its item: one sort key of the first, two of the next, and so on. Absent ones are allowed.
    counts = [1 + number % 4 for number in order]
    dels = [(mine[number], [b"%d" % step for step in range(count)]) for number, count in zip(order, counts)]
    assert table.multi_del_many(dels) == counts
    rest = [{key: value for key, value in items[n][1].items() if int(key) >= count} for n, count in zip(order, counts)]
    assert table.multi_get_many([mine[number] for number in order]) == rest
    assert table.multi_del_many([(hash_key + b"-none", [b"a", b"b"])]) == [2]
    assert table.multi_set_many([]) == []
    assert table.multi_del_many([]) == []


class Rows(NamedTuple):
    hash_key: bytes
    values: dict[bytes, bytes]
    ttl: float


def test_a_ttl_for_each_hash_key(table: Table, hash_key: bytes) -> None:
    mine = [hash_key + b"-%d" % number for number in range(4)]
    values = {b"a": b"1", b"b": b"2"}
    items: list[Any] = [(mine[0], values), (mine[1], values, 100), (mine[2], values, None), (mine[3], values, 0)]
    assert table.multi_set_many(items, ttl=1000) == [None] * 4
    left = [table.ttl(key, sort_key) or 0 for key in mine for sort_key in values]
    assert [math.ceil(ttl / 100) for ttl in left[:6]] == [10, 10, 1, 1, 10, 10]
    assert left[6:] == [math.inf] * 2
    with pytest.raises(errors.InvalidArgument, match="ttl"):
        table.multi_set_many([(mine[0], values, -1)])
    items = [[mine[0], values, 100], Rows(mine[1], values, 100), Rows(mine[2], values, math.inf), [mine[3], values]]
    table.multi_set_many(items, ttl=1000)
    assert [math.ceil((table.ttl(key, b"a") or 0) / 100) for key in (mine[0], mine[1], mine[3])] == [1, 1, 10]
    assert table.ttl(mine[2], b"a") == math.inf
    words = r"\(hash key, values\) or \(hash key, values, ttl\), not"
    with pytest.raises(errors.InvalidArgument, match=words):
        table.multi_set_many([(mine[0], values, 1, 2)])  # type: ignore[list-item]


def test_one_invalid_item_keeps_all_requests_from_being_sent(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas, max_write_bytes=10_000) as client:
        table = client.table(cluster.table)
        good = (hash_key, {b"s": b"v"})
        bad: list[Any] = [
            (hash_key + b"-2", {b"s": b"v" * 10_000}),
            (hash_key + b"-2", {}),
            (hash_key + b"-2", {b"s": None}),
            (b"", {b"s": b"v"}),
            hash_key + b"-2",
        ]
        for item in bad:
            with pytest.raises(errors.InvalidArgument):
                table.multi_set_many([good, item], return_errors=True)
        assert table.multi_get_many([hash_key, hash_key + b"-2"]) == [{}, {}]
        assert table.multi_set_many([good]) == [None]
        bad = [
            (hash_key + b"-2", [b"%d" % number * 200 for number in range(100)]),
            (hash_key + b"-2", []),
            (b"", [b"s"]),
            hash_key + b"-2",
        ]
        for item in bad:
            with pytest.raises(errors.InvalidArgument):
                table.multi_del_many([(hash_key, [b"s"]), item], return_errors=True)
        assert table.multi_get_many([hash_key]) == [{b"s": b"v"}]


@pytest.mark.onebox_only
def test_errors_of_several_records_of_each_key(table: Table, box: Onebox, hash_key: bytes) -> None:
    mine = [hash_key + b"-%d." % number for number in range(20)]
    box.fault("error", rpc="multi_put", contains=mine[7], error="ERR_DISK_INSUFFICIENT")
    box.fault("error", rpc="multi_remove", contains=mine[11], error="ERR_DISK_INSUFFICIENT")
    items = [(key, {b"a": b"1", b"b": b"2"}) for key in mine]
    stored = table.multi_set_many(items, return_errors=True)
    assert [number for number, result in enumerate(stored) if result is not None] == [7]
    assert isinstance(stored[7], errors.WriteRejected)
    with pytest.raises(errors.WriteRejected) as caught:
        table.multi_set_many(items)
    results = caught.value.results
    assert [number for number, result in enumerate(results) if result is not None] == [7]
    assert results[7].args == caught.value.args
    deleted = table.multi_del_many([(key, [b"a", b"c"]) for key in mine], return_errors=True)
    assert isinstance(deleted[11], errors.WriteRejected)
    assert deleted[:11] + deleted[12:] == [2] * 19
    box.clear_faults()
    found = table.multi_get_many(mine)
    assert (found[7], found[11]) == ({}, {b"a": b"1", b"b": b"2"})
    assert found[:7] + found[8:11] + found[12:] == [{b"b": b"2"}] * 18


# ------------------------------------------------------------------------------------------------ bounds
@pytest.mark.onebox_only
@pytest.mark.parametrize("warm", [True, False], ids=["connected", "not connected"])
@pytest.mark.parametrize("concurrency", [1, 10, 64])
def test_no_more_in_flight_than_allowed(box: Onebox, hash_key: bytes, concurrency: int, warm: bool) -> None:
    box.fault("delay", rpc="put", seconds=0.02)
    with Client(box.meta_addresses) as client:
        table = client.table("temp")
        if warm:
            table.warm_up()
        watch = Watch(client)
        table.set_many([(*key, b"v") for key in keys_of(hash_key, 12 * concurrency)], concurrency=concurrency)
        # One more for the route query.
        assert concurrency // 2 <= watch.stop() <= concurrency + 1


def test_no_greenlet_for_each_request(table: Table, hash_key: bytes) -> None:
    table.warm_up()
    seen = 0

    def count() -> None:
        nonlocal seen
        while True:
            seen = max(seen, sum(issubclass(type(one), greenlet) for one in gc.get_objects()))
            gevent.sleep(0.01)

    before = sum(issubclass(type(one), greenlet) for one in gc.get_objects())
    counting = gevent.spawn(count)
    table.set_many([(*key, b"v") for key in keys_of(hash_key, 3000)])
    counting.kill()
    assert seen - before < 30


@pytest.mark.onebox_only
def test_the_limits_of_the_connection_hold(box: Onebox, hash_key: bytes) -> None:
    box.fault("delay", rpc="put", seconds=0.01)
    with Client(box.meta_addresses, max_in_flight=8, max_queued_bytes=10_000, timeout=20.0) as client:
        table = client.table("temp")
        watch = Watch(client)
        keys = keys_of(hash_key, 400)
        table.set_many([(*key, b"v" * 3000) for key in keys], concurrency=400)
        assert watch.stop() <= 3 * 8 + 1
        assert table.get_many(keys, concurrency=400) == [b"v" * 3000] * 400


# ------------------------------------------------------------------------------------------------ kills
@pytest.mark.onebox_only
@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.01, 0.06])
def test_a_killed_call_leaves_no_request_in_flight(
    client: Client, box: Onebox, hash_key: bytes, seconds: float
) -> None:
    table = client.table("temp")
    table.warm_up()
    box.fault("delay", rpc=["put", "get"], seconds=0.05)
    keys = keys_of(hash_key, 400)
    runs: list[Any] = [
        gevent.spawn(table.set_many, [(*key, b"v") for key in keys], concurrency=100),
        gevent.spawn(table.get_many, keys, concurrency=100),
    ]
    neighbour = gevent.spawn(table.set, hash_key, b"neighbour", b"v")
    gevent.sleep(seconds)
    gevent.killall(runs)
    neighbour.get()
    assert nothing_pending(client)
    gevent.sleep(0.1)
    box.clear_faults()
    assert table.get_many(keys_of(hash_key + b"new", 50)) == [None] * 50
    assert not client._cluster.running


@pytest.mark.onebox_only
def test_a_timeout_of_the_application_passes_through(client: Client, box: Onebox, hash_key: bytes) -> None:
    table = client.table("temp")
    table.warm_up()
    box.fault("delay", rpc="put", seconds=0.3)
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as mine:
        table.set_many([(*key, b"v") for key in keys_of(hash_key, 50)])
    assert caught.value is mine
    assert nothing_pending(client)


@pytest.mark.onebox_only
def test_many_callers_at_once(table: Table, hash_key: bytes) -> None:
    def work(number: int) -> None:
        keys = keys_of(hash_key + b"%d-" % number, 100)
        table.set_many([(*key, b"%d" % number) for key in keys], concurrency=30)
        assert table.get_many(keys, concurrency=30) == [b"%d" % number] * 100

    gevent.joinall([gevent.spawn(work, number) for number in range(20)], raise_error=True)
    assert nothing_pending(table.client)


def test_calls_are_counted_in_stats(table: Table, hash_key: bytes) -> None:
    before = table.client.stats()["tables"].get(table.name, {"bulk": 0})["bulk"]
    table.set_many([(*key, b"v") for key in keys_of(hash_key, 30)])
    table.get_many(keys_of(hash_key, 30))
    after = table.client.stats()["tables"][table.name]
    assert after["bulk"] - before == 60
    assert after["errors"] == {}


def broken() -> Iterator[Any]:
    yield ("h", "s", "v")
    raise ValueError("the application's own")


@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.get_many(pair[:2] for pair in broken()),
        lambda table: table.set_many(broken()),
        lambda table: table.remove_many(pair[:2] for pair in broken()),
        lambda table: table.multi_get_many(pair[0] for pair in broken()),
        lambda table: table.multi_set("h", (pair[1:] for pair in broken())),
        lambda table: table.multi_set_many((pair[0], {"a": "b"}) for pair in broken()),
        lambda table: table.multi_del_many((pair[0], ["a"]) for pair in broken()),
        lambda table: table.batch_get(pair[:2] for pair in broken()),
    ],
    ids=range(8),
)
def test_an_error_of_the_argument_iterator_passes_through(table: Table, call: Any) -> None:
    with pytest.raises(ValueError, match="the application's own") as caught:
        call(table)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("items", [None, 5, "user:7", b"user:7"], ids=repr)
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("get_many", "keys"),
        ("set_many", "items"),
        ("remove_many", "keys"),
        ("multi_get_many", "requests"),
        ("multi_set_many", "items"),
        ("multi_del_many", "items"),
        ("batch_get", "keys"),
    ],
)
def test_arguments_that_are_not_iterable_are_refused(table: Table, verb: str, name: str, items: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"{name} must be an iterable of items"):
        getattr(table, verb)(items)


@pytest.mark.onebox_only
def test_results_of_a_failed_multi_get_many_have_an_entry_for_each_item(
    table: Table, box: Onebox, hash_key: bytes
) -> None:
    good, bad = hash_key + b"-good", hash_key + b"-bad"
    table.set(good, "s", "v")
    box.fault("error", rpc="multi_get", contains=bad, error="ERR_ACL_DENY")
    # Without sort keys, no request is sent.
    items: list[Any] = [(good, []), (good, ["s"]), (good, []), (bad, ["s"]), (bad, [])]
    with pytest.raises(errors.AccessDenied) as caught:
        table.multi_get_many(items)
    for results in (caught.value.results, table.multi_get_many(items, return_errors=True)):
        assert results[:3] == [{}, {b"s": b"v"}, {}]
        assert isinstance(results[3], errors.AccessDenied)
        assert results[4:] == [{}]
