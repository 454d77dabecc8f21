"""Long administrative jobs: there is never a bulk load, a backup service or a hot key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...protocol import codes, jobs, meta
from ...protocol import rpc as rpcs
from ...protocol.message import Message
from ...protocol.rpc import Rpc
from ..replication.cluster import Cluster
from ..replication.node import Node
from ..replication.replica import PRIMARY

START, STOP = 0, 1


class Jobs:
    """Handlers of the meta servers that return the response to a request."""

    def __init__(self, box: Cluster) -> None:
        """Store the cluster."""
        self.box = box

    def table(self) -> dict[Rpc, Callable[[Any], Message]]:
        """Return the handlers by RPC."""
        return {rpcs.QUERY_BULK_LOAD: self.bulk_load, rpcs.QUERY_BACKUP: self.backup}

    def bulk_load(self, request: meta.AppNameRequest) -> jobs.QueryBulkLoadResponse:
        """Answer that no bulk load runs: all partitions have status 0."""
        table = self.box.tables.find(request.app_name)
        if table is None:
            return jobs.QueryBulkLoadResponse(err=codes.ERR_APP_NOT_EXIST, hint_msg="there is no such table")
        return jobs.QueryBulkLoadResponse(
            app_name=request.app_name,
            partitions_status=[0] * table.partition_count,
            max_replica_count=table.replica_count,
            is_bulk_loading=False,
        )

    def backup(self, request: jobs.QueryBackupStatusRequest) -> jobs.QueryBackupStatusResponse:
        """Answer that the backup service is off, as in a cluster without its configuration."""
        del request
        return jobs.QueryBackupStatusResponse(err=codes.ERR_SERVICE_NOT_ACTIVE, hint_message="no backup service")


def detect_hotkey(
    server: Node, searches: set[tuple[int, int]], request: jobs.DetectHotkeyRequest
) -> jobs.DetectHotkeyResponse:
    """Start, stop or query a search on a replica. It never finds a key."""
    replica = server.replicas.get(meta.split_gpid(request.pid))
    if replica is None or replica.role is not PRIMARY:
        return jobs.DetectHotkeyResponse(codes.ERR_OBJECT_NOT_FOUND, "there is no such primary here")
    search = (request.pid, request.type)
    if request.action == START:
        if search in searches:
            return jobs.DetectHotkeyResponse(codes.ERR_INVALID_STATE, "the search runs already")
        searches.add(search)
        return jobs.DetectHotkeyResponse()
    if request.action == STOP:
        searches.discard(search)
        return jobs.DetectHotkeyResponse()
    state = "the search runs" if search in searches else "no search runs"
    return jobs.DetectHotkeyResponse(codes.ERR_BUSY, f"nothing found yet: {state}")
