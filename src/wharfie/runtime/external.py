# SPDX-License-Identifier: Apache-2.0
"""Engine over any program with runc's command line: runc, crun, youki, wharfie-oci itself.

The program gets a bundle of its own below `work`: config.json with what it can't do taken out of its hands (the root
and id-mapped binds are attached by us at plain paths). Signals go by pidfd, numbers come from the cgroup: both are
cheaper than a process start, and crun has no `events`.

On disk: `<root>/<program>/work/<id>/` {config.json, rootfs, m<n>, log, pid, console}; `<root>/<program>/state` is the
program's own --root.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import fcntl
import os
import select
import shutil
import signal as signals
import socket
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from wharfie.errdefs import FailedPrecondition, NotFound, PermissionDenied, WharfieError
from wharfie.fsutil import atomic
from wharfie.fsutil.sockets import short_name
from wharfie.linux import process
from wharfie.mount import Mount
from wharfie.mount.attached import mount_all, unmount
from wharfie.runtime import Started, Stats, Stdio
from wharfie.runtime.linux.cgroups import Manager, open_manager
from wharfie.runtime.linux.engine import cgroup_path
from wharfie.spec.runtime import IDMapping, Process, Resources, Root, Spec, encode_spec
from wharfie.spec.scope import is_scope

ROOT = "/run/wharfie-oci/external"


def find_program(runtime: str) -> str:
    """Path of a runtime by name or path. Raises NotFound."""
    found = shutil.which(runtime)
    if found is None:
        raise NotFound(f"find runtime `{runtime}`: no such program", hint="install it, or name another with --runtime")
    return found


class ExternalEngine:
    """`systemd_cgroup`: "true" insists on the systemd driver; without, the form of cgroupsPath decides."""

    def __init__(self, runtime: str, *, root: str = ROOT, systemd_cgroup: str = "") -> None:
        self.warnings: list[str] = []
        self.program = find_program(runtime)
        self._top = os.path.join(root, os.path.basename(self.program))
        self._id = ""
        self._work = ""
        self._spec: Spec | None = None
        self._pidfd = -1
        self._deleted = False
        self._cgroup: Manager | None = None
        self._systemd = systemd_cgroup == "true"

    def create(self, container_id: str, bundle: str, spec: Spec, rootfs: Sequence[Mount], stdio: Stdio) -> Started:
        self._id, self._spec = container_id, spec
        self._work = os.path.join(self._top, "work", container_id)
        os.makedirs(self._work, 0o711, exist_ok=True)
        path = cgroup_path(spec, container_id, systemd=self._systemd)
        self._cgroup, self._systemd = open_manager(path), is_scope(path)
        if self._systemd and spec.linux is not None:
            spec.linux.cgroups_path = path  # where it was left out, programs differ in what they take
        with ExitStack() as stack:
            stack.callback(self._clean)
            rewritten = self._bundle(bundle, spec, rootfs)
            atomic.write(f"{self._work}/config.json", encode_spec(rewritten), 0o600)
            terminal = spec.process is not None and spec.process.terminal
            started = self._launch(["create", "--bundle", self._work], [container_id], stdio, terminal=terminal)
            stack.pop_all()
        self._pidfd = os.dup(started.pidfd)
        return started

    def _bundle(self, bundle: str, spec: Spec, rootfs: Sequence[Mount]) -> Spec:
        """Attach what needs it; the spec that names the attached paths."""
        path = os.path.join(bundle, spec.root.path if spec.root is not None else "rootfs")
        if rootfs:
            path = f"{self._work}/rootfs"
            mount_all(rootfs, path)
        mounts = []
        for n, m in enumerate(spec.mounts):
            if m.uid_mappings and (m.type == "bind" or {"bind", "rbind"} & set(m.options)):
                at = f"{self._work}/m{n}"
                self._attach_idmapped(m.source, at, m.uid_mappings, m.gid_mappings, rec="rbind" in m.options)
                plain = [o for o in m.options if o not in {"idmap", "ridmap"}]
                mounts.append(msgspec.structs.replace(m, source=at, options=plain, uid_mappings=[], gid_mappings=[]))
            else:
                mounts.append(m)
        root = Root(path, readonly=spec.root is not None and spec.root.readonly)
        # crun 1.8 refuses a version that it doesn't know; what we write is understood since 1.0
        return msgspec.structs.replace(spec, oci_version="1.0.2", root=root, mounts=mounts)

    @staticmethod
    def _attach_idmapped(
        source: str, at: str, uids: Sequence[IDMapping], gids: Sequence[IDMapping], *, rec: bool
    ) -> None:
        def text(maps: Sequence[IDMapping]) -> str:
            return ";".join(f"{m.container_id}:{m.host_id}:{m.size}" for m in maps)

        if not os.path.isdir(source):
            with open(at, "wb"):
                pass  # a file's mount point is a file
        words = ("rbind" if rec else "bind", f"uidmap={text(uids)}", f"gidmap={text(gids or uids)}")
        mount_all([Mount("bind", source, "", words)], at)

    def _launch(self, command: list[str], tail: list[str], stdio: Stdio, *, terminal: bool) -> Started:
        """Run create or exec and learn pid and console."""
        pid_file = f"{self._work}/pid"
        with ExitStack() as stack:
            listener = self._listen(stack) if terminal else None
            words = [*command, "--pid-file", pid_file]
            if listener is not None:
                words += ["--console-socket", f"{self._work}/console"]
            self._run([*words, *tail], Stdio() if terminal else stdio)
            with open(pid_file, encoding="ascii") as f:
                pid = int(f.read())
            os.unlink(pid_file)
            console = self._receive(listener) if listener is not None else None
            return Started(pid, process.pidfd_open(pid), console)

    def _listen(self, stack: ExitStack) -> socket.socket:
        path = f"{self._work}/console"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stack.callback(listener.close)
        with short_name(path) as name:
            listener.bind(name)
        stack.callback(os.unlink, path)
        listener.listen(1)
        listener.settimeout(10)
        return listener

    @staticmethod
    def _receive(listener: socket.socket) -> int:
        try:
            connection, _ = listener.accept()
        except TimeoutError as e:
            raise FailedPrecondition("receive terminal: the runtime did not send it") from e
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        if not fds:
            raise FailedPrecondition("receive terminal: the runtime sent no descriptor")
        return fds[0]

    def _run(self, args: list[str], stdio: Stdio = Stdio(), *, stdin_data: bytes | None = None) -> str:  # noqa: B008
        """Run the program to its end; its stdout where it is not the container's. Raises by its log."""
        log = f"{self._work}/log"
        words = [self.program, "--root", f"{self._top}/state", "--log", log, "--log-format", "json"]
        if self._systemd:
            words.append("--systemd-cgroup")
        words += args
        os.makedirs(f"{self._top}/state", 0o700, exist_ok=True)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        out = os.memfd_create("runtime", os.MFD_CLOEXEC)
        source = os.memfd_create("stdin", os.MFD_CLOEXEC)
        try:
            fds = [null if fd is None else fd for fd in stdio]
            if stdin_data is not None:
                os.write(source, stdin_data)
                os.lseek(source, 0, os.SEEK_SET)
                fds[0] = source
            takes_stdio = args[0] in {"create", "exec"}
            if not takes_stdio:
                fds[1], fds[2] = out, out
            high = [_above(fd) for fd in fds]
            actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high)]
            try:
                pid = os.posix_spawn(
                    self.program,
                    words,
                    {"PATH": os.environ.get("PATH", os.defpath)},
                    file_actions=actions,
                    setsigmask=(),
                    setsigdef=(signals.SIGPIPE, signals.SIGXFSZ),
                )
            finally:
                for fd in high:
                    os.close(fd)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            output = os.pread(out, 1 << 20, 0).decode(errors="replace")
        finally:
            os.close(null)
            os.close(out)
            os.close(source)
        if code != 0:
            raise self._error(args[0], code, output)
        return output

    def _error(self, operation: str, code: int, output: str) -> WharfieError:
        """The class by what runc and crun say; there is nothing but text to go by."""
        text = _last_error(f"{self._work}/log") or output.strip() or f"exit code {code}"
        what = f"{operation} container `{self._id}`: {os.path.basename(self.program)}: {text}"
        lower = text.lower()
        if "does not exist" in lower or "not running" in lower or "process already finished" in lower:
            return NotFound(what)
        if operation in {"create", "start", "exec"} and "exec" in lower:
            if "not found" in lower or "no such file" in lower:
                return NotFound(what)
            if "permission denied" in lower or "exec format error" in lower or "is a directory" in lower:
                return PermissionDenied(what)
        return FailedPrecondition(what)

    def start(self) -> None:
        self._run(["start", self._id])

    def exec(self, exec_id: str, process: Process, stdio: Stdio) -> Started:
        path = f"{self._work}/process-{exec_id or 'exec'}.json"
        atomic.write(path, encode_spec(process), 0o600)
        try:
            return self._launch(["exec", "--process", path, "--detach"], [self._id], stdio, terminal=process.terminal)
        finally:
            os.unlink(path)

    def kill(self, signal: int, *, all_processes: bool = False) -> None:
        if all_processes:
            self._run(["kill", "--all", self._id, str(signal)])
            return
        if self._pidfd < 0 or _ended(self._pidfd):
            raise NotFound(f"kill container `{self._id}`: it is not running")
        try:
            process.pidfd_send_signal(self._pidfd, signal)
        except ProcessLookupError:
            raise NotFound(f"kill container `{self._id}`: it is not running") from None

    def _manager(self) -> Manager:
        if self._cgroup is None:
            raise FailedPrecondition("use container: it has not been created")
        return self._cgroup

    def pids(self) -> list[int]:
        return self._manager().pids()

    def pause(self) -> None:
        self._run(["pause", self._id])

    def resume(self) -> None:
        self._run(["resume", self._id])

    def update(self, resources: Resources) -> None:
        self._run(["update", "--resources", "-", self._id], stdin_data=msgspec.json.encode(resources))

    def stats(self) -> Stats:
        return self._manager().stats()

    def oom_fd(self) -> int | None:
        return self._manager().oom_fd()

    def delete(self, *, force: bool = False) -> None:
        if self._deleted:
            return
        try:
            self._run(["delete", *(["--force"] if force else []), self._id])
        except NotFound:
            pass  # it never came to be, or somebody removed it
        self._clean()

    def _clean(self) -> None:
        """Mounts and work directory. A failed create has left nothing else: the program cleans up its own."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if os.path.isdir(self._work):
            for name in os.listdir(self._work):
                if name == "rootfs" or (name.startswith("m") and name[1:].isdigit()):
                    unmount(f"{self._work}/{name}")
            shutil.rmtree(self._work, ignore_errors=True)
        self._deleted = True


def _above(fd: int) -> int:
    """A duplicate over 2, so that dup2 to 0, 1 and 2 can't overwrite one that is still to come."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _last_error(path: str) -> str:
    """The last error line of a runtime's JSON log."""
    try:
        with open(path, "rb") as f:
            lines = f.read()[-65536:].splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = msgspec.json.decode(line, type=dict[str, str])
        except msgspec.MsgspecError:
            continue
        if entry.get("level") in {"error", "fatal"} and entry.get("msg"):
            return entry["msg"]
    return ""
