# SPDX-License-Identifier: Apache-2.0
"""`--init`: a static ELF of a kilobyte, written below the engine's root and bound into containers.

It is process 1, passes signals on, buries orphans, ends with the program's status (source: packaging/init/init.c). So
no Python, and nothing of the host, ever runs as process 1 (decisions 16).
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct

from wharfie.daemon.services.init_code import CODE
from wharfie.errdefs import Unsupported
from wharfie.fsutil import atomic

_MACHINES = {"amd64": 62, "arm64": 183}
_BASE = 0x400000
_HEADER_BYTES, _PROGRAM_HEADER_BYTES, _START = 64, 56, 128


def elf(machine: int, code: bytes) -> bytes:
    """Bytes of an executable whose one segment is read and executed. Format: man 5 elf."""
    size = _START + len(code)
    ident = b"\x7fELF" + bytes((2, 1, 1, 0)) + bytes(8)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        ident, 2, machine, 1, _BASE + _START, _HEADER_BYTES, 0, 0, _HEADER_BYTES, _PROGRAM_HEADER_BYTES, 1, 64, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return (header + segment).ljust(_START, b"\0") + code  # code and its constants want 16-byte alignment


def init_program(directory: str, architecture: str) -> str:
    """Path of the program, written where it is not there yet. Blocking. Raises Unsupported."""
    encoded = CODE.get(architecture)
    if encoded is None:
        raise Unsupported(
            f"add an init process: there is none for {architecture}", hint="leave --init out, or use an image with tini"
        )
    data = elf(_MACHINES[architecture], base64.b64decode(encoded))
    path = os.path.join(directory, f"init-{hashlib.sha256(data).hexdigest()[:12]}")
    if not os.path.exists(path):
        os.makedirs(directory, mode=0o711, exist_ok=True)
        atomic.write(path, data, 0o755)
    return path
