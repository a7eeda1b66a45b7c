"""Completion in bash, zsh and fish: what may stand at the cursor.

A shell calls the program with the command line up to the cursor in ``_LXDOCKER_COMPLETE``. The answer is a line with
what else may stand there (``files``, ``dirs`` or ``none``, which shells know best themselves), then a line for each
value: it, a tab, and its help. Only files on this host are read, never a registry or LXD, and whatever fails is no
answer: nobody wants messages in the middle of a command line.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lxdocker.cli.app import summary
from lxdocker.text import one_line

VARIABLE = "_LXDOCKER_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
_CHOICES = re.compile(r"[a-z]+(\|[a-z]+)+")

Value = tuple[str, str]  # and its help


@dataclass(frozen=True, slots=True)
class Answer:
    """What may stand at the cursor."""

    values: tuple[Value, ...] = ()
    also: str = "none"  # files, dirs


@dataclass(slots=True)
class _Line:
    """What stands before the cursor."""

    command: Any  # the innermost group or command
    path: tuple[str, ...] = ()
    arguments: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)  # values, by the parameter's name
    pending: Any = None  # the option whose value is to follow
    only_arguments: bool = False  # after --


def script(shell: str) -> str:
    """What makes a shell ask for completions."""
    return Path(__file__).with_name(f"completion.{shell}").read_text()


def answer(line: str) -> NoReturn:
    """Prints the answer, and ends."""
    status = 0
    try:
        from typer.main import get_command

        from lxdocker.cli.app import app

        found = complete(get_command(app), line, os.environ)
        lines = [found.also, *(f"{value}\t{one_line(help_)}" if help_ else value for value, help_ in found.values)]
        sys.stdout.write("".join(f"{text}\n" for text in lines))
        sys.stdout.flush()
    except BaseException:
        status = 1
    os._exit(status)  # also without what Python says of a closed stdout


def complete(root: Any, text: str, environ: Mapping[str, str]) -> Answer:
    """``text``: the command line up to the cursor. ``root``: the program's group of commands."""
    words, last = _split(text)
    line = _Line(root)
    for word in words[1:]:
        _take(line, word)
    if line.pending is not None:
        return _matching(_of_parameter(line, line.pending, environ), last)
    if last.startswith("-") and not line.only_arguments:
        name, equals, given = last.partition("=")
        if not equals:
            return _matching(Answer(tuple(_options(line.command))), last)
        option = _option(line.command, name)
        return _matching(_of_parameter(line, option, environ), given) if option else Answer()
    if hasattr(line.command, "commands"):
        commands = line.command.commands.items()
        return _matching(Answer(tuple((name, summary(one)) for name, one in commands if not one.hidden)), last)
    argument = _argument(line)
    return _matching(_of_parameter(line, argument, environ), last) if argument else Answer()


def _split(text: str) -> tuple[list[str], str]:
    """The whole words, and the one that is being typed. An open quote is none."""
    reader = shlex.shlex(text, posix=True, punctuation_chars=False)
    reader.whitespace_split, reader.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(iter(reader.get_token, None))
    except ValueError:
        return words, reader.token
    return (words, "") if not words or text[-1:].isspace() else (words[:-1], words[-1])


def _take(line: _Line, word: str) -> None:
    if line.pending is not None:
        line.options[line.pending.name] = word
        line.pending = None
    elif word == "--" and not line.only_arguments:
        line.only_arguments = True
    elif word.startswith("-") and word != "-" and not line.only_arguments:
        name, equals, value = word.partition("=")
        option = _option(line.command, name)
        if option is None or option.is_flag or option.count:
            return
        if equals:
            line.options[option.name] = value
        else:
            line.pending = option
    elif hasattr(line.command, "commands"):
        if word in line.command.commands:
            line.command = line.command.commands[word]
            line.path = (*line.path, word)
    else:
        line.arguments.append(word)


def _option(command: Any, name: str) -> Any:
    return next((one for one in command.params if one.param_type_name == "option" and name in one.opts), None)


def _options(command: Any) -> Iterable[Value]:
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            for name in parameter.opts:
                yield name, parameter.help or ""
    yield "--help", "Show help."


def _argument(line: _Line) -> Any:
    """The argument that stands at the cursor; the last may take several."""
    arguments = [one for one in line.command.params if one.param_type_name == "argument"]
    at = len(line.arguments)
    if at < len(arguments):
        return arguments[at]
    return arguments[-1] if arguments and arguments[-1].nargs == -1 else None


def _of_parameter(line: _Line, parameter: Any, environ: Mapping[str, str]) -> Answer:
    metavar = parameter.metavar or ""
    if _CHOICES.fullmatch(metavar):
        return Answer(tuple((word, "") for word in metavar.split("|")))
    also = "files" if "FILE" in metavar else "dirs" if "DIR" in metavar else "none"
    provider = VALUES.get((" ".join(line.path), parameter.name))
    values: Sequence[str] = ()
    if provider:
        with suppress(Exception):  # a setting that is wrong, a folder that is closed
            values = provider(line.options, line.arguments, environ)
    return Answer(tuple((value, "") for value in dict.fromkeys(values) if value not in line.arguments), also)


def _matching(found: Answer, start: str) -> Answer:
    return Answer(tuple(value for value in found.values if value[0].startswith(start)), found.also)


# ---- values


def _settings(options: Mapping[str, str], environ: Mapping[str, str], *keys: str) -> Any:
    from lxdocker.config.settings import load

    return load({key: options.get(key) for key in ("config", *keys)}, environ)


def _specs(options: Mapping[str, str], _: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Names of specs, by their files."""
    folder: Path = _settings(options, environ, "specs").specs
    from lxdocker.config.spec import is_spec

    return sorted(path.stem for path in folder.iterdir() if is_spec(path.name))


def _adoptable(options: Mapping[str, str], arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    return [*_specs(options, arguments, environ), "*"]


def _published(options: Mapping[str, str], _: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Names of images in the tree."""
    from lxdocker.tree.tree import Tree

    tree = Tree(_settings(options, environ, "tree").tree)
    return sorted({product.path.parent.name for product in tree.products()})


def _versions(options: Mapping[str, str], arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The versions of the image that is named before, newest first."""
    from lxdocker.tree.tree import Tree

    tree = Tree(_settings(options, environ, "tree").tree)
    keys = {Path(folder).name for product in tree.products(arguments[0]) for folder in product.folders}
    return sorted(keys, reverse=True)


def _both(options: Mapping[str, str], arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    for provider in (_specs, _published):
        with suppress(Exception):
            found += provider(options, arguments, environ)
    return sorted(set(found))


def _comparable(options: Mapping[str, str], arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    return [*_versions(options, arguments, environ), "registry"]


Provider = Callable[[Mapping[str, str], Sequence[str], Mapping[str, str]], Sequence[str]]
# By command and parameter. tests/unit/cli/test_completion.py compares them with the commands.
VALUES: Mapping[tuple[str, str], Provider] = {
    ("inspect", "image"): _specs,
    ("sync", "names"): _specs,
    ("sync", "adopt"): _adoptable,
    ("validate", "names"): _specs,
    ("status", "names"): _specs,
    ("list", "names"): _specs,
    ("log", "name"): _both,
    ("diff", "name"): _published,
    ("diff", "old"): _comparable,
    ("diff", "new"): _comparable,
    ("builder input", "name"): _specs,
    ("publish list", "name"): _published,
    ("publish rollback", "name"): _published,
    ("publish rollback", "version"): _versions,
}
