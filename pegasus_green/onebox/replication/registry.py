"""The tables and replica servers of one onebox, and the operations on them that move no replica."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..engine.records import Record
from ..engine.state import Limits
from ..runtime.runtime import Runtime
from ..store.files import Part
from ..store.keeper import Keeper
from ..wire.server import Server
from .node import Node
from .replica import Replica
from .saved import describe
from .tables import Table, Tables


class Registry(Runtime):
    """Tables and replica servers.

    Attributes:
        tables: The tables that the meta servers know.
        servers: The replica servers.
        known_dead: The replica servers that the meta servers consider dead.
        keeper: The writer of the data files; None: the data is only in memory.
        lagging: Primaries whose secondaries may lag behind.
    """

    servers: Sequence[Node]

    def __init__(
        self,
        release: str,
        host: str,
        port: int,
        seed: int | None,
        limits: Limits | None,
        advertise: str | None,
        settings: dict[str, Any],
    ) -> None:
        """Start without tables and servers."""
        super().__init__(release, host, port, seed, limits, advertise, settings)
        self.tables = Tables()
        self.servers = ()
        self.known_dead: set[Node] = set()
        self.lagging: set[Replica] = set()
        self.keeper: Keeper | None = None
        # Initial rows and decree of new replicas, by app id and index; removed when the replica is made.
        self.kept: dict[Part, tuple[list[tuple[bytes, Record]], int]] = {}
        self._saved = ""
        self._is_dirty = False

    # ------------------------------------------------------------------------------------------------------- the files
    def changed(self) -> None:
        """Record that tables have changed. They are saved at the end of the pass."""
        if self.keeper is not None and not self._is_dirty:
            self._is_dirty = True
            self.later(0.0, self.save)

    def save(self) -> None:
        """Save the tables now if they have changed."""
        if self.keeper is None:
            return
        self._is_dirty = False
        text = describe(self.tables, self.clock.skipped)
        if text != self._saved:
            self._saved = text
            self.keeper.save_tables(text)

    def app_id(self, name: str) -> int | None:
        """Return the id of the table with this name."""
        table = self.tables.find(name)
        return None if table is None else table.app_id

    def change_envs(self, table: Table, envs: Mapping[str, str | None]) -> None:
        """Change envs (None: delete). The replica servers get them now or after the configured delay."""
        for name, value in envs.items():
            if value is None:
                table.envs.pop(name, None)
            else:
                table.envs[name] = value
        self.changed()
        for server in self.servers:
            if self.settings.env_delay > 0:
                self.later(self.random.random() * self.settings.env_delay, partial(server.learn_envs, table))
            else:
                server.learn_envs(table)

    @property
    def is_frozen(self) -> bool:
        """Whether there are too few live servers for the meta servers to change anything."""
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
        """Return the number of partitions whose primary is on a server."""
        return sum(partition.primary is server for table in self.tables.served() for partition in table.partitions)

    def check_groups(self) -> None:
        """Make the secondaries apply what is committed, in every partition with writes since the last check."""
        lagging = list(self.lagging)
        self.lagging.clear()
        for replica in lagging:
            if replica.server.reachable:
                replica.group_check()
            else:
                self.lagging.add(replica)

    def keep_checking(self) -> None:
        """Check the groups now and at each configured interval."""
        self.check_groups()
        self.later(self.settings.group_check_interval, self.keep_checking)
