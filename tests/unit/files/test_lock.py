"""Locks between processes: who waits, who is told, and what a killed process holds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.files import lock, rights

NEVER = threading.Event()
HOLD = """
import sys
from pathlib import Path
from lxdocker.files import lock
with getattr(lock, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path/lock, or the folder."""
    kind = request.param
    path = tmp_path / "lock" if kind == "file" else tmp_path
    command = [sys.executable, "-c", HOLD, kind, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_lock_is_a_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / "lock"
    path.symlink_to(tmp_path / "target") if what == "link" else os.mkfifo(path)
    with pytest.raises(rights.UnsafeError, match="it is"):
        lock.open_file(path)
    assert not (tmp_path / "target").exists()


def test_whoever_need_not_wait_is_told_nothing(tmp_path: Path) -> None:
    handle = lock.open_file(tmp_path / "lock")
    told: list[str] = []
    assert lock.wait(handle, lambda: told.append("busy"), NEVER)
    assert told == []
    os.close(handle)


@pytest.mark.parametrize("holder", ["file"], indirect=True)
@pytest.mark.parametrize("shared", [False, True])
def test_whoever_waits_is_told_once(holder: subprocess.Popen[str], tmp_path: Path, shared: bool) -> None:
    handle = lock.open_file(tmp_path / "lock")
    told: list[str] = []

    def busy() -> None:
        told.append("busy")
        threading.Timer(3 * lock.POLL_SECONDS, holder.kill).start()

    assert lock.wait(handle, busy, NEVER, shared=shared)
    assert told == ["busy"]
    os.close(handle)


@pytest.mark.parametrize("holder", ["file"], indirect=True)
@pytest.mark.usefixtures("holder")
def test_waiting_ends_when_cancelled(tmp_path: Path) -> None:
    handle = lock.open_file(tmp_path / "lock")
    cancelled = threading.Event()
    cancelled.set()
    assert not lock.wait(handle, lambda: None, cancelled)
    os.close(handle)


def test_readers_share_and_a_writer_does_not(tmp_path: Path) -> None:
    first, second = (lock.open_file(tmp_path / "lock") for _ in range(2))
    cancelled = threading.Event()
    cancelled.set()
    assert lock.wait(first, lambda: None, cancelled, shared=True)
    assert lock.wait(second, lambda: None, cancelled, shared=True)
    assert not lock.wait(second, lambda: None, cancelled)
    os.close(first)
    assert lock.wait(second, lambda: None, cancelled)
    third = lock.open_file(tmp_path / "lock")
    assert not lock.wait(third, lambda: None, cancelled, shared=True)
    os.close(second)
    os.close(third)


@pytest.mark.parametrize("holder", ["folder"], indirect=True)
def test_a_folder_is_held_while_its_process_lives(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    assert lock.is_held(tmp_path)
    holder.kill()
    holder.wait(10)
    assert not lock.is_held(tmp_path)


def test_a_folder_stays_held_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with lock.folder(tmp_path / "a"):
        (tmp_path / "a").rename(tmp_path / "b")
        assert lock.is_held(tmp_path / "b")
    assert not lock.is_held(tmp_path / "b")


def test_looking_takes_no_lock(tmp_path: Path) -> None:
    assert not lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path)


def test_what_a_link_leads_to_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="Not a directory"):
        lock.is_held(tmp_path / "link")
