"""The inside of the embedded cluster: servers, tables, time, and what they have in common."""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any

import gevent
from gevent.event import Event

from ..protocol.meta import make_address
from . import journal
from .clock import Clock
from .faults import Faults
from .groups import Groups
from .journal import Journal
from .lives import Lives
from .meta_service import STEADY, MetaServer
from .net import Server
from .replica import Replica
from .replica_service import ReplicaServer
from .settings import Settings, check_partitions, check_release
from .splits import Splits
from .storage import Limits
from .tables import AVAILABLE, DROPPED, NOT_READY, Table, Tables

log = logging.getLogger("pegasus_green.onebox")

DEFAULT_TABLES: Mapping[str, int] = {"temp": 8}
DEFAULT_REPLICAS = 3
# A server by its index or its "host:port".
Which = int | str | Server


class Cluster:
    """The servers and tables of an embedded cluster; ``Onebox`` is the face of it.

    Attributes:
        servers: The replica servers.
        metas: The meta servers.
        leader: The meta server that leads, None: none does.
        leader_is_known: Whether followers name the leader.
        tables: What the meta servers know of tables.
        client_bugs: What clients sent that would have killed a real server.
        errors: Exceptions inside the onebox; tests can assert that there are none.
        function_level: The meta servers' function level.
        lagging: Primaries whose secondaries may be behind.
    """

    def __init__(
        self,
        replicas: int = 3,
        metas: int = 1,
        tables: Mapping[str, int] | None = None,
        release: str = "2.6",
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int | None = None,
        limits: Limits | None = None,
        advertise: str | None = None,
        **settings: Any,
    ) -> None:
        """Describe a cluster; nothing is opened before ``open``. ``Onebox`` tells about the arguments."""
        if replicas < 1 or metas < 1:
            raise ValueError("a cluster has at least one replica server and one meta server")
        make_address(host, port)
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not between 0 and 65535")
        check_release(release)
        self.release = release
        self.hosts = release == "2.6"
        self.host = host
        # Releases before host names had none to tell.
        self.advertise = advertise if advertise is not None and self.hosts else host
        self.seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
        self.random = Random(self.seed)
        self.limits = limits or Limits()
        self.settings = Settings()
        self.settings.change(**settings)
        self.clock = Clock()
        self.journal = Journal(self.settings.keep_executions)
        self.client_bugs: list[str] = []
        self.errors: list[Exception] = []
        self.tables = Tables()
        self.function_level = STEADY
        self.leader: MetaServer | None = None
        self.leader_is_known = True
        self.lagging: set[Replica] = set()
        self.groups = Groups(self)
        self.splits = Splits(self)
        self.lives = Lives(self)
        self.faults = Faults(self)
        self.running = False
        self.metas = [MetaServer(self, index, host, port if index == 0 else 0) for index in range(metas)]
        self.servers = [ReplicaServer(self, index, host, 0) for index in range(replicas)]
        self._initial = dict(DEFAULT_TABLES if tables is None else tables)
        check_partitions(self._initial)
        self._timers: set[Any] = set()
        self._stopped = Event()
        self._pid = 0

    def __repr__(self) -> str:
        """Show the addresses."""
        return f"<Onebox {','.join(self.meta_addresses)} replicas={len(self.servers)} release={self.release}>"

    # ----------------------------------------------------------------------------------------------------------- life
    def open(self) -> None:
        """Open the ports, create the tables and serve."""
        if self.running:
            return
        if self._stopped.is_set():
            raise RuntimeError("a onebox that was stopped does not start again; make a new one")
        journal.listen(self)
        self._pid = os.getpid()
        self.running = True
        try:
            for server in (*self.metas, *self.servers):
                server.listen()
        except BaseException:
            self.close()
            raise
        self.leader = self.metas[0]
        for name, partition_count in self._initial.items():
            replica_count = min(DEFAULT_REPLICAS, len(self.servers))
            self.groups.assign(self.add_table(name, partition_count, replica_count, {}))
        self._initial = {}
        self._keep_checking()

    def close(self) -> None:
        """Close everything; the data is gone."""
        if not self.running:
            return
        self.running = False
        for timer in list(self._timers):
            timer.stop()
            timer.close()
        self._timers.clear()
        for server in (*self.metas, *self.servers):
            server.close()
        for server in self.servers:
            for replica in server.replicas.values():
                replica.engine.close()
            server.replicas.clear()
        self.lagging.clear()
        journal.unlisten(self)
        self._stopped.set()

    def wait(self) -> None:
        """Block the calling greenlet until somebody stops the cluster."""
        while not self._stopped.wait(3600.0):
            pass

    # ------------------------------------------------------------------------------------------------------ addresses
    @property
    def meta_addresses(self) -> list[str]:
        """The addresses of the meta servers, "host:port".

        Example:
            >>> client = Client(box.meta_addresses)
            >>> client.table("temp").set("user:7", "name", "Ada")
            >>> client.close()
        """
        return [meta.address for meta in self.metas]

    @property
    def replica_addresses(self) -> list[str]:
        """The addresses of the replica servers, "host:port".

        Example:
            >>> sorted(node.address for node in client.admin.nodes()) == sorted(box.replica_addresses)
            True
        """
        return [server.address for server in self.servers]

    def server(self, which: Which) -> Server:
        """Return any server: by address, an index for replica servers, "meta:0", "replica:1".

        Raises:
            LookupError: There is no such server.
        """
        if isinstance(which, str):
            kind, _, index = which.rpartition(":")
            if kind == "replica":
                return self.replica_server(int(index))
            if kind == "meta":
                return self.meta_server(int(index))
            if which in self.meta_addresses:
                return self.meta_server(which)
        elif isinstance(which, MetaServer):
            return which
        return self.replica_server(which)

    def replica_server(self, which: Which) -> ReplicaServer:
        """Return a replica server by index or address.

        Raises:
            LookupError: There is no such server.
        """
        for server in self.servers:
            if which in (server.index, server.address) or which is server:
                return server
        raise LookupError(f"no replica server {which!r}; there are {self.replica_addresses}")

    def meta_server(self, which: Which) -> MetaServer:
        """Return a meta server by index or address.

        Raises:
            LookupError: There is no such server.
        """
        for server in self.metas:
            if which in (server.index, server.address) or which is server:
                return server
        raise LookupError(f"no meta server {which!r}; there are {self.meta_addresses}")

    # --------------------------------------------------------------------------------------------------------- tables
    def add_table(self, name: str, partition_count: int, replica_count: int, envs: dict[str, str]) -> Table:
        """Add a table that has no replicas yet."""
        table = self.tables.add(name, partition_count, replica_count, envs)
        table.created = int(self.clock())
        return table

    def assign_later(self, table: Table) -> None:
        """Give a table its replicas after a moment, as a real cluster does."""

        def assign() -> None:
            if table.status == AVAILABLE:
                self.groups.assign(table, in_steps=True)

        self.later(self.settings.assign_delay, assign)

    def remove_table(self, table: Table, reserve_seconds: float) -> None:
        """Take a table out of service; its replicas are kept aside for a recall."""
        table.split = None
        for partition in table.partitions:
            if partition.members:
                partition.last_members = partition.members
                self.groups.configure(table, partition, None, [])
        for server in self.servers:
            for gpid in [gpid for gpid, replica in server.replicas.items() if replica.table is table]:
                table.stash.append(server.replicas.pop(gpid))
        now = int(self.clock())
        table.status, table.dropped, table.expires = DROPPED, now, now + int(reserve_seconds)
        table.touch()

    def restore_table(self, table: Table, name: str) -> None:
        """Bring a dropped table back; its primaries come after a moment."""
        table.status, table.name, table.dropped, table.expires = AVAILABLE, name, 0, 0
        for replica in table.stash:
            replica.server.replicas[table.app_id, replica.index] = replica
        table.stash.clear()
        table.touch()
        self.later(self.settings.assign_delay, self.lives.heal)

    def forget_expired_tables(self) -> None:
        """Let go of dropped tables whose reserve time is over."""
        for table in list(self.tables):
            if table.status == DROPPED and table.expires <= self.clock():
                self.tables.remove(table)

    def change_envs(self, table: Table, envs: Mapping[str, str | None]) -> None:
        """Change envs (None: delete); the replica servers hear of it now or after the set delay."""
        for name, value in envs.items():
            if value is None:
                table.envs.pop(name, None)
            else:
                table.envs[name] = value
        for server in self.servers:
            if self.settings.env_delay > 0:
                self.later(self.random.random() * self.settings.env_delay, partial(server.learn_envs, table))
            else:
                server.learn_envs(table)

    def change_replica_count(self, table: Table, count: int) -> None:
        """Change how many replicas a table has: those too many go, missing ones come."""
        table.replica_count = count
        for partition in table.partitions:
            if partition.ballot != NOT_READY and len(partition.members) > count and partition.primary is not None:
                self.groups.configure(table, partition, partition.primary, partition.secondaries[: count - 1])
        table.touch()
        self.lives.heal()

    def compact(self, table: Table) -> None:
        """Compact all replicas of a table now."""
        table.compacted = self.clock()
        for server in self.servers:
            for replica in server.replicas.values():
                if replica.table is table and server.reachable:
                    replica.engine.compact(replica.count or table.partition_count)

    # ------------------------------------------------------------------------------------------------------ inside use
    @property
    def known_dead(self) -> set[ReplicaServer]:
        """The replica servers that the meta servers have given up."""
        return self.lives.known_dead

    @property
    def is_frozen(self) -> bool:
        """Whether too few servers live for the meta servers to change anything."""
        live = len(self.servers) - len(self.known_dead)
        return live < min(3, len(self.servers)) or live < 0.65 * len(self.servers)

    def spread(self) -> tuple[float, float]:
        """Return the standard deviations of primaries and of replicas per server."""
        primaries, replicas = dict.fromkeys(self.servers, 0), dict.fromkeys(self.servers, 0)
        for table in self.tables.served():
            for partition in table.partitions:
                for server in partition.members:
                    replicas[server] += 1
                if partition.primary is not None:
                    primaries[partition.primary] += 1
        return statistics.pstdev(primaries.values()), statistics.pstdev(replicas.values())

    def primaries_of(self, server: Server) -> int:
        """Return how many partitions a server is primary of."""
        return sum(partition.primary is server for table in self.tables.served() for partition in table.partitions)

    def fork_random(self) -> Random:
        """Return a source of its own for a part of the cluster."""
        return Random(self.random.getrandbits(64))

    def is_ours(self) -> bool:
        """Tell whether this is the process that started: a forked child must not touch the sockets it inherited."""
        return os.getpid() == self._pid

    def current(self) -> None:
        """Note that this cluster is at work now."""
        journal.current = self

    def client_bug(self, text: str) -> None:
        """Note a request that would have killed a real server."""
        journal.note_bug(self, text)

    def internal_error(self, error: Exception) -> None:
        """Note an exception of ours."""
        self.errors.append(error)
        log.error("internal error of the onebox", exc_info=error)

    def executed(self, rpc: Any, frame: bytes) -> None:
        """Note an execution."""
        self.journal.add(rpc, frame)

    def later(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Do something after a time, in the hub; return what cancels it."""
        timer = gevent.get_hub().loop.timer(max(seconds, 0.0), ref=False)
        self._timers.add(timer)

        def cancel() -> None:
            if timer in self._timers:
                self._timers.discard(timer)
                timer.stop()
                timer.close()

        def fire() -> None:
            cancel()
            if not self.is_ours():
                return
            self.current()
            try:
                action()
            except Exception as failure:
                self.internal_error(failure)

        timer.start(fire)
        return cancel

    def check_groups(self) -> None:
        """Let the secondaries apply what is committed, of every partition written to since the last time."""
        lagging, self.lagging = self.lagging, set()
        for replica in lagging:
            if replica.server.reachable:
                replica.group_check()
            else:
                self.lagging.add(replica)

    def _keep_checking(self) -> None:
        self.check_groups()
        self.later(self.settings.group_check_interval, self._keep_checking)
