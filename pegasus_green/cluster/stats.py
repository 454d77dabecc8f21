"""Counters of a table's calls; they are cheap, so they are always on."""

from __future__ import annotations

from collections import Counter
from math import frexp, log

# A call that took from 2^(e-1) to 2^e seconds counts in bucket e, the exponent of `math.frexp`. Most exponents are
# negative and index the list from its end, so counting a call is one step.
BUCKETS = 64
# The mean of durations in (b/2, b] that are evenly distributed on a logarithmic scale, as a share of b.
_MEAN = 0.5 / log(2)


class TableStats:
    """The counters of the calls of one table.

    Attributes:
        histogram: Calls by the binary exponent of their duration in seconds.
        errors: Failed calls by class name.
        retries: Retries by the code of the error that caused them.
        bulk: Successful requests of the *_many verbs; they are not in the histogram.
        hedgeable: Reads that could be hedged; hedges: backup requests sent; hedge_wins: backup requests whose answer
            was used.
        hedge_credit: If above 0, the next slow read may be hedged. Each read adds its ``max_ratio``, up to a limit, and
            each backup request costs 1.
        row_size: Largest average size of the rows in a reply to a scan, in bytes; 0: no batch was full yet. It is no
            counter.
    """

    __slots__ = (
        "histogram",
        "errors",
        "retries",
        "bulk",
        "hedgeable",
        "hedges",
        "hedge_wins",
        "hedge_credit",
        "row_size",
    )

    def __init__(self) -> None:
        """Start at zero."""
        self.histogram = [0] * BUCKETS
        self.errors: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.bulk = self.hedgeable = self.hedges = self.hedge_wins = 0
        self.hedge_credit = 0.0
        self.row_size = 0

    def count(self, seconds: float) -> None:
        """Count a successful call of this duration."""
        self.histogram[frexp(seconds)[1]] += 1

    def add(self, other: TableStats) -> None:
        """Add the counts of another thread."""
        for index, calls in enumerate(other.histogram):
            self.histogram[index] += calls
        # The other thread may count on. A copy is one atomic step, and Counter.update is not.
        self.errors.update(dict(other.errors))
        self.retries.update(dict(other.retries))
        self.bulk += other.bulk
        self.hedgeable += other.hedgeable
        self.hedges += other.hedges
        self.hedge_wins += other.hedge_wins
        self.row_size = max(self.row_size, other.row_size)

    @property
    def calls(self) -> int:
        """Calls that ended, with or without an error."""
        return sum(self.histogram) + sum(self.errors.values()) + self.bulk

    def percentile(self, share: float) -> float:
        """Return an upper bound, within a factor of two, of this percentile of the latency in seconds."""
        wanted = share * sum(self.histogram)
        seen = 0
        for exponent in range(-BUCKETS // 2, BUCKETS // 2):
            seen += self.histogram[exponent]
            if seen and seen >= wanted:
                return float(2.0**exponent)
        return 0.0

    def latency_sum(self) -> float:
        """Return an estimate of the sum of the durations in the histogram, in seconds; the error is at most 44 %.

        To sum up the durations would cost each call more than the counting. The estimate uses for each call the mean
        of its bucket, with durations evenly distributed on a logarithmic scale.
        """
        return sum(upper * count for upper, count in self.latency().items()) * _MEAN

    def latency(self) -> dict[float, int]:
        """Return the number of calls by upper bound in seconds (the lower bound is half of it), without empty ones."""
        exponents = range(-BUCKETS // 2, BUCKETS // 2)
        return {2.0**exponent: self.histogram[exponent] for exponent in exponents if self.histogram[exponent]}
