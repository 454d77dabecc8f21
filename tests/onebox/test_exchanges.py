"""Test that a onebox gives the recorded answers of a real cluster to the same bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pegasus_green.onebox import Onebox
from pegasus_green.protocol.framing import parse_reply
from pegasus_green.protocol.message import Message
from pegasus_green.protocol.rpc import BY_NAME
from tests.onebox.raw import Raw

RECORDING = Path(__file__).parents[1] / "conformance" / "data" / "frames.jsonl"
ROWS = [json.loads(line) for line in RECORDING.read_text().splitlines()]
# The time of the recording, from its TTL answers (Unix seconds).
MOMENT = 1451606400 + 343896385 - 100000
# Fields that differ between two clusters.
ADDRESSES = ("server", "primary", "hp_primary", "secondaries", "hp_secondaries", "create_second", "context_id")


def plain(value: Any) -> Any:
    """Return a response in the form of the recording; for fields that differ between clusters only their presence."""
    if isinstance(value, Message):
        value = {field.name: getattr(value, field.name) for field in value.FIELDS}
    if isinstance(value, dict):
        if value.keys() == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {
            name: bool(item) if name in ADDRESSES else round(item, -1) if name == "ttl_seconds" else plain(item)
            for name, item in value.items()
            if item is not None
        }
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def twin(make_box: Callable[..., Onebox]) -> Onebox:
    """Return a onebox with the tables of the recorded cluster, at its time."""
    box = make_box(metas=2, tables={}, assign_delay=60.0)
    box.set_leader(1)
    box.set_meta_state("active", 1)
    listed = next(row for row in ROWS if row["name"] == "list_apps")["decoded"]["result"]["infos"]
    for info in listed[:-1]:
        box.create_table(info["app_name"], info["partition_count"])
        box.tables.get(info["app_name"]).init_partition_count = info["init_partition_count"]
    box.clock.skipped = MOMENT - time.time()
    return box


def address(box: Onebox, row: dict[str, Any]) -> str:
    if "not the leader" in row["name"]:
        return box.meta_addresses[0]
    if row["rpc"].startswith("RPC_CM"):
        return box.meta_addresses[1]
    [route] = box.partitions("t3")[:1]
    return route["secondaries"][0] if "secondary" in row["name"] else route["primary"]


def test_the_recorded_requests_get_the_recorded_answers(twin: Onebox) -> None:
    raws: dict[str, Raw] = {}
    context = b""
    for _ in range(2):  # so that decrees agree with the recording
        put(twin, raws)
    for row in ROWS:
        name, request = row["name"], bytes.fromhex(row["request"])
        if name.startswith("scan "):
            recorded = row["argument"]["context_id"].to_bytes(8, "big", signed=True)
            request = request.replace(recorded, context)
        where = address(twin, row)
        if where not in raws:
            raws[where] = Raw(where)
        raw = raws[where]
        raw.sock.sendall(request)
        if row["decoded"] is None:
            continue
        frame = raw.frame()
        reply, wanted = parse_reply(frame), row["decoded"]
        assert (reply.error, reply.name, reply.seqid) == (wanted["frame_error"], wanted["name"], wanted["seq"]), name
        assert (reply.offset is None) == ("result" not in wanted), name
        if reply.offset is not None:
            response: Any = BY_NAME[row["rpc"]].response
            result = response.decode_reply(frame, reply.offset)
            assert plain(result) == plain(wanted["result"]), name
            if name.startswith("get_scanner"):
                context = result.context_id.to_bytes(8, "big", signed=True)
        if reply.error != "ERR_OK":
            assert frame.hex() == row["reply"], name
    assert len(ROWS) == 50
    assert twin.client_bugs == []


def put(box: Onebox, raws: dict[str, Raw]) -> None:
    row = next(row for row in ROWS if row["name"] == "remove v0")
    where = address(box, row)
    if where not in raws:
        raws[where] = Raw(where)
    raws[where].sock.sendall(bytes.fromhex(row["request"]))
    raws[where].frame()
