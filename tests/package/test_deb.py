"""The Debian package: built, installed in bare Debians, used there, upgraded and purged."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxdocker import __version__
from tests.lxd.rig import LXDOCKER, World, end_of_builders, tiny
from tests.package.bare import Bare

# Every module that a command loads, so that none of the libraries is missing; and where the libraries are.
IMPORTS = """
import importlib, pathlib, pkgutil, runpy, sys
sys.argv = ["lxdocker", "--help"]
try:
    runpy.run_path("/usr/bin/lxdocker")
except SystemExit:
    pass
import lxdocker
for module in pkgutil.walk_packages(lxdocker.__path__, "lxdocker."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in ("lxdocker", "pylxd", "jsonschema", "cryptography", "typer", "aiohttp", "yaml"):
    print(name, pathlib.Path(importlib.import_module(name).__file__).parent.parent)
"""

# What `lxdocker appliance create` takes along of this installation to one of the same Debian.
BUNDLE = """
import io, platform, sys, tarfile
sys.path[:0] = [f"/usr/lib/lxdocker/python3.{sys.version_info.minor}", "/usr/lib/lxdocker/python3"]
from lxdocker.appliance import bundle
tag = f"3.{sys.version_info.minor} {platform.machine()}-{platform.libc_ver()[0]}"
with tarfile.open(fileobj=io.BytesIO(bundle.make(tag))) as archive:
    print(*{"/".join(name.split("/")[:2]) for name in archive.getnames()})
"""

# Whether `lxdocker init` need not write units.
UNITS = """
import sys
from pathlib import Path
sys.path[:0] = ["/usr/lib/lxdocker/python3"]
from lxdocker.config import settings, units
print(units.packaged(units.files(Path("/usr/bin/lxdocker"), settings.load({}, {"XDG_DATA_HOME": "/var/lib"}))))
"""


def field(package: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "-f", package, name], capture_output=True, text=True, check=True).stdout.strip()


def contents(package: Path) -> dict[str, str]:
    """Path -> its mode and owner."""
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout
    lines = (line.split(maxsplit=5) for line in listed.splitlines())
    return {path.partition(" -> ")[0].lstrip("."): f"{mode} {owner}" for mode, owner, _, _, _, path in lines}


def members(package: Path) -> list[tuple[Any, ...]]:
    """What a package installs, in the order that it has."""
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [
            (one.name, one.mode, one.mtime, one.uid, one.gid, one.linkname, content and content.read())
            for one, content in ((one, archive.extractfile(one) if one.isreg() else None) for one in archive)
        ]


def test_the_same_commit_makes_the_same_package(package: Path, older: Path) -> None:
    """The older one is of this commit, too; it has another version."""
    assert package.name == f"lxdocker_{__version__}_{field(package, 'Architecture')}.deb"
    pairs = list(zip(members(package), members(older), strict=True))
    assert [one[0] for one, other in pairs if one != other] == ["./usr/share/doc/lxdocker/changelog.gz"]


def test_the_libraries_are_as_their_authors_published_them(package: Path) -> None:
    """Nothing of the machine that builds the package gets into it."""
    files = {one[0]: one[-1] for one in members(package)}
    records = {name: content for name, content in files.items() if name.endswith(".dist-info/RECORD")}
    assert len(records) > 30
    for record, content in records.items():
        folder = record.rsplit("/", 2)[0]
        for name, digest, _ in csv.reader(content.decode().splitlines()):
            if digest:
                found = base64.urlsafe_b64encode(hashlib.sha256(files[f"{folder}/{name}"]).digest())
                assert digest == f"sha256={found.decode().rstrip('=')}", name


def test_it_has_what_a_package_has(package: Path) -> None:
    found = contents(package)
    for path in (
        "/usr/lib/systemd/system/lxdocker-sync.timer",
        "/usr/lib/sysusers.d/lxdocker.conf",
        "/usr/lib/tmpfiles.d/lxdocker.conf",
        "/usr/share/bash-completion/completions/lxdocker",
        "/usr/share/zsh/vendor-completions/_lxdocker",
        "/usr/share/fish/vendor_completions.d/lxdocker.fish",
        "/usr/share/man/man1/lxdocker-sync.1.gz",
        "/usr/share/doc/lxdocker/copyright",
        "/usr/share/doc/lxdocker/images.d/nginx.yaml",
    ):
        assert found[path] == "-rw-r--r-- root/root"
    assert found["/usr/bin/lxdocker"] == "-rwxr-xr-x root/root"
    assert not [path for path in found if "__pycache__" in path or path.startswith("/usr/local")]


@pytest.fixture
def world(tmp_path: Path, registry: str, builder_image: str) -> Iterator[World]:
    """An empty world, in a folder that the bare roots have, too."""
    made = World(tmp_path / "world", registry)
    try:
        yield made
    finally:
        made.close()


def sync(bare: Bare, world: World) -> dict[str, Any]:
    """The image ``app``, as the installed program has brought it up to date."""
    arguments = world.arguments(["sync", "--json"])[len(LXDOCKER) :]
    inherited = {"LXD_DIR": os.environ["LXD_DIR"], "LXDOCKER_CONFIG": world.environment["LXDOCKER_CONFIG"]}
    document = json.loads(bare.run("lxdocker", *arguments, environment=inherited))
    end_of_builders()
    (image,) = document["images"]
    return dict(image)


def test_installed_used_upgraded_and_purged(bare: Bare, package: Path, older: Path, world: World) -> None:
    has_systemd = bare.attempt("systemctl", "--version").returncode == 0
    bare.run("cp", "/etc/hostname", "/etc/before")  # a file of somebody else's
    before = bare.files()

    # Installed: complete, and of Debian's own libraries as far as they are new enough.
    for path in (older, package):
        (world.folder / path.name).write_bytes(path.read_bytes())
    bare.apt("install", str(world.folder / older.name))
    assert bare.run("lxdocker", "--version").startswith(f"lxdocker {__version__}")
    where = dict(line.split() for line in bare.run("python3", "-IBc", IMPORTS).splitlines()[-7:])
    private, own = "/usr/lib/lxdocker/python3", "/usr/lib/lxdocker/python3.11"
    debian = "/usr/lib/python3/dist-packages"
    others = own if bare.run("python3", "--version").startswith("Python 3.11.") else debian
    assert where == {
        name: private if name in ("lxdocker", "pylxd") else others
        for name in ("lxdocker", "pylxd", "jsonschema", "cryptography", "typer", "aiohttp", "yaml")
    }
    assert "21 specs are valid" in bare.run("lxdocker", "validate", "--specs", "/usr/share/doc/lxdocker/images.d")
    serves = bare.attempt("getent", "passwd", "lxdocker-serve").returncode == 0
    assert serves == has_systemd
    if has_systemd:
        for unit in ("lxdocker-sync.timer", "lxdocker-sync.service", "lxdocker-serve.service"):
            bare.run("systemd-analyze", "verify", "--man=no", f"/usr/lib/systemd/system/{unit}")
        assert bare.run("python3", "-IBc", UNITS) == "True\n"

    # An appliance gets this installation's own libraries, and Debian's from Debian.
    taken = bare.run("python3", "-IBc", BUNDLE).split()
    assert {"lib/lxdocker", "lib/pylxd", "bin/lxdocker"} <= set(taken)
    assert ("lib/aiohttp" in taken) == (others == own)

    # Used.
    world.wants("app", tiny("app"))
    built = sync(bare, world)
    assert built["outcome"] == "built"
    world.holds("app", built["fingerprint"])

    # Upgraded: what people wrote stays.
    bare.run(
        "sh", "-c", "echo 'jobs: 3' >/etc/lxdocker/config.yaml; echo 'image: nginx' >/etc/lxdocker/images.d/a.yaml"
    )
    bare.apt("install", str(world.folder / package.name))
    assert (
        bare.run("dpkg-query", "-W", "-f", "${Version} ${Status}", "lxdocker") == f"{__version__} install ok installed"
    )
    kept = sync(bare, world)
    assert (kept["outcome"], kept["fingerprint"]) == ("unchanged", built["fingerprint"])
    assert bare.run("cat", "/etc/lxdocker/config.yaml") == "jobs: 3\n"
    # As when the Debian around it gets another Python.
    bare.run("/usr/share/python3/runtime.d/lxdocker.rtupdate", "rtupdate", "python3.11", "python3.13")

    # Removed: what people wrote and what was built stays, of the program nothing.
    if has_systemd:
        bare.run("lxdocker", "units", "--install")
    bare.apt("remove", "lxdocker")
    assert bare.run("cat", "/etc/lxdocker/images.d/a.yaml") == "image: nginx\n"
    assert not [path for path in bare.files() if path.startswith("/usr/") and path not in before]
    assert bare.attempt("lxdocker").returncode == 127

    # Purged without a trace.
    bare.apt("purge", "lxdocker")
    assert bare.files() == before
    assert bare.attempt("getent", "group", "lxdocker-serve").returncode != 0
