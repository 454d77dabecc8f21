"""Test contrib.prometheus: the collector, the listener, a real Prometheus server, and the queries of the dashboard."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gevent
import pytest
from gevent.monkey import get_original
from gevent.pywsgi import WSGIServer
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.parser import text_string_to_metric_families

from pegasus_green import Client, PegasusError, Table
from pegasus_green.contrib.prometheus import BUCKETS, PegasusCollector, PegasusMetrics
from pegasus_green.onebox.kdc import free_port
from tests.contrib.suites import ROOT
from tests.transport.scripts import run_script
from tests.waiting import wait_until

DASHBOARD = ROOT / "docs" / "frameworks" / "grafana-dashboard.json"


@pytest.fixture
def client(metas: str) -> Iterator[Client]:
    with Client(metas) as client:
        yield client


@pytest.fixture
def table(client: Client, url: str) -> Table:
    return client.table(url.rpartition("/")[2])


def exported(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Return samples by name and label values in the order of the labels' names."""
    return samples_of(generate_latest(registry).decode())


def samples_of(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def work(box: Any, table: Table) -> None:
    """Make calls of some kinds: 20 gets, 2 puts after a retry each, 1 that fails, 50 of a bulk verb."""
    for number in range(20):
        table.get("user", str(number))
    rule = box.fault("error", rpc="put", error="ERR_BUSY", count=2, table=table.name)
    table.set("user", "a", "b")
    table.set("user", "a", "b")
    rule.remove()
    rule = box.fault("error", rpc="incr", error="ERR_DISK_INSUFFICIENT", table=table.name)
    with pytest.raises(PegasusError):
        table.incr("user", "n")
    rule.remove()
    table.get_many([("user", str(number)) for number in range(50)])


def test_the_collector_exports_the_statistics(pegasus_onebox: Any, client: Client, table: Table) -> None:
    registry = CollectorRegistry()
    registry.register(PegasusCollector(client))
    work(pegasus_onebox, table)
    found, name = exported(registry), table.name
    assert found["pegasus_calls_total", name] == 73
    assert found["pegasus_bulk_calls_total", name] == 50
    assert found["pegasus_errors_total", "WriteRejected", name] == 1
    assert found["pegasus_retries_total", "ERR_BUSY", name] == 2
    assert found["pegasus_partitions", name] == 4
    assert found["pegasus_route_queries_total", name] >= 1
    assert found["pegasus_call_duration_seconds_count", name] == 22
    assert found["pegasus_call_duration_seconds_bucket", "+Inf", name] == 22
    servers = [key[1] for key in found if key[0] == "pegasus_server_up"]
    assert len(servers) >= 2
    assert sum(found["pegasus_requests_total", server] for server in servers) > 70
    assert all(found["pegasus_in_flight", server] == 0 for server in servers)
    assert 1 <= sum(found["pegasus_connections", server] for server in servers) <= len(servers)


def test_the_listener_exports_calls_by_operation(pegasus_onebox: Any, client: Client, table: Table) -> None:
    registry = CollectorRegistry()
    client.add_listener(PegasusMetrics(registry=registry))
    work(pegasus_onebox, table)
    found, name = exported(registry), table.name
    assert found["pegasus_calls_total", "get", name] == 70
    assert found["pegasus_calls_total", "put", name] == 2
    assert found["pegasus_errors_total", "WriteRejected", "incr", name] == 1
    assert found["pegasus_retries_total", "put", name] == 2
    assert found["pegasus_in_flight", name] == 0
    assert found["pegasus_call_duration_seconds_count", "get", name] == 70
    bounds = [float(key[1]) for key in found if key[0] == "pegasus_call_duration_seconds_bucket" and key[2] == "put"]
    assert sorted(bounds) == [*BUCKETS, float("inf")]
    connections = [value for key, value in found.items() if key[0] == "pegasus_connections"]
    assert connections
    assert set(connections) == {1.0}


def test_calls_in_flight_and_killed_calls_are_exported(pegasus_onebox: Any, client: Client, table: Table) -> None:
    registry = CollectorRegistry()
    client.add_listener(PegasusMetrics(registry=registry))
    rule = pegasus_onebox.fault("drop", rpc="get", table=table.name)
    callers = [gevent.spawn(table.get, "user", str(number)) for number in range(7)]
    gevent.sleep(0.1)
    assert exported(registry)["pegasus_in_flight", table.name] == 7
    gevent.killall(callers)
    rule.remove()
    found = exported(registry)
    assert found["pegasus_in_flight", table.name] == 0
    assert found["pegasus_errors_total", "GreenletExit", "get", table.name] == 7


def test_the_estimated_sum_is_near_the_exact_one(client: Client, table: Table) -> None:
    exact, estimated = CollectorRegistry(), CollectorRegistry()
    client.add_listener(PegasusMetrics(registry=exact))
    estimated.register(PegasusCollector(client))
    for number in range(300):
        table.get("user", str(number))
    true = exported(exact)["pegasus_call_duration_seconds_sum", "get", table.name]
    estimate = exported(estimated)["pegasus_call_duration_seconds_sum", table.name]
    # Besides the bound of the estimate there is what the listener itself adds to its first call.
    assert 0.7 * 0.72 < estimate / true < 1.45


def test_lost_connections_are_counted(pegasus_onebox: Any, client: Client, table: Table) -> None:
    registry = CollectorRegistry()
    client.add_listener(PegasusMetrics(registry=registry))
    table.set("user", "a", "b")
    pegasus_onebox.fault("cut", rpc="get", count=1, table=table.name)
    table.get("user", "a")
    found = exported(registry)
    assert sum(value for key, value in found.items() if key[0] == "pegasus_connection_losses_total") == 1
    assert {value for key, value in found.items() if key[0] == "pegasus_connections"} <= {0.0, 1.0}


def test_several_clients_share_one_registry(metas: str, client: Client, table: Table) -> None:
    registry = CollectorRegistry()
    with Client(metas) as other:
        registry.register(PegasusCollector({"a": client, "b": other}))
        table.set("user", "a", "b")
        found = exported(registry)
        assert found["pegasus_calls_total", "a", table.name] == 1
        assert ("pegasus_calls_total", "b", table.name) not in found
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            registry.register(PegasusCollector(client))


def test_a_scrape_never_fails(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def stats(self) -> Any:
            raise ZeroDivisionError

    registry = CollectorRegistry()
    registry.register(PegasusCollector(Broken()))  # type: ignore[arg-type]
    assert generate_latest(registry) == generate_latest(registry) == b""
    assert len(caplog.records) == 1
    client.close()
    registry = CollectorRegistry()
    registry.register(PegasusCollector(client))
    assert b"pegasus_calls" in generate_latest(registry)


def test_a_failing_listener_does_not_fail_calls(client: Client, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = PegasusMetrics(registry=CollectorRegistry())
    monkeypatch.setattr(metrics, "_seconds", None)
    client.add_listener(metrics)
    table.set("user", "a", "b")
    assert table.get("user", "a") == b"b"


def gauge(registry: CollectorRegistry, name: str) -> float:
    return sum(value for key, value in exported(registry).items() if key[0] == name)


def test_the_connections_of_threads_and_of_a_closed_client_are_no_longer_counted(client: Client, table: Table) -> None:
    registry = CollectorRegistry()
    client.add_listener(PegasusMetrics(registry=registry))
    table.warm_up()
    opened = gauge(registry, "pegasus_connections")
    assert opened == len(client._cluster.pool.connections) > 1
    ended: list[int] = []

    def work(number: int) -> None:
        table.warm_up()
        ended.append(number)

    for number in range(3):
        get_original("_thread", "start_new_thread")(work, (number,))
        wait_until(lambda: number in ended)  # noqa: B023 - called at once
    wait_until(lambda: gauge(registry, "pegasus_connections") == opened, 20.0)
    client.close()
    assert gauge(registry, "pegasus_connections") == 0
    assert gauge(registry, "pegasus_connection_losses_total") > opened


def test_a_dial_that_fails_is_no_end_of_an_open_connection() -> None:
    registry = CollectorRegistry()
    metrics = PegasusMetrics(registry=registry)
    metrics.connection_opened("10.0.0.1:1")
    # Another thread cannot connect to the same server.
    metrics.connection_lost("10.0.0.1:1", "cannot connect: refused")
    assert gauge(registry, "pegasus_connections") == 1
    metrics.connection_lost("10.0.0.1:1", "closed")
    # A connection that was opened before the listener was added.
    metrics.connection_lost("10.0.0.1:1", "closed")
    assert gauge(registry, "pegasus_connections") == 0
    assert gauge(registry, "pegasus_connection_losses_total") == 3


VERBS: dict[str, Callable[[Table], object]] = {
    "get": lambda table: table.get("user", "a"),
    "set": lambda table: table.set("user", "a", "b"),
    "get_async": lambda table: table.get_async("user", "a").get(),
    "get_many": lambda table: table.get_many([("user", "a")]),
    "set_many": lambda table: table.set_many([("user", "a", "b")]),
    "batch_get": lambda table: table.batch_get([("user", "a")]),
    "multi_get": lambda table: table.multi_get("user"),
    "scan": lambda table: list(table.scan()),
    "scan in parallel": lambda table: list(table.scan(parallel=3)),
    "hash_scan": lambda table: list(table.hash_scan("user")),
    "count": lambda table: table.count(),
}


def fails(call: Callable[..., object], *args: Any) -> None:
    with suppress(PegasusError):
        call(*args)


@pytest.mark.parametrize("verb", VERBS)
def test_all_missing_tables_have_one_label(client: Client, table: Table, verb: str) -> None:
    registry = CollectorRegistry()
    client.add_listener(PegasusMetrics(registry=registry))
    table.set("user", "a", "b")
    lines = 0
    for number in range(10):
        fails(VERBS[verb], client.table(f"missing {number}"))
        lines = lines or len(generate_latest(registry).splitlines())
    text = generate_latest(registry).decode()
    assert "missing" not in text
    assert len(text.splitlines()) == lines
    found = samples_of(text)
    assert found.get(("pegasus_in_flight", "(unknown)"), 0) == 0
    assert found["pegasus_calls_total", "put", table.name] == 1
    # Some verbs fail before their first request.
    errors = {key: value for key, value in found.items() if key[0] == "pegasus_errors_total"}
    assert list(errors.values()) in ([], [10])
    assert all((key[1], key[3]) == ("TableNotFound", "(unknown)") for key in errors)
    assert errors or verb in ("scan", "scan in parallel", "count", "batch_get")


def test_calls_in_flight_move_to_the_name_of_their_table_when_it_is_found(own_onebox: Any) -> None:
    registry = CollectorRegistry()
    rule = own_onebox.fault("error", rpc="RPC_CM_QUERY_PARTITION_CONFIG_BY_INDEX", error="ERR_BUSY")
    slow = own_onebox.fault("drop", rpc="get")
    with Client(own_onebox.meta_addresses, timeout=30.0) as client:
        metrics = PegasusMetrics(registry=registry)
        client.add_listener(metrics)
        callers = [gevent.spawn(fails, client.table("temp").get, "user", str(number)) for number in range(5)]
        wait_until(lambda: len(metrics._early) == 5)
        assert exported(registry)["pegasus_in_flight", "(unknown)"] == 5
        assert ("pegasus_in_flight", "temp") not in exported(registry)
        callers.pop().kill()
        assert exported(registry)["pegasus_in_flight", "(unknown)"] == 4
        rule.remove()
        wait_until(lambda: slow.hits)
        found = exported(registry)
        assert (found["pegasus_in_flight", "(unknown)"], found["pegasus_in_flight", "temp"]) == (0, 4)
        gevent.killall(callers)
        slow.remove()
        client.table("temp").get("user", "a")
    found = exported(registry)
    assert (found["pegasus_in_flight", "(unknown)"], found["pegasus_in_flight", "temp"]) == (0, 0)
    assert found["pegasus_errors_total", "GreenletExit", "get", "(unknown)"] == 1
    assert found["pegasus_errors_total", "GreenletExit", "get", "temp"] == 4


def test_a_listener_that_is_added_later_learns_of_the_table_from_the_first_result(client: Client, table: Table) -> None:
    table.set("user", "a", "b")
    registry = CollectorRegistry()
    client.add_listener(PegasusMetrics(registry=registry))
    table.get("user", "a")
    found = exported(registry)
    assert found["pegasus_calls_total", "get", table.name] == 1
    assert (found["pegasus_in_flight", table.name], found["pegasus_in_flight", "(unknown)"]) == (0, 0)


FORKING = """
import os, sys
import gevent
from prometheus_client import CollectorRegistry
from pegasus_green import Client, ForkedConnection
from pegasus_green.contrib.prometheus import PegasusMetrics
from tests.fork.forking import fork

def gauges():
    open_ = sum(level._gauge._value.get() for level in metrics._open.values())
    return open_, metrics._in_flight.labels("temp")._value.get()

def call(number):
    try:
        table.get("user", str(number))
    except ForkedConnection:
        copies.append(number)

def child():
    gevent.joinall(callers)
    assert len(copies) == 5, copies
    assert gauges() == (0, 0), gauges()
    table.get("user", "a", timeout=9.0)
    assert gauges()[0] > 0, gauges()
    client.close()
    assert gauges() == (0, 0), gauges()

copies = []
client = Client(sys.argv[1], timeout=9.0)
metrics = PegasusMetrics(registry=CollectorRegistry())
client.add_listener(metrics)
table = client.table("temp")
table.warm_up()
callers = [gevent.spawn(call, number) for number in range(5)]
gevent.sleep(0.1)
opened, running = gauges()
assert opened > 1 and running == 5, gauges()
status = fork("os.fork", child)()
gevent.joinall(callers)
assert gauges() == (opened, 0), gauges()
print(status, copies)
"""


@pytest.mark.parametrize("processes", ["one", "several"])
def test_the_gauges_of_a_forked_child_start_at_zero(own_onebox: Any, processes: str, tmp_path: Path) -> None:
    own_onebox.fault("delay", rpc="get", seconds=1.0, count=5)
    environment = {} if processes == "one" else {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    metas = ",".join(own_onebox.meta_addresses)
    assert run_script(FORKING, metas, warn="ignore", **environment) == "0 []\n"


class Struck:
    """The lock of a metric. A signal comes the first time it is held. A thread that waits for itself gives up."""

    def __init__(self, real: Any) -> None:
        self.real, self.struck, self.held_twice = real, False, False

    def __enter__(self) -> None:
        self.held_twice |= not self.real.acquire(timeout=3)
        if not self.struck:
            self.struck = True
            signal.raise_signal(signal.SIGUSR1)

    def __exit__(self, *_details: object) -> None:
        self.real.release()


def test_a_signal_handler_can_make_a_call_while_a_metric_is_updated(client: Client, table: Table) -> None:
    registry = CollectorRegistry()
    metrics = PegasusMetrics(registry=registry)
    client.add_listener(metrics)
    table.set("user", "a", "b")
    values = [
        metrics._in_flight.labels(table.name)._value,
        metrics._calls.labels(table.name, "get")._value,
        metrics._seconds.labels(table.name, "get")._sum,
    ]
    found: list[Any] = []

    def call() -> None:
        # While the handler waits, another greenlet makes a call, too.
        other = gevent.spawn(table.get, "user", "a")
        found.extend((table.get("user", "a"), other.get()))

    before = signal.signal(signal.SIGUSR1, lambda *_: call())
    try:
        for value in values:
            value._lock = lock = Struck(value._lock)
            assert table.get("user", "a") == b"b"
            assert (lock.struck, lock.held_twice) == (True, False)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert found == [b"b"] * 6
    counted = exported(registry)
    assert counted["pegasus_calls_total", "get", table.name] == 9
    assert counted["pegasus_call_duration_seconds_count", "get", table.name] == 9
    assert counted["pegasus_in_flight", table.name] == 0


# ----------------------------------------------------------------------------------------------- Prometheus's own tools
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: apt-get install prometheus)"
)


@needs_prometheus
def test_promtool_finds_no_problem(pegasus_onebox: Any, client: Client, table: Table) -> None:
    listener, collector = CollectorRegistry(), CollectorRegistry()
    client.add_listener(PegasusMetrics(registry=listener))
    collector.register(PegasusCollector(client))
    work(pegasus_onebox, table)
    for registry in (listener, collector):
        text = generate_latest(registry)
        text = re.sub(rb"(?m)^.*_created.*\n", b"", text)  # prometheus_client's own, which promtool dislikes
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def fetch(address: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


@contextmanager
def prometheus(target: str, place: Path) -> Iterator[str]:
    """Run a Prometheus that scrapes a target each second; yield its address."""
    address = f"127.0.0.1:{free_port()}"
    jobs = [{"job_name": "test", "static_configs": [{"targets": [target]}]}]
    config = place / "prometheus.yml"  # JSON is YAML
    config.write_text(json.dumps({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}))
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={place / 'data'}"]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait()


def query(address: str, expression: str) -> list[Any]:
    try:
        answer = json.loads(fetch(address, f"/api/v1/query?query={quote(expression)}"))
    except (OSError, ValueError):
        return []  # it is starting
    assert answer["status"] == "success", (expression, answer)
    return list(answer["data"]["result"])


@needs_prometheus
def test_a_prometheus_server_scrapes_the_metrics_and_the_dashboard_queries_find_them(
    pegasus_onebox: Any, client: Client, table: Table, tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    registry.register(PegasusCollector(client))
    server = WSGIServer(("127.0.0.1", 0), make_wsgi_app(registry), log=None)
    server.start()
    try:
        work(pegasus_onebox, table)
        with prometheus(f"127.0.0.1:{server.server_port}", tmp_path) as address:
            calls = f'pegasus_calls_total{{table="{table.name}"}}'
            end = time.monotonic() + 60
            while not query(address, f"count_over_time({calls}[1m]) >= 3"):
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                gevent.sleep(0.3)
            (result,) = query(address, calls)
            assert result["value"][1] == "73"
            expressions = [
                target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]
            ]
            assert len(expressions) > 10
            for expression in expressions:
                asked = expression.replace("$table", ".*").replace("$__rate_interval", "1m")
                assert query(address, asked), f"no data for {asked}"
    finally:
        server.stop()


def test_the_dashboard_queries_only_exported_metrics(client: Client) -> None:
    both = {family.name for family in PegasusCollector(client).describe()}
    registry = CollectorRegistry()
    PegasusMetrics(registry=registry)
    both |= {family.name for family in registry.collect()}
    for name in re.findall(r"pegasus_[a-z_]+", DASHBOARD.read_text()):
        assert re.sub("_(total|bucket|sum|count)$", "", name) in both, name


# ---------------------------------------------------------------------------------------------------- several processes
def test_the_metrics_of_two_gunicorn_workers_are_added(url: str, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "2", "-b", address]
    (tmp_path / "metrics").mkdir()
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PEGASUS_URL": url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        "HOME": str(tmp_path),
    }
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "tests.contrib.prometheus_app:application"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        workers: set[bytes] = set()
        requests = 0
        end = time.monotonic() + 60
        while len(workers) < 2 or requests < 40:
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            try:
                workers.add(fetch(address, "/page"))
                requests += 1
            except OSError:
                time.sleep(0.1)
        found = samples_of(fetch(address, "/metrics").decode())
        name = url.rpartition("/")[2]
        assert found["pegasus_calls_total", "incr", name] == requests
        assert found["pegasus_call_duration_seconds_count", "incr", name] == requests
        assert found["pegasus_in_flight", name] == 0
        connections = [value for key, value in found.items() if key[0] == "pegasus_connections"]
        assert max(connections) == 2, "one of each worker"
    finally:
        server.terminate()
        server.wait()
