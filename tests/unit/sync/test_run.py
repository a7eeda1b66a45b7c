"""A run that is killed at any moment: what it delivers to the store and to the tree, in which order.

The store is LXD's as far as a run can see it, with a folder in the place of LXD's own; the tree is real.
"""

from __future__ import annotations

import os
import shutil
import threading
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from lxdocker.config.settings import Settings
from lxdocker.errors import LxdError, TreeError, UsageError
from lxdocker.image.provenance import Provenance
from lxdocker.lxd.api import Lxd
from lxdocker.lxd.restart import Watch
from lxdocker.lxd.store import Store
from lxdocker.progress import Progress
from lxdocker.sync import plan, prune
from lxdocker.sync.context import Context
from lxdocker.sync.deliver import Delivery
from lxdocker.sync.make import Finished
from lxdocker.sync.plan import Build, Keep, PerSpec, Republish
from lxdocker.sync.run import Run
from lxdocker.tree import rollback
from lxdocker.tree.tree import Tree
from lxdocker.values import Arch, Fingerprint, ImageName
from tests.examples import FOLDER, SPECS, make_artifact, provenance, resolved, spec, wanted
from tests.forked import in_child
from tests.stand_ins import FolderLxd
from tests.trees import assert_sound, listed_names
from tests.unit.tree.test_changes import Steps

WEB = spec()
OLD, NEW = provenance(at=resolved("old")), provenance(at=resolved("new"))
NEVER = threading.Event()


def fingerprint_of(folder: Path, content: str) -> Fingerprint:
    """What the image with this content has."""
    artifact = make_artifact(folder / content, content)
    shutil.rmtree(folder / content)
    return artifact.fingerprint


def context(root: Path) -> Context:
    lxd = FolderLxd(root / "lxd")
    nothing = cast("Any", None)
    return Context(
        settings=Settings(specs=SPECS, tree=root / "tree", jobs=1),
        folder=FOLDER,
        arch=Arch.X86_64,
        lxd=cast("Lxd", lxd),
        store=Store(lxd, "default"),
        tree=Tree(root / "tree"),
        credentials=nothing,
        registry=nothing,
        resolver=nothing,
        cancelled=threading.Event(),
    )


def delivery_of(found: Context) -> Delivery:
    return Delivery(found, found.look(), (), Progress(), print)


def carry_out(found: Context, action: PerSpec) -> None:
    def no_builders() -> Any:
        raise AssertionError("nothing is to be built")

    outcome = Run(delivery_of(found), Watch(found.lxd, print), no_builders).one(action)
    assert outcome.error is None


def deliver(found: Context, content: str, made_from: Provenance) -> None:
    delivery = delivery_of(found)
    with found.tree.staging(WEB.name) as folder:
        delivery.deliver(WEB, Finished(make_artifact(folder, content), made_from, {}))


def prepared(root: Path) -> Path:
    """The old image is everywhere, and a user has given it an alias."""
    found = context(root)
    with found.tree.session("key", print, NEVER):
        deliver(found, "old", OLD)
    found.lxd.set_alias("default", "mine", found.look().store.aliases["web"])
    return root


def decide(found: Context) -> PerSpec:
    (action,) = plan.plan([wanted(at=resolved("new"))], found.look(), FOLDER, Arch.X86_64, force=False)
    return action


def sync(found: Context) -> None:
    """What a run does about it, with what a builder would give."""
    with found.tree.session("key", print, NEVER):
        action = decide(found)
        if isinstance(action, Build):
            deliver(found, "new", NEW)
        else:
            carry_out(found, action)
        prune.versions(found)


def state(root: Path, *, published: bool = True) -> tuple[dict[str, str], list[str], set[str]]:
    """Aliases, images in the store, and what clients can have."""
    lxd = FolderLxd(root / "lxd")
    return (
        lxd.aliases,
        sorted(image.fingerprint.value for image in lxd.images("")),
        assert_sound(root / "tree", empty=not published),
    )


def test_killed_at_any_step_every_alias_leads_to_an_image_and_the_next_run_heals_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    before = prepared(tmp_path / "before")
    old, new = fingerprint_of(tmp_path, "old").value, fingerprint_of(tmp_path, "new").value
    kinds: set[type[PerSpec]] = set()
    steps = 0
    while True:
        root = shutil.copytree(before, tmp_path / f"killed at {steps}")
        survived = in_child(partial(sync_until, root, steps))
        aliases, images, offered = state(root)
        assert aliases.keys() == {"web", "mine"}
        assert set(aliases.values()) <= set(images)
        assert set(aliases.values()) <= {old, new}
        assert old in offered  # whoever follows us may be in the middle of it
        assert listed_names(root / "tree")
        found = context(root)
        kinds.add(type(decide(found)))
        for _ in range(2):
            sync(found)
            assert state(root) == ({"web": new, "mine": new}, [new], {old, new})
            assert isinstance(decide(found), Keep)
        if survived:
            break
        shutil.rmtree(root)
        steps += 1
    assert kinds >= {Build, Republish, Keep}
    assert steps > 10


def sync_until(root: Path, limit: int) -> bool:
    found = context(root)
    Steps(root, limit).arm()
    sync(found)
    return True


def test_what_can_not_be_published_does_not_pile_up_in_the_store(tmp_path: Path) -> None:
    root = prepared(tmp_path / "all")
    found = context(root)
    product = root / "tree/images/web/x86_64"
    product.chmod(0o777)
    for number in range(3):
        content, made = f"image {number}", provenance(at=resolved(f"manifest {number}"))
        with found.tree.session("key", print, NEVER), pytest.raises(TreeError):
            deliver(found, content, made)
        aliases, images, _ = state(root)
        assert images == [fingerprint_of(tmp_path, content).value]
        assert aliases == dict.fromkeys(["web", "mine"], images[0])


def test_what_no_alias_may_point_to_is_not_left_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = prepared(tmp_path / "all")
    found = context(root)
    before = state(root)

    def refuse(*_: object) -> None:
        raise LxdError("LXD said no")

    monkeypatch.setattr(found.lxd, "set_alias", refuse)
    with found.tree.session("key", print, NEVER), pytest.raises(LxdError):
        deliver(found, "new", NEW)
    assert state(root) == before


def test_what_was_rolled_back_while_it_was_built_is_not_published(tmp_path: Path) -> None:
    root = prepared(tmp_path / "all")
    found = context(root)
    with found.tree.session("key", print, NEVER):
        deliver(found, "new", NEW)
        delivery = delivery_of(found)
        other = Tree(root / "tree")  # another process's
        with found.tree.changing():
            pass
        with other.lock(print, NEVER):
            rollback.roll_back(other, ImageName("web"))
        before = state(root)
        with found.tree.staging(WEB.name) as folder, pytest.raises(TreeError, match="rolled back while"):
            delivery.deliver(WEB, Finished(make_artifact(folder, "new"), NEW, {}))
        assert state(root) == before


def test_a_name_that_another_folder_took_while_it_was_built_is_left_to_it(tmp_path: Path) -> None:
    root = tmp_path / "all"
    found = context(root)
    with found.tree.session("key", print, NEVER):
        delivery = delivery_of(found)  # which sees nothing there
        with found.tree.staging(WEB.name) as folder:
            made = make_artifact(folder, "new")
            found.store.add(make_artifact(folder / "theirs", "old"), provenance(folder=Path("/elsewhere")))
            found.store.point(("web",), fingerprint_of(tmp_path, "old"), {})
            before = state(root, published=False)
            with pytest.raises(UsageError, match="belongs to another folder"):
                delivery.deliver(WEB, Finished(made, NEW, {}))
        assert state(root, published=False) == before
