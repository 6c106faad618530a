# SPDX-License-Identifier: Apache-2.0
"""The part of Go's template language that people use in `--format`.

Fields and chains (`.State.Status`), variables, pipelines and parentheses; `if`/`else if`/`else`, `range`/`else` with one
or two variables, `with`, `define`-less; trim markers `{{-`/`-}}`, comments; the functions of text/template that make
sense for data (and or not eq ne lt le gt ge index slice len print printf println) and docker's (json join split lower
upper title pad truncate table-less). Anything else is an error that names it.

Spec: https://pkg.go.dev/text/template
"""

from __future__ import annotations

from wharfie.cli.format.functions import FUNCTIONS, go_text, truth
from wharfie.errdefs import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Node = Callable[["Scope"], str]
    Value = Callable[["Scope"], Any]

_OPENERS = {"(": ")"}
_WORDS = ("if", "range", "with", "else", "end", "break", "continue", "define", "template", "block")


class Scope:
    __slots__ = ("dot", "vars")

    def __init__(self, dot: Any, variables: dict[str, Any]) -> None:
        self.dot = dot
        self.vars = variables


class Template:
    """Parsed once, rendered per value. `fields` (if given) are the known top-level names: others are errors even before
    a value is there. Raises: InvalidArgument (at parsing and, for missing fields, at rendering).
    """

    def __init__(self, text: str, *, fields: set[str] | None = None) -> None:
        self._text = text
        self._fields = fields
        self._parts = _split(text)
        self._at = 0
        self._body, ended_by = self._block()
        if ended_by:
            raise self._error(f"unexpected {{{{{ended_by}}}}}")

    def render(self, value: Any) -> str:
        try:
            return self._body(Scope(value, {"$": value}))
        except (TypeError, ValueError, LookupError) as e:
            raise self._error(str(e)) from e

    def _error(self, what: str) -> InvalidArgument:
        return InvalidArgument(f"--format `{self._text}`: {what}")

    def _block(self) -> tuple[Node, str]:
        """Nodes up to {{end}}, {{else …}} or the end of the text; and the action that ended it."""
        nodes: list[Node] = []
        while self._at < len(self._parts):
            is_action, text = self._parts[self._at]
            self._at += 1
            if not is_action:
                nodes.append(lambda _s, t=text: t)  # type: ignore[misc]
                continue
            if text.startswith("/*"):
                continue
            word = text.split(None, 1)[0] if text.split() else ""
            if word in ("end", "else"):
                return _join(nodes), text
            if word in ("if", "with"):
                nodes.append(self._condition(text[len(word) :], rebind=word == "with"))
            elif word == "range":
                nodes.append(self._range(text[5:]))
            elif word in _WORDS:
                raise self._error(f"{{{{{word}}}}} is not supported")
            else:
                nodes.append(self._action(text))
        return _join(nodes), ""

    def _action(self, text: str) -> Node:
        parser = _Expression(text, self)
        name = parser.assignment()
        value = parser.pipeline()
        parser.finish()
        if name is None:
            return lambda s: go_text(value(s))

        def assign(s: Scope) -> str:
            s.vars[name] = value(s)
            return ""

        return assign

    def _condition(self, text: str, *, rebind: bool) -> Node:
        parser = _Expression(text, self)
        name = parser.assignment()
        test = parser.pipeline()
        parser.finish()
        body, ended_by = self._block()
        other = self._else(ended_by)

        def node(s: Scope) -> str:
            value = test(s)
            inner = Scope(value if rebind else s.dot, s.vars)
            if name is not None:
                s.vars[name] = value
            return body(inner) if truth(value) else other(s)

        return node

    def _else(self, ended_by: str) -> Node:
        if not ended_by:
            raise self._error("{{end}} is missing")
        if ended_by == "end":
            return lambda _s: ""
        rest = ended_by[4:].strip()
        if rest.startswith(("if ", "if(")):
            return self._condition(rest[2:], rebind=False)
        if rest:
            raise self._error(f"{{{{{ended_by}}}}} is not understood")
        body, closed_by = self._block()
        if closed_by != "end":
            raise self._error("{{end}} is missing")
        return body

    def _range(self, text: str) -> Node:
        names: list[str] = []
        if ":=" in text:
            left, _, text = text.partition(":=")
            names = [n.strip() for n in left.split(",")]
            if not all(n.startswith("$") for n in names) or len(names) > 2:
                raise self._error(f"range {left.strip()}: want $value or $key, $value")
        parser = _Expression(text, self)
        source = parser.pipeline()
        parser.finish()
        body, ended_by = self._block()
        other = self._else(ended_by)

        def node(s: Scope) -> str:
            value = source(s)
            if isinstance(value, dict):
                pairs = sorted(value.items())
            elif isinstance(value, int) and not isinstance(value, bool):
                pairs = [(i, i) for i in range(value)]
            else:
                pairs = list(enumerate(value or ()))
            if not pairs:
                return other(s)
            result = []
            for key, item in pairs:
                if names:
                    s.vars[names[-1]] = item
                if len(names) == 2:
                    s.vars[names[0]] = key
                result.append(body(Scope(item, s.vars)))
            return "".join(result)

        return node

    def field(self, value: Any, name: str, *, top: bool) -> Any:
        """A member. Go compares struct fields exactly; a map gives nothing for a missing key."""
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if top and self._fields is None:
                raise LookupError(f"no such field: .{name}")
            if top:
                raise LookupError(f"no such field: .{name} (there are {', '.join(sorted(self._fields or ()))})")
            return None
        if value is None:
            return None
        raise TypeError(f"can't take field .{name} of {go_text(value)[:40]!r}")

    def check_field(self, name: str) -> None:
        if self._fields is not None and name not in self._fields:
            raise self._error(f"no such field: .{name} (there are {', '.join(sorted(self._fields))})")


def _join(nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else lambda s: "".join([n(s) for n in nodes])


def _split(text: str) -> list[tuple[bool, str]]:
    """(is an action, text) pieces, trim markers applied."""
    parts: list[tuple[bool, str]] = []
    at, trim = 0, False
    while True:
        start = text.find("{{", at)
        plain = text[at:] if start < 0 else text[at:start]
        if trim:
            plain = plain.lstrip()
        if start < 0:
            if plain:
                parts.append((False, plain))
            return parts
        end = _end_of_action(text, start + 2)
        if end < 0:
            raise InvalidArgument(f"--format `{text}`: an action is not closed by }}}}")
        action = text[start + 2 : end]
        at = end + 2
        if action.startswith("- "):
            action, plain = action[2:], plain.rstrip()
        trim = action.endswith(" -")
        if trim:
            action = action[:-2]
        if plain:
            parts.append((False, plain))
        parts.append((True, action.strip()))


def _end_of_action(text: str, at: int) -> int:
    quote = ""
    while at < len(text):
        c = text[at]
        if quote:
            if c == "\\" and quote == '"':
                at += 1
            elif c == quote:
                quote = ""
        elif c in "\"`'":
            quote = c
        elif text.startswith("}}", at):
            return at
        at += 1
    return -1


def _called(method: Any, name: str, arguments: list[Any]) -> Any:
    if not callable(method):
        raise TypeError(f".{name} is no method, but has arguments")
    return method(*arguments)


class _Expression:
    """Recursive descent over the words of one action."""

    def __init__(self, text: str, template: Template) -> None:
        from wharfie.cli.format.words import words

        self._template = template
        try:
            self._words = words(text)
        except ValueError as e:
            raise template._error(str(e)) from None
        self._at = 0

    def _peek(self) -> str:
        return self._words[self._at][1] if self._at < len(self._words) and self._words[self._at][0] == "op" else ""

    def assignment(self) -> str | None:
        """`$x :=` or `$x =` in front."""
        w = self._words
        if len(w) > 1 and w[0][0] == "var" and w[1] in (("op", ":="), ("op", "=")):
            self._at = 2
            return str(w[0][1])
        return None

    def finish(self) -> None:
        if self._at < len(self._words):
            raise self._template._error(f"unexpected `{self._words[self._at][1]}`")

    def pipeline(self) -> Value:
        value = self._command(None)
        while self._peek() == "|":
            self._at += 1
            value = self._command(value)
        return value

    def _command(self, piped: Value | None) -> Value:
        if self._at >= len(self._words):
            raise self._template._error("a value is missing")
        kind, word = self._words[self._at]
        if kind == "name":
            function = FUNCTIONS.get(word)
            if function is None:
                raise self._template._error(f'function "{word}" not defined')
            self._at += 1
            arguments = []
            while self._at < len(self._words) and self._peek() not in ("|", ")"):
                arguments.append(self._operand())
            if piped is not None:
                arguments.append(piped)
            return lambda s: function(*[a(s) for a in arguments])
        value = self._operand()
        if piped is not None:
            raise self._template._error("only a function can follow `|`")
        arguments = []
        while self._at < len(self._words) and self._peek() not in ("|", ")"):
            if kind not in ("field", "var"):
                raise self._template._error(f"`{word}` is no function, but has arguments")
            arguments.append(self._operand())
        if arguments:
            return lambda s: _called(value(s), word, [a(s) for a in arguments])
        return value

    def _operand(self) -> Value:
        kind, word = self._words[self._at]
        self._at += 1
        value: Value
        if kind == "const":
            value = lambda _s: word  # noqa: E731
        elif kind == "dot":
            value = lambda s: s.dot  # noqa: E731
        elif kind == "field":
            value = self._field(lambda s: s.dot, word, first=True)
        elif kind == "var":
            value = lambda s: s.vars[word]  # noqa: E731
        elif (kind, word) == ("op", "("):
            value = self.pipeline()
            if self._peek() != ")":
                raise self._template._error("`)` is missing")
            self._at += 1
        elif kind == "name":
            self._at -= 1
            return self._command(None)
        else:
            raise self._template._error(f"unexpected `{word}`")
        while self._at < len(self._words) and self._words[self._at][0] == "chain":
            value = self._field(value, self._words[self._at][1], first=False)
            self._at += 1
        return value

    def _field(self, inner: Value, name: str, *, first: bool) -> Value:
        template = self._template
        if not first:
            return lambda s: template.field(inner(s), name, top=False)
        return lambda s: template.field(s.dot, name, top=s.dot is s.vars["$"])
