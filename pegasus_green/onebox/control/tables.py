"""The methods of a onebox for its tables: create, drop, envs, primaries, splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...protocol import codes
from ..runtime.settings import check_partitions
from .assembly import DEFAULT_REPLICAS, Assembly, Which


class TableMethods(Assembly):
    """The methods for tables."""

    def create_table(
        self,
        name: str,
        partitions: int = 8,
        replicas: int | None = None,
        envs: Mapping[str, str] | None = None,
        atomic_idempotent: bool = False,
    ) -> int:
        """Create a table that serves requests at once, and return its id.

        Args:
            name: Any name that is not in use.
            partitions: From 1 to 4096.
            replicas: Copies of each partition, but at most as many as there are servers; None: 3.
            envs: Table envs. Unlike in a create request of a client, default_ttl is allowed here.
            atomic_idempotent: As for ``Admin.create_table``.

        Raises:
            ValueError: The name is in use, or the number of partitions is out of range.

        Example:
            >>> box.create_table("pages", 4)
            2
            >>> client.table("pages").set("page:1", "title", "Home")
        """
        if self.tables.find(name) is not None:
            raise ValueError(f"table {name!r} exists")
        check_partitions({name: partitions})
        wanted = min(replicas or DEFAULT_REPLICAS, len(self.servers))
        table = self.add_table(name, partitions, wanted, dict(envs or {}))
        table.atomic_idempotent = atomic_idempotent
        self.groups.assign(table)
        self.save()
        return table.app_id

    def has_table(self, name: str) -> bool:
        """Tell whether there is a table of this name.

        Example:
            >>> box.has_table("temp"), box.has_table("nosuch")
            (True, False)
        """
        return self.tables.find(name) is not None

    def drop_table(self, name: str, reserve_seconds: int = 604800) -> None:
        """Drop a table. Its name can be used at once; its data can be recalled for this many seconds.

        Args:
            name: The table.
            reserve_seconds: Seconds during which its data can be recalled; 0: it cannot be recalled.

        Raises:
            ValueError: The table is splitting and could be recalled. Meta servers refuse to drop it, too.

        Example:
            >>> box.drop_table("temp")
            >>> client.admin.list_tables()
            []
        """
        table = self.tables.get(name)
        if table.split is not None and reserve_seconds > 0:
            raise ValueError(f"table {name!r} is splitting: finish or cancel the split, or set reserve_seconds=0")
        self.remove_table(table, reserve_seconds)
        self.forget_expired_tables()

    def set_envs(self, name: str, envs: Mapping[str, str | None]) -> None:
        """Set envs of a table; None deletes one. Values are not checked.

        Args:
            name: The table.
            envs: Values by name.

        Example:
            >>> box.set_envs("temp", {"default_ttl": "60"})
            >>> client.admin.get_envs("temp")
            {'default_ttl': '60'}
        """
        self.change_envs(self.tables.get(name), envs)

    def partitions(self, name: str) -> list[dict[str, Any]]:
        """Return a table's routes: a dict with index, ballot, primary, secondaries (addresses) for each partition.

        Args:
            name: The table.

        Example:
            >>> [partition["index"] for partition in box.partitions("temp")]
            [0, 1, 2, 3, 4, 5, 6, 7]
        """
        return [
            {
                "index": partition.index,
                "ballot": partition.ballot,
                "primary": partition.primary.address if partition.primary is not None else None,
                "secondaries": [server.address for server in partition.secondaries],
            }
            for partition in self.tables.get(name).partitions
        ]

    def configure(self, **settings: float | None) -> None:
        """Change settings, see ``Settings``.

        Raises:
            TypeError: There is no such setting.

        Example:
            >>> box.configure(split_seconds=0.2)
        """
        self.settings.change(**settings)

    # ------------------------------------------------------------------------------------------------------ primaries
    def move_primary(self, table: str, partition: int, to: Which) -> None:
        """Make another server the primary of a partition. If it has no replica, it gets one first.

        Args:
            table: The table.
            partition: Index of the partition.
            to: The server.

        Raises:
            RuntimeError: The partition has no primary now, or the server does not answer.

        Example:
            >>> box.move_primary("temp", 0, to=2)
            >>> box.partitions("temp")[0]["primary"] == box.replica_addresses[2]
            True
        """
        found = self.tables.get(table)
        self.groups.move_primary(found, found.partitions[partition], self.replica_server(to))

    def clear_primary(self, table: str, partition: int, seconds: float = 0.3) -> None:
        """Leave a partition without a primary for some seconds. Then one of its secondaries becomes the primary.

        Args:
            table: The table.
            partition: Index of the partition.
            seconds: Time without a primary.

        Example:
            >>> box.clear_primary("temp", 0, seconds=0.1)
            >>> box.partitions("temp")[0]["primary"] is None
            True
        """
        found = self.tables.get(table)
        config = found.partitions[partition]
        members = config.members
        self.groups.configure(found, config, None, members)
        self.later(seconds, lambda: self.groups.elect(found, config))

    def balance(self) -> None:
        """Distribute the primaries evenly over the servers that answer.

        Example:
            >>> box.kill(0)
            >>> box.restart(0)
            >>> box.balance()
        """
        self.groups.balance()

    # ---------------------------------------------------------------------------------------------------------- splits
    def split(
        self,
        table: str,
        seconds: float | None = None,
        window: float | None = None,
        stepwise: bool = False,
    ) -> None:
        """Start a partition split: the count doubles at once, the children become ready one by one.

        Each old partition is a parent. The new partition that gets half of its keys is its child.

        Args:
            table: A table's name.
            seconds: Time to the first child, and between children; None: the setting.
            window: How long a parent answers ERR_SPLITTING before its child is ready; None: the setting.
            stepwise: Only calls of ``split_step`` do the steps of the split.

        Raises:
            ValueError: The table is already splitting.

        Example:
            >>> box.split("temp", seconds=0.1)
            >>> len(box.partitions("temp"))
            16
        """
        found = self.tables.get(table)
        if found.split is not None:
            raise ValueError(f"table {table!r} is already splitting")
        self.splits.start(found, seconds=seconds, window=window, stepwise=stepwise)

    def split_step(self, table: str, partition: int | None = None) -> str:
        """Do the next step of a parent: "window" (it answers ERR_SPLITTING), then "ready" (its child is ready).

        Args:
            table: A table that is splitting.
            partition: The parent; None: the first one that is not finished.

        Returns:
            The step; "blocked" if the parent cannot continue now; "done" if no step is left.

        Example:
            >>> box.split("temp", stepwise=True)
            >>> box.split_step("temp", 0), box.split_step("temp", 0)
            ('window', 'ready')
        """
        return self.splits.step(self.tables.get(table), partition)

    def finish_split(self, table: str) -> None:
        """Do all remaining steps at once.

        Args:
            table: The table.

        Raises:
            RuntimeError: A parent cannot continue now.

        Example:
            >>> box.split("temp", stepwise=True)
            >>> box.finish_split("temp")
            >>> client.admin.split_status("temp") is None
            True
        """
        while (done := self.split_step(table)) != "done":
            if done == "blocked":
                raise RuntimeError(f"the split of {table!r} cannot continue now")

    def split_status(self, table: str) -> dict[int, int]:
        """Return the state of each parent whose child is not ready; empty if there is no split or it is finished.

        Args:
            table: The table.

        Example:
            >>> box.create_table("pages", 2)
            2
            >>> box.split("pages", stepwise=True)
            >>> box.split_status("pages")
            {0: 1, 1: 1}
        """
        split = self.tables.get(table).split
        return dict(split.status) if split is not None else {}

    def control_split(self, table: str, kind: str, parent: int = -1) -> None:
        """Pause ("pause"), continue ("restart") or cancel ("cancel") a split.

        Args:
            table: The table.
            kind: "pause", "restart" or "cancel".
            parent: Index of the parent partition; -1: all. A cancellation is for all.

        Raises:
            RuntimeError: It is not possible now; the message is the error's name.

        Example:
            >>> box.split("temp", stepwise=True)
            >>> box.control_split("temp", "cancel")
        """
        found = self.tables.get(table)
        number = ("pause", "restart", "cancel").index(kind)
        old_count = None if found.split is None else found.split.old_count
        error, _ = self.splits.control(found, number, parent, old_count)
        if error != codes.ERR_OK:
            raise RuntimeError(error)
