# SPDX-License-Identifier: Apache-2.0
"""A container's life as a process: start, signals, exit, and what follows an exit (restart, removal, waiters).

One coroutine per running container waits for its task; nothing else does, so waits of clients cost a future each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from wharfie.daemon.services import bundle, log_options, restart, rootfs_user
from wharfie.daemon.services import containers_records as records
from wharfie.daemon.services.container import WAIT_NEXT_EXIT, WAIT_NOT_RUNNING, Container, Exit
from wharfie.daemon.services.containers_create import give_ids, make_spec
from wharfie.daemon.services.containers_remove import remove_snapshot
from wharfie.errdefs import Conflict, NotFound, PermissionDenied, Unavailable, WharfieError
from wharfie.mount import Mount
from wharfie.oci import namespaces
from wharfie.oci.signals import parse_signal
from wharfie.tasks import OWN_RUNTIME, CreateRequest, LogConfig, Task, TaskExit

if TYPE_CHECKING:
    from wharfie.daemon.services.containers import Containers
    from wharfie.daemon.services.containers_records import Document

_log = logging.getLogger(__name__)

SUPERVISOR_DIED = 137
SIGKILL = 9
KILL_WAIT_S = 10.0
"""How long a killed container gets to be gone; only a process stuck in the kernel takes longer."""


def boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return ""


class Runner:
    def __init__(self, containers: Containers) -> None:
        self._cs = containers
        self._boot = boot_id()
        self.deaths: set[str] = set()
        """Containers whose shim was killed, until their exit is noted."""

    # --- start

    async def start(self, container: Container, call: Any = None) -> bool:
        """Run it. False where it runs already. Raises what stands in the way; then its state says so too."""
        if container.state.alive:
            if container.state.status == records.PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            return False
        container.starting = True
        try:
            async with container.lock:
                if container.gone:
                    raise NotFound(f"no such container: {container.id}")
                if container.state.alive:
                    return False
                if container.restart_timer is not None and container.restart_timer is not asyncio.current_task():
                    container.restart_timer.cancel()
                container.restart_timer = None
                if call is not None:
                    call.phase("lock")
                await self._start(container, call)
        finally:
            container.starting = False
        return True

    async def _start(self, container: Container, call: Any) -> None:
        cs, state = self._cs, container.state
        document = container.document()
        attach = cs.parking.take(container)
        volumes = any(p.name for p in document.mounts)
        task: Task | None = None
        try:
            join = self._joins(container, document)
            shown = await self._rootfs(container, document, join)
            if volumes:
                await cs.engine.volumes.activate(container.id)
            request = CreateRequest(
                namespace=container.ns,
                container_id=container.id,
                bundle=cs.engine.config.bundle(container.ns, container.id),
                rootfs=shown,
                terminal=document.config.tty,
                stdin_open=document.config.open_stdin,
                log=log_config(cs, container, document),
                runtime=self._runtime(document.runtime),
                attach=attach,
                stdin_once=document.config.stdin_once,
                exit_durable=not container.summary.auto_remove,  # after a power cut it is only removed
            )
            if call is not None:
                call.phase("prepare")
            with _exit_codes():
                task = await cs.engine.tasks.create(request)
                if call is not None:
                    call.phase("create")
                pid = await task.start()
            if call is not None:
                call.phase("start")
        except BaseException as e:
            await self._start_failed(container, task, e, volumes=volumes)
            raise
        finally:
            for request_ in attach:
                os.close(request_.sock_fd)
        container.rootfs = None
        container.task = task
        state.status, state.pid, state.started_ns = records.RUNNING, pid, time.time_ns()
        state.started_once, state.boot_id, state.stopped_by_user = True, self._boot, False
        state.exit_code, state.error, state.oom_killed = 0, "", False
        cs.save_state(container)
        cs.publish(container, "/tasks/start", {"pid": pid})
        self.supervise(container, task)
        if container.summary.has_health:
            from wharfie.daemon.services.health import HealthMonitor

            container.health = HealthMonitor(cs, container, document)
            container.health.start()

    async def _rootfs(self, container: Container, document: Document, join: dict[str, str]) -> list[Mount]:
        """The mounts with idmap options; and a fresh config.json where the one of create is out of date."""
        cs, mounts = self._cs, container.rootfs
        again = container.state.started_once or container.document_dirty_user or mounts is None
        if again or join:
            mounts = await cs.engine.files(self._prepare_again, container, document, join, again)
        assert mounts is not None
        return with_idmap(cs, document, mounts)

    def _prepare_again(
        self, container: Container, document: Document, join: dict[str, str], again: bool
    ) -> list[Mount]:
        """Blocking."""
        cs = self._cs
        directory = cs.engine.config.bundle(container.ns, container.id)
        mounts = container.rootfs
        if mounts is None:
            mounts = cs.snapshotter_of(container).mounts(container.snapshot_key)
        if again:
            bundle.forget_exit(directory)
            user = document.config.user
            old = document.user
            document.user = rootfs_user.resolve(user, document.host_config.group_add or (), mounts, None)
            if document.user != old:
                cs.ids.release(container.id)
                give_ids(cs, container.id, document)
                raw = container.set_document(document)
                from wharfie.metadata import containers as rows

                cs.engine.db.write(
                    lambda db: rows.put_extension(db, container.ns, container.id, rows.EXTENSION_DOCKER, raw)
                )
        container.document_dirty_user = False
        spec = make_spec(cs, container.ns, container.id, container.name, document, join=join)
        bundle.write_config(directory, spec)
        return mounts

    def _joins(self, container: Container, document: Document) -> dict[str, str]:
        """Namespace paths of running containers that this one joins. Raises NotFound, Conflict (not running)."""
        host = document.host_config
        join: dict[str, str] = {}
        modes = {"network": host.network_mode, "pid": host.pid_mode, "ipc": host.ipc_mode}
        for kind, mode in modes.items():
            owner = namespaces.joined(mode)
            if not owner:
                continue
            other = self._cs.find(container.ns, owner)
            if not other.state.alive:
                raise Conflict(
                    f"cannot join {kind} of a non running container: {other.id}", hint=f"start {other.name} first"
                )
            join[kind] = f"/proc/{other.state.pid}/ns/{'net' if kind == 'network' else kind}"
            if document.userns.mode == "container":
                join["user"] = f"/proc/{other.state.pid}/ns/user"
        return join

    def _runtime(self, name: str) -> str:
        return self._cs.engine.runtimes.get(name, name)

    async def _start_failed(
        self, container: Container, task: Task | None, error: BaseException, *, volumes: bool
    ) -> None:
        cs, state = self._cs, container.state
        if task is not None:
            with contextlib.suppress(WharfieError, OSError):
                await task.delete()
        if volumes:
            with contextlib.suppress(WharfieError, OSError):
                await cs.engine.volumes.deactivate(container.id)
        state.exit_code = exit_code_of(error)
        state.error = str(error)
        state.pid = 0
        if state.started_once:
            state.status = records.EXITED
        state.finished_ns = time.time_ns()
        cs.save_state(container)
        cs.publish(container, "/tasks/exit", {"exit_status": state.exit_code}, exitCode=str(state.exit_code))
        if container.summary.auto_remove and not container.replacing:
            cs.engine.spawn(self._remove_later(container), f"remove-{container.short}")
        exit_ = container.exit
        container.wake(WAIT_NEXT_EXIT, exit_)
        container.wake(WAIT_NOT_RUNNING, exit_)

    async def _remove_later(self, container: Container) -> None:
        with contextlib.suppress(NotFound, Conflict):
            await self._cs.remove(container, force=True, volumes=True)

    # --- exit

    def supervise(self, container: Container, task: Task) -> None:
        """Wait for the exit of `task`, in the background."""
        self._cs.engine.spawn(self._supervise(container, task), f"supervise-{container.short}")

    async def _supervise(self, container: Container, task: Task) -> None:
        try:
            exit_ = await task.wait()
        except (WharfieError, OSError) as e:
            _log.warning("container %s: its shim went away: %s", container.short, e)
            await self.supervisor_died(container, task)
            return
        died = container.id in self.deaths
        self.deaths.discard(container.id)
        await self.exited(container, task, exit_, error="supervisor died" if died else "", shim_gone=died)

    async def note_death(self, ns: str, container_id: str) -> None:
        """The task manager's `SupervisorDied`: comes before the wait of that task ends."""
        self.deaths.add(container_id)

    async def supervisor_died(self, container: Container, task: Task | None) -> None:
        """The shim is gone: its exit record if it wrote one, else the container is killed: 137 (decisions 3)."""
        cs = self._cs
        leftovers: Task | None = None
        try:
            leftovers = await cs.engine.tasks.recover(container.ns, container.id)
        except (WharfieError, OSError) as e:
            _log.error("container %s: clean up after its shim: %s", container.short, e)
        if leftovers is not None and task is not None and container.task is task:
            # Only the connection broke: the shim lives.
            container.task = leftovers
            self.supervise(container, leftovers)
            return
        record = await cs.engine.files(bundle.read_exit, cs.engine.config.bundle(container.ns, container.id))
        if record is not None:
            exit_, error = TaskExit(record.exit_status, record.exited_at_s, record.oom), record.error
        else:
            exit_, error = TaskExit(SUPERVISOR_DIED, time.time()), "supervisor died"
        await self.exited(container, task, exit_, error=error, shim_gone=True)

    async def exited(
        self, container: Container, task: Task | None, exit_: TaskExit, *, error: str = "", shim_gone: bool = False
    ) -> None:
        """The run of `task` is over: release it, tell everybody, and do what policies say."""
        cs, state = self._cs, container.state
        async with container.lock:
            if container.task is not task or container.gone:
                return
            early: asyncio.Future[None] | None = None
            if container.summary.auto_remove and not container.replacing and self._is_ours(container):
                # The slowest part of a removal, beside the release. Its record stays until that is done.
                early = asyncio.ensure_future(cs.engine.files(remove_snapshot, cs, container))
            if container.health is not None:
                container.health.stop()
                container.health = None
            if task is not None and not shim_gone:
                begin = time.monotonic()
                try:
                    await task.delete()
                except (WharfieError, OSError) as e:
                    _log.warning("container %s: release its task: %s", container.short, e)
                _log.debug("released container_id=%s duration_s=%.4f", container.short, time.monotonic() - begin)
            if early is not None:
                try:
                    await early
                except (WharfieError, OSError) as e:
                    _log.debug("container %s: remove its snapshot early: %s", container.short, e)
            container.task = None
            await self.note_exit(container, exit_, error)
            policy = container.document().host_config.restart_policy if self._may_restart(container) else None
            if policy is not None and restart.after_exit(policy, state):
                self._schedule(container)
                return
            container.wake(WAIT_NOT_RUNNING, container.exit)
            remove = container.summary.auto_remove and not container.replacing
        if remove:
            await self._remove_later(container)

    def _is_ours(self, container: Container) -> bool:
        """Whether our own runtime runs it: others mount its root file system on the host until they let go."""
        return self._runtime(container.document().runtime) == OWN_RUNTIME

    def _may_restart(self, container: Container) -> bool:
        return not (container.replacing or container.summary.auto_remove or container.state.stopped_by_user)

    async def note_exit(self, container: Container, exit_: TaskExit, error: str) -> None:
        cs, state = self._cs, container.state
        if any(kind == "volume" for kind, *_ in container.summary.mounts):
            with contextlib.suppress(WharfieError, OSError):
                await cs.engine.volumes.deactivate(container.id)
        state.status, state.pid = records.EXITED, 0
        state.exit_code, state.error, state.oom_killed = exit_.exit_status, error, exit_.oom
        state.finished_ns = int(exit_.exited_at_s * 1e9) or time.time_ns()
        for session in list(container.execs.values()):
            session.container_ended(exit_.exit_status)
        if exit_.oom:
            cs.publish(container, "/tasks/oom", timestamp_ns=state.finished_ns)
        cs.publish(
            container,
            "/tasks/exit",
            {"exit_status": exit_.exit_status, "exited_at": exit_.exited_at_s},
            timestamp_ns=state.finished_ns,
            exitCode=str(exit_.exit_status),
            execDuration=str(max(0, state.finished_ns - state.started_ns) // 10**9),
        )
        if not container.summary.auto_remove:
            cs.save_state(container)
        container.wake(WAIT_NEXT_EXIT, Exit(exit_.exit_status, error))

    # --- restart policy

    def _schedule(self, container: Container) -> None:
        """Start it again after the back-off. The lock is held."""
        state = container.state
        ran_s = max(0, state.finished_ns - state.started_ns) / 1e9
        pause = restart.delay_s(state.restart_count, ran_s)
        state.status = records.RESTARTING
        state.restart_count += 1
        self._cs.save_state(container)
        container.restart_timer = self._cs.engine.spawn(self._again(container, pause), f"restart-{container.short}")

    async def _again(self, container: Container, pause: float) -> None:
        await asyncio.sleep(pause)
        try:
            await self.start(container)
        except (WharfieError, OSError) as e:
            _log.error("container %s: start it again: %s", container.short, e)
            async with container.lock:
                policy = container.document().host_config.restart_policy
                state = container.state
                if container.gone or state.alive:
                    return
                if restart.after_exit(policy, state) and state.exit_code not in {126, 127}:
                    self._schedule(container)
                else:
                    state.status = records.EXITED
                    self._cs.save_state(container)
                    container.wake(WAIT_NOT_RUNNING, container.exit)

    def start_after_daemon(self, container: Container) -> None:
        """A restart policy wants it up after the daemon has started."""
        container.state.status = records.RESTARTING
        container.restart_timer = self._cs.engine.spawn(self._again(container, 0), f"restart-{container.short}")

    async def _stop_restarting(self, container: Container) -> bool:
        """End a pending restart; whether there was one. A start that is under way comes to its end first."""
        if container.state.status == records.RESTARTING and container.starting:
            async with container.lock:
                pass
        if container.state.status != records.RESTARTING:
            return False
        if container.restart_timer is not None:
            container.restart_timer.cancel()
            container.restart_timer = None
        container.state.status = records.EXITED
        container.state.stopped_by_user = True
        self._cs.save_state(container)
        container.wake(WAIT_NOT_RUNNING, container.exit)
        return True

    # --- signals

    def running_task(self, container: Container) -> Task:
        """Raises Conflict where it does not run."""
        if container.task is None or not container.state.alive:
            raise Conflict(f"container {container.id} is not running", hint=f"start {container.name} first")
        return container.task

    async def kill(self, container: Container, signal: str) -> None:
        """Send a signal. Raises InvalidArgument (signal), Conflict (not running)."""
        number = parse_signal(signal) if signal else SIGKILL
        if number == SIGKILL and await self._stop_restarting(container):
            return
        task = self.running_task(container)
        if number in {SIGKILL, self._stop_signal(container)}:
            container.state.stopped_by_user = True
            self._cs.save_state(container)
        try:
            await task.kill(number)
        except NotFound as e:
            raise Conflict(f"cannot kill container {container.id}: it is not running") from e
        if number == SIGKILL and container.state.status == records.PAUSED:
            await self.unpause(container)
        self._cs.publish(container, "/wharfie/container/kill", signal=str(number))
        if number == SIGKILL:
            with contextlib.suppress(asyncio.TimeoutError):
                await self.wait_stopped(container, KILL_WAIT_S)

    def _stop_signal(self, container: Container) -> int:
        words = container.document().config.stop_signal
        return parse_signal(words) if words else 15

    async def wait_stopped(self, container: Container, timeout_s: float | None) -> None:
        """Until its run has ended and been released. Raises TimeoutError."""
        if container.task is None:
            return
        async with asyncio.timeout(timeout_s):
            await container.waiter(WAIT_NEXT_EXIT)

    async def stop(self, container: Container, timeout_s: int | None, signal: str = "", *, quiet: bool = False) -> bool:
        """Ask, wait, kill. False where it does not run. A timeout below 0 waits for ever."""
        if await self._stop_restarting(container):
            return True
        if not container.state.alive or container.task is None:
            container.state.stopped_by_user = container.state.stopped_by_user or container.state.started_once
            return False
        config = container.document().config
        if timeout_s is None:
            timeout_s = config.stop_timeout if config.stop_timeout is not None else self._cs.engine.config.stop_timeout
        container.state.stopped_by_user = True
        self._cs.save_state(container)
        task = container.task
        number = parse_signal(signal) if signal else self._stop_signal(container)
        waiter = container.waiter(WAIT_NEXT_EXIT)
        try:
            await self._signal(container, task, number)
            try:
                async with asyncio.timeout(None if timeout_s < 0 else timeout_s):
                    await asyncio.shield(waiter)
            except TimeoutError:
                await self._signal(container, task, SIGKILL)
                try:
                    async with asyncio.timeout(KILL_WAIT_S):
                        await waiter
                except TimeoutError:
                    raise Unavailable(
                        f"stop container {container.name!r}: it does not die: a process of it hangs in the kernel"
                    ) from None
        finally:
            waiter.cancel()
        if not quiet:
            self._cs.publish(container, "/wharfie/container/stop")
        return True

    async def _signal(self, container: Container, task: Task, number: int) -> None:
        with contextlib.suppress(NotFound):
            await task.kill(number)
            self._cs.publish(container, "/wharfie/container/kill", signal=str(number))
        if container.state.status == records.PAUSED and container.task is task:
            await self.unpause(container)

    async def restart(self, container: Container, timeout_s: int | None, signal: str = "") -> None:
        """Stop if it runs, then start."""
        container.replacing = True
        try:
            await self.stop(container, timeout_s, signal)
            async with container.lock:  # the exit has been released
                container.state.stopped_by_user = False
            await self.start(container)
        finally:
            container.replacing = False
        self._cs.publish(container, "/wharfie/container/restart")

    async def pause(self, container: Container) -> None:
        task = self.running_task(container)
        if container.state.status == records.PAUSED:
            raise Conflict(f"container {container.id} is already paused")
        await task.pause()
        container.state.status = records.PAUSED
        self._cs.save_state(container)
        self._cs.publish(container, "/tasks/paused")

    async def unpause(self, container: Container) -> None:
        task = self.running_task(container)
        if container.state.status != records.PAUSED:
            raise Conflict(f"container {container.id} is not paused")
        await task.resume()
        if container.state.status == records.PAUSED:
            container.state.status = records.RUNNING
        self._cs.save_state(container)
        self._cs.publish(container, "/tasks/resumed")


def with_idmap(cs: Containers, document: Document, mounts: list[Mount]) -> list[Mount]:
    """The mounts with the container's ids as options."""
    userns = document.userns
    if userns.mode == "container":
        userns = next(c for c in cs.all() if c.id == userns.owner).document().userns
    if not userns.extents:
        return mounts
    option = userns.option()
    extra = (f"uidmap={option}", f"gidmap={option}")
    return [m._replace(options=(*m.options, *extra)) for m in mounts]


def log_config(cs: Containers, container: Container, document: Document) -> LogConfig:
    """Where a container's log goes."""
    directory = os.path.join(cs.engine.config.bundle(container.ns, container.id), "log")
    return log_options.task_log(document.log_driver, document.log_opts, directory, container.id)


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    """A program that is missing (127) or cannot be run (126) is a bad request, not a missing container."""
    try:
        yield
    except (NotFound, PermissionDenied) as e:
        e.fields.setdefault("exit_code", 127 if isinstance(e, NotFound) else 126)
        e.fields.setdefault("http_status", 400)
        raise


def exit_code_of(error: BaseException) -> int:
    """What a start that failed shows as exit code: 127 not found, 126 not executable, 128 anything else."""
    found = error.fields.get("exit_code") if isinstance(error, WharfieError) else None
    return found if isinstance(found, int) else 128
