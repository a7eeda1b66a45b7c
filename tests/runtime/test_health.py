"""The image's health check, run by the supervisor: its state from outside, and what becomes of the application."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.lxd.rig import World
from tests.runtime.boxes import Box, lines
from tests.waiting import wait_until

pytestmark = pytest.mark.any_lxd  # what goes on inside an instance
Launch = Callable[..., Box]


def health(one: Box) -> tuple[int, list[str]]:
    status, output = one.exec("/lxd-health")
    return status, output.splitlines()


def until(one: Box, state: str) -> tuple[int, list[str]]:
    wait_until(f"{one.name} to be {state}", lambda: health(one)[1][:1] == [state])
    return health(one)


def test_starting_healthy_unhealthy_and_healthy_again(launch: Launch) -> None:
    one = launch("healthy", config={"user.lxdocker.restart": "always"})
    # No check has been made yet; then they fail, which counts since the start period is over.
    assert health(one)[0] in (2, 1)
    assert until(one, "unhealthy")[0] == 1
    assert one.runs("echo all is well >/dev/shm/fine")
    assert until(one, "healthy") == (0, ["healthy", "failures: 0", "last status: 0", "all is well"])
    assert one.runs("rm /dev/shm/fine")
    status, said = until(one, "unhealthy")
    assert status == 1
    assert int(said[1].removeprefix("failures: ")) >= 2
    assert said[2:] == ["last status: 1", "cat: can't open '/dev/shm/fine': No such file or directory"]
    one.log_with("lxdocker: the application is unhealthy: 2 checks failed, the last with status 1")
    # Saying so is all that is done about it.
    assert "starting it again" not in one.log()
    assert one.runs("echo mended >/dev/shm/fine")
    assert until(one, "healthy")[1][-1] == "mended"


def test_failures_while_it_may_still_be_starting_do_not_count(launch: Launch) -> None:
    one = launch("slow-start")
    time.sleep(2.5)
    assert health(one)[0] == 2
    assert health(one)[1][:3] == ["starting", "failures: 0", "last status: 1"]
    # Once it has been healthy, they do.
    assert one.runs("echo up >/dev/shm/fine")
    until(one, "healthy")
    assert one.runs("rm /dev/shm/fine")
    until(one, "unhealthy")


def test_a_check_by_the_shell_runs_as_the_image_s_user(launch: Launch) -> None:
    assert until(launch("healthy-shell"), "healthy")[1][-1] == "23 1000"


def test_a_check_that_hangs_has_failed_and_the_application_is_started_again(launch: Launch) -> None:
    one = launch("hanging", script="echo run; exec sleep 100000")
    log = one.log_with("(restart 1)")
    assert "the application is unhealthy: 2 checks failed, the last with status 137" in log
    one.log_with("(restart 2)")
    assert len(lines(one.log(), "^run")) >= 2
    # What the checks had started is gone with them.
    assert len(lines(one.shell("ps"), " sleep 7654$")) <= 1  # of a check at this moment
    one.stop()


def test_the_instance_may_have_it_left_alone(launch: Launch) -> None:
    one = launch("hanging", config={"user.lxdocker.restart_unhealthy": "false"})
    until(one, "unhealthy")
    time.sleep(1)
    assert "starting it again" not in one.log()
    one.stop()


def test_no_health_check(launch: Launch) -> None:
    for image in ("unchecked", "box"):
        assert health(launch(image)) == (3, ["none"])


def test_a_check_by_the_image_s_own_shell(launch: Launch) -> None:
    assert until(launch("own-shell"), "healthy")[1][-1] == "by /opt/sh"


def test_checks_are_more_frequent_while_it_may_still_be_starting(launch: Launch) -> None:
    one = launch("eager", script="sleep 1; echo up >/dev/shm/fine; exec sleep 100000")
    until(one, "healthy")


def test_what_a_check_prints_is_bounded_and_what_it_leaves_holds_up_nothing(launch: Launch) -> None:
    one = launch("chatty")
    status, said = until(one, "healthy")
    assert status == 0
    assert 4000 < len("\n".join(said)) < 4300
    used = int(one.shell("df -k /dev | awk 'NR == 2 { print $3 }'"))
    assert used < 100
    wait_until("the end of what the checks left", lambda: len(lines(one.shell("ps"), "[y]es left behind")) <= 2)


def test_the_image_says_how_it_is_checked(boxes: World) -> None:
    aliases, images = boxes.lxc.aliases(), boxes.lxc.images()
    said = {
        name: images[aliases[name]]["properties"].get("oci.healthcheck") for name in ("healthy", "unchecked", "box")
    }
    assert said == {"healthy": "/bin/cat /dev/shm/fine every 0.3 s", "unchecked": None, "box": None}
