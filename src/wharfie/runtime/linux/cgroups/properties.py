# SPDX-License-Identifier: Apache-2.0
"""OCI `Resources` -> properties of a systemd unit. Pure. What systemd has no property for is left to the files.

A value that systemd's type cannot hold is left out too: the kernel's answer to the file then tells what is wrong.

Spec: systemd.resource-control(5); types as `busctl introspect` shows them.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from collections.abc import Mapping, Sequence

from wharfie.linux.dbus import Variant
from wharfie.runtime.linux.cgroups.devices import Rule
from wharfie.runtime.linux.cgroups.settings import v1_settings, v2_settings
from wharfie.spec.runtime import Resources

Property = tuple[str, Variant]

INFINITY = (1 << 64) - 1
_MAX_CPUS = 8192
_NUMBERS = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
    "cpu.shares": "CPUShares",
    "blkio.bfq.weight|blkio.weight": "BlockIOWeight",
}
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}
_IO = {
    "rbps": "IOReadBandwidthMax", "wbps": "IOWriteBandwidthMax", "riops": "IOReadIOPSMax", "wiops": "IOWriteIOPSMax",
}  # fmt: skip


def accounting(*names: str) -> list[Property]:
    return [(f"{name}Accounting", Variant("b", True)) for name in names]


def v2_properties(r: Resources) -> list[Property]:
    """Raises InvalidArgument as `v2_settings` does."""
    found = accounting("Memory", "CPU", "IO", "Tasks")
    io: dict[str, list[tuple[str, int]]] = {}
    for s in v2_settings(r):
        if s.file == "cpu.max":
            quota, _, period = s.value.partition(" ")
            found += _quota(quota, period or "100000")
        elif s.file in _SETS:
            mask = bit_mask(s.value)
            if mask:
                found.append((_SETS[s.file], Variant("ay", mask)))
        elif s.file == "io.weight":
            found += _number("IOWeight", s.value.removeprefix("default ").strip())
        elif s.file == "io.max":
            device, *words = s.value.split()
            for key, _, value in (w.partition("=") for w in words):
                number = _read(value)
                if key in _IO and number is not None:
                    io.setdefault(_IO[key], []).append((f"/dev/block/{device}", number))
        elif s.file in _NUMBERS:
            found += _number(_NUMBERS[s.file], s.value)
    return found + [(name, Variant("a(st)", limits)) for name, limits in io.items()]


def v1_properties(r: Resources) -> list[Property]:
    """Memory and swap together, cpusets, and throttling are not systemd's on v1."""
    found = accounting("Memory", "CPU", "BlockIO", "Tasks")
    if r.memory is not None and r.memory.limit:
        found += _number("MemoryLimit", str(r.memory.limit))
    if r.cpu is not None and (r.cpu.quota or r.cpu.period):
        found += _quota(str(r.cpu.quota or -1), str(r.cpu.period or 100000))
    for s in v1_settings(r):
        if s.file in _NUMBERS:
            found += _number(_NUMBERS[s.file], s.value)
    return found


def _read(text: str) -> int | None:
    if text == "max" or (text.startswith("-") and text[1:].isdigit()):
        return INFINITY
    return min(int(text), INFINITY) if text.isascii() and text.isdigit() else None


def _number(name: str, text: str) -> list[Property]:
    value = _read(text)
    return [] if value is None else [(name, Variant("t", value))]


def _quota(quota: str, period: str) -> list[Property]:
    """Whole percents of a CPU are what systemd keeps: rounded up, so that its idea never undercuts the file's."""
    quota_us, period_us = _read(quota), _read(period)
    if quota_us is None or not period_us:
        return []
    per_second = INFINITY
    if quota_us != INFINITY:
        per_second = -(-(quota_us * 1_000_000 // period_us) // 10_000) * 10_000
    found: list[Property] = [("CPUQuotaPerSecUSec", Variant("t", per_second or 10_000))]
    if period_us != INFINITY:
        found.append(("CPUQuotaPeriodUSec", Variant("t", period_us)))
    return found


def bit_mask(text: str) -> bytes:
    """`0-2,8` -> bits of bytes, the lowest first; b"" for what is no such list."""
    mask = 0
    for part in text.strip().split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            return b""
        first, last = int(low), int(high or low)
        if not first <= last < _MAX_CPUS:
            return b""
        mask |= ((1 << (last - first + 1)) - 1) << first
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def majors() -> dict[tuple[str, int], str]:
    """(c or b, number) -> name, as the kernel registered them."""
    found: dict[tuple[str, int], str] = {}
    kind = "c"
    with open("/proc/devices", encoding="ascii", errors="replace") as lines:
        for line in lines:
            number, _, name = line.strip().partition(" ")
            if number.isdigit():
                found.setdefault((kind, int(number)), name)
            elif number == "Block":
                kind = "b"
    return found


def device_properties(wanted: Sequence[Rule], names: Mapping[tuple[str, int], str]) -> list[Property]:
    """DevicePolicy and DeviceAllow: allowed nodes, whole majors by their names. A denial takes back its like only.

    What cannot be said this way is lost at a reload of systemd, never gained.
    """
    allowed: dict[str, set[str]] = {}
    for r in wanted:
        if r.type == "a":
            allowed.clear()
            if r.allow:
                return [("DevicePolicy", Variant("s", "auto")), ("DeviceAllow", Variant("a(ss)", []))]
            continue
        kind = "char" if r.type == "c" else "block"
        if r.major is None:
            where = f"{kind}-*"
        elif r.minor is None:
            where = f"{kind}-{names.get((r.type, r.major), '')}"
        else:
            where = f"/dev/{kind}/{r.major}:{r.minor}"
        if where.endswith("-"):
            continue
        access = allowed.setdefault(where, set())
        if r.allow:
            access |= set(r.access)
        else:
            access -= set(r.access)
    rows = [(where, "".join(sorted(access))) for where, access in allowed.items() if access]
    return [("DevicePolicy", Variant("s", "strict")), ("DeviceAllow", Variant("a(ss)", rows))]
