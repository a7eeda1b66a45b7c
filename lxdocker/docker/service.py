"""A Docker container as LXD would have it: the values between reading and printing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

HealthValue = str | float | tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Lost:
    """Something that LXD has no equal of, or not by itself."""

    service: str  # "" where it belongs to none
    what: str  # the flag or key, as it is written
    why: str  # and what to do instead
    # Without it, the application may fail, lose data, or be reached or found by others in another way.
    essential: bool
    key: str = ""  # of a spec that can hold it


@dataclass(frozen=True, slots=True)
class Volume:
    """A custom volume and where it is mounted."""

    name: str
    device: str
    path: str  # absolute, in the instance
    read_only: bool = False
    exists: bool = False  # somebody else has made it


@dataclass(frozen=True, slots=True)
class Device:
    """A device of an instance, as `lxc config device add` takes it."""

    name: str
    kind: str  # proxy, disk, unix-char, gpu, nic, ...
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """An instance, and the image that it is made from."""

    name: str  # of the instance
    image: str  # a reference, as a spec has it; "" where there is none
    entrypoint: tuple[str, ...] | None = None  # None: the image's
    command: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str | None], ...] = ()  # None: as it is where the commands are run
    env_files: tuple[str, ...] = ()  # of this host, absolute
    tmpfs: tuple[tuple[str, str], ...] = ()  # path -> on or a size
    restart: str = "no"  # as specs have it
    stop_grace: int | None = None  # seconds
    fill_volumes: bool = True
    # What an instance has no setting for, but a spec has a key, and its value there.
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    exposed: tuple[str, ...] = ()  # ports, such as 80/tcp, besides the image's
    healthcheck: tuple[tuple[str, HealthValue], ...] | Literal["none"] = ()
    config: tuple[tuple[str, str], ...] = ()  # more configuration of the instance
    raw_lxc: tuple[str, ...] = ()  # lines of its raw.lxc
    volumes: tuple[Volume, ...] = ()
    devices: tuple[Device, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()  # of the network device that the default profile has, eth0
    root_size: str = ""
    networks: tuple[str, ...] = ()  # to be created
    ephemeral: bool = False
    after: tuple[str, ...] = ()  # services that start first
    key: str = ""  # its name in the compose file
    lost: tuple[Lost, ...] = field(default=())
