"""Ctrl-C, kill -9 and two at once: whatever the moment, the next sync finds all it needs and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest

from tests.lxd.rig import (
    LXDOCKER,
    World,
    big,
    builders,
    cache_folder,
    end_of_builders,
    left_in_cache,
    tiny,
)
from tests.waiting import wait_until

# What a sync of one image says at the start of each of its phases, as patterns of "at any moment". From fetch to export
# it is at the same command in its builder.
MOMENTS = [
    "starting builder",
    *(pytest.param(moment, marks=pytest.mark.any_lxd) for moment in ("fetch", "unpack", "pack", "export")),
    "import",
    pytest.param("publish", marks=pytest.mark.any_lxd),
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped_at_any_moment(filled: World, moment: str) -> None:
    # Ctrl-C: cleans up by itself.
    held = filled.holdings()
    filled.push("app", big("first", 16))
    with filled.start("sync", "--json") as run:
        run.wait_for(f"app: {moment}")
        run.signal(signal.SIGINT)
        done = run.end()
    assert done.status in (130, 0)  # it may just have finished
    assert "Traceback" not in done.err
    end_of_builders()
    assert left_in_cache() == set()
    assert list((filled.tree / ".staging").iterdir()) == []
    if done.status == 130:
        assert "the next run continues" in done.err
        if "app: import" not in done.err:  # it may have been faster than the signal
            assert filled.holdings() == held

    # kill -9: whatever there is afterwards is whole, and the next sync finishes and cleans up.
    before = filled.lxc.aliases()["app"]
    published = filled.published_fingerprints("app")
    filled.push("app", big("second", 16))
    with filled.start("sync", "--json") as run:
        run.wait_for(f"app: {moment}")
        run.signal(signal.SIGKILL)
        run.end()
    assert filled.lxc.aliases()["app"] in filled.lxc.images()
    assert filled.published_fingerprints("app")[: len(published)] == published
    after = filled.sync().fingerprint("app")
    assert after != before
    filled.holds("app", after)
    assert set(filled.lxc.images()) == {after}
    assert list((filled.tree / ".staging").iterdir()) == []
    assert filled.sync().statuses == {"app": "unchanged"}


@pytest.mark.any_lxd
def test_sigterm_is_as_polite_as_ctrl_c(filled: World) -> None:
    held = filled.holdings()
    filled.push("app", big(mebibytes=16))
    with filled.start("sync") as run:
        run.wait_for("app: fetch")
        run.signal(signal.SIGTERM)
        done = run.end()
    assert done.status == 130
    end_of_builders()
    assert filled.holdings() == held


def test_the_next_sync_cleans_up_also_where_it_has_nothing_to_do(filled: World) -> None:
    filled.wants("other", big(mebibytes=16))
    with filled.start("sync", "other") as run:
        run.wait_for("other: unpack")
        run.signal(signal.SIGKILL)
        run.end()
    (filled.specs / "other.yaml").unlink()
    (left,) = builders()
    work = cache_folder() / "work"
    fetching = work / left
    fetching.mkdir()
    (fetching / "oci-put-blob1").write_bytes(b"as if it had been killed while fetching")
    for path in (fetching, fetching / "oci-put-blob1"):
        os.chown(path, work.stat().st_uid, work.stat().st_gid)  # root of the builders
    done = filled.sync()
    assert f"removed {left}" in done.err
    assert done.statuses == {"app": "unchanged"}
    assert left_in_cache() == set()


def test_the_next_sync_is_not_hindered_by_a_builder_that_lxd_is_removing(filled: World) -> None:
    for number in range(3):
        filled.push("app", tiny(f"app {number}"))
        done = filled.run("sync", "--json")
        assert done.statuses == {"app": "built"}
        assert "left over" not in done.err
    end_of_builders()


def test_lxd_removes_a_builder_though_lxdocker_is_killed_meanwhile(filled: World) -> None:
    filled.wants("other", tiny("other"))  # nothing is replaced, so no other builder is needed
    # As the LXD has it: by a stop, or a deletion.
    begun = re.compile(r"^# (PUT|DELETE) /1\.0/instances/builder-\S*: 20", re.MULTILINE)
    with filled.start("sync", "-v") as run:
        built = run.while_at_work(lambda: begun.search(run.said.partition(": exit status 0")[2]))
        wait_until("the beginning of the removal", built)
        run.signal(signal.SIGKILL)
        run.end()
    end_of_builders()
    assert "left over" not in filled.sync().err


@pytest.mark.any_lxd
def test_two_syncs_at_once(filled: World) -> None:
    before = filled.lxc.aliases()["app"]
    filled.push("app", big(mebibytes=16))
    with filled.start("sync", "--json") as first:
        first.wait_for("app: fetch")
        first.signal(signal.SIGSTOP)  # or on a busy host it may be at its end before the second begins
        with filled.start("sync", "--json") as second:
            second.wait_for("another lxdocker is using")
            first.signal(signal.SIGCONT)
            one, two = first.end(), second.end()
    assert (one.status, two.status) == (0, 0)
    assert one.statuses == {"app": "built"}
    assert two.statuses == {"app": "unchanged"}
    assert one.fingerprint("app") == two.fingerprint("app") != before
    filled.holds("app", one.fingerprint("app"))
    end_of_builders()


@pytest.mark.any_lxd
def test_ctrl_c_while_waiting_for_another_sync(filled: World) -> None:
    filled.push("app", big(mebibytes=16))
    with filled.start("sync", "--json") as first:
        first.wait_for("app: fetch")
        first.signal(signal.SIGSTOP)
        with filled.start("sync", "--json") as second:
            second.wait_for("another lxdocker is using")
            second.signal(signal.SIGINT)
            assert second.end().status == 130
        first.signal(signal.SIGCONT)
        assert first.end().status == 0


def verify(world: World) -> None:
    command = [*LXDOCKER, "publish", "verify", "--deep", "--tree", str(world.tree)]
    subprocess.run(command, env=world.environment, check=True, timeout=60)


@pytest.mark.any_lxd
def test_a_tree_is_held_while_something_is_published_only(filled: World) -> None:
    """Two folders of specs, one tree: the second sync does not wait for the first one's build."""
    other = World(filled.folder / "other", filled.registry)
    try:
        other.wants("other", tiny("other"))
        filled.push("app", big(mebibytes=64))
        with filled.start("sync", "--json") as first:
            first.wait_for("app: fetch")
            first.signal(signal.SIGSTOP)
            try:
                done = other.run("sync", "--json", "--tree", str(filled.tree))
                verify(filled)
            finally:
                first.signal(signal.SIGCONT)
            assert done.statuses == {"other": "built"}
            assert first.end().statuses == {"app": "built"}
        assert set(filled.published()) == {"app", "other"}
        assert list((filled.tree / ".staging").iterdir()) == []
        verify(filled)
    finally:
        other.close()


@pytest.mark.any_lxd
def test_two_syncs_into_different_trees_share_the_builders_project(filled: World) -> None:
    """Neither takes the other's running builder for one that was left behind."""
    other = World(filled.folder / "other", filled.registry)
    try:
        other.wants("other", big("other", 16))
        filled.push("app", big(mebibytes=16))
        with filled.start("sync", "--json") as first, other.start("sync", "--json") as second:
            first.wait_for("app: fetch")
            second.wait_for("other: fetch")
            one, two = first.end(), second.end()
        assert one.statuses == {"app": "built"}
        assert two.statuses == {"other": "built"}
        end_of_builders()
        other.holds("other", two.fingerprint("other"))
        # Their layers are in one cache; neither has dropped the other's.
        assert other.sync("--force").fingerprint("other") == two.fingerprint("other")
    finally:
        other.close()
