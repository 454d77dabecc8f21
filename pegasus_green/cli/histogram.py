"""``count --histogram``: sizes of keys and values, rows per hash key, and the largest of them."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count
from typing import Any

import gevent

from ..results import Row
from ..scanner import Scanner
from .frame import App
from .output import Column, key, number
from .text import counted, show_size


class Sizes:
    """A histogram by powers of two: bucket n has the sizes from 2**(n-1) to below 2**n; bucket 0 has size 0."""

    def __init__(self) -> None:
        """Start empty."""
        self.buckets: Counter[int] = Counter()
        self.total = self.rows = self.largest = 0

    def add(self, size: int) -> None:
        """Count a size."""
        self.buckets[size.bit_length()] += 1
        self.total += size
        self.rows += 1
        self.largest = max(self.largest, size)

    def lines(self) -> list[dict[str, Any]]:
        """Return the buckets from the smallest to the largest non-empty one."""
        if not self.buckets:
            return []
        return [
            {
                "from": 2 ** (bits - 1) if bits else 0,
                "to": 2**bits - 1,
                "count": self.buckets[bits],
                "share": round(self.buckets[bits] / self.rows, 4),
            }
            for bits in range(min(self.buckets), max(self.buckets) + 1)
        ]

    def facts(self) -> dict[str, Any]:
        """Return all figures as plain values."""
        mean = self.total / self.rows if self.rows else 0.0
        return {"mean": round(mean, 1), "largest": self.largest, "total": self.total, "histogram": self.lines()}


class Largest:
    """The largest items."""

    def __init__(self, size: int) -> None:
        """Keep this many items."""
        self._size, self._heap, self._order = size, list[tuple[int, int, Any]](), count()

    def add(self, weight: int, what: Any) -> None:
        """Add an item if it is large enough."""
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, (weight, -next(self._order), what))
        elif self._heap and weight > self._heap[0][0]:
            heapq.heapreplace(self._heap, (weight, -next(self._order), what))

    def listed(self) -> list[tuple[int, Any]]:
        """Return the items, the largest first."""
        return [(weight, what) for weight, _, what in sorted(self._heap, reverse=True)]


class Measure:
    """The figures of the rows read so far; several greenlets add to it."""

    def __init__(self, largest: int) -> None:
        """Start empty."""
        self.hash_keys, self.sort_keys, self.values, self.rows_each = Sizes(), Sizes(), Sizes(), Sizes()
        self.largest_rows = Largest(largest)
        self.most_rows = Largest(largest)
        # The rows of the empty hash key are in all partitions.
        self.of_empty = [0, 0]

    def read(self, scanner: Scanner[Row[bytes]]) -> None:
        """Count the rows of one share of the table. In it, rows of one hash key are adjacent."""
        name: bytes | None = None
        rows = size = 0
        with scanner:
            for hash_key, sort_key, value in scanner:
                if hash_key != name:
                    self._end(name, rows, size)
                    name, rows, size = hash_key, 0, 0
                rows += 1
                row_size = len(hash_key) + len(sort_key) + len(value)
                size += row_size
                self.sort_keys.add(len(sort_key))
                self.values.add(len(value))
                self.largest_rows.add(row_size, (hash_key, sort_key))
            self._end(name, rows, size)

    def _end(self, name: bytes | None, rows: int, size: int) -> None:
        if name == b"":
            self.of_empty[0] += rows
            self.of_empty[1] += size
        elif name is not None:
            self._count(name, rows, size)

    def _count(self, name: bytes, rows: int, size: int) -> None:
        self.hash_keys.add(len(name))
        self.rows_each.add(rows)
        self.most_rows.add(rows, (name, size))

    def end(self) -> None:
        """Count what is known only at the end."""
        rows, size = self.of_empty
        if rows:
            self._count(b"", rows, size)


def measure(app: App, parallel: int, largest: int, **filters: Any) -> None:
    """Read the table and print its histogram."""
    found = Measure(largest)
    jobs = [gevent.spawn(found.read, scanner) for scanner in app.table.scanners(parallel, **filters)]
    try:
        gevent.joinall(jobs, raise_error=True)
    finally:
        gevent.killall(jobs, block=False)
    found.end()
    out = app.out
    parts = {
        "hash_key_bytes": found.hash_keys,
        "sort_key_bytes": found.sort_keys,
        "value_bytes": found.values,
        "rows_per_hash_key": found.rows_each,
    }
    largest_rows = [(*pair, size) for size, pair in found.largest_rows.listed()]
    most_rows = [(name, rows, size) for rows, (name, size) in found.most_rows.listed()]
    total = found.sort_keys.rows
    if not out.for_people:
        encode = out.keys.encode
        out.item(
            {
                "rows": total,
                "hash_keys": found.rows_each.rows,
                **{name: sizes.facts() for name, sizes in parts.items()},
                "largest_rows": [
                    {"hash_key": encode(first), "sort_key": encode(second), "bytes": size}
                    for first, second, size in largest_rows
                ],
                "hash_keys_with_most_rows": [
                    {"hash_key": encode(name), "rows": rows, "bytes": size} for name, rows, size in most_rows
                ],
            }
        )
        return
    out.done(f"{counted(total, 'row')}, {counted(found.rows_each.rows, 'hash key')}")
    for title, sizes in parts.items():
        show = f"{sizes.largest:,}" if title.startswith("rows") else show_size(sizes.largest)
        facts = sizes.facts()
        out.done(f"\n{title.replace('_', ' ')}: mean {facts['mean']:,}, largest {show}")
        lines = facts["histogram"]
        most = max((line["count"] for line in lines), default=1)
        rows = [
            (f"{line['from']:,} - {line['to']:,}", line["count"], "#" * round(40 * line["count"] / most))
            for line in lines
        ]
        out.rows([Column("range", right=True), number("count"), Column("")], rows)
    out.done("\nlargest rows")
    out.rows([key("hash_key"), key("sort_key"), number("bytes", show_size)], largest_rows)
    out.done("\nhash keys with the most rows")
    out.rows([key("hash_key"), number("rows"), number("bytes", show_size)], most_rows)
