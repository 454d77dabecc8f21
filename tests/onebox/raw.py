"""A minimal client that sends and reads raw frames over a socket."""

from __future__ import annotations

import struct
from typing import Any

import gevent
from gevent import socket

from pegasus_green.keys import crc64, encode_key
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol.framing import Reply, encode_request, parse_reply
from pegasus_green.protocol.message import Message
from pegasus_green.protocol.rpc import Rpc

# The connections of a test, closed after it.
OPEN: list[Any] = []
# The times of the tests count this often: a busy machine can stop the test, which is one process with its onebox, for a
# tenth of a second, and then a delay is over before the test has looked.
PACE = 3


def sleep(seconds: float) -> None:
    """Wait for a time that is set beside the delays of a onebox of ``make_box``."""
    gevent.sleep(seconds * PACE)


class Raw:
    """One connection."""

    def __init__(self, address: str, timeout: float = 5.0) -> None:
        host, _, port = address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        OPEN.append(self.sock)
        self._seqid = 0
        self._data = b""

    def __enter__(self) -> Raw:  # noqa: PYI034 - Self is not in Python 3.10
        return self

    def __exit__(self, *_exc: object) -> None:
        self.sock.close()

    def send(self, rpc: Rpc, argument: Any, **header: Any) -> int:
        self._seqid += 1
        seqid = header.pop("seqid", self._seqid)
        self.sock.sendall(encode_request(rpc, seqid, rpc.encode_argument(argument), **header))
        return seqid

    def frame(self) -> bytes:
        """Return the next whole reply frame."""
        while len(self._data) < 4 or len(self._data) < struct.unpack_from(">i", self._data)[0]:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("the server closed")
            self._data += data
        size = struct.unpack_from(">i", self._data)[0]
        frame, self._data = self._data[:size], self._data[size:]
        return frame

    def is_over(self) -> bool:
        """Return whether the server has closed and all its bytes are read."""
        if self._data:
            return False
        try:
            self._data = self.sock.recv(65536)
        except ConnectionResetError:
            return True
        return not self._data

    def reply(self) -> tuple[Reply, bytes]:
        frame = self.frame()
        return parse_reply(frame), frame

    def call(self, rpc: Rpc, argument: Any, **header: Any) -> tuple[str, Any]:
        """Send, wait; return the frame error and the decoded result (None: no body)."""
        seqid = self.send(rpc, argument, **header)
        reply, frame = self.reply()
        assert reply.seqid == seqid, (reply, seqid)
        assert reply.name == rpc.name + "_ACK"
        return reply.error, decode(rpc, reply, frame)

    def is_silent(self, seconds: float = 0.1) -> bool:
        """Return whether nothing arrives for a while."""
        data = gevent.with_timeout(seconds, self.sock.recv, 65536, timeout_value=None)
        self._data += data or b""
        return data is None


def decode(rpc: Rpc, reply: Reply, frame: bytes) -> Any:
    if reply.offset is None:
        return None
    assert rpc.response is not None
    return rpc.response.decode_reply(frame, reply.offset)


class Routed:
    """Calls of one table, each sent to the primary that the onebox names at that moment."""

    def __init__(self, box: Any, table: str = "temp") -> None:
        self.box = box
        self.name = table
        self._raws: dict[str, Raw] = {}

    def close(self) -> None:
        for raw in self._raws.values():
            raw.sock.close()
        self._raws.clear()

    @property
    def app_id(self) -> int:
        return self.box.tables.get(self.name).app_id

    def raw(self, address: str) -> Raw:
        raw = self._raws.get(address)
        if raw is None:
            raw = self._raws[address] = Raw(address)
        return raw

    def route(self, hash_key: bytes, sort_key: bytes = b"") -> tuple[str, dict[str, Any]]:
        hashed = crc64(hash_key or sort_key)
        routes = self.box.partitions(self.name)
        index = hashed % len(routes)
        if routes[index]["ballot"] < 0:
            index -= len(routes) // 2
        header = {"app_id": self.app_id, "partition_index": index, "partition_hash": hashed}
        return routes[index]["primary"], header

    def call(self, rpc: Rpc, hash_key: bytes, argument: Any, sort_key: bytes = b"", **header: Any) -> tuple[str, Any]:
        address, route = self.route(hash_key, sort_key)
        return self.raw(address).call(rpc, argument, **{**route, **header})

    def put(self, hash_key: bytes, sort_key: bytes, value: bytes, **header: Any) -> str:
        from pegasus_green.protocol.rrdb import UpdateRequest

        request = UpdateRequest(encode_key(hash_key, sort_key), value)
        error, result = self.call(rpcs.PUT, hash_key, request, sort_key, **header)
        return error if result is None or result.error == 0 else f"status {result.error}"

    def get(self, hash_key: bytes, sort_key: bytes, **header: Any) -> Any:
        error, result = self.call(rpcs.GET, hash_key, encode_key(hash_key, sort_key), sort_key, **header)
        if result is None:
            return error
        return None if result.error == 1 else result.value


def ask(box: Any, rpc: Rpc, request: Message, meta: int = 0) -> Any:
    """Ask a meta server."""
    with Raw(box.meta_addresses[meta]) as raw:
        error, result = raw.call(rpc, request)
        assert error == "ERR_OK", error
        return result
