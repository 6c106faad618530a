# SPDX-License-Identifier: Apache-2.0
"""The socket beside a shim's ttrpc socket: SEQPACKET, a JSON document a message, descriptors beside it.

    request   {"seq": n, "op": name, …}       descriptors as the op says
    answer    {"seq": n, "ok": …} or {"seq": n, "error": {code, message, hint, fields}}

Ops: `attach`, `logs` (one descriptor: the client's socket), `exec` (a descriptor for each parked client), `stats`,
`delete` (release all and end). The version stands in `<run directory>/shim.json`; a daemon serves older ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wharfie.tasks import AttachRequest, CreateRequest, LogsRequest

PROTOCOL = 1
MAX_MESSAGE = 1 << 20
MAX_FDS = 250


def attach_document(request: AttachRequest) -> dict[str, Any]:
    """The request without its descriptor, which travels beside."""
    document = request._asdict()
    del document["sock_fd"]
    return {**document, "head": request.head.decode("latin-1"), "detach_keys": request.detach_keys.decode("latin-1")}


def attach_request(document: dict[str, Any], sock_fd: int) -> AttachRequest:
    bytes_of = {name: document[name].encode("latin-1") for name in ("head", "detach_keys")}
    return AttachRequest(**{**document, **bytes_of, "sock_fd": sock_fd})


def logs_document(request: LogsRequest) -> dict[str, Any]:
    document = request._asdict()
    del document["sock_fd"]
    return document


def logs_request(document: dict[str, Any], sock_fd: int) -> LogsRequest:
    return LogsRequest(**document, sock_fd=sock_fd)


def exec_document(
    exec_id: str, process_json: bytes, *, terminal: bool, stdin_open: bool, attach: Sequence[AttachRequest]
) -> dict[str, Any]:
    return {
        "op": "exec",
        "exec_id": exec_id,
        "process": process_json.decode(),
        "terminal": terminal,
        "stdin_open": stdin_open,
        "attach": [attach_document(a) for a in attach],
    }


def shim_document(request: CreateRequest, run: str) -> dict[str, object]:
    """Arguments of the zygote's entries `shim` and `stdio`; descriptors of `attach` travel beside."""
    return {
        "namespace": request.namespace,
        "id": request.container_id,
        "run": run,
        "terminal": request.terminal,
        "stdin_open": request.stdin_open,
        "stdin_once": request.stdin_once,
        "log": request.log._asdict(),
        "runtime": request.runtime,
        "runtime_options": request.runtime_options,
        "attach": [attach_document(a) for a in request.attach],
        "exit_durable": request.exit_durable,
    }
