"""Failures of the servers of a onebox: crashes, silence, leader changes, faults by rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..servers.meta import ACTIVE, LOADING, RECOVERING
from ..wire.faults import Fault
from ..wire.server import Server
from .assembly import Assembly, Which

Servers = Which | Iterable[Which] | None


class FailureMethods(Assembly):
    """The methods that cause failures."""

    def kill(self, server: Which) -> None:
        """Kill a replica server: its connections are reset, its port is closed. Its partitions fail over after a delay.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.kill(0)
            >>> table.get("user:7", "name")
            b'Ada'
        """
        self.lives.kill(self.replica_server(server))

    def restart(self, server: Which, lose_disk: bool = False) -> None:
        """Start a killed replica server again on its port (a living one is killed first).

        Example:
            >>> box.kill(0)
            >>> box.restart(0, lose_disk=True)
            >>> box.stats()["servers"][1]["alive"]
            True
        """
        self.lives.restart(self.replica_server(server), lose_disk=lose_disk)

    def pause(self, server: Which, accept: bool = True) -> None:
        """Pause a replica server, as SIGSTOP does; accept=False: it does not even accept connections.

        Example:
            >>> box.pause(0)
            >>> box.stats()["servers"][1]["paused"]
            True
        """
        self.lives.pause(self.replica_server(server), accept=accept)

    def resume(self, server: Which) -> None:
        """Continue a paused replica server.

        Example:
            >>> box.pause(0)
            >>> box.resume(0)
            >>> box.stats()["servers"][1]["paused"]
            False
        """
        self.lives.resume(self.replica_server(server))

    def kill_meta(self, server: Which = 0) -> None:
        """Kill a meta server. If it is the leader, another one becomes the leader after a delay.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.kill_meta()
            >>> table.get("user:7", "name")
            b'Ada'
        """
        self.lives.kill_meta(self.meta_server(server))

    def restart_meta(self, server: Which = 0) -> None:
        """Start a meta server again on its port. It is a follower if there is a leader.

        Example:
            >>> box.kill_meta()
            >>> box.restart_meta()
            >>> client.ping() < 2.0
            True
        """
        self.lives.restart_meta(self.meta_server(server))

    def pause_meta(self, server: Which = 0, accept: bool = True) -> None:
        """Pause a meta server; accept=False: it does not even accept connections.

        Example:
            >>> box.pause_meta()
            >>> client.ping(timeout=0.2)
            Traceback (most recent call last):
            pegasus_green.errors.MetaUnreachable: ...
        """
        self.lives.pause_meta(self.meta_server(server), accept=accept)

    def resume_meta(self, server: Which = 0) -> None:
        """Continue a paused meta server.

        Example:
            >>> box.pause_meta()
            >>> box.resume_meta()
            >>> client.ping() < 2.0
            True
        """
        self.lives.resume_meta(self.meta_server(server))

    def set_leader(self, server: Which | None, known: bool = True) -> None:
        """Make a meta server the leader; None: there is no leader.

        Args:
            server: Index or address.
            known: Whether followers tell clients the leader.

        Example:
            >>> with Onebox(metas=2) as box, Client(box.meta_addresses) as client:
            ...     box.set_leader(1)
            ...     client.admin.cluster_info()["primary_meta_server"] == box.meta_addresses[1]
            True
        """
        self.leader_is_known = known
        self.lives.lead(None if server is None else self.meta_server(server))

    def set_meta_state(self, state: str, server: Which = 0) -> None:
        """Set the state of a leader: "active", "loading" (ERR_SERVICE_NOT_ACTIVE), "recovering" (ERR_UNDER_RECOVERY).

        Raises:
            ValueError: There is no such state.

        Example:
            >>> box.set_meta_state("loading")
            >>> client.ping(timeout=0.2)
            Traceback (most recent call last):
            pegasus_green.errors.MetaUnreachable: ...
            >>> box.set_meta_state("active")
        """
        if state not in (ACTIVE, LOADING, RECOVERING):
            raise ValueError(f"no state {state!r}; known: {ACTIVE}, {LOADING}, {RECOVERING}")
        self.meta_server(server).state = state

    # ----------------------------------------------------------------------------------------------------------- rules
    def fault(self, action: str, *, server: Servers = None, **options: Any) -> Fault:
        """Add a rule. Its fault applies to requests that meet all its conditions.

        Conditions: ``rpc`` ("get", "read", "write", "data", "meta", a protocol name, or several), ``table``,
        ``partition``, ``server`` (index, address, "meta:0", "meta", "replica", or several), ``contains`` (bytes in the
        request), ``probability``, ``count`` (maximum number of faults), ``after`` (number of requests that pass before
        the first fault). Without ``server``, the rule applies to meta RPCs at meta servers and to others at replica
        servers.

        Actions: "drop", "delay" (``seconds``), "cut" (``reset``; when="during": after half of the request), "half" (at
        most ``size`` bytes), "error" (``error``, ``body``), "no_body", "duplicate", "reorder" (after ``replies`` other
        replies, or after ``seconds``), "unknown_id" (``instead`` of the reply or in addition), "garbage" (``data``),
        "oversize" (``size``), "corrupt", "trickle" (``size`` bytes, at most 16, one each ``seconds``).

        With when="before" the request is not executed, with "after" it is. Without ``when``, "cut" and "error" come
        before the execution, the others after it. If several rules apply to a request, all of them change its reply, in
        the order in which they were added. Defaults: seconds=0.1, error="ERR_BUSY", replies=1, reset=True.

        Returns:
            The rule, with ``hits`` and ``remove()``.

        Raises:
            ValueError: The action, moment or RPC is unknown.

        Example:
            >>> rule = box.fault("cut", rpc="incr", when="after", count=1)
            >>> table.incr("page:1", "hits")
            Traceback (most recent call last):
            pegasus_green.errors.ConnectionLost: ...
            >>> rule.hits, table.get("page:1", "hits")
            (1, b'1')
        """
        return self.faults.add(self._targets(server), action, **options)

    def _targets(self, which: Servers) -> list[Server]:
        if which is None:
            return [*self.metas, *self.servers]
        if which == "meta":
            return list(self.metas)
        if which == "replica":
            return list(self.servers)
        if isinstance(which, (int, str, Server)):
            return [self.server(which)]
        return [self.server(item) for item in which]

    def remove_fault(self, number: int) -> None:
        """Remove a rule by its id.

        Example:
            >>> rule = box.fault("drop", rpc="write")
            >>> box.remove_fault(rule.id)
            >>> box.list_faults()
            []
        """
        self.faults.remove(number)

    def clear_faults(self) -> None:
        """Remove all rules.

        Example:
            >>> rule = box.fault("drop", rpc="write")
            >>> box.clear_faults()
            >>> box.list_faults()
            []
        """
        self.faults.remove()

    def list_faults(self) -> list[dict[str, Any]]:
        """Return id, action, when, hits and seen of each rule.

        Example:
            >>> rule = box.fault("delay", rpc="get", seconds=0.05)
            >>> box.list_faults()
            [{'id': 1, 'action': 'delay', 'when': 'after', 'hits': 0, 'seen': 0}]
        """
        return [rule.describe() for rule in self.faults.rules.values()]

    def drop_scan_contexts(self, table: str | None = None) -> None:
        """Make all replica servers forget their open scans, of one table or of all.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            >>> rows = table.hash_scan("user:7", batch_size=1)
            >>> next(rows)
            HashRow(sort_key=b'mail', value=b'a@b')
            >>> box.drop_scan_contexts("temp")
            >>> next(rows)
            HashRow(sort_key=b'name', value=b'Ada')
        """
        for server in self.servers:
            for replica in server.replicas.values():
                if table is None or replica.table.name == table:
                    replica.engine.drop_contexts()
