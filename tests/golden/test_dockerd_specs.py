# SPDX-License-Identifier: Apache-2.0
"""Our spec beside the one that dockerd 20.10 writes for the same request: every difference is one that we chose."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from golden import specdoc
from harness.engine import UnixConnection
from harness.images import busybox_tar
from harness.leaks import mounts_below
from wharfie.daemon.services.specgen import build_spec
from wharfie.oci.devices import Lookup
from wharfie.oci.facts import probe
from wharfie.oci.user import resolve_user

pytestmark = [pytest.mark.peer, pytest.mark.root, pytest.mark.slow]

CHOSEN = (
    (r"ociVersion", "20.10 speaks 1.0.2; domainname and idmapped mounts came later"),
    (r"env\.HOME", "runc looks HOME up at start, inside the container; we know it from the image's passwd"),
    (r"(privileged|cap-add-all) caps\..*", "only what the engine has itself: runc cannot start otherwise"),
    (r"mount\./etc/(hosts|hostname|resolv\.conf)", "the files live elsewhere"),
    (r"mount\./(a|b)", "read-only binds are so recursively (rro), as dockerd 25 has it"),
    (r"mounts mount\./n", "a mount that is not recursive gets a propagation that is not recursive either"),
    (r"mount\./(t|run|scratch)", "sizes are plain numbers; rprivate says nothing for a tmpfs"),
    (r"mount\./v", "volumes say rprivate, which is what dockerd's get by default"),
    (r"device\.rules", "dockerd leaves the default devices to runc; ours also hold where the runtime adds none"),
    (r"privileged device\./dev/(console|ptmx)", "these two are the container's own"),
    (r"network-host namespace\.network", "dockerd joins the host's by a path; leaving it out says the same"),
    (r"namespace\.cgroup", "private everywhere, also on cgroup v1"),
    (r"domainname|sysctl\.kernel\.domainname", "runtime-spec 1.1 has a field; a user namespace refuses the sysctl"),
    (r"maskedPaths", "interrupt, power and thermal counters are side channels; later dockerds mask them too"),
    (r"cgroupsPath", "our parent"),
    (r"memory-no-swap-limit resources\.memory\.swap", "no limit is said, not left to the kernel's default"),
    (r"seccomp\.io_uring_.*", "later dockerds refuse it too: it does system calls that no filter sees"),
    (r"seccomp\.(socket|socketcall)", "AF_ALG (CVE-2026-31431) and AF_VSOCK are refused"),
    (r"seccomp\.process_vm_.*", "safe since 4.8, as ptrace is"),
    (r"seccomp\.(sigaction|signal|sigpending|sigsuspend)", "old spellings that 32-bit programs use"),
    (r"seccomp\.(name_to_handle_at|pkey_.*)", "allowed by later dockerds"),
    (r"seccomp\.(cachestat|fchmodat2|file_[gs]etattr|futex_(requeue|wait|wake)|map_shadow_stack)", "younger than 20.10"),
    (r"seccomp\.([gs]etxattrat|listmount|listxattrat|mseal|removexattrat|statmount|uprobe|uretprobe)", "younger too"),
    (r"(cap-add-all|cap-add) seccomp\..*", "younger calls behind CAP_SYS_ADMIN, CAP_SYS_PTRACE and others"),
)  # fmt: skip


class Dockerd:
    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="wh-dockerd-", dir="/var/tmp"))
        self._log = (self.base / "log").open("wb")
        self.recorded = self.base / "config.json"
        recorder = self.base / "recorder"
        recorder.write_text(
            f'#!/bin/sh\nfor a; do [ "$last" = --bundle ] && cp "$a/config.json" {self.recorded}; last=$a; done\nexit 1\n'
        )
        recorder.chmod(0o755)
        self.process = subprocess.Popen(
            ["dockerd", "--data-root", str(self.base / "root"), "--exec-root", str(self.base / "exec"),
             "--pidfile", str(self.base / "pid"), "-H", f"unix://{self.base}/sock", "--iptables=false",
             "--ip6tables=false", "--bridge=none", f"--add-runtime=recorder={recorder}", "--default-runtime=recorder"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while not (self.base / "sock").exists() or self.call("GET", "/_ping")[0] != 200:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError((self.base / "log").read_text()[-2000:])
            time.sleep(0.05)

    def call(
        self, method: str, path: str, payload: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, Any]:
        connection = UnixConnection(str(self.base / "sock"))
        try:
            connection.request(method, path, payload, {"Content-Type": kind})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(raw) if raw[:1] in {b"{", b"["} else raw

    def spec_of(self, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The config.json that a request leads to, and the inspect document. The runtime only takes the bundle down."""
        status, made = self.call("POST", "/v1.41/containers/create?name=box", json.dumps(request).encode())
        assert status == 201, made
        try:
            self.recorded.unlink(missing_ok=True)
            status, answer = self.call("POST", f"/containers/{made['Id']}/start")
            assert self.recorded.exists(), answer
            return json.loads(self.recorded.read_text()), self.call("GET", f"/containers/{made['Id']}/json")[1]
        finally:
            self.call("DELETE", f"/containers/{made['Id']}?force=1&v=1")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._log.close()
        for mount in reversed(mounts_below(str(self.base))):
            subprocess.run(["umount", "-l", mount], check=True)
        shutil.rmtree(self.base)


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Dockerd]:
    need("dockerd", "containerd", "runc")
    peer = Dockerd()
    try:
        status, answer = peer.call(
            "POST", "/images/create?fromSrc=-&repo=busybox&tag=latest", busybox_tar(), "application/x-tar"
        )
        assert status == 200, answer
        yield peer
    finally:
        peer.close()


def passwd_and_group() -> list[bytes]:
    with tarfile.open(fileobj=io.BytesIO(busybox_tar())) as tar:
        return [(f.read() if (f := tar.extractfile(name)) else b"") for name in ("etc/passwd", "etc/group")]


def block_device() -> str:
    return next((f"/dev/{n}" for n in sorted(os.listdir("/sys/block")) if os.path.exists(f"/dev/{n}")), "")


used: set[str] = set()
seen: set[str] = set()


@pytest.mark.parametrize("case", specdoc.CASES)
def test_differences_are_chosen(dockerd: Dockerd, case: str) -> None:
    request = json.loads(json.dumps(specdoc.request(case)).replace("/dev/vda", block_device()))
    if not probe().io_weight:
        request["HostConfig"]["BlkioWeight"] = 0
    theirs, inspect = dockerd.spec_of(request)
    b = specdoc.decode_create(json.dumps(request).encode())
    inputs = specdoc.inputs(
        b,
        probe(),
        container_id=inspect["Id"],
        hostname=inspect["Config"]["Hostname"],
        volumes=f"{dockerd.base}/root/volumes",
        user=resolve_user(request["User"], *passwd_and_group(), request["HostConfig"]["GroupAdd"] or ()),
        look=Lookup(),
    )
    ours = specdoc.flat(specdoc.document(build_spec(inputs)))
    unexplained = {}
    for what, pair in specdoc.difference(specdoc.flat(theirs), ours).items():
        reasons = [row for row, _ in CHOSEN if re.fullmatch(row, what) or re.fullmatch(row, f"{case} {what}")]
        used.update(reasons)
        if not reasons:
            unexplained[what] = pair
    seen.add(case)
    assert not unexplained, f"[dockerd, ours]: {json.dumps(unexplained, indent=1)}"


def test_every_row_is_needed() -> None:
    """A row that explains nothing hides something tomorrow."""
    if seen != set(specdoc.CASES):
        pytest.skip("not all cases ran")
    needed = {row for row, _ in CHOSEN} - used
    assert not needed
