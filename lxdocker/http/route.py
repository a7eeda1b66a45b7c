"""How an image's registry is reached: determined once, on this host, and then the same in a builder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

from lxdocker.values import is_loopback

HOSTS = Path("/etc/hosts")
Address = tuple[str, int]  # IP address (without brackets) and port


@dataclass(frozen=True, slots=True)
class Place:
    """The endpoint of a connection from this host: a server itself, or its proxy."""

    host: str  # as it was looked up; an IPv6 address without brackets
    port: int
    address: str  # the IP address it resolved to


@dataclass(frozen=True, slots=True)
class Route:
    """A builder's way to an image. The default leads nowhere, which is enough for images on disk."""

    network: bool = False  # whether it leads beyond this host
    verify: bool = True  # whether certificates are checked, and plain http refused
    local: tuple[Address, ...] = ()  # endpoints on this host's loopback, including proxies and token services
    names: tuple[tuple[str, str], ...] = ()  # address and name, if a builder's DNS would not know them
    # The proxy variables, as Go reads them. Secret: they may hold logins.
    proxies: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    authorities: bytes = field(default=b"", repr=False)  # PEM: all that are trusted; b"" if it does not matter
    # The registry's files in certs.d: file name -> content. Secret: they may hold keys.
    certificates: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @classmethod
    def over(
        cls,
        places: Sequence[Place],
        *,
        verify: bool,
        proxies: Mapping[str, str],
        authorities: bytes,
        certificates: Mapping[str, bytes],
    ) -> Route:
        """The way to all these ``places``."""
        here = [place for place in places if is_loopback(place.address)]
        known = _known_names()
        names = [
            (place.address, place.host)
            for place in places
            if _is_name(place.host) and (place in here or (place.address, place.host) in known)
        ]
        return cls(
            network=len(here) < len(places),
            verify=verify,
            local=tuple(dict.fromkeys((place.address, place.port) for place in here)),
            names=tuple(dict.fromkeys(names)),
            proxies=proxies,
            authorities=authorities,
            certificates=certificates,
        )


NOWHERE = Route()


def _is_name(host: str) -> bool:
    """Whether it needs a look-up; every host knows ``localhost``."""
    try:
        ip_address(host)
    except ValueError:
        return host != "localhost"
    return False


def _known_names() -> set[tuple[str, str]]:
    """Addresses and names in /etc/hosts (hosts(5)), which the DNS may not know."""
    try:
        text = HOSTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    return {(words[0], name.lower()) for words in lines for name in words[1:]}
