# SPDX-License-Identifier: Apache-2.0
"""Checkpoint: the processes of a container, written to a directory of images by criu.

What a container got from outside is written as a name, and given again by whoever restores: mounts that the parent
made (named by their destination in config.json), joined namespaces, and standard streams
(`descriptors.json`, as runc writes it). So no path of the host is in a checkpoint, and none is taken from one.

criu restores whatever the images say, with root's powers: a checkpoint is as trusted as the root user. Hence
`open_directory`: it, and all in it, must belong to us alone.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from wharfie.errdefs import FailedPrecondition, InvalidArgument, PermissionDenied, Unsupported
from wharfie.fsutil.beneath import open_in_root
from wharfie.linux import namespaces as ns
from wharfie.linux.openat2 import O_PATH
from wharfie.runtime.linux import criu
from wharfie.runtime.linux.engine import LinuxEngine
from wharfie.runtime.linux.plan import CGROUP, DEV, INIT_ANNOTATION, PARENT, MountPlan, Plan
from wharfie.spec.pb.criu import CGROUP_MODES, DUMP, Options

_FILES = {"network": "net", "ipc": "ipc", "uts": "uts"}
ENTERED = frozenset(_FILES)
"""Joined namespaces that criu is put into: it takes them for its own, and leaves them out."""
DESCRIPTORS = "descriptors.json"
_PTS = 136
"""Major number of terminals: criu has ways of its own for them."""


class Request(NamedTuple):
    """What the caller asks for. `work_path` "" is the image directory; `program` "" is criu from PATH."""

    image_path: str
    work_path: str = ""
    program: str = ""
    leave_running: bool = False
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    link_remap: bool = False
    empty_network: bool = False
    cgroup_mode: str = "soft"


def open_directory(path: str, *, make: bool) -> int:
    """Descriptor of a directory that is ours alone, plain files in it. Raises PermissionDenied for any other."""
    if make:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # what it is gets checked now
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as e:
        raise FailedPrecondition(f"open checkpoint directory `{path}`: {e.strerror}") from e
    try:
        _check(os.fstat(fd), path, directory=True)
        for name in os.listdir(fd):
            _check(os.stat(name, dir_fd=fd, follow_symlinks=False), f"{path}/{name}", directory=False)
        os.fchmod(fd, 0o700)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(st: os.stat_result, path: str, *, directory: bool) -> None:
    wanted = stat.S_ISDIR(st.st_mode) if directory else stat.S_ISREG(st.st_mode) and st.st_nlink == 1
    if not wanted:
        raise PermissionDenied(
            f"use checkpoint `{path}`: it is no plain file", hint="links could lead criu to other files"
        )
    if st.st_uid != os.geteuid() or st.st_mode & 0o022:
        raise PermissionDenied(
            f"use checkpoint `{path}`: others may write it",
            hint="a checkpoint is trusted like root: chown and chmod it",
        )


def dump(engine: LinuxEngine, request: Request, *, reap: Callable[[], None] | None = None) -> None:
    """Write a checkpoint of a running container; it ends, unless `leave_running`.

    Processes that exec started are not part of it. `reap`: for a caller whose children they are, to call meanwhile.

    Raises: FailedPrecondition or Unsupported with criu's reason, PermissionDenied for the directories, NotFound.
    """
    p = engine.plan
    assert p is not None
    what = f"checkpoint container `{p.container_id}`"
    program = criu.find(request.program)
    refuse(p, what)
    if request.cgroup_mode not in CGROUP_MODES:
        raise InvalidArgument(f"{what}: cgroup mode `{request.cgroup_mode}`: soft, full, strict or ignore")
    if not engine.pid:
        raise FailedPrecondition(f"{what}: it is not running")
    with ExitStack() as stack:
        images, work = directories(request, stack, make=True)
        streams, outside = _streams(engine.pid)
        views = engine.cgroup.views() if engine.cgroup is not None else []
        options = options_of(request, p)
        options.__dict__.update(
            images_dir_fd=images,
            work_dir_fd=work,
            log_file="dump.log",
            pid=engine.pid,
            leave_running=request.leave_running,
            root=f"/proc/{engine.pid}/root",
            external=[*_mounts(engine.pid, p, [name for name, _ in views]), *outside],
            freeze_cgroup=next((path for name, path in views if name in {"", "freezer"}), ""),
            cgroup_mode=CGROUP_MODES[request.cgroup_mode],
        )
        entered = open_entered(p, stack, pid=engine.pid)

        def ready() -> None:
            os.umask(0o077)
            enter(entered)

        child = criu.Criu(program, (images, work), ready)
        stack.callback(child.close)
        answer = None
        try:
            answer = child.call(DUMP, options, _heard, reap=reap)
        except ConnectionError:
            pass  # the log, read next, says why
        if answer is None or not answer.success:
            raise criu.failure(what, work, "dump.log", answer)
        fd = os.open(DESCRIPTORS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=images)
        with open(fd, "wb") as f:
            f.write(msgspec.json.encode(streams))


def _heard(_script: str, _pid: int, fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def directories(request: Request, stack: ExitStack, *, make: bool) -> tuple[int, int]:
    """(images, work)."""
    images = open_directory(request.image_path, make=make)
    stack.callback(os.close, images)
    if not request.work_path or request.work_path == request.image_path:
        return images, images
    work = open_directory(request.work_path, make=True)
    stack.callback(os.close, work)
    return images, work


def options_of(request: Request, p: Plan) -> Options:
    """What both directions share."""
    return Options(
        log_level=4,
        notify_scripts=True,
        ext_unix_sk=request.ext_unix_sk,
        tcp_established=request.tcp_established,
        tcp_skip_in_flight=request.tcp_skip_in_flight,
        shell_job=request.shell_job,
        file_locks=request.file_locks,
        link_remap=request.link_remap,
        orphan_pts_master=p.process.terminal,
        manage_cgroups=True,
        empty_ns=0x40000000 if request.empty_network else 0,
    )


def refuse(p: Plan, what: str) -> None:
    """Raises Unsupported for containers that criu cannot take."""
    if p.spec.annotations.get(INIT_ANNOTATION) == "1":
        raise Unsupported(
            f"{what}: its init is a program without a file, which criu cannot restore",
            hint="run it without --init to checkpoint it",
        )
    for kind, path in p.joins:
        if kind not in ENTERED:
            raise Unsupported(f"{what}: it joined the {kind} namespace `{path}`, which criu cannot give back")


def open_entered(p: Plan, stack: ExitStack, pid: int = 0) -> list[tuple[int, int]]:
    """(descriptor, flag) of namespaces that criu works in: by config.json, or those that `pid` is in."""
    found = []
    for kind, path in p.joins:
        if kind in ENTERED:
            if pid:
                path = f"/proc/{pid}/ns/{_FILES[kind]}"
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as e:
                raise FailedPrecondition(f"join {kind} namespace `{path}`: {e.strerror}") from e
            stack.callback(os.close, fd)
            found.append((fd, ns.FLAGS[kind]))
    return found


def enter(namespaces: Sequence[tuple[int, int]]) -> None:
    for fd, flag in namespaces:
        ns.setns(fd, flag)


def labels(mounts: Sequence[MountPlan], cgroup_names: Sequence[str], *, dev: bool) -> list[str]:
    """Destinations of the mounts that come from outside, in the order of `prepare`'s descriptors.

    `dev`: /dev is one of them. In a user namespace criu could not make the nodes again.
    """
    found = []
    for m in mounts:
        if m.kind == PARENT or (m.kind == DEV and dev):
            found.append(m.destination)
        elif m.kind == CGROUP:
            found.append(m.destination)
            if list(cgroup_names) != [""]:
                found += [f"{m.destination}/{name}" for name in cgroup_names]
    return found


def _mounts(pid: int, p: Plan, cgroup_names: Sequence[str]) -> list[str]:
    """The parent's mounts by where they really are: a destination may lead through links of the image."""
    found = []
    root = os.open(f"/proc/{pid}/root", O_PATH | os.O_CLOEXEC)
    try:
        for label in labels(p.mounts, cgroup_names, dev=p.user_namespace):
            fd = open_in_root(root, label, O_PATH)
            found.append(f"mnt[{os.readlink(f'/proc/self/fd/{fd}')}]:{label}")
            os.close(fd)
    finally:
        os.close(root)
    return found


def _streams(pid: int) -> tuple[list[str], list[str]]:
    """(what 0 to 2 are, keys of those that are files of the host)."""
    with open(f"/proc/{pid}/mountinfo", "rb") as f:
        inside = {int(line.split()[0]) for line in f}
    streams, outside = [], []
    for number in range(3):
        path = f"/proc/{pid}/fd/{number}"
        try:
            name, st = os.readlink(path), os.stat(path)
            with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as f:
                mount = next(int(line.split()[1]) for line in f if line.startswith("mnt_id"))
        except FileNotFoundError:
            streams.append("")
            continue
        if name.startswith("/") and mount not in inside and os.major(st.st_rdev) != _PTS:
            name = f"file[{mount:x}:{st.st_ino:x}]"
            outside.append(name)
        streams.append(name)
    return streams, outside
