"""Test get, set, remove, exist, ttl, touch and incr on one record."""

from __future__ import annotations

import math
from typing import Any

import gevent
import pytest

from pegasus_green import (
    CallInfo,
    Client,
    IntegerOverflow,
    InvalidArgument,
    NotAnInteger,
    PegasusError,
    Table,
    TableNotFound,
)
from pegasus_green.protocol.rpc import PUT
from tests.conftest import Cluster
from tests.integration.helpers import BINARY, nearly, no_client_bugs, pass_time, refused

__all__ = ["no_client_bugs"]

I64_MAX, I64_MIN = 2**63 - 1, -(2**63)


# ----------------------------------------------------------------------------------------------------- get, set, remove
@pytest.mark.parametrize("value", [b"", b"value", BINARY * 3, b"x" * 100_000, b"\0"], ids=len)
def test_a_value_comes_back_as_it_was(table: Table, hash_key: bytes, value: bytes) -> None:
    table.set(hash_key, "s", value)
    assert table.get(hash_key, "s") == value
    assert type(table.get(hash_key, b"s")) is bytes


@pytest.mark.parametrize("sort_key", [b"", b"s", BINARY, b"\xff\xff\xff", b"k" * 10_000], ids=len)
def test_sort_keys_of_all_kinds(table: Table, hash_key: bytes, sort_key: bytes) -> None:
    for raw in (hash_key, hash_key + BINARY):
        table.set(raw, sort_key, b"v")
        assert table.get(raw, sort_key) == b"v"
        assert table.exist(raw, sort_key)
        table.remove(raw, sort_key)
        assert table.get(raw, sort_key) is None


def test_str_is_utf8(table: Table, hash_key: bytes) -> None:
    table.set(hash_key.decode(), "sört", "wért")
    assert table.get(hash_key, "sört".encode()) == "wért".encode()


def test_bytes_like_arguments_are_accepted(table: Table, hash_key: bytes) -> None:
    table.set(bytearray(hash_key), memoryview(b"s"), bytearray(b"v"))
    assert table.get(memoryview(hash_key), bytearray(b"s")) == b"v"


def test_an_empty_hash_key_spreads_by_the_sort_key(table: Table, hash_key: bytes) -> None:
    keys = [hash_key + b"-%d" % index for index in range(16)]
    for key in keys:
        table.set(b"", key, key)
    assert [table.get(b"", key) for key in keys] == keys
    infos = [CallInfo() for _ in keys]
    for key, info in zip(keys, infos):
        assert table.ttl("", key, info=info) == math.inf
        assert table.incr("", key + b"n", 5) == 5
        table.remove(b"", key)
        table.remove(b"", key + b"n")
    assert not any(table.exist(b"", key) for key in keys)
    assert len({info.partition for info in infos}) > 1


def test_a_record_with_two_empty_keys_is_stored_and_removed(table: Table) -> None:
    table.set(b"", b"", b"nothing")
    assert table.get("") == b"nothing"
    table.remove(b"")
    assert table.get(b"", default=b"gone") == b"gone"


def test_the_longest_hash_key(table: Table, hash_key: bytes) -> None:
    longest = hash_key.ljust(65534, b"x")
    table.set(longest, "s", "v")
    assert table.get(longest, "s") == b"v"
    table.remove(longest, "s")


def test_reads_of_an_absent_record(table: Table, hash_key: bytes) -> None:
    assert table.get(hash_key, "none") is None
    assert table.get(hash_key, "none", default=7) == 7
    assert table.exist(hash_key, "none") is False
    assert table.ttl(hash_key, "none") is None
    assert table.remove(hash_key, "none") is None  # type: ignore[func-returns-value]


def test_an_empty_value_is_not_absent(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "s", b"")
    assert table.get(hash_key, "s", default="absent") == b""
    assert table.exist(hash_key, "s")


def test_set_replaces_value_and_expiry(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "s", "1", ttl=100)
    table.set(hash_key, "s", "2")
    assert (table.get(hash_key, "s"), table.ttl(hash_key, "s")) == (b"2", math.inf)


def test_the_largest_write(cluster: Cluster, hash_key: bytes) -> None:
    """The body may have 1,048,576 bytes, including the constant parts of the request."""
    key_size = 2 + len(hash_key) + 1
    room = 1024 * 1024 - PUT.body_base - (3 + 3 + 4 + key_size + 3 + 4 + 3 + 4 + 1 + 1)
    with Client(cluster.metas, timeout=10) as client:
        table = client.table(cluster.table)
        table.set(hash_key, "s", bytes(room))
        assert len(table.get(hash_key, "s", default=b"")) == room
        with pytest.raises(InvalidArgument, match="1048577 bytes; max_write_bytes is 1048576"):
            table.set(hash_key, "s", bytes(room + 1))
    with Client(cluster.metas, max_write_bytes=None) as client:
        with pytest.raises(PegasusError) as caught:
            client.table(cluster.table).set(hash_key, "s", bytes(room + 1))
        assert caught.value.code == "ERR_INVALID_DATA"
        assert not caught.value.outcome_unknown


def test_a_missing_table(client: Client, hash_key: bytes) -> None:
    table = client.table("no_such_table_" + hash_key.hex())
    for call in (table.get, table.remove, table.exist, table.ttl, table.incr):
        with pytest.raises(TableNotFound) as caught:
            call(hash_key, "s")
        assert caught.value.table == table.name


# ----------------------------------------------------------------------------------------------------------------- ttl
def test_ttls(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "never", "v")
    table.set(hash_key, "zero", "v", ttl=0)
    table.set(hash_key, "minute", "v", ttl=60)
    table.set(hash_key, "fraction", "v", ttl=59.2)
    table.set(hash_key, "decades", "v", ttl=50 * 365 * 86400)
    assert table.ttl(hash_key, "never") == table.ttl(hash_key, "zero") == math.inf
    table.set(hash_key, "copy", "v", ttl=table.ttl(hash_key, "never"))
    assert table.ttl(hash_key, "copy") == math.inf
    assert nearly(table.ttl(hash_key, "minute"), 60)
    assert nearly(table.ttl(hash_key, "fraction"), 60)
    assert type(table.ttl(hash_key, "minute")) is int
    assert 0 <= 50 * 365 * 86400 - (table.ttl(hash_key, "decades") or 0) <= 2


def test_expiry(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "s", "v", ttl=10 if cluster.box else 2)
    assert table.get(hash_key, "s") == b"v"
    pass_time(cluster, 11 if cluster.box else 3)
    assert table.get(hash_key, "s") is None
    assert table.ttl(hash_key, "s") is None
    assert not table.exist(hash_key, "s")
    table.remove(hash_key, "s")


@pytest.mark.onebox_only
def test_the_ttl_decreases_and_is_at_least_one(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "s", "v", ttl=10)
    cluster.box.advance(2)
    assert table.ttl(hash_key, "s") in (7, 8)
    cluster.box.advance(6.5)
    assert table.ttl(hash_key, "s") in (1, 2)
    cluster.box.advance(2)
    assert table.ttl(hash_key, "s") is None


def test_a_negative_expiry_is_read_as_unsigned(table: Table, hash_key: bytes) -> None:
    """The expiry is unsigned in the server; the TTL arrives as a negative number, and only -1 means "none"."""
    from pegasus_green.keys import crc64
    from pegasus_green.protocol import fast

    argument = fast.put_argument(hash_key, b"s", b"v", -1)
    table._done(PUT, table._call(PUT, crc64(hash_key), argument))
    left = table.ttl(hash_key, "s")
    assert left is not None
    assert 2**31 < left < 2**32
    table.remove(hash_key, "s")


@pytest.mark.onebox_only
def test_a_default_ttl_of_the_table(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "old", "v")
    cluster.box.set_envs(cluster.table, {"default_ttl": "60"})
    try:
        table.set(hash_key, "new", "v")
        assert nearly(table.ttl(hash_key, "new"), 60)
        table.set(hash_key, "own", "v", ttl=500)
        assert nearly(table.ttl(hash_key, "own"), 500)
        assert table.ttl(hash_key, "old") == math.inf
        assert table.incr(hash_key, "n", ttl=0) == 1
        assert nearly(table.ttl(hash_key, "n"), 60)
    finally:
        cluster.box.set_envs(cluster.table, {"default_ttl": "0"})


# --------------------------------------------------------------------------------------------------------------- touch
def test_touch_changes_the_expiry_only(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    for value in (b"", b"value", b"12", BINARY, b"x" * 500_000):
        table.set(hash_key, "s", value, ttl=30)
        assert table.touch(hash_key, "s", 600) is True
        assert nearly(table.ttl(hash_key, "s"), 600)
        assert table.touch(hash_key, "s", None)
        assert table.ttl(hash_key, "s") == math.inf
        assert table.touch(hash_key, "s", 3.1)
        assert nearly(table.ttl(hash_key, "s"), 4)
        assert table.get(hash_key, "s") == value
    pass_time(cluster, 5)
    assert table.touch(hash_key, "s", 600) is False
    assert table.get(hash_key, "s") is None


def test_touch_of_an_absent_record(table: Table, hash_key: bytes) -> None:
    assert table.touch(hash_key, "none", 10) is False
    assert not table.exist(hash_key, "none")


def test_touch_does_not_overwrite_a_concurrent_write(
    table: Table, hash_key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another caller writes, and then removes, between the read and the write of touch."""
    table.set(hash_key, "s", "old", ttl=30)
    written = table._write
    interference: list[Any] = [lambda: table.set(hash_key, "s", "new")]

    def write(*arguments: Any) -> Any:
        if arguments[0].label == "check_and_set" and interference:
            interference.pop()()
        return written(*arguments)

    monkeypatch.setattr(type(table), "_write", lambda _self, *arguments: write(*arguments))
    assert table.touch(hash_key, "s", 600) is True
    assert (table.get(hash_key, "s"), (table.ttl(hash_key, "s") or 0) > 500) == (b"new", True)
    interference.append(lambda: table.remove(hash_key, "s"))
    assert table.touch(hash_key, "s", 600) is False
    assert table.get(hash_key, "s") is None


def test_touch_of_a_value_that_is_too_large(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "s", bytes(600_000))
    with pytest.raises(InvalidArgument, match="max_write_bytes"):
        table.touch(hash_key, "s", 10)
    assert table.ttl(hash_key, "s") == math.inf


# ---------------------------------------------------------------------------------------------------------------- incr
def test_incr_of_an_absent_record_starts_at_zero(table: Table, hash_key: bytes) -> None:
    assert table.incr(hash_key, "n") == 1
    assert table.incr(hash_key, "n", 100) == 101
    assert table.incr(hash_key, "n", 0) == 101
    assert table.incr(hash_key, "n", -102) == -1
    assert table.get(hash_key, "n") == b"-1"
    table.remove(hash_key, "n")
    assert table.incr(hash_key, "n", 200) == 200
    assert type(table.incr(hash_key, "n")) is int


# What C's strtoll with base 0 makes of the whole text.
@pytest.mark.parametrize(
    ("value", "increment", "expected"),
    [
        (b"", 0, 0),
        (b"", 7, 7),
        (b"0", 5, 5),
        (b"-5", 3, -2),
        (b"+5", 3, 8),
        (b" \t7", 1, 8),
        (b"0x1F", 1, 32),
        (b"-0x10", 0, -16),
        (b"010", 1, 9),
        (b"%d" % I64_MAX, 0, I64_MAX),
        (b"%d" % I64_MAX, I64_MIN, -1),
        (b"%d" % I64_MIN, 0, I64_MIN),
        (b"%d" % (I64_MAX - 1), 1, I64_MAX),
        (b"%d" % (I64_MIN + 1), -1, I64_MIN),
        (b"-1", I64_MIN + 1, I64_MIN),
    ],
)
def test_incr_of_integer_values(table: Table, hash_key: bytes, value: bytes, increment: int, expected: int) -> None:
    table.set(hash_key, "n", value)
    assert table.incr(hash_key, "n", increment) == expected
    assert table.get(hash_key, "n") == b"%d" % expected


@pytest.mark.parametrize(
    "value",
    [b"x", b"1x", b"1 ", b"1\0", b"08", b"0x", b"1.5", b"1_0", b"--1", b" ", b"9223372036854775808", "٣".encode()],
)
def test_incr_of_a_value_that_is_not_an_integer(table: Table, hash_key: bytes, value: bytes) -> None:
    table.set(hash_key, "n", value, ttl=100)
    with pytest.raises(NotAnInteger) as caught:
        table.incr(hash_key, "n")
    assert isinstance(caught.value, ValueError)
    assert (caught.value.status, caught.value.operation, caught.value.table) == (4, "incr", table.name)
    assert not caught.value.outcome_unknown
    assert table.get(hash_key, "n") == value
    assert (table.ttl(hash_key, "n") or 0) > 90


@pytest.mark.parametrize(
    ("old", "increment"),
    [(I64_MAX, 1), (I64_MIN, -1), (1, I64_MAX), (-2, I64_MIN + 1), (I64_MAX, I64_MAX), (I64_MIN, I64_MIN)],
)
def test_incr_beyond_64_bits(table: Table, hash_key: bytes, old: int, increment: int) -> None:
    table.set(hash_key, "n", b"%d" % old)
    with pytest.raises(IntegerOverflow, match=str(old)) as caught:
        table.incr(hash_key, "n", increment)
    assert isinstance(caught.value, OverflowError)
    assert caught.value.old_value == old
    assert table.get(hash_key, "n") == b"%d" % old


def test_ttl_of_incr(table: Table, hash_key: bytes) -> None:
    """None keeps the TTL, 0 and infinity clear it, more sets it."""
    assert table.incr(hash_key, "n", ttl=100) == 1
    assert nearly(table.ttl(hash_key, "n"), 100)
    table.incr(hash_key, "n")
    assert nearly(table.ttl(hash_key, "n"), 100)
    table.incr(hash_key, "n", ttl=200.5)
    assert nearly(table.ttl(hash_key, "n"), 201)
    table.incr(hash_key, "n", ttl=0)
    assert table.ttl(hash_key, "n") == math.inf
    table.incr(hash_key, "n", ttl=100)
    table.incr(hash_key, "n", ttl=math.inf)
    assert table.ttl(hash_key, "n") == math.inf
    table.incr(hash_key, "n")
    assert table.ttl(hash_key, "n") == math.inf
    table.incr(hash_key, "new", ttl=0)
    assert table.ttl(hash_key, "new") == math.inf


def test_incr_of_an_expired_record_begins_anew(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "n", "50", ttl=1)
    pass_time(cluster, 2)
    assert table.incr(hash_key, "n", 3) == 3
    assert table.ttl(hash_key, "n") == math.inf


def test_incr_from_many_greenlets(table: Table, hash_key: bytes) -> None:
    jobs = [gevent.spawn(table.incr, hash_key, "n") for _ in range(200)]
    gevent.joinall(jobs, raise_error=True)
    assert sorted(job.get() for job in jobs) == list(range(1, 201))


@pytest.mark.onebox_only
def test_incr_is_not_repeated_when_its_outcome_is_unknown(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.incr(hash_key, "n")
    cluster.box.fault("cut", rpc="incr", when="after", contains=hash_key, count=1)
    with pytest.raises(PegasusError) as caught:
        table.incr(hash_key, "n", 10)
    assert caught.value.outcome_unknown
    assert table.get(hash_key, "n") == b"11"


@pytest.mark.onebox_only
def test_incr_that_a_server_refused_is_repeated(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    cluster.box.fault("error", error="ERR_CAPACITY_EXCEEDED", rpc="incr", contains=hash_key, count=2)
    info = CallInfo()
    assert table.incr(hash_key, "n", info=info) == 1
    assert info.attempts == 3


# ----------------------------------------------------------------------------------------------------- info, arguments
def test_info_receives_partition_decree_server_and_attempts(table: Table, hash_key: bytes) -> None:
    info = CallInfo()
    table.set(hash_key, "s", "1", info=info)
    decree = info.decree
    assert decree > 0
    assert ":" in info.server
    assert info.app_id > 0
    table.incr(hash_key, "s", info=info)
    assert info.decree > decree
    table.remove(hash_key, "s", info=info)
    partition = info.partition
    for read in (table.get, table.ttl, table.exist):
        info = CallInfo()
        read(hash_key, "s", info=info)
        assert (info.partition, info.decree, info.attempts) == (partition, -1, 1)


BAD_KEYS = [7, None, 1.5, ["x"], "\ud800"]


@pytest.mark.parametrize("verb", ["get", "set", "remove", "exist", "ttl", "incr", "touch"])
def test_bad_keys_are_not_sent(client: Client, table: Table, verb: str) -> None:
    extra = {"set": ("v",), "touch": (9,)}.get(verb, ())
    for bad in BAD_KEYS:
        refused(client, lambda bad=bad: getattr(table, verb)(bad, "s", *extra), "hash_key")
        refused(client, lambda bad=bad: getattr(table, verb)("h", bad, *extra), "sort_key")
    refused(client, lambda: getattr(table, verb)(b"x" * 65535, "s", *extra), "65535", "65534")


def test_touch_refuses_an_empty_hash_key(client: Client, table: Table) -> None:
    refused(client, lambda: table.touch("", "s", 9), "hash_key must not be empty")


@pytest.mark.parametrize("ttl", [-1, -0.001, -math.inf, math.nan, 2**31, "60", "", []])
def test_bad_ttls_are_not_sent(client: Client, table: Table, ttl: Any) -> None:
    refused(client, lambda: table.set("h", "s", "v", ttl=ttl), "ttl")
    refused(client, lambda: table.incr("h", "s", ttl=ttl), "ttl")
    refused(client, lambda: table.touch("h", "s", ttl), "ttl")


@pytest.mark.parametrize("value", [7, None, 1.5, ["x"], {"a": 1}, True])
def test_bad_values_are_not_sent(client: Client, table: Table, value: Any) -> None:
    refused(client, lambda: table.set("h", "s", value), "value")


@pytest.mark.parametrize("increment", [1.0, "1", None, True, 2**63, -(2**63) - 1])
def test_bad_increments_are_not_sent(client: Client, table: Table, increment: Any) -> None:
    refused(client, lambda: table.incr("h", "s", increment), "increment")


@pytest.mark.parametrize("verb", ["get", "remove", "exist", "ttl", "incr", "touch"])
@pytest.mark.parametrize("timeout", [0, -1, "2", math.nan])
def test_bad_timeouts_are_not_sent(client: Client, table: Table, verb: str, timeout: Any) -> None:
    extra = (9,) if verb == "touch" else ()
    refused(client, lambda: getattr(table, verb)("h", "s", *extra, timeout=timeout), "timeout")
