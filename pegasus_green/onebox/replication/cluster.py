"""The state of one onebox: its tables with their replica groups, splits and faults, and which meta server leads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine.state import Limits
from ..wire.faults import Faults
from ..wire.server import Server
from .groups import Groups
from .registry import Registry
from .splits import Splits
from .tables import AVAILABLE, DROPPED, NOT_READY, Table

STEADY = 400


class Cluster(Registry):
    """What the servers of one onebox have in common.

    Attributes:
        metas: The meta servers.
        leader: The meta server that leads, None: none does.
        leader_is_known: Whether followers name the leader.
        function_level: The meta servers' function level.
    """

    metas: Sequence[Server]

    def __init__(
        self,
        release: str,
        host: str,
        port: int,
        seed: int | None,
        limits: Limits | None,
        advertise: str | None,
        settings: dict[str, Any],
    ) -> None:
        """Start without tables and servers."""
        super().__init__(release, host, port, seed, limits, advertise, settings)
        self.metas = ()
        self.leader: Server | None = None
        self.leader_is_known = True
        self.function_level = STEADY
        self.groups = Groups(self)
        self.splits = Splits(self, self.groups)
        self.faults = Faults(self, self.app_id)

    @property
    def meta_addresses(self) -> list[str]:
        """The addresses of the meta servers, "host:port".

        Example:
            >>> client = Client(box.meta_addresses)
            >>> client.table("temp").set("user:7", "name", "Ada")
            >>> client.close()
        """
        return [meta.address for meta in self.metas]

    # --------------------------------------------------------------------------------------------------------- tables
    def add_table(self, name: str, partition_count: int, replica_count: int, envs: dict[str, str]) -> Table:
        """Add a table that has no replicas yet."""
        table = self.tables.add(name, partition_count, replica_count, envs)
        table.created = int(self.clock())
        return table

    def remove_table(self, table: Table, reserve_seconds: float) -> None:
        """Take a table out of service; its replicas are kept aside for a recall."""
        table.split = None
        for partition in table.partitions:
            if partition.members:
                partition.last_members = partition.members
                self.groups.configure(table, partition, None, [])
        for server in self.servers:
            for gpid in [gpid for gpid, replica in server.replicas.items() if replica.table is table]:
                table.stash.append(server.replicas.pop(gpid))
        now = int(self.clock())
        table.status, table.dropped, table.expires = DROPPED, now, now + int(reserve_seconds)
        table.touch()

    def restore_table(self, table: Table, name: str) -> None:
        """Bring a dropped table back; its primaries come after a moment."""
        table.status, table.name, table.dropped, table.expires = AVAILABLE, name, 0, 0
        for replica in table.stash:
            replica.server.replicas[table.app_id, replica.index] = replica
        table.stash.clear()
        table.touch()
        self.later(self.settings.assign_delay, self.groups.keep_healing)

    def forget_expired_tables(self) -> None:
        """Let go of dropped tables whose reserve time is over."""
        for table in list(self.tables):
            if table.status == DROPPED and table.expires <= self.clock():
                self.tables.remove(table)

    def change_replica_count(self, table: Table, count: int) -> None:
        """Change how many replicas a table has: those too many go, missing ones come."""
        table.replica_count = count
        for partition in table.partitions:
            if partition.ballot != NOT_READY and len(partition.members) > count and partition.primary is not None:
                self.groups.configure(table, partition, partition.primary, partition.secondaries[: count - 1])
        table.touch()
        self.groups.keep_healing()

    def compact(self, table: Table) -> None:
        """Compact all replicas of a table now."""
        table.compacted = self.clock()
        for server in self.servers:
            for replica in server.replicas.values():
                if replica.table is table and server.reachable:
                    replica.engine.compact(replica.count or table.partition_count)
