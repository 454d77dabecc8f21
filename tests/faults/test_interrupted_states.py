"""Interruptions of states that outlive a step: a parked reply, the refresh, a new connection, the end of a deadline."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from mmap import mmap
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest
from greenlet import getcurrent

from pegasus_green import Client, Filter, JsonCodec, Listener, PegasusError, RequestTimeout, turns
from pegasus_green.onebox import Onebox
from pegasus_green.operations import asynchronous
from pegasus_green.pegasus import Pegasus, ScanOptions
from pegasus_green.recipes import Frontier
from pegasus_green.scanner import iterator
from pegasus_green.transport.connection import Connection
from pegasus_green.transport.waits import wait
from tests.faults.interruptions import Interrupted, Interruption
from tests.faults.tools import at_rest
from tests.fork.forking import end_of
from tests.transport.fakes import Stage, key_of, silent
from tests.waiting import wait_until

HANDLES = asynchronous.__file__
LINES_OF_NEXT = Path(iterator.__file__).read_text().splitlines()
# The number of steps that each test tries, chosen at random.
SAMPLE = 25 if "PEGASUS_GREEN_SOAK_SECONDS" not in os.environ else 400


def interrupt() -> None:
    raise Interrupted


class Alarm(TimeoutError):
    """What the handler of ``signal.alarm`` usually raises: an OSError."""


def alarm() -> None:
    raise Alarm("too slow")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # They are intended: gevent is not to print each of them.
    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "NOT_ERROR", (*hub.NOT_ERROR, Interrupted))


@pytest.fixture(scope="module")
def box() -> Iterator[Any]:
    onebox: Any = Onebox(tables={"temp": 2}, process=True).start()
    with Client(onebox.meta_addresses) as client:
        client.table("temp").set("h", "s", "value")
    yield onebox
    onebox.stop()


@pytest.fixture
def stage() -> Iterator[Stage]:
    one = Stage()
    yield one
    one.close()


def steps(count: int, first: int = 0) -> list[int]:
    """Return the steps to try: the first ones, and a sample of the others."""
    if count <= 10 and sys.version_info >= (3, 12):
        pytest.skip("this Python reports no opcodes of a function that runs once and calls no other one")
    assert count > 10
    return sorted({*range(1, first + 1), *random.sample(range(1, count + 1), min(SAMPLE, count))})


# --------------------------------------------------------------------------------------------------------------- parked
def parked_get(stage: Stage, table: Any, n: int, late: bool) -> Interruption:
    """Make a call that a signal handler interrupts before it waits for its reply, so that the reply is parked."""
    interruption = Interruption(n, interrupt, place="hub", opcodes=True, within=["_unpark"])
    usual = Connection._send
    timeout = 0.05 if late else 5.0

    def handler(self: Any, *args: Any) -> None:
        Connection._send = usual  # type: ignore[method-assign]
        usual(self, *args)
        wait_until(lambda: bool(self._parked))
        if late:
            gevent.sleep(timeout + 0.01)

    def call() -> None:
        gevent.spawn(table.get, "h", "other")
        gevent.sleep(0)
        Connection._send = handler  # type: ignore[assignment]
        try:
            assert table.get("h", "parked", timeout=timeout, retry=None) == b"parked"
        except RequestTimeout:
            # On a busy machine, the reply itself may have come after the deadline.
            assert late
        finally:
            Connection._send = usual  # type: ignore[method-assign]

    with interruption.armed():
        caller: Any = gevent.spawn(call)
        for _ in range(2):
            with suppress(Interrupted):
                caller.join(10.0)
        gevent.sleep(0.001)
    assert caller.dead, (n, interruption.where)
    caller.get()
    assert table.get("h", "next", timeout=5.0) == b"next"
    assert not at_rest(table.client), (n, interruption.where)
    return interruption


@pytest.mark.parametrize("late", [False, True], ids=["in time", "after its deadline"])
def test_a_parked_reply_reaches_its_caller_after_an_interruption(stage: Stage, late: bool) -> None:
    stage.server(lambda link, request: link.value(request, key_of(request)))
    table = stage.table(timeout=30.0)
    table.warm_up()
    count = parked_get(stage, table, 0, late).count
    # In time, the timer of the reply runs once or twice, so all its steps are tried.
    for n in steps(count, 0 if late else count):
        parked_get(stage, table, n, late)


# -------------------------------------------------------------------------------------------------------------- refresh
REFRESHING = ("_unless_forked", "_query", "_tell", "_plan", "_schedule", "_learnt", "_stop_timer", "reference")
FIRST_STEPS = 25


def refresh(client: Client, n: int) -> Interruption:
    """Interrupt the periodic refresh, and wait until it goes on."""
    interruption = Interruption(n, interrupt, place="helpers", opcodes=True, within=REFRESHING)
    routes: Any = client._cluster.tables["temp"].routes

    def watch() -> None:
        before = routes.refreshes
        with interruption.armed():
            wait_until(lambda: interruption.fired or (not n and routes.refreshes > before + 1))

    with suppress(Interrupted):
        gevent.spawn(watch).get()
    before = routes.refreshes
    wait_until(lambda: routes.refreshes > before + 1)
    return interruption


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_periodic_refresh_continues_after_an_interruption(box: Any) -> None:
    with Client(box.meta_addresses, refresh_period=0.02, refresh_interval=0.001) as client:
        client.table("temp").warm_up()
        # Only the first steps are not followed by clean-up.
        for n in steps(refresh(client, 0).count // 2, FIRST_STEPS):
            refresh(client, n)


# ----------------------------------------------------------------------------------------------------- a new connection
CONNECTING = ("_dial", "adopt", "open", "__init__", "register", "notice_dead_paths", "fork_watcher", "reference")


def first_get(box: Any, n: int, action: Any) -> tuple[Client, Interruption]:
    """Make the first call of a client; something happens while its connection is opened."""
    client = Client(box.meta_addresses, timeout=5.0, refresh_period=0.0)
    interruption = Interruption(n, lambda: action(client), place="helpers", opcodes=True, within=CONNECTING)

    def call() -> None:
        with interruption.armed(), suppress(PegasusError):
            assert client.table("temp").get("h", "s") == b"value"

    gevent.spawn(call).get()
    return client, interruption


def tcp_sockets() -> set[Any]:
    """Return the local addresses of the TCP sockets of this process."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(number))) as copy:
                    found.update([copy.getsockname()] if copy.family == socket.AF_INET else [])
    return found


def test_a_client_that_is_closed_while_it_connects_keeps_no_connection(box: Any) -> None:
    client, counted = first_get(box, 0, None)
    client.close()
    for n in steps(counted.count):
        client, interruption = first_get(box, n, Client.close)
        assert client._cluster.pool.connections == [], (n, interruption.where)
        assert not at_rest(client), (n, interruption.where)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the descriptors of a process are read from /proc")
def test_a_child_forked_while_a_connection_is_opened_does_not_use_it(box: Any) -> None:
    """A signal handler forks at a step of the dial. The child closes its copies, and dials anew for its next call."""
    client, counted = first_get(box, 0, None)
    client.close()
    others = tcp_sockets()
    # The child tells its status in shared memory, because the loop of gevent may reap it.
    told = mmap(-1, 1)
    for n in steps(counted.count):
        told[0] = 1
        forks: list[Any] = []

        def fork(_client: Client, into: list[Any] = forks) -> None:
            into.append(tcp_sockets() - others)
            into.append(os.fork())

        client, interruption = first_get(box, n, fork)
        if forks[-1:] == [0]:
            status = 1
            with suppress(BaseException):
                gevent.sleep(0.01)
                status = 2 * bool(forks[0] & tcp_sockets()) + (client.table("temp").get("h", "s") != b"value")
            told[0] = status
            os._exit(status)
        client.close()
        if forks:
            with suppress(ChildProcessError):
                os.waitpid(forks[-1], 0)
            assert told[0] == 0, (n, interruption.where, told[0])


def test_a_call_during_which_a_signal_handler_forks_ends_in_the_child(box: Any) -> None:
    """The child makes the call itself or gets ForkedConnection. It does not wait for the reply to its parent."""
    with Client(box.meta_addresses, timeout=30.0, refresh_period=0.0) as client:
        table = client.table("temp")
        told = mmap(-1, 1)

        def get(n: int) -> int:
            forks: list[int] = []

            def fork() -> None:
                forks.append(os.fork())
                if forks == [0]:
                    signal.alarm(20)  # the end of a child that hangs

            interruption = Interruption(n, fork, place="caller", opcodes=True, within=["start", "_wake"])
            table.get("h", "s")
            with interruption.armed():
                # With a time limit, the compiled core does not make the call.
                end = end_of(table.get, "h", "s", timeout=3.0)
            if forks == [0]:
                told[0] = 1 + (end in ("b'value'", "ForkedConnection"))
                os._exit(0)
            assert end == "b'value'"
            if forks:
                wait_until(lambda: told[0])
                assert told[0] == 2, (n, interruption.where)
                told[0] = 0
            return interruption.count

        for n in steps(get(0)):
            get(n)


def test_a_client_that_a_signal_handler_closes_writes_to_no_other_socket(box: Any) -> None:
    """The handler opens a file that gets the descriptor of the closed connection, at every step of a write."""

    def work(n: int) -> Interruption:
        mine, other = socket.socketpair()
        with Client(box.meta_addresses) as client, mine, other:
            other.setblocking(False)
            table = client.table("temp")
            table.get("h", "s")
            # The compiled core does not write frames of this size.
            value = bytes(8 * 1024)

            def close() -> None:
                descriptors = [connection._fd for connection in client._cluster.pool.connections]
                client.close()
                reused.extend(os.dup2(mine.fileno(), descriptor) for descriptor in descriptors)

            reused: list[int] = []
            interruption = Interruption(n, close, place="caller", opcodes=True, within={"_write"})
            gevent.sleep(0)
            with interruption.armed():
                end = end_of(table.set, "h", "large", value)
            assert end == ("ClientClosed" if reused else "None"), (n, interruption.where)
            with pytest.raises(BlockingIOError):
                other.recv(1)
            for descriptor in reused:
                os.close(descriptor)
        return interruption

    counted = work(0)
    assert counted.count > 20
    for n in range(1, counted.count + 1):
        work(n)


# -------------------------------------------------------------------------------------------------------------- a scan
@pytest.mark.parametrize("kind", ["with_ttl", "codec", "codec of a table scan"])
def test_an_exception_of_a_signal_handler_loses_no_row(box: Any, kind: str) -> None:
    """The handler interrupts the conversion of a row, and the loop goes on. A codec can raise such errors, too."""
    with Client(box.meta_addresses) as client:
        table: Any = client.table("temp", codec=JsonCodec()) if "codec" in kind else client.table("temp")
        expected = [f"{n:02}".encode() for n in range(5)]
        for sort_key in expected:
            table.set("rows", sort_key, "1")

        def work(n: int) -> Interruption:
            rows = table.hash_scan("rows", with_ttl=kind == "with_ttl", batch_size=3)
            if "table" in kind:
                rows = table.scan(hash_key_filter=Filter.prefix("rows"), batch_size=3)
            within = {"__next__", "_is_bad", "shape", "decode"}
            interruption = Interruption(n, alarm, place="caller", opcodes=True, within=within)
            found: list[bytes] = []
            while True:
                try:
                    with interruption.armed():
                        row = next(rows)
                    found.append(row.sort_key)
                except StopIteration:
                    break
                except Alarm:
                    continue
            # A row that next() has already taken for its caller is lost if the handler raises in this statement. Python
            # runs no handler there since 3.11.
            file, _, line = interruption.where.partition(" ")[0].rpartition(":")
            returning = file == "iterator.py" and LINES_OF_NEXT[int(line) - 1].strip().startswith(
                ("for row in", "return ")
            )
            assert found == expected or (returning and len(found) == len(expected) - 1), (n, interruption.where, found)
            return interruption

        for n in steps(work(0).count):
            work(n)
        table.remove("rows", "00")
        client.table("temp").multi_del("rows", expected)


# ----------------------------------------------------------------------------------------------------------- a deadline
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_deadline_bounds_no_later_call(box: Any) -> None:
    """Also while the application keeps the exception, whose traceback references the frame of the block."""
    with Client(box.meta_addresses) as client:
        kept: list[BaseException] = []

        def work(n: int) -> Interruption:
            interruption = Interruption(n, interrupt, place="caller", opcodes=True)

            def block() -> None:
                with client.deadline(0.5):
                    pass

            with interruption.armed():
                try:
                    block()
                except Interrupted as error:
                    kept.append(error)
            return interruption

        for n in range(1, work(0).count + 1):
            interruption = work(n)
            now = monotonic()
            assert client._cluster.deadline(50.0, now) == now + 50.0, (n, interruption.where)
        assert kept
        kept.clear()
        # The next scopes remove what an interrupted finalizer left.
        work(0)
        assert not at_rest(client)


# ------------------------------------------------------------------------------------------------------------ a handle
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_write_of_a_handle_that_a_signal_handler_interrupts_has_an_unknown_outcome(box: Any) -> None:
    """An exception of the handler while the hub takes the reply: the server has executed the write."""
    with Client(box.meta_addresses) as client:
        table = client.table("temp")
        table.warm_up()

        def work(n: int) -> Interruption:
            interruption = Interruption(n, alarm, place="hub", opcodes=True, within={"_end"}, files=(HANDLES,))
            handle = table.set_async("h", "written", "v")
            with interruption.armed(), suppress(PegasusError):
                handle.get(timeout=10.0)
            error = handle.exception
            if error is not None:
                assert isinstance(error, PegasusError)
                assert (error.sent, error.outcome_unknown) == (True, True), (n, interruption.where, error)
            return interruption

        steps_of_end = work(0).count
        assert steps_of_end > 5
        for n in range(1, steps_of_end + 1):
            work(n)


def test_a_handle_whose_outcome_is_lost_becomes_ready(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """For callers that only ask whether it is ready."""
    monkeypatch.setattr(asynchronous, "SECONDS_LATE", 0.1)
    stage.server(silent)
    table = stage.table()
    table.warm_up()
    handle = table.get_async("h", "s", timeout=0.3)
    assert not handle.ready()
    for connection in table.client._cluster.pool.connections:
        connection.pending.clear()
    wait_until(handle.ready)
    assert isinstance(handle.exception, PegasusError)


def test_a_call_of_a_signal_handler_during_gevent_wait_loses_no_wake_up(box: Any) -> None:
    """The call of the handler lets the hub run, so the handle can get its result at any step of ``rawlink``."""
    with Client(box.meta_addresses) as client:
        table = client.table("temp")

        def nested() -> None:
            assert table.get("h", "s") == b"value"

        def work(n: int) -> Interruption:
            interruption = Interruption(n, nested, place="caller", opcodes=True, within={"rawlink", "_announce"})
            handle = table.get_async("h", "s")
            with interruption.armed():
                assert gevent.wait([handle], timeout=10.0) == [handle], interruption.where
            assert handle.get() == b"value"
            return interruption

        for n in range(1, work(0).count + 1):
            work(n)


# -------------------------------------------------------------------------------- errors that a system call could raise
def blocked() -> None:
    raise BlockingIOError


@pytest.mark.parametrize(("action", "expected"), [(alarm, Alarm), (blocked, BlockingIOError)])
def test_an_os_error_of_a_signal_handler_reaches_the_caller(box: Any, action: Any, expected: type[OSError]) -> None:
    """It is not taken for an error of the socket, which would end the connection and repeat the call."""
    with Client(box.meta_addresses, timeout=5.0) as client:
        table = client.table("temp")
        table.set("h", "large", "x" * 300_000)

        def work(n: int) -> Interruption:
            interruption = Interruption(n, action, place="caller", opcodes=True, within={"_write"})
            # Outside a pass of the reader, the caller itself writes to the socket.
            gevent.sleep(0.001)
            try:
                with interruption.armed():
                    table.set("h", "large", "x" * 300_000)
            except expected:
                assert interruption.fired
            else:
                assert not interruption.fired, interruption.where
            return interruption

        count = work(0).count
        assert count > 20
        for n in range(1, count + 1):
            work(n)
        assert not at_rest(client)


# -------------------------------------------------------------------------------------------------------------- objects
def _open(client: Client, opened: list[Any]) -> None:
    opened.append(client.table("temp"))


def test_a_table_that_a_signal_handler_opens_shares_its_state(box: Any) -> None:
    for n in range(1, 200):
        with Client(box.meta_addresses) as client:
            opened: list[Any] = []
            interruption = Interruption(
                n, partial(_open, client, opened), place="caller", opcodes=True, within={"table"}
            )
            with interruption.armed():
                _open(client, opened)
            if not interruption.fired:
                break
            _open(client, opened)
            dispatchers = {id(one._dispatcher) for one in opened}
            assert len(dispatchers) == 1, interruption.where
    assert 20 < n < 199


def test_a_deadline_that_a_signal_handler_opens_disturbs_no_other(box: Any) -> None:
    with Client(box.meta_addresses) as client:
        kept: list[Any] = []

        def nested() -> None:
            kept.append(client.deadline(50.0))
            kept[-1].__enter__()

        def work(n: int) -> Interruption:
            interruption = Interruption(
                n, nested, place="caller", opcodes=True, within={"sweep", "__enter__", "_leave"}
            )
            with interruption.armed(), client.deadline(5.0):
                pass
            return interruption

        nested()
        for n in range(1, work(0).count + 1):
            work(n)
        for one in kept:
            one.__exit__(None, None, None)
        assert not client._cluster.scopes


CLOSING = {"close", "_close", "_end", "refuse_calls", "_drop_ended", "forget", "_lose"}


def test_an_interrupted_close_ends_all_calls_and_connections(box: Any) -> None:
    box.fault("delay", rpc="get", seconds=5.0)
    try:
        for n in range(1, 2_000, 1 if SAMPLE > 25 else 7):
            client = Client(box.meta_addresses, refresh_period=0.0)
            client.table("temp").warm_up()
            connections = client._cluster.pool.connections
            caller = gevent.spawn(end_of, client.table("temp").get, "h", "s")
            gevent.sleep(0.005)
            interruption = Interruption(n, interrupt, place="caller", opcodes=True, within=CLOSING)
            with suppress(Interrupted), interruption.armed():
                client.close()
            if interruption.fired and not client.closed:
                # Struck before the first step: nothing is closed.
                client.close()
            caller.join(1.0)
            assert caller.value == "ClientClosed", interruption.where
            assert all(connection.lost for connection in connections), interruption.where
            if not interruption.fired:
                break
        assert 50 < n < 2_000
    finally:
        box.clear_faults()


def test_an_interrupted_handle_tells_the_listeners_of_the_end(box: Any) -> None:
    class Calls(Listener):
        started = finished = 0

        def call_started(self, *_details: Any) -> None:
            self.started += 1

        def call_finished(self, *_details: Any) -> None:
            self.finished += 1

    calls = Calls()
    with Client(box.meta_addresses) as client:
        table = client.table("temp")
        table.warm_up()
        client.add_listener(calls)

        def work(n: int) -> Interruption:
            interruption = Interruption(n, interrupt, place="caller", opcodes=True, within={"_begin", "_send", "start"})
            with suppress(Interrupted), interruption.armed():
                table.set_async("h", "other", "v").get()
            return interruption

        # The first steps are those before the listeners are told of the call.
        for n in range(40, work(0).count + 1):
            work(n)
            wait_until(lambda: calls.started == calls.finished)


def test_an_interrupted_end_of_a_job_counts_it_no_longer(box: Any) -> None:
    with Client(box.meta_addresses) as client:
        frontier = Frontier(client.table("temp"), "interrupted", shards=2)
        frontier.clear()

        def work(n: int) -> Interruption:
            frontier.add(f"job {n}")
            job = frontier.take()
            assert job is not None
            interruption = Interruption(n, interrupt, place="caller", opcodes=True, within={"_finish"})
            with suppress(Interrupted), interruption.armed():
                frontier.done(job)
            return interruption

        count = work(0).count
        assert count > 10
        for n in range(2, count + 1):
            where = work(n).where
            frontier.resume()
            # The interruption can come before the new state is stored.
            while frontier.open:
                job = frontier.take()
                assert job is not None
                frontier.done(job)
            assert frontier.states().keys() == {"done"}, where


# ------------------------------------------------------------------------------------------------------------- scanners
def test_a_scanner_yields_after_a_signal_handler_has_taken_the_turn(box: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupted ``next`` takes another turn for its second attempt, and other greenlets can wait for this one."""
    run, handled, waits, strike = turns.Turn.run, [], 0, True

    def interrupted(self: turns.Turn, *args: Any) -> Any:
        nonlocal strike
        if strike:
            strike = False
            # Like a signal handler before the first step of the turn.
            handled.append(next(rows))
        return run(self, *args)

    def counted(*args: Any) -> bool:
        nonlocal waits
        waits += 1
        assert waits < 100, "the greenlet waits for a turn that is over"
        return wait(*args)

    monkeypatch.setattr(turns.Turn, "run", interrupted)
    monkeypatch.setattr(turns, "wait", counted)
    with Client(box.meta_addresses) as client:
        table = client.table("temp")
        table.multi_set("turns", dict.fromkeys("012345", "v"))
        rows = table.hash_scan("turns", batch_size=1)
        both: list[Any] = [gevent.spawn(next, rows) for _ in range(2)]
        gevent.joinall(both, timeout=20.0, raise_error=True)
    assert sorted(row.sort_key for row in handled + [one.value for one in both]) == [b"0", b"1", b"2"]
    assert waits, "the second greenlet did not wait for the first one"


# -------------------------------------------------------------------------------------------------------------- signals
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers that send signals")
def test_the_old_scanner_loses_no_row_when_a_signal_handler_raises(box: Any) -> None:
    """Signal handlers run at the end of calls of built-in functions: a row that such a call returns would be lost."""
    old = Pegasus(box.meta_addresses, "temp")
    old.init()
    names = {f"{number:06}" for number in range(3_000)}
    with Client(box.meta_addresses) as client:
        client.table("temp").multi_set("signals", dict.fromkeys(names, "v"), split=True)
    caller, armed, strikes = getcurrent(), False, 0

    def handler(*_args: object) -> None:
        if armed and getcurrent() is caller:
            raise Interrupted

    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0003, 0.0003)
    try:
        while strikes < 100:
            scanner = old.get_scanner("signals", "", "", ScanOptions())
            seen: list[bytes] = []
            add, ended = seen.append, False
            while not ended:
                try:
                    armed = True
                    # Python runs signal handlers at each jump back, so there is none between the two calls.
                    while True:
                        row = scanner.get_next()
                        if row is None:
                            ended = True
                            break
                        add(row[0][1])
                    armed = False
                except Interrupted:
                    armed = False
                    strikes += 1
            assert names - {name.decode() for name in seen} == set(), strikes
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)
        old.close()
