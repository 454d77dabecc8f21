"""The data of the meta servers: tables, their partitions, and the servers of each partition."""

from __future__ import annotations

from collections.abc import Iterator

from ...protocol.meta import AppInfo, PartitionConfiguration, make_address, make_gpid
from ..wire.server import Server
from .node import Node
from .replica import Replica

AVAILABLE, CREATING, DROPPING, DROPPED, RECALLING = 1, 2, 4, 6, 7
NOT_SPLIT, SPLITTING, PAUSING, PAUSED, CANCELING = range(5)
# Ballot of a split child that is not registered yet.
NOT_READY = -1
# Maximum number of lost members in last_drops of a partition.
MAX_DROPS = 6


class Partition:
    """One partition's configuration.

    Attributes:
        ballot: Increases with each change; 0: it never had a primary; -1: a split child that is not ready.
        primary: The server that takes reads and writes; None: there is none now.
        last_members: If there is no primary: the servers whose replicas have every acknowledged write.
    """

    __slots__ = ("index", "ballot", "primary", "secondaries", "drops", "last_members")

    def __init__(self, index: int, ballot: int = 0) -> None:
        """Start without a primary."""
        self.index = index
        self.ballot = ballot
        self.primary: Node | None = None
        self.secondaries: list[Node] = []
        self.drops: list[Node] = []
        self.last_members: list[Node] = []

    @property
    def members(self) -> list[Node]:
        """Primary and secondaries."""
        return [self.primary, *self.secondaries] if self.primary is not None else list(self.secondaries)

    def __repr__(self) -> str:
        """Show the configuration."""
        names = [server.address for server in self.secondaries]
        primary = self.primary.address if self.primary is not None else None
        return f"<Partition {self.index} ballot={self.ballot} primary={primary} secondaries={names}>"


class Split:
    """A running partition split.

    Attributes:
        old_count: The partition count before the split.
        status: The split_status of each parent whose child is not registered yet.
        seconds: Pause before each child.
        window: How long a parent answers ERR_SPLITTING.
        stepwise: Steps are done only by ``split_step``.
        windows: Parents that answer ERR_SPLITTING now.
    """

    def __init__(self, old_count: int, seconds: float, window: float, *, stepwise: bool = False) -> None:
        """Start with all parents splitting."""
        self.old_count = old_count
        self.status = dict.fromkeys(range(old_count), SPLITTING)
        self.seconds = seconds
        self.window = window
        self.stepwise = stepwise
        self.windows: set[int] = set()


class Compaction:
    """A running or finished manual compaction.

    Attributes:
        done: The servers that have compacted their replicas.
    """

    def __init__(self) -> None:
        """Start without finished servers."""
        self.done: set[Node] = set()


class Table:
    """One table.

    Attributes:
        compaction: The latest manual compaction; None: there was none.
        version: Increases with each change. The encoded routes of one version are cached.
        filters_from: Until this Unix time, scans also return rows of other partitions.
        served: Whether its replicas ever existed.
        stash: The replicas of a dropped table.
    """

    def __init__(self, app_id: int, name: str, partition_count: int, replica_count: int, envs: dict[str, str]) -> None:
        """Describe a table whose partitions have no primaries yet."""
        self.app_id = app_id
        self.name = name
        self.status = AVAILABLE
        self.partitions = [Partition(index) for index in range(partition_count)]
        # -1 for the initial tables, as in the recorded cluster. A split sets it to the count before.
        self.init_partition_count = partition_count
        self.replica_count = replica_count
        self.envs = dict(envs)
        self.app_type = "pegasus"
        self.is_stateful = True
        self.atomic_idempotent = False
        self.created = 0
        self.dropped = 0
        self.expires = 0
        self.filters_from = 0.0
        self.served = False
        self.split: Split | None = None
        self.version = 0
        self.routes: dict[tuple[object, ...], bytes] = {}
        self.compaction: Compaction | None = None
        self.stash: list[Replica] = []

    @property
    def partition_count(self) -> int:
        """The current partition count. The start of a split doubles it."""
        return len(self.partitions)

    def touch(self) -> None:
        """Record a change of the routes."""
        self.version += 1
        self.routes.clear()

    def __repr__(self) -> str:
        """Show name, id and size."""
        return f"<Table {self.name} id={self.app_id} partitions={self.partition_count} status={self.status}>"

    def info(self, *, hosts: bool) -> AppInfo:
        """Return the table's entry in list_apps; hosts: with the fields of releases after 2.5."""
        info = AppInfo(
            status=self.status,
            app_type=self.app_type,
            app_name=self.name,
            app_id=self.app_id,
            partition_count=self.partition_count,
            envs=dict(sorted(self.envs.items())),
            is_stateful=self.is_stateful,
            max_replica_count=self.replica_count,
            expire_second=self.expires,
            create_second=self.created,
            drop_second=self.dropped,
            init_partition_count=self.init_partition_count,
        )
        if hosts:
            info.atomic_idempotent = self.atomic_idempotent
        return info

    def configuration(self, partition: Partition, *, hosts: bool) -> PartitionConfiguration:
        """Return one partition's route; hosts: with the host_port fields of releases after 2.5."""
        config = PartitionConfiguration(
            pid=make_gpid(self.app_id, partition.index),
            ballot=partition.ballot,
            max_replica_count=self.replica_count,
            primary=raw_address(partition.primary),
            secondaries=[raw_address(server) for server in partition.secondaries],
            last_drops=[raw_address(server) for server in partition.drops],
        )
        # The entry of a split child that is not ready lacks these fields.
        if hosts and partition.ballot != NOT_READY:
            if partition.primary is not None:
                config.hp_primary = partition.primary.public
            config.hp_secondaries = [server.public for server in partition.secondaries]
            config.hp_last_drops = [server.public for server in partition.drops]
        return config


def raw_address(server: Server | None) -> int:
    """Return a server's address as the raw number; 0 for None."""
    return make_address(server.box.told, server.port) if server is not None else 0


class Tables:
    """All tables by id, with dropped ones during their reserve time.

    Attributes:
        last_id: The last assigned id.
    """

    def __init__(self) -> None:
        """Start without tables."""
        self.by_id: dict[int, Table] = {}
        self.last_id = 0
        # By old name: the renamed table, and until when the old name stands for it.
        self._renamed: dict[str, tuple[Table, float]] = {}

    def __iter__(self) -> Iterator[Table]:
        """Iterate in ascending order of ids."""
        return iter(sorted(self.by_id.values(), key=lambda table: table.app_id))

    def find(self, name: str) -> Table | None:
        """Return the table with this name; dropped tables are ignored."""
        for table in self.by_id.values():
            if table.name == name and table.status != DROPPED:
                return table
        return None

    def rename(self, table: Table, name: str, until: float) -> None:
        """Rename a table. The old name stands for it until that Unix time."""
        self._renamed[table.name] = table, until
        table.name = name
        table.touch()

    def resolve(self, name: str, now: float) -> Table | None:
        """Return the table that has this name, or had it a short time ago."""
        found = self.find(name)
        if found is None and name in self._renamed:
            table, until = self._renamed[name]
            if now < until and table.status != DROPPED:
                return table
            del self._renamed[name]
        return found

    def get(self, name: str) -> Table:
        """Return an existing table.

        Raises:
            LookupError: There is no table with this name.
        """
        table = self.find(name)
        if table is None:
            raise LookupError(f"there is no table {name!r}; there are {[t.name for t in self if t.status != DROPPED]}")
        return table

    def add(self, name: str, partition_count: int, replica_count: int, envs: dict[str, str]) -> Table:
        """Add a table under the next id."""
        self.last_id += 1
        table = Table(self.last_id, name, partition_count, replica_count, envs)
        self.by_id[table.app_id] = table
        return table

    def remove(self, table: Table) -> None:
        """Forget a table. Its id is not used again."""
        del self.by_id[table.app_id]

    def served(self) -> Iterator[Table]:
        """Iterate over the tables that have replicas."""
        return (table for table in self if table.status not in (DROPPED, DROPPING))
