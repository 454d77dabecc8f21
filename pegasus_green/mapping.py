"""A mutable mapping over one hash key."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from typing import Any, NoReturn, TypeVar, cast, overload

from .errors import CodecError, InvalidArgument
from .keys import Key, to_bytes
from .model import CheckType
from .operations.atomic import Mutations
from .operations.base import Records, listed
from .operations.verbs import Verbs
from .results import CheckResult, V

D = TypeVar("D")

_MISSING: Any = object()


class _Items(ItemsView[bytes, V]):
    """A view of the items; each iteration is one scan."""

    _mapping: HashMapping[V]

    def __iter__(self) -> Iterator[tuple[bytes, V]]:
        return self._mapping._scan()

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        try:
            return bool(self._mapping[item[0]] == item[1])
        except (KeyError, InvalidArgument):
            return False


class _Values(ValuesView[V]):
    """A view of the values; each iteration is one scan."""

    _mapping: HashMapping[V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping._scan())

    def __contains__(self, value: object) -> bool:
        return any(value == found for found in self)


class HashMapping(MutableMapping[bytes, V]):
    """The records of one hash key as a mapping of values by sort key.

    Methods take sort keys as bytes or str and return them as bytes.

    The mapping caches nothing: each use is a request. An iteration is a scan; it continues if the mapping changes
    meanwhile. ``len()`` makes the server read all rows of the hash key. ``bool()`` makes it read one.

    Python calls ``len()`` in ``list()`` and ``sorted()``, so these can raise CountUnknown as ``len()`` does. A ``for``
    loop and a comprehension do not call it.

    ``del``, ``pop`` and ``setdefault`` are one atomic step each. ``popitem`` reads the smallest sort key, then removes
    its row in one atomic step. If several callers remove a row, only one gets it. The client does not repeat these
    methods if their outcome is unknown. If the codec cannot decode a value that ``pop`` or ``popitem`` removed, the
    CodecError has the stored bytes in ``raw``. ``update`` is atomic up to ``max_write_bytes``; a larger one is sent in
    several requests. ``clear`` is not atomic. The methods raise KeyError as those of a dict do, and the errors of the
    verbs of ``Table``.

    ``table.mapping(hash_key)`` makes a mapping.

    Example:
        >>> user = table.mapping("user:7")
        >>> user["name"] = "Ada"
        >>> user["name"], b"mail" in user, len(user)
        (b'Ada', False, 1)
        >>> del user["name"]
        >>> dict(user.items())
        {}
    """

    __slots__ = ("table", "hash_key", "_ttl", "_timeout")

    def __init__(self, table: Verbs[V], hash_key: bytes, *, ttl: float | None, timeout: float | None) -> None:
        """View a hash key. Use ``table.mapping``."""
        self.table = table
        self.hash_key = hash_key
        self._ttl = ttl
        self._timeout = timeout

    def __repr__(self) -> str:
        """Show table and hash key; no I/O."""
        return f"<HashMapping {self.table.name} {self.hash_key!r}>"

    def __reduce__(self) -> NoReturn:
        """Refuse pickling."""
        raise TypeError("a mapping cannot be pickled or copied: copy its rows with dict(mapping)")

    def __getitem__(self, key: Key) -> V:
        """Return a value; raise KeyError if it is absent or expired."""
        found: V = self.get(key, _MISSING)
        if found is _MISSING:
            raise KeyError(key)
        return found

    @overload
    def get(self, key: Key, default: None = None) -> V | None: ...

    @overload
    def get(self, key: Key, default: V) -> V: ...

    @overload
    def get(self, key: Key, default: D) -> V | D: ...

    def get(self, key: Key, default: object = None) -> object:
        """Return a value, or the default if the row is absent or expired.

        Args:
            key: The sort key.
            default: Result if there is no such row.

        Raises:
            PegasusError: The row could not be read.

        Retries: safe.

        Example:
            >>> user = table.mapping("user:7")
            >>> user["name"] = "Ada"
            >>> user.get("name"), user.get("mail", b"none")
            (b'Ada', b'none')
        """
        return self.table.get(self.hash_key, key, default=default, timeout=self._timeout)

    @overload
    def __setitem__(self, key: Key, value: V) -> None: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def __setitem__(self: HashMapping[bytes], key: Key, value: Key) -> None: ...

    def __setitem__(self, key: Key, value: object) -> None:
        """Store a value."""
        self.table.set(self.hash_key, key, cast("V", value), ttl=self._ttl, timeout=self._timeout)

    def __delitem__(self, key: Key) -> None:
        """Remove a row without reading its value; raise KeyError if it is absent or expired."""
        if not self._remove(key, return_value=False):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        """Tell whether there is a row. The result is False for an object that cannot be a key."""
        try:
            sort_key = to_bytes(key, "sort_key")
        except InvalidArgument:
            return False
        return self.table.exist(self.hash_key, sort_key, timeout=self._timeout)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the sort keys, ascending."""
        return self._scan_keys()

    def __len__(self) -> int:
        """Count the rows; raise CountUnknown if the server stops at its time limit."""
        return self.table.sort_key_count(self.hash_key, timeout=self._timeout)

    def __bool__(self) -> bool:
        """Tell whether there is at least one row."""
        with self.table.hash_scan(self.hash_key, no_value=True, limit=1, timeout=self._timeout) as rows:
            return next(rows, None) is not None

    def items(self) -> ItemsView[bytes, V]:
        """Return a view of (sort key, value); each iteration is one scan.

        Example:
            >>> user = table.mapping("user:7")
            >>> user.update(mail="a@b", name="Ada")
            >>> for sort_key, value in user.items():
            ...     print(sort_key, value)
            b'mail' b'a@b'
            b'name' b'Ada'
        """
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """Return a view of the values; each iteration is one scan.

        Example:
            >>> user = table.mapping("user:7")
            >>> user.update(mail="a@b", name="Ada")
            >>> b"Ada" in user.values()
            True
        """
        return _Values(self)

    @overload
    def pop(self, key: Key) -> V: ...

    @overload
    def pop(self, key: Key, default: V) -> V: ...

    @overload
    def pop(self, key: Key, default: D) -> V | D: ...

    def pop(self, key: Key, default: object = _MISSING) -> object:
        """Remove a row and return its value, in one atomic step.

        Args:
            key: The sort key.
            default: Result if the row is absent or expired.

        Raises:
            KeyError: The row is absent or expired, and there is no default.
            CodecError: The codec cannot decode the removed value; ``raw`` has its bytes.
            PegasusError: Any other failure. If ``outcome_unknown`` is set, the row may have been removed.

        Retries: the client does not repeat the removal if its outcome is unknown.

        Example:
            >>> user = table.mapping("user:7")
            >>> user["name"] = "Ada"
            >>> user.pop("name"), user.pop("name", None)
            (b'Ada', None)
        """
        result = self._remove(key, return_value=True)
        if result:
            return self._value(key, result)
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[bytes, V]:
        """Remove the row with the smallest sort key and return its sort key and value.

        Raises:
            KeyError: There is no row.
            PegasusError: As for ``pop``.

        Retries: as for ``pop``.

        Example:
            >>> jobs = table.mapping("job:7")
            >>> jobs.update({"001": "mail", "002": "print"})
            >>> jobs.popitem()
            (b'001', b'mail')
        """
        for key in self._scan_keys(batch_size=10):
            result = self._remove(key, return_value=True)
            # If not, another caller has removed this row.
            if result:
                return key, self._value(key, result)
        raise KeyError(f"{self!r} is empty")

    # The types follow MutableMapping. A codec that cannot store None refuses it as a default.
    @overload
    def setdefault(self: HashMapping[D | None], key: Key, default: None = None) -> D | None: ...

    @overload
    def setdefault(self, key: Key, default: V) -> V: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def setdefault(self: HashMapping[bytes], key: Key, default: Key) -> bytes: ...

    def setdefault(self, key: Key, default: object = None) -> object:
        """Return the value of a row. If it is absent or expired, store the default and return it, in one atomic step.

        Args:
            key: The sort key.
            default: The value to store if there is no such row. None is refused unless the codec can store it.

        Raises:
            PegasusError: If ``outcome_unknown`` is set, the default may have been stored.

        Retries: the client does not repeat the call if its outcome is unknown.

        Example:
            >>> user = table.mapping("user:7")
            >>> user.setdefault("name", "Ada"), user.setdefault("name", "Grace")
            (b'Ada', b'Ada')
        """
        result = self.table.check_and_set(
            self.hash_key,
            key,
            CheckType.NOT_EXIST,
            value=cast("V", default),
            ttl=self._ttl,
            return_check_value=True,
            timeout=self._timeout,
        )
        return self.table._plain(self.table._value(default)) if result else result.check_value

    @overload  # type: ignore[override] # text is a key too
    def update(self, other: Records[V] = (), /, **named: V) -> None: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def update(self: HashMapping[bytes], other: Records[Key] = (), /, **named: Key) -> None: ...

    def update(self, other: object = (), /, **named: object) -> None:
        """Store many rows: all or none if they fit into one request of ``max_write_bytes``, else in several requests.

        Args:
            other: Values by sort key, or (sort key, value) pairs.
            **named: Further values, with the sort key as the name of the argument.

        Raises:
            InvalidArgument: A key or value has a wrong type or size; nothing was sent.
            PegasusError: A request failed; ``done`` is the number of rows stored before the error.

        Retries: safe, as for ``set``.

        Example:
            >>> user = table.mapping("user:7")
            >>> user.update({"name": "Ada"}, mail="a@b")
            >>> len(user)
            2
        """
        pairs: Iterable[Any]
        if isinstance(other, Mapping):
            pairs = other.items()
        elif hasattr(other, "keys"):
            rows_of: Any = other
            keys = rows_of.keys()
            pairs = ((key, rows_of[key]) for key in keys)
        else:
            pairs = listed(other, "other")
        rows = {to_bytes(key, "sort_key"): value for key, value in (*pairs, *named.items())}
        if rows:
            self.table.multi_set(self.hash_key, rows, ttl=self._ttl, split=True, timeout=self._timeout)

    def clear(self) -> None:
        """Remove all rows, in batches; not atomic.

        Raises:
            PegasusError: A request failed; ``deleted`` is the number of rows removed before the error.

        Retries: safe.

        Example:
            >>> user = table.mapping("user:7")
            >>> user["name"] = "Ada"
            >>> user.clear()
            >>> bool(user)
            False
        """
        self.table.del_range(self.hash_key, timeout=self._timeout)

    def _value(self, key: Key, result: CheckResult[V]) -> V:
        try:
            # There is a value: the request asked for it, and the record existed.
            return cast("V", result.check_value)
        except Exception as error:
            # The row is removed. The error carries the value, or it would be lost.
            text = f"the value of {key!r} was removed and cannot be decoded: {error}"
            raise CodecError(text, table=self.table.name, raw=result.raw_check_value) from error

    def _remove(self, key: Key, *, return_value: bool) -> CheckResult[V]:
        return self.table.check_and_mutate(
            self.hash_key,
            key,
            CheckType.EXIST,
            mutations=Mutations().delete(key),
            return_check_value=return_value,
            timeout=self._timeout,
        )

    def _scan(self) -> Iterator[tuple[bytes, V]]:
        # A generator: if the caller leaves a loop early, the context of the scan on the server is freed at once.
        with self.table.hash_scan(self.hash_key, timeout=self._timeout) as rows:
            yield from rows

    def _scan_keys(self, *, batch_size: int = 1000) -> Iterator[bytes]:
        with self.table.hash_scan(self.hash_key, no_value=True, batch_size=batch_size, timeout=self._timeout) as rows:
            for sort_key, _ in rows:
                yield sort_key
