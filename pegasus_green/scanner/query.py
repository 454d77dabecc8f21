"""The selection of a scan, its bounds as encoded keys, and its requests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ..errors import InvalidArgument
from ..keys import AFTER_LAST_KEY, FIRST_KEY, MAX_HASH_KEY, encode_key, next_key
from ..model import NO_FILTER, Filter, FilterType
from ..protocol.binary import Buffer
from ..protocol.rows import Rows, read_full_rows, read_rows
from ..protocol.rpc import GET_SCANNER, Rpc
from ..protocol.rrdb import GetScannerRequest

# Maximum number of rows that a server returns in one reply.
MAX_BATCH = 1000


class Range(NamedTuple):
    """A range of encoded keys."""

    lower: bytes
    lower_inclusive: bool
    upper: bytes
    upper_inclusive: bool

    def behind(self, after: bytes | None) -> Range:
        """Return the rest of the range after a key; None: the whole range."""
        return self if after is None or after < self.lower else self._replace(lower=after, lower_inclusive=False)

    @property
    def is_empty(self) -> bool:
        """Whether no key is inside. For such a range a server returns a context id that looks valid."""
        if self.lower == self.upper:
            return not (self.lower_inclusive and self.upper_inclusive)
        return self.lower > self.upper


@dataclass(frozen=True)
class Query:
    """The selection of a scan.

    Attributes:
        hash_key: The hash key of the scan; None: the whole table.
        start: First sort key of a hash key; b"": from the beginning.
        stop: End of the range; b"": to the end.
        start_inclusive: Whether the range includes start.
        stop_inclusive: Whether the range includes stop.
        prefix: Prefix of all sort keys; it narrows the bounds and is no filter.
        hash_key_filter: Filter on hash keys; only for whole tables.
        sort_key_filter: Filter on sort keys.
        no_value: Omit the values.
        with_ttl: Add the expiry to each row.
        count_only: The server counts and sends no rows.
    """

    hash_key: bytes | None = None
    start: bytes = b""
    stop: bytes = b""
    start_inclusive: bool = True
    stop_inclusive: bool = False
    prefix: bytes = b""
    hash_key_filter: Filter = NO_FILTER
    sort_key_filter: Filter = NO_FILTER
    no_value: bool = False
    with_ttl: bool = False
    count_only: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidArgument for a query that servers do not support."""
        if len(self.hash_key_filter.pattern) > MAX_HASH_KEY:
            size = len(self.hash_key_filter.pattern)
            raise InvalidArgument(f"hash_key_filter has {size} bytes; hash keys have at most {MAX_HASH_KEY}")
        if self.hash_key is not None and self.hash_key_filter != NO_FILTER:
            # Together with a prefix it can crash a real replica server.
            raise InvalidArgument("hash_key_filter cannot be used in a scan of one hash key")

    @cached_property
    def range(self) -> Range:
        """The bounds. Prefixes narrow them, in the client and in the server."""
        if self.hash_key is None:
            return self._table_range()
        key = self.hash_key
        lower, lower_inclusive = encode_key(key, self.start), self.start_inclusive
        upper = encode_key(key, self.stop) if self.stop else next_key(encode_key(key, b""))
        upper_inclusive = self.stop_inclusive and bool(self.stop)
        for prefix in (self.prefix, _prefix_of(self.sort_key_filter)):
            if prefix:
                first = encode_key(key, prefix)
                if first > lower:
                    lower, lower_inclusive = first, True
                behind = next_key(first)
                if behind <= upper:
                    upper, upper_inclusive = behind, False
        return Range(lower, lower_inclusive, upper, upper_inclusive)

    def _table_range(self) -> Range:
        # Hash keys are ordered by their length first, so a prefix gives a lower bound and no upper bound.
        prefix = _prefix_of(self.hash_key_filter)
        return Range(encode_key(prefix, b"") if prefix else FIRST_KEY, True, AFTER_LAST_KEY, False)

    def open(self, after: bytes | None, batch_size: int, *, as_rows: bool = False) -> bytes:
        """Return the argument of get_scanner.

        Args:
            after: Begin after this key; None: at the beginning.
            batch_size: Number of rows in one batch.
            as_rows: Ask for rows even if the query is a count.
        """
        bounds = self.range.behind(after)
        whole_table = self.hash_key is None
        request = GetScannerRequest(
            start_key=bounds.lower,
            stop_key=bounds.upper,
            start_inclusive=bounds.lower_inclusive,
            stop_inclusive=bounds.upper_inclusive,
            batch_size=min(batch_size, MAX_BATCH),
            no_value=self.no_value or self.count_only,
            hash_key_filter_type=int(self.hash_key_filter.type),
            hash_key_filter_pattern=self.hash_key_filter.pattern,
            sort_key_filter_type=int(self.sort_key_filter.type),
            sort_key_filter_pattern=self.sort_key_filter.pattern,
            validate_partition_hash=whole_table,
            return_expire_ts=True if self.with_ttl else None,
            # Without this flag a table scan that begins at a key ends with the hash key of that key.
            full_scan=True if whole_table else None,
            only_return_count=True if self.count_only and not as_rows else None,
        )
        return GET_SCANNER.encode_argument(request)

    def read(self, rpc: Rpc, frame: Buffer) -> Rows:
        """Return the rows of a reply: (sort key, value) for one hash key, else (hash key, sort key, value).

        With ``with_ttl`` the expiry follows the value.

        Raises:
            ProtocolError: The body cannot be read.
        """
        if self.hash_key is None:
            return read_full_rows(rpc, frame, self.with_ttl)
        return read_rows(rpc, frame, 2 + len(self.hash_key), self.with_ttl)

    def key_of(self, row: tuple[bytes, ...]) -> bytes:
        """Return the encoded key of a row."""
        return encode_key(row[0], row[1]) if self.hash_key is None else encode_key(self.hash_key, row[0])


def _prefix_of(found: Filter) -> bytes:
    return found.pattern if found.type is FilterType.MATCH_PREFIX else b""
