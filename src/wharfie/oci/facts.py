# SPDX-License-Identifier: Apache-2.0
"""What this host can do, as far as specs depend on it."""

from __future__ import annotations

import os
import platform
import sys
from typing import NamedTuple

from wharfie.oci.caps import ALL_CAPS
from wharfie.spec.platform import host_platform


class HostFacts(NamedTuple):
    """`capabilities`: CAP_ names of our bounding set. `cgroup_version` 1 also for hybrid hosts.

    `userns`: "" where containers can have a user namespace over idmapped layers, else why not (one phrase).
    `controllers`: memory cpu cpuset pids blkio (v2: io) hugetlb devices. `architecture` as in image configs.
    `lsm`: names of active security modules (apparmor, selinux …). `cpu_list`: usable CPUs as cpuset(7) writes them.
    """

    architecture: str = "amd64"
    kernel: tuple[int, int] = (6, 1)
    capabilities: frozenset[str] = frozenset(ALL_CAPS)
    cgroup_version: int = 2
    cgroup_driver: str = "cgroupfs"
    """cgroupfs or systemd: what the configuration chose for this host."""
    systemd: bool = False
    """systemd is PID 1, and we are root to it."""
    controllers: frozenset[str] = frozenset({"memory", "cpu", "cpuset", "pids", "io", "hugetlb", "devices"})
    swap_limit: bool = True
    realtime: bool = False
    io_weight: bool = True
    userns: str = ""
    seccomp: bool = True
    lsm: frozenset[str] = frozenset()
    cpus: int = 1
    cpu_list: str = ""
    mem_list: str = ""
    memory_bytes: int = 0
    hard_limits: dict[str, int] = {}  # noqa: RUF012
    """Resource limits that the engine cannot lift: ulimit name -> highest value, for those that have one."""
    thermal_paths: tuple[str, ...] = ()
    """/sys/devices/system/cpu/cpu*/thermal_throttle: counters that tell what neighbours do; masked."""
    runtimes: frozenset[str] = frozenset()
    """Names and paths that --runtime may take, beside absolute paths."""


def _read(path: str) -> str:
    """Content, or "" where the kernel has no such file."""
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return ""


def kernel_version(release: str) -> tuple[int, int]:
    """`6.1.0-18-amd64` -> (6, 1); anything unreadable is (0, 0)."""
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def _bounding(status: str) -> frozenset[str]:
    for line in status.splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
            return frozenset(name for bit, name in enumerate(ALL_CAPS) if mask >> bit & 1)
    return frozenset()


def _hard_limits(capabilities: frozenset[str]) -> dict[str, int]:
    if sys.platform == "win32":
        return {}
    import resource

    found = {}
    if "CAP_SYS_RESOURCE" not in capabilities:
        for name in (n for n in dir(resource) if n.startswith("RLIMIT_")):
            hard = resource.getrlimit(getattr(resource, name))[1]
            if hard != resource.RLIM_INFINITY:
                found[name.removeprefix("RLIMIT_").lower()] = hard
    nr_open = _read("/proc/sys/fs/nr_open")
    if nr_open.isdigit():
        found["nofile"] = min(int(nr_open), found.get("nofile", int(nr_open)))
    return found


def _thermal_paths() -> tuple[str, ...]:
    base = "/sys/devices/system/cpu"
    try:
        names = os.listdir(base)
    except FileNotFoundError:
        return ()
    paths = (f"{base}/{n}/thermal_throttle" for n in sorted(names) if n.startswith("cpu") and n[3:].isdigit())
    return tuple(p for p in paths if os.path.isdir(p))


def _userns(kernel: tuple[int, int]) -> str:
    if kernel < (5, 19):
        return f"kernel {kernel[0]}.{kernel[1]} cannot idmap overlay layers (5.19 can)"
    if not os.path.exists("/proc/self/ns/user"):
        return "this kernel is built without user namespaces"
    if _read("/proc/sys/user/max_user_namespaces") == "0":
        return "user.max_user_namespaces is 0"
    return ""


def probe(runtimes: frozenset[str] = frozenset()) -> HostFacts:
    """Look at this host. Blocking, a few reads; call it once."""
    if sys.platform == "win32":
        return HostFacts(architecture=host_platform().architecture, capabilities=frozenset(), userns="not a Linux host")
    unified = _read("/sys/fs/cgroup/cgroup.controllers")
    v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    if v2:
        controllers = frozenset(unified.split()) | {"devices"}
        swap = True
        weights = True  # only child cgroups have the file; the runtime will say
    else:
        rows = [line.split() for line in _read("/proc/cgroups").splitlines() if not line.startswith("#")]
        controllers = frozenset(r[0] for r in rows if r[3] == "1" and os.path.isdir(f"/sys/fs/cgroup/{r[0]}"))
        swap = os.path.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
        files = ("/sys/fs/cgroup/blkio/blkio.weight", "/sys/fs/cgroup/blkio/blkio.bfq.weight")
        weights = any(map(os.path.exists, files))
    kernel = kernel_version(platform.release())
    status = _read("/proc/self/status")
    capabilities = _bounding(status)
    return HostFacts(
        architecture=host_platform().architecture,
        kernel=kernel,
        capabilities=capabilities,
        cgroup_version=2 if v2 else 1,
        systemd=os.path.isdir("/run/systemd/system") and os.geteuid() == 0,
        controllers=controllers,
        swap_limit=swap,
        realtime=os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"),
        io_weight=weights,
        userns=_userns(kernel),
        seccomp="Seccomp:" in status,
        lsm=frozenset(_read("/sys/kernel/security/lsm").split(",")) - {""},
        cpus=len(os.sched_getaffinity(0)),
        cpu_list=_read("/sys/devices/system/cpu/online"),
        mem_list=_read("/sys/devices/system/node/online") or "0",
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        hard_limits=_hard_limits(capabilities),
        thermal_paths=_thermal_paths(),
        runtimes=runtimes,
    )
