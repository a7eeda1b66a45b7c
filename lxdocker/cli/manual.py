"""The manual from the commands themselves: pages for man, and the reference in docs/cli.md.

Nothing is written by hand twice: a command's docstring and its options' help are what --help shows, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lxdocker import __version__
from lxdocker.cli.app import summary

PROGRAM = "lxdocker"
SECTION = "1"
EXIT_STATUS = (
    ("0", "Success."),
    ("1", "An image failed; the others are done. An invalid spec counts as a failed image."),
    ("2", "Usage or configuration error, or LXD cannot be used."),
    ("130", "Interrupted."),
)
STATUS_OF_CHECK = "With --check: 0 if all images are current, 1 if one is pending, 2 if one failed."
ENVIRONMENT = (
    ("LXDOCKER_CONFIG", "Configuration file."),
    ("LXDOCKER_LOG", "File to which the log of each run is appended."),
    ("LXDOCKER_SETTING", "A setting, such as LXDOCKER_TREE; options come first, the configuration file last."),
    ("NO_COLOR", "No colours, if it is set."),
)
FILES = (
    ("~/.config/lxdocker/config.yaml, /etc/lxdocker/config.yaml", "Settings; the first that exists."),
    ("./images.d, /etc/lxdocker/images.d", "Folder of specs; the first that exists."),
    ("/var/lib/lxdocker/tree", "The published tree, for root."),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or a group of commands."""

    path: tuple[str, ...]  # without the program's name
    command: Any

    @property
    def name(self) -> str:
        return " ".join((PROGRAM, *self.path))

    @property
    def page(self) -> str:
        return "-".join((PROGRAM, *self.path))

    @property
    def is_group(self) -> bool:
        return hasattr(self.command, "commands")

    @property
    def usage(self) -> str:
        """``[OPTIONS] [NAME]...``."""
        context = self.command.make_context(self.name, [], resilient_parsing=True)
        return " ".join(self.command.collect_usage_pieces(context))

    @property
    def paragraphs(self) -> list[str]:
        """Of its description, the summary first."""
        return [" ".join(text.split()) for text in (self.command.help or "").split("\n\n") if text.strip()]

    @property
    def arguments(self) -> list[tuple[str, str]]:
        return [(one.metavar, one.help or "") for one in self.command.params if one.param_type_name == "argument"]

    @property
    def options(self) -> list[tuple[str, str]]:
        """``-j, --jobs N`` and the help of each."""
        found = [
            (_written(one), one.help or "")
            for one in self.command.params
            if one.param_type_name == "option" and not one.hidden
        ]
        return [*found, ("-h, --help", "Show help and exit.")]


def _written(option: Any) -> str:
    names = ", ".join(sorted(option.opts, key=len))
    return names if option.is_flag or option.count else f"{names} {option.metavar}"


def entries(root: Any) -> Iterator[Entry]:
    """The program, its commands and groups, and the groups' commands; none that is hidden."""

    def below(entry: Entry) -> Iterator[Entry]:
        yield entry
        if entry.is_group:
            for name, command in entry.command.commands.items():
                if not command.hidden:
                    yield from below(Entry((*entry.path, name), command))

    yield from below(Entry((), root))


# ---- man


def pages(root: Any) -> dict[str, str]:
    """Names of files and their text, for ``share/man/man1``."""
    every = list(entries(root))
    return {f"{entry.page}.{SECTION}": _page(entry, every) for entry in every}


def _page(entry: Entry, every: Sequence[Entry]) -> str:
    first = entry.paragraphs[0] if entry.paragraphs else ""
    lines = [
        f'.TH {entry.page.upper().replace("-", chr(92) + "-")} {SECTION} "" "lxdocker {__version__}" "User Commands"',
        ".SH NAME",
        f"{_roff(entry.page)} \\- {_roff(first.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_roff(entry.name)}",
        _roff(entry.usage),
        ".SH DESCRIPTION",
        *_joined(".PP", [_roff(text) for text in entry.paragraphs]),
    ]
    if entry.is_group:
        below = [one for one in every if one.path[:-1] == entry.path and one.path]
        lines += [".SH COMMANDS", *_list((one.path[-1], summary(one.command)) for one in below)]
    if entry.arguments:
        lines += [".SH ARGUMENTS", *_list(entry.arguments)]
    lines += [".SH OPTIONS", *_list(entry.options)]
    lines += [".SH EXIT STATUS", *_list(EXIT_STATUS)]
    if "--check" in " ".join(names for names, _ in entry.options):
        lines += [".PP", _roff(STATUS_OF_CHECK)]
    lines += [".SH ENVIRONMENT", *_list(ENVIRONMENT), ".SH FILES", *_list(FILES)]
    related = [one.page for one in every if one.page != entry.page and _are_near(one, entry)]
    *most, last = [f".BR {_roff(page)} ({SECTION})" for page in related]
    lines += [".SH SEE ALSO", *(f"{page} ," for page in most), last]
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines()) + "\n"


def _are_near(one: Entry, other: Entry) -> bool:
    """Groups and their commands, and all of the program's own."""
    return one.path[:-1] == other.path or other.path[:-1] == one.path or not one.path or one.path[:1] == other.path[:1]


def _list(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in items:
        yield from (".TP", f".B {_roff(term)}", _roff(text))


def _joined(mark: str, texts: Sequence[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if index:
            yield mark
        yield text


def _roff(text: str) -> str:
    """``text`` as troff prints it: hyphens that can be searched for and pasted, and no line that is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("~", "\\(ti")
    return re.sub(r"^\.", r"\\&.", escaped.replace("…", "..."))


# ---- Markdown


def reference(root: Any) -> str:
    """A section for each command, with its arguments and options."""
    parts = []
    for entry in entries(root):
        if entry.is_group and entry.path:
            continue  # its commands follow
        rows = [*entry.arguments, *entry.options]
        parts.append(
            "\n".join(
                [
                    f"### {entry.name}",
                    "",
                    f"    {entry.name} {entry.usage}",
                    "",
                    *_joined("", [_markdown(text) for text in entry.paragraphs]),
                    "",
                    "| | |",
                    "| --- | --- |",
                    *(f"| `{_in_cell(term)}` | {_in_cell(_markdown(text))} |" for term, text in rows),
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([*<>_])", r"\\\1", text)


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")
