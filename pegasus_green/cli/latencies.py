"""A histogram of latencies."""

from __future__ import annotations

from collections import Counter


class Latencies:
    """A histogram of latencies: exact up to 63 microseconds, then in steps of 3 %, up to hours.

    Attributes:
        counts: Number of calls by step.
        total: Number of calls.
        worst: Largest latency in microseconds.
    """

    __slots__ = ("counts", "total", "worst")

    def __init__(self) -> None:
        """Start empty."""
        self.counts: Counter[int] = Counter()
        self.total = 0
        self.worst = 0

    def add(self, seconds: float) -> None:
        """Count one call."""
        micros = int(seconds * 1e6)
        shift = max(micros.bit_length() - 6, 0)
        self.counts[(shift << 5) + (micros >> shift)] += 1
        self.total += 1
        self.worst = max(self.worst, micros)

    def merge(self, other: Latencies) -> None:
        """Add the calls of another histogram."""
        self.counts.update(other.counts)
        self.total += other.total
        self.worst = max(self.worst, other.worst)

    def percentile(self, share: float) -> float:
        """Return the milliseconds within which this share of the calls ended; 0.0 without calls."""
        left = share * self.total
        for step in sorted(self.counts):
            left -= self.counts[step]
            if left <= 0:
                shift = max((step >> 5) - 1, 0)
                upper = ((step - (shift << 5)) + 1 << shift) - 1
                return min(upper, self.worst) / 1000
        return 0.0
