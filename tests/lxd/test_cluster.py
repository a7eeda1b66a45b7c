"""A cluster of two LXDs, which places instances on any member unless it is told where."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxdocker.builder.instance import OWNER_KEY
from tests.lxd.hosts import daemon
from tests.lxd.rig import BUILDER_PROJECT, COMMAND_SECONDS, Lxc, World, tiny
from tests.waiting import wait_until

On = Callable[[int], World]  # a new world on a member, which commands go to from then on
POOL = {"name": "default", "driver": "dir"}
PROFILE = {"name": "default", "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}}}


def lxc(member: Path, *arguments: str, stdin: str = "") -> str:
    program = ["lxd"] if arguments[0] == "init" else ["lxc"]
    done = subprocess.run(
        [*program, *arguments],
        env={**os.environ, "LXD_DIR": str(member), "LXD_CONF": str(member / "client")},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def members(parts: None) -> Iterator[tuple[Path, Path]]:
    """The LXD_DIRs of a cluster's members ``one`` and ``two``, which have a pool, and no network."""
    with daemon("one", "--bare") as one, daemon("two", "--bare") as two:
        address = free_address()
        first = {
            "config": {"core.https_address": address},
            "cluster": {"enabled": True, "server_name": "one"},
            "storage_pools": [POOL],
            "profiles": [PROFILE],
        }
        lxc(one, "init", "--preseed", stdin=json.dumps(first))
        token = lxc(one, "cluster", "add", "two").split()[-1]
        source = {"entity": "storage-pool", "name": POOL["name"], "key": "source", "value": ""}
        second = {
            "enabled": True,
            "server_name": "two",
            "server_address": free_address(),
            "cluster_token": token,
            "member_config": [source],
        }
        lxc(two, "init", "--preseed", stdin=json.dumps({"cluster": second}))
        yield one, two


@pytest.fixture
def on(members: tuple[Path, Path], tmp_path: Path, registry: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[On]:
    made: list[World] = []

    def here(member: int) -> World:
        monkeypatch.setenv("LXD_DIR", str(members[member]))
        monkeypatch.setenv("LXD_CONF", str(members[member] / "client"))
        made.append(World(tmp_path / f"world-{len(made)}", registry))
        return made[-1]

    yield here
    for world in made:
        world.close()


def test_builds_are_where_their_layer_cache_is(on: On) -> None:
    """On whichever member lxdocker runs; four builds, since one could be there by chance."""
    for member, name in enumerate(("one", "two")):
        world = on(member)
        names = [f"{name}-{number}" for number in range(4)]
        for image in names:
            world.wants(image, tiny(image))
        assert world.sync("--jobs", "2").statuses == dict.fromkeys(names, "built")
        assert world.sync().statuses == dict.fromkeys(names, "unchanged")
        with world.start("sync", "--force", names[0]) as running:
            running.wait_for(f"{names[0]}: fetch")
            (builder,) = Lxc(BUILDER_PROJECT).query("/1.0/instances?recursion=1")
            assert builder["location"] == name
            assert running.end().status == 0
    volumes = Lxc(BUILDER_PROJECT).query("/1.0/storage-pools/default/volumes/custom?recursion=1")
    assert sorted(one["location"] for one in volumes if one["name"] == "cache") == ["one", "two"]


def test_only_a_members_own_dead_builders_are_removed(on: On) -> None:
    """Whether a process of another member's host still runs can't be seen from here."""
    lxc = Lxc(BUILDER_PROJECT)
    on(0)
    options = ("--storage", "default", "--target", "one", "--config", f"{OWNER_KEY}=another-boot 1 1 1")
    lxc("init", "builder", "left", "--profile", "builder", *options)
    here = on(1)
    here.wants("app", tiny("app"))
    assert here.run("sync", "--json").statuses == {"app": "built"}
    wait_until("the builder's end", lambda: lxc.instances() == ["left"])
    there = on(0)
    there.wants("app", tiny("app"))
    done = there.sync()
    assert "removed left, left over from an earlier run" in done.err
    wait_until("the builder's end", lambda: lxc.instances() == [])
