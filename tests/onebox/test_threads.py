"""Test onebox handles in native threads, the fixtures of the plugin, and ``reset``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from pegasus_green import Client, Table
from pegasus_green.onebox import Onebox, OneboxProcess
from tests.onebox.raw import Routed

ROOT = Path(__file__).parents[2]


def in_threads(act: Callable[[int], Any], count: int = 8) -> list[Any]:
    """Run a function in native threads while this thread's hub goes on; return what each returned or raised."""
    results: list[Any] = [None] * count

    def work(number: int) -> None:
        try:
            results[number] = act(number)
        except BaseException as error:
            results[number] = error

    # Its threads are native, also in the patched lane.
    pool = ThreadPool(min(count, 8))
    try:
        with gevent.Timeout(60):
            gevent.wait([pool.spawn(work, number) for number in range(count)])
    finally:
        pool.kill()
    return results


def test_a_process_handle_works_in_native_threads() -> None:
    with OneboxProcess(tables={"temp": 2}) as box:

        def use(number: int) -> Any:
            box.create_table(f"t{number}", 2)
            rule = box.fault("drop", rpc="get", table=f"t{number}")
            found = (rule.hits, len(box.partitions(f"t{number}")), box.meta_addresses)
            rule.remove()
            return found

        assert in_threads(use) == [(0, 2, box.meta_addresses)] * 8
        assert box.list_faults() == []
        [error] = in_threads(lambda _number: box.partitions("nosuch"), 1)
        assert isinstance(error, LookupError)
        [error] = in_threads(lambda _number: box.stop(), 1)
        assert str(error) == "a onebox process must be stopped by the thread that started it"
        before = len(os.listdir("/proc/self/fd"))
        in_threads(lambda _number: box.now(), 50)
        assert len(os.listdir("/proc/self/fd")) <= before
    [error] = in_threads(lambda _number: box.now(), 1)
    assert str(error) == "the onebox is not running"


def test_a_onebox_in_this_process_works_in_native_threads(box: Onebox) -> None:
    def use(number: int) -> Any:
        box.create_table(f"t{number}", 2)
        return len(box.partitions(f"t{number}"))

    assert in_threads(use) == [2] * 8
    [error] = in_threads(lambda _number: box.drop_table("nosuch"), 1)
    assert isinstance(error, LookupError)
    assert in_threads(lambda _number: box.kill(0), 1) == [None]
    assert not box.servers[0].alive


def test_reset_empties_tables_and_removes_faults(make_box: Callable[..., Onebox]) -> None:
    box = make_box(metas=2, tables={"temp": 2}, failover_delay=0.05, strict=True)
    before = box.settings.failover_delay, box.settings.split_seconds
    table = Routed(box)
    table.put(b"k", b"s", b"v")
    box.create_table("other", 2)
    box.drop_table("other")
    box.fault("drop", rpc="get")
    box.kill(0)
    box.pause(1)
    box.kill_meta(1)
    box.set_leader(None)
    box.configure(failover_delay=9.0, split_seconds=9.0)
    box.advance(1000)
    box.client_bugs.append("a bug")
    gevent.sleep(0.2)
    box.reset()
    assert (box.list_faults(), box.client_bugs) == ([], [])
    assert [server["alive"] and not server["paused"] for server in box.stats()["servers"]] == [True] * 5
    assert (box.settings.failover_delay, box.settings.split_seconds) == before
    assert box.settings.strict
    assert (box.clock.skipped, box.executions("k")) == (0.0, 0)
    [only] = box.tables
    assert (only.name, only.partition_count, box.row_count("temp")) == ("temp", 2, 0)
    assert only.app_id == 3, "clients with routes of the old table are told that it is gone"
    assert [len(part["secondaries"]) for part in box.partitions("temp")] == [2, 2]
    table = Routed(box)
    assert table.put(b"k", b"s", b"v") == "ERR_OK"
    with Client(box.meta_addresses) as client:
        assert client.table("temp").get("k", "s") == b"v"


def test_reset_of_a_process_empties_its_data_directory(tmp_path: Path) -> None:
    with OneboxProcess(data=tmp_path / "data", tables={"users": 2}) as box, Client(box.meta_addresses) as client:
        client.table("users").set("k", "s", "v")
        box.reset()
        assert client.table("users").get("k", "s") is None
        client.table("users").set("k", "t", "v")
    with OneboxProcess(data=tmp_path / "data", tables={"users": 2}) as box:
        assert box.row_count("users") == 1


SUITE = """
import threading

def test_empty_and_usable(pegasus_table):
    assert pegasus_table.count() == 0
    pegasus_table.set("user:7", "name", "Ada")
    assert pegasus_table.get("user:7", "name") == b"Ada"

def test_another_one(pegasus_table, pegasus_onebox):
    assert pegasus_table.get("user:7", "name") is None
    assert pegasus_onebox.has_table(pegasus_table.name)
    assert not pegasus_onebox.has_table("test_1")

def test_threads(pegasus_table, pegasus_onebox):
    found = []
    def work():
        pegasus_table.set("k", "s", "v")
        found.append((pegasus_table.get("k", "s"), pegasus_onebox.row_count(pegasus_table.name)))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert found == [(b"v", 1)]

def test_reset_empties_tables_and_removes_faults(pegasus_table, pegasus_onebox):
    pegasus_onebox.reset()
    assert not pegasus_onebox.has_table(pegasus_table.name)
"""


def test_the_table_fixture_gives_each_test_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    plugins = ["-p", "pegasus_green.onebox.pytest_plugin", "-p", "no:pegasus_green", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_table_fixture_returns_a_table(pegasus_table: Table[bytes]) -> None:
    pegasus_table.set("user:7", "name", "Ada")
    assert pegasus_table.get("user:7", "name") == b"Ada"
