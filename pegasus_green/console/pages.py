"""The pages of the cluster and of a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from time import strftime

from ..admin.model import NodeInfo, PartitionInfo, TableStatus
from ..client import Client
from .markup import Html, html, join, link
from .markup import table as make_table
from .plots import placement
from .request import Page, Request, name_key, show_key

# Each table costs a request to a meta server.
MAX_TABLES = 100
# The picture has one rectangle for each partition and node.
MAX_CELLS = 20_000
SAMPLE = 20
SAMPLED_PARTITIONS = 4


def _state(text: str, *, is_ok: bool) -> Html:
    return html('<span class="{kind}">{text}</span>', kind="ok" if is_ok else "bad", text=text)


def _facts(pairs: Sequence[tuple[str, object]]) -> Html:
    items = join(html("<div><dt>{name}</dt><dd>{value}</dd></div>", name=name, value=value) for name, value in pairs)
    return html("<dl>{items}</dl>", items=items)


def _live(name: str, body: Html) -> Html:
    return html('<div id="{name}" data-live>{body}</div>', name=name, body=body)


def cluster(client: Client, request: Request) -> Page:
    """Show nodes, tables and health."""
    admin = client.admin
    facts, nodes, tables = admin.cluster_info(), admin.nodes(), admin.list_tables()
    primaries: Counter[str] = Counter()
    secondaries: Counter[str] = Counter()
    rows, unhealthy = [], 0
    for info in tables[:MAX_TABLES]:
        parts = admin.partitions(info.name)
        primaries.update(part.primary for part in parts if part.primary)
        secondaries.update(node for part in parts for node in part.secondaries)
        broken = sum(not part.is_healthy for part in parts)
        unhealthy += broken
        rows.append(
            [
                link(request.base, "/table", info.name, name=info.name),
                _state("healthy", is_ok=True) if not broken else _state(f"unhealthy: {broken}", is_ok=False),
                info.app_id,
                TableStatus(info.status).name.lower() if info.status in list(TableStatus) else str(info.status),
                info.partition_count,
                info.replica_count,
            ]
        )
    alive = {node.address: node.is_alive for node in nodes}
    dead = sum(not node.is_alive for node in nodes)
    well = not dead and not unhealthy
    troubles = [f"dead nodes: {dead}"] * bool(dead) + [f"unhealthy partitions: {unhealthy}"] * bool(unhealthy)
    words = ", ".join(troubles) or "healthy"
    head = _facts(
        [
            ("Health", _state(words, is_ok=well)),
            ("Leader", facts.get("primary_meta_server", "unknown")),
            ("Meta level", facts.get("meta_function_level", "unknown")),
            ("Nodes", f"{len(nodes) - dead} of {len(nodes)} alive"),
            ("Tables", f"{len(tables):,}"),
            ("Seen at", strftime("%H:%M:%S")),
        ]
    )
    node_table = make_table(
        "Nodes",
        ["node", "state", "primaries", "secondaries"],
        [
            [
                node.address,
                _life(node.address, alive),
                primaries[node.address],
                secondaries[node.address],
            ]
            for node in nodes
        ],
    )
    table_table = make_table("Tables", ["table", "health", "id", "status", "partitions", "replicas"], rows)
    note = Html()
    if len(tables) > MAX_TABLES:
        note = html(
            '<p class="note">The first {most} of {all} tables are shown and counted.</p>',
            most=MAX_TABLES,
            all=len(tables),
        )
    return Page("Cluster", _live("cluster", join([head, node_table, table_table, note])))


def _skew(parts: Sequence[PartitionInfo], nodes: Sequence[str], alive: Mapping[str, bool]) -> Html:
    primaries = Counter(part.primary for part in parts if part.primary)
    replicas = Counter(primaries)
    replicas.update(node for part in parts for node in part.secondaries)
    fair = len(parts) / max(len(nodes), 1)
    most = max((primaries[node] for node in nodes), default=0)
    head = html(
        "<p>A node has {fair} primaries on average; the fullest has {most} ({ratio} times the average).</p>",
        fair=f"{fair:.1f}",
        most=most,
        ratio=f"{most / fair:.2f}" if fair else "0",
    )
    rows = [
        [node, _life(node, alive), primaries[node], replicas[node] - primaries[node], replicas[node]] for node in nodes
    ]
    return join([head, make_table("Replicas by node", ["node", "state", "primaries", "secondaries", "all"], rows)])


def _life(node: str, alive: Mapping[str, bool]) -> Html:
    words = {True: "alive", False: "dead", None: "not listed"}
    return _state(words[alive.get(node)], is_ok=alive.get(node, False))


def _sample(client: Client, request: Request, name: str, count: int) -> Html:
    """Show a few rows of each of a few partitions, spread over the table."""
    step = max(count // SAMPLED_PARTITIONS, 1)
    chosen = list(range(0, count, step))[:SAMPLED_PARTITIONS]
    found = []
    each = SAMPLE // len(chosen) if chosen else 0
    for index in chosen:
        rows = client.table(name).scan(partitions=[index], limit=each, batch_size=each, with_ttl=True)
        for row in islice(rows, each):
            where = {"table": name, "hash": show_key(row.hash_key)}
            found.append(
                [
                    link(request.base, "/browse", name_key(row.hash_key), **where),
                    link(request.base, "/row", name_key(row.sort_key), sort=show_key(row.sort_key), **where),
                    len(row.value),
                    "never" if math.isinf(row.ttl) else f"{row.ttl:,} s",
                    index,
                ]
            )
    heads = ["hash key", "sort key", "bytes of value", "expires in", "partition"]
    return make_table(f"First rows of partitions {', '.join(map(str, chosen))}", heads, found)


def table(client: Client, request: Request) -> Page:
    """Show the placement of a table's partitions, its balance, its envs and a few rows."""
    name = request.need("name")
    admin = client.admin
    info, parts = admin.table_info(name), admin.partitions(name)
    nodes: list[NodeInfo] = admin.nodes()
    alive = {node.address: node.is_alive for node in nodes}
    # A replica may be on a server that the meta servers no longer list.
    used = {part.primary for part in parts if part.primary} | {node for part in parts for node in part.secondaries}
    names = sorted(alive.keys() | used)
    broken = sum(not part.is_healthy for part in parts)
    head = _facts(
        [
            ("Health", _state(f"unhealthy partitions: {broken}" if broken else "healthy", is_ok=not broken)),
            ("Id", info.app_id),
            ("Partitions", info.partition_count),
            ("Replicas", info.replica_count),
            ("Seen at", strftime("%H:%M:%S")),
        ]
    )
    if len(parts) * len(names) <= MAX_CELLS:
        picture = placement(parts, names, dead={node for node in names if not alive.get(node)})
    else:
        picture = html('<p class="note">There are too many partitions and nodes for a picture.</p>')
    live = join(
        [head, html("<h2>Partitions over nodes</h2>"), picture, html("<h2>Skew</h2>"), _skew(parts, names, alive)]
    )
    envs = make_table("Envs (settings of the table)", ["name", "value"], sorted(info.envs.items()))
    rows = [
        [part.index, part.primary or _state("none", is_ok=False), ", ".join(part.secondaries) or "none", part.ballot]
        for part in parts
    ]
    listed = make_table("Partitions", ["partition", "primary", "secondaries", "ballot"], rows)
    if "sample" in request.query:
        sample = _sample(client, request, name, len(parts))
    else:
        sample = html("<p>{link}</p>", link=link(request.base, "/table", "Show some rows", name=name, sample="1"))
    body = html(
        "{live}<p>{browse}</p><details><summary>Partitions as a list</summary>{listed}</details>"
        "{envs}<h2>Rows</h2>{sample}",
        live=_live("table", live),
        browse=link(request.base, "/browse", "Browse the rows of this table", table=name),
        listed=listed,
        envs=envs,
        sample=sample,
    )
    return Page(f"Table {name}", body)
