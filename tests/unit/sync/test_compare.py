"""Versions of an image compared, and images built twice: in whose builders, and what comes of failures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.errors import BuildError, LxdockerError, TreeError, UsageError
from lxdocker.image.difference import Difference, Files
from lxdocker.lxd.command import Result
from lxdocker.sync import compare
from lxdocker.sync import run as pipeline
from lxdocker.sync.compare import REGISTRY
from lxdocker.tree.tree import Tree
from lxdocker.values import Arch, ImageName
from tests.unit.sync.place import Place
from tests.unit.sync.place import place as made_place

WEB = ImageName("web")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with made_place(tmp_path) as made:
        monkeypatch.setattr(pipeline, "_open_workshop", lambda *_: made.unopened or made.builders)
        yield made


def versions(place: Place, *texts: str) -> list[str]:
    """Publishes a version for each; their keys, the oldest first."""
    for text in texts:
        assert not place.sync(place.image("web", text, User=text)).failed
    return [version.key for version in place.versions("web")]


def chosen(place: Place, *words: str) -> tuple[str, str | None]:
    old, new = (*words, None, None)[:2]
    pair = compare.choose(place.context.tree, WEB, Arch.host(), old, new)
    return pair.old.key, pair.new.key if pair.new else None


def test_which_versions_are_compared(place: Place) -> None:
    first, second, third = versions(place, "1", "2", "3")
    assert chosen(place) == (second, third)
    assert chosen(place, first) == (first, third)
    assert chosen(place, third, first) == (third, first)
    assert chosen(place, REGISTRY) == (third, None)
    assert chosen(place, first, REGISTRY) == (first, None)
    tree = place.context.tree
    with tree.lock(print, place.context.cancelled):
        tree.withdraw([place.versions("web")[1]])
    assert chosen(place) == (first, third)
    assert chosen(place, second) == (second, third)  # in its grace period its files are there


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("20200101_0000",), "no version 20200101_0000 of web"),
        (("../../etc",), "no version ../../etc of web"),
        ((REGISTRY, REGISTRY), "registry can only be the newer version"),
        ((), "lists 1 version of web"),
    ],
)
def test_versions_that_are_not_there(place: Place, words: tuple[str, ...], complaint: str) -> None:
    versions(place, "1")
    with pytest.raises(UsageError, match=complaint) as error:
        chosen(place, *words)
    assert error.value.resolution


def test_a_version_whose_files_are_gone(place: Place) -> None:
    first, _ = versions(place, "1", "2")
    (place.versions("web")[0].folder / "rootfs.squashfs").unlink()
    with pytest.raises(UsageError, match="cannot be compared"):
        chosen(place, first)
    with pytest.raises(UsageError, match="no image nosuch"):
        compare.choose(Tree(place.root / "tree"), ImageName("nosuch"), Arch.host(), None, None)


def published(place: Place) -> Difference:
    old, new = place.versions("web")[-2:]
    return compare.published(place.context, (old, new), place.told, place.said.append)


def test_files_and_configuration_of_two_versions(place: Place) -> None:
    versions(place, "1", "2")
    before, made = place.state(), place.builders.made
    found = published(place)
    assert found.files is not None
    assert [(one.path, one.fields) for one in found.files.changes] == [(b"/content", ("sha256",))]
    assert ("user", "1", "2") in {(value.key, value.before, value.after) for value in found.values}
    assert place.state() == before
    assert (place.builders.made - made, place.builders.open) == (2, 0)  # one for each, and none left
    assert place.builders.without_cache == 2


def test_the_same_files_need_no_builder(place: Place) -> None:
    versions(place, "1")
    (version,) = place.versions("web")
    made = place.builders.made
    found = compare.published(place.context, (version, version), place.told, place.said.append)
    assert found.is_empty
    assert place.builders.made == made


def test_files_that_are_damaged_are_not_compared(place: Place) -> None:
    versions(place, "1", "2")
    rootfs = place.versions("web")[0].folder / "rootfs.squashfs"
    rootfs.write_bytes(b"x" * rootfs.stat().st_size)
    with pytest.raises(TreeError, match="is damaged"):
        published(place)


@pytest.mark.parametrize(
    ("result", "complaint", "remedy"),
    [
        (Result(80), "more than 1,000,000 files", "compare smaller images"),
        (Result(81), "unpacked, it would take more than 1024 MiB", "image_size_limit"),
        (Result(1, stderr="the squashfs cannot be read"), "the squashfs cannot be read", "publish verify --deep"),
        (Result(0, "F d 755 0 0 - 1 - - / - -\n"), "unexpected output", ""),
        (Result(137), "it was killed", "builder_memory"),
    ],
)
def test_a_listing_that_fails(
    place: Place, monkeypatch: pytest.MonkeyPatch, result: Result, complaint: str, remedy: str
) -> None:
    versions(place, "1", "2")
    monkeypatch.setattr(place.builders, "listing", lambda _: result)
    with pytest.raises(BuildError, match=complaint) as error:
        published(place)
    assert remedy in error.value.resolution
    assert place.builders.open == 0


def test_no_builders_no_files(place: Place) -> None:
    versions(place, "1", "2")
    place.unopened = LxdockerError("no builder image")
    with pytest.raises(LxdockerError, match="no builder image"):
        published(place)


def test_the_registry_is_asked_and_nothing_built(place: Place) -> None:
    versions(place, "1")
    spec = place.image("web", "2", User="2")
    made = place.builders.made
    found = compare.with_registry(place.context, place.versions("web")[0], spec)
    assert found.new.version == REGISTRY
    assert found.new.layers is not None
    assert ("user", "1", "2") in {(value.key, value.before, value.after) for value in found.values}
    assert found.files is None
    assert place.builders.made == made


# ---- twice


def test_two_builds_of_an_image(place: Place) -> None:
    specs = [place.image("web"), place.image("db")]
    place.sync(*specs)
    before = place.state()
    place.builders.asked.clear()
    place.builders.answers["db"] = [b"first", b"other"]
    web, db = compare.build_twice(place.context, specs, place.told, place.said.append)
    assert [request.name for request in place.builders.asked] == ["web", "web", "db", "db"]
    assert web.is_reproducible
    assert web.files is None
    assert web.fingerprints[0].value == place.stored("web")[0]
    assert not db.is_reproducible
    assert db.files is not None
    assert [change.path for change in db.files.changes] == [b"/content"]
    assert place.state() == before
    assert place.staged() == []


def test_times_of_files_count_where_builds_are_compared(place: Place) -> None:
    place.builders.answers["web"] = [b"first", b"other one"]
    place.builders.listing = lambda content: f"F p 644 0 0 - {len(content)} - - /pipe - -\nE 1\n"
    (web,) = compare.build_twice(place.context, [place.image("web")], place.told, place.said.append)
    assert web.files is not None
    assert [(change.path, change.fields) for change in web.files.changes] == [(b"/pipe", ("time",))]
    versions(place, "1", "2")
    assert published(place).files == Files((), (), 1, 1, ())


def test_a_build_that_fails_is_the_images_own(place: Place) -> None:
    specs = [place.image("web"), place.image("db")]
    place.builders.answers["web"] = [b"first", Result(1, stderr="no more")]
    web, db = compare.build_twice(place.context, specs, place.told, place.said.append)
    assert isinstance(web.error, BuildError)
    assert not web.is_reproducible
    assert db.is_reproducible
    with contextlib.suppress(FileNotFoundError):
        assert not list(place.context.tree.root.glob("images/*"))
