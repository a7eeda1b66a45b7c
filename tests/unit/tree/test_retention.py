"""How long versions stay: how many, how old, and for how long after they left the index."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lxdocker.image.artifact import ROOTFS_FILE
from lxdocker.tree import retention, rollback
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import WITHDRAWN
from lxdocker.values import Arch, ImageName
from tests.examples import provenance, publish, published, spec
from tests.trees import (
    assert_sound,
    listed,
    locked,
    of_image,
    set_back,
)

DAY = 86400.0


def test_a_grace_period_that_began_by_a_clock_that_was_behind_is_not_over(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    """As after a boot without a battery for the clock, before the network has told the time."""
    tree = Tree(tmp_path / "tree")
    with locked(tree):
        first, _ = publish(tree, content="1"), publish(tree, content="2")
    clock(-30 * DAY)
    with locked(tree):
        tree.withdraw([first])
        assert retention.sweep(tree, 2 * DAY) == []
    clock(30 * DAY)
    with locked(tree):
        assert retention.sweep(tree, 2 * DAY) == []
    clock(1 * DAY)
    with locked(tree):
        assert retention.sweep(tree, 2 * DAY) == []
    clock(1.1 * DAY)
    with locked(tree):
        assert [one.key for one in retention.sweep(tree, 2 * DAY)] == [first.key]


def test_a_grace_period_that_began_in_the_future_ends_all_the_same(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    tree = Tree(tmp_path / "tree")
    with locked(tree):
        first, second = publish(tree, content="1"), publish(tree, content="2")
        publish(tree, content="3")
    clock(3000 * DAY)
    with locked(tree):
        tree.withdraw([first])
    clock(-3000 * DAY)
    with locked(tree):
        assert retention.sweep(tree, 2 * DAY) == []
        tree.withdraw([second])
    clock(2.1 * DAY)
    with locked(tree):
        assert [one.key for one in retention.sweep(tree, 2 * DAY)] == [first.key, second.key]


def test_a_clock_stays_behind_until_it_is_set(tmp_path: Path, clock: Callable[[float], None]) -> None:
    """However often it is looked at: the latest time is remembered."""
    tree = Tree(tmp_path / "tree")
    moves = ((0, False), (-30 * DAY, True), (0, True), (30 * DAY - 30, False), (-1000, True), (990, False))
    for moved, behind in moves:
        clock(moved)
        with locked(tree):
            assert tree.clock_behind is behind


def test_a_version_by_a_clock_that_is_behind_is_the_newest(tree: Tree) -> None:
    old = [publish(tree, of_image(number), content=str(number)) for number in range(2)]
    ahead = [one.folder.rename(one.folder.with_name(f"2099010{n + 1}_0000")).name for n, one in enumerate(old)]
    tree.write_index()
    rollback.roll_back(tree, ImageName("web"))
    shutil.rmtree(tree.root / "images/web/x86_64" / ahead[1])  # its grace period is over
    new = publish(tree, of_image(2), content="new")
    assert new.key > ahead[1]
    assert listed(tree) == [ahead[0], new.key]


def test_versions_from_the_future_grow_old_by_their_files(tree: Tree) -> None:
    old = [publish(tree, content=str(number)) for number in range(3)]
    for number, one in enumerate(old):
        os.utime(one.folder / ROOTFS_FILE, (time.time() - 10 * DAY,) * 2)
        one.folder.rename(one.folder.with_name(f"2099010{number + 1}_0000"))
    tree.write_index()
    assert [one.key for one in retention.retire(tree, 1, 5 * DAY)] == ["20990101_0000", "20990102_0000"]


@pytest.mark.parametrize(
    ("ages", "keep", "younger_than", "withdrawn"),
    [
        ([9, 8, 7], 1, 0, [9, 8]),
        ([9, 8, 7], 2, 0, [9]),
        ([9, 8, 7], 3, 0, []),
        ([9, 8, 7], 4, 0, []),
        ([9, 8, 7], 100, 0, []),
        ([9, 5, 1], 1, 5, [9, 5]),  # as old as that is old enough
        ([9, 4, 1], 1, 5, [9]),
        ([9, 8, 7], 2, 5, [9]),  # what is kept stays, however old
        ([1, 9, 0], 1, 5, [9]),  # ages by a clock that was wrong
    ],
)
def test_which_versions_retention_withdraws(
    tmp_path: Path, ages: list[int], keep: int, younger_than: float, withdrawn: list[int]
) -> None:
    versions = {published(tmp_path, key=f"2026010{day}_0000").key: age for day, age in enumerate(ages, 1)}
    found = retention.surplus(
        [published(tmp_path, key=key) for key in versions], keep, younger_than, lambda version: versions[version.key]
    )
    assert [versions[version.key] for version in found] == withdrawn


@pytest.mark.parametrize(
    ("withdrawn", "now", "due"), [(100.0, 159.9, False), (100.0, 160.0, True), (100.0, 161.0, True), (None, 1e9, False)]
)
def test_when_a_grace_period_is_over(tmp_path: Path, withdrawn: float | None, now: float, due: bool) -> None:
    assert retention.is_due(published(tmp_path, withdrawn=withdrawn), now, 60) is due


def test_a_clock_that_was_a_little_ahead_is_no_reason_to_begin_again(tree: Tree) -> None:
    """As that of another host that withdrew it."""
    first, _ = publish(tree, content="1"), publish(tree, content="2")
    tree.withdraw([first])
    set_back(first, -30)
    before = (first.folder / WITHDRAWN).stat().st_mtime
    assert retention.sweep(tree, 0) == []
    assert (first.folder / WITHDRAWN).stat().st_mtime == before


def test_a_second_withdrawal_begins_a_new_grace_period(tree: Tree) -> None:
    """As of a version that was listed again in between."""
    first, _ = publish(tree, content="1"), publish(tree, content="2")
    tree.withdraw([first])
    set_back(first, 1000)
    tree.withdraw([first])
    assert retention.sweep(tree, 60) == []


def test_only_the_newest_versions_of_each_product_are_kept(tree: Tree) -> None:
    web = [publish(tree, content=str(number)) for number in range(4)]
    arm = [publish(tree, content=f"arm {number}", arch=Arch.AARCH64) for number in range(2)]
    assert [one.key for one in retention.retire(tree, 2)] == [one.key for one in web[:2]]
    assert listed(tree) == [one.key for one in web[2:]]
    assert listed(tree, "web:current:default:arm64") == [one.key for one in arm]
    assert retention.retire(tree, 2) == []


def test_young_versions_stay_however_many_there_are(tree: Tree) -> None:
    keys = [publish(tree, content=str(number)).key for number in range(4)]
    assert retention.retire(tree, 1, 3600) == []
    old = grown_old(tree, keys[0], timedelta(hours=2))
    older = grown_old(tree, keys[1], timedelta(hours=3))
    tree.write_index()
    assert [one.key for one in retention.retire(tree, 2, 3600)] == [older, old]
    # The last one stays, whatever its age.
    last = grown_old(tree, keys[3], timedelta(days=900))
    tree.withdraw([one for one in tree.versions() if one.key == keys[2]])
    assert retention.retire(tree, 1, 3600) == []
    assert listed(tree) == [last]


def grown_old(tree: Tree, key: str, age: timedelta) -> str:
    """Renames a version as if it had been published that long ago. Returns its new key."""
    (folder,) = tree.root.glob(f"images/*/*/{key}")
    earlier = (datetime.now(UTC) - age).strftime("%Y%m%d_%H%M")
    folder.rename(folder.parent / earlier)
    return earlier


def test_damaged_versions_do_not_count_among_those_that_are_kept(tree: Tree) -> None:
    first, second, third = (publish(tree, content=str(number)) for number in range(3))
    (third.folder / ROOTFS_FILE).write_bytes(b"cut short")
    assert retention.retire(tree, 2) == []
    assert listed(tree) == [first.key, second.key, third.key]  # until the index is written again
    tree.write_index()
    assert listed(tree) == [first.key, second.key]
    assert assert_sound(tree.root) == {first.fingerprint.value, second.fingerprint.value}


def test_withdrawn_versions_are_deleted_after_the_grace_period(tree: Tree) -> None:
    first, second = publish(tree, content="1"), publish(tree, content="2")
    tree.withdraw([first])
    assert retention.sweep(tree, 60) == []
    set_back(first, 59)
    assert retention.sweep(tree, 60) == []
    set_back(first, 61)
    assert [one.key for one in retention.sweep(tree, 60)] == [first.key]
    assert not first.folder.exists()
    assert second.folder.exists()
    assert retention.sweep(tree, 60) == []
    assert assert_sound(tree.root) == {second.fingerprint.value}


def test_no_empty_folders_are_left(tree: Tree) -> None:
    gone, other = publish(tree), publish(tree, provenance(spec("other")), "other")
    tree.withdraw([gone])
    assert len(retention.sweep(tree, 0)) == 1
    assert list((tree.root / "images").iterdir()) == [tree.root / "images/other"]
    assert other.folder.exists()
    assert list((tree.root / ".staging").iterdir()) == []


def test_damaged_versions_are_deleted_after_the_grace_period_too(tree: Tree) -> None:
    damaged, whole = publish(tree, content="1"), publish(tree, content="2")
    (damaged.folder / ROOTFS_FILE).unlink()
    assert retention.sweep(tree, 60) == []
    assert listed(tree) == [whole.key]
    set_back(damaged, 61)
    assert [one.key for one in retention.sweep(tree, 60)] == [damaged.key]
    assert not damaged.folder.exists()


def test_damaged_versions_are_deleted_though_no_index_ever_had_them(tree: Tree) -> None:
    damaged, whole = publish(tree, content="1"), publish(tree, content="2")
    (damaged.folder / ROOTFS_FILE).unlink()
    shutil.rmtree(tree.root / "streams")
    assert retention.sweep(tree, 60) == []
    set_back(damaged, 61)
    assert [one.key for one in retention.sweep(tree, 60)] == [damaged.key]
    assert listed(tree) == [whole.key]


def test_the_grace_period_begins_when_the_index_forgets_a_version(tree: Tree) -> None:
    """Whoever withdrew it was killed before the index was written, long ago: clients still see it there."""
    first, second = publish(tree, content="1"), publish(tree, content="2")
    (first.folder / WITHDRAWN).touch()
    set_back(first, 1000)
    assert first.key in listed(tree)
    assert retention.sweep(tree, 60) == []
    assert listed(tree) == [second.key]
    set_back(first, 61)
    assert [one.key for one in retention.sweep(tree, 60)] == [first.key]


def test_the_grace_period_begins_with_the_index_whoever_writes_that(tree: Tree) -> None:
    first = publish(tree, content="1")
    publish(tree, content="2")
    (first.folder / WITHDRAWN).touch()  # and killed
    set_back(first, 1000)
    publish(tree, content="3")
    assert first.key not in listed(tree)
    assert retention.sweep(tree, 60) == []
