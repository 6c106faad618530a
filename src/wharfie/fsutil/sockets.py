# SPDX-License-Identifier: Apache-2.0
"""Names for unix sockets in deep directories: sun_path holds 108 bytes, state directories are often longer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from wharfie.linux.openat2 import AT_FDCWD, O_DIRECTORY, O_PATH, openat2


@contextmanager
def short_name(path: str) -> Iterator[str]:
    """A name of `path` that is short enough for bind and connect, good inside the `with` block."""
    directory = openat2(AT_FDCWD, os.path.dirname(path) or ".", O_PATH | O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)
