# SPDX-License-Identifier: Apache-2.0
"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as Go's programs (and so the field's other engines) read them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """Proxy URL to use for `url`, None for a direct connection. Loopback is always direct."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    proxy = environ.get(name.upper()) or environ.get(name) or ""
    host = (parts.hostname or "").rstrip(".")
    if not proxy or host == "localhost":
        return None
    address = _address(host)
    if address is not None and address.is_loopback:
        return None
    no_proxy = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    port = str(parts.port or (443 if parts.scheme == "https" else 80))
    if any(_excludes(rule.strip().lower(), host, port, address) for rule in no_proxy.split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _excludes(rule: str, host: str, port: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if rule in {"", "*"}:
        return rule == "*"
    if address is not None and "/" in rule:
        try:
            return address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    name, colon, rule_port = rule.rpartition(":")
    if colon and rule_port.isdigit() and (":" not in name or name.endswith("]")):
        if rule_port != port:
            return False
        rule = name
    rule = rule.strip("[]").removeprefix("*")
    return host == rule.removeprefix(".") or (address is None and host.endswith(f".{rule.removeprefix('.')}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
