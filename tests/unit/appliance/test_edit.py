"""What was typed is not lost; the rest of edit is tested with a real appliance."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.appliance import edit
from lxdocker.errors import SpecError


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
