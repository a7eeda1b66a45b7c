"""Temporary folders on this host, and the programs that work in them, when lxdocker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lxdocker.builder import image
from lxdocker.errors import BuildError, HostError
from lxdocker.files import scratch
from tests import processes
from tests.chroots import needs_namespaces
from tests.waiting import wait_until

# Makes a folder, and starts there what starts another program; says so and waits.
WORKS = """
from lxdocker.files import scratch
from lxdocker.builder import image
with scratch.folder() as folder:
    (folder / "root").mkdir()
    (folder / "root/file").write_text("x" * 1000)
    print(folder, flush=True)
    image._host(["sh", "-c", "mount -t tmpfs mine $0/root; sleep 4711 & touch $0/started; wait", str(folder)], "x")
"""


@pytest.fixture(autouse=True)
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def swept() -> list[str]:
    said: list[str] = []
    scratch.sweep(said.append)
    return said


def test_a_folder_is_private_and_goes(top: Path) -> None:
    with scratch.folder() as folder:
        (folder / "x").mkdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert swept() == []
        assert folder.is_dir()
    assert list(top.iterdir()) == []


def test_of_others_nothing_goes(top: Path) -> None:
    """Not what has such a name by accident, nor what a link leads to."""
    (top / f"{scratch.PREFIX}file").write_text("x")
    kept = top / "kept"
    kept.mkdir()
    (top / f"{scratch.PREFIX}link").symlink_to(kept)
    (top / "lxdocker-else").mkdir()
    young = top / f"{scratch._UNNAMED}young"
    young.mkdir()
    before = sorted(top.iterdir())
    assert swept() == []
    assert sorted(top.iterdir()) == before
    os.utime(young, (0, 0))
    assert len(swept()) == 1
    assert not young.exists()


@needs_namespaces
def test_what_a_killed_run_left_goes_with_the_next_one_and_its_programs_at_once(top: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKS], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(top)}
    )
    assert process.stdout is not None
    with process:
        folder = Path(process.stdout.readline().decode().strip())
        wait_until("its program", lambda: (folder / "started").exists() and processes.with_word("4711"))
        assert swept() == []
        process.send_signal(signal.SIGKILL)
    wait_until("the end of its programs", lambda: not processes.with_word("4711"))
    assert swept() == [f"removed {folder}, left over from an earlier run"]
    assert list(top.iterdir()) == []


@needs_namespaces
def test_a_program_that_takes_too_long_goes_with_all_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "INSTALL_SECONDS", 1)
    with pytest.raises(BuildError, match="it took longer than 1 s"):
        image._host(["sh", "-c", "sleep 4712 >/dev/null 2>&1 & wait"], "waiting")
    wait_until("the end of its programs", lambda: not processes.with_word("4712"))


@needs_namespaces
def test_what_a_program_is_given_and_says() -> None:
    image._host(["sh", "-c", 'read line; [ "$line" = given ]'], "reading", b"given\n")
    with pytest.raises(BuildError, match="reading failed: no such mirror"):
        image._host(["sh", "-c", "echo no such mirror >&2; exit 3"], "reading")
    with pytest.raises(HostError, match="it is not on this host"):
        image._require("nosuchprogram", "reading")
