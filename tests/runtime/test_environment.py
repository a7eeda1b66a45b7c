"""The environment file and the instance's own script, and what of them beats what."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.runtime.boxes import BRACES, Box, lines

pytestmark = pytest.mark.any_lxd  # what goes on inside an instance
Launch = Callable[..., Box]

NASTY = (
    r"""# a comment
   # another
PLAIN=value
SPACES= two  words
DOUBLE="quoted"
SINGLE='quoted'
CODE=$(touch /owned) `touch /owned` ${HOME}
HASH=a # b
EQUALS=a=b=c
BACKSLASH=a\nb\
EMPTY=
   INDENTED=yes
NOT A NAME=x
a.b=odd
no equals sign
=nothing
CRLF=windows"""
    + "\r\nFROM_INSTANCE=file\nPATH=/bin:/opt\nLAST=no newline"
)


def seen(launch: Launch, config: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """The application's environment, and the whole log."""
    script = "tr '\\0' '\\1' </proc/self/environ; echo; echo done"
    one = launch(config={"user.lxdocker.entrypoint": json.dumps(["/bin/sh", "-c", script]), **config})
    log = one.ended()
    listed = next(line for line in log.splitlines() if "\1" in line)
    return dict(item.split("=", 1) for item in listed.split("\1") if item), log


def prelaunch(script: str, **config: str) -> dict[str, str]:
    return {"user.lxdocker_init_script": script, **{key.replace("__", "."): value for key, value in config.items()}}


def writing(content: str) -> str:
    return f"cat >/run/env <<'END_OF_IT'\n{content}\nEND_OF_IT\nprintf %s \"$(cat /run/env)\" >/run/env\n"


def test_the_image_s_own_is_no_template(launch: Launch) -> None:
    one = launch("braces").ready()
    found = Path(f"/proc/{one.app_pid_on_host()}/environ").read_text()
    environment = dict(item.split("=", 1) for item in found.split("\0") if item)
    assert {name: environment.get(name) for name in BRACES} == BRACES


def test_the_file_is_data(launch: Launch) -> None:
    config = prelaunch(writing(NASTY), environment__LXDOCKER_ENVFILE="/run/env", environment__FROM_INSTANCE="instance")
    environment, log = seen(launch, config)
    assert {name: environment.get(name) for name in (
        "PLAIN", "SPACES", "DOUBLE", "SINGLE", "CODE", "HASH", "EQUALS", "BACKSLASH", "EMPTY", "INDENTED", "CRLF",
        "FROM_INSTANCE", "PATH", "LAST")} == {
        "PLAIN": "value", "SPACES": " two  words", "DOUBLE": '"quoted"', "SINGLE": "'quoted'",
        "CODE": "$(touch /owned) `touch /owned` ${HOME}", "HASH": "a # b", "EQUALS": "a=b=c", "BACKSLASH": "a\\nb\\",
        "EMPTY": "", "INDENTED": "yes", "CRLF": "windows", "FROM_INSTANCE": "instance", "PATH": "/bin:/opt",
        "LAST": "no newline",
    }  # fmt: skip
    assert environment["a.b"] == "odd"
    for name in ("NOT A NAME", ""):
        assert f"lxdocker: LXDOCKER_ENVFILE /run/env: '{name}' is not a name it may set; ignored" in log
    assert "done" in log


def test_nothing_in_it_was_run(launch: Launch) -> None:
    config = prelaunch(writing(NASTY), environment__LXDOCKER_ENVFILE="/run/env")
    one = launch(script="[ -e /owned ] && echo OWNED; echo done", config=config)
    assert not lines(one.ended(), "OWNED")


def test_a_file_that_is_not_there(launch: Launch) -> None:
    _, log = seen(launch, {"environment.LXDOCKER_ENVFILE": "/run/none"})
    assert "lxdocker: LXDOCKER_ENVFILE /run/none can't be read; continuing without it" in log


# ---- the instance's own script


def test_it_finds_mounts_and_environment_ready(launch: Launch) -> None:
    script = """
        echo "script: $$ $(id -u) $MINE $PATH $(cat /tmp/kept) '{{ % }}' <&>"
        mkdir /run/made
        read line
        echo "[$line]"
    """
    one = launch(script="ls -d /run/made", config=prelaunch(script, environment__MINE="set"))
    log = one.ended()
    found = lines(log, "^script: ")[0].split()
    assert found[2:4] == ["0", "set"]
    assert found[4].startswith("/usr/local/sbin:")
    assert "from the image '{{ % }}' <&>\n" in log
    assert lines(log, r"^\[\]")
    assert lines(log, "^/run/made")


def test_with_an_interpreter(launch: Launch) -> None:
    log = launch(script="echo app", config=prelaunch("#!/bin/awk -f\nBEGIN { print 6 * 7 }\n")).ended()
    assert lines(log, "^(42|app)") == ["42", "app"]


def test_an_interpreter_that_is_not_there(launch: Launch) -> None:
    log = launch(script="echo app", config=prelaunch("#!/usr/bin/python3\nprint(1)\n")).ended()
    assert "lxdocker: the prelaunch script (user.lxdocker_init_script) failed with status 127; starting anyway" in log
    assert lines(log, "^app")


def test_a_failure_is_said_and_the_application_starts(launch: Launch) -> None:
    log = launch(script="echo app", config=prelaunch("exit 7")).ended()
    assert "lxdocker: the prelaunch script (user.lxdocker_init_script) failed with status 7; starting anyway" in log
    assert lines(log, "^app")


def test_a_failure_where_it_is_required(launch: Launch) -> None:
    said = "lxdocker: the prelaunch script (user.lxdocker_init_script) failed with status 7"
    by_spec = launch("settled", config=prelaunch("exit 7"))
    by_instance = launch(config=prelaunch("exit 7", user__lxdocker__prelaunch="required"))
    overruled = launch("settled", script="echo app", config=prelaunch("exit 7", user__lxdocker__prelaunch="optional"))
    for one in (by_spec, by_instance):
        assert lines(one.ended(), "^lxdocker: ")[-1] == said
    assert lines(overruled.ended(), "^app")


def test_a_script_taken_away_is_gone(launch: Launch) -> None:
    one = launch(script="echo app", config=prelaunch("echo script"))
    assert lines(one.ended(), "^script")
    one._lxc("config", "unset", one.name, "user.lxdocker_init_script")
    one.start()
    one.ended()
    assert len(lines(one.log(), "^script")) == 1
    assert len(lines(one.log(), "^app")) == 2


def test_pipelines_of_the_prelaunch_script_end(launch: Launch) -> None:
    """By SIGPIPE, which LXD may ignore."""
    script = "od -An -tx1 /dev/urandom | head -n 1 >/run/made; grep SigIgn /proc/self/status >/run/ignored;"
    one = launch("user", config=prelaunch(f'{script} echo "$HOME $GREETING" >/run/known')).ready()
    assert len(one.file("/run/made").split()) == 16
    assert not int(one.file("/run/ignored").split()[1], 16) >> signal.SIGPIPE - 1 & 1
    assert one.file("/run/known") == "/home/app hello world\n"
