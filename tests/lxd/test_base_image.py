"""The builder image as it is made by default: in a container of a Debian that an image server gives.

On an LXD that has nothing yet, as on the first day.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.image import artifact
from lxdocker.tree.tree import Tree
from lxdocker.values import Arch
from tests.examples import provenance, spec
from tests.lxd.hosts import daemon
from tests.lxd.rig import BUILDER_PROJECT, Instance, Lxc, World, end_of_builders, fetch
from tests.serve.rig import Served, serve


@pytest.fixture(scope="module")
def image_server(parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """What stands for Canonical's: it has a Debian 13, and an authority of the host's vouches for it."""
    folder = tmp_path_factory.mktemp("image-server")
    base = Path(os.environ["LXDOCKER_TEST_BASE"])
    tree = Tree(folder / "tree")
    debian = spec("debian")
    with tree.lock(print, threading.Event()), tree.staging(debian.name) as staging:
        finished = artifact.write(staging, (base / "lxd.tar.xz").read_bytes(), artifact.read(base / "rootfs.squashfs"))
        tree.publish(finished, provenance(debian), Arch.host(), ("debian/13",))
    with serve(folder / "served", tree.root) as served:
        yield served


@pytest.fixture(scope="module")
def fresh(image_server: Served) -> Iterator[None]:
    """An LXD without anything, for which the certificate is one of the system's."""
    with (
        daemon("fresh", environment={"SSL_CERT_FILE": str(image_server.certificate)}) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("LXD_DIR", str(folder))
        patch.setenv("LXD_CONF", str(folder / "client"))
        if "image_registries" in Lxc().query("/1.0")["api_extensions"]:
            url = f"url={image_server.url}"
            Lxc()("image", "registry", "create", "bases", "--protocol", "simplestreams", url)
        yield


@pytest.mark.any_lxd
def test_the_builder_made_in_a_base_image(fresh: None, image_server: Served, registry: str, tmp_path: Path) -> None:
    """The first sync of a first day: it makes the builder, and then an image that runs."""
    server = {"builder_from": "image", "builder_server": image_server.url, "builder_base": "debian/13"}
    world = World(tmp_path / "world", registry, settings=server)
    world.spec("static", f"{registry}/static")
    with world.start("sync", "--json") as running:
        done = running.end(timeout=600)
    assert done.status == 0, done.out
    assert done.statuses == {"static": "built"}
    assert f"starting debian/13 from {image_server.url}" in done.err
    shown = world.run("builder", "show", "--json").document
    assert shown["base"] == f"{image_server.url} debian/13"
    assert shown["stale"] is None
    assert shown["size"] < 30_000_000
    assert {"skopeo", "umoci", "mksquashfs", "busybox", "gosu"} <= shown["versions"].keys()
    # Of the base nothing is left: neither its container nor, in the builder, anything that a build does not need.
    end_of_builders()
    assert Lxc(BUILDER_PROJECT).aliases() == {"builder": shown["fingerprint"]}
    instance = Instance(world.lxc, "static")
    assert fetch(f"http://{instance.address()}:8080/etc/hostname").strip() == instance.name


@pytest.mark.any_lxd
def test_a_base_image_of_lxds_own_store(fresh: None, registry: str, tmp_path: Path) -> None:
    base = Path(os.environ["LXDOCKER_TEST_BASE"])
    halves = (str(base / "lxd.tar.xz"), str(base / "rootfs.squashfs"))
    Lxc()("image", "import", *halves, "--alias", "mine")
    # In a project of its own: that of the test before has this image in LXD's cache.
    project = "local-builders"
    Lxc()("project", "create", project)
    Lxc(project)(
        "image", "import", *halves, "user.lxdocker.owner=00000000-0000-0000-0000-000000000000 1 1"
    )  # as killed
    settings = {"builder_server": "local", "builder_base": "mine", "builder_project": project}
    world = World(tmp_path / "world", registry, settings=settings)
    with world.start("builder", "build", "--json") as running:
        done = running.end(timeout=600)
    assert done.status == 0, done.out
    shown = world.run("builder", "show", "--json").document
    assert shown["base"] == "local mine"
    assert Lxc(project).instances() == []
    # Neither the copy that was started nor that of the lxdocker that was killed.
    assert list(Lxc(project).images()) == [shown["fingerprint"]]
