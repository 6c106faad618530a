# SPDX-License-Identifier: Apache-2.0
"""Requests of the docker CLI as test input, and specs as flat {what: value} tables that can be compared and read."""

from __future__ import annotations

import copy
import json
import os
import stat
from pathlib import Path
from typing import Any

from wharfie.daemon.services.specgen import SpecInputs, build_spec, merge_config, validate
from wharfie.oci.devices import Lookup
from wharfie.oci.facts import HostFacts
from wharfie.oci.mounts import ResolvedMount, parse_mounts
from wharfie.oci.user import resolve_user
from wharfie.spec.docker import ContainerCreateBody, decode_create
from wharfie.spec.image import ContainerConfig
from wharfie.spec.runtime import IDMapping, Spec, encode_spec

HERE = Path(__file__).parent / "specgen"
CASES: dict[str, Any] = json.loads((HERE / "requests.json").read_text())["cases"]
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
GROUP = b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"
MAPPINGS = ([IDMapping(0, 1 << 20, 65536)], [IDMapping(0, 1 << 20, 65536)])
_NODES = {"/dev/vda": (stat.S_IFBLK | 0o660, 254, 0), "/dev/zero": (stat.S_IFCHR | 0o666, 1, 5)}


def request(case: str) -> dict[str, Any]:
    """The whole request of a case."""
    body: dict[str, Any] = copy.deepcopy(CASES["plain"]["request"])
    for key, value in copy.deepcopy(CASES[case]["request"]).items():
        body[key] = {**body[key], **value} if key == "HostConfig" else value
    return body


def body(case: str) -> ContainerCreateBody:
    return decode_create(json.dumps(request(case)).encode())


def fake_stat(path: str) -> os.stat_result:
    """Device nodes that are the same on every machine."""
    mode, major, minor = (stat.S_IFDIR | 0o755, 0, 0) if path == "/dev" else _NODES[path]
    return os.stat_result((mode, 0, 0, 1, 0, 0, 0, 0, 0, 0), {"st_rdev": os.makedev(major, minor)})


def fake_listdir(path: str) -> list[str]:
    assert path == "/dev"
    return [name.rpartition("/")[2] for name in _NODES]


def inputs(
    b: ContainerCreateBody,
    host: HostFacts,
    *,
    image: ContainerConfig | None = None,
    volumes: str = "/volumes",
    **more: Any,
) -> SpecInputs:
    """SpecInputs as the engine makes them; a volume NAME lives at `<volumes>/NAME/_data`."""
    config = merge_config(image, b)
    validate(b, image, host)
    config.hostname = more.pop("hostname", "") or config.hostname or "c0ffee"
    mounts = [
        ResolvedMount(r, f"{volumes}/{r.source or 'anonymous'}/_data" if r.type == "volume" else r.source)
        for r in parse_mounts(b, config)
    ]
    return SpecInputs(**{
        "container_id": "c0ffee", "name": "box", "body": b, "config": config, "host": host, "mounts": mounts,
        "user": resolve_user(config.user, PASSWD, GROUP, b.host_config.group_add or ()),
        "resolv_conf_path": "/g/resolv.conf", "hostname_path": "/g/hostname", "hosts_path": "/g/hosts",
        "look": Lookup(fake_stat, fake_stat, fake_listdir), **more,
    })  # fmt: skip


def spec(case: str, host: HostFacts, **more: Any) -> Spec:
    return build_spec(inputs(body(case), host, **more))


def document(s: Spec) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads(encode_spec(s))
    return doc


def _rule(r: dict[str, Any]) -> str:
    def number(key: str) -> Any:
        return "*" if r.get(key) in {None, -1} else r[key]

    verb = "allow" if r["allow"] else "deny"
    return f"{verb} {r.get('type') or 'a'} {number('major')}:{number('minor')} {r.get('access', '')}"


def _leaves(prefix: str, value: Any, out: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _leaves(f"{prefix}.{key}", item, out)
    elif value not in (None, [], "", False):
        out[prefix] = value


def _seccomp(profile: dict[str, Any] | None, out: dict[str, Any]) -> None:
    if not profile:
        return
    out["seccomp.default"] = [profile["defaultAction"], profile.get("defaultErrnoRet", 1)]
    out["seccomp.architectures"] = sorted(profile.get("architectures", []))
    calls: dict[str, list[str]] = {}
    for rule in profile["syscalls"]:
        args = [[a["index"], a["op"], a["value"], a.get("valueTwo", 0)] for a in rule.get("args") or []]
        text = f"{rule['action']} {rule.get('errnoRet') or ''} {args or ''}".strip()
        for name in rule["names"]:
            calls.setdefault(name, []).append(text)
    for name, rules in calls.items():
        out[f"seccomp.{name}"] = sorted(set(rules))


def flat(doc: dict[str, Any]) -> dict[str, Any]:
    """A spec as {what: value}, without order where order says nothing, without what is empty."""
    out: dict[str, Any] = {"ociVersion": doc["ociVersion"]}
    process, linux = doc["process"], doc["linux"]
    for entry in process.pop("env", []):
        name, _, value = entry.partition("=")
        out[f"env.{name}"] = value
    for name, caps in (process.pop("capabilities", None) or {}).items():
        out[f"caps.{name}"] = sorted(caps)
    for limit in process.pop("rlimits", None) or []:
        out[f"rlimit.{limit['type']}"] = [limit["soft"], limit["hard"]]
    process["user"]["additionalGids"] = sorted(process["user"].get("additionalGids", []))
    out["args"] = process.pop("args")
    _leaves("process", process, out)
    _leaves("root", {"readonly": doc["root"].get("readonly")}, out)
    _leaves("hostname", doc.get("hostname"), out)
    _leaves("domainname", doc.get("domainname"), out)
    _leaves("annotation", doc.get("annotations", {}), out)
    for m in doc["mounts"]:
        options = sorted(m.get("options", []))
        out[f"mount.{m['destination']}"] = [m.get("type", ""), m.get("source", ""), *options]
        if m.get("uidMappings"):
            out[f"mount.{m['destination']}"].append("idmap")
    for n in linux["namespaces"]:
        out[f"namespace.{n['type']}"] = n.get("path", "")
    resources = linux.get("resources", {})
    out["device.rules"] = [_rule(r) for r in resources.pop("devices", [])]
    _leaves("resources", resources, out)
    for d in linux.get("devices", []):
        mode = d.get("fileMode")
        out[f"device.{d['path']}"] = (
            f"{d['type']} {d.get('major', 0)}:{d.get('minor', 0)} {mode & 0o7777 if mode else 0:o}"
        )
    for key, value in linux.get("sysctl", {}).items():
        out[f"sysctl.{key}"] = value
    out["maskedPaths"] = sorted(linux.get("maskedPaths") or [])
    out["readonlyPaths"] = sorted(linux.get("readonlyPaths") or [])
    out["cgroupsPath"] = linux.get("cgroupsPath", "")
    _leaves("rootfsPropagation", linux.get("rootfsPropagation"), out)
    _leaves("idmap", {k: linux.get(k) for k in ("uidMappings", "gidMappings")}, out)
    _seccomp(linux.get("seccomp"), out)
    return out


def difference(a: dict[str, Any], b: dict[str, Any]) -> dict[str, list[Any]]:
    """{what: [in a, in b]} where they differ; None where it is missing."""
    return {k: [a.get(k), b.get(k)] for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}
