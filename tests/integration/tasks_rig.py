# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC221, ASYNC240
"""A task manager with real runtimes: busybox on an overlay, namespaces, a cgroup of its own."""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import images, leaks

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/tasks"))
from rig import Rig

from wharfie.mount import Mount
from wharfie.tasks import CreateRequest, LogConfig
from wharfie.tasks.manager import Manager
from wharfie.tasks.zygote import Zygote

OURS = "io.wharfie.linux.v1"
RUNC_SHIM = "io.containerd.runc.v2"
CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT"]
USERNS_BASE = 1_000_000


@functools.cache
def busybox_root() -> str:
    """A directory with busybox, made once a process (a child is told of it); /var/tmp keeps it away from tmpfs."""
    if inherited := os.environ.get("WHARFIE_TEST_ROOT"):
        return inherited
    root = tempfile.mkdtemp(prefix="wh-root-", dir="/var/tmp")
    atexit.register(shutil.rmtree, root)
    subprocess.run(["tar", "-C", root, "-xf", "-"], input=images.busybox_tar(), check=True)
    return root


class RealRig(Rig):
    def __init__(self) -> None:
        super().__init__()
        self.cgroup_parent = f"/{self.base.name}"

    def new_manager(self) -> Manager:
        state = str(self.base / "run")

        async def died(namespace: str, container_id: str) -> None:
            self.died.append((namespace, container_id))

        return Manager(str(self.base / "root"), state, died=died, zygote=Zygote(state))

    def spec(
        self, command: list[str], container_id: str, *, terminal: bool, userns: bool, resources: dict | None = None
    ) -> dict:
        kinds = ["pid", "mount", "ipc", "uts", "network"] + (["user"] if userns else [])
        mapping = [{"containerID": 0, "hostID": USERNS_BASE, "size": 65536}] if userns else []
        return {
            "ociVersion": "1.0.2",
            "process": {
                "cwd": "/", "args": command, "env": ["PATH=/bin"], "terminal": terminal, "user": {"uid": 0, "gid": 0},
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "namespaces": [{"type": t} for t in kinds], "cgroupsPath": f"{self.cgroup_parent}/{container_id}",
                "uidMappings": mapping, "gidMappings": mapping, "resources": resources or {},
            },
        }  # fmt: skip

    async def create(
        self,
        *args: str,
        driver: str = "local",
        container_id: str = "",
        runtime: str = OURS,
        userns: bool = False,
        **kw,
    ):
        self._count += 1
        container_id = container_id or f"{self.base.name}-{self._count}"
        bundle = self.base / container_id
        for name in ("rootfs", "up", "work"):
            (bundle / name).mkdir(parents=True, exist_ok=True)
        command = ["/bin/sh", "-c", *args] if len(args) == 1 else list(args)
        terminal = kw.pop("terminal", False)
        spec = self.spec(command, container_id, terminal=terminal, userns=userns, resources=kw.pop("resources", None))
        (bundle / "config.json").write_text(json.dumps(spec))
        options = (f"lowerdir={busybox_root()}", f"upperdir={bundle}/up", f"workdir={bundle}/work")
        if userns:
            options += (f"uidmap=0:{USERNS_BASE}:65536", f"gidmap=0:{USERNS_BASE}:65536")
        log = bundle / "log"
        request = CreateRequest(
            namespace="default", container_id=container_id, bundle=str(bundle),
            rootfs=[Mount("overlay", "overlay", "", options)],
            terminal=terminal, stdin_open=kw.pop("stdin_open", False), runtime=runtime,
            log=LogConfig(driver, str(log if driver == "local" else log / "c.json")), **kw,
        )  # fmt: skip
        return await self.manager.create(request)

    def left(self) -> list[object]:
        """What is there that should not be once every task is deleted; shims and workers may take a moment to end."""
        found: list[object] = leaks.wait_until_gone(lambda: leaks.cgroups_named(self.cgroup_parent))
        found += leaks.wait_until_gone(lambda: leaks.mounts_below(str(self.base)))
        found += leaks.wait_until_gone(
            lambda: [
                p for p in leaks.processes_with(str(self.base), self.cgroup_parent) if "wharfie-zygote" not in p[1]
            ]
        )
        return found + list((self.base / "run/shims/default").glob("*"))

    async def close(self) -> None:
        await self.manager.close()
        for pid, _ in leaks.processes_with(str(self.base), self.cgroup_parent):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for mount in reversed(leaks.mounts_below(str(self.base))):
            subprocess.run(["umount", "-l", mount], check=False)
        base = Path("/sys/fs/cgroup")
        leaks.wait_until_gone(lambda: leaks.processes_with(self.cgroup_parent))
        for hierarchy in [base, *(p for p in base.iterdir() if p.is_dir())]:
            for directory, _, _ in os.walk(hierarchy / self.base.name, topdown=False):
                os.rmdir(directory)
        await super().close()


def with_real_rig(test):
    """Run an async test with a RealRig; nothing may be left when it ends."""

    @functools.wraps(test)
    def run(**params) -> None:
        async def inner() -> None:
            rig = RealRig()
            try:
                await rig.manager.open()
                await test(rig, **params)
                left = await asyncio.to_thread(rig.left)
                assert not left, left
            finally:
                await rig.close()

        asyncio.run(asyncio.wait_for(inner(), 20))

    return run
