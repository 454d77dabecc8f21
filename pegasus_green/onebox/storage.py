"""The storage engine of one replica of one partition: every data RPC, without I/O, gevent or a clock of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar, cast

from ..keys import crc64, decode_key, partition_hash
from ..protocol import rpc as rpcs
from ..protocol.message import Message
from ..protocol.rpc import Rpc
from . import reads, scans, writes
from .records import Record, Records
from .writes import WriteBatch

# Seconds from the Unix epoch to that of all expiry times on the wire, 2016-01-01 UTC.
EPOCH = 1451606400

M = TypeVar("M", bound=Message)
Evaluate = Callable[["Engine", Any, int], tuple[Message, WriteBatch]]


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


@dataclass(frozen=True)
class Snapshot:
    """All records of a replica at one decree, expired ones and the hidden empty key included; nobody changes it."""

    decree: int
    records: Records

    def __repr__(self) -> str:
        """Show the size, not the rows."""
        return f"<Snapshot decree={self.decree} rows={len(self.records)}>"


class Engine:
    """One replica's records and scan contexts.

    Example:
        ``response, batch = engine.write(rpc.PUT, request, decree)`` on the primary, then
        ``engine.apply(batch, decree)`` there and, whenever a secondary gets to it, on the secondary's engine.

    Attributes:
        server: What replies name as the answering node.
        clock: Returns Unix seconds; every expiry follows it.
        envs: The table's envs, a live view.
        records: The ordered map.
        contexts: The open scans.
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
        self.contexts = scans.Contexts(random, self.limits.context_seconds)
        self.last_decree = 0
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

    def read(self, rpc: Rpc, argument: Any, *, partition_count: int) -> Message | None:
        """Answer a read.

        Args:
            rpc: One of the eight reads.
            argument: Its decoded argument.
            partition_count: The table's present count, for scans that leave out what a split gave to others.

        Returns:
            The response; None for clear_scanner, which has none.
        """
        answer = _READS.get(rpc)
        if answer is not None:
            return answer(self, argument)
        # Only scans depend on contexts: those whose time is over go now, together with what they pinned.
        self._expire_contexts()
        if rpc is rpcs.GET_SCANNER:
            return scans.get_scanner(self, argument, partition_count)
        if rpc is rpcs.SCAN:
            return scans.scan(self, argument.context_id, partition_count)
        if rpc is not rpcs.CLEAR_SCANNER:
            raise ValueError(f"{rpc} is not a read")
        found = self.contexts.take(argument)
        if found is not None:
            self.records.unpin(found.sequence)
        return None

    def write(
        self, rpc: Rpc, argument: Any, decree: int, *, atomic_idempotent: bool = False
    ) -> tuple[Message, WriteBatch]:
        """Evaluate a write on the present state; nothing changes before ``apply``.

        Args:
            rpc: One of the seven writes.
            argument: Its decoded argument.
            decree: The number that the write gets; all earlier ones are applied.
            atomic_idempotent: The table's attribute: there a failed incr or check has decree -1 and is not replicated.

        Returns:
            The response and the batch to replicate and apply. An empty batch: do neither, the decree stays free.
        """
        response, batch = _WRITES[rpc](self, argument, decree)
        if atomic_idempotent and batch is writes.EMPTY_WRITE and not rpc.repeatable:
            cast(Any, response).decree = -1
            return response, []
        return response, batch

    def apply(self, batch: WriteBatch, decree: int) -> None:
        """Apply a batch that was evaluated here or on the primary."""
        self.records.apply(batch)
        self.last_decree = decree
        if self.records.wants_sweep:
            self._expire_contexts()
            self.records.sweep()

    def snapshot(self) -> Snapshot:
        """Return all records, for a new replica or a split child to load."""
        return Snapshot(self.last_decree, self.records.copy())

    def load(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot; open scans are gone."""
        self.drop_contexts()
        self.records = snapshot.records.copy()
        self.last_decree = snapshot.decree

    def compact(self, partition_count: int) -> int:
        """Do what a manual compaction does to the records.

        Expired records and, after a split, those of other partitions go; with the env ``default_ttl`` those without
        expiry get one.

        Returns:
            How many records went.
        """
        now, mask, validates, removed = self.now(), partition_count - 1, self.validates_hash(), 0
        batch: WriteBatch = []
        for key, value, expire in self.records.forward(b"\0", None):
            foreign = validates and partition_hash(*decode_key(key)) & mask != self.partition_index
            if foreign or 0 < expire <= now:
                batch.append((key, None))
                removed += 1
            elif expire == 0 and self.expiry(0):
                batch.append((key, (value, self.expiry(0))))
        if batch:
            self.records.apply(batch)
        return removed

    def drop_contexts(self) -> None:
        """Forget all open scans: their ids answer "not found" from now on."""
        for scan in self.contexts.clear():
            self.records.unpin(scan.sequence)

    def close(self) -> None:
        """Give the memory back; the engine is not usable any more."""
        self.drop_contexts()
        self.records = Records()

    def force_incomplete(self, *rows: int) -> None:
        """Let the next scan batches run out of time (status 7), each after so many rows looked at.

        A batch that is complete or full before that is answered as usual and uses its entry up too.
        """
        self._scan_time_limits.extend(rows)

    # What follows is for the modules of the engine.

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
        return self.envs.get("replica.split.validate_partition_hash") == "true"

    def _expire_contexts(self) -> None:
        for scan in self.contexts.take_overdue(self.clock()):
            self.records.unpin(scan.sequence)


def wrong_key_hash(rpc: Rpc, argument: Any, hashed: int) -> bool:
    """Tell whether a put or remove comes with a partition hash that is neither 0 nor its key's.

    A real primary aborts on such a write.
    """
    if hashed == 0 or rpc not in (rpcs.PUT, rpcs.REMOVE):
        return False
    key = argument if rpc is rpcs.REMOVE else argument.key
    if reads.key_fault(key) is not None:
        return False
    end = 2 + (key[0] << 8 | key[1])
    return crc64(key[2:end] or key[end:]) != hashed


def _number(env: str) -> int:
    return int(env) if env.isdecimal() else 0


_READS: dict[Rpc, Callable[[Engine, Any], Message]] = {
    rpcs.GET: reads.get,
    rpcs.TTL: reads.ttl,
    rpcs.MULTI_GET: reads.multi_get,
    rpcs.BATCH_GET: reads.batch_get,
    rpcs.SORTKEY_COUNT: reads.sortkey_count,
}
_WRITES: dict[Rpc, Evaluate] = {
    rpcs.PUT: writes.put,
    rpcs.REMOVE: writes.remove,
    rpcs.MULTI_PUT: writes.multi_put,
    rpcs.MULTI_REMOVE: writes.multi_remove,
    rpcs.INCR: writes.incr,
    rpcs.CHECK_AND_SET: writes.check_and_set,
    rpcs.CHECK_AND_MUTATE: writes.check_and_mutate,
}
