# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012
"""Messages of `criu swrk`: one request, then notifications, then one response (criu's images/rpc.proto, proto2)."""

from __future__ import annotations

from collections.abc import Sequence

from wharfie.spec.pb.codec import BOOL, INT, STRING, STRINGS, UINT, Message, Repeated, write_varint

DUMP, RESTORE, NOTIFY = 1, 2, 6
"""Types of requests and responses."""

CGROUP_MODES = {"ignore": 0, "cgnone": 1, "props": 2, "soft": 3, "full": 4, "strict": 5}
_CGROUP_MODE = 34


class InheritFd(Message):
    key: str = ""
    fd: int = 0
    FIELDS = {1: ("key", STRING), 2: ("fd", INT)}


class Options(Message):
    """criu_opts, as far as we use it. `cgroup_mode` is always written: in proto2 its zero is not its default."""

    images_dir_fd: int = 0
    pid: int = 0
    leave_running: bool = False
    ext_unix_sk: bool = False
    tcp_established: bool = False
    shell_job: bool = False
    file_locks: bool = False
    log_level: int = 0
    log_file: str = ""
    notify_scripts: bool = False
    root: str = ""
    work_dir_fd: int = 0
    link_remap: bool = False
    manage_cgroups: bool = False
    rst_sibling: bool = False
    inherit_fd: Sequence[InheritFd] = ()
    external: Sequence[str] = ()
    empty_ns: int = 0
    freeze_cgroup: str = ""
    tcp_skip_in_flight: bool = False
    orphan_pts_master: bool = False
    cgroup_mode: int = 0
    FIELDS = {
        1: ("images_dir_fd", INT), 2: ("pid", INT), 3: ("leave_running", BOOL), 4: ("ext_unix_sk", BOOL),
        5: ("tcp_established", BOOL), 7: ("shell_job", BOOL), 8: ("file_locks", BOOL), 9: ("log_level", INT),
        10: ("log_file", STRING), 12: ("notify_scripts", BOOL), 13: ("root", STRING), 17: ("work_dir_fd", INT),
        18: ("link_remap", BOOL), 24: ("manage_cgroups", BOOL), 26: ("rst_sibling", BOOL),
        27: ("inherit_fd", Repeated(InheritFd)), 37: ("external", STRINGS), 38: ("empty_ns", UINT),
        44: ("freeze_cgroup", STRING), 46: ("tcp_skip_in_flight", BOOL), 50: ("orphan_pts_master", BOOL),
    }  # fmt: skip

    def encode(self) -> bytes:
        out = bytearray(super().encode())
        write_varint(_CGROUP_MODE << 3, out)
        write_varint(self.cgroup_mode, out)
        return bytes(out)


class Request(Message):
    type: int = 0
    opts: Options | None = None
    notify_success: bool = False
    FIELDS = {1: ("type", UINT), 2: ("opts", Options), 3: ("notify_success", BOOL)}


class Restored(Message):
    pid: int = 0
    FIELDS = {1: ("pid", INT)}


class Notify(Message):
    script: str = ""
    pid: int = 0
    FIELDS = {1: ("script", STRING), 2: ("pid", INT)}


class Response(Message):
    type: int = 0
    success: bool = False
    restore: Restored | None = None
    notify: Notify | None = None
    cr_errno: int = 0
    message: str = ""
    FIELDS = {
        1: ("type", UINT), 2: ("success", BOOL), 4: ("restore", Restored), 5: ("notify", Notify),
        7: ("cr_errno", INT), 9: ("message", STRING),
    }  # fmt: skip
