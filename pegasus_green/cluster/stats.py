"""Counters of a table's calls: cheap enough to be always on."""

from __future__ import annotations

from collections import Counter
from math import frexp, log

# A call that took from 2^(e-1) to 2^e seconds counts in bucket e. That is the exponent `math.frexp` gives, and as most
# are negative they index the list from its end, which makes counting a call one step.
BUCKETS = 64
# The mean of what lies in (b/2, b], spread evenly on a logarithmic scale, as a share of b.
_MEAN = 0.5 / log(2)


class TableStats:
    """What happened to the calls of one table.

    Attributes:
        histogram: Calls by the binary exponent of their duration in seconds.
        errors: Failed calls by class name.
        retries: Repeated attempts by the code of the error that caused them.
        bulk: Requests of the *_many verbs that ended well; they are not in the histogram.
        hedgeable: Reads that might have been hedged; hedges: backup requests sent; hedge_wins: those whose answer
            counted.
    """

    __slots__ = ("histogram", "errors", "retries", "bulk", "hedgeable", "hedges", "hedge_wins")

    def __init__(self) -> None:
        """Start at zero."""
        self.histogram = [0] * BUCKETS
        self.errors: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.bulk = self.hedgeable = self.hedges = self.hedge_wins = 0

    def count(self, seconds: float) -> None:
        """Count a call that ended well after so long."""
        self.histogram[frexp(seconds)[1]] += 1

    def add(self, other: TableStats) -> None:
        """Add the counts of another thread."""
        for index, calls in enumerate(other.histogram):
            self.histogram[index] += calls
        self.errors.update(other.errors)
        self.retries.update(other.retries)
        self.bulk += other.bulk
        self.hedgeable += other.hedgeable
        self.hedges += other.hedges
        self.hedge_wins += other.hedge_wins

    @property
    def calls(self) -> int:
        """Calls that ended, well or not."""
        return sum(self.histogram) + sum(self.errors.values()) + self.bulk

    def percentile(self, share: float) -> float:
        """Return an upper bound, within a factor of two, of the latency in seconds that this share of calls met."""
        wanted = share * sum(self.histogram)
        seen = 0
        for exponent in range(-BUCKETS // 2, BUCKETS // 2):
            seen += self.histogram[exponent]
            if seen and seen >= wanted:
                return float(2.0**exponent)
        return 0.0

    def latency_sum(self) -> float:
        """Return an estimate of the seconds that the calls of the histogram took together; at most 44 % off.

        Adding up the durations would cost each call more than counting it does. The estimate takes for each call the
        mean of its class, as if durations were spread evenly on a logarithmic scale.
        """
        return sum(upper * count for upper, count in self.latency().items()) * _MEAN

    def latency(self) -> dict[float, int]:
        """Return how many calls took up to that many seconds (and more than half of that), without empty classes."""
        exponents = range(-BUCKETS // 2, BUCKETS // 2)
        return {2.0**exponent: self.histogram[exponent] for exponent in exponents if self.histogram[exponent]}
