"""Real applications as LXD instances: they answer, see what they were given, and stop as they should."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lxd.rig import Instance, World, entry, fetch, image, layer, redis

ODD = """it's "new", with  two spaces, a $HOME, a \\, a `tick` and a *"""
Launch = Callable[..., Instance]


@pytest.fixture(scope="module")
def apps(shared_world: World, registry: str) -> World:
    """All test images, synced."""
    for name in ("nginx", "redis", "static"):
        shared_world.spec(name, f"{registry}/{name}")
    shared_world.spec("pid1", f"{registry}/pid1", disable_supervisor=True)
    shared_world.spec("supervised", f"{registry}/pid1")
    done = shared_world.sync()
    assert set(done.statuses.values()) == {"built"}
    for name in done.statuses:
        shared_world.holds(name, done.fingerprint(name))
    return shared_world


def environment(instance: Instance, program: str) -> dict[str, str]:
    """What a running program was given. Not for nginx and redis, which write their titles there."""
    said = instance.shell(f"tr '\\0' '\\1' </proc/$(pidof {program})/environ")
    return dict(pair.split("=", 1) for pair in said.split("\1") if pair)


def report(instance: Instance) -> dict[str, Any]:
    """What the image pid1 says it sees."""
    log = instance.log_with("}}\n")  # the end of its line
    # The DHCP client may have a word in the middle of it.
    log = re.sub(r"udhcpc: .*\n", "", log)
    line = next(line for line in log.splitlines() if line.startswith("pid1: {"))
    # Asked while it was being printed, LXD tells the first half, and then all of it.
    found: dict[str, Any] = json.loads(line.rpartition("pid1: ")[2])
    return found


def test_nginx(apps: World, launch: Launch) -> None:
    nginx = launch(apps, "nginx")
    assert fetch(f"http://{nginx.address()}/") == "lxdocker test page\n"
    assert nginx.shell("hostname").strip() == nginx.name
    assert nginx.shell("cat /etc/hostname").strip() == nginx.name
    assert "daemon off; error_log /dev/stdout info;" in nginx.shell("ps -o args")
    nginx.stop()
    log = nginx.log()
    assert "signal 3 (SIGQUIT) received" in log  # the image's own stop signal
    assert "gracefully shutting down" in log
    assert "lxdocker: nginx ended with status 0" in log


def test_the_environment_is_the_images_below_the_instances(world: World, launch: Launch) -> None:
    greeting = """hello "big" world, it's $HOME \\ here"""
    program = Path("/bin/busybox").read_bytes()
    server = image(
        layer(entry("srv"), entry("usr/bin/httpd", program, mode=0o755)),
        Env=[f"GREETING={greeting}", "EMPTY=", "LINES=one\ntwo", "PATH=/usr/bin", "odd.name=odd value"],
        Cmd=["httpd", "-f", "-h", "/"],
        WorkingDir="/srv",
    )
    world.wants("app", server)
    world.sync()
    prelaunch = "user.lxdocker_init_script=echo before the application >/srv/prelaunched"
    app = launch(world, "app", "-c", f"environment.GREETING={ODD}", "-c", "environment.MORE=x=y z", "-c", prelaunch)
    assert fetch(f"http://{app.address()}/srv/prelaunched") == "before the application\n"
    expected = {
        "GREETING": ODD,
        "MORE": "x=y z",
        "EMPTY": "",
        "LINES": "one\ntwo",
        "PATH": "/usr/bin",
        "odd.name": "odd value",
        "HOSTNAME": app.name,
        "HOME": "/",  # as Docker has it where no passwd says otherwise
    }
    seen = environment(app, "httpd")
    assert {key: seen.get(key) for key in expected} == expected
    assert set(seen) <= {*expected, "container", "TERM"}
    # What is set later counts from the next start; what is unset gives way to the image's again.
    world.lxc("config", "set", app.name, "environment.EMPTY", "no more")
    world.lxc("config", "unset", app.name, "environment.GREETING")
    app.stop()
    app.start()
    fetch(f"http://{app.address()}/etc/hosts")
    seen = environment(app, "httpd")
    assert seen["EMPTY"] == "no more"
    assert seen["GREETING"] == greeting


def test_redis(apps: World, launch: Launch) -> None:
    server = launch(apps, "redis")
    address = server.address()
    assert redis(address, "PING") == "+PONG\r\n"
    assert redis(address, "SET", "key", "kept") == "+OK\r\n"
    owner = server.shell("stat -c %U /proc/$(pidof redis-server)").strip()
    assert owner == "redis"  # the image's USER
    server.stop()
    assert "bye bye" in server.log()
    assert "ended with status 0" in server.log()
    server.start()
    assert redis(server.address(), "GET", "key") == "$4\r\nkept\r\n"


def test_an_image_of_one_static_program(apps: World, launch: Launch) -> None:
    """No shell, no libraries, no /etc of its own."""
    static = launch(apps, "static")
    assert fetch(f"http://{static.address()}:8080/etc/hostname").strip() == static.name
    static.stop()
    assert "/httpd was ended by signal 15" in static.log()


def test_an_entrypoint_that_is_pid_1(apps: World, launch: Launch) -> None:
    instance = launch(apps, "pid1", "-c", f"environment.QUOTED={ODD}", "-c", "environment.MORE=more")
    seen = report(instance)
    assert seen["pid"] == 1
    assert seen["args"] == ["one", "two words", """it's "quoted" $HOME \\ *"""]
    assert seen["cwd"] == "/srv"
    assert seen["hostname"] == instance.name
    assert seen["user"] == "0:0"
    expected = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "QUOTED": ODD,
        "MORE": "more",
        "HOSTNAME": instance.name,
        "HOME": "/root",
    }
    assert {key: seen["env"].get(key) for key in expected} == expected
    assert set(seen["env"]) <= {*expected, "container", "TERM"}  # and nothing of our own
    instance.stop()
    assert "pid1: got PWR, bye" in instance.log()


def test_a_supervised_entrypoint_is_not_pid_1_and_its_end_is_the_instances(apps: World, launch: Launch) -> None:
    instance = launch(apps, "supervised")
    seen = report(instance)
    assert seen["pid"] != 1
    assert seen["env"]["QUOTED"] == """it's "quoted" $HOME \\ *"""  # the image's own, where nobody overrides it
    assert "ended with status 3" in instance.log_with("ended with status")


def test_the_layouts_of_these_images_give_the_same_files(apps: World, layouts: Path) -> None:
    """What is on disk and what is in the registry: other sources, and the same image in them."""
    apps.spec("from-disk", f"oci:{layouts / 'static'}:latest")
    try:
        done = apps.sync("from-disk", "static")
        assert done.statuses == {"from-disk": "built", "static": "unchanged"}
        assert apps.rootfs("from-disk").read_bytes() == apps.rootfs("static").read_bytes()
    finally:
        (apps.specs / "from-disk.yaml").unlink()
