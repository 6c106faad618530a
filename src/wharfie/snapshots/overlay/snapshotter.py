# SPDX-License-Identifier: Apache-2.0
"""`snapshots.Snapshotter` with layers that are directories."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator

from wharfie.archive.pipeline import Ahead, Behind, collector_paused
from wharfie.archive.scan import Scanner
from wharfie.linux.sync import syncfs
from wharfie.snapshots.layered import Layered
from wharfie.snapshots.layers import Learnt, learn

if sys.platform != "win32":
    from wharfie.snapshots.overlay.extract import Extractor

    class OverlaySnapshotter(Layered):
        name = "overlay"

        def _write(self, chunks: Iterator[bytes], diff_id: str, part: str) -> Learnt:
            os.mkdir(part, 0o755)
            os.chmod(part, 0o755)
            root = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.utime(root, ns=(0, 0))
                extractor = Extractor(root, overlay=True)
                with collector_paused(), Ahead(chunks) as ahead, Behind(diff_id) as behind:

                    def tee() -> Iterator[bytes]:
                        for chunk in ahead:
                            behind.put(chunk, [])
                            yield chunk

                    extractor.run(Scanner(tee()))
                    behind.finish()
                syncfs(root)
            finally:
                os.close(root)
            return learn(diff_id, extractor.bytes, extractor.tree)

        def _publish(self, part: str, path: str) -> None:
            try:
                os.rename(part, path)
            except OSError as e:
                if e.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                self._discard(part)  # the same layer, from a second ingest at the same time
