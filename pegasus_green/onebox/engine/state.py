"""The state of one replica's engine, and what all its operations ask of it: time, expiry, limits, live records."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from ...protocol.message import Message
from .contexts import Contexts
from .records import Record, Records

# Seconds from the Unix epoch to that of all expiry times on the wire, 2016-01-01 UTC.
EPOCH = 1451606400

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Limits:
    """The limits of a server's shipped configuration.

    Attributes:
        multi_get_rows: Rows that one multi_get looks at and returns at most.
        multi_get_bytes: Sort keys and values of a range multi_get in bytes, exceeded by at most one row.
        scan_rows: Rows of a scan batch.
        threshold_ms: Time limit of a range read in milliseconds; 0: none. The table env goes before it.
        rows_per_ms: How many rows a range read is taken to look at in a millisecond: the engine has no clock for it.
        context_seconds: Life of a scan context from its latest batch.
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
        server: What replies name as the answering node.
        clock: Returns Unix seconds; every expiry follows it.
        envs: The table's envs, a live view.
        records: The ordered map.
        contexts: The open scans.
        filters_from: Until this Unix time scans do not leave out the rows of other partitions.
        last_decree: Decree of the batch applied last.
        time_limit_rows: For tests: range multi_get and sortkey_count run out of time after this many rows.
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
        """Count the records, expired ones included, the hidden empty key not."""
        return len(self.records) - (b"" in self.records)

    def drop_contexts(self) -> None:
        """Forget all open scans: their ids answer "not found" from now on."""
        for scan in self.contexts.clear():
            self.records.unpin(scan.sequence)

    def reply(self, cls: type[M]) -> M:
        """Return a response with the fields that every response has. Its lists are not set: a third of the cost."""
        response = cls.__new__(cls)
        fields = response.__dict__
        fields["app_id"], fields["partition_index"], fields["server"] = self.app_id, self.partition_index, self.server
        return response

    def now(self) -> int:
        """Return the whole seconds since 2016."""
        return int(self.clock()) - EPOCH

    def find(self, key: bytes) -> Record | None:
        """Return value and expiry of a live record, None when absent or expired."""
        entry = self.records.get(key)
        if entry is None or entry[0] is None:
            return None
        expire = entry[1]
        if expire and expire <= int(self.clock()) - EPOCH:
            return None
        return entry[0], expire

    def adopt_default_ttl(self) -> None:
        """Take the env default_ttl over: deleting it does not reset a running replica, setting it to 0 does."""
        env = self.envs.get("default_ttl")
        if env is not None:
            self._default_ttl = _number(env)

    def expiry(self, expire_ts: int) -> int:
        """Return the expiry that a write stores: the server keeps a u32 and fills the env default_ttl in for 0."""
        self.adopt_default_ttl()
        if expire_ts == 0 and self._default_ttl > 0:
            expire_ts = self.now() + self._default_ttl
        return expire_ts & 0xFFFFFFFF

    def row_budget(self) -> int | None:
        """Return how many rows a range read may look at before it runs out of time, None: any number."""
        if self.time_limit_rows is not None:
            return self.time_limit_rows
        env = self.envs.get("replica.rocksdb_iteration_threshold_time_ms")
        threshold = self.limits.threshold_ms if env is None else _number(env)
        return threshold * self.limits.rows_per_ms if threshold > 0 else None

    def next_scan_time_limit(self) -> int | None:
        """Return after how many rows the coming scan batch runs out of time, None: never.

        Never is the rule: on a real server a batch of 1000 rows is done even where the limit is a millisecond.
        """
        return self._scan_time_limits.popleft() if self._scan_time_limits else None

    def validates_hash(self) -> bool:
        """Tell whether scans leave out rows whose hash belongs to another partition."""
        wanted = self.envs.get("replica.split.validate_partition_hash") == "true"
        return wanted and self.clock() >= self.filters_from

    def expire_contexts(self) -> None:
        """Forget the scans whose time is over, and what they pinned."""
        for scan in self.contexts.take_overdue(self.clock()):
            self.records.unpin(scan.sequence)


def _number(env: str) -> int:
    return int(env) if env.isdecimal() else 0
