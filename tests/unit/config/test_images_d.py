"""The specs we ship: each is what a user would start from."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lxdocker.config.resources import resource
from lxdocker.config.spec import SCHEMA, load_files, load_specs
from lxdocker.values import RegistryRef

IMAGES_D = Path(__file__).parents[3] / "images.d"
FILES = sorted(IMAGES_D.iterdir())
COMMAND = "#     "
# Their /init is s6-overlay's, which refuses to be anything but PID 1.
WANT_PID_1 = {"home-assistant", "jellyfin", "nginx-proxy-manager", "sonarr"}


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_each_is_valid_short_and_explained(path: Path) -> None:
    (spec,) = load_files([path])
    assert isinstance(spec.image, RegistryRef)
    assert spec.image.tag is not None, "a digest would never be brought up to date"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(COMMAND) and line != "#"]
    assert len(lines) <= 6
    assert re.match(r"# Ports? \d+\b", lines[0]), "the first line says on which port it answers"
    assert all(line.startswith("# ") or ": " in line for line in lines)
    assert spec.disable_supervisor == "auto"


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_each_says_how_to_launch_it(path: Path) -> None:
    """With commands that fit together: from the image, with every volume that they made, all for one instance."""
    lines = [line.removeprefix(COMMAND) for line in path.read_text().splitlines() if line.startswith(COMMAND)]
    words = [shlex.split(line) for line in lines]
    created = {command[5] for command in words if command[:5] == ["lxc", "storage", "volume", "create", "default"]}
    ((image, instance),) = [command[2:4] for command in words if command[1] in ("init", "launch")]
    assert image == path.stem
    attached = set()
    for command in words:
        match command[1:]:
            case ["storage", "volume", "create", "default", _]:
                pass
            case ["init" | "launch", _, _, *options]:
                assert set(options[::2]) <= {"-c"}
                assert all(re.fullmatch(r"environment\.\w+=.+", option) for option in options[1::2])
            case ["config", "device", "add", name, _, "disk" | "nic" | "proxy", *options]:
                assert name == instance
                attached |= {one.removeprefix("source=") for one in options if re.match("source=[^/]", one)}
            case ["start", name]:
                assert name == instance
            case _:
                pytest.fail(" ".join(command))
    assert attached == created
    assert (words[-1][1] == "start") == any(command[1] == "init" for command in words)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_an_editor_finds_the_schema(path: Path) -> None:
    """In a checkout; a copy elsewhere has no schema beside it."""
    (named,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", path.read_text(), re.MULTILINE)
    assert (path.parent / named).samefile(resource("schema", SCHEMA))


def test_they_go_together() -> None:
    specs = load_specs(IMAGES_D)
    assert len(specs) == len(FILES) >= 12
    names = {spec.name.value for spec in specs}
    assert names >= {"nginx", "redis", "postgres", "mariadb", "grafana", "gitea", "nextcloud", *WANT_PID_1}
    assert len({str(spec.image) for spec in specs}) == len(specs)
