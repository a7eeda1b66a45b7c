"""inspect and new, as they are called; add and convert are in test_start.py."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import schemas
from tests.registry_server import Images, make_image, make_index, registry
from tests.unit.cli.test_commands import Program, lxdocker, place
from tests.unit.cli.test_start import ARCH, on_disk

__all__ = ["lxdocker", "place"]  # fixtures

CONFIG: dict[str, Any] = {
    "Entrypoint": ["/app"],
    "Cmd": ["-x"],
    "User": "app",
    "Env": ["PATH=/bin", "TOKEN="],
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/data": {}, "/var/run/x": {}},
    "Healthcheck": {"Test": ["CMD", "/check"], "Interval": 5_000_000_000},
    "StopSignal": "SIGQUIT",
    "Labels": {"org.opencontainers.image.version": "1.2", "org.opencontainers.image.source": "https://example.org"},
}


# ---- inspect


def test_inspect_shows_an_image_and_warns(place: Path, lxdocker: Program) -> None:
    ref = on_disk(place, **CONFIG)
    done = lxdocker("inspect", ref)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for line in (
        f"image          {ref}",
        "created        2024-01-02",
        "version        1.2",
        "source         https://example.org",
        f"platforms      linux/{ARCH}",
        "entrypoint     /app",
        "cmd            -x",
        "PID 1          lxdocker's supervisor",
        "user           app",
        "working dir    /",
        "environment    PATH=/bin",
        "               TOKEN=",
        "ports          80/tcp",
        "volumes        /data",
        "health check   /check",
        "               every 5 s, at most 30 s each, unhealthy after 3 failures",
        "stop signal    SIGQUIT",
        "               org.opencontainers.image.version=1.2",
        "warning: it needs values for TOKEN",
    ):
        assert line in lines
    assert any(line.startswith("size ") and line.endswith("B compressed, 1 layer") for line in lines)
    assert any(line.startswith("layers         sha256:") for line in lines)
    assert any(line.startswith("note: it runs as app and listens below 1024") for line in lines)
    (at,) = [number for number, line in enumerate(lines) if line.startswith("warning: its volume /var/run/x")]
    assert lines[at + 1].startswith("  -> ")
    assert not any(line.endswith("(spec)") for line in lines)


def test_inspect_of_a_spec_marks_what_is_the_specs(place: Path, lxdocker: Program) -> None:
    ref = on_disk(place, **CONFIG)
    (place / "images.d/web.yaml").write_text(
        f"image: {ref}\nuser: root\nenvironment: {{TOKEN: t}}\nvolumes: []\nhealthcheck: {{interval: 3s}}\n"
        "labels: {a: b}\nstop_signal: INT\nrestart_unhealthy: true\ntmpfs: {/x: 1m}\nfiles: {/x: {content: y}}\n"
    )
    (place / "images.d/db.yaml").write_text("imgae: x\n")  # whose mistakes don't matter
    done = lxdocker("inspect", "web")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for line in (
        f"spec           {place}/images.d/web.yaml",
        "cmd            -x",
        "user           root (spec)",
        "environment    PATH=/bin",
        "               TOKEN=t (spec)",
        "volumes        none (spec)",
        "               every 3 s, at most 30 s each, unhealthy after 3 failures (spec: interval)",
        "labels         a=b (spec)",
        "stop signal    INT (spec)",
        "restart unhealthy true (spec)",
        "tmpfs          /x 1m (spec)",
        "changed, too   files (spec)",
    ):
        assert line in lines
    assert "warning" not in done.stdout
    assert lxdocker("inspect", "images.d/web.yaml").stdout == done.stdout
    document = schemas.check(json.loads(lxdocker("inspect", "web", "--json").stdout), "inspect")
    assert (document["user"], document["environment"]["TOKEN"], document["volumes"]) == ("root", "t", [])
    assert document["spec"]["changes"] == ["files"]
    assert document["warnings"] == []
    assert (document["behaviour"]["tmpfs"], document["behaviour"]["restart"]) == ({"/x": "1m"}, "no")
    assert lxdocker("inspect", "db").returncode == 2


@pytest.mark.skipif(not shutil.which("docker-registry"), reason="needs docker-registry")
def test_inspect_asks_a_registry_as_little_as_possible(place: Path, lxdocker: Program) -> None:
    with registry(place / "registry") as server:
        images = Images(server.address)
        image = make_image(arch=ARCH, **CONFIG)
        images.push("app", "x", image)
        images.push_manifest("app", "1", make_index((image.manifest, {"os": "linux", "architecture": ARCH})))
        count = len(server.requests(6))
        done = lxdocker("inspect", f"{server.address}/app:1", "--json")
        methods = [request.method for request in server.requests(count + 4)[count:]]
        again = lxdocker("inspect", f"{server.address}/app:1", "--json")
        assert [request.method for request in server.requests(count + 5)[count + 4 :]] == ["HEAD"]
    document = schemas.check(json.loads(done.stdout), "inspect")
    assert methods == ["HEAD", "GET", "GET", "GET"]
    assert again == done  # with its platforms
    assert document["platforms"] == [f"linux/{ARCH}"]
    assert document["size"] == len(image.layers[0].content)
    assert [layer["digest"] for layer in document["layers"]] == [image.layers[0].digest]
    assert {one["kind"] for one in document["warnings"]} == {"low-port", "volume", "variables"}


@pytest.mark.parametrize(
    ("argument", "status", "words"),
    [
        ("nginx latest", 2, "not an image"),
        ("oci:/nowhere", 1, "/nowhere"),
        ("127.0.0.1:1/x", 1, "cannot reach 127.0.0.1:1"),
        ("nowhere/web.yaml", 2, "no such file or folder"),
    ],
)
def test_inspect_says_what_is_wrong(lxdocker: Program, argument: str, status: int, words: str) -> None:
    done = lxdocker("inspect", argument)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "  -> " in done.stderr


def test_a_name_that_is_neither_spec_nor_image(place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nothing is asked of Docker Hub
    monkeypatch.setattr("lxdocker.source.registry._PAUSES", ())
    assert f"there is no spec wbe in {place}/images.d, either" in lxdocker("inspect", "wbe").stderr
    assert "there is no spec" not in lxdocker("inspect", "library/wbe").stderr


def test_text_of_a_hostile_image_stays_on_its_line(place: Path, lxdocker: Program) -> None:
    evil = "x\n\x1b[2Jy" * 200
    ref = on_disk(
        place,
        Entrypoint=[evil],
        User=evil[:100],
        Env=[f"A={evil}", f"{evil}="],
        Volumes={f"/run/{evil}": {}},
        ExposedPorts={evil: {}},
        Labels={evil: evil, "org.opencontainers.image.version": evil},
    )
    done = lxdocker("inspect", ref)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert all(line[:1].isalpha() or line.startswith((" " * 15, "  -> ")) for line in done.stdout.splitlines())
    assert "\x1b" not in lxdocker("inspect", ref, "--json").stdout


# ---- new


def test_new_writes_a_spec_under_the_name(place: Path, lxdocker: Program) -> None:
    ref = on_disk(place, **CONFIG)
    done = lxdocker("new", "shop", ref)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"wrote {place}/images.d/shop.yaml"
    assert "warning: it needs values for TOKEN" in lines
    assert "set TOKEN in the shell that runs these commands:" in lines
    assert '  lxc init shop shop -c environment.TOKEN="$TOKEN"' in lines
    text = (place / "images.d/shop.yaml").read_text()
    assert text.startswith("# shop: written by 'lxdocker new'\n# Runs: /app -x\n# Ports: 80/tcp\n")
    assert yaml.safe_load(text) == {"image": ref}
    assert lxdocker("validate").stdout == "3 specs are valid\n"


def test_add_is_new_with_the_images_name(place: Path, lxdocker: Program) -> None:
    ref = on_disk(place, **CONFIG)
    added, made = lxdocker("add", ref, "--dry-run", "--json"), lxdocker("new", "app", ref, "--dry-run", "--json")
    assert added == made
    schemas.check(json.loads(added.stdout), "add")
    assert [one["kind"] for one in json.loads(added.stdout)["warnings"]] == ["low-port", "volume", "variables"]


def test_new_overwrites_nothing_and_asks_nobody_first(place: Path, lxdocker: Program) -> None:
    done = lxdocker("new", "web", "oci:/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: spec exists already: web"
    assert (place / "images.d/web.yaml").read_text() == "image: web:1\n"


def test_new_from_a_command(place: Path, lxdocker: Program) -> None:
    ref = on_disk(place, **CONFIG)
    done = lxdocker("new", "shop", "--from-run", f"docker run -p 8080:80 -u 33 -e TOKEN=t -e TZ=UTC {ref} --fast")
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load((place / "images.d/shop.yaml").read_text()) == {
        "image": ref,
        "environment": {"TZ": "UTC"},
        "cmd": ["--fast"],
        "user": "33",
    }
    lines = done.stdout.splitlines()
    assert "  command          /app --fast" in lines
    assert "  user             33" in lines
    assert "  variables to set none known" in lines  # the instance has it
    assert "to launch it:" in lines
    assert "  lxc init shop shop -c environment.TOKEN=t" in lines
    assert "  lxc config device add shop port-8080 proxy listen=tcp:0.0.0.0:8080 connect=tcp:127.0.0.1:80" in lines
    assert "lost" not in done.stdout


def test_new_fails_if_something_essential_is_lost(place: Path, lxdocker: Program) -> None:
    ref = on_disk(place)
    done = lxdocker("new", "shop", "--from-run", f"docker run --privileged --log-driver x {ref}")
    assert done.returncode == 1
    assert (place / "images.d/shop.yaml").exists()
    lines = done.stdout.splitlines()
    assert lines.index("lost, and essential:") < lines.index("lost:")
    assert any(line.startswith("  shop: --privileged: ") for line in lines)


def test_new_from_a_service_of_a_compose_file(place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk(place / "stack", **CONFIG)
    text = (
        "services:\n"
        "  one: {image: 'oci:app:1', healthcheck: {test: [NONE]}, environment: {TOKEN: '${T}'}, working_dir: /w}\n"
        "  two: {image: nginx}\n"
    )
    (place / "stack/compose.yaml").write_text(text)
    (place / "stack/.env").write_text("T=t\n")
    done = lxdocker("new", "shop", "--from-compose", "stack/compose.yaml", "one")
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load((place / "images.d/shop.yaml").read_text()) == {
        "image": f"oci:{place}/stack/app:1",
        "working_dir": "/w",
        "healthcheck": "none",
    }
    assert "  lxc init shop one -c environment.TOKEN=t" in done.stdout.splitlines()
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(f"services: {{a: {{image: 'oci:{place}/stack/app:1'}}}}".encode()))
    )
    assert lxdocker("new", "other", "--from-compose", "-").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "brief"),
    [
        (["x"], "no image for the new spec"),
        (["a/b", "nginx"], "not a name for an image"),
        (["x", "nginx latest"], "not an image"),
        (["x", "nginx", "--from-run", "docker run nginx"], "several images for the new spec"),
        (["x", "--from-run", "docker run nginx", "--from-compose", "c.yaml"], "several images for the new spec"),
        (["x", "--from-run", "kubectl run x"], "not a docker run command"),
        (["x", "--from-run", ""], "cannot read "),
        (["x", "--from-run", "docker run Nginx:::"], "not an image"),
        (["x", "--from-compose", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["x", "--from-compose", "compose.yaml"], "no service named"),
        (["x", "--from-compose", "compose.yaml", "four"], "no such service: four"),
    ],
)
def test_new_says_what_is_wrong(place: Path, lxdocker: Program, arguments: list[str], brief: str) -> None:
    (place / "compose.yaml").write_text("services: {a: {image: a}, b: {image: b}}\n")
    done = lxdocker("new", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == f"error: {brief}"
    assert "  -> " in done.stderr
    assert sorted(path.name for path in (place / "images.d").iterdir()) == ["db.yaml", "web.yaml"]
