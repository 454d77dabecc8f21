"""Leases: records that expire unless their holder renews them; locks, elections and single runs consist of them.

All records of one name lie under one hash key, so that one request changes them together:

- ``fence``: a number that grows by one with every lease that is granted. It has no expiry.
- ``owner`` (``owner:0000``, ``owner:0001``, ... of a semaphore): the holder, as ``TOKEN FENCE RENEWALS IDENTITY``,
  with an expiry.

A lease is granted by one ``check_and_mutate``: if ``fence`` still is what was read together with a free place, write
``fence + 1`` and the owner. Everybody who is granted a lease changes ``fence``. So the check passes only if nobody was
granted one since the read, and the place is still free.

Why each step is safe when its reply is lost, or when a copy of it arrives late:

- grant: the records are read again. The token, which no other call uses, tells whether the request was applied. A copy
  that arrives later finds another ``fence``, and its check fails.
- renewal: the owner's value counts the renewals, and the check compares all of it. A late copy of an earlier renewal
  fails, so it cannot undo a newer one. When a renewal's reply is lost, the holder assumes the earlier end.
- release: the check compares the token. A second release, or one that comes too late, finds no such token.

If a caller ends (by an error or a kill) while a grant is under way, a greenlet in the background releases the token.
If that fails, too, nobody has the place until the lease expires.
"""

from __future__ import annotations

import math
import os
from time import monotonic, time
from typing import Any

import gevent

from ..client import Table
from ..errors import InvalidArgument, PegasusError
from ..model import CheckType
from ..operations.atomic import Mutations
from ..operations.base import CallInfo
from .errors import LockError
from .records import above_zero

FENCE = b"fence"
# A record with a TTL of n seconds lives between n - 1 and n, since the wire counts whole seconds. One more is room for
# what the server says is left, which is rounded as well.
ROUNDING = 2
_MOST_SECONDS = 30 * 86400


class Hold:
    """One granted lease, as its holder knows it.

    Attributes:
        place: The owner record's sort key.
        token: What identifies this grant.
        fence: Its fencing token.
        value: The owner record's value as far as it is known.
        until: When it ends, in seconds of the monotonic clock, unless it is renewed.
        skew: Seconds by which the server lets it end earlier than this machine's clock says.
        pid: The process that it was granted to.
    """

    __slots__ = ("place", "token", "fence", "value", "until", "skew", "pid")

    def __init__(self, place: bytes, value: bytes, until: float) -> None:
        """Note what was granted."""
        token, fence, _ = value.split(b" ", 2)
        self.place, self.token, self.fence = place, token, int(fence)
        self.value = value
        self.until = until
        self.skew = 0.0
        self.pid = os.getpid()

    def left(self) -> float:
        """Return the seconds that the lease certainly goes on; 0 when it may have ended."""
        return max(self.until - monotonic(), 0.0)


def lease_seconds(timeout: float) -> float:
    """Return the seconds of a lease.

    Raises:
        InvalidArgument: Less than a second, or more than 30 days.
    """
    seconds = above_zero(timeout, "timeout")
    if not 1 <= seconds <= _MOST_SECONDS:
        raise InvalidArgument(f"timeout must be from 1 to {_MOST_SECONDS:,} seconds (30 days), not {timeout!r}")
    return seconds


class Places:
    """The places under one hash key that can be leased; any number of greenlets may use it."""

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
            table: A handle without codec.
            hash_key: Of all records.
            places: Sort keys of the owner records.
            seconds: How long a lease lives.
            also: Sort keys of further records that ``look`` returns.
            fence_ttl: Seconds that the fence is kept after a grant, more than ``seconds``; None: for ever.
        """
        self.table, self.hash_key, self.places, self.seconds = table, hash_key, places, seconds
        self.also = also or []
        self.fence_ttl = fence_ttl

    def look(self) -> dict[bytes, bytes]:
        """Return the records that are there, of one moment."""
        rows = self.table.multi_get(self.hash_key, [FENCE, *self.places, *self.also])
        if not rows.complete:
            raise LockError("the server does not return all places in one reply: use fewer", table=self.table.name)
        return rows

    def free(self, rows: dict[bytes, bytes]) -> list[bytes]:
        """Return the places that nobody holds."""
        return [place for place in self.places if place not in rows]

    def grant(self, rows: dict[bytes, bytes], place: bytes, token: bytes, identity: bytes = b"") -> Hold | None:
        """Take a place that was free in these rows; None: somebody else was granted a lease since."""
        before = rows.get(FENCE)
        # Without a record the count begins with the time: should the record be lost, it still grows.
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
        """Take a free place, or return the records when none is free.

        Raises:
            LockError: The clocks differ so much that the lease has ended already.
            PegasusError: Of the requests. What may have been granted is released in the background.
        """
        begun: float | None = None
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
                    if not error.outcome_unknown:
                        raise
                    continue  # the next look tells whether it was applied
                if granted is not None:
                    self._compare_clocks(granted)
                    return granted
                gevent.sleep(0)  # somebody else was granted a lease: there may be a free place all the same
        except BaseException:
            if begun is not None:
                self.abandon(token)
            raise

    def _compare_clocks(self, hold: Hold) -> None:
        """Find out how much earlier than here the lease ends by the server's clock.

        The expiry that goes over the wire is this machine's time plus the TTL; the server compares it with its own.
        """
        info = CallInfo()
        asked = monotonic()
        left = self.table.ttl(self.hash_key, hold.place, info=info)
        if info.hedged:  # a secondary, which may not know the record yet
            return
        at_least = asked + (0.0 if left is None else left - 1)
        hold.skew = max(0.0, hold.until - at_least)
        hold.until -= hold.skew
        if hold.left() <= 0:
            raise LockError(
                f"a lease of {self.seconds:g} s has no time left at the server: this machine's clock is behind"
                " the server's, or the machine stalled while the lease was taken; compare the clocks (NTP)",
                table=self.table.name,
            )

    def renew(self, hold: Hold, seconds: float) -> bool:
        """Let a lease live so many seconds from now; False: it is not there any more.

        Raises:
            PegasusError: The records cannot be reached, or a reply was lost; the lease is as it was, or renewed.
        """
        while True:
            token, fence, count, identity = hold.value.split(b" ", 3)
            value = b"%s %s %d %s" % (token, fence, int(count) + 1, identity)
            until = monotonic() + seconds - hold.skew
            hold.until = min(hold.until, until)  # where it is made shorter and the reply is lost
            result = self.table.check_and_set(
                self.hash_key,
                hold.place,
                CheckType.BYTES_EQUAL,
                hold.value,
                value=value,
                ttl=seconds + ROUNDING,
                return_check_value=True,
            )
            if result:
                hold.value, hold.until = value, until
                return True
            found = result.raw_check_value
            if found is None or not found.startswith(hold.token + b" "):
                hold.until = -math.inf
                return False
            hold.value = found  # an earlier renewal, whose reply was lost, was applied

    def release(self, token: bytes, place: bytes, put: tuple[bytes, bytes, float | None] | None = None) -> bool:
        """Give a place back, and store a record (sort key, value, TTL) in the same step; False: it was not held.

        Retries: repeated twice when the reply is lost, which is harmless. Then a reply that tells of another owner, or
            of none, means that the first request was applied or the lease had expired; it is taken for applied.
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
                if last or not error.outcome_unknown:
                    raise
                doubt = True
        raise AssertionError("not reached")

    def abandon(self, token: bytes) -> None:
        """Release a token in the background, for a caller that must not wait any more."""
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
        raise LockError(f"the record {FENCE.decode()!r} holds {raw[:40]!r}, which no lock wrote") from None
