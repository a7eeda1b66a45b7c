"""What the index says about the versions in the tree, and when it is written."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator

import pytest

from lxdocker.tree import last_sync, retention, rollback
from lxdocker.tree.index import without_times
from lxdocker.tree.page import PAGE_FILE
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import SIDECAR
from lxdocker.values import Arch, ImageName
from tests.examples import digest, provenance, publish, spec
from tests.trees import (
    IMAGES,
    INDEX,
    NEVER,
    assert_sound,
    listed,
    products,
    read,
)

VERSION = "oci.label.org.opencontainers.image.version"
REF_NAME = "oci.label.org.opencontainers.image.ref.name"


@pytest.mark.parametrize(
    ("properties", "label"),
    [
        ({VERSION: "1.27.3"}, "1.27.3"),
        ({VERSION: "x" * 40}, "x" * 40),
        ({VERSION: " 1.27.3 ", REF_NAME: "docker.io/library/nginx:1"}, "1.27.3"),
        ({VERSION: "24.04", REF_NAME: "ubuntu"}, None),  # what the image was made from
        ({VERSION: " "}, None),
        ({VERSION: "\x1b[31m1"}, None),
        ({VERSION: "x" * 41}, None),
        ({}, None),  # as a tree of long ago has it
    ],
)
def test_each_version_is_listed_with_the_images_own_or_its_digest(
    tree: Tree, properties: dict[str, str], label: str | None
) -> None:
    published = publish(tree, properties=properties)
    (product,) = products(tree).values()
    assert product["versions"][published.key]["label"] == (label or digest("index").short)
    assert product["os"] == "web"
    assert product["release"] == "1"


@pytest.mark.parametrize(
    ("description", "title"),
    [
        ("Our web\nserver", "Our web server"),
        ("web (docker.io/library/nginx:1)", "docker.io/library/nginx:1"),  # what lxdocker itself says
        ("", "docker.io/library/nginx:1"),
    ],
)
def test_an_image_is_listed_under_its_own_description(tree: Tree, description: str, title: str) -> None:
    publish(tree, properties={"description": description})
    (product,) = products(tree).values()
    assert product["release_title"] == title


def test_an_index_of_an_older_lxdocker_is_written_anew_from_what_is_there(tree: Tree) -> None:
    published = publish(tree)
    path = tree.root / IMAGES
    new = path.read_text()
    old = json.loads(new)
    (product,) = old["products"].values()
    product |= {"release": "current", "variant": "default"}
    del product["versions"][published.key]["label"]
    path.write_text(json.dumps(old))
    sidecar = published.folder / SIDECAR
    before = json.loads(sidecar.read_text())
    del before["properties"]
    sidecar.write_text(json.dumps(before))
    tree.write_index()
    assert without_times(read(tree, IMAGES)) == without_times(json.loads(new))


def test_products_are_told_apart_by_name_and_architecture(tree: Tree) -> None:
    for name, arch in [("web", Arch.X86_64), ("web", Arch.AARCH64), ("db", Arch.X86_64)]:
        publish(tree, provenance(spec(name)), f"{name} {arch}", arch=arch)
    assert sorted(products(tree)) == [
        "db:current:default:amd64",
        "web:current:default:amd64",
        "web:current:default:arm64",
    ]
    assert len(assert_sound(tree.root)) == 3


def test_the_newest_version_says_which_aliases_there_are(tree: Tree) -> None:
    publish(tree, content="1", aliases=("old",))
    publish(tree, content="2", aliases=("new",))
    assert products(tree)["web:current:default:amd64"]["aliases"] == "web,new"


def test_an_alias_is_one_image_s(tree: Tree) -> None:
    """Two may claim it while it moves from one spec to another: the newer has it; and a name beats both."""
    publish(tree, provenance(spec("first")), aliases=("www", "third"))
    publish(tree, provenance(spec("other")), aliases=("other2",))
    (folder,) = (tree.root / "images/first/x86_64").iterdir()
    folder.rename(folder.with_name("20200101_0000"))
    publish(tree, provenance(spec("second")), aliases=("www",))
    publish(tree, provenance(spec("third")))
    listed = {name.split(":")[0]: product["aliases"] for name, product in products(tree).items()}
    assert listed == {"first": "first", "other": "other,other2", "second": "second,www", "third": "third"}


def test_an_empty_tree_lists_nothing_at_all(tree: Tree) -> None:
    tree.withdraw([publish(tree)])
    assert read(tree, INDEX)["index"] == {}
    assert products(tree) == {}


def identity(tree: Tree) -> list[tuple[int, int]]:
    return [((tree.root / path).stat().st_ino, (tree.root / path).stat().st_mtime_ns) for path in (INDEX, IMAGES)]


def test_the_index_is_not_touched_when_nothing_changed(tree: Tree) -> None:
    published = publish(tree)
    before = identity(tree)
    tree.write_index()
    tree.update(published, published.provenance, ())
    tree.withdraw([])
    retention.retire(tree, 3)
    retention.sweep(tree, 0)
    with locked_again(tree):
        tree.write_index()
    assert identity(tree) == before
    publish(tree, content="2")
    assert identity(tree)[1] != before[1]


def test_an_index_of_another_time_is_not_touched(tree: Tree) -> None:
    publish(tree)
    for path in (INDEX, IMAGES):
        text = (tree.root / path).read_text()
        (tree.root / path).write_text(re.sub(r'"updated":"[^"]*"', '"updated":"Thu, 01 Jan 2026 00:00:00 +0000"', text))
    before = identity(tree)
    tree.write_index()
    assert identity(tree) == before


@contextlib.contextmanager
def locked_again(tree: Tree) -> Iterator[None]:
    """As a later process would find the tree: the staging area cleared."""
    shutil.rmtree(tree.root / ".staging")
    (tree.root / ".staging").mkdir()
    yield


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"null", b'{"index": 3}', b"\xff\xfe", b'{"products": [1]}'])
def test_a_ruined_index_is_written_anew(tree: Tree, garbage: bytes) -> None:
    published = publish(tree)
    for path in (INDEX, IMAGES):
        (tree.root / path).write_bytes(garbage)
    assert retention.sweep(tree, 0) == []
    assert listed(tree) == [published.key]
    assert assert_sound(tree.root) == {published.fingerprint.value}


def test_a_deleted_index_is_written_anew(tree: Tree) -> None:
    published = publish(tree)
    shutil.rmtree(tree.root / "streams")
    tree.write_index()
    assert assert_sound(tree.root) == {published.fingerprint.value}


def test_the_page_has_one_entry_for_an_image_of_its_newest_version(tree: Tree) -> None:
    """Whatever the architecture: each may be built at another time."""
    for arch, content in ((Arch.AARCH64, "arm"), (Arch.X86_64, "old"), (Arch.X86_64, "new")):
        newest = publish(tree, content=content, arch=arch)
    (folder,) = (tree.root / "images/web/x86_64").glob(newest.key)
    folder.rename(folder.with_name("20990101_0000"))
    tree.write_index()
    text = (tree.root / PAGE_FILE).read_text()
    assert text.count("<h2>") == 1
    assert re.findall(r"<dt>Version</dt><dd>(\d{8}_\d{4})", text) == ["20990101_0000"]
    assert "<dd>1.0 kB for amd64, 1.0 kB for arm64</dd>" in text
    (older,) = re.findall(r"<dt>Older versions</dt><dd>(.*?)</dd>", text)
    assert re.fullmatch(r"<ul><li>\d{8}_\d{4} \([0-9a-f]{12}\), 1.0 kB for amd64</li></ul>", older)
    publish(tree, provenance(spec("another")))
    assert re.findall(r"<h2>(.*?)</h2>", (tree.root / PAGE_FILE).read_text()) == ["another", "web"]


PROPERTIES = {
    "description": "web (docker.io/library/nginx:1)",  # lxdocker's own, which says nothing
    "oci.ports": "80/tcp",
    "oci.volumes": "/data",
    "oci.user": "app",
    "oci.workdir": "/srv",
    "oci.entrypoint": "/app -x",
    "oci.stop_signal": "SIGQUIT",
    "oci.healthcheck": "true every 5 s",
    "oci.env.PATH": "/bin",
    "oci.env.A": "b=c",
    "oci.label.org.opencontainers.image.description": "Serves the web",
    "oci.label.org.opencontainers.image.version": "1.27.1",
    "oci.label.org.opencontainers.image.url": "https://nginx.example/",
    "oci.label.org.opencontainers.image.source": "https://git.example/",
    "oci.label.org.opencontainers.image.licenses": "BSD-2-Clause",
}


def test_the_page_shows_what_an_image_states_of_itself(tree: Tree) -> None:
    publish(tree, properties=PROPERTIES)
    text = (tree.root / PAGE_FILE).read_text()
    said = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert {key: re.sub("<[^>]*>", " ", value).split() for key, value in said.items()} == {
        **{key: value for key in ("Image", "Digest", "Version", "Built", "Download")
           if (value := re.sub("<[^>]*>", " ", said[key]).split())},
        "Description": ["Serves", "the", "web"],
        "Ports": ["80/tcp"],
        "Volumes": ["/data"],
        "User": ["app"],
        "Working folder": ["/srv"],
        "Entrypoint": ["/app", "-x"],
        "Stop signal": ["SIGQUIT"],
        "Health check": ["true", "every", "5", "s"],
        "Environment": ["PATH=/bin", "A=b=c"] if said["Environment"].find("PATH") < said["Environment"].find("A=b")
        else ["A=b=c", "PATH=/bin"],
        "Home page": ["https://nginx.example/"],
        "Source code": ["https://git.example/"],
        "Licenses": ["BSD-2-Clause"],
    }  # fmt: skip
    assert said["Version"].endswith(" (1.27.1)")


def test_the_page_says_when_it_was_last_synced(tree: Tree) -> None:
    """Also a sync that finds nothing to do."""
    publish(tree)
    path = tree.root / PAGE_FILE
    path.write_text(re.sub(r"Last synced <time.*?</time>", "Last synced never", path.read_text()))
    retention.sweep(tree, 0)
    assert re.search(r'Last synced <time datetime="\d{4}-\d\d-\d\dT\d\d:\d\dZ">', path.read_text())


def test_a_rollback_is_no_sync(tree: Tree) -> None:
    def synced() -> str:
        (found,) = re.findall(r'Last synced <time datetime="(.*?)">', (tree.root / PAGE_FILE).read_text())
        return str(found)

    for content in ("old", "new"):
        publish(tree, content=content)
    last_sync.record(tree.root, "0123456789abcdef", last_sync.LastSync(1_700_000_000, 1, 0))
    rollback.roll_back(tree, ImageName("web"))
    assert synced() == "2023-11-14T22:13Z"
    with tree.session("0123456789abcdef", print, NEVER):
        tree.write_index()
    assert synced() > "2026"
    for nonsense in (1e300, -1e300, 2**40):
        last_sync.record(tree.root, "0123456789abcdef", last_sync.LastSync(nonsense, 1, 0))
        tree.write_index()
        assert synced() > "2026"


def test_products_and_versions_are_listed_in_order(tree: Tree) -> None:
    """LXD shows them as they come."""
    for name, arch in (("web", Arch.X86_64), ("db", Arch.X86_64), ("web", Arch.AARCH64)):
        publish(tree, provenance(spec(name)), f"{name} {arch}", arch=arch)
    assert read(tree, INDEX)["index"]["images"]["products"] == [
        "db:current:default:amd64",
        "web:current:default:arm64",
        "web:current:default:amd64",
    ]
