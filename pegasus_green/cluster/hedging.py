"""Hedged reads: a read that is slow at the primary is also sent to a secondary; the first good answer counts."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent._waiter import Waiter

from ..options import HedgePolicy
from ..protocol.rpc import GET, MULTI_GET, TTL, Rpc
from ..transport.connection import Connection
from ..transport.handover import Outcome, left_ms
from ..transport.outbox import delay
from ..transport.pool import Pool
from .routing import Route
from .stats import TableStats

HEDGED = (GET, MULTI_GET, TTL)
# Of N successive reads of a table in one thread, fewer than max_ratio * N + BURST are hedged. If only the share of all
# reads were limited, every read of an overload could be hedged after a long time of fast reads.
BURST = 50
_STATUS = struct.Struct(">3si")
_ROWS = struct.Struct(">3sBi")


class _Leg:
    """Receives the outcome of one of the two requests, in the hub."""

    __slots__ = ("race", "backup", "connection", "seqid", "outcome")

    def __init__(self, race: Race, backup: bool, connection: Connection) -> None:
        self.race, self.backup, self.connection = race, backup, connection
        self.seqid = 0
        self.outcome: Outcome | None = None

    def switch(self, outcome: Outcome) -> None:
        if self.outcome is None:
            self.outcome = outcome
        self.race.wake()


class Race:
    """One read, sent to the primary and possibly to a secondary.

    A secondary may lag behind, so its "not found" and its empty results do not count. Its errors do not count either.
    If the secondary throttles, it never answers. If the primary answers an error, the call waits for the secondary for
    at most the delay of the policy, so a silent secondary does not block the next attempt.
    """

    def __init__(self, stats: TableStats, pool: Pool, policy: HedgePolicy) -> None:
        """Prepare the race; nothing is sent."""
        self._stats = stats
        self._pool = pool
        self._policy = policy
        self._legs: list[_Leg] = []
        self._sleeper: Any = None
        self._hub: Any = None

    def wake(self) -> None:
        """Make the caller check again; runs in the hub."""
        if self._sleeper is not None:
            self._sleeper.switch(None)

    def run(
        self,
        connection: Connection,
        rpc: Rpc,
        route: Route,
        partition_hash: int,
        argument: bytes,
        deadline: float,
        movable: Route | None,
    ) -> tuple[Outcome, bool]:
        """Return the outcome and whether it is the secondary's; yields, and cleans up however the wait ends."""
        now = monotonic()
        self._hub = connection.hub
        first = _Leg(self, False, connection)
        try:
            try:
                first.seqid = connection.start(
                    rpc, route, partition_hash, argument, deadline, left_ms(deadline, now), first, movable
                )
                if first.seqid:
                    self._legs.append(first)
                    self._sleep_for(self._policy.delay, lambda: first.outcome is None)
                    # Not before the wait: of many reads that start at the same time, only BURST would then be hedged.
                    self._stats.hedge_credit = min(self._stats.hedge_credit + self._policy.max_ratio, BURST - 1.0)
                    # Lost: this is a forked copy of the call, or its error is on the way.
                    if first.outcome is None and connection.lost is None:
                        self._send_backup(rpc, route, partition_hash, argument, deadline)
                    return self._finish(first, rpc)
            finally:
                self._abandon(first)
        except BaseException:
            # Do this even if the clean-up itself is interrupted.
            self._abandon(first)
            raise
        finally:
            # A leg refers to its race, so this would be a reference cycle.
            self._legs.clear()
        return connection.call(rpc, route, partition_hash, argument, deadline, now, movable), False

    def _abandon(self, first: _Leg) -> None:
        """Abandon the requests that are still in flight; may be called again."""
        for leg in (first, *self._legs):
            if leg.outcome is None:
                leg.connection.abandon(leg.seqid, leg)

    def _finish(self, first: _Leg, rpc: Rpc) -> tuple[Outcome, bool]:
        while True:
            for leg in self._legs:
                if leg.backup and leg.outcome is not None and _answers(rpc, leg.outcome):
                    self._stats.hedge_wins += 1
                    return leg.outcome, True
            if first.outcome is None:
                self._sleep(self._is_open)
                continue
            if not self._is_open() or _is_ok(rpc, first.outcome):
                return first.outcome, False
            self._sleep_for(self._policy.delay, self._is_open)
            if self._is_open():
                return first.outcome, False

    def _send_backup(self, rpc: Rpc, route: Route, partition_hash: int, argument: bytes, deadline: float) -> None:
        """Send the backup request if max_ratio allows it and a secondary is connected; never yields."""
        stats, pool = self._stats, self._pool
        if stats.hedge_credit <= 0:
            return
        secondaries = [address for address in route.secondaries if address != route.primary]
        random.shuffle(secondaries)
        for address in secondaries:
            peer = pool.peer(address, route.others.get(address, ""))
            if peer.connection is None:
                # A dial would make this call wait. A later call uses the connection.
                peer.dial_soon()
                continue
            leg = _Leg(self, True, peer.connection)
            # Stored before it is sent, so that an interrupted send is cleaned up, too.
            self._legs.append(leg)
            milliseconds = left_ms(deadline, monotonic())
            leg.seqid = peer.connection.start(
                rpc, route, partition_hash, argument, deadline, milliseconds, leg, None, None, True
            )
            if leg.seqid:
                stats.hedges += 1
                stats.hedge_credit -= 1
                return
            self._legs.remove(leg)

    def _is_open(self) -> bool:
        """Tell whether an outcome is still outstanding."""
        return any(leg.outcome is None for leg in self._legs)

    def _sleep_for(self, seconds: float, waiting: Callable[[], bool]) -> None:
        """Yield while waiting() is true, for at most this many seconds."""
        until = monotonic() + seconds
        # A timer may fire early, because the loop's clock may lag behind.
        while waiting() and (left := until - monotonic()) > 0:
            timer = self._hub.loop.timer(delay(left))
            try:
                self._sleep(waiting, timer)
            finally:
                timer.stop()
                timer.close()

    def _sleep(self, waiting: Callable[[], bool], timer: Any = None) -> None:
        """Yield until there is an outcome or the timer fires."""
        sleeper = self._sleeper = Waiter(self._hub)
        try:
            if timer is not None:
                timer.start(sleeper.switch, None)
            # An outcome that came before _sleeper was set has woken nobody.
            if waiting():
                sleeper.get()
        finally:
            self._sleeper = None


def _is_ok(rpc: Rpc, outcome: Outcome) -> bool:
    if not isinstance(outcome, (bytes, memoryview)) or len(outcome) < rpc.body_offset + 15:
        return False
    return outcome[4 : 4 + len(rpc.ok_head)] == rpc.ok_head


def _answers(rpc: Rpc, outcome: Outcome) -> bool:
    """Tell whether a secondary's reply has a result: status 0, and rows if the reply is a list of rows."""
    if not _is_ok(rpc, outcome):
        return False
    assert isinstance(outcome, (bytes, memoryview))
    if _STATUS.unpack_from(outcome, rpc.body_offset) != (b"\x08\0\1", 0):
        return False
    if rpc is not MULTI_GET:
        return True
    head, _, count = _ROWS.unpack_from(outcome, rpc.body_offset + 7)
    return bool(head == b"\x0f\0\2" and count > 0)
