"""Tables: all of it where a program reads, and what fits where a person does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lxdocker.text import printable

GAP = "  "
HASH_DIGITS = 12  # as LXD and Docker show them

RED, GREEN, YELLOW = 31, 32, 33  # SGR
# What a state looks like on a terminal with colours.
STATE_COLOURS: Mapping[str, int] = {
    "current": GREEN,
    "pending": YELLOW,
    "building": YELLOW,
    "withheld": YELLOW,
    "grace": YELLOW,
    "orphan": YELLOW,
    "failed": RED,
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and what becomes of it where the terminal is too narrow.

    ``least``: the width to which its cells may be cut; None: never cut. Where even that is too much, the last of the
    columns with a ``least`` is left out, then the one before it. ``cut``: which end goes; a hash has 12 digits or all.
    ``colours``: of cells, by their first word.
    """

    title: str
    least: int | None = None
    cut: Literal["end", "start", "hash"] = "end"
    colours: Mapping[str, int] = field(default_factory=dict)


NAME = Column("NAME")
STATE = Column("STATE", colours=STATE_COLOURS)
SOURCE = Column("SOURCE", least=30, cut="start")  # registry/owner/name:tag: its end tells images apart


def digest_column(title: str = "DIGEST") -> Column:
    """A column of hashes without their algorithm."""
    return Column(title, least=HASH_DIGITS, cut="hash")


def lay_out(
    header: Sequence[str | Column], rows: Sequence[Sequence[str]], width: int | None, *, colour: bool = False
) -> list[str]:
    """The lines of a table. ``width``: of the terminal; None where nothing may be cut."""
    columns = [column if isinstance(column, Column) else Column(column) for column in header]
    columns = [replace(column, title=_cell(column.title)) for column in columns]
    cells = [[_cell(text) for text in row] for row in rows]
    natural = [
        max(len(text) for text in [column.title, *(row[index] for row in cells)])
        for index, column in enumerate(columns)
    ]
    shown = _fitting(columns, natural, width)
    lines = [_line([(columns[index].title, final, 0) for index, final in shown])]
    for row in cells:
        parts = []
        for index, final in shown:
            text = _cut(row[index], final, columns[index])
            code = columns[index].colours.get(row[index].partition(":")[0].partition(" ")[0], 0) if colour else 0
            parts.append((text, final, code))
        lines.append(_line(parts))
    return lines


def _cell(text: str) -> str:
    return printable(text).replace("\n", " ").replace("\t", " ")


def _line(parts: Sequence[tuple[str, int, int]]) -> str:
    """``parts``: text, width and colour of each cell."""
    *most, (last, _, code) = parts
    padded = [coloured(text, code) + " " * (width - len(text)) for text, width, code in most]
    return GAP.join([*padded, coloured(last, code)]).rstrip()


def coloured(text: str, code: int) -> str:
    """``text`` in a colour; as it is for 0."""
    return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


def _fitting(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[tuple[int, int]]:
    """The index and the width of each column to be shown."""
    shown = list(range(len(columns)))
    if width is None:
        return [(index, natural[index]) for index in shown]
    least = [
        min(natural[index], max(column.least, len(column.title))) if column.least is not None else natural[index]
        for index, column in enumerate(columns)
    ]
    while _total([least[index] for index in shown]) > width:
        optional = [index for index in shown if columns[index].least is not None]
        if not optional:
            break
        shown.remove(optional[-1])
    spare = width - _total([least[index] for index in shown])
    final = {index: least[index] for index in shown}
    # Text first: half of a hash says no more than its beginning.
    for index in sorted(shown, key=lambda index: columns[index].cut == "hash"):
        wish = natural[index] - least[index]
        given = wish if wish <= spare else 0 if columns[index].cut == "hash" else max(spare, 0)
        final[index] += given
        spare -= given
    return [(index, final[index]) for index in shown]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _cut(text: str, width: int, column: Column) -> str:
    if len(text) <= width or column.least is None:
        return text
    if column.cut == "hash":
        return text[: min(width, HASH_DIGITS)]
    return f"…{text[-(width - 1) :]}" if column.cut == "start" else f"{text[: width - 1]}…"
