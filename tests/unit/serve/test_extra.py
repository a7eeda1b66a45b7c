"""What only `lxdocker serve` needs is an extra; without it, everything else works."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lxdocker

PACKAGE = Path(lxdocker.__file__).parent
EXTRA = ("aiohttp", "bcrypt", "prometheus_client")
# As if these were not installed.
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({EXTRA!r}))\n"
# The server's own.
SERVER = {f"lxdocker.serve.{name}" for name in ("access", "metrics", "server", "site", "worker")}


def run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def modules() -> set[str]:
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")]
    return {".".join(path.parts).removesuffix(".__init__") for path in paths} - {"lxdocker.__main__"}


def test_the_extra_is_what_is_tried_here() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    named = {package.partition(">=")[0].replace("-", "_") for package in project["optional-dependencies"]["serve"]}
    assert named == set(EXTRA)


def test_nothing_but_the_server_needs_it() -> None:
    script = f"""
import importlib
for name in {sorted(modules() - SERVER)!r}:
    importlib.import_module(name)
"""
    done = run(script)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(SERVER))
def test_the_server_needs_it(name: str) -> None:
    assert "ModuleNotFoundError" in run(f"import {name}").stderr


def test_serve_says_what_to_install(tmp_path: Path) -> None:
    done = run(f"import sys; sys.argv[1:] = ['serve', '--tree', {str(tmp_path)!r}]\n"
               "from lxdocker.cli.main import main; main()")  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "lxdocker serve needs packages that are not installed" in done.stderr
    assert "pip install 'lxdocker[serve]'" in done.stderr
