"""A web application of several processes with metrics, for tests/contrib/test_prometheus.py."""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from pegasus_green.contrib.prometheus import PegasusMetrics
from pegasus_green.shared import shared_table

table = shared_table(os.environ["PEGASUS_URL"])
table.client.add_listener(PegasusMetrics())


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Count page views and return the process; /metrics returns the metrics of all processes."""
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        body = generate_latest(registry)
    else:
        table.incr("views", environ["PATH_INFO"])
        body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
