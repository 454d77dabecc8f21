"""Test the data directory of a onebox: stops, kills, and a second onebox on the same directory."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from pegasus_green import Client
from pegasus_green.onebox import Onebox, OneboxProcess
from pegasus_green.onebox.store.files import Files
from pegasus_green.protocol import meta
from pegasus_green.protocol import rpc as rpcs
from tests.onebox.kills import survive
from tests.onebox.raw import Routed, ask

ROOT = Path(__file__).parents[2]
Open = Callable[..., Onebox]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def reopen(folder: Path) -> Iterator[Open]:
    """Return a function that stops the previous onebox and opens another one on the directory."""
    boxes: list[Onebox] = []

    def make(**options: Any) -> Onebox:
        if boxes:
            boxes.pop().stop()
        boxes.append(Onebox(data=folder, **options).start())
        return boxes[0]

    yield make
    for box in boxes:
        box.stop()
        assert (box.client_bugs, box.errors) == ([], [])


def rows(box: Onebox, table: str = "temp") -> dict[tuple[bytes, bytes], bytes]:
    with Client(box.meta_addresses) as client:
        return {(row[0], row[1]): row[2] for row in client.table(table).scan()}


# ----------------------------------------------------------------------------------------------------------- what stays
def test_rows_and_ttls_survive_a_restart(reopen: Open) -> None:
    with Client(reopen().meta_addresses) as client:
        table = client.table("temp")
        table.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
        table.set("user:8", "name", "Grace", ttl=500)
        table.set("user:9", "name", "gone")
        table.remove("user:9", "name")
        table.incr("page:1", "hits", 5)
        table.set(b"\0\xff", b"", b"\0" * 100_000)
    with Client(reopen().meta_addresses) as client:
        table = client.table("temp")
        assert dict(table.multi_get("user:7")) == {b"mail": b"a@b", b"name": b"Ada"}
        assert 400 < (table.ttl("user:8", "name") or 0) <= 500
        assert table.get("user:9", "name") is None
        assert table.incr("page:1", "hits") == 6
        assert table.get(b"\0\xff", b"") == b"\0" * 100_000


def test_decrees_and_ballots_increase_over_a_restart(reopen: Open) -> None:
    def write(box: Onebox) -> int:
        table = Routed(box)
        error, answer = table.call(rpcs.REMOVE, b"k", b"\0\1ks", b"s")
        table.close()
        assert error == "ERR_OK"
        return int(answer.decree)

    box = reopen(tables={"temp": 1})
    decrees, ballots = [write(box), write(box)], [box.partitions("temp")[0]["ballot"]]
    for _ in range(2):
        box = reopen(tables={"temp": 1})
        decrees.append(write(box))
        ballots.append(box.partitions("temp")[0]["ballot"])
    assert decrees == list(range(decrees[0], decrees[0] + 4))
    assert ballots == sorted(set(ballots))


def test_replicas_are_complete_after_a_restart(reopen: Open) -> None:
    with Client(reopen().meta_addresses) as client:
        client.table("temp").set("k", "s", "v")
    box = reopen()
    assert [len(part["secondaries"]) for part in box.partitions("temp")] == [2] * 8
    assert [box.row_count("temp", server) for server in range(3)] == [1, 1, 1]
    box.kill(0)
    assert rows(box) == {(b"k", b"s"): b"v"}


def test_tables_envs_and_ids_survive_a_restart(reopen: Open) -> None:
    box = reopen(tables={"temp": 2})
    assert box.create_table("users", 4) == 2
    with Client(box.meta_addresses) as client:
        client.admin.create_table("pages", 2, envs={"business.info": "x"})
        client.admin.set_envs("users", {"default_ttl": "700"})
        client.admin.rename_table("pages", "sites")
        client.table("sites").set("k", "s", "v")
        client.admin.drop_table("sites")
        client.admin.set_replica_count("temp", 2)
        client.admin.set_atomic_idempotent("temp", True)
    before = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos
    box = reopen(tables={"temp": 2, "other": 1})
    after = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos
    assert after[:3] == before
    assert [(info.app_id, info.app_name) for info in after[3:]] == [(4, "other")]
    with Client(box.meta_addresses) as client:
        assert client.admin.recall_table(3, force=True).name == "sites"
        client.admin.wait_until_healthy("sites")
        assert client.table("sites").get("k", "s") == b"v"
        client.table("users").set("k", "s", "v")
        assert client.table("users").ttl("k", "s") == pytest.approx(700, abs=5)


def test_a_dropped_table_is_not_served_after_a_restart(reopen: Open) -> None:
    box = reopen(tables={"temp": 1, "other": 1}, drop_delay=60)
    with Client(box.meta_addresses) as client:
        client.table("other").set("k", "s", "v")
    box.drop_table("other")
    assert sum(len(server.replicas) for server in box.servers) == 6
    box = reopen(tables={"temp": 1}, drop_delay=60)
    assert sum(len(server.replicas) for server in box.servers) == 3
    with Client(box.meta_addresses) as client:
        client.admin.recall_table(2, force=True)
        client.admin.wait_until_healthy("other")
        assert client.table("other").get("k", "s") == b"v"


def test_the_rows_of_an_expired_dropped_table_are_deleted(reopen: Open, folder: Path) -> None:
    box = reopen(tables={"temp": 2, "other": 2})
    with Client(box.meta_addresses) as client:
        client.table("other").set("k", "s", "v")
    box.drop_table("other", reserve_seconds=1)
    box.advance(5)
    assert len(ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos) == 1
    box.stop()
    files = Files(folder)
    assert {part[0] for part in files.decrees()} == {1}
    files.close()


def test_a_split_continues_after_a_restart(reopen: Open) -> None:
    box = reopen(tables={"temp": 2})
    with Client(box.meta_addresses) as client:
        for number in range(40):
            client.table("temp").set(f"k{number}", "s", "v")
        box.split("temp", stepwise=True)
        box.split_step("temp", 0)
        box.split_step("temp", 0)
        client.table("temp").set("k0", "s", "new")
    wanted = rows(box)
    box = reopen()
    assert box.split_status("temp") == {1: 1}
    assert rows(box) == wanted
    box.finish_split("temp")
    assert rows(box) == wanted
    box = reopen()
    assert (len(box.partitions("temp")), box.split_status("temp")) == (4, {})
    assert rows(box) == wanted


def test_rows_removed_by_a_compaction_do_not_return(reopen: Open) -> None:
    box = reopen(compaction_seconds=0)
    with Client(box.meta_addresses) as client:
        client.table("temp").set("k", "s", "v", ttl=10)
        client.table("temp").set("k", "t", "v")
        box.advance(60)
        client.admin.start_compaction("temp")
    box = reopen()
    assert box.row_count("temp") == 1
    assert box.now() > time.time() + 50, "the clock stays ahead"


def test_writes_made_while_a_server_was_dead_survive(reopen: Open) -> None:
    box = reopen(tables={"temp": 1}, failover_delay=0.05)
    with Client(box.meta_addresses) as client:
        for number in range(30):
            client.table("temp").set("k", f"{number}", "v")
            if number in (10, 20):
                primary = box.partitions("temp")[0]["primary"]
                box.kill(primary)
                gevent.sleep(0.1)
                box.restart(primary)
    assert len(rows(reopen())) == 30


# -------------------------------------------------------------------------------------------------------- one at a time
def test_a_second_onebox_on_the_same_directory_is_refused(reopen: Open, folder: Path) -> None:
    reopen()
    with pytest.raises(OSError, match=r"the data directory .*data is in use by another onebox of this process"):
        Onebox(data=folder).start()


def test_a_second_process_on_the_same_directory_is_refused(folder: Path) -> None:
    with OneboxProcess(data=folder) as box:
        command = [sys.executable, "-m", "pegasus_green", "onebox", "--port", "0", "--data", str(folder)]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        text = f"onebox: the data directory {folder} is in use by another onebox, process {box.process.pid}\n"
        assert (second.stdout, second.stderr) == ("", text)


def test_a_file_that_is_not_a_database_is_not_changed(folder: Path) -> None:
    folder.mkdir()
    (folder / "onebox.db").write_bytes(b"a text of somebody else" * 100)
    with pytest.raises(ValueError, match=r"onebox\.db cannot be opened: file is not a database"):
        Onebox(data=folder).start()
    assert (folder / "onebox.db").read_bytes() == b"a text of somebody else" * 100


def test_data_of_another_version_is_refused(folder: Path) -> None:
    files = Files(folder)
    files._db.execute("UPDATE facts SET value = '7' WHERE name = 'version'")
    files.close()
    with pytest.raises(ValueError, match="has data of version 7; this onebox reads version 1"):
        Files(folder)


# ------------------------------------------------------------------------------------------------------------- failures
def test_writes_fail_while_the_disk_refuses_them(reopen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    box = reopen(tables={"temp": 1})
    monkeypatch.setattr("pegasus_green.onebox.store.keeper.RETRY_SECONDS", 0.01)

    def refuse(*_arguments: object) -> None:
        raise OSError("database or disk is full")

    table = Routed(box)
    with monkeypatch.context() as patch:
        patch.setattr(Files, "commit", refuse)
        assert table.put(b"k", b"a", b"1") == "ERR_DISK_IO_ERROR"
    with gevent.Timeout(20):
        while table.put(b"k", b"b", b"2") != "ERR_OK":
            gevent.sleep(0.01)
    assert {key[1] for key in rows(reopen())} == {b"a", b"b"}


def test_an_incomplete_last_record_is_dropped(folder: Path) -> None:
    files = Files(folder)
    for number in range(50):
        files.commit([("write", (1, 0), number + 1, [(b"\0\1k%02d" % number, (b"v" * 500, 0))])])
    log = folder / "onebox.db-wal"
    whole = log.read_bytes()
    database = (folder / "onebox.db").read_bytes()
    files.close()
    for size in range(len(whole) // 2, len(whole), 4999):
        (folder / "onebox.db").write_bytes(database)
        log.write_bytes(whole[:size])
        again = Files(folder)
        found = len(again.rows((1, 0)))
        # A prefix of the commits: an incomplete commit is dropped as a whole.
        assert again.rows((1, 0)) == [(b"\0\1k%02d" % number, (b"v" * 500, 0)) for number in range(found)]
        assert again.decrees() == ({(1, 0): found} if found else {})
        again.close()


# ---------------------------------------------------------------------------------------------------------------- kills
@pytest.mark.slow
def test_no_acknowledged_write_is_lost_by_10_kills(folder: Path) -> None:
    assert survive(folder, 10, seed=random.randrange(1 << 30)) > 10
