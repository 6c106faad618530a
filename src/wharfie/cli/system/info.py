# SPDX-License-Identifier: Apache-2.0
"""`info`: facts about the engine and its host."""

from __future__ import annotations

from wharfie.cli.command import Command
from wharfie.cli.format import human
from wharfie.cli.say import out, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wharfie.cli.command import Context, Options

_LINES = (
    ("Containers", "Containers"), (" Running", "ContainersRunning"), (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"), ("Images", "Images"), ("Server Version", "ServerVersion"), ("Storage Driver", "Driver"),
    (None, "DriverStatus"), ("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"), (None, "Plugins"), (None, "Runtimes"), ("Default Runtime", "DefaultRuntime"),
    ("Init Binary", "InitBinary"), ("Isolation", "Isolation"), (None, "SecurityOptions"), ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"), ("OSType", "OSType"), ("Architecture", "Architecture"), ("CPUs", "NCPU"),
    (None, "MemTotal"), ("Name", "Name"), ("ID", "ID"), ("Root Dir", "DockerRootDir"), ("Debug Mode", "Debug"),
    ("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy"), (None, "Labels"),
    ("Experimental", "ExperimentalBuild"), (None, "RegistryConfig"), ("Live Restore Enabled", "LiveRestoreEnabled"),
)  # fmt: skip


def run(context: Context, options: Options, _words: list[str]) -> int:
    server = context.client.get_json("/info")
    from wharfie import __version__

    whole = {**server, "ClientInfo": {"Version": __version__, "Context": "default", "Debug": bool(context.debug)}}
    if fmt := options.text("format"):
        from wharfie.cli.inspect import _template

        out(_template(fmt)(whole))
        return 0
    out(f"Client:\n Version:    {__version__}\n Engine at:  {context.client.address}\n\nServer:")
    for label, key in _LINES:
        if key in server and server[key] not in (None, ""):
            if label is None:
                _special(key, server[key])
            else:
                out(f" {label}: {_text(server[key])}")
    for warning in server.get("Warnings") or ():
        warn(str(warning).removeprefix("WARNING: "))
    return 0


def _text(value: Any) -> str:
    return "true" if value is True else "false" if value is False else str(value)


def _special(key: str, value: Any) -> None:
    if key == "DriverStatus":
        for name, text in value:
            out(f"  {name}: {text}")
    elif key == "Plugins":
        out(" Plugins:")
        for kind in ("Volume", "Network", "Log"):
            if value.get(kind):
                out(f"  {kind}: {' '.join(value[kind])}")
    elif key == "Runtimes":
        out(f" Runtimes: {' '.join(sorted(value))}")
    elif key == "SecurityOptions":
        out(" Security Options:")
        for option in value:
            fields = dict(f.partition("=")[::2] for f in option.split(","))
            out(f"  {fields.pop('name', option)}")
            for name, text in fields.items():
                out(f"   {name.capitalize()}: {text}")
    elif key == "MemTotal":
        out(f" Total Memory: {human.size_1024(value)}")
    elif key == "Labels":
        for label in value:
            out(f" Label: {label}")
    elif key == "RegistryConfig":
        insecure = [n for n, c in (value.get("IndexConfigs") or {}).items() if not c.get("Secure", True)]
        insecure += value.get("InsecureRegistryCIDRs") or []
        if insecure:
            out(" Insecure Registries:\n  " + "\n  ".join(insecure))
        if mirrors := value.get("Mirrors"):
            out(" Registry Mirrors:\n  " + "\n  ".join(mirrors))


INFO = Command(
    run,
    "[OPTIONS]",
    "Show facts about the engine and its host",
    flags=(("format", "f", "string", "json, or a Go template"),),
)
