"""Which daemon this host has, LXD or Incus, and how it is called and reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lxdocker.errors import HostError, UsageError

SNAP = Path("/var/snap/lxd/common/lxd")


@dataclass(frozen=True, slots=True)
class Daemon:
    """One daemon on this host, whether it runs or not; and the words for people who are to do something about it."""

    product: str  # 'LXD' or 'Incus'
    client: str  # its command
    socket: Path
    folder: str  # the variable that names its folder
    group: str  # who may use it
    start: str
    install: str

    @classmethod
    def lxd(cls, environ: Mapping[str, str]) -> Daemon:
        """Where pylxd and ``lxc`` look."""
        named = environ.get("LXD_DIR")
        in_snap = (SNAP / "unix.socket").exists()
        folder = Path(named) if named else SNAP if in_snap else Path("/var/lib/lxd")
        return cls(
            product="LXD",
            client="lxc",
            socket=folder / "unix.socket",
            folder="LXD_DIR",
            group="lxd",
            start="systemctl start lxd, or snap start lxd",
            install="install LXD (snap install lxd, or apt install lxd), then run: lxd init --minimal",
        )

    @classmethod
    def incus(cls, environ: Mapping[str, str]) -> Daemon:
        """Where ``incus`` looks, of 6.0 as of 7.0."""
        run = Path("/run/incus")
        folder = environ.get("INCUS_DIR") or (run if os.path.lexists(run / "unix.socket") else "/var/lib/incus")
        return cls(
            product="Incus",
            client="incus",
            socket=Path(environ.get("INCUS_SOCKET") or Path(folder) / "unix.socket"),
            folder="INCUS_DIR",
            group="incus-admin",
            start="systemctl start incus",
            install="install Incus (apt install incus), then run: incus admin init --minimal",
        )

    @classmethod
    def find(cls, client: str | None, environ: Mapping[str, str]) -> Daemon:
        """That of the client named, or else the one there is. Raises UsageError or HostError."""
        known = {daemon.client: daemon for daemon in (cls.lxd(environ), cls.incus(environ))}
        if client is not None:
            if client not in known:
                raise UsageError(f"no such client: {client[:100]}", "", "--client takes lxc or incus")
            return known[client]
        there = [daemon for daemon in known.values() if os.path.exists(daemon.socket)]  # noqa: PTH110 - Path.exists() raises
        if len(there) == 1:
            return there[0]
        sockets = " and ".join(str(daemon.socket) for daemon in known.values())
        if there:
            raise UsageError("this host has both LXD and Incus", sockets, "choose with --client lxc or --client incus")
        raise HostError(
            "this host has neither LXD nor Incus", f"no socket at {sockets}", "start or install one of them"
        )
