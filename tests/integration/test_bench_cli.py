"""Test `pegasus-green bench` against a cluster, in its own process."""

from __future__ import annotations

import json
import re
import signal
import sys

import pytest
from gevent import subprocess

from tests.pythons import ROOT


def bench(cluster, *options, table=None, metas=None):
    """Start the command while the hub of this process continues to serve the embedded cluster."""
    command = [sys.executable, "-m", "pegasus_green", "bench", "--meta", metas or ",".join(cluster.metas)]
    command += ["--table", table or cluster.table, *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_mixed_load_is_counted_by_operation_and_its_rows_are_removed(cluster, table):
    options = ("--seconds", "1", "--callers", "16", "--mix", "get:6,set:2,incr:1,ttl:1", "--keys", "50", "--json")
    process = bench(cluster, *options)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    operations = report["operations"]
    assert report["errors"] == {}
    assert report["wrong_values"] == 0
    assert (
        report["calls"]
        == operations["all"]["calls"]
        == sum(operations[name]["calls"] for name in ("get", "set", "incr", "ttl"))
    )
    assert operations["get"]["calls"] > 16
    assert operations["set"]["calls"] == pytest.approx(report["calls"] / 5, rel=0.2)
    for row in operations.values():
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["p99.9_ms"] <= row["max_ms"]
    if not cluster.is_real:
        assert report["connections"] == 4  # three replica servers and the meta server
        assert list(table.scan()) == []


def test_bench_prints_a_line_a_second_and_a_report_when_interrupted(cluster):
    process = bench(cluster, "--seconds", "60", "--callers", "4", "--keys", "10", "--value-bytes", "0")
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[0].startswith("4 callers, get:9, set:1, values of 0 bytes, 10 records")
    live = re.fullmatch(r" +2 s +([\d,]+) calls   p50 +([\d.]+) ms   p99 +([\d.]+) ms   errors 0\n", lines[2])
    assert live, lines
    assert int(live[1].replace(",", "")) > 10
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert re.search(r"^[\d,]+ calls in [23]\.\d s by 4 callers over \d+ connections: [\d,]+/s", out, re.MULTILINE)
    assert re.search(r"^get +[\d,]+ +[\d,]+( +[\d.]+){5}$", out, re.MULTILINE)
    assert out.endswith("errors: none\n")


def test_a_missing_table_is_reported(cluster):
    process = bench(cluster, "--seconds", "1", table="no_such_table_at_all")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert out == ""
    assert "no_such_table_at_all" in err
    assert "Traceback" not in err


def test_a_cluster_that_does_not_answer_is_reported(cluster):
    process = bench(cluster, "--seconds", "1", "--timeout", "0.5", metas="127.0.0.1:1")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (4, "")
    assert "bench: no meta server returned the routes of the table in time; asked 127.0.0.1:1" in err


@pytest.mark.onebox_only
def test_failed_calls_are_counted_by_name(cluster, onebox):
    options = ("--seconds", "2", "--callers", "4", "--keys", "10", "--mix", "get", "--timeout", "0.5", "--json")
    rule = onebox.fault("error", error="ERR_ACL_DENY", rpc="get", count=7)
    process = bench(cluster, *options)
    out, err = process.communicate(timeout=60)
    rule.remove()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["errors"] == {"AccessDenied ERR_ACL_DENY": 7}
