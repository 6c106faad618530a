# SPDX-License-Identifier: Apache-2.0
"""Worker `foreign-shim`: start somebody else's shim, as containerd would."""

from __future__ import annotations

import json
import os
import shutil
import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.errdefs import NotFound, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def start(args: bytes, _fds: Sequence[int]) -> bytes:
    """Args: JSON {program, namespace, id, bundle, events, address}. Returns what the program printed."""
    a = json.loads(args)
    program = shutil.which(a["program"])
    if program is None:
        raise NotFound(f"start shim {a['program']!r}: not on the path", hint="install it, or choose another --runtime")
    os.chdir(a["bundle"])
    reader, writer = os.pipe2(os.O_CLOEXEC)
    argv = [
        a["program"], "-namespace", a["namespace"], "-id", a["id"], "-address", a["address"],
        "-publish-binary", "/bin/true", "-bundle", a["bundle"], "start",
    ]  # fmt: skip
    environment = {**os.environ, "TTRPC_ADDRESS": a["events"], "NAMESPACE": a["namespace"], "MAX_SHIM_VERSION": "2"}
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
    pid = os.posix_spawn(program, argv, environment, file_actions=actions)
    os.close(writer)
    said = b""
    while data := os.read(reader, 1 << 16):
        said += data
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        words = said.decode(errors="replace").strip()
        raise Unavailable(f"start shim {a['program']!r}: exit {code}: {words}")
    return said
