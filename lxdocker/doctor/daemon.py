"""LXD itself: whether it is there, new enough and set up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lxdocker.config.settings import Settings
from lxdocker.doctor.finding import Finding, NotExamined
from lxdocker.doctor.subject import Subject
from lxdocker.errors import HostError, LxdError, LxdockerError
from lxdocker.lxd.address import UnixSocket
from lxdocker.lxd.daemon import SNAP, Daemon
from lxdocker.progress import human_size

# In every LXD since 5.0, in none of 4.0.
REQUIRED = "storage_volumes_all_projects"
FULL, NEARLY_FULL = 300 << 20, 2 << 30  # bytes that are free
SUBIDS = (Path("/etc/subuid"), Path("/etc/subgid"))
IDS = 65536  # that an instance needs


def lxd(subject: Subject) -> Iterator[Finding]:
    """Whether LXD answers, and to this user; its version."""
    try:
        found = subject.connection()
    except LxdockerError as error:
        yield Finding.of(_why_not(subject), error)
        return
    if REQUIRED not in found.dialect.extensions:
        yield Finding(
            "lxd-too-old",
            f"{found.dialect} is too old",
            "lxdocker needs LXD 5.0 or later",
            "update it: snap refresh lxd --channel=5.21/stable, or your distribution's package",
        )
    if found.dialect.weakness:
        why, _, do = found.dialect.weakness.partition(" -> ")
        yield Finding("lxd-vulnerable", "LXD lacks a security update", why, do)


def _why_not(subject: Subject) -> str:
    settings = subject.settings
    try:
        address = Daemon.at(settings.lxd, settings.client_dir or Path("/"), subject.environ).address
    except LxdockerError:
        return "lxd-unreachable"
    if not isinstance(address, UnixSocket):
        return "lxd-unreachable"
    try:
        address.path.stat()
    except PermissionError:
        return "lxd-permission"
    except OSError:
        return "lxd-missing"
    return "lxd-not-running" if os.access(address.path, os.R_OK | os.W_OK) else "lxd-permission"


def setup(subject: Subject) -> Iterator[Finding]:
    """Whether LXD has what builders need: a storage pool, and the network that a setting names."""
    lxd, settings = subject.lxd(), subject.settings
    try:
        placement = subject.placement()
    except HostError as error:
        yield Finding.of(_lacks(lxd.pools(), settings), error)
        return
    if placement.nic is None and subject.needs_network():
        try:
            placement.devices(network=True, cache=False)
        except HostError as error:
            yield Finding.of("network-missing", error)
    yield from _room(subject, placement.pool)


def _lacks(pools: list[str], settings: Settings) -> str:
    if settings.pool and settings.pool not in pools:
        return "pool-missing"
    return "network-missing" if pools else "lxd-not-initialised"


def _room(subject: Subject, pool: str) -> Iterator[Finding]:
    try:
        space = subject.lxd().get("storage-pools", pool, "resources", what=f"reading pool {pool}")["space"]
        free, total = int(space["total"]) - int(space["used"]), int(space["total"])
    except LxdError as error:  # a restricted certificate does not show it
        raise NotExamined(f"the room in storage pool {pool}: {error.details}") from error
    if total and free < NEARLY_FULL:
        yield Finding(
            "pool-full" if free < FULL else "pool-nearly-full",
            f"storage pool {pool} has {human_size(free)} left",
            f"of {human_size(total)}; a builder unpacks a whole image there",
            f"enlarge it (lxc storage set {pool} size=…), free space (lxdocker prune), or set `pool` to another",
        )


def id_map(subject: Subject) -> Iterator[Finding]:
    """Whether LXD has enough user and group IDs for unprivileged instances."""
    address = subject.local_lxd().daemon.address
    in_snap = isinstance(address, UnixSocket) and address.path.is_relative_to(SNAP)
    if in_snap or not shutil.which("newuidmap"):
        return  # LXD has a range of its own then
    for file in SUBIDS:
        try:
            lines = [line.split(":") for line in file.read_text().splitlines()]
            counts = [int(words[2]) for words in lines if len(words) == 3 and words[0] in {"root", "0"}]
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise NotExamined(f"{file} can't be read") from error
        if max(counts, default=0) < IDS:
            yield Finding(
                "id-map-small",
                f"LXD has too few IDs in {file}",
                f"root has {max(counts, default=0)} there, an instance needs {IDS}",
                f"add the line root:1000000:1000000000 to {file}, then restart LXD",
            )
