"""Scans of a hash key and of the table: ranges, filters, options, tokens, counting, and what they leave behind."""

from __future__ import annotations

import gc
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import gevent
import pytest
from gevent.pool import Pool

from pegasus_green import Client, Filter, FilterType, InvalidArgument, Listener, PegasusError, RequestTimeout, Table
from pegasus_green.scanner import Query, Scanner
from tests.conftest import Cluster
from tests.integration.helpers import BINARY, GRID, no_client_bugs, pass_time, refused

__all__ = ["no_client_bugs"]

Rows = list[tuple[bytes, bytes, bytes]]


class Calls(Listener):
    """Counts the batches that were asked for."""

    def __init__(self) -> None:
        self.scans = 0

    def call_started(self, table: str, operation: str) -> None:
        self.scans += operation == "scan"


@pytest.fixture
def many(table: Table, hash_key: bytes) -> Rows:
    """Store 120 rows under 40 hash keys that begin with the test's own, in all partitions."""
    found = [(hash_key + b"/%d" % (n % 40), b"sort-%03d" % n, b"value-%d" % n) for n in range(120)]
    table.set_many(found)
    return found


@pytest.fixture
def mine(table: Table, many: Rows, hash_key: bytes) -> Callable[..., Scanner]:
    """Scan the rows of this test in the table, which may have others."""
    return lambda **options: table.scan(hash_key_filter=Filter.prefix(hash_key), **options)


def fill(table: Table, hash_key: bytes, count: int = 25) -> list[tuple[bytes, bytes]]:
    found = [(b"sort-%03d" % number, b"value-%d" % number) for number in range(count)]
    table.multi_set(hash_key, dict(found))
    return found


# --------------------------------------------------------------------------------------------------------- one hash key
@pytest.mark.parametrize("batch_size", [1, 2, 7, 25, 26, 1000, 5000])
def test_hash_scan_delivers_all_rows_ascending(table: Table, hash_key: bytes, batch_size: int) -> None:
    found = fill(table, hash_key)
    table.set(hash_key + b"x", "other", "row")
    table.set(hash_key[:-1] + b"\xff", "other", "row")
    assert list(table.hash_scan(hash_key, batch_size=batch_size)) == found


def test_hash_scan_of_nothing(table: Table, hash_key: bytes) -> None:
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


def test_expired_rows_are_passed_over_in_empty_batches(cluster: Cluster, table: Table, hash_key: bytes) -> None:
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


def test_empty_ranges_are_answered_here(client: Client, table: Table, hash_key: bytes) -> None:
    """A server's answer to them looks like a scan with a context that does not exist."""
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


def test_batches_follow_the_size_of_the_rows(client: Client, table: Table, hash_key: bytes) -> None:
    """A server counts rows, however large they are; 25 of 200 KiB are enough of a reply to ask for fewer."""
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
            self, table: str, operation: str, seconds: float, error: BaseException | None, attempts: int, hedged: bool
        ) -> None:
            sizes.append(sum(peer.bytes_received for peer in client._cluster.pool.peers.values()))

    client.add_listener(Sizes())
    assert list(table.hash_scan(hash_key, batch_size=25)) == large + small
    steps = [after - before for before, after in pairwise(sizes)]
    assert max(steps[1:]) < 2_000_000, "after the first one, batches are of about 1 MiB"
    assert calls.scans < 110, "and grow again where rows are small"


def test_batches_too_large_for_a_frame(cluster: Cluster, hash_key: bytes) -> None:
    """The connection ends at such a frame; asking for the same again would end the next one."""
    found = [(b"%03d" % number, b"x" * 50 * 1024) for number in range(60)]
    with Client(cluster.metas, max_frame=1024 * 1024, timeout=10.0) as client:
        table = client.table(cluster.table)
        for sort_key, value in found:
            table.set(hash_key, sort_key, value)
        assert list(table.hash_scan(hash_key)) == found
        table.multi_del(hash_key, [sort_key for sort_key, _ in found])
    if cluster.box is not None:
        # Nobody has read which ones they are.
        cluster.box.drop_scan_contexts()


def test_a_row_that_cannot_be_decoded(client: Client, cluster: Cluster, table: Table, hash_key: bytes) -> None:
    """It is raised in its place, and the others are delivered."""
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
        (lambda: table.hash_scan(7), "hash_key"),  # type: ignore[arg-type]
        (lambda: table.hash_scan("h", start=7), "start"),  # type: ignore[arg-type]
        (lambda: table.hash_scan("h", stop=7), "stop"),  # type: ignore[arg-type]
        (lambda: table.hash_scan("h", prefix=7), "prefix"),  # type: ignore[arg-type]
        (lambda: table.hash_scan("h", filter="x"), "filter"),  # type: ignore[arg-type]
        (lambda: table.hash_scan("h", batch_size=0), "batch_size"),
        (lambda: table.hash_scan("h", limit=-1), "limit"),
        (lambda: table.hash_scan("h", timeout=0), "timeout"),
        (lambda: table.hash_scan("h", resume="no token"), "token"),
        (lambda: table.scan(parallel=0), "parallel"),
        (lambda: table.scan(parallel=1.5), "parallel"),  # type: ignore[arg-type]
        (lambda: table.scan(hash_key_filter=Filter.prefix(big)), "65534"),
        (lambda: table.scan(sort_key_filter=b"x"), "sort_key_filter"),  # type: ignore[arg-type]
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
    # Within a partition rows ascend, so the rows of any hash key do.
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


def test_with_the_old_header(cluster: Cluster, many: Rows, hash_key: bytes) -> None:
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


# ------------------------------------------------------------------------------------------------------------- counting
def test_count(table: Table, many: Rows, hash_key: bytes) -> None:
    own = Filter.prefix(hash_key)
    assert table.count(hash_key_filter=own) == len(many)
    assert table.count(hash_key_filter=own, parallel=4) == len(many)
    assert table.count(hash_key_filter=own, sort_key_filter=Filter.postfix("7")) == 12
    assert table.count(hash_key_filter=Filter.prefix(hash_key + b"/none")) == 0
    table.warm_up()
    routes = table._dispatcher.routes.table
    assert routes is not None
    shares = [table.count(hash_key_filter=own, partitions=[index]) for index in range(routes.count)]
    assert sum(shares) == len(many)


@pytest.mark.onebox_only
@pytest.mark.parametrize("breaks", [1, 2, 5, 1000])
@pytest.mark.parametrize("parallel", [1, 3])
def test_a_count_that_breaks_off_is_counted_again(cluster: Cluster, client: Client, breaks: int, parallel: int) -> None:
    """In the end by its keys, which a count that never gets through still comes on with."""
    name = f"counted-{breaks}-{parallel}"
    cluster.box.create_table(name, 2)
    table = client.table(name)
    table.set_many([(b"%d" % (n % 500), b"%d" % n, b"v") for n in range(8000)])
    lost = 0

    class Dropper(Listener):
        def call_started(self, table: str, operation: str) -> None:
            nonlocal lost
            if lost < breaks and contexts(cluster):
                lost += 1
                cluster.box.drop_scan_contexts(name)

    client.add_listener(Dropper())
    assert table.count(parallel=parallel) == 8000
    assert lost == breaks or (breaks == 1000 and lost >= 6)


@pytest.mark.onebox_only
def test_servers_that_do_not_count_send_rows(cluster: Cluster, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before release 2.5 they ignore the wish."""
    ask = Query.open
    monkeypatch.setattr(Query, "open", lambda query, after, size, as_rows: ask(query, after, size, as_rows=True))
    cluster.box.create_table("old", 2)
    table = client.table("old")
    table.set_many([(b"%d" % (n % 500), b"%d" % n, b"v") for n in range(5000)])
    assert table.count() == 5000

    class Dropper(Listener):
        def call_started(self, table: str, operation: str) -> None:
            cluster.box.drop_scan_contexts("old")

    client.add_listener(Dropper())
    assert table.count(parallel=2) == 5000


@pytest.mark.onebox_only
def test_a_count_that_runs_out_of_time_is_counted_again(cluster: Cluster, client: Client) -> None:
    cluster.box.create_table("timed", 1)
    table = client.table("timed")
    table.set_many([(b"%d" % (n % 50), b"%d" % n, b"v") for n in range(3000)])
    for server in cluster.box.servers:
        for replica in server.replicas.values():
            if replica.table.name == "timed":
                replica.engine.force_incomplete(10**9, 500, 10**9, 500, 700, 300)
    assert table.count() == 3000


# --------------------------------------------------------------------------------------------------------------- tokens
@pytest.mark.parametrize("stop_after", [0, 1, 2, 3, 12, 24, 25])
def test_hash_scan_resumes_behind_the_last_row(table: Table, hash_key: bytes, stop_after: int) -> None:
    found = fill(table, hash_key)
    with table.hash_scan(hash_key, batch_size=3) as first:
        rows = [next(first) for _ in range(stop_after)]
        token = first.token()
    assert first.token() == token, "it stays good after close"
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    rest = table.hash_scan(hash_key, resume=token, batch_size=4)
    assert rows + list(rest) == found
    assert rest.finished
    assert list(table.hash_scan(hash_key, resume=rest.token())) == []


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("stop_after", [0, 1, 7, 60, 119, 120])
def test_scan_resumes_with_another_client(
    cluster: Cluster, mine: Callable[..., Scanner], many: Rows, stop_after: int, parallel: int
) -> None:
    with mine(batch_size=4, parallel=parallel) as first:
        rows = [next(first) for _ in range(stop_after)]
        token = first.token()
    with Client(cluster.metas) as other:
        rest = other.table(cluster.table).scan(resume=token, batch_size=5, parallel=4 - parallel)
        assert Counter(rows + list(rest)) == Counter(many)


def test_paging_by_limit_and_token(mine: Callable[..., Scanner], table: Table, many: Rows) -> None:
    found: Rows = []
    page = mine(limit=11)
    sizes = []
    while True:
        rows = list(page)
        found += rows
        sizes.append(len(rows))
        if page.finished:
            break
        page = table.scan(resume=page.token(), limit=11)
    assert Counter(found) == Counter(many)
    assert sizes[:-1] == [11] * (len(sizes) - 1)


def test_a_token_carries_the_selection(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {f"{letter}{number}": "v" for letter in "abc" for number in range(10)}, ttl=500)
    options: dict[str, Any] = {
        "start": "a5",
        "stop": "c5",
        "filter": Filter.anywhere("b"),
        "no_value": True,
        "with_ttl": True,
    }
    first = table.hash_scan(hash_key, limit=4, **options)
    rows = list(first)
    plain = list(table.hash_scan(hash_key, resume=first.token()))
    again = list(table.hash_scan(hash_key, resume=first.token(), **options))
    assert [row[:2] for row in plain] == [row[:2] for row in again]
    assert [row[0] for row in rows + plain] == [b"b%d" % number for number in range(10)]
    with pytest.raises(InvalidArgument, match="selects otherwise"):
        table.hash_scan(hash_key, resume=first.token(), stop="c6")


def test_tokens_of_something_else_are_refused(client: Client, table: Table, hash_key: bytes) -> None:
    fill(table, hash_key)
    token = table.hash_scan(hash_key).token()
    for call, text in (
        (lambda: client.table("another").hash_scan(hash_key, resume=token), "is of table"),
        (lambda: table.hash_scan(hash_key + b"x", resume=token), "another hash key"),
        (lambda: table.scan(resume=token), "another hash key"),
        (lambda: table.hash_scan(hash_key, resume=table.scan().token()), "another hash key"),
        (lambda: table.hash_scan(hash_key, resume=token[:-3]), "no scan token"),
        (lambda: table.hash_scan(hash_key, resume=token[5:]), "no scan token"),
        (lambda: table.hash_scan(hash_key, resume=""), "no scan token"),
        (lambda: table.hash_scan(hash_key, resume=b"x"), "text"),  # type: ignore[arg-type]
        (lambda: table.scan(resume=table.scan().token(), partitions=[0]), "partitions"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            call()


def test_an_unread_scan_of_partitions_resumes(mine: Callable[..., Scanner], table: Table) -> None:
    wanted = Counter(mine(partitions=[0, 1]))
    assert Counter(table.scan(resume=mine(partitions=[0, 1]).token())) == wanted


# ------------------------------------------------------------------------------------------------------------ iterating
def test_one_scanner_for_several_greenlets(mine: Callable[..., Scanner], many: Rows) -> None:
    for parallel in (1, 3):
        rows = mine(batch_size=5, parallel=parallel)
        found: Rows = []

        def take(rows: Iterator[Any] = rows, found: Rows = found) -> None:
            for row in rows:
                found.append(row)
                gevent.sleep(0)

        gevent.joinall([gevent.spawn(take) for _ in range(6)], raise_error=True)
        assert Counter(found) == Counter(many)
        assert rows.finished


def test_after_the_end_and_after_close(table: Table, hash_key: bytes) -> None:
    fill(table, hash_key)
    rows = table.hash_scan(hash_key)
    assert len(list(rows)) == 25
    assert list(rows) == []
    assert next(rows, None) is None
    closed = table.hash_scan(hash_key, batch_size=3)
    next(closed)
    closed.close()
    closed.close()
    assert next(closed, None) is None
    assert not closed.finished
    assert "ended rows=25" in repr(rows)


def test_deadlines_bound_a_batch(client: Client, mine: Callable[..., Scanner], many: Rows) -> None:
    rows = mine(batch_size=10)
    with client.deadline(1e-9), pytest.raises(PegasusError):
        next(rows)
    with client.deadline(20.0):
        assert Counter(rows) == Counter(many), "an error ends nothing"
    for parallel in (1, 3):
        rows = mine(timeout=1e-9, parallel=parallel)
        with pytest.raises(RequestTimeout):
            next(rows)
        rows.close()


@pytest.mark.onebox_only
@pytest.mark.parametrize("parallel", [1, 3])
def test_an_error_in_the_middle_and_on_behind_the_last_row(
    cluster: Cluster, mine: Callable[..., Scanner], many: Rows, parallel: int
) -> None:
    rows = mine(batch_size=10, parallel=parallel)
    found = [next(rows)]
    rule = cluster.box.fault("error", rpc=["scan", "get_scanner"], error="ERR_ACL_DENY")
    with pytest.raises(PegasusError, match="ERR_ACL_DENY"):
        found.extend(rows)
    with pytest.raises(PegasusError, match="ERR_ACL_DENY"):
        next(rows)
    rule.remove()
    assert Counter(found + list(rows)) == Counter(many)


@pytest.mark.onebox_only
def test_without_retry_the_first_failure_is_raised(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    found = fill(table, hash_key)
    rows = table.hash_scan(hash_key, batch_size=5, retry=None)
    got = [next(rows) for _ in range(5)]
    cluster.box.fault("error", rpc="scan", error="ERR_BUSY", count=1)
    with pytest.raises(PegasusError, match="ERR_BUSY"):
        next(rows)
    got += [next(rows) for _ in range(5)]
    # A context that is gone is no failure.
    cluster.box.drop_scan_contexts()
    assert got + list(rows) == found


@pytest.mark.onebox_only
def test_a_deadline_scope_bounds_a_parallel_scan(
    cluster: Cluster, client: Client, mine: Callable[..., Scanner]
) -> None:
    client.table(cluster.table).warm_up()
    cluster.box.fault("drop", rpc="get_scanner")
    rows = mine(parallel=3, timeout=30.0)
    with gevent.Timeout(5.0), client.deadline(0.1), pytest.raises(RequestTimeout):
        next(rows)
    rows.close()


# ----------------------------------------------------------------------------------------- what is left on the servers
def contexts(cluster: Cluster) -> list[int]:
    """Return the ids of the open scans of all replicas."""
    return [
        context
        for server in cluster.box.servers
        for replica in server.replicas.values()
        for context in replica.engine.contexts._live
    ]


def no_contexts(cluster: Cluster) -> bool:
    for _ in range(100):
        if not contexts(cluster):
            return True
        gevent.sleep(0.01)
    return False


def leave_by_break(rows: Scanner) -> None:
    for _ in rows:
        break


def leave_by_close(rows: Scanner) -> None:
    next(rows)
    rows.close()


def leave_by_error(rows: Scanner) -> None:
    try:
        with rows:
            next(rows)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


def leave_by_kill(rows: Scanner) -> None:
    def read() -> None:
        for _ in rows:
            gevent.sleep(10)

    reader = gevent.spawn(read)
    gevent.sleep(0.02)
    reader.kill()


def leave_by_timeout(rows: Scanner) -> None:
    next(rows)
    with gevent.Timeout(0.001, False):  # type: ignore[arg-type]
        for _ in rows:
            gevent.sleep(0)


def leave_by_the_end(rows: Scanner) -> None:
    for _ in rows:
        pass


LEAVE = [leave_by_break, leave_by_close, leave_by_error, leave_by_kill, leave_by_timeout, leave_by_the_end]


@pytest.fixture(scope="module")
def scanned(cluster: Cluster) -> Rows:
    """Store rows in a table that no other test fills."""
    cluster.box.create_table("scanned", 8)
    found = [(b"%d" % (n % 40), b"sort-%03d" % n, b"value-%d" % n) for n in range(200)]
    with Client(cluster.metas) as client:
        client.table("scanned").set_many(found)
    # As the dice fall, all could be of one sign.
    for server in cluster.box.servers:
        for replica in server.replicas.values():
            replica.engine.contexts._next = (1 if replica.index % 2 else -1) << 40
    return found


@pytest.mark.onebox_only
@pytest.mark.parametrize("parallel", [0, 1, 4])
@pytest.mark.parametrize("leave", LEAVE, ids=lambda leave: leave.__name__)
def test_no_context_is_left(
    cluster: Cluster, client: Client, scanned: Rows, leave: Callable[[Scanner], None], parallel: int
) -> None:
    """About half of all ids are negative; they are cleared like the others."""
    table = client.table("scanned")
    signs = set()
    for row in scanned[:8]:
        rows = table.hash_scan(row[0], batch_size=2) if not parallel else table.scan(batch_size=2, parallel=parallel)
        next(rows)
        signs |= {context < 0 for context in contexts(cluster)}
        leave(rows)
        del rows
        gc.collect()
        assert no_contexts(cluster)
    assert parallel == 1 or signs == {True, False}, "partition 0 has ids of one sign"
    assert all(connection.in_flight == 0 for connection in client._cluster.pool.connections)


@pytest.mark.onebox_only
@pytest.mark.parametrize("parallel", [1, 3])
def test_a_reader_killed_while_it_waits_leaves_no_context(
    cluster: Cluster, mine: Callable[..., Scanner], parallel: int
) -> None:
    """The reply that nobody waits for any more brings a new context."""
    cluster.box.fault("delay", rpc=["scan", "get_scanner"], seconds=0.05)

    def read() -> None:
        for _ in mine(batch_size=2, parallel=parallel):
            pass

    for delay in (0.01, 0.07, 0.12):
        reader = gevent.spawn(read)
        gevent.sleep(delay)
        reader.kill()
        gevent.sleep(0.1)
        assert no_contexts(cluster)


@pytest.mark.onebox_only
def test_close_and_drop_never_yield(cluster: Cluster, table: Table, many: Rows) -> None:
    for parallel in (1, 4):
        for drop in (False, True):
            rows = table.scan(batch_size=2, parallel=parallel)
            next(rows)
            other = gevent.spawn(lambda: None)
            if drop:
                del rows
                gc.collect()
            else:
                rows.close()
            assert not other.dead, "another greenlet has run"
            other.join()
            assert no_contexts(cluster)


@pytest.mark.onebox_only
def test_a_context_is_only_used_on_its_own_connection(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    found = fill(table, hash_key)
    rows = table.hash_scan(hash_key, batch_size=5)
    got = [next(rows) for _ in range(5)]
    before = {server.address: dict(server.requests) for server in cluster.box.servers}
    for connection in list(table.client._cluster.pool.connections):
        connection.close(PegasusError("cut by the test"))
    assert got + list(rows) == found
    scans = sum(
        server.requests.get("RPC_RRDB_RRDB_GET_SCANNER", 0) - before[server.address].get("RPC_RRDB_RRDB_GET_SCANNER", 0)
        for server in cluster.box.servers
    )
    assert scans == 1, "begun again on the new connection, not gone on with"
