"""The catalogue page as text: what it says of an image, and that nothing an image says is markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lxdocker.tree import page

ENTRY = page.Entry(
    name="nginx",
    aliases=("web", "www"),
    description="A Web server",
    source="docker.io/library/nginx:1",
    digest="sha256:" + "ab" * 32,
    version="20260102_0304",
    built_at="2026-01-02T03:04:05+00:00",
    size=68_300_000,
    architectures=("amd64", "arm64"),
    ports="80/tcp",
    volumes="/data",
)
HOSTILE = '<b id="x">&\'</b>'


class Items(HTMLParser):
    """The elements of the page's list, with their attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(re.split('<ul class="images"[^>]*>', text)[1].split("</ul>")[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts += [data] if data.strip() else []


def facts(entry: page.Entry) -> dict[str, str]:
    """What is said under each heading."""
    text = page.render([entry])
    return dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))


def test_what_is_said_of_an_image() -> None:
    assert facts(ENTRY) == {
        "Source": "docker.io/library/nginx:1",
        "Digest": "sha256:" + "ab" * 32,
        "Also known as": "web, www",
        "Version": "20260102_0304",
        "Built": "2026-01-02 03:04:05 UTC",
        "Download": "68.3 MB",
        "For": "amd64, arm64",
        "Ports": "80/tcp",
        "Volumes": "/data",
    }
    assert {"Ports", "Volumes", "Also known as"}.isdisjoint(facts(replace(ENTRY, ports="", volumes="", aliases=())))
    found = Items(page.render([ENTRY]))
    assert {"nginx", "A Web server", "lxc launch lxdocker:nginx"} <= set(found.texts)
    assert ("data-copy", "lxc launch lxdocker:nginx") in found.attributes


@pytest.mark.parametrize(
    "hostile",
    [
        replace(ENTRY, name=HOSTILE),
        replace(ENTRY, aliases=(HOSTILE,)),
        replace(ENTRY, description=HOSTILE),
        replace(ENTRY, source=HOSTILE),
        replace(ENTRY, digest=HOSTILE),
        replace(ENTRY, version=HOSTILE),
        replace(ENTRY, built_at=HOSTILE),
        replace(ENTRY, architectures=(HOSTILE,)),
        replace(ENTRY, ports=HOSTILE),
        replace(ENTRY, volumes=HOSTILE),
    ],
    ids=lambda entry: next(name for name in entry.__slots__ if getattr(entry, name) != getattr(ENTRY, name)),
)
def test_nothing_an_image_says_is_markup(hostile: page.Entry) -> None:
    plain, found = Items(page.render([ENTRY])), Items(page.render([hostile]))
    assert found.tags == plain.tags
    assert [name for name, _ in found.attributes] == [name for name, _ in plain.attributes]
    assert HOSTILE in "".join(found.texts)


def test_the_search_finds_words_in_lower_case() -> None:
    (searched,) = (value for name, value in Items(page.render([ENTRY])).attributes if name == "data-search")
    assert searched == "nginx web www docker.io/library/nginx:1 a web server amd64 arm64"


@pytest.mark.parametrize(
    ("count", "words"), [(0, "No image is published yet."), (1, "1 image, for"), (2, "2 images, for")]
)
def test_how_many_there_are(count: int, words: str) -> None:
    assert words in page.render([ENTRY] * count)
