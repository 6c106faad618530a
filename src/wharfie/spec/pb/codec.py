# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012
"""A protobuf codec small enough for a shim: messages are classes with a table of fields.

    class StateRequest(Message):
        id: str = ""
        exec_id: str = ""
        FIELDS = {1: ("id", STRING), 2: ("exec_id", STRING)}

proto3 rules: a field at its zero value is not written, unknown fields are skipped, the last value of a scalar wins,
repeated numbers are read packed and unpacked and written packed. Class attributes are the defaults, so an empty
message costs one dictionary. Tests hold it against google.protobuf.
"""

from __future__ import annotations

import struct

from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self

STRING, BYTES, UINT, INT, BOOL, DOUBLE = "string", "bytes", "uint", "int", "bool", "double"
STRINGS, UINTS = "string*", "uint*"
STRING_MAP = "map<string,string>"
_MASK64 = (1 << 64) - 1
_DEPTH = 32


class Repeated:
    """Kind of a repeated message field."""

    __slots__ = ("message",)

    def __init__(self, message: type[Message]) -> None:
        self.message = message


def write_varint(value: int, out: bytearray) -> None:
    value &= _MASK64
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """(value, next offset). Raises InvalidArgument at a truncated or overlong one."""
    value = shift = 0
    try:
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & _MASK64, at
            shift += 7
            if shift > 63:
                raise InvalidArgument("decode message: varint of more than ten bytes")
    except IndexError:
        raise InvalidArgument("decode message: truncated varint") from None


def _write_bytes(number: int, value: bytes, out: bytearray) -> None:
    write_varint(number << 3 | 2, out)
    write_varint(len(value), out)
    out += value


class Message:
    """Base of all messages; keyword arguments set fields. Attributes without a value read as the class's default."""

    FIELDS: ClassVar[dict[int, tuple[str, Any]]] = {}

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.encode() == self.encode()

    def __hash__(self) -> int:
        return hash(self.encode())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"

    def encode(self) -> bytes:
        out = bytearray()
        values = self.__dict__
        for number, (name, kind) in self.FIELDS.items():
            value = values.get(name)
            if value is None:
                continue
            if isinstance(kind, type):
                _write_bytes(number, value.encode(), out)
            elif not value:
                continue
            elif kind is STRING:
                _write_bytes(number, value.encode("utf-8", "surrogateescape"), out)
            elif kind is BYTES:
                _write_bytes(number, value, out)
            elif kind is UINT or kind is INT or kind is BOOL:
                write_varint(number << 3, out)
                write_varint(int(value), out)
            elif kind is DOUBLE:
                write_varint(number << 3 | 1, out)
                out += struct.pack("<d", value)
            else:
                _write_many(number, kind, value, out)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes | memoryview, depth: int = 0) -> Self:
        """Raises InvalidArgument for bytes that are no such message."""
        if depth > _DEPTH:
            raise InvalidArgument(f"decode {cls.__name__}: nested too deep")
        message = cls()
        values = message.__dict__
        at, end = 0, len(data)
        while at < end:
            tag, at = read_varint(data, at)
            wire = tag & 7
            raw: bytes = b""
            number_value = 0
            if wire == 0:
                number_value, at = read_varint(data, at)
            else:
                if wire == 2:
                    size, at = read_varint(data, at)
                else:
                    size = {1: 8, 5: 4}.get(wire, -1)
                if size < 0 or at + size > end:
                    raise InvalidArgument(
                        f"decode {cls.__name__}: field {tag >> 3} is truncated or of wire type {wire}"
                    )
                raw = bytes(data[at : at + size])
                at += size
            field = cls.FIELDS.get(tag >> 3)
            if field is not None:
                _store(cls, values, field[0], field[1], wire, raw, number_value, depth)
        return message


def _write_many(number: int, kind: Any, value: Any, out: bytearray) -> None:
    if isinstance(kind, Repeated):
        for item in value:
            _write_bytes(number, item.encode(), out)
    elif kind is STRINGS:
        for item in value:
            _write_bytes(number, item.encode("utf-8", "surrogateescape"), out)
    elif kind is UINTS:
        packed = bytearray()
        for item in value:
            write_varint(item, packed)
        _write_bytes(number, bytes(packed), out)
    else:
        for key, item in value.items():
            entry = bytearray()
            _write_bytes(1, key.encode(), entry)
            _write_bytes(2, item.encode(), entry)
            _write_bytes(number, bytes(entry), out)


class _Entry(Message):
    key: str = ""
    value: str = ""
    FIELDS = {1: ("key", STRING), 2: ("value", STRING)}


_WIRE = {STRING: 2, BYTES: 2, UINT: 0, INT: 0, BOOL: 0, DOUBLE: 1, STRINGS: 2, STRING_MAP: 2}


def _store(  # noqa: PLR0917 - hot path: keywords cost
    cls: type[Message], values: dict[str, Any], name: str, kind: Any, wire: int, raw: bytes, number: int, depth: int
) -> None:
    if kind is UINTS:
        got = values.setdefault(name, [])
        if wire == 0:
            got.append(number)
        at = 0
        while at < len(raw):
            item, at = read_varint(raw, at)
            got.append(item)
        return
    if wire != (2 if isinstance(kind, (type, Repeated)) else _WIRE[kind]):
        raise InvalidArgument(f"decode {cls.__name__}: field {name!r} has wire type {wire}")
    if isinstance(kind, type):
        message: type[Message] = kind
        values[name] = message.decode(raw, depth + 1)
    elif isinstance(kind, Repeated):
        values.setdefault(name, []).append(kind.message.decode(raw, depth + 1))
    elif kind is STRING:
        values[name] = raw.decode("utf-8", "surrogateescape")
    elif kind is BYTES:
        values[name] = raw
    elif kind is UINT:
        values[name] = number
    elif kind is INT:
        values[name] = number - (1 << 64) if number >> 63 else number
    elif kind is BOOL:
        values[name] = bool(number)
    elif kind is DOUBLE:
        values[name] = struct.unpack("<d", raw)[0]
    elif kind is STRINGS:
        values.setdefault(name, []).append(raw.decode("utf-8", "surrogateescape"))
    else:
        entry = _Entry.decode(raw, depth + 1)
        values.setdefault(name, {})[entry.key] = entry.value
