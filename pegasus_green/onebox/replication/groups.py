"""Replication groups: the primary and secondaries of each partition, and how they change.

A change of a partition's configuration is one step here: the meta servers' view and the replicas' roles change
together. Timers around such steps stand for what takes time in a real cluster (detect a death, learn a replica).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from .node import Node
from .registry import Registry
from .replica import Replica
from .tables import AVAILABLE, MAX_DROPS, NOT_READY, Partition, Table

# Number of partitions that get replicas in one pass of the loop; this takes at most 30 ms.
PARTITIONS_PER_PASS = 128
# Delay before the next check of the partitions that lack replicas and have no server to learn from.
RETRY = 0.05


class Groups:
    """Changes the configurations of a cluster's partitions."""

    def __init__(self, box: Registry) -> None:
        """Store the cluster."""
        self.box = box
        self._healing = False

    # -------------------------------------------------------------------------------------------------------- the step
    def configure(self, table: Table, partition: Partition, primary: Node | None, secondaries: Sequence[Node]) -> None:
        """Set the configuration of a partition. Every member must have a replica of it."""
        gpid = (table.app_id, partition.index)
        before = partition.members
        partition.ballot += 1
        partition.primary, partition.secondaries = primary, list(secondaries)
        for server in before:
            if server not in partition.members:
                partition.drops = [server, *(drop for drop in partition.drops if drop is not server)][:MAX_DROPS]
                replica = server.replicas.get(gpid)
                if replica is not None:
                    replica.retire()
        partition.drops = [drop for drop in partition.drops if drop not in partition.members]
        followers = [server.replicas[gpid] for server in secondaries]
        for follower in followers:
            follower.follow()
        if primary is not None:
            primary.replicas[gpid].lead(followers)
        table.touch()

    def create_replica(self, server: Node, table: Table, index: int, count: int | None = None) -> Replica:
        """Make an empty replica. It replaces the one that the server may have."""
        replica = Replica(server, table, index, count or table.partition_count)
        replica.engine.filters_from = table.filters_from
        server.replicas[table.app_id, index] = replica
        return replica

    # ------------------------------------------------------------------------------------------------------- placement
    def placement(self, table: Table, index: int) -> list[Node]:
        """Return the servers for a new partition, the primary first, evenly distributed over those that answer."""
        servers = [server for server in self.box.servers if server.reachable]
        if not servers:
            return []
        start = (table.app_id - 1 + index) % len(servers)
        # When all servers have a primary, the secondaries of the next round start at another server. So the primaries
        # of a dead server do not all move to the same one.
        others = servers[start + 1 :] + servers[:start]
        turn = index // len(servers) % max(len(others), 1)
        chosen = [servers[start], *others[turn:], *others[:turn]]
        return chosen[: table.replica_count]

    def assign(self, table: Table, *, in_steps: bool = False) -> None:
        """Assign replicas to all partitions of a new table; in_steps: in several passes, and secondaries later."""
        table.served = True
        self.box.changed()
        if in_steps:
            self._assign_some(table, 0)
        elif not all(self._assign(table, partition, whole=True) for partition in table.partitions):
            # No server answers: try again later, as for a new table.
            self.assign_later(table)

    def _assign(self, table: Table, partition: Partition, *, whole: bool) -> bool:
        if partition.members or partition.ballot == NOT_READY:
            return True
        chosen = self.placement(table, partition.index)
        if not chosen:
            return False
        split = table.split
        count = split.old_count if split is not None and partition.index in split.status else None
        replica = self.create_replica(chosen[0], table, partition.index, count)
        kept = self.box.kept.pop((table.app_id, partition.index), None)
        if kept is not None:
            replica.restore(*kept)
        elif table.partition_count > 1:
            replica.write_empty_record()
        self.configure(table, partition, chosen[0], [])
        if whole:
            self.complete(table, partition, chosen[1:])
        return True

    def _assign_some(self, table: Table, start: int) -> None:
        if table.status != AVAILABLE:
            return
        end = start + PARTITIONS_PER_PASS
        if not all(self._assign(table, partition, whole=False) for partition in table.partitions[start:end]):
            self.assign_later(table)
        elif end < table.partition_count:
            self.box.later(0.0, lambda: self._assign_some(table, end))
        else:
            self.box.later(self.box.settings.assign_delay, self.keep_healing)

    def assign_later(self, table: Table) -> None:
        """Assign replicas to a table after a delay, as a real cluster does."""

        def assign() -> None:
            if table.status == AVAILABLE:
                self.assign(table, in_steps=True)

        self.box.later(self.box.settings.assign_delay, assign)

    def complete(self, table: Table, partition: Partition, servers: Sequence[Node]) -> bool:
        """Add secondaries, one configuration change each; return whether that was possible."""
        return all([self.add_secondary(table, partition, server) for server in servers])  # noqa: C419 - try all

    def add_secondary(self, table: Table, partition: Partition, server: Node) -> bool:
        """Make a server learn a partition and become its secondary; False if there is no server to learn from now."""
        primary = partition.primary
        if primary is None or not primary.reachable or not server.reachable or server in partition.members:
            return False
        source = primary.replicas[table.app_id, partition.index]
        if source.count == 0:
            # A parent that registers its child accepts no new members.
            return False
        self.create_replica(server, table, partition.index).learn(source)
        self.configure(table, partition, primary, [*partition.secondaries, server])
        return True

    def keep_healing(self) -> None:
        """Add missing replicas to partitions, repeatedly while some have no server to learn from."""
        self._heal_some(iter([(table, part) for table in self.box.tables.served() for part in table.partitions]), True)

    def _heal_some(self, rest: Iterator[tuple[Table, Partition]], whole: bool) -> None:
        left = PARTITIONS_PER_PASS
        for table, partition in rest:
            # A table without any replica is about to be assigned some. A table that was dropped meanwhile needs none.
            if partition.ballot <= 0 or table.status != AVAILABLE:
                continue
            self.revive(table, partition)
            wanted = table.replica_count - len(partition.members)
            if wanted <= 0:
                continue
            servers = self.placement_order(table, partition)
            free = [server for server in servers if server not in partition.members][:wanted]
            whole = self.complete(table, partition, free) and whole
            left -= 1
            if left == 0:
                # Let other callbacks run before the next ones.
                self.box.later(0.0, partial(self._heal_some, rest, whole))
                return
        if not whole and not self._healing:
            self._healing = True

            def again() -> None:
                self._healing = False
                self.keep_healing()

            self.box.later(max(self.box.settings.rejoin_delay, RETRY), again)

    def placement_order(self, table: Table, partition: Partition) -> list[Node]:
        """Return the servers that answer, in ascending order of their number of replicas of the table."""
        load = dict.fromkeys(self.box.servers, 0)
        for other in table.partitions:
            for member in other.members:
                load[member] += 1
        servers = [server for server in self.box.servers if server.reachable]
        start = (table.app_id - 1 + partition.index) % max(len(servers), 1)
        return sorted(servers[start:] + servers[:start], key=lambda server: load[server])

    # ------------------------------------------------------------------------------------------------ death and return
    def fail_over(self, server: Node) -> None:
        """Replace a server that does not answer, in all partitions whose primary it is."""
        gap = self.box.settings.failover_gap
        for table in list(self.box.tables.served()):
            for partition in table.partitions:
                if partition.primary is server:
                    self._replace_primary(table, partition, server, gap)

    def _replace_primary(self, table: Table, partition: Partition, server: Node, gap: float) -> None:
        rest = partition.secondaries
        if not any(secondary.reachable for secondary in rest):
            # Each of these replicas has all acknowledged writes. The first server to come back becomes the primary.
            partition.last_members = [server, *rest]
            self.configure(table, partition, None, [])
        elif gap > 0:
            self.configure(table, partition, None, rest)
            self.box.later(gap, lambda: self.elect(table, partition))
        else:
            self.elect(table, partition)

    def elect(self, table: Table, partition: Partition) -> None:
        """Promote the secondary with the longest log."""
        gpid = (table.app_id, partition.index)
        candidates = [server for server in partition.secondaries if server.reachable]
        if partition.primary is not None and partition.primary.reachable:
            return
        if not candidates:
            # If all members were lost before, last_members is still known.
            partition.last_members = partition.members or partition.last_members
            self.configure(table, partition, None, [])
            return
        best = max(candidates, key=lambda server: server.replicas[gpid].logged)
        self.configure(table, partition, best, [server for server in partition.secondaries if server is not best])

    def _remove(self, table: Table, partition: Partition, server: Node) -> None:
        self.configure(table, partition, partition.primary, [s for s in partition.secondaries if s is not server])

    def remove_secondary(self, server: Node, *, force: bool = False) -> bool:
        """Remove a server from all partitions whose secondary it is.

        Args:
            server: A server that does not answer.
            force: Also if the primary does not answer either. Otherwise the primary must confirm the removal.

        Returns:
            False if a partition has to wait.
        """
        whole = True
        for table in list(self.box.tables.served()):
            for partition in table.partitions:
                if server in partition.secondaries:
                    if force or (partition.primary is not None and partition.primary.reachable):
                        self._remove(table, partition, server)
                    else:
                        whole = False
        return whole

    def revive(self, table: Table, partition: Partition) -> None:
        """If a partition has lost all members, make one of the last members the primary, if it is back."""
        gpid = (table.app_id, partition.index)
        if partition.primary is not None or not partition.last_members:
            return
        back = [server for server in partition.last_members if server.reachable and gpid in server.replicas]
        if back:
            best = max(back, key=lambda server: server.replicas[gpid].logged)
            partition.last_members = []
            self.configure(table, partition, best, [])

    def catch_up(self, server: Node) -> None:
        """Update the secondaries of this server's primaries, and its own secondaries, after it was silent."""
        for replica in list(server.replicas.values()):
            table = self.box.tables.by_id.get(replica.table.app_id)
            if table is None or replica.index >= table.partition_count:
                continue
            primary = table.partitions[replica.index].primary
            if primary is not None and primary.reachable:
                primary.replicas[table.app_id, replica.index].catch_up()

    # ----------------------------------------------------------------------------------------------------------- moves
    def move_primary(self, table: Table, partition: Partition, to: Node) -> None:
        """Make another server the primary; the current one becomes a secondary.

        Raises:
            RuntimeError: The partition has no primary, or the other server does not answer.
        """
        primary = partition.primary
        if primary is to:
            return
        if primary is None or not to.reachable:
            raise RuntimeError(f"{partition!r} of {table.name} cannot move to {to!r}")
        if to not in partition.members and not self.add_secondary(table, partition, to):
            raise RuntimeError(f"{to!r} cannot learn {partition!r} of {table.name} from {primary!r}")
        # As in a real cluster: first the primary becomes a secondary, then the other one is promoted.
        self.configure(table, partition, None, [primary, *partition.secondaries])
        self.configure(table, partition, to, [server for server in partition.secondaries if server is not to])
        extra = partition.secondaries[table.replica_count - 1 :]
        for server in extra:
            self._remove(table, partition, server)

    def promote(self, table: Table, partition: Partition, server: Node) -> None:
        """Make a secondary the primary; the current primary, if there is one, becomes a secondary."""
        if server in partition.secondaries and server.reachable:
            self.configure(table, partition, None, partition.members)
            self.configure(table, partition, server, [s for s in partition.secondaries if s is not server])

    def demote(self, table: Table, partition: Partition, server: Node) -> None:
        """Make the primary a secondary. If no server is promoted, one of the members becomes the primary later."""
        if partition.primary is server:
            self.configure(table, partition, None, [server, *partition.secondaries])
            self.box.later(self.box.settings.assign_delay, lambda: self.elect(table, partition))

    def drop(self, table: Table, partition: Partition, server: Node) -> None:
        """Remove a secondary from a partition."""
        if server in partition.secondaries:
            self._remove(table, partition, server)

    def balance(self) -> None:
        """Distribute the primaries of each table evenly over the servers that answer."""
        for table in list(self.box.tables.served()):
            for partition in table.partitions:
                best = self._better_primary(table, partition)
                if best is not None:
                    self.move_primary(table, partition, best)

    def moves_left(self) -> int:
        """Return the number of partitions with a primary on a server that has too many."""
        tables = self.box.tables.served()
        return sum(self._better_primary(table, part) is not None for table in tables for part in table.partitions)

    def _better_primary(self, table: Table, partition: Partition) -> Node | None:
        load = dict.fromkeys((server for server in self.box.servers if server.reachable), 0)
        for other in table.partitions:
            if other.primary in load:
                load[other.primary] += 1
        fit = [server for server in partition.secondaries if server in load]
        if partition.primary not in load or not fit:
            return None
        best = min(fit, key=lambda server: load[server])
        return best if load[best] + 1 < load[partition.primary] else None
