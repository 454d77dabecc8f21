"""Result types of the administrative methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class TableStatus(IntEnum):
    """Status of a table on the meta servers."""

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
    """A table as the meta servers describe it.

    Attributes:
        app_id: Its id. No other table ever gets the same id.
        name: Its name. The name of a dropped table may be in use again.
        status: A ``TableStatus``, or a plain number if a newer server sends an unknown one.
        partition_count: Number of partitions. During a split it is the new number.
        replica_count: Replicas that each partition should have.
        envs: The table's envs: values of its settings by name.
        created: Unix time of the creation; 0: unknown.
        dropped: Unix time of the drop; 0: not dropped.
        expires: Unix time until which a dropped table can be recalled; 0: not dropped.
        duplicating: Whether it is duplicated to another cluster.
        atomic_idempotent: Whether incr and check-and-* are idempotent between replicas, see ``create_table``; None: the
            server does not support this setting.
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
        """Show the facts that operators need."""
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
        index: Its index, from 0.
        ballot: Version of its configuration. 0: it never had a primary. Below 0: the child of a split, not yet ready.
        primary: "host:port", or "" if it has no primary now.
        secondaries: "host:port" of each.
        replica_count: Number of replicas that it should have.
        last_drops: Servers that were recently removed from it.
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
        """Show the addresses of its replicas."""
        return (
            f"<Partition {self.index} ballot={self.ballot} primary={self.primary or 'none'}"
            f" secondaries={','.join(self.secondaries) or 'none'}>"
        )


@dataclass(frozen=True)
class NodeInfo:
    """A replica server as the meta servers describe it.

    Attributes:
        address: "host:port".
        is_alive: Whether the meta servers count it as alive.
    """

    address: str
    is_alive: bool

    def __repr__(self) -> str:
        """Show address and state."""
        return f"<Node {self.address} {'alive' if self.is_alive else 'dead'}>"


class MetaLevel(IntEnum):
    """What the meta servers may change by themselves; a higher level allows more.

    LIVELY: they also move replicas for balance. STEADY: they do not. FREEZED and lower: they also refuse to create
    tables.
    """

    STOPPED = 100
    BLIND = 200
    FREEZED = 300
    STEADY = 400
    LIVELY = 500


class SplitState(IntEnum):
    """State of the split of one partition. The partition is the parent; its new half is the child."""

    NOT_SPLIT = 0
    SPLITTING = 1
    PAUSING = 2
    PAUSED = 3
    CANCELING = 4


@dataclass(frozen=True)
class SplitStatus:
    """A running partition split.

    Attributes:
        partition_count: The new number of partitions.
        parents: ``SplitState`` by index, for each parent partition whose child is not ready yet.
    """

    partition_count: int
    parents: Mapping[int, int]

    def __repr__(self) -> str:
        """Show the progress."""
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
        path: Its path on the server.
        capacity_mb: Size of the disk.
        available_mb: Free space.
        primaries: Indices of the partitions whose primary is in it, by table id.
        secondaries: Indices of the partitions that have a secondary in it, by table id.
    """

    tag: str
    path: str
    capacity_mb: int
    available_mb: int
    primaries: Mapping[int, tuple[int, ...]]
    secondaries: Mapping[int, tuple[int, ...]]


class ProposalKind(IntEnum):
    """The change that a proposal makes to a server's replica of a partition. The numbers are those of the protocol.

    "LB" stands for load balancing.
    """

    ASSIGN_PRIMARY = 1
    UPGRADE_TO_PRIMARY = 2
    ADD_SECONDARY = 3
    DOWNGRADE_TO_SECONDARY = 5
    DOWNGRADE_TO_INACTIVE = 6
    REMOVE = 7
    ADD_SECONDARY_FOR_LB = 8


class BalanceKind(IntEnum):
    """How ``balance`` moves a replica.

    MOVE_PRIMARY: an existing secondary becomes the primary. COPY_PRIMARY: the primary moves to a server without a
    replica. COPY_SECONDARY: a secondary moves to such a server.
    """

    MOVE_PRIMARY = 0
    COPY_PRIMARY = 1
    COPY_SECONDARY = 2


class HotKeyKind(IntEnum):
    """Whether to search for the key with the most reads or the most writes."""

    READ = 0
    WRITE = 1


class HotKeyAction(IntEnum):
    """What ``hot_keys`` does: start the search, stop it, or get its result."""

    START = 0
    STOP = 1
    QUERY = 2


class BulkLoadStatus(IntEnum):
    """Status of a bulk load."""

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
    """A bulk load of a table: its servers load prepared files of records from a remote storage.

    Attributes:
        status: A ``BulkLoadStatus``, or a plain number if a newer server sends an unknown one.
        partitions: The status of each partition.
        is_running: Whether the bulk load still runs.
    """

    status: int
    partitions: tuple[int, ...]
    is_running: bool


@dataclass(frozen=True)
class Backup:
    """A backup of a table; times in Unix seconds.

    Attributes:
        backup_id: Its id.
        provider: Name of the storage in the servers' configuration.
        path: Directory in the storage; "": the default.
        started: Time of the start.
        ended: Time of the end; 0: not ended.
        failed: Whether it failed.
    """

    backup_id: int
    provider: str
    path: str
    started: float
    ended: float
    failed: bool
