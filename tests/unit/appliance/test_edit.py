"""What was typed is not lost; the rest of edit is tested with a real appliance."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from lxdocker.appliance import edit, inside
from lxdocker.appliance.machine import Machine
from lxdocker.errors import SpecError
from lxdocker.lxd.command import Result


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


@pytest.mark.parametrize("error", [SpecError("1 mistake"), KeyboardInterrupt()])
def test_what_was_typed_is_kept_where_it_fails(tmp_path: Path, error: BaseException) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("web", "db", "gone"):
        (copy / f"{name}.yaml").write_text(f"image: {name}:1\n")
    said: list[str] = []

    def typed() -> None:
        with edit.keeping(copy, said.append):
            (copy / "web.yaml").write_text("imag: web:2\n")
            (copy / "gone.yaml").unlink()
            raise error

    with pytest.raises(type(error)):
        typed()
    (kept,) = (tmp_path / "temporary").iterdir()
    assert [(path.name, path.read_text()) for path in kept.iterdir()] == [("web.yaml", "imag: web:2\n")]
    assert kept.stat().st_mode & 0o777 == 0o700
    assert said == [f"what you typed is in {kept}: web.yaml"]


def test_nothing_is_kept_where_nothing_was_typed(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    said: list[str] = []
    with pytest.raises(SpecError), edit.keeping(copy, said.append):
        raise SpecError("1 mistake")
    with edit.keeping(copy, said.append):
        (copy / "web.yaml").write_text("image: web:1\n")
    assert said == []
    assert list((tmp_path / "temporary").iterdir()) == []


class HostAsMachine:
    """Runs on this host what would run in a container."""

    name = "lxdocker"

    def try_run(
        self, argv: Sequence[str], what: str = "", seconds: float = 60, stdin: bytes = b"", keep: int | None = None
    ) -> Result:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=seconds, check=False)
        return Result(done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode())

    def run(self, argv: Sequence[str], what: str, seconds: float = 60, stdin: bytes = b"") -> str:
        done = self.try_run(argv, what, seconds, stdin)
        assert done.status == 0, done.stderr
        return done.stdout


def test_what_was_not_edited_stays_as_it_is(tmp_path: Path) -> None:
    """Links, empty folders and modes among it."""
    specs, copy = tmp_path / "images.d", tmp_path / "copy"
    (specs / "sub/empty").mkdir(parents=True)
    copy.mkdir()
    (tmp_path / "elsewhere.yaml").write_text("image: linked:1\n")
    for name in ("web", "db", "gone"):
        (specs / f"{name}.yaml").write_text(f"image: {name}:1\n")
    (specs / "sub/text").write_bytes(b"\xff\n")
    (specs / "same.yaml").hardlink_to(specs / "web.yaml")
    (specs / "linked.yaml").symlink_to("../elsewhere.yaml")
    (specs / "db.yaml").chmod(0o640)
    machine = cast(Machine, HostAsMachine())
    inside.pull_folder(machine, str(specs), copy)
    assert (copy / "linked.yaml").read_text() == "image: linked:1\n"
    assert (copy / "same.yaml").read_text() == "image: web:1\n"
    assert (copy / "sub/text").read_bytes() == b"\xff\n"
    (copy / "web.yaml").write_text("image: web:2\n")
    (copy / "gone.yaml").unlink()
    (copy / "new.yaml").write_text("image: new:1\n")
    inside.push_changes(machine, copy, ["gone.yaml", "new.yaml", "web.yaml"], str(specs))
    assert sorted(path.name for path in specs.iterdir()) == [
        *("db.yaml", "linked.yaml", "new.yaml", "same.yaml", "sub", "web.yaml")
    ]
    assert (specs / "web.yaml").read_text() == "image: web:2\n"
    assert (specs / "same.yaml").read_text() == "image: web:1\n"
    assert (specs / "linked.yaml").is_symlink()
    assert (specs / "sub/empty").is_dir()
    assert (specs / "db.yaml").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "elsewhere.yaml", "images.d", "temporary"]


def test_an_editor_may_save_what_is_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf '# caf\\351\\nimage: web:2\\n' >\"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs/web.yaml").write_text("image: web:1\n")
    with pytest.raises(SpecError, match=r"web\.yaml"):
        edit._let_edit(tmp_path / "specs", [tmp_path / "specs/web.yaml"], lambda _: False)
