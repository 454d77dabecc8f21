"""Test the table of operations: our column has no empty cell, and its links name existing tests.

Further tests show the rows of the table that no other file tests.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import subprocess

from pegasus_green import (
    Client,
    Filter,
    HedgePolicy,
    JsonCodec,
    Listener,
    Table,
    Utf8Codec,
    ZstdCodec,
    connect,
    open_table,
)
from pegasus_green.admin import Admin
from pegasus_green.onebox import Onebox
from tests.conftest import Cluster
from tests.pythons import ROOT
from tests.waiting import Stopwatch

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "operations.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and line.count("|") == 7 and not line.startswith("| operation |")
]

# Other names in our column: options, a method of scanners, a function.
OTHER_NAMES = {"max_count", "max_bytes", "timeout", "retry", "resume", "hedge", "return_errors", "limit", "batch_size"}
OTHER_NAMES |= {"auth", "token", "connect", "no_value", "next", "shared_client"}

# The operations that are not offered.
LEFT_OUT = {
    "start of backup, restore and bulk load; duplication",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_operation_has_a_row_with_an_existing_test(row: list[str]) -> None:
    operation, ours = row[0], row[-1]
    assert all(row)
    if ours.startswith("\N{EN DASH}"):
        assert re.match("\N{EN DASH} left out: .{10}", ours), f"{operation}: why not?"
        assert operation in LEFT_OUT
        return
    links = re.findall(r"\[(\w+)\]\(([^)#]+)#(\w+)\)", ours)
    assert links
    for name, path, test in links:
        assert name == test
        assert f"\ndef {test}(" in (DOCS / path).read_text()
    assert len(links) == ours.count("]("), "a link to a whole file"


def test_the_names_are_those_of_methods() -> None:
    for row in ROWS:
        for name in re.findall(r"`(?:admin\.)?([a-z_]+)(?:\([^`]*\))?`", row[-1]):
            assert name in OTHER_NAMES or hasattr(Table, name) or hasattr(Admin, name), name


def test_every_method_has_a_row() -> None:
    named = " ".join(row[-1] for row in ROWS)
    verbs = [name for kind in (Table, Admin) for name in dir(kind) if not name.startswith("_")]
    # Names that are not operations: attributes, and methods that only prepare calls.
    others = {"client", "name", "codec", "warm_up", "close"}
    asynchronous = {name for name in verbs if name.endswith("_async")}
    missing = [name for name in verbs if name not in others | asynchronous and f"`{name}" not in named]
    assert [name for name in missing if f"`admin.{name}`" not in named] == []


# ------------------------------------------------------------------------------------ rows that no other test shows
def test_calls_of_different_kinds_run_together(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "s", "v")
    table.warm_up()
    calls: list[tuple[Any, ...]] = [
        (table.get, hash_key, "s"),
        (table.incr, hash_key, "n"),
        (table.multi_get_sort_keys, hash_key + b"none"),
        (table.compare_exchange, hash_key + b"2", "s", None, "v"),
        (table.exist, hash_key, "s"),
    ]
    jobs = [gevent.spawn(*call) for call in calls]
    gevent.sleep(0)
    servers = table.client.stats()["servers"].values()
    assert sum(server["in_flight"] for server in servers) == len(calls), "all are sent before one is answered"
    value, count, keys, exchanged, there = [job.get() for job in jobs]
    assert (value, count, keys, bool(exchanged), there) == (b"v", 1, [], True, True)


def test_partitions_are_read_at_the_same_time(onebox: Onebox, table: Table) -> None:
    table.warm_up()
    onebox.fault("delay", rpc="get_scanner", seconds=0.15)
    try:
        begin = monotonic()
        rows = list(table.scan())
        assert monotonic() - begin > 1.0, "8 partitions, one behind another"
        watch = Stopwatch()
        assert Counter(table.scan(parallel=8)) == Counter(rows)
        assert watch.seconds < 0.8
    finally:
        onebox.clear_faults()


def test_a_token_goes_to_another_process(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.set_many([(hash_key + b"%d" % number, "s", "v") for number in range(100)])
    with table.scan(hash_key_filter=Filter.prefix(hash_key), limit=30) as rows:
        first = [row[0] for row in rows]
        token = rows.token()
    program = (
        "import sys; from pegasus_green import Client\n"
        "metas, table, token = sys.argv[1:]\n"
        "with Client(metas) as client: print([row[0] for row in client.table(table).scan(resume=token)])"
    )
    command = [sys.executable, "-c", program, ",".join(cluster.metas), cluster.table, token]
    rest = ast.literal_eval(subprocess.check_output(command, cwd=ROOT, text=True, timeout=30))
    assert sorted(first + rest) == sorted(hash_key + b"%d" % number for number in range(100))


def test_rows_of_a_request(client: Client, table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {f"{number:03}": "v" for number in range(100)})
    requests = []

    class Requests(Listener):
        def call_started(self, table: str, operation: str) -> None:
            requests.append(operation)

    client.add_listener(Requests())
    for size, count in ((1000, 1), (30, 4), (9, 12)):
        requests.clear()
        assert len(list(table.hash_scan(hash_key, batch_size=size))) == 100
        assert requests == ["scan"] * count


def test_an_exact_match(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {"a": "1", "ab": "2", "b": "3", "": "4"})
    for key, rows in ((b"a", [(b"a", b"1")]), (b"ab", [(b"ab", b"2")]), (b"aa", [])):
        assert list(table.hash_scan(hash_key, start=key, stop=key, stop_inclusive=True)) == rows
    with pytest.raises(ValueError, match="FilterType"):
        Filter(4, b"a")  # type: ignore[arg-type]


def test_tables_of_one_client_are_separate(onebox: Onebox, client: Client, table: Table, hash_key: bytes) -> None:
    onebox.create_table("other", 3)
    other = client.table("other")
    table.set(hash_key, "s", "of temp")
    assert other.get(hash_key, "s") is None
    other.set(hash_key, "s", "of other")
    assert (table.get(hash_key, "s"), other.get(hash_key, "s")) == (b"of temp", b"of other")
    table.warm_up()
    other.warm_up()
    assert {server["dials"] for server in client.stats()["servers"].values()} <= {0, 1}


def test_values_of_every_codec(client: Client, cluster: Cluster, table: Table, hash_key: bytes) -> None:
    class Tenths:
        def encode(self, value: float) -> bytes:
            return b"%.1f" % value

        def decode(self, raw: bytes) -> float:
            return float(raw)

    for codec, value, stored in (
        (Utf8Codec(), "Zo\xeb", b"Zo\xc3\xab"),
        (JsonCodec(), {"a": [1, None]}, b'{"a":[1,null]}'),
        (Tenths(), 4.5, b"4.5"),
        (ZstdCodec(), b"x" * 1000, None),
    ):
        coded = client.table(cluster.table, codec=codec)
        coded.set(hash_key, "s", value)
        assert coded.get(hash_key, "s") == value
        assert coded.multi_get(hash_key) == {b"s": value}
        assert list(coded.hash_scan(hash_key)) == [(b"s", value)]
        raw = table.get(hash_key, "s", default=b"")
        assert raw == stored if stored is not None else len(raw) < 100


def test_options_from_a_file(cluster: Cluster, hash_key: bytes, tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.write_text(f"pegasus://{','.join(cluster.metas)}/{cluster.table}?timeout=1.5&retry=off&hedge=0.02")
    with open_table(settings.read_text()) as table:
        options = table.client.options
        assert (options.timeout, options.retry, options.hedge) == (1.5, None, HedgePolicy(0.02))
        table.set(hash_key, "s", "v")
        assert table.get(hash_key, "s") == b"v"
    with connect(f"pegasus://{','.join(cluster.metas)}", timeout=3.0) as whole:
        assert whole.options.timeout == 3.0
        assert whole.table(cluster.table).get(hash_key, "s") == b"v"
