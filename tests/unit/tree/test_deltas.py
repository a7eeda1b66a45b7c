"""Deltas, made and applied by the real xdelta3."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from lxdocker.image import artifact
from lxdocker.image.artifact import ROOTFS_FILE, Artifact
from lxdocker.tree import deltas
from lxdocker.tree.simplestreams import IMAGES_PATH
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import Delta, Published
from lxdocker.values import Arch
from tests.examples import provenance

pytestmark = pytest.mark.skipif(shutil.which("xdelta3") is None, reason="needs xdelta3")
NEVER = threading.Event()
OLD = random.Random(1).randbytes(1_000_000)  # as good as compressed
CLOSE = OLD[:300_000] + b"something new" + OLD[300_000:]
FAR = random.Random(2).randbytes(1_000_000)


def make_artifact(folder: Path, content: bytes) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    return artifact.write(folder, b"metadata", [content])


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


@pytest.fixture
def base(tree: Tree) -> Published:
    with tree.lock(print, NEVER), tree.staging(provenance().name) as folder:
        return tree.publish(make_artifact(folder, OLD), provenance(), Arch.X86_64, ())


def make(base: Published, folder: Path, content: bytes) -> tuple[tuple[Delta, Path] | None, list[str]]:
    said: list[str] = []
    return deltas.make(base, make_artifact(folder, content), folder, NEVER, said.append), said


def test_a_delta_leads_from_the_old_file_to_the_new_one(base: Published, tmp_path: Path) -> None:
    found, said = make(base, tmp_path / "new", CLOSE)
    assert found is not None
    assert said == []
    delta, path = found
    assert path.name == delta.file == f"{base.key}.vcdiff"
    assert delta.size == path.stat().st_size < 10_000
    applied = tmp_path / "applied"
    subprocess.run(["xdelta3", "-f", "-d", "-s", base.folder / ROOTFS_FILE, path, applied], check=True)
    assert applied.read_bytes() == CLOSE
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, ROOTFS_FILE, "lxd.tar.xz"}


def test_a_delta_that_saves_little_is_not_published(base: Published, tmp_path: Path) -> None:
    assert make(base, tmp_path / "new", FAR) == (None, [])
    assert make(base, tmp_path / "half", OLD[:250_000] + FAR[:750_000])[0] is None
    assert make(base, tmp_path / "same", OLD)[0] is None
    assert list(tmp_path.rglob("*.vcdiff")) == []


def test_a_delta_that_can_not_be_made_is_none(base: Published, tmp_path: Path) -> None:
    (base.folder / ROOTFS_FILE).unlink()
    found, (said,) = make(base, tmp_path / "new", CLOSE)
    assert found is None
    assert said.startswith("no delta for web: xdelta3 failed: ")
    assert "No such file" in said


def test_a_delta_from_other_than_what_was_published_is_found_out(base: Published, tmp_path: Path) -> None:
    made = make_artifact(tmp_path / "new", CLOSE)
    made.rootfs.write_bytes(CLOSE[:-1] + b"?")
    said: list[str] = []
    assert deltas.make(base, made, made.folder, NEVER, said.append) is None
    assert said == ["no delta for web: applying it gives a different file"]


def test_without_xdelta_it_is_said(base: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert make(base, tmp_path / "new", CLOSE) == (None, ["no delta for web: xdelta3 is not installed"])


def test_an_interrupted_run_leaves_nothing(base: Published, tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    made = make_artifact(tmp_path / "new", CLOSE)
    assert deltas.make(base, made, made.folder, cancelled, print) is None
    assert list(made.folder.glob("*.vcdiff")) == []


def test_a_published_delta_is_listed_with_its_base(tree: Tree, base: Published) -> None:
    with tree.lock(print, NEVER), tree.staging(base.name) as folder:
        made = make_artifact(folder, CLOSE)
        found = deltas.make(base, made, folder, NEVER, print)
        assert found
        new = tree.publish(made, base.provenance, base.arch, (), deltas=dict([found]))
    assert new.deltas == (found[0],)
    (product,) = json.loads((tree.root / IMAGES_PATH).read_bytes())["products"].values()
    assert product["versions"][new.key]["items"][f"root.{base.key}.vcdiff"] == {
        "ftype": "squashfs.vcdiff",
        "delta_base": base.key,
        "path": f"images/web/x86_64/{new.key}/{base.key}.vcdiff",
        "size": found[0].size,
        "sha256": found[0].sha256,
    }
    assert tree.versions() == [base, new]
