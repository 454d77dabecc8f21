"""The meta server's RPCs on table envs, compaction, replica counts and partition splits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...protocol import codes, meta
from ...protocol import rpc as rpcs
from ...protocol.message import Message
from ...protocol.rpc import Rpc
from ..replication.cluster import Cluster
from ..replication.tables import AVAILABLE, CREATING, DROPPING, RECALLING, Table
from .envs import check_env

SET, DELETE, CLEAR = 1, 2, 3
MAX_REPLICAS = 5


class Admin:
    """Handlers from request to response."""

    def __init__(self, box: Cluster) -> None:
        """Work on a cluster."""
        self.box = box

    def table(self) -> dict[Rpc, Callable[[Any], Message]]:
        """Return the handlers by RPC."""
        return {
            rpcs.UPDATE_APP_ENV: self.update_envs,
            rpcs.START_MANUAL_COMPACT: self.start_compaction,
            rpcs.QUERY_MANUAL_COMPACT: self.query_compaction,
            rpcs.GET_MAX_REPLICA_COUNT: self.get_replica_count,
            rpcs.SET_MAX_REPLICA_COUNT: self.set_replica_count,
            rpcs.GET_ATOMIC_IDEMPOTENT: self.get_atomic_idempotent,
            rpcs.SET_ATOMIC_IDEMPOTENT: self.set_atomic_idempotent,
            rpcs.START_SPLIT: self.start_split,
            rpcs.QUERY_SPLIT: self.query_split,
            rpcs.CONTROL_SPLIT: self.control_split,
        }

    def _find(self, name: str) -> tuple[Table | None, str]:
        """Return a table, or None and why it is not to be had."""
        table = self.box.tables.find(name)
        if table is None:
            return None, codes.ERR_APP_NOT_EXIST
        if table.status in (CREATING, RECALLING):
            return None, codes.ERR_BUSY_CREATING
        if table.status == DROPPING:
            return None, codes.ERR_BUSY_DROPPING
        return (table, "") if table.status == AVAILABLE else (None, codes.ERR_INVALID_STATE)

    # ----------------------------------------------------------------------------------------------------------- envs
    def update_envs(self, request: meta.UpdateAppEnvRequest) -> meta.HintResponse:
        """Set, delete or clear envs."""
        if request.op == SET:
            fault = self._fault_in_envs(request)
            if fault is not None:
                return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, fault)
        elif request.op == DELETE:
            if not request.keys:
                return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, "there are no keys to delete")
        elif request.op != CLEAR or request.clear_prefix is None:
            return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, "no such operation, or clear without clear_prefix")
        table, error = self._find(request.app_name)
        if table is None:
            return meta.HintResponse(error, f"app({request.app_name}) is not available: {error}")
        if request.op == SET:
            self.box.change_envs(table, dict(zip(request.keys or [], request.values or [])))
            return meta.HintResponse()
        if request.op == DELETE:
            gone = [name for name in request.keys or [] if name in table.envs]
        else:
            prefix = f"{request.clear_prefix}." if request.clear_prefix else ""
            gone = [name for name in table.envs if name.startswith(prefix)]
        self.box.change_envs(table, dict.fromkeys(gone))
        names = ", ".join(sorted(gone))
        return meta.HintResponse(hint_message=f"deleted: {names}" if gone else "there is no such key to delete")

    @staticmethod
    def _fault_in_envs(request: meta.UpdateAppEnvRequest) -> str | None:
        keys, values = request.keys or [], request.values or []
        if not keys or len(keys) != len(values):
            return "keys and values have to be lists of the same length, not empty"
        faults = (check_env(name, value) for name, value in zip(keys, values))
        return next((fault for fault in faults if fault is not None), None)

    # ----------------------------------------------------------------------------------------------------- compaction
    def start_compaction(self, request: meta.StartManualCompactRequest) -> meta.HintResponse:
        """Have the replicas compacted: expired rows and those of other partitions go."""
        table, error = self._find(request.app_name)
        if table is None:
            return meta.HintResponse(error, f"app({request.app_name}) is not available: {error}")
        if table.envs.get("manual_compact.disabled") == "true":
            return meta.HintResponse(codes.ERR_OPERATION_DISABLED, "the env manual_compact.disabled is true")
        level = -1 if request.target_level is None else request.target_level
        running = 0 if request.max_running_count is None else request.max_running_count
        trigger = int(self.box.clock()) if request.trigger_time is None else request.trigger_time
        if level < -1 or running < 0 or trigger < 0:
            return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, "a number is out of range")
        envs = {
            "manual_compact.once.trigger_time": str(trigger),
            "manual_compact.once.target_level": str(level),
            "manual_compact.once.bottommost_level_compaction": "force" if request.bottommost else "skip",
        }
        self.box.change_envs(table, envs)
        self.box.compact(table)
        return meta.HintResponse()

    def query_compaction(self, request: meta.AppNameRequest) -> meta.QueryManualCompactResponse:
        """Tell how far a compaction is; here it is over as soon as it began."""
        table, error = self._find(request.app_name)
        if table is None:
            return meta.QueryManualCompactResponse(error, f"app({request.app_name}) is not available: {error}")
        return meta.QueryManualCompactResponse(progress=100 if table.compacted else 0)

    # ------------------------------------------------------------------------------------------------- replica counts
    def get_replica_count(self, request: meta.AppNameRequest) -> meta.GetMaxReplicaCountResponse:
        """Tell how many replicas a table wants."""
        table, error = self._find(request.app_name)
        if table is None:
            return meta.GetMaxReplicaCountResponse(err=error, hint_message=f"app({request.app_name}): {error}")
        return meta.GetMaxReplicaCountResponse(max_replica_count=table.replica_count)

    def set_replica_count(self, request: meta.SetMaxReplicaCountRequest) -> meta.SetMaxReplicaCountResponse:
        """Change how many replicas a table wants; the partitions follow."""
        table, error = self._find(request.app_name)
        if table is None:
            return meta.SetMaxReplicaCountResponse(err=error, hint_message=f"app({request.app_name}): {error}")
        old, live = table.replica_count, len(self.box.servers) - len(self.box.known_dead)
        response = meta.SetMaxReplicaCountResponse(old_max_replica_count=old)
        if not 1 <= request.max_replica_count <= min(MAX_REPLICAS, live):
            response.err = codes.ERR_INVALID_PARAMETERS
            response.hint_message = f"{request.max_replica_count} replicas are not possible with {live} live servers"
            return response
        self.box.change_replica_count(table, request.max_replica_count)
        return response

    # ---------------------------------------------------------------------------------------------- atomic idempotent
    def get_atomic_idempotent(self, request: meta.AppNameRequest) -> meta.GetAtomicIdempotentResponse:
        """Tell whether atomic writes are made idempotent."""
        table, error = self._find(request.app_name)
        if table is None:
            return meta.GetAtomicIdempotentResponse(err=error, hint_message=f"app({request.app_name}): {error}")
        return meta.GetAtomicIdempotentResponse(atomic_idempotent=table.atomic_idempotent)

    def set_atomic_idempotent(self, request: meta.SetAtomicIdempotentRequest) -> meta.SetAtomicIdempotentResponse:
        """Have atomic writes made idempotent, or not any more."""
        table, error = self._find(request.app_name)
        if table is None:
            return meta.SetAtomicIdempotentResponse(err=error, hint_message=f"app({request.app_name}): {error}")
        old, table.atomic_idempotent = table.atomic_idempotent, request.atomic_idempotent
        return meta.SetAtomicIdempotentResponse(old_atomic_idempotent=old)

    # ---------------------------------------------------------------------------------------------------------- splits
    def start_split(self, request: meta.StartSplitRequest) -> meta.HintResponse:
        """Begin to double a table's partitions."""
        table, error = self._find(request.app_name)
        if table is None:
            return meta.HintResponse(error, f"app({request.app_name}) is not available: {error}")
        if request.new_partition_count != table.partition_count * 2:
            hint = f"partition count is {table.partition_count}, twice that is the only new count possible"
            return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, hint)
        if table.split is not None:
            return meta.HintResponse(codes.ERR_BUSY, "the app is splitting already")
        self.box.splits.start(table)
        return meta.HintResponse()

    def query_split(self, request: meta.AppNameRequest) -> meta.QuerySplitResponse:
        """Tell how a split goes."""
        response = meta.QuerySplitResponse(hint_msg="")
        table, error = self._find(request.app_name)
        if table is None:
            response.err, response.hint_msg = error, f"app({request.app_name}) is not available: {error}"
        elif table.split is None:
            response.err, response.hint_msg = codes.ERR_INVALID_STATE, f"app({request.app_name}) is not splitting"
        else:
            response.new_partition_count = table.partition_count
            response.status = dict(sorted(table.split.status.items()))
        return response

    def control_split(self, request: meta.ControlSplitRequest) -> meta.ControlSplitResponse:
        """Pause, restart or cancel a split."""
        table, error = self._find(request.app_name)
        if table is None:
            return meta.ControlSplitResponse(error, f"app({request.app_name}) is not available: {error}")
        if table.split is None:
            return meta.ControlSplitResponse(codes.ERR_INVALID_STATE, f"app({request.app_name}) is not splitting")
        error = self.box.splits.control(table, request.control_type, request.parent_pidx, request.old_partition_count)
        return meta.ControlSplitResponse(error, "")
