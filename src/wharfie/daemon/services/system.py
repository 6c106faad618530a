# SPDX-License-Identifier: Apache-2.0
"""What `version` and `info` say: this engine, this host, and which rungs of its ladders it stands on."""

from __future__ import annotations

import os
import platform
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import wharfie
from wharfie.daemon.services import log_options
from wharfie.daemon.state import Engine
from wharfie.fsutil import atomic
from wharfie.oci.facts import HostFacts
from wharfie.snapshots import Probe
from wharfie.spec.platform import host_platform

Document = dict[str, Any]


class Counts(NamedTuple):
    """How many there are."""

    running: int = 0
    paused: int = 0
    stopped: int = 0
    images: int = 0


class Rungs(NamedTuple):
    """`snapshotter` is the one in use; `probes` say of each whether it works and why not."""

    snapshotter: str
    probes: Sequence[Probe]
    backing_fs: str


class System:
    """The engine's own identity, and what it says of itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.id = ""

    async def open(self) -> None:
        await self._engine.files(self._load_id)

    def _load_id(self) -> None:
        """An id that stays with the root directory."""
        path = self._engine.config.path("engine-id")
        try:
            with open(path, encoding="ascii") as f:
                self.id = f.read().strip()
        except FileNotFoundError:
            pass
        if not self.id:
            self.id = str(uuid.uuid4())
            atomic.write(path, f"{self.id}\n".encode(), 0o600)

    def info(self, ns: str) -> Document:
        """GET /info. Blocking, short."""
        engine, config = self._engine, self._engine.config
        running, paused, stopped = engine.containers.counts(ns)
        runtimes: dict[str, Document] = {name: {"path": path} for name, path in engine.runtimes.items()}
        warnings = [
            f"WARNING: snapshotter {p.name} does not work here: {p.reason}"
            for p in engine.snapshotter_probes
            if not p.ok
        ]
        if config.userns == "host":
            warnings.append(
                "WARNING: containers run in the host's user namespace: the configuration says userns = host"
            )
        return info_document(
            engine_id=self.id,
            root=config.root,
            facts=engine.host,
            rungs=Rungs(engine.snapshotter.name, engine.snapshotter_probes, backing_filesystem(config.root)),
            counts=Counts(running, paused, stopped, len({r.target.digest for r in engine.images.all(ns)})),
            cgroup_driver=engine.host.cgroup_driver,
            default_runtime=config.runtime,
            runtimes=runtimes,
            warnings=warnings,
            event_listeners=0,
            insecure_registries=config.insecure_registries,
            debug=config.log_level == "debug",
        )


def _kernel() -> str:
    return platform.release()


def version_document(api_version: str, min_api_version: str) -> Document:
    """GET /version."""
    host = host_platform()
    python = platform.python_version()
    details = {
        "ApiVersion": api_version,
        "Arch": host.architecture,
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": f"none (Python {python})",
        "KernelVersion": _kernel(),
        "MinAPIVersion": min_api_version,
        "Os": host.os,
    }
    return {
        "Platform": {"Name": "Wharfie"},
        "Components": [{"Name": "Engine", "Version": wharfie.__version__, "Details": details}],
        "Version": wharfie.__version__,
        "ApiVersion": api_version,
        "MinAPIVersion": min_api_version,
        "GitCommit": "",
        "GoVersion": f"none (Python {python})",
        "Os": host.os,
        "Arch": host.architecture,
        "KernelVersion": _kernel(),
        "BuildTime": "",
    }


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def backing_filesystem(path: str) -> str:
    """Type of the file system that `path` is on, from the mount table; "" where there is none."""
    best, kind = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as f:
            for line in f:
                left, _, right = line.partition(" - ")
                point = left.split()[4].encode().decode("unicode_escape")
                inside = path == point or path.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, right.split()[0]
    except OSError:
        return ""
    return kind


def host_warnings(facts: HostFacts) -> list[str]:
    """What this host cannot limit or isolate, in Docker's words where it has some."""
    if sys.platform == "win32":
        return []
    found = []
    if facts.userns:
        found.append(f"WARNING: containers run in the host's user namespace: {facts.userns}")
    for controller, words in (
        ("memory", "No memory limit support"),
        ("cpu", "No cpu shares support"),
        ("cpuset", "No cpuset support"),
        ("pids", "No pids limit support"),
    ):
        if controller not in facts.controllers:
            found.append(f"WARNING: {words}")
    if not facts.swap_limit:
        found.append("WARNING: No swap limit support")
    found += [
        f"WARNING: {knob} is disabled"
        for knob in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
        if _read(f"/proc/sys/net/bridge/{knob}") == "0"
    ]
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return ""


def _security_options(facts: HostFacts) -> list[str]:
    options = []
    if "apparmor" in facts.lsm:
        options.append("name=apparmor")
    if facts.seccomp:
        options.append("name=seccomp,profile=builtin")
    if not facts.userns:
        options.append("name=userns")
    if os.path.exists("/proc/self/ns/cgroup"):
        options.append("name=cgroupns")
    return options


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def info_document(
    *,
    engine_id: str,
    root: str,
    facts: HostFacts,
    rungs: Rungs,
    counts: Counts,
    cgroup_driver: str,
    default_runtime: str,
    runtimes: dict[str, Document],
    warnings: Sequence[str],
    event_listeners: int,
    labels: Sequence[str] = (),
    insecure_registries: Sequence[str] = (),
    debug: bool = False,
    live_restore: bool = True,
) -> Document:
    """GET /info."""
    release, host = _os_release(), host_platform()
    status = [["Backing Filesystem", rungs.backing_fs or "unknown"]]
    status += [[p.name, "in use" if p.name == rungs.snapshotter else p.reason or "works"] for p in rungs.probes]
    have = facts.controllers
    return {
        "ID": engine_id,
        "Containers": counts.running + counts.paused + counts.stopped,
        "ContainersRunning": counts.running,
        "ContainersPaused": counts.paused,
        "ContainersStopped": counts.stopped,
        "Images": counts.images,
        "Driver": rungs.snapshotter,
        "DriverStatus": status,
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": None,
            "Log": list(log_options.DRIVERS),
        },
        "MemoryLimit": "memory" in have,
        "SwapLimit": facts.swap_limit,
        "CpuCfsPeriod": "cpu" in have,
        "CpuCfsQuota": "cpu" in have,
        "CPUShares": "cpu" in have,
        "CPUSet": "cpuset" in have,
        "PidsLimit": "pids" in have,
        "OomKillDisable": facts.cgroup_version == 1 and "memory" in have,
        "IPv4Forwarding": _read("/proc/sys/net/ipv4/ip_forward") == "1",
        "BridgeNfIptables": _read("/proc/sys/net/bridge/bridge-nf-call-iptables") == "1",
        "BridgeNfIp6tables": _read("/proc/sys/net/bridge/bridge-nf-call-ip6tables") == "1",
        "Debug": debug,
        "NFd": _open_files(),
        "NGoroutines": 0,
        "OomScoreAdj": 0,
        "SystemTime": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z",
        "LoggingDriver": "local",
        "CgroupDriver": cgroup_driver,
        "CgroupVersion": str(facts.cgroup_version),
        "NEventsListener": event_listeners,
        "KernelVersion": _kernel(),
        "OperatingSystem": release.get("PRETTY_NAME") or platform.system(),
        "OSVersion": release.get("VERSION_ID", ""),
        "OSType": host.os,
        "Architecture": platform.machine(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"],
            "IndexConfigs": {
                "docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True},
                **{r: {"Name": r, "Mirrors": [], "Secure": False, "Official": False} for r in insecure_registries},
            },
            "Mirrors": [],
        },
        "NCPU": facts.cpus,
        "MemTotal": facts.memory_bytes,
        "GenericResources": None,
        "DockerRootDir": root,
        "HttpProxy": _without_password(os.environ.get("HTTP_PROXY") or os.environ.get("http_proxy", "")),
        "HttpsProxy": _without_password(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy", "")),
        "NoProxy": os.environ.get("NO_PROXY") or os.environ.get("no_proxy", ""),
        "Name": platform.node(),
        "Labels": list(labels),
        "ExperimentalBuild": False,
        "ServerVersion": wharfie.__version__,
        "Runtimes": runtimes,
        "DefaultRuntime": default_runtime,
        "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": live_restore,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": {"ID": "", "Expected": ""},
        "InitCommit": {"ID": "", "Expected": ""},
        "SecurityOptions": _security_options(facts),
        "ProductLicense": "Apache-2.0",
        "CDISpecDirs": [],
        "Warnings": [*host_warnings(facts), *warnings] or None,
    }  # fmt: skip


def _without_password(url: str) -> str:
    """A proxy's URL as it may be shown."""
    scheme, sep, rest = url.rpartition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{sep}xxxxx:xxxxx@{host}" if at and user else url
