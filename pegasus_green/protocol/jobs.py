"""The structs of long administrative jobs: bulk load, backup, and the search for hot keys.

They come from ``idl/bulk_load.thrift``, ``backup.thrift`` and ``replica_admin.thrift`` of Pegasus.
"""

from __future__ import annotations

from .binary import ADDRESS_TYPE, HOST_PORT_TYPE, I32_TYPE, MapOf
from .message import Message, StructOf, boolean, error_name, gpid, i32, i64, list_of, text


class ReplicaBulkLoad(Message):
    """The progress of the bulk load of one replica."""

    download_progress: int | None = i32(1, optional=True)
    download_status: str | None = error_name(2, optional=True, default=None)
    ingest_status: int | None = i32(3, optional=True)
    is_cleaned_up: bool | None = boolean(4, optional=True)
    is_paused: bool | None = boolean(5, optional=True)


class QueryBulkLoadResponse(Message):
    """The progress of the bulk load of a table: its status, that of each partition, and of each replica by server."""

    err: str = error_name(1)
    app_name: str = text(2)
    app_status: int = i32(3)
    partitions_status: list[int] = list_of(4, I32_TYPE)
    max_replica_count: int = i32(5)
    bulk_load_states: list[dict[int, ReplicaBulkLoad]] = list_of(6, MapOf(ADDRESS_TYPE, StructOf(ReplicaBulkLoad)))
    hint_msg: str | None = text(7, optional=True)
    is_bulk_loading: bool | None = boolean(8, optional=True)
    hp_bulk_load_states: list[dict[str, ReplicaBulkLoad]] | None = list_of(
        9, MapOf(HOST_PORT_TYPE, StructOf(ReplicaBulkLoad)), optional=True
    )


class QueryBackupStatusRequest(Message):
    """Asks for the backups of a table, or for one of them."""

    app_id: int = i32(1)
    backup_id: int | None = i64(2, optional=True)


class BackupItem(Message):
    """One backup of a table; times in milliseconds."""

    backup_id: int = i64(1)
    app_name: str = text(2)
    backup_provider_type: str = text(3)
    backup_path: str = text(4)
    start_time_ms: int = i64(5)
    end_time_ms: int = i64(6)
    is_backup_failed: bool = boolean(7)


class QueryBackupStatusResponse(Message):
    """The backups of a table."""

    err: str = error_name(1)
    hint_message: str = text(2)
    backup_items: list[BackupItem] | None = list_of(3, BackupItem, optional=True)


class DetectHotkeyRequest(Message):
    """Starts or stops the search for a hot key at the primary of a partition, or asks for its result."""

    type: int = i32(1)
    action: int = i32(2)
    pid: int = gpid(3)


class DetectHotkeyResponse(Message):
    """The outcome; the result is the hash key."""

    err: str = error_name(1)
    err_hint: str | None = text(2, optional=True)
    hotkey_result: str | None = text(3, optional=True)
