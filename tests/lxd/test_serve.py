"""Another LXD host, which knows this one only as an image server over HTTPS."""

from __future__ import annotations

import json
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from lxdocker.serve import certs
from tests import schemas
from tests.lxd.hosts import Host, address, daemon
from tests.lxd.rig import LXDOCKER, Lxc, World, fetch
from tests.serve.rig import Served, serve
from tests.waiting import wait_until

LOGIN = ("ann", "pa:ss/wörd@")


@pytest.fixture(scope="module")
def client(parts: None) -> Iterator[Path]:
    """The other host's LXD_DIR."""
    if "image_registries" in Lxc().query("/1.0")["api_extensions"]:
        pytest.skip("this LXD downloads from image registries only: tests/lxd/test_registries.py")
    with daemon("client") as folder:
        yield folder


@pytest.fixture
def host(client: Path, tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path / "host", client)
    try:
        yield found
    finally:
        found.clear()


# ---- joining by hand


def test_launching_an_image_of_another_host(published: World, served: Served, host: Host) -> None:
    host.lxc("remote", "add", "shop", served.url, "--protocol", "simplestreams")
    assert "certificate signed by unknown authority" in host.lxc("image", "list", "shop:", expect=1)
    host.trust("shop", served.certificate)
    fingerprint = published.published_fingerprints("nginx")[-1]
    assert fingerprint[:12] in host.lxc("image", "list", "shop:", "--format", "csv")
    began = time.monotonic()
    host.lxc("launch", "shop:nginx", "web", "--quiet")
    assert fetch(f"http://{address(host, 'web')}/") == "lxdocker test page\n"
    assert list(host.images()) == [fingerprint]
    # LXD tried each file by plain http first, which must not have cost it anything.
    assert served.metric("lxdocker_refused_connections_total") >= 2
    assert time.monotonic() - began < 45
    for name in ("lxd.tar.xz", "rootfs.squashfs"):
        assert f'/{name} HTTP/1.1" 200 ' in served.log


def test_a_copy_follows_new_versions(published: World, served: Served, host: Host, registry: str) -> None:
    host.join("shop", served)
    host.lxc("image", "copy", "shop:nginx", "local:", "--alias", "nginx", "--auto-update", "--quiet")
    first = published.published_fingerprints("nginx")[-1]
    assert host.images() == {first: ["nginx"]}
    published.spec("nginx", f"{registry}/nginx", properties={"edition": "second"})
    published.sync()
    second = published.published_fingerprints("nginx")[-1]
    assert second != first
    # The daemon keeps an index for an hour; lxc itself does not.
    assert second[:12] in host.lxc("image", "list", "shop:nginx", "--format", "csv")
    host.lxc("image", "refresh", "nginx")
    assert host.images() == {first: ["nginx"]}
    host.forget_indexes()
    host.lxc("image", "refresh", "nginx")
    assert host.images() == {second: ["nginx"]}
    source = json.loads(host.lxc("query", f"/1.0/images/{second}"))["update_source"]
    assert (source["server"], source["alias"]) == (served.url, "nginx")
    assert source["certificate"] == served.certificate.read_text()


def test_a_certificate_made_anew_is_trusted_by_those_who_have_the_old_one(
    published: World, host: Host, tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    with serve(folder, published.tree, "--name", "old.example", limits={"server.WATCH_SECONDS": 0.2}) as served:
        host.join("shop", served)
        host.lxc("image", "list", "shop:")
        before = served.certificate.read_bytes()
        served.certificate.unlink()
        wait_until("the new certificate", lambda: "showing a new certificate" in served.log)
        assert served.certificate.read_bytes() != before
        host.lxc("image", "list", "shop:")
        host.lxc("image", "copy", "shop:nginx", "local:", "--quiet")  # the daemon too
        assert (host.config / "servercerts/shop.crt").read_bytes() == before


def test_a_server_with_another_key_is_not_trusted(published: World, host: Host, tmp_path: Path) -> None:
    with serve(tmp_path / "served", published.tree) as served:
        host.lxc("remote", "add", "shop", served.url, "--protocol", "simplestreams")
        host.trust("shop", certs.make(tmp_path / "impostor").certificate)
        assert "certificate" in host.lxc("image", "list", "shop:", expect=1)


# ---- joining with lxdocker


def test_lxdocker_joins(published: World, served: Served, host: Host) -> None:
    fingerprint = certs.Certificate.parse(served.certificate.read_bytes()).fingerprint
    assert fingerprint in served.said
    done = host.lxdocker("remote", "add", served.url, "--fingerprint", fingerprint)
    assert f"added remote lxdocker ({served.url}, " in done.out
    assert host.remotes()["lxdocker"] == served.url
    host.lxc("image", "copy", "lxdocker:nginx", "local:", "--quiet")
    done = host.lxdocker("remote", "add", served.url, "--yes", "--json")
    assert schemas.check(done.document, "remote") == {
        "schema": 1,
        "name": "lxdocker",
        "url": served.url,
        "client": "lxc",
        "images": 1,
        "certificate": str(host.config / "servercerts/lxdocker.crt"),
        "registry": False,
    }
    assert certs.Certificate.parse(served.certificate.read_bytes()).shown_fingerprint in done.err


@pytest.mark.any_lxd
def test_lxdocker_leaves_no_trace_of_what_failed(published: World, served: Served, host: Host, tmp_path: Path) -> None:
    def state() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(host.config.rglob("*")) if path.is_file()}

    host.lxdocker("remote", "add", served.url, "known", "--yes")
    before = state()
    wrong = "0" * 64
    (tmp_path / "empty").mkdir()
    with serve(tmp_path / "other", tmp_path / "empty") as empty, serve(tmp_path / "third", published.tree) as third:
        for arguments, expected in (
            ((served.url, "other"), "cannot ask for confirmation"),
            ((served.url, "other", "--fingerprint", wrong), "does not match"),
            ((served.url, "other", "--fingerprint", "12"), "not a SHA-256 fingerprint"),
            ((served.url, "a:b", "--yes"), "cannot be a remote's name"),
            ((served.url, "local", "--yes"), "already has a remote local"),
            ((third.url, "known", "--yes"), "already has a remote known"),
            ((served.url, "other", "--yes", "--client", "incus"), "no incus on this host"),
            ((empty.url, "other", "--yes"), "not a simplestreams server"),
            (("https://127.0.0.1:1", "other", "--yes"), "cannot connect to"),
            (("http://127.0.0.1:1", "other", "--yes"), "not the URL of an image server"),
            (("https://user:word@/", "other", "--yes"), "not the URL of an image server"),
        ):
            done = subprocess.run(
                [*LXDOCKER, "remote", "add", *arguments],
                env=host.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode in {1, 2}
            assert expected in done.stderr
            assert "Traceback" not in done.stderr
            assert "word" not in done.stderr
            assert state() == before


# ---- with a login


@pytest.fixture
def guarded(published: World, tmp_path: Path) -> Iterator[Served]:
    """A server that wants a login."""
    users = tmp_path / "users"
    name, password = LOGIN
    users.write_text(f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()}\n")
    with serve(tmp_path / "guarded", published.tree, "--users", str(users)) as found:
        yield found


def test_a_login_in_the_address_is_all_lxd_needs(published: World, guarded: Served, host: Host) -> None:
    host.join("shop", guarded)
    assert "401 Unauthorized" in host.lxc("image", "list", "shop:", expect=1)
    url = guarded.url.replace("https://", "https://ann:pa%3Ass%2Fw%C3%B6rd%40@")
    host.lxc("remote", "set-url", "shop", url)
    host.lxc("image", "copy", "shop:nginx", "local:", "--alias", "nginx", "--auto-update", "--quiet")
    assert list(host.images().values()) == [["nginx"]]
    host.forget_indexes()
    host.lxc("image", "refresh", "nginx")  # the daemon by itself, as it does from time to time
    assert "- ann [" in guarded.log
    assert LOGIN[1] not in guarded.log


@pytest.mark.any_lxd
def test_lxdocker_joins_with_a_login_that_nobody_else_sees(guarded: Served, host: Host) -> None:
    seen = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes())
                except OSError:
                    continue

    watching = threading.Thread(target=watch)
    watching.start()
    url = guarded.url.replace("https://", f"https://{LOGIN[0]}@")
    try:
        done = host.lxdocker("remote", "add", url, "shop", "--yes", stdin=f"{LOGIN[1]}\n")
    finally:
        over.set()
        watching.join()
    assert any(b"remote\0add\0" in one for one in seen)  # it did look
    assert not [one for one in seen if b"pa%3A" in one or b"pa:ss" in one]
    assert "pa:ss" not in done.out + done.err
    config = host.config / "config.yml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    host.lxc("image", "copy", "shop:nginx", "local:", "--quiet")
    for word in ("wrong", ""):
        done = host.lxdocker("remote", "add", url, "shop2", "--yes", stdin=f"{word}\n", expect=1)
        assert "wrong user or password" in done.err
    assert "shop2" not in host.remotes()
