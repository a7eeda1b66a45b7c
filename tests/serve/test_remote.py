"""Addresses and the choice of the client. That joining works is tested with a real LXD, in tests/lxd."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.errors import LxdockerError, UsageError
from lxdocker.follow import remote
from lxdocker.follow.remote import Address
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
    with pytest.raises(UsageError, match="not the URL of an image server") as caught:
        Address.parse(text)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("text", ["ab" * 32, ":".join(["AB"] * 32), "AB" * 32])
def test_fingerprints(text: str) -> None:
    assert remote.parse_fingerprint(text) == "ab" * 32


def test_looking_at_a_server(served: Served) -> None:
    address = Address.parse(served.url)
    seen = remote.look_at(address)
    assert not seen.trusted
    assert seen.certificate.pem == served.certificate.read_text()
    assert remote.check_index(address, seen.certificate) == 1


def test_a_certificate_that_changes_between_two_looks_is_not_taken(served: Served, tmp_path: Path, tree: Path) -> None:
    with serve(tmp_path, tree) as other:
        certificate = remote.look_at(Address.parse(other.url)).certificate
    with pytest.raises(LxdockerError, match="no answer from"):
        remote.check_index(Address.parse(served.url), certificate)


def test_a_server_without_images(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with serve(tmp_path, tmp_path / "tree") as served:
        address = Address.parse(served.url)
        with pytest.raises(LxdockerError, match="is not a simplestreams server"):
            remote.check_index(address, remote.look_at(address).certificate)
