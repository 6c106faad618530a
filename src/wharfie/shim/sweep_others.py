# SPDX-License-Identifier: Apache-2.0
"""Cleaning up behind programs of others: each keeps state of its own, which only it knows how to remove."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie import log
from wharfie.linux.mountapi import MNT_DETACH, umount2
from wharfie.shim.serve import start_time

_END_S = 5.0


def sweep_external(run: str, container_id: str) -> None:
    """A container of runc, crun … below our shim: `delete --force`, then what `runtime.external` had mounted for it."""
    try:
        with open(f"{run}/runtime", "rb") as f:
            about = json.loads(f.read())
    except FileNotFoundError:
        return
    top = f"{about['root']}/{os.path.basename(about['program'])}"
    if os.path.isdir(f"{top}/state/{container_id}"):
        _run([about["program"], "--root", f"{top}/state", "delete", "--force", container_id], "/")
    unmount_below(f"{top}/work/{container_id}")
    shutil.rmtree(f"{top}/work/{container_id}", ignore_errors=True)


def sweep_foreign(run: str, namespace: str, container_id: str, state: str) -> None:
    """A container under containerd's own shim: that program's `delete` command, as containerd calls it."""
    try:
        with open(f"{run}/address", "rb") as f:
            program = json.loads(f.read())["program"]
    except FileNotFoundError:
        return
    words = ["-namespace", namespace, "-id", container_id, "-address", f"{state}/containerd.sock"]
    _run(
        [program, *words, "-publish-binary", "/bin/true", "-bundle", f"{run}/{container_id}", "delete"],
        f"{run}/{container_id}",
    )
    unmount_below(f"{run}/{container_id}")


def end_stdio(run: str) -> None:
    """The `stdio` process of a foreign task: asked to end, it first writes down what is in its fifos."""
    try:
        with open(f"{run}/shim.json", "rb") as f:
            about = json.loads(f.read())
        pidfd = os.pidfd_open(about["pid"])
    except (FileNotFoundError, ProcessLookupError):
        return
    try:
        if about["kind"] == "stdio" and start_time(about["pid"]) == about["start_time"]:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            select.select([pidfd], [], [], _END_S)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended meanwhile
    finally:
        os.close(pidfd)


def unmount_below(*paths: str) -> None:
    with open("/proc/self/mountinfo") as f:
        mounted = [line.split()[4].encode().decode("unicode_escape") for line in f]
    for mount in reversed(mounted):
        if any(mount == p or mount.startswith(p + "/") for p in paths):
            umount2(mount, MNT_DETACH)


def _run(words: list[str], directory: str) -> None:
    """Best effort: what it says goes to our stderr, a failure too."""
    program = shutil.which(words[0])
    if program is None:
        log.line("warning", "sweep: the program is gone, its state stays", runtime=words[0])
        return
    os.chdir(directory)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(program, words, dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    finally:
        os.close(null)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        log.line("warning", f"sweep: exit code {code}", runtime=words[0])
