# SPDX-License-Identifier: Apache-2.0
"""merge_config, validate, build_spec and exec_process: what one request means as a whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from golden import specdoc
from wharfie.daemon.services.specgen import build_spec, exec_process, merge_config, validate, validate_update
from wharfie.errdefs import FailedPrecondition, InvalidArgument, NotFound, Unsupported, WharfieError
from wharfie.oci.caps import ALL_CAPS
from wharfie.oci.facts import HostFacts
from wharfie.oci.user import ResolvedUser
from wharfie.spec.docker import Config, ContainerCreateBody, ExecConfig, UpdateBody, decode_create
from wharfie.spec.image import ContainerConfig, Healthcheck
from wharfie.spec.runtime import Spec

HOST = HostFacts(cpus=2, cpu_list="0-1", mem_list="0", runtimes=frozenset({"crun"}))
IMAGE = ContainerConfig(
    user="web", env=["PATH=/image/bin", "A=image", "ONLY=image"], entrypoint=["/entry"], cmd=["serve"], working_dir="/srv",
    labels={"a": "image", "b": "image"}, volumes={"/data": {}}, exposed_ports={"80/tcp": {}}, stop_signal="SIGQUIT",
    healthcheck=Healthcheck(test=["CMD", "true"], interval=10**9, retries=3),
)  # fmt: skip


def body(host: dict[str, Any] | None = None, **config: Any) -> ContainerCreateBody:
    return decode_create(json.dumps({"Cmd": ["true"], **config, "HostConfig": host or {}}).encode())


def merged(image: ContainerConfig | None = IMAGE, **config: Any) -> Config:
    return merge_config(image, decode_create(json.dumps(config).encode()))


def made(host: dict[str, Any] | None = None, **config: Any) -> Spec:
    return build_spec(specdoc.inputs(body(host, **config), HOST))


def test_the_image_fills_the_request() -> None:
    c = merged()
    assert (c.user, c.env, c.entrypoint, c.cmd, c.working_dir) == ("web", IMAGE.env, ["/entry"], ["serve"], "/srv")
    assert (c.labels, c.volumes, c.exposed_ports, c.stop_signal) == (
        IMAGE.labels,
        IMAGE.volumes,
        IMAGE.exposed_ports,
        "SIGQUIT",
    )


@pytest.mark.parametrize(
    ("request_", "args"),
    [
        ({}, ["/entry", "serve"]),
        ({"Cmd": ["x"]}, ["/entry", "x"]),
        ({"Cmd": []}, ["/entry", "serve"]),
        ({"Entrypoint": ["/own"]}, ["/own"]),
        ({"Entrypoint": ["/own"], "Cmd": ["x"]}, ["/own", "x"]),
        ({"Entrypoint": [], "Cmd": ["x"]}, ["x"]),
        ({"Entrypoint": [""], "Cmd": ["x"]}, ["x"]),
    ],
)
def test_entrypoint_and_cmd(request_: dict[str, Any], args: list[str]) -> None:
    c = merged(**request_)
    assert [*(c.entrypoint or ()), *(c.cmd or ())] == args


@pytest.mark.parametrize("request_", [{"Entrypoint": [""]}, {"Entrypoint": [""], "Cmd": []}])
def test_nothing_to_run(request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="no command") as e:
        merged(**request_)
    assert e.value.hint
    with pytest.raises(InvalidArgument, match="no command"):
        merged(None)


def test_the_request_wins() -> None:
    c = merged(Env=["A=own", "NEW=1"], Labels={"a": "own"}, Volumes={"/mine": {}}, ExposedPorts={"81/udp": {}}, User="5", StopSignal="9",
               Healthcheck={"Test": ["NONE"]}, WorkingDir="/w/../x")  # fmt: skip
    assert c.env == ["A=own", "NEW=1", "PATH=/image/bin", "ONLY=image"]
    assert c.labels == {"a": "own", "b": "image"}
    assert set(c.volumes or ()) == {"/data", "/mine"}
    assert set(c.exposed_ports or ()) == {"80/tcp", "81/udp"}
    assert (c.user, c.stop_signal, c.working_dir) == ("5", "9", "/x")
    assert c.healthcheck == Healthcheck(test=["NONE"], interval=10**9, retries=3)


def test_working_directories() -> None:
    assert merged(ContainerConfig(cmd=["x"], working_dir="rel/./a")).working_dir == "/rel/a"
    with pytest.raises(InvalidArgument, match="absolute"):
        merged(WorkingDir="rel")


def env(**config: Any) -> dict[str, str]:
    s = made(**config)
    assert s.process
    return dict(entry.split("=", 1) for entry in s.process.env)


def test_environment() -> None:
    assert env(Hostname="h") == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": "h",
        "HOME": "/root",
    }
    assert env(Tty=True)["TERM"] == "xterm"
    assert env(Tty=True, Env=["TERM=vt100", "HOME=/h", "X=1", "X=2", "E="]) | {"PATH": "", "HOSTNAME": ""} == {
        "TERM": "vt100", "HOME": "/h", "X": "2", "E": "", "PATH": "", "HOSTNAME": "",
    }  # fmt: skip


def test_a_name_without_a_value_never_reads_the_engines_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2021-3602, CVE-2026-57231."""
    monkeypatch.setenv("CANARY", "secret")
    found = env(Env=["CANARY", "PATH", "*"])
    assert "secret" not in str(found)
    assert "PATH" not in found
    image = ContainerConfig(cmd=["x"], env=["CANARY", "*"])
    inputs = specdoc.inputs(body(), HOST, image=image)
    assert "secret" not in str(build_spec(inputs).process)


@pytest.mark.parametrize("entry", ["", "=x", "=", "A\0B=x"])
def test_malformed_environment(entry: str) -> None:
    with pytest.raises(InvalidArgument, match="NAME=value"):
        validate(body(Env=[entry]), None, HOST)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"Frobnicate": 1}, InvalidArgument),
        ({"HostConfig": {"CapAdd": ["NO_SUCH"]}}, InvalidArgument),
        ({"HostConfig": {"SecurityOpt": ["bogus=1"]}}, InvalidArgument),
        ({"HostConfig": {"SecurityOpt": ['seccomp={"defaultAction":1}']}}, InvalidArgument),
        ({"HostConfig": {"NetworkMode": "mynet"}}, NotFound),
        ({"NetworkingConfig": {"EndpointsConfig": {"mynet": {}}}}, NotFound),
        ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "10.0.0.1"}}}}}, Unsupported),
        ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Aliases": ["a"]}}}}, Unsupported),
        ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}}}, Unsupported),
        ({"HostConfig": {"PublishAllPorts": True}}, Unsupported),
        ({"HostConfig": {"PublishAllPorts": True, "NetworkMode": "host"}}, InvalidArgument),
        ({"HostConfig": {"Links": ["a:b"]}}, Unsupported),
        ({"MacAddress": "02:00:00:00:00:01"}, Unsupported),
        ({"Hostname": "x", "HostConfig": {"NetworkMode": "container:y"}}, InvalidArgument),
        ({"ExposedPorts": {"1/tcp": {}}, "HostConfig": {"NetworkMode": "container:y"}}, InvalidArgument),
        ({"HostConfig": {"NetworkMode": "container:y", "Dns": ["1.1.1.1"]}}, InvalidArgument),
        ({"Hostname": "x", "HostConfig": {"UTSMode": "host"}}, InvalidArgument),
        ({"NetworkDisabled": True, "HostConfig": {"NetworkMode": "host"}}, InvalidArgument),
        ({"Hostname": "a b"}, InvalidArgument),
        ({"Hostname": "a\n127.0.0.1 evil"}, InvalidArgument),
        ({"Hostname": "x" * 65}, InvalidArgument),
        ({"Domainname": "../x"}, InvalidArgument),
        ({"StopSignal": "SIGNOPE"}, InvalidArgument),
        ({"StopTimeout": -2}, InvalidArgument),
        ({"Healthcheck": {"Test": ["RUN", "x"]}}, InvalidArgument),
        ({"Healthcheck": {"Test": ["CMD"]}}, InvalidArgument),
        ({"Healthcheck": {"Interval": 5}}, InvalidArgument),
        ({"Healthcheck": {"Retries": -1}}, InvalidArgument),
        ({"HostConfig": {"RestartPolicy": {"Name": "sometimes"}}}, InvalidArgument),
        ({"HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}}}, InvalidArgument),
        ({"HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -2}}}, InvalidArgument),
        ({"HostConfig": {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}}, InvalidArgument),
        ({"HostConfig": {"Isolation": "hyperv"}}, Unsupported),
        ({"HostConfig": {"Isolation": "odd"}}, InvalidArgument),
        ({"HostConfig": {"StorageOpt": {"size": "1G"}}}, Unsupported),
        ({"HostConfig": {"DeviceRequests": [{"Driver": "nvidia"}]}}, Unsupported),
        ({"HostConfig": {"VolumeDriver": "nfs"}}, Unsupported),
        ({"HostConfig": {"Mounts": [{"Type": "volume", "Target": "/a", "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}]}}, Unsupported),
        ({"HostConfig": {"Cgroup": "container:x"}}, Unsupported),
        ({"HostConfig": {"Runtime": "runx"}}, NotFound),
        ({"HostConfig": {"Sysctls": {"kernel.panic": "1"}}}, InvalidArgument),
        ({"HostConfig": {"Sysctls": {"kernel.hostname": "x"}}}, InvalidArgument),
        ({"HostConfig": {"Sysctls": {"net.x": "1\nkernel.core_pattern=|/x"}}}, InvalidArgument),
        ({"HostConfig": {"Sysctls": {"net/../kernel/panic": "1"}}}, InvalidArgument),
        ({"HostConfig": {"Sysctls": {"net.ipv4.ip_forward": "1"}, "NetworkMode": "host"}}, InvalidArgument),
        ({"HostConfig": {"Sysctls": {"kernel.msgmax": "1"}, "IpcMode": "host"}}, InvalidArgument),
        ({"HostConfig": {"OomScoreAdj": 1001}}, InvalidArgument),
        ({"HostConfig": {"ShmSize": -1}}, InvalidArgument),
        ({"HostConfig": {"MaskedPaths": ["proc/x"]}}, InvalidArgument),
        ({"HostConfig": {"ReadonlyPaths": ["/a/../b"]}}, InvalidArgument),
        ({"HostConfig": {"DeviceCgroupRules": ["everything"]}}, InvalidArgument),
        ({"HostConfig": {"CgroupParent": "../.."}}, InvalidArgument),
        ({"HostConfig": {"VolumesFrom": ["x:bogus"]}}, InvalidArgument),
        ({"HostConfig": {"Memory": 5}}, InvalidArgument),
        ({"HostConfig": {"UsernsMode": "auto", "Privileged": True}}, InvalidArgument),
        ({"HostConfig": {"PidMode": "what"}}, InvalidArgument),
        ({"HostConfig": {"Binds": ["/a:/proc"]}}, InvalidArgument),
    ],
    ids=lambda v: json.dumps(v) if isinstance(v, dict) else "",
)  # fmt: skip
def test_refused(wrong: dict[str, Any], error: type[WharfieError]) -> None:
    with pytest.raises(error):
        validate(decode_create(json.dumps({"Cmd": ["x"], **wrong}).encode()), None, HOST)


@pytest.mark.parametrize("case", specdoc.CASES)
def test_what_the_docker_cli_sends_is_taken(case: str) -> None:
    warnings = validate(
        specdoc.body(case), IMAGE, HOST._replace(cgroup_version=1, controllers=HOST.controllers | {"blkio"})
    )
    assert all("loopback" in w for w in warnings)


def test_networks_are_said_to_be_missing() -> None:
    for mode in ("", "default", "bridge", "nat"):
        assert "loopback" in validate(body({"NetworkMode": mode}), None, HOST)[0]
    for mode in ("none", "host"):
        assert validate(body({"NetworkMode": mode}), None, HOST) == []


def test_runtimes() -> None:
    assert validate(body({"Runtime": "crun", "NetworkMode": "none"}), None, HOST) == []
    assert validate(body({"Runtime": "/usr/bin/runc", "NetworkMode": "none"}), None, HOST) == []


def test_capabilities_that_the_engine_has_not_got() -> None:
    host = HOST._replace(capabilities=frozenset(ALL_CAPS) - {"CAP_SYS_RESOURCE"})
    add = {"CapAdd": ["SYS_RESOURCE"]}
    validate(body(add), None, host)
    with pytest.raises(FailedPrecondition):
        validate(body({**add, "UsernsMode": "host"}), None, host)


def test_relabelling_waits_for_selinux_support() -> None:
    """CVE-2021-43816: nothing is relabelled. Without SELinux there is nothing to do."""
    assert validate(body({"Binds": ["/a:/a:z"], "NetworkMode": "none"}), None, HOST) == []
    with pytest.raises(Unsupported):
        validate(body({"Binds": ["/a:/a:Z"]}), None, HOST._replace(lsm=frozenset({"selinux"})))


def test_init() -> None:
    s = build_spec(specdoc.inputs(body({"Init": True, "Annotations": {"a": "b"}}), HOST))
    assert s.process
    assert s.process.args == ["true"]
    assert s.annotations == {"a": "b", "io.wharfie.init": "1"}


def test_a_mount_on_dev_replaces_all_below() -> None:
    found = {m.destination: m for m in made({"Binds": ["/dev:/dev"]}).mounts}
    assert found["/dev"].type == "bind"
    assert not [d for d in found if d.startswith("/dev/")]


def test_generated_files_follow_the_mounts_that_hold_them() -> None:
    order = [m.destination for m in made({"Binds": ["/h:/etc", "/h:/etc/hosts"]}).mounts]
    assert order.index("/etc") < order.index("/etc/hostname")
    assert order.count("/etc/hosts") == 1


def test_propagation() -> None:
    def propagation(word: str) -> str:
        linux = made({"Binds": [f"/a:/b:{word}"]}).linux
        assert linux
        return linux.rootfs_propagation

    assert [propagation(w) for w in ("rw", "rshared", "rslave", "slave")] == ["", "shared", "rslave", "rslave"]


def test_joining_another_container() -> None:
    h = {"NetworkMode": "container:x", "PidMode": "container:x", "IpcMode": "container:x"}
    join = {k: f"/proc/9/ns/{v}" for k, v in {"network": "net", "pid": "pid", "ipc": "ipc", "user": "user"}.items()}
    s = build_spec(specdoc.inputs(body(h), HOST, join=join, id_mappings=specdoc.MAPPINGS, shm_source="/run/shm/x"))
    assert s.linux
    assert {n.type: n.path for n in s.linux.namespaces if n.path} == join
    assert (s.linux.uid_mappings, s.linux.gid_mappings) == specdoc.MAPPINGS
    assert not [k for k in s.linux.sysctl if k.startswith("net.")]
    shm = next(m for m in s.mounts if m.destination == "/dev/shm")
    assert (shm.type, shm.source) == ("bind", "/run/shm/x")
    with pytest.raises(InvalidArgument):
        build_spec(specdoc.inputs(body(h), HOST, join=join))


def test_user_namespace_marks_every_bind_for_idmapping() -> None:
    s = build_spec(specdoc.inputs(body({"Binds": ["/a:/a"]}), HOST, id_mappings=specdoc.MAPPINGS))
    binds = [m for m in s.mounts if m.type == "bind"]
    assert len(binds) == 4
    assert all(m.uid_mappings == specdoc.MAPPINGS[0] and m.gid_mappings == specdoc.MAPPINGS[1] for m in binds)
    assert s.linux
    assert s.linux.sysctl["net.ipv4.ping_group_range"] == "0 65535"


def test_privileged_takes_the_locks_off() -> None:
    s = made({"Privileged": True})
    assert s.linux
    assert s.linux.seccomp is None
    assert s.linux.masked_paths == s.linux.readonly_paths == []
    assert "ro" not in next(m for m in s.mounts if m.destination == "/sys").options
    kept = made(
        {
            "Privileged": True,
            "MaskedPaths": ["/proc/kcore"],
            "SecurityOpt": ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'],
        }
    )
    assert kept.linux
    assert kept.linux.masked_paths == ["/proc/kcore"]
    assert kept.linux.seccomp


def test_exec() -> None:
    inputs = specdoc.inputs(body({"CapAdd": ["NET_ADMIN"], "SecurityOpt": ["no-new-privileges"], "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 9}]},
                                 Env=["A=1"], WorkingDir="/w"), HOST)  # fmt: skip
    s = build_spec(inputs)
    request = ExecConfig(cmd=["sh"], env=["B=2", "A"], tty=True, console_size=[24, 80])
    p = exec_process(request, inputs.config, s, ResolvedUser(1000, 7, (7, 8), "/home/u"), HOST)
    assert s.process
    assert s.process.capabilities
    assert (p.args, p.cwd, p.terminal, p.no_new_privileges, p.rlimits) == (["sh"], "/w", True, True, s.process.rlimits)
    assert set(p.env) == {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=c0ffee", "TERM=xterm", "B=2",
                          "HOME=/home/u"}  # fmt: skip
    assert p.console_size
    assert (p.console_size.height, p.console_size.width) == (24, 80)
    assert (p.user.uid, p.user.gid, p.user.additional_gids) == (1000, 7, [7, 8])
    assert p.capabilities
    assert p.capabilities.bounding == s.process.capabilities.bounding
    assert p.capabilities.effective == p.capabilities.inheritable == []


def test_privileged_exec_has_what_its_user_namespace_has() -> None:
    host = HOST._replace(capabilities=frozenset({"CAP_CHOWN"}))
    for mappings, wanted in (((([], [])), ["CAP_CHOWN"]), (specdoc.MAPPINGS, list(ALL_CAPS))):
        inputs = specdoc.inputs(body({"CapDrop": ["ALL"]}), host, id_mappings=mappings)
        p = exec_process(
            ExecConfig(cmd=["x"], privileged=True), inputs.config, build_spec(inputs), ResolvedUser(), host
        )
        assert p.capabilities
        assert p.capabilities.effective == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        ExecConfig(),
        ExecConfig(cmd=["x"], working_dir="rel"),
        ExecConfig(cmd=["x"], env=["=x"]),
        ExecConfig(cmd=["x"], unknown=["Y"]),
    ],
)
def test_bad_execs(wrong: ExecConfig) -> None:
    inputs = specdoc.inputs(body(), HOST)
    with pytest.raises(InvalidArgument):
        exec_process(wrong, inputs.config, build_spec(inputs), inputs.user, HOST)


def test_update() -> None:
    assert validate_update(UpdateBody(memory=1 << 30, memory_swappiness=-1), HOST) == []
    for wrong in (
        UpdateBody(cgroup_parent="/x"),
        UpdateBody(unknown=["Z"]),
        UpdateBody(memory=1),
        UpdateBody(oom_kill_disable=True),
    ):
        with pytest.raises(InvalidArgument):
            validate_update(wrong, HOST)
