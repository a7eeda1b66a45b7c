"""What an image is and needs, by its configuration and its spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lxdocker.config.spec import ImageSpec, load_files
from lxdocker.docker import inspection
from lxdocker.docker.inspection import Inspection
from lxdocker.image.overrides import overridden
from lxdocker.source.oci import Layer, OciConfig
from lxdocker.source.resolve import Description, ResolvedImage
from lxdocker.values import parse_image_ref
from tests.examples import digest

REF = parse_image_ref("nginx", Path("/"))
LAYERS = (Layer(digest("a"), 700, "tar"), Layer(digest("b"), 300, "tar"))


def inspected(spec: ImageSpec | None = None, **config: Any) -> Inspection:
    own = OciConfig(**{"cmd": ("/app",), "has_shell": True, **config})
    image = ResolvedImage(digest("index"), digest("manifest"), digest("config"), LAYERS)
    changed = overridden(own, spec.changes.overrides) if spec else own
    return inspection.inspect(REF, Description(image, own, ("linux/amd64", "linux/arm64")), changed, spec)


def written(folder: Path, text: str) -> ImageSpec:
    (folder / "web.yaml").write_text(f"image: nginx\n{text}")
    return load_files([folder / "web.yaml"])[0]


def kinds(found: Inspection) -> list[str]:
    return [one.kind for one in found.cautions]


def test_an_ordinary_image_needs_no_warning() -> None:
    found = inspected(
        labels={"org.opencontainers.image.version": "1.2", "org.opencontainers.image.source": "https://example.org"},
        healthcheck={"Test": ["CMD-SHELL", "check"], "Interval": 5_000_000_000, "Retries": 2},
        volumes=("/data",),
        user="app",
        exposed_ports=("8080/tcp",),
    )
    assert found.cautions == ()
    assert (found.size, found.platforms) == (1000, ("linux/amd64", "linux/arm64"))
    assert (found.version, found.source, found.own_init) == ("1.2", "https://example.org", "")
    assert found.health is not None
    assert (found.health.command, found.health.interval, found.health.retries) == (("/bin/sh", "-c", "check"), 5, 2)
    assert (found.spec, found.from_spec, found.changes) == (None, (), ())


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ({"entrypoint": ("/init",)}, "pid-1", "its own init becomes PID 1, by disable_supervisor: auto: /init"),
        (
            {"entrypoint": ("sh", "-c", "exec /init"), "env": (("S6_X", "1"),)},
            "pid-1",
            "disable_supervisor: auto does not notice it",
        ),
        ({"entrypoint": ("/usr/bin/tini", "--")}, "pid-1", "tini runs under lxdocker's PID 1"),
        ({"cmd": ()}, "no-command", "names no command"),
        ({"cmd": ("bash",)}, "ends-at-once", "ends at once without a terminal: bash"),
        ({"cmd": ("htop",)}, "terminal", "expects a terminal, and gets none: htop"),
        ({"terminal": True}, "terminal", "expects a terminal"),
        ({"has_shell": False}, "no-shell", "may have no shell"),
        ({"stop_signal": "SIGNONE"}, "stop-signal", "'SIGNONE'"),
        (
            {"user": "app", "exposed_ports": ("80/tcp", "8080/tcp")},
            "low-port",
            "runs as app and listens below 1024 (80)",
        ),
        ({"user": "100000:70000"}, "user-id", "id 100000 70000"),
        ({"volumes": ("/var/run/app",)}, "volume", "so /run is not a tmpfs"),
        ({"volumes": ("/tmp",)}, "volume", "so /tmp is not a tmpfs"),
        ({"volumes": ("/var/run/docker.sock",)}, "docker", "(volume /var/run/docker.sock)"),
        ({"env": (("DOCKER_HOST", "tcp://x"),)}, "docker", "(variable DOCKER_HOST)"),
        ({"env": (("X", "unix:///run/docker.sock"),)}, "docker", "(variable X)"),
        ({"cmd": ("/app", "--providers.docker.endpoint=/var/run/docker.sock")}, "docker", "(its command)"),
        ({"env": (("TOKEN", ""),)}, "variables", "values for TOKEN"),
    ],
)
def test_each_warning(config: dict[str, Any], kind: str, words: str) -> None:
    found = inspected(**config)
    assert kinds(found) == [kind]
    (caution,) = found.cautions
    assert words in caution.what
    assert bool(caution.do) == (kind != "low-port" and "tini" not in words)


@pytest.mark.parametrize(
    "config",
    [
        {"user": "0:0", "exposed_ports": ("80/tcp",)},
        {"user": "65535"},
        {"cmd": ("bash", "-c", "serve")},
        {"has_shell": None},
        {"has_shell": False, "entrypoint": ("/entrypoint.sh",)},
        {"has_shell": False, "healthcheck": {"Test": ["CMD-SHELL", "true"]}},
        {"volumes": ("/running", "/var/run-x", "/srv/tmp")},
        {"exposed_ports": ("80/tcp", "evil", "0", "٣")},
    ],
)
def test_what_is_no_reason_to_warn(config: dict[str, Any]) -> None:
    assert kinds(inspected(**config)) == []


def test_an_image_with_its_own_init_may_use_the_console() -> None:
    found = inspected(entrypoint=("/sbin/init",), cmd=(), terminal=True)
    assert (kinds(found), found.own_init) == (["pid-1"], "/sbin/init")


def test_the_values_of_a_spec_are_named_and_apply(tmp_path: Path) -> None:
    spec = written(
        tmp_path,
        "user: root\nenvironment: {TOKEN: x, DOCKER_HOST: null}\nlabels: {a: b}\nhealthcheck: {interval: 3s}\n"
        "volumes: []\ncmd: [serve]\nrestart: always\nfiles: {/etc/x: {content: x}}\nrun: [make]\n",
    )
    config: dict[str, Any] = {
        "user": "app",
        "cmd": ("bash",),
        "env": (("TOKEN", ""), ("DOCKER_HOST", "x")),
        "volumes": ("/run/x",),
        "exposed_ports": ("80/tcp",),
        "healthcheck": {"Test": ["CMD", "/check"]},
    }
    assert kinds(inspected(**config)) == ["ends-at-once", "low-port", "volume", "docker", "variables"]
    found = inspected(spec, **config)
    assert kinds(found) == []
    assert found.config.cmd == ("serve",)
    assert found.health is not None
    assert found.health.interval == 3
    assert found.from_spec == (
        *("restart", "environment.DOCKER_HOST", "environment.TOKEN", "cmd", "user", "volumes", "labels.a"),
        "healthcheck.interval",
    )
    assert found.changes == ("files", "run")


@pytest.mark.parametrize(
    ("key", "entrypoint", "words", "own_init"),
    [
        ("disable_supervisor: false\n", "/init", "the spec prevents it", ""),
        ("disable_supervisor: true\n", "/init", "by the spec: /init", "/init"),
        ("disable_supervisor: true\n", "/app", "its command is PID 1, by the spec", "/app"),
    ],
)
def test_what_the_spec_says_of_pid_1(tmp_path: Path, key: str, entrypoint: str, words: str, own_init: str) -> None:
    found = inspected(written(tmp_path, key), entrypoint=(entrypoint,))
    assert (kinds(found), found.own_init) == (["pid-1"], own_init)
    assert words in found.cautions[0].what
    assert found.from_spec == ("disable_supervisor",)


def test_a_volume_on_a_tmpfs_of_the_spec_loses_its_data(tmp_path: Path) -> None:
    found = inspected(written(tmp_path, 'tmpfs: {/run: "on"}\n'), volumes=("/run/x",))
    assert kinds(found) == ["volume"]
    assert "its data is lost" in found.cautions[0].what


def test_a_spec_without_a_health_check(tmp_path: Path) -> None:
    found = inspected(written(tmp_path, "healthcheck: none\n"), healthcheck={"Test": ["CMD", "x"]})
    assert (found.health, found.from_spec) == (None, ("healthcheck",))


def test_a_hostile_image_is_quoted_on_one_line() -> None:
    evil = "x\n\x1b[2J" * 1000
    found = inspected(
        entrypoint=("tini", evil),
        volumes=(f"/run/{evil}", f"/{evil}docker.sock"),
        user=evil,
        exposed_ports=("80/tcp",),
        env=((f"{evil}", "docker.sock"),),
        stop_signal="SIGX",
    )
    for caution in found.cautions:
        assert "\n" not in caution.what + caution.do
        assert "\x1b" not in caution.what + caution.do
        assert len(caution.what) < 1000
