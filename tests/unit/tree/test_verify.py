"""`publish verify` on real trees: what it finds, what it mends, and what it leaves alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lxdocker.errors import TreeError
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE
from lxdocker.progress import Progress
from lxdocker.tree import retention, rollback
from lxdocker.tree import verify as module
from lxdocker.tree.simplestreams import IMAGES_PATH, INDEX_PATH
from lxdocker.tree.tree import Tree
from lxdocker.tree.verify import Verified, verify
from lxdocker.tree.version import SIDECAR, WITHHELD, Delta, Published
from lxdocker.values import ImageName
from tests.examples import make_artifact, provenance, publish, resolved, spec
from tests.forked import NOBODY, in_child

NEVER = threading.Event()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Two versions of one image, one of another, one withdrawn."""
    made = Tree(tmp_path / "tree")
    with made.lock(print, NEVER):
        for number in range(3):
            publish(made, provenance(at=resolved(str(number))), f"web {number}")
        publish(made, provenance(spec("other")), "other")
        retention.retire(made, 2)
    return made


def look(tree: Tree, *, deep: bool = False, repair: bool = False) -> Verified:
    return verify(tree, deep=deep, repair=repair, jobs=2, progress=Progress(), say=print, cancelled=NEVER)


def said(found: Verified) -> dict[str, str]:
    """Path -> problem, with version keys left out."""
    return {
        "/".join(part for part in one.path.split("/") if not part[:8].isdigit()): one.problem for one in found.findings
    }


def newest(tree: Tree, name: str = "web") -> Published:
    return [one for one in tree.versions() if one.name.value == name and one.withdrawn is None][-1]


def keys(tree: Tree) -> set[str]:
    products = json.loads((tree.root / IMAGES_PATH).read_bytes())["products"]
    return {key for product in products.values() for key in product["versions"]}


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("deep", [False, True])
def test_a_tree_as_published_is_clean_and_looking_changes_nothing(tree: Tree, deep: bool) -> None:
    before = contents(tree.root)
    found = look(tree, deep=deep)
    assert found.clean
    assert found.findings == ()
    assert found.versions == 3
    assert found.size == 3 * 1000 + 2 * len("metadata of web 0") + len("metadata of other")
    assert contents(tree.root) == before


def test_an_empty_tree_is_clean_and_none_is_an_error(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree")
    with pytest.raises(TreeError, match="No such file"):
        look(tree)
    with tree.lock(print, NEVER):
        tree.write_index()
    assert look(tree).clean


def change_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_link(path: Path) -> None:
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent / "elsewhere")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Published], object], str, str]] = {
    "rootfs gone": (lambda one: (one.folder / ROOTFS_FILE).unlink(), ROOTFS_FILE, "is missing"),
    "metadata gone": (lambda one: (one.folder / METADATA_FILE).unlink(), METADATA_FILE, "is missing"),
    "cut short": (lambda one: os.truncate(one.folder / ROOTFS_FILE, 7), ROOTFS_FILE, "has 7 bytes instead of 1000"),
    "a link": (lambda one: replace_by_link(one.folder / ROOTFS_FILE), ROOTFS_FILE, "is not a regular file"),
    "a folder": (
        lambda one: replace_by_folder(one.folder / METADATA_FILE),
        METADATA_FILE,
        "is not a regular file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_version_is_found_and_withdrawn(
    tree: Tree, damage: tuple[Callable[[Published], object], str, str]
) -> None:
    harm, file, problem = damage
    victim = newest(tree)
    harm(victim)
    found = look(tree)
    assert not found.clean
    path = (victim.folder / file).relative_to(tree.root).as_posix()
    assert problem in next(one.problem for one in found.findings if one.path == path)
    assert victim.key in keys(tree)
    mended = look(tree, repair=True)
    assert "withdrawn" in next(one.repaired for one in mended.findings if one.path == path)
    assert victim.key not in keys(tree) - {newest(tree, "other").key}
    assert [one for one in look(tree, deep=True).findings if one.path != "images/web/elsewhere"] == []


@pytest.mark.parametrize("repair", [False, True])
def test_a_damaged_version_is_named_once(tree: Tree, repair: bool) -> None:
    """What has the wrong size is not read as well."""
    victim = newest(tree)
    (victim.folder / ROOTFS_FILE).write_bytes(b"short")
    found = look(tree, deep=True, repair=repair)
    assert [one.problem for one in found.findings if one.version] == ["has 5 bytes instead of 1000"]


def test_a_tree_is_clean_only_if_everything_was_repaired(tree: Tree) -> None:
    (newest(tree).folder / ROOTFS_FILE).unlink()
    (tree.root / "images/mine").write_bytes(b"x")
    mended = look(tree, repair=True)
    assert [one.path for one in mended.findings if not one.repaired] == ["images/mine"]
    assert not mended.clean


@pytest.mark.parametrize("file", [ROOTFS_FILE, METADATA_FILE])
def test_only_reading_finds_what_kept_its_size(tree: Tree, file: str) -> None:
    victim = newest(tree)
    change_byte(victim.folder / file)
    assert look(tree).clean
    assert said(look(tree, deep=True)) == {f"images/web/x86_64/{file}": "does not have the published hash"}
    assert look(tree, deep=True, repair=True).clean
    assert newest(tree).key < victim.key
    assert look(tree, deep=True).findings == ()
    # What sync then does: it has the image in the store, and publishes it again.
    with tree.lock(print, NEVER), tree.staging(victim.name) as folder:
        made = tree.publish(make_artifact(folder, "web 2"), victim.provenance, victim.arch, ())
    assert made.fingerprint == victim.fingerprint
    assert look(tree, deep=True).clean


def test_files_that_do_not_make_the_fingerprint(tree: Tree) -> None:
    victim = newest(tree)
    document = json.loads((victim.folder / SIDECAR).read_bytes())
    (victim.folder / SIDECAR).write_text(json.dumps({**document, "fingerprint": "0" * 64}))
    with tree.lock(print, NEVER):
        tree.write_index()
    assert look(tree).clean
    problem = "has a fingerprint that does not match the files"
    assert said(look(tree, deep=True)) == {f"images/web/x86_64/{SIDECAR}": problem}


# ---- the index


INDEX_DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "not JSON": lambda path: path.write_bytes(b"{"),
    "another's": lambda path: path.write_bytes(b"[1]"),
    "too deep": lambda path: path.write_bytes(b"[" * 100_000),
    "behind": lambda path: path.write_bytes(b'{"products": {}}'),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGES.values(), ids=INDEX_DAMAGES.keys())
@pytest.mark.parametrize("path", [INDEX_PATH, IMAGES_PATH])
def test_the_index_is_rebuilt_from_the_tree_alone(tree: Tree, path: str, damage: Callable[[Path], object]) -> None:
    before = keys(tree)
    damage(tree.root / path)
    (finding,) = look(tree).findings
    assert finding.path == path
    assert look(tree, repair=True).clean
    assert keys(tree) == before
    assert look(tree).findings == ()


def test_all_of_the_index_and_the_page_are_rebuilt(tree: Tree) -> None:
    before = keys(tree)
    shutil.rmtree(tree.root / "streams")
    (tree.root / "index.html").unlink()
    assert said(look(tree)) == {INDEX_PATH: "is missing", IMAGES_PATH: "is missing"}
    assert look(tree, repair=True).clean
    assert keys(tree) == before
    assert (tree.root / "index.html").exists()


def test_a_withdrawal_that_was_cut_short_is_finished(tree: Tree) -> None:
    (newest(tree).folder / "withdrawn").touch()
    assert said(look(tree)) == {IMAGES_PATH: "does not match the tree"}
    assert look(tree, repair=True).clean
    assert look(tree).findings == ()


# ---- what does not belong there


def test_strays_are_named_once_and_left_alone(tree: Tree) -> None:
    victim = newest(tree)
    strays = {
        "images/notes.txt": "contains no version of an image",
        "images/debian": "contains no version of an image",
        "images/web/arm": "contains no version of an image",
        "images/web/x86_64/notes.txt": "belongs to no version",
        "images/web/x86_64/20300101_0000": f"has no readable {SIDECAR}",
        f"images/web/x86_64/{victim.key}/core": "belongs to no version",
        "streams/v2": "is not part of the index",
        "streams/v1/images.json.old": "is not part of the index",
    }
    for path in strays:
        folder = tree.root / path
        if "." not in path and not path.endswith("core"):
            folder.mkdir()
            folder = folder / "lxd.tar.xz"
        folder.write_bytes(b"x")
    for known in ("robots.txt", ".well-known", "favicon.ico"):
        (tree.root / known).write_bytes(b"for the web server")
    (tree.root / "images/web/empty/folder").mkdir(parents=True)
    found = look(tree)
    assert {one.path: one.problem for one in found.findings} == strays
    before = contents(tree.root)
    mended = look(tree, repair=True)
    assert not mended.clean
    assert {one.path for one in mended.findings} == set(strays)
    assert contents(tree.root) == before


def test_what_is_withheld_is_known(tree: Tree) -> None:
    with tree.lock(print, NEVER):
        rollback.roll_back(tree, ImageName("web"))
    assert look(tree, deep=True).findings == ()
    (tree.root / "images/web/x86_64" / WITHHELD).write_bytes(b"{")
    with tree.lock(print, NEVER):
        tree.write_index()
    assert said(look(tree)) == {f"images/web/x86_64/{WITHHELD}": "is not a list of rolled-back versions"}


# ---- deltas


@pytest.fixture
def with_delta(tree: Tree) -> Published:
    base = newest(tree)
    content = b"a delta, as far as verify is concerned"
    delta = Delta(base.key, len(content), hashlib.sha256(content).hexdigest())
    with tree.lock(print, NEVER), tree.staging(base.name) as folder:
        (folder / "delta").write_bytes(content)
        artifact = make_artifact(folder, "new")
        return tree.publish(artifact, base.provenance, base.arch, (), deltas={delta: folder / "delta"})


def listed_deltas(tree: Tree) -> list[str]:
    product = json.loads((tree.root / IMAGES_PATH).read_bytes())["products"]["web:current:default:amd64"]
    items = [item for version in product["versions"].values() for item in version["items"].values()]
    return [item["delta_base"] for item in items if item["ftype"] == "squashfs.vcdiff"]


@pytest.mark.parametrize("deep", [False, True], ids=["size", "hash"])
def test_a_damaged_delta_goes_and_its_version_stays(tree: Tree, with_delta: Published, deep: bool) -> None:
    (delta,) = with_delta.deltas
    assert listed_deltas(tree) == [delta.base]
    assert look(tree, deep=True).findings == ()
    path = with_delta.folder / delta.file
    change_byte(path) if deep else path.write_bytes(b"")
    (finding,) = [one for one in look(tree, deep=deep).findings if one.delta]
    assert finding.path == path.relative_to(tree.root).as_posix()
    assert look(tree, deep=deep, repair=True).clean
    assert not path.exists()
    assert newest(tree).key == with_delta.key
    assert listed_deltas(tree) == []
    assert look(tree, deep=True).findings == ()


def test_two_damaged_deltas_go_together(tree: Tree) -> None:
    bases = [version for version in tree.versions() if version.name.value == "web" and version.withdrawn is None]
    deltas = {Delta(base.key, 5, hashlib.sha256(b"delta").hexdigest()): base for base in bases}
    with tree.lock(print, NEVER), tree.staging(bases[0].name) as folder:
        (folder / "delta").write_bytes(b"delta")
        artifact = make_artifact(folder, "new")
        paths = dict.fromkeys(deltas, folder / "delta")
        version = tree.publish(artifact, bases[0].provenance, bases[0].arch, (), deltas=paths)
    for delta in deltas:
        (version.folder / delta.file).unlink()
        (version.folder / delta.file).write_bytes(b"")
    assert len(look(tree).findings) == 3  # the index lists neither
    assert look(tree, repair=True).clean
    assert newest(tree).deltas == ()
    assert look(tree, deep=True).findings == ()


def test_a_delta_goes_with_its_base(tree: Tree, with_delta: Published) -> None:
    (delta,) = with_delta.deltas
    with tree.lock(print, NEVER):
        retention.retire(tree, 1)
        assert listed_deltas(tree) == []
        assert look_inside(tree) == []
        retention.sweep(tree, 60)
        assert (with_delta.folder / delta.file).exists()  # clients may be fetching it
        retention.sweep(tree, 0)
        assert not (with_delta.folder / delta.file).exists()
        assert newest(tree).deltas == ()
    assert look(tree, deep=True).findings == ()


def test_a_delta_that_a_killed_sweep_was_about_to_forget_is_no_fault(tree: Tree, with_delta: Published) -> None:
    """Its base is gone and so is its file, but the record has it still."""
    (delta,) = with_delta.deltas
    shutil.rmtree(with_delta.folder.parent / delta.base)
    (with_delta.folder / delta.file).unlink()
    with tree.lock(print, NEVER):
        tree.write_index()
    assert newest(tree).deltas == (delta,)
    assert look(tree, deep=True).findings == ()


def look_inside(tree: Tree) -> list[str]:
    """Findings, for whoever holds the lock."""
    return [one.path for one in module._look(tree)[1]]


# ---- others


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_anybody_who_can_read_the_tree_can_verify_it(tree: Tree, tmp_path: Path) -> None:
    for folder in tmp_path, *tmp_path.parents:
        if folder.stat().st_uid == 0 and folder != Path("/") and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
    assert in_child(lambda: look(tree, deep=True).clean, uid=NOBODY)


def test_a_copy_without_a_lock_can_be_verified(tree: Tree) -> None:
    (tree.root / ".lock").unlink()
    assert look(tree, deep=True).clean
    assert not (tree.root / ".lock").exists()


def test_whoever_publishes_is_waited_for(tree: Tree) -> None:
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    heard: list[str] = []
    with tree.lock(print, NEVER), pytest.raises(TreeError, match="interrupted"):
        verify(tree, deep=False, repair=False, jobs=1, progress=Progress(), say=heard.append, cancelled=cancelled)
    assert heard == [f"waiting: another lxdocker is using {tree.root} (process {os.getpid()})"]


def test_what_is_deleted_while_being_read_is_no_fault(tree: Tree) -> None:
    class Deleting(Progress):
        def phase(self, name: ImageName, phase: str, total: int | None = None) -> None:
            shutil.rmtree(tree.root / "images" / name.value, ignore_errors=True)

    found = verify(tree, deep=True, repair=False, jobs=1, progress=Deleting(), say=print, cancelled=NEVER)
    assert found.findings == ()


class Counting(Progress):
    """Adds up what is told of each image."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.totals: dict[str, list[int | None]] = {}
        self.read: dict[str, int] = {}
        self.outcomes: list[tuple[str, str]] = []

    def phase(self, name: ImageName, phase: str, total: int | None = None) -> None:
        self.totals.setdefault(name.value, []).append(total)

    def count(self, name: ImageName, amount: int) -> None:
        with self.lock:
            self.read[name.value] = self.read.get(name.value, 0) + amount

    def done(self, name: ImageName, outcome: str) -> None:
        self.outcomes.append((name.value, outcome))


def test_the_counters_count_what_is_read(tree: Tree) -> None:
    """Also if the versions of an image are read at the same time, and not what nobody reads."""
    version = newest(tree)
    with tree.lock(print, NEVER):
        lost = Delta("20200101_0000", 1234, "0" * 64)  # its base is gone, so clients do not see it
        tree.publish(make_artifact(tree.root / ".staging/a", "more"), version.provenance, version.arch, (), deltas={})
    newest_sidecar = newest(tree).folder / SIDECAR
    document = json.loads(newest_sidecar.read_text())
    document["deltas"] = {lost.base: {"size": lost.size, "sha256": lost.sha256}}
    newest_sidecar.write_text(json.dumps(document))
    damaged = version.folder / ROOTFS_FILE
    damaged.write_bytes(bytes(damaged.stat().st_size))
    progress = Counting()
    found = verify(tree, deep=True, repair=False, jobs=3, progress=progress, say=print, cancelled=NEVER)
    assert {name: [amount] for name, amount in progress.read.items()} == progress.totals
    assert found.read == sum(progress.read.values()) > 0
    assert sorted(progress.outcomes) == [("other", "verified"), ("web", "damaged")]
    assert look(tree).read == 0


# ---- the commands


def run(*command: str, expect: int = 0) -> tuple[str, str]:
    """Runs lxdocker without any of its settings; returns what it printed and what it said."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LXDOCKER_")}
    done = subprocess.run(
        [sys.executable, "-m", "lxdocker", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**environment, "HOME": "/nonexistent"},
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_the_exit_status_says_whether_all_is_well(tree: Tree) -> None:
    root = str(tree.root)
    out, _ = run("publish", "verify", "--deep", "--tree", root)
    assert out == f"{root}: 3 versions, 3.1 kB read: OK\n"
    victim = newest(tree)
    change_byte(victim.folder / ROOTFS_FILE)
    path = (victim.folder / ROOTFS_FILE).relative_to(tree.root)
    out, _ = run("publish", "verify", "--deep", "--tree", root, expect=1)
    assert out.splitlines() == [
        f"{path}: does not have the published hash",
        f"to withdraw damaged versions and rewrite the index: lxdocker publish verify --tree {root} --repair",
        f"{root}: 3 versions, 3.1 kB read: 1 problem",
    ]
    out, _ = run("publish", "verify", "--deep", "--repair", "--json", "--tree", root)
    document = json.loads(out)
    assert document["clean"]
    (finding,) = document["findings"]
    assert (finding["kind"], finding["path"]) == ("damaged", str(path))
    assert "withdrawn" in finding["repaired"]
    (tree.root / "images/mine").write_bytes(b"x")
    out, _ = run("publish", "verify", "--tree", root, expect=1)
    assert "lxdocker leaves unknown files alone" in out
    document = json.loads(run("publish", "verify", "--json", "--tree", f"{root}/none", expect=1)[0])
    assert "No such file" in document["error"]["why"]


def test_a_rollback_says_what_clients_get(tree: Tree) -> None:
    root = str(tree.root)
    current = newest(tree)
    before = next(one for one in tree.versions() if one.name == current.name and one.withdrawn is None)
    out, _ = run("publish", "rollback", "web", "--tree", root)
    assert out.splitlines() == [
        f"web for x86_64 is now {before.key} ({before.fingerprint.short}) instead of {current.key}",
        f"the next sync updates the local LXD; to undo: lxdocker publish rollback --tree {root} web --undo",
    ]
    assert json.loads(run("publish", "rollback", "web", "--undo", "--json", "--tree", root)[0]) == {
        "schema": 1,
        "undone": [current.key],
        "published": [current.key],
    }
    document = json.loads(run("publish", "rollback", "web", before.key, "--json", "--tree", root)[0])
    assert document["rolled_back"] == [
        {
            "name": "web",
            "architecture": "x86_64",
            "version": before.key,
            "fingerprint": before.fingerprint.value,
            "withheld": [current.key],
        }
    ]
    with tree.lock(print, NEVER):
        retention.sweep(tree, 0)
    out, _ = run("publish", "rollback", "web", "--undo", "--tree", root)
    assert out == f"web {current.key} for x86_64 is gone; the next sync rebuilds it if it is still wanted\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "no image none in the tree"),
        (["a/b"], "can't be an image name"),
        (["web", "20200101_0000"], "no version 20200101_0000"),
        (["web", "x", "--undo"], "--undo takes no version"),
        (["web", "--undo"], "web is not rolled back"),
        (["other"], "no older version"),
    ],
)
def test_a_rollback_that_can_not_be_changes_nothing(tree: Tree, arguments: list[str], words: str) -> None:
    before = contents(tree.root)
    _, said = run("publish", "rollback", *arguments, "--tree", str(tree.root), expect=2)
    assert words in said
    assert contents(tree.root) == before
