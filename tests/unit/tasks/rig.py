# SPDX-License-Identifier: Apache-2.0
"""A task manager with roots of its own, over the bare engine (real processes, no namespaces)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import struct
import tempfile
from pathlib import Path

from wharfie.tasks import AttachRequest, CreateRequest, LogConfig
from wharfie.tasks.manager import Manager
from wharfie.tasks.zygote import Zygote

ENGINE = Path(__file__).parents[1] / "shim"
BOOT = f"""
import sys
sys.path[:0] = [*sys.argv[4:6], {str(ENGINE)!r}]
import bare_engine
from wharfie.shim import engines
engines.ENGINES["io.wharfie.linux.v1"] = "bare_engine:BareEngine"
from wharfie.zygote.entries import ENTRIES
ENTRIES["fail"] = "bare_engine:fail"
ENTRIES["sleep"] = "bare_engine:sleep"
from wharfie.zygote.main import main
main()
"""


class Rig:
    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="wh-", dir="/var/tmp"))
        self.died: list[tuple[str, str]] = []
        self.manager = self.new_manager()
        self._count = 0

    def new_manager(self) -> Manager:
        state = str(self.base / "run")

        async def died(namespace: str, container_id: str) -> None:
            self.died.append((namespace, container_id))

        return Manager(str(self.base / "root"), state, died=died, zygote=Zygote(state, boot=BOOT))

    async def create(self, *args: str, driver: str = "local", container_id: str = "", **kw):
        """A created task of `/bin/sh -c ARG` (one argument) or of a whole command line."""
        self._count += 1
        container_id = container_id or f"c{self._count}"
        bundle = self.base / container_id
        bundle.mkdir(exist_ok=True)
        command = ["/bin/sh", "-c", *args] if len(args) == 1 else list(args)
        process = {"cwd": "/", "args": command, "env": ["PATH=/usr/bin:/bin"], "terminal": kw.get("terminal", False)}
        (bundle / "config.json").write_text(json.dumps({"ociVersion": "1.2.0", "process": process}))
        log = bundle / "log"
        request = CreateRequest(
            namespace="default", container_id=container_id, bundle=str(bundle), rootfs=[],
            terminal=kw.pop("terminal", False), stdin_open=kw.pop("stdin_open", False),
            log=LogConfig(driver, str(log if driver == "local" else log / "c.json")), **kw,
        )  # fmt: skip
        return await self.manager.create(request)

    async def run(self, *args: str, **kw):
        task = await self.create(*args, **kw)
        await task.start()
        return task, await task.wait()

    def log_data(self, task) -> bytes:
        return b"".join(p.read_bytes() for p in sorted((self.base / task.container_id / "log").glob("*.log")))

    def shim_pid(self, task) -> int:
        return json.loads((self.base / "run/shims/default" / task.container_id / "shim.json").read_text())["pid"]

    async def close(self) -> None:
        await self.manager.close()
        for identity in self.base.glob("run/shims/*/*/shim.json"):  # of a test that failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(identity.read_text())["pid"], signal.SIGKILL)
        shutil.rmtree(self.base)


def with_rig(test):
    """Run an async test with a Rig, and see that nothing of its shims is left."""

    @functools.wraps(test)
    def run() -> None:
        async def inner() -> None:
            rig = Rig()
            try:
                await rig.manager.open()
                await test(rig)
                shims = rig.base / "run/shims/default"
                assert not shims.exists() or not list(shims.iterdir())
            finally:
                await rig.close()

        asyncio.run(asyncio.wait_for(inner(), 60))

    del run.__wrapped__
    return run


class Client:
    """The far end of an attach."""

    def __init__(self, *, stdin: bool = False, stderr: bool = True, multiplexed: bool = True, **kw) -> None:
        self.sock, self._theirs = socket.socketpair()
        self.sock.setblocking(False)
        self.request = AttachRequest(
            self._theirs.fileno(), stdin=stdin, stdout=True, stderr=stderr, multiplexed=multiplexed, **kw
        )

    def sent(self) -> None:
        """The descriptor has been handed over."""
        self._theirs.close()

    async def read(self, n: int = 1 << 16) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, n), 10)

    async def read_all(self) -> bytes:
        got = bytearray()
        while data := await self.read(1 << 20):
            got += data
        self.sock.close()
        return bytes(got)

    async def read_until(self, text: bytes) -> bytes:
        got = b""
        while text not in got:
            data = await self.read()
            assert data, got
            got += data
        return got

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)


def demultiplex(data: bytes) -> dict[int, bytes]:
    out: dict[int, bytearray] = {}
    at = 0
    while at < len(data):
        stream, length = struct.unpack_from(">BxxxI", data, at)
        assert len(data) >= at + 8 + length, "torn frame"
        out.setdefault(stream, bytearray()).extend(data[at + 8 : at + 8 + length])
        at += 8 + length
    return {stream: bytes(text) for stream, text in out.items()}


def rss_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def open_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
