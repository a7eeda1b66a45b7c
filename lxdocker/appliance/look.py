"""status and logs: how an appliance is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from lxdocker.appliance import build, health, inside
from lxdocker.appliance.health import Served
from lxdocker.appliance.machine import Machine, Stage
from lxdocker.appliance.wish import Names
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.lxd.api import Lxd


@dataclass(frozen=True, slots=True)
class Timer:
    """The timer of the sync."""

    kind: str  # 'systemd' or 'cron'
    active: bool
    last: datetime | None
    next: datetime | None  # None if only cron knows
    result: str | None  # of the last run, as systemd names it


@dataclass(frozen=True, slots=True)
class Status:
    """All that is known of an appliance."""

    name: str
    stage: Stage
    running: bool
    version: str | None  # of lxdocker in it
    timer: Timer | None
    serving: bool
    served: Served | None
    images: tuple[dict[str, str | None], ...]
    problem: str | None  # why there is no more to say

    @property
    def healthy(self) -> bool:
        return self.problem is None and self.serving and self.timer is not None and self.timer.active


def find(lxd: Lxd, names: Names) -> Machine:
    """Raises UsageError where there is no such appliance."""
    machine = Machine(lxd, names.appliance)
    if machine.look() is None or machine.stage is None:
        if Machine(lxd, names.old).look() is not None:
            raise UsageError("an upgrade was interrupted", "", f"finish it: {names.command('upgrade')}")
        raise UsageError(f"no appliance {names.appliance}", "", f"make one: {names.command('create')}")
    return machine


def status(lxd: Lxd, names: Names) -> Status:
    """Raises LxdockerError only where there is none, or LXD can't be asked."""
    machine = find(lxd, names)
    stage = machine.stage or Stage.MAKING
    if not machine.runs:
        return Status(names.appliance, stage, False, None, None, False, None, (), "it does not run")
    facts: dict[str, str] = {}
    served, images, problem = None, [], None
    try:
        said = inside.step(machine, "asking the appliance", "facts")
        facts = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        served = health.served(machine, names, build.bridge_of(lxd, machine))
        images = health.images(machine)
    except LxdockerError as error:
        problem = str(error)
    if problem is None and stage is not Stage.READY:
        problem = "it is not finished: run the command that was interrupted again"
    version = facts.get("version", "").removeprefix("lxdocker ") or None
    serving = facts.get("serve.ActiveState") == "active"
    return Status(names.appliance, stage, True, version, _timer(facts), serving, served, tuple(images), problem)


def _timer(facts: dict[str, str]) -> Timer | None:
    if "timer" not in facts:
        return None
    return Timer(
        kind=facts["timer"],
        active=facts.get("timer.ActiveState") == "active",
        last=_time(facts.get("timer.LastTriggerUSec", "")),
        next=_time(facts.get("timer.NextElapseUSecRealtime", "")),
        result=facts.get("sync.Result"),
    )


def _time(text: str) -> datetime | None:
    """Of ``@SECONDS``."""
    digits = text.removeprefix("@").partition(".")[0]
    return datetime.fromtimestamp(int(digits), UTC) if text.startswith("@") and digits.isdecimal() else None


def logs(lxd: Lxd, names: Names, lines: int) -> str:
    """What sync and serve have said last."""
    return inside.step(find(lxd, names), "reading the log", "log", str(lines))
