"""Test contrib.opentelemetry: spans follow the conventions and have the right parents in every kind of call."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.attributes import db_attributes, error_attributes, server_attributes

from pegasus_green import Client, PegasusError, RequestTimeout, Table, TableNotFound
from pegasus_green.contrib.opentelemetry import PegasusTelemetry
from tests.waiting import wait_until


class Telemetry:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.traces = TracerProvider()
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.metrics = MeterProvider(metric_readers=[self.reader])
        self.tracer = self.traces.get_tracer("test")
        self.listener = PegasusTelemetry(tracer_provider=self.traces, meter_provider=self.metrics, cluster="c1")

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """Return the client's spans, or those of a name."""
        made = [span for span in self.exporter.get_finished_spans() if span.kind is trace.SpanKind.CLIENT]
        return [span for span in made if name is None or span.name == name]

    def durations(self) -> list[Any]:
        data: Any = self.reader.get_metrics_data()
        (metric,) = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        assert (metric.name, metric.unit) == ("db.client.operation.duration", "s")
        return list(metric.data.data_points)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.traces.shutdown()
    telemetry.metrics.shutdown()


@pytest.fixture
def client(metas: str) -> Iterator[Client]:
    with Client(metas) as client:
        yield client


@pytest.fixture
def table(client: Client, url: str, telemetry: Telemetry) -> Table:
    table = client.table(url.rpartition("/")[2])
    table.warm_up()
    client.add_listener(telemetry.listener)
    return table


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def test_a_span_has_the_attributes_of_the_conventions(pegasus_onebox: Any, table: Table, telemetry: Telemetry) -> None:
    before = time.time_ns()
    with telemetry.tracer.start_as_current_span("request") as request:
        table.set("user:7", "name", "Ada")
    (span,) = telemetry.spans()
    assert span.name == f"put {table.name}"
    assert parent_of(span) == request.get_span_context().span_id
    attributes = dict(span.attributes or {})
    assert attributes[db_attributes.DB_SYSTEM_NAME] == "pegasus"
    assert attributes[db_attributes.DB_COLLECTION_NAME] == table.name
    assert attributes[db_attributes.DB_OPERATION_NAME] == "put"
    assert attributes[db_attributes.DB_NAMESPACE] == "c1"
    assert error_attributes.ERROR_TYPE not in attributes
    host, port = attributes[server_attributes.SERVER_ADDRESS], attributes[server_attributes.SERVER_PORT]
    assert f"{host}:{port}" in pegasus_onebox.replica_addresses
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.start_time is not None
    assert span.end_time is not None
    assert before - 1_000_000 <= span.start_time <= span.end_time <= time.time_ns()


def test_an_error_has_the_attributes_of_the_conventions(
    pegasus_onebox: Any, table: Table, telemetry: Telemetry
) -> None:
    rule = pegasus_onebox.fault("cut", rpc="incr", when="after", table=table.name)
    with pytest.raises(PegasusError):
        table.incr("user:7", "visits")
    rule.remove()
    (span,) = telemetry.spans()
    attributes = dict(span.attributes or {})
    assert attributes[error_attributes.ERROR_TYPE] == "ConnectionLost"
    assert attributes[db_attributes.DB_RESPONSE_STATUS_CODE] == "ERR_SESSION_RESET"
    assert attributes[server_attributes.SERVER_ADDRESS] == "127.0.0.1"
    assert isinstance(attributes[server_attributes.SERVER_PORT], int)
    assert attributes["pegasus.outcome_unknown"] is True
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "outcome=unknown" in (span.status.description or "")


def test_each_of_a_thousand_greenlets_has_its_own_parent_span(
    pegasus_onebox: Any, table: Table, telemetry: Telemetry
) -> None:
    # Some replies are late and some calls are repeated, so that their order is not that of the calls.
    rules = [
        pegasus_onebox.fault("delay", rpc="get", seconds=0.05, probability=0.05, table=table.name),
        pegasus_onebox.fault("error", rpc="put", error="ERR_BUSY", probability=0.1, table=table.name),
    ]
    parents: dict[str, int] = {}

    def work(number: int) -> None:
        with telemetry.tracer.start_as_current_span("request") as request:
            parents[str(number)] = request.get_span_context().span_id
            table.get("user", str(number), timeout=20.0)
            if number % 3 == 0:
                gevent.sleep(0)
            table.set("user", str(number), "x", timeout=20.0)
            handle = table.get_async("user", str(number), timeout=20.0)
            gevent.sleep(0)
            assert handle.get() == b"x"

    workers = [gevent.spawn(work, number) for number in range(1000)]
    gevent.joinall(workers, raise_error=True)
    for rule in rules:
        rule.remove()
    spans = telemetry.spans()
    assert len(spans) == 3000
    found: dict[int | None, list[str]] = {}
    for span in spans:
        found.setdefault(parent_of(span), []).append(span.name)
    assert set(found) == set(parents.values())
    expected = sorted([f"get {table.name}"] * 2 + [f"put {table.name}"])
    assert all(sorted(names) == expected for names in found.values())
    repeated = [span for span in spans if "pegasus.attempts" in (span.attributes or {})]
    assert repeated


@pytest.mark.parametrize("fault", [None, "ERR_BUSY"])
def test_bulk_calls_handles_and_scans_have_the_span_of_the_caller_as_parent(
    pegasus_onebox: Any, table: Table, telemetry: Telemetry, fault: str | None
) -> None:
    if fault is not None:
        pegasus_onebox.fault("error", rpc="data", error=fault, count=5, table=table.name)
    with telemetry.tracer.start_as_current_span("request") as request:
        table.set_many([(f"user:{number}", "name", "x") for number in range(50)])
        table.get_many([(f"user:{number}", "name") for number in range(50)])
        handles = [table.get_async(f"user:{number}", "name") for number in range(10)]
        assert [handle.get() for handle in handles] == [b"x"] * 10
        assert len(list(table.scan())) == 50
        assert len(list(table.scan(parallel=4))) == 50
        assert table.count() == 50
    pegasus_onebox.clear_faults()
    spans = telemetry.spans()
    assert {parent_of(span) for span in spans} == {request.get_span_context().span_id}
    assert len(telemetry.spans(f"put {table.name}")) == 50
    assert len(telemetry.spans(f"get {table.name}")) == 60
    assert len(telemetry.spans(f"scan {table.name}")) >= 8


def test_a_killed_call_has_a_span(pegasus_onebox: Any, table: Table, telemetry: Telemetry) -> None:
    rule = pegasus_onebox.fault("drop", rpc="get", table=table.name)
    caller = gevent.spawn(table.get, "user", "name")
    gevent.sleep(0.1)
    caller.kill()
    with pytest.raises(RequestTimeout):
        table.get("user", "name", timeout=0.1)
    rule.remove()
    types = [dict(span.attributes or {})[error_attributes.ERROR_TYPE] for span in telemetry.spans()]
    assert types == ["GreenletExit", "RequestTimeout"]


def test_durations_are_measured(table: Table, telemetry: Telemetry) -> None:
    for _ in range(10):
        table.get("user", "name")
    table.set("user", "name", "x")
    points = {dict(point.attributes)[db_attributes.DB_OPERATION_NAME]: point for point in telemetry.durations()}
    assert points["get"].count == 10
    assert points["put"].count == 1
    assert 0 < points["get"].sum < 10
    assert points["get"].explicit_bounds[0] == 0.0001
    assert dict(points["get"].attributes)[db_attributes.DB_SYSTEM_NAME] == "pegasus"


def test_all_missing_tables_have_one_series_of_durations(client: Client, table: Table, telemetry: Telemetry) -> None:
    table.get("user", "name")
    for number in range(10):
        with pytest.raises(TableNotFound):
            client.table(f"missing {number}").get("user", "name")
    points = [dict(point.attributes) for point in telemetry.durations()]
    assert len(points) == 2
    assert {point.get(db_attributes.DB_COLLECTION_NAME) for point in points} == {table.name, None}
    assert {span.name for span in telemetry.spans()} == {
        f"get {table.name}", *(f"get missing {number}" for number in range(10)),
    }  # fmt: skip


def test_a_call_that_fails_after_the_table_was_found_is_measured_with_its_name(
    metas: str, url: str, telemetry: Telemetry, pegasus_onebox: Any
) -> None:
    name = url.rpartition("/")[2]
    with Client(metas) as client:
        client.add_listener(telemetry.listener)
        rule = pegasus_onebox.fault("drop", rpc="get", table=name)
        caller = gevent.spawn(client.table(name).get, "user", "name")
        wait_until(lambda: rule.hits)
        caller.kill()
        rule.remove()
    (point,) = telemetry.durations()
    assert dict(point.attributes)[db_attributes.DB_COLLECTION_NAME] == name


def test_spans_or_durations_can_be_turned_off(client: Client, url: str, telemetry: Telemetry) -> None:
    table = client.table(url.rpartition("/")[2])
    client.add_listener(PegasusTelemetry(tracer_provider=telemetry.traces, durations=False))
    table.get("user", "name")
    assert len(telemetry.spans()) == 1
    assert telemetry.reader.get_metrics_data() is None
    client.add_listener(PegasusTelemetry(meter_provider=telemetry.metrics, spans=False))
    table.get("user", "name")
    assert len(telemetry.spans()) == 2
    assert len(telemetry.durations()) == 1


def test_a_failing_exporter_does_not_fail_calls(client: Client, url: str, telemetry: Telemetry) -> None:
    listener = PegasusTelemetry(tracer_provider=telemetry.traces)
    listener._tracer = None
    listener._duration = object()
    client.add_listener(listener)
    assert client.table(url.rpartition("/")[2]).get("user", "name") is None


def test_a_signal_handler_can_make_a_call_while_a_duration_is_measured(table: Table, telemetry: Telemetry) -> None:
    table.set("user:7", "name", "Ada")
    consumer = telemetry.metrics._measurement_consumer
    measure = consumer.consume_measurement
    nested: list[int] = []
    found: list[Any] = []

    def consume(*args: Any) -> None:
        nested.append(len(nested) - len(found))
        if len(nested) == 1:
            signal.raise_signal(signal.SIGUSR1)
        measure(*args)
        found.append(True)

    consumer.consume_measurement = consume
    before = signal.signal(signal.SIGUSR1, lambda *_: table.get("user:7", "name"))
    try:
        assert table.get("user:7", "name") == b"Ada"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert nested == [0, 0], "no measurement began inside another one"
    assert sum(point.count for point in telemetry.durations()) == 3
