"""Scan contexts: the options of an open scan, its position, and the ids that clients continue it with."""

from __future__ import annotations

import math
from random import Random

from ...protocol import rrdb
from .checks import make_filter


class Scan:
    """The state of a scan context between two batches: the options of get_scanner and the position of the iterator.

    Attributes:
        position: The next key to read; None at the end.
        end: The end of the iterator (exclusive); None: the end of the partition.
        sequence: The pinned state of the records.
    """

    __slots__ = (
        "position",
        "end",
        "sequence",
        "deadline",
        "stop",
        "stop_inclusive",
        "batch_size",
        "no_value",
        "validate_hash",
        "expire_ts",
        "count_only",
        "hash_filter",
        "sort_filter",
    )

    def __init__(self, request: rrdb.GetScannerRequest, batch_limit: int) -> None:
        """Store the options; unset ones have the server's defaults."""
        self.position: bytes | None = request.start_key
        self.end: bytes | None = None
        self.sequence = -1
        self.deadline = 0.0
        self.stop, self.stop_inclusive = request.stop_key, request.stop_inclusive
        self.batch_size = min(request.batch_size, batch_limit) if request.batch_size > 0 else batch_limit
        self.no_value = request.no_value
        self.validate_hash = request.validate_partition_hash is not False
        self.expire_ts = bool(request.return_expire_ts)
        self.count_only = bool(request.only_return_count)
        self.hash_filter = make_filter(request.hash_key_filter_type, request.hash_key_filter_pattern)
        self.sort_filter = make_filter(request.sort_key_filter_type, request.sort_key_filter_pattern)


class Contexts:
    """The open scan contexts of a replica by id. Ids increase; each is used once."""

    def __init__(self, random: Random, life: float) -> None:
        """Start with a random upper half of an i64, as the server does, so half of all replicas have negative ids.

        0 is skipped, because it is the answer to an empty range. -1 ("finished") is never reached.
        """
        first = random.randrange(1, 1 << 32) << 32
        self._next = first - (1 << 64) if first >= 1 << 63 else first
        self._life = life
        self._live: dict[int, Scan] = {}
        # No context expires before this time.
        self._due = math.inf

    def __len__(self) -> int:
        return len(self._live)

    def put(self, scan: Scan, now: float) -> int:
        """Store a scan for five minutes from now and return its new id."""
        context_id = self._next
        self._next = context_id + 1
        scan.deadline = now + self._life
        if not self._live:
            self._due = scan.deadline
        self._live[context_id] = scan
        return context_id

    def take(self, context_id: int) -> Scan | None:
        """Remove and return a context."""
        return self._live.pop(context_id, None)

    def take_overdue(self, now: float) -> list[Scan]:
        """Remove and return the contexts that have expired."""
        if now < self._due:
            return []
        overdue = []
        self._due = math.inf
        # They are in the order of their deadlines.
        for context_id, scan in tuple(self._live.items()):
            if scan.deadline > now:
                self._due = scan.deadline
                break
            overdue.append(self._live.pop(context_id))
        return overdue

    def clear(self) -> list[Scan]:
        """Remove and return all contexts."""
        scans = list(self._live.values())
        self._live.clear()
        return scans
