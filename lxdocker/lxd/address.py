"""Where a daemon is reached: its socket on this host, or HTTPS on another one."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxdocker.errors import HostError
from lxdocker.http import trust
from lxdocker.reasons import in_words
from lxdocker.values import is_loopback

if TYPE_CHECKING:
    import requests

PORT = 8443  # LXD's, unless it is told another


def token_command() -> str:
    """What makes a token for this host's lxdocker, on the host of an LXD. Newer ones let no two clients have a name."""
    host = re.sub("[^A-Za-z0-9-]+", "-", os.uname().nodename.partition(".")[0]).strip("-")
    return f"lxc config trust add --name {'-'.join(filter(None, ('lxdocker', host)))}"


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A daemon on this host."""

    path: Path

    name = ""  # the client's own commands go there
    is_elsewhere = False  # whether "this host" is another than the daemon's

    def __str__(self) -> str:
        return str(self.path)

    @property
    def endpoint(self) -> str:
        """As pylxd takes it."""
        return str(self.path)

    def connect(self, seconds: float) -> socket.socket:
        """Raises OSError."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(seconds)
            connection.connect(str(self.path))
        except BaseException:
            connection.close()
            raise
        return connection

    def session(self) -> requests.Session:
        """For requests to the endpoint."""
        from pylxd.client import DEFAULT_SCHEME, get_session_for_url

        session: requests.Session = get_session_for_url(DEFAULT_SCHEME)
        return session


@dataclass(frozen=True, slots=True)
class Https:
    """A daemon reached over the network. Never through a proxy."""

    host: str  # a name or an address, without brackets
    port: int
    certificate: Path  # the client's own, PEM
    key: Path
    pinned: Path  # the server's certificate, PEM; where there is none, this host's authorities vouch for it
    name: str = ""  # of the remote in lxc's configuration

    def __str__(self) -> str:
        return self.endpoint

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"https://[{self.host}]:{self.port}" if ":" in self.host else f"https://{self.host}:{self.port}"

    @property
    def trusting(self) -> str:
        """The commands that make it trusted: a remote of lxc has certificates of lxc's own."""
        if self.name:
            return f"lxc remote remove {self.name} && lxc remote add {self.name} {self}"
        return f"lxdocker trust {self}"

    @property
    def is_elsewhere(self) -> bool:
        """Whether "this host" may be another than the daemon's."""
        return not is_loopback(self.host)

    def connect(self, seconds: float) -> socket.socket:
        """Raises HostError for another server than the one known, else OSError."""
        tls = self._tls()
        raw = socket.create_connection((self.host, self.port), seconds)
        try:
            connection = tls.context.wrap_socket(raw, server_hostname=self.host)
        except BaseException:
            raw.close()
            raise
        found = hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()
        if tls.fingerprint and found != tls.fingerprint:
            connection.close()
            raise self.changed(found, tls.fingerprint)
        return connection

    def seen(self, seconds: float) -> bytes:
        """The certificate (DER) that it shows, whoever it may be. Raises OSError."""
        context = trust.make_context(verify=False)
        with socket.create_connection((self.host, self.port), seconds) as raw, context.wrap_socket(raw) as connection:
            return connection.getpeercert(binary_form=True) or b""

    def session(self) -> requests.Session:
        """For requests to the endpoint. Raises HostError."""
        from requests import Session
        from requests.adapters import HTTPAdapter

        tls = self._tls()

        class Adapter(HTTPAdapter):
            """Trusts what ``tls`` does, and nothing that requests would add."""

            def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
                super().init_poolmanager(*arguments, **{**keywords, **tls.options})

            def cert_verify(self, *_arguments: Any) -> None:
                pass

            def build_connection_pool_key_attributes(self, request: Any, *arguments: Any) -> Any:
                host, _tls = super().build_connection_pool_key_attributes(request, *arguments)
                return host, {}

        session = Session()
        session.trust_env = False  # neither proxies nor authorities of its own
        session.mount(self.endpoint, Adapter())
        return session

    def _tls(self) -> trust.Tls:
        try:
            return _tls(self, self._pinned())
        except trust.UnusableCertificatesError as error:
            how = f"trust it, which makes one: {self.trusting}"
            raise HostError(f"cannot connect to LXD at {self}", str(error), how) from None

    def _pinned(self) -> str:
        """The fingerprint of the server's certificate; "" for none."""
        try:
            text = self.pinned.read_text(encoding="ascii")
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            what = f"cannot read LXD's certificate {self.pinned}"
            raise HostError(what, in_words(error), f"make it again: {self.trusting}") from None
        try:
            return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text.strip())).hexdigest()
        except ValueError:
            raise HostError(f"no certificate in {self.pinned}", "", f"make it again: {self.trusting}") from None

    def changed(self, found: str, known: str) -> HostError:
        """The server is not, or no longer, the one that is trusted."""
        return HostError(
            f"LXD at {self} is not the one that is trusted",
            f"its certificate's SHA-256 fingerprint is {found}, not {known} as in {self.pinned}",
            "if it was renewed (compare with 'lxc info' on that host), trust it again:"
            f" {self.trusting if self.name else f'{self.trusting} --fingerprint {found}'}",
        )


@cache  # files are read once: a connection is made for each request
def _tls(address: Https, pinned: str) -> trust.Tls:
    own = trust.Kept(address.certificate.parent, pairs=((address.certificate, address.key),))
    return trust.Tls(trust.make_context(verify=not pinned, client=own), pinned)


Address = UnixSocket | Https
