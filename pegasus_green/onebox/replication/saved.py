"""Conversion of tables to JSON, and back when a onebox opens a directory with data."""

from __future__ import annotations

import json
from typing import Any

from .tables import AVAILABLE, CANCELING, DROPPED, NOT_READY, PAUSED, PAUSING, Partition, Split, Table, Tables

# Attributes of a table that are stored unchanged.
_PLAIN = (
    "app_id", "name", "status", "init_partition_count", "replica_count", "envs", "app_type", "is_stateful",
    "atomic_idempotent", "created", "dropped", "expires", "served",
)  # fmt: skip


def describe(tables: Tables, skipped: float) -> str:
    """Return the tables, and the skipped time of the clock, as JSON."""
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
    """Add the stored tables; return the skipped time of the clock.

    Their partitions have no replicas yet. A split continues where it was; one that was being cancelled is cancelled.
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
