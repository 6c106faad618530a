# SPDX-License-Identifier: Apache-2.0
"""D-Bus against dbus-daemon: the real bus parses what we send and we parse what it sends; plus what no peer would send."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from wharfie.errdefs import DataLoss, DeadlineExceeded, PermissionDenied, Unavailable
from wharfie.linux import dbus
from wharfie.linux.dbus import Connection, Variant, marshal, types, unmarshal

BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need("dbus-daemon")
    path = tmp_path_factory.mktemp("bus") / "socket"
    config = path.with_name("bus.conf")
    config.write_text(
        f"<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>"
        '<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>'
        '<allow own="*"/></policy></busconfig>'
    )
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--nosyslog", "--print-address=1"],
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout
    daemon.stdout.readline()  # it listens
    yield str(path)
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()


def test_call(bus: str) -> None:
    with Connection.open(bus, bus=True) as c:
        (names,) = c.call(*BUS, "ListNames")
        assert BUS[0] in names
        assert c.call(*BUS, "NameHasOwner", "s", "no.such") == (False,)
        assert c.call(*BUS, "GetConnectionUnixProcessID", "s", BUS[0])[0] > 0
        (credentials,) = c.call(*BUS, "GetConnectionCredentials", "s", BUS[0])
        assert ("UnixUserID", Variant("u", os.geteuid())) in credentials


def test_error_has_a_name(bus: str) -> None:
    with Connection.open(bus, bus=True) as c:
        with pytest.raises(dbus.CallFailed, match="NoSuchMethod") as caught:
            c.call(*BUS, "NoSuchMethod")
        assert caught.value.name == "org.freedesktop.DBus.Error.UnknownMethod"
        assert c.call(*BUS, "NameHasOwner", "s", BUS[0]) == (True,)


def test_signal_that_came_before_it_is_asked_for(bus: str) -> None:
    with Connection.open(bus, bus=True) as c:
        c.call(*BUS, "AddMatch", "s", "type='signal',member='NameOwnerChanged'")
        c.call(*BUS, "RequestName", "su", "wharfie.test", 0)
        c.call(*BUS, "ReleaseName", "s", "wharfie.test")
        message = c.signal("NameOwnerChanged", 0, "wharfie.test")
        assert message.body[1] == ""
        assert str(message.body[2]).startswith(":")


def test_any_type_reaches_the_other_side(bus: str) -> None:
    """The bus checks every message that passes: what it hands on is well formed."""
    signature = "ybnqiuxtdsoga(sa(sv))a{sv}ayaai(y(t))"
    values = (
        7, True, -3, 65535, -5, 1 << 31, -(1 << 40), (1 << 64) - 1, 0.5, "grüß", "/a/b", "a(sv)",
        [("x", [("PIDs", Variant("au", [1, 2])), ("Slice", Variant("s", "a.slice"))]), ("", [])],
        [("deep", Variant("v", Variant("(ay)", (b"\0\1",))))], b"\xff" * 3, [[], [1], [2, 3]], (1, (2,)),
    )  # fmt: skip
    with Connection.open(bus, bus=True) as a, Connection.open(bus, bus=True) as b:
        (names,) = b.call(*BUS, "RequestName", "su", "wharfie.peer", 0), *[]
        assert names == (1,)
        a.send("wharfie.peer", "/", "wharfie.Test", "Take", signature, *values)
        while (message := b._receive()).member != "Take":
            pass
        assert message.kind == dbus.CALL
        assert message.body == values


@pytest.mark.parametrize("signature", ["(", "a", "(s", "z", "a{s", "(" * 80 + ")" * 80, "a" * 80 + "s"])
def test_bad_signatures(signature: str) -> None:
    with pytest.raises(DataLoss):
        types(signature)


@pytest.mark.parametrize(
    ("signature", "data"),
    [
        ("s", b"\xff\xff\xff\x7f"),
        ("ay", b"\x04\0\0\0ab"),
        ("t", b"\0" * 7),
        ("v", b"\2su\0"),
        ("v", b"\1v\0" * 200),
        ("a()", b"\x08\0\0\0" + b"\0" * 12),
    ],
)
def test_bad_bodies(signature: str, data: bytes) -> None:
    with pytest.raises(DataLoss):
        unmarshal(signature, data)


def test_big_endian() -> None:
    assert unmarshal("su", b"\0\0\0\1x\0\0\0\0\0\0\7", ">") == ("x", 7)
    assert marshal("su", "x", 7) == b"\1\0\0\0x\0\0\0\7\0\0\0"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"REJECTED EXTERNAL\r\n", PermissionDenied),
        (b"", Unavailable),
        (b"OK 1234\r\n", Unavailable),
        (b"OK 1234\r\n" + b"x" * 16, DataLoss),
        (b"OK 1234\r\nl\2\0\1\xff\xff\xff\xff\1\0\0\0\0\0\0\0", DataLoss),
    ],
)
def test_peers_that_go_wrong(tmp_path: Path, answer: bytes, error: type[Exception]) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        if (child := os.fork()) == 0:
            try:
                peer, _ = server.accept()
                peer.recv(1024)
                peer.sendall(answer)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(1024):
                    pass
            finally:
                os._exit(0)
        try:
            with pytest.raises(error):
                with Connection.open(path, bus=False, timeout_s=10) as c:
                    c.call("", "/", "a.b", "C")
        finally:
            os.waitpid(child, 0)


def test_a_silent_peer(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        with pytest.raises(DeadlineExceeded):
            Connection.open(path, bus=False, timeout_s=0.05)
    with pytest.raises(Unavailable):
        Connection.open(path, bus=False)
