"""How an image is built, step by step, inside a fresh builder."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath

from lxdocker import log
from lxdocker.builder import changes as changing
from lxdocker.builder.instance import NETWORK_SECONDS, STEP, Builder, explain, with_command
from lxdocker.config.changes import NO_CHANGES, Changes
from lxdocker.config.spec import Behaviour
from lxdocker.errors import BuildError, ImageMissingError, LxdError, remedy
from lxdocker.http.route import Route
from lxdocker.image import artifact
from lxdocker.image.artifact import Artifact
from lxdocker.lxd.api import Cancelled
from lxdocker.lxd.command import OutOfTimeError, Result
from lxdocker.reasons import in_words
from lxdocker.runtime import render
from lxdocker.source import skopeo
from lxdocker.source.layout import Layout, UnknownFormatError
from lxdocker.source.oci import OciConfig
from lxdocker.text import one_line
from lxdocker.values import Arch, ArchiveKind, Digest, DiskRef, ImageName, RegistryRef

HERE = Path(__file__).parent
BUILD = HERE / "build.sh"
CACHE = HERE / "cache.sh"
CONNECTED = HERE / "connected.sh"
FETCH = HERE / "fetch.sh"
MEND = (HERE / "mend.sh", HERE / "unpacked.sh", HERE / "named.pl", HERE / "plain.pl", HERE / "raw.pl")
QUOTED = HERE / "quoted.sh"
UNPACK = HERE / "unpack.sh"
BUSYBOX = "/bin/busybox"
# Where build.sh looks for what it is given.
SCRIPTS = PurePath("/run/build")
SECRETS = PurePath("/dev/lxdocker-secrets")  # in memory, and gone before any layer is unpacked
AUTHFILE = SECRETS / "auth.json"
ENVIRONMENT = SECRETS / "environment"  # a proxy's address may have a login in it
AUTHORITIES = SECRETS / "authorities.pem"
RECEIVE = 'cd / && (umask 077 && /bin/busybox tar -xf -) && exec /bin/busybox sh run/build/build.sh "$@"'
SQUASHFS = PurePath("/build/rootfs.squashfs")
HOSTS = PurePath("/etc/hosts")
DIGEST = PurePath("/run/digest")  # as fetch.sh reads it
TAG = "image"
# build.sh's exit statuses.
NOT_CONNECTED = 69
UNPACKING_FAILED = 71
DAMAGED = 75
FAILED_STEPS = {
    70: "injecting the runtime into",
    UNPACKING_FAILED: "unpacking",
    72: "fetching",
    73: "packing",
    DAMAGED: "unpacking",
}
NOT_LAUNCHABLE = 74
NOT_CHANGED = 76
COMMAND_FAILED = 77
LAYER_FAILED = 78
NOT_CACHED = 79
EXPORT = "export"
RUN = "run"  # with the command's number behind it
# By its phase.
DOING = {
    "fetch": "fetching",
    "unpack": "unpacking",
    "change": "changing",
    "layers": "adding layers to",
    "pack": "packing",
    EXPORT: "exporting",
}
STEPS = SCRIPTS / "steps"  # a folder for each command that is run in the image
STEP_SECRETS = PurePath("/dev/lxdocker-steps")  # alike, in memory
RUN_SECONDS = 60  # that a command's own limit leaves for what is around it

# The most that a root filesystem and its squashfs may take of it: with mksquashfs, less than the profile's limit.
MEMORY_KIB = 1 << 20
MORE_BYTES = 64 << 20  # that a layer may have than all of them are said to have
MOST_IN_A_LINE = 1000  # bytes
MOST_IN_A_COMMAND = 1 << 14  # bytes
# What build.sh tells commands with -> how these are marked in the log, if they are.
COMMAND_WORDS = {"run": "++", "ran": "+++", "failed": ""}
COMMAND_PREFIXES = tuple(f"{word} ".encode() for word in COMMAND_WORDS)
MOST_COMMANDS = 100  # that are logged of one build
# What run.pl says of commands that it has ended, and what to do about it.
ENDED_BY_LIMITS = (
    (("it took longer than",), "give the command more time with its key timeout, or correct it"),
    (
        ("the image grows beyond",),
        "if it really has to be that large, raise the setting image_size_limit, such as 20GiB",
    ),
    (
        ("the storage pool has no space",),
        "enlarge the builder's storage pool, free space (lxdocker prune), or set `pool` to another",
    ),
    (("it leaves no processes",), "have the command start fewer processes: it takes all that a builder may have"),
)
CORRECT_COMMAND = "correct the command; sync -v shows all of its output, --keep-builder leaves the builder"
LOGGER = logging.getLogger("lxdocker.builder")

OpenBuilder = Callable[[], AbstractContextManager[Builder]]
Phase = Callable[[str], None]
Bytes = Callable[[int], None]
Count = Callable[[int], None]
Output = Callable[[str], None]  # is told a line that a command in the image has printed


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom a build tells how it goes."""

    phase: Phase  # what it is at
    count: Bytes  # how many more bytes have come
    lost: Count = lambda _: None  # how much of the image only the host's root could have made
    output: Output = lambda _: None


@dataclass(frozen=True, slots=True)
class BuildRequest:
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
    route: Route  # to the source
    authfile: str | None  # JSON; the login this source needs
    layers: tuple[str, ...]  # hex digests, as far as they are known
    size: int | None  # bytes of all layers, as they are transferred, if that is known
    stall_timeout: int  # seconds
    size_limit: int | None  # bytes that fetching and unpacking may take each; None for the default
    in_memory: bool  # whether a small image may be unpacked in memory, not on disk
    manifest: Digest | None = None  # which one it is, where several lie on disk
    by_hand: tuple[str, ...] = ()  # the command that prints what the builder is given, for the log
    changes: Changes = NO_CHANGES
    given: tuple[tuple[str, str], ...] = ()  # variables that lxdocker gives to templates
    raw_manifest: bytes | None = None  # of an image in a registry, where it is known
    cached: bool = False  # whether the image must be in the layer cache: there is no way to fetch it

    @property
    def commands(self) -> tuple[changing.Running, ...]:
        """What is run in the image."""
        return changing.commands(self.changes, self.config, self.route.proxies)

    @property
    def phases(self) -> list[str]:
        """What a builder does, in this order."""
        return [
            *("fetch", "unpack"),
            *(["change"] if self.changes.files else []),
            *(f"{RUN} {number}" for number in range(len(self.commands))),
            *(["layers"] if self.changes.layers else []),
            "pack",
        ]

    def seconds(self, phase: str) -> float:
        """How long a phase may take."""
        word, _, number = phase.partition(" ")
        return self.commands[int(number)].timeout + RUN_SECONDS if word == RUN else self.timeout


class NotCachedError(BuildError):
    """The layer cache lacks an image that was expected there."""


class BuilderGoneError(BuildError):
    """Somebody else has deleted the builder."""


@dataclass(frozen=True, slots=True)
class DamagedCache:
    """Of the manifest's blobs one is not what its name says."""

    manifest: Digest


def build_image(open_builder: OpenBuilder, request: BuildRequest, folder: Path, listener: Listener) -> Artifact:
    """Fetches, unpacks, changes, injects and packs in a builder; streams the result into ``folder``.

    Raises BuildError with the failing tool's own words, NotCachedError for an image that has to be fetched.
    """
    damaged: DamagedCache | None = None
    lost = False
    while True:
        try:
            with open_builder() as builder, _noticing(builder):
                made = _build(builder, request, folder, listener, damaged)
        except BuilderGoneError:
            if lost:
                raise
            lost = True
            listener.phase("the builder was deleted; building in another one")
            continue
        if isinstance(made, Artifact):
            return made
        if isinstance(made, NotCachedError):
            raise made  # not in the builder, which then would be kept for debugging
        # The image is fetched again, once; in a builder that has unpacked nothing, since that may need a login.
        damaged = made


@contextmanager
def _noticing(builder: Builder) -> Iterator[None]:
    """Raises BuilderGoneError for whatever fails because somebody else has deleted the builder."""
    try:
        yield
    except Cancelled:
        raise
    except (BuildError, LxdError) as error:
        if builder.is_gone():
            raise BuilderGoneError(
                error.brief, "its builder was stopped or deleted by somebody else", "run the same command again"
            ) from error
        raise


def _build(
    builder: Builder, request: BuildRequest, folder: Path, listener: Listener, damaged: DamagedCache | None
) -> Artifact | DamagedCache | NotCachedError:
    """One command does it all, since LXD takes a tenth of a second to start any. What was ``damaged`` before is dropped
    from the cache first; only if nothing was, damage is no failure yet.
    """
    argv = _build_argv(builder, request, damaged)
    telling = _Telling(request.source, listener, builder.by_hand, request.phases)
    _push_changes(builder, request)
    metadata = image_metadata(request)
    if request.by_hand:
        log.command([*request.by_hand, "--metadata"], output=artifact.METADATA_FILE)
    succeeded = False
    try:
        what = f"building {request.source}"
        with builder.running(
            argv, what=what, seconds=request.timeout, stdin=given(request), by_hand=_by_hand(request)
        ) as (command, end):
            squashfs = telling.squashfs(command.output(), lambda phase: command.allow(request.seconds(phase)))
            finished = artifact.write(folder, metadata, squashfs, listener.count)
            result = end()
        succeeded = result.status == 0
    except OutOfTimeError as error:
        doing = DOING.get(telling.phase, "building")
        more = "give it more: setting build_timeout"
        why = with_command(error.details, telling.command)
        raise BuildError(f"{doing} {request.source} failed", why, more) from error
    finally:
        if not succeeded:
            # The first error counts.
            with suppress(Exception):
                builder.try_run(_clean_up_argv(builder), seconds=30, cancellable=False)
    if succeeded:
        if finished.rootfs_size != telling.size:
            come = f"{finished.rootfs_size} bytes received instead of {telling.size}"
            raise BuildError(f"exporting {request.source} failed", come)
        if telling.lost:
            listener.lost(telling.lost)
        return finished
    if result.status == DAMAGED and telling.manifest and damaged is None:
        return DamagedCache(telling.manifest)
    if result.status == NOT_CACHED:
        return NotCachedError(f"{request.source} is not in the layer cache", "", "run the same command again")
    raise _failure(builder, request, telling, result)


def _failure(builder: Builder, request: BuildRequest, telling: _Telling, result: Result) -> BuildError:
    """Why a build failed, by its exit status. Raises LxdError where LXD itself knows."""
    command, said = telling.command, result.stderr.rpartition(STEP)[2].strip()[-4000:]
    if result.status == NOT_CHANGED and (found := re.search(r"^change ([0-9]{1,6}): (.*)", said, re.MULTILINE)):
        number, why = int(found[1]), one_line(found[2])
        if number < len(request.changes.files):
            place = request.changes.files[number].place
            return BuildError(f"changing {request.source} failed", f"{place}: {why}", "correct this key of the spec")
    if result.status == COMMAND_FAILED and telling.phase.startswith(RUN):
        running = request.commands[int(telling.phase.partition(" ")[2])]
        # The last line says how it ended, and is never the command's own.
        resolution = remedy(said.rpartition("\n")[2], ENDED_BY_LIMITS, CORRECT_COMMAND)
        return BuildError(f"running a command in {request.source} failed", f"{running.place}:\n{said}", resolution)
    if result.status == NOT_CONNECTED:
        return builder.missing_connection()
    if result.status == NOT_LAUNCHABLE:
        return BuildError(
            f"{request.source} can't be launched by LXD",
            with_command(said[-2000:], command),
            "use an image made from it that has no such file (FROM …, RUN rm -rf PATH), or tell its publisher",
        )
    return explain(f"{FAILED_STEPS.get(result.status, 'building')} {request.source}", result, command)


class _Telling:
    """What build.sh tells on its stdout. What works in the builder may be hostile, so each word is taken as far as it
    makes sense.
    """

    def __init__(
        self,
        source: RegistryRef | DiskRef,
        listener: Listener,
        by_hand: Callable[[Sequence[str]], str] = log.shell,
        phases: Sequence[str] = ("fetch", "unpack", "pack"),
    ) -> None:
        """``by_hand``: how a shell on this host runs a command in the builder, for the log."""
        self._source = source
        self._listener = listener
        self._by_hand = by_hand
        self._commands = 0
        self.command: list[str] = []  # the last that it has run
        self._to_come = list(phases)  # each once: each gets time of its own
        self._commands_in_image = sum(phase.startswith(RUN) for phase in phases)
        self._fetched = 0
        self.phase = ""  # what it is at
        self.manifest: Digest | None = None
        self.size: int | None = None  # bytes of the squashfs
        self.lost = 0  # device nodes and attributes of files that are not in it

    def squashfs(self, pieces: Iterator[bytes], allow_time: Phase) -> Iterator[bytes]:
        """The squashfs at the end, in pieces. Calls ``allow_time`` with each phase. Raises BuildError for what no build
        says.
        """
        lines = b""
        for piece in pieces:
            lines += piece
            while b"\n" in lines and self.size is None:
                line, _, lines = lines.partition(b"\n")
                if self._is_step(*line.decode("utf-8", "replace").partition(" ")[::2]):
                    allow_time(self.phase)
            if self.size is not None:
                yield from self._no_more(lines, pieces, self.size)
                return
            if len(lines) > (MOST_IN_A_COMMAND if lines.startswith(COMMAND_PREFIXES) else MOST_IN_A_LINE):
                raise self._nonsense()

    def _is_step(self, word: str, rest: str) -> bool:
        """Takes note of a line. Returns whether a step begins with it."""
        if word == "phase" and rest in self._to_come:
            self._to_come.remove(rest)
            self._begin(rest)
            return True
        if word in COMMAND_WORDS:
            self._ran(rest, COMMAND_WORDS[word])
        elif word == "fetched":
            there = _bytes(rest) or 0
            self._listener.count(max(0, there - self._fetched))
            self._fetched = max(self._fetched, there)
        elif word == "said" and self.phase.startswith(RUN):
            text = one_line(rest)
            LOGGER.info("| %s", text)
            self._listener.output(text)
        elif word == "manifest":
            with suppress(ValueError):
                self.manifest = Digest.parse(rest)
        elif word == "lost":
            self.lost = _bytes(rest) or 0
        elif word == "squashfs":
            self.size = _bytes(rest)
            if self.size is None:
                raise self._nonsense()
            if LOGGER.isEnabledFor(logging.INFO):
                LOGGER.info("++ %s >%s", self._by_hand([BUSYBOX, "cat", str(SQUASHFS)]), artifact.ROOTFS_FILE)
            self._begin(EXPORT)
            return True
        return False

    def _ran(self, text: str, mark: str) -> None:
        """A command, quoted here once more: what is logged can be pasted into a shell of this host."""
        with suppress(ValueError):
            self.command = shlex.split(text)
            self._commands += 1
            if mark and self._commands <= MOST_COMMANDS and LOGGER.isEnabledFor(logging.INFO):
                LOGGER.info("%s %s", mark, self._by_hand(self.command))

    def _begin(self, phase: str) -> None:
        self.phase = phase
        word, _, number = phase.partition(" ")
        self._listener.phase(f"{word} {int(number) + 1} of {self._commands_in_image}" if word == RUN else phase)

    def _no_more(self, first: bytes, pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
        for piece in chain([first], pieces):
            size -= len(piece)
            if size < 0:
                raise self._nonsense()
            yield piece

    def _nonsense(self) -> BuildError:
        return BuildError(
            f"building {self._source} failed", "unexpected output from the builder (possibly tampered with)"
        )


def _bytes(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None


def _work(builder: Builder) -> PurePath:
    """Where it fetches to, in the cache that builders share."""
    return PurePath("/cache/work", builder.name)


def _clean_up_argv(builder: Builder) -> list[str]:
    """For a build that may not have come to its own cleaning up: the builder may be kept to look around in, and the
    cache is. LXD ends only the shell of a build, so its programs may be at work still.
    """
    gone = (SECRETS, STEP_SECRETS, _work(builder))
    return [BUSYBOX, "sh", "-c", 'kill -9 -1; exec /bin/busybox rm -rf "$@"', "rm", *map(str, gone)]


def _build_argv(builder: Builder, request: BuildRequest, damaged: DamagedCache | None) -> list[str]:
    work, wanted = _work(builder), ""
    if isinstance(request.source, DiskRef):
        source = _push_from_disk(builder, request.source, request.manifest)
    else:
        source = skopeo.source_name(request.source)
        wanted = request.source.digest.hex if request.source.digest else ""
    copy = skopeo.copy_argv(
        source,
        skopeo.disk_name(ArchiveKind.OCI_LAYOUT, work, TAG),
        request.arch,
        skopeo.CopyOptions(
            authfile=AUTHFILE if request.authfile else None,
            cert_dir=SECRETS if request.route.certificates else None,
            digestfile=DIGEST,
            tls_verify=request.route.verify,
        ),
    )
    known = request.size or 0
    words = [
        damaged.manifest.value if damaged else "",
        request.name.value,
        str(work),
        # What is taken out of an archive comes from the builder's own disk.
        str(request.stall_timeout if isinstance(request.source, RegistryRef) else 0),
        str(request.size_limit or (known + MORE_BYTES if known else 0)),
        str(NETWORK_SECONDS),
        builder.way,
        str(MEMORY_KIB if request.in_memory and request.changes.is_small else 0),
        str((request.size_limit or 0) >> 10),
    ]
    words += [str(request.config.created), str(request.compression_level), " ".join(request.layers)]
    words += [str(changing.prctl_number(request.arch)), wanted]
    return [BUSYBOX, "sh", "-c", RECEIVE, "build", *words, *([] if request.cached else copy)]


def image_metadata(request: BuildRequest) -> bytes:
    """The other half of the image: ``lxd.tar.xz``."""
    config = render.render_config(request.config, request.behaviour, supervise=request.supervise)
    properties, own = dict(request.properties), request.changes.templates
    return render.image_metadata(request.arch, request.config.created, properties, config, own)


def _by_hand(request: BuildRequest) -> Callable[[str], str]:
    """What a shell does with the command that builds. Its output is for lxdocker; the squashfs is in the builder."""
    return lambda told: f"{log.shell(request.by_hand)} | {told} >/dev/null" if request.by_hand else told


def given(request: BuildRequest) -> bytes:
    """What build.sh needs, as a tar to be unpacked in /: its scripts, the runtime, the login for the source and
    all else that its way there takes.
    """
    scripts: tuple[Path, ...] = (BUILD, CACHE, CONNECTED, FETCH, *MEND, QUOTED, UNPACK, render.INJECT, render.CHECK)
    if request.changes.files or request.changes.layers or request.commands:
        scripts += (
            changing.CHANGE,
            changing.PREPARE,
            changing.RUN,
            changing.RESTORE,
            changing.LAYERS,
            changing.NETWORK,
        )
    files = {SCRIPTS / script.name: script.read_bytes() for script in scripts}
    files[SCRIPTS / "runtime.tar"] = render.runtime_tar(request.config.created)
    if request.raw_manifest:
        files[SCRIPTS / "manifest"] = request.raw_manifest
    if request.authfile:
        files[AUTHFILE] = request.authfile.encode()
    files |= _of_route(request.route)
    for number, running in enumerate(request.commands):
        files[STEPS / str(number) / "step"] = running.fields()
        for name, path in running.secrets:
            files[STEP_SECRETS / str(number) / name] = changing.secret(name, path)
    return render.tar([(str(path.relative_to("/")), content, 0o600) for path, content in files.items()], 0)


def _of_route(route: Route) -> dict[PurePath, bytes]:
    variables, files = files_of_trust(route, SECRETS)
    if variables:
        files[ENVIRONMENT] = "".join(f"{name}={value}\n" for name, value in variables.items()).encode()
    return files | files_of_names(route)


def files_of_trust(route: Route, folder: PurePath) -> tuple[dict[str, str], dict[PurePath, bytes]]:
    """The variables for a program that goes the route, and what they lead to in ``folder``. Secret."""
    variables = dict(route.proxies)
    files = {folder / name: content for name, content in route.certificates.items()}
    if route.authorities:
        authorities = folder / AUTHORITIES.name
        files[authorities] = route.authorities
        # Go would read the builder's own authorities as well, unless it is sent to a folder where there is none.
        variables |= {"SSL_CERT_FILE": str(authorities), "SSL_CERT_DIR": str(folder / "none")}
    return variables, files


def files_of_names(route: Route) -> dict[PurePath, bytes]:
    """/etc/hosts, if the builder's DNS would not know all names."""
    if not route.names:
        return {}
    own = [("127.0.0.1", "localhost"), ("::1", "localhost")]
    return {HOSTS: "".join(f"{address}\t{name}\n" for address, name in [*own, *route.names]).encode()}


def file_records(request: BuildRequest) -> Iterator[bytes]:
    """What change.pl reads, in pieces. Raises BuildError and UsageError, as changes.records()."""
    return changing.records(request.changes, dict(request.given))


def _push_changes(builder: Builder, request: BuildRequest) -> None:
    """What is too large for the command's input: files and layers, as they come from this host's disk."""
    if request.changes.files:
        source = f"{log.shell([*request.by_hand, '--changes'])} |" if request.by_hand else ""
        builder.push(str(changing.RECORDS), file_records(request), source)
    for number, layer in enumerate(request.changes.layers):
        builder.push(f"{changing.LAYER}{number}", changing.layer(layer), f"<{shlex.quote(str(layer.path))}")


def keep_only(builder: Builder, names: list[ImageName]) -> None:
    """Drops from the layer cache whatever none of these images needs."""
    cache(builder, "keep", *(name.value for name in names))


def cache(builder: Builder, *arguments: str) -> None:
    """One command of cache.sh."""
    builder.run(
        "keeping the layer cache", [BUSYBOX, "sh", "-c", log.FileText.of(CACHE), "cache", *arguments], seconds=300
    )


def _push_from_disk(builder: Builder, ref: DiskRef, manifest: Digest | None) -> str:
    """Streams an image on this host's disk into the builder; returns how skopeo finds it there."""
    target = PurePath("/build/source.tar")
    if ref.kind is not ArchiveKind.DOCKER_ARCHIVE and manifest:
        # An archive may be packed as only skopeo knows.
        with suppress(UnknownFormatError), Layout(ref) as layout:
            builder.push(str(target), layout.pack(manifest))
            return skopeo.disk_name(ArchiveKind.OCI_ARCHIVE, target)
    try:
        with ref.path.open("rb") as archive:
            builder.push(str(target), iter(lambda: archive.read(artifact.CHUNK), b""))
    except OSError as error:
        raise ImageMissingError(f"reading {ref} failed", in_words(error), "correct the path in the spec") from error
    return skopeo.disk_name(ref.kind, target, ref.tag)
