"""What a table's envs make a replica check before it serves a request: denials, throttling, hashes."""

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
_UNITS = {"K": 1000, "M": 1000 * 1000}


def parse_units(text: str) -> int | None:
    """Return the number of "200", "20K" or "2M"; None when it is none."""
    factor = _UNITS.get(text[-1:], 1)
    digits = text[:-1] if factor > 1 else text
    return int(digits) * factor if digits.isascii() and digits.isdigit() else None


class Throttle(NamedTuple):
    """A parsed throttling env: thresholds per second and the milliseconds that go with them; 0: not used."""

    delay_from: int
    delay_ms: int
    reject_from: int
    reject_ms: int


def parse_throttle(text: str) -> Throttle | None:
    """Return what "2000*delay*100,3000*reject*200" says; None when it says nothing legal."""
    values = {"delay": (0, 0), "reject": (0, 0)}
    if not text:
        return Throttle(0, 0, 0, 0)
    seen = set()
    for part in text.split(","):
        pieces = part.strip().split("*")
        if len(pieces) != 3 or pieces[1] not in values or pieces[1] in seen:
            return None
        units = parse_units(pieces[0])
        if units is None or not pieces[2].isdigit():
            return None
        seen.add(pieces[1])
        values[pieces[1]] = (units, int(pieces[2]))
    return Throttle(*values["delay"], *values["reject"])


def parse_read_size(text: str) -> int | None:
    """Return the bytes per second of "2000", "20M" or "2000*reject*0"; 0: no limit, None: not legal."""
    if not text:
        return 0
    throttle = parse_throttle(text) if "*" in text else None
    if throttle is not None:
        return throttle.reject_from if not throttle.delay_from else None
    return parse_units(text)


class Counter:
    """Throttling by units per second of one partition."""

    __slots__ = ("text", "_throttle", "_second", "_units", "_delay_from", "_reject_from")

    def __init__(self, text: str, throttle: Throttle, partition_count: int) -> None:
        """Take over the partition's share of the table's thresholds."""
        self.text = text
        self._throttle = throttle
        self._second = -1
        self._units = 0
        # The server's own arithmetic: each partition gets its share and one more.
        self._delay_from = throttle.delay_from // partition_count + 1 if throttle.delay_from else 0
        self._reject_from = throttle.reject_from // partition_count + 1 if throttle.reject_from else 0

    def judge(self, now: float, units: int, timeout_ms: int) -> Verdict:
        """Count a request and tell what happens to it, with the milliseconds until then."""
        second = int(now)
        if second != self._second:
            self._second, self._units = second, 0
        self._units += units
        if self._reject_from and self._units > self._reject_from:
            return "reject", self._capped(self._throttle.reject_ms, timeout_ms)
        if self._delay_from and self._units > self._delay_from:
            return "delay", self._capped(self._throttle.delay_ms, timeout_ms)
        return PASS

    @staticmethod
    def _capped(milliseconds: int, timeout_ms: int) -> int:
        return min(milliseconds, timeout_ms // 2) if timeout_ms > 0 else milliseconds


class Bucket:
    """Throttling of reads by size: a bucket of as many bytes as it gets in a second."""

    __slots__ = ("rate", "_left", "_at")

    def __init__(self, rate: int) -> None:
        """Start full."""
        self.rate = rate
        self._left = float(rate)
        self._at = -1.0

    def available(self, now: float) -> bool:
        """Tell whether anything is left."""
        if self._at >= 0:
            self._left = min(float(self.rate), self._left + (now - self._at) * self.rate)
        self._at = now
        return self._left > 0

    def take(self, size: int) -> None:
        """Take what a read returned, into debt if need be; one larger than the whole bucket takes nothing."""
        if size <= self.rate:
            self._left -= size


class Policy:
    """The checks of one replica.

    Attributes:
        trivial: None at all.
        deny: "timeout*read" and the like, "" for none.
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
        """Compile envs; counters whose env has not changed go on counting."""
        deny = envs.get(DENY, "")
        self.deny = deny if deny in DENIALS else ""
        self.validate_hash = envs.get(VALIDATE_HASH) == "true"
        old = before.counters if before else {}
        self.counters: dict[str, Counter | None] = {
            name: _counter(envs, name, partition_count, old.get(name)) for name in _COUNTED
        }
        self.reads, self.writes = self.counters[READ_THROTTLING], self.counters[WRITE_THROTTLING]
        self.write_sizes, self.backups = self.counters[WRITE_SIZE_THROTTLING], self.counters[BACKUP_THROTTLING]
        rate = (parse_read_size(envs.get(READ_SIZE_THROTTLING, "")) or 0) // partition_count
        kept = before.read_sizes if before else None
        self.read_sizes: Bucket | None = (kept if kept and kept.rate == rate else Bucket(rate)) if rate else None
        checks = (*self.counters.values(), self.read_sizes)
        self.trivial = not self.deny and not self.validate_hash and all(check is None for check in checks)

    def denies(self, kind: str) -> str:
        """Return how requests of a kind ("read", "write") are denied: "timeout", "reconfig", "" for not at all."""
        how, _, what = self.deny.partition("*")
        return how if what in (kind, "all") else ""


def _counter(envs: Mapping[str, str], name: str, partition_count: int, before: Counter | None) -> Counter | None:
    text = envs.get(name, "")
    throttle = parse_throttle(text)
    if throttle is None or not (throttle.delay_from or throttle.reject_from):
        return None
    if before is not None and before.text == text:
        return before
    return Counter(text, throttle, partition_count)
