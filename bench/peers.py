# SPDX-License-Identifier: Apache-2.0
"""Each engine with roots of its own on one file system; what differs between them is a handful of command lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
WHARFIE = str(TOP / ".venv/bin/wharfie")
WHARFIED = str(TOP / ".venv/bin/wharfied")


def quiet(*argv: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def daemon_pss_kib(pids: list[int]) -> int:
    """Sum of the proportional set sizes, so that shared pages are counted once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def private_kib(pid: int) -> int:
    return sum(
        int(line.split()[1])
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )


def all_pids() -> set[int]:
    return {int(p) for p in os.listdir("/proc") if p.isdigit()}


def command_name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def children_of(pid: int) -> list[int]:
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        for task in Path(f"/proc/{current}/task").iterdir():
            queue += [int(c) for c in (task / "children").read_text().split()]
    return found


class Peer:
    """An engine under test. Command lines are lists; `{n}` in a name is filled in by the case."""

    name = ""
    process: subprocess.Popen[bytes] | None = None

    def __init__(self, base: Path) -> None:
        self.base = base / self.name
        self.base.mkdir(parents=True, exist_ok=True)

    def start(self) -> None: ...

    def spawn(self, *argv: str, ready: list[str], env: dict[str, str] | None = None) -> None:
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while subprocess.run(ready, capture_output=True).returncode:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{self.name} did not start:\n{(self.base / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def pull(self, ref: str) -> list[str]:
        raise NotImplementedError

    def remove_image(self, ref: str) -> list[str]:
        raise NotImplementedError

    def wait_until_collected(self) -> None:
        """Until the bytes of removed images are really gone (the others remove them before the command returns)."""

    def run(self, ref: str, *command: str, name: str) -> list[str]:
        raise NotImplementedError

    def detached(self, ref: str, *command: str, name: str) -> list[str]:
        raise NotImplementedError

    def exec(self, name: str, *command: str) -> list[str]:
        raise NotImplementedError

    def create(self, ref: str, *command: str, name: str) -> list[str]:
        raise NotImplementedError

    def remove(self, name: str) -> list[str]:
        raise NotImplementedError

    def logs(self, name: str) -> list[str] | None:
        return None

    def ps_all(self) -> list[str]:
        raise NotImplementedError

    def daemon_pids(self) -> list[int]:
        return children_of(self.process.pid) if self.process else []


class DockerLike(Peer):
    cli: tuple[str, ...] = ()

    def pull(self, ref: str) -> list[str]:
        return [*self.cli, "pull", "-q", ref]

    def remove_image(self, ref: str) -> list[str]:
        return [*self.cli, "rmi", "-f", ref]

    def run(self, ref: str, *command: str, name: str, rm: bool = True) -> list[str]:
        return [*self.cli, "run", *(["--rm"] if rm else []), "--network", "none", "--name", name, ref, *command]

    def detached(self, ref: str, *command: str, name: str) -> list[str]:
        return [*self.cli, "run", "-d", "--network", "none", "--name", name, ref, *command]

    def exec(self, name: str, *command: str) -> list[str]:
        return [*self.cli, "exec", name, *command]

    def create(self, ref: str, *command: str, name: str) -> list[str]:
        return [*self.cli, "create", "--network", "none", "--name", name, ref, *command]

    def remove(self, name: str) -> list[str]:
        return [*self.cli, "rm", "-f", name]

    def logs(self, name: str) -> list[str] | None:
        return [*self.cli, "logs", name]

    def ps_all(self) -> list[str]:
        return [*self.cli, "ps", "-a"]


class Wharfie(DockerLike):
    name = "wharfie"

    def start(self) -> None:
        (self.base / "config.toml").write_text('cgroup_parent = "/wharfie-bench"\n')
        self.cli = (WHARFIE, "-H", f"unix://{self.base}/run/wharfie.sock")
        self.spawn(
            WHARFIED, "--root", f"{self.base}/root", "--state", f"{self.base}/run", "--config", f"{self.base}/config.toml",
            ready=[*self.cli, "version"],
        )  # fmt: skip

    def wait_until_collected(self) -> None:
        blobs = self.base / "root/content/blobs/sha256"
        deadline = time.monotonic() + 20
        while len(list(blobs.iterdir())) > 3:  # manifest, config and layer of busybox
            if time.monotonic() > deadline:
                raise RuntimeError(f"garbage was not collected: {list(blobs.iterdir())}")
            time.sleep(0.1)


class Docker(DockerLike):
    name = "docker"

    def start(self) -> None:
        self.cli = ("docker", "-H", f"unix://{self.base}/docker.sock")
        self.spawn(
            "dockerd", "--data-root", f"{self.base}/root", "--exec-root", f"{self.base}/exec", "-H", f"unix://{self.base}/docker.sock",
            "--pidfile", f"{self.base}/pid", "--bridge", "none", "--iptables=false", "--insecure-registry", "127.0.0.0/8",
            ready=[*self.cli, "version"],
        )  # fmt: skip

    def detached_shims(self) -> list[int]:
        return []


class Podman(DockerLike):
    name = "podman"

    def start(self) -> None:
        runtime = "crun"
        self.cli = (
            "podman", "--root", f"{self.base}/root", "--runroot", f"{self.base}/run", "--cgroup-manager", "cgroupfs",
            "--runtime", runtime, "--tmpdir", f"{self.base}/tmp", "--events-backend", "file",
        )  # fmt: skip
        hierarchy = Path("/sys/fs/cgroup/hugetlb")
        if not hierarchy.is_dir():
            self.cli = (*self.cli[:7], "--runtime", "runc", *self.cli[9:])

    def pull(self, ref: str) -> list[str]:
        return [*self.cli, "pull", "-q", "--tls-verify=false", ref]

    def run(self, ref: str, *command: str, name: str, rm: bool = True) -> list[str]:
        return self._limits(super().run(ref, *command, name=name, rm=rm), "run")

    def detached(self, ref: str, *command: str, name: str) -> list[str]:
        return self._limits(super().detached(ref, *command, name=name), "run")

    def create(self, ref: str, *command: str, name: str) -> list[str]:
        return self._limits(super().create(ref, *command, name=name), "create")

    @staticmethod
    def _limits(argv: list[str], verb: str) -> list[str]:
        at = argv.index(verb) + 1
        return [
            *argv[:at],
            "--ulimit",
            "nofile=1024:4096",
            "--ulimit",
            "nproc=4096:4096",
            "--pull",
            "never",
            *argv[at:],
        ]


class Ctr(Peer):
    name = "ctr"

    def start(self) -> None:
        (self.base / "config.toml").write_text(
            f'version = 2\nroot = "{self.base}/root"\nstate = "{self.base}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{self.base}/c.sock"\n'
        )
        self.cli = ("ctr", "-a", f"{self.base}/c.sock")
        self.spawn("containerd", "--config", f"{self.base}/config.toml", ready=[*self.cli, "version"])

    def pull(self, ref: str) -> list[str]:
        return [*self.cli, "images", "pull", "--plain-http", ref]

    def remove_image(self, ref: str) -> list[str]:
        return [*self.cli, "images", "rm", "--sync", ref]

    def run(self, ref: str, *command: str, name: str, rm: bool = True) -> list[str]:
        return [*self.cli, "run", *(["--rm"] if rm else []), ref, name, *command]

    def detached(self, ref: str, *command: str, name: str) -> list[str]:
        return [*self.cli, "run", "-d", ref, name, *command]

    def exec(self, name: str, *command: str) -> list[str]:
        return [*self.cli, "task", "exec", "--exec-id", f"e{time.monotonic_ns()}", name, *command]

    def create(self, ref: str, *command: str, name: str) -> list[str]:
        return [*self.cli, "container", "create", ref, name, *command]

    def remove(self, name: str) -> list[str]:
        return ["sh", "-c", f"{' '.join(self.cli)} task rm -f {name}; {' '.join(self.cli)} container rm {name}"]

    def ps_all(self) -> list[str]:
        return [*self.cli, "container", "ls"]


class BareRuntime(Peer):
    """runc or crun on a bundle that is ready: the floor, with no engine at all."""

    def prepare(self, rootfs_tar: bytes) -> None:
        shutil.rmtree(self.base, ignore_errors=True)
        (self.base / "bundle/rootfs").mkdir(parents=True)
        subprocess.run(["tar", "-xf", "-", "-C", str(self.base / "bundle/rootfs")], input=rootfs_tar, check=True)
        subprocess.run([self.name, "spec"], cwd=self.base / "bundle", check=True)
        spec = json.loads((self.base / "bundle/config.json").read_text())
        spec["process"].update(terminal=False, args=["true"], rlimits=[])
        (self.base / "bundle/config.json").write_text(json.dumps(spec))

    def run(self, ref: str, *command: str, name: str) -> list[str]:
        return [self.name, "--root", f"{self.base}/state", "run", "-b", f"{self.base}/bundle", name]


class Runc(BareRuntime):
    name = "runc"


class Crun(BareRuntime):
    name = "crun"


def remove_tree(path: Path) -> None:
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        target = line.split()[4]
        if target.startswith(f"{path}/"):
            subprocess.run(["umount", "-l", target], capture_output=True)
    shutil.rmtree(path, ignore_errors=True)
    assert os.path.sep in str(path)
