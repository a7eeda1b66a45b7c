"""Versions compared, and images built twice: their files are listed in real builders."""

from __future__ import annotations

import os
import tarfile
from typing import Any

import pytest

from tests import rpm_databases
from tests.lxd.rig import World, cache_folder, end_of_builders, entry, image, layer, symlink
from tests.registry_server import Image

CAPABILITY = "0100000200040000" + "00" * 12
CAPABLE = {"SCHILY.xattr.security.capability": bytes.fromhex(CAPABILITY).decode("latin-1")}
DPKG = "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: {}\n\n"


def web(version: str, *more: tuple[tarfile.TarInfo, bytes], **config: Any) -> Image:
    """An image with everything that is compared."""
    return image(
        layer(
            entry("etc"),
            entry("etc/app.conf", f"version={version}"),
            entry("etc/odd name", "same"),
            entry("usr"),
            entry("usr/app", f"program {version}", mode=0o755),
            entry("usr/ping", "ping", mode=0o755, pax_headers=CAPABLE if version == "1" else {}),
            symlink("usr/current", version),
            entry("var"),
            entry("var/lib"),
            entry("var/lib/dpkg"),
            entry("var/lib/dpkg/status", DPKG.format(version)),
            entry("usr/share"),
            entry("usr/share/rpm"),
            entry("usr/share/rpm/Packages.db", rpm_databases.ndb([rpm_databases.header("zsh", version, "1")])),
            *more,
        ),
        **config,
    )


@pytest.mark.any_lxd
def test_two_versions(world: World) -> None:
    world.wants("web", web("1", entry("old", "x"), Env=["A=1"], User="app"))
    world.sync()
    more = [
        entry("new", "secret", mode=0o4755, uid=7),
        entry("null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    ]
    world.wants("web", web("2", *more, Env=["A=2"], User="root"))
    world.sync()
    first, second = sorted(world.published()["web"])
    before = world.state()
    done = world.run("diff", "web", "--json").document
    end_of_builders()
    assert world.state() == before
    assert (done["old"]["version"], done["new"]["version"]) == (first, second)
    values = {(one["group"], one["key"]): (one["old"], one["new"]) for one in done["values"]}
    assert values["configuration", "user"] == ("app", "root")
    assert values["environment", "A"] == ("1", "2")
    assert ("provenance", "manifest_digest") in values
    assert [(one["name"], one["old"], one["new"]) for one in done["packages"]] == [
        ("bash", "1", "2"),
        ("zsh", "1-1", "2-1"),
    ]
    files = {one["path"]: one for one in done["files"]}
    assert {path: one["change"] for path, one in files.items() if not path.startswith("/lxd-")} == {
        "/etc/app.conf": "changed",
        "/new": "added",
        "/null": "added",
        "/old": "removed",
        "/usr/app": "changed",
        "/usr/current": "changed",
        "/usr/ping": "changed",
        "/usr/share/rpm/Packages.db": "changed",
        "/var/lib/dpkg/status": "changed",
    }
    assert files["/usr/current"]["differs"] == ["target"]
    assert files["/usr/ping"]["differs"] == ["attributes"]
    assert files["/usr/ping"]["old"]["attributes"] == [f"security.capability=0x{CAPABILITY}"]
    null = files["/null"]["new"]
    assert (null["type"], null["device"], null["mode"]) == ("character_device", "1:3", "0666")
    assert (files["/new"]["new"]["mode"], files["/new"]["new"]["uid"]) == ("4755", 7)
    assert done["notes"] == []
    words = world.run("diff", "web", first, second).out
    assert f"web for x86_64: {first} -> {second}\n" in words
    assert "+ /new (6 B, mode 4755)" in words
    same = world.run("diff", "web", second, second).out
    assert "nothing differs" in same


@pytest.mark.any_lxd
def test_what_the_registry_has_now(world: World) -> None:
    world.wants("web", web("1", User="app"))
    world.sync()
    world.wants("web", web("2", User="root"))
    done = world.run("diff", "web", "registry", "--json").document
    values = {(one["group"], one["key"]): (one["old"], one["new"]) for one in done["values"]}
    assert values["configuration", "user"] == ("app", "root")
    assert len(done["new"]["layers"]) == 1
    assert (done["files"], done["packages"]) == (None, None)


@pytest.mark.any_lxd
def test_builds_that_are_the_same_and_one_that_is_not(world: World) -> None:
    busybox = ("/bin/busybox", "/usr/bin/busybox")
    program = next(path for path in busybox if os.path.exists(path))  # noqa: PTH110
    with open(program, "rb") as file:  # noqa: PTH123
        shell = entry("bin/sh", file.read(), mode=0o755)
    made = image(layer(entry("bin"), shell, entry("etc"), entry("etc/text", "one")))
    reference = world.wants("same", made)
    world.spec("other", reference, run=["cat /proc/sys/kernel/random/uuid >/etc/id"])
    before = world.state()
    done = world.run("sync", "--check-reproducible", "same", "other", "--json", expect=1).document
    end_of_builders()
    assert world.state() == before
    assert not list(cache_folder().glob("work/*"))
    same, other = sorted(done["images"], key=lambda one: one["name"], reverse=True)
    assert (same["reproducible"], len(set(same["fingerprints"]))) == (True, 1)
    assert (other["reproducible"], len(set(other["fingerprints"]))) == (False, 2)
    changed = {one["path"]: one["differs"] for one in other["files"]}
    assert changed["/etc/id"] == ["sha256"]
    assert set(changed) <= {"/etc/id", "/etc"}
    assert world.run("sync", "--check-reproducible", "same").out.startswith("same is reproducible: ")
