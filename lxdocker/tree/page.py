"""The catalogue page: one static HTML file in the tree that works without scripts and without a network.

Every value comes from an image or a spec, so each is cleaned and escaped where it enters the page.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from lxdocker.progress import human_size
from lxdocker.text import counted, one_line

TEMPLATE = Path(__file__).parent / "page.html"
PAGE_FILE = "index.html"
REMOTE = "lxdocker"  # the name of this server that the page suggests
MOST_OLDER = 10  # versions of an image listed beside the newest


@dataclass(frozen=True, slots=True)
class Older:
    """A version that is still published, but not the newest."""

    key: str
    label: str  # the application's version
    sizes: tuple[tuple[str, int], ...]  # architecture, bytes to download


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest version of an image, as the page shows it. What the image does not state is empty."""

    name: str
    aliases: tuple[str, ...]
    description: str
    source: str
    digest: str
    version: str
    label: str  # the application's version
    built_at: str  # RFC 3339
    sizes: tuple[tuple[str, int], ...]  # architecture, bytes to download
    ports: str = ""
    volumes: str = ""
    user: str = ""
    working_dir: str = ""
    entrypoint: str = ""
    stop_signal: str = ""
    healthcheck: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    homepage: str = ""  # what its labels state, as all below
    source_code: str = ""
    licenses: str = ""
    older: tuple[Older, ...] = ()  # newest first

    @property
    def architectures(self) -> str:
        return ", ".join(arch for arch, _ in self.sizes)


def render(entries: Sequence[Entry], synced: datetime) -> str:
    """The page's HTML. It depends on nothing but its arguments, ``synced`` to the minute, so an unchanged page can be
    recognized.
    """
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    moment = synced.astimezone(UTC)
    return template.substitute(
        summary=f"{counted(len(entries), 'image')} for LXD and Incus." if entries else "No image is published yet.",
        synced=f'<time datetime="{moment:%Y-%m-%dT%H:%MZ}">{moment:%Y-%m-%d %H:%M} UTC</time>',
        remote=REMOTE,
        images="\n".join(map(_item, entries)),
    )


def _item(entry: Entry) -> str:
    searched = " ".join([entry.name, *entry.aliases, entry.source, entry.description, entry.architectures]).lower()
    what = _text(entry.description or entry.source.partition("@")[0])
    launch = f"lxc launch {REMOTE}:{_text(entry.name)}"
    rows = "".join(f"<dt>{title}</dt><dd>{value}</dd>" for title, value in _facts(entry) if value)
    return (
        f'<li data-search="{_text(searched)}"><details><summary><h2>{_text(entry.name)}</h2>'
        f'<span class="what">{what}</span><span class="label">{_text(entry.label)}</span>'
        f'<span class="size">{_text(_size(entry.sizes))}</span>'
        f'<span class="arch">{_text(entry.architectures)}</span></summary>'
        f'<div class="command"><code>{launch}</code>'
        f'<button type="button" class="script" data-copy aria-label="Copy: {launch}">Copy</button></div>'
        f"<dl>{rows}</dl></details></li>"
    )


def _facts(entry: Entry) -> Iterable[tuple[str, str]]:
    """Titles and values, as HTML."""
    yield "Description", _text(entry.description)
    yield "Also known as", _text(", ".join(entry.aliases))
    yield "Volumes", _words(entry.volumes)
    yield "Environment", _list(_code(f"{name}={value}") for name, value in entry.environment)
    yield "User", _code(entry.user)
    yield "Health check", _code(entry.healthcheck)
    yield "Ports", _words(entry.ports)
    yield "Entrypoint", _code(entry.entrypoint)
    yield "Working folder", _code(entry.working_dir)
    yield "Stop signal", _code(entry.stop_signal)
    yield "Image", _text(entry.source)
    yield "Digest", _code(entry.digest)
    yield "Version", _text(f"{entry.version} ({entry.label})" if entry.label else entry.version)
    yield "Built", _text(entry.built_at.replace("T", " ").removesuffix("+00:00") + " UTC")
    yield "Download", _text(_sizes(entry.sizes))
    yield "Older versions", _list([*map(_older, entry.older[:MOST_OLDER]), *_more(len(entry.older) - MOST_OLDER)])
    yield "Home page", _link(entry.homepage)
    yield "Source code", _link(entry.source_code)
    yield "Licenses", _text(entry.licenses)


def _older(version: Older) -> str:
    label = f" ({version.label})" if version.label else ""
    return _text(f"{version.key}{label}, {_sizes(version.sizes)}")


def _more(count: int) -> list[str]:
    return [f"{count} more"] if count > 0 else []


def _size(sizes: Sequence[tuple[str, int]]) -> str:
    """The largest of them."""
    return human_size(max((size for _, size in sizes), default=0))


def _sizes(sizes: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{human_size(size)} for {arch}" for arch, size in sizes)


def _link(url: str) -> str:
    """A link if the text is an address of the web, else the text alone: javascript:, data: and the like are not, nor
    is what only looks like another address (https://known.example@other.example).
    """
    text = _text(url)
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        is_web = False
    if not is_web or any(one.isspace() or not one.isprintable() for one in url):
        return text
    return f'<a href="{text}" rel="noopener noreferrer">{text}</a>'


def _words(text: str) -> str:
    return " ".join(map(_code, text.split()))


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>" if text else ""


def _list(items: Iterable[str]) -> str:
    found = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{found}</ul>" if found else ""


def _text(text: str) -> str:
    """Text from outside as HTML."""
    return escape(one_line(text, 2000))
