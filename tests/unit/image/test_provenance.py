"""What is recorded with an image, and when an image must be made again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from lxdocker.config.spec import Behaviour, ImageSpec
from lxdocker.image import provenance as module
from lxdocker.image.provenance import Provenance, folder_id, inputs, source_label
from lxdocker.runtime import render
from lxdocker.source.resolve import ResolvedImage
from lxdocker.values import Arch, ArchiveKind, DiskRef, parse_image_ref
from tests.examples import digest, provenance, resolved, spec

MADE = provenance()


def test_what_is_recorded_comes_back() -> None:
    assert Provenance.from_properties(MADE.to_properties()) == MADE
    # Among others' properties, as LXD has them.
    assert Provenance.from_properties({"os": "debian", **MADE.to_properties(), "lxdocker.extra": "1"}) == MADE
    assert all(key.startswith("lxdocker.") for key in MADE.to_properties())


@pytest.mark.parametrize("missing", sorted({*MADE.to_properties()} - {"lxdocker.parts"}))
def test_an_image_that_lacks_any_of_it_is_not_ours(missing: str) -> None:
    properties = MADE.to_properties()
    del properties[missing]
    assert Provenance.from_properties(properties) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "../up"), ("name", ""), ("source_digest", "latest"), ("manifest_digest", ""), ("config_digest", "x")],
)
def test_an_image_that_says_nonsense_is_not_ours(key: str, value: str) -> None:
    assert Provenance.from_properties({**MADE.to_properties(), f"lxdocker.{key}": value}) is None


def test_what_is_sealed_into_the_image_does_not_change_with_time_or_place() -> None:
    """It is part of the fingerprint: the same inputs must give the same image on any host, any day."""
    later = replace(
        MADE, source_digest=digest("new index"), folder=folder_id(Path("/elsewhere")), built_at="2030-01-01T00:00:00Z"
    )
    assert later.sealed_properties() == MADE.sealed_properties()
    assert set(MADE.sealed_properties().values()) < set(MADE.to_properties().values())
    assert MADE.sealed_properties()["lxdocker.inputs"] == MADE.inputs


def test_what_an_image_says_of_itself_leads_to_what_it_was_made_from() -> None:
    """Wherever it was copied to, and whoever has lost the rest."""
    assert MADE.sealed_properties() == {
        "lxdocker.name": "web",
        "lxdocker.source": "docker.io/library/nginx:1",
        "lxdocker.manifest_digest": resolved().manifest_digest.value,
        "lxdocker.config_digest": resolved().config_digest.value,
        "lxdocker.inputs": MADE.inputs,
    }


def test_a_new_index_with_the_same_image_changes_only_what_the_tag_names() -> None:
    seen = MADE.seen_as(digest("new index"), "folder")
    assert seen == replace(MADE, source_digest=digest("new index"), folder="folder")
    assert seen.resolved == ResolvedImage(digest("new index"), MADE.manifest_digest, MADE.config_digest, None)


# ---- what lists say of it


@pytest.mark.parametrize(
    ("image", "title", "repository", "release"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx", "latest"),
        ("ghcr.io/owner/name:1.2-alpine", "ghcr.io/owner/name:1.2-alpine", "name", "1.2-alpine"),
        ("host:5000/app", "host:5000/app:latest", "app", "latest"),
        (f"host:5000/app@{digest('index')}", "host:5000/app", "app", digest("index").short),
        ("oci:./layout:1", "oci:layout:1", "layout", "1"),
        ("oci:./layout", "oci:layout", "layout", "current"),
        ("docker-archive:/a/app.tar", "docker-archive:app.tar", "app.tar", "current"),
    ],
)
def test_what_lists_say_of_a_source(image: str, title: str, repository: str, release: str) -> None:
    made = provenance(spec(image=image))
    assert (made.title, made.repository, made.release) == (title, repository, release)


@pytest.mark.parametrize("source", ["", ":", "/", "x", "/:", "oci:", "@"])
def test_whatever_a_source_is_there_is_a_release(source: str) -> None:
    """It may come from another server's tree."""
    assert replace(MADE, source=source).release


# ---- when an image is made again


def hash_of(
    of: ImageSpec | None = None, at: ResolvedImage | None = None, arch: Arch = Arch.X86_64, level: int = 3
) -> str:
    of = of or spec()
    return inputs(of, source_label(of.image), at or resolved(), arch, level).hash


def behaving(**how: Any) -> ImageSpec:
    return replace(spec(), behaviour=replace(Behaviour(), **how))


@pytest.mark.parametrize("field", fields(Behaviour), ids=lambda field: field.name)
def test_however_an_image_is_to_run_makes_it_another(field: Field[Any]) -> None:
    other = {
        "restart": "always",
        "restart_unhealthy": True,
        "stop_grace": 31,
        "prelaunch": "required",
        "tmpfs": (("/cache", "on"),),
        "fill_volumes": False,
        "umask": "0027",
    }
    assert hash_of(behaving(**{field.name: other[field.name]})) != hash_of()


@pytest.mark.parametrize(
    "changed",
    [
        lambda: hash_of(spec(name="other")),
        lambda: hash_of(spec(image="nginx:2")),
        lambda: hash_of(spec(disable_supervisor=True)),
        lambda: hash_of(replace(spec(), properties=(("os", "Debian"),))),
        lambda: hash_of(at=resolved("other manifest")),
        lambda: hash_of(at=replace(resolved(), config_digest=digest("other"))),
        lambda: hash_of(arch=Arch.AARCH64),
        lambda: hash_of(level=4),
    ],
    ids=["name", "image", "supervisor", "properties", "manifest", "config", "architecture", "compression"],
)
def test_whatever_goes_into_an_image_makes_it_another(changed: Callable[[], str]) -> None:
    assert changed() != hash_of()


def test_what_does_not_go_into_an_image_leaves_it_alone() -> None:
    elsewhere = replace(spec(), path=Path("/elsewhere/web.yaml"), aliases=("www",))
    assert hash_of(elsewhere) == hash_of()
    assert hash_of(at=resolved(source="new index")) == hash_of()


def test_a_changed_recipe_or_runtime_makes_all_images_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash_of()
    monkeypatch.setattr(render, "RECIPE_VERSION", render.RECIPE_VERSION + 1)
    assert hash_of() != before
    monkeypatch.undo()
    assert hash_of() == before
    init = tmp_path / "init.sh"
    init.write_bytes(render.INIT.read_bytes() + b"# changed\n")
    monkeypatch.setattr(render, "INIT", init)
    monkeypatch.setattr(render, "runtime_hash", render.runtime_hash.__wrapped__)  # as a new process computes it
    assert hash_of() != before


# ---- what is told to others


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("oci:/home/ann/secret-project/layout:v1", "oci:layout:v1"),
        ("docker-archive:/home/ann/image.tar", "docker-archive:image.tar"),
    ],
)
def test_what_is_published_does_not_tell_of_local_folders(text: str, label: str) -> None:
    assert source_label(parse_image_ref(text, Path("/"))) == label


def test_a_folder_is_known_without_being_told(tmp_path: Path) -> None:
    name = folder_id(tmp_path)
    assert str(tmp_path) not in name
    assert name == folder_id(tmp_path / "sub/..")
    (tmp_path / "link").symlink_to(tmp_path)
    assert folder_id(tmp_path / "link") == name
    assert folder_id(tmp_path / "other") != name
    # Not every path is text.
    assert folder_id(Path("/a\udcff")) != folder_id(Path("/a"))


@pytest.mark.parametrize("other", ["another machine", None])
def test_the_same_path_on_another_machine_is_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str | None
) -> None:
    """An image that was copied from there is not one that a spec here once named."""
    this, that = tmp_path / "this", tmp_path / "that"
    this.write_text("this machine\n")
    if other:
        that.write_text(other)
    monkeypatch.setattr(module, "MACHINE_ID", this)
    here = folder_id(tmp_path)
    assert folder_id(tmp_path) == here
    monkeypatch.setattr(module, "MACHINE_ID", that)
    assert folder_id(tmp_path) != here


def test_labels_of_images_on_disk_differ_by_what_they_name() -> None:
    labels = {source_label(DiskRef(kind, Path("/a/b"), tag)) for kind in ArchiveKind for tag in ("x", None)}
    assert len(labels) == 2 * len(ArchiveKind)
