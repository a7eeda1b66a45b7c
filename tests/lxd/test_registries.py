"""A host whose LXD knows image registries (6.10 and later): `remote add` alone makes it follow a server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lxd.hosts import Host, address, daemon
from tests.lxd.rig import COMMAND_SECONDS, LXDOCKER, Lxc, World, fetch
from tests.serve.rig import Served, serve
from tests.waiting import wait_until

NAME = "shop"


@pytest.fixture(scope="module", autouse=True)
def registries(parts: None) -> None:
    if "image_registries" not in Lxc().query("/1.0")["api_extensions"]:
        pytest.skip("this LXD has no image registries, so tests/lxd/test_serve.py applies")


@pytest.fixture(scope="module")
def server(published: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = {"server.WATCH_SECONDS": 0.2}
    with serve(tmp_path_factory.mktemp("registry"), published.tree, limits=limits) as found:
        yield found


@pytest.fixture(scope="module")
def trusting(server: Served) -> Iterator[Path]:
    """The LXD_DIR of a host that has the server's authority among its system's."""
    with daemon(
        "trusting", environment={"SSL_CERT_FILE": str(server.certificate.with_name("authority.crt"))}
    ) as folder:
        yield folder


@pytest.fixture
def host(trusting: Path, tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path / "host", trusting)
    try:
        yield found
    finally:
        found.clear()


def registered(host: Host) -> dict[str, str]:
    """Name -> address, without those that LXD has of its own."""
    known = host.query("/1.0/image-registries?recursion=1")
    return {one["name"]: one["config"]["url"] for one in known if not one["builtin"]}


def rollback(world: World, *options: str) -> None:
    command = [*LXDOCKER, "publish", "rollback", "nginx", "--tree", str(world.tree), *options]
    subprocess.run(command, env=world.environment, capture_output=True, timeout=COMMAND_SECONDS, check=True)


def test_a_host_follows_by_remote_add_alone(published: World, server: Served, host: Host, registry: str) -> None:
    done = host.lxdocker("remote", "add", server.url, NAME, "--yes")
    assert "and as an image registry to LXD" in done.out
    assert registered(host) == {NAME: server.url}
    host.lxc("launch", f"{NAME}:nginx", "web", "--quiet")
    assert fetch(f"http://{address(host, 'web')}/") == "lxdocker test page\n"
    host.lxc("delete", "--force", "web")
    host.lxc("image", "copy", f"{NAME}:nginx", "local:", "--alias", "nginx", "--auto-update", "--quiet")
    first = published.published_fingerprints("nginx")[-1]
    assert host.aliases() == {"nginx": first}

    # A new version, from a server whose certificate has been made anew since.
    before = server.certificate.read_bytes()
    server.certificate.unlink()
    wait_until("the new certificate", lambda: "showing a new certificate" in server.log)
    assert server.certificate.read_bytes() != before
    published.spec("nginx", f"{registry}/nginx", properties={"edition": "second"})
    published.sync()
    second = published.published_fingerprints("nginx")[-1]
    host.forget_indexes()
    host.lxc("image", "refresh", "nginx")
    assert host.aliases() == {"nginx": second}

    rollback(published)
    host.forget_indexes()
    host.lxc("image", "refresh", "nginx")
    assert host.aliases() == {"nginx": first}
    rollback(published, "--undo")


def test_a_daemon_that_does_not_trust_the_server_is_left_as_it_was(
    published: World, host: Host, tmp_path: Path
) -> None:
    with serve(tmp_path / "stranger", published.tree) as stranger:
        done = host.lxdocker("remote", "add", stranger.url, NAME, "--yes", expect=1)
        assert "LXD itself cannot use" in done.err
        assert "update-ca-certificates" in done.err
        assert registered(host) == {}
        assert NAME not in host.remotes()


def test_a_name_that_is_taken(server: Served, host: Host) -> None:
    done = host.lxdocker("remote", "add", server.url, "images", "--yes", expect=2)
    assert "already" in done.err
    assert registered(host) == {}
