"""create: from nothing to an appliance that works. Each step can be repeated: a killed run is simply run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lxdocker.appliance import health, host, inside
from lxdocker.appliance.health import Served
from lxdocker.appliance.host import Bridge, Endpoint, Place
from lxdocker.appliance.machine import PROJECT, STAGE, Machine, Stage
from lxdocker.appliance.wish import ETC, PORT, SERVED, SOCKET, SPECS_OF_HOST, STATE, Names, Wish, listens
from lxdocker.builder.image import ANOTHER_BASE, USUAL_FAILURES
from lxdocker.config.resources import resource
from lxdocker.config.settings import Settings
from lxdocker.errors import HostError, LxdError, LxdockerError, UsageError, remedy
from lxdocker.lxd.api import Lxd
from lxdocker.lxd.dialect import register_command
from lxdocker.progress import Say

WISH = "user.lxdocker.wish"  # of a container: what of the wish its successors need
SYNC_SECONDS = 6 * 3600


@dataclass(frozen=True, slots=True)
class Work:
    """What create and upgrade work with."""

    lxd: Lxd
    settings: Settings  # of the host
    wish: Wish
    place: Place
    say: Say  # is told each step

    @property
    def machine(self) -> Machine:
        return Machine(self.lxd, self.wish.names.appliance)


@dataclass(frozen=True, slots=True)
class Made:
    """An appliance that works."""

    served: Served
    existed: bool
    synced: bool  # whether its first sync has succeeded


def create(work: Work) -> Made:
    """Makes an appliance. One that is ready is left as it is; one that is half made is made anew, but for its volumes.
    Raises LxdockerError.
    """
    machine, names = work.machine, work.wish.names
    if machine.look() is not None and machine.stage is None:
        raise UsageError(
            f"there is a container {names.appliance} already",
            "it is no appliance of lxdocker",
            "choose another name with --name",
        )
    if Machine(work.lxd, names.old).look() is not None:
        raise UsageError(
            f"an upgrade of {names.appliance} was interrupted", "", f"finish it: {names.command('upgrade')}"
        )
    if machine.stage is Stage.DELETING:
        raise UsageError(f"{names.appliance} is being deleted", "", f"finish it: {names.command('delete')}")
    existed = machine.stage is Stage.READY
    if existed:
        wish = known_wish(work.lxd, names, work.wish, base_named=False)
        work = replace(work, wish=wish, place=place_of(work.place, machine))
    endpoint = prepare_host(work)
    if not existed:
        work.say("creating the container")
        machine.delete()
        make(work, machine, Stage.MAKING, volumes=True)
        fill(work, machine)
    take_up(work, machine, endpoint)
    work.say("waiting until it is healthy")
    found = health.wait_for(machine, names, work.place.bridge)
    synced = existed or first_sync(work, machine)
    machine.mark(Stage.READY)
    return Made(found, existed, synced)


def known_wish(lxd: Lxd, names: Names, wish: Wish, *, base_named: bool) -> Wish:
    """``wish`` with all that the appliance was made with. ``base_named``: it has another base. Raises UsageError where
    there is no appliance.
    """
    document = next(filter(None, (Machine(lxd, name).look() for name in (names.appliance, names.old))), None)
    config: dict[str, str] = (document or {}).get("config") or {}
    if document is None or WISH not in config:
        raise UsageError(f"no appliance {names.appliance}", "", f"make one: {names.command('create')}")
    kept: dict[str, Any] = json.loads(config[WISH])
    found = replace(
        wish,
        settings={},
        calendar=kept["calendar"],
        delay=kept["delay"],
        more=tuple(kept["more"]),
        socket="lxd" in document["devices"],
        listen=listens(document),
        goes_on=True,
    )
    if not base_named:
        found = replace(found, server=kept["server"], base=kept["base"])
    return found


def place_of(place: Place, machine: Machine) -> Place:
    """``place``, but with the pool that the appliance is in already."""
    devices = (machine.look() or {}).get("devices") or {}
    return replace(place, pool=(devices.get("root") or {}).get("pool", place.pool))


def prepare_host(work: Work) -> Endpoint | None:
    """All that is needed around the container. None where the appliance uses LXD's socket."""
    names, pool = work.wish.names, work.place.pool
    work.say("preparing volumes")
    for volume in (names.state, names.config):
        host.ensure_volume(work.lxd, pool, volume)
    if work.wish.socket:
        return None
    work.say("preparing the project")
    host.prepare_project(work.lxd, names, work.place, work.settings)
    work.say("preparing LXD's address")
    return host.listen(work.lxd, names, work.place.bridge, work.say)


# ---- the container


def make(work: Work, machine: Machine, stage: Stage, *, volumes: bool) -> None:
    """Creates and starts a container of the base image. Raises LxdError, or HostError where LXD can't get that."""
    profile: dict[str, Any] = yaml.safe_load(resource("profiles", "appliance.yaml").read_text())
    devices = {
        "root": {"type": "disk", "path": "/", "pool": work.place.pool},
        "eth0": {"type": "nic", "name": "eth0", "network": work.place.bridge.name},
        **(own_devices(work) if volumes else {}),
    }
    kept: dict[str, Any] = {"calendar": work.wish.calendar, "delay": work.wish.delay, "server": work.wish.server}
    kept |= {"base": work.wish.base, "more": list(work.wish.more)}
    config = {**profile["config"], STAGE: stage.value, WISH: json.dumps(kept)}
    body = {"description": profile["description"], "profiles": [], "config": config, "devices": devices}
    wish = work.wish
    try:
        machine.make({**body, "source": _source(work.lxd, wish)})
    except LxdError as error:
        raise LxdError(
            f"creating the container from the base image {wish.base} of {wish.server} failed",
            error.details,
            error.resolution or f"{remedy(error.details, USUAL_FAILURES, ANOTHER_BASE)}, or give --base",
        ) from error
    if wish.socket:
        parents = [str(path) for path in reversed(Path(SOCKET).parents[:-3])]
        for path in parents:
            machine.lxd.make_folder(PROJECT, machine.name, path)
    work.say(f"starting {machine.name}")
    machine.start()


def own_devices(work: Work) -> Mapping[str, Mapping[str, str]]:
    """Beside its root and its network."""
    profile: dict[str, Any] = yaml.safe_load(resource("profiles", "appliance.yaml").read_text())
    names, pool, wish = work.wish.names, work.place.pool, work.wish
    sources = {STATE: names.state, ETC: names.config}
    devices: dict[str, Mapping[str, str]] = {
        name: {**device, "pool": pool, "source": sources[device["path"]]} for name, device in profile["devices"].items()
    }
    if wish.specs:
        devices["specs"] = {"type": "disk", "source": str(wish.specs), "path": SPECS_OF_HOST, "readonly": "true"}
    if wish.socket:
        devices["lxd"] = {
            "type": "proxy",
            "bind": "instance",
            "connect": f"unix:{work.lxd.daemon.address}",
            "listen": f"unix:{SOCKET}",
            "mode": "0600",
        }
    if wish.listen:
        address, _, port = wish.listen.rpartition(":")
        listen = f"tcp:{address or '0.0.0.0'}:{port}"  # noqa: S104 - as it was asked for
        devices[SERVED] = {"type": "proxy", "bind": "host", "listen": listen, "connect": f"tcp:127.0.0.1:{PORT}"}
    return devices


def _source(lxd: Lxd, wish: Wish) -> Mapping[str, str]:
    """Of the base image, as LXD takes it."""
    if wish.of_local_image:
        fingerprint = lxd.aliases("default").get(wish.base)
        if fingerprint is None:
            raise HostError(
                f"no such base image: {wish.base}", "LXD's default project has no image with this alias", "see --base"
            )
        return {"type": "image", "fingerprint": fingerprint.value}
    source = {"type": "image", "mode": "pull", "alias": wish.base}
    if not lxd.dialect.knows_registries:
        return {**source, "protocol": "simplestreams", "server": wish.server}
    for name, address in lxd.image_registries().items():
        if address.rstrip("/") == wish.server.rstrip("/"):
            return {**source, "image_registry": name}
    raise HostError(
        f"{lxd.dialect} has no image registry for {wish.server}",
        "it is the server of the base image",
        f"make one: {register_command('NAME', wish.server)}",
    )


# ---- what is in it


def fill(work: Work, machine: Machine) -> None:
    """Installs lxdocker and what it needs."""
    work.say("waiting for its init")
    inside.wait_for_init(machine)
    inside.check_calendar(machine, work.wish)
    inside.install(machine, work.wish, work.say)


def take_up(work: Work, machine: Machine, endpoint: Endpoint | None) -> None:
    """Configures a container that has its volumes, gives it its rights and its address, and starts its services."""
    wish = work.wish
    machine.start()
    inside.wait_for_init(machine)
    if inside.step(machine, "looking at its machine-id", "identity").strip() == "changed":
        work.say("restarting it as the machine that it was")
        machine.stop()
        machine.start()
        inside.wait_for_init(machine)
    work.say("configuring it")
    inside.configure(machine, wish, work.place, endpoint, keep_address(machine))
    if endpoint:
        work.say("trusting its certificate")
        pem = inside.step(machine, "making the key for LXD", "key", inside.CLIENT, wish.names.certificate)
        host.trust(work.lxd, wish.names, pem)
    work.say("starting its services")
    inside.start(machine, wish)


def keep_address(machine: Machine) -> str:
    """It keeps the address that it has got: other hosts know it by that."""
    address = machine.wait_for_address()

    def edit(_: object, devices: dict[str, dict[str, str]]) -> None:
        devices["eth0"].setdefault("ipv4.address", address)

    machine.change(edit)
    return address


def first_sync(work: Work, machine: Machine) -> bool:
    """So that there are images to serve. What fails now the timer tries again."""
    if not health.has_specs(machine):
        return True
    work.say("syncing for the first time")
    done = machine.try_run(["lxdocker", "sync", "-q"], "the first sync", SYNC_SECONDS)
    if done.status:
        said = (done.stderr.strip() or done.stdout.strip())[-1000:]
        work.say(f"warning: the first sync has failed, in part or as a whole; the timer tries again:\n{said}")
    return done.status == 0


def bridge_of(lxd: Lxd, machine: Machine) -> Bridge:
    """The network that an appliance is in. Raises LxdockerError."""
    found = machine.look() or {}
    name = ((found.get("devices") or {}).get("eth0") or {}).get("network", "")
    try:
        config = lxd.get("networks", name, what=f"reading network {name}")["config"]
    except LxdError as error:
        raise LxdockerError(
            f"no network of {machine.name}", str(error), "check its devices: lxc config show"
        ) from error
    return Bridge(name, str(config.get("ipv4.address", "")).partition("/")[0], config.get("dns.domain") or "lxd")
