"""What others do to LXD, to the builders and to both places of images heals, at once or by the next sync: the table in
docs/operations.md, "Healing". test_interrupts.py has Ctrl-C and kill -9, test_faults.py full disks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from lxdocker.serve.certs import Certificate
from tests.lxd.hosts import start_lxd
from tests.lxd.rig import (
    BUILDER_PROJECT,
    COMMAND_SECONDS,
    LXDOCKER,
    Lxc,
    World,
    big,
    builders,
    end_of_builders,
    tiny,
)
from tests.serve.rig import serve
from tests.waiting import wait_until


@contextmanager
def lxd_stopped() -> Iterator[None]:
    """Until the end of the block, as for an update: the instances go on."""
    os.kill(Lxc().query("/1.0")["environment"]["server_pid"], signal.SIGTERM)
    try:
        wait_until("the end of LXD", lxd_is_gone)
        yield
    finally:
        start_lxd(Path(os.environ["LXD_DIR"]))


def lxd_is_gone() -> bool:
    try:
        Lxc().query("/1.0")
    except AssertionError:
        return False  # it says so while it goes
    except (OSError, HTTPException, ValueError):
        return True
    return False


def test_lxd_restarts_in_the_middle_of_everything(pair: World, tmp_path: Path) -> None:
    """A build, an import and a run that follows a server each go on; a server does not notice."""
    importing = World(tmp_path / "importing", pair.registry)
    following = World(tmp_path / "following", pair.registry)
    try:
        pair.push("app", big("fetched", 32))
        importing.wants("app", big("imported", 16))
        with serve(tmp_path / "served", pair.tree) as server, importing.start("sync", "--json") as second:
            second.wait_for("app: import")
            second.signal(signal.SIGSTOP)
            fingerprint = Certificate.parse(server.certificate.read_bytes()).fingerprint
            pinned = ("--fingerprint", fingerprint, "--import-dir", str(tmp_path / "import"))
            third = subprocess.Popen(
                [*LXDOCKER, "mirror", "--import", server.url, *pinned, "--project", following.project, "--json"],
                env=following.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            wait_until("its folder", lambda: list((tmp_path / "import").glob("*/.lock")))
            third.send_signal(signal.SIGSTOP)
            with pair.start("sync", "--json") as first:
                first.wait_for("app: fetch")
                with lxd_stopped():
                    assert server.get("/streams/v1/index.json").status == 200
                second.signal(signal.SIGCONT)
                third.send_signal(signal.SIGCONT)
                done = first.end()
                assert done.status == 0, done.complaint()
                assert done.statuses == {"app": "built", "other": "unchanged"}
                assert "LXD was restarted" in done.err
            assert second.end().statuses == {"app": "built"}
            out, err = third.communicate(timeout=COMMAND_SECONDS)
            assert third.returncode == 0, err
            assert {one["name"] for one in json.loads(out)["imported"]} == {"app", "other"}
        end_of_builders()
        pair.holds("app", done.fingerprint("app"))
        for world in (pair, importing):
            assert set(world.sync().statuses.values()) == {"unchanged"}
    finally:
        importing.close()
        following.close()


def deleted(builder: str) -> bool:
    """LXD refuses while it adds devices."""
    with suppress(AssertionError):
        Lxc(BUILDER_PROJECT)("delete", "--force", builder)
    return builder not in builders()


@pytest.mark.any_lxd
def test_a_builder_that_somebody_deletes_costs_one_more(filled: World) -> None:
    filled.push("app", big("deleted", 16))
    with filled.start("sync", "--json") as run:
        run.wait_for("app: fetch")
        run.signal(signal.SIGSTOP)  # so the builder is not done before it is deleted
        (builder,) = builders()
        wait_until("its end", lambda: deleted(builder))
        run.signal(signal.SIGCONT)
        done = run.end()
    assert done.statuses == {"app": "built"}, done.complaint()
    assert "the builder was deleted; building in another one" in done.err
    filled.holds("app", done.fingerprint("app"))
    end_of_builders()


def exported(path: Path) -> list[str]:
    """The files of a split image: metadata, then the root filesystem."""
    files = path.parent.glob(f"{path.name}*")
    return [str(file) for file in sorted(files, key=lambda file: file.suffix in (".root", ".squashfs"))]


@pytest.fixture
def spare(filled: World, tmp_path: Path) -> Iterator[World]:
    """A world with a builders' project of its own, which has the builder image."""
    project = f"{filled.project}-b"
    Lxc()("project", "create", project, "-c", "features.images=true", "-c", "features.profiles=true")
    lxc = Lxc(project)
    Lxc(BUILDER_PROJECT)("image", "export", "builder", str(tmp_path / "builder"))
    lxc("image", "import", *exported(tmp_path / "builder"), "--alias", "builder")
    filled.settings["builder_project"] = project
    try:
        yield filled
    finally:
        wait_until("the end of its builders", lambda: lxc.instances() == [])
        if "cache" in lxc("storage", "volume", "list", "default", "--format", "csv"):
            lxc("storage", "volume", "delete", "default", "cache")
        lxc("profile", "delete", "builder")
        lxc.purge()


@pytest.mark.any_lxd
def test_what_builders_need_is_made_again(spare: World) -> None:
    """The cache volume, the profile, the alias of the builder image; without any other build than the image's."""
    project = spare.settings["builder_project"]
    lxc = Lxc(project)

    def built(text: str) -> None:
        spare.push("app", tiny(text))
        done = spare.run("sync", "--json")
        assert done.statuses == {"app": "built"}
        assert "building the builder image" not in done.err
        wait_until("the end of its builders", lambda: lxc.instances() == [])

    built("one")
    lxc("storage", "volume", "delete", "default", "cache")
    lxc("profile", "delete", "builder")
    lxc("image", "alias", "delete", "builder")
    built("two")
    assert "cache" in lxc("storage", "volume", "list", "default", "--format", "csv")


@pytest.mark.any_lxd
def test_a_tree_that_is_older_than_the_store(filled: World, tmp_path: Path) -> None:
    """What the backup lacks is published once more from the store; no client gets the older one as news."""
    backup = tmp_path / "backup"
    shutil.copytree(filled.tree, backup, ignore=shutil.ignore_patterns(".*"))
    filled.push("app", tiny("newer"))
    newer = filled.sync().fingerprint("app")
    keys = sorted(filled.published()["app"])
    shutil.rmtree(filled.tree)
    shutil.copytree(backup, filled.tree)
    done = filled.sync()
    assert done.statuses == {"app": "restored"}
    assert done.fingerprint("app") == newer
    filled.holds("app", newer)
    again = sorted(filled.published()["app"])
    assert again[0] == keys[0]
    assert again[-1] >= keys[-1]
    assert filled.published_fingerprints("app")[-1] == newer
    assert filled.sync().statuses == {"app": "unchanged"}


@pytest.mark.any_lxd
def test_a_store_that_is_older_than_the_tree(filled: World, tmp_path: Path) -> None:
    """It gets the newer image from the tree, in which nothing changes."""
    (before,) = filled.lxc.images().values()
    old = before["fingerprint"]
    filled.lxc("image", "export", old, str(tmp_path / "old"))
    filled.push("app", tiny("newer"))
    newer = filled.sync().fingerprint("app")
    tree = filled.published()
    filled.lxc("image", "delete", newer)
    properties = [f"{key}={value}" for key, value in before["properties"].items()]
    filled.lxc("image", "import", *exported(tmp_path / "old"), "--alias", "app", *properties)
    assert filled.lxc.aliases() == {"app": old}
    done = filled.sync()
    assert done.statuses == {"app": "restored"}
    filled.holds("app", newer)
    assert set(filled.lxc.images()) == {newer}
    assert filled.published() == tree
    assert filled.sync().statuses == {"app": "unchanged"}


@pytest.mark.any_lxd
def test_a_lock_is_taken_over_from_the_dead_alone(filled: World) -> None:
    note = filled.tree / ".lock.holder"
    note.write_text("4194304 nas another-machine another-boot\n")  # as a tree that came from another host
    filled.push("app", big("slow", 16))
    with filled.start("sync", "--json") as first:
        first.wait_for("app: fetch")
        first.signal(signal.SIGSTOP)  # it must not be faster
        with filled.start("sync", "--json") as second:
            second.wait_for(f"another lxdocker is using {filled.tree} (process {first.process.pid})")
            first.signal(signal.SIGKILL)
            first.end()
            assert second.end().statuses == {"app": "built"}
    assert not note.exists()
    assert not list(filled.tree.glob(".lock.*.holder"))
    end_of_builders()
