# SPDX-License-Identifier: Apache-2.0
"""Run on from a sealed copy of the interpreter before entering a container (CVE-2019-5736).

A container can reach the program of a process that enters it (`#!/proc/self/exe`, /proc/PID/exe) and overwrite it on
the host. A sealed memfd can't be written by anybody.
"""

from __future__ import annotations

import os
import sys


def reexec() -> None:
    """Start this program again, same arguments, from a sealed copy; returns at once where it runs from one."""
    if sys.platform != "linux":
        raise NotImplementedError
    import fcntl

    if os.readlink("/proc/self/exe").startswith("/memfd:"):
        return
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        copy = os.memfd_create("wharfie-oci", flags | 0x10)  # MFD_EXEC, known since 6.3
    except OSError:
        copy = os.memfd_create("wharfie-oci", flags)
    source = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    while os.sendfile(copy, source, None, 1 << 30):
        pass
    os.close(source)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
    os.execve(f"/proc/self/fd/{copy}", [sys.executable, *sys.orig_argv[1:]], os.environ)
