# SPDX-License-Identifier: Apache-2.0
"""`snapshots.Snapshotter` with layers that are directories."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator

from wharfie.archive.pipeline import Ahead, Behind
from wharfie.archive.scan import Scanner
from wharfie.linux.sync import syncfs
from wharfie.snapshots import LayerInfo
from wharfie.snapshots.layered import Layered

if sys.platform != "win32":
    from wharfie.snapshots.overlay.extract import Extractor

    class OverlaySnapshotter(Layered):
        name = "overlay"

        def __init__(self, directory: str, state: str) -> None:
            super().__init__(directory, state)
            self._links = os.path.join(os.path.realpath(state), "l")

        def _write(self, chunks: Iterator[bytes], diff_id: str, part: str) -> tuple[LayerInfo, list[str]]:
            os.mkdir(part, 0o755)
            os.chmod(part, 0o755)
            root = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.utime(root, ns=(0, 0))
                extractor = Extractor(root, overlay=True)
                with Ahead(chunks) as ahead, Behind(diff_id) as behind:

                    def tee() -> Iterator[bytes]:
                        for chunk in ahead:
                            behind.put(chunk, [])
                            yield chunk

                    extractor.run(Scanner(tee()))
                    behind.finish()
                syncfs(root)
            finally:
                os.close(root)
            implicit = [os.fsdecode(path) for path in extractor.tree.implicit_directories()]
            ids = tuple(sorted(extractor.tree.extra_ids))
            return LayerInfo(diff_id, extractor.bytes, extractor.tree.nodes, ids, bool(implicit)), implicit

        def _publish(self, part: str, path: str) -> None:
            try:
                os.rename(part, path)
            except OSError as e:
                if e.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                self._discard(part)  # the same layer, from a second ingest at the same time

        def _shown(self, path: str) -> str:
            link = self._link(path)
            try:
                if os.readlink(link) == path:
                    return link
            except FileNotFoundError:
                pass
            os.makedirs(self._links, mode=0o700, exist_ok=True)
            part = f"{link}.{os.getpid():x}"
            os.symlink(path, part)
            os.rename(part, link)
            return link

        def _link(self, path: str) -> str:
            return os.path.join(self._links, "o" + hashlib.sha256(path.encode()).hexdigest()[:20])

        def _hide(self, path: str) -> None:
            try:
                os.unlink(self._link(path))
            except FileNotFoundError:
                pass

        def _release(self, used: set[str]) -> None:
            keep = {self._link(path) for path in used}
            try:
                names = os.listdir(self._links)
            except FileNotFoundError:
                return
            for name in names:
                link = os.path.join(self._links, name)
                if name.startswith("o") and link not in keep:
                    os.unlink(link)
