"""The structs of administrative RPCs to single servers: remote commands, disks, proposals, diagnosis.

They come from ``idl/command.thrift``, ``replica_admin.thrift`` and ``meta_admin.thrift`` of Pegasus.
"""

from __future__ import annotations

from .binary import GPID_TYPE, I32_TYPE, TEXT_TYPE, SetOf
from .message import Message, address, boolean, error_name, gpid, host_port, i32, i64, list_of, map_of, struct, text
from .meta import PartitionConfiguration


class CommandRequest(Message):
    """A remote command: its name and its arguments."""

    cmd: str = text(1)
    arguments: list[str] = list_of(2, TEXT_TYPE)


class CommandReply(Message):
    """The output of a command. It is the reply's result struct itself, not a field of it."""

    success: str = text(0)


class QueryDiskInfoRequest(Message):
    """Asks a replica server for its disks. With a name, only for the replicas of that table. ``node`` is unused."""

    node: int = address(1)
    app_name: str = text(2)
    hp_node: str | None = host_port(3)


class DiskInfo(Message):
    """One data directory of a replica server, with its replicas (sets of gpids by app id)."""

    tag: str = text(1)
    full_dir: str = text(2)
    disk_capacity_mb: int = i64(3)
    disk_available_mb: int = i64(4)
    holding_primary_replicas: dict[int, list[int]] = map_of(5, I32_TYPE, SetOf(GPID_TYPE))
    holding_secondary_replicas: dict[int, list[int]] = map_of(6, I32_TYPE, SetOf(GPID_TYPE))


class QueryDiskInfoResponse(Message):
    """The disks of a replica server; ERR_OBJECT_NOT_FOUND: it has no replica of that table."""

    err: str = error_name(1)
    total_capacity_mb: int = i64(2)
    total_available_mb: int = i64(3)
    disk_infos: list[DiskInfo] = list_of(4, DiskInfo)


class ProposalAction(Message):
    """One step of a proposal: ``target`` applies ``type`` to ``node``. An empty target means the primary."""

    target: int = address(1)
    node: int = address(2)
    type: int = i32(3)
    hp_target: str | None = host_port(5)
    hp_node: str | None = host_port(6)


class BalancerRequest(Message):
    """Proposes steps for one partition."""

    gpid: int = gpid(1)
    action_list: list[ProposalAction] = list_of(2, ProposalAction)
    force: bool | None = boolean(3, optional=True, default=False)
    balance_type: int | None = i32(4, optional=True)


class BalancerResponse(Message):
    """Whether a proposal was accepted; the steps are done later."""

    err: str = error_name(1)


class DiagnoseRequest(Message):
    """Asks for partitions that have lost all replicas; app id -1: of all tables, index -1: of the whole table."""

    pid: int = gpid(1)


class DroppedNode(Message):
    """A server that may hold the newest copy of such a partition."""

    node: int = address(1)
    drop_time_ms: int = i64(2)
    is_alive: bool = boolean(3)
    is_collected: bool = boolean(4)
    ballot: int = i64(5)
    last_committed_decree: int = i64(6)
    last_prepared_decree: int = i64(7)
    hp_node: str | None = host_port(8)


class LostPartition(Message):
    """A partition that has lost all its replicas."""

    config: PartitionConfiguration = struct(1, PartitionConfiguration)
    dropped: list[DroppedNode] = list_of(2, DroppedNode)
    reason: str = text(3)


class DiagnoseResponse(Message):
    """The partitions that have lost all their replicas."""

    err: str = error_name(1)
    partitions: list[LostPartition] = list_of(2, LostPartition)
