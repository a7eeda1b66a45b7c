"""Names and addresses: as they are written, and those of this host."""

from __future__ import annotations

import re
import socket
import threading
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

Address = IPv4Address | IPv6Address

# A router can have thousands of addresses, and a certificate is sent with every connection.
MAX_ADDRESSES = 100
RESOLVER_SECONDS = 2
_NAME = re.compile(r"(?=.{1,253}$)(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.(?!$)|$))+")


def check_name(text: str) -> str:
    """``text`` if it is a host name (``*.`` may stand before it) or an address. Raises ValueError."""
    if as_address(text) is None and not _NAME.fullmatch(text):
        raise ValueError(f"{text[:100]!r} is neither a host name nor an address")
    return text


def canonical(name: str) -> str:
    """A name or an address as it is compared."""
    address = as_address(name)
    return str(address) if address is not None else name.lower()


def as_address(text: str) -> Address | None:
    """The address that ``text`` is; None for a name, and for an address that is only good on one link (``%eth0``)."""
    try:
        return ip_address(text) if "%" not in text else None
    except ValueError:
        return None


def own_name() -> list[str]:
    """The name of this host, if it has one."""
    name = socket.gethostname()
    return [name] if _is_name(name) else []


def full_name() -> list[str]:
    """The name of this host with its domain, if the resolver knows it soon enough."""
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(socket.getfqdn()), daemon=True)
    asking.start()
    asking.join(RESOLVER_SECONDS)
    return [name for name in found if _is_name(name)]


def host_addresses() -> list[Address]:
    """The addresses of all this host's interfaces, those that are only good on one link excepted."""
    found: list[Address] = [IPv4Address("127.0.0.1"), IPv6Address("::1")]
    # A local address stands on the line before the one that says so.
    for match in re.finditer(r"\|-- (\S+)\n\s+/32 host LOCAL", _read("/proc/net/fib_trie")):
        found.append(IPv4Address(match[1]))
    for line in _read("/proc/net/if_inet6").splitlines():
        found.append(IPv6Address(bytes.fromhex(line.split()[0])))
    usable = (address for address in found if not address.is_link_local and not address.is_multicast)
    return list(dict.fromkeys(usable))[:MAX_ADDRESSES]


def _is_name(text: str) -> bool:
    return as_address(text) is None and _NAME.fullmatch(text) is not None


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except OSError:
        return ""
