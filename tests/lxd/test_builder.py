"""The builder image: what makes it, what it says of itself, and that which one was used shows in no image."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.lxd.rig import BUILDER_PROJECT, LXDOCKER, Lxc, World, end_of_builders, entry, image, layer, tiny

ALIAS = "builder"


@pytest.fixture
def spare(world: World) -> Iterator[World]:
    """A world with a builder's project of its own, to leave the shared one alone."""
    project = f"{world.project}-b"
    world.settings["builder_project"] = project
    yield world
    lxc = Lxc(project)
    if project not in {one["name"] for one in lxc.query("/1.0/projects?recursion=1")}:
        return
    if "cache" in lxc("storage", "volume", "list", "default", "--format", "csv"):
        lxc("storage", "volume", "delete", "default", "cache")
    for fingerprint in lxc.images():
        lxc("image", "delete", fingerprint)
    lxc("profile", "delete", "builder")
    Lxc()("project", "delete", project)


def test_the_version_names_the_lxd(world: World) -> None:
    server = Lxc().query("/1.0")["environment"]["server_version"]
    done = subprocess.run([*LXDOCKER, "--version"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[1] == f"LXD {server} at {os.environ['LXD_DIR']}/unix.socket"


def test_show(world: World, builder_image: str) -> None:
    shown = world.run("builder", "show", "--json").document
    assert shown == json.loads(builder_image)
    assert shown["fingerprint"] == Lxc(BUILDER_PROJECT).aliases()[ALIAS]
    assert shown["base"] == "Debian trixie by mmdebstrap"
    assert shown["stale"] is None
    assert shown["size"] < 30_000_000
    assert {"skopeo", "umoci", "mksquashfs", "busybox", "gosu"} <= shown["versions"].keys()
    words = world.run("builder", "show").out
    assert "skopeo" in words
    assert shown["fingerprint"][:12] in words


@pytest.mark.any_lxd
def test_the_image_does_not_depend_on_the_builder(spare: World, world: World) -> None:
    """One made anew, in another project and another minute, gives the same bytes; sync makes it if there is none."""
    world.wants("app", tiny())
    there = spare.run("builder", "show", "--json", expect=1).error()
    assert "no builder image" in there
    first = spare.sync()
    assert "building the builder image: none exists" in first.err
    made = spare.run("builder", "show", "--json").document
    del spare.settings["builder_project"]
    shared = spare.run("builder", "show", "--json").document
    assert shared["built_at"] != made["built_at"]
    again = spare.sync("--force")
    assert again.fingerprint("app") == first.fingerprint("app")
    spare.settings["builder_project"] = f"{world.project}-b"
    deleted = spare.run("builder", "delete", "--json").document
    assert deleted == {"schema": 1, "deleted": made["fingerprint"]}
    assert spare.run("builder", "delete", "--json").document == {"schema": 1, "deleted": None}
    assert spare.run("builder", "show", expect=1)


def test_a_builder_that_can_not_be_made(spare: World) -> None:
    """No base image, so no builder: nothing is built, and what is up to date stays so."""
    spare.wants("app", tiny())
    spare.settings.update(builder_from="image", builder_server="local", builder_base="nosuchbase")
    assert "nosuchbase" in spare.sync(expect=2).error()
    assert "nosuchbase" in spare.run("builder", "build", "--json", expect=2).error()
    spare.settings.update(builder_server="https://127.0.0.1:1")
    done = spare.sync(expect=1)
    assert "builder build --from mmdebstrap" in done.error("app")
    assert Lxc(spare.settings["builder_project"]).instances() == []


def test_a_failed_builds_builder_is_kept_when_asked(world: World) -> None:
    world.wants("app", image(layer(entry("beyond", "every id map", uid=50_000_000))))
    done = world.run("sync", "--json", "--keep-builder", expect=1)
    (kept,) = done.document["kept_builders"]
    end_of_builders(kept)
    assert Lxc(BUILDER_PROJECT)("exec", kept, "--", "/bin/busybox", "ls", "/run/layout/index.json")
    # The next sync removes it.
    world.push("app", tiny())
    world.run("sync")
    end_of_builders()


def test_a_builder_is_confined(world: World) -> None:
    """What hostile layers are unpacked in."""
    world.wants("app", tiny())
    world.sync()
    profile = Lxc(BUILDER_PROJECT).query("/1.0/profiles/builder")["config"]
    assert profile["security.privileged"] == "false"
    assert profile["security.nesting"] == "false"
    assert {"limits.memory", "limits.processes", "limits.cpu"} <= profile.keys()
    world.settings["builder_memory"] = "3GiB"
    world.sync("--force")
    assert Lxc(BUILDER_PROJECT).query("/1.0/profiles/builder")["config"]["limits.memory"] == "3GiB"
    del world.settings["builder_memory"]
    world.sync("--force")
    assert Lxc(BUILDER_PROJECT).query("/1.0/profiles/builder")["config"] == profile
