"""Test that a failed call leaves no reference cycle: its objects are freed at once, without the garbage collector."""

from __future__ import annotations

import contextlib
import gc
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from pegasus_green import Client, ConnectFailed, HedgePolicy, PegasusError, Table
from pegasus_green.onebox import Onebox
from pegasus_green.transport.pool import Peer
from tests.faults.interruptions import PACKAGE
from tests.faults.operations import OPERATIONS, Operation, Scene
from tests.faults.tools import at_rest, large_bytes

pytestmark = [pytest.mark.onebox_only]

# The failures: action and options of the fault.
FAILURES: dict[str, dict[str, Any]] = {
    "refused": {"action": "error", "error": "ERR_ACL_DENY"},
    "throttled": {"action": "error", "error": "ERR_BUSY"},
    "silent": {"action": "drop"},
    "cut off": {"action": "cut"},
    "unreadable": {"action": "corrupt"},
}
LARGE = b"x" * 500_000
# The limit for 200 such values: the allocator and the newest call may keep some memory.
MOST_HELD = 20 * len(LARGE)
ADMIN = {
    "list_tables": lambda client: client.admin.list_tables(timeout=0.1),
    "create_table": lambda client: client.admin.create_table("made", 4, timeout=0.1),
    "set_envs": lambda client: client.admin.set_envs("temp", {"business.info": "x"}, timeout=0.1),
    "drop_table": lambda client: client.admin.drop_table("temp", timeout=0.1),
    "ping": lambda client: client.ping(timeout=0.1),
    "first_get": lambda client: client.table("absent").get("k", "s", timeout=0.1),
}


@pytest.fixture(scope="module")
def box() -> Iterator[Any]:
    # In its own process, since the test would also find cycles of servers in this process.
    with Onebox(tables={"temp": 4}, process=True) as box:
        yield box


@pytest.fixture
def client(box: Any) -> Iterator[Client]:
    with Client(box.meta_addresses, timeout=0.05, refresh_period=0.0) as client:
        client.table("temp").warm_up(timeout=5.0)
        yield client
        box.clear_faults()


def cycles_of(run: Any) -> list[str]:
    """Return the objects of the package that a function leaves and only the garbage collector frees."""
    gc.collect()
    gc.disable()
    try:
        run()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [text for one in gc.garbage if (text := _described(one))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()
    return found


def _described(one: Any) -> str:
    """Describe an object of the package or a large object."""
    if isinstance(one, types.FrameType):
        code = one.f_code
        return f"frame of {code.co_name}" if code.co_filename.startswith(PACKAGE) else ""
    if isinstance(one, (PegasusError, types.TracebackType)):
        return type(one).__name__
    return type(one).__qualname__ if type(one).__module__.startswith("pegasus_green") else ""


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("where", ["in the caller", "in a greenlet that ends with the error"])
def test_a_failed_call_of_any_verb_leaves_no_cycle(
    box: Any, client: Client, how: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead greenlet holds its error, whose traceback holds the frames of the call."""
    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "NOT_ERROR", (*hub.NOT_ERROR, PegasusError))
    options = dict(FAILURES[how])
    box.fault(options.pop("action"), rpc="data", **options)
    scene = Scene(client, client.table("temp"), b"cycles")
    failures: Counter[str] = Counter()
    left: dict[str, list[str]] = {}

    def call(operation: Operation) -> None:
        if where == "in the caller":
            operation.run(scene)
            return
        job = gevent.spawn(operation.run, scene)
        job.join()
        if job.exception is not None:
            failures[type(job.exception).__name__] += 1

    def run(operation: Operation) -> None:
        try:
            call(operation)
        except PegasusError as error:
            failures[type(error).__name__] += 1
        # Greenlets and connections end after a while.
        at_rest(client)

    operations = [operation for operation in OPERATIONS if not operation.verb.startswith(("admin", "ping", "warm"))]
    for operation in operations:
        if found := cycles_of(lambda operation=operation: run(operation)):
            left[operation.verb] = found
    assert not left
    assert sum(failures.values()) > len(operations) * 0.8, failures


def test_a_killed_call_leaves_no_cycle(box: Any, client: Client) -> None:
    box.fault("drop", rpc="data")
    table: Any = client.table("temp")

    def run() -> None:
        for options in ({}, {"timeout": 5.0}):
            jobs: list[Any] = [
                gevent.spawn(table.get, "k", "s", **options),
                gevent.spawn(table.incr, "k", "n", **options),
            ]
            gevent.sleep(0.01)
            gevent.killall(jobs)
        at_rest(client)

    run()
    assert not cycles_of(run)


@pytest.mark.parametrize("how", ["silent", "cut off", "unreadable"])
def test_a_failed_request_to_the_meta_servers_leaves_no_cycle(box: Any, client: Client, how: str) -> None:
    options = dict(FAILURES[how])
    box.fault(options.pop("action"), rpc="meta", **options)
    left: dict[str, list[str]] = {}

    def run(verb: str) -> None:
        with pytest.raises(PegasusError):
            ADMIN[verb](client)
        at_rest(client)

    for verb in ADMIN:
        if found := cycles_of(lambda verb=verb: run(verb)):
            left[verb] = found
    assert not left


class Broken:
    """A codec that cannot decode any value."""

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, raw: bytes) -> bytes:
        raise ZeroDivisionError


CODEC_CALLS: dict[str, Callable[[Table[bytes]], object]] = {
    "get": lambda table: table.get("codec", "s"),
    "get_async": lambda table: table.get_async("codec", "s").get(),
    "get_many": lambda table: table.get_many([("codec", "s")]),
    "get_many_async": lambda table: table.get_many_async([("codec", "s")]).get(),
    "multi_get": lambda table: table.multi_get("codec"),
    "multi_get_async": lambda table: table.multi_get_async("codec").get(),
    "scan": lambda table: list(table.scan()),
}


@pytest.mark.parametrize("verb", CODEC_CALLS)
def test_an_error_of_a_codec_leaves_no_cycle(box: Any, verb: str) -> None:
    with Client(box.meta_addresses, timeout=5.0, refresh_period=0.0) as client:
        client.table("temp").set("codec", "s", "v")
        table = client.table("temp", codec=Broken())

        def run() -> None:
            with contextlib.suppress(ZeroDivisionError, PegasusError):
                CODEC_CALLS[verb](table)
                raise AssertionError("it decoded the value")
            at_rest(client)

        assert not cycles_of(run)


def test_a_failed_warm_up_leaves_no_cycle(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "connect", lambda _peer, _deadline: ConnectFailed("refused"))

    def run() -> None:
        with contextlib.suppress(ConnectFailed):
            client.table("temp").warm_up()
            raise AssertionError("no server was dialled")
        at_rest(client)

    assert not cycles_of(run)


@pytest.mark.parametrize("way", ["set", "set_many", "set_async", "multi_set"])
def test_two_hundred_failed_large_writes_keep_no_memory(box: Any, client: Client, way: str) -> None:
    """Without this they held 97 MiB until the garbage collector ran."""
    table: Table[bytes] = client.table("temp")
    box.fault("error", rpc="write", error="ERR_ACL_DENY")
    ways = {
        "set": lambda value: table.set("k", "s", value, timeout=5.0),
        "set_many": lambda value: table.set_many([("k", "s", value)], timeout=5.0),
        "set_async": lambda value: table.set_async("k", "s", value, timeout=5.0).get(),
        "multi_set": lambda value: table.multi_set("k", {"s": value}, timeout=5.0),
    }
    held: list[int] = []

    def run() -> None:
        before = large_bytes()
        for number in range(200):
            try:
                ways[way](LARGE + b"%d" % number)
            except PegasusError:
                held.append(large_bytes() - before)

    assert not cycles_of(run)
    assert len(held) == 200
    assert max(held) < MOST_HELD


def test_a_hedged_read_leaves_no_cycle(box: Any) -> None:
    box.fault("delay", rpc="get", seconds=0.02)
    with Client(box.meta_addresses, refresh_period=0.0, hedge=HedgePolicy(delay=0.001, max_ratio=1.0)) as client:
        table = client.table("temp")

        def reads() -> None:
            for number in range(20):
                table.get(f"h{number}", "s")

        reads()
        assert cycles_of(reads) == []
        assert client._cluster.tables["temp"].stats.hedges > 0
    box.clear_faults()
