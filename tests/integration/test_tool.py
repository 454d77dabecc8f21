"""Test the tool against the cluster of the tests, which may be a real one: reads, and changes of its own table."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from gevent import subprocess

from tests.conftest import Cluster
from tests.pythons import ROOT

READ_ONLY = """
    tables
    tables --all --health
    table {table}
    nodes
    cluster
    meta-level
    envs {table}
    replicas {table}
    split {table}
    compact {table}
    lost
    disks
    server-info --all
    server-stat --all
    remote help --all
    hash user:7
    count user:7
    get nobody nothing
    bulk-load {table}
"""


def _tool(cluster: Cluster, *words: str, table: str | None = None, stdin: str = "") -> tuple[int, str, str]:
    """Run the tool in a process while the hub continues to serve the embedded cluster."""
    url = f"pegasus://{','.join(cluster.metas)}/{table or cluster.table}?timeout=10"
    process = subprocess.Popen(
        [sys.executable, "-m", "pegasus_green", *words],
        cwd=ROOT,
        env={**os.environ, "PEGASUS_URL": url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(stdin.encode(), timeout=90)
    return process.returncode, out.decode(), err.decode()


def _rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_commands_that_only_read(cluster: Cluster) -> None:
    _, out, err = _tool(cluster, "-o", "jsonl", "shell", stdin=READ_ONLY.format(table=cluster.table))
    problems = [row for row in _rows(err) if "no such row" not in row["error"]]
    assert problems == []
    rows = _rows(out)
    assert any(row.get("name") == cluster.table and row.get("status") == "available" for row in rows)
    assert any("capacity_mb" in row for row in rows)
    assert all(not row["error"] for row in rows if "server" in row)


def test_commands_that_watch(cluster: Cluster) -> None:
    status, out, err = _tool(cluster, "doctor", "-o", "json")
    assert status == 0, out + err
    status, out, err = _tool(cluster, "top", "--once", "--interval", "0.2", "-o", "json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert any(node["p50_ms"] is not None for node in found["nodes"])
    assert not any(node["errors"] for node in found["nodes"])


def test_commands_that_change_their_own_table(cluster: Cluster, tmp_path: Path) -> None:
    name = f"tool_{uuid.uuid4().hex[:8]}"
    other = f"{name}_copy"
    path = tmp_path / "rows.jsonl"
    script = f"""
        create {name} -p 4
        create {other} -p 4
        use {name}
        mset user:7 name Ada mail \\x00\\xff --ttl 1h
        set '' empty 1
        incr user:7 visits 3
        cas user:7 name Grace --if-equals Ada
        touch user:7 visits 2h
        scan
        count
        count --by-partition
        count --histogram
        export {path} --quiet
        copy --to-table {other} --quiet
        clear --all --yes --quiet
        import {path} --quiet
        scan -t {other} --ttl
        drop {name} --yes --reserve 1m
        drop {other} --yes --reserve 1m
    """
    status, out, err = _tool(cluster, "-o", "jsonl", "shell", "-e", stdin=script)
    if status:
        _tool(cluster, "shell", stdin=f"drop {name} --yes --missing-ok\ndrop {other} --yes --missing-ok\n")
    assert (status, err) == (0, "")
    rows = _rows(out)
    assert {"rows": 4} in rows
    copied = [(row["hash_key"], row["sort_key"], row["value"]) for row in rows if "ttl" in row and "value" in row]
    assert sorted(copied) == [
        ("", "empty", "1"),
        ("user:7", "mail", "\\x00\\xff"),
        ("user:7", "name", "Grace"),
        ("user:7", "visits", "3"),
    ]
    assert [row["rows"] for row in rows if "seconds" in row] == [4, 4, 4, 4]


@pytest.mark.onebox_only
def test_no_command_sent_an_invalid_request(cluster: Cluster) -> None:
    assert cluster.box.client_bugs == []
