# SPDX-License-Identifier: Apache-2.0
"""A sealed copy of the interpreter: whoever gets at /proc/self/exe of a process that runs it can change nothing."""

from __future__ import annotations

import os
import sys

_MFD_EXEC = 0x10


def sealed_interpreter() -> int:
    """Descriptor of a read-only copy of this interpreter in memory."""
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        image = os.memfd_create("wharfie-zygote", flags | _MFD_EXEC)
    except OSError:  # before 6.3 there is no such flag, and every memfd may be executed
        image = os.memfd_create("wharfie-zygote", flags)
    try:
        with open(sys.executable, "rb") as program:
            size = os.fstat(program.fileno()).st_size
            done = 0
            while done < size:
                done += os.sendfile(image, program.fileno(), done, size - done)
        fcntl.fcntl(
            image, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        )
    except BaseException:
        os.close(image)
        raise
    return image


def reexec_sealed() -> None:
    """Go on in a sealed copy, with the same arguments; returns where this process is one already."""
    if os.readlink("/proc/self/exe").startswith("/memfd:"):
        return
    image = sealed_interpreter()
    os.execve(f"/proc/self/fd/{image}", [sys.executable, *sys.orig_argv[1:]], os.environ)
