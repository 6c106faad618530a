# SPDX-License-Identifier: Apache-2.0
"""Large bodies from and to files: archives of images and containers."""

from __future__ import annotations

import os
import sys

from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK = 1 << 20


def read(path: str) -> Iterator[bytes]:
    """A file in pieces; "" or "-" is stdin. Raises: InvalidArgument."""
    if path in ("", "-"):
        fd = 0
    else:
        try:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        except OSError as e:
            raise InvalidArgument(f"open `{path}`: {(e.strerror or str(e)).lower()}") from e
    return _pieces(fd)


def _pieces(fd: int) -> Iterator[bytes]:
    try:
        while data := os.read(fd, CHUNK):
            yield data
    finally:
        if fd:
            os.close(fd)


def refuse_terminal(what: str, flag: str) -> None:
    if os.isatty(1):
        raise InvalidArgument(
            f"{what}: an archive would garble this terminal", hint=f"use {flag} FILE, or redirect the output"
        )


def write(path: str, chunks: Iterable[bytes]) -> None:
    """To a file, which appears whole or not at all; "" or "-" is stdout."""
    if path in ("", "-"):
        sys.stdout.flush()
        from wharfie.client.frames import write_all

        for chunk in chunks:
            write_all(1, [memoryview(chunk)])
        return
    if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe is written in place
        with open(path, "wb") as f:
            for chunk in chunks:
                f.write(chunk)
        return
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "wb") as f:
            for chunk in chunks:
                f.write(chunk)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise
