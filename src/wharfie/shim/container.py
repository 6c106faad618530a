# SPDX-License-Identifier: Apache-2.0
"""What a shim supervises: one container, its engine, its processes. Both sockets of the shim are views of this."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie import log
from wharfie.errdefs import AlreadyExists, Conflict, FailedPrecondition, NotFound, Unsupported, WharfieError
from wharfie.fsutil import atomic
from wharfie.shim.engines import make_engine, make_restored
from wharfie.shim.loop import IN
from wharfie.shim.process import Process, StdioEnds
from wharfie.spec.pb import events
from wharfie.spec.pb.base import CREATED, PAUSED, RUNNING, STOPPED, Timestamp
from wharfie.spec.runtime import decode_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wharfie.mount import Mount
    from wharfie.runtime import Engine
    from wharfie.runtime.linux.checkpoint import Request
    from wharfie.shim.loop import Loop
    from wharfie.spec.pb.codec import Message


class Container:
    """`publish` takes events. `exit_file`: write `<bundle>/exit.json` when the first process ends."""

    def __init__(
        self, loop: Loop, namespace: str, container_id: str, publish: Callable[[Message], None], *, exit_file: bool
    ) -> None:
        self.loop, self.namespace, self.container_id = loop, namespace, container_id
        self.publish, self._exit_file = publish, exit_file
        self.exit_durable = True
        """Whether the exit record has to survive a power cut."""
        self.bundle = ""
        self.init: Process | None = None
        self.execs: dict[str, Process] = {}
        self._engine: Engine | None = None
        self._by_pid: dict[int, Process] = {}
        self._oom_fd: int | None = None
        self._oom_hint = False
        self.deleted = False

    # -- look-up

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise FailedPrecondition(f"use container {self.container_id!r}: it has not been created")
        return self._engine

    def process(self, exec_id: str) -> Process:
        found = self.execs.get(exec_id) if exec_id else self.init
        if found is None:
            what = f"exec {exec_id!r} of container" if exec_id else "task of container"
            raise NotFound(f"find {what} {self.container_id!r}: no such process")
        return found

    # -- life

    def create(
        self,
        process: Process,
        bundle: str,
        rootfs: Sequence[Mount],
        runtime: str,
        options: dict[str, str],
        *,
        checkpoint: Request | None = None,
    ) -> int:
        """Everything but the user's program is ready after this. Returns the pid.

        With a `checkpoint`, its processes are what `start` lets run.
        """
        if self.init is not None:
            raise AlreadyExists(f"create container {self.container_id!r}: it exists")
        with open(f"{bundle}/config.json", "rb") as f:
            spec = decode_spec(f.read())
        if spec.process is not None:
            process.terminal = spec.process.terminal
        engine = make_restored(runtime, options, checkpoint) if checkpoint else make_engine(runtime, options)
        ends = StdioEnds(terminal=process.terminal, stdin=process.stdin_open)
        try:
            started = engine.create(self.container_id, bundle, spec, rootfs, ends.stdio)
        except BaseException:
            ends.close()
            raise
        ends.connect(process.streams)
        process.started(started)
        self.bundle, self._engine, self.init = bundle, engine, process
        self._by_pid[process.pid] = process
        self._watch_oom()
        self.publish(
            events.TaskCreate(
                container_id=self.container_id,
                bundle=bundle,
                io=events.TaskIO(
                    stdin=process.uris.stdin,
                    stdout=process.uris.stdout,
                    stderr=process.uris.stderr,
                    terminal=process.terminal,
                ),
                pid=process.pid,
            )
        )
        return process.pid

    def start(self, exec_id: str) -> int:
        process = self.process(exec_id)
        if process.status != CREATED:
            raise FailedPrecondition(f"start process of container {self.container_id!r}: it has been started")
        if exec_id:
            self._start_exec(process)
            self.publish(events.TaskExecStarted(container_id=self.container_id, exec_id=exec_id, pid=process.pid))
        else:
            self.engine.start()
            if process.status == CREATED:
                process.status = RUNNING
            self.publish(events.TaskStart(container_id=self.container_id, pid=process.pid))
        return process.pid

    def add_exec(self, process: Process) -> None:
        if self.init is None or self.init.ended:
            raise FailedPrecondition(f"exec in container {self.container_id!r}: it is not running")
        if process.exec_id in self.execs or process.exec_id == self.container_id:
            raise AlreadyExists(f"exec in container {self.container_id!r}: exec {process.exec_id!r} exists")
        self.execs[process.exec_id] = process
        self.publish(events.TaskExecAdded(container_id=self.container_id, exec_id=process.exec_id))

    def _start_exec(self, process: Process) -> None:
        spec = process.spec
        if spec is None or self.init is None or self.init.ended:
            raise FailedPrecondition(f"start exec {process.exec_id!r}: container {self.container_id!r} is not running")
        ends = StdioEnds(terminal=process.terminal, stdin=process.stdin_open)
        try:
            started = self.engine.exec(process.exec_id, spec, ends.stdio)
        except BaseException:
            ends.close()
            process.streams.end()
            raise
        ends.connect(process.streams)
        process.started(started)
        process.status, process.spec = RUNNING, None
        self._by_pid[process.pid] = process

    # -- exits

    def reap(self) -> None:
        """Collect every child that has ended; execs are told before the first process."""
        found: list[tuple[Process, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            process = self._by_pid.pop(pid, None)
            if process is not None:
                code = os.waitstatus_to_exitcode(status)
                found.append((process, 128 - code if code < 0 else code))
        now = time.time_ns()
        for process, code in sorted(found, key=lambda item: item[0] is self.init):
            self._ended(process, code, now)

    def _ended(self, process: Process, code: int, now: int) -> None:
        process.exit_status, process.exited_ns, process.status = code, now, STOPPED
        process.streams.end()  # first: an exit that is known means a log that is whole
        if process is self.init:
            if not process.oom and self._saw_oom():
                process.oom = True
                self.publish(events.TaskOOM(container_id=self.container_id))
            if self._exit_file:
                self._write_exit_file(process)
        self.publish(
            events.TaskExit(
                container_id=self.container_id,
                id=process.exec_id or self.container_id,
                pid=process.pid,
                exit_status=code,
                exited_at=Timestamp.at(now),
            )
        )
        waiting, process.waiting = process.waiting, []
        for callback in waiting:
            callback()

    def _write_exit_file(self, process: Process) -> None:
        document = {
            "exit_status": process.exit_status,
            "exited_at_s": process.exited_ns / 1e9,
            "oom": process.oom,
            "pid": process.pid,
        }
        try:
            atomic.write(f"{self.bundle}/exit.json", json.dumps(document).encode(), 0o600, fsync=self.exit_durable)
        except OSError as e:  # the disk is full: whoever waits now still hears it from us
            log.line("error", f"write exit record: {e}", container_id=self.container_id)

    def _watch_oom(self) -> None:
        self._oom_fd = self.engine.oom_fd()
        if self._oom_fd is not None:
            self.loop.watch(self._oom_fd, IN | select.EPOLLPRI, lambda _: self._oom_event())

    def _oom_event(self) -> None:
        assert self._oom_fd is not None
        try:
            os.read(self._oom_fd, 4096)
        except OSError:
            self.loop.forget(self._oom_fd)
            return
        self._oom_hint = True  # the kernel says so before it counts the kill: look again at the exit
        init = self.init
        if init is not None and not init.oom and self._oom_kills():
            init.oom = True
            self.publish(events.TaskOOM(container_id=self.container_id))

    def _saw_oom(self) -> bool:
        if self._oom_fd is None:
            return False
        poll = select.poll()
        poll.register(self._oom_fd, select.POLLIN | select.POLLPRI)
        return (self._oom_hint or bool(poll.poll(0))) and self._oom_kills()

    def _oom_kills(self) -> bool:
        try:
            return self.engine.stats().oom_kills > 0
        except (OSError, WharfieError):
            return False

    # -- signals and limits

    def kill(self, signal_number: int, exec_id: str, *, all_processes: bool) -> None:
        process = self.process(exec_id)
        if process.ended:
            raise NotFound(f"kill process of container {self.container_id!r}: it has ended")
        if not exec_id:
            self.engine.kill(signal_number, all_processes=all_processes)
        elif process.pidfd >= 0:
            signal.pidfd_send_signal(process.pidfd, signal_number)
        else:
            raise FailedPrecondition(f"kill exec {exec_id!r} of container {self.container_id!r}: it is not running")

    def pause(self) -> None:
        init = self.process("")
        if init.status != RUNNING:
            raise Conflict(f"pause container {self.container_id!r}: it is not running")
        self.engine.pause()
        init.status = PAUSED
        self.publish(events.TaskPaused(container_id=self.container_id))

    def resume(self) -> None:
        init = self.process("")
        if init.status != PAUSED:
            raise Conflict(f"resume container {self.container_id!r}: it is not paused")
        self.engine.resume()
        init.status = RUNNING
        self.publish(events.TaskResumed(container_id=self.container_id))

    def checkpoint(self, request: Request) -> None:
        """Write a checkpoint; the processes end with it, unless it leaves them running."""
        init = self.process("")
        if init.status not in {RUNNING, PAUSED}:
            raise Conflict(f"checkpoint container {self.container_id!r}: it is not running")
        from wharfie.runtime.linux.checkpoint import dump
        from wharfie.runtime.linux.engine import LinuxEngine

        if not isinstance(self.engine, LinuxEngine):
            raise Unsupported(f"checkpoint container {self.container_id!r}: its runtime is a program of others")
        dump(self.engine, request, reap=self.reap)
        self.publish(events.TaskCheckpointed(container_id=self.container_id, checkpoint=request.image_path))

    # -- end

    def delete(self, exec_id: str) -> Process:
        process = self.process(exec_id)
        if exec_id:
            if process.pid and not process.ended:
                raise FailedPrecondition(f"delete exec {exec_id!r} of container {self.container_id!r}: it is running")
            del self.execs[exec_id]
            process.close()
            return process
        if not process.ended and process.status != CREATED:
            raise FailedPrecondition(
                f"delete container {self.container_id!r}: it is running", hint="stop or kill it first"
            )
        self._delete_init(process)
        return process

    def _delete_init(self, process: Process) -> None:
        if not process.ended:
            self._wait_dead(process)
        if self._oom_fd is not None:
            self.loop.forget(self._oom_fd)
            self._oom_fd = None
        self.engine.delete(force=True)
        for extra in self.execs.values():
            extra.close()
        self.execs.clear()
        process.close()
        self.deleted = True
        self.publish(
            events.TaskDelete(
                container_id=self.container_id,
                pid=process.pid,
                exit_status=process.exit_status,
                exited_at=Timestamp.at(process.exited_ns),
            )
        )

    def _wait_dead(self, process: Process) -> None:
        """A created container that was never started is killed first."""
        self.engine.kill(signal.SIGKILL, all_processes=True)
        select.select([process.pidfd], [], [], 10)
        self.reap()
