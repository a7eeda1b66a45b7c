"""Commands in a builder: their streams, how they end, and when they are no longer waited for."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from lxdocker.builder import image, placement, recipe
from lxdocker.builder.instance import Builder, Workshop
from lxdocker.builder.recipe import SECRETS
from lxdocker.config.settings import load
from lxdocker.errors import BuildError, LxdError
from lxdocker.http.route import NOWHERE
from lxdocker.lxd.api import Cancelled, Lxd
from lxdocker.lxd.command import MOST_SAID
from lxdocker.lxd.websocket import Websocket
from tests.lxd.rig import Lxc
from tests.waiting import wait_until

SHELL = ("/bin/busybox", "sh", "-c")
ENDLESS = [*SHELL, "while :; do echo y; done"]


@pytest.fixture(scope="module")
def builder(builder_image: str) -> Iterator[Builder]:
    lxd, settings = Lxd(), load({}, {})
    placed = placement.prepare(lxd, settings)
    made = image.find(lxd, placed.project)
    assert made
    workshop = Workshop(lxd, placed, made.fingerprint)
    with workshop.builder(NOWHERE) as builder:
        yield builder
    workshop.close()


def test_all_three_streams(builder: Builder) -> None:
    sent = random.Random(1).randbytes(3_000_000)
    script = [*SHELL, "/bin/busybox cat; echo done >&2; exit 7"]
    with builder.running(script, seconds=30, stdin=sent) as (command, end):
        assert b"".join(command.output()) == sent
        result = end()
    assert (result.status, result.stdout, result.stderr) == (7, "", "done\n")


def test_what_is_asked_for_is_what_runs(builder: Builder) -> None:
    words = ["", "two  words", "$HOME", "\n", "ü"]
    result = builder.try_run(["/bin/busybox", "printf", "<%s>", *words], seconds=30)
    assert (result.status, result.stdout) == (0, "".join(f"<{word}>" for word in words))


def test_of_what_is_said_the_last_is_kept(builder: Builder) -> None:
    """However much it is, and whichever stream is read first."""
    script = 'i=0; while [ $i -lt 40000 ]; do echo "line $i" >&2; i=$((i + 1)); done; echo out'
    result = builder.try_run([*SHELL, script], seconds=60)
    assert result.stdout == "out\n"
    assert len(result.stderr) == MOST_SAID
    assert result.stderr.endswith("line 39998\nline 39999\n")


def test_a_program_that_is_not_there(builder: Builder) -> None:
    with pytest.raises(LxdError) as caught:
        builder.try_run(["/nosuch"], seconds=30)
    assert caught.value.details == "Command not found"


def test_one_that_ends_without_reading(builder: Builder) -> None:
    assert builder.try_run([*SHELL, "exit 3"], seconds=30, stdin=bytes(5_000_000)).status == 3


@pytest.mark.parametrize("script", ["sleep 60", "while :; do echo; done", "exec >&- 2>&-; sleep 60"])
def test_it_may_take_only_so_long(builder: Builder, script: str) -> None:
    with pytest.raises(LxdError, match="failed") as caught:
        builder.try_run([*SHELL, script], seconds=2)
    assert caught.value.details == "it took longer than 2 s"


def test_more_time_can_be_allowed(builder: Builder) -> None:
    with builder.running([*SHELL, "echo one; sleep 3; echo two"], seconds=2) as (command, end):
        pieces = command.output()
        assert next(pieces) == b"one\n"
        command.allow(30)
        assert b"".join(pieces) == b"two\n"
        assert end().status == 0


def test_a_slow_reader_misses_nothing(builder: Builder) -> None:
    """LXD forgets how a command ended 5 s after it did."""
    with builder.running([*SHELL, "echo out; echo said >&2; exit 4"], seconds=30) as (command, end):
        time.sleep(7)
        assert b"".join(command.output()) == b"out\n"
        assert (end().status, end().stderr) == (4, "said\n")


def test_one_that_is_left_is_not_waited_for(builder: Builder) -> None:
    with builder.running(ENDLESS, seconds=600) as (command, _):
        next(command.output())
    pulling = builder.pull("/bin/busybox")
    next(pulling)
    pulling.close()
    assert builder.try_run([*SHELL, "echo still here"], seconds=30).stdout == "still here\n"


def test_a_user_who_wants_to_stop(builder: Builder) -> None:
    cancelled = threading.Event()
    own = Builder(Lxd(cancelled), builder.project, builder.name, builder._connection)
    threading.Timer(1, cancelled.set).start()
    with pytest.raises(Cancelled):
        own.try_run([*SHELL, "sleep 600"], seconds=600)


def test_cleaning_up_goes_on_when_the_user_wants_to_stop(builder: Builder) -> None:
    cancelled = threading.Event()
    own = Builder(Lxd(cancelled), builder.project, builder.name, builder._connection)
    cancelled.set()
    cleaning = [*SHELL, "sleep 1; echo done"]
    assert own.try_run(cleaning, seconds=30, cancellable=False).stdout == "done\n"


def test_however_short_a_command_is_its_end_is_known(builder: Builder) -> None:
    for status in range(40):
        assert builder.try_run([*SHELL, f"exit {status}"], seconds=30).status == status


def test_a_file_comes_whole(builder: Builder) -> None:
    builder.run("writing", [*SHELL, "/bin/busybox head -c 20000000 /dev/urandom >/root/file"], seconds=30)
    there = builder.try_run(["/bin/busybox", "sha256sum", "/root/file"], seconds=30).stdout.split()[0]
    assert hashlib.sha256(b"".join(builder.pull("/root/file"))).hexdigest() == there
    with pytest.raises(BuildError, match="reading /nosuch failed"):
        list(builder.pull("/nosuch"))


def test_why_it_could_not_be_run_is_said_in_lxds_own_words(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Websocket):
        def __init__(self, *arguments: Any) -> None:
            time.sleep(3)  # of four, and LXD waits 5 to 10 s for all
            super().__init__(*arguments)

    monkeypatch.setattr("lxdocker.lxd.command.Websocket", Late)
    with pytest.raises(LxdError, match="hurrying failed") as caught:
        builder.run("hurrying", ["/bin/busybox", "true"], seconds=30)
    assert caught.value.details == "Timed out waiting for websockets to connect"


def test_cleaning_up_ends_what_a_build_left_at_work(builder: Builder) -> None:
    folders = f"{SECRETS} /cache/work/{builder.name}"
    left = f"/bin/busybox mkdir -p {folders}; /bin/busybox sleep 1000 >/dev/null 2>&1 &"
    look = f"/bin/busybox ls -d {folders}; /bin/busybox ps"
    builder.run("leaving something", [*SHELL, left], seconds=30)
    there = builder.try_run([*SHELL, look], seconds=30).stdout.splitlines()
    assert there[:2] == sorted(folders.split())
    assert any(line.endswith("sleep 1000") for line in there)
    builder.run("cleaning up", recipe._clean_up_argv(builder), seconds=30)
    there = builder.try_run([*SHELL, look], seconds=30).stdout.splitlines()
    assert not any(line.startswith("/") or line.endswith("sleep 1000") for line in there)


def test_proxies_are_not_for_lxd(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert builder.try_run(["/bin/busybox", "true"], seconds=30).status == 0


def test_a_builder_that_goes_away(builder_image: str, builder: Builder) -> None:
    lxd = Lxd()
    placed = placement.prepare(lxd, load({}, {}))
    made = image.find(lxd, placed.project)
    assert made
    workshop = Workshop(lxd, placed, made.fingerprint)
    with workshop.builder(NOWHERE) as other, other.running(ENDLESS, seconds=60) as (command, end):
        next(command.output())
        Lxc(placed.project)("delete", "--force", other.name)
        try:
            deque(command.output(), maxlen=0)
            status = end().status
        except LxdError:
            status = -1
    assert status != 0
    workshop.close()
    wait_until("its end", lambda: other.name not in Lxc(placed.project).instances())
