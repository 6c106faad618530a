# SPDX-License-Identifier: Apache-2.0
"""What a command is: its words, its flag table and the function that does it.

A flag is a plain tuple, so that a table is one constant in the compiled module:

    (name, short, kind, help)  or  (name, short, kind, help, default)

kind: `bool`; `string`; `int`; `list` (repeatable, kept whole); `strings` (repeatable, commas separate); any other word
is the name of a checked kind in `values.KINDS` (bytes, duration, …), `[]` after it makes it repeatable. A help text that
starts with "@" is hidden.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wharfie.client.engine import Client

    Flag = tuple[Any, ...]
    Run = Callable[["Context", "Options", list[str]], int]


class Command:
    """`usage` is what follows the command's name; `least` and `most` bound its operands (most None: any number).

    interspersed False: flags end at the first operand (run, exec: what follows belongs to the container).
    """

    __slots__ = ("detail", "engine_fault", "flags", "interspersed", "least", "most", "run", "summary", "usage")

    def __init__(
        self,
        run: Run,
        usage: str,
        summary: str,
        *,
        flags: tuple[Flag, ...] = (),
        least: int = 0,
        most: int | None = 0,
        interspersed: bool = True,
        detail: str = "",
        engine_fault: int = 1,
    ) -> None:
        self.run = run
        self.usage = usage
        self.summary = summary
        self.flags = flags
        self.least = least
        self.most = most
        self.interspersed = interspersed
        self.detail = detail
        self.engine_fault = engine_fault


class Options:
    """Values by flag name. `given` holds the names that were on the command line."""

    __slots__ = ("_defaults", "given", "values")

    def __init__(self, flags: tuple[Flag, ...]) -> None:
        self.values: dict[str, Any] = {}
        self.given: set[str] = set()
        self._defaults = flags

    def _value(self, name: str, empty: Any) -> Any:
        if name in self.values:
            return self.values[name]
        for flag in self._defaults:
            if flag[0] == name:
                return flag[4] if len(flag) > 4 else empty
        raise KeyError(name)

    def text(self, name: str) -> str:
        value: str = self._value(name, "")
        return value

    def on(self, name: str) -> bool:
        value: bool = self._value(name, False)
        return value

    def number(self, name: str) -> int:
        value: int = self._value(name, 0)
        return value

    def items(self, name: str) -> list[Any]:
        value: list[Any] = self._value(name, ())
        return list(value)

    def any(self, name: str) -> Any:
        """The value of a checked kind; None when it was not given and has no default."""
        return self._value(name, None)


class Context:
    """What a command gets besides its own words. `client` connects on first use; `path` is for messages (`wharfie run`)."""

    __slots__ = ("_client", "debug", "host", "namespace", "path")

    def __init__(self) -> None:
        self.path = "wharfie"
        self.host = ""
        self.namespace = ""
        self.debug = ""
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            from wharfie.client.address import resolve
            from wharfie.client.engine import Client

            self._client = Client(resolve(self.host))
            if self.namespace:
                self._client.headers.append(("Wharfie-Namespace", self.namespace))
            if self.debug == "timing":
                self._client.headers.append(("Wharfie-Debug", "timing"))
        return self._client


class UsageError(Exception):
    """Wrong words on the command line; printed with the command's usage. `code` 125 for flags, 1 for operands."""

    def __init__(self, message: str, code: int = 125) -> None:
        super().__init__(message)
        self.code = code
