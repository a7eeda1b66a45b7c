"""What an appliance is to be like, and the names of all that belongs to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lxdocker.appliance import schedule
from lxdocker.builder.image import LOCAL_SERVER
from lxdocker.config import yamlfile
from lxdocker.config.settings import load
from lxdocker.config.signers import Signers
from lxdocker.errors import UsageError
from lxdocker.serve import hostnames
from lxdocker.serve.hostnames import Address
from lxdocker.serve.joining import main_address

NAME = "lxdocker"
PORT = 443
# Where things are in the container.
ETC, STATE = "/etc/lxdocker", "/var/lib/lxdocker"
SPECS, SPECS_OF_HOST = f"{ETC}/images.d", "/srv/specs"
SIGNERS = f"{ETC}/signers"
_FROM_ANYWHERE = ("https://", "http://", "git://")  # repositories that a container can fetch without more
SERVED = "served"  # the proxy device for --listen
SOCKET = "/var/lib/lxd/unix.socket"

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{0,40}[A-Za-z0-9])?")
_CALENDAR = re.compile(r"[A-Za-z0-9*:/.,~ -]{1,100}")
_LISTEN = re.compile(r"(?:\[[0-9A-Fa-f:]+\]|[0-9.]+)?:([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Names:
    """What LXD has for an appliance, all in the project default but for what is in ``project``."""

    appliance: str

    @classmethod
    def of(cls, text: str) -> Names:
        """Raises UsageError unless a container can have that name."""
        if not _NAME.fullmatch(text):
            raise UsageError(
                f"{text[:100]!r} cannot be an appliance's name",
                "it is the name of a container, and of a host in LXD's DNS",
                "use up to 42 letters, digits and '-', the first one a letter",
            )
        return cls(text)

    def command(self, verb: str) -> str:
        """What to type for it."""
        return f"lxdocker appliance {verb}" + ("" if self.appliance == NAME else f" --name {self.appliance}")

    @property
    def new(self) -> str:
        """The container that an upgrade makes."""
        return f"{self.appliance}-new"

    @property
    def old(self) -> str:
        """The one that it keeps until the new one has proved itself."""
        return f"{self.appliance}-old"

    @property
    def project(self) -> str:
        return f"{self.appliance}-appliance"

    @property
    def state(self) -> str:
        """The volume with the tree, keys, and specs of a repository."""
        return f"{self.appliance}-state"

    @property
    def config(self) -> str:
        """The volume with settings and specs."""
        return f"{self.appliance}-config"

    @property
    def certificate(self) -> str:
        return f"{self.appliance}-appliance"


@dataclass(frozen=True, slots=True)
class Repository:
    """A git repository of specs."""

    url: str = field(repr=False)  # it may hold a login
    branch: str | None = None
    signers: Signers | None = None  # one of which has to have signed the commit

    def __post_init__(self) -> None:
        if not self.url.startswith(_FROM_ANYWHERE):
            raise UsageError(
                "--specs-repository: the appliance cannot fetch it",
                "it has neither this host's files nor an ssh key",
                "give a URL with https://, with a token for reading if it needs one: https://TOKEN@HOST/PATH",
            )

    @property
    def packages(self) -> tuple[str, ...]:
        """Of Debian, to fetch it."""
        if self.signers is None:
            return ("git",)
        return ("git", "gpg" if self.signers.kind == "openpgp" else "openssh-client")


@dataclass(frozen=True, slots=True)
class Wish:
    """What an appliance is made of and does."""

    names: Names
    server: str  # of the base image; LOCAL_SERVER for one in LXD's own store
    base: str  # its alias
    package: Path | None = None  # lxdocker itself; the one that runs, if none is named
    packages: Path | None = None  # a folder of Debian packages, in place of a mirror
    socket: bool = False  # reaches LXD by its socket, as root of the host would
    specs: Path | None = None  # a folder of the host
    repository: Repository | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # more of its configuration
    calendar: str = "hourly"
    delay: str = "15min"
    listen: str | None = None  # also an address of the host
    more: tuple[str, ...] = ()  # Debian packages that it needs beside those that each does
    goes_on: bool = False  # as the appliance is configured already

    def __post_init__(self) -> None:
        if self.specs is not None and self.repository is not None:
            raise UsageError("--specs and --specs-repository exclude each other", "", "leave one out")
        if not _CALENDAR.fullmatch(self.calendar):
            raise UsageError(f"--calendar: not a time for systemd: {self.calendar[:100]!r}", "", "see systemd.time(7)")
        if schedule.seconds(self.delay) is None:
            raise UsageError(
                f"--delay: not a time span: {self.delay[:100]!r}", "", "give one such as 15min or 1h 30min"
            )
        if self.listen is not None and not listen_port(self.listen):
            raise UsageError(
                f"--listen: not an address: {self.listen[:100]!r}", "", "give one of this host, such as 192.0.2.1:8444"
            )

    @property
    def of_local_image(self) -> bool:
        return self.server == LOCAL_SERVER


def listen_port(text: str) -> int:
    """The port of ``[ADDRESS]:PORT``; 0 if it is none."""
    found = _LISTEN.fullmatch(text)
    port = int(found[1]) if found else 0
    return port if port < 1 << 16 else 0


def listens(document: Mapping[str, Any]) -> str | None:
    """Where a container listens for other hosts, as ``--listen`` has it, by its proxy device."""
    device = (document.get("devices") or {}).get(SERVED) or {}
    return str(device.get("listen", "")).removeprefix("tcp:") or None


def address_of_host(listen: str) -> Address:
    """The address at which other hosts reach this one, where it listens for an appliance, as well as it can know."""
    given = hostnames.as_address(listen.rpartition(":")[0].strip("[]"))
    return given if given is not None and not given.is_unspecified else ip_address(main_address())


def names_of_host(listen: str) -> list[str]:
    """By which clients may call this host."""
    return [*hostnames.own_name(), *hostnames.full_name(), str(address_of_host(listen))]


def read_settings(path: Path) -> Mapping[str, Any]:
    """A configuration file that the appliance starts with. Raises SpecError with all of its mistakes."""
    load({"config": path}, {})  # says what is wrong with it
    document: Mapping[str, Any] | None = yamlfile.read(path, str(path)).value
    return document or {}
