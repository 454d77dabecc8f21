"""Replay recorded calls against a target and compare the answers.

The recordings in ``data/`` come from a real cluster; ``data/README.md`` describes the format of their rows.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol.binary import BLOB_TYPE, ListOf, MapOf, WireType
from pegasus_green.protocol.message import Message, StructOf
from pegasus_green.protocol.rpc import Rpc

DATA = Path(__file__).parent / "data"
# Fields of answers that differ between clusters.
LOCAL_FIELDS = {"app_id", "partition_index", "decree", "server"}
TTL_TOLERANCE = 3
Row = dict[str, Any]


@dataclass
class Answer:
    """An answer: the frame error and, if the frame had a body, the response."""

    frame_error: str
    response: Message | None = None


class Target(Protocol):
    """Something that answers calls: engines in this process, or a cluster."""

    partitions: int

    def call(self, rpc: Rpc, hash_key: bytes, argument: Any) -> Answer | None:
        """Send a call to the partition of hash_key; return None if no answer is expected."""

    def expire_ts(self, ttl: int) -> int:
        """Return the expiry of a record that lives for so many seconds from now."""

    def sleep(self, seconds: float) -> None:
        """Advance the time of the records."""

    def set_envs(self, envs: dict[str, str]) -> None:
        """Set table envs and return when they have effect."""


@dataclass
class Report:
    """The result of replaying one file."""

    name: str
    answers: int = 0
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}: {self.answers - len(self.differences):,} of {self.answers:,} answers equal"

    def check(self) -> None:
        """Fail with the first differences."""
        shown = "\n".join(self.differences[:10])
        assert not self.differences, f"{self}\n{shown}"


class Tally:
    """Counts equal and unequal answers by kind of recording."""

    KINDS = (("scenarios", "scenarios"), ("extras", "extras"), ("walk", "walks"), ("frames", "exchanges"))

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = {}

    def add(self, name: str, answers: int, different: int) -> None:
        """Count a file's answers."""
        kind = next(kind for start, kind in self.KINDS if name.startswith(start))
        sums = self.counts.setdefault(kind, [0, 0])
        sums[0] += answers
        sums[1] += different

    def __str__(self) -> str:
        parts = [f"{kind} {self.counts[kind][0]:,}" for _, kind in self.KINDS if kind in self.counts]
        different = sum(sums[1] for sums in self.counts.values())
        return f"{', '.join(parts)}: {f'{different:,} DIFFERENT' if different else 'all equal'}"


def load(name: str) -> Iterator[Row]:
    """Yield the rows of a recording."""
    path = DATA / name
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def replay(name: str, rows: Iterable[Row], target: Target) -> Report:
    """Send the rows in order and compare each answer."""
    report = Report(name)
    contexts: dict[str, int] = {}
    for row in rows:
        if "sleep" in row:
            target.sleep(row["sleep"])
            continue
        if "env" in row:
            target.set_envs(row["env"])
            continue
        rpc = rpcs.BY_NAME[row["rpc"]]
        scenario = row["scenario"]
        argument = Builder(target, contexts.get(scenario, 0)).value(rpc.argument, row["req"])
        answer = target.call(rpc, unpack(row["hash_key"]), argument)
        report.answers += 1
        response = answer.response if answer is not None else None
        if rpc in (rpcs.GET_SCANNER, rpcs.SCAN) and response is not None:
            contexts[scenario] = response.context_id  # type: ignore[attr-defined]
        got, wanted = describe(answer), expected(row["answer"])
        if not same(got, wanted):
            what = json.dumps(row["req"])[:600]
            report.differences.append(f"{scenario} step {row['step']} {rpc.label} {what}\n  got {got}\n  not {wanted}")
    return report


# --------------------------------------------------------------------------------------------------- requests
class Builder:
    """Make the argument of a call from the ``req`` of a row."""

    def __init__(self, target: Target, context_id: int) -> None:
        self.target, self.context_id = target, context_id

    def value(self, wire: WireType, raw: Any) -> Any:
        if isinstance(wire, StructOf):
            return self.struct(wire.cls, raw)
        if isinstance(wire, ListOf):
            return [self.value(wire.element, item) for item in raw]
        if wire is BLOB_TYPE:
            return unpack(raw)
        if isinstance(raw, dict) and not isinstance(wire, MapOf):
            return self.context_id if "ctx" in raw else self.target.expire_ts(raw["ttl"])
        return raw

    def struct(self, cls: type[Message], raw: dict[str, Any]) -> Message:
        wires = {declared.name: declared.wire for declared in cls.FIELDS}
        return cls(**{name: self.value(wires[name], value) for name, value in raw.items()})


def unpack(raw: dict[str, Any]) -> bytes:
    """Return the bytes that a recording writes as hex or as n times the same byte."""
    return bytes.fromhex(raw["hex"]) if "hex" in raw else bytes.fromhex(raw["fill"]) * raw["n"]


# --------------------------------------------------------------------------------------------------- answers
def describe(answer: Answer | None) -> Any:
    """Return an answer as the recordings describe it, bytes as bytes."""
    if answer is None:
        return None
    result: dict[str, Any] = {"frame_error": answer.frame_error}
    if answer.response is not None:
        result["result"] = _fields(answer.response)
    return result


def _fields(message: Message) -> dict[str, Any]:
    result = {}
    for declared in message.FIELDS:
        name, value = declared.name, getattr(message, declared.name)
        if name in LOCAL_FIELDS or value is None:
            continue
        if isinstance(value, list):
            value = [_fields(item) for item in value]
        elif name == "context_id" and value not in (-1, 0):
            value = "valid"
        elif name == "expire_ts_seconds" and value != 0:
            value = "set"
        result[name] = value
    return result


def expected(raw: Any) -> Any:
    """Return a recorded answer with its bytes unpacked."""
    if isinstance(raw, list):
        return [expected(item) for item in raw]
    if isinstance(raw, dict):
        if raw.keys() in ({"hex"}, {"fill", "n"}):
            return unpack(raw)
        if raw.keys() == {"host", "port", "type"}:
            return f"{raw['host']}:{raw['port']}" if raw["type"] else ""
        return {name: expected(value) for name, value in raw.items()}
    return raw


def same(got: Any, wanted: Any) -> bool:
    """Compare two described answers. TTLs may differ by the duration of the calls."""
    if got == wanted:
        return True
    try:
        left, right = got["result"]["ttl_seconds"], wanted["result"]["ttl_seconds"]
    except (KeyError, TypeError):
        return False
    # -1 means "no expiry" and 0 "no record"; only other TTLs may differ.
    if min(left, right) <= 0 or abs(left - right) > TTL_TOLERANCE:
        return False
    return bool(got == {**wanted, "result": {**wanted["result"], "ttl_seconds": left}})
