"""The layer cache that all builders share: what is kept, what goes, and what damage does to it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from lxdocker.builder.recipe import CACHE, FETCH
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces


class Cache:
    """A builder's root with a cache volume, filled as skopeo fills it."""

    def __init__(self, path: Path) -> None:
        self.root = Root.make(path, "/bin/busybox")
        for folder in ("cache", "build"):
            (self.root / folder).mkdir()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.root.run("/bin/busybox", "sh", "-c", CACHE.read_text(), "cache", *arguments)

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def open(self, name: str, script: str = "true") -> subprocess.CompletedProcess[str]:
        """Runs fetch.sh with a shell script in skopeo's place."""
        command = ("/bin/busybox", "sh", "-c", script)
        return self.root.run("/bin/busybox", "sh", "-c", FETCH.read_text(), "fetch", name, "/secrets", *command)

    def blob(self, content: bytes) -> str:
        """Writes a blob through whichever layout is there; returns its digest."""
        digest = hashlib.sha256(content).hexdigest()
        (self.root / "cache/blobs/sha256" / digest).write_bytes(content)
        return f"sha256:{digest}"

    def fetch(self, name: str, *layers: bytes, tag: str = "image") -> set[str]:
        """What skopeo leaves of an image; returns its blobs."""
        assert self.open(name).returncode == 0
        config = self.blob(json.dumps({"layers": [layer.decode() for layer in layers]}).encode())
        digests = [self.blob(layer) for layer in layers]
        manifest = self.blob(
            json.dumps({"config": {"digest": config}, "layers": [{"digest": one} for one in digests]}).encode()
        )
        index = {"manifests": [{"digest": manifest, "annotations": {"org.opencontainers.image.ref.name": tag}}]}
        layout = self.root / "cache/images" / name
        (layout / "index.json").write_text(json.dumps(index))
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return {one.removeprefix("sha256:") for one in (config, manifest, *digests)}

    @property
    def blobs(self) -> set[str]:
        return {path.name for path in (self.root / "cache/blobs/sha256").iterdir()}

    @property
    def names(self) -> set[str]:
        return {path.name for path in (self.root / "cache/images").iterdir()}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "builder")


def test_every_image_has_a_layout_on_the_same_blobs(cache: Cache) -> None:
    assert cache.open("web").returncode == 0
    assert cache.open("db").returncode == 0
    digest = cache.blob(b"x").removeprefix("sha256:")
    for name in ("web", "db"):
        assert (cache.root / "cache/images" / name / "blobs/sha256" / digest).read_bytes() == b"x"


def test_opening_again_keeps_what_is_there(cache: Cache) -> None:
    blobs = cache.fetch("web", b"layer")
    assert cache.open("web").returncode == 0
    assert cache.blobs == blobs
    assert (cache.root / "cache/images/web/index.json").exists()


def test_opening_removes_what_a_killed_skopeo_left(cache: Cache) -> None:
    cache.fetch("web", b"layer")
    for name in ("oci-put-blob123", "oci-put-blob456"):
        (cache.root / "cache/images/web" / name).write_bytes(b"half a layer")
    assert cache.open("web").returncode == 0
    assert sorted(path.name for path in (cache.root / "cache/images/web").iterdir()) == [
        "blobs",
        "index.json",
        "oci-layout",
    ]


def test_whoever_copies_finds_the_layout_ready_and_its_status_is_passed_on(cache: Cache) -> None:
    done = cache.open("web", "echo x >/cache/images/web/blobs/sha256/y; echo failed >&2; exit 3")
    assert (done.returncode, done.stderr) == (3, "failed\n")
    assert cache.blobs == {"y"}


@pytest.mark.parametrize("status", [0, 1])
def test_secrets_are_there_for_the_copy_and_gone_after_it(cache: Cache, status: int) -> None:
    cache.root.write("/secrets/auth.json", "login")
    done = cache.open("web", f"/bin/busybox cat /secrets/auth.json; exit {status}")
    assert (done.returncode, done.stdout) == (status, "login")
    assert not (cache.root / "secrets").exists()


def test_layers_of_images_that_are_kept_stay_and_all_others_go(cache: Cache) -> None:
    web = cache.fetch("web", b"shared", b"only web")
    db = cache.fetch("db", b"shared", b"only db")
    old = cache.fetch("old", b"shared", b"only old")
    cache("keep", "web", "db")
    assert cache.names == {"web", "db"}
    assert cache.blobs == web | db
    assert old - cache.blobs
    cache("keep", "db")
    assert cache.blobs == db


def test_layers_of_an_earlier_version_go(cache: Cache) -> None:
    before = cache.fetch("web", b"base", b"version 1")
    after = cache.fetch("web", b"base", b"version 2")
    assert cache.blobs == before | after
    cache("keep", "web")
    assert cache.blobs == after


def test_keeping_twice_changes_nothing(cache: Cache) -> None:
    blobs = cache.fetch("web", b"layer")
    cache("keep", "web")
    cache("keep", "web", "web", "unknown")
    assert cache.blobs == blobs


def test_nothing_is_kept_where_nothing_is_named(cache: Cache) -> None:
    cache.fetch("web", b"layer")
    cache("keep")
    assert (cache.names, cache.blobs) == (set(), set())


def test_names_are_compared_whole(cache: Cache) -> None:
    web = cache.fetch("web", b"1")
    cache.fetch("web-2", b"2")
    cache.fetch("we", b"3")
    cache("keep", "web")
    assert (cache.names, cache.blobs) == ({"web"}, web)


@pytest.mark.parametrize("command", [["keep", "web"], ["keep"], ["forget", "web"]])
def test_an_empty_cache_is_fine(cache: Cache, command: list[str]) -> None:
    assert cache(*command) == ""


def test_a_damaged_image_is_forgotten_with_all_its_blobs(cache: Cache) -> None:
    web = cache.fetch("web", b"shared", b"only web")
    db = cache.fetch("db", b"shared", b"only db")
    cache("forget", "web")
    assert cache.names == {"db"}
    # Nobody knows which one is damaged: what they share is fetched again for both.
    assert cache.blobs == db - web
    # It can come back, whole.
    assert cache.fetch("web", b"shared", b"only web") == web
    assert web <= cache.blobs


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"manifests": [{"digest": "sha256:short"}]}'])
def test_a_ruined_index_ruins_nothing_else(cache: Cache, damage: str) -> None:
    cache.fetch("web", b"only web")
    db = cache.fetch("db", b"only db")
    (cache.root / "cache/images/web/index.json").write_text(damage)
    cache("keep", "web", "db")
    assert cache.blobs == db
    cache("forget", "web")
    assert cache.names == {"db"}


def test_an_index_that_names_strange_things_leads_nowhere(cache: Cache) -> None:
    """Only what looks like a digest is ever taken for one."""
    db = cache.fetch("db", b"only db")
    assert cache.open("web").returncode == 0
    canary = cache.root.write("/build/canary", "x")
    odd = ["sha256:../../../build/canary", "sha256:" + "A" * 64, "$(rm /build/canary)", "sha256:" + "a" * 64]
    (cache.root / "cache/images/web/index.json").write_text(json.dumps([{"digest": one} for one in odd]))
    cache("forget", "web")
    assert canary.exists()
    assert cache.blobs == db


def test_how_much_of_an_image_has_come(cache: Cache) -> None:
    cache.fetch("web", b"x" * 1000)
    layer, missing = (hashlib.sha256(content).hexdigest() for content in (b"x" * 1000, b"y"))
    assert cache("fetched", "web", layer) == "1000\n"
    assert cache("fetched", "web", layer, missing) == "1000\n"
    assert cache("fetched", "web", missing) == "0\n"
    # What is still coming lies beside the layout's files.
    (cache.root / "cache/images/web/oci-put-blob1").write_bytes(b"y" * 500)
    assert cache("fetched", "web", layer, missing) == "1500\n"


def test_an_unknown_command_does_nothing(cache: Cache) -> None:
    blobs = cache.fetch("web", b"layer")
    cache.run("clear", "web")
    assert cache.blobs == blobs
