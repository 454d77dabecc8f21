"""Integers as the server parses them from stored values: C ``strtoll`` with base 0 over the whole string."""

from __future__ import annotations

import re

I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1

# ``int()`` differs: it accepts underscores, digits of other scripts and trailing blanks, and refuses "010".
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
# 2^63 in octal has 22 digits. A longer number is out of range, and int() must not get a megabyte of digits.
_MAX_DIGITS = 22


def parse_int64(text: bytes) -> int | None:
    """Return the number in a text; None if the server calls it invalid: not a number, or more than 64 bits."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, sixteen, eight, ten = match.groups()
    digits, base = (sixteen, 16) if sixteen else (eight, 8) if eight else (ten, 10)
    digits = digits.lstrip(b"0") or b"0"
    if len(digits) > _MAX_DIGITS:
        return None
    value = int(digits, base)
    if sign == b"-":
        value = -value
    return value if I64_MIN <= value <= I64_MAX else None
