"""The log: what is shown at which level, what is in the file, and what never is."""

from __future__ import annotations

import ast
import logging
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from lxdocker import log
from lxdocker.errors import UsageError
from lxdocker.log import FileText, Log

HTTP = logging.getLogger("lxdocker.http")


def shown_with(count: int) -> list[str]:
    shown: list[str] = []
    with Log(shown.append, {}) as opened:
        opened.be_verbose(count)
        log.command(["echo", "a b"])
        HTTP.debug("GET %s", "https://host/")
        log.RUN.info("lxdocker")
    return shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, []), (1, ["+ echo 'a b'"]), (2, ["+ echo 'a b'", "GET https://host/"])]
)
def test_v_shows_what_is_done_and_vv_what_is_asked(count: int, shown: list[str]) -> None:
    assert shown_with(count) == shown
    assert shown_with(0) == []  # nothing stays of the run before
    assert count < 2 or shown_with(7) == shown


def test_nothing_is_even_put_together_without_a_log() -> None:
    class Untold:
        def __str__(self) -> str:
            raise AssertionError

    with Log(print, {}):
        HTTP.debug("%s", Untold())
        assert not log.COMMANDS.isEnabledFor(logging.INFO)
    assert not log.COMMANDS.isEnabledFor(logging.INFO)


def test_the_file_has_all_of_it_whatever_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log.ROOT, "propagate", False)  # pytest's workers can't send each other half a character
    path = tmp_path / "log"
    shown: list[str] = []
    old = os.umask(0)
    try:
        for _ in range(2):
            with Log(shown.append, {"LXDOCKER_LOG": str(path)}):
                HTTP.debug("GET /")
                log.RUN.error("it failed: %s", "naïve \udcff")
    finally:
        os.umask(old)
    assert shown == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "DEBUG MainThread lxdocker.http: GET /",
        "ERROR MainThread lxdocker.run: it failed: naïve \\udcff",
    ] * 2
    assert all(re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} ", line) for line in lines)


def test_a_file_that_can_t_be_opened_is_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write the log .*nosuch/log: No such file") as caught:
        Log(print, {"LXDOCKER_LOG": str(tmp_path / "nosuch/log")})
    assert "LXDOCKER_LOG" in caught.value.resolution


def test_a_disk_that_is_full_hinders_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with Log(print, {"LXDOCKER_LOG": "/dev/full"}):
        HTTP.debug("GET /")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("http://user:secret@proxy:3128/x", "http://***@proxy:3128/x"),
        ("'https://:secret@host' http://a:b%40c@d", "'https://***@host' http://***@d"),
        ("GET https://h/t?service=s&access_token=secret&x=1", "GET https://h/t?service=s&access_token=***&x=1"),
        ("/1.0/operations/x/websocket?secret=0ab1", "/1.0/operations/x/websocket?secret=***"),
        ("https://h/b?X-Amz-Signature=secret&Expires=1", "https://h/b?X-Amz-Signature=***&Expires=1"),
        ("Authorization: Basic c2VjcmV0", "Authorization: ***"),
        ("https://host:443/v2/a@sha256:00 [::1]:80", "https://host:443/v2/a@sha256:00 [::1]:80"),
        ("docker://host:5000/app@sha256:00", "docker://host:5000/app@sha256:00"),
        ("--src-authfile /dev/lxdocker-secrets/auth.json", "--src-authfile /dev/lxdocker-secrets/auth.json"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, safe: str, tmp_path: Path) -> None:
    assert log.hidden(text) == safe
    shown: list[str] = []
    path = tmp_path / "log"
    with Log(shown.append, {"LXDOCKER_LOG": str(path)}) as opened:
        opened.be_verbose(2)
        HTTP.debug("%s", text)
    assert shown == [safe]
    assert path.read_text().endswith(f": {safe}\n")


def test_a_file_s_text_is_logged_as_what_reads_it(tmp_path: Path) -> None:
    script = tmp_path / "it's a script"
    script.write_text('printf "<%s>" "$@"\n')
    argv = ["sh", "-c", FileText.of(script), "sh", "a b", ""]
    assert argv[2] == 'printf "<%s>" "$@"\n'
    told = log.shell(argv)
    assert "printf" not in told
    assert told.startswith('sh -c "$(cat ')
    done = subprocess.run(["bash", "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "<a b><>"


def test_every_program_that_is_started_is_logged() -> None:
    """Whoever starts one has to say so."""
    starting, logging_it = set(), set()
    for path in Path(log.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
                place = (path.name, function.name)
                starting |= {place} if called & {"subprocess.run", "subprocess.Popen", "sh.Command"} else set()
                # A hook's arguments may be secret, so only its program is named.
                logging_it |= {place} if called & {"log.command", "RUN.info"} else set()
    assert len(starting) >= 5
    assert starting <= logging_it


def test_files_that_a_command_reads_and_writes_are_part_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = tmp_path / "a b"
    with caplog.at_level("INFO", "lxdocker"):
        log.command(["cat", "-"], given, "c d")
    assert caplog.messages == [f"+ cat - <{shlex.quote(str(given))} >'c d'"]
