"""A table of engines in this process: the quickest target of a replay."""

from __future__ import annotations

from random import Random
from typing import Any

from pegasus_green.keys import crc64
from pegasus_green.onebox.engine.state import EPOCH
from pegasus_green.onebox.engine.storage import Engine
from pegasus_green.onebox.engine.writes import EMPTY_WRITE
from pegasus_green.protocol.rpc import Rpc
from tests.conformance.replay import Answer

# The server measures the body of a write: message begin and argument struct.
MAX_WRITE_BYTES = 1024 * 1024


class EngineTable:
    """Partitions without a network; time moves only by ``sleep``."""

    def __init__(self, partitions: int, *, codec: bool = False, seed: int = 1) -> None:
        """Open empty engines.

        Args:
            partitions: How many.
            codec: Pass every argument and response through the wire's codec, as a network would.
            seed: Of the context ids.
        """
        self.envs: dict[str, str] = {}
        self.time = EPOCH + 400_000_000.5
        self.codec = codec
        self.partitions = partitions
        random = Random(seed)
        self.engines = [
            Engine(7, index, server="node:1", clock=lambda: self.time, envs=self.envs, random=random)
            for index in range(partitions)
        ]
        if partitions > 1:
            # Like the onebox, see Replica.write_empty_record.
            for engine in self.engines:
                engine.apply(EMPTY_WRITE, 1)

    def call(self, rpc: Rpc, hash_key: bytes, argument: Any) -> Answer | None:
        engine = self.engines[crc64(hash_key) % self.partitions]
        if rpc.is_write and rpc.body_base + len(rpc.encode_argument(argument)) > MAX_WRITE_BYTES:
            return Answer("ERR_INVALID_DATA")
        if self.codec:
            argument = rpc.decode_argument(rpc.encode_argument(argument))
        if rpc.is_write:
            decree = engine.last_decree + 1
            response, batch = engine.write(rpc, argument, decree)
            engine.apply(batch, decree)
        else:
            found = engine.read(rpc, argument, partition_count=self.partitions)
            if found is None:
                return None
            response = found
        if self.codec:
            response, _ = type(response).decode(response.encode())
        return Answer("ERR_OK", response)

    def expire_ts(self, ttl: int) -> int:
        return int(self.time) - EPOCH + ttl

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def set_envs(self, envs: dict[str, str]) -> None:
        self.envs.update(envs)
