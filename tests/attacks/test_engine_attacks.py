# SPDX-License-Identifier: Apache-2.0
"""Published attacks replayed against the whole engine; each test is named after the attack and asserts that it fails."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from harness import images
from harness.engine import BIN, WHARFIE, Engine
from harness.registry import Registry

pytestmark = [pytest.mark.root]


def sh(engine: Engine, image: str, script: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return engine.run("run", "--rm", *flags, image, "sh", "-c", script, check=False)


@pytest.mark.parametrize("flags", [(), ("--cap-add", "SYS_ADMIN")], ids=["default", "cap_sys_admin"])
@pytest.mark.parametrize(
    "target",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/proc/sys/kernel/modprobe",
        "/sys/power/state",
    ],
)
def test_classic_host_files_are_not_writable(engine: Engine, busybox: str, target: str, flags: tuple[str, ...]) -> None:
    done = sh(engine, busybox, f"echo x > {target}", *flags)
    assert done.returncode != 0


def test_classic_kcore_keys_timer_list_are_masked(engine: Engine, busybox: str) -> None:
    done = sh(
        engine,
        busybox,
        "for f in kcore keys timer_list latency_stats; do test -e /proc/$f && head -c 10 /proc/$f | wc -c; done; ls /proc/acpi /proc/scsi /sys/firmware | grep -v :",
    )
    assert set(done.stdout.split()) <= {b"0"}, done.stdout


def test_classic_mknod_of_the_host_disk(engine: Engine, busybox: str) -> None:
    device = os.stat("/").st_dev
    done = sh(engine, busybox, f"mknod /d b {os.major(device)} {os.minor(device)} && head -c 1 /d")
    assert done.returncode != 0
    done = sh(engine, busybox, f"mknod /d b {os.major(device)} {os.minor(device)} && head -c 1 /d", "--userns", "host")
    assert done.returncode != 0


def perl(engine: Engine, image: str, script: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return engine.run("run", "--rm", *flags, image, "perl", "-e", script, check=False)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (304, "open_by_handle_at"),
        (250, "keyctl"),
        (248, "add_key"),
        (246, "kexec_load"),
        (425, "io_uring_setup"),
        (321, "bpf"),
        (298, "perf_event_open"),
        (323, "userfaultfd"),
    ],
)
def test_classic_forbidden_syscalls(engine: Engine, debian: str, number: int, name: str) -> None:
    done = perl(engine, debian, f"$r = syscall({number}, 0, 0, 0, 0, 0); print $r, ' ', $!+0;")
    result, errno = done.stdout.split()
    assert result == b"-1", name
    assert errno in {b"1", b"38"}, f"{name} was let through: errno {errno!r}"


def test_cve_2026_31431_af_alg(engine: Engine, debian: str) -> None:
    done = perl(engine, debian, "socket(S, 38, 5, 0) and print 'open'; print $!+0;")
    assert done.stdout in {b"1", b"97"}, done.stdout


@pytest.mark.parametrize("flags", [(), ("--cap-add", "SYS_ADMIN")], ids=["default", "cap_sys_admin"])
def test_cve_2022_0492_release_agent(engine: Engine, busybox: str, flags: tuple[str, ...]) -> None:
    done = sh(
        engine,
        busybox,
        "mkdir /c && mount -t cgroup -o memory cgroup /c && echo /x > /c/release_agent && echo escaped",
        *flags,
    )
    assert b"escaped" not in done.stdout


def test_cve_2022_0185_user_namespace_and_mount(engine: Engine, busybox: str) -> None:
    done = sh(engine, busybox, "unshare -Ur -m sh -c 'mount -t tmpfs t /tmp && echo mounted'")
    assert b"mounted" not in done.stdout


def test_cve_2024_21626_leaked_descriptors(engine: Engine, busybox: str) -> None:
    assert set(sh(engine, busybox, "ls /proc/1/fd").stdout.split()) <= {b"0", b"1", b"2", b"3", b"10", b"255"}
    engine.run("run", "-d", "--name", "fds", busybox, "sleep", "1000")
    assert set(engine.out("exec", "fds", "ls", "/proc/1/fd").split()) == {"0", "1", "2"}
    for number in range(3, 40):
        where = f"/proc/self/fd/{number}"
        done = sh(engine, busybox, "cat ../../../../etc/shadow 2>/dev/null; pwd -P", "-w", where)
        assert b"root:" not in done.stdout, where
        if number % 6 == 0:
            done = engine.run("exec", "-w", where, "fds", "sh", "-c", "cat ../../../../etc/shadow", check=False)
            assert b"root:" not in done.stdout, where


def _programs() -> dict[str, str]:
    paths = [*BIN.glob("wharfie*"), Path("/usr/bin/python3.11"), *(BIN.parent.parent / "src/wharfie").rglob("*.py")]
    return {str(p): hashlib.sha256(p.resolve().read_bytes()).hexdigest() for p in paths if p.is_file()}


@pytest.mark.parametrize("flags", [(), ("--privileged",)], ids=["default", "privileged"])
def test_cve_2019_5736_overwrite_the_runtime(
    engine: Engine, registry: Registry, debian: str, flags: tuple[str, ...]
) -> None:
    before = _programs()
    overwrite = (
        "for $i in 1..400 { for $d (glob '/proc/[0-9]*/exe') { if (open(F, '+<', $d)) { my $t = readlink $d;"
        " if ($t !~ m{^/usr/bin/perl}) { print F 'x'; print 'WROTE ', $t; } close F } } select(undef,undef,undef,0.005) }"
    )
    engine.run("run", "-d", "--name", "evil", *flags, debian, "perl", "-e", overwrite)
    for _ in range(5):
        engine.run("exec", "evil", "/proc/self/exe", check=False, timeout=20)
    engine.run("wait", "evil")
    done = engine.run("run", "--rm", *flags, "--entrypoint", "/proc/self/exe", debian, check=False)
    assert b"Python" not in done.stdout + done.stderr
    assert _programs() == before


def test_cve_2020_15257_abstract_sockets(engine: Engine, busybox: str) -> None:
    engine.run("run", "-d", busybox, "sleep", "1000")
    done = sh(
        engine,
        busybox,
        "grep -c '@.*\\(shim\\|wharfie\\|containerd-shim/wharfie\\)' /proc/net/unix",
        "--network",
        "host",
    )
    assert done.stdout.strip() == b"0"


def test_cve_2021_41103_state_is_closed_to_others(engine: Engine, busybox: str) -> None:
    engine.base.chmod(0o755)
    engine.run("run", "-d", "-v", "somevolume:/v", busybox, "sleep", "1000")
    open_to_others = [
        str(d) for top in (engine.root, engine.state) for d, _, _ in os.walk(top)
        if Path(d) in {top, *top.iterdir()} and os.stat(d).st_mode & 0o007
    ]  # fmt: skip
    assert not [d for d in open_to_others if Path(d) != engine.state], "a directory of the engine is open to others"
    reachable = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "find", str(engine.root), str(engine.state), "-maxdepth", "6", "-type", "f", "-readable"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert reachable.stdout == ""
    engine.remove_containers()
    engine.run("volume", "rm", "somevolume")


def push(registry: Registry, name: str, extra: dict[str, object], config: dict[str, object] | None = None) -> str:
    return images.Image([images.busybox_tar(), images.make_tar(extra)], config).push(registry.host, name)


def test_cve_2019_16884_volume_over_proc(engine: Engine, registry: Registry) -> None:
    ref = push(registry, "volproc", {"x": b""}, {"Volumes": {"/proc": {}}})
    done = engine.run("run", "--rm", ref, "true", check=False)
    assert done.returncode == 125
    assert b"/proc" in done.stderr


def test_cve_2022_23648_volume_path_escapes(engine: Engine, registry: Registry, busybox: str) -> None:
    ref = push(
        registry, "volescape", {"link": ("link", "/etc")}, {"Volumes": {"/../../etc": {}, "/link/../../../root": {}}}
    )
    done = engine.run("run", "--rm", ref, "sh", "-c", "cat /etc/shadow /root/.bashrc 2>/dev/null | wc -c", check=False)
    assert done.stdout.strip() in {b"0", b""}


def test_cve_2021_3602_environment_without_equals(engine: Engine, registry: Registry) -> None:
    os.environ["WHARFIE_CANARY"] = "secret of the host"
    try:
        ref = push(registry, "envs", {"x": b""}, {"Env": ["WHARFIE_CANARY", "*", "PATH=/bin", "=x", ""]})
        done = engine.run("run", "--rm", ref, "env", check=False)
        assert b"secret of the host" not in done.stdout
    finally:
        del os.environ["WHARFIE_CANARY"]


@pytest.mark.parametrize("user", ["4294967296:1", "2147483648", "0:4294967296", "99999999999999999999"])
def test_cve_2024_40635_user_id_wraps(engine: Engine, registry: Registry, user: str) -> None:
    ref = push(registry, f"wraps{len(user)}", {"x": b""}, {"User": user})
    done = engine.run("run", "--rm", ref, "id", "-u", check=False)
    assert done.returncode == 125
    assert user.split(":", maxsplit=1)[0].encode() in done.stderr or user.encode() in done.stderr


def test_cve_2026_46680_numeric_name_in_passwd(engine: Engine, registry: Registry) -> None:
    ref = push(
        registry, "numeric", {"etc/passwd": b"1000:x:0:0:root:/:/bin/sh\nroot:x:0:0::/root:/bin/sh\n"}, {"User": "1000"}
    )
    assert engine.out("run", "--rm", ref, "id", "-u") == "1000"


def test_cve_2024_9676_passwd_is_a_link_or_huge(engine: Engine, registry: Registry) -> None:
    ref = push(
        registry,
        "passwdlink",
        {"etc/passwd": ("link", "/proc/self/environ"), "etc/group": ("link", "../../../../../../etc/shadow")},
    )
    done = engine.run("run", "--rm", "-u", "root:shadow", ref, "id", check=False)
    assert b"shadow" not in done.stdout
    huge = push(registry, "passwdhuge", {"etc/group": b"x" * (64 << 20)})
    done = engine.run("run", "--rm", "-u", "root:somegroup", huge, "id", check=False, timeout=30)
    assert done.returncode == 125


def test_cve_2025_9566_workdir_through_a_link(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    ref = push(registry, "wdlink", {"w": ("link", f"../../../../../../../..{tmp_path}")}, {"WorkingDir": "/w/made"})
    engine.run("run", "--rm", ref, "true", check=False)
    assert list(tmp_path.iterdir()) == []


def test_cve_2026_41579_dev_is_a_link(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    tar = images.make_tar(
        {
            "bin/busybox": ("exec", Path("/bin/busybox").read_bytes()),
            "bin/sh": ("hard", "bin/busybox"),
            "dev": ("link", str(tmp_path)),
            "proc": ("dir", 0o555),
            "sys": ("dir", 0o555),
        }
    )
    ref = images.Image([tar]).push(registry.host, "devlink")
    engine.run("run", "--rm", ref, "sh", "-c", "exit 0", check=False)
    assert list(tmp_path.iterdir()) == []


def test_cve_2025_31133_dev_null_is_a_link(engine: Engine, registry: Registry) -> None:
    tar = images.make_tar(
        {
            "bin/busybox": ("exec", Path("/bin/busybox").read_bytes()),
            "bin/cat": ("hard", "bin/busybox"),
            "bin/sh": ("hard", "bin/busybox"),
            "dev/null": ("link", "/proc/sys/kernel/core_pattern"),
            "proc": ("dir", 0o555),
            "sys": ("dir", 0o555),
        }
    )
    ref = images.Image([tar]).push(registry.host, "nulllink")
    done = engine.run("run", "--rm", ref, "sh", "-c", "cat /proc/kcore; cat /proc/keys", check=False)
    assert done.stdout == b""


def test_cve_2018_15664_cp_races_a_link(engine: Engine, busybox: str, tmp_path: Path) -> None:
    engine.run(
        "run",
        "-d",
        "--name",
        "flip",
        busybox,
        "sh",
        "-c",
        "mkdir /d; while :; do ln -sfn / /l; rm -f /l; mkdir -p /l; rmdir /l; done",
    )
    canary = tmp_path / "payload"
    canary.write_text("payload")
    before = set(os.listdir("/"))
    for _ in range(20):
        engine.run("cp", str(canary), "flip:/l/", check=False)
        engine.run("cp", "flip:/l/etc/hostname", str(tmp_path / "got"), check=False)
    assert set(os.listdir("/")) == before
    if (tmp_path / "got").exists():
        assert (tmp_path / "got").read_text() != Path("/etc/hostname").read_text()


def test_cve_2019_14271_nothing_is_loaded_from_the_container(engine: Engine, registry: Registry) -> None:
    trap = b"open('/PWNED','w')\nraise SystemExit\n"
    tree: dict[str, object] = {
        f"usr/lib/python3.11/{m}.py": trap for m in ("encodings/__init__", "os", "tarfile", "pwd", "struct", "warnings")
    }
    ref = push(registry, "imports", tree)
    engine.run("run", "-d", "--name", "trap", ref, "sleep", "1000")
    engine.run("cp", "trap:/etc/passwd", f"{engine.base}/copied")
    engine.run("cp", f"{engine.base}/copied", "trap:/root/")
    engine.run("exec", "trap", "true")
    assert engine.run("exec", "trap", "test", "-e", "/PWNED", check=False).returncode == 1
    assert not Path("/PWNED").exists()


def test_cve_2022_31030_endless_output(engine: Engine, busybox: str) -> None:
    engine.run("run", "-d", "--name", "loud", "--log-driver", "none", busybox, "sleep", "1000")
    process = subprocess.Popen([WHARFIE, "exec", "loud", "yes"], env=engine.env(), stdout=subprocess.PIPE)
    assert process.stdout
    for _ in range(200):
        process.stdout.read(1 << 20)
    process.kill()
    process.wait()
    process.stdout.close()
    rss = next(line for line in Path(f"/proc/{engine.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    assert int(rss.split()[1]) < 200_000, rss


def test_cve_2026_53488_reserved_labels_of_images(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    labels = {
        "containerd.io/restart.loguri": f"binary:///bin/touch?{witness}",
        "containerd.io/restart.status": "running",
        "io.wharfie.docker.v1": "{}",
    }
    ref = push(registry, "labels", {"x": b""}, {"Labels": labels})
    assert engine.out("run", "--rm", ref, "echo", "fine") == "fine"
    assert not witness.exists()
