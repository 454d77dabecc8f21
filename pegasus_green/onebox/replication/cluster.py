"""The state of one onebox: tables with their replica groups, splits and faults, and the leader of the meta servers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..engine.state import Limits
from ..wire.faults import Faults
from ..wire.server import Server
from .groups import RETRY, Groups
from .node import Node
from .registry import Registry
from .replica import PRIMARY
from .splits import Splits
from .tables import AVAILABLE, DROPPED, NOT_READY, Compaction, Table

FREEZED, STEADY, LIVELY = 300, 400, 500
LEVELS = {100: "stopped", 200: "blind", 300: "freezed", 400: "steady", 500: "lively"}


class Cluster(Registry):
    """The state that all servers of one onebox share.

    Attributes:
        metas: The meta servers.
        leader: The meta server that is the leader; None: there is none.
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
        self.changed()
        return table

    def remove_table(self, table: Table, reserve_seconds: float) -> None:
        """Drop a table. Its replicas stop serving now or after the configured delay."""
        table.split = None
        now = int(self.clock())
        table.status, table.dropped, table.expires = DROPPED, now, now + int(reserve_seconds)
        table.touch()
        self.changed()
        if self.settings.drop_delay > 0:
            self.later(self.settings.drop_delay, lambda: self.stop_serving(table, now))
        else:
            self.stop_serving(table, now)

    def stop_serving(self, table: Table, dropped: int) -> None:
        """Keep the replicas of a dropped table for a recall, unless it was recalled meanwhile."""
        if table.status != DROPPED or table.dropped != dropped:
            return
        for partition in table.partitions:
            if partition.members:
                partition.last_members = partition.members
                self.groups.configure(table, partition, None, [])
        for server in self.servers:
            for gpid in [gpid for gpid, replica in server.replicas.items() if replica.table is table]:
                table.stash.append(server.replicas.pop(gpid))
        table.touch()
        self.changed()

    def restore_table(self, table: Table, name: str) -> None:
        """Recall a dropped table. Its primaries are assigned shortly after."""
        self.stop_serving(table, table.dropped)
        table.status, table.name, table.dropped, table.expires = AVAILABLE, name, 0, 0
        for replica in table.stash:
            replica.server.replicas[table.app_id, replica.index] = replica
        table.stash.clear()
        table.touch()
        self.changed()
        self.later(self.settings.assign_delay, self.groups.keep_healing)

    def forget_expired_tables(self) -> None:
        """Forget dropped tables whose reserve time has ended."""
        for table in list(self.tables):
            if table.status == DROPPED and table.expires <= self.clock():
                self.forget_table(table)

    def forget_table(self, table: Table) -> None:
        """Forget a dropped table. Its id is not used again."""
        table.stash.clear()
        self.tables.remove(table)
        if self.keeper is not None:
            self.keeper.forget(table.app_id)
        self.changed()

    def change_replica_count(self, table: Table, count: int) -> None:
        """Change the number of replicas of a table: remove surplus replicas, add missing ones."""
        table.replica_count = count
        self.changed()
        for partition in table.partitions:
            if partition.ballot != NOT_READY and len(partition.members) > count and partition.primary is not None:
                self.groups.configure(table, partition, partition.primary, partition.secondaries[: count - 1])
        table.touch()
        self.groups.keep_healing()

    # ------------------------------------------------------------------------------------------------------ compaction
    def compact(self, table: Table) -> None:
        """Compact all replicas of a table, one server after the other, within the configured time."""
        run = table.compaction = Compaction()
        seconds = self.settings.compaction_seconds
        for turn, server in enumerate(self.servers, 1):
            if seconds > 0:
                self.later(seconds * turn / len(self.servers), partial(self._compact_on, table, run, server))
            else:
                self._compact_on(table, run, server)

    def _compact_on(self, table: Table, run: Compaction, server: Node) -> None:
        if table.compaction is not run or table.status != AVAILABLE:
            return
        if not server.reachable:
            # The server starts the compaction when it is back.
            self.later(max(self.settings.compaction_seconds, RETRY), partial(self._compact_on, table, run, server))
            return
        for replica in server.replicas.values():
            if replica.table is table:
                batch = replica.engine.compact(replica.count or table.partition_count)
                if self.keeper is not None and replica.role is PRIMARY and batch:
                    self.keeper.write((table.app_id, replica.index), replica.applied, batch)
        run.done.add(server)

    def compaction_progress(self, table: Table) -> int | None:
        """Return the progress of a compaction in percent; None: all replicas that the table should have are idle."""
        wanted = table.partition_count * table.replica_count
        members = [server for partition in table.partitions for server in partition.members]
        if table.compaction is None:
            # If replicas are missing, it is unknown whether they are idle.
            return None if len(members) == wanted else 0
        return sum(server in table.compaction.done for server in members) * 100 // wanted

    # ----------------------------------------------------------------------------------------------------------- facts
    def facts(self) -> dict[str, str]:
        """Return the facts of CLUSTER_INFO, in its order."""
        primaries, replicas = self.spread()
        moves = self.groups.moves_left()
        counts = {"copy_pri": 0, "copy_sec": 0, "move_pri": moves, "total": moves}
        if self.hosts:
            operations = json.dumps(counts, indent=2)
        else:
            names = ("move_pri", "copy_pri", "copy_sec", "total")
            operations = ",".join(f"{name}={counts[name]}" for name in names)
        return {
            "meta_servers": ",".join(self._name_of(meta) for meta in self.metas),
            "primary_meta_server": "" if self.leader is None else self._name_of(self.leader),
            "zookeeper_hosts": "onebox",
            "zookeeper_root": "/pegasus/onebox",
            "meta_function_level": LEVELS.get(self.function_level, str(self.function_level)),
            "balance_operation_count": operations,
            "primary_replica_count_stddev": f"{primaries:.2f}",
            "total_replica_count_stddev": f"{replicas:.2f}",
            "cluster_name": "onebox",
        }

    def _name_of(self, server: Server) -> str:
        return server.public if self.hosts else server.address

    # ----------------------------------------------------------------------------------------------------------- level
    def set_level(self, level: int) -> int:
        """Set the function level; balance regularly while it is "lively"; return the old level."""
        old, self.function_level = self.function_level, level
        if level >= LIVELY > old:
            self.later(self.settings.assign_delay, self._keep_balancing)
        return old

    def _keep_balancing(self) -> None:
        if self.function_level >= LIVELY:
            self.groups.balance()
            self.later(max(self.settings.group_check_interval, RETRY), self._keep_balancing)
