"""The versions in a tree: published, changed, read."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE
from lxdocker.tree import retention
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import SIDECAR
from lxdocker.values import Arch, ImageName
from tests.examples import make_artifact, provenance, publish, resolved, spec
from tests.trees import (
    INDEX,
    assert_sound,
    files_of,
    listed,
    products,
    read,
)


def test_what_is_published_can_be_found_and_fetched(tree: Tree) -> None:
    published = publish(tree, provenance(spec(aliases=("www",))), size=3_000_000, aliases=("www",))
    assert published.folder == tree.root / "images/web/x86_64" / published.key
    assert published.size == len("metadata of image") + 3_000_000
    assert assert_sound(tree.root) == {published.fingerprint.value}
    (key, product), *others = products(tree).items()
    assert not others
    assert key == "web:current:default:amd64"
    assert product["aliases"] == "web,www"
    assert product["release_title"] == "docker.io/library/nginx:1"
    assert read(tree, INDEX)["index"]["images"]["products"] == [key]
    assert tree.versions() == [published]


def test_versions_are_higher_than_those_before_even_within_a_minute(tree: Tree) -> None:
    keys = [publish(tree, content=str(number)).key for number in range(5)]
    assert keys == sorted(set(keys))
    assert listed(tree) == keys
    assert all(re.fullmatch(r"\d{8}_\d{4}", key) for key in keys)


def test_a_version_is_higher_than_withdrawn_and_damaged_ones(tree: Tree) -> None:
    first, second = publish(tree, content="1"), publish(tree, content="2")
    tree.withdraw([second])
    (first.folder / ROOTFS_FILE).unlink()
    assert publish(tree, content="3").key > second.key


def test_published_files_never_change(tree: Tree) -> None:
    first = publish(tree, content="first")
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files_of(first)}
    publish(tree, content="second")
    tree.update(first, provenance(at=resolved(source="new index")), ("alias",))
    after = {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files_of(first)}
    assert after == before


def test_publishing_leaves_the_artifact_to_its_owner(tree: Tree, tmp_path: Path) -> None:
    with tree.staging(ImageName("web")) as folder:
        artifact = make_artifact(folder)
        tree.publish(artifact, provenance(), Arch.X86_64, ())
        assert artifact.rootfs.exists()
    assert not folder.exists()
    assert assert_sound(tree.root) == {artifact.fingerprint.value}


def test_an_update_changes_what_is_recorded_and_listed(tree: Tree) -> None:
    published = publish(tree)
    seen = provenance(at=resolved(source="new index"))
    tree.update(published, seen, ("www", "www2"))
    assert tree.versions() == [replace(published, provenance=seen, aliases=("www", "www2"))]
    assert products(tree)["web:current:default:amd64"]["aliases"] == "web,www,www2"


def test_what_is_withdrawn_leaves_the_index_and_stays_on_disk(tree: Tree) -> None:
    first, second = publish(tree, content="1"), publish(tree, content="2")
    before = time.time()
    tree.withdraw([first])
    assert listed(tree) == [second.key]
    assert all(path.exists() for path in files_of(first))
    (found,) = [one for one in tree.versions() if one.key == first.key]
    assert found.withdrawn is not None
    assert before - 1 < found.withdrawn < time.time() + 1


def test_what_others_put_there_is_left_alone(tree: Tree) -> None:
    published = publish(tree)
    images = tree.root / "images"
    foreign = {
        "debian/amd64/20240101_0000/lxd.tar.xz": b"theirs",
        "web/x86_64/notes.txt": b"mine",
        "web/x86_64/20300101_0000/rootfs.squashfs": b"without a sidecar",
        f"web/x86_64/20300101_0001/{SIDECAR}": b"{not json",
        f"web/x86_64/20300101_0002/{SIDECAR}": b"[]",
        f"web/x86_64/20300101_0003/{SIDECAR}": b'{"provenance": {}, "arch": "x86_64"}',
        f"web/x86_64/backup/{SIDECAR}": (published.folder / SIDECAR).read_bytes(),
    }
    for path, content in foreign.items():
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        (images / path).write_bytes(content)
    (tree.root / "robots.txt").write_bytes(b"hello")
    assert tree.versions() == [published]
    retention.retire(tree, 1)
    tree.withdraw([published])
    retention.sweep(tree, 0)
    assert not published.folder.exists()
    assert {path: (images / path).read_bytes() for path in foreign} == foreign
    assert (tree.root / "robots.txt").exists()


def test_a_version_is_higher_than_what_others_put_there(tree: Tree) -> None:
    (tree.root / "images/web/x86_64/20990101_0000").mkdir(parents=True)
    assert publish(tree).key == "20990101_0001"


@pytest.mark.parametrize("place", ["copy/x86_64", "web/aarch64"])
def test_a_copy_in_another_place_is_not_taken_for_a_version(tree: Tree, place: str) -> None:
    published = publish(tree)
    shutil.copytree(published.folder, tree.root / "images" / place / published.key)
    assert tree.versions() == [published]


@pytest.mark.parametrize(
    "damage",
    [
        {"arch": "z80"},
        {"fingerprint": "short"},
        {"files": {}},
        {"files": {METADATA_FILE: {"size": "x", "sha256": ""}, ROOTFS_FILE: {"size": 1, "sha256": ""}}},
        {"aliases": None},
        {"provenance": None},
        {"provenance": {"lxdocker.name": 3}},
    ],
    ids=str,
)
def test_a_sidecar_that_says_nothing_sensible_is_no_version(tree: Tree, damage: dict[str, Any]) -> None:
    published = publish(tree)
    sidecar = published.folder / SIDECAR
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_bytes()), **damage}))
    assert tree.versions() == []
    tree.write_index()
    assert products(tree) == {}


def test_threads_of_one_process_may_publish_side_by_side(tree: Tree) -> None:
    threads = [
        threading.Thread(target=publish, args=(tree, provenance(spec(f"n{n % 3}")), f"content {n}")) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(product["versions"]) for product in products(tree).values()] == [4, 4, 4]
    assert len(assert_sound(tree.root)) == 12


def test_a_record_that_changed_is_read_again_though_its_size_is_the_same(tree: Tree) -> None:
    version = publish(tree, aliases=("one",))
    sidecar = version.folder / SIDECAR
    assert [found.aliases for found in tree.versions()] == [("one",)]
    (tree.root / "new").write_text(sidecar.read_text().replace('"one"', '"two"'))
    (tree.root / "new").rename(sidecar)
    assert [found.aliases for found in tree.versions()] == [("two",)]


@pytest.mark.parametrize("place", ["images/link", "images/web/link", "images/web/x86_64/20990101_0000"])
def test_what_a_link_leads_to_is_no_version(tree: Tree, place: str) -> None:
    version = publish(tree)
    target = {2: tree.root / "images/web", 3: version.folder.parent, 4: version.folder}[len(Path(place).parts)]
    (tree.root / place).symlink_to(target)
    assert tree.versions() == [version]


def test_withdrawing_nothing_changes_nothing(tree: Tree) -> None:
    tree.withdraw([])
    assert not (tree.root / INDEX).exists()
