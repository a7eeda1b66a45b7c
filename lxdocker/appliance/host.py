"""What an appliance needs of its host's LXD, made with full rights: a restricted project, a trusted certificate, an
address where LXD listens.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Any

import yaml

from lxdocker.appliance.wish import Names
from lxdocker.builder import image as builder_image
from lxdocker.builder import placement
from lxdocker.config.resources import resource
from lxdocker.config.settings import Settings
from lxdocker.errors import HostError, LxdError
from lxdocker.files import scratch
from lxdocker.lxd.api import Lxd, NotFoundError
from lxdocker.lxd.connection import WHOLE
from lxdocker.progress import Say
from lxdocker.serve.certs import Certificate

PORT = 8443
_ADDRESS = "core.https_address"
# Of a project: that lxdocker had LXD listen there, and what to undo therefore.
LISTENS = "user.lxdocker.https_address"


@dataclass(frozen=True, slots=True)
class Bridge:
    """The network of the appliance and its builders."""

    name: str
    address: str  # LXD's host there
    domain: str  # of its DNS

    @property
    def url_host(self) -> str:
        return f"[{self.address}]" if ":" in self.address else self.address


@dataclass(frozen=True, slots=True)
class Place:
    """Where in LXD an appliance is."""

    pool: str
    bridge: Bridge


def find(lxd: Lxd, settings: Settings) -> Place:
    """Raises HostError where LXD has no place for it."""
    if lxd.dialect.product != "LXD":
        raise HostError("an appliance needs LXD", f"this is {lxd.dialect}", "docs/appliance.md has the way by hand")
    placed = placement.find(lxd, settings)
    nic = placed.nic or {}
    name = nic.get("network") or nic.get("parent") or ""
    found = {one["name"]: one for one in lxd.get("networks", what="listing networks", params=WHOLE)}
    network = found.get(name)
    config: Mapping[str, str] = (network or {}).get("config") or {}
    address = next(
        (text for key in ("ipv4.address", "ipv6.address") if (text := config.get(key, "none")) not in {"none", ""}), ""
    )
    if network is None or not network["managed"] or network["type"] != "bridge" or not address:
        raise HostError(
            "the appliance has no network",
            f"{name or 'the default profile'} has no bridge that LXD manages, with an address",
            "run: lxc network create lxdbr0, or name one in the setting `network`",
        )
    bridge = Bridge(name, str(ip_interface(address).ip), config.get("dns.domain") or "lxd")
    return Place(placed.pool, bridge)


# ---- the project


def prepare_project(lxd: Lxd, names: Names, place: Place, settings: Settings) -> None:
    """The restricted project with all that builders need, since the appliance may not make it: their profile, their
    layer cache, and a default profile that names pool and network.
    """
    wanted: dict[str, Any] = yaml.safe_load(resource("profiles", "appliance-project.yaml").read_text())
    wanted["config"]["restricted.networks.access"] = place.bridge.name
    project = names.project
    lxd.ensure_project(project, wanted["description"], wanted["config"])
    there = lxd.get("projects", project, what=f"reading project {project}")
    if any(there["config"].get(key) != value for key, value in wanted["config"].items()):
        body = {"description": there["description"], "config": {**there["config"], **wanted["config"]}}
        lxd.change("put", ("projects", project), f"restricting project {project}", json=body)
    profile: dict[str, Any] = yaml.safe_load(resource("profiles", "builder.yaml").read_text())
    lxd.ensure_profile(project, placement.PROFILE, profile)
    devices = {
        "root": {"type": "disk", "path": "/", "pool": place.pool},
        "eth0": {"type": "nic", "name": "eth0", "network": place.bridge.name},
    }
    lxd.ensure_profile(project, "default", {"description": wanted["description"], "config": {}, "devices": devices})
    for member in placement.find(lxd, settings).members or [None]:
        lxd.ensure_volume(project, place.pool, placement.CACHE_VOLUME, "layers that lxdocker's builders share", member)
    _share_builder_image(lxd, project, settings)


def _share_builder_image(lxd: Lxd, project: str, settings: Settings) -> None:
    """A copy of this host's builder image, if it has one: the appliance then need not make its own first."""
    found = builder_image.find(lxd, settings.builder_project)
    if found is None or found.stale_reason(settings.builder_max_age_days) or builder_image.find(lxd, project):
        return
    stored = lxd.image(settings.builder_project, found.fingerprint)
    if stored is None:
        return
    with scratch.folder() as folder:
        metadata, rootfs = lxd.export_image(settings.builder_project, found.fingerprint, folder)
        lxd.import_image(project, found.fingerprint, metadata, rootfs, stored.properties)
    lxd.set_alias(project, builder_image.ALIAS, found.fingerprint)


def delete_project(lxd: Lxd, names: Names) -> bool:
    """With its builders and images. Returns whether there was one."""
    project = names.project
    with suppress(NotFoundError):
        there = lxd.get("projects", project, what=f"reading project {project}")
        for one in lxd.instances(project):
            lxd.delete_instance(project, one["name"])
        for image in lxd.images(project):
            lxd.delete_image(project, image.fingerprint)
        for pool in lxd.pools():
            _delete_volumes(lxd, project, pool)
        for one in lxd.get("profiles", what="listing profiles", project=project, params=WHOLE):
            path = ("profiles", one["name"])
            if one["name"] == "default":
                body = {"description": "", "config": {}, "devices": {}}
                lxd.change("put", path, "emptying profile default", project=project, json=body)
            else:
                lxd.change("delete", path, f"deleting profile {one['name']}", project=project)
        _stop_listening(lxd, there["config"].get(LISTENS))
        lxd.change("delete", ("projects", project), f"deleting project {project}")
        return True
    return False


def _delete_volumes(lxd: Lxd, project: str, pool: str) -> None:
    path = ("storage-pools", pool, "volumes")
    for url in lxd.get(*path, "custom", what="listing volumes", project=project):
        name = url.rsplit("/", 1)[-1].split("?")[0]
        lxd.change("delete", (*path, "custom", name), f"deleting volume {name}", project=project)


# ---- volumes


def ensure_volume(lxd: Lxd, pool: str, name: str) -> None:
    lxd.ensure_volume("default", pool, name, "of an lxdocker appliance", lxd.dialect.member)


def volumes(lxd: Lxd, names: Names) -> list[tuple[str, str]]:
    """Those there are, as (pool, name)."""
    found = []
    for pool in lxd.pools():
        for name in (names.state, names.config):
            with suppress(NotFoundError):
                lxd.get("storage-pools", pool, "volumes", "custom", name, what=f"reading volume {name}")
                found.append((pool, name))
    return found


def delete_volume(lxd: Lxd, pool: str, name: str) -> None:
    with suppress(NotFoundError):
        path = ("storage-pools", pool, "volumes", "custom", name)
        lxd.change("delete", path, f"deleting volume {name}")


# ---- HTTPS


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the appliance finds LXD, and what it recognizes it by."""

    host: str  # as in a URL
    port: int
    certificate: str  # PEM

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"


def listen(lxd: Lxd, names: Names, bridge: Bridge, say: Say) -> Endpoint:
    """Has LXD listen on the bridge, unless it listens where the appliance reaches it. Raises HostError if it listens
    elsewhere.
    """
    server = lxd.get(what="reading LXD's configuration")
    address = str(server["config"].get(_ADDRESS) or "")
    if not address:
        address = f"{bridge.url_host}:{PORT}"
        say(f"LXD now listens on {address} ({_ADDRESS})")
        _note_listening(lxd, names.project, address)
        lxd.change("patch", (), f"setting {_ADDRESS}", json={"config": {_ADDRESS: address}})
        server = lxd.get(what="reading LXD's configuration")
    host, port = _reached(address, bridge)
    return Endpoint(host, port, server["environment"]["certificate"])


def _reached(address: str, bridge: Bridge) -> tuple[str, int]:
    """Host and port of LXD as the appliance sees them."""
    host, _, port = address.rpartition(":") if not address.endswith("]") else (address, "", "")
    if not port.isdecimal() or (":" in host and not host.startswith("[")):
        host, port = address, str(PORT)
    plain = host.strip("[]")
    if plain in {"", "::", "0.0.0.0"}:  # noqa: S104 - asked about, not listened on
        return bridge.url_host, int(port)
    with suppress(ValueError):
        if ip_address(plain).is_loopback:
            raise HostError(
                "the appliance cannot reach LXD",
                f"{_ADDRESS} is {address}, which is this host's own",
                f"run: lxc config set {_ADDRESS} :{port}, or use the socket (--socket), which is root on this host",
            )
    return f"[{plain}]" if ":" in plain else plain, int(port)


def _note_listening(lxd: Lxd, project: str, address: str) -> None:
    there = lxd.get("projects", project, what=f"reading project {project}")
    body = {"description": there["description"], "config": {**there["config"], LISTENS: address}}
    lxd.change("put", ("projects", project), f"noting {_ADDRESS}", json=body)


def _stop_listening(lxd: Lxd, noted: str | None) -> None:
    """Undoes listen(), unless somebody has changed it since."""
    if noted and lxd.get(what="reading LXD's configuration")["config"].get(_ADDRESS) == noted:
        lxd.change("patch", (), f"unsetting {_ADDRESS}", json={"config": {_ADDRESS: ""}})


def trust(lxd: Lxd, names: Names, pem: str) -> None:
    """Lets the key of this certificate use the appliance's project, and nothing else."""
    wanted = Certificate.parse(pem.encode())
    body = {
        "name": names.certificate,
        "type": "client",
        "restricted": True,
        "projects": [names.project],
    }
    path = ("certificates", wanted.fingerprint)
    what = "adding the appliance's certificate"
    # First, since newer LXDs let no two clients have a name.
    for fingerprint in trusted(lxd, names) - {wanted.fingerprint}:
        distrust(lxd, fingerprint)
    try:
        there = lxd.get(*path, what=what)
    except NotFoundError:
        content = "".join(pem.strip().splitlines()[1:-1])
        lxd.change("post", ("certificates",), what, json={**body, "certificate": content})
    else:
        if there["name"] != names.certificate:
            raise LxdError(f"{what} failed", f"LXD has it already, as {there['name']}")
        if there != {**there, **body}:
            lxd.change("put", path, what, json={**body, "certificate": there["certificate"]})


def trusted(lxd: Lxd, names: Names) -> set[str]:
    """The fingerprints of the appliance's certificates."""
    found = lxd.get("certificates", what="listing certificates", params=WHOLE)
    return {one["fingerprint"] for one in found if one["name"] == names.certificate and one.get("restricted")}


def distrust(lxd: Lxd, fingerprint: str) -> None:
    with suppress(NotFoundError):
        lxd.change("delete", ("certificates", fingerprint), "deleting the appliance's certificate")
