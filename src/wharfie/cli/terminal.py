# SPDX-License-Identifier: Apache-2.0
"""The user's terminal: raw mode, size, detach keys."""

from __future__ import annotations

import os
import sys

from wharfie.errdefs import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DETACH_KEYS = "ctrl-p,ctrl-q"


def is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def size() -> tuple[int, int] | None:
    """(rows, columns) of the terminal we write to; None without one."""
    for fd in (1, 0, 2):
        try:
            columns, rows = os.get_terminal_size(fd)
        except OSError:
            continue
        if rows and columns:
            return rows, columns
    return None


class Raw:
    """Raw mode of the terminal on `fd` for as long as the block runs; nothing when it is no terminal."""

    __slots__ = ("_fd", "_saved")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> None:
        if sys.platform == "win32":
            raise Unsupported("switch the console to raw mode: not supported on Windows yet", hint="leave out -t")
        import termios as t

        if not is_terminal(self._fd):
            return
        mode = t.tcgetattr(self._fd)
        self._saved = list(mode)
        mode[0] &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
        mode[1] &= ~t.OPOST
        mode[2] = mode[2] & ~(t.CSIZE | t.PARENB) | t.CS8
        mode[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
        mode[6] = [*mode[6]]
        mode[6][t.VMIN], mode[6][t.VTIME] = 1, 0
        t.tcsetattr(self._fd, t.TCSADRAIN, mode)

    def __exit__(self, *exc: object) -> None:
        if sys.platform != "win32" and self._saved is not None:
            import termios

            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
            self._saved = None


def keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`, `ctrl-@`, single letters, as the bytes a terminal sends. Raises: InvalidArgument."""
    result = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            result += key.encode()
        elif key.startswith("ctrl-") and len(key) == 6 and (key[5] in "abcdefghijklmnopqrstuvwxyz@[\\]^_"):
            result.append(ord(key[5].upper()) & 0x1F)
        else:
            raise InvalidArgument(
                f"detach keys `{text}`: unknown key `{key}`", hint="letters and ctrl-<letter>, by commas"
            )
    return bytes(result)


class KeyWatch:
    """Finds the detach sequence in what is typed, also when it comes byte by byte."""

    __slots__ = ("_held", "_keys", "found")

    def __init__(self, sequence: bytes) -> None:
        self._keys = sequence
        self._held = b""
        self.found = False

    def feed(self, data: bytes) -> bytes:
        """What may go on to the container; a beginning of the sequence is held back until it is clear what it is."""
        data = self._held + data
        self._held = b""
        at = data.find(self._keys)
        if at >= 0:
            self.found = True
            return data[:at]
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = data[-length:]
                return data[:-length]
        return data
