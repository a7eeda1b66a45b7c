"""The records of a version: the sidecar in its own folder, and the list of withheld versions in its product's.

They are read from a disk or another server, so they are hostile until parsed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lxdocker.image import version_key
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE
from lxdocker.image.provenance import Provenance
from lxdocker.tree.simplestreams import DeltaFile, File, Version
from lxdocker.values import Arch, Fingerprint, ImageName

IMAGES = "images"  # contains NAME/ARCHITECTURE/VERSION/
SIDECAR = "lxdocker.json"
WITHDRAWN = "withdrawn"
WITHHELD = "withheld.json"
OCI_LABEL = "oci.label.org.opencontainers.image"  # the prefix of the image's labels among its properties
MOST_IN_LABEL = 40  # characters; a longer text is not a version


@dataclass(frozen=True, slots=True)
class Delta:
    """A VCDIFF file that turns an older version's rootfs.squashfs into this one's."""

    base: str  # the older version's key
    size: int  # bytes
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.base}.vcdiff"


@dataclass(frozen=True, slots=True)
class Withheld:
    """A version that was rolled back. An image made from the same inputs is not published again."""

    key: str
    fingerprint: Fingerprint
    provenance: Provenance
    arch: Arch
    since: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Published:
    """A version in the tree, listed or withdrawn."""

    folder: Path
    provenance: Provenance
    arch: Arch
    key: str
    fingerprint: Fingerprint
    aliases: tuple[str, ...]
    properties: Mapping[str, str]  # of the image, for the catalogue page
    metadata_size: int  # bytes
    metadata_sha256: str
    rootfs_size: int
    rootfs_sha256: str
    withdrawn: float | None  # when it left the index, seconds since the epoch
    deltas: tuple[Delta, ...] = ()

    @property
    def name(self) -> ImageName:
        return self.provenance.name

    @property
    def product(self) -> tuple[ImageName, Arch]:
        """Name and architecture, which it is a version of."""
        return self.name, self.arch

    @property
    def size(self) -> int:
        """Bytes a client downloads."""
        return self.metadata_size + self.rootfs_size

    @property
    def description(self) -> str:
        """The spec's description, on one line; empty if it has none."""
        said = self.properties.get("description", "")
        return "" if said.endswith(f"({self.provenance.source})") else " ".join(said.split())

    @property
    def label(self) -> str:
        """The application's version: the one that the image states, else the beginning of its digest."""
        version = self.properties.get(f"{OCI_LABEL}.version", "").strip()
        # Ubuntu's images also state their name; an image built on one inherits both labels.
        of = self.properties.get(f"{OCI_LABEL}.ref.name", "").partition(":")[0].rpartition("/")[2]
        its_own = not of or of == self.provenance.repository
        if its_own and version.isprintable() and 0 < len(version) <= MOST_IN_LABEL:
            return version
        return self.provenance.source_digest.short

    def is_whole(self) -> bool:
        """Whether both files have the right size. Hashes are left to clients and to ``publish verify``."""
        # Without pathlib, which takes several times as long: a tree may have thousands of versions.
        return (
            _size(f"{self.folder}/{METADATA_FILE}") == self.metadata_size
            and _size(f"{self.folder}/{ROOTFS_FILE}") == self.rootfs_size
        )

    def is_listed(self) -> bool:
        """Whether it belongs in the index."""
        return self.withdrawn is None and self.is_whole()

    def files(self) -> tuple[File, ...]:
        """All of its files; paths are relative to its folder."""
        return (
            File(METADATA_FILE, self.metadata_size, self.metadata_sha256),
            File(ROOTFS_FILE, self.rootfs_size, self.rootfs_sha256),
            *(File(delta.file, delta.size, delta.sha256) for delta in self.deltas),
        )

    def version(self, bases: Collection[str] = ()) -> Version:
        """Its entry in the index, with the deltas whose base is in ``bases``, the versions that are listed too."""
        relative = f"{IMAGES}/{self.name}/{self.arch.value}/{self.key}"
        return Version(
            key=self.key,
            metadata=File(f"{relative}/{METADATA_FILE}", self.metadata_size, self.metadata_sha256),
            rootfs=File(f"{relative}/{ROOTFS_FILE}", self.rootfs_size, self.rootfs_sha256),
            fingerprint=self.fingerprint,
            label=self.label,
            deltas=tuple(
                DeltaFile(delta.base, File(f"{relative}/{delta.file}", delta.size, delta.sha256))
                for delta in self.deltas
                if delta.base in bases and _size(f"{self.folder}/{delta.file}") == delta.size
            ),
        )


def sidecar_document(published: Published) -> dict[str, Any]:
    return {
        "provenance": published.provenance.to_properties(),
        "arch": published.arch.value,
        "fingerprint": published.fingerprint.value,
        "aliases": list(published.aliases),
        "properties": dict(published.properties),
        "files": {
            METADATA_FILE: {"size": published.metadata_size, "sha256": published.metadata_sha256},
            ROOTFS_FILE: {"size": published.rootfs_size, "sha256": published.rootfs_sha256},
        },
        **(
            {"deltas": {delta.base: {"size": delta.size, "sha256": delta.sha256} for delta in published.deltas}}
            if published.deltas
            else {}
        ),
    }


def read_sidecar(path: Path) -> Published | None:
    """The version in a folder, as if it were listed. None if lxdocker did not write it."""
    try:
        return parse_sidecar(path.parent, path.read_bytes())
    except OSError:
        return None


def parse_sidecar(folder: Path, text: bytes) -> Published | None:
    """The version in ``folder`` from the text of its sidecar; None if that is invalid."""
    try:
        document = json.loads(text)
        provenance = Provenance.from_properties(document["provenance"])
        if provenance is None or not version_key.is_version_key(folder.name):
            return None
        if (folder.parent.parent.name, folder.parent.name) != (provenance.name.value, document["arch"]):
            return None  # a copy of another product's version
        files = document["files"]
        return Published(
            folder=folder,
            provenance=provenance,
            arch=Arch(document["arch"]),
            key=folder.name,
            fingerprint=Fingerprint.parse(document["fingerprint"]),
            aliases=tuple(map(str, document["aliases"])),
            properties={str(key): str(value) for key, value in document.get("properties", {}).items()},
            metadata_size=int(files[METADATA_FILE]["size"]),
            metadata_sha256=str(files[METADATA_FILE]["sha256"]),
            rootfs_size=int(files[ROOTFS_FILE]["size"]),
            rootfs_sha256=str(files[ROOTFS_FILE]["sha256"]),
            withdrawn=None,
            deltas=tuple(
                Delta(base, int(delta["size"]), str(delta["sha256"]))
                for base, delta in sorted(document.get("deltas", {}).items())
                if version_key.is_version_key(base)  # it becomes a file name
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def read_withheld(product: Path) -> list[Withheld]:
    """The rolled-back versions of the product in this folder; none if their list is invalid."""
    try:
        document = json.loads((product / WITHHELD).read_bytes())
        found = []
        for key, entry in sorted(document["withheld"].items()):
            provenance = Provenance.from_properties(entry["provenance"])
            if not version_key.is_version_key(key):
                continue
            if provenance is not None and provenance.name.value == product.parent.name:
                fingerprint, since = Fingerprint.parse(entry["fingerprint"]), float(entry["since"])
                datetime.fromtimestamp(since, UTC)  # a time that can be shown
                found.append(Withheld(key, fingerprint, provenance, Arch(product.name), since))
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return []


def withheld_document(withheld: Iterable[Withheld]) -> dict[str, Any]:
    return {
        "withheld": {
            version.key: {
                "fingerprint": version.fingerprint.value,
                "provenance": version.provenance.to_properties(),
                "since": version.since,
            }
            for version in withheld
        }
    }


def _size(path: str) -> int | None:
    """A file's size in bytes; None if there is no such file."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - pathlib takes several times as long
    except OSError:
        return None
