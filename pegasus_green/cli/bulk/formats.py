"""Files of rows: JSON lines, CSV, and a compact binary format; each can be compressed with zstd.

The binary format is the magic line ``pegasus-green rows 1`` and the rows. A row is the lengths of hash key (u16), sort
key and value (u32 each) and the Unix time of expiry (u32, 0: never), big-endian, then the bytes of the three.
"""

from __future__ import annotations

import csv
import io
import json
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from json.encoder import encode_basestring
from pathlib import Path
from typing import IO, Any

from ...codecs import ZSTD_MAGIC
from ...errors import InvalidArgument
from ..text import Coding

# Hash key, sort key, value, Unix time of expiry (0: never).
Row = tuple[bytes, bytes, bytes, int]
FORMATS = ("jsonl", "csv", "binary")
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".bin": "binary", ".rows": "binary"}
FIELDS = ("hash_key", "sort_key", "value", "expires_at")
MAGIC = b"pegasus-green rows 1\n"
_HEAD = struct.Struct(">HIII")
# No key or value of a real table is longer: the default limit of a request is 1 MiB.
MAX_FIELD = 1 << 30
# Small enough that the number of bytes read shows how much of a file is processed.
READ_BYTES = 64 * 1024
# Number of compressed bytes that are read at a time. If the content is zeros, it is 32,000 times as large.
FEED_BYTES = 2048


def guess(path: str) -> tuple[str | None, bool]:
    """Return the format of a file by its name (None: unknown), and whether it is compressed."""
    suffixes = Path(path).suffixes
    compressed = bool(suffixes) and suffixes[-1] == ".zst"
    if compressed:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1] if suffixes else ""), compressed


# -------------------------------------------------------------------------------------------------------------- writing
def encoder(form: str, keys: Coding, values: Coding) -> tuple[bytes, Callable[[Iterable[Row]], bytes]]:
    """Return the first bytes of a file, and the function that encodes rows."""
    if form == "binary":
        return MAGIC, _binary
    if form == "csv":
        return (",".join(FIELDS) + "\n").encode(), _csv_encoder(keys, values)
    return b"", _json_encoder(keys, values)


def _binary(rows: Iterable[Row]) -> bytes:
    pack = _HEAD.pack
    parts: list[bytes] = []
    for first, second, value, expires in rows:
        parts += (pack(len(first), len(second), len(value), expires), first, second, value)
    return b"".join(parts)


def _csv_encoder(keys: Coding, values: Coding) -> Callable[[Iterable[Row]], bytes]:
    key, value = keys.encode, values.encode

    def encode(rows: Iterable[Row]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            (key(first), key(second), value(data), expires or "") for first, second, data, expires in rows
        )
        return text.getvalue().encode()

    return encode


def _json_encoder(keys: Coding, values: Coding) -> Callable[[Iterable[Row]], bytes]:
    key, value = keys.encode, values.encode

    def encode(rows: Iterable[Row]) -> bytes:
        lines = []
        for first, second, data, expires in rows:
            until = f', "expires_at": {expires}' if expires else ""
            lines.append(
                f'{{"hash_key": {encode_basestring(key(first))}, "sort_key": {encode_basestring(key(second))},'
                f' "value": {encode_basestring(value(data))}{until}}}\n'
            )
        return "".join(lines).encode()

    return encode


class Compressor:
    """Compresses to zstd frames, one per checkpoint. A file that is truncated after a frame is complete."""

    def __init__(self) -> None:
        """Start the first frame.

        Raises:
            InvalidArgument: zstandard is not installed.
        """
        self._frame: Any = None
        # With a checksum, so that damage is detected.
        self._new = zstd().ZstdCompressor(write_checksum=True).compressobj

    def compress(self, data: bytes) -> bytes:
        """Return the compressed bytes that are ready."""
        if self._frame is None:
            self._frame = self._new()
        return bytes(self._frame.compress(data))

    def end_frame(self) -> bytes:
        """Return the rest of the frame."""
        frame, self._frame = self._frame, None
        return b"" if frame is None else bytes(frame.flush())


def zstd() -> Any:
    """Import zstandard.

    Raises:
        InvalidArgument: It is not installed.
    """
    try:
        import zstandard
    except ModuleNotFoundError:
        raise InvalidArgument("compressed files need the package zstandard: pip install zstandard") from None
    return zstandard


# -------------------------------------------------------------------------------------------------------------- reading
class Malformed(InvalidArgument):
    """A part of a file is not a row; the message names its place."""


class Counted(io.RawIOBase):
    """A file that counts the bytes read from it."""

    def __init__(self, raw: IO[bytes]) -> None:
        """Read from a file."""
        self._raw = raw
        self.count = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        read = self._raw.readinto(buffer)  # type: ignore[attr-defined]
        self.count += read or 0
        return int(read or 0)

    def close(self) -> None:
        """Close the file, unless it is stdin."""
        if self._raw is not sys.stdin.buffer:
            self._raw.close()
        super().close()


class _Decompressed(io.RawIOBase):
    """The content of zstd frames. Unlike zstandard's own reader it reports a truncated frame."""

    def __init__(self, source: io.BufferedReader) -> None:
        self._source = source
        self._zstd = zstd()
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = b""
            if self._frame is not None and self._frame.eof:
                data, self._frame = self._frame.unused_data, None
            data = data or self._source.read1(FEED_BYTES)
            if not data:
                if self._frame is not None:
                    raise Malformed("the compressed file is truncated")
                return 0
            if self._frame is None:
                self._frame = self._zstd.ZstdDecompressor().decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(data))
            except self._zstd.ZstdError as error:
                raise Malformed(f"the compressed file is damaged: {error}") from None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()


def open_rows(path: str, form: str | None, compressed: bool | None) -> tuple[str, Counted, IO[bytes]]:
    """Open a file of rows, or stdin for "-". What its name does not show is detected from its first bytes.

    Returns:
        Its format, the file that counts the bytes on disk, and the file to read from.

    Raises:
        InvalidArgument: The file cannot be opened.
    """
    try:
        raw = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115 - closed by the command
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None
    named, squeezed = guess(path)
    counted = Counted(raw)
    data: Any = io.BufferedReader(counted, READ_BYTES)
    if compressed or squeezed or (compressed is None and data.peek(len(ZSTD_MAGIC)).startswith(ZSTD_MAGIC)):
        data = io.BufferedReader(_Decompressed(data), READ_BYTES)
    if form is None:
        begin = data.peek(len(MAGIC))
        form = named or ("binary" if begin.startswith(MAGIC) else "csv" if begin[:8] == b"hash_key" else "jsonl")
    return form, counted, data


def decoder(form: str, file: IO[bytes], keys: Coding, values: Coding, skip: int) -> Iterator[Row | Malformed]:
    """Yield the rows of a file after the skipped ones. For a line that is not a row, yield the error.

    Args:
        form: One of ``FORMATS``.
        file: The file to read.
        keys: Coding of keys.
        values: Coding of values.
        skip: Number of rows to skip.

    Raises:
        Malformed: The rest of the file cannot be read.
    """
    if form == "binary":
        rows = _read_binary(file, skip)
    else:
        rows = _read_csv(file, keys, values, skip) if form == "csv" else _read_json(file, keys, values, skip)
    try:
        yield from rows
    except (OSError, csv.Error) as error:
        raise Malformed(f"the rest of the file cannot be read: {error}") from None


def _read_binary(file: IO[bytes], skip: int) -> Iterator[Row | Malformed]:
    if file.read(len(MAGIC)) != MAGIC:
        raise Malformed(f"the file does not begin with {MAGIC.decode().strip()!r}")
    number = 0
    while head := file.read(_HEAD.size):
        number += 1
        if len(head) < _HEAD.size:
            raise Malformed(f"row {number} is truncated")
        first, second, value, expires = _HEAD.unpack(head)
        if max(second, value) > MAX_FIELD:
            raise Malformed(f"row {number} announces {max(second, value):,} bytes: the file is damaged")
        body = file.read(first + second + value)
        if len(body) < first + second + value:
            raise Malformed(f"row {number} is truncated")
        if number > skip:
            yield body[:first], body[first : first + second], body[first + second :], expires


def _read_json(file: IO[bytes], keys: Coding, values: Coding, skip: int) -> Iterator[Row | Malformed]:
    lines = ((number, line) for number, line in enumerate(file, 1) if not line.isspace())
    for number, line in islice(lines, skip, None):
        yield _row_of_json(line, number, keys, values)


def _row_of_json(line: bytes, number: int, keys: Coding, values: Coding) -> Row | Malformed:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Malformed(f"line {number} is not a JSON object")
    texts = {"sort_key": "", **found}
    for name in FIELDS[:3]:
        if name not in texts:
            return Malformed(f"line {number}: {name} is missing")
        if not isinstance(texts[name], str):
            return Malformed(f"line {number}: {name} is not a string")
    try:
        return (
            keys.decode(texts["hash_key"]),
            keys.decode(texts["sort_key"]),
            values.decode(texts["value"]),
            _expiry(found.get("expires_at")),
        )
    except ValueError as error:
        return Malformed(f"line {number}: {error}")


def _expiry(found: Any) -> int:
    """Return the Unix time at which a row expires; 0: never.

    Raises:
        ValueError: It is not a time, or not one that rows can have.
    """
    if found is None or found == "":
        return 0
    text = str(found)
    if isinstance(found, bool) or not text.isascii() or not text.isdecimal() or int(text) >= 2**32:
        raise ValueError(f"expires_at {found!r} is not a Unix time below 2**32")
    return int(text)


def _read_csv(file: IO[bytes], keys: Coding, values: Coding, skip: int) -> Iterator[Row | Malformed]:
    csv.field_size_limit(MAX_FIELD)
    lines = csv.reader(io.TextIOWrapper(file, "utf-8", "surrogateescape", newline=""))
    heading = next(lines, [])
    if heading:
        heading[0] = heading[0].removeprefix("\ufeff")  # spreadsheet programs write a byte order mark
    try:
        places = [heading.index(name) for name in FIELDS[:3]]
    except ValueError as error:
        raise Malformed(f"the first line has no column {str(error).split()[0]}: {','.join(heading)}") from None
    until = heading.index("expires_at") if "expires_at" in heading else None
    for number, cells in islice(enumerate(lines, 1), skip, None):
        try:
            first, second, value = (cells[at] for at in places)
            row = (
                keys.decode(first),
                keys.decode(second),
                values.decode(value),
                _expiry(cells[until] if until is not None else ""),
            )
        except IndexError:
            yield Malformed(f"row {number} has {len(cells)} of {len(heading)} columns")
        except ValueError as error:
            yield Malformed(f"row {number}: {error}")
        else:
            yield row
