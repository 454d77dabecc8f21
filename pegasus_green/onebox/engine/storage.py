"""The storage engine of one replica of one partition: every data RPC, without I/O, gevent or a clock of its own."""

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
    """All records of a replica at one decree, expired ones and the hidden empty key included; nobody changes it."""

    decree: int
    records: Records

    def __repr__(self) -> str:
        """Show the size, not the rows."""
        return f"<Snapshot decree={self.decree} rows={len(self.records)}>"


class Engine(State):
    """The data RPCs on one replica's records.

    Example:
        ``response, batch = engine.write(rpc.PUT, request, decree)`` on the primary, then
        ``engine.apply(batch, decree)`` there and, whenever a secondary gets to it, on the secondary's engine.
    """

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
            self.expire_contexts()
            self.records.sweep()

    def snapshot(self) -> Snapshot:
        """Return all records, for a new replica or a split child to load."""
        return Snapshot(self.last_decree, self.records.copy())

    def load(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot; open scans are gone."""
        self.drop_contexts()
        self.records = snapshot.records.copy()
        self.last_decree = snapshot.decree

    def compact(self, partition_count: int) -> WriteBatch:
        """Do what a manual compaction does to the records.

        Expired records and, after a split, those of other partitions go; with the env ``default_ttl`` those without
        expiry get one.

        Returns:
            The records that went or got another expiry.
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
        """Give the memory back; the engine is not usable any more."""
        self.drop_contexts()
        self.records = Records()

    def force_incomplete(self, *rows: int) -> None:
        """Let the next scan batches run out of time (status 7), each after so many rows looked at.

        A batch that is complete or full before that is answered as usual and uses its entry up too.
        """
        self._scan_time_limits.extend(rows)


def wrong_key_hash(rpc: Rpc, argument: Any, hashed: int) -> bool:
    """Tell whether a put or remove comes with a partition hash that is neither 0 nor its key's.

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
