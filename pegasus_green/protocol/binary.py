"""Thrift binary values in the format of Pegasus.

A ``WireType`` describes one kind of value: its type byte, its layout in TBinaryProtocol, and its conversion through any
Apache Thrift ``TProtocol``. The second way is for interoperation; tests compare the two.

Pegasus declares ``blob``, ``error_code``, ``gpid``, ``rpc_address`` and ``host_port`` as empty structs and writes their
content itself. The type byte of the field is STRUCT (0x0C), but the payload is a bare primitive without field headers
and without STOP. A generic skip of such a field desynchronises the parser. So an unknown field of type STRUCT ends the
decoding (``UnskippableField``), see ``message.Message.decode``.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

from ..errors import ProtocolError

Buffer = bytes | bytearray | memoryview

STOP, BOOL, BYTE, DOUBLE, I16, I32, I64, STRING, STRUCT, MAP, SET, LIST = 0, 2, 3, 4, 6, 8, 10, 11, 12, 13, 14, 15

# Sizes in bytes of the types with a fixed size.
_FIXED_SIZE = {BOOL: 1, BYTE: 1, DOUBLE: 8, I16: 2, I32: 4, I64: 8}
# No Pegasus message nests deeper than 5 levels. The limit protects the stack from hostile input.
MAX_DEPTH = 32
# Up to this count, a list is accepted if every element has at least one byte: a list may hold empty structs.
FREE_ELEMENTS = 1024

_I32 = struct.Struct(">i")
_I64 = struct.Struct(">q")
_U64 = struct.Struct(">Q")
_PORT_AND_TYPE = struct.Struct(">HB")
_FIELD = struct.Struct(">BH")
_MAP_HEAD = struct.Struct(">BBi")
_LIST_HEAD = struct.Struct(">Bi")


class UnskippableField(ProtocolError):
    """An unknown field of type STRUCT, whose end cannot be found."""


class WireType(Protocol):
    """One kind of value in the protocol."""

    code: int
    # Bytes of the smallest payload. The reader uses it to check counts against the remaining bytes.
    smallest: int

    def default(self) -> Any:
        """Return the value of an absent field."""

    def write(self, value: Any, out: bytearray) -> None:
        """Append the payload of value."""

    def read(self, data: Buffer, pos: int) -> tuple[Any, int]:
        """Return the value at pos and the position after it."""

    def to_thrift(self, value: Any, protocol: Any) -> None:
        """Write value through an Apache Thrift TProtocol."""

    def from_thrift(self, protocol: Any) -> Any:
        """Read a value through an Apache Thrift TProtocol."""


def need(data: Buffer, pos: int, size: int) -> int:
    """Return the end of size bytes at pos; raise ProtocolError if the message is shorter."""
    end = pos + size
    if size < 0 or end > len(data):
        raise ProtocolError(f"truncated: {size} bytes expected at offset {pos}, but the message ends at {len(data)}")
    return end


def read_i32(data: Buffer, pos: int) -> tuple[int, int]:
    """Read a signed 32-bit number."""
    end = need(data, pos, 4)
    return _I32.unpack_from(data, pos)[0], end


def read_binary(data: Buffer, pos: int) -> tuple[bytes, int]:
    """Read an i32 length and that many bytes."""
    size, pos = read_i32(data, pos)
    end = need(data, pos, size)
    return bytes(data[pos:end]), end


def read_text(data: Buffer, pos: int) -> tuple[str, int]:
    """Read a length-prefixed UTF-8 string."""
    raw, pos = read_binary(data, pos)
    try:
        return raw.decode("utf-8"), pos
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a text of {len(raw)} bytes is not UTF-8: {error}") from None


def write_binary(value: bytes, out: bytearray) -> None:
    """Append an i32 length and the bytes."""
    out += _I32.pack(len(value))
    out += value


def check_count(count: int, smallest: int, left: int, what: str) -> None:
    """Refuse an element count that the remaining bytes cannot hold, before memory is allocated for it."""
    if not 0 <= count <= left or (count > FREE_ELEMENTS and count * smallest > left):
        raise ProtocolError(f"{what} of {count} elements in a message with {left} bytes left")


def read_list_head(data: Buffer, pos: int, smallest: int = 1) -> tuple[int, int, int]:
    """Read element type and count. A count that the rest of the message cannot hold is refused."""
    end = need(data, pos, 5)
    code, count = _LIST_HEAD.unpack_from(data, pos)
    check_count(count, smallest, len(data) - end, "a list")
    return code, count, end


def read_map_head(data: Buffer, pos: int, smallest: int = 1) -> tuple[int, int, int, int]:
    """Read key type, value type and count, like ``read_list_head``."""
    end = need(data, pos, 6)
    key, value, count = _MAP_HEAD.unpack_from(data, pos)
    check_count(count, smallest, len(data) - end, "a map")
    return key, value, count, end


def _skip_elements(codes: tuple[int, ...], count: int, data: Buffer, pos: int, what: str, depth: int) -> int:
    sizes = [_FIXED_SIZE.get(code, 0) for code in codes]
    if all(sizes):
        # Elements of fixed size are skipped in one step.
        return need(data, pos, count * sum(sizes))
    for _ in range(count):
        for code in codes:
            pos = skip(code, data, pos, what, depth + 1)
    return pos


def skip(code: int, data: Buffer, pos: int, what: str, depth: int = 0) -> int:
    """Return the position after a value of a plain type.

    Raises:
        UnskippableField: The value is, or holds, a STRUCT. ``what`` names the field.
        ProtocolError: The type does not exist, or the value is truncated.
    """
    size = _FIXED_SIZE.get(code)
    if size is not None:
        return need(data, pos, size)
    if depth > MAX_DEPTH:
        raise ProtocolError(f"{what}: nested deeper than {MAX_DEPTH}")
    if code == STRING:
        size, pos = read_i32(data, pos)
        return need(data, pos, size)
    if code == STRUCT:
        raise UnskippableField(f"unknown field {what} has type STRUCT and cannot be skipped")
    if code in (LIST, SET):
        element, count, pos = read_list_head(data, pos)
        return _skip_elements((element,), count, data, pos, what, depth)
    if code == MAP:
        key, value, count, pos = read_map_head(data, pos)
        return _skip_elements((key, value), count, data, pos, what, depth)
    raise ProtocolError(f"{what}: type byte {code} does not exist")


def skip_thrift(protocol: Any, code: int, what: str) -> None:
    """Skip a value in an Apache Thrift TProtocol. Its own skip would read a STRUCT as field headers.

    Raises:
        UnskippableField: The value is, or holds, a STRUCT. ``what`` names the field.
    """
    if code == STRUCT:
        raise UnskippableField(f"unknown field {what} has type STRUCT and cannot be skipped")
    if code == STRING:
        protocol.readBinary()  # a generic skip would decode it as UTF-8
    elif code == MAP:
        key, value, count = protocol.readMapBegin()
        for _ in range(count):
            skip_thrift(protocol, key, what)
            skip_thrift(protocol, value, what)
        protocol.readMapEnd()
    elif code in (LIST, SET):
        element, count = protocol.readListBegin() if code == LIST else protocol.readSetBegin()
        for _ in range(count):
            skip_thrift(protocol, element, what)
        (protocol.readListEnd if code == LIST else protocol.readSetEnd)()
    else:
        protocol.skip(code)


class _Bool:
    code = BOOL
    smallest = 1

    def default(self) -> bool:
        return False

    def write(self, value: bool, out: bytearray) -> None:
        out.append(1 if value else 0)

    def read(self, data: Buffer, pos: int) -> tuple[bool, int]:
        return data[need(data, pos, 1) - 1] != 0, pos + 1

    def to_thrift(self, value: bool, protocol: Any) -> None:
        protocol.writeBool(value)

    def from_thrift(self, protocol: Any) -> bool:
        return bool(protocol.readBool())


class _I32Type:
    code = I32
    smallest = 4

    def default(self) -> int:
        return 0

    def write(self, value: int, out: bytearray) -> None:
        out += _I32.pack(value)

    def read(self, data: Buffer, pos: int) -> tuple[int, int]:
        return read_i32(data, pos)

    def to_thrift(self, value: int, protocol: Any) -> None:
        protocol.writeI32(value)

    def from_thrift(self, protocol: Any) -> int:
        return int(protocol.readI32())


class _I64Type:
    code = I64
    smallest = 8

    def default(self) -> int:
        return 0

    def write(self, value: int, out: bytearray) -> None:
        out += _I64.pack(value)

    def read(self, data: Buffer, pos: int) -> tuple[int, int]:
        end = need(data, pos, 8)
        return _I64.unpack_from(data, pos)[0], end

    def to_thrift(self, value: int, protocol: Any) -> None:
        protocol.writeI64(value)

    def from_thrift(self, protocol: Any) -> int:
        return int(protocol.readI64())


class _U64Struct(_I64Type):
    """A gpid or rpc_address: the raw unsigned 64-bit number under type STRUCT."""

    code = STRUCT

    def write(self, value: int, out: bytearray) -> None:
        out += _U64.pack(value)

    def read(self, data: Buffer, pos: int) -> tuple[int, int]:
        end = need(data, pos, 8)
        return _U64.unpack_from(data, pos)[0], end

    def to_thrift(self, value: int, protocol: Any) -> None:
        protocol.writeI64(value - (1 << 64) if value >= 1 << 63 else value)

    def from_thrift(self, protocol: Any) -> int:
        return int(protocol.readI64()) & 0xFFFFFFFFFFFFFFFF


class _Text:
    code = STRING
    smallest = 4

    def default(self) -> str:
        return ""

    def write(self, value: str, out: bytearray) -> None:
        write_binary(value.encode("utf-8"), out)

    def read(self, data: Buffer, pos: int) -> tuple[str, int]:
        return read_text(data, pos)

    def to_thrift(self, value: str, protocol: Any) -> None:
        protocol.writeString(value)

    def from_thrift(self, protocol: Any) -> str:
        return str(protocol.readString())


class _ErrorCode(_Text):
    """An error_code: the error's name under type STRUCT. An absent one is ERR_UNKNOWN."""

    code = STRUCT

    def default(self) -> str:
        return "ERR_UNKNOWN"


class _Blob:
    code = STRUCT
    smallest = 4

    def default(self) -> bytes:
        return b""

    def write(self, value: bytes, out: bytearray) -> None:
        write_binary(value, out)

    def read(self, data: Buffer, pos: int) -> tuple[bytes, int]:
        return read_binary(data, pos)

    def to_thrift(self, value: bytes, protocol: Any) -> None:
        protocol.writeBinary(value)

    def from_thrift(self, protocol: Any) -> bytes:
        return bytes(protocol.readBinary())


class _HostPortType:
    """A host_port: host name, u16 port, u8 type; the Python value is ``"host:port"``, "" when invalid."""

    code = STRUCT
    smallest = 7

    def default(self) -> str:
        return ""

    def write(self, value: str, out: bytearray) -> None:
        host, port, kind = self._split(value)
        write_binary(host.encode("utf-8"), out)
        out += _PORT_AND_TYPE.pack(port, kind)

    def read(self, data: Buffer, pos: int) -> tuple[str, int]:
        host, pos = read_text(data, pos)
        end = need(data, pos, 3)
        port, kind = _PORT_AND_TYPE.unpack_from(data, pos)
        return self._join(host, port, kind), end

    def to_thrift(self, value: str, protocol: Any) -> None:
        host, port, kind = self._split(value)
        protocol.writeString(host)
        protocol.writeI16(port - 65536 if port > 32767 else port)
        protocol.writeByte(kind)

    def from_thrift(self, protocol: Any) -> str:
        host, port, kind = protocol.readString(), protocol.readI16() & 0xFFFF, protocol.readByte()
        return self._join(host, port, kind)

    @staticmethod
    def _join(host: str, port: int, kind: int) -> str:
        # An entry without host, or of another type, cannot be dialled. The IPv4 field is used instead.
        return f"{host}:{port}" if kind == 1 and host else ""

    @staticmethod
    def _split(value: str) -> tuple[str, int, int]:
        if not value:
            return "", 0, 0
        host, _, port = value.rpartition(":")
        return host, int(port), 1


class ListOf:
    """A list of one element type."""

    code = LIST
    smallest = 5

    def __init__(self, element: WireType) -> None:
        """Store the element type."""
        self.element = element

    def default(self) -> list[Any]:
        """Return a new empty list."""
        return []

    def write(self, value: Any, out: bytearray) -> None:
        """Append element type, count and elements."""
        element = self.element
        out += _LIST_HEAD.pack(element.code, len(value))
        for item in value:
            element.write(item, out)

    def read(self, data: Buffer, pos: int) -> tuple[list[Any], int]:
        """Read the whole list."""
        element = self.element
        code, count, pos = read_list_head(data, pos, element.smallest)
        if count and code != element.code:
            raise ProtocolError(f"a list of type {code}; {element.code} is expected")
        items = []
        for _ in range(count):
            item, pos = element.read(data, pos)
            items.append(item)
        return items, pos

    def to_thrift(self, value: Any, protocol: Any) -> None:
        """Write through a TProtocol."""
        protocol.writeListBegin(self.element.code, len(value))
        for item in value:
            self.element.to_thrift(item, protocol)
        protocol.writeListEnd()

    def from_thrift(self, protocol: Any) -> list[Any]:
        """Read through a TProtocol."""
        code, count = protocol.readListBegin()
        if count and code != self.element.code:
            raise ProtocolError(f"a list of type {code}; {self.element.code} is expected")
        items = [self.element.from_thrift(protocol) for _ in range(count)]
        protocol.readListEnd()
        return items


class SetOf:
    """A set of one element type. In Python it is a sorted list, so that equal sets have equal bytes."""

    code = SET
    smallest = 5

    def __init__(self, element: WireType) -> None:
        """Store the element type."""
        self.element = element
        self._list = ListOf(element)

    def default(self) -> list[Any]:
        """Return a new empty list."""
        return []

    def write(self, value: Any, out: bytearray) -> None:
        """Append element type, count and elements: the same bytes as for a list."""
        self._list.write(sorted(set(value)), out)

    def read(self, data: Buffer, pos: int) -> tuple[list[Any], int]:
        """Read the whole set."""
        items, pos = self._list.read(data, pos)
        return sorted(set(items)), pos

    def to_thrift(self, value: Any, protocol: Any) -> None:
        """Write through a TProtocol."""
        items = sorted(set(value))
        protocol.writeSetBegin(self.element.code, len(items))
        for item in items:
            self.element.to_thrift(item, protocol)
        protocol.writeSetEnd()

    def from_thrift(self, protocol: Any) -> list[Any]:
        """Read through a TProtocol."""
        code, count = protocol.readSetBegin()
        if count and code != self.element.code:
            raise ProtocolError(f"a set of type {code}; {self.element.code} is expected")
        items = [self.element.from_thrift(protocol) for _ in range(count)]
        protocol.readSetEnd()
        return sorted(set(items))


class MapOf:
    """A map between two types."""

    code = MAP
    smallest = 6

    def __init__(self, key: WireType, value: WireType) -> None:
        """Store both types."""
        self.key, self.value = key, value

    def default(self) -> dict[Any, Any]:
        """Return a new empty dict."""
        return {}

    def write(self, value: dict[Any, Any], out: bytearray) -> None:
        """Append types, count and entries, in the dict's order."""
        out += _MAP_HEAD.pack(self.key.code, self.value.code, len(value))
        for key, item in value.items():
            self.key.write(key, out)
            self.value.write(item, out)

    def read(self, data: Buffer, pos: int) -> tuple[dict[Any, Any], int]:
        """Read the whole map."""
        key_code, value_code, count, pos = read_map_head(data, pos, self.key.smallest + self.value.smallest)
        self._check(key_code, value_code, count)
        items: dict[Any, Any] = {}
        for _ in range(count):
            key, pos = self.key.read(data, pos)
            items[key], pos = self.value.read(data, pos)
        return items, pos

    def to_thrift(self, value: dict[Any, Any], protocol: Any) -> None:
        """Write through a TProtocol."""
        protocol.writeMapBegin(self.key.code, self.value.code, len(value))
        for key, item in value.items():
            self.key.to_thrift(key, protocol)
            self.value.to_thrift(item, protocol)
        protocol.writeMapEnd()

    def from_thrift(self, protocol: Any) -> dict[Any, Any]:
        """Read through a TProtocol."""
        key_code, value_code, count = protocol.readMapBegin()
        self._check(key_code, value_code, count)
        items: dict[Any, Any] = {}
        for _ in range(count):
            key = self.key.from_thrift(protocol)
            items[key] = self.value.from_thrift(protocol)
        protocol.readMapEnd()
        return items

    def _check(self, key: int, value: int, count: int) -> None:
        if count and (key, value) != (self.key.code, self.value.code):
            raise ProtocolError(f"a map of {key} to {value}; {self.key.code} to {self.value.code} is expected")


BOOL_TYPE: WireType = _Bool()
I32_TYPE: WireType = _I32Type()
I64_TYPE: WireType = _I64Type()
TEXT_TYPE: WireType = _Text()
ERROR_TYPE: WireType = _ErrorCode()
BLOB_TYPE: WireType = _Blob()
GPID_TYPE: WireType = _U64Struct()
ADDRESS_TYPE: WireType = _U64Struct()
HOST_PORT_TYPE: WireType = _HostPortType()


def read_field_head(data: Buffer, pos: int) -> tuple[int, int, int]:
    """Return type, id and the position after a field header. Type STOP has no id (0)."""
    end = need(data, pos, 1)
    if data[pos] == STOP:
        return STOP, 0, end
    end = need(data, pos, 3)
    code, field_id = _FIELD.unpack_from(data, pos)
    return code, field_id, end


def write_field_head(code: int, field_id: int, out: bytearray) -> None:
    """Append a field header."""
    out += _FIELD.pack(code, field_id)
