"""A fork in C that runs no hooks of Python is noticed before a socket is used; inherited watchers are gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport.fakes import Stage
from tests.transport.scripts import run_script


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()


PRELUDE = """
import ctypes, gevent, os, sys
from pegasus_green import Client
metas, way = sys.argv[1].split(","), sys.argv[2]
client = Client(metas, timeout=2.0)
table = client.table("temp")

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
    """The child's copies of waiting callers send nothing, though no hook has told them of the fork."""
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


@pytest.mark.parametrize("way", ["no reinit", "os.fork"])
def test_a_child_that_closes_all_descriptors_uses_the_client(stage: Stage, way: str) -> None:
    """What the classical daemon does; files of its own get the numbers of the parent's sockets."""
    stage.server()
    out = run_script(
        PRELUDE
        + """
table.set("a", "b", b"c")
child = fork()
if not child:
    status = 1
    try:
        os.closerange(3, 256)
        files = [os.open("/dev/null", os.O_RDONLY) for _ in range(30)]
        assert table.get("a", "b") == b"c"
        assert all(os.fstat(one) for one in files)
        client.close()
        status = 0
    finally:
        os._exit(status)
print(ended(child), table.get("a", "b"))
client.close()
        """,
        stage.meta.address,
        way,
    )
    assert out == "0 b'c'\n"
