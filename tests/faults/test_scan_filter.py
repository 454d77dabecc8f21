"""Test that scans and counts of a split table are exact while servers also deliver rows of other partitions."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby, islice
from typing import Any

import pytest

from pegasus_green import Client, Filter, Pegasus, ScanOptions, Table
from pegasus_green.cluster.routing import RoutingTable
from pegasus_green.keys import crc64
from pegasus_green.onebox import Onebox
from pegasus_green.scanner import batch
from pegasus_green.scanner.ownership import holds_no_foreign_rows, own_rows

pytestmark = pytest.mark.onebox_only

ROWS = 600


def some_rows() -> list[tuple[bytes, bytes, bytes]]:
    """Return rows with unique, shared and empty hash keys."""
    lone = [(b"user:%d" % number, b"name", b"v") for number in range(ROWS // 3)]
    shared = [(b"log:%d" % (number % 7), b"%04d" % number, b"v") for number in range(ROWS // 3)]
    return [*lone, *shared, *((b"", b"key:%d" % number, b"v") for number in range(ROWS // 3))]


class Split:
    """A table of 4 partitions that can be split, in a cluster whose servers still deliver foreign rows."""

    def __init__(self, box: Onebox, client: Client) -> None:
        self.box, self.client = box, client
        client.admin.create_table("temp", partitions=4)
        self.table = client.table("temp")
        self.rows = some_rows()
        self.table.set_many(self.rows)

    def split(self) -> None:
        self.box.split("temp", stepwise=True)
        self.box.finish_split("temp")
        self.table._dispatcher.routes.request()
        self.table._dispatcher.routes.wait_for_news(2.0)

    def check(self, rows: Any) -> None:
        assert Counter(tuple(row) for row in rows) == Counter(self.rows)


@pytest.fixture
def table() -> Iterator[Split]:
    with (
        Onebox(replicas=3, tables={}, split_filter_delay=3600.0, strict=True) as box,
        Client(box.meta_addresses, refresh_interval=0.01, timeout=10.0) as client,
    ):
        yield Split(box, client)
        assert not box.client_bugs


def pegasus_rows(box: Onebox, count: int) -> list[tuple[bytes, bytes, bytes]]:
    """Read everything by the documented API."""
    pegasus = Pegasus(box.meta_addresses, "temp")
    pegasus.init()
    try:
        found = []
        for scanner in pegasus.get_unordered_scanners(count, ScanOptions()):
            while (row := scanner.get_next()) is not None:
                (hash_key, sort_key), value = row
                found.append((hash_key, sort_key, value))
        return found
    finally:
        pegasus.close()


WAYS: dict[str, Callable[[Split], Any]] = {
    "scan": lambda split: list(split.table.scan(batch_size=50)),
    "parallel": lambda split: list(split.table.scan(batch_size=50, parallel=4)),
    "scanners": lambda split: [row for rows in split.table.scanners(3, batch_size=50) for row in rows],
    "partitions": lambda split: [row for index in range(8) for row in split.table.scan(partitions=[index])],
    "pages": lambda split: pages(split.table),
    "documented": lambda split: pegasus_rows(split.box, 3),
}


def pages(table: Table) -> list[Any]:
    """Scan in pieces of 70 rows, each resumed by the token of the previous one."""
    found, token = [], None
    while True:
        with table.scan(batch_size=50, limit=70, resume=token) as rows:
            found += list(rows)
            token = rows.token()
            if rows.finished:
                return found


@pytest.mark.parametrize("way", WAYS)
def test_a_scan_that_begins_after_a_split_is_exact(table: Split, way: str) -> None:
    table.split()
    table.check(WAYS[way](table))


@pytest.mark.parametrize("way", ["scan", "parallel"])
@pytest.mark.parametrize("after", [1, 120, 400])
def test_a_scan_that_is_under_way_at_a_split_is_exact(table: Split, way: str, after: int) -> None:
    rows = table.table.scan(batch_size=20, parallel=4 if way == "parallel" else 1)
    found = [next(rows) for _ in range(after)]
    table.split()
    table.check([*found, *rows])


@pytest.mark.parametrize("way", ["scan", "resumed"])
def test_the_rows_of_a_hash_key_follow_one_another_over_a_split(table: Split, way: str) -> None:
    rows = table.table.scan(batch_size=5)
    found = [next(rows)]
    # Up to a hash key of some rows that moves to a child.
    while not (found[-1].hash_key.startswith(b"log:") and crc64(found[-1].hash_key) % 8 >= 4):
        found.append(next(rows))
    table.split()
    if way == "resumed":
        found += islice(rows, 10)
        rows = table.table.scan(resume=rows.token(), batch_size=5)
    found += rows
    table.check(found)
    names = [name for name, _ in groupby(row.hash_key for row in found) if name]
    assert len(names) == len(set(names))


def test_a_scan_continues_after_batches_of_only_foreign_rows(table: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the server drops the scan context after each of them."""
    table.split()
    finish = batch.BatchCall.finish

    def forget(call: batch.BatchCall) -> batch.Batch:
        found = finish(call)
        if not found.rows:
            table.box.drop_scan_contexts()
        return found

    monkeypatch.setattr(batch.BatchCall, "finish", forget)
    with table.client.deadline(30.0):
        table.check(table.table.scan(batch_size=1))


def test_a_token_from_before_the_split_resumes_exactly(table: Split) -> None:
    with table.table.scan(batch_size=20) as rows:
        found = [next(rows) for _ in range(150)]
        token = rows.token()
    table.split()
    table.check([*found, *table.table.scan(resume=token)])


def test_a_scan_during_a_split_is_exact(table: Split) -> None:
    """Some children are registered, some are not."""
    table.box.split("temp", stepwise=True)
    for index in (0, 2):
        while table.box.split_step("temp", index) != "ready":
            pass
    table.table._dispatcher.routes.request()
    table.table._dispatcher.routes.wait_for_news(2.0)
    table.check(table.table.scan())
    assert table.table.count() == ROWS


@pytest.mark.parametrize("parallel", [1, 4])
def test_counts_are_exact_after_a_split(table: Split, parallel: int) -> None:
    assert table.table.count(parallel=parallel) == ROWS
    table.split()
    assert table.table.count(parallel=parallel) == ROWS
    assert table.table.count(hash_key_filter=Filter.prefix("log:"), parallel=parallel) == ROWS // 3
    assert sum(table.table.count(partitions=[index]) for index in range(8)) == ROWS


def kinds_of_replies(table: Split, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Count; return for each batch whether the server counted."""
    counted: list[bool] = []
    finish = batch.BatchCall.finish

    def note(call: batch.BatchCall) -> batch.Batch:
        assert call.rows is not None
        counted.append(call.rows.kv_count is not None)
        return finish(call)

    monkeypatch.setattr(batch.BatchCall, "finish", note)
    assert table.table.count() == ROWS
    return counted


def test_counting_by_servers_is_used_only_for_tables_never_split(table: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(kinds_of_replies(table, monkeypatch))
    table.split()
    assert not any(kinds_of_replies(table, monkeypatch))


def test_a_count_that_meets_a_split_continues_by_reading_keys(table: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = batch.BatchCall.finish
    batches: list[int] = []

    def note(call: batch.BatchCall) -> batch.Batch:
        found = finish(call)
        batches.append(len(found.rows))
        if len(batches) == 2:
            table.split()
        return found

    monkeypatch.setattr(batch.BatchCall, "finish", note)
    assert table.table.count() == ROWS


@pytest.mark.parametrize("why", ["denied", "silent", "another release", "copied"])
def test_keys_are_read_when_it_is_not_proven_that_the_table_was_never_split(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = "2.5" if why == "another release" else "2.6"
    with (
        Onebox(tables={"other": 4}, release=release) as box,
        Client(box.meta_addresses) as client,
    ):
        client.admin.create_table("made", partitions=4)
        table = client.table("made")
        table.set_many([(b"user:%d" % number, b"name", b"v") for number in range(100)])
        if why == "denied":
            # A cluster with access control does not list the table.
            monkeypatch.setattr("pegasus_green.cluster.refresher._AVAILABLE", 5)
        elif why == "silent":
            box.fault("drop", rpc="RPC_CM_LIST_APPS")
        elif why == "copied":
            box.set_envs("made", {"duplication.master_cluster": "elsewhere"})
        assert table.count() == 100
        routes = table._dispatcher.routes
        assert routes.table is not None
        assert routes.initial_count(routes.table.app_id) == (4 if why == "another release" else 0)


def test_tables_with_an_odd_partition_count_are_known_to_be_unsplit() -> None:
    with Onebox(tables={"odd": 3}, split_filter_delay=3600.0) as box, Client(box.meta_addresses) as client:
        table = client.table("odd")
        table.set_many(some_rows())
        assert table.count() == ROWS
        assert table._dispatcher.routes._initial == (0, 0)
        assert len(list(table.scan())) == ROWS


def lose_a_connection(table: Split) -> None:
    table.box.fault("cut", rpc="get", count=1)
    table.table.get("user:1", "name")


def learn_of_a_new_cluster(table: Split) -> None:
    """Take routes with lower ballots, as another thread has learned them."""
    routes = table.table._dispatcher.routes
    assert routes.table is not None
    newer = copy.copy(routes.table.routes[0])
    newer.era += 1
    routes.take(RoutingTable(newer.app_id, [newer, *routes.table.routes[1:]]))


EVENTS: dict[str, Callable[[Split], None]] = {
    "lost connection": lose_a_connection,
    "another partition count": Split.split,
    "new cluster": learn_of_a_new_cluster,
    "end of the event loop": lambda table: table.table._dispatcher.routes.stop(),
}


@pytest.mark.parametrize("event", EVENTS)
def test_the_initial_partition_count_is_forgotten(table: Split, event: str) -> None:
    """The cluster may be a new one. Its table with the same id may have been created with fewer partitions."""
    assert table.table.count() == ROWS
    routes = table.table._dispatcher.routes
    assert routes.table is not None
    app_id = routes.table.app_id
    assert routes.initial_count(app_id) == 4
    EVENTS[event](table)
    assert routes.initial_count(app_id) == 0
    assert table.table.count() == ROWS
    assert routes.initial_count(app_id) == 4


@pytest.mark.parametrize("way", ["count", "scan"])
def test_a_table_of_a_cluster_that_was_made_anew_is_read_exactly(way: str) -> None:
    """It has the same id and the same number of partitions as before. Before, it was never split; now it was."""
    options: dict[str, Any] = {"replicas": 3, "metas": 1, "tables": {}, "split_filter_delay": 3600.0}
    rows = some_rows()
    with ExitStack() as stack:
        box = stack.enter_context(Onebox(**options))
        client = stack.enter_context(Client(box.meta_addresses, refresh_interval=0.05, timeout=10.0))
        client.admin.create_table("temp", partitions=8)
        table = client.table("temp")
        table.set_many(rows)
        assert table.count() == ROWS
        box.stop()
        found = [[int(one.rpartition(":")[2]) for one in ones] for ones in (box.meta_addresses, box.replica_addresses)]
        ports: dict[str, Any] = dict(zip(("meta_ports", "replica_ports"), found))
        box = stack.enter_context(Onebox(**options, **ports))
        with Client(box.meta_addresses) as other:
            other.admin.create_table("temp", partitions=4)
            other.table("temp").set_many(rows)
        box.split("temp", stepwise=True)
        box.finish_split("temp")
        assert (table.count() if way == "count" else len(list(table.scan()))) == ROWS


@pytest.mark.parametrize("answered", [True, False])
def test_a_count_asks_again_after_a_lost_connection(
    table: Split, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the servers continue to count, unless there is no answer."""
    lost = table.box.fault("cut", rpc="get_scanner", after=2, count=1)
    asked = table.box.fault("delay" if answered else "drop", rpc="RPC_CM_LIST_APPS", after=1)
    counted = kinds_of_replies(table, monkeypatch)
    assert counted[:2] == [True, True]
    assert set(counted[2:]) == {answered}
    assert (lost.hits, asked.seen - asked.hits) == (1, 1)
    assert asked.hits


def test_reads_within_one_hash_key_are_not_filtered(table: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """The partition of a hash key has no second copy of its rows."""
    table.split()
    monkeypatch.setattr(batch, "own_rows", None)
    mine = [(sort_key, value) for hash_key, sort_key, value in table.rows if hash_key == b"log:3"]
    assert list(table.table.hash_scan("log:3", batch_size=5)) == sorted(mine)
    assert list(table.table.multi_get_iter("log:3", reverse=True)) == sorted(mine, reverse=True)
    assert table.table.sort_key_count("log:3") == len(mine)
    assert table.table.del_range("log:3", batch_size=5) == len(mine)
    assert table.table.sort_key_count("log:3") == 0
    monkeypatch.undo()
    table.rows = [row for row in table.rows if row[0] != b"log:3"]
    table.check(table.table.scan())


@pytest.mark.parametrize("way", [*WAYS, "count"])
def test_without_the_filter_rows_are_delivered_twice(table: Split, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This shows that the tests above would fail."""
    monkeypatch.setattr(batch, "own_rows", lambda rows, _index, _modulus: rows)
    table.split()
    found = table.table.count() if way == "count" else len(WAYS[way](table))
    # Every row is in the data of its partition and in that of the next one.
    assert found == 2 * ROWS


# ------------------------------------------------------------------------------------------------------------- in parts
def test_own_rows_keeps_the_rows_of_one_partition() -> None:
    rows = sorted(some_rows(), key=lambda row: (len(row[0]), row))
    for modulus in (1, 3, 4, 8):
        for index in range(modulus):
            wanted = [row for row in rows if crc64(row[0] or row[1]) % modulus == index]
            assert own_rows(rows, index, modulus) == wanted
            assert own_rows(wanted, index, modulus) == wanted
            with_expiry = [(*row, 5) for row in rows]
            assert own_rows(with_expiry, index, modulus) == [(*row, 5) for row in wanted]
    assert own_rows([], 0, 4) == []


@pytest.mark.parametrize(
    ("modulus", "initial", "pure"),
    [
        (1, 0, True),
        (3, 0, True),
        (4, 0, False),
        (4, 4, True),
        (4, 8, True),
        (8, 4, False),
        (6, 3, False),
        (6, 6, True),
        (3, 6, True),
        (8, 12, False),
    ],
)
def test_holds_no_foreign_rows_compares_modulus_and_initial_count(modulus: int, initial: int, pure: bool) -> None:
    assert holds_no_foreign_rows(modulus, initial) is pure
