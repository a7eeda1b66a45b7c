"""The layer cache that all builders share: what is kept, what goes, and what damage does to it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from lxdocker.builder.recipe import CACHE, FETCH
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces


WORK = "/cache/work/builder-1"
LAYOUT = "run/layout"


class Cache:
    """A builder's root with a cache volume."""

    def __init__(self, path: Path) -> None:
        self.root = Root.make(path, "/bin/busybox")
        for folder in ("cache/blobs/sha256", "cache/manifests", "build", "run"):
            (self.root / folder).mkdir(parents=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.root.run("/bin/busybox", "sh", "-c", CACHE.read_text(), "cache", *arguments)

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def copy(
        self, name: str, script: str, stall: int = 0, most: int = 0, wanted: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs fetch.sh with a shell script in skopeo's place; with nothing there if that is empty."""
        fetch = ("/bin/busybox", "sh", "-c", FETCH.read_text(), "fetch", name, WORK, "/secrets", str(stall), str(most))
        copying = ("/bin/busybox", "sh", "-c", script) if script else ()
        return self.root.run(*fetch, wanted, *copying)

    def has_perl(self) -> None:
        """For what reads a manifest."""
        self.root.install("perl")
        self.root.write("/run/build/named.pl", (FETCH.parent / "named.pl").read_bytes())

    def blob(self, content: bytes) -> str:
        """Writes a blob; returns its digest."""
        digest = hashlib.sha256(content).hexdigest()
        (self.root / "cache/blobs/sha256" / digest).write_bytes(content)
        return f"sha256:{digest}"

    def fetch(self, name: str, *layers: bytes) -> set[str]:
        """As skopeo fetches an image; returns its blobs."""
        config = self.blob(json.dumps({"layers": [layer.decode() for layer in layers]}).encode())
        digests = [self.blob(layer) for layer in layers]
        manifest = self.blob(
            json.dumps({"config": {"digest": config}, "layers": [{"digest": one} for one in digests]}).encode()
        )
        version = '{"imageLayoutVersion": "1.0.0"}'
        done = self.copy(name, f"echo '{version}' >{WORK}/oci-layout; printf %s {manifest} >/run/digest")
        assert (done.returncode, done.stderr) == (0, "")
        return {one.removeprefix("sha256:") for one in (config, manifest, *digests)}

    def entries(self, folder: str) -> set[str]:
        return {path.name for path in (self.root / folder).iterdir()}

    @property
    def blobs(self) -> set[str]:
        return self.entries("cache/blobs/sha256")

    @property
    def names(self) -> set[str]:
        return self.entries("cache/manifests")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "builder")


def test_what_is_unpacked_is_what_this_builder_fetched(cache: Cache) -> None:
    """And not what another one fetched for the same name meanwhile: they share only what its digest names."""
    cache.fetch("web", b"layer")
    index = json.loads((cache.root / LAYOUT / "index.json").read_text())
    (entry,) = index["manifests"]
    blob = cache.root / "cache/blobs/sha256" / entry["digest"].removeprefix("sha256:")
    assert entry == {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}",
        "size": blob.stat().st_size,
        "annotations": {"org.opencontainers.image.ref.name": "image"},
    }
    assert json.loads((cache.root / LAYOUT / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert (cache.root / LAYOUT / "blobs").readlink() == Path("/cache/blobs")
    assert cache.entries("cache/work") == set()


def manifest_of(cache: Cache, config: bytes, *layers: bytes) -> bytes:
    """Of an image whose blobs the cache has."""
    described = [{"digest": cache.blob(content), "size": len(content)} for content in (config, *layers)]
    return json.dumps({"config": described[0], "layers": described[1:]}).encode()


def hex_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


NEVER = "echo copied >&2; exit 3"


@pytest.mark.parametrize("script", [NEVER, ""])
@pytest.mark.parametrize("given", [False, True])
def test_what_the_cache_has_is_not_fetched_again(cache: Cache, given: bool, script: str) -> None:
    """``given``: the host has the manifest, and the cache has not, as where skopeo has converted it."""
    cache.has_perl()
    manifest = manifest_of(cache, b"{}", b"layer", b"another")
    if given:
        cache.root.write("/run/build/manifest", manifest)
    else:
        cache.blob(manifest)
    cache.root.write("/secrets/auth.json", "login")
    done = cache.copy("web", script, wanted=hex_of(manifest))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (cache.root / "run/digest").read_text().strip() == f"sha256:{hex_of(manifest)}"
    (entry,) = json.loads((cache.root / LAYOUT / "index.json").read_text())["manifests"]
    assert (entry["digest"], entry["size"]) == (f"sha256:{hex_of(manifest)}", len(manifest))
    assert (cache.root / "cache/manifests/web").read_text().strip() == f"sha256:{hex_of(manifest)}"
    assert (cache.root / "cache/blobs/sha256" / hex_of(manifest)).read_bytes() == manifest
    assert not (cache.root / "secrets").exists()
    assert cache.entries("cache/work") == set()


@pytest.mark.parametrize("damage", ["manifest", "config", "missing layer", "short layer", "folder", "index"])
def test_what_is_not_whole_in_the_cache_is_fetched(cache: Cache, damage: str) -> None:
    cache.has_perl()
    manifest = b'{"manifests": []}' if damage == "index" else manifest_of(cache, b"{}", b"layer", b"another")
    cache.blob(manifest)
    blobs = cache.root / "cache/blobs/sha256"
    match damage:
        case "manifest":
            (blobs / hex_of(manifest)).write_bytes(manifest + b" ")
        case "config":
            (blobs / hex_of(b"{}")).write_bytes(b"[]")
        case "missing layer":
            (blobs / hex_of(b"layer")).unlink()
        case "short layer":
            (blobs / hex_of(b"layer")).write_bytes(b"lay")
        case "folder":
            (blobs / hex_of(b"layer")).unlink()
            (blobs / hex_of(b"layer")).mkdir()
    done = cache.copy("web", NEVER, wanted=hex_of(manifest))
    assert (done.returncode, done.stderr) == (3, "copied\n")
    # Where nothing can be fetched, the host has to see to that.
    done = cache.copy("web", "", wanted=hex_of(manifest))
    assert (done.returncode, done.stderr) == (79, "")
    assert not (cache.root / "run/digest").exists()


def test_whoever_copies_finds_a_fresh_layout_on_the_shared_blobs(cache: Cache) -> None:
    cache.fetch("web", b"layer")
    shared = "ls -A .; echo x >blobs/sha256/y; ls blobs/sha256 | wc -l"
    done = cache.copy(
        "web",
        f"cd {WORK}; /bin/busybox sh -c '{shared}'; printf sha256:y >/run/digest; echo >oci-layout",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "blobs\n4\n", "")


@pytest.mark.parametrize("status", [0, 3])
def test_secrets_are_there_for_the_copy_and_gone_after_it(cache: Cache, status: int) -> None:
    cache.fetch("web", b"layer")
    cache.root.write("/secrets/auth.json", "login")
    rest = f"cp /run/digest.before /run/digest; echo >{WORK}/oci-layout; echo failed >&2; exit {status}"
    (cache.root / "run/digest.before").write_text((cache.root / "run/digest").read_text())
    done = cache.copy("web", f"/bin/busybox cat /secrets/auth.json; /bin/busybox sh -c '{rest}'")
    assert (done.returncode, done.stdout, done.stderr) == (status, "login", "failed\n")
    assert not (cache.root / "secrets").exists()
    assert cache.entries("cache/work") == set()


def test_secrets_are_gone_when_the_cache_itself_can_t_be_used(cache: Cache) -> None:
    cache.root.write("/secrets/auth.json", "login")
    shutil.rmtree(cache.root / "cache")
    cache.root.write("/cache", "no folder")
    assert cache.copy("web", "echo never").returncode != 0
    assert not (cache.root / "secrets").exists()


@pytest.mark.parametrize("folder", ["manifests", "blobs", "work"])
def test_what_is_no_folder_of_the_cache_becomes_one(cache: Cache, folder: str) -> None:
    """A builder that an image has taken over may leave what it likes for the others."""
    shutil.rmtree(cache.root / "cache" / folder, ignore_errors=True)
    (cache.root / "cache" / folder).symlink_to("/nowhere")
    blob = f"echo x >{WORK}/blobs/sha256/y; printf sha256:y >/run/digest; echo >{WORK}/oci-layout"
    done = cache.copy("web", blob)
    assert (done.returncode, done.stderr) == (0, "")
    assert cache.blobs == {"y"}
    assert cache.names == {"web"}


@pytest.mark.parametrize(
    "words",
    [
        "copying system image: reading blob sha256:aa: unexpected HTTP status: 503 Service Unavailable",
        "happened during read: unexpected EOF",
        "read tcp 10.0.0.2:4711->10.0.0.1:443: read: connection reset by peer",
        "received unexpected HTTP status: 502 Bad Gateway",
        "Get https://registry.example/v2/: net/http: TLS handshake timeout",
    ],
)
def test_what_may_be_over_the_next_moment_is_tried_again_with_what_has_come(cache: Cache, words: str) -> None:
    first = "echo x >>/tries; echo 1 >blobs/sha256/one; echo part >oci-put-blob1"
    rest = "[ ! -e oci-put-blob1 ]; cat blobs/sha256/one; printf sha256:one >/run/digest; echo >oci-layout"
    script = f"set -e; cd {WORK}; if [ -e /tries ]; then {rest}; else {first}; echo '{words}' >&2; exit 1; fi"
    done = cache.copy("web", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", f"{words}\n\f")
    assert cache.entries("cache/work") == set()


@pytest.mark.parametrize(
    "words",
    [
        "reading manifest latest in registry.example/app: manifest unknown",
        "unauthorized: authentication required",
        "received unexpected HTTP status: 403 Forbidden",
        "fetching blob: received unexpected HTTP status: 404 Not Found",
        "Digest did not match, expected sha256:aa503, got sha256:bb",
        "x509: certificate signed by unknown authority",
        "write oci-put-blob1: no space left on device",
    ],
)
def test_what_will_not_be_over_is_no_cause_to_try_again(cache: Cache, words: str) -> None:
    done = cache.copy("web", f"echo x >>/tries; echo '{words}' >&2; exit 3")
    assert (done.returncode, done.stderr) == (3, f"{words}\n")
    assert (cache.root / "tries").read_text() == "x\n"


def test_a_registry_that_stays_broken_is_given_up_in_its_last_words(cache: Cache) -> None:
    script = 'echo x >>/tries; echo "$(wc -l </tries): unexpected HTTP status: 500" >&2; exit 1'
    done = cache.copy("web", script)
    assert done.returncode == 1
    assert done.stderr.split("\f")[-1] == "4: unexpected HTTP status: 500\n"


def test_a_registry_that_stops_in_the_middle_is_given_up(cache: Cache) -> None:
    """Silence is counted from when something has come last; the one who was waited for is gone."""
    slow = f"cd {WORK}; for i in 1 2 3 4; do echo x >>oci-put-blob1; sleep 1; done; echo done >>/steps"
    done = cache.copy("web", f"{slow}; exec sleep 1000", stall=3)
    assert (done.returncode, done.stderr) == (1, "no data from the registry for 3 s\n")
    assert (cache.root / "steps").read_text() == "done\n"
    assert cache.entries("cache/work") == set()


def test_a_blob_without_end_is_given_up(cache: Cache) -> None:
    done = cache.copy("web", f"exec yes >{WORK}/oci-put-blob1", most=1 << 20)
    assert done.returncode == 1
    assert done.stderr == "more data than the image should have: over 1024 KiB in one piece\n"
    assert cache.entries("cache/work") == set()


# Four builders at once, each with a /run of its own, on a volume that is as $1 says; again and again.
AT_ONCE = """
seeded=$1
for round in $(seq 15); do
	rm -rf /cache/*
	eval "$seeded"
	for builder in 1 2 3 4; do
		unshare -m sh -c '
			mount -t tmpfs run /run
			exec sh /fetch.sh "web$1" "/cache/work/$1" /secrets 0 0 "" sh -c "
				cd /cache/work/$1; echo x >blobs/sha256/$1; echo >oci-layout; echo sha256:$1 >/run/digest"
		' sh "$builder" &
	done
	for builder in 1 2 3 4; do wait "%$builder" || exit 1; done
done
"""


@pytest.mark.parametrize(
    "seeded", ["", "ln -s /nowhere /cache/blobs", "mkdir -p /cache/work/old; touch -d @1 /cache/work/old"]
)
def test_builders_that_begin_at_once_do_not_hurt_each_other(cache: Cache, seeded: str) -> None:
    """What one has just made is not what another clears away."""
    cache.root.write("/fetch.sh", FETCH.read_bytes())
    done = cache.root.sh(AT_ONCE, seeded, "/fetch.sh")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_no_blob_makes_room_for_one(cache: Cache) -> None:
    blobs = cache.root / "cache/blobs/sha256"
    os.mkfifo(blobs / "aa")
    (blobs / "bb/sub").mkdir(parents=True)
    (blobs / "cc").symlink_to("/dev/zero")
    kept = cache.fetch("web", b"layer")
    assert cache.blobs == kept


def test_the_copy_gets_the_variables_as_they_are(cache: Cache) -> None:
    values = {"https_proxy": "http://user:p w$(id)'\"@proxy:1", "NO_PROXY": ""}
    cache.root.write("/secrets/environment", "".join(f"{name}={value}\n" for name, value in values.items()))
    done = cache.copy("web", "/bin/busybox env; exit 1")
    assert {f"{name}={value}" for name, value in values.items()} <= set(done.stdout.splitlines())
    assert not (cache.root / "secrets").exists()


def test_a_copy_that_fails_leaves_what_is_known_of_the_name(cache: Cache) -> None:
    cache.fetch("web", b"layer")
    before = (cache.root / "cache/manifests/web").read_text()
    assert cache.copy("web", f"echo half >{WORK}/oci-put-blob1; exit 1").returncode == 1
    assert (cache.root / "cache/manifests/web").read_text() == before
    assert not (cache.root / LAYOUT / "index.json").exists()


def test_what_a_killed_builder_left_goes_after_a_day(cache: Cache) -> None:
    for name, age in (("builder-old", 2 * 86400), ("builder-busy", 3600)):
        left = cache.root.write(f"/cache/work/{name}/oci-put-blob1", "half a layer").parent
        os.utime(left, (time.time() - age,) * 2)
    cache.fetch("web", b"layer")
    assert cache.entries("cache/work") == {"builder-busy"}
    # When nobody fetches, all of it goes.
    cache("keep", "web")
    assert cache.entries("cache/work") == set()


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


@pytest.mark.parametrize("command", [["keep", "web"], ["keep"], ["forget", "sha256:" + "0" * 64]])
def test_an_empty_cache_is_fine(cache: Cache, command: list[str]) -> None:
    assert cache(*command) == ""


def test_a_damaged_image_is_forgotten_with_all_its_blobs(cache: Cache) -> None:
    db = cache.fetch("db", b"shared", b"only db")
    web = cache.fetch("web", b"shared", b"only web")
    cache("forget", (cache.root / "cache/manifests/web").read_text().strip())
    # Nobody knows which one is damaged: what they share is fetched again for both.
    assert cache.blobs == db - web
    # It can come back, whole.
    assert cache.fetch("web", b"shared", b"only web") == web
    assert web <= cache.blobs


@pytest.mark.parametrize("damage", ["", "{", "sha256:short", "sha256:" + "0" * 64])
def test_a_ruined_record_ruins_nothing_else(cache: Cache, damage: str) -> None:
    cache.fetch("web", b"only web")
    db = cache.fetch("db", b"only db")
    (cache.root / "cache/manifests/web").write_text(damage)
    cache("keep", "web", "db")
    assert cache.blobs == db
    # It is fetched again as if it had never been there.
    web = cache.fetch("web", b"only web")
    cache("keep", "web", "db")
    assert cache.blobs == db | web


def test_a_record_that_names_strange_things_leads_nowhere(cache: Cache) -> None:
    """Only what looks like a digest is ever taken for one."""
    db = cache.fetch("db", b"only db")
    canary = cache.root.write("/build/canary", "x")
    odd = ["sha256:../../../build/canary", "sha256:" + "A" * 64, "$(rm /build/canary)", "sha256:" + "a" * 64]
    (cache.root / "cache/manifests/web").write_text("\n".join(odd))
    for one in odd:
        cache("forget", one)
    cache("keep", "web", "db")
    assert canary.exists()
    assert cache.blobs == db


def test_how_much_of_an_image_has_come(cache: Cache) -> None:
    cache.fetch("web", b"x" * 1000)
    layer, missing = (hashlib.sha256(content).hexdigest() for content in (b"x" * 1000, b"y"))
    assert cache("fetched", WORK, layer) == "1000\n"
    assert cache("fetched", WORK, layer, missing) == "1000\n"
    assert cache("fetched", WORK, missing) == "0\n"
    # What is still coming lies beside the layout's files.
    cache.root.write(f"{WORK}/oci-put-blob1", b"y" * 500)
    assert cache("fetched", WORK, layer, missing) == "1500\n"


def test_an_unknown_command_does_nothing(cache: Cache) -> None:
    blobs = cache.fetch("web", b"layer")
    cache.run("clear", "web")
    assert cache.blobs == blobs
