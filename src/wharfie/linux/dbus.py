# SPDX-License-Identifier: Apache-2.0
"""D-Bus, as much of it as asking a service manager takes: blocking calls and signals over one unix socket.

A library would cost more than the whole of a container's start: what is here imports `socket` and `struct`.
Types come and go as signatures say: integers, str (s o g), bytes for `ay`, list for arrays and structs as tuples,
list of pairs for dictionaries, `Variant` where the signature has `v`.

Spec: D-Bus Specification 0.41, "Type System", "Message Protocol", "Authentication Protocol".
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from typing import NamedTuple, Self

from wharfie.errdefs import DataLoss, DeadlineExceeded, FailedPrecondition, PermissionDenied, Unavailable

SYSTEM_BUS = "/run/dbus/system_bus_socket"

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4

_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_ALIGN = {"y": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "g": 1, "v": 1, "(": 8, "{": 8}  # others: 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_MAX_DEPTH = 64
_MAX_MESSAGE = 16 << 20


class Variant(NamedTuple):
    signature: str
    value: object


class Message(NamedTuple):
    """`fields`: header fields by their number."""

    kind: int
    fields: dict[int, object]
    body: tuple[object, ...]

    @property
    def member(self) -> object:
        return self.fields.get(_MEMBER)


class CallFailed(FailedPrecondition):
    """The peer answered a call with an error. `name` is the D-Bus error name."""

    name = ""


def _type_end(signature: str, at: int, depth: int = 0) -> int:
    """Where the complete type that begins at `at` ends."""
    if depth > _MAX_DEPTH or at >= len(signature):
        raise DataLoss(f"read D-Bus signature `{signature}`: it is cut off or nested too deeply")
    first = signature[at]
    if first == "a":
        return _type_end(signature, at + 1, depth + 1)
    if first in "({":
        close = ")" if first == "(" else "}"
        at += 1
        while at < len(signature) and signature[at] != close:
            at = _type_end(signature, at, depth + 1)
        if at >= len(signature):
            raise DataLoss(f"read D-Bus signature `{signature}`: a bracket stays open")
        return at + 1
    if first not in _FIXED and first not in "sogv":
        raise DataLoss(f"read D-Bus signature `{signature}`: unknown type `{first}`")
    return at + 1


def types(signature: str) -> list[str]:
    """Complete types of a signature, in order. Raises DataLoss."""
    found, at = [], 0
    while at < len(signature):
        end = _type_end(signature, at)
        found.append(signature[at:end])
        at = end
    return found


def _pad(out: bytearray, kind: str) -> None:
    out += bytes(-len(out) % _ALIGN.get(kind[0], 4))


def _put(out: bytearray, kind: str, value: object) -> None:
    _pad(out, kind)
    first = kind[0]
    if first in _FIXED:
        out += struct.pack("<" + _FIXED[first], value)
    elif first in "so":
        raw = str(value).encode()
        out += struct.pack("<I", len(raw)) + raw + b"\0"
    elif first == "g":
        raw = str(value).encode()
        out += bytes((len(raw),)) + raw + b"\0"
    elif first == "v":
        assert isinstance(value, Variant)
        _put(out, "g", value.signature)
        _put(out, value.signature, value.value)
    elif first == "a":
        out += bytes(4)
        length_at = len(out) - 4
        _pad(out, kind[1:])
        start = len(out)
        if kind == "ay":
            assert isinstance(value, bytes)
            out += value
        else:
            assert isinstance(value, list | tuple)
            for item in value:
                _put(out, kind[1:], item)
        struct.pack_into("<I", out, length_at, len(out) - start)
    else:
        assert isinstance(value, list | tuple)
        for part, item in zip(types(kind[1:-1]), value, strict=True):
            _put(out, part, item)


def marshal(signature: str, *values: object) -> bytes:
    """Little-endian bytes of values, aligned for a place that is a multiple of 8."""
    out = bytearray()
    for kind, value in zip(types(signature), values, strict=True):
        _put(out, kind, value)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.at = data, order, 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise DataLoss("read D-Bus message: it is cut off")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def align(self, kind: str) -> None:
        self.take(-self.at % _ALIGN.get(kind[0], 4))

    def number(self, code: str) -> int:
        value: int = struct.unpack(self.order + code, self.take(struct.calcsize(code)))[0]
        return value

    def value(self, kind: str, depth: int = 0) -> object:
        if depth > _MAX_DEPTH:
            raise DataLoss("read D-Bus message: it is nested too deeply")
        self.align(kind)
        first = kind[0]
        if first in _FIXED:
            number = self.number(_FIXED[first])
            return bool(number) if first == "b" else number
        if first in "sog":
            raw = self.take(self.number("B" if first == "g" else "I"))
            self.take(1)
            return raw.decode("utf-8", "replace")
        if first == "v":
            signature = str(self.value("g"))
            if len(types(signature)) != 1:
                raise DataLoss(f"read D-Bus message: a variant of signature `{signature}`")
            return Variant(signature, self.value(signature, depth + 1))
        if first == "a":
            length = self.number("I")
            self.align(kind[1:])
            if kind == "ay":
                return self.take(length)
            end = self.at + length
            items = []
            while self.at < end:
                before = self.at
                items.append(self.value(kind[1:], depth + 1))
                if self.at == before:
                    raise DataLoss("read D-Bus message: an array of nothing")
            return items
        return tuple(self.value(part, depth + 1) for part in types(kind[1:-1]))


def unmarshal(signature: str, data: bytes, order: str = "<") -> tuple[object, ...]:
    """Values of a body. Raises DataLoss."""
    reader = _Reader(data, order)
    return tuple(reader.value(kind) for kind in types(signature))


class Connection:
    """One authenticated socket. `bus`: there is a message bus behind it, not the peer itself.

    Raises, from every method: Unavailable (nobody listens, or it hung up), DeadlineExceeded, DataLoss; `open` also
    PermissionDenied.
    """

    def __init__(self, sock: socket.socket, *, timeout_s: float = 30) -> None:
        self._socket = sock
        self._deadline = time.monotonic() + timeout_s
        self._buffer = bytearray()
        self._serial = 0
        self._signals: list[Message] = []

    @classmethod
    def open(cls, path: str, *, bus: bool, timeout_s: float = 30) -> Self:
        if sys.platform == "win32":
            raise Unavailable(f"connect to D-Bus `{path}`: not a Linux host")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self = cls(sock, timeout_s=timeout_s)
        try:
            sock.settimeout(timeout_s)
            try:
                sock.connect(path)
            except OSError as e:
                raise Unavailable(f"connect to D-Bus `{path}`: {e.strerror or e}") from e
            # All at once: the answer to AUTH is read when it is there, and a rejection then shows.
            uid = str(os.geteuid()).encode().hex()
            sock.sendall(f"\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n".encode())
            while b"\r\n" not in self._buffer:
                self._fill()
            line, _, rest = bytes(self._buffer).partition(b"\r\n")
            self._buffer = bytearray(rest)
            if not line.startswith(b"OK "):
                raise PermissionDenied(f"authenticate to D-Bus `{path}`: {line.decode(errors='replace')}")
            if bus:
                self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except BaseException:
            sock.close()
            raise
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, destination: str, path: str, interface: str, member: str, signature: str = "", *args: object) -> int:
        """Send a call and return its serial, for `answer`."""
        self._serial += 1
        body = marshal(signature, *args)
        fields = [(_PATH, Variant("o", path)), (_INTERFACE, Variant("s", interface)), (_MEMBER, Variant("s", member))]
        if destination:
            fields.append((_DESTINATION, Variant("s", destination)))
        if signature:
            fields.append((_SIGNATURE, Variant("g", signature)))
        head = bytearray(marshal("yyyyuua(yv)", ord("l"), CALL, 0, 1, len(body), self._serial, fields))
        head += bytes(-len(head) % 8)
        try:
            self._socket.sendall(head + body)
        except OSError as e:
            raise Unavailable(f"call D-Bus method `{member}`: {e.strerror or e}") from e
        return self._serial

    def answer(self, serial: int, what: str) -> tuple[object, ...]:
        """Wait for the answer to a call. Signals that come meanwhile are kept. Raises CallFailed."""
        while True:
            message = self._receive()
            if message.kind == SIGNAL:
                self._signals.append(message)
            elif message.fields.get(_REPLY_SERIAL) == serial:
                if message.kind == RETURN:
                    return message.body
                name = str(message.fields.get(_ERROR_NAME))
                text = str(message.body[0]) if message.body else name
                error = CallFailed(f"{what}: {text}")
                error.name = name
                raise error

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *args: object
    ) -> tuple[object, ...]:
        """Call a method and wait for its answer. Raises CallFailed."""
        return self.answer(self.send(destination, path, interface, member, signature, *args), f"call `{member}`")

    def signal(self, member: str, position: int, value: object) -> Message:
        """The next signal `member` whose argument at `position` is `value`; all others so far are dropped."""
        while True:
            message = self._signals.pop(0) if self._signals else self._receive()
            if (
                message.kind == SIGNAL
                and message.member == member
                and message.body[position : position + 1] == (value,)
            ):
                return message

    def _fill(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("wait for D-Bus: no answer in time")
        self._socket.settimeout(left)
        try:
            piece = self._socket.recv(65536)
        except TimeoutError as e:
            raise DeadlineExceeded("wait for D-Bus: no answer in time") from e
        except OSError as e:
            raise Unavailable(f"read from D-Bus: {e.strerror}") from e
        if not piece:
            raise Unavailable("read from D-Bus: the peer hung up")
        self._buffer += piece

    def _receive(self) -> Message:
        while len(self._buffer) < 16:
            self._fill()
        order = {ord("l"): "<", ord("B"): ">"}.get(self._buffer[0])
        if order is None:
            raise DataLoss(f"read D-Bus message: byte order {self._buffer[0]}")
        body_size, _, fields_size = struct.unpack_from(f"{order}III", self._buffer, 4)
        head_size = (16 + fields_size + 7) // 8 * 8
        if head_size + body_size > _MAX_MESSAGE:
            raise DataLoss(f"read D-Bus message: {head_size + body_size} bytes are too many")
        while len(self._buffer) < head_size + body_size:
            self._fill()
        head, body = bytes(self._buffer[:head_size]), bytes(self._buffer[head_size : head_size + body_size])
        del self._buffer[: head_size + body_size]
        _, kind, _, _, _, _, pairs = unmarshal("yyyyuua(yv)", head, order)
        assert isinstance(kind, int)
        assert isinstance(pairs, list)
        fields = {number: variant.value for number, variant in pairs}
        return Message(kind, fields, unmarshal(str(fields.get(_SIGNATURE, "")), body, order))
