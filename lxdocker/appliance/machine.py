"""The appliance's container, as LXD has it: its life, its files, and commands in it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from typing import Any

from lxdocker.errors import LxdError, LxdockerError
from lxdocker.lxd import command
from lxdocker.lxd.api import Lxd, NotFoundError
from lxdocker.lxd.command import Result

PROJECT = "default"
STAGE = "user.lxdocker.appliance"
START_SECONDS = 60
ADDRESS_SECONDS = 60
BUSY_SECONDS = 120
BUSY = "Instance is busy"  # LXD's words


class Stage(Enum):
    """How far a container has come: the journal of create, upgrade and delete, which LXD keeps."""

    MAKING = "making"  # anything may be missing: it is made anew
    READY = "ready"
    NEXT = "next"  # of an upgrade: installed, but not in its place, or not known to be healthy there
    FAILED = "failed"  # of an upgrade: not healthy, the one before comes back
    DELETING = "deleting"


class Machine:
    """One container. It need not exist."""

    def __init__(self, lxd: Lxd, name: str) -> None:
        self.lxd = lxd
        self.name = name

    # ---- what there is

    def look(self) -> Mapping[str, Any] | None:
        """Its configuration and devices, or None."""
        try:
            found: Mapping[str, Any] = self.lxd.get("instances", self.name, what=f"reading {self.name}")
        except NotFoundError:
            return None
        return found

    @property
    def stage(self) -> Stage | None:
        """None where there is none, or one that is not an appliance's."""
        with suppress(ValueError):
            return Stage(((self.look() or {}).get("config") or {}).get(STAGE))
        return None

    @property
    def runs(self) -> bool:
        return (self.look() or {}).get("status") == "Running"

    def address(self) -> str | None:
        """Its IPv4 address, or None as long as it has none."""
        state = self.lxd.get("instances", self.name, "state", what=f"looking at {self.name}")
        interface = (state.get("network") or {}).get("eth0") or {}
        found = (one["address"] for one in interface.get("addresses") or () if one["family"] == "inet")
        return next(found, None)

    # ---- its life

    def make(self, body: Mapping[str, Any]) -> None:
        """Creates it, stopped."""
        what, member = f"creating {self.name}", self.lxd.dialect.member
        where = {"target": member} if member else {}  # in a cluster, where its volumes are
        self.lxd.change(
            "post",
            ("instances",),
            what,
            seconds=900,
            params=where,
            json={"name": self.name, "type": "container", **body},
        )

    def change(self, edit: Callable[[dict[str, str], dict[str, dict[str, str]]], None]) -> None:
        """Lets ``edit`` change its configuration and devices, in one request, if it changes anything."""
        self._once_idle(lambda: self._change(edit))

    def _change(self, edit: Callable[[dict[str, str], dict[str, dict[str, str]]], None]) -> None:
        found = self.look()
        if found is None:
            raise NotFoundError(f"changing {self.name} failed", "it is gone", "run the same command again")
        config = dict(found["config"])
        devices = {name: dict(device) for name, device in found["devices"].items()}
        edit(config, devices)
        if config == found["config"] and devices == found["devices"]:
            return
        kept = {key: found[key] for key in ("architecture", "description", "ephemeral", "profiles", "stateful")}
        body = {**kept, "config": config, "devices": devices}
        self.lxd.change("put", ("instances", self.name), f"changing {self.name}", json=body)

    def mark(self, stage: Stage) -> None:
        def edit(config: dict[str, str], _: object) -> None:
            config[STAGE] = stage.value

        self.change(edit)

    def start(self) -> None:
        what = f"starting {self.name}"
        self._once_idle(lambda: None if self.runs else self._set_state("start", what, {"timeout": START_SECONDS}))

    def stop(self) -> None:
        """Politely, and then not."""
        self._once_idle(self._stop)

    def _stop(self) -> None:
        if not self.runs:
            return
        what = f"stopping {self.name}"
        try:
            self._set_state("stop", what, {"timeout": 30, "force": False})
        except LxdError as error:
            if BUSY in error.details:
                raise
            if self.runs:
                self._set_state("stop", what, {"timeout": 30, "force": True})

    def rename(self, name: str) -> None:
        """It has to be stopped."""
        path, what = ("instances", self.name), f"renaming {self.name} to {name}"
        self._once_idle(lambda: self.lxd.change("post", path, what, json={"name": name}))
        self.name = name

    def delete(self) -> None:
        """Whatever state it is in; one that is gone already is fine."""
        self.lxd.delete_instance(PROJECT, self.name)

    def _once_idle(self, work: Callable[[], None]) -> None:
        """Does it when LXD has finished what a killed run had asked for last."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                work()
            except LxdError as error:
                if BUSY not in error.details or time.monotonic() > deadline or self.lxd.cancelled.wait(0.3):
                    raise
            else:
                return

    def _set_state(self, action: str, what: str, more: Mapping[str, Any]) -> None:
        body = {"action": action, **more}
        self.lxd.change("put", ("instances", self.name, "state"), what, seconds=120, json=body)

    def wait_for_address(self) -> str:
        """Raises LxdError where DHCP gives it none."""
        deadline = time.monotonic() + ADDRESS_SECONDS
        while time.monotonic() < deadline and not self.lxd.cancelled.wait(0.2):
            if address := self.address():
                return address
        raise LxdError(
            f"{self.name} has no address",
            f"none after {ADDRESS_SECONDS} s",
            "check LXD's network (lxc network list), or name another base with --base",
        )

    # ---- inside

    def try_run(
        self, argv: Sequence[str], what: str = "", seconds: float = 60, stdin: bytes = b"", keep: int | None = None
    ) -> Result:
        """Runs a command to its end, whatever that is. ``keep``: bytes of its output, where the last of it won't do."""
        told = what or f"running {argv[0]} in {self.name}"
        with command.running(self.lxd, PROJECT, self.name, argv, what=told, seconds=seconds, stdin=stdin) as (
            running,
            end,
        ):
            stdout = command.last(running.output()) if keep is None else _all(running, keep, told)
            return replace(end(), stdout=stdout.decode("utf-8", "surrogateescape"))

    def run(self, argv: Sequence[str], what: str, seconds: float = 60, stdin: bytes = b"", otherwise: str = "") -> str:
        """Its output. Raises LxdockerError with the command's own words if it fails."""
        done = self.try_run(argv, what, seconds, stdin)
        if done.status:
            said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.status}"
            raise LxdockerError(
                f"{what} failed", said[-2000:], otherwise or f"look around: lxc exec {shlex.quote(self.name)} -- sh"
            )
        return done.stdout

    def push(self, path: str, content: bytes, mode: int = 0o600) -> None:
        self.lxd.push(PROJECT, self.name, path, content, mode)

    def pull(self, path: str) -> bytes | None:
        """A small file, or None."""
        done = self.try_run(["cat", path], f"reading {path} of {self.name}")
        return done.stdout.encode("utf-8", "surrogateescape") if done.status == 0 else None


def _all(running: command.Command, most: int, what: str) -> bytes:
    content = bytearray()
    for piece in running.output():
        content += piece
        if len(content) > most:
            raise LxdockerError(f"{what} failed", f"it says more than {most} bytes")
    return bytes(content)
