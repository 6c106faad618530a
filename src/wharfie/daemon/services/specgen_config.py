# SPDX-License-Identifier: Apache-2.0
"""The merged Config of a container, and its environment: image config + request, by dockerd's rules."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping

from wharfie.errdefs import InvalidArgument
from wharfie.spec.docker import Config, ContainerCreateBody
from wharfie.spec.image import ContainerConfig, Healthcheck

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _merge_env(own: list[str] | None, image: list[str] | None) -> list[str] | None:
    if not own:
        return list(image) if image else own
    names = {entry.partition("=")[0] for entry in own}
    return own + [entry for entry in image or () if entry.partition("=")[0] not in names]


def _merge_health(own: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    if own is None or image is None:
        return own or image
    return Healthcheck(
        test=own.test or image.test,
        interval=own.interval or image.interval,
        timeout=own.timeout or image.timeout,
        start_period=own.start_period or image.start_period,
        start_interval=own.start_interval or image.start_interval,
        retries=own.retries or image.retries,
    )


def merge_config(image: ContainerConfig | None, body: ContainerCreateBody) -> Config:
    """The container's effective Config: the request, filled from the image as dockerd does it.

    An entrypoint of the request throws the image's Cmd away; `[""]` means none at all. Environment of the request comes
    first. Raises InvalidArgument: nothing to run, a relative working directory, a malformed environment entry.
    """
    config = body.config()
    image = image or ContainerConfig()
    config.user = config.user or image.user
    config.working_dir = config.working_dir or image.working_dir
    config.stop_signal = config.stop_signal or image.stop_signal
    config.env = _merge_env(config.env, image.env)
    for entry in config.env or ():
        if not entry.partition("=")[0] or "\0" in entry:
            raise InvalidArgument(f"set environment {entry.partition('=')[0]!r}: a variable is written NAME=value")
    if image.exposed_ports:
        config.exposed_ports = {**image.exposed_ports, **(config.exposed_ports or {})}
    if image.labels:
        config.labels = {**image.labels, **(config.labels or {})}
    if image.volumes:
        config.volumes = {**image.volumes, **(config.volumes or {})}
    config.healthcheck = _merge_health(config.healthcheck, image.healthcheck)
    if not config.entrypoint:
        if not config.cmd:
            config.cmd, config.args_escaped = image.cmd, image.args_escaped
        if config.entrypoint is None:
            config.entrypoint = image.entrypoint
    if config.entrypoint == [""]:
        config.entrypoint = None
    if not config.entrypoint and not config.cmd:
        raise InvalidArgument(
            "create container: there is no command to run: neither the request nor the image has one",
            hint="add a command, as in run IMAGE sh",
        )
    if config.working_dir:
        # A request's relative path is a mistake; an image's is taken from the root, as its builder meant it.
        if body.working_dir and not body.working_dir.startswith("/"):
            raise InvalidArgument(f"set working directory {body.working_dir!r}: it must be absolute")
        config.working_dir = "/" + posixpath.normpath("/" + config.working_dir).lstrip("/")
    return config


def arguments(config: Config) -> list[str]:
    """The argv of the container's program."""
    return [*(config.entrypoint or ()), *(config.cmd or ())]


def environment(entries: Iterable[str], defaults: Mapping[str, str]) -> list[str]:
    """`defaults` overridden and followed by `entries`.

    An entry without "=" takes the variable away; it never reads the engine's own environment (CVE-2021-3602).
    Of two entries for one name the last wins, in the first one's place.
    """
    found = dict(defaults)
    for entry in entries:
        name, eq, value = entry.partition("=")
        if eq:
            found[name] = value
        else:
            found.pop(name, None)
    return [f"{name}={value}" for name, value in found.items()]


def container_environment(config: Config, home: str) -> list[str]:
    """PATH, HOSTNAME, TERM (with a terminal), the config's own entries, and HOME where nothing set it."""
    defaults = {"PATH": DEFAULT_PATH, "HOSTNAME": config.hostname}
    if config.tty:
        defaults["TERM"] = "xterm"
    env = environment(config.env or (), defaults)
    if not any(entry.startswith("HOME=") for entry in env):
        env.append(f"HOME={home}")
    return env
