# SPDX-License-Identifier: Apache-2.0
"""Container logs: written by the shim chunk by chunk, read by the shim (follow) and the daemon (stopped containers).

Drivers: `wharfie` (default, module `chunks`): data files that hold Docker's own stream frames, so that an untouched
`logs` is one sendfile, and an index of times; `json-file` (module `jsonfile`): Docker's format; `none`.
Nothing is done line by line when written. Lines are looked at only by a request for time stamps or a tail.

    writer = open_writer("local", directory, terminal=False)
    writer.write(STDOUT, data)
    open_reader("local", directory).copy_to(sock_fd, Selection(tail=10, timestamps=True))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from wharfie.errdefs import InvalidArgument

STDIN, STDOUT, STDERR = 0, 1, 2

MORE, CAUGHT_UP, DONE = "more", "caught up", "done"
"""What `Copier.step` says: call again when there is room; nothing is left for now; nothing will ever follow."""


class Request(Protocol):
    """What is asked of a log; `tasks.LogsRequest` is one. Times in UTC seconds; `tail` None for all lines.

    `multiplexed`: answer in Docker's 8-byte frames. `timestamps`: RFC 3339 with nanoseconds before each line, then
    `details`, if any.
    """

    @property
    def stdout(self) -> bool: ...
    @property
    def stderr(self) -> bool: ...
    @property
    def multiplexed(self) -> bool: ...
    @property
    def since_s(self) -> float | None: ...
    @property
    def until_s(self) -> float | None: ...
    @property
    def timestamps(self) -> bool: ...
    @property
    def tail(self) -> int | None: ...
    @property
    def details(self) -> str: ...


class Selection(NamedTuple):
    """A plain `Request`."""

    stdout: bool = True
    stderr: bool = True
    multiplexed: bool = True
    since_s: float | None = None
    until_s: float | None = None
    timestamps: bool = False
    tail: int | None = None
    details: str = ""


class Entry(NamedTuple):
    """A piece of output as it was read from the container: any number of lines, the ends perhaps not whole."""

    stream: int
    time_ns: int
    data: bytes


class Copier(Protocol):
    """A log on its way into one descriptor, blocking or not. It lives as long as the request; `close()` it."""

    def step(self, fd: int) -> str:
        """Send some; returns MORE, CAUGHT_UP or DONE. Raises BlockingIOError never, OSError when the peer is gone."""

    def close(self) -> None: ...


class Writer(Protocol):
    """The log of one container, open for appending; a tail that a kill left half written has been cut off."""

    lost_bytes: int

    def write(self, stream: int, data: bytes | memoryview) -> None:
        """Append. A full disk loses the data (`lost_bytes`), never stops the container."""

    def copier(self, request: Request, *, live: bool = False) -> Copier | None:
        """Copy from the log, following this writer; with `live` from here on. None where nothing can be read back."""

    def close(self) -> None: ...


class Reader(Protocol):
    def entries(self, request: Request) -> Iterator[Entry]:
        """Typed iteration; `multiplexed`, `timestamps` and `details` do not matter here."""

    def copier(self, request: Request) -> Copier: ...

    def copy_to(self, sock_fd: int, request: Request) -> None:
        """Write all of it to a blocking descriptor. Raises OSError when the peer is gone."""


def open_writer(
    driver: str, path: str, *, terminal: bool = False, max_size_bytes: int = 0, max_files: int = 1
) -> Writer | None:
    """None for driver `none`. Raises InvalidArgument (driver), OSError."""
    if driver == "none":
        return None
    if driver == "local":
        from wharfie.logs.chunks_writer import ChunkWriter

        return ChunkWriter(path, terminal=terminal, max_size_bytes=max_size_bytes, max_files=max_files)
    if driver == "json-file":
        from wharfie.logs.jsonfile import JsonFileWriter

        return JsonFileWriter(path, max_size_bytes=max_size_bytes, max_files=max_files)
    raise _unknown(driver)


def open_reader(driver: str, path: str) -> Reader:
    """Raises InvalidArgument (driver; `none` cannot be read). A log that does not exist (yet) is an empty one."""
    if driver == "local":
        from wharfie.logs.chunks import ChunkReader

        return ChunkReader(path)
    if driver == "json-file":
        from wharfie.logs.jsonfile import JsonFileReader

        return JsonFileReader(path)
    if driver == "none":
        raise InvalidArgument(
            "read logs: log driver 'none' keeps none", hint="run the container with another --log-driver"
        )
    raise _unknown(driver)


def _unknown(driver: str) -> InvalidArgument:
    return InvalidArgument(f"open log: unknown log driver {driver!r}", hint="drivers are local, json-file and none")
