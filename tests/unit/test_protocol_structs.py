"""Test every struct against Apache Thrift, with the declarations of the package and with a second table."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.protocol.TJSONProtocol import TJSONProtocol
from thrift.Thrift import TType
from thrift.transport.TTransport import TMemoryBuffer

from pegasus_green.errors import InvalidArgument, ProtocolError
from pegasus_green.protocol import binary, fast, meta, remote, rpc, rrdb
from pegasus_green.protocol.message import Message, StructOf
from tests.fuzz import idl

KINDS = sorted(idl.STRUCTS)
NAMES = {
    binary.BOOL_TYPE: "bool",
    binary.I32_TYPE: "i32",
    binary.I64_TYPE: "i64",
    binary.TEXT_TYPE: "string",
    binary.ERROR_TYPE: "error",
    binary.BLOB_TYPE: "blob",
    binary.GPID_TYPE: "gpid",
    binary.ADDRESS_TYPE: "address",
    binary.HOST_PORT_TYPE: "host_port",
}


def kind_of(wire: Any) -> str:
    if isinstance(wire, binary.ListOf):
        return f"list:{kind_of(wire.element)}"
    if isinstance(wire, binary.SetOf):
        return f"set:{kind_of(wire.element)}"
    if isinstance(wire, binary.MapOf):
        return f"map:{kind_of(wire.key)}:{kind_of(wire.value)}"
    return wire.cls.__name__ if isinstance(wire, StructOf) else NAMES[wire]


# --------------------------------------------------------------------------------------------------------- declarations
def test_the_table_has_every_struct_of_the_package() -> None:
    package = {cls for cls in Message.__subclasses__() if cls.__module__.startswith("pegasus_green.")}
    assert package == set(idl.CLASSES.values())


@pytest.mark.parametrize("kind", KINDS)
def test_declarations_equal_the_table(kind: str) -> None:
    declared = [(field.id, field.name, kind_of(field.wire), field.optional) for field in idl.CLASSES[kind].FIELDS]
    assert declared == idl.STRUCTS[kind]
    numbers = [number for number, *_ in declared]
    assert numbers == sorted(set(numbers)), "fields are written in ascending order"


def test_the_rpc_table_equals_the_second_table() -> None:
    found = {}
    for row in rpc.BY_NAME.values():
        found[row.name] = f"{kind_of(row.argument)} {row.response.__name__ if row.response else '-'}"
        verb = row.name.removeprefix("RPC_RRDB_RRDB_")
        data_plane = verb != row.name
        assert row.is_write == (data_plane and verb in idl.WRITES)
        assert row.to_meta == (not data_plane)
        if data_plane:
            assert row.repeatable == (verb not in idl.NOT_IDEMPOTENT)
    assert found == idl.RPCS
    assert [row.name for row in rpc.BY_NAME.values() if row.bare] == ["RPC_CLI_CLI_CALL"]
    assert len(rpc.RRDB_RPCS) == 15
    assert len({row.label for row in rpc.BY_NAME.values()}) == len(idl.RPCS)


# ---------------------------------------------------------------------------------------------------------------- bytes
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_encoding_equals_thrift_and_decoding_inverts_it(kind: str, data: st.DataObject) -> None:
    value = data.draw(idl.values(kind))
    message = idl.build(kind, value)
    cls, raw = type(message), message.encode()
    assert raw == idl.encode(kind, value), "Thrift, driven by the second table"
    assert raw == idl.thrift_bytes(message.write), "Thrift, driven by our declarations"
    assert idl.decode(kind, raw) == value
    assert cls.decode(raw) == (message, len(raw))
    assert cls.decode_reply(raw) == message
    assert cls.decode(memoryview(b"12" + raw + b"\0\1"), 2) == (message, 2 + len(raw))
    assert cls.decode(bytearray(raw))[0].encode() == raw
    other = idl.build(kind, {})
    other.read(TBinaryProtocol(TMemoryBuffer(raw)))
    assert other == message


@pytest.mark.parametrize("kind", KINDS)
def test_structs_are_carried_by_any_thrift_protocol(kind: str) -> None:
    message = idl.build(kind, idl.sample(kind))
    # JSON has no form for a host_port's three bare values in a row.
    protocols = (
        [TCompactProtocol] if "host_port" in repr(idl.STRUCTS[kind]) + kind else [TCompactProtocol, TJSONProtocol]
    )
    if kind in ("QueryCfgResponse", "ListNodesResponse", "LostPartition", "DiagnoseResponse", "BalancerRequest"):
        protocols = [TCompactProtocol]
    for protocol in protocols:
        buffer = TMemoryBuffer()
        message.write(protocol(buffer))
        other = idl.build(kind, {})
        other.read(protocol(TMemoryBuffer(buffer.getvalue())))
        assert other == message


@settings(max_examples=100)
@given(data=st.data())
def test_arguments_are_field_1_of_a_struct(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(idl.RPCS)))
    kind = idl.RPCS[name].split()[0]
    value = data.draw(idl.values(kind))

    def write(protocol: Any) -> None:
        protocol.writeFieldBegin("", idl.type_code(kind), 1)
        idl.write(protocol, kind, value)
        protocol.writeFieldStop()

    raw = rpc.BY_NAME[name].encode_argument(idl.build(kind, value))
    assert raw == idl.thrift_bytes(write)
    assert rpc.BY_NAME[name].decode_argument(b"xyz" + raw, 3) == idl.build(kind, value)


def test_the_reply_of_a_remote_command_is_a_string_in_field_0() -> None:
    def write(protocol: Any) -> None:
        protocol.writeFieldBegin("success", TType.STRING, 0)
        protocol.writeString("Display help information")
        protocol.writeFieldStop()

    head = struct.pack(">i", 0) + rpc.CLI_CALL.ok_head + struct.pack(">i", 7)
    frame = head + idl.thrift_bytes(write)
    assert fast.decode(rpc.CLI_CALL, frame) == remote.CommandReply("Display help information")
    with pytest.raises(ProtocolError, match="no result in the reply"):
        fast.decode(rpc.CLI_CALL, head)


def test_the_outer_field_of_an_argument_does_not_matter() -> None:
    raw = bytearray(rpc.GET.encode_argument(b"\0\1a"))
    raw[:3] = b"\x08\x7f\x01"
    assert rpc.GET.decode_argument(bytes(raw) + b"behind the STOP") == b"\0\1a"


# ------------------------------------------------------------------------------------------------------ absent, default
@pytest.mark.parametrize("kind", KINDS)
def test_absent_fields_have_the_protocols_defaults(kind: str) -> None:
    plain: dict[str, Any] = {"bool": False, "string": "", "blob": b"", "error": "ERR_UNKNOWN"}
    message, end = idl.CLASSES[kind].decode(b"\0")
    assert end == 1
    for _, name, field_kind, optional in idl.STRUCTS[kind]:
        value = getattr(message, name)
        if name == "init_partition_count":
            assert value == -1, "the only one to which the IDL gives another"
        elif optional:
            assert value is None
        elif field_kind in idl.STRUCTS:
            assert value == idl.CLASSES[field_kind]()
        else:
            empty: dict[str, Any] = {"list": [], "set": [], "map": {}}
            assert value == plain.get(field_kind, empty.get(field_kind.split(":")[0], 0))
    assert idl.CLASSES[kind].decode(message.encode())[0] == message


def test_an_absent_error_field_is_not_success() -> None:
    assert meta.QueryCfgResponse.decode(b"\0")[0].err == "ERR_UNKNOWN"
    assert meta.QueryCfgResponse().err == "ERR_OK"


def test_optional_fields_with_a_default_are_written_as_real_servers_do() -> None:
    written = idl.decode("AppInfo", meta.AppInfo().encode())
    assert (written["duplicating"], written["is_bulk_loading"], written["init_partition_count"]) == (False, False, -1)
    assert "atomic_idempotent" not in written, "unknown to servers up to 2.5"


def test_containers_are_not_shared() -> None:
    for one, other in (
        (rrdb.MultiGetResponse(), rrdb.MultiGetResponse()),
        (rrdb.MultiGetResponse.decode(b"\0")[0], rrdb.MultiGetResponse.decode(b"\0")[0]),
    ):
        one.kvs.append(rrdb.KeyValue())
        assert other.kvs == rrdb.MultiGetResponse().kvs == []
    request = meta.CreateAppRequest()
    request.options.envs["a"] = "b"
    assert meta.CreateAppRequest().options.envs == {} == meta.CreateAppOptions().envs


def test_messages_compare_and_show_their_fields() -> None:
    one = rrdb.KeyValue(b"k", value=b"v")
    assert one == rrdb.KeyValue(key=b"k", value=b"v") != rrdb.KeyValue(b"k")
    assert one != rrdb.FullKey(b"k", b"v")
    assert repr(one) == "KeyValue(key=b'k', value=b'v', expire_ts_seconds=None)"
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


@pytest.mark.parametrize(("args", "names"), [((1, 2, 3, 4), {}), ((), {"valeu": b""}), ((), {"FIELDS": ()})])
def test_unknown_fields_are_refused_by_the_constructor(args: tuple[Any, ...], names: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"KeyValue has no such fields: (4|valeu|FIELDS)$"):
        rrdb.KeyValue(*args, **names)


# --------------------------------------------------------------------------------------------------- what cannot go out
@pytest.mark.parametrize(
    ("message", "words"),
    [
        (rrdb.IncrRequest(b"k", 2**63), "IncrRequest.increment cannot be 9223372036854775808"),
        (rrdb.IncrRequest(b"k", -(2**63) - 1), "IncrRequest.increment"),
        (rrdb.MultiGetRequest(max_kv_count=2**31), "MultiGetRequest.max_kv_count cannot be 2147483648.*2147483647"),
        (rrdb.MultiGetRequest(max_kv_count="x"), "MultiGetRequest.max_kv_count"),  # type: ignore[arg-type]
        (rrdb.MultiPutRequest(kvs=[rrdb.KeyValue(expire_ts_seconds=1 << 40)]), "KeyValue.expire_ts_seconds"),
        (meta.QueryCfgRequest("\ud800"), "QueryCfgRequest.app_name.*surrogates"),
        (meta.PartitionConfiguration(primary=1 << 64), "PartitionConfiguration.primary"),
        (meta.NodeInfo(hp_node="host:65536"), "NodeInfo.hp_node cannot be 'host:65536'"),
    ],
)
def test_values_outside_their_type_name_the_field(message: Message, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        message.encode()


# --------------------------------------------------------------------------------------------------- numbers with parts
def test_gpid_and_address_layouts() -> None:
    assert meta.make_gpid(2, 7).to_bytes(8, "big").hex(" ") == "00 00 00 07 00 00 00 02"
    assert meta.make_address("127.0.0.1", 34801).to_bytes(8, "big").hex(" ") == "7f 00 00 01 87 f1 00 01"
    assert meta.make_address("192.168.0.1", 34601).to_bytes(8, "big").hex(" ") == "c0 a8 00 01 87 29 00 01"
    assert [meta.format_address(raw) for raw in (0, 1 << 16, 2, 3)] == ["", "", "", ""]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_gpids_are_split_into_their_parts(app_id: int, index: int) -> None:
    assert meta.split_gpid(meta.make_gpid(app_id, index)) == (app_id, index)


@given(st.tuples(*[st.integers(0, 255)] * 4), st.integers(0, 65535))
def test_addresses_are_split_into_their_parts(ip: tuple[int, ...], port: int) -> None:
    host = ".".join(map(str, ip))
    assert meta.format_address(meta.make_address(host, port)) == f"{host}:{port}"


@pytest.mark.parametrize(
    "host", ["", "localhost", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.-4", "1.2.3.+4", "1.2.3.\u0664", "1..2.3"]
)
def test_invalid_ipv4_addresses_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="not an IPv4 address"):
        meta.make_address(host, 1)


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_of_addresses_have_16_bits(port: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 65535"):
        meta.make_address("127.0.0.1", port)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("00000009 6c6f63616c686f7374 87f1 01", "localhost:34801"),
        ("00000003 3a3a31 87f1 01", "::1:34801"),
        ("00000000 0000 00", ""),
        ("00000001 68 0001 00", ""),  # type invalid
        ("00000001 68 0001 02", ""),  # a group: nothing to dial
        ("00000000 0001 01", ""),  # no host
    ],
)
def test_host_ports(raw: str, text: str) -> None:
    data = bytes.fromhex(raw)
    assert binary.HOST_PORT_TYPE.read(data, 0) == (text, len(data))
    assert binary.HOST_PORT_TYPE.from_thrift(TBinaryProtocol(TMemoryBuffer(data))) == text
