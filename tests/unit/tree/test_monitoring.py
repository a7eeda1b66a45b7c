"""The result of the last sync survives whatever happens, and both servers of figures tell the same of it."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path

import pytest

from lxdocker import __version__
from lxdocker.errors import MirrorError
from lxdocker.tree import figures, last_sync
from lxdocker.tree.last_sync import LastSync
from lxdocker.tree.tree import Tree
from tests.examples import publish
from tests.forked import NOBODY, die, in_child

A, B = "a" * 16, "b" * 16


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir(mode=0o755)
    return made


def failed(*names: str, at: float = 1.8e9) -> LastSync:
    return LastSync(at, 2.5, 1, frozenset(names))


def test_what_was_recorded_can_be_read(root: Path) -> None:
    assert last_sync.read(root, A) is None
    last_sync.record(root, A, failed("db", "web"))
    found = last_sync.read(root, A)
    assert found is not None
    assert (found.finished, found.seconds, found.exit, found.failed) == (1.8e9, 2.5, 1, frozenset({"db", "web"}))
    assert not found.succeeded
    path = root / f".sync.{A}.json"
    assert path.stat().st_mode & 0o777 == 0o644  # the server may be another user's
    assert [entry.name for entry in root.iterdir()] == [path.name]


def test_a_sync_of_some_images_says_nothing_about_the_others(root: Path) -> None:
    last_sync.record(root, A, failed("db", "web"))
    last_sync.record(root, A, LastSync(1.9e9, 1, 0), ["web", "good"])
    assert last_sync.read_all(root)[A].failed == {"db"}
    last_sync.record(root, A, LastSync(1.9e9, 1, 2), [])  # it failed as a whole
    assert last_sync.read_all(root)[A].failed == {"db"}
    last_sync.record(root, A, LastSync(1.9e9, 1, 0))
    assert last_sync.read_all(root)[A].failed == frozenset()


def test_without_a_tree_nothing_is_made(root: Path) -> None:
    last_sync.record(root / "nowhere", A, failed("web"))
    assert not (root / "nowhere").exists()


def test_a_kill_leaves_the_old_record_or_the_new_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last_sync.record(root, A, failed("old"))

    def killed(handle: int) -> None:
        die()

    def record() -> None:
        monkeypatch.setattr(os, "fsync", killed)
        last_sync.record(root, A, failed("new"))

    assert in_child(record) is None
    assert last_sync.read_all(root)[A].failed == {"old"}
    (leftover,) = [path for path in root.iterdir() if path.name != f".sync.{A}.json"]
    last_sync.record(root, A, failed("new"))
    assert leftover.exists()  # it could be another's that is being written
    os.utime(leftover, (1, 1))
    last_sync.record(root, A, failed("new"))
    assert not leftover.exists()
    assert last_sync.read_all(root)[A].failed == {"new"}


def test_nothing_is_written_where_others_may_write(root: Path) -> None:
    root.chmod(0o777)
    with pytest.raises(OSError, match="everybody may write"):
        last_sync.record(root, A, failed("web"))
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"finished": 1, "seconds": 1, "exit": 0}', '{"finished": "x"}', "[" * 10_000]
)
def test_what_makes_no_sense_is_no_record(root: Path, text: str) -> None:
    (root / f".sync.{A}.json").write_text(text)
    assert last_sync.read_all(root) == {}


def test_folders_that_are_gone_are_forgotten(root: Path) -> None:
    for folder, age in ((A, 2 * 86400), (B, 10)):
        last_sync.record(root, folder, failed("web", at=time.time() - age))
    last_sync.forget(root, {A})
    assert set(last_sync.read_all(root)) == {A, B}
    last_sync.forget(root, set())
    assert set(last_sync.read_all(root)) == {B}


def test_a_copy_of_another_tree_has_the_result_of_mirror(root: Path) -> None:
    with last_sync.of_mirror(root) as done:
        done(["web"])
    assert last_sync.read_all(root)["mirror"].failed == {"web"}
    with pytest.raises(MirrorError), last_sync.of_mirror(root):
        raise MirrorError("no")
    assert last_sync.read_all(root)["mirror"].exit == 1
    (root / ".sync.mirror.json").unlink()
    with pytest.raises(MirrorError), last_sync.of_mirror(root):  # it is no mirror, or not yet
        raise MirrorError("no")
    assert last_sync.read_all(root) == {}


# ---- figures


def values(root: Path) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures.Figures(root).read()}


def test_the_figures_of_a_tree(root: Path) -> None:
    assert values(root) == {"lxdocker_build_info": 1, "lxdocker_images": 0, "lxdocker_versions": 0}
    tree = Tree(root)
    with tree.lock(print, threading.Event()):
        publish(tree, content="1")
        publish(tree, content="2")
    last_sync.record(root, A, failed("db", "web"))
    last_sync.record(root, B, LastSync(1.9e9, 7, 0))
    found = values(root)
    published = found.pop("lxdocker_last_publish_timestamp_seconds")
    assert time.time() - 3600 < published <= time.time() + 60
    assert found == {
        "lxdocker_build_info": 1,
        "lxdocker_images": 1,
        "lxdocker_versions": 2,
        "lxdocker_failed_images": 2,
        "lxdocker_last_sync_success": 0,
        "lxdocker_last_sync_timestamp_seconds": 1.8e9,
        "lxdocker_last_sync_duration_seconds": 7,
    }


def test_the_textfile_has_the_same_figures(root: Path, tmp_path: Path) -> None:
    last_sync.record(root, A, failed("web"))
    folder = tmp_path / "collector"
    folder.mkdir()
    path = folder / "lxdocker.prom"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    path.symlink_to(elsewhere)
    before = os.umask(0o077)
    try:
        figures.write_textfile(root, path)
    finally:
        os.umask(before)
    assert elsewhere.read_text() == "mine"
    assert path.lstat().st_mode == 0o100644
    assert [entry.name for entry in folder.iterdir()] == ["lxdocker.prom"]
    lines = path.read_text().splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert f'lxdocker_build_info{{version="{__version__}"}} 1.0' in samples
    found = {re.split(r"[{ ]", line)[0]: float(line.rsplit(" ", 1)[1]) for line in samples}
    assert found == values(root)
    for name in found:
        assert f"# TYPE {name} gauge" in lines
    parser = pytest.importorskip("prometheus_client.parser")
    assert {family.name for family in parser.text_string_to_metric_families(path.read_text())} == set(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_reads_the_record(root: Path) -> None:
    last_sync.record(root, A, failed("web"))
    for folder in (root, *root.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    in_child(lambda: json.loads((root / f".sync.{A}.json").read_text()), uid=NOBODY)
