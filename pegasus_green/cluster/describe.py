"""The counters of a client as plain values, for people and metrics."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from ..transport.handover import FOREVER
from ..transport.pool import Peer
from .dispatcher import Cluster, Dispatcher
from .stats import TableStats

if TYPE_CHECKING:
    from ..transport.authenticator import Authenticator

# The entries of a server that are states and not counters, by priority.
_STATES = ("open", "silent", "negotiating", "dialling", "down", "idle")


def describe(clusters: list[Cluster]) -> dict[str, Any]:
    """Return all counters of a client, summed over its threads, as plain values.

    Any thread may call it, while servers, tables and threads come and go.
    """
    servers: dict[str, dict[str, Any]] = {}
    tables: dict[str, list[Dispatcher]] = {}
    for cluster in clusters:
        for address, peer in cluster.pool.peers.copy().items():
            one = _server(peer)
            servers[address] = _sum(servers[address], one) if address in servers else one
        for name, dispatcher in cluster.tables.known().items():
            tables.setdefault(name, []).append(dispatcher)
    found: dict[str, Any] = {"servers": servers, "tables": {name: _table(some) for name, some in tables.items()}}
    authenticators = [cluster.pool.authenticator for cluster in clusters]
    if authenticators[0] is not None:
        found["auth"] = _auth([one for one in authenticators if one is not None])
    return found


def _auth(authenticators: list[Authenticator]) -> dict[str, Any]:
    """Return the sum of the threads' authentication counters. They share the credentials."""
    credentials = authenticators[0].credentials
    errors = [one.error for one in authenticators if one.error is not None]
    left = credentials.ends - monotonic()
    return {
        "mechanism": credentials.name,
        "user": credentials.user,
        "acquired": credentials.acquired,
        "renewals": credentials.renewals,
        "failures": sum(one.failures for one in authenticators),
        "last_error": str(errors[0].args[0]) if errors else None,
        "ends_in": None if left == FOREVER else max(left, 0.0),
        "negotiated": sum(one.negotiated for one in authenticators),
        "refused": sum(one.refused for one in authenticators),
    }


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Add up the counters of a server in two threads. The state is the one that is first in ``_STATES``."""
    total = {name: value + other[name] for name, value in one.items() if name != "state"}
    return {"state": min(one["state"], other["state"], key=_STATES.index), **total}


def _server(peer: Peer) -> dict[str, Any]:
    connection = peer.connection
    return {
        "state": peer.state,
        "in_flight": connection.in_flight if connection is not None else 0,
        "queued_bytes": connection.queued_bytes if connection is not None else 0,
        "sent": peer.sent_before + (connection.session.issued if connection is not None else 0),
        "received": peer.received_before + (connection.session.received if connection is not None else 0),
        "bytes_sent": peer.bytes_sent,
        "bytes_received": peer.bytes_received,
        "late": peer.late,
        "timeouts": peer.timeouts,
        "dials": peer.dials,
        "reconnects": max(peer.opened - 1, 0),
        "losses": peer.losses,
    }


def _table(dispatchers: list[Dispatcher]) -> dict[str, Any]:
    tables = [dispatcher.routes.table for dispatcher in dispatchers]
    table = next((one for one in tables if one is not None), None)
    stats = dispatchers[0].stats
    if len(dispatchers) > 1:
        stats = TableStats()
        for dispatcher in dispatchers:
            stats.add(dispatcher.stats)
    return {
        "app_id": table.app_id if table is not None else None,
        "partitions": table.count if table is not None else 0,
        "calls": stats.calls,
        "bulk": stats.bulk,
        "errors": dict(stats.errors),
        "retries": dict(stats.retries),
        "refreshes": sum(dispatcher.routes.refreshes for dispatcher in dispatchers),
        "hedgeable": stats.hedgeable,
        "hedges": stats.hedges,
        "hedge_wins": stats.hedge_wins,
        "latency": stats.latency(),
        "latency_count": sum(stats.histogram),
        "latency_sum": stats.latency_sum(),
        "p50": stats.percentile(0.50),
        "p99": stats.percentile(0.99),
    }
