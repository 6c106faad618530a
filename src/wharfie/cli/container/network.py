# SPDX-License-Identifier: Apache-2.0
"""Networks, ports and hosts of `create` and `run`."""

from __future__ import annotations

from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Options


def fill(options: Options, config: dict[str, Any], host: dict[str, Any]) -> None:
    networks = [_network(text) for text in options.items("network") + options.items("net")]
    for text in options.items("add-host"):
        host.setdefault("ExtraHosts", []).append(_extra_host(text))
    aliases = options.items("network-alias") + options.items("net-alias")
    first: dict[str, Any] = networks[0][1] if networks else {}
    if aliases:
        first.setdefault("Aliases", []).extend(aliases)
    for flag, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address")):
        if flag in options.given:
            first.setdefault("IPAMConfig", {})[key] = options.text(flag)
    if local := options.items("link-local-ip"):
        first.setdefault("IPAMConfig", {})["LinkLocalIPs"] = local
    if "mac-address" in options.given:
        first["MacAddress"] = config["MacAddress"] = options.text("mac-address")
    if networks:
        host["NetworkMode"] = networks[0][0]
        names = [name for name, _ in networks]
        if twice := [n for n in names if names.count(n) > 1]:
            raise InvalidArgument(f"--network `{twice[0]}`: given twice")
        if len(networks) > 1 and (alone := [n for n in names if n in ("host", "none") or n.startswith("container:")]):
            raise InvalidArgument(f"--network `{alone[0]}`: cannot be combined with another network")
    if first or len(networks) > 1:
        endpoints = dict(networks) if networks else {"default": first}
        config["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    if options.items("publish") or options.items("expose"):
        _ports(options, config, host)


_ENDPOINT = {"alias": "Aliases", "driver-opt": "DriverOpts", "gw-priority": "GwPriority", "ip": "IPv4Address",
             "ip6": "IPv6Address", "link-local-ip": "LinkLocalIPs", "mac-address": "MacAddress"}  # fmt: skip


def _network(text: str) -> tuple[str, dict[str, Any]]:
    """NAME, or name=NAME,alias=…,ip=… ."""
    if "=" not in text:
        if not text:
            raise InvalidArgument("--network: empty name")
        return text, {}
    from wharfie.cli.container.mounts import fields_of

    name = ""
    endpoint: dict[str, Any] = {}
    for field in fields_of(text):
        key, sep, value = field.partition("=")
        if key == "name" and sep:
            name = value
        elif key not in _ENDPOINT or not sep:
            raise InvalidArgument(f"--network `{text}`: unknown field `{field}`", hint=f"name, {', '.join(_ENDPOINT)}")
        elif key == "alias":
            endpoint.setdefault("Aliases", []).append(value)
        elif key == "driver-opt":
            option, _, setting = value.partition("=")
            endpoint.setdefault("DriverOpts", {})[option] = setting
        elif key == "gw-priority":
            endpoint["GwPriority"] = int(value)
        elif key == "mac-address":
            endpoint["MacAddress"] = value
        elif key == "link-local-ip":
            endpoint.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
        else:
            endpoint.setdefault("IPAMConfig", {})[_ENDPOINT[key]] = value
    if not name:
        raise InvalidArgument(f"--network `{text}`: the network's name is missing", hint="name=NAME")
    return name, endpoint


def _extra_host(text: str) -> str:
    name, sep, address = text.partition("=")
    if not sep:
        name, sep, address = text.partition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not name or not sep or not (address == "host-gateway" or _is_address(address)):
        raise InvalidArgument(f"--add-host `{text}`: want NAME:IP")
    return f"{name}:{address}"


def _is_address(text: str) -> bool:
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False


def _ports(options: Options, config: dict[str, Any], host: dict[str, Any]) -> None:
    exposed: dict[str, dict[str, str]] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in options.items("publish"):
        for port, binding in publish(text):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    for text in options.items("expose"):
        if ":" in text:
            raise InvalidArgument(f"--expose `{text}`: want PORT[-PORT][/PROTOCOL]")
        ports, _, protocol = text.partition("/")
        for number in _range(ports, text):
            exposed[f"{number}/{_protocol(protocol, text)}"] = {}
    config["ExposedPorts"] = exposed
    if bindings:
        host["PortBindings"] = bindings


def publish(text: str) -> list[tuple[str, dict[str, str]]]:
    """`[IP:][HOST:]PORT[/PROTOCOL]` with ranges, or target=…,published=…,protocol=…, as (port/proto, binding) pairs."""
    if "=" in text:
        text = _long_form(text)
    spec, _, protocol = text.partition("/")
    protocol = _protocol(protocol, text)
    address, outer, inner = "", "", spec
    if ":" in spec:
        rest, _, inner = spec.rpartition(":")
        if rest.startswith("["):
            address, closed, outer = rest[1:].partition("]")
            outer = outer.removeprefix(":")
            if not closed:
                raise InvalidArgument(f"-p `{text}`: `]` is missing")
        elif ":" in rest:
            address, _, outer = rest.rpartition(":")
        else:
            outer = rest
    if address and not _is_address(address):
        raise InvalidArgument(f"-p `{text}`: `{address}` is not an IP address")
    if not inner:
        raise InvalidArgument(f"-p `{text}`: the container's port is missing")
    targets = _range(inner, text)
    if not outer:
        return [(f"{t}/{protocol}", {"HostIp": address, "HostPort": ""}) for t in targets]
    sources = _range(outer, text, lowest=0)
    if len(targets) == 1 and len(sources) > 1:  # the engine picks one of the range
        return [(f"{targets[0]}/{protocol}", {"HostIp": address, "HostPort": outer})]
    if len(targets) != len(sources):
        raise InvalidArgument(f"-p `{text}`: the two ranges differ in length")
    return [
        (f"{t}/{protocol}", {"HostIp": address, "HostPort": str(number)})
        for t, number in zip(targets, sources, strict=True)
    ]


def _long_form(text: str) -> str:
    fields = dict(f.partition("=")[::2] for f in text.split(","))
    if extra := set(fields) - {"target", "published", "protocol", "mode"}:
        raise InvalidArgument(f"-p `{text}`: unknown field `{min(extra)}`")
    return f"{fields.get('published', '')}:{fields.get('target', '')}/{fields.get('protocol', 'tcp')}"


def _protocol(text: str, whole: str) -> str:
    protocol = text.lower() or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"-p `{whole}`: unknown protocol `{text}`")
    return protocol


def _range(text: str, whole: str, *, lowest: int = 1) -> list[int]:
    first, _, last = text.partition("-")
    last = last or first
    if not (first.isdecimal() and last.isdecimal()) or not lowest <= int(first) <= int(last) <= 65535:
        raise InvalidArgument(f"-p `{whole}`: `{text}` is not a port or a range of ports")
    return list(range(int(first), int(last) + 1))
