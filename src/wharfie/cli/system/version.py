# SPDX-License-Identifier: Apache-2.0
"""`version`: client and engine."""

from __future__ import annotations

import sys

from wharfie.cli.command import Command
from wharfie.cli.say import err, out
from wharfie.errdefs import WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options


def _client(context: Context) -> dict[str, Any]:
    from wharfie import __version__

    python = f"{sys.implementation.name} {'.'.join(map(str, sys.version_info[:3]))}"
    machine = "linux/amd64"
    if sys.platform != "win32":
        from os import uname

        name, arch = uname().sysname.lower(), uname().machine
        machine = f"{name}/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(arch, arch) }"
    return {
        "Version": __version__,
        "ApiVersion": context.client.server_version or "-",
        "PythonVersion": python,
        "Os": machine.partition("/")[0],
        "Arch": machine.partition("/")[2],
        "Context": "default",
    }


def run(context: Context, options: Options, _words: list[str]) -> int:
    server, problem = None, None
    try:
        server = context.client.get_json("/version")
    except WharfieError as e:
        problem = e
    client = _client(context)
    both = {"Client": client, "Server": server}
    if fmt := options.text("format"):
        from wharfie.cli.inspect import _template

        out(_template(fmt)(both))
    else:
        _print(client, server)
    if problem is not None:
        err(f"wharfie: {problem.full()}")
        return 1
    return 0


def _print(client: dict[str, Any], server: dict[str, Any] | None) -> None:
    out("Client:")
    for label, value in (
        ("Version:", client["Version"]),
        ("API version:", client["ApiVersion"]),
        ("Python version:", client["PythonVersion"]),
        ("OS/Arch:", f"{client['Os']}/{client['Arch']}"),
    ):
        out(f" {label:<18} {value}")
    if server is None:
        return
    out(f"\nServer:{' ' + name if (name := (server.get('Platform') or {}).get('Name')) else ''}")
    for component in server.get("Components") or [{"Name": "Engine", "Version": server["Version"], "Details": {}}]:
        details = component.get("Details") or {}
        out(f" {component['Name']}:")
        out(f"  {'Version:':<17} {component['Version']}")
        if "ApiVersion" in details:
            minimum = details.get("MinAPIVersion", "?")
            out(f"  {'API version:':<17} {details['ApiVersion']} (minimum version {minimum})")
        for key, value in details.items():
            if key in ("ApiVersion", "MinAPIVersion", "Os", "Arch"):
                continue
            out(f"  {_spaced(key) + ':':<17} {value}")
        if "Os" in details:
            out(f"  {'OS/Arch:':<17} {details['Os']}/{details.get('Arch', '')}")


def _spaced(key: str) -> str:
    """GoVersion -> Go version."""
    special = {"BuildTime": "Built", "GitCommit": "Git commit"}
    if key in special:
        return special[key]
    return "".join(f" {c.lower()}" if i and c.isupper() and not key[i - 1].isupper() else c for i, c in enumerate(key))


VERSION = Command(
    run,
    "[OPTIONS]",
    "Show the versions of client and engine",
    flags=(("format", "f", "string", "json, or a Go template"),),
)
