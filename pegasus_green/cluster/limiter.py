"""A limit of requests per second, shared by all greenlets and native threads of a client.

Time is divided into slots, ``rate`` per second. Each request takes one. A request may take a free slot of the last
tenth of a second at once; otherwise it waits for the next free slot. So in any period of T seconds there are at most
``rate * (T + 0.1) + 2`` requests.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from ..transport.waits import wait

# Unused slots stay free for this many seconds, and at least one slot does.
BURST_SECONDS = 0.1
# Above this number of entries, past slots are dropped.
SWEEP_AT = 1000


class RequestLimiter:
    """Assigns the slots. It needs no lock, because ``dict.setdefault`` assigns a slot in one atomic step.

    Attributes:
        rate: Requests per second.
    """

    __slots__ = ("rate", "_burst", "_taken", "_free")

    def __init__(self, rate: float) -> None:
        """Start with all slots free."""
        self.rate = rate
        self._burst = max(1, int(rate * BURST_SECONDS))
        self._taken: dict[int, object] = {}
        # All slots before this one are known to be taken.
        self._free = 0

    def __repr__(self) -> str:
        """Show the rate."""
        return f"<RequestLimiter {self.rate:g}/s>"

    def wait_for_turn(self, ended: Any, deadline: float) -> bool:
        """Wait for a slot; yields.

        Args:
            ended: An event that ends the wait: the client is closed.
            deadline: Monotonic time; the slot must be before it.

        Returns:
            Whether the request has a slot. If there is none before the deadline, False is returned at once.
        """
        slot = self._take(deadline)
        if slot is None:
            return False
        at = slot / self.rate
        try:
            while (left := at - monotonic()) > 0 and not ended.ready():
                wait(ended, left)
        except BaseException:
            self._give_back(slot)
            raise
        return True

    def _take(self, deadline: float) -> int | None:
        """Take a slot and return its number; None if there is none before the deadline."""
        first = int(monotonic() * self.rate) - self._burst + 1
        if len(self._taken) > SWEEP_AT + self._burst:
            self._sweep(first)
        mark = object()
        slot = max(first, self._free)
        while slot < deadline * self.rate:
            if self._taken.setdefault(slot, mark) is mark:
                self._free = slot + 1
                return slot
            slot += 1
        return None

    def _give_back(self, slot: int) -> None:
        """Free the slot of a request that was not sent."""
        self._taken.pop(slot, None)
        self._free = min(self._free, slot)

    def _sweep(self, first: int) -> None:
        """Drop the slots before the first one that can be taken."""
        for slot in self._taken.copy():
            if slot < first:
                self._taken.pop(slot, None)
