"""Test forks that run no Python hooks: they are noticed before a socket is used, and inherited watchers are removed."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.transport.fakes import Stage, key_of
from tests.transport.scripts import run_script


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()


PRELUDE = """
import ctypes, os, sys
# The loop's own descriptors get higher numbers: in a child libev closes them by number after it has made new ones.
spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
import gevent, gevent.monkey
from pegasus_green import Client
metas, way = sys.argv[1].split(","), sys.argv[2]
client = Client(metas, timeout=2.0)
table = client.table("temp")

if way == "os.fork" and gevent.monkey.is_module_patched("os"):
    # Otherwise gevent never sees the end of a first child that ends before gevent handles SIGCHLD.
    gevent.get_hub().loop.install_sigchld()

def fork():
    child = os.fork() if way == "os.fork" else ctypes.PyDLL(None).fork()
    if not child and way == "reinit":
        gevent.reinit()
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("way", ["reinit", "no reinit", "os.fork"])
def test_both_processes_get_their_own_replies(stage: Stage, way: str) -> None:
    stage.server()
    out = run_script(
        PRELUDE
        + """
def check(begin):
    for n in range(begin, begin + 60):
        table.set(f"k{n}", "s", f"v{n}")
        assert table.get(f"k{n}", "s") == f"v{n}".encode(), n

check(0)
child = fork()
if not child:
    status = 1
    try:
        check(1000)
        client.close()
        status = 0
    finally:
        os._exit(status)
check(2000)
print(ended(child))
client.close()
        """,
        stage.meta.address,
        way,
    )
    assert out == "0\n"


def test_waiting_calls_are_not_repeated_in_the_child(stage: Stage) -> None:
    """The copies of waiting callers in the child send nothing, although no hook has reported the fork."""
    server = stage.server()
    run_script(
        PRELUDE
        + """
jobs = [gevent.spawn(table.incr, "h", str(n)) for n in range(10)]
gevent.sleep(0)
child = fork()
if not child:
    gevent.get_hub().exception_stream = None
    gevent.sleep(0.5)
    os._exit(0)
gevent.joinall(jobs, raise_error=True)
assert ended(child) == 0
client.close()
        """,
        stage.meta.address,
        "no reinit",
    )
    assert len(server.requests) == 10


# The parent forks while other native threads of it have loops of their own.
THREADS = """
import threading
end, ready = threading.Event(), []

def background():
    table.set("a", "b", "c")
    ready.append(1)
    end.wait()

def in_threads(run, count):
    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads

table.set("a", "b", "c")
waiting = in_threads(background, 3)
while len(ready) < 3:
    gevent.sleep(0.01)
# A thread that waits for the interpreter at the fork can block the child, with and without the client.
gevent.sleep(0.1)
child = fork()
"""

END_OF_THREADS = """
print(ended(child))
end.set()
for thread in waiting:
    thread.join()
client.close()
"""


def fork_beside_threads(stage: Stage, way: str, child: str) -> str:
    """Run code in a child whose parent has other threads; return its exit status as a line."""
    stage.server()
    return run_script(PRELUDE + THREADS + child + END_OF_THREADS, stage.meta.address, way)


@pytest.mark.parametrize("way", ["no reinit", "reinit", "os.fork"])
def test_threads_of_the_child_call_if_the_parent_had_other_threads(stage: Stage, way: str) -> None:
    """Without hooks Python's list of threads still contains the parent's. Reading it crashes the child."""
    out = fork_beside_threads(
        stage,
        way,
        """
if not child:
    seen = []
    for _ in range(6):
        in_threads(lambda: seen.append(table.get("a", "b")), 1)[0].join()
    # Without hooks, the threads of the child do not know which of the parent's threads goes on.
    own = len(client._threads.all)
    client.close(drain=1.0)
    os._exit(0 if seen == [b"c"] * 6 and (own == 1 or way != "os.fork") else 1)
        """,
    )
    assert out == "0\n"


@pytest.mark.parametrize("way", ["no reinit", "reinit", "os.fork"])
def test_a_child_keeps_its_files_if_the_parent_had_other_threads(stage: Stage, way: str) -> None:
    """Its files get the descriptor numbers of the parent's event loops, and it removes the parent's threads."""
    out = fork_beside_threads(
        stage,
        way,
        """
if not child:
    os.closerange(3, 256)
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
    client.close()
    gone = [one for one in files if not os.path.exists(f"/proc/self/fd/{one}")]
    os._exit(len(gone))
        """,
    )
    assert out == "0\n"


CLOSES = """
def closes_all(when):
    child = fork()
    if child:
        return ended(child)
    status = 1
    try:
        os.closerange(3, 256)
        if when == "loop first":
            gevent.sleep(0.01)
        files = [os.open("/dev/null", os.O_RDONLY) for _ in range(30)]
        if when == "loop later":
            gevent.sleep(0.01)
        use()
        assert all(os.fstat(one) for one in files)
        client.close()
        gevent.sleep(0.01)
        assert all(os.fstat(one) for one in files)
        status = 0
    finally:
        os._exit(status)

print([closes_all(when) for when in ("call first", "loop first", "loop later")])
"""


@pytest.mark.parametrize("way", ["no reinit", "reinit", "os.fork"])
def test_a_child_that_closes_all_descriptors_uses_the_client(stage: Stage, way: str) -> None:
    """A classical daemon does this; its own files get the descriptor numbers of the parent's sockets."""
    stage.server()
    out = run_script(
        PRELUDE
        + """
def use():
    assert table.get("a", "b") == b"c"

table.set("a", "b", b"c")
"""
        + CLOSES
        + """
use()
client.close()
""",
        stage.meta.address,
        way,
    )
    assert out == "[0, 0, 0]\n"


@pytest.mark.parametrize("way", ["no reinit", "reinit", "os.fork"])
def test_a_child_that_closes_all_descriptors_during_a_dial_goes_on(way: str) -> None:
    """A dial has a watcher, too, and closes its socket in the end."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        # A queue of this length takes one connection. The others wait.
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        out = run_script(
            PRELUDE
            + """
from pegasus_green import ForkedConnection
gevent.get_hub().exception_stream = None
call = gevent.spawn(table.get, "a", "b", timeout=20.0)
gevent.sleep(0.05)

def use():
    call.join(5.0)
    assert isinstance(call.exception, ForkedConnection), call

"""
            + CLOSES
            + """
client.close()
""",
            f"127.0.0.1:{full.getsockname()[1]}",
            way,
        )
        for one in waiting:
            one.close()
    assert out == "[0, 0, 0]\n"


# A signal handler forks at every step of a write or a read: with nothing else under way in the caller, otherwise in the
# hub. The child calls in the handler or later, and continues what the handler interrupted.
EVERY_STEP = """
import signal
from tests.faults.interruptions import Interruption
from tests.fork.forking import end_of

place, calls_at_once = sys.argv[3], sys.argv[4] == "at once"
gevent.get_hub().exception_stream = None

def work(n):
    children = []
    keys = [f"{n} {i}" for i in range(1 if place == "caller" else 3)]

    def handler():
        children.append(fork())
        if children == [0]:
            signal.alarm(10)
            # The connection of this call gets the descriptor of the parent's connection if that is free.
            if calls_at_once and place == "caller":
                table.get("child", "s")

    def all_of_them():
        if place == "caller":
            return [end_of(table.set, "h", key, "v", timeout=5.0) for key in keys]
        jobs = [gevent.spawn(end_of, table.set, "h", key, "v", timeout=5.0) for key in keys]
        gevent.joinall(jobs)
        return [job.value for job in jobs]

    # Otherwise this still runs in the pass that delivered the last reply, and the hub sends the request.
    gevent.sleep(0)
    within = {"_write", "_read"}
    with Interruption(n, handler, place=place, opcodes=True, within=within).armed() as interruption:
        ends = all_of_them()
    if children == [0]:
        gevent.sleep(0.01)
        assert end_of(table.get, "child", "s") != "ForkedConnection"
        os._exit(0 if set(ends) <= {"None", "ForkedConnection"} else 1)
    assert set(ends) == {"None"}, (n, interruption.where, ends)
    if children:
        assert ended(children[0]) == 0, (n, interruption.where)
    return interruption.count

table.set("h", "first", "v")
steps = work(0)
for n in range(1, steps + 1):
    work(n)
print(steps)
client.close()
"""


@pytest.mark.parametrize("way", ["no reinit", "os.fork"])
@pytest.mark.parametrize("place", ["caller", "hub"])
@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_signal_handler_that_forks_during_a_write_or_a_read(stage: Stage, way: str, place: str, when: str) -> None:
    """The child sends no copy of a request and takes no reply; the parent's call ends as if nothing had happened."""
    server = stage.server()
    steps = int(run_script(PRELUDE + EVERY_STEP, stage.meta.address, way, place, when, PEGASUS_GREEN_PURE="1"))
    assert steps > 40
    sent = Counter(key_of(request) for request in server.requests if request.name == "RPC_RRDB_RRDB_PUT")
    assert len(sent) == (steps + 1) * (1 if place == "caller" else 3) + 1
    assert set(sent.values()) == {1}
