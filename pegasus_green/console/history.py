"""The client's counters of the last minutes."""

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
    """The sums of the client's counters at one time."""

    at: float
    calls: int
    errors: int
    in_flight: int
    bytes_both_ways: int


def sample_of(stats: dict[str, Any], at: float) -> Sample:
    """Add up what ``client.stats()`` says."""
    servers, tables = stats["servers"].values(), stats["tables"].values()
    return Sample(
        at,
        sum(table["calls"] for table in tables),
        sum(sum(table["errors"].values()) for table in tables),
        sum(server["in_flight"] for server in servers),
        sum(server["bytes_sent"] + server["bytes_received"] for server in servers),
    )


class History:
    """Samples of the last minutes, taken by a greenlet that begins with the first page.

    Attributes:
        samples: The newest one last.
    """

    def __init__(self, client: Client) -> None:
        self.samples: deque[Sample] = deque(maxlen=int(MINUTES * 60 / INTERVAL) + 1)
        self._client = weakref.ref(client)
        self._pid = 0
        self._greenlet: Any = None

    def start(self) -> None:
        """Take samples from now on; a forked child begins its own series."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.samples.clear()
            self._greenlet = None
        if self._greenlet is None or self._greenlet.dead:
            self.take()
            # It knows the history only weakly, so that a dropped console ends it.
            self._greenlet = gevent.spawn(_run, weakref.ref(self))

    def take(self) -> bool:
        """Note the counters of now; return whether the client is still open."""
        client = self._client()
        if client is None or client.closed:
            return False
        self.samples.append(sample_of(client.stats(), monotonic()))
        return True

    def rates(self, name: str) -> list[tuple[float, float]]:
        """Return how fast a counter grew, as (seconds before now, a second)."""
        samples = list(self.samples)
        if not samples:
            return []
        now = samples[-1].at
        return [
            (now - new.at, (getattr(new, name) - getattr(old, name)) / max(new.at - old.at, 1e-3))
            for old, new in pairwise(samples)
        ]

    def levels(self, name: str) -> list[tuple[float, float]]:
        """Return a number of each sample, as (seconds before now, number)."""
        samples = list(self.samples)
        return [(samples[-1].at - sample.at, float(getattr(sample, name))) for sample in samples]


def _run(owner: weakref.ref[History]) -> None:
    while True:
        gevent.sleep(INTERVAL, ref=False)
        history = owner()
        if history is None or not history.take():
            return
        del history
