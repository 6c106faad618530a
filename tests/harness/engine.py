# SPDX-License-Identifier: Apache-2.0
"""A real `wharfied` with roots of its own, the CLI pointed at it, and a check that it leaves nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import leaks

BIN = Path(__file__).resolve().parents[2] / ".venv/bin"
WHARFIE = str(BIN / "wharfie")
WHARFIED = str(BIN / "wharfied")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float = 60) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """`root`, `state` and `cgroup_parent` are its own. Use `run(...)` for the CLI, `api(...)` for HTTP."""

    def __init__(self, *, base: Path | None = None, config: str = "", args: tuple[str, ...] = ()) -> None:
        self._made_base = base is None
        self.base = base or Path(tempfile.mkdtemp(prefix="wh-", dir="/var/tmp"))
        self.base.chmod(0o755)  # as /run and /var/lib are
        self.root, self.state = self.base / "root", self.base / "run"
        self.socket = self.state / "wharfie.sock"
        self.host = f"unix://{self.socket}"
        self.cgroup_parent = f"/{self.base.name}"
        self.log = self.base / "wharfied.log"
        self.args = args
        (self.base / "config.toml").write_text(f'cgroup_parent = "{self.cgroup_parent}"\n{config}')
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [WHARFIED, "--root", str(self.root), "--state", str(self.state), "--config", str(self.base / "config.toml"), *self.args],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.api("GET", "/_ping", timeout=5)[0] == 200:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise RuntimeError(f"wharfied did not answer:\n{self.log.read_text()[-4000:]}")

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def kill(self) -> None:
        """kill -9 of the daemon alone."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def env(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.host, "WHARFIE_HOST": self.host, "HOME": str(self.base)}

    def run(
        self, *args: str, program: str = WHARFIE, check: bool = True, stdin: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """One CLI command; with `check`, a non-zero exit shows the command's and the daemon's words."""
        done = subprocess.run(
            [program, *args], env=self.env(), input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True, timeout=timeout,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(
                f"{args}: exit {done.returncode}\n{done.stdout.decode()[-2000:]}{done.stderr.decode()[-2000:]}\n"
                f"--- wharfied:\n{self.log.read_text()[-2000:]}"
            )
        return done

    def out(self, *args: str, **kw: Any) -> str:
        return self.run(*args, **kw).stdout.decode().rstrip("\n")

    def api(
        self, method: str, path: str, body: Any = None, *, timeout: float = 60, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = UnixConnection(str(self.socket), timeout)
        try:
            payload = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, payload, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(raw) if raw else None
        except ValueError:
            return answer.status, raw

    def remove_containers(self) -> None:
        status, containers = self.api("GET", "/containers/json?all=1")
        assert status == 200, containers
        for c in containers:
            self.api("DELETE", f"/containers/{c['Id']}?force=1&v=1")

    def assert_clean(self) -> None:
        """Nothing of a container is left: no process, cgroup, shim, rootfs mount or network namespace holder."""
        left: list[object] = leaks.wait_until_gone(lambda: leaks.cgroups_named(self.cgroup_parent))
        left += leaks.wait_until_gone(lambda: list((self.state / "shims").glob("*/*")))
        left += leaks.wait_until_gone(lambda: leaks.mounts_below(f"{self.state}/rootfs", f"{self.root}/containers"))
        assert not left, f"left behind: {left}"

    def close(self) -> None:
        """Stop, and check that a stopped engine without containers holds nothing at all."""
        try:
            if self.process and self.process.poll() is None:
                self.remove_containers()
                self.assert_clean()
                assert self.stop() == 0, self.log.read_text()[-3000:]
                left: list[object] = leaks.wait_until_gone(
                    lambda: [m for m in leaks.mounts_below(str(self.base)) if m != str(self.base)]
                )
                left += leaks.wait_until_gone(lambda: leaks.processes_with(str(self.base)))
                assert not left, f"left behind after stop: {left}\n{self.log.read_text()[-2000:]}"
        finally:
            self.destroy()

    def destroy(self) -> None:
        """Remove whatever there is, asserting nothing (after a failure)."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid, _ in leaks.processes_with(str(self.base), self.base.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in reversed(leaks.mounts_below(str(self.base))):
            subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
        leaks.wait_until_gone(lambda: leaks.processes_with(str(self.base), self.base.name))
        base = Path("/sys/fs/cgroup")
        for hierarchy in [base, *(p for p in base.iterdir() if p.is_dir())]:
            for d, _, _ in os.walk(hierarchy / self.base.name, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(d)
        if self._made_base:
            shutil.rmtree(self.base, ignore_errors=True)
