# SPDX-License-Identifier: Apache-2.0
"""`login` and `logout`: the user's registry accounts."""

from __future__ import annotations

import os
import sys

from wharfie.cli.command import Command
from wharfie.cli.say import err, out, warn
from wharfie.client import credentials
from wharfie.errdefs import InvalidArgument, WharfieError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wharfie.cli.command import Context, Options


def _server(words: list[str]) -> str:
    server = words[0] if words else credentials.HUB
    return server.removeprefix("https://").removeprefix("http://").rstrip("/").removesuffix("/v1").removesuffix("/v2")


def _login(context: Context, options: Options, words: list[str]) -> int:
    server = _server(words)
    user, password = _ask(options, server)
    auth = {"username": user, "password": password, "serveraddress": credentials.server_key(server)}
    answer = context.client.post_json("/auth", auth) or {}
    if token := answer.get("IdentityToken"):
        auth["identitytoken"] = token
    where = credentials.store(server, auth)
    if where == credentials.config_path():
        warn(f"the password is kept unencrypted in {where}; a credential helper (credsStore) keeps it safer")
    out(answer.get("Status") or "Login Succeeded")
    return 0


def _ask(options: Options, server: str) -> tuple[str, str]:
    user, password = options.text("username"), options.text("password")
    if options.on("password-stdin"):
        if password:
            raise InvalidArgument("--password and --password-stdin exclude each other")
        if not user:
            raise InvalidArgument("--password-stdin: the user is missing", hint="add -u NAME")
        password = sys.stdin.read().rstrip("\r\n")
        if not password:
            raise InvalidArgument("--password-stdin: stdin is empty")
        return user, password
    if password:
        warn("a password on the command line can be seen by others; --password-stdin is safer")
    if user and password:
        return user, password
    if not os.isatty(0):
        raise InvalidArgument("login: stdin is no terminal to ask for a password", hint="use -u NAME --password-stdin")
    if not user:
        try:
            known = credentials.account(server).get("username", "")
        except WharfieError:  # a broken helper is reported when the account is stored
            known = ""
        sys.stdout.write(f"Username{f' ({known})' if known else ''}: ")
        sys.stdout.flush()
        user = sys.stdin.readline().strip() or known
        if not user:
            raise InvalidArgument("login: the user name is empty")
    if not password:
        password = _silently("Password: ")
        if not password:
            raise InvalidArgument("login: the password is empty")
    return user, password


def _silently(prompt: str) -> str:
    """A line from the terminal that does not show while it is typed."""
    if sys.platform == "win32":
        import getpass

        return getpass.getpass(prompt)
    import termios

    before = termios.tcgetattr(0)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    sys.stdout.write(prompt)
    sys.stdout.flush()
    try:
        termios.tcsetattr(0, termios.TCSAFLUSH, quiet)
        return sys.stdin.readline().rstrip("\n")
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)
        sys.stdout.write("\n")


def _logout(_context: Context, _options: Options, words: list[str]) -> int:
    server = _server(words)
    if not credentials.erase(server):
        err(f"not logged in to {server}")
        return 0
    out(f"Removing login credentials for {server}")
    return 0


LOGIN = Command(
    _login,
    "[OPTIONS] [SERVER]",
    "Log in to a registry",
    flags=(
        ("password", "p", "string", "Password or access token"),
        ("password-stdin", "", "bool", "Read the password from stdin"),
        ("username", "u", "string", "User name"),
    ),
    most=1,
)
LOGOUT = Command(_logout, "[SERVER]", "Log out from a registry", most=1)
