"""The client's counters over the last minutes."""

from __future__ import annotations

import os
import weakref
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import Any

import gevent

from ..client import Client

INTERVAL = 2.0
MINUTES = 5


@dataclass(frozen=True)
class Sample:
    """The sums of the client's counters at one moment."""

    at: float
    calls: int
    errors: int
    in_flight: int
    bytes_both_ways: int


def sample_of(stats: dict[str, Any], at: float) -> Sample:
    """Sum up the figures of ``client.stats()``."""
    servers, tables = stats["servers"].values(), stats["tables"].values()
    return Sample(
        at,
        sum(table["calls"] for table in tables),
        sum(sum(table["errors"].values()) for table in tables),
        sum(server["in_flight"] for server in servers),
        sum(server["bytes_sent"] + server["bytes_received"] for server in servers),
    )


class History:
    """Samples of the last minutes. A greenlet takes them after the first page was requested.

    Attributes:
        samples: The samples, oldest first.
    """

    def __init__(self, client: Client) -> None:
        self.samples: deque[Sample] = deque(maxlen=int(MINUTES * 60 / INTERVAL) + 1)
        self._client = weakref.ref(client)
        self._pid = 0
        self._greenlet: Any = None

    def start(self) -> None:
        """Start to take samples. A forked child starts its own series."""
        if self._pid != os.getpid():
            self.samples.clear()
            self._greenlet = None
            # The last step: if an exception comes before it, the next call repeats the others.
            self._pid = os.getpid()
        if self._greenlet is None or self._greenlet.dead:
            self.take()
            # It holds only a weak reference to the history, so it ends when the console is dropped.
            self._greenlet = gevent.spawn(_run, weakref.ref(self))

    def take(self) -> bool:
        """Take a sample; return whether the client is still open."""
        client = self._client()
        if client is None or client.closed:
            return False
        self.samples.append(sample_of(client.stats(), monotonic()))
        return True

    def rates(self, name: str) -> list[tuple[float, float]]:
        """Return the rates of a counter as (seconds before now, increase per second)."""
        samples = list(self.samples)
        if not samples:
            return []
        now = samples[-1].at
        return [
            (now - new.at, (getattr(new, name) - getattr(old, name)) / max(new.at - old.at, 1e-3))
            for old, new in pairwise(samples)
        ]

    def levels(self, name: str) -> list[tuple[float, float]]:
        """Return a figure of each sample as (seconds before now, number)."""
        samples = list(self.samples)
        return [(samples[-1].at - sample.at, float(getattr(sample, name))) for sample in samples]


def _run(owner: weakref.ref[History]) -> None:
    while True:
        gevent.sleep(INTERVAL, ref=False)
        history = owner()
        if history is None or not history.take():
            return
        del history
