"""Routes of a table as an immutable snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import MetaError
from ..protocol.framing import gpid_part
from ..protocol.meta import PartitionConfiguration, QueryCfgResponse, format_address
from ..transport.handover import Target

if TYPE_CHECKING:
    from ..transport.pool import Peer


class Route(Target):
    """One partition: where its primary and secondaries are.

    Attributes:
        ballot: Version of the partition's configuration; below 0: a split child that is not ready.
        primary: "host:port", or "" when there is none now.
        peer: The primary's peer, or None.
        secondaries: "host:port" of each.
        others: The address in digits of each server that is named by its host name.
    """

    __slots__ = ("ballot", "primary", "peer", "secondaries", "others")

    def __init__(
        self,
        app_id: int,
        index: int,
        ballot: int,
        primary: str,
        peer: Peer | None,
        secondaries: tuple[str, ...],
        others: dict[str, str],
    ) -> None:
        """Describe a partition."""
        super().__init__(app_id, index, gpid_part(app_id, index))
        self.ballot, self.primary, self.peer, self.secondaries = ballot, primary, peer, secondaries
        self.others = others

    def __repr__(self) -> str:
        """Show gpid, ballot and servers."""
        return f"<Route {self.app_id}.{self.index} ballot={self.ballot} primary={self.primary or 'none'}>"

    def same_as(self, other: Route) -> bool:
        """Tell whether nothing differs."""
        return (self.app_id, self.index, self.ballot, self.primary, self.secondaries, self.others) == (
            other.app_id,
            other.index,
            other.ballot,
            other.primary,
            other.secondaries,
            other.others,
        )


class RoutingTable:
    """The routes of one table at one moment.

    Attributes:
        app_id: The table's id; a table created anew under the same name has another one.
        count: Number of partitions, any number from 1.
        routes: All partitions by index.
        targets: Where a key of partition i goes: route i, or its parent i - count/2 while i is a split child that is
            not ready.
    """

    __slots__ = ("app_id", "count", "routes", "targets")

    def __init__(self, app_id: int, routes: list[Route]) -> None:
        """Build from all routes, ordered by index."""
        self.app_id = app_id
        self.count = len(routes)
        self.routes = tuple(routes)
        half = self.count // 2
        self.targets = tuple(
            routes[route.index - half] if route.ballot < 0 and route.index >= half else route for route in routes
        )

    def __repr__(self) -> str:
        """Show id and size."""
        return f"<RoutingTable app_id={self.app_id} partitions={self.count}>"

    def bound_to(self, peer_of: Callable[[str, str], Peer], before: RoutingTable | None) -> RoutingTable:
        """Return the same routes for another thread, whose peers lead to its own connections.

        Args:
            peer_of: As for ``build``.
            before: The routes that are known there; one with a higher ballot stays.
        """
        comparable = before is not None and before.app_id == self.app_id and before.count == self.count
        routes = []
        for route in self.routes:
            known = before.routes[route.index] if comparable and before is not None else None
            if known is not None and (known.ballot > route.ballot >= 0 or known.same_as(route)):
                routes.append(known)
                continue
            peer = peer_of(route.primary, route.others.get(route.primary, "")) if route.primary else None
            routes.append(
                Route(route.app_id, route.index, route.ballot, route.primary, peer, route.secondaries, route.others)
            )
        return RoutingTable(self.app_id, routes)

    def target(self, partition_hash: int) -> Route:
        """Return where a key with that hash is served."""
        return self.targets[partition_hash % self.count]

    def changes(self, other: RoutingTable | None) -> int:
        """Return in how many partitions this table differs from an older one."""
        if other is None or other.app_id != self.app_id or other.count != self.count:
            return self.count
        return sum(not new.same_as(old) for new, old in zip(self.routes, other.routes))


def build(reply: QueryCfgResponse, peer_of: Callable[[str, str], Peer], before: RoutingTable | None) -> RoutingTable:
    """Make a routing table of a meta server's answer.

    Where the answer is older than what is known (a lower ballot of the same partition), the known route stays.

    Args:
        reply: The answer.
        peer_of: Gives the peer for a server's address, and its address in digits where the first is a host name.
        before: The routes that are known.

    Raises:
        MetaError: The answer does not name every partition once.
    """
    by_index: dict[int, PartitionConfiguration] = {}
    for partition in reply.partitions:
        by_index[partition.pid >> 32] = partition
    # Compared without a list of that count: it may be a billion where somebody plays a meta server.
    count = reply.partition_count
    if count < 1 or len(by_index) != count or len(reply.partitions) != count:
        raise MetaError(f"routes of {len(reply.partitions)} partitions where the table has {count}")
    if min(by_index) < 0 or max(by_index) >= count:
        raise MetaError(f"routes of partitions {min(by_index)} to {max(by_index)} where the table has {count}")
    comparable = before is not None and before.app_id == reply.app_id and before.count == reply.partition_count
    routes = []
    for index in range(reply.partition_count):
        partition = by_index[index]
        known = before.routes[index] if comparable and before is not None else None
        if known is not None and known.ballot > partition.ballot >= 0:
            routes.append(known)
            continue
        primary, secondaries, others = _servers(partition)
        peer = peer_of(primary, others.get(primary, "")) if primary else None
        route = Route(reply.app_id, index, partition.ballot, primary, peer, secondaries, others)
        routes.append(known if known is not None and known.same_as(route) else route)
    return RoutingTable(reply.app_id, routes)


def _servers(partition: PartitionConfiguration) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Return the primary, the secondaries, and the addresses in digits of those that are named by host names."""
    in_digits = format_address(partition.primary)
    primary = partition.hp_primary or in_digits
    others = {primary: in_digits} if in_digits and in_digits != primary else {}
    raw = [format_address(address) for address in partition.secondaries]
    secondaries = partition.hp_secondaries or [address for address in raw if address]
    # A server sends both lists in the same order.
    if len(raw) == len(secondaries):
        others.update((name, address) for name, address in zip(secondaries, raw) if address and name != address)
    return primary, tuple(secondaries), others
