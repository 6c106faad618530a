# SPDX-License-Identifier: Apache-2.0
"""The processes of a container as `ps` would show them, read from /proc: no program of host or image is run.

Takes the BSD and UNIX words that people use (`-ef`, `-eF`, `aux`, `-o pid,comm`); others are refused, not guessed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from wharfie.errdefs import InvalidArgument, Unsupported

_HZ = 100
Extents = Sequence[tuple[int, int, int]]


class _Process(NamedTuple):
    pid: int
    ppid: int
    uid: int
    gid: int
    comm: str
    args: str
    state: str
    tty: int
    cpu_ticks: int
    start_ticks: int
    nice: int
    priority: int
    threads: int
    session: int
    pgrp: int
    vsz_kib: int
    rss_kib: int


class _Host(NamedTuple):
    now_s: float
    boot_s: float
    memory_kib: int


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as f:
        return f.read(1 << 16)


def _look(pid: int, extents: Extents) -> _Process | None:
    """None where it has ended."""
    try:
        stat = _read(pid, "stat")
        args = _read(pid, "cmdline").rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
        owner = os.stat(f"/proc/{pid}")
    except (FileNotFoundError, ProcessLookupError):
        return None
    comm = stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode("utf-8", "replace")
    f = stat[stat.rindex(b")") + 2 :].split()
    return _Process(
        pid=pid, ppid=int(f[1]), uid=_inside(owner.st_uid, extents), gid=_inside(owner.st_gid, extents), comm=comm,
        args=args or f"[{comm}]", state=f[0].decode(), tty=int(f[4]), cpu_ticks=int(f[11]) + int(f[12]),
        start_ticks=int(f[19]), nice=int(f[16]), priority=int(f[15]), threads=int(f[17]), session=int(f[3]),
        pgrp=int(f[2]), vsz_kib=int(f[20]) // 1024, rss_kib=int(f[21]) * 4,
    )  # fmt: skip


def _inside(id_: int, extents: Extents) -> int:
    """A host id as the container sees it."""
    for inner, outer, size in extents:
        if outer <= id_ < outer + size:
            return inner + id_ - outer
    return id_


def _duration(seconds: int) -> str:
    days, rest = divmod(max(0, seconds), 86400)
    text = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{text}" if days else text


def _elapsed(seconds: int) -> str:
    text = _duration(seconds)
    return text.removeprefix("00:")


def _tty(number: int) -> str:
    if not number:
        return "?"
    major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    return f"pts/{minor}" if 136 <= major <= 143 else f"tty{minor}" if major == 4 else "?"


def _user(id_: int) -> str:
    return "root" if id_ == 0 else str(id_)


def _age_s(p: _Process, h: _Host) -> float:
    return max(0.0, h.now_s - h.boot_s - p.start_ticks / _HZ)


def _cpu(p: _Process, h: _Host) -> str:
    age = _age_s(p, h)
    return f"{p.cpu_ticks / _HZ / age * 100 if age > 0 else 0:.1f}"


def _started(p: _Process, h: _Host) -> str:
    start = h.boot_s + p.start_ticks / _HZ
    return time.strftime("%H:%M" if h.now_s - start < 86400 else "%b%d", time.gmtime(start))


_Column = tuple[str, Callable[[_Process, _Host], str]]
_COLUMNS: dict[str, _Column] = {
    "pid": ("PID", lambda p, _: str(p.pid)),
    "ppid": ("PPID", lambda p, _: str(p.ppid)),
    "pgid": ("PGID", lambda p, _: str(p.pgrp)),
    "sid": ("SID", lambda p, _: str(p.session)),
    "user": ("USER", lambda p, _: _user(p.uid)),
    "uid": ("UID", lambda p, _: str(p.uid)),
    "group": ("GROUP", lambda p, _: _user(p.gid)),
    "gid": ("GID", lambda p, _: str(p.gid)),
    "comm": ("COMMAND", lambda p, _: p.comm),
    "args": ("COMMAND", lambda p, _: p.args),
    "stat": ("STAT", lambda p, _: p.state + ("s" if p.session == p.pid else "") + ("l" if p.threads > 1 else "")),
    "tty": ("TT", lambda p, _: _tty(p.tty)),
    "time": ("TIME", lambda p, _: _duration(p.cpu_ticks // _HZ)),
    "etime": ("ELAPSED", lambda p, h: _elapsed(int(_age_s(p, h)))),
    "etimes": ("ELAPSED", lambda p, h: str(int(_age_s(p, h)))),
    "stime": ("STIME", _started),
    "%cpu": ("%CPU", _cpu),
    "%mem": ("%MEM", lambda p, h: f"{p.rss_kib / h.memory_kib * 100 if h.memory_kib else 0:.1f}"),
    "vsz": ("VSZ", lambda p, _: str(p.vsz_kib)),
    "rss": ("RSS", lambda p, _: str(p.rss_kib)),
    "ni": ("NI", lambda p, _: str(p.nice)),
    "pri": ("PRI", lambda p, _: str(19 - p.priority + 20)),
    "nlwp": ("NLWP", lambda p, _: str(p.threads)),
    "c": ("C", lambda p, h: str(int(float(_cpu(p, h))))),
}  # fmt: skip
_ALIASES = {
    "cmd": "args", "command": "args", "ucmd": "comm", "ucomm": "comm", "pcpu": "%cpu", "pmem": "%mem", "tt": "tty",
    "tname": "tty", "euser": "user", "uname": "user", "ruser": "user", "euid": "uid", "ruid": "uid", "egid": "gid",
    "rgid": "gid", "egroup": "group", "rgroup": "group", "nice": "ni", "vsize": "vsz", "rssize": "rss", "rsz": "rss",
    "cputime": "time", "start": "stime", "start_time": "stime", "bsdstart": "stime", "state": "stat", "s": "stat",
    "thcount": "nlwp", "pgrp": "pgid", "sess": "sid", "session": "sid",
}  # fmt: skip
_FULL = (("UID", "user"), ("PID", "pid"), ("PPID", "ppid"), ("C", "c"), ("STIME", "stime"), ("TTY", "tty"), ("TIME", "time"), ("CMD", "args"))  # fmt: skip
_BSD = (("USER", "user"), ("PID", "pid"), ("%CPU", "%cpu"), ("%MEM", "%mem"), ("VSZ", "vsz"), ("RSS", "rss"), ("TTY", "tty"), ("STAT", "stat"), ("START", "stime"), ("TIME", "time"), ("COMMAND", "args"))  # fmt: skip
_SHORT = (("PID", "pid"), ("TTY", "tty"), ("TIME", "time"), ("CMD", "comm"))


def _format(text: str) -> list[tuple[str, str]]:
    """(title, column) of what `ps TEXT` prints. Raises InvalidArgument."""
    words = text.replace("=", "= ").split() if "o" not in text else text.split()
    chosen: list[tuple[str, str]] = []
    layout: Sequence[tuple[str, str]] = _SHORT
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        plain = word.lstrip("-")
        if plain in {"o", "eo", "axo", "ao", "format"} or word.startswith(("-o", "o", "--format=")):
            listed = plain.removeprefix("format=")
            listed = "" if listed in {"o", "eo", "axo", "ao", "format"} else listed.removeprefix("o")
            if not listed:
                if at == len(words):
                    raise InvalidArgument(f"ps {text!r}: the columns are missing after {word!r}")
                listed, at = words[at], at + 1
            chosen += [_column(text, name) for name in listed.split(",") if name]
        elif set(plain) <= set("efFlAax") and not word.startswith("--") and word.startswith("-"):
            layout = _FULL if set(plain) & set("fFl") else layout
        elif set(plain) <= set("auxwwfe") and not word.startswith("-"):
            layout = _BSD if "u" in plain else _FULL if "f" in plain else layout
        else:
            raise InvalidArgument(f"ps {text!r}: {word!r} is not known", hint="-ef, aux, or -o pid,user,args")
    return chosen or list(layout)


def _column(text: str, name: str) -> tuple[str, str]:
    name, eq, title = name.partition("=")
    key = _ALIASES.get(name.lower(), name.lower())
    if key not in _COLUMNS:
        raise InvalidArgument(f"ps {text!r}: there is no column {name!r}", hint=f"columns: {', '.join(_COLUMNS)}")
    return (title if eq else _COLUMNS[key][0] if name.lower() != "cmd" else "CMD"), key


def _boot_s() -> float:
    with open("/proc/stat", "rb") as f:
        return next((float(line.split()[1]) for line in f if line.startswith(b"btime")), 0.0)


def top(pids: Sequence[int], args: str, extents: Extents = ()) -> dict[str, Any]:
    """Docker's `{"Titles", "Processes"}`. `extents` turn host ids into the container's. Raises InvalidArgument."""
    if sys.platform == "win32":
        raise Unsupported("list processes: not on Windows yet")
    layout = _format(args or "-ef")
    if not any(key == "pid" for _, key in layout):
        raise InvalidArgument(f"ps {args!r}: couldn't find PID field in ps output", hint="add the column pid")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    host = _Host(time.time(), _boot_s(), memory)
    rows = []
    for pid in sorted(pids):
        process = _look(pid, extents)
        if process is not None:
            rows.append([_COLUMNS[key][1](process, host) for _, key in layout])
    return {"Titles": [title for title, _ in layout], "Processes": rows}
