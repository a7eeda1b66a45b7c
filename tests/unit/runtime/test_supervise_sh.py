"""PID 1 looks after the application: signals, stopping, starting it again, its output, its end."""

from __future__ import annotations

import pytest

from lxdocker.config.spec import Behaviour
from tests.chroots import needs_namespaces
from tests.instance import Instance, needs_gosu, supervised

pytestmark = [needs_namespaces, needs_gosu]

# For what sends signals to PID 1 while the application runs: it creates /dev/ready when it is prepared for them.
WHEN_READY = """( until [ -e /dev/ready ]; do "$_bb" usleep 20000; done; {}; : >/dev/sent ) &"""
# On a busy host PID 1 may not yet know its child's number when that is ready: a signal is then nobody's, as it would be
# for a process that has just been started. So it is sent until it has been heard.
UNTIL_HEARD = """{0}; until [ -e /dev/heard ]; do "$_bb" usleep 500000; {0}; done"""
UNTIL_SENT = ": >/dev/ready; until [ -e /dev/sent ]; do /busybox-lxd usleep 20000; done"
# Time goes by as the application says.
CLOCK = "echo 100 >/dev/clock; read_seconds() { read -r _seconds </dev/clock; }"
# run: how many times the application was started, this time included.
COUNT = "run=$(($(/busybox-lxd cat /dev/run 2>/dev/null) + 1)); echo $run >/dev/run"


# ---- signals

# Until a signal ends it, but not for ever.
A_WHILE = "n=0; while [ $((n += 1)) -lt 200 ]; do /busybox-lxd usleep 100000; done; exit 9"


@pytest.mark.parametrize("signal", ["HUP", "QUIT", "USR1", "TERM", "CONT", "34", "64"])
def test_a_signal_is_passed_on_to_an_application_that_handles_it(instance: Instance, signal: str) -> None:
    program = f"trap 'echo heard; : >/dev/heard; exit 5' {signal}; : >/dev/ready; {A_WHILE}"
    send = UNTIL_HEARD.format(f'"$_bb" kill -s {signal} 1')
    assert supervised(instance, program, before=WHEN_READY.format(send)) == (
        5,
        ["heard", "lxdocker: /app ended with status 5 after N s"],
    )


@pytest.mark.parametrize("signal", ["HUP", "USR1", "TERM"])
def test_a_signal_that_the_application_does_not_handle_is_dropped(instance: Instance, signal: str) -> None:
    """As the kernel does for process 1, which the application would be under Docker."""
    program = f"trap 'echo heard; : >/dev/heard; exit 5' 64; : >/dev/ready; {A_WHILE}"
    send = UNTIL_HEARD.format(f'"$_bb" kill -s {signal} 1; "$_bb" usleep 200000; "$_bb" kill -s 64 1')
    assert supervised(instance, program, before=WHEN_READY.format(send)) == (
        5,
        ["heard", "lxdocker: /app ended with status 5 after N s"],
    )


def test_a_signal_is_not_the_application_s_end(instance: Instance) -> None:
    """It interrupts PID 1's wait with the status of a child that it has killed."""
    until_heard = "until [ -e /dev/heard ]; do /busybox-lxd usleep 20000; done; /busybox-lxd usleep 300000"
    program = f"trap 'echo heard; : >/dev/heard' HUP; : >/dev/ready; {until_heard}; exit 5"
    send = UNTIL_HEARD.format('"$_bb" kill -s HUP 1')
    status, said = supervised(instance, program, before=WHEN_READY.format(send))
    assert (status, list(dict.fromkeys(said))) == (5, ["heard", "lxdocker: /app ended with status 5 after N s"])


# ---- stopping


def test_a_second_request_to_stop_changes_nothing(instance: Instance) -> None:
    """Some applications take a second signal for impatience, and do not finish their work."""
    some_time = "n=0; while [ $((n += 1)) -lt 30 ]; do /busybox-lxd usleep 100000; done"
    program = f"trap 'echo asked' TERM; {UNTIL_SENT}; {some_time}; exit 5"
    send = '"$_bb" kill -s PWR 1; "$_bb" usleep 500000; "$_bb" kill -s PWR 1'
    assert supervised(instance, program, before=WHEN_READY.format(send)) == (
        5,
        [
            "lxdocker: stopping with SIGTERM, and SIGKILL after N s",
            "asked",
            "lxdocker: /app ended with status 5 after N s",
        ],
    )


def test_an_application_that_does_not_stop_is_killed(instance: Instance) -> None:
    program = f"trap 'echo asked' TERM; {UNTIL_SENT}; while :; do /busybox-lxd usleep 100000; done"
    send = WHEN_READY.format('"$_bb" kill -s PWR 1')
    status, said = supervised(instance, program, Behaviour(stop_grace=1), before=send)
    assert status == 137
    assert said[1:3] == ["asked", "lxdocker: it did not end within N s; killing it"]


def test_a_request_to_stop_that_came_before_the_application_is_kept(instance: Instance) -> None:
    """The application is asked once it can hear it: before, the shell that becomes it would drop the signal."""
    program = "trap 'exit 5' TERM; n=0; while [ $((n += 1)) -lt 100 ]; do /busybox-lxd usleep 100000; done; exit 9"
    status, said = supervised(instance, program, before="_stopping=poweroff")
    assert status == 5
    assert said[0].startswith("lxdocker: stopping with SIGTERM")


def test_a_request_to_stop_between_two_starts_is_heard_at_once(instance: Instance) -> None:
    program = "echo run; : >/dev/ready; exit 3"
    send = WHEN_READY.format('"$_bb" usleep 500000; "$_bb" kill -s PWR 1')
    # The pause between them is longer than this test may take.
    status, said = supervised(instance, program, Behaviour(restart="always"), before=f"_first_delay=9000; {send}")
    assert status == 3
    assert [line for line in said if line == "run"] == ["run"]
    assert said[-1] == "lxdocker: /app ended with status 3 after N s"


def test_a_stopped_application_is_not_started_again(instance: Instance) -> None:
    program = f"echo run; trap 'exit 3' TERM; {UNTIL_SENT}; while :; do /busybox-lxd usleep 100000; done"
    send = WHEN_READY.format('"$_bb" kill -s PWR 1')
    status, said = supervised(instance, program, Behaviour(restart="always"), before=send)
    assert (status, said.count("run")) == (3, 1)


def test_a_reboot_is_the_kernel_s(instance: Instance) -> None:
    """LXD starts the instance again when the kernel says that it has asked for that."""
    program = f"trap 'exit 5' TERM; {UNTIL_SENT}; while :; do /busybox-lxd usleep 100000; done"
    # Its sync is of all the host's disks, which takes long on a busy one.
    instance.root.write("/bb", '#!/busybox-lxd sh\n[ "$1" = sync ] || exec /busybox-lxd "$@"\n', 0o755)
    send = WHEN_READY.format('"$_bb" kill -s INT 1')
    status, said = supervised(instance, program, before=f"_bb=/bb; {send}")
    assert status == -1  # reboot(2) in a process namespace: its process 1 ends by SIGHUP
    assert said[-1] == "lxdocker: /app ended with status 5 after N s"


# ---- starting it again


@pytest.mark.parametrize(("seconds", "next_start"), [(9, "0.4 s (restart 3)"), (10, "0.1 s (restart 3)")])
def test_after_ten_seconds_the_pauses_begin_anew(instance: Instance, seconds: int, next_start: str) -> None:
    program = f"{COUNT}; [ $run != 3 ] || echo {100 + seconds} >/dev/clock; [ $run = 4 ]"
    status, said = supervised(instance, program, Behaviour(restart="on-failure"), before=CLOCK, times=True)
    assert status == 0
    assert [line.partition("again in ")[2] for line in said[:3]] == [
        "0.1 s (restart 1)",
        "0.2 s (restart 2)",
        next_start,
    ]


def test_the_pause_grows_to_a_minute(instance: Instance) -> None:
    program = f"{COUNT}; [ $run = 4 ]"
    before = '_first_delay=200; pause() { echo "lxdocker: paused $1" >>/.lxd-log/current; }'
    _, said = supervised(instance, program, Behaviour(restart="on-failure"), before=before, times=True)
    assert [line.partition("paused ")[2] for line in said if "paused" in line] == ["20.0", "40.0", "60.0"]


@pytest.mark.parametrize(
    ("restart", "status", "runs"),
    [
        ("no", 1, 1),
        ("always", 0, 4),
        ("always", 1, 4),
        ("on-failure", 1, 4),
        ("on-failure", 0, 1),
        ("on-failure:2", 1, 3),
    ],
)
def test_when_it_is_started_again(instance: Instance, restart: str, status: int, runs: int) -> None:
    program = (
        f"{COUNT}; echo run; [ $run != 4 ] || /busybox-lxd kill -s PWR 1; /busybox-lxd usleep 100000; exit {status}"
    )
    behaviour = Behaviour(restart=restart)
    assert supervised(instance, program, behaviour, before="pause() { :; }")[1].count("run") == runs


def test_nothing_of_the_last_run_is_left_to_the_next(instance: Instance) -> None:
    """But what was there before the application."""
    program = f"""{COUNT}
[ $run = 1 ] || {{ /busybox-lxd ps | /busybox-lxd grep -o '[s]leep 98..$'; exit 0; }}
/busybox-lxd sleep 9876 &
/busybox-lxd setsid /busybox-lxd sleep 9877 &
( /busybox-lxd setsid /busybox-lxd sh -c '/busybox-lxd sleep 9878; :' & )
until [ "$(/busybox-lxd ps | /busybox-lxd grep -c 'lxd [s]leep 98..$')" = 4 ]; do /busybox-lxd usleep 10000; done
exit 1
"""
    behaviour = Behaviour(restart="on-failure")
    status, said = supervised(instance, program, behaviour, before='"$_bb" setsid "$_bb" sleep 9875 >/dev/null 2>&1 &')
    assert status == 0
    assert [line for line in said if line.startswith("sleep")] == ["sleep 9875"]


# ---- its end


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (127, "ended with status 127"),
        (128, "ended with status 128"),
        (143, "was ended by signal 15 (TERM)"),
        (192, "was ended by signal 64"),
        (193, "ended with status 193"),
        (255, "ended with status 255"),
    ],
)
def test_what_is_said_of_its_end(instance: Instance, status: int, said: str) -> None:
    found, lines = supervised(instance, f"exit {status}")
    assert (found, len(lines)) == (status, 1)
    assert lines[0].startswith(f"lxdocker: /app {said}")


# ---- its output


# A process that is killed may still take what is written meanwhile, and loses it.
OF_THE_LOGGER = """
logging=$(/busybox-lxd ps -o pid,args | /busybox-lxd awk '/log_output|busybox-lxd (tee|dd) / && !/awk/ { print $1 }')
await_its_end() {
    for process in $logging; do
        while /busybox-lxd grep -qs '^State:.[^ZX]' "/proc/$process/status"; do /busybox-lxd usleep 10000; done
    done
}
"""
KILLS_THE_LOGGER = f"""
{OF_THE_LOGGER}
before=$(/busybox-lxd ls /dev/.lxd-helpers)
/busybox-lxd kill -KILL $before
until [ "$(/busybox-lxd ls /dev/.lxd-helpers)" != "$before" ]; do /busybox-lxd usleep 10000; done
await_its_end
echo after
"""


def test_whoever_copies_its_output_is_started_again(instance: Instance) -> None:
    assert supervised(instance, KILLS_THE_LOGGER) == (0, ["after", "lxdocker: /app ended with status 0 after N s"])


def test_a_helper_that_ends_while_none_can_be_started_is_started_afterwards(instance: Instance) -> None:
    """The application runs before PID 1 is through with starting it, here by a third of a second."""
    slow = r"""
"$_bb" sed '/^\texec <.dev.null$/i "$_bb" usleep 300000' /lxd-lib/supervise.sh >/slow.sh
"$_bb" grep -q usleep.300000 /slow.sh || exit 99
. /slow.sh
"""
    done = supervised(instance, KILLS_THE_LOGGER, before=slow)
    assert done == (0, ["after", "lxdocker: /app ended with status 0 after N s"])


@pytest.mark.parametrize("then", ["", '"$_bb" true'], ids=["a zombie", "reaped"])
def test_a_helper_killed_while_others_are_looked_after_is_started_again(instance: Instance, then: str) -> None:
    """PID 1 hears once of all that end meanwhile, and perhaps before the shell knows of each."""
    kill = """
ensure_network_helpers() {
	[ -e /dev/ready ] && [ ! -e /dev/killed ] || return 0
	kill -KILL "-$_logger"
	: >/dev/killed # the application says nothing before
	read_uptime
	_later=$((_now + 30))
	while [ "$_now" -lt "$_later" ]; do read_uptime; done
	%s
}
"""
    program = f"""
until [ -s /.lxd-log/current ]; do /busybox-lxd usleep 10000; done
/busybox-lxd usleep 300000
{OF_THE_LOGGER}
: >/dev/ready
( /busybox-lxd true & )
until [ -e /dev/killed ]; do /busybox-lxd usleep 10000; done
await_its_end
echo after
n=0
until /busybox-lxd grep -q after /.lxd-log/current; do
    [ $((n += 1)) -lt 100 ] || exit 9
    /busybox-lxd usleep 100000
done
"""
    done = supervised(instance, program, before=kill % then)
    assert done == (0, ["after", "lxdocker: /app ended with status 0 after N s"])


STORM = "i=0; while [ $i -lt 2000 ]; do ( : & ); i=$((i + 1)); done"


def test_a_storm_of_orphans_is_not_the_end_of_a_helper(instance: Instance) -> None:
    """Ends of children interrupt the trap in which PID 1 looks after its helpers, and the shell then lies about what it
    has just seen there.
    """
    program = f"""
before=$(/busybox-lxd ls /dev/.lxd-helpers)
{STORM}
[ "$(/busybox-lxd ls /dev/.lxd-helpers)" = "$before" ] && echo same
"""
    for _ in range(2):
        assert supervised(instance, program) == (0, ["same", "lxdocker: /app ended with status 0 after N s"])


def test_a_request_to_stop_in_a_storm_of_orphans_is_heard(instance: Instance) -> None:
    program = f"""
trap 'echo stopped; exit 0' TERM
({STORM}) &
/busybox-lxd usleep 100000
kill -PWR 1
while :; do /busybox-lxd sleep 1 & wait $!; done
"""
    for _ in range(2):
        status, said = supervised(instance, program, Behaviour(stop_grace=20))
        assert status == 0
        assert "stopped" in said


def test_the_last_of_its_output_is_kept(instance: Instance) -> None:
    """However long it is in the pipe after the application has ended."""
    program = """
logger=$(/busybox-lxd ls /dev/.lxd-helpers)
/busybox-lxd kill -STOP -$logger
echo $logger >/dev/ready
echo last words
"""
    later = '"$_bb" usleep 200000; "$_bb" kill -CONT -$("$_bb" cat /dev/ready)'
    assert supervised(instance, program, before=WHEN_READY.format(later)) == (
        0,
        ["last words", "lxdocker: /app ended with status 0 after N s"],
    )


def test_much_of_its_output_is_kept_in_order(instance: Instance) -> None:
    program = "i=0; while [ $((i += 1)) -le 3000 ]; do echo line $i; done"
    status, said = supervised(instance, program)
    assert (status, said) == (
        0,
        [*(f"line {number}" for number in range(1, 3001)), "lxdocker: /app ended with status 0 after N s"],
    )


@pytest.mark.parametrize(("restart", "runs"), [("on-failure:2", 3), ("on-failure:0", 5)])
def test_how_often_it_is_started_again_at_most(instance: Instance, restart: str, runs: int) -> None:
    """As under Docker, however long it ran; 0 is no limit."""
    program = f"{COUNT}; echo $((100 + run * 15)) >/dev/clock; [ $run = 5 ]"
    _, said = supervised(instance, program, Behaviour(restart=restart), before=CLOCK)
    assert len([line for line in said if "starting it again" in line]) == runs - 1
