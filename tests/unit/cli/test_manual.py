"""The manual: pages that man shows without a warning, and a reference with every command and option."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from lxdocker.cli import main, manual
from lxdocker.cli.app import app

ROOT = Path(__file__).parents[3]
assert main
ENTRIES = list(manual.entries(get_command(app)))
PAGES = manual.pages(get_command(app))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("man") / "man1"
    made.mkdir()
    for name, text in PAGES.items():
        (made / name).write_text(text, encoding="utf-8")
    return made


def test_each_command_and_group_has_a_page() -> None:
    names = [entry.page for entry in ENTRIES]
    assert {f"{name}.1" for name in names} == set(PAGES)
    assert {"lxdocker", "lxdocker-sync", "lxdocker-publish", "lxdocker-publish-rollback"} <= set(names)


@pytest.mark.skipif(not shutil.which("man"), reason="man-db is not installed")
def test_man_shows_all_pages_without_a_warning(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        environ = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "78", "MAN_KEEP_FORMATTING": ""}
        argv = ["man", "--warnings", "--local-file", str(path)]
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), path
        entry = next(entry for entry in ENTRIES if f"{entry.page}.1" == path.name)
        shown = re.sub(r".\x08", "", done.stdout)
        for term, _ in (*entry.arguments, *entry.options):
            assert term in shown, (path.name, term)
        assert max(map(len, shown.splitlines())) <= 80 or "http" in shown
        for heading in ("NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"):
            assert f"\n{heading}\n" in shown


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_groff_has_nothing_to_warn_about(folder: Path) -> None:
    pages = sorted(map(str, folder.iterdir()))
    done = subprocess.run(["groff", "-ww", "-man", "-Tutf8", "-z", *pages], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_text_is_never_taken_for_a_request() -> None:
    assert manual._roff(".SH 'x' a-b \\fB ~") == "\\&.SH \\(aqx\\(aq a\\-b \\efB \\(ti"


def test_the_page_on_the_command_line_has_every_command_and_option() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    sections = dict(re.findall(r"^### (lxdocker[^\n]*)\n(.*?)(?=^### |^<!--)", page, re.MULTILINE | re.DOTALL))
    for entry in ENTRIES:
        if entry.is_group and entry.path:
            continue
        assert entry.name in sections, "run scripts/manual.py"
        listed = [
            term.replace("\\|", "|") for term in re.findall(r"^\| `([^`]+)` \|", sections[entry.name], re.MULTILINE)
        ]
        assert listed == [term for term, _ in (*entry.arguments, *entry.options)], "run scripts/manual.py"
