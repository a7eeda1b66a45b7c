"""Addresses and the choice of the client. That joining works is tested with a real LXD, in tests/lxd."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker import remote
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.remote import Address, Client
from tests.serve.rig import Served, serve


@pytest.mark.parametrize(
    ("text", "url", "full"),
    [
        ("https://images.lan", "https://images.lan", None),
        ("https://images.lan:443/", "https://images.lan", None),
        ("HTTPS://Images.LAN:8444/", "https://images.lan:8444", None),
        ("https://[2001:db8::1]:8444", "https://[2001:db8::1]:8444", None),
        ("https://images.lan/lxd/tree/", "https://images.lan/lxd/tree", None),
        ("https://ann@images.lan", "https://images.lan", "https://ann:@images.lan"),
        ("https://a%40b:c%3Ad@images.lan:1", "https://images.lan:1", "https://a%40b:c%3Ad@images.lan:1"),
    ],
)
def test_addresses(text: str, url: str, full: str | None) -> None:
    assert Address.parse(text).url == url
    assert Address.parse(text).full_url == (full or url)


@pytest.mark.parametrize(
    "text",
    [
        *("", "images.lan", "http://images.lan", "https://", "https://:1", "https://x:99999", "https://x:y"),
        *("https://[::1", "https://x/?a=b", "https://x/#a", "ftp://ann:word@x"),
    ],
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="no address of an image server") as caught:
        Address.parse(text)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("text", ["ab" * 32, ":".join(["AB"] * 32), "AB" * 32])
def test_fingerprints(text: str) -> None:
    assert remote.parse_fingerprint(text) == "ab" * 32


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_client_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = {"HOME": "/home/ann"}
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UsageError, match="neither lxc nor incus"):
        Client.find(None, home)
    program(tmp_path / "bin", "lxc")
    assert Client.find(None, home).folder == Path("/home/ann/.config/lxc")
    assert Client.find("lxc", {**home, "LXD_CONF": "/srv/conf"}).folder == Path("/srv/conf")
    with pytest.raises(UsageError, match="no incus"):
        Client.find("incus", home)
    program(tmp_path / "bin", "incus")
    with pytest.raises(UsageError, match="both lxc and incus"):
        Client.find(None, home)
    assert Client.find("incus", home).folder == Path("/home/ann/.config/incus")
    assert Client.find("incus", {**home, "LXD_CONF": "/x", "INCUS_CONF": "/srv/i"}).folder == Path("/srv/i")


def test_the_snap_has_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "snap/bin", "lxc")
    monkeypatch.setenv("PATH", str(tmp_path / "snap/bin"))
    assert Client.find(None, {"HOME": "/home/ann"}).folder == Path("/home/ann/snap/lxd/common/config")


def test_what_a_client_says_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "lxc").write_text("#!/bin/sh\necho it broke >&2; exit 3\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LxdockerError, match="lxc remote list --format json failed: it broke"):
        Client.find("lxc", {}).address_of("x")
    program(tmp_path, "lxc").write_text("#!/bin/sh\necho '[1]'\n")
    with pytest.raises(LxdockerError, match="no list of remotes"):
        Client.find("lxc", {}).address_of("x")


def test_looking_at_a_server(served: Served) -> None:
    address = Address.parse(served.url)
    seen = remote.look_at(address)
    assert not seen.trusted
    assert seen.certificate.pem == served.certificate.read_text()
    assert remote.check_index(address, seen.certificate) == 1


def test_a_certificate_that_changes_between_two_looks_is_not_taken(served: Served, tmp_path: Path, tree: Path) -> None:
    with serve(tmp_path, tree) as other:
        certificate = remote.look_at(Address.parse(other.url)).certificate
    with pytest.raises(LxdockerError, match="gave no answer"):
        remote.check_index(Address.parse(served.url), certificate)


def test_a_server_without_images(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with serve(tmp_path, tmp_path / "tree") as served:
        address = Address.parse(served.url)
        with pytest.raises(LxdockerError, match="no simplestreams server"):
            remote.check_index(address, remote.look_at(address).certificate)
