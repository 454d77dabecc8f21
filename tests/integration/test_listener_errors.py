"""Test that a call behaves the same on every path if its listeners raise, are slow, or change during the call.

A call with the default options runs in the compiled core, if there is one. A call with a timeout runs in Python.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from greenlet import GreenletExit

from pegasus_green import Client, Listener, Table, errors
from pegasus_green.onebox import Onebox
from tests.waiting import Stopwatch

pytestmark = pytest.mark.onebox_only
Calls = dict[str, Callable[[], object]]


@pytest.fixture
def box() -> Iterator[Onebox]:
    with Onebox(tables={"temp": 1}) as box:
        yield box


@pytest.fixture
def client(box: Onebox) -> Iterator[Client]:
    with Client(box.meta_addresses, timeout=3.0, refresh_period=0.0) as client:
        client.table("temp").set("h", "s", "v")
        yield client


@pytest.fixture(params=["usual", "general"])
def calls(request: pytest.FixtureRequest, client: Client) -> Calls:
    table: Table[bytes] = client.table("temp")
    options: dict[str, Any] = {} if request.param == "usual" else {"timeout": 3.0}
    return {
        "get": lambda: table.get("h", "s", **options),
        "set": lambda: table.set("h", "s", "v", **options),
    }


class Raising(Listener):
    """Raises an exception once, in one event."""

    def __init__(self, event: str) -> None:
        self.event = event
        self.next: BaseException | None = None
        self.heard: list[tuple[str, BaseException | None]] = []

    def look(self, event: str, error: BaseException | None) -> None:
        self.heard.append((event, error))
        if event == self.event and self.next is not None:
            failure, self.next = self.next, None
            raise failure

    def call_started(self, *_details: Any) -> None:
        self.look("call_started", None)

    def call_finished(self, *details: Any) -> None:
        self.look("call_finished", details[3])


@pytest.mark.parametrize("verb", ["get", "set"])
@pytest.mark.parametrize("event", ["call_started", "call_finished"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GreenletExit, gevent.Timeout])
def test_what_interrupts_a_listener_reaches_the_caller(
    client: Client, calls: Calls, kind: type[BaseException], event: str, verb: str
) -> None:
    listener = Raising(event)
    client.add_listener(listener)
    call, wrong = calls[verb], []

    def caller() -> None:
        # Often: the interpreter checks the result of a call less strictly after it has specialised it.
        for _ in range(40):
            raised = listener.next = kind()
            try:
                call()
                wrong.append("returned")
            except BaseException as error:
                if error is not raised:
                    wrong.append(repr(error))
        call()

    gevent.spawn(caller).get(timeout=20)
    assert wrong == []
    assert calls["get"]() == b"v"


@pytest.mark.parametrize("verb", ["get", "set"])
def test_the_end_of_an_interrupted_call_is_told_with_its_traceback(
    box: Onebox, client: Client, calls: Calls, verb: str
) -> None:
    seen: list[tuple[Any, ...]] = []

    class Looking(Listener):
        def call_finished(self, *details: Any) -> None:
            error = details[3]
            seen.append((error, error.__traceback__ is not None, sys.exc_info()[1] is error))
            raise SystemExit(4)

    box.fault("drop", rpc="get" if verb == "get" else "put")
    client.add_listener(Looking())
    caller = gevent.spawn(calls[verb])
    gevent.sleep(0.05)
    killed = GreenletExit("stop")
    caller.kill(killed, block=False)
    with pytest.raises(SystemExit) as raised:
        caller.get(timeout=5)
    assert seen == [(killed, True, True)]
    assert raised.value.__context__ is killed


def test_the_log_line_of_a_failing_listener_shows_where_it_failed(
    client: Client, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    for event in ("call_started", "call_finished"):
        listener = Raising(event)
        client.add_listener(listener)
        listener.next = ValueError("a bug")
        with caplog.at_level(logging.ERROR):
            assert calls["get"]() == b"v"
        client.remove_listener(listener)
        (record,) = (record for record in caplog.records if record.exc_info)
        assert record.exc_info is not None
        trace = record.exc_info[2]
        names = []
        while trace is not None:
            names.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert names[-2:] == [event, "look"]
        caplog.clear()


class Foreign(BaseException):
    """An exception that is no Exception, like that of a test framework."""


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # They are intended: gevent is not to print each of them.
    monkeypatch.setattr(gevent.get_hub(), "NOT_ERROR", (*gevent.get_hub().NOT_ERROR, Foreign))


class Counting(Listener):
    """Counts the calls, and raises in one event of all calls but ``exist``."""

    def __init__(self, event: str = "", times: int = 1_000_000) -> None:
        self.event, self.times = event, times
        self.started = self.finished = 0

    def strike(self, event: str, operation: str) -> None:
        if event == self.event and operation != "ttl" and self.times > 0:
            self.times -= 1
            raise Foreign

    def call_started(self, *details: Any) -> None:
        self.started += 1
        self.strike("call_started", details[1])

    def call_finished(self, *details: Any) -> None:
        self.finished += 1
        self.strike("call_finished", details[1])


class Unreadable:
    """A codec that always raises when it decodes."""

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, _data: bytes) -> bytes:
        raise Foreign


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("what", ["codec", "listener", "listener once"])
def test_a_failure_while_a_handle_is_settled_affects_no_other_call(box: Onebox, client: Client, what: str) -> None:
    box.fault("delay", rpc="get", seconds=0.05)
    box.fault("delay", rpc="ttl", seconds=0.2)
    listener = Counting("" if what == "codec" else "call_finished", 1 if what == "listener once" else 1_000_000)
    client.add_listener(listener)
    table = client.table("temp", codec=Unreadable()) if what == "codec" else client.table("temp")
    neighbour = gevent.spawn(client.table("temp").exist, "h", "s")
    before = client.stats()["tables"]["temp"]["calls"]
    handle: Any = table.get_async("h", "s", timeout=2.0)
    watch = Stopwatch()
    if what == "codec":
        with pytest.raises(errors.PegasusError, match="could not be decoded"):
            handle.get()
    else:
        assert handle.get() == b"v"
    assert watch.stop().seconds < 1.5
    assert neighbour.get(timeout=2.0) is True
    assert listener.finished == listener.started == 2
    assert sum(server["losses"] for server in client.stats()["servers"].values()) == 0
    assert client.stats()["tables"]["temp"]["calls"] == before + 2


@pytest.mark.usefixtures("_quiet")
def test_a_listener_hears_once_of_the_end_of_a_dropped_handle(client: Client) -> None:
    listener = Counting("call_finished")
    client.add_listener(listener)
    client.table("temp").set_async("h", "s", "v")
    connections = list(client._cluster.pool.connections)
    client.close()
    gevent.sleep(0.1)
    assert (listener.started, listener.finished) == (1, 1)
    assert sum(connection.in_flight for connection in connections) == 0


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("event", ["call_started", "call_finished"])
@pytest.mark.parametrize("parallel", [1, 2])
def test_what_interrupts_the_listener_of_a_scan_reaches_its_caller(client: Client, parallel: int, event: str) -> None:
    client.add_listener(Counting(event))

    def scan() -> object:
        try:
            return list(client.table("temp").scan(parallel=parallel, timeout=1.0))
        except Foreign as error:
            return error

    assert isinstance(gevent.spawn(scan).get(timeout=5), Foreign)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("verb", ["get", "get_many", "get_async"])
def test_other_listeners_hear_of_an_end_that_interrupts_one(client: Client, verb: str) -> None:
    table: Any = client.table("temp")
    before, after = Counting(), Counting()
    for listener in (before, Counting("call_finished"), after):
        client.add_listener(listener)
    calls = {
        "get": lambda: table.get("h", "s"),
        "get_many": lambda: table.get_many([("h", "s")] * 5),
        "get_async": lambda: table.get_async("h", "s").get(),
    }

    def call() -> None:
        with contextlib.suppress(Foreign):
            calls[verb]()

    gevent.spawn(call).get(timeout=5)
    assert before.started == before.finished > 0
    assert after.started == after.finished == before.started


def during(call: Callable[[], object], change: Callable[[], object]) -> None:
    """Make a change while a call waits for its reply."""
    waiting = gevent.spawn(call)
    gevent.sleep(0.05)
    change()
    waiting.get(timeout=5)


def test_the_listeners_at_the_end_of_a_call_hear_of_it(box: Onebox, client: Client, calls: Calls) -> None:
    box.fault("delay", rpc="get", seconds=0.15)
    first, second = Raising(""), Raising("")
    client.add_listener(first)
    during(calls["get"], lambda: client.remove_listener(first))
    assert first.heard == [("call_started", None)]
    client.add_listener(first)
    during(calls["get"], lambda: client.add_listener(second))
    assert first.heard[1:] == [("call_started", None), ("call_finished", None)]
    assert second.heard == [("call_finished", None)]


def test_a_failure_is_logged_for_the_listener_that_failed(
    box: Onebox, client: Client, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    box.fault("delay", rpc="get", seconds=0.15)
    first, second = Raising("call_finished"), Raising("call_finished")
    first.next = ValueError("of the first")
    client.add_listener(first)

    def replace() -> None:
        client.remove_listener(first)
        client.add_listener(second)

    with caplog.at_level(logging.ERROR):
        during(calls["get"], replace)
        assert not caplog.records
        second.next = ValueError("of the second")
        calls["get"]()
    (record,) = caplog.records
    assert repr(second) in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "of the second"


def test_a_slow_listener_does_not_delay_the_deadline(box: Onebox) -> None:
    class Slow(Listener):
        def call_started(self, *_details: Any) -> None:
            gevent.sleep(0.35)

    with Client(box.meta_addresses, timeout=0.4, refresh_period=0.0) as client:
        table = client.table("temp")
        table.set("h", "s", "v")
        box.fault("drop", rpc="get")
        client.add_listener(Slow())
        # Without requests for a while, the timer of the connection is at rest.
        gevent.sleep(0.6)
        watch = Stopwatch()
        with pytest.raises(errors.RequestTimeout):
            table.get("h", "s")
        assert watch.stop().seconds < 0.55
