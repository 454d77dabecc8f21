"""Test streams of records with bounded memory and a limited rate, and truncate."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from pegasus_green import Client, ClientClosed, Filter, InvalidArgument, PegasusError, RequestTimeout, Table
from pegasus_green.onebox import Onebox
from pegasus_green.operations import streams
from tests.integration.helpers import nearly

pytestmark = pytest.mark.onebox_only


@pytest.fixture
def box() -> Iterator[Onebox]:
    with Onebox(tables={"temp": 4}) as box:
        yield box
        assert not box.client_bugs


@pytest.fixture
def table(box: Onebox) -> Iterator[Table]:
    with Client(box.meta_addresses, timeout=20.0) as client:
        yield client.table("temp")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BATCH", 100)
    monkeypatch.setattr(streams, "PAGE", 50)


def rows(count: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    return ((b"user:%d" % (number // 3), b"%d" % number, b"v") for number in range(count))


def test_a_generator_of_records_is_written_and_read(table: Table) -> None:
    seen: list[int] = []
    assert table.set_stream(rows(250), on_progress=seen.append) == 250
    assert seen == [100, 200, 250]
    keys = [(hash_key, sort_key) for hash_key, sort_key, _ in rows(260)]
    values = list(table.get_stream(iter(keys)))
    assert values == [b"v"] * 250 + [None] * 10
    assert table.remove_stream(iter(keys), on_progress=seen.append) == 260
    assert table.count() == 0
    assert table.set_stream([]) == table.remove_stream([]) == 0
    assert list(table.get_stream([])) == []


@pytest.mark.parametrize("verb", ["set_stream", "remove_stream"])
def test_an_error_of_the_iterable_has_the_number_of_finished_items(table: Table, verb: str) -> None:
    """Such as a generator that reads another table."""

    def source() -> Iterator[Any]:
        yield from (row if verb == "set_stream" else row[:2] for row in rows(250))
        error = RequestTimeout("of the source")
        error.done = 7
        raise error

    with pytest.raises(RequestTimeout, match="of the source") as caught:
        getattr(table, verb)(source())
    assert caught.value.done == 200


def test_a_ttl_for_each_item(box: Onebox, table: Table) -> None:
    items: list[Any] = [("a", "s", "v"), ("b", "s", "v", 100), ("c", "s", "v", None), ("d", "s", "v", 0)]
    for store in (table.set_many, table.set_stream):
        store(items, ttl=1000)
        left = [table.ttl(key, "s") for key in "abcd"]
        assert [None if ttl is None else math.ceil(ttl / 100) for ttl in left[:3]] == [10, 1, 10]
        assert left[3] == math.inf
    with pytest.raises(InvalidArgument, match="ttl"):
        table.set_many([("a", "s", "v", -1)])
    words = r"\(hash key, sort key, value\) or \(hash key, sort key, value, ttl\), not"
    with pytest.raises(InvalidArgument, match=words):
        table.set_many([("a", "s", "v", 1, 2)])  # type: ignore[list-item]


def test_rows_of_a_scan_are_stored_with_their_ttls(box: Onebox, table: Table) -> None:
    box.create_table("copy", 4)
    table.set_many([("a", "s", "v", 100), ("b", "s", "v")])
    copy = table.client.table("copy")
    for store in (copy.set_stream, copy.set_many):
        store(table.scan(with_ttl=True), ttl=1000)
        assert nearly(copy.ttl("a", "s"), 100)
        assert copy.ttl("b", "s") == math.inf
        lists: list[Any] = [["a", "s", "v", 200], ["b", "s", "v"]]
        store(lists, ttl=1000)
        assert nearly(copy.ttl("a", "s"), 200)
        assert nearly(copy.ttl("b", "s"), 1000)


def test_a_stream_uses_bounded_memory(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Table, "set_many", lambda _table, items, **_options: [None] * len(items))
    most = 0
    tracemalloc.start()
    try:
        assert table.set_stream(("h", "s", b"v" * 1000) for _ in range(100_000)) == 100_000
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 100 MB of values were read.
    assert most < 5_000_000


def test_an_error_reports_the_finished_records(box: Onebox, table: Table) -> None:
    def items() -> Iterator[tuple[Any, ...]]:
        yield from rows(150)
        yield ("h", "s")

    with pytest.raises(InvalidArgument) as caught:
        table.set_stream(items())
    assert caught.value.done == 100
    assert table.count() == 100


@pytest.mark.parametrize("items", [None, 5, "text", b"bytes"], ids=repr)
@pytest.mark.parametrize(("verb", "name"), [("set_stream", "items"), ("remove_stream", "keys"), ("get_stream", "keys")])
def test_arguments_that_are_not_iterable_are_refused(table: Table, verb: str, name: str, items: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"{name} must be an iterable of items"):
        getattr(table, verb)(items)


def test_an_iterable_is_read_as_late_as_possible(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BATCH", 2)
    read: list[int] = []

    def source() -> Iterator[tuple[str, str]]:
        for number in range(5):
            read.append(number)
            yield "h", str(number)

    values = table.get_stream(source())
    assert read == []
    next(values)
    assert read == [0, 1]
    seen: list[int] = []
    read.clear()
    assert table.remove_stream(source(), on_progress=lambda _done: seen.append(len(read))) == 5
    assert seen == [2, 4, 5]


def test_the_rate_limit_is_kept(table: Table) -> None:
    begin = monotonic()
    assert table.set_stream(rows(60), rate=100) == 60
    # It may be slower on a loaded machine, never faster.
    assert monotonic() - begin >= 0.5
    begin = monotonic()
    assert len(list(table.get_stream([("h", "s")] * 60, rate=100))) == 60
    assert monotonic() - begin >= 0.5
    for rate in (0, -1, "1", True, math.nan, math.inf):
        with pytest.raises(InvalidArgument, match="rate"):
            table.get_stream([], rate=rate)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="rate"):
            table.truncate(rate=rate)  # type: ignore[arg-type]
    assert table.set_stream(rows(3), rate=10**400) == 3


STREAMS: dict[str, Any] = {
    "set_stream": lambda table: table.set_stream(rows(3), rate=0.1),
    "remove_stream": lambda table: table.remove_stream([("h", "a"), ("h", "b")], rate=0.1),
    "get_stream": lambda table: list(table.get_stream([("h", "a"), ("h", "b")], rate=0.1)),
    "truncate": lambda table: table.truncate(rate=0.1),
}


@pytest.mark.parametrize("verb", STREAMS)
def test_a_deadline_ends_the_wait_for_the_rate(table: Table, verb: str) -> None:
    table.set_many(rows(3))
    begin = monotonic()
    with pytest.raises(RequestTimeout) as caught, table.client.deadline(1.0):
        STREAMS[verb](table)
    assert monotonic() - begin < 5.0
    assert not caught.value.outcome_unknown
    assert caught.value.done == (verb in ("set_stream", "remove_stream"))
    assert caught.value.deleted == (verb == "truncate")


@pytest.mark.parametrize("verb", STREAMS)
def test_close_ends_the_wait_for_the_rate(table: Table, verb: str) -> None:
    table.set_many(rows(3))
    stream: Any = gevent.spawn(STREAMS[verb], table)
    gevent.sleep(0.5)
    table.client.close()
    begin = monotonic()
    with pytest.raises(ClientClosed) as caught:
        stream.get()
    assert monotonic() - begin < 5.0
    assert caught.value.done == (verb in ("set_stream", "remove_stream"))
    assert caught.value.deleted == (verb == "truncate")


def test_truncate(table: Table) -> None:
    table.set_stream(rows(330))
    table.set_many([("", "one", "v"), ("", "two", "v")])
    seen: list[tuple[int, str]] = []
    assert table.truncate(on_progress=lambda deleted, token: seen.append((deleted, token))) == 332
    assert [deleted for deleted, _ in seen][-1] == 332
    assert len(seen) == 7
    assert table.count() == 0
    assert table.truncate() == 0


def test_truncate_by_filter_and_in_parallel(table: Table) -> None:
    table.set_stream(rows(300))
    table.multi_set("log:1", {"a": "1", "b": "2"})
    assert table.truncate(hash_key_filter=Filter.prefix("user:"), parallel=4) == 300
    assert table.truncate(sort_key_filter=Filter.prefix("a")) == 1
    assert list(table.scan()) == [(b"log:1", b"b", b"2")]


def test_truncate_goes_on_after_an_error(box: Onebox, table: Table) -> None:
    table.set_stream(rows(300))
    calls: list[int] = []

    def stop(deleted: int, _token: str) -> None:
        calls.append(deleted)
        if len(calls) == 2:
            box.fault("error", rpc="multi_remove", error="ERR_DISK_IO_ERROR")

    with pytest.raises(PegasusError) as caught:
        table.truncate(on_progress=stop)
    box.clear_faults()
    assert caught.value.deleted == calls[-1] == 100
    assert caught.value.token is not None
    words = r"with other arguments: its sort_key_filter is Filter\(.*NO_FILTER.*\), not Filter\([^)]*pattern=b'a'\)$"
    with pytest.raises(InvalidArgument, match=words):
        table.truncate(resume=caught.value.token, sort_key_filter=Filter.prefix("a"))
    # Some records of the failed batch may have been removed.
    assert 150 <= table.truncate(resume=caught.value.token) <= 200
    assert table.count() == 0


def test_truncate_in_small_requests(box: Onebox, table: Table) -> None:
    table.multi_set("large", {f"{number:0400}": "v" for number in range(120)})
    with Client(box.meta_addresses, timeout=20.0, max_write_bytes=5_000) as client:
        assert client.table("temp").truncate() == 120
    assert table.count() == 0


def test_an_error_of_the_callback_stays_as_it_was_raised(table: Table) -> None:
    table.set_stream(rows(120))
    error = PegasusError("of the application")

    def fail(*_progress: object) -> None:
        raise error

    for verb in (
        lambda: table.truncate(on_progress=fail),
        lambda: table.set_stream(rows(120), on_progress=fail),
        lambda: table.del_range("user:1", batch_size=1, on_progress=fail),
    ):
        with pytest.raises(PegasusError) as caught:
            verb()
        assert caught.value is error
        assert (error.deleted, error.done, error.token, error.last_key) == (0, 0, None, None)
