"""The catalogue page as text: what it says of an image, and that nothing an image says is markup."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser

import pytest

from lxdocker.tree import page

SYNCED = datetime(2026, 1, 2, 3, 4, 59, tzinfo=UTC)
ENTRY = page.Entry(
    name="nginx",
    aliases=("web", "www"),
    description="A Web server",
    source="docker.io/library/nginx:1",
    digest="sha256:" + "ab" * 32,
    version="20260102_0304",
    label="1.27.1",
    built_at="2026-01-02T03:04:05+00:00",
    sizes=(("amd64", 68_300_000), ("arm64", 64_000_000)),
    ports="80/tcp 443/tcp",
    volumes="/data /cache",
    user="app",
    working_dir="/srv",
    entrypoint="/entrypoint one",
    stop_signal="SIGQUIT",
    healthcheck="true every 5 s",
    environment=(("PATH", "/bin"), ("QUOTED", "it's")),
    homepage="https://nginx.example/?a=1&b=2",
    source_code="http://git.example/nginx",
    licenses="BSD-2-Clause",
    older=(page.Older("20260101_0000", "1.26", (("amd64", 67_000_000),)),),
)
BARE = page.Entry("web", (), "", "docker.io/library/nginx:1", "sha256:" + "ab" * 32, "20260102_0304", "",
                  "2026-01-02T03:04:05+00:00", (("amd64", 1_000),))  # fmt: skip
HOSTILE = '<b id="x">&\'</b>'


class Items(HTMLParser):
    """The elements of the page's list, with their attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(re.split('<ul class="images"[^>]*>', text)[1].split("</main>")[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts += [data] if data.strip() else []


def render(*entries: page.Entry) -> str:
    return page.render(entries, SYNCED)


def facts(entry: page.Entry) -> dict[str, str]:
    """What is said under each heading, as text; items of a list are separated by a bar."""
    found = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", render(entry))
    return {title: unescape(re.sub("<[^>]*>", "", value.replace("</li><li>", "|"))) for title, value in found}


def test_what_is_said_of_an_image() -> None:
    assert facts(ENTRY) == {
        "Description": "A Web server",
        "Also known as": "web, www",
        "Volumes": "/data /cache",
        "Environment": "PATH=/bin|QUOTED=it's",
        "User": "app",
        "Health check": "true every 5 s",
        "Ports": "80/tcp 443/tcp",
        "Entrypoint": "/entrypoint one",
        "Working folder": "/srv",
        "Stop signal": "SIGQUIT",
        "Image": "docker.io/library/nginx:1",
        "Digest": "sha256:" + "ab" * 32,
        "Version": "20260102_0304 (1.27.1)",
        "Built": "2026-01-02 03:04:05 UTC",
        "Download": "68.3 MB for amd64, 64.0 MB for arm64",
        "Older versions": "20260101_0000 (1.26), 67.0 MB for amd64",
        "Home page": "https://nginx.example/?a=1&b=2",
        "Source code": "http://git.example/nginx",
        "Licenses": "BSD-2-Clause",
    }
    assert set(facts(BARE)) == {"Image", "Digest", "Version", "Built", "Download"}


def test_an_image_is_one_line_with_details_below() -> None:
    found = Items(render(ENTRY))
    assert found.tags[:4] == ["li", "details", "summary", "h2"]
    assert found.texts[:6] == [
        "nginx",
        "A Web server",
        "1.27.1",
        "68.3 MB",
        "amd64, arm64",
        "lxc launch lxdocker:nginx",
    ]
    assert ("open", None) not in found.attributes
    assert Items(render(BARE)).texts[:2] == ["web", "docker.io/library/nginx:1"]


def test_of_many_older_versions_only_some_are_listed() -> None:
    older = tuple(page.Older(f"202501{day:02}_0000", "", ()) for day in range(31, 0, -1))
    said = facts(replace(ENTRY, older=older))["Older versions"].split("|")
    assert (len(said), said[0][:13], said[-1]) == (page.MOST_OLDER + 1, "20250131_0000", "21 more")


def test_it_says_when_it_was_synced_to_the_minute() -> None:
    assert 'Last synced <time datetime="2026-01-02T03:04Z">2026-01-02 03:04 UTC</time>.' in render(ENTRY)
    assert page.render([ENTRY], SYNCED) == page.render([ENTRY], SYNCED.replace(second=0))


@pytest.mark.parametrize(
    "hostile",
    [
        replace(ENTRY, name=HOSTILE),
        replace(ENTRY, aliases=(HOSTILE,)),
        replace(ENTRY, description=HOSTILE),
        replace(ENTRY, source=HOSTILE),
        replace(ENTRY, digest=HOSTILE),
        replace(ENTRY, version=HOSTILE),
        replace(ENTRY, label=HOSTILE),
        replace(ENTRY, built_at=HOSTILE),
        replace(ENTRY, sizes=((HOSTILE, 1), ("b", 2))),
        replace(ENTRY, ports=f"{HOSTILE.replace(' ', '')} b"),
        replace(ENTRY, volumes=f"{HOSTILE.replace(' ', '')} b"),
        replace(ENTRY, user=HOSTILE),
        replace(ENTRY, working_dir=HOSTILE),
        replace(ENTRY, entrypoint=HOSTILE),
        replace(ENTRY, stop_signal=HOSTILE),
        replace(ENTRY, healthcheck=HOSTILE),
        replace(ENTRY, environment=((HOSTILE, HOSTILE), ("b", HOSTILE))),
        replace(ENTRY, homepage="https://x/" + HOSTILE.replace(" ", "")),
        replace(ENTRY, source_code="https://x/" + HOSTILE.replace(" ", "")),
        replace(ENTRY, licenses=HOSTILE),
        replace(ENTRY, older=(page.Older(HOSTILE, HOSTILE, ((HOSTILE, 1),)),)),
    ],
    ids=lambda entry: next(name for name in entry.__slots__ if getattr(entry, name) != getattr(ENTRY, name)),
)
def test_nothing_an_image_says_is_markup(hostile: page.Entry) -> None:
    plain, found = Items(render(ENTRY)), Items(render(hostile))
    assert found.tags == plain.tags
    assert [name for name, _ in found.attributes] == [name for name, _ in plain.attributes]
    assert HOSTILE.replace(" ", "") in "".join(found.texts).replace(" ", "")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "javascript://a.example/%0aalert(1)",
        "ftp://files.example/x",
        "JavaScript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "//evil.example/x",
        "https:evil.example",
        "https://",
        "https://known.example@evil.example/",
        "https://a b.example/",
        "https://a.example/\u202egnp.exe",
        "https://[::1/",
        "nginx.example",
    ],
)
def test_only_addresses_of_the_web_are_links(url: str) -> None:
    found = Items(render(replace(ENTRY, homepage=url, source_code="")))
    assert "a" not in found.tags
    assert not [value for name, value in found.attributes if name in {"href", "src"}]
    assert facts(replace(ENTRY, homepage=url))["Home page"].split()[0] == url.replace("\u202e", " ").split()[0]


def test_a_link_tells_its_target_nothing() -> None:
    found = dict(Items(render(replace(ENTRY, source_code=""))).attributes)
    assert (found["href"], found["rel"]) == (ENTRY.homepage, "noopener noreferrer")


def test_what_cannot_be_encoded_is_left_out() -> None:
    """Half of a surrogate pair, from another server's record, would fail whoever writes the page."""
    assert facts(replace(ENTRY, description="a\ud800b\x1b[0m"))["Description"] == "a b [0m"
    render(replace(ENTRY, description="\udfff", environment=(("\ud800", "\ud800"),))).encode()


def test_the_search_finds_words_in_lower_case() -> None:
    (searched,) = (value for name, value in Items(render(ENTRY)).attributes if name == "data-search")
    assert searched == "nginx web www docker.io/library/nginx:1 a web server amd64, arm64"


@pytest.mark.parametrize(
    ("count", "words"), [(0, "No image is published yet."), (1, "1 image for"), (2, "2 images for")]
)
def test_how_many_there_are(count: int, words: str) -> None:
    assert words in render(*[ENTRY] * count)


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = render(BARE)
    assert re.findall(r"""(?:src|href)=|url\(|@import|<link|<iframe""", text) == []
    assert text.count("<script>") == text.count("<script") == 1
