"""What the commands print and how they end, with an LXD that keeps images, and none to be reached elsewhere."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from lxdocker.tree.tree import Tree
from tests.examples import provenance, publish, spec
from tests.registry_server import make_image, write_layout
from tests.stand_ins import ImageDaemon
from tests.unit.cli.test_commands import Program, lxdocker, place
from tests.unit.cli.test_options import lxd, with_builder_image

__all__ = ["lxd", "lxdocker", "place"]  # fixtures


@pytest.fixture
def broken(place: Path) -> None:
    """A folder with one spec, whose image is not there."""
    (place / "images.d/db.yaml").unlink()
    (place / "images.d/web.yaml").write_text("image: oci:/nowhere\n")


@pytest.mark.usefixtures("lxd", "broken")
def test_an_image_that_can_t_be_resolved_fails_alone(lxdocker: Program) -> None:
    done = lxdocker("sync", "--json")
    (image,) = json.loads(done.stdout)["images"]
    assert (done.returncode, image["name"], image["state"]) == (1, "web", "failed")
    assert (image["outcome"], image["error"]["exit"]) == ("failed", 1)
    assert "/nowhere" in image["error"]["why"] + image["error"]["what"]
    assert lxdocker("sync").returncode == 1


@pytest.mark.usefixtures("lxd", "broken")
def test_what_would_be_done_and_what_is_the_case(lxdocker: Program, place: Path) -> None:
    planned = lxdocker("sync", "--dry-run", "--json")
    assert planned.returncode == 1
    assert "web" in planned.stdout
    assert "web" in lxdocker("sync", "--dry-run").stdout
    listed = lxdocker("status", "--json")
    assert [row["name"] for row in json.loads(listed.stdout)["images"]] == ["web"]
    assert "web" in lxdocker("status").stdout
    assert not (place / "tree/images").exists()


def test_prune_with_nothing_to_remove(lxdocker: Program, lxd: ImageDaemon) -> None:
    with_builder_image(lxd, "default")  # no image of any folder of specs
    done = lxdocker("prune", "--all", "--json")
    assert (done.returncode, json.loads(done.stdout)["images"]) == (0, [])
    assert len(lxd.images) == 1


def test_the_builder_image_in_words(lxdocker: Program, lxd: ImageDaemon) -> None:
    fingerprint = with_builder_image(lxd, "lxdocker")
    done = lxdocker("builder", "show")
    assert (done.returncode, done.stderr) == (0, "")
    assert fingerprint[:12] in done.stdout
    assert "server debian/13" in done.stdout
    lxd.images.clear()
    assert lxdocker("builder", "show").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("mirror https://host:1", "mirror needs one folder"),
        ("mirror https://host:1 a b", "mirror needs one folder"),
        ("mirror https://host:1 a --client lxc", "--client applies only to --import"),
        ("mirror https://host:1 a --project p", "--project applies only to --import"),
        ("mirror https://host:1 a --import-dir d", "--import-dir applies only to --import"),
        ("mirror --import --jobs 2 https://host:1", "--jobs does not apply to --import"),
        ("mirror https://host:1 a --password-file f", "--password-file needs a user"),
        ("mirror https://me@host:1 a --password-file nosuch", "cannot read the password in nosuch"),
        ("mirror https://me@host:1 a --password-file empty", "no password for me"),
        ("mirror --import host --client lxc", "not a URL: host"),
        ("publish rollback web 1 --undo", "--undo takes no version"),
        ("publish rollback W@B", "no such image"),
        ("builder input web --metadata --changes", "--metadata and --changes exclude each other"),
        ("builder input web --digest sha256:1", "not a digest: sha256:1"),
        ("builder input nosuch", "no such spec"),
        ("remote add https://host:1 a/b", "a/b"),
        ("remote add ftp://host:1 a", "not the URL of an image server"),
        ("remote add https://host:1 a --fingerprint 12", "fingerprint"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anybody_is_asked(
    place: Path, lxdocker: Program, arguments: str, complaint: str
) -> None:
    (place / "empty").write_text("\n")
    done = lxdocker(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert complaint in first
    assert rest


def test_the_published_tree_is_checked_and_rolled_back(place: Path, lxdocker: Program) -> None:
    tree = ("--tree", str(place / "tree"))
    published = Tree(place / "tree")
    with published.lock(print, threading.Event()):
        for number in ("1", "2"):
            made_from = provenance(spec("web"), built_at=f"2026-01-0{number}T00:00:00+00:00")
            publish(published, made_from, number)
    assert lxdocker("publish", "verify", "--deep", *tree).returncode == 0
    assert lxdocker("publish", "rollback", "web", *tree).returncode == 0
    assert lxdocker("publish", "rollback", "web", *tree).returncode == 2  # nothing before that
    undone = lxdocker("publish", "rollback", "web", "--undo", "--json", *tree)
    assert undone.returncode == 0
    json.loads(undone.stdout)
    damaged = next((place / "tree").rglob("rootfs.squashfs"))
    damaged.write_bytes(damaged.read_bytes() + b"x")
    assert lxdocker("publish", "verify", *tree).returncode == 1
    assert lxdocker("publish", "verify", "--repair", *tree).returncode == 0
    assert json.loads(lxdocker("publish", "verify", "--json", *tree).stdout)


@pytest.mark.usefixtures("lxd")
@pytest.mark.parametrize("named", [[], ["good"], ["bad"], ["images.d/good.yaml"], ["images.d/bad.yaml"], ["images.d"]])
def test_a_bad_spec_stops_only_itself_however_specs_are_named(place: Path, lxdocker: Program, named: list[str]) -> None:
    for file in (place / "images.d").iterdir():
        file.unlink()
    image = make_image()
    write_layout(place / "image", [image], [(image.manifest, "1")], [])
    (place / "images.d/good.yaml").write_text(f"image: oci:{place}/image:1\n")
    (place / "images.d/bad.yaml").write_text("image: nginx\ndevices: [80]\n")
    wanted = {"good"} if not named or "bad" not in named[0] else set()
    for command, status in (("status", 0), ("sync --dry-run", 1)):
        done = lxdocker(*command.split(), "--json", *named)
        states = {image["name"]: image["state"] for image in json.loads(done.stdout)["images"]}
        # A bad one is always reported: it counts as a failed image.
        assert (done.returncode, states) == (status, {"bad": "failed", **dict.fromkeys(wanted, "pending")})
    done = lxdocker("sync", "--strict", "--json", *named)
    assert (done.returncode, json.loads(done.stdout)["error"]["exit"]) == (2, 2)
    assert lxdocker("validate", *named).returncode == (0 if "good" in str(named) else 2)


def test_a_command_for_one_bad_spec_says_what_is_wrong_with_it(place: Path, lxdocker: Program) -> None:
    (place / "images.d/bad.yaml").write_text("image: [[\n")
    done = lxdocker("builder", "input", "bad")
    assert (done.returncode, "bad.yaml:2: expected valid YAML" in done.stderr) == (2, True)


@pytest.mark.usefixtures("lxd")
def test_prune_spares_what_a_bad_spec_made(place: Path, lxdocker: Program) -> None:
    (place / "images.d/web.yaml").write_text("image: 1\n")
    done = lxdocker("prune", "--yes", "--json")
    assert (done.returncode, [image["state"] for image in json.loads(done.stdout)["images"]]) == (1, ["failed"])
