# SPDX-License-Identifier: Apache-2.0
"""A runtime engine on a scratch root, and what a shim does around it: pipes, reaping, a look for leaks."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wharfie.linux import process as kernel
from wharfie.mount import Mount
from wharfie.runtime import Started, Stdio
from wharfie.runtime.external import ExternalEngine
from wharfie.runtime.linux.engine import LinuxEngine
from wharfie.runtime.linux.template import MASKED, READ_ONLY, standard_mounts
from wharfie.spec import runtime as s

OCI = str(Path(sys.executable).with_name("wharfie-oci"))
BASE = 2_000_000
NO_STDIO = Stdio()
CAPS = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID", "CAP_SETGID"]
_APPLETS = "sh true cat echo ls id sleep env kill tty stty stat mkdir touch hostname mount wc grep head readlink yes dd mknod unshare umask test ulimit"


class Rig:
    """A scratch root, an engine, and what a shim would do: pipes, reaping."""

    def __init__(self, kind: str, top: Path) -> None:
        self.kind, self.top = kind, top
        self.id = f"wt-{os.getpid()}-{os.urandom(3).hex()}"
        self.userns = kind == "linux-userns"
        self.engine = self.make()
        self.deleted = False

    def make(self):
        if self.kind.startswith("linux"):
            return LinuxEngine()
        return ExternalEngine(OCI if self.kind == "wharfie-oci" else self.kind, root=f"{self.top}/runtimes")

    def spec(self, *args: str, **process) -> s.Spec:
        process.setdefault("env", ["PATH=/bin"])
        process.setdefault("cwd", "/")
        spec = s.Spec(
            process=s.Process(
                args=list(args),
                capabilities=s.Capabilities(bounding=CAPS, effective=CAPS, permitted=CAPS),
                **process,
            ),
            root=s.Root("rootfs"),
            hostname="box",
            mounts=[m for m in standard_mounts() if m.type != "cgroup"],
            linux=s.Linux(
                namespaces=[s.Namespace(t) for t in ("pid", "network", "ipc", "uts", "mount")],
                cgroups_path=f"/{self.id}",
                masked_paths=MASKED,
                readonly_paths=READ_ONLY,
                resources=s.Resources(devices=[s.DeviceCgroup(allow=False, access="rwm")]),
            ),
        )
        assert spec.linux
        if self.userns:
            spec.linux.namespaces.append(s.Namespace("user"))
            spec.linux.uid_mappings = spec.linux.gid_mappings = [s.IDMapping(0, BASE, 65536)]
        return spec

    def rootfs(self) -> list[Mount]:
        t = self.top
        idmap = (f"uidmap=0:{BASE}:65536", f"gidmap=0:{BASE}:65536") if self.userns else ()
        layers = (f"lowerdir={t}/layer:{t}/empty", f"upperdir={t}/upper", f"workdir={t}/work")
        return [Mount("overlay", "overlay", "", (*layers, *idmap))]

    def create(self, spec: s.Spec, stdio: Stdio = NO_STDIO) -> Started:
        return self.engine.create(self.id, str(self.top), spec, self.rootfs(), stdio)

    def run(self, *args: str, spec: s.Spec | None = None, **process) -> tuple[int, str]:
        """(exit code, output) of a container that runs args."""
        spec = spec or self.spec(*args, **process)
        r, w = os.pipe()
        try:
            started = self.create(spec, Stdio(None, w, w))
            os.close(w)
            w = -1
            self.engine.start()
            return self.reap(started), read_all(r)
        finally:
            os.close(r)
            if w >= 0:
                os.close(w)

    def reap(self, started: Started) -> int:
        """As a subreaper does it: a container's end waits for the reaping of all that entered it (failed execs too)."""
        poll = select.poll()
        poll.register(started.pidfd, select.POLLIN)
        status = -1
        for _ in range(200):
            ended = poll.poll(50)
            pid, code = os.waitpid(-1, os.WNOHANG)
            if pid == started.pid:
                status = code
                break
            assert not (ended and pid == 0 and not _alive(started.pid)), "somebody else reaped it"
        else:
            pytest.fail("it does not end")
        os.close(started.pidfd)
        return os.waitstatus_to_exitcode(status)

    def exec(self, *args: str, **process) -> tuple[int, str]:
        process.setdefault("env", ["PATH=/bin"])
        process.setdefault("cwd", "/")
        r, w = os.pipe()
        try:
            started = self.engine.exec("e1", s.Process(args=list(args), **process), Stdio(None, w, w))
            os.close(w)
            w = -1
            return self.reap(started), read_all(r)
        finally:
            os.close(r)
            if w >= 0:
                os.close(w)

    def sleeping(self, **resources) -> Started:
        spec = self.spec("sleep", "100")
        assert spec.linux
        assert spec.linux.resources
        for name, value in resources.items():
            setattr(spec.linux.resources, name, value)
        started = self.create(spec)
        self.engine.start()
        return started

    def end(self, started: Started) -> None:
        self.engine.kill(signal.SIGKILL)
        assert self.reap(started) == -signal.SIGKILL
        self.engine.delete()


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def read_all(fd: int) -> str:
    out = b""
    while data := os.read(fd, 65536):
        out += data
    return out.decode()


@contextmanager
def busybox_layer() -> Iterator[Path]:
    """A root directory with busybox, /etc/passwd and a file that belongs to 5:6."""
    top = Path(tempfile.mkdtemp(prefix="wharfie-rt-", dir="/var/tmp"))
    root = top / "layer"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "data"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in _APPLETS.split():
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (root / "data/file").write_text("x")
    os.chown(root / "data/file", 5, 6)
    yield root
    shutil.rmtree(top)


@contextmanager
def open_rig(kind: str, tmp_path: Path, layer: Path) -> Iterator[Rig]:
    """A rig whose container is removed at the end, with nothing of it left: cgroup, mount, descriptor, process."""
    tmp_path.chmod(0o711)
    for name in ("empty", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "layer").symlink_to(layer)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    before = set(os.listdir("/proc/self/fd"))
    rig = Rig(kind, tmp_path)
    try:
        yield rig
    finally:
        rig.engine.delete(force=True)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{rig.id}"))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert set(os.listdir("/proc/self/fd")) == before
