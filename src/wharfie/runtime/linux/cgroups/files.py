# SPDX-License-Identifier: Apache-2.0
"""Reading and writing the one-line files of a cgroup directory."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import errno
import os
import time
from collections.abc import Sequence

from wharfie.errdefs import FailedPrecondition


def write(directory: str, name: str, value: str) -> None:
    """Write a control file. The error names file and value."""
    path = f"{directory}/{name}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as e:
        raise OSError(e.errno, f"write `{value}`: {e.strerror}", path) from None
    finally:
        os.close(fd)


def read(directory: str, name: str) -> str:
    fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(fd)


def read_int(directory: str, name: str, default: int = 0) -> int:
    """A number; `max` is -1; `default` where the file is missing (the controller is off)."""
    try:
        text = read(directory, name).strip()
    except (FileNotFoundError, OSError):
        return default
    if text == "max":
        return -1
    try:
        return int(text)
    except ValueError:
        return default


def read_map(directory: str, name: str) -> dict[str, int]:
    """`key value` lines."""
    try:
        text = read(directory, name)
    except OSError:
        return {}
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.lstrip("-").isdigit():
            found[key] = int(value)
    return found


def pids_below(directory: str) -> list[int]:
    """Processes of a cgroup and of the cgroups made inside it."""
    found: list[int] = []
    for top, _, _ in os.walk(directory):
        try:
            found += [int(p) for p in read(top, "cgroup.procs").split()]
        except FileNotFoundError:
            continue
        except OSError as e:
            if e.errno not in (errno.EOPNOTSUPP, errno.ENODEV):
                raise
    return found


def write_lines(directory: str, name: str, lines: Sequence[str]) -> None:
    """Write a control file that takes one entry at a time. The error names file and entry."""
    path = f"{directory}/{name}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for line in lines:
            try:
                os.write(fd, line.encode())
            except OSError as e:
                raise OSError(e.errno, f"write `{line}`: {e.strerror}", path) from None
    finally:
        os.close(fd)


def make(directory: str) -> None:
    """Make a cgroup, and those above it where they are missing."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        os.makedirs(directory, 0o755, exist_ok=True)


def remove_empty(directory: str) -> bool:
    """Remove a cgroup that has nothing in it any more, at the price of one call; whether it is gone."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise OSError(e.errno, f"remove cgroup: {e.strerror}", directory) from None
        return False
    return True


def remove(directory: str, deadline_s: float = 2.0) -> None:
    """Remove a cgroup with those made inside it. The kernel needs a moment to let go of the last process."""
    end = time.monotonic() + deadline_s
    wait_s = 0.0005
    while True:
        busy = False
        for top, _, _ in os.walk(directory, topdown=False):
            try:
                os.rmdir(top)
            except FileNotFoundError:
                continue
            except OSError as e:
                if e.errno != errno.EBUSY:
                    raise OSError(e.errno, f"remove cgroup: {e.strerror}", top) from None
                busy = True
        if not busy:
            return
        if time.monotonic() > end:
            raise FailedPrecondition(f"remove cgroup `{directory}`: it still has processes {pids_below(directory)[:5]}")
        time.sleep(wait_s)
        wait_s = min(wait_s * 2, 0.02)
