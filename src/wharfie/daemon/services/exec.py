# SPDX-License-Identifier: Apache-2.0
"""Exec sessions: more processes in a running container. They live in memory only, as Docker's do, and end with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from wharfie.daemon.services import bundle, rootfs_user, specgen
from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services.containers_run import exit_code_of
from wharfie.daemon.services.ids import new_id
from wharfie.errdefs import Conflict, NotFound, PermissionDenied, WharfieError
from wharfie.spec.runtime import decode_spec, encode_spec

if TYPE_CHECKING:
    from wharfie.daemon.services.container import Container
    from wharfie.daemon.state import Engine
    from wharfie.spec.docker import ExecConfig
    from wharfie.tasks import AttachRequest

KEEP_ENDED = 64
"""Ended sessions of one container that can still be inspected."""
MAX_UNSTARTED = 1024
"""Sessions of one container that nobody has started: the oldest goes for a new one (CVE-2022-23471)."""


class ExecSession:
    """`status`: created, running, ended. `exit_code` is None until it ended."""

    def __init__(self, container: Container, config: ExecConfig) -> None:
        self.id = new_id()
        self.container = container
        self.config = config
        self.status = "created"
        self.pid = 0
        self.exit_code: int | None = None
        self.launched = asyncio.Event()
        """The start has come to its end, well or not."""
        self.ended = asyncio.Event()

    def finish(self, code: int) -> None:
        self.status, self.exit_code, self.pid = "ended", code, 0
        self.ended.set()

    def container_ended(self, code: int) -> None:
        """The container is gone, and this process with it."""
        if self.status == "running":
            self.finish(code or 137)


class Execs:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions: dict[str, ExecSession] = {}

    def find(self, ns: str, text: str) -> ExecSession:
        """By id or a prefix of it. Raises NotFound."""
        found = self._sessions.get(text)
        if found is None and len(text) >= 4:
            matches = [s for id_, s in self._sessions.items() if id_.startswith(text)]
            found = matches[0] if len(matches) == 1 else None
        if found is None or found.container.ns != ns:
            raise NotFound(f"no such exec instance: {text}")
        return found

    def create(self, container: Container, config: ExecConfig) -> ExecSession:
        """Raises Conflict (not running, paused), InvalidArgument."""
        specgen.validate_exec(config)
        self._check_running(container)
        session = ExecSession(container, config)
        self._trim(container)
        container.execs[session.id] = session
        self._sessions[session.id] = session
        words = " ".join(config.cmd or ())
        self._engine.containers.publish(
            container, "/tasks/exec-added", {"exec_id": session.id}, execID=session.id, command=words
        )
        return session

    def _check_running(self, container: Container) -> None:
        if container.state.status == records.PAUSED:
            raise Conflict(f"container {container.name} is paused, unpause the container before exec")
        if not container.state.alive or container.task is None:
            raise Conflict(f"container {container.id} is not running", hint=f"start {container.name} first")

    def _trim(self, container: Container) -> None:
        ended = [s for s in container.execs.values() if s.status == "ended"]
        unstarted = [s for s in container.execs.values() if s.status == "created"]
        excess = ended[: max(0, len(ended) - KEEP_ENDED)] + unstarted[: max(0, len(unstarted) - MAX_UNSTARTED)]
        for session in excess:
            self.forget(session)

    def forget(self, session: ExecSession) -> None:
        session.container.execs.pop(session.id, None)
        self._sessions.pop(session.id, None)

    def forget_container(self, container: Container) -> None:
        for session in list(container.execs.values()):
            self.forget(session)

    async def start(self, session: ExecSession, attach: list[AttachRequest]) -> None:
        """Run it; `attach` are clients' sockets, still the caller's. Raises what stands in the way, with exit_code."""
        container = session.container
        if session.status != "created":
            raise Conflict(f"exec {session.id} has already been started", hint="make a new one")
        self._check_running(container)
        session.status = "running"
        try:
            await self._start(session, container, attach)
        except BaseException as e:
            if isinstance(e, WharfieError) and isinstance(e, (NotFound, PermissionDenied)):
                e.fields.setdefault("exit_code", 127 if isinstance(e, NotFound) else 126)
                e.fields.setdefault("http_status", 400)
            session.finish(exit_code_of(e))
            raise
        finally:
            session.launched.set()

    async def _start(self, session: ExecSession, container: Container, attach: list[AttachRequest]) -> None:
        engine, config, task = self._engine, session.config, container.task
        assert task is not None
        process = await engine.files(self._process, container, config)
        await task.exec_create(session.id, process, terminal=config.tty, stdin_open=config.attach_stdin, attach=attach)
        try:
            session.pid = await task.exec_start(session.id)
        except BaseException:
            with contextlib.suppress(WharfieError, OSError):
                await task.exec_delete(session.id)
            raise
        engine.containers.publish(
            container,
            "/tasks/exec-started",
            {"exec_id": session.id, "pid": session.pid},
            execID=session.id,
            command=" ".join(config.cmd or ()),
        )
        engine.spawn(self._wait(session, task), f"exec-{session.id[:12]}")

    def _process(self, container: Container, config: ExecConfig) -> bytes:
        """The process document. Blocking: reads config.json, and the container's passwd where a user is named."""
        spec = decode_spec(bundle.read_config(self._engine.config.bundle(container.ns, container.id)))
        document = container.document()
        user = document.user
        if config.user:
            user = rootfs_user.resolve_in(config.user, document.host_config.group_add or (), container.state.pid)
        return encode_spec(specgen.exec_process(config, document.config, spec, user, self._engine.host))

    async def settle(self, session: ExecSession) -> None:
        """Clients inspect right behind the end of the stream: ask the shim, whose word on the exit may be on its way."""
        task = session.container.task
        if session.status != "running" or task is None:
            return
        await session.launched.wait()
        with contextlib.suppress(WharfieError, OSError):
            seen = await task.state(session.id)
            if seen.status == "stopped" or seen.exit is not None:
                await session.ended.wait()

    async def _wait(self, session: ExecSession, task: Any) -> None:
        try:
            exit_ = await task.wait(session.id)
            code = exit_.exit_status
        except (WharfieError, OSError):
            code = 137
        if session.status == "ended":
            return
        session.finish(code)
        with contextlib.suppress(WharfieError, OSError):
            await task.exec_delete(session.id)
        self._engine.containers.publish(
            session.container,
            "/tasks/exit",
            {"id": session.id, "exec_id": session.id, "exit_status": code},
            timestamp_ns=time.time_ns(),
            execID=session.id,
            exitCode=str(code),
        )


def close_all(requests: list[AttachRequest]) -> None:
    """Close the sockets of attach requests."""
    for request in requests:
        with contextlib.suppress(OSError):
            os.close(request.sock_fd)
