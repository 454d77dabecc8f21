"""Test the commands for rows, each in its own process, with variants in this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import gevent

from pegasus_green import Client
from pegasus_green.onebox import Onebox
from tests.cli.conftest import Tool
from tests.waiting import wait_until


def test_commands_for_one_row(tool, capfd, name):
    assert tool.process("set", name, "a", "Ada", "--ttl", "1h").out == "stored, 3 bytes\n"
    assert tool.process("get", name, "a").out == "Ada\n"
    assert tool.process("exists", name, "a").out == "yes\n"
    assert tool.run(capfd, "exists", name, "b", "-o", "json", status=1).json["exists"] is False
    assert 3500 < int(tool.process("ttl", name, "a").out.split()[0]) <= 3600
    assert tool.process("touch", name, "a", "never").out == "never expires\n"
    assert tool.run(capfd, "ttl", name, "a").out == "never\n"
    assert tool.run(capfd, "ttl", name, "a", "-o", "json").json == {"hash_key": name, "sort_key": "a", "ttl": None}
    assert tool.process("incr", name, "n", "5").out == "5\n"
    assert tool.run(capfd, "incr", name, "n", "--", "-7").out == "-2\n"
    assert tool.run(capfd, "incr", name, "n", "-o", "json").json["value"] == -1
    assert "integer" in tool.run(capfd, "incr", name, "a", status=3).err
    assert tool.process("del", name, "a").out == "removed\n"
    for gone in ("get", "ttl"):
        assert tool.run(capfd, gone, name, "a", status=1).out == ""
    assert tool.run(capfd, "touch", name, "a", "1h", status=1).out == ""


def test_binary_values_are_stored_and_printed_unchanged(tool, capfd, name, tmp_path):
    data = bytes(range(256))
    tool.process("set", name, "all", "--file", "-", stdin=data)
    text = tool.run(capfd, "get", name, "all").out.rstrip("\n")
    tool.run(capfd, "set", name, r"k\x00", text)
    path = tmp_path / "value"
    path.write_bytes(data)
    tool.run(capfd, "set", name, "file", "--file", str(path))
    process = tool.start("mget", name, r"k\x00", "file", "-o", "raw")
    assert process.communicate(timeout=120)[0] == b"k\0\t" + data + b"\nfile\t" + data + b"\n"
    assert "give either VALUE or --file" in tool.run(capfd, "set", name, "a", status=2).err


def test_cas_writes_only_if_the_check_holds(tool, capfd, name):
    assert tool.process("cas", name, "a", "1", "--if-absent").out == "stored\n"
    refused = tool.process("cas", name, "a", "2", "--if-absent", status=1)
    assert refused.err == "error: not stored: the row is 1\n"
    assert tool.run(capfd, "cas", name, "a", "2", "--if-equals", "1", "-o", "json").json == {
        "hash_key": name, "sort_key": "a", "stored": True, "checked_value": "1",
    }  # fmt: skip
    tool.run(capfd, "cas", name, "a", "3", "--if", "int-less", "--operand", "5", "--ttl", "1h")
    tool.run(capfd, "cas", name, "b", "x", "--if", "exist", "--check-key", "a")
    assert tool.run(capfd, "scan", name, "--no-value").lines[1:] == ["a", "b"]
    assert "give one of" in tool.run(capfd, "cas", name, "a", "3", status=2).err


def test_commands_for_the_rows_of_a_hash_key(tool, capfd, name):
    assert tool.process("mset", name, "a", "1", "b", "2", "ba", "3", "c", "4", "--ttl", "1d").out == "stored 4 rows\n"
    assert tool.process("mget", name, "c", "a", "nosuch", "-o", "csv").lines == ["sort_key,value", "c,4", "a,1"]
    keys = [
        (["--prefix", "b"], ["b", "ba"]),
        (["--start", "b", "--stop", "c"], ["b", "ba"]),
        (["--start", "b", "--stop", "c", "--start-exclusive", "--stop-inclusive"], ["ba", "c"]),
        (["--filter", "suffix:a"], ["a", "ba"]),
        (["--filter", "contains:b", "--limit", "1"], ["b"]),
    ]
    for words, wanted in keys:
        for command in (["keys"], ["mget", "--no-value"], ["scan", "--no-value"]):
            assert tool.run(capfd, *command, name, *words, "-o", "csv").lines == ["sort_key", *wanted], (command, words)
    assert tool.process("keys", name).lines == ["SORT KEY", "a", "b", "ba", "c"]
    reverse = tool.run(capfd, "scan", name, "--reverse", "--limit", "2", "-o", "csv").lines
    assert reverse == ["sort_key,value", "c,4", "ba,3"]
    assert tool.run(capfd, "mget", name, "--reverse", "--limit", "2", "-o", "csv").lines == reverse
    assert tool.process("mdel", name, "a", "nosuch").out == "removed 2 rows\n"
    assert tool.run(capfd, "mdel", name, "--prefix", "b", "--yes", "-o", "json").json == {
        "hash_key": name,
        "removed": 2,
    }
    assert tool.run(capfd, "count", name, "-o", "json").json == {"hash_key": name, "rows": 1}
    assert "each sort key needs a value" in tool.run(capfd, "mset", name, "a", status=2).err
    assert "a filter must be" in tool.run(capfd, "keys", name, "--filter", "x", status=2).err


def test_mutate_applies_several_changes(tool, capfd, name):
    tool.run(capfd, "mset", name, "a", "1", "old", "x")
    words = ["--if", "int-equal", "--check-key", "a", "--operand", "1", "--put", "b", "2", "--put", "c", "3"]
    assert tool.process("mutate", name, *words, "--delete", "old").out == "done: 2 stored, 1 removed\n"
    assert tool.run(capfd, "keys", name, "-o", "csv").lines[1:] == ["a", "b", "c"]
    refused = ["--if", "not-exist", "--check-key", "a", "--delete", "a"]
    assert "the check did not pass" in tool.run(capfd, "mutate", name, *refused, status=1).err
    assert tool.run(capfd, "mutate", name, *refused, "-o", "json", status=1).json == {"hash_key": name, "done": False}
    assert "give --put" in tool.run(capfd, "mutate", name, status=2).err


def test_scan_and_count_of_the_whole_table(tool, capfd, name):
    for at in range(40):
        tool.run(capfd, "mset", f"{name}-{at:02d}", "a", "1" * at, "b", "2", "--ttl", "1h")
    mine = ["--hash-filter", f"prefix:{name}"]
    rows = tool.process("scan", *mine, "-o", "json").json
    assert len({(row["hash_key"], row["sort_key"]) for row in rows}) == len(rows) == 80
    with_ttl = tool.run(
        capfd, "scan", *mine, "--ttl", "--sort-filter", "prefix:b", "--parallel", "8", "-o", "csv"
    ).lines
    assert with_ttl[0] == "hash_key,sort_key,value,ttl"
    assert len(with_ttl) == 41
    parts = [tool.run(capfd, "scan", *mine, "--partition", str(at), "-o", "csv").lines[1:] for at in range(8)]
    assert sorted(line for part in parts for line in part) == sorted(
        f"{r['hash_key']},{r['sort_key']},{r['value']}" for r in rows
    )
    first = tool.run(capfd, "scan", *mine, "--limit", "30", "--show-token", "-o", "json")
    token = first.err.split("token: ")[1].strip()
    assert first.json + tool.run(capfd, "scan", "--resume", token, "-o", "json").json == rows
    counted = tool.run(capfd, "keys", *mine, "-o", "json").json
    assert [(row["rows"]) for row in counted] == [2] * 40
    assert tool.process("count", *mine, "--exact").out == "80\n"
    by_partition = tool.run(capfd, "count", *mine, "--by-partition", "-o", "json").json
    assert [row["rows"] for row in by_partition] == [len(part) for part in parts]
    sizes = tool.run(capfd, "count", *mine, "--histogram", "--largest", "3", "-o", "json").json
    assert (sizes["rows"], sizes["hash_keys"]) == (80, 40)
    assert sizes["value_bytes"]["largest"] == 39
    assert sizes["rows_per_hash_key"]["histogram"] == [{"from": 2, "to": 3, "count": 40, "share": 1.0}]
    assert [row["hash_key"] for row in sizes["largest_rows"]] == [f"{name}-39", f"{name}-38", f"{name}-37"]
    for_people = tool.run(capfd, "count", *mine, "--histogram").out
    assert "80 rows, 40 hash keys" in for_people
    assert "largest rows" in for_people


@contextmanager
def split_during_a_command(rows: list[tuple[str, str, str]], partitions: int, after: int) -> Iterator[Tool]:
    """Serve a table with rows. Its last partition splits when a command has made so many requests of scans.

    Its servers return rows of other partitions after that.
    """
    with Onebox(replicas=3, tables={"temp": partitions}, split_filter_delay=3600.0) as box:
        with Client(box.meta_addresses, timeout=20.0) as client:
            client.table("temp").set_many(rows)
        # The client repeats these requests, with newer routes.
        rule = box.fault("error", rpc=("get_scanner", "scan"), error="ERR_INVALID_STATE", after=after)

        def split() -> None:
            wait_until(lambda: rule.hits)
            box.split("temp", stepwise=True)
            assert [box.split_step("temp", partitions - 1) for _ in range(2)] == ["window", "ready"]
            seen = rule.hits
            wait_until(lambda: rule.hits > seen + 3)
            rule.remove()

        other = gevent.spawn(split)
        yield Tool(box.meta_addresses)
        other.get()


def test_count_by_partition_has_the_rows_of_a_child_that_becomes_ready_meanwhile(capfd):
    rows = [(f"user:{number}", "name", "v") for number in range(200)]
    with split_during_a_command(rows, partitions=4, after=0) as tool:
        counted = tool.run(capfd, "count", "--by-partition", "--parallel", "1", "-o", "json").json
    assert sum(row["rows"] for row in counted) == 200
    assert [row["partition"] for row in counted] == [0, 1, 2, 3, 7]


# Partition 1 of 2 gets user:5 and user:7 in the split.
MOVED = [*(("user:5", f"{number:04d}", "v") for number in range(1500)), ("user:6", "a", "v"), ("user:7", "a", "v")]


def test_keys_names_a_hash_key_once_if_the_table_splits_in_the_middle_of_it(capfd):
    with split_during_a_command(MOVED, partitions=1, after=1) as tool:
        found = tool.run(capfd, "keys", "-o", "json").json
    assert {row["hash_key"]: row["rows"] for row in found} == {"user:5": 1500, "user:6": 1, "user:7": 1}
    assert len(found) == 3


def test_the_histogram_counts_a_hash_key_once_if_the_table_splits_in_the_middle_of_it(capfd):
    with split_during_a_command(MOVED, partitions=1, after=1) as tool:
        found = tool.run(capfd, "count", "--histogram", "--parallel", "1", "-o", "json").json
    assert (found["rows"], found["hash_keys"]) == (1502, 3)
    assert found["hash_keys_with_most_rows"][0]["rows"] == 1500


def test_the_empty_hash_key_counts_once_although_it_is_in_all_partitions(tool, capfd, name):
    table = name.replace("-", "_")
    tool.run(capfd, "create", table, "-p", "4")
    for at in range(20):
        tool.run(capfd, "set", "", f"key{at}", "v", table=table)
    tool.run(capfd, "set", "user:7", "name", "v", table=table)
    found = tool.run(capfd, "keys", "-o", "json", table=table).json
    assert found == [{"hash_key": "user:7", "rows": 1}, {"hash_key": "", "rows": 20}]
    sizes = tool.run(capfd, "count", "--histogram", "-o", "json", table=table).json
    assert sizes["hash_keys"] == 2
    assert sum(line["count"] for line in sizes["hash_key_bytes"]["histogram"]) == 2
    tool.run(capfd, "drop", table, "--yes")


def test_a_scan_stops_when_the_pipe_is_closed(tool, capfd, name):
    for at in range(5):
        tool.run(capfd, "set", f"{name}{at}", "big", "x" * 200_000)
    scan = tool.start("scan", "--hash-filter", f"prefix:{name}")
    assert scan.stdout is not None
    assert scan.stderr is not None
    assert len(scan.stdout.read(1000)) == 1000
    scan.stdout.close()
    assert (scan.wait(120), scan.stderr.read()) == (0, b"")
    scan.stderr.close()


def test_scan_exits_with_0_when_head_closes_the_pipe(tool):
    command = f"set -o pipefail; {subprocess.list2cmdline([sys.executable])} -m pegasus_green scan | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], env=tool.env(), capture_output=True, text=True, timeout=180, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "HASH KEY  SORT KEY  VALUE\n" or done.stdout.startswith("HASH KEY")


def test_one_long_cell_does_not_widen_the_other_lines_of_a_table(tool, capfd, name):
    tool.run(capfd, "mset", name, "a", "x" * 5000, "b", "1", "c", "y" * 90)
    heading, *lines = tool.run(capfd, "scan", name, "--ttl").lines
    assert [len(line) for line in lines] == [2 + 8 + 5000 + 7, 2 + 8 + 90 + 7, 2 + 8 + 90 + 7]
    assert len(heading) == len(lines[1])
