"""Test the tables of operations: the calls can be made as they are shown, and every row names existing tests.

Further tests show the rows of the tables that no other file tests.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import subprocess

import pegasus_green
from pegasus_green import (
    CheckType,
    Client,
    Filter,
    HedgePolicy,
    JsonCodec,
    Listener,
    Scanner,
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
TEXT, _, TESTS = (DOCS / "operations.md").read_text().partition("\n## Tests of the operations\n")


def cells(text: str, columns: int) -> list[list[str]]:
    """Return the rows of all tables with that many columns, without the headings."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == columns + 1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[0] != "operation"]


ROWS = cells(TEXT, 6)
TESTS_OF = dict(cells(TESTS, 2))
# The objects whose methods the calls show.
OBJECTS = {
    "table": Table,
    "client": Client,
    "admin": Admin,
    "rows": Scanner,
    "Client": Client,
    "CheckType": CheckType,
    "Filter": Filter,
}

# The operations that are not offered.
LEFT_OUT = {"start of a backup, a restore, a bulk load or a duplication"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_operation_has_existing_tests(row: list[str]) -> None:
    operation, ours = row[0], row[1]
    assert all(row)
    assert all(re.match("(yes|no|partly: .*)(: |$|, )", cell) for cell in row[2:]), row
    if operation in LEFT_OUT:
        assert re.match("no: .{10}", ours), f"{operation}: why not?"
        return
    assert not ours.startswith("no")
    links = re.findall(r"\[(\w+)\]\(([^)#]+)#(\w+)\)", TESTS_OF[operation])
    assert links
    for name, path, test in links:
        assert name == test
        assert f"\ndef {test}(" in (DOCS / path).read_text()
    assert len(links) == TESTS_OF[operation].count("]("), "a link to a whole file"


def test_every_listed_test_belongs_to_an_operation() -> None:
    operations = [row[0] for row in ROWS]
    assert len(set(operations)) == len(operations)
    assert list(TESTS_OF) == [operation for operation in operations if operation not in LEFT_OUT]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_calls_fit_the_signatures(row: list[str]) -> None:
    for code in re.findall(r"`([^`]+)`", row[1]):
        if code in {"None", "split", "_async", "*_many", "for", "PEGASUS_URL", "complete", "last_key"}:
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OBJECTS:
                assert hasattr(OBJECTS[node.value.id], node.attr), code
            if isinstance(node, ast.Call):
                _fits(node)
    for name in set(re.findall(r"`([A-Z][a-z]\w+)`", row[1])) - {"None"}:
        assert hasattr(pegasus_green, name), name


def _fits(call: ast.Call) -> None:
    """Check that the arguments of a call fit what it calls: a method of an object above, or a public name."""
    given = [None] * len(call.args), {keyword.arg: None for keyword in call.keywords if keyword.arg}
    if isinstance(call.func, ast.Name):
        if call.func.id != "next":
            inspect.signature(getattr(pegasus_green, call.func.id)).bind(*given[0], **given[1])
    elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        owner: Any = OBJECTS.get(call.func.value.id) or getattr(pegasus_green, call.func.value.id, gevent)
        method = inspect.getattr_static(owner, call.func.attr)
        itself = [] if isinstance(method, (classmethod, staticmethod)) or owner is gevent else [None]
        inspect.signature(getattr(owner, call.func.attr)).bind(*itself, *given[0], **given[1])


def test_every_method_has_a_row() -> None:
    named = " ".join(row[1] for row in ROWS)
    # Names that are not operations: attributes, and methods that only prepare calls.
    others = {"client", "name", "codec", "warm_up", "close"}
    for owner, kind in (("table", Table), ("admin", Admin)):
        verbs = {name for name in dir(kind) if not name.startswith("_") and not name.endswith("_async")}
        assert [name for name in sorted(verbs - others) if f"{owner}.{name}(" not in named] == []


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
    onebox.fault("delay", rpc="get_scanner", seconds=0.3)
    try:
        begin = monotonic()
        rows = list(table.scan())
        assert monotonic() - begin > 2.1, "8 partitions, one behind another"
        watch = Stopwatch()
        assert Counter(table.scan(parallel=8)) == Counter(rows)
        assert watch.seconds < 1.5
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
    # The first batch of a table is smaller, since the client does not know the size of its rows.
    assert len(list(table.hash_scan(hash_key))) == 100
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
