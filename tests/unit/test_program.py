"""Programs of this host, and what they start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lxdocker import program
from tests.waiting import wait_until

CHILD = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = bytearray(200_000_000)  # which takes the kernel a while to give back
print(os.getpid(), file=open(sys.argv[1], "w"), flush=True)
signal.pause()
"""


def parent_of(child: list[str]) -> list[str]:
    return [sys.executable, "-c", f"import subprocess, time; subprocess.Popen({child!r}); time.sleep(600)"]


def stopping(cancelled: threading.Event, ready: Callable[[], bool]) -> threading.Thread:
    def stop() -> None:
        wait_until("the child", ready)
        cancelled.set()

    return threading.Thread(target=stop)


def test_nothing_of_a_program_is_left_when_it_was_ended(tmp_path: Path) -> None:
    ready, cancelled = tmp_path / "ready", threading.Event()
    child = [sys.executable, "-c", CHILD, str(ready)]
    thread = stopping(cancelled, lambda: ready.exists() and ready.read_text() != "")
    thread.start()
    with pytest.raises(program.StoppedError):
        program.run(parent_of(child), environment=os.environ, seconds=60, cancelled=cancelled)
    with suppress(OSError):  # there is none if its new parent has noticed its end already
        stat = Path(f"/proc/{ready.read_text().strip()}/stat").read_text()
        assert stat.rpartition(")")[2].split()[0] == "Z"
    thread.join()


def test_a_program_that_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        program.run(["sleep", "600"], environment=os.environ, seconds=0.2, cancelled=threading.Event())


def test_what_it_says_and_is_told() -> None:
    script = "read -r line; echo got $line; echo and this >&2; exit 3"
    done = program.run(
        ["sh", "-c", script], environment=os.environ, seconds=60, cancelled=threading.Event(), given=b"a word\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"got a word\n", b"and this\n")
