"""What lxdocker relies on in an image store and in builders, whichever they are: run with all that stands in for them,
and with the real ones by tests/lxd/test_contracts.py.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lxdocker.builder import recipe
from lxdocker.errors import HostError
from lxdocker.http.route import NOWHERE
from lxdocker.image import artifact
from lxdocker.image.artifact import Artifact
from lxdocker.image.origin import Origin
from lxdocker.image.provenance import FOLDER_PATH
from lxdocker.lxd.store import Store
from lxdocker.progress import Progress, Say
from lxdocker.runtime import render
from lxdocker.sync.make import Builders, Making
from lxdocker.values import Arch, ImageName
from tests.examples import digest, provenance, resolved, spec

OLD = provenance(at=resolved("old"))
NEW = provenance(at=resolved("new"))


CREATED = 1_600_000_000


def split_image(folder: Path, content: str) -> Artifact:
    """One that a real LXD takes, too."""
    folder.mkdir(parents=True)
    metadata = render.image_metadata(Arch.host(), CREATED, {"os": content, "lxdocker.source": "its own"}, b"")
    return artifact.write(folder, metadata, [b"hsqs", content.encode()])


def an_added_image_is_seen_with_all_that_is_recorded(store: Store, folder: Path) -> None:
    made = split_image(folder / "new", "new")
    counted: list[int] = []
    store.add(made, NEW, counted.append, {FOLDER_PATH: "/specs"})
    (image,) = store.view().ours
    assert image.provenance == NEW
    assert image.fingerprint == made.fingerprint
    assert image.image.properties[FOLDER_PATH] == "/specs"
    assert image.image.properties["os"] == "new"  # of the image itself, which says less than what is recorded
    assert image.image.aliases == ()
    assert store.view().aliases == {}


def an_image_that_is_there_already_stays_as_it_is(store: Store, folder: Path) -> None:
    made = split_image(folder / "new", "new")
    store.add(made, NEW)
    (before,) = store.view().ours
    store.add(made, replace(NEW, built_at="2030-01-01T00:00:00+00:00"))
    assert store.view().ours == (before,)


def images_come_by_name_and_the_newest_last(store: Store, folder: Path) -> None:
    other = provenance(spec("a"))
    for content, made_from in (("old", OLD), ("other", other), ("new", NEW)):
        store.add(split_image(folder / content, content), made_from)
    assert [image.provenance for image in store.view().ours] == [other, OLD, NEW]


def an_alias_moves_in_one_step_and_only_if_it_must(store: Store, folder: Path) -> None:
    old, new = (split_image(folder / content, content) for content in ("old", "new"))
    store.add(old, OLD)
    store.add(new, NEW)
    store.point(("web", "www"), old.fingerprint, {})
    assert store.view().aliases == {"web": old.fingerprint, "www": old.fingerprint}
    store.point(("web",), new.fingerprint, store.view().aliases)
    assert store.view().aliases == {"web": new.fingerprint, "www": old.fingerprint}
    store.point(("web",), old.fingerprint, {"web": old.fingerprint})  # believed to be there, so nothing is asked
    assert store.view().aliases["web"] == new.fingerprint
    assert {image.fingerprint: image.image.aliases for image in store.view().ours} == {
        old.fingerprint: ("www",),
        new.fingerprint: ("web",),
    }


def an_alias_that_is_gone_is_dropped_once_more_without_a_word(store: Store, folder: Path) -> None:
    made = split_image(folder / "new", "new")
    store.add(made, NEW)
    store.point(("web", "www"), made.fingerprint, {})
    for _ in range(2):
        store.drop_alias("www")
        assert store.view().aliases == {"web": made.fingerprint}


def what_is_new_about_an_image_leaves_the_rest_of_it(store: Store, folder: Path) -> None:
    made = split_image(folder / "new", "new")
    store.add(made, NEW, None, {FOLDER_PATH: "/specs"})
    store.point(("web",), made.fingerprint, {})
    (image,) = store.view().ours
    seen = NEW.seen_as(digest("new index"), "0123456789abcdef")
    store.describe(image.image, seen, {"lxdocker.note": "x"})
    (described,) = store.view().ours
    assert described.provenance == seen
    assert described.image.properties == {**image.image.properties, **seen.to_properties(), "lxdocker.note": "x"}
    assert (described.image.aliases, described.fingerprint) == (("web",), made.fingerprint)


def a_note_leaves_the_rest_of_an_image(store: Store, folder: Path) -> None:
    made = split_image(folder / "new", "new")
    store.note(made.fingerprint, {"lxdocker.note": "x"})  # it is not there (any more)
    assert store.view().ours == ()
    store.add(made, NEW, None, {FOLDER_PATH: "/specs"})
    (before,) = store.view().ours
    for _ in range(2):
        store.note(made.fingerprint, {"lxdocker.note": "x"})
        (image,) = store.view().ours
        assert image.image.properties == {**before.image.properties, "lxdocker.note": "x"}


def a_removed_image_takes_its_aliases_along_and_may_be_gone(store: Store, folder: Path) -> None:
    old, new = (split_image(folder / content, content) for content in ("old", "new"))
    store.add(old, OLD)
    store.add(new, NEW)
    store.point(("web", "www"), old.fingerprint, {})
    store.point(("blue",), new.fingerprint, {})
    image = next(image for image in store.view().ours if image.fingerprint == old.fingerprint)
    for _ in range(2):
        store.remove(image)
        assert [image.fingerprint for image in store.view().ours] == [new.fingerprint]
        assert store.view().aliases == {"blue": new.fingerprint}


def only_an_image_without_an_alias_is_discarded(store: Store, folder: Path) -> None:
    made = split_image(folder / "new", "new")
    store.discard(made.fingerprint)
    store.add(made, NEW)
    store.point(("mine",), made.fingerprint, {})
    store.discard(made.fingerprint)
    assert len(store.view().ours) == 1
    store.drop_alias("mine")
    store.discard(made.fingerprint)
    assert store.view().ours == ()


def an_image_from_a_server_is_not_one_that_was_made_here(store: Store, folder: Path) -> None:
    """Whatever it says of itself."""
    made = split_image(folder / "new", "new")
    origin = Origin("https://server.example", ImageName("web"), "20260102_0304", ("web",))
    store.add(made, origin, None, NEW.to_properties())
    store.point(("web",), made.fingerprint, {})
    assert store.view().ours == ()
    assert store.view().aliases == {"web": made.fingerprint}
    assert [image.fingerprint for image in store.images()] == [made.fingerprint]


STORE: tuple[Callable[[Store, Path], None], ...] = (
    an_added_image_is_seen_with_all_that_is_recorded,
    an_image_that_is_there_already_stays_as_it_is,
    images_come_by_name_and_the_newest_last,
    an_alias_moves_in_one_step_and_only_if_it_must,
    an_alias_that_is_gone_is_dropped_once_more_without_a_word,
    what_is_new_about_an_image_leaves_the_rest_of_it,
    a_note_leaves_the_rest_of_an_image,
    a_removed_image_takes_its_aliases_along_and_may_be_gone,
    only_an_image_without_an_alias_is_discarded,
    an_image_from_a_server_is_not_one_that_was_made_here,
)


def a_project_that_is_not_there(store: Store) -> None:
    """Not for FolderLxd, which has no projects."""
    with pytest.raises(HostError, match=f"has no project {store.project}") as caught:
        store.view()
    assert f"project create {store.project}" in caught.value.resolution


class Told(Progress):
    """Takes down what is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.bytes = 0
        self.outcomes: list[str] = []
        self.expected: list[str] = []
        self.steps: list[str] = []

    def expect(self, names: Sequence[ImageName]) -> None:
        self.expected += [name.value for name in names]

    @contextmanager
    def step(self, what: str) -> Iterator[Say]:
        self.steps.append(what)
        yield self.steps.append

    def phase(self, name: ImageName, phase: str, total: int | None = None) -> None:
        self.phases.append(phase)

    def count(self, name: ImageName, amount: int) -> None:
        self.bytes += amount

    def done(self, name: ImageName, outcome: str) -> None:
        self.outcomes.append(outcome)


def a_build_tells_its_steps_and_gives_the_same_each_time(making: Making, builders: Builders, folder: Path) -> None:
    fingerprints = set()
    for number in range(2):
        told, warned = Told(), list[str]()
        place = folder / str(number)
        place.mkdir(parents=True)
        finished = making.run(builders, place, told, warned.append)
        assert told.phases == ["starting builder", "fetch", "unpack", "pack", "export"]
        assert warned == []
        made = finished.artifact
        content = made.metadata.read_bytes(), made.rootfs.read_bytes()
        assert made.fingerprint.value == hashlib.sha256(b"".join(content)).hexdigest()
        assert (made.metadata_size, made.rootfs_size) == tuple(map(len, content))
        assert told.bytes >= made.rootfs_size
        assert (finished.provenance, finished.properties) == (making.provenance, making.properties)
        with tarfile.open(made.metadata) as tar:
            metadata = tar.extractfile("metadata.yaml")
            assert metadata is not None
            assert yaml.safe_load(metadata)["properties"] == finished.properties
        fingerprints.add(made.fingerprint)
    assert len(fingerprints) == 1


def a_builder_drops_layers_when_it_is_told_which_stay(builders: Builders) -> None:
    with builders.builder(NOWHERE) as builder:
        recipe.keep_only(builder, [ImageName("web")])
