"""lxdocker doctor with a real LXD: causes in namespaces, networks and pools of their own; and silence without any."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lxdocker.builder import image as builder_image
from lxdocker.image import artifact
from lxdocker.lxd.api import Lxd
from lxdocker.runtime import render
from lxdocker.values import Arch
from tests import schemas
from tests.lxd.rig import BUILDER_PROJECT, Lxc, World, builders, end_of_builders
from tests.registry_server import Certificate, Handler, ScriptedServer, registry
from tests.stand_ins import builder_of_a_killed_one
from tests.waiting import wait_until

pytestmark = pytest.mark.any_lxd

OUTSIDE = "registry.invalid/app"  # no host has this name: RFC 6761


def examined(world: World, *options: str, before: str = "", environment: Mapping[str, str] | None = None) -> Any:
    """The findings by their IDs. ``before``: a shell's commands, in mount and network namespaces of the run's own."""
    argv = world.arguments(("doctor", "--json", *options))
    if before:
        argv = ["unshare", "-m", "-n", "sh", "-euc", f'{before}\nexec "$@"', "sh", *argv]
    done = subprocess.run(
        argv,
        env={**world.environment, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=world.folder,
    )
    assert "Traceback" not in done.stderr
    document = schemas.check(json.loads(done.stdout), "doctor")
    found = {finding["id"]: finding for finding in document["findings"]}
    assert done.returncode == (0 if document["healthy"] else 1)
    return found


def wrong(found: Mapping[str, Any]) -> set[str]:
    """All but notes."""
    return {name for name, finding in found.items() if finding["severity"] != "note"}


# ---- LXD itself


def test_an_lxd_that_was_never_set_up(world: World, tmp_path: Path) -> None:
    place = tmp_path / "bare"
    place.mkdir()
    environment = {"LXD_DIR": str(place)}
    argv = ["unshare", "-m", "lxd", "--group", "lxd", "--logfile", str(tmp_path / "lxd.log")]  # its mounts end with it
    with subprocess.Popen(argv, env={**os.environ, **environment}) as bare:
        try:
            wait_until("an LXD", (place / "unix.socket").exists)
            subprocess.run(["lxd", "waitready", "--timeout=30"], env={**os.environ, **environment}, check=True)
            assert wrong(examined(world, environment=environment)) == {"lxd-not-initialised"}
        finally:
            bare.kill()


# ---- this host: its firewall, and its ranges of IDs

RULES = """
iptables -P FORWARD DROP
iptables -N DOCKER-USER
iptables -A FORWARD -j DOCKER-USER
"""


def test_a_host_that_builders_suffer_from(world: World, tmp_path: Path) -> None:
    """A firewall, an id map and a proxy, in one run, and after following the advice."""
    world.spec("app", OUTSIDE)
    world.settings["builder_from"] = "image"
    proxy = {"https_proxy": "http://127.0.0.1:1"}
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text("root:100000:1000\n")
    small = "".join(f"mount --bind {shlex.quote(str(tmp_path / name))} /etc/{name}\n" for name in ("subuid", "subgid"))
    found = examined(world, before=RULES + small, environment=proxy)
    causes = {"bridge-blocked", "id-map-small", "proxy-not-in-lxd"}
    assert causes <= wrong(found)
    (nic,) = (one for one in Lxc().query("/1.0/profiles/default")["devices"].values() if one["type"] == "nic")
    advice = found["bridge-blocked"]["do"]
    assert f"iptables -I DOCKER-USER -i {nic['network']} -j ACCEPT" in advice
    Lxc()("config", "set", "core.proxy_https", proxy["https_proxy"])
    try:
        found = examined(world, before=f"{RULES}{advice}", environment=proxy)
    finally:
        Lxc()("config", "unset", "core.proxy_https")
    assert not causes & set(found)


NFTABLES = """
nft add table inet own
nft 'add chain inet own forward { type filter hook forward priority 0; policy drop; }'
"""


def test_a_firewall_of_nftables(world: World) -> None:
    world.spec("app", OUTSIDE)
    found = examined(world, before=NFTABLES)
    assert "bridge-blocked" in found
    advice = found["bridge-blocked"]["do"]
    assert "bridge-blocked" not in examined(world, before=f"{NFTABLES}{advice}")


# ---- registries, with a real one's answers


def test_a_clock_and_a_login_that_are_wrong(world: World, tmp_path: Path) -> None:
    with registry(tmp_path / "closed", htpasswd=True) as server:
        world.spec("app", f"{server.address}/app:1")
        login = base64.b64encode(b"ann:wrong").decode()
        (world.folder / "home/.docker").mkdir()
        (world.folder / "home/.docker/config.json").write_text(json.dumps({"auths": {server.address: {"auth": login}}}))
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        three_days_ago = {"LD_PRELOAD": str(library), "FAKETIME": "-3d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        found = examined(world, environment=three_days_ago)
        assert {"clock-off", "login-refused"} <= wrong(found)
        assert "3 days behind" in found["clock-off"]["what"]
        assert wrong(examined(world)) == {"login-refused"}


# ---- pools


@pytest.fixture
def small_pool() -> Iterator[str]:
    name = f"small-{uuid.uuid4().hex[:6]}"
    Lxc()("storage", "create", name, "btrfs", "size=256MiB")
    yield name
    Lxc()("storage", "delete", name)


def test_a_pool_without_room(world: World, small_pool: str) -> None:
    world.settings["pool"] = small_pool
    found = examined(world)
    assert wrong(found) == {"pool-full"}
    assert small_pool in found["pool-full"]["what"]


# ---- builders


def test_left_builders(world: World) -> None:
    fingerprint = Lxc(BUILDER_PROJECT).aliases()["builder"]
    ((key, mark),) = builder_of_a_killed_one().items()
    Lxc(BUILDER_PROJECT)("init", fingerprint, "builder-left", "-p", "builder", "-s", "default", "-c", f"{key}={mark}")
    planned = world.run("doctor", "--fix", "--dry-run")
    assert planned.out == f"lxc delete --force --project {BUILDER_PROJECT} builder-left\n"
    assert "builder-left" in builders()
    found = examined(world, "--fix")
    assert found["builders-left"]["fixed"]
    assert "builder-left" not in builders()
    assert "builders-left" not in examined(world)


def test_builder_images_that_do_not_fit(world: World, tmp_path: Path) -> None:
    foreign = Arch.AARCH64 if Arch.host() is not Arch.AARCH64 else Arch.X86_64
    world.settings["builder_project"] = world.project
    for arch, recipe, expected in (
        (Arch.host(), "another", "builder-image-stale"),
        (foreign, builder_image.scripts_hash(), "builder-image-architecture"),
    ):
        details = {"built_at": datetime.now(UTC).isoformat(), "base": "test", "recipe": recipe}
        properties = {f"{builder_image.PREFIX}{key}": value for key, value in details.items()}
        metadata = render.image_metadata(arch, 1, properties, config=None)
        made = artifact.write(tmp_path, metadata, [b"rootfs"])
        lxd = Lxd()
        lxd.import_image(world.project, made.fingerprint, made.metadata, made.rootfs, properties)
        lxd.set_alias(world.project, builder_image.ALIAS, made.fingerprint)
        assert wrong(examined(world)) == {expected}


# ---- from inside a builder: a network of its own, and a registry on its bridge


@pytest.fixture(scope="module")
def network(parts: None) -> Iterator[str]:
    name = f"lxdd{uuid.uuid4().hex[:6]}"
    third, second = os.urandom(2)
    Lxc()("network", "create", name, "ipv6.address=none", f"ipv4.address=10.{second}.{third}.1/24", "ipv4.nat=true")
    yield name
    end_of_builders()
    Lxc()("network", "delete", name)


@pytest.fixture
def bridge(world: World, network: str) -> str:
    """The world's builders are on that network. Its address."""
    world.settings["network"] = network
    return str(Lxc().query(f"/1.0/networks/{network}")["config"]["ipv4.address"]).partition("/")[0]


def set_up(network: str, setting: str) -> None:
    """LXD kills the network's dnsmasq for that and starts another 100 ms later, which fails where a busy kernel has not
    closed the first one's sockets by then; and the network goes on without any."""

    def done() -> bool:
        try:
            Lxc()("network", "set", network, setting)
        except AssertionError as error:
            if "Address already in use" in str(error):
                return False
            raise
        return True

    wait_until(f"{network}: {setting}", done)


def a_registry(address: str, certificate: Certificate | None = None) -> ScriptedServer:
    """One that has nothing but a manifest to be asked for."""

    def answer(handler: Handler) -> None:
        if handler.command == "HEAD":
            handler.reply(200, b"", {"Docker-Content-Digest": f"sha256:{'1' * 64}"})
        elif handler.path == "/v2/":
            handler.reply(200, b"{}")
        else:
            handler.reply(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')

    return ScriptedServer(answer, certificate, host=address)


def test_a_healthy_host_is_healthy(filled: World, network: str) -> None:
    address = str(Lxc().query(f"/1.0/networks/{network}")["config"]["ipv4.address"]).partition("/")[0]
    with TemporaryDirectory(dir="/var/tmp") as folder, a_registry(address) as server:
        place = Path(folder)  # pytest's own are closed to web servers
        place.chmod(0o755)
        shutil.copytree(filled.tree, place / "tree")
        filled.settings |= {"network": network, "insecure_registries": [server.address]}
        filled.spec("other", f"{server.address}/app:1")
        assert set(examined(filled, "--tree", str(place / "tree"))) == {"timer-missing"}
        assert "GET" in {seen.method for seen in server.seen}  # from the builder


def test_what_a_builder_lacks(world: World, network: str, bridge: str) -> None:
    """Each run has two causes, since each takes seconds."""
    with a_registry(bridge) as server:
        world.settings["insecure_registries"] = [server.address]
        world.spec("app", f"{server.address}/app:1")
        table = f"lxdocker_{network}"
        rules = f"""table inet {table} {{
            chain input {{
                type filter hook input priority -5;
                iifname {network} tcp dport {server.port} reject with tcp reset
            }}
        }}
        """
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        set_up(network, "ipv4.nat=false")
        try:
            assert wrong(examined(world)) == {"builder-route", "bridge-without-nat"}
        finally:
            subprocess.run(["nft", "delete", "table", "inet", table], check=True)
            set_up(network, "ipv4.nat=true")
        set_up(network, "ipv4.dhcp=false")
        try:
            assert wrong(examined(world)) == {"bridge-without-dhcp", "builder-without-network"}
        finally:
            set_up(network, "ipv4.dhcp=true")


@contextlib.contextmanager
def a_name_server(folder: Path, name: str, address: str) -> Iterator[str]:
    """dnsmasq, which knows one name. Its own address."""
    own = "127.0.0.153"
    argv = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root"]
    argv += [f"--listen-address={own}", f"--address=/{name}/{address}", f"--pid-file={folder / 'pid'}"]
    argv.append("--conf-file=/dev/null")
    with subprocess.Popen(argv) as process:
        try:
            wait_until("dnsmasq", (folder / "pid").exists)
            yield own
        finally:
            process.kill()


def test_a_name_that_builders_cannot_resolve(world: World, bridge: str, tmp_path: Path) -> None:
    name = f"r{uuid.uuid4().hex[:8]}.invalid"
    with a_registry(bridge) as server, a_name_server(tmp_path, name, bridge) as own:
        world.settings["insecure_registries"] = [f"{name}:{server.port}"]
        world.spec("app", f"{name}:{server.port}/app:1")
        (tmp_path / "resolv.conf").write_text(f"nameserver {own}\n")
        argv = world.arguments(("doctor", "--json"))
        here = f"mount --bind {shlex.quote(str(tmp_path / 'resolv.conf'))} /etc/resolv.conf"
        done = subprocess.run(
            ["unshare", "-m", "sh", "-euc", f'{here}; exec "$@"', "sh", *argv],
            env=world.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    found = {finding["id"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert wrong(found) == {"builder-dns"}, done.stdout
    assert name in found["builder-dns"]["what"]


def test_an_authority_that_only_this_host_trusts(world: World, bridge: str, tmp_path: Path) -> None:
    """A file of OpenSSL's own form: Go takes no such certificate."""
    made = Certificate.make(tmp_path, bridge)
    trusted = tmp_path / "trusted.pem"
    subprocess.run(["openssl", "x509", "-in", str(made.cert), "-trustout", "-out", str(trusted)], check=True)
    with a_registry(bridge, made) as server:
        world.spec("app", f"{server.address}/app:1")
        assert wrong(examined(world, environment={"SSL_CERT_FILE": str(trusted)})) == {"builder-authority"}
        assert wrong(examined(world, environment={"SSL_CERT_FILE": str(made.cert)})) == set()
