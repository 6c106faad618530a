# SPDX-License-Identifier: Apache-2.0
"""Checked kinds of flag values: each converter takes the text and gives the value, or raises ValueError with the reason."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def size(text: str) -> int:
    """`64`, `64b`, `64k`, `1.5GB`, `2GiB`, always powers of 1024."""
    rest = text.lower()
    if len(rest) > 1 and rest[-1] == "b":
        rest = rest[:-1]
    if len(rest) > 1 and rest[-1] == "i":
        rest = rest[:-1]
    unit = ""
    if rest and rest[-1] in "kmgtp":
        unit, rest = rest[-1], rest[:-1]
    rest = rest.removesuffix(" ")
    if not rest.replace(".", "", 1).isdecimal() or not rest[-1].isdecimal():
        raise ValueError(f"invalid size: '{text}'")
    return int(float(rest) * _UNITS[unit]) if "." in rest else int(rest) * _UNITS[unit]


def swap(text: str) -> int:
    return -1 if text == "-1" else size(text)


_SECONDS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "µs": 10**3, "ns": 1}


def duration(text: str) -> int:
    """Go's durations (`1h2m3.5s`, `300ms`), in nanoseconds."""
    if text == "0":
        return 0
    rest = text[1:] if text[:1] in "+-" else text
    total, at = 0.0, 0
    if not rest:
        raise ValueError(f'invalid duration "{text}"')
    while at < len(rest):
        start = at
        while at < len(rest) and (rest[at].isdecimal() or rest[at] == "."):
            at += 1
        number, begin = rest[start:at], at
        while at < len(rest) and not (rest[at].isdecimal() or rest[at] == "."):
            at += 1
        unit = _SECONDS.get(rest[begin:at])
        if unit is None or not number.replace(".", "", 1).isdecimal():
            hint = " (a unit is missing: s, m, h)" if number and begin == at else ""
            raise ValueError(f'invalid duration "{text}"{hint}')
        total += float(number) * unit
    return int(-total if text[0] == "-" else total)


def nano_cpus(text: str) -> int:
    """`1.5` CPUs, in billionths."""
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isdecimal():
        raise ValueError(f'"{text}" is not a number of CPUs')
    if len(fraction.rstrip("0")) > 9:
        raise ValueError("more than nine digits after the point")
    return int(whole or "0") * 10**9 + int(fraction[:9].ljust(9, "0"))


def uint(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is not a whole number of zero or more")
    return int(text)


def uint16(text: str) -> int:
    value = uint(text)
    if value > 65535:
        raise ValueError("more than 65535")
    return value


LIMITS = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
)  # fmt: skip


def ulimit(text: str) -> dict[str, Any]:
    name, sep, values = text.partition("=")
    if not sep or not name or not values:
        raise ValueError("want NAME=SOFT[:HARD]")
    if name.lower() not in LIMITS:
        raise ValueError(f"no such limit: {name}")
    soft, _, hard = values.partition(":")
    numbers = []
    for v in (soft, hard or soft):
        if not v.removeprefix("-").isdecimal() or (v.startswith("-") and v != "-1"):
            raise ValueError(f"{v!r} is not a limit")
        numbers.append(int(v))
    if numbers[1] != -1 and (numbers[0] > numbers[1] or numbers[0] == -1):
        raise ValueError(f"soft limit {soft} is above the hard limit {hard}")
    return {"Name": name.lower(), "Soft": numbers[0], "Hard": numbers[1]}


def _device(text: str) -> tuple[str, str]:
    path, sep, value = text.rpartition(":")
    if not sep or not value:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, value


def weight_device(text: str) -> dict[str, Any]:
    path, value = _device(text)
    weight = uint16(value)
    if weight and not 10 <= weight <= 1000:
        raise ValueError(f"weight {weight} is not between 10 and 1000")
    return {"Path": path, "Weight": weight}


def device_rate(text: str) -> dict[str, Any]:
    path, value = _device(text)
    return {"Path": path, "Rate": size(value)}


def device_iops(text: str) -> dict[str, Any]:
    path, value = _device(text)
    return {"Path": path, "Rate": uint(value)}


def mount(text: str) -> dict[str, Any]:
    from wharfie.cli.container.mounts import mount as parse

    return parse(text)


def filter_(text: str) -> tuple[str, str]:
    name, sep, value = text.partition("=")
    if not sep:
        raise ValueError("invalid filter (want NAME=VALUE)")
    return name.strip().lower(), value.strip()


def filters(pairs: list[tuple[str, str]]) -> str:
    """The engine's form of `--filter`s, "" for none."""
    if not pairs:
        return ""
    from wharfie.client.jsontext import dumps

    chosen: dict[str, dict[str, bool]] = {}
    for name, value in pairs:
        chosen.setdefault(name, {})[value] = True
    return dumps(chosen)


def pairs(items: list[str], what: str, *, bare: bool = False) -> dict[str, str]:
    """KEY=VALUE items as a map. `bare`: KEY alone means an empty value. Raises: InvalidArgument."""
    from wharfie.errdefs import InvalidArgument

    result = {}
    for item in items:
        key, sep, value = item.partition("=")
        if not key or not (sep or bare):
            raise InvalidArgument(f"{what} `{item}`: want KEY=VALUE")
        result[key] = value
    return result


KINDS: dict[str, Callable[[str], Any]] = {
    "bytes": size,
    "decimal": nano_cpus,
    "device-iops": device_iops,
    "device-rate": device_rate,
    "duration": duration,
    "filter": filter_,
    "mount": mount,
    "swap": swap,
    "uint": uint,
    "uint16": uint16,
    "ulimit": ulimit,
    "weight-device": weight_device,
}
