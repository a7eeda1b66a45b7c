"""The messages that docs/troubleshooting.md quotes are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/troubleshooting.md"
GAP = "\0"  # in a message, what is filled in


def quoted() -> list[str]:
    """The messages in the first column of the page's tables, and those in its text that have a gap."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `") and not (cell := line.split(" | ")[0]).endswith("(from lxc)"):
            found += re.findall(r"`([^`]+)`", cell)
        elif not line.startswith("|"):
            found += [code for code in re.findall(r"`([^`]+)`", line) if "…" in code.strip("…")]
    return found


def filled_in(node: ast.expr) -> str:
    """A string of the code, with a gap for each value."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(filled_in(value) for value in values)
        case _:
            return GAP


def said() -> Iterator[str]:
    """What lxdocker's programs, builders and instances say."""
    for path in (ROOT / "lxdocker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr | ast.Constant):
                yield filled_in(node)
    for path in (ROOT / "lxdocker").rglob("*.sh"):
        for line in path.read_text().splitlines():
            yield re.sub(r"\$\(\([^)]*\)\)|\$\{[^}]*\}|\$\w+", GAP, line)


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return list(said())


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_one_of_the_code(message: str, messages: list[str]) -> None:
    pattern = re.compile(GAP.join(re.escape(piece) for piece in message.split("…")))
    assert any(pattern.search(text) for text in messages), f"lxdocker never says: {message}"


def test_the_page_quotes_messages() -> None:
    assert len(quoted()) > 20
