"""Test loggers, statistics, events and reprs, and that their failures do not affect calls."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from time import monotonic, process_time
from typing import Any

import gevent
import pytest

from pegasus_green import CallInfo, Client, Listener, RetryPolicy, errors
from pegasus_green.cluster.stats import TableStats
from pegasus_green.onebox import Onebox
from pegasus_green.transport import notices as notices_module
from pegasus_green.transport.notices import Notices
from tests.waiting import Stopwatch, wait_until

pytestmark = pytest.mark.onebox_only
SECRET_KEY, SECRET_VALUE = "secret-key", "secret-value"


@pytest.fixture
def box() -> Iterator[Onebox]:
    with Onebox(replicas=3, metas=2, tables={"temp": 8}) as box:
        yield box


@pytest.fixture
def client(box: Onebox) -> Iterator[Client]:
    with Client(box.meta_addresses, timeout=3.0, refresh_period=0.0, silence=0.2) as client:
        yield client


class Everything(Listener):
    """Remembers all events."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def call_started(self, *details: Any) -> None:
        self.events.append(("call_started", *details))

    def call_finished(self, *details: Any) -> None:
        self.events.append(("call_finished", *details))

    def connection_opened(self, *details: Any) -> None:
        self.events.append(("connection_opened", *details))

    def connection_lost(self, *details: Any) -> None:
        self.events.append(("connection_lost", *details))

    def routes_changed(self, *details: Any) -> None:
        self.events.append(("routes_changed", *details))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == kind]


def cause_failures(box: Onebox, client: Client) -> None:
    """Cause every event that is logged: refusals, losses, a death, a move, a lost meta server."""
    table = client.table("temp")
    hash_key = SECRET_KEY.encode()
    table.set(hash_key, SECRET_KEY, SECRET_VALUE)
    box.fault("error", rpc="put", error="ERR_NOT_ENOUGH_MEMBER", count=20)
    box.fault("error", rpc="get", error="ERR_INVALID_STATE", count=3)
    box.fault("cut", rpc="ttl", count=2)
    table.set_many([(hash_key + b"%d" % n, SECRET_KEY, SECRET_VALUE) for n in range(50)])
    table.get(hash_key, SECRET_KEY)
    table.ttl(hash_key, SECRET_KEY)
    box.kill_meta(0)
    box.kill(0)
    table.get_many([(hash_key + b"%d" % n, SECRET_KEY) for n in range(50)], timeout=5.0)
    box.fault("error", rpc="put", error="ERR_DISK_INSUFFICIENT", count=1)
    with pytest.raises(errors.WriteRejected):
        table.set(hash_key, SECRET_KEY, SECRET_VALUE)
    gevent.sleep(0.05)


# ------------------------------------------------------------------------------------------------ loggers
def test_one_logger_for_each_concern(box: Onebox, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pegasus_green")
    cause_failures(box, client)
    records = [record for record in caplog.records if record.name.startswith("pegasus_green")]
    names = {record.name for record in records if not record.name.startswith("pegasus_green.onebox")}
    assert names == {"pegasus_green." + concern for concern in ("connection", "meta", "routing", "retry")}
    text = "\n".join(f"{record.name} {record.getMessage()}" for record in records)
    for line in (
        r"connection connected to 127\.0\.0\.1:\d+",
        r"connection connection to 127\.0\.0\.1:\d+: ",
        r"retry repeating put of table temp after ERR_NOT_ENOUGH_MEMBER from 127\.0\.0\.1:\d+",
        r"retry repeating get of table temp after ERR_INVALID_STATE from 127\.0\.0\.1:\d+",
        r"routing routes of temp changed in \d of 8 partitions",
        r"meta meta server 127\.0\.0\.1:\d+ ",
    ):
        assert re.search(line, text), f"{line}\n{text}"


def test_logs_contain_no_keys_and_no_values(box: Onebox, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pegasus_green")
    cause_failures(box, client)
    lines = [record.getMessage() for record in caplog.records if not record.name.startswith("pegasus_green.onebox")]
    assert lines
    assert not [line for line in lines if "secret" in line]


def test_repeated_log_lines_are_counted(box: Onebox, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pegasus_green.retry")
    table = client.table("temp")
    fault = box.fault("error", rpc="put", error="ERR_BUSY", count=400)
    quick = RetryPolicy(base=0.001, cap=0.002)
    callers = [gevent.spawn(table.set, f"h{n}", "s", "v", retry=quick, timeout=20.0) for n in range(100)]
    gevent.joinall(callers, raise_error=True)
    gevent.sleep(0.01)
    assert fault.hits == 400
    lines = [record.getMessage() for record in caplog.records]
    servers = {line.partition(" from ")[2] for line in lines}
    assert servers <= set(box.replica_addresses)
    assert [line.partition(" from ")[0] for line in lines] == [
        "repeating put of table temp after ERR_BUSY"
    ] * notices_module.BURST
    assert table._dispatcher.notices.dropped == 400 - notices_module.BURST


def test_the_next_log_line_reports_the_number_of_omitted_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "pegasus_green")
    monkeypatch.setattr(notices_module, "PERIOD", 0.1)
    notices = Notices("test")
    for number in range(20):
        notices.info("kind", "line %d", number)
        notices.info("other", "other %d", number)
    gevent.sleep(0.12)
    notices.info("kind", "line %d", 20)
    gevent.sleep(0.01)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("line")]
    assert lines == [*(f"line {number}" for number in range(5)), "line 20 (15 more like it were not logged)"]
    assert notices.dropped == 30
    # Lines below the log level are not counted.
    caplog.set_level(logging.WARNING, "pegasus_green")
    notices.info("kind", "line")
    assert notices.dropped == 30


def test_the_number_of_counted_log_lines_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pegasus_green")
    notices = Notices("test")
    for number in range(5000):
        notices.info(f"kind {number}", "line")
    assert len(notices._kinds) <= notices_module.MAX_KINDS
    assert len(notices._waiting) <= notices_module.MAX_WAITING
    gevent.sleep(0.01)


class Waiting(logging.Handler):
    """A handler that yields, as one that writes to a socket does, or fails."""

    def __init__(self, failing: bool) -> None:
        super().__init__()
        self.failing = failing
        self.seen = self.waited = 0

    def createLock(self) -> None:  # noqa: N802
        from gevent.lock import RLock

        self.lock: Any = RLock()  # the name after patching

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += 1
        gevent.sleep(0.05)
        self.waited += 1
        if self.failing:
            raise RuntimeError("a handler of the application")


@pytest.mark.parametrize("failing", [False, True])
def test_slow_and_failing_log_handlers_do_not_affect_calls(box: Onebox, client: Client, failing: bool) -> None:
    """Log lines about hub callbacks are not written in the hub, where a handler could block the loop or fail."""
    handler = Waiting(failing)
    logger = logging.getLogger("pegasus_green")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        table = client.table("temp")
        table.warm_up()
        box.fault("cut", rpc="put", count=8)
        watch = Stopwatch()
        callers = [gevent.spawn(table.set, f"h{n}", "s", "v") for n in range(200)]
        gevent.joinall(callers, raise_error=True)
        assert watch.seconds < 2.0
        box.kill(1)
        for number in range(20):
            table.set(f"h{number}", "s", "w", timeout=5.0)
        until = monotonic() + 3.0
        while handler.waited < handler.seen and monotonic() < until:
            gevent.sleep(0.01)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    # Every line was written outside the hub.
    assert handler.waited == handler.seen > 3


# ------------------------------------------------------------------------------------------------ figures
def test_statistics_of_servers(box: Onebox, client: Client) -> None:
    table = client.table("temp")
    assert client.stats() == {
        "servers": {},
        "tables": {
            "temp": {
                "app_id": None,
                "partitions": 0,
                "calls": 0,
                "bulk": 0,
                "errors": {},
                "retries": {},
                "refreshes": 0,
                "hedgeable": 0,
                "hedges": 0,
                "hedge_wins": 0,
                "latency": {},
                "latency_count": 0,
                "latency_sum": 0.0,
                "p50": 0.0,
                "p99": 0.0,
            }
        },
    }
    for number in range(200):
        table.set(f"h{number}", "s", b"v" * 100)
    servers = client.stats()["servers"]
    assert set(servers) == {*box.meta_addresses[:1], *box.replica_addresses}
    for address, server in servers.items():
        assert server["state"] == "open"
        assert server["in_flight"] == server["queued_bytes"] == server["late"] == server["timeouts"] == 0
        assert server["sent"] == server["received"] > 0
        assert server["bytes_received"] > server["received"] * 30
        assert (server["dials"], server["reconnects"], server["losses"]) == (1, 0, 0)
        if address in box.replica_addresses:
            assert server["bytes_sent"] > server["sent"] * 150
    assert sum(servers[address]["sent"] for address in box.replica_addresses) == 200
    json.dumps(client.stats())


def test_statistics_of_failures(box: Onebox, client: Client) -> None:
    table = client.table("temp")
    table.warm_up()
    box.fault("error", rpc="put", error="ERR_BUSY", count=3)
    box.fault("error", rpc="put", error="ERR_INVALID_STATE", count=1)
    table.set("a", "b", "c")
    box.fault("error", rpc="get", error="ERR_ACL_DENY", count=2)
    for _ in range(2):
        with pytest.raises(errors.AccessDenied):
            table.get("a", "b")
    box.fault("delay", rpc="get", seconds=0.8, count=1)
    with pytest.raises(errors.RequestTimeout):
        table.get("a", "b", timeout=0.4)
    wait_until(lambda: sum(server["late"] for server in client.stats()["servers"].values()) == 1)
    for server in box.servers:
        for connection in list(server.connections):
            connection.close()
    table.get("a", "b")
    stats = client.stats()
    figures = stats["tables"]["temp"]
    assert figures["retries"]["ERR_BUSY"] == 3
    assert figures["retries"]["ERR_INVALID_STATE"] == 1
    assert figures["errors"] == {"AccessDenied": 2, "RequestTimeout": 1}
    assert figures["calls"] == 5
    assert figures["refreshes"] >= 2
    assert (figures["app_id"], figures["partitions"]) == (1, 8)
    servers = stats["servers"].values()
    assert sum(server["late"] for server in servers) == 1
    assert sum(server["timeouts"] for server in servers) == 1
    assert sum(server["losses"] for server in servers) == 3
    assert sum(server["reconnects"] for server in servers) >= 1


def test_the_connection_states_of_servers_are_reported(box: Onebox, client: Client) -> None:
    table = client.table("temp")
    table.warm_up()
    pool = client._cluster.pool
    first = box.replica_addresses[0]
    assert {pool.peer(address).state for address in box.replica_addresses} == {"open"}
    box.configure(failover_delay=30.0)
    box.pause(0)
    calls = [gevent.spawn(_quiet, table.get, f"h{n}", "s", timeout=30.0) for n in range(60)]

    def states() -> list[str]:
        found = {address: server["state"] for address, server in client.stats()["servers"].items()}
        return [found.pop(first), *sorted(found.values())]

    # The paused server answers nothing, so one server is silent; the answers of the others may be late.
    wait_until(lambda: states()[0] == "silent" and states().count("open") == 3)
    assert client.stats()["servers"][first]["in_flight"] > 0
    gevent.killall(calls)
    box.kill(0)
    wait_until(lambda: pool.peer(first).state == "idle")
    _quiet(pool.peer(first).connect, monotonic() + 1.0)
    assert pool.peer(first).state == "down"
    assert pool.peer("127.0.0.1:1").state == "idle"


def _quiet(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        return error


@pytest.mark.parametrize("seconds", [0.000251, 0.0003, 0.00048, 0.0005, 0.3, 7.9])
def test_the_estimated_sum_is_44_percent_off_at_most(seconds: float) -> None:
    stats = TableStats()
    for _ in range(10):
        stats.count(seconds)
    assert 1 / 1.45 < stats.latency_sum() / (10 * seconds) < 1.45


class CountsMeanwhile(Counter[str]):
    """A counter of a sum. Another thread counts failures of a new kind between two steps of the addition."""

    live: Counter[str]

    def get(self, key: str, default: Any = None) -> Any:
        self.live[f"New{len(self.live)}"] += 1
        return super().get(key, default)


@pytest.mark.parametrize("kind", ["errors", "retries"])
def test_counters_are_added_while_their_thread_counts(kind: str) -> None:
    total, live = TableStats(), TableStats()
    getattr(live, kind).update(A=1, B=2)
    counter = CountsMeanwhile(A=3)
    counter.live = getattr(live, kind)
    setattr(total, kind, counter)
    total.add(live)
    assert counter == {"A": 4, "B": 2}
    assert len(getattr(live, kind)) == 4


def test_latencies_are_counted_in_a_histogram(box: Onebox, client: Client) -> None:
    table = client.table("temp")
    table.warm_up()
    for number in range(95):
        table.set(f"h{number}", "s", "v")
    box.fault("delay", rpc="put", seconds=0.7, count=5)
    callers = [gevent.spawn(table.set, f"h{number}", "s", "v") for number in range(5)]
    gevent.joinall(callers, raise_error=True)
    figures = client.stats()["tables"]["temp"]
    assert sum(figures["latency"].values()) == figures["calls"] == figures["latency_count"] == 100
    assert sum(count for bound, count in figures["latency"].items() if bound > 0.7) >= 5
    assert list(figures["latency"]) == sorted(figures["latency"])
    # Bounds are powers of two, so the estimate is at most twice the true value.
    assert figures["p50"] < 0.3
    assert 0.7 <= figures["p99"] <= 2.1


def test_statistics_cost_little_cpu(box: Onebox, client: Client) -> None:
    client.table("temp").warm_up()
    begin = process_time()
    for _ in range(100):
        client.stats()
    assert (process_time() - begin) / 100 < 0.002


# ------------------------------------------------------------------------------------------------ events
def test_listeners_receive_the_events_of_a_call(box: Onebox, client: Client) -> None:
    listener = Everything()
    client.add_listener(listener)
    table = client.table("temp")
    table.set("a", "b", "c")
    assert [event[0] for event in listener.events] == [
        "call_started",
        "connection_opened",
        "routes_changed",
        "connection_opened",
        "call_finished",
    ]
    assert listener.of("call_started") == [("temp", "put")]
    (name, verb, seconds, error, attempts, hedged, server) = listener.of("call_finished")[0]
    assert (name, verb, error, attempts, hedged) == ("temp", "put", None, 1, False)
    assert 0 < seconds < 1
    assert server in box.replica_addresses
    assert listener.of("routes_changed") == [("temp", 1, 8, 8)]
    assert {address for (address,) in listener.of("connection_opened")} <= {*box.meta_addresses, *box.replica_addresses}
    before = len(listener.events)
    client.remove_listener(listener)
    client.remove_listener(listener)
    table.set("a", "b", "c")
    assert len(listener.events) == before


def test_events_of_failures_and_repetitions(box: Onebox, client: Client) -> None:
    table = client.table("temp")
    table.warm_up()
    listener = Everything()
    client.add_listener(listener)
    box.fault("error", rpc="put", error="ERR_NOT_ENOUGH_MEMBER", count=2)
    table.set("a", "b", "c")
    box.fault("error", rpc="incr", error="ERR_OPERATION_DISABLED", count=1)
    with pytest.raises(errors.WriteRejected) as caught:
        table.incr("a", "n")
    box.fault("drop", rpc="get", count=1)
    with pytest.raises(gevent.Timeout) as foreign, gevent.Timeout(0.05):
        table.get("a", "b")
    finished = listener.of("call_finished")
    assert [(verb, error, attempts) for _, verb, _, error, attempts, _, _ in finished] == [
        ("put", None, 3),
        ("incr", caught.value, 1),
        ("get", foreign.value, finished[2][4]),
    ]
    assert len(listener.of("call_started")) == 3


@pytest.mark.parametrize("concurrency", [4, 100])
def test_listeners_hear_the_end_of_an_interrupted_bulk_call(box: Onebox, client: Client, concurrency: int) -> None:
    table = client.table("temp")
    table.warm_up()
    listener = Everything()
    client.add_listener(listener)
    box.fault("drop", rpc="put")
    items = [(f"h{number}", "s", "v") for number in range(10)]
    with pytest.raises(gevent.Timeout) as foreign, gevent.Timeout(0.05):
        table.set_many(items, concurrency=concurrency)
    started, finished = listener.of("call_started"), listener.of("call_finished")
    assert len(started) == len(finished) == min(concurrency, 10)
    assert all(event[3] is foreign.value for event in finished)


def test_events_of_every_kind_of_call(box: Onebox, client: Client) -> None:
    """Each started call has exactly one end event: single, many, async, scans, killed ones."""
    table = client.table("temp")
    table.warm_up()
    listener = Everything()
    client.add_listener(listener)
    table.set_many([(f"h{n}", "s", "v") for n in range(30)])
    table.get_async("h1", "s").get()
    table.multi_set("h1", {"t": "v"})
    list(table.hash_scan("h1"))
    table.batch_get([("h1", "s"), ("h2", "s")])
    box.fault("error", rpc="get", error="ERR_ACL_DENY", count=5)
    table.get_many([(f"h{n}", "s") for n in range(30)], return_errors=True)
    box.fault("delay", rpc="get", seconds=1.0)
    killed = gevent.spawn(table.get, "h1", "s")
    dropped = table.get_async("h1", "s")
    gevent.sleep(0.01)
    killed.kill()
    del dropped
    wait_until(lambda: len(listener.of("call_started")) == len(listener.of("call_finished")))
    gevent.sleep(0.3)
    started, finished = listener.of("call_started"), listener.of("call_finished")
    assert sorted(event[:2] for event in started) == sorted(event[:2] for event in finished)
    assert sum(event[1] == "put" for event in started) == 30
    assert {event[6] for event in finished} <= set(box.replica_addresses), "each tells its server"
    failed = [event[3] for event in finished if event[3] is not None]
    assert sorted(type(error).__name__ for error in failed) == ["AccessDenied"] * 5 + ["GreenletExit"]


def test_listeners_run_in_the_context_of_the_caller(box: Onebox, client: Client) -> None:
    """Handles end in the hub or in their own greenlet, and parallel scans have reader greenlets."""
    request: ContextVar[str] = ContextVar("request", default="none")

    class Contexts(Listener):
        def __init__(self) -> None:
            self.seen: list[tuple[str, str]] = []

        def call_finished(self, table: str, operation: str, *_details: Any) -> None:
            self.seen.append((operation, request.get()))

    table = client.table("temp")
    table.set_many([(f"h{n}", "s", "v") for n in range(30)])
    contexts = Contexts()
    client.add_listener(contexts)

    def work(name: str) -> None:
        request.set(name)
        handles: list[Any] = [table.get_async("h1", "s"), table.multi_get_async("h2")]
        table.get_many([("h1", "s"), ("h2", "s")])
        list(table.scan(parallel=4))
        for handle in handles:
            handle.get()

    for fault in (None, "ERR_BUSY"):
        if fault is not None:
            box.fault("error", rpc="get", error=fault, count=4)
        gevent.joinall([gevent.spawn(work, name) for name in ("one", "two")], raise_error=True)
    counted = Counter(contexts.seen)
    for name in ("one", "two"):
        assert counted["get", name] == 6
        assert counted["multi_get", name] == 2
        assert counted["scan", name] >= 16
    assert {name for _, name in contexts.seen} == {"one", "two"}


def test_an_event_of_an_unsent_call_names_no_server(client: Client) -> None:
    listener = Everything()
    client.add_listener(listener)
    info = CallInfo()
    client.table("temp").set("a", "b", "c", info=info)
    with pytest.raises(errors.TableNotFound):
        client.table("no such table").set("a", "b", "c", info=info)
    assert listener.of("call_finished")[1][6] == ""


def test_events_of_loss_and_new_routes(box: Onebox, client: Client) -> None:
    table = client.table("temp")
    table.warm_up()
    listener = Everything()
    client.add_listener(listener)
    dead = box.replica_addresses[2]
    box.kill(2)
    for number in range(30):
        table.set(f"h{number}", "s", "v", timeout=5.0)
    lost = listener.of("connection_lost")
    assert (dead, "receiving failed: [Errno 104] Connection reset by peer") in lost or lost[0][0] == dead
    changed = listener.of("routes_changed")
    assert changed
    assert all(event[:3] == ("temp", 1, 8) for event in changed)
    assert sum(event[3] for event in changed) >= 2


class Failing(Everything):
    """Fails at every event."""

    def _fail(self) -> None:
        raise RuntimeError("a listener of the application")

    def call_started(self, *details: Any) -> None:
        super().call_started(*details)
        self._fail()

    def call_finished(self, *details: Any) -> None:
        super().call_finished(*details)
        self._fail()

    def connection_opened(self, *details: Any) -> None:
        super().connection_opened(*details)
        self._fail()

    def connection_lost(self, *details: Any) -> None:
        super().connection_lost(*details)
        self._fail()

    def routes_changed(self, *details: Any) -> None:
        super().routes_changed(*details)
        self._fail()


def test_a_failing_listener_does_not_affect_calls_and_is_logged_once(
    box: Onebox, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    failing, good = Failing(), Everything()
    client.add_listener(failing)
    client.add_listener(good)
    table = client.table("temp")
    box.fault("cut", rpc="put", count=2, after=5)
    for number in range(20):
        table.set(f"h{number}", "s", "v")
    table.get_many([(f"h{n}", "s") for n in range(20)])
    table.get_async("h1", "s").get()
    callers = [gevent.spawn(table.get, f"h{n}", "s") for n in range(20)]
    gevent.joinall(callers, raise_error=True)
    assert {event[0] for event in failing.events} == {
        "call_started",
        "call_finished",
        "connection_opened",
        "connection_lost",
        "routes_changed",
    }
    # The other listener received every event.
    assert len(good.events) == len(failing.events)
    records = [record for record in caplog.records if record.name == "pegasus_green.events"]
    assert len(records) == 5
    assert all("further failures are not logged" in record.getMessage() for record in records)


def test_a_failing_listener_with_a_log_handler_that_waits(box: Onebox, client: Client) -> None:
    """A listener fails in a callback of the hub, where the log handler cannot wait."""
    handler = Waiting(failing=False)
    logger = logging.getLogger("pegasus_green.events")
    logger.addHandler(handler)
    try:
        client.add_listener(Failing())
        table = client.table("temp")
        table.warm_up()
        box.fault("cut", rpc="put", count=3)
        callers = [gevent.spawn(table.set, f"h{n}", "s", "v") for n in range(50)]
        gevent.joinall(callers, raise_error=True)
        table.get_async("h1", "s").get()
    finally:
        logger.removeHandler(handler)
    assert handler.seen


def test_a_listener_can_be_added_and_removed_during_an_event(box: Onebox, client: Client) -> None:
    late = Everything()

    class Once(Everything):
        def call_finished(self, *details: Any) -> None:
            super().call_finished(*details)
            client.remove_listener(self)
            client.add_listener(late)

    once = Once()
    client.add_listener(once)
    table = client.table("temp")
    for number in range(5):
        table.set(f"h{number}", "s", "v")
    assert len(once.of("call_finished")) == 1
    assert len(late.of("call_finished")) == 4


def test_a_listener_added_during_a_call_does_not_change_its_outcome(box: Onebox, client: Client) -> None:
    """The outcome is kept, so a write is not sent again."""
    table = client.table("temp")
    table.warm_up()
    box.fault("error", rpc="incr", error="ERR_OPERATION_DISABLED", when="after")
    held = box.fault("delay", rpc="incr", seconds=1.0, when="before")
    caller = gevent.spawn(_quiet, table.incr, "joining-mark", "n")
    wait_until(lambda: held.hits)
    client.add_listener(Everything())
    assert isinstance(caller.get(), errors.WriteRejected)
    assert box.executions("joining-mark") == 1


# ------------------------------------------------------------------------------------------------ reprs
def test_reprs_show_addresses_and_counts(box: Onebox, client: Client) -> None:
    table = client.table("temp")
    meta, *_ = box.meta_addresses
    metas = ",".join(box.meta_addresses)
    assert repr(client) == f"<Client {metas} connections=0>"
    assert repr(table) == f"<Table temp of <Client {metas} connections=0>>"
    table.set("a", "b", "c")
    cluster = client._cluster
    routes: Any = table._dispatcher.routes
    route = routes.table.target(0)
    address = route.primary
    peer = cluster.pool.peer(meta)
    assert repr(client) == f"<Client {metas} connections=2>"
    assert repr(cluster.meta) == f"<MetaClient {metas} leader={meta}>"
    assert re.fullmatch(rf"<Connection {meta} open in_flight=0 sent=1 age=\d+s>", repr(peer.connection))
    assert repr(peer) == f"<Peer {meta} open dials=1 losses=0>"
    assert repr(cluster.pool) == "<Pool peers=4 connections=2>"
    assert repr(routes) == "<TableRoutes temp <RoutingTable app_id=1 partitions=8>>"
    assert re.fullmatch(rf"<Route 1\.\d ballot=\d+ primary={address}>", repr(route))
    assert repr(table._dispatcher) == "<Dispatcher temp calls=1 failed=0>"
    assert repr(cluster) == f"<Cluster {cluster.meta!r} {cluster.pool!r} tables=temp>"
    connection = peer.connection
    client.close()
    assert repr(client) == f"<Client {metas} closed>"
    assert "lost (the client was closed)" in repr(connection)
    assert repr(peer) == f"<Peer {meta} idle dials=1 losses=1>"
    assert "secret" not in repr(client)


def test_errors_name_the_operation_and_the_server(box: Onebox, client: Client) -> None:
    table = client.table("temp")
    table.warm_up()
    box.fault("error", rpc="get", error="ERR_BUSY")
    with pytest.raises(errors.Busy) as caught:
        table.get("a", "b", timeout=1.0)
    text = str(caught.value)
    where = r"table=temp, operation=get, server=[^ ]+:\d+, attempts=\d"
    assert re.match(rf"the server answered ERR_BUSY \[{where}", text)
    assert "HINT: a setting (env) of the table limits requests" in text


@pytest.mark.onebox_only
def test_a_multi_get_that_a_server_cuts_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The line is logged only if the caller gave no limit, since such code may miss rows."""
    with Onebox(tables={"cut": 1, "other": 1}) as box, Client(box.meta_addresses, timeout=20.0) as client:
        for name in ("cut", "other"):
            table = client.table(name)
            table.multi_set("large", {f"{number:05}": "v" for number in range(3100)})
            with caplog.at_level("ERROR", "pegasus_green.retry"):
                # A line that nobody wants does not count.
                assert not table.multi_get("large").complete
            with caplog.at_level("WARNING", "pegasus_green.retry"):
                assert not table.multi_get("large", max_count=10).complete
                gevent.sleep(0.01)
                assert not caplog.records
                for _ in range(3):
                    assert not table.multi_get("large").complete
                assert not table.multi_get_many(["large"])[0].complete
                gevent.sleep(0.01)
            (record,) = caplog.records
            assert record.levelname == "WARNING"
            assert f"a multi_get of table {name} without limits is incomplete after 3000 rows" in record.message
            caplog.clear()
