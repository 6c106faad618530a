# SPDX-License-Identifier: Apache-2.0
"""Log drivers and their options: checked when a container is created, turned into the shim's LogConfig at start."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wharfie.errdefs import InvalidArgument, Unsupported
from wharfie.tasks import LogConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

DRIVERS = ("json-file", "local", "none")
_LATER = frozenset({"awslogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog"})
_OPTIONS = {"json-file": {"max-size", "max-file", "labels", "env"}, "local": {"max-size", "max-file", "labels", "env"}, "none": set()}  # fmt: skip
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}


def check(driver: str, options: Mapping[str, str]) -> None:
    """Raises InvalidArgument or Unsupported for a driver, an option or a value that would not be honoured."""
    if driver not in DRIVERS:
        known = driver in _LATER or "://" in driver
        kind = Unsupported if known else InvalidArgument
        why = "it is not built yet" if known else "there is no such driver"
        raise kind(f"use log driver {driver!r}: {why}", hint=f"one of {', '.join(DRIVERS)}")
    for name in options:
        if name not in _OPTIONS[driver]:
            allowed = ", ".join(sorted(_OPTIONS[driver])) or "none"
            raise Unsupported(
                f"use log option {name!r}: driver {driver!r} does not have it", hint=f"options: {allowed}"
            )
    _size(options.get("max-size", ""))
    files = options.get("max-file", "1")
    if not files.isdigit() or not int(files):
        raise InvalidArgument(f"read log option max-file={files!r}: not a number from 1 on")
    if int(files) > 1 and not _size(options.get("max-size", "")):
        raise InvalidArgument("read log option max-file: it needs max-size, or nothing would ever be rotated")


def task_log(driver: str, options: Mapping[str, str], directory: str, container_id: str) -> LogConfig:
    """The shim's share of checked options; `directory` is the container's log directory."""
    path = os.path.join(directory, f"{container_id}-json.log") if driver == "json-file" else directory
    return LogConfig(driver, path, _size(options.get("max-size", "")), int(options.get("max-file", "1")))


def _size(text: str) -> int:
    """`10m` -> bytes; "" and "-1" are 0: no bound."""
    word = text.strip().lower()
    if word in {"", "-1", "0"}:
        return 0
    digits = word.rstrip("bkmgi")
    unit = word[len(digits) :].rstrip("bi")
    if not digits.isdigit() or unit not in _UNITS:
        raise InvalidArgument(f"read log option max-size={text!r}: it is no size", hint="as in max-size=10m")
    return int(digits) << _UNITS[unit]
