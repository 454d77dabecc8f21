"""Routes of a table as an immutable snapshot."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from ..errors import MetaError
from ..protocol.framing import gpid_part
from ..protocol.meta import PartitionConfiguration, QueryCfgResponse, format_address
from ..transport.handover import Target

if TYPE_CHECKING:
    from ..transport.pool import Peer

# A lower ballot is accepted if all answers of this many seconds have it, and if a call has failed within these seconds
# or the known route has no primary.
GONE_SECONDS = 1.0


class Route(Target):
    """The route of one partition: its primary and secondaries. Only ``failed_at``, ``refused`` and ``lower`` change.

    Attributes:
        ballot: Version of the partition's configuration; below 0: a split child that is not ready.
        primary: "host:port", or "" if there is none now.
        peer: The primary's peer, or None.
        secondaries: "host:port" of each.
        others: The IP address of each server that has a host name.
        era: How often a lower ballot was accepted for this partition. A higher era counts more than a higher ballot.
        failed_at: When a call last failed at the primary, so that the routes were queried; monotonic time.
        refused: Whether the primary has refused a call since the newest answer of a meta server, because it does not
            serve the partition.
        lower: Ballot and primary of the newest answers, and when the first of them came; None if the ballot of the
            newest answer is not lower than that of the route.
    """

    __slots__ = ("ballot", "primary", "peer", "secondaries", "others", "era", "failed_at", "refused", "lower")

    def __init__(
        self,
        app_id: int,
        index: int,
        ballot: int,
        primary: str,
        peer: Peer | None,
        secondaries: tuple[str, ...],
        others: dict[str, str],
        era: int = 0,
    ) -> None:
        """Describe a partition."""
        super().__init__(app_id, index, gpid_part(app_id, index))
        self.ballot, self.primary, self.peer, self.secondaries = ballot, primary, peer, secondaries
        self.others, self.era = others, era
        self.failed_at = -1e9
        self.refused = False
        self.lower: tuple[int, str, float] | None = None

    def __repr__(self) -> str:
        """Show gpid, ballot and servers."""
        return f"<Route {self.app_id}.{self.index} ballot={self.ballot} primary={self.primary or 'none'}>"

    def same_as(self, other: Route) -> bool:
        """Tell whether two routes are equal."""
        return (self.app_id, self.index, self.era, self.ballot, self.primary, self.secondaries, self.others) == (
            other.app_id,
            other.index,
            other.era,
            other.ballot,
            other.primary,
            other.secondaries,
            other.others,
        )

    def is_gone(self, ballot: int, primary: str) -> bool:
        """Note an answer with a lower ballot; tell whether the cluster of this route no longer exists.

        If a cluster is made anew at the same addresses, its tables can have the same ids, and their ballots begin
        again. An outdated meta server answers with lower ballots, too. But then calls at the newer primary succeed.
        """
        now = monotonic()
        if self.lower is None or self.lower[:2] != (ballot, primary):
            self.lower = ballot, primary, now
        fails = not self.primary or now - self.failed_at < GONE_SECONDS
        return fails and now - self.lower[2] >= GONE_SECONDS


class RoutingTable:
    """The routes of one table at one moment.

    Attributes:
        app_id: The table's id. If a table is dropped and created again, it has another id.
        count: Number of partitions, 1 or more.
        routes: All partitions by index.
        targets: Route for the keys of each partition: routes[i], or that of the parent i - count/2 while i is a split
            child that is not ready.
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
        """Return the same routes for another thread, with the peers of its own connections.

        Args:
            peer_of: As for ``build``.
            before: The routes that this thread knows. A route with a higher era stays, and so does a route with the
                same era and a higher ballot.
        """
        comparable = before is not None and before.app_id == self.app_id and before.count == self.count
        routes = []
        for route in self.routes:
            known = before.routes[route.index] if comparable and before is not None else None
            is_older = known is not None and (known.era, known.ballot) > (route.era, route.ballot) and route.ballot >= 0
            if known is not None and (is_older or known.same_as(route)):
                routes.append(known)
                continue
            peer = peer_of(route.primary, route.others.get(route.primary, "")) if route.primary else None
            routes.append(
                Route(
                    route.app_id,
                    route.index,
                    route.ballot,
                    route.primary,
                    peer,
                    route.secondaries,
                    route.others,
                    route.era,
                )
            )
        return RoutingTable(self.app_id, routes)

    def target(self, partition_hash: int) -> Route:
        """Return the route for a key with this hash."""
        return self.targets[partition_hash % self.count]

    def continues(self, before: RoutingTable | None) -> bool:
        """Tell whether this seems to be the same table of the same cluster, with the same partitions."""
        if before is None or before.app_id != self.app_id or before.count != self.count:
            return False
        return all(new.era == old.era for new, old in zip(self.routes, before.routes))

    def changes(self, other: RoutingTable | None) -> int:
        """Return the number of partitions that differ from an older table."""
        if other is None or other.app_id != self.app_id or other.count != self.count:
            return self.count
        return sum(not new.same_as(old) for new, old in zip(self.routes, other.routes))


def build(reply: QueryCfgResponse, peer_of: Callable[[str, str], Peer], before: RoutingTable | None) -> RoutingTable:
    """Make a routing table from the answer of a meta server.

    If the answer has a lower ballot for a partition than the known route, the known route stays, unless it ``is_gone``.

    Args:
        reply: The answer.
        peer_of: Returns the peer for a server's address, and its IP address if the first is a host name.
        before: The known routes.

    Raises:
        MetaError: The answer does not contain every partition exactly once.
    """
    by_index: dict[int, PartitionConfiguration] = {}
    for partition in reply.partitions:
        by_index[partition.pid >> 32] = partition
    # Compared without a list of this length: a hostile server may announce a billion.
    count = reply.partition_count
    if count < 1 or len(by_index) != count or len(reply.partitions) != count:
        raise MetaError(f"the answer has {len(reply.partitions)} partitions, but the table has {count}")
    if min(by_index) < 0 or max(by_index) >= count:
        raise MetaError(f"the answer has partitions {min(by_index)} to {max(by_index)}, but the table has {count}")
    comparable = before is not None and before.app_id == reply.app_id and before.count == reply.partition_count
    routes = []
    for index in range(reply.partition_count):
        partition = by_index[index]
        known = before.routes[index] if comparable and before is not None else None
        primary, secondaries, others = _servers(partition)
        era = 0
        if known is not None:
            era = known.era
            if known.ballot <= partition.ballot or partition.ballot < 0:
                known.lower = None
            elif known.is_gone(partition.ballot, primary):
                era += 1
            else:
                routes.append(known)
                continue
        peer = peer_of(primary, others.get(primary, "")) if primary else None
        route = Route(reply.app_id, index, partition.ballot, primary, peer, secondaries, others, era)
        routes.append(known if known is not None and known.same_as(route) else route)
    return RoutingTable(reply.app_id, routes)


def _servers(partition: PartitionConfiguration) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Return the primary, the secondaries, and the IP addresses of those with host names."""
    in_digits = format_address(partition.primary)
    primary = partition.hp_primary or in_digits
    others = {primary: in_digits} if in_digits and in_digits != primary else {}
    raw = [format_address(address) for address in partition.secondaries]
    secondaries = partition.hp_secondaries or [address for address in raw if address]
    # A server sends both lists in the same order.
    if len(raw) == len(secondaries):
        others.update((name, address) for name, address in zip(secondaries, raw) if address and name != address)
    return primary, tuple(secondaries), others
