# SPDX-License-Identifier: Apache-2.0
"""The user's registry accounts: `~/.docker/config.json` and credential helpers. The engine never reads a user's files."""

from __future__ import annotations

import os

from wharfie.client import jsontext
from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_dir = ""


def use_directory(path: str) -> None:
    """`--config`."""
    global _dir
    _dir = path


def config_path() -> str:
    where = _dir or os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    return os.path.join(where, "config.json")


def load_config() -> dict[str, Any]:
    """{} when there is none. Raises: InvalidArgument (not JSON)."""
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
