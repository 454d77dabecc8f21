"""Death, silence and return of servers, and the delayed reactions of the meta servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..replication.cluster import Cluster
from ..replication.groups import RETRY
from ..wire.server import Server
from .meta import ACTIVE, LOADING, MetaServer
from .replica import ReplicaServer

Cancel = Callable[[], None]


class Lives:
    """Kills, restarts, pauses and resumes the servers of a cluster."""

    def __init__(self, box: Cluster, metas: Sequence[MetaServer]) -> None:
        """Store the cluster."""
        self.box = box
        self.metas = metas
        self._timers: dict[ReplicaServer, list[Cancel]] = {}

    # ------------------------------------------------------------------------------------------------ replica servers
    def kill(self, server: ReplicaServer) -> None:
        """Kill a server: reset its connections, close its port. Its disk stays."""
        if not server.alive:
            return
        server.kill()
        server.forget_work()
        for replica in server.replicas.values():
            replica.engine.drop_contexts()
            for mutation in replica.log:
                mutation.call = None
        self._missed(server)

    def restart(self, server: ReplicaServer, *, lose_disk: bool = False) -> None:
        """Start a server again on its port. It learns its partitions from the current primaries."""
        if server.alive:
            self.kill(server)
        self._forget_timers(server)
        # It has lost its roles. If its death was not noticed yet, its return reveals it.
        self._give_up(server)
        self.box.known_dead.discard(server)
        if lose_disk:
            self._lose(server)
        for replica in server.replicas.values():
            replica.retire()
        server.forget_envs()
        server.listen()
        for replica in server.replicas.values():
            replica.adopt_envs()
        self._rejoin(server)

    def _lose(self, server: ReplicaServer) -> None:
        self.box.groups.remove_secondary(server, force=True)
        for table in self.box.tables:
            for partition in table.partitions:
                partition.last_members = [member for member in partition.last_members if member is not server]
        server.replicas.clear()

    def pause(self, server: ReplicaServer, *, accept: bool) -> None:
        """Make a server silent."""
        if not server.reachable:
            return
        server.pause(accept)
        self._missed(server)

    def resume(self, server: ReplicaServer) -> None:
        """Continue a silent server. If it was given up meanwhile, it must learn first."""
        if not server.alive or not server.paused:
            return
        self._forget_timers(server)
        server.resume()
        for table in self.box.tables:
            server.learn_envs(table)
        was_dead = server in self.box.known_dead
        self.box.known_dead.discard(server)
        self.box.groups.catch_up(server)
        if was_dead or self._lacks(server):
            self._rejoin(server)

    def _lacks(self, server: ReplicaServer) -> bool:
        return any(
            len(partition.members) < table.replica_count and server not in partition.members
            for table in self.box.tables.served()
            for partition in table.partitions
        )

    def _missed(self, server: ReplicaServer) -> None:
        settings = self.box.settings
        self._timers[server] = [
            self.box.later(settings.removal, lambda: self._remove(server)),
            self.box.later(settings.failover_delay, lambda: self._give_up(server)),
            self.box.later(settings.failover_delay + settings.heal, self.box.groups.keep_healing),
        ]

    def _give_up(self, server: ReplicaServer) -> None:
        self.box.known_dead.add(server)
        self.box.groups.fail_over(server)
        self.box.groups.remove_secondary(server)

    def _remove(self, server: ReplicaServer) -> None:
        if not server.reachable and not self.box.groups.remove_secondary(server):
            again = self.box.later(max(self.box.settings.removal, RETRY), lambda: self._remove(server))
            self._timers.setdefault(server, []).append(again)

    def _forget_timers(self, server: ReplicaServer) -> None:
        for cancel in self._timers.pop(server, []):
            cancel()

    def _rejoin(self, server: ReplicaServer) -> None:
        def learn() -> None:
            if server.reachable:
                self.box.groups.keep_healing()

        self.box.later(self.box.settings.rejoin_delay, learn)

    # --------------------------------------------------------------------------------------------------- meta servers
    def kill_meta(self, server: MetaServer) -> None:
        """Kill a meta server."""
        if server.alive:
            server.kill()
            self._lost_meta(server)

    def restart_meta(self, server: MetaServer) -> None:
        """Start a meta server again on its port. It is a follower if there is a leader."""
        if server.alive:
            server.kill()
        server.listen()
        self._find_leader(server)

    def _find_leader(self, server: MetaServer) -> None:
        leader = self.box.leader
        if leader is server:
            self.lead(server)
        elif leader is not None and not leader.reachable:
            # When the leader was lost, no other server could take over.
            self._lost_meta(leader)

    def pause_meta(self, server: MetaServer, *, accept: bool) -> None:
        """Make a meta server silent."""
        if server.reachable:
            server.pause(accept)
            self._lost_meta(server)

    def resume_meta(self, server: MetaServer) -> None:
        """Continue a silent meta server. It finds the current leader at once."""
        if server.alive and server.paused:
            server.resume()
            if self.box.leader is not server:
                self._find_leader(server)

    def _lost_meta(self, server: Server) -> None:
        def elect() -> None:
            if self.box.leader is not server or server.reachable:
                return
            others = [meta for meta in self.metas if meta.reachable]
            if others:
                self.lead(others[0])

        if self.box.leader is server:
            self.box.later(self.box.settings.meta_failover_delay, elect)

    def lead(self, server: MetaServer | None) -> None:
        """Make a meta server the leader. It loads its state first. None: there is no leader."""
        self.box.leader = server
        if server is None:
            return
        loading = self.box.settings.meta_loading
        server.state = LOADING if loading > 0 else ACTIVE

        def loaded() -> None:
            if server.state == LOADING:
                server.state = ACTIVE

        if loading > 0:
            self.box.later(loading, loaded)
