"""What the administrative calls return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class TableStatus(IntEnum):
    """What the meta servers do with a table."""

    INVALID = 0
    AVAILABLE = 1
    CREATING = 2
    CREATE_FAILED = 3
    DROPPING = 4
    DROP_FAILED = 5
    DROPPED = 6
    RECALLING = 7


@dataclass(frozen=True)
class TableInfo:
    """A table as the meta servers list it.

    Attributes:
        app_id: Its id, never given to another table.
        name: Its name; that of a dropped table may be in use again.
        status: A ``TableStatus``, or a plain number where a newer server has more of them.
        partition_count: Number of partitions; during a split already the new one.
        replica_count: Replicas that each partition should have.
        envs: The table's environment.
        created: Unix time of the creation; 0: unknown.
        dropped: Unix time of the drop; 0: not dropped.
        expires: Unix time until when a dropped table can be recalled; 0: not dropped.
        duplicating: Whether it is duplicated to another cluster.
        atomic_idempotent: Whether incr and check-and-* are made idempotent between replicas; None: the server is too
            old to know.
    """

    app_id: int
    name: str
    status: int
    partition_count: int
    replica_count: int
    envs: Mapping[str, str]
    created: int = 0
    dropped: int = 0
    expires: int = 0
    duplicating: bool = False
    atomic_idempotent: bool | None = None

    def __repr__(self) -> str:
        """Show what an operator looks for."""
        status = TableStatus(self.status).name if self.status in list(TableStatus) else str(self.status)
        envs = f" envs={dict(self.envs)}" if self.envs else ""
        return (
            f"<Table {self.app_id} {self.name!r} {status} partitions={self.partition_count}"
            f" replicas={self.replica_count}{envs}>"
        )


@dataclass(frozen=True)
class PartitionInfo:
    """One partition of a table.

    Attributes:
        index: Its number, from 0.
        ballot: Version of its configuration; 0: never had a primary; below 0: a split child that is not ready.
        primary: "host:port", or "" when it has none now.
        secondaries: "host:port" of each.
        replica_count: Replicas that it should have.
        last_drops: Servers taken out not long ago.
    """

    index: int
    ballot: int
    primary: str
    secondaries: tuple[str, ...]
    replica_count: int
    last_drops: tuple[str, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Whether it has a primary and all its replicas."""
        return bool(self.primary) and len(self.secondaries) + 1 >= self.replica_count

    def __repr__(self) -> str:
        """Show where it is."""
        return (
            f"<Partition {self.index} ballot={self.ballot} primary={self.primary or 'none'}"
            f" secondaries={','.join(self.secondaries) or 'none'}>"
        )


@dataclass(frozen=True)
class NodeInfo:
    """A replica server as the meta servers see it."""

    address: str
    is_alive: bool

    def __repr__(self) -> str:
        """Show address and state."""
        return f"<Node {self.address} {'alive' if self.is_alive else 'dead'}>"


class MetaLevel(IntEnum):
    """How much the meta servers may change: from nothing at all to moving replicas for balance."""

    STOPPED = 100
    BLIND = 200
    FREEZED = 300
    STEADY = 400
    LIVELY = 500


class SplitState(IntEnum):
    """How far a parent partition is with its split."""

    NOT_SPLIT = 0
    SPLITTING = 1
    PAUSING = 2
    PAUSED = 3
    CANCELING = 4


@dataclass(frozen=True)
class SplitStatus:
    """A partition split under way.

    Attributes:
        partition_count: The new number of partitions.
        parents: A ``SplitState`` by index of each parent partition whose child is not ready yet.
    """

    partition_count: int
    parents: Mapping[int, int]

    def __repr__(self) -> str:
        """Show how far it is."""
        states = {
            SplitState(state).name if state in list(SplitState) else str(state) for state in self.parents.values()
        }
        parents = self.partition_count // 2
        return (
            f"<Split to {self.partition_count} partitions, {parents - len(self.parents)} of {parents} done"
            f"{''.join(f', {name}' for name in sorted(states))}>"
        )


@dataclass(frozen=True)
class DiskInfo:
    """A data directory of a replica server; sizes in MiB.

    Attributes:
        tag: Its name in the server's configuration.
        path: Where it is.
        capacity_mb: Size of the disk.
        available_mb: What is free of it.
        primaries: Indices of the partitions whose primary is there, by table id.
        secondaries: The same of secondaries.
    """

    tag: str
    path: str
    capacity_mb: int
    available_mb: int
    primaries: Mapping[int, tuple[int, ...]]
    secondaries: Mapping[int, tuple[int, ...]]


class ProposalKind(IntEnum):
    """What a proposal does with a server's replica of a partition; the numbers are the wire's."""

    ASSIGN_PRIMARY = 1
    UPGRADE_TO_PRIMARY = 2
    ADD_SECONDARY = 3
    DOWNGRADE_TO_SECONDARY = 5
    DOWNGRADE_TO_INACTIVE = 6
    REMOVE = 7
    ADD_SECONDARY_FOR_LB = 8


class BalanceKind(IntEnum):
    """How a replica is moved: the primary to a secondary, to a new replica, or a secondary to a new one."""

    MOVE_PRIMARY = 0
    COPY_PRIMARY = 1
    COPY_SECONDARY = 2


class HotKeyKind(IntEnum):
    """Whether the key is hot by reads or by writes."""

    READ = 0
    WRITE = 1


class HotKeyAction(IntEnum):
    """What is done with the search for a hot key."""

    START = 0
    STOP = 1
    QUERY = 2


class BulkLoadStatus(IntEnum):
    """How far a bulk load is."""

    INVALID = 0
    DOWNLOADING = 1
    DOWNLOADED = 2
    INGESTING = 3
    SUCCEED = 4
    FAILED = 5
    PAUSING = 6
    PAUSED = 7
    CANCELED = 8


@dataclass(frozen=True)
class BulkLoad:
    """A bulk load of a table.

    Attributes:
        status: A ``BulkLoadStatus``, or a plain number where a newer server has more of them.
        partitions: The same of each partition.
        is_running: Whether it goes on.
    """

    status: int
    partitions: tuple[int, ...]
    is_running: bool


@dataclass(frozen=True)
class Backup:
    """A backup of a table; times in Unix seconds.

    Attributes:
        backup_id: Its id.
        provider: Where it is stored, by the name in the servers' configuration.
        path: The directory there; "": the default.
        started: When it began.
        ended: When it ended; 0: not yet.
        failed: Whether it failed.
    """

    backup_id: int
    provider: str
    path: str
    started: float
    ended: float
    failed: bool
