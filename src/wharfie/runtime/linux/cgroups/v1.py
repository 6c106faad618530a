# SPDX-License-Identifier: Apache-2.0
"""Cgroup v1, and hybrid hosts: v1 controllers, with cgroup2 beside them for what only it can do (killing at once)."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import errno
import itertools
import os
import re
import signal as signals
import time
from collections.abc import Sequence

from wharfie.errdefs import FailedPrecondition, InvalidArgument
from wharfie.linux import libc
from wharfie.runtime import Stats
from wharfie.runtime.linux.cgroups import devices
from wharfie.runtime.linux.cgroups.files import (
    make,
    pids_below,
    read,
    read_int,
    read_map,
    remove,
    remove_empty,
    write,
    write_lines,
)
from wharfie.runtime.linux.cgroups.host import Hierarchy
from wharfie.runtime.linux.cgroups.settings import Setting, v1_settings
from wharfie.spec.runtime import Memory, Resources

_UNLIMITED = 1 << 62


class V1:
    takes_itself = True

    def __init__(self, path: str, hierarchies: Sequence[Hierarchy], unified: str) -> None:
        self.path = "/" + path.strip("/")
        self.hierarchies = hierarchies
        self.directories = {h.name: h.mount_point + self.path for h in hierarchies}
        self._by_controller = {c: h.mount_point + self.path for h in hierarchies for c in h.controllers}
        self._cpuset_root = next((h.mount_point for h in hierarchies if "cpuset" in h.controllers), "")
        self._unified = unified + self.path if unified else ""

    def create(self) -> None:
        for directory in (*self.directories.values(), *([self._unified] if self._unified else [])):
            make(directory)
        if self._cpuset_root:
            _fill_cpuset(self._cpuset_root, self.path)

    def add(self, pid: int) -> None:
        text = str(pid)
        for directory in self.directories.values():
            write(directory, "cgroup.procs", text)
        if self._unified:
            write(self._unified, "cgroup.procs", text)

    def birth_fd(self) -> int | None:
        return None

    def apply(self, resources: Resources) -> list[str]:
        warnings: list[str] = []
        if resources.unified:
            raise InvalidArgument(
                "set unified resources: the host has cgroup v1", hint="use memory, cpu, pids, blockIO"
            )
        if resources.devices:
            for name, group in itertools.groupby(devices.v1_lines(devices.rules(resources.devices)), lambda p: p[0]):
                # Among lines of one kind neither order nor repetition matters.
                write_lines(self._directory("devices", name), name, list(dict.fromkeys(line for _, line in group)))
        if resources.memory is not None:
            self._memory(resources.memory)
        for setting in v1_settings(resources):
            self._write(setting, warnings)
        return warnings

    def _directory(self, controller: str, what: str) -> str:
        directory = self._by_controller.get(controller)
        if directory is None:
            raise FailedPrecondition(f"set `{what}`: cgroup controller `{controller}` is not mounted on this host")
        return directory

    def _write(self, s: Setting, warnings: list[str]) -> None:
        if s.optional and s.controller not in self._by_controller:
            warnings.append(f"set `{s.file}`: this kernel has no controller {s.controller}")
            return
        directory = self._directory(s.controller, s.file)
        names = s.file.split("|")
        for name in names:
            try:
                write(directory, name, s.value)
                return
            except OSError as e:
                missing = e.errno in (errno.ENOENT, errno.EACCES, errno.EOPNOTSUPP, 524)
                if not missing or not s.optional:
                    raise
        warnings.append(f"set `{names[-1]}` to {s.value}: this kernel has no such limit")

    def _memory(self, m: Memory) -> None:
        """Limit and limit with swap: memory must stay <= memsw at every moment, so growing sets memsw first."""
        limit, swap = m.limit, m.swap
        if limit is None and swap is None:
            return
        directory = self._directory("memory", "memory.limit_in_bytes")
        both = "memory.memsw.limit_in_bytes"
        if swap is not None and swap > 0 and limit is not None and 0 < swap < limit:
            raise InvalidArgument(f"set memory limits: swap {swap} is memory and swap together, limit is {limit}")
        if m.check_before_update and limit and limit > 0:
            usage = read_int(directory, "memory.usage_in_bytes")
            if limit < usage:
                raise InvalidArgument(f"set memory limit {limit}: {usage} bytes are in use")
        if limit == -1 and swap is None and os.path.exists(f"{directory}/{both}"):
            swap = -1
        steps = []
        if limit:
            steps.append(("memory.limit_in_bytes", limit))
        if swap:
            steps.append((both, swap))
        if len(steps) == 2:
            now = read_int(directory, both, _UNLIMITED)
            if swap == -1 or (swap is not None and swap > now):
                steps.reverse()
        for name, value in steps:
            try:
                write(directory, name, str(value))
            except FileNotFoundError:
                raise FailedPrecondition(
                    f"set `{name}`: the kernel counts no swap here", hint="boot with swapaccount=1, or leave swap out"
                ) from None

    def views(self) -> list[tuple[str, str]]:
        return sorted(self.directories.items())

    def _freezer(self) -> str:
        return self._directory("freezer", "freezer.state")

    def freeze(self) -> None:
        self._set_frozen("FROZEN")

    def thaw(self) -> None:
        self._set_frozen("THAWED")

    def _set_frozen(self, state: str) -> None:
        """FREEZING may hang while new tasks arrive: thaw for a moment and ask again, as the kernel's notes advise."""
        directory = self._freezer()
        for attempt in range(1000):
            write(directory, "freezer.state", state)
            if read(directory, "freezer.state").strip() == state:
                return
            if attempt % 50 == 49:
                write(directory, "freezer.state", "THAWED")
            time.sleep(0.001)
        write(directory, "freezer.state", "THAWED")
        raise FailedPrecondition(f"freeze `{self.path}`: some process cannot be frozen")

    def frozen(self) -> bool:
        directory = self._by_controller.get("freezer")
        if directory is None:
            return False
        try:
            return read(directory, "freezer.state").strip() in {"FROZEN", "FREEZING"}
        except OSError:
            return False

    def kill(self, signal: int) -> None:
        """Signal everybody. SIGKILL by cgroup.kill where there is cgroup2, else with the cgroup frozen meanwhile."""
        if signal == signals.SIGKILL and self._unified:
            try:
                write(self._unified, "cgroup.kill", "1")
                if self.frozen():
                    self.thaw()
                return
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
                    raise
        was_frozen = self.frozen()
        if not was_frozen:
            self.freeze()
        try:
            for pid in self.pids():
                try:
                    os.kill(pid, signal)
                except ProcessLookupError:
                    continue
        finally:
            if not was_frozen or signal == signals.SIGKILL:
                self.thaw()

    def pids(self) -> list[int]:
        directory = self._by_controller.get("pids") or self._by_controller.get("memory") or self._any()
        return pids_below(directory) if os.path.isdir(directory) else []

    def _any(self) -> str:
        return next(iter(self.directories.values()))

    def stats(self) -> Stats:
        memory = self._by_controller.get("memory", "/")
        cpu = self._by_controller.get("cpu", "/")
        cpuacct = self._by_controller.get("cpuacct", "/")
        pids = self._by_controller.get("pids", "/")
        throttle = read_map(cpu, "cpu.stat")
        times = read_map(cpuacct, "cpuacct.stat")
        in_memory = read_map(memory, "memory.stat")
        usage = read_int(memory, "memory.usage_in_bytes")
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        limit = read_int(memory, "memory.limit_in_bytes")
        return Stats(
            cpu_usage_ns=read_int(cpuacct, "cpuacct.usage"),
            cpu_user_ns=times.get("user", 0) * tick_ns,
            cpu_kernel_ns=times.get("system", 0) * tick_ns,
            throttled_periods=throttle.get("nr_throttled", 0),
            throttled_ns=throttle.get("throttled_time", 0),
            periods=throttle.get("nr_periods", 0),
            memory_usage_bytes=usage,
            memory_limit_bytes=limit,
            memory_cache_bytes=in_memory.get("total_cache", in_memory.get("cache", 0)),
            swap_usage_bytes=max(0, read_int(memory, "memory.memsw.usage_in_bytes", usage) - usage),
            pids_current=read_int(pids, "pids.current"),
            pids_limit=read_int(pids, "pids.max"),
            oom_kills=read_map(memory, "memory.oom_control").get("oom_kill", 0),
            blkio=self._blkio(),
            raw={"memory.stat": in_memory, "memory.max_usage": read_int(memory, "memory.max_usage_in_bytes")},
        )

    def _blkio(self) -> tuple[tuple[int, int, str, int], ...]:
        directory = self._by_controller.get("blkio", "/")
        try:
            text = read(directory, "blkio.throttle.io_service_bytes_recursive")
        except OSError:
            return ()
        found = re.findall(r"^(\d+):(\d+) (Read|Write) (\d+)$", text, re.MULTILINE)
        return tuple((int(a), int(b), kind.lower(), int(n)) for a, b, kind, n in found)

    def oom_fd(self) -> int | None:
        """An eventfd registered with memory.oom_control (kernel: cgroup-v1/memory.rst, section 10)."""
        directory = self._by_controller.get("memory")
        if directory is None:
            return None
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            event = libc.syscall("eventfd2", 0, os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                write(directory, "cgroup.event_control", f"{event} {control}")
            except OSError:
                os.close(event)
                raise
            return event
        finally:
            os.close(control)

    def exists(self) -> bool:
        return os.path.isdir(self._any())

    def delete(self) -> None:
        everywhere = (*self.directories.values(), *([self._unified] if self._unified else []))
        left = [directory for directory in everywhere if not remove_empty(directory)]
        if not left:
            return
        if self.pids():
            self.kill(signals.SIGKILL)
        for directory in left:
            remove(directory)


def _fill_cpuset(root: str, path: str) -> None:
    """A new cpuset has no CPUs and no memory nodes, and takes no process before it has: copy them down the path."""
    directory = root
    values = dict.fromkeys(("cpuset.cpus", "cpuset.mems"), "")
    for part in ["", *filter(None, path.split("/"))]:
        directory = f"{directory}/{part}" if part else directory
        for name, inherited in values.items():
            own = read(directory, name).strip()
            if not own and inherited:
                write(directory, name, inherited)
                own = inherited
            values[name] = own
