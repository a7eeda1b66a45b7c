"""What differs between two versions of an image: files, packages and configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from lxdocker.image.properties import ENVIRONMENT
from lxdocker.image.provenance import PREFIX, Provenance, changed_parts
from lxdocker.source.oci import Layer
from lxdocker.values import Arch, Fingerprint, ImageName

LABEL = "oci.label."
OCI = "oci."
_NOT_COMPARED = {"folder", "built_at", "parts", "name"}  # of the provenance: they say nothing about the image


class Change(Enum):
    """What has become of something."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class FileType(Enum):
    """Named as in find(1), by the letters of ls(1)."""

    FILE = "-"
    FOLDER = "d"
    SYMLINK = "l"
    BLOCK_DEVICE = "b"
    CHARACTER_DEVICE = "c"
    PIPE = "p"
    SOCKET = "s"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in an image, or something else that has a path."""

    path: bytes  # absolute, inside the image
    type: FileType
    mode: int  # without the type
    uid: int
    gid: int
    size: int | None  # bytes, of a file
    time: int | None  # seconds since the epoch
    device: str | None  # MAJOR:MINOR
    sha256: str | None  # of a file's content
    target: bytes | None  # of a symbolic link
    attributes: tuple[str, ...]  # NAME=HEX: capabilities and user.*

    @property
    def order(self) -> list[bytes]:
        """A folder before what is in it, names by their bytes."""
        return self.path.split(b"/")

    @property
    def is_privileged(self) -> bool:
        """Whether a file gives whoever runs it the rights of another user or group, or capabilities."""
        special = bool(self.mode & 0o6000) and self.type is FileType.FILE
        return special or any(text.startswith("security.") for text in self.attributes)


@dataclass(frozen=True, slots=True)
class FileChange:
    """A path, and what is there in each version."""

    before: Entry | None
    after: Entry | None
    fields: tuple[str, ...] = ()  # that differ, where both versions have it

    @property
    def entry(self) -> Entry:
        """The newer one, as far as there is one."""
        found = self.after or self.before
        assert found is not None  # noqa: S101 - for the type checker: one of the two has it
        return found

    @property
    def path(self) -> bytes:
        return self.entry.path

    @property
    def change(self) -> Change:
        return _change(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Package:
    """A package that is installed in an image, by the database of its manager."""

    manager: str  # dpkg, apk, rpm
    name: str
    version: str
    architecture: str


@dataclass(frozen=True, slots=True)
class PackageChange:
    """The versions of a package, several if they are installed side by side."""

    manager: str
    name: str
    architecture: str
    before: str | None
    after: str | None

    @property
    def change(self) -> Change:
        return _change(self.before, self.after)


class Group(Enum):
    """What a value belongs to."""

    CONFIGURATION = "configuration"
    ENVIRONMENT = "environment"
    LABEL = "label"
    PROVENANCE = "provenance"
    PROPERTY = "property"


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A value of the image's configuration or of its record."""

    group: Group
    key: str
    before: str | None
    after: str | None

    @property
    def change(self) -> Change:
        return _change(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions."""

    version: str  # its key, or where else it is
    provenance: Provenance
    properties: Mapping[str, str]
    fingerprint: Fingerprint | None = None
    size: int | None = None  # bytes that a client downloads
    layers: tuple[Layer, ...] | None = None

    @property
    def values(self) -> dict[tuple[Group, str], str]:
        """All that is compared but files and packages."""
        record = self.provenance.to_properties()
        every = {**self.properties, **record}
        left_out = {PREFIX + field for field in _NOT_COMPARED}
        return {_group(key): value for key, value in every.items() if key not in left_out}


@dataclass(frozen=True, slots=True)
class Files:
    """What was found by comparing the files of both versions."""

    changes: tuple[FileChange, ...]
    packages: tuple[PackageChange, ...]
    before: int | None  # how many there are; None if nobody had to look
    after: int | None
    notes: tuple[str, ...]  # what could not be compared, and why


@dataclass(frozen=True, slots=True)
class Difference:
    """Everything that differs between two versions of an image. ``files``: None if they could not be compared."""

    name: ImageName
    arch: Arch
    old: Side
    new: Side
    values: tuple[ValueChange, ...]
    parts: tuple[str, ...]  # the keys of the spec that differ
    files: Files | None

    @classmethod
    def of(cls, name: ImageName, arch: Arch, old: Side, new: Side, files: Files | None) -> Difference:
        parts = changed_parts(old.provenance.parts, new.provenance.parts) if new.provenance.parts else []
        return cls(name, arch, old, new, tuple(values(old.values, new.values)), tuple(parts), files)

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs, as far as it was compared."""
        return not self.values and (self.files is None or not (self.files.changes or self.files.packages))


def values(old: Mapping[tuple[Group, str], str], new: Mapping[tuple[Group, str], str]) -> Iterator[ValueChange]:
    """By group, in the order of the groups, then by key."""
    order = list(Group)
    for group, key in sorted({*old, *new}, key=lambda one: (order.index(one[0]), one[1])):
        before, after = old.get((group, key)), new.get((group, key))
        if before != after:
            yield ValueChange(group, key, before, after)


def packages(old: Iterable[Package], new: Iterable[Package]) -> Iterator[PackageChange]:
    """By manager, name and architecture."""
    before, after = _versions(old), _versions(new)
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            yield PackageChange(*key, before.get(key), after.get(key))


def files(old: Iterator[Entry], new: Iterator[Entry], *, times: bool = False) -> Iterator[FileChange]:
    """Both listings are in the order of Entry.order, and are read once, side by side: nothing but what differs is kept.
    ``times``: whether the times of files count, as they do for the image's bytes.
    """
    before, after = next(old, None), next(new, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before.order < after.order):
            yield FileChange(before, None)
            before = next(old, None)
        elif before is None or after.order < before.order:
            yield FileChange(None, after)
            after = next(new, None)
        else:
            if fields := differing(before, after, times=times):
                yield FileChange(before, after, fields)
            before, after = next(old, None), next(new, None)


def differing(before: Entry, after: Entry, *, times: bool = False) -> tuple[str, ...]:
    """The names of the fields that differ. Where the type does, the others mean something else."""
    if before.type is not after.type:
        return ("type",)
    names: Sequence[str] = ("mode", "uid", "gid", "size", "device", "sha256", "target", "attributes")
    names = (*names, "time") if times and None not in (before.time, after.time) else names
    return tuple(name for name in names if getattr(before, name) != getattr(after, name))


def _versions(found: Iterable[Package]) -> dict[tuple[str, str, str], str]:
    versions: dict[tuple[str, str, str], list[str]] = {}
    for package in found:
        key = (package.manager, package.name, package.architecture)
        versions.setdefault(key, []).append(package.version)
    return {key: ", ".join(sorted(each)) for key, each in versions.items()}


def _group(key: str) -> tuple[Group, str]:
    for prefix, group in (
        (ENVIRONMENT, Group.ENVIRONMENT),
        (LABEL, Group.LABEL),
        (OCI, Group.CONFIGURATION),
        (PREFIX, Group.PROVENANCE),
    ):
        if key.startswith(prefix):
            return group, key.removeprefix(prefix)
    return Group.PROPERTY, key


def _change(before: object | None, after: object | None) -> Change:
    if before is None:
        return Change.ADDED
    return Change.REMOVED if after is None else Change.CHANGED
