# SPDX-License-Identifier: Apache-2.0
"""Stats in containerd's words: io.containerd.cgroups.v1.Metrics, whatever the host's cgroup version."""

from __future__ import annotations

from wharfie.spec.pb import metrics as m
from wharfie.spec.pb.base import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.runtime import Stats


def metrics(stats: Stats) -> Any:
    entries = [
        m.BlkIOEntry(op=op.capitalize(), major=major, minor=minor, value=value)
        for major, minor, op, value in stats.blkio
    ]
    document = m.Metrics(
        pids=m.PidsStat(current=stats.pids_current, limit=max(stats.pids_limit, 0)),
        cpu=m.CPUStat(
            usage=m.CPUUsage(total=stats.cpu_usage_ns, kernel=stats.cpu_kernel_ns, user=stats.cpu_user_ns),
            throttling=m.Throttle(
                periods=stats.periods, throttled_periods=stats.throttled_periods, throttled_time=stats.throttled_ns
            ),
        ),
        memory=m.MemoryStat(
            cache=stats.memory_cache_bytes,
            usage=m.MemoryEntry(limit=max(stats.memory_limit_bytes, 0), usage=stats.memory_usage_bytes),
            swap=m.MemoryEntry(usage=stats.swap_usage_bytes),
        ),
        blkio=m.BlkIOStat(io_service_bytes_recursive=entries),
    )
    return Any(type_url="io.containerd.cgroups.v1.Metrics", value=document.encode())
