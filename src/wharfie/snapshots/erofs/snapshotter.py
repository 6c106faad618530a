# SPDX-License-Identifier: Apache-2.0
"""`snapshots.Snapshotter` with layers that are EROFS files."""

from __future__ import annotations

import os
from collections.abc import Iterator

from wharfie.snapshots.erofs.attach import Attachments
from wharfie.snapshots.erofs.build import build
from wharfie.snapshots.layered import Layered
from wharfie.snapshots.layers import Learnt, learn


class ErofsSnapshotter(Layered):
    name = "erofs"
    suffix = ".erofs"

    def __init__(self, directory: str, state: str) -> None:
        super().__init__(directory, state)
        self._attachments = Attachments(state)

    def _write(self, chunks: Iterator[bytes], diff_id: str, part: str) -> Learnt:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o400)
        try:
            tree = build(chunks, diff_id, fd)
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        return learn(diff_id, size, tree)

    def _publish(self, part: str, path: str) -> None:
        try:
            os.link(part, path)
        except FileExistsError:
            pass  # the same layer, from a second ingest at the same time
        os.unlink(part)

    def _shown(self, path: str) -> str:
        return self._attachments.show(path) if path.endswith(self.suffix) else super()._shown(path)

    def _hide(self, path: str) -> None:
        self._attachments.hide({path})

    def _idle(self) -> bool:
        return super()._idle() and self._attachments.idle()

    def _release(self, used: set[str]) -> None:
        super()._release(used)
        self._attachments.hide(but=used)
