"""Test the commands for tables, servers and partitions, in separate processes and in one shell."""

from __future__ import annotations

import json
import time

import pytest

from pegasus_green.onebox import OneboxProcess
from tests.cli.conftest import Tool


@pytest.fixture(scope="module")
def box():
    """Serve a cluster whose servers may be killed."""
    with OneboxProcess(tables={"temp": 8}, metas=2) as box:
        yield box


@pytest.fixture(scope="module")
def tool(box):
    """Run the tool against it."""
    return Tool(list(box.meta_addresses))


def until(check):
    """Wait until a condition is true; return a false value if it is not in time."""
    end = time.monotonic() + 60
    while not (found := check()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_create_drop_and_recall_a_table(tool, capfd):
    created = tool.process("create", "pages", "-p", "4", "--env", "replica.slow_query_threshold=100").out
    assert created.startswith("created table pages, id ")
    app_id = created.split()[-1]
    listed = tool.run(capfd, "tables", "-o", "json").json
    assert [(row["name"], row["partitions"]) for row in listed] == [("temp", 8), ("pages", 4)]
    assert listed[1]["envs"] == {"replica.slow_query_threshold": "100"}
    assert tool.run(capfd, "create", "pages", "-p", "4", "--exist-ok", "-o", "json").json["id"] == int(app_id)
    assert "ERR_APP_EXIST" in tool.run(capfd, "create", "pages", "-o", "json", status=3).err
    refused = tool.run(capfd, "drop", "pages", status=2)
    assert "drops table pages with all its rows" in refused.err
    assert f"recall {app_id} restores it" in tool.run(capfd, "drop", "pages", "--yes").out
    assert tool.run(capfd, "drop", "pages", "--missing-ok", "--yes").out == "there is no table pages\n"
    dropped = [row for row in tool.run(capfd, "tables", "--all", "-o", "json").json if row["status"] == "dropped"]
    assert [row["name"] for row in dropped] == ["pages"]
    assert "recalls table" in tool.run(capfd, "recall", app_id, status=2).err
    assert tool.run(capfd, "recall", app_id, "back", "--yes").out == f"recalled table back, id {app_id}\n"
    tool.run(capfd, "rename", "back", "users")
    assert tool.run(capfd, "tables", "--health").lines[2].split()[1:6] == ["users", "available", "4", "4", "3"]
    assert "NAME=VALUE" in tool.run(capfd, "create", "x", "--env", "y", status=2).err


def test_every_command_runs_in_one_shell(tool, box):
    script = """
        # comments and empty lines are skipped

        use temp
        tables
        table temp
        nodes --disks
        cluster
        health
        meta-level
        meta-level lively
        meta-level steady
        envs temp default_ttl=86400 replica.slow_query_threshold=100
        envs temp --delete replica.slow_query_threshold
        envs temp --clear default
        replicas temp
        replicas temp 2
        replicas temp 3
        compact temp --start
        compact temp
        split temp
        hash user:7
        lost
        disks
        server-info
        server-stat --metas
        remote help
        remote nosuch
        hot-keys temp 0 read start
        hot-keys temp 0 read stop
        bulk-load temp
    """
    done = tool.process("-o", "jsonl", "--yes", "shell", stdin=script, status=None)
    assert (done.status, done.err) == (5, "")  # for the unknown command
    rows = [json.loads(line) for line in done.lines]
    text = done.out
    servers = [row["node"] for row in rows if "available_mb" in row and "disk" not in row]
    assert len(servers) == 3
    assert {"name": "temp", "status": "available"}.items() <= rows[0].items()
    assert [row["partition"] for row in rows if "ballot" in row] == list(range(8))
    assert {"what": "table", "name": "temp", "state": "healthy"} in rows
    assert {"level": "steady"} in rows
    assert {"level": "steady", "before": "lively"} in rows
    assert {"name": "default_ttl", "value": "86400"} in rows
    assert {"replicas": 2, "before": 3} in rows
    assert {"splitting": False, "partitions": 8} in rows
    assert sum("version" in (row.get("answer") or {}) for row in rows if "server" in row) == 3
    assert text.count("unknown command 'nosuch'") == 3
    assert {"table": "temp", "partition": 0, "kind": "read", "action": "start", "found": None} in rows
    assert next(row for row in rows if row.get("hash"))["partitions"] == 8
    assert {"status": None} in rows
    assert box.client_bugs == []


def test_requests_that_a_server_refuses_are_shown_as_errors(tool, capfd):
    assert "ERR_SERVICE_NOT_ACTIVE: no backup service" in tool.run(capfd, "backups", "temp", status=3).err
    assert "nothing found yet" in tool.run(capfd, "hot-keys", "temp", "1", "write", status=3).err
    asked = tool.run(capfd, "config", "some_option", "7", status=2)
    assert "sets some_option to 7 on 3 servers" in asked.err
    missing = tool.run(capfd, "envs", "nosuch", status=3)
    assert "table 'nosuch' does not exist" in missing.err
    dead = json.loads(tool.run(capfd, "server-info", "-s", "127.0.0.1:1", "-o", "jsonl", status=5).out)
    assert "127.0.0.1:1" in dead["error"]
    assert "below 8" in tool.run(capfd, "balance", "temp", "9", "move-primary", "a:1", "b:2", "--yes", status=2).err
    assert "ERR_APP_NOT_EXIST" in tool.run(capfd, "bulk-load", "nosuch", status=3).err


def test_config_shows_and_changes_the_settings_of_servers(tool, capfd, box):
    listed = tool.run(capfd, "config", "--metas").lines
    assert listed[0] == box.meta_addresses[0]
    assert "  [meta_server] failover_delay = 0.3" in listed
    one = tool.run(capfd, "config", "failover_delay").lines
    assert one[:2] == [box.replica_addresses[0], "  [replication] failover_delay = 0.3"]
    assert one[2].startswith("  From the death or silence of a replica server")
    assert tool.run(capfd, "config", "--section", "nothing", "-o", "json").json[0]["answer"] == {}
    assert "failover_delay" in tool.run(capfd, "config", "--section", "replication", "-o", "json").json[0]["answer"]
    words = ["config", "keep_executions", "100000000", "-s", box.replica_addresses[0], "--yes"]
    assert tool.run(capfd, *words).lines == [box.replica_addresses[0], "  ERR_OK"]
    tool.run(capfd, "config", "not UTF-8: \udcff", status=5)
    missing = tool.run(capfd, "config", "nosuch", status=5)
    assert missing.out.count("error: ERR_OBJECT_NOT_FOUND: nosuch is not found") == 3
    unset = tool.run(capfd, "config", "nosuch", "7", "--metas", "--yes", "-o", "json", status=5).json
    assert {row["error"] for row in unset} == {"ERR_OBJECT_NOT_FOUND: nosuch is not found"}


# Each by a process of its own as JSON, and in this one for people; what holds of the first, and what the second prints.
BY_PROCESS = [
    (["tables"], lambda found: found[0]["name"] == "temp", "temp"),
    (["table", "temp"], lambda found: len(found["partition_list"]) == found["partitions"] == 8, "temp"),
    (["nodes"], lambda found: [row["state"] for row in found] == ["alive"] * 3, "alive"),
    (["cluster"], lambda found: found["meta_function_level"] == "steady", "meta_function_level"),
    (["meta-level"], lambda found: found == {"level": "steady"}, "steady"),
    (["envs", "temp", "business.info=x"], lambda found: found["business.info"] == "x", "business.info"),
    (["replicas", "temp"], lambda found: found["replicas"] == 3, "3"),
    (["compact", "temp"], lambda found: "progress" in found, "compact"),
    (["bulk-load", "temp"], lambda found: found == {"status": None}, "no bulk load"),
    (["disks"], lambda found: len(found) == 3, "onebox"),
    (["server-info"], lambda found: {row["answer"]["version"] for row in found} == {"2.6.0"}, "version"),
    (["server-stat", "--metas"], lambda found: len(found) == 2, "connections"),
    (["remote", "help", "--all"], lambda found: len(found) == 5, "server-info"),
    (["config", "min_replicas"], lambda found: found[0]["answer"]["value"] == "null", "min_replicas = null"),
    (["lost"], lambda found: found == [], "SERVERS"),
    (["hash", "user:7"], lambda found: found["partitions"] == 8, "partition"),
    (["hot-keys", "temp", "2", "write", "stop"], lambda found: found["action"] == "stop", "the search has stopped"),
    (["health", "temp"], lambda found: found[0]["state"] == "healthy", "healthy"),
]


@pytest.mark.parametrize(("words", "holds", "text"), BY_PROCESS, ids=[" ".join(case[0][:1]) for case in BY_PROCESS])
def test_a_command_in_its_own_process_prints_the_same_facts(tool, capfd, words, holds, text):
    process = tool.start(*words, "-o", "json")
    shown = tool.run(capfd, *words, status=None)
    out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, b"")
    assert holds(json.loads(out)), out
    assert text in shown.out


def test_drop_recall_and_rename_in_separate_processes(tool):
    """Includes refused requests and the answers as JSON."""
    app_id = tool.process("create", "moving", "-p", "2", "-o", "json").json["id"]
    assert tool.process("drop", "moving", "--yes", "-o", "json").json == {"name": "moving", "id": app_id}
    assert tool.process("recall", str(app_id), "moved", "--yes", "-o", "json").json == {"name": "moved", "id": app_id}
    tool.process("rename", "moved", "there", "-o", "json")
    refused = tool.process("backups", "there", "-o", "json", status=3)
    assert json.loads(refused.err)["code"] == "ERR_SERVICE_NOT_ACTIVE"
    words = ["propose", "there", "1", "add-secondary", "127.0.0.1:1", "127.0.0.1:1", "--yes", "-o", "json"]
    assert tool.process(*words).json["kind"] == "add-secondary"
    tool.process("clear", "--all", "-t", "there", "--yes")


def test_replicas_are_moved(tool, capfd):
    def primary():
        return tool.run(capfd, "table", "temp", "-o", "json").json["partition_list"][0]

    before = primary()
    words = ["temp", "0", "move-primary", before["primary"], before["secondaries"][0]]
    assert "moves a replica of partition 0" in tool.run(capfd, "balance", *words, status=2).err
    assert tool.process("balance", *words, "--yes").out == "proposed\n"
    assert until(lambda: primary()["primary"] == before["secondaries"][0])
    words = ["temp", "1", "add-secondary", before["primary"], before["secondaries"][0]]
    assert tool.run(capfd, "propose", *words, "--yes", "-o", "json").json["kind"] == "add-secondary"


def test_split_runs_to_the_end_and_refuses_impossible_requests(tool, capfd):
    tool.run(capfd, "create", "splits", "-p", "2")
    assert "splits to 4 partitions" in tool.process("split", "splits", "--to", "4").out
    assert tool.run(capfd, "split", "splits", "--wait").out == "no split is running; the table has 4 partitions\n"
    assert "can be split only into 8" in tool.run(capfd, "split", "splits", "--to", "7", status=2).err
    assert "give one of" in tool.run(capfd, "split", "splits", "--pause", "--resume", status=2).err
    one = ["--partition", "0"]
    for words in (["--cancel", "--yes", *one], ["--to", "8", *one], one):
        assert "--partition needs --pause or --resume" in tool.run(capfd, "split", "splits", *words, status=2).err
    assert "ERR_INVALID_STATE" in tool.run(capfd, "split", "splits", "--cancel", "--yes", "-o", "json", status=3).err


def test_health_reports_a_dead_server(tool, capfd, box):
    box.kill(2)
    try:
        ill = until(lambda: (found := tool.run(capfd, "health", status=None)) and "dead" in found.out and found)
        assert ill, "a dead server was not noticed"
        assert ill.status == 1
        assert "not healthy" in ill.err
        assert tool.run(capfd, "health", "temp", "-o", "json", status=1).json[0]["what"] == "table"
    finally:
        box.restart(2)
    assert tool.process("health", "temp", "--wait").out.split()[-3:] == ["table", "temp", "healthy"]


def test_a_wrong_env_changes_nothing(tool, capfd):
    tool.run(capfd, "create", "settled", "-p", "1", "--env", "business.info=x")
    wrong = ["envs", "settled", "no equals sign"]
    for words in (["--delete", "business.info"], ["--clear", "business", "--yes"]):
        assert "an env is NAME=VALUE" in tool.run(capfd, *wrong, *words, status=2).err
    assert tool.run(capfd, "envs", "settled", "-o", "json").json == {"business.info": "x"}
