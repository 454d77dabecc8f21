"""The client page: the figures of ``client.stats()``, with plots of the last minutes."""

from __future__ import annotations

from ..client import Client
from .history import History
from .markup import html, join, table
from .plots import histogram, line, seconds
from .request import Page, Request

_OF_SERVERS = (
    "state", "in_flight", "queued_bytes", "sent", "received", "timeouts", "late", "reconnects", "losses",
)  # fmt: skip


def client(client: Client, history: History, _request: Request) -> Page:
    """Show connections, calls in flight, latencies and rates of this process's client."""
    history.take()
    stats = client.stats()
    plots = [
        line("Calls per second", history.rates("calls")),
        line("Errors per second", history.rates("errors")),
        line("Requests in flight", history.levels("in_flight")),
        line("Bytes per second", history.rates("bytes_both_ways")),
    ]
    servers = table(
        "Connections",
        ["server", *(name.replace("_", " ") for name in _OF_SERVERS)],
        [[address, *(found[name] for name in _OF_SERVERS)] for address, found in sorted(stats["servers"].items())],
    )
    calls = table(
        "Tables",
        ["table", "calls", "errors", "retries", "hedged reads", "route queries", "median", "99th percentile"],
        [
            [
                name,
                found["calls"],
                _counts(found["errors"]),
                _counts(found["retries"]),
                found["hedges"],
                found["refreshes"],
                _at_most(found["p50"]) if found["latency_count"] else "-",
                _at_most(found["p99"]) if found["latency_count"] else "-",
            ]
            for name, found in sorted(stats["tables"].items())
        ],
    )
    latencies = [histogram(f"Table {name}", found["latency"]) for name, found in sorted(stats["tables"].items())]
    body = html(
        '<p>These are the counters of the client in this process: {client}</p><div id="client" data-live>'
        '<div class="plots">{plots}</div>{servers}{calls}<h2>Latency</h2>{latencies}'
        "</div>",
        client=repr(client),
        plots=join(plots),
        servers=servers,
        calls=calls,
        latencies=join(latencies) or html('<p class="note">No table has been used yet.</p>'),
    )
    return Page("Client", body)


def _at_most(bound: float) -> str:
    # No line break between number and unit in the narrow tables of a phone.
    return f"≤\N{NO-BREAK SPACE}{seconds(bound)}".replace(" ", "\N{NO-BREAK SPACE}")


def _counts(found: dict[str, int]) -> str | int:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(found.items())) or 0
