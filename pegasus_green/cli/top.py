"""``top``: nodes and tables, calls per second, and the latency of a probe, live or once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter, strftime
from typing import Any

import click
import gevent
from gevent.pool import Pool

from ..admin.model import PartitionInfo, TableInfo
from ..errors import PegasusError
from ..keys import partition_hash
from .frame import DURATION, App, command, options, pass_app
from .latencies import Latencies
from .metrics import NodeMetrics, first_line, read_all
from .output import Column, number, state
from .statuses import OK, UNREACHABLE

PROBE_TIMEOUT = 2.0
PROBE_PAUSE = 0.02


def probe_keys(partitions: Sequence[PartitionInfo]) -> dict[str, list[bytes]]:
    """Return hash keys for each primary, one for each partition. It is unlikely that rows with these keys exist."""
    found: dict[int, bytes] = {}
    count = len(partitions)
    for tried in range(count * 200):
        key = f"pegasus-green probe {tried}".encode()
        found.setdefault(partition_hash(key) % count, key)
        if len(found) == count:
            break
    keys: dict[str, list[bytes]] = {}
    for part in partitions:
        if part.primary and part.index in found:
            keys.setdefault(part.primary, []).append(found[part.index])
    return keys


@dataclass
class Sample:
    """The state of the cluster at one moment."""

    facts: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, bool] = field(default_factory=dict)
    tables: list[tuple[TableInfo, list[PartitionInfo]]] = field(default_factory=list)
    metrics: dict[str, NodeMetrics] = field(default_factory=dict)
    failure: PegasusError | None = None

    @property
    def error(self) -> str:
        """The failure of the meta servers in one line; "" if they answered."""
        return "" if self.failure is None else first_line(self.failure)


class Watch:
    """Samples a cluster repeatedly, and probes its primaries with reads.

    Attributes:
        latencies: Latencies of the probe since the last sample, by node.
        errors: Errors of the probe since the last sample, by node.
    """

    def __init__(self, app: App, probe_table: str | None) -> None:
        """Watch the cluster of a command; nothing is sent."""
        self._app, self._probe_table = app, probe_table
        self._keys: dict[str, list[bytes]] = {}
        self.latencies: dict[str, Latencies] = {}
        self.errors: Counter[str] = Counter()

    def look(self) -> Sample:
        """Read the meta servers' data and the servers' counters; ``failure`` is an error of the meta servers."""
        admin = self._app.client.admin
        sample = Sample()
        try:
            sample.facts = admin.cluster_info()
            sample.nodes = {node.address: node.is_alive for node in admin.nodes()}
            sample.tables = [(info, admin.partitions(info.name)) for info in admin.list_tables()]
        except PegasusError as error:
            sample.failure = error
            return sample
        sample.metrics = read_all(self._app.client, [node for node, alive in sample.nodes.items() if alive])
        names = [info.name for info, _ in sample.tables]
        wanted = self._probe_table or (names[0] if names else None)
        self._keys = next((probe_keys(parts) for info, parts in sample.tables if info.name == wanted), {})
        self._probe_table = wanted
        return sample

    def probe(self, seconds: float) -> None:
        """Read from all primaries at the same time, until the time ends. Each gets one read after the other."""
        self.latencies = {node: Latencies() for node in self._keys}
        self.errors = Counter()
        if not self._keys or self._probe_table is None:
            gevent.sleep(seconds)
            return
        table = self._app.client.table(self._probe_table)
        end = perf_counter() + seconds

        def read(node: str) -> None:
            keys = self._keys[node]
            step = 0
            while True:
                began = perf_counter()
                try:
                    table.get(keys[step % len(keys)], b"", timeout=PROBE_TIMEOUT)
                except PegasusError:
                    self.errors[node] += 1
                else:
                    self.latencies[node].add(perf_counter() - began)
                step += 1
                if perf_counter() + PROBE_PAUSE >= end:
                    return
                gevent.sleep(PROBE_PAUSE)

        pool = Pool(len(self._keys))
        for node in self._keys:
            pool.spawn(read, node)
        pool.join()


def _rate(before: int, after: int, seconds: float) -> float | None:
    # The counter of a restarted server starts at 0.
    return round((after - before) / seconds, 1) if after >= before and seconds > 0 else None


def summary(before: Sample, after: Sample, watch: Watch) -> dict[str, Any]:
    """Return the difference of two samples as plain values."""
    primaries = Counter(part.primary for _, parts in after.tables for part in parts)
    secondaries = Counter(node for _, parts in after.tables for part in parts for node in part.secondaries)
    nodes = []
    by_table: Counter[int] = Counter()
    has_tables = False
    for node, alive in sorted(after.nodes.items()):
        old, new = before.metrics.get(node), after.metrics.get(node)
        known = old is not None and new is not None and not old.error and not new.error
        calls = None
        if known and old is not None and new is not None:
            calls = _rate(old.calls, new.calls, new.asked - old.asked)
            for table, count in new.calls_by_table.items():
                has_tables = True
                by_table[table] += int(_rate(old.calls_by_table[table], count, new.asked - old.asked) or 0)
        latencies = watch.latencies.get(node)
        probed = latencies is not None and latencies.total > 0
        nodes.append(
            {
                "node": node,
                "state": "alive" if alive else "dead",
                "primaries": primaries[node],
                "secondaries": secondaries[node],
                "calls_per_second": calls,
                "p50_ms": latencies.percentile(0.5) if probed and latencies else None,
                "p99_ms": latencies.percentile(0.99) if probed and latencies else None,
                "errors": watch.errors[node],
            }
        )
    tables = []
    for info, parts in after.tables:
        rows: int | None = 0
        for part in parts:
            found = after.metrics.get(part.primary)
            key = (info.app_id, part.index)
            rows = rows + found.keys[key] if rows is not None and found is not None and key in found.keys else None
        tables.append(
            {
                "table": info.name,
                "partitions": len(parts),
                "healthy": sum(part.is_healthy for part in parts),
                "no_primary": sum(not part.primary for part in parts),
                "calls_per_second": by_table[info.app_id] if has_tables else None,
                "rows_estimated": rows,
            }
        )
    cluster = {
        "leader": after.facts.get("primary_meta_server", ""),
        "level": after.facts.get("meta_function_level", ""),
        "error": after.error,
    }
    return {"cluster": cluster, "nodes": nodes, "tables": tables}


def _decimal(found: Any) -> str:
    return "" if found is None else f"{found:,.2f}" if found < 100 else f"{found:,.0f}"


NODE_COLUMNS = [
    Column("node"),
    state("state", ["alive"], ["dead"]),
    number("primaries"),
    number("secondaries"),
    number("calls_per_second", _decimal),
    number("p50_ms", _decimal),
    number("p99_ms", _decimal),
    number("errors"),
]
TABLE_COLUMNS = [
    Column("table"),
    number("partitions"),
    number("healthy"),
    number("no_primary"),
    number("calls_per_second", _decimal),
    number("rows_estimated"),
]


def _once(app: App, watch: Watch, interval: float) -> int:
    before = watch.look()
    if before.failure is not None:
        raise before.failure
    watch.probe(interval)
    after = watch.look()
    found = summary(before, after, watch)
    out = app.out
    status = UNREACHABLE if after.failure is not None else OK
    if not out.for_people:
        out.item(found)
        return status
    cluster = found["cluster"]
    out.done(f"leader {cluster['leader']}  meta level {cluster['level']}{cluster['error'] and '  ' + cluster['error']}")
    for columns, rows in ((NODE_COLUMNS, found["nodes"]), (TABLE_COLUMNS, found["tables"])):
        out.done("")
        out.rows(columns, [[row[column.name] for column in columns] for row in rows])
    return status


def picture(found: dict[str, Any], metas: Sequence[str]) -> Any:
    """Return a summary as a rich object."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    cluster = found["cluster"]
    head = Text.assemble(
        ("pegasus-green top", "bold"),
        f"  {strftime('%H:%M:%S')}  {','.join(metas)}  leader {cluster['leader'] or '?'}",
        f"  meta level {cluster['level'] or '?'}",
    )
    parts: list[Any] = [head]
    if cluster["error"]:
        parts.append(Text(cluster["error"], style="red"))
    for columns, rows in ((NODE_COLUMNS, found["nodes"]), (TABLE_COLUMNS, found["tables"])):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.name.replace("_", " "), justify="right" if column.right else "left")
        for row in rows:
            cells = []
            for column in columns:
                cell = row[column.name]
                text = column.show(cell) if column.show is not None else str(cell)
                is_bad = (column.name == "errors" and cell) or (column.name == "no_primary" and cell)
                style = "red" if is_bad else (column.style(cell) or "" if column.style is not None else "")
                cells.append(Text(text, style=style))
            table.add_row(*cells)
        parts += [Text(""), table]
    parts.append(Text("\nCtrl-C ends the program", style="dim"))
    return Group(*parts)


@command("top")
@options(
    click.option("--once", is_flag=True, help="Print one sample, after one interval; for scripts."),
    click.option("--interval", type=DURATION, default="1", metavar="TIME", help="Time between two samples [1 s]."),
    click.option("--count", "rounds", type=click.IntRange(1), metavar="N", help="End after N samples."),
)
@pass_app
def top(app: App, once: bool, interval: float, rounds: int | None) -> int:
    """Watch a cluster: nodes, tables, calls per second, the latency of a probe, and errors.

    The probe reads an absent row from every primary of --table, or of the first table. Calls and estimated rows come
    from the servers' /metrics (releases after 2.5).
    """
    watch = Watch(app, app.settings.table)
    if once or not sys.stdout.isatty() or app.settings.output not in (None, "table"):
        return _once(app, watch, interval)
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        before = watch.look()
        done = 0
        try:
            while rounds is None or done < rounds:
                watch.probe(interval)
                after = watch.look()
                live.update(picture(summary(before, after, watch), app.metas), refresh=True)
                before, done = after, done + 1
        except KeyboardInterrupt:
            pass
    return OK
