# SPDX-License-Identifier: Apache-2.0
"""OCI `Resources` -> (controller, file, value) for v1 and v2. Pure; the order is the order of writing."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from typing import NamedTuple

from wharfie.errdefs import InvalidArgument
from wharfie.spec.runtime import BlockIO, Resources


class Setting(NamedTuple):
    """`optional`: a file that kernels may lack; its absence is a warning, not an error."""

    controller: str
    file: str
    value: str
    optional: bool = False


def _limit(value: int) -> str:
    return "max" if value < 0 else str(value)


def v1_settings(r: Resources) -> list[Setting]:
    """Memory's two limits are not here: their order depends on what is set now (`v1.V1`)."""
    out: list[Setting] = []
    if r.memory is not None:
        m = r.memory
        if m.use_hierarchy:
            out.append(Setting("memory", "memory.use_hierarchy", "1", optional=True))
        if m.reservation is not None:
            out.append(Setting("memory", "memory.soft_limit_in_bytes", str(m.reservation)))
        if m.kernel is not None:
            out.append(Setting("memory", "memory.kmem.limit_in_bytes", str(m.kernel), optional=True))
        if m.kernel_tcp is not None:
            out.append(Setting("memory", "memory.kmem.tcp.limit_in_bytes", str(m.kernel_tcp), optional=True))
        if m.disable_oom_killer:
            out.append(Setting("memory", "memory.oom_control", "1"))
        if m.swappiness is not None:
            out.append(Setting("memory", "memory.swappiness", str(m.swappiness)))
    if r.cpu is not None:
        c = r.cpu
        if c.shares:
            out.append(Setting("cpu", "cpu.shares", str(c.shares)))
        if c.period:
            out.append(Setting("cpu", "cpu.cfs_period_us", str(c.period)))
        if c.quota:
            out.append(Setting("cpu", "cpu.cfs_quota_us", str(c.quota)))
        if c.burst is not None:
            out.append(Setting("cpu", "cpu.cfs_burst_us", str(c.burst), optional=True))
        if c.realtime_period:
            out.append(Setting("cpu", "cpu.rt_period_us", str(c.realtime_period), optional=True))
        if c.realtime_runtime:
            out.append(Setting("cpu", "cpu.rt_runtime_us", str(c.realtime_runtime), optional=True))
        if c.idle is not None:
            out.append(Setting("cpu", "cpu.idle", str(c.idle), optional=True))
        if c.cpus:
            out.append(Setting("cpuset", "cpuset.cpus", c.cpus))
        if c.mems:
            out.append(Setting("cpuset", "cpuset.mems", c.mems))
    if r.pids is not None and r.pids.limit is not None and r.pids.limit != 0:
        out.append(Setting("pids", "pids.max", _limit(r.pids.limit)))
    if r.block_io is not None:
        out += _v1_blkio(r.block_io)
    for h in r.hugepage_limits:
        out.append(Setting("hugetlb", f"hugetlb.{h.page_size}.limit_in_bytes", str(h.limit)))
        out.append(Setting("hugetlb", f"hugetlb.{h.page_size}.rsvd.limit_in_bytes", str(h.limit), optional=True))
    if r.network is not None:
        if r.network.class_id is not None:
            out.append(Setting("net_cls", "net_cls.classid", str(r.network.class_id)))
        for p in r.network.priorities:
            out.append(Setting("net_prio", "net_prio.ifpriomap", f"{p.name} {p.priority}"))
    out += _rdma(r)
    return out


def _v1_blkio(b: BlockIO) -> list[Setting]:
    out: list[Setting] = []
    if b.weight:
        out.append(Setting("blkio", "blkio.bfq.weight|blkio.weight", str(b.weight), optional=True))
    if b.leaf_weight:
        out.append(Setting("blkio", "blkio.leaf_weight", str(b.leaf_weight), optional=True))
    for w in b.weight_device:
        if w.weight:
            name = "blkio.bfq.weight_device|blkio.weight_device"
            out.append(Setting("blkio", name, f"{w.major}:{w.minor} {w.weight}", optional=True))
        if w.leaf_weight:
            name = "blkio.leaf_weight_device"
            out.append(Setting("blkio", name, f"{w.major}:{w.minor} {w.leaf_weight}", optional=True))
    for name, devices in (
        ("blkio.throttle.read_bps_device", b.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", b.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", b.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", b.throttle_write_iops_device),
    ):
        out += [Setting("blkio", name, f"{d.major}:{d.minor} {d.rate}") for d in devices]
    return out


def _rdma(r: Resources) -> list[Setting]:
    out: list[Setting] = []
    for device, limits in r.rdma.items():
        words = [device]
        if limits.hca_handles is not None:
            words.append(f"hca_handle={limits.hca_handles}")
        if limits.hca_objects is not None:
            words.append(f"hca_object={limits.hca_objects}")
        out.append(Setting("rdma", "rdma.max", " ".join(words)))
    return out


def cpu_weight(shares: int) -> int:
    """v1 shares 2–262144 on v2's scale 1–10000, as systemd and every runtime do it."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def io_weight(weight: int) -> int:
    """Weight of blkio, 10–1000 on v2's scale 1–10000."""
    return 1 + (min(max(weight, 10), 1000) - 10) * 9999 // 990


def v2_settings(r: Resources) -> list[Setting]:
    """Raises InvalidArgument for what v2 cannot say."""
    out: list[Setting] = []
    if r.memory is not None:
        m = r.memory
        if m.swap is not None and m.swap != 0:
            if m.swap > 0 and (m.limit is None or m.limit <= 0 or m.swap < m.limit):
                raise InvalidArgument(
                    f"set memory limits: swap {m.swap} is memory and swap together, limit is {m.limit}"
                )
            swap = -1 if m.swap < 0 else m.swap - (m.limit or 0)
            out.append(Setting("memory", "memory.swap.max", _limit(swap), optional=True))
        if m.limit:
            out.append(Setting("memory", "memory.max", _limit(m.limit)))
        if m.reservation:
            out.append(Setting("memory", "memory.low", _limit(m.reservation)))
        if m.kernel is not None and m.kernel > 0:
            out.append(Setting("memory", "memory.kmem (v1 only)", str(m.kernel), optional=True))
        if m.swappiness is not None:
            out.append(Setting("memory", "memory.swappiness (v1 only)", str(m.swappiness), optional=True))
        if m.disable_oom_killer:
            out.append(Setting("memory", "memory.oom_control (v1 only)", "1", optional=True))
    if r.cpu is not None:
        c = r.cpu
        if c.idle is not None:
            out.append(Setting("cpu", "cpu.idle", str(c.idle), optional=True))
        if c.shares and not c.idle:
            out.append(Setting("cpu", "cpu.weight", str(cpu_weight(c.shares))))
        if c.quota or c.period:
            quota = str(c.quota) if c.quota and c.quota > 0 else "max"
            out.append(Setting("cpu", "cpu.max", f"{quota} {c.period or 100000}"))
        if c.burst is not None:
            out.append(Setting("cpu", "cpu.max.burst", str(c.burst), optional=True))
        if c.realtime_runtime or c.realtime_period:
            raise InvalidArgument("set real-time CPU limits: cgroup v2 has none")
        if c.cpus:
            out.append(Setting("cpuset", "cpuset.cpus", c.cpus))
        if c.mems:
            out.append(Setting("cpuset", "cpuset.mems", c.mems))
    if r.pids is not None and r.pids.limit is not None and r.pids.limit != 0:
        out.append(Setting("pids", "pids.max", _limit(r.pids.limit)))
    if r.block_io is not None:
        out += _v2_io(r.block_io)
    for h in r.hugepage_limits:
        out.append(Setting("hugetlb", f"hugetlb.{h.page_size}.max", str(h.limit)))
        out.append(Setting("hugetlb", f"hugetlb.{h.page_size}.rsvd.max", str(h.limit), optional=True))
    if r.network is not None and (r.network.class_id is not None or r.network.priorities):
        raise InvalidArgument("set network class or priorities: cgroup v2 has no net_cls and net_prio")
    out += _rdma(r)
    for name, value in r.unified.items():
        if "/" in name or not name or (name.startswith("cgroup.") and name != "cgroup.max.descendants"):
            raise InvalidArgument(f"set unified resource `{name}`: not a resource file")
        out += [Setting(name.partition(".")[0], name, line) for line in value.split("\n")]
    return out


def _v2_io(b: BlockIO) -> list[Setting]:
    out: list[Setting] = []
    if b.leaf_weight or any(w.leaf_weight for w in b.weight_device):
        raise InvalidArgument("set blockIO leafWeight: cgroup v2 has none")
    if b.weight:
        out.append(Setting("io", "io.bfq.weight", str(b.weight), optional=True))
        out.append(Setting("io", "io.weight", str(io_weight(b.weight)), optional=True))
    out += [
        Setting("io", "io.bfq.weight", f"{w.major}:{w.minor} {w.weight}", optional=True)
        for w in b.weight_device
        if w.weight
    ]
    for word, devices in (
        ("rbps", b.throttle_read_bps_device),
        ("wbps", b.throttle_write_bps_device),
        ("riops", b.throttle_read_iops_device),
        ("wiops", b.throttle_write_iops_device),
    ):
        out += [Setting("io", "io.max", f"{d.major}:{d.minor} {word}={d.rate or 'max'}") for d in devices]
    return out
