"""The meta server's RPCs for table envs, compaction, replica counts and partition splits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...protocol import codes, meta
from ...protocol import rpc as rpcs
from ...protocol.message import Message
from ...protocol.rpc import Rpc
from ..replication.cluster import FREEZED, Cluster
from ..replication.tables import AVAILABLE, DROPPING, Table
from .envs import check_env

SET, DELETE, CLEAR = 1, 2, 3
MIN_REPLICAS, MAX_REPLICAS = 1, 5
# The hints are exactly those of a real server, with its mistakes, because tools show and compare them.
NO_KEY = "no key needs to be deleted"


class Admin:
    """Handlers that return the response to a request."""

    def __init__(self, box: Cluster) -> None:
        """Store the cluster."""
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
        """Return a table that is available; or None and the error for compaction and split."""
        table = self.box.tables.find(name)
        if table is None:
            return None, codes.ERR_APP_NOT_EXIST
        return (table, "") if table.status == AVAILABLE else (None, codes.ERR_APP_DROPPED)

    # ----------------------------------------------------------------------------------------------------------- envs
    def update_envs(self, request: meta.UpdateAppEnvRequest) -> meta.HintResponse:
        """Set, delete or clear envs."""
        if request.op == SET:
            fault = self._fault_in_envs(request)
            if fault is not None:
                return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, fault)
        elif not (request.keys if request.op == DELETE else request.op == CLEAR and request.clear_prefix is not None):
            return meta.HintResponse(codes.ERR_INVALID_PARAMETERS)
        table = self.box.tables.find(request.app_name)
        if table is None:
            return meta.HintResponse(codes.ERR_APP_NOT_EXIST, "app cannot be found")
        if table.status == DROPPING:
            return meta.HintResponse(codes.ERR_BUSY_DROPPING, "app is being dropped")
        if request.op == SET:
            self.box.change_envs(table, dict(zip(request.keys or [], request.values or [])))
            return meta.HintResponse()
        if request.op == DELETE:
            gone = [name for name in request.keys or [] if name in table.envs]
        else:
            prefix = f"{request.clear_prefix}." if request.clear_prefix else ""
            gone = sorted(name for name in table.envs if name.startswith(prefix) and name != prefix)
        self.box.change_envs(table, dict.fromkeys(gone))
        return meta.HintResponse(hint_message="\n    ".join(["deleted keys:", *gone]) if gone else NO_KEY)

    @staticmethod
    def _fault_in_envs(request: meta.UpdateAppEnvRequest) -> str | None:
        keys, values = request.keys or [], request.values or []
        if not keys or len(keys) != len(values):
            return ""
        faults = (check_env(name, value) for name, value in zip(keys, values))
        return next((fault for fault in faults if fault is not None), None)

    # ----------------------------------------------------------------------------------------------------- compaction
    def start_compaction(self, request: meta.StartManualCompactRequest) -> meta.HintResponse:
        """Start to compact the replicas: remove expired rows and rows of other partitions."""
        name = request.app_name
        table, error = self._find(name)
        if table is None:
            return meta.HintResponse(error, _unavailable(name, error))
        if table.envs.get("manual_compact.disabled") == "true":
            return meta.HintResponse(codes.ERR_OPERATION_DISABLED, f"app {name} disable manual compaction")
        level = -1 if request.target_level is None else request.target_level
        if level < -1:
            hint = f"invalid target_level({level}), should in range of [-1, num_levels]"
            return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, hint)
        running = 0 if request.max_running_count is None else request.max_running_count
        if running < 0:
            hint = f"invalid max_running_count({running}), should be greater than 0"
            return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, hint)
        envs: dict[str, str | None] = {"manual_compact.once.target_level": str(level)}
        if running > 0:
            envs["manual_compact.max_concurrent_running_count"] = str(running)
        trigger = int(self.box.clock()) if request.trigger_time is None else request.trigger_time
        envs["manual_compact.once.bottommost_level_compaction"] = "force" if request.bottommost else "skip"
        envs["manual_compact.once.trigger_time"] = str(trigger)
        self.box.change_envs(table, envs)
        self.box.compact(table)
        return meta.HintResponse(hint_message="succeed")

    def query_compaction(self, request: meta.AppNameRequest) -> meta.QueryManualCompactResponse:
        """Return the progress of a compaction."""
        name = request.app_name
        table, error = self._find(name)
        if table is None:
            return meta.QueryManualCompactResponse(error, _unavailable(name, error))
        progress = self.box.compaction_progress(table)
        if progress is None:
            return meta.QueryManualCompactResponse(codes.ERR_INVALID_STATE, f"app {name} is not manual compaction")
        return meta.QueryManualCompactResponse(hint_msg="succeed", progress=progress)

    # ------------------------------------------------------------------------------------------------- replica counts
    def get_replica_count(self, request: meta.AppNameRequest) -> meta.GetMaxReplicaCountResponse:
        """Return the number of replicas that a table should have."""
        table = self.box.tables.find(request.app_name)
        if table is None:
            hint = f"app({request.app_name}) does not exist"
            return meta.GetMaxReplicaCountResponse(err=codes.ERR_APP_NOT_EXIST, hint_message=hint)
        return meta.GetMaxReplicaCountResponse(max_replica_count=table.replica_count)

    def set_replica_count(self, request: meta.SetMaxReplicaCountRequest) -> meta.SetMaxReplicaCountResponse:
        """Change the number of replicas that a table should have; the partitions follow."""
        table, count = self.box.tables.find(request.app_name), request.max_replica_count
        response = meta.SetMaxReplicaCountResponse()
        if table is None:
            response.err = codes.ERR_APP_NOT_EXIST
            response.hint_message = f"app({request.app_name}) does not exist"
            return response
        old = response.old_max_replica_count = table.replica_count
        live = len(self.box.servers) - len(self.box.known_dead)
        if table.status != AVAILABLE:
            response.err = codes.ERR_INVALID_STATE
            response.hint_message = f"app({request.app_name}) is not in available status"
        elif self.box.function_level <= FREEZED or self.box.is_frozen:
            response.err = codes.ERR_STATE_FREEZED
            response.hint_message = "current meta function level is freezed, since there are too few alive nodes"
        elif not MIN_REPLICAS <= count <= MAX_REPLICAS:
            response.err = codes.ERR_INVALID_PARAMETERS
            limits = f"[min={MIN_REPLICAS}, max={MAX_REPLICAS}]"
            response.hint_message = f"requested replica count({count}) must be within the range of {limits}"
        elif count > live:
            response.err = codes.ERR_INVALID_PARAMETERS
            response.hint_message = (
                f"there are not enough alive replica servers({live}) for the requested replica count({count})"
            )
        elif count == old:
            response.hint_message = "no need to update max_replica_count since it's not changed"
        else:
            self.box.change_replica_count(table, count)
        return response

    # ---------------------------------------------------------------------------------------------- atomic idempotent
    def get_atomic_idempotent(self, request: meta.AppNameRequest) -> meta.GetAtomicIdempotentResponse:
        """Return whether atomic writes are made idempotent."""
        table = self.box.tables.find(request.app_name)
        if table is None:
            hint = f"app({request.app_name}) does not exist"
            return meta.GetAtomicIdempotentResponse(err=codes.ERR_APP_NOT_EXIST, hint_message=hint)
        return meta.GetAtomicIdempotentResponse(atomic_idempotent=table.atomic_idempotent)

    def set_atomic_idempotent(self, request: meta.SetAtomicIdempotentRequest) -> meta.SetAtomicIdempotentResponse:
        """Make atomic writes idempotent, or not."""
        table = self.box.tables.find(request.app_name)
        if table is None:
            hint = f"app({request.app_name}) does not exist"
            return meta.SetAtomicIdempotentResponse(err=codes.ERR_APP_NOT_EXIST, hint_message=hint)
        old, table.atomic_idempotent = table.atomic_idempotent, request.atomic_idempotent
        self.box.changed()
        return meta.SetAtomicIdempotentResponse(old_atomic_idempotent=old)

    # ---------------------------------------------------------------------------------------------------------- splits
    def start_split(self, request: meta.StartSplitRequest) -> meta.HintResponse:
        """Start to double a table's partitions."""
        table, error = self._find(request.app_name)
        if table is None:
            return meta.HintResponse(error, f"app {_gone(error)}")
        if request.new_partition_count != table.partition_count * 2:
            hint = f"wrong partition_count, should be {table.partition_count * 2}"
            return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, hint)
        if table.split is not None:
            return meta.HintResponse(codes.ERR_BUSY, f"app({table.name}) is already executing partition split")
        self.box.splits.start(table)
        return meta.HintResponse()

    def query_split(self, request: meta.AppNameRequest) -> meta.QuerySplitResponse:
        """Return the progress of a split."""
        response = meta.QuerySplitResponse()
        table, error = self._find(request.app_name)
        if table is None:
            response.err, response.hint_msg = error, f"app({request.app_name}) {_gone(error)}"
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
            return meta.ControlSplitResponse(error, f"app {_gone(error)}")
        kind, parent, old_count = request.control_type, request.parent_pidx, request.old_partition_count
        return meta.ControlSplitResponse(*self.box.splits.control(table, kind, parent, old_count))


def _gone(error: str) -> str:
    return "not existed" if error == codes.ERR_APP_NOT_EXIST else "dropped"


def _unavailable(name: str, error: str) -> str:
    return f"app {name} is {'not existed' if error == codes.ERR_APP_NOT_EXIST else 'not available'}"
