# SPDX-License-Identifier: Apache-2.0
"""Resource use of a container in Docker's JSON: two samples in one document, so that a client can make percentages."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from wharfie.daemon.services.times import ZERO, rfc3339
from wharfie.errdefs import WharfieError

if TYPE_CHECKING:
    from wharfie.daemon.services.container import Container
    from wharfie.daemon.state import Engine


def _system_cpu_ns() -> int:
    """CPU time of the whole host since boot."""
    try:
        with open("/proc/stat", "rb") as f:
            fields = f.readline().split()[1:9]
    except OSError:
        return 0
    return sum(int(v) for v in fields) * 10_000_000


def _empty_cpu() -> dict[str, Any]:
    return {
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }


class Sampler:
    """Samples of one container; each knows the one before."""

    def __init__(self, engine: Engine, container: Container) -> None:
        self._engine, self._container = engine, container
        self._before: dict[str, Any] = _empty_cpu()
        self._read_before = ZERO

    async def sample(self) -> dict[str, Any]:
        """One document; of a container that does not run, an empty one."""
        container = self._container
        document: dict[str, Any] = {
            "name": f"/{container.name}",
            "id": container.id,
            "read": ZERO,
            "preread": self._read_before,
            "num_procs": 0,
            "storage_stats": {},
            "pids_stats": {},
            "blkio_stats": dict.fromkeys(
                (
                    "io_service_bytes_recursive", "io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive",
                    "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive", "sectors_recursive",
                )
            ),
            "cpu_stats": _empty_cpu(),
            "precpu_stats": self._before,
            "memory_stats": {},
            "networks": {},
        }  # fmt: skip
        task = container.task
        if task is None or not container.state.alive:
            return document
        try:
            found: dict[str, Any] = dict(await task.stats())
        except (WharfieError, OSError):
            return document
        read = rfc3339(time.time_ns())
        document["read"] = read
        document["cpu_stats"] = cpu = {
            "cpu_usage": {
                "total_usage": found.get("cpu_usage_ns", 0),
                "usage_in_kernelmode": found.get("cpu_kernel_ns", 0),
                "usage_in_usermode": found.get("cpu_user_ns", 0),
            },
            "system_cpu_usage": _system_cpu_ns(),
            "online_cpus": self._engine.host.cpus,
            "throttling_data": {
                "periods": found.get("periods", 0),
                "throttled_periods": found.get("throttled_periods", 0),
                "throttled_time": found.get("throttled_ns", 0),
            },
        }
        document["pids_stats"] = _pids(found)
        document["memory_stats"] = self._memory(found)
        if found.get("blkio"):
            document["blkio_stats"]["io_service_bytes_recursive"] = [
                {"major": major, "minor": minor, "op": op, "value": value} for major, minor, op, value in found["blkio"]
            ]
        self._before, self._read_before = cpu, read
        return document

    def _memory(self, found: dict[str, Any]) -> dict[str, Any]:
        """Clients take the page cache off by `inactive_file` (v2) or `total_inactive_file` (v1)."""
        cache = int(found.get("memory_cache_bytes", 0))
        key = "total_inactive_file" if self._engine.host.cgroup_version == 1 else "inactive_file"
        limit = int(found.get("memory_limit_bytes", 0))
        total = self._engine.host.memory_bytes
        return {
            "usage": found.get("memory_usage_bytes", 0),
            "limit": limit if 0 < limit < total or not total else total,
            "stats": {key: cache, "cache": cache, "swap": found.get("swap_usage_bytes", 0)},
        }


def _pids(found: dict[str, Any]) -> dict[str, int]:
    shown = {"current": int(found.get("pids_current", 0))}
    limit = int(found.get("pids_limit", 0))
    if 0 < limit < 2**63 - 1:
        shown["limit"] = limit
    return shown
