"""How an image is built, step by step, inside a fresh builder."""

from __future__ import annotations

import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO

from lxdocker import artifact, skopeo
from lxdocker.artifact import Artifact
from lxdocker.builder.instance import GO_STACK, Builder, explain
from lxdocker.errors import BuildError, ImageMissingError, LxdError, LxdockerError
from lxdocker.lxd import Cancelled
from lxdocker.oci import OciConfig
from lxdocker.runtime import render
from lxdocker.spec import Behaviour
from lxdocker.values import Arch, ArchiveKind, DiskRef, ImageName, RegistryRef

HERE = Path(__file__).parent
CACHE = HERE / "cache.sh"
FETCH = HERE / "fetch.sh"
UNPACK = HERE / "unpack.sh"
PACK = HERE / "pack.sh"
INJECTING_FAILED = 70  # pack.sh's exit status for it
UNPACKING_FAILED = 71  # unpack.sh's
BUSYBOX = "/bin/busybox"
ROOTFS = "/build/rootfs"
SQUASHFS = "/build/rootfs.squashfs"
LAYOUT = PurePath("/run/layout")  # as fetch.sh makes it
DIGEST = PurePath("/run/digest")
RUNTIME = PurePath("/run/runtime.tar")  # not below /build, which may be mounted over in between
SECRETS = PurePath("/dev/lxdocker-secrets")  # in memory, and gone before any layer is unpacked
AUTHFILE = SECRETS / "auth.json"
TAG = "image"
# Where unpacking fails, umoci (0.4.7) may close a layer that it is still reading and crash instead of saying why.
UNPACK_TRIES = 4
PACK_MEMORY = "512M"  # mksquashfs would size its buffers by the host's memory, not the builder's

# The most that a root filesystem and its squashfs may take of it: with mksquashfs, less than the profile's limit.
MEMORY_KIB = 1 << 20

Phase = Callable[[str], None]
Bytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything one build needs to know."""

    name: ImageName
    source: RegistryRef | DiskRef  # by digest where it is in a registry
    config: OciConfig
    supervise: bool
    behaviour: Behaviour
    arch: Arch
    properties: tuple[tuple[str, str], ...]  # of metadata.yaml
    compression_level: int  # zstd, 1 to 22
    timeout: float  # seconds, for each step
    verify_tls: bool
    authfile: str | None  # JSON; the login this source needs
    layers: tuple[str, ...]  # hex digests, as far as they are known
    certificates: Path | None  # folder with the registry's own CA and client certificates
    gzip_layers: bool  # some layer is in a format that umoci can't unpack
    environment: dict[str, str]  # proxies
    in_memory: bool  # whether a small image may be unpacked in memory, not on disk


def build_image(builder: Builder, recipe: Recipe, folder: Path, phase: Phase, count: Bytes) -> Artifact:
    """Fetches, unpacks, injects and packs; streams the result into ``folder``.

    Tells ``phase`` what it is at, and ``count`` how many more bytes have come. Raises BuildError with the failing
    tool's own words.
    """
    phase("fetch")
    runtime = render.runtime_tar(recipe.config, recipe.behaviour, supervise=recipe.supervise)
    with ThreadPoolExecutor(1, thread_name_prefix="push") as helper:
        pushing = helper.submit(builder.push, str(RUNTIME), runtime)
        fetch(builder, recipe, count)
        pushing.result()
    phase("unpack and pack")
    if not unpack_and_pack(builder, recipe):
        # A blob in the shared cache is not what its name says. It is fetched again, once.
        cache(builder, "forget")
        fetch(builder, recipe, count)
        unpack_and_pack(builder, recipe, final=True)
    phase("read out")
    return read_out(builder, recipe, folder, count)


def fetch(builder: Builder, recipe: Recipe, count: Bytes) -> None:
    """Copies the image by digest into the layer cache; blobs that are there are not fetched again."""
    work = PurePath("/cache/work", builder.name)
    try:
        _push_secrets(builder, recipe)
        if isinstance(recipe.source, DiskRef):
            source = _push_from_disk(builder, recipe.source)
        else:
            source = skopeo.source_name(recipe.source)
        copy = skopeo.copy_argv(
            source,
            skopeo.disk_name(ArchiveKind.OCI_LAYOUT, work, TAG),
            recipe.arch,
            skopeo.CopyOptions(
                authfile=AUTHFILE if recipe.authfile else None,
                cert_dir=SECRETS if recipe.certificates else None,
                digestfile=DIGEST,
                tls_verify=recipe.verify_tls,
                gzip_layers=recipe.gzip_layers,
            ),
        )
        script = [BUSYBOX, "sh", "-c", FETCH.read_text(), "fetch", recipe.name.value, str(work), str(SECRETS)]
        result = builder.try_run(
            [*script, *builder.connected(copy)],
            environment=recipe.environment,
            timeout=recipe.timeout,
            tick=_fetch_watch(builder, recipe, work, count),
        )
    except LxdockerError:
        # fetch.sh has not come to its end, and the builder may be kept to look around in.
        if recipe.authfile or recipe.certificates:
            with suppress(LxdError):
                builder.try_run([BUSYBOX, "rm", "-rf", str(SECRETS)], timeout=30)
        raise
    builder.check_connection(result)
    if result.status != 0:
        raise explain(f"fetching {recipe.source}", result)


def _push_secrets(builder: Builder, recipe: Recipe) -> None:
    """Puts the login for the source where only skopeo finds it."""
    if recipe.authfile or recipe.certificates:
        builder.run("preparing the login", [BUSYBOX, "mkdir", "-p", "-m", "700", str(SECRETS)], timeout=30)
    if recipe.authfile:
        builder.push(str(AUTHFILE), recipe.authfile.encode())
    if recipe.certificates:
        for path in recipe.certificates.iterdir():
            if path.suffix in {".crt", ".cert", ".key"}:
                builder.push(str(SECRETS / path.name), path.read_bytes())


def _fetch_watch(builder: Builder, recipe: Recipe, work: PurePath, count: Bytes) -> Callable[[], None]:
    """Looks about once a second how far the fetching is: skopeo itself tells only a terminal."""
    seen = 0

    def look() -> None:
        nonlocal seen
        argv = [BUSYBOX, "sh", "-c", CACHE.read_text(), "cache", "fetched", str(work), *recipe.layers]
        try:
            # LXD forgets an operation 5 s after its end, so there is no time to wait for long.
            there = builder.try_run(argv, timeout=2, output=True).stdout.strip()
        except Cancelled:
            raise
        except LxdError:
            return  # what only tells of the work must not end it
        if there.isdigit():
            count(max(0, int(there) - seen))
            seen = max(seen, int(there))

    return look


def unpack_and_pack(builder: Builder, recipe: Recipe, *, final: bool = False) -> bool:
    """Makes the root filesystem from the layers, puts the runtime into it, and makes the squashfs: one command, since
    LXD takes a tenth of a second to start any. Returns False for a damaged blob, unless this try is final.
    """
    memory = MEMORY_KIB if recipe.in_memory else 0
    image = f"{LAYOUT}:{TAG}"
    argv = [BUSYBOX, "sh", "-c", UNPACK.read_text(), "unpack", str(memory), ROOTFS, image, " ".join(recipe.layers)]
    argv += _pack_argv(recipe)
    for _ in range(UNPACK_TRIES):
        result = builder.try_run(argv, timeout=recipe.timeout)
        if result.status == 0:
            return True
        if result.status != UNPACKING_FAILED or GO_STACK not in result.stderr:
            break
    if result.status == INJECTING_FAILED:
        raise explain(f"injecting the runtime into {recipe.source}", result)
    if result.status != UNPACKING_FAILED:
        raise explain(f"packing {recipe.source}", result)
    if not final and re.search(
        r"digest|checksum|hash|unexpected EOF|gzip: invalid|no such file", result.stderr, re.IGNORECASE
    ):
        return False
    raise explain(f"unpacking {recipe.source}", result)


def _pack_argv(recipe: Recipe) -> list[str]:
    """The command that makes the squashfs of the root filesystem and the runtime; of the same ones the same bytes,
    whenever and wherever.
    """
    created = str(recipe.config.created)
    options = ["-noappend", "-no-progress", "-quiet", "-comp", "zstd", "-mem", PACK_MEMORY]
    options += ["-Xcompression-level", str(recipe.compression_level), "-mkfs-time", created]
    injection = [render.INJECT.read_text(), ROOTFS, created, str(RUNTIME)]
    return [BUSYBOX, "sh", "-c", PACK.read_text(), "pack", *injection, "mksquashfs", ROOTFS, SQUASHFS, *options]


def read_out(builder: Builder, recipe: Recipe, folder: Path, count: Bytes) -> Artifact:
    """Streams the squashfs to this host, beside its metadata."""
    metadata = render.image_metadata(recipe.arch, recipe.config.created, dict(recipe.properties))
    with closing(builder.pull(SQUASHFS)) as squashfs:
        return artifact.write(folder, metadata, squashfs, count)


def keep_only(builder: Builder, names: list[ImageName]) -> None:
    """Drops from the layer cache whatever none of these images needs."""
    cache(builder, "keep", *(name.value for name in names))


def cache(builder: Builder, *arguments: str) -> None:
    """One command of cache.sh."""
    builder.run("keeping the layer cache", [BUSYBOX, "sh", "-c", CACHE.read_text(), "cache", *arguments], timeout=300)


def _push_from_disk(builder: Builder, ref: DiskRef) -> str:
    """Streams an image on this host's disk into the builder; returns how skopeo finds it there."""
    target = "/build/source.tar"
    try:
        if ref.kind is ArchiveKind.OCI_LAYOUT:
            builder.push(target, _layout_as_tar(ref.path))
            kind = ArchiveKind.OCI_ARCHIVE
        else:
            with ref.path.open("rb") as archive:
                builder.push(target, iter(lambda: archive.read(artifact.CHUNK), b""))
            kind = ref.kind
    except OSError as error:
        raise ImageMissingError(f"reading {ref} failed", str(error), "correct the path in the spec") from error
    return skopeo.disk_name(kind, PurePath(target), ref.tag)


def _layout_as_tar(layout: Path) -> Iterator[bytes]:
    """An OCI layout folder as the tar that skopeo calls oci-archive, as a stream."""
    reading, writing = os.pipe()

    def write(sink: IO[bytes]) -> None:
        with sink, tarfile.open(fileobj=sink, mode="w|", dereference=True) as tar:
            for name in ("oci-layout", "index.json", "blobs"):
                tar.add(layout / name, name)

    failure: list[BaseException] = []

    def run() -> None:
        try:
            write(os.fdopen(writing, "wb"))
        except BaseException as error:  # handed to the reading side, which raises it
            failure.append(error)

    for name in ("oci-layout", "index.json", "blobs"):
        if not (layout / name).exists():
            os.close(reading)
            os.close(writing)
            raise FileNotFoundError(f"{layout} has no {name}: it is no OCI layout")
    writer = threading.Thread(target=run, daemon=True)
    writer.start()
    with os.fdopen(reading, "rb") as source:
        while chunk := source.read(artifact.CHUNK):
            yield chunk
    writer.join()
    if failure:
        raise BuildError(f"reading the layout {layout} failed", str(failure[0]))
