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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import msgspec

from wharfie.errdefs import DataLoss, FailedPrecondition, Unsupported, WharfieError
from wharfie.fsutil.beneath import create_file_in_root, mkdirs_in_root
from wharfie.linux import mountapi as k
from wharfie.linux import namespaces as ns
from wharfie.linux import process
from wharfie.mount import Mount
from wharfie.mount.detached import set_idmap
from wharfie.runtime import Started, Stdio
from wharfie.runtime.linux import checkpoint, criu, hooks
from wharfie.runtime.linux.cgroups import Manager, open_manager
from wharfie.runtime.linux.engine import LinuxEngine, cgroup_path
from wharfie.runtime.linux.plan import DEV, Plan, plan
from wharfie.runtime.linux.prepare import prepare
from wharfie.spec.pb.criu import CGROUP_MODES, RESTORE, InheritFd, Options, Response
from wharfie.spec.runtime import Spec, State

_STAGE = "/tmp"
"""Directory that every host has: criu's private namespace has a tmpfs over it."""
_STREAM = re.compile(r"(?:pipe:\[\d{1,20}\]|file\[[0-9a-f]{1,8}:[0-9a-f]{1,16}\])\Z")
_LOG = "restore.log"
_DESCRIPTORS_LIMIT = 64 << 10


class RestoredEngine(LinuxEngine):
    """A LinuxEngine whose `create` makes the container of the spec with the checkpoint's processes in it, held until
    `start`. After that it is like any other.

    Raises: FailedPrecondition or Unsupported with criu's reason, PermissionDenied for the directories, NotFound,
    InvalidArgument (spec).
    """

    def __init__(self, request: checkpoint.Request, *, no_new_keyring: bool = False) -> None:
        super().__init__(no_new_keyring=no_new_keyring)
        self._request, self._keyring = request, not no_new_keyring
        self._job: _Job | None = None

    def create(self, container_id: str, bundle: str, spec: Spec, rootfs: Sequence[Mount], stdio: Stdio) -> Started:
        what, request = f"restore container `{container_id}`", self._request
        program = criu.find(request.program)
        p = plan(container_id, bundle, spec, no_new_keyring=not self._keyring)
        checkpoint.refuse(p, what)
        if request.cgroup_mode not in {"soft", "ignore"}:
            raise Unsupported(
                f"{what}: --manage-cgroups-mode {request.cgroup_mode} is not supported",
                hint="limits come from config.json: use soft",
            )
        cgroup = open_manager(
            cgroup_path(spec, container_id), resources=spec.linux.resources if spec.linux is not None else None
        )
        with ExitStack() as stack:
            images, work = checkpoint.directories(request, stack, make=False)
            streams = _streams(images)
            undo = stack.enter_context(ExitStack())
            undo.callback(cgroup.delete)
            cgroup.create()
            if p.user_namespace:
                images = _for_container(images, p, stack)
            job = _Job(p, cgroup, self.warnings, images, os.dup(work))
            undo.callback(job.close)
            try:
                mounts = _mounts(p, rootfs, cgroup.views(), stack)
                inherit = _stream_fds(streams, stdio, stack)
                started = job.run(checkpoint.options_of(request, p), program, mounts, inherit)
            except OSError as e:
                text = f"{e.strerror or e}" + (f": `{e.filename}`" if e.filename is not None else "")
                raise FailedPrecondition(f"{what}: {text}", errno=e.errno) from e
            except WharfieError as e:
                e.message = e.message if e.message.startswith(what) else f"{what}: {e.message}"
                raise
            undo.pop_all()
        self.adopt(container_id, bundle, spec, started.pid)
        self._job = job
        return started

    def start(self) -> None:
        job, self._job = self._job, None
        if job is None:
            raise FailedPrecondition("start container: it has not been restored, or has been started")
        try:
            job.let_go()
        finally:
            job.close()

    def delete(self, *, force: bool = False) -> None:
        if self._job is not None:
            self._job.close()
            self._job = None
        super().delete(force=force)


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


def _for_container(images: int, p: Plan, stack: ExitStack) -> int:
    """The image directory with its files belonging to container root, as whom criu reads most of them.

    It reads the time namespace's before the id maps are there, as nobody: so that one file is open to all meanwhile.
    """
    for name in os.listdir(images):
        os.chmod(name, 0o644 if name == "timens-0.img" else 0o600, dir_fd=images)
    os.fchmod(images, 0o711)
    stack.callback(os.fchmod, images, 0o700)
    userns = ns.create_userns(p.uid_map, p.gid_map)
    try:
        fd = k.open_tree("", k.OPEN_TREE_CLONE, dir_fd=images)
        stack.callback(os.close, fd)
        set_idmap(fd, userns, "checkpoint directory")
    finally:
        os.close(userns)
    return fd


class _Job:
    """One restore: a criu at work, its log, what it handed over."""

    def __init__(self, p: Plan, cgroup: Manager, warnings: list[str], images: int, work: int) -> None:
        self._plan, self._cgroup, self._warnings = p, cgroup, warnings
        self._images, self._work = images, work
        self._criu: criu.Criu | None = None
        self._pid = 0
        self._consoles: list[int] = []

    def run(
        self, options: Options, program: str, mounts: Sequence[tuple[str, int]], inherit: Sequence[InheritFd]
    ) -> Started:
        """Up to the point where all is there and nothing runs. `mounts`: (label, descriptor), the root first."""
        p = self._plan
        with ExitStack() as stack:
            r, w = os.pipe()
            stack.callback(os.close, r)
            waiting = stack.enter_context(ExitStack())
            waiting.callback(os.close, w)
            entered = checkpoint.open_entered(p, stack)

            def ready() -> None:
                os.close(w)
                os.read(r, 1)
                checkpoint.enter(entered)
                _make_mount_points(p, dict(mounts))
                _attach([fd for _, fd in mounts])
                if p.cgroup_namespace:
                    ns.unshare(ns.CLONE_NEWCGROUP)  # criu leaves cgroups alone: what it restores is born into this one
                if not p.no_new_keyring:
                    try:
                        process.join_session_keyring(f"_ses.{p.container_id}")
                    except OSError:
                        pass  # no keyrings here

            self._criu = criu.Criu(program, (self._images, self._work, *(i.fd for i in inherit)), ready)
            self._cgroup.add(self._criu.pid)
        options.__dict__.update(
            images_dir_fd=self._images,
            work_dir_fd=self._work,
            log_file=_LOG,
            root=f"{_STAGE}/0",
            rst_sibling=True,
            inherit_fd=inherit,
            external=[f"mnt[{label}]:{_STAGE}/{n}" for n, (label, _) in enumerate(mounts) if label],
            cgroup_mode=CGROUP_MODES["ignore"],
        )
        answer = None
        try:
            answer = self._criu.call(RESTORE, options, self._notified, hold="post-restore")
        except ConnectionError:
            self._pid = 0  # the log, read next, says why
        if answer is not None or not self._pid:
            raise self._failure(answer)
        consoles, self._consoles = self._consoles, []
        return Started(self._pid, process.pidfd_open(self._pid), consoles[0] if consoles else None)

    def let_go(self) -> None:
        """Have the processes run."""
        assert self._criu is not None
        answer = None
        try:
            answer = self._criu.go_on(self._notified)
        except ConnectionError:
            pass  # the log, read next, says why
        if answer is None or not answer.success:
            raise self._failure(answer)

    def close(self) -> None:
        """Before `let_go` that is the end of what was restored."""
        if self._criu is not None:
            self._criu.close()
        if self._work >= 0:
            os.close(self._work)
        for fd in self._consoles:
            os.close(fd)
        self._consoles, self._work = [], -1

    def _failure(self, answer: Response | None) -> WharfieError:
        return criu.failure(f"restore container `{self._plan.container_id}`", self._work, _LOG, answer)

    def _notified(self, script: str, pid: int, fds: list[int]) -> None:
        if script == "orphan-pts-master" and not self._consoles:
            self._consoles = fds
        else:
            for fd in fds:
                os.close(fd)
        p = self._plan
        if script == "setup-namespaces":
            state = State(
                id=p.container_id, status="creating", pid=pid, bundle=p.bundle, annotations=p.spec.annotations
            )
            hooks.run_all(p.hooks.prestart, "prestart", state)
            hooks.run_all(p.hooks.create_runtime, "createRuntime", state)
        elif script == "post-restore":
            self._pid = pid
            if p.spec.linux is not None and p.spec.linux.resources is not None:
                self._warnings += self._cgroup.apply(p.spec.linux.resources)


def _mounts(
    p: Plan, rootfs: Sequence[Mount], views: Sequence[tuple[str, str]], stack: ExitStack
) -> list[tuple[str, int]]:
    """(label, descriptor) of what the parent makes: the root first, without a label; /dev is criu's."""
    names = [name for name, _ in views]
    userns = None
    if p.user_namespace:
        userns = ns.create_userns(p.uid_map, p.gid_map)
        stack.callback(os.close, userns)
    root, _, *rest = prepare(p, rootfs, userns, views, stack)
    found = [("", root)]
    for m in p.mounts:
        labels = checkpoint.labels([m], names, dev=p.user_namespace)
        found += zip(labels, rest, strict=False)
        del rest[: max(len(labels), m.kind == DEV)]
    return found


def _make_mount_points(p: Plan, fds: Mapping[str, int]) -> None:
    """In criu's process: where a mount of config.json goes, on the root and on a /dev of ours. The rest criu has."""
    if p.user_namespace:
        process.setfsgid(ns.host_id(p.gid_map, 0) or 0)
        process.setfsuid(ns.host_id(p.uid_map, 0) or 0)
    outer: list[str] = []
    for m in p.mounts:
        under = next((o for o in outer if m.destination.startswith(o + "/")), "")
        outer.append(m.destination)
        if under and (under != "/dev" or under not in fds):
            continue
        base, path = fds[under], m.destination[len(under) :]
        if m.destination in fds and not stat.S_ISDIR(os.fstat(fds[m.destination]).st_mode):
            os.close(create_file_in_root(base, path))
        else:
            os.close(mkdirs_in_root(base, path))
    if p.process.terminal and "/dev" in fds:
        os.close(create_file_in_root(fds["/dev"], "console"))
    if p.user_namespace:
        process.setfsuid(0)
        process.setfsgid(0)


def _attach(fds: Sequence[int]) -> None:
    """In criu's process: a mount namespace of its own with descriptor n at `_STAGE`/n."""
    ns.unshare(ns.CLONE_NEWNS)
    k.mount("", "/", "", k.MS_REC | k.MS_PRIVATE)
    k.mount("tmpfs", _STAGE, "tmpfs", 0, "mode=1777")
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
