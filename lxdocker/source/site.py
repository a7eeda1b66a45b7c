"""One registry as it is reached: by which scheme, with which certificates, and which servers its images lead to.

Which scheme a registry gets:

- https with verified certificates, unless
- it listens on this host's loopback (http is tried first, nothing can listen in between), or
- it is named as insecure (https is tried first, then http). Neither has its certificate checked.
"""

from __future__ import annotations

import os
import threading
import time

from urllib3.util import Url

from lxdocker.errors import RegistryError
from lxdocker.http import url as urls
from lxdocker.http.failure import RequestError
from lxdocker.http.proxies import Proxies
from lxdocker.http.route import Place, Route
from lxdocker.http.trust import Kept, Tls, Trust, authorities, registry_at
from lxdocker.values import DEFAULT_REGISTRY, is_loopback, split_host

_HUB_HOST = "registry-1.docker.io"
_REMEMBER_FAILURE = 30.0  # seconds: a hundred images needn't each find out that their registry is down


class Site:
    """One registry. Guides the requests for its images; thread-safe."""

    def __init__(self, name: str, trust: Trust) -> None:
        """``name``: as references have it."""
        self.name = name
        self.host = _HUB_HOST if name == DEFAULT_REGISTRY else name  # as it is reached, HOST or HOST:PORT
        self.lock = threading.Lock()  # of the first question
        self.scheme = ""  # "" until it has answered once
        self.schemes: tuple[str, ...] = ("https",)  # to try, in order
        if is_loopback(split_host(name)[0]):
            self.schemes = ("http", "https")
        elif not trust.verifies(name):
            self.schemes = ("https", "http")
        self.places: dict[Place, None] = {}  # all that were asked for its images
        self._trust = trust
        self._failure: RegistryError | None = None
        self._failed_at = 0.0  # time.monotonic()

    @property
    def is_here(self) -> bool:
        """Whether the registry itself is on this host's loopback. Only then may it lead elsewhere there: whoever runs
        another one has no say in what is asked of this host, and what of it a builder is given a way to.
        """
        name, port = split_host(self.host)
        ports = {port} if port else set(urls.PORTS.values())
        own = (place.address for place in list(self.places) if place.host == name.strip("[]") and place.port in ports)
        return is_loopback(name) or any(map(is_loopback, own))

    def admit(self, url: Url, previous: Url | None) -> Tls | None:
        """How the server of ``url`` proves its identity; None for plain HTTP. Raises RequestError for a server that the
        registry must not lead to, and UnusableCertificatesError.
        """
        if previous and previous.scheme == "https" and url.scheme != "https":
            raise RequestError("redirect", "it redirects from https to plain http")
        if is_loopback(url.host or "") and not self.is_here:
            raise _astray()
        return self._trust.tls(url, self._kept) if url.scheme == "https" else None

    def reached(self, url: Url, place: Place) -> None:
        """Notes that a request for ``url`` went to ``place``. Raises RequestError if that is this host by surprise."""
        self.places[place] = None
        itself = place.host == (url.host or "").strip("[]")
        if is_loopback(place.address) and itself and not self.is_here:
            del self.places[place]
            raise _astray()

    def fail(self, failure: RegistryError) -> None:
        """Remembers for a while that it cannot be reached."""
        self._failure, self._failed_at = failure, time.monotonic()

    @property
    def recent_failure(self) -> RegistryError | None:
        return self._failure if time.monotonic() < self._failed_at + _REMEMBER_FAILURE else None

    def is_safe_for_login(self, service: Url) -> bool:
        """Whether a login may be sent in the clear to the plain http ``service`` that the registry names."""
        return self.scheme != "https" and (self._is_host(service) or not self._trust.verifies(registry_at(service)))

    def _is_host(self, url: Url) -> bool:
        own = urls.parse(f"http://{self.host}")
        return own is not None and own.host == url.host

    def route(self) -> Route:
        """How a builder is to reach its images: as this host has reached them so far.

        Raises RegistryError where it cannot be done in the same way.
        """
        host, port = split_host(self.host)
        host, port = host.strip("[]"), port or urls.PORTS["https"]
        places = list(self.places) or [Place(host, port, "127.0.0.1" if host == "localhost" else host)]
        try:
            return Route.over(
                places,
                verify=self._trust.verifies(self.name),
                proxies=Proxies.of(os.environ).variables,
                authorities=authorities([self._kept, *(self._trust.kept(each.host, each.port) for each in places)]),
                certificates=self._kept.read(),
            )
        except OSError as error:
            raise RegistryError(
                f"the certificates for {self.name} cannot be used",
                f"{error.filename}: {error.strerror}",
                "let this user read them",
            ) from error

    @property
    def _kept(self) -> Kept:
        host, port = split_host(self.host)
        return self._trust.kept(host.strip("[]"), port or urls.PORTS["https"])


def _astray() -> RequestError:
    return RequestError("astray", "it leads to this host's own loopback")
