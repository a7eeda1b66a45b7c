"""Which daemon is meant, LXD or Incus, this host's or another's, and how it is called and reached."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from lxdocker.errors import HostError, UsageError
from lxdocker.files.seen import exists
from lxdocker.http import url as urls
from lxdocker.lxd.address import PORT, Address, Https, UnixSocket
from lxdocker.reasons import in_words

SNAP = Path("/var/snap/lxd/common/lxd")
CERTIFICATE, KEY, PINNED = "client.crt", "client.key", "servercerts"  # in lxdocker's folder as in lxc's
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class Daemon:
    """One daemon, whether it runs or not; and the words for people who are to do something about it."""

    product: str  # 'LXD' or 'Incus'
    client: str  # its command
    address: Address
    folder: str  # the variable that names its folder
    group: str  # who may use it
    start: str
    install: str

    @classmethod
    def lxd(cls, environ: Mapping[str, str]) -> Daemon:
        """Where pylxd and ``lxc`` look."""
        named = environ.get("LXD_DIR")
        in_snap = exists(SNAP / "unix.socket")
        folder = Path(named) if named else SNAP if in_snap else Path("/var/lib/lxd")
        return cls(
            product="LXD",
            client="lxc",
            address=UnixSocket(folder / "unix.socket"),
            folder="LXD_DIR",
            group="lxd",
            start="systemctl start lxd, or snap start lxd",
            install="install LXD (snap install lxd, or apt install lxd), then run: lxd init --minimal",
        )

    @classmethod
    def at(cls, wanted: str | None, client_dir: Path, environ: Mapping[str, str]) -> Daemon:
        """The LXD that the setting ``lxd`` names: this host's, a URL, or a remote of ``lxc``. Raises UsageError."""
        local = cls.lxd(environ)
        if wanted is None:
            return local
        if _URL.match(wanted):
            return replace(local, address=parse_url(wanted, client_dir))
        return replace(local, address=_remote(wanted, environ) or local.address)

    @classmethod
    def incus(cls, environ: Mapping[str, str]) -> Daemon:
        """Where ``incus`` looks, of 6.0 as of 7.0."""
        run = Path("/run/incus")
        folder = environ.get("INCUS_DIR") or (run if os.path.lexists(run / "unix.socket") else "/var/lib/incus")
        return cls(
            product="Incus",
            client="incus",
            address=UnixSocket(Path(environ.get("INCUS_SOCKET") or Path(folder) / "unix.socket")),
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
        there = [daemon for daemon in known.values() if exists(Path(str(daemon.address)))]
        if len(there) == 1:
            return there[0]
        sockets = " and ".join(str(daemon.address) for daemon in known.values())
        if there:
            raise UsageError("this host has both LXD and Incus", sockets, "choose with --client lxc or --client incus")
        raise HostError(
            "this host has neither LXD nor Incus", f"no socket at {sockets}", "start or install one of them"
        )


def parse_url(text: str, client_dir: Path) -> Https:
    """An LXD's URL. Raises UsageError."""
    url = urls.parse(text)
    if url is None or url.scheme != "https" or url.auth or (url.path or "/") != "/" or url.query or url.fragment:
        raise UsageError(f"not the URL of an LXD: {text[:100]!r}", "", "one such as https://HOST:8443")
    host, port = str(url.host).strip("[]"), url.port or PORT
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Https(host, port, client_dir / CERTIFICATE, client_dir / KEY, client_dir / PINNED / f"{place}.crt")


def _remote(name: str, environ: Mapping[str, str]) -> Address | None:
    """A remote in the configuration of ``lxc``; None for this host's LXD. Raises UsageError."""
    folder = lxc_folder(environ)
    try:
        document = yaml.safe_load((folder / "config.yml").read_text(encoding="utf-8"))
        remotes = dict((document or {}).get("remotes") or {})
    except FileNotFoundError:
        remotes = {}
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {folder / 'config.yml'}", in_words(error), "see lxc remote list") from None
    remotes.setdefault("local", {"addr": "unix://"})
    found = remotes.get(name.removesuffix(":"))
    if not isinstance(found, Mapping):
        known = ", ".join(sorted(map(str, remotes)))
        raise UsageError(f"no such remote: {name[:100]}", f"lxc knows {known}", "see lxc remote list, or give a URL")
    address, protocol = str(found.get("addr") or ""), str(found.get("protocol") or "lxd")
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        return UnixSocket(Path(path)) if path else None
    if protocol != "lxd":
        why = f"it is a server of images ({protocol})"
        raise UsageError(f"remote {name} is no LXD", why, "name one whose protocol is lxd: lxc remote list")
    parsed = parse_url(address, folder)
    pinned = folder / PINNED / f"{name.removesuffix(':')}.crt"
    return replace(parsed, pinned=pinned, name=name.removesuffix(":"))


def lxc_folder(environ: Mapping[str, str]) -> Path:
    """Where ``lxc`` keeps its configuration: where it is told to, else its snap's or its package's."""
    *others, package = lxc_folders(environ)
    there = [folder for folder in others if exists(folder / "config.yml") or str(folder) == environ.get("LXD_CONF")]
    return there[0] if there else package


def lxc_folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Wherever there may be a configuration of ``lxc``, the first one first."""
    home = Path(environ.get("HOME") or "/")
    named = [Path(environ["LXD_CONF"])] if environ.get("LXD_CONF") else []
    return (*named, home / "snap/lxd/common/config", home / ".config/lxc")
