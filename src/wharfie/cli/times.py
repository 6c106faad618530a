# SPDX-License-Identifier: Apache-2.0
"""`--since` and `--until`: what people write, as the seconds.nanoseconds that engines read."""

from __future__ import annotations

import time

from wharfie.cli.values import duration
from wharfie.errdefs import InvalidArgument


def timestamp(text: str, flag: str) -> str:
    """Unix seconds, RFC 3339 (parts may be left out, local time without a zone), or a duration before now."""
    if not text:
        return ""
    if text.replace(".", "", 1).isdecimal():
        return text
    try:
        return f"{time.time() - duration(text) / 1e9:.9f}"
    except ValueError:
        pass
    zone = ""
    date = text
    if date.endswith(("Z", "z")):
        date, zone = date[:-1], "Z"
    elif len(date) > 10 and date[-6:-5] in ("+", "-") and date[-3:-2] == ":":
        date, zone = date[:-6], date[-6:]
    date, _, fraction = date.replace(" ", "T").partition(".")
    for fmt in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d"):
        try:
            parsed = time.strptime(date, fmt)
        except ValueError:
            continue
        if not zone:
            seconds = int(time.mktime(parsed))
        else:
            from wharfie.cli.format.human import parse_rfc3339

            seconds = int(parse_rfc3339(time.strftime("%Y-%m-%dT%H:%M:%S", parsed) + zone))
        return f"{seconds}.{fraction.ljust(9, '0')[:9]}"
    raise InvalidArgument(f"{flag} `{text}`: not a time", hint="2026-01-02T15:04:05Z, 42m (ago), or Unix seconds")
