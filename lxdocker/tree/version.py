"""What the tree records of a version, in its own folder and in its product's: the sidecar, and what is withheld.

Read from a disk, or from another server, so hostile until parsed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxdocker import simplestreams
from lxdocker.provenance import Provenance
from lxdocker.simplestreams import METADATA_FILE, ROOTFS_FILE, DeltaFile, File, Version
from lxdocker.values import Arch, Fingerprint, ImageName

IMAGES = "images"  # in it: NAME/ARCHITECTURE/VERSION/
SIDECAR = "lxdocker.json"
WITHDRAWN = "withdrawn"
WITHHELD = "withheld.json"


@dataclass(frozen=True, slots=True)
class Delta:
    """What turns an older version's rootfs.squashfs into this one's: a VCDIFF file beside it."""

    base: str  # the older version's key
    size: int  # bytes
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.base}.vcdiff"


@dataclass(frozen=True, slots=True)
class Withheld:
    """A version that was rolled back. What was made from the same inputs is not published again."""

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
    properties: Mapping[str, str]  # the image's own, for the catalogue page
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
    def size(self) -> int:
        """Bytes a client downloads."""
        return self.metadata_size + self.rootfs_size

    def is_whole(self) -> bool:
        """Whether both files are there with their sizes (hashes are not read: that is what clients do)."""
        # Without Path's own ways: they take several times as long, and a tree may have thousands of versions.
        return (
            _size(f"{self.folder}/{METADATA_FILE}") == self.metadata_size
            and _size(f"{self.folder}/{ROOTFS_FILE}") == self.rootfs_size
        )

    def files(self) -> tuple[File, ...]:
        """All that was published with it; paths relative to its folder."""
        return (
            File(METADATA_FILE, self.metadata_size, self.metadata_sha256),
            File(ROOTFS_FILE, self.rootfs_size, self.rootfs_sha256),
            *(File(delta.file, delta.size, delta.sha256) for delta in self.deltas),
        )

    def version(self, bases: Collection[str] = ()) -> Version:
        """As the index lists it, with deltas from those versions that are listed, too."""
        relative = f"{IMAGES}/{self.name}/{self.arch.value}/{self.key}"
        return Version(
            key=self.key,
            metadata=File(f"{relative}/{METADATA_FILE}", self.metadata_size, self.metadata_sha256),
            rootfs=File(f"{relative}/{ROOTFS_FILE}", self.rootfs_size, self.rootfs_sha256),
            fingerprint=self.fingerprint,
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
            {"deltas": {one.base: {"size": one.size, "sha256": one.sha256} for one in published.deltas}}
            if published.deltas
            else {}
        ),
    }


def read_sidecar(path: Path) -> Published | None:
    """What lies in a folder, as if it were listed. None if lxdocker did not write it: such are left alone."""
    try:
        return parse_sidecar(path.parent, path.read_bytes())
    except OSError:
        return None


def parse_sidecar(folder: Path, text: bytes) -> Published | None:
    """A version in ``folder`` from its sidecar; None if that is not one."""
    try:
        document = json.loads(text)
        provenance = Provenance.from_properties(document["provenance"])
        if provenance is None or not simplestreams.is_version_key(folder.name):
            return None
        if (folder.parent.parent.name, folder.parent.name) != (provenance.name.value, document["arch"]):
            return None  # a copy of another one
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
                if simplestreams.is_version_key(base)  # it becomes a file's name
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def read_withheld(product: Path) -> list[Withheld]:
    """What was rolled back of the product in this folder."""
    try:
        document = json.loads((product / WITHHELD).read_bytes())
        found = []
        for key, one in sorted(document["withheld"].items()):
            provenance = Provenance.from_properties(one["provenance"])
            if not simplestreams.is_version_key(key):
                continue
            if provenance is not None and provenance.name.value == product.parent.name:
                fingerprint = Fingerprint.parse(one["fingerprint"])
                found.append(Withheld(key, fingerprint, provenance, Arch(product.name), float(one["since"])))
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def withheld_document(withheld: Iterable[Withheld]) -> dict[str, Any]:
    return {
        "withheld": {
            one.key: {
                "fingerprint": one.fingerprint.value,
                "provenance": one.provenance.to_properties(),
                "since": one.since,
            }
            for one in withheld
        }
    }


def _size(path: str) -> int | None:
    """A file's size in bytes; None if there is no such file."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - Path's own way takes several times as long
    except OSError:
        return None
