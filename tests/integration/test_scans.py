"""Test scans of a hash key and of the table: ranges, filters, options, and refused arguments."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from gevent.pool import Pool

from pegasus_green import Client, Filter, FilterType, InvalidArgument, Listener, Table
from pegasus_green.scanner import Scanner
from tests.conftest import Cluster
from tests.integration.helpers import BINARY, GRID, no_client_bugs, pass_time, refused
from tests.integration.scanning import Calls, Rows, fill, many, mine

__all__ = ["many", "mine", "no_client_bugs"]


# --------------------------------------------------------------------------------------------------------- one hash key
@pytest.mark.parametrize("batch_size", [1, 2, 7, 25, 26, 1000, 5000])
def test_hash_scan_delivers_all_rows_ascending(table: Table, hash_key: bytes, batch_size: int) -> None:
    found = fill(table, hash_key)
    table.set(hash_key + b"x", "other", "row")
    table.set(hash_key[:-1] + b"\xff", "other", "row")
    assert list(table.hash_scan(hash_key, batch_size=batch_size)) == found


def test_hash_scan_of_an_absent_hash_key_is_empty(table: Table, hash_key: bytes) -> None:
    assert list(table.hash_scan(hash_key)) == []


@pytest.mark.parametrize("start_inclusive", [True, False])
@pytest.mark.parametrize("stop_inclusive", [True, False])
def test_ranges(table: Table, hash_key: bytes, start_inclusive: bool, stop_inclusive: bool) -> None:
    table.multi_set(hash_key, dict.fromkeys(GRID, b"v"))
    edges: list[bytes | None] = [None, b"", b"0", b"00", b"1-abcdefg", b"1-abcdefg-015", b"3", b"4"]
    for start in edges:
        for stop in edges:
            wanted = [
                key
                for key in GRID
                if (key >= (start or b"") if start_inclusive else key > (start or b""))
                and (not stop or key < stop or (stop_inclusive and key == stop))
            ]
            found = table.hash_scan(
                hash_key,
                start=start,
                stop=stop,
                start_inclusive=start_inclusive,
                stop_inclusive=stop_inclusive,
                batch_size=2,
                no_value=True,
            )
            assert [key for key, _ in found] == wanted, (start, stop)


@pytest.mark.parametrize(
    "prefix", [b"", b"1", b"1-abcdefg", b"1-abcdefg-02", b"2-", b"4", b"\xff", b"a\xff", b"a\xff\xff"]
)
@pytest.mark.parametrize("bounds", [{}, {"start": b"1-abcdefg-01"}, {"stop": b"1-abcdefg-02"}, {"start": b"a\xff\xff"}])
def test_prefix_narrows_the_range(table: Table, hash_key: bytes, prefix: bytes, bounds: dict[str, Any]) -> None:
    keys = sorted(
        [*GRID, b"a", b"a\xfe\xff", b"a\xff", b"a\xff\0", b"a\xff\xff", b"a\xff\xffz", b"b", b"\xff", b"\xff\xffx"]
    )
    table.multi_set(hash_key, dict.fromkeys(keys, b"v"))
    stop = bounds.get("stop")
    wanted = [
        key
        for key in keys
        if key.startswith(prefix) and key >= bounds.get("start", b"") and (stop is None or key < stop)
    ]
    assert [key for key, _ in table.hash_scan(hash_key, prefix=prefix, batch_size=3, **bounds)] == wanted
    by_filter = table.hash_scan(hash_key, filter=Filter.prefix(prefix), batch_size=3, **bounds)
    assert [key for key, _ in by_filter] == wanted


def test_inclusive_edges_of_a_prefix(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, dict.fromkeys([b"a", b"a1", b"b"], b"v"))

    def keys(**options: Any) -> list[bytes]:
        return [key for key, _ in table.hash_scan(hash_key, prefix="a", **options)]

    assert keys(start="a", start_inclusive=False) == [b"a1"]
    assert keys(start="", start_inclusive=False) == [b"a", b"a1"]
    assert keys(stop="b", stop_inclusive=True) == [b"a", b"a1"]
    assert keys(stop="a", stop_inclusive=True) == [b"a"]
    assert keys(stop="a1", stop_inclusive=True) == [b"a", b"a1"]


@pytest.mark.parametrize("kind", list(FilterType))
@pytest.mark.parametrize("pattern", [b"", b"1", b"-abcdefg", b"-01", b"x"])
def test_filters(table: Table, hash_key: bytes, kind: FilterType, pattern: bytes) -> None:
    table.multi_set(hash_key, dict.fromkeys(GRID, b"v"))
    wanted = Filter(kind, pattern)
    found = [key for key, _ in table.hash_scan(hash_key, filter=wanted, batch_size=2)]
    assert found == [key for key in GRID if wanted.accepts(key)]


def test_filter_and_prefix_together(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, dict.fromkeys(GRID, b"v"))
    found = table.hash_scan(hash_key, prefix="1", filter=Filter.postfix("-01"))
    assert [key for key, _ in found] == [b"1-abcdefg-01"]


def test_any_bytes_come_back_as_stored(table: Table, hash_key: bytes) -> None:
    key = hash_key + BINARY + b"\xff\xff"
    rows = {b"": b"", b"\0": BINARY, BINARY: b"\0", b"\xff\xff": b"v", b"\xff\xff\xff": BINARY * 400}
    table.multi_set(key, rows)
    assert list(table.hash_scan(key, batch_size=1)) == sorted(rows.items())


def test_no_value_and_ttl(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "forever", "v")
    table.set(hash_key, "soon", "v", ttl=1000)
    assert list(table.hash_scan(hash_key, no_value=True)) == [(b"forever", b""), (b"soon", b"")]
    (_, value, forever), (_, _, soon) = table.hash_scan(hash_key, with_ttl=True, batch_size=1)
    assert value == b"v"
    assert forever == math.inf
    assert isinstance(soon, int)
    assert 990 <= soon <= 1001
    [(key, value, ttl)] = table.hash_scan(hash_key, start="g", with_ttl=True, no_value=True)
    assert (key, value) == (b"soon", b"")
    assert 990 <= ttl <= 1001


def test_batches_of_only_expired_rows_are_skipped(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    for number in range(30):
        table.set(hash_key, b"%02d" % number, "v", ttl=None if number in (0, 17, 29) else 1)
    pass_time(cluster, 2)
    assert [key for key, _ in table.hash_scan(hash_key, batch_size=2)] == [b"00", b"17", b"29"]


def test_limit(client: Client, table: Table, hash_key: bytes) -> None:
    found = fill(table, hash_key)
    calls = Calls()
    client.add_listener(calls)
    for limit in (0, 1, 24, 25, 26):
        with table.hash_scan(hash_key, limit=limit) as rows:
            assert list(rows) == found[:limit]
            assert rows.finished is (limit > 25) or limit == 25, "after exactly 25 rows the end may be known or not"
    assert calls.scans == 4
    assert list(table.hash_scan(hash_key, limit=5, batch_size=2)) == found[:5]


def test_empty_ranges_are_not_sent(client: Client, table: Table, hash_key: bytes) -> None:
    """The answer of a server would look like a scan with an unknown context."""
    fill(table, hash_key)
    calls = Calls()
    client.add_listener(calls)
    for options in (
        {"start": "b", "stop": "a"},
        {"start": "a", "stop": "a"},
        {"start": "a", "stop": "a", "start_inclusive": False, "stop_inclusive": True},
        {"stop": "a", "prefix": "b"},
        {"start": "c", "prefix": "b"},
        {"start": "b", "stop": "b", "prefix": "b"},
    ):
        assert list(table.hash_scan(hash_key, **options)) == []
    assert calls.scans == 0
    table.set(hash_key, "a", "v")
    assert list(table.hash_scan(hash_key, start="a", stop="a", stop_inclusive=True)) == [(b"a", b"v")]


def test_the_batch_size_adapts_to_the_size_of_rows(client: Client, table: Table, hash_key: bytes) -> None:
    """Servers limit the number of rows, not their size; after a reply with large rows fewer are requested."""
    large = [(b"large-%03d" % number, b"x" * 200 * 1024) for number in range(60)]
    small = [(b"small-%04d" % number, b"x") for number in range(1500)]
    for sort_key, value in large:
        table.set(hash_key, sort_key, value)
    table.multi_set(hash_key, dict(small))
    calls = Calls()
    client.add_listener(calls)
    sizes: list[int] = []

    class Sizes(Listener):
        def call_finished(
            self,
            table: str,
            operation: str,
            seconds: float,
            error: BaseException | None,
            attempts: int,
            hedged: bool,
            server: str,
        ) -> None:
            sizes.append(sum(peer.bytes_received for peer in client._cluster.pool.peers.values()))

    client.add_listener(Sizes())
    assert list(table.hash_scan(hash_key, batch_size=25)) == large + small
    steps = [after - before for before, after in pairwise(sizes)]
    assert max(steps[1:]) < 2_000_000, "after the first one, batches are of about 1 MiB"
    assert calls.scans < 110, "and grow again where rows are small"


@pytest.mark.parametrize("no_value", [False, True])
def test_the_first_batch_is_not_above_the_frame_limit(cluster: Cluster, hash_key: bytes, no_value: bool) -> None:
    """It would end the connection with the calls of other greenlets."""
    keys = [b"%03d" % number + b"k" * 10_000 * no_value for number in range(30)]
    with Client(cluster.metas, max_frame=256 * 1024, timeout=10.0) as client:
        table = client.table(cluster.table)
        for sort_key in keys:
            table.set(hash_key, sort_key, b"x" * 20_000)
        assert [sort_key for sort_key, _ in table.hash_scan(hash_key, no_value=no_value)] == keys
        assert not any(server["losses"] for server in client.stats()["servers"].values())
        table.multi_del(hash_key, keys)


def test_only_the_first_scan_of_a_table_begins_with_a_small_batch(cluster: Cluster, hash_key: bytes) -> None:
    rows = {b"%03d" % number: b"x" * 100 for number in range(500)}
    calls = Calls()
    with Client(cluster.metas) as client:
        client.add_listener(calls)
        table = client.table(cluster.table)
        table.multi_set(hash_key, rows)
        for scans in (2, 3, 4):
            assert dict(table.hash_scan(hash_key)) == rows
            assert calls.scans == scans


def test_the_largest_rows_of_a_table_determine_the_first_batch(cluster: Cluster, hash_key: bytes) -> None:
    """It fits even if the rows are 16 times as large as the largest that were seen."""
    with Client(cluster.metas, max_frame=4 * 1024 * 1024) as client:
        table = client.table(cluster.table)
        for number in range(40):
            table.set(hash_key, b"%03d" % number, b"x" * 10_000 * (number < 20))

        def first_batch(batch_size: int = 1000) -> int:
            return table.hash_scan(hash_key, batch_size=batch_size)._work.rows_a_batch

        assert first_batch() == 4, "4 of 1 MiB fit"
        assert len(list(table.hash_scan(hash_key, stop="020"))) == 20
        assert 20 <= first_batch() <= 40, "26 of 160 kB fit"
        assert len(list(table.hash_scan(hash_key, start="020"))) == 20
        assert 20 <= first_batch() <= 40
        assert first_batch(batch_size=10) == 10


def test_a_hash_key_with_one_row_does_not_tell_the_size_of_other_rows(cluster: Cluster, hash_key: bytes) -> None:
    large = {b"%03d" % number: b"x" * 100_000 for number in range(60)}
    with Client(cluster.metas, max_frame=4 * 1024 * 1024) as client:
        table = client.table(cluster.table)
        table.set(hash_key + b"small", b"a", b"1")
        for sort_key, value in large.items():
            table.set(hash_key, sort_key, value)
        assert len(list(table.hash_scan(hash_key + b"small"))) == 1
        assert dict(table.hash_scan(hash_key)) == large
        assert not any(server["losses"] for server in client.stats()["servers"].values())
        table.multi_del(hash_key, list(large))


def test_a_table_with_rows_of_two_sizes_costs_one_connection(cluster: Cluster, hash_key: bytes) -> None:
    """The client has seen only small rows, and asks for too many large ones. It remembers that."""
    small = {b"%03d" % number: b"x" for number in range(40)}
    large = {b"%03d" % number: b"x" * 20_000 for number in range(30)}
    with Client(cluster.metas, max_frame=256 * 1024, timeout=10.0) as client:
        table = client.table(cluster.table)
        table.multi_set(hash_key + b"small", small)
        table.multi_set(hash_key + b"large", large)
        for key, rows in ((b"small", small), (b"large", large), (b"small", small), (b"large", large)):
            assert dict(table.hash_scan(hash_key + key)) == rows
        assert sum(server["losses"] for server in client.stats()["servers"].values()) == 1
    if cluster.box is not None:
        # The client cannot free the contexts whose ids were in the lost replies.
        cluster.box.drop_scan_contexts()


def test_a_batch_above_the_frame_limit_is_requested_smaller(cluster: Cluster, hash_key: bytes) -> None:
    """The connection ends at such a frame; the same request would end the next connection, too."""
    small = [(b"%04d" % number, b"x") for number in range(200)]
    large = [(b"large-%03d" % number, b"x" * 50 * 1024) for number in range(60)]
    found = [*small, *large, *((b"small-%04d" % number, b"x") for number in range(200))]
    with Client(cluster.metas, max_frame=1024 * 1024, timeout=10.0) as client:
        table = client.table(cluster.table)
        for sort_key, value in found:
            table.set(hash_key, sort_key, value)
        assert list(table.hash_scan(hash_key)) == found
        # The rows grow from 1 byte to 50 KiB. Each loss limits the later batches to an eighth.
        assert 1 <= sum(server["losses"] for server in client.stats()["servers"].values()) <= 2
        table.multi_del(hash_key, [sort_key for sort_key, _ in found])
    if cluster.box is not None:
        # The client cannot free the contexts whose ids were in the lost replies.
        cluster.box.drop_scan_contexts()


def test_an_undecodable_row_raises_and_the_other_rows_are_delivered(
    client: Client, cluster: Cluster, table: Table, hash_key: bytes
) -> None:
    """The error is raised in the place of the row."""
    from pegasus_green import codecs

    table.multi_set(hash_key, {"a": "1", "b": "no json", "c": "3"})
    rows = client.table(cluster.table, codec=codecs.JsonCodec()).hash_scan(hash_key)
    assert next(rows) == (b"a", 1)
    with pytest.raises(Exception, match=r"(?i)json|expecting"):
        next(rows)
    assert list(rows) == [(b"c", 3)]


def test_values_go_through_the_codec(client: Client, cluster: Cluster, hash_key: bytes) -> None:
    from pegasus_green import codecs

    table = client.table(cluster.table, codec=codecs.JsonCodec())
    table.set(hash_key, "a", {"n": [1, 2]}, ttl=100)
    assert list(table.hash_scan(hash_key)) == [(b"a", {"n": [1, 2]})]
    assert list(table.hash_scan(hash_key, no_value=True)) == [(b"a", b"")]
    [(key, value, ttl)] = table.hash_scan(hash_key, with_ttl=True)
    assert (key, value, ttl <= 101) == (b"a", {"n": [1, 2]}, True)
    [(_, _, found)] = table.scan(hash_key_filter=Filter.prefix(hash_key))
    assert found == {"n": [1, 2]}


def test_bad_arguments_are_refused_before_anything_is_sent(cluster: Cluster) -> None:
    client = Client(cluster.metas)
    table = client.table(cluster.table)
    big = b"x" * 65535
    for call, text in (
        (lambda: table.hash_scan(""), "hash_key"),
        (lambda: table.hash_scan(big), "65534"),
        (lambda: table.hash_scan(7), "hash_key"),  # type: ignore[call-overload]
        (lambda: table.hash_scan("h", start=7), "start"),  # type: ignore[call-overload]
        (lambda: table.hash_scan("h", stop=7), "stop"),  # type: ignore[call-overload]
        (lambda: table.hash_scan("h", prefix=7), "prefix"),  # type: ignore[call-overload]
        (lambda: table.hash_scan("h", filter="x"), "filter"),  # type: ignore[call-overload]
        (lambda: table.hash_scan("h", batch_size=0), "batch_size"),
        (lambda: table.hash_scan("h", limit=-1), "limit"),
        (lambda: table.hash_scan("h", timeout=0), "timeout"),
        (lambda: table.hash_scan("h", resume="no token"), "token"),
        (lambda: table.scan(parallel=0), "parallel"),
        (lambda: table.scan(parallel=1.5), "parallel"),  # type: ignore[call-overload]
        (lambda: table.scan(hash_key_filter=Filter.prefix(big)), "65534"),
        (lambda: table.scan(sort_key_filter=b"x"), "sort_key_filter"),  # type: ignore[call-overload]
        (lambda: table.scan(partitions=["0"]), "partitions"),  # type: ignore[list-item]
        (lambda: table.scanners(0), "n must"),
        (lambda: table.count(timeout=-1), "timeout"),
        (lambda: table.count(parallel=0), "parallel"),
    ):
        refused(client, call, text)
    scanner = table.scan()
    with pytest.raises(TypeError, match="token"):
        pickle.dumps(scanner)
    assert client._cluster.hub is None, "making a scanner does no I/O"
    client.close()


# ------------------------------------------------------------------------------------------------------ the whole table
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("parallel", [1, 4, 100])
def test_scan_delivers_every_row_once(mine: Callable[..., Scanner], many: Rows, batch_size: int, parallel: int) -> None:
    found = list(mine(batch_size=batch_size, parallel=parallel))
    assert Counter(found) == Counter(many)
    # Rows ascend within a partition, and so within a hash key.
    for hash_key in {row[0] for row in many}:
        assert [row for row in found if row[0] == hash_key] == sorted(row for row in many if row[0] == hash_key)


def test_scan_filters(table: Table, many: Rows, hash_key: bytes) -> None:
    own = Filter.prefix(hash_key)
    by_sort_key = table.scan(hash_key_filter=own, sort_key_filter=Filter.postfix("7"))
    assert sorted(by_sort_key) == sorted(row for row in many if row[1].endswith(b"7"))
    one = Filter.postfix(hash_key + b"/11")
    assert sorted(table.scan(hash_key_filter=one)) == sorted(row for row in many if row[0] == hash_key + b"/11")
    inside = Filter.anywhere(hash_key[3:] + b"/3")
    assert {row[0] for row in table.scan(hash_key_filter=inside)} == {
        row[0] for row in many if row[0].startswith(hash_key + b"/3")
    }


def test_scan_options(mine: Callable[..., Scanner], many: Rows) -> None:
    assert sorted(mine(no_value=True)) == sorted((hash_key, sort_key, b"") for hash_key, sort_key, _ in many)
    assert sorted(mine(with_ttl=True)) == sorted((*row, math.inf) for row in many)
    assert len(list(mine(limit=50))) == 50
    assert len(list(mine(limit=50, parallel=3, batch_size=4))) == 50


def test_scan_of_chosen_partitions(cluster: Cluster, table: Table, mine: Callable[..., Scanner], many: Rows) -> None:
    table.warm_up()
    routes = table._dispatcher.routes.table
    assert routes is not None
    shares = [list(mine(partitions=[index])) for index in range(routes.count)]
    assert Counter(row for share in shares for row in share) == Counter(many)
    assert sum(bool(share) for share in shares) > 1
    assert sorted(mine(partitions={1, 0})) == sorted(shares[0] + shares[1])
    assert list(mine(partitions=[])) == []
    with pytest.raises(InvalidArgument, match="partition 1000"):
        next(mine(partitions=[1000]))


@pytest.mark.parametrize("n", [1, 3, 1000])
def test_scanners_cover_the_table_once(table: Table, many: Rows, hash_key: bytes, n: int) -> None:
    scanners = table.scanners(n, hash_key_filter=Filter.prefix(hash_key), batch_size=3)
    routes = table._dispatcher.routes.table
    assert routes is not None
    assert len(scanners) == min(n, routes.count)
    shares = Pool(4).map(list, scanners)
    assert Counter(row for share in shares for row in share) == Counter(many)


def test_scans_work_with_header_version_0(cluster: Cluster, many: Rows, hash_key: bytes) -> None:
    with Client(cluster.metas, header_version=0) as client:
        table = client.table(cluster.table)
        own = Filter.prefix(hash_key)
        assert Counter(table.scan(hash_key_filter=own, batch_size=7)) == Counter(many)
        assert table.count(hash_key_filter=own) == len(many)
        with table.hash_scan(many[0][0], batch_size=1) as rows:
            next(rows)


@pytest.mark.onebox_only
def test_rows_with_an_empty_hash_key_and_hash_keys_of_any_length(cluster: Cluster, client: Client) -> None:
    cluster.box.create_table("lengths", 3)
    table = client.table("lengths")
    stored = [(key, b"s%d" % n, b"v") for key in (b"", b"\xff", b"\xff" * 300, b"\0", b"z" * 65534) for n in range(5)]
    table.set_many(stored)
    assert Counter(table.scan(batch_size=2)) == Counter(stored)
    assert table.count() == len(stored)
    assert Counter(table.scan(hash_key_filter=Filter.prefix(b"\xff\xff"))) == Counter(stored[10:15])
