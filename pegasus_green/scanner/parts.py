"""The rows that a table scan still has to return, by partition, also across splits.

A part is a residue class: all rows whose hash modulo ``modulus`` is ``index``. A table of n partitions has n parts of
modulus n. If it splits, the part (i, n) becomes (i, 2n) and (i + n, 2n) when the child i + n is ready. Until then
partition i serves both, and the part stays unchanged. Both halves continue after the last returned key of the parent. A
part that is finished is not divided. So every row belongs to exactly one part at any time.

The half that contains the last returned key is read first. So the rows of a hash key follow one another, also if the
table splits between two of them. The empty hash key is an exception: its rows are in all partitions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain
from typing import Any

from ..cluster.routing import Route, RoutingTable
from ..errors import InvalidArgument
from ..keys import crc64, partition_hash
from ..protocol.rpc import CLEAR_SCANNER
from ..transport.connection import Connection

# Context ids in replies of get_scanner and scan that mean "no context".
COMPLETED, NONE = -1, 0


def scan_hash(index: int, modulus: int) -> int:
    """Return the hash for a part in the requests of a table scan.

    The hash modulo the partition count is the index, so ``index`` itself would be correct before a split. After a split
    this hash belongs to the child, so the parent refuses the scan. With ``index`` the parent would continue to answer,
    without the rows of its child.
    """
    return index + modulus


def free_context(connection: Connection, route: Route, context: int) -> None:
    """Tell a server that a context is not needed any more; never yields.

    Context ids can be positive or negative; 0 and -1 are no contexts. The request carries the partition index as hash.
    This is correct before and after a split. After a split the server silently refuses a request with the hash of the
    child.
    """
    if context not in (COMPLETED, NONE):
        connection.send_oneway(CLEAR_SCANNER, route, route.index, CLEAR_SCANNER.encode_argument(context))


class Part:
    """One part of a scan while it is being read.

    Attributes:
        extent: ``index``, ``modulus`` and ``hash``, which change together.
        after: The last key that was read; None: no key yet.
        context: Id of the open context on the server; None: no context.
        connection: The connection that the context belongs to.
        route: The route of the partition at the time the context was opened.
        asked: Number of rows that a request asks for.
        counted: Rows counted up to ``after``.
        partial: Rows counted after that key with the open context. They are counted again if the context is lost.
        breaks: How often the rows after that key had to be counted again.
        fetched: The newest batch until it is certainly delivered, with the values of ``after``, ``counted`` and
            ``partial`` after it.
        taken: The newest batch whose rows the application has, if another greenlet delivered it.
    """

    __slots__ = (
        "extent",
        "after",
        "context",
        "connection",
        "route",
        "asked",
        "counted",
        "partial",
        "breaks",
        "fetched",
        "taken",
    )

    def __init__(self, index: int, modulus: int, after: bytes | None = None, key_hash: int = 0) -> None:
        """Make a part without an open context."""
        self.after = after
        self.extent = index, modulus, scan_hash(index, modulus) if modulus else key_hash
        self.context: int | None = None
        self.connection: Connection | None = None
        self.route: Route | None = None
        self.asked = 0
        self.counted = self.partial = self.breaks = 0
        self.fetched: tuple[Any, bytes | None, int, int] | None = None
        self.taken: Any = None

    def __repr__(self) -> str:
        """Show the part and its position."""
        return f"<Part {self.index} of {self.modulus or 'one hash key'} after={self.after!r} context={self.context}>"

    @property
    def index(self) -> int:
        """The partition; 0 for the scan of one hash key."""
        return self.extent[0]

    @property
    def modulus(self) -> int:
        """See the module's description; 0 for the scan of one hash key."""
        return self.extent[1]

    @property
    def hash(self) -> int:
        """The partition hash of the requests."""
        return self.extent[2]

    @property
    def key(self) -> tuple[int, int]:
        """Index and modulus: the key of the part in the ledger."""
        return self.extent[:2]

    def opened(self, context: int, connection: Connection, route: Route) -> None:
        """Store a context."""
        self.context, self.connection, self.route = context, connection, route

    def take(self) -> int | None:
        """Return the context and forget it, because it can be used once."""
        context, self.context = self.context, None
        return context

    def is_at(self, route: Route) -> bool:
        """Tell whether the context belongs to the current connection of the partition's primary."""
        peer, opened = route.peer, self.route
        same = opened is not None and opened.index == route.index and opened.app_id == route.app_id
        return same and peer is not None and self.connection is not None and peer.connection is self.connection

    def settle(self) -> Any:
        """Move after the newest batch and return it; None if it was delivered. It may be called again."""
        if self.fetched is None:
            return None
        batch, self.after, self.counted, self.partial = self.fetched
        return batch

    def lose(self) -> None:
        """Record that the rows after ``after`` must be counted again."""
        self.breaks += 1

    def clear(self, context: int | None = None) -> None:
        """Tell the server that a context is not needed any more (default: the open one); never yields."""
        found = self.take() if context is None else context
        if found is not None and self.connection is not None and self.route is not None:
            free_context(self.connection, self.route, found)

    def narrow(self, table: RoutingTable, waiting: deque[Part]) -> None:
        """Adapt the part to the table's partition count: the modulus, or the modulus doubled by one or more splits.

        The part becomes the half that contains its last key. The parts that are split off go before the waiting parts.
        The rows counted so far stay with the parent.
        """
        index, modulus, counted, siblings = self.index, self.modulus, self.counted, []
        while modulus < table.count and (child := _child(table, index, modulus)) is not None:
            modulus *= 2
            other = child
            if self.after is not None and _hash_of(self.after) % modulus == child:
                index, other = child, index
            sibling = Part(other, modulus, self.after)
            sibling.breaks = self.breaks
            if other == self.index:
                sibling.counted, counted = counted, 0
            siblings.append(sibling)
        if siblings:
            # The open context covers both halves.
            self.clear()
            # One call of a C function: an interruption comes before all changes or after all.
            extent = index, modulus, scan_hash(index, modulus)
            narrowed = map(setattr, (self, self), ("extent", "counted"), (extent, counted))
            waiting.extendleft(chain(filter(None, narrowed), siblings))


def _hash_of(key: bytes) -> int:
    """Return the partition hash of an encoded key. The key of a token can be any bytes."""
    end = 2 + int.from_bytes(key[:2], "big")
    return crc64(key[2:end] or key[end:])


def _child(table: RoutingTable, index: int, modulus: int) -> int | None:
    """Return the index of the other half of a part; None while the parent serves it."""
    child = index + modulus
    return None if 2 * modulus == table.count and table.routes[child].ballot < 0 else child


def key_part(hash_key: bytes, after: bytes | None = None) -> Part:
    """Return the only part of a scan of one hash key."""
    return Part(0, 0, after, partition_hash(hash_key))


def plan(table: RoutingTable, only: Iterable[int] | None = None) -> list[Part]:
    """Return the parts of a whole table or of some partitions. A child that is not ready is part of its parent.

    Raises:
        InvalidArgument: A chosen partition does not exist, or is a child that is not ready.
    """
    half = table.count // 2
    # Only an even count can be the result of a split.
    waiting = {route.index for route in table.routes if route.ballot < 0 and route.index >= half == table.count - half}
    chosen = range(table.count) if only is None else sorted(set(only))
    for index in chosen:
        if only is not None and (not 0 <= index < table.count or index in waiting):
            raise InvalidArgument(f"partition {index} of {table.count} does not exist, or its split is not finished")
    return [Part(i, half if i + half in waiting else table.count) for i in chosen if i not in waiting]


class Ledger:
    """The position of each part in what the application received. Rows that are read ahead do not count.

    Attributes:
        after: The last returned key of every unfinished part, by index and modulus; None: no key yet.
    """

    __slots__ = ("after",)

    def __init__(self, parts: Iterable[tuple[int, int, bytes | None]] = ()) -> None:
        """Start with parts (index, modulus, last returned key)."""
        self.after: dict[tuple[int, int], bytes | None] = {(index, modulus): after for index, modulus, after in parts}

    def advance(self, index: int, modulus: int, after: bytes) -> None:
        """Record that the rows of a part up to a key were returned."""
        if self._find(index, modulus):
            self.after[index, modulus] = after

    def finish(self, index: int, modulus: int) -> None:
        """Record that all rows of a part were returned. It may be called again after an interruption."""
        if self._find(index, modulus):
            self.after.pop((index, modulus), None)

    def _find(self, index: int, modulus: int) -> bool:
        """Add a part to the ledger if it is missing: it replaces the part that it was split from.

        The old part gets no more rows, because its batches are returned before those of its halves.

        Returns:
            False if the part is finished.
        """
        if (index, modulus) in self.after or modulus == 0:
            return True
        known = self.after.copy()
        smaller = modulus
        while (index % smaller, smaller) not in known:
            if smaller % 2:
                return False
            smaller //= 2
        after = known.pop((index % smaller, smaller))
        halves = {(index, modulus): after}
        while smaller < modulus:
            mine = index % (2 * smaller)
            other = mine - smaller if mine >= smaller else mine + smaller
            smaller *= 2
            halves[other, smaller] = after
        # One step: an interruption leaves the old parts or the new ones. A scan that is resumed begins with this part.
        self.after = halves | known
        return True

    def parts(self) -> list[tuple[int, int, bytes | None]]:
        """Return the unfinished parts."""
        return [(index, modulus, after) for (index, modulus), after in self.after.copy().items()]
