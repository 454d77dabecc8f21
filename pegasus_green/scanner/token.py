"""Tokens: the text that a scan is resumed from. It has the selection and the position in each part."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from dataclasses import fields
from typing import Any, NamedTuple

from ..errors import InvalidArgument
from ..model import Filter, FilterType
from .query import Query

_VERSION = 1
Parts = list[tuple[int, int, "bytes | None"]]


class Token(NamedTuple):
    """The content of a token.

    Attributes:
        table: The table's name.
        app_id: The table's id; 0 if it is unknown or has no meaning.
        query: The selection.
        parts: Index, modulus and last returned key of each unfinished part; None: nothing was read yet.
        only: The chosen partitions, if the table was not read yet; None: all.
    """

    table: str
    app_id: int
    query: Query
    parts: Parts | None
    only: tuple[int, ...] | None = None

    def encode(self) -> str:
        """Return the token as text of letters, digits, "-" and "_"."""
        selection = {}
        for field in fields(Query):
            value = getattr(self.query, field.name)
            if value != field.default:
                selection[field.name] = _plain(value)
        parts = (
            None if self.parts is None else [[index, modulus, _plain(after)] for index, modulus, after in self.parts]
        )
        facts = [_VERSION, self.table, self.app_id, selection, parts, self.only]
        raw = json.dumps(facts, separators=(",", ":")).encode()
        return urlsafe_b64encode(raw).decode().rstrip("=")


def decode(text: str) -> Token:
    """Return the content of a token.

    Raises:
        InvalidArgument: The text is not a token, or has another version.
    """
    if not isinstance(text, str):
        raise InvalidArgument(f"resume must be the text that token() returned, not {type(text).__name__}")
    try:
        facts = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        version, table, app_id, selection, parts, only = facts
        if version != _VERSION:
            raise ValueError(f"unknown version {version}")
        query = Query(**{name: _rich(value) for name, value in selection.items()})
        _check(query, table, app_id, only)
        known = None if parts is None else [_part(*part, whole_table=query.hash_key is None) for part in parts]
        return Token(table, app_id, query, known, None if only is None else tuple(only))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InvalidArgument(f"resume is not a scan token, or not a complete one: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, Filter):
        return [int(value.type), _plain(value.pattern)]
    return value


def _rich(value: Any) -> Any:
    if isinstance(value, str):
        return b64decode(value, validate=True)
    if isinstance(value, list):
        kind, pattern = value
        return Filter(FilterType(kind), b64decode(pattern, validate=True))
    return value


def _check(query: Query, table: Any, app_id: Any, only: Any) -> None:
    """Raise ValueError if a field has a wrong type."""
    for field in fields(Query):
        value = getattr(query, field.name)
        if type(value) is not type(field.default) and not (field.name == "hash_key" and type(value) is bytes):
            raise ValueError(f"{field.name} cannot be {value!r}")
    if type(table) is not str or type(app_id) is not int:
        raise ValueError(f"the table cannot be {table!r} with id {app_id!r}")
    if only is not None and not all(type(index) is int for index in only):
        raise ValueError(f"the partitions cannot be {only!r}")


def _part(index: Any, modulus: Any, after: Any, *, whole_table: bool) -> tuple[int, int, bytes | None]:
    if type(index) is not int or type(modulus) is not int or not 0 <= index < max(modulus, 1):
        raise ValueError(f"there is no part {index!r} of {modulus!r}")
    if whole_table != (modulus > 0):
        raise ValueError("its positions and its selection do not fit together")
    return index, modulus, None if after is None else b64decode(after, validate=True)
