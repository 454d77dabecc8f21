"""Leases: records that expire unless their holder renews them. Locks, elections and single runs are built on them.

All records of one name have the same hash key, so one request changes them together:

- ``fence``: a number that increases by one with every granted lease. It has no expiry.
- ``owner`` (``owner:0000``, ``owner:0001``, ... of a semaphore): the holder, as ``TOKEN FENCE RENEWALS IDENTITY``,
  with an expiry.

A lease is granted by one ``check_and_mutate``: if ``fence`` has not changed since the read that showed a free place,
write ``fence + 1`` and the owner. Every grant changes ``fence``. So the check passes only if no lease was granted since
the read, and the place is still free.

Each step is safe if its reply is lost, or if a copy of it arrives late:

- grant: the records are read again. The token is unique, so they show whether the request was applied. A copy that
  arrives later finds another ``fence``, and its check fails.
- renewal: the owner's value contains the number of renewals, and the check compares the whole value. So a late copy of
  an earlier renewal fails and cannot undo a newer one. If the reply of a renewal is lost, the holder assumes the
  earlier end.
- release: the check compares the token. A second or late release does not find the token.

If the caller ends (by an error or a kill) during a grant, a background greenlet releases the token. If that fails, too,
the place stays taken without a holder until the lease expires.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import monotonic, time
from typing import Any

import gevent

from ..client import Table
from ..errors import ForkedConnection, InvalidArgument, PegasusError
from ..model import CheckType
from ..operations.atomic import Mutations
from ..operations.base import CallInfo
from ..turns import Turn
from .errors import MOST_DOUBTFUL, LockError, is_doubtful
from .records import above_zero, doze, hub_of

FENCE = b"fence"
# A record with a TTL of n seconds lives for n - 1 to n seconds, because expiries are whole seconds. One more second is
# for the remaining time that the server returns, which is rounded, too.
ROUNDING = 2
_MOST_SECONDS = 30 * 86400


class Hold:
    """One granted lease, with the holder's knowledge of it.

    Attributes:
        place: Sort key of the owner record.
        token: Unique id of this grant.
        fence: The fencing token.
        value: The last known value of the owner record; empty if the lease does not exist any more.
        until: End of the lease in seconds of the monotonic clock, if it is not renewed.
        skew: Seconds by which the lease ends earlier on the server than by this machine's clock.
        pid: The process that it was granted to.
        told: Whether its loss has been reported.
        turn: The newest renewal. An interruption may leave one here that is over.
    """

    __slots__ = ("place", "token", "fence", "value", "until", "skew", "pid", "told", "turn")

    def __init__(self, place: bytes, value: bytes, until: float) -> None:
        """Store the facts of a grant."""
        token, fence, _ = value.split(b" ", 2)
        self.place, self.token, self.fence = place, token, int(fence)
        self.value = value
        self.until = until
        self.skew = 0.0
        self.pid = os.getpid()
        self.told = False
        self.turn: Turn | None = None

    def left(self) -> float:
        """Return the seconds for which the lease is certainly valid; 0 if it may have ended."""
        return max(self.until - monotonic(), 0.0)


def lease_seconds(timeout: float) -> float:
    """Check and return the seconds of a lease.

    Raises:
        InvalidArgument: It is less than one second or more than 30 days.
    """
    seconds = above_zero(timeout, "timeout")
    if not 1 <= seconds <= _MOST_SECONDS:
        raise InvalidArgument(f"timeout must be from 1 to {_MOST_SECONDS:,} seconds (30 days), not {timeout!r}")
    return seconds


class Places:
    """The places under one hash key that can be leased. Any number of greenlets may use one object."""

    __slots__ = ("table", "hash_key", "places", "seconds", "also", "fence_ttl")

    def __init__(
        self,
        table: Table[Any],
        hash_key: bytes,
        places: list[bytes],
        seconds: float,
        also: list[bytes] | None = None,
        fence_ttl: float | None = None,
    ) -> None:
        """Describe the places.

        Args:
            table: A handle without a codec.
            hash_key: Hash key of all records.
            places: Sort keys of the owner records.
            seconds: Duration of a lease.
            also: Sort keys of further records that ``look`` returns. While one exists, ``acquire`` takes no place.
            fence_ttl: Seconds that the fence stays after a grant, more than ``seconds``; None: forever.
        """
        self.table, self.hash_key, self.places, self.seconds = table, hash_key, places, seconds
        self.also = also or []
        self.fence_ttl = fence_ttl

    def look(self) -> dict[bytes, bytes]:
        """Return the existing records, all from the same moment."""
        rows = self.table.multi_get(self.hash_key, [FENCE, *self.places, *self.also])
        if not rows.complete:
            raise LockError(
                "the server does not return all places in one reply: use fewer places", table=self.table.name
            )
        return rows

    def free(self, rows: dict[bytes, bytes]) -> list[bytes]:
        """Return the places without a holder."""
        return [place for place in self.places if place not in rows]

    def grant(self, rows: dict[bytes, bytes], place: bytes, token: bytes, identity: bytes = b"") -> Hold | None:
        """Take a place that is free in these rows; None if another lease was granted since the read."""
        before = rows.get(FENCE)
        # The first fence is the current time in milliseconds. So it increases even if the record was lost.
        fence = int(time() * 1000) if before is None else _number(before) + 1
        value = b"%s %d 0 %s" % (token, fence, identity)
        begun = monotonic()
        changes = Mutations().put(FENCE, b"%d" % fence, ttl=self.fence_ttl)
        changes.put(place, value, ttl=self.seconds + ROUNDING)
        check = CheckType.NOT_EXIST if before is None else CheckType.BYTES_EQUAL
        if self.table.check_and_mutate(self.hash_key, FENCE, check, before, mutations=changes):
            return Hold(place, value, begun + self.seconds)
        return None

    def acquire(self, token: bytes, identity: bytes = b"", place: bytes | None = None) -> Hold | dict[bytes, bytes]:
        """Take a free place; return the records if there is none, or if there is a record of ``also``.

        Raises:
            LockError: The lease has already ended: the clocks differ too much, or this machine stalled.
            PegasusError: A request failed. A lease that may have been granted is released in the background.
        """
        begun: float | None = None
        doubtful = 0
        try:
            while True:
                rows = self.look()
                held = next((p for p in self.places if rows.get(p, b"").startswith(token + b" ")), None)
                if held is not None and begun is not None:
                    hold = Hold(held, rows[held], begun + self.seconds)
                    self._compare_clocks(hold)
                    return hold
                free = self.free(rows)
                if not free or any(name in rows for name in self.also):
                    return rows
                begun = begun or monotonic()
                try:
                    granted = self.grant(rows, place if place in free else free[0], token, identity)
                except PegasusError as error:
                    doubtful += 1
                    if doubtful == MOST_DOUBTFUL or not is_doubtful(error):
                        raise
                    continue  # the next read tells whether it was applied
                if granted is not None:
                    self._compare_clocks(granted)
                    return granted
                doze(0.0)  # another lease was granted; there may still be a free place
        except ForkedConnection:
            # The lease belongs to the parent.
            raise
        except BaseException:
            if begun is not None:
                self.abandon(token)
            raise

    def _compare_clocks(self, hold: Hold) -> None:
        """Measure by how many seconds the lease ends earlier on the server.

        The request carries an expiry: this machine's time plus the TTL. The server compares it with its own clock.
        """
        info = CallInfo()
        asked = monotonic()
        left = self.table.ttl(self.hash_key, hold.place, info=info)
        if info.hedged:  # the answer of a secondary, which may not have the record yet
            return
        at_least = asked + (0.0 if left is None else left - 1)
        hold.skew = max(0.0, hold.until - at_least)
        hold.until -= hold.skew
        if hold.left() <= 0:
            raise LockError(
                f"a lease of {self.seconds:g} s has already ended on the server: this machine's clock is behind"
                " the server's, or the machine stalled while the lease was taken; compare the clocks (NTP)",
                table=self.table.name,
            )

    def renew(self, hold: Hold, duration: Callable[[], float]) -> bool:
        """Extend a lease; False if it does not exist any more.

        The renewals of a lease wait for each other while it lasts, for at most the client's timeout. Those of other
        threads and of signal handlers do not wait. So renewals can still overlap.

        Args:
            hold: The lease.
            duration: Returns the seconds that the lease is to last from now on. It is called before each request.

        Raises:
            PegasusError: A request failed or a reply was lost. The lease is unchanged or renewed.
        """
        hub_of(self.table)  # the turn uses it
        # One deadline for all waits, because other renewals may come first again and again.
        until = min(hold.until, self.table.client._cluster.deadline(None, monotonic()))
        while (other := hold.turn) is not None and other.lasts and not other.mine:
            if not other.wait(until):
                break
        turn = hold.turn = Turn()
        try:
            return turn.run(self._renew, hold, duration)
        finally:
            # The context of a turn may hold the lock, which is renewed until nothing references it.
            if hold.turn is turn:
                hold.turn = None

    def _renew(self, hold: Hold, duration: Callable[[], float]) -> bool:
        while known := hold.value:
            token, fence, count, identity = known.split(b" ", 3)
            value = b"%s %s %d %s" % (token, fence, int(count) + 1, identity)
            seconds = duration()
            until = monotonic() + seconds - hold.skew
            hold.until = min(hold.until, until)  # in case it becomes shorter and the reply is lost
            result = self.table.check_and_set(
                self.hash_key,
                hold.place,
                CheckType.BYTES_EQUAL,
                known,
                value=value,
                ttl=seconds + ROUNDING,
                return_check_value=True,
            )
            if hold.value != known:
                continue  # another renewal has seen a newer value, and may have changed it again
            if result:
                hold.value, hold.until = value, until
                return True
            # It is the value of another renewal, whose reply was lost or is on its way.
            found = result.raw_check_value or b""
            hold.value = found if found.startswith(token + b" ") else b""
        hold.until = -math.inf
        return False

    def release(self, token: bytes, place: bytes, put: tuple[bytes, bytes, float | None] | None = None) -> bool:
        """Release a place, and store a record (sort key, value, TTL) in the same step; False if it was not held.

        Retries: up to twice if the reply is lost, which is safe. If the next reply shows another owner or none, the
            first request was applied or the lease had expired; the result is then True.
        """
        changes = Mutations().delete(place)
        if put is not None:
            changes.put(put[0], put[1], ttl=put[2])
        doubt = False
        for last in (False, False, True):
            try:
                check = CheckType.MATCH_PREFIX
                if self.table.check_and_mutate(self.hash_key, place, check, token + b" ", mutations=changes):
                    return True
                return doubt
            except PegasusError as error:
                if last or not is_doubtful(error):
                    raise
                doubt = True
        raise AssertionError("not reached")

    def abandon(self, token: bytes) -> None:
        """Release a token in the background, for a caller that must not wait."""
        gevent.spawn(self._release_quietly, token)

    def _release_quietly(self, token: bytes) -> None:
        try:
            for place in self.places:
                if self.release(token, place):
                    return
        except PegasusError:
            return  # it expires by itself


def _number(raw: bytes) -> int:
    try:
        return int(raw)
    except ValueError:
        raise LockError(f"the record {FENCE.decode()!r} holds {raw[:40]!r}, which is not a fencing token") from None
