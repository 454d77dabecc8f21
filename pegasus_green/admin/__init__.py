"""Administration by requests to the meta servers: tables, partitions, nodes, table envs, compaction and splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..errors import InvalidArgument, MetaError, TableExists, TableNotFound, TableUnavailable
from ..protocol import meta
from ..protocol import rpc as rpcs
from ..protocol.codes import ERR_INVALID_STATE
from .access import AccessAdmin
from .base import envs_of, new_name_of, table_info, text_of, whole
from .model import MetaLevel, NodeInfo, PartitionInfo, SplitStatus, TableInfo, TableStatus
from .servers import ServerAdmin

if TYPE_CHECKING:
    from ..cluster.dispatcher import Cluster

HEALTH_TIMEOUT = 60.0
DEFAULT_TTL = "default_ttl"
_ENV_SET, _ENV_DELETE, _ENV_CLEAR = 1, 2, 3
_PAUSE, _RESUME, _CANCEL = 0, 1, 2
_ALL_PARTITIONS = -1


class Admin(ServerAdmin, AccessAdmin):
    """Operations of an operator on a cluster. ``client.admin`` is the instance of a client.

    An env is a setting of a table: a name and a text, which the servers apply while they run.

    The client does not send requests that crash real servers. It sets the env ``default_ttl`` of a new table after its
    replicas exist. It drops a table only if all its partitions have a primary. It recalls only tables that it has
    dropped itself. ``force`` lifts the last two limits.

    ``name`` is the name of a table. Every method takes ``timeout``, the seconds for the whole call. None means 10 s, or
    the client's default if that is longer. Four methods wait longer, 60 s by default: ``create_table``, ``drop_table``,
    ``recall_table`` and ``wait_until_healthy``. Every method can raise MetaUnreachable (no answer in time), MetaError
    (refused; ``code`` has the reason) and InvalidArgument (nothing was changed).

    Retries: the client repeats requests that read or set a value until the timeout, except requests to single servers.
        It does not repeat a request that creates, drops, recalls or renames a table, changes a split, or proposes a
        change of replicas, if its outcome is unknown; the error then has ``outcome_unknown``.
    Greenlets: any number may call at once. After a kill, the cluster may still carry out the request.

    Example:
        >>> client.admin.list_tables()
        [<Table 1 'temp' AVAILABLE partitions=8 replicas=3>]
    """

    def __init__(self, cluster: Cluster) -> None:
        """Make an instance for a cluster; use ``client.admin``."""
        super().__init__(cluster)
        # Ids of tables that this client dropped while all their partitions had a primary.
        self._dropped: set[int] = set()

    # ----------------------------------------------------------------------------------------------------------- tables
    def create_table(
        self,
        name: str,
        partitions: int = 8,
        replicas: int = 3,
        *,
        envs: Mapping[str, str | int] | None = None,
        atomic_idempotent: bool = False,
        exist_ok: bool = False,
        wait: bool = True,
        timeout: float = HEALTH_TIMEOUT,
    ) -> int:
        """Create a table and wait until it serves requests.

        Args:
            name: Letters, digits, ``.``, ``_`` and ``:``; not empty.
            partitions: 1 or more. Only a power of two can be split later.
            replicas: Replicas of each partition; at most as many as there are live servers.
            envs: The table's envs by name. ``default_ttl`` is set last, when all replicas exist.
            atomic_idempotent: Make incr and check-and-* idempotent between replicas: the primary replicates their
                result, not the operation (servers after 2.5; older ones ignore it).
            exist_ok: If there is a table of that name with the same numbers of partitions and replicas, return its id.
                Its envs stay unchanged.
            wait: Return when every partition has its primary and all its replicas; this takes about 20 s on a real
                cluster. False: return when the meta servers know the table; not possible with ``default_ttl``.
            timeout: Seconds for the whole call.

        Returns:
            The table's id.

        Raises:
            TableExists: The table exists; with ``exist_ok``: it has other numbers of partitions or replicas.
            MetaError: Refused: ``ERR_INVALID_PARAMETERS`` (more replicas than live servers, a bad env),
                ``ERR_STATE_FREEZED`` (too few live servers).
            RequestTimeout: The table exists, but it is not healthy in time.
            InvalidArgument: The name or a number is invalid; nothing was sent.

        Example:
            >>> client.admin.create_table("pages", 8, exist_ok=True) > 0
            True
        """
        name = new_name_of(name)
        whole(partitions, "partitions", 1)
        whole(replicas, "replicas", 1)
        settings = envs_of(envs or {})
        default_ttl = settings.pop(DEFAULT_TTL, None)
        if default_ttl is not None and not wait:
            raise InvalidArgument(
                f"env {DEFAULT_TTL} needs wait=True: a server crashes if it opens a replica with this env"
            )
        options = meta.CreateAppOptions(partition_count=partitions, replica_count=replicas, envs=settings)
        if atomic_idempotent:
            options.atomic_idempotent = True
        deadline = self._deadline(timeout)
        try:
            answer = self._call(rpcs.CREATE_APP, meta.CreateAppRequest(name, options), deadline, name)
            app_id: int = answer.appid
        except TableExists:
            if not exist_ok:
                raise
            # Compared here, because a server also compares the envs, and adds envs of its own during a split.
            info = self._find(name, deadline)
            if (info.partition_count, info.replica_count) != (partitions, replicas):
                raise
            app_id, default_ttl = info.app_id, None
        if wait:
            self._wait_for(name, deadline, lambda partition: partition.is_healthy, "is not healthy", app_id)
            if default_ttl is not None:
                self._update_envs(name, deadline, _ENV_SET, keys=[DEFAULT_TTL], values=[default_ttl])
        return app_id

    def drop_table(
        self,
        name: str,
        *,
        missing_ok: bool = False,
        reserve: float | None = None,
        force: bool = False,
        timeout: float = HEALTH_TIMEOUT,
    ) -> int | None:
        """Drop a table. Its data stays for a while and can be recalled.

        Args:
            name: The table. The name can be used again at once.
            missing_ok: It is no error if there is no such table.
            reserve: Seconds during which the table can be recalled; above 0 (servers take 0 as the default), rounded up
                to whole seconds. None: the server's default of 7 days.
            force: Do not wait until every partition has a primary. A table whose replicas never existed must not be
                recalled: a server that opens such a replica crashes.
            timeout: Seconds for the whole call.

        Returns:
            The id, for ``recall_table``; None if there was no such table.

        Raises:
            TableNotFound: There is no such table.
            MetaError: Refused; ``ERR_SPLITTING`` during a split.
            RequestTimeout: A partition has no primary; nothing was dropped.

        Example:
            >>> client.admin.drop_table("no such table", missing_ok=True) is None
            True
        """
        name = text_of(name, "table name")
        if reserve is not None and (
            isinstance(reserve, bool) or not isinstance(reserve, (int, float)) or not 0 < reserve < 2**31
        ):
            raise InvalidArgument(f"reserve must be more than 0 seconds and below 2**31, not {reserve!r}")
        deadline = self._deadline(timeout)
        options = meta.DropAppOptions(success_if_not_exist=missing_ok)
        if reserve is not None:
            options.reserve_seconds = math.ceil(reserve)
        try:
            if force:
                app_id = self._find(name, deadline).app_id
            else:
                # A split child that is not ready has no primary; the server then refuses the drop.
                app_id = self._wait_for(
                    name, deadline, lambda partition: bool(partition.primary) or partition.ballot < 0, "has no primary"
                )
        except TableNotFound:
            if missing_ok:
                return None
            raise
        self._call(rpcs.DROP_APP, meta.DropAppRequest(name, options), deadline, name)
        if not force:
            self._dropped.add(app_id)
        return app_id

    def recall_table(
        self,
        app_id: int,
        new_name: str | None = None,
        *,
        force: bool = False,
        wait: bool = True,
        timeout: float = HEALTH_TIMEOUT,
    ) -> TableInfo:
        """Recall a dropped table with its data.

        Args:
            app_id: The result of ``drop_table``, or an id from ``list_tables(TableStatus.DROPPED)``.
            new_name: New name of the table; None: its old name.
            force: Recall a table that this client did not drop, or that it dropped without waiting for primaries. If
                the table was dropped before its replicas existed, the replica server that opens it crashes.
            wait: Return when every partition has its primary and all its replicas.
            timeout: Seconds for the whole call.

        Returns:
            The recalled table.

        Raises:
            TableNotFound: There is no such id, or its reserve time has passed.
            TableExists: The table is not dropped, or the name is in use.
            RequestTimeout: The table is recalled, but it is not healthy in time.
            InvalidArgument: This client did not drop the table, and ``force`` is not set; nothing was sent.

        Example:
            >>> app_id = client.admin.create_table("pages", 4)
            >>> client.admin.drop_table("pages") == app_id
            True
            >>> client.admin.recall_table(app_id, "old_pages").name
            'old_pages'
        """
        whole(app_id, "app_id", 1)
        name = "" if new_name is None else new_name_of(new_name)
        if app_id not in self._dropped and not force:
            raise InvalidArgument(
                f"this client did not drop table {app_id}: if it was dropped before its replicas existed, a recall"
                " crashes a replica server; force=True recalls it anyway"
            )
        deadline = self._deadline(timeout)
        answer = self._call(rpcs.RECALL_APP, meta.RecallAppRequest(app_id, name), deadline, name, in_use=True)
        self._dropped.discard(app_id)
        info = table_info(answer.info)
        if wait:
            self._wait_for(info.name, deadline, lambda partition: partition.is_healthy, "is not healthy", app_id)
        return info

    def rename_table(self, old_name: str, new_name: str, *, timeout: float | None = None) -> None:
        """Rename a table. For about a second, requests with the old name still reach it.

        Args:
            old_name: The table.
            new_name: Its new name: letters, digits, ``.``, ``_`` and ``:``.
            timeout: Seconds for the whole call.

        Raises:
            TableNotFound: There is no such table.
            TableExists: The new name is in use.
            MetaError: Refused.

        Example:
            >>> client.admin.rename_table("temp", "users")
            >>> client.admin.table_info("users").name
            'users'
        """
        old_name, new_name = text_of(old_name, "table name"), new_name_of(new_name)
        request = meta.RenameAppRequest(old_name, new_name)
        self._call(rpcs.RENAME_APP, request, self._deadline(timeout), old_name, in_use=True)

    def list_tables(
        self, status: TableStatus | None = TableStatus.AVAILABLE, *, timeout: float | None = None
    ) -> list[TableInfo]:
        """Return the tables, by ascending id.

        Args:
            status: Only tables with this status; None: all, also the dropped ones that can still be recalled.
            timeout: Seconds for the whole call.

        Example:
            >>> [table.name for table in client.admin.list_tables()]
            ['temp']
        """
        try:
            wanted = 0 if status is None else int(TableStatus(status))
        except ValueError:
            raise InvalidArgument(f"status must be a TableStatus or None, not {status!r}") from None
        answer = self._call(rpcs.LIST_APPS, meta.ListAppsRequest(status=wanted), self._deadline(timeout))
        return [table_info(info) for info in answer.infos]

    def table_info(self, name: str, *, timeout: float | None = None) -> TableInfo:
        """Return a table that is not dropped.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.table_info("temp").partition_count
            8
        """
        return self._find(text_of(name, "table name"), self._deadline(timeout))

    def partitions(self, name: str, *, timeout: float | None = None) -> list[PartitionInfo]:
        """Return the partitions of a table by index, with the addresses of their primary and secondaries.

        Raises:
            TableNotFound: There is no such table.
            TableUnavailable: It is being created, recalled or dropped.

        Example:
            >>> [partition.is_healthy for partition in client.admin.partitions("temp")]
            [True, True, True, True, True, True, True, True]
        """
        return self._partitions(text_of(name, "table name"), self._deadline(timeout))[1]

    def is_healthy(self, name: str, *, timeout: float | None = None) -> bool:
        """Tell whether every partition of a table has its primary and all its replicas.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.is_healthy("temp")
            True
        """
        try:
            return all(partition.is_healthy for partition in self.partitions(name, timeout=timeout))
        except TableUnavailable:
            return False

    def wait_until_healthy(self, name: str, *, timeout: float = HEALTH_TIMEOUT) -> None:
        """Wait until every partition of a table has its primary and all its replicas.

        Raises:
            TableNotFound: There is no such table.
            RequestTimeout: The table is not healthy in time; the message names the first such partition.

        Example:
            >>> client.admin.wait_until_healthy("temp", timeout=30)
        """
        name = text_of(name, "table name")
        self._wait_for(name, self._deadline(timeout), lambda partition: partition.is_healthy, "is not healthy")

    # ---------------------------------------------------------------------------------------------------------- cluster
    def nodes(self, *, alive: bool | None = None, timeout: float | None = None) -> list[NodeInfo]:
        """Return the replica servers.

        Args:
            alive: True: only live servers; False: only dead ones; None: all.
            timeout: Seconds for the whole call.

        Example:
            >>> [node.is_alive for node in client.admin.nodes()]
            [True, True, True]
        """
        found = self._nodes(self._deadline(timeout))
        return [node for node in found if alive in (None, node.is_alive)]

    def cluster_info(self, *, timeout: float | None = None) -> dict[str, str]:
        """Return facts about the cluster by name, such as ``primary_meta_server`` and ``meta_function_level``.

        Example:
            >>> client.admin.cluster_info()["meta_function_level"]
            'steady'
        """
        answer = self._call(rpcs.CLUSTER_INFO, meta.ClusterInfoRequest(), self._deadline(timeout))
        return dict(zip(answer.keys, answer.values))

    def set_meta_level(self, level: MetaLevel, *, timeout: float | None = None) -> int:
        """Set what the meta servers may change by themselves; return the old level.

        Args:
            level: A ``MetaLevel``. The client refuses other numbers, because servers accept any number.
            timeout: Seconds for the whole call.

        Example:
            >>> MetaLevel(client.admin.set_meta_level(MetaLevel.LIVELY)).name
            'STEADY'
        """
        try:
            level = MetaLevel(level)
        except ValueError:
            raise InvalidArgument(f"level must be a MetaLevel, not {level!r}") from None
        answer = self._call(rpcs.CONTROL_META, meta.MetaControlRequest(int(level)), self._deadline(timeout))
        return int(answer.old_level)

    # ------------------------------------------------------------------------------------------------------------- envs
    def get_envs(self, name: str, *, timeout: float | None = None) -> dict[str, str]:
        """Return the envs of a table.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.set_envs("temp", {"replica.slow_query_threshold": 100})
            >>> client.admin.get_envs("temp")
            {'replica.slow_query_threshold': '100'}
        """
        return dict(self.table_info(name, timeout=timeout).envs)

    def set_envs(self, name: str, envs: Mapping[str, str | int], *, timeout: float | None = None) -> None:
        """Set envs of a table; its other envs stay. Replicas apply them within 30 s.

        Args:
            name: The table.
            envs: Values, str or int, by name; not empty. ``default_ttl`` is sent only when all replicas exist, because
                a server crashes if it opens a new replica with it.
            timeout: Seconds for the whole call.

        Raises:
            TableNotFound: There is no such table.
            MetaError: ``ERR_INVALID_PARAMETERS``: the server does not know the env or refuses the value; the message
                has its reason.
            RequestTimeout: With ``default_ttl``: the table is not healthy in time; nothing was set.

        Example:
            >>> client.admin.set_envs("temp", {"default_ttl": 86400, "replica.slow_query_threshold": 100})
            >>> client.admin.get_envs("temp")["default_ttl"]
            '86400'
        """
        name, settings = text_of(name, "table name"), envs_of(envs)
        if not settings:
            raise InvalidArgument("envs must not be empty")
        deadline = self._deadline(timeout)
        if DEFAULT_TTL in settings:
            self._wait_for(name, deadline, lambda partition: partition.is_healthy, "is not healthy")
        self._update_envs(name, deadline, _ENV_SET, keys=list(settings), values=list(settings.values()))

    def delete_envs(self, name: str, names: Iterable[str], *, timeout: float | None = None) -> None:
        """Delete envs of a table. It is no error if an env is not set.

        Running replicas still apply a deleted ``default_ttl``. Set it to 0 instead.

        Args:
            name: The table.
            names: Names of the envs; at least one.
            timeout: Seconds for the whole call.

        Raises:
            TableNotFound: There is no such table.
            InvalidArgument: There are no names, or names is a single str.

        Example:
            >>> client.admin.set_envs("temp", {"replica.slow_query_threshold": 100})
            >>> client.admin.delete_envs("temp", ["replica.slow_query_threshold"])
            >>> client.admin.get_envs("temp")
            {}
        """
        if isinstance(names, (str, bytes)):
            raise InvalidArgument(f"names must be an iterable of names, not {names!r}")
        keys = [text_of(key, "env") for key in names]
        if not keys:
            raise InvalidArgument("names must not be empty")
        self._update_envs(text_of(name, "table name"), self._deadline(timeout), _ENV_DELETE, keys=keys)

    def clear_envs(self, name: str, prefix: str, *, timeout: float | None = None) -> None:
        """Delete the envs whose name begins with ``prefix`` and a dot; an empty prefix deletes all.

        Args:
            name: The table.
            prefix: The beginning of the names, without the dot; "": all envs.
            timeout: Seconds for the whole call.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.set_envs("temp", {"replica.slow_query_threshold": 100, "default_ttl": 86400})
            >>> client.admin.clear_envs("temp", "replica")
            >>> client.admin.get_envs("temp")
            {'default_ttl': '86400'}
        """
        self._update_envs(
            text_of(name, "table name"), self._deadline(timeout), _ENV_CLEAR, clear_prefix=text_of(prefix, "prefix")
        )

    # ------------------------------------------------------------------------------------- replicas, atomic, compaction
    def get_replica_count(self, name: str, *, timeout: float | None = None) -> int:
        """Return the number of replicas that each partition of a table should have.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.get_replica_count("temp")
            3
        """
        name = text_of(name, "table name")
        answer = self._call(rpcs.GET_MAX_REPLICA_COUNT, meta.AppNameRequest(name), self._deadline(timeout), name)
        return int(answer.max_replica_count)

    def set_replica_count(self, name: str, replicas: int, *, timeout: float | None = None) -> int:
        """Set the number of replicas that each partition of a table should have; return the old number.

        If the request was repeated, the returned number may be the new one.

        Raises:
            TableNotFound: There is no such table.
            MetaError: ``ERR_INVALID_PARAMETERS``: more replicas than live servers.

        Example:
            >>> client.admin.set_replica_count("temp", 2)
            3
        """
        name = text_of(name, "table name")
        request = meta.SetMaxReplicaCountRequest(name, whole(replicas, "replicas", 1))
        answer = self._call(rpcs.SET_MAX_REPLICA_COUNT, request, self._deadline(timeout), name)
        return int(answer.old_max_replica_count)

    def get_atomic_idempotent(self, name: str, *, timeout: float | None = None) -> bool:
        """Tell whether incr and check-and-* are idempotent between replicas (servers after 2.5).

        Raises:
            TableNotFound: There is no such table.
            MetaError: ``ERR_HANDLER_NOT_FOUND``: the servers do not support it. It is raised when the timeout ends.

        Example:
            >>> client.admin.get_atomic_idempotent("temp")
            False
        """
        name = text_of(name, "table name")
        answer = self._call(rpcs.GET_ATOMIC_IDEMPOTENT, meta.AppNameRequest(name), self._deadline(timeout), name)
        return bool(answer.atomic_idempotent)

    def set_atomic_idempotent(self, name: str, enabled: bool, *, timeout: float | None = None) -> bool:  # noqa: FBT001
        """Set whether incr and check-and-* are idempotent between replicas (``enabled``); return the old setting.

        Raises:
            TableNotFound: There is no such table.
            MetaError: ``ERR_HANDLER_NOT_FOUND``: the servers do not support it. It is raised when the timeout ends.

        Example:
            >>> client.admin.set_atomic_idempotent("temp", True)
            False
        """
        name = text_of(name, "table name")
        request = meta.SetAtomicIdempotentRequest(name, bool(enabled))
        answer = self._call(rpcs.SET_ATOMIC_IDEMPOTENT, request, self._deadline(timeout), name)
        return bool(answer.old_atomic_idempotent)

    def start_compaction(
        self,
        name: str,
        *,
        target_level: int | None = None,
        bottommost: bool = False,
        max_running: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Start a manual compaction of a table. It frees the space of removed and expired records.

        Args:
            name: The table.
            target_level: Level of the storage engine to compact into; None: the storage engine chooses it.
            bottommost: Also rewrite the lowest level.
            max_running: Maximum number of partitions that one server compacts at the same time; None: no limit.
            timeout: Seconds for the whole call.

        Raises:
            TableNotFound: There is no such table.
            MetaError: ``ERR_OPERATION_DISABLED``: the env ``manual_compact.disabled`` forbids it.

        Example:
            >>> client.admin.start_compaction("temp", bottommost=True)
        """
        name = text_of(name, "table name")
        request = meta.StartManualCompactRequest(app_name=name)
        if target_level is not None:
            request.target_level = whole(target_level, "target_level", -1)
        if bottommost:
            request.bottommost = True
        if max_running is not None:
            request.max_running_count = whole(max_running, "max_running", 0)
        self._call(rpcs.START_MANUAL_COMPACT, request, self._deadline(timeout), name)

    def compaction_progress(self, name: str, *, timeout: float | None = None) -> int:
        """Return the progress of a manual compaction in percent; 0 if there was none.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.compaction_progress("temp")
            0
        """
        name = text_of(name, "table name")
        request = meta.AppNameRequest(name)
        try:
            answer = self._call(rpcs.QUERY_MANUAL_COMPACT, request, self._deadline(timeout), name)
        except MetaError as error:
            if error.code == "ERR_INVALID_STATE":  # no replica has compacted since it was started
                return 0
            raise
        return int(answer.progress or 0)

    # ----------------------------------------------------------------------------------------------------------- splits
    def start_split(self, name: str, partitions: int, *, timeout: float | None = None) -> None:
        """Start to double the number of partitions. The table continues to serve requests.

        Each existing partition is a parent: half of its keys move to a new partition, its child.

        Args:
            name: The table.
            partitions: The new number, exactly twice the current one. During a split, the current number is already the
                new one.
            timeout: Seconds for the whole call.

        Raises:
            InvalidArgument: The number is not twice the current one, or the current one is not a power of two, so that
                keys would be lost.
            TableNotFound: There is no such table.
            MetaError: ``ERR_BUSY``: the table is already splitting.

        Example:
            >>> client.admin.start_split("temp", 16)
            >>> client.admin.table_info("temp").partition_count
            16
        """
        name = text_of(name, "table name")
        whole(partitions, "partitions", 2)
        deadline = self._deadline(timeout)
        count = self._find(name, deadline).partition_count
        if count & (count - 1):
            raise InvalidArgument(
                f"table {name} has {count} partitions, which is not a power of two: it cannot be split"
            )
        if partitions != 2 * count:
            raise InvalidArgument(f"table {name} has {count} partitions and can be split only into {2 * count}")
        self._call(rpcs.START_SPLIT, meta.StartSplitRequest(name, partitions), deadline, name)

    def split_status(self, name: str, *, timeout: float | None = None) -> SplitStatus | None:
        """Return the progress of a split; None if the table is not splitting.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.start_split("temp", 16)
            >>> client.admin.split_status("temp")
            <Split to 16 partitions, 0 of 8 done, SPLITTING>
        """
        return self._split_status(text_of(name, "table name"), self._deadline(timeout))

    def pause_split(self, name: str, partition: int | None = None, *, timeout: float | None = None) -> None:
        """Pause the split of one parent partition, or of all (None).

        With None, it pauses the partitions whose split is running and ignores the others.

        Raises:
            MetaError: ``ERR_INVALID_STATE``: the table is not splitting, or this one partition is already paused.
                ``ERR_CHILD_REGISTERED``: the split of this one partition is finished.

        Example:
            >>> client.admin.start_split("temp", 16)
            >>> client.admin.pause_split("temp")
            >>> client.admin.split_status("temp")
            <Split to 16 partitions, 0 of 8 done, PAUSING>
        """
        self._control_split(name, _PAUSE, partition, timeout)

    def resume_split(self, name: str, partition: int | None = None, *, timeout: float | None = None) -> None:
        """Resume the paused split of one parent partition, or of all (None).

        With None, it resumes the partitions that are paused and ignores the others.

        Raises:
            MetaError: ``ERR_INVALID_STATE``: the table is not splitting, or this one partition is not paused.

        Example:
            >>> import gevent
            >>> client.admin.start_split("temp", 16)
            >>> client.admin.pause_split("temp")
            >>> while SplitState.PAUSING in client.admin.split_status("temp").parents.values():
            ...     gevent.sleep(0.1)
            >>> client.admin.resume_split("temp")
            >>> client.admin.split_status("temp")
            <Split to 16 partitions, 0 of 8 done, SPLITTING>
        """
        self._control_split(name, _RESUME, partition, timeout)

    def cancel_split(self, name: str, *, timeout: float | None = None) -> None:
        """Cancel a split. The split ends a few seconds later, when all parent partitions have stopped it.

        Raises:
            MetaError: The table is not splitting, or a child is already ready.

        Example:
            >>> client.admin.start_split("temp", 16)
            >>> client.admin.cancel_split("temp")
            >>> client.admin.split_status("temp")
            <Split to 16 partitions, 0 of 8 done, CANCELING>
        """
        self._control_split(name, _CANCEL, None, timeout)

    def _control_split(self, name: str, control: int, partition: int | None, timeout: float | None) -> None:
        name = text_of(name, "table name")
        parent = _ALL_PARTITIONS if partition is None else whole(partition, "partition", 0)
        deadline = self._deadline(timeout)
        request = meta.ControlSplitRequest(app_name=name, control_type=control, parent_pidx=parent)
        if control == _CANCEL:
            status = self._split_status(name, deadline)
            if status is None:
                raise MetaError("the table is not splitting", code=ERR_INVALID_STATE, table=name)
            # The server compares it, so a delayed cancel does not affect the next split.
            request.old_partition_count = status.partition_count // 2
        self._call(rpcs.CONTROL_SPLIT, request, deadline, name)
