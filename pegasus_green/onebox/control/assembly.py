"""The servers of a onebox put together: opened, closed, and found by what a caller names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine.state import Limits
from ..replication.cluster import Cluster
from ..runtime.settings import check_partitions
from ..servers.lives import Lives
from ..servers.meta import MetaServer
from ..servers.replica import ReplicaServer
from ..wire.server import Server

DEFAULT_TABLES: Mapping[str, int] = {"temp": 8}
DEFAULT_REPLICAS = 3
# A server by its index or its "host:port".
Which = int | str | Server


class Assembly(Cluster):
    """A cluster with its servers."""

    metas: list[MetaServer]
    servers: list[ReplicaServer]

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
        super().__init__(release, host, port, seed, limits, advertise, settings)
        self.metas = [MetaServer(self, index, host, port if index == 0 else 0) for index in range(metas)]
        self.servers = [ReplicaServer(self, index, host, 0) for index in range(replicas)]
        self.lives = Lives(self, self.metas)
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
        self.begin()
        try:
            for server in (*self.metas, *self.servers):
                server.listen()
        except BaseException:
            self.close()
            raise
        self.leader = self.metas[0]
        for name, partition_count in self._initial.items():
            replica_count = min(DEFAULT_REPLICAS, len(self.servers))
            table = self.add_table(name, partition_count, replica_count, {})
            table.init_partition_count = -1
            self.groups.assign(table)
        self._initial = {}
        self.keep_checking()

    def close(self) -> None:
        """Close everything; the data is gone."""
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
