"""A sync from spec to published version: every part is real but LXD and its builders."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from lxdocker.builder.recipe import DAMAGED, FAILED_STEPS
from lxdocker.config.changes import NO_CHANGES, FileChange, Overrides, Packages, Step, Template
from lxdocker.config.spec import Behaviour, BrokenSpec, ImageSpec
from lxdocker.errors import BuildError, HostError, SpecError, TreeError, UsageError
from lxdocker.image import provenance
from lxdocker.image.artifact import ROOTFS_FILE
from lxdocker.image.provenance import FOLDER_PATH, NOTES, PUBLISHED_AS, Folder, Provenance
from lxdocker.image.wanted import Wanted
from lxdocker.lxd.api import Cancelled
from lxdocker.lxd.command import Result
from lxdocker.sync.make import Making
from lxdocker.sync.outcome import Status
from lxdocker.tree.rollback import roll_back
from lxdocker.tree.tree import Tree
from lxdocker.values import ImageName
from tests import contracts, examples, recorded
from tests.recorded import Recorded
from tests.stand_ins import Request
from tests.trees import assert_sound
from tests.unit.sync.place import Place, place, words
from tests.waiting import wait_until

UNPACKING, FETCHING = (
    next(status for status, step in FAILED_STEPS.items() if step == doing) for doing in ("unpacking", "fetching")
)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as made:
        yield made


@contextmanager
def calls() -> Iterator[Counter[str]]:
    """How often functions are called while the block runs, by any thread and under any name."""
    watched: dict[CodeType, str] = {
        function.__code__: function.__name__
        for function in (provenance.inputs, provenance.source_label, provenance.folder_id)
    }
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (name := watched.get(frame.f_code)):
            counted[name] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


# ---- from nothing to a published image


@pytest.mark.parametrize("lxd", recorded.every(), ids=str)
def test_an_image_is_built_once_and_recorded_alike_in_both_places(tmp_path: Path, lxd: Recorded) -> None:
    with place(tmp_path, lxd) as here:
        web = here.image("web", aliases=("www",))
        assert words(here.sync(web)) == ["web built: new"]
        fingerprint, image = here.stored("web")
        (version,) = here.versions("web")
        assert sorted(image.aliases) == ["web", "www"]
        assert version.fingerprint.value == fingerprint
        assert version.aliases == ("www",)
        recorded_here = Provenance.from_properties(image.properties)
        assert recorded_here == version.provenance
        assert recorded_here
        assert recorded_here.folder == here.context.folder.id
        assert recorded_here.source == "oci:web:1"
        assert image.properties[FOLDER_PATH] == str(here.root / "specs")
        assert image.parts[1] == (version.folder / ROOTFS_FILE).read_bytes()
        assert FOLDER_PATH not in (version.folder / "lxdocker.json").read_text()
        assert_sound(here.context.tree.root)
        # What was planned is what was recorded: nothing is to do now.
        before = here.state()
        assert words(here.sync(web)) == ["web unchanged: up to date"]
        assert here.state() == before
        assert (len(here.builders.asked), here.opened) == (1, 1)


def test_a_run_tells_what_it_waits_for_and_which_images_are_to_come(here: Place) -> None:
    web, other = here.image("web"), here.image("other")
    here.sync(other)
    here.sync(web, other)
    assert here.told.expected == ["web"]
    assert here.told.steps == [
        "opening the published tree",
        "looking at images and the published tree",
        "looking up 2 images",
        "removing what is no longer needed",
    ]
    holder = Tree(here.context.tree.root)
    with holder.session(here.context.folder.id, print, threading.Event()), ThreadPoolExecutor(1) as pool:
        here.said = []
        waiting = pool.submit(here.sync, web, other)
        wait_until("the second run", lambda: here.said and len(here.told.steps) == 2)
        assert here.said == [f"waiting: another lxdocker is using {here.context.tree.root} (process {os.getpid()})"]
        assert here.told.steps == ["opening the published tree", *here.said]
        here.context.cancelled.set()
        with pytest.raises(TreeError, match="stopped"):
            waiting.result()


def test_what_identifies_an_image_is_computed_once(here: Place) -> None:
    specs = [here.image(name) for name in ("a", "b", "c")]
    for _ in range(2):  # all new, and all unchanged
        with calls() as counted:
            here.sync(*specs)
        # The folder's id was made with the context.
        assert counted == {"inputs": 3, "source_label": 3}
    (here.root / "other").mkdir()
    with calls() as counted, place(here.root / "other"):
        pass
    assert counted == {"folder_id": 1}


def test_all_that_a_build_is_told(here: Place) -> None:
    web = here.image("web", Env=["GREETING=hello"], Labels={"org.example": "two\nlines"}, User="app")
    here.with_settings(compression_level=7)
    here.builders.lost = 3
    assert words(here.sync(web)) == ["web built: new"]
    (request,) = here.builders.asked
    assert request.words[10] == "7"
    assert here.told.phases == ["starting builder", "fetch", "unpack", "pack", "export", "import", "publish"]
    assert here.told.outcomes == ["built"]
    assert here.said == [
        "warning: web lacks 3 device nodes or file attributes that only the host's root can create:"
        " see /lxd-lost in an instance, or its console"
    ]
    (version,) = here.versions("web")
    shown = version.properties
    assert shown["description"] == "web (oci:web:1)"
    assert (shown["oci.user"], shown["oci.env.GREETING"], shown["oci.label.org.example"]) == (
        "app",
        "hello",
        "two lines",
    )
    assert (shown["architecture"], shown["lxdocker.inputs"]) == ("x86_64", version.provenance.inputs)


def test_an_init_of_the_images_own_is_told(here: Place) -> None:
    web = replace(here.image("web", Cmd=["/sbin/init"]), disable_supervisor="auto")
    here.sync(web)
    assert here.said == ["web: the image's own init /sbin/init will be PID 1 (disable_supervisor: auto)"]


# ---- what changes


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: replace(spec, behaviour=Behaviour(restart="always")),
        lambda spec: replace(spec, behaviour=Behaviour(stop_grace=5)),
        lambda spec: replace(spec, behaviour=Behaviour(tmpfs=(("/cache", "64m"),))),
        lambda spec: replace(spec, properties=(("os", "Debian"),)),
        lambda spec: replace(spec, disable_supervisor=True),
    ],
    ids=["restart", "stop_grace", "tmpfs", "properties", "disable_supervisor"],
)
def test_a_changed_spec_builds_again_once(
    here: Place, change: Callable[[ImageSpec], ImageSpec], request: pytest.FixtureRequest
) -> None:
    web = here.image("web")
    here.sync(web)
    first, _ = here.stored("web")
    for expected in (f"web built: changed: {request.node.callspec.id}", "web unchanged: up to date"):
        assert words(here.sync(change(web))) == [expected]
    second, _ = here.stored("web")
    before, after = here.versions("web")
    assert [before.fingerprint.value, after.fingerprint.value] == [first, second]
    assert [fingerprint for _, fingerprint in here.daemon.images] == [second]
    # Without a builder: how an image runs is in the metadata that LXD writes into instances.
    assert (len(here.builders.asked), here.opened) == (1, 1)
    assert (after.folder / ROOTFS_FILE).read_bytes() == (before.folder / ROOTFS_FILE).read_bytes()
    assert after.rootfs_sha256 == before.rootfs_sha256
    assert_sound(here.context.tree.root)


def test_the_root_filesystem_of_the_store_will_do(here: Place) -> None:
    web = here.image("web")
    here.sync(web)
    shutil.rmtree(here.context.tree.root)
    changed = replace(web, behaviour=Behaviour(restart="always"))
    assert words(here.sync(changed)) == ["web built: changed: restart"]
    assert len(here.builders.asked) == 1
    (version,) = here.versions("web")
    assert version.fingerprint.value == here.stored("web")[0]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_damaged_root_filesystem_is_built_anew(here: Place) -> None:
    web = here.image("web")
    here.sync(web)
    damage(here.versions("web")[0].folder / ROOTFS_FILE)
    assert words(here.sync(replace(web, behaviour=Behaviour(restart="always")))) == ["web built: changed: restart"]
    assert here.said == ["web: the image that it is to be made of is damaged; building it"]
    assert len(here.builders.asked) == 2


ENVIRONMENT, LABELS = Overrides(environment=(("A", "1"),)), Overrides(labels=(("A", "1"),))


@pytest.mark.parametrize(
    ("among", "change", "stays"),
    [
        ({}, {"overrides": ENVIRONMENT}, True),
        ({}, {"overrides": LABELS}, True),
        ({}, {"templates": (Template("/x", "x", ("create",)),)}, True),
        ({}, {"variables": (("a", "1"),)}, False),
        ({"files": (FileChange("/x", "x"),)}, {"overrides": ENVIRONMENT}, True),
        ({"files": (FileChange("/x", "x"),)}, {"overrides": LABELS}, False),
        ({"run": (Step("true"),)}, {"overrides": ENVIRONMENT}, False),
        ({"packages": Packages(("x",))}, {"overrides": ENVIRONMENT}, False),
    ],
)
def test_what_the_root_filesystem_depends_on(among: Mapping[str, Any], change: Mapping[str, Any], stays: bool) -> None:
    before = examples.wanted(replace(examples.spec(), changes=replace(NO_CHANGES, **among)))
    after = examples.wanted(replace(examples.spec(), changes=replace(NO_CHANGES, **among, **change)))
    assert (before.rootfs == after.rootfs) is stays
    assert before.inputs != after.inputs


def test_a_changed_image_builds_again_and_layers_without_a_user_go(here: Place) -> None:
    web, other = here.image("web"), here.image("other")
    here.sync(web, other)
    assert here.builders.cached == []  # nothing can have lost its last user
    web = here.image("web", "another text")
    (outcome, unchanged) = words(here.sync(web, other))
    assert outcome.startswith("web built: image changed: ")
    assert unchanged == "other unchanged: up to date"
    assert here.builders.cached == [("other", "web")]
    assert here.builders.open == 0


def test_an_image_that_is_built_of_the_same_layers_leaves_them_where_they_are(here: Place) -> None:
    web = here.image("web")
    here.sync(web)
    assert words(here.sync(web, force=True)) == ["web built: forced"]
    assert here.builders.cached == []


def test_aliases_are_set_right_without_a_build(here: Place) -> None:
    web = here.image("web", aliases=("www", "old"))
    here.sync(web)
    fingerprint, image = here.stored("web")
    image.aliases.append("mine")
    done = here.sync(replace(web, aliases=("www", "new")))
    assert words(done) == ["web updated: aliases to correct: new, old"]
    assert sorted(here.stored("web")[1].aliases) == ["mine", "new", "web", "www"]
    (version,) = here.versions("web")
    assert (version.aliases, version.fingerprint.value) == (("www", "new"), fingerprint)
    assert len(here.builders.asked) == 1


def test_an_image_whose_spec_is_gone_is_removed_with_its_layers(here: Place) -> None:
    web, other = here.image("web"), here.image("other")
    here.sync(web, other)
    done = here.sync(other)
    assert words(done) == ["other unchanged: up to date", "web removed: no spec names it"]
    assert [image.aliases for image in here.daemon.images.values()] == [["other"]]
    assert here.versions("web") == []
    # Of one spec alone nothing is concluded about the others.
    here.sync(web, other)
    assert words(here.sync(other, whole=False)) == ["other unchanged: up to date"]


def test_an_emptied_folder_removes_nothing(here: Place) -> None:
    here.sync(here.image("web"))
    before = here.state()
    with pytest.raises(UsageError, match="no specs in"):
        here.sync()
    assert here.state() == before


def test_a_forced_build_of_the_same_image_publishes_nothing_new(here: Place) -> None:
    web = here.image("web")
    here.sync(web)
    assert words(here.sync(web, force=True)) == ["web built: forced"]
    assert len(here.builders.asked) == 2
    assert len(here.versions("web")) == 1
    assert words(here.sync(web)) == ["web unchanged: up to date"]


# ---- what is lost, and what is damaged


def test_what_the_store_has_lost_comes_from_the_tree(here: Place) -> None:
    web = here.image("web", aliases=("www",))
    here.sync(web)
    fingerprint, _ = here.stored("web")
    here.daemon.images.clear()
    assert words(here.sync(web)) == ["web restored: missing from the local store"]
    assert here.stored("www")[0] == fingerprint
    assert here.opened == 1
    assert words(here.sync(web)) == ["web unchanged: up to date"]


def test_what_the_tree_has_lost_comes_from_the_store(here: Place) -> None:
    web = here.image("web", aliases=("www",))
    here.sync(web)
    (before,) = here.versions("web")
    shutil.rmtree(before.folder)
    assert words(here.sync(web)) == ["web restored: missing from the published tree"]
    (after,) = here.versions("web")
    assert after == replace(before, folder=after.folder, key=after.key, properties=after.properties)
    assert before.properties.items() <= after.properties.items()
    assert here.opened == 1
    assert words(here.sync(web)) == ["web unchanged: up to date"]


def flip(path: Path) -> None:
    """Damages a file in a way that its size does not show."""
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_a_tree_from_a_backup_gives_no_key_to_two_images(here: Place) -> None:
    """Not even one that is ahead of the clock: caches have kept the files of the first for good."""
    web = here.image("web", "1")
    here.sync(web)
    root = here.context.tree.root
    shutil.copytree(root, here.root / "backup")
    keys = []
    for text in ("2", "3"):  # each a minute later than the one before, whatever the clock says
        here.sync(here.image("web", text))
        keys.append(here.versions("web")[-1].key)
    shutil.rmtree(root)
    shutil.copytree(here.root / "backup", root)
    here.context = replace(here.context, tree=Tree(root))
    assert words(here.sync(here.image("web", "3"))) == ["web restored: missing from the published tree"]
    restored = here.versions("web")[-1]
    assert restored.key > keys[-1]
    assert not NOTES & restored.properties.keys()  # which nobody else is told
    shutil.rmtree(root)
    shutil.copytree(here.root / "backup", root)
    again = here.versions("web")[-1].key
    assert again < keys[0]
    (said,) = words(here.sync(here.image("web", "4")))
    assert said.startswith("web built: image changed")
    assert here.versions("web")[-1].key > keys[-1]
    properties = here.stored("web")[1].properties
    assert properties[PUBLISHED_AS] == here.versions("web")[-1].key


@pytest.mark.parametrize("times", [1, 2])
def test_a_builder_that_somebody_deletes_costs_one_more(here: Place, times: int) -> None:
    web = here.image("web")
    here.builders.answers["web"] = [Result(137) for _ in range(times)]
    here.builders.deleted = {f"builder-{number + 1}" for number in range(times)}
    (said,) = words(here.sync(web))
    if times == 1:
        assert said == "web built: new"
        assert "the builder was deleted; building in another one" in here.told.phases
    else:
        assert "stopped or deleted by somebody else" in said
    assert here.builders.made == 2
    assert here.builders.open == 0


def test_a_damaged_version_is_withdrawn_and_the_image_built_again(here: Place) -> None:
    web = here.image("web")
    here.sync(web)
    (damaged,) = here.versions("web")
    flip(damaged.folder / ROOTFS_FILE)
    here.daemon.images.clear()
    staged: list[list[str]] = []
    here.builders.meanwhile = lambda _: staged.append(here.staged())
    assert words(here.sync(web)) == ["web built: the only copy was damaged"]
    assert staged == [["web"]]  # the restore has let go of its own folder before the build
    (version,) = here.versions("web")
    assert version.key > damaged.key
    assert version.fingerprint == damaged.fingerprint
    assert here.stored("web")[0] == version.fingerprint.value
    assert "the copy is damaged; rebuilding" in here.told.phases
    assert here.builders.asked[-1].words[11]  # with the layers, which an unchanged image is not asked for
    assert words(here.sync(web)) == ["web unchanged: up to date"]


def test_a_damaged_image_in_the_store_is_replaced_and_keeps_its_aliases(here: Place) -> None:
    web = here.image("web")
    here.sync(web)
    fingerprint, image = here.stored("web")
    image.aliases.append("mine")
    image.parts = (image.parts[0], b"damaged")
    (version,) = here.versions("web")
    shutil.rmtree(version.folder)
    assert words(here.sync(web)) == ["web built: the only copy was damaged"]
    again, image = here.stored("mine")
    assert again == fingerprint
    assert image.parts[1] != b"damaged"
    assert sorted(image.aliases) == ["mine", "web"]
    assert len(here.daemon.images) == 1
    assert words(here.sync(web)) == ["web unchanged: up to date"]


def test_a_damaged_copy_that_can_not_be_built_again_stays_listed(here: Place) -> None:
    """It is all that clients have; the tag may come back."""
    web = here.image("web")
    here.sync(web)
    (damaged,) = here.versions("web")
    flip(damaged.folder / ROOTFS_FILE)
    here.daemon.images.clear()
    real = here.context.resolver.resolve
    asked: list[Any] = []

    def resolve(ref: Any, known: Any) -> Any:
        asked.append(known)
        if len(asked) > 1:
            raise HostError("no answer", "", "")
        return real(ref, known)

    here.context.resolver.resolve = resolve  # type: ignore[method-assign]  # counts the questions
    assert words(here.sync(web)) == ["web failed: no answer"]
    assert asked[-1] is None
    assert here.versions("web") == [damaged]


def test_a_rollback_to_a_damaged_version_is_told(here: Place) -> None:
    here.sync(here.image("web", "old"))
    web = here.image("web", "new")
    here.sync(web)
    with here.context.tree.lock(print, threading.Event()):
        (back,) = roll_back(here.context.tree, ImageName("web"))
    flip(back.current.folder / ROOTFS_FILE)
    (outcome,) = here.sync(web).outcomes
    assert isinstance(outcome.error, TreeError)
    assert "was rolled back to is damaged" in outcome.error.brief
    assert "lxdocker publish rollback web VERSION" in outcome.error.resolution
    assert here.versions("web") == []
    assert len(here.builders.asked) == 2


def test_a_rollback_reaches_the_store_without_a_build(here: Place) -> None:
    here.sync(here.image("web", "old"))
    old, _ = here.stored("web")
    web = here.image("web", "new")
    here.sync(web)
    with here.context.tree.lock(print, threading.Event()):
        roll_back(here.context.tree, ImageName("web"))
    assert words(here.sync(web)) == ["web restored: rolled back in the published tree"]
    assert here.stored("web")[0] == old
    expected = "web unchanged: rolled back; the registry still has the withdrawn image"
    assert words(here.sync(web, force=True)) == [expected]


# ---- what fails


def test_a_failed_build_disturbs_nobody_and_leaves_nothing(here: Place) -> None:
    web, other, gone = here.image("web"), here.image("other"), here.image("gone")
    shutil.rmtree(here.root / "images/gone")
    here.builders.answers["web"] = [Result(UNPACKING, "", "\fno space left on device")]
    here.builders.kept.append("builder-7")
    done = here.sync(web, other, gone, keep_builder=True)
    said = words(done)
    assert said[0] == "web failed: unpacking oci:" + f"{here.root}/images/web:1 failed: no space left on device"
    assert said[1] == "other built: new"
    assert said[2].startswith("gone failed: ")
    assert done.failed
    assert done.kept_builders == ("builder-7",)
    assert isinstance(done.outcomes[0].error, BuildError)
    assert [image.aliases for image in here.daemon.images.values()] == [["other"]]
    assert here.versions("web") == []
    assert list((here.context.tree.root / ".staging").iterdir()) == []
    assert words(here.sync(web, other))[0] == "web built: new"


def test_damage_in_the_cache_costs_one_more_builder(here: Place) -> None:
    digest = f"sha256:{'a' * 64}"
    here.builders.answers["web"] = [Result(DAMAGED, f"phase fetch\nmanifest {digest}\n", "")]
    assert words(here.sync(here.image("web"))) == ["web built: new"]
    assert [request.damaged for request in here.builders.asked] == ["", digest]


def test_without_builders_all_else_is_done(here: Place) -> None:
    web = here.image("web")
    here.sync(web)
    here.daemon.images.clear()
    here.unopened = HostError("no builder image", "", "make one")
    done = here.sync(web, here.image("a"), here.image("b"))
    assert words(done) == [
        "web restored: missing from the local store",
        "a failed: no builder image",
        "b failed: no builder image",
    ]
    assert here.opened == 2  # once in each run
    assert done.kept_builders == ()


def test_a_broken_spec_fails_and_its_image_stays(here: Place) -> None:
    web, other = here.image("web"), here.image("other")
    here.sync(web, other)
    error = SpecError("a mistake in web.yaml", "line 1", "correct it")
    done = here.sync(other, broken=[BrokenSpec(web.path, web.name, error)])
    assert words(done) == ["other unchanged: up to date", "web failed: a mistake in web.yaml: line 1"]
    assert here.stored("web")


def test_an_alias_of_another_s_is_not_taken(here: Place) -> None:
    theirs = here.daemon.keep("default", (b"metadata", b"rootfs"), {})
    here.daemon.images["default", theirs].aliases.append("www")
    done = here.sync(here.image("web", aliases=("www",)))
    assert "the alias www is taken: it points to an image that lxdocker did not make" in words(done)[0]
    assert here.opened == 0
    assert here.stored("www")[0] == theirs


def test_what_lxd_refuses_is_one_image_s_failure(here: Place) -> None:
    here.daemon.refuse("POST /1.0/images/aliases", "the database is sad")
    done = here.sync(here.image("web"))
    assert words(done) == ["web failed: setting alias web failed: the database is sad"]
    assert here.daemon.images == {}
    assert here.versions("web") == []


def test_stopping_stops_all_of_it(here: Place) -> None:
    def stop(_: Request) -> None:
        here.context.cancelled.set()

    here.builders.meanwhile = stop
    here.with_settings(jobs=1)
    with pytest.raises(Cancelled):
        here.sync(*(here.image(f"a{number}") for number in range(20)))
    assert len(here.builders.asked) < 20
    assert here.daemon.images == {}
    assert here.builders.open == 0


def test_a_bug_is_not_swallowed(here: Place) -> None:
    def fail(_: Request) -> None:
        raise ZeroDivisionError

    here.builders.meanwhile = fail
    with pytest.raises(ZeroDivisionError):
        here.sync(here.image("web"))
    assert here.context.cancelled.is_set()


def test_layers_that_can_not_be_dropped_hide_no_success(here: Place) -> None:
    here.sync(here.image("web", "old"))
    here.builders.tidied = Result(1, "", "read-only file system")
    (outcome,) = here.sync(here.image("web", "new")).outcomes
    assert (outcome.status, outcome.error) == (Status.BUILT, None)
    (said,) = here.said
    assert said.startswith("keeping the layer cache failed: read-only file system")


# ---- a folder of specs that was moved


@pytest.mark.parametrize("force", [False, True])
def test_a_moved_folder_adopts_its_images(here: Place, force: bool) -> None:
    web = here.image("web")
    here.sync(web)
    fingerprint, _ = here.stored("web")
    moved = here.root / "moved"
    here.context = replace(here.context, folder=Folder.of(moved))
    before = here.state()
    (refused,) = here.sync(web, force=force).outcomes
    assert isinstance(refused.error, UsageError)
    assert f"was built from the specs in {here.root}/specs" in refused.error.details
    assert here.state() == before
    expected = "web built: forced" if force else "web updated: it belonged to another folder of specs"
    assert words(here.sync(web, force=force, adopt=frozenset({web.name}))) == [expected]
    (version,) = here.versions("web")
    again, image = here.stored("web")
    assert (again, version.fingerprint.value) == (fingerprint, fingerprint)
    assert image.properties[FOLDER_PATH] == str(moved)
    assert image.properties["lxdocker.folder"] == version.provenance.folder == here.context.folder.id
    assert words(here.sync(web)) == ["web unchanged: up to date"]


# ---- what others do meanwhile


def test_a_name_that_another_folder_took_meanwhile_is_left_to_it(here: Place) -> None:

    def take(_: Request) -> None:
        theirs = examples.provenance(folder=Path("/elsewhere"))
        fingerprint = here.daemon.keep("default", (b"metadata", b"theirs"), theirs.to_properties())
        here.daemon.images["default", fingerprint].aliases.append("web")

    here.builders.meanwhile = take
    (outcome,) = here.sync(here.image("web")).outcomes
    assert isinstance(outcome.error, UsageError)
    assert "belongs to another folder" in outcome.error.brief
    assert [image.parts[1] for image in here.daemon.images.values()] == [b"theirs"]


def test_a_delta_is_made_for_those_who_have_the_version_before(here: Place) -> None:
    content = os.urandom(200_000)
    here.builders.answers["web"] = [content, content + b"a little more"]
    here.sync(here.image("web", "old"))
    here.with_settings(deltas=True)
    here.sync(here.image("web", "new"))
    old, new = here.versions("web")
    assert [delta.base for delta in new.deltas] == [old.key]
    assert f"delta from {old.key}" in here.told.phases
    assert_sound(here.context.tree.root)


# ---- builders


def test_scripted_builders_keep_the_contract(here: Place) -> None:
    (item,) = here.context.resolve([here.image("web")], here.context.look())
    assert isinstance(item, Wanted)
    making = Making.of(here.context, item)
    contracts.a_build_tells_its_steps_and_gives_the_same_each_time(making, here.builders, here.root)
    contracts.a_builder_drops_layers_when_it_is_told_which_stay(here.builders)
