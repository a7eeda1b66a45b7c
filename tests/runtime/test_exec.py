"""/lxd-exec: a command beside the application, as that is run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.runtime.boxes import Box
from tests.runtime.test_environment import prelaunch

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
    for wrong in ((), ("-x", "true"), ("-u",), ("-e", "=x", "true")):
        assert run(*wrong) == (125, USAGE)


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
