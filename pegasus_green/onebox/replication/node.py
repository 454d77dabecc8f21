"""A replica server as its replicas and the tables see it: its data, without its request handling."""

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
        keeper: The writer of the data files; None: the data is only in memory.
        lagging: Primaries of the whole cluster whose secondaries may lag behind.
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
        """Return the envs of a table that this server knows, as a live view."""
        envs = self._envs.get(table.app_id)
        if envs is None:
            envs = self._envs[table.app_id] = dict(table.envs)
        return envs

    def learn_envs(self, table: TableFacts) -> None:
        """Store the current envs of a table."""
        envs = self.envs_of(table)
        envs.clear()
        envs.update(table.envs)
        for replica in self.replicas.values():
            if replica.table is table:
                replica.adopt_envs()

    def forget_envs(self) -> None:
        """Forget all envs, as after a start."""
        self._envs.clear()
