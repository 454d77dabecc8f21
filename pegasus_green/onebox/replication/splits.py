"""Partition splits from n to 2n partitions, one child after the other."""

from __future__ import annotations

from ...protocol import codes
from .groups import Groups
from .policy import VALIDATE_HASH
from .registry import Registry
from .replica import Replica
from .tables import CANCELING, NOT_READY, PAUSED, PAUSING, SPLITTING, Partition, Split, Table

PAUSE, RESTART, CANCEL = 0, 1, 2
# If a parent has writes in flight or no primary, its child waits; it is checked again after this time.
RETRY = 0.02
STATUS_NAMES = ("NOT_SPLIT", "SPLITTING", "PAUSING", "PAUSED", "CANCELING")
_CONTROLS = {PAUSE: (SPLITTING, PAUSING, PAUSED), RESTART: (PAUSED, SPLITTING, SPLITTING)}


class Splits:
    """Runs the splits of a cluster."""

    def __init__(self, box: Registry, groups: Groups) -> None:
        """Store the cluster."""
        self.box = box
        self.groups = groups

    def start(
        self, table: Table, *, seconds: float | None = None, window: float | None = None, stepwise: bool = False
    ) -> Split:
        """Double the partition count. The children become ready later."""
        settings = self.box.settings
        old = table.partition_count
        split = table.split = Split(
            old,
            settings.split_seconds if seconds is None else seconds,
            settings.split_window if window is None else window,
            stepwise=stepwise,
        )
        if table.init_partition_count <= 0:
            table.init_partition_count = old
        table.partitions.extend(Partition(index, NOT_READY) for index in range(old, 2 * old))
        table.touch()
        self.box.change_envs(table, {VALIDATE_HASH: "true"})
        self._schedule(table, split, split.seconds)
        return split

    def resume(self, table: Table) -> None:
        """Continue a restored split."""
        if table.split is not None:
            self._schedule(table, table.split, table.split.seconds)

    def _schedule(self, table: Table, split: Split, seconds: float) -> None:
        if not split.stepwise:
            self.box.later(seconds, lambda: self._go_on(table, split))

    def _go_on(self, table: Table, split: Split) -> None:
        if table.split is not split or split.windows:
            return
        index = next((index for index, status in split.status.items() if status == SPLITTING), None)
        if index is None:
            return
        if not self.open_window(table, index):
            self._schedule(table, split, RETRY)
            return
        self.box.later(split.window, lambda: self._close_window(table, split, index))

    def _close_window(self, table: Table, split: Split, index: int) -> None:
        if table.split is not split or index not in split.windows:
            return
        if not self.register(table, index):
            self.box.later(RETRY, lambda: self._close_window(table, split, index))

    def _window_ended(self, table: Table, split: Split, index: int) -> None:
        """Forget a window and schedule the next one. This is needed at each end of a window, also of a paused one."""
        split.windows.discard(index)
        self._schedule(table, split, split.seconds)

    # --------------------------------------------------------------------------------------------------------- a child
    def _replicas(self, table: Table, index: int) -> list[Replica]:
        members = table.partitions[index].members
        return [server.replicas[table.app_id, index] for server in members]

    def open_window(self, table: Table, index: int) -> bool:
        """Make a parent answer ERR_SPLITTING; False if it has no primary now."""
        assert table.split is not None
        primary = table.partitions[index].primary
        if primary is None or not primary.reachable:
            return False
        table.split.windows.add(index)
        for replica in self._replicas(table, index):
            replica.set_count(0)
        return True

    def register(self, table: Table, index: int) -> bool:
        """Create the replicas of a child on the servers of its parent; False if the parent cannot do it now."""
        split = table.split
        assert split is not None
        parent, child = table.partitions[index], table.partitions[index + split.old_count]
        primary = parent.primary
        if primary is None or not primary.reachable:
            return False
        source = primary.replicas[table.app_id, index]
        if source.log:
            return False
        self._do_not_filter(table)
        snapshot = source.engine.snapshot()
        secondaries = [server for server in parent.secondaries if server.reachable]
        for server in (primary, *secondaries):
            replica = self.groups.create_replica(server, table, child.index, split.old_count * 2)
            replica.engine.load(snapshot)
            replica.logged = snapshot.decree
        child.ballot = parent.ballot
        self.groups.configure(table, child, primary, secondaries)
        for replica in self._replicas(table, index):
            replica.set_count(split.old_count * 2)
        if self.box.keeper is not None:
            self.box.keeper.copy((table.app_id, index), (table.app_id, child.index))
        self.box.changed()
        del split.status[index]
        self._window_ended(table, split, index)
        if not split.status:
            table.split = None
        table.touch()
        return True

    def _do_not_filter(self, table: Table) -> None:
        """Make scans return rows of other partitions for a while, like servers that do not know the env yet."""
        table.filters_from = self.box.clock() + self.box.settings.split_filter_delay
        for server in self.box.servers:
            for replica in server.replicas.values():
                if replica.table is table:
                    replica.engine.filters_from = table.filters_from

    def step(self, table: Table, index: int | None = None) -> str:
        """Do the next step of a parent: open its window ("window"), then make its child ready ("ready").

        Args:
            table: A table that is splitting.
            index: The parent; None: the first one that is not finished, preferably one with an open window.

        Returns:
            The step; "blocked" if the parent cannot continue now; "done" if no step is left.
        """
        split = table.split
        if split is None:
            return "done"
        if index is None:
            index = next(iter(sorted(split.windows) or split.status))
        if index in split.windows:
            return "ready" if self.register(table, index) else "blocked"
        if split.status.get(index) != SPLITTING:
            return "blocked" if index in split.status else "done"
        return "window" if self.open_window(table, index) else "blocked"

    # --------------------------------------------------------------------------------------------------------- control
    def control(self, table: Table, kind: int, parent: int, old_count: int | None) -> tuple[str, str | None]:
        """Pause, restart or cancel; return the error's name and a hint."""
        split = table.split
        if split is None:
            return codes.ERR_INVALID_STATE, f"app({table.name}) is not splitting"
        if kind == CANCEL:
            return self._cancel(table, split, old_count)
        if kind not in _CONTROLS:
            return codes.ERR_INVALID_PARAMETERS, f"no control type {kind}"
        before, between, after = _CONTROLS[kind]
        if parent >= 0:
            error = self._unfit(split, kind, parent, before)
            if error is not None:
                return error
        chosen = [
            index for index, status in split.status.items() if (parent < 0 or index == parent) and status == before
        ]
        for index in chosen:
            split.status[index] = between
        self.box.changed()
        if kind == RESTART and chosen:
            self._schedule(table, split, split.seconds)
        elif chosen:
            self.box.later(self.box.settings.split_control_delay, lambda: self._paused(table, split, chosen, after))
        return codes.ERR_OK, None

    @staticmethod
    def _unfit(split: Split, kind: int, parent: int, before: int) -> tuple[str, str] | None:
        if parent >= split.old_count:
            return codes.ERR_INVALID_PARAMETERS, f"invalid parent partition index({parent})"
        status = split.status.get(parent)
        if status is None:
            error = codes.ERR_CHILD_REGISTERED if kind == PAUSE else codes.ERR_INVALID_STATE
            return error, f"partition[{parent}] is not splitting"
        if status != before:
            return codes.ERR_INVALID_STATE, f"partition[{parent}] wrong split_status({STATUS_NAMES[status]})"
        return None

    def _paused(self, table: Table, split: Split, chosen: list[int], status: int) -> None:
        if table.split is not split:
            return
        for index in chosen:
            if split.status.get(index) == PAUSING:
                self._shut(table, split, index)
                split.status[index] = status
                self.box.changed()

    def _cancel(self, table: Table, split: Split, old_count: int | None) -> tuple[str, str | None]:
        if old_count != split.old_count:
            return codes.ERR_INVALID_PARAMETERS, f"wrong partition_count, should be {split.old_count}"
        if len(split.status) != split.old_count:
            return codes.ERR_CHILD_REGISTERED, "some partitions have already finished split"
        for index in split.status:
            split.status[index] = CANCELING
        self.box.later(self.box.settings.split_control_delay, lambda: self._cancelled(table, split))
        return codes.ERR_OK, None

    def _cancelled(self, table: Table, split: Split) -> None:
        if table.split is not split:
            return
        for index in list(split.status):
            self._shut(table, split, index)
        del table.partitions[split.old_count :]
        table.split = None
        self.box.changed()
        table.touch()

    def _shut(self, table: Table, split: Split, index: int) -> None:
        if index in split.windows:
            for replica in self._replicas(table, index):
                replica.set_count(split.old_count)
            self._window_ended(table, split, index)
