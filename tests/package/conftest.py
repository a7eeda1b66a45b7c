"""Fixtures for the tests of the Debian package: built once, and tried in bare roots of the Debians that it is for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lxd.conftest import builder_image, parts, registry  # noqa: F401 - fixtures
from tests.package.bare import Bare

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("LXDOCKER_TEST_CACHE", "/var/cache/lxdocker-dev"))
SUITES = ("bookworm", "trixie")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lxd)
            item.add_marker(pytest.mark.any_lxd)


def script(name: str, *arguments: object, **environment: str) -> Path:
    """Runs one that prints the path of what it has made."""
    argv = [str(ROOT / "scripts" / name), *map(str, arguments)]
    environ = {**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "none", **environment}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


def build(folder: Path, *options: str) -> Path:
    return script("build-deb", "--wheels", CACHE / "wheels", *options, folder)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout."""
    return build(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that this one is the successor of."""
    return build(tmp_path_factory.mktemp("older"), "--version", "0.0.1")


@pytest.fixture(params=SUITES)
def bare(request: pytest.FixtureRequest, package: Path, tmp_path: Path) -> Iterator[Bare]:
    """A root that has what the package depends on. It shares this machine's network, the LXD's folder and tmp_path."""
    root = script("bare-root", "--dir", CACHE / "bare", request.param, package)
    with Bare(root, [Path(os.environ["LXD_DIR"]), tmp_path]) as found:
        yield found
