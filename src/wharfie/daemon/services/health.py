# SPDX-License-Identifier: Apache-2.0
"""Health checks: an exec every so often, as the image or the request says; its verdict shows in state and events."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from wharfie.daemon.services.containers_records import HealthResult
from wharfie.daemon.services.exec import ExecSession
from wharfie.errdefs import WharfieError
from wharfie.spec.docker import ExecConfig
from wharfie.tasks import AttachRequest

if TYPE_CHECKING:
    from wharfie.daemon.services.container import Container
    from wharfie.daemon.services.containers import Containers
    from wharfie.daemon.services.containers_records import Document

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
DEFAULT_NS = 30 * 10**9
DEFAULT_START_NS = 5 * 10**9
DEFAULT_RETRIES = 3
MAX_OUTPUT = 4096
KEEP = 5


class HealthMonitor:
    """Checks one running container until `stop`."""

    def __init__(self, cs: Containers, container: Container, document: Document) -> None:
        check = document.config.healthcheck
        assert check is not None
        assert check.test is not None
        self._cs, self._container = cs, container
        kind, *words = check.test
        shell = document.config.shell or ["/bin/sh", "-c"]
        self._command = [*shell, words[0]] if kind == "CMD-SHELL" else words
        self._env = document.config.env
        self._interval_s = (check.interval or DEFAULT_NS) / 1e9
        self._timeout_s = (check.timeout or DEFAULT_NS) / 1e9
        self._start_period_s = check.start_period / 1e9
        self._start_interval_s = (check.start_interval or DEFAULT_START_NS) / 1e9
        self._retries = check.retries or DEFAULT_RETRIES
        self.status = STARTING
        self.failing_streak = 0
        self.log: deque[HealthResult] = deque(maxlen=KEEP)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._cs.engine.spawn(self._loop(), f"health-{self._container.short}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _loop(self) -> None:
        begin = time.monotonic()
        while True:
            young = self.status == STARTING and time.monotonic() - begin < self._start_period_s
            await asyncio.sleep(min(self._start_interval_s, self._interval_s) if young else self._interval_s)
            if self._container.state.status != "running":
                continue  # paused
            result = await self._probe()
            self.log.append(result)
            young = self.status == STARTING and time.monotonic() - begin < self._start_period_s
            self._judge(result, young=young)

    def _judge(self, result: HealthResult, *, young: bool) -> None:
        old = self.status
        if result.exit_code == 0:
            self.failing_streak, self.status = 0, HEALTHY
        elif not young:
            self.failing_streak += 1
            if self.failing_streak >= self._retries:
                self.status = UNHEALTHY
        if self.status != old:
            self._cs.publish(self._container, "/wharfie/container/health", {"status": self.status})

    async def _probe(self) -> HealthResult:
        begin = time.time_ns()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        session = ExecSession(self._container, ExecConfig(cmd=self._command, attach_stdout=True, attach_stderr=True))
        request = AttachRequest(theirs.fileno(), stdin=False, stdout=True, stderr=True, multiplexed=False)
        output = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._cs.engine.execs.start(session, [request])
                theirs.close()
                loop = asyncio.get_running_loop()
                while chunk := await loop.sock_recv(ours, 1 << 16):
                    output += chunk[: max(0, MAX_OUTPUT - len(output))]
                await session.ended.wait()
            code = session.exit_code if session.exit_code is not None else -1
        except TimeoutError:
            code = -1
            output = bytearray(f"Health check exceeded timeout ({self._timeout_s:g}s)".encode()) + output
            if self._container.task is not None:
                with contextlib.suppress(WharfieError, OSError):
                    await self._container.task.kill(9, exec_id=session.id)
        except (WharfieError, OSError) as e:
            code, output = -1, bytearray(str(e).encode())
        finally:
            with contextlib.suppress(OSError):
                theirs.close()
            ours.close()
        return HealthResult(begin, time.time_ns(), code, bytes(output[:MAX_OUTPUT]).decode("utf-8", "replace"))
