# SPDX-License-Identifier: Apache-2.0
"""Cgroup v2, driven by its files."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import errno
import os
import select
import signal as signals

from wharfie.errdefs import FailedPrecondition
from wharfie.linux import bpf
from wharfie.runtime import Stats
from wharfie.runtime.linux.cgroups import devices
from wharfie.runtime.linux.cgroups.files import pids_below, read, read_int, read_map, remove, write
from wharfie.runtime.linux.cgroups.settings import Setting, v2_settings
from wharfie.spec.runtime import Resources


class V2:
    takes_itself = False

    def __init__(self, path: str, root: str) -> None:
        self.path = "/" + path.strip("/")
        self.root = root
        self.directory = root + self.path

    def create(self) -> None:
        """Directories down the path, each parent handing all its controllers on."""
        directory = self.root
        for part in filter(None, self.path.split("/")):
            _delegate(directory)
            directory = f"{directory}/{part}"
            try:
                os.mkdir(directory, 0o755)
            except FileExistsError:
                continue

    def add(self, pid: int) -> None:
        write(self.directory, "cgroup.procs", str(pid))

    def birth_fd(self) -> int | None:
        return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def apply(self, resources: Resources) -> list[str]:
        warnings: list[str] = []
        if resources.devices:
            self._devices(devices.rules(resources.devices))
        for setting in v2_settings(resources):
            self._write(setting, warnings)
        return warnings

    def _write(self, s: Setting, warnings: list[str]) -> None:
        try:
            write(self.directory, s.file, s.value)
        except OSError as e:
            if e.errno == errno.ENOENT:
                if s.optional:
                    warnings.append(f"set `{s.file}` to {s.value}: this host has no such limit")
                    return
                raise FailedPrecondition(
                    f"set `{s.file}` to {s.value}: cgroup controller `{s.controller}` is not available in {self.directory}"
                ) from None
            raise

    def _devices(self, rules: list[devices.Rule]) -> None:
        """Attach the new program before the old one goes: there is no moment without a rule."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            old = bpf.attached_device_programs(fd)
            try:
                new = bpf.load_device_program(devices.program(rules))
                try:
                    bpf.attach_device_program(fd, new)
                finally:
                    os.close(new)
                for program in old:
                    bpf.detach_device_program(fd, program)
            finally:
                for program in old:
                    os.close(program)
        finally:
            os.close(fd)

    def views(self) -> list[tuple[str, str]]:
        return [("", self.directory)]

    def freeze(self) -> None:
        self._set_frozen(1)

    def thaw(self) -> None:
        self._set_frozen(0)

    def _set_frozen(self, state: int) -> None:
        """cgroup.events says when it is done; it is pollable."""
        events = os.open(f"{self.directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(self.directory, "cgroup.freeze", str(state))
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            for _ in range(200):
                if f"frozen {state}" in os.pread(events, 4096, 0).decode():
                    return
                poll.poll(10)
        finally:
            os.close(events)
        if state:
            write(self.directory, "cgroup.freeze", "0")
        raise FailedPrecondition(f"freeze `{self.path}`: some process cannot be frozen")

    def frozen(self) -> bool:
        return read_int(self.directory, "cgroup.freeze") == 1

    def kill(self, signal: int) -> None:
        if signal == signals.SIGKILL:
            try:
                write(self.directory, "cgroup.kill", "1")
                return
            except FileNotFoundError:
                pass  # before 5.14
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
        return pids_below(self.directory) if os.path.isdir(self.directory) else []

    def stats(self) -> Stats:
        d = self.directory
        cpu = read_map(d, "cpu.stat")
        memory = read_map(d, "memory.stat")
        events = read_map(d, "memory.events")
        return Stats(
            cpu_usage_ns=cpu.get("usage_usec", 0) * 1000,
            cpu_user_ns=cpu.get("user_usec", 0) * 1000,
            cpu_kernel_ns=cpu.get("system_usec", 0) * 1000,
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled_ns=cpu.get("throttled_usec", 0) * 1000,
            periods=cpu.get("nr_periods", 0),
            memory_usage_bytes=read_int(d, "memory.current"),
            memory_limit_bytes=read_int(d, "memory.max"),
            memory_cache_bytes=memory.get("file", 0),
            swap_usage_bytes=read_int(d, "memory.swap.current"),
            pids_current=read_int(d, "pids.current"),
            pids_limit=read_int(d, "pids.max"),
            oom_kills=events.get("oom_kill", 0),
            blkio=self._io(),
            raw={"memory.stat": memory, "memory.max_usage": read_int(d, "memory.peak")},
        )

    def _io(self) -> tuple[tuple[int, int, str, int], ...]:
        try:
            lines = read(self.directory, "io.stat").splitlines()
        except OSError:
            return ()
        found: list[tuple[int, int, str, int]] = []
        for line in lines:
            device, *words = line.split()
            if ":" not in device:
                continue
            major, minor = (int(n) for n in device.split(":"))
            values = dict(w.split("=", 1) for w in words if "=" in w)
            found.append((major, minor, "read", int(values.get("rbytes", 0))))
            found.append((major, minor, "write", int(values.get("wbytes", 0))))
        return tuple(found)

    def oom_fd(self) -> int | None:
        """An inotify descriptor on memory.events: it becomes readable on every change of a counter."""
        from wharfie.linux.libc import libc

        lib = libc()
        fd: int = lib.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0:
            return None
        in_modify = 2
        if lib.inotify_add_watch(fd, f"{self.directory}/memory.events".encode(), in_modify) < 0:
            os.close(fd)
            return None
        return fd

    def exists(self) -> bool:
        return os.path.isdir(self.directory)

    def delete(self) -> None:
        if not self.exists():
            return
        if self.pids():
            self.kill(signals.SIGKILL)
        remove(self.directory)


def _delegate(directory: str) -> None:
    """Enable every controller for the children of a cgroup. One that can't be (processes in it) stays off."""
    available = read(directory, "cgroup.controllers").split()
    enabled = set(read(directory, "cgroup.subtree_control").split())
    for controller in available:
        if controller not in enabled:
            try:
                write(directory, "cgroup.subtree_control", f"+{controller}")
            except OSError as e:
                if e.errno not in (errno.EBUSY, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
