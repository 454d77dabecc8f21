"""Test deadlines: timeout=, client.deadline(), nesting, scans and bulk calls, and the calls that they do not bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from pegasus_green import Client, JsonCodec, Table, errors
from pegasus_green.onebox import Onebox
from tests.waiting import Stopwatch

pytestmark = pytest.mark.onebox_only


@pytest.fixture
def box(onebox: Onebox) -> Iterator[Onebox]:
    try:
        yield onebox
    finally:
        onebox.clear_faults()


@pytest.fixture
def silent(box: Onebox, table: Table, hash_key: bytes) -> Onebox:
    """Return a cluster that answers no data call, once the client is connected to it."""
    table.warm_up()
    table.set_many([(hash_key, str(number), b"v") for number in range(20)])
    box.fault("drop", rpc="data", when="before")
    return box


CALLS: dict[str, Callable[[Any, bytes], Any]] = {
    "get": lambda table, key: table.get(key),
    "set": lambda table, key: table.set(key, "s", "v"),
    "incr": lambda table, key: table.incr(key, "n"),
    "ttl": lambda table, key: table.ttl(key),
    "multi_get": lambda table, key: table.multi_get(key),
    "multi_set": lambda table, key: table.multi_set(key, {"a": "b"}),
    "check_and_set": lambda table, key: table.compare_exchange(key, "s", None, "v"),
    "batch_get": lambda table, key: table.batch_get([(key, "a"), (key, "b")]),
    "get_many": lambda table, key: table.get_many([(key, str(n)) for n in range(50)]),
    "set_many": lambda table, key: table.set_many([(key, str(n), "v") for n in range(50)], concurrency=5),
    "get_async": lambda table, key: table.get_async(key).get(),
    "scan": lambda table, key: list(table.scan()),
    "hash_scan": lambda table, key: list(table.hash_scan(key)),
    "count": lambda table, key: table.count(),
    "del_range": lambda table, key: table.del_range(key),
    "multi_get_sort_keys": lambda table, key: table.multi_get_sort_keys(key),
    "sort_key_count": lambda table, key: table.sort_key_count(key),
}


def spent(call: Callable[[], Any]) -> tuple[Stopwatch, BaseException | None]:
    watch = Stopwatch()
    try:
        call()
    except errors.PegasusError as error:
        return watch.stop(), error
    return watch.stop(), None


@pytest.mark.parametrize("name", CALLS)
def test_scope_bounds_every_verb(silent: Onebox, client: Client, table: Table, hash_key: bytes, name: str) -> None:
    def call() -> None:
        with client.deadline(0.15):
            CALLS[name](table, hash_key)

    time, error = spent(call)
    assert isinstance(error, TimeoutError), error
    assert time.elapsed >= 0.15
    assert time.seconds < 1.5


def test_scope_bounds_all_calls_together(box: Onebox, client: Client, table: Table, hash_key: bytes) -> None:
    table.warm_up()
    box.fault("delay", rpc="put", seconds=0.3)
    done = 0

    def call() -> None:
        nonlocal done
        with client.deadline(1.0):
            while True:
                table.set(hash_key, str(done), "v")
                done += 1

    time, error = spent(call)
    assert isinstance(error, errors.RequestTimeout)
    assert time.elapsed >= 1.0
    assert time.seconds < 2.0
    assert 1 <= done <= 3


@pytest.mark.parametrize(
    ("outer", "inner", "timeout"), [(0.15, 5.0, None), (5.0, 0.15, None), (5.0, 5.0, 0.15), (0.15, 2.0, 3.0)]
)
def test_nested_scopes_take_the_minimum(
    silent: Onebox, client: Client, table: Table, hash_key: bytes, outer: float, inner: float, timeout: float | None
) -> None:
    def call() -> None:
        with client.deadline(outer), client.deadline(inner):
            table.get(hash_key, timeout=timeout)

    time, error = spent(call)
    assert isinstance(error, errors.RequestTimeout)
    assert time.elapsed >= 0.15
    assert time.seconds < 1.5


def test_inner_scope_ends_and_the_outer_one_holds_again(
    silent: Onebox, client: Client, table: Table, hash_key: bytes
) -> None:
    begin = monotonic()
    with client.deadline(1.0):
        watch = Stopwatch()
        with client.deadline(0.1):
            spent(lambda: table.get(hash_key))
        inner = watch.elapsed
        spent(lambda: table.get(hash_key, timeout=5.0))
        assert monotonic() - begin >= 1.0
        assert watch.seconds < 2.0
        assert 0.1 <= inner < 0.9
    time, _ = spent(lambda: table.get(hash_key, timeout=0.5))
    assert time.elapsed >= 0.5


def test_a_call_in_an_expired_scope_fails_at_once(box: Onebox, client: Client, table: Table, hash_key: bytes) -> None:
    table.warm_up()
    with client.deadline(0.05):
        gevent.sleep(0.06)
        for name in ("get", "set", "incr", "get_many", "get_async", "multi_get", "scan"):
            time, error = spent(lambda name=name: CALLS[name](table, hash_key))  # type: ignore[misc]
            assert isinstance(error, TimeoutError), name
            assert time.seconds < 1.0
            assert not getattr(error, "outcome_unknown", False)
    assert box.executions(hash_key) == 0


def test_spawned_greenlets_are_not_bound(silent: Onebox, client: Client, table: Table, hash_key: bytes) -> None:
    with client.deadline(0.1):
        spawned = gevent.spawn(spent, lambda: table.get(hash_key, timeout=0.4))
        time, _ = spent(lambda: table.get(hash_key))
    assert time.seconds < 1.0
    assert spawned.get()[0].elapsed >= 0.4


def test_other_greenlets_are_not_bound(silent: Onebox, client: Client, table: Table, hash_key: bytes) -> None:
    other = gevent.spawn_later(0.02, spent, lambda: table.get(hash_key, timeout=0.3))
    with client.deadline(0.1):
        spent(lambda: table.get(hash_key))
        gevent.sleep(0.01)
    assert other.get()[0].elapsed >= 0.3


def test_other_clients_are_not_bound(silent: Onebox, client: Client, hash_key: bytes) -> None:
    with Client(silent.meta_addresses) as other:
        table = other.table("temp")
        table.warm_up()
        elsewhere = gevent.spawn(_hold_scope, other)
        gevent.sleep(0)
        with client.deadline(0.05):
            time, _ = spent(lambda: table.get(hash_key, timeout=0.3))
        assert time.elapsed >= 0.3
        elsewhere.kill()


def _hold_scope(client: Client) -> None:
    with client.deadline(30):
        gevent.sleep(30)


def test_scope_of_a_killed_greenlet_ends_with_it(box: Onebox, client: Client, table: Table, hash_key: bytes) -> None:
    table.warm_up()
    holders = [gevent.spawn(_hold_scope, client) for _ in range(10)]
    gevent.sleep(0)
    assert len(client._cluster.scopes) == 10
    gevent.killall(holders)
    assert not client._cluster.scopes
    table.set(hash_key, "s", "v")


def test_scope_bounds_a_scan_between_its_batches(box: Onebox, client: Client, table: Table, hash_key: bytes) -> None:
    table.set_many([(hash_key, f"{number:03}", b"v") for number in range(100)])
    box.fault("delay", rpc=["get_scanner", "scan"], seconds=0.2)
    rows: list[Any] = []

    def collect() -> None:
        with client.deadline(1.0):
            rows.extend(row for row in table.hash_scan(hash_key, batch_size=5))

    time, error = spent(collect)
    assert isinstance(error, TimeoutError)
    assert time.elapsed >= 1.0
    assert time.seconds < 2.0
    assert 5 <= len(rows) <= 25


SERIES: dict[str, Callable[[Table, bytes], object]] = {
    "touch": lambda table, key: table.touch(key, "0", 60, timeout=0.6),
    "compare_exchange": lambda table, key: table.compare_exchange(key, "json", [1, 2], [3], timeout=0.6),
    "batch_get": lambda table, key: table.batch_get([(key, "0")], timeout=0.6),
    "multi_set": lambda table, key: table.multi_set(key, {"a": [0] * 400, "b": [0] * 400}, split=True, timeout=0.6),
}


@pytest.mark.parametrize("name", SERIES)
def test_a_verb_of_several_requests_reports_the_timeout_of_the_whole_call(
    box: Onebox, table: Table, hash_key: bytes, name: str
) -> None:
    """The first request takes half of it, and the second one gets no reply."""
    table.multi_set(hash_key, {"0": b"0", "json": b"[1, 2]"})
    with Client(box.meta_addresses, max_write_bytes=1500) as client:
        coded = client.table(table.name, codec=JsonCodec())
        coded.warm_up()
        box.fault("delay", rpc="data", seconds=0.3, when="after", count=1)
        if name == "batch_get":
            box.fault("error", rpc="batch_get", error="ERR_HANDLER_NOT_FOUND")
        silent = box.fault("drop", rpc="data", after=1)
        with pytest.raises(errors.RequestTimeout) as caught:
            SERIES[name](coded, hash_key)
    assert silent.hits
    assert caught.value.timeout == pytest.approx(0.6)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1", None])
def test_bad_times_are_refused(client: Client, table: Table, hash_key: bytes, seconds: Any) -> None:
    if seconds is not None:
        with pytest.raises(errors.InvalidArgument):
            table.get(hash_key, timeout=seconds)
    with pytest.raises(errors.InvalidArgument), client.deadline(seconds):
        raise AssertionError("it let somebody in")
    assert not client._cluster.scopes


def test_an_infinite_timeout_is_limited_to_a_day(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "s", "v", timeout=float("inf"))
    assert table.get(hash_key, "s", timeout=float("inf")) == b"v"


def test_an_error_inside_a_scope_ends_the_scope(client: Client) -> None:
    with pytest.raises(KeyError), client.deadline(1.0):
        raise KeyError
    assert not client._cluster.scopes
