"""Going back to an older version of an image, and forward again."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from lxdocker.errors import UsageError
from lxdocker.tree import changes
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import Published, Withheld, read_withheld
from lxdocker.values import ImageName


@dataclass(frozen=True, slots=True)
class Rollback:
    """The rollback of one product."""

    current: Published  # what clients get from now on
    withheld: tuple[Withheld, ...]  # what they got before


def roll_back(tree: Tree, name: ImageName, key: str | None = None) -> list[Rollback]:
    """Makes an older version the newest that is listed, for each architecture of the image: ``key``, or else the one
    before the current. Newer versions are withdrawn, and withheld from being published again. Raises UsageError if
    there is no such version.
    """
    with tree.changing(), tree.explained(f"rolling back {name} in"):
        tree.refuse_mirror()
        versions = [version for version in tree.versions() if version.name == name]
        if not versions:
            raise UsageError(f"no image {name} in the tree {tree.root}", "", "lxdocker publish list shows its images")
        targets = list(_targets(versions, key))
        if not targets:
            raise _no_target(name, key, versions)
        done = [_to(tree, target, newer) for target, newer in targets]
        tree.write_index()
        return done


def undo(tree: Tree, name: ImageName) -> list[Withheld]:
    """Withholds nothing of this image any more, and lists again what is left of it. Returns what was withheld."""
    with tree.changing(), tree.explained(f"undoing the rollback of {name} in"):
        undone = []
        for product in tree.products(name.value):
            withheld = product.withheld()
            changes.undo_rollback(tree, product.path, withheld)
            undone += withheld
        if not undone:
            raise UsageError(f"{name} is not rolled back", f"the tree {tree.root} withholds no version of it")
        tree.write_index()
        return undone


def target(versions: Sequence[Published], key: str | None, withheld: Collection[str]) -> Published | None:
    """The version that a product goes back to, of those that are whole, oldest first: ``key``, or the newest one before
    the current that is another image and was not rolled back itself.
    """
    if key is not None:
        return next((version for version in versions if version.key == key), None)
    current = next((version for version in reversed(versions) if version.withdrawn is None), None)
    if current is None:
        return None
    older = [
        version
        for version in versions
        if version.key < current.key and version.key not in withheld and version.fingerprint != current.fingerprint
    ]
    # A version that retention has withdrawn is only second best: it may have the same fault.
    return max(older, key=lambda version: (version.withdrawn is None, version.key), default=None)


def _targets(versions: Sequence[Published], key: str | None) -> Iterator[tuple[Published, list[Published]]]:
    """For each product that can go back: the target, and the newer versions that are listed."""
    for _, group in groupby(versions, key=lambda version: version.product):
        whole = [version for version in group if version.is_whole()]
        withheld = {version.key for version in read_withheld(whole[0].folder.parent)} if whole else set()
        found = target(whole, key, withheld)
        if found:
            yield found, [version for version in whole if version.withdrawn is None and version.key > found.key]


def _to(tree: Tree, found: Published, newer: Sequence[Published]) -> Rollback:
    now = time.time()
    withheld = {version.key: version for version in read_withheld(found.folder.parent) if version.key != found.key}
    new = {
        version.key: Withheld(version.key, version.fingerprint, version.provenance, version.arch, now)
        for version in newer
    }
    changes.roll_back(tree, found, (withheld | new).values())
    return Rollback(replace(found, withdrawn=None), tuple(new.values()))


def _no_target(name: ImageName, key: str | None, versions: Sequence[Published]) -> UsageError:
    present = ", ".join(
        f"{version.key} ({version.fingerprint.short if version.is_whole() else 'damaged'})" for version in versions
    )
    missing = f"no version {key}" if key else "no older version with other contents"
    how_long = "keep_versions and grace_hours set how long old versions stay"
    return UsageError(
        f"{name} can't be rolled back: the tree has {missing}",
        f"its versions: {present}",
        f"lxdocker publish list {name} shows them; {how_long}",
    )
