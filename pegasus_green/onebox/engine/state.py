"""The state of one replica's engine, and what all its operations need: time, expiry, limits, live records."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from ...protocol.message import Message
from .contexts import Contexts
from .records import Record, Records

# Seconds from the Unix epoch to 2016-01-01 UTC, the epoch of expiry times in the protocol.
EPOCH = 1451606400

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Limits:
    """The limits of the storage engine. The defaults are those of a server with its default configuration.

    Attributes:
        multi_get_rows: Maximum number of rows that one multi_get visits and returns.
        multi_get_bytes: Maximum bytes of sort keys and values in a range multi_get; the last row may exceed it.
        scan_rows: Maximum number of rows in a scan batch.
        threshold_ms: Time limit of a range read in milliseconds; 0: none. The table env
            ``replica.rocksdb_iteration_threshold_time_ms`` overrides it.
        rows_per_ms: Assumed number of rows per millisecond in a range read, because the engine has no clock for it.
        context_seconds: Lifetime of a scan context after its latest batch.
    """

    multi_get_rows: int = 3000
    multi_get_bytes: int = 30 * 1024 * 1024
    scan_rows: int = 1000
    threshold_ms: int = 30000
    rows_per_ms: int = 250
    context_seconds: float = 300.0


class State:
    """One replica's records and scan contexts.

    Attributes:
        server: Name of the answering node in replies.
        clock: Returns Unix seconds; all expiries use it.
        envs: The table's envs, a live view.
        records: The ordered map.
        contexts: The open scans.
        filters_from: Until this Unix time, scans also return rows of other partitions.
        last_decree: Decree of the last applied batch.
        time_limit_rows: For tests: range multi_get and sortkey_count reach their time limit after this many rows.
    """

    def __init__(
        self,
        app_id: int,
        partition_index: int,
        *,
        server: str,
        clock: Callable[[], float],
        envs: Mapping[str, str],
        random: Random,
        limits: Limits | None = None,
    ) -> None:
        self.app_id, self.partition_index = app_id, partition_index
        self.server, self.clock, self.envs = server, clock, envs
        self.limits = limits or Limits()
        self.records = Records()
        self.contexts = Contexts(random, self.limits.context_seconds)
        self.last_decree = 0
        self.filters_from = 0.0
        self.time_limit_rows: int | None = None
        self._scan_time_limits: deque[int] = deque()
        self._default_ttl = 0

    def __repr__(self) -> str:
        """Show the replica and its size."""
        return (
            f"<Engine {self.app_id}.{self.partition_index} decree={self.last_decree} records={len(self)} "
            f"contexts={len(self.contexts)}>"
        )

    def __len__(self) -> int:
        """Count the records, with expired ones, without the hidden empty key."""
        return len(self.records) - (b"" in self.records)

    def drop_contexts(self) -> None:
        """Forget all open scans. Their ids answer "not found" from now on."""
        for scan in self.contexts.clear():
            self.records.unpin(scan.sequence)

    def reply(self, cls: type[M]) -> M:
        """Return a response with the common fields. Its lists are not set, because that is a third of the cost."""
        response = cls.__new__(cls)
        fields = response.__dict__
        fields["app_id"], fields["partition_index"], fields["server"] = self.app_id, self.partition_index, self.server
        return response

    def now(self) -> int:
        """Return the whole seconds since 2016."""
        return int(self.clock()) - EPOCH

    def find(self, key: bytes) -> Record | None:
        """Return value and expiry of a live record; None if it is absent or expired."""
        entry = self.records.get(key)
        if entry is None or entry[0] is None:
            return None
        expire = entry[1]
        if expire and expire <= int(self.clock()) - EPOCH:
            return None
        return entry[0], expire

    def adopt_default_ttl(self) -> None:
        """Apply the env default_ttl. Deleting the env does not reset a running replica; setting it to 0 does."""
        env = self.envs.get("default_ttl")
        if env is not None:
            self._default_ttl = _number(env)

    def expiry(self, expire_ts: int) -> int:
        """Return the expiry that a write stores: the server keeps a u32 and replaces 0 by the env default_ttl."""
        self.adopt_default_ttl()
        if expire_ts == 0 and self._default_ttl > 0:
            expire_ts = self.now() + self._default_ttl
        return expire_ts & 0xFFFFFFFF

    def row_budget(self) -> int | None:
        """Return how many rows a range read may visit before its time limit; None: any number."""
        if self.time_limit_rows is not None:
            return self.time_limit_rows
        env = self.envs.get("replica.rocksdb_iteration_threshold_time_ms")
        threshold = self.limits.threshold_ms if env is None else _number(env)
        return threshold * self.limits.rows_per_ms if threshold > 0 else None

    def next_scan_time_limit(self) -> int | None:
        """Return after how many rows the next scan batch reaches its time limit; None: never.

        None is the normal case: on a real server, a batch of 1000 rows completes even with a limit of a millisecond.
        """
        return self._scan_time_limits.popleft() if self._scan_time_limits else None

    def validates_hash(self) -> bool:
        """Tell whether scans omit rows whose hash belongs to another partition."""
        wanted = self.envs.get("replica.split.validate_partition_hash") == "true"
        return wanted and self.clock() >= self.filters_from

    def expire_contexts(self) -> None:
        """Forget the expired scans and release their pins."""
        for scan in self.contexts.take_overdue(self.clock()):
            self.records.unpin(scan.sequence)


def _number(env: str) -> int:
    return int(env) if env.isdecimal() else 0
