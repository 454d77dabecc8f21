"""Value codecs: how the values of one table handle are turned into bytes and back.

A codec is chosen per handle, ``client.table("pages", codec=ZstdCodec())``, and is used wherever a value goes in or
comes out: get, set, multi_get, multi_set, batch_get, scans, check-and-*, mappings. It is not used on keys, on the
operands of checks (they are compared with the stored bytes), nor on what ``incr`` counts.

Without a codec values are bytes as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast, overload, runtime_checkable

from .errors import CodecError, InvalidArgument
from .keys import to_bytes

# Little-endian number of every zstd frame.
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Bytes of a frame that are unpacked in one step where its size is not known before. The smallest block, of 4 bytes,
# gives at most 128 KiB, so a step gives at most 32 MiB.
STEP = 1024


V = TypeVar("V")


@runtime_checkable
class Codec(Protocol[V]):
    """What a codec has to be: any object with these two methods is one.

    ``V`` is the type of the values. A table that is opened with a ``Codec[User]`` is a ``Table[User]`` to type
    checkers. Both methods run in the caller's greenlet and must not yield.

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
        """Return the bytes to store; raise InvalidArgument (a ValueError) for a value that has none."""

    def decode(self, raw: bytes) -> V:
        """Return the value of stored bytes; raise CodecError for bytes that are none of this codec's."""


class Utf8Codec:
    """Values are str, stored as UTF-8.

    Example:
        >>> names = client.table(table.name, codec=Utf8Codec())
        >>> names.set("user:7", "name", "Ada")
        >>> names.get("user:7", "name")
        'Ada'
    """

    def __repr__(self) -> str:
        """Show how to make one."""
        return "Utf8Codec()"

    def encode(self, value: str) -> bytes:
        """Return the UTF-8 of a str; anything else is refused.

        Example:
            >>> len(Utf8Codec().encode("Zoë"))
            4
        """
        if not isinstance(value, str):
            raise InvalidArgument(f"value must be str for Utf8Codec, not {type(value).__name__}")
        return to_bytes(value, "value")

    def decode(self, raw: bytes) -> str:
        """Return the str; bytes that are not UTF-8 raise CodecError.

        Example:
            >>> Utf8Codec().decode(b"Ada")
            'Ada'
        """
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise CodecError(f"a value of {len(raw)} bytes is no UTF-8: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not of JSON")


class JsonCodec:
    """Values that JSON can express, stored as compact UTF-8.

    As in JSON, tuples come back as lists and keys of objects as str; NaN and infinities are refused. Equal values give
    equal bytes only if their keys stand in the same order, which ``sort_keys=True`` sees to.

    Args:
        sort_keys: Write the keys of objects in order.

    Example:
        >>> users = client.table(table.name, codec=JsonCodec())
        >>> users.set("user:7", "profile", {"name": "Ada", "born": 1815})
        >>> users.get("user:7", "profile")["born"]
        1815
    """

    def __init__(self, *, sort_keys: bool = False) -> None:
        """Remember the choice."""
        self.sort_keys = sort_keys

    def __repr__(self) -> str:
        """Show how to make one."""
        return f"JsonCodec(sort_keys={self.sort_keys})"

    def encode(self, value: Any) -> bytes:
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
                # A lone surrogate, which JSON can escape and UTF-8 cannot carry.
                return self._dump(value, ensure_ascii=True).encode("ascii")
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(f"value cannot be written as JSON: {error}") from None

    def _dump(self, value: Any, *, ensure_ascii: bool) -> str:
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
        except (ValueError, RecursionError) as error:
            raise CodecError(f"a value of {len(raw)} bytes is no JSON: {error}") from None


class ZstdCodec(Generic[V]):
    """Values are compressed with zstd, as the Java client does it: each reads what the other wrote.

    A stored value that does not begin with zstd's magic number is handed out as it is, so old uncompressed values stay
    readable. So that *every* value comes back as it went in, one that begins with the magic number itself is always
    put into a frame, however short it is. What other writers stored uncompressed and happens to be a whole zstd frame
    (a .zst file, say) cannot be told from a compressed value and is unpacked.

    Short values, and those that zstd makes no smaller, are stored as they are: integers that ``incr`` counts stay
    readable to it, provided that ``least`` is above 20.

    Compression and decompression hold the thread, for 1 to 10 ms per MiB at level 3.

    Args:
        inner: Codec of the values themselves, used before compression and after decompression; None: bytes.
        level: zstd's level, 1 to 22; the Java client uses 3.
        least: Values shorter than this many bytes are not compressed.
        max_size: Largest decompressed value in bytes; a small frame can claim to hold gigabytes.
        lenient: Hand out a value that begins with the magic number but cannot be unpacked as it is, as the Java client
            does, instead of raising CodecError.

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
        if not 1 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise InvalidArgument(f"level must be 1 to {zstandard.MAX_COMPRESSION_LEVEL}, not {level!r}")
        if max_size < 1:
            raise InvalidArgument(f"max_size must be above 0 bytes, not {max_size!r}")
        self.inner, self.level, self.least, self.max_size, self.lenient = inner, level, least, max_size, lenient
        self._zstd = zstandard
        # A context takes 12 us to make and serves one native thread at a time: whoever is at work has one of its own.
        self._compressors: list[Any] = []
        self._decompressors: list[Any] = []

    def __repr__(self) -> str:
        """Show how to make one."""
        return f"ZstdCodec({self.inner!r}, level={self.level}, least={self.least}, max_size={self.max_size})"

    def encode(self, value: V) -> bytes:
        """Return a zstd frame, or the bytes unchanged if the frame is not shorter.

        Example:
            >>> len(ZstdCodec().encode(b"<p>" * 10_000)) < 100, ZstdCodec().encode(b"short")
            (True, b'short')
        """
        raw = to_bytes(value, "value") if self.inner is None else bytes(self.inner.encode(value))
        framed = raw.startswith(ZSTD_MAGIC)
        if len(raw) < self.least and not framed:
            return raw
        if len(raw) > self.max_size:
            raise InvalidArgument(f"value has {len(raw)} bytes; ZstdCodec unpacks at most max_size={self.max_size}")
        try:
            compressor = self._compressors.pop()
        except IndexError:
            compressor = self._zstd.ZstdCompressor(level=self.level)
        packed: bytes = compressor.compress(raw)
        self._compressors.append(compressor)
        return packed if framed or len(packed) < len(raw) else raw

    def decode(self, raw: bytes) -> V:
        """Return the value of a frame, or of uncompressed bytes.

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
                    raise CodecError(f"a value of {len(raw)} bytes begins like a zstd frame: {error}") from None
        # Without an inner codec V is bytes.
        return cast("V", raw) if self.inner is None else self.inner.decode(raw)

    def _unpack(self, raw: bytes) -> bytes:
        """Return what the frame, or several behind one another, hold; never more than ``max_size``."""
        try:
            decompressor = self._decompressors.pop()
        except IndexError:
            decompressor = self._zstd.ZstdDecompressor()
        size = self._zstd.frame_content_size(raw)
        if size > self.max_size:
            raise CodecError(f"it says it holds {size} bytes; max_size is {self.max_size}")
        whole: bytes | None = None
        # Where the first frame says that it is empty the library looks at nothing behind it.
        if size > 0:
            try:
                whole = decompressor.decompress(raw, allow_extra_data=False)
            except self._zstd.ZstdError:
                # Broken, or more than one frame: the longer way tells.
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
                    raise CodecError("it ends in the middle of a frame")
                parts.append(unpacker.decompress(raw[at : at + STEP]))
                at += STEP
                left -= len(parts[-1])
                if left < 0:
                    raise CodecError(f"it holds more than max_size={self.max_size} bytes")
            at = min(at, len(raw)) - len(unpacker.unused_data)
        return b"".join(parts)


def named_codec(name: str) -> Codec[Any] | None:
    """Return the codec that a URL names: ``json``, ``utf8``, ``zstd``, or ``zstd+`` one of them.

    Returns:
        None for an empty name: values are bytes.

    Raises:
        InvalidArgument: Another name, or a codec whose package is not installed.
    """
    plain: dict[str, Callable[[], Codec[Any] | None]] = {"": lambda: None, "json": JsonCodec, "utf8": Utf8Codec}
    if name in plain:
        return plain[name]()
    outer, _, inner = name.partition("+")
    if outer != "zstd" or inner not in plain or name.endswith("+"):
        raise InvalidArgument(f"codec={name!r} in the URL is none of json, utf8, zstd, zstd+json, zstd+utf8")
    codec = plain[inner]()
    return ZstdCodec() if codec is None else ZstdCodec(codec)
