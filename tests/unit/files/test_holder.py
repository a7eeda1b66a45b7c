"""Whose a lock is, how far locks reach, and what a note counts where they reach no other host."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lxdocker.files import holder, lock
from lxdocker.files.holder import Holder
from lxdocker.program import StoppedError

NEVER = threading.Event()
MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/nas rw,relatime shared:9 - nfs4 nas:/ rw,vers=4.2,local_lock=none
31 22 0:41 / /srv/old rw,relatime - nfs nas:/old rw,vers=3,nolock,local_lock=all
32 22 0:42 / /srv/a\\040b rw - fuse.sshfs nas:/ rw,user_id=0
33 30 0:43 / /srv/nas/disk rw shared:4 - xfs /dev/sdb rw
34 22 0:44 / /srv/vm rw - virtiofs host rw
35 22 0:45 / /srv/hidden rw - 9p host rw
36 22 0:46 / /srv/hidden rw - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "files", "folders"),
    [
        ("/var/lib/tree", "ext4", True, True),
        ("/srv/nas/tree", "nfs4", True, False),
        ("/srv/nasty", "ext4", True, True),
        ("/srv/old", "nfs", False, False),
        ("/srv/a b/tree", "fuse.sshfs", False, False),
        ("/srv/nas/disk/tree", "xfs", True, True),
        ("/srv/vm/tree", "virtiofs", False, False),
        ("/srv/hidden/tree", "tmpfs", True, True),
    ],
)
def test_how_far_locks_reach(
    path: str, kind: str, files: bool, folders: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holder.mounted(MOUNTS, Path(path))[0] == kind
    monkeypatch.setattr(holder, "MOUNTS", tmp_path / "mountinfo")
    holder.MOUNTS.write_text(MOUNTS)
    assert holder.reaches_all(Path(path)) == files
    assert holder.reaches_all(Path(path), folder=True) == folders


def test_a_note_names_this_process() -> None:
    us = Holder.this()
    assert Holder.parse(us.note()) == us
    assert us.pid == os.getpid()
    assert not us.is_elsewhere
    assert str(us) == f"process {os.getpid()}"


@pytest.mark.parametrize("text", ["", "12 host", "x host machine boot\n", "12 host machine boot", "12  a b c\n"])
def test_what_is_no_note(text: str) -> None:
    assert Holder.parse(text) is None


def test_only_another_machine_is_elsewhere() -> None:
    us = Holder.this()
    assert not replace(us, boot="before").is_elsewhere  # it has been started again since
    assert not replace(us, host="container").is_elsewhere  # the same kernel, which knows whose its locks are
    other = replace(us, host="nas", machine="another", boot="another")
    assert other.is_elsewhere
    assert str(other) == f"process {us.pid} on nas"


@contextlib.contextmanager
def taken(path: Path, said: list[str], cancelled: threading.Event = NEVER, *, shared: bool = False) -> Iterator[None]:
    handle = lock.open_file(path)
    try:
        with lock.noted(path, handle, said.append, cancelled, shared=shared):
            yield
    finally:
        os.close(handle)


def elsewhere(path: Path) -> Path:
    """The note of another host's process."""
    note = path.with_name("lock.holder")
    note.write_text(replace(Holder.this(), host="nas", machine="another", boot="another").note())
    return note


def test_a_note_is_there_while_the_lock_is_held(tmp_path: Path) -> None:
    path, note, said = tmp_path / "lock", tmp_path / "lock.holder", list[str]()
    with taken(path, said):
        assert holder.read(note) == Holder.this()
        stopped = threading.Event()
        stopped.set()
        with pytest.raises(StoppedError), taken(path, said, stopped):
            raise AssertionError("two hold it")
        assert said == [f"process {os.getpid()}"]
        assert note.exists()
    assert not note.exists()


@pytest.mark.parametrize("left", ["killed", "another host's", "half written", "link"])
def test_what_a_dead_process_left_is_taken_over(tmp_path: Path, left: str) -> None:
    """On a disk of this host the kernel knows that nobody holds it."""
    path, note, said = tmp_path / "lock", tmp_path / "lock.holder", list[str]()
    match left:
        case "killed":
            note.write_text(replace(Holder.this(), pid=1 << 22).note())
        case "another host's":
            elsewhere(path)
        case "half written":
            note.write_text("12")
        case "link":
            note.symlink_to(tmp_path / "target")
    with taken(path, said):
        assert holder.read(note) == Holder.this()
    assert said == []
    assert not (tmp_path / "target").exists()


def test_where_locks_reach_nobody_else_another_host_s_note_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder, "reaches_all", lambda _path: False)
    path, said = tmp_path / "lock", list[str]()
    note = elsewhere(path)
    began = time.monotonic()
    threading.Timer(2 * lock.POLL_SECONDS, note.unlink).start()
    with taken(path, said):
        assert time.monotonic() - began >= 2 * lock.POLL_SECONDS
        assert holder.read(note) == Holder.this()
    assert said == [f"process {os.getpid()} on nas; if that host is gone for good: rm {note}"]


@pytest.mark.parametrize("shared", [False, True])
def test_waiting_for_another_host_ends_when_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr(holder, "reaches_all", lambda _path: False)
    cancelled = threading.Event()
    cancelled.set()
    note = elsewhere(tmp_path / "lock")
    with pytest.raises(StoppedError), taken(tmp_path / "lock", [], cancelled, shared=shared):
        raise AssertionError("it is another host's")
    assert note.exists()


@pytest.mark.parametrize("left", ["killed", "half written"])
def test_where_locks_reach_nobody_else_this_host_s_dead_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.setattr(holder, "reaches_all", lambda _path: False)
    monkeypatch.setattr(lock, "UNREADABLE_SECONDS", lock.POLL_SECONDS)
    note = tmp_path / "lock.holder"
    note.write_text(replace(Holder.this(), boot="before").note() if left == "killed" else "")
    with taken(tmp_path / "lock", []):
        assert holder.read(note) == Holder.this()
    assert not note.exists()


def test_a_full_disk_does_not_keep_anybody_from_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock, "_claim", full)
    with taken(tmp_path / "lock", []):
        assert not (tmp_path / "lock.holder").exists()
