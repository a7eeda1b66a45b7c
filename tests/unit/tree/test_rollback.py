"""Going back to an older version, and forward again."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.errors import UsageError
from lxdocker.image.artifact import ROOTFS_FILE
from lxdocker.tree import retention, rollback
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import WITHDRAWN, WITHHELD, Published
from lxdocker.values import Arch, ImageName
from tests.examples import provenance, publish, published, resolved, spec
from tests.trees import (
    listed,
    of_image,
    products,
    publish_three,
    set_back,
)


def history(folder: Path, *contents: str) -> list[Published]:
    """Versions of one product, oldest first, on days 1, 2, ...; "-" in front: withdrawn."""
    return [
        published(
            folder, content=text.lstrip("-"), key=f"2026010{day}_0000", withdrawn=1.0 if text.startswith("-") else None
        )
        for day, text in enumerate(contents, 1)
    ]


@pytest.mark.parametrize(
    ("versions", "withheld", "day"),
    [
        (["a", "b", "c"], [], 2),
        (["a", "b", "b"], [], 1),  # the same image again is no way back
        (["a", "b", "c"], [2], 1),  # nor what was rolled back itself
        (["a", "b", "-c"], [3], 1),
        (["a", "-b", "c"], [], 1),  # retention may have withdrawn the fault as well
        (["-a", "-b", "c"], [], 2),  # but it is better than nothing
        (["-a", "b", "-c"], [], 1),  # what is newer than the current is no way back either
        (["a"], [], None),
        (["a", "a"], [], None),
        (["-a", "-b"], [], None),
        (["b", "c"], [1], None),
        ([], [], None),
    ],
)
def test_where_a_product_goes_back_to(
    tmp_path: Path, versions: list[str], withheld: list[int], day: int | None
) -> None:
    found = rollback.target(history(tmp_path, *versions), None, [f"2026010{number}_0000" for number in withheld])
    assert (found.key if found else None) == (f"2026010{day}_0000" if day else None)


def test_a_version_by_its_key_is_taken_whatever_it_is(tmp_path: Path) -> None:
    versions = history(tmp_path, "-a", "b", "b")
    for version in versions:
        assert rollback.target(versions, version.key, [version.key]) == version
    assert rollback.target(versions, "20260109_0000", []) is None


def test_other_images_stay_as_they_are(tree: Tree) -> None:
    for name in ("web", "other"):
        for number in range(2):
            publish(tree, provenance(spec(name), resolved(str(number))), f"{name} {number}")
    before = products(tree)["other:current:default:amd64"]
    rollback.roll_back(tree, ImageName("web"))
    assert products(tree)["other:current:default:amd64"] == before
    rollback.roll_back(tree, ImageName("other"))
    rolled_back = products(tree)["other:current:default:amd64"]
    rollback.undo(tree, ImageName("web"))
    assert products(tree)["other:current:default:amd64"] == rolled_back


def test_what_a_killed_rollback_withheld_is_not_listed(tree: Tree) -> None:
    """It was killed before it marked the version."""
    first, second, third = publish_three(tree)
    rollback.roll_back(tree, ImageName("web"))
    (third.folder / WITHDRAWN).unlink()
    tree.write_index()
    assert listed(tree) == [first.key, second.key]


def test_a_rollback_makes_the_one_before_current(tree: Tree) -> None:
    first, second, third = publish_three(tree)
    (done,) = rollback.roll_back(tree, ImageName("web"))
    assert done.current == second
    assert [one.key for one in done.withheld] == [third.key]
    assert listed(tree) == [first.key, second.key]
    (withheld,) = tree.withheld()
    assert (withheld.key, withheld.provenance, withheld.fingerprint) == (third.key, of_image(2), third.fingerprint)
    assert third.folder.exists()  # clients may be in the middle of it
    assert retention.sweep(tree, 60) == []
    set_back(third, 61)
    assert [one.key for one in retention.sweep(tree, 60)] == [third.key]
    assert tree.withheld() == [withheld]  # which is to be remembered for as long as there is something to go back to


def test_a_rollback_to_a_version_by_name_and_further_back(tree: Tree) -> None:
    first, second, third = publish_three(tree)
    rollback.roll_back(tree, ImageName("web"))
    (done,) = rollback.roll_back(tree, ImageName("web"))
    assert done.current == first
    assert listed(tree) == [first.key]
    assert [one.key for one in tree.withheld()] == [second.key, third.key]
    (done,) = rollback.roll_back(tree, ImageName("web"), second.key)
    assert done.current == second
    assert listed(tree) == [first.key, second.key]
    assert [one.key for one in tree.withheld()] == [third.key]
    assert rollback.roll_back(tree, ImageName("web"), second.key)[0].withheld == ()


def test_a_version_that_retention_withdrew_can_be_had_back(tree: Tree) -> None:
    first, *_ = publish_three(tree)
    retention.retire(tree, 1)
    assert rollback.roll_back(tree, ImageName("web"), first.key)[0].current.key == first.key
    assert listed(tree) == [first.key]
    retention.retire(tree, 1)
    retention.sweep(tree, 0)
    assert listed(tree) == [first.key]


def test_the_same_image_again_is_no_way_back(tree: Tree) -> None:
    publish(tree, of_image(0), "good")
    good = publish(tree, of_image(0), "good")
    publish(tree, of_image(1), "bad")
    publish(tree, of_image(1), "bad")
    assert rollback.roll_back(tree, ImageName("web"))[0].current == good


def test_a_rollback_can_be_undone(tree: Tree) -> None:
    keys = [one.key for one in publish_three(tree)]
    before = products(tree)
    rollback.roll_back(tree, ImageName("web"), keys[0])
    assert [one.key for one in rollback.undo(tree, ImageName("web"))] == keys[1:]
    assert products(tree) == before
    assert tree.withheld() == []
    with pytest.raises(UsageError, match="web is not rolled back"):
        rollback.undo(tree, ImageName("web"))


def test_a_version_after_a_rollback_is_listed(tree: Tree) -> None:
    first, second, third = publish_three(tree)
    rollback.roll_back(tree, ImageName("web"))
    fourth = publish(tree, of_image(3), "4")
    assert listed(tree) == [first.key, second.key, fourth.key]
    rollback.undo(tree, ImageName("web"))
    assert listed(tree) == [first.key, second.key, third.key, fourth.key]


def test_every_architecture_is_rolled_back(tree: Tree) -> None:
    for arch in (Arch.X86_64, Arch.AARCH64):
        for number in range(2):
            publish(tree, of_image(number), f"{arch} {number}", arch=arch)
    assert {one.current.arch for one in rollback.roll_back(tree, ImageName("web"))} == {Arch.X86_64, Arch.AARCH64}
    assert [len(product["versions"]) for product in products(tree).values()] == [1, 1]


def test_where_there_is_no_way_back(tree: Tree) -> None:
    with pytest.raises(UsageError, match="no image web in the tree"):
        rollback.roll_back(tree, ImageName("web"))
    only = publish(tree)
    with pytest.raises(UsageError, match="no older version") as caught:
        rollback.roll_back(tree, ImageName("web"))
    assert caught.value.details == f"its versions: {only.key} ({only.fingerprint.short})"
    assert "lxdocker publish list web shows them" in caught.value.resolution
    damaged, current = publish(tree, content="2"), publish(tree, content="3")
    (damaged.folder / ROOTFS_FILE).unlink()
    with pytest.raises(UsageError, match=f"no version {damaged.key}") as caught:
        rollback.roll_back(tree, ImageName("web"), damaged.key)
    assert f"{damaged.key} (damaged)" in caught.value.details
    assert "lxdocker publish list web shows them" in caught.value.resolution
    assert rollback.roll_back(tree, ImageName("web"))[0].current == only
    assert listed(tree) == [only.key]
    assert current.folder.exists()


def test_what_is_withheld_goes_with_the_last_version(tree: Tree) -> None:
    publish_three(tree)
    rollback.roll_back(tree, ImageName("web"))
    tree.withdraw(tree.versions())
    assert len(retention.sweep(tree, 0)) == 3
    assert tree.withheld() == []
    assert list((tree.root / "images").iterdir()) == []


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"withheld": 3}', b'{"withheld": {"../x": {}, "y": 3}}'])
def test_a_ruined_list_of_what_is_withheld_withholds_nothing(tree: Tree, garbage: bytes) -> None:
    published = publish(tree)
    (published.folder.parent / WITHHELD).write_bytes(garbage)
    assert tree.withheld() == []
    tree.write_index()
    assert listed(tree) == [published.key]
