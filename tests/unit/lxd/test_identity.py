"""Which LXD is meant, and certificates of both sides; that they work is tested with a real LXD."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from lxdocker.errors import HostError, UsageError
from lxdocker.lxd import identity
from lxdocker.lxd.address import Https, UnixSocket
from lxdocker.lxd.daemon import Daemon, parse_url
from lxdocker.lxd.identity import Token
from tests.registry_server import Certificate, ScriptedServer


@pytest.mark.parametrize(
    ("text", "host", "port", "pinned"),
    [
        ("https://lxd.example", "lxd.example", 8443, "lxd.example:8443.crt"),
        ("https://192.0.2.1:443/", "192.0.2.1", 443, "192.0.2.1:443.crt"),
        ("https://[2001:db8::1]:9443", "2001:db8::1", 9443, "[2001:db8::1]:9443.crt"),
    ],
)
def test_a_url(tmp_path: Path, text: str, host: str, port: int, pinned: str) -> None:
    found = parse_url(text, tmp_path)
    assert (found.host, found.port, found.pinned) == (host, port, tmp_path / "servercerts" / pinned)
    assert parse_url(found.endpoint, tmp_path) == found


@pytest.mark.parametrize(
    "text", ["http://lxd", "https://", "https://a:b@lxd", "https://lxd/1.0", "https://lxd?x", "x://y"]
)
def test_what_is_no_url_of_an_lxd(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="not the URL of an LXD"):
        parse_url(text, tmp_path)


CONFIG = """
remotes:
  far: {addr: "https://192.0.2.7:8443", protocol: lxd, auth_type: tls}
  here: {addr: "unix:///srv/lxd/unix.socket"}
  images: {addr: "https://images.example", protocol: simplestreams, public: true}
"""


def test_remotes_of_lxc(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(CONFIG)
    environ = {"LXD_CONF": str(tmp_path), "LXD_DIR": "/srv/own"}

    def at(wanted: str | None) -> UnixSocket | Https:
        return Daemon.at(wanted, tmp_path / "client", environ).address

    own = UnixSocket(Path("/srv/own/unix.socket"))
    assert at(None) == at("local") == own
    assert at("here") == UnixSocket(Path("/srv/lxd/unix.socket"))
    far = at("far:")
    assert isinstance(far, Https)
    assert (far.endpoint, far.name) == ("https://192.0.2.7:8443", "far")
    assert (far.certificate, far.pinned) == (tmp_path / "client.crt", tmp_path / "servercerts/far.crt")
    assert far.is_elsewhere
    with pytest.raises(UsageError, match="remote images is no LXD"):
        at("images")
    with pytest.raises(UsageError, match="no such remote: x") as unknown:
        at("x")
    assert "far, here, images, local" in unknown.value.details
    (tmp_path / "config.yml").write_text("remotes: [")
    with pytest.raises(UsageError, match=r"cannot read .*config.yml"):
        at("far")


def token(addresses: list[str], fingerprint: str) -> str:
    document = {"client_name": "x", "fingerprint": fingerprint, "addresses": addresses, "secret": "s3cr3t"}
    return base64.b64encode(json.dumps(document).encode()).decode()


@pytest.mark.parametrize("text", ["", "abc", base64.b64encode(b"[]").decode(), base64.b64encode(b"\xff").decode()])
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(UsageError, match="neither a URL nor a trust token") as caught:
        Token.parse(text)
    assert not text or text not in str(caught.value)


def test_a_token_is_not_shown() -> None:
    text = token(["192.0.2.1:8443"], "00" * 32)
    assert text not in repr(Token.parse(text))


def test_our_certificate_is_made_once(tmp_path: Path) -> None:
    file = identity.ensure_own(tmp_path / "client")
    before = file.read_bytes()
    assert identity.ensure_own(tmp_path / "client").read_bytes() == before
    made = x509.load_pem_x509_certificate(before)
    assert len(made.fingerprint(hashes.SHA256())) == 32
    assert (tmp_path / "client/client.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "client").stat().st_mode & 0o777 == 0o700
    closed = tmp_path / "file"
    closed.write_text("")
    with pytest.raises(UsageError, match="cannot use"):
        identity.ensure_own(closed / "client")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("tls"))


def test_the_address_of_a_token_is_the_one_where_its_lxd_answers(tmp_path: Path, certificate: Certificate) -> None:
    folder = tmp_path / "client"
    identity.ensure_own(folder)
    with ScriptedServer(lambda _: None, certificate) as server:
        address = parse_url(server.url, folder)
        shown, digits = identity.shown_by(address)
        assert digits == hashlib.sha256(shown).hexdigest()
        dead = "127.0.0.1:1"
        assert identity.find(Token.parse(token([dead, server.address], digits)), folder) == address
        with pytest.raises(HostError, match="cannot reach the LXD") as other:
            identity.find(Token.parse(token([dead, server.address], "00" * 32)), folder)
        assert "another server" in other.value.details
        # From then on it is this one, whatever its names and dates.
        identity.pin(address, shown)
        address.connect(5).close()
        address.pinned.write_text((folder / "client.crt").read_text())
        with pytest.raises(HostError, match="is not the one that is trusted") as changed:
            address.connect(5)
        assert digits in changed.value.resolution
        address.pinned.write_text("nothing")
        with pytest.raises(HostError, match="no certificate in"):
            address.connect(5)
