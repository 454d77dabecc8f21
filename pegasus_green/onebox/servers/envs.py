"""The table envs that a meta server knows, and the values that it accepts."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..replication import policy

Check = Callable[[str], str | None]
I32_MAX, I64_MAX = (1 << 31) - 1, (1 << 63) - 1
_HINT_DENY = f"the value is one of {', '.join(sorted(policy.DENIALS))}, or empty"
_TIMES = re.compile(r"\d{1,2}:\d\d(,\d{1,2}:\d\d)*")


def _number(low: int, high: int = I64_MAX) -> Check:
    def check(value: str) -> str | None:
        number = int(value) if re.fullmatch(r"-?\d{1,20}", value, re.ASCII) else None
        return None if number is not None and low <= number <= high else f"the value is a number from {low} to {high}"

    return check


def _one_of(*values: str) -> Check:
    return lambda value: None if value in values else f"the value is one of {', '.join(values)}"


def _throttling(value: str) -> str | None:
    legal = policy.parse_throttle(value) is not None
    return None if legal else "the value is N*delay*ms and/or N*reject*ms, comma separated; N may end in K or M"


def _read_size(value: str) -> str | None:
    return None if policy.parse_read_size(value) is not None else "the value is N, NK, NM or N*reject*ms"


def _deny(value: str) -> str | None:
    return None if not value or value in policy.DENIALS else _HINT_DENY


def _times(value: str) -> str | None:
    return None if not value or _TIMES.fullmatch(value) else "the value is hh:mm, several comma separated"


def _any(_value: str) -> str | None:
    return None


_bool = _one_of("true", "false")
_level = _one_of("force", "skip")
# Options of the storage engine; the only ones that are looked at when a table is created.
ROCKSDB_OPTIONS: dict[str, Check] = {
    "rocksdb.write_buffer_size": _number(32 << 20, 512 << 20),
    "rocksdb.num_levels": _number(1, 10),
}
KNOWN: dict[str, Check] = {
    **ROCKSDB_OPTIONS,
    policy.DENY: _deny,
    policy.WRITE_THROTTLING: _throttling,
    policy.WRITE_SIZE_THROTTLING: _throttling,
    policy.READ_THROTTLING: _throttling,
    policy.BACKUP_THROTTLING: _throttling,
    policy.READ_SIZE_THROTTLING: _read_size,
    policy.VALIDATE_HASH: _bool,
    "replica.slow_query_threshold": _number(20),
    "replica.rocksdb_iteration_threshold_time_ms": _number(0),
    "replica.rocksdb_block_cache_enabled": _bool,
    "default_ttl": _number(0, I32_MAX),
    "manual_compact.disabled": _bool,
    "manual_compact.max_concurrent_running_count": _number(0, I32_MAX),
    "manual_compact.once.trigger_time": _number(0),
    "manual_compact.once.target_level": _number(-1, I32_MAX),
    "manual_compact.once.bottommost_level_compaction": _level,
    "manual_compact.periodic.trigger_time": _times,
    "manual_compact.periodic.target_level": _number(-1, I32_MAX),
    "manual_compact.periodic.bottommost_level_compaction": _level,
    "rocksdb.usage_scenario": _one_of("normal", "prefer_write", "bulk_load"),
    "rocksdb.checkpoint.reserve_min_count": _number(1, I32_MAX),
    "rocksdb.checkpoint.reserve_time_seconds": _number(0, I32_MAX),
    "rocksdb.allow_ingest_behind": _bool,
    "user_specified_compaction": _any,
    "business.info": _any,
    "replica_access_controller.allowed_users": _any,
    "replica_access_controller.ranger_policies": _any,
    "max_replica_count.update": _any,
}


def check_env(name: str, value: str) -> str | None:
    """Return why a meta server refuses an env, None when it takes it."""
    check = KNOWN.get(name)
    if check is None:
        return f"app_env '{name}' is not supported"
    fault = check(value)
    return None if fault is None else f"{name}={value}: {fault}"
