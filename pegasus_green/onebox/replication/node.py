"""A replica server as its replicas and the tables know it: what it holds, not what it answers."""

from __future__ import annotations

from ..runtime.runtime import Runtime
from ..store.keeper import Keeper
from ..wire.faults import Faults
from ..wire.server import Server
from .replica import Replica, TableFacts


class Node(Server):
    """A server with replicas.

    Attributes:
        replicas: By app id and partition index.
        keeper: What keeps the data, None: it is only in memory.
        lagging: Primaries of the whole cluster whose secondaries may be behind.
    """

    kind = "replica"

    def __init__(self, box: Runtime, injector: Faults, lagging: set[Replica], index: int, host: str, port: int) -> None:
        """Describe a server without replicas."""
        super().__init__(box, injector, index, host, port)
        self.replicas: dict[tuple[int, int], Replica] = {}
        self.lagging = lagging
        self.keeper: Keeper | None = None
        self._envs: dict[int, dict[str, str]] = {}

    # ----------------------------------------------------------------------------------------------------------- envs
    def envs_of(self, table: TableFacts) -> dict[str, str]:
        """Return what this server knows of a table's envs, a live view."""
        envs = self._envs.get(table.app_id)
        if envs is None:
            envs = self._envs[table.app_id] = dict(table.envs)
        return envs

    def learn_envs(self, table: TableFacts) -> None:
        """Take a table's present envs over."""
        envs = self.envs_of(table)
        envs.clear()
        envs.update(table.envs)
        for replica in self.replicas.values():
            if replica.table is table:
                replica.adopt_envs()

    def forget_envs(self) -> None:
        """Know nothing, as after a start."""
        self._envs.clear()
