"""The values that calls take and return: filters, check types, results, and what administration tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .errors import InvalidArgument
from .keys import Key, to_bytes


class FilterType(IntEnum):
    """How a pattern is looked for in a key; the numbers are the wire's."""

    NO_FILTER = 0
    MATCH_ANYWHERE = 1
    MATCH_PREFIX = 2
    MATCH_POSTFIX = 3


@dataclass(frozen=True)
class Filter:
    """Which keys are wanted; the server leaves out the others.

    An empty pattern lets every key pass.

    Example:
        >>> Filter.prefix("2026-11-")
        Filter(type=<FilterType.MATCH_PREFIX: 2>, pattern=b'2026-11-')
    """

    type: FilterType
    pattern: bytes

    def __post_init__(self) -> None:
        """Take a str pattern as UTF-8 and refuse types that servers do not know."""
        try:
            object.__setattr__(self, "type", FilterType(self.type))
        except ValueError:
            raise InvalidArgument(f"a filter type is a FilterType (0 to 3), not {self.type!r}") from None
        object.__setattr__(self, "pattern", to_bytes(self.pattern, "filter pattern"))

    @classmethod
    def anywhere(cls, pattern: Key) -> Filter:
        """Want the keys that contain the pattern."""
        return cls(FilterType.MATCH_ANYWHERE, to_bytes(pattern, "filter pattern"))

    @classmethod
    def prefix(cls, pattern: Key) -> Filter:
        """Want the keys that begin with the pattern; the server reads no others."""
        return cls(FilterType.MATCH_PREFIX, to_bytes(pattern, "filter pattern"))

    @classmethod
    def postfix(cls, pattern: Key) -> Filter:
        """Want the keys that end with the pattern."""
        return cls(FilterType.MATCH_POSTFIX, to_bytes(pattern, "filter pattern"))

    def accepts(self, key: bytes) -> bool:
        """Tell whether a key passes, as the server decides it."""
        if self.type == FilterType.MATCH_PREFIX:
            return key.startswith(self.pattern)
        if self.type == FilterType.MATCH_POSTFIX:
            return key.endswith(self.pattern)
        return self.type == FilterType.NO_FILTER or self.pattern in key


NO_FILTER = Filter(FilterType.NO_FILTER, b"")


class CheckType(IntEnum):
    """What ``check_and_set`` and ``check_and_mutate`` want of a record before they write; the numbers are the wire's.

    The value is compared as stored, without the table's codec. ``BYTES_*`` compare unsigned and bytewise, a prefix is
    less than its extension. ``INT_*`` want value and operand to be integers of 64 bits (``12``, ``-3``, ``0x1F``,
    ``017`` is octal). An absent or expired record passes none but ``NO_CHECK``, ``NOT_EXIST`` and
    ``NOT_EXIST_OR_EMPTY``.
    """

    NO_CHECK = 0
    NOT_EXIST = 1
    NOT_EXIST_OR_EMPTY = 2
    EXIST = 3
    NOT_EMPTY = 4
    MATCH_ANYWHERE = 5
    MATCH_PREFIX = 6
    MATCH_POSTFIX = 7
    BYTES_LESS = 8
    BYTES_LESS_OR_EQUAL = 9
    BYTES_EQUAL = 10
    BYTES_GREATER_OR_EQUAL = 11
    BYTES_GREATER = 12
    INT_LESS = 13
    INT_LESS_OR_EQUAL = 14
    INT_EQUAL = 15
    INT_GREATER_OR_EQUAL = 16
    INT_GREATER = 17

    @property
    def takes_operand(self) -> bool:
        """Whether the check compares with an operand."""
        return self >= CheckType.MATCH_ANYWHERE

    @property
    def is_integer(self) -> bool:
        """Whether value and operand are compared as integers."""
        return self >= CheckType.INT_LESS


class MultiGetResult(dict[bytes, Any]):
    """Rows of ``multi_get``: a dict of values by sort key, in the order of the server's answer.

    Attributes:
        complete: Whether these are all the rows that were asked for; False: the server or a limit stopped before.
        last_key: The sort key where reading stopped, the smallest one in reverse: a next call goes on behind it. None
            without rows.
    """

    __slots__ = ("complete", "last_key")

    def __init__(
        self, rows: Iterable[tuple[bytes, Any]] = (), *, complete: bool = True, last_key: bytes | None = None
    ) -> None:
        """Hold rows."""
        super().__init__(rows)
        self.complete = complete
        self.last_key = last_key

    def __repr__(self) -> str:
        """Show the rows and whether they are all."""
        return f"MultiGetResult({dict.__repr__(self)}, complete={self.complete})"


class SortKeys(list[bytes]):
    """Sort keys of ``multi_get_sort_keys``, ascending.

    Attributes:
        complete: Whether these are all.
        last_key: The sort key where reading stopped; None without keys.
    """

    __slots__ = ("complete", "last_key")

    def __init__(self, keys: Iterable[bytes] = (), *, complete: bool = True, last_key: bytes | None = None) -> None:
        """Hold keys."""
        super().__init__(keys)
        self.complete = complete
        self.last_key = last_key

    def __repr__(self) -> str:
        """Show the keys and whether they are all."""
        return f"SortKeys({list.__repr__(self)}, complete={self.complete})"


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a check-and-* operation; true when the check passed and everything was written.

    Attributes:
        was_set: Whether the check passed; if not, nothing was changed.
        check_value_exists: Whether the checked record was there, before the write; None where it was not asked for.
        raw_check_value: Its value as stored, before the write; None when it was absent or not asked for.
    """

    was_set: bool
    check_value_exists: bool | None = None
    raw_check_value: bytes | None = None
    codec: Any = field(default=None, repr=False, compare=False)

    @property
    def check_value(self) -> Any:
        """The checked record's value before the write, as the table's codec decodes it; None when there is none.

        Decoded when it is looked at, so that a value which the codec cannot decode does not hide the outcome.
        """
        if self.raw_check_value is None or self.codec is None:
            return self.raw_check_value
        return self.codec.decode(self.raw_check_value)

    def __bool__(self) -> bool:
        """Tell whether it was set."""
        return self.was_set


# ------------------------------------------------------------------------------------------------------ administration
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
