# SPDX-License-Identifier: Apache-2.0
"""ttrpc frames: length (4 bytes, big endian), stream id (4), type (1), flags (1), then that many bytes.

Clients use odd stream ids. Spec: containerd/ttrpc, PROTOCOL.md.
"""

from __future__ import annotations

import struct

from wharfie.errdefs import InvalidArgument, ResourceExhausted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST, RESPONSE, DATA = 1, 2, 3
MAX_PAYLOAD = 4 << 20
_HEADER = struct.Struct(">IIBB")


def encode_frame(stream: int, kind: int, payload: bytes) -> bytes:
    if len(payload) > MAX_PAYLOAD:
        raise ResourceExhausted(f"send ttrpc message: {len(payload)} bytes are more than {MAX_PAYLOAD}")
    return _HEADER.pack(len(payload), stream, kind, 0) + payload


class FrameReader:
    """Feed it bytes as they come, take whole frames out."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Frames completed by `data`: (stream id, type, payload). Raises InvalidArgument for an oversized one."""
        self._data += data
        while len(self._data) >= _HEADER.size:
            length, stream, kind, _ = _HEADER.unpack_from(self._data)
            if length > MAX_PAYLOAD:
                raise InvalidArgument(f"receive ttrpc message: {length} bytes are more than {MAX_PAYLOAD}")
            end = _HEADER.size + length
            if len(self._data) < end:
                return
            payload = bytes(self._data[_HEADER.size : end])
            del self._data[:end]
            yield stream, kind, payload
