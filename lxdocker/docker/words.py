"""A command line as a shell would split it into words; nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from lxdocker.docker.interpolate import Lookup, variable
from lxdocker.errors import UsageError

_PWD = re.compile(r"\$\(\s*pwd\s*\)|`\s*pwd\s*`")
_OPERATORS = ";|&<>()"
_MAX_LENGTH = 256 * 1024


@dataclass
class _Shell:
    text: str
    folder: str
    home: str
    lookup: Lookup
    missing: Callable[[str], None]
    found: list[str] = field(default_factory=list)
    word: str | None = None
    at: int = 0

    def add(self, text: str) -> None:
        self.word = (self.word or "") + text

    def end(self) -> None:
        if self.word is not None:
            self.found.append(self.word)
        self.word = None

    def expansion(self) -> None:
        if found := _PWD.match(self.text, self.at):
            self.add(self.folder)
            self.at = found.end()
            return
        if self.text[self.at] == "`" or self.text.startswith("$(", self.at):
            raise _unreadable("a command in it would have to be run", "put its output in its place")
        try:
            value, self.at = variable(self.text, self.at, self.lookup, self.missing)
        except ValueError as error:
            raise _unreadable(str(error), "correct it") from None
        self.add(value)

    def quoted(self) -> None:
        """What is in double quotes."""
        self.add("")
        self.at += 1
        while self.at < len(self.text):
            sign = self.text[self.at]
            if sign == '"':
                self.at += 1
                return
            if sign == "\\" and self.text[self.at + 1 : self.at + 2] in {*'"\\$`', "\n"}:
                self.add(self.text[self.at + 1].replace("\n", ""))
                self.at += 2
            elif sign in "$`":
                self.expansion()
            else:
                self.add(sign)
                self.at += 1
        raise _unreadable("a quote is not closed", "close it")


def split(text: str, folder: str, home: str, lookup: Lookup, missing: Callable[[str], None]) -> list[str]:
    """The words of one command. ``folder``: what $PWD and $(pwd) are; ``home``: what ~ is.

    Raises UsageError for several commands, for what would have to be run, and for quotes that are not closed.
    """
    if len(text) > _MAX_LENGTH:
        raise _unreadable(f"it is longer than {_MAX_LENGTH // 1024} KiB", "convert one command at a time")
    text = text.strip()

    def value(name: str) -> str | None:
        return folder if name == "PWD" else home if name == "HOME" else lookup(name)

    shell = _Shell(text, folder, home, value, missing)
    while shell.at < len(text):
        sign = text[shell.at]
        if sign == "\n":
            shell.end()
            if shell.found and text[shell.at :].strip():
                raise _unreadable("it goes on after the end of a line", "convert one command at a time; \\ ends a line")
            shell.at += 1
        elif sign.isspace():
            shell.end()
            shell.at += 1
        elif sign == "'":
            close = text.find("'", shell.at + 1)
            if close < 0:
                raise _unreadable("a quote is not closed", "close it")
            shell.add(text[shell.at + 1 : close])
            shell.at = close + 1
        elif sign == '"':
            shell.quoted()
        elif found := re.compile(r"\\\r?\n").match(text, shell.at):
            shell.at = found.end()
        elif sign == "\\":
            shell.add(text[shell.at + 1 : shell.at + 2])
            shell.at += 2
        elif sign in "$`":
            shell.expansion()
        elif sign in _OPERATORS:
            raise _unreadable(f"{sign} in it is the shell's", "quote it, or convert one command at a time")
        elif sign == "#" and shell.word is None:
            end = text.find("\n", shell.at)
            shell.at = len(text) if end < 0 else end
        elif sign == "~" and shell.word is None and text[shell.at + 1 : shell.at + 2] in {"", "/", " "}:
            shell.add(home)
            shell.at += 1
        else:
            shell.add(sign)
            shell.at += 1
    shell.end()
    return shell.found


def _unreadable(why: str, what_to_do: str) -> UsageError:
    return UsageError("cannot read the command", why, what_to_do)
