"""What ``lxdocker serve`` says at its start: what it serves, and what to type on other hosts."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lxdocker.lxd.dialect import register_command
from lxdocker.serve import authority as authorities
from lxdocker.serve.authority import Authority
from lxdocker.serve.certs import Certificate
from lxdocker.serve.hostnames import as_address, host_addresses
from lxdocker.tree.page import REMOTE

# Restart LXD's daemon and nothing else. A plain restart of the snap stops all instances, `systemctl restart` too.
RESTART_SNAP, RESTART_PACKAGE = "snap restart --reload lxd", "systemctl restart lxd"


@dataclass(frozen=True, slots=True)
class Flavour:
    """A kind of client: its program, and the folder of its configuration below the user's home."""

    title: str
    program: str
    folder: str


FLAVOURS = (
    Flavour("LXD 6.9 or earlier from the snap", "lxc", "snap/lxd/common/config"),
    Flavour("LXD 6.9 or earlier from packages", "lxc", ".config/lxc"),
    Flavour("Incus", "incus", ".config/incus"),
)


def server_url(listen: str, port: int, names: tuple[str, ...]) -> str:
    """How others reach a server that listens on the host ``listen`` ('' for all of its addresses), as well as it can
    know: by the name its user gave, else by an address.
    """
    everywhere = listen in {"", "0.0.0.0"}  # noqa: S104 - asked about, not listened on
    named = [name for name in names if not name.startswith("*.")]
    host = named[0] if named else main_address() if everywhere else listen
    shown = f"[{host}]" if ":" in host else host
    return f"https://{shown}" + ("" if port == 443 else f":{port}")


def main_address() -> str:
    """The address that packets to the world leave from; else any that is not loopback's."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))  # sends nothing
            return str(probe.getsockname()[0])
    others = [address for address in host_addresses() if not address.is_loopback]
    return str(others[0]) if others else "127.0.0.1"


def summary(tree: Path, images: int, url: str, certificate: Certificate, *, password: bool) -> str:
    """The three lines that ``lxdocker serve`` starts with: what is served where, how to recognize it, and the command
    for other hosts.
    """
    amount = f"{images} {'image' if images == 1 else 'images'}" if images else "no images yet: run lxdocker sync"
    # An authority's certificate is not pinned, since its renewals bring new keys.
    pinned = f" --fingerprint {certificate.fingerprint}" if certificate.self_signed else ""
    host = as_address(urlsplit(url).hostname or "")
    where = "on this host only" if host is not None and host.is_loopback else "on other hosts"
    return "\n".join(
        [
            f"serving {tree} ({amount}) at {url}",
            f"certificate SHA-256 {certificate.shown_fingerprint}, valid until {certificate.ends:%Y-%m-%d}",
            f"{where}: lxdocker remote add {_asking(url, password)} {REMOTE}{pinned}",
        ]
    )


def _asking(url: str, password: bool) -> str:
    """The address for a client that asks for the password."""
    return url.replace("https://", "https://USER@") if password else url


def by_hand(url: str, certificate: Certificate, authority: Authority | None, *, password: bool) -> str:
    """What to type on a host without lxdocker, for each kind of client."""
    lines = ["On a host without lxdocker:", ""]
    if password:
        mirror = f"lxdocker mirror --import {_asking(url, password)}"
        lines += [
            "LXD 6.10 or later does not support logins to image servers. Import the images instead:",
            f"  {mirror} --fingerprint {certificate.fingerprint}" if certificate.self_signed else f"  {mirror}",
        ]
    else:
        lines += _registry(url, certificate, authority)
    for flavour in FLAVOURS:
        lines += ["", f"{flavour.title}:", *_remote(url, certificate, flavour, password=password)]
    lines += [
        "",
        "Then (with Incus, by incus in place of lxc):",
        f"  lxc launch {REMOTE}:NAME    or    lxc image copy {REMOTE}:NAME local: --alias NAME --auto-update",
    ]
    return "\n".join(lines)


def _registry(url: str, certificate: Certificate, authority: Authority | None) -> list[str]:
    """For LXD from 6.10 on: its daemon knows the server, and trusts what its system trusts."""
    host = urlsplit(url).hostname or ""
    create = f"  {register_command(REMOTE, url)}"
    if not certificate.is_for(host):
        return [
            f"LXD 6.10 or later cannot use this address, since the certificate is not valid for {host}:",
            f"  on this server: lxdocker serve --name {host}"
            if certificate.has_authority
            else f"  on this server: lxdocker serve --name NAME, one of {', '.join(certificate.names[:10]) or 'none'}",
        ]
    if not certificate.self_signed:
        return ["LXD 6.10 or later:", create]
    if authority is None:
        return ["LXD 6.10 or later cannot use this server: it does not accept a self-signed --tls-cert"]
    return [
        "LXD 6.10 or later, as root:",
        *install_command(url, authority),
        f"  {RESTART_SNAP}    # instances keep running; without the snap: {RESTART_PACKAGE}",
        create,
    ]


def install_command(url: str, authority: Authority) -> list[str]:
    """The lines of one command, for root, that adds a server's authority to those of a Debian or Ubuntu system. Safe to
    paste: what is fetched is not trusted before it has been compared.
    """
    name = authorities.system_file(urlsplit(url).hostname or "").stem
    return [
        f"  (umask 022 && cd {authorities.SYSTEM_FOLDER} &&",
        f"    curl -fsSk -o {name}.new {url}{authorities.PATH} &&",
        f"    echo '{authority.sha256}  {name}.new' | sha256sum -c &&",
        f"    mv {name}.new {name}.crt && update-ca-certificates)",
    ]


def _remote(url: str, certificate: Certificate, flavour: Flavour, *, password: bool) -> list[str]:
    """The client has a copy of the certificate, and gives it to the daemon."""
    typed = url.replace("https://", "https://USER:PASSWORD@") if password else url
    add = f"  {flavour.program} remote add {REMOTE} {typed} --protocol simplestreams"
    if not certificate.self_signed:
        return [add]
    host_port = url.removeprefix("https://")
    if not host_port.rpartition("]")[2].count(":"):
        host_port += ":443"
    folder = f"~/{flavour.folder}/servercerts"
    return [
        f"  mkdir -p {folder} && openssl s_client -connect {host_port} </dev/null 2>/dev/null |"
        f" openssl x509 | tee {folder}/{REMOTE}.crt | openssl x509 -noout -fingerprint -sha256",
        f"{add}    # if the fingerprint is the one above",
    ]
