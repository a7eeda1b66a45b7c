"""Changes of more than one step: the order in which each is made, what clients see meanwhile, and what a kill between
any two steps leaves.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lxdocker.errors import UsageError
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE
from lxdocker.progress import Progress
from lxdocker.tree import retention, rollback
from lxdocker.tree.tree import Tree
from lxdocker.tree.verify import verify
from lxdocker.tree.version import SIDECAR, WITHDRAWN, WITHHELD, Delta, Published
from lxdocker.values import Arch, ImageName
from tests.examples import make_artifact, provenance, publish, resolved, spec
from tests.forked import die, in_child
from tests.journal import in_order, recorded
from tests.trees import (
    NEVER,
    assert_sound,
    files_of,
    listed_names,
    locked,
    products,
    publish_three,
    set_back,
)
from tests.waiting import looking

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem")
WEB = "images/web/x86_64"
INDEXED = ("rename .staging/images.json.* streams/v1/images.json", "sync streams/v1")


def test_a_version_is_complete_on_disk_before_it_appears_and_appears_before_it_is_listed(tree: Tree) -> None:
    base = publish(tree)
    with recorded(tree.root) as journal:
        new = publish_with_delta(tree, base)
    staged = ".staging/.publish.*"
    files = (METADATA_FILE, ROOTFS_FILE, f"{base.key}.vcdiff", SIDECAR)
    appears = f"rename {staged} {WEB}/{new.key}"
    for name in files:
        in_order(journal, f"sync {staged}/{name}", f"sync {staged}", appears)
    in_order(journal, appears, f"sync {WEB}", *INDEXED)
    assert not [line for line in journal if line.startswith(("unlink", "link")) and WEB in line]


def test_the_index_is_written_from_the_inside_out(tree: Tree) -> None:
    """index.json names images.json and its products, so it comes second; the page is for people."""
    with recorded(tree.root) as journal:
        publish(tree)
    in_order(
        journal,
        "sync .staging/images.json.*",
        *INDEXED,
        "sync .staging/index.json.*",
        "rename .staging/index.json.* streams/v1/index.json",
        "sync streams/v1",
        "sync .staging/index.html.*",
        "rename .staging/index.html.* index.html",
    )


@pytest.mark.parametrize("how", ["withdrawn", "damaged", "withdrawn by a killed process"])
def test_the_grace_period_begins_before_the_index_forgets_a_version(tree: Tree, how: str) -> None:
    leaving, _ = publish(tree, content="1"), publish(tree, content="2")
    if how == "damaged":
        (leaving.folder / ROOTFS_FILE).unlink()
    elif how != "withdrawn":
        (leaving.folder / WITHDRAWN).touch()
    with recorded(tree.root) as journal:
        tree.withdraw([leaving]) if how == "withdrawn" else tree.write_index()
    folder = f"{WEB}/{leaving.key}"
    in_order(journal, f"utime {folder}/{WITHDRAWN}", f"sync {folder}/{WITHDRAWN}", f"sync {folder}", *INDEXED)
    # Nor does it begin once more, when the index has forgotten it.
    assert not [line for line in journal[journal.index(INDEXED[0]) :] if line.endswith(WITHDRAWN)]


def test_a_rollback_lists_the_target_before_it_withholds_what_is_newer(tree: Tree) -> None:
    target = publish_three(tree)[0]
    retention.retire(tree, 1)
    with recorded(tree.root) as journal:
        rollback.roll_back(tree, target.name, target.key)
    in_order(
        journal,
        f"unlink {WEB}/{target.key}/{WITHDRAWN}",
        f"sync {WEB}/{target.key}",
        f"rename .staging/{WITHHELD}.* {WEB}/{WITHHELD}",
        f"sync {WEB}",
        *INDEXED,
    )


def test_an_undone_rollback_forgets_what_it_withheld_last_of_all(tree: Tree) -> None:
    first, *newer = publish_three(tree)
    rollback.roll_back(tree, first.name, first.key)
    with recorded(tree.root) as journal:
        rollback.undo(tree, first.name)
    for version in newer:
        folder = f"{WEB}/{version.key}"
        listed_again = (f"unlink {folder}/{WITHDRAWN}", f"sync {folder}")
        in_order(journal, *listed_again, f"unlink {WEB}/{WITHHELD}", f"sync {WEB}", *INDEXED)


def test_a_mended_version_is_listed_again_only_when_all_of_it_is_right(tree: Tree, tmp_path: Path) -> None:
    version = publish(tree)
    files = {path.name: Path(shutil.copy(path, tmp_path)) for path in files_of(version)}
    (version.folder / ROOTFS_FILE).write_bytes(b"damaged")
    tree.withdraw([version])
    folder = f"{WEB}/{version.key}"
    with recorded(tree.root) as journal:
        tree.adopt(replace(version, aliases=("www",)), files)
    renamed = [line.split()[-1] for line in journal if line.startswith("rename")]
    assert renamed == [f"{folder}/{name}" for name in (METADATA_FILE, ROOTFS_FILE, SIDECAR)]
    in_order(
        journal,
        f"sync {folder}",
        f"rename .staging/{SIDECAR}.* {folder}/{SIDECAR}",
        f"sync {folder}",
        f"unlink {folder}/{WITHDRAWN}",
        f"sync {folder}",
    )
    assert journal.index(f"sync {folder}") > max(
        number for number, line in enumerate(journal) if line.endswith((METADATA_FILE, ROOTFS_FILE))
    )
    tree.write_index()
    assert assert_sound(tree.root) == {version.fingerprint.value}


def test_a_delta_goes_before_its_record(tree: Tree) -> None:
    version = publish_with_delta(tree, publish(tree))
    (delta,) = version.deltas
    folder = f"{WEB}/{version.key}"
    with recorded(tree.root) as journal:
        tree.drop_deltas(version, [delta])
    in_order(
        journal, f"unlink {folder}/{delta.file}", f"sync {folder}", f"rename .staging/{SIDECAR}.* {folder}/{SIDECAR}"
    )


def test_a_version_is_deleted_all_at_once_after_the_index_was_written(tree: Tree) -> None:
    old, _ = publish(tree, content="1"), publish(tree, content="2")
    (old.folder / WITHDRAWN).touch()  # and killed: the index has it still
    with recorded(tree.root) as journal:
        assert [version.key for version in retention.sweep(tree, 0)] == [old.key]
    in_order(journal, *INDEXED, f"rename {WEB}/{old.key} .staging/.gone.*/{old.key}")
    assert not [line for line in journal if line.startswith(("unlink", "rmdir")) and WEB in line]


@needs_root
def test_where_nothing_can_be_linked_versions_are_copied(tree: Tree, mounted: Callable[..., Path]) -> None:
    """As from a staging area on another filesystem."""
    made = make_artifact(mounted("size=1m"))
    version = tree.publish(made, provenance(), Arch.X86_64, ())
    assert assert_sound(tree.root) == {version.fingerprint.value}
    assert not (version.folder / ROOTFS_FILE).samefile(made.rootfs)


def test_clients_find_a_sound_tree_at_every_moment(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    grace = 5.0
    publish(tree, content="first")
    with looking(lambda: assert_sound(tree.root, deadline=time.monotonic() + grace), at_least=10):
        for number in range(15):
            published = publish(tree, content=f"number {number}", size=20_000)
            tree.update(published, provenance(at=resolved(source=str(number))), (f"alias-{number}",))
            for one in retention.retire(tree, 2):
                set_back(one, 2)  # faster than life; the reader still has 3 s
            retention.sweep(tree, grace)
            other = publish(tree, provenance(spec("other")), f"other {number}")
            tree.withdraw([other])


Change = Callable[[Tree], object]


def _publish_new(tree: Tree) -> None:
    publish(tree, content="new", aliases=("www",))


def _publish_another(tree: Tree) -> None:
    publish(tree, provenance(spec("another")), "another")


def _newest(tree: Tree) -> Published:
    return [one for one in tree.versions() if one.name.value == "web" and one.withdrawn is None][-1]


def _update(tree: Tree) -> None:
    tree.update(_newest(tree), provenance(at=resolved(source="new index")), ("www",))


def _withdraw(tree: Tree) -> None:
    tree.withdraw([one for one in tree.versions() if one.withdrawn is None])


def _retire(tree: Tree) -> None:
    retention.retire(tree, 1)


def _sweep(tree: Tree) -> None:
    retention.sweep(tree, 0)


def _rollback(tree: Tree) -> None:
    oldest = next(one for one in tree.versions() if one.name.value == "web")  # which is withdrawn
    rollback.roll_back(tree, oldest.name, oldest.key)


def _drop_delta(tree: Tree) -> None:
    newest = _newest(tree)
    if newest.deltas:
        tree.drop_deltas(newest, newest.deltas)


def _undo_rollback(tree: Tree) -> None:
    with contextlib.suppress(UsageError):  # it had been, but for the index
        rollback.undo(tree, ImageName("web"))


CHANGES: list[Change] = [_publish_new, _publish_another, _update, _withdraw, _retire, _sweep, _rollback]


class Steps:
    """Ends this process before its ``limit``-th change to a file."""

    WATCHED = frozenset({"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.utime"})

    def __init__(self, root: Path, limit: int) -> None:
        self._root = str(root)
        self._left = limit

    def arm(self) -> None:
        os.fsync = lambda fd: self._count()  # before it, what was written may be in the file or not
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in self.WATCHED:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            die()


def _prepared(root: Path) -> Path:
    """A tree with a bit of everything: versions, another image, one withdrawn, one half withdrawn, one damaged."""
    with locked(Tree(root)) as tree:
        versions = [publish(tree, content=f"version {number}") for number in range(4)]
        (publish(tree, provenance(spec("damaged")), "damaged").folder / ROOTFS_FILE).unlink()
        publish(tree, provenance(spec("other")), "other")
        tree.withdraw(versions[:1])  # which takes the damaged one out of the index as well
        (versions[1].folder / WITHDRAWN).touch()  # the index still has it
    return root


def _rolled_back(root: Path) -> Path:
    with locked(Tree(_prepared(root))) as tree:
        _rollback(tree)
    return root


def _with_delta(root: Path) -> Path:
    """A version with a delta whose base is withdrawn."""
    with locked(Tree(root)) as tree:
        base = publish(tree, content="base")
        publish_with_delta(tree, base)
        tree.withdraw([base])
    return root


def publish_with_delta(tree: Tree, base: Published) -> Published:
    """Publishes a version with a delta from ``base``, as far as anything but xdelta3 can tell."""
    content = b"what changed since"
    delta = Delta(base.key, len(content), hashlib.sha256(content).hexdigest())
    with tree.staging(base.name) as folder:
        (folder / "delta").write_bytes(content)
        artifact = make_artifact(folder, "newer")
        return tree.publish(artifact, base.provenance, base.arch, (), deltas={delta: folder / "delta"})


def _settled(tree: Tree) -> dict[str, Any]:
    """What the tree comes to once all is done, without times and version keys."""
    tree.write_index()
    return {
        name: (product["aliases"], [items_hash(version) for version in product["versions"].values()])
        for name, product in products(tree).items()
    }


def findings(root: Path) -> list[tuple[str, str]]:
    """What `publish verify --deep` has to say."""
    found = verify(Tree(root), deep=True, repair=False, jobs=1, progress=Progress(), say=print, cancelled=NEVER)
    return [(one.path, one.problem) for one in found.findings]


def items_hash(version: dict[str, Any]) -> str:
    found: str = version["items"]["lxd.tar.xz"]["combined_squashfs_sha256"]
    return found


def _empty(root: Path) -> Path:
    with locked(Tree(root)):
        return root


@pytest.mark.parametrize(
    ("prepare", "change"),
    [
        (_empty, _publish_new),
        *((_prepared, change) for change in CHANGES),
        *((_rolled_back, change) for change in (_undo_rollback, _publish_new, _sweep)),
        (_with_delta, _sweep),
        (_with_delta, _drop_delta),
    ],
    ids=lambda function: function.__name__.strip("_"),
)
def test_killed_at_any_step_clients_find_a_sound_tree_and_the_next_run_heals_it(
    tmp_path: Path, prepare: Callable[[Path], Path], change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it is us who is killed here, not the machine
    before = prepare(tmp_path / "before")
    stays, old = listed_names(before), assert_sound(before, empty=prepare is _empty)
    whole = shutil.copytree(before, tmp_path / "whole")
    with locked(Tree(whole)) as tree:
        change(tree)
        wanted = _settled(tree)
    new = assert_sound(whole, empty=change is _withdraw)
    stays &= listed_names(whole)
    expected_names = names_below(whole)
    steps = 0
    while True:
        root = shutil.copytree(before, tmp_path / f"killed at {steps}")
        survived = in_child(partial(_change_until, root, change, steps))
        assert assert_sound(root, empty=not stays) in (old, new), "the index changes all at once"
        assert stays <= listed_names(root), "an image that is there before and after is there at every moment"
        with locked(Tree(root)) as tree:
            tree.write_index()  # as any other process may
            assert old & new <= assert_sound(root, empty=not stays) <= old | new
            assert stays <= listed_names(root)
            assert list((root / ".staging").iterdir()) == []
            # What the next run does: it sees what is missing and does that again.
            if _settled(tree) != wanted:
                change(tree)
            if change in {_sweep, _drop_delta}:
                change(tree)
            assert _settled(tree) == wanted
            assert assert_sound(root, empty=change is _withdraw) == new
        assert findings(root) == []
        assert names_below(root) == expected_names
        shutil.rmtree(root)
        if survived:
            break
        steps += 1
    assert steps >= 5


def _change_until(root: Path, change: Change, limit: int) -> bool:
    with locked(Tree(root)) as tree:
        Steps(root, limit).arm()
        change(tree)
    return True


def names_below(root: Path) -> list[str]:
    """Every file's path, with version keys made equal. An empty folder does no harm."""
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
    return sorted(re.sub(r"/\d{8}_\d{4}", "/VERSION", path) for path in paths)
