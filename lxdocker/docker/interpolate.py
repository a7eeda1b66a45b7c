"""``$NAME`` and ``${NAME:-default}``, by the rules of shells and compose files. Nothing is ever run."""

from __future__ import annotations

import re
from collections.abc import Callable

# The value of a variable; None if it is not set.
Lookup = Callable[[str], str | None]
Missing = Callable[[str], None]  # is told the names of variables that are not set

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:?[-?+])?")
_MAX_DEPTH = 16
_MAX_LENGTH = 128 * 1024


def expand(text: str, lookup: Lookup, missing: Missing) -> str:
    """All of ``text``, with ``$$`` for a dollar sign, as in compose files. Raises ValueError for what can't be read."""
    parts: list[str] = []
    at = length = 0
    while (found := text.find("$", at)) >= 0:
        parts.append(text[at:found])
        if text.startswith("$$", found):
            parts.append("$")
            at = found + 2
            continue
        value, at = variable(text, found, lookup, missing)
        parts.append(value)
        length += len(value)
        if length > _MAX_LENGTH:
            raise ValueError("a value is longer than 128 KiB")
    return "".join([*parts, text[at:]])


def variable(text: str, at: int, lookup: Lookup, missing: Missing, depth: int = 0) -> tuple[str, int]:
    """The value of what begins with ``$`` at ``at``, and where it ends. A ``$`` alone is itself. Raises ValueError."""
    if not text.startswith("${", at):
        found = _NAME.match(text, at + 1)
        return (_value(found[0], lookup, missing), found.end()) if found else ("$", at + 1)
    head = _BRACED.match(text, at + 2)
    if head is None or depth > _MAX_DEPTH:
        raise ValueError(f"not a variable: {text[at : at + 40]!r}")
    end = _closing(text, at)
    name, operator = head[1], head[2] or ""
    word = text[head.end() : end]
    if word and not operator:
        raise ValueError(f"not a variable: {text[at : end + 1][:40]!r}")
    value = lookup(name)
    is_set = value is not None and (bool(value) or not operator.startswith(":"))
    match operator[-1:]:
        case "-":
            return (value or "") if is_set else _inner(word, lookup, missing, depth), end + 1
        case "+":
            return _inner(word, lookup, missing, depth) if is_set else "", end + 1
        case "?" if not is_set:
            missing(name)
    return (value if value is not None else _value(name, lookup, missing)), end + 1


def _inner(word: str, lookup: Lookup, missing: Missing, depth: int) -> str:
    parts: list[str] = []
    at = 0
    while (found := word.find("$", at)) >= 0:
        parts.append(word[at:found])
        value, at = variable(word, found, lookup, missing, depth + 1)
        parts.append(value)
    return "".join([*parts, word[at:]])


def _value(name: str, lookup: Lookup, missing: Missing) -> str:
    value = lookup(name)
    if value is None:
        missing(name)
    return value or ""


def _closing(text: str, at: int) -> int:
    """Where the brace of ``${`` at ``at`` is closed."""
    depth = 0
    for position in range(at, len(text)):
        if text.startswith("${", position):
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
    raise ValueError(f"a brace is not closed: {text[at : at + 40]!r}")


_QUOTED = re.compile(r"""(?:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:#.*)?""")
_ESCAPED = re.compile(r"\\(.)")


def dotenv(text: str, lookup: Lookup = lambda name: None) -> dict[str, str]:
    """The variables of a ``.env`` file: NAME=VALUE lines, comments, and values in quotes, as compose reads them.
    ``lookup``: variables that come before those of the file.
    """
    found: dict[str, str] = {}

    def known(name: str) -> str | None:
        value = lookup(name)
        return found.get(name) if value is None else value

    def expanded(value: str) -> str:
        try:
            return expand(value, known, lambda name: None)
        except ValueError:
            return value

    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _NAME.fullmatch(name):
            continue
        if quoted := _QUOTED.fullmatch(value):
            literal, inner = quoted.groups()
            found[name] = literal if inner is None else _ESCAPED.sub(_unescaped, expanded(inner))
        else:
            found[name] = expanded(value.partition(" #")[0].rstrip())
    return found


def _unescaped(escaped: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r", "t": "\t"}.get(escaped[1], escaped[1])
