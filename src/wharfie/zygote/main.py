# SPDX-License-Identifier: Apache-2.0
"""The zygote's own loop. Started as `python -SI -c … FD CGROUP STATE <padding>`; see `tasks.zygote`."""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback

from wharfie import log
from wharfie.linux.libc import syscall
from wharfie.rpc.descriptors import receive
from wharfie.rpc.status import to_document
from wharfie.zygote.cgroup import enter_cgroup, leave_cgroup
from wharfie.zygote.entries import SPARE_ENTRY, load, preload_modules, run_worker, warm
from wharfie.zygote.spare import MAX_FDS, MAX_MESSAGE, SPARE_AFTER_MS, Spare
from wharfie.zygote.title import set_title

if sys.platform == "win32":
    raise ImportError("the zygote is a Linux process")

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    enter_cgroup(sys.argv[2])
    state = sys.argv[3]
    _preload()
    if os.getpid() != os.getsid(0):
        os.setsid()
    os.umask(0o022)
    os.chdir("/")
    set_title(f"wharfie-zygote {state}")
    # Orphans of a killed shim come to us to be reaped, whatever this machine's PID 1 thinks of that.
    syscall("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the daemon's end of the socket decides
    wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.disable()
    gc.freeze()
    spare = Spare(lambda sock: _wait_as_spare(sock, state))
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(wake_r, select.POLLIN)
    while True:
        ready = poll.poll(None if spare.ready else SPARE_AFTER_MS)
        if not ready:
            spare.make()
        for fd, _ in ready:
            if fd == wake_r:
                os.read(wake_r, 4096)
                _reap()
            elif not _answer(sock, spare):
                spare.close()
                leave_cgroup(sys.argv[2])
                return


def _preload() -> None:
    """Import for all forks, and keep what is imported from doing something at each.

    `threading` renews its locks after a fork and forgets other threads; here are none, and it writes to 130 pages.
    """
    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        for module in preload_modules():
            try:
                importlib.import_module(module)
            except Exception as e:  # the others can still be forked; this one says the same when it is asked for
                log.line("warning", f"import {module}: {e}", entry="zygote")
    finally:
        os.register_at_fork = register


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _answer(sock: socket.socket, spare: Spare) -> bool:
    """One request; False at the end of the conversation."""
    try:
        message, fds = receive(sock, MAX_MESSAGE, MAX_FDS)
    except OSError:
        return False
    if not message:
        return False
    pidfd = -1
    try:
        request = json.loads(message.partition(b"\n")[0])
        given = spare.give(message, fds) if request["entry"] == SPARE_ENTRY else None
        if given is not None:
            pid, pidfd = given
        else:
            pid = os.fork()
            if pid == 0:
                _child(message, fds)
            pidfd = os.pidfd_open(pid)  # cannot miss: nobody has waited for the child yet
        answer = json.dumps({"pid": pid}).encode()
    except Exception as e:
        answer = json.dumps({"error": to_document(e)}).encode()
    finally:
        for fd in fds:
            os.close(fd)
    try:
        if pidfd >= 0:
            socket.send_fds(sock, [answer], [pidfd])
        else:
            sock.send(answer)
    except OSError:
        return False
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    return True


def _child(message: bytes, fds: list[int]) -> None:
    """A fork that knows what it is for. Never returns."""
    try:
        _stand_alone(fds)
        _become(message, fds)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(70)


def _wait_as_spare(sock: socket.socket, state: str) -> None:
    """A fork that is told later what it is for: the next shim. Never returns."""
    try:
        _stand_alone([sock.fileno()])
        set_title(f"wharfie-zygote {state} (spare)")
        warm()
        message, fds = receive(sock, MAX_MESSAGE, MAX_FDS)
        sock.close()
        if message:
            _become(message, fds)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # the zygote has gone


def _stand_alone(fds: list[int]) -> None:
    """What every fork starts as: own session, no descriptor but its own, signals as at birth."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setsid()
    _close_all_but(fds)


def _become(message: bytes, fds: list[int]) -> None:
    """Be what was asked for. Never returns."""
    code = 70
    try:
        head, _, args = message.partition(b"\n")
        request = json.loads(head)
        if request.get("args_beside"):
            source = fds.pop()
            args = os.pread(source, os.fstat(source).st_size, 0)
            os.close(source)
        if request.get("log"):
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(log, 2)
            os.close(log)
        set_title(request.get("title") or f"wharfie-{request['entry']}")
        gc.enable()
        if request.get("result"):
            code = run_worker(request["entry"], args, fds)
        else:
            load(request["entry"])(args, fds)
            code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _close_all_but(fds: list[int]) -> None:
    low = 3
    for fd in sorted(fds):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 30)
