"""Test the storage engine where neither the recordings nor the model test it."""

from __future__ import annotations

import logging
from random import Random
from typing import Any

import pytest

from pegasus_green.keys import AFTER_LAST_KEY, FIRST_KEY, crc64, encode_key, next_key
from pegasus_green.onebox.engine.integers import parse_int64
from pegasus_green.onebox.engine.records import SWEEP_FROM, Records
from pegasus_green.onebox.engine.state import EPOCH, Limits
from pegasus_green.onebox.engine.storage import Engine, Snapshot, wrong_key_hash
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol import rrdb
from pegasus_green.protocol.rpc import Rpc


class Box:
    """An engine, its clock and its envs."""

    def __init__(self, index: int = 0, seed: int = 1, limits: Limits | None = None) -> None:
        self.now = EPOCH + 1000.25
        self.envs: dict[str, str] = {}
        self.engine = Engine(
            2, index, server="s:1", clock=lambda: self.now, envs=self.envs, random=Random(seed), limits=limits
        )

    def write(self, rpc: Rpc, argument: Any, **options: Any) -> Any:
        decree = self.engine.last_decree + 1
        response, batch = self.engine.write(rpc, argument, decree, **options)
        if batch:
            self.engine.apply(batch, decree)
        return response

    def read(self, rpc: Rpc, argument: Any, partition_count: int = 8) -> Any:
        return self.engine.read(rpc, argument, partition_count=partition_count)

    def put(self, hash_key: bytes, sort_key: bytes, value: bytes = b"v", expire: int = 0) -> None:
        assert self.write(rpcs.PUT, rrdb.UpdateRequest(encode_key(hash_key, sort_key), value, expire)).error == 0

    def fill(self, count: int, hash_key: bytes = b"h", value: bytes = b"v") -> None:
        for number in range(count):
            self.put(hash_key, b"%05d" % number, value)

    def open(self, batch_size: int = 10, **options: Any) -> Any:
        """Open a scan of the whole partition."""
        options = {"full_scan": True, "start_inclusive": True, **options}
        return self.read(
            rpcs.GET_SCANNER, rrdb.GetScannerRequest(FIRST_KEY, AFTER_LAST_KEY, batch_size=batch_size, **options)
        )

    def scan(self, context_id: int, partition_count: int = 8) -> Any:
        return self.read(rpcs.SCAN, rrdb.ScanRequest(context_id), partition_count)

    def rest(self, response: Any) -> list[Any]:
        """Return the rows of a batch and all that follow it."""
        rows = list(response.kvs)
        while response.context_id != -1:
            response = self.scan(response.context_id)
            assert response.error == 0
            rows += response.kvs
        return rows


def multi_get(hash_key: bytes = b"h", **options: Any) -> rrdb.MultiGetRequest:
    return rrdb.MultiGetRequest(hash_key, start_inclusive=True, **options)


# --------------------------------------------------------------------------------------------------------- integers
@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"-0", 0),
        (b"+7", 7),
        (b" \t\n\v\f\r12", 12),
        (b"0x1F", 31),
        (b"-0X10", -16),
        (b"010", 8),
        (b"00", 0),
        (b"0x0000000000000000000000000000000001", 1),
        (b"0" * 100_000 + b"7", 7),
        (b"9223372036854775807", (1 << 63) - 1),
        (b"-9223372036854775808", -(1 << 63)),
        (b"01000000000000000000000", None),
        (b"0777777777777777777777", (1 << 63) - 1),
        (b"-01000000000000000000000", -(1 << 63)),
        (b"9223372036854775808", None),
        (b"0x8000000000000000", None),
        (b"9" * 100_000, None),
        (b"", None),
        (b" ", None),
        (b"+", None),
        (b"+ 1", None),
        (b"0x", None),
        (b"08", None),
        (b"0b1", None),
        (b"1 ", None),
        (b"1\n", None),
        (b"1\0", None),
        (b"1_0", None),
        ("\u0661".encode(), None),
        (b"\xa01", None),
        (b"1e3", None),
    ],
)
def test_integers(text: bytes, number: int | None) -> None:
    assert parse_int64(text) == number


# ------------------------------------------------------------------------------------- what kills a real server
BAD_KEYS = [b"", b"\0", b"\0\2a", b"\xff\xff" + b"x" * 100]
LONG = b"x" * 65535


@pytest.mark.parametrize("key", BAD_KEYS)
@pytest.mark.parametrize("rpc", [rpcs.GET, rpcs.TTL, rpcs.PUT, rpcs.REMOVE, rpcs.INCR, rpcs.GET_SCANNER], ids=str)
def test_malformed_keys_are_refused(rpc: Rpc, key: bytes, caplog: pytest.LogCaptureFixture) -> None:
    arguments = {
        rpcs.PUT: rrdb.UpdateRequest(key, b"v"),
        rpcs.INCR: rrdb.IncrRequest(key, 1),
        rpcs.GET_SCANNER: rrdb.GetScannerRequest(key, AFTER_LAST_KEY),
    }
    assert_refused(Box(), rpc, arguments.get(rpc, key), caplog)


@pytest.mark.parametrize(
    ("rpc", "argument"),
    [
        (rpcs.MULTI_GET, multi_get(LONG)),
        (rpcs.MULTI_GET, multi_get(LONG, sort_keys=[b"s"])),
        (rpcs.SORTKEY_COUNT, LONG),
        (rpcs.BATCH_GET, rrdb.BatchGetRequest([rrdb.FullKey(b"h", b""), rrdb.FullKey(LONG, b"")])),
        (rpcs.MULTI_PUT, rrdb.MultiPutRequest(LONG, [rrdb.KeyValue(b"s", b"v", None)])),
        (rpcs.MULTI_REMOVE, rrdb.MultiRemoveRequest(LONG, [b"s"])),
        (rpcs.CHECK_AND_SET, rrdb.CheckAndSetRequest(LONG, b"s")),
        (rpcs.CHECK_AND_MUTATE, rrdb.CheckAndMutateRequest(LONG, b"s", mutate_list=[rrdb.Mutate(0, b"s")])),
        (
            rpcs.GET_SCANNER,
            rrdb.GetScannerRequest(
                encode_key(b"a", b""), AFTER_LAST_KEY, hash_key_filter_type=2, hash_key_filter_pattern=b"b"
            ),
        ),
        (
            rpcs.GET_SCANNER,
            rrdb.GetScannerRequest(
                FIRST_KEY, AFTER_LAST_KEY, hash_key_filter_type=2, hash_key_filter_pattern=LONG, full_scan=True
            ),
        ),
    ],
    ids=lambda value: value.label if isinstance(value, Rpc) else "",
)
def test_requests_that_abort_a_real_server_are_refused(
    rpc: Rpc, argument: Any, caplog: pytest.LogCaptureFixture
) -> None:
    box = Box()
    box.put(b"h", b"")
    assert_refused(box, rpc, argument, caplog)


def assert_refused(box: Box, rpc: Rpc, argument: Any, caplog: pytest.LogCaptureFixture) -> None:
    before = len(box.engine)
    with caplog.at_level(logging.WARNING, "pegasus_green.onebox"):
        response = (box.write if rpc.is_write else box.read)(rpc, argument)
    assert response.error == 4
    assert "client bug" in caplog.text
    assert len(box.engine) == before
    # The answer to a refused request can be encoded.
    assert type(response).decode(response.encode())[0] == response


def test_the_longest_hash_key_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    box = Box()
    hash_key = b"x" * 65534
    box.put(hash_key, b"s")
    assert [kv.key for kv in box.read(rpcs.MULTI_GET, multi_get(hash_key)).kvs] == [b"s"]
    assert box.read(rpcs.SORTKEY_COUNT, hash_key).count == 1
    assert not caplog.text


def test_wrong_rpc() -> None:
    box = Box()
    with pytest.raises(ValueError, match="not a read"):
        box.read(rpcs.PUT, rrdb.UpdateRequest(FIRST_KEY))


def test_wrong_key_hash() -> None:
    key, hashed = encode_key(b"h", b"s"), crc64(b"h")
    put = rrdb.UpdateRequest(key, b"v")
    assert not wrong_key_hash(rpcs.PUT, put, hashed)
    assert not wrong_key_hash(rpcs.PUT, put, 0)
    assert wrong_key_hash(rpcs.PUT, put, hashed + 1)
    assert wrong_key_hash(rpcs.REMOVE, key, 1)
    assert not wrong_key_hash(rpcs.REMOVE, encode_key(b"", b"s"), crc64(b"s"))
    assert not wrong_key_hash(rpcs.INCR, rrdb.IncrRequest(key, 1), hashed + 1)
    assert not wrong_key_hash(rpcs.REMOVE, b"\0", 1)


# ------------------------------------------------------------------------------------------------- failed writes
def test_a_failed_write_has_a_decree_and_hides_a_record() -> None:
    box = Box()
    box.fill(3)
    reverse = multi_get(max_kv_count=3, reverse=True)
    assert box.read(rpcs.MULTI_GET, reverse).error == 0
    response = box.write(rpcs.CHECK_AND_SET, rrdb.CheckAndSetRequest(b"h", b"absent", 3))
    assert (response.error, response.decree, box.engine.last_decree) == (13, 4, 4)
    assert box.read(rpcs.MULTI_GET, reverse).error == 7
    assert len(box.engine) == 3
    assert len(box.rest(box.open())) == 3


@pytest.mark.parametrize(
    ("rpc", "argument"),
    [
        (rpcs.CHECK_AND_SET, rrdb.CheckAndSetRequest(b"h", b"absent", 3)),
        (rpcs.CHECK_AND_SET, rrdb.CheckAndSetRequest(b"h", b"absent", 18)),
        (rpcs.CHECK_AND_MUTATE, rrdb.CheckAndMutateRequest(b"h", b"absent", 0)),
        (rpcs.INCR, rrdb.IncrRequest(encode_key(b"h", b"text"), 1)),
    ],
    ids=["check", "check type", "no mutations", "incr"],
)
def test_atomic_idempotent_tables_do_not_replicate_failures(rpc: Rpc, argument: Any) -> None:
    box = Box()
    box.put(b"h", b"text", b"x")
    response = box.write(rpc, argument, atomic_idempotent=True)
    assert response.error in (4, 13)
    assert (response.decree, box.engine.last_decree) == (-1, 1)
    # Other failures are replicated as in other tables.
    assert box.write(rpcs.MULTI_PUT, rrdb.MultiPutRequest(b"h"), atomic_idempotent=True).decree == 2
    assert box.engine.last_decree == 2


# ------------------------------------------------------------------------------------------------------- limits
def test_a_multi_get_examines_3000_rows_at_most() -> None:
    box = Box()
    box.fill(3001)
    first = box.read(rpcs.MULTI_GET, multi_get())
    assert (first.error, len(first.kvs)) == (7, 3000)
    rest = box.read(rpcs.MULTI_GET, rrdb.MultiGetRequest(b"h", start_sortkey=first.kvs[-1].key))
    assert (rest.error, len(rest.kvs)) == (0, 1)
    # Filtered rows count as well: an empty answer can be incomplete.
    last = multi_get(sort_key_filter_type=1, sort_key_filter_pattern=b"03000")
    assert (box.read(rpcs.MULTI_GET, last).error, box.read(rpcs.MULTI_GET, last).kvs) == (7, [])
    named = multi_get(sort_keys=[b"00000"] * 3001)
    assert (box.read(rpcs.MULTI_GET, named).error, len(box.read(rpcs.MULTI_GET, named).kvs)) == (7, 3000)


def test_a_multi_get_ends_after_30_mib() -> None:
    box = Box()
    box.fill(31, value=b"x" * (1 << 20))
    response = box.read(rpcs.MULTI_GET, multi_get())
    assert (response.error, len(response.kvs)) == (7, 30)
    # The server has no byte limit for records requested by key.
    named = box.read(rpcs.MULTI_GET, multi_get(sort_keys=[b"%05d" % number for number in range(31)]))
    assert (named.error, len(named.kvs)) == (0, 31)


def test_a_batch_has_1000_rows_at_most() -> None:
    box = Box()
    box.fill(2001)
    for size in (0, -1, 1000, 5000):
        first = box.open(size)
        assert len(first.kvs) == 1000
        second = box.scan(first.context_id)
        assert len(second.kvs) == 1000
        assert second.context_id == first.context_id + 1
        assert [len(kvs) for kvs in [box.scan(second.context_id).kvs]] == [1]
    # The first batch looks at up to 1000 rows whatever its size, later ones at no more than that.
    options = {"sort_key_filter_type": 3, "sort_key_filter_pattern": b"500"}
    first = box.open(2, **options)
    assert [kv.key[-5:] for kv in first.kvs] == [b"00500"]
    assert box.scan(first.context_id).kvs == []


def test_time_limits_can_be_forced() -> None:
    box = Box()
    box.fill(600)
    assert box.read(rpcs.SORTKEY_COUNT, b"h").count == 600
    for env, count in (("1", -1), ("3", 600), ("0", 600), ("nonsense", 600)):
        box.envs["replica.rocksdb_iteration_threshold_time_ms"] = env
        assert box.read(rpcs.SORTKEY_COUNT, b"h").count == count
    box.envs["replica.rocksdb_iteration_threshold_time_ms"] = "1"
    for reverse in (False, True):
        response = box.read(rpcs.MULTI_GET, multi_get(reverse=reverse))
        assert (response.error, len(response.kvs)) == (7, 250)
    # A real server finishes a scan batch before it checks the clock.
    assert len(box.rest(box.open(1000))) == 600
    box.engine.time_limit_rows = 10
    assert len(box.read(rpcs.MULTI_GET, multi_get()).kvs) == 10
    box.engine.time_limit_rows = 600
    assert box.read(rpcs.SORTKEY_COUNT, b"h").count == 600


def test_scan_batches_can_be_made_incomplete() -> None:
    box = Box()
    box.fill(30)
    box.engine.force_incomplete(4, 100, 0)
    first = box.open()
    assert (first.error, len(first.kvs), first.context_id) == (7, 4, 0)
    second = box.open()
    assert (second.error, len(second.kvs)) == (0, 10)
    third = box.scan(second.context_id)
    assert (third.error, third.kvs, third.context_id) == (7, [], 0)
    assert box.scan(second.context_id).error == 1
    assert len(box.rest(box.open())) == 30
    assert len(box.engine.contexts) == 0


# ------------------------------------------------------------------------------------------------------ contexts
def test_context_ids_have_both_signs_and_avoid_reserved_values() -> None:
    signs = []
    for seed in range(40):
        box = Box(seed=seed)
        box.fill(20)
        context_id = box.open().context_id
        assert context_id & 0xFFFFFFFF == 0
        assert -(1 << 63) <= context_id < 1 << 63
        assert context_id not in (0, -1)
        signs.append(context_id < 0)
    assert 10 < sum(signs) < 30


def test_a_context_expires_five_minutes_after_its_batch() -> None:
    box = Box()
    box.fill(40)
    first, other = box.open(), box.open()
    box.now += 299
    second = box.scan(first.context_id)
    assert second.error == 0
    box.now += 1
    assert box.scan(other.context_id).error == 1
    assert len(box.engine.contexts) == 1
    box.now += 298.5
    third = box.scan(second.context_id)
    assert third.error == 0
    box.now += 300
    late = box.scan(third.context_id)
    assert (late.error, late.kvs, late.context_id) == (1, [], 0)


def test_a_context_is_used_once_and_can_be_cleared() -> None:
    box = Box()
    box.fill(40)
    first = box.open()
    assert box.scan(first.context_id).error == 0
    assert box.scan(first.context_id).error == 1
    second = box.open()
    assert box.read(rpcs.CLEAR_SCANNER, second.context_id) is None
    assert box.read(rpcs.CLEAR_SCANNER, 12345) is None
    assert box.scan(second.context_id).error == 1


def test_a_scan_reads_the_state_at_its_beginning() -> None:
    box = Box()
    box.fill(40)
    first = box.open()
    before = [(kv.key, kv.value) for kv in first.kvs]
    box.write(rpcs.MULTI_REMOVE, rrdb.MultiRemoveRequest(b"h", [b"%05d" % number for number in range(20, 40)]))
    box.fill(30, value=b"new")
    box.put(b"h", b"00015x")
    seen = before + [(kv.key, kv.value) for kv in box.rest(first)[len(before) :]]
    assert seen == [(encode_key(b"h", b"%05d" % number), b"v") for number in range(40)]
    assert len(box.rest(box.open())) == 31


def test_expiry_is_checked_at_the_time_of_the_batch() -> None:
    box = Box()
    box.fill(10)
    box.put(b"h", b"x", expire=1010)
    first = box.open(return_expire_ts=True)
    assert [kv.expire_ts_seconds for kv in first.kvs] == [0] * 10
    box.now += 9.5
    assert [kv.expire_ts_seconds for kv in box.scan(first.context_id).kvs] == [1010]
    first = box.open()
    box.now += 0.5
    last = box.scan(first.context_id)
    assert (last.kvs, last.context_id) == ([], -1)


def test_after_a_split_foreign_rows_are_hidden() -> None:
    box = Box(index=1)
    keys = [key for key in (b"%d" % number for number in range(200)) if crc64(key) % 2 == 1]
    for key in keys:
        box.put(key, b"")
    mine = {key for key in keys if crc64(key) % 4 == 1}
    assert 0 < len(mine) < len(keys)
    first = box.read(rpcs.GET_SCANNER, whole(10), partition_count=2)
    box.envs["replica.split.validate_partition_hash"] = "true"
    rows, response = list(first.kvs), first
    while response.context_id != -1:
        response = box.scan(response.context_id, partition_count=4)
        rows += response.kvs
    assert {kv.key[2:] for kv in rows} == {kv.key[2:] for kv in first.kvs} | {
        key for key in mine if encode_key(key, b"") > first.kvs[-1].key
    }
    assert len(box.rest(box.read(rpcs.GET_SCANNER, whole(1000), partition_count=4))) == len(mine)
    unchecked = box.read(rpcs.GET_SCANNER, whole(1000, validate_partition_hash=False), partition_count=4)
    assert len(unchecked.kvs) == len(keys)


def whole(batch_size: int, **options: Any) -> rrdb.GetScannerRequest:
    options = {"full_scan": True, "start_inclusive": True, **options}
    return rrdb.GetScannerRequest(FIRST_KEY, AFTER_LAST_KEY, batch_size=batch_size, **options)


# ------------------------------------------------------------------------------------------------------ versions
def versions(records: Records, key: bytes) -> int:
    count, entry = 0, records.get(key)
    while entry is not None:
        count, entry = count + 1, entry[3]
    return count


def test_old_versions_are_kept_only_for_pins() -> None:
    records = Records()
    for number in range(5):
        records.apply([(b"k", (b"%d" % number, 0))])
    assert versions(records, b"k") == 1
    pin = records.pin()
    for number in range(5):
        records.apply([(b"k", (b"%d" % number, 0))])
    # No reader sees the versions between the pin and now.
    assert versions(records, b"k") == 2
    second = records.pin()
    records.apply([(b"k", None)])
    records.apply([(b"k", None)])
    assert versions(records, b"k") == 3
    assert (len(records), b"k" in records) == (0, False)
    assert [list(records.forward(b"", None, at)) for at in (None, pin, second)] == [
        [],
        [(b"k", b"4", 0)],
        [(b"k", b"4", 0)],
    ]
    records.unpin(second)
    records.sweep()
    assert versions(records, b"k") == 2
    records.apply([(b"k", (b"again", 0))])
    assert versions(records, b"k") == 2
    records.unpin(pin)
    assert versions(records, b"k") == 1
    records.apply([(b"k", (b"more", 0))])
    assert versions(records, b"k") == 1


def test_a_released_pin_is_not_the_newest() -> None:
    records = Records([(b"k", (b"0", 0))])
    old = records.pin()
    records.apply([(b"k", (b"1", 0))])
    young = records.pin()
    assert young != old
    records.unpin(young)
    records.apply([(b"k", (b"2", 0))])
    assert versions(records, b"k") == 2
    assert list(records.forward(b"", None, old)) == [(b"k", b"0", 0)]


def test_pins_of_one_moment_are_counted() -> None:
    records = Records([(b"k", (b"0", 0))])
    pins = [records.pin(), records.pin()]
    records.unpin(pins[0])
    records.apply([(b"k", None)])
    assert list(records.forward(b"", None, pins[1])) == [(b"k", b"0", 0)]
    records.unpin(pins[1])
    assert records.get(b"k") is None


def test_the_memory_of_many_scans_is_limited() -> None:
    box = Box()
    box.fill(50)
    for number in range(20_000):
        # Ten scans are always open, each replaced after a while; without sweeps each write would leave a version.
        if number % 100 == 0:
            opened = box.open()
        if number % 1000 == 999:
            box.read(rpcs.CLEAR_SCANNER, opened.context_id)
        if number % 5 == 0:
            box.now += 1
        box.put(b"h", b"%05d" % (number % 50))
    records = box.engine.records
    kept = sum(versions(records, encode_key(b"h", b"%05d" % number)) - 1 for number in range(50))
    assert kept <= records.kept <= 2 * SWEEP_FROM
    box.now += 300
    box.scan(0)
    assert len(box.engine.contexts) == 0
    assert records.kept == 0


def test_scans_do_not_copy() -> None:
    box = Box()
    rows = [(encode_key(b"h", b"%06d" % number), (b"v", 0)) for number in range(50_000)]
    box.engine.load(Snapshot(7, Records(rows)))
    assert box.engine.last_decree == 7
    opened = [box.open(1) for _ in range(2000)]
    assert len(box.engine.contexts) == 2000
    box.put(b"h", b"000001", b"new")
    assert {box.scan(response.context_id).kvs[0].value for response in opened} == {b"v"}
    assert versions(box.engine.records, encode_key(b"h", b"000001")) == 2


# ------------------------------------------------------------------------------------------ envs, copies, compaction
def test_default_ttl_outlives_its_env() -> None:
    box = Box()
    key = encode_key(b"h", b"s")
    box.envs["default_ttl"] = "100"
    box.put(b"h", b"s")
    assert box.read(rpcs.TTL, key).ttl_seconds == 100
    del box.envs["default_ttl"]
    box.put(b"h", b"s")
    assert box.read(rpcs.TTL, key).ttl_seconds == 100
    box.envs["default_ttl"] = "0"
    box.put(b"h", b"s")
    assert box.read(rpcs.TTL, key).ttl_seconds == -1


def test_a_copy_is_the_same_and_independent() -> None:
    box, other = Box(), Box(index=1)
    box.fill(20)
    box.put(b"h", b"old", expire=1)
    box.write(rpcs.MULTI_PUT, rrdb.MultiPutRequest(b"h"))
    context_id = box.open().context_id
    box.write(rpcs.REMOVE, encode_key(b"h", b"00000"))
    snapshot = box.engine.snapshot()
    assert "rows=21" in repr(snapshot)
    other.put(b"gone", b"")
    opened = other.open(1)
    other.engine.load(snapshot)
    assert other.scan(opened.context_id).error == 1
    box.put(b"h", b"later")
    assert (len(other.engine), other.engine.last_decree) == (20, 23)
    assert len(other.rest(other.open())) == 19
    assert rows_of(other.engine.snapshot()) == rows_of(snapshot)
    assert len(box.scan(context_id).kvs) == 10


def rows_of(snapshot: Snapshot) -> list[tuple[bytes, bytes, int]]:
    return list(snapshot.records.forward(b"", None))


def test_batches_make_secondaries_equal() -> None:
    box, secondary = Box(), Box()
    for number in range(50):
        request = rrdb.IncrRequest(encode_key(b"h", b"%d" % (number % 7)), number)
        _, batch = box.engine.write(rpcs.INCR, request, number + 1)
        box.engine.apply(batch, number + 1)
        secondary.engine.apply(batch, number + 1)
    assert rows_of(secondary.engine.snapshot()) == rows_of(box.engine.snapshot())


def test_compaction() -> None:
    box = Box(index=1)
    keys = [b"%d" % number for number in range(50)]
    for key in keys:
        box.put(key, b"s")
        box.put(key, b"t", expire=1001)
    box.write(rpcs.MULTI_PUT, rrdb.MultiPutRequest(b"h"))
    opened = box.open(1)
    box.now += 1
    assert len(box.engine.compact(4)) == 50
    assert len(box.engine) == 50
    box.envs.update({"replica.split.validate_partition_hash": "true", "default_ttl": "60"})
    mine = [key for key in keys if crc64(key) % 4 == 1]
    assert sum(record is None for _, record in box.engine.compact(4)) == 50 - len(mine)
    assert len(box.engine) == len(mine)
    assert {box.read(rpcs.TTL, encode_key(key, b"s")).ttl_seconds for key in mine} == {60}
    assert not any(record is None for _, record in box.engine.compact(4))
    # An open scan reads the old state without expired rows.
    box.envs.clear()
    assert len(box.rest(opened)) == 50
    # The hidden record stays.
    reverse = box.read(rpcs.MULTI_GET, multi_get(mine[0], max_kv_count=1, reverse=True))
    assert reverse.error == 7


def test_contexts_can_be_dropped() -> None:
    box = Box()
    box.fill(20)
    opened = box.open()
    assert "contexts=1" in repr(box.engine)
    box.engine.drop_contexts()
    assert box.scan(opened.context_id).error == 1
    box.engine.close()
    assert len(box.engine) == 0


def test_next_key_of_a_confined_scan() -> None:
    box = Box()
    for hash_key in (b"\xff\xff", b"\xff\xfe", b"aaa"):
        box.put(hash_key, b"s")
    start = encode_key(b"\xff\xff", b"")
    assert next_key(start) == b"\0\3"
    response = box.read(rpcs.GET_SCANNER, rrdb.GetScannerRequest(start, AFTER_LAST_KEY, start_inclusive=True))
    assert [kv.key for kv in response.kvs] == [encode_key(b"\xff\xff", b"s")]
    assert response.context_id == -1


def test_default_ttl_is_known_without_a_write_in_between() -> None:
    box = Box()
    box.envs["default_ttl"] = "100"
    box.engine.adopt_default_ttl()
    del box.envs["default_ttl"]
    box.put(b"h", b"s")
    assert box.read(rpcs.TTL, encode_key(b"h", b"s")).ttl_seconds == 100
