"""Writes. Each is evaluated on the primary's state and gives a reply and a batch of changed records.

A write that fails with status 4 or 13 is still replicated, as an empty one: its batch puts the hidden record with the
empty key, which no valid range contains.
"""

from __future__ import annotations

from collections.abc import Callable, Sized

from ...keys import encode_key
from ...protocol import rrdb
from ...protocol.codes import StorageStatus
from .checks import INVALID_ARGUMENT, OK, client_bug, hash_key_fault, key_fault
from .integers import I64_MAX, I64_MIN, parse_int64
from .records import Record
from .state import State

TRY_AGAIN = int(StorageStatus.TRY_AGAIN)

# Encoded key and its new record (None: removed). An empty batch needs no replication and no decree.
WriteBatch = list[tuple[bytes, Record | None]]
CheckRequest = rrdb.CheckAndSetRequest | rrdb.CheckAndMutateRequest
CheckResponse = rrdb.CheckAndSetResponse | rrdb.CheckAndMutateResponse

EMPTY_WRITE: WriteBatch = [(b"", (b"", 0))]
PUT, DELETE = 0, 1


def put(engine: State, request: rrdb.UpdateRequest, decree: int) -> tuple[rrdb.UpdateResponse, WriteBatch]:
    """Store one record."""
    response = engine.reply(rrdb.UpdateResponse)
    response.decree = decree
    fault = key_fault(request.key)
    if fault is not None:
        response.error = client_bug(f"put of {fault}")
        return response, EMPTY_WRITE
    return response, [(request.key, (request.value, engine.expiry(request.expire_ts_seconds)))]


def remove(engine: State, key: bytes, decree: int) -> tuple[rrdb.UpdateResponse, WriteBatch]:
    """Remove one record, whether it exists or not."""
    response = engine.reply(rrdb.UpdateResponse)
    response.decree = decree
    fault = key_fault(key)
    if fault is not None:
        response.error = client_bug(f"remove of {fault}")
        return response, EMPTY_WRITE
    return response, [(key, None)]


def multi_put(engine: State, request: rrdb.MultiPutRequest, decree: int) -> tuple[rrdb.UpdateResponse, WriteBatch]:
    """Store records of one hash key with one expiry. If sort keys are equal, the last one counts."""
    response = engine.reply(rrdb.UpdateResponse)
    response.decree = decree
    response.error = _check_many("multi_put", request.hash_key, request.kvs)
    if response.error:
        return response, EMPTY_WRITE
    head, expire = encode_key(request.hash_key, b""), engine.expiry(request.expire_ts_seconds)
    return response, [(head + kv.key, (kv.value, expire)) for kv in request.kvs]


def multi_remove(
    engine: State, request: rrdb.MultiRemoveRequest, decree: int
) -> tuple[rrdb.MultiRemoveResponse, WriteBatch]:
    """Remove records of one hash key. The count is the number of keys in the request."""
    response = engine.reply(rrdb.MultiRemoveResponse)
    response.decree = decree
    response.error = _check_many("multi_remove", request.hash_key, request.sort_keys)
    if response.error:
        return response, EMPTY_WRITE
    head = encode_key(request.hash_key, b"")
    response.count = len(request.sort_keys)
    return response, [(head + sort_key, None) for sort_key in request.sort_keys]


def _check_many(name: str, hash_key: bytes, entries: Sized) -> int:
    fault = hash_key_fault(hash_key)
    if fault is not None:
        return client_bug(f"{name} with {fault}")
    return OK if entries else INVALID_ARGUMENT


def incr(engine: State, request: rrdb.IncrRequest, decree: int) -> tuple[rrdb.IncrResponse, WriteBatch]:
    """Add to a number that is stored as text."""
    response = engine.reply(rrdb.IncrResponse)
    response.decree = decree
    fault = key_fault(request.key)
    if fault is not None:
        response.error = client_bug(f"incr of {fault}")
        return response, EMPTY_WRITE
    record, expire = engine.find(request.key), request.expire_ts_seconds
    if record is None:
        base, expire = 0, max(expire, 0)
    else:
        parsed = parse_int64(record[0]) if record[0] else 0
        if parsed is None:
            response.error = INVALID_ARGUMENT
            return response, EMPTY_WRITE
        base = parsed
        expire = record[1] if expire == 0 else max(expire, 0)
    value = base + request.increment
    if not I64_MIN <= value <= I64_MAX:
        response.error, response.new_value = INVALID_ARGUMENT, base
        return response, EMPTY_WRITE
    response.new_value = value
    return response, [(request.key, (b"%d" % value, engine.expiry(expire)))]


def check_and_set(
    engine: State, request: rrdb.CheckAndSetRequest, decree: int
) -> tuple[rrdb.CheckAndSetResponse, WriteBatch]:
    """Store one record if the check passes."""
    response = engine.reply(rrdb.CheckAndSetResponse)
    response.decree = decree
    fault = hash_key_fault(request.hash_key)
    if fault is not None:
        response.error = client_bug(f"check_and_set with {fault}")
    elif request.check_type not in CHECKS:
        response.error = INVALID_ARGUMENT
    else:
        response.error = _check(engine, request, response)
        if response.error == OK:
            sort_key = request.set_sort_key if request.set_diff_sort_key else request.check_sort_key
            record = (request.set_value, engine.expiry(request.set_expire_ts_seconds))
            return response, [(encode_key(request.hash_key, sort_key), record)]
    return response, EMPTY_WRITE


def check_and_mutate(
    engine: State, request: rrdb.CheckAndMutateRequest, decree: int
) -> tuple[rrdb.CheckAndMutateResponse, WriteBatch]:
    """Store and remove records of one hash key if the check passes. If sort keys are equal, the last one counts."""
    response = engine.reply(rrdb.CheckAndMutateResponse)
    response.decree = decree
    mutations = request.mutate_list
    fault = hash_key_fault(request.hash_key)
    if fault is not None:
        response.error = client_bug(f"check_and_mutate with {fault}")
    elif (
        not mutations
        or any(mutation.operation not in (PUT, DELETE) for mutation in mutations)
        or request.check_type not in CHECKS
    ):
        response.error = INVALID_ARGUMENT
    else:
        response.error = _check(engine, request, response)
        if response.error == OK:
            head = encode_key(request.hash_key, b"")
            return response, [(head + mutation.sort_key, _mutated(engine, mutation)) for mutation in mutations]
    return response, EMPTY_WRITE


def _mutated(engine: State, mutation: rrdb.Mutate) -> Record | None:
    if mutation.operation == DELETE:
        return None
    return mutation.value, engine.expiry(mutation.set_expire_ts_seconds)


# A check gets the value (None: absent) and the operand. It returns None if one of them is not a number.
Check = Callable[[bytes | None, bytes], bool | None]


def _compare_bytes(passes: Callable[[bytes, bytes], bool]) -> Check:
    return lambda value, operand: value is not None and passes(value, operand)


def _compare_integers(passes: Callable[[int, int], bool]) -> Check:
    def check(value: bytes | None, operand: bytes) -> bool | None:
        if value is None:
            return False
        left, right = parse_int64(value), parse_int64(operand)
        return None if left is None or right is None else passes(left, right)

    return check


CHECKS: dict[int, Check] = {
    0: lambda _value, _operand: True,
    1: lambda value, _operand: value is None,
    2: lambda value, _operand: not value,
    3: lambda value, _operand: value is not None,
    4: lambda value, _operand: bool(value),
    5: _compare_bytes(lambda value, operand: operand in value),
    6: _compare_bytes(lambda value, operand: value.startswith(operand)),
    7: _compare_bytes(lambda value, operand: value.endswith(operand)),
    8: _compare_bytes(lambda value, operand: value < operand),
    9: _compare_bytes(lambda value, operand: value <= operand),
    10: _compare_bytes(lambda value, operand: value == operand),
    11: _compare_bytes(lambda value, operand: value >= operand),
    12: _compare_bytes(lambda value, operand: value > operand),
    13: _compare_integers(lambda value, operand: value < operand),
    14: _compare_integers(lambda value, operand: value <= operand),
    15: _compare_integers(lambda value, operand: value == operand),
    16: _compare_integers(lambda value, operand: value >= operand),
    17: _compare_integers(lambda value, operand: value > operand),
}


def _check(engine: State, request: CheckRequest, response: CheckResponse) -> int:
    record = engine.find(encode_key(request.hash_key, request.check_sort_key))
    value = None if record is None else record[0]
    if request.return_check_value:
        response.check_value_returned = True
        response.check_value_exist = value is not None
        response.check_value = value or b""
    passed = CHECKS[request.check_type](value, request.check_operand)
    if passed is None:
        return INVALID_ARGUMENT
    return OK if passed else TRY_AGAIN
