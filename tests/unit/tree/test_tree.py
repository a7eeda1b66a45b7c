"""The published tree with real files: what is in it at any moment, whatever happens to those who write it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lxdocker.console import Progress
from lxdocker.errors import TreeError, UsageError
from lxdocker.provenance import Provenance
from lxdocker.publish import Tree
from lxdocker.published import SIDECAR, WITHDRAWN, WITHHELD, Published
from lxdocker.simplestreams import METADATA_FILE, ROOTFS_FILE
from lxdocker.values import Arch, ImageName
from lxdocker.verify import verify
from tests.examples import make_artifact, provenance, publish, resolved, spec
from tests.forked import NOBODY, die, in_child

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem or becomes another user")

INDEX = "streams/v1/index.json"
IMAGES = "streams/v1/images.json"
NEVER = threading.Event()


@contextlib.contextmanager
def locked(tree: Tree) -> Iterator[Tree]:
    said: list[str] = []
    with tree.lock(said.append, NEVER):
        yield tree
    assert said == []


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with locked(Tree(tmp_path / "tree")) as held:
        yield held


def read(tree: Tree, path: str) -> Any:
    return json.loads((tree.root / path).read_bytes())


def products(tree: Tree) -> dict[str, Any]:
    found: dict[str, Any] = read(tree, IMAGES)["products"]
    return found


def listed(tree: Tree, product: str = "web:current:default:amd64") -> list[str]:
    """The keys of a product's versions in the index; none for a product that is not there."""
    return sorted(products(tree).get(product, {"versions": {}})["versions"])


def assert_sound(root: Path, deadline: float | None = None) -> set[str]:
    """Follows the index as a client does, down to the last byte. Returns the fingerprints it can have.

    Files that are gone are no fault after ``deadline``, when the grace period of what was read has ended.
    """
    fingerprints = set()
    try:
        index = json.loads((root / INDEX).read_bytes())
    except FileNotFoundError:
        return set()
    for entry in index["index"].values():
        assert entry["products"], "clients ignore an entry without products"
        images = json.loads((root / entry["path"]).read_bytes())
        for product in images["products"].values():
            for version in product["versions"].values():
                try:
                    fingerprints.add(assert_version(root, version["items"]))
                except FileNotFoundError:
                    if deadline is None or time.monotonic() < deadline:
                        raise
    return fingerprints


def assert_version(root: Path, items: dict[str, Any]) -> str:
    whole = hashlib.sha256()
    for name in ("lxd.tar.xz", "root.squashfs"):
        content = (root / items[name]["path"]).read_bytes()
        assert items[name]["size"] == len(content)
        assert items[name]["sha256"] == hashlib.sha256(content).hexdigest()
        whole.update(content)
    assert {**items["incus.tar.xz"], "ftype": "lxd.tar.xz"} == items["lxd.tar.xz"]
    combined: str = items["lxd.tar.xz"]["combined_squashfs_sha256"]
    assert combined == whole.hexdigest()
    return combined


# ---- publishing


def test_what_is_published_can_be_found_and_fetched(tree: Tree) -> None:
    published = publish(tree, provenance(spec(aliases=("www",))), size=3_000_000, aliases=("www",))
    assert published.folder == tree.root / "images/web/x86_64" / published.key
    assert published.size == len("metadata of image") + 3_000_000
    assert assert_sound(tree.root) == {published.fingerprint.value}
    (key, product), *others = products(tree).items()
    assert not others
    assert key == "web:current:default:amd64"
    assert product["aliases"] == "web,www"
    assert product["release_title"] == "docker.io/library/nginx:1"
    assert read(tree, INDEX)["index"]["images"]["products"] == [key]
    assert tree.versions() == [published]


def test_products_are_told_apart_by_name_and_architecture(tree: Tree) -> None:
    for name, arch in [("web", Arch.X86_64), ("web", Arch.AARCH64), ("db", Arch.X86_64)]:
        publish(tree, provenance(spec(name)), f"{name} {arch}", arch=arch)
    assert sorted(products(tree)) == [
        "db:current:default:amd64",
        "web:current:default:amd64",
        "web:current:default:arm64",
    ]
    assert len(assert_sound(tree.root)) == 3


def test_versions_are_higher_than_those_before_even_within_a_minute(tree: Tree) -> None:
    keys = [publish(tree, content=str(number)).key for number in range(5)]
    assert keys == sorted(set(keys))
    assert listed(tree) == keys
    assert all(re.fullmatch(r"\d{8}_\d{4}", key) for key in keys)


def test_a_version_is_higher_than_withdrawn_and_damaged_ones(tree: Tree) -> None:
    first, second = publish(tree, content="1"), publish(tree, content="2")
    tree.withdraw([second])
    (first.folder / ROOTFS_FILE).unlink()
    assert publish(tree, content="3").key > second.key


def test_published_files_never_change(tree: Tree) -> None:
    first = publish(tree, content="first")
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files_of(first)}
    publish(tree, content="second")
    tree.update(first, provenance(at=resolved(source="new index")), ("alias",))
    after = {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files_of(first)}
    assert after == before


def files_of(published: Published) -> list[Path]:
    return [published.folder / METADATA_FILE, published.folder / ROOTFS_FILE]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000], ids=oct)
def test_everybody_may_read_and_nobody_else_may_write(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with locked(Tree(tmp_path / "tree")) as tree:
            publish(tree, size=10)
    finally:
        os.umask(before)
    served = [path for path in tree.root.rglob("*") if not path.is_relative_to(tree.root / ".staging")]
    modes = {path: path.stat().st_mode & 0o777 for path in [tree.root, *served] if path.name != ".lock"}
    assert len(modes) > 8
    for path, mode in modes.items():
        assert mode == (0o755 if path.is_dir() else 0o644), path


def test_publishing_leaves_the_artifact_to_its_owner(tree: Tree, tmp_path: Path) -> None:
    with tree.staging(ImageName("web")) as folder:
        artifact = make_artifact(folder)
        tree.publish(artifact, provenance(), Arch.X86_64, ())
        assert artifact.rootfs.exists()
    assert not folder.exists()
    assert_sound(tree.root)


# ---- changing what is there


def test_an_update_changes_what_is_recorded_and_listed(tree: Tree) -> None:
    published = publish(tree)
    seen = provenance(at=resolved(source="new index"))
    tree.update(published, seen, ("www", "www2"))
    assert tree.versions() == [replace(published, provenance=seen, aliases=("www", "www2"))]
    assert products(tree)["web:current:default:amd64"]["aliases"] == "web,www,www2"


def test_the_newest_version_says_which_aliases_there_are(tree: Tree) -> None:
    publish(tree, content="1", aliases=("old",))
    publish(tree, content="2", aliases=("new",))
    assert products(tree)["web:current:default:amd64"]["aliases"] == "web,new"


def test_an_alias_is_one_image_s(tree: Tree) -> None:
    """Two may claim it while it moves from one spec to another: the newer has it; and a name beats both."""
    publish(tree, provenance(spec("first")), aliases=("www", "third"))
    publish(tree, provenance(spec("other")), aliases=("other2",))
    (folder,) = (tree.root / "images/first/x86_64").iterdir()
    folder.rename(folder.with_name("20200101_0000"))
    publish(tree, provenance(spec("second")), aliases=("www",))
    publish(tree, provenance(spec("third")))
    listed = {name.split(":")[0]: product["aliases"] for name, product in products(tree).items()}
    assert listed == {"first": "first", "other": "other,other2", "second": "second,www", "third": "third"}


def test_what_is_withdrawn_leaves_the_index_and_stays_on_disk(tree: Tree) -> None:
    first, second = publish(tree, content="1"), publish(tree, content="2")
    before = time.time()
    tree.withdraw([first])
    assert listed(tree) == [second.key]
    assert all(path.exists() for path in files_of(first))
    (found,) = [one for one in tree.versions() if one.key == first.key]
    assert found.withdrawn is not None
    assert before - 1 < found.withdrawn < time.time() + 1


def test_an_empty_tree_lists_nothing_at_all(tree: Tree) -> None:
    tree.withdraw([publish(tree)])
    assert read(tree, INDEX)["index"] == {}
    assert products(tree) == {}


def test_only_the_newest_versions_of_each_product_are_kept(tree: Tree) -> None:
    web = [publish(tree, content=str(number)) for number in range(4)]
    arm = [publish(tree, content=f"arm {number}", arch=Arch.AARCH64) for number in range(2)]
    assert [one.key for one in tree.retire(2)] == [one.key for one in web[:2]]
    assert listed(tree) == [one.key for one in web[2:]]
    assert listed(tree, "web:current:default:arm64") == [one.key for one in arm]
    assert tree.retire(2) == []


def test_young_versions_stay_however_many_there_are(tree: Tree) -> None:
    keys = [publish(tree, content=str(number)).key for number in range(4)]
    assert tree.retire(1, 3600) == []
    old = grown_old(tree, keys[0], timedelta(hours=2))
    older = grown_old(tree, keys[1], timedelta(hours=3))
    tree.write_index()
    assert [one.key for one in tree.retire(2, 3600)] == [older, old]
    # The last one stays, whatever its age.
    last = grown_old(tree, keys[3], timedelta(days=900))
    tree.withdraw([one for one in tree.versions() if one.key == keys[2]])
    assert tree.retire(1, 3600) == []
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
    assert tree.retire(2) == []
    assert listed(tree) == [first.key, second.key, third.key]  # until the index is written again
    tree.write_index()
    assert listed(tree) == [first.key, second.key]
    assert_sound(tree.root)


def test_withdrawn_versions_are_deleted_after_the_grace_period(tree: Tree) -> None:
    first, second = publish(tree, content="1"), publish(tree, content="2")
    tree.withdraw([first])
    assert tree.sweep(60) == []
    set_back(first, 59)
    assert tree.sweep(60) == []
    set_back(first, 61)
    assert [one.key for one in tree.sweep(60)] == [first.key]
    assert not first.folder.exists()
    assert second.folder.exists()
    assert tree.sweep(60) == []
    assert_sound(tree.root)


def set_back(withdrawn: Published, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(withdrawn.folder / WITHDRAWN, (moment, moment))


def test_no_empty_folders_are_left(tree: Tree) -> None:
    gone, other = publish(tree), publish(tree, provenance(spec("other")), "other")
    tree.withdraw([gone])
    assert len(tree.sweep(0)) == 1
    assert list((tree.root / "images").iterdir()) == [tree.root / "images/other"]
    assert other.folder.exists()
    assert list((tree.root / ".staging").iterdir()) == []


def test_damaged_versions_are_deleted_after_the_grace_period_too(tree: Tree) -> None:
    damaged, whole = publish(tree, content="1"), publish(tree, content="2")
    (damaged.folder / ROOTFS_FILE).unlink()
    assert tree.sweep(60) == []
    assert listed(tree) == [whole.key]
    set_back(damaged, 61)
    assert [one.key for one in tree.sweep(60)] == [damaged.key]
    assert not damaged.folder.exists()


def test_the_grace_period_begins_when_the_index_forgets_a_version(tree: Tree) -> None:
    """Whoever withdrew it was killed before the index was written, long ago: clients still see it there."""
    first, second = publish(tree, content="1"), publish(tree, content="2")
    (first.folder / WITHDRAWN).touch()
    set_back(first, 1000)
    assert first.key in listed(tree)
    assert tree.sweep(60) == []
    assert listed(tree) == [second.key]
    set_back(first, 61)
    assert [one.key for one in tree.sweep(60)] == [first.key]


def test_the_grace_period_begins_with_the_index_whoever_writes_that(tree: Tree) -> None:
    first = publish(tree, content="1")
    publish(tree, content="2")
    (first.folder / WITHDRAWN).touch()  # and killed
    set_back(first, 1000)
    publish(tree, content="3")
    assert first.key not in listed(tree)
    assert tree.sweep(60) == []


# ---- rolling back


def of_image(number: int) -> Provenance:
    return provenance(at=resolved(f"manifest {number}"))


def publish_three(tree: Tree) -> list[Published]:
    return [publish(tree, of_image(number), str(number)) for number in range(3)]


def test_a_rollback_makes_the_one_before_current(tree: Tree) -> None:
    first, second, third = publish_three(tree)
    (done,) = tree.rollback(ImageName("web"))
    assert done.current == second
    assert [one.key for one in done.withheld] == [third.key]
    assert listed(tree) == [first.key, second.key]
    (withheld,) = tree.withheld()
    assert (withheld.key, withheld.provenance, withheld.fingerprint) == (third.key, of_image(2), third.fingerprint)
    assert third.folder.exists()  # clients may be in the middle of it
    assert tree.sweep(60) == []
    set_back(third, 61)
    assert [one.key for one in tree.sweep(60)] == [third.key]
    assert tree.withheld() == [withheld]  # which is to be remembered for as long as there is something to go back to


def test_a_rollback_to_a_version_by_name_and_further_back(tree: Tree) -> None:
    first, second, third = publish_three(tree)
    tree.rollback(ImageName("web"))
    (done,) = tree.rollback(ImageName("web"))
    assert done.current == first
    assert listed(tree) == [first.key]
    assert [one.key for one in tree.withheld()] == [second.key, third.key]
    (done,) = tree.rollback(ImageName("web"), second.key)
    assert done.current == second
    assert listed(tree) == [first.key, second.key]
    assert [one.key for one in tree.withheld()] == [third.key]
    assert tree.rollback(ImageName("web"), second.key)[0].withheld == ()


def test_a_version_that_retention_withdrew_can_be_had_back(tree: Tree) -> None:
    first, *_ = publish_three(tree)
    tree.retire(1)
    assert tree.rollback(ImageName("web"), first.key)[0].current.key == first.key
    assert listed(tree) == [first.key]
    tree.retire(1)
    tree.sweep(0)
    assert listed(tree) == [first.key]


def test_the_same_image_again_is_no_way_back(tree: Tree) -> None:
    publish(tree, of_image(0), "good")
    good = publish(tree, of_image(0), "good")
    publish(tree, of_image(1), "bad")
    publish(tree, of_image(1), "bad")
    assert tree.rollback(ImageName("web"))[0].current == good


def test_a_rollback_can_be_undone(tree: Tree) -> None:
    keys = [one.key for one in publish_three(tree)]
    before = products(tree)
    tree.rollback(ImageName("web"), keys[0])
    assert [one.key for one in tree.undo_rollback(ImageName("web"))] == keys[1:]
    assert products(tree) == before
    assert tree.withheld() == []
    with pytest.raises(UsageError, match="web is not rolled back"):
        tree.undo_rollback(ImageName("web"))


def test_a_version_after_a_rollback_is_listed(tree: Tree) -> None:
    first, second, third = publish_three(tree)
    tree.rollback(ImageName("web"))
    fourth = publish(tree, of_image(3), "4")
    assert listed(tree) == [first.key, second.key, fourth.key]
    tree.undo_rollback(ImageName("web"))
    assert listed(tree) == [first.key, second.key, third.key, fourth.key]


def test_every_architecture_is_rolled_back(tree: Tree) -> None:
    for arch in (Arch.X86_64, Arch.AARCH64):
        for number in range(2):
            publish(tree, of_image(number), f"{arch} {number}", arch=arch)
    assert {one.current.arch for one in tree.rollback(ImageName("web"))} == {Arch.X86_64, Arch.AARCH64}
    assert [len(product["versions"]) for product in products(tree).values()] == [1, 1]


def test_where_there_is_no_way_back(tree: Tree) -> None:
    with pytest.raises(UsageError, match="no image web in the tree"):
        tree.rollback(ImageName("web"))
    only = publish(tree)
    with pytest.raises(UsageError, match="no older version") as caught:
        tree.rollback(ImageName("web"))
    assert only.key in caught.value.details
    damaged, current = publish(tree, content="2"), publish(tree, content="3")
    (damaged.folder / ROOTFS_FILE).unlink()
    with pytest.raises(UsageError, match=f"no version {damaged.key}") as caught:
        tree.rollback(ImageName("web"), damaged.key)
    assert f"{damaged.key} (damaged)" in caught.value.details
    assert tree.rollback(ImageName("web"))[0].current == only
    assert listed(tree) == [only.key]
    assert current.folder.exists()


def test_what_is_withheld_goes_with_the_last_version(tree: Tree) -> None:
    publish_three(tree)
    tree.rollback(ImageName("web"))
    tree.withdraw(tree.versions())
    assert len(tree.sweep(0)) == 3
    assert tree.withheld() == []
    assert list((tree.root / "images").iterdir()) == []


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"withheld": 3}', b'{"withheld": {"../x": {}, "y": 3}}'])
def test_a_ruined_list_of_what_is_withheld_withholds_nothing(tree: Tree, garbage: bytes) -> None:
    published = publish(tree)
    (published.folder.parent / WITHHELD).write_bytes(garbage)
    assert tree.withheld() == []
    tree.write_index()
    assert listed(tree) == [published.key]


# ---- the index


def identity(tree: Tree) -> list[tuple[int, int]]:
    return [((tree.root / path).stat().st_ino, (tree.root / path).stat().st_mtime_ns) for path in (INDEX, IMAGES)]


def test_the_index_is_not_touched_when_nothing_changed(tree: Tree) -> None:
    published = publish(tree)
    before = identity(tree)
    tree.write_index()
    tree.update(published, published.provenance, ())
    tree.withdraw([])
    tree.retire(3)
    tree.sweep(0)
    with locked_again(tree):
        tree.write_index()
    assert identity(tree) == before
    publish(tree, content="2")
    assert identity(tree)[1] != before[1]


@contextlib.contextmanager
def locked_again(tree: Tree) -> Iterator[None]:
    """As a later process would find the tree: the staging area cleared."""
    shutil.rmtree(tree.root / ".staging")
    (tree.root / ".staging").mkdir()
    yield


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"null", b'{"index": 3}', b"\xff\xfe", b'{"products": [1]}'])
def test_a_ruined_index_is_written_anew(tree: Tree, garbage: bytes) -> None:
    published = publish(tree)
    for path in (INDEX, IMAGES):
        (tree.root / path).write_bytes(garbage)
    assert tree.sweep(0) == []
    assert listed(tree) == [published.key]
    assert assert_sound(tree.root) == {published.fingerprint.value}


def test_a_deleted_index_is_written_anew(tree: Tree) -> None:
    published = publish(tree)
    shutil.rmtree(tree.root / "streams")
    tree.write_index()
    assert assert_sound(tree.root) == {published.fingerprint.value}


# ---- what others put into the tree


def test_what_others_put_there_is_left_alone(tree: Tree) -> None:
    published = publish(tree)
    images = tree.root / "images"
    foreign = {
        "debian/amd64/20240101_0000/lxd.tar.xz": b"theirs",
        "web/x86_64/notes.txt": b"mine",
        "web/x86_64/20300101_0000/rootfs.squashfs": b"without a sidecar",
        f"web/x86_64/20300101_0001/{SIDECAR}": b"{not json",
        f"web/x86_64/20300101_0002/{SIDECAR}": b"[]",
        f"web/x86_64/20300101_0003/{SIDECAR}": b'{"provenance": {}, "arch": "x86_64"}',
        f"web/x86_64/backup/{SIDECAR}": (published.folder / SIDECAR).read_bytes(),
    }
    for path, content in foreign.items():
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        (images / path).write_bytes(content)
    (tree.root / "robots.txt").write_bytes(b"hello")
    assert tree.versions() == [published]
    tree.retire(1)
    tree.withdraw([published])
    tree.sweep(0)
    assert not published.folder.exists()
    assert {path: (images / path).read_bytes() for path in foreign} == foreign
    assert (tree.root / "robots.txt").exists()


def test_a_version_is_higher_than_what_others_put_there(tree: Tree) -> None:
    (tree.root / "images/web/x86_64/20990101_0000").mkdir(parents=True)
    assert publish(tree).key == "20990101_0001"


@pytest.mark.parametrize("place", ["copy/x86_64", "web/aarch64"])
def test_a_copy_in_another_place_is_not_taken_for_a_version(tree: Tree, place: str) -> None:
    published = publish(tree)
    shutil.copytree(published.folder, tree.root / "images" / place / published.key)
    assert tree.versions() == [published]


@pytest.mark.parametrize(
    "damage",
    [
        {"arch": "z80"},
        {"fingerprint": "short"},
        {"files": {}},
        {"files": {METADATA_FILE: {"size": "x", "sha256": ""}, ROOTFS_FILE: {"size": 1, "sha256": ""}}},
        {"aliases": None},
        {"provenance": None},
        {"provenance": {"lxdocker.name": 3}},
    ],
    ids=str,
)
def test_a_sidecar_that_says_nothing_sensible_is_no_version(tree: Tree, damage: dict[str, Any]) -> None:
    published = publish(tree)
    sidecar = published.folder / SIDECAR
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_bytes()), **damage}))
    assert tree.versions() == []
    tree.write_index()
    assert products(tree) == {}


# ---- one at a time

HOLD = """
import sys, threading, time
from pathlib import Path
from lxdocker.publish import Tree
tree = Tree(Path(sys.argv[1]))
with tree.lock(lambda text: print(text, flush=True), threading.Event()):
    with tree.staging(__import__("lxdocker.values").values.ImageName("work")) as folder:
        print("locked", flush=True)
        sys.stdin.readline()
"""


@contextlib.contextmanager
def another_process(tree: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tree)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_from(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def test_a_second_process_waits_and_says_so(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    with another_process(root) as first:
        assert line_from(first) == "locked"
        with another_process(root) as second:
            assert line_from(second) == f"another lxdocker is at work on {root}; waiting for it"
            assert first.stdin is not None
            print(file=first.stdin, flush=True)
            assert line_from(second) == "locked"


def test_a_killed_process_holds_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    with another_process(root) as process:
        assert line_from(process) == "locked"
        assert [path.name.split(".")[0] for path in (root / ".staging").iterdir()] == ["work"]
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with locked(Tree(root)):
        assert list((root / ".staging").iterdir()) == []


def test_waiting_ends_when_the_user_has_had_enough(tmp_path: Path) -> None:
    cancelled = threading.Event()
    with another_process(tmp_path) as process:
        assert line_from(process) == "locked"
        threading.Timer(0.1, cancelled.set).start()
        with (
            pytest.raises(TreeError, match="interrupted while waiting"),
            Tree(tmp_path).lock(lambda _: None, cancelled),
        ):
            raise AssertionError("two processes hold the lock")


def test_threads_of_one_process_may_publish_side_by_side(tree: Tree) -> None:
    threads = [
        threading.Thread(target=publish, args=(tree, provenance(spec(f"n{n % 3}")), f"content {n}")) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(product["versions"]) for product in products(tree).values()] == [4, 4, 4]
    assert len(assert_sound(tree.root)) == 12


# ---- readers at work all the while


def test_clients_find_a_sound_tree_at_every_moment(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    grace = 5.0
    publish(tree, content="first")
    faults: list[BaseException] = []
    looks = 0
    stop = threading.Event()

    def look() -> None:
        nonlocal looks
        while not stop.is_set():
            try:
                assert assert_sound(tree.root, time.monotonic() + grace)
            except BaseException as error:
                faults.append(error)
                return
            looks += 1

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(15):
            published = publish(tree, content=f"number {number}", size=20_000)
            tree.update(published, provenance(at=resolved(source=str(number))), (f"alias-{number}",))
            for one in tree.retire(2):
                set_back(one, 2)  # faster than life; the reader still has 3 s
            tree.sweep(grace)
            other = publish(tree, provenance(spec("other")), f"other {number}")
            tree.withdraw([other])
    finally:
        stop.set()
        reader.join()
    assert faults == []
    assert looks > 10


# ---- killed between any two steps

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
    tree.retire(1)


def _sweep(tree: Tree) -> None:
    tree.sweep(0)


def _rollback(tree: Tree) -> None:
    oldest = next(one for one in tree.versions() if one.name.value == "web")  # which is withdrawn
    tree.rollback(oldest.name, oldest.key)


def _undo_rollback(tree: Tree) -> None:
    with contextlib.suppress(UsageError):  # it had been, but for the index
        tree.undo_rollback(ImageName("web"))


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
    ],
    ids=lambda function: function.__name__.strip("_"),
)
def test_killed_at_any_step_clients_find_a_sound_tree_and_the_next_run_heals_it(
    tmp_path: Path, prepare: Callable[[Path], Path], change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it is us who is killed here, not the machine
    before = prepare(tmp_path / "before")
    whole = shutil.copytree(before, tmp_path / "whole")
    with locked(Tree(whole)) as tree:
        change(tree)
        wanted = _settled(tree)
    expected_names = names_below(whole)
    steps = 0
    while True:
        root = shutil.copytree(before, tmp_path / f"killed at {steps}")
        survived = in_child(partial(_change_until, root, change, steps))
        assert_sound(root)
        with locked(Tree(root)) as tree:
            assert list((root / ".staging").iterdir()) == []
            # What the next run does: it sees what is missing and does that again.
            if _settled(tree) != wanted:
                change(tree)
            if change is _sweep:
                tree.sweep(0)
            assert _settled(tree) == wanted
            assert_sound(root)
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


# ---- a disk that refuses


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small tmpfs with these options."""
    points: list[Path] = []

    def mount(options: str) -> Path:
        point = tmp_path / f"disk{len(points)}"
        point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True)
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


@needs_root
def test_a_full_disk_is_named_as_that_and_harms_nothing(mounted: Callable[..., Path]) -> None:
    root = mounted("size=256k")
    with locked(Tree(root)) as tree:
        first = publish(tree, content="small")
        with pytest.raises(TreeError) as caught:
            publish(tree, content="large", size=1_000_000)
        assert caught.value.brief == f"writing to the tree {root} failed"
        assert "No space left on device" in caught.value.details
        assert caught.value.resolution == "free space on that filesystem, then run the same command again"
        assert list((root / ".staging").iterdir()) == []
        assert assert_sound(root) == {first.fingerprint.value}
        # Not even for the index there is room.
        other = publish(tree, provenance(spec("other")), "other")
        (root / "ballast").write_bytes(b"x" * free(root))
        before = assert_sound(root)
        with pytest.raises(TreeError, match="writing the index of"):
            tree.withdraw([other])
        with pytest.raises(TreeError, match="No space left on device"):
            tree.write_index()
        assert assert_sound(root) == before
        (root / "ballast").unlink()
        tree.write_index()
        assert assert_sound(root) == {first.fingerprint.value}


def free(root: Path) -> int:
    """Bytes, in whole pages."""
    status = os.statvfs(root)
    return status.f_bfree * status.f_frsize


@needs_root
def test_a_readonly_disk_is_named_as_that(mounted: Callable[..., Path]) -> None:
    root = mounted("ro")
    with pytest.raises(TreeError) as caught, locked(Tree(root)):
        raise AssertionError("it was written to")
    assert caught.value.brief == f"preparing the tree {root} failed"
    assert "Read-only file system" in caught.value.details
    assert caught.value.resolution == ("run as a user who may write there, or choose another folder with --tree DIR")


@needs_root
def test_another_users_folder_is_named_as_that(tmp_path: Path) -> None:
    def work() -> tuple[str, str]:
        with pytest.raises(TreeError) as caught, locked(Tree(tmp_path / "tree")):
            raise AssertionError("it was written to")
        return caught.value.details, caught.value.resolution

    details, resolution = in_child(work, uid=NOBODY)
    assert "Permission denied" in details
    assert resolution.startswith("run as a user who may write there")


@pytest.mark.parametrize("obstacle", ["file", "dangling link"])
def test_something_else_in_the_tree_s_place(tmp_path: Path, obstacle: str) -> None:
    root = tmp_path / "tree"
    root.write_text("") if obstacle == "file" else root.symlink_to("nowhere")
    with pytest.raises(TreeError) as caught, locked(Tree(root)):
        raise AssertionError("there is no such folder")
    assert caught.value.resolution == "choose another folder with --tree DIR"


def test_the_tree_may_be_a_link_and_its_parents_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    with locked(Tree(tmp_path / "link/a/b")) as tree:
        published = publish(tree)
    assert assert_sound(tmp_path / "real/a/b") == {published.fingerprint.value}
