"""The catalogue page: one static HTML file in the tree that works without scripts and without a network.

Every value comes from an image or a spec, so each is escaped where it enters the page.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lxdocker.progress import human_size

TEMPLATE = Path(__file__).parent / "page.html"
PAGE_FILE = "index.html"
REMOTE = "lxdocker"  # the name of this server that the page suggests


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest version of an image, as the page shows it."""

    name: str
    aliases: tuple[str, ...]
    description: str
    source: str
    digest: str
    version: str
    built_at: str  # RFC 3339
    size: int  # bytes
    architectures: tuple[str, ...]
    ports: str
    volumes: str


def render(entries: Sequence[Entry]) -> str:
    """The page's HTML. It depends on nothing but the entries, so an unchanged page can be recognized."""
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    count = len(entries)
    summary = (
        "No image is published yet."
        if not count
        else f"{count} {'image' if count == 1 else 'images'}, for LXD and Incus."
    )
    return template.substitute(summary=summary, remote=REMOTE, images="\n".join(map(_item, entries)))


def _item(entry: Entry) -> str:
    launch = f"lxc launch {REMOTE}:{entry.name}"
    facts = [
        ("Source", entry.source),
        ("Digest", entry.digest),
        ("Also known as", ", ".join(entry.aliases)),
        ("Version", entry.version),
        ("Built", entry.built_at.replace("T", " ").removesuffix("+00:00") + " UTC"),
        ("Download", human_size(entry.size)),
        ("For", ", ".join(entry.architectures)),
        ("Ports", entry.ports),
        ("Volumes", entry.volumes),
    ]
    rows = "".join(f"<dt>{label}</dt><dd>{escape(value)}</dd>" for label, value in facts if value)
    searched = " ".join([entry.name, *entry.aliases, entry.source, entry.description, *entry.architectures]).lower()
    description = f'<p class="soft">{escape(entry.description)}</p>' if entry.description else ""
    return (
        f'<li data-search="{escape(searched)}"><h2>{escape(entry.name)}</h2>'
        f"{description}<dl>{rows}</dl>"
        f'<div class="command"><code>{escape(launch)}</code>'
        f'<button type="button" class="script" data-copy="{escape(launch)}" '
        f'aria-label="Copy: {escape(launch)}">Copy</button></div></li>'
    )
