# SPDX-License-Identifier: Apache-2.0
"""`stats`: what containers use, live. All containers are measured at once, each on a connection of its own."""

from __future__ import annotations

import os
import sys
import time

from wharfie.cli.command import Command
from wharfie.cli.format import human, tables
from wharfie.client import jsontext
from wharfie.client.http import escape, query
from wharfie.errdefs import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options

HEADERS = {
    "ID": "CONTAINER ID", "Container": "CONTAINER", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}  # fmt: skip
DEFAULT = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")


def run(context: Context, options: Options, words: list[str]) -> int:
    fmt, full = options.text("format"), options.on("no-trunc")
    if options.on("no-stream"):
        tables.show(fmt, HEADERS, DEFAULT, _once(context, words, options.on("all"), full=full))
        return 0
    live = os.isatty(1)
    while True:
        rows = _once(context, words, options.on("all"), full=full)
        if live:
            sys.stdout.write("\x1b[2J\x1b[H")
        tables.show(fmt, HEADERS, DEFAULT, rows)
        sys.stdout.flush()
        time.sleep(0.5)


def _once(context: Context, words: list[str], every: bool, *, full: bool) -> list[dict[str, Any]]:
    """A row per container. The engine takes a second to measure CPU use, so all are asked at once."""
    client = context.client
    names = words or [c["Id"] for c in client.get_json(query("/containers/json", all=every))]
    asked = [(n, client.begin("GET", f"/containers/{escape(n)}/stats?stream=0")) for n in names]
    rows = []
    for name, connection in asked:
        try:
            value = jsontext.loads(client.finish(connection).read())
        except NotFound:
            if words:
                raise
            continue
        rows.append(_row(name, value, full=full))
        connection.close()
    return rows


def _row(name: str, s: dict[str, Any], *, full: bool) -> dict[str, Any]:
    memory, limit = _memory(s.get("memory_stats") or {})
    networks = (s.get("networks") or {}).values()
    read, written = _block(s.get("blkio_stats") or {})
    identifier = s.get("id") or name
    received, sent = sum(n["rx_bytes"] for n in networks), sum(n["tx_bytes"] for n in networks)
    return {
        "ID": identifier if full else identifier[:12],
        "Container": name,
        "Name": (s.get("name") or "--").removeprefix("/"),
        "CPUPerc": f"{_cpu(s):.2f}%",
        "MemUsage": f"{human.size_1024(memory)} / {human.size_1024(limit)}",
        "MemPerc": f"{memory / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{human.size(received, 4)} / {human.size(sent, 4)}",
        "BlockIO": f"{human.size(read, 4)} / {human.size(written, 4)}",
        "PIDs": str((s.get("pids_stats") or {}).get("current") or 0),
    }


def _cpu(s: dict[str, Any]) -> float:
    now, before = s.get("cpu_stats") or {}, s.get("precpu_stats") or {}
    used = (now.get("cpu_usage") or {}).get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or ())
    return used / system * cpus * 100 if used > 0 and system > 0 else 0.0


def _memory(m: dict[str, Any]) -> tuple[int, int]:
    """Used without the page cache that can go at once: inactive_file (v2), total_inactive_file (v1)."""
    usage, stats = m.get("usage", 0), m.get("stats") or {}
    inactive = stats.get("total_inactive_file", stats.get("inactive_file", 0))
    return usage - inactive if inactive < usage else usage, m.get("limit", 0)


def _block(b: dict[str, Any]) -> tuple[int, int]:
    entries = b.get("io_service_bytes_recursive") or ()
    read, written = (sum(e["value"] for e in entries if e["op"].lower() == op) for op in ("read", "write"))
    return read, written


STATS = Command(
    run,
    "[OPTIONS] [CONTAINER...]",
    "Show what containers use, live",
    flags=(
        ("all", "a", "bool", "Stopped ones too"),
        ("format", "", "string", "table TEMPLATE, json, or a Go template"),
        ("no-stream", "", "bool", "Measure once and leave"),
        ("no-trunc", "", "bool", "Cut nothing off"),
    ),
    most=None,
)
