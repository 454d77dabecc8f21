"""The disks of a replica server: one disk, that of the machine, with the server's replicas."""

from __future__ import annotations

import shutil
import tempfile

from ...protocol import codes, meta, remote
from ..replication.cluster import Cluster
from ..replication.node import Node
from ..replication.replica import PRIMARY, SECONDARY

MB = 1024 * 1024
TAG = "onebox"


def disk_info(box: Cluster, server: Node, request: remote.QueryDiskInfoRequest) -> remote.QueryDiskInfoResponse:
    """Return the disk, with the replicas of all tables or of the named one."""
    app_id = 0
    if request.app_name:
        table = box.tables.find(request.app_name)
        if table is None or not any(replica.table is table for replica in server.replicas.values()):
            return remote.QueryDiskInfoResponse(err=codes.ERR_OBJECT_NOT_FOUND)
        app_id = table.app_id
    folder = box.data_folder or tempfile.gettempdir()
    usage = shutil.disk_usage(folder)
    info = remote.DiskInfo(TAG, str(folder), usage.total // MB, usage.free // MB)
    for (replica_app, index), replica in server.replicas.items():
        if app_id in (0, replica_app):
            if replica.role is PRIMARY:
                info.holding_primary_replicas.setdefault(replica_app, []).append(meta.make_gpid(replica_app, index))
            elif replica.role is SECONDARY:
                info.holding_secondary_replicas.setdefault(replica_app, []).append(meta.make_gpid(replica_app, index))
    return remote.QueryDiskInfoResponse(
        total_capacity_mb=info.disk_capacity_mb, total_available_mb=info.disk_available_mb, disk_infos=[info]
    )
