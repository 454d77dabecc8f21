"""Test counting, resuming from tokens, and iteration with errors, deadlines and several greenlets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from pegasus_green import Client, Filter, InvalidArgument, Listener, PegasusError, RequestTimeout, Table
from pegasus_green.scanner import Query, Scanner
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs
from tests.integration.scanning import Rows, contexts, fill, many, mine

__all__ = ["many", "mine", "no_client_bugs"]


# ------------------------------------------------------------------------------------------------------------- counting
def test_count_is_exact_with_filters_and_partitions(table: Table, many: Rows, hash_key: bytes) -> None:
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
def test_an_interrupted_count_of_a_partition_is_repeated(
    cluster: Cluster, client: Client, breaks: int, parallel: int
) -> None:
    """In the end the keys are read, which makes progress even if a count never ends in time."""
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
    assert 3 <= lost < 100 if breaks == 1000 else lost == breaks


@pytest.mark.onebox_only
def test_count_works_with_servers_that_send_rows_instead(
    cluster: Cluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers before release 2.5 ignore the request to count."""
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
def test_a_count_that_reaches_the_time_limit_of_the_server_is_repeated(cluster: Cluster, client: Client) -> None:
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
    with pytest.raises(InvalidArgument, match="belongs to a scan with other arguments"):
        table.hash_scan(hash_key, resume=first.token(), stop="c6")


def test_tokens_of_other_tables_or_scans_are_refused(client: Client, table: Table, hash_key: bytes) -> None:
    fill(table, hash_key)
    token = table.hash_scan(hash_key).token()
    for call, text in (
        (lambda: client.table("another").hash_scan(hash_key, resume=token), "belongs to table"),
        (lambda: table.hash_scan(hash_key + b"x", resume=token), "another hash key"),
        (lambda: table.scan(resume=token), "another hash key"),
        (lambda: table.hash_scan(hash_key, resume=table.scan().token()), "another hash key"),
        (lambda: table.hash_scan(hash_key, resume=token[:-3]), "not a scan token"),
        (lambda: table.hash_scan(hash_key, resume=token[5:]), "not a scan token"),
        (lambda: table.hash_scan(hash_key, resume=""), "not a scan token"),
        (lambda: table.hash_scan(hash_key, resume=b"x"), "text"),  # type: ignore[call-overload]
        (lambda: table.scan(resume=table.scan().token(), partitions=[0]), "partitions"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            call()


def test_an_unread_scan_of_partitions_resumes(mine: Callable[..., Scanner], table: Table) -> None:
    wanted = Counter(mine(partitions=[0, 1]))
    assert Counter(table.scan(resume=mine(partitions=[0, 1]).token())) == wanted


# ------------------------------------------------------------------------------------------------------------ iterating
def test_several_greenlets_share_one_scanner(mine: Callable[..., Scanner], many: Rows) -> None:
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


def test_next_after_the_end_and_after_close(table: Table, hash_key: bytes) -> None:
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
def test_a_scan_continues_after_an_error(
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
    # A missing context is not an error.
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
