# SPDX-License-Identifier: Apache-2.0
"""How much room something takes on disk."""

from __future__ import annotations

import os


def disk_usage(directory: str) -> int:
    """Bytes of the blocks below `directory`, a file with several names once. Blocking."""
    seen: set[tuple[int, int]] = set()
    total = 0
    stack = [directory]
    while stack:
        try:
            entries = os.scandir(stack.pop())
        except OSError:
            continue  # removed while we look
        with entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                    if (found.st_dev, found.st_ino) in seen:
                        continue
                    seen.add((found.st_dev, found.st_ino))
                total += found.st_size if not entry.is_dir(follow_symlinks=False) else 0
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
    return total
