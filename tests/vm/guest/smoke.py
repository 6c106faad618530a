# SPDX-License-Identifier: Apache-2.0
"""Runs inside the guest: the engine's main job, step by step. Prints one line a step for `vm.machine.parse`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, "/payload/guest")

from harness import images
from harness.registry import Registry

CGROUPS = Path("/sys/fs/cgroup")
ROOT = Path("/var/lib/wharfie")
LOG = Path("/run/wharfied.log")
REF = ""


def say(line: str) -> None:
    print(f"WHARFIE-VM {line}", flush=True)


def wharfie(*args: str, check: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["wharfie", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"wharfie {args}: exit {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done


def out(*args: str) -> str:
    return wharfie(*args).stdout.strip()


def inspect(name: str, template: str) -> str:
    return out("inspect", "--format", template, name)


def equal(found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"found {found!r}, wanted {wanted!r}")


def until(look: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


def answers() -> bool:
    """Asked by hand: a CLI that finds nobody starts a daemon of its own."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        try:
            s.connect("/run/wharfie/wharfie.sock")
            s.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in s.recv(64)
        except OSError:
            return False


class Daemon:
    """wharfied with the default paths, started by hand."""

    def __init__(self, *args: str) -> None:
        self.args = args
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with LOG.open("ab") as log:
            self.process = subprocess.Popen(
                ["wharfied", *self.args], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until(answers, "wharfied answers")

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        equal(self.process.wait(120), 0)


daemon = Daemon()


def registry() -> None:
    global REF
    REF = images.busybox().push(Registry().host, "library/busybox")


def info() -> None:
    text = out("info")
    for line in ("Cgroup Version: 2", "Storage Driver: "):
        if line not in text:
            raise AssertionError(text)


def pull() -> None:
    wharfie("pull", REF)
    equal("busybox" in out("images"), True)


def run() -> None:
    equal(out("run", "--rm", REF, "echo", "hello"), "hello")
    equal(wharfie("run", "--rm", REF, "sh", "-c", "exit 7", check=False).returncode, 7)
    equal(wharfie("run", "--rm", REF, "/no/such", check=False).returncode, 127)


def userns() -> None:
    """The rung of kernels 5.19 to 6.14: a user namespace over idmapped mounts attached in a mount namespace."""
    script = "cat /proc/self/uid_map; touch /mine /v/file; stat -c %u /mine /v/file /bin/busybox"
    first, *owners = out("run", "--rm", "-v", "vol:/v", REF, "sh", "-c", script).splitlines()
    equal(first.split()[1] != "0", True)
    equal(owners, ["0", "0", "0"])
    equal((ROOT / "volumes/vol/_data/file").stat().st_uid, 0)


def limits() -> None:
    flags = ("-m", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "20", "--cpuset-cpus", "0")
    script = "cd /sys/fs/cgroup; cat memory.max memory.swap.max cpu.max pids.max cpuset.cpus"
    equal(out("run", "--rm", *flags, REF, "sh", "-c", script).split("\n"), ["67108864", "0", "50000 100000", "20", "0"])


def update() -> None:
    wharfie("run", "-d", "--name", "u", "-m", "64m", REF, "sleep", "600")
    wharfie("update", "-m", "96m", "--memory-swap", "96m", "u")
    equal(out("exec", "u", "cat", "/sys/fs/cgroup/memory.max"), str(96 << 20))
    wharfie("rm", "-f", "u")


def out_of_memory() -> None:
    done = wharfie("run", "--name", "oom", "-m", "16m", "--memory-swap", "16m", REF, "tail", "/dev/zero", check=False)
    equal(done.returncode, 137)
    equal(inspect("oom", "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137")
    wharfie("rm", "oom")


def devices() -> None:
    """cgroup v2 decides on devices by eBPF."""
    script = "mknod /m c 1 1; head -c1 /m 2>&1 | grep -o 'not permitted'; head -c1 /dev/zero | wc -c"
    equal(out("run", "--rm", "--userns", "host", REF, "sh", "-c", script).split("\n"), ["not permitted", "1"])
    flags = ("--userns", "host", "--device", "/dev/vda:/dev/disk:r")
    script = "dd if=/dev/disk of=/dev/null bs=512 count=1 2>/dev/null && echo read; echo x 2>&1 >/dev/disk | head -c0; (echo x >/dev/disk) 2>&1 | grep -o 'not permitted'"
    equal(out("run", "--rm", *flags, REF, "sh", "-c", script).split("\n"), ["read", "not permitted"])


def lifecycle() -> None:
    wharfie("run", "-d", "--name", "c", REF, "sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.2; done")
    equal(out("exec", "c", "sh", "-c", "echo in; id -u"), "in\n0")
    equal(wharfie("exec", "c", "false", check=False).returncode, 1)
    wharfie("pause", "c")
    equal(inspect("c", "{{.State.Status}}"), "paused")
    cgroup = next(CGROUPS.glob(f"**/{inspect('c', '{{.Id}}')}"))
    equal((cgroup / "cgroup.events").read_text().split()[-1], "1")
    wharfie("unpause", "c")
    equal(inspect("c", "{{.State.Status}}"), "running")
    until(lambda: "line 3" in out("logs", "c"), "the fourth line")
    equal(out("logs", "--tail", "1", "c").count("\n"), 0)
    equal("sh" in out("top", "c"), True)


def joined() -> None:
    """Two containers in one network, pid and user namespace."""
    script = "tr '\\0' ' ' </proc/1/cmdline | cut -c1-5; readlink /proc/self/ns/user"
    first, user = out("run", "--rm", "--pid", "container:c", "--network", "container:c", REF, "sh", "-c", script).split(
        "\n"
    )
    equal(first, "sh -c")
    equal(user, out("exec", "c", "readlink", "/proc/self/ns/user"))


def restart() -> None:
    """kill -9 of the daemon, and a polite restart: the container and its log go on."""
    pid = inspect("c", "{{.State.Pid}}")
    daemon.kill()
    lines = out_lines_after_restart()
    equal(inspect("c", "{{.State.Pid}}"), pid)
    daemon.stop()
    equal(out_lines_after_restart() > lines, True)
    equal(inspect("c", "{{.State.Status}} {{.State.Pid}}"), f"running {pid}")
    equal(out("exec", "c", "echo", "still"), "still")


def out_lines_after_restart() -> int:
    daemon.start()
    lines = out("logs", "c").split("\n")
    numbers = [int(line.split()[1]) for line in lines]
    equal(numbers, list(range(len(numbers))))
    until(lambda: len(out("logs", "c").split("\n")) > len(numbers), "the log grows")
    return len(numbers)


def kill() -> None:
    wharfie("kill", "c")
    equal(out("wait", "c"), "137")
    wharfie("rm", "c")
    equal([p for p in CGROUPS.glob("wharfie/*") if p.is_dir()], [])


def snapshotters() -> None:
    """Every rung that can work here does; one that cannot says why."""
    text = out("info")
    say("note " + " | ".join(line.strip() for line in text.splitlines() if "erofs" in line or "overlay" in line))
    daemon.stop()
    for name in ("overlay", "native"):
        config = Path(f"/run/{name}.toml")
        config.write_text(f'snapshotter = "{name}"\n')
        other = Daemon("--root", f"/var/lib/{name}", "--config", str(config))
        other.start()
        try:
            wharfie("pull", REF)
            equal(out("run", "--rm", REF, "sh", "-c", "echo x >/f && cat /f"), "x")
            equal(f"Storage Driver: {name}" in out("info"), True)
        finally:
            other.stop()


def no_userns() -> None:
    """The lowest rung: no user namespace for anybody. Containers run in the host's, and info says so."""
    limit = Path("/proc/sys/user/max_user_namespaces")
    before = limit.read_text()
    limit.write_text("0")
    try:
        daemon.start()
        equal(out("run", "--rm", REF, "cat", "/proc/self/uid_map").split()[:2], ["0", "0"])
        equal("max_user_namespaces" in wharfie("info").stderr, True)
        done = wharfie("run", "--rm", "--userns", "auto", REF, "true", check=False)
        equal((done.returncode, "max_user_namespaces" in done.stderr), (125, True))
    finally:
        limit.write_text(before)
        daemon.stop()


def nothing_left() -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    equal([m for m in mounts if "wharfie" in m and not m.startswith("/payload")], [])
    commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline")]
    equal([c for c in commands if b"wharfie" in c and b"smoke" not in c], [])


def systemctl(*args: str) -> str:
    return subprocess.run(["systemctl", *args], check=True, capture_output=True, text=True, timeout=180).stdout.strip()


def activation() -> None:
    """The packaged units: the socket starts the service, which says when it is ready."""
    units = Path("/etc/systemd/system")
    for unit in Path("/payload/systemd").iterdir():
        (units / unit.name).write_text(unit.read_text())
    drop_in = units / "wharfie.service.d"
    drop_in.mkdir(exist_ok=True)
    (drop_in / "path.conf").write_text(f"[Service]\nEnvironment=PATH={os.environ['PATH']}\n")
    subprocess.run(["groupadd", "--system", "wharfie"], check=True)
    systemctl("daemon-reload")
    systemctl("start", "wharfie.socket")
    equal(out("version", "--format", "{{.Server.Version}}") != "", True)
    equal(systemctl("is-active", "wharfie.service"), "active")
    socket = Path("/run/wharfie/wharfie.sock").stat()
    equal(oct(socket.st_mode & 0o777), oct(0o660))


def survive_systemd() -> None:
    """systemctl restart and a crash of the service leave the container alone."""
    wharfie(
        "run",
        "-d",
        "--name",
        "c",
        "-m",
        "64m",
        REF,
        "sh",
        "-c",
        "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.2; done",
    )
    pid = inspect("c", "{{.State.Pid}}")
    systemctl("restart", "wharfie.service")
    equal(inspect("c", "{{.State.Status}} {{.State.Pid}}"), f"running {pid}")
    main = systemctl("show", "-p", "MainPID", "--value", "wharfie.service")
    os.kill(int(main), signal.SIGKILL)
    until(
        lambda: systemctl("show", "-p", "MainPID", "--value", "wharfie.service") not in {"0", main},
        "systemd restarts it",
    )
    equal(inspect("c", "{{.State.Status}} {{.State.Pid}}"), f"running {pid}")
    equal(out("exec", "c", "echo", "still"), "still")


def scope_of(pid: str) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")


def shown(unit: str, *names: str) -> str:
    """Properties of a unit, in the order asked for."""
    lines = systemctl("show", "-p", ",".join(names), unit).splitlines()
    found = dict(line.split("=", 1) for line in lines)
    return " ".join(found[name] for name in names)


def gone(unit: str) -> bool:
    return shown(unit, "LoadState") == "not-found" and not any(CGROUPS.glob(f"**/{unit}"))


def scope() -> None:
    """The systemd driver: limits are systemd's own, so that it keeps them when it writes them again."""
    equal("Cgroup Driver: systemd" in out("info"), True)
    flags = ("-m", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "30", "--cpuset-cpus", "0")
    wharfie("run", "-d", "--name", "s", *flags, "--cgroup-parent", "wh-test.slice", REF, "sleep", "600")
    unit = f"wharfie-{inspect('s', '{{.Id}}')}.scope"
    path = f"/wh.slice/wh-test.slice/{unit}"
    equal(shown(unit, "ControlGroup", "Slice", "Delegate"), f"{path} wh-test.slice yes")
    limits = ("MemoryMax", "MemorySwapMax", "TasksMax", "CPUQuotaPerSecUSec", "AllowedCPUs")
    equal(shown(unit, *limits), "67108864 0 30 500ms 0")
    equal(scope_of(inspect("s", "{{.State.Pid}}")), path)
    equal(out("exec", "s", "cat", "/proc/self/cgroup"), "0::/")
    wharfie("update", "-m", "96m", "--memory-swap", "96m", "--cpus", "0.25", "s")
    equal(shown(unit, *limits), "100663296 0 30 250ms 0")
    systemctl("daemon-reload")
    systemctl("set-property", "--runtime", unit, "IOWeight=50")
    files = ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpuset.cpus")
    equal([(CGROUPS / path[1:] / f).read_text().strip() for f in files], ["100663296", "0", "30", "25000 100000", "0"])
    wharfie("kill", "s")
    equal(out("wait", "s"), "137")
    until(lambda: gone(unit), "the scope goes with its container", 10)
    wharfie("start", "s")
    equal(shown(unit, "ActiveState", "MemoryMax"), "active 100663296")
    wharfie("rm", "-f", "s")
    until(lambda: gone(unit), "the scope goes with its container", 10)
    done = wharfie("run", "--rm", "--cgroup-parent", "/a/path", REF, "true", check=False)
    equal((done.returncode, "slice" in done.stderr), (125, True))


def scope_stays() -> None:
    """After restarts of the daemon; a killed supervisor's scope is swept."""
    pid = inspect("c", "{{.State.Pid}}")
    unit = f"wharfie-{inspect('c', '{{.Id}}')}.scope"
    equal(scope_of(pid), f"/system.slice/{unit}")
    wharfie("run", "-d", "--name", "orphan", REF, "sleep", "600")
    orphan = f"wharfie-{inspect('orphan', '{{.Id}}')}.scope"
    stat = Path(f"/proc/{inspect('orphan', '{{.State.Pid}}')}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
    until(lambda: gone(orphan), "the sweep", 30)
    wharfie("rm", "-f", "orphan")
    equal(shown(unit, "ActiveState"), "active")


def oci_scope() -> None:
    """`wharfie-oci --systemd-cgroup`, command by command, each a process of its own."""
    bundle = Path("/run/bundle")
    (bundle / "rootfs/bin").mkdir(parents=True)
    (bundle / "rootfs/bin/busybox").write_bytes(Path("/payload/bin/busybox").read_bytes())
    (bundle / "rootfs/bin/busybox").chmod(0o755)
    oci("spec", "--bundle", str(bundle))
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"args": ["/bin/busybox", "sleep", "600"], "terminal": False}
    spec["linux"]["cgroupsPath"] = "a-b.slice:oci:x"
    spec["linux"].setdefault("resources", {}).update(pids={"limit": 20}, memory={"limit": 32 << 20})
    (bundle / "config.json").write_text(json.dumps(spec))
    equal(oci("create", "--bundle", str(bundle), "x", systemd=False, check=False), "")
    oci("run", "--detach", "--bundle", str(bundle), "x")
    try:
        equal(shown("oci-x.scope", "ControlGroup", "TasksMax"), "/a.slice/a-b.slice/oci-x.scope 20")
        equal(oci("exec", "x", "/bin/busybox", "cat", "/proc/self/cgroup"), "0::/")
        oci("update", "--memory", str(48 << 20), "x")
        equal(shown("oci-x.scope", "MemoryMax"), str(48 << 20))
        equal(oci("create", "--bundle", str(bundle), "y", check=False), "")
        equal(shown("oci-x.scope", "ActiveState"), "active")
    finally:
        oci("delete", "--force", "x")
    equal(gone("oci-x.scope"), True)


def oci(*args: str, systemd: bool = True, check: bool = True) -> str:
    """stdout; where a failure is wanted (`check` off), "" for one."""
    with Path("/run/oci.out").open("w+") as f:
        words = ["wharfie-oci", *(["--systemd-cgroup"] if systemd else []), *args]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=f, stderr=f, timeout=180)
    text = Path("/run/oci.out").read_text().strip()
    if check and done.returncode:
        raise AssertionError(f"{words}: exit {done.returncode}\n{text[-2000:]}")
    if not check and not done.returncode:
        raise AssertionError(f"{words}: it went well\n{text[-2000:]}")
    return text if check else ""


def stats() -> None:
    status = json.loads(out("stats", "--no-stream", "--format", "json", "c").splitlines()[0])
    equal("MiB" in status["MemUsage"] or "KiB" in status["MemUsage"], True)


PLAIN = [registry, daemon.start, info, pull, run, userns, limits, update, out_of_memory, devices, lifecycle, stats, joined, restart, kill, snapshotters, no_userns, nothing_left]  # fmt: skip
SYSTEMD = [registry, activation, info, pull, run, limits, scope, survive_systemd, scope_stays, joined, oci_scope, kill]


def main() -> None:
    for act in SYSTEMD if sys.argv[1] == "systemd" else PLAIN:
        start = time.monotonic()
        name = act.__qualname__
        try:
            act()
        except BaseException:
            say(f"fail {name} " + traceback.format_exc()[-2500:].replace("\n", "\\n"))
            if act in {registry, pull} or "start" in name:
                break
        else:
            say(f"ok {name} {time.monotonic() - start:.2f}")
    log = LOG.read_text()[-3000:] if LOG.exists() else subprocess.run(
        ["journalctl", "-b", "-u", "wharfie", "--no-pager", "-n", "40", "-o", "cat"], capture_output=True, text=True
    ).stdout  # fmt: skip
    print(log, flush=True)
    say("end")


if __name__ == "__main__":
    main()
