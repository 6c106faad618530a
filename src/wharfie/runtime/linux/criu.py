# SPDX-License-Identifier: Apache-2.0
"""One run of the `criu` program in its `swrk` mode: a request over a socket, notifications, an answer.

criu is a child of the caller; what it restores becomes its sibling, so the caller's child too.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import os
import select
import shutil
import socket
from collections.abc import Callable, Sequence

from wharfie.errdefs import FailedPrecondition, NotFound, Unsupported, WharfieError
from wharfie.linux import caps, process
from wharfie.linux import namespaces as ns
from wharfie.spec.pb.criu import NOTIFY, Options, Request, Response

Notified = Callable[[str, int, list[int]], None]
"""(name of the step, pid of the restored process or 0, descriptors). Raises to make criu give up."""

_LOG_TAIL = 1 << 20
_REAP_MS = 50
_NOISE = ("rlimit: Can't setup RLIMIT_NOFILE", "Dumping FAILED", "Restoring FAILED", "cgroupd: recv req error")


def find(name: str) -> str:
    """Path of the program. Raises NotFound."""
    path = shutil.which(name or "criu", path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise NotFound(
            f"find program `{name or 'criu'}`: not installed", hint="checkpoints need CRIU: https://criu.org"
        )
    if os.geteuid() != 0:
        raise Unsupported("use checkpoints: only root may", hint="criu needs capabilities that a user does not have")
    return path


class Criu:
    """A criu process at the other end of `sock`; `prepare` runs in it before the program, alone after a fork."""

    def __init__(self, program: str, keep: Sequence[int], prepare: Callable[[], None] | None = None) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program_fd = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.pid, self._pidfd = ns.clone3(0)
            if self.pid == 0:
                _become(program_fd, theirs, keep, prepare)
        except BaseException:
            self.sock.close()
            raise
        finally:
            theirs.close()
            os.close(program_fd)

    def call(
        self,
        kind: int,
        options: Options,
        notified: Notified,
        *,
        hold: str = "",
        reap: Callable[[], None] | None = None,
    ) -> Response | None:
        """The answer to one request, or None once the step `hold` is reached: criu waits there for `go_on`.

        `reap` is called meanwhile: a container that criu ends has ended when processes of ours in it are reaped too.

        Raises: ConnectionError when criu dies, and what `notified` raised.
        """
        self.sock.send(Request(type=kind, opts=options).encode())
        return self._listen(notified, hold, reap)

    def go_on(self, notified: Notified) -> Response:
        """From the held step to the answer."""
        self.sock.send(Request(type=NOTIFY, notify_success=True).encode())
        answer = self._listen(notified, "")
        assert answer is not None
        return answer

    def _listen(self, notified: Notified, hold: str, reap: Callable[[], None] | None = None) -> Response | None:
        error: BaseException | None = None
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while True:
            while reap is not None and not poll.poll(_REAP_MS):
                reap()
            data, fds, _, _ = socket.recv_fds(self.sock, 65536, 4, socket.MSG_CMSG_CLOEXEC)
            answer = Response.decode(data)
            if not data or answer.type != NOTIFY or answer.notify is None:
                if error is not None:
                    raise error
                if not data:
                    raise ConnectionResetError(104, "criu went away without an answer")
                return answer
            try:
                notified(answer.notify.script, answer.notify.pid, fds)
            except (WharfieError, OSError) as e:
                error = e
            if error is None and answer.notify.script == hold:
                return None
            self.sock.send(Request(type=NOTIFY, notify_success=error is None).encode())

    def close(self) -> None:
        """Have it end, and reap it."""
        if self._pidfd < 0:
            return
        self.sock.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass  # the caller's reaper had it
        os.close(self._pidfd)
        self._pidfd = -1


def _become(program_fd: int, theirs: socket.socket, keep: Sequence[int], prepare: Callable[[], None] | None) -> None:
    """Child: descriptors 0 to 2 on the null device, `keep` and the socket passed on, nothing else."""
    try:
        null = os.open("/dev/null", os.O_RDWR)
        if prepare is not None:
            prepare()
        for number in range(3):
            os.dup2(null, number)
        process.close_range(3, flags=process.CLOSE_RANGE_CLOEXEC)
        for fd in (*keep, theirs.fileno()):
            os.set_inheritable(fd, True)
        os.setsid()
        os.execve(program_fd, ["criu", "swrk", str(theirs.fileno())], dict(os.environ))
    except BaseException as e:
        theirs.send(Response(type=0, success=False, message=f"start criu: {e}").encode())
    finally:
        os._exit(1)


def failure(what: str, work_fd: int, log: str, answer: Response | None) -> WharfieError:
    """The reason that criu's log gives, in its words."""
    version, errors = _read_log(work_fd, log)
    text = "; ".join(errors[:2]) or (answer.message if answer is not None else "") or "it gave no reason"
    if any("kerndat_tcp_repair" in e for e in errors):
        return FailedPrecondition(f"{what}: criu {version}: {text}", hint="bring `lo` up in its network namespace")
    if "rlimit" in text and not caps.permitted() >> caps.NUMBER["CAP_SYS_RESOURCE"] & 1:
        return FailedPrecondition(
            f"{what}: criu {version}: {text}", hint="it needs CAP_SYS_RESOURCE, which root lacks here"
        )
    if any("initializing kerndat" in e or "Could not initialize kernel features" in e for e in errors):
        return Unsupported(f"{what}: criu {version} does not know this kernel: {text}", hint="install a newer criu")
    return FailedPrecondition(f"{what}: criu {version}: {text}", hint=f"see {log} in the work directory")


def _read_log(work_fd: int, log: str) -> tuple[str, list[str]]:
    """(version, errors without their time stamps)."""
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work_fd)
    except OSError:
        return "", []
    with open(fd, encoding="utf-8", errors="replace") as f:
        lines = f.read(_LOG_TAIL).splitlines()
    version = next((line.partition("Version: ")[2].split()[0] for line in lines if "Version: " in line), "")
    found = [line.partition("Error ")[2].partition("): ")[2] for line in lines if "Error (" in line]
    return version, [e for e in found if e and not e.startswith(_NOISE)]
