#!/usr/bin/env python3
"""Writes the manual from the commands: the reference in docs/cli.md, or the pages for man.

scripts/manual.py                 the reference
scripts/manual.py --check         fails if it is out of date
scripts/manual.py --man DIR       the pages; a wheel that is built has them in share/man/man1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from typer.main import get_command  # noqa: E402 - after the path

from lxdocker.cli import main, manual  # noqa: E402, F401 - main knows all commands
from lxdocker.cli.app import app  # noqa: E402

PAGE = ROOT / "docs/cli.md"
BEGIN, END = "<!-- reference: written by scripts/manual.py -->\n", "<!-- end of the reference -->\n"


def written(page: str) -> str:
    """``page`` with the reference as it should be."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} has no place for the reference")
    return f"{before}{BEGIN}\n{manual.reference(get_command(app))}\n{END}{after}"


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--man", metavar="DIR", type=Path)
    options = parser.parse_args()
    if options.man:
        options.man.mkdir(parents=True, exist_ok=True)
        for name, text in manual.pages(get_command(app)).items():
            (options.man / name).write_text(text, encoding="utf-8")
        return
    page = PAGE.read_text(encoding="utf-8")
    wanted = written(page)
    if options.check and page != wanted:
        raise SystemExit(f"the reference in {PAGE} is out of date: run scripts/manual.py")
    PAGE.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    run()
