# SPDX-License-Identifier: Apache-2.0
"""`port`: where a container's ports are published."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.say import out
from wharfie.client.http import escape
from wharfie.errdefs import InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def run(context: Context, _options: Options, words: list[str]) -> int:
    container = context.client.get_json(f"/containers/{escape(words[0])}/json")
    ports = (container.get("NetworkSettings") or {}).get("Ports") or {}
    if len(words) == 2:
        number, _, protocol = words[1].partition("/")
        if not number.isdecimal():
            raise InvalidArgument(f"port `{words[1]}`: want NUMBER[/PROTOCOL]")
        wanted = f"{number}/{protocol or 'tcp'}"
        if not ports.get(wanted):
            raise NotFound(f"port {wanted} of `{words[0]}`: it is not published")
        for binding in ports[wanted]:
            out(_address(binding))
        return 0
    for port in sorted(ports, key=lambda p: (int(p.partition("/")[0]), p)):
        for binding in ports[port] or ():
            out(f"{port} -> {_address(binding)}")
    return 0


def _address(binding: dict[str, str]) -> str:
    ip = binding.get("HostIp", "")
    return f"{f'[{ip}]' if ':' in ip else ip}:{binding['HostPort']}"


PORT = Command(run, "CONTAINER [PORT[/PROTOCOL]]", "Show where a container's ports are published", least=1, most=2)
