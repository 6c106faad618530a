# SPDX-License-Identifier: Apache-2.0
"""What a shim runs before its container is born, run without effect: it gives a spare its own pages of memory.

What comes after the birth is left out: a fork shares all pages again.
"""

from __future__ import annotations

import json
import os
import socket
import sys

assert sys.platform == "linux"  # type checkers of other platforms look no further

from wharfie.rpc.frames import REQUEST, encode_frame
from wharfie.runtime.linux import channel
from wharfie.runtime.linux.cgroups import open_manager
from wharfie.runtime.linux.plan import plan
from wharfie.runtime.linux.template import template
from wharfie.shim.container import Container
from wharfie.shim.events import NoPublisher
from wharfie.shim.loop import Loop
from wharfie.shim.private import container_ops
from wharfie.shim.process import Process, StdioEnds, StdioURIs
from wharfie.shim.serve import ShimServer, start_time
from wharfie.shim.service import TaskService
from wharfie.shim.streams import Streams
from wharfie.spec.pb import task
from wharfie.spec.pb.base import Mount
from wharfie.spec.pb.ttrpc import Request
from wharfie.spec.runtime import IDMapping, Namespace, decode_spec, encode_spec

_NOWHERE = "/proc/self/no-such-bundle"


def warm() -> None:
    start_time(os.getpid())
    spec = template()
    assert spec.linux is not None
    spec.linux.namespaces.append(Namespace("user"))
    spec.linux.uid_mappings = spec.linux.gid_mappings = [IDMapping(0, 1 << 16, 1 << 16)]
    plan("warm", _NOWHERE, decode_spec(encode_spec(spec)))
    open_manager("/warm").views()
    for end in channel.pair():
        end.close()
    _refused_create()


def _refused_create() -> None:
    """Serve a Create whose bundle is not there, from the frame to the answer."""
    loop = Loop()
    server = ShimServer(loop)
    container = Container(loop, "", "warm", NoPublisher().publish, exit_file=False)
    streams = Streams(loop)
    service = TaskService(container, loop.stop)
    service.prepared = Process("", streams, terminal=False, stdin_open=False, uris=StdioURIs())
    StdioEnds(terminal=False, stdin=False).connect(streams)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    private, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.serve_ttrpc(theirs, service.handle)
    server.serve_private(other, container_ops(container, loop.stop))
    mounts = [Mount(type="overlay", source="overlay", options=["lowerdir=/"])]
    create = task.CreateTaskRequest(id="warm", bundle=_NOWHERE, rootfs=mounts)
    request = Request(service=task.SERVICE, method="Create", payload=create.encode())
    server.idle = loop.stop
    with ours, private:
        ours.sendall(encode_frame(1, REQUEST, request.encode()))
        private.send(json.dumps({"op": "warm", "seq": 1}).encode())
    loop.run()
    streams.close()
    loop.close()
