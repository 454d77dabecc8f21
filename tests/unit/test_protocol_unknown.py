"""Test unknown fields of newer servers: they are skipped, or are a clear error where their end cannot be found."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TType
from thrift.transport.TTransport import TMemoryBuffer

from pegasus_green.errors import ProtocolError
from pegasus_green.protocol import meta, rpc, rrdb
from pegasus_green.protocol.binary import UnskippableField
from tests.fuzz import idl

KINDS = sorted(idl.STRUCTS)
NEW = 77


def field(code: int, number: int, payload: bytes) -> bytes:
    return struct.pack(">BH", code, number) + payload


# Type byte and payload of values whose end a generic skip can find.
PLAIN: dict[str, tuple[int, bytes]] = {
    "bool": (TType.BOOL, b"\1"),
    "byte": (TType.BYTE, b"\x80"),
    "i16": (TType.I16, b"\0\1"),
    "i32": (TType.I32, b"\0\0\0\1"),
    "i64": (TType.I64, b"\0" * 8),
    "double": (TType.DOUBLE, struct.pack(">d", 1.5)),
    "string": (TType.STRING, b"\0\0\0\5hello"),
    "string, not UTF-8": (TType.STRING, b"\0\0\0\2\xff\xfe"),
    "empty string": (TType.STRING, b"\0\0\0\0"),
    "list<i32>": (TType.LIST, b"\x08\0\0\0\2" + b"\0" * 8),
    "list<string>": (TType.LIST, b"\x0b\0\0\0\2" + b"\0\0\0\1a" + b"\0\0\0\0"),
    "set<i64>": (TType.SET, b"\x0a\0\0\0\1" + b"\0" * 8),
    "map<string,i32>": (TType.MAP, b"\x0b\x08\0\0\0\1" + b"\0\0\0\1a" + b"\0\0\0\1"),
    "map<i32,i64>": (TType.MAP, b"\x08\x0a\0\0\0\2" + b"\0" * 24),
    "map<string,list<bool>>": (TType.MAP, b"\x0b\x0f\0\0\0\1" + b"\0\0\0\1a" + b"\x02\0\0\0\3\1\0\1"),
    "list<list<map>>": (TType.LIST, b"\x0f\0\0\0\1" + b"\x0d\0\0\0\1" + b"\x08\x08\0\0\0\0"),
    "empty list of STRUCT": (TType.LIST, b"\x0c\0\0\0\0"),
    "empty set of STRUCT": (TType.SET, b"\x0c\0\0\0\0"),
    "empty map to STRUCT": (TType.MAP, b"\x0b\x0c\0\0\0\0"),
    "empty list of no type": (TType.LIST, b"\0\0\0\0\0"),
}
# Values that cannot be skipped without knowing the field.
BARE: dict[str, tuple[int, bytes]] = {
    "blob": (TType.STRUCT, b"\0\0\0\1x"),
    "host_port": (TType.STRUCT, b"\0\0\0\1h\0\1\1"),
    "struct": (TType.STRUCT, b"\x08\0\1\0\0\0\1\0"),
    "list<address>": (TType.LIST, b"\x0c\0\0\0\1" + b"\0" * 8),
    "set<blob>": (TType.SET, b"\x0c\0\0\0\1" + b"\0" * 4),
    "map<string,blob>": (TType.MAP, b"\x0b\x0c\0\0\0\1" + b"\0\0\0\1a" + b"\0" * 4),
    "map<gpid,i32>": (TType.MAP, b"\x0c\x08\0\0\0\1" + b"\0" * 12),
    "list<list<blob>>": (TType.LIST, b"\x0f\0\0\0\1" + b"\x0c\0\0\0\1" + b"\0" * 4),
}
AT_THE_FRONT, AT_THE_END = 1, 2


def with_field(raw: bytes, extra: bytes, place: int) -> bytes:
    return extra + raw if place == AT_THE_FRONT else raw[:-1] + extra + b"\0"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [AT_THE_FRONT, AT_THE_END])
def test_plain_fields_are_skipped_in_every_struct(kind: str, place: int) -> None:
    message = idl.build(kind, idl.sample(kind))
    for code, payload in PLAIN.values():
        for number in (NEW, 0x7FFF, 0xFFFF):
            data = with_field(message.encode(), field(code, number, payload), place)
            assert type(message).decode(data) == (message, len(data))
            assert type(message).decode_reply(data) == message


@settings(max_examples=50)
@given(st.data())
def test_plain_fields_are_skipped_inside_list_elements(data: st.DataObject) -> None:
    rows = data.draw(st.lists(idl.messages("KeyValue"), min_size=1, max_size=3))
    extras = [
        field(code, NEW, payload) for code, payload in data.draw(st.lists(st.sampled_from(sorted(PLAIN.values()))))
    ]
    raw = b"\x0f\0\2\x0c" + struct.pack(">i", len(rows))
    raw += b"".join(with_field(row.encode(), b"".join(extras), data.draw(st.sampled_from([1, 2]))) for row in rows)
    assert rrdb.MultiGetResponse.decode_reply(raw + b"\0").kvs == rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bare", BARE)
def test_a_reply_keeps_the_fields_before_an_unknown_struct_field(kind: str, bare: str) -> None:
    rows = idl.STRUCTS[kind]
    code, payload = BARE[bare]
    everything = idl.sample(kind)
    for count in range(len(rows) + 1):
        before = {name: everything[name] for _, name, *_ in rows[:count]}
        after = {name: everything[name] for _, name, *_ in rows[count:]}
        raw = idl.encode(kind, before)[:-1] + field(code, NEW, payload) + idl.encode(kind, after)
        message = idl.CLASSES[kind].decode_reply(raw)
        blank = idl.CLASSES[kind].decode(b"\0")[0]
        for _, name, field_kind, _ in rows[:count]:
            assert getattr(message, name) == idl.build(field_kind, before[name])
        for _, name, *_ in rows[count:]:
            assert getattr(message, name) == getattr(blank, name)


@pytest.mark.parametrize("bare", BARE)
def test_an_unknown_struct_field_in_a_nested_struct_is_an_error_that_names_it(bare: str) -> None:
    code, payload = BARE[bare]
    extra = field(code, 4, payload)
    row = b"\x0c\0\1\0\0\0\1k" + extra + b"\0"
    in_list = b"\x08\0\1\0\0\0\0" + b"\x0f\0\2\x0c\0\0\0\1" + row + b"\0"
    with pytest.raises(UnskippableField, match=r"MultiGetResponse\.kvs: unknown field KeyValue\.4 has type STRUCT"):
        rrdb.MultiGetResponse.decode_reply(in_list)
    nested = b"\x0c\0\2" + field(code, NEW, payload) + b"\0\0"
    with pytest.raises(UnskippableField, match=r"RecallAppResponse\.info: unknown field AppInfo\.77"):
        meta.RecallAppResponse.decode_reply(nested)
    with pytest.raises(UnskippableField, match=r"KeyValue\.4"):
        rrdb.KeyValue.decode(row)
    assert issubclass(UnskippableField, ProtocolError)


def test_an_unknown_struct_field_in_a_request_is_an_error() -> None:
    raw = rpc.PUT.encode_argument(rrdb.UpdateRequest(b"\0\0k"))[:-2] + b"\x0c\0\x08\0\0\0\0" + b"\0\0"
    with pytest.raises(ProtocolError, match=r"UpdateRequest\.8"):
        rpc.PUT.decode_argument(raw)


@pytest.mark.parametrize("bare", [*BARE, "reading"])
def test_the_skip_method_of_thrift_is_not_used_for_structs(bare: str) -> None:
    code, payload = BARE.get(bare, PLAIN["list<string>"])
    raw = field(code, NEW, payload) + b"\x08\0\1\0\0\0\5\0"
    message = rrdb.ReadResponse()
    if bare in BARE:
        with pytest.raises(UnskippableField, match=r"ReadResponse\.77"):
            message.read(TBinaryProtocol(TMemoryBuffer(raw)))
    else:
        message.read(TBinaryProtocol(TMemoryBuffer(raw)))
        assert message.error == 5


@pytest.mark.parametrize("plain", PLAIN)
def test_plain_fields_are_skipped_through_thrift(plain: str) -> None:
    code, payload = PLAIN[plain]
    message = rrdb.ReadResponse()
    message.read(TBinaryProtocol(TMemoryBuffer(field(code, NEW, payload) + b"\x08\0\1\0\0\0\5\0")))
    assert message.error == 5


def test_a_known_field_of_another_type_is_skipped() -> None:
    raw = b"\x0b\0\2\0\0\0\4text" + b"\x08\0\3\0\0\0\x09" + b"\x0a\0\4" + b"\0" * 8 + b"\0"
    assert rrdb.ReadResponse.decode_reply(raw) == rrdb.ReadResponse(app_id=9)
    response = rrdb.ReadResponse()
    response.read(TBinaryProtocol(TMemoryBuffer(raw)))
    assert response == rrdb.ReadResponse(app_id=9)


@pytest.mark.parametrize(
    ("cls", "raw", "words"),
    [
        (rrdb.MultiGetResponse, b"\x0f\0\2\x08\0\0\0\1\0\0\0\1\0", "kvs: a list of type 8; 12 is expected"),
        (meta.AppInfo, b"\x0d\0\6\x0b\x08\0\0\0\1\0\0\0\0\0\0\0\0\0", "envs: a map of 11 to 8; 11 to 11"),
    ],
)
def test_containers_of_another_type_are_refused(cls: Any, raw: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        cls.decode_reply(raw)
    with pytest.raises(ProtocolError, match=words.partition(": ")[2]):
        cls().read(TBinaryProtocol(TMemoryBuffer(raw)))


def test_empty_containers_may_say_any_type() -> None:
    assert rrdb.MultiGetResponse.decode_reply(b"\x0f\0\2\0\0\0\0\0\0").kvs == []
    assert meta.AppInfo.decode_reply(b"\x0d\0\6\0\0\0\0\0\0\0").envs == {}


def test_the_last_of_two_equal_fields_is_used() -> None:
    assert rrdb.ReadResponse.decode_reply(b"\x08\0\1\0\0\0\1\x08\0\1\0\0\0\2\0").error == 2


def test_fields_may_come_in_any_order() -> None:
    raw = b"\x08\0\3\0\0\0\3" + b"\x0c\0\2\0\0\0\1v" + b"\x08\0\1\0\0\0\1" + b"\0"
    assert rrdb.ReadResponse.decode_reply(raw) == rrdb.ReadResponse(1, b"v", 3)


# ---------------------------------------------------------------------------------------------- the ones that are known
@settings(max_examples=50)
@given(st.data())
def test_routes_of_both_releases(data: st.DataObject) -> None:
    value = data.draw(idl.values("QueryCfgResponse"))
    names = ("hp_primary", "hp_secondaries", "hp_last_drops")
    older = {**value, "partitions": [{k: v for k, v in p.items() if k not in names} for p in value["partitions"]]}
    for routes in (value, older):
        found = meta.QueryCfgResponse.decode_reply(idl.encode("QueryCfgResponse", routes))
        assert idl.plain(found) == routes
    assert all(
        p.hp_primary is None
        for p in meta.QueryCfgResponse.decode_reply(idl.encode("QueryCfgResponse", older)).partitions
    )
