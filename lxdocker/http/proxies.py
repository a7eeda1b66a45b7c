"""Which proxy a request goes through, by the rule of Go's HTTP clients, so that skopeo in a builder decides alike.

The variables and their syntax are those of golang.org/x/net/http/httpproxy. As with curl, there is also ``all_proxy``,
and lower-case names take precedence. A builder therefore gets the parsed values, not the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, unquote_to_bytes

from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

from lxdocker.http import url as urls
from lxdocker.http.url import PORTS
from lxdocker.values import is_loopback

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_PORT = re.compile(r"(.*):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Exempt:
    """One entry of no_proxy: hosts that are asked without a proxy."""

    text: str  # as Go reads it
    network: IPv4Network | IPv6Network | None
    domain: str  # "" for a network; with a leading dot
    itself: bool  # whether the domain itself is exempt, not only names below it
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Exempt | None:
        """None for text that means nothing, to Go as well."""
        text = text.strip().lower()
        try:
            if "/" in text:
                found = ip_network(text, strict=False)
                return cls(str(found), found, "", False, None)
        except ValueError:
            pass
        host, port = text, None
        # A bare IPv6 address has colons too.
        if (match := _PORT.fullmatch(text)) and (":" not in match[1] or match[1].endswith("]")):
            host, port = match[1], int(match[2])
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        suffix = "" if port is None else f":{port}"
        try:
            address = ip_address(host)
        except ValueError:
            domain = host.removeprefix("*") if host.startswith("*.") else host
            domain = domain.rstrip(".")
            if not domain:
                return None
            itself = not domain.startswith(".")
            return cls(f"{domain}{suffix}", None, f".{domain}" if itself else domain, itself, port)
        shown = f"[{address}]{suffix}" if suffix and address.version == 6 else f"{address}{suffix}"
        return cls(shown, ip_network(address), "", False, port)

    def covers(self, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.network:
            return address is not None and address.version == self.network.version and address in self.network
        return host.endswith(self.domain) or (self.itself and host == self.domain[1:])


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies that an environment names. Their URLs may hold logins."""

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    exceptions: tuple[Exempt, ...] = ()
    none: bool = False  # no_proxy=*

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Proxies:
        return _read(tuple((name, environ.get(name, environ.get(name.upper(), "")).strip()) for name in VARIABLES))

    def choose(self, scheme: str, host: str, port: int | None) -> str | None:
        """The URL of the proxy for a request to ``host``, as a URL has it; None for none."""
        proxy = {"http": self.http, "https": self.https}.get(scheme)
        if not proxy or self.none or is_loopback(host):
            return None
        name = host.strip("[]").lower().rstrip(".")
        try:
            address: IPv4Address | IPv6Address | None = ip_address(name)
        except ValueError:
            address = None
        port = port or PORTS[scheme]
        return None if any(exempt.covers(name, address, port) for exempt in self.exceptions) else proxy

    @property
    def variables(self) -> dict[str, str]:
        """The same for Go's HTTP clients."""
        if self.none:
            return {}
        exceptions = ",".join(exempt.text for exempt in self.exceptions)
        named = {"HTTP_PROXY": _for_go(self.http), "HTTPS_PROXY": _for_go(self.https)}
        proxies = {name: proxy for name, proxy in named.items() if proxy}
        return {**proxies, "NO_PROXY": exceptions} if proxies and exceptions else proxies


def parse(proxy: str) -> Url | None:
    """A proxy's URL, http unless it says otherwise; None for an invalid one."""
    try:
        parsed = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except HTTPError:
        return None
    return parsed if parsed.host else None


def shown(proxy: str) -> str:
    """A proxy's URL without its login; for people."""
    parsed = parse(proxy)
    return urls.shown(parsed) if parsed else "an invalid URL"


def _for_go(proxy: str) -> str:
    """The URL with its login escaped, on which only Go insists."""
    parsed = parse(proxy) if proxy else None
    if not parsed or not parsed.auth:
        return proxy
    login = ":".join(quote(unquote_to_bytes(part), safe="") for part in parsed.auth.split(":", 1))
    return f"{parsed.scheme}://{login}@{parsed.netloc}"


@lru_cache(maxsize=8)
def _read(variables: tuple[tuple[str, str], ...]) -> Proxies:
    given = dict(variables)
    # curl takes blanks between them as well.
    words = [word for word in re.split(r"[,\s]+", given["no_proxy"]) if word]
    exceptions = tuple(found for word in words if (found := Exempt.parse(word)))
    every = given["all_proxy"]
    return Proxies(given["http_proxy"] or every, given["https_proxy"] or every, exceptions, "*" in words)
