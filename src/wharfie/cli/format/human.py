# SPDX-License-Identifier: Apache-2.0
"""Sizes, times, ids and commands as tables show them."""

from __future__ import annotations

import time

TYPE_CHECKING = False


def size(count: float, digits: int = 3) -> str:
    """Powers of 1000, three significant digits (sums are shown with four): 4.26MB."""
    return _scaled(count, 1000, ("B", "kB", "MB", "GB", "TB", "PB"), digits)


def size_1024(count: float) -> str:
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"), 4)


def _scaled(count: float, step: int, units: tuple[str, ...], digits: int) -> str:
    value, unit = float(count), 0
    while value >= step and unit < len(units) - 1:
        value /= step
        unit += 1
    text = f"{value:.{digits}g}"
    if "e" in text:
        text = f"{value:.0f}"
    return f"{text}{units[unit]}"


def span(seconds: float) -> str:
    """How long, in words: "About a minute", "3 hours"."""
    s = int(seconds)
    if s < 1:
        return "Less than a second"
    if s == 1:
        return "1 second"
    if s < 60:
        return f"{s} seconds"
    minutes = s // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600 / 24 / 365)} years"


def ago(then: float) -> str:
    return f"{span(time.time() - then)} ago"


def stamp(then: float) -> str:
    """A Unix time as local date and time with its zone: what --no-trunc and {{.CreatedAt}} show."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(then))


def parse_rfc3339(text: str) -> float:
    """Unix time of 2026-01-02T03:04:05.678Z or with an offset. Raises: ValueError."""
    import calendar

    date = text[:19]
    rest = text[19:]
    fraction = 0.0
    if rest.startswith("."):
        end = 1
        while end < len(rest) and rest[end].isdecimal():
            end += 1
        fraction, rest = float(f"0{rest[:end]}"), rest[end:]
    offset = 0
    if rest not in ("Z", "z"):
        sign = {"+": 1, "-": -1}[rest[:1]] if rest[:1] in "+-" and rest else 0
        if not sign or len(rest) != 6:
            raise ValueError(f"not an RFC 3339 time: {text!r}")
        offset = sign * (int(rest[1:3]) * 3600 + int(rest[4:6]) * 60)
    return calendar.timegm(time.strptime(date, "%Y-%m-%dT%H:%M:%S")) - offset + fraction


def short_id(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]


def ellipsis(text: str, width: int) -> str:
    """Cut to `width` columns, the last being "…"."""
    if len(text) <= width:
        return text
    return text[: width - 1] + "…" if width > 1 else text[:width]


def iso(then: float) -> str:
    """A Unix time as local RFC 3339 time."""
    local = time.localtime(then)
    zone = time.strftime("%z", local)
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + ("Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}")
