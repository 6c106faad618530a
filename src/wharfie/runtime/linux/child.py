# SPDX-License-Identifier: Apache-2.0
"""Child: from birth in new namespaces to the gate. Runs in a fork of the runtime; never returns.

Every module used here is loaded before the fork: the root changes under this code, and an import after that would load
the container's files (CVE-2019-14271's Python twin).
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import fcntl
import os
import socket
import struct
from collections.abc import Callable

from wharfie.fsutil.beneath import mkdirs_in_root
from wharfie.linux import mountapi as k
from wharfie.linux import namespaces as ns
from wharfie.linux import process, pty
from wharfie.linux.openat2 import O_NOCTTY, O_PATH, O_RDWR, openat2
from wharfie.runtime.linux import channel as ch
from wharfie.runtime.linux import finish, hooks
from wharfie.runtime.linux.attach import Mounter
from wharfie.runtime.linux.plan import DEV, Plan, fd_count
from wharfie.spec.runtime import State

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class _Step:
    """What the child is doing, for the error that may come."""

    name = ""


def init(
    plan: Plan,
    channel: ch.Channel,
    stdio: tuple[int, int, int],
    cgroup_names: list[str],
    *,
    preserve_fds: int = 0,
    gate: socket.socket | None = None,
    init_fd: int | None = None,
    join: Callable[[int], None] | None = None,
) -> None:
    """The container's first process. `cgroup_names`: hierarchies the parent sends views of; `gate`: a listening socket to wait at for the
    start, else the channel itself. Ends in execve or _exit.
    """
    step = _Step()
    try:
        _run(
            plan,
            channel,
            stdio,
            cgroup_names,
            preserve_fds=preserve_fds,
            gate=gate,
            init_fd=init_fd,
            join=join,
            step=step,
        )
    except BaseException as e:
        try:
            channel.send(ch.ERROR, ch.encode_error(e, step.name))
        except OSError:
            pass  # nobody is left to hear it
    finally:
        os._exit(1)


def loopback_up() -> None:
    """A new network namespace starts with `lo` down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        request = fcntl.ioctl(s.fileno(), _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack_from("H", request, 16)[0]
        fcntl.ioctl(s.fileno(), _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _run(
    plan: Plan,
    channel: ch.Channel,
    stdio: tuple[int, int, int],
    cgroup_names: list[str],
    *,
    preserve_fds: int,
    gate: socket.socket | None,
    init_fd: int | None,
    join: Callable[[int], None] | None,
    step: _Step,
) -> None:
    step.name = "set up process"
    process.prctl(process.PR_SET_DUMPABLE, 0)
    finish.forbid_imports()
    inherited = [fd for fd in (gate.fileno() if gate else None, init_fd) if fd is not None]
    finish.keep_only([channel.sock.fileno(), *stdio, *inherited], preserve_fds)
    os.setsid()
    finish.reset_signals()
    os.umask(0)
    finish.set_labels(plan.process)
    step.name = "make namespaces"
    if plan.unshare_flags:
        ns.unshare(plan.unshare_flags)
    if plan.persona is not None:
        process.personality(plan.persona)
    if not plan.no_new_keyring:
        try:
            process.join_session_keyring(f"_ses.{plan.container_id}")
        except OSError:
            pass  # no keyrings in this kernel, or a filter around us: there is nothing to hide then
    if join is not None:
        step.name = "join cgroup"
        join(0)
    step.name = "mount"
    fds = _Descriptors(channel)
    fds.take(2)
    if plan.user_namespace:
        process.set_ids(0, 0, [])
        process.prctl(process.PR_SET_DUMPABLE, 0)  # a change of ids resets it to fs.suid_dumpable
    if plan.unshare_flags & ns.CLONE_NEWNET:
        loopback_up()
    if plan.spec.hostname:
        ns.sethostname(plan.spec.hostname)
    if plan.spec.domainname:
        ns.setdomainname(plan.spec.domainname)
    mounter, dev_fd, null_fd = _mount(plan, fds, cgroup_names)
    _make_cwd(plan, mounter)
    step.name = "set sysctls"
    mounter.write_sysctls()
    step.name = "run hooks"
    if plan.hooks.prestart or plan.hooks.create_runtime:
        channel.send(ch.HOOKS)
        channel.expect(ch.DONE)
    if plan.hooks.create_container:
        hooks.run_all(plan.hooks.create_container, "createContainer", _state(plan, "creating"))
    step.name = "join cgroup"
    channel.expect(ch.GO)
    if plan.cgroup_namespace:
        ns.unshare(ns.CLONE_NEWCGROUP)
    # Not before: while the device rules are being written, everything is denied for a moment.
    step.name = "open terminal"
    master, slave = _terminal(plan, mounter, dev_fd) if plan.process.terminal else (-1, -1)
    step.name = "protect paths"
    linux = plan.spec.linux
    if linux is not None:
        for path in linux.readonly_paths:
            mounter.make_read_only(path)
        mounter.mask(linux.masked_paths, null_fd)
    if plan.root_read_only:
        k.mount_setattr(mounter.root_fd, attr_set=k.MOUNT_ATTR_RDONLY, obj="/")
    step.name = "change root"
    _change_root(plan, mounter.root_fd)
    step.name = ""
    if slave >= 0:
        finish.adopt_terminal(slave, plan.process)
        os.close(slave)
    else:
        finish.set_stdio(stdio)

    def wait_at_gate() -> int:
        channel.send(ch.CREATED, b"", [master] if master >= 0 else [])
        if master >= 0:
            os.close(master)
        if gate is None:
            channel.expect(ch.START)
        else:
            channel.close()
            sock, _ = gate.accept()
            channel.sock = sock
            channel.expect(ch.START)
        if plan.hooks.start_container:
            step.name = "run hooks"
            hooks.run_all(plan.hooks.start_container, "startContainer", _state(plan, "created"))
            step.name = ""
        return channel.sock.fileno()

    root_fd = openat2(-100, "/", O_PATH)
    finish.run(plan.process, root_fd, preserve_fds, wait_at_gate, init_fd)


def _state(plan: Plan, status: str) -> State:
    return State(
        id=plan.container_id, status=status, pid=os.getpid(), bundle=plan.bundle, annotations=plan.spec.annotations
    )


class _Descriptors:
    """What the parent makes, in order, as it comes."""

    def __init__(self, channel: ch.Channel) -> None:
        self._channel = channel
        self._fds: list[int] = []
        self._whole = False

    def take(self, count: int) -> list[int]:
        """The first `count`, which stay; `drop` them once they are used."""
        while len(self._fds) < count and not self._whole:
            self._receive()
        return self._fds[:count]

    def drop(self, count: int) -> None:
        del self._fds[:count]

    def finish(self) -> None:
        while not self._whole:
            self._receive()

    def _receive(self) -> None:
        kind, _, some = self._channel.receive()
        if kind not in (ch.MOUNTS, ch.MORE):
            raise ConnectionAbortedError(103, "wait for mounts: the runtime went away")
        self._fds += some
        self._whole = kind == ch.MOUNTS


def _mount(plan: Plan, fds: _Descriptors, cgroup_names: list[str]) -> tuple[Mounter, int, int]:
    """Attach root and mounts. The mount namespace is ours alone: nothing of it goes back to the host."""
    k.mount("", "/", "", k.MS_REC | k.MS_SLAVE)
    root_fd, dev_fd = fds.take(2)
    fds.drop(2)
    if not any(m.kind == DEV for m in plan.mounts):
        k.move_mount(os.dup(dev_fd), "/")  # anywhere: it goes with the old root, clones of its nodes stay
    k.move_mount(root_fd, "/")
    mounter = Mounter(plan, root_fd, cgroup_names)
    for m in plan.mounts:
        count = fd_count(m, cgroup_names)
        ours = fds.take(count)
        fds.drop(count)
        mounter.attach(m, [os.dup(dev_fd)] if m.kind == DEV else ours)
    fds.finish()
    null_fd = openat2(dev_fd, "null", O_PATH)
    return mounter, dev_fd, null_fd


def _terminal(plan: Plan, mounter: Mounter, dev_fd: int) -> tuple[int, int]:
    """A pty of the container's own devpts, opened through the mount we made; its peer covers /dev/console."""
    if mounter.pts_fd >= 0:
        master = openat2(mounter.pts_fd, "ptmx", O_RDWR | O_NOCTTY)
    else:
        master = os.open("/dev/ptmx", O_RDWR | O_NOCTTY | os.O_CLOEXEC)
    slave = pty.unlock_and_open_peer(master)
    if mounter.pts_fd >= 0 and any(m.kind == DEV for m in plan.mounts):
        os.close(os.open("console", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=dev_fd))
        console = openat2(dev_fd, "console", O_PATH)
        clone = k.open_tree("", k.OPEN_TREE_CLONE, dir_fd=slave)
        k.move_mount(clone, dir_fd=console, obj="/dev/console")
        os.close(clone)
        os.close(console)
    return master, slave


def _make_cwd(plan: Plan, mounter: Mounter) -> None:
    """The working directory is made where the image lacks it; where it can't be, changing to it says why."""
    try:
        os.close(mkdirs_in_root(mounter.root_fd, plan.process.cwd))
    except OSError:
        return


def _change_root(plan: Plan, root_fd: int) -> None:
    os.fchdir(root_fd)
    if plan.no_pivot:
        os.chroot(".")
    else:
        k.pivot_root(".", ".")
        # The old root lies on top of the new one now. It is a slave since `_mount`: this doesn't reach the host.
        k.umount2(".", k.MNT_DETACH)
    os.chdir("/")
    if plan.root_propagation:
        k.mount("", "/", "", plan.root_propagation)
