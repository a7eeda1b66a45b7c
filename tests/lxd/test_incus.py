"""An Incus host, as far as its client goes: it finds, trusts, reads and downloads what lxdocker publishes for LXD."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lxdocker.values import Arch
from tests.lxd.rig import COMMAND_SECONDS, LXDOCKER, World
from tests.serve.rig import Served


class Host:
    """``incus`` of a user who has no configuration yet, on a host without ``lxc``."""

    def __init__(self, folder: Path) -> None:
        self.home = folder
        self._environment = {"HOME": str(folder), "PATH": os.environ["LXDOCKER_TEST_INCUS"], "LC_ALL": "C.UTF-8"}
        folder.mkdir()

    def run(self, *command: str, within: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self._environment,
            cwd=within,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def __call__(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def images(self, remote: str) -> dict[str, list[str]]:
        """Fingerprint -> aliases."""
        found = json.loads(self("incus", "image", "list", f"{remote}:", "--format", "json"))
        return {image["fingerprint"]: sorted(alias["name"] for alias in image["aliases"]) for image in found}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.mark.any_lxd
def test_incus_joins_by_hand_and_downloads(published: World, served: Served, host: Host) -> None:
    host("incus", "remote", "add", "shop", served.url, "--protocol", "simplestreams")
    refused = host.run("incus", "image", "list", "shop:")
    assert refused.returncode != 0
    assert "certificate" in refused.stderr
    folder = host.home / ".config/incus/servercerts"
    folder.mkdir(parents=True)
    (folder / "shop.crt").write_bytes(served.certificate.read_bytes())
    (fingerprint,) = published.published_fingerprints("nginx")
    assert host.images("shop") == {fingerprint: ["nginx", f"nginx/{Arch.host().debian}"]}
    host("incus", "image", "export", "shop:nginx", str(host.home / "nginx"))
    downloaded = [host.home / "nginx", host.home / "nginx.root"]
    assert hashlib.sha256(b"".join(path.read_bytes() for path in downloaded)).hexdigest() == fingerprint


@pytest.mark.any_lxd
def test_lxdocker_joins_incus(served: Served, host: Host) -> None:
    done = json.loads(host(*LXDOCKER, "remote", "add", served.url, "--yes", "--json"))
    assert done == {
        "schema": 1,
        "name": "lxdocker",
        "url": served.url,
        "client": "incus",
        "images": 1,
        "certificate": str(host.home / ".config/incus/servercerts/lxdocker.crt"),
        "registry": False,
    }
    assert len(host.images("lxdocker")) == 1


@pytest.mark.any_lxd
def test_incus_own_verification_finds_nothing(published: World, host: Host, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(published.tree, tree)
    assert host.run("incus-simplestreams", "verify", within=tree).returncode == 0
    rootfs = next(tree.glob("images/*/*/*/rootfs.squashfs"))
    rootfs.write_bytes(rootfs.read_bytes()[:-1] + b"x")
    assert host.run("incus-simplestreams", "verify", within=tree).returncode != 0  # it does look
