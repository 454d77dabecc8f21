"""Write the corpus again: `python -m tests.fuzz.seeds`. Its files are raw streams, as libFuzzer expects them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from pegasus_green.protocol import rpc
from pegasus_green.protocol.framing import encode_reply, encode_request
from tests.fuzz import idl

CORPUS = Path(__file__).parent / "corpus"
# Meta RPCs with message layouts that the others do not have.
META = (
    "QUERY_PARTITION_CONFIG_BY_INDEX",
    "CREATE_APP",
    "LIST_APPS",
    "LIST_NODES",
    "UPDATE_APP_ENV",
    "QUERY_PARTITION_SPLIT",
)
HUGE = b"\x7f\xff\xff\xff"


def _short(name: str) -> str:
    return name.removeprefix("RPC_").removeprefix("RRDB_RRDB_").removeprefix("CM_").lower()


def _frames() -> Iterator[tuple[str, str, bytes]]:
    for number, (name, kinds) in enumerate(idl.RPCS.items()):
        if name.startswith("RPC_CM_") and name.removeprefix("RPC_CM_") not in META:
            continue
        argument_kind, result_kind = kinds.split()
        row = rpc.BY_NAME[name]
        argument = row.encode_argument(idl.build(argument_kind, idl.sample(argument_kind)))
        frame = encode_request(
            row, number, argument, app_id=2, partition_index=7, partition_hash=1 << 63, version=number % 2
        )
        yield "request", f"good_{_short(name)}", frame
        if result_kind != "-":
            result = idl.encode(result_kind, idl.sample(result_kind))
            yield "reply", f"good_{_short(name)}", encode_reply(name, number, result=result)


def _body(result: bytes) -> bytes:
    return encode_reply(rpc.MULTI_GET.name, 1, result=result)


def _argument(argument: bytes, version: int = 1) -> bytes:
    return encode_request(rpc.BATCH_GET, 1, argument, version=version)


def _bad() -> Iterator[tuple[str, str, bytes]]:
    yield "reply", "bad_rejected", encode_reply(rpc.GET.name, 1, "ERR_OBJECT_NOT_FOUND")
    yield "reply", "bad_ok_without_body", encode_reply(rpc.PUT.name, 1)
    yield "reply", "bad_length", HUGE + b"\0\0\0\6ERR_OK"
    yield "reply", "bad_short", struct.pack(">i", 5) + b"\0"
    yield "reply", "bad_call_in_place_of_reply", encode_reply("RPC_X", 1).replace(b"\x80\1\0\2", b"\x80\1\0\1")
    yield "reply", "bad_cut_in_the_value", encode_reply(rpc.GET.name, 1, result=b"\x0c\0\2\0\0\0\x50val")
    yield "reply", "bad_cut_in_the_size", encode_reply(rpc.GET.name, 1, result=b"\x08\0\1\0\0\0\0\x0c\0\2\0")
    yield "reply", "bad_count", _body(b"\x0f\0\2\x0c" + HUGE)
    yield "reply", "bad_count_of_empty_structs", _body(b"\x0f\0\2\x0c\0\0\x40\0" + bytes(0x4000))
    yield "reply", "bad_unknown_struct_in_a_row", _body(b"\x0f\0\2\x0c\0\0\0\1\x0c\0\4\0\0\0\1x\0\0")
    yield "reply", "bad_depth", _body(b"\x0f\0\x63" + b"\x0f\0\0\0\1" * 200)
    yield "reply", "bad_text", _body(b"\x0b\0\6\0\0\0\2\xff\xfe\0")
    yield "request", "bad_magic", b"GET / HTTP/1.1\r\n\r\n"
    yield "request", "bad_version", b"THFT" + struct.pack(">iii", 2, 37, 40) + bytes(80)
    yield "request", "bad_header_length", b"THFT" + struct.pack(">ii", 0, 47) + bytes(80)
    yield "request", "bad_empty_body", b"THFT" + struct.pack(">iii", 1, 1, 0) + b"\0"
    yield "request", "bad_meta", b"THFT" + struct.pack(">iii", 1, 4, 8) + b"\x0c\0\x09\0" + bytes(8)
    yield "request", "bad_body_length", b"THFT" + struct.pack(">iii", 1, 37, 0x7FFFFFFF) + bytes(80)
    yield "request", "bad_reply_in_place_of_call", _argument(b"\0").replace(b"\x80\1\0\1", b"\x80\1\0\2")
    yield "request", "bad_count", _argument(b"\x0c\0\1\x0f\0\1\x0c" + HUGE)
    yield "request", "bad_count_v0", _argument(b"\x0c\0\1\x0f\0\1\x0c\xff\xff\xff\xff", 0)
    yield "request", "bad_blob", encode_request(rpc.GET, 1, b"\x0c\0\1" + HUGE + b"key\0")
    yield "request", "bad_depth", _argument(b"\x0c\0\1\x0f\0\x63" + b"\x0f\0\0\0\1" * 200)


def main() -> None:
    """Write all files."""
    for target, name, data in (*_frames(), *_bad()):
        path = CORPUS / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
