"""How an image is built, step by step, inside a fresh builder."""

from __future__ import annotations

import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath
from typing import IO

from lxdocker import artifact, skopeo
from lxdocker.artifact import Artifact
from lxdocker.builder.instance import DISK_FULL, GO_STACK, NETWORK_SECONDS, STEP, Builder, explain
from lxdocker.command import OutOfTimeError
from lxdocker.errors import BuildError, ImageMissingError
from lxdocker.oci import OciConfig
from lxdocker.runtime import render
from lxdocker.spec import Behaviour
from lxdocker.values import Arch, ArchiveKind, Digest, DiskRef, ImageName, RegistryRef

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
ENVIRONMENT = SECRETS / "environment"  # a proxy's address may have a login in it
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
READ_OUT = "read out"
DOING = {"fetch": "fetching", "unpack": "unpacking", "pack": "packing", READ_OUT: "reading out"}  # by its phase
# umoci's words for it, though it may crash instead; see unpack.sh.
DAMAGED_BLOB = re.compile(r"digest|checksum|hash|unexpected EOF|gzip: invalid|no such file", re.IGNORECASE)

# The most that a root filesystem and its squashfs may take of it: with mksquashfs, less than the profile's limit.
MEMORY_KIB = 1 << 20
MOST_IN_A_LINE = 1000  # bytes

OpenBuilder = Callable[[], AbstractContextManager[Builder]]
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


@dataclass(frozen=True, slots=True)
class DamagedCache:
    """Of the manifest's blobs one is, perhaps, not what its name says."""

    manifest: Digest


def build_image(open_builder: OpenBuilder, recipe: Recipe, folder: Path, phase: Phase, count: Bytes) -> Artifact:
    """Fetches, unpacks, injects and packs in a builder; streams the result into ``folder``.

    Tells ``phase`` what it is at, and ``count`` how many more bytes have come. Raises BuildError with the failing
    tool's own words.
    """
    damaged: DamagedCache | None = None
    while True:
        with open_builder() as builder:
            made = _build(builder, recipe, folder, phase, count, damaged)
        if isinstance(made, Artifact):
            return made
        # The image is fetched again, once; in a builder that has unpacked nothing, since that may need a login.
        damaged = made


def _build(
    builder: Builder,
    recipe: Recipe,
    folder: Path,
    phase: Phase,
    count: Bytes,
    damaged: DamagedCache | None,
) -> Artifact | DamagedCache:
    """One command does it all, since LXD takes a tenth of a second to start any. What was ``damaged`` before is dropped
    from the cache first; only if nothing was, damage is no failure yet.
    """
    argv = _build_argv(builder, recipe, damaged)
    telling = _Telling(recipe.source, phase, count)
    metadata = render.image_metadata(recipe.arch, recipe.config.created, dict(recipe.properties))
    succeeded = False
    try:
        what = f"building {recipe.source}"
        with builder.running(argv, what=what, seconds=recipe.timeout, stdin=_given(recipe)) as (command, end):
            squashfs = telling.squashfs(command.output(), lambda: command.allow(recipe.timeout))
            finished = artifact.write(folder, metadata, squashfs, count)
            result = end()
        succeeded = result.status == 0
    except OutOfTimeError as error:
        doing = DOING.get(telling.phase, "building")
        more = "give it more: setting build_timeout"
        raise BuildError(f"{doing} {recipe.source} failed", error.details, more) from error
    finally:
        if not succeeded:
            # The first error counts.
            with suppress(Exception):
                builder.try_run(_clean_up_argv(builder), seconds=30, cancellable=False)
    if succeeded:
        if finished.rootfs_size != telling.size:
            come = f"{finished.rootfs_size} bytes have come, not {telling.size}"
            raise BuildError(f"reading out {recipe.source} failed", come)
        return finished
    if result.status == NOT_CONNECTED:
        raise builder.missing_connection()
    if result.status == UNPACKING_FAILED and telling.manifest and damaged is None:
        said = result.stderr.rpartition(STEP)[2]
        full = any(words in said.lower() for words in DISK_FULL)
        if not full and (GO_STACK in said or DAMAGED_BLOB.search(said)):
            return DamagedCache(telling.manifest)
    raise explain(f"{FAILED_STEPS.get(result.status, 'building')} {recipe.source}", result)


class _Telling:
    """What build.sh tells on its stdout. What works in the builder may be hostile, so each word is taken as far as it
    makes sense.
    """

    def __init__(self, source: RegistryRef | DiskRef, phase: Phase, count: Bytes) -> None:
        self._source = source
        self._tell = phase
        self._count = count
        self._to_come = ["fetch", "unpack", "pack"]  # each once: each gets time of its own
        self._fetched = 0
        self.phase = ""  # what it is at
        self.manifest: Digest | None = None
        self.size: int | None = None  # bytes of the squashfs

    def squashfs(self, pieces: Iterator[bytes], allow_time: Callable[[], None]) -> Iterator[bytes]:
        """The squashfs at the end, in pieces. Calls ``allow_time`` for each step. Raises BuildError for what no build
        says.
        """
        lines = b""
        for piece in pieces:
            lines += piece
            while b"\n" in lines and self.size is None:
                line, _, lines = lines.partition(b"\n")
                if self._is_step(*line.decode("utf-8", "replace").partition(" ")[::2]):
                    allow_time()
            if self.size is not None:
                yield from self._no_more(lines, pieces, self.size)
                return
            if len(lines) > MOST_IN_A_LINE:
                raise self._nonsense()

    def _is_step(self, word: str, rest: str) -> bool:
        """Takes note of a line. Returns whether a step begins with it."""
        if word == "phase" and rest in self._to_come:
            self._to_come.remove(rest)
            self._begin(rest)
            return True
        if word == "fetched":
            there = _bytes(rest) or 0
            self._count(max(0, there - self._fetched))
            self._fetched = max(self._fetched, there)
        elif word == "manifest":
            with suppress(ValueError):
                self.manifest = Digest.parse(rest)
        elif word == "squashfs":
            self.size = _bytes(rest)
            if self.size is None:
                raise self._nonsense()
            self._begin(READ_OUT)
            return True
        return False

    def _begin(self, phase: str) -> None:
        self.phase = phase
        self._tell(phase)

    def _no_more(self, first: bytes, pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
        for piece in chain([first], pieces):
            size -= len(piece)
            if size < 0:
                raise self._nonsense()
            yield piece

    def _nonsense(self) -> BuildError:
        return BuildError(f"building {self._source} failed", "the builder says what no build says")


def _bytes(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None


def _work(builder: Builder) -> PurePath:
    """Where it fetches to, in the cache that builders share."""
    return PurePath("/cache/work", builder.name)


def _clean_up_argv(builder: Builder) -> list[str]:
    """For a build that may not have come to its own cleaning up: the builder may be kept to look around in, and the
    cache is. LXD ends only the shell of a build, so its programs may be at work still.
    """
    return [BUSYBOX, "sh", "-c", 'kill -9 -1; exec /bin/busybox rm -rf "$@"', "rm", str(SECRETS), str(_work(builder))]


def _build_argv(builder: Builder, recipe: Recipe, damaged: DamagedCache | None) -> list[str]:
    if isinstance(recipe.source, DiskRef):
        source = _push_from_disk(builder, recipe.source)
    else:
        source = skopeo.source_name(recipe.source)
    work = _work(builder)
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
    words = [
        damaged.manifest.value if damaged else "",
        recipe.name.value,
        str(work),
        str(NETWORK_SECONDS),
        builder.way,
        str(memory),
    ]
    words += [str(recipe.config.created), str(recipe.compression_level), " ".join(recipe.layers)]
    return [BUSYBOX, "sh", "-c", RECEIVE, "build", *words, *copy]


def _given(recipe: Recipe) -> bytes:
    """What build.sh needs, as a tar to be unpacked in /: its scripts, the runtime, and the login for the source."""
    scripts = (BUILD, CACHE, CONNECTED, FETCH, UNPACK, render.INJECT)
    files = {SCRIPTS / script.name: script.read_bytes() for script in scripts}
    files[SCRIPTS / "runtime.tar"] = render.runtime_tar(recipe.config, recipe.behaviour, supervise=recipe.supervise)
    if recipe.authfile:
        files[AUTHFILE] = recipe.authfile.encode()
    if recipe.environment:
        files[ENVIRONMENT] = "".join(f"{name}={value}\n" for name, value in recipe.environment.items()).encode()
    if recipe.certificates:
        try:
            for path in recipe.certificates.iterdir():
                if path.suffix in {".crt", ".cert", ".key"} and path.is_file():
                    files[SECRETS / path.name] = path.read_bytes()
        except OSError as error:
            where = f"the certificates for {recipe.source} are in {recipe.certificates}"
            raise BuildError(f"reading {error.filename} failed", f"{error.strerror}; {where}") from error
    return render.tar([(str(path.relative_to("/")), content, 0o600) for path, content in files.items()], 0)


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
