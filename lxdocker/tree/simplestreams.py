"""The simplestreams documents that LXD reads, as values: nothing is read or written here.

Shapes as in LXD's shared/simplestreams (products.go, index.go). One product per image and architecture, split
images only: LXD takes ``lxd.tar.xz``, Incus the same file listed as ``incus.tar.xz``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lxdocker.values import Arch, Fingerprint, ImageName

IMAGES_PATH = "streams/v1/images.json"
INDEX_PATH = "streams/v1/index.json"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a version."""

    path: str  # relative to the tree
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class DeltaFile:
    """The rootfs as a difference from an older version's, for clients that have that version and xdelta3."""

    base: str  # the older version's key
    file: File


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a product: the two halves of a split image."""

    key: str  # YYYYMMDD_HHMM; the highest is the newest
    metadata: File
    rootfs: File
    fingerprint: Fingerprint
    deltas: tuple[DeltaFile, ...] = ()
    label: str = ""  # the version of the application

    def document(self) -> dict[str, Any]:
        return {**({"label": self.label} if self.label else {}), "items": self.items()}

    def items(self) -> dict[str, Any]:
        """The version's ``items`` as LXD and Incus read them."""

        def metadata(ftype: str) -> dict[str, Any]:
            return {
                "ftype": ftype,
                "path": self.metadata.path,
                "size": self.metadata.size,
                "sha256": self.metadata.sha256,
                "combined_squashfs_sha256": self.fingerprint.value,
            }

        rootfs = {
            "ftype": "squashfs",
            "path": self.rootfs.path,
            "size": self.rootfs.size,
            "sha256": self.rootfs.sha256,
        }
        return {
            "lxd.tar.xz": metadata("lxd.tar.xz"),
            "incus.tar.xz": metadata("incus.tar.xz"),
            "root.squashfs": rootfs,
            **{
                f"root.{delta.base}.vcdiff": {
                    "ftype": "squashfs.vcdiff",
                    "path": delta.file.path,
                    "size": delta.file.size,
                    "sha256": delta.file.sha256,
                    "delta_base": delta.base,
                }
                for delta in self.deltas
            },
        }


@dataclass(frozen=True, slots=True)
class Product:
    """An image for one architecture.

    Lists of images describe a version as "NAME TITLE (LABEL)" (LXD since 6.8), or as "NAME TITLE ARCH (LABEL) (KEY)"
    (LXD before, and Incus).
    """

    name: ImageName
    arch: Arch
    aliases: tuple[str, ...]
    title: str
    release: str  # not empty
    versions: tuple[Version, ...]

    @property
    def key(self) -> str:
        """A mere identifier: clients look for aliases."""
        return f"{self.name}:current:default:{self.arch.debian}"

    def document(self) -> dict[str, Any]:
        """LXD sorts products by os, release and variant, and misbehaves if only some of them have one of these. So all
        have os and release, and none has a variant, which LXD since 6.8 would show in every description.
        """
        return {
            "aliases": ",".join(self.aliases),
            "arch": self.arch.debian,
            "os": self.name.value,
            "release": self.release,
            "release_title": self.title,
            "requirements": {},
            "versions": {version.key: version.document() for version in self.versions},
        }


def images_document(products: Iterable[Product], updated: datetime) -> dict[str, Any]:
    """images.json."""
    return {
        "content_id": "images",
        "datatype": "image-downloads",
        "format": "products:1.0",
        "updated": _timestamp(updated),
        "products": {product.key: product.document() for product in products},
    }


def index_document(products: Iterable[Product], updated: datetime) -> dict[str, Any]:
    """index.json. Clients ignore an entry without products, so an empty tree has no entry."""
    keys = [product.key for product in products]
    entry: Mapping[str, Any] = {
        "datatype": "image-downloads",
        "format": "products:1.0",
        "path": IMAGES_PATH,
        "products": keys,
        "updated": _timestamp(updated),
    }
    return {
        "format": "index:1.0",
        "updated": _timestamp(updated),
        "index": {"images": entry} if keys else {},
    }


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
