"""The recipes of docs/cookbook.md: each spec of the page as it is, built and launched. Replaced are only the registry,
and what a test's host does not have.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest
import yaml

from tests.lxd.rig import Instance, Lxc, World, fetch, redis
from tests.registry_server import Certificate, ScriptedServer
from tests.waiting import wait_until

pytestmark = pytest.mark.any_lxd
PAGE = Path(__file__).parents[2] / "docs/cookbook.md"
SPEC = re.compile(r"```yaml\n# images\.d/(\S+)\.yaml\n(.*?)```", re.DOTALL)
# Docker Hub's images -> those of the tests' registry.
IMAGES = {"nginx": "nginx", "redis": "redis", "python": "gunicorn"}
# Redis' side of a module, without its header: it asks for the function that names it.
MODULE = """
int RedisModule_OnLoad(void *context, void **words, int count) {
    int (*look_up)(const char *, void *) = (int (*)(const char *, void *))((void **)context)[0];
    void (*name)(void *, const char *, int, int);
    look_up("RedisModule_SetModuleAttribs", &name);
    name(context, "example", 1, 1);
    return 0;
}
"""


def recipes() -> dict[str, str]:
    return dict(SPEC.findall(PAGE.read_text()))


@pytest.fixture(scope="module")
def bridge(parts: None) -> str:
    """This host's address, as instances reach it."""
    networks = Lxc().query("/1.0/networks?recursion=1")
    address: str = next(one["config"]["ipv4.address"] for one in networks if one["managed"])
    return address.partition("/")[0]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, bridge: str) -> Certificate:
    """One that nobody trusts who was not told to; also the certificate of a server on the bridge."""
    return Certificate.make(tmp_path_factory.mktemp("authority"), bridge)


@pytest.fixture(scope="module")
def kitchen(
    tmp_path_factory: pytest.TempPathFactory, registry: str, builder_image: str, authority: Certificate
) -> Iterator[World]:
    """A world with all images of the page, from one sync."""
    world = World(tmp_path_factory.mktemp("cookbook") / "world", registry)
    try:
        for name, text in recipes().items():
            image = re.sub(r"(?m)^image: (\w+)$", lambda found: f"image: {registry}/{IMAGES[found[1]]}", text)
            (world.specs / f"{name}.yaml").write_text(image)
        shutil.copy(authority.cert, world.specs / "corporate-ca.crt")
        compile_module(world.specs / "example.so")
        make_repository(world.specs)
        (world.specs / "app/static").mkdir(parents=True)
        (world.specs / "app/index.html").write_text("from the checkout\n")
        (world.specs / "app/.git").mkdir()
        (world.specs / "app/.git/config").write_text("url = https://me:secret@git.example.org/app.git\n")
        world.sync()
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module", autouse=True)
def scheduled(kitchen: World) -> Iterator[Instance]:
    """Started first, as its job may be a minute away."""
    instance = Instance(kitchen.lxc, "scheduled")
    try:
        yield instance
    finally:
        instance.delete()


def compile_module(target: Path) -> None:
    argv = ["gcc", "-shared", "-fPIC", "-x", "c", "-o", str(target), "-"]
    subprocess.run(argv, input=MODULE.encode(), check=True, capture_output=True, timeout=60)


def make_repository(specs: Path) -> None:
    """A package of the recipe's name in a repository that is part of the image, by what all specs extend: nothing is
    fetched from Debian's servers.
    """
    package = specs.parent / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "usr/bin").mkdir(parents=True)
    (package / "usr/bin/htop").write_text("#!/bin/sh\necho from the package\n")
    (package / "usr/bin/htop").chmod(0o755)
    control = "Package: htop\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: x\n"
    (package / "DEBIAN/control").write_text(control)
    folder = specs / "repository"
    folder.mkdir()
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", str(package), str(folder / "htop.deb")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    deb = (folder / "htop.deb").read_bytes()
    sha256 = subprocess.run(["sha256sum", str(folder / "htop.deb")], check=True, capture_output=True, text=True).stdout
    (folder / "Packages").write_text(f"{control}Filename: ./htop.deb\nSize: {len(deb)}\nSHA256: {sha256.split()[0]}\n")
    path = specs / "packaged.yaml"
    path.write_text(f"extends: _repository.yaml\n{path.read_text()}")
    sources = {"content": "deb [trusted=yes] file:/srv/repository ./\n"}
    files = {
        "/srv/repository": {"source": "repository"},
        "/etc/apt/sources.list.d": {"absent": True},
        "/etc/apt/sources.list": sources,
    }
    (specs / "_repository.yaml").write_text(yaml.safe_dump({"files": files}))


def test_the_page_has_twelve_recipes() -> None:
    headings = re.findall(r"(?m)^## ", PAGE.read_text())
    assert len(headings) == len(recipes()) == 12


def run(instance: Instance, command: str) -> str:
    """As the application would."""
    return instance.shell(f"/lxd-exec /busybox-lxd sh -c '{command}'")


def test_a_time_zone(kitchen: World, launch: Callable[..., Instance]) -> None:
    assert run(launch(kitchen, "clock"), "date +%Z").strip() in {"CET", "CEST"}


def test_an_authority(kitchen: World, launch: Callable[..., Instance], authority: Certificate, bridge: str) -> None:
    with ScriptedServer(lambda handler: handler.reply(200, b"trusted"), authority, host=bridge) as server:
        program = f'import urllib.request as u; print(u.urlopen("https://{server.address}/").read().decode())'
        for name, said in (("trusting", "trusted"), ("checkout", "CERTIFICATE_VERIFY_FAILED")):
            instance = launch(kitchen, name)
            instance.address()
            assert said in instance.shell(f"/lxd-exec python3 -c '{program}' 2>&1 || :")


def test_a_configuration_file(kitchen: World, launch: Callable[..., Instance]) -> None:
    address = launch(kitchen, "configured").address()
    assert fetch(f"http://{address}:8080/") == "hello from configured\n"


def test_a_plugin(kitchen: World, launch: Callable[..., Instance]) -> None:
    instance = launch(kitchen, "extended")
    wait_until("the module", lambda: "example" in instance.shell("redis-cli MODULE LIST 2>&1 || :"))


def test_another_user(kitchen: World, launch: Callable[..., Instance]) -> None:
    instance = launch(kitchen, "unprivileged")
    assert "PONG" in redis(instance.address(), "PING") or "DENIED" in redis(instance.address(), "PING")
    assert instance.shell("stat -c %u /proc/$(pidof redis-server)") == "1234\n"
    assert run(instance, "id -u; stat -c %u:%g /data") == "1234\n1234:1234\n"


def test_a_log_in_a_file(kitchen: World, launch: Callable[..., Instance]) -> None:
    instance = launch(kitchen, "logging")
    fetch(f"http://{instance.address()}/")
    wait_until("the log", lambda: "start worker process" in instance.shell("cat /var/log/app.log"))


def test_a_static_address(kitchen: World, launch: Callable[..., Instance]) -> None:
    network = ip_interface(launch(kitchen, "clock").address() + "/24").network
    address, gateway = network[77], network[1]
    (option,) = re.findall(r"lxc launch fixed fixed -c (\S+)='eth0 10\.0\.3\.77/24 10\.0\.3\.1'", PAGE.read_text())
    instance = launch(kitchen, "fixed", "-c", f"{option}=eth0 {address}/24 {gateway}")
    assert "lxdocker test page" in fetch(f"http://{address}/")
    assert instance.address() == str(address)


def test_several_processes(kitchen: World, launch: Callable[..., Instance]) -> None:
    instance = launch(kitchen, "several")
    assert "lxdocker test page" in fetch(f"http://{instance.address()}/")
    wait_until("the worker", lambda: instance.shell("cat /run/worker 2>/dev/null || :").strip())


def test_a_device(kitchen: World, launch: Callable[..., Instance]) -> None:
    (options,) = re.findall(r"lxc config device add device serial (.*)", PAGE.read_text())
    instance = launch(kitchen, "device")
    words = options.replace("/dev/ttyUSB0", "/dev/loop-control").split()
    kitchen.lxc("config", "device", "add", instance.name, "serial", *words)
    assert instance.shell("stat -c '%F %a' /dev/loop-control") == "character special file 666\n"


def test_a_package(kitchen: World, launch: Callable[..., Instance]) -> None:
    instance = launch(kitchen, "packaged")
    assert instance.shell("/usr/bin/htop") == "from the package\n"
    assert instance.shell("/busybox-lxd find /var/lib/apt/lists /var/cache/apt -type f -size +0").split() == []


def test_an_application_from_a_checkout(kitchen: World, launch: Callable[..., Instance]) -> None:
    instance = launch(kitchen, "checkout")
    assert fetch(f"http://{instance.address()}:8000/") == "from the checkout\n"
    assert instance.shell("ls -A /srv/app").split() == ["app.py", "index.html", "static"]  # the first is the image's
    (kitchen.specs / "app/index.html").write_text("pulled\n")
    planned = kitchen.run("sync", "--dry-run", "--json", "checkout").image("checkout")
    assert planned["reason"] == "changed: files:/srv/app"


def test_a_cron_job(scheduled: Instance) -> None:
    wait_until("the job", lambda: scheduled.shell("cat /var/log/visits 2>/dev/null || :").strip(), 90)
    assert "lxdocker test page" in fetch(f"http://{scheduled.address()}/")
