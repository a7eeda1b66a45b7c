"""Hooks of mkdocs.yml: pages that are elsewhere in the repository, and links to them.

On a file host, README.md and the pages in docs/ link to each other and to the rest of the repository by relative paths.
On the site, README.md is the first page, images.d/ is one page, the schemas are files beside it, and what is left, such
as folders of code, is named but not linked.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# File of the repository -> page of the site.
PAGES = {"README.md": "index.md", **{name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}}
EXAMPLES = "images.d.md"
ITEM = re.compile(r"(-|\d+\.) +(?=\S)")
LINK = re.compile(r"(?<!!)\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, EXAMPLES, content=examples()))
    for path in sorted((ROOT / "schema").rglob("*.json")):
        files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """The page's text with links as the site needs them."""
    uri = page.file.src_uri
    source = next((name for name, made in PAGES.items() if made == uri), f"docs/{uri}")

    def mend(link: re.Match[str]) -> str:
        text, target = link.groups()
        if re.match("[a-z]+:|#", target):
            return link[0]
        path, _, anchor = target.partition("#")
        here = os.path.normpath(os.path.join(os.path.dirname(source), path))  # noqa: PTH118, PTH120 - no real paths
        on_site = {"images.d": EXAMPLES, **PAGES}.get(here, here.removeprefix("docs/"))
        if files.get_file_from_path(on_site) is None:
            # A page that should be there is left to --strict.
            return link[0] if here.startswith("docs/") else text
        return f"[{text}]({on_site}{'#' + anchor if anchor else ''})"

    return lists(LINK.sub(mend, markdown))


def lists(markdown: str) -> str:
    """The same text as Python-Markdown needs it, which wants a blank line before a list, and what belongs to an item
    indented by four spaces. On a file host, CommonMark's rules need neither.
    """
    found: list[str] = []
    width = 0  # within a list: of its items' marks
    loose = False  # the item has more than one paragraph
    fence: int | None = None  # within a block of code: by how much it is moved
    for line in markdown.splitlines():
        text = line.lstrip()
        move = fence
        if move is None:
            item = ITEM.match(line)
            if item:
                if found and found[-1] and (loose or not width):
                    found.append("")
                width, loose = item.end(), False
            elif text and line == text and found and not found[-1]:
                width = 0
            loose |= not text and width > 0
            move = 4 - width if width and len(line) - len(text) >= width else 0
        if text.startswith("```"):
            fence = move if fence is None else None
        found.append(" " * move + line if text else "")
    return "\n".join(found) + "\n"


def examples() -> str:
    """A page with all specs of images.d/."""
    blocks = [
        f"## {path.stem}\n\n```yaml\n{path.read_text()}```\n" for path in sorted((ROOT / "images.d").glob("*.yaml"))
    ]
    lines = "Specs of popular images, to copy into a folder of your own. See [Specs](specs.md) for all keys.\n"
    return "\n".join(["# Example specs\n", lines, *blocks])
