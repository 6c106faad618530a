# SPDX-License-Identifier: Apache-2.0
"""The user's registry accounts: `~/.docker/config.json` and credential helpers. The engine never reads a user's files.

One rule stands above convenience (CVE-2021-41092): only the account of the registry in question is ever looked up and
sent, and a helper that is missing or fails is an error, never a reason to fall back to something else.

Spec: docker-credential-helpers' protocol: `get`, `store`, `erase` with the server on stdin, JSON on stdout.
"""

from __future__ import annotations

import os

from wharfie.client import jsontext
from wharfie.errdefs import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"
_NOTHING_KEPT = ("credentials not found in native keychain", "no credentials server URL", "no credentials username")
_dir = ""


def use_directory(path: str) -> None:
    """`--config`."""
    global _dir
    _dir = path


def config_path() -> str:
    where = _dir or os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    return os.path.join(where, "config.json")


def load_config() -> dict[str, Any]:
    """{} when there is none. Raises: InvalidArgument (not JSON, not readable)."""
    path = config_path()
    try:
        with open(path, "rb") as f:
            data = f.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as e:
        raise InvalidArgument(f"read `{path}`: {(e.strerror or str(e)).lower()}") from e
    try:
        value = jsontext.loads(data) if data.strip() else {}
    except ValueError as e:
        raise InvalidArgument(f"read `{path}`: {e}", hint="repair it, or name another directory with --config") from e
    if not isinstance(value, dict):
        raise InvalidArgument(f"read `{path}`: not a JSON object")
    return value


def save_config(config: dict[str, Any]) -> None:
    """Written beside and renamed; readable by the user alone. A symbolic link stays one."""
    path = os.path.realpath(config_path())
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    part = f"{path}.{os.getpid()}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="utf-8") as f:
        f.write(jsontext.dumps_pretty(config, "\t") + "\n")
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, path)


def server_key(host: str) -> str:
    """The name under which a registry's account is kept."""
    return HUB_KEY if host in (HUB, "index.docker.io", "registry-1.docker.io", "") else host


def _host_of(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def account(host: str) -> dict[str, str]:
    """The account for one registry: username and password or identitytoken; {} when there is none.

    Raises: FailedPrecondition (the helper is missing or fails), InvalidArgument (config).
    """
    config = load_config()
    if not config:
        return {}
    key = server_key(host)
    if helper := _helper_for(config, key):
        return _from_helper(helper, key)
    auths = config.get("auths") or {}
    entry = auths.get(key)
    if entry is None:
        entry = next((v for k, v in auths.items() if _host_of(k) == _host_of(key)), None)
    return _decoded(entry, key) if entry else {}


def _helper_for(config: dict[str, Any], key: str) -> str:
    helpers = config.get("credHelpers") or {}
    return str(helpers.get(key) or helpers.get(_host_of(key)) or config.get("credsStore") or "")


def _decoded(entry: dict[str, Any], key: str) -> dict[str, str]:
    result = {k: entry[k] for k in ("username", "password", "identitytoken", "registrytoken") if entry.get(k)}
    if entry.get("auth"):
        import binascii

        try:
            user, sep, password = binascii.a2b_base64(entry["auth"]).decode().partition(":")
        except (ValueError, UnicodeDecodeError):
            sep = ""
        if not sep:
            raise InvalidArgument(f"account for `{key}` in `{config_path()}`: `auth` is not base64 of user:password")
        result["username"], result["password"] = user, password.strip("\0")
    if result:
        result["serveraddress"] = key
    return result


def auth_header(name: str) -> list[tuple[str, str]]:
    """X-Registry-Auth for an image name; [] without an account."""
    first, slash, _ = name.partition("/")
    host = first if slash and ("." in first or ":" in first or first == "localhost") else HUB
    found = account(host)
    return [("X-Registry-Auth", encoded(found))] if found else []


def encoded(auth: dict[str, str]) -> str:
    """Base64 in its URL form, which is what engines decode."""
    import binascii

    text = binascii.b2a_base64(jsontext.dumps(auth).encode(), newline=False).decode()
    return text.replace("+", "-").replace("/", "_")


def _from_helper(helper: str, key: str) -> dict[str, str]:
    answer = _helper(helper, "get", key)
    if answer is None:
        return {}
    try:
        kept = jsontext.loads(answer)
    except ValueError as e:
        raise FailedPrecondition(f"credential helper `{helper}`: its answer is not JSON") from e
    if not kept.get("Username") and not kept.get("Secret"):
        return {}
    if kept.get("Username") == "<token>":
        return {"identitytoken": kept["Secret"], "serveraddress": key}
    return {"username": kept["Username"], "password": kept["Secret"], "serveraddress": key}


def _helper(helper: str, verb: str, text: str) -> str | None:
    """Run the helper; None when it says that it keeps nothing. Its words may hold secrets and are not repeated."""
    import subprocess

    if "/" in helper or helper.startswith("-"):
        raise InvalidArgument(f"credential helper `{helper}`: not a name")
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", verb], input=text, capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        cause = e.strerror.lower() if isinstance(e, OSError) and e.strerror else "no answer in 60 s"
        raise FailedPrecondition(
            f"run credential helper `docker-credential-{helper}`: {cause}",
            hint=f"install it, or remove it from {config_path()}",
        ) from e
    if done.returncode == 0:
        return done.stdout
    said = done.stdout.strip()
    if any(said.startswith(words) for words in _NOTHING_KEPT):
        return None
    raise FailedPrecondition(
        f"credential helper `docker-credential-{helper}` {verb}: {said[:200] or f'exit {done.returncode}'}"
    )


def store(host: str, auth: dict[str, str]) -> str:
    """Keep an account; says where it went."""
    config = load_config()
    key = server_key(host)
    if helper := _helper_for(config, key):
        token = auth.get("identitytoken")
        secret = {
            "ServerURL": key,
            "Username": "<token>" if token else auth["username"],
            "Secret": token or auth["password"],
        }
        _helper(helper, "store", jsontext.dumps(secret))
        return f"docker-credential-{helper}"
    import binascii

    plain = f"{auth['username']}:{'' if auth.get('identitytoken') else auth['password']}"
    entry = {"auth": binascii.b2a_base64(plain.encode(), newline=False).decode()}
    if token := auth.get("identitytoken"):
        entry["identitytoken"] = token
    config.setdefault("auths", {})[key] = entry
    save_config(config)
    return config_path()


def erase(host: str) -> bool:
    """Forget an account; False when none was kept."""
    config = load_config()
    key = server_key(host)
    known = False
    if helper := _helper_for(config, key):
        known = _helper(helper, "get", key) is not None
        if known:
            _helper(helper, "erase", key)
    auths = config.get("auths") or {}
    matching = [k for k in auths if k == key or _host_of(k) == _host_of(key)]
    for k in matching:
        del auths[k]
    if matching:
        save_config(config)
    return known or bool(matching)
