# SPDX-License-Identifier: Apache-2.0
"""Stdio as others ask for it: a fifo's path, `fifo://`, `file://PATH`, `binary://PATH?name=value…` (containerd)."""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
from urllib.parse import parse_qsl, unquote, urlsplit

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.errdefs import InvalidArgument, Unavailable
from wharfie.shim.loop import HUP, IN
from wharfie.shim.sinks import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.shim.process import StdioURIs
    from wharfie.shim.streams import Streams

_BINARY_READY_S = 10.0


def connect(streams: Streams, uris: StdioURIs, *, terminal: bool, namespace: str, container_id: str) -> None:
    """Open what the URIs name and join it to `streams`. Raises InvalidArgument, OSError, Unavailable."""
    if uris.stdout.startswith("binary:"):
        _connect_binary(streams, uris.stdout, namespace, container_id)
    else:
        for uri, stream in ((uris.stdout, 1), (uris.stderr, 2)):
            if uri and not (terminal and stream == 2):
                streams.add(Sink(streams, _open_output(uri), frozenset((stream,))))
    if uris.stdin:
        _Source(streams, _open_fifo(_path(uris.stdin, "stdin"), os.O_RDONLY))


def _path(uri: str, what: str) -> str:
    if uri.startswith("/"):
        return uri
    parts = urlsplit(uri)
    if parts.scheme not in ("fifo", "file") or not parts.path.startswith("/"):
        raise InvalidArgument(f"open {what} {uri!r}: not a path, fifo:, file: or binary: URI")
    return unquote(parts.path)


def _open_output(uri: str) -> int:
    path = _path(uri, "output")
    if uri.startswith("file:"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # Read and write: opening never waits for the reader, and a reader that restarts breaks nothing.
    return _open_fifo(path, os.O_RDWR)


def _open_fifo(path: str, mode: int) -> int:
    fd = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode) and path != "/dev/null":
        os.close(fd)
        raise InvalidArgument(f"open stdio {path!r}: not a fifo")
    return fd


class _Source:
    """A fifo that feeds stdin. It ends when its last writer is gone."""

    def __init__(self, streams: Streams, fd: int) -> None:
        self._streams, self._fd = streams, fd
        streams.loop.watch(fd, IN, self._event)
        streams.sources.append(self)

    def rewatch(self) -> None:
        if self._fd >= 0:
            self._streams.loop.watch(self._fd, IN if self._streams.stdin_room() else 0, self._event)

    def _event(self, events: int) -> None:
        if events & IN:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return
            if data:
                self._streams.write_stdin(data)
                self.rewatch()
                return
        if events & (HUP | IN):
            self.close()
            self._streams.close_stdin()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._streams.loop.forget(fd)
            os.close(fd)


def _connect_binary(streams: Streams, uri: str, namespace: str, container_id: str) -> None:
    """A logging program: output on its descriptors 3 and 4, and 5, which it closes when it is ready."""
    parts = urlsplit(uri)
    program = unquote(parts.path)
    args = [program, *(word for pair in parse_qsl(parts.query, keep_blank_values=True) for word in pair if word)]
    env = {**os.environ, "CONTAINER_ID": container_id, "CONTAINER_NAMESPACE": namespace}
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    (out_r, out_w), (err_r, err_w), (ready_r, ready_w) = pipes
    high: list[int] = []
    try:
        # dup2 in the child would trample on descriptors 3 to 5 if the sources were among them: move them up first.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (out_r, err_r, ready_w)]
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in zip((3, 4, 5), high, strict=True)]
        os.posix_spawn(program, args, env, file_actions=actions)
    except OSError:
        for fd in (out_w, err_w, ready_r):
            os.close(fd)
        raise
    finally:
        for fd in (out_r, err_r, ready_w, *high):
            os.close(fd)
    ready, _, _ = select.select([ready_r], [], [], _BINARY_READY_S)
    os.close(ready_r)
    streams.add(Sink(streams, out_w, frozenset((1,))))
    streams.add(Sink(streams, err_w, frozenset((2,))))
    if not ready:
        raise Unavailable(f"start log program {program!r}: it did not report ready within {_BINARY_READY_S:.0f} s")
