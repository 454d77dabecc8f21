"""The table envs that a meta server knows, and their valid values.

The hints are exactly those of a real server of release 2.6, because tools show and compare them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ..replication import policy

Check = Callable[[str], str | None]
I32_BITS, I64_BITS = 32, 64
_DENY_HINT = (
    "Invalid deny client args, valid include: timeout*all, timeout*write, timeout*read; "
    "reconfig*all, reconfig*write, reconfig*read"
)
_THROTTLING_LIMIT = "<size[K|M]>*<delay|reject>*<milliseconds>"
_THROTTLING_SAMPLE = "10000*delay*100,20000*reject*100"


class Env(NamedTuple):
    """One env: the check of its values, and its description on a server's page about envs."""

    check: Check
    kind: str
    limit: str = ""
    sample: str = ""


def _integer(bits: int, limit: str, sample: str, fits: Callable[[int], bool]) -> Env:
    def check(value: str) -> str | None:
        number = int(value) if re.fullmatch(r"[+-]?\d{1,20}", value, re.ASCII) else None
        if number is None or not -(1 << bits - 1) <= number < 1 << bits - 1:
            return f"invalid value '{value}', should be an {bits} bits integer"
        return None if fits(number) else f"invalid value '{value}', should be '{limit}'"

    # The page calls them unsigned, although the check accepts negative numbers if the limit does.
    return Env(check, f"unsigned int{bits}", limit, sample)


def _at_least(bits: int, lowest: int, sample: str, limit: str = "") -> Env:
    return _integer(bits, limit or f">= {lowest}", sample, lambda number: number >= lowest)


def _between(low: int, high: int, sample: str) -> Env:
    return _integer(I64_BITS, f"In range [{low}, {high}]", sample, lambda number: low <= number <= high)


def _one_of(sample: str, *values: str) -> Env:
    choices = " | ".join(sorted(values))
    return Env(lambda value: None if value in values else choices, "string", choices, sample)


def _bool(value: str) -> str | None:
    return None if value in ("true", "false") else f"invalid value '{value}', should be a boolean"


def _deny(value: str) -> str | None:
    return None if value in policy.DENIALS else _DENY_HINT


def _any(_value: str) -> str | None:
    return None


BOOL = Env(_bool, "bool", "true | false", "true")
TEXT = Env(_any, "string")
THROTTLING = Env(policy.fault_in_throttle, "string", _THROTTLING_LIMIT, _THROTTLING_SAMPLE)
LEVEL = _one_of("skip", "force", "skip")
TARGET_LEVEL = _integer(I64_BITS, "-1 or >= 1", "6", lambda number: number == -1 or number >= 1)
# Options of the storage engine. Only these are checked when a table is created.
ROCKSDB_OPTIONS: dict[str, Env] = {
    "rocksdb.write_buffer_size": _between(16 << 20, 512 << 20, str(16 << 20)),
    "rocksdb.num_levels": _between(1, 10, "6"),
}
KNOWN: dict[str, Env] = {
    **ROCKSDB_OPTIONS,
    policy.DENY: Env(
        _deny,
        "string",
        "timeout*all | timeout*write | timeout*read | reconfig*all | reconfig*write | reconfig*read",
        "timeout*all",
    ),
    policy.WRITE_THROTTLING: THROTTLING,
    policy.WRITE_SIZE_THROTTLING: THROTTLING,
    policy.READ_THROTTLING: THROTTLING,
    policy.BACKUP_THROTTLING: THROTTLING,
    policy.READ_SIZE_THROTTLING: Env(policy.fault_in_read_size, "string", "", "20000*delay*100,20000*reject*100"),
    policy.VALIDATE_HASH: BOOL,
    "replica.slow_query_threshold": _at_least(I64_BITS, 20, "1000"),
    "replica.rocksdb_iteration_threshold_time_ms": _at_least(I64_BITS, 0, "1000"),
    "replica.rocksdb_block_cache_enabled": BOOL,
    "default_ttl": _at_least(I32_BITS, 0, "86400"),
    "manual_compact.disabled": BOOL,
    "manual_compact.max_concurrent_running_count": _at_least(I32_BITS, 0, "8"),
    "manual_compact.once.trigger_time": _at_least(
        I64_BITS, 0, "1700000000", "> 0, timestamp (in seconds) to trigger the once manual compaction"
    ),
    "manual_compact.once.target_level": TARGET_LEVEL,
    "manual_compact.once.bottommost_level_compaction": LEVEL,
    "manual_compact.periodic.trigger_time": TEXT,
    "manual_compact.periodic.target_level": TARGET_LEVEL,
    "manual_compact.periodic.bottommost_level_compaction": LEVEL,
    "rocksdb.usage_scenario": _one_of("normal", "normal", "prefer_write", "bulk_load"),
    "rocksdb.checkpoint.reserve_min_count": _at_least(I32_BITS, 1, "2", "> 0"),
    "rocksdb.checkpoint.reserve_time_seconds": _at_least(I32_BITS, 0, "3600"),
    "rocksdb.allow_ingest_behind": BOOL,
    "user_specified_compaction": TEXT,
    "business.info": TEXT,
    "replica_access_controller.allowed_users": TEXT,
    "replica_access_controller.ranger_policies": TEXT,
    "duplication.master_cluster": TEXT,
    "duplication.master_metas": TEXT,
    "duplication.master_app_name": TEXT,
    "duplication.follower_app_status": TEXT,
}


def check_env(name: str, value: str) -> str | None:
    """Return why a meta server refuses an env; None if it accepts it."""
    env = KNOWN.get(name)
    return f"app_env '{name}' is not supported" if env is None else env.check(value)
