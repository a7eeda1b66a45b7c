"""The Debian package asks for what pyproject.toml does, and its scripts are what anybody can run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
# Debian's name of a library, where it is not python3- and its own.
DEBIAN = {"pyyaml": "python3-yaml", "pylxd": ""}


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(one) for one in (*project["dependencies"], *project["optional-dependencies"]["serve"])]


def depends() -> dict[str, str]:
    """Debian's name of each library -> its lowest version, where Python is not Debian 12's."""
    text = (PACKAGING / "control").read_text()
    return dict(re.findall(r"python3 \(<< 3\.12\) \| (python3-[a-z0-9-]+) \(>= ([0-9.]+)\)", text))


def pinned(*lists: str) -> dict[str, str]:
    lines = [line for name in lists for line in (PACKAGING / name).read_text().splitlines() if line[0] != "#"]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("requirement", required(), ids=lambda one: one.name)
def test_each_library_comes_from_somewhere(requirement: Requirement) -> None:
    """On Debian 12 with the package; on later ones from Debian, or else with the package, too."""
    name = canonicalize_name(requirement.name)
    assert requirement.specifier.contains(pinned("python3.txt", "python3.11.txt")[name])
    if name in pinned("python3.txt"):
        return
    lowest = next(str(one.version) for one in requirement.specifier if one.operator == ">=")
    assert depends()[DEBIAN.get(name, f"python3-{name}")] == lowest


def test_the_libraries_for_python_311_are_complete() -> None:
    """By what the ones that are installed here, which are as new, need in their turn."""
    from importlib import metadata

    found = pinned("python3.txt", "python3.11.txt")
    environment = {"python_version": "3.11", "python_full_version": "3.11.2", "extra": ""}
    for name in found:
        try:
            needs = [Requirement(one) for one in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue  # not on a newer Python
        for one in needs:
            if one.marker is None or one.marker.evaluate(environment):
                assert canonicalize_name(one.name) in found, f"{name} needs {one}"


def test_no_library_is_twice_in_the_package() -> None:
    assert not pinned("python3.txt").keys() & pinned("python3.11.txt").keys()


def test_the_collection_has_the_programs_version() -> None:
    import yaml

    from lxdocker import __version__

    assert yaml.safe_load((ROOT / "ansible/galaxy.yml").read_text())["version"] == __version__
