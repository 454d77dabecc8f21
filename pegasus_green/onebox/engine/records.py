"""The ordered map of a replica: records by encoded key, with the old versions that open scans need.

Every batch of writes gets a number, the *sequence*. A scan pins the sequence at its start. If a later batch replaces an
entry, the old entry stays linked to the new one while a pin can see it. So a scan context is a position and a number.
An open scan costs writers only the memory of the entries that they replace meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

from sortedcontainers import SortedList

# Value and expiry (u32, seconds since 2016, 0: never).
Record = tuple[bytes, int]
# Value (None: removed, kept only for old pins), expiry, sequence, the replaced entry.
Entry = tuple[bytes | None, int, int, Any]
Row = tuple[bytes, bytes, int]

# There is no sweep below this number of old versions, because the saved memory is not worth it.
SWEEP_FROM = 4096
# Without pins old versions are dropped, but in small steps: 100,000 rows at once would block the caller for 0.15 s.
FORGET_AT_ONCE, FORGET_PER_BATCH = 1000, 20


class Records:
    """An ordered map with cheap, consistent views of old states.

    Attributes:
        sequence: Number of batches so far.
        kept: Number of old versions kept since the last sweep.
    """

    __slots__ = ("sequence", "kept", "_entries", "_keys", "_pins", "_newest_pin", "_stale", "_sweep_at")

    def __init__(self, rows: Iterable[tuple[bytes, Record]] = ()) -> None:
        """Start with rows. Rows in ascending order of their keys are fastest."""
        self._entries: dict[bytes, Entry] = {key: (value, expire, 0, None) for key, (value, expire) in rows}
        self._keys = SortedList(self._entries)
        self.sequence = 0
        self.kept = 0
        self._sweep_at = SWEEP_FROM
        self._pins: dict[int, int] = {}
        self._newest_pin = -1
        # Keys whose entry has older versions or is a removal mark.
        self._stale: set[bytes] = set()

    def __contains__(self, key: bytes) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry[0] is not None

    def __len__(self) -> int:
        if not self._stale:
            return len(self._entries)
        return len(self._entries) - sum(self._entries[key][0] is None for key in self._stale)

    def get(self, key: bytes) -> Entry | None:
        """Return the newest entry; None if there is none. An entry without a value marks a removal."""
        return self._entries.get(key)

    def apply(self, batch: Iterable[tuple[bytes, Record | None]]) -> None:
        """Apply one batch, in order; None removes a record."""
        self.sequence = sequence = self.sequence + 1
        entries, newest_pin = self._entries, self._newest_pin
        for key, record in batch:
            old = entries.get(key)
            if old is None:
                if record is not None:
                    entries[key] = (record[0], record[1], sequence, None)
                    self._keys.add(key)
                continue
            if old[2] <= newest_pin:
                if record is None and old[0] is None:
                    continue
                older: Any = old
                self.kept += 1
            else:
                # No pin is new enough to see the old entry, but one may see the entry that it replaced.
                older = old[3] if newest_pin >= 0 else None
            if older is not None:
                self._stale.add(key)
                entries[key] = (None, 0, sequence, older) if record is None else (*record, sequence, older)
            elif record is None:
                self._drop(key)
            else:
                entries[key] = (record[0], record[1], sequence, None)
        if self._stale and newest_pin < 0:
            self._forget(FORGET_PER_BATCH)

    def _drop(self, key: bytes) -> None:
        del self._entries[key]
        self._keys.remove(key)
        self._stale.discard(key)

    def _forget(self, limit: int) -> None:
        """Drop the old versions of this many keys; there is no pin any more."""
        entries, stale = self._entries, self._stale
        for _ in range(min(limit, len(stale))):
            key = stale.pop()
            value, expire, sequence, _ = entries[key]
            if value is None:
                self._drop(key)
            else:
                entries[key] = (value, expire, sequence, None)

    def copy(self) -> Records:
        """Return an independent map of the current records, without old versions; fast, because rows are shared."""
        other = Records()
        other._entries = entries = self._entries.copy()
        for key in self._stale:
            value, expire, sequence, _ = entries[key]
            if value is None:
                del entries[key]
            else:
                entries[key] = (value, expire, sequence, None)
        other._keys = SortedList(self._keys if len(entries) == len(self._entries) else entries)
        other.sequence = self.sequence
        return other

    def pin(self) -> int:
        """Keep the current state readable; return its number for the other methods."""
        sequence = self.sequence
        self._pins[sequence] = self._pins.get(sequence, 0) + 1
        self._newest_pin = sequence
        return sequence

    def unpin(self, sequence: int) -> None:
        """Release a pin."""
        count = self._pins[sequence] - 1
        if count:
            self._pins[sequence] = count
            return
        del self._pins[sequence]
        if not self._pins:
            self._newest_pin = -1
            self.kept, self._sweep_at = 0, SWEEP_FROM
            self._forget(FORGET_AT_ONCE)
        elif sequence == self._newest_pin:
            # Pins are made in ascending order, so the last remaining one is the newest.
            self._newest_pin = next(reversed(self._pins))

    @property
    def wants_sweep(self) -> bool:
        """Whether there are enough old versions for a sweep."""
        return self.kept >= self._sweep_at

    def sweep(self) -> None:
        """Drop the old versions that no pin can see."""
        pins = list(self._pins)
        kept = 0
        stale = set()
        for key in tuple(self._stale):
            entry = self._prune(self._entries[key], pins)
            if entry[0] is None and entry[3] is None:
                self._drop(key)
                continue
            self._entries[key] = entry
            older = entry[3]
            if older is not None:
                stale.add(key)
            while older is not None:
                kept += 1
                older = older[3]
        self._stale = stale
        self.kept = kept
        # The next sweep: at twice the versions that are left, so that the cost of sweeps per write is constant.
        self._sweep_at = max(SWEEP_FROM, 2 * kept)

    @staticmethod
    def _prune(entry: Entry, pins: list[int]) -> Entry:
        needed = []
        newer, older = entry[2], entry[3]
        while older is not None:
            # Needed if the oldest pin that can see this version cannot see the one that replaced it.
            at = bisect_left(pins, older[2])
            if at < len(pins) and pins[at] < newer:
                needed.append(older)
            newer, older = older[2], older[3]
        kept: Any = None
        for value, expire, sequence, _ in reversed(needed):
            # A removal without older versions is the same as no version.
            if value is not None or kept is not None:
                kept = (value, expire, sequence, kept)
        return (*entry[:3], kept)

    def forward(self, start: bytes, end: bytes | None, sequence: int | None = None) -> Iterator[Row]:
        """Yield key, value and expiry from start (inclusive) to end (exclusive, None: all) as of a pinned sequence."""
        return self._visible(self._keys.irange(start, end, (True, False)), sequence)

    def backward(self, start: bytes) -> Iterator[Row]:
        """Yield key, value and expiry from start (inclusive) down to the very first key."""
        return self._visible(self._keys.irange(None, start, (True, True), reverse=True), None)

    def _visible(self, keys: Iterator[bytes], sequence: int | None) -> Iterator[Row]:
        entries = self._entries
        for key in keys:
            value, expire, written, older = entries[key]
            if sequence is not None:
                while written > sequence and older is not None:
                    value, expire, written, older = older
                if written > sequence:
                    continue
            if value is not None:
                yield key, value, expire
