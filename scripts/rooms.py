#!/usr/bin/env python3
"""rooms.py [--check]: draws the imports between lxdocker's rooms into docs/architecture.md.

Fails if the imports form a circle. --check: only checks whether the picture is up to date.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- rooms: drawn by scripts/rooms.py -->\n", "<!-- end of rooms -->\n"
Arrows = Mapping[tuple[str, str], int]


def room_of(module: str) -> str:
    """``lxdocker.tree.page`` -> ``tree``."""
    return module.split(".")[1]


def imported(path: Path) -> set[str]:
    """The lxdocker modules imported anywhere in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from lxdocker import errors` names the room last.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("lxdocker.")}


def rooms() -> Arrows:
    """(importing room, imported room) -> in how many files."""
    names = {path.parent.name for path in (ROOT / "lxdocker").glob("*/__init__.py")}
    found: Counter[tuple[str, str]] = Counter()
    for room in names:
        for path in (ROOT / "lxdocker" / room).rglob("*.py"):
            lower = {room_of(module) for module in imported(path)} & names - {room}
            found.update((room, name) for name in lower)
    return found


def picture(found: Arrows) -> str:
    """A Mermaid graph with importing rooms above imported ones. Raises CycleError."""
    below: dict[str, list[str]] = {}
    for upper, lower in sorted(found):
        below.setdefault(upper, []).append(lower)
    order = {room: place for place, room in enumerate(TopologicalSorter(below).static_order())}
    arrows = sorted(found, key=lambda arrow: (-order[arrow[0]], -order[arrow[1]]))
    lines = [f"  {upper} -->|{found[upper, lower]}| {lower}" for upper, lower in arrows]
    return "\n".join(["```mermaid", "graph TD", *lines, "```", ""])


def main() -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    try:
        drawn = f"{before}{BEGIN}{picture(rooms())}{END}{after}"
    except CycleError as error:
        sys.exit(f"rooms import each other in a circle: {' -> '.join(error.args[1])}")
    if "--check" not in sys.argv:
        PAGE.write_text(drawn)
    elif drawn != page:
        sys.exit(f"the picture in {PAGE.relative_to(ROOT)} is not of this code: run scripts/rooms.py")


if __name__ == "__main__":
    main()
