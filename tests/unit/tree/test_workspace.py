"""Who may write in the tree, where, and who waits for whom."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxdocker.errors import TreeError
from lxdocker.files import holder
from lxdocker.tree import retention, rollback
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import WITHDRAWN
from lxdocker.values import ImageName
from tests.examples import provenance, publish, spec
from tests.forked import NOBODY, in_child
from tests.trees import (
    NEVER,
    assert_sound,
    contents,
    locked,
    of_image,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem or becomes another user")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o000], ids=oct)
def test_everybody_may_read_and_nobody_else_may_write(tmp_path: Path, umask: int) -> None:
    top = tmp_path / "var"
    before = os.umask(umask)
    try:
        tree = Tree(top / "lib/tree")
        with tree.session("key", print, NEVER):
            first, second = publish(tree, of_image(0), size=10), publish(tree, of_image(1), size=10)
            with tree.staging(ImageName("web")) as folder:
                assert (tree.root / ".staging").stat().st_mode & 0o777 == 0o700
                assert folder.stat().st_mode & 0o777 == 0o700
            tree.update(second, second.provenance, ("www",))
            tree.withdraw([first])
            rollback.roll_back(tree, ImageName("web"), first.key)
    finally:
        os.umask(before)
    served = [path for path in top.rglob("*") if not path.is_relative_to(tree.root / ".staging")]
    modes = {path: path.stat().st_mode & 0o777 for path in [top, *served] if path.name != ".lock.key"}
    assert len(modes) > 16
    for path, mode in modes.items():
        assert mode == (0o755 if path.is_dir() else 0o644), path


def write_everything(tree: Tree) -> None:
    """Publishes over what is there, and changes it in every way."""
    with tree.session("key", print, NEVER):
        published = publish(tree, of_image(7), "new")
        tree.update(published, published.provenance, ("www",))
        tree.withdraw([one for one in tree.versions() if one.key != published.key])
        retention.sweep(tree, 0)


@pytest.mark.parametrize(
    "place", [".staging", "streams", "streams/v1", "images", "images/web", "images/web/x86_64", ".lock", ".lock.key"]
)
def test_nothing_is_written_through_a_link(tmp_path: Path, place: str) -> None:
    tree = Tree(tmp_path / "tree")
    with locked(tree):
        publish(tree)
    outside = tmp_path / "outside"
    planted = tree.root / place
    if planted.is_dir():
        planted.rename(outside)
    else:
        outside.write_text("precious")
        planted.unlink(missing_ok=True)
    planted.symlink_to(outside)
    before = contents(outside)
    with pytest.raises(TreeError) as caught:
        write_everything(tree)
    assert str(planted) in caught.value.details
    assert "it is a link" in caught.value.details
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["index.html", "streams/v1/index.json", "streams/v1/images.json"])
def test_a_link_in_a_file_s_place_is_replaced_and_not_followed(tree: Tree, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    outside.chmod(0o600)
    first = publish(tree)
    (tree.root / name).unlink()
    (tree.root / name).symlink_to(outside)
    second = publish(tree, content="2")
    assert contents(outside) == {str(outside): (0o100600, b"precious")}
    assert not (tree.root / name).is_symlink()
    assert assert_sound(tree.root) == {first.fingerprint.value, second.fingerprint.value}


def test_a_mark_is_not_made_through_a_link(tree: Tree, tmp_path: Path) -> None:
    published = publish(tree)
    outside = tmp_path / "outside"
    (published.folder / WITHDRAWN).symlink_to(outside)
    with pytest.raises(TreeError):
        tree.withdraw([published])
    assert not outside.exists()


@needs_root
@pytest.mark.parametrize("place", [".", ".staging", "streams/v1", "images/web", "images/web/x86_64"])
@pytest.mark.parametrize("whose", ["everybody", "a group", "another user"])
def test_nothing_is_written_where_others_may_write(tmp_path: Path, place: str, whose: str) -> None:
    tree = Tree(tmp_path / "tree")
    with locked(tree):
        publish(tree)
    folder = tree.root / place
    if whose == "another user":
        os.chown(folder, NOBODY, 0)
    else:
        os.chown(folder, 0, 0 if whose == "everybody" else 12345)
        folder.chmod(0o777 if whose == "everybody" else 0o775)
    before = contents(tree.root)
    with pytest.raises(TreeError) as caught:
        write_everything(tree)
    assert caught.value.brief == f"the tree {tree.root} is not safe to write in"
    assert str(folder) in caught.value.details
    assert "choose another folder" in caught.value.resolution
    after = contents(tree.root)
    assert {path: one for path, one in before.items() if after.get(path) != one and "/.staging" not in path} == {}


@needs_root
def test_a_folder_above_the_tree_counts_too(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(TreeError, match="everybody may write in it"), locked(Tree(shared / "tree")):
        raise AssertionError("it was written to")
    assert list(shared.iterdir()) == []
    shared.chmod(0o1777)  # as /tmp: nobody can put something else in the place of what is ours
    with locked(Tree(shared / "tree")):
        pass
    os.chown(shared / "tree", NOBODY, NOBODY)
    with pytest.raises(TreeError, match="nobody"), locked(Tree(shared / "tree")):
        raise AssertionError("it was written to")
    (shared / "link").symlink_to(tmp_path / "elsewhere")
    os.lchown(shared / "link", NOBODY, NOBODY)
    with pytest.raises(TreeError, match="nobody"), locked(Tree(shared / "link")):
        raise AssertionError("it was written to")
    assert not (tmp_path / "elsewhere").exists()


def test_a_users_own_group_may_write(tmp_path: Path) -> None:
    """As with the umask of 002 that some systems give: nobody else is in that group."""
    (tmp_path / "tree").mkdir(mode=0o700)
    (tmp_path / "tree").chmod(0o775)
    os.chown(tmp_path / "tree", -1, pwd.getpwuid(os.geteuid()).pw_gid)
    with locked(Tree(tmp_path / "tree")) as tree:
        publish(tree)


HOLD = """
import sys, threading, time
from pathlib import Path
from lxdocker.tree.tree import Tree
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
            assert line_from(second) == f"waiting: another lxdocker is using {root} (process {first.pid})"
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
    assert (root / ".lock.holder").exists()
    with locked(Tree(root)):
        assert list((root / ".staging").iterdir()) == []
    assert not (root / ".lock.holder").exists()


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


@needs_root
def test_a_full_disk_is_named_as_that_and_harms_nothing(mounted: Callable[..., Path]) -> None:
    root = mounted("size=256k,mode=755")
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
    root = mounted("ro,mode=755")
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


def test_a_tree_that_is_not_there_yet_comes_with_a_sync(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    with pytest.raises(TreeError) as caught, Tree(root).explained("reading"):
        list(root.iterdir())
    assert caught.value.resolution.startswith("the first sync creates it")


def test_no_sync_creates_a_tree_where_there_can_be_no_folder() -> None:
    with pytest.raises(TreeError) as caught, locked(Tree(Path("/proc/x"))):
        raise AssertionError("there is such a folder")
    assert caught.value.details == "/proc/x: No such file or directory"
    assert caught.value.resolution == "the folder cannot be created there: choose another one with --tree DIR"


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


# ---- runs that only change the tree now and then


def test_runs_of_one_folder_wait_for_each_other_and_others_do_not(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    said: list[str] = []
    with Tree(tmp_path).session("key", print, NEVER):
        with Tree(tmp_path).session("another", said.append, stopped):
            assert said == []
        with (
            pytest.raises(TreeError, match="interrupted while waiting"),
            Tree(tmp_path).session("key", said.append, stopped),
        ):
            raise AssertionError("two runs of one folder")
    assert said == [f"waiting: another lxdocker is using {tmp_path} (process {os.getpid()})"]


def test_the_work_of_a_living_run_stays_and_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    with Tree(tmp_path).session("key", print, NEVER):
        (living,) = (tmp_path / ".staging").iterdir()
        (living / "work").write_text("precious")
        (tmp_path / ".staging/run.killed").mkdir()
        (tmp_path / ".staging/file").write_text("left")
        (tmp_path / ".staging/link").symlink_to(tmp_path)
        with Tree(tmp_path).lock(print, NEVER):
            assert list((tmp_path / ".staging").iterdir()) == [living]
        assert (living / "work").read_text() == "precious"
    assert list((tmp_path / ".staging").iterdir()) == []


def test_the_work_of_another_host_s_run_stays_where_its_life_can_not_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = tmp_path / ".staging"
    theirs, old = staging / "run.0123abcd.work", staging / "run.0123abcd.old"
    ours = staging / f"run.{holder.host_id()}.work"
    for network in (True, False):
        monkeypatch.setattr(holder, "reaches_all", lambda _, folder=False, network=network: not (network and folder))
        for left in (theirs, old, ours):
            left.mkdir(parents=True, exist_ok=True)
        a_week_ago = time.time() - 7 * 86400
        os.utime(old, (a_week_ago, a_week_ago))
        with locked(Tree(tmp_path)):
            assert list(staging.iterdir()) == ([theirs] if network else [])


def test_a_filesystem_without_locks_is_named_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(TreeError, match="locking the tree") as caught, locked(Tree(tmp_path)):
        raise AssertionError("it was locked")
    assert "No locks available" in caught.value.details
    assert "NFS 4" in caught.value.resolution


def test_the_staging_area_is_private_whatever_it_was(tmp_path: Path) -> None:
    (tmp_path / ".staging").mkdir()
    (tmp_path / ".staging").chmod(0o755)
    with locked(Tree(tmp_path)):
        assert (tmp_path / ".staging").stat().st_mode & 0o777 == 0o700


def test_readers_do_not_wait_for_readers(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with locked(Tree(tmp_path)):
        pass
    with (
        Tree(tmp_path).reading(print, NEVER),
        Tree(tmp_path).reading(print, stopped),
        pytest.raises(TreeError, match="interrupted"),
        Tree(tmp_path).lock(print, stopped),
    ):
        raise AssertionError("it is being read")


def test_nothing_is_written_without_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="only under its lock"), Tree(tmp_path).staging(ImageName("web")):
        raise AssertionError("a folder without a lock")
