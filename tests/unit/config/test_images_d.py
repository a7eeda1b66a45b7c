"""The specs we ship: each is what a user would start from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lxdocker.config.resources import resource
from lxdocker.config.spec import SCHEMA, load_files, load_specs
from lxdocker.values import RegistryRef

IMAGES_D = Path(__file__).parents[3] / "images.d"
FILES = sorted(IMAGES_D.iterdir())
# Their /init is s6-overlay's, which refuses to be anything but PID 1.
WANT_PID_1 = {"home-assistant", "jellyfin", "nginx-proxy-manager", "sonarr"}


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_each_is_valid_short_and_explained(path: Path) -> None:
    (spec,) = load_files([path])
    assert isinstance(spec.image, RegistryRef)
    assert spec.image.tag is not None, "a digest would never be brought up to date"
    lines = path.read_text().splitlines()
    assert len(lines) <= 6
    assert re.match(r"# Ports? \d+\b", lines[0]), "the first line says on which port it answers"
    assert all(line.startswith("# ") or ": " in line for line in lines)
    assert spec.disable_supervisor == "auto"


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
