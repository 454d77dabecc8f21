"""A limit of requests per second, shared by all greenlets and native threads of a client.

Time is divided into slots, ``rate`` per second. Each request takes one. A request may take a free slot of the last
tenth of a second at once; otherwise it waits for the next free slot. So in any period of T seconds there are at most
``rate * (T + 0.1) + 2`` requests.
"""

from __future__ import annotations

import weakref
from heapq import heappop, heappush
from time import monotonic
from typing import Any

from ..transport import fork
from ..transport.waits import wait

# Unused slots stay free for this many seconds, and at least one slot does.
BURST_SECONDS = 0.1
# Past slots are dropped above this number of entries. If many entries stay, past slots are dropped again only when the
# number of entries has doubled.
SWEEP_AT = 1000
# Maximum number of limiters that are kept without a user. The next handle of the same table continues with its limiter.
MAX_KEPT = 128


class RequestLimiter:
    """Assigns the slots. It needs no lock, because ``dict.setdefault`` assigns a slot in one atomic step.

    Limiters of the same table and rate are equal, so that ``Limiters`` finds them.

    Attributes:
        rate: Requests per second.
        name: The table; "" means all tables.
    """

    __slots__ = ("rate", "name", "_burst", "_taken", "_free", "_given_back", "_sweep_at", "_generation", "__weakref__")

    def __init__(self, rate: float, name: str = "") -> None:
        """Start with all slots free."""
        self.rate, self.name = rate, name
        self._burst = max(1, int(rate * BURST_SECONDS))
        self._free_all()

    def _free_all(self) -> None:
        # Each slot belongs to a call: to a tuple of the event that ends its wait.
        self._taken: dict[int, tuple[Any]] = {}
        # All slots before this one are known to be taken, or given back. The slots given back are a heap.
        self._free = 0
        self._given_back: list[int] = []
        self._sweep_at = SWEEP_AT + self._burst
        # Last: if this is interrupted, the next call does it again.
        self._generation = fork.generation()

    def __repr__(self) -> str:
        """Show the rate."""
        return f"<RequestLimiter {self.rate:g}/s>"

    def __eq__(self, other: object) -> bool:
        """Compare table and rate."""
        return isinstance(other, RequestLimiter) and (self.name, self.rate) == (other.name, other.rate)

    def __hash__(self) -> int:
        """Return a hash of table and rate."""
        return hash((self.name, self.rate))

    def wait_for_turn(self, ended: Any, deadline: float) -> bool:
        """Wait for a slot; yields.

        Args:
            ended: An event that ends the wait: the client is closed.
            deadline: Monotonic time; the slot must be before it.

        Returns:
            Whether the request has a slot. If there is none before the deadline, False is returned at once.
        """
        if self._generation != fork.generation():
            # The copies of the parent's calls send nothing in this process.
            self._free_all()
        mine = (ended,)
        slot = self._take(deadline, mine)
        if slot is None:
            return False
        at = slot / self.rate
        try:
            while (left := at - monotonic()) > 0 and not ended.ready():
                wait(ended, left)
        except BaseException:
            self._give_back(slot, mine)
            raise
        return True

    def forget(self, ended: Any) -> None:
        """Free the slots of the calls that wait with this event: their event loop has ended, so they never continue."""
        now = monotonic() * self.rate
        for slot, call in self._taken.copy().items():
            if slot > now and call[0] is ended:
                self._give_back(slot, call)

    def _take(self, deadline: float, mine: tuple[Any]) -> int | None:
        """Take a slot for a call and return its number; None if there is none before the deadline."""
        first = int(monotonic() * self.rate) - self._burst + 1
        if len(self._taken) > self._sweep_at:
            self._sweep(first)
        end = deadline * self.rate
        while (slot := self._next_given_back()) is not None:
            if slot >= end:
                # All other free slots are later.
                heappush(self._given_back, slot)
                return None
            if slot >= first and self._taken.setdefault(slot, mine) is mine:
                return slot
        slot = max(first, self._free)
        while slot < end:
            if self._taken.setdefault(slot, mine) is mine:
                self._free = slot + 1
                return slot
            slot += 1
        return None

    def _next_given_back(self) -> int | None:
        """Take the earliest slot that was given back; another thread may take one at the same time."""
        try:
            return heappop(self._given_back)
        except IndexError:
            return None

    def _give_back(self, slot: int, call: tuple[Any]) -> None:
        """Free the slot of a call that has sent no request."""
        if self._taken.get(slot) is call:
            del self._taken[slot]
            heappush(self._given_back, slot)

    def _sweep(self, first: int) -> None:
        """Drop the slots before the first one that can be taken."""
        for slot in self._taken.copy():
            if slot < first:
                self._taken.pop(slot, None)
        # Without this, each request would walk through a long backlog, which has no past slots.
        self._sweep_at = max(SWEEP_AT + self._burst, 2 * len(self._taken))


class Limiters:
    """The limiters of a client. All native threads share them.

    A limiter stays while a handle uses it. Without users, the newest ``MAX_KEPT`` stay. So the client does not grow if
    an application takes table names from its requests.
    """

    __slots__ = ("_all", "_newest")

    def __init__(self) -> None:
        """Start empty."""
        # Key and value refer to the same limiter. A dead reference equals no other one, so it is never in the way.
        self._all: weakref.WeakKeyDictionary[RequestLimiter, weakref.ref[RequestLimiter]] = weakref.WeakKeyDictionary()
        self._newest: dict[RequestLimiter, None] = {}

    def __len__(self) -> int:
        """Return the number of limiters."""
        return len(self._all)

    def forget(self, ended: Any) -> None:
        """See ``RequestLimiter.forget``."""
        for limiter in list(self._all):
            limiter.forget(ended)

    def limiter(self, name: str, rate: float) -> RequestLimiter:
        """Return the limiter of a table ("" means all tables) for a rate."""
        new = RequestLimiter(rate, name)
        found: RequestLimiter | None = None
        while found is None:
            # One atomic step decides which thread stores its limiter. None: it was dropped since then.
            found = self._all.setdefault(new, weakref.ref(new))()
        self._newest.pop(found, None)
        self._newest[found] = None
        for oldest in list(self._newest)[:-MAX_KEPT]:
            self._newest.pop(oldest, None)
        return found
