# SPDX-License-Identifier: Apache-2.0
"""LinuxEngine: the parent's side of a container. One object, one container.

It runs in the process that will be the container's parent (a shim, or `wharfie-oci`): single-threaded, dumpable off.
Order of a create: plan (pure) -> cgroup -> birth of the child -> id maps, limits, mounts by descriptor, while a thread
waits for the cgroup move (an RCU grace period on v1) and the child makes its namespaces -> hooks -> gate.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import _thread
import os
import select
import signal as signals
import socket
import stat
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound, WharfieError
from wharfie.fsutil.sockets import short_name
from wharfie.linux import namespaces as ns
from wharfie.linux import process
from wharfie.mount import Mount
from wharfie.runtime import Started, Stats, Stdio
from wharfie.runtime.linux import channel as ch
from wharfie.runtime.linux import child, hooks, init_program, notify
from wharfie.runtime.linux import exec as exec_
from wharfie.runtime.linux.cgroups import Manager, open_manager
from wharfie.runtime.linux.plan import INIT_ANNOTATION, Plan, plan
from wharfie.runtime.linux.prepare import prepare
from wharfie.runtime.linux.process import plan_process
from wharfie.spec.runtime import Process, Resources, Spec, State
from wharfie.spec.scope import is_scope


class LinuxEngine:
    """The Engine contract of `wharfie.runtime`. `warnings` collects what came out weaker than asked.

    `gate_path`: a socket to wait at for the start, for callers that don't live until then (`wharfie-oci create`).
    `systemd_cgroup`: insist on the systemd driver; without, the form of cgroupsPath decides.
    """

    def __init__(
        self,
        *,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        preserve_fds: int = 0,
        gate_path: str = "",
        systemd_cgroup: bool = False,
    ) -> None:
        self.warnings: list[str] = []
        self.pid = 0
        self.plan: Plan | None = None
        self.cgroup: Manager | None = None
        self._pidfd = -1
        self._channel: ch.Channel | None = None
        self._started = False
        self._deleted = False
        self._no_pivot = no_pivot
        self._no_new_keyring = no_new_keyring
        self.preserve_fds = preserve_fds
        self._gate_path = gate_path
        self._systemd_cgroup = systemd_cgroup

    def adopt(self, container_id: str, bundle: str, spec: Spec, pid: int) -> None:
        """Take charge of a container that another process created; pid 0 where it has ended."""
        self.plan = plan(container_id, bundle, spec, no_new_keyring=self._no_new_keyring)
        self.cgroup = open_manager(cgroup_path(spec, container_id))
        if pid:
            self.pid = pid
            try:
                self._pidfd = process.pidfd_open(pid)
            except ProcessLookupError:
                self.pid = 0

    def connect(self, gate_path: str) -> None:
        """Reach the gate of a created container, so that `start` can open it."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with short_name(gate_path) as name:
                sock.connect(name)
        except OSError as e:
            sock.close()
            raise FailedPrecondition(f"start container `{self._id()}`: its gate does not answer: {e.strerror}") from e
        self._channel = ch.Channel(sock)

    def paused(self) -> bool:
        return self._manager().frozen()

    def watch_fd(self) -> int:
        """A descriptor that becomes readable when the first process ends. The engine owns it."""
        return self._pidfd

    def wait_end(self, timeout_s: float) -> bool:
        """Wait until the first process has ended (it may still want reaping). False: it has not."""
        return self._pidfd < 0 or _ended(self._pidfd, timeout_s)

    def create(self, container_id: str, bundle: str, spec: Spec, rootfs: Sequence[Mount], stdio: Stdio) -> Started:
        p = plan(container_id, bundle, spec, no_pivot=self._no_pivot, no_new_keyring=self._no_new_keyring)
        what = f"create container `{container_id}`"
        linux = spec.linux
        assert linux is not None
        self.plan = p
        path = cgroup_path(spec, container_id, systemd=self._systemd_cgroup)
        self.cgroup = open_manager(path, resources=linux.resources)
        with ExitStack() as stack:
            stack.callback(self._undo)
            try:
                self.cgroup.create()
                started = self._birth(p, spec, rootfs, stdio)
            except OSError as e:
                raise _failed(what, e) from e
            except WharfieError as e:
                e.message = e.message if e.message.startswith(what) else f"{what}: {e.message}"
                raise
            stack.pop_all()
        return started

    def _undo(self) -> None:
        """Nothing of a failed create may stay."""
        if self._pidfd >= 0:
            try:
                process.pidfd_send_signal(self._pidfd, signals.SIGKILL)
            except ProcessLookupError:
                pass
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass  # the caller's reaper had it
            os.close(self._pidfd)
            self._pidfd = -1
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self.cgroup is not None:
            self.cgroup.delete()
        self._deleted = True

    def _birth(self, p: Plan, spec: Spec, rootfs: Sequence[Mount], stdio: Stdio) -> Started:
        assert self.cgroup is not None
        with ExitStack() as stack:
            ours, theirs = ch.pair()
            stack.callback(theirs.close)
            self._channel = ours
            gate = _listen(self._gate_path, stack) if self._gate_path else None
            fds = _stdio(stdio, p, stack)
            views = self.cgroup.views()
            joins = _open_joins(p, stack)
            birth_fd = self.cgroup.birth_fd()
            if birth_fd is not None:
                stack.callback(os.close, birth_fd)

            init_fd = None
            if spec.annotations.get(INIT_ANNOTATION) == "1":
                init_fd = init_program.descriptor()
                stack.callback(os.close, init_fd)

            def first() -> None:
                names = [name for name, _ in views]
                child.init(p, theirs, fds, names, preserve_fds=self.preserve_fds, gate=gate, init_fd=init_fd, join=join)

            join = None
            if birth_fd is None and self.cgroup.takes_itself and not joins:
                join = self.cgroup.add

            time_offsets = spec.linux.time_offsets if spec.linux is not None else {}
            self.pid, self._pidfd = exec_.spawn(
                first,
                ours,
                theirs,
                p.clone_flags,
                joins,
                birth_fd=birth_fd,
                new_time="time" in p.own,
                offsets=time_offsets,
            )
            theirs.close()
            made = birth_fd is not None or self.cgroup.exists()
            mover = _Mover(self.cgroup, self.pid) if birth_fd is None and join is None else None
            try:
                try:
                    if mover is not None and not made:
                        mover.join()  # systemd makes it around its first process, and the views need it
                        mover.check()
                    self._equip(p, spec, rootfs, views=views, joins=joins, stack=stack)
                finally:
                    if mover is not None:
                        mover.join()
                if mover is not None:
                    mover.check()
                if spec.linux is not None and spec.linux.resources is not None:
                    self.warnings += self.cgroup.apply(spec.linux.resources)
                ours.send(ch.GO)
            except (BrokenPipeError, ProcessLookupError):
                pass  # the child has died: its last message, read next, says why
            console = self._wait_created(p)
            self._limits(p)
        return Started(self.pid, os.dup(self._pidfd), console)

    def _equip(
        self,
        p: Plan,
        spec: Spec,
        rootfs: Sequence[Mount],
        *,
        views: list[tuple[str, str]],
        joins: list[tuple[int, int, str]],
        stack: ExitStack,
    ) -> None:
        """Id maps, OOM score and mounts for the newborn."""
        assert self._channel is not None
        userns_fd: int | None = None
        if p.clone_flags & ns.CLONE_NEWUSER:
            ns.write_maps(self.pid, p.uid_map, p.gid_map)
            userns_fd = os.open(f"/proc/{self.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, userns_fd)
        else:
            userns_fd = next((fd for fd, flag, _ in joins if flag == ns.CLONE_NEWUSER), None)
        set_oom_score(self.pid, p.process.oom_score_adj, self.warnings)
        channel = self._channel

        def first(fds: list[int]) -> None:
            channel.send_mounts(fds, more=True)  # it mounts what it can while we make the rest

        channel.send_mounts(prepare(p, rootfs, userns_fd, views, stack, first=first))

    def _wait_created(self, p: Plan) -> int | None:
        assert self._channel is not None
        while True:
            kind, payload, fds = self._channel.receive()
            if kind == ch.CREATED:
                return fds[0] if fds else None
            if kind == ch.ERROR:
                raise ch.decode_error(payload, "")
            if kind == ch.HOOKS:
                state = self._state("creating")
                hooks.run_all(p.hooks.prestart, "prestart", state)
                hooks.run_all(p.hooks.create_runtime, "createRuntime", state)
                self._channel.send(ch.DONE)
            elif kind == ch.WARN:
                self.warnings.append(payload.decode(errors="replace"))
            else:
                raise FailedPrecondition("set up container: its first process died without a word")

    def _limits(self, p: Plan) -> None:
        for warning in set_rlimits(self.pid, p.process.rlimits):
            self.warnings.append(warning)

    def _state(self, status: str) -> State:
        assert self.plan is not None
        return State(
            id=self.plan.container_id,
            status=status,
            pid=self.pid,
            bundle=self.plan.bundle,
            annotations=self.plan.spec.annotations,
        )

    def start(self) -> None:
        if self._started:
            raise FailedPrecondition(f"start container `{self._id()}`: it has been started")
        channel = self._channel
        if channel is None:
            raise FailedPrecondition(f"start container `{self._id()}`: it has not been created")
        try:
            channel.send(ch.START)
            kind, payload, _ = channel.receive()
            if kind == ch.LISTENER:
                assert self.plan is not None
                notify.pass_on(self.plan, self.pid, self._pidfd, int(payload), "created")
                channel.send(ch.TAKEN)
                kind, payload, _ = channel.receive()
        except (BrokenPipeError, ConnectionResetError):
            raise NotFound(f"start container `{self._id()}`: its first process is gone") from None
        finally:
            channel.close()
            self._channel = None
        self._started = True
        if kind == ch.ERROR:
            raise ch.decode_error(payload, f"start container `{self._id()}`")
        assert self.plan is not None
        if self.plan.hooks.poststart:
            try:
                hooks.run_all(self.plan.hooks.poststart, "poststart", self._state("running"))
            except FailedPrecondition as e:
                self.warnings.append(e.message)

    def _id(self) -> str:
        return self.plan.container_id if self.plan is not None else "?"

    def exec(self, exec_id: str, process_: Process, stdio: Stdio) -> Started:
        p = self.plan
        if p is None or self._pidfd < 0 or self.cgroup is None:
            raise FailedPrecondition(f"exec `{exec_id}`: the container has not been created")
        if self.cgroup.frozen():
            raise FailedPrecondition(f"exec in container `{self._id()}`: it is paused", hint="unpause it first")
        what = f"exec in container `{self._id()}`"
        process_ = _inherit(process_, p.spec.process)
        planned = plan_process(process_, seccomp=p.process.seccomp, seccomp_flags=p.process.seccomp_flags)
        with ExitStack() as stack:
            fds = _stdio(stdio, p._replace(process=planned), stack)
            try:
                return exec_.run(
                    self._pidfd,
                    p,
                    planned,
                    fds,
                    cgroup=self.cgroup,
                    warnings=self.warnings,
                    preserve_fds=self.preserve_fds,
                )
            except OSError as e:
                raise _failed(what, e) from e
            except WharfieError as e:
                e.message = e.message if e.message.startswith(what) else f"{what}: {e.message}"
                raise

    def kill(self, signal: int, *, all_processes: bool = False) -> None:
        if all_processes and self.cgroup is not None:
            self.cgroup.kill(signal)
            return
        if self._pidfd < 0:
            raise NotFound(f"kill container `{self._id()}`: it is not running")
        try:
            process.pidfd_send_signal(self._pidfd, signal)
        except ProcessLookupError:
            raise NotFound(f"kill container `{self._id()}`: it is not running") from None
        except OSError as e:
            raise InvalidArgument(f"kill container `{self._id()}`: signal {signal}: {e.strerror}") from e

    def _manager(self) -> Manager:
        if self.cgroup is None:
            raise FailedPrecondition("use container: it has not been created")
        return self.cgroup

    def pids(self) -> list[int]:
        return self._manager().pids()

    def pause(self) -> None:
        self._manager().freeze()

    def resume(self) -> None:
        self._manager().thaw()

    def update(self, resources: Resources) -> None:
        try:
            self.warnings += self._manager().apply(resources)
        except OSError as e:
            raise _failed(f"update container `{self._id()}`", e) from e

    def stats(self) -> Stats:
        return self._manager().stats()

    def oom_fd(self) -> int | None:
        return self._manager().oom_fd()

    def delete(self, *, force: bool = False) -> None:
        if self._deleted:
            return
        alive = self._pidfd >= 0 and not _ended(self._pidfd)
        if alive and not force:
            raise FailedPrecondition(
                f"delete container `{self._id()}`: it is running", hint="kill it first, or use force"
            )
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if alive:
            try:
                process.pidfd_send_signal(self._pidfd, signals.SIGKILL)
            except ProcessLookupError:
                pass
        if self.cgroup is not None:
            self.cgroup.delete()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._deleted = True
        if self.plan is not None and self.plan.hooks.poststop:
            try:
                hooks.run_all(self.plan.hooks.poststop, "poststop", self._state("stopped"))
            except FailedPrecondition as e:
                self.warnings.append(e.message)


def _inherit(document: Process, first: Process | None) -> Process:
    """What an exec document leaves out comes from the container's first process, as in runc."""
    if first is None:
        return document
    return msgspec.structs.replace(
        document,
        capabilities=document.capabilities or first.capabilities,
        rlimits=document.rlimits or first.rlimits,
        no_new_privileges=document.no_new_privileges or first.no_new_privileges,
        apparmor_profile=document.apparmor_profile or first.apparmor_profile,
        selinux_label=document.selinux_label or first.selinux_label,
    )


class _Mover:
    """Moves the child into its cgroup beside the main thread; the move sleeps in the kernel without the GIL."""

    def __init__(self, cgroup: Manager, pid: int) -> None:
        self._error: BaseException | None = None

        def move() -> None:
            try:
                cgroup.add(pid)
            except BaseException as e:
                self._error = e
            finally:
                self._done.release()

        # The bare kind of thread: threading.Thread waits for its start, and touches many more pages of ours.
        self._done = _thread.allocate_lock()
        self._done.acquire()
        _thread.start_new_thread(move, ())

    def join(self) -> None:
        self._done.acquire()
        self._done.release()

    def check(self) -> None:
        if self._error is not None:
            raise self._error


def cgroup_path(spec: Spec, container_id: str, *, systemd: bool = False) -> str:
    """Path below the hierarchies, or systemd's `slice:prefix:name`, which `systemd` insists on.

    Raises: InvalidArgument where it could leave them.
    """
    wanted = spec.linux.cgroups_path if spec.linux is not None else ""
    if systemd and not wanted:
        return f"system.slice:wharfie:{container_id}"
    if is_scope(wanted):
        return wanted  # the driver checks it
    if systemd:
        raise InvalidArgument(f"read cgroupsPath `{wanted}`: the systemd driver takes slice:prefix:name")
    if ".." in wanted.split("/"):
        raise InvalidArgument(f"read cgroupsPath `{wanted}`: it has `..`")
    return "/" + (wanted or container_id).strip("/")


def _failed(what: str, e: OSError) -> WharfieError:
    text = e.strerror or str(e)
    if e.filename is not None:
        text = f"{text}: `{e.filename}`"
    return FailedPrecondition(f"{what}: {text}", errno=e.errno)


def _ended(pidfd: int, timeout_s: float = 0) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _listen(path: str, stack: ExitStack) -> socket.socket:
    gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stack.callback(gate.close)
    with short_name(path) as name:
        gate.bind(name)
    os.chmod(path, 0o600)
    gate.listen(1)
    return gate


def _stdio(stdio: Stdio, p: Plan, stack: ExitStack) -> tuple[int, int, int]:
    """Three descriptors; the container's user gets the pipes, so that it can reopen /dev/stdout."""
    null = -1
    fds = []
    for fd in stdio:
        if fd is None:
            if null < 0:
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, null)
            fd = null
        elif stat.S_ISFIFO(os.fstat(fd).st_mode):
            owner = ns.host_id(p.uid_map, p.process.uid) if p.uid_map else p.process.uid
            if owner:
                os.fchown(fd, owner, -1)
        fds.append(fd)
    return fds[0], fds[1], fds[2]


def _open_joins(p: Plan, stack: ExitStack) -> list[tuple[int, int, str]]:
    """(descriptor, flag, path) of namespaces to join, the user namespace last: before it we are still capable."""
    found = []
    for kind, path in sorted(p.joins, key=lambda j: j[0] == "user"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise FailedPrecondition(f"join {kind} namespace `{path}`: {e.strerror}") from e
        stack.callback(os.close, fd)
        found.append((fd, ns.FLAGS[kind], path))
    return found


def set_oom_score(pid: int, score: int | None, warnings: list[str]) -> None:
    """Lowering it takes CAP_SYS_RESOURCE; without, the value stays and a warning says so."""
    if score is None:
        return
    try:
        with open(f"/proc/{pid}/oom_score_adj", "r+b", buffering=0) as f:
            f.write(str(score).encode())
    except PermissionError:
        with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as f:
            warnings.append(f"set oomScoreAdj {score}: no CAP_SYS_RESOURCE, it stays {f.read().strip()}")


def set_rlimits(pid: int, rlimits: Sequence[tuple[int, int, int, str]]) -> list[str]:
    """From outside, where the host's CAP_SYS_RESOURCE counts. Without it the highest possible is set, with a warning."""
    warnings = []
    for number, soft, hard, name in rlimits:
        try:
            process.prlimit(number, soft, hard, name, pid=pid)
        except PermissionError:
            top = process.hard_limit(number, pid)
            unsigned = [v & 0xFFFFFFFFFFFFFFFF for v in (soft, hard, top)]
            soft_reached, hard_reached = min(unsigned[0], unsigned[2]), min(unsigned[1], unsigned[2])
            process.prlimit(number, soft_reached, hard_reached, name, pid=pid)
            warnings.append(f"set {name} {soft}:{hard}: no CAP_SYS_RESOURCE, set {soft_reached}:{hard_reached}")
    return warnings
