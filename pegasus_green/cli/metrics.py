"""Counters of replica servers from ``/metrics`` (releases after 2.5)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from time import time
from typing import Any

from gevent.pool import Pool

from ..client import Client
from ..errors import PegasusError
from .frame import App
from .http import get

HTTP_TIMEOUT = 5.0
ESTIMATE = "rdb_estimated_keys"


@dataclass
class NodeMetrics:
    """The counters of one server.

    Attributes:
        node: "host:port".
        error: Why the counters could not be read; "": they were read.
        at: Unix time by the server's clock.
        asked: Unix time by the local clock, in the middle of the request.
        calls: Requests for rows since the server started.
        calls_by_table: Requests by table id, if the server has this counter.
        keys: Estimated rows by table id and partition.
    """

    node: str
    error: str = ""
    at: float = 0.0
    asked: float = 0.0
    calls: int = 0
    calls_by_table: Counter[int] = field(default_factory=Counter)
    keys: dict[tuple[int, int], int] = field(default_factory=dict)


def read_metrics(client: Client, node: str, timeout: float = HTTP_TIMEOUT) -> NodeMetrics:
    """Read a server's counters. An error is stored in the result."""
    found = NodeMetrics(node)
    began = time()
    try:
        page: dict[str, Any] = json.loads(get(client, node, "/metrics", {}, timeout))
        found.asked = (began + time()) / 2
        found.at = page["timestamp_ns"] / 1e9
        for entity in page["entities"]:
            _take(found, entity)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found.error = str(error) or type(error).__name__
    return found


def _take(found: NodeMetrics, entity: dict[str, Any]) -> None:
    facts = entity.get("attributes", {})
    is_replica = entity["type"] == "replica"
    table, partition = int(facts.get("table_id", 0)), int(facts.get("partition_id", -1))
    for row in entity["metrics"]:
        name, value = row["name"], row.get("value", 0)
        if is_replica and name == ESTIMATE:
            found.keys[table, partition] = int(value)
        elif is_replica and name.endswith("_requests") and not name.startswith(("throttling", "backup")):
            found.calls += int(value)
            found.calls_by_table[table] += int(value)
        elif name.startswith("requests.RPC_RRDB_"):
            found.calls += int(value)


def read_all(client: Client, nodes: Iterable[str]) -> dict[str, NodeMetrics]:
    """Read the counters of several servers at the same time."""
    return {found.node: found for found in Pool(16).imap_unordered(partial(read_metrics, client), list(nodes))}


def estimate(app: App, table: str) -> tuple[int, list[str]]:
    """Return the servers' estimate of the rows of a table, and the reasons why it is incomplete."""
    admin = app.client.admin
    app_id = admin.table_info(table).app_id
    partitions = [part for part in admin.partitions(table) if part.ballot >= 0]
    metrics = read_all(app.client, {part.primary for part in partitions if part.primary})
    total, problems = 0, []
    for part in partitions:
        found = metrics.get(part.primary)
        if found is None:
            problems.append(f"partition {part.index} has no primary")
        elif found.error:
            problems.append(f"{part.primary}: {found.error}")
        elif (app_id, part.index) not in found.keys:
            problems.append(f"{part.primary} has no estimate for partition {part.index}")
        else:
            total += found.keys[app_id, part.index]
    return total, sorted(set(problems))


def first_line(error: PegasusError) -> str:
    """Return an error without its hint."""
    return str(error).splitlines()[0]
