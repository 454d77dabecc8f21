"""Test del_range: the removed rows, the progress callback, and continuing after an error."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from pegasus_green import Client, Filter, PegasusError, Table
from tests.conftest import Cluster
from tests.integration.helpers import BINARY, GRID, no_client_bugs, pass_time, refused, rows

__all__ = ["no_client_bugs"]

SELECTIONS: list[dict[str, Any]] = [
    {},
    {"start": "1"},
    {"start": "1", "start_inclusive": False},
    {"stop": "2"},
    {"stop": "2", "stop_inclusive": True},
    {"start": "1", "stop": "2"},
    {"start": "1", "stop": "1"},
    {"start": "1", "stop": "1", "stop_inclusive": True},
    {"start": "2", "stop": "1"},
    {"prefix": "1-"},
    {"prefix": "none"},
    {"filter": Filter.postfix("-01")},
    {"filter": Filter.anywhere("abc"), "start": "1-abcdefg-01"},
    {"filter": Filter.prefix("2")},
    {"prefix": "1-", "filter": Filter.postfix("2")},
]


def wanted(
    start: str = "",
    stop: str = "",
    start_inclusive: bool = True,
    stop_inclusive: bool = False,
    prefix: str = "",
    filter: Filter | None = None,  # noqa: A002
) -> list[bytes]:
    return [
        key
        for key in GRID
        if (key > start.encode() or (start_inclusive and key == start.encode()))
        and (not stop or key < stop.encode() or (stop_inclusive and key == stop.encode()))
        and key.startswith(prefix.encode())
        and (filter is None or filter.accepts(key))
    ]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_exactly_the_rows_of_the_range_are_removed(
    table: Table, hash_key: bytes, selection: dict[str, Any], batch_size: int
) -> None:
    neighbour = hash_key + b"\0"
    for key in (hash_key, neighbour):
        table.multi_set(key, dict.fromkeys(GRID, b"v"))
    gone = wanted(**selection)
    told: list[tuple[int, bytes]] = []
    count = table.del_range(
        hash_key, batch_size=batch_size, on_progress=lambda deleted, last: told.append((deleted, last)), **selection
    )
    assert count == len(gone)
    assert table.multi_get_sort_keys(hash_key) == [key for key in GRID if key not in gone]
    assert table.multi_get_sort_keys(neighbour) == GRID
    ends = [min(end, len(gone)) for end in range(batch_size, len(gone) + batch_size, batch_size)] if gone else []
    assert told == [(end, gone[end - 1]) for end in ends]
    assert table.del_range(hash_key, **selection) == 0


def test_bounds_by_position(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, rows(10))
    assert table.del_range(hash_key, "key-000002", "key-000005") == 3
    assert table.del_range(hash_key, b"key-000008") == 2
    assert list(table.multi_get(hash_key)) == [b"key-00000%d" % index for index in (0, 1, 5, 6, 7)]


def test_more_rows_than_one_reply_holds_are_removed(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas, timeout=10) as client:
        table = client.table(cluster.table)
        table.multi_set(hash_key, rows(3500), split=True)
        table.set(hash_key + b"x", "s", "stays")
        assert table.del_range(hash_key, prefix="key-0", filter=Filter.postfix("7")) == 350
        assert table.del_range(hash_key, batch_size=3100) == 3150
        assert table.sort_key_count(hash_key) == 0
        assert table.get(hash_key + b"x", "s") == b"stays"


def test_sort_keys_too_large_for_one_request(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas, timeout=10) as client:
        table = client.table(cluster.table)
        long = {b"%03d" % index + bytes(30_000): b"" for index in range(60)}
        table.multi_set(hash_key, long, split=True)
        assert table.del_range(hash_key) == 60


def test_binary_and_expired_rows(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {b"": "", BINARY: "", b"\xff" * 5: ""})
    table.multi_set(hash_key, {"expired": ""}, ttl=1)
    pass_time(cluster, 2)
    assert table.del_range(hash_key) == 3


def test_an_exception_of_the_callback_ends_the_call(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, rows(10))
    with pytest.raises(ZeroDivisionError):
        table.del_range(hash_key, batch_size=2, on_progress=lambda _deleted, _last: 1 // 0)
    assert table.sort_key_count(hash_key) == 8


@pytest.mark.onebox_only
@pytest.mark.parametrize("rpc", ["multi_remove", "get_scanner", "scan"])
def test_a_second_call_removes_the_rest_after_an_error(
    cluster: Cluster, table: Table, hash_key: bytes, rpc: str
) -> None:
    table.multi_set(hash_key, rows(100))
    after = 0 if rpc == "get_scanner" else 3
    cluster.box.fault("error", error="ERR_ACL_DENY", rpc=rpc, contains=None, after=after)
    with pytest.raises(PegasusError) as caught:
        table.del_range(hash_key, batch_size=10)
    error: Any = caught.value
    expected = {"multi_remove": 30, "scan": 40, "get_scanner": 0}[rpc]
    assert error.deleted == expected
    assert error.last_key == (b"key-%06d" % (expected - 1) if expected else None)
    cluster.box.clear_faults()
    assert table.sort_key_count(hash_key) == 100 - expected
    assert table.del_range(hash_key, start=error.last_key, batch_size=10) == 100 - expected


@pytest.mark.onebox_only
def test_a_partly_removed_batch_is_counted_in_the_error(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas, max_write_bytes=1000) as client:
        table = client.table(cluster.table)
        table.multi_set(hash_key, rows(200), split=True)
        cluster.box.fault("error", error="ERR_DISK_INSUFFICIENT", rpc="multi_remove", contains=hash_key, after=2)
        with pytest.raises(PegasusError) as caught:
            table.del_range(hash_key)
        error: Any = caught.value
        assert 0 < error.deleted < 200
        assert error.last_key == b"key-%06d" % (error.deleted - 1)
        cluster.box.clear_faults()
        assert list(table.multi_get(hash_key)) == list(rows(200))[error.deleted :]


@pytest.mark.onebox_only
def test_all_rows_are_removed_despite_lost_contexts_and_connections(
    cluster: Cluster, table: Table, hash_key: bytes
) -> None:
    table.multi_set(hash_key, rows(500))
    cluster.box.fault("cut", rpc=("scan", "multi_remove"), when="after", probability=0.1)
    box = cluster.box
    deleted = table.del_range(hash_key, batch_size=20, on_progress=lambda *_: box.drop_scan_contexts(), timeout=10)
    assert deleted == 500
    assert table.sort_key_count(hash_key) == 0


@pytest.mark.onebox_only
def test_the_timeout_bounds_each_request_and_the_deadline_all_of_them(
    cluster: Cluster, table: Table, hash_key: bytes
) -> None:
    table.multi_set(hash_key, rows(20))
    cluster.box.fault("delay", rpc="multi_remove", seconds=0.25)
    with gevent.Timeout(20):
        assert table.del_range(hash_key, batch_size=3, timeout=1.0) == 20
    table.multi_set(hash_key, rows(20))
    with gevent.Timeout(20), table.client.deadline(1.0), pytest.raises(TimeoutError) as caught:
        table.del_range(hash_key, batch_size=1)
    assert 0 < caught.value.deleted < 20  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.del_range("", "a"),
        lambda table: table.del_range("h", start=1),
        lambda table: table.del_range("h", stop=1),
        lambda table: table.del_range("h", prefix=1),
        lambda table: table.del_range("h", filter="x"),
        lambda table: table.del_range("h", batch_size=0),
        lambda table: table.del_range("h", batch_size=True),
        lambda table: table.del_range("h", timeout=-1),
    ],
    ids=itertools.count(),
)
def test_bad_arguments_are_not_sent(client: Client, table: Table, call: Callable[[Table], Any]) -> None:
    refused(client, lambda: call(table))
