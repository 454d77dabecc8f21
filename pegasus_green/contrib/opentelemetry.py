"""Spans and metrics for OpenTelemetry. Their names follow its stable semantic conventions for databases.

A listener makes one span, and one measurement of ``db.client.operation.duration``, for each call of a client::

    client.add_listener(PegasusTelemetry())

Nothing is patched. A client without the listener has no extra cost.

=========================== ==============================================================================
attribute                   value
=========================== ==============================================================================
``db.system.name``          ``pegasus``
``db.collection.name``      the table (in durations only if the client has found it)
``db.operation.name``       the request's name in Pegasus: ``get``, ``put`` for a set, ``scan`` for a batch
``db.namespace``            the cluster's name, if it is set
``server.address``          the primary of the newest attempt, or the server that the error names
``server.port``             its port
``error.type``              the error's class, such as ``RequestTimeout`` or ``GreenletExit``
``db.response.status_code`` the error's code in Pegasus, such as ``ERR_BUSY``; without a code, its class
``pegasus.attempts``        number of attempts, if the call was repeated (spans only)
``pegasus.hedged``          true if a secondary answered (spans only)
``pegasus.outcome_unknown`` true if a write may or may not have been applied (spans only)
=========================== ==============================================================================

The parent of a span is the span that was current when the call was made. This is also true for calls that are repeated,
for ``*_async`` verbs, whose calls end in the event loop, and for the requests of bulk verbs and scans. The listener
makes a span after the end of the call, with the start time of the call. So this span is never the current one.
"""

from __future__ import annotations

from time import time_ns
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import get_current

from .._version import __version__
from ..errors import PegasusError
from ..events import Listener
from ..turns import Unnested

# The boundaries that the conventions recommend, and three lower ones, for answers within a millisecond.
BOUNDARIES = (0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_SCHEMA = "https://opentelemetry.io/schemas/1.33.0"


class PegasusTelemetry(Listener):
    """Makes spans and measurements for the calls of a client. One object may listen to several clients.

    Args:
        tracer_provider: Provider for spans; None: the global one.
        meter_provider: Provider for measurements; None: the global one.
        spans: Whether to make spans.
        durations: Whether to measure durations.
        cluster: The cluster's name, for ``db.namespace``; None: no such attribute.

    Example:
        >>> client.add_listener(PegasusTelemetry(cluster="c1"))
        >>> table.set("user:7", "name", "Ada")  # a span "put temp"
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        spans: bool = True,
        durations: bool = True,
        cluster: str | None = None,
    ) -> None:
        self._tracer: Any = None
        self._duration: Any = None
        if spans:
            self._tracer = trace.get_tracer("pegasus_green", __version__, tracer_provider, schema_url=_SCHEMA)
        if durations:
            meter = metrics.get_meter("pegasus_green", __version__, meter_provider, schema_url=_SCHEMA)
            self._duration = meter.create_histogram(
                "db.client.operation.duration",
                unit="s",
                description="Duration of database client operations.",
                explicit_bucket_boundaries_advisory=BOUNDARIES,
            )
        self._unnested = Unnested()
        # The tables that exist. An SDK keeps the durations of each table for ever, so wrong names must not get there.
        self._tables: set[str] = set()
        self._common: dict[str, Any] = {"db.system.name": "pegasus"}
        if cluster is not None:
            self._common["db.namespace"] = cluster

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
        """Export a call that has ended."""
        if server or error is None:
            self._tables.add(table)
        attributes = {**self._common, "db.collection.name": table, "db.operation.name": operation}
        if error is not None:
            attributes["error.type"] = type(error).__name__
            if isinstance(error, PegasusError):
                attributes["db.response.status_code"] = error.code or type(error).__name__
                server = server or error.address or ""
        if server:
            host, _, port = server.rpartition(":")
            attributes["server.address"] = host
            attributes["server.port"] = int(port)
        if self._duration is not None:
            measured = attributes
            if table not in self._tables:
                measured = {name: value for name, value in attributes.items() if name != "db.collection.name"}
            # All measurements share locks that are not reentrant. A span has a lock of its own, and its end may yield.
            self._unnested.run(self._duration.record, seconds, measured, get_current())
        if self._tracer is not None:
            self._span(f"{operation} {table}", seconds, error, attempts, hedged, attributes)

    def routes_changed(self, table: str, app_id: int, partition_count: int, changed: int) -> None:
        """Learn that a table exists."""
        self._tables.add(table)

    def _span(
        self,
        name: str,
        seconds: float,
        error: BaseException | None,
        attempts: int,
        hedged: bool,  # noqa: FBT001 - private
        attributes: dict[str, Any],
    ) -> None:
        end = time_ns()
        start = end - int(seconds * 1e9)
        span = self._tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes, start_time=start)
        if span.is_recording():
            if attempts > 1:
                span.set_attribute("pegasus.attempts", attempts)
            if hedged:
                span.set_attribute("pegasus.hedged", True)
            if error is not None:
                if getattr(error, "outcome_unknown", False):
                    span.set_attribute("pegasus.outcome_unknown", True)
                span.set_status(trace.Status(trace.StatusCode.ERROR, str(error) or type(error).__name__))
        span.end(end_time=end)
