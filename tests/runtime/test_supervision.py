"""PID 1 as supervisor: how an application ends, is ended, and is started again, and what becomes of the instance."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lxd.rig import World
from tests.runtime.boxes import Box, Stopwatch, lines
from tests.waiting import wait_until

Launch = Callable[..., Box]


def restarting(policy: str) -> dict[str, str]:
    return {"user.lxdocker.restart": policy}


# ---- the application ends by itself


def test_the_log_says_how_it_ended_and_the_instance_stops(launch: Launch) -> None:
    ends = {
        "exit 0": "ended with status 0 after ",
        "sleep 2; exit 3": "ended with status 3 after ",
        "exit 255": "ended with status 255 after ",
        "kill -KILL $$": "was ended by signal 9 (KILL) after ",
        "kill -SEGV $$": "was ended by signal 11 (SEGV) after ",
        "kill -40 $$": "was ended by signal 40 after ",
    }
    boxes = {end: launch(script=end) for end in ends}
    for end, said in ends.items():
        log = boxes[end].ended()
        assert lines(log, "^lxdocker: ")[-1].startswith(f"lxdocker: /bin/sh {said}"), log


def test_killed_from_inside(launch: Launch) -> None:
    one = launch(script="exec sleep 100000")
    assert one.runs(f"kill -KILL {wait_until('the application', one.app_pid)}")
    assert "lxdocker: /bin/sh was ended by signal 9 (KILL) after" in one.ended()


def test_what_it_leaves_behind_does_not_keep_the_instance_running(launch: Launch) -> None:
    watch = Stopwatch()
    launch(script="trap '' TERM; sleep 100000 & setsid sleep 100000 & sleep 0.2; exit 4").ended()
    assert watch.seconds < 20


def test_all_it_prints_arrives_in_order(launch: Launch) -> None:
    """The last line, too, when it ends at once. LXD's buffer for the console holds 128 KiB by default."""
    one = launch(
        script="i=1; while [ $i -le 2000 ]; do echo line $i; i=$((i + 1)); done; printf 'no newline at the end'"
    )
    log = one.ended()
    assert lines(log, "^line ") == [f"line {number}" for number in range(1, 2001)]
    assert lines(log, "^no newline at the end")


def test_output_while_it_is_being_stopped(launch: Launch) -> None:
    one = launch(script="trap 'i=1; while [ $i -le 500 ]; do echo bye $i; i=$((i + 1)); done; exit 0' TERM; echo up; "
                        "while :; do sleep 0.1; done")  # fmt: skip
    one.log_with("up")
    one.stop()
    assert lines(one.log(), "^bye ") == [f"bye {number}" for number in range(1, 501)]


# ---- and is started again


def test_restart_on_failure_so_often_from_the_spec(launch: Launch) -> None:
    log = launch("settled").ended()
    assert lines(log, "^a run") == ["a run"] * 3
    said = [re.sub(r"after [01] s", "after a moment", line) for line in lines(log, "^lxdocker: ")]
    assert said == [
        "lxdocker: /bin/sh ended with status 3 after a moment; starting it again in 0.1 s (restart 1)",
        "lxdocker: /bin/sh ended with status 3 after a moment; starting it again in 0.2 s (restart 2)",
        "lxdocker: /bin/sh ended with status 3 after a moment",
    ]


def test_the_instance_says_otherwise(launch: Launch) -> None:
    log = launch("settled", config=restarting("no")).ended()
    assert lines(log, "^a run") == ["a run"]


def test_on_failure_ends_with_the_first_success(launch: Launch) -> None:
    script = "echo run; n=$(cat /dev/shm/n 2>/dev/null); echo x$n >/dev/shm/n; [ ${#n} -ge 2 ]"
    log = launch(script=script, config=restarting("on-failure")).ended()
    assert lines(log, "^run") == ["run"] * 3
    assert "lxdocker: /bin/sh ended with status 0 after" in log


def test_always_starts_it_again_with_growing_pauses_until_it_is_stopped(launch: Launch) -> None:
    one = launch(script="echo run", config=restarting("always"))
    log = one.log_with("(restart 5)")
    pauses = [line.split(" in ")[1].split(" ")[0] for line in lines(log, "starting it again")]
    assert pauses == ["0.1", "0.2", "0.4", "0.8", "1.6"]
    one.log_with("(restart 6)")  # 3.2 s: it is stopped while nothing runs
    watch = Stopwatch()
    one.stop()
    assert watch.seconds < 3
    assert one.status == "Stopped"


def test_after_a_stable_while_it_is_as_new(launch: Launch) -> None:
    # Ten seconds of running count as stable.
    script = "n=$(cat /dev/shm/n 2>/dev/null); echo x$n >/dev/shm/n; [ ${#n} -ne 2 ] || sleep 10.2; exit 1"
    one = launch(script=script, config=restarting("on-failure:3"))
    log = one.ended()
    said = [line.partition("; ")[2] for line in lines(log, "starting it again")]
    counted = ["starting it again in 0.1 s (restart 1)", "starting it again in 0.2 s (restart 2)",
               "starting it again in 0.4 s (restart 3)"]  # fmt: skip
    assert said == [*counted[:2], *counted]


def test_killed_and_started_again(launch: Launch) -> None:
    one = launch(config=restarting("on-failure"))
    first = wait_until("the application", one.app_pid)
    assert one.runs(f"kill -KILL {first}")
    one.log_with("was ended by signal 9 (KILL)")
    wait_until("another process", lambda: one.app_pid() not in (None, first))
    one.stop()


def test_an_unknown_policy_is_refused(launch: Launch) -> None:
    one = launch(config=restarting("sometimes"))
    assert "user.lxdocker.restart is not no, on-failure, on-failure:N or always: sometimes" in one.ended()


# ---- it is stopped


def test_five_seconds_to_shut_down(launch: Launch) -> None:
    one = launch(script="trap 'echo closing; sleep 5; echo closed; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    one.log_with("up")
    watch = Stopwatch()
    one.stop()
    assert 5 < watch.seconds < 12
    log = one.log()
    assert lines(log, "^clos") == ["closing", "closed"]
    assert lines(log, "^lxdocker: ")[0] == "lxdocker: stopping with SIGTERM, and SIGKILL after 30 s"
    assert lines(log, "^lxdocker: ")[-1].startswith("lxdocker: /bin/sh ended with status 0 after")


def test_one_that_ignores_its_stop_signal_is_killed_after_the_grace_period(launch: Launch) -> None:
    one = launch(script="trap '' TERM; echo up; while :; do sleep 0.1; done", config={"user.lxdocker.stop_grace": "2"})
    one.log_with("up")
    watch = Stopwatch()
    one.stop()
    assert 2 < watch.seconds < 9
    log = one.log()
    assert "lxdocker: it did not end within 2 s; killing it" in log
    assert "lxdocker: /bin/sh was ended by signal 9 (KILL) after" in log


def test_the_grace_period_of_the_spec(launch: Launch) -> None:
    one = launch("settled", script="trap '' TERM; echo up; while :; do sleep 0.1; done")
    one.log_with("up")
    one.stop()
    assert "lxdocker: it did not end within 1 s; killing it" in one.log()


def test_stopping_a_second_time_while_it_stops(launch: Launch) -> None:
    one = launch(script="trap 'echo closing; sleep 3; echo closed; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    one.log_with("up")
    for _ in range(3):
        assert one.runs("kill -PWR 1")
        time.sleep(0.3)
    assert lines(one.ended(), "^clos") == ["closing", "closed"]


def test_stopped_before_the_application_was_started(launch: Launch) -> None:
    """While the instance's own script runs, as while it waits for an address."""
    one = launch(config={"user.lxdocker_init_script": "echo preparing; sleep 2"})
    one.log_with("preparing")
    one.stop()
    assert "lxdocker: stopped before the application was started" in one.log()
    assert one.status == "Stopped"


def test_with_a_shell_in_the_instance(launch: Launch) -> None:
    """Someone's shell neither keeps it from stopping nor ends with the application's process group."""
    one = launch(config=restarting("always"))
    command = [
        "lxc",
        "--project",
        one._lxc.project,
        "exec",
        one.name,
        "--",
        "/bin/sh",
        "-c",
        "echo in; sleep 5; echo out",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        assert process.stdout
        assert process.stdout.readline() == "in\n"
        assert one.runs(f"kill -KILL {wait_until('the application', one.app_pid)}")
        assert process.communicate(timeout=30)[0] == "out\n"
    one.stop()


# ---- and started again, as an instance

COUNTED = """
echo run $(cat /runs 2>/dev/null | wc -l)
echo x >>/runs
trap 'echo x >>/ends; echo ended; exit 0' TERM
while :; do sleep 0.05; done
"""


def test_lxc_restart(launch: Launch) -> None:
    one = launch(script=COUNTED)
    one.log_with("run 0")
    pid = one.pid
    one("restart")
    one.log_with("run 1")
    assert one.pid != pid


@pytest.mark.parametrize("how", ["/busybox-lxd reboot", "kill -TERM 1", "kill -INT 1"])
def test_a_reboot_from_inside(launch: Launch, how: str) -> None:
    one = launch(script=COUNTED)
    one.log_with("run 0")
    pid = one.pid
    assert one.runs(how)
    wait_until("another run", lambda: one.status == "Running" and one.runs("[ $(wc -l </runs) = 2 ]"))
    assert one.pid != pid
    one.stop()
    assert one.status == "Stopped"


@pytest.mark.parametrize("how", ["halt", "poweroff"])
def test_off_from_inside(launch: Launch, how: str) -> None:
    one = launch(script=COUNTED)
    one.log_with("run 0")
    assert one.runs(f"/busybox-lxd {how}")
    assert lines(one.ended(), "^ended")


@pytest.fixture(scope="module", autouse=True)
def hundred(request: pytest.FixtureRequest, boxes: World) -> Iterator[Future[str] | None]:
    """A hundred restarts, beside the other tests: most of it is waiting for LXD."""
    if not any(item.name == "test_a_hundred_restarts" for item in request.session.items):
        yield None
        return
    one = Box(boxes.lxc, "box", COUNTED)
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(restart_a_hundred_times, one)
    one.delete()


def restart_a_hundred_times(one: Box) -> str:
    for run in range(100):
        wait_until(f"run {run}", lambda: one.runs(f"[ $(wc -l </runs) = {run + 1} ]"))  # noqa: B023 - called at once
        pid = one.pid
        one("restart", "--timeout", "30")
        assert one.status == "Running"
        assert one.pid != pid
    # Each time it was given its time, and the next run found what it had written.
    one.log_with("run 100")
    assert one.file("/ends") == "x\n" * 100
    one.stop()
    return one.log()


# ---- PID 1


def zombies(one: Box) -> list[str]:
    return lines(one.shell("cat /proc/[0-9]*/stat 2>/dev/null"), r"\) Z ")


def test_ten_thousand_orphans(launch: Launch) -> None:
    # Each `( : & )` leaves a process without a parent.
    one = launch(
        script="echo up; i=0; while [ $i -lt 10000 ]; do ( : & ); i=$((i + 1)); done; echo done; exec sleep 100000"
    )
    one.log_with("up")
    wait_until("ten thousand of them", lambda: "done" in one.log(), 120)
    wait_until("no zombies", lambda: not zombies(one), 10)
    assert int(one.host_status()["VmRSS"].split()[0]) < 2048
    one.stop()


def test_zombies_of_any_depth(launch: Launch) -> None:
    deep = "(" * 20 + "sleep 0.3 & sleep 0.2 &" + ") &" * 20
    one = launch(script=f"({deep}); echo up; exec sleep 100000")
    one.log_with("up")
    time.sleep(0.6)
    wait_until("no zombies", lambda: not zombies(one), 5)


def test_orphans_are_reaped_while_it_pauses(launch: Launch) -> None:
    """Between two runs, PID 1 waits for a clock and not for the application."""
    one = launch(script="setsid sleep 1 & exit 1", config=restarting("always"))
    one.log_with("(restart 6)")
    time.sleep(1.5)
    assert not zombies(one)


def test_small_and_idle(launch: Launch) -> None:
    one = launch(config=restarting("always"))
    wait_until("the application", one.app_pid)
    time.sleep(1)  # until it has settled

    def switches() -> int:
        status = one.host_status()
        return int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])

    before = switches()
    time.sleep(4)
    assert switches() == before
    assert int(one.host_status()["VmRSS"].split()[0]) < 2048


def test_keys_typed_at_the_console_are_not_signals(launch: Launch, boxes: World) -> None:
    """Whoever looks at the console must neither reboot the instance nor freeze its output."""
    one = launch(script="echo up; while :; do echo tick; sleep 0.2; done")
    one.log_with("tick")
    pid = one.pid
    fd, terminal = pty.openpty()
    command = ["lxc", "--project", boxes.lxc.project, "console", one.name]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        try:
            time.sleep(1)  # until it is connected
            for key in (b"\x03", b"\x1c", b"\x1a", b"\x13"):
                os.write(fd, key)
                time.sleep(0.3)
        finally:
            process.kill()
    ticks = len(lines(one.log(), "^tick"))
    wait_until("more output", lambda: len(lines(one.log(), "^tick")) > ticks + 3)
    assert one.pid == pid
    assert "stopping" not in one.log()


# ---- what can't be started


def test_a_user_that_is_not_there(launch: Launch) -> None:
    log = launch("nobody").ended()
    assert "lxdocker: the image runs as user 'ghost', which is not in its /etc/passwd" in log


def test_a_program_that_is_not_there(launch: Launch) -> None:
    log = launch("no-program").ended()
    assert "lxdocker: can't run '/opt/missing': no such program in the image" in log


def test_instance_state_of_one_that_failed_is_clean(launch: Launch) -> None:
    """It can be started again once what was wrong is mended."""
    one = launch("no-program")
    one.ended()
    one._lxc("config", "set", one.name, "user.lxdocker.entrypoint=" + json.dumps(["/bin/echo", "mended"]))
    one.start()
    assert "mended" in one.ended()
    assert not Path(f"/proc/{one.state()['pid']}/cmdline").exists()


# ---- last, since it began first


def test_a_hundred_restarts(hundred: Future[str]) -> None:
    hundred.result(timeout=300)
