"""Which rows a table scan has still to deliver, partition by partition, also across splits.

A part is a residue class: all rows whose hash leaves ``index`` when divided by ``modulus``. A table of n partitions is
n parts of modulus n. When it splits, the part (i, n) becomes (i, 2n) and (i + n, 2n) as soon as the child i + n is
ready; until then partition i serves both and the part stays as it is. Both halves go on behind the last key that the
parent has delivered, and a part that was finished before needs no halves. So every row belongs to one part at any time.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..cluster.routing import Route, RoutingTable
from ..errors import InvalidArgument
from ..keys import partition_hash
from ..protocol.rpc import CLEAR_SCANNER
from ..transport.connection import Connection

# What get_scanner and scan answer where there is no context to go on with.
COMPLETED, NONE = -1, 0


def scan_hash(index: int, modulus: int) -> int:
    """Return the hash that stands for a part in the requests of a table scan.

    Reduced by the partition count it gives the index, as the index itself would. But once the partition has split it
    gives the child's, so that the parent refuses the scan; with the bare index the parent answers on and on, without
    the rows that are its child's now.
    """
    return index + modulus


def free_context(connection: Connection, route: Route, context: int) -> None:
    """Tell the server where it was opened that a context is not needed any more; never yields.

    Ids of both signs are contexts, only 0 and -1 are none. The partition's index stands for a hash here: it is right
    before and after a split, when the server refuses, without a word, whatever carries a hash of the child's.
    """
    if context not in (COMPLETED, NONE):
        connection.send_oneway(CLEAR_SCANNER, route, route.index, CLEAR_SCANNER.encode_argument(context))


class Part:
    """One part of a scan while it is read.

    Attributes:
        index: The partition, or 0 for the scan of one hash key.
        modulus: See above; 0 for the scan of one hash key.
        hash: What the requests carry as partition hash.
        after: The last key that came; None: none has.
        context: Id of the server's open context, None: there is none.
        connection: The connection that the context belongs to.
        route: The partition as it was when the context was opened.
        asked: Rows that it asks for in one batch.
        counted: Rows counted up to ``after``.
        partial: Rows counted beyond, which are worth nothing when the context is lost.
        breaks: How often a count was lost.
    """

    __slots__ = (
        "index",
        "modulus",
        "hash",
        "after",
        "context",
        "connection",
        "route",
        "asked",
        "counted",
        "partial",
        "breaks",
    )

    def __init__(self, index: int, modulus: int, after: bytes | None = None, key_hash: int = 0) -> None:
        """Describe a part of which nothing is open."""
        self.index, self.modulus, self.after = index, modulus, after
        self.hash = scan_hash(index, modulus) if modulus else key_hash
        self.context: int | None = None
        self.connection: Connection | None = None
        self.route: Route | None = None
        self.asked = 0
        self.counted = self.partial = self.breaks = 0

    def __repr__(self) -> str:
        """Show what is read and how far it is."""
        return f"<Part {self.index} of {self.modulus or 'one hash key'} after={self.after!r} context={self.context}>"

    @property
    def key(self) -> tuple[int, int]:
        """Index and modulus, which name a part in the ledger."""
        return self.index, self.modulus

    def opened(self, context: int, connection: Connection, route: Route) -> None:
        """Remember a context."""
        self.context, self.connection, self.route = context, connection, route

    def take(self) -> int | None:
        """Return the context and forget it: it is used once."""
        context, self.context = self.context, None
        return context

    def is_at(self, route: Route) -> bool:
        """Tell whether the context belongs to the connection that the partition's primary has now."""
        peer, opened = route.peer, self.route
        same = opened is not None and opened.index == route.index and opened.app_id == route.app_id
        return same and peer is not None and self.connection is not None and peer.connection is self.connection

    def lose(self) -> None:
        """Note that what was counted since ``after`` has to be counted again."""
        self.partial = 0
        self.breaks += 1

    def clear(self, context: int | None = None) -> None:
        """Tell the server that a context (the open one) is not needed any more; never yields."""
        found = self.take() if context is None else context
        if found is not None and self.connection is not None and self.route is not None:
            free_context(self.connection, self.route, found)

    def narrow(self, table: RoutingTable) -> list[Part]:
        """Adapt to a count that is the modulus or follows from it by splits; return what is to be read besides."""
        siblings: list[Part] = []
        while self.modulus < table.count and (child := self._child(table)) is not None:
            # An open context was opened for both halves.
            self.clear()
            self.partial = 0
            self.modulus *= 2
            self.hash = scan_hash(self.index, self.modulus)
            sibling = Part(child, self.modulus, self.after)
            sibling.breaks = self.breaks
            siblings.append(sibling)
        return siblings

    def _child(self, table: RoutingTable) -> int | None:
        """Return the index of the other half, None while the parent serves it."""
        child = self.index + self.modulus
        return None if 2 * self.modulus == table.count and table.routes[child].ballot < 0 else child


def key_part(hash_key: bytes, after: bytes | None = None) -> Part:
    """Return the only part of a scan of one hash key."""
    return Part(0, 0, after, partition_hash(hash_key))


def plan(table: RoutingTable, only: Iterable[int] | None = None) -> list[Part]:
    """Return the parts of a whole table, or of some partitions; children that are not ready are with their parents.

    Raises:
        InvalidArgument: A chosen partition does not exist, or is a child that is not ready.
    """
    half = table.count // 2
    # Only an even count can be that of a split under way.
    waiting = {route.index for route in table.routes if route.ballot < 0 and route.index >= half == table.count - half}
    chosen = range(table.count) if only is None else sorted(set(only))
    for index in chosen:
        if only is not None and (not 0 <= index < table.count or index in waiting):
            raise InvalidArgument(f"partition {index} of {table.count} does not exist, or is not split off yet")
    return [Part(i, half if i + half in waiting else table.count) for i in chosen if i not in waiting]


class Ledger:
    """What has been delivered to the application, part by part; read ahead does not count.

    Attributes:
        after: The last delivered key of every unfinished part, by index and modulus; None: none yet.
    """

    __slots__ = ("after",)

    def __init__(self, parts: Iterable[tuple[int, int, bytes | None]] = ()) -> None:
        """Start with parts as (index, modulus, last delivered key)."""
        self.after: dict[tuple[int, int], bytes | None] = {(index, modulus): after for index, modulus, after in parts}

    def advance(self, index: int, modulus: int, after: bytes) -> None:
        """Note that a part is delivered up to a key."""
        self._find(index, modulus)
        self.after[index, modulus] = after

    def finish(self, index: int, modulus: int) -> None:
        """Note that a part is delivered to its end."""
        self._find(index, modulus)
        del self.after[index, modulus]

    def _find(self, index: int, modulus: int) -> None:
        """Have a part in the book: what came before of it is written under the part that it was split from.

        Of that one nothing can come any more, since its batches stand before those of its halves.
        """
        known = self.after
        if (index, modulus) in known or modulus == 0:
            return
        smaller = modulus
        while (index % smaller, smaller) not in known:
            if smaller % 2:
                raise KeyError((index, modulus))
            smaller //= 2
        after = known.pop((index % smaller, smaller))
        while smaller < modulus:
            mine = index % (2 * smaller)
            other = mine - smaller if mine >= smaller else mine + smaller
            smaller *= 2
            known[other, smaller] = after
        known[index, modulus] = after

    def parts(self) -> list[tuple[int, int, bytes | None]]:
        """Return the unfinished parts."""
        return [(index, modulus, after) for (index, modulus), after in self.after.items()]
