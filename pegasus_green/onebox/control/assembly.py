"""All servers of a onebox: open and close them, and find them by index or address."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gevent
from gevent import socket

from ..engine.state import Limits
from ..replication.cluster import STEADY, Cluster
from ..replication.saved import restore
from ..replication.tables import AVAILABLE, DROPPED, NOT_READY
from ..runtime.auth import OneboxAuth
from ..runtime.runtime import ANY
from ..runtime.settings import Settings, check_partitions, parse_ports
from ..servers.lives import Lives
from ..servers.meta import ACTIVE, MetaServer
from ..servers.negotiation import Protected, Security
from ..servers.replica import ReplicaServer
from ..store.files import Files
from ..store.keeper import Keeper, in_thread
from ..wire.server import Server

DEFAULT_TABLES: Mapping[str, int] = {"temp": 8}
DEFAULT_REPLICAS = 3
BALLOTS_PER_OPENING = 1_000_000
# A server by its index or its "host:port".
Which = int | str | Server
# "34601-34603", "34601,34602" or the numbers.
Ports = str | Sequence[int]


def check_ports(
    replicas: int | None, metas: int | None, port: int, meta_ports: Ports | None, replica_ports: Ports | None
) -> tuple[list[int], list[int]]:
    """Return the ports of the meta servers and of the replica servers; 0: a free one.

    Raises:
        ValueError: A kind has no server, or the numbers of servers and ports contradict each other.
    """
    found = []
    for kind, count, given, default in (("meta", metas, meta_ports, 1), ("replica", replicas, replica_ports, 3)):
        ports = [0] * (default if count is None else count) if given is None else parse_ports(given)
        if not ports:
            raise ValueError("a cluster needs at least one replica server and one meta server")
        if count is not None and count != len(ports):
            raise ValueError(f"{kind}_ports names {len(ports)} ports for {count} {kind} servers: {given!r}")
        found.append(ports)
    if port and meta_ports is not None:
        raise ValueError("port and meta_ports cannot be combined: port is the port of the first meta server")
    if meta_ports is None:
        found[0][0] = port
    taken = [number for ports in found for number in ports if number]
    if len(set(taken)) < len(taken):
        raise ValueError(f"a port is used twice: {found[0]} for meta servers, {found[1]} for replica servers")
    return found[0], found[1]


class Assembly(Cluster):
    """A cluster with its servers.

    Attributes:
        hub: The hub that it runs in, after it is started.
        on_progress: Called with the rows read and the number of all rows, while a data directory is read.
        generation: How often the data directory was opened, including this time.
    """

    generation = 1

    metas: list[MetaServer]
    servers: list[ReplicaServer]

    def __init__(
        self,
        replicas: int | None = None,
        metas: int | None = None,
        tables: Mapping[str, int] | None = None,
        release: str = "2.6",
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int | None = None,
        limits: Limits | None = None,
        advertise: str | None = None,
        meta_ports: Ports | None = None,
        replica_ports: Ports | None = None,
        auth: OneboxAuth | None = None,
        data: str | os.PathLike[str] | None = None,
        sync: bool = False,
        **settings: Any,
    ) -> None:
        """Describe a cluster; ``open`` opens it. ``Onebox`` describes the arguments."""
        of_metas, of_replicas = check_ports(replicas, metas, port, meta_ports, replica_ports)
        super().__init__(release, host, port, seed, limits, advertise, settings)
        self.metas = [MetaServer(self, index, host, port) for index, port in enumerate(of_metas)]
        self.servers = [ReplicaServer(self, index, host, port) for index, port in enumerate(of_replicas)]
        self.lives = Lives(self, self.metas)
        self._security = None if auth is None else Security(auth)
        if self._security is not None:
            protected: list[Protected] = [*self.metas, *self.servers]
            for server in protected:
                self._security.protect(server)
        self._settings = settings
        self._data = data
        self._sync = sync
        self.hub: Any = None
        self.on_progress: Callable[[int, int], None] | None = None
        self._initial = dict(DEFAULT_TABLES if tables is None else tables)
        check_partitions(self._initial)

    def __repr__(self) -> str:
        """Show the addresses."""
        return f"<Onebox {','.join(self.meta_addresses)} replicas={len(self.servers)} release={self.release}>"

    # ----------------------------------------------------------------------------------------------------------- life
    def open(self) -> None:
        """Open the ports, create the tables and serve."""
        if self.running:
            return
        if self._security is not None:
            self._security.load()
        self.begin()
        self.hub = gevent.get_hub()
        try:
            self._learn_address()
            self._load()
            for server in (*self.metas, *self.servers):
                server.listen()
        except BaseException:
            self.close()
            raise
        self.leader = self.metas[0]
        self._restore()
        self._create_first_tables()
        self.save()
        self.keep_checking()

    def _create_first_tables(self) -> None:
        for name, partition_count in self._initial.items():
            if self.tables.find(name) is not None:
                continue
            replica_count = min(DEFAULT_REPLICAS, len(self.servers))
            table = self.add_table(name, partition_count, replica_count, {})
            table.init_partition_count = -1
            self.groups.assign(table)

    def start_again(self) -> None:
        """Restore the state after the start, except for the ports and the ids of tables."""
        self.faults.remove()
        self.settings.__dict__.update(Settings().__dict__)
        self.settings.change(**self._settings)
        for server in self.servers:
            self.lives.resume(server)
            if not server.alive:
                self.lives.restart(server)
        for meta in self.metas:
            self.lives.resume_meta(meta)
            if not meta.alive:
                self.lives.restart_meta(meta)
            meta.state = ACTIVE
        self.leader, self.leader_is_known, self.function_level = self.metas[0], True, STEADY
        for table in list(self.tables):
            if table.status != DROPPED:
                self.remove_table(table, 0)
            self.forget_table(table)
        self.clock.skipped = 0.0
        self._create_first_tables()
        self.save()
        self.journal.clear()
        self.client_bugs.clear()
        self.errors.clear()

    def _learn_address(self) -> None:
        """Find the IPv4 address for clients if the listeners have none of their own."""
        if self.host != ANY or self.name is None:
            return
        try:
            self.tell(socket.gethostbyname(self.name))
        except OSError as error:
            raise OSError(error.errno, f"cannot resolve {self.name!r}, the name for clients: {error}") from None

    # ------------------------------------------------------------------------------------------------------- the files
    def _load(self) -> None:
        """Open the data directory and read it; other greenlets run meanwhile."""
        if self._data is None:
            return
        self.data_folder = os.fspath(self._data)
        files = in_thread(gevent.get_hub().threadpool, partial(Files, self._data, sync=self._sync))
        keeper = self.keeper = Keeper(files, self.is_ours)
        for server in self.servers:
            server.keeper = keeper
        self.generation = keeper.run(files.opened)
        text = keeper.run(files.tables)
        if text is None:
            return
        self.clock.skipped = restore(self.tables, text)
        total, done = keeper.run(files.count), 0
        for part, decree in keeper.run(files.decrees).items():
            rows = keeper.run(files.rows, part)
            self.kept[part] = (rows, decree)
            done += len(rows)
            if self.on_progress is not None:
                self.on_progress(done, total)

    def _restore(self) -> None:
        """Create the replicas of the tables that were read."""
        for table in list(self.tables):
            for partition in table.partitions:
                if partition.ballot != NOT_READY:
                    # Higher than any ballot that clients know.
                    partition.ballot = (self.generation - 1) * BALLOTS_PER_OPENING
            is_dropped, moment = table.status == DROPPED, (table.dropped, table.expires)
            if table.served:
                table.status = AVAILABLE
                self.groups.assign(table)
                if is_dropped:
                    table.status, (table.dropped, table.expires) = DROPPED, moment
                    self.stop_serving(table, table.dropped)
                self.splits.resume(table)
            elif not is_dropped:
                self.groups.assign_later(table)
        self.kept.clear()

    def close(self) -> None:
        """Close everything. Without a data directory, the data is lost."""
        if not self.running:
            return
        self.running = False
        self.stop_timers()
        for server in (*self.metas, *self.servers):
            server.close()
        for node in self.servers:
            for replica in node.replicas.values():
                replica.engine.close()
            node.replicas.clear()
        self.lagging.clear()
        try:
            if self.keeper is not None:
                self.save()
                self.keeper.close()
        finally:
            self.end()

    # ------------------------------------------------------------------------------------------------------ addresses
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
        raise LookupError(f"no replica server {which!r}; known: {self.replica_addresses}")

    def meta_server(self, which: Which) -> MetaServer:
        """Return a meta server by index or address.

        Raises:
            LookupError: There is no such server.
        """
        for server in self.metas:
            if which in (server.index, server.address) or which is server:
                return server
        raise LookupError(f"no meta server {which!r}; known: {self.meta_addresses}")
