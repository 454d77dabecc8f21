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
