"""What a spec changes, as change.pl and run.pl take it. Nothing of an image is looked at here."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import MappingProxyType
from urllib.parse import urlsplit

from lxdocker.config import sources
from lxdocker.config.changes import Changes, FileChange, LayerFile, Packages, Step, rendered
from lxdocker.errors import BuildError, UsageError
from lxdocker.reasons import in_words
from lxdocker.source.oci import OciConfig
from lxdocker.values import Arch, is_loopback

HERE = Path(__file__).parent
CHANGE = HERE / "change.pl"
NETWORK = HERE / "network.sh"
RUN = HERE / "run.pl"
PREPARE = HERE / "prepare.sh"
RESTORE = HERE / "restore.pl"
LAYERS = HERE / "layers.sh"
PACKAGES = HERE / "packages.sh"
# On the builder's disk, and not below /build, where a tmpfs may be mounted later.
RECORDS = PurePath("/run/changes")  # what change.pl reads
LAYER = "/run/layer"  # with a number behind it
PACKAGE_SECONDS = 1800
SECRETS = "/run/secrets"  # in the image, while a command runs
_AS_GIVEN = "as given"  # of a folder: mode and owner are set in any case
NO_PROXIES: Mapping[str, str] = MappingProxyType({})
_MOST_SECRET = 1 << 16  # bytes; in a builder there is little room in memory
_SHELL = ("/bin/sh", "-c")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Docker's default
# prctl(2)'s number, by which a program without libraries calls it.
_PRCTL: Mapping[str, int] = {"x86_64": 157, "aarch64": 167, "armv7l": 172, "ppc64le": 171, "s390x": 172, "riscv64": 167}


@dataclass(frozen=True, slots=True)
class Running:
    """A command that is run in the image, as run.pl takes it."""

    network: bool
    timeout: int  # seconds
    user: str
    folder: str
    environment: tuple[tuple[str, str], ...]
    argv: tuple[str, ...]
    place: str  # in the spec, for messages
    secrets: tuple[tuple[str, Path], ...] = ()

    def fields(self) -> bytes:
        """The file ``step``. Raises nothing: no text here has a NUL."""
        words = [
            "yes" if self.network else "no",
            str(self.timeout),
            self.user,
            self.folder,
            SECRETS if self.secrets else "",
            str(len(self.environment)),
            *(f"{name}={value}" for name, value in self.environment),
            *self.argv,
        ]
        return "".join(f"{word}\0" for word in words).encode("utf-8", "surrogateescape")


def prctl_number(arch: Arch) -> int:
    return _PRCTL[arch.value]


def records(changes: Changes, given: Mapping[str, str]) -> Iterator[bytes]:
    """The files of a spec, in pieces, for change.pl. ``given``: what lxdocker gives to templates.

    Raises BuildError for a source that has changed since the spec was read, UsageError for a template that fails.
    """
    variables = {**dict(changes.variables), **given}
    for number, change in enumerate(changes.files):
        yield from _records_of(number, change, variables)


def _records_of(number: int, change: FileChange, variables: Mapping[str, str]) -> Iterator[bytes]:
    kind = "append" if change.append else "file"
    if change.absent:
        yield _record("absent", number, change, change.path)
    elif change.folder:
        yield _record("folder", number, change, change.path, target=_AS_GIVEN)
    elif change.symlink is not None:
        yield _record("link", number, change, change.path, target=change.symlink)
    elif change.source is not None:
        yield from _records_of_source(number, change, kind)
    else:
        content = change.content if change.content is not None else _text(change, variables)
        data = content.encode("utf-8", "surrogateescape")
        yield _record(kind, number, change, change.path, size=len(data)) + data


def _text(change: FileChange, variables: Mapping[str, str]) -> str:
    try:
        return rendered(change.template or "", variables)
    except ValueError as error:
        raise UsageError(
            f"template cannot be rendered: {change.place}", str(error), "correct the template, or its variables"
        ) from error


def _records_of_source(number: int, change: FileChange, kind: str) -> Iterator[bytes]:
    source = change.source
    assert source is not None  # noqa: S101 - for the type checker
    try:
        for entry, content in source.read():
            path = posixpath.join(change.path, entry.name) if entry.name else change.path
            match entry.kind:
                case "folder":
                    yield _record("folder", number, change, path)
                case "link":
                    yield _record("link", number, change, path, target=entry.target)
                case _:
                    mode = change.mode or ("0755" if entry.executable and not change.append else "")
                    yield _record(kind, number, change, path, size=entry.size, mode=mode)
            yield from content
    except OSError as error:
        raise BuildError(
            f"reading {source.path} failed", error.strerror or in_words(error), "run the same command again"
        ) from error


def _record(
    kind: str, number: int, change: FileChange, path: str, *, target: str = "", size: int = 0, mode: str | None = None
) -> bytes:
    words = (kind, number, path, change.mode if mode is None else mode, change.owner, change.group, target, size)
    return "".join(f"{word}\0" for word in words).encode("utf-8", "surrogateescape")


def layer(file: LayerFile) -> Iterator[bytes]:
    """A layer's file in pieces. Raises BuildError if it is not what the spec says."""
    digest = hashlib.sha256()
    try:
        for piece in sources.pieces(file.path):
            digest.update(piece)
            yield piece
    except OSError as error:
        raise BuildError(f"reading {file.path} failed", error.strerror or in_words(error)) from error
    if digest.hexdigest() != file.sha256:
        raise BuildError(
            f"{file.path} is not the layer of the spec",
            f"{file.place}: its SHA-256 is {digest.hexdigest()}",
            "correct sha256 in the spec, or restore the file",
        )


def commands(changes: Changes, config: OciConfig, proxies: Mapping[str, str] = NO_PROXIES) -> tuple[Running, ...]:
    """The commands that are run in the image, in their order. ``config``: as the spec has changed it. ``proxies``: the
    variables of this host, for commands with a network.
    """
    found = [_packages(changes.packages, config)] if changes.packages else []
    found += (_step(step, config) for step in changes.run)
    return tuple(_with_proxies(running, proxies) if running.network else running for running in found)


def _with_proxies(running: Running, proxies: Mapping[str, str]) -> Running:
    """As Docker has it, but without a proxy whose address has a login: the image's own programs would see that."""
    usable = {name: value for name, value in proxies.items() if "@" not in value and not _is_here(value)}
    both = {spelling: value for name, value in usable.items() for spelling in (name.lower(), name.upper())}
    return replace(running, environment=tuple({**both, **dict(running.environment)}.items()))


def _is_here(proxy: str) -> bool:
    """Whether a proxy is on this host's loopback, which commands do not reach."""
    return is_loopback(urlsplit(proxy if "://" in proxy else f"//{proxy}").hostname or "")


def _packages(packages: Packages, config: OciConfig) -> Running:
    script = ("/busybox-lxd", "sh", "-c", PACKAGES.read_text(), "packages")
    return Running(
        network=True,
        timeout=PACKAGE_SECONDS,
        user="0:0",
        folder="/",
        environment=_environment(config),
        argv=(*script, *packages.install, "--", *packages.remove),
        place=packages.place,
    )


def _step(step: Step, config: OciConfig) -> Running:
    command = step.command
    return Running(
        network=step.network,
        timeout=step.timeout,
        user=step.user or "0:0",
        folder=config.working_dir or "/",
        environment=_environment(config),
        argv=(*(config.shell or _SHELL), command) if isinstance(command, str) else command,
        place=step.place,
        secrets=step.secrets,
    )


def _environment(config: OciConfig) -> tuple[tuple[str, str], ...]:
    """The image's variables. What makes archives and compilers reproducible knows the image's own time."""
    return tuple({"PATH": _PATH, "SOURCE_DATE_EPOCH": str(config.created), **dict(config.env)}.items())


def secret(name: str, path: Path) -> bytes:
    """The content of a secret. Raises UsageError where it can't be read."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_SECRET + 1)
    except OSError as error:
        raise UsageError(
            f"secret cannot be read: {name}", f"{path}: {error.strerror or in_words(error)}", "correct its path"
        ) from error
    if len(content) > _MOST_SECRET:
        raise UsageError(f"secret is too large: {name}", f"{path}: more than 64 KiB", "name another file")
    return content
