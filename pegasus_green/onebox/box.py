"""The face of the embedded cluster: what a program or test says to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..protocol import codes
from .cluster import DEFAULT_REPLICAS, Cluster, Which
from .faults import Fault
from .meta_service import ACTIVE, LOADING, RECOVERING
from .net import Server
from .process import OneboxProcess
from .settings import check_partitions
from .storage import Limits
from .tables import NOT_READY, Partition

Servers = Which | Iterable[Which] | None


class Onebox(Cluster):
    """A Pegasus cluster: meta and replica servers, each on a port of its own, made for faults.

    It runs in the hub of the thread that starts it and answers whenever the program waits for something; with
    ``process=True`` it is a process of its own, with the same methods (see ``OneboxProcess``). Use it as a context
    manager, or ``start`` and ``stop`` it.

    Servers are named by index or by address, "host:port". Nothing here blocks: what takes time in a cluster goes on
    by timers, see ``Settings``.

    Args:
        replicas: Number of replica servers.
        metas: Number of meta servers; the first one leads.
        tables: Partition counts by table name, 4096 at most together; None: a table "temp" with 8 partitions.
        release: "2.6" sends the host_port fields and knows what came with them; "2.5" does not.
        host: IPv4 address to listen on.
        port: Port of the first meta server; 0: a free one. All other servers take free ones.
        seed: For whatever is random here; None: a random one, see ``seed``.
        limits: Limits of the storage engines.
        advertise: Host name for the host_port fields and the replies' server names; None: the address.
        process: Run it as a process of its own.
        settings: Delays and limits by name, see ``Settings``.

    Example:
        >>> with Onebox(replicas=3, tables={"temp": 8}) as box, Client(box.meta_addresses) as client:
        ...     client.table("temp").set("user:7", "name", "Ada")
        ...     client.table("temp").get("user:7", "name")
        b'Ada'
    """

    def __new__(cls, *args: Any, process: bool = False, **options: Any) -> Onebox:  # noqa: PYI034
        """Create one in this process or, with process=True, as its own."""
        if process:
            return OneboxProcess(*args, **options)  # type: ignore[return-value]
        return super().__new__(cls)

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
        process: bool = False,
        **settings: Any,
    ) -> None:
        """Describe a cluster; nothing is opened before ``start``."""
        super().__init__(replicas, metas, tables, release, host, port, seed, limits, advertise, **settings)

    def start(self) -> Onebox:
        """Open the ports, create the tables and serve.

        Example:
            >>> box = Onebox(tables={"users": 4}).start()
            >>> len(box.partitions("users"))
            4
            >>> box.stop()
        """
        self.open()
        return self

    def stop(self) -> None:
        """Close everything; the data is gone.

        Example:
            >>> box = Onebox().start()
            >>> box.stop()
        """
        self.close()

    def __enter__(self) -> Onebox:  # noqa: PYI034 - Self is not in Python 3.10
        """Start."""
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        """Stop."""
        self.stop()

    # --------------------------------------------------------------------------------------------------------- tables
    def create_table(
        self,
        name: str,
        partitions: int = 8,
        replicas: int | None = None,
        envs: Mapping[str, str] | None = None,
        atomic_idempotent: bool = False,
    ) -> int:
        """Create a table that can serve at once, and return its id.

        Args:
            name: Any name that is not in use.
            partitions: From 1 to 4096.
            replicas: Copies of each partition; None: 3, or as many as there are servers.
            envs: Table envs; unlike in a create request default_ttl is harmless here.
            atomic_idempotent: The table's attribute.

        Raises:
            ValueError: The name is in use, or the number of partitions is out of its limits.

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
        return table.app_id

    def drop_table(self, name: str, reserve_seconds: int = 604800) -> None:
        """Drop a table; its name is free at once.

        Example:
            >>> box.drop_table("temp")
            >>> client.admin.list_tables()
            []
        """
        self.remove_table(self.tables.get(name), reserve_seconds)

    def set_envs(self, name: str, envs: Mapping[str, str | None]) -> None:
        """Set envs of a table; None deletes one. Values are not checked.

        Example:
            >>> box.set_envs("temp", {"default_ttl": "60"})
            >>> client.admin.get_envs("temp")
            {'default_ttl': '60'}
        """
        self.change_envs(self.tables.get(name), envs)

    def partitions(self, name: str) -> list[dict[str, Any]]:
        """Return a table's routes: a dict with index, ballot, primary, secondaries (addresses) for each partition.

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

    def configure(self, **settings: Any) -> None:
        """Change settings, see ``Settings``.

        Raises:
            TypeError: There is no such setting.

        Example:
            >>> box.configure(split_seconds=0.2)
        """
        self.settings.change(**settings)

    # ---------------------------------------------------------------------------------------------------------- faults
    def kill(self, server: Which) -> None:
        """Kill a replica server: connections are reset, its port closed; its partitions fail over after a while.

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
        """Let a replica server fall silent, as SIGSTOP does; accept=False: connections are not even accepted.

        Example:
            >>> box.pause(0)
            >>> box.stats()["servers"][1]["paused"]
            True
        """
        self.lives.pause(self.replica_server(server), accept=accept)

    def resume(self, server: Which) -> None:
        """Let a silent replica server go on.

        Example:
            >>> box.pause(0)
            >>> box.resume(0)
            >>> box.stats()["servers"][1]["paused"]
            False
        """
        self.lives.resume(self.replica_server(server))

    def kill_meta(self, server: Which = 0) -> None:
        """Kill a meta server; if it was the leader another one leads after a while.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.kill_meta()
            >>> table.get("user:7", "name")
            b'Ada'
        """
        self.lives.kill_meta(self.meta_server(server))

    def restart_meta(self, server: Which = 0) -> None:
        """Start a meta server again on its port, as a follower where there is a leader.

        Example:
            >>> box.kill_meta()
            >>> box.restart_meta()
            >>> client.ping() < 2.0
            True
        """
        self.lives.restart_meta(self.meta_server(server))

    def pause_meta(self, server: Which = 0, accept: bool = True) -> None:
        """Let a meta server fall silent; accept=False: connections are not even accepted.

        Example:
            >>> box.pause_meta()
            >>> client.ping(timeout=0.2)
            Traceback (most recent call last):
            pegasus_green.errors.MetaUnreachable: ...
        """
        self.lives.pause_meta(self.meta_server(server), accept=accept)

    def resume_meta(self, server: Which = 0) -> None:
        """Let a silent meta server go on.

        Example:
            >>> box.pause_meta()
            >>> box.resume_meta()
            >>> client.ping() < 2.0
            True
        """
        self.lives.resume_meta(self.meta_server(server))

    def set_leader(self, server: Which | None, known: bool = True) -> None:
        """Make a meta server the leader, None: none is.

        Args:
            server: Index or address.
            known: Whether the followers name it to clients.

        Example:
            >>> with Onebox(metas=2) as box, Client(box.meta_addresses) as client:
            ...     box.set_leader(1)
            ...     client.admin.cluster_info()["primary_meta_server"] == box.meta_addresses[1]
            True
        """
        self.leader_is_known = known
        self.lives.lead(None if server is None else self.meta_server(server))

    def set_meta_state(self, state: str, server: Which = 0) -> None:
        """Let a leader answer as "active", "loading" (ERR_SERVICE_NOT_ACTIVE) or "recovering" (ERR_UNDER_RECOVERY).

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
            raise ValueError(f"no state {state!r}; there are {ACTIVE}, {LOADING}, {RECOVERING}")
        self.meta_server(server).state = state

    def move_primary(self, table: str, partition: int, to: Which) -> None:
        """Make another server the primary of a partition; it learns the partition first if it has no copy.

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
        """Leave a partition without a primary for a while; one of its secondaries becomes the next one.

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
        """Spread the primaries evenly over the servers that answer.

        Example:
            >>> box.kill(0)
            >>> box.restart(0)
            >>> box.balance()
        """
        for table in self.tables.served():
            for partition in table.partitions:
                self._lighten(partition, table.name)

    def _lighten(self, partition: Partition, table: str) -> None:
        load = dict.fromkeys((server for server in self.servers if server.reachable), 0)
        for other in self.tables.get(table).partitions:
            if other.primary in load:
                load[other.primary] += 1
        fit = [server for server in partition.secondaries if server in load]
        if partition.primary in load and fit:
            best = min(fit, key=lambda server: load[server])
            if load[best] + 1 < load[partition.primary]:
                self.move_primary(table, partition.index, best)

    # ---------------------------------------------------------------------------------------------------------- splits
    def split(
        self,
        table: str,
        seconds: float | None = None,
        window: float | None = None,
        stepwise: bool = False,
    ) -> None:
        """Start a partition split: the count doubles at once, the children get ready one by one.

        Args:
            table: A table's name.
            seconds: Until the first child, and from child to child; None: the setting.
            window: How long a parent answers ERR_SPLITTING before its child is there; None: the setting.
            stepwise: Nothing happens but by ``split_step``.

        Raises:
            ValueError: The table is splitting already.

        Example:
            >>> box.split("temp", seconds=0.1)
            >>> len(box.partitions("temp"))
            16
        """
        found = self.tables.get(table)
        if found.split is not None:
            raise ValueError(f"table {table!r} is splitting already")
        self.splits.start(found, seconds=seconds, window=window, stepwise=stepwise)

    def split_step(self, table: str, partition: int | None = None) -> str:
        """Do a parent's next step: "window" (it answers ERR_SPLITTING), then "ready" (its child is there).

        Args:
            table: A table that is splitting.
            partition: The parent; None: the first that is not done.

        Returns:
            What was done, "blocked" when the parent cannot go on now, "done" when nothing is left.

        Example:
            >>> box.split("temp", stepwise=True)
            >>> box.split_step("temp", 0), box.split_step("temp", 0)
            ('window', 'ready')
        """
        return self.splits.step(self.tables.get(table), partition)

    def finish_split(self, table: str) -> None:
        """Do all the steps that are left, at once.

        Raises:
            RuntimeError: A parent cannot go on now.

        Example:
            >>> box.split("temp", stepwise=True)
            >>> box.finish_split("temp")
            >>> client.admin.split_status("temp") is None
            True
        """
        while (done := self.split_step(table)) != "done":
            if done == "blocked":
                raise RuntimeError(f"the split of {table!r} cannot go on now")

    def split_status(self, table: str) -> dict[int, int]:
        """Return the split_status of each parent whose child is not there yet; empty: no split, or finished.

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
        """Pause ("pause"), go on with ("restart") or cancel ("cancel") a split.

        Raises:
            RuntimeError: It is not possible now; the message is the error's name.

        Example:
            >>> box.split("temp", stepwise=True)
            >>> box.control_split("temp", "cancel")
        """
        found = self.tables.get(table)
        if found.split is None:
            raise RuntimeError(codes.ERR_INVALID_STATE)
        number = ("pause", "restart", "cancel").index(kind)
        error = self.splits.control(found, number, parent, found.split.old_count)
        if error != codes.ERR_OK:
            raise RuntimeError(error)

    # ----------------------------------------------------------------------------------------------------------- rules
    def fault(self, action: str, *, server: Servers = None, **options: Any) -> Fault:
        """Add a rule: requests that meet all its conditions get its fault.

        Conditions: ``rpc`` ("get", "read", "write", "data", "meta", a wire name, or several), ``table``, ``partition``,
        ``server`` (index, address, "meta:0", "meta", "replica", or several), ``contains`` (bytes in the request),
        ``probability``, ``count`` (how many at most), ``after`` (how many pass first). Without ``server`` meta RPCs are
        caught at meta servers, the others at replica servers.

        Actions: "drop", "delay" (``seconds``), "cut" (``reset``; when="during": half read), "half" (``size`` bytes at
        most), "error" (``error``, ``body``), "no_body", "duplicate", "reorder" (behind ``replies`` others, or after
        ``seconds``), "unknown_id" (``instead`` of the reply or beside it), "garbage" (``data``), "oversize" (``size``),
        "corrupt", "trickle" (``size`` bytes, 16 at most, each ``seconds``). With when="before" the request is not
        executed, with "after" it is; without ``when`` "cut" and "error" come before, the others after. Several rules
        that catch one request all work on its reply, in the order they were added. Defaults: seconds=0.1,
        error="ERR_BUSY", replies=1, reset=True.

        Returns:
            The rule, with ``hits`` and ``remove()``.

        Raises:
            ValueError: There is no such action, moment or RPC.

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
        """Let all replica servers forget their open scans, of one table or all.

        Example:
            >>> table.multi_set("user:7", {"mail": "a@b", "name": "Ada"})
            >>> rows = table.hash_scan("user:7", batch_size=1)
            >>> next(rows)
            (b'mail', b'a@b')
            >>> box.drop_scan_contexts("temp")
            >>> next(rows)
            (b'name', b'Ada')
        """
        for server in self.servers:
            for replica in server.replicas.values():
                if table is None or replica.table.name == table:
                    replica.engine.drop_contexts()

    # ------------------------------------------------------------------------------------------------------------ facts
    def executions(self, mark: bytes | str) -> int:
        """Return how often a request that contains mark was executed, over all servers.

        A write is executed once, at the primary that evaluates it; that its copies apply it too does not count.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.executions("user:7")
            1
        """
        return self.journal.count(mark.encode() if isinstance(mark, str) else mark)

    def execution_counts(self, pattern: bytes | str) -> dict[bytes, int]:
        """Return how often requests were executed, by what a regular expression matches in them.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> table.set("user:8", "name", "Grace")
            >>> box.execution_counts("user:[0-9]")
            {b'user:7': 1, b'user:8': 1}
        """
        return self.journal.counts(pattern.encode() if isinstance(pattern, str) else pattern)

    def forget_executions(self) -> None:
        """Count executions from zero.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.forget_executions()
            >>> box.executions("user:7")
            0
        """
        self.journal.clear()

    def advance(self, seconds: float) -> None:
        """Move the cluster's clock ahead: TTLs, scan contexts, throttling, reserves of dropped tables.

        Timers, such as the failover delay, are not moved; only the group check comes when it would have been due.

        Example:
            >>> table.set("user:7", "name", "Ada", ttl=60)
            >>> box.advance(61)
            >>> table.get("user:7", "name") is None
            True
        """
        self.clock.skipped += seconds
        if seconds >= self.settings.group_check_interval:
            self.check_groups()

    def now(self) -> float:
        """Return the cluster's time in unix seconds, what was skipped included.

        Example:
            >>> before = box.now()
            >>> box.advance(3600)
            >>> box.now() - before >= 3600
            True
        """
        return self.clock()

    def settle(self) -> None:
        """Let all secondaries apply what is committed, as a group check does.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.settle()
            >>> sum(box.row_count("temp", server) for server in range(3))
            3
        """
        self.check_groups()

    def row_count(self, table: str, server: Which | None = None) -> int:
        """Return the records of a table at its primaries, or in all replicas of one server; expired ones count.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.row_count("temp")
            1
        """
        found = self.tables.get(table)
        if server is not None:
            replicas = self.replica_server(server).replicas.values()
            return sum(len(replica.engine) for replica in replicas if replica.table is found)
        total = 0
        for partition in found.partitions:
            if partition.ballot != NOT_READY and partition.primary is not None:
                total += len(partition.primary.replicas[found.app_id, partition.index].engine)
        return total

    def stats(self) -> dict[str, Any]:
        """Return figures: per server connections and requests, refresh queries, client bugs, internal errors.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> box.stats()["queries"]
            1
        """
        servers = [self._describe(server) for server in (*self.metas, *self.servers)]
        queries = sum(meta.requests.get("RPC_CM_QUERY_PARTITION_CONFIG_BY_INDEX", 0) for meta in self.metas)
        return {
            "servers": servers,
            "accepted": sum(server["accepted"] for server in servers),
            "queries": queries,
            "client_bugs": len(self.client_bugs),
            "errors": len(self.errors),
        }

    def _describe(self, server: Server) -> dict[str, Any]:
        return {
            "address": server.address,
            "kind": server.kind,
            "index": server.index,
            "alive": server.alive,
            "paused": server.paused,
            "connections": len(server.connections),
            "accepted": server.accepted,
            "requests": dict(server.requests),
            "primaries": self.primaries_of(server),
        }
