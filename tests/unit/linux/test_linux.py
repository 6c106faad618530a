# SPDX-License-Identifier: Apache-2.0
"""The kernel layer: errors that name call and object, ids, capabilities, pidfds, terminals, openat2."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from wharfie.linux import caps, cgroupfs, libc, mountapi, namespaces, openat2, process, pty


def test_errors_name_call_and_object(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"open_tree: No such file.*nowhere"):
        mountapi.open_tree(f"{tmp_path}/nowhere")
    with pytest.raises(OSError, match="not known on"):
        libc.syscall("no_such_call")
    with pytest.raises(ValueError, match="NUL"):
        libc.path_bytes("a\0b")


@pytest.mark.root
def test_file_system_errors_carry_the_kernels_words() -> None:
    with pytest.raises(OSError, match="nonsense"):
        mountapi.new_mount("tmpfs", ("nonsense=1",))


def test_extents() -> None:
    extents = namespaces.parse_extents("0:1000:10;10:5000:5")
    assert extents == [(0, 1000, 10), (10, 5000, 5)]
    assert [namespaces.host_id(extents, n) for n in (0, 9, 10, 14, 15)] == [1000, 1009, 5000, 5004, None]
    with pytest.raises(ValueError, match=r"not enough|invalid"):
        namespaces.parse_extents("0:1")


@pytest.mark.root
def test_user_namespace_by_descriptor() -> None:
    fd = namespaces.create_userns([(0, 70000, 10)], [(0, 80000, 10)])
    try:
        assert os.readlink(f"/proc/self/fd/{fd}").startswith("user:[")
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="uid_map"):
        namespaces.create_userns([(0, 1, 5), (0, 100, 5)], [(0, 1, 5)])


def test_clone3_gives_a_pidfd() -> None:
    pid, pidfd = namespaces.clone3(0)
    if pid == 0:
        signal.pause()
        os._exit(0)
    process.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    with pytest.raises(ProcessLookupError, match="pidfd_send_signal"):
        process.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def test_capabilities() -> None:
    assert caps.mask(["CAP_CHOWN", "cap_kill"]) == 0b100001
    assert caps.names(0b100001) == ["CAP_CHOWN", "CAP_KILL"]
    with pytest.raises(KeyError, match="CAP_NOPE"):
        caps.mask(["CAP_NOPE"])
    status = Path("/proc/self/status").read_text()
    assert caps.permitted() == int(status.split("CapPrm:\t")[1].split()[0], 16)


def test_openat2_rules(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    top = openat2.openat2(openat2.AT_FDCWD, str(tmp_path), openat2.O_PATH | openat2.O_DIRECTORY)
    try:
        with pytest.raises(OSError) as e:
            openat2.openat2(top, "link", openat2.O_PATH, 0, openat2.RESOLVE_NO_SYMLINKS)
        assert e.value.errno == errno.ELOOP
        with pytest.raises(OSError) as e:
            openat2.openat2(top, "../x", openat2.O_PATH, 0, openat2.RESOLVE_BENEATH)
        assert e.value.errno == errno.EXDEV
    finally:
        os.close(top)


def test_terminal_by_descriptor() -> None:
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    peer = pty.unlock_and_open_peer(master)
    pty.set_size(master, 33, 44)
    assert os.get_terminal_size(peer) == (44, 33)
    os.write(master, b"x\n")
    assert os.read(peer, 10) == b"x\n"
    os.close(peer)
    os.close(master)


def test_rlimits_of_another_process() -> None:
    pid, pidfd = namespaces.clone3(0)
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        process.prlimit(7, 50, 60, pid=pid)
        assert process.hard_limit(7, pid) == 60
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)


def test_cgroup_moves_switch(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("33 30 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate,favordynmods\n")
    assert cgroupfs.moves_are_favored(str(table)) is True
    assert cgroupfs.favor_moves(str(table)) is True
    table.write_text("33 30 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n")
    assert cgroupfs.moves_are_favored(str(table)) is False
    table.write_text("")
    assert cgroupfs.moves_are_favored(str(table)) is None
