"""The rows of the table: the two sides of each row and its goal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import onebox, special
from benchmarks.measure import Bench, Samples, Side, microseconds
from benchmarks.payload import BATCHES, ROWS, table_name
from benchmarks.peers import BASELINE

Measure = Callable[[Bench], Samples]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        key: Its name for --only.
        title: What is measured.
        against: What it is compared with; "" for an absolute goal.
        unit: Of the figures.
        must: The least that the ratio (or the figure, for an absolute goal) has to reach; None: no goal.
        aim: What it shall reach.
        measure: Does it.
        higher: Whether more is better.
        quick: Whether bench-quick has it.
        judge: What is held against the goals: the ratio, the figure itself ("value"), or the "difference".
    """

    key: str
    title: str
    against: str
    unit: str
    must: float | None
    aim: float | None
    measure: Measure
    higher: bool = False
    quick: bool = True
    judge: str = "ratio"


def tables(**shape: Any) -> list[str]:
    """Return the name of one table of a shape, as a list."""
    return [table_name(**shape)]


def green(scenario: str, calls: int, label: str, rows: int = 1, **spec: Any) -> Side:
    """Describe a side of pegasus_green."""
    spec.setdefault("tables", tables())
    return Side("green", scenario, calls, label, rows, spec)


def other(client: str, scenario: str, calls: int, label: str, rows: int = 1, **spec: Any) -> Side:
    """Describe a side of a peer or of the raw socket."""
    spec.setdefault("tables", tables())
    return Side(client, scenario, calls, label, rows, spec)


def pair(ours: Side, theirs: Side, figure: Callable[[dict[str, Any]], float] = microseconds) -> Measure:
    """Return a function that measures two sides in turns."""
    return lambda bench: bench.paired(ours, theirs, figure)


def megabytes(size: int) -> Callable[[dict[str, Any]], float]:
    """Return a function that converts a block into megabytes of payload for each CPU second."""
    return lambda used: used["calls"] * size / used["cpu"] / 1e6


def get(callers: int, calls: int, **spec: Any) -> Side:
    """Return the side of our gets."""
    return green("get", calls, f"get, {callers} callers", callers=callers, **spec)


PEER = "pypegasus"
BIG = 64 * 1024
IMPORT, FIRST_USE = "import pegasus_green", "from pegasus_green import open_table"
ONE_PARTITION = tables(partitions=1)
SCAN_UNIT = ROWS * BATCHES


def scanning(scenario: str, title: str, *, quick: bool) -> Row:
    """Return a row that compares scans, by row delivered."""
    sides = (
        green(scenario, 50_000, title, ROWS, tables=ONE_PARTITION, unit=SCAN_UNIT),
        other(PEER, scenario, 10_000, "pypegasus3", ROWS, tables=ONE_PARTITION, unit=SCAN_UNIT),
    )
    return Row(scenario.replace("_", ""), title, "pypegasus3", "us", 1 / 8, 1 / 15, pair(*sides), quick=quick)


def before(key: str, title: str, calls: int, must: float, aim: float | None, **side: Any) -> Row:
    """Return a row that compares us with the state of peers.BASELINE; client="pure": without the compiled core."""
    scenario, rows, client = side.pop("scenario"), side.pop("rows", 1), side.pop("client", "green")
    ours = other(client, scenario, calls, title, rows, **side)
    base = other("base", scenario, calls, "the baseline", rows, **side)
    return Row(key, title, BASELINE, "us", must, aim, pair(ours, base), quick=False)


def pure(key: str, title: str, calls: int, **side: Any) -> Row:
    """Return a row that compares our Python code, without the compiled core, with the state of peers.BASELINE."""
    return before(f"pure{key}", f"{title}, no core", calls, 1.0, None, client="pure", **side)


def growth(key: str, title: str, against: str, large: list[str], small: list[str]) -> Row:
    """Return a row that compares 64 callers on much with 64 callers on little, in one process."""
    sides = get(64, 25_600, tables=large), get(64, 25_600, tables=small)
    return Row(key, title, against, "us", 1.12, 1.05, pair(*sides), quick=False)


ROWS_OF_TABLE = (
    Row(
        "get64",
        "get, 64 callers",
        "pypegasus3",
        "us",
        1 / 9,
        1 / 12,
        pair(get(64, 25_600), other(PEER, "get", 3_200, "pypegasus3", callers=64)),
    ),
    Row(
        "set64",
        "set, 64 callers",
        "pypegasus3",
        "us",
        1 / 9,
        1 / 12,
        pair(green("set", 25_600, "set", callers=64), other(PEER, "set", 3_200, "pypegasus3", callers=64)),
    ),
    before("get64base", "get, 64 callers", 25_600, 0.8, 0.55, scenario="get", callers=64),
    before("get512base", "get, 512 callers", 51_200, 0.8, 0.55, scenario="get", callers=512),
    before("set64base", "set, 64 callers", 25_600, 0.8, 0.55, scenario="set", callers=64),
    before("set512base", "set, 512 callers", 51_200, 0.8, 0.55, scenario="set", callers=512),
    before("get1base", "get, 1 caller", 4_000, 0.95, 0.88, scenario="get", callers=1),
    Row(
        "getmanybase",
        "get_many of 1,000 keys, a key",
        f"get, 64, {BASELINE}",
        "us",
        0.5,
        0.35,
        pair(
            green("get_many", 50_000, "get_many", unit=1000),
            other("base", "get", 25_600, "the baseline", callers=64),
        ),
        quick=False,
    ),
    before(
        "scanbase",
        "scan of a table, a row",
        50_000,
        0.8,
        0.6,
        scenario="scan",
        rows=ROWS,
        tables=ONE_PARTITION,
        unit=SCAN_UNIT,
    ),
    before("multigetbase", "multi_get of 1,000 rows, a row", 50_000, 0.7, 0.4, scenario="multi_get", rows=ROWS),
    pure("get1", "get, 1 caller", 4_000, scenario="get", callers=1),
    pure("get64", "get, 64 callers", 25_600, scenario="get", callers=64),
    pure("get512", "get, 512 callers", 51_200, scenario="get", callers=512),
    pure("set64", "set, 64 callers", 25_600, scenario="set", callers=64),
    pure("scan", "scan of a table, a row", 50_000, scenario="scan", rows=ROWS, tables=ONE_PARTITION, unit=SCAN_UNIT),
    pure("multiget", "multi_get of 1,000 rows, a row", 50_000, scenario="multi_get", rows=ROWS),
    Row("get512", "get, 512 callers", "our 64", "us", 1.1, 1.0, pair(get(512, 51_200), get(64, 51_200))),
    Row("get5000", "get, 5,000 callers", "our 64", "us", 1.35, 1.2, pair(get(5000, 400_000), get(64, 51_200))),
    Row(
        "get1",
        "get, 1 caller",
        "pypegasus3",
        "us",
        1 / 2,
        1 / 2.5,
        pair(get(1, 4_000), other(PEER, "get", 2_000, "pypegasus3")),
    ),
    Row(
        "get1raw",
        "get, 1 caller",
        "raw socket",
        "us",
        1.6,
        1.25,
        pair(get(1, 4_000), other("raw", "get", 4_000, "raw gevent socket")),
    ),
    Row(
        "getmany",
        "get_many of 1,000 keys, a key",
        "our get, 64",
        "us",
        0.6,
        0.4,
        pair(green("get_many", 50_000, "get_many", unit=1000), get(64, 25_600)),
    ),
    scanning("scan", "scan of a table, a row", quick=True),
    scanning("hash_scan", "scan of a hash key, a row", quick=False),
    Row(
        "multiget",
        "multi_get of 1,000 rows, a row",
        "pypegasus3",
        "us",
        1 / 5,
        1 / 8,
        pair(
            green("multi_get", 50_000, "multi_get", ROWS),
            other(PEER, "multi_get", 10_000, "pypegasus3", ROWS),
        ),
    ),
    Row(
        "get64k",
        "get of 64 KiB, MB a CPU second",
        "raw socket",
        "MB/s",
        0.6,
        0.8,
        pair(
            get(16, 3_200, tables=tables(value=BIG)),
            other("raw", "get", 3_200, "raw, blocks of 16", tables=tables(value=BIG), block=16),
            megabytes(BIG),
        ),
        higher=True,
    ),
    Row(
        "set64k",
        "set of 64 KiB, MB a CPU second",
        "raw socket",
        "MB/s",
        0.6,
        0.8,
        pair(
            green("set", 3_200, "set of 64 KiB", callers=16, tables=tables(value=BIG)),
            other("raw", "set", 3_200, "raw, blocks of 16", tables=tables(value=BIG), block=16),
            megabytes(BIG),
        ),
        higher=True,
    ),
    Row(
        "get1k",
        "get of 1 KB, 150 callers",
        "raw, by 150",
        "us",
        22,
        14,
        pair(
            get(150, 30_000, tables=tables(value=1000)),
            other("raw", "get", 150_000, "raw, blocks of 150", tables=tables(value=1000), block=150),
        ),
    ),
    Row(
        "get1krate",
        "get of 1 KB, calls a second (wall)",
        "",
        "/s",
        120_000,
        180_000,
        special.top_rate,
        higher=True,
        judge="value",
    ),
    Row("peakget", "get of 64 KiB, tracemalloc peak", "", "x", 3, 2, special.peak("get"), judge="value"),
    Row("peakset", "set of 64 KiB, tracemalloc peak", "", "x", 3, 2, special.peak("set"), judge="value"),
    Row(
        "waiting",
        "memory of one of 10,000 waiting callers",
        "Event.wait",
        "KiB",
        2,
        1,
        special.waiting,
        quick=False,
        judge="difference",
    ),
    Row("idle", "memory of one of 100 idle connections", "", "KiB", 300, 64, special.idle, quick=False, judge="value"),
    growth("partitions", "get, 64 partitions", "our 1", tables(partitions=64), ONE_PARTITION),
    growth("servers", "get, 3 servers", "our 1", tables(partitions=9, servers=3), tables(partitions=9)),
    growth("tables", "get, 20 tables", "our 1", [table_name(number=number) for number in range(20)], tables()),
    Row("aged", "get, after 10^6 calls", "young", "us", 1.15, 1.05, special.aged, quick=False),
    Row("import", IMPORT, "import gevent", "ms", 2, 1.3, special.importing(IMPORT)),
    # The bare import loads little; the first use of a name loads the rest.
    Row("firstuse", FIRST_USE, "import gevent", "ms", None, None, special.importing(FIRST_USE)),
    Row("connect", "connect() to the first value", "", "ms", 15, 5, special.connecting, judge="value"),
    Row(
        "listener",
        "get with a listener that does nothing",
        "none",
        "us",
        1.05,
        1.02,
        pair(get(64, 25_600, listener=True), get(64, 25_600)),
    ),
    Row("p99", "p99 on schedule, half of the top rate", "raw socket", "ms", 1.5, 1.2, special.latency(spin=False)),
    Row(
        "p99spin",
        "the same with a loop that never sleeps",
        "raw socket",
        "ms",
        None,
        None,
        special.latency(spin=True),
        quick=False,
    ),
    # These rows measure the embedded cluster, not the client.
    Row("oneboxget", "onebox: CPU for a get of 64 callers", "", "us", None, None, onebox.gets, judge="value"),
    Row("oneboxscan", "onebox: CPU for a scanned row", "", "us", None, None, onebox.scans, judge="value"),
    Row(
        "redis64",
        "get, 64 callers",
        "redis-py",
        "us",
        None,
        None,
        pair(get(64, 25_600), other("redis", "get", 3_200, "redis-py + hiredis", callers=64)),
        quick=False,
    ),
    Row(
        "redis1",
        "get, 1 caller",
        "redis-py",
        "us",
        None,
        None,
        pair(get(1, 4_000), other("redis", "get", 2_000, "redis-py + hiredis", callers=1)),
        quick=False,
    ),
)
