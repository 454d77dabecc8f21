"""Test the fuzz targets with random bytes, damaged streams of real frames, and the corpus."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pegasus_green.protocol import rpc
from pegasus_green.protocol.framing import encode_reply, encode_request
from tests.fuzz import idl
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(CORPUS.glob("*/*"))
NAMES = sorted(idl.RPCS)
SEQIDS = st.integers(-(2**31), 2**31 - 1)


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """Draw a reply of any RPC, with or without a body that fits."""
    name = draw(st.sampled_from(NAMES))
    kind = idl.RPCS[draw(st.sampled_from([name, name, name, *NAMES[:3]]))].split()[1]
    error = draw(st.sampled_from(["ERR_OK", "ERR_OK", "ERR_OK", "ERR_BUSY", "ERR_NEW"]))
    result = idl.encode(kind, draw(idl.values(kind))) if kind != "-" and draw(st.booleans()) else None
    return encode_reply(name, draw(SEQIDS), error, result)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a request of any RPC in either header version."""
    row = rpc.BY_NAME[draw(st.sampled_from(NAMES))]
    kind = idl.RPCS[row.name].split()[0]
    argument = row.encode_argument(draw(idl.messages(kind) if kind in idl.STRUCTS else idl.values(kind)))
    version = draw(st.integers(0, 1))
    return encode_request(
        row,
        draw(SEQIDS),
        argument,
        app_id=draw(SEQIDS),
        partition_index=draw(SEQIDS),
        partition_hash=draw(st.integers(0, 2**64 - 1)),
        version=version,
        backup=version == 1 and draw(st.booleans()),
    )


@st.composite
def damaged(draw: st.DrawFn, frames: st.SearchStrategy[bytes]) -> bytes:
    """Draw a stream of frames with some bytes overwritten, taken out, put in or doubled."""
    data = bytearray(b"".join(draw(st.lists(frames, min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        act = draw(st.integers(0, 4))
        if act == 0:
            data[at : at + 1] = bytes([draw(st.sampled_from([0, 1, 2, 11, 12, 13, 15, 127, 128, 255]))])
        elif act == 1:
            number = draw(st.sampled_from([0, 1, 20, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data)]))
            data[at : at + 4] = struct.pack(">I", number)
        elif act == 2:
            del data[at : at + draw(st.integers(1, 8))]
        elif act == 3:
            data[at:at] = draw(st.binary(max_size=8))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 20))]
    return bytes(data)


FRAMES = {"reply": replies(), "request": requests()}


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=300)
@given(data=st.data())
def test_random_bytes_raise_only_protocol_errors(target: str, data: st.DataObject) -> None:
    raw = data.draw(st.binary(max_size=200))
    TARGETS[target](raw)
    prefix = struct.pack(">i", len(raw) + 4) if target == "reply" else b"THFT"
    TARGETS[target](prefix + raw)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=100)
@given(data=st.data())
def test_all_whole_frames_of_a_stream_are_read(target: str, data: st.DataObject) -> None:
    frames = data.draw(st.lists(requests(), max_size=4))
    if target == "request":
        assert TARGETS[target](b"".join(frames)) == len(frames)
    else:
        TARGETS[target](b"".join(data.draw(st.lists(replies(), max_size=4))))


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=250)
@given(data=st.data())
def test_damaged_streams_raise_only_protocol_errors(target: str, data: st.DataObject) -> None:
    TARGETS[target](data.draw(damaged(FRAMES[target])))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_file_of_the_corpus_is_decoded_in_bounded_time_and_memory(path: Path) -> None:
    data = path.read_bytes()
    started = time.process_time()
    decoded = TARGETS[path.parent.name](data)
    assert time.process_time() - started < 2.0
    assert bool(decoded) == path.name.startswith("good"), "the names of the seeds tell which can be read"
    tracemalloc.start()
    try:
        TARGETS[path.parent.name](data)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_the_corpus_covers_every_target() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
    assert len(FILES) >= 30
    assert sum(path.stat().st_size for path in FILES) < 64 * 1024, "small enough for the repository"
