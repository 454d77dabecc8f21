"""The structs of the meta server: routing, tables, nodes, splits.

They come from ``idl/dsn.layer2.thrift``, ``meta_admin.thrift`` and ``partition_split.thrift`` of Pegasus. gpids and
addresses are raw unsigned 64-bit numbers here. The functions at the end convert them.
"""

from __future__ import annotations

from .binary import ADDRESS_TYPE, HOST_PORT_TYPE, I32_TYPE, TEXT_TYPE
from .message import (
    Message,
    address,
    blob,
    boolean,
    error_name,
    gpid,
    host_port,
    i32,
    i64,
    list_of,
    map_of,
    struct,
    text,
)


class PartitionConfiguration(Message):
    """The servers of one partition. ``ballot`` -1: a split child that is not ready; ``primary`` 0: no primary now.

    Servers after 2.5 send the fields 9 to 11. A generic skip cannot skip them.
    """

    pid: int = gpid(1)
    ballot: int = i64(2)
    max_replica_count: int = i32(3)
    primary: int = address(4)
    secondaries: list[int] = list_of(5, ADDRESS_TYPE)
    last_drops: list[int] = list_of(6, ADDRESS_TYPE)
    last_committed_decree: int = i64(7)
    partition_flags: int = i32(8)
    hp_primary: str | None = host_port(9)
    hp_secondaries: list[str] | None = list_of(10, HOST_PORT_TYPE, optional=True)
    hp_last_drops: list[str] | None = list_of(11, HOST_PORT_TYPE, optional=True)


class QueryCfgRequest(Message):
    """Asks for the routes of a table; without indices for all partitions."""

    app_name: str = text(1)
    partition_indices: list[int] = list_of(2, I32_TYPE)


class QueryCfgResponse(Message):
    """The routes of a table, or the leader's address with ERR_FORWARD_TO_OTHERS."""

    err: str = error_name(1)
    app_id: int = i32(2)
    partition_count: int = i32(3)
    is_stateful: bool = boolean(4)
    partitions: list[PartitionConfiguration] = list_of(5, PartitionConfiguration)


class AppInfo(Message):
    """A table as the meta server describes it."""

    status: int = i32(1)
    app_type: str = text(2)
    app_name: str = text(3)
    app_id: int = i32(4)
    partition_count: int = i32(5)
    envs: dict[str, str] = map_of(6, TEXT_TYPE, TEXT_TYPE)
    is_stateful: bool = boolean(7)
    max_replica_count: int = i32(8)
    expire_second: int = i64(9)
    create_second: int = i64(10)
    drop_second: int = i64(11)
    duplicating: bool | None = boolean(12, optional=True, default=False)
    init_partition_count: int = i32(13, default=-1, missing=-1)
    is_bulk_loading: bool | None = boolean(14, optional=True, default=False)
    atomic_idempotent: bool | None = boolean(15, optional=True)


class CreateAppOptions(Message):
    """Options of create; only servers after 2.5 know ``atomic_idempotent``."""

    partition_count: int = i32(1)
    replica_count: int = i32(2)
    success_if_exist: bool = boolean(3)
    app_type: str = text(4, default="pegasus")
    is_stateful: bool = boolean(5, default=True)
    envs: dict[str, str] = map_of(6, TEXT_TYPE, TEXT_TYPE)
    atomic_idempotent: bool | None = boolean(7, optional=True)


class CreateAppRequest(Message):
    """Creates a table."""

    app_name: str = text(1)
    options: CreateAppOptions = struct(2, CreateAppOptions)


class CreateAppResponse(Message):
    """The new table's id."""

    err: str = error_name(1)
    appid: int = i32(2)


class DropAppOptions(Message):
    """Options of drop."""

    success_if_not_exist: bool = boolean(1)
    reserve_seconds: int | None = i64(2, optional=True)


class DropAppRequest(Message):
    """Drops a table."""

    app_name: str = text(1)
    options: DropAppOptions = struct(2, DropAppOptions)


class DropAppResponse(Message):
    """The outcome of a drop."""

    err: str = error_name(1)


class RenameAppRequest(Message):
    """Renames a table."""

    old_app_name: str = text(1)
    new_app_name: str = text(2)


class HintResponse(Message):
    """An error with a text: the reply to rename, update_app_env, start of compaction and start of split."""

    err: str = error_name(1)
    hint_message: str = text(2)


class RecallAppRequest(Message):
    """Recalls a dropped table, with a new name unless that is empty."""

    app_id: int = i32(1)
    new_app_name: str = text(2)


class RecallAppResponse(Message):
    """The recalled table."""

    err: str = error_name(1)
    info: AppInfo = struct(2, AppInfo)


class ListAppsRequest(Message):
    """Asks for tables by status (0: all) and, on servers after 2.5, by name pattern."""

    status: int = i32(1)
    app_name_pattern: str | None = text(2, optional=True)
    match_type: int | None = i32(3, optional=True)


class ListAppsResponse(Message):
    """Tables, ascending by id."""

    err: str = error_name(1)
    infos: list[AppInfo] = list_of(2, AppInfo)
    hint_message: str | None = text(3, optional=True)


class NodeInfo(Message):
    """A replica server as the meta server describes it."""

    status: int = i32(1)
    node: int = address(2)
    hp_node: str | None = host_port(3)


class ListNodesRequest(Message):
    """Asks for replica servers by status (0: all)."""

    status: int = i32(1)


class ListNodesResponse(Message):
    """Replica servers, live ones first."""

    err: str = error_name(1)
    infos: list[NodeInfo] = list_of(2, NodeInfo)


class ClusterInfoRequest(Message):
    """Asks for facts about the cluster."""


class ClusterInfoResponse(Message):
    """Facts about the cluster as parallel lists."""

    err: str = error_name(1)
    keys: list[str] = list_of(2, TEXT_TYPE)
    values: list[str] = list_of(3, TEXT_TYPE)


class UpdateAppEnvRequest(Message):
    """Sets (op 1), deletes (2) or clears (3) envs of a table."""

    app_name: str = text(1)
    op: int = i32(2)
    keys: list[str] | None = list_of(3, TEXT_TYPE, optional=True)
    values: list[str] | None = list_of(4, TEXT_TYPE, optional=True)
    clear_prefix: str | None = text(5, optional=True)


class StartManualCompactRequest(Message):
    """Starts a manual compaction."""

    app_name: str = text(1)
    trigger_time: int | None = i64(2, optional=True)
    target_level: int | None = i32(3, optional=True)
    bottommost: bool | None = boolean(4, optional=True)
    max_running_count: int | None = i32(5, optional=True)


class AppNameRequest(Message):
    """A request with only a table's name: query of compaction, split, replica count, atomic_idempotent."""

    app_name: str = text(1)


class QueryManualCompactResponse(Message):
    """The progress of a manual compaction in percent."""

    err: str = error_name(1)
    hint_msg: str = text(2)
    progress: int | None = i32(3, optional=True)


class MetaControlRequest(Message):
    """Sets the meta function level."""

    level: int = i32(1)


class MetaControlResponse(Message):
    """The old level."""

    err: str = error_name(1)
    old_level: int = i32(2)


class GetMaxReplicaCountResponse(Message):
    """A table's replica count."""

    err: str = error_name(1)
    max_replica_count: int = i32(2)
    hint_message: str = text(3)


class SetMaxReplicaCountRequest(Message):
    """Changes a table's replica count."""

    app_name: str = text(1)
    max_replica_count: int = i32(2)


class SetMaxReplicaCountResponse(Message):
    """The old replica count."""

    err: str = error_name(1)
    old_max_replica_count: int = i32(2)
    hint_message: str = text(3)


class GetAtomicIdempotentResponse(Message):
    """Whether a table makes atomic writes idempotent between replicas."""

    err: str = error_name(1)
    atomic_idempotent: bool = boolean(2)
    hint_message: str = text(3)


class SetAtomicIdempotentRequest(Message):
    """Changes atomic_idempotent."""

    app_name: str = text(1)
    atomic_idempotent: bool = boolean(2)


class SetAtomicIdempotentResponse(Message):
    """The old atomic_idempotent."""

    err: str = error_name(1)
    old_atomic_idempotent: bool = boolean(2)
    hint_message: str = text(3)


class StartSplitRequest(Message):
    """Starts a partition split; the new count must be twice the current one."""

    app_name: str = text(1)
    new_partition_count: int = i32(2)


class QuerySplitResponse(Message):
    """A running split: status by parent partition."""

    err: str = error_name(1)
    new_partition_count: int = i32(2)
    status: dict[int, int] = map_of(3, I32_TYPE, I32_TYPE)
    hint_msg: str | None = text(4, optional=True)


class ControlSplitRequest(Message):
    """Pauses (0), restarts (1) or cancels (2) the split of one parent partition, or of all (-1)."""

    app_name: str = text(1)
    control_type: int = i32(2)
    parent_pidx: int = i32(3)
    old_partition_count: int | None = i32(4, optional=True)


class ControlSplitResponse(Message):
    """The outcome of a split control."""

    err: str = error_name(1)
    hint_msg: str | None = text(2, optional=True)


class Negotiation(Message):
    """A step of SASL negotiation, in both directions."""

    status: int = i32(1)
    msg: bytes = blob(2)


def make_gpid(app_id: int, partition_index: int) -> int:
    """Return the raw number of a gpid."""
    return (partition_index & 0xFFFFFFFF) << 32 | app_id & 0xFFFFFFFF


def split_gpid(raw: int) -> tuple[int, int]:
    """Return (app_id, partition_index)."""
    return raw & 0xFFFFFFFF, raw >> 32


def make_address(host: str, port: int) -> int:
    """Return the raw number of an IPv4 address and port.

    Raises:
        ValueError: host is not four numbers up to 255, or port is not from 0 to 65535.
    """
    parts = host.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        raise ValueError(f"not an IPv4 address: {host!r}")
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"port {port} is not from 0 to 65535")
    return int.from_bytes(bytes(map(int, parts)), "big") << 32 | port << 16 | 1


def format_address(raw: int) -> str:
    """Return "a.b.c.d:port", or "" for the invalid address."""
    if raw & 3 != 1:
        return ""
    ip = raw >> 32
    return f"{ip >> 24}.{ip >> 16 & 255}.{ip >> 8 & 255}.{ip & 255}:{raw >> 16 & 0xFFFF}"
