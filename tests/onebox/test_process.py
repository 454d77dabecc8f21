"""Test the onebox as a process: command line, signals, control port, and the pytest fixture."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.os as gevent_os
import pytest
from gevent import socket

from pegasus_green import Client
from pegasus_green.cli import main
from pegasus_green.onebox import Limits, Onebox, OneboxProcess, Settings
from pegasus_green.onebox.control.assembly import Assembly
from pegasus_green.onebox.control.port import METHODS, VALUES, from_json, to_json
from pegasus_green.onebox.kdc import free_port
from pegasus_green.onebox.runtime.settings import MAX_PARTITIONS
from pegasus_green.protocol import meta
from pegasus_green.protocol import rpc as rpcs
from tests.onebox.raw import Raw, ask
from tests.transport.scripts import finish, start_script
from tests.waiting import Stopwatch, wait_until

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pegasus_green", "onebox", "--port", "0"]


@pytest.fixture(scope="module")
def process() -> Iterator[OneboxProcess]:
    with OneboxProcess(metas=2, tables={"temp": 4, "other": 3}, seed=5, failover_delay=0.1) as box:
        yield box


def start(*options: str) -> tuple[subprocess.Popen[str], str]:
    child = subprocess.Popen([*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child, child.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_prints_one_line_and_ends_quickly_at_a_signal(number: signal.Signals) -> None:
    child, line = start("--metas", "2", "--replicas", "2", "--table", "a:3", "--table", "b:1", "--release", "2.5")
    assert line.startswith("ready meta=127.0.0.1:")
    metas = line.removeprefix("ready meta=").strip().split(",")
    assert len(metas) == 2
    raw = Raw(metas[0])
    assert [i.app_name for i in raw.call(rpcs.LIST_APPS, meta.ListAppsRequest())[1].infos] == ["a", "b"]
    watch = Stopwatch()
    child.send_signal(number)
    out, _ = child.communicate(timeout=30)
    assert (child.returncode, out) == (0, "")
    assert watch.seconds < 10.0


def test_an_error_of_the_disk_is_printed(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    command = [*COMMAND, "--data", str(tmp_path), "--table", "temp:1"]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,  # noqa: PLW1509
    )
    assert child.stdout is not None
    try:
        with Client([child.stdout.readline().split("=")[1].strip()], timeout=10) as client:
            table = client.table("temp")
            rows = [("key", str(number), "x" * 10_000) for number in range(100)]
            written = table.set_many(rows, return_errors=True)
            assert "ERR_DISK_IO_ERROR" in str(written)
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert err.startswith("onebox: the data cannot be written; writes are refused until the disk accepts them: ")


def test_the_given_ports_are_used_and_a_used_port_is_an_error() -> None:
    port = free_port()
    child = subprocess.Popen(
        [*COMMAND[:-1], str(port), "--control-port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    words = child.stdout.readline().split()
    assert words[:2] == ["ready", f"meta=127.0.0.1:{port}"]
    assert words[2].startswith("control=127.0.0.1:")
    second = subprocess.run(
        [*COMMAND[:-1], str(port)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
    child.terminate()
    assert child.wait(10) == 0
    child.stdout.close()


@pytest.fixture
def cpu_of_the_largest_table() -> float:
    """Return the CPU seconds of a onebox that makes the largest table and then ends."""
    child, line = start("--table", f"a:{MAX_PARTITIONS}")
    assert line.startswith("ready ")
    assert child.stdout is not None
    child.stdout.close()
    child.terminate()
    return cpu_seconds(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_onebox_while_the_largest_table_is_made(
    number: signal.Signals, cpu_of_the_largest_table: float
) -> None:
    """The onebox ends, and has not done more work than one that makes the table and then ends."""
    port = free_port()
    child = subprocess.Popen([*COMMAND[:-1], str(port), "--table", f"a:{MAX_PARTITIONS}"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        child.send_signal(number)
        used = cpu_seconds(child)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0
    assert used < 1.5 * cpu_of_the_largest_table


def cpu_seconds(child: subprocess.Popen[Any]) -> float:
    """Wait for a process and return the CPU time that it has used."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


WRONG_OPTIONS = {
    "--table x": "'x' is not NAME:PARTITIONS",
    "--table x:y": "'x:y' is not NAME:PARTITIONS",
    "--table x:0": "x must have 1 to 4096 partitions, not 0",
    "--table x:4097": "x must have 1 to 4096 partitions, not 4097",
    "--table a-b:3": "a table name can contain only 0-9 A-Z a-z . _ : and must not be empty, not 'a-b'",
    "--table :3": "a table name can contain only 0-9 A-Z a-z . _ : and must not be empty, not ''",
    "--table a:8 --table b:1 --table a:3": "--table names a table twice: a, b, a",
    "--table a:4000 --table b:97": "tables created together can have at most 4096 partitions, not 4097: a, b",
    "--release foo": "argument --release: invalid choice: 'foo' (choose from 2.5, 2.6)",
    "--release 9": "argument --release: invalid choice: '9' (choose from 2.5, 2.6)",
    "--release 3.1": "argument --release: invalid choice: '3.1' (choose from 2.5, 2.6)",
    "--set nope=1": "argument --set: unknown name 'nope'; known: failover_delay, ",
    "--set failover_delay=x": "failover_delay must be a number from 0 on, not 'x'",
    "--set failover_delay=-1": "failover_delay must be a number from 0 on, not '-1'",
    "--set heal_delay=true": "heal_delay must be null or a number from 0 on, not 'true'",
    "--set strict": "strict must be true or false, not ''",
    "--limit nope=3": "argument --limit: unknown name 'nope'; known: multi_get_rows, ",
    "--limit scan_rows=null": "scan_rows must be a number from 0 on, not 'null'",
    "--replicas 0": "a cluster needs at least one replica server",
    "--port 65536": "argument --port: a port is a number from 0 to 65535, not '65536'",
    "--control-port x": "argument --control-port: a port is a number from 0 to 65535, not 'x'",
}


WRONG_OPTIONS |= {
    "--meta-ports 34601-x": "ports must be numbers from 0 to 65535, like 34601-34603 or 34601,34602, not '34601-x'",
    "--meta-ports 34603-34601": "there must be at least one port, and each port only once, not '34603-34601'",
    "--replica-ports 34801,34801": "there must be at least one port, and each port only once, not '34801,34801'",
    "--metas 2 --port 0 --meta-ports 34601-34603": "meta_ports names 3 ports for 2 meta servers",
    "--port 34600 --meta-ports 34601-34603": "port and meta_ports cannot be combined",
    "--meta-ports 34601-34603 --replica-ports 34603": "a port is used twice",
    "--host 0.0.0.0": "host 0.0.0.0 needs advertise: the name or address by which clients reach this machine",
    "--sync": "sync has no effect without data",
    "--data=": "data names no directory",
    "--config nosuch.toml": "No such file or directory: 'nosuch.toml'",
}


@pytest.mark.parametrize("options", WRONG_OPTIONS)
def test_wrong_options_are_errors_that_name_them(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        with gevent.Timeout(5.0):  # if accepted, the process would serve
            status: object = main(["onebox", "--port", "0", *options.split()])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    # Some releases of argparse put the choices in quotes.
    assert WRONG_OPTIONS[options] in err.replace("from '2.5', '2.6'", "from 2.5, 2.6")


WRONG_CONFIGS = {
    "ports = 3": "unknown option 'ports'; known: host, port, metas, ",
    "port = ": "Invalid value",
    "port = true": "port has the invalid value True",
    "metas = 'two'": "metas has the invalid value 'two'",
    "tables = 3": "[tables] must be a table of names and values, not 3",
    "[tables]\na = 0": "a must have 1 to 4096 partitions, not 0",
    "[settings]\nnope = 1": "unknown name 'nope'; known: failover_delay, ",
    "[limits]\nscan_rows = 'x'": "scan_rows must be a number from 0 on",
    "control-port = 65536": "control-port must be a port from 0 to 65535, not 65536",
    "meta-ports = [1, true]": "ports must be numbers from 0 to 65535",
}


@pytest.mark.parametrize("text", WRONG_CONFIGS)
def test_wrong_configuration_files_are_errors_that_name_the_setting(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "onebox.toml").write_text(text)
    assert main(["onebox", "--config", str(tmp_path / "onebox.toml")]) == 2
    assert WRONG_CONFIGS[text] in capsys.readouterr().err


def test_the_command_line_takes_precedence_over_the_configuration_file(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(4)]
    (tmp_path / "onebox.toml").write_text(
        f"meta-ports = [{ports[0]}, {ports[1]}]\nreplica_ports = '{ports[2]},{ports[3]}'\nrelease = '2.5'\n"
        "[tables]\nusers = 4\npages = 2\n[settings]\nfailover_delay = 0.7\nstrict = true\n[limits]\nscan_rows = 7\n"
    )
    child = subprocess.Popen(
        [*COMMAND[:-2], "--config", str(tmp_path / "onebox.toml"), "--release", "2.6", "--control-port", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        assert child.stdout.readline().startswith(f"ready meta=127.0.0.1:{ports[0]},127.0.0.1:{ports[1]} control=")
        with Raw(f"127.0.0.1:{ports[0]}") as raw:
            nodes = raw.call(rpcs.LIST_NODES, meta.ListNodesRequest())[1].infos
            assert [node.hp_node for node in nodes] == [f"127.0.0.1:{port}" for port in ports[2:]]
            tables = raw.call(rpcs.LIST_APPS, meta.ListAppsRequest())[1].infos
            assert {info.app_name: info.partition_count for info in tables} == {"users": 4, "pages": 2}
    finally:
        child.terminate()
        child.communicate(timeout=20)
    assert child.returncode == 0


def test_ports_and_host_are_given_in_python() -> None:
    ports = [free_port() for _ in range(2)]
    with Onebox(meta_ports=ports[:1], replica_ports=f"{ports[1]}", host="0.0.0.0", advertise="localhost") as box:
        assert box.meta_addresses == [f"127.0.0.1:{ports[0]}"]
        assert box.replica_addresses == [f"127.0.0.1:{ports[1]}"]
        [part, *_] = ask(box, rpcs.QUERY_CFG, meta.QueryCfgRequest("temp")).partitions
        assert (meta.format_address(part.primary), part.hp_primary) == (
            f"127.0.0.1:{ports[1]}",
            f"localhost:{ports[1]}",
        )
    with OneboxProcess(meta_ports=[0, 0], replica_ports=[ports[1]]) as other:
        assert (len(other.meta_addresses), other.replica_addresses) == (2, [f"127.0.0.1:{ports[1]}"])
    with pytest.raises(OSError, match=r"cannot resolve 'no\.such\.host\.invalid', the name for clients"):
        Onebox(host="0.0.0.0", advertise="no.such.host.invalid").start()


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["onebox", "--help"])
    assert end.value.code == 0
    words = {word.strip(",") for word in capsys.readouterr().out.split()}
    assert words >= {*Settings.__dataclass_fields__, *Limits.__dataclass_fields__, str(MAX_PARTITIONS)}


def test_invalid_arguments_of_the_onebox_are_refused() -> None:
    for kind in (Onebox, OneboxProcess):
        with pytest.raises(ValueError, match="can have at most 4096 partitions, not 4097: a"):
            kind(tables={"a": MAX_PARTITIONS + 1})
        with pytest.raises(ValueError, match="table 'a' must have at least 1 partition, not 0"):
            kind(tables={"a": 0})
        with pytest.raises(ValueError, match=r"release must be one of 2\.5, 2\.6, not '2\.7'"):
            kind(release="2.7")
    with Onebox(tables={"a": 1}) as box:
        with pytest.raises(ValueError, match="table 'a' exists"):
            box.create_table("a")
        with pytest.raises(ValueError, match="can have at most 4096 partitions, not 5000: b"):
            box.create_table("b", 5000)


def test_a_process_accepts_the_tables_that_python_code_gives() -> None:
    tables = {"not by the clients' rule": 2, "": 1, "x": 1}
    with OneboxProcess(tables=tables) as box:
        infos = ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos
        assert {info.app_name: info.partition_count for info in infos} == tables


def test_the_process_ends_with_its_parent() -> None:
    code = (
        "from pegasus_green.onebox import OneboxProcess\n"
        "import os\n"
        "box = OneboxProcess().start()\n"
        "print(box.process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the onebox outlived its parent")


# -------------------------------------------------------------------------------------------------------------- control
def test_methods_work_over_the_control_port(process: OneboxProcess) -> None:
    assert len(process.meta_addresses) == 2
    assert (process.seed, process.release) == (5, "2.6")
    assert [part["index"] for part in process.partitions("other")] == [0, 1, 2]
    assert process.create_table("new", partitions=2, envs={"business.info": "x"}) == 3
    assert [info.app_name for info in ask(process, rpcs.LIST_APPS, meta.ListAppsRequest()).infos] == [
        "temp",
        "other",
        "new",
    ]
    process.drop_table("new")
    with pytest.raises(LookupError, match="new"):
        process.partitions("new")
    with pytest.raises(ValueError, match="unknown fault"):
        process.fault("nonsense")
    with pytest.raises(TypeError):
        process.configure(nope=1)
    with pytest.raises(AttributeError):
        process.no_such_method()
    assert process.execution_counts(b"nothing") == {}
    assert process.split_status("temp") == {}
    assert (process.client_bugs, process.errors) == ([], [])


def test_faults_work_over_the_control_port(process: OneboxProcess) -> None:
    with Raw(process.meta_addresses[0]) as raw:
        rule = process.fault("error", error="ERR_ACL_DENY", rpc="list_nodes", contains=b"NODES")
        assert raw.call(rpcs.LIST_NODES, meta.ListNodesRequest())[1].err == "ERR_ACL_DENY"
        assert (rule.hits, rule.seen) == (1, 1)
        rule.remove()
        assert rule.hits == 0
        assert raw.call(rpcs.LIST_NODES, meta.ListNodesRequest())[1].err == "ERR_OK"
    dead = process.replica_addresses[0]
    process.kill(dead)
    wait_until(lambda: all(part["primary"] not in (None, dead) for part in process.partitions("temp")))
    process.restart(0)


def test_the_control_port_answers_lines_of_json(process: OneboxProcess) -> None:
    with socket.create_connection(process._socket.getpeername()) as sock, sock.makefile("rwb") as stream:
        for line, answer in (
            (b'{"id": 7, "method": "executions", "args": [{"hex": "ff"}]}', {"id": 7, "result": 0}),
            (b'{"id": 8, "method": "get", "args": ["seed"]}', {"id": 8, "result": 5}),
        ):
            stream.write(line + b"\n")
            stream.flush()
            assert json.loads(stream.readline()) == answer
        for line in (b"[]", b"nonsense", b'{"id": 9, "method": "stop"}', b'{"method": "get", "args": ["clock"]}'):
            stream.write(line + b"\n")
            stream.flush()
            assert "error" in json.loads(stream.readline())


def test_values_are_converted_to_json_and_back() -> None:
    values: tuple[Any, ...] = (b"\0\xff", {"a": [1, None, b"x"]}, {1: 2, 3: 4}, {b"k": 1}, "text", 1.5, True, [], {})
    for value in values:
        assert from_json(json.loads(json.dumps(to_json(value)))) == value


def test_names_of_the_control_port_exist() -> None:
    box = Onebox()
    rooms = [cls for cls in Onebox.__mro__ if cls.__module__.startswith("pegasus_green.onebox.control.")]
    public = {name for cls in rooms if cls is not Assembly for name in vars(cls) if not name.startswith("_")}
    assert public - {"start", "stop"} == set(METHODS)
    assert all(hasattr(box, name) for name in VALUES)


def test_the_process_option_passes_the_limits() -> None:
    box: Any = Onebox(process=True, tables={}, limits=Limits(scan_rows=7), min_replicas=None)
    assert isinstance(box, OneboxProcess)
    with pytest.raises(RuntimeError, match="not running"):
        box.kill(0)
    with box:
        assert ask(box, rpcs.LIST_APPS, meta.ListAppsRequest()).infos == []
    assert box.process is None


def test_a_onebox_cannot_be_started_again_after_its_end(free_box: Onebox) -> None:
    with free_box:
        assert free_box.start() is free_box
    with pytest.raises(RuntimeError, match="cannot start again"):
        free_box.start()


@pytest.fixture
def free_box() -> Onebox:
    return Onebox(tables={"a": 1})


def test_the_pytest_fixture_works_in_another_project(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "@pytest.fixture(scope='session')\n"
        "def pegasus_onebox_options():\n"
        "    return {'tables': {'mine': 2}}\n"
    )
    (tmp_path / "test_mine.py").write_text(
        "def test_mine(pegasus_onebox):\n"
        "    assert pegasus_onebox.meta_addresses\n"
        "    assert len(pegasus_onebox.partitions('mine')) == 2\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "pegasus_green.onebox.pytest_plugin",
        "-p",
        "no:pegasus_green",
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_forked_child_does_not_affect_the_sockets_of_the_parent(free_box: Onebox) -> None:
    with free_box as box, Raw(box.partitions("a")[0]["primary"]) as raw:
        child = gevent_os.fork_and_watch()
        if child == 0:
            gevent.sleep(0.3)
            os._exit(0)
        route = {"app_id": 1, "partition_index": 0}
        for _ in range(200):
            assert raw.call(rpcs.GET, b"\0\1ab", **route)[0] == "ERR_OK"
            gevent.sleep(0.001)
        for _ in range(5):
            assert ask(box, rpcs.LIST_NODES, meta.ListNodesRequest()).err == "ERR_OK"
        gevent_os.waitpid(child, 0)


FORKS = """
import gevent
from pegasus_green.onebox import Onebox
from tests.fork.forking import fork

def ask():
    return {(box.has_table("temp"), box.has_table("nope"), len(box.replica_addresses)) for _ in range(20)}

def child():
    # The copies of the greenlets, which wait for the parent's answers, run in the child, too.
    gevent.joinall(askers, timeout=5)
    print(ask(), flush=True)
    box.stop()

with Onebox(tables={"temp": 2}, process=True) as box:
    askers = [gevent.spawn(ask) for _ in range(3)]
    gevent.sleep(0.005)
    wait = fork("os.fork", child)
    gevent.joinall(askers, timeout=20)
    print([asker.value for asker in askers], wait(), ask())
"""


def test_a_forked_child_uses_the_handle_and_does_not_stop_the_process() -> None:
    answers = {(True, False, 3)}
    # In the child, the copies of the greenlets end with an error, which gevent prints.
    status, out, _ = finish(start_script(FORKS, warn="ignore", patched=False))
    assert status == 0
    lines = {f"{answers}", f"{[answers] * 3} 0 {answers}"}
    assert set(out.splitlines()) == lines


def test_a_killed_caller_leaves_no_answer_to_the_next_one(process: OneboxProcess) -> None:
    for _ in range(20):
        caller = gevent.spawn(process.has_table, "temp")
        gevent.sleep(0)
        caller.kill()
        assert process.has_table("nope") is False
