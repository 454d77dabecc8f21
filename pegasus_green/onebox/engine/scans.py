"""get_scanner, scan and clear_scanner. Each context of a replica is a position in a pinned view of its records."""

from __future__ import annotations

from collections.abc import Iterator

from ...keys import crc64, encode_key, next_key
from ...protocol import rrdb
from .checks import (
    FILTER_TYPES,
    INCOMPLETE,
    INVALID_ARGUMENT,
    MATCH_PREFIX,
    NOT_FOUND,
    client_bug,
    hash_key_fault,
    key_fault,
    to_i32,
)
from .contexts import Scan
from .records import Row
from .state import State

COMPLETED = -1


def get_scanner(engine: State, request: rrdb.GetScannerRequest, partition_count: int) -> rrdb.ScanResponse:
    """Open a scan and return its first batch."""
    response = engine.reply(rrdb.ScanResponse)
    response.kvs = []
    if request.hash_key_filter_type not in FILTER_TYPES or request.sort_key_filter_type not in FILTER_TYPES:
        response.error = INVALID_ARGUMENT
        return response
    fault = key_fault(request.start_key)
    if fault is not None:
        response.error = client_bug(f"get_scanner from {fault}")
        return response
    scan = Scan(request, engine.limits.scan_rows)
    start, inclusive = request.start_key, request.start_inclusive
    hash_key_size = start[0] << 8 | start[1]
    total_order = hash_key_size == 0 or bool(request.full_scan)
    if request.hash_key_filter_type == MATCH_PREFIX and request.hash_key_filter_pattern:
        fault = hash_key_fault(request.hash_key_filter_pattern)
        if fault is not None:
            response.error = client_bug(f"get_scanner with a filter for {fault}")
            return response
        # Hash keys are ordered by length first: the prefix is a lower bound, not an upper one.
        first = encode_key(request.hash_key_filter_pattern, b"")
        if first > start:
            start, inclusive = first, True
            if not total_order:
                response.error = client_bug("get_scanner with a hash key prefix inside one hash key, without full_scan")
                return response
    if start > scan.stop or (start == scan.stop and not (inclusive and scan.stop_inclusive)):
        # The context id stays 0, which is neither "finished" nor a context. Clients must handle empty ranges.
        return response
    if not total_order:
        scan.end = next_key(start[: 2 + hash_key_size])
    scan.position = start
    scan.sequence = engine.records.pin()
    _batch(engine, scan, response, partition_count, engine.limits.scan_rows, None if inclusive else start)
    return response


def scan(engine: State, context_id: int, partition_count: int) -> rrdb.ScanResponse:
    """Return the next batch of an open scan. Its context is used up; the reply has a new one."""
    response = engine.reply(rrdb.ScanResponse)
    response.kvs = []
    found = engine.contexts.take(context_id)
    if found is None:
        response.error = NOT_FOUND
    else:
        # Unlike the first batch, later ones visit at most as many rows as they may return.
        _batch(engine, found, response, partition_count, found.batch_size, None)
    return response


def _batch(
    engine: State, scan: Scan, response: rrdb.ScanResponse, partition_count: int, max_visited: int, skip: bytes | None
) -> None:
    out_of_time = _walk(engine, scan, response, partition_count, max_visited, skip)
    if out_of_time:
        response.error = INCOMPLETE
    elif scan.position is None:
        response.context_id = COMPLETED
    else:
        response.context_id = engine.contexts.put(scan, engine.clock())
        return
    engine.records.unpin(scan.sequence)


def _walk(
    engine: State, scan: Scan, response: rrdb.ScanResponse, partition_count: int, max_visited: int, skip: bytes | None
) -> bool:
    """Fill a batch and move the position; return whether the (forced) time limit ended it."""
    assert scan.position is not None
    rows: Iterator[Row] = engine.records.forward(scan.position, scan.end, scan.sequence)
    scan.position = None
    time_limit = engine.next_scan_time_limit()
    now, stop, batch_size, kvs = engine.now(), scan.stop, scan.batch_size, response.kvs
    index = engine.partition_index if scan.validate_hash and engine.validates_hash() else None
    mask = partition_count - 1
    filtered = scan.hash_filter is not None or scan.sort_filter is not None
    every = index is None and not filtered
    new_row, with_value, with_expiry = rrdb.KeyValue.__new__, not scan.no_value, scan.expire_ts
    visited = count = 0
    out_of_time = False
    for key, value, expire in rows:
        if count >= batch_size or visited >= max_visited:
            scan.position = key
            break
        if time_limit is not None and visited >= time_limit:
            out_of_time = True
            break
        last = key == stop
        if key > stop or (last and not scan.stop_inclusive):
            break
        if key == skip:
            continue
        visited += 1
        if (
            every or ((index is None or _hash(key) & mask == index) and not (filtered and _is_filtered(scan, key)))
        ) and not 0 < expire <= now:
            count += 1
            if not scan.count_only:
                kv = new_row(rrdb.KeyValue)
                kv.key = key
                if with_value:
                    kv.value = value
                if with_expiry:
                    kv.expire_ts_seconds = to_i32(expire)
                kvs.append(kv)
        if last:
            break
    if scan.count_only:
        response.kv_count = count
    return out_of_time


def _hash(key: bytes) -> int:
    end = 2 + (key[0] << 8 | key[1])
    return crc64(key[2:end] or key[end:])


def _is_filtered(scan: Scan, key: bytes) -> bool:
    end = 2 + (key[0] << 8 | key[1])
    if scan.hash_filter is not None and not scan.hash_filter(key[2:end]):
        return True
    return scan.sort_filter is not None and not scan.sort_filter(key[end:])
