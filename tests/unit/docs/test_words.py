"""Turns of phrase that messages, help and pages once had, and that a native reader stumbles over."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.docs.test_messages import filled_in

ROOT = Path(__file__).parents[3]
STILTED = re.compile(
    r"\bwhoever\b|\bhas come\b|\bhave come\b|\bwhat there is\b|\bis none of\b|\bthere is nobody\b|\bnobody to ask\b"
    r"|\bnobody needs\b|\blets? you in\b|can't be asked for|\bkept true\b|\bspec true\b|does not know this"
    r"|somebody may sit|\bas published in\b|\ball well\b|\bis at work on\b|takes up from here|\bMB came\b"
    r"|\bis no SHA|what no build says|half of a certificate|\btell what\b",
    re.IGNORECASE,
)


def spoken(path: Path) -> Iterator[str]:
    """The strings of a module, without docstrings: those of commands are their help, and another test reads them."""
    tree = ast.parse(path.read_text())
    comments = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in comments:
            yield filled_in(node)


@pytest.mark.parametrize("room", sorted(path.name for path in (ROOT / "lxdocker").iterdir() if path.is_dir()))
def test_messages_are_idiomatic(room: str) -> None:
    for path in (ROOT / "lxdocker" / room).rglob("*.py"):
        for text in spoken(path):
            assert not STILTED.search(text), f"{path.relative_to(ROOT)}: {text}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: page.name)
def test_pages_are_idiomatic(page: Path) -> None:
    for number, line in enumerate(page.read_text().splitlines(), 1):
        assert not STILTED.search(line), f"{page.name}:{number}: {line}"
