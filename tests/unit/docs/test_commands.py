"""The commands of lxdocker on the pages are ones it has, with options they take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from lxdocker.cli.app import app
from tests.unit.cli.test_commands import commands  # the program with all its commands

ROOT = Path(__file__).parents[3]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *sorted(ROOT.glob("docs/*.md"))]
# A program may have a folder before it; what follows a command is none of it.
COMMAND = re.compile(r"(?:^|[\s`(]|/bin/|!)lxdocker( [^|;&<>`#)\"\\]*)")


def code(page: Path) -> Iterator[str]:
    """The lines of a page's blocks of code, continued ones joined, and its code within lines."""
    text = page.read_text()
    fence = re.compile(r"(?ms)^( *)```[^\n]*\n(.*?)^\1```")
    for block in fence.finditer(text):
        yield from block[2].replace("\\\n", " ").splitlines()
    text = fence.sub("", text)
    for block in re.findall(r"(?m)^\n((?:    .*\n)+)", text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", text)


def shown() -> Iterator[tuple[str, str]]:
    """Each command with the page that has it."""
    for page in PAGES:
        for line in code(page):
            for found in COMMAND.finditer(line if line.startswith(" ") else f" {line}"):
                # Behind two spaces comes what a listing says of a command.
                command = re.split(r" {2,}", found[1].strip())[0]
                # `lxc exec lxdocker -- …` is an instance of that name.
                if re.match(r"-(?!- )|[a-z]+(?![\w:./=])", command):
                    yield page.name, command


def follow(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words lead to, and the words behind it."""
    command: Any = get_command(app)
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):  # an option that stands before the command
            option = next(one for one in command.params if words[0] in one.opts)
            words = words[1 if option.is_flag or option.count else 2 :]
            continue
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize(("page", "shown"), sorted(set(shown())))
def test_a_command_on_a_page_is_one_that_lxdocker_has(page: str, shown: str) -> None:
    command, words = follow([word for word in shlex.split(shown.replace("'", "")) if word != "…"])
    options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h", "--version"}
    for word in words:
        if word == "-" or (command.name == "convert" and not word.startswith("-")):
            break  # stdin; or another program's command
        if word == "--from-run":
            break  # as above
        name = word.strip("[]").partition("=")[0]
        if name.startswith("-"):
            assert name in options or re.fullmatch("-[vq]+", name), f"lxdocker {shown}: no option {name}"


def named(cell: str) -> Iterator[list[str]]:
    """The commands in a cell of the table, without their arguments."""
    for shown in re.findall(r"`lxdocker ([a-z ]+)", cell):
        words = shown.split()
        yield words[:2] if " ".join(words[:2]) in commands() else words[:1]


def test_the_page_of_commands_has_every_command() -> None:
    first = [
        line.split("|")[1]
        for line in (ROOT / "docs/cli.md").read_text().splitlines()
        if line.startswith("| `lxdocker ")
    ]
    listed = {" ".join(words) for cell in first for words in named(cell)}
    assert listed == set(commands())
    assert len(first) == len(set(first))
