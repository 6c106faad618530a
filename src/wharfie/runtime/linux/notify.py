# SPDX-License-Identifier: Apache-2.0
"""Parent: a notifying filter's listener goes to the profile's listenerPath (config-linux.md, "The Container Process State").

The child can't send it itself: its filter is on, and the socket's path is the host's. So it tells the number and the
descriptor is fetched from it by pidfd_getfd.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import socket

import msgspec

from wharfie.errdefs import FailedPrecondition
from wharfie.fsutil.sockets import short_name
from wharfie.linux import process
from wharfie.runtime.linux.plan import Plan

_encode = msgspec.json.Encoder().encode


def pass_on(p: Plan, pid: int, pidfd: int, number: int, status: str) -> None:
    """Fetch descriptor `number` of the process and send it on. Raises FailedPrecondition, OSError."""
    linux = p.spec.linux
    profile = linux.seccomp if linux is not None else None
    assert profile is not None
    fd = process.pidfd_getfd(pidfd, number)
    try:
        document = _encode(
            {
                "ociVersion": p.spec.oci_version,
                "fds": ["seccompFd"],
                "pid": pid,
                "metadata": profile.listener_metadata,
                "state": {
                    "ociVersion": p.spec.oci_version,
                    "id": p.container_id,
                    "status": status,
                    "pid": pid,
                    "bundle": p.bundle,
                    "annotations": p.spec.annotations,
                },
            }
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            try:
                with short_name(profile.listener_path) as name:
                    s.connect(name)
                socket.send_fds(s, [document], [fd])
            except OSError as e:
                raise FailedPrecondition(
                    f"send seccomp listener to `{profile.listener_path}`: {e.strerror or e}"
                ) from e
    finally:
        os.close(fd)
