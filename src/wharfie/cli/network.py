# SPDX-License-Identifier: Apache-2.0
"""`network create|ls|rm|connect|disconnect`: passed on; the engine decides what it can."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.container.lifecycle import each
from wharfie.cli.format import tables
from wharfie.cli.say import err, out
from wharfie.cli.values import filters, pairs
from wharfie.client.http import escape, query
from wharfie.errdefs import InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options

HEADERS = {
    "ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
    "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT", "Label": "LABEL",
}  # fmt: skip


def _list(context: Context, options: Options, _words: list[str]) -> int:
    networks = context.client.get_json(query("/networks", filters=filters(options.items("filter"))))
    full, fmt = options.on("no-trunc"), options.text("format")
    rows = [_row(n, full=full) for n in sorted(networks, key=lambda n: n["Name"])]
    if options.on("quiet") and not fmt:
        for row in rows:
            out(row["ID"])
        return 0
    tables.show(fmt, HEADERS, ("ID", "Name", "Driver", "Scope"), rows)
    return 0


def _row(network: dict[str, Any], *, full: bool) -> dict[str, Any]:
    labels = network.get("Labels") or {}
    return {
        "ID": network["Id"] if full else network["Id"][:12],
        "Name": network["Name"],
        "Driver": network["Driver"],
        "Scope": network["Scope"],
        "IPv4": "true" if network.get("EnableIPv4", True) else "false",
        "IPv6": "true" if network.get("EnableIPv6") else "false",
        "Internal": "true" if network.get("Internal") else "false",
        "Labels": ",".join(f"{k}={labels[k]}" for k in sorted(labels)),
        "Label": lambda name: labels.get(name, ""),
        "CreatedAt": network.get("Created", ""),
    }


def _create(context: Context, options: Options, words: list[str]) -> int:
    body: dict[str, Any] = {"Name": words[0], "CheckDuplicate": True, "Driver": options.text("driver")}
    for flag, key in (("internal", "Internal"), ("ipv6", "EnableIPv6"), ("attachable", "Attachable")):
        if flag in options.given:
            body[key] = options.on(flag)
    if options.items("opt"):
        body["Options"] = pairs(options.items("opt"), "-o", bare=True)
    if options.items("label"):
        body["Labels"] = pairs(options.items("label"), "--label", bare=True)
    subnets, ranges, gateways = (options.items(f) for f in ("subnet", "ip-range", "gateway"))
    if len(ranges) > len(subnets) or len(gateways) > len(subnets):
        raise InvalidArgument("network create: each --ip-range and --gateway needs a --subnet")
    config = [
        {k: v for k, v in (("Subnet", s), ("IPRange", ranges[i : i + 1]), ("Gateway", gateways[i : i + 1])) if v}
        for i, s in enumerate(subnets)
    ]
    if config or options.text("ipam-driver"):
        flat = [{k: v[0] if isinstance(v, list) else v for k, v in c.items()} for c in config]
        body["IPAM"] = {"Driver": options.text("ipam-driver") or "default", "Config": flat}
    answer = context.client.post_json("/networks/create", body)
    if warning := answer.get("Warning"):
        err(f"WARNING: {warning}")
    out(answer["Id"])
    return 0


def _remove(context: Context, options: Options, words: list[str]) -> int:
    def remove(network: str) -> None:
        try:
            context.client.do("DELETE", f"/networks/{network}")
        except NotFound:
            if not options.on("force"):
                raise

    return each(words, remove)


def _connect(context: Context, options: Options, words: list[str]) -> int:
    endpoint: dict[str, Any] = {}
    if options.items("alias"):
        endpoint["Aliases"] = options.items("alias")
    addresses = {k: options.text(f) for f, k in (("ip", "IPv4Address"), ("ip6", "IPv6Address")) if options.text(f)}
    if addresses:
        endpoint["IPAMConfig"] = addresses
    body = {"Container": words[1], "EndpointConfig": endpoint}
    context.client.do("POST", f"/networks/{escape(words[0])}/connect", json=body)
    return 0


def _disconnect(context: Context, options: Options, words: list[str]) -> int:
    body = {"Container": words[1], "Force": options.on("force")}
    context.client.do("POST", f"/networks/{escape(words[0])}/disconnect", json=body)
    return 0


LS = Command(
    _list,
    "[OPTIONS]",
    "List networks",
    flags=(
        ("filter", "f", "filter[]", "Only those that match (driver=…, id=…, label=…, name=…, type=…)"),
        ("format", "", "string", "table, table TEMPLATE, json, or a Go template"),
        ("no-trunc", "", "bool", "Cut nothing off"),
        ("quiet", "q", "bool", "Only the ids"),
    ),
)
CREATE = Command(
    _create,
    "[OPTIONS] NETWORK",
    "Make a network",
    flags=(
        ("attachable", "", "bool", "Let containers be attached by hand"),
        ("driver", "d", "string", "Driver to use", "bridge"),
        ("gateway", "", "list", "Gateway of a subnet"),
        ("internal", "", "bool", "No way to the outside"),
        ("ip-range", "", "list", "Part of a subnet to take addresses from"),
        ("ipam-driver", "", "string", "Driver that gives addresses"),
        ("ipv6", "", "bool", "IPv6 too"),
        ("label", "", "list", "Set a label (KEY=VALUE)"),
        ("opt", "o", "list", "Option of the driver (KEY=VALUE)"),
        ("subnet", "", "list", "Subnet in CIDR form"),
    ),
    least=1,
    most=1,
)
RM = Command(
    _remove,
    "[OPTIONS] NETWORK [NETWORK...]",
    "Remove networks",
    flags=(("force", "f", "bool", "Don't complain about missing ones"),),
    least=1,
    most=None,
)
CONNECT = Command(
    _connect,
    "[OPTIONS] NETWORK CONTAINER",
    "Connect a container to a network",
    flags=(
        ("alias", "", "list", "Another name of the container in this network"),
        ("ip", "", "string", "IPv4 address"),
        ("ip6", "", "string", "IPv6 address"),
    ),
    least=2,
    most=2,
)
DISCONNECT = Command(
    _disconnect,
    "[OPTIONS] NETWORK CONTAINER",
    "Disconnect a container from a network",
    flags=(("force", "f", "bool", "Even when the container is gone"),),
    least=2,
    most=2,
)
