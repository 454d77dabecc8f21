"""Common checks of reads, writes and scans: keys, filters, and requests that would crash a real server."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ...keys import MAX_HASH_KEY
from ...protocol.codes import StorageStatus

log = logging.getLogger("pegasus_green.onebox")

OK, NOT_FOUND = int(StorageStatus.OK), int(StorageStatus.NOT_FOUND)
INVALID_ARGUMENT, INCOMPLETE = int(StorageStatus.INVALID_ARGUMENT), int(StorageStatus.INCOMPLETE)
MATCH_ANYWHERE, MATCH_PREFIX, MATCH_POSTFIX = 1, 2, 3
FILTER_TYPES = (0, MATCH_ANYWHERE, MATCH_PREFIX, MATCH_POSTFIX)
INT_MAX = (1 << 31) - 1

Filter = Callable[[bytes], bool]


def client_bug(what: str) -> int:
    """Log a request that crashes a real server; return the status that the onebox answers instead."""
    log.warning("client bug: %s; a real replica server aborts on this", what)
    return INVALID_ARGUMENT


def key_fault(key: bytes) -> str | None:
    """Return the fault of an encoded key; None if there is none."""
    if len(key) < 2:
        return f"an encoded key of {len(key)} bytes; at least 2 are needed"
    if key[0] << 8 | key[1] > len(key) - 2:
        return f"an encoded key whose hash key has {key[0] << 8 | key[1]} bytes in only {len(key) - 2}"
    return None


def hash_key_fault(hash_key: bytes) -> str | None:
    """Return the fault of a hash key that the server must encode; None if there is none."""
    if len(hash_key) > MAX_HASH_KEY:
        return f"a hash key of {len(hash_key)} bytes; the limit is {MAX_HASH_KEY}"
    return None


def make_filter(kind: int, pattern: bytes) -> Filter | None:
    """Return the test function of a supported filter type; None if all keys pass."""
    if not kind or not pattern:
        return None
    if kind == MATCH_ANYWHERE:
        return lambda text: pattern in text
    if kind == MATCH_PREFIX:
        return lambda text: text.startswith(pattern)
    return lambda text: text.endswith(pattern)


def to_i32(value: int) -> int:
    """Truncate a number to a signed 32-bit one, as an assignment in the server does."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value > INT_MAX else value
