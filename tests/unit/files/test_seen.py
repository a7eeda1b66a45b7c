"""What this user can't see is not there, and nothing ends for that."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import lxdocker
from lxdocker.files.seen import exists, is_dir, is_file

EACH = [exists, is_dir, is_file]


def test_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = {path.name: [look(path) for look in EACH] for path in tmp_path.iterdir()}
    assert found == {
        "file": [True, False, True],
        "link": [True, False, True],
        "dangling": [False, False, False],
        "pipe": [True, False, False],
    }
    assert [look(tmp_path) for look in EACH] == [True, True, False]


@pytest.mark.parametrize("look", EACH)
def test_nothing_can_be_there(look: Callable[[Path], bool], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("x" * 300, "file/below", "loop", "a\0b"):
        assert not look(tmp_path / name)


@pytest.mark.parametrize("look", EACH)
def test_a_closed_folder(look: Callable[[Path], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", closed)
    assert not look(tmp_path)


@pytest.mark.parametrize("look", EACH)
def test_a_disk_that_fails_is_not_an_empty_one(
    look: Callable[[Path], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, **_: object) -> os.stat_result:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, "stat", failing)
    with pytest.raises(OSError, match="Input/output"):
        look(tmp_path)


def test_it_is_used_everywhere() -> None:
    """Path's own would end a whole run for one path that a user named."""
    root = Path(lxdocker.__file__).parent
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"exists", "is_dir", "is_file"}
        and not (node.args or node.keywords)  # os.scandir's entries are asked about links, too
    ]
    assert found == []
