# SPDX-License-Identifier: Apache-2.0
"""The config.json that `wharfie-oci spec` writes: a shell in all namespaces, with what every container has."""

from __future__ import annotations

import os
import sys

from wharfie.spec.runtime import (
    Capabilities,
    DeviceCgroup,
    IDMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
)

_CAPS = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
]  # fmt: skip
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def standard_mounts() -> list[Mount]:
    safe = ["nosuid", "noexec", "nodev"]
    return [
        Mount("/proc", "proc", "proc"),
        Mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        Mount(
            "/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        Mount("/dev/shm", "tmpfs", "shm", [*safe, "mode=1777", "size=65536k"]),
        Mount("/dev/mqueue", "mqueue", "mqueue", safe),
        Mount("/sys", "sysfs", "sysfs", [*safe, "ro"]),
        Mount("/sys/fs/cgroup", "cgroup", "cgroup", [*safe, "relatime", "ro"]),
    ]


def template(*, rootless: bool = False) -> Spec:
    spec = Spec(
        process=Process(
            cwd="/",
            args=["sh"],
            terminal=True,
            env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            capabilities=Capabilities(bounding=_CAPS, effective=_CAPS, permitted=_CAPS),
            rlimits=[Rlimit("RLIMIT_NOFILE", 1024, 1024)],
            no_new_privileges=True,
        ),
        root=Root("rootfs", readonly=True),
        hostname="wharfie",
        mounts=standard_mounts(),
        linux=Linux(
            namespaces=[Namespace(t) for t in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            masked_paths=MASKED,
            readonly_paths=READ_ONLY,
            resources=Resources(devices=[DeviceCgroup(allow=False, access="rwm")]),
        ),
    )
    if rootless and sys.platform == "linux" and spec.linux is not None:
        spec.linux.namespaces = [Namespace(t) for t in ("pid", "ipc", "uts", "mount", "cgroup", "user")]
        spec.linux.uid_mappings = [IDMapping(0, os.geteuid(), 1)]
        spec.linux.gid_mappings = [IDMapping(0, os.getegid(), 1)]
        spec.linux.resources = None
    return spec
