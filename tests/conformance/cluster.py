"""A table of a cluster over TCP, embedded or real: raw frames through the protocol layer, one blocking call at a time.

This client is the tests' own: what it shares with the package is the protocol layer only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket

from pegasus_green.keys import crc64
from pegasus_green.protocol import meta
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol.framing import encode_request, parse_reply
from pegasus_green.protocol.rpc import Rpc
from tests.conformance.replay import Answer

EPOCH = 1451606400
TIMEOUT = 10.0
READY_SECONDS = 120.0
# Envs reach the replicas of a real cluster with their periodic config sync, every 30 s by default.
ENV_SECONDS = 35.0
# Sent before a write enters replication: asking again is safe.
NOT_HERE = ("ERR_OBJECT_NOT_FOUND", "ERR_INVALID_STATE")


class Wire:
    """One connection."""

    def __init__(self, address: str, version: int) -> None:
        host, _, port = address.rpartition(":")
        self.version = version
        self.seqid = 0
        self.socket = socket.create_connection((host, int(port)), timeout=TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, rpc: Rpc, argument: Any, **header: Any) -> Answer | None:
        self.seqid += 1
        data = rpc.encode_argument(argument)
        self.socket.sendall(encode_request(rpc, self.seqid, data, version=self.version, timeout_ms=5000, **header))
        if rpc.response is None:
            return None
        size = self._read(4)
        frame = size + self._read(int.from_bytes(size, "big") - 4)
        reply = parse_reply(frame)
        assert (reply.name, reply.seqid) == (rpc.name + "_ACK", self.seqid)
        if reply.offset is None:
            return Answer(reply.error)
        return Answer(reply.error, rpc.response.decode(frame, reply.offset)[0])

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.socket.recv(min(size, 1 << 20))
            assert part, "the server closed the connection"
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        self.socket.close()


def address_of(number: int) -> str:
    """Return host:port of a raw rpc_address."""
    return f"{number >> 56}.{number >> 48 & 255}.{number >> 40 & 255}.{number >> 32 & 255}:{number >> 16 & 65535}"


class ClusterTable:
    """A table that is created for a replay, and its partitions."""

    def __init__(
        self,
        metas: list[str],
        name: str,
        partitions: int,
        *,
        version: int = 1,
        replicas: int = 3,
        whole: bool = True,
        clock: Callable[[], float] = time.time,
        advance: Callable[[float], Any] | None = None,
        set_envs: Callable[[str, dict[str, str]], Any] | None = None,
    ) -> None:
        """Create the table and wait until it serves.

        Args:
            metas: Addresses of the meta servers.
            name: The table's name.
            partitions: How many.
            version: Header version of all requests, 0 or 1.
            replicas: Replicas of each partition.
            whole: Wait for all replicas; else for the primaries only.
            clock: The cluster's, in Unix seconds.
            advance: Moves the cluster's clock instead of waiting.
            set_envs: Sets envs at once instead of by RPC and waiting.
        """
        self.metas, self.name, self.partitions, self.version, self.replicas = metas, name, partitions, version, replicas
        self._clock, self._advance, self._set_envs = clock, advance, set_envs
        self._wires: dict[str, Wire] = {}
        options = meta.CreateAppOptions(partitions, replicas, False, "pegasus", True, {})
        self._admin(rpcs.CREATE_APP, meta.CreateAppRequest(name, options))
        self._wait(whole)

    def __enter__(self) -> ClusterTable:  # noqa: PYI034 - Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self._admin(rpcs.DROP_APP, meta.DropAppRequest(self.name, meta.DropAppOptions(True, 1)))
        for wire in self._wires.values():
            wire.close()

    def _wire(self, address: str) -> Wire:
        if address not in self._wires:
            self._wires[address] = Wire(address, self.version)
        return self._wires[address]

    def _admin(self, rpc: Rpc, request: Any) -> Any:
        """Send a request to the leader: the meta server that does not name another one."""
        for address in self.metas:
            answer = self._wire(address).call(rpc, request)
            assert answer is not None
            response: Any = answer.response
            assert response is not None, answer
            if response.err != "ERR_FORWARD_TO_OTHERS":
                assert response.err == "ERR_OK", (rpc, response)
                return response
        raise AssertionError(f"no leader among {self.metas}")

    def _refresh(self) -> bool:
        """Ask for the routes; return whether every partition has all its replicas."""
        config = self._admin(rpcs.QUERY_CFG, meta.QueryCfgRequest(self.name, []))
        self.app_id = config.app_id
        self._primaries = {
            part.pid >> 32: part.hp_primary or address_of(part.primary) for part in config.partitions if part.primary
        }
        return all(len(part.secondaries) + 1 >= self.replicas for part in config.partitions)

    def _wait(self, whole: bool) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not (self._refresh() or not whole) or len(self._primaries) < self.partitions:
            assert time.monotonic() < deadline, f"{self.name} is not ready"
            gevent.sleep(0.2)

    def call(self, rpc: Rpc, hash_key: bytes, argument: Any) -> Answer | None:
        hashed = crc64(hash_key)
        index = hashed % self.partitions
        for _ in range(60):
            wire = self._wire(self._primaries[index])
            header = {"app_id": self.app_id, "partition_index": index, "partition_hash": hashed}
            answer = wire.call(rpc, argument, **header)
            if answer is None or answer.frame_error not in NOT_HERE:
                break
            gevent.sleep(0.5)
            self._refresh()
        return answer

    def expire_ts(self, ttl: int) -> int:
        return int(self._clock()) - EPOCH + ttl

    def sleep(self, seconds: float) -> None:
        if self._advance is None:
            gevent.sleep(seconds)
        else:
            self._advance(seconds)

    def set_envs(self, envs: dict[str, str]) -> None:
        if self._set_envs is not None:
            self._set_envs(self.name, envs)
            return
        # APP_ENV_OP_SET
        self._admin(rpcs.UPDATE_APP_ENV, meta.UpdateAppEnvRequest(self.name, 1, list(envs), list(envs.values())))
        gevent.sleep(ENV_SECONDS)
