# SPDX-License-Identifier: Apache-2.0
"""Restore: processes of a checkpoint in a container that is made anew from config.json.

The bundle says what the container is; the checkpoint only what its processes were doing. criu runs in a mount namespace
of its own, where the root and the mounts that the parent makes are attached at short paths; the cgroup is made before,
criu works inside it and what it restores is born there, and the limits are set before anything runs.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import re
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from wharfie.errdefs import DataLoss, FailedPrecondition, Unsupported, WharfieError
from wharfie.linux import mountapi as k
from wharfie.linux import namespaces as ns
from wharfie.linux import process
from wharfie.mount import Mount
from wharfie.runtime import Started, Stdio
from wharfie.runtime.linux import checkpoint, criu, hooks
from wharfie.runtime.linux.cgroups import Manager, open_manager
from wharfie.runtime.linux.engine import LinuxEngine, cgroup_path
from wharfie.runtime.linux.plan import DEV, Plan, plan
from wharfie.runtime.linux.prepare import prepare
from wharfie.spec.pb.criu import CGROUP_MODES, RESTORE, InheritFd
from wharfie.spec.runtime import Spec, State

_STAGE = "/tmp"
"""Directory that every host has: criu's private namespace has a tmpfs over it."""
_STREAM = re.compile(r"(?:pipe:\[\d{1,20}\]|file\[[0-9a-f]{1,8}:[0-9a-f]{1,16}\])\Z")
_DESCRIPTORS_LIMIT = 64 << 10


def restore(
    engine: LinuxEngine,
    container_id: str,
    bundle: str,
    spec: Spec,
    rootfs: Sequence[Mount],
    *,
    stdio: Stdio,
    request: checkpoint.Request,
) -> Started:
    """Make the container of `spec` and let the checkpoint's processes go on in it: the engine has adopted them then.

    Raises: FailedPrecondition or Unsupported with criu's reason, PermissionDenied for the directories, NotFound,
    InvalidArgument (spec).
    """
    what = f"restore container `{container_id}`"
    program = criu.find(request.program)
    p = plan(container_id, bundle, spec)
    checkpoint.refuse(p, what)
    if request.cgroup_mode not in {"soft", "ignore"}:
        raise Unsupported(
            f"{what}: --manage-cgroups-mode {request.cgroup_mode} is not supported",
            hint="limits come from config.json: use soft",
        )
    cgroup = open_manager(cgroup_path(spec, container_id))
    with ExitStack() as stack:
        images, work = checkpoint.directories(request, stack, make=False)
        streams = _streams(images)
        undo = stack.enter_context(ExitStack())
        undo.callback(cgroup.delete)
        cgroup.create()
        job = _Job(p, cgroup, engine.warnings, request, images, work)
        try:
            mounts = _mounts(p, rootfs, cgroup.views(), stack)
            inherit = [*_stream_fds(streams, stdio, stack), *_joined(p, stack)]
            started = job.run(program, mounts, inherit, stack)
        except OSError as e:
            text = f"{e.strerror or e}" + (f": `{e.filename}`" if e.filename is not None else "")
            raise FailedPrecondition(f"{what}: {text}", errno=e.errno) from e
        except WharfieError as e:
            e.message = e.message if e.message.startswith(what) else f"{what}: {e.message}"
            raise
        undo.pop_all()
    engine.adopt(container_id, bundle, spec, started.pid)
    return started


def _streams(images: int) -> list[str]:
    """What 0 to 2 were, "" where nothing of ours goes. Raises DataLoss."""
    try:
        fd = os.open(checkpoint.DESCRIPTORS, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=images)
    except FileNotFoundError:
        raise DataLoss(
            f"read checkpoint: no {checkpoint.DESCRIPTORS}", hint="was the checkpoint made to its end?"
        ) from None
    with open(fd, "rb") as f:
        data = f.read(_DESCRIPTORS_LIMIT)
    try:
        names = msgspec.json.decode(data, type=list[str])
    except msgspec.MsgspecError as e:
        raise DataLoss(f"read {checkpoint.DESCRIPTORS} of checkpoint: {e}") from e
    return [name if _STREAM.match(name) else "" for name in names[:3]]


class _Job(NamedTuple):
    plan: Plan
    cgroup: Manager
    warnings: list[str]
    request: checkpoint.Request
    images: int
    work: int

    def run(
        self, program: str, mounts: Sequence[tuple[str, int]], inherit: Sequence[InheritFd], stack: ExitStack
    ) -> Started:
        """`mounts`: (label, descriptor), the root first. `inherit`: descriptors for what came from outside."""
        p = self.plan
        r, w = os.pipe()
        stack.callback(os.close, r)
        waiting = stack.enter_context(ExitStack())
        waiting.callback(os.close, w)

        def ready() -> None:
            os.close(w)
            os.read(r, 1)
            _attach([fd for _, fd in mounts])
            if p.cgroup_namespace:
                ns.unshare(ns.CLONE_NEWCGROUP)  # criu leaves cgroups alone: what it restores is born into this one
            if not p.no_new_keyring:
                try:
                    process.join_session_keyring(f"_ses.{p.container_id}")
                except OSError:
                    pass  # no keyrings here

        child = criu.Criu(program, (self.images, self.work, *(i.fd for i in inherit)), ready)
        stack.callback(child.close)
        self.cgroup.add(child.pid)
        waiting.close()
        options = checkpoint.options_of(self.request, p)
        options.__dict__.update(
            images_dir_fd=self.images,
            work_dir_fd=self.work,
            log_file="restore.log",
            root=f"{_STAGE}/0",
            rst_sibling=True,
            inherit_fd=inherit,
            external=[f"mnt[{label}]:{_STAGE}/{n}" for n, (label, _) in enumerate(mounts) if label],
            cgroup_mode=CGROUP_MODES["ignore"],
        )
        consoles: list[int] = []
        answer = None
        try:
            answer = child.call(RESTORE, options, lambda *step: self._notified(*step, consoles=consoles))
        except ConnectionError:
            pass  # the log, read next, says why
        if answer is None or not answer.success or answer.restore is None:
            for fd in consoles:
                os.close(fd)
            raise criu.failure(f"restore container `{p.container_id}`", self.work, "restore.log", answer)
        pid = answer.restore.pid
        return Started(pid, process.pidfd_open(pid), consoles[0] if consoles else None)

    def _notified(self, script: str, pid: int, fds: list[int], *, consoles: list[int]) -> None:
        if script == "orphan-pts-master" and not consoles:
            consoles += fds
        else:
            for fd in fds:
                os.close(fd)
        spec = self.plan.spec
        if script == "setup-namespaces":
            state = State(
                id=self.plan.container_id,
                status="creating",
                pid=pid,
                bundle=self.plan.bundle,
                annotations=spec.annotations,
            )
            hooks.run_all(self.plan.hooks.prestart, "prestart", state)
            hooks.run_all(self.plan.hooks.create_runtime, "createRuntime", state)
        elif script == "post-restore" and spec.linux is not None and spec.linux.resources is not None:
            self.warnings.extend(self.cgroup.apply(spec.linux.resources))


def _mounts(
    p: Plan, rootfs: Sequence[Mount], views: Sequence[tuple[str, str]], stack: ExitStack
) -> list[tuple[str, int]]:
    """(label, descriptor) of what the parent makes: the root first, without a label; /dev is criu's."""
    names = [name for name, _ in views]
    root, _, *rest = prepare(p, rootfs, None, views, stack)
    found = [("", root)]
    for m in p.mounts:
        if m.kind == DEV:
            del rest[:1]
            continue
        labels = checkpoint.labels([m], names)
        found += zip(labels, rest, strict=False)
        del rest[: len(labels)]
    return found


def _attach(fds: Sequence[int]) -> None:
    """In criu's process: a mount namespace of its own with descriptor n at `_STAGE`/n."""
    ns.unshare(ns.CLONE_NEWNS)
    k.mount("", "/", "", k.MS_REC | k.MS_PRIVATE)
    k.mount("tmpfs", _STAGE, "tmpfs", 0, "mode=0700")
    for n, fd in enumerate(fds):
        target = f"{_STAGE}/{n}"
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        k.move_mount(fd, target)


def _stream_fds(streams: Sequence[str], stdio: Stdio, stack: ExitStack) -> list[InheritFd]:
    """Our standard streams for what the checkpoint's were; the null device where we have none."""
    found: dict[str, InheritFd] = {}
    for number, (name, fd) in enumerate(zip(streams, stdio, strict=False)):
        if not name or name in found:
            continue
        pipe = fd is not None and stat.S_ISFIFO(os.fstat(fd).st_mode)
        if fd is not None and pipe != name.startswith("pipe:"):
            was, now = ("a file", "a pipe") if pipe else ("a pipe", "a file")
            raise FailedPrecondition(
                f"give standard streams: {number} was {was} and cannot become {now}",
                hint=f"restore it with {was} there",
            )
        copy = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) if fd is None else os.dup(fd)
        stack.callback(os.close, copy)
        found[name] = InheritFd(key=name, fd=copy)
    return list(found.values())


def _joined(p: Plan, stack: ExitStack) -> list[InheritFd]:
    names = {"network": checkpoint.NETWORK, "pid": checkpoint.PID}
    found = []
    for kind, path in p.joins:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise FailedPrecondition(f"join {kind} namespace `{path}`: {e.strerror}") from e
        stack.callback(os.close, fd)
        found.append(InheritFd(key=names[kind], fd=fd))
    return found
