"""/lxd-exec: a command beside the application, as that is run."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lxd.rig import World
from tests.runtime.boxes import Box
from tests.runtime.test_environment import prelaunch
from tests.terminal import terminal

pytestmark = pytest.mark.any_lxd  # what goes on inside an instance
Launch = Callable[..., Box]
USAGE = "/lxd-exec: usage: /lxd-exec [-u USER[:GROUP]] [-w FOLDER] [-e NAME[=VALUE]]... COMMAND [ARGUMENT]...\n"


def test_with_all_that_the_application_has(launch: Launch) -> None:
    tool = "mkdir -p /opt/bin; printf '#!/bin/sh\\necho tool \"$@\"\\n' >/opt/bin/tool; chmod 755 /opt/bin/tool"
    config = prelaunch(
        f"printf 'FILE=from the file\\n' >/env; {tool}",
        environment__MINE='it\'s "mine"',
        environment__LXDOCKER_ENVFILE="/env",
    )
    one = launch("user", config=config).ready()

    def run(*command: str) -> tuple[int, str]:
        return one.exec("/lxd-exec", *command)

    # Right after the launch, from the image's PATH, with its arguments as they are.
    assert run("tool", "a b", "$x", "") == (0, "tool a b $x \n")
    script = 'echo "$(id -u) $PWD $GREETING $MINE $FILE ${HOME-} ${TERM-none}"'
    assert run("sh", "-c", script) == (0, '1000 /srv hello world it\'s "mine" from the file /home/app none\n')
    assert run("-u", "root", "-w", "/bin", "sh", "-c", script)[1].split(" hello")[0] == "0 /bin"
    assert run("-u", "root", "sh", "-c", "echo $HOME")[1] == "/root\n"
    assert run("--user=7:8", "sh", "-c", "id -u; id -g") == (0, "7\n8\n")
    assert run("-e", "GREETING=a  'b", "-eX=1", "-it", "sh", "-c", 'echo "$GREETING $X"') == (0, "a  'b 1\n")
    # It is nobody's variable but the command's.
    assert run("-e", "_bb=/evil", "-e", "_user=0", "sh", "-c", 'echo "$_bb $(id -u)"') == (0, "/evil 1000\n")
    done = one.exec("/busybox-lxd", "env", "GIVEN=from outside", "/lxd-exec", "-e", "GIVEN", "sh", "-c", "echo $GIVEN")
    assert done == (0, "from outside\n")
    # Statuses as those of `docker exec`.
    assert run("sh", "-c", "exit 42")[0] == 42
    why = "no such program in the image (working directory /srv, PATH /opt/bin:/bin)"
    # To which lxc may add words of its own.
    status, said = run("missing")
    assert status == 127
    assert f"/lxd-exec: can't run 'missing': {why}" in said.splitlines()
    for given, why in (
        (["/etc/passwd"], "can't run '/etc/passwd': it is not executable"),
        (["-w", "/nowhere", "true"], "can't enter the working directory /nowhere"),
    ):
        status, said = run(*given)
        assert status == 126
        assert f"/lxd-exec: {why}" in said.splitlines()
    assert run("-u", "ghost", "true") == (
        125, "/lxd-exec: user 'ghost' is not in the image's /etc/passwd\n"
    )  # fmt: skip
    assert run("-u", "root:ghosts", "true") == (
        125, "/lxd-exec: group 'ghosts' is not in the image's /etc/group\n"
    )  # fmt: skip
    for user, what in (("4000000000", "user 4000000000"), ("99999999999999999999", "user 99999999999999999999")):
        status, said = run("-u", user, "true")
        assert (status, f"{what} is outside the instance's ID map, which ends at " in said) == (125, True)
    assert run("-u", "0:4000000000", "true")[0] == 125
    for folder in ("-", "bin"):
        said = f"/lxd-exec: the working directory {folder} is not an absolute path\n"
        assert run("-w", folder, "true") == (125, said)
    for wrong in ((), ("-x", "true"), ("-u",), ("-e", "=x", "true")):
        assert run(*wrong) == (125, USAGE)


def test_a_user_in_the_last_line_of_a_file_that_does_not_end_it(launch: Launch) -> None:
    one = launch("last-line").ready()
    assert one.exec("/lxd-exec", "sh", "-c", "id -u; id -g; echo $HOME") == (0, "1500\n1500\n/home/last\n")
    assert one.exec("/lxd-exec", "-u", "1500", "sh", "-c", "echo $HOME") == (0, "/home/last\n")


def test_the_user_can_open_the_terminal_by_its_name(launch: Launch, boxes: World) -> None:
    one = launch("user").ready()
    command = ["lxc", "--project", boxes.project, "exec", "-t", one.name, "--", "/lxd-exec", "sh", "-c"]
    for name in ("/dev/stdout", "/dev/stderr", "$(tty)"):
        script = f"id -u; echo by name >{name}; sleep 1000"  # what a command says at its end may be lost
        with terminal([*command, script], 80, 24, cwd=Path("/"), environment=dict(os.environ)) as shown:
            shown.wait_for("both lines", lambda seen: seen[:2] == ["1000", "by name"])


def test_it_is_for_root(launch: Launch, boxes: World) -> None:
    one = launch().ready()
    for program, why in (("/lxd-exec", "only root can use it"), ("/lxd-log", "can't be read without root")):
        words = ["lxc", "--project", boxes.project, "exec", "--user", "1000", "--cwd", "/etc", one.name, "--", program]
        for _ in range(3):  # LXD sometimes loses what a command says at its end
            began = time.monotonic()
            done = subprocess.run(
                [*words, *(["id"] if "exec" in program else [])], capture_output=True, text=True, check=False
            )
            if done.stderr:
                break
        assert why in done.stderr
        assert done.returncode != 0
        assert done.stdout == ""
        assert time.monotonic() - began < 9  # it does not wait for what will not come


@pytest.mark.parametrize("image", ["first", "own-init"])
def test_beside_an_application_that_is_pid_1(launch: Launch, image: str) -> None:
    one = launch(image, config={"environment.MINE": "1"})
    assert one.exec("/lxd-exec", "sh", "-c", "echo $MINE $(id -u)") == (0, f"1 {'1000' if image == 'first' else '0'}\n")


def test_before_there_is_an_application(launch: Launch) -> None:
    """It waits: nobody knows when that is."""
    one = launch(config=prelaunch("echo preparing; sleep 2; echo prepared"))
    one.log_with("preparing")
    assert one.exec("/lxd-exec", "sh", "-c", "echo ran") == (0, "ran\n")
    assert "prepared" in one.log()
