"""Unpacking, injecting and packing in one command: each only after the one before, and which of them failed is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lxdocker.builder.instance import KILLED
from lxdocker.builder.recipe import INJECTING_FAILED, PACK, UNPACK, UNPACKING_FAILED
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces
ROOTFS = "/build/rootfs"
MAKES = (
    'for target; do :; done; /bin/busybox mkdir "$target"; echo layers >"$target/file"'  # the last argument is ROOTFS
)
KILLS = "kill -9 $$"
PACKS = ("/bin/busybox", "sh", "-c", f"/bin/busybox cat {ROOTFS}/file >/packed; echo failed >&2; exit 3")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root.make(tmp_path / "builder", "/bin/busybox")
    made.write("/runtime.tar", "runtime")
    (made / "build").mkdir()
    return made


def run(
    root: Root, umoci: str, inject: str = ":", *, memory: int = 0, layers: str = "", after: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs unpack.sh and what it goes on with, with shell scripts in the place of umoci, inject.sh and mksquashfs."""
    root.write("/usr/bin/umoci", f"#!/bin/busybox sh\n{umoci}\n", 0o755)
    pack = ("/bin/busybox", "sh", "-c", PACK.read_text(), "pack", inject, ROOTFS, "1700000000", "/runtime.tar", *PACKS)
    unpack = ("unpack", str(memory), ROOTFS, "/run/layout:image", layers)
    return root.run("/bin/busybox", "sh", "-c", UNPACK.read_text(), *unpack, *pack, after=after)


def test_one_after_the_other(root: Root) -> None:
    done = run(
        root, MAKES, f'/bin/busybox cat "$1/file" && echo "$1" "$2" && /bin/busybox cat && echo more >>{ROOTFS}/file'
    )
    assert done.stdout == f"layers\n{ROOTFS} 1700000000\nruntime"
    assert (done.returncode, done.stderr) == (3, "failed\n")
    assert (root / "packed").read_text() == "layers\nmore\n"


@pytest.mark.parametrize(("umoci", "said"), [("echo no space left >&2; exit 1", "no space left"), (KILLS, KILLED)])
def test_unpacking_failed(root: Root, umoci: str, said: str) -> None:
    done = run(root, umoci, "echo injected")
    assert done.returncode == UNPACKING_FAILED
    assert said in done.stderr
    assert done.stdout == ""
    assert not (root / "packed").exists()


@pytest.mark.parametrize(("inject", "said"), [("echo no space left >&2; exit 1", "no space left"), (KILLS, KILLED)])
def test_injecting_failed(root: Root, inject: str, said: str) -> None:
    done = run(root, MAKES, inject)
    assert done.returncode == INJECTING_FAILED
    assert said in done.stderr
    assert not (root / "packed").exists()


SMALL = "cache/blobs/sha256/aa"
MOUNTED = 'grep -q " $root/build tmpfs " /proc/mounts && cat "$root/build/rootfs/file" >"$root/was-in-memory"; true'


def in_memory(root: Root, umoci: str, memory: int) -> subprocess.CompletedProcess[str]:
    root.write(SMALL, b"x" * 1000)
    return run(root, umoci, memory=memory, layers="aa", after=MOUNTED)


@pytest.mark.parametrize(("memory", "expected"), [(1 << 20, True), (16384, False)])
def test_what_fits_is_unpacked_in_memory(root: Root, memory: int, expected: bool) -> None:
    done = in_memory(root, MAKES, memory)
    assert (done.returncode, done.stderr) == (3, "failed\n")
    assert (root / "packed").read_text() == "layers\n"
    assert (root / "was-in-memory").exists() == expected
    assert (root / "build/rootfs/file").exists() != expected


def test_what_does_not_fit_after_all_is_unpacked_on_disk(root: Root) -> None:
    """And of the first try nothing is heard, which would pass for the reason of a later failure."""
    done = in_memory(
        root,
        f"{MAKES}; /bin/busybox grep -q ' /build tmpfs ' /proc/mounts || exit 0; echo no space left >&2; exit 1",
        1 << 20,
    )
    assert (done.returncode, done.stderr) == (3, "failed\n")
    assert not (root / "was-in-memory").exists()
    assert (root / "packed").read_text() == "layers\n"
