"""How a follower finds and trusts its server, by an address or a remote's name, and asks it no more than it must."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from lxdocker.errors import LxdockerError, MirrorError, UsageError
from lxdocker.follow.client import Client
from lxdocker.follow.upstream import Upstream, remote_named, user_without_password, with_password
from lxdocker.serve import certs
from lxdocker.serve.certs import Certificate
from lxdocker.tree.server import DistrustedError, Server, ServerOptions, read_index
from lxdocker.tree.tree import Tree
from lxdocker.values import ImageName
from tests.examples import provenance, publish, spec
from tests.serve.rig import Served, own_pair, serve
from tests.waiting import wait_until

NEVER = threading.Event()
SOON = {"server.WATCH_SECONDS": 0.2}
LOGIN = ("ann", "pa:ss/wörd@")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "tree")
    with made.lock(print, NEVER):
        publish(made, provenance(spec("web", aliases=("www",))), aliases=("www",))
        publish(made, provenance(spec("db")), "db")
    return made


@pytest.fixture
def served(tmp_path: Path, tree: Tree) -> Iterator[Served]:
    with serve(tmp_path / "served", tree.root, limits=SOON) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a follower keeps."""
    made = tmp_path / "kept"
    made.mkdir()
    return made


class Remotes:
    """What ``lxc`` of some user is set up with."""

    def __init__(self, folder: Path) -> None:
        self.client = Client("/usr/bin/lxc", folder)
        (folder / "servercerts").mkdir(parents=True)

    @property
    def config(self) -> Path:
        return self.client.folder / "config.yml"

    def add(self, name: str, address: str, certificate: bytes | None = None, protocol: str = "simplestreams") -> None:
        document: Any = yaml.safe_load(self.config.read_text()) if self.config.exists() else {"remotes": {}}
        document["remotes"][name] = {"addr": address, "protocol": protocol, "public": True}
        self.config.write_text(yaml.safe_dump(document))
        if certificate is not None:
            (self.client.folder / f"servercerts/{name}.crt").write_bytes(certificate)

    def find(self, name: str) -> Upstream:
        return Upstream.of_remote(name, self.client)


@pytest.fixture
def remotes(tmp_path: Path) -> Remotes:
    return Remotes(tmp_path / "lxc")


def names(upstream: Upstream, folder: Path) -> list[str]:
    with upstream.opened(folder, NEVER) as (_, listed):
        return [one.name.value for one in listed]


def fingerprint(served: Served) -> str:
    return Certificate.parse(served.certificate.read_bytes()).fingerprint


def make_certificate_anew(served: Served) -> None:
    before = fingerprint(served)
    served.certificate.unlink()
    wait_until("the new certificate", lambda: "showing a new certificate" in served.log)
    assert fingerprint(served) != before


# ---- addresses, remotes, logins


def test_a_server_has_one_name_whatever_it_is_called_by() -> None:
    for url in ("https://HOST.example:443/", "https://host.example", "https://ann:word@host.example/?x#y"):
        assert Upstream.at(url, ServerOptions()).name == "https://host.example"
    assert Upstream.at("https://host.example:8444/a/", ServerOptions()).name == "https://host.example:8444/a"
    assert Upstream.at("https://[2001:db8::1]:8444", ServerOptions()).name == "https://[2001:db8::1]:8444"
    for url in ("", "host.example", "ftp://ann:word@host.example", "https://"):
        with pytest.raises(UsageError, match="is not the URL") as caught:
            Upstream.at(url, ServerOptions())
        assert "word" not in str(caught.value)


def test_the_name_of_a_remote_ends_with_a_colon() -> None:
    assert remote_named("lxdocker:") == "lxdocker"
    for text in ("lxdocker", ":", "https://host", "https://host:", "../x:", "a b:", "lxdocker:nginx"):
        assert remote_named(text) is None


def test_a_user_without_a_password_gets_one() -> None:
    assert user_without_password("https://ann@host") == "ann"
    assert user_without_password("https://an%40n@host") == "an@n"
    assert with_password("https://an%40n@host:8444/x", LOGIN[1]) == "https://an%40n:pa%3Ass%2Fw%C3%B6rd%40@host:8444/x"
    for url in ("https://host", "https://ann:word@host", "https://ann:@host"):
        assert user_without_password(url) is None


def test_a_remote_gives_address_login_and_certificate(
    tmp_path: Path, tree: Tree, remotes: Remotes, folder: Path
) -> None:
    users = tmp_path / "users"
    users.write_text(f"{LOGIN[0]}:{bcrypt.hashpw(LOGIN[1].encode(), bcrypt.gensalt(5)).decode()}\n")
    with serve(tmp_path / "guarded", tree.root, "--users", str(users)) as served:
        certificate = served.certificate.read_bytes()
        url = served.url.replace("https://", "https://ann:{}@")
        remotes.add("shop", url.format("pa%3Ass%2Fw%C3%B6rd%40"), certificate)
        remotes.add("wrong", url.format("wrong"), certificate)
        remotes.add("nobody", served.url, certificate)
        assert names(remotes.find("shop"), folder) == ["db", "web"]
        assert remotes.find("shop").name == served.url
        with pytest.raises(MirrorError, match="wrong user or password") as wrong:
            names(remotes.find("wrong"), folder)
        with pytest.raises(MirrorError, match="requires a login"):
            names(remotes.find("nobody"), folder)
        assert "wrong@" not in str(wrong.value)
        kept = b"".join(path.read_bytes() for path in folder.iterdir())
        assert b"pa%3A" not in kept
        assert b"pa:ss" not in kept


def test_remotes_that_can_t_be_followed(remotes: Remotes) -> None:
    def refusal(name: str) -> UsageError:
        with pytest.raises(UsageError) as caught:
            remotes.find(name)
        assert caught.value.resolution
        assert "word" not in str(caught.value) + caught.value.resolution
        return caught.value

    assert "has none" in refusal("shop").details
    remotes.add("other", "https://ann:word@127.0.0.1:1", b"nonsense")
    assert "has other:" in refusal("shop").details
    assert "lxdocker remote add https://ann@127.0.0.1:1 other" in refusal("other").resolution
    remotes.add("lxd", "https://127.0.0.1:1", protocol="lxd")
    assert "its protocol is not simplestreams" in refusal("lxd").details
    for text in ("[", "[]", "remotes: 3", "", "remotes: {shop: 3}"):
        remotes.config.write_text(text)
        assert str(remotes.config) in refusal("shop").details
    remotes.config.write_text("remotes: {shop: {addr: https://ann:word@host, protocol: [}}")
    assert "is not as lxc writes it" in refusal("shop").details


# ---- certificates


def test_a_pinned_certificate_made_anew_is_trusted_by_its_key(served: Served, remotes: Remotes, folder: Path) -> None:
    remotes.add("shop", served.url, served.certificate.read_bytes())
    assert names(remotes.find("shop"), folder) == ["db", "web"]
    make_certificate_anew(served)
    assert names(remotes.find("shop"), folder) == ["db", "web"]


def test_so_is_one_known_by_its_fingerprint_once_it_has_been_seen(served: Served, folder: Path, tmp_path: Path) -> None:
    shown = Certificate.parse(served.certificate.read_bytes()).shown_fingerprint
    upstream = Upstream.at(served.url, ServerOptions(fingerprint=shown))
    assert names(upstream, folder) == ["db", "web"]
    make_certificate_anew(served)
    assert names(upstream, folder) == ["db", "web"]
    # Another follower never saw the one with that fingerprint, nor can it be made to think so.
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(DistrustedError, match="is not trusted"):
        names(upstream, other)
    (other / "server.crt").write_bytes(served.certificate.read_bytes())
    with pytest.raises(DistrustedError):
        names(upstream, other)


def test_another_key_is_not_trusted(served: Served, remotes: Remotes, folder: Path, tmp_path: Path) -> None:
    remotes.add("shop", served.url, certs.make(tmp_path / "impostor").certificate.read_bytes())
    with pytest.raises(DistrustedError, match="is not trusted") as caught:
        names(remotes.find("shop"), folder)
    assert f"lxdocker remote add {served.url} shop" in caught.value.resolution
    # An address is trusted by the system's authorities alone, a remote without a certificate as well.
    remotes.add("bare", served.url)
    for upstream in (Upstream.at(served.url, ServerOptions()), remotes.find("bare")):
        with pytest.raises(DistrustedError, match="is not trusted"):
            names(upstream, folder)


def test_a_remote_may_have_the_authority_in_place_of_the_certificate(
    served: Served, remotes: Remotes, folder: Path
) -> None:
    remotes.add("shop", served.url, served.authority.read_bytes())
    assert names(remotes.find("shop"), folder) == ["db", "web"]
    assert names(Upstream.at(served.url, ServerOptions(ca=served.authority)), folder) == ["db", "web"]
    assert names(Upstream.at(served.url, ServerOptions(ca=served.certificate)), folder) == ["db", "web"]


def test_a_file_of_authorities_that_is_none(tmp_path: Path, served: Served, folder: Path) -> None:
    (tmp_path / "ca.pem").write_text("not PEM")
    with pytest.raises(UsageError, match=r"the certificates in .*ca\.pem cannot be used"):
        names(Upstream.at(served.url, ServerOptions(ca=tmp_path / "ca.pem")), folder)


def test_a_certificate_of_the_users_own(tmp_path: Path, tree: Tree, remotes: Remotes, folder: Path) -> None:
    pair = own_pair(tmp_path / "own")
    options = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    with serve(tmp_path / "served", tree.root, *options) as served:
        remotes.add("shop", served.url, pair.certificate.read_bytes())
        assert names(remotes.find("shop"), folder) == ["db", "web"]


def test_a_server_that_is_not_there(served: Served, remotes: Remotes, folder: Path) -> None:
    remotes.add("shop", "https://127.0.0.1:1", served.certificate.read_bytes())
    served.stop()
    with pytest.raises(LxdockerError, match="no answer from"):
        names(remotes.find("shop"), folder)


# ---- the index


def test_an_index_that_has_not_changed_is_not_sent_again(served: Served, tree: Tree, folder: Path) -> None:
    upstream = Upstream.at(served.url, ServerOptions(ca=served.authority))

    seen = 0

    def statuses() -> list[str]:
        nonlocal seen
        seen += 2

        def lines() -> list[str]:
            return [line.partition('" ')[2][:3] for line in served.log.splitlines() if "GET /streams/" in line]

        wait_until("the log", lambda: len(lines()) >= seen)
        return lines()[-2:]

    assert names(upstream, folder) == ["db", "web"]
    assert statuses() == ["200", "200"]
    assert names(upstream, folder) == ["db", "web"]
    assert statuses() == ["304", "304"]
    # What was spoilt is not believed, and neither is half of it.
    for spoilt in (b"", b"nonsense", (folder / "images.json").read_bytes()[:-1]):
        (folder / "images.json").write_bytes(spoilt)
        assert names(upstream, folder) == ["db", "web"]
        assert statuses() == ["304", "200"]
    with tree.lock(print, NEVER):
        publish(tree, provenance(spec("new")), "new")
    assert names(upstream, folder) == ["db", "new", "web"]
    assert statuses() == ["200", "200"]


def test_the_index_says_what_an_image_is_called(served: Served) -> None:
    server = Server(served.url, ServerOptions(ca=served.authority), NEVER)
    aliases = {one.name: one.aliases for one in read_index(server)}
    server.close()
    assert aliases == {ImageName("web"): ("web", "www"), ImageName("db"): ("db",)}
