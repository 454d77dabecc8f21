"""The values that calls take and return: filters, check types, results, and what administration tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .errors import InvalidArgument
from .keys import Key, to_bytes


class FilterType(IntEnum):
    """How a pattern is looked for in a key; the numbers are the wire's."""

    NO_FILTER = 0
    MATCH_ANYWHERE = 1
    MATCH_PREFIX = 2
    MATCH_POSTFIX = 3


@dataclass(frozen=True)
class Filter:
    """Which keys are wanted; the server leaves out the others.

    An empty pattern lets every key pass.

    Example:
        >>> Filter.prefix("2026-11-")
        Filter(type=<FilterType.MATCH_PREFIX: 2>, pattern=b'2026-11-')
    """

    type: FilterType
    pattern: bytes

    def __post_init__(self) -> None:
        """Take a str pattern as UTF-8 and refuse types that servers do not know."""
        try:
            object.__setattr__(self, "type", FilterType(self.type))
        except ValueError:
            raise InvalidArgument(f"a filter type is a FilterType (0 to 3), not {self.type!r}") from None
        object.__setattr__(self, "pattern", to_bytes(self.pattern, "filter pattern"))

    @classmethod
    def anywhere(cls, pattern: Key) -> Filter:
        """Want the keys that contain the pattern.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
            >>> list(table.hash_scan("user:7", filter=Filter.anywhere("ai"), no_value=True))
            [(b'mail', b'')]
        """
        return cls(FilterType.MATCH_ANYWHERE, to_bytes(pattern, "filter pattern"))

    @classmethod
    def prefix(cls, pattern: Key) -> Filter:
        """Want the keys that begin with the pattern; within one hash key the server reads no others.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
            >>> list(table.hash_scan("user:7", filter=Filter.prefix("n")))
            [(b'name', b'Ada'), (b'nick', b'al')]
        """
        return cls(FilterType.MATCH_PREFIX, to_bytes(pattern, "filter pattern"))

    @classmethod
    def postfix(cls, pattern: Key) -> Filter:
        """Want the keys that end with the pattern.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada", "nick": "al"})
            >>> list(table.hash_scan("user:7", filter=Filter.postfix("k")))
            [(b'nick', b'al')]
        """
        return cls(FilterType.MATCH_POSTFIX, to_bytes(pattern, "filter pattern"))

    def accepts(self, key: bytes) -> bool:
        """Tell whether a key passes, as the server decides it.

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
    """What ``check_and_set`` and ``check_and_mutate`` want of a record before they write; the numbers are the wire's.

    The value is compared as stored, without the table's codec. ``BYTES_*`` compare unsigned and bytewise, a prefix is
    less than its extension. ``INT_*`` want value and operand to be integers of 64 bits (``12``, ``-3``, ``0x1F``,
    ``017`` is octal). An absent or expired record passes none but ``NO_CHECK``, ``NOT_EXIST`` and
    ``NOT_EXIST_OR_EMPTY``.
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


class MultiGetResult(dict[bytes, Any]):
    """Rows of ``multi_get``: a dict of values by sort key, in the order of the server's answer.

    Attributes:
        complete: Whether these are all the rows that were asked for; False: the server or a limit stopped before.
        last_key: The sort key where reading stopped, the smallest one in reverse: a next call goes on behind it. None
            without rows.
    """

    __slots__ = ("complete", "last_key")

    def __init__(
        self, rows: Iterable[tuple[bytes, Any]] = (), *, complete: bool = True, last_key: bytes | None = None
    ) -> None:
        """Hold rows."""
        super().__init__(rows)
        self.complete = complete
        self.last_key = last_key

    def __repr__(self) -> str:
        """Show the rows and whether they are all."""
        return f"MultiGetResult({dict.__repr__(self)}, complete={self.complete})"


class SortKeys(list[bytes]):
    """Sort keys of ``multi_get_sort_keys``, ascending.

    Attributes:
        complete: Whether these are all.
        last_key: The sort key where reading stopped; None without keys.
    """

    __slots__ = ("complete", "last_key")

    def __init__(self, keys: Iterable[bytes] = (), *, complete: bool = True, last_key: bytes | None = None) -> None:
        """Hold keys."""
        super().__init__(keys)
        self.complete = complete
        self.last_key = last_key

    def __repr__(self) -> str:
        """Show the keys and whether they are all."""
        return f"SortKeys({list.__repr__(self)}, complete={self.complete})"


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a check-and-* operation; true when the check passed and everything was written.

    Attributes:
        was_set: Whether the check passed; if not, nothing was changed.
        check_value_exists: Whether the checked record was there, before the write; None where it was not asked for.
        raw_check_value: Its value as stored, before the write; None when it was absent or not asked for.

    A pickle or copy has no codec, which need not be picklable: its ``check_value`` is the value as stored.
    """

    was_set: bool
    check_value_exists: bool | None = None
    raw_check_value: bytes | None = None
    codec: Any = field(default=None, repr=False, compare=False)

    @property
    def check_value(self) -> Any:
        """The checked record's value before the write, as the table's codec decodes it; None when there is none.

        Decoded when it is looked at, so that a value which the codec cannot decode does not hide the outcome.

        Example:
            >>> table.set("job:7", "owner", "Ada")
            >>> absent = CheckType.NOT_EXIST
            >>> result = table.check_and_set("job:7", "owner", absent, value="Grace", return_check_value=True)
            >>> result.was_set, result.check_value
            (False, b'Ada')
        """
        if self.raw_check_value is None or self.codec is None:
            return self.raw_check_value
        return self.codec.decode(self.raw_check_value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the codec."""
        return type(self), (self.was_set, self.check_value_exists, self.raw_check_value)

    def __bool__(self) -> bool:
        """Tell whether it was set."""
        return self.was_set
