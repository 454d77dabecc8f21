"""A server that sends prepared replies, usually faster than any client: `python -m benchmarks.responder`.

It stands in for a meta server and up to 100 replica servers (127.0.0.1, 127.0.0.2, ... on one port) and answers every
client alike, with header v0 or v1. Of a request it reads what it must: its length, its name, the table's id and the
sequence id. Frames of one table and one RPC have one length here, so a run of equal ones is taken apart by one
``iter_unpack`` and answered by one ``join``: about 0.3 us a request, but 2 us if requests to many tables are mixed.

The first line on stdout names the address of the meta server. Every line on stdin ("stats") is answered by one line of
JSON: CPU seconds so far, and the requests counted by name, with which the benchmark checks that clients did what they
say. End of stdin ends it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from itertools import islice
from typing import Any, NamedTuple

from benchmarks.payload import BATCHES, HASH_KEY, ROWS, parse_table, sort_key, value_of
from pegasus_green.protocol import meta, rpc, rrdb
from pegasus_green.protocol.framing import encode_reply
from pegasus_green.protocol.message import Message

MAX_BUFFER = 8 * 1024 * 1024
# Larger replies are sent one by one: joining them would only copy them.
JOIN_UP_TO = 16 * 1024
SERVER = "127.0.0.1:34801"


class Plan(NamedTuple):
    """Parses and answers the frames that have the same beginning."""

    size: int
    unpack: struct.Struct
    head: bytes
    app: bytes
    name: bytes
    label: str
    # The parts of the reply before and after the sequence id; None: answered one by one, or never.
    reply: tuple[bytes, bytes] | None
    look_ahead: list[int]


class Tables:
    """The tables that clients have asked for, by id, and the addresses of their servers."""

    def __init__(self) -> None:
        self.names: list[str] = [""]
        self.lock = threading.Lock()
        self.port = 0
        self.listening = 0

    def route(self, name: str) -> meta.QueryCfgResponse:
        """Answer query_cfg; every table with a valid name exists."""
        try:
            _, partitions, servers, _ = parse_table(name)
        except ValueError:
            return meta.QueryCfgResponse(err="ERR_OBJECT_NOT_FOUND")
        with self.lock:
            if name not in self.names:
                self.names.append(name)
            while self.listening < servers:
                self.listening += 1
                self.port = listen(f"127.0.0.{self.listening}", self.port, self)
        app_id = self.names.index(name)
        return meta.QueryCfgResponse(
            app_id=app_id,
            partition_count=partitions,
            is_stateful=True,
            partitions=[
                meta.PartitionConfiguration(
                    pid=meta.make_gpid(app_id, index),
                    ballot=3,
                    max_replica_count=3,
                    primary=meta.make_address(f"127.0.0.{1 + index % servers}", self.port),
                )
                for index in range(partitions)
            ],
        )

    def canned(self, label: str, app_id: int) -> Message | None:
        """Return the reply to all requests of a kind, None without one."""
        value, _, _, silent = parse_table(self.names[app_id])
        if silent:
            return None
        common: dict[str, Any] = {"app_id": app_id, "server": SERVER}
        if label == "get":
            return rrdb.ReadResponse(value=value_of(value), **common)
        if label == "multi_get":
            kvs = [rrdb.KeyValue(key=sort_key(0, row), value=value_of(value)) for row in range(ROWS)]
            return rrdb.MultiGetResponse(kvs=kvs, **common)
        if label in ("put", "remove", "multi_put"):
            return rrdb.UpdateResponse(decree=42, **common)
        return None


TABLES = Tables()
REQUESTS: Counter[str] = Counter()
_batches: dict[tuple[int, str, int, int], bytes] = {}
# The encoded keys of the rows of a scan, in order, with their numbers.
ROW_NUMBERS = {
    struct.pack(">H", len(HASH_KEY)) + HASH_KEY + sort_key(1 + number // ROWS, number % ROWS): number
    for number in range(BATCHES * ROWS)
}
# The id of a context is the number of its next row times this, plus the size of its batches.
CONTEXTS = 1 << 20


def listen(host: str, port: int, tables: Tables) -> int:
    """Accept connections at an address in the background; return the port."""
    sock = socket.create_server((host, port), backlog=1024)

    def accept() -> None:
        while True:
            connection, _ = sock.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(connection, tables), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(sock.getsockname()[1])


def serve(connection: socket.socket, tables: Tables) -> None:
    """Answer one connection until it ends."""
    buffer = bytearray(64 * 1024)
    plans: dict[bytes, Plan] = {}
    end = 0
    with connection:
        while True:
            try:
                size = connection.recv_into(memoryview(buffer)[end:])
            except OSError:
                return
            if not size:
                return
            end += size
            try:
                done, wanted = answer(connection, buffer, end, plans, tables)
            except OSError:
                return
            buffer[: end - done] = buffer[done:end]
            end -= done
            if wanted > len(buffer) or (end == len(buffer) and wanted < MAX_BUFFER):
                buffer = buffer + bytes(max(wanted, 2 * len(buffer)) - len(buffer))
            elif done > len(buffer) // 2 and len(buffer) < 1024 * 1024:
                buffer = buffer + bytes(len(buffer))


def answer(
    connection: socket.socket, buffer: bytearray, end: int, plans: dict[bytes, Plan], tables: Tables
) -> tuple[int, int]:
    """Answer the whole frames in the buffer; return how many bytes they had and how many the next one has."""
    pos = 0
    out: list[bytes] = []
    while end - pos >= 24:
        v1 = buffer[pos + 7] == 1
        meta_size, body = struct.unpack_from(">II" if v1 else ">4xI", buffer, pos + 8) if v1 else (0, 0)
        if not v1:
            body = struct.unpack_from(">I", buffer, pos + 16)[0]
        size = (16 + meta_size if v1 else 48) + body
        if end - pos < size:
            flush(connection, out)
            return pos, size
        # The bytes up to the table's id distinguish the kinds of frames; the place of the name follows from them.
        key = bytes(buffer[pos : pos + 23]) if v1 else bytes(buffer[pos : pos + 28])
        begin = pos + (16 + meta_size if v1 else 48)
        name_size = struct.unpack_from(">I", buffer, begin + 4)[0]
        name = bytes(buffer[begin : begin + 8 + name_size])
        plan = plans.get(key + name)
        if plan is None:
            plan = plans[key + name] = make_plan(key, name, v1, size, tables)
        if plan.reply is None:
            out += single(plan, bytes(buffer[pos : pos + size]), begin - pos + len(name), tables)
            pos += size
            REQUESTS[plan.label] += 1
            continue
        seqids = run_of(plan, memoryview(buffer)[pos : pos + (end - pos) // size * size])
        prefix, suffix = plan.reply
        if len(suffix) <= JOIN_UP_TO:
            out += (prefix, (suffix + prefix).join(seqids), suffix)
        else:
            for seqid in seqids:
                flush(connection, [*out, prefix, seqid, suffix])
                out = []
        REQUESTS[plan.label] += len(seqids)
        pos += len(seqids) * size
    flush(connection, out)
    return pos, 0


def run_of(plan: Plan, frames: memoryview) -> tuple[bytes, ...]:
    """Return the sequence ids of the frames of this kind with which a run of equally long ones begins."""
    # Usually all frames are of one kind. With many tables they are not, and looking far ahead is wasted time.
    heads, apps, names, seqids = zip(*plan.unpack.iter_unpack(frames[: plan.size * plan.look_ahead[0]]))
    count = len(seqids)
    if heads.count(plan.head) == apps.count(plan.app) == names.count(plan.name) == count:
        plan.look_ahead[0] = min(plan.look_ahead[0] * 4, 4096)
        return seqids
    kinds = zip(heads, apps, names)
    count = next(index for index, kind in enumerate(kinds) if kind != (plan.head, plan.app, plan.name))
    plan.look_ahead[0] = count
    return seqids[:count]


def flush(connection: socket.socket, out: list[bytes]) -> None:
    if out:
        connection.sendall(b"".join(out))


def make_plan(key: bytes, name: bytes, v1: bool, size: int, tables: Tables) -> Plan:
    """Parse the first frame of a kind."""
    label = name[8:].decode()
    app_id = struct.unpack(">i", key[-4:])[0]
    meta_size = struct.unpack_from(">I", key, 8)[0] if v1 else 0
    if v1:
        layout = f"16s7s{meta_size - 7}x{len(name)}s4s"
        head, app = key[:16], key[16:23]
    else:
        layout = f"24s4s20x{len(name)}s4s"
        head, app = key[:24], key[24:28]
    used = struct.calcsize(">" + layout)
    known = rpc.BY_NAME[label]
    result = tables.canned(known.label, app_id) if not known.to_meta else None
    reply = None
    if result is not None:
        frame = encode_reply(label, 0, result=result.encode())
        cut = 4 + len(known.ok_head)
        reply = frame[:cut], frame[cut + 4 :]
    return Plan(size, struct.Struct(f">{layout}{size - used}x"), head, app, name, known.label, reply, [1024])


def single(plan: Plan, frame: bytes, at: int, tables: Tables) -> list[bytes]:
    """Answer one request by its argument: a route or a batch of a scan. Some requests get no answer."""
    seqid = frame[at : at + 4]
    known = rpc.BY_NAME[plan.name[8:].decode()]
    if known is rpc.QUERY_CFG:
        request = known.decode_argument(frame, at + 4)
        assert isinstance(request, meta.QueryCfgRequest)
        number = struct.unpack(">i", seqid)[0]
        return [encode_reply(known.name, number, result=tables.route(request.app_name).encode())]
    app_id = struct.unpack(">i", plan.app[-4:])[0]
    if known is rpc.GET_SCANNER:
        opened = known.decode_argument(frame, at + 4)
        assert isinstance(opened, rrdb.GetScannerRequest)
        return batch(known, app_id, behind(opened.start_key), opened.batch_size, seqid)
    if known is rpc.SCAN:
        context = known.decode_argument(frame, at + 4)
        assert isinstance(context, rrdb.ScanRequest)
        return batch(known, app_id, *divmod(context.context_id, CONTEXTS), seqid)
    if known is rpc.CLEAR_SCANNER or tables.names[app_id].endswith("_silent"):
        return []
    return [encode_reply(known.name, struct.unpack(">i", seqid)[0], "ERR_HANDLER_NOT_FOUND")]


def behind(start_key: bytes) -> int:
    """Return the number of the first row of a scan, which begins after a row or before all rows."""
    return ROW_NUMBERS.get(start_key, -1) + 1


def batch(known: rpc.Rpc, app_id: int, first: int, size: int, seqid: bytes) -> list[bytes]:
    """Return a batch of a scan. The context's id says where the next batch begins, so nothing has to be remembered."""
    cut = 4 + len(known.ok_head)
    frame = _batches.get((app_id, known.name, first, size))
    if frame is None:
        value = value_of(parse_table(TABLES.names[app_id])[0])
        kvs = [rrdb.KeyValue(key=key, value=value) for key in islice(ROW_NUMBERS, first, first + size)]
        context = (first + size) * CONTEXTS + size if first + size < len(ROW_NUMBERS) else -1
        result = rrdb.ScanResponse(kvs=kvs, context_id=context, app_id=app_id, server=SERVER)
        frame = encode_reply(known.name, 0, result=result.encode())
        _batches[app_id, known.name, first, size] = frame
    return [frame[:cut], seqid, frame[cut + 4 :]]


def main() -> None:
    """Serve until stdin ends."""
    # Threads that wait for the kernel do not hold the GIL. Only the threads of busy connections compete for it.
    sys.setswitchinterval(0.0002)
    TABLES.port = listen("127.0.0.1", 0, TABLES)
    TABLES.listening = 1
    port = listen("127.0.0.1", 0, TABLES)
    print(f"127.0.0.1:{port}", flush=True)
    for _ in sys.stdin:
        times = os.times()
        stats = {"cpu": time.process_time(), "user": times.user, "system": times.system, "requests": dict(REQUESTS)}
        print(json.dumps(stats), flush=True)


if __name__ == "__main__":
    main()
