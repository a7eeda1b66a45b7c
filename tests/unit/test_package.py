"""The wheel and the source distribution: complete, and enough for a host that has nothing else of lxdocker."""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from lxdocker import __version__

ROOT = Path(__file__).parents[2]
DATA = f"lxdocker-{__version__}.data/data/share/doc/lxdocker"


def build(source: Path, target: str, folder: Path) -> Path:
    """Without pip, which would fetch what is installed here already."""
    argv = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(argv, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob(f"*.{'whl' if target == 'wheel' else 'tar.gz'}")
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, sdist: Path) -> Path:
    """Built from the source distribution, as by distributions of Linux."""
    folder = tmp_path_factory.mktemp("source")
    subprocess.run(["tar", "-xf", sdist, "-C", folder], check=True, timeout=120)
    return build(folder / sdist.name.removesuffix(".tar.gz"), "wheel", tmp_path_factory.mktemp("wheel"))


def files(*folders: str) -> set[str]:
    """The project's files in some of its folders."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


def test_the_source_distribution_has_everything(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = files("lxdocker", "schema", "profiles", "images.d", "docs", "scripts", "tests")
    wanted |= {path.name for path in ROOT.glob("*.md")} | {"LICENSE", "pyproject.toml", "tox.ini"}
    assert wanted - names == set()


def test_the_wheel_has_the_program_and_its_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert files("lxdocker") | {f"lxdocker/{name}" for name in files("schema", "profiles")} <= names
    assert not {name for name in names if name.startswith(("tests/", "scripts/")) or name.endswith(".pyc")}


def test_the_wheel_has_what_the_readme_points_to_and_they_to_each_other(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    assert {f"{DATA}/{name}" for name in files("docs", "images.d")} <= names
    pages = ["README.md", *(name for name in files("docs") if name.endswith(".md"))]
    links = {
        posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
        for page in pages
        for link in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", archive.read(f"{DATA}/{page}").decode())
    }
    assert "images.d" in links
    missing = {link for link in links if not any(f"{name}/".startswith(f"{DATA}/{link}/") for name in names)}
    assert {link for link in missing if not link.startswith("lxdocker/")} == set()  # the source is elsewhere


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A virtual environment with the wheel, and for the libraries the folder of those that are here."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return folder


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [installed / "bin/lxdocker", *arguments],
        cwd=installed,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_man_finds_the_page_of_an_installed_command(installed: Path) -> None:
    environ = {"PATH": f"{installed}/bin:/usr/bin:/bin", "HOME": str(installed), "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    for page, name in (("lxdocker", "lxdocker"), ("lxdocker-sync", "lxdocker sync"), ("lxdocker-publish-list", "list")):
        done = subprocess.run(["man", page], env=environ, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.lstrip().startswith(f"{page.upper()}(1)")
        assert name in done.stdout


def test_the_installed_program_finds_its_own_files(installed: Path) -> None:
    examples = installed / "share/doc/lxdocker/images.d"
    done = run(installed, "validate", "--specs", str(examples))  # needs the schema
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(list(examples.glob('*.yaml')))} specs are valid\n"
    done = run(installed, "units")  # needs the units
    assert done.returncode == 0, done.stderr
    assert f"ExecStart={installed}/bin/lxdocker sync -q" in done.stdout
    script = (
        "import lxdocker.config.resources as found; print(found.__file__, found.resource('profiles', 'builder.yaml'))"
    )
    argv = [str(installed / "bin/python"), "-c", script]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    shown = subprocess.run(argv, env=environ, cwd="/", capture_output=True, text=True, check=True, timeout=60).stdout
    for path in map(Path, shown.split()):
        assert path.is_relative_to(installed)
    assert isinstance(yaml.safe_load(Path(shown.split()[1]).read_text()), dict)
