"""Queries about a onebox: executions, rows, statistics; and its clock."""

from __future__ import annotations

from typing import Any

from ..replication.tables import NOT_READY
from ..wire.server import Server
from .assembly import Assembly, Which


class FactMethods(Assembly):
    """The methods that return facts about a onebox."""

    def executions(self, mark: bytes | str) -> int:
        """Return how often a request that contains mark was executed, on all servers together.

        A write is executed once, at the primary that evaluates it. Its application at secondaries does not count.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.executions("user:7")
            1
        """
        return self.journal.count(mark.encode() if isinstance(mark, str) else mark)

    def execution_counts(self, pattern: bytes | str) -> dict[bytes, int]:
        """Return how often requests were executed, by the text that a regular expression matches in them.

        Args:
            pattern: A regular expression.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> table.set("user:8", "name", "Grace")
            >>> box.execution_counts("user:[0-9]")
            {b'user:7': 1, b'user:8': 1}
        """
        return self.journal.counts(pattern.encode() if isinstance(pattern, str) else pattern)

    def forget_executions(self) -> None:
        """Set the execution counters to zero.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.forget_executions()
            >>> box.executions("user:7")
            0
        """
        self.journal.clear()

    def advance(self, seconds: float) -> None:
        """Move the cluster's clock forward, for TTLs, scan contexts, throttling and the reserve time of dropped tables.

        Timers, such as the failover delay, do not change. Only the group check (see ``settle``) runs if it is due.

        Args:
            seconds: Seconds to add to the clock.

        Example:
            >>> table.set("user:7", "name", "Ada", ttl=60)
            >>> box.advance(61)
            >>> table.get("user:7", "name") is None
            True
        """
        self.clock.skipped += seconds
        self.changed()
        if seconds >= self.settings.group_check_interval:
            self.check_groups()

    def now(self) -> float:
        """Return the cluster's time in unix seconds, including the seconds of ``advance``.

        Example:
            >>> before = box.now()
            >>> box.advance(3600)
            >>> box.now() - before >= 3600
            True
        """
        return self.clock()

    def settle(self) -> None:
        """Make all secondaries apply the committed writes, as a group check does.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.settle()
            >>> sum(box.row_count("temp", server) for server in range(3))
            3
        """
        self.check_groups()

    def row_count(self, table: str, server: Which | None = None) -> int:
        """Return the number of records of a table on its primaries, or on one server, including expired records.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.row_count("temp")
            1
        """
        found = self.tables.get(table)
        if server is not None:
            replicas = self.replica_server(server).replicas.values()
            return sum(len(replica.engine) for replica in replicas if replica.table is found)
        total = 0
        for partition in found.partitions:
            if partition.ballot != NOT_READY and partition.primary is not None:
                total += len(partition.primary.replicas[found.app_id, partition.index].engine)
        return total

    def stats(self) -> dict[str, Any]:
        """Return statistics: connections and requests per server, route queries, client bugs, internal errors.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.stats()["queries"]
            1
        """
        servers = [self._describe(server) for server in (*self.metas, *self.servers)]
        queries = sum(meta.requests.get("RPC_CM_QUERY_PARTITION_CONFIG_BY_INDEX", 0) for meta in self.metas)
        return {
            "servers": servers,
            "accepted": sum(server["accepted"] for server in servers),
            "queries": queries,
            "client_bugs": len(self.client_bugs),
            "errors": len(self.errors),
        }

    def _describe(self, server: Server) -> dict[str, Any]:
        return {
            "address": server.address,
            "kind": server.kind,
            "index": server.index,
            "alive": server.alive,
            "paused": server.paused,
            "connections": len(server.connections),
            "accepted": server.accepted,
            "requests": dict(server.requests),
            "primaries": self.primaries_of(server),
        }
