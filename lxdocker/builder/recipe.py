"""How an image is built, step by step, inside a fresh builder."""

from __future__ import annotations

import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO

from lxdocker import artifact, skopeo
from lxdocker.artifact import Artifact
from lxdocker.builder.instance import GO_STACK, NETWORK_SECONDS, Builder, explain
from lxdocker.command import Result
from lxdocker.errors import BuildError, ImageMissingError, LxdError, LxdockerError
from lxdocker.oci import OciConfig
from lxdocker.runtime import render
from lxdocker.spec import Behaviour
from lxdocker.values import Arch, ArchiveKind, DiskRef, ImageName, RegistryRef

HERE = Path(__file__).parent
BUILD = HERE / "build.sh"
CACHE = HERE / "cache.sh"
CONNECTED = HERE / "connected.sh"
FETCH = HERE / "fetch.sh"
UNPACK = HERE / "unpack.sh"
BUSYBOX = "/bin/busybox"
# Where build.sh looks for what it is given.
SCRIPTS = PurePath("/run/build")
SECRETS = PurePath("/dev/lxdocker-secrets")  # in memory, and gone before any layer is unpacked
AUTHFILE = SECRETS / "auth.json"
RECEIVE = 'cd / && (umask 077 && /bin/busybox tar -xf -) && exec /bin/busybox sh run/build/build.sh "$@"'
DIGEST = PurePath("/run/digest")  # as fetch.sh reads it
TAG = "image"
# build.sh's exit statuses.
NOT_CONNECTED = 69
UNPACKING_FAILED = 71
FAILED_STEPS = {
    70: "injecting the runtime into",
    UNPACKING_FAILED: "unpacking",
    72: "fetching",
    73: "packing",
}
# Where unpacking fails, umoci (0.4.7) may close a layer that it is still reading and crash instead of saying why.
TRIES = 4
DAMAGED_BLOB = re.compile(r"digest|checksum|hash|unexpected EOF|gzip: invalid|no such file", re.IGNORECASE)

# The most that a root filesystem and its squashfs may take of it: with mksquashfs, less than the profile's limit.
MEMORY_KIB = 1 << 20
MOST_IN_A_LINE = 1000  # bytes

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
    source = (
        _push_from_disk(builder, recipe.source)
        if isinstance(recipe.source, DiskRef)
        else skopeo.source_name(recipe.source)
    )
    tries, afresh = 0, False
    while True:
        result = _build(builder, recipe, source, folder, phase, count, afresh=afresh)
        if isinstance(result, Artifact):
            return result
        tries += 1
        crashed = GO_STACK in result.stderr
        # A blob in the shared cache is not what its name says. It is fetched again, once.
        damaged = not crashed and not afresh and DAMAGED_BLOB.search(result.stderr) is not None
        if result.status != UNPACKING_FAILED or tries == TRIES or not (crashed or damaged):
            raise _failure(builder, recipe, result)
        afresh = afresh or damaged


def _failure(builder: Builder, recipe: Recipe, result: Result) -> BuildError:
    if result.status == NOT_CONNECTED:
        return builder.missing_connection()
    return explain(f"{FAILED_STEPS.get(result.status, 'building')} {recipe.source}", result)


def _build(
    builder: Builder, recipe: Recipe, source: str, folder: Path, phase: Phase, count: Bytes, *, afresh: bool
) -> Artifact | Result:
    """One command does it all, since LXD takes a tenth of a second to start any. Returns how it ended if it failed."""
    metadata = render.image_metadata(recipe.arch, recipe.config.created, dict(recipe.properties))
    to_come = ["fetch", "unpack", "pack"]  # each once: what works in the builder must not get time for ever
    fetched = 0
    size = ""

    def tell(word: str, rest: str) -> None:
        nonlocal fetched, size
        match word:
            case "phase" if rest in to_come:
                to_come.remove(rest)
                phase(rest)
                command.allow(recipe.timeout)
            case "fetched" if re.fullmatch("[0-9]{1,18}", rest):
                count(max(0, int(rest) - fetched))
                fetched = max(fetched, int(rest))
            case "squashfs":
                phase("read out")
                command.allow(recipe.timeout)
                size = rest

    with builder.running(
        _build_argv(builder, recipe, source, afresh=afresh),
        seconds=recipe.timeout,
        environment=recipe.environment,
        stdin=_given(recipe),
    ) as (command, end):
        try:
            finished = artifact.write(folder, metadata, _squashfs(command.output(), tell), count)
            result = end()
        except LxdockerError:
            # It may not have come to its end, and the builder may be kept to look around in.
            if recipe.authfile or recipe.certificates:
                with suppress(LxdError):
                    builder.try_run([BUSYBOX, "rm", "-rf", str(SECRETS)], seconds=30)
            raise
    if result.status != 0:
        return result
    if size != str(finished.rootfs_size):
        raise BuildError(f"reading out {recipe.source} failed", f"{finished.rootfs_size} bytes have come, not {size}")
    return finished


def _build_argv(builder: Builder, recipe: Recipe, source: str, *, afresh: bool) -> list[str]:
    work = PurePath("/cache/work", builder.name)
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
    memory = MEMORY_KIB if recipe.in_memory else 0
    words = ["afresh" if afresh else "", recipe.name.value, str(work), str(NETWORK_SECONDS), builder.way, str(memory)]
    words += [str(recipe.config.created), str(recipe.compression_level), " ".join(recipe.layers)]
    return [BUSYBOX, "sh", "-c", RECEIVE, "build", *words, *copy]


def _given(recipe: Recipe) -> bytes:
    """What build.sh needs, as a tar to be unpacked in /: its scripts, the runtime, and the login for the source."""
    scripts = (BUILD, CACHE, CONNECTED, FETCH, UNPACK, render.INJECT)
    files = {SCRIPTS / script.name: script.read_bytes() for script in scripts}
    files[SCRIPTS / "runtime.tar"] = render.runtime_tar(recipe.config, recipe.behaviour, supervise=recipe.supervise)
    if recipe.authfile:
        files[AUTHFILE] = recipe.authfile.encode()
    if recipe.certificates:
        for path in recipe.certificates.iterdir():
            if path.suffix in {".crt", ".cert", ".key"}:
                files[SECRETS / path.name] = path.read_bytes()
    return render.tar([(str(path.relative_to("/")), content, 0o600) for path, content in files.items()], 0)


def _squashfs(pieces: Iterator[bytes], tell: Callable[[str, str], None]) -> Iterator[bytes]:
    """The squashfs at the end of build.sh's stdout; each line before it goes to ``tell``: a word, and the rest."""
    lines = b""
    for piece in pieces:
        lines += piece
        while b"\n" in lines:
            line, _, lines = lines.partition(b"\n")
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            tell(word, rest)
            if word == "squashfs":
                yield lines
                yield from pieces
                return
        if len(lines) > MOST_IN_A_LINE:
            raise BuildError("building failed", "the builder says what no build says")


def keep_only(builder: Builder, names: list[ImageName]) -> None:
    """Drops from the layer cache whatever none of these images needs."""
    cache(builder, "keep", *(name.value for name in names))


def cache(builder: Builder, *arguments: str) -> None:
    """One command of cache.sh."""
    builder.run("keeping the layer cache", [BUSYBOX, "sh", "-c", CACHE.read_text(), "cache", *arguments], seconds=300)


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
