"""What is done about an image, for every combination of what is wanted and what there is."""

from __future__ import annotations

import builtins
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lxdocker.config.settings import Settings
from lxdocker.config.spec import BrokenSpec, ImageSpec
from lxdocker.errors import ImageMissingError, LxdockerError, SpecError, UsageError
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE
from lxdocker.image.provenance import FOLDER_PATH, Folder, Provenance, source_label
from lxdocker.image.wanted import Wanted
from lxdocker.lxd.store import Stored, StoreView
from lxdocker.source.resolve import ResolvedImage
from lxdocker.sync.holdings import Holdings
from lxdocker.sync.plan import (
    Action,
    Build,
    Fail,
    Keep,
    Reimport,
    Remove,
    Republish,
    Touch,
    plan,
    plan_removals,
    refuse_to_empty,
)
from lxdocker.tree.version import Published, Withheld
from lxdocker.values import Arch, ImageName
from tests import examples
from tests.examples import (
    FOLDER,
    SETTINGS,
    SPECS,
    digest,
    fingerprint,
    lay_down,
    provenance,
    resolved,
    spec,
    stored,
    wanted,
)

WEB = spec()
TODAY = resolved()
NOW = wanted()
CURRENT = provenance()
ELSEWHERE = Path("/elsewhere")


def published(folder: Path, *arguments: Any, **named: Any) -> Published:
    """A version whose two files really lie below ``folder``."""
    return lay_down(examples.published(folder, *arguments, **named))


def holdings(
    in_store: Sequence[Stored] = (), in_tree: Sequence[Published] = (), others: dict[str, str] | None = None
) -> Holdings:
    """``others``: aliases of images that lxdocker did not make, and their content."""
    aliases = {alias: image.fingerprint for image in in_store for alias in image.image.aliases}
    aliases |= {alias: fingerprint(content) for alias, content in (others or {}).items()}
    return Holdings.look(StoreView(tuple(in_store), aliases), in_tree)


def item(of: ImageSpec, at: ResolvedImage | LxdockerError, settings: Settings = SETTINGS) -> Wanted | Fail:
    """A spec with what its reference was resolved to."""
    if isinstance(at, LxdockerError):
        return Fail(of, source_label(of.image), at)
    return wanted(of, at, compression_level=settings.compression_level)


def decide(
    found: Holdings,
    of: ImageSpec = WEB,
    resolution: ResolvedImage | LxdockerError = TODAY,
    *,
    settings: Settings = SETTINGS,
    force: bool = False,
    adopt: bool = False,
) -> Action:
    adopted = [of.name] if adopt else []
    (action,) = plan([item(of, resolution, settings)], found, FOLDER, Arch.X86_64, force=force, adopt=adopted)
    assert action.spec == of
    return action


def said(action: Action) -> str:
    """An action and its reason as one line, to compare with."""
    match action:
        case Build():
            return f"build: {action.reason}"
        case Reimport() | Republish():
            return f"restore: {action.reason}"
        case Touch():
            return f"touch: {action.reason}"
        case Keep():
            return "keep"
        case Fail():
            return f"fail: {action.error}"
        case Remove():
            return f"remove: {len(action.stored)} stored, {len(action.published)} published"


OLD = resolved("old manifest", source="old index")
NEW_INDEX = resolved(source="new index")
WITH_WWW = spec(aliases=("www",))
HELD = (
    "fail: the image belongs to another folder of specs: the one in {where} was built from other specs"
    " (their folder was not recorded), these are in /specs"
)
CHANGED_TEXT = f"{OLD.manifest_digest.hex[:12]} -> {TODAY.manifest_digest.hex[:12]}"


@dataclass
class Case:
    """``made``: what the image there was made from; ``in_store`` and ``in_tree``: where it is, and how."""

    expected: str
    wanted: ImageSpec = WEB
    today: ResolvedImage | LxdockerError = TODAY
    made: Provenance = CURRENT
    in_store: bool = True
    in_tree: bool = True
    store_aliases: tuple[str, ...] = ("web",)
    tree_aliases: tuple[str, ...] = ()
    others: dict[str, str] | None = None
    settings: Settings = SETTINGS
    force: bool = False
    adopt: bool = False


CASES = {
    "nothing is there": Case("build: new", in_store=False, in_tree=False),
    "all is well": Case("keep"),
    "all is well, with aliases": Case(
        "keep",
        wanted=WITH_WWW,
        made=provenance(WITH_WWW),
        store_aliases=("web", "www"),
        tree_aliases=("www",),
    ),
    "aliases of the user's own": Case("keep", store_aliases=("web", "mine")),
    "forced": Case("build: forced", force=True),
    "forced, and new": Case("build: forced", in_store=False, in_tree=False, force=True),
    "the tag names another image": Case(f"build: image changed: {CHANGED_TEXT}", made=provenance(at=OLD)),
    "the tag names another image, only the tree has the old one": Case(
        f"build: image changed: {CHANGED_TEXT}", made=provenance(at=OLD), in_store=False
    ),
    "the tag names another image, only the store has the old one": Case(
        f"build: image changed: {CHANGED_TEXT}", made=provenance(at=OLD), in_tree=False
    ),
    "the spec names another image": Case(
        "build: spec or lxdocker changed", wanted=spec(image="nginx:2"), made=provenance(spec(image="nginx:1"))
    ),
    "the supervisor is disabled": Case("build: spec or lxdocker changed", wanted=spec(disable_supervisor=True)),
    "another level of compression": Case(
        "build: spec or lxdocker changed", settings=replace(SETTINGS, compression_level=9)
    ),
    "not in the store": Case("restore: missing from the local store", in_store=False, store_aliases=()),
    "not in the tree": Case("restore: missing from the published tree", in_tree=False),
    "an alias is missing": Case("touch: aliases to correct: web", store_aliases=()),
    "a further alias is missing": Case(
        "touch: aliases to correct: www", wanted=WITH_WWW, made=provenance(WITH_WWW), tree_aliases=("www",)
    ),
    "an alias is new in the spec": Case("touch: aliases to correct: www", wanted=WITH_WWW),
    "an alias is no longer in the spec": Case(
        "touch: aliases to correct: www", store_aliases=("web", "www"), tree_aliases=("www",)
    ),
    "the tree has other aliases": Case(
        "touch: published aliases to correct", wanted=WITH_WWW, store_aliases=("web", "www")
    ),
    "the tree still has an alias that the store has not": Case(
        "touch: published aliases to correct", tree_aliases=("www",)
    ),
    "the tag's index changed, for other architectures": Case(
        "touch: the tag points to a new index with the same image for this host", today=NEW_INDEX
    ),
    "another folder of specs has it": Case(HELD.format(where="LXD"), made=provenance(folder=ELSEWHERE)),
    "another folder of specs has it, forced": Case(
        HELD.format(where="LXD"), made=provenance(folder=ELSEWHERE), force=True
    ),
    "another folder of specs has it, of another image": Case(
        HELD.format(where="LXD"), made=provenance(at=OLD, folder=ELSEWHERE)
    ),
    "another folder of specs has it in the store": Case(
        HELD.format(where="LXD"), made=provenance(folder=ELSEWHERE), in_tree=False
    ),
    "another folder of specs has it in the tree": Case(
        HELD.format(where="the published tree"), made=provenance(folder=ELSEWHERE), in_store=False, store_aliases=()
    ),
    "another folder of specs has it, under no alias": Case(
        HELD.format(where="LXD"), made=provenance(folder=ELSEWHERE), store_aliases=("mine",)
    ),
    "another folder of specs had it": Case(
        "touch: it belonged to another folder of specs", made=provenance(folder=ELSEWHERE), adopt=True
    ),
    "another folder of specs had another image": Case(
        f"build: image changed: {CHANGED_TEXT}", made=provenance(at=OLD, folder=ELSEWHERE), adopt=True
    ),
    "another folder of specs had it in the tree": Case(
        "restore: missing from the local store",
        made=provenance(folder=ELSEWHERE),
        in_store=False,
        store_aliases=(),
        adopt=True,
    ),
    "it is adopted, and was this folder's before": Case("keep", adopt=True),
    "the registry failed": Case("fail: no such image: gone", today=ImageMissingError("no such image", "gone")),
    "the registry failed, nothing is there": Case(
        "fail: no such image: gone",
        today=ImageMissingError("no such image", "gone"),
        in_store=False,
        in_tree=False,
        force=True,
    ),
    "the name is somebody else's": Case(
        f"fail: web: the alias web is taken: it points to an image that lxdocker did not make "
        f"({fingerprint('theirs').short})",
        in_store=False,
        in_tree=False,
        others={"web": "theirs"},
    ),
    "a further alias is somebody else's, all the same when forced": Case(
        f"fail: web: the alias www is taken: it points to an image that lxdocker did not make "
        f"({fingerprint('theirs').short})",
        wanted=WITH_WWW,
        others={"www": "theirs"},
        force=True,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_is_done(tmp_path: Path, case: Case) -> None:
    found = holdings(
        [stored(case.made, aliases=case.store_aliases)] if case.in_store else [],
        [published(tmp_path, case.made, aliases=case.tree_aliases)] if case.in_tree else [],
        case.others,
    )
    action = decide(found, case.wanted, case.today, settings=case.settings, force=case.force, adopt=case.adopt)
    assert said(action) == case.expected


def test_actions_come_in_the_order_of_the_specs(tmp_path: Path) -> None:
    b, a, c = spec("b"), spec("a"), spec("c")
    missing = ImageMissingError("gone")
    found = holdings(
        [stored(provenance(a), content="a", aliases=("a",))], [published(tmp_path, provenance(a), content="a")]
    )
    items = [item(b, TODAY), item(a, TODAY), item(c, missing)]
    actions = plan(items, found, FOLDER, Arch.X86_64, force=False)
    assert actions == [Build(wanted(b), "new"), Keep(wanted(a), found.store.ours[0]), items[2]]


@contextmanager
def nothing_read() -> Iterator[list[str]]:
    """What is looked at on the disk while the block runs."""
    looked: list[str] = []

    def noted(name: str) -> Callable[..., None]:
        def note(*arguments: object, **_: object) -> None:
            looked.append(f"{name} {arguments[:1]}")
            raise OSError(name)

        return note

    with pytest.MonkeyPatch.context() as patched:
        for name in ("stat", "lstat", "open", "scandir", "listdir", "readlink", "access"):
            patched.setattr(os, name, noted(name))
        patched.setattr(io, "open", noted("open"))
        patched.setattr(builtins, "open", noted("open"))
        yield looked


def test_the_plan_looks_at_nothing_but_what_it_is_given(tmp_path: Path) -> None:
    """What the disk says now may differ from what it said to those who looked before."""
    specs = [spec(f"a{number}", aliases=(f"b{number}",)) for number in range(4)]
    images = [stored(provenance(of), content=of.name.value, aliases=(of.name.value, *of.aliases)) for of in specs]
    versions = [published(tmp_path, provenance(of), of.name.value, aliases=of.aliases) for of in specs]
    versions.append(published(tmp_path, provenance(spec("gone"))))
    (versions[1].folder / ROOTFS_FILE).unlink()
    found = replace(holdings([images[0], images[1], images[3]], versions), withheld=(withheld(provenance(specs[3])),))
    items = [wanted(of) for of in specs]
    with nothing_read() as looked:
        actions = plan(items, found, FOLDER, Arch.X86_64, force=False)
        gone = plan_removals(specs, found, FOLDER)
    assert looked == []
    assert [type(action) for action in actions] == [Keep, Republish, Reimport, Keep]
    assert [removal.name.value for removal in gone] == ["gone"]
    # So does what is known of an image, and whether a version is whole.
    with nothing_read() as looked:
        assert found.known(specs[0].name, items[0].source, Arch.X86_64) == TODAY
        assert found.published(specs[1].name) is None
    assert looked == []


def test_only_versions_that_may_be_current_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And older ones only where those after them are damaged."""
    web, db = spec("web"), spec("db")
    versions = [
        published(tmp_path, provenance(of), f"{of.name} {number}", key=f"20260101_000{number}")
        for of in (db, web)
        for number in range(4)
    ]
    (versions[-1].folder / ROOTFS_FILE).unlink()
    looked: list[Published] = []
    is_whole = Published.is_whole

    def noted(version: Published) -> bool:
        looked.append(version)
        return is_whole(version)

    monkeypatch.setattr(Published, "is_whole", noted)
    found = holdings([], versions)
    assert looked == [versions[7], versions[6], versions[3]]
    assert (found.published(web.name), found.published(db.name)) == (versions[6], versions[3])


# ---- details of single actions


def test_a_restore_names_the_side_that_is_left(tmp_path: Path) -> None:
    here, there = stored(CURRENT, aliases=("web",)), published(tmp_path)
    assert decide(holdings([here])) == Republish(NOW, here)
    assert decide(holdings([], [there])) == Reimport(NOW, there)


@pytest.mark.parametrize(
    "damage",
    [
        lambda version: (version / ROOTFS_FILE).write_bytes(b"short"),
        lambda version: (version / METADATA_FILE).unlink(),
        shutil.rmtree,
    ],
    ids=["cut short", "half gone", "gone"],
)
def test_a_damaged_version_counts_for_nothing(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    here, there = stored(CURRENT, aliases=("web",)), published(tmp_path)
    damage(there.folder)
    assert decide(holdings([here], [there])) == Republish(NOW, here)
    assert decide(holdings([], [there])) == Build(NOW, "new")


def test_a_withdrawn_version_counts_for_nothing(tmp_path: Path) -> None:
    here, there = stored(CURRENT, aliases=("web",)), published(tmp_path, withdrawn=1.0)
    assert decide(holdings([here], [there])) == Republish(NOW, here)
    assert decide(holdings([], [there])) == Build(NOW, "new")


def test_a_damaged_newest_version_does_not_hide_the_one_before(tmp_path: Path) -> None:
    older, newer = (published(tmp_path, key=key) for key in ("20260102_0304", "20260102_0305"))
    (newer.folder / ROOTFS_FILE).unlink()
    here = stored(CURRENT, aliases=("web",))
    assert decide(holdings([here], [older, newer])) == Keep(NOW, here)


def test_the_newest_version_counts(tmp_path: Path) -> None:
    older = published(tmp_path, CURRENT, key="20260102_0304")
    newer = published(tmp_path, provenance(at=OLD), key="20260102_0305")
    here = stored(CURRENT, aliases=("web",))
    assert decide(holdings([here], [older, newer])) == Republish(NOW, here)


def test_only_versions_for_this_architecture_count(tmp_path: Path) -> None:
    there = published(tmp_path, arch=Arch.AARCH64)
    here = stored(CURRENT, aliases=("web",))
    assert decide(holdings([], [there])) == Build(NOW, "new")
    assert decide(holdings([here], [there])) == Republish(NOW, here)


def test_of_two_images_from_the_same_inputs_the_one_in_the_store_is_published(tmp_path: Path) -> None:
    """A forced build that was stopped between import and publishing."""
    here = stored(CURRENT, content="forced", aliases=("web",))
    there = published(tmp_path, content="before")
    assert decide(holdings([here], [there])) == Republish(NOW, here)


@pytest.mark.parametrize("restored", ["store", "tree"])
def test_of_two_images_from_the_same_inputs_clients_never_get_the_older_one(tmp_path: Path, restored: str) -> None:
    """A forced build, then a backup from before of one of the two places."""
    older, newer = (provenance(built_at=f"2026-01-02T03:0{minute}:00+00:00") for minute in (4, 5))
    if restored == "store":
        here, there = stored(older, aliases=("web",)), published(tmp_path, newer, content="forced")
        assert decide(holdings([here], [there])) == Reimport(NOW, there)
    else:
        here, there = stored(newer, content="forced", aliases=("web",)), published(tmp_path, older)
        assert decide(holdings([here], [there])) == Republish(NOW, here)


def test_of_several_stored_images_the_one_under_the_name_counts(tmp_path: Path) -> None:
    older = stored(provenance(at=OLD), content="older")
    current = stored(CURRENT, content="current", aliases=("web",))
    newest = stored(provenance(at=resolved("newest")), content="newest")
    there = published(tmp_path, content="current")
    action = decide(holdings([older, current, newest], [there]))
    assert isinstance(action, Touch)
    assert action.stored == current
    assert action.reason == "an older image to remove"
    # Without an alias to tell, the newest, which comes last.
    unnamed = replace(current, image=replace(current.image, aliases=()))
    assert said(decide(holdings([older, unnamed], [there]))) == "touch: aliases to correct: web"
    assert said(decide(holdings([unnamed, older], [there]))) == "restore: missing from the local store"


def test_an_alias_that_points_to_an_older_image_of_the_same_name_is_moved(tmp_path: Path) -> None:
    older = stored(provenance(at=OLD), content="older", aliases=("www",))
    current = stored(provenance(WITH_WWW), content="current", aliases=("web",))
    there = published(tmp_path, provenance(WITH_WWW), content="current", aliases=("www",))
    action = decide(holdings([older, current], [there]), WITH_WWW)
    assert said(action) == "touch: aliases to correct: www"


@pytest.mark.parametrize(
    ("folder", "named"),
    [(ELSEWHERE, ("www",)), (SPECS, ())],
    ids=["another folder's", "given by hand"],
)
def test_an_alias_of_another_image_of_ours_is_not_taken_away_from_it(
    tmp_path: Path, folder: Path, named: tuple[str, ...]
) -> None:
    made = provenance(spec("other"), folder=folder)
    other = stored(made, content="other", aliases=("other", "www"))
    action = decide(holdings([other], [published(tmp_path, made, content="other", aliases=named)]), WITH_WWW)
    assert isinstance(action, Fail)
    assert isinstance(action.error, UsageError)
    assert action.error.details == f"it points to the image other ({other.fingerprint.short})"
    assert "lxc image alias delete www" in action.error.resolution
    assert "web.yaml" in action.error.resolution


def test_an_alias_that_another_spec_of_the_folder_gave_up_is_taken_over(tmp_path: Path) -> None:
    """The other spec was renamed to this one, or the alias was moved from file to file."""
    other = provenance(spec("other"))
    found = holdings(
        [stored(other, content="other", aliases=("other", "www"))],
        [published(tmp_path, other, content="other", aliases=("www",))],
    )
    assert said(decide(found, WITH_WWW)) == "build: new"
    assert said(decide(found, spec(aliases=("other",)))) == "build: new"
    # Whoever had it must not delete it after the new one has got it.
    items = [wanted(spec("other")), wanted(WITH_WWW)]
    first, second = plan(items, found, FOLDER, Arch.X86_64, force=False)
    assert said(first) == "touch: published aliases to correct"
    assert isinstance(first, Touch)
    assert first.surplus == ()
    assert said(second) == "build: new"


def test_an_alias_waits_for_the_spec_that_asks_for_it_now(tmp_path: Path) -> None:
    """Its registry fails for a while; meanwhile the alias leads to what it led to before."""
    other = provenance(spec("other"))
    found = holdings(
        [stored(other, content="other", aliases=("other", "www"))],
        [published(tmp_path, other, content="other", aliases=("www",))],
    )
    items = [wanted(spec("other")), item(WITH_WWW, ImageMissingError("gone"))]
    first, second = plan(items, found, FOLDER, Arch.X86_64, force=False)
    assert isinstance(first, Touch)
    assert first.surplus == ()
    assert second == items[1]


def test_a_touch_carries_what_is_to_be_recorded(tmp_path: Path) -> None:
    made = provenance(folder=ELSEWHERE)
    here, there = stored(made, aliases=("web",)), published(tmp_path, made)
    action = decide(holdings([here], [there]), resolution=NEW_INDEX, adopt=True)
    # The image stays: only what the tag names, and whose it is, are new.
    assert action == Touch(
        wanted(at=NEW_INDEX),
        here,
        there,
        replace(made, source_digest=digest("new index"), folder=CURRENT.folder),
        (),
        "the tag points to a new index with the same image for this host",
    )


@pytest.mark.parametrize("behind", ["store", "tree"])
@pytest.mark.parametrize("made", [provenance(at=NEW_INDEX), provenance(folder=ELSEWHERE)], ids=["index", "folder"])
def test_what_only_one_side_has_recorded_is_recorded_on_the_other(
    tmp_path: Path, behind: str, made: Provenance
) -> None:
    """A run that was stopped between the two; else a removal would later find only one of them."""
    here = stored(made if behind == "store" else CURRENT, aliases=("web",))
    there = published(tmp_path, made if behind == "tree" else CURRENT)
    action = decide(holdings([here], [there]), adopt=True)
    assert isinstance(action, Touch)
    assert action.provenance == CURRENT


def test_when_an_image_was_built_may_differ_between_store_and_tree(tmp_path: Path) -> None:
    """A forced build gave the same image: LXD has kept the first, the tree tells of the second."""
    here = stored(CURRENT, aliases=("web",))
    there = published(tmp_path, provenance(built_at="2027-01-01T00:00:00+00:00"))
    assert decide(holdings([here], [there])) == Keep(NOW, here)


@pytest.mark.parametrize(
    ("in_store", "in_tree", "wanted", "surplus"),
    [
        (("web", "www", "old"), ("www", "old"), ("www",), ("old",)),
        (("web",), ("old",), (), ()),  # gone already
        (("web", "mine"), ("old",), (), ()),  # the user's own
    ],
)
def test_surplus_aliases(
    tmp_path: Path,
    in_store: tuple[str, ...],
    in_tree: tuple[str, ...],
    wanted: tuple[str, ...],
    surplus: tuple[str, ...],
) -> None:
    here, there = stored(CURRENT, aliases=in_store), published(tmp_path, aliases=in_tree)
    action = decide(holdings([here], [there]), spec(aliases=wanted))
    assert isinstance(action, Touch)
    assert action.surplus == surplus


# ---- rolled back


def withheld(made_from: Provenance, key: str = "20260102_0305", arch: Arch = Arch.X86_64) -> Withheld:
    return Withheld(key, fingerprint("bad"), made_from, arch, 1.0)


def after_rollback(
    folder: Path, in_store: Sequence[Stored], *, good: Provenance | None, bad: Provenance = CURRENT
) -> Holdings:
    """``good`` was published first and is current again; ``bad`` came after it."""
    versions = [published(folder, good, "good", key="20260102_0304")] if good else []
    versions.append(published(folder, bad, "bad", key="20260102_0305", withdrawn=1.0))
    return replace(holdings(in_store, versions), withheld=(withheld(bad),))


GOOD = provenance(at=OLD)
BAD_STORED = stored(CURRENT, content="bad", aliases=("web",))
GOOD_STORED = stored(GOOD, content="good", aliases=("web",))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("in_store", [[BAD_STORED], []], ids=["bad", "none"])
def test_after_a_rollback_the_store_follows_the_tree(tmp_path: Path, in_store: list[Stored], force: bool) -> None:
    found = after_rollback(tmp_path, in_store, good=GOOD)
    action = decide(found, force=force)
    assert action == Reimport(NOW, found.tree[0], rolled_back=True)
    assert isinstance(action, Reimport)
    assert action.reason == "rolled back in the published tree"


@pytest.mark.parametrize("force", [False, True])
def test_once_it_has_followed_nothing_is_to_do(tmp_path: Path, force: bool) -> None:
    found = after_rollback(tmp_path, [GOOD_STORED], good=GOOD)
    action = decide(found, force=force)
    assert action == Keep(NOW, GOOD_STORED, rolled_back=True)
    assert isinstance(action, Keep)
    assert action.reason == "rolled back; the registry still has the withdrawn image"


def test_aliases_are_set_right_after_a_rollback_too(tmp_path: Path) -> None:
    found = after_rollback(tmp_path, [replace(GOOD_STORED, image=replace(GOOD_STORED.image, aliases=()))], good=GOOD)
    action = decide(found)
    assert said(action) == "touch: aliases to correct: web"
    assert isinstance(action, Touch)
    assert action.provenance == GOOD  # and not what the tag names now


def test_a_really_new_image_ends_a_rollback(tmp_path: Path) -> None:
    newer = resolved("newer")
    found = after_rollback(tmp_path, [GOOD_STORED], good=GOOD)
    assert said(decide(found, resolution=newer)).startswith("build: image changed")
    assert said(decide(found, spec(image="nginx:2"))).startswith("build: ")
    # Once that is published, the tag may go back to what was bad: it stays withheld.
    best = published(tmp_path, provenance(at=newer), "newer", key="20260102_0306")
    found = replace(found, tree=(*found.tree, best))
    assert decide(found) == Reimport(NOW, best, rolled_back=True)


def test_what_was_rolled_back_to_may_be_wanted_again(tmp_path: Path) -> None:
    """The tag names the old image again, as the tree does."""
    found = after_rollback(tmp_path, [GOOD_STORED], good=GOOD)
    assert decide(found, resolution=OLD) == Keep(wanted(at=OLD), GOOD_STORED)


def test_what_was_rolled_back_to_may_be_made_from_the_same(tmp_path: Path) -> None:
    """Forced builds give other images of the same inputs. Then the tag does name what is current."""
    here = stored(CURRENT, content="good", aliases=("web",))
    found = after_rollback(tmp_path, [here], good=CURRENT)
    assert decide(found) == Keep(NOW, here)
    assert decide(found, force=True) == Build(NOW, "forced")


def test_the_version_rolled_back_to_is_restored_from_the_store(tmp_path: Path) -> None:
    found = after_rollback(tmp_path, [GOOD_STORED], good=None)
    assert decide(found) == Republish(NOW, GOOD_STORED, rolled_back=True)


@pytest.mark.parametrize("in_store", [[], [BAD_STORED]], ids=["nothing", "what is withheld"])
def test_no_version_is_left_to_be_rolled_back_to(tmp_path: Path, in_store: list[Stored]) -> None:
    action = decide(after_rollback(tmp_path, in_store, good=None))
    assert isinstance(action, Fail)
    assert isinstance(action.error, UsageError)
    assert "was rolled back and has no other version" in action.error.brief
    assert "lxdocker publish rollback web --undo" in action.error.resolution


def test_a_rollback_is_its_image_s_and_architecture_s_own(tmp_path: Path) -> None:
    found = after_rollback(tmp_path, [BAD_STORED], good=GOOD)
    elsewhere = [withheld(CURRENT, arch=Arch.AARCH64), withheld(provenance(spec("other")))]
    found = replace(found, withheld=tuple(elsewhere))
    assert said(decide(found)) == "restore: missing from the published tree"


def test_the_registry_is_not_asked_more_often_after_a_rollback(tmp_path: Path) -> None:
    found = after_rollback(tmp_path, [GOOD_STORED], good=GOOD)
    assert found.known(WEB.name, CURRENT.source, Arch.X86_64) == TODAY
    best = published(tmp_path, provenance(at=resolved("newer")), "newer", key="20260102_0306")
    found = replace(found, store=StoreView((), {}), tree=(*found.tree, best))
    assert found.known(WEB.name, CURRENT.source, Arch.X86_64) == resolved("newer")


# ---- what is known without asking


def test_what_was_recorded_is_known_from_either_side(tmp_path: Path) -> None:
    source = CURRENT.source
    assert holdings([stored(CURRENT)]).known(WEB.name, source, Arch.X86_64) == TODAY
    assert holdings([], [published(tmp_path)]).known(WEB.name, source, Arch.X86_64) == TODAY
    assert holdings().known(WEB.name, source, Arch.X86_64) is None


def test_nothing_is_known_of_another_source() -> None:
    assert holdings([stored(CURRENT)]).known(WEB.name, "docker.io/library/nginx:2", Arch.X86_64) is None


def test_what_another_architecture_resolved_to_is_not_known_here(tmp_path: Path) -> None:
    """The same index leads to another manifest there."""
    found = holdings([], [published(tmp_path, arch=Arch.AARCH64)])
    assert found.known(WEB.name, CURRENT.source, Arch.X86_64) is None
    assert found.known(WEB.name, CURRENT.source, Arch.AARCH64) == TODAY


# ---- removals


def removals(specs: list[ImageSpec], found: Holdings) -> dict[str, str]:
    return {one.name.value: said(one) for one in plan_removals(specs, found, FOLDER)}


def test_only_what_this_folder_named_is_removed(tmp_path: Path) -> None:
    found = holdings(
        [
            stored(provenance(spec("gone")), content="1"),
            stored(provenance(spec("gone"), OLD), content="2"),
            stored(provenance(spec("theirs"), folder=ELSEWHERE), content="3"),
            stored(provenance(spec("kept")), content="4"),
        ],
        [
            published(tmp_path, provenance(spec("gone")), key="20260102_0304"),
            published(tmp_path, provenance(spec("gone")), key="20260102_0305", arch=Arch.AARCH64),
            published(tmp_path, provenance(spec("gone")), key="20260102_0306", withdrawn=1.0),
            published(tmp_path, provenance(spec("theirs"), folder=ELSEWHERE)),
            published(tmp_path, provenance(spec("only-published"))),
            published(tmp_path, provenance(spec("kept"))),
        ],
    )
    assert removals([spec("kept")], found) == {
        "gone": "remove: 2 stored, 2 published",
        "only-published": "remove: 0 stored, 1 published",
    }


def test_what_another_folder_took_over_is_that_ones_altogether(tmp_path: Path) -> None:
    """Older versions, and images that are no longer under the name, still say whose they were."""
    found = holdings(
        [stored(CURRENT, content="1"), stored(provenance(folder=ELSEWHERE), content="2", aliases=("web",))],
        [
            published(tmp_path, CURRENT, "1", key="20260102_0304"),
            published(tmp_path, provenance(folder=ELSEWHERE), "2", key="20260102_0305"),
        ],
    )
    assert removals([spec("kept")], found) == {}
    theirs = plan_removals([spec("kept")], found, Folder.of(ELSEWHERE))
    assert [said(one) for one in theirs] == ["remove: 2 stored, 2 published"]


def test_another_hosts_versions_for_its_own_architecture_stay(tmp_path: Path) -> None:
    """Two hosts that publish into one tree: their folders are not the same, wherever they are."""
    found = holdings(
        [],
        [
            published(tmp_path, CURRENT),
            published(tmp_path, provenance(folder=ELSEWHERE, arch=Arch.AARCH64), arch=Arch.AARCH64),
        ],
    )
    assert said(decide(found)) == "restore: missing from the local store"
    (removal,) = plan_removals([spec("kept")], found, FOLDER)
    assert [one.arch for one in removal.published] == [Arch.X86_64]


def test_both_folders_are_named() -> None:
    made = provenance(folder=ELSEWHERE)
    here = stored(made, aliases=("web",))
    image = replace(here.image, properties={**here.image.properties, FOLDER_PATH: "/elsewhere"})
    action = decide(holdings([Stored(image, made)]))
    assert isinstance(action, Fail)
    assert "/elsewhere" in action.error.details
    assert "/specs" in action.error.details
    assert "lxdocker sync --adopt web" in action.error.resolution


def test_an_alias_in_the_tree_is_not_taken_from_another_folders_image(tmp_path: Path) -> None:
    made = provenance(spec("other"), folder=ELSEWHERE)
    found = holdings([], [published(tmp_path, made, aliases=("www",))])
    action = decide(found, WITH_WWW)
    assert isinstance(action, Fail)
    assert "the image other" in action.error.details
    assert said(decide(found)) == "build: new"


# ---- specs that are broken


def broken(name: str) -> BrokenSpec:
    path = SPECS / f"{name}.yaml"
    return BrokenSpec(path, ImageName(name) if name.isalnum() else None, SpecError(f"a mistake in {path.name}"))


def test_what_a_broken_spec_made_is_kept(tmp_path: Path) -> None:
    found = holdings(
        [stored(provenance(spec("bad")), content="1"), stored(provenance(spec("gone")), content="2")],
        [published(tmp_path, provenance(spec("bad")))],
    )
    assert {one.name.value for one in plan_removals([WEB], found, FOLDER, [broken("bad")])} == {"gone"}
    # Whichever image this one is for; or if no file can be read at all.
    assert plan_removals([WEB], found, FOLDER, [broken("not a name")]) == []
    assert plan_removals([], found, FOLDER, [broken("bad")]) == []
    refuse_to_empty([], [], SETTINGS)


def test_a_broken_spec_has_not_let_go_of_its_aliases(tmp_path: Path) -> None:
    made = provenance(spec("bad"))
    found = holdings(
        [stored(made, content="1", aliases=("bad", "www"))], [published(tmp_path, made, "1", aliases=("www",))]
    )

    def planned(others: list[BrokenSpec]) -> str:
        (action,) = plan([wanted(WITH_WWW)], found, FOLDER, Arch.X86_64, force=False, broken=others)
        return said(action)

    assert planned([]) == "build: new"
    assert planned([broken("bad")]).startswith("fail: web: the alias www is taken: it points to the image bad")


def test_a_damaged_version_is_removed_too(tmp_path: Path) -> None:
    there = published(tmp_path, provenance(spec("gone")))
    (there.folder / ROOTFS_FILE).unlink()
    assert removals([spec("kept")], holdings([], [there])) == {"gone": "remove: 0 stored, 1 published"}


def test_what_is_withdrawn_is_not_removed_again(tmp_path: Path) -> None:
    found = holdings([], [published(tmp_path, provenance(spec("gone")), withdrawn=1.0)])
    assert removals([], found) == {}


def test_a_folder_that_has_lost_all_its_specs_is_asked_about() -> None:
    found = holdings([stored(CURRENT), stored(provenance(spec("b")), content="b")])
    planned = plan_removals([], found, FOLDER)
    with pytest.raises(UsageError) as caught:
        refuse_to_empty([], planned, SETTINGS)
    assert "/specs" in caught.value.brief
    assert "b, web" in caught.value.details
    assert "prune --all" in caught.value.resolution
    # One spec is left, or nothing was ever made: no doubt about it.
    refuse_to_empty([WEB], plan_removals([WEB], found, FOLDER), SETTINGS)
    refuse_to_empty([], [], SETTINGS)


def test_names_are_compared_whole() -> None:
    found = holdings([stored(provenance(spec("web-2")), aliases=("web-2",))])
    assert found.stored(WEB.name) is None
    assert said(decide(found)) == "build: new"
