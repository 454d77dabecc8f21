"""What a client counts, as plain values for people and metrics."""

from __future__ import annotations

from typing import Any

from ..transport.pool import Peer
from .dispatcher import Cluster, Dispatcher


def describe(cluster: Cluster) -> dict[str, Any]:
    """Return all counters of a client as plain values; any thread may, while servers and tables come and go."""
    found: dict[str, Any] = {
        "servers": {address: _server(peer) for address, peer in cluster.pool.peers.copy().items()},
        "tables": {name: _table(dispatcher) for name, dispatcher in cluster.tables.known().items()},
    }
    if cluster.pool.authenticator is not None:
        found["auth"] = cluster.pool.authenticator.describe()
    return found


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


def _table(dispatcher: Dispatcher) -> dict[str, Any]:
    stats, table = dispatcher.stats, dispatcher.routes.table
    return {
        "app_id": table.app_id if table is not None else None,
        "partitions": table.count if table is not None else 0,
        "calls": stats.calls,
        "bulk": stats.bulk,
        "errors": dict(stats.errors),
        "retries": dict(stats.retries),
        "refreshes": dispatcher.routes.refreshes,
        "hedgeable": stats.hedgeable,
        "hedges": stats.hedges,
        "hedge_wins": stats.hedge_wins,
        "latency": stats.latency(),
        "latency_count": sum(stats.histogram),
        "latency_sum": stats.latency_sum(),
        "p50": stats.percentile(0.50),
        "p99": stats.percentile(0.99),
    }
