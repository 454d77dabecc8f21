"""Common parts of the administrative methods: requests to meta servers, error conversion, waiting for health."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent

from ..errors import (
    AccessDenied,
    ClientClosed,
    ForkedConnection,
    InvalidArgument,
    MetaError,
    MetaUnreachable,
    PegasusError,
    RequestTimeout,
    TableExists,
    TableNotFound,
    TableUnavailable,
)
from ..keys import to_bytes
from ..protocol import meta
from ..protocol import rpc as rpcs
from ..protocol.codes import (
    ERR_ACL_DENY,
    ERR_APP_DROPPED,
    ERR_APP_EXIST,
    ERR_APP_NOT_EXIST,
    ERR_BUSY_CREATING,
    ERR_BUSY_DROPPING,
    ERR_HANDLER_NOT_FOUND,
    ERR_INVALID_PARAMETERS,
    ERR_INVALID_STATE,
    ERR_OBJECT_NOT_FOUND,
    ERR_OK,
)
from ..protocol.message import Message
from ..protocol.rpc import Rpc
from ..transport import fork
from ..transport.reach import in_digits
from .model import NodeInfo, PartitionInfo, SplitStatus, TableInfo, TableStatus

if TYPE_CHECKING:
    from ..cluster.dispatcher import Cluster

# Meta servers write changes to ZooKeeper before they answer, so the default timeout of data calls is too short.
LEAST_TIMEOUT = 10.0
POLL_FIRST, POLL_LAST = 0.05, 1.0
_NODE_ALIVE = 1
_NAME = re.compile(r"[0-9A-Za-z._:]+")
_ERRORS: dict[str, type[PegasusError]] = {
    ERR_APP_NOT_EXIST: TableNotFound,
    ERR_OBJECT_NOT_FOUND: TableNotFound,
    ERR_APP_DROPPED: TableNotFound,
    ERR_APP_EXIST: TableExists,
    ERR_BUSY_CREATING: TableUnavailable,
    ERR_BUSY_DROPPING: TableUnavailable,
    ERR_ACL_DENY: AccessDenied,
}


def text_of(value: str | bytes, what: str) -> str:
    """Return a str; bytes are decoded as UTF-8."""
    try:
        return to_bytes(value, what).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidArgument(f"{what} is not UTF-8: {value!r}") from None


def new_name_of(name: str | bytes) -> str:
    """Check and return the name of a new table, by the rule of other clients."""
    text = text_of(name, "table name")
    if not _NAME.fullmatch(text):
        raise InvalidArgument(f"a table name can contain only 0-9 A-Z a-z . _ : and must not be empty, not {text!r}")
    return text


def whole(value: object, what: str, least: int) -> int:
    """Return a 32-bit number that is not below least."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise InvalidArgument(f"{what} must be a whole number from {least} to 2**31 - 1, not {value!r}")
    return value


def envs_of(envs: Mapping[str, str | int]) -> dict[str, str]:
    """Return the envs as sent to the server."""
    if not isinstance(envs, Mapping):
        raise InvalidArgument(f"envs must be a mapping of names and values, not {envs!r}")
    found = {}
    for name, value in envs.items():
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise InvalidArgument(f"env {name} must be a str or a whole number, not {value!r}")
        found[text_of(name, "env")] = str(value)
    return found


def table_info(info: meta.AppInfo) -> TableInfo:
    """Convert a table description of a meta server."""
    return TableInfo(
        app_id=info.app_id,
        name=info.app_name,
        status=info.status,
        partition_count=info.partition_count,
        replica_count=info.max_replica_count,
        envs=dict(info.envs),
        created=info.create_second,
        dropped=info.drop_second,
        expires=info.expire_second,
        duplicating=bool(info.duplicating),
        atomic_idempotent=info.atomic_idempotent,
    )


def _partition_info(partition: meta.PartitionConfiguration) -> PartitionInfo:
    def addresses(names: list[str] | None, raw: list[int]) -> tuple[str, ...]:
        # Servers after 2.5 send host names besides IPv4 addresses.
        return tuple(names or filter(None, map(meta.format_address, raw)))

    return PartitionInfo(
        index=meta.split_gpid(partition.pid)[1],
        ballot=partition.ballot,
        primary=partition.hp_primary or meta.format_address(partition.primary),
        secondaries=addresses(partition.hp_secondaries, partition.secondaries),
        replica_count=partition.max_replica_count,
        last_drops=addresses(partition.hp_last_drops, partition.last_drops),
    )


def meta_error(err: str, response: Message | None, **details: Any) -> PegasusError:
    """Return the error for the answer of a meta server, with the server's hint."""
    hint = getattr(response, "hint_message", None) or getattr(response, "hint_msg", None)
    text = f"the meta server answered {err}" + (f": {hint}" if hint else "")
    return _ERRORS.get(err, MetaError)(text, code=err, **details)


class AdminBase:
    """Requests to the meta servers.

    Attributes:
        least_timeout: Minimum timeout in seconds of a request without an explicit timeout.
    """

    def __init__(self, cluster: Cluster) -> None:
        """Administer a cluster; use ``client.admin``."""
        self._home = cluster
        self.least_timeout = LEAST_TIMEOUT

    @property
    def _cluster(self) -> Cluster:
        """The cluster object of the calling thread."""
        return self._home.here()

    def __repr__(self) -> str:
        """Show the meta servers."""
        return f"<Admin of {','.join(self._cluster.meta.addresses)}>"

    def _deadline(self, timeout: float | None) -> float:
        """Start a call and return its deadline.

        Raises:
            ClientClosed: The client is closed.
        """
        self._cluster.bind()
        self._cluster.sweep()
        if timeout is None:
            timeout = max(self._cluster.options.timeout, self.least_timeout)
        return self._cluster.deadline(timeout, monotonic())

    def _call(
        self,
        rpc: Rpc,
        request: Message,
        deadline: float,
        table: str | None = None,
        *,
        in_use: bool = False,
        accept: str = ERR_OK,
    ) -> Any:
        """Send a request to the meta servers and return the answer.

        Args:
            rpc: The RPC.
            request: Its argument.
            deadline: Monotonic time.
            table: Table name for errors.
            in_use: Whether ERR_INVALID_PARAMETERS can only mean that the new name is in use.
            accept: Error name that counts as success.

        Raises:
            PegasusError: The answer is an error.
        """
        client = self._cluster.meta
        try:
            if client.leader is None and not rpc.repeatable:
                # The request waits for one server only, maybe a silent one, so the leader is found before. Any table
                # name will do.
                client.call(rpcs.QUERY_CFG, meta.QueryCfgRequest(table or ""), deadline)
            answer: Any = client.call(rpc, request, deadline)
        except PegasusError as error:
            error.table, error.operation = table, rpc.label
            if getattr(error.last_error, "code", "") == ERR_HANDLER_NOT_FOUND:
                text = "the servers do not know this request: their release is too old, or they are not meta servers"
                raise MetaError(text, code=ERR_HANDLER_NOT_FOUND, table=table, operation=rpc.label) from None
            raise
        if answer.err in (ERR_OK, accept):
            return answer
        if in_use and answer.err == ERR_INVALID_PARAMETERS:
            raise TableExists("the new name is in use", code=ERR_INVALID_PARAMETERS, table=table, operation=rpc.label)
        refusal = meta_error(answer.err, answer, table=table, operation=rpc.label)
        if isinstance(refusal, AccessDenied):
            refusal.user, refusal.address = self._cluster.pool.user, client.leader
        try:
            raise refusal
        finally:
            # The traceback holds this frame. Without this, frame and error would form a cycle.
            del refusal

    def _find(self, name: str, deadline: float) -> TableInfo:
        answer = self._call(rpcs.LIST_APPS, meta.ListAppsRequest(), deadline, name)
        for info in answer.infos:
            if info.app_name == name and info.status != TableStatus.DROPPED:
                return table_info(info)
        raise TableNotFound(f"table {name!r} does not exist", table=name, operation="list_tables")

    def _nodes(self, deadline: float) -> list[NodeInfo]:
        """Return all replica servers. The addresses of those that are known by name are remembered."""
        answer = self._call(rpcs.LIST_NODES, meta.ListNodesRequest(), deadline)
        others = {node.hp_node: meta.format_address(node.node) for node in answer.infos if node.hp_node and node.node}
        self._cluster.meta.metas.learn_nodes(others)
        return [
            NodeInfo(node.hp_node or meta.format_address(node.node), node.status == _NODE_ALIVE)
            for node in answer.infos
        ]

    def _newest_address(self, server: str, deadline: float) -> str:
        """Ask the meta servers for the IP address of a replica server that has a host name; "": unknown."""
        if in_digits(server):
            return ""
        try:
            self._nodes(deadline)
        except (ClientClosed, ForkedConnection):
            raise
        except PegasusError:
            return ""
        return self._cluster.meta.metas.other(server)

    def _partitions(self, name: str, deadline: float) -> tuple[int, list[PartitionInfo]]:
        answer = self._call(rpcs.QUERY_CFG, meta.QueryCfgRequest(name), deadline, name)
        return answer.app_id, sorted(map(_partition_info, answer.partitions), key=lambda partition: partition.index)

    def _wait_for(
        self, name: str, deadline: float, good: Callable[[PartitionInfo], bool], what: str, app_id: int | None = None
    ) -> int:
        """Wait until all partitions are good, and return the table's id.

        Raises:
            RequestTimeout: They are not good before the deadline.
            TableNotFound: There is no such table, or the name now belongs to another table.
            ForkedConnection: The process forked meanwhile.
        """
        mine, pause, text = fork.generation(), POLL_FIRST, ""
        while True:
            last: PegasusError | None = None
            try:
                found, partitions = self._partitions(name, deadline)
                if app_id not in (None, found):
                    raise TableNotFound(f"the name {name} now belongs to another table, with id {found}", table=name)
                bad = [partition for partition in partitions if not good(partition)]
                if not bad:
                    return found
                text = f"{len(bad)} of {len(partitions)} partitions are not ready; the first one, {bad[0]!r}, {what}"
            except TableUnavailable as error:
                last, text = error, str(error.args[0])
            except MetaUnreachable as error:
                # The deadline ended this query. The answer before it says more.
                if not text:
                    raise
                last = error
            if monotonic() + pause >= deadline:
                raise RequestTimeout(f"table {name}: {text}", table=name, last_error=last)
            gevent.sleep(pause)
            fork.check(mine)
            pause = min(pause * 1.5, POLL_LAST)

    def _update_envs(self, name: str, deadline: float, op: int, **fields: Any) -> None:
        request = meta.UpdateAppEnvRequest(app_name=name, op=op, **fields)
        self._call(rpcs.UPDATE_APP_ENV, request, deadline, name)

    def _split_status(self, name: str, deadline: float) -> SplitStatus | None:
        answer = self._call(rpcs.QUERY_SPLIT, meta.AppNameRequest(name), deadline, name, accept=ERR_INVALID_STATE)
        return SplitStatus(answer.new_partition_count, dict(answer.status)) if answer.err == ERR_OK else None
