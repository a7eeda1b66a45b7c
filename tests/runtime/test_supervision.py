"""PID 1 as supervisor: how an application ends, is ended, and is started again, and what becomes of the instance."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.lxd.rig import Lxc, World
from tests.runtime.boxes import Box, Stopwatch, lines
from tests.waiting import wait_until

Launch = Callable[..., Box]


def restarting(policy: str) -> dict[str, str]:
    return {"user.lxdocker.restart": policy}


# ---- the application ends by itself


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
def test_killed_from_inside(launch: Launch) -> None:
    one = launch(script="exec sleep 100000")
    assert one.runs(f"kill -KILL {wait_until('the application', one.app_pid)}")
    assert "lxdocker: /bin/sh was ended by signal 9 (KILL) after" in one.ended()


@pytest.mark.any_lxd
def test_what_it_leaves_behind_does_not_keep_the_instance_running(launch: Launch) -> None:
    watch = Stopwatch()
    launch(script="trap '' TERM; sleep 100000 & setsid sleep 100000 & sleep 0.2; exit 4").ended()
    assert watch.seconds < 20


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
def test_restart_on_failure_so_often_from_the_spec(launch: Launch) -> None:
    log = launch("settled").ended()
    assert lines(log, "^a run") == ["a run"] * 3
    said = [re.sub(r"after [01] s", "after a moment", line) for line in lines(log, "^lxdocker: ")]
    assert said == [
        "lxdocker: /bin/sh ended with status 3 after a moment; starting it again in 0.1 s (restart 1)",
        "lxdocker: /bin/sh ended with status 3 after a moment; starting it again in 0.2 s (restart 2)",
        "lxdocker: /bin/sh ended with status 3 after a moment",
    ]


@pytest.mark.any_lxd
def test_the_instance_says_otherwise(launch: Launch) -> None:
    log = launch("settled", config=restarting("no")).ended()
    assert lines(log, "^a run") == ["a run"]


@pytest.mark.any_lxd
def test_on_failure_ends_with_the_first_success(launch: Launch) -> None:
    script = "echo run; n=$(cat /dev/shm/n 2>/dev/null); echo x$n >/dev/shm/n; [ ${#n} -ge 2 ]"
    log = launch(script=script, config=restarting("on-failure")).ended()
    assert lines(log, "^run") == ["run"] * 3
    assert "lxdocker: /bin/sh ended with status 0 after" in log


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
def test_after_a_stable_while_the_pauses_begin_anew(launch: Launch) -> None:
    # Ten seconds of running count as stable.
    script = "n=$(cat /dev/shm/n 2>/dev/null); echo x$n >/dev/shm/n; [ ${#n} -ne 2 ] || sleep 10.2; exit 1"
    one = launch(script=script, config=restarting("on-failure:3"))
    log = one.ended()
    said = [line.partition("; ")[2] for line in lines(log, "starting it again")]
    # The pauses begin anew, but as under Docker, not the count.
    assert said == [
        "starting it again in 0.1 s (restart 1)",
        "starting it again in 0.2 s (restart 2)",
        "starting it again in 0.1 s (restart 3)",
    ]


@pytest.mark.any_lxd
def test_killed_and_started_again(launch: Launch) -> None:
    one = launch(config=restarting("on-failure"))
    first = wait_until("the application", one.app_pid)
    assert one.runs(f"kill -KILL {first}")
    one.log_with("was ended by signal 9 (KILL)")
    wait_until("another process", lambda: one.app_pid() not in (None, first))
    one.stop()


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


@pytest.mark.any_lxd
def test_one_that_ignores_its_stop_signal_is_killed_after_the_grace_period(launch: Launch) -> None:
    one = launch(script="trap '' TERM; echo up; while :; do sleep 0.1; done", config={"user.lxdocker.stop_grace": "2"})
    one.log_with("up")
    watch = Stopwatch()
    one.stop()
    assert 2 < watch.seconds < 9
    log = one.log()
    assert "lxdocker: it did not end within 2 s; killing it" in log
    assert "lxdocker: /bin/sh was ended by signal 9 (KILL) after" in log


FULL = """
trap 'echo saving; exit 0' TERM
mkfifo /tmp/never
while command eval 'sleep 1000 &'; do :; done 2>/dev/null
echo full
while :; do read x <>/tmp/never; done
"""  # as many processes as it may have


def test_an_application_that_leaves_no_process_to_start_is_stopped_in_order(launch: Launch) -> None:
    one = launch(script=FULL, config={"limits.processes": "60"})
    one.log_with("full")
    one.stop()
    log = one.log()
    assert "saving" in log
    assert "lxdocker: /bin/sh ended with status 0 after" in log


def test_one_that_is_checked_goes_on_where_no_process_can_be_started(launch: Launch) -> None:
    """A check that can't be made is no reason for PID 1 to end, or to be busy."""
    one = launch("healthy", script=FULL, config={"limits.processes": "60"})
    one.log_with("full")
    time.sleep(6)  # some checks
    one.stop()
    log = one.log()
    assert "lxdocker: the application is unhealthy" in log
    assert "lxdocker: /bin/sh ended with status 0 after" in log
    assert log.count("can't fork") < 100


def test_after_its_end_those_that_fill_the_limit_do_not_keep_it_from_being_started_again(launch: Launch) -> None:
    script = f"echo run >>/tmp/runs; [ $(wc -l </tmp/runs) -lt 2 ] || exec sleep 1000\n{FULL}".replace(
        "echo full", "echo full; exit 1"
    )
    one = launch(script=script, config={"limits.processes": "60", "user.lxdocker.restart": "on-failure"})
    one.log_with("restart 1")
    wait_until("the second run", lambda: one.exec("wc", "-l", "/tmp/runs")[1].startswith("2 "))


@pytest.mark.any_lxd
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


def test_a_reboot_from_inside(launch: Launch) -> None:
    """By the signal that LXD's library sends for one."""
    one = launch(script=COUNTED)
    one.log_with("run 0")
    pid = one.pid
    assert one.runs("kill -INT 1")
    wait_until("another run", lambda: one.status == "Running" and one.runs("[ $(wc -l </runs) = 2 ]"))
    assert one.pid != pid
    one.stop()
    assert one.status == "Stopped"


@pytest.mark.parametrize("number", ["PWR", "37"])
def test_off_from_inside(launch: Launch, number: str) -> None:
    """By either of those that LXD sends."""
    one = launch(script=COUNTED)
    one.log_with("run 0")
    assert one.runs(f"kill -{number} 1")
    assert lines(one.ended(), "^ended")


# ---- other signals


FORWARDED = ["HUP", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT", "WINCH", "40"]
HEARING = "".join(f"trap 'echo got {name}' {name}; " for name in FORWARDED) + "echo up; while :; do sleep 0.05; done"


@pytest.mark.any_lxd
def test_signals_to_pid_1_are_for_the_application(launch: Launch) -> None:
    one = launch(script=HEARING)
    one.log_with("up")
    for name in FORWARDED:
        assert one.runs(f"kill -{name} 1")
        one.log_with(f"got {name}\n")
    assert lines(one.log(), "^got") == [f"got {name}" for name in FORWARDED]
    assert "stopping" not in one.log()


@pytest.mark.any_lxd
def test_signals_that_the_application_does_not_know_are_dropped(launch: Launch) -> None:
    """As the kernel does for PID 1, which the application would be under Docker."""
    one = launch(script="trap 'echo got USR2' USR2; echo up; while :; do sleep 0.05; done")
    one.log_with("up")
    app, pid = one.app_pid(), one.pid
    for name in [*FORWARDED, "USR2"]:
        assert one.runs(f"kill -{name} 1")
    one.log_with("got USR2")
    assert (one.app_pid(), one.pid) == (app, pid)


@pytest.mark.any_lxd
def test_another_window_of_the_console_is_no_signal(launch: Launch) -> None:
    """The kernel sends SIGWINCH for it, which web servers take for the wish to end."""
    one = launch(script="trap 'echo got WINCH' WINCH; trap 'echo got HUP' HUP; echo up; while :; do sleep 0.05; done")
    one.log_with("up")
    caught = one.host_status()["SigCgt"]
    assert int(caught, 16) >> signal.SIGWINCH - 1 & 1
    for rows in (10, 20):
        assert one.runs(f"stty rows {rows} cols 40 </dev/console")
    assert one.runs("kill -HUP 1")
    one.log_with("got HUP")
    assert "got WINCH" not in one.log()


# ---- what is not the application


@pytest.mark.any_lxd
def test_whoever_ends_all_processes_does_not_end_the_runtime_s(launch: Launch) -> None:
    script = "trap 'echo got TERM' TERM; echo up; n=0; while :; do sleep 0.1; n=$((n + 1)); echo $n; done"
    one = launch("healthy", script=script, config={"user.lxdocker.stop_grace": "1"})
    one.log_with("up")
    assert one.runs("echo fine >/dev/shm/fine; chmod 644 /dev/shm/fine; kill -TERM -1")
    one.log_with("got TERM")
    wait_until("health", lambda: one.exec("/lxd-health")[1].startswith("healthy"))
    assert one.runs("rm -f /dev/shm/fine")
    # By force, and each of them: PID 1 starts them again.
    app = one.app_pid()
    others = (
        f"for p in /proc/[0-9]*; do p=${{p#/proc/}}; [ $p = 1 ] || [ $p = $$ ] || [ $p = {app} ] || kill -KILL $p; done"
    )
    one.runs(others)
    printed = len(lines(one.log(), r"^\d+$"))
    wait_until("more of what it prints", lambda: len(lines(one.log(), r"^\d+$")) > printed + 5)
    wait_until("the check", lambda: one.exec("/lxd-health")[1].startswith("unhealthy"))
    assert one.app_pid() == app
    one.stop()


def test_a_restart_finds_no_process_of_the_last_run(launch: Launch) -> None:
    # By their arguments: what the scripts themselves say of them is in one argument with the rest.
    count = "$(cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -cx '710[12]\\|8080')"
    left = "setsid sh -c 'trap \"\" TERM HUP; sleep 7101 & exec sleep 7102' & setsid nc -ll -p 8080 -e true & sleep 0.3"
    one = launch(
        script=f"echo running {count}; {left}; echo left {count}; read line </wait; exit 3",
        config={**restarting("always"), "user.lxdocker_init_script": "mkfifo /wait; setsid sleep 7103 & sleep 7104 &"},
    )
    one.log_with("left 3")
    command = [
        "lxc",
        "--project",
        one._lxc.project,
        "exec",
        one.name,
        "--",
        "/bin/sh",
        "-c",
        "sleep 7105 & echo in; read x; wait",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as shell:
        assert shell.stdout
        assert shell.stdin
        assert shell.stdout.readline() == "in\n"
        assert one.runs("echo go >/wait")
        one.log_with("(restart 1)")
        wait_until("the next run", lambda: len(lines(one.log(), "^running")) == 2)
        assert lines(one.log(), "^running") == ["running 0"] * 2
        wait_until("what it leaves", lambda: lines(one.log(), "^left") == ["left 3"] * 2)
        # What the instance's own script has started stays, and whatever somebody does in a shell.
        assert len(lines(one.shell("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"), "^710[345]$")) == 3
        shell.stdin.close()
        shell.kill()


@pytest.fixture(scope="module", autouse=True)
def restarts(request: pytest.FixtureRequest, boxes: World) -> Iterator[Future[str] | None]:
    """Many restarts, beside the other tests: most of it is waiting for LXD."""
    if not any(item.name == "test_many_restarts" for item in request.session.items):
        yield None
        return
    one = Box(boxes.lxc, "box", COUNTED)
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(restart_often, one)
    one.delete()


# ---- LXD is heard at every moment of a start

# A restart and a stop at so many moments of each of the instances below.
MOMENTS = int(os.environ.get("LXDOCKER_TEST_MOMENTS", "5"))
RESTARTS = 4 * MOMENTS


def hears(one: Box) -> bool:
    """Whether PID 1 runs. LXD says "running" a moment earlier, and the kernel drops what is sent until then."""
    try:
        caught = int(one.host_status()["SigCgt"], 16)
    except OSError:
        return False
    return bool(caught >> (signal.SIGPWR - 1) & 1)


def test_restarted_and_stopped_at_any_moment(launch: Launch) -> None:
    """In the first two seconds, with a trap of the application's or none. What is not heard runs out of time."""
    images = (("box", "exec sleep 1000"), ("box", COUNTED), ("healthy", "exec sleep 1000"))
    boxes = [launch(image, script=script, start=False) for image, script in images]
    random = Random(1)

    def pause() -> None:
        time.sleep(random.uniform(0, 2) ** 2 / 2)  # most happens early

    def disturb(one: Box) -> None:
        for _ in range(MOMENTS):
            one.start()
            for verb in ("restart", "stop"):
                wait_until("PID 1", lambda: hears(one))
                pause()
                try:
                    one(verb, "--timeout", "20")
                except AssertionError as error:
                    raise AssertionError(f"{error}\n{one.log()}") from None
            assert one.status == "Stopped"

    with ThreadPoolExecutor(len(boxes)) as beside:
        list(beside.map(disturb, boxes))


def restart_often(one: Box) -> str:
    for run in range(RESTARTS):
        wait_until(f"run {run}", lambda: one.runs(f"[ $(wc -l </runs) = {run + 1} ]"))  # noqa: B023 - called at once
        pid = one.pid
        one("restart", "--timeout", "30")
        assert one.status == "Running"
        assert one.pid != pid
    # Each time it was given its time, and the next run found what it had written.
    one.log_with(f"run {RESTARTS}")
    assert one.file("/ends") == "x\n" * RESTARTS
    one.stop()
    return one.log()


# ---- PID 1


def zombies(one: Box) -> list[str]:
    return lines(one.shell("cat /proc/[0-9]*/stat 2>/dev/null || :"), r"\) Z ")


@pytest.mark.any_lxd
def test_ten_thousand_orphans(launch: Launch) -> None:
    # Each `( : & )` leaves a process without a parent.
    one = launch(
        script="echo up; i=0; while [ $i -lt 10000 ]; do ( : & ); i=$((i + 1)); done; echo done; exec sleep 100000"
    )
    one.log_with("up")
    wait_until("ten thousand of them", lambda: "done" in one.log(), 120)
    wait_until("no zombies", lambda: not zombies(one), 10)
    assert int(one.host_status()["RssAnon"].split()[0]) < 1024
    one.stop()


@pytest.mark.any_lxd
def test_zombies_of_any_depth(launch: Launch) -> None:
    deep = "(" * 20 + "sleep 0.3 & sleep 0.2 &" + ") &" * 20
    one = launch(script=f"({deep}); echo up; exec sleep 100000")
    one.log_with("up")
    time.sleep(0.6)
    wait_until("no zombies", lambda: not zombies(one), 5)


@pytest.mark.any_lxd
def test_orphans_are_reaped_while_it_pauses(launch: Launch) -> None:
    """Between two runs, PID 1 waits for a clock and not for the application."""
    one = launch(script="setsid sleep 1 & exit 1", config=restarting("always"))
    one.log_with("(restart 6)")
    time.sleep(1.5)
    assert not zombies(one)


@pytest.mark.any_lxd
def test_small_and_idle(launch: Launch) -> None:
    """PID 1 and all its helpers together: those for the network, the log."""
    nic = {"eth0": Lxc().query("/1.0/profiles/default")["devices"]["eth0"]}
    one = launch(config=restarting("always"), devices=nic)
    one.address()
    app = one.app_pid_on_host()
    inside = Path(f"/proc/{one.pid}/ns/pid").readlink()
    counted = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")

    def ours() -> list[int]:
        processes = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in processes if pid != app and in_namespace(pid, inside)]

    def switches() -> dict[int, int]:
        return {pid: sum(int(one.host_status(pid)[kind]) for kind in counted) for pid in ours()}

    def is_idle() -> bool:
        """For four seconds. One looks for a router of IPv6 still, more and more seldom."""
        try:
            before = switches()
            time.sleep(4)
            after = switches()
        except OSError:  # one has ended, as the scripts of the DHCP clients do
            return False
        return len(before) > 4 and before.keys() == after.keys() and sum(after.values()) - sum(before.values()) <= 3

    wait_until("PID 1 and its helpers to be idle", is_idle, seconds=60)
    shares = [line for pid in ours() for line in lines(Path(f"/proc/{pid}/smaps_rollup").read_text(), "^Pss:")]
    assert 0 < sum(int(line.split()[1]) for line in shares) < 3 * 1024


def in_namespace(pid: int, namespace: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink() == namespace
    except OSError:  # it has ended
        return False


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


# ---- images with an init of their own


@pytest.mark.any_lxd
def test_an_init_is_known_by_its_entrypoint(launch: Launch) -> None:
    """Unless the spec says otherwise."""
    launch("own-init").log_with("init is 1\n")
    assert re.search(r"^init is (?!1$)\d+$", launch("own-init-supervised").ended(), re.MULTILINE)


@pytest.mark.any_lxd
def test_sync_says_what_it_decided(boxes: World) -> None:
    done = boxes.sync("own-init", "--force")
    assert "own-init: the image's own init /init will be PID 1 (disable_supervisor: auto)" in done.err
    assert "disable_supervisor" not in boxes.sync("box", "--force").err


# ---- what can't be started


def test_settings_that_do_not_exist_are_named(launch: Launch) -> None:
    """And values that can't be used: on the console and in the log, once, and the application starts."""
    config = {
        "user.lxdocker.restrat": "always",
        "user.lxdocker_restart": "always",
        "user.lxdocker.x y": "z",
        "user.lxdocker.restart": "sometimes",
        "user.lxdocker.network": "eth9 192.0.2.5/24; eth0",
    }
    one = launch(script="/lxd-log; echo ran", config=config)
    log = one.ended()
    for said in (
        "unknown setting user.lxdocker.restrat is ignored; did you mean user.lxdocker.restart?",
        "unknown setting user.lxdocker_restart is ignored; did you mean user.lxdocker.restart?",
        "unknown setting user.lxdocker.x y is ignored; user.lxdocker. has ",
        "user.lxdocker.restart: 'sometimes' is not no, on-failure, on-failure:N or always;",
        "user.lxdocker.network: 'eth9 192.0.2.5/24': no interface eth9 ",
        "user.lxdocker.network: 'eth0' is ignored: it needs an interface and an address",
    ):
        assert log.count(f"lxdocker: {said}") == 2, said  # PID 1's own line, and the application's copy of the log
    assert "ran" in log


@pytest.mark.any_lxd
def test_a_user_that_is_not_there(launch: Launch) -> None:
    log = launch("nobody").ended()
    assert "lxdocker: user 'ghost' is not in the image's /etc/passwd" in log


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
def test_many_restarts(restarts: Future[str]) -> None:
    restarts.result(timeout=300)
