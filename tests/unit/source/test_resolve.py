"""Resolving against a real docker-registry, with what it was asked counted there, and with real skopeo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lxdocker.errors import ArchMissingError, AuthError, BuildError, ImageMissingError, RegistryError, UnreachableError
from lxdocker.source.credentials import Credentials
from lxdocker.source.known import Known
from lxdocker.source.layout import Layout
from lxdocker.source.registry import RegistryClient
from lxdocker.source.resolve import WORKERS, ResolvedImage, Resolver
from lxdocker.values import Arch, ArchiveKind, Digest, DiskRef, ImageRef, RegistryRef
from tests.registry_server import (
    Blob,
    Certificate,
    Handler,
    Image,
    Images,
    Registry,
    ScriptedServer,
    TokenService,
    make_image,
    make_index,
    registry,
    write_layout,
)

NOBODY = Credentials({"XDG_RUNTIME_DIR": "/nonexistent/run"}, Path("/nonexistent/home"))
MANY = 100

AMD = {"os": "linux", "architecture": "amd64"}
ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}
UNKNOWN = {"os": "unknown", "architecture": "unknown"}


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``many/app0:1`` and on, all the same image."""
    folder = tmp_path_factory.mktemp("registry")
    with registry(folder, storage=folder / "storage") as server:
        images = Images(server.address)
        for number in range(MANY):
            images.push(f"many/app{number}", "1", make_image())
    return folder / "storage"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "r") as running:
        yield running


@pytest.fixture
def ask() -> Iterator[RegistryClient]:
    with RegistryClient(NOBODY, timeout=5) as client:
        yield client


def ref(server: Registry, tag: str = "1", repository: str = "app") -> RegistryRef:
    return RegistryRef(server.address, repository, tag, None)


def asked(server: Registry, at_least: int) -> list[str]:
    return [f"{request.method} {request.path.split('/')[-2]}" for request in server.requests(at_least)]


def digest(blob: Blob) -> Digest:
    return Digest(blob.digest)


@pytest.mark.parametrize("docker", [False, True])
def test_a_bare_manifest(server: Registry, ask: RegistryClient, docker: bool) -> None:
    image = make_image(docker=docker, Entrypoint=["/entry"])
    Images(server.address).push("app", "1", image)
    count = len(server.requests(5))
    resolver = Resolver(ask, Arch.X86_64)
    found = resolver.resolve(ref(server), None)
    assert found.source_digest == found.manifest_digest == digest(image.manifest)
    assert found.config_digest == digest(image.config)
    assert [(layer.digest, layer.size) for layer in found.layers or ()] == [
        (digest(layer), len(layer.content)) for layer in image.layers
    ]
    assert resolver.config(ref(server), found).argv == ("/entry", "/hello")
    # The configuration was fetched once, for its architecture.
    assert asked(server, count + 3)[count:] == ["HEAD manifests", "GET manifests", "GET blobs"]


@pytest.mark.parametrize("docker", [False, True])
def test_an_index_of_many(server: Registry, ask: RegistryClient, docker: bool) -> None:
    amd, arm = make_image(docker=docker), make_image(docker=docker, arch="arm64")
    attestation = make_image(arch="unknown", os="unknown", text="attestation")
    images = Images(server.address)
    for image in (amd, arm, attestation):
        images.push("app", "x", image)
    index = make_index((attestation.manifest, UNKNOWN), (arm.manifest, ARM), (amd.manifest, AMD), docker=docker)
    images.push_manifest("app", "1", index)
    for arch, image in ((Arch.X86_64, amd), (Arch.AARCH64, arm)):
        resolver = Resolver(ask, arch)
        found = resolver.resolve(ref(server), None)
        assert found.source_digest == digest(index)
        assert found.manifest_digest == digest(image.manifest)
        assert resolver.config(ref(server), found).architecture == arch.oci
    with pytest.raises(ArchMissingError, match=r"app:1 is not available for s390x: .* linux/arm64/v8, linux/amd64$"):
        Resolver(ask, Arch.S390X).resolve(ref(server), None)


def test_a_description_costs_four_requests(server: Registry, ask: RegistryClient) -> None:
    amd, arm = make_image(), make_image(arch="arm64")
    images = Images(server.address)
    for image in (amd, arm):
        images.push("app", "x", image)
    attestation = make_image(arch="unknown", os="unknown", text="attestation")
    images.push("app", "x", attestation)
    entries = ((arm.manifest, ARM), (amd.manifest, AMD), (attestation.manifest, UNKNOWN), (amd.manifest, AMD))
    images.push_manifest("app", "1", make_index(*entries))
    count = len(server.requests(16))
    resolver = Resolver(ask, Arch.X86_64)
    found = resolver.describe(ref(server))
    assert asked(server, count + 4)[count:] == ["HEAD manifests", "GET manifests", "GET manifests", "GET blobs"]
    assert found.platforms == ("linux/arm64/v8", "linux/amd64")
    assert (found.image.manifest_digest, found.config.architecture) == (digest(amd.manifest), "amd64")
    images.push("app", "2", amd)
    count = len(server.requests(count + 4))
    pinned = RegistryRef(server.address, "app", None, digest(amd.manifest))
    assert resolver.describe(pinned).platforms == ("linux/amd64",)
    assert "HEAD manifests" not in asked(server, count + 2)[-2:]


@pytest.mark.parametrize("platform", [AMD, None])
def test_an_index_of_one(server: Registry, ask: RegistryClient, platform: dict[str, str] | None) -> None:
    image = make_image()
    images = Images(server.address)
    images.push("app", "x", image)
    images.push_manifest("app", "1", make_index((image.manifest, platform)))
    assert Resolver(ask, Arch.X86_64).resolve(ref(server), None).manifest_digest == digest(image.manifest)


def test_an_index_in_an_index_but_no_deeper(server: Registry, ask: RegistryClient) -> None:
    amd, arm = make_image(), make_image(arch="arm64")
    images = Images(server.address)
    for image in (amd, arm):
        images.push("app", "x", image)
    first, second = make_index((arm.manifest, ARM)), make_index((amd.manifest, AMD))
    outer = make_index((first, None), (second, None))
    for tag, index in (("a", first), ("b", second), ("1", outer), ("2", make_index((outer, None)))):
        images.push_manifest("app", tag, index)
    resolver = Resolver(ask, Arch.X86_64)
    found = resolver.resolve(ref(server), None)
    assert (found.source_digest, found.manifest_digest) == (digest(outer), digest(amd.manifest))
    with pytest.raises(ArchMissingError):
        resolver.resolve(ref(server, "2"), None)


def test_the_wrong_architecture(server: Registry, ask: RegistryClient) -> None:
    images = Images(server.address)
    images.push("app", "1", make_image(arch="arm64"))
    resolver = Resolver(ask, Arch.X86_64)
    with pytest.raises(ArchMissingError, match="needed: linux/amd64, available: linux/arm64"):
        resolver.resolve(ref(server), None)
    # An index that lies is found out before anything is built.
    images.push_manifest("app", "2", make_index((make_image(arch="arm64").manifest, AMD)))
    found = resolver.resolve(ref(server, "2"), None)
    with pytest.raises(ArchMissingError):
        resolver.config(ref(server, "2"), found)


def test_a_configuration_that_can_not_be_used(server: Registry, ask: RegistryClient) -> None:
    Images(server.address).push("app", "1", make_image(Env=["A=\0"]))
    with pytest.raises(BuildError, match=r"app:1 cannot be used: config\.Env\[0\]"):
        Resolver(ask, Arch.X86_64).resolve(ref(server), None)


def test_what_is_known_costs_one_head_and_what_is_new_is_fetched(server: Registry, ask: RegistryClient) -> None:
    images = Images(server.address)
    images.push("app", "1", make_image())
    resolver = Resolver(ask, Arch.X86_64)
    known = replace(resolver.resolve(ref(server), None), layers=None)
    count = len(server.requests(8))
    assert resolver.resolve(ref(server), known) is known
    assert asked(server, count + 1)[count:] == ["HEAD manifests"]
    newer = make_image(text="newer")
    images.push("app", "1", newer)
    found = resolver.resolve(ref(server), known)
    assert found.source_digest == digest(newer.manifest)
    assert found.layers


def test_a_digest_is_its_own_answer(server: Registry, ask: RegistryClient) -> None:
    image = make_image()
    Images(server.address).push("app", "1", image)
    pinned = ref(server).at(digest(image.manifest))
    resolver = Resolver(ask, Arch.X86_64)
    known = resolver.resolve(pinned, None)
    count = len(server.requests(7))
    assert resolver.resolve(pinned, known) is known
    assert len(server.requests()) == count


def test_an_index_whose_manifest_is_an_index_is_refused(ask: RegistryClient) -> None:
    inner = make_index((make_image().manifest, AMD))
    lying = make_index((Blob(inner.content, "application/vnd.oci.image.manifest.v1+json"), AMD))
    blobs = {blob.digest: blob for blob in (inner, lying)}

    def answer(handler: Handler) -> None:
        blob = blobs.get(handler.path.split("/")[-1], lying)
        handler.reply(200, blob.content, {"Docker-Content-Digest": blob.digest})

    with ScriptedServer(answer) as scripted, pytest.raises(RegistryError, match="is another index"):
        Resolver(ask, Arch.X86_64).resolve(RegistryRef(scripted.address, "app", "1", None), None)


# Many at once.


def known_of(image: Image) -> ResolvedImage:
    return ResolvedImage(digest(image.manifest), digest(image.manifest), digest(image.config), None)


def test_many_in_order_and_each_asked_once(tmp_path: Path, storage: Path, ask: RegistryClient) -> None:
    with registry(tmp_path / "r", storage=storage) as server:
        known = known_of(make_image())
        refs = [ref(server, repository=f"many/app{number}") for number in range(MANY)]
        wanted: list[tuple[Any, Any]] = [(item, known) for item in refs]
        wanted[10:10] = [(ref(server, repository="many/none"), None), (refs[0], None), (refs[0], known)]
        wanted.append((ref(server, tag="none", repository="many/app1"), known))
        found = Resolver(ask, Arch.X86_64).resolve_all(wanted)
        assert len(found) == MANY + 4
        assert isinstance(found[10], ImageMissingError)
        assert "many/none:1" in str(found[10])
        assert isinstance(found[-1], ImageMissingError)
        assert all(item is known for number, item in enumerate(found) if number not in (10, MANY + 3))
        # What a HEAD does not find, a GET may.
        seen = server.requests(MANY + 4)
        assert len(seen) == MANY + 4
        assert [request.status for request in seen if request.method == "GET"] == [404, 404]


def test_the_same_reference_with_different_pasts(server: Registry, ask: RegistryClient) -> None:
    image = make_image()
    Images(server.address).push("app", "1", image)
    now, past = known_of(image), known_of(make_image(text="older"))
    wanted = [(ref(server), past), (ref(server), now), (ref(server), None)]
    first, second, third = Resolver(ask, Arch.X86_64).resolve_all(wanted)
    assert isinstance(first, ResolvedImage)
    assert first.layers
    assert second is now
    assert third == first


@pytest.mark.parametrize("first", ["recorded", "new"])
def test_what_one_spec_has_recorded_spares_all_of_the_same_reference_a_fetch(
    server: Registry, ask: RegistryClient, first: str
) -> None:
    image = make_image()
    Images(server.address).push("app", "1", image)
    before = len(server.requests(5))
    known = known_of(image)
    wanted = [(ref(server), known), (ref(server), None)]
    found = Resolver(ask, Arch.X86_64).resolve_all(wanted if first == "recorded" else wanted[::-1])
    assert found == [known, known]
    assert [request.method for request in server.requests(before + 1)[before:]] == ["HEAD"]


def test_one_bad_registry_does_not_hold_up_the_others(tmp_path: Path, storage: Path, ask: RegistryClient) -> None:
    with ScriptedServer(lambda handler: None) as gone:
        address = gone.address
    with registry(tmp_path / "r", storage=storage) as server:
        wanted: list[tuple[Any, Any]] = []
        for number in range(20):
            wanted.append((ref(server, repository=f"many/app{number}"), None))
            wanted.append((RegistryRef(address, f"app{number}", "1", None), None))
        found = Resolver(ask, Arch.X86_64).resolve_all(wanted, workers=4)
    assert all(isinstance(item, ResolvedImage) for item in found[::2])
    assert all(isinstance(item, UnreachableError) for item in found[1::2])


def test_nothing_wanted(ask: RegistryClient) -> None:
    assert Resolver(ask, Arch.X86_64).resolve_all([]) == []


def test_a_bug_is_not_swallowed(ask: RegistryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "head", lambda ref: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Resolver(ask, Arch.X86_64).resolve_all([(RegistryRef("127.0.0.1:1", "app", "1", None), None)])


def test_ctrl_c_does_not_wait_for_a_registry() -> None:
    script = """
import os, signal, sys, threading
from pathlib import Path
from lxdocker.source.credentials import Credentials
from lxdocker.source.registry import RegistryClient
from lxdocker.source.resolve import Resolver
from lxdocker.values import Arch, RegistryRef
with RegistryClient(Credentials({}, Path("/nonexistent")), timeout=60) as ask:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if the tests run in the background
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    wanted = [(RegistryRef(sys.argv[1], f"app{n}", "1", None), None) for n in range(40)]
    Resolver(ask, Arch.X86_64).resolve_all(wanted)
"""
    release = threading.Event()
    with ScriptedServer(lambda handler: (release.wait(20), None)[1]) as silent:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", script, silent.address], capture_output=True, timeout=20, check=False, env=_environ()
        )
        took = time.monotonic() - started
        release.set()
    assert b"KeyboardInterrupt" in done.stderr
    assert took < 5


def _environ() -> dict[str, str]:
    root = Path(__file__).parents[3]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "HOME": "/nonexistent"}


HUNDRED = """
import json, sys
from lxdocker.source.credentials import Credentials
from lxdocker.source.registry import RegistryClient
from lxdocker.source.resolve import ResolvedImage, Resolver
from lxdocker.values import Arch, Digest, RegistryRef
address, count, source, config = sys.argv[1:]
known = ResolvedImage(Digest(source), Digest(source), Digest(config), None)
with RegistryClient(Credentials()) as ask:
    wanted = [(RegistryRef(address, f"many/app{n}", "1", None), known) for n in range(int(count))]
    found = Resolver(ask, Arch.X86_64).resolve_all(wanted)
assert all(item is known for item in found), found
heavy = [name for name in ("requests", "sh", "concurrent.futures", "asyncio") if name in sys.modules]
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
print(json.dumps([peak, heavy]))
"""


@pytest.mark.parametrize("mode", ["open", "tokens"])
def test_a_hundred_unchanged_cost_a_head_each(tmp_path: Path, storage: Path, mode: str) -> None:
    """In a process of its own, which imports and holds little for it."""
    image = make_image()
    with TokenService(Certificate.make(tmp_path / "c")) as tokens:
        tokens.everyone = "many/"
        closed = tokens if mode == "tokens" else None
        with registry(tmp_path / "r", storage=storage, tokens=closed) as server:
            argv = [
                sys.executable,
                "-c",
                HUNDRED,
                server.address,
                str(MANY),
                image.manifest.digest,
                image.config.digest,
            ]
            done = subprocess.run(argv, capture_output=True, text=True, check=True, env=_environ())
            # With tokens, one more: the refusal that says where to get them.
            count = MANY + (1 if closed else 0)
            seen = server.requests(count)
    assert len(seen) == count, sorted((one.path, one.status) for one in seen)
    assert {request.method for request in seen} == {"HEAD"}
    peak, heavy = json.loads(done.stdout)
    assert heavy == []
    assert peak < 60_000  # KiB


def test_many_are_asked_at_once(ask: RegistryClient) -> None:
    """A registry that answers only when as many ask as may at a time: one after the other, none would be answered."""
    together = threading.Barrier(WORKERS, timeout=20)
    digest = "sha256:" + "0" * 64

    def answer(handler: Handler) -> None:
        if "/first/" not in handler.path:
            together.wait()
        handler.reply(200, headers={"Docker-Content-Digest": digest})

    known = ResolvedImage(Digest(digest), Digest(digest), Digest(digest), None)
    with ScriptedServer(answer) as server:
        ask.head(RegistryRef(server.address, "first", "1", None))  # learns that it speaks plain http
        wanted: list[tuple[Any, Any]] = [
            (RegistryRef(server.address, f"app{n}", "1", None), known) for n in range(WORKERS * 2)
        ]
        assert Resolver(ask, Arch.X86_64).resolve_all(wanted) == [known] * WORKERS * 2


# What is known.


def test_what_a_registry_has_sent_is_not_asked_for_again(server: Registry, tmp_path: Path) -> None:
    image = make_image()
    index = make_index((image.manifest, AMD))
    images = Images(server.address)
    images.push("app", "x", image)
    images.push_manifest("app", "1", index)
    count = len(server.requests(6))
    found = []
    for _ in range(2):
        with RegistryClient(NOBODY, timeout=5) as client:
            resolver = Resolver(client, Arch.X86_64, Known(tmp_path / "cache"))
            resolved = resolver.resolve(ref(server), None)
            found.append((resolved, resolver.config(ref(server), resolved)))
            assert resolver.known_manifest(resolved) == image.manifest.content
    assert found[0] == found[1]
    first = ["HEAD manifests", "GET manifests", "GET manifests", "GET blobs"]
    assert asked(server, count + 5)[count:] == [*first, "HEAD manifests"]
    # The way to the blobs shows only where one is asked for.
    with RegistryClient(NOBODY, timeout=5) as client:
        resolver = Resolver(client, Arch.X86_64, Known(tmp_path / "cache"))
        assert resolver.config(ref(server), found[0][0], anew=True) == found[0][1]
    assert asked(server, count + 6)[count + 5 :] == ["GET blobs"]


def test_a_damaged_copy_is_asked_for_again(server: Registry, ask: RegistryClient, tmp_path: Path) -> None:
    image = make_image()
    Images(server.address).push("app", "1", image)
    Resolver(ask, Arch.X86_64, Known(tmp_path)).resolve(ref(server), None)
    for path in tmp_path.glob("[0-9a-f]*"):
        if path.is_file():
            path.write_bytes(b"{}")
    resolver = Resolver(ask, Arch.X86_64, Known(tmp_path))
    assert resolver.config(ref(server), resolver.resolve(ref(server), None)).argv == ("/hello",)


@pytest.mark.parametrize("by_digest", [False, True])
def test_a_known_image_is_none_of_a_user_whose_login_was_revoked(tmp_path: Path, by_digest: bool) -> None:
    """Whoever knows a digest may still not have the image."""
    image = make_image()
    storage = tmp_path / "storage"
    with registry(tmp_path / "open", storage=storage) as server, RegistryClient(NOBODY, timeout=5) as client:
        Images(server.address).push("app", "1", image)
        wanted = ref(server).at(digest(image.manifest)) if by_digest else ref(server)
        resolver = Resolver(client, Arch.X86_64, Known(tmp_path / "cache"))
        known = resolver.resolve(wanted, None)
        assert resolver.config(wanted, known)
    with (
        registry(tmp_path / "closed", storage=storage, htpasswd=True) as server,
        RegistryClient(NOBODY, timeout=5) as client,
    ):
        wanted = replace(wanted, registry=server.address)
        resolver = Resolver(client, Arch.X86_64, Known(tmp_path / "cache"))
        with pytest.raises(AuthError):
            resolver.resolve(wanted, None)
        if by_digest:
            assert resolver.resolve(wanted, known) is known  # nothing new, so nothing is asked
            with pytest.raises(AuthError):
                resolver.config(wanted, known)


def test_a_digest_costs_one_question_where_all_of_it_is_known(server: Registry, tmp_path: Path) -> None:
    image = make_image()
    Images(server.address).push("app", "1", image)
    count = len(server.requests(5))
    wanted = ref(server).at(digest(image.manifest))
    for _ in range(2):
        with RegistryClient(NOBODY, timeout=5) as client:
            resolver = Resolver(client, Arch.X86_64, Known(tmp_path / "cache"))
            assert resolver.config(wanted, resolver.resolve(wanted, None)).argv == ("/hello",)
    assert asked(server, count + 3)[count:] == ["GET manifests", "GET blobs", "HEAD manifests"]


# On disk.


def test_images_on_disk(tmp_path: Path, ask: RegistryClient) -> None:
    amd, arm = make_image(), make_image(arch="arm64")
    index = make_index((amd.manifest, AMD), (arm.manifest, ARM))
    folder = write_layout(tmp_path / "image", [amd, arm], [(index, "many"), (amd.manifest, "one")], [index])
    resolver = Resolver(ask, Arch.X86_64)
    many, one = (DiskRef(ArchiveKind.OCI_LAYOUT, folder, tag) for tag in ("many", "one"))
    first, second = resolver.resolve_all([(many, None), (one, None)])
    assert isinstance(first, ResolvedImage)
    assert first == replace(known_of(amd), source_digest=digest(index), layers=first.layers)
    assert isinstance(second, ResolvedImage)
    assert first.layers == second.layers
    assert (second.source_digest, second.manifest_digest) == (digest(amd.manifest), digest(amd.manifest))
    assert second.layers
    assert resolver.resolve(one, second) is second
    for item, resolved in ((many, first), (one, second), (one, second)):
        assert resolver.config(item, resolved).argv == ("/hello",)
    with pytest.raises(ArchMissingError, match="needed: linux/s390x, available: linux/amd64, linux/arm64/v8"):
        Resolver(ask, Arch.S390X).resolve(many, None)
    with pytest.raises(ArchMissingError, match="needed: linux/arm64, available: linux/amd64"):
        Resolver(ask, Arch.AARCH64).resolve(one, None)
    (missing,) = resolver.resolve_all([(replace(one, tag="none"), None)])
    assert isinstance(missing, ImageMissingError)


LAYOUTS: dict[str, Callable[[Blob, Blob], list[tuple[Blob, str | None]]]] = {
    "one index of indexes": lambda first, second: [(make_index((first, AMD), (second, ARM)), "1")],
    "indexes without a name": lambda first, second: [(second, None), (first, None)],
    "indexes of one name": lambda first, second: [(second, "1"), (first, "1")],
    "one index under two names": lambda first, second: [(make_index((first, AMD), (second, ARM)), tag) for tag in "12"],
}


def archive(folder: Path, suffix: str) -> Path:
    """The tar of a layout, as tools write it."""
    subprocess.run(
        ["tar", "-C", str(folder), "--auto-compress", "--dereference", "-cf", f"{folder}.{suffix}", "."], check=True
    )
    return Path(f"{folder}.{suffix}")


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("suffix", ["", "tar", "tar.gz"])
def test_a_layout_with_an_index_for_each_platform(
    tmp_path: Path, ask: RegistryClient, names: Callable[[Blob, Blob], list[tuple[Blob, str | None]]], suffix: str
) -> None:
    amd, arm = make_image(), make_image(arch="arm64")
    attestation = make_image(arch="unknown", os="unknown", text="attestation")
    first = make_index((amd.manifest, AMD), (attestation.manifest, UNKNOWN))
    second = make_index((arm.manifest, ARM), (attestation.manifest, UNKNOWN))
    top = names(first, second)
    blobs = [first, second, *(blob for blob, _ in top)]
    folder = write_layout(tmp_path / "image", [amd, arm, attestation], top, blobs)
    item = DiskRef(ArchiveKind.OCI_LAYOUT, folder, None)
    if suffix:
        item = DiskRef(ArchiveKind.OCI_ARCHIVE, archive(folder, suffix), None)
    for arch, image in ((Arch.X86_64, amd), (Arch.AARCH64, arm)):
        resolver = Resolver(ask, arch)
        found = resolver.resolve(item, None)
        assert (found.manifest_digest, found.config_digest) == (digest(image.manifest), digest(image.config))
        assert resolver.resolve(item, found) is found
        assert resolver.config(item, found).architecture == arch.oci
    with pytest.raises(ArchMissingError, match="needed: linux/s390x, available: ") as caught:
        Resolver(ask, Arch.S390X).resolve(item, None)
    there = caught.value.details.partition("available: ")[2].split(", ")
    assert [name.removesuffix("/v8") for name in sorted(there)] == ["linux/amd64", "linux/arm64"]


def test_an_archive_of_another_compression_is_left_to_skopeo(tmp_path: Path, ask: RegistryClient) -> None:
    image = make_image()
    folder = write_layout(tmp_path / "image", [image], [(image.manifest, None)], [])
    item = DiskRef(ArchiveKind.OCI_ARCHIVE, archive(folder, "tar.zst"), None)
    resolver = Resolver(ask, Arch.X86_64)
    found = resolver.resolve(item, None)
    assert found.manifest_digest == digest(image.manifest)
    assert resolver.config(item, found).argv == ("/hello",)


@pytest.mark.parametrize("place", ["disk", "registry"])
def test_manifests_without_a_platform_are_told_by_their_configurations(
    tmp_path: Path, ask: RegistryClient, server: Registry, place: str
) -> None:
    amd, arm = make_image(), make_image(arch="arm64")
    item: ImageRef
    if place == "disk":
        folder = write_layout(tmp_path / "image", [amd, arm], [(arm.manifest, None), (amd.manifest, None)], [])
        item = DiskRef(ArchiveKind.OCI_LAYOUT, folder, None)
    else:
        images = Images(server.address)
        for image in (amd, arm):
            images.push("app", "x", image)
        images.push_manifest("app", "1", make_index((arm.manifest, None), (amd.manifest, None)))
        item = ref(server)
    for arch, image in ((Arch.X86_64, amd), (Arch.AARCH64, arm)):
        assert Resolver(ask, arch).resolve(item, None).manifest_digest == digest(image.manifest)
    with pytest.raises(ArchMissingError):
        Resolver(ask, Arch.S390X).resolve(item, None)


def test_names_in_a_layout(tmp_path: Path, ask: RegistryClient) -> None:
    one, two = make_image(text="1"), make_image(text="2")
    names: list[tuple[Blob, str | None]] = [
        (one.manifest, "docker.io/library/app:1"),
        (two.manifest, "2"),
        (two.manifest, "two"),
    ]
    folder = write_layout(tmp_path / "image", [one, two], names, [])
    resolver = Resolver(ask, Arch.X86_64)
    for tag, image in (("1", one), ("2", two), ("two", two)):
        found = resolver.resolve(DiskRef(ArchiveKind.OCI_LAYOUT, folder, tag), None)
        assert found.manifest_digest == digest(image.manifest)
    with pytest.raises(ImageMissingError, match=r"its tags are: 2, docker\.io/library/app:1, two"):
        resolver.resolve(DiskRef(ArchiveKind.OCI_LAYOUT, folder, "none"), None)
    with pytest.raises(ImageMissingError, match="has more than one image"):
        resolver.resolve(DiskRef(ArchiveKind.OCI_LAYOUT, folder, None), None)


def instead(path: Path) -> Path:
    path.unlink()
    return path


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (shutil.rmtree, "does not exist"),
    "no index": (lambda folder: (folder / "index.json").rename(folder / "x"), r"it has no index\.json"),
    "no blob": (lambda folder: shutil.rmtree(folder / "blobs"), "it has no blobs/sha256/"),
    "an empty index": (lambda folder: (folder / "index.json").write_text('{"manifests": []}'), "is empty"),
    "a page": (lambda folder: (folder / "index.json").write_text("<html>"), "not a JSON object"),
    "a pipe": (lambda folder: subprocess.run(["mkfifo", instead(folder / "index.json")], check=True), "is not a file"),
    "a folder": (lambda folder: subprocess.run(["mkdir", instead(folder / "index.json")], check=True), "is not a file"),
    "a large one": (lambda folder: (folder / "index.json").write_text(" " * 5_000_000), "larger than 4096 KiB"),
    "damage": (lambda folder: [path.write_text("{}") for path in folder.glob("blobs/sha256/*")], "its blob sha256"),
}


@pytest.mark.parametrize(("change", "why"), BROKEN.values(), ids=BROKEN)
def test_a_layout_that_is_none_is_told_with_the_reason(
    tmp_path: Path, ask: RegistryClient, change: Callable[[Path], object], why: str
) -> None:
    image = make_image()
    folder = write_layout(tmp_path / "image", [image], [(image.manifest, None)], [])
    change(folder)
    with pytest.raises(RegistryError, match=why) as caught:
        Resolver(ask, Arch.X86_64).resolve(DiskRef(ArchiveKind.OCI_LAYOUT, folder, None), None)
    assert f"oci:{folder}" in caught.value.brief
    assert caught.value.resolution


def test_an_archive_that_is_cut_off(tmp_path: Path, ask: RegistryClient) -> None:
    image = make_image()
    folder = write_layout(tmp_path / "image", [image], [(image.manifest, None)], [])
    for suffix in ("tar", "tar.gz"):
        path = archive(folder, suffix)
        os.truncate(path, path.stat().st_size // 2 if suffix == "tar.gz" else 1024)
        with pytest.raises(RegistryError) as caught:
            Resolver(ask, Arch.X86_64).resolve(DiskRef(ArchiveKind.OCI_ARCHIVE, path, None), None)
        assert f"oci-archive:{path}" in caught.value.brief


def test_a_builder_gets_the_one_image_that_was_chosen(tmp_path: Path) -> None:
    amd, arm = make_image(), make_image(arch="arm64", text="arm")
    folder = write_layout(tmp_path / "image", [amd, arm], [(arm.manifest, None), (amd.manifest, None)], [])
    (folder / "secret.txt").write_text("not part of it")
    items = [DiskRef(ArchiveKind.OCI_LAYOUT, folder, None)]
    (folder / "blobs").rename(tmp_path / "shared")  # as some tools keep them
    (folder / "blobs").symlink_to("../shared")
    items += [DiskRef(ArchiveKind.OCI_ARCHIVE, archive(folder, suffix), None) for suffix in ("tar", "tar.gz")]
    for number, item in enumerate(items):
        packed = tmp_path / f"{number}.tar"
        with Layout(item) as layout:
            packed.write_bytes(b"".join(layout.pack(digest(arm.manifest))))
        with tarfile.open(packed) as tar:
            names = {member.name for member in tar}
        wanted = {f"blobs/sha256/{blob.digest[7:]}" for blob in (arm.manifest, arm.config, *arm.layers)}
        assert names == {"oci-layout", "index.json", *wanted}
        copied = tmp_path / f"copy{number}"
        subprocess.run(["skopeo", "copy", f"oci-archive:{packed}", f"dir:{copied}"], check=True, capture_output=True)
        assert (copied / "manifest.json").read_bytes() == arm.manifest.content


def test_an_image_on_disk_that_changes_meanwhile(tmp_path: Path, ask: RegistryClient) -> None:
    old, new = make_image(), make_image(text="new", Cmd=["/new"])
    folder = write_layout(tmp_path / "image", [old, new], [(old.manifest, "1")], [])
    item = DiskRef(ArchiveKind.OCI_LAYOUT, folder, "1")
    resolved = Resolver(ask, Arch.X86_64).resolve(item, None)
    document = json.loads((folder / "index.json").read_text())
    document["manifests"][0].update(new.manifest.descriptor)
    (folder / "index.json").write_text(json.dumps(document))
    with pytest.raises(RegistryError, match="changed while lxdocker read it"):
        Resolver(ask, Arch.X86_64).config(item, resolved)
