"""Failures of the servers of a onebox: crashes, silence, leader changes, faults by rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..servers.meta import ACTIVE, LOADING, RECOVERING
from ..wire.faults import Fault, FaultOptions
from ..wire.server import Server
from .assembly import Assembly, Which

if TYPE_CHECKING:
    from typing_extensions import Unpack

Servers = Which | Iterable[Which] | None


class FailureMethods(Assembly):
    """The methods that cause failures."""

    def kill(self, server: Which) -> None:
        """Kill a replica server: its connections are reset, its port is closed.

        Other servers become primaries of its partitions after ``failover_delay`` of ``Settings``.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.kill(0)
            >>> table.get("user:7", "name")
            b'Ada'
        """
        self.lives.kill(self.replica_server(server))

    def restart(self, server: Which, lose_disk: bool = False) -> None:
        """Start a killed replica server again on its port (a living one is killed first).

        Args:
            server: Index or address of the server.
            lose_disk: Whether it starts with an empty disk.

        Example:
            >>> box.kill(0)
            >>> box.restart(0, lose_disk=True)
            >>> box.stats()["servers"][1]["alive"]
            True
        """
        self.lives.restart(self.replica_server(server), lose_disk=lose_disk)

    def pause(self, server: Which, accept: bool = True) -> None:
        """Pause a replica server, as SIGSTOP does. With accept=False it does not accept connections either.

        Args:
            server: Index or address of the server.
            accept: Whether it still accepts connections.

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
        """Pause a meta server. With accept=False it does not accept connections either.

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

        Args:
            state: The new state.
            server: Index or address of the meta server.

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
    def fault(self, action: str, *, server: Servers = None, **options: Unpack[FaultOptions]) -> Fault:
        """Add a rule. Its fault applies to requests that meet all its conditions.

        Conditions, by keyword: ``rpc`` ("get", "read", "write", "data", "meta", a protocol name, or several),
        ``table``, ``partition``, ``server`` (index, address or "meta:0", or several of these; or "meta" or "replica":
        all of one kind), ``contains`` (bytes in the request), ``probability`` (0 to 1), ``count`` (maximum number of
        faults), ``after`` (number of requests that pass before the first fault). Without ``server``, the rule applies
        at all servers.

        Actions, with their keywords:

        - "drop": no reply.
        - "delay": the reply comes ``seconds`` later; with when="before", the request is executed ``seconds`` later.
        - "cut": close the connection, with RST if ``reset``; see below for when="during".
        - "half": send at most half of the reply and at most ``size`` bytes, then close the connection.
        - "error": reply with the error name ``error``; with ``body`` also with a body.
        - "no_body": reply ERR_OK without a body.
        - "duplicate": send the reply twice.
        - "reorder": send the reply after ``replies`` other replies, or after ``seconds``.
        - "unknown_id": send a copy of the reply with an unknown id, before the reply or ``instead`` of it.
        - "garbage": send ``data`` (default: 64 random bytes) instead of the reply.
        - "oversize": the reply announces a length of ``size`` bytes.
        - "corrupt": send a reply whose body cannot be decoded.
        - "trickle": send the reply in pieces of ``size`` bytes (at most 16 bytes), one every ``seconds``.

        With when="before" the request is not executed, except after a "delay"; with when="after" it is executed. The
        default is "before" for "cut", "error" and "no_body", and "after" for the others.

        A "cut" with when="during" closes the connection with RST when only a part of a request has arrived. The
        conditions ``rpc``, ``table``, ``partition`` and ``contains`` do not apply then. If a request arrives whole, the
        rule acts as with when="before".

        If several rules apply to a request, the first one with when="before" that is not a "delay" replaces the
        execution. Later rules with when="before" then have no effect. The rules with when="after" change first the
        content of the reply, then its time, then the way it is sent.

        Defaults: seconds=0.1, error="ERR_BUSY", replies=1, reset=True.

        Args:
            action: The fault, see above.
            server: The servers that have the rule; None: all.
            **options: Further conditions, and the keywords of the action.

        Returns:
            The rule: ``hits`` is the number of its faults, ``seen`` the number of requests that met its conditions
            other than ``probability``, ``count`` and ``after``, and ``remove()`` removes it.

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

        Args:
            number: The attribute ``id`` of the rule.

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
        """Return id, action, when, hits (its faults) and seen (requests that met its conditions) of each rule.

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
