"""The table of RPCs. One entry has all facts that the package needs about an RPC."""

from __future__ import annotations

import struct

from . import jobs, meta, remote, rrdb
from .binary import BLOB_TYPE, I64, I64_TYPE, Buffer, WireType, read_field_head, write_field_head
from .message import Message, StructOf

MAGIC = b"THFT"
# The meta struct of a v1 request always has 37 bytes: app_id, partition_index, timeout, hash, backup flag.
V1_START = MAGIC + struct.pack(">II", 1, 37)
V1_HASH_FIELD = struct.pack(">BH", I64, 4)
CALL_HEAD = 0x80010001
REPLY_HEAD = 0x80010002
ONEWAY_HEAD = 0x80010004
# The end of a v1 meta struct: field 5, the backup flag, and STOP.
META_END = b"\x02\0\x05\0\0"
META_END_BACKUP = b"\x02\0\x05\1\0"


class Rpc:
    """One remote procedure.

    Attributes:
        name: The name in the protocol; the name of its reply is name + "_ACK".
        label: The short name in statistics and errors.
        argument: Wire type of field 1 of the argument struct.
        response: The reply's struct; None: there is never a reply (clear_scanner).
        is_write: Whether the primary handles it as a write.
        repeatable: Whether it can be executed twice: reads, and writes that the server calls idempotent.
        to_meta: Whether it is administrative: app_id 0 in the header, answered by meta servers (some also by replica
            servers).
        bare: Whether ``response`` is the reply's result struct itself; otherwise it is field 0 of it.
        call_tail: Message begin of a request up to the sequence id.
        v1_tail: The same after the end of the v1 meta struct, for ``head``.
        head: A whole v1 request up to its argument: constant start, body length, gpid part of the meta struct, timeout,
            field 4, partition hash, v1_tail, sequence id.
        body_base: Length of a request's body without its argument.
        ok_head: The start of a reply with frame error ERR_OK, from after the frame's length to the sequence id.
        body_offset: Offset of the result struct in the frame of such a reply: after ``0C 00 00``, if it is not bare.
        shape: The facts about it for the compiled core, in the order of its constants.
    """

    __slots__ = (
        "name",
        "label",
        "argument",
        "response",
        "is_write",
        "repeatable",
        "to_meta",
        "bare",
        "call_tail",
        "v1_tail",
        "ok_head",
        "body_offset",
        "head",
        "body_base",
        "shape",
    )

    def __init__(
        self,
        name: str,
        argument: WireType | type[Message],
        response: type[Message] | None,
        *,
        label: str = "",
        write: bool = False,
        repeatable: bool = True,
        meta: bool = False,
        bare: bool = False,
    ) -> None:
        """Describe an RPC and prepare the constant parts of its frames."""
        self.name = name
        self.label = label or name.rpartition("RRDB_")[2].lower()
        self.argument: WireType = StructOf(argument) if isinstance(argument, type) else argument
        self.response = response
        self.is_write = write
        self.repeatable = repeatable
        self.to_meta = meta
        self.bare = bare
        raw = name.encode()
        kind = ONEWAY_HEAD if response is None else CALL_HEAD
        self.call_tail = struct.pack(">Ii", kind, len(raw)) + raw
        self.ok_head = b"\0\0\0\6ERR_OK" + struct.pack(">Ii", REPLY_HEAD, len(raw) + 4) + raw + b"_ACK"
        self.body_offset = 4 + len(self.ok_head) + 4 + (0 if bare else 3)
        self.v1_tail = META_END + self.call_tail
        self.head = struct.Struct(f">12si17si3sQ{len(self.v1_tail)}si")
        self.body_base = len(self.call_tail) + 4
        start = self.head.pack(V1_START, 0, b"", 0, V1_HASH_FIELD, 0, self.v1_tail, 0)
        self.shape = (self, self.label, start, self.ok_head, self.body_base, self.body_offset, repeatable)

    def __repr__(self) -> str:
        """Show the wire name."""
        return f"<Rpc {self.name}>"

    def encode_argument(self, value: object) -> bytes:
        """Return the argument struct: value as field 1, and STOP."""
        out = bytearray()
        write_field_head(self.argument.code, 1, out)
        self.argument.write(value, out)
        out.append(0)
        return bytes(out)

    def decode_argument(self, data: Buffer, pos: int = 0) -> object:
        """Return the argument. Like a real server, it ignores id and type of the outer field.

        Raises:
            ProtocolError: The argument is truncated or inconsistent.
        """
        _, _, pos = read_field_head(data, pos)
        value, _ = self.argument.read(data, pos)
        return value


def _rrdb(
    verb: str,
    argument: WireType | type[Message],
    response: type[Message] | None,
    *,
    write: bool = False,
    repeatable: bool = True,
) -> Rpc:
    return Rpc(f"RPC_RRDB_RRDB_{verb}", argument, response, write=write, repeatable=repeatable)


GET = _rrdb("GET", BLOB_TYPE, rrdb.ReadResponse)
TTL = _rrdb("TTL", BLOB_TYPE, rrdb.TtlResponse)
MULTI_GET = _rrdb("MULTI_GET", rrdb.MultiGetRequest, rrdb.MultiGetResponse)
BATCH_GET = _rrdb("BATCH_GET", rrdb.BatchGetRequest, rrdb.BatchGetResponse)
SORTKEY_COUNT = _rrdb("SORTKEY_COUNT", BLOB_TYPE, rrdb.CountResponse)
GET_SCANNER = _rrdb("GET_SCANNER", rrdb.GetScannerRequest, rrdb.ScanResponse)
# A scan uses up its context. If it is repeated after a lost reply, the server answers "not found", and the scanner
# opens a new context.
SCAN = _rrdb("SCAN", rrdb.ScanRequest, rrdb.ScanResponse)
CLEAR_SCANNER = _rrdb("CLEAR_SCANNER", I64_TYPE, None)
PUT = _rrdb("PUT", rrdb.UpdateRequest, rrdb.UpdateResponse, write=True)
REMOVE = _rrdb("REMOVE", BLOB_TYPE, rrdb.UpdateResponse, write=True)
MULTI_PUT = _rrdb("MULTI_PUT", rrdb.MultiPutRequest, rrdb.UpdateResponse, write=True)
MULTI_REMOVE = _rrdb("MULTI_REMOVE", rrdb.MultiRemoveRequest, rrdb.MultiRemoveResponse, write=True)
INCR = _rrdb("INCR", rrdb.IncrRequest, rrdb.IncrResponse, write=True, repeatable=False)
CHECK_AND_SET = _rrdb("CHECK_AND_SET", rrdb.CheckAndSetRequest, rrdb.CheckAndSetResponse, write=True, repeatable=False)
CHECK_AND_MUTATE = _rrdb(
    "CHECK_AND_MUTATE", rrdb.CheckAndMutateRequest, rrdb.CheckAndMutateResponse, write=True, repeatable=False
)

RRDB_RPCS = (
    GET,
    TTL,
    MULTI_GET,
    BATCH_GET,
    SORTKEY_COUNT,
    GET_SCANNER,
    SCAN,
    CLEAR_SCANNER,
    PUT,
    REMOVE,
    MULTI_PUT,
    MULTI_REMOVE,
    INCR,
    CHECK_AND_SET,
    CHECK_AND_MUTATE,
)


def _meta(verb: str, label: str, request: type[Message], response: type[Message], repeatable: bool = True) -> Rpc:
    return Rpc(f"RPC_CM_{verb}", request, response, label=label, repeatable=repeatable, meta=True)


QUERY_CFG = _meta("QUERY_PARTITION_CONFIG_BY_INDEX", "query_cfg", meta.QueryCfgRequest, meta.QueryCfgResponse)
CREATE_APP = _meta("CREATE_APP", "create_table", meta.CreateAppRequest, meta.CreateAppResponse, False)
DROP_APP = _meta("DROP_APP", "drop_table", meta.DropAppRequest, meta.DropAppResponse, False)
RECALL_APP = _meta("RECALL_APP", "recall_table", meta.RecallAppRequest, meta.RecallAppResponse, False)
RENAME_APP = _meta("RENAME_APP", "rename_table", meta.RenameAppRequest, meta.HintResponse, False)
LIST_APPS = _meta("LIST_APPS", "list_tables", meta.ListAppsRequest, meta.ListAppsResponse)
LIST_NODES = _meta("LIST_NODES", "list_nodes", meta.ListNodesRequest, meta.ListNodesResponse)
CLUSTER_INFO = _meta("CLUSTER_INFO", "cluster_info", meta.ClusterInfoRequest, meta.ClusterInfoResponse)
UPDATE_APP_ENV = _meta("UPDATE_APP_ENV", "update_envs", meta.UpdateAppEnvRequest, meta.HintResponse)
START_MANUAL_COMPACT = _meta(
    "START_MANUAL_COMPACT", "start_compaction", meta.StartManualCompactRequest, meta.HintResponse
)
QUERY_MANUAL_COMPACT = _meta(
    "QUERY_MANUAL_COMPACT_STATUS", "query_compaction", meta.AppNameRequest, meta.QueryManualCompactResponse
)
CONTROL_META = _meta("CONTROL_META", "control_meta", meta.MetaControlRequest, meta.MetaControlResponse)
GET_MAX_REPLICA_COUNT = _meta(
    "GET_MAX_REPLICA_COUNT", "get_replica_count", meta.AppNameRequest, meta.GetMaxReplicaCountResponse
)
SET_MAX_REPLICA_COUNT = _meta(
    "SET_MAX_REPLICA_COUNT", "set_replica_count", meta.SetMaxReplicaCountRequest, meta.SetMaxReplicaCountResponse
)
GET_ATOMIC_IDEMPOTENT = _meta(
    "GET_ATOMIC_IDEMPOTENT", "get_atomic_idempotent", meta.AppNameRequest, meta.GetAtomicIdempotentResponse
)
SET_ATOMIC_IDEMPOTENT = _meta(
    "SET_ATOMIC_IDEMPOTENT",
    "set_atomic_idempotent",
    meta.SetAtomicIdempotentRequest,
    meta.SetAtomicIdempotentResponse,
)
START_SPLIT = _meta("START_PARTITION_SPLIT", "start_split", meta.StartSplitRequest, meta.HintResponse, False)
QUERY_SPLIT = _meta("QUERY_PARTITION_SPLIT", "query_split", meta.AppNameRequest, meta.QuerySplitResponse)
CONTROL_SPLIT = _meta(
    "CONTROL_PARTITION_SPLIT", "control_split", meta.ControlSplitRequest, meta.ControlSplitResponse, False
)
NEGOTIATION = Rpc("RPC_NEGOTIATION", meta.Negotiation, meta.Negotiation, label="negotiation", meta=True)

PROPOSE_BALANCER = _meta("PROPOSE_BALANCER", "propose", remote.BalancerRequest, remote.BalancerResponse, False)
DIAGNOSE = _meta("DDD_DIAGNOSE", "diagnose", remote.DiagnoseRequest, remote.DiagnoseResponse)
# Meta and replica servers have remote commands. The effect of a repetition depends on the command.
CLI_CALL = Rpc(
    "RPC_CLI_CLI_CALL",
    remote.CommandRequest,
    remote.CommandReply,
    label="remote_command",
    repeatable=False,
    meta=True,
    bare=True,
)
QUERY_DISK_INFO = Rpc(
    "RPC_QUERY_DISK_INFO", remote.QueryDiskInfoRequest, remote.QueryDiskInfoResponse, label="query_disk_info", meta=True
)

QUERY_BULK_LOAD = _meta("QUERY_BULK_LOAD_STATUS", "query_bulk_load", meta.AppNameRequest, jobs.QueryBulkLoadResponse)
QUERY_BACKUP = _meta(
    "QUERY_BACKUP_STATUS", "query_backup", jobs.QueryBackupStatusRequest, jobs.QueryBackupStatusResponse
)
DETECT_HOTKEY = Rpc(
    "RPC_DETECT_HOTKEY",
    jobs.DetectHotkeyRequest,
    jobs.DetectHotkeyResponse,
    label="hot_keys",
    repeatable=False,
    meta=True,
)

META_RPCS = (
    QUERY_CFG,
    CREATE_APP,
    DROP_APP,
    RECALL_APP,
    RENAME_APP,
    LIST_APPS,
    LIST_NODES,
    CLUSTER_INFO,
    UPDATE_APP_ENV,
    START_MANUAL_COMPACT,
    QUERY_MANUAL_COMPACT,
    CONTROL_META,
    GET_MAX_REPLICA_COUNT,
    SET_MAX_REPLICA_COUNT,
    GET_ATOMIC_IDEMPOTENT,
    SET_ATOMIC_IDEMPOTENT,
    START_SPLIT,
    QUERY_SPLIT,
    CONTROL_SPLIT,
    PROPOSE_BALANCER,
    DIAGNOSE,
    QUERY_BULK_LOAD,
    QUERY_BACKUP,
)
# RPCs that each server answers itself, leader or not.
NODE_RPCS = (CLI_CALL, QUERY_DISK_INFO, DETECT_HOTKEY)

BY_NAME: dict[str, Rpc] = {rpc.name: rpc for rpc in (*RRDB_RPCS, *META_RPCS, *NODE_RPCS, NEGOTIATION)}
