"""The messages of Pegasus as a table of its own, and a Thrift writer and reader that know only this table.

Written down from the protocol's description, not from the package's declarations: what the two do not agree on is a
mistake in one of them. ``?`` marks optional fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TType
from thrift.transport.TTransport import TMemoryBuffer

from pegasus_green.protocol import framing, jobs, meta, remote, rrdb
from pegasus_green.protocol.message import Message

RRDB = {
    "KeyValue": "1 key blob, 2 value blob, 3 expire_ts_seconds i32?",
    "FullKey": "1 hash_key blob, 2 sort_key blob",
    "FullData": "1 hash_key blob, 2 sort_key blob, 3 value blob",
    "Mutate": "1 operation i32, 2 sort_key blob, 3 value blob, 4 set_expire_ts_seconds i32",
    "UpdateRequest": (
        "1 key blob, 2 value blob, 3 expire_ts_seconds i32, 4 type i32?, 5 check_value_returned bool?, "
        "6 check_value_exist bool?, 7 check_value blob?"
    ),
    "MultiPutRequest": "1 hash_key blob, 2 kvs list:KeyValue, 3 expire_ts_seconds i32",
    "MultiRemoveRequest": "1 hash_key blob, 2 sort_keys list:blob, 3 max_count i64",
    "MultiGetRequest": (
        "1 hash_key blob, 2 sort_keys list:blob, 3 max_kv_count i32, 4 max_kv_size i32, 5 no_value bool, "
        "6 start_sortkey blob, 7 stop_sortkey blob, 8 start_inclusive bool, 9 stop_inclusive bool, "
        "10 sort_key_filter_type i32, 11 sort_key_filter_pattern blob, 12 reverse bool"
    ),
    "BatchGetRequest": "1 keys list:FullKey",
    "IncrRequest": "1 key blob, 2 increment i64, 3 expire_ts_seconds i32",
    "CheckAndSetRequest": (
        "1 hash_key blob, 2 check_sort_key blob, 3 check_type i32, 4 check_operand blob, 5 set_diff_sort_key bool, "
        "6 set_sort_key blob, 7 set_value blob, 8 set_expire_ts_seconds i32, 9 return_check_value bool"
    ),
    "CheckAndMutateRequest": (
        "1 hash_key blob, 2 check_sort_key blob, 3 check_type i32, 4 check_operand blob, 5 mutate_list list:Mutate, "
        "6 return_check_value bool"
    ),
    "GetScannerRequest": (
        "1 start_key blob, 2 stop_key blob, 3 start_inclusive bool, 4 stop_inclusive bool, 5 batch_size i32, "
        "6 no_value bool, 7 hash_key_filter_type i32, 8 hash_key_filter_pattern blob, 9 sort_key_filter_type i32, "
        "10 sort_key_filter_pattern blob, 11 validate_partition_hash bool?, 12 return_expire_ts bool?, "
        "13 full_scan bool?, 14 only_return_count bool?"
    ),
    "ScanRequest": "1 context_id i64",
    "UpdateResponse": "1 error i32, 2 app_id i32, 3 partition_index i32, 4 decree i64, 5 server string",
    "ReadResponse": "1 error i32, 2 value blob, 3 app_id i32, 4 partition_index i32, 6 server string",
    "TtlResponse": "1 error i32, 2 ttl_seconds i32, 3 app_id i32, 4 partition_index i32, 6 server string",
    "CountResponse": "1 error i32, 2 count i64, 3 app_id i32, 4 partition_index i32, 6 server string",
    "MultiRemoveResponse": (
        "1 error i32, 2 count i64, 3 app_id i32, 4 partition_index i32, 5 decree i64, 6 server string"
    ),
    "MultiGetResponse": "1 error i32, 2 kvs list:KeyValue, 3 app_id i32, 4 partition_index i32, 6 server string",
    "BatchGetResponse": "1 error i32, 2 data list:FullData, 3 app_id i32, 4 partition_index i32, 6 server string",
    "IncrResponse": "1 error i32, 2 new_value i64, 3 app_id i32, 4 partition_index i32, 5 decree i64, 6 server string",
    "CheckAndSetResponse": (
        "1 error i32, 2 check_value_returned bool, 3 check_value_exist bool, 4 check_value blob, 5 app_id i32, "
        "6 partition_index i32, 7 decree i64, 8 server string"
    ),
    "CheckAndMutateResponse": (
        "1 error i32, 2 check_value_returned bool, 3 check_value_exist bool, 4 check_value blob, 5 app_id i32, "
        "6 partition_index i32, 7 decree i64, 8 server string"
    ),
    "ScanResponse": (
        "1 error i32, 2 kvs list:KeyValue, 3 context_id i64, 4 app_id i32, 5 partition_index i32, 6 server string, "
        "7 kv_count i32?"
    ),
}

META = {
    "PartitionConfiguration": (
        "1 pid gpid, 2 ballot i64, 3 max_replica_count i32, 4 primary address, 5 secondaries list:address, "
        "6 last_drops list:address, 7 last_committed_decree i64, 8 partition_flags i32, 9 hp_primary host_port?, "
        "10 hp_secondaries list:host_port?, 11 hp_last_drops list:host_port?"
    ),
    "QueryCfgRequest": "1 app_name string, 2 partition_indices list:i32",
    "QueryCfgResponse": (
        "1 err error, 2 app_id i32, 3 partition_count i32, 4 is_stateful bool, 5 partitions list:PartitionConfiguration"
    ),
    "AppInfo": (
        "1 status i32, 2 app_type string, 3 app_name string, 4 app_id i32, 5 partition_count i32, "
        "6 envs map:string:string, 7 is_stateful bool, 8 max_replica_count i32, 9 expire_second i64, "
        "10 create_second i64, 11 drop_second i64, 12 duplicating bool?, 13 init_partition_count i32, "
        "14 is_bulk_loading bool?, 15 atomic_idempotent bool?"
    ),
    "CreateAppOptions": (
        "1 partition_count i32, 2 replica_count i32, 3 success_if_exist bool, 4 app_type string, 5 is_stateful bool, "
        "6 envs map:string:string, 7 atomic_idempotent bool?"
    ),
    "CreateAppRequest": "1 app_name string, 2 options CreateAppOptions",
    "CreateAppResponse": "1 err error, 2 appid i32",
    "DropAppOptions": "1 success_if_not_exist bool, 2 reserve_seconds i64?",
    "DropAppRequest": "1 app_name string, 2 options DropAppOptions",
    "DropAppResponse": "1 err error",
    "RenameAppRequest": "1 old_app_name string, 2 new_app_name string",
    "HintResponse": "1 err error, 2 hint_message string",
    "RecallAppRequest": "1 app_id i32, 2 new_app_name string",
    "RecallAppResponse": "1 err error, 2 info AppInfo",
    "ListAppsRequest": "1 status i32, 2 app_name_pattern string?, 3 match_type i32?",
    "ListAppsResponse": "1 err error, 2 infos list:AppInfo, 3 hint_message string?",
    "NodeInfo": "1 status i32, 2 node address, 3 hp_node host_port?",
    "ListNodesRequest": "1 status i32",
    "ListNodesResponse": "1 err error, 2 infos list:NodeInfo",
    "ClusterInfoRequest": "",
    "ClusterInfoResponse": "1 err error, 2 keys list:string, 3 values list:string",
    "UpdateAppEnvRequest": (
        "1 app_name string, 2 op i32, 3 keys list:string?, 4 values list:string?, 5 clear_prefix string?"
    ),
    "StartManualCompactRequest": (
        "1 app_name string, 2 trigger_time i64?, 3 target_level i32?, 4 bottommost bool?, 5 max_running_count i32?"
    ),
    "AppNameRequest": "1 app_name string",
    "QueryManualCompactResponse": "1 err error, 2 hint_msg string, 3 progress i32?",
    "MetaControlRequest": "1 level i32",
    "MetaControlResponse": "1 err error, 2 old_level i32",
    "GetMaxReplicaCountResponse": "1 err error, 2 max_replica_count i32, 3 hint_message string",
    "SetMaxReplicaCountRequest": "1 app_name string, 2 max_replica_count i32",
    "SetMaxReplicaCountResponse": "1 err error, 2 old_max_replica_count i32, 3 hint_message string",
    "GetAtomicIdempotentResponse": "1 err error, 2 atomic_idempotent bool, 3 hint_message string",
    "SetAtomicIdempotentRequest": "1 app_name string, 2 atomic_idempotent bool",
    "SetAtomicIdempotentResponse": "1 err error, 2 old_atomic_idempotent bool, 3 hint_message string",
    "StartSplitRequest": "1 app_name string, 2 new_partition_count i32",
    "QuerySplitResponse": "1 err error, 2 new_partition_count i32, 3 status map:i32:i32, 4 hint_msg string?",
    "ControlSplitRequest": "1 app_name string, 2 control_type i32, 3 parent_pidx i32, 4 old_partition_count i32?",
    "ControlSplitResponse": "1 err error, 2 hint_msg string?",
    "Negotiation": "1 status i32, 2 msg blob",
}

REMOTE = {
    "CommandRequest": "1 cmd string, 2 arguments list:string",
    "CommandReply": "0 success string",
    "QueryDiskInfoRequest": "1 node address, 2 app_name string, 3 hp_node host_port?",
    "DiskInfo": (
        "1 tag string, 2 full_dir string, 3 disk_capacity_mb i64, 4 disk_available_mb i64, "
        "5 holding_primary_replicas map:i32:set:gpid, 6 holding_secondary_replicas map:i32:set:gpid"
    ),
    "QueryDiskInfoResponse": (
        "1 err error, 2 total_capacity_mb i64, 3 total_available_mb i64, 4 disk_infos list:DiskInfo"
    ),
    "ProposalAction": "1 target address, 2 node address, 3 type i32, 5 hp_target host_port?, 6 hp_node host_port?",
    "BalancerRequest": "1 gpid gpid, 2 action_list list:ProposalAction, 3 force bool?, 4 balance_type i32?",
    "BalancerResponse": "1 err error",
    "DiagnoseRequest": "1 pid gpid",
    "DroppedNode": (
        "1 node address, 2 drop_time_ms i64, 3 is_alive bool, 4 is_collected bool, 5 ballot i64, "
        "6 last_committed_decree i64, 7 last_prepared_decree i64, 8 hp_node host_port?"
    ),
    "LostPartition": "1 config PartitionConfiguration, 2 dropped list:DroppedNode, 3 reason string",
    "DiagnoseResponse": "1 err error, 2 partitions list:LostPartition",
}

JOBS = {
    "ReplicaBulkLoad": (
        "1 download_progress i32?, 2 download_status error?, 3 ingest_status i32?, 4 is_cleaned_up bool?, "
        "5 is_paused bool?"
    ),
    "QueryBulkLoadResponse": (
        "1 err error, 2 app_name string, 3 app_status i32, 4 partitions_status list:i32, 5 max_replica_count i32, "
        "6 bulk_load_states list:map:address:ReplicaBulkLoad, 7 hint_msg string?, 8 is_bulk_loading bool?, "
        "9 hp_bulk_load_states list:map:host_port:ReplicaBulkLoad?"
    ),
    "QueryBackupStatusRequest": "1 app_id i32, 2 backup_id i64?",
    "BackupItem": (
        "1 backup_id i64, 2 app_name string, 3 backup_provider_type string, 4 backup_path string, "
        "5 start_time_ms i64, 6 end_time_ms i64, 7 is_backup_failed bool"
    ),
    "QueryBackupStatusResponse": "1 err error, 2 hint_message string, 3 backup_items list:BackupItem?",
    "DetectHotkeyRequest": "1 type i32, 2 action i32, 3 pid gpid",
    "DetectHotkeyResponse": "1 err error, 2 err_hint string?, 3 hotkey_result string?",
}

FRAMING = {
    "RequestMeta": (
        "1 app_id i32, 2 partition_index i32, 3 client_timeout i32, 4 partition_hash i64, 5 is_backup_request bool"
    ),
}

# Every RPC's argument and response as the protocol lists them; "-": no answer ever.
RPCS = {
    "RPC_RRDB_RRDB_GET": "blob ReadResponse",
    "RPC_RRDB_RRDB_TTL": "blob TtlResponse",
    "RPC_RRDB_RRDB_MULTI_GET": "MultiGetRequest MultiGetResponse",
    "RPC_RRDB_RRDB_BATCH_GET": "BatchGetRequest BatchGetResponse",
    "RPC_RRDB_RRDB_SORTKEY_COUNT": "blob CountResponse",
    "RPC_RRDB_RRDB_GET_SCANNER": "GetScannerRequest ScanResponse",
    "RPC_RRDB_RRDB_SCAN": "ScanRequest ScanResponse",
    "RPC_RRDB_RRDB_CLEAR_SCANNER": "i64 -",
    "RPC_RRDB_RRDB_PUT": "UpdateRequest UpdateResponse",
    "RPC_RRDB_RRDB_REMOVE": "blob UpdateResponse",
    "RPC_RRDB_RRDB_MULTI_PUT": "MultiPutRequest UpdateResponse",
    "RPC_RRDB_RRDB_MULTI_REMOVE": "MultiRemoveRequest MultiRemoveResponse",
    "RPC_RRDB_RRDB_INCR": "IncrRequest IncrResponse",
    "RPC_RRDB_RRDB_CHECK_AND_SET": "CheckAndSetRequest CheckAndSetResponse",
    "RPC_RRDB_RRDB_CHECK_AND_MUTATE": "CheckAndMutateRequest CheckAndMutateResponse",
    "RPC_CM_QUERY_PARTITION_CONFIG_BY_INDEX": "QueryCfgRequest QueryCfgResponse",
    "RPC_CM_CREATE_APP": "CreateAppRequest CreateAppResponse",
    "RPC_CM_DROP_APP": "DropAppRequest DropAppResponse",
    "RPC_CM_RECALL_APP": "RecallAppRequest RecallAppResponse",
    "RPC_CM_RENAME_APP": "RenameAppRequest HintResponse",
    "RPC_CM_LIST_APPS": "ListAppsRequest ListAppsResponse",
    "RPC_CM_LIST_NODES": "ListNodesRequest ListNodesResponse",
    "RPC_CM_CLUSTER_INFO": "ClusterInfoRequest ClusterInfoResponse",
    "RPC_CM_UPDATE_APP_ENV": "UpdateAppEnvRequest HintResponse",
    "RPC_CM_START_MANUAL_COMPACT": "StartManualCompactRequest HintResponse",
    "RPC_CM_QUERY_MANUAL_COMPACT_STATUS": "AppNameRequest QueryManualCompactResponse",
    "RPC_CM_CONTROL_META": "MetaControlRequest MetaControlResponse",
    "RPC_CM_GET_MAX_REPLICA_COUNT": "AppNameRequest GetMaxReplicaCountResponse",
    "RPC_CM_SET_MAX_REPLICA_COUNT": "SetMaxReplicaCountRequest SetMaxReplicaCountResponse",
    "RPC_CM_GET_ATOMIC_IDEMPOTENT": "AppNameRequest GetAtomicIdempotentResponse",
    "RPC_CM_SET_ATOMIC_IDEMPOTENT": "SetAtomicIdempotentRequest SetAtomicIdempotentResponse",
    "RPC_CM_START_PARTITION_SPLIT": "StartSplitRequest HintResponse",
    "RPC_CM_QUERY_PARTITION_SPLIT": "AppNameRequest QuerySplitResponse",
    "RPC_CM_CONTROL_PARTITION_SPLIT": "ControlSplitRequest ControlSplitResponse",
    "RPC_CM_PROPOSE_BALANCER": "BalancerRequest BalancerResponse",
    "RPC_CM_DDD_DIAGNOSE": "DiagnoseRequest DiagnoseResponse",
    "RPC_CLI_CLI_CALL": "CommandRequest CommandReply",
    "RPC_QUERY_DISK_INFO": "QueryDiskInfoRequest QueryDiskInfoResponse",
    "RPC_CM_QUERY_BULK_LOAD_STATUS": "AppNameRequest QueryBulkLoadResponse",
    "RPC_CM_QUERY_BACKUP_STATUS": "QueryBackupStatusRequest QueryBackupStatusResponse",
    "RPC_DETECT_HOTKEY": "DetectHotkeyRequest DetectHotkeyResponse",
    "RPC_NEGOTIATION": "Negotiation Negotiation",
}

WRITES = {"PUT", "REMOVE", "MULTI_PUT", "MULTI_REMOVE", "INCR", "CHECK_AND_SET", "CHECK_AND_MUTATE"}
NOT_IDEMPOTENT = {"INCR", "CHECK_AND_SET", "CHECK_AND_MUTATE"}

# Type: (a field of the struct's table) -> (id, name, type, optional).
FieldRow = tuple[int, str, str, bool]


def _rows(text: str) -> list[FieldRow]:
    rows = []
    for part in filter(None, text.split(", ")):
        number, name, kind = part.split(" ")
        rows.append((int(number), name, kind.rstrip("?"), kind.endswith("?")))
    return rows


STRUCTS: dict[str, list[FieldRow]] = {
    name: _rows(text) for name, text in (RRDB | META | REMOTE | JOBS | FRAMING).items()
}
CLASSES: dict[str, type[Message]] = {
    name: getattr(module, name)
    for table, module in ((RRDB, rrdb), (META, meta), (REMOTE, remote), (JOBS, jobs), (FRAMING, framing))
    for name in table
}

# Types that Pegasus encodes by hand under the type byte of a struct.
BARE = ("blob", "error", "gpid", "address", "host_port")
_CODES = {"bool": TType.BOOL, "i32": TType.I32, "i64": TType.I64, "string": TType.STRING} | dict.fromkeys(
    BARE, TType.STRUCT
)


def type_code(kind: str) -> int:
    """Return the type byte."""
    if kind.startswith("list:"):
        return int(TType.LIST)
    if kind.startswith("set:"):
        return int(TType.SET)
    if kind.startswith("map:"):
        return int(TType.MAP)
    return int(_CODES.get(kind, TType.STRUCT))


# -------------------------------------------------------------------------------------------------------------- writing
def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _write_host_port(protocol: Any, value: str) -> None:
    host, _, port = value.rpartition(":")
    number = int(port or 0)
    protocol.writeString(host)
    protocol.writeI16(number - 65536 if number >= 32768 else number)
    protocol.writeByte(1 if host else 0)


_WRITERS: dict[str, Callable[[Any, Any], None]] = {
    "bool": lambda protocol, value: protocol.writeBool(value),
    "i32": lambda protocol, value: protocol.writeI32(value),
    "i64": lambda protocol, value: protocol.writeI64(value),
    "string": lambda protocol, value: protocol.writeString(value),
    "error": lambda protocol, value: protocol.writeString(value),
    "blob": lambda protocol, value: protocol.writeBinary(value),
    "gpid": lambda protocol, value: protocol.writeI64(_signed(value)),
    "address": lambda protocol, value: protocol.writeI64(_signed(value)),
    "host_port": _write_host_port,
}


def write(protocol: Any, kind: str, value: Any) -> None:
    """Write a value. Structs are dicts by field name; missing fields are not written."""
    if kind in _WRITERS:
        _WRITERS[kind](protocol, value)
    elif kind.startswith("list:"):
        element = kind[5:]
        protocol.writeListBegin(type_code(element), len(value))
        for item in value:
            write(protocol, element, item)
        protocol.writeListEnd()
    elif kind.startswith("set:"):
        protocol.writeSetBegin(type_code(kind[4:]), len(value))
        for item in value:
            write(protocol, kind[4:], item)
        protocol.writeSetEnd()
    elif kind.startswith("map:"):
        _, key, item_kind = kind.split(":", 2)
        protocol.writeMapBegin(type_code(key), type_code(item_kind), len(value))
        for name, item in value.items():
            write(protocol, key, name)
            write(protocol, item_kind, item)
        protocol.writeMapEnd()
    else:
        protocol.writeStructBegin(kind)
        for number, name, field_kind, _ in STRUCTS[kind]:
            if name in value:
                protocol.writeFieldBegin(name, type_code(field_kind), number)
                write(protocol, field_kind, value[name])
                protocol.writeFieldEnd()
        protocol.writeFieldStop()
        protocol.writeStructEnd()


def thrift_bytes(act: Callable[[Any], None]) -> bytes:
    """Return what act writes to a TBinaryProtocol."""
    buffer = TMemoryBuffer()
    act(TBinaryProtocol(buffer))
    return bytes(buffer.getvalue())


def encode(kind: str, value: Any) -> bytes:
    """Return a value as Apache Thrift writes it by this table."""
    return thrift_bytes(lambda protocol: write(protocol, kind, value))


# -------------------------------------------------------------------------------------------------------------- reading
def _read_host_port(protocol: Any) -> str:
    host, port, kind = protocol.readString(), protocol.readI16() & 0xFFFF, protocol.readByte()
    return f"{host}:{port}" if kind else ""


_READERS: dict[str, Callable[[Any], Any]] = {
    "bool": lambda protocol: protocol.readBool(),
    "i32": lambda protocol: protocol.readI32(),
    "i64": lambda protocol: protocol.readI64(),
    "string": lambda protocol: protocol.readString(),
    "error": lambda protocol: protocol.readString(),
    "blob": lambda protocol: protocol.readBinary(),
    "gpid": lambda protocol: protocol.readI64() & (1 << 64) - 1,
    "address": lambda protocol: protocol.readI64() & (1 << 64) - 1,
    "host_port": _read_host_port,
}


def read(protocol: Any, kind: str) -> Any:
    """Read a value that ``write`` has written, and check every type byte."""
    if kind in _READERS:
        return _READERS[kind](protocol)
    if kind.startswith("list:"):
        code, count = protocol.readListBegin()
        assert code == type_code(kind[5:])
        return [read(protocol, kind[5:]) for _ in range(count)]
    if kind.startswith("set:"):
        code, count = protocol.readSetBegin()
        assert code == type_code(kind[4:])
        return [read(protocol, kind[4:]) for _ in range(count)]
    if kind.startswith("map:"):
        _, key, item = kind.split(":", 2)
        key_code, item_code, count = protocol.readMapBegin()
        assert (key_code, item_code) == (type_code(key), type_code(item))
        return {read(protocol, key): read(protocol, item) for _ in range(count)}
    rows = {number: (name, field_kind) for number, name, field_kind, _ in STRUCTS[kind]}
    found: dict[str, Any] = {}
    protocol.readStructBegin()
    while True:
        _, code, number = protocol.readFieldBegin()
        if code == TType.STOP:
            return found
        name, field_kind = rows[number]
        assert code == type_code(field_kind), name
        found[name] = read(protocol, field_kind)


def decode(kind: str, data: bytes) -> Any:
    """Return the value in data; no bytes may remain."""
    buffer = TMemoryBuffer(data)
    value = read(TBinaryProtocol(buffer), kind)
    assert buffer.cstringio_buf.tell() == len(data)
    return value


# ----------------------------------------------------------------------------------------------------------- generating
_NAMES = ("ERR_OK", "ERR_BUSY", "ERR_APP_NOT_EXIST", "ERR_NEW_IN_A_LATER_RELEASE")
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "i64": st.integers(-(2**63), 2**63 - 1),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    "error": st.sampled_from(_NAMES),
    "blob": st.binary(max_size=12) | st.sampled_from([b"", b"\0" * 300, b"\xff" * 40]),
    "gpid": st.integers(0, 2**64 - 1),
    "address": st.integers(0, 2**64 - 1),
    "host_port": st.just("")
    | st.builds("{}:{}".format, st.sampled_from(["h", "ü.example", "::1"]), st.integers(1, 65535)),
}


def values(kind: str) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a type; optional fields of structs may be missing."""
    if kind in _VALUES:
        return _VALUES[kind]
    if kind.startswith("list:"):
        return st.lists(values(kind[5:]), max_size=3)
    if kind.startswith("set:"):
        return st.sets(values(kind[4:]), max_size=3).map(sorted)
    if kind.startswith("map:"):
        _, key, item = kind.split(":", 2)
        return st.dictionaries(values(key), values(item), max_size=3)
    rows = STRUCTS[kind]
    return st.fixed_dictionaries(
        {name: values(field_kind) for _, name, field_kind, optional in rows if not optional},
        optional={name: values(field_kind) for _, name, field_kind, optional in rows if optional},
    )


def messages(kind: str) -> st.SearchStrategy[Message]:
    """Return a strategy for the package's own messages of a struct."""
    return values(kind).map(lambda value: build(kind, value))


def build(kind: str, value: Any) -> Any:
    """Return the package's value for one of this table."""
    if kind.startswith("list:"):
        return [build(kind[5:], item) for item in value]
    if kind.startswith("map:"):
        item_kind = kind.split(":", 2)[2]
        return {key: build(item_kind, item) for key, item in value.items()}
    if kind in CLASSES:
        kinds = {name: field_kind for _, name, field_kind, _ in STRUCTS[kind]}
        optional = {name: None for _, name, _, may in STRUCTS[kind] if may}
        return CLASSES[kind](**optional | {name: build(kinds[name], item) for name, item in value.items()})
    return value


def plain(value: Any) -> Any:
    """Return a message of the package as this table's dict, without the optional fields that are not set."""
    if isinstance(value, Message):
        pairs = ((field.name, getattr(value, field.name)) for field in value.FIELDS)
        return {name: plain(item) for name, item in pairs if item is not None}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def sample(kind: str) -> Any:
    """Return a value with every field set and two elements in every container."""
    simple: dict[str, Any] = {
        "bool": True,
        "i32": 7,
        "i64": -2,
        "string": "text",
        "error": "ERR_OK",
        "blob": b"\0\xffblob",
        "gpid": 7 << 32 | 2,
        "address": 0xC0A80001_8729_0001,
        "host_port": "localhost:34801",
    }
    if kind in simple:
        return simple[kind]
    if kind.startswith("list:"):
        return [sample(kind[5:])] * 2
    if kind.startswith("set:"):
        return [sample(kind[4:])]
    if kind.startswith("map:"):
        _, key, item = kind.split(":", 2)
        keys = {"i32": (1, 2), "address": (0xC0A80001_8729_0001, 0xC0A80002_8729_0001), "host_port": ("a:1", "b:2")}
        return {name: sample(item) for name in keys.get(key, ("a", "b"))}
    return {name: sample(field_kind) for _, name, field_kind, _ in STRUCTS[kind]}
