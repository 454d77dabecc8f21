"""Test keys: hash, encoding, order, and the bounds of ranges."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pegasus_green import keys
from pegasus_green.errors import InvalidArgument
from pegasus_green.keys import (
    AFTER_LAST_KEY,
    FIRST_KEY,
    MAX_HASH_KEY,
    check_hash_key,
    crc64,
    decode_key,
    encode_key,
    next_key,
    partition_hash,
    to_bytes,
)


def test_text_keys_are_encoded_as_utf8() -> None:
    assert encode_key("ü", "s") == encode_key("ü".encode(), bytearray(b"s")) == b"\0\x02\xc3\xbcs"
    assert partition_hash("user:7") == partition_hash(b"user:7", "any") == crc64(b"user:7")
    assert partition_hash("", "s") == partition_hash(b"", b"s") == crc64(b"s")
    assert next_key("ab") == b"ac"


def test_a_hash_key_has_a_length_limit() -> None:
    assert len(encode_key(bytes(MAX_HASH_KEY))) == MAX_HASH_KEY + 2
    with pytest.raises(InvalidArgument, match="hash_key has 65535 bytes; the limit is 65534"):
        encode_key(bytes(MAX_HASH_KEY + 1))
    for call in (encode_key, partition_hash, next_key):
        with pytest.raises(InvalidArgument, match="must be bytes or str, not int"):
            call(7)  # type: ignore[arg-type]


BYTES = st.binary(max_size=12)
# Bytes at the edges of the order.
EDGES = st.lists(st.sampled_from([0, 1, 0x7F, 0xFE, 0xFF]), max_size=5).map(bytes)
KEYS = BYTES | EDGES


def bitwise(data: bytes) -> int:
    """CRC-64/NVME, one bit at a time."""
    register = 2**64 - 1
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x9A6C9329AC4BC9B5 if register & 1 else 0)
    return register ^ 2**64 - 1


# ----------------------------------------------------------------------------------------------------------------- hash
@pytest.mark.parametrize(
    ("key", "hashed", "mod_4", "mod_8"),
    [
        (b"", 0, 0, 0),
        (b"a", 10101437924136188988, 0, 4),
        (b"hello", 3708579534351778391, 3, 7),
        (b"user1", 7981776058791923768, 0, 0),
        (b"pegasus", 14881874281506632644, 0, 4),
        (b"123456789", 0xAE8B14860A799888, 0, 0),
        (bytes(range(16)), 14944162678773995040, 0, 0),
        ("\u952e".encode(), 0xCC398DBD777C602F, 3, 7),
    ],
)
def test_hashes_equal_published_values(key: bytes, hashed: int, mod_4: int, mod_8: int) -> None:
    assert crc64(key) == hashed == bitwise(key) == partition_hash(key)
    assert (hashed % 4, hashed % 8) == (mod_4, mod_8)


@given(st.binary(max_size=200))
def test_the_hash_equals_a_bitwise_crc64(data: bytes) -> None:
    assert crc64(data) == bitwise(data)
    assert 0 <= crc64(data) < 2**64


@given(KEYS, KEYS)
def test_the_sort_key_is_hashed_if_the_hash_key_is_empty(hash_key: bytes, sort_key: bytes) -> None:
    assert partition_hash(hash_key, sort_key) == bitwise(hash_key or sort_key)
    assert partition_hash(b"", sort_key) == bitwise(sort_key)
    assert partition_hash(hash_key) == bitwise(hash_key)


# ------------------------------------------------------------------------------------------------------------- encoding
@pytest.mark.parametrize(
    ("hash_key", "sort_key", "raw"),
    [
        (b"hello", b"name", "0005 68656c6c6f 6e616d65"),
        (b"", b"x", "0000 78"),
        (b"", b"", "0000"),
        (b"ab", b"", "0002 6162"),
    ],
)
def test_encoded_keys(hash_key: bytes, sort_key: bytes, raw: str) -> None:
    assert encode_key(hash_key, sort_key) == bytes.fromhex(raw)
    assert decode_key(bytes.fromhex(raw)) == (hash_key, sort_key)


@given(KEYS | st.sampled_from([b"h" * 255, b"h" * 256, b"h" * MAX_HASH_KEY]), KEYS)
def test_encoded_keys_are_decoded(hash_key: bytes, sort_key: bytes) -> None:
    raw = encode_key(hash_key, sort_key)
    assert decode_key(raw) == (hash_key, sort_key)
    assert FIRST_KEY <= raw < AFTER_LAST_KEY


@given(KEYS, KEYS, KEYS, KEYS)
def test_the_order_is_by_length_of_the_hash_key_then_by_its_bytes_then_by_sort_key(
    hash_key: bytes, sort_key: bytes, other_hash: bytes, other_sort: bytes
) -> None:
    encoded = encode_key(hash_key, sort_key) < encode_key(other_hash, other_sort)
    assert encoded == ((len(hash_key), hash_key, sort_key) < (len(other_hash), other_hash, other_sort))


@pytest.mark.parametrize("raw", [b"", b"\0", b"\0\1", b"\xff\xff", b"\0\5hell"])
def test_invalid_encoded_keys_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="an encoded key"):
        decode_key(raw)


@given(st.binary(max_size=8))
def test_any_bytes_are_an_encoded_key_or_not(raw: bytes) -> None:
    try:
        hash_key, sort_key = decode_key(raw)
    except ValueError:
        assert len(raw) < 2 or len(raw) - 2 < int.from_bytes(raw[:2], "big")
    else:
        assert encode_key(hash_key, sort_key) == raw


@pytest.mark.parametrize("size", [0, 1, MAX_HASH_KEY])
def test_hash_keys_up_to_the_limit_are_accepted(size: int) -> None:
    assert check_hash_key(b"h" * size) == b"h" * size


@pytest.mark.parametrize("size", [MAX_HASH_KEY + 1, 65536, 100_000])
def test_hash_keys_that_are_too_long_are_refused(size: int) -> None:
    with pytest.raises(InvalidArgument, match=f"hash_key has {size} bytes; the limit is 65534"):
        check_hash_key(b"h" * size)


# ------------------------------------------------------------------------------------------------------------- next key
@pytest.mark.parametrize(
    ("key", "after"),
    [
        (encode_key(b"hello", b""), "0005 68656c6c70"),
        (encode_key(b"ab\xff", b""), "0003 6163"),
        (encode_key(b"\xff\xff", b""), "0003"),
        (encode_key(b"", b""), "0001"),
        (encode_key(b"hello", b"na"), "0005 68656c6c6f 6e62"),
        (encode_key(b"", b"\xff"), "0001"),
        (b"\x00\xff", "01"),
        (b"\xff\xff", ""),
        (b"", ""),
    ],
)
def test_next_keys(key: bytes, after: str) -> None:
    assert next_key(key) == bytes.fromhex(after)


@given(KEYS, KEYS)
@example(b"\xff", b"")
@example(b"a\xff\xff", b"\xff")
def test_the_next_key_is_above_all_that_start_with_the_prefix(prefix: bytes, rest: bytes) -> None:
    after = next_key(prefix)
    assert after == b"" or prefix + rest < after


@given(KEYS, st.integers(0, 5), KEYS)
def test_no_smaller_next_key_exists(prefix: bytes, kept: int, rest: bytes) -> None:
    """Every key between a prefix and its next key starts with the prefix."""
    after, other = next_key(prefix), prefix[:kept] + rest
    if prefix <= other < after:
        assert other.startswith(prefix)


@given(EDGES, EDGES)
def test_no_close_smaller_next_key_exists(prefix: bytes, rest: bytes) -> None:
    after = next_key(b"\0" + prefix)
    # The largest keys below the next one: its last byte decremented, then any number of FF bytes.
    below = after[:-1] + bytes([after[-1] - 1]) + b"\xff" * 9 + rest
    assert below < after
    assert below.startswith(b"\0" + prefix)


@given(KEYS, KEYS)
def test_a_hash_key_owns_the_range_up_to_its_next_key(hash_key: bytes, sort_key: bytes) -> None:
    start = encode_key(hash_key, b"")
    stop = next_key(start)
    assert start <= encode_key(hash_key, sort_key) < stop
    for other in (hash_key + b"\0", hash_key[:-1], next_key(hash_key), hash_key[::-1]):
        if other != hash_key:
            assert not start <= encode_key(other, sort_key) < stop


# ------------------------------------------------------------------------------------------------------- types of keys
class Text(str):
    __slots__ = ()


class Raw(bytes):
    pass


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (b"ab", b"ab"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (memoryview(b"a.b.")[::2], b"ab"),
        ("ab", b"ab"),
        ("\u952e", b"\xe9\x94\xae"),
        ("", b""),
        (b"", b""),
        (Text("ab"), b"ab"),
        (Raw(b"ab"), b"ab"),
    ],
)
def test_values_that_can_be_a_key(value: Any, raw: bytes) -> None:
    found = to_bytes(value, "hash_key")
    assert found == raw
    assert type(found) is bytes


@pytest.mark.parametrize("value", [None, 1, 1.5, True, [b"a"], (b"a",), object(), {"a": 1}, b"a".hex])
def test_other_values_are_refused_as_keys(value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"sort_key must be bytes or str, not {type(value).__name__}"):
        to_bytes(value, "sort_key")


def test_a_text_that_utf8_cannot_encode_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"value cannot be written as UTF-8: .*surrogates not allowed"):
        to_bytes("a\udc80", "value")


def test_a_mutable_key_is_copied() -> None:
    value = bytearray(b"ab")
    raw = to_bytes(value, "value")
    value[0] = 0
    assert raw == b"ab"


def test_all_bytes_like_types_are_named_once() -> None:
    assert {keys.Key} == {bytes | bytearray | memoryview | str}
