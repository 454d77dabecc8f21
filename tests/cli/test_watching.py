"""Test the commands doctor and top, and the charts of bench."""

from __future__ import annotations

import json
import time

import pytest

from pegasus_green import InvalidArgument
from pegasus_green.cli.charts import Second, check_plot, columns, save_plot
from pegasus_green.cli.doctor import _clock
from pegasus_green.cli.latencies import Latencies
from pegasus_green.onebox import OneboxProcess
from tests.cli.conftest import Tool


def test_doctor_reports_no_problem_for_a_healthy_cluster(tool, capfd):
    text = tool.process("doctor").out
    steps = [line.split()[1] for line in text.splitlines()]
    assert steps == ["dial", "meta", "leader", "nodes", "routes", *["read"] * 3, *["clock"] * 3]
    assert {line.split()[0] for line in text.splitlines()} == {"ok"}
    written = tool.run(capfd, "doctor", "--write", "-o", "json").json
    assert sum(row["step"] == "clock" and "TTL" in row["what"] for row in written) == 3
    assert tool.run(capfd, "scan", "--hash-filter", "prefix:pegasus-green probe", "-o", "json").json == []


def test_doctor_reports_each_problem(tool, capfd):
    def doctor(*words, status=1):
        found = tool.run(capfd, "doctor", "-o", "json", *words, status=status).json
        return {row["step"]: row for row in found if row["state"] != "ok"}

    wrong = doctor("--meta", "127.0.0.1:1,no-such-name.invalid:34601")
    assert "refuses connections" in wrong["dial"]["what"]
    assert "cannot be resolved" in wrong["name"]["what"]
    assert "no meta server can be reached" in wrong["meta"]["what"]
    replica = tool.run(capfd, "nodes", "-o", "json").json[0]["node"]
    assert "is a replica server" in doctor("--meta", replica)["meta"]["what"]
    assert doctor("--meta", replica)["leader"]["what"] == "none of these is a meta server"
    missing = doctor("-t", "nosuch")["table"]
    assert missing["what"] == "there is no table nosuch"
    assert "the tables are: temp" in missing["advice"]
    half = doctor("--meta", f"{tool.metas[0]},127.0.0.1:1")
    assert list(half) == ["dial"]
    shown = tool.run(capfd, "doctor", "--meta", "127.0.0.1:1", status=1)
    assert "WRONG  dial" in shown.out
    assert "-> the machine answers" in shown.out
    assert "2 of 2 steps found something wrong" in shown.err


def test_doctor_reports_a_dead_server_and_wrong_clocks(capfd):
    with OneboxProcess(tables={"temp": 4}) as box:
        tool = Tool(list(box.meta_addresses))
        box.kill(0)
        deadline = time.monotonic() + 60
        while (done := tool.run(capfd, "doctor", "-o", "json", status=None)).status == 0:
            assert time.monotonic() < deadline, done
        assert [row["step"] for row in done.json if row["state"] == "WRONG"] != []
    assert _clock("a:1", 61.0, "by x").what == "a:1: 61 s ahead of the local clock by x"
    assert _clock("a:1", -61.0, "by x").what == "a:1: 61 s behind the local clock by x"
    assert _clock("a:1", 4.0, "by x").state == "ok"


def test_top_prints_one_table_with_once(tool, capfd):
    text = tool.process("top", "--once", "--interval", "0.2").out
    assert text.startswith(f"leader {tool.metas[0]}  meta level steady")
    assert "P99 MS" in text
    found = tool.run(capfd, "top", "--once", "--interval", "0.2", "-o", "json").json
    assert [node["state"] for node in found["nodes"]] == ["alive"] * 3
    assert all(node["calls_per_second"] > 0 and node["p99_ms"] > 0 and not node["errors"] for node in found["nodes"])
    temp = next(row for row in found["tables"] if row["table"] == "temp")
    assert (temp["partitions"], temp["healthy"]) == (8, 8)
    assert temp["rows_estimated"] >= 0


def test_top_fails_where_no_server_answers(tool, capfd):
    done = tool.run(capfd, "top", "--once", "--meta", "127.0.0.1:1", "--timeout", "0.3", "-o", "json", status=4)
    assert json.loads(done.err)["code"] == "ERR_TIMEOUT"
    assert done.out == ""


def test_top_on_a_terminal(tool):
    done = tool.terminal("top", "--interval", "0.2", "--count", "2")
    assert done.status == 0
    assert "pegasus-green top" in done.out
    assert "calls per second" in done.out


def test_an_estimated_count_is_at_least_the_exact_one(tool, capfd, name):
    tool.run(capfd, "mset", name, "a", "1", "b", "2")
    exact = int(tool.run(capfd, "count").out)
    assert int(tool.run(capfd, "count", "--estimate").out) >= exact
    assert "give one of" in tool.run(capfd, "count", "--estimate", "--exact", status=2).err


def test_bench_draws_a_chart_of_its_run(tool, tmp_path):
    path = tmp_path / "run.png"
    done = tool.process("bench", "--seconds", "0.3", "--callers", "4", "--keys", "20", "--plot", str(path), "--json")
    assert json.loads(done.out)["calls"] > 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_bench_takes_the_cluster_before_and_after_its_name(tool, tmp_path):
    """All options of the URL apply, and the config file needs no default and no table."""
    metas = ",".join(tool.metas)
    url = f"pegasus://{metas}/temp?max_rate=100"
    config = tmp_path / "c.toml"
    config.write_text(f'[clusters.c]\nurl = "pegasus://{metas}?max_rate=100"\n')
    named = ("--config", str(config), "--cluster", "c", "--table", "temp")
    run = ("--seconds", "0.2", "--keys", "20", "--json")
    for words in (
        ("--url", url, "bench", *run),
        ("bench", "--url", url, *run),
        (*named, "bench", *run),
        ("bench", *named, *run),
    ):
        # Without the limit there are thousands of calls.
        assert 0 < json.loads(tool.process(*words).out)["calls"] < 300, words
    for name in ("meta", "url", "cluster", "config", "table"):
        assert f"--{name} is empty" in tool.process("bench", f"--{name}", "", *run, status=2).err


def test_bench_has_a_chart_on_a_terminal(tool):
    done = tool.terminal("bench", "--seconds", "0.5", "--callers", "4", "--keys", "20")
    assert done.status == 0
    assert "calls/s" in done.out
    assert "█" in done.out
    assert "errors: none" in done.out


def test_chart_lines(tmp_path):
    assert columns([0, 1, 4], height=2) == ["  █", " ▄█"]
    assert columns([], height=1) == [""]
    with pytest.raises(InvalidArgument, match=r"\.png or \.svg"):
        check_plot("run.gif")
    latencies = Latencies()
    for at in range(200):
        latencies.add(at / 1e4)
    save_plot(str(tmp_path / "a.svg"), "title", [Second(10, 1.0, 2.0), Second(20, 1.5, 2.5)], {"get": latencies})
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
