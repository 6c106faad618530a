# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PT018
"""Frames, errors across the wire, and a server that misbehaving clients cannot hurt."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wharfie import errdefs
from wharfie.rpc.blocking import BlockingClient
from wharfie.rpc.client import connect
from wharfie.rpc.descriptors import receive
from wharfie.rpc.frames import MAX_PAYLOAD, REQUEST, FrameReader, encode_frame
from wharfie.rpc.server import Connection
from wharfie.rpc.status import from_status, to_status
from wharfie.shim.loop import IN, OUT, Loop
from wharfie.spec.pb.task import IDRequest, PidResponse
from wharfie.spec.pb.ttrpc import Request, Status


@given(st.lists(st.tuples(st.integers(1, 2**31), st.integers(1, 3), st.binary(max_size=50))), st.integers(1, 17))
def test_frames_come_out_however_they_are_cut(frames, step):
    data = b"".join(encode_frame(*f) for f in frames)
    reader = FrameReader()
    got = [f for at in range(0, len(data), step) for f in reader.feed(data[at : at + step])]
    assert got == frames


def test_oversized_frames_are_refused_before_they_are_read():
    with pytest.raises(errdefs.InvalidArgument, match="more than"):
        list(FrameReader().feed(struct.pack(">IIBB", MAX_PAYLOAD + 1, 1, 1, 0)))
    with pytest.raises(errdefs.ResourceExhausted):
        encode_frame(1, 1, bytes(MAX_PAYLOAD + 1))


@pytest.mark.parametrize("cls", errdefs.WharfieError.__subclasses__())
def test_errors_keep_class_hint_and_fields(cls):
    status = Status.decode(to_status(cls("do it: no", hint="try that", path="/x")).encode())
    error = from_status(status)
    assert (type(error), error.message, error.hint, error.fields) == (cls, "do it: no", "try that", {"path": "/x"})
    assert 0 < status.code <= 16


def test_errors_of_others_get_the_class_of_their_code():
    assert type(from_status(Status(code=5, message="gone"))) is errdefs.NotFound
    assert type(from_status(Status(code=77, message="?"))) is errdefs.WharfieError


@pytest.fixture
def server():
    """A ttrpc server on a Loop in a thread; `server()` gives a connected socket. Echoes len(id) as pid; id "!" fails."""
    loop = Loop()
    wake_r, wake_w = os.pipe()
    new: list[socket.socket] = []
    live: list[Connection] = []

    def handle(call):
        request = IDRequest.decode(call.payload)
        if request.id == "!":
            call.fail(errdefs.NotFound("find it: not there"))
        elif request.id == "long":
            call.fail(errdefs.NotFound("x" * 100_000))
        elif request.id != "never":
            call.reply(PidResponse(pid=len(request.id)))

    def add(_):
        os.read(wake_r, 1)
        if not new:
            loop.stop()
            return
        sock = new.pop()
        fd = sock.fileno()

        def changed(connection):
            if connection.closed:
                loop.forget(fd)
                live.remove(connection)
            else:
                loop.watch(fd, IN | (OUT if connection.wants_write else 0), event)

        def event(events):
            if events & OUT:
                connection.writable()
            if not connection.closed and events & ~OUT:
                connection.readable()

        connection = Connection(sock, handle, changed)
        live.append(connection)
        loop.watch(fd, IN, event)

    loop.watch(wake_r, IN, add)
    thread = threading.Thread(target=loop.run)
    thread.start()

    def dial():
        ours, theirs = socket.socketpair()
        new.append(theirs)
        os.write(wake_w, b"x")
        return ours

    dial.live = live
    yield dial
    os.write(wake_w, b"x")
    thread.join(10)
    for connection in tuple(live):
        connection.sock.close()
    os.close(wake_r)
    os.close(wake_w)


def test_blocking_client(server):
    client = BlockingClient(server())
    assert client.call("s", "m", IDRequest(id="abc"), PidResponse).pid == 3
    with pytest.raises(errdefs.NotFound, match="find it: not there"):
        client.call("s", "m", IDRequest(id="!"), PidResponse)
    client.close()


def test_many_calls_at_a_time(server):
    async def run():
        client = await connect(server())
        answers = await asyncio.gather(*(client.call("s", "m", IDRequest(id="x" * n), PidResponse) for n in range(300)))
        assert [a.pid for a in answers] == list(range(300))
        with pytest.raises(TimeoutError):
            await client.call("s", "m", IDRequest(id="never"), PidResponse, timeout_s=0.02)
        pending = asyncio.ensure_future(client.call("s", "m", IDRequest(id="never"), PidResponse))
        await asyncio.sleep(0)
        client.close()
        with pytest.raises(errdefs.Unavailable):
            await pending
        with pytest.raises(errdefs.Unavailable):
            await client.call("s", "m", IDRequest(), PidResponse)

    asyncio.run(run())


def test_rubbish_closes_the_connection_and_nothing_else(server):
    good = BlockingClient(server())
    for rubbish in (b"\xff" * 64, encode_frame(1, REQUEST, b"\xff\xff"), os.urandom(4096) + b"\xff" * 10):
        bad = server()
        bad.sendall(rubbish)
        bad.shutdown(socket.SHUT_WR)
        bad.settimeout(5)
        while bad.recv(4096):
            pass
        bad.close()
    assert good.call("s", "m", IDRequest(id="ok"), PidResponse).pid == 2
    good.close()


def test_one_who_never_reads_is_cut_off(server):
    bad, good = server(), BlockingClient(server())
    payload = IDRequest(id="long").encode()
    frame = encode_frame(1, REQUEST, Request(service="s", method="m", payload=payload).encode())
    bad.settimeout(10)
    with pytest.raises(OSError):
        for _ in range(20_000):
            bad.sendall(frame)
    assert good.call("s", "m", IDRequest(id="ok"), PidResponse).pid == 2
    good.close()
    bad.close()


def test_received_descriptors_do_not_survive_exec():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    socket.send_fds(ours, [b"x"], [writer])
    data, fds = receive(theirs, 10, 4)
    assert data == b"x" and len(fds) == 1 and not os.get_inheritable(fds[0])
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(ours, [b"x"], [writer] * 9)
    with pytest.raises(OSError, match="too long"):
        receive(theirs, 10, 1)
    assert len(os.listdir("/proc/self/fd")) == before
    for fd in (reader, writer, *fds):
        os.close(fd)
    ours.close()
    theirs.close()
