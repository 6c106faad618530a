# SPDX-License-Identifier: Apache-2.0
"""Child: the last steps of every process that enters a container, first and exec'd alike, up to execve.

The order matters and is the kernel's: scheduling and limits while still privileged; the working directory before the
identity changes (and checked, CVE-2024-21626); bounding set, groups, ids, seccomp, capabilities; execve.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import os
from collections.abc import Callable, Iterable

from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from wharfie.fsutil.beneath import open_in_root
from wharfie.linux import caps, process, pty, seccomp
from wharfie.linux.openat2 import O_RDONLY
from wharfie.runtime.linux import channel as ch
from wharfie.runtime.linux.process import ProcessPlan

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD_LIMIT = 1 << 20


def home_of(uid: int, root_fd: int) -> str:
    """Home directory by the container's /etc/passwd; `/` where it says nothing. At most 1 MiB of it is read."""
    try:
        fd = open_in_root(root_fd, "/etc/passwd", O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return "/"
    try:
        data = os.read(fd, _PASSWD_LIMIT)
    except OSError:
        return "/"
    finally:
        os.close(fd)
    wanted = str(uid).encode()
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) > 5 and fields[2] == wanted:
            return os.fsdecode(fields[5]) or "/"
    return "/"


def set_labels(plan: ProcessPlan) -> None:
    """AppArmor and SELinux labels for the coming execve, written while /proc is still the host's own.

    They are inherited by the processes that are cloned from here. A process that is not dumpable doesn't own its files
    in /proc, hence the detour.
    """
    if not plan.apparmor_profile and not plan.selinux_label:
        return
    process.prctl(process.PR_SET_DUMPABLE, 1)
    if plan.apparmor_profile:
        path = "/proc/self/attr/apparmor/exec"
        if not os.path.exists(path):
            path = "/proc/self/attr/exec"
        _write(path, f"exec {plan.apparmor_profile}")
    if plan.selinux_label:
        _write("/proc/self/attr/exec", plan.selinux_label)
    process.prctl(process.PR_SET_DUMPABLE, 0)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as e:
        raise OSError(e.errno, f"write {path}: {e.strerror}", text) from None
    finally:
        os.close(fd)


def keep_only(fds: Iterable[int], preserve_fds: int) -> None:
    """Close what the runtime's process had open: nothing of it may be found in /proc/PID/fd of a process inside."""
    first = 3
    for fd in sorted({*fds, *range(3, 3 + preserve_fds)}):
        if fd > first:
            process.close_range(first, fd - 1)
        first = max(first, fd + 1)
    process.close_range(first)


def forbid_imports() -> None:
    """From here on a module that isn't loaded is an error of ours, never a file of the container's."""
    sys.meta_path.clear()
    sys.path.clear()


def reset_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and whoever started us may ignore more: execve would pass that on."""
    # Numbers, not the names of `signal`: an enum member for each of 64 would cost a quarter of a millisecond.
    for number in range(1, _signal.NSIG):
        if _signal.getsignal(number) == _signal.SIG_IGN:
            try:
                _signal.signal(number, _signal.SIG_DFL)
            except OSError:
                continue  # SIGKILL and SIGSTOP can't be set
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def set_stdio(fds: tuple[int, int, int]) -> None:
    """Make three descriptors 0, 1 and 2, whatever numbers they have now."""
    moved = [fd if fd > 2 else os.dup(fd) for fd in fds]
    moved = [fd if fd > 2 else _dup_above(fd) for fd in moved]
    for number, fd in enumerate(moved):
        os.dup2(fd, number, inheritable=True)


def _dup_above(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def adopt_terminal(slave: int, plan: ProcessPlan) -> None:
    """Terminal: session of its own, size, ownership, stdio."""
    pty.make_controlling(slave)
    if plan.console_size is not None:
        pty.set_size(slave, plan.console_size.height, plan.console_size.width)
    if plan.uid:
        os.fchown(slave, plan.uid, -1)
    set_stdio((slave, slave, slave))


def schedule(plan: ProcessPlan) -> None:
    if plan.scheduling is not None:
        s = plan.scheduling
        process.sched_setattr(
            s.policy,
            flags=s.flags,
            nice=s.nice,
            priority=s.priority,
            runtime=s.runtime,
            deadline=s.deadline,
            period=s.period,
        )
    if plan.io_priority is not None:
        process.ioprio_set(*plan.io_priority)
    if plan.cpus:
        os.sched_setaffinity(0, plan.cpus)


def enter_cwd(cwd: str) -> bool:
    """Change to the working directory. False where only the user (not root) may, so that it is tried again later.

    A directory outside the root (reached through a leaked descriptor) has no path: refused (CVE-2024-21626).
    """
    try:
        os.chdir(cwd)
    except PermissionError:
        return False
    except OSError as e:
        raise FailedPrecondition(f"change to working directory `{cwd}`: {e.strerror}") from e
    try:
        here = os.getcwd()
    except OSError:
        here = ""
    if not here.startswith("/"):
        raise InvalidArgument(f"change to working directory `{cwd}`: it is outside the container's root")
    return True


def find_program(plan: ProcessPlan) -> bytes:
    """Path of the program, found as execvp does. Raises NotFound (127), PermissionDenied (126)."""
    name = plan.args[0]
    shown = name.decode(errors="replace")
    if not name:
        raise NotFound("find program ``: the name is empty")
    if b"/" in name:
        candidates = [name]
    else:
        path = plan.env.get(b"PATH", _DEFAULT_PATH.encode())
        candidates = [(directory or b".") + b"/" + name for directory in path.split(b":")]
    denied = False
    for candidate in candidates:
        try:
            if os.path.isdir(candidate):
                denied = denied or b"/" in name
            elif os.access(candidate, os.X_OK):
                return candidate
            elif os.path.exists(candidate):
                denied = True
        except OSError:
            continue
    if denied:
        raise PermissionDenied(
            f"exec `{shown}`: permission denied", hint="it is there, but cannot be executed (chmod +x)"
        )
    if b"/" in name:
        raise NotFound(f"exec `{shown}`: no such file or directory")
    raise NotFound(f"exec `{shown}`: executable file not found in $PATH")


def become(plan: ProcessPlan, available: int, listener: Callable[[int], None]) -> None:
    """Identity: bounding set, groups, ids, seccomp, capabilities. After it the process is the container's.

    `available` is the permitted set at this point: what the host itself lacks can't be given. `listener` hands over the
    descriptor of a filter that notifies.
    """
    wanted = plan.caps
    for number in range(len(caps.NAMES)):
        if not wanted.bounding >> number & 1:
            try:
                process.prctl(process.PR_CAPBSET_DROP, number, obj=caps.NAMES[number])
            except OSError as e:
                if e.errno != errno.EINVAL:  # a capability that this kernel doesn't know yet
                    raise
    process.prctl(process.PR_SET_KEEPCAPS, 1)
    process.set_ids(plan.uid, plan.gid, plan.groups)
    process.prctl(process.PR_SET_DUMPABLE, 0)  # a change of ids resets it to fs.suid_dumpable
    permitted = wanted.permitted & available
    effective = wanted.effective & permitted
    inheritable = wanted.inheritable & available
    early = plan.seccomp and not plan.no_new_privileges
    if early:
        # Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the last capset.
        keep = (permitted | caps.SYS_ADMIN | caps.SETPCAP) & available
        caps.capset(keep, keep, inheritable & keep)
        _load_filter(plan, listener)
    caps.capset(effective, permitted, inheritable)
    for number in range(len(caps.NAMES)):
        if wanted.ambient & available & permitted & inheritable & 1 << number:
            process.prctl(process.PR_CAP_AMBIENT, process.PR_CAP_AMBIENT_RAISE, number, obj=caps.NAMES[number])
    if plan.no_new_privileges:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
        if plan.seccomp:
            _load_filter(plan, listener)


def _load_filter(plan: ProcessPlan, listener: Callable[[int], None]) -> None:
    fd = seccomp.set_filter(plan.seccomp, plan.seccomp_flags)
    if plan.seccomp_flags & seccomp.SECCOMP_FILTER_FLAG_NEW_LISTENER:
        listener(fd)


def hand_over_listener(channel_fd: int, listener_fd: int) -> None:
    """Have the runtime outside fetch the listener. The filter is on already: write and read only, as runc does it."""
    os.write(channel_fd, ch.LISTENER + str(listener_fd).encode())
    if os.read(channel_fd, 64) != ch.TAKEN:
        raise FailedPrecondition("hand over seccomp listener: nobody took it")
    os.close(listener_fd)


def execute(path: bytes, plan: ProcessPlan, init_fd: int | None = None) -> None:
    """Call execve. Returns only by raising NotFound or PermissionDenied."""
    shown = plan.args[0].decode(errors="replace")
    try:
        if init_fd is None:
            os.execve(path, plan.args, plan.env)
        else:
            os.execve(init_fd, [b"init", path, *plan.args], plan.env)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(
                f"exec `{shown}`: {e.strerror}", hint="its interpreter or dynamic loader may be missing"
            ) from e
        if e.errno in (errno.EACCES, errno.ENOEXEC, errno.EPERM, errno.EISDIR, errno.ELOOP):
            raise PermissionDenied(f"exec `{shown}`: {e.strerror}") from e
        raise OSError(e.errno, f"execve: {e.strerror}", shown) from None


def run(
    plan: ProcessPlan,
    root_fd: int,
    preserve_fds: int,
    gate: Callable[[], int],
    init_fd: int | None = None,
) -> None:
    """Everything from here to execve; `init_fd` is a program to run it under.

    `gate` waits for the start and gives the descriptor of the channel to whoever started.

    Returns only by raising.
    """
    schedule(plan)
    if b"HOME" not in plan.env:
        plan.env[b"HOME"] = os.fsencode(home_of(plan.uid, root_fd))
    process.close_range(3 + preserve_fds, flags=process.CLOSE_RANGE_CLOEXEC)
    entered = enter_cwd(plan.cwd)
    program = find_program(plan)
    channel_fd = gate()
    os.umask(0o022 if plan.umask is None else plan.umask)
    become(plan, caps.permitted(), lambda fd: hand_over_listener(channel_fd, fd))
    if not entered and not enter_cwd(plan.cwd):
        raise PermissionDenied(f"change to working directory `{plan.cwd}`: permission denied")
    execute(program, plan, init_fd)
