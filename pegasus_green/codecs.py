"""Value codecs: they convert the values of one table handle to bytes and back.

A codec belongs to a handle: ``client.table("pages", codec=ZstdCodec())``. It applies to the values of get, set,
multi_get, multi_set, batch_get, scans, check-and-* and mappings. It does not apply to keys, to the operands of checks
(the server compares them with the stored bytes) or to the numbers of ``incr``.

Without a codec, values are bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast, overload, runtime_checkable

from .errors import CodecError, InvalidArgument
from .keys import to_bytes

# The magic number of every zstd frame, little-endian.
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# A frame of unknown size is decompressed in steps of this many bytes. The smallest block has 4 bytes and gives at most
# 128 KiB, so one step gives at most 32 MiB.
STEP = 1024


V = TypeVar("V")


@runtime_checkable
class Codec(Protocol[V]):
    """The interface of a codec: any object with these two methods is one.

    ``V`` is the type of the values. A table that is opened with a ``Codec[User]`` is a ``Table[User]`` to type
    checkers. Both methods run in the caller's greenlet. They must not wait or switch to another greenlet.

    Example:
        >>> class Upper:
        ...     def encode(self, value: str) -> bytes:
        ...         return value.upper().encode()
        ...     def decode(self, raw: bytes) -> str:
        ...         return raw.decode()
        >>> names = client.table(table.name, codec=Upper())
        >>> names.set("user:7", "name", "Ada")
        >>> names.get("user:7", "name")
        'ADA'
    """

    def encode(self, value: V) -> bytes:
        """Return the bytes to store; raise InvalidArgument (a ValueError) for a value that cannot be encoded."""

    def decode(self, raw: bytes) -> V:
        """Return the value of stored bytes; raise CodecError for bytes that cannot be decoded."""


class Utf8Codec:
    """Values are str, stored as UTF-8.

    Example:
        >>> names = client.table(table.name, codec=Utf8Codec())
        >>> names.set("user:7", "name", "Ada")
        >>> names.get("user:7", "name")
        'Ada'
    """

    def __repr__(self) -> str:
        """Show the call that makes an equal codec."""
        return "Utf8Codec()"

    def encode(self, value: str) -> bytes:
        """Return the UTF-8 of a str; raise InvalidArgument for another type.

        Example:
            >>> len(Utf8Codec().encode("Zoë"))
            4
        """
        if not isinstance(value, str):
            raise InvalidArgument(f"value must be str for Utf8Codec, not {type(value).__name__}")
        return to_bytes(value, "value")

    def decode(self, raw: bytes) -> str:
        """Return the str; raise CodecError if the bytes are not UTF-8.

        Example:
            >>> Utf8Codec().decode(b"Ada")
            'Ada'
        """
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise CodecError(f"a value of {len(raw)} bytes is not UTF-8: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


class JsonCodec:
    """Values are what JSON can express, stored as compact UTF-8.

    A tuple comes back as a list, and the keys of a dict come back as str. NaN and infinities are refused. Equal dicts
    give equal bytes only if their keys have the same order; ``sort_keys=True`` sorts them.

    Args:
        sort_keys: Sort the keys of objects.

    Example:
        >>> users = client.table(table.name, codec=JsonCodec())
        >>> users.set("user:7", "profile", {"name": "Ada", "born": 1815})
        >>> users.get("user:7", "profile")["born"]
        1815
    """

    def __init__(self, *, sort_keys: bool = False) -> None:
        """Store the option."""
        self.sort_keys = sort_keys

    def __repr__(self) -> str:
        """Show the call that makes an equal codec."""
        return f"JsonCodec(sort_keys={self.sort_keys})"

    def encode(self, value: object) -> bytes:
        """Return the JSON text as UTF-8.

        Example:
            >>> JsonCodec(sort_keys=True).encode({"name": "Ada", "born": 1815})
            b'{"born":1815,"name":"Ada"}'
        """
        try:
            text = self._dump(value, ensure_ascii=False)
            try:
                return text.encode("utf-8")
            except UnicodeEncodeError:
                # A lone surrogate. JSON can escape it; UTF-8 cannot encode it.
                return self._dump(value, ensure_ascii=True).encode("ascii")
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(f"value cannot be written as JSON: {error}") from None

    def _dump(self, value: object, *, ensure_ascii: bool) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, allow_nan=False, separators=(",", ":"), sort_keys=self.sort_keys
        )

    def decode(self, raw: bytes) -> Any:
        """Return the value of a JSON text.

        Example:
            >>> JsonCodec().decode(b'{"born":1815}')
            {'born': 1815}
        """
        try:
            return json.loads(str(raw, "utf-8"), parse_constant=_refuse)
        except ValueError as error:
            raise CodecError(f"a value of {len(raw)} bytes is not JSON: {error}") from None
        except RecursionError as error:
            what = f"the JSON in a value of {len(raw)} bytes cannot be decoded within the recursion limit"
            raise CodecError(f"{what}: {error}") from None


class ZstdCodec(Generic[V]):
    """Values are compressed with zstd, in the format of the Java client. Each client reads what the other wrote.

    A stored value that does not begin with zstd's magic number is returned unchanged, so old uncompressed values stay
    readable. A value that itself begins with the magic number is always compressed, so every value that this codec
    stored comes back unchanged. If another writer stored a zstd frame as a plain value (a .zst file, for example), it
    is decompressed, because it looks like a compressed value.

    Short values, and values that zstd does not make smaller, are stored uncompressed. A 64-bit integer has at most 20
    characters. So if ``least`` is above 20, integers stay uncompressed, and ``incr`` can read them.

    Compression and decompression block the native thread for 1 to 10 ms per MiB at level 3.

    Args:
        inner: Codec that runs before compression and after decompression; None: values are bytes.
        level: zstd's level, 1 to 22; the Java client uses 3.
        least: Values shorter than this many bytes are not compressed.
        max_size: Maximum bytes of a decompressed value. Without a limit a small frame could take gigabytes of memory.
        lenient: If a value begins with the magic number and cannot be decompressed, return it unchanged, as the Java
            client does. False: raise CodecError.

    Raises:
        InvalidArgument: The package zstandard is not installed, or a number is out of range.

    Example:
        >>> pages = client.table(table.name, codec=ZstdCodec())
        >>> pages.set("http://example.org/", "body", b"<p>" * 10_000)
        >>> len(pages.get("http://example.org/", "body"))
        30000
        >>> len(table.get("http://example.org/", "body")) < 100
        True
    """

    @overload
    def __init__(
        self: ZstdCodec[bytes],
        inner: None = None,
        *,
        level: int = 3,
        least: int = 64,
        max_size: int = 64 * 1024 * 1024,
        lenient: bool = False,
    ) -> None: ...

    @overload
    def __init__(
        self,
        inner: Codec[V],
        *,
        level: int = 3,
        least: int = 64,
        max_size: int = 64 * 1024 * 1024,
        lenient: bool = False,
    ) -> None: ...

    def __init__(
        self,
        inner: Codec[V] | None = None,
        *,
        level: int = 3,
        least: int = 64,
        max_size: int = 64 * 1024 * 1024,
        lenient: bool = False,
    ) -> None:
        """Load zstandard."""
        try:
            import zstandard
        except ImportError:
            raise InvalidArgument("ZstdCodec needs the package zstandard: pip install zstandard") from None
        for name, number in (("level", level), ("least", least), ("max_size", max_size)):
            if isinstance(number, bool) or not isinstance(number, int):
                raise InvalidArgument(f"{name} must be a whole number, not {number!r}")
        if not 1 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise InvalidArgument(f"level must be 1 to {zstandard.MAX_COMPRESSION_LEVEL}, not {level!r}")
        if max_size < 1:
            raise InvalidArgument(f"max_size must be above 0 bytes, not {max_size!r}")
        self.inner, self.level, self.least, self.max_size, self.lenient = inner, level, least, max_size, lenient
        self._zstd = zstandard
        # It takes 12 us to make a context, and one native thread at a time can use it. So each user takes its own.
        self._compressors: list[Any] = []
        self._decompressors: list[Any] = []

    def __repr__(self) -> str:
        """Show the call that makes an equal codec, except for ``lenient``."""
        return f"ZstdCodec({self.inner!r}, level={self.level}, least={self.least}, max_size={self.max_size})"

    def encode(self, value: V) -> bytes:
        """Return a zstd frame, or the bytes unchanged if they are fewer than ``least`` or the frame is not shorter.

        Example:
            >>> len(ZstdCodec().encode(b"<p>" * 10_000)) < 100, ZstdCodec().encode(b"short")
            (True, b'short')
        """
        raw = to_bytes(value, "value") if self.inner is None else bytes(self.inner.encode(value))
        framed = raw.startswith(ZSTD_MAGIC)
        if len(raw) < self.least and not framed:
            return raw
        if len(raw) > self.max_size:
            raise InvalidArgument(
                f"value has {len(raw)} bytes; ZstdCodec decompresses at most max_size={self.max_size}"
            )
        try:
            compressor = self._compressors.pop()
        except IndexError:
            compressor = self._zstd.ZstdCompressor(level=self.level)
        packed: bytes = compressor.compress(raw)
        self._compressors.append(compressor)
        return packed if framed or len(packed) < len(raw) else raw

    def decode(self, raw: bytes) -> V:
        """Return the value of a zstd frame, or of uncompressed bytes.

        Example:
            >>> codec = ZstdCodec()
            >>> codec.decode(codec.encode(b"<p>" * 10_000)) == b"<p>" * 10_000
            True
        """
        if raw.startswith(ZSTD_MAGIC):
            try:
                raw = self._unpack(raw)
            except (self._zstd.ZstdError, CodecError) as error:
                if not self.lenient:
                    raise CodecError(
                        f"a value of {len(raw)} bytes begins like a zstd frame, but cannot be decompressed: {error}"
                    ) from None
        # Without an inner codec V is bytes.
        return cast("V", raw) if self.inner is None else self.inner.decode(raw)

    def _unpack(self, raw: bytes) -> bytes:
        """Return the content of one or more consecutive frames; at most ``max_size`` bytes."""
        try:
            decompressor = self._decompressors.pop()
        except IndexError:
            decompressor = self._zstd.ZstdDecompressor()
        size = self._zstd.frame_content_size(raw)
        if size > self.max_size:
            raise CodecError(f"the frame announces {size} bytes; max_size is {self.max_size}")
        whole: bytes | None = None
        # If the first frame announces size 0, the library ignores the bytes after it.
        if size > 0:
            try:
                whole = decompressor.decompress(raw, allow_extra_data=False)
            except self._zstd.ZstdError:
                # A broken frame, or more than one: _unpack_in_steps finds out which.
                whole = None
        if whole is None:
            whole = self._unpack_in_steps(decompressor, raw)
        self._decompressors.append(decompressor)
        return whole

    def _unpack_in_steps(self, decompressor: Any, raw: bytes) -> bytes:
        parts: list[bytes] = []
        left = self.max_size
        at = 0
        while at < len(raw):
            unpacker = decompressor.decompressobj()
            while not unpacker.eof:
                if at >= len(raw):
                    raise CodecError("it ends within a frame")
                parts.append(unpacker.decompress(raw[at : at + STEP]))
                at += STEP
                left -= len(parts[-1])
                if left < 0:
                    raise CodecError(f"it holds more than max_size={self.max_size} bytes")
            at = min(at, len(raw)) - len(unpacker.unused_data)
        return b"".join(parts)


def named_codec(name: str) -> Codec[Any] | None:
    """Return the codec that a URL names: ``json``, ``utf8``, ``zstd``, ``zstd+json`` or ``zstd+utf8``.

    Returns:
        None for an empty name: values are bytes.

    Raises:
        InvalidArgument: The name is unknown, or the package of the codec is not installed.
    """
    plain: dict[str, Callable[[], Codec[Any] | None]] = {"": lambda: None, "json": JsonCodec, "utf8": Utf8Codec}
    if name in plain:
        return plain[name]()
    outer, _, inner = name.partition("+")
    if outer != "zstd" or inner not in plain or name.endswith("+"):
        raise InvalidArgument(f"codec={name!r} in the URL must be json, utf8, zstd, zstd+json or zstd+utf8")
    codec = plain[inner]()
    return ZstdCodec() if codec is None else ZstdCodec(codec)
