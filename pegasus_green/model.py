"""Argument types: filters and check types."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .errors import InvalidArgument
from .keys import Key, to_bytes


class FilterType(IntEnum):
    """How the server compares a pattern with a key. The numbers are those of the protocol.

    NO_FILTER: every key. MATCH_ANYWHERE: keys that contain the pattern. MATCH_PREFIX: keys that begin with it.
    MATCH_POSTFIX: keys that end with it.
    """

    NO_FILTER = 0
    MATCH_ANYWHERE = 1
    MATCH_PREFIX = 2
    MATCH_POSTFIX = 3


@dataclass(frozen=True)
class Filter:
    """A filter on keys. The server returns only keys that match it.

    ``Filter.prefix``, ``Filter.postfix`` and ``Filter.anywhere`` make filters. An empty pattern matches every key.

    Attributes:
        type: A ``FilterType``.
        pattern: Bytes; a str is encoded as UTF-8.

    Raises:
        InvalidArgument: The type is unknown, or the pattern is neither bytes nor str.

    Example:
        >>> Filter.prefix("2026-11-")
        Filter(type=<FilterType.MATCH_PREFIX: 2>, pattern=b'2026-11-')
    """

    type: FilterType
    pattern: bytes

    def __post_init__(self) -> None:
        """Encode a str pattern as UTF-8; raise InvalidArgument for an unknown type."""
        try:
            object.__setattr__(self, "type", FilterType(self.type))
        except ValueError:
            raise InvalidArgument(f"a filter type must be a FilterType (0 to 3), not {self.type!r}") from None
        object.__setattr__(self, "pattern", to_bytes(self.pattern, "filter pattern"))

    @classmethod
    def anywhere(cls, pattern: Key) -> Filter:
        """Match the keys that contain the pattern.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
            >>> [row.sort_key for row in table.hash_scan("user:7", filter=Filter.anywhere("ai"))]
            [b'mail']
        """
        return cls(FilterType.MATCH_ANYWHERE, to_bytes(pattern, "filter pattern"))

    @classmethod
    def prefix(cls, pattern: Key) -> Filter:
        """Match the keys that begin with the pattern. Within one hash key the server reads only these.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
            >>> [row.sort_key for row in table.hash_scan("user:7", filter=Filter.prefix("n"))]
            [b'name', b'nick']
        """
        return cls(FilterType.MATCH_PREFIX, to_bytes(pattern, "filter pattern"))

    @classmethod
    def postfix(cls, pattern: Key) -> Filter:
        """Match the keys that end with the pattern.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
            >>> [row.sort_key for row in table.hash_scan("user:7", filter=Filter.postfix("k"))]
            [b'nick']
        """
        return cls(FilterType.MATCH_POSTFIX, to_bytes(pattern, "filter pattern"))

    def accepts(self, key: bytes) -> bool:
        """Tell whether a key matches, by the same rule as the server.

        Example:
            >>> Filter.prefix("n").accepts(b"name"), Filter.prefix("n").accepts(b"mail")
            (True, False)
        """
        if self.type == FilterType.MATCH_PREFIX:
            return key.startswith(self.pattern)
        if self.type == FilterType.MATCH_POSTFIX:
            return key.endswith(self.pattern)
        return self.type == FilterType.NO_FILTER or self.pattern in key


NO_FILTER = Filter(FilterType.NO_FILTER, b"")


class CheckType(IntEnum):
    """Condition of ``check_and_set`` and ``check_and_mutate``. The numbers are those of the protocol.

    The server compares the stored bytes with the operand; the table's codec does not apply. ``MATCH_*``: the value
    contains the operand, begins with it, or ends with it. ``BYTES_*`` compare unsigned bytes; a value is less than
    a longer value that begins with it. ``INT_*`` need a value and an operand that are 64-bit integers as text (``12``,
    ``-3``, ``0x1F``; ``017`` is octal). The checks before ``MATCH_ANYWHERE`` take no operand. An absent or expired
    record passes only ``NO_CHECK``, ``NOT_EXIST`` and ``NOT_EXIST_OR_EMPTY``.
    """

    NO_CHECK = 0
    NOT_EXIST = 1
    NOT_EXIST_OR_EMPTY = 2
    EXIST = 3
    NOT_EMPTY = 4
    MATCH_ANYWHERE = 5
    MATCH_PREFIX = 6
    MATCH_POSTFIX = 7
    BYTES_LESS = 8
    BYTES_LESS_OR_EQUAL = 9
    BYTES_EQUAL = 10
    BYTES_GREATER_OR_EQUAL = 11
    BYTES_GREATER = 12
    INT_LESS = 13
    INT_LESS_OR_EQUAL = 14
    INT_EQUAL = 15
    INT_GREATER_OR_EQUAL = 16
    INT_GREATER = 17

    @property
    def takes_operand(self) -> bool:
        """Whether the check compares with an operand."""
        return self >= CheckType.MATCH_ANYWHERE

    @property
    def is_integer(self) -> bool:
        """Whether value and operand are compared as integers."""
        return self >= CheckType.INT_LESS
