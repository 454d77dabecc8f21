"""Keys and values as text: escaped UTF-8, hex or base64. Each text can be converted back to the same bytes."""

from __future__ import annotations

import binascii
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import NamedTuple

from ..errors import InvalidArgument

_NAMED = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# The official tools escape quotes, too.
_BYTES = {b"\\": b"\\", b'"': b'"', b"'": b"'", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0"}
_SPECIAL = re.compile(r"[^ -\[\]-~]")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([\\nrt0\x22'])|)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def escape(data: bytes) -> str:
    r"""Return bytes as one line of printable text: UTF-8, with ``\\ \n \r \t`` and ``\xNN`` for other bytes.

    A space at the beginning or end becomes ``\x20``, so that a table shows it.
    """
    text = data.decode("utf-8", "surrogateescape")
    if not text.isprintable() or "\\" in text:
        text = _SPECIAL.sub(_escape_one, text)
    if text[:1] == " " or text[-1:] == " ":
        middle = text.strip(" ")
        before = len(text) - len(text.lstrip(" "))
        after = len(text) - before - len(middle)
        text = "\\x20" * before + middle + "\\x20" * after
    return text


def _escape_one(match: re.Match[str]) -> str:
    char = match[0]
    if char in _NAMED:
        return _NAMED[char]
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def unescape(text: str) -> bytes:
    r"""Return the bytes of an escaped text.

    Raises:
        InvalidArgument: A backslash does not begin an escape.
    """
    raw = text.encode("utf-8", "surrogateescape")
    if b"\\" not in raw:
        return raw

    def one(match: re.Match[bytes]) -> bytes:
        if match[1] is not None:
            return bytes.fromhex(match[1].decode())
        if match[2] is None:
            raise InvalidArgument(f"invalid escape in {text!r}: write \\\\ for a backslash, or \\xNN for a byte")
        return _BYTES[match[2]]

    return _ESCAPE.sub(one, raw)


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise InvalidArgument(f"{text!r} is not hex: {error}") from None


def _base64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"{text!r} is not base64: {error}") from None


class Coding(NamedTuple):
    """A text form of bytes, with its encoder and decoder."""

    name: str
    encode: Callable[[bytes], str]
    decode: Callable[[str], bytes]


CODINGS = {
    coding.name: coding
    for coding in (
        Coding("text", escape, unescape),
        Coding("hex", bytes.hex, _hex),
        Coding("base64", lambda data: b64encode(data).decode(), _base64),
    )
}


def parse_duration(text: str) -> float:
    """Return the seconds of ``90``, ``90s``, ``15m``, ``12h``, ``7d``, ``2w``; 0 for ``never``.

    Raises:
        InvalidArgument: The text has another form.
    """
    if text == "never":
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text)
    if not found:
        raise InvalidArgument(f"{text!r} is not a time: write seconds, or 15m, 12h, 7d, 2w, or never")
    return float(found[1]) * _UNITS[found[2]]


_SIZES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def parse_size(text: str) -> int:
    """Return the bytes of ``1000``, ``64k``, ``10M``, ``1G`` (powers of 1,024).

    Raises:
        InvalidArgument: The text has another form.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)(?:i?b)?", text.lower())
    if not found:
        raise InvalidArgument(f"{text!r} is not a size: write bytes, or 64k, 10M, 1G")
    return int(float(found[1]) * _SIZES[found[2]])


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``2,000 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def show_size(size: float) -> str:
    """Return bytes for people: ``1,023 B``, ``4.2 KiB``, ``1.0 GiB``."""
    if size < 1024:
        return f"{size:,.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024 or unit == "GiB":
            break
    return f"{size:,.1f} {unit}"


def show_duration(seconds: float) -> str:
    """Return seconds for people: ``4 s``, ``12 min 30 s``, ``2 h 5 min``, ``3 d 4 h``; ``never`` for infinity."""
    if math.isinf(seconds):
        return "never"
    whole = int(seconds)
    for size, unit, small_size, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"
