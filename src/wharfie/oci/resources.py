# SPDX-License-Identifier: Apache-2.0
"""Limits: Engine API resources -> runtime-spec `linux.resources`, and the rules that they must keep."""

from __future__ import annotations

import os
from collections.abc import Callable

from wharfie.errdefs import FailedPrecondition, InvalidArgument, Unsupported
from wharfie.oci.devices import device_numbers
from wharfie.oci.facts import HostFacts
from wharfie.spec import docker
from wharfie.spec.runtime import CPU, BlockIO, Memory, Pids, Resources, Rlimit, ThrottleDevice, WeightDevice
from wharfie.spec.scope import slice_path

MIN_MEMORY_BYTES = 6 << 20
"""Below this a container's init does not even start."""
_PERIOD_US = 100_000
_RLIMITS = frozenset({
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack", "as",
})  # fmt: skip
_UNLIMITED = 2**64 - 1


def parse_cpuset(text: str) -> set[int]:
    """`0-2,5` -> {0, 1, 2, 5}. Raises InvalidArgument."""
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not (low.isascii() and low.isdigit() and len(low) < 5 and (not dash or (high.isdigit() and len(high) < 5))):
            raise InvalidArgument(f"read cpuset {text!r}: it is not a list like 0-2,5")
        last = int(high) if dash else int(low)
        if last < int(low):
            raise InvalidArgument(f"read cpuset {text!r}: {part.strip()!r} runs backwards")
        found.update(range(int(low), last + 1))
    return found


def check_memory(r: docker.Resources, host: HostFacts) -> list[str]:
    warnings = []
    for what, value in (("memory", r.memory), ("memory reservation", r.memory_reservation)):
        if value != 0 and value < MIN_MEMORY_BYTES:
            raise InvalidArgument(f"set {what} {value}: the least that is accepted is 6 MiB ({MIN_MEMORY_BYTES})")
    if r.memory_swap > 0 and r.memory == 0:
        raise InvalidArgument(
            f"set memory-swap {r.memory_swap}: it is memory plus swap and needs a memory limit", hint="add --memory"
        )
    if r.memory_swap < -1 or (r.memory_swap > 0 and r.memory_swap < r.memory):
        raise InvalidArgument(
            f"set memory-swap {r.memory_swap}: it is memory plus swap, so not less than memory {r.memory}; -1 is no limit"
        )
    if r.memory and r.memory_reservation > r.memory:
        raise InvalidArgument(f"set memory reservation {r.memory_reservation}: it is above the memory limit {r.memory}")
    if r.memory_swap > 0 and not host.swap_limit:
        raise FailedPrecondition(
            f"set memory-swap {r.memory_swap}: this kernel does not account swap", hint="boot it with swapaccount=1"
        )
    if r.memory and not host.swap_limit:
        warnings.append("this kernel does not account swap: memory is limited, swap is not")
    if r.memory_swappiness is not None and r.memory_swappiness != -1:
        if not 0 <= r.memory_swappiness <= 100:
            raise InvalidArgument(f"set memory swappiness {r.memory_swappiness}: it goes from 0 to 100")
        if host.cgroup_version == 2:
            raise Unsupported("set memory swappiness: cgroup v2 has no such setting", hint="leave it out")
    if r.kernel_memory or r.kernel_memory_tcp:
        raise Unsupported(
            "set kernel memory: kernels no longer limit it apart", hint="--memory counts kernel memory too"
        )
    if r.oom_kill_disable:
        if host.cgroup_version == 2:
            raise Unsupported("disable the OOM killer: cgroup v2 has no such setting", hint="use --oom-score-adj")
        if r.memory == 0:
            warnings.append("the OOM killer is disabled without a memory limit: the host can run out of memory")
    return warnings


def check_cpu(r: docker.Resources, host: HostFacts) -> None:
    if r.nano_cpus:
        if r.cpu_period or r.cpu_quota:
            raise InvalidArgument("set cpus: --cpus is a quota, so it excludes --cpu-period and --cpu-quota")
        if not 10_000_000 <= r.nano_cpus <= host.cpus * 10**9:
            raise InvalidArgument(
                f"set cpus {r.nano_cpus / 1e9:g}: this machine takes 0.01 to {host.cpus}", hint="leave --cpus out"
            )
    if r.cpu_shares and not 2 <= r.cpu_shares <= 262144:
        raise InvalidArgument(f"set cpu-shares {r.cpu_shares}: they go from 2 to 262144")
    if r.cpu_period and not 1000 <= r.cpu_period <= 1_000_000:
        raise InvalidArgument(f"set cpu-period {r.cpu_period}: it goes from 1000 to 1000000 µs")
    if r.cpu_quota and r.cpu_quota != -1 and r.cpu_quota < 1000:
        raise InvalidArgument(f"set cpu-quota {r.cpu_quota}: the least is 1000 µs")
    for what, wanted, present in (("cpus", r.cpuset_cpus, host.cpu_list), ("mems", r.cpuset_mems, host.mem_list)):
        if wanted and present and not parse_cpuset(wanted) <= parse_cpuset(present):
            raise InvalidArgument(f"set cpuset-{what} {wanted!r}: this machine has {present}")
    if (r.cpu_realtime_period or r.cpu_realtime_runtime) and not host.realtime:
        raise Unsupported("set realtime cpu time: this host's cgroups cannot limit it", hint="leave --cpu-rt-* out")
    if r.cpu_realtime_period and r.cpu_realtime_runtime > r.cpu_realtime_period:
        raise InvalidArgument("set realtime cpu time: the runtime is above the period")


def check_io(r: docker.Resources, host: HostFacts) -> None:
    if r.blkio_weight and not 10 <= r.blkio_weight <= 1000:
        raise InvalidArgument(f"set blkio-weight {r.blkio_weight}: it goes from 10 to 1000")
    if (r.blkio_weight or r.blkio_weight_device) and not host.io_weight:
        raise FailedPrecondition(
            "set blkio-weight: no i/o scheduler of this host weighs", hint="use --device-read-bps and its like"
        )
    for weight in r.blkio_weight_device or ():
        if not 10 <= weight.weight <= 1000:
            raise InvalidArgument(f"set blkio weight {weight.weight} of {weight.path!r}: it goes from 10 to 1000")
    throttles = (r.blkio_device_read_bps, r.blkio_device_write_bps, r.blkio_device_read_iops, r.blkio_device_write_iops)
    for throttle in (t for devices in throttles for t in devices or ()):
        if throttle.rate < 1:
            raise InvalidArgument(f"limit i/o of {throttle.path!r} to {throttle.rate}: the rate must be positive")
    if r.cpu_count or r.cpu_percent or r.io_maximum_iops or r.io_maximum_bandwidth:
        raise Unsupported(
            "set CpuCount, CpuPercent or IOMaximum*: they are for Windows containers",
            hint="use --cpus and --device-read-bps",
        )


def check_controllers(r: docker.Resources, host: HostFacts) -> None:
    """A limit whose controller is missing is refused: a limit that does not hold is worse than none."""
    io = "io" if host.cgroup_version == 2 else "blkio"
    asked = {
        "memory": bool(r.memory or r.memory_reservation or r.memory_swap > 0 or r.oom_kill_disable),
        "cpu": bool(r.nano_cpus or r.cpu_shares or r.cpu_period or r.cpu_quota),
        "cpuset": bool(r.cpuset_cpus or r.cpuset_mems),
        "pids": bool(r.pids_limit is not None and r.pids_limit > 0),
        io: bool(r.blkio_weight or r.blkio_weight_device or r.blkio_device_read_bps or r.blkio_device_write_bps
                 or r.blkio_device_read_iops or r.blkio_device_write_iops),
    }  # fmt: skip
    for controller, wanted in asked.items():
        if wanted and controller not in host.controllers:
            raise FailedPrecondition(
                f"limit resources: this host has no {controller} cgroup controller",
                hint="enable the controller, or leave the limit out",
            )


def check_ulimits(ulimits: list[docker.Ulimit] | None, host: HostFacts) -> None:
    for u in ulimits or ():
        if u.name not in _RLIMITS:
            raise InvalidArgument(f"set ulimit {u.name!r}: unknown name", hint="one of " + " ".join(sorted(_RLIMITS)))
        if u.soft < -1 or u.hard < -1:
            raise InvalidArgument(f"set ulimit {u.name}={u.soft}:{u.hard}: -1 is unlimited, nothing is below")
        if u.hard != -1 and (u.soft == -1 or u.soft > u.hard):
            raise InvalidArgument(f"set ulimit {u.name}={u.soft}:{u.hard}: the soft limit is above the hard limit")
        highest = host.hard_limits.get(u.name)
        if highest is not None and not 0 <= u.hard <= highest:
            raise FailedPrecondition(
                f"set ulimit {u.name}={u.soft}:{u.hard}: the engine's own limit is {highest}",
                hint="raise the engine's limit (LimitNOFILE= and its like in its systemd unit, fs.nr_open)",
            )


def check_resources(r: docker.Resources, host: HostFacts) -> list[str]:
    """Warnings. Raises InvalidArgument, Unsupported, FailedPrecondition."""
    warnings = check_memory(r, host)
    check_cpu(r, host)
    check_io(r, host)
    check_controllers(r, host)
    check_ulimits(r.ulimits, host)
    return warnings


def rlimits(ulimits: list[docker.Ulimit] | None) -> list[Rlimit]:
    return [
        Rlimit(f"RLIMIT_{u.name.upper()}", u.hard if u.hard >= 0 else _UNLIMITED, u.soft if u.soft >= 0 else _UNLIMITED)
        for u in ulimits or ()
    ]


def _memory(r: docker.Resources) -> Memory | None:
    swap = r.memory_swap or (r.memory * 2 if r.memory else 0)
    swappiness = r.memory_swappiness if r.memory_swappiness != -1 else None
    if not (r.memory or r.memory_reservation or swap or swappiness is not None or r.oom_kill_disable):
        return None
    return Memory(
        limit=r.memory or None,
        reservation=r.memory_reservation or None,
        swap=swap or None,
        swappiness=swappiness,
        disable_oom_killer=bool(r.oom_kill_disable),
    )


def _cpu(r: docker.Resources) -> CPU | None:
    quota, period = r.cpu_quota, r.cpu_period
    if r.nano_cpus:
        period = _PERIOD_US
        quota = r.nano_cpus * period // 10**9
    cpu = CPU(
        shares=r.cpu_shares or None,
        quota=quota or None,
        period=period or None,
        realtime_runtime=r.cpu_realtime_runtime or None,
        realtime_period=r.cpu_realtime_period or None,
        cpus=r.cpuset_cpus,
        mems=r.cpuset_mems,
    )
    return None if cpu == CPU() else cpu


def _block_io(r: docker.Resources, stat: Callable[[str], os.stat_result]) -> BlockIO | None:
    def throttles(devices: list[docker.ThrottleDevice] | None) -> list[ThrottleDevice]:
        return [ThrottleDevice(*device_numbers(d.path, stat), d.rate) for d in devices or ()]

    io = BlockIO(
        weight=r.blkio_weight or None,
        weight_device=[WeightDevice(*device_numbers(w.path, stat), w.weight) for w in r.blkio_weight_device or ()],
        throttle_read_bps_device=throttles(r.blkio_device_read_bps),
        throttle_write_bps_device=throttles(r.blkio_device_write_bps),
        throttle_read_iops_device=throttles(r.blkio_device_read_iops),
        throttle_write_iops_device=throttles(r.blkio_device_write_iops),
    )
    return None if io == BlockIO() else io


def resources(r: docker.Resources, stat: Callable[[str], os.stat_result]) -> Resources:
    """Limits without the device list. Raises NotFound, InvalidArgument (device paths).

    A pids limit of 0 is no limit: nothing to say for a new container, something to lift in an update.
    """
    lifted = isinstance(r, docker.UpdateBody) and r.pids_limit == 0
    pids = Pids(max(r.pids_limit or -1, -1)) if r.pids_limit or lifted else None
    return Resources(memory=_memory(r), cpu=_cpu(r), pids=pids, block_io=_block_io(r, stat))


def cgroups_path(
    container_id: str, parent: str = "", *, default_parent: str = "/wharfie", driver: str = "cgroupfs"
) -> str:
    """`linux.cgroupsPath` for a driver. `parent` is --cgroup-parent: a path, or a slice for systemd.

    Raises: InvalidArgument for one that climbs out, or is of the other driver's kind.
    """
    chosen = parent or default_parent
    if driver == "systemd":
        if not parent and not default_parent.endswith(".slice"):
            chosen = "system.slice"
        slice_path(chosen)
        return f"{chosen}:wharfie:{container_id}"
    if any(part in {"..", "."} for part in chosen.split("/")) or "\0" in chosen or "\n" in chosen:
        raise InvalidArgument(f"set cgroup parent {parent!r}: it is not a plain cgroup path")
    return "/" + "/".join([*filter(None, chosen.split("/")), container_id])
