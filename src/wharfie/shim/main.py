# SPDX-License-Identifier: Apache-2.0
"""`containerd-shim-wharfie-v1`: our shim as containerd starts it (shim API v2, containerd 1.6 and later).

    containerd-shim-wharfie-v1 -namespace N -id I -address A -publish-binary B [-bundle DIR] [-debug] start|delete

`start` runs in the bundle and prints the address of a shim that listens; `delete` cleans up after one that is gone and
prints a DeleteResponse. Events go to TTRPC_ADDRESS, else through the publish binary.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.errdefs import InvalidArgument, WharfieError
from wharfie.tasks.sealed import reexec_sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_FLAGS = ("namespace", "id", "address", "publish-binary", "bundle", "socket")
_SWITCHES = ("debug", "v", "info")
_SOCKETS = "/run/containerd/s"


def parse(args: Sequence[str]) -> tuple[dict[str, str], str]:
    """(flags, command), as Go's flag package reads them: one or two dashes, value beside or after `=`."""
    flags = dict.fromkeys(_FLAGS, "")
    rest = list(args)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if name in _SWITCHES:
            flags[name] = value or "true"
        elif name in _FLAGS:
            if not equals and not rest:
                raise InvalidArgument(f"read flags: -{name} needs a value")
            flags[name] = value if equals else rest.pop(0)
        else:
            raise InvalidArgument(f"read flags: unknown flag -{name}")
    return flags, rest[0] if rest else ""


def main() -> int:
    try:
        flags, command = parse(sys.argv[1:])
        if "v" in flags:
            print("containerd-shim-wharfie-v1 shim API v2")
            return 0
        if not flags["id"] or not flags["namespace"]:
            raise InvalidArgument("start shim: -namespace and -id are needed")
        if command == "start":
            reexec_sealed()
            return _start(flags)
        if command == "delete":
            return _delete(flags)
        raise InvalidArgument(f"run shim: unknown command {command!r}", hint="commands are start and delete")
    except (WharfieError, OSError) as e:
        print(e.full() if isinstance(e, WharfieError) else e, file=sys.stderr)
        return 1


def _start(flags: dict[str, str]) -> int:
    """Bind, fork, say where: whoever asked can connect at once, and the shim's imports are done beside that."""
    path = _socket_path(flags)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(64)
    address = f"unix://{path}"
    with open("address", "w") as f:
        f.write(address)
    if os.fork() == 0:
        _become_shim(flags, listener, path)
    sys.stdout.write(address)
    sys.stdout.flush()
    return 0


def _socket_path(flags: dict[str, str]) -> str:
    if flags["socket"]:
        return flags["socket"]
    name = "/".join(("wharfie", flags["address"], flags["namespace"], flags["id"]))
    return f"{_SOCKETS}/{hashlib.sha256(name.encode()).hexdigest()}"


def _become_shim(flags: dict[str, str], listener: socket.socket, path: str) -> None:
    """The second process: own session, stdio let go of, stderr to containerd's log fifo. Never returns."""
    code = 1
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        try:
            log = os.open("log", os.O_RDWR | os.O_NONBLOCK | os.O_APPEND)
        except OSError:
            log = null
        os.dup2(log, 2)
        from wharfie.shim.standalone import serve

        serve(flags, listener)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            os.unlink(path)
        finally:
            os._exit(code)


def _delete(flags: dict[str, str]) -> int:
    from wharfie.shim.sweep import sweep_bundle
    from wharfie.spec.pb.base import Timestamp
    from wharfie.spec.pb.task import DeleteResponse

    bundle = flags["bundle"] or os.getcwd()
    sweep_bundle(bundle)
    try:
        os.unlink(_socket_path(flags))
    except FileNotFoundError:
        pass
    answer = DeleteResponse(exit_status=137, exited_at=Timestamp.at(time.time_ns()))
    sys.stdout.buffer.write(answer.encode())
    sys.stdout.flush()
    return 0
