"""Hooks that are commands: real ones."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lxdocker import program
from lxdocker.errors import LxdockerError
from lxdocker.hooks import command
from lxdocker.hooks.run import run, shown
from tests.waiting import wait_until

ENVIRON = {"PATH": "/usr/bin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def failure(hook: str, timeout: float = 60) -> LxdockerError:
    found = run(hook, {}, timeout, ENVIRON)
    assert found is not None
    return found


def test_the_document_is_on_stdin(tmp_path: Path) -> None:
    document = {"images": [{"name": "web"}], "text": "ü \udcff"}
    assert run(f"tee {tmp_path}/seen", document, 60, ENVIRON) is None
    assert json.loads((tmp_path / "seen").read_bytes()) == document


def test_a_command_that_reads_nothing_is_no_failure() -> None:
    assert run("true", {"long": "x" * 1_000_000}, 60, ENVIRON) is None


def test_the_words_are_a_shells_but_no_shell_runs_them(tmp_path: Path) -> None:
    hook = script(tmp_path / "my hook", f'printf "%s|" "$PWD" "$@" >{tmp_path}/seen')
    assert run(f"'{hook}' 'one two' $HOME `id` ; false >x", {}, 60, ENVIRON) is None
    assert (tmp_path / "seen").read_text() == "/|one two|$HOME|`id`|;|false|>x|"
    assert run(f"sh -c 'echo $HOME >{tmp_path}/seen'", {}, 60, ENVIRON) is None  # unless one is asked for
    assert (tmp_path / "seen").read_text() == "/root\n"


def test_secrets_of_the_environment_are_not_passed(tmp_path: Path) -> None:
    secret = {"LXDOCKER_ON_FAILURE": "https://x/s3cret", "REGISTRY_AUTH_FILE": "/s3cret", "MY_PASSWORD": "s3cret"}
    secret |= {"https_proxy": "http://ann:s3cret@proxy", "DOCKER_AUTH_CONFIG": "s3cret", "DOCKER_CONFIG": "/s3cret"}
    assert run(f"sh -c 'env >{tmp_path}/seen'", {}, 60, {**ENVIRON, **secret}) is None
    seen = (tmp_path / "seen").read_text()
    assert "s3cret" not in seen
    assert {"HOME=/root", "LC_ALL=C.UTF-8", "PATH=/usr/bin:/bin"} <= set(seen.splitlines())


def test_its_output_is_shown_only_if_it_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("echo hello", {}, 60, ENVIRON) is None
    found = failure(f"{script(tmp_path / 'hook', 'echo out; echo why >&2; exit 3')} --token=s3cret")
    assert str(found) == f"{tmp_path}/hook failed: exit status 3\nout\nwhy"
    assert capfd.readouterr() == ("", "")
    assert "killed by signal 9" in str(failure("sh -c 'kill -9 $$'"))
    long = failure("sh -c 'seq 1000000; exit 1'")
    assert len(long.details) < 2100
    assert long.details.endswith("\n1000000")


def test_a_command_that_is_not_there() -> None:
    assert str(failure("/nowhere/hook s3cret")) == "cannot run /nowhere/hook: No such file or directory"


def test_one_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that ignores SIGTERM."""
    monkeypatch.setattr(program, "_TERM_SECONDS", 0.1)
    hook = script(tmp_path / "hook", f"trap '' TERM\nsleep 1000 & echo $! >{tmp_path}/child; wait; wait")
    found = failure(str(hook), 2)
    assert (found.brief, found.details) == (f"{hook} was stopped", "it ran longer than 2 s")
    child = int((tmp_path / "child").read_text())
    wait_until("the end of the child", lambda: not Path(f"/proc/{child}").exists() or _is_dead(child))


def _is_dead(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_what_runs_on_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    hook = script(tmp_path / "hook", f"sleep 1000 & echo $! >{tmp_path}/child")
    assert run(str(hook), {}, 60, ENVIRON) is None
    child = int((tmp_path / "child").read_text())
    assert not _is_dead(child)
    os.kill(child, signal.SIGKILL)


def test_an_interruption_ends_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait, waited = subprocess.Popen.wait, []

    def interrupted(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        waited.append(process.pid)
        if len(waited) == 1:
            raise KeyboardInterrupt
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.run("sleep 1000", b"{}", 60, ENVIRON)
    assert _is_dead(waited[0])


def test_only_the_program_is_shown() -> None:
    assert shown(shlex.join([sys.executable, "--token", "s3cret"])) == sys.executable
    assert shown("https://ann:s3cret@host:1/s3cret?s3cret") == "https://host:1/..."


def test_a_disk_without_room_keeps_no_hook_from_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise FileNotFoundError("no usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert run(f"sh -c 'cat >{tmp_path}/told; echo said; test -s {tmp_path}/told'", {"a": 1}, 5, os.environ) is None
    assert json.loads((tmp_path / "told").read_text()) == {"a": 1}
    failure = run("sh -c 'echo said; exit 3'", {}, 5, os.environ)
    assert failure is not None
    assert failure.details == "exit status 3"
