# SPDX-License-Identifier: Apache-2.0
"""Messages between runtime and container process before execve: one packet each, descriptors beside it.

Child to parent: CREATED (ready at the gate; the pty master beside it), HOOKS (namespaces are there, run the hooks that
belong before pivot_root), WARN, ERROR, BORN (from the joining process: pid, and pidfd beside it),
LISTENER (number of a seccomp listener to fetch). Parent to child:
MOUNTS (descriptors, last one flagged), GO (cgroup is joined), DONE (hooks ran), START,
TAKEN (listener is fetched). The socket is close-on-exec:
end of file after START means that execve worked.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

import socket
from collections.abc import Sequence

from wharfie import errdefs

MOUNTS, MORE, GO, DONE, START, TAKEN = b"m", b"n", b"g", b"d", b"s", b"t"
CREATED, HOOKS, WARN, ERROR, BORN, LISTENER = b"c", b"h", b"w", b"e", b"b", b"l"
_MAX_FDS = 250  # SCM_MAX_FD is 253


class Channel:
    """One end. Blocking."""

    __slots__ = ("_early", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._early: set[bytes] = set()

    def send(self, kind: bytes, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        if fds:
            socket.send_fds(self.sock, [kind + payload], list(fds))
        else:
            self.sock.send(kind + payload)

    def send_mounts(self, fds: Sequence[int], *, more: bool = False) -> None:
        """Parent: `more` will follow in another call."""
        if more:
            self.send(MORE, b"", fds)
            return
        while len(fds) > _MAX_FDS:
            self.send(MORE, b"", fds[:_MAX_FDS])
            fds = fds[_MAX_FDS:]
        self.send(MOUNTS, b"", fds)

    def receive(self) -> tuple[bytes, bytes, list[int]]:
        """(kind, payload, descriptors); kind is b"" at the end."""
        data, fds, _, _ = socket.recv_fds(self.sock, 65536, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        return data[:1], data[1:], fds

    def expect(self, kind: bytes) -> None:
        """Child: wait for one kind of message. Another kind is kept for its turn: GO may come while hooks run.

        Raises: ConnectionAbortedError when the parent has gone.
        """
        while kind not in self._early:
            got, _, _ = self.receive()
            if not got:
                raise ConnectionAbortedError(103, f"wait for {kind!r}: the runtime went away")
            self._early.add(got)
        self._early.remove(kind)

    def close(self) -> None:
        self.sock.close()


def pair() -> tuple[Channel, Channel]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(a), Channel(b)


def encode_error(e: BaseException, operation: str) -> bytes:
    """(code, errno, operation, message, hint) of an exception of the child."""
    if isinstance(e, errdefs.WharfieError):
        fields = (e.code, "0", operation, e.message, e.hint or "")
    elif isinstance(e, OSError):
        text = e.strerror or str(e)
        if e.filename is not None:
            name = e.filename if isinstance(e.filename, str) else repr(e.filename)
            text = f"{text}: `{name}`"
        fields = ("OSError", str(e.errno or 0), operation, text, "")
    else:
        fields = ("InternalError", "0", operation, f"{type(e).__name__}: {e}", "")
    return "\0".join(fields).encode(errors="surrogateescape")[:60000]


def decode_error(payload: bytes, what: str) -> errdefs.WharfieError:
    """The child's error, ready to raise: `what` is the operation asked for, with its object."""
    code, number, operation, message, hint = payload.decode(errors="replace").split("\0")
    text = ": ".join(filter(None, (what, operation, message)))
    if code == "OSError":
        return errdefs.FailedPrecondition(text, hint=hint or None, errno=int(number))
    return errdefs.from_code(code, text, hint=hint or None)
