# SPDX-License-Identifier: Apache-2.0
"""Start `wharfied` in the background: what makes `wharfie` work right after the install, without a service manager.

The daemon gets a session of its own, leaves the login's cgroup (a logout would take it and every container along) and
logs to `<state>/wharfied.log`. Of several commands that find nobody at once, one starts it and the others wait.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from wharfie.client.address import STATE
from wharfie.errdefs import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wharfie.client.address import Address

LOG = f"{STATE}/wharfied.log"
WAIT_S = 30.0


def start_and_wait(address: Address, connect: Callable[[str], object]) -> None:
    """Returns connected. Raises: Unavailable with the end of the daemon's log."""
    if sys.platform == "win32":
        raise Unavailable(f"connect to the engine at `{address}`: start the service `wharfied` first")
    import fcntl

    os.makedirs(STATE, 0o711, exist_ok=True)
    lock = os.open(f"{STATE}/start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _try(address, connect):  # another command was faster
            return
        pid = _spawn()
        deadline = time.monotonic() + WAIT_S
        pause = 0.005
        while not _try(address, connect):
            if os.waitpid(pid, os.WNOHANG)[0]:
                if _try(address, connect):  # a service manager was faster, and ours stood back
                    return
                raise Unavailable(f"start `wharfied`: it ended at once: {_last_words()}", hint=f"its log is {LOG}")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"start `wharfied`: no answer at `{address}` in {WAIT_S:.0f} s", hint=f"its log is {LOG}"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
    finally:
        os.close(lock)


def _try(address: Address, connect: Callable[[str], object]) -> bool:
    try:
        connect(address.path)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return False
        raise Unavailable(f"connect to the engine at `{address}`: {e.strerror}") from e
    return True


def daemon_command() -> list[str]:
    """The daemon of this very installation, started the way the stub starts it (docs/adr/0002-launcher.md)."""
    lib = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    site = next((p for p in sys.path[:2] if p.endswith("-packages")), lib)
    return [sys.executable, "-SI", f"{lib}/wharfie/_launch.py", lib, site, "wharfied"]


def _spawn() -> int:
    if sys.platform == "win32":
        raise AssertionError
    command = daemon_command()
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(log)
        os.close(null)
        return pid
    try:
        os.setsid()
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _leave_login_cgroup()
        os.chdir("/")
        os.umask(0o022)
        keep = (
            "PATH",
            "LANG",
            "LC_ALL",
            "TZ",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
        )
        os.execve(command[0], command, {k: v for k, v in os.environ.items() if k in keep or k.startswith("WHARFIE_")})
    except BaseException as e:
        os.write(2, f"exec {command[0]}: {e}\n".encode())
    finally:
        os._exit(125)


def _leave_login_cgroup() -> None:
    """Session managers kill by the unified (or v1 name=systemd) hierarchy, so those are the ones to leave."""
    for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
        if not os.path.exists(f"{base}/cgroup.procs"):
            continue
        try:
            os.makedirs(f"{base}/wharfied", exist_ok=True)
            fd = os.open(f"{base}/wharfied/cgroup.procs", os.O_WRONLY)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as e:
            os.write(2, f"warning: staying in the login's cgroup below {base}: {e.strerror}\n".encode())


def _last_words() -> str:
    try:
        with open(LOG, encoding="utf-8", errors="replace") as f:
            lines = f.read()[-4000:].strip().splitlines()
    except OSError as e:
        return str(e)
    return lines[-1] if lines else "it said nothing"
