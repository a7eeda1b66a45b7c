"""The builder's root filesystem is collected from whatever system has the tools; here from this host's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lxdocker.builder.image import COLLECT, _parse_versions
from tests.chroots import BUSYBOX, SECONDS, Root, needs_namespaces

TOOLS = ("skopeo", "umoci", "mksquashfs", "unsquashfs", "zstd", "perl", "gosu", "getfattr", "setfattr")
pytestmark = [
    needs_namespaces,
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"this host has not all of {', '.join(TOOLS)}"),
    pytest.mark.skipif(not Path("/usr/share/ca-certificates/mozilla").is_dir(), reason="no CA certificates"),
]
INIT = b"#!/bin/busybox sh\necho the builder\n"


def collect(out: Path, setup: str = "true") -> subprocess.CompletedProcess[bytes]:
    """Runs the script on this host; ``setup`` may change what it finds, in a mount namespace of its own."""
    script = f'set -e; {setup}; exec "$0" sh -c "$1" collect "$2"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(BUSYBOX), COLLECT.read_text(), str(out)],
        input=INIT,
        capture_output=True,
        timeout=4 * SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("collect") / "out"
    done = collect(out)
    assert done.returncode == 0, done.stderr.decode()
    return out


@pytest.fixture(scope="module")
def root(collected: Path) -> Path:
    """The squashfs, unpacked."""
    target = collected.parent / "root"
    subprocess.run(
        ["unsquashfs", "-quiet", "-no-progress", "-dest", str(target), str(collected / "rootfs.squashfs")],
        check=True,
        capture_output=True,
        timeout=SECONDS,
    )
    return target


def test_only_the_image_and_its_versions_are_left(collected: Path) -> None:
    assert sorted(path.name for path in collected.iterdir()) == ["rootfs.squashfs", "versions"]


def test_versions_are_told(collected: Path) -> None:
    versions = _parse_versions((collected / "versions").read_text())
    assert set(versions) == {*TOOLS[:-2], "attr", "busybox", "busybox_sha256"} - {"unsquashfs"}  # as mksquashfs
    assert all(any(letter.isdigit() for letter in version) for version in versions.values())


@pytest.mark.parametrize(
    "command",
    [
        ["skopeo", "--version"],
        ["umoci", "--version"],
        ["mksquashfs", "-version"],
        ["zstd", "--version"],
        ["perl", "-e", "print 1"],
        ["gosu", "--version"],
        ["/bin/busybox", "true"],
        ["sh", "-c", "echo well"],
        ["/sbin/init"],
    ],
    ids=lambda command: command[0],
)
def test_every_tool_runs_there_by_itself(root: Path, command: list[str]) -> None:
    done = Root(root, "/bin/busybox").run(*command, env={"PATH": "/usr/bin:/bin:/sbin"})
    # mksquashfs tells its version with status 1 in some releases.
    assert done.returncode == 0 or command[0] == "mksquashfs", done.stderr
    assert "error while loading" not in done.stderr


@pytest.mark.parametrize("program", ["getfattr", "setfattr"])
def test_what_copies_attributes_needs_nothing_beside_it(root: Path, tmp_path: Path, program: str) -> None:
    other = Root.make(tmp_path / "other")
    shutil.copytree(root / "usr/lib/attributes", other / "copied")
    done = other.run("/copied/ld.so", "--library-path", "/copied", f"/copied/{program}", "--version")
    assert (done.returncode, done.stderr) == (0, "")


def test_mksquashfs_packs_there(root: Path) -> None:
    """It opens a library by name when its threads end, which no list of linked ones has."""
    (root / "build/in").mkdir(exist_ok=True)
    (root / "build/in/file").write_bytes(b"x" * 1_000_000)
    options = ["-comp", "zstd", "-quiet", "-no-progress"]
    done = Root(root, "/bin/busybox").run("/usr/bin/mksquashfs", "/build/in", "/build/out", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert (root / "build/out").read_bytes()[:4] == b"hsqs"


def test_unsquashfs_unpacks_there(root: Path) -> None:
    (root / "build/packed").mkdir(exist_ok=True)
    (root / "build/packed/file").write_bytes(b"x" * 1_000_000)
    outside = ["mksquashfs", str(root / "build/packed"), str(root / "build/squashfs"), "-comp", "zstd", "-noappend"]
    subprocess.run(outside, check=True, capture_output=True, timeout=SECONDS)
    options = ["-quiet", "-no-progress", "-dest", "/build/unpacked"]
    done = Root(root, "/bin/busybox").run("/usr/bin/unsquashfs", *options, "/build/squashfs")
    assert (done.returncode, done.stderr) == (0, "")
    assert (root / "build/unpacked/file").read_bytes() == b"x" * 1_000_000


def test_it_holds_what_builds_need_and_little_else(root: Path) -> None:
    assert (root / "sbin/init").read_bytes() == INIT
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE") > 50
    assert (root / "etc/passwd").read_text() == "root:x:0:0:root:/root:/bin/sh\n"
    for folder in ("cache", "build", "proc", "sys", "dev", "run", "root"):
        assert (root / folder).is_dir()
    for folder in ("tmp", "var/tmp"):
        assert (root / folder).stat().st_mode & 0o7777 == 0o1777
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) < 80
    assert not [path for path in files if path.stat().st_mode & 0o6000]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_is_missing_is_named(tmp_path: Path, tool: str) -> None:
    nothing = tmp_path / "nothing"
    nothing.touch(0o644)
    done = collect(tmp_path / "out", f"mount --bind {nothing} {shutil.which(tool)}")
    assert done.returncode != 0
    assert f"the base has no {tool}" in done.stderr.decode()
    assert not (tmp_path / "out/rootfs.squashfs").exists()


def test_a_base_without_certificates_is_refused(tmp_path: Path) -> None:
    done = collect(tmp_path / "out", "mount -t tmpfs tmpfs /usr/share/ca-certificates/mozilla")
    assert done.returncode != 0
    assert "the base has no CA certificates" in done.stderr.decode()


def test_what_an_earlier_try_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out/rootfs/stale").mkdir(parents=True)
    done = collect(tmp_path / "out", "mount -t tmpfs tmpfs /usr/share/ca-certificates/mozilla")
    assert done.returncode != 0
    assert not (tmp_path / "out/rootfs/stale").exists()
