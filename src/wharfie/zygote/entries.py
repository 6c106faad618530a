# SPDX-License-Identifier: Apache-2.0
"""What the zygote can fork: name -> "module:function", as text. A function takes (args, fds).

Long-lived entries return None; workers return bytes, which `run_worker` brings home. A worker for a package above is
added here, by its row.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from wharfie.errdefs import NotFound
from wharfie.rpc.status import to_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Entry = Callable[[bytes, Sequence[int]], bytes | None]

ENTRIES = {
    "shim": "wharfie.shim.serve:serve",
    "stdio": "wharfie.shim.stdio_process:serve",
    "foreign-shim": "wharfie.shim.foreign_start:start",
    "sweep": "wharfie.shim.sweep:sweep",
    "unpack": "wharfie.zygote.unpack:unpack",
    "archive-stat": "wharfie.daemon.services.archive_worker:stat_path",
    "archive-get": "wharfie.daemon.services.archive_worker:get",
    "archive-put": "wharfie.daemon.services.archive_worker:put",
    "archive-export": "wharfie.daemon.services.archive_worker:export",
    "changes": "wharfie.daemon.services.commit_worker:changes",
    "changes-layer": "wharfie.daemon.services.commit_worker:layer",
    "volume-mount": "wharfie.daemon.services.volumes_worker:mount",
    "volume-unmount": "wharfie.daemon.services.volumes_worker:unmount",
    "volume-copy-up": "wharfie.daemon.services.volumes_worker:copy_up",
    "echo": "wharfie.zygote.entries:echo",
}

PRELOAD = (
    "encodings.idna", "wharfie.rpc.blocking", "wharfie.logs.chunks_writer", "wharfie.logs.jsonfile",
    "wharfie.shim.serve", "wharfie.shim.warm", "wharfie.shim.sweep", "wharfie.shim.stdio_process", "wharfie.runtime.linux.*",
    "wharfie.runtime.external", "wharfie.zygote.unpack",
    "wharfie.daemon.services.volumes_worker", "wharfie.daemon.services.archive_worker",
)  # fmt: skip
"""Imported before the first fork, so that no child imports anything on its way; `.*` is a package with all in it."""


SPARE_ENTRY = "shim"
"""What a process is kept ready for (`spare`)."""


def warm() -> None:
    """In the spare: run what its entry runs first, without effect."""
    if sys.platform == "linux":
        from wharfie.shim.warm import warm as warm_shim

        warm_shim()


def preload_modules() -> list[str]:
    """`PRELOAD`, packages spelt out."""
    names: list[str] = []
    for name in PRELOAD:
        if name.endswith(".*"):
            names += _modules_below(name[:-2])
        else:
            names.append(name)
    return names


def _modules_below(package: str) -> list[str]:
    top = os.path.join(os.path.dirname(os.path.dirname(__file__)), *package.split(".")[1:])
    found = []
    for directory, _, files in os.walk(top):
        prefix = package + directory[len(top) :].replace(os.sep, ".")
        found += [f"{prefix}.{f[:-3]}" for f in sorted(files) if f.endswith(".py") and f != "__init__.py"]
    return found


def load(name: str, table: dict[str, str] = ENTRIES) -> Entry:
    """Raises NotFound for a name that is in no row; ImportError."""
    target = table.get(name)
    if target is None:
        raise NotFound(f"fork {name!r}: the zygote has no such entry")
    module, _, function = target.partition(":")
    entry: Entry = getattr(importlib.import_module(module), function)
    return entry


def run_worker(name: str, args: bytes, fds: Sequence[int]) -> int:
    """Run a worker whose first descriptor takes the result: b"+" and bytes, or b"-" and an error document."""
    out, *rest = fds
    try:
        answer = b"+" + (load(name)(args, rest) or b"")
        code = 0
    except BaseException as e:
        answer = b"-" + json.dumps(to_document(e)).encode()
        code = 1
    view = memoryview(answer)
    try:
        while view:
            view = view[os.write(out, view) :]
    except BrokenPipeError:
        pass  # whoever asked has gone
    return code


def echo(args: bytes, fds: Sequence[int]) -> bytes:
    """Give the arguments back, and what can be read from the descriptors: a probe of the whole way."""
    return args + b"".join(os.read(fd, 1 << 16) for fd in fds)
