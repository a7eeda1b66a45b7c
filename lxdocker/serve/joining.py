"""What to type on another host, for each kind of client."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from lxdocker.certs import Certificate, host_addresses
from lxdocker.page import REMOTE


@dataclass(frozen=True, slots=True)
class Flavour:
    """A kind of client: its program, and the folder of its configuration below the user's home."""

    title: str
    program: str
    folder: str


FLAVOURS = (
    Flavour("LXD from packages", "lxc", ".config/lxc"),
    Flavour("LXD from the snap", "lxc", "snap/lxd/common/config"),
    Flavour("Incus", "incus", ".config/incus"),
)


def server_url(listen: str, port: int, names: tuple[str, ...]) -> str:
    """How others reach a server that listens on the host ``listen`` ('' for all of its addresses), as well as it can
    know: by the name its user gave, else by an address.
    """
    everywhere = listen in {"", "0.0.0.0"}  # noqa: S104 - asked about, not listened on
    host = names[0] if names else main_address() if everywhere else listen
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


def instructions(url: str, certificate: Certificate, *, password: bool) -> str:
    """What ``lxdocker serve`` says when it is ready."""
    host_port = url.removeprefix("https://")
    if not host_port.rpartition("]")[2].count(":"):
        host_port += ":443"
    typed = url.replace("https://", "https://USER:PASSWORD@") if password else url
    asks = url.replace("https://", "https://USER@") if password else url
    lines = [
        f"serving {url}",
        f"certificate SHA-256 {certificate.shown_fingerprint}, good until {certificate.ends:%Y-%m-%d}",
        "",
        "To use the images on another host, where lxdocker is installed:",
        f"  lxdocker remote add {asks} {REMOTE} --fingerprint {certificate.fingerprint}",
    ]
    for flavour in FLAVOURS:
        lines += ["", f"or by hand, {flavour.title}:"]
        if certificate.self_signed:
            folder = f"~/{flavour.folder}/servercerts"
            lines += [
                f"  mkdir -p {folder} && openssl s_client -connect {host_port} </dev/null 2>/dev/null |"
                f" openssl x509 | tee {folder}/{REMOTE}.crt | openssl x509 -noout -fingerprint -sha256",
            ]
        lines.append(f"  {flavour.program} remote add {REMOTE} {typed} --protocol simplestreams")
    lines.append("")
    if certificate.self_signed:
        lines.append("The fingerprint shown there must be the one above. Then:")
    lines.append(f"  lxc launch {REMOTE}:NAME    or    lxc image copy {REMOTE}:NAME local: --alias NAME --auto-update")
    return "\n".join(lines)
