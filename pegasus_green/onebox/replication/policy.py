"""The checks that a table's envs require before a replica serves a request: denials, throttling, hashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

READ_THROTTLING = "replica.read_throttling"
WRITE_THROTTLING = "replica.write_throttling"
WRITE_SIZE_THROTTLING = "replica.write_throttling_by_size"
READ_SIZE_THROTTLING = "replica.read_throttling_by_size"
BACKUP_THROTTLING = "replica.backup_request_throttling"
DENY = "replica.deny_client_request"
VALIDATE_HASH = "replica.split.validate_partition_hash"
_COUNTED = (READ_THROTTLING, WRITE_THROTTLING, WRITE_SIZE_THROTTLING, BACKUP_THROTTLING)
DENIALS = frozenset(f"{how}*{what}" for how in ("timeout", "reconfig") for what in ("read", "write", "all"))

Verdict = tuple[Literal["pass", "delay", "reject"], int]
PASS: Verdict = ("pass", 0)
# In release 2.6. Up to 2.5 they were powers of ten.
_UNITS = {"K": 1 << 10, "M": 1 << 20}
_U64 = 1 << 64


def _units(text: str) -> int | str:
    """Return the number in "200", "20K" or "2M", or a real server's hint for another text."""
    factor = _UNITS.get(text[-1:], 1)
    digits = text[:-1] if factor > 1 else text
    number = _unsigned(digits)
    if number is None:
        return f"'{digits}' should be an unsigned integer"
    return number * factor if number * factor < _U64 else f"'{digits}' result is overflow"


def _unsigned(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) < _U64 else None


class Throttle(NamedTuple):
    """A parsed throttling env: thresholds per second and their delays in milliseconds; 0: not used."""

    delay_from: int = 0
    delay_ms: int = 0
    reject_from: int = 0
    reject_ms: int = 0


def _parse_throttle(text: str) -> Throttle | str:
    """Parse an env such as "2000*delay*100,3000*reject*200"; return a real server's hint for an invalid one."""
    found: dict[str, tuple[int, int]] = {}
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        pieces = part.split("*")
        if len(pieces) != 3:
            return f"The field count of '{part}' separated by '*' must be 3"
        units = _units(pieces[0])
        if isinstance(units, str):
            return units
        if pieces[1] not in ("delay", "reject"):
            return f"'{pieces[1]}' should be 'delay' or 'reject'"
        milliseconds = _unsigned(pieces[2])
        if milliseconds is None:
            return f"'{pieces[2]}' should be an unsigned integer"
        if pieces[1] in found:
            return f"duplicate '{pieces[1]}' config"
        found[pieces[1]] = (units, milliseconds)
    return (
        Throttle(*found.get("delay", (0, 0)), *found.get("reject", (0, 0))) if parts else "The value shouldn't be empty"
    )


def _parse_read_size(text: str) -> int | str:
    """Return the bytes per second of "2000", "20M" or "2000*reject*0" (0: no limit), or a real server's hint."""
    units = _units(text)
    if isinstance(units, int) and units > 0:
        return units
    throttle = _parse_throttle(text)
    if isinstance(throttle, str):
        return throttle
    if not throttle.reject_from:
        # A delay alone is accepted and has no effect.
        return 0 if "*delay*" in text and "," not in text else "reject value should be greater than 0"
    return throttle.reject_from


def fault_in_throttle(text: str) -> str | None:
    """Return why a meta server refuses a throttling env; None if it accepts it."""
    found = _parse_throttle(text)
    return found if isinstance(found, str) else None


def fault_in_read_size(text: str) -> str | None:
    """Return why a meta server refuses an env that limits reads by size; None if it accepts it."""
    found = _parse_read_size(text)
    return found if isinstance(found, str) else None


class Counter:
    """Throttling of one partition by units per second."""

    __slots__ = ("text", "_throttle", "_second", "_units", "_delay_from", "_reject_from")

    def __init__(self, text: str, throttle: Throttle, partition_count: int) -> None:
        """Compute the partition's share of the table's thresholds."""
        self.text = text
        self._throttle = throttle
        self._second = -1
        self._units = 0
        # The server computes it the same way: each partition gets its share plus one.
        self._delay_from = throttle.delay_from // partition_count + 1 if throttle.delay_from else 0
        self._reject_from = throttle.reject_from // partition_count + 1 if throttle.reject_from else 0

    def judge(self, now: float, units: int, timeout_ms: int) -> Verdict:
        """Count a request; return its verdict and the delay in milliseconds."""
        second = int(now)
        if second != self._second:
            self._second, self._units = second, 0
        self._units += units
        if self._reject_from and self._units > self._reject_from:
            self._units -= units
            return "reject", self._capped(self._throttle.reject_ms, timeout_ms)
        if self._delay_from and self._units > self._delay_from:
            return "delay", self._capped(self._throttle.delay_ms, timeout_ms)
        return PASS

    @staticmethod
    def _capped(milliseconds: int, timeout_ms: int) -> int:
        return min(milliseconds, timeout_ms // 2) if timeout_ms > 0 else milliseconds


class Bucket:
    """Throttling of reads by size: a bucket with the bytes of one second."""

    __slots__ = ("rate", "_left", "_at")

    def __init__(self, rate: int) -> None:
        """Start full."""
        self.rate = rate
        self._left = float(rate)
        self._at = -1.0

    def available(self, now: float) -> bool:
        """Tell whether bytes are left."""
        if self._at >= 0:
            self._left = min(float(self.rate), self._left + (now - self._at) * self.rate)
        self._at = now
        return self._left > 0

    def take(self, size: int) -> None:
        """Take the bytes that a read returned; the bucket may get below zero. A read above its size takes nothing."""
        if size <= self.rate:
            self._left -= size


class Policy:
    """The checks of one replica.

    Attributes:
        trivial: Whether there is no check.
        deny: "timeout*read" and similar values; "": none.
        validate_hash: Whether the header's partition hash must belong to the partition.
    """

    __slots__ = (
        "trivial",
        "deny",
        "validate_hash",
        "counters",
        "reads",
        "writes",
        "write_sizes",
        "backups",
        "read_sizes",
    )

    def __init__(self, envs: Mapping[str, str], partition_count: int, before: Policy | None = None) -> None:
        """Compile envs. Counters whose env has not changed keep their counts."""
        deny = envs.get(DENY, "")
        self.deny = deny if deny in DENIALS else ""
        self.validate_hash = envs.get(VALIDATE_HASH) == "true"
        old = before.counters if before else {}
        self.counters: dict[str, Counter | None] = {
            name: _counter(envs, name, partition_count, old.get(name)) for name in _COUNTED
        }
        self.reads, self.writes = self.counters[READ_THROTTLING], self.counters[WRITE_THROTTLING]
        self.write_sizes, self.backups = self.counters[WRITE_SIZE_THROTTLING], self.counters[BACKUP_THROTTLING]
        size = _parse_read_size(envs.get(READ_SIZE_THROTTLING, ""))
        rate = size // partition_count if isinstance(size, int) else 0
        kept = before.read_sizes if before else None
        self.read_sizes: Bucket | None = (kept if kept and kept.rate == rate else Bucket(rate)) if rate else None
        checks = (*self.counters.values(), self.read_sizes)
        self.trivial = not self.deny and not self.validate_hash and all(check is None for check in checks)

    def denies(self, kind: str) -> str:
        """Return how requests of a kind ("read", "write") are denied: "timeout", "reconfig"; "": they are not."""
        how, _, what = self.deny.partition("*")
        return how if what in (kind, "all") else ""


def _counter(envs: Mapping[str, str], name: str, partition_count: int, before: Counter | None) -> Counter | None:
    text = envs.get(name, "")
    throttle = _parse_throttle(text)
    if isinstance(throttle, str) or not (throttle.delay_from or throttle.reject_from):
        return None
    if before is not None and before.text == text:
        return before
    return Counter(text, throttle, partition_count)
