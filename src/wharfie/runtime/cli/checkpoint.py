# SPDX-License-Identifier: Apache-2.0
"""checkpoint restore."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os

from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound, Unsupported
from wharfie.fsutil import atomic
from wharfie.linux import process
from wharfie.runtime import Started, Stdio
from wharfie.runtime.cli.flags import Flags
from wharfie.runtime.cli.lifecycle import _foreground, _one_id, _warn, open_engine, send_console
from wharfie.runtime.cli.store import Record, Store, now, start_time
from wharfie.runtime.linux import checkpoint as checkpoints
from wharfie.runtime.linux.engine import LinuxEngine, cgroup_path
from wharfie.spec.pb.criu import CGROUP_MODES
from wharfie.spec.runtime import decode_spec

_REFUSED = ("parent-path", "pre-dump", "lazy-pages", "page-server", "status-fd", "auto-dedup", "lsm-profile")
_REFUSED += ("lsm-mount-context",)  # type: ignore[assignment]


def _request(flags: Flags, own: Flags) -> checkpoints.Request:
    for name in _REFUSED:
        if own.text(name) or own.on(name):
            raise Unsupported(f"use --{name}: checkpoints are whole and on disk")
    mode = own.text("manage-cgroups-mode", "soft")
    if mode not in CGROUP_MODES:
        raise InvalidArgument(f"use --manage-cgroups-mode `{mode}`: soft, full, strict or ignore")
    empty = own.items("empty-ns")
    if set(empty) - {"network"}:
        raise Unsupported(f"use --empty-ns {','.join(empty)}: only `network` can be left out")
    return checkpoints.Request(
        image_path=os.path.abspath(own.text("image-path") or "checkpoint"),
        work_path=os.path.abspath(own.text("work-path")) if own.text("work-path") else "",
        program=flags.text("criu"),
        leave_running=own.on("leave-running"),
        tcp_established=own.on("tcp-established"),
        tcp_skip_in_flight=own.on("tcp-skip-in-flight"),
        ext_unix_sk=own.on("ext-unix-sk"),
        shell_job=own.on("shell-job"),
        file_locks=own.on("file-locks"),
        link_remap=own.on("link-remap"),
        empty_network=bool(empty),
        cgroup_mode=mode,
    )


def checkpoint(flags: Flags, own: Flags, args: list[str]) -> int:
    container_id = _one_id(args, "checkpoint")
    request = _request(flags, own)
    store = Store(flags.text("root"))
    engine, _, status = open_engine(store, container_id)
    if status not in {"running", "paused"}:
        raise FailedPrecondition(f"checkpoint container `{container_id}`: it is {status}, not running")
    checkpoints.dump(engine, request)
    if not request.leave_running:
        engine.delete(force=True)
        store.remove(container_id)
    _warn(flags, engine)
    return 0


def restore(flags: Flags, own: Flags, args: list[str]) -> int:
    from wharfie.runtime.linux.restore import RestoredEngine

    container_id = _one_id(args, "restore")
    request = _request(flags, own)
    if flags.on("systemd-cgroup"):
        raise Unsupported("use --systemd-cgroup: restoring into a scope of systemd is not supported yet")
    store = Store(flags.text("root"))
    bundle = os.path.abspath(own.text("bundle") or ".")
    try:
        with open(os.path.join(bundle, "config.json"), "rb") as f:
            spec = decode_spec(f.read())
    except FileNotFoundError as e:
        raise NotFound(f"read bundle `{bundle}`: it has no config.json") from e
    terminal = spec.process is not None and spec.process.terminal
    if own.text("console-socket") and not terminal:
        raise InvalidArgument("use --console-socket: the process has no terminal")
    if terminal and own.on("detach") and not own.text("console-socket"):
        raise InvalidArgument(f"restore container `{container_id}`: its terminal needs --console-socket")
    if own.text("pidfd-socket"):
        raise Unsupported("use --pidfd-socket: not supported yet")
    if own.on("no-pivot"):
        raise Unsupported("use --no-pivot: criu changes the root its own way")
    if not own.on("no-subreaper"):
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    store.reserve(container_id)
    engine = RestoredEngine(request, no_new_keyring=own.on("no-new-keyring"))
    try:
        stdio = Stdio() if terminal else Stdio(0, 1, 2)
        started = engine.create(container_id, bundle, spec, [], stdio)
        try:
            _record(store, own, engine, started)
            engine.start()
        except BaseException:
            engine.delete(force=True)
            raise
    except BaseException:
        store.remove(container_id)
        raise
    _warn(flags, engine)
    if own.on("detach"):
        return 0
    code = _foreground(started, own)
    engine.delete(force=True)
    store.remove(container_id)
    return code


def _record(store: Store, own: Flags, engine: LinuxEngine, started: Started) -> None:
    assert engine.plan is not None
    container_id, bundle, spec = engine.plan.container_id, engine.plan.bundle, engine.plan.spec
    begun, _ = start_time(started.pid)
    record = Record(
        id=container_id,
        pid=started.pid,
        start_time=begun,
        bundle=bundle,
        created=now(),
        cgroup_path=cgroup_path(spec, container_id),
        no_new_keyring=own.on("no-new-keyring"),
        rootfs=os.path.join(bundle, spec.root.path if spec.root is not None else ""),
    )
    store.save(record, spec)
    if own.text("pid-file"):
        atomic.write(own.text("pid-file"), str(started.pid).encode(), 0o644)
    if started.console is not None and own.text("console-socket"):
        send_console(own.text("console-socket"), started.console)
