# SPDX-License-Identifier: Apache-2.0
"""create run start exec kill delete pause resume update."""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import select
import signal as signals
import socket

import msgspec

from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound, Unsupported
from wharfie.fsutil import atomic
from wharfie.fsutil.sockets import short_name
from wharfie.linux import process
from wharfie.runtime import Started, Stdio
from wharfie.runtime.cli.flags import Flags, size_bytes
from wharfie.runtime.cli.main import write_log
from wharfie.runtime.cli.store import Record, Store, now, start_time
from wharfie.runtime.linux.engine import LinuxEngine, cgroup_path
from wharfie.spec.runtime import (
    CPU,
    BlockIO,
    Capabilities,
    Memory,
    Pids,
    Process,
    Resources,
    Spec,
    decode_process,
    decode_spec,
)
from wharfie.spec.scope import is_scope


def _one_id(args: list[str], command: str) -> str:
    if len(args) != 1:
        raise InvalidArgument(f"read arguments: `{command}` takes one container id")
    return args[0]


def _warn(flags: Flags, engine: LinuxEngine) -> None:
    for text in engine.warnings:
        sys.stderr.write(f"wharfie-oci: warning: {text}\n")
        if flags.text("log"):
            write_log(flags, "warning", text)


def open_engine(store: Store, container_id: str) -> tuple[LinuxEngine, Record, str]:
    """(engine, record, status) of an existing container. Raises NotFound."""
    record, spec = store.load(container_id)
    engine = LinuxEngine(no_new_keyring=record.no_new_keyring)
    alive = False
    try:
        begun, letter = start_time(record.pid)
        alive = begun == record.start_time and letter not in {"Z", "X"}
    except ProcessLookupError:
        pass  # it has ended
    engine.adopt(container_id, record.bundle, spec, record.pid if alive else 0)
    if not alive:
        status = "stopped"
    elif os.path.exists(store.gate(container_id)):
        status = "created"
    else:
        status = "paused" if engine.paused() else "running"
    return engine, record, status


def _create(flags: Flags, own: Flags, container_id: str, *, foreground: bool) -> tuple[LinuxEngine, Started]:
    if flags.on("systemd-cgroup"):
        from wharfie.runtime.linux.cgroups.systemd import check_host

        check_host()
    store = Store(flags.text("root"))
    bundle = os.path.abspath(own.text("bundle") or ".")
    try:
        with open(os.path.join(bundle, "config.json"), "rb") as f:
            spec = decode_spec(f.read())
    except FileNotFoundError as e:
        raise NotFound(f"read bundle `{bundle}`: it has no config.json", hint="wharfie-oci spec writes one") from e
    _choose_driver(spec, container_id, systemd=flags.on("systemd-cgroup"))
    terminal = spec.process is not None and spec.process.terminal
    if own.text("console-socket") and not terminal:
        raise InvalidArgument("use --console-socket: the process has no terminal")
    if terminal and not foreground and not own.text("console-socket"):
        raise InvalidArgument(f"create container `{container_id}`: its terminal needs --console-socket")
    if own.text("pidfd-socket"):
        raise Unsupported("use --pidfd-socket: not supported yet")
    preserve = (own.number("preserve-fds") or 0) + int(os.environ.get("LISTEN_FDS", "0") or 0)
    store.reserve(container_id)
    try:
        engine = LinuxEngine(
            no_pivot=own.on("no-pivot"),
            no_new_keyring=own.on("no-new-keyring"),
            preserve_fds=preserve,
            gate_path=store.gate(container_id),
        )
        stdio = Stdio() if terminal else Stdio(0, 1, 2)
        started = engine.create(container_id, bundle, spec, [], stdio)
        try:
            begun, _ = start_time(started.pid)
            root = spec.root.path if spec.root is not None else ""
            record = Record(
                id=container_id,
                pid=started.pid,
                start_time=begun,
                bundle=bundle,
                created=now(),
                cgroup_path=cgroup_path(spec, container_id),
                rootfs=os.path.join(bundle, root),
                no_new_keyring=own.on("no-new-keyring"),
            )
            store.save(record, spec)
            if own.text("pid-file"):
                atomic.write(own.text("pid-file"), str(started.pid).encode(), 0o644)
            if started.console is not None and own.text("console-socket"):
                send_console(own.text("console-socket"), started.console)
        except BaseException:
            engine.delete(force=True)
            raise
    except BaseException:
        store.remove(container_id)
        raise
    _warn(flags, engine)
    return engine, started


def _choose_driver(spec: Spec, container_id: str, *, systemd: bool) -> None:
    """The form of cgroupsPath is the driver from here on: later commands read it in the stored spec."""
    path = spec.linux.cgroups_path if spec.linux is not None else ""
    if systemd and spec.linux is not None:
        spec.linux.cgroups_path = cgroup_path(spec, container_id, systemd=True)
    elif is_scope(path):
        raise InvalidArgument(f"read cgroupsPath `{path}`: it is for the systemd driver", hint="use --systemd-cgroup")


def send_console(path: str, master: int) -> None:
    """The pty's other end goes to whoever waits at the console socket (runc's docs/terminals.md)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        try:
            with short_name(path) as name:
                s.connect(name)
        except OSError as e:
            raise FailedPrecondition(f"connect to console socket `{path}`: {e.strerror or e}") from e
        socket.send_fds(s, [b"/dev/ptmx"], [master])


def create(flags: Flags, own: Flags, args: list[str]) -> int:
    _create(flags, own, _one_id(args, "create"), foreground=False)
    return 0


def start(flags: Flags, own: Flags, args: list[str]) -> int:
    container_id = _one_id(args, "start")
    store = Store(flags.text("root"))
    engine, _, status = open_engine(store, container_id)
    if status != "created":
        raise FailedPrecondition(f"start container `{container_id}`: it is {status}, not created")
    _open_gate(store, container_id, engine)
    _warn(flags, engine)
    return 0


def _open_gate(store: Store, container_id: str, engine: LinuxEngine) -> None:
    gate = store.gate(container_id)
    engine.connect(gate)
    os.unlink(gate)
    engine.start()


def run(flags: Flags, own: Flags, args: list[str]) -> int:
    container_id = _one_id(args, "run")
    if not own.on("no-subreaper"):
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    engine, started = _create(flags, own, container_id, foreground=not own.on("detach"))
    store = Store(flags.text("root"))
    try:
        _open_gate(store, container_id, engine)
    except BaseException:
        engine.delete(force=True)
        store.remove(container_id)
        raise
    _warn(flags, engine)
    if own.on("detach"):
        return 0
    code = _foreground(started, own)
    engine.delete(force=True)
    if not own.on("keep"):
        store.remove(container_id)
    return code


def _foreground(started: Started, own: Flags) -> int:
    """Wait for a process, passing signals on and copying its terminal where there is one."""
    from wharfie.runtime.cli import tty

    def forward(number: int, _frame: object) -> None:
        try:
            process.pidfd_send_signal(started.pidfd, number)
        except ProcessLookupError:
            pass  # it has just ended

    for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGQUIT, signals.SIGUSR1, signals.SIGUSR2):
        signals.signal(number, forward)
    if started.console is not None and not own.text("console-socket"):
        tty.copy(started.console, started.pidfd)
    poll = select.poll()
    poll.register(started.pidfd, select.POLLIN)
    poll.poll()
    _, status = os.waitpid(started.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def exec_(flags: Flags, own: Flags, args: list[str]) -> int:
    if not args:
        raise InvalidArgument("read arguments: `exec` takes a container id and a command")
    container_id, *command = args
    engine, _, status = open_engine(Store(flags.text("root")), container_id)
    if status == "paused" and own.on("ignore-paused"):
        raise Unsupported("use --ignore-paused: not supported", hint="resume the container first")
    if status not in {"running", "created", "paused"}:
        raise FailedPrecondition(f"exec in container `{container_id}`: it is {status}")
    if own.items("cgroup"):
        raise Unsupported("use --cgroup: not supported")
    document = _exec_process(engine, own, command)
    terminal = document.terminal
    if own.text("console-socket") and not terminal:
        raise InvalidArgument("use --console-socket: the process has no terminal")
    engine.preserve_fds = own.number("preserve-fds") or 0
    started = engine.exec("", document, Stdio() if terminal else Stdio(0, 1, 2))
    _warn(flags, engine)
    if own.text("pid-file"):
        atomic.write(own.text("pid-file"), str(started.pid).encode(), 0o644)
    if started.console is not None and own.text("console-socket"):
        send_console(own.text("console-socket"), started.console)
    if own.on("detach"):
        return 0
    return _foreground(started, own)


def _exec_process(engine: LinuxEngine, own: Flags, command: list[str]) -> Process:
    if own.text("process"):
        try:
            with open(own.text("process"), "rb") as f:
                document = decode_process(f.read())
        except FileNotFoundError as e:
            raise NotFound(f"read process document `{own.text('process')}`: {e.strerror}") from e
        return document
    if not command:
        raise InvalidArgument("read arguments: `exec` needs a command, or --process")
    assert engine.plan is not None
    base = engine.plan.spec.process
    assert base is not None
    document = msgspec.structs.replace(
        base,
        args=command,
        terminal=own.on("tty"),
        cwd=own.text("cwd") or base.cwd,
        env=[*base.env, *own.items("env")],
        no_new_privileges=base.no_new_privileges or own.on("no-new-privs"),
        apparmor_profile=own.text("apparmor") or base.apparmor_profile,
        selinux_label=own.text("process-label") or base.selinux_label,
    )
    if own.text("user"):
        uid, _, gid = own.text("user").partition(":")
        try:
            user = msgspec.structs.replace(base.user, uid=int(uid), gid=int(gid) if gid else base.user.gid)
        except ValueError:
            raise InvalidArgument(f"use --user `{own.text('user')}`: UID[:GID] as numbers") from None
        document.user = user
    if own.items("additional-gids"):
        document.user = msgspec.structs.replace(
            document.user, additional_gids=[*base.user.additional_gids, *(int(g) for g in own.items("additional-gids"))]
        )
    if own.items("cap"):
        old = base.capabilities or Capabilities()
        more = own.items("cap")
        document.capabilities = Capabilities(
            bounding=[*old.bounding, *more],
            effective=[*old.effective, *more],
            permitted=[*old.permitted, *more],
            inheritable=old.inheritable,
            ambient=old.ambient,
        )
    return document


def parse_signal(text: str) -> int:
    """`9`, `KILL`, `SIGKILL`, `SIGRTMIN+3`. Raises InvalidArgument."""
    if text.isdigit() and 0 < int(text) < signals.NSIG:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    base, plus, offset = name.partition("+")
    member = getattr(signals, base, None)
    if isinstance(member, signals.Signals) and (not plus or offset.isdigit()):
        return int(member) + (int(offset) if plus else 0)
    raise InvalidArgument(f"read signal `{text}`: unknown")


def kill(flags: Flags, own: Flags, args: list[str]) -> int:
    if not 1 <= len(args) <= 2:
        raise InvalidArgument("read arguments: `kill` takes a container id and a signal")
    number = parse_signal(args[1]) if len(args) == 2 else signals.SIGTERM
    engine, _, status = open_engine(Store(flags.text("root")), args[0])
    if own.on("all"):
        engine.kill(number, all_processes=True)
        return 0
    if status == "stopped":
        # the words that callers look for
        raise FailedPrecondition(f"kill container `{args[0]}`: container not running")
    engine.kill(number)
    return 0


def delete(flags: Flags, own: Flags, args: list[str]) -> int:
    container_id = _one_id(args, "delete")
    store = Store(flags.text("root"))
    force = own.on("force")
    try:
        engine, _, status = open_engine(store, container_id)
    except NotFound:
        directory = store.directory(container_id)
        if force:
            if os.path.isdir(directory):
                store.remove(container_id)
            return 0
        raise
    if status not in {"stopped", "created"} and not force:
        raise FailedPrecondition(f"delete container `{container_id}`: it is {status}", hint="kill it first, or --force")
    if status == "created" and not force:
        engine.kill(signals.SIGKILL)
        _wait_end(engine)
    engine.delete(force=True)
    store.remove(container_id)
    _warn(flags, engine)
    return 0


def _wait_end(engine: LinuxEngine) -> None:
    if not engine.wait_end(10):
        raise FailedPrecondition("delete container: its first process does not end")


def pause(flags: Flags, own: Flags, args: list[str]) -> int:
    engine, _, status = open_engine(Store(flags.text("root")), _one_id(args, "pause"))
    if status not in {"running", "created"}:
        raise FailedPrecondition(f"pause container `{args[0]}`: it is {status}")
    engine.pause()
    return 0


def resume(flags: Flags, own: Flags, args: list[str]) -> int:
    engine, _, status = open_engine(Store(flags.text("root")), _one_id(args, "resume"))
    if status != "paused":
        raise FailedPrecondition(f"resume container `{args[0]}`: it is {status}")
    engine.resume()
    return 0


def update(flags: Flags, own: Flags, args: list[str]) -> int:
    engine, _, status = open_engine(Store(flags.text("root")), _one_id(args, "update"))
    if status == "stopped":
        raise FailedPrecondition(f"update container `{args[0]}`: it is stopped")
    if own.text("resources"):
        path = own.text("resources")
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as f:
                data = f.read()
        try:
            resources = msgspec.json.decode(data, type=Resources)
        except msgspec.MsgspecError as e:
            raise InvalidArgument(f"read resources `{path}`: {e}") from e
    else:
        resources = _resources_of(own)
    engine.update(resources)
    _warn(flags, engine)
    return 0


def _resources_of(own: Flags) -> Resources:
    def size(name: str) -> int | None:
        return size_bytes(own.text(name)) if own.text(name) else None

    memory = Memory(
        limit=size("memory"),
        reservation=size("memory-reservation"),
        swap=size("memory-swap"),
        kernel=size("kernel-memory"),
        kernel_tcp=size("kernel-memory-tcp"),
    )
    cpu = CPU(
        shares=own.number("cpu-share"),
        quota=own.number("cpu-quota"),
        burst=own.number("cpu-burst"),
        period=own.number("cpu-period"),
        realtime_runtime=own.number("cpu-rt-runtime"),
        realtime_period=own.number("cpu-rt-period"),
        cpus=own.text("cpuset-cpus"),
        mems=own.text("cpuset-mems"),
        idle=own.number("cpu-idle"),
    )
    weight = own.number("blkio-weight")
    return Resources(
        memory=memory,
        cpu=cpu,
        pids=Pids(own.number("pids-limit")) if own.number("pids-limit") is not None else None,
        block_io=BlockIO(weight=weight) if weight else None,
    )
