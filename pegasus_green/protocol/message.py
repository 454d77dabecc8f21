"""The base class of all message structs. Fields are declared once and coded in ascending id order.

``Message.encode`` and ``decode`` are the general codec. ``write`` and ``read`` have the names and the meaning of the
methods in classes of the Apache Thrift compiler, so any ``TProtocol`` can carry these structs.
"""

from __future__ import annotations

import reprlib
from struct import error as pack_error
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..errors import InvalidArgument, ProtocolError
from .binary import (
    ADDRESS_TYPE,
    BLOB_TYPE,
    BOOL_TYPE,
    ERROR_TYPE,
    GPID_TYPE,
    HOST_PORT_TYPE,
    I32_TYPE,
    I64_TYPE,
    STOP,
    STRUCT,
    TEXT_TYPE,
    Buffer,
    ListOf,
    MapOf,
    SetOf,
    UnskippableField,
    WireType,
    read_field_head,
    skip,
    skip_thrift,
    write_field_head,
)

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_options: object) -> Any:
        """Replace the typing helper, which only type checkers need."""
        return lambda cls: cls


M = TypeVar("M", bound="Message")
_UNSET: Any = object()


class Field:
    """One field of a struct: id, wire type, whether it is optional, and its default in the constructor."""

    __slots__ = ("id", "name", "wire", "optional", "initial", "_missing")

    def __init__(
        self, field_id: int, wire: WireType, optional: bool = False, initial: Any = _UNSET, missing: Any = _UNSET
    ) -> None:
        """Describe a field. The class that declares it sets ``name``."""
        self.id, self.wire, self.optional = field_id, wire, optional
        self.name = ""
        self._missing = missing
        self.initial = (None if optional else wire.default()) if initial is _UNSET else initial

    def __repr__(self) -> str:
        """Show id and name."""
        return f"<Field {self.id} {self.name}>"

    def absent(self) -> Any:
        """Return the value of the field if a message does not contain it."""
        if self._missing is not _UNSET:
            return self._missing
        return None if self.optional else self.wire.default()


# These functions return Any, so that `key: bytes = blob(1)` passes a type checker.
def boolean(field_id: int, *, optional: bool = False, default: Any = _UNSET) -> Any:
    """Declare a bool."""
    return Field(field_id, BOOL_TYPE, optional, default)


def i32(field_id: int, *, optional: bool = False, default: Any = _UNSET, missing: Any = _UNSET) -> Any:
    """Declare a signed 32-bit number (or an enum); ``missing`` is the IDL's default for an absent field."""
    return Field(field_id, I32_TYPE, optional, default, missing)


def i64(field_id: int, *, optional: bool = False, default: Any = _UNSET) -> Any:
    """Declare a signed 64-bit number."""
    return Field(field_id, I64_TYPE, optional, default)


def text(field_id: int, *, optional: bool = False, default: Any = _UNSET) -> Any:
    """Declare a plain Thrift string."""
    return Field(field_id, TEXT_TYPE, optional, default)


def blob(field_id: int, *, optional: bool = False, default: Any = _UNSET) -> Any:
    """Declare a dsn.blob."""
    return Field(field_id, BLOB_TYPE, optional, default)


def error_name(field_id: int, *, optional: bool = False, default: Any = "ERR_OK") -> Any:
    """Declare a dsn.error_code; only its name is sent."""
    return Field(field_id, ERROR_TYPE, optional, default)


def gpid(field_id: int, *, optional: bool = False, default: Any = _UNSET) -> Any:
    """Declare a dsn.gpid as its raw unsigned 64-bit number."""
    return Field(field_id, GPID_TYPE, optional, default)


def address(field_id: int, *, optional: bool = False, default: Any = _UNSET) -> Any:
    """Declare a dsn.rpc_address as its raw unsigned 64-bit number."""
    return Field(field_id, ADDRESS_TYPE, optional, default)


def host_port(field_id: int, *, optional: bool = True) -> Any:
    """Declare a dsn.host_port, a "host:port" string; servers up to 2.5 do not send it."""
    return Field(field_id, HOST_PORT_TYPE, optional)


def struct(field_id: int, cls: type[Message], *, optional: bool = False) -> Any:
    """Declare a nested struct."""
    return Field(field_id, StructOf(cls), optional)


def list_of(field_id: int, element: WireType | type[Message], *, optional: bool = False) -> Any:
    """Declare a list."""
    return Field(field_id, ListOf(StructOf(element) if isinstance(element, type) else element), optional)


def map_of(field_id: int, key: WireType, value: WireType, *, optional: bool = False) -> Any:
    """Declare a map."""
    return Field(field_id, MapOf(key, value), optional)


# No field_specifiers: for a type checker `blob(1)` is a default value, so every constructor argument is optional.
@dataclass_transform()
class Message:
    """A struct whose class attributes are the field declarations."""

    FIELDS: ClassVar[tuple[Field, ...]] = ()
    _BY_ID: ClassVar[dict[int, Field]] = {}
    _FRESH: ClassVar[tuple[Field, ...]] = ()
    _INITIAL: ClassVar[dict[str, Any]] = {}
    _NAMES: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        """Collect the declared fields. The class attributes become the values of absent fields."""
        fields = [(name, value) for name, value in vars(cls).items() if isinstance(value, Field)]
        for name, field in fields:
            field.name = name
            setattr(cls, name, field.absent())
        cls.FIELDS = tuple(field for _, field in fields)
        cls._BY_ID = {field.id: field for field in cls.FIELDS}
        cls._NAMES = frozenset(field.name for field in cls.FIELDS)
        # Containers and nested structs must not be shared between instances.
        cls._FRESH = tuple(
            f for f in cls.FIELDS if not f.optional and isinstance(f.wire, (ListOf, SetOf, MapOf, StructOf))
        )
        # The constructor sets only the values that differ from the class attribute.
        cls._INITIAL = {f.name: f.initial for f in cls.FIELDS if f.initial != f.absent() and f not in cls._FRESH}

    def __init__(self, *args: Any, **values: Any) -> None:
        """Set fields by position or name; the others get their defaults."""
        for field, value in zip(self.FIELDS, args):
            values[field.name] = value
        if len(args) > len(self.FIELDS) or not values.keys() <= self._NAMES:
            unknown = [*map(repr, args[len(self.FIELDS) :]), *sorted(values.keys() - self._NAMES)]
            raise TypeError(f"{type(self).__name__} has no such fields: {', '.join(unknown)}")
        mine = vars(self)
        mine.update(self._INITIAL)
        for field in self._FRESH:
            mine[field.name] = field.wire.default()
        mine.update(values)

    def __eq__(self, other: object) -> bool:
        """Compare field by field."""
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, f.name) == getattr(other, f.name) for f in self.FIELDS)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show all fields."""
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in self.FIELDS)})"

    def encode(self) -> bytes:
        """Return the struct's bytes with STOP."""
        out = bytearray()
        self.encode_to(out)
        return bytes(out)

    def encode_to(self, out: bytearray) -> None:
        """Append the struct's bytes with STOP.

        Raises:
            InvalidArgument: A number is outside its type's range, or UTF-8 cannot encode a str; the field is named.
        """
        for field in self.FIELDS:
            value = getattr(self, field.name)
            if value is not None:
                write_field_head(field.wire.code, field.id, out)
                try:
                    field.wire.write(value, out)
                except (pack_error, UnicodeEncodeError) as error:
                    where = f"{type(self).__name__}.{field.name}"
                    raise InvalidArgument(f"{where} cannot be {reprlib.repr(value)}: {error}") from None
        out.append(STOP)

    @classmethod
    def decode(cls: type[M], data: Buffer, pos: int = 0) -> tuple[M, int]:
        """Return a struct inside data and the position after it.

        Unknown fields of plain types, from newer servers, are skipped.

        Raises:
            ProtocolError: The struct is truncated or inconsistent. UnskippableField: an unknown field of type STRUCT.
        """
        message = cls._blank()
        return message, message._fill(data, pos)

    @classmethod
    def decode_reply(cls: type[M], data: Buffer, pos: int = 0) -> M:
        """Return the outermost struct of a reply. An unknown STRUCT field ends it; the fields before it are used.

        Raises:
            ProtocolError: It is truncated or inconsistent, or more than the STOP of the enclosing result follows. The
                latter means that a length was wrong and a byte of a value was taken for the struct's end.
        """
        message = cls._blank()
        try:
            end = message._fill(data, pos)
        except _TopLevelUnskippable:
            return message
        if len(data) - end > 1 or (end < len(data) and data[end] != STOP):
            raise ProtocolError(f"{len(data) - end} bytes after the end of {cls.__name__}")
        return message

    @classmethod
    def _blank(cls: type[M]) -> M:
        message = cls.__new__(cls)
        for field in cls._FRESH:
            setattr(message, field.name, field.wire.default())
        return message

    def _fill(self, data: Buffer, pos: int) -> int:
        by_id = self._BY_ID
        while True:
            code, field_id, pos = read_field_head(data, pos)
            if code == STOP:
                return pos
            field = by_id.get(field_id)
            if field is None or field.wire.code != code:
                try:
                    pos = skip(code, data, pos, f"{type(self).__name__}.{field_id}")
                except UnskippableField as error:
                    raise _TopLevelUnskippable(str(error)) from None
                continue
            try:
                value, pos = field.wire.read(data, pos)
            except ProtocolError as error:
                # An unknown field of a nested struct is not at the level of this struct.
                kind = UnskippableField if isinstance(error, UnskippableField) else ProtocolError
                raise kind(f"{type(self).__name__}.{field.name}: {error}") from None
            setattr(self, field.name, value)

    def write(self, protocol: Any) -> None:
        """Write the struct through an Apache Thrift TProtocol."""
        protocol.writeStructBegin(type(self).__name__)
        for field in self.FIELDS:
            value = getattr(self, field.name)
            if value is not None:
                protocol.writeFieldBegin(field.name, field.wire.code, field.id)
                field.wire.to_thrift(value, protocol)
                protocol.writeFieldEnd()
        protocol.writeFieldStop()
        protocol.writeStructEnd()

    def read(self, protocol: Any) -> None:
        """Read the struct through an Apache Thrift TProtocol. Absent fields keep their values.

        Raises:
            UnskippableField: There is an unknown field of type STRUCT.
        """
        protocol.readStructBegin()
        while True:
            _, code, field_id = protocol.readFieldBegin()
            if code == STOP:
                break
            field = self._BY_ID.get(field_id)
            if field is not None and field.wire.code == code:
                setattr(self, field.name, field.wire.from_thrift(protocol))
            else:
                skip_thrift(protocol, code, f"{type(self).__name__}.{field_id}")
            protocol.readFieldEnd()
        protocol.readStructEnd()


class _TopLevelUnskippable(UnskippableField):
    """The unknown field is at the level of the struct that is being read."""


class StructOf:
    """The wire type of a nested struct."""

    code = STRUCT

    def __init__(self, cls: type[Message]) -> None:
        """Store the class."""
        self.cls = cls
        # An empty struct has one byte in a message and 200 in memory. So each struct of a long list must have at least
        # half of the fields that servers always write. Decoded data then stays below about 40 times the frame size.
        always = 1 + sum(3 + field.wire.smallest for field in cls.FIELDS if not field.optional)
        self.smallest = max(5, always // 2)

    def default(self) -> Message:
        """Return a struct with all defaults."""
        return self.cls()

    def write(self, value: Message, out: bytearray) -> None:
        """Append the struct."""
        value.encode_to(out)

    def read(self, data: Buffer, pos: int) -> tuple[Message, int]:
        """Read the struct."""
        return self.cls.decode(data, pos)

    def to_thrift(self, value: Message, protocol: Any) -> None:
        """Write through a TProtocol."""
        value.write(protocol)

    def from_thrift(self, protocol: Any) -> Message:
        """Read through a TProtocol."""
        value = self.cls._blank()
        value.read(protocol)
        return value
