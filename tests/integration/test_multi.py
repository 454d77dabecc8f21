"""Test multi_get by keys and by range, its iterator, multi_get_sort_keys, multi_set, multi_del, sort_key_count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from pegasus_green import (
    CallInfo,
    Client,
    CountUnknown,
    Filter,
    Incomplete,
    InvalidArgument,
    MultiGetResult,
    PegasusError,
    SortKeys,
    Table,
)
from pegasus_green.keys import Key
from pegasus_green.protocol.rpc import MULTI_PUT, MULTI_REMOVE
from tests.conftest import Cluster
from tests.integration.helpers import BINARY, GRID, nearly, no_client_bugs, pass_time, refused, rows

__all__ = ["no_client_bugs"]


def values(keys: list[bytes]) -> dict[bytes, bytes]:
    return {key: b"value of " + key for key in keys}


@pytest.fixture
def grid(table: Table, hash_key: bytes) -> Iterator[bytes]:
    """Store the rows of the range tests, with neighbours on both sides in the same partition."""
    table.multi_set(hash_key, values(GRID))
    yield hash_key
    table.del_range(hash_key)


# ----------------------------------------------------------------------------------------------------- set, get, delete
def test_set_get_del(table: Table, hash_key: bytes) -> None:
    stored = rows(50)
    table.multi_set(hash_key, stored)
    found = table.multi_get(hash_key)
    assert isinstance(found, MultiGetResult)
    assert (found, found.complete, found.last_key) == (stored, True, b"key-000049")
    assert list(found) == list(stored)
    assert table.get(hash_key, "key-000007") == stored[b"key-000007"]
    assert table.sort_key_count(hash_key) == 50
    assert table.multi_del(hash_key, list(stored)[:20]) == 20
    assert list(table.multi_get(hash_key)) == list(stored)[20:]
    assert table.multi_del(hash_key, stored) == 50
    assert table.multi_get(hash_key) == {}
    assert table.multi_get(hash_key).last_key is None
    assert table.sort_key_count(hash_key) == 0


def test_multi_set_replaces_and_takes_pairs(table: Table, hash_key: bytes) -> None:
    values: dict[Key, Key] = {"a": "1", b"b": b"2", "ü": bytearray(b"3")}
    table.multi_set(hash_key, values)
    pairs: list[tuple[Key, Key]] = [("b", "4"), (memoryview(b"c"), "5"), ("b", "6")]
    table.multi_set(hash_key, iter(pairs))
    assert table.multi_get(hash_key) == {b"a": b"1", b"b": b"6", b"c": b"5", "ü".encode(): b"3"}


def test_binary_rows(table: Table, hash_key: bytes) -> None:
    hash_key += BINARY
    stored = {b"": b"", BINARY: BINARY, b"\xff\xff\xff": b"ff", b"\0": b"\0"}
    table.multi_set(hash_key, stored)
    assert table.multi_get(hash_key) == stored
    assert list(table.multi_get(hash_key)) == sorted(stored)
    assert table.multi_get(hash_key, list(stored)) == stored
    assert table.multi_get_sort_keys(hash_key) == sorted(stored)
    assert table.multi_del(hash_key, stored) == 4
    assert table.multi_get(hash_key) == {}


def test_multi_set_has_one_ttl_for_all(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {"a": "1", "b": "2"})
    table.multi_set(hash_key, {"b": "3", "c": "4"}, ttl=4)
    assert table.ttl(hash_key, "a") == math.inf
    assert nearly(table.ttl(hash_key, "b"), 4)
    assert nearly(table.ttl(hash_key, "c"), 4)
    pass_time(cluster, 5)
    assert table.multi_get(hash_key) == {b"a": b"1"}
    assert table.multi_get(hash_key, ["a", "b", "c"]) == {b"a": b"1"}
    assert table.sort_key_count(hash_key) == 1


def test_multi_del_counts_what_was_asked_for(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {"a": "1", "b": "2"})
    assert table.multi_del(hash_key, ["a", "b", "none"]) == 3
    assert table.multi_del(hash_key, ["a", "a"]) == 2


# --------------------------------------------------------------------------------------------------------- by sort keys
def test_multi_get_by_keys(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {"a": "1", "b": "2", "c": "", "d": "4"})
    found = table.multi_get(hash_key, ["d", "none", b"c", "a", "d"])
    assert list(found.items()) == [(b"d", b"4"), (b"c", b""), (b"a", b"1")]
    assert found.complete
    assert table.multi_get(hash_key, {"none"}) == {}
    assert table.multi_get(hash_key, (key for key in "ab")) == {b"a": b"1", b"b": b"2"}
    assert table.multi_get(hash_key, ["c", "a"], no_value=True) == {b"c": b"", b"a": b""}


def test_multi_get_with_an_empty_list_of_keys_returns_nothing(client: Client, table: Table, hash_key: bytes) -> None:
    found = table.multi_get(hash_key, [])
    assert (found, found.complete) == ({}, True)
    assert client._cluster.pool.connections == []


def test_limits_by_keys(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {"a": "1111", "b": "2222", "c": "3333"})
    found = table.multi_get(hash_key, ["c", "a", "b"], max_count=2)
    assert (list(found), found.complete, found.last_key) == ([b"c", b"a"], False, b"a")
    assert table.multi_get(hash_key, ["c", "a", "none"], max_count=2).complete
    found = table.multi_get(hash_key, ["c", "a", "b"], max_bytes=6)
    assert (list(found), found.complete) == ([b"c", b"a"], False)
    assert list(table.multi_get(hash_key, ["c", "a"], max_bytes=1)) == [b"c"]


@pytest.mark.parametrize(
    "also",
    [
        {"start": "a"},
        {"stop": "a"},
        {"prefix": ""},
        {"filter": Filter.anywhere("x")},
        {"reverse": True},
        {"stop_inclusive": True},
        {"start_inclusive": False},
    ],
    ids=str,
)
def test_keys_and_a_range_exclude_each_other(client: Client, table: Table, also: dict[str, Any]) -> None:
    refused(client, lambda: table.multi_get("h", ["a"], **also), "sort_keys")


# ------------------------------------------------------------------------------------------------------------ by range
BOUNDS = [None, b"", b"0", b"1", b"1-abcdefg", b"1-b", b"2-abcdefg-01", b"3", b"9"]
FILTERS = [
    None,
    Filter.prefix(b""),
    Filter.prefix(b"1"),
    Filter.prefix(b"1-abcdefg"),
    Filter.prefix(b"none"),
    Filter.postfix(b"-01"),
    Filter.postfix(b"2"),
    Filter.anywhere(b"abc"),
    Filter.anywhere(b""),
    Filter.anywhere(b"-0"),
]


def wanted(
    start: bytes | None, stop: bytes | None, first: bool, last: bool, chosen: Filter | None, prefix: bytes = b""
) -> list[bytes]:
    """Return which of the rows a range has."""
    return [
        key
        for key in GRID
        if (key > (start or b"") or (first and key == (start or b"")))
        and (not stop or key < stop or (last and key == stop))
        and (chosen is None or chosen.accepts(key))
        and key.startswith(prefix)
    ]


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_ranges(table: Table, grid: bytes, reverse: bool) -> None:
    for start, stop, first, last in itertools.product(BOUNDS, BOUNDS, (True, False), (True, False)):
        found = table.multi_get(
            grid, start=start, stop=stop, start_inclusive=first, stop_inclusive=last, reverse=reverse
        )
        expected = wanted(start, stop, first, last, None)
        assert list(found) == expected, (start, stop, first, last)
        assert found == values(expected)
        assert found.complete


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("chosen", FILTERS, ids=str)
def test_filters(table: Table, grid: bytes, chosen: Filter | None, reverse: bool) -> None:
    for start, stop, first, last in itertools.product(BOUNDS[1::2], BOUNDS[::2], (True, False), (True, False)):
        found = table.multi_get(
            grid,
            start=start,
            stop=stop,
            start_inclusive=first,
            stop_inclusive=last,
            filter=chosen,
            reverse=reverse,
        )
        assert list(found) == wanted(start, stop, first, last, chosen), (start, stop, first, last)
        assert found.complete


@pytest.mark.parametrize("prefix", [b"", b"1", b"1-abcdefg-0", b"\xff", b"none"])
def test_a_prefix_with_and_without_a_filter(table: Table, grid: bytes, prefix: bytes) -> None:
    table.set(grid, b"\xff\xff", b"value of \xff\xff")
    every = [*GRID, b"\xff\xff"]
    for start, stop, chosen in itertools.product(BOUNDS, BOUNDS, [None, Filter.postfix(b"-01"), Filter.prefix(b"1-a")]):
        for first, last in itertools.product((True, False), (True, False)):
            expected = [
                key
                for key in every
                if key.startswith(prefix)
                and (key > (start or b"") or (first and key == (start or b"")))
                and (not stop or key < stop or (last and key == stop))
                and (chosen is None or chosen.accepts(key))
            ]
            found = table.multi_get(
                grid,
                start=start,
                stop=stop,
                start_inclusive=first,
                stop_inclusive=last,
                prefix=prefix,
                filter=chosen,
            )
            assert list(found) == expected, (start, stop, first, last, chosen)


def test_limits(table: Table, grid: bytes) -> None:
    """Rows come from the beginning, or in reverse from the end; they ascend in both cases."""
    for count in range(1, len(GRID) + 3):
        found = table.multi_get(grid, max_count=count)
        assert list(found) == GRID[:count]
        assert found.complete == (count >= len(GRID))
        assert found.last_key == GRID[:count][-1]
        found = table.multi_get(grid, max_count=count, reverse=True)
        assert list(found) == GRID[-count:]
        assert found.last_key == GRID[-count:][0]
        if count < len(GRID):
            assert not found.complete
        elif count > len(GRID):
            assert found.complete
    for none in (0, -1, None, 10**12):
        assert list(table.multi_get(grid, max_count=none, max_bytes=none)) == GRID


def test_multi_get_ends_at_a_size_limit(table: Table, hash_key: bytes) -> None:
    """The row that reaches the size is included."""
    table.multi_set(hash_key, {f"k{index}": "v" * 8 for index in range(10)})
    for size, count in ((1, 1), (10, 1), (11, 2), (30, 3), (31, 4), (99, 10), (1000, 10)):
        found = table.multi_get(hash_key, max_bytes=size)
        assert (len(found), found.complete) == (count, count == 10), size
    assert len(table.multi_get(hash_key, max_bytes=30, no_value=True)) == 10


def test_no_value_returns_empty_values(table: Table, grid: bytes) -> None:
    assert table.multi_get(grid, no_value=True, start="1", stop="2") == dict.fromkeys(
        wanted(b"1", b"2", True, False, None), b""
    )


def test_sort_keys(table: Table, grid: bytes) -> None:
    found = table.multi_get_sort_keys(grid)
    assert isinstance(found, SortKeys)
    assert (found, found.complete) == (GRID, True)
    found = table.multi_get_sort_keys(grid, max_count=4)
    assert (found, found.complete, found.last_key) == (GRID[:4], False, GRID[3])
    assert table.multi_get_sort_keys(grid, start="1", stop="2", start_inclusive=False, stop_inclusive=True) == wanted(
        b"1", b"2", False, True, None
    )
    assert table.multi_get_sort_keys(grid, prefix="2", reverse=True, max_count=2) == [b"2-abcdefg", b"2-abcdefg-01"]
    assert table.multi_get_sort_keys(grid, filter=Filter.postfix("-02")) == [b"1-abcdefg-02"]
    assert table.multi_get_sort_keys(grid, max_bytes=1) == GRID[:2]


def test_a_limit_of_one_row_pages_through_all_rows(table: Table, grid: bytes) -> None:
    found: list[bytes] = []
    last, inclusive = b"", True
    for _ in range(100):
        page = table.multi_get(grid, start=last, start_inclusive=inclusive, max_count=1)
        found += page
        if page.complete:
            break
        assert page.last_key is not None
        last, inclusive = page.last_key, False
    assert found == GRID


# ------------------------------------------------------------------------------------------------ the server's own caps
@pytest.fixture(scope="module")
def many(cluster: Cluster) -> Iterator[Callable[[Client], tuple[Table, bytes]]]:
    """Store 3,500 rows, more than one reply of a server holds."""
    key = b"many rows of test_multi"
    with Client(cluster.metas, timeout=20) as client:
        client.table(cluster.table).multi_set(key, rows(3500), split=True)
    yield lambda client: (client.table(cluster.table), key)
    with Client(cluster.metas, timeout=20) as client:
        client.table(cluster.table).del_range(key)


def test_no_more_than_3000_rows(client: Client, many: Any) -> None:
    table, key = many(client)
    stored = rows(3500)
    for limit in (None, 0, 5000):
        found = table.multi_get(key, max_count=limit)
        assert (list(found), found.complete) == (list(stored)[:3000], False)
    found = table.multi_get(key, reverse=True)
    assert (list(found), found.complete) == (list(stored)[-3000:], False)
    found = table.multi_get(key, list(stored))
    assert (len(found), found.complete, found.last_key) == (3000, False, b"key-002999")
    assert table.sort_key_count(key) == 3500


def test_rows_that_the_filter_drops_count_towards_the_server_limit(client: Client, many: Any) -> None:
    table, key = many(client)
    found = table.multi_get(key, filter=Filter.postfix("3499"))
    assert (found, found.complete, found.last_key) == ({}, False, None)
    assert table.multi_get(key, filter=Filter.postfix("3499"), reverse=True) == {
        b"key-003499": rows(3500)[b"key-003499"]
    }


@pytest.mark.parametrize("size", [1, 7, 100, 1000, 3000, 5000])
def test_the_iterators_give_every_row_once(client: Client, many: Any, size: int) -> None:
    table, key = many(client)
    stored = list(rows(3500).items())
    bounds: dict[str, Any] = {"batch_size": size}
    if size == 1:
        stored = stored[3450:]
        bounds["start"] = stored[0][0]
    assert list(table.multi_get_iter(key, **bounds)) == stored
    assert list(table.multi_get_iter(key, reverse=True, **bounds)) == stored[::-1]


def test_iterators_with_bounds_filters_and_prefixes(table: Table, grid: bytes) -> None:
    for start, stop, first, last in itertools.product(BOUNDS, BOUNDS, (True, False), (True, False)):
        expected = list(values(wanted(start, stop, first, last, None)).items())
        bounds: dict[str, Any] = {"start_inclusive": first, "stop_inclusive": last, "batch_size": 3}
        assert list(table.multi_get_iter(grid, start, stop, **bounds)) == expected, bounds
        assert list(table.multi_get_iter(grid, start, stop, reverse=True, **bounds)) == expected[::-1], bounds
    for chosen in FILTERS[1:]:
        expected = list(values(wanted(None, None, True, False, chosen)).items())
        assert list(table.multi_get_iter(grid, filter=chosen, reverse=True, batch_size=2)) == expected[::-1]
        assert list(table.multi_get_iter(grid, filter=chosen, batch_size=2)) == expected
    keys = wanted(None, None, True, False, None, b"1-")
    assert [key for key, _ in table.multi_get_iter(grid, prefix="1-", reverse=True, batch_size=1)] == keys[::-1]
    assert list(table.multi_get_iter(grid, prefix="1-", no_value=True)) == [(key, b"") for key in keys]


def test_the_reverse_iterator_ends_at_the_row_with_an_empty_sort_key(
    table: Table, hash_key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its empty key as the next stop key would mean "to the end" again."""
    table.multi_set(hash_key, {"": "0", "a": "1"})
    assert list(table.multi_get_iter(hash_key, reverse=True, batch_size=1)) == [(b"a", b"1"), (b"", b"0")]
    multi_get = type(table).multi_get

    def doubtful(self: Table, *arguments: Any, **options: Any) -> MultiGetResult:
        found = multi_get(self, *arguments, **options)
        found.complete = not found
        return found

    monkeypatch.setattr(type(table), "multi_get", doubtful)
    found = table.multi_get_iter(hash_key, reverse=True, batch_size=1)
    assert list(itertools.islice(found, 5)) == [(b"a", b"1"), (b"", b"0")]
    found = table.multi_get_iter(hash_key, "a", reverse=True, batch_size=1)
    assert list(itertools.islice(found, 5)) == [(b"a", b"1")]


def test_the_reverse_iterator_raises_when_a_page_has_no_row(client: Client, many: Any) -> None:
    table, key = many(client)
    found = table.multi_get_iter(key, reverse=True, filter=Filter.postfix("000001"))
    with pytest.raises(Incomplete) as caught:
        list(found)
    assert (caught.value.last_key, caught.value.status, caught.value.operation) == (None, 7, "multi_get")
    table.set(key, "zz-000001", "last")
    try:
        found = table.multi_get_iter(key, reverse=True, filter=Filter.postfix("000001"), batch_size=1)
        assert next(found) == (b"zz-000001", b"last")
        with pytest.raises(Incomplete) as caught:
            next(found)
        assert caught.value.last_key == b"zz-000001"
    finally:
        table.remove(key, "zz-000001")
    # In forward direction a scan continues over batches without a row.
    assert [row for row, _ in table.multi_get_iter(key, filter=Filter.postfix("000001"))] == [b"key-000001"]


def test_expired_rows_count_towards_the_server_limit(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    """1,000 expired rows before 10 live ones: the limit of rows holds for what is returned."""
    table.multi_set(hash_key, {f"a{index:04}": "x" for index in range(1000)}, ttl=1)
    live = {b"b%d" % index: b"y" for index in range(10)}
    table.multi_set(hash_key, live)
    pass_time(cluster, 2)
    assert table.multi_get(hash_key) == live
    found = table.multi_get(hash_key, max_count=5)
    assert (len(found), found.complete) == (5, False)
    assert dict(table.multi_get_iter(hash_key, batch_size=100)) == live
    assert table.sort_key_count(hash_key) == 10


@pytest.mark.onebox_only
def test_the_time_limit_of_a_server_gives_incomplete_results(cluster: Cluster, client: Client, many: Any) -> None:
    """A server that reaches its time limit returns a part of the rows, or no count."""
    table, key = many(client)
    cluster.box.set_envs(cluster.table, {"replica.rocksdb_iteration_threshold_time_ms": "1"})
    try:
        found = table.multi_get(key, max_count=2000)
        assert not found.complete
        assert 0 < len(found) < 2000
        with pytest.raises(CountUnknown) as caught:
            table.sort_key_count(key)
        assert caught.value.code == "ERR_INCOMPLETE_DATA"
        assert caught.value.operation == "sortkey_count"
        assert len(list(table.multi_get_iter(key))) == 3500
    finally:
        cluster.box.set_envs(cluster.table, {"replica.rocksdb_iteration_threshold_time_ms": None})
    assert table.sort_key_count(key) == 3500


# -------------------------------------------------------------------------------------------------------- large writes
def test_a_body_over_the_limit_is_refused(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas, max_write_bytes=2000) as client:
        table = client.table(cluster.table)
        refused(client, lambda: table.multi_set(hash_key, rows(100)), "max_write_bytes is 2000", "split=True")
        refused(client, lambda: table.multi_del(hash_key, rows(200)), "max_write_bytes is 2000", "split=True")
        refused(client, lambda: table.multi_set(hash_key, {"k": bytes(2000)}, split=True), "row 0", "2000")
        refused(client, lambda: table.multi_set(hash_key, {"a": b"", "k": bytes(2000)}, split=True), "row 1")
        table.multi_set(hash_key, rows(30))
        assert table.multi_get(hash_key) == rows(30)


@pytest.mark.onebox_only
def test_no_request_is_over_the_limit(cluster: Cluster, hash_key: bytes) -> None:
    """Bodies reach the limit to the last byte, and the server has the same limit."""
    hash_key = hash_key[:60]
    for limit in range(1000, 1032):
        with Client(cluster.metas, max_write_bytes=limit) as client:
            table = client.table(cluster.table)
            bodies: list[int] = []
            call = client.table(cluster.table)._call

            def spy(
                rpc: Any, partition_hash: int, argument: bytes, *more: Any, call: Any = call, to: Any = bodies
            ) -> Any:
                if rpc in (MULTI_PUT, MULTI_REMOVE):
                    to.append(rpc.body_base + len(argument))
                return call(rpc, partition_hash, argument, *more)

            table._call = spy  # type: ignore[assignment]
            table.multi_set(hash_key, rows(100), split=True)
            assert len(bodies) > 3
            assert limit - 50 < max(bodies) <= limit
            assert all(size > limit - 50 for size in bodies[:-1])
            bodies.clear()
            assert table.multi_del(hash_key, rows(300), split=True) == 300
            assert len(bodies) > 3
            assert limit - 20 < max(bodies) <= limit


def test_split_writes_send_several_requests(cluster: Cluster, hash_key: bytes) -> None:
    stored = {f"k{index:03}".encode(): bytes([index]) * 30_000 for index in range(100)}
    with Client(cluster.metas, timeout=30) as client:
        table = client.table(cluster.table)
        with pytest.raises(InvalidArgument):
            table.multi_set(hash_key, stored)
        info = CallInfo()
        table.multi_set(hash_key, stored, split=True, ttl=1000, info=info)
        assert info.decree > 0
        assert dict(table.multi_get_iter(hash_key)) == stored
        assert nearly(table.ttl(hash_key, "k099"), 1000)
        assert table.multi_del(hash_key, stored, split=True) == 100
        assert table.sort_key_count(hash_key) == 0
    with Client(cluster.metas, timeout=30, max_write_bytes=None) as client:
        # Without a limit of the client, split writes use the default of the server.
        table = client.table(cluster.table)
        table.multi_set(hash_key, stored, split=True)
        assert table.sort_key_count(hash_key) == 100
        with pytest.raises(PegasusError) as caught:
            table.multi_set(hash_key, stored)
        assert caught.value.code == "ERR_INVALID_DATA"
        table.multi_del(hash_key, stored)


@pytest.mark.onebox_only
def test_a_failed_split_write_reports_what_was_written(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas, max_write_bytes=1000) as client:
        table = client.table(cluster.table)
        cluster.box.fault("error", error="ERR_DISK_INSUFFICIENT", rpc="multi_put", contains=hash_key, after=2)
        with pytest.raises(PegasusError) as caught:
            table.multi_set(hash_key, rows(100), split=True)
        done = caught.value.done
        assert 0 < done < 100
        assert list(table.multi_get(hash_key)) == list(rows(done))
        cluster.box.clear_faults()
        table.multi_set(hash_key, rows(100), split=True)
        cluster.box.fault("error", error="ERR_DISK_INSUFFICIENT", rpc="multi_remove", contains=hash_key, after=1)
        with pytest.raises(PegasusError) as caught:
            table.multi_del(hash_key, rows(100), split=True)
        done = caught.value.done
        assert 0 < done < 100
        assert list(table.multi_get(hash_key)) == list(rows(100))[done:]


@pytest.mark.onebox_only
def test_a_split_write_has_one_deadline(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas, max_write_bytes=1000) as client:
        table = client.table(cluster.table)
        table.get(hash_key, "")
        cluster.box.fault("delay", rpc="multi_put", contains=hash_key, seconds=0.05, when="before")
        with gevent.Timeout(10), pytest.raises(TimeoutError) as caught:
            table.multi_set(hash_key, rows(1000), split=True, timeout=0.8)
        assert 0 < caught.value.done < 1000  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------ info, arguments
def test_info_receives_partition_decree_server_and_attempts(table: Table, hash_key: bytes) -> None:
    info = CallInfo()
    table.multi_set(hash_key, {"a": "1"}, info=info)
    partition, decree = info.partition, info.decree
    assert (partition, decree > 0) == (info.partition, True)
    table.multi_del(hash_key, ["b"], info=info)
    assert info.decree > decree
    for read in (table.multi_get, table.multi_get_sort_keys, table.sort_key_count):
        info = CallInfo()
        read(hash_key, info=info)
        assert (info.partition, info.decree, info.attempts) == (partition, -1, 1)
        assert ":" in info.server


VERBS: dict[str, Callable[[Table, Any], Any]] = {
    "multi_get": lambda table, key: table.multi_get(key),
    "by keys": lambda table, key: table.multi_get(key, ["s"]),
    "multi_get_sort_keys": lambda table, key: table.multi_get_sort_keys(key),
    "multi_get_iter": lambda table, key: table.multi_get_iter(key),
    "reverse": lambda table, key: table.multi_get_iter(key, reverse=True),
    "multi_set": lambda table, key: table.multi_set(key, {"s": "v"}),
    "multi_del": lambda table, key: table.multi_del(key, ["s"]),
    "sort_key_count": lambda table, key: table.sort_key_count(key),
    "del_range": lambda table, key: table.del_range(key),
    "mapping": lambda table, key: table.mapping(key),
}


@pytest.mark.parametrize("verb", VERBS)
def test_bad_hash_keys_are_not_sent(client: Client, table: Table, verb: str) -> None:
    for bad in (b"", "", 7, None, ["x"], b"x" * 65535):
        refused(client, lambda bad=bad: VERBS[verb](table, bad), "hash_key")


@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.multi_set("h", {}),
        lambda table: table.multi_set("h", []),
        lambda table: table.multi_set("h", None),
        lambda table: table.multi_set("h", ["a"]),
        lambda table: table.multi_set("h", "ab"),
        lambda table: table.multi_set("h", {"a": 1}),
        lambda table: table.multi_set("h", {1: "a"}),
        lambda table: table.multi_set("h", {"a": "b"}, ttl=-1),
        lambda table: table.multi_del("h", []),
        lambda table: table.multi_del("h", "key"),
        lambda table: table.multi_del("h", b"key"),
        lambda table: table.multi_del("h", None),
        lambda table: table.multi_del("h", [1]),
        lambda table: table.multi_get("h", "key"),
        lambda table: table.multi_get("h", 7),
        lambda table: table.multi_get("h", [None]),
        lambda table: table.multi_get("h", start=1),
        lambda table: table.multi_get("h", stop=1),
        lambda table: table.multi_get("h", prefix=1),
        lambda table: table.multi_get("h", filter="prefix"),
        lambda table: table.multi_get("h", max_count="1"),
        lambda table: table.multi_get("h", max_count=True),
        lambda table: table.multi_get("h", max_bytes=1.5),
        lambda table: table.multi_get_iter("h", reverse=True, start=1),
        lambda table: table.multi_get_iter("h", reverse=True, prefix=1),
        lambda table: table.multi_get_iter("h", reverse=True, filter=1),
        lambda table: table.multi_get_iter("h", batch_size=0),
        lambda table: table.multi_get_iter("h", reverse=True, batch_size=0),
    ],
    ids=itertools.count(),
)
def test_bad_arguments_are_not_sent(client: Client, table: Table, call: Callable[[Table], Any]) -> None:
    refused(client, lambda: call(table))


@pytest.mark.onebox_only
def test_idempotent_writes_are_repeated(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    cluster.box.fault("cut", rpc=("multi_put", "multi_remove", "multi_get"), when="after", contains=hash_key, count=1)
    info = CallInfo()
    table.multi_set(hash_key, rows(3), info=info)
    assert info.attempts == 2
    cluster.box.fault("cut", rpc=("multi_remove", "multi_get"), when="after", contains=hash_key, count=1)
    assert table.multi_get(hash_key) == rows(3)
    assert table.multi_del(hash_key, rows(3)) == 3
