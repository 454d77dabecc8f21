"""The storage engine of one replica of one partition: every data RPC, without I/O, gevent or its own clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from ...keys import crc64, decode_key, partition_hash
from ...protocol import rpc as rpcs
from ...protocol.message import Message
from ...protocol.rpc import Rpc
from . import reads, scans, writes
from .checks import key_fault
from .records import Records
from .state import State
from .writes import WriteBatch

Evaluate = Callable[[State, Any, int], tuple[Message, WriteBatch]]


@dataclass(frozen=True)
class Snapshot:
    """All records of a replica at one decree, with expired ones and the hidden empty key; immutable."""

    decree: int
    records: Records

    def __repr__(self) -> str:
        """Show the size, not the rows."""
        return f"<Snapshot decree={self.decree} rows={len(self.records)}>"


class Engine(State):
    """The data RPCs on one replica's records.

    Example:
        ``response, batch = engine.write(rpc.PUT, request, decree)`` on the primary, then
        ``engine.apply(batch, decree)`` there and later on the engine of each secondary.
    """

    def read(self, rpc: Rpc, argument: Any, *, partition_count: int) -> Message | None:
        """Answer a read.

        Args:
            rpc: One of the eight reads.
            argument: Its decoded argument.
            partition_count: The table's current count, for scans that omit the rows that a split gave to others.

        Returns:
            The response; None for clear_scanner, which has no response.
        """
        answer = _READS.get(rpc)
        if answer is not None:
            return answer(self, argument)
        # Only scans depend on contexts. Drop the expired ones now, with their pins.
        self.expire_contexts()
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
        """Evaluate a write on the current state. Nothing changes before ``apply``.

        Args:
            rpc: One of the seven writes.
            argument: Its decoded argument.
            decree: The decree of the write; all earlier ones are applied.
            atomic_idempotent: The table's setting. With it, a failed incr or check has decree -1 and is not replicated.

        Returns:
            The response and the batch to replicate and apply. If the batch is empty, do neither; the decree stays free.
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
            self.expire_contexts()
            self.records.sweep()

    def snapshot(self) -> Snapshot:
        """Return all records, for a new replica or a split child to load."""
        return Snapshot(self.last_decree, self.records.copy())

    def load(self, snapshot: Snapshot) -> None:
        """Replace all records by a snapshot; open scans are lost."""
        self.drop_contexts()
        self.records = snapshot.records.copy()
        self.last_decree = snapshot.decree

    def compact(self, partition_count: int) -> WriteBatch:
        """Do what a manual compaction does to the records.

        Expired records are removed, and after a split those of other partitions. With the env ``default_ttl``, records
        without expiry get one.

        Returns:
            The records that were removed or got another expiry.
        """
        now, mask, validates = self.now(), partition_count - 1, self.validates_hash()
        batch: WriteBatch = []
        for key, value, expire in self.records.forward(b"\0", None):
            foreign = validates and partition_hash(*decode_key(key)) & mask != self.partition_index
            if foreign or 0 < expire <= now:
                batch.append((key, None))
            elif expire == 0 and self.expiry(0):
                batch.append((key, (value, self.expiry(0))))
        if batch:
            self.records.apply(batch)
        return batch

    def close(self) -> None:
        """Release the memory. The engine cannot be used any more."""
        self.drop_contexts()
        self.records = Records()

    def force_incomplete(self, *rows: int) -> None:
        """Make the next scan batches reach their time limit (status 7), each after this many visited rows.

        A batch that is complete or full before that is answered as usual, and uses up its entry, too.
        """
        self._scan_time_limits.extend(rows)


def wrong_key_hash(rpc: Rpc, argument: Any, hashed: int) -> bool:
    """Tell whether the partition hash of a put or remove is neither 0 nor that of its key.

    A real primary aborts on such a write.
    """
    if hashed == 0 or rpc not in (rpcs.PUT, rpcs.REMOVE):
        return False
    key = argument if rpc is rpcs.REMOVE else argument.key
    if key_fault(key) is not None:
        return False
    end = 2 + (key[0] << 8 | key[1])
    return crc64(key[2:end] or key[end:]) != hashed


_READS: dict[Rpc, Callable[[State, Any], Message]] = {
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
