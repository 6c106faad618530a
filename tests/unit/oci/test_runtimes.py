# SPDX-License-Identifier: Apache-2.0
"""Specs of all request lines run under the field's runtimes, and the container sees what was asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from golden import specdoc
from harness.host import settle_cgroups
from harness.leaks import cgroups_named
from wharfie.daemon.services.specgen import build_spec
from wharfie.oci.devices import Lookup
from wharfie.oci.facts import HostFacts, probe
from wharfie.spec.docker import decode_create
from wharfie.spec.runtime import encode_spec

pytestmark = [pytest.mark.root, pytest.mark.peer]

RUNTIMES = ("runc", "crun")
SEES = {
    "plain": ("cat /proc/1/comm; id -u; grep CapEff /proc/self/status", ["sh", "0", "CapEff:\t00000000a80425fb"]),
    "hostname": ("hostname", ["box.example"]),
    "environment": ("echo $A$B$TERM", ["1dumb"]),
    "user": (
        "id -u; id -g; id -G; grep CapEff /proc/self/status",
        ["1000", "100", "100 44 1234", "CapEff:\t0000000000000000"],
    ),
    "workdir": ("pwd", ["/var"]),
    "readonly": ("touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo fine", ["refused", "fine"]),
    "cap-drop-all": ("grep CapEff /proc/self/status", ["CapEff:\t0000000000000001"]),
    "no-new-privileges": ("grep NoNewPrivs /proc/self/status", ["NoNewPrivs:\t1"]),
    "seccomp-unconfined": ("grep Seccomp: /proc/self/status", ["Seccomp:\t0"]),
    "seccomp-profile": ("mkdir /tmp/x 2>/dev/null || echo refused; chmod 700 /tmp && echo fine", ["refused", "fine"]),
    "systempaths": ("mount | grep -c ' /proc/'; true", ["0"]),
    "ulimits": ("ulimit -n; ulimit -Hn; ulimit -c", ["1024", "2048", "0"]),
    "device": ("stat -c '%t %T' /dev/nought", ["1 5"]),
    "binds": ("touch /b/x 2>/dev/null || echo refused; ls -d /a /b /b/c /v", ["refused", "/a", "/b", "/b/c", "/v"]),
    "mounts": ("stat -c %a /t; touch /a/x 2>/dev/null || echo refused", ["1770", "refused"]),
    "tmpfs": ("stat -c %a /scratch; grep -c ' /run tmpfs' /proc/mounts", ["700", "1"]),
    "shm": ("grep ' /dev/shm ' /proc/mounts | grep -o size=[0-9]*k", ["size=1048576k"]),
    "ipc-none": ("grep -c ' /dev/shm ' /proc/mounts; true", ["0"]),
    "sysctl": ("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", ["1", "65536"]),
    "oom": ("cat /proc/self/oom_score_adj", ["500"]),
    "network-none": (
        "ls /sys/class/net | grep -v bonding; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        ["lo", "0"],
    ),
}


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    need("busybox", *RUNTIMES)
    settle_cgroups()
    top = tmp_path_factory.mktemp("bundle")
    root = top / "rootfs"
    for directory in ("bin", "etc", "proc", "sys", "dev", "tmp", "var", "root"):
        (root / directory).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "cat", "id", "grep", "hostname", "touch", "mkdir", "chmod", "stat", "ls", "mount", "sleep"):
        (root / "bin" / applet).symlink_to("busybox")
    for name in ("hosts", "hostname", "resolv.conf"):
        (top / name).write_text("")
    yield top
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(top) in line]


@pytest.fixture(scope="module")
def host() -> HostFacts:
    return probe()


def request(case: str, host: HostFacts, source: Path) -> bytes:
    """The case's request on this host: a directory of ours for /srv, a device it has, limits that its kernel knows."""
    block = next((f"/dev/{n}" for n in sorted(os.listdir("/sys/block")) if os.path.exists(f"/dev/{n}")), "")
    document = json.loads(json.dumps(specdoc.request(case)).replace('"/srv', f'"{source}').replace("/dev/vda", block))
    h = document["HostConfig"]
    if not host.io_weight:
        h["BlkioWeight"] = 0
    if host.cgroup_version == 2:
        h["MemorySwappiness"], h["OomKillDisable"] = -1, False
    if case == "workdir":
        document["WorkingDir"] = "/srv/../var"
    document["Cmd"] = ["sh", "-c", SEES[case][0] if case in SEES else "true"]
    document["Entrypoint"] = None
    document["Tty"] = False
    return json.dumps(document).encode()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("case", specdoc.CASES)
def test_case_runs(rootfs: Path, host: HostFacts, case: str, runtime: str) -> None:
    source = rootfs / "source"
    (source / "c").mkdir(parents=True, exist_ok=True)
    volume = rootfs / "volumes/vol/_data"
    volume.mkdir(parents=True, exist_ok=True)
    name = f"wh-{uuid.uuid4().hex[:12]}"
    body = decode_create(request(case, host, source))
    parent = body.host_config.cgroup_parent = f"/{name}"
    files = {f"{f.replace('.', '_')}_path": str(rootfs / f) for f in ("hosts", "hostname", "resolv.conf")}
    inputs = specdoc.inputs(body, host, container_id=name, look=Lookup(), volumes=str(rootfs / "volumes"), **files)
    (rootfs / "config.json").write_bytes(encode_spec(build_spec(inputs)))
    try:
        done = subprocess.run(
            [runtime, "run", "--bundle", str(rootfs), name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == SEES.get(case, ("", []))[1]
    finally:
        subprocess.run([runtime, "delete", "--force", name], capture_output=True)
        left = cgroups_named(parent)
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            if (hierarchy / name).is_dir():
                (hierarchy / name).rmdir()
    assert left == []
