# SPDX-License-Identifier: Apache-2.0
"""OCI hooks: programs that get the container's state on stdin (runtime-spec config.md, "POSIX-platform Hooks")."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import select
import signal
from collections.abc import Sequence

import msgspec

from wharfie.errdefs import FailedPrecondition
from wharfie.linux import process
from wharfie.spec.runtime import Hook, State

_encode = msgspec.json.Encoder().encode


def run_all(hooks: Sequence[Hook], kind: str, state: State) -> None:
    """Run hooks in order; the first that fails ends it. Raises FailedPrecondition naming hook and reason."""
    document = _encode(
        {
            "ociVersion": state.oci_version,
            "id": state.id,
            "status": state.status,
            "pid": state.pid,
            "bundle": state.bundle,
            "annotations": state.annotations,
        }
    )
    for hook in hooks:
        run(hook, kind, document)


def run(hook: Hook, kind: str, document: bytes) -> None:
    """One hook, with a clean environment: only what the spec gives it."""
    stdin_r, stdin_w = os.pipe()
    err_fd = os.memfd_create("hook", os.MFD_CLOEXEC)
    try:
        env = dict(e.split("=", 1) for e in hook.env if "=" in e)
        actions = [
            (os.POSIX_SPAWN_DUP2, stdin_r, 0),
            (os.POSIX_SPAWN_DUP2, err_fd, 1),
            (os.POSIX_SPAWN_DUP2, err_fd, 2),
        ]
        try:
            pid = os.posix_spawn(
                hook.path,
                hook.args or [hook.path],
                env,
                file_actions=actions,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as e:
            raise FailedPrecondition(f"run {kind} hook `{hook.path}`: {e.strerror}") from e
        os.close(stdin_r)
        stdin_r = -1
        pidfd = process.pidfd_open(pid)
        try:
            _feed(stdin_w, document)
            os.close(stdin_w)
            stdin_w = -1
            timeout = None if hook.timeout is None else hook.timeout * 1000
            poll = select.poll()  # select() stops at descriptor 1023
            poll.register(pidfd, select.POLLIN)
            ready = poll.poll(timeout)
            if not ready:
                process.pidfd_send_signal(pidfd, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            os.close(pidfd)
        if not ready:
            raise FailedPrecondition(f"run {kind} hook `{hook.path}`: no end after {hook.timeout} s, killed")
        if status != 0:
            output = os.pread(err_fd, 2048, 0).decode(errors="replace").strip()
            reason = f"exit code {status}" if status > 0 else f"killed by signal {-status}"
            raise FailedPrecondition(f"run {kind} hook `{hook.path}`: {reason}" + (f": {output}" if output else ""))
    finally:
        for fd in (stdin_r, stdin_w, err_fd):
            if fd >= 0:
                os.close(fd)


def _feed(fd: int, document: bytes) -> None:
    """Write the state; a hook that never reads it is not an error. A pipe holds 64 KiB, the state less."""
    try:
        os.set_blocking(fd, False)
        os.write(fd, document)
    except (BrokenPipeError, BlockingIOError):
        return
