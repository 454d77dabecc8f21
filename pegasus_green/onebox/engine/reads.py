"""The reads that need no scan context: get, ttl, multi_get, batch_get, sortkey_count."""

from __future__ import annotations

from collections.abc import Iterator

from ...keys import encode_key, next_key
from ...protocol import rrdb
from .checks import (
    FILTER_TYPES,
    INCOMPLETE,
    INT_MAX,
    INVALID_ARGUMENT,
    MATCH_PREFIX,
    NOT_FOUND,
    OK,
    client_bug,
    hash_key_fault,
    key_fault,
    make_filter,
    to_i32,
)
from .records import Row
from .state import State


def get(engine: State, key: bytes) -> rrdb.ReadResponse:
    """Return the value of one record."""
    response = engine.reply(rrdb.ReadResponse)
    fault = key_fault(key)
    if fault is not None:
        response.error = client_bug(f"get of {fault}")
        return response
    record = engine.find(key)
    if record is None:
        response.error = NOT_FOUND
    else:
        response.value = record[0]
    return response


def ttl(engine: State, key: bytes) -> rrdb.TtlResponse:
    """Return the remaining seconds of a record; -1 for one without expiry."""
    response = engine.reply(rrdb.TtlResponse)
    fault = key_fault(key)
    if fault is not None:
        response.error = client_bug(f"ttl of {fault}")
        return response
    record = engine.find(key)
    if record is None:
        response.error = NOT_FOUND
    else:
        response.ttl_seconds = to_i32(record[1] - engine.now()) if record[1] else -1
    return response


def batch_get(engine: State, request: rrdb.BatchGetRequest) -> rrdb.BatchGetResponse:
    """Return the records that exist, in request order, without any limit."""
    response = engine.reply(rrdb.BatchGetResponse)
    response.data = []
    if not request.keys:
        response.error = INVALID_ARGUMENT
        return response
    for full in request.keys:
        fault = hash_key_fault(full.hash_key)
        if fault is not None:
            response.error, response.data = client_bug(f"batch_get with {fault}"), []
            return response
        record = engine.find(encode_key(full.hash_key, full.sort_key))
        if record is not None:
            response.data.append(rrdb.FullData(full.hash_key, full.sort_key, record[0]))
    return response


def sortkey_count(engine: State, hash_key: bytes) -> rrdb.CountResponse:
    """Count the live records of a hash key; -1 if the time limit is exceeded."""
    response = engine.reply(rrdb.CountResponse)
    fault = hash_key_fault(hash_key)
    if fault is not None:
        response.error = client_bug(f"sortkey_count of {fault}")
        return response
    start, now, budget = encode_key(hash_key, b""), engine.now(), engine.row_budget()
    count = 0
    for visited, (_, _, expire) in enumerate(engine.records.forward(start, next_key(start))):
        if budget is not None and visited >= budget:
            count = -1
            break
        count += not 0 < expire <= now
    response.count = count
    return response


def multi_get(engine: State, request: rrdb.MultiGetRequest) -> rrdb.MultiGetResponse:
    """Return the named records or a range of one hash key."""
    response = engine.reply(rrdb.MultiGetResponse)
    response.kvs = []
    if request.sort_key_filter_type not in FILTER_TYPES:
        response.error = INVALID_ARGUMENT
        return response
    fault = hash_key_fault(request.hash_key)
    if fault is not None:
        response.error = client_bug(f"multi_get of {fault}")
    elif request.sort_keys:
        _named(engine, request, response)
    else:
        _range(engine, request, response)
    return response


def _max_count(engine: State, request: rrdb.MultiGetRequest) -> int:
    limit = engine.limits.multi_get_rows
    return min(request.max_kv_count, limit) if request.max_kv_count > 0 else limit


def _named(engine: State, request: rrdb.MultiGetRequest, response: rrdb.MultiGetResponse) -> None:
    max_count = _max_count(engine, request)
    max_size = request.max_kv_size if request.max_kv_size > 0 else INT_MAX
    head, kvs, size = encode_key(request.hash_key, b""), response.kvs, 0
    for sort_key in request.sort_keys:
        record = engine.find(head + sort_key)
        if record is None:
            continue
        # The answer is incomplete only if there is a further existing record.
        if len(kvs) >= max_count or size >= max_size:
            response.error = INCOMPLETE
            return
        value = b"" if request.no_value else record[0]
        kvs.append(rrdb.KeyValue(sort_key, value, None))
        size += len(sort_key) + len(value)


class _Range:
    """The bounds of a range multi_get, narrowed by a prefix filter."""

    __slots__ = ("head", "start", "stop", "start_inclusive", "stop_inclusive")

    def __init__(self, request: rrdb.MultiGetRequest) -> None:
        self.head = head = encode_key(request.hash_key, b"")
        self.start, self.start_inclusive = head + request.start_sortkey, request.start_inclusive
        if request.stop_sortkey:
            self.stop, self.stop_inclusive = head + request.stop_sortkey, request.stop_inclusive
        else:
            self.stop, self.stop_inclusive = next_key(head), False
        if request.sort_key_filter_type == MATCH_PREFIX and request.sort_key_filter_pattern:
            first = head + request.sort_key_filter_pattern
            if first > self.start:
                self.start, self.start_inclusive = first, True
            behind = next_key(first)
            if behind <= self.stop:
                self.stop, self.stop_inclusive = behind, False

    def is_empty(self) -> bool:
        """Tell whether no key can be between the bounds."""
        both = self.start_inclusive and self.stop_inclusive
        return self.start > self.stop or (self.start == self.stop and not both)

    def ends(self, reverse: bool) -> tuple[bytes, bool, bytes, bool]:
        """Return the start of the iteration and whether it is included, and the same for its end."""
        start, stop = (self.start, self.start_inclusive), (self.stop, self.stop_inclusive)
        return (*stop, *start) if reverse else (*start, *stop)


def _range(engine: State, request: rrdb.MultiGetRequest, response: rrdb.MultiGetResponse) -> None:
    bounds = _Range(request)
    if bounds.is_empty():
        return
    # The two directions end differently: forward at the end of the hash key (the server's prefix filter), in reverse
    # only at the partition's first key. So in reverse, if a limit is used up exactly, any smaller record makes the
    # result incomplete, even the hidden empty key.
    if request.reverse:
        response.error = _walk(engine, request, engine.records.backward(bounds.stop), bounds, response.kvs)
        response.kvs.reverse()
    else:
        rows = engine.records.forward(bounds.start, next_key(bounds.head))
        response.error = _walk(engine, request, rows, bounds, response.kvs)


def _walk(
    engine: State, request: rrdb.MultiGetRequest, rows: Iterator[Row], bounds: _Range, kvs: list[rrdb.KeyValue]
) -> int:
    limits, now = engine.limits, engine.now()
    max_size = min(request.max_kv_size if request.max_kv_size > 0 else INT_MAX, limits.multi_get_bytes)
    max_count, max_visited = _max_count(engine, request), limits.multi_get_rows
    budget = engine.row_budget()
    if budget is not None:
        max_visited = min(max_visited, budget)
    accepts = make_filter(request.sort_key_filter_type, request.sort_key_filter_pattern)
    head, reverse = len(bounds.head), request.reverse
    near, near_inclusive, far, far_inclusive = bounds.ends(reverse)
    visited = size = 0
    for key, value, expire in rows:
        if len(kvs) >= max_count or visited >= max_visited or size >= max_size:
            return INCOMPLETE
        last = key == far
        if not far_inclusive if last else (key < far) is reverse:
            return OK
        if key == near and not near_inclusive:
            continue
        visited += 1
        sort_key = key[head:]
        if not 0 < expire <= now and (accepts is None or accepts(sort_key)):
            kv = rrdb.KeyValue.__new__(rrdb.KeyValue)
            kv.key = sort_key
            size += len(sort_key)
            if not request.no_value:
                kv.value = value
                size += len(value)
            kvs.append(kv)
        if last:
            return OK
    return OK
