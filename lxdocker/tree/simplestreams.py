"""The simplestreams documents LXD reads: a pure model, no files.

Shapes as in LXD's shared/simplestreams (products.go, index.go). One product per image and architecture, split
images only: LXD takes ``lxd.tar.xz``, Incus the same file listed as ``incus.tar.xz``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lxdocker.values import Arch, Fingerprint, ImageName

IMAGES_PATH = "streams/v1/images.json"
INDEX_PATH = "streams/v1/index.json"
METADATA_FILE = "lxd.tar.xz"
ROOTFS_FILE = "rootfs.squashfs"
_VERSION_FORMAT = "%Y%m%d_%H%M"
_VERSION_KEY = re.compile("[0-9]{8}_[0-9]{4}")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a version as listed."""

    path: str  # relative to the tree
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class DeltaFile:
    """The rootfs as a difference from an older version's, for clients that have that and xdelta3."""

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
    """An image for one architecture."""

    name: ImageName
    arch: Arch
    aliases: tuple[str, ...]
    title: str
    release: str
    versions: tuple[Version, ...]

    @property
    def key(self) -> str:
        return f"{self.name}:{self.release}:default:{self.arch.debian}"

    def document(self) -> dict[str, Any]:
        """os, release and variant are always there: LXD's sort misbehaves when some products lack one."""
        return {
            "aliases": ",".join(self.aliases),
            "arch": self.arch.debian,
            "os": self.name.value,
            "release": self.release,
            "release_title": self.title,
            "variant": "default",
            "requirements": {},
            "versions": {version.key: {"items": version.items()} for version in self.versions},
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


def next_version_key(existing: Iterable[str], now: datetime) -> str:
    """A key for a version published ``now``, higher than every existing one; minutes are all the format has."""
    newest = max(existing, default="")
    key = now.astimezone(UTC).strftime(_VERSION_FORMAT)
    if key > newest:
        return key
    return (version_time(newest) + timedelta(minutes=1)).strftime(_VERSION_FORMAT)


def is_version_key(text: str) -> bool:
    """Whether LXD would read ``text`` as a version."""
    if not _VERSION_KEY.fullmatch(text):
        return False
    try:
        version_time(text)
    except ValueError:
        return False
    return True


def version_time(key: str) -> datetime:
    """When a version with this key was published."""
    return datetime.fromisoformat(key).replace(tzinfo=UTC)  # several times faster than strptime()


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
