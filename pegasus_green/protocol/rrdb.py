"""The structs of the data RPCs (``idl/rrdb.thrift`` of Pegasus): requests and replies.

Keys named ``key`` in put, get, remove, ttl, incr and scans are encoded keys (see ``pegasus_green.keys``); the ``key``
of a ``KeyValue`` in multi_get and multi_put is a bare sort key.
"""

from __future__ import annotations

import struct

from .binary import BLOB_TYPE, STOP
from .message import Message, blob, boolean, i32, i64, list_of, text

_I32 = struct.Struct(">i")


class KeyValue(Message):
    """One record in a list; ``expire_ts_seconds`` is set only if a scan asked for it."""

    key: bytes = blob(1)
    value: bytes = blob(2)
    expire_ts_seconds: int | None = i32(3, optional=True)

    def encode_to(self, out: bytearray) -> None:
        """Append the struct's bytes. It is written for speed, because replies to scans have thousands of them."""
        key, value, expire = self.key, self.value, self.expire_ts_seconds
        if type(key) is not bytes or type(value) is not bytes or expire is not None:
            super().encode_to(out)
            return
        out += b"\x0c\0\1%b%b\x0c\0\2%b" % (_I32.pack(len(key)), key, _I32.pack(len(value)))
        out += value
        out.append(STOP)


class FullKey(Message):
    """A hash key and a sort key."""

    hash_key: bytes = blob(1)
    sort_key: bytes = blob(2)


class FullData(Message):
    """A record with its full key."""

    hash_key: bytes = blob(1)
    sort_key: bytes = blob(2)
    value: bytes = blob(3)


class UpdateRequest(Message):
    """Argument of put. Only servers use the fields 4 to 7: a put with a type other than 0 is never answered."""

    key: bytes = blob(1)
    value: bytes = blob(2)
    expire_ts_seconds: int = i32(3)
    type: int | None = i32(4, optional=True)
    check_value_returned: bool | None = boolean(5, optional=True)
    check_value_exist: bool | None = boolean(6, optional=True)
    check_value: bytes | None = blob(7, optional=True)


class MultiPutRequest(Message):
    """Argument of multi_put; all rows have the same expiry."""

    hash_key: bytes = blob(1)
    kvs: list[KeyValue] = list_of(2, KeyValue)
    expire_ts_seconds: int = i32(3)


class MultiRemoveRequest(Message):
    """Argument of multi_remove; servers ignore ``max_count``."""

    hash_key: bytes = blob(1)
    sort_keys: list[bytes] = list_of(2, BLOB_TYPE)
    max_count: int = i64(3)


class MultiGetRequest(Message):
    """Argument of multi_get: exactly ``sort_keys``, or a range if that is empty."""

    hash_key: bytes = blob(1)
    sort_keys: list[bytes] = list_of(2, BLOB_TYPE)
    max_kv_count: int = i32(3)
    max_kv_size: int = i32(4)
    no_value: bool = boolean(5)
    start_sortkey: bytes = blob(6)
    stop_sortkey: bytes = blob(7)
    start_inclusive: bool = boolean(8)
    stop_inclusive: bool = boolean(9)
    sort_key_filter_type: int = i32(10)
    sort_key_filter_pattern: bytes = blob(11)
    reverse: bool = boolean(12)


class BatchGetRequest(Message):
    """Argument of batch_get; all keys belong to the addressed partition."""

    keys: list[FullKey] = list_of(1, FullKey)


class IncrRequest(Message):
    """Argument of incr; ``expire_ts_seconds`` 0 keeps the expiry, > 0 sets it, < 0 clears it."""

    key: bytes = blob(1)
    increment: int = i64(2)
    expire_ts_seconds: int = i32(3)


class CheckAndSetRequest(Message):
    """Argument of check_and_set."""

    hash_key: bytes = blob(1)
    check_sort_key: bytes = blob(2)
    check_type: int = i32(3)
    check_operand: bytes = blob(4)
    set_diff_sort_key: bool = boolean(5)
    set_sort_key: bytes = blob(6)
    set_value: bytes = blob(7)
    set_expire_ts_seconds: int = i32(8)
    return_check_value: bool = boolean(9)


class Mutate(Message):
    """One put (operation 0) or delete (operation 1) of check_and_mutate."""

    operation: int = i32(1)
    sort_key: bytes = blob(2)
    value: bytes = blob(3)
    set_expire_ts_seconds: int = i32(4)


class CheckAndMutateRequest(Message):
    """Argument of check_and_mutate."""

    hash_key: bytes = blob(1)
    check_sort_key: bytes = blob(2)
    check_type: int = i32(3)
    check_operand: bytes = blob(4)
    mutate_list: list[Mutate] = list_of(5, Mutate)
    return_check_value: bool = boolean(6)


class GetScannerRequest(Message):
    """Argument of get_scanner. Unset optional fields have the server's defaults (validate: true, others: false)."""

    start_key: bytes = blob(1)
    stop_key: bytes = blob(2)
    start_inclusive: bool = boolean(3)
    stop_inclusive: bool = boolean(4)
    batch_size: int = i32(5)
    no_value: bool = boolean(6)
    hash_key_filter_type: int = i32(7)
    hash_key_filter_pattern: bytes = blob(8)
    sort_key_filter_type: int = i32(9)
    sort_key_filter_pattern: bytes = blob(10)
    validate_partition_hash: bool | None = boolean(11, optional=True)
    return_expire_ts: bool | None = boolean(12, optional=True)
    full_scan: bool | None = boolean(13, optional=True)
    only_return_count: bool | None = boolean(14, optional=True)


class ScanRequest(Message):
    """Argument of scan."""

    context_id: int = i64(1)


class UpdateResponse(Message):
    """Reply to put, multi_put and remove."""

    error: int = i32(1)
    app_id: int = i32(2)
    partition_index: int = i32(3)
    decree: int = i64(4)
    server: str = text(5)


class ReadResponse(Message):
    """Reply to get."""

    error: int = i32(1)
    value: bytes = blob(2)
    app_id: int = i32(3)
    partition_index: int = i32(4)
    server: str = text(6)


class TtlResponse(Message):
    """Reply to ttl; -1 means no expiry."""

    error: int = i32(1)
    ttl_seconds: int = i32(2)
    app_id: int = i32(3)
    partition_index: int = i32(4)
    server: str = text(6)


class CountResponse(Message):
    """Reply to sortkey_count; -1 means that the server reached its time limit."""

    error: int = i32(1)
    count: int = i64(2)
    app_id: int = i32(3)
    partition_index: int = i32(4)
    server: str = text(6)


class MultiRemoveResponse(Message):
    """Reply to multi_remove; ``count`` is the number of keys in the request."""

    error: int = i32(1)
    count: int = i64(2)
    app_id: int = i32(3)
    partition_index: int = i32(4)
    decree: int = i64(5)
    server: str = text(6)


class MultiGetResponse(Message):
    """Reply to multi_get."""

    error: int = i32(1)
    kvs: list[KeyValue] = list_of(2, KeyValue)
    app_id: int = i32(3)
    partition_index: int = i32(4)
    server: str = text(6)


class BatchGetResponse(Message):
    """Reply to batch_get."""

    error: int = i32(1)
    data: list[FullData] = list_of(2, FullData)
    app_id: int = i32(3)
    partition_index: int = i32(4)
    server: str = text(6)


class IncrResponse(Message):
    """Reply to incr."""

    error: int = i32(1)
    new_value: int = i64(2)
    app_id: int = i32(3)
    partition_index: int = i32(4)
    decree: int = i64(5)
    server: str = text(6)


class CheckAndSetResponse(Message):
    """Reply to check_and_set."""

    error: int = i32(1)
    check_value_returned: bool = boolean(2)
    check_value_exist: bool = boolean(3)
    check_value: bytes = blob(4)
    app_id: int = i32(5)
    partition_index: int = i32(6)
    decree: int = i64(7)
    server: str = text(8)


class CheckAndMutateResponse(Message):
    """Reply to check_and_mutate."""

    error: int = i32(1)
    check_value_returned: bool = boolean(2)
    check_value_exist: bool = boolean(3)
    check_value: bytes = blob(4)
    app_id: int = i32(5)
    partition_index: int = i32(6)
    decree: int = i64(7)
    server: str = text(8)


class ScanResponse(Message):
    """Reply to get_scanner and scan; ``kv_count`` only for count-only scans of servers since 2.5."""

    error: int = i32(1)
    kvs: list[KeyValue] = list_of(2, KeyValue)
    context_id: int = i64(3)
    app_id: int = i32(4)
    partition_index: int = i32(5)
    server: str = text(6)
    kv_count: int | None = i32(7, optional=True)
