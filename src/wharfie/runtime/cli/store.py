# SPDX-License-Identifier: Apache-2.0
"""State directories: `<root>/<id>/` with state.json, config.json (as created) and, until the start, the gate socket.

Lock: flock on `<root>/<id>/lock` around every change. Owner: wharfie-oci alone; mode 0700.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import msgspec

from wharfie.errdefs import AlreadyExists, DataLoss, InvalidArgument, NotFound
from wharfie.fsutil import atomic
from wharfie.fsutil.lock import FileLock
from wharfie.spec.runtime import Spec, decode_spec, encode_spec

_VERSION = 1
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


class Record(msgspec.Struct, rename="camel"):
    """state.json. `start_time` is field 22 of /proc/PID/stat: with it a reused pid is told apart."""

    id: str
    pid: int
    start_time: int
    bundle: str
    created: str
    cgroup_path: str
    rootfs: str = ""
    owner: str = "root"
    version: int = _VERSION
    no_new_keyring: bool = False


def start_time(pid: int) -> tuple[int, str]:
    """(start time, state letter) of a process. Raises ProcessLookupError."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(3, "read process state", str(pid)) from None
    return int(fields[19]), fields[0].decode()


class Store:
    def __init__(self, root: str) -> None:
        self.root = root

    def directory(self, container_id: str) -> str:
        """Raises InvalidArgument for an id that is not a plain name."""
        if not container_id or set(container_id) - _ID_CHARACTERS or container_id in {".", ".."}:
            raise InvalidArgument(f"read container id `{container_id}`: letters, digits and _ + - . only")
        return os.path.join(self.root, container_id)

    def reserve(self, container_id: str) -> str:
        """Take a free id. Raises AlreadyExists."""
        path = self.directory(container_id)
        os.makedirs(self.root, 0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            raise AlreadyExists(f"create container `{container_id}`: the id is in use") from None
        return path

    def gate(self, container_id: str) -> str:
        return os.path.join(self.directory(container_id), "gate")

    def save(self, record: Record, spec: Spec) -> None:
        directory = self.directory(record.id)
        atomic.write(os.path.join(directory, "config.json"), encode_spec(spec), 0o600)
        atomic.write(os.path.join(directory, "state.json"), msgspec.json.encode(record), 0o600)

    def load(self, container_id: str) -> tuple[Record, Spec]:
        """Raises NotFound, DataLoss."""
        directory = self.directory(container_id)
        try:
            with open(os.path.join(directory, "state.json"), "rb") as f:
                record = msgspec.json.decode(f.read(), type=Record)
            with open(os.path.join(directory, "config.json"), "rb") as f:
                spec = decode_spec(f.read())
        except FileNotFoundError:
            raise NotFound(
                f"find container `{container_id}`: container does not exist", hint="wharfie-oci list"
            ) from None
        except msgspec.MsgspecError as e:
            raise DataLoss(f"read state of container `{container_id}`: {e}") from e
        if record.version != _VERSION:
            raise DataLoss(f"read state of container `{container_id}`: version {record.version} is not known")
        return record, spec

    def lock(self, container_id: str) -> FileLock:
        return FileLock(os.path.join(self.directory(container_id), "lock"))

    def remove(self, container_id: str) -> None:
        import shutil

        shutil.rmtree(self.directory(container_id), ignore_errors=True)

    def ids(self) -> list[str]:
        try:
            return sorted(n for n in os.listdir(self.root) if os.path.exists(f"{self.root}/{n}/state.json"))
        except FileNotFoundError:
            return []


def now() -> str:
    moment = time.time_ns()
    return f"{datetime.fromtimestamp(moment // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{moment % 10**9:09d}Z"
