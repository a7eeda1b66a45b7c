"""What a folder of specs becomes, in the store and in the tree, from one sync to the next."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import schemas
from tests.lxd.rig import BUILDER_PROJECT, Instance, Lxc, World, big, cache_folder, entry, image, layer, tiny, unsquash
from tests.registry_server import Images, make_image, make_index, registry, write_layout
from tests.waiting import wait_until

AMD = {"os": "linux", "architecture": "amd64"}
ARM = {"os": "linux", "architecture": "arm64"}
SETTLED = {"app": "unchanged", "other": "unchanged"}


def cached_layers() -> set[str]:
    """Hex digests of the blobs in the layer cache."""
    return {path.name for path in cache_folder().glob("blobs/sha256/*")}


# ---- nothing new


def test_a_second_sync_changes_nothing(pair: World) -> None:
    before = pair.state()
    again = pair.sync()
    assert again.statuses == SETTLED
    assert again.err == ""  # no builder, no phase
    assert pair.state() == before


def test_store_and_tree_have_the_same_fingerprint(pair: World) -> None:
    for name in ("app", "other"):
        fingerprint = pair.lxc.aliases()[name]
        assert pair.published_fingerprints(name) == [fingerprint]
        pair.holds(name, fingerprint)


def test_the_properties_say_what_the_image_is(world: World) -> None:
    reference = world.wants(
        "app",
        tiny(Cmd=["/bin/app", "-x"], ExposedPorts={"80/tcp": {}}, User="1:1"),
        properties={"description": "Ours", "team": "blue"},
    )
    done = world.sync()
    properties = world.lxc.images()[done.fingerprint("app")]["properties"]
    assert properties["description"] == "Ours"
    assert properties["team"] == "blue"
    assert properties["lxdocker.source"] == reference
    assert properties["oci.entrypoint"] == "/bin/app -x"
    assert properties["oci.ports"] == "80/tcp"
    assert (properties["os"], properties["release"]) == ("app", "latest")
    assert "variant" not in properties


# ---- something new


def test_a_new_digest_under_the_same_tag(pair: World) -> None:
    old = pair.lxc.aliases()
    pair.lxc("image", "alias", "create", "mine", old["app"])
    pair.push("app", tiny("newer"))
    done = pair.sync()
    assert done.statuses == {"app": "built", "other": "unchanged"}
    new = done.fingerprint("app")
    assert new != old["app"]
    assert pair.lxc.aliases() == {"app": new, "mine": new, "other": old["other"]}  # the user's own alias follows
    assert set(pair.lxc.images()) == {new, old["other"]}
    assert pair.published_fingerprints("app") == [old["app"], new]  # clients may be downloading the old one
    assert pair.sync().statuses == SETTLED


@pytest.mark.any_lxd
def test_old_versions_stay_listed_up_to_a_limit_and_on_disk_for_a_while(world: World) -> None:
    world.settings["keep_versions"] = 2
    fingerprints = []
    for text in ("one", "two", "three"):
        world.wants("app", tiny(text))
        fingerprints.append(world.sync().fingerprint("app"))
    assert world.published_fingerprints("app") == fingerprints[1:]
    files = sorted(world.tree.glob("images/app/*/*/rootfs.squashfs"))
    assert len(files) == 3
    world.settings["grace_hours"] = 0
    world.sync()
    assert sorted(world.tree.glob("images/app/*/*/rootfs.squashfs")) == files[1:]
    assert world.published_fingerprints("app") == fingerprints[1:]


# What the root filesystem depends on.
CHANGE: dict[str, Any] = {"files": {"/etc/added": {"content": "x"}}}


@pytest.mark.any_lxd
@pytest.mark.parametrize("change", [{"disable_supervisor": True}, {"properties": {"team": "blue"}}, CHANGE])
def test_a_changed_spec_builds_again(pair: World, change: dict[str, object]) -> None:
    old = pair.lxc.aliases()["app"]
    pair.spec("app", pair.ref("app"), **change)
    done = pair.sync()
    assert done.statuses == {"app": "built", "other": "unchanged"}
    assert done.fingerprint("app") != old
    pair.holds("app", done.fingerprint("app"))


@pytest.mark.any_lxd
def test_another_tag_of_the_same_image_is_another_source(pair: World) -> None:
    pair.spec("app", pair.push("app", tiny("app"), tag="v2"))
    assert pair.sync().statuses == {"app": "built", "other": "unchanged"}
    assert pair.sync().statuses == SETTLED


@pytest.mark.any_lxd
def test_an_index_that_changes_around_the_same_image_costs_no_build(world: World) -> None:
    first, second, foreign = tiny("a", arch="amd64"), tiny("b"), image(layer(entry("x", "y")), arch="arm64")
    world.push("app", foreign, "arm")
    world.push("app", first, "amd")
    world.spec("app", world.push_index("app", make_index((first.manifest, AMD))))
    built = world.sync()
    assert built.statuses == {"app": "built"}
    world.push_index("app", make_index((foreign.manifest, ARM), (first.manifest, AMD)))
    moved = world.sync()
    assert moved.statuses == {"app": "updated"}
    assert moved.fingerprint("app") == built.fingerprint("app")
    assert world.sync().statuses == {"app": "unchanged"}
    # The bare manifest, under the same tag, is the same image again; another one is not.
    world.push("app", first)
    assert world.sync().statuses == {"app": "updated"}
    world.push("app", second)
    assert world.sync().statuses == {"app": "built"}


@pytest.mark.any_lxd
def test_a_pinned_digest(world: World) -> None:
    first = tiny("one")
    world.push("app", first)
    repository = world.ref("app").rpartition(":")[0]
    world.spec("app", f"{repository}@{first.manifest.digest}")
    built = world.sync()
    world.push("app", tiny("two"))
    assert world.sync().statuses == {"app": "unchanged"}
    world.holds("app", built.fingerprint("app"))


# ---- aliases


def test_aliases_come_and_go_with_the_spec(pair: World) -> None:
    fingerprint = pair.lxc.aliases()["app"]
    pair.spec("app", pair.ref("app"), aliases=["web", "app/stable"])
    done = pair.sync()
    assert done.statuses == {"app": "updated", "other": "unchanged"}
    assert {name for name, target in pair.lxc.aliases().items() if target == fingerprint} == {
        "app",
        "app/stable",
        "web",
    }
    document = json.loads((pair.tree / "streams/v1/images.json").read_text())
    assert document["products"]["app:current:default:amd64"]["aliases"] == "app,web,app/stable"
    pair.lxc("image", "alias", "create", "mine", fingerprint)
    pair.spec("app", pair.ref("app"), aliases=["web"])
    assert pair.sync().statuses == {"app": "updated", "other": "unchanged"}
    assert {name for name, target in pair.lxc.aliases().items() if target == fingerprint} == {"app", "mine", "web"}
    assert pair.sync().statuses == SETTLED


def test_an_alias_moves_with_its_spec_key_while_the_image_changes(world: World) -> None:
    world.wants("app", tiny("one"), aliases=["old"])
    world.sync()
    world.wants("app", tiny("two"), aliases=["new"])
    done = world.sync()
    assert world.lxc.aliases() == dict.fromkeys(["app", "new"], done.fingerprint("app"))


def test_an_alias_moves_from_spec_to_spec(pair: World) -> None:
    before = pair.lxc.aliases()
    pair.spec("app", pair.ref("app"), aliases=["web"])
    pair.sync()
    pair.spec("app", pair.ref("app"))
    pair.spec("other", pair.ref("other"), aliases=["web"])
    assert pair.sync().statuses == {"app": "updated", "other": "updated"}
    assert pair.lxc.aliases() == {**before, "web": before["other"]}
    assert pair.sync().statuses == SETTLED
    # Renamed, alias and all.
    (pair.specs / "other.yaml").rename(pair.specs / "renamed.yaml")
    done = pair.sync()
    assert done.statuses == {"app": "unchanged", "other": "removed", "renamed": "built"}
    renamed = done.fingerprint("renamed")
    assert pair.lxc.aliases() == {"app": before["app"], "renamed": renamed, "web": renamed}


def test_an_alias_that_is_taken_is_left(world: World, tmp_path: Path) -> None:
    foreign = import_foreign(world, tmp_path, "app", "app/stable")
    world.wants("app", tiny())
    world.wants("other", tiny("other"), aliases=["app/stable"])
    world.wants("third", tiny("third"))
    done = world.sync(expect=1)
    assert done.statuses == {"app": "failed", "other": "failed", "third": "built"}
    assert "lxdocker did not make" in done.error("app")
    assert f"lxc image alias delete --project {world.project} app" in done.error("app")
    assert "app/stable" in done.error("other")
    assert world.lxc.aliases() == {"app": foreign, "app/stable": foreign, "third": done.fingerprint("third")}


def import_foreign(world: World, folder: Path, *aliases: str) -> str:
    """An image that somebody else made."""
    (folder / "metadata.yaml").write_text("architecture: x86_64\ncreation_date: 1\n")
    (folder / "rootfs").mkdir()
    archive = folder / "foreign.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "metadata.yaml", "metadata.yaml")
        tar.add(folder / "rootfs", "rootfs")
    options = [option for alias in aliases for option in ("--alias", alias)]
    world.lxc("image", "import", str(archive), *options)
    found = [fingerprint for fingerprint, one in world.lxc.images().items() if "lxdocker.name" not in one["properties"]]
    return found[0]


# ---- less


def test_a_removed_spec_takes_its_image_along(world: World, tmp_path: Path) -> None:
    pair = world
    pair.wants("app", tiny("app"))
    pair.wants("other", tiny("other"))
    pair.sync()
    foreign = import_foreign(pair, tmp_path, "foreign")
    app, other = pair.lxc.aliases()["app"], pair.lxc.aliases()["other"]
    app_layers = {blob.digest.removeprefix("sha256:") for blob in tiny("app").layers}
    other_layers = {blob.digest.removeprefix("sha256:") for blob in tiny("other").layers}
    assert app_layers | other_layers <= cached_layers()
    (pair.specs / "app.yaml").unlink()
    done = pair.sync()
    assert done.statuses == {"other": "unchanged", "app": "removed"}
    assert pair.lxc.aliases() == {"other": other, "foreign": foreign}
    assert set(pair.lxc.images()) == {other, foreign}
    assert set(pair.published()) == {"other"}
    assert not app_layers & cached_layers()
    # Somebody may be in the middle of downloading it.
    assert list(pair.tree.glob("images/app/*/*/rootfs.squashfs"))
    pair.settings["grace_hours"] = 0
    pair.sync()
    assert not (pair.tree / "images/app").exists()
    # And it comes back as it was.
    pair.spec("app", pair.ref("app"))
    assert pair.sync().fingerprint("app") == app


@pytest.mark.any_lxd
def test_layers_that_another_image_needs_stay(world: World) -> None:
    base = layer(entry("base", "shared"))
    world.wants("app", image(base, layer(entry("x", "app"))))
    world.wants("other", image(base, layer(entry("x", "other"))))
    world.sync()
    (world.specs / "app.yaml").unlink()
    world.sync()
    world.sync("--force")  # with what is in the cache and in the registry
    shared = image(base).layers[0].digest.removeprefix("sha256:")
    assert shared in cached_layers()


@pytest.mark.any_lxd
def test_what_other_folders_made_stays(pair: World) -> None:
    """Two folders of specs into one project and one tree."""
    elsewhere = World(pair.folder / "elsewhere", pair.registry)
    try:
        elsewhere.wants("third", tiny("third"))
        done = elsewhere.run("sync", "--json", "--tree", str(pair.tree), "--project", pair.project)
    finally:
        elsewhere.close()
    assert done.statuses == {"third": "built"}
    assert set(pair.lxc.aliases()) == {"app", "other", "third"}
    assert pair.sync().statuses == SETTLED
    assert set(pair.published()) == {"app", "other", "third"}


def test_an_image_is_one_folders_until_another_adopts_it(pair: World) -> None:
    """Two folders of specs with the same name in it, one project and one tree."""
    elsewhere = World(pair.folder / "elsewhere", pair.registry, namespace=pair.namespace)
    where = ("--tree", str(pair.tree), "--project", pair.project)
    pair.lxc("image", "alias", "create", "mine", pair.lxc.aliases()["app"])
    before = pair.lxc.aliases()
    try:
        elsewhere.spec("app", elsewhere.push("app", tiny("elsewhere"), tag="v2"))
        elsewhere.wants("third", tiny("third"))
        for arguments in (("--force",), ("app",), ()):
            done = elsewhere.sync(*where, *arguments, expect=1)
            assert done.statuses["app"] == "failed"
            for text in (str(pair.specs), str(elsewhere.specs), " --adopt app;"):
                assert text in done.error("app")
        assert pair.lxc.aliases() == {**before, "third": done.fingerprint("third")}
        assert pair.lxc.images()[pair.lxc.aliases()["app"]]["properties"]["lxdocker.folder_path"] == str(pair.specs)
        planned = elsewhere.run("sync", "--dry-run", "--json", *where, expect=1).document["images"]
        assert {image["name"]: image["action"] for image in planned} == {"app": None, "third": "keep"}
        rows = {row["name"]: row["reason"] for row in elsewhere.run("status", "--json", *where).document["images"]}
        assert "belongs to another folder" in rows["app"]
        # Its own spec gone, the other one's image stays.
        (elsewhere.specs / "app.yaml").rename(elsewhere.folder / "app.yaml")
        assert elsewhere.run("prune", "--json", *where).statuses == {}
        (elsewhere.folder / "app.yaml").rename(elsewhere.specs / "app.yaml")
        assert pair.sync().statuses == SETTLED

        taken = elsewhere.sync(*where, "--adopt", "app")
        assert taken.statuses == {"app": "built", "third": "unchanged"}
        assert {pair.lxc.aliases()[alias] for alias in ("app", "mine")} == {taken.fingerprint("app")}
        # From now on it is the first that is refused, and that leaves it alone.
        assert pair.sync(expect=1).statuses == {"app": "failed", "other": "unchanged"}
        (pair.specs / "app.yaml").unlink()
        assert pair.sync().statuses == {"other": "unchanged"}
        assert pair.lxc.aliases()["app"] == taken.fingerprint("app")
        assert len(pair.published_fingerprints("app")) == 2
        # A folder that was moved.
        elsewhere.specs.rename(elsewhere.folder / "moved")
        moved = (*where, "--specs", str(elsewhere.folder / "moved"))
        assert elsewhere.run("sync", "--json", *moved, expect=1).statuses == dict.fromkeys(["app", "third"], "failed")
        assert elsewhere.run("sync", "--json", *moved, "--adopt", "*").statuses == {
            "app": "updated",
            "third": "updated",
        }
        assert elsewhere.run("sync", "--json", *moved).statuses == {"app": "unchanged", "third": "unchanged"}
    finally:
        elsewhere.close()
        pair.lxc("image", "alias", "delete", "mine")


@pytest.mark.any_lxd
def test_a_spec_with_mistakes_stops_only_itself(pair: World) -> None:
    before = pair.lxc.aliases()
    (pair.specs / "app.yaml").write_text("[[")
    pair.wants("third", tiny("third"))
    untouched = pair.run("sync", "--strict", "--json", expect=2)
    assert "app.yaml:" in untouched.err
    assert pair.lxc.aliases() == before
    done = pair.sync("third", expect=1)
    assert done.statuses == {"third": "built", "app": "failed"}
    assert "app.yaml" in done.error("app")
    (pair.specs / "folder.yaml").mkdir()
    (pair.specs / "other.yaml").unlink()
    assert pair.sync("app", expect=1).statuses == {"app": "failed", "folder": "failed"}
    words = pair.run("sync", "--dry-run", expect=1).out
    assert "would fail on app: a mistake in app.yaml" in words
    assert "would remove other" in words
    rows = {row["name"]: row for row in pair.run("status", "--json").document["images"]}
    assert rows["app"]["fingerprint"] == before["app"]
    assert rows["app"]["state"] == "failed"
    assert rows["app"]["error"]["mistakes"][0]["file"] == str(pair.specs / "app.yaml")
    assert pair.run("prune", "--json", expect=1).statuses == {"other": "removed", "app": "failed", "folder": "failed"}
    assert pair.sync(expect=1).statuses == {"third": "unchanged", "app": "failed", "folder": "failed"}
    assert pair.lxc.aliases() == {"app": before["app"], "third": done.fingerprint("third")}
    assert set(pair.published()) == {"app", "third"}
    assert pair.run("validate", expect=2)


@pytest.mark.any_lxd
def test_images_do_not_pile_up_while_nothing_can_be_published(world: World) -> None:
    """As in a tree that is full: each new image takes the place of the one before, here at least."""
    world.wants("app", tiny("0"))
    published = world.sync().fingerprint("app")
    product = next(world.tree.glob("images/app/*"))
    product.chmod(0o777)  # so that nothing is written in it
    for text in ("1", "2", "3"):
        world.push("app", tiny(text))
        assert world.sync(expect=1).statuses == {"app": "failed"}
        (fingerprint,) = world.lxc.images()
        assert world.lxc.aliases() == {"app": fingerprint}
        assert world.published_fingerprints("app") == [published]
    product.chmod(0o755)
    assert world.sync().statuses == {"app": "restored"}
    assert world.published_fingerprints("app") == [published, fingerprint]


@pytest.mark.any_lxd
def test_an_emptied_folder_of_specs_removes_nothing(pair: World) -> None:
    before = pair.state()
    for spec in pair.specs.iterdir():
        spec.unlink()
    for command in (["sync"], ["sync", "--dry-run"], ["prune"]):
        refused = pair.run(*command, "--json", expect=2).error()
        assert "app, other" in refused
        assert f"lxdocker prune --specs {pair.specs} --tree {pair.tree} --project {pair.project} --all" in refused
        assert pair.state() == before
    states = {row["name"]: row["state"] for row in pair.run("status", "--json").document["images"]}
    assert states == dict.fromkeys(["app", "other"], "orphan")
    pair.specs.rmdir()
    assert pair.run("prune", "--all", "--json").statuses == {"app": "removed", "other": "removed"}
    assert pair.lxc.images() == {}
    assert pair.published() == {}


@pytest.mark.any_lxd
def test_an_empty_folder_of_specs_is_nothing_to_do(world: World) -> None:
    assert world.sync().statuses == {}
    assert world.published() == {}


@pytest.mark.any_lxd
def test_prune_removes_what_sync_would(pair: World) -> None:
    (pair.specs / "app.yaml").unlink()
    assert pair.run("prune", "--json").statuses == {"app": "removed"}
    assert set(pair.lxc.aliases()) == {"other"}
    before = pair.state()
    assert pair.run("prune", "--json").statuses == {}
    assert pair.state() == before


# ---- the same again


def test_building_again_gives_the_same_image(pair: World) -> None:
    before = {name: pair.lxc.aliases()[name] for name in ("app", "other")}
    files = pair.state()
    done = pair.sync("--force")
    assert done.statuses == {"app": "built", "other": "built"}
    assert {name: done.fingerprint(name) for name in before} == before
    assert set(pair.store_state()) == set(files[0])
    assert {path: content for path, (_, content) in pair.tree_state().items() if path.endswith(("xz", "squashfs"))} == {
        path: content for path, (_, content) in files[1].items() if path.endswith(("xz", "squashfs"))
    }


@pytest.mark.any_lxd
def test_building_without_the_layer_cache_gives_the_same_image(pair: World) -> None:
    before = pair.lxc.aliases()["app"]
    Lxc(BUILDER_PROJECT)("storage", "volume", "delete", "default", "cache")
    assert pair.sync("--force", "app").fingerprint("app") == before


def test_how_an_image_runs_changes_without_a_builder(pair: World, launch: Callable[..., Instance]) -> None:
    """Which here could not be had. What matters is that LXD gives it to instances."""
    before = pair.rootfs("app").read_bytes()
    command = ["/busybox-lxd", "sleep", "1000"]
    pair.spec("app", pair.ref("app"), umask="0027", environment={"SAID": "{{ config.x }}"}, entrypoint=command)
    pair.settings["pool"] = "nowhere"
    done = pair.sync()
    assert done.statuses == {"app": "built", "other": "unchanged"}
    pair.holds("app", done.fingerprint("app"))
    assert pair.rootfs("app").read_bytes() == before
    instance = launch(pair, "app")
    script = "/lxd-exec /busybox-lxd sh -c 'umask; echo \"$SAID\"'"
    wait_until("the application", lambda: "sleep 1000" in instance.shell("ps"))
    assert instance.shell(script) == "0027\n{{ config.x }}\n"


@pytest.mark.any_lxd
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_a_changed_spec_of_the_same_image_fetches_nothing(world: World, tmp_path: Path, docker: bool) -> None:
    """Docker's manifests too, which are other ones in the layer cache. And what that has lost is fetched after all."""
    with registry(tmp_path / "registry") as server:
        Images(server.address).push("app", "1", make_image(docker=docker))
        reference = f"{server.address}/app:1"
        world.spec("app", reference)
        first = world.sync().fingerprint("app")
        asked = len(server.requests())
        world.spec("app", reference, **CHANGE)
        changed = world.sync()
        assert changed.statuses == {"app": "built"}
        assert [request.method for request in server.requests(asked + 1)[asked:]] == ["HEAD"]
        Lxc(BUILDER_PROJECT)("storage", "volume", "delete", "default", "cache")
        assert world.sync("--force").fingerprint("app") == changed.fingerprint("app") != first


@pytest.mark.any_lxd
@pytest.mark.parametrize("kind", ["manifest", "config", "layer"])
def test_a_damaged_blob_is_fetched_again_for_a_changed_spec(world: World, kind: str) -> None:
    made = tiny("app")
    world.wants("app", made)
    world.sync()
    blob = {"manifest": made.manifest, "config": made.config, "layer": made.layers[0]}[kind]
    path = cache_folder() / "blobs/sha256" / blob.digest.removeprefix("sha256:")
    path.write_bytes(bytes(len(blob.content)))
    world.spec("app", world.ref("app"), **CHANGE)
    changed = world.sync()
    assert changed.statuses == {"app": "built"}
    assert path.read_bytes() == blob.content
    assert world.sync("--force").fingerprint("app") == changed.fingerprint("app")


# ---- halves


def test_what_is_lost_comes_back_without_a_build(pair: World) -> None:
    fingerprint = pair.lxc.aliases()["app"]
    rebuilt = (": starting builder", ": fetch")

    pair.lxc("image", "alias", "delete", "app")
    done = pair.sync("-v")
    assert done.statuses == {"app": "updated", "other": "unchanged"}
    pair.holds("app", fingerprint)
    assert not any(text in done.err for text in rebuilt)

    pair.lxc("image", "delete", fingerprint)
    done = pair.sync("-v")
    assert done.statuses == {"app": "restored", "other": "unchanged"}
    pair.holds("app", fingerprint)
    assert not any(text in done.err for text in rebuilt)

    pair.rootfs("app").unlink()
    done = pair.sync("-v")
    assert done.statuses == {"app": "restored", "other": "unchanged"}
    pair.holds("app", fingerprint)
    assert not any(text in done.err for text in rebuilt)

    subprocess.run(["rm", "-r", str(pair.tree)], check=True)
    done = pair.sync("-v")
    assert done.statuses == {"app": "restored", "other": "restored"}
    pair.holds("app", fingerprint)
    assert not any(text in done.err for text in rebuilt)

    (pair.tree / "streams/v1/index.json").unlink()
    assert pair.sync("-v").statuses == SETTLED
    pair.holds("app", fingerprint)
    assert pair.sync("-v").statuses == SETTLED


@pytest.mark.any_lxd
def test_a_damaged_file_is_no_source_to_restore_from(pair: World) -> None:
    fingerprint = pair.lxc.aliases()["app"]
    damaged = pair.rootfs("app")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    pair.lxc("image", "delete", fingerprint)
    done = pair.sync()
    assert done.fingerprint("app") == fingerprint
    assert pair.lxc.aliases()["app"] == fingerprint
    assert pair.published_fingerprints("app")[-1] == fingerprint


def test_a_damaged_image_of_lxds_own_is_replaced(pair: World) -> None:
    """Under the same fingerprint, as the same inputs give the same image; and under every alias that it had."""
    fingerprint = pair.lxc.aliases()["app"]
    pair.lxc("image", "alias", "create", "mine", fingerprint)
    stored = Path(os.environ["LXD_DIR"], "images", f"{fingerprint}.rootfs")
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    subprocess.run(["rm", "-r", str(pair.tree / "images/app")], check=True)
    assert pair.sync().statuses == {"app": "built", "other": "unchanged"}
    assert stored.read_bytes() == content
    assert {pair.lxc.aliases()[alias] for alias in ("app", "mine")} == {fingerprint}
    assert pair.published_fingerprints("app") == [fingerprint]
    pair.lxc("image", "alias", "delete", "mine")


def test_two_lxdockers_that_build_one_name_at_once_get_their_own_image(world: World, tmp_path: Path) -> None:
    """They share nothing but LXD, and so the layer cache."""
    other = World(tmp_path / "other", world.registry)
    try:
        worlds = {"here": world, "there": other}
        for text, one in worlds.items():
            one.wants("app", big(text, 24))
        with world.start("sync", "--json") as first, other.start("sync", "--json") as second:
            assert [run.end().status for run in (first, second)] == [0, 0]
        for text, one in worlds.items():
            assert unsquash(one.rootfs("app"), tmp_path / text).joinpath("etc/text").read_text() == text
    finally:
        other.close()


@pytest.mark.any_lxd
def test_the_layers_of_what_a_tag_named_before_are_not_kept(pair: World) -> None:
    before, after = tiny("app 1"), tiny("app 2")
    layers = [{one.digest.removeprefix("sha256:") for one in made.layers} for made in (before, after)]
    pair.push("app", before)
    pair.sync()
    assert layers[0] <= cached_layers()
    pair.push("app", after)
    pair.sync()
    assert layers[1] <= cached_layers()
    assert not (layers[0] - layers[1]) & cached_layers()


# ---- parts of it


@pytest.mark.any_lxd
def test_sync_of_one_name_does_only_that(pair: World) -> None:
    other = pair.lxc.aliases()["other"]
    pair.push("app", tiny("app 2"))
    pair.push("other", tiny("other 2"))
    third = pair.wants("third", tiny("third"))
    (pair.specs / "other.yaml").rename(pair.specs / "renamed.yaml")
    assert pair.sync("app").statuses == {"app": "built"}
    assert pair.lxc.aliases()["other"] == other
    assert "third" not in pair.lxc.aliases()
    assert third


@pytest.mark.any_lxd
def test_dry_run_says_what_it_would_do_and_does_nothing(pair: World) -> None:
    pair.push("app", tiny("app 2"))
    pair.wants("third", tiny("third"))
    (pair.specs / "other.yaml").unlink()
    before = pair.state()
    done = pair.run("sync", "--dry-run", "--json")
    plan = {one["name"]: one["action"] for one in done.document["images"]}
    assert plan == {"app": "build", "third": "build", "other": "remove"}
    words = pair.run("sync", "--dry-run").out
    assert "would build app: image changed" in words
    assert "would build third: new" in words
    assert "would remove other" in words
    assert pair.state() == before


@pytest.mark.any_lxd
def test_dry_run_makes_not_even_the_tree(world: World) -> None:
    world.wants("app", tiny())
    world.run("sync", "--dry-run")
    assert not world.tree.exists()


def test_two_projects_and_trees_do_not_meet(pair: World, tmp_path: Path) -> None:
    before = pair.state()
    second = World(tmp_path / "second", pair.registry, namespace=pair.namespace)
    try:
        second.spec("app", pair.ref("app"))
        done = second.sync()
        assert done.statuses == {"app": "built"}
        # The same inputs: the same image, wherever it is made.
        assert done.fingerprint("app") == pair.lxc.aliases()["app"]
        second.spec("app", pair.push("app", tiny("elsewhere"), tag="v2"))
        second.sync()
        assert pair.state() == before
    finally:
        second.close()
    assert pair.sync().statuses == SETTLED


@pytest.mark.any_lxd
def test_status_tells_each_image_apart(pair: World) -> None:
    pair.push("app", tiny("app 2"))
    pair.wants("third", tiny("third"))
    rows = {row["name"]: row for row in pair.run("status", "--json").document["images"]}
    assert (rows["app"]["state"], rows["app"]["action"]) == ("pending", "build")
    assert rows["app"]["reason"].startswith("image changed")
    assert (rows["other"]["state"], rows["other"]["reason"]) == ("current", "up to date")
    assert (rows["third"]["state"], rows["third"]["reason"]) == ("pending", "new")
    assert pair.run("status", "--check", expect=1).out.startswith("LXDOCKER WARNING - 2 pending (app, third)")
    assert rows["other"]["size"] == pair.lxc.images()[pair.lxc.aliases()["other"]]["size"]
    listed = {row["name"]: row for row in schemas.check(pair.run("list", "--json").document, "images")["images"]}
    assert {name: row["state"] for name, row in listed.items()} == {
        "app": "current",
        "other": "current",
        "third": "pending",
    }
    assert listed["other"] | {"action": "keep", "reason": "up to date"} == rows["other"]
    events = schemas.check(pair.run("log", "other", "--json").document, "log")["events"]
    assert sorted(event["event"] for event in events) == ["built", "published"]
    assert rows["third"]["fingerprint"] is None
    assert rows["other"]["fingerprint"] == pair.lxc.aliases()["other"]
    assert rows["other"]["digest"] == tiny("other").manifest.digest
    assert rows["other"]["built_at"]
    assert "up to date" in pair.run("status").out


# ---- images on disk


@pytest.mark.any_lxd
def test_images_on_disk(world: World, registry: str) -> None:
    made = tiny("from disk")
    layout = write_layout(world.specs / "layout", [made], [(made.manifest, "v1")], [])
    for kind, name in (("oci-archive", "image.tar"), ("docker-archive", "docker.tar")):
        subprocess.run(
            ["skopeo", "copy", "--quiet", f"oci:{layout}:v1", f"{kind}:{world.specs / name}:app:v1"],
            check=True,
            timeout=60,
        )
    world.spec("layout", "oci:layout:v1")
    world.spec("archive", "oci-archive:image.tar")
    world.spec("docker", "docker-archive:docker.tar")
    done = world.sync()
    assert done.statuses == {"layout": "built", "archive": "built", "docker": "built"}
    for name in done.statuses:
        world.holds(name, done.fingerprint(name))
        listing = subprocess.run(
            ["unsquashfs", "-cat", str(world.rootfs(name)), "etc/text"], check=True, capture_output=True, timeout=60
        )
        assert listing.stdout == b"from disk"
    assert set(world.sync().statuses.values()) == {"unchanged"}
    newer = tiny("newer on disk")
    subprocess.run(["rm", "-r", str(layout)], check=True)
    write_layout(layout, [newer], [(newer.manifest, "v1")], [])
    assert world.sync().statuses == {"layout": "built", "archive": "unchanged", "docker": "unchanged"}
