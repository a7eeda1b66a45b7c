"""What an image expects, by its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.config import yamlfile
from lxdocker.config.spec import SCHEMA
from lxdocker.docker import expects
from lxdocker.docker.translate import Where, launch, spec_text
from lxdocker.source.oci import OciConfig
from lxdocker.values import ImageName, parse_image_ref


def found(image: str = "nginx", **config: object) -> expects.Expectations:
    return expects.expectations(parse_image_ref(image, Path("/")), OciConfig(**config))  # type: ignore[arg-type]


def spec(image: str = "nginx", **config: object) -> str:
    """The file that `lxdocker add` writes, which fits the schema."""
    ref = parse_image_ref(image, Path("/"))
    expected = found(image, **config)
    service = expects.service("web", ref, expected, OciConfig(**config), "default")  # type: ignore[arg-type]
    text = spec_text(service, ref, "SCHEMA", expects.comments(ImageName("web"), expected), expects.keys(expected))
    assert yamlfile.check(yamlfile.parse(text, "x"), SCHEMA) == []
    return text


@pytest.mark.parametrize(
    ("entrypoint", "env", "init", "alone"),
    [
        (("/init",), (("S6_VERSION", "3"),), "s6-overlay (/init)", True),
        (("/init",), (), "its own init (/init)", True),
        (("/sbin/init",), (), "systemd or alike (/sbin/init)", True),
        (("/lib/systemd/systemd",), (), "systemd (/lib/systemd/systemd)", True),
        (("/bin/s6-svscan", "/etc/s6"), (), "s6 (/bin/s6-svscan)", True),
        # Which disable_supervisor: auto would not notice.
        (("/bin/sh", "-c", "exec /init"), (("S6_KEEP_ENV", "1"),), "s6-overlay (/init)", True),
        (("/bin/sh", "-c", "exec /init"), (), "", False),
        (("/usr/bin/tini", "--", "/app"), (), "tini, under lxdocker's own", False),
        (("dumb-init", "/app"), (), "dumb-init, under lxdocker's own", False),
        (("/app",), (), "", False),
        ((), (), "", False),
    ],
)
def test_an_init_is_known_by_the_entrypoint_and_gets_what_it_needs(
    entrypoint: tuple[str, ...], env: tuple[tuple[str, str], ...], init: str, alone: bool
) -> None:
    expected = found(entrypoint=entrypoint, env=env)
    assert (expected.init, expected.must_be_pid_1) == (init, alone)
    text = spec(entrypoint=entrypoint, env=env)
    assert ("\ndisable_supervisor: true\n" in text) == alone
    assert (init in text) or not init


@pytest.mark.parametrize(
    ("image", "env", "variables"),
    [
        ("postgres:17", (), ("POSTGRES_PASSWORD",)),
        ("postgres", (("POSTGRES_PASSWORD", "x"),), ()),
        ("ghcr.io/a/postgres", (), ()),
        ("lscr.io/linuxserver/sonarr", (), ("PUID", "PGID")),
        ("a/b", (("API_KEY", ""), ("TZ", "UTC"), ("a b", "")), ("API_KEY",)),
    ],
)
def test_variables_without_a_value(image: str, env: tuple[tuple[str, str], ...], variables: tuple[str, ...]) -> None:
    assert found(image, env=env).variables == variables
    assert all(f"environment.{name}" in spec(image, env=env) for name in variables)


def test_a_shell_ends_at_once() -> None:
    assert found(cmd=("/bin/sh",)).ends_at_once
    assert found(cmd=("python3",)).ends_at_once
    assert not found(cmd=("/bin/sh", "-c", "serve")).ends_at_once
    assert not found(entrypoint=("nginx",)).ends_at_once
    assert not found().ends_at_once


def test_the_rest_is_shown_and_launched() -> None:
    config: dict[str, object] = {
        "entrypoint": ("/run it", "-x"),
        "exposed_ports": ("53/udp", "80", "8080/tcp"),
        "volumes": ("/data", "/etc/app"),
        "user": "app",
        "healthcheck": {"Test": ["CMD", "/check"], "Interval": 5_000_000_000},
    }
    rows = dict(found(**config).rows())  # type: ignore[arg-type]
    assert rows["command"] == "'/run it' -x"
    assert rows["ports"] == "53/udp 80 8080/tcp"
    assert rows["volumes"] == "/data /etc/app"
    assert rows["user"] == "app"
    assert rows["health check"] == "/check every 5 s"
    text = spec(**config)  # type: ignore[arg-type]
    for comment in ("# Ports: 53/udp 80 8080/tcp", "# Data: /data /etc/app", "# User: app", "#restart_unhealthy: true"):
        assert comment in text.splitlines()
    ref = parse_image_ref("nginx", Path("/"))
    oci = OciConfig(**config)  # type: ignore[arg-type]
    assert launch(expects.service("web", ref, expects.expectations(ref, oci), oci, "tank"), "nginx", Where("tank")) == [
        "lxc storage volume create tank web-data",
        "lxc storage volume create tank web-etc-app",
        "lxc init nginx web",
        "lxc storage volume attach tank web-data web web-data /data",
        "lxc storage volume attach tank web-etc-app web web-etc-app /etc/app",
        "lxc config device add web port-53-udp proxy listen=udp:0.0.0.0:53 connect=udp:127.0.0.1:53",
        "lxc config device add web port-80 proxy listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80",
        "lxc config device add web port-8080 proxy listen=tcp:0.0.0.0:8080 connect=tcp:127.0.0.1:8080",
        "lxc start web",
    ]


def test_a_hostile_image_writes_no_lines_of_its_own() -> None:
    evil = "x\nimage: evil\n\x1b[2J"
    config: dict[str, object] = {
        "entrypoint": ("/init", evil),
        "exposed_ports": (evil, *(f"{port}/tcp" for port in range(1, 4000))),
        "volumes": (f"/{evil}", evil),
        "user": evil,
        "env": ((evil, ""),),
        "healthcheck": {"Test": ["CMD", evil]},
    }
    text = spec(**config)  # type: ignore[arg-type]
    assert yamlfile.parse(text, "x").value == {"image": "docker.io/library/nginx:latest", "disable_supervisor": True}
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 300
    rows = found(**config).rows()  # type: ignore[arg-type]
    assert all("\n" not in value and "\x1b" not in value for _, value in rows)
