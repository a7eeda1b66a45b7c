"""Whether an appliance does its work: LXD is reachable from inside, and the server answers with the images."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lxdocker.appliance import inside
from lxdocker.appliance.host import Bridge
from lxdocker.appliance.machine import Machine
from lxdocker.appliance.wish import ETC, PORT, SPECS_OF_HOST, Names, address_of_host, listens
from lxdocker.errors import LxdockerError
from lxdocker.follow import remote
from lxdocker.follow.remote import Address
from lxdocker.serve.certs import Certificate

SECONDS = 60
RESTART_SECONDS = 10  # in which a server that fails at first may still start
SLICE_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Served:
    """Where an appliance serves its images, and what it is recognized by."""

    name: str  # in LXD's DNS
    address: str
    certificate: Certificate
    elsewhere: str | None = None  # the URL for hosts that do not reach LXD's bridge, if it has one

    @property
    def url(self) -> str:
        return f"https://{self.name}"

    @property
    def reachable(self) -> str:
        """The URL for this host, which may not ask LXD's DNS."""
        return self.url if self.resolves else f"https://{self.address}"

    @property
    def resolves(self) -> bool:
        try:
            found = socket.getaddrinfo(self.name, PORT, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return self.address in {one[4][0] for one in found}


def elsewhere(document: Mapping[str, Any]) -> str | None:
    """The URL for hosts that do not reach LXD's bridge, by what LXD says of the container; None if there is none."""
    listen = listens(document)
    if listen is None or (address := address_of_host(listen)).is_loopback:
        return None
    return f"https://{f'[{address}]' if address.version == 6 else address}:{listen.rpartition(':')[2]}"


def served(machine: Machine, names: Names, bridge: Bridge) -> Served | None:
    """None as long as it has no certificate or no address."""
    pem = machine.pull(inside.CERTIFICATE)
    address = machine.address()
    if not pem or not address:
        return None
    afar = elsewhere(machine.look() or {})
    try:
        return Served(f"{names.appliance}.{bridge.domain}", address, Certificate.parse(pem), afar)
    except ValueError:  # it is being written
        return None


def images(machine: Machine) -> list[dict[str, str | None]]:
    """What `lxdocker list` says there. Raises LxdockerError where LXD can't be used from inside."""
    said = machine.run(["lxdocker", "list", "--json"], "asking the appliance for its images", 60)
    try:
        document = json.loads(said)
        if "error" in document:
            raise ValueError(str(document["error"]))
        return [
            {"name": one["name"], "state": one["state"], "fingerprint": one["fingerprint"]}
            for one in document["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise LxdockerError("asking the appliance for its images failed", f"{said[:200]!r}: {error}") from error


def has_specs(machine: Machine) -> bool:
    """Whether there is anything to sync; a repository counts, whatever is in it."""
    script = (
        'grep -q "^specs_repository:" "$1/config.yaml" && exit; for file in "$1"/images.d/*.y*ml "$2"/*.y*ml; do'
        ' [ ! -e "$file" ] || exit 0; done; exit 1'
    )
    return machine.try_run(["/bin/sh", "-c", script, "look", ETC, SPECS_OF_HOST]).status == 0


def wait_for(machine: Machine, names: Names, bridge: Bridge, before: Sequence[str] = ()) -> Served:
    """Until it is healthy. Raises LxdockerError with what it lacks. ``before``: fingerprints that it has to have."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            found = _answering(machine, names, bridge)
            have = {one["fingerprint"] for one in images(machine)}
            if missing := set(before) - have:
                raise LxdockerError("images are missing", ", ".join(sorted(one[:12] for one in missing)))
        except LxdockerError as error:
            hopeless = time.monotonic() > deadline - SECONDS + RESTART_SECONDS and _has_failed(machine)
            if hopeless or time.monotonic() > deadline or machine.lxd.cancelled.wait(SLICE_SECONDS):
                raise LxdockerError(f"{machine.name} is not healthy", str(error), names.command("logs")) from error
        else:
            return found


def _has_failed(machine: Machine) -> bool:
    """Whether the server has ended, and nothing starts it again soon."""
    with suppress(LxdockerError):
        return "serve.ActiveState=failed" in inside.step(machine, "asking the appliance", "facts").split()
    return False


def _answering(machine: Machine, names: Names, bridge: Bridge) -> Served:
    found = served(machine, names, bridge)
    if found is None:
        raise LxdockerError("the server has not started", "it has no certificate yet")
    seen = remote.look_at(Address.parse(f"https://{found.address}:{PORT}"))
    if seen.certificate.fingerprint != found.certificate.fingerprint:
        raise LxdockerError(f"another server answers at {found.address}", "it shows another certificate")
    return found
