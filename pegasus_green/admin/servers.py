"""Requests to single servers, and proposals about single partitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..cluster.addresses import parse_address
from ..errors import ConnectFailed, InvalidArgument, MetaError, ServerError, server_error
from ..protocol import jobs, meta, remote
from ..protocol import rpc as rpcs
from ..protocol.codes import (
    ERR_HANDLER_NOT_FOUND,
    ERR_INVALID_PARAMETERS,
    ERR_INVALID_STATE,
    ERR_OBJECT_NOT_FOUND,
    ERR_OK,
)
from ..protocol.message import Message
from ..protocol.rpc import Rpc
from .base import AdminBase, meta_error, text_of, whole
from .model import Backup, BalanceKind, BulkLoad, DiskInfo, HotKeyAction, HotKeyKind, ProposalKind

_ALL = 0xFFFFFFFF


class ServerAdmin(AdminBase):
    """The methods of ``client.admin`` for single servers and partitions."""

    def remote_command(
        self, server: str, command: str, arguments: Iterable[str] = (), *, timeout: float | None = None
    ) -> str:
        """Run a remote command on a meta or replica server; return its output.

        For an unknown command the server returns a text that says so. The command ``help`` lists the known ones.

        Args:
            server: "host:port".
            command: Name of the command, for example ``server-info``.
            arguments: Its arguments, as str.
            timeout: Seconds for the whole call.

        Raises:
            ServerError: The server does not support remote commands.
            ConnectFailed, RequestTimeout: The server cannot be reached, or does not answer.

        Example:
            >>> "version" in client.admin.remote_command(client.admin.nodes()[0].address, "server-info")
            True
        """
        if isinstance(arguments, (str, bytes)):
            raise InvalidArgument(f"arguments must be an iterable of words, not {arguments!r}")
        words = [text_of(word, "argument") for word in arguments]
        answer = self._ask(
            server, rpcs.CLI_CALL, remote.CommandRequest(text_of(command, "command"), words), self._deadline(timeout)
        )
        return str(answer.success)

    def disks(self, server: str, table: str | None = None, *, timeout: float | None = None) -> list[DiskInfo]:
        """Return the data directories of a replica server, with the replicas that they hold.

        Args:
            server: "host:port".
            table: Only the replicas of this table; None: of all tables.
            timeout: Seconds for the whole call.

        Raises:
            ServerError: Refused; ``ERR_OBJECT_NOT_FOUND``: the server does not know the table.
            ConnectFailed, RequestTimeout: The server cannot be reached, or does not answer.

        Example:
            >>> client.admin.disks(client.admin.nodes()[0].address)[0].capacity_mb > 0
            True
        """
        request = remote.QueryDiskInfoRequest(app_name="" if table is None else text_of(table, "table name"))
        answer = self._ask(server, rpcs.QUERY_DISK_INFO, request, self._deadline(timeout))
        if answer.err != ERR_OK:
            raise server_error(answer.err, table=table, address=server, operation="query_disk_info")

        def replicas(held: dict[int, list[int]]) -> dict[int, tuple[int, ...]]:
            return {app: tuple(sorted(meta.split_gpid(pid)[1] for pid in pids)) for app, pids in sorted(held.items())}

        return [
            DiskInfo(
                tag=disk.tag,
                path=disk.full_dir,
                capacity_mb=disk.disk_capacity_mb,
                available_mb=disk.disk_available_mb,
                primaries=replicas(disk.holding_primary_replicas),
                secondaries=replicas(disk.holding_secondary_replicas),
            )
            for disk in answer.disk_infos
        ]

    # ----------------------------------------------------------------------------------------------------- partitions
    def propose(
        self,
        name: str,
        partition: int,
        kind: ProposalKind,
        target: str,
        node: str,
        *,
        force: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Propose one change of a partition's replicas. The meta servers may carry it out later or ignore it.

        Args:
            name: The table.
            partition: Its index.
            kind: The change.
            target: "host:port" of the server that carries it out, usually the primary.
            node: "host:port" of the server that the change is about.
            force: Propose it even if the meta server has another plan for the partition.
            timeout: Seconds for the whole call.

        Raises:
            TableNotFound: There is no such table.
            MetaError: Refused; ``ERR_INVALID_PARAMETERS``: there is no such partition, or a plan is in progress.

        Example:
            >>> nodes = [node.address for node in client.admin.nodes()]
            >>> client.admin.propose("temp", 0, ProposalKind.ADD_SECONDARY, nodes[0], nodes[1])
        """
        try:
            kind = ProposalKind(kind)
        except ValueError:
            raise InvalidArgument(f"kind must be a ProposalKind, not {kind!r}") from None
        self._propose(name, partition, [_action(kind, target, node)], timeout, force=force)

    def balance(
        self, name: str, partition: int, kind: BalanceKind, source: str, target: str, *, timeout: float | None = None
    ) -> None:
        """Move the primary or a secondary of a partition to another server. The meta servers carry it out later.

        Args:
            name: The table.
            partition: Its index.
            kind: MOVE_PRIMARY: target is already a secondary. COPY_PRIMARY, COPY_SECONDARY: target gets a new replica.
            source: "host:port" of the server that has the replica now.
            target: "host:port" of the server that gets it.
            timeout: Seconds for the whole call.

        Raises:
            TableNotFound: There is no such table.
            MetaError: Refused; ``ERR_INVALID_PARAMETERS``: there is no such partition, or a plan is in progress.

        Example:
            >>> first = client.admin.partitions("temp")[0]
            >>> client.admin.balance("temp", 0, BalanceKind.MOVE_PRIMARY, first.primary, first.secondaries[0])
        """
        try:
            kind = BalanceKind(kind)
        except ValueError:
            raise InvalidArgument(f"kind must be a BalanceKind, not {kind!r}") from None
        down, up = ProposalKind.DOWNGRADE_TO_SECONDARY, ProposalKind.UPGRADE_TO_PRIMARY
        add, away = ProposalKind.ADD_SECONDARY_FOR_LB, ProposalKind.DOWNGRADE_TO_INACTIVE
        steps = {
            BalanceKind.MOVE_PRIMARY: [(down, source, source), (up, target, target)],
            BalanceKind.COPY_PRIMARY: [(add, source, target), (down, source, source), (up, target, target)],
            BalanceKind.COPY_SECONDARY: [(add, "", target), (away, "", source)],
        }[kind]
        self._propose(name, partition, [_action(*step) for step in steps], timeout, force=False)

    def lost_partitions(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> list[tuple[int, int, str, tuple[str, ...]]]:
        """Return the partitions that have lost all their replicas.

        Args:
            name: Only partitions of this table; None: of all tables.
            timeout: Seconds for the whole call.

        Returns:
            For each partition: the table's id, the partition's index, the reason that the meta server gives, and the
            servers that may hold a copy.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.lost_partitions()
            []
        """
        deadline = self._deadline(timeout)
        app_id = _ALL if name is None else self._find(text_of(name, "table name"), deadline).app_id
        answer = self._call(rpcs.DIAGNOSE, remote.DiagnoseRequest(meta.make_gpid(app_id, _ALL)), deadline, name)
        return [
            (
                *meta.split_gpid(lost.config.pid),
                lost.reason,
                tuple(node.hp_node or meta.format_address(node.node) for node in lost.dropped),
            )
            for lost in answer.partitions
        ]

    # ----------------------------------------------------------------------------------------------------------- jobs
    def bulk_load_status(self, name: str, *, timeout: float | None = None) -> BulkLoad | None:
        """Return the progress of the bulk load of a table; None if there is none.

        In a bulk load, the servers load prepared files of records from a remote storage.

        Raises:
            TableNotFound: There is no such table.
            MetaError: Refused, or the bulk load has failed; ``code`` has the reason.

        Example:
            >>> client.admin.bulk_load_status("temp") is None
            True
        """
        name = text_of(name, "table name")
        request = meta.AppNameRequest(name)
        answer = self._call(rpcs.QUERY_BULK_LOAD, request, self._deadline(timeout), name, accept=ERR_INVALID_STATE)
        if answer.err != ERR_OK or not (answer.is_bulk_loading or answer.app_status):
            return None
        return BulkLoad(answer.app_status, tuple(answer.partitions_status), bool(answer.is_bulk_loading))

    def backups(self, name: str, *, timeout: float | None = None) -> list[Backup]:
        """Return the one-time backups of a table, without those of backup policies.

        Raises:
            TableNotFound: There is no such table.
            MetaError: ``ERR_SERVICE_NOT_ACTIVE``: the cluster has no backup service.

        Example:
            >>> try:
            ...     client.admin.backups("temp")
            ... except MetaError as error:
            ...     print(error.code)
            ERR_SERVICE_NOT_ACTIVE
        """
        name = text_of(name, "table name")
        deadline = self._deadline(timeout)
        request = jobs.QueryBackupStatusRequest(self._find(name, deadline).app_id)
        # Only the leader, which has just answered, is asked. Without a backup service: ERR_SERVICE_NOT_ACTIVE. A
        # meta server that is becoming the leader answers the same, so a normal call would repeat the request.
        leader = self._cluster.meta.leader or self._cluster.meta.addresses[0]
        answer = self._ask(leader, rpcs.QUERY_BACKUP, request, deadline)
        if answer.err == ERR_INVALID_PARAMETERS:
            return []  # the table has no backup
        if answer.err != ERR_OK:
            raise meta_error(answer.err, answer, table=name, operation="query_backup")
        return [
            Backup(
                item.backup_id,
                item.backup_provider_type,
                item.backup_path,
                item.start_time_ms / 1000,
                item.end_time_ms / 1000,
                item.is_backup_failed,
            )
            for item in answer.backup_items or ()
        ]

    def hot_keys(
        self,
        name: str,
        partition: int,
        kind: HotKeyKind,
        action: HotKeyAction,
        *,
        timeout: float | None = None,
    ) -> str | None:
        """Start or stop the search for a hot key on a partition's primary, or get its result.

        Args:
            name: The table.
            partition: Its index.
            kind: READ or WRITE.
            action: START, STOP or QUERY. A search without a result ends by itself after some minutes.
            timeout: Seconds for the whole call.

        Returns:
            For QUERY, the hot hash key as the server prints it. For START and STOP, None.

        Raises:
            TableNotFound: There is no such table.
            ServerError: Refused; ``code`` and the message have the reason. For QUERY, ``ERR_BUSY`` means that there is
                no result yet.

        Example:
            >>> client.admin.hot_keys("temp", 0, HotKeyKind.READ, HotKeyAction.START)
        """
        try:
            kind, action = HotKeyKind(kind), HotKeyAction(action)
        except ValueError:
            raise InvalidArgument(
                f"kind must be a HotKeyKind and action a HotKeyAction, not {kind!r} and {action!r}"
            ) from None
        deadline = self._deadline(timeout)
        name = text_of(name, "table name")
        app_id, partitions = self._partitions(name, deadline)
        if not 0 <= whole(partition, "partition", 0) < len(partitions):
            raise InvalidArgument(f"partition must be below {len(partitions)}, not {partition}")
        primary = partitions[partition].primary
        if not primary:
            raise MetaError(f"partition {partition} has no primary", code=ERR_OBJECT_NOT_FOUND, table=name)
        request = jobs.DetectHotkeyRequest(int(kind), int(action), meta.make_gpid(app_id, partition))
        answer = self._ask(primary, rpcs.DETECT_HOTKEY, request, deadline)
        if answer.err != ERR_OK:
            text = f"the server answered {answer.err}" + (f": {answer.err_hint}" if answer.err_hint else "")
            raise ServerError(text, code=answer.err, table=name, address=primary, operation="hot_keys")
        return answer.hotkey_result or None

    # ------------------------------------------------------------------------------------------------------- internal
    def _ask(self, server: str, rpc: Rpc, request: Message, deadline: float) -> Any:
        address = parse_address(server)
        client = self._cluster.meta
        known = client.metas.other(address)
        try:
            try:
                return client.call_server(address, rpc, request, deadline)
            except ConnectFailed:
                # The host name may mean nothing here, or its server may have moved. Nothing was sent.
                if self._newest_address(address, deadline) in ("", known):
                    raise
            return client.call_server(address, rpc, request, deadline)
        except MetaError as error:
            text = f"the server answered {error.code}"
            if error.code == ERR_HANDLER_NOT_FOUND:
                text = "the server does not know this request: it is another kind of server or another release"
            raise ServerError(text, code=error.code, address=address, operation=rpc.label) from None

    def _propose(
        self,
        name: str,
        partition: int,
        actions: list[remote.ProposalAction],
        timeout: float | None,
        *,
        force: bool,
    ) -> None:
        deadline = self._deadline(timeout)
        name = text_of(name, "table name")
        info = self._find(name, deadline)
        if not 0 <= whole(partition, "partition", 0) < info.partition_count:
            raise InvalidArgument(f"partition must be below {info.partition_count}, not {partition}")
        request = remote.BalancerRequest(meta.make_gpid(info.app_id, partition), actions, force)
        self._call(rpcs.PROPOSE_BALANCER, request, deadline, name)


def _action(kind: ProposalKind, target: str, node: str) -> remote.ProposalAction:
    """Return one action. Servers after 2.5 read the host names, older ones the IPv4 addresses."""
    action = remote.ProposalAction(type=int(kind))
    if target:
        action.hp_target = parse_address(target)
        action.target = _raw(action.hp_target)
    action.hp_node = parse_address(node)
    action.node = _raw(action.hp_node)
    return action


def _raw(address: str) -> int:
    host, _, port = address.rpartition(":")
    try:
        return meta.make_address(host, int(port))
    except ValueError:
        return 0
