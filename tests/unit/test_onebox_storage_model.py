"""Test the storage engine against a model, a slow and simple implementation of the rules of the server.

The model copies all rows for each scan, walks iterators step by step and knows no versions. Both get the same random
calls over a small key space with small limits; every reply must be the same.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pegasus_green.keys import AFTER_LAST_KEY, FIRST_KEY, crc64, decode_key, encode_key, next_key
from pegasus_green.onebox.engine.integers import parse_int64
from pegasus_green.onebox.engine.records import Records
from pegasus_green.onebox.engine.state import EPOCH, Limits
from pegasus_green.onebox.engine.storage import Engine
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol import rrdb
from pegasus_green.protocol.rpc import Rpc

LIMITS = Limits(multi_get_rows=6, multi_get_bytes=40, scan_rows=5, threshold_ms=0)
U32 = 1 << 32


class Cursor:
    """An iterator over sorted rows as RocksDB has them: it stands on a row or is not valid."""

    def __init__(self, rows: list[tuple[bytes, bytes, int]], at: int) -> None:
        self.rows, self.at = rows, at

    def valid(self) -> bool:
        return 0 <= self.at < len(self.rows)

    def row(self) -> tuple[bytes, bytes, int]:
        return self.rows[self.at]


class Model:
    """One replica, plainly."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.now = 1000
        self.envs: dict[str, str] = {}
        self.rows: dict[bytes, tuple[bytes, int]] = {}
        self.scans: dict[int, dict[str, Any]] = {}
        self.default_ttl = 0

    def sorted_rows(self) -> list[tuple[bytes, bytes, int]]:
        return sorted((key, value, expire) for key, (value, expire) in self.rows.items())

    def expired(self, expire: int) -> bool:
        return expire > 0 and expire <= self.now

    def live(self, key: bytes) -> tuple[bytes, int] | None:
        row = self.rows.get(key)
        return None if row is None or self.expired(row[1]) else row

    def store(self, key: bytes, value: bytes, expire: int) -> None:
        self.default_ttl = int(self.envs.get("default_ttl", self.default_ttl))
        if expire == 0 and self.default_ttl:
            expire = self.now + self.default_ttl
        self.rows[key] = (value, expire % U32)

    def failed(self) -> None:
        self.rows[b""] = (b"", 0)

    # ------------------------------------------------------------------------------------------------------ reads
    def get(self, key: bytes) -> dict[str, Any]:
        row = self.live(key)
        return {"error": 1} if row is None else {"value": row[0]}

    def ttl(self, key: bytes) -> dict[str, Any]:
        row = self.live(key)
        if row is None:
            return {"error": 1}
        left = (row[1] - self.now) % U32
        return {"ttl_seconds": -1 if row[1] == 0 else left - U32 if left >= U32 // 2 else left}

    def batch_get(self, request: Any) -> dict[str, Any]:
        if not request.keys:
            return {"error": 4}
        found = [(full, self.live(encode_key(full.hash_key, full.sort_key))) for full in request.keys]
        return {"data": [(full.hash_key, full.sort_key, row[0]) for full, row in found if row is not None]}

    def sortkey_count(self, hash_key: bytes) -> dict[str, Any]:
        keys = [key for key in self.rows if key and decode_key(key)[0] == hash_key]
        return {"count": sum(self.live(key) is not None for key in keys)}

    @staticmethod
    def matches(text: bytes, kind: int, pattern: bytes) -> bool:
        return kind == 0 or {1: pattern in text, 2: text[: len(pattern)] == pattern, 3: text.endswith(pattern)}[kind]

    def multi_get(self, request: Any) -> dict[str, Any]:
        if request.sort_key_filter_type not in (0, 1, 2, 3):
            return {"error": 4}
        max_count = LIMITS.multi_get_rows
        if 0 < request.max_kv_count < max_count:
            max_count = request.max_kv_count
        if not request.sort_keys:
            return self.multi_get_range(request, max_count)
        max_size = request.max_kv_size if request.max_kv_size > 0 else 2**31
        kvs: list[tuple[bytes, bytes]] = []
        size = 0
        for sort_key in request.sort_keys:
            row = self.live(encode_key(request.hash_key, sort_key))
            if row is not None:
                if len(kvs) >= max_count or size >= max_size:
                    return {"error": 7, "kvs": kvs}
                kvs.append((sort_key, b"" if request.no_value else row[0]))
                size += len(kvs[-1][0]) + len(kvs[-1][1])
        return {"kvs": kvs}

    def multi_get_range(self, request: Any, max_count: int) -> dict[str, Any]:
        everything = encode_key(request.hash_key, b"")
        start, start_inclusive = encode_key(request.hash_key, request.start_sortkey), request.start_inclusive
        stop, stop_inclusive = encode_key(request.hash_key, request.stop_sortkey), request.stop_inclusive
        if not request.stop_sortkey:
            stop, stop_inclusive = next_key(everything), False
        pattern = request.sort_key_filter_pattern
        if request.sort_key_filter_type == 2 and pattern:
            if encode_key(request.hash_key, pattern) > start:
                start, start_inclusive = encode_key(request.hash_key, pattern), True
            if next_key(encode_key(request.hash_key, pattern)) <= stop:
                stop, stop_inclusive = next_key(encode_key(request.hash_key, pattern)), False
        if start > stop or (start == stop and not (start_inclusive and stop_inclusive)):
            return {"kvs": []}
        rows = self.sorted_rows()
        if request.reverse:
            cursor = Cursor(rows, sum(key <= stop for key, _, _ in rows) - 1)
            step, far, far_inclusive, near, near_inclusive = -1, start, start_inclusive, stop, stop_inclusive
        else:
            rows = [row for row in rows if row[0].startswith(everything)]
            cursor = Cursor(rows, sum(key < start for key, _, _ in rows))
            step, far, far_inclusive, near, near_inclusive = 1, stop, stop_inclusive, start, start_inclusive
        max_size = min(request.max_kv_size if request.max_kv_size > 0 else 2**31, LIMITS.multi_get_bytes)
        kvs: list[tuple[bytes, bytes]] = []
        visited = size = 0
        complete = False
        while len(kvs) < max_count and visited < LIMITS.multi_get_rows and size < max_size and cursor.valid():
            key, value, expire = cursor.row()
            beyond = key > far if step == 1 else key < far
            if beyond or (key == far and not far_inclusive):
                complete = True
                break
            if key == near and not near_inclusive:
                cursor.at += step
                continue
            visited += 1
            sort_key = key[len(everything) :]
            if not self.expired(expire) and self.matches(sort_key, request.sort_key_filter_type, pattern):
                kvs.append((sort_key, b"" if request.no_value else value))
                size += len(kvs[-1][0]) + len(kvs[-1][1])
            if key == far:
                complete = True
                break
            cursor.at += step
        error = 7 if cursor.valid() and not complete else 0
        return {"error": error, "kvs": kvs if step == 1 else kvs[::-1]}

    # ------------------------------------------------------------------------------------------------------ scans
    def get_scanner(self, request: Any, count: int) -> dict[str, Any]:
        if request.hash_key_filter_type not in (0, 1, 2, 3) or request.sort_key_filter_type not in (0, 1, 2, 3):
            return {"error": 4, "kvs": []}
        hash_key = decode_key(request.start_key)[0]
        total_order = not hash_key or bool(request.full_scan)
        start, start_inclusive = request.start_key, request.start_inclusive
        if request.hash_key_filter_type == 2 and request.hash_key_filter_pattern:
            raised = encode_key(request.hash_key_filter_pattern, b"")
            if raised > start:
                start, start_inclusive = raised, True
                if not total_order:
                    return {"error": 4, "kvs": []}
        stop = request.stop_key
        if start > stop or (start == stop and not (start_inclusive and request.stop_inclusive)):
            return {"kvs": [], "context_id": 0}
        rows = [row for row in self.sorted_rows() if row[0] >= start]
        if not total_order:
            rows = [row for row in rows if decode_key(row[0])[0] == hash_key]
        size = request.batch_size if 0 < request.batch_size < LIMITS.scan_rows else LIMITS.scan_rows
        if rows and rows[0][0] == start and not start_inclusive:
            del rows[0]
        return self.batch({"request": request, "rows": rows, "size": size}, LIMITS.scan_rows, count)

    def scan(self, context: int, count: int) -> dict[str, Any]:
        scan = self.scans.pop(context, None)
        if scan is None or scan["until"] <= self.now:
            return {"error": 1, "kvs": []}
        return self.batch(scan, scan["size"], count)

    def batch(self, scan: dict[str, Any], max_visited: int, count: int) -> dict[str, Any]:
        request, cursor = scan["request"], Cursor(scan["rows"], 0)
        found: list[tuple[bytes, bytes, int | None]] = []
        complete = False
        while len(found) < scan["size"] and cursor.at < max_visited and cursor.valid():
            key, value, expire = cursor.row()
            if key > request.stop_key or (key == request.stop_key and not request.stop_inclusive):
                complete = True
                break
            hash_key, sort_key = decode_key(key)
            foreign = (
                request.validate_partition_hash is not False
                and self.envs.get("replica.split.validate_partition_hash") == "true"
                and crc64(hash_key or sort_key) & (count - 1) != self.index
            )
            if (
                not self.expired(expire)
                and not foreign
                and self.matches(hash_key, request.hash_key_filter_type, request.hash_key_filter_pattern)
                and self.matches(sort_key, request.sort_key_filter_type, request.sort_key_filter_pattern)
            ):
                shown = expire - U32 if expire >= U32 // 2 else expire
                value = b"" if request.no_value else value
                found.append((key, value, shown if request.return_expire_ts else None))
            if key == request.stop_key:
                complete = True
                break
            cursor.at += 1
        reply: dict[str, Any] = {"kvs": [] if request.only_return_count else found}
        if request.only_return_count:
            reply["kv_count"] = len(found)
        if complete or not cursor.valid():
            return {**reply, "context_id": -1}
        return {**reply, "next": {**scan, "rows": scan["rows"][cursor.at :], "until": self.now + 300}}

    # ------------------------------------------------------------------------------------------------------ writes
    def put(self, request: Any) -> dict[str, Any]:
        self.store(request.key, request.value, request.expire_ts_seconds)
        return {}

    def remove(self, key: bytes) -> dict[str, Any]:
        self.rows.pop(key, None)
        return {}

    def multi_put(self, request: Any) -> dict[str, Any]:
        if not request.kvs:
            self.failed()
            return {"error": 4}
        for kv in request.kvs:
            self.store(encode_key(request.hash_key, kv.key), kv.value, request.expire_ts_seconds)
        return {}

    def multi_remove(self, request: Any) -> dict[str, Any]:
        if not request.sort_keys:
            self.failed()
            return {"error": 4}
        for sort_key in request.sort_keys:
            self.rows.pop(encode_key(request.hash_key, sort_key), None)
        return {"count": len(request.sort_keys)}

    def incr(self, request: Any) -> dict[str, Any]:
        row = self.live(request.key)
        base: int | None = 0
        if row is not None and row[0] != b"":
            base = parse_int64(row[0])
        if base is None:
            self.failed()
            return {"error": 4}
        if not -(1 << 63) <= base + request.increment < 1 << 63:
            self.failed()
            return {"error": 4, "new_value": base}
        if request.expire_ts_seconds > 0:
            expire = request.expire_ts_seconds
        elif request.expire_ts_seconds == 0 and row is not None:
            expire = row[1]
        else:
            expire = 0
        self.store(request.key, str(base + request.increment).encode(), expire)
        return {"new_value": base + request.increment}

    def passes(self, kind: int, value: bytes | None, operand: bytes) -> bool | None:
        if kind in (0, 1, 2):
            return kind == 0 or value is None or (kind == 2 and value == b"")
        if value is None:
            return False
        if kind in (3, 4):
            return kind == 3 or value != b""
        if kind in (5, 6, 7):
            return self.matches(value, kind - 4, operand)
        if kind <= 12:
            order = (value > operand) - (value < operand)
        else:
            left, right = parse_int64(value), parse_int64(operand)
            if left is None or right is None:
                return None
            order = (left > right) - (left < right)
        return [order < 0, order <= 0, order == 0, order >= 0, order > 0][(kind - 8) % 5]

    def checked(self, request: Any, apply: Callable[[], None]) -> dict[str, Any]:
        if not 0 <= request.check_type <= 17:
            self.failed()
            return {"error": 4}
        row = self.live(encode_key(request.hash_key, request.check_sort_key))
        value = None if row is None else row[0]
        reply: dict[str, Any] = {}
        if request.return_check_value:
            reply = {"check_value_returned": True, "check_value_exist": row is not None, "check_value": value or b""}
        passed = self.passes(request.check_type, value, request.check_operand)
        if passed:
            apply()
            return reply
        self.failed()
        return {**reply, "error": 4 if passed is None else 13}

    def check_and_set(self, request: Any) -> dict[str, Any]:
        sort_key = request.set_sort_key if request.set_diff_sort_key else request.check_sort_key
        key = encode_key(request.hash_key, sort_key)
        return self.checked(request, lambda: self.store(key, request.set_value, request.set_expire_ts_seconds))

    def check_and_mutate(self, request: Any) -> dict[str, Any]:
        def apply() -> None:
            for mutation in request.mutate_list:
                key = encode_key(request.hash_key, mutation.sort_key)
                if mutation.operation == 0:
                    self.store(key, mutation.value, mutation.set_expire_ts_seconds)
                else:
                    self.rows.pop(key, None)

        if not request.mutate_list or any(mutation.operation not in (0, 1) for mutation in request.mutate_list):
            self.failed()
            return {"error": 4}
        return self.checked(request, apply)


# ------------------------------------------------------------------------------------------------------ random calls
HASH_KEYS = [b"", b"a", b"b", b"ab", b"a\xff", b"\xff\xff"]
SORT_KEYS = [b"", b"\0", b"1", b"a", b"ab", b"abc", b"b", b"\xff", b"\xff\xff"]
VALUES = [b"", b"0", b"7", b" 12", b"-3", b"010", b"x", b"abc", b"9223372036854775807", b"\0\xff", b"x" * 30]
PATTERNS = [b"", b"a", b"b", b"ab", b"\xff", b"1"]


class Calls:
    """Draws calls."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.pick = random.choice

    def flag(self) -> bool:
        return self.random.random() < 0.5

    def optional(self) -> bool | None:
        return self.pick([None, True, False])

    def filter(self) -> tuple[int, bytes]:
        return self.pick([0, 0, 1, 2, 2, 3]) if self.random.random() < 0.97 else 4, self.pick(PATTERNS)

    def key(self) -> bytes:
        return encode_key(self.pick(HASH_KEYS), self.pick(SORT_KEYS))

    def sort_keys(self) -> list[bytes]:
        return [self.pick(SORT_KEYS) for _ in range(self.random.randrange(5))]

    def expire(self, now: int) -> int:
        return self.pick([0, 0, 0, now + 1, now + 3, now + 50, now, now - 1, -1, -5, 1])

    def read(self) -> tuple[Rpc, Any]:
        kind, pattern = self.filter()
        hash_key = self.pick(HASH_KEYS)
        full_keys = [rrdb.FullKey(self.pick(HASH_KEYS), sort_key) for sort_key in self.sort_keys()]
        named = self.sort_keys() if self.random.random() < 0.3 else []
        multi = rrdb.MultiGetRequest(
            hash_key, named, self.pick([-1, 0, 1, 2, 3, 9]), self.pick([-1, 0, 3, 9, 99]), self.flag(),
            self.pick(SORT_KEYS), self.pick(SORT_KEYS), self.flag(), self.flag(), kind, pattern, self.flag(),
        )  # fmt: skip
        return self.pick([
            (rpcs.GET, self.key()),
            (rpcs.TTL, self.key()),
            (rpcs.BATCH_GET, rrdb.BatchGetRequest(full_keys)),
            (rpcs.SORTKEY_COUNT, hash_key),
            (rpcs.MULTI_GET, multi), (rpcs.MULTI_GET, multi), (rpcs.MULTI_GET, multi),
        ])  # fmt: skip

    def scanner(self) -> rrdb.GetScannerRequest:
        sort_kind, sort_pattern = self.filter()
        hash_kind, hash_pattern = self.filter() if self.random.random() < 0.4 else (0, b"")
        start, stop = self.key(), self.key()
        if self.flag():
            start = FIRST_KEY
        if self.flag():
            stop = self.pick([AFTER_LAST_KEY, next_key(start[:3]), b""])
        return rrdb.GetScannerRequest(
            start, stop, self.flag(), self.flag(), self.pick([-1, 0, 1, 2, 3, 1000]), self.flag(),
            hash_kind, hash_pattern, sort_kind, sort_pattern,
            self.optional(), self.optional(), self.optional(), self.pick([None, False, False, True]),
        )  # fmt: skip

    def write(self, now: int) -> tuple[Rpc, Any]:
        hash_key, expire = self.pick(HASH_KEYS), self.expire(now)
        value, check = self.pick(VALUES), self.random.randrange(-1, 19)
        kvs = [rrdb.KeyValue(sort_key, self.pick(VALUES), None) for sort_key in self.sort_keys()]
        operations = [0, 1] if self.random.random() < 0.95 else [2]
        mutations = [
            rrdb.Mutate(self.pick(operations), sort_key, self.pick(VALUES), self.expire(now))
            for sort_key in self.sort_keys()
        ]
        check_and_set = rrdb.CheckAndSetRequest(
            hash_key, self.pick(SORT_KEYS), check, self.pick(VALUES), self.flag(), self.pick(SORT_KEYS), value, expire,
            self.flag(),
        )  # fmt: skip
        check_and_mutate = rrdb.CheckAndMutateRequest(
            hash_key, self.pick(SORT_KEYS), check, self.pick(VALUES), mutations, self.flag()
        )
        increment = self.pick([0, 1, -1, 5, (1 << 63) - 1, -(1 << 63)])
        return self.pick([
            (rpcs.PUT, rrdb.UpdateRequest(self.key(), value, expire)),
            (rpcs.REMOVE, self.key()),
            (rpcs.MULTI_PUT, rrdb.MultiPutRequest(hash_key, kvs, expire)),
            (rpcs.MULTI_REMOVE, rrdb.MultiRemoveRequest(hash_key, self.sort_keys(), 0)),
            (rpcs.INCR, rrdb.IncrRequest(self.key(), increment, expire)),
            (rpcs.CHECK_AND_SET, check_and_set),
            (rpcs.CHECK_AND_MUTATE, check_and_mutate),
        ])  # fmt: skip


def fields_of(response: Any) -> dict[str, Any]:
    """Return the content of a response without the common fields; rows as tuples."""
    result = {}
    for declared in response.FIELDS:
        value = getattr(response, declared.name)
        if declared.name == "data":
            value = [(item.hash_key, item.sort_key, item.value) for item in value]
        elif declared.name == "kvs" and isinstance(response, rrdb.ScanResponse):
            value = [(item.key, item.value, item.expire_ts_seconds) for item in value]
        elif declared.name == "kvs":
            value = [(item.key, item.value) for item in value]
        if declared.name not in ("app_id", "partition_index", "server", "decree"):
            result[declared.name] = value
    return result


class Pair:
    """An engine and a model that get the same calls."""

    def __init__(self, random: Random) -> None:
        self.calls = Calls(random)
        self.random = random
        self.model = Model(index=1)
        self.count = 2
        self.engine = Engine(
            3, 1, server="s:1", clock=lambda: EPOCH + self.model.now + 0.5, envs=self.model.envs, random=random,
            limits=LIMITS,
        )  # fmt: skip
        self.decree = 0
        self.contexts: list[int] = []

    def step(self) -> None:
        chance = self.random.random()
        if chance < 0.45:
            self.write()
        elif chance < 0.65:
            rpc, argument = self.calls.read()
            response = self.engine.read(rpc, argument, partition_count=self.count)
            self.compare(rpc, argument, response, getattr(self.model, rpc.label)(argument))
        elif chance < 0.8 or (chance < 0.95 and not self.contexts):
            opening = self.calls.scanner()
            response = self.engine.read(rpcs.GET_SCANNER, opening, partition_count=self.count)
            self.compare_scan(rpcs.GET_SCANNER, opening, response, self.model.get_scanner(opening, self.count))
        elif chance < 0.95:
            context = self.random.choice(self.contexts[-4:])
            if self.random.random() < 0.1:
                self.engine.read(rpcs.CLEAR_SCANNER, context, partition_count=self.count)
                self.model.scans.pop(context, None)
            request = rrdb.ScanRequest(context)
            response = self.engine.read(rpcs.SCAN, request, partition_count=self.count)
            self.compare_scan(rpcs.SCAN, request, response, self.model.scan(context, self.count))
        else:
            self.change()

    def write(self) -> None:
        rpc, argument = self.calls.write(self.model.now)
        self.decree += 1
        response, batch = self.engine.write(rpc, argument, self.decree)
        self.engine.apply(batch, self.decree)
        self.compare(rpc, argument, response, getattr(self.model, rpc.label)(argument))
        assert (response.decree, response.server) == (self.decree, "s:1")  # type: ignore[attr-defined]

    def change(self) -> None:
        """Another event: time passes, envs change, the table splits, versions are swept, the replica is copied."""
        what = self.random.randrange(6)
        if what == 0:
            self.model.now += self.random.choice([1, 1, 2, 60, 299, 300])
        elif what == 1:
            self.model.envs["default_ttl"] = self.random.choice(["0", "2", "40"])
        elif what == 2:
            self.model.envs["replica.split.validate_partition_hash"] = self.random.choice(["true", "false"])
        elif what == 3:
            self.count = self.random.choice([2, 4])
        elif what == 4:
            self.engine.records.sweep()
        else:
            snapshot = self.engine.snapshot()
            assert list(snapshot.records.forward(b"", None)) == self.model.sorted_rows()
            if self.random.random() < 0.2:
                self.engine.load(snapshot)
                self.model.scans.clear()

    def compare_scan(self, rpc: Rpc, request: Any, response: Any, wanted: dict[str, Any]) -> None:
        following = wanted.pop("next", None)
        if following is not None:
            assert response.context_id not in (0, -1)
            assert response.context_id not in self.contexts
            self.contexts.append(response.context_id)
            self.model.scans[response.context_id] = following
            wanted["context_id"] = response.context_id
        self.compare(rpc, request, response, wanted)

    def compare(self, rpc: Rpc, argument: Any, response: Any, wanted: dict[str, Any]) -> None:
        got, fresh = fields_of(response), type(response)()
        assert (response.app_id, response.partition_index, response.server) == (3, 1, "s:1")
        assert got == {**fields_of(fresh), **wanted}, (rpc, argument, self.model.now, self.model.envs)

    def finish(self) -> None:
        """Without an open scan no old version may be left."""
        assert len(self.engine) == len(self.model.rows.keys() - {b""})
        self.engine.drop_contexts()
        records: Records = self.engine.records
        assert all(entry[0] is not None and entry[3] is None for entry in records._entries.values())
        assert list(records._keys) == sorted(records._entries) == sorted(self.model.rows)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False))
def test_short_random_walks_agree_with_the_model(random: Random) -> None:
    pair = Pair(random)
    for _ in range(40):
        pair.step()
    pair.finish()


@pytest.mark.parametrize("seed", range(8))
def test_long_random_walks_agree_with_the_model(seed: int) -> None:
    pair = Pair(Random(seed))
    for _ in range(3000):
        pair.step()
    pair.finish()
