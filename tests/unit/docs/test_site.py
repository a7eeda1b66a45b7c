"""What scripts/docs_site.py makes of the pages for the site."""

from __future__ import annotations

import runpy
from pathlib import Path

import markdown
import pytest

ROOT = Path(__file__).parents[3]
lists = runpy.run_path(str(ROOT / "scripts/docs_site.py"))["lists"]


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("text\n- one\n- two", "p ul li li"),
        ("- one\n  - two\n  - three\n\ntext", "ul li ul li li p"),
        ("1. one\n   more\n\n   more\n\n2. two", "ol li p p li p"),
        ("- one\n\n      code\n\n  more\n- two", "ul li p pre code p li p"),
        ("1. one\n\n   ```sh\n   a\n    b\n   ```\n\n2. two", "ol li p pre code li p"),
        ("```text\nno\n- list\n  - this\n```", "pre code"),
        ("text\n\n    code\n    - code", "p pre code"),
    ],
)
def test_lists_are_lists_on_the_site_too(text: str, tags: str) -> None:
    html = markdown.markdown(lists(text), extensions=["pymdownx.superfences"], tab_length=4)
    found = [
        part.split(">")[0].split()[0] for part in html.split("<")[1:] if not part.startswith(("/", "span", "div", "a"))
    ]
    assert found == tags.split()


def test_no_list_of_a_page_is_lost() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        html = markdown.markdown(lists(page.read_text()), extensions=["pymdownx.superfences", "tables"])
        for line in html.splitlines():
            assert not line.startswith(("- ", "1. ", "| ", "```")), f"{page.name}: {line}"
