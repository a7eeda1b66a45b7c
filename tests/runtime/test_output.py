"""What an application prints: where it goes, who may open it by name, and how much of it is kept."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.lxd.rig import World
from tests.runtime.boxes import Box, lines
from tests.waiting import wait_until

pytestmark = pytest.mark.any_lxd  # what goes on inside an instance
Launch = Callable[..., Box]

BY_NAME = """
for name in /dev/stdout /dev/stderr /proc/self/fd/1 /dev/fd/2; do echo "by $name" >$name && echo opened; done
[ -t 1 ] || [ -t 2 ] || echo no terminal
[ ! -t 1 ] || echo "terminal $TERM $(stty size </dev/console)"
echo "TERM ${TERM-none}"
"""


@pytest.mark.parametrize("image", ["user", "box", "first"])
def test_stdio_can_be_opened_by_name(launch: Launch, image: str) -> None:
    """By whoever the application is, as under Docker; and it is as with or without `docker run --tty`."""
    log = launch(image, script=BY_NAME).ended()
    assert lines(log, "^by ") == [
        f"by {name}" for name in ("/dev/stdout", "/dev/stderr", "/proc/self/fd/1", "/dev/fd/2")
    ]
    assert len(lines(log, "^opened")) == 4
    if image == "first":
        assert lines(log, "(?i)^(no )?term") == ["terminal xterm 24 80", "TERM xterm"]
    else:
        assert lines(log, "(?i)^(no )?term") == ["no terminal", "TERM none"]


BY_PID_1 = """
echo out >/proc/1/fd/1; echo err >/proc/1/fd/2; ln -sf /proc/1/fd/1 /tmp/job.log; echo linked >>/tmp/job.log
[ -e /once ] && exec sleep 100000
: >/once; exit 1
"""


@pytest.mark.parametrize("image", ["box", "first"])
def test_what_jobs_write_to_pid_1_s_stdout(launch: Launch, image: str) -> None:
    """As cron jobs in Docker images do. ``first`` is PID 1 itself."""
    restarting = {"user.lxdocker.restart": "always"} if image == "box" else {}
    one = launch(image, script=BY_PID_1, config=restarting)
    said = ["out", "err", "linked"]
    if image == "first":
        assert lines(one.ended(), "^(out|err|linked)$") == said
        return
    wait_until("two runs", lambda: one.log().count("linked\n") == 2)
    assert one.runs("echo by exec >/proc/1/fd/1")
    wait_until("the last line", lambda: log_of(one, "-n", "1") == ["by exec"])
    assert lines(one.log(), "^(out|err|linked)$") == [*said, *said]
    assert [line for line in log_of(one) if line in said] == [*said, *said]
    one.stop()
    assert "lxdocker: stopping with SIGTERM" in one.log()


def log_of(one: Box, *arguments: str) -> list[str]:
    status, said = one.exec("/lxd-log", *arguments)
    assert status == 0, said
    return said.splitlines()


def test_the_log_outlives_a_restart_and_can_be_read_again(launch: Launch) -> None:
    one = launch(script="echo run $(cat /n); echo x >>/n; printf 'in \\033[31mred\\033[0m\\n'; exec sleep 100000")
    for runs in (1, 2):
        wait_until("the last line", lambda: log_of(one, "-n", "1") == ["in red"])
        for _ in range(2):
            said = log_of(one)
            assert len([line for line in said if line.startswith("lxdocker: started at 20")]) == runs
            assert len([line for line in said if line.startswith("run")]) == runs
        if runs == 1:
            one("restart", "--timeout", "20")
    assert any(line.startswith("lxdocker: stopping with SIGTERM") for line in log_of(one))
    assert any(line.startswith("lxdocker: /bin/sh was ended by signal 15") for line in log_of(one))


def test_more_lines_than_there_are(launch: Launch) -> None:
    one = launch(script="echo one; exec sleep 100000")
    wait_until("its line", lambda: "one" in log_of(one))
    for number in ("10", "999999999", "99999999999999999999"):
        assert log_of(one, "-n", number)[-1] == "one"
    assert one.exec("/lxd-log", "-n", "-1")[0] == 2


def test_following_the_log(launch: Launch, boxes: World) -> None:
    script = "echo one; read x </go; echo two; exec sleep 100000"
    one = launch(script=script, config={"user.lxdocker_init_script": "mkfifo /go"})
    one.log_with("one")
    command = ["lxc", "--project", boxes.lxc.project, "exec", one.name, "--", "/lxd-log", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("lxdocker: started at ")
        assert process.stdout.readline() == "one\n"
        assert one.runs("echo go >/go")
        assert process.stdout.readline() == "two\n"
        process.kill()


def test_the_log_is_bounded_and_whole(launch: Launch) -> None:
    """Ten times what is kept; no line of what is kept is missing or cut, also where one file follows the other."""
    lines_of_it = "i=100000; while [ $i -lt 250000 ]; do echo line $i of what it prints in a hurry; i=$((i + 1)); done"
    one = launch(script=f"{lines_of_it}; exec sleep 100000")
    wait_until("the last line", lambda: log_of(one, "-n", "1")[-1].startswith("line 249999 "), 120)
    size = int(one.shell("cat /.lxd-log/current /.lxd-log/previous | wc -c"))
    assert 1 << 20 < size < 4 << 20
    numbers = [int(line.split()[1]) for line in log_of(one)[1:] if line.startswith("line")]
    assert numbers == list(range(numbers[0], 250000))


def test_where_the_application_is_pid_1_the_console_has_it(launch: Launch) -> None:
    one = launch("first", script="echo up; exec sleep 100000")
    one.log_with("up")
    status, said = one.exec("/lxd-log")
    assert (status, said) == (
        1, "no log: the application is PID 1 and prints to the console; see lxc console --show-log\n"
    )  # fmt: skip


def test_wrong_arguments(launch: Launch) -> None:
    one = launch()
    for arguments in (("-x",), ("-n",), ("-n", "few")):
        assert one.exec("/lxd-log", *arguments) == (2, "usage: /lxd-log [-f] [-n LINES]\n")
