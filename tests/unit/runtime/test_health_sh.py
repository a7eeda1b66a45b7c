"""The image's health check, and what /lxd-health and /lxd-log print."""

from __future__ import annotations

import pytest

from lxdocker.config.spec import Behaviour
from tests.chroots import needs_namespaces
from tests.instance import Instance, needs_gosu, supervised

pytestmark = [needs_namespaces, needs_gosu]

SECOND = 1_000_000_000  # in an image's configuration
# Notes what is said of the application's health, then answers what /answers has in this line.
CHECK = """#!/busybox-lxd sh
echo $(/busybox-lxd head -n 2 /dev/.lxd-health) >>/seen
n=$(/busybox-lxd wc -l </seen)
answer=$(/busybox-lxd sed -n ${n}p /answers)
[ -n "$answer" ] || { : >/dev/answered; exec /busybox-lxd sleep 1000; }
eval "$answer"
"""
UNTIL_ANSWERED = "until [ -e /dev/answered ]; do /busybox-lxd usleep 20000; done; exit 5"


def seen(
    instance: Instance,
    answers: list[str],
    behaviour: Behaviour | None = None,
    *,
    program: str = UNTIL_ANSWERED,
    before: str = "",
    **healthcheck: float,
) -> tuple[list[str], list[str]]:
    """The state before each check, and what PID 1 and the application say. An answer is a line of shell."""
    instance.root.write("/check", CHECK, 0o755)
    instance.root.write("/answers", "".join(f"{answer}\n" for answer in answers))
    given = {"Interval": 0.05, "StartInterval": 0.05, "Timeout": 20, **healthcheck}
    config = {name: value if name == "Retries" else value * SECOND for name, value in given.items()}
    check = {"Test": ["CMD", "/check"], **config}
    _, said = supervised(instance, program, behaviour, before=before, healthcheck=check)
    return (instance.root / "seen").read_text().splitlines(), said


def test_so_many_failures_in_a_row_are_unhealthy(instance: Instance) -> None:
    states, said = seen(instance, [f"exit {status}" for status in (1, 0, 1, 1, 3, 0)], Retries=2)
    assert states == [
        "starting",
        "starting failures: 1",
        "healthy failures: 0",
        "healthy failures: 1",
        "unhealthy failures: 2",
        "unhealthy failures: 3",
        "healthy failures: 0",
    ]
    # Once, however long it stays so.
    assert said[:-1] == ["lxdocker: the application is unhealthy: 2 checks failed, the last with status 1"]


def test_failures_while_it_may_be_starting_do_not_count(instance: Instance) -> None:
    before = "echo 100 >/dev/clock; read_seconds() { read -r _seconds </dev/clock; }"
    answers = ["exit 1", "echo 109 >/dev/clock; exit 1", "echo 110 >/dev/clock; exit 1", "exit 1"]
    states, _ = seen(instance, answers, before=before, StartPeriod=10, Retries=9)
    assert states == ["starting", *["starting failures: 0"] * 2, "starting failures: 1", "starting failures: 2"]


def test_once_healthy_it_is_no_longer_starting(instance: Instance) -> None:
    states, _ = seen(instance, ["exit 0", "exit 1"], StartPeriod=1000)
    assert states == ["starting", "healthy failures: 0", "healthy failures: 1"]


def test_checks_are_more_frequent_while_it_may_be_starting(instance: Instance) -> None:
    program = """
until [ "$(/busybox-lxd head -n 1 /dev/.lxd-health)" = healthy ]; do /busybox-lxd usleep 20000; done
/busybox-lxd sleep 1
"""
    states, _ = seen(instance, ["exit 1", "exit 0"], program=program, Interval=1000, StartPeriod=1000)
    assert states == ["starting", "starting failures: 0"]


def test_a_check_that_takes_too_long_has_failed(instance: Instance) -> None:
    """And nothing that a check has started outlives it."""
    answers = [
        "/busybox-lxd sleep 987 & exec /busybox-lxd sleep 987",
        "/busybox-lxd ps | /busybox-lxd grep '[s]leep 987'; /busybox-lxd sleep 987 & exit 0",
        "/busybox-lxd ps | /busybox-lxd grep '[s]leep 987'; exit 0",
    ]
    program = f"( {UNTIL_ANSWERED} ); /busybox-lxd cat /dev/.lxd-health"
    states, said = seen(instance, answers, program=program, Timeout=1)
    assert states[1:] == ["starting failures: 1", "healthy failures: 0", "healthy failures: 0"]
    assert said[:-1] == ["healthy", "failures: 0", "last status: 0", ""]


def test_a_check_has_the_application_s_umask(instance: Instance) -> None:
    seen(instance, ["umask >/mask"], Behaviour(umask="0027"))
    assert (instance.root / "mask").read_text() == "0027\n"


def test_what_a_check_prints_is_bounded(instance: Instance) -> None:
    program = f"( {UNTIL_ANSWERED} ); /busybox-lxd tail -n +4 /dev/.lxd-health | /busybox-lxd wc -c"
    _, said = seen(instance, ["/busybox-lxd yes | /busybox-lxd head -c 100000; exit 0"], program=program)
    assert said[0].strip() == "4096"


def test_an_unhealthy_application_is_started_again_where_that_is_wanted(instance: Instance) -> None:
    """Whatever its restart policy is."""
    program = """
[ -e /dev/again ] && exit 5
trap 'echo asked; exit 0' TERM
: >/dev/again
while :; do /busybox-lxd usleep 50000; done
"""
    behaviour = Behaviour(restart="no", restart_unhealthy=True)
    answer = "until [ -e /dev/again ]; do /busybox-lxd usleep 20000; done; exit 1"
    _, said = seen(instance, [answer], behaviour, program=program, Retries=1)
    said.remove("asked")  # by way of a pipe, so perhaps after what PID 1 says
    assert said == [
        "lxdocker: the application is unhealthy: 1 checks failed, the last with status 1",
        "lxdocker: /app ended with status 0 after N s; starting it again in N s (restart 1)",
        "lxdocker: /app ended with status 5 after N s",
    ]


def test_it_is_checked_again_when_somebody_has_ended_the_checks(instance: Instance) -> None:
    program = f"""
( {UNTIL_ANSWERED} )
/busybox-lxd rm /dev/answered
/busybox-lxd kill -KILL $(/busybox-lxd cat /checker)
( {UNTIL_ANSWERED} )
echo checked again
"""
    _, said = seen(instance, ["echo $PPID >/checker; exit 0"], program=program)
    assert said[0] == "checked again"


# ---- /lxd-health


@pytest.mark.parametrize(("state", "status"), [("healthy", 0), ("unhealthy", 1), ("starting", 2)])
def test_the_state_can_be_asked_for(instance: Instance, state: str, status: int) -> None:
    instance.root.write("/state", f"{state}\nfailures: 7\n")
    done = instance.sh('"$_bb" cp /state /dev/.lxd-health; exec /lxd-health')
    assert (done.returncode, done.stdout) == (status, f"{state}\nfailures: 7\n")


@pytest.mark.parametrize(("health", "said", "status"), [("yes", "starting\n", 2), ("no", "none\n", 3)])
def test_before_the_first_check(instance: Instance, health: str, said: str, status: int) -> None:
    instance.root.write("/lxd-image", f"_health={health}\n")
    done = instance.sh("exec /lxd-health")
    assert (done.returncode, done.stdout) == (status, said)


# ---- /lxd-log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", ["one", "two", "\N{SNOWMAN} red"]),
        ("-n 2", ["two", "\N{SNOWMAN} red"]),
        ("-n1", ["\N{SNOWMAN} red"]),
        ("--tail 0", []),
    ],
)
def test_the_log_can_be_read(instance: Instance, arguments: str, said: list[str]) -> None:
    instance.root.write("/.lxd-log/previous", "one\n")
    instance.root.write("/.lxd-log/current", "two\n\N{SNOWMAN} \033[1;31mred\033[0m\n")
    assert instance.out(f"exec /lxd-log {arguments}").splitlines() == said


@pytest.mark.parametrize("arguments", ["-x", "-n", "-n few", "-n -1", "1"])
def test_wrong_arguments(instance: Instance, arguments: str) -> None:
    done = instance.sh(f"exec /lxd-log {arguments}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "usage: /lxd-log [-f] [-n LINES]\n")
