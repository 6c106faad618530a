# SPDX-License-Identifier: Apache-2.0
"""Names of forked processes, as `ps` shows them: written over the arguments that the zygote was started with."""

from __future__ import annotations

import ctypes
import functools
import sys

from wharfie.linux.libc import syscall

if sys.platform == "win32":
    raise ImportError("the zygote is a Linux process")

PR_SET_NAME = 15


@functools.cache
def _arguments() -> tuple[int, int]:
    """Where the arguments lie in memory: the same in every fork of the process that asked first."""
    with open("/proc/self/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49 of proc(5)


def set_title(text: str) -> None:
    """Show `text` in /proc/self/cmdline as far as it fits, and its first word as the thread's name."""
    raw = text.encode(errors="replace")
    syscall("prctl", PR_SET_NAME, raw.split(b" ", 1)[0][:15] + b"\0", 0, 0, 0)
    start, end = _arguments()
    if 0 < start < end:
        room = end - start
        # The kernel shows bytes up to arg_end when the last is NUL; a space there would make it read the environment.
        ctypes.memmove(start, raw[: room - 1].ljust(room, b"\0"), room)
