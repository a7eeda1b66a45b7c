"""Every link between the pages leads somewhere, on a file host and on the site alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/*/README.md")])
LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"(?ms)^( *)(```|~~~).*?^\1\2 *$", "", page.read_text())
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as file hosts and Python-Markdown make them: the same, or it is an error."""
    found: set[str] = set()
    text = re.sub(r"(?ms)^( *)(```|~~~).*?^\1\2 *$", "", page.read_text())
    for title in re.findall(r"(?m)^#+ (.+)$", text):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()).strip()
        found.add(plain.replace(" ", "-"))
    return found


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in LINK.findall(prose(page)):
            if not re.match(r"[a-z]+:", target):
                yield page, target


@pytest.mark.parametrize(("page", "target"), list(links()), ids=lambda value: getattr(value, "name", value))
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    assert found.exists(), f"{page.relative_to(ROOT)}: no {path}"
    assert found == ROOT or ROOT in found.parents
    if anchor:
        assert anchor in anchors(found), f"{page.relative_to(ROOT)}: {path} has no heading #{anchor}"
        assert not re.search("--", anchor), "Python-Markdown would write one hyphen"


def test_the_readme_leads_to_every_page() -> None:
    linked = {target.partition("#")[0] for page, target in links() if page == ROOT / "README.md"}
    assert {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")} <= linked


def test_the_sites_menu_has_every_page() -> None:
    def pages(menu: object) -> Iterator[str]:
        match menu:
            case str(page):
                yield page
            case list(items):
                for item in items:
                    yield from pages(item)
            case dict(sections):
                yield from pages(list(sections.values()))

    menu = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert len(menu) == len(set(menu))
    assert {page.name for page in ROOT.glob("docs/*.md")} <= set(menu)
