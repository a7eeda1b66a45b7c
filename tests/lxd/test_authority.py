"""Hosts that pin nothing: LXD's daemon and client check the server against the authorities of their system.

LXD 6.10 and later always do, since they know image servers as registries; earlier ones if they were given no copy of
the certificate. The system's authorities are, for these programs, what SSL_CERT_FILE names.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lxdocker.serve import authority as authorities
from lxdocker.serve import certs
from tests.lxd import hosts
from tests.lxd.hosts import Host
from tests.lxd.rig import World
from tests.serve.rig import Served, serve
from tests.waiting import wait_until

SOON = {"server.WATCH_SECONDS": 0.2}
NAMES = ("images.lan", "*.wild.example")


class Trusting(Host):
    """A host whose system trusts one authority."""

    def __init__(self, folder: Path, lxd: Path, authority: Path) -> None:
        super().__init__(folder, lxd)
        self._authority = authority

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **trust(self._authority)}

    def follow(self, url: str) -> None:
        """As ``shop``, without a copy of the certificate."""
        if "shop" in self.remotes():
            self.lxc("remote", "remove", "shop")
        self.lxc("remote", "add", "shop", url, "--protocol", "simplestreams")
        server = json.loads(self.lxc("query", "/1.0"))
        if "image_registries" in server["api_extensions"]:
            if any(one["name"] == "shop" for one in json.loads(self.lxc("query", "/1.0/image-registries?recursion=1"))):
                self.lxc("image", "registry", "delete", "shop")
            self.lxc("image", "registry", "create", "shop", "--protocol", "simplestreams", f"url={url}")

    def copy(self, *, expect: int = 0) -> str:
        """Has the daemon fetch the image anew."""
        self.forget_indexes()
        said = self.lxc("image", "copy", "shop:nginx", "local:", "--quiet", expect=expect)
        for fingerprint in self.images():
            self.lxc("image", "delete", fingerprint)
        return said


def trust(authority: Path) -> dict[str, str]:
    return {"SSL_CERT_FILE": str(authority), "SSL_CERT_DIR": "/nonexistent"}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's certificate, for servers of this module that come and go."""
    folder = tmp_path_factory.mktemp("server") / "tls"
    certs.make(folder, NAMES)
    return folder


@pytest.fixture(scope="module")
def daemon(tls: Path, tmp_path_factory: pytest.TempPathFactory, parts: None) -> Iterator[tuple[Path, Path]]:
    """LXD_DIR of one that has the first authority among the system's since its start, and a copy of that authority."""
    installed = tmp_path_factory.mktemp("system") / "authority.crt"
    installed.write_bytes((tls / certs.AUTHORITY).read_bytes())
    with hosts.daemon("trusts", environment=trust(installed)) as folder:
        yield folder, installed


@pytest.fixture
def host(daemon: tuple[Path, Path], tmp_path: Path) -> Trusting:
    return Trusting(tmp_path / "host", *daemon)


@pytest.fixture
def server(published: World, tls: Path, tmp_path: Path) -> Iterator[Served]:
    names = (option for name in NAMES for option in ("--name", name))
    with serve(tmp_path / "served", published.tree, *names, tls=tls, limits=SOON) as served:
        yield served


def lose(server: Served, file: str) -> None:
    """Has the server make one of its files anew."""
    path = server.certificate.with_name(file)
    before, log = path.read_bytes(), server.log
    path.unlink()
    wait_until(f"another {file}", lambda: "showing a new" in server.log.removeprefix(log))
    assert path.read_bytes() != before


def test_it_is_trusted_also_when_its_certificate_is_made_anew(host: Trusting, server: Served) -> None:
    host.follow(server.url)
    host.copy()
    lose(server, certs.CERTIFICATE)
    host.copy()
    assert not (host.config / "servercerts").exists()


@pytest.mark.any_lxd
def test_it_is_trusted_also_when_its_authority_is_made_anew(host: Trusting, server: Served) -> None:
    """The one that was installed stays good until it expires."""
    host.follow(server.url)
    lose(server, certs.AUTHORITY)
    host.copy()
    lose(server, certs.CERTIFICATE)
    host.copy()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", socket.gethostname()])
def test_under_each_of_its_names(host: Trusting, server: Served, name: str) -> None:
    try:
        if socket.gethostbyname(name) != "127.0.0.1":
            pytest.skip(f"{name} is not this host's loopback")
    except OSError:
        pytest.skip(f"{name} can't be resolved here")
    host.follow(f"https://{name}:{server.port}")
    host.copy()


@pytest.mark.any_lxd
def test_it_vouches_for_no_other_name(host: Trusting, published: World, tls: Path, tmp_path: Path) -> None:
    """Whoever has its key can't pass for another server on the hosts that trust it."""
    key = serialization.load_pem_private_key((tls / certs.KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    for number, name in enumerate((x509.DNSName("example.org"), x509.IPAddress(ip_address("192.0.2.99")))):
        forged = (
            x509.CertificateBuilder()
            .subject_name(authorities.subject())
            .issuer_name(authorities.subject())
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), name]), critical=False)
            .add_extension(authorities.as_issuer(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / "forged.crt"
        path.write_bytes(forged.public_bytes(serialization.Encoding.PEM))
        options = ("--tls-cert", str(path), "--tls-key", str(tls / certs.KEY))
        with serve(tmp_path / f"forged-{number}", published.tree, *options) as served:
            host.follow(served.url)
            for said in (host.lxc("image", "list", "shop:", expect=1), host.copy(expect=1)):
                assert "is not authorized to sign for this name" in said


def test_the_daemon_trusts_no_other(host: Trusting, published: World, tls: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "another", published.tree) as another:
        host.follow(another.url)
        assert "certificate signed by unknown authority" in host.copy(expect=1)


@pytest.mark.any_lxd
def test_a_new_name_needs_another_authority(host: Trusting, server: Served, published: World, tmp_path: Path) -> None:
    """The server says so; the hosts that have the old one refuse it."""
    host.follow(server.url)
    host.copy()
    assert server.stop() == 0
    with serve(tmp_path / "renamed", published.tree, "--name", "new.lan", tls=server.certificate.parent) as renamed:
        assert "the old one does not cover new.lan" in renamed.log
        host.follow(renamed.url)
        assert "is not authorized to sign for this name" in host.copy(expect=1)
