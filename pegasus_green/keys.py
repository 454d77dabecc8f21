"""Keys: encode a hash key and a sort key as one key, and compute the partition hash and the end of a key range."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import crcmod

from .accelerate import core
from .errors import InvalidArgument

Key = bytes | bytearray | memoryview | str
# Values by sort key. Mapping is invariant in its key type, so each type is listed.
Values: TypeAlias = Mapping[bytes, Key] | Mapping[str, Key] | Mapping[bytes | str, Key] | Mapping[Key, Key]

# 65535 is reserved, so that FF FF is greater than every encoded key.
MAX_HASH_KEY = 65534
FIRST_KEY = b"\0\0"
AFTER_LAST_KEY = b"\xff\xff"
_LENGTH = struct.Struct(">H")

# CRC catalogues call Pegasus's crc64 CRC-64/NVME; check value of b"123456789": 0xAE8B14860A799888.
crc64: Callable[[bytes], int] = (
    core.crc64 if core else crcmod.mkCrcFun(0x1AD93D23594C93659, initCrc=0, rev=True, xorOut=2**64 - 1)
)


def to_bytes(value: Any, name: str) -> bytes:
    """Return value as bytes: a str as UTF-8, a bytes-like object unchanged.

    Raises:
        InvalidArgument: The value has another type (numbers are not converted), or UTF-8 cannot encode the str.
    """
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"{name} cannot be written as UTF-8: {error}") from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise InvalidArgument(f"{name} must be bytes or str, not {type(value).__name__}")


def check_hash_key(hash_key: bytes) -> bytes:
    """Return hash_key; raise InvalidArgument if it is longer than the key format allows."""
    if len(hash_key) > MAX_HASH_KEY:
        raise InvalidArgument(f"hash_key has {len(hash_key)} bytes; the limit is {MAX_HASH_KEY}")
    return hash_key


def encode_key(hash_key: Key, sort_key: Key = b"") -> bytes:
    r"""Return the key as servers store and order it: u16 length of the hash key, hash key, sort key.

    Args:
        hash_key: At most 65,534 bytes; str as UTF-8.
        sort_key: Of any length.

    Raises:
        InvalidArgument: A key has a wrong type, or the hash key is too long.

    Example:
        >>> keys.encode_key("user:7", "name")
        b'\x00\x06user:7name'
    """
    raw = hash_key if type(hash_key) is bytes else to_bytes(hash_key, "hash_key")
    tail = sort_key if type(sort_key) is bytes else to_bytes(sort_key, "sort_key")
    if len(raw) > MAX_HASH_KEY:
        check_hash_key(raw)
    return _LENGTH.pack(len(raw)) + raw + tail


def decode_key(key: bytes) -> tuple[bytes, bytes]:
    r"""Return the hash key and the sort key of an encoded key.

    Raises:
        ValueError: The key is shorter than its length prefix announces.

    Example:
        >>> keys.decode_key(b"\x00\x06user:7name")
        (b'user:7', b'name')
    """
    if len(key) < 2:
        raise ValueError(f"an encoded key has at least 2 bytes, not {len(key)}")
    end = 2 + _LENGTH.unpack_from(key)[0]
    if end > len(key):
        raise ValueError(f"an encoded key of {len(key)} bytes announces a hash key of {end - 2} bytes")
    return key[2:end], key[end:]


def partition_hash(hash_key: Key, sort_key: Key = b"") -> int:
    """Return the unsigned 64-bit hash that determines the partition.

    It is the hash of the hash key, or of the sort key if the hash key is empty.

    The partition is the hash modulo the number of partitions, except while a table splits. ``table.partition_of``
    returns the partition that serves the key now.

    Args:
        hash_key: Bytes or str; may be empty.
        sort_key: Used only if the hash key is empty.

    Raises:
        InvalidArgument: A key has a wrong type.

    Example:
        >>> keys.partition_hash("user:7") % 8
        5
    """
    raw = hash_key if type(hash_key) is bytes else to_bytes(hash_key, "hash_key")
    tail = sort_key if type(sort_key) is bytes else to_bytes(sort_key, "sort_key")
    return crc64(raw or tail)


def next_key(prefix: Key) -> bytes:
    """Return the smallest key above all keys that start with prefix. It is the end of their range.

    The function drops trailing FF bytes and increments the last remaining byte, so the result can be shorter than the
    prefix. If the prefix has no byte below FF, there is no such key, and the result is ``b""``. As ``stop`` of a scan,
    ``b""`` means "to the end".

    Raises:
        InvalidArgument: The prefix has a wrong type.

    Example:
        >>> keys.next_key("2026-11-")
        b'2026-11.'
    """
    raw = prefix if type(prefix) is bytes else to_bytes(prefix, "prefix")
    stripped = raw.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b""
