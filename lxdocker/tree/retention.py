"""How long versions stay: retention withdraws old ones from the index, and the sweep deletes them after a grace period,
in which clients finish their downloads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from lxdocker.files.seen import exists
from lxdocker.image import version_key
from lxdocker.image.artifact import ROOTFS_FILE
from lxdocker.tree import changes
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import WITHDRAWN, WITHHELD, Published
from lxdocker.tree.workspace import CLOCK_SLACK


def retire(tree: Tree, keep: int, younger_than: float = 0) -> list[Published]:
    """Withdraws all but the newest ``keep`` versions of each product and those published in the last ``younger_than``
    seconds. Returns them.
    """
    with tree.changing():
        old = to_retire(tree, keep, younger_than)
        tree.withdraw(old)
        return old


def to_retire(tree: Tree, keep: int, younger_than: float = 0) -> list[Published]:
    """Those that retire() would withdraw now."""
    old = []
    for _, group in groupby(tree.listed(), key=lambda version: version.product):
        old += surplus(list(group), keep, younger_than, _age)
    return old


def to_delete(tree: Tree, grace_seconds: float) -> list[Published]:
    """Those that sweep() would delete now."""
    now = time.time()
    return [version for version in tree.versions() if is_due(version, now, grace_seconds)]


def surplus(
    versions: Sequence[Published], keep: int, younger_than: float, age: Callable[[Published], float]
) -> list[Published]:
    """Those of a product's versions, oldest first, that retention withdraws."""
    candidates = versions[: max(0, len(versions) - keep)]
    return [version for version in candidates if not younger_than or age(version) >= younger_than]


def sweep(tree: Tree, grace_seconds: float) -> list[Published]:
    """Deletes the versions that left the index at least ``grace_seconds`` ago. Returns them."""
    with tree.changing(), tree.explained("deleting withdrawn versions from"):
        tree.write_index()  # what leaves the index only now has its whole grace period ahead
        now = time.time()
        gone: list[Published] = []
        staying: list[Published] = []
        for version in tree.versions():
            if version.withdrawn is not None and _is_mistimed(tree, version, version.withdrawn, now):
                changes.mark(tree, version.folder)  # nobody knows when it left, so its grace period begins again
                staying.append(version)
            else:
                (gone if is_due(version, now, grace_seconds) else staying).append(version)
        for version in gone:
            changes.delete_version(tree, version.folder)
        # Clients no longer see deltas whose base is gone: the index lists a delta only together with its base.
        for version in staying:
            lost = {delta for delta in version.deltas if not exists(version.folder.parent / delta.base)}
            if lost:
                tree.drop_deltas(version, lost)
        for product in tree.products():
            if not product.folders:
                _remove_empty(product.path)
        return gone


def is_due(version: Published, now: float, grace_seconds: float) -> bool:
    """Whether the grace period of a withdrawn version is over."""
    return version.withdrawn is not None and now - version.withdrawn >= grace_seconds


def _is_mistimed(tree: Tree, version: Published, withdrawn: float, now: float) -> bool:
    """Whether a version was withdrawn at an impossible time: in the future, or by a clock that was behind and has been
    set right since.
    """
    if withdrawn > now + CLOCK_SLACK:
        return True
    return not tree.clock_behind and (version.folder / WITHDRAWN).lstat().st_size > 0


def _age(version: Published) -> float:
    """Seconds since it was published. If a clock that was ahead named it, and so the versions after it, the name is in
    the future, and only the time of its file tells.
    """
    age = (datetime.now(UTC) - version_key.version_time(version.key)).total_seconds()
    if age >= 0:
        return age
    with contextlib.suppress(OSError):
        return time.time() - (version.folder / ROOTFS_FILE).stat().st_mtime
    return age


def _remove_empty(product: Path) -> None:
    """Removes a product's folder, and its image's, if no version is left; and the list of withheld versions with it."""
    with contextlib.suppress(OSError):
        if [entry.name for entry in product.iterdir()] == [WITHHELD]:
            (product / WITHHELD).unlink()
        product.rmdir()
        product.parent.rmdir()
