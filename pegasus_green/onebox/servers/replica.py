"""A replica server. It serves, refuses or ignores requests by the checks of a real server, in their order."""

from __future__ import annotations

from collections import deque
from typing import Any

from ...errors import ProtocolError
from ...keys import crc64
from ...protocol import codes
from ...protocol.framing import thread_hash
from ...protocol.rpc import (
    BATCH_GET,
    CLEAR_SCANNER,
    CLI_CALL,
    DETECT_HOTKEY,
    GET,
    GET_SCANNER,
    NEGOTIATION,
    NODE_RPCS,
    PUT,
    REMOVE,
    SCAN,
    SORTKEY_COUNT,
    TTL,
    Rpc,
)
from ..engine.checks import NOT_FOUND, OK, key_fault
from ..engine.storage import wrong_key_hash
from ..replication.cluster import Cluster
from ..replication.node import Node
from ..replication.replica import INACTIVE, PRIMARY, Replica, TableFacts
from ..wire.connection import Connection
from ..wire.frames import Call, default_body, get_key, ok_reply
from ..wire.http import Page, Query
from .commands import Commands
from .disks import disk_info
from .jobs import detect_hotkey
from .negotiation import Security, negotiate
from .pages import ReplicaPages

READ, WRITE = "read", "write"


class ReplicaServer(Node):
    """A replica server.

    Attributes:
        security: The permissions of users; None: every user may do everything.
    """

    box: Cluster

    def __init__(self, box: Cluster, index: int, host: str, port: int) -> None:
        """Describe a server without replicas."""
        super().__init__(box, box.faults, box.lagging, index, host, port)
        self.security: Security | None = None
        self.commands = Commands(box, self)
        self._searches: set[tuple[int, int]] = set()
        self.pages = ReplicaPages(box, self)
        self._writes: deque[Call] = deque()

    # ------------------------------------------------------------------------------------------------------- requests
    def handle(self, call: Call) -> None:
        """Answer a read at once. Defer a write to the pass: it is executed after the reads that came with it."""
        self.count(call)
        if self.faults and self.injector.request(self, call):
            return
        self.dispatch(call)

    def dispatch(self, call: Call) -> None:
        """Serve a request that no fault has taken."""
        rpc = call.rpc
        if rpc is None or call.app_id <= 0 or rpc.to_meta:
            self._not_for_replicas(call)
        elif rpc.is_write:
            self._writes.append(call)
            if not self._scheduled:
                self.wake()
        else:
            self._read(call, rpc)

    def work(self) -> None:
        """Execute the writes since the last pass, in the order of their arrival."""
        writes = self._writes
        while writes:
            call = writes.popleft()
            assert call.rpc is not None
            self._write(call, call.rpc)

    def has_work(self) -> bool:
        """Tell whether there are deferred writes."""
        return bool(self._writes)

    def forget_work(self) -> None:
        """Drop the deferred writes, like a killed server."""
        self._writes.clear()

    def on_garbage(self, connection: Connection, why: str) -> None:
        """Record bytes that are not a request; as a client's fault if they would crash a real server."""
        super().on_garbage(connection, why)
        if "truncated" in why:
            self.box.client_bug(f"a request whose message is truncated ({why})")

    def _not_for_replicas(self, call: Call) -> None:
        if call.rpc is NEGOTIATION:
            negotiate(self, call)
            return
        if call.rpc in NODE_RPCS and call.app_id <= 0:
            self._administer(call, call.rpc)
            return
        if call.rpc is not None and call.rpc.to_meta and call.app_id > 0:
            self.box.client_bug(f"{call.name} with app_id {call.app_id} sent to a replica server")
        if call.rpc is not CLEAR_SCANNER:
            self.reject(call, codes.ERR_HANDLER_NOT_FOUND)

    def _administer(self, call: Call, rpc: Rpc) -> None:
        try:
            if rpc is CLI_CALL:
                frame = self.commands.answer(call)
            elif rpc is DETECT_HOTKEY:
                answer = detect_hotkey(self, self._searches, call.argument())
                frame = ok_reply(rpc, call.seqid, answer.encode())
            else:
                frame = ok_reply(rpc, call.seqid, disk_info(self.box, self, call.argument()).encode())
        except ProtocolError as error:
            self.box.client_bug(f"{call.name} with an argument that cannot be decoded ({error})")
            self.reject(call, codes.ERR_INVALID_DATA)
            return
        self.send(call, frame)

    def page(self, query: Query) -> Page:
        """Answer an HTTP request."""
        return self.pages.answer(query)

    def _refuse(self, call: Call, error: str, body: bytes | None = None) -> None:
        if call.rpc is not CLEAR_SCANNER:
            self.reject(call, error, body)

    def _misuse(self, call: Call, replica: Replica) -> str | None:
        """Return the frame error of a request that a split has made invalid; None if it is valid."""
        if replica.count == 0:
            return codes.ERR_SPLITTING
        if replica.policy.validate_hash and call.partition_hash & (replica.count - 1) != replica.index:
            return codes.ERR_PARENT_PARTITION_MISUSED
        return None

    # ---------------------------------------------------------------------------------------------------------- reads
    def _read(self, call: Call, rpc: Rpc) -> None:
        replica = self.replicas.get((call.app_id, call.index))
        if replica is None:
            self._refuse(call, codes.ERR_OBJECT_NOT_FOUND)
        elif self.security is not None and not self.security.may_use(call, self.envs_of(replica.table)):
            self._refuse(call, codes.ERR_ACL_DENY)
        elif replica.plain or self._may_read(call, replica):
            self._serve(call, rpc, replica)

    def _may_read(self, call: Call, replica: Replica) -> bool:
        policy = replica.policy
        denied = policy.denies(READ)
        if denied:
            if denied == "reconfig":
                self._refuse(call, codes.ERR_INVALID_STATE)
            return False
        error = self._misuse(call, replica)
        if error is None and replica.role is INACTIVE:
            error = codes.ERR_INVALID_STATE
        if error is not None:
            self._refuse(call, error)
            return False
        counter = policy.backups if call.backup else policy.reads
        if counter is not None and not call.delayed:
            verdict, milliseconds = counter.judge(self.box.clock(), 1, call.timeout_ms)
            if verdict != "pass":
                self._throttle(call, verdict, milliseconds, silent=call.backup)
                return False
        if replica.role is not PRIMARY and not call.backup:
            self._refuse(call, codes.ERR_INVALID_STATE)
            return False
        if policy.read_sizes is not None and not policy.read_sizes.available(self.box.clock()):
            if call.rpc is not CLEAR_SCANNER:
                body = default_body(call, replica.table.app_id, replica.index, self.public)
                self.reject(call, codes.ERR_BUSY, body)
            return False
        return True

    def _throttle(self, call: Call, verdict: str, milliseconds: int, *, silent: bool = False) -> None:
        if verdict == "delay":
            call.delayed = True
            self.box.later(milliseconds / 1000, lambda: self.again(call))
        elif not silent:
            self.box.later(milliseconds / 1000, lambda: self._refuse(call, codes.ERR_BUSY))

    def again(self, call: Call) -> None:
        """Handle a request after its delay."""
        if self.alive and not call.connection.closed:
            self.dispatch(call)

    def _serve(self, call: Call, rpc: Rpc, replica: Replica) -> None:
        if rpc is GET:
            key = get_key(call)
            if key is not None:
                self._serve_get(call, rpc, replica, key)
                return
        try:
            argument = call.argument()
        except ProtocolError as error:
            self.box.client_bug(f"{call.name} with an argument that cannot be decoded ({error})")
            self._refuse(call, codes.ERR_INVALID_DATA)
            return
        if self.box.settings.strict:
            self._check_hash(call, rpc, argument, replica)
        self.box.executed(rpc, call.frame)
        response: Any = replica.engine.read(rpc, argument, partition_count=replica.count)
        if response is None:
            return
        body = bytes(response.encode())
        if replica.policy.read_sizes is not None:
            replica.policy.read_sizes.take(_size_read(argument, response))
        self.send(call, ok_reply(rpc, call.seqid, body))

    def _serve_get(self, call: Call, rpc: Rpc, replica: Replica, key: bytes) -> None:
        if self.box.settings.strict:
            self._check_hash(call, rpc, key, replica)
        self.box.executed(rpc, call.frame)
        if key_fault(key) is None:
            # The same as the engine does, without a response object.
            record = replica.engine.find(key)
            status, value = (OK, record[0]) if record is not None else (NOT_FOUND, b"")
        else:
            response: Any = replica.engine.read(rpc, key, partition_count=replica.count)
            status, value = response.error, response.value
        if replica.policy.read_sizes is not None:
            replica.policy.read_sizes.take(len(key) + len(value))
        frame = ok_reply(rpc, call.seqid, replica.maker.read(status, value))
        if call.faults is None:
            call.connection.send(frame)
        else:
            self.send(call, frame)

    # --------------------------------------------------------------------------------------------------------- writes
    def _write(self, call: Call, rpc: Rpc) -> None:
        replica = self.replicas.get((call.app_id, call.index))
        if replica is None:
            self.reject(call, codes.ERR_OBJECT_NOT_FOUND)
            return
        if self.security is not None and not self.security.may_use(call, self.envs_of(replica.table)):
            self.reject(call, codes.ERR_ACL_DENY)
            return
        if call.thread_hash is not None and call.thread_hash != thread_hash(call.app_id, call.index):
            # Such a request reaches a wrong thread of the pool in any case.
            self.box.client_bug(f"{call!r} with thread_hash {call.thread_hash}")
            self.reject(call, codes.ERR_INVALID_PARAMETERS)
            return
        limit = self.box.settings.max_write_bytes
        if not (replica.plain and (call.body <= limit or not limit)) and not self._may_write(call, replica):
            return
        members = 1 + len(replica.secondaries)
        if members < self._needed(replica.table):
            self.reject(call, codes.ERR_NOT_ENOUGH_MEMBER)
        elif not self._throttles_write(call, replica):
            self._replicate(call, rpc, replica)

    def _may_write(self, call: Call, replica: Replica) -> bool:
        denied = replica.policy.denies(WRITE)
        if denied:
            if denied == "reconfig":
                self.reject(call, codes.ERR_INVALID_STATE)
            return False
        error: str | None = None
        if 0 < self.box.settings.max_write_bytes < call.body:
            error = codes.ERR_INVALID_DATA
        else:
            error = self._misuse(call, replica)
        if error is None and replica.role is not PRIMARY:
            error = codes.ERR_INVALID_STATE
        if error is not None:
            self.reject(call, error)
        return error is None

    def _needed(self, table: TableFacts) -> int:
        fewest = self.box.settings.min_replicas
        if fewest is not None:
            return fewest
        return 1 if table.replica_count <= 2 else table.replica_count // 2 + 1

    def _throttles_write(self, call: Call, replica: Replica) -> bool:
        policy = replica.policy
        if call.delayed or (policy.writes is None and policy.write_sizes is None):
            return False
        for counter, units in ((policy.writes, 1), (policy.write_sizes, call.body)):
            if counter is not None:
                verdict, milliseconds = counter.judge(self.box.clock(), units, call.timeout_ms)
                if verdict != "pass":
                    self._throttle(call, verdict, milliseconds)
                    return True
        return False

    def _replicate(self, call: Call, rpc: Rpc, replica: Replica) -> None:
        try:
            argument = call.argument()
        except ProtocolError as error:
            # A real server logs it as corrupt, uses up a decree and never answers.
            self.box.client_bug(f"{call.name} with an argument that cannot be decoded ({error})")
            argument = None
        if rpc is PUT and argument is not None and argument.type:
            # These types are for servers only: they replace incr and check_and_set if the table has the setting.
            self.box.client_bug(f"{call!r} of type {argument.type}, which no client may send")
            argument = None
        if argument is not None and wrong_key_hash(rpc, argument, call.partition_hash):
            self.box.client_bug(f"{call!r} with partition_hash {call.partition_hash}, which is not its key's")
            self.reject(call, codes.ERR_PARENT_PARTITION_MISUSED)
            return
        if self.box.settings.strict and argument is not None:
            self._check_hash(call, rpc, argument, replica)
        if len(replica.log) >= self.box.settings.max_pending_writes:
            self.reject(call, codes.ERR_CAPACITY_EXCEEDED)
        else:
            replica.submit(call, rpc, argument)

    # --------------------------------------------------------------------------------------------------------- strict
    def _check_hash(self, call: Call, rpc: Rpc, argument: Any, replica: Replica) -> None:
        """Record a partition hash that is not that of the key, also if a real server would ignore it."""
        hashes = _key_hashes(rpc, argument)
        if hashes is not None and call.partition_hash not in hashes:
            self.box.client_bug(f"strict: {call!r} with partition_hash {call.partition_hash}, which is not its key's")
        elif hashes is not None and call.partition_hash % replica.count != call.index:
            self.box.client_bug(f"strict: {call!r} whose partition_hash {call.partition_hash} is another partition's")


def _key_hashes(rpc: Rpc, argument: Any) -> set[int] | None:
    """Return the valid hashes of a request; None: any hash."""
    if rpc in (SCAN, CLEAR_SCANNER, GET_SCANNER):
        return None
    if rpc is BATCH_GET:
        return {crc64(full.hash_key or full.sort_key) for full in argument.keys} or None
    if rpc is SORTKEY_COUNT:
        return {crc64(argument) if argument else 0}
    if rpc in (GET, TTL, REMOVE) or hasattr(argument, "key"):
        key = argument if isinstance(argument, bytes) else argument.key
        end = 2 + int.from_bytes(key[:2], "big")
        return {crc64(key[2:end] or key[end:])}
    return {crc64(argument.hash_key) if argument.hash_key else 0}


def _size_read(argument: Any, response: Any) -> int:
    """Return the bytes of keys and values that a read returned."""
    rows = getattr(response, "kvs", None) or getattr(response, "data", None) or ()
    size = len(argument) if isinstance(argument, bytes) else len(getattr(argument, "hash_key", b""))
    for row in rows:
        size += len(row.value) + len(getattr(row, "key", b"") or getattr(row, "sort_key", b""))
    return size
