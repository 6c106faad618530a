# SPDX-License-Identifier: Apache-2.0
"""The same words to `wharfie` and to `docker`, on the same engine: the same data on stdout and the same exit code.

stderr is talk, and ours says it in its own words; only its presence is compared.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.conftest import Host

RUN = ("run", "--rm", "--network", "none")


def both(host: Host, *args: str, stdin: bytes | None = None) -> bytes:
    """Run twice, compare; gives stdout."""
    ours = host.run(*args, stdin=stdin)
    theirs = host.run(*args, program="docker", stdin=stdin)
    assert ours.returncode == theirs.returncode, (ours.stderr, theirs.stderr)
    if args[0] == "images":  # docker walks a map: the names of one image come in any order
        assert sorted(ours.stdout.splitlines()) == sorted(theirs.stdout.splitlines())
    else:
        assert ours.stdout == theirs.stdout
    assert bool(ours.stderr) == bool(theirs.stderr), (ours.stderr, theirs.stderr)
    return ours.stdout


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        ((*RUN, "busybox", "echo", "hi"), None),
        ((*RUN, "busybox", "sh", "-c", "echo out; exit 7"), None),
        ((*RUN, "-i", "busybox", "cat"), b"some input\n" * 1000),
        ((*RUN, "busybox", "cat"), b"not attached"),
        ((*RUN, "-a", "stdout", "busybox", "sh", "-c", "echo a; echo b >&2"), None),
        ((*RUN, "-t", "busybox", "sh", "-c", "tty; echo $TERM"), None),
        ((*RUN, "-e", "A=1", "-eB=2", "--env=C", "-w", "/tmp", "-u", "1000:2000", "--hostname=box", "--tmpfs", "/t:size=1m", "--read-only",
          "busybox", "sh", "-c", "echo $A$B$C; pwd; id -u; id -g; hostname; df /t | tail -1 | cut -c1-5; touch /x 2>/dev/null || echo ro"), None),
        ((*RUN, "--entrypoint", "echo", "busybox", "-n", "x"), None),
        ((*RUN, "busybox", "nosuch"), None),
        ((*RUN, "busybox", "/etc"), None),
        ((*RUN, "--name", "bad name!", "busybox", "true"), None),
        (("run", "--pull", "never", "nosuch:1"), None),
        (("run", "--nosuchflag"), None),
        (("run",), None),
        (("run", "-m", "x", "busybox"), None),
        (("run", "-it", "busybox"), None),
        (("nosuchcommand",), None),
        (("ps", "extra"), None),
        (("rm",), None),
        (("rm", "nosuch"), None),
        (("start", "nosuch"), None),
        (("logs", "nosuch"), None),
        (("exec", "nosuch", "true"), None),
        (("inspect", "nosuch"), None),
        (("container", "inspect", "nosuch"), None),
        (("rmi", "nosuch"), None),
        (("wait", "nosuch"), None),
        (("images",), None),
        (("images", "--format", "{{.Repository}}|{{.Tag}}|{{.Size}}"), None),
        (("images", "-q", "--no-trunc"), None),
        (("images", "--digests", "busybox"), None),
        (("image", "inspect", "busybox"), None),
        (("image", "inspect", "-f", "{{.Config.Cmd}} {{json .RepoTags}} {{len .RootFS.Layers}}", "busybox"), None),
        (("history", "busybox"), None),
        (("history", "--no-trunc", "--format", "json", "busybox"), None),
        (("network", "ls", "--format", "{{.Name}}"), None),
        (("volume", "ls"), None),
    ],
    ids=lambda v: " ".join(v)[:60] if isinstance(v, tuple) else "",
)  # fmt: skip
def test_same(host: Host, words: tuple[str, ...], stdin: bytes | None) -> None:
    both(host, *words, stdin=stdin)


def test_lists_and_inspect(host: Host) -> None:
    for i, words in enumerate((["sleep", "1000"], ["sh", "-c", "echo a long command line that is cut"], ["false"])):
        host.out("run", "-d", "--name", f"c{i}", "-l", f"n={i}", "--network", "none", "busybox", *words)
    host.run("wait", "c1", "c2")
    for words in (
        ("ps",), ("ps", "-a"), ("ps", "-aq"), ("ps", "-a", "--no-trunc"), ("ps", "-n", "2"), ("ps", "-l"),
        ("ps", "-a", "-f", "status=exited", "-f", "name=c1"), ("ps", "-a", "--format", '{{.Names}} {{.State}} {{.Label "n"}}'),
        ("ps", "-a", "--format", "table {{.ID}}\t{{.Image}}\t{{.Command}}"), ("container", "ls", "-a"),
        ("inspect", "c0"), ("inspect", "c0", "busybox"), ("inspect", "-f", "{{.Name}} {{.State.Pid}} {{.Config.Cmd}}", "c0", "c1"),
        ("inspect", "-f", "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}{{end}} {{json .HostConfig.Binds}}", "c2"),
        ("inspect", "--type", "image", "c0"), ("logs", "c1"), ("port", "c0"), ("diff", "c0"), ("wait", "c2"),
        ("exec", "c0", "sh", "-c", "echo hi; exit 4"), ("exec", "-e", "X=1", "-w", "/tmp", "c0", "sh", "-c", "pwd; echo $X"),
        ("exec", "c0", "nosuch"), ("exec", "-u", "1000", "c0", "id", "-u"), ("top", "c0", "-o", "pid,args"),
    ):  # fmt: skip
        for _ in range(4):  # a second may end between the two
            ours, theirs = host.run(*words), host.run(*words, program="docker")
            if ours.stdout == theirs.stdout:
                break
        assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout), (words, ours.stderr, theirs.stderr)


def test_lifecycle_words(host: Host) -> None:
    host.out("create", "--name", "cc", "--network", "none", "busybox", "sleep", "1000")
    for words in (
        ("start", "cc"),
        ("pause", "cc"),
        ("unpause", "cc"),
        ("restart", "-t", "0", "cc"),
        ("kill", "-s", "KILL", "cc"),
    ):
        assert host.out(*words) == "cc"
    assert host.out("wait", "cc") == "137"
    host.out("rename", "cc", "dd")
    assert host.out("start", "dd") == "dd"
    assert host.run("rm", "dd").returncode == 1
    assert host.out("rm", "-f", "dd") == "dd"


def test_input_reaches_exec(host: Host) -> None:
    host.out("run", "-d", "--name", "cc", "--network", "none", "busybox", "sleep", "1000")
    data = bytes(range(256)) * 5000
    done = host.run("exec", "-i", "cc", "sh", "-c", "cat; echo err >&2", stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"err\n")


def test_input_that_nobody_reads(host: Host) -> None:
    done = host.run(*RUN, "-i", "busybox", "true", stdin=b"nobody reads this" * 10_000)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_start_attached(host: Host) -> None:
    host.out("create", "-i", "--name", "cc", "--network", "none", "busybox", "sh", "-c", "cat; exit 9")
    done = host.run("start", "-ai", "cc", stdin=b"hello")
    assert (done.returncode, done.stdout) == (9, b"hello")


CREATE: list[tuple[str, ...]] = [
    (),
    ("-it", "-h", "box", "--domainname", "d", "-u", "1:2", "-w", "/w", "--entrypoint", "/x", "--stop-signal", "INT", "--stop-timeout", "3"),
    ("-e", "A=1", "-e", "HOME", "-l", "a=b", "-l", "c", "--expose", "90-91", "--health-cmd", "true", "--health-interval", "5s"),
    ("-m", "64m", "--memory-reservation", "32m", "--memory-swap", "-1", "--memory-swappiness", "5", "--cpus", "1.5", "--pids-limit", "100",
     "--cpu-shares", "512", "--cpuset-cpus", "0", "--shm-size", "8m", "--ulimit", "nofile=100:200", "--oom-score-adj", "100"),
    ("--blkio-weight", "100", "--device", "/dev/null:/dev/x:rw", "--device-cgroup-rule", "c 1:* r", "--device-read-bps", "/dev/null:1m"),
    ("--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--group-add", "5", "--read-only", "--init"),
    ("--security-opt", "systempaths=unconfined", "--privileged", "--cgroup-parent", "/x", "--userns", "host", "--pid", "host", "--ipc", "none"),
    ("-v", "/tmp:/a:ro", "-v", "v1:/b", "-v", "/c", "--tmpfs", "/d:size=1m", "--mount", "type=bind,src=/tmp,dst=/e,ro,bind-propagation=rslave",
     "--mount", "type=tmpfs,dst=/f,tmpfs-size=1m,tmpfs-mode=700", "--mount", "type=volume,src=v1,dst=/g,volume-nocopy"),
    ("--network", "host", "--dns", "1.1.1.1", "--dns-search", "x.y", "--dns-option", "rotate", "--add-host", "a:1.2.3.4"),
    ("--restart", "on-failure:3", "--log-driver", "json-file", "--log-opt", "max-size=1m", "--sysctl", "net.ipv4.ip_forward=1"),
    ("-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "-P"),
    ("--rm", "-i", "-a", "stdin", "-a", "stderr"),
    ("--no-healthcheck", "--uts", "host", "--cgroupns", "private"),
]  # fmt: skip
VOLATILE = {"Id", "Created", "Name", "ResolvConfPath", "HostnamePath", "HostsPath", "LogPath", "GraphDriver", "Mounts"}


@pytest.mark.parametrize("flags", CREATE, ids=lambda f: " ".join(f)[:50] or "none")
def test_flags_make_the_same_container(dockerd: Host, flags: tuple[str, ...]) -> None:
    """dockerd shows the same configuration, whichever client made the container."""
    shown = []
    for program in ("wharfie", "docker"):
        made = dockerd.out("create", *flags, "busybox", "a", "b", program=program)
        [value] = json.loads(dockerd.out("inspect", made))
        shown.append(_comparable(value))
    assert shown[0] == shown[1]


def _comparable(value: dict[str, Any]) -> dict[str, Any]:
    value = {k: v for k, v in value.items() if k not in VOLATILE}
    config, host = value["Config"], value["HostConfig"]
    if len(config["Hostname"]) == 12:
        config["Hostname"] = "<id>"
    host["ConsoleSize"] = None
    if host["MemorySwappiness"] == -1:  # what the engine takes for "not given"
        host["MemorySwappiness"] = None
    if host["RestartPolicy"]["Name"] == "no":
        host["RestartPolicy"]["Name"] = ""
    config["Env"] = sorted(config["Env"])
    for kind in ("Mounts", "Binds"):  # client and engine walk maps: any order
        host[kind] = sorted(host.get(kind) or [], key=str)
    return _without_nothing(value)


def _without_nothing(value: Any) -> Any:
    """docker sends empty lists and maps where we send nothing: the engine takes both for nothing."""
    if isinstance(value, dict):
        return {k: w for k, v in value.items() if (w := _without_nothing(v)) not in (None, [], {}, "", 0, False)}
    if isinstance(value, list):
        return [_without_nothing(v) for v in value]
    return value


@pytest.mark.parametrize(
    "words", [("--help",), ("run", "--help"), ("ps", "--help"), ("container", "--help"), ("system", "df", "--help")]
)
def test_help(dockerd: Host, words: tuple[str, ...]) -> None:
    """Every flag that docker documents for a command is known, but for the ones named here."""
    ours, theirs = dockerd.run(*words), dockerd.run(*words, program="docker")
    assert ours.returncode == theirs.returncode == 0
    names = [{w for line in o.stdout.decode().splitlines() for w in line.split() if w.startswith("--") and w[2:3].isalpha()} for o in (ours, theirs)]  # fmt: skip
    assert {w.rstrip(",") for w in names[1] - names[0]} <= {
        "--context", "--log-level", "--tls", "--tlscacert", "--tlscert", "--tlskey", "--tlsverify", "--use-api-socket", "--gpus", "--help", "--disable-content-trust",
    }  # fmt: skip
