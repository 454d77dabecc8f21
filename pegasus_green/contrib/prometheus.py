"""Metrics for Prometheus, in two variants with the same names.

``PegasusCollector`` reads ``client.stats()`` when Prometheus scrapes. It adds no cost to calls. It is for programs of
one process::

    from prometheus_client import REGISTRY
    REGISTRY.register(PegasusCollector(client))

``PegasusMetrics`` is a listener that updates counters, gauges and histograms of ``prometheus_client``. It is for
several processes (gunicorn, uWSGI) with the multiprocess mode of ``prometheus_client``, which ignores collectors. It
also has the operation as a label, and the sums of its histograms are exact::

    client.add_listener(PegasusMetrics())

Use only one of them in a process: both export ``pegasus_calls_total``. Their errors never reach a call or a scrape.

==================================== ================================================ ========= ========
metric                               labels                                           collector listener
==================================== ================================================ ========= ========
``pegasus_calls_total``              table; listener: operation                       yes       yes
``pegasus_errors_total``             table, error; listener: operation                yes       yes
``pegasus_retries_total``            table; collector: cause; listener: operation     yes       yes
``pegasus_call_duration_seconds``    table; listener: operation                       yes       yes
``pegasus_in_flight``                collector: server; listener: table               yes       yes
``pegasus_connections``              server                                           yes       yes
``pegasus_connection_losses_total``  server                                           yes       yes
``pegasus_hedge_wins_total``         table                                            yes       yes
``pegasus_hedges_total``             table                                            yes
``pegasus_bulk_calls_total``         table                                            yes
``pegasus_route_queries_total``      table                                            yes
``pegasus_route_changes_total``      table                                                      yes
``pegasus_partitions``               table                                            yes
``pegasus_server_up``                server                                           yes
``pegasus_queued_bytes``             server                                           yes
``pegasus_requests_total``           server                                           yes
``pegasus_replies_total``            server                                           yes
``pegasus_sent_bytes_total``         server                                           yes
``pegasus_received_bytes_total``     server                                           yes
``pegasus_late_replies_total``       server                                           yes
``pegasus_timeouts_total``           server                                           yes
``pegasus_dials_total``              server                                           yes
==================================== ================================================ ========= ========

A histogram of the collector counts successful calls, without bulk calls; that of the listener counts all calls. The
collector's buckets are powers of two (61 us to 16 s), because the client counts in such buckets. The client does not
sum up durations, so the collector's ``_sum`` is an estimate: ``latency_sum`` of ``stats()``, with an error of at most
44 %. The buckets themselves are exact.

Names of tables can come from the requests of an application, and most of them may be wrong. So the listener counts the
calls of all tables that the client has not found yet with the label ``table="(unknown)"``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from ..client import Client
from ..errors import ForkedConnection
from ..events import CANNOT_CONNECT, Listener
from ..turns import Unnested

_log = logging.getLogger("pegasus_green.prometheus")
P = ParamSpec("P")

BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_EXPONENTS = range(-14, 5)
# The label of tables that the client has not found. No table can have this name.
UNKNOWN = "(unknown)"

# Name, help text, key in stats().
_TABLE_COUNTERS = (
    ("calls", "Calls that ended, with or without an error", "calls"),
    ("bulk_calls", "Successful requests of *_many verbs", "bulk"),
    ("route_queries", "Queries of the table's routes", "refreshes"),
    ("hedges", "Reads that were also sent to a secondary", "hedges"),
    ("hedge_wins", "Reads answered by a secondary", "hedge_wins"),
)
_TABLE_BY_CAUSE = (
    ("errors", "Calls that failed, by class of the error", "errors", "error"),
    ("retries", "Repeated attempts, by the error that caused them", "retries", "cause"),
)
_SERVER_COUNTERS = (
    ("requests", "Requests sent", "sent"),
    ("replies", "Replies received", "received"),
    ("sent_bytes", "Bytes sent", "bytes_sent"),
    ("received_bytes", "Bytes received", "bytes_received"),
    ("late_replies", "Replies whose callers were killed or timed out before", "late"),
    ("timeouts", "Requests whose deadline passed", "timeouts"),
    ("dials", "Attempts to connect", "dials"),
    ("connection_losses", "Connections that ended", "losses"),
)
_SERVER_GAUGES = (
    ("in_flight", "Requests that wait for a reply", "in_flight"),
    ("queued_bytes", "Bytes that wait to be sent", "queued_bytes"),
)


class PegasusCollector(Collector):
    """Exports the figures of ``client.stats()``, for a program of one process.

    Args:
        clients: The client, or several clients by name. The name becomes the label ``cluster`` of all metrics.
        namespace: Prefix of the metric names.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> registry = CollectorRegistry()
        >>> registry.register(PegasusCollector({"c1": client}))
        >>> table.set("user:7", "name", "Ada")
        >>> b'pegasus_calls_total{cluster="c1",table="temp"}' in generate_latest(registry)
        True
    """

    def __init__(self, clients: Client | Mapping[str, Client], *, namespace: str = "pegasus") -> None:
        several = isinstance(clients, Mapping)
        self._label = ["cluster"] if several else []
        self._clients: list[tuple[list[str], Client]] = (
            [([name], client) for name, client in clients.items()] if isinstance(clients, Mapping) else [([], clients)]
        )
        self._namespace = namespace
        self._complained = False

    def describe(self) -> list[Any]:
        """Return the metric families without samples, so that a registry knows the names without a scrape."""
        return self._families([])

    def collect(self) -> list[Any]:
        """Return the metric families with the current figures; an empty list if they cannot be read."""
        try:
            return self._families([(values, client.stats()) for values, client in self._clients])
        except Exception:
            # A scrape must not fail because of this, or the metrics of other collectors would be missing.
            if not self._complained:
                self._complained = True
                _log.exception("the statistics of the client cannot be exported; further failures are not logged")
            return []

    def _families(self, stats: list[tuple[list[str], dict[str, Any]]]) -> list[Any]:
        tables = [([*c, name], figures) for c, known in stats for name, figures in known["tables"].items()]
        servers = [([*c, name], figures) for c, known in stats for name, figures in known["servers"].items()]
        families = [
            self._family(CounterMetricFamily, name, text, ["table"], [(who, f[key]) for who, f in tables])
            for name, text, key in _TABLE_COUNTERS
        ]
        for name, text, key, cause in _TABLE_BY_CAUSE:
            samples = [([*who, why], count) for who, f in tables for why, count in f[key].items()]
            families.append(self._family(CounterMetricFamily, name, text, ["table", cause], samples))
        for kind, rows in ((CounterMetricFamily, _SERVER_COUNTERS), (GaugeMetricFamily, _SERVER_GAUGES)):
            families += [
                self._family(kind, name, text, ["server"], [(who, f[key]) for who, f in servers])
                for name, text, key in rows
            ]
        partitions = [(who, f["partitions"]) for who, f in tables]
        opened = [(who, int(f["state"] in ("open", "silent"))) for who, f in servers]
        up = [(who, int(f["state"] not in ("down", "silent"))) for who, f in servers]
        text = "0: the newest dial failed, or the server owes replies and has been silent for long"
        return [
            *families,
            self._family(GaugeMetricFamily, "partitions", "Partitions of the table", ["table"], partitions),
            self._family(GaugeMetricFamily, "connections", "Open connections", ["server"], opened),
            self._family(GaugeMetricFamily, "server_up", text, ["server"], up),
            self._histogram(tables),
        ]

    def _family(self, kind: Any, name: str, text: str, labels: list[str], samples: list[tuple[list[str], int]]) -> Any:
        family = kind(f"{self._namespace}_{name}", text, labels=[*self._label, *labels])
        for values, figure in samples:
            family.add_metric(values, figure)
        return family

    def _histogram(self, tables: list[tuple[list[str], dict[str, Any]]]) -> Any:
        text = "Durations of successful calls, without bulk calls; the sum is an estimate"
        name = f"{self._namespace}_call_duration_seconds"
        family = HistogramMetricFamily(name, text, labels=[*self._label, "table"])
        for values, figures in tables:
            family.add_metric(values, _cumulated(figures["latency"]), figures["latency_sum"])
        return family


def _cumulated(latency: dict[float, int]) -> list[tuple[str, float]]:
    """Return Prometheus's buckets of calls by upper bound in seconds."""
    bounds = [2.0**exponent for exponent in _EXPONENTS]
    buckets: list[tuple[str, float]] = [
        (repr(bound), sum(count for upper, count in latency.items() if upper <= bound)) for bound in bounds
    ]
    buckets.append(("+Inf", sum(latency.values())))
    return buckets


class _Level:
    """A gauge of open connections or running calls. It ignores an end without a beginning, so it is never negative."""

    __slots__ = ("_gauge", "_counted")

    def __init__(self, gauge: Any) -> None:
        self._gauge = gauge
        # A list, because append and pop are atomic. Several threads use it.
        self._counted: list[None] = []

    def up(self) -> None:
        self._counted.append(None)
        self._gauge.inc()

    def down(self) -> None:
        try:
            self._counted.pop()
        except IndexError:
            return
        self._gauge.dec()

    def clear(self) -> None:
        self._counted.clear()
        self._gauge.set(0)


def _unnested(count: Callable[Concatenate[PegasusMetrics, P], None]) -> Callable[Concatenate[PegasusMetrics, P], None]:
    """Make a method of the listener run after the one that its thread is running, and not inside it."""

    @wraps(count)
    def run(self: PegasusMetrics, /, *args: P.args, **named: P.kwargs) -> None:
        if self._pid != os.getpid():
            self._unnested.run(self._start_at_zero)
        self._unnested.run(partial(count, self, *args, **named))

    return run


class PegasusMetrics(Listener):
    """Counts the calls of a client in metrics of ``prometheus_client``; works in its multiprocess mode, too.

    It adds some microseconds to each call. One object may listen to several clients.

    The locks of ``prometheus_client`` are not reentrant. If a signal handler or a finalizer makes a call while its
    thread updates these metrics, its call is counted after this update. But nothing can be counted while the thread
    exports metrics: a handler that interrupts ``generate_latest`` must not make a call.

    Add the listener before the first call, because it does not count connections that are already open. In a forked
    process, the gauges start again at zero, at the first event there.

    Args:
        registry: The registry for the metrics; None: ``prometheus_client.REGISTRY``.
        namespace: Prefix of the metric names.
        buckets: Upper bounds of the histogram, in seconds; by default 17 from 50 us to 10 s.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> registry = CollectorRegistry()
        >>> client.add_listener(PegasusMetrics(registry=registry))
        >>> table.set("user:7", "name", "Ada")
        >>> b'pegasus_calls_total{operation="put",table="temp"} 1.0' in generate_latest(registry)
        True
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry | None = None,
        namespace: str = "pegasus",
        buckets: Iterable[float] = BUCKETS,
    ) -> None:
        common: dict[str, Any] = {"namespace": namespace, "registry": REGISTRY if registry is None else registry}
        call = ["table", "operation"]
        self._calls = Counter("calls", "Calls that ended, with or without an error", call, **common)
        self._errors = Counter("errors", "Calls that failed, by class of the error", [*call, "error"], **common)
        self._retries = Counter("retries", "Repeated attempts", call, **common)
        self._seconds = Histogram(
            "call_duration_seconds", "Durations of calls, all attempts included", call, buckets=buckets, **common
        )
        self._hedge_wins = Counter("hedge_wins", "Reads answered by a secondary", ["table"], **common)
        live: dict[str, Any] = {**common, "multiprocess_mode": "livesum"}
        self._in_flight = Gauge("in_flight", "Calls in flight", ["table"], **live)
        self._connections = Gauge("connections", "Open connections", ["server"], **live)
        self._losses = Counter("connection_losses", "Connections that ended or failed", ["server"], **common)
        self._routes = Counter("route_changes", "Partitions whose route changed", ["table"], **common)
        # Label children by table and operation, because labels() costs more than the counting.
        self._known: dict[tuple[str, str], tuple[Any, Any]] = {}
        # Only tables that exist. A child stays for ever, so there must be none for each wrong name.
        self._running: dict[str, _Level] = {}
        # The table of each call in flight that began before the client had found that table.
        self._early: list[str] = []
        self._open: dict[str, _Level] = {}
        self._unnested = Unnested()
        self._pid = os.getpid()

    def _start_at_zero(self) -> None:
        """Forget the calls and connections of the parent of this forked process."""
        for level in (*self._running.values(), *self._open.values()):
            level.clear()
        if self._early:
            self._early.clear()
            self._in_flight.labels(UNKNOWN).set(0)
        self._pid = os.getpid()

    def _exists(self, table: str) -> _Level:
        """Return the level of a table that exists, with the calls that began before this was known."""
        # setdefault is atomic: threads that come at once get the same one.
        running = self._running.setdefault(table, _Level(self._in_flight.labels(table)))
        while self._end_early(table):
            running.up()
        return running

    def _end_early(self, table: str) -> bool:
        """Remove one of the calls that began before it was known that their table exists; False: there is none."""
        try:
            # One step: no other thread removes the same call.
            self._early.remove(table)
        except ValueError:
            return False
        self._in_flight.labels(UNKNOWN).dec()
        return True

    @_unnested
    def call_started(self, table: str, operation: str) -> None:
        """Count a call as in flight."""
        running = self._running.get(table)
        if running is None:
            self._early.append(table)
            self._in_flight.labels(UNKNOWN).inc()
        else:
            running.up()

    @_unnested
    def call_finished(
        self,
        table: str,
        operation: str,
        seconds: float,
        error: BaseException | None,
        attempts: int,
        hedged: bool,  # noqa: FBT001 - the listener's
        server: str,
    ) -> None:
        """Count a call that has ended."""
        running = self._running.get(table)
        if running is None and (server or error is None):
            running = self._exists(table)
        # A ForkedConnection ends the copy of a call that began in the parent process.
        ended = isinstance(error, ForkedConnection) or (self._early and self._end_early(table))
        if running is not None and not ended:
            running.down()
        name = table if running is not None else UNKNOWN
        known = self._known.get((name, operation))
        if known is None:
            children = self._calls.labels(name, operation), self._seconds.labels(name, operation)
            known = self._known[name, operation] = children
        calls, histogram = known
        calls.inc()
        histogram.observe(seconds)
        if error is not None:
            self._errors.labels(name, operation, type(error).__name__).inc()
        if attempts > 1:
            self._retries.labels(name, operation).inc(attempts - 1)
        if hedged:
            self._hedge_wins.labels(name).inc()

    @_unnested
    def connection_opened(self, address: str) -> None:
        """Count an open connection."""
        self._open.setdefault(address, _Level(self._connections.labels(address))).up()

    @_unnested
    def connection_lost(self, address: str, reason: str) -> None:
        """Count a connection that has ended or could not be made."""
        self._losses.labels(address).inc()
        # A connection that could not be made was never counted as open.
        if address in self._open and not reason.startswith(CANNOT_CONNECT):
            self._open[address].down()

    @_unnested
    def routes_changed(self, table: str, app_id: int, partition_count: int, changed: int) -> None:
        """Count changed routes."""
        self._exists(table)
        self._routes.labels(table).inc(changed)
