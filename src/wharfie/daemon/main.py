# SPDX-License-Identifier: Apache-2.0
"""`wharfied`: flags, one daemon per root, wiring, signals.

Order of start: lock, sockets (clients wait in the backlog from here on), stores, zygote, services, serving. The order of
the end is the reverse; containers live on.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from wharfie.daemon import config as configuration
from wharfie.errdefs import FailedPrecondition, InvalidArgument, PermissionDenied, WharfieError

if TYPE_CHECKING:
    import socket

    from wharfie.daemon.config import Config
    from wharfie.daemon.state import Engine

_log = logging.getLogger("wharfie.daemon")

USAGE = """\
Usage: wharfied [OPTIONS]
       wharfied config default

The engine's daemon.

  --root DIR           directory of everything that lasts (/var/lib/wharfie)
  --state DIR          directory of sockets and running things (/run/wharfie)
  -H, --host ADDRESS   where to listen: unix:///path or tcp://address:port; repeatable
  --group NAME         group that may use the sockets (wharfie)
  --config FILE        configuration (/etc/wharfie/config.toml)
  -l, --log-level L    debug, info, warning or error
  -D, --debug          same as --log-level debug
  --log-format F       text or json
  --snapshotter NAME   auto, erofs, overlay or native
  --validate           read the configuration, say whether it holds, and exit
  -v, --version
  -h, --help
"""

_VALUES = {
    "--root": "root", "--state": "state", "--host": "hosts", "-H": "hosts", "--group": "group", "-G": "group",
    "--config": "config", "--log-level": "log_level", "-l": "log_level", "--log-format": "log_format",
    "--snapshotter": "snapshotter",
}  # fmt: skip
_SWITCHES = {
    "-D": "debug", "--debug": "debug", "--validate": "validate", "-v": "version", "--version": "version",
    "-h": "help", "--help": "help",
}  # fmt: skip


def parse_flags(argv: list[str]) -> tuple[dict[str, list[str]], set[str], list[str]]:
    """(values, switches, words). Raises InvalidArgument naming the flag and the nearest known one."""
    values: dict[str, list[str]] = {}
    switches: set[str] = set()
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, eq, value = word.partition("=")
        if word in _SWITCHES:
            switches.add(_SWITCHES[word])
        elif name in _VALUES:
            if not eq:
                if not rest:
                    raise InvalidArgument(f"wharfied: flag {name} needs a value", hint="see wharfied --help")
                value = rest.pop(0)
            values.setdefault(_VALUES[name], []).append(value)
        elif word.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, [*_VALUES, *_SWITCHES], n=1)
            raise InvalidArgument(
                f"wharfied: unknown flag {name}", hint=f"did you mean {near[0]}?" if near else "see wharfied --help"
            )
        else:
            words.append(word)
    return values, switches, words


def build_config(values: dict[str, list[str]], switches: set[str]) -> Config:
    """The file, then flags over it. Raises what reading it raises."""
    config = configuration.load(values["config"][-1] if "config" in values else None)
    for key in ("root", "state", "group", "log_level", "log_format", "snapshotter"):
        if key in values:
            setattr(config, key, values[key][-1])
    if "hosts" in values:
        config.hosts = values["hosts"]
    if "debug" in switches:
        config.log_level = "debug"
    config.root, config.state = os.path.abspath(config.root), os.path.abspath(config.state)
    configuration.check(config, "the command line")
    return config


def main() -> int:
    try:
        values, switches, words = parse_flags(sys.argv[1:])
        if "help" in switches:
            print(USAGE, end="")
            return 0
        if "version" in switches:
            import wharfie

            print(f"wharfied version {wharfie.__version__}")
            return 0
        if words == ["config", "default"]:
            print(configuration.default_text(), end="")
            return 0
        if words:
            raise InvalidArgument(f"wharfied: unknown command {' '.join(words)!r}", hint="see wharfied --help")
        config = build_config(values, switches)
        if "validate" in switches:
            print("configuration OK")
            return 0
        return run(config)
    except WharfieError as e:
        print(f"wharfied: {e.full()}", file=sys.stderr)
        return 1


def run(config: Config) -> int:
    """Serve until a signal ends it."""
    from wharfie.daemon.logging_setup import set_up

    set_up(config.log_level, config.log_format)
    if sys.platform != "win32" and os.geteuid() != 0:
        raise PermissionDenied("start wharfied: it has to run as root", hint="sudo wharfied")
    os.umask(0o022)
    _directories(config)
    lock = _lock(config)
    try:
        return asyncio.run(_serve(config))
    finally:
        os.close(lock)


def _directories(config: Config) -> None:
    """Nobody else may walk through the root (CVE-2021-41091); sockets can be reached, the rest of the state cannot."""
    try:
        os.makedirs(config.root, mode=0o710, exist_ok=True)
        os.makedirs(config.state, mode=0o711, exist_ok=True)
        os.chmod(config.root, 0o710)
    except OSError as e:
        raise FailedPrecondition(f"make directory {e.filename!r}: {e.strerror}") from e
    for name in ("containers", "snapshots", "volumes"):
        os.makedirs(config.path(name), mode=0o710, exist_ok=True)


def _lock(config: Config) -> int:
    """One daemon per root and per state directory; the pid stands in both files. Raises FailedPrecondition."""
    if sys.platform == "win32":
        raise FailedPrecondition("lock the root: not on Windows yet")
    import fcntl

    held = -1
    for path in (config.path("wharfied.lock"), config.run_path("wharfied.pid")):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno not in {errno.EAGAIN, errno.EACCES}:
                raise
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            raise FailedPrecondition(
                f"start wharfied: another one{f' (pid {owner})' if owner else ''} has {path!r}",
                hint="stop it, or give this one its own --root and --state",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        held = fd  # the other one stays open as well: both end with the process
    return held


async def _serve(config: Config) -> int:
    from wharfie.daemon.notify import notify
    from wharfie.daemon.server import Server, activated, listen
    from wharfie.daemon.wiring import Wiring

    begin = time.monotonic()
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = activated()
    if not sockets:
        for address in config.addresses():
            sockets += listen(address, config.group)
    wiring = Wiring(config, loop)
    try:
        engine = await wiring.open()
        server = Server(engine, wiring.router())
        await server.open(sockets)
    except BaseException:
        await wiring.close()
        for sock in sockets:
            sock.close()
        raise
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, _reload, engine)
    _log.info(
        "ready pid=%d root=%s snapshotter=%s listening=%s duration_s=%.3f",
        os.getpid(), config.root, engine.snapshotter.name, ",".join(config.addresses()), time.monotonic() - begin,
    )  # fmt: skip
    gc.freeze()  # what is here now stays: no collection has to walk it again (25 ms each)
    notify("READY=1", f"MAINPID={os.getpid()}")
    await stop.wait()
    notify("STOPPING=1")
    _log.info("stopping; containers live on")
    await server.close()
    await wiring.close()
    return 0


def _reload(engine: Engine) -> None:
    """SIGHUP: take the log level from the configuration again."""
    values, switches, _ = parse_flags(sys.argv[1:])
    try:
        level = build_config(values, switches).log_level
    except WharfieError as e:
        _log.error("reload: %s", e.full())
        return
    engine.config.log_level = level
    logging.getLogger().setLevel(level.upper())
    _log.warning("reloaded log_level=%s", level)


def pools() -> tuple[ThreadPoolExecutor, ...]:
    """files, transfer, background, streams."""
    return (
        ThreadPoolExecutor(8, "files"),
        ThreadPoolExecutor(32, "transfer"),
        ThreadPoolExecutor(2, "background"),
        ThreadPoolExecutor(16, "streams"),
    )
