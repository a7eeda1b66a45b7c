"""upgrade: a new container beside the old one takes its place, or does not.

Every step shows in LXD: which of NAME, NAME-new and NAME-old there are, and the stage of each. A killed run is taken up
where it ended by the next.

====================  ==================  =================  ============================================
NAME                  NAME-new            NAME-old           and so
====================  ==================  =================  ============================================
ready                 none, or making     none               NAME-new is made anew
ready                 next                none               it is ready to take the place: NAME steps back
none                  next                ready              NAME-new takes the place
next                  none                ready              it is started, and proves itself or fails
ready                 none                ready              it has proved itself: NAME-old goes
failed, or none       none                ready              NAME-old comes back
====================  ==================  =================  ============================================
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

from lxdocker.appliance import build, health, inside
from lxdocker.appliance.build import Made, Work
from lxdocker.appliance.machine import Machine, Stage
from lxdocker.appliance.wish import SPECS_OF_HOST
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.lxd.api import Cancelled

# Of the old container: what it had. The hardware address goes along, since dnsmasq gives no other the leased one.
ADDRESS, HARDWARE = "user.lxdocker.address", "user.lxdocker.hwaddr"
_VOLATILE = "volatile.eth0.hwaddr"


def upgrade(work: Work) -> Made:
    """Raises LxdockerError; the container before is then in its place again, and runs."""
    names, lxd = work.wish.names, work.lxd
    old, new = Machine(lxd, names.old), Machine(lxd, names.new)
    _check(work)
    work = replace(work, place=build.place_of(work.place, old if old.look() else work.machine))
    if old.look() is not None and work.machine.stage in {Stage.FAILED, None} and new.stage is not Stage.NEXT:
        _go_back(work)
    if old.look() is not None and work.machine.stage is Stage.READY:
        work.say("removing the container before")
        old.delete()
        return _made(work)
    images = _images_before(work)
    endpoint = build.prepare_host(work)
    if old.look() is None and new.stage is not Stage.NEXT:
        _make_new(work, new)
    try:
        if work.machine.stage is Stage.READY:
            _step_back(work)
        if new.look() is not None:
            _take_place(work, new)
        build.take_up(work, work.machine, endpoint)
        work.say("waiting until it is healthy")
        health.wait_for(work.machine, names, work.place.bridge, images)
    except Cancelled:
        raise
    except LxdockerError as error:
        work.say("the new container is not healthy")
        # Its log goes with it.
        said = ""
        with suppress(LxdockerError):
            said = inside.step(work.machine, "reading the log", "log", "10")
        _go_back(work)
        raise LxdockerError(
            f"upgrading {names.appliance} failed; the container before is back",
            f"{error}\n{said}".rstrip(),
            "run the same command again, or choose another base with --base",
        ) from error
    work.machine.mark(Stage.READY)
    work.say("removing the container before")
    Machine(lxd, names.old).delete()
    return _made(work)


def _check(work: Work) -> None:
    names = work.wish.names
    if work.machine.stage in {Stage.MAKING, Stage.DELETING}:
        verb = "create" if work.machine.stage is Stage.MAKING else "delete"
        raise UsageError(
            f"{names.appliance} is not finished", "", f"run {names.command(verb)} again, with the same options"
        )
    for name in (names.new, names.old):
        machine = Machine(work.lxd, name)
        if machine.look() is not None and machine.stage is None:
            raise UsageError(f"there is a container {name} already", "it is no appliance of lxdocker", "rename it")


def _made(work: Work) -> Made:
    return Made(health.wait_for(work.machine, work.wish.names, work.place.bridge), existed=True, synced=True)


def _images_before(work: Work) -> list[str]:
    """The fingerprints in the appliance's store, as LXD itself has them."""
    project = "default" if work.wish.socket else work.wish.names.project
    known = [image for image in work.lxd.images(project) if "lxdocker.source" in image.properties]
    return [image.fingerprint.value for image in known] if not work.wish.socket else []


def _make_new(work: Work, new: Machine) -> None:
    work.say("creating the new container")
    new.delete()
    build.make(work, new, Stage.MAKING, volumes=False)
    build.fill(work, new)
    work.say("stopping the new container")
    new.stop()
    new.mark(Stage.NEXT)


def _step_back(work: Work) -> None:
    """The old container gives up its address, and its name."""
    work.say("stopping the container before")
    machine = work.machine
    machine.stop()

    def edit(config: dict[str, str], devices: dict[str, dict[str, str]]) -> None:
        if address := devices["eth0"].pop("ipv4.address", None):
            config[ADDRESS] = address
        if _VOLATILE in config and HARDWARE not in config:
            config[HARDWARE] = config[_VOLATILE]
            config[_VOLATILE] = _another_address()

    machine.change(edit)
    work.say("renaming the container before")
    machine.rename(work.wish.names.old)


def _another_address() -> str:
    """A hardware address in LXD's range."""
    return "00:16:3e:" + ":".join(f"{byte:02x}" for byte in os.urandom(3))


def _take_place(work: Work, new: Machine) -> None:
    """The new container gets the volumes, the address, the other devices, and the name."""
    work.say("moving the volumes")
    new.stop()
    before = Machine(work.lxd, work.wish.names.old).look() or {}
    devices_before, config_before = before.get("devices") or {}, before.get("config") or {}

    def edit(config: dict[str, str], devices: dict[str, dict[str, str]]) -> None:
        devices |= {name: device for name, device in devices_before.items() if name not in {"root", "eth0"}}
        if address := config_before.get(ADDRESS):
            devices["eth0"]["ipv4.address"] = address
        if hardware := config_before.get(HARDWARE):
            config[_VOLATILE] = hardware

    new.change(edit)
    work.say("renaming the new container")
    new.rename(work.wish.names.appliance)


def _go_back(work: Work) -> None:
    """The old container takes its place again."""
    names, old = work.wish.names, Machine(work.lxd, work.wish.names.old)
    if work.machine.look() is not None:
        if old.look() is None:  # it has not stepped back
            work.machine.start()
            Machine(work.lxd, names.new).delete()
            return
        work.machine.mark(Stage.FAILED)
        work.say("removing the new container")
        work.machine.delete()
    Machine(work.lxd, names.new).delete()

    def edit(config: dict[str, str], devices: dict[str, dict[str, str]]) -> None:
        if address := config.pop(ADDRESS, None):
            devices["eth0"]["ipv4.address"] = address
        if hardware := config.pop(HARDWARE, None):
            config[_VOLATILE] = hardware

    work.say("putting the container before in its place")
    old.change(edit)
    old.rename(names.appliance)
    old.start()
    with suppress(LxdockerError):  # what is wrong with the new one is the news
        health.wait_for(old, names, work.place.bridge)


def specs_of_host(machine: Machine) -> bool:
    """Whether its specs are a folder of the host."""
    devices = (machine.look() or {}).get("devices") or {}
    return any(device.get("path") == SPECS_OF_HOST for device in devices.values())
