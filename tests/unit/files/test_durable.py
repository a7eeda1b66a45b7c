"""Files are whole or not there: by the order of writing, syncing and renaming, and by what a failure leaves."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.files import durable
from tests.journal import recorded

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem")


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_afterwards(tmp_path: Path) -> None:
    with recorded(tmp_path) as journal:
        durable.write_file(tmp_path / "file", b"x", 0o644)
    assert journal == ["sync file.*", "rename file.* file", "sync ."]


def test_the_unfinished_file_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with recorded(tmp_path) as journal:
        durable.write_file(tmp_path / "file", b"x", 0o644, tmp_path / "work")
    assert journal == ["sync work/file.*", "rename work/file.* file", "sync ."]


def test_what_is_synced_is_all_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffered data that reaches the file only when it is closed would not be covered by the sync."""
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    durable.write_new(tmp_path / "new", b"four", 0o644)
    durable.write_file(tmp_path / "file", b"sixsix", 0o644)
    assert sizes[:2] == [4, 6]


def test_a_new_file_is_synced_and_its_folder_is_left_to_the_caller(tmp_path: Path) -> None:
    with recorded(tmp_path) as journal:
        durable.write_new(tmp_path / "file", b"x", 0o644)
    assert journal == ["sync file"]


def test_a_file_never_has_another_mode_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    rename = os.rename

    def look(source: Path, target: Path) -> None:
        modes.append(source.stat().st_mode & 0o777)
        rename(source, target)

    monkeypatch.setattr(os, "rename", look)
    durable.write_file(tmp_path / "key", b"x", 0o600)
    durable.write_file(tmp_path / "page", b"x", 0o644)
    assert modes == [0o600, 0o644]


def test_what_can_not_be_synced_is_not_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that has failed: the old file stays, and nothing beside it."""
    (tmp_path / "file").write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        durable.write_file(tmp_path / "file", b"new", 0o644)
    with pytest.raises(OSError, match="Input/output"):
        durable.write_new(tmp_path / "new", b"new", 0o644)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_a_new_file_is_new(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            durable.write_new(tmp_path / name, b"x", 0o644)
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "there").read_text() == "precious"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A file on another filesystem."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True)
    (disk / "file").write_bytes(b"content")
    (disk / "file").chmod(0o600)
    yield disk / "file"
    subprocess.run(["umount", str(disk)], check=True)


def test_a_second_name_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "file").chmod(0o600)
    with recorded(tmp_path) as journal:
        durable.link(tmp_path / "file", tmp_path / "second", 0o644)
    assert journal == ["link file second", "sync second"]
    assert (tmp_path / "second").samefile(tmp_path / "file")
    assert (tmp_path / "second").stat().st_mode & 0o777 == 0o644


@needs_root
def test_what_can_not_be_linked_is_copied(elsewhere: Path, tmp_path: Path) -> None:
    with recorded(tmp_path) as journal:
        durable.link(elsewhere, tmp_path / "second", 0o644)
    assert journal == ["sync second"]
    assert (tmp_path / "second").read_bytes() == b"content"
    assert (tmp_path / "second").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV], ids=errno.errorcode.get)
def test_every_refusal_of_a_link_ends_in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setattr(os, "link", refuse)
    durable.link(tmp_path / "file", tmp_path / "second", 0o644)
    assert (tmp_path / "second").read_bytes() == b"content"


def test_nothing_is_copied_over_what_is_there(tmp_path: Path) -> None:
    for name in ("file", "second"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        durable.link(tmp_path / "file", tmp_path / "second", 0o644)
    assert (tmp_path / "second").read_text() == "second"


def test_a_move_is_in_the_folder_when_it_returns(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "file").write_bytes(b"content")
    with recorded(tmp_path) as journal:
        durable.move(tmp_path / "file", tmp_path / "to/file")
    assert journal == ["rename file to/file", "sync to"]
