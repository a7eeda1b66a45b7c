"""Where builders live on this LXD: its project, profile, pool, network and layer cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from lxdocker.config.resources import resource
from lxdocker.config.settings import Settings
from lxdocker.errors import HostError, LxdError
from lxdocker.lxd.api import Lxd

PROFILE = "builder"
CACHE_VOLUME = "cache"
PROJECT_CONFIG = {
    "features.images": "true",
    "features.profiles": "true",
    "features.storage.volumes": "true",
    "features.networks": "false",  # builders join the networks that are there
}


@dataclass(frozen=True, slots=True)
class Placement:
    """What a builder is created with."""

    project: str
    pool: str
    nic: Mapping[str, str] | None  # None where LXD has no network: registries on this host still work
    target: str | None = None  # member of a cluster, or @GROUP; None for wherever LXD places builders
    members: tuple[str, ...] = ()  # of a cluster: those that can be builders' hosts, each with its own layer cache

    def devices(self, *, network: bool, cache: bool) -> dict[str, Mapping[str, str]]:
        """LXD devices of one builder. Raises HostError when it needs a network that is not there."""
        devices: dict[str, Mapping[str, str]] = {
            "root": {"type": "disk", "path": "/", "pool": self.pool},
        }
        if cache:
            devices["cache"] = {"type": "disk", "pool": self.pool, "source": CACHE_VOLUME, "path": "/cache"}
        if network:
            if self.nic is None:
                raise HostError(
                    "the builder has no network",
                    "LXD has no managed network, and the default profile no network interface",
                    "run: lxc network create lxdbr0, or name one in the setting `network`",
                )
            devices["eth0"] = {**self.nic, "name": "eth0"}
        return devices


def find(lxd: Lxd, settings: Settings) -> Placement:
    """Pool and network: the settings', else those of LXD's default profile, else the first there is.

    Raises HostError for an LXD that was never set up.
    """
    default = _default_devices(lxd, settings)
    pool, nic = _pool(lxd, settings, default), _nic(lxd, settings, default)
    return Placement(settings.builder_project, pool, nic, settings.target, _members(lxd, settings))


def prepare(lxd: Lxd, settings: Settings) -> Placement:
    """Finds pool and network, and makes project, profile and cache volume unless they are there.

    Raises HostError for an LXD that was never set up.
    """
    placement = find(lxd, settings)
    pool = placement.pool
    lxd.ensure_project(placement.project, "lxdocker's builders", PROJECT_CONFIG)
    lxd.ensure_profile(placement.project, PROFILE, _profile(settings))
    for member in placement.members or [None]:
        lxd.ensure_volume(placement.project, pool, CACHE_VOLUME, "layers that lxdocker's builders share", member)
    return placement


def _default_devices(lxd: Lxd, settings: Settings) -> list[Mapping[str, str]]:
    """Those of the default profile; a client with a restricted certificate sees that of its own project only."""
    try:
        profile = lxd.profile("default", "default")
    except LxdError:
        if settings.builder_project == "default":
            raise
        profile = lxd.profile(settings.builder_project, "default")
    return list(profile["devices"].values())


def _members(lxd: Lxd, settings: Settings) -> tuple[str, ...]:
    """Raises HostError for a target without any member that could be used."""
    members = [one for one in lxd.members() if one.architecture in {"", lxd.dialect.architecture}]
    if not lxd.dialect.member:
        if settings.target:
            why = f"{lxd.dialect} is in no cluster"
            raise HostError(f"no cluster member {settings.target}", why, "remove the setting `target`")
        return ()
    online = {one.name: one.groups for one in members if one.is_online}
    wanted = settings.target or ""
    group = wanted.removeprefix("@") if wanted.startswith("@") else None
    fitting = [name for name, groups in online.items() if wanted in {"", name} or group in groups]
    if not fitting:
        raise HostError(
            f"no cluster member for builders{f' in {wanted}' if wanted else ''}",
            f"online, and not evacuated, are {', '.join(online) or 'none'}",
            "see lxc cluster list" + (", and correct the setting `target`" if wanted else ""),
        )
    return tuple(sorted(fitting))


def _profile(settings: Settings) -> Mapping[str, Any]:
    profile: dict[str, Any] = yaml.safe_load(resource("profiles", "builder.yaml").read_text())
    if settings.builder_memory:
        profile["config"]["limits.memory"] = settings.builder_memory
    return profile


def _pool(lxd: Lxd, settings: Settings, devices: Any) -> str:
    pools = lxd.pools()
    if settings.pool:
        if settings.pool not in pools:
            raise HostError(
                f"LXD has no storage pool {settings.pool}",
                f"available pools: {', '.join(pools) or 'none'}",
                "correct the setting `pool`",
            )
        return settings.pool
    for device in devices:
        if device["type"] == "disk" and device.get("path") == "/" and device.get("pool") in pools:
            return str(device["pool"])
    if not pools:
        raise HostError("LXD is not set up", "it has no storage pool", "run: lxd init --minimal")
    return pools[0]


def _nic(lxd: Lxd, settings: Settings, devices: Any) -> Mapping[str, str] | None:
    if settings.network:
        bridges = lxd.bridges(settings.builder_project)
        if settings.network not in bridges:
            raise HostError(
                f"LXD has no managed network {settings.network}",
                f"available networks: {', '.join(bridges) or 'none'}",
                "correct the setting `network`",
            )
        return {"type": "nic", "network": settings.network}
    for device in devices:
        if device["type"] == "nic":
            return {key: value for key, value in device.items() if key in {"type", "nictype", "parent", "network"}}
    return next(({"type": "nic", "network": name} for name in lxd.bridges(settings.builder_project)), None)
