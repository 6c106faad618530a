# SPDX-License-Identifier: Apache-2.0
"""Giving birth: the first process (with or without namespaces to join before), and processes that enter later.

Where namespaces must be joined first, a short-lived process does that and clones the real one with CLONE_PARENT, so
that it is a child of the runtime's process all the same.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
from collections.abc import Callable
from contextlib import ExitStack

from wharfie.errdefs import FailedPrecondition
from wharfie.linux import namespaces as ns
from wharfie.linux import process, pty
from wharfie.linux.openat2 import AT_FDCWD, O_NOCTTY, O_PATH, O_RDWR, openat2
from wharfie.runtime import Started
from wharfie.runtime.linux import channel as ch
from wharfie.runtime.linux import finish, notify
from wharfie.runtime.linux.cgroups import Manager
from wharfie.runtime.linux.plan import Plan
from wharfie.runtime.linux.process import ProcessPlan
from wharfie.spec.runtime import TimeOffset


def spawn(
    first: Callable[[], None],
    ours: ch.Channel,
    theirs: ch.Channel,
    flags: int,
    joins: list[tuple[int, int, str]],
    *,
    birth_fd: int | None,
    new_time: bool = False,
    offsets: dict[str, TimeOffset] | None = None,
) -> tuple[int, int]:
    """Run `first` in a new process (it must not return); (pid, pidfd) here. `joins`: (descriptor, flag, path)."""
    new_time = new_time and not any(flag == ns.CLONE_NEWTIME for _, flag, _ in joins)
    if not joins and not new_time:
        pid, pidfd = ns.clone3(flags, cgroup_fd=birth_fd)
        if pid == 0:
            try:
                ours.close()
                first()
            finally:
                os._exit(1)
        return pid, pidfd
    return _by_way_of(lambda: _join(joins, new_time, offsets or {}), first, ours, theirs, flags, birth_fd=birth_fd)


def _join(joins: list[tuple[int, int, str]], new_time: bool, offsets: dict[str, TimeOffset]) -> None:
    if new_time:
        ns.unshare(ns.CLONE_NEWTIME)
        for clock, offset in offsets.items():
            with open("/proc/self/timens_offsets", "wb", buffering=0) as f:
                f.write(f"{clock} {offset.secs} {offset.nanosecs}\n".encode())
    for fd, flag, path in joins:
        ns.setns(fd, flag, path)


def _by_way_of(
    enter: Callable[[], None],
    first: Callable[[], None],
    ours: ch.Channel,
    theirs: ch.Channel,
    flags: int,
    *,
    birth_fd: int | None,
) -> tuple[int, int]:
    """Fork a process that enters namespaces and clones the real one as its sibling."""
    middle, middle_fd = ns.clone3(0)
    if middle == 0:
        code = 1
        try:
            ours.close()
            process.prctl(process.PR_SET_DUMPABLE, 0)
            enter()
            pid, pidfd = ns.clone3(flags | ns.CLONE_PARENT, cgroup_fd=birth_fd)
            if pid == 0:
                first()
                os._exit(1)
            theirs.send(ch.BORN, str(pid).encode(), [pidfd])
            code = 0
        except BaseException as e:
            theirs.send(ch.ERROR, ch.encode_error(e, "join namespaces"))
        finally:
            os._exit(code)
    try:
        kind, payload, fds = _first_of(ours)
    finally:
        os.waitpid(middle, 0)
        os.close(middle_fd)
    if kind == ch.ERROR:
        raise ch.decode_error(payload, "")
    return int(payload), fds[0]


def _first_of(ours: ch.Channel) -> tuple[bytes, bytes, list[int]]:
    kind, payload, fds = ours.receive()
    if kind not in (ch.BORN, ch.ERROR):
        raise FailedPrecondition("join namespaces: the joining process died without a word")
    return kind, payload, fds


def run(
    init_pidfd: int,
    p: Plan,
    planned: ProcessPlan,
    stdio: tuple[int, int, int],
    *,
    cgroup: Manager,
    warnings: list[str],
    preserve_fds: int,
) -> Started:
    """Enter a running container and execute. Returns once execve has worked.

    Raises: what the child met: NotFound, PermissionDenied, FailedPrecondition.
    """
    from wharfie.runtime.linux.engine import _Mover, set_oom_score, set_rlimits

    flags = 0
    for kind in p.own:
        flags |= ns.FLAGS[kind]
    with ExitStack() as stack:
        ours, theirs = ch.pair()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        birth_fd = cgroup.birth_fd()
        if birth_fd is not None:
            stack.callback(os.close, birth_fd)

        def enter() -> None:
            finish.set_labels(planned)
            ns.setns(init_pidfd, flags & ~ns.CLONE_NEWCGROUP, "the container's namespaces")

        def first() -> None:
            if flags & ns.CLONE_NEWCGROUP:
                # Only now: from inside it, cgroup2 mounted with nsdelegate (systemd does) refuses the birth with ENOENT.
                ns.setns(init_pidfd, ns.CLONE_NEWCGROUP, "the container's cgroup namespace")
            _enter(p, planned, theirs, stdio, preserve_fds)

        pid, pidfd = _by_way_of(enter, first, ours, theirs, 0, birth_fd=birth_fd)
        theirs.close()
        done = stack.enter_context(ExitStack())
        done.callback(_end, pid, pidfd)
        mover = _Mover(cgroup, pid) if birth_fd is None else None
        try:
            set_oom_score(pid, planned.oom_score_adj, warnings)
            warnings += set_rlimits(pid, planned.rlimits)
        finally:
            if mover is not None:
                mover.join()
        if mover is not None:
            mover.check()
        ours.send(ch.GO)
        console = None
        while True:
            message, payload, fds = ours.receive()
            if message == ch.CREATED:
                console = fds[0] if fds else None
                if console is not None:
                    done.callback(os.close, console)
            elif message == ch.ERROR:
                raise ch.decode_error(payload, "")
            elif message == ch.LISTENER:
                notify.pass_on(p, pid, pidfd, int(payload), "running")
                ours.send(ch.TAKEN)
            elif not message:
                break
        done.pop_all()
        return Started(pid, pidfd, console)


def _end(pid: int, pidfd: int) -> None:
    try:
        process.pidfd_send_signal(pidfd, 9)
    except ProcessLookupError:
        pass
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    os.close(pidfd)


def _enter(p: Plan, planned: ProcessPlan, channel: ch.Channel, stdio: tuple[int, int, int], preserve_fds: int) -> None:
    """Child, in the container's namespaces already."""
    step = "set up process"
    try:
        process.prctl(process.PR_SET_DUMPABLE, 0)
        finish.forbid_imports()
        finish.keep_only([channel.sock.fileno(), *stdio], preserve_fds)
        os.setsid()
        finish.reset_signals()
        if p.persona is not None:
            process.personality(p.persona)
        if not p.no_new_keyring:
            try:
                process.join_session_keyring(f"_ses.{p.container_id}")
            except OSError:
                pass  # no keyrings here
        if p.user_namespace:
            process.set_ids(0, 0, [])
            process.prctl(process.PR_SET_DUMPABLE, 0)  # a change of ids resets it to fs.suid_dumpable
        step = "join cgroup"
        channel.expect(ch.GO)
        step = ""
        root_fd = openat2(AT_FDCWD, "/", O_PATH)
        master = -1
        if planned.terminal:
            master, slave = _terminal()
            finish.adopt_terminal(slave, planned)
            os.close(slave)
        else:
            finish.set_stdio(stdio)

        def gate() -> int:
            channel.send(ch.CREATED, b"", [master] if master >= 0 else [])
            if master >= 0:
                os.close(master)
            return channel.sock.fileno()

        finish.run(planned, root_fd, preserve_fds, gate)
    except BaseException as e:
        try:
            channel.send(ch.ERROR, ch.encode_error(e, step))
        except OSError:
            pass  # nobody is left to hear it
    finally:
        os._exit(1)


def _terminal() -> tuple[int, int]:
    """A pty of the container's devpts. That it is one is checked by device number: the name is the container's."""
    master = openat2(AT_FDCWD, "/dev/ptmx", O_RDWR | O_NOCTTY)
    if os.fstat(master).st_rdev != os.makedev(5, 2):
        raise FailedPrecondition("open terminal: `/dev/ptmx` of the container is not a terminal multiplexer")
    return master, pty.unlock_and_open_peer(master)
