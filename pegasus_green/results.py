"""Result types: rows of scans, results of multi_get and of check-and-* operations.

All of them are generic in the value type: ``Row[str]`` is a row of a table whose codec decodes to str.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, cast

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Decoder(Protocol[V_co]):
    """The decoding half of a codec."""

    def decode(self, raw: bytes) -> V_co:
        """Return the value of stored bytes."""


# Python 3.10 does not accept a generic NamedTuple. So type checkers see generic classes, and the interpreter runs plain
# classes that can be subscripted.
if TYPE_CHECKING:

    class Row(NamedTuple, Generic[V]):
        """A record of a table scan."""

        hash_key: bytes
        sort_key: bytes
        value: V

    class RowWithTtl(NamedTuple, Generic[V]):
        """A record of a table scan with its remaining time to live in seconds."""

        hash_key: bytes
        sort_key: bytes
        value: V
        ttl: float

    class HashRow(NamedTuple, Generic[V]):
        """A record of one hash key."""

        sort_key: bytes
        value: V

    class HashRowWithTtl(NamedTuple, Generic[V]):
        """A record of one hash key with its remaining time to live in seconds."""

        sort_key: bytes
        value: V
        ttl: float

else:
    from collections import namedtuple
    from types import GenericAlias

    class Row(namedtuple("Row", "hash_key sort_key value")):  # noqa: PYI024 - a NamedTuple cannot be generic in Python 3.10
        """A record of a table scan: (hash_key, sort_key, value).

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> row = next(table.scan(hash_key_filter=Filter.prefix("user:7")))
            >>> row.hash_key, row.sort_key, row.value
            (b'user:7', b'name', b'Ada')
            >>> hash_key, sort_key, value = row
        """

        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)

    class RowWithTtl(namedtuple("RowWithTtl", "hash_key sort_key value ttl")):  # noqa: PYI024 - a NamedTuple cannot be generic in Python 3.10
        """A record of a table scan: (hash_key, sort_key, value, ttl).

        ``ttl`` is the remaining time to live in whole seconds, ``math.inf`` if the record never expires.

        Example:
            >>> table.set("user:7", "name", "Ada", ttl=60)
            >>> row = next(table.scan(hash_key_filter=Filter.prefix("user:7"), with_ttl=True))
            >>> row.ttl in (59, 60)
            True
        """

        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)

    class HashRow(namedtuple("HashRow", "sort_key value")):  # noqa: PYI024 - a NamedTuple cannot be generic in Python 3.10
        """A record of one hash key: (sort_key, value).

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            >>> [row.sort_key for row in table.hash_scan("user:7")]
            [b'mail', b'name']
        """

        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)

    class HashRowWithTtl(namedtuple("HashRowWithTtl", "sort_key value ttl")):  # noqa: PYI024 - a NamedTuple cannot be generic in Python 3.10
        """A record of one hash key: (sort_key, value, ttl).

        ``ttl`` is the remaining time to live in whole seconds, ``math.inf`` if the record never expires.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> [row.ttl for row in table.hash_scan("user:7", with_ttl=True)]
            [inf]
        """

        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)


class MultiGetResult(dict[bytes, V]):
    """Rows of ``multi_get``: a dict of values by sort key, in the order of the server's answer.

    Attributes:
        complete: True if these are all rows of the request. False: a limit of the call or of the server ended the read.
        last_key: Where to continue: the sort key of the last row. Call ``multi_get`` with ``start=last_key,
            start_inclusive=False``. After a call with ``reverse`` it is the sort key of the first row; call
            ``multi_get`` with ``reverse=True, stop=last_key``. None: there are no rows.
    """

    __slots__ = ("complete", "last_key")

    def __init__(
        self, rows: Iterable[tuple[bytes, V]] = (), *, complete: bool = True, last_key: bytes | None = None
    ) -> None:
        """Store the rows."""
        super().__init__(rows)
        self.complete = complete
        self.last_key = last_key

    def __repr__(self) -> str:
        """Show the rows and whether they are complete."""
        return f"MultiGetResult({dict.__repr__(self)}, complete={self.complete})"


class SortKeys(list[bytes]):
    """Sort keys of ``multi_get_sort_keys``, ascending.

    Attributes:
        complete: True if these are all sort keys of the request. False: a limit of the call or of the server ended the
            read.
        last_key: As for ``MultiGetResult``.
    """

    __slots__ = ("complete", "last_key")

    def __init__(self, keys: Iterable[bytes] = (), *, complete: bool = True, last_key: bytes | None = None) -> None:
        """Store the keys."""
        super().__init__(keys)
        self.complete = complete
        self.last_key = last_key

    def __repr__(self) -> str:
        """Show the keys and whether they are complete."""
        return f"SortKeys({list.__repr__(self)}, complete={self.complete})"


@dataclass(frozen=True)
class CheckResult(Generic[V]):
    """The outcome of ``check_and_set``, ``check_and_mutate`` or ``compare_exchange``. It is true if the check passed.

    Attributes:
        was_set: Whether the check passed and the server applied all writes of the call. If False, it applied none.
        check_value_exists: Whether the checked record existed before the write; None if the call did not ask for it.
        raw_check_value: The checked record's stored bytes before the write; None if there was no record or the call did
            not ask for them.
        codec: The table's codec, which decodes ``check_value``; None: ``check_value`` is bytes.

    A pickle or copy has no codec, because a codec need not be picklable. Its ``check_value`` is the stored bytes.
    """

    was_set: bool
    check_value_exists: bool | None = None
    raw_check_value: bytes | None = None
    codec: Decoder[V] | None = field(default=None, repr=False, compare=False)

    @property
    def check_value(self) -> V | None:
        """The value of the checked record before the write, decoded by the table's codec.

        None if there was no record or the call did not ask for the value.

        It is decoded on access, so the outcome can be read even if the codec cannot decode the value.

        Example:
            >>> table.set("job:7", "owner", "Ada")
            >>> absent = CheckType.NOT_EXIST
            >>> result = table.check_and_set("job:7", "owner", absent, value="Grace", return_check_value=True)
            >>> result.was_set, result.check_value
            (False, b'Ada')
        """
        raw = self.raw_check_value
        if raw is None:
            return None
        # Without a codec V is bytes.
        return cast("V", raw) if self.codec is None else self.codec.decode(raw)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the codec."""
        return type(self), (self.was_set, self.check_value_exists, self.raw_check_value)

    def __bool__(self) -> bool:
        """Tell whether the check passed."""
        return self.was_set
