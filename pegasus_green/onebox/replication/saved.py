"""Tables as they are saved: to JSON, and back when a onebox opens a directory that has data."""

from __future__ import annotations

import json
from typing import Any

from .tables import AVAILABLE, CANCELING, DROPPED, NOT_READY, PAUSED, PAUSING, Partition, Split, Table, Tables

# What is saved of a table as it is.
_PLAIN = (
    "app_id", "name", "status", "init_partition_count", "replica_count", "envs", "app_type", "is_stateful",
    "atomic_idempotent", "created", "dropped", "expires", "served",
)  # fmt: skip


def describe(tables: Tables, skipped: float) -> str:
    """Return the tables, and how far the clock was moved ahead, as JSON."""
    return json.dumps({"last_id": tables.last_id, "skipped": skipped, "tables": [_row(table) for table in tables]})


def _row(table: Table) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(table, name) for name in _PLAIN}
    row["partitions"] = table.partition_count
    if table.split is not None:
        split = table.split
        row["split"] = {
            "old_count": split.old_count,
            "status": sorted(split.status.items()),
            "seconds": split.seconds,
            "window": split.window,
            "stepwise": split.stepwise,
        }
    return row


def restore(tables: Tables, text: str) -> float:
    """Add the tables that were described; return how far the clock was moved ahead.

    Their partitions have no replicas yet. A split goes on where it was, one that was being cancelled is cancelled.
    """
    found = json.loads(text)
    for row in found["tables"]:
        table = Table(row["app_id"], row["name"], row["partitions"], row["replica_count"], row["envs"])
        for name in _PLAIN:
            setattr(table, name, row[name])
        if table.status not in (AVAILABLE, DROPPED):
            table.status = AVAILABLE
        if "split" in row:
            _restore_split(table, row["split"])
        tables.by_id[table.app_id] = table
    tables.last_id = found["last_id"]
    return float(found["skipped"])


def _restore_split(table: Table, row: dict[str, Any]) -> None:
    old = row["old_count"]
    split = Split(old, row["seconds"], row["window"], stepwise=row["stepwise"])
    split.status = {index: PAUSED if status == PAUSING else status for index, status in row["status"]}
    if CANCELING in split.status.values():
        del table.partitions[old:]
        return
    for index in split.status:
        table.partitions[index + old] = Partition(index + old, NOT_READY)
    table.split = split
